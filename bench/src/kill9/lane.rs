//! One connection's load: what it asks for, and what it remembers of that.
//!
//! Every lane has keys of its own, in two databases, so the order in which it sends is the order in which they change. As far
//! as there are databases they are its own too, and it flushes and swaps them; lanes beyond share the last two and do not.
//! FLUSHDB and SWAPDB concern all shards, and are sent when nothing else is under way: the order of what is pipelined is only
//! promised on each shard.
//!
//! A batch is writes, then a few GETs of keys of other lanes. What these return was seen, so it has to stay. They come last,
//! so that no server waits for their replies to be read while this side waits for it to read requests.

use super::history::{Change, Lifetime, Millis, Operation, Pair};
use super::value::{Digest, Pool, VALUE_BYTES_MAX, Value};
use crate::client::{Address, first_word, write_request};
use crate::error::Error;
use crate::random::Random;
use crate::under_test::connect;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// What a lane remembers of one kill to the next: operations, and values that it read from other lanes.
pub const OPERATIONS_MAX: usize = 250_000;
const READS_MAX: usize = 50_000;
/// A batch has no more commands once it has so many bytes.
const BATCH_BYTES_MAX: usize = 2 << 20;
/// One in so many batches is a FLUSHDB or SWAPDB.
const WHOLE_DATABASE: u64 = 300;
/// The first few keys of a lane are used more than the others, so that some histories are long.
const HOT_KEYS: u64 = 8;
/// Each so many-th key is a number.
const NUMBERS: usize = 8;
/// The last read replies are waited for in pauses of this, when nothing more may be remembered.
const PAUSE: Duration = Duration::from_millis(2);
const HOUR_MS: Millis = 3_600_000;

/// One key's name in both databases.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// As it was found after the last restart.
    pub base: Pair,
    pub operations: Vec<Operation>,
    /// About how long the values are.
    bytes: [u32; 2],
}

/// A value that another lane's key had.
#[derive(Clone, Copy, Debug)]
pub struct Read {
    pub lane: usize,
    pub key: usize,
    pub side: u8,
    pub value: Value,
}

pub struct Lane {
    pub index: usize,
    pub databases: [usize; 2],
    owns_databases: bool,
    pub keys: Vec<History>,
    /// FLUSHDB and SWAPDB: operations of all its keys.
    pub whole: Vec<Operation>,
    pub reads: Vec<Read>,
    pub acknowledged: u64,
    pub errors: BTreeMap<String, u64>,
    remembered: usize,
    sequence: u32,
    random: Random,
}

/// What all lanes know of each other and of the run.
pub struct Course<'a> {
    pub address: &'a Address,
    pub pool: &'a Pool,
    pub pipeline: usize,
    /// The databases of each lane.
    pub databases: &'a [[usize; 2]],
    pub keys_per_lane: usize,
    /// Set before the server is killed.
    pub killed: &'a AtomicBool,
}

/// What a reply will be about.
enum Awaited {
    Select,
    Whole(usize),
    /// Key and operation of each; whether an integer tells about the key.
    Keys(Vec<(usize, usize)>, bool),
    Read(usize, usize, u8),
}

/// What is sent at once.
#[derive(Default)]
struct Batch {
    requests: Vec<u8>,
    awaited: Vec<Awaited>,
    value: Vec<u8>,
}

pub fn key_name(lane: usize, key: usize) -> String {
    format!("k{lane}:{key}")
}

pub fn is_number(key: usize) -> bool {
    key % NUMBERS == NUMBERS - 1
}

pub fn now_ms() -> Millis {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as Millis
}

/// The databases of `count` lanes on a server that has so many, and whether they are each one's own.
pub fn share_databases(count: usize, databases: usize) -> Vec<([usize; 2], bool)> {
    let pairs = databases / 2;
    let of = |lane: usize| {
        let pair = lane.min(pairs - 1);
        ([2 * pair, 2 * pair + 1], count <= pairs || pair + 1 < pairs)
    };
    (0..count).map(of).collect()
}

impl Lane {
    pub fn new(index: usize, (databases, owns_databases): ([usize; 2], bool), keys: usize, seed: u64) -> Lane {
        Lane {
            index,
            databases,
            owns_databases,
            keys: vec![History::default(); keys],
            whole: Vec::new(),
            reads: Vec::new(),
            acknowledged: 0,
            errors: BTreeMap::new(),
            remembered: 0,
            sequence: 0,
            random: Random::new(seed),
        }
    }

    /// All operations of a key, with those of its whole databases, in order.
    pub fn operations_of(&self, key: usize) -> Vec<Operation> {
        let mut all = [&self.keys[key].operations[..], &self.whole[..]].concat();
        all.sort_by_key(|operation| operation.sequence);
        all
    }

    /// Begins anew with what was found.
    pub fn forget(&mut self, found: impl Iterator<Item = Pair>) {
        for (history, pair) in self.keys.iter_mut().zip(found) {
            history.base = pair;
            history.operations.clear();
        }
        self.whole.clear();
        self.reads.clear();
        self.remembered = 0;
    }

    /// Sends batch after batch until the server is gone. It is no error that it went after it was killed.
    pub fn run(&mut self, course: &Course<'_>) -> Result<(), Error> {
        match self.send(course) {
            Err(Error::Dead { .. } | Error::MissingReply { .. }) if course.killed.load(Ordering::SeqCst) => Ok(()),
            result => result,
        }
    }

    fn send(&mut self, course: &Course<'_>) -> Result<(), Error> {
        let mut client = connect(course.address)?;
        let timeout = Some(crate::under_test::REPLY_TIMEOUT);
        client.stream.set_write_timeout(timeout).map_err(Error::io("set a timeout"))?;
        let mut batch = Batch::default();
        let mut database = 0;
        while !course.killed.load(Ordering::SeqCst) {
            if self.remembered >= OPERATIONS_MAX {
                std::thread::sleep(PAUSE);
                continue;
            }
            batch.requests.clear();
            batch.awaited.clear();
            self.fill(course, &mut batch, &mut database);
            client.send(&batch.requests)?;
            let (mut awaited, mut wrong) = (batch.awaited.iter(), None);
            let count = batch.awaited.len();
            client.replies(count, |reply| {
                let awaited = awaited.next().expect("as many as there are replies");
                if !self.take(awaited, reply) && wrong.is_none() {
                    wrong = Some(reply.to_vec());
                }
            })?;
            if let Some(reply) = wrong {
                return Err(client.wrong("the kind of reply that the command has".to_string(), &reply));
            }
        }
        Ok(())
    }

    /// Notes a reply. False if it cannot be one.
    fn take(&mut self, awaited: &Awaited, reply: &[u8]) -> bool {
        let refused = reply.starts_with(b"-");
        if refused {
            *self.errors.entry(first_word(reply)).or_insert(0) += 1;
        }
        let is_ok = reply == b"+OK\r\n";
        let number =
            std::str::from_utf8(reply).ok().and_then(|text| text.strip_prefix(':')?.trim().parse::<i64>().ok());
        let now = now_ms();
        let note = |operation: &mut Operation, reply: Option<i64>| {
            operation.answered = Some(now);
            operation.reply = reply;
            if refused {
                operation.change = Change::Nothing;
            }
        };
        match awaited {
            Awaited::Select => return is_ok,
            Awaited::Read(lane, key, side) => {
                if let Some(text) = bulk(reply)
                    && self.reads.len() < READS_MAX
                {
                    let value = Value::read(text, is_number(*key));
                    self.reads.push(Read { lane: *lane, key: *key, side: *side, value });
                }
                return refused || reply.starts_with(b"$");
            }
            Awaited::Whole(operation) => note(&mut self.whole[*operation], None),
            Awaited::Keys(operations, tells) => {
                for &(key, operation) in operations {
                    note(&mut self.keys[key].operations[operation], number.filter(|_| *tells));
                }
            }
        }
        self.acknowledged += u64::from(!refused);
        refused || is_ok || number.is_some()
    }

    fn fill(&mut self, course: &Course<'_>, batch: &mut Batch, database: &mut usize) {
        if self.owns_databases && self.random.below(WHOLE_DATABASE) == 0 {
            return self.add_whole(batch, database);
        }
        let count = 1 + self.random.below(course.pipeline as u64);
        for _ in 0..count {
            let side = u8::from(self.random.below(10) < 3);
            self.select(batch, database, self.databases[usize::from(side)]);
            self.add_write(course, batch, side);
            if batch.requests.len() >= BATCH_BYTES_MAX {
                break;
            }
        }
        for _ in 0..self.random.below(3) {
            let lane = self.random.below(course.databases.len() as u64) as usize;
            let key = pick(&mut self.random, course.keys_per_lane);
            let side = u8::from(self.random.below(10) < 3);
            self.select(batch, database, course.databases[lane][usize::from(side)]);
            write_request(&mut batch.requests, &[b"GET", key_name(lane, key).as_bytes()]);
            batch.awaited.push(Awaited::Read(lane, key, side));
        }
    }

    fn select(&self, batch: &mut Batch, database: &mut usize, wanted: usize) {
        if *database != wanted {
            write_request(&mut batch.requests, &[b"SELECT", wanted.to_string().as_bytes()]);
            batch.awaited.push(Awaited::Select);
            *database = wanted;
        }
    }

    fn add_whole(&mut self, batch: &mut Batch, database: &mut usize) {
        let side = self.random.below(2) as u8;
        let change = if self.random.below(3) == 0 {
            self.select(batch, database, self.databases[usize::from(side)]);
            let words: [&[u8]; 2] = [b"FLUSHDB", b"ASYNC"];
            write_request(&mut batch.requests, &words[..1 + self.random.below(2) as usize]);
            Change::Flush
        } else {
            let [first, second] = self.databases.map(|database| database.to_string());
            write_request(&mut batch.requests, &[b"SWAPDB", first.as_bytes(), second.as_bytes()]);
            Change::Swap
        };
        self.sequence += 1;
        self.remembered += 1;
        batch.awaited.push(Awaited::Whole(self.whole.len()));
        let (sequence, sent) = (self.sequence, now_ms());
        self.whole.push(Operation { sequence, side, change, sent, answered: None, reply: None });
    }

    fn add_write(&mut self, course: &Course<'_>, batch: &mut Batch, side: u8) {
        self.sequence += 1;
        let key = pick(&mut self.random, self.keys.len());
        let name = key_name(self.index, key);
        let name = name.as_bytes();
        let number = is_number(key);
        let is_full = self.keys[key].bytes[usize::from(side)] >= VALUE_BYTES_MAX;
        let (out, random) = (&mut batch.requests, &mut self.random);
        let mut write = |words: &[&[u8]]| write_request(out, words);
        let (change, tells) = match random.below(100) {
            0..=9 => {
                write(&[[&b"DEL"[..], b"UNLINK"][random.below(2) as usize], name]);
                (Change::Delete, true)
            }
            10..=17 => {
                write(&[b"PERSIST", name]);
                (Change::Persist, true)
            }
            18..=23 => {
                let (option, time, lifetime) = some_lifetime(random);
                write(&[if option == "PX" { b"PEXPIRE" } else { b"PEXPIREAT" }, name, time.as_bytes()]);
                (Change::Expire(lifetime), true)
            }
            24..=55 if number => {
                let by = random.below(2_000) as i64 - 1_000;
                write(&[b"INCRBY", name, by.to_string().as_bytes()]);
                (Change::Add(by), true)
            }
            24..=51 if !number && !is_full => {
                course.pool.write(&mut batch.value, self.index, self.sequence, random);
                write(&[b"APPEND", name, &batch.value]);
                (Change::Append(Digest::of(&batch.value)), true)
            }
            52..=57 if !number => return self.add_several(course, batch, key, side),
            draw => {
                let value = if number {
                    let number = random.below(1_000_000) as i64;
                    batch.value = number.to_string().into_bytes();
                    Value::Number(number)
                } else {
                    course.pool.write(&mut batch.value, self.index, self.sequence, random);
                    Value::Text(Digest::of(&batch.value))
                };
                let lifetime = match draw {
                    88..=99 => {
                        let (option, time, lifetime) = some_lifetime(random);
                        write(&[b"SET", name, &batch.value, option.as_bytes(), time.as_bytes()]);
                        lifetime
                    }
                    84..=87 => {
                        write(&[b"SET", name, &batch.value, b"KEEPTTL"]);
                        Lifetime::Keep
                    }
                    _ => {
                        write(&[b"SET", name, &batch.value]);
                        Lifetime::Forever
                    }
                };
                (Change::Set(value, lifetime), false)
            }
        };
        let operation = self.remember(key, side, change);
        batch.awaited.push(Awaited::Keys(vec![(key, operation)], tells));
    }

    /// An MSET or a DEL of several keys, which may be on several shards.
    fn add_several(&mut self, course: &Course<'_>, batch: &mut Batch, first: usize, side: u8) {
        let mut keys = vec![first];
        for _ in 0..1 + self.random.below(3) {
            let key = pick(&mut self.random, self.keys.len());
            if !keys.contains(&key) && !is_number(key) {
                keys.push(key);
            }
        }
        let deletes = self.random.below(4) == 0;
        let mut words = vec![if deletes { b"DEL".to_vec() } else { b"MSET".to_vec() }];
        let mut operations = Vec::new();
        for key in keys {
            words.push(key_name(self.index, key).into_bytes());
            let change = if deletes {
                Change::Delete
            } else {
                course.pool.write(&mut batch.value, self.index, self.sequence, &mut self.random);
                words.push(batch.value.clone());
                Change::Set(Value::Text(Digest::of(&batch.value)), Lifetime::Forever)
            };
            operations.push((key, self.remember(key, side, change)));
        }
        write_request(&mut batch.requests, &words.iter().map(Vec::as_slice).collect::<Vec<_>>());
        batch.awaited.push(Awaited::Keys(operations, false));
    }

    /// The number of the operation among the key's.
    fn remember(&mut self, key: usize, side: u8, change: Change) -> usize {
        let history = &mut self.keys[key];
        let bytes = &mut history.bytes[usize::from(side)];
        *bytes = match change {
            Change::Set(Value::Text(value), _) => value.bytes,
            Change::Append(tail) => bytes.saturating_add(tail.bytes),
            Change::Delete => 0,
            _ => *bytes,
        };
        self.remembered += 1;
        let (sequence, sent) = (self.sequence, now_ms());
        history.operations.push(Operation { sequence, side, change, sent, answered: None, reply: None });
        history.operations.len() - 1
    }
}

fn pick(random: &mut Random, keys: usize) -> usize {
    let keys = keys as u64;
    let among = if random.below(5) == 0 { HOT_KEYS.min(keys) } else { keys };
    random.below(among) as usize
}

/// SET's option, its number, and what it means: mostly up to some seconds, so that it ends in the run, at times an hour.
fn some_lifetime(random: &mut Random) -> (&'static str, String, Lifetime) {
    let time = if random.below(4) == 0 { HOUR_MS } else { 20 + random.below(4_000) };
    if random.below(3) == 0 {
        let at = now_ms() + time;
        return ("PXAT", at.to_string(), Lifetime::At(at));
    }
    ("PX", time.to_string(), Lifetime::In(time))
}

/// The string of a reply that is one.
pub fn bulk(reply: &[u8]) -> Option<&[u8]> {
    if !reply.starts_with(b"$") || reply.starts_with(b"$-1") {
        return None;
    }
    let start = reply.windows(2).position(|pair| pair == b"\r\n")? + 2;
    Some(&reply[start..reply.len() - 2])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn databases_are_own_as_far_as_they_go() {
        assert_eq!(share_databases(2, 16), [([0, 1], true), ([2, 3], true)]);
        assert_eq!(share_databases(3, 4), [([0, 1], true), ([2, 3], false), ([2, 3], false)]);
        assert!(share_databases(8, 16).iter().all(|&(_, own)| own));
        assert_eq!(share_databases(2, 2), [([0, 1], false), ([0, 1], false)]);
    }

    #[test]
    fn whole_databases_are_in_the_order_of_each_key() {
        let mut lane = Lane::new(0, ([0, 1], true), 1, 1);
        let (mut batch, mut database) = (Batch::default(), 0);
        lane.sequence = 1;
        lane.remember(0, 0, Change::Delete);
        lane.add_whole(&mut batch, &mut database);
        lane.sequence = 3;
        lane.remember(0, 0, Change::Persist);
        let sequences: Vec<u32> = lane.operations_of(0).iter().map(|operation| operation.sequence).collect();
        assert_eq!(sequences, [1, 2, 3]);
        lane.forget([[None, None]].into_iter());
        assert!(lane.operations_of(0).is_empty());
    }

    #[test]
    fn replies_are_noted_and_refusals_do_nothing() {
        let mut lane = Lane::new(0, ([0, 1], true), 1, 1);
        lane.remember(0, 0, Change::Add(3));
        let awaited = Awaited::Keys(vec![(0, 0)], true);
        assert!(lane.take(&awaited, b":3\r\n"));
        assert_eq!((lane.keys[0].operations[0].reply, lane.acknowledged), (Some(3), 1));
        assert!(lane.take(&awaited, b"-OOM no\r\n"));
        assert_eq!((lane.keys[0].operations[0].change, lane.errors["OOM"]), (Change::Nothing, 1));
        assert!(!lane.take(&awaited, b"$1\r\nx\r\n"));
        assert!(lane.take(&Awaited::Read(1, 2, 0), b"$3\r\na\r\n\r\n"));
        assert_eq!(lane.reads[0].value, Value::Text(Digest::of(b"a\r\n")));
    }
}
