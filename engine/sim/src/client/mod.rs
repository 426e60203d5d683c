//! One client of a world: it sends, it reads when it pleases, and it judges every reply.
//!
//! Most of the time it pipelines commands on its own keys, whose replies `model.rs` knows to the byte. In between it lets
//! everything be answered and then asks one thing at a time that can only be judged so (an [`Episode`]): KEYS, SCAN, DBSIZE,
//! a key that soon expires. Sometimes it closes its sending side and comes back, sometimes it just goes away.

mod commands;
mod model;

use std::collections::{BTreeSet, VecDeque};

use torc_engine::id::Millis;
use torc_engine::shard::{Close, Flow};
use torc_protocol::resp::decode::{Reply, decode, skip_reply};

use crate::options::Options;
use crate::random::Random;
use crate::shards::{Connection, Shards, encode};
use crate::world::Report;
use commands::Generator;
use model::{Answer, Model};

/// Counters that all clients increment, in database 0.
pub(crate) const SHARED_COUNTERS: usize = 4;

/// With at most so many clients there is a second database for each.
const CLIENTS_WITH_SPARE_MAX: usize = 7;

/// The key of a counter that all clients increment.
pub(crate) fn shared_counter(number: usize) -> String {
    format!("shared:{number}")
}

/// Whoever is connected, as a shard's turn sees it.
pub(crate) trait Guest {
    fn connection(&self) -> Option<Connection>;
    /// Bytes that arrive at the shard now.
    fn send(&mut self) -> Option<Vec<u8>>;
    /// After the turn: the end of sending, when it is due.
    fn send_eof(&mut self, shards: &mut Shards);
    /// The shard has listed the session.
    fn touch(&mut self, shards: &Shards);
}

pub(crate) struct Client {
    id: usize,
    random: Random,
    generator: Generator,
    model: Model,
    /// The identity among the client's own: a client that went away with commands under way does not know what its keys
    /// hold, and goes on under another prefix.
    life: usize,
    resp3: bool,
    /// Another database of its own, if there are enough.
    spare_database: Option<usize>,
    pub connection: Option<Connection>,
    /// What the shard last said about the connection.
    flow: Flow,
    /// Bytes to send.
    outbox: Vec<u8>,
    outbox_at: usize,
    /// Bytes read and not judged.
    inbox: Vec<u8>,
    expected: VecDeque<Expected>,
    plan: Plan,
    /// The shard has said that there is something to read or to know, and it was not yet followed up.
    touched: bool,
    /// Does not read before this step.
    reads_at: u64,
    eof_sent: bool,
    /// INCRs of shared counters: sent, and answered.
    pub increments_sent: [u64; SHARED_COUNTERS],
    pub increments_answered: [u64; SHARED_COUNTERS],
    /// The last value seen of each.
    counters_seen: [i64; SHARED_COUNTERS],
}

/// What a client is about.
enum Plan {
    /// Sends so many more commands, without waiting.
    Pipeline(usize),
    /// Waits for all replies, then does this.
    Drain(Box<Episode>),
    /// One command at a time.
    Alone(Box<Episode>),
    /// Sends nothing more.
    Rest,
}

/// Something that can only be judged while nothing else is under way.
enum Episode {
    Keys,
    Dbsize,
    Scan {
        cursor: Vec<u8>,
        seen: BTreeSet<Vec<u8>>,
    },
    /// A key with a short life: it must be there before `earliest`, and gone from `latest` on.
    Fleeting {
        key: Vec<u8>,
        set: bool,
        looks: usize,
        next_at: Millis,
        life_ms: u64,
        earliest: Millis,
        latest: Millis,
        gone: bool,
    },
    /// Swaps its database with another of its own, flushes that one, and swaps them back: so many commands of it are said.
    Swap {
        said: usize,
    },
    /// Closes the sending side, reads what is left, comes back.
    HalfClose,
}

/// What the next reply must be.
struct Expected {
    what: What,
    resp3: bool,
    sent_at: Millis,
    command: Vec<Vec<u8>>,
}

enum What {
    Answer(Answer),
    /// The map of HELLO.
    Hello,
    /// One more than some other client saw.
    SharedCounter(usize),
    /// The current episode judges it.
    Episode,
}

impl Client {
    pub fn new(id: usize, options: &Options, mut random: Random) -> Client {
        let generator = Generator { random: random.fork(), prefix: String::new(), big_bytes: options.big_bytes };
        Client {
            id,
            random,
            generator,
            model: Model::default(),
            spare_database: (options.clients <= CLIENTS_WITH_SPARE_MAX).then_some(1 + CLIENTS_WITH_SPARE_MAX + id),
            life: 0,
            resp3: false,
            connection: None,
            flow: Flow { read: true, close: Close::No },
            outbox: Vec::new(),
            outbox_at: 0,
            inbox: Vec::new(),
            expected: VecDeque::new(),
            plan: Plan::Rest,
            touched: false,
            reads_at: 0,
            eof_sent: false,
            increments_sent: [0; SHARED_COUNTERS],
            increments_answered: [0; SHARED_COUNTERS],
            counters_seen: [0; SHARED_COUNTERS],
        }
    }

    /// A database of its own, for DBSIZE. Shared counters live in database 0.
    fn database(&self) -> usize {
        1 + self.id
    }

    /// Connects, if it is not connected.
    pub fn connect(&mut self, shards: &mut Shards) {
        if self.connection.is_some() {
            return;
        }
        self.connection = Some(shards.connect(self.random.below(shards.shards.len())));
        self.generator.prefix = format!("c{}.{}:", self.id, self.life);
        self.flow = Flow { read: true, close: Close::No };
        self.resp3 = false;
        self.touched = false;
        self.eof_sent = false;
        let now = shards.now();
        self.say(now, vec![b"SELECT".to_vec(), self.database().to_string().into_bytes()]);
        self.plan = Plan::Pipeline(self.random.between(1, 150));
    }

    /// Chooses what to do next.
    pub fn think(&mut self, step: u64, options: &Options, shards: &mut Shards, report: &mut Report) {
        if self.connection.is_none() {
            return self.connect(shards);
        }
        if options.slow_readers && self.random.one_in(300) {
            self.reads_at = step + self.random.between(20, 400) as u64;
        }
        // A swap that takes effect after its client came back under another name would take that one's keys away.
        let swaps = matches!(&self.plan, Plan::Alone(episode) if matches!(**episode, Episode::Swap { .. }));
        if options.disconnects && !swaps && self.random.one_in(1500) {
            report.disconnects += 1;
            return self.vanish(shards);
        }
        if self.outbox.len() - self.outbox_at > 64 * 1024 {
            return;
        }
        let now = shards.now();
        match std::mem::replace(&mut self.plan, Plan::Rest) {
            Plan::Pipeline(0) => {
                let episode = match self.random.below(9) {
                    0 | 1 => Episode::Keys,
                    // Commands of an earlier life may still be under way.
                    2 if self.life == 0 => Episode::Dbsize,
                    3 | 4 => Episode::Scan { cursor: b"0".to_vec(), seen: BTreeSet::new() },
                    5 | 6 => self.fleeting(now),
                    7 => Episode::HalfClose,
                    8 if self.spare_database.is_some() => Episode::Swap { said: 0 },
                    _ => Episode::Keys,
                };
                self.plan = Plan::Drain(Box::new(episode));
            }
            Plan::Pipeline(left) => {
                let count = self.random.between(1, 20).min(left);
                (0..count).for_each(|_| self.say_something(now));
                self.plan = Plan::Pipeline(left - count);
            }
            Plan::Drain(episode) if self.is_answered() => {
                report.episodes += 1;
                self.plan = Plan::Alone(episode);
            }
            Plan::Alone(episode) if self.is_answered() => self.go_on(now, *episode),
            waiting => self.plan = waiting,
        }
    }

    /// Sends nothing more of its own accord; what is begun is ended.
    pub fn wind_down(&mut self, now: Millis) {
        match std::mem::replace(&mut self.plan, Plan::Rest) {
            Plan::Alone(episode) if self.is_answered() => self.go_on(now, *episode),
            Plan::Alone(episode) => self.plan = Plan::Alone(episode),
            Plan::Pipeline(_) | Plan::Drain(_) | Plan::Rest => {}
        }
        if matches!(self.plan, Plan::Pipeline(_)) {
            self.plan = Plan::Rest;
        }
    }

    /// Says that it will send nothing more.
    pub fn close_sending_side(&mut self) {
        if matches!(self.plan, Plan::Rest) {
            self.plan = Plan::Alone(Box::new(Episode::HalfClose));
        }
    }

    /// Everything said is sent and answered.
    pub fn is_answered(&self) -> bool {
        self.expected.is_empty() && self.outbox_at == self.outbox.len()
    }

    pub fn is_resting(&self) -> bool {
        matches!(self.plan, Plan::Rest) && self.is_answered()
    }

    /// For messages: what it waits for.
    pub fn waits_for(&self) -> String {
        let next = self.expected.front().map_or("nothing".to_owned(), |expected| show(&expected.command));
        format!(
            "client {} has {} bytes to send ({:?}), {} replies to get, the next to {next}",
            self.id,
            self.outbox.len() - self.outbox_at,
            self.flow,
            self.expected.len(),
        )
    }

    /// Goes away without a word, with whatever is under way.
    fn vanish(&mut self, shards: &mut Shards) {
        if let Some(connection) = self.connection {
            shards.disconnect(connection);
        }
        self.lose();
    }

    /// The process is gone, with whatever is under way, and perhaps with the last of what it had answered.
    pub fn crash(&mut self) {
        self.counters_seen = [0; SHARED_COUNTERS];
        self.lose();
    }

    fn lose(&mut self) {
        self.connection = None;
        self.life += 1;
        self.model = Model::default();
        self.outbox.clear();
        self.outbox_at = 0;
        self.inbox.clear();
        self.expected.clear();
        self.plan = Plan::Rest;
    }

    fn say(&mut self, now: Millis, command: Vec<Vec<u8>>) {
        let answer = self.model.run(&command);
        self.say_expecting(now, command, What::Answer(answer));
    }

    fn say_expecting(&mut self, now: Millis, mut command: Vec<Vec<u8>>, what: What) {
        if command.len() == 1 && self.random.one_in(2) {
            self.outbox.extend_from_slice(&command[0]);
            self.outbox.extend_from_slice(b"\r\n");
        } else {
            self.outbox.extend_from_slice(&encode(&command));
        }
        command.iter_mut().for_each(|word| word.truncate(40));
        self.expected.push_back(Expected { what, resp3: self.resp3, sent_at: now, command });
    }

    fn say_something(&mut self, now: Millis) {
        if self.random.one_in(25) {
            let counter = self.random.below(SHARED_COUNTERS);
            self.say(now, vec![b"SELECT".to_vec(), b"0".to_vec()]);
            let command = vec![b"INCR".to_vec(), shared_counter(counter).into_bytes()];
            self.say_expecting(now, command, What::SharedCounter(counter));
            self.increments_sent[counter] += 1;
            return self.say(now, vec![b"SELECT".to_vec(), self.database().to_string().into_bytes()]);
        }
        if self.random.one_in(60) {
            self.resp3 = !self.resp3;
            let version = if self.resp3 { b"3" } else { b"2" };
            return self.say_expecting(now, vec![b"HELLO".to_vec(), version.to_vec()], What::Hello);
        }
        let command = self.generator.command();
        self.say(now, command);
    }

    fn fleeting(&mut self, now: Millis) -> Episode {
        let key = format!("fleeting{}:{}", self.id, self.random.below(3)).into_bytes();
        let (zero, looks) = (Millis(0), self.random.between(1, 6));
        let life_ms = self.random.between(1, 300) as u64;
        Episode::Fleeting { key, set: false, looks, next_at: now, life_ms, earliest: zero, latest: zero, gone: false }
    }

    /// The next command of an episode, all before it being answered; or its end.
    fn go_on(&mut self, now: Millis, mut episode: Episode) {
        let prefix = self.generator.prefix.clone();
        match &mut episode {
            Episode::Keys => {
                let command = vec![b"KEYS".to_vec(), format!("{prefix}*").into_bytes()];
                self.say_expecting(now, command, What::Episode);
            }
            Episode::Dbsize => self.say_expecting(now, vec![b"DBSIZE".to_vec()], What::Episode),
            Episode::Scan { cursor, .. } => {
                let count = self.random.between(1, 30).to_string().into_bytes();
                let pattern = format!("{prefix}*").into_bytes();
                let (word, count_word) = (b"MATCH".to_vec(), b"COUNT".to_vec());
                let command = vec![b"SCAN".to_vec(), cursor.clone(), word, pattern, count_word, count];
                self.say_expecting(now, command, What::Episode);
            }
            Episode::Fleeting { key, set, looks, next_at, life_ms, .. } => {
                if now < *next_at {
                    self.plan = Plan::Alone(Box::new(episode));
                    return;
                }
                *next_at = Millis(now.0 + self.random.below(200) as u64);
                let life = life_ms.to_string().into_bytes();
                let command = match () {
                    _ if !*set && self.random.one_in(2) => {
                        vec![b"PSETEX".to_vec(), key.clone(), life, b"here".to_vec()]
                    }
                    _ if !*set => vec![b"SET".to_vec(), key.clone(), b"here".to_vec(), b"PX".to_vec(), life],
                    _ if *looks > 0 => vec![b"GET".to_vec(), key.clone()],
                    _ => vec![b"DEL".to_vec(), key.clone()],
                };
                self.say_expecting(now, command, What::Episode);
            }
            Episode::Swap { said } => {
                let (own, spare) = (self.database(), self.spare_database.expect("asked before"));
                let swap = format!("SWAPDB {own} {spare}");
                let flush = ["FLUSHDB", "FLUSHDB SYNC", "FLUSHDB ASYNC"][self.random.below(3)];
                let line = match *said {
                    0 | 5 => swap,
                    2 => format!("SET {prefix}swapped away"),
                    3 => flush.to_owned(),
                    _ => format!("KEYS {prefix}*"),
                };
                *said += 1;
                let command = line.split(' ').map(|word| word.as_bytes().to_vec()).collect();
                self.say_expecting(now, command, What::Episode);
            }
            Episode::HalfClose => {}
        }
        self.plan = Plan::Alone(Box::new(episode));
    }

    /// Reads some of what is there, judges it, and does with the connection what the shard wants.
    pub fn receive(&mut self, step: u64, shards: &mut Shards, report: &mut Report) {
        let Some(connection) = self.connection else { return };
        if !self.touched || step < self.reads_at {
            return;
        }
        let unread = shards.unread(connection);
        if unread > 0 {
            let bytes = shards.read(connection, self.random.chunk(unread));
            report.take(&bytes);
            self.inbox.extend_from_slice(&bytes);
            self.judge(shards.now(), report);
        }
        let all_sent = shards.unread(connection) == 0;
        self.flow = shards.flow(connection);
        self.touched = !all_sent;
        assert_ne!(self.flow.close, Close::Now, "nobody breaks a limit here: {}", self.waits_for());
        if self.flow.close == Close::Flush && all_sent {
            assert!(self.eof_sent, "closed without a reason: {}", self.waits_for());
            assert!(self.is_answered() && self.inbox.is_empty(), "closed before all was said: {}", self.waits_for());
            shards.disconnect(connection);
            self.connection = None;
            self.plan = Plan::Rest;
            report.half_closes += 1;
        }
    }

    fn judge(&mut self, now: Millis, report: &mut Report) {
        let mut at = 0;
        while at < self.inbox.len() {
            let Some(expected) = self.expected.front() else {
                panic!("client {} got what it did not ask for: {:?}", self.id, show(&[self.inbox[at..].to_vec()]));
            };
            // The common case needs no parsing, and a long reply that comes in pieces is not parsed again and again.
            if let What::Answer(answer) = &expected.what
                && !matches!(answer, Answer::Between(..))
            {
                let mut bytes = Vec::new();
                answer.encode(expected.resp3, &mut bytes);
                let got = &self.inbox[at..];
                let common = got.len().min(bytes.len());
                assert!(
                    got[..common] == bytes[..common],
                    "client {} sent {} and expected {:?}, but got {:?}",
                    self.id,
                    show(&expected.command),
                    show(&[bytes]),
                    show(&[got.to_vec()]),
                );
                if got.len() < bytes.len() {
                    break;
                }
                at += bytes.len();
                self.expected.pop_front();
                report.replies += 1;
                continue;
            }
            let Some(len) = skip_reply(&self.inbox[at..]).expect("replies are well formed") else { break };
            let (reply, _) = decode(&self.inbox[at..at + len]).expect("well formed").expect("whole");
            at += len;
            let expected = self.expected.pop_front().expect("looked at above");
            report.replies += 1;
            self.judge_decoded(now, expected, reply);
        }
        self.inbox.drain(..at);
    }

    fn judge_decoded(&mut self, now: Millis, expected: Expected, reply: Reply) {
        let id = self.id;
        let asked = show(&expected.command);
        match expected.what {
            What::Answer(Answer::Between(low, high)) => {
                let Reply::Integer(value) = reply else { panic!("client {id} sent {asked}, got {reply:?}") };
                assert!((low..=high).contains(&value), "client {id} sent {asked}, got {value}");
            }
            What::Answer(_) => unreachable!("compared as bytes"),
            What::Hello => match (reply, expected.resp3) {
                (Reply::Map(pairs), true) => assert_eq!(pairs.len(), 7),
                (Reply::Array(elements), false) => assert_eq!(elements.len(), 14),
                (other, _) => panic!("client {id} sent {asked}, got {other:?}"),
            },
            What::SharedCounter(counter) => {
                let Reply::Integer(value) = reply else { panic!("client {id} sent {asked}, got {reply:?}") };
                assert!(value > self.counters_seen[counter], "client {id}: a shared counter went back");
                self.counters_seen[counter] = value;
                self.increments_answered[counter] += 1;
            }
            What::Episode => self.judge_episode(now, expected.sent_at, reply, &asked),
        }
    }

    fn judge_episode(&mut self, now: Millis, sent_at: Millis, reply: Reply, asked: &str) {
        let Plan::Alone(mut episode) = std::mem::replace(&mut self.plan, Plan::Rest) else {
            unreachable!("an episode's reply comes during the episode")
        };
        let id = self.id;
        let goes_on = match &mut *episode {
            Episode::Keys => {
                let mut keys = bulks(reply);
                keys.sort();
                assert_eq!(keys, self.model.names(), "client {id}: {asked}");
                false
            }
            Episode::Dbsize => {
                assert_eq!(reply, Reply::Integer(self.model.len() as i64), "client {id}: {asked}");
                false
            }
            Episode::Scan { cursor, seen } => {
                let Reply::Array(mut parts) = reply else { panic!("client {id}: {asked} gave {reply:?}") };
                assert_eq!(parts.len(), 2);
                seen.extend(bulks(parts.remove(1)));
                *cursor = bulks(Reply::Array(parts)).remove(0);
                let done = cursor == b"0";
                if done {
                    let all: Vec<Vec<u8>> = std::mem::take(seen).into_iter().collect();
                    assert_eq!(all, self.model.names(), "client {id}: a whole SCAN, the last call being {asked}");
                }
                !done
            }
            Episode::Fleeting { set, looks, life_ms, earliest, latest, gone, .. } => {
                if !*set {
                    assert_eq!(reply, Reply::Simple(b"OK".to_vec()), "client {id}: {asked}");
                    *set = true;
                    *earliest = Millis(sent_at.0 + *life_ms);
                    *latest = Millis(now.0 + *life_ms);
                } else {
                    let found = match &reply {
                        Reply::Bulk(_) | Reply::Integer(1) => true,
                        Reply::Null | Reply::Integer(0) => false,
                        other => panic!("client {id}: {asked} gave {other:?}"),
                    };
                    let (must_be, must_not_be) = (now < *earliest, sent_at >= *latest || *gone);
                    assert!(found || !must_be, "client {id}: {asked} did not find a key {must_be} before its time");
                    assert!(!found || !must_not_be, "client {id}: {asked} found a key after its time");
                    *gone |= !found;
                }
                let more = *looks > 0 || !asked.starts_with("DEL");
                *looks = looks.saturating_sub(asked.starts_with("GET") as usize);
                more
            }
            Episode::Swap { said } => {
                match *said {
                    // Elsewhere there is nothing of its own, neither before nor after the flush; then all is back.
                    2 | 5 => assert_eq!(reply, Reply::Array(Vec::new()), "client {id}: {asked} after a swap"),
                    7 => {
                        let mut keys = bulks(reply);
                        keys.sort();
                        assert_eq!(keys, self.model.names(), "client {id}: {asked} after swapping back");
                    }
                    _ => assert_eq!(reply, Reply::Simple(b"OK".to_vec()), "client {id}: {asked}"),
                }
                *said < 7
            }
            Episode::HalfClose => unreachable!("asks nothing"),
        };
        self.plan = match goes_on {
            true => Plan::Alone(episode),
            false => Plan::Pipeline(self.random.between(1, 150)),
        };
    }
}

impl Guest for Client {
    fn connection(&self) -> Option<Connection> {
        self.connection
    }

    fn send(&mut self) -> Option<Vec<u8>> {
        let rest = &self.outbox[self.outbox_at..];
        // What was on its way when the shard stopped reading arrives all the same.
        let stopped = !self.flow.read && !self.random.one_in(50);
        if rest.is_empty() || self.connection.is_none() || stopped || self.random.one_in(3) {
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
        let wanted = matches!(&self.plan, Plan::Alone(episode) if matches!(**episode, Episode::HalfClose));
        if wanted && !self.eof_sent && self.outbox_at == self.outbox.len() {
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

fn bulks(reply: Reply) -> Vec<Vec<u8>> {
    let Reply::Array(elements) = reply else { panic!("an array of strings is expected, not {reply:?}") };
    let bytes = |element| match element {
        Reply::Bulk(bytes) => bytes,
        other => panic!("a string is expected, not {other:?}"),
    };
    elements.into_iter().map(bytes).collect()
}

/// Words for a message, the long ones cut.
fn show(words: &[Vec<u8>]) -> String {
    let word = |word: &Vec<u8>| word[..word.len().min(80)].escape_ascii().to_string();
    words.iter().map(word).collect::<Vec<_>>().join(" ")
}
