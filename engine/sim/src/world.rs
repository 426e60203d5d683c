//! The world: shards, queues and clients that move one step at a time, all by one seed.
//!
//! In a step the clock may move; frames that have arrived are handed over; clients' bytes arrive; each shard that is
//! awake takes a turn, but only if something happened to it that would have woken the runtime; sessions that it lists
//! are served; clients read. A wake-up that a shard forgets to ask for is therefore noticed: the world stands still.
//!
//! What must be true is asserted where it can be seen: each reply in `client/`, the end in [`World::finish`].

use torc_engine::id::ShardId;
use torc_engine::shard::Input;

use crate::client::{Client, SHARED_COUNTERS, shared_counter};
use crate::disk::Disk;
use crate::queues::Queues;
use crate::random::Random;
use crate::shards::Shards;

/// What a world is made of.
#[derive(Clone, Debug)]
pub struct Options {
    pub shards: usize,
    /// At most 15: each has a database of its own.
    pub clients: usize,
    /// Steps that a frame is under way, at most.
    pub delay_max: usize,
    /// Frames that wait between two shards, at most.
    pub queue_capacity: usize,
    /// Longest value; 0: all are short.
    pub big_bytes: usize,
    /// Clients sometimes go away in the middle of things.
    pub disconnects: bool,
    /// Clients sometimes do not read for a while.
    pub slow_readers: bool,
    /// Shards sometimes stand still for a while, as when the kernel takes their core away.
    pub sleepy_shards: bool,
    /// There is a `maxmemory` to lease from, never used up: the model knows of no refusals.
    pub bounded: bool,
    /// Shards log what changes, and snapshots of them are taken, on a disk of which blocks take so many steps at most.
    pub disk_delay_max: Option<usize>,
}

impl Options {
    /// Options that are themselves chosen by the seed, for campaigns over many seeds.
    pub fn from_seed(seed: u64) -> Options {
        let mut random = Random::new(seed ^ 0x0051_3ed5);
        Options {
            shards: random.between(1, 4),
            clients: random.between(1, 6),
            delay_max: [0, 3, 20][random.below(3)],
            queue_capacity: random.between(1, 4),
            big_bytes: [0, 20_000, 70_000, 300_000][random.below(4)],
            disconnects: random.one_in(2),
            slow_readers: random.one_in(2),
            sleepy_shards: random.one_in(2),
            bounded: random.one_in(2),
            disk_delay_max: random.one_in(2).then(|| [0, 30, 300][random.below(3)]),
        }
    }
}

/// What happened in a run. Two runs of one seed report the same.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    pub steps: u64,
    pub turns: u64,
    /// Frames between shards.
    pub frames: u64,
    /// Replies, each of them judged.
    pub replies: u64,
    pub reply_bytes: u64,
    /// A hash of all bytes that clients read, in order.
    pub reply_hash: u64,
    pub episodes: u64,
    pub disconnects: u64,
    pub half_closes: u64,
    /// Snapshots of single shards that were complete, each of them judged.
    pub snapshots: u64,
    pub virtual_ms: u64,
}

impl Report {
    /// Notes bytes that a client has read.
    pub(crate) fn take(&mut self, bytes: &[u8]) {
        self.reply_bytes += bytes.len() as u64;
        for byte in bytes {
            self.reply_hash = (self.reply_hash ^ *byte as u64).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
}

/// The `maxmemory` of bounded worlds, more than their clients can fill.
const MAXMEMORY: u64 = 1 << 30;
/// What shards together may have leased when all keys are gone: a little for buffers each.
const LEASED_AT_REST_MAX: u64 = 1 << 20;
/// Steps in which everything must come to rest after the last command.
const FINISH_STEPS_MAX: u64 = 300_000;

pub struct World {
    options: Options,
    random: Random,
    shards: Shards,
    queues: Queues,
    clients: Vec<Client>,
    disk: Option<Disk>,
    /// By shard: does not move before this step.
    sleeps_until: Vec<u64>,
    step: u64,
    report: Report,
    /// Names the seed if the world ends in a panic, wherever that comes from.
    _last_words: LastWords,
}

struct LastWords(u64);

impl Drop for LastWords {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let seed = self.0;
            eprintln!("seed {seed} failed; again: TORC_SIM_SEED={seed} cargo test -p torc-sim one_seed -- --nocapture");
        }
    }
}

impl World {
    pub fn new(seed: u64, options: Options) -> World {
        assert!((1..=15).contains(&options.clients), "each client has a database of its own");
        let last_words = LastWords(seed);
        let mut random = Random::new(seed);
        let clients = (0..options.clients).map(|id| Client::new(id, &options, random.fork())).collect();
        let maxmemory = if options.bounded { MAXMEMORY.to_string() } else { "0".to_owned() };
        let append_only = if options.disk_delay_max.is_some() { "yes" } else { "no" };
        let settings: &[(&str, &[&str])] = &[("maxmemory", &[&maxmemory]), ("appendonly", &[append_only])];
        let mut shards = Shards::with_settings(options.shards, settings);
        World {
            disk: options.disk_delay_max.map(|delay_max| Disk::new(&mut shards, delay_max, random.fork())),
            shards,
            queues: Queues::new(options.shards, options.queue_capacity, options.delay_max, random.fork()),
            clients,
            sleeps_until: vec![0; options.shards],
            step: 0,
            report: Report::default(),
            _last_words: last_words,
            random,
            options,
        }
    }

    /// Lets the clients act for so many steps, then everything come to rest. Panics if anything is not as it must be.
    pub fn run(mut self, steps: u64) -> Report {
        for _ in 0..steps {
            for client in &mut self.clients {
                if self.random.one_in(4) {
                    client.think(self.step, &self.options, &mut self.shards, &mut self.report);
                }
            }
            self.step();
        }
        self.finish()
    }

    fn step(&mut self) {
        self.step += 1;
        let ms = match self.random.below(40) {
            0 => self.random.between(1, 150),
            1..=15 => 1,
            _ => 0,
        } as u64;
        self.shards.machine.now.0 += ms;
        self.report.virtual_ms += ms;
        for shard in 0..self.options.shards {
            if self.options.sleepy_shards && self.random.one_in(400) {
                self.sleeps_until[shard] = self.step + self.random.between(5, 100) as u64;
            }
            if self.sleeps_until[shard] <= self.step {
                self.pass(shard);
            }
        }
        for client in &mut self.clients {
            client.receive(self.step, &mut self.shards, &mut self.report);
        }
    }

    /// One pass of a shard's loop, as the runtime's worker does it.
    fn pass(&mut self, shard: usize) {
        for from in 0..self.options.shards {
            while let Some(frame) = self.queues.pop(self.step, from, shard) {
                self.shards.give_frame(from, shard, frame);
            }
        }
        let (mut arena, mut inputs) = (Vec::new(), Vec::new());
        for client in &mut self.clients {
            let Some(connection) = client.connection.filter(|connection| connection.home == shard) else { continue };
            for _ in 0..self.random.between(1, 2) {
                if let Some(bytes) = client.send() {
                    let (start, len) = (arena.len() as u32, bytes.len() as u32);
                    inputs.push(Input { session: connection.session, start, len });
                    arena.extend_from_slice(&bytes);
                }
            }
        }
        let due = self.shards.shards[shard].next_wake().is_some_and(|at| at <= self.shards.now());
        if !inputs.is_empty() || due || self.shards.shards[shard].has_work() {
            self.shards.turn_in(shard, &arena, &inputs);
            self.report.turns += 1;
        }
        for client in &mut self.clients {
            if client.connection.is_some_and(|connection| connection.home == shard) {
                client.send_eof(&mut self.shards);
            }
        }
        while let Some(session) = self.shards.shards[shard].poll_session() {
            let listed = |client: &&mut Client| {
                client.connection.is_some_and(|connection| connection.home == shard && connection.session == session)
            };
            if let Some(client) = self.clients.iter_mut().find(listed) {
                client.touch(&self.shards);
            }
        }
        for to in (0..self.options.shards).filter(|&to| to != shard) {
            while self.queues.has_room(shard, to) {
                let Some(frame) = self.shards.shards[shard].poll_frame(ShardId(to as u16)) else { break };
                self.queues.push(self.step, shard, to, frame);
            }
        }
        if let Some(disk) = &mut self.disk {
            disk.pass(self.step, shard, &mut self.shards);
        }
        let leased = self.shards.machine.leased;
        assert!(leased <= if self.options.bounded { MAXMEMORY } else { 0 }, "{leased} bytes are leased");
        assert!(self.shards.events.is_empty(), "nobody asked for {:?}", self.shards.events);
    }

    /// Lets everything come to rest and looks at what is left.
    fn finish(mut self) -> Report {
        if let Some(disk) = &mut self.disk {
            disk.begins = false;
        }
        self.run_until("all commands are answered", |world| {
            let now = world.shards.now();
            world.clients.iter_mut().for_each(|client| client.wind_down(now));
            let at_rest = world.shards.shards.iter().all(|shard| shard.is_drained());
            let at_rest = at_rest && world.disk.as_ref().is_none_or(Disk::is_at_rest);
            // Nor are there buffers for clients that want nothing.
            let nothing_held = world.shards.shards.iter().all(|shard| shard.buffers_bytes() == 0);
            world.clients.iter().all(Client::is_resting) && world.queues.is_empty() && at_rest && nothing_held
        });
        for (id, shard) in self.shards.shards.iter().enumerate() {
            assert_eq!(shard.outstanding(), 0, "shard {id} waits for replies");
        }
        self.run_until("all connections are closed", |world| {
            world.clients.iter_mut().for_each(Client::close_sending_side);
            world.clients.iter().all(|client| client.connection.is_none())
        });
        self.count_increments();
        self.shards.settle();
        self.count_leases();
        self.shards.assert_at_rest();
        assert!(self.queues.is_empty());
        self.report.steps = self.step;
        self.report.frames = self.queues.frames;
        self.report.snapshots = self.disk.map_or(0, |disk| disk.counts.finished);
        self.report.clone()
    }

    /// What is not used any more goes back to the pool.
    fn count_leases(&mut self) {
        let janitor = self.shards.connect(0);
        self.shards.command(janitor, &["FLUSHALL"]);
        self.shards.disconnect(janitor);
        for _ in 0..5 {
            self.shards.advance(150);
        }
        let leased = self.shards.machine.leased;
        assert!(leased <= LEASED_AT_REST_MAX, "{leased} bytes are leased to shards without keys");
    }

    fn run_until(&mut self, what: &str, mut done: impl FnMut(&mut World) -> bool) {
        let last = self.step + FINISH_STEPS_MAX;
        while !done(self) {
            self.step();
            let waits = || self.clients.iter().map(Client::waits_for).collect::<Vec<_>>().join("\n");
            assert!(self.step < last, "it never came that {what}:\n{}", waits());
        }
    }

    /// The counters that all clients incremented hold what was answered, or more where clients went away unanswered.
    fn count_increments(&mut self) {
        let judge = self.shards.connect(0);
        for counter in 0..SHARED_COUNTERS {
            let reply = self.shards.command(judge, &["INCRBY", &shared_counter(counter), "0"]);
            let value: u64 = reply.trim_start_matches(':').trim_end().parse().expect("a number");
            let sum = |of: fn(&Client) -> &[u64; SHARED_COUNTERS]| -> u64 {
                self.clients.iter().map(|client| of(client)[counter]).sum()
            };
            let (answered, sent) = (sum(|client| &client.increments_answered), sum(|client| &client.increments_sent));
            assert!((answered..=sent).contains(&value), "shared counter {counter}: {answered} <= {value} <= {sent}");
            assert!(self.report.disconnects > 0 || answered == sent, "nobody went away, so all were answered");
        }
        self.shards.disconnect(judge);
    }
}
