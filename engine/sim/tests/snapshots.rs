//! Snapshots of shards to which everything happens at once: writes of all sizes, expiry, eviction, flushes and swaps, with a
//! disk that is slow. The log says what each of them must have (`src/disk.rs`); replies are read and not judged, which
//! `seeds.rs` does.

use torc_engine::shard::Input;
use torc_sim::{Connection, Disk, Random, Shards, SnapshotCounts, encode};

struct Storm {
    shards: Shards,
    disk: Disk,
    clients: Vec<Connection>,
    random: Random,
    keys: usize,
    big_bytes: usize,
    /// One value in so many is big.
    big_every: usize,
}

impl Storm {
    fn new(seed: u64) -> Storm {
        let mut random = Random::new(seed);
        let count = random.between(1, 3);
        // Much to save and a very slow disk: writers wait.
        let is_heavy = random.one_in(3);
        let maxmemory = if is_heavy { ["0", "64mb"][random.below(2)] } else { ["0", "3mb", "8mb"][random.below(3)] };
        let policy = ["allkeys-lru", "allkeys-s3fifo", "volatile-ttl"][random.below(3)];
        let settings: &[(&str, &[&str])] =
            &[("appendonly", &["yes"]), ("maxmemory", &[maxmemory]), ("maxmemory-policy", &[policy])];
        let mut shards = Shards::with_settings(count, settings);
        let delay_max = if is_heavy { 200 } else { [5, 100][random.below(2)] };
        let disk = Disk::new(&mut shards, delay_max, random.fork());
        let clients = (0..2 * count).map(|number| shards.connect(number % count)).collect();
        let (keys, big_bytes) = ([500, 5_000][random.below(2)], [100, 20_000, 200_000][random.below(3)]);
        let (keys, big_bytes, big_every) = if is_heavy { (2_000, 100_000, 2) } else { (keys, big_bytes, 20) };
        Storm { shards, disk, clients, random, keys, big_bytes, big_every }
    }

    fn command(&mut self) -> Vec<u8> {
        let random = &mut self.random;
        let key = format!("key{}", random.below(self.keys));
        let bytes = if random.one_in(self.big_every) { random.below(self.big_bytes) } else { random.below(200) };
        let value = "v".repeat(bytes);
        let ms = random.between(1, 3_000).to_string();
        let words: &[&str] = match random.below(20_000) {
            0..9_000 => &["SET", &key, &value],
            9_000..12_000 => &["SET", &key, &value, "PX", &ms],
            12_000..14_000 => &["DEL", &key],
            14_000..15_000 => &["APPEND", &key, "appended"],
            15_000..16_000 => &["SETRANGE", &key, "70", &value],
            16_000..17_000 => &["PEXPIRE", &key, &ms],
            17_000..17_500 => &["PERSIST", &key],
            17_500..19_960 => &["GET", &key],
            19_960..19_990 => &["SELECT", ["0", "3"][random.below(2)]],
            19_990..19_996 => &["SWAPDB", "0", "3"],
            // It would be given up, and there would never be much.
            _ if self.big_every == 2 => &["DBSIZE"],
            19_996..19_998 => &["FLUSHDB"],
            _ => &["FLUSHALL"],
        };
        encode(words)
    }

    fn step(&mut self, step: u64, is_acting: bool) {
        if self.random.one_in(4) {
            self.shards.machine.now.0 += self.random.below(20) as u64;
        }
        for shard in 0..self.shards.shards.len() {
            let (mut arena, mut inputs) = (Vec::new(), Vec::new());
            for index in 0..self.clients.len() {
                let client = self.clients[index];
                if client.home != shard || !is_acting || !self.shards.flow(client).read {
                    continue;
                }
                let start = arena.len() as u32;
                for _ in 0..self.random.below(6) {
                    arena.extend_from_slice(&self.command());
                }
                inputs.push(Input { session: client.session, start, len: arena.len() as u32 - start });
            }
            let due = self.shards.shards[shard].next_wake().is_some_and(|at| at <= self.shards.now());
            if !inputs.is_empty() || due || self.shards.shards[shard].has_work() {
                self.shards.machine.ticks += self.random.below(60_000) as u64;
                self.shards.turn_in(shard, &arena, &inputs);
            }
            for to in (0..self.shards.shards.len()).filter(|&to| to != shard) {
                if let Some(frame) = self.shards.take_frame(shard, to) {
                    self.shards.give_frame(shard, to, frame);
                }
            }
            self.disk.pass(step, shard, &mut self.shards);
        }
        for &client in &self.clients {
            self.shards.read(client, usize::MAX);
        }
    }

    fn run(mut self, steps: u64) -> SnapshotCounts {
        (0..steps).for_each(|step| self.step(step, true));
        // What runs comes to its end, and who waits goes on.
        self.disk.begins = false;
        let mut step = steps;
        while !(self.disk.is_at_rest() && self.shards.shards.iter().all(|shard| shard.is_drained())) {
            self.step(step, false);
            step += 1;
            assert!(step < steps + 200_000, "it does not come to rest");
        }
        self.disk.counts
    }
}

fn run(seed: u64, steps: u64) -> SnapshotCounts {
    println!("seed {seed}");
    Storm::new(seed).run(steps)
}

#[test]
fn snapshots_are_what_the_log_says() {
    let mut all = SnapshotCounts::default();
    for seed in 0..12 {
        let counts = run(seed, 1_200);
        all.finished += counts.finished;
        all.aborted += counts.aborted;
        all.entries += counts.entries;
        all.full += counts.full;
    }
    assert!(all.finished > 50 && all.aborted > 2 && all.entries > 20_000 && all.full > 5, "it has gone quiet: {all:?}");
}

#[test]
fn a_seed_gives_the_same_storm_again() {
    assert_eq!(run(5, 500), run(5, 500));
}

/// `TORC_SIM_SEED=7 cargo test --profile sim -p torc-sim storms -- --ignored --nocapture`, `TORC_SIM_SEEDS` many from there.
#[test]
#[ignore = "long"]
fn storms() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse().expect("a number"));
    let first: u64 = number("TORC_SIM_SEED").unwrap_or(100);
    for seed in first..first + number("TORC_SIM_SEEDS").unwrap_or(200) {
        println!("{:?}", run(seed, 3_000));
    }
}
