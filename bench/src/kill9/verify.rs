//! After a restart: reads every key of every lane, and holds it against its history.

use super::history::{Change, Lifetime, Look, Millis, Operation, Pair, Stored, Verdict, check};
use super::lane::{Lane, bulk, is_number, key_name, now_ms};
use super::value::Value;
use crate::client::{Address, Client, write_request};
use crate::error::Error;
use crate::under_test::connect;
use clap::ValueEnum;
use serde_json::{Value as Json, json};

/// What a server says of an acknowledged write.
#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
pub enum Promise {
    /// It is kept.
    Always,
    /// It is kept if it was acknowledged --grace-ms before the kill.
    Everysec,
}

/// What is expected of all keys.
#[derive(Clone, Copy)]
pub struct Expected {
    pub promise: Promise,
    pub grace_ms: Millis,
    /// One log: what survives of a connection is a prefix over all its keys.
    pub ordered: bool,
    /// Just before the kill, and when the server was gone.
    pub killed: Millis,
    pub ended: Millis,
}

/// Something that should not be.
#[derive(Clone, Debug)]
pub struct Violation {
    pub round: u64,
    /// The key's or the database's name.
    pub name: String,
    pub text: String,
    /// Its last operations.
    pub history: Vec<String>,
}

impl Violation {
    pub fn json(&self) -> Json {
        json!({ "round": self.round, "name": self.name, "text": self.text, "history": self.history })
    }
}

/// Keys are read in groups of so many, in both databases.
const GROUP: usize = 32;
/// Operations that a violation is shown with, before and after the place.
const SHOWN: usize = 8;
/// How much of a value is shown.
const HEAD_BYTES: usize = 16;

/// A key as it was read.
struct Seen {
    look: Look,
    heads: [String; 2],
}

/// Reads and judges the keys of all lanes, which go on from what was found. Violations are given in order; of each lane only
/// `shown` have their history.
pub fn verify(
    lanes: &mut [Lane],
    address: &Address,
    expected: &Expected,
    round: u64,
    shown: usize,
) -> Result<Vec<Violation>, Error> {
    let mut client = connect(address)?;
    let seen: Vec<Vec<Seen>> = lanes.iter().map(|lane| read(&mut client, lane)).collect::<Result<_, _>>()?;
    let mut violations = check_sizes(&mut client, lanes, &seen, round)?;
    let mut reads: Vec<Vec<Vec<(u8, Value)>>> = lanes.iter().map(|lane| vec![Vec::new(); lane.keys.len()]).collect();
    if expected.promise == Promise::Always {
        for read in lanes.iter().flat_map(|lane| &lane.reads) {
            reads[read.lane][read.key].push((read.side, read.value));
        }
    }
    for ((lane, seen), reads) in lanes.iter().zip(&seen).zip(&reads) {
        judge(lane, seen, reads, expected, round, shown, &mut violations);
    }
    for (lane, seen) in lanes.iter_mut().zip(&seen) {
        lane.forget(seen.iter().map(|seen| seen.look.pair));
    }
    Ok(violations)
}

fn judge(
    lane: &Lane,
    seen: &[Seen],
    reads: &[Vec<(u8, Value)>],
    expected: &Expected,
    round: u64,
    shown: usize,
    violations: &mut Vec<Violation>,
) {
    // Of the whole connection: the last operation that must have survived, the first that must be lost, and their keys.
    let mut survived: Option<(u32, usize)> = None;
    let mut lost: Option<(u32, usize)> = None;
    for (key, (seen, reads)) in seen.iter().zip(reads).enumerate() {
        let operations = lane.operations_of(key);
        let kept = |operation: &&Operation| match (expected.promise, operation.answered) {
            (_, None) => false,
            (Promise::Always, Some(_)) => true,
            (Promise::Everysec, Some(answered)) => answered + expected.grace_ms <= expected.killed,
        };
        let required = operations.iter().take_while(kept).count();
        let verdict = check(lane.keys[key].base, &operations, required, reads, &seen.look, expected.ended);
        let (text, place) = match verdict {
            Verdict::Explained { first, last } => {
                let before = first.checked_sub(1).map(|place| (operations[place].sequence, key));
                let after = operations.get(last).map(|operation| (operation.sequence, key));
                survived = survived.max(before);
                lost = [lost, after].into_iter().flatten().min();
                continue;
            }
            Verdict::Lost { last, required } => {
                let ago = |operation: &Operation| match operation.answered {
                    Some(answered) => format!("{} ms before the kill", expected.killed.saturating_sub(answered)),
                    None => "never, but its value was read".to_string(),
                };
                let count = required - last;
                let when = ago(&operations[last]);
                (format!("lost {count} acknowledged operations, the first acknowledged {when}"), last)
            }
            Verdict::Wrong => ("is nothing that its operations explain".to_string(), required),
            Verdict::WrongReply { operation } => {
                (format!("no state explains the answer to operation {}", operations[operation].sequence), operation)
            }
            Verdict::WrongRead => ("was read with a value that nobody wrote".to_string(), required),
        };
        let mut history = Vec::new();
        if violations.len() < shown {
            history.push(format!("before: {}", pair_text(&lane.keys[key].base)));
            let from = place.saturating_sub(SHOWN);
            let until = operations.len().min(place + SHOWN);
            history.extend(operations[from..until].iter().map(|operation| operation_text(operation, expected.killed)));
            let [first, second] = &seen.heads;
            history.push(format!("found: {}; values begin {first:?} and {second:?}", pair_text(&seen.look.pair)));
        }
        violations.push(Violation { round, name: key_name(lane.index, key), text, history });
    }
    if let (true, Some(survived), Some(lost)) = (expected.ordered, survived, lost)
        && survived.0 >= lost.0
    {
        let text = format!(
            "operation {} of {} survived, and the earlier operation {} did not",
            survived.0,
            key_name(lane.index, survived.1),
            lost.0
        );
        violations.push(Violation { round, name: key_name(lane.index, lost.1), text, history: Vec::new() });
    }
}

/// No database has more keys than were found, and some that may have expired and not been removed yet.
fn check_sizes(client: &mut Client, lanes: &[Lane], seen: &[Vec<Seen>], round: u64) -> Result<Vec<Violation>, Error> {
    let mut most = std::collections::BTreeMap::new();
    for (lane, seen) in lanes.iter().zip(seen) {
        for (side, &database) in lane.databases.iter().enumerate() {
            let count =
                seen.iter().enumerate().filter(|(key, seen)| seen.look.pair[side].is_some() || expires(lane, *key));
            *most.entry(database).or_insert(0) += count.count() as u64;
        }
    }
    let mut violations = Vec::new();
    for (database, most) in most {
        client.call(&[b"SELECT", database.to_string().as_bytes()])?;
        let count = client.integer(&[b"DBSIZE"])?;
        if count > most {
            let (name, text) =
                (format!("database {database}"), format!("has {count} keys, and {most} at most are known"));
            violations.push(Violation { round, name, text, history: Vec::new() });
        }
    }
    Ok(violations)
}

/// Whether a key may ever have had a time to live.
fn expires(lane: &Lane, key: usize) -> bool {
    let history = &lane.keys[key];
    let gives_time = |change: &Change| match change {
        Change::Set(_, lifetime) | Change::Expire(lifetime) => matches!(lifetime, Lifetime::In(_) | Lifetime::At(_)),
        _ => false,
    };
    history.base.iter().flatten().any(|stored| stored.deadline.is_some())
        || history.operations.iter().any(|operation| gives_time(&operation.change))
}

fn read(client: &mut Client, lane: &Lane) -> Result<Vec<Seen>, Error> {
    let keys: Vec<usize> = (0..lane.keys.len()).collect();
    let mut all = Vec::with_capacity(keys.len());
    for group in keys.chunks(GROUP) {
        let from = now_ms();
        let first = read_side(client, lane, group, 0)?;
        let second = read_side(client, lane, group, 1)?;
        let until = now_ms();
        all.extend(first.into_iter().zip(second).map(|((first, first_head), (second, second_head))| Seen {
            look: Look { pair: [first, second], from, until },
            heads: [first_head, second_head],
        }));
    }
    Ok(all)
}

/// What is under the names in one database, and how the values begin.
fn read_side(
    client: &mut Client,
    lane: &Lane,
    keys: &[usize],
    side: usize,
) -> Result<Vec<(Option<Stored>, String)>, Error> {
    client.call(&[b"SELECT", lane.databases[side].to_string().as_bytes()])?;
    let mut requests = Vec::new();
    for &key in keys {
        let name = key_name(lane.index, key);
        write_request(&mut requests, &[b"GET", name.as_bytes()]);
        write_request(&mut requests, &[b"PEXPIRETIME", name.as_bytes()]);
    }
    client.send(&requests)?;
    let (mut replies, mut wrong) = (Vec::new(), None);
    client.replies(2 * keys.len(), |reply| {
        let key = keys[replies.len() / 2];
        let time = std::str::from_utf8(reply).ok().and_then(|text| text.strip_prefix(':')?.trim().parse::<i64>().ok());
        match (reply.first(), time) {
            (Some(b'$' | b'_'), _) => {
                let value = bulk(reply).map(|text| {
                    let head = text[..text.len().min(HEAD_BYTES)].escape_ascii().to_string();
                    (Value::read(text, is_number(key)), head)
                });
                replies.push((value, None));
            }
            (_, Some(time)) => replies.push((None, Some(time))),
            _ => {
                replies.push((None, None));
                wrong.get_or_insert(reply.to_vec());
            }
        }
    })?;
    if let Some(reply) = wrong {
        return Err(client.wrong("a string or a time".to_string(), &reply));
    }
    let found = replies.chunks_exact(2).map(|pair| match (&pair[0].0, pair[1].1) {
        (Some((value, head)), Some(-1)) => (Some(Stored { value: *value, deadline: None }), head.clone()),
        (Some((value, head)), Some(at @ 0..)) => {
            (Some(Stored { value: *value, deadline: Some((at as Millis, at as Millis)) }), head.clone())
        }
        // It was not there, or not any more.
        _ => (None, String::new()),
    });
    Ok(found.collect())
}

fn pair_text(pair: &Pair) -> String {
    let one = |stored: &Option<Stored>| match stored {
        None => "nothing".to_string(),
        Some(stored) => {
            let time = stored.deadline.map_or(String::new(), |(at, _)| format!(", until {at}"));
            format!("{}{time}", value_text(&stored.value))
        }
    };
    format!("{} | {}", one(&pair[0]), one(&pair[1]))
}

fn value_text(value: &Value) -> String {
    match value {
        Value::Text(text) => format!("{} B", text.bytes),
        Value::Number(number) => number.to_string(),
    }
}

fn operation_text(operation: &Operation, killed: Millis) -> String {
    let Operation { sequence, side, change, .. } = operation;
    let change = match change {
        Change::Set(value, lifetime) => format!("SET {} {lifetime:?}", value_text(value)),
        Change::Append(tail) => format!("APPEND {} B", tail.bytes),
        Change::Add(by) => format!("INCRBY {by}"),
        Change::Delete => "DEL".to_string(),
        Change::Expire(lifetime) => format!("PEXPIRE {lifetime:?}"),
        Change::Persist => "PERSIST".to_string(),
        Change::Flush => "FLUSHDB".to_string(),
        Change::Swap => "SWAPDB".to_string(),
        Change::Nothing => "refused".to_string(),
    };
    let ago = |moment: Millis| killed as i64 - moment as i64;
    let answer = match (operation.answered, operation.reply) {
        (None, _) => "not acknowledged".to_string(),
        (Some(moment), None) => format!("acknowledged {} ms before the kill", ago(moment)),
        (Some(moment), Some(reply)) => format!("answered {reply} {} ms before the kill", ago(moment)),
    };
    format!("{sequence} @{side} {change}: sent {} ms before the kill, {answer}", ago(operation.sent))
}

#[cfg(test)]
mod tests {
    use super::super::lane::Lane;
    use super::super::value::Digest;
    use super::*;

    const NOW: Millis = 1_000_000;

    /// Two keys with one SET each, acknowledged 30 and 10 ms before the kill; which of them is found.
    fn found(first: bool, second: bool, promise: Promise, grace_ms: Millis, ordered: bool) -> Vec<Violation> {
        let value = Value::Text(Digest::of(b"x"));
        let mut lane = Lane::new(0, ([0, 1], true), 2, 1);
        for (key, answered) in [(0, NOW - 30), (1, NOW - 10)] {
            let change = Change::Set(value, Lifetime::Forever);
            let (sequence, answered, sent) = (key as u32, Some(answered), NOW - 40);
            lane.keys[key].operations.push(Operation { sequence, side: 0, change, sent, answered, reply: None });
        }
        let seen = [first, second].map(|there| Seen {
            look: Look { pair: [there.then_some(Stored { value, deadline: None }), None], from: NOW, until: NOW },
            heads: Default::default(),
        });
        let expected = Expected { promise, grace_ms, ordered, killed: NOW, ended: NOW + 1 };
        let mut violations = Vec::new();
        judge(&lane, &seen, &[Vec::new(), Vec::new()], &expected, 1, 10, &mut violations);
        violations
    }

    #[test]
    fn what_is_promised_depends_on_when_it_was_acknowledged() {
        let names = |violations: Vec<Violation>| violations.into_iter().map(|v| v.name).collect::<Vec<_>>();
        assert_eq!(names(found(true, true, Promise::Always, 0, true)), [""; 0]);
        assert_eq!(names(found(true, false, Promise::Always, 0, false)), ["k0:1"]);
        assert_eq!(names(found(false, false, Promise::Everysec, 50, false)), [""; 0]);
        assert_eq!(names(found(false, false, Promise::Everysec, 20, false)), ["k0:0"]);
        assert_eq!(names(found(false, false, Promise::Everysec, 10, false)), ["k0:0", "k0:1"]);
    }

    #[test]
    fn one_log_keeps_the_order_of_a_connection() {
        assert_eq!(found(false, true, Promise::Everysec, 50, false).len(), 0);
        let violations = found(false, true, Promise::Everysec, 50, true);
        assert_eq!((violations.len(), &violations[0].name[..]), (1, "k0:0"));
        assert!(found(true, false, Promise::Everysec, 50, true).is_empty());
    }

    #[test]
    fn a_loss_is_told_with_its_history() {
        let violations = found(true, false, Promise::Always, 0, false);
        assert!(violations[0].text.contains("acknowledged 10 ms before the kill"), "{}", violations[0].text);
        assert_eq!(violations[0].history.len(), 3);
        assert!(violations[0].history[1].contains("SET 1 B"), "{:?}", violations[0].history);
    }
}
