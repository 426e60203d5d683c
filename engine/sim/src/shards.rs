//! A few shards driven as the runtime drives them, with a clock that moves when it is told to.

use std::net::SocketAddr;

use torc_engine::config::Config;
use torc_engine::id::{Millis, SessionId, ShardId};
use torc_engine::message::Frame;
use torc_engine::shard::{Close, Event, Flow, Input, Peer, Refusal, Shard};

use crate::machine::SimMachine;

/// Where the clocks start: some day in 2026, so that absolute times look like real ones.
pub(crate) const EPOCH: Millis = Millis(1_780_000_000_000);
/// Turns and frames that [`Shards::settle`] allows before it calls the shards restless.
const SETTLE_ROUNDS_MAX: usize = 100_000;

/// A client's connection: its session, and the shard it lives on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connection {
    pub home: usize,
    pub session: SessionId,
}

/// Shards in one thread. What leaves them is moved by hand, or by [`Shards::settle`].
pub struct Shards {
    pub shards: Vec<Shard>,
    pub machine: SimMachine,
    /// Events of the process that shards raised, in order.
    pub events: Vec<Event>,
    /// Big values that were given up are left for the test to poll.
    pub keep_garbage: bool,
}

impl Shards {
    /// `count` shards with the default settings.
    pub fn new(count: usize) -> Shards {
        Shards::with_settings(count, &[])
    }

    /// `count` shards with these settings, as in a configuration file.
    pub fn with_settings(count: usize, settings: &[(&str, &[&str])]) -> Shards {
        Shards::begin(count, settings, [1, 2, 3, 4], EPOCH)
    }

    /// As [`Shards::with_settings`], of a process with this hash seed that starts at this time.
    pub fn begin(count: usize, settings: &[(&str, &[&str])], seed: [u64; 4], now: Millis) -> Shards {
        let mut config = Config::default();
        for (name, words) in settings {
            config.set_at_start(name, words).expect("a test's settings are right");
        }
        let shard = |id| Shard::new(ShardId(id as u16), count, seed, config.clone(), now);
        let machine = SimMachine::new(now);
        Shards { shards: (0..count).map(shard).collect(), machine, events: Vec::new(), keep_garbage: false }
    }

    pub fn now(&self) -> Millis {
        self.machine.now
    }

    /// Lets time pass, and what is due happen.
    pub fn advance(&mut self, ms: u64) {
        self.machine.now = Millis(self.machine.now.0 + ms);
        for shard in 0..self.shards.len() {
            self.turn(shard, &[]);
        }
        self.settle();
    }

    /// Connects a client to a shard.
    pub fn connect(&mut self, home: usize) -> Connection {
        self.try_connect(home, "127.0.0.1:50000", 1).expect("the default settings let a local client in")
    }

    pub fn try_connect(&mut self, home: usize, from: &str, clients_total: usize) -> Result<Connection, Refusal> {
        let address: SocketAddr = from.parse().expect("an address");
        let local_address = SocketAddr::from(([127, 0, 0, 1], 6379));
        let peer = Peer { address, local_address, clients_total };
        let session = self.shards[home].handle_connect(self.machine.now, peer)?;
        Ok(Connection { home, session })
    }

    /// One turn of a shard with what arrived for its sessions.
    pub fn turn(&mut self, shard: usize, inputs: &[(SessionId, &[u8])]) {
        let mut arena = Vec::new();
        let mut list = Vec::new();
        for (session, bytes) in inputs {
            list.push(Input { session: *session, start: arena.len() as u32, len: bytes.len() as u32 });
            arena.extend_from_slice(bytes);
        }
        self.turn_in(shard, &arena, &list);
    }

    /// One turn of a shard with inputs that lie in `arena`.
    pub fn turn_in(&mut self, shard: usize, arena: &[u8], inputs: &[Input]) {
        let of = |shard: &Shard| shard.buffers_bytes();
        let buffers_others = self.shards.iter().map(of).sum::<u64>() - of(&self.shards[shard]);
        let now = self.machine.now;
        self.shards[shard].turn(now, &mut self.machine, buffers_others, arena, inputs);
        while let Some(event) = self.shards[shard].poll_event() {
            self.events.push(event);
        }
        self.drop_garbage(shard);
    }

    /// Drops what the shard has given up, as the runtime has it done elsewhere, unless it is to pile up.
    fn drop_garbage(&mut self, shard: usize) {
        while !self.keep_garbage
            && let Some(value) = self.shards[shard].poll_garbage()
        {
            assert!(value.len() >= torc_engine::limits::GARBAGE_VALUE_BYTES_MIN, "small values are dropped at once");
            self.shards[shard].handle_garbage_freed(1, value.len() as u64);
        }
    }

    /// One turn of the connection's shard with these bytes; nothing is moved between shards.
    pub fn feed(&mut self, connection: Connection, bytes: &[u8]) {
        self.turn(connection.home, &[(connection.session, bytes)]);
    }

    /// The frame that one shard has for another.
    pub fn take_frame(&mut self, from: usize, to: usize) -> Option<Frame> {
        self.shards[from].poll_frame(ShardId(to as u16))
    }

    /// Hands a frame over; it is read in the receiver's next turn.
    pub fn give_frame(&mut self, from: usize, to: usize, frame: Frame) {
        self.shards[to].handle_frame(ShardId(from as u16), frame);
    }

    /// Moves frames and takes turns until nothing is left to do.
    pub fn settle(&mut self) {
        for _ in 0..SETTLE_ROUNDS_MAX {
            let mut busy = false;
            for from in 0..self.shards.len() {
                for to in (0..self.shards.len()).filter(|&to| to != from) {
                    if let Some(frame) = self.take_frame(from, to) {
                        self.give_frame(from, to, frame);
                        busy = true;
                    }
                }
            }
            for shard in 0..self.shards.len() {
                if self.shards[shard].has_work() {
                    self.turn(shard, &[]);
                    busy = true;
                }
            }
            if !busy {
                return;
            }
        }
        panic!("the shards do not come to rest");
    }

    /// Sends bytes and gives everything that comes back once nothing moves any more.
    pub fn exchange(&mut self, connection: Connection, bytes: &[u8]) -> Vec<u8> {
        self.feed(connection, bytes);
        let mut all = Vec::new();
        // Reading may let a waiting session go on, which makes more output.
        loop {
            self.settle();
            let more = self.read(connection, usize::MAX);
            if more.is_empty() && !self.shards[connection.home].has_work() {
                return all;
            }
            all.extend_from_slice(&more);
        }
    }

    /// [`Shards::exchange`] for one command, in text.
    pub fn command(&mut self, connection: Connection, words: &[&str]) -> String {
        let words: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
        String::from_utf8_lossy(&self.exchange(connection, &encode(&words))).into_owned()
    }

    /// Bytes that wait to be read by the client.
    pub fn unread(&self, connection: Connection) -> usize {
        let (buffer, sent) = self.shards[connection.home].output(connection.session);
        buffer.len() - sent
    }

    /// The client reads up to `count` bytes.
    pub fn read(&mut self, connection: Connection, count: usize) -> Vec<u8> {
        let (buffer, sent) = self.shards[connection.home].output(connection.session);
        let mut bytes = Vec::with_capacity(count.min(buffer.len() - sent));
        let mut skip = sent;
        let mut copy = |piece: &[u8]| {
            let skipped = skip.min(piece.len());
            skip -= skipped;
            let piece = &piece[skipped..];
            bytes.extend_from_slice(&piece[..piece.len().min(count - bytes.len())]);
        };
        let mut from = 0;
        for (at, value) in &buffer.shared {
            copy(&buffer.bytes[from..*at]);
            copy(value);
            from = *at;
        }
        copy(&buffer.bytes[from..]);
        if !bytes.is_empty() {
            self.shards[connection.home].handle_sent(connection.session, bytes.len());
        }
        bytes
    }

    pub fn flow(&self, connection: Connection) -> Flow {
        self.shards[connection.home].flow(connection.session)
    }

    /// The shard wants the connection closed, once or before its output is sent.
    pub fn is_closing(&self, connection: Connection) -> bool {
        self.flow(connection).close != Close::No
    }

    pub fn eof(&mut self, connection: Connection) {
        self.shards[connection.home].handle_eof(connection.session);
    }

    pub fn disconnect(&mut self, connection: Connection) {
        self.shards[connection.home].handle_disconnect(connection.session);
    }

    /// Asserts that no shard owes anything to anyone.
    pub fn assert_at_rest(&self) {
        for (id, shard) in self.shards.iter().enumerate() {
            assert_eq!(shard.outstanding(), 0, "shard {id} waits for replies");
            assert!(shard.is_drained(), "shard {id} is not drained");
            assert!(!shard.has_work(), "shard {id} is not at rest");
        }
    }
}

/// A request as clients send it.
pub fn encode<W: AsRef<[u8]>>(words: &[W]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        bytes.extend_from_slice(format!("${}\r\n", word.as_ref().len()).as_bytes());
        bytes.extend_from_slice(word.as_ref());
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
}
