//! How long a turn takes at worst: `cargo bench -p torc-engine --bench pauses`, for fewer keys than 20 million with
//! `-- --keys N`, for a smaller value than 512 MiB with `-- --value-mib N`.
//!
//! Not how much an operation costs on average, which the other benchmarks say, but what one turn can cost everybody behind
//! it: each turn's CPU time goes into a histogram, that of the page faults in it included. It is the thread's own time, so
//! that whatever else the machine does is not in it.
//!
//! - `grow`: from nothing to all keys, in turns of 64 pipelined SETs.
//! - `flushall`: one turn (ASYNC); and the turns without input after it, until the shard has nothing to do.
//! - `grow again`: in what memory the first time has left.
//! - `delete`: turns of 48 DELs, in another order than the keys came, and 16 SETs of keys that are still there with a longer
//!   value, until none is left; and the turns after it.
//! - `large value`: a SET of one value of 512 MiB, received in pieces; the same over it; a short one over it; the SET again
//!   and a DEL of it. The last piece's turn executes.
//!
//! Memory is filled ahead by a thread of its own, as in a server, as fast as it can.
//!
//! The shard's clock runs with the time that the turns take, so its timers run as they would in a server under this load.
//! Requests are built outside of the measured time.

mod common;

use std::fmt::Write as _;
use std::sync::mpsc::{self, Sender};
use std::thread;

use common::VALUE;
use hdrhistogram::Histogram;
use rustix::time::{ClockId, clock_gettime};
use torc_engine::id::Millis;
use torc_engine::limits::BATCH_COMMANDS;
use torc_engine::shard::Input;
use torc_engine::store::Ahead;
use torc_sim::{Connection, Shards, encode};

const USAGE: &str = "usage: cargo bench -p torc-engine --bench pauses [-- [--keys N] [--value-mib N]]";

/// What `cargo test --benches` does: enough to see that it works.
const TRIED: Sizes = Sizes { keys: 20_000, value_bytes: 1 << 20 };
const MEASURED: Sizes = Sizes { keys: 20_000_000, value_bytes: 512 << 20 };
/// The longest value there can be, MiB.
const VALUE_MIB_MAX: usize = 512;
/// More than this the numbers in keys have no digits for, and the machine hardly memory.
const KEYS_MAX: usize = 1_000_000_000;

#[derive(Clone, Copy)]
struct Sizes {
    keys: usize,
    value_bytes: usize,
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let Some(sizes) = parse(&words) else {
        eprintln!("{USAGE}");
        std::process::exit(2);
    };
    println!("{} keys, a value of {} bytes; CPU microseconds of one turn", sizes.keys, sizes.value_bytes);
    println!(
        "{:<36} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9}  largest at",
        "", "turns", "p50", "p99", "p99.9", "p99.99", "max"
    );
    let mut world = World::new();
    world.grow("grow", sizes.keys);
    world.flush();
    world.grow("grow again", sizes.keys);
    world.delete(sizes.keys);
    drop(world);
    large_value(sizes.value_bytes);
}

fn parse(words: &[String]) -> Option<Sizes> {
    let mut sizes = if words.iter().any(|word| word == "--bench") { MEASURED } else { TRIED };
    let mut words = words.iter().filter(|word| *word != "--bench");
    while let Some(word) = words.next() {
        let mut number = |max| words.next()?.parse().ok().filter(|number| (1..=max).contains(number));
        match &word[..] {
            "--keys" => sizes.keys = number(KEYS_MAX)?,
            "--value-mib" => sizes.value_bytes = number(VALUE_MIB_MAX)? << 20,
            _ => return None,
        }
    }
    Some(sizes)
}

const HOME: usize = 0;
/// DELs of a turn that deletes; the rest are SETs.
const DELETES: usize = BATCH_COMMANDS * 3 / 4;
/// What those set.
const LONGER_VALUE: &[u8] = &[b'w'; 100];
/// Keys are deleted in steps of this: a prime, so that each comes once.
const STRIDE: usize = 982_451_653;
/// Turns in which a shard without input must come to rest.
const TURNS_MAX: usize = 50_000_000;
/// What one receive brings at most.
const PIECE_BYTES: usize = 16 << 10;

const OK: &str = "+OK\r\n";
const DELETED: &str = ":1\r\n";

/// One shard and its client.
struct World {
    shards: Shards,
    client: Connection,
    /// Time that the turns took and that is not yet in the shard's clock.
    rest_ns: u64,
    /// To the thread that fills memory ahead.
    filler: Sender<Ahead>,
}

impl World {
    fn new() -> World {
        let mut shards = Shards::new(1);
        let client = shards.connect(HOME);
        let (filler, asked) = mpsc::channel();
        thread::spawn(move || asked.into_iter().for_each(Ahead::fill));
        World { shards, client, rest_ns: 0, filler }
    }

    fn grow(&mut self, name: &str, keys: usize) {
        let mut phase = Phase::new(name);
        let mut requests = Requests::default();
        for first in (0..keys).step_by(BATCH_COMMANDS) {
            requests.clear();
            let last = (first + BATCH_COMMANDS).min(keys);
            (first..last).for_each(|number| requests.set(number, VALUE));
            let taken_ns = self.turn(&requests.bytes, requests.reply_bytes);
            phase.record(taken_ns, || format!("{last} keys"));
        }
        phase.print();
        self.assert_keys(keys);
    }

    fn flush(&mut self) {
        let mut phase = Phase::new("flushall");
        phase.record(self.turn(&encode(&["FLUSHALL", "ASYNC"]), OK.len()), String::new);
        phase.print();
        self.rest("flushall, turns after it");
        self.assert_keys(0);
    }

    fn delete(&mut self, keys: usize) {
        let mut phase = Phase::new("delete");
        let mut requests = Requests::default();
        let at = |place: usize| (place as u64 * STRIDE as u64 % keys as u64) as usize;
        for first in (0..keys).step_by(DELETES) {
            requests.clear();
            let last = (first + DELETES).min(keys);
            let left = keys - last;
            for place in first..last {
                requests.delete(at(place));
                // Between them, so that one is as likely to come after the other as before it.
                if place % 3 == 0 && left > 0 {
                    requests.set(at(last + place % left), LONGER_VALUE);
                }
            }
            let taken_ns = self.turn(&requests.bytes, requests.reply_bytes);
            phase.record(taken_ns, || format!("{left} keys"));
        }
        phase.print();
        self.rest("delete, turns after it");
        self.assert_keys(0);
    }

    /// Turns without input until there is nothing left to do. Time passes only as far as the next timer.
    fn rest(&mut self, name: &str) {
        let mut phase = Phase::new(name);
        for turn in 0..TURNS_MAX {
            let shard = &self.shards.shards[HOME];
            if !shard.has_work() {
                match shard.next_wake() {
                    Some(at) => self.shards.machine.now = self.shards.machine.now.max(at),
                    None => return phase.print(),
                }
            }
            let taken_ns = self.turn(&[], 0);
            phase.record(taken_ns, || format!("turn {}", turn + 1));
        }
        panic!("the shard does not come to rest");
    }

    /// One turn with these bytes, and its replies taken as the worker takes them when all are sent at once, which are so many
    /// bytes. Gives the CPU time it took.
    fn turn(&mut self, bytes: &[u8], reply_bytes: usize) -> u64 {
        let input = Input { session: self.client.session, start: 0, len: bytes.len() as u32 };
        let inputs = if bytes.is_empty() { &[][..] } else { std::slice::from_ref(&input) };
        let Shards { shards, machine, .. } = &mut self.shards;
        let shard = &mut shards[HOME];
        let start_ns = cpu_ns();
        shard.turn(machine.now, machine, 0, bytes, inputs);
        let mut sent = 0;
        while let Some(session) = shard.poll_session() {
            let (buffer, before) = shard.output(session);
            let unsent = buffer.len() - before;
            shard.handle_sent(session, unsent);
            sent += unsent;
        }
        while let Some(ahead) = shard.poll_ahead() {
            self.filler.send(ahead).expect("the thread is there as long as the world");
        }
        let taken_ns = cpu_ns() - start_ns;
        assert_eq!(sent, reply_bytes, "every command is answered as it should be");
        self.rest_ns += taken_ns;
        machine.now = Millis(machine.now.0 + self.rest_ns / 1_000_000);
        self.rest_ns %= 1_000_000;
        taken_ns
    }

    fn assert_keys(&mut self, keys: usize) {
        assert_eq!(self.shards.command(self.client, &["DBSIZE"]), format!(":{keys}\r\n"));
    }
}

/// In a shard of its own: what 20 million keys left in the allocator is not to be part of it.
fn large_value(bytes: usize) {
    let mut world = World::new();
    let key: &[u8] = b"large";
    let large = encode(&[b"SET", key, &vec![b'v'; bytes]]);
    let receive = |world: &mut World, name: &str| {
        let mut phase = Phase::new(name);
        let pieces = large.chunks(PIECE_BYTES);
        let count = pieces.len();
        for (at, piece) in pieces.enumerate() {
            let reply_bytes = if at + 1 == count { OK.len() } else { 0 };
            let taken_ns = world.turn(piece, reply_bytes);
            phase.record(taken_ns, || format!("piece {} of {count}", at + 1));
        }
        phase.print();
    };
    let single = |world: &mut World, name: &str, words: &[&[u8]], reply: &str| {
        let mut phase = Phase::new(name);
        phase.record(world.turn(&encode(words), reply.len()), String::new);
        phase.print();
        world.rest(&format!("{name}, turns after it"));
    };
    receive(&mut world, "large value, received and set");
    receive(&mut world, "large value, set over it");
    single(&mut world, "large value, short one over it", &[b"SET", key, b"short"], OK);
    receive(&mut world, "large value, set over the short one");
    single(&mut world, "large value, deleted", &[b"DEL", key], DELETED);
}

/// Requests of one turn, and the length of what they are answered with.
#[derive(Default)]
struct Requests {
    bytes: Vec<u8>,
    reply_bytes: usize,
    key: String,
}

impl Requests {
    fn clear(&mut self) {
        self.bytes.clear();
        self.reply_bytes = 0;
    }

    fn set(&mut self, number: usize, value: &[u8]) {
        self.name(number);
        self.bytes.extend_from_slice(&encode(&[b"SET", self.key.as_bytes(), value]));
        self.reply_bytes += OK.len();
    }

    fn delete(&mut self, number: usize) {
        self.name(number);
        self.bytes.extend_from_slice(&encode(&[b"DEL", self.key.as_bytes()]));
        self.reply_bytes += DELETED.len();
    }

    fn name(&mut self, number: usize) {
        self.key.clear();
        write!(self.key, "key:{number:012}").expect("a string takes all");
    }
}

/// The CPU time of this thread.
fn cpu_ns() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// What the turns of one phase took.
struct Phase {
    name: String,
    taken_ns: Histogram<u64>,
    longest_ns: u64,
    /// Where the longest one was.
    place: String,
}

impl Phase {
    fn new(name: &str) -> Phase {
        let taken_ns = Histogram::new(3).expect("three digits are a valid precision");
        Phase { name: name.to_owned(), taken_ns, longest_ns: 0, place: String::new() }
    }

    fn record(&mut self, taken_ns: u64, place: impl FnOnce() -> String) {
        self.taken_ns.record(taken_ns).expect("the histogram grows");
        if taken_ns > self.longest_ns {
            (self.longest_ns, self.place) = (taken_ns, place());
        }
    }

    fn print(&self) {
        print!("{:<36} {:>9}", self.name, self.taken_ns.len());
        for quantile in [0.5, 0.99, 0.999, 0.9999] {
            print!(" {:>9.1}", self.taken_ns.value_at_quantile(quantile) as f64 / 1e3);
        }
        println!(" {:>9.1}  {}", self.longest_ns as f64 / 1e3, self.place);
    }
}
