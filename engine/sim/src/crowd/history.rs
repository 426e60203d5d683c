//! What clients that share keys have asked and been answered, key by key, since the process started.

use std::collections::{BTreeMap, BTreeSet};

use torc_engine::id::Millis;
use torc_engine::route::Route;
use torc_protocol::resp::decode::Reply;

use super::linear::{Furthest, Operation, Recovered, Verdict, check};
use super::spec::{Blob, Clock, Life, Value};
use crate::content::Content;
use crate::options::Options;

/// Commands that a complaint shows before the first that could not be put in order, and from there on.
const COMPLAINT_LINES: usize = 25;

/// The place of an operation in the history.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct OperationId(usize);

#[derive(Debug, Default)]
pub(crate) struct History {
    operations: Vec<(Vec<u8>, Operation)>,
    /// Those that had no effect.
    void: BTreeSet<OperationId>,
    /// Those whose end is not known.
    open: BTreeSet<OperationId>,
    /// What keys held when the process started.
    starts: BTreeMap<Vec<u8>, Value>,
    all_keys: Vec<Vec<u8>>,
    moment: u64,
    connections: u32,
    now: i64,
    /// The most that the clock has ever said.
    ever: i64,
}

/// What there is after a start.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Survival<'a> {
    pub content: &'a Content,
    /// By shard of the process before: the moment up to which what was answered has survived.
    pub moments: &'a [u64],
}

impl Survival<'_> {
    fn moment_of(&self, key: &[u8]) -> u64 {
        let shard = Route::new(self.moments.len().max(1)).owner(key);
        self.moments.get(shard.index()).copied().unwrap_or(0)
    }
}

/// What was judged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Judged {
    pub operations: u64,
    pub undecided: u64,
}

impl History {
    pub fn new(options: &Options) -> History {
        History { all_keys: super::requests::all_keys(options), ..History::default() }
    }

    /// Every key that clients may name.
    pub fn all_keys(&self) -> Vec<Vec<u8>> {
        self.all_keys.clone()
    }

    /// Moments so far.
    pub fn moment(&self) -> u64 {
        self.moment
    }

    /// A number for a connection.
    pub fn connect(&mut self) -> u32 {
        self.connections += 1;
        self.connections
    }

    /// The clock says this.
    pub fn note_clock(&mut self, now: Millis) {
        let now = now.0 as i64;
        if now == self.now {
            return;
        }
        (self.now, self.ever) = (now, self.ever.max(now));
        for id in &self.open {
            let clock = &mut self.operations[id.0].1.clock;
            (clock.least, clock.most, clock.ever) = (clock.least.min(now), clock.most.max(now), self.ever);
        }
    }

    /// A command about a key is asked; its words, the name in lower case.
    pub fn ask(&mut self, connection: u32, key: &[u8], words: Vec<Blob>) -> OperationId {
        self.moment += 1;
        let clock = Clock { least: self.now, most: self.now, ever: self.ever };
        let operation = Operation { connection, words, reply: None, asked: self.moment, answered: None, clock };
        let id = OperationId(self.operations.len());
        self.operations.push((key.to_vec(), operation));
        self.open.insert(id);
        id
    }

    /// It was answered: so, or (None) so that any answer would have been right.
    pub fn answer(&mut self, id: OperationId, reply: Option<Reply>) {
        self.moment += 1;
        let operation = &mut self.operations[id.0].1;
        (operation.reply, operation.answered) = (reply, Some(self.moment));
        self.open.remove(&id);
    }

    /// It was refused, and had no effect.
    pub fn refuse(&mut self, id: OperationId) {
        self.void.insert(id);
        self.open.remove(&id);
    }

    /// When a command was asked, by the clock.
    pub fn asked_at(&self, id: OperationId) -> i64 {
        self.operations[id.0].1.clock.least
    }

    /// Every key that anything is known of.
    fn known_keys(&self) -> BTreeSet<Vec<u8>> {
        self.operations.iter().map(|(key, _)| key).chain(self.starts.keys()).cloned().collect()
    }

    /// The process has ended, or the world: judges everything. Then the history begins anew with what is there.
    pub fn judge(&mut self, found: Option<Survival<'_>>, evicts: bool) -> Judged {
        let mut judged = Judged::default();
        let mut keys = self.known_keys();
        let mut held = BTreeMap::new();
        if let Some(Survival { content, .. }) = found {
            let keyspace = content.layout.keyspaces[0].0;
            for ((_, key), (bytes, expire_ms)) in
                content.entries.range((keyspace, Vec::new())..).take_while(|((of, _), _)| *of == keyspace)
            {
                let at = *expire_ms as i64;
                let life = if at > 0 { Life::Until(at, at) } else { Life::Forever };
                held.insert(key.clone(), Value { bytes: bytes.clone().into(), life });
            }
            keys.extend(held.keys().filter(|key| super::is_shared(key)).cloned());
        }
        let mut by_key: BTreeMap<&[u8], Vec<&Operation>> = BTreeMap::new();
        for (index, (key, operation)) in self.operations.iter().enumerate() {
            if !self.void.contains(&OperationId(index)) {
                by_key.entry(key).or_default().push(operation);
            }
        }
        for key in &keys {
            let none = Vec::new();
            let operations = by_key.get(key.as_slice()).unwrap_or(&none);
            // What was evicted while it was loaded comes back with the next start.
            let recovered = found.filter(|_| !evicts).map(|found| Recovered {
                survived: found.moment_of(key),
                value: held.get(key).cloned(),
                clock: Clock { least: self.now, most: self.now, ever: self.ever },
            });
            judged.operations += operations.len() as u64;
            match check(operations, self.starts.get(key), recovered.as_ref(), evicts) {
                Verdict::Linearizable => {}
                Verdict::Undecided => judged.undecided += 1,
                Verdict::Broken(furthest) => self.complain(key, operations, recovered.as_ref(), &furthest),
            }
        }
        held.retain(|key, _| super::is_shared(key));
        self.starts = held;
        self.operations.clear();
        self.void.clear();
        self.open.clear();
        judged
    }

    fn complain(&self, key: &[u8], operations: &[&Operation], recovered: Option<&Recovered>, furthest: &Furthest) -> ! {
        let mut lines = vec![format!("the history of {} cannot be put in order", key.escape_ascii())];
        lines.push(format!("  it held {:?}", self.starts.get(key).map(show_value)));
        let mut sorted = operations.to_vec();
        sorted.sort_by_key(|operation| operation.asked);
        let mut left: BTreeMap<u32, usize> = furthest.done.iter().copied().collect();
        let shown = sorted.into_iter().map(|operation| {
            let Operation { connection, words, reply, asked, answered, clock } = operation;
            let left = left.get_mut(connection).filter(|left| **left > 0);
            let mark = if left.is_some() { "  done" } else { "  LEFT" };
            left.into_iter().for_each(|left| *left -= 1);
            let answered = answered.map_or("never".to_owned(), |at| at.to_string());
            let reply = reply.as_ref().map_or("?".to_owned(), show_reply);
            let (least, most, words) = (clock.least, clock.most, super::show(words.iter().map(|word| word.as_slice())));
            format!(
                "{mark} connection {connection}, {asked} to {answered}, clock {least} to {most}: {words} -> {reply}"
            )
        });
        let shown: Vec<String> = shown.collect();
        let first_left = shown.iter().position(|line| line.starts_with("  LEFT")).unwrap_or(shown.len());
        lines.extend(shown.into_iter().skip(first_left.saturating_sub(COMPLAINT_LINES)).take(2 * COMPLAINT_LINES));
        lines.push(format!("  behind what could be done it held {:?}", furthest.held.as_ref().map(show_value)));
        if let Some(Recovered { survived, value, .. }) = recovered {
            lines.push(format!("  up to {survived} it survived; found was {:?}", value.as_ref().map(show_value)));
            lines.push(format!("  that was on the way: {}", furthest.is_chosen));
        }
        panic!("{}", lines.join("\n"));
    }
}

fn show_value(value: &Value) -> String {
    let shown = value.bytes[..value.bytes.len().min(60)].escape_ascii();
    format!("{} bytes \"{shown}\" {:?}", value.bytes.len(), value.life)
}

/// A reply in a few words.
pub(crate) fn show_reply(reply: &Reply) -> String {
    let text = |bytes: &[u8]| bytes[..bytes.len().min(60)].escape_ascii().to_string();
    match reply {
        Reply::Simple(bytes) => format!("+{}", text(bytes)),
        Reply::Error(bytes) => format!("-{}", text(bytes)),
        Reply::Integer(number) => format!(":{number}"),
        Reply::Bulk(bytes) => format!("{} bytes \"{}\"", bytes.len(), text(bytes)),
        Reply::Null => "nil".to_owned(),
        Reply::Array(elements) => format!("{} elements", elements.len()),
        Reply::Map(pairs) => format!("{} pairs", pairs.len()),
        _ => "another reply".to_owned(),
    }
}
