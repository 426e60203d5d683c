//! Clients that share keys: they send what the table of commands has, in pipelines, and what they ask and are answered about each key
//! becomes its history, which is judged when the process ends. What is not about a key is judged as far as it can be at once.

mod history;
mod linear;
mod requests;
mod spec;

use std::collections::{BTreeSet, VecDeque};

use torc_engine::command::{Route, flag};
use torc_engine::shard::{Close, Flow};
use torc_protocol::resp::decode::{Reply, decode, skip_reply};

use crate::client::Guest;
use crate::coverage::{Coverage, Event};
use crate::options::Options;
use crate::random::Random;
use crate::shards::{Connection, Shards, encode};
use crate::trace::Trace;
use crate::world::Report;
use history::OperationId;
pub(crate) use history::{History, Survival, show_reply};
use requests::{Maker, Request};
use spec::Blob;

/// What the names of keys begin with that have histories.
const SHARED: &str = "k:";

pub(crate) fn is_shared(key: &[u8]) -> bool {
    key.starts_with(SHARED.as_bytes())
}

/// Requests under way of one client, at most.
const PIPELINE_MAX: usize = 24;

pub(crate) struct Sharer {
    number: usize,
    random: Random,
    maker: Maker,
    slow_readers: bool,
    disconnects: bool,
    output_is_bounded: bool,
    connection: Option<Connection>,
    /// The number of the connection, in the history.
    life: u32,
    flow: Flow,
    outbox: Vec<u8>,
    outbox_at: usize,
    inbox: Vec<u8>,
    expected: VecDeque<Expected>,
    pipeline: usize,
    touched: bool,
    reads_at: u64,
    eof_sent: bool,
    /// It closes its sending side when all is sent, and sends nothing more.
    is_leaving: bool,
    /// QUIT was sent.
    has_quit: bool,
    /// Times that keys were set to expire at, milliseconds.
    lives: Vec<(Vec<u8>, i64)>,
}

struct Expected {
    request: Request,
    parts: Vec<OperationId>,
}

/// What a client works with.
pub(crate) struct Surroundings<'a> {
    pub shards: &'a mut Shards,
    pub history: &'a mut History,
    pub report: &'a mut Report,
    pub coverage: &'a mut Coverage,
    pub trace: &'a mut Trace,
    pub step: u64,
    /// The process stops in order: it reads nothing more.
    pub is_stopping: bool,
}

impl Sharer {
    pub fn new(number: usize, options: &Options, mut random: Random) -> Sharer {
        Sharer {
            number,
            maker: Maker::new(number, options, random.fork()),
            pipeline: [1, 4, PIPELINE_MAX][random.below(3)],
            random,
            slow_readers: options.slow_readers,
            disconnects: options.disconnects,
            output_is_bounded: options.output_bytes_max > 0,
            connection: None,
            life: 0,
            flow: Flow { read: true, close: Close::No },
            outbox: Vec::new(),
            outbox_at: 0,
            inbox: Vec::new(),
            expected: VecDeque::new(),
            touched: false,
            reads_at: 0,
            eof_sent: false,
            is_leaving: false,
            has_quit: false,
            lives: Vec::new(),
        }
    }

    /// Chooses what to do next.
    pub fn think(&mut self, around: &mut Surroundings<'_>) {
        let Some(connection) = self.connection else {
            return self.connect(around);
        };
        if self.slow_readers && self.random.one_in(300) {
            self.reads_at = around.step + self.random.between(20, 400) as u64;
        }
        if self.disconnects && self.random.one_in(800) {
            around.report.disconnects += 1;
            let is_inside = self.outbox_at > 0 && self.outbox_at < self.outbox.len();
            around.coverage.note_if(is_inside, Event::CutInRequest);
            let number = self.number;
            let now = around.shards.now();
            around.trace.say(around.step, now, || format!("client {number} goes away"));
            around.shards.disconnect(connection);
            return self.lose();
        }
        self.is_leaving |= self.disconnects && self.random.one_in(800);
        if self.is_leaving || self.has_quit || self.outbox.len() - self.outbox_at > 64 << 10 {
            return;
        }
        for _ in 0..self.random.between(1, self.pipeline) {
            if self.expected.len() < self.pipeline && !self.has_quit {
                self.ask(around);
            }
        }
    }

    fn connect(&mut self, around: &mut Surroundings<'_>) {
        self.connection = Some(around.shards.connect(self.random.below(around.shards.shards.len())));
        self.life = around.history.connect();
        self.flow = Flow { read: true, close: Close::No };
        (self.touched, self.eof_sent, self.is_leaving, self.has_quit) = (false, false, false, false);
    }

    /// The connection is gone, or the process, with whatever is under way.
    pub fn lose(&mut self) {
        self.connection = None;
        self.outbox.clear();
        self.outbox_at = 0;
        self.inbox.clear();
        self.expected.clear();
    }

    /// Sends nothing more; what is under way is answered first.
    pub fn leave(&mut self) {
        self.is_leaving = true;
        self.reads_at = 0;
    }

    pub fn is_gone(&self) -> bool {
        self.connection.is_none()
    }

    /// For messages: what it waits for.
    pub fn waits_for(&self) -> String {
        let next = self.expected.front().map_or("nothing".to_owned(), |expected| show(expected.request.words()));
        let to_send = self.outbox.len() - self.outbox_at;
        format!(
            "client {} has {to_send} bytes to send ({:?}), {} replies to get, the next to {next}",
            self.number,
            self.flow,
            self.expected.len(),
        )
    }

    fn ask(&mut self, around: &mut Surroundings<'_>) {
        let request = self.maker.request(around.shards.now());
        let row = request.command.row();
        self.has_quit |= row.name == "quit" || row.name == "shutdown";
        let mut parts = Vec::new();
        let words: Vec<Blob> = request.words.iter().map(|word| word.clone().into()).collect();
        let named = |name: &str| Blob::from(name.as_bytes().to_vec());
        for (index, &at) in request.keys.iter().enumerate() {
            let key = &request.words[at];
            // Of several keys each has its own command.
            let asked = match row.name {
                "mget" => vec![named("get"), words[at].clone()],
                "mset" => vec![named("set"), words[at].clone(), words[at + 1].clone()],
                _ if matches!(row.route, Route::Keys(_)) => vec![words[0].clone(), words[at].clone()],
                _ if row.keys.first > 1 => vec![named("look"), words[at].clone()],
                _ => words.clone(),
            };
            // One key twice: what is true of each is not known apart.
            let is_again = request.keys[..index].iter().any(|before| request.words[*before] == *key);
            if !is_again || row.flags & flag::WRITE != 0 {
                parts.push(around.history.ask(self.life, key, asked));
            }
        }
        if matches!(row.name, "flushdb" | "flushall") {
            for key in around.history.all_keys() {
                parts.push(around.history.ask(self.life, &key, vec![named("flush")]));
            }
        }
        let (number, now) = (self.number, around.shards.now());
        around.trace.say(around.step, now, || format!("client {number}: {}", show(request.words())));
        if request.words.len() == 1 && self.random.one_in(2) {
            self.outbox.extend_from_slice(&request.words[0]);
            self.outbox.extend_from_slice(b"\r\n");
        } else {
            self.outbox.extend_from_slice(&encode(&request.words));
        }
        let mut kept = request;
        kept.words.iter_mut().for_each(|word| word.truncate(80));
        self.expected.push_back(Expected { request: kept, parts });
    }

    /// Reads some of what is there, judges it, and does with the connection what the shard wants.
    pub fn receive(&mut self, around: &mut Surroundings<'_>) {
        let Some(connection) = self.connection else { return };
        if !self.touched {
            return;
        }
        self.flow = around.shards.flow(connection);
        if self.flow.close == Close::Now {
            assert!(self.output_is_bounded, "cut off without a reason: {}", self.waits_for());
            around.coverage.note(Event::SlowReaderCut);
            around.shards.disconnect(connection);
            return self.lose();
        }
        if around.step < self.reads_at {
            return;
        }
        let unread = around.shards.unread(connection);
        if unread > 0 {
            let bytes = around.shards.read(connection, self.random.chunk(unread));
            around.report.take(&bytes);
            self.inbox.extend_from_slice(&bytes);
            self.take_replies(around);
        }
        let all_sent = around.shards.unread(connection) == 0;
        self.flow = around.shards.flow(connection);
        self.touched = !all_sent;
        if self.flow.close == Close::Flush && all_sent {
            assert!(self.eof_sent || self.has_quit, "closed without a reason: {}", self.waits_for());
            assert!(
                self.has_quit || around.is_stopping || self.expected.is_empty(),
                "closed before all was said: {}",
                self.waits_for()
            );
            assert!(self.inbox.is_empty(), "closed in the middle of a reply: {}", self.waits_for());
            around.shards.disconnect(connection);
            self.lose();
            around.report.half_closes += 1;
        }
    }

    fn take_replies(&mut self, around: &mut Surroundings<'_>) {
        let mut at = 0;
        while let Some(len) = skip_reply(&self.inbox[at..]).expect("replies are well formed").filter(|len| *len > 0) {
            let (reply, _) = decode(&self.inbox[at..at + len]).expect("well formed").expect("whole");
            at += len;
            around.report.replies += 1;
            let Some(expected) = self.expected.pop_front() else {
                panic!("client {} got what it did not ask for: {}", self.number, show_reply(&reply));
            };
            let (number, now) = (self.number, around.shards.now());
            let words = &expected.request.words;
            around.trace.say(around.step, now, || {
                format!("client {number}: {} -> {}", show(words.iter().map(Vec::as_slice)), show_reply(&reply))
            });
            self.judge(expected, reply, around);
            if at == self.inbox.len() {
                break;
            }
        }
        self.inbox.drain(..at);
    }

    fn judge(&mut self, expected: Expected, reply: Reply, around: &mut Surroundings<'_>) {
        let Expected { request, parts } = expected;
        let row = request.command.row();
        let asked = || format!("client {}: {}", self.number, show(request.words()));
        let refusal = match &reply {
            Reply::Error(text) => [&b"OOM"[..], b"MISCONF", b"LOADING"].iter().any(|code| text.starts_with(code)),
            _ => false,
        };
        if let Reply::Error(text) = &reply {
            around.coverage.note_if(text.starts_with(b"OOM"), Event::OutOfMemory);
            let is_about_keys = row.keys.first > 0 && row.keys.last > 0;
            let is_known =
                text.starts_with(b"ERR") || refusal || text.starts_with(b"WRONGPASS") || text.starts_with(b"NOPROTO");
            assert!(is_known, "{} -> {}", asked(), show_reply(&reply));
            for part in parts {
                match (refusal, is_about_keys) {
                    (true, true) => around.history.refuse(part),
                    (false, true) => around.history.answer(part, Some(reply.clone())),
                    // Some of the shards may have done their part.
                    _ => {}
                }
            }
            return;
        }
        match (row.name, &reply) {
            ("mget", Reply::Array(elements)) => {
                assert_eq!(elements.len(), request.keys.len(), "{}", asked());
                let mut elements = elements.iter();
                let mut seen = BTreeSet::new();
                let mut parts = parts.into_iter();
                for &at in &request.keys {
                    let element = elements.next().cloned();
                    if seen.insert(request.words[at].clone())
                        && let Some(part) = parts.next()
                    {
                        around.history.answer(part, element);
                    }
                }
            }
            ("keys", Reply::Array(keys)) => self.judge_names(keys, &asked()),
            ("scan", Reply::Array(parts)) => {
                let [Reply::Bulk(cursor), Reply::Array(keys)] = parts.as_slice() else {
                    panic!("{} -> {}", asked(), show_reply(&reply))
                };
                self.judge_names(keys, &asked());
                self.maker.cursor.clone_from(cursor);
            }
            ("config|set", Reply::Simple(_)) => {
                let is_fsync = request.words[2] == b"appendfsync";
                around.coverage.note_if(is_fsync, Event::FsyncChanged);
                around.coverage.note_if(request.words[2] == b"maxmemory-policy", Event::PolicyChanged);
            }
            _ => {
                let is_one = parts.len() == 1 && request.keys.len() == 1;
                let is_exact = is_one || row.name == "mset";
                for part in parts {
                    self.note_expiry(&request, part, &reply, around);
                    around.history.answer(part, is_exact.then(|| reply.clone()));
                }
            }
        }
    }

    fn judge_names(&self, keys: &[Reply], asked: &str) {
        for key in keys {
            let Reply::Bulk(key) = key else { panic!("{asked} -> {}", show_reply(key)) };
            let is_known = is_shared(key) || key.starts_with(b"shared:");
            assert!(is_known, "{asked} -> {}, which nobody has set", key.escape_ascii());
        }
    }

    /// Notes that a command was asked before its key expired, and was answered, on another shard, that there is none.
    fn note_expiry(&mut self, request: &Request, part: OperationId, reply: &Reply, around: &mut Surroundings<'_>) {
        let [key] = request.keys[..] else { return };
        let (key, now) = (request.words[key].clone(), around.shards.now().0 as i64);
        match (request.command.row().name, reply) {
            ("psetex", Reply::Simple(_)) => {
                let life: i64 = String::from_utf8_lossy(&request.words[2]).parse().unwrap_or(0);
                self.lives.retain(|(other, _)| *other != key);
                self.lives.push((key, around.history.asked_at(part) + life));
            }
            ("get", Reply::Null) => {
                let home = self.connection.map(|connection| connection.home);
                let route = torc_engine::route::Route::new(around.shards.shards.len());
                let is_away = home != Some(route.owner(&key).index());
                let asked_at = around.history.asked_at(part);
                let lived = self.lives.iter().any(|(other, until)| *other == key && asked_at < *until && *until <= now);
                around.coverage.note_if(is_away && lived, Event::ExpiredUnderWay);
            }
            _ => {}
        }
    }
}

impl Guest for Sharer {
    fn connection(&self) -> Option<Connection> {
        self.connection
    }

    fn send(&mut self) -> Option<Vec<u8>> {
        let rest = &self.outbox[self.outbox_at..];
        // What was on its way when the shard stopped reading arrives all the same.
        let stopped = !self.flow.read && !self.random.one_in(50);
        if rest.is_empty() || stopped || self.random.one_in(3) {
            return None;
        }
        let count = self.random.chunk(rest.len());
        let bytes = rest[..count].to_vec();
        self.outbox_at += count;
        if self.outbox_at == self.outbox.len() {
            self.outbox.clear();
            self.outbox_at = 0;
        }
        Some(bytes)
    }

    fn send_eof(&mut self, shards: &mut Shards) {
        let Some(connection) = self.connection else { return };
        if self.is_leaving && !self.eof_sent && self.outbox_at == self.outbox.len() {
            self.eof_sent = true;
            shards.eof(connection);
            self.touched = true;
        }
    }

    fn touch(&mut self, shards: &Shards) {
        if let Some(connection) = self.connection {
            self.touched = true;
            self.flow = shards.flow(connection);
        }
    }
}

/// Words for a message, the long ones cut.
pub(crate) fn show<'a>(words: impl IntoIterator<Item = &'a [u8]>) -> String {
    let word = |word: &[u8]| match word.len() {
        0 => "\"\"".to_owned(),
        len if len > 40 => format!("{}...({len} bytes)", word[..16].escape_ascii()),
        _ => word.escape_ascii().to_string(),
    };
    words.into_iter().map(word).collect::<Vec<_>>().join(" ")
}
