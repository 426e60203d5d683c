//! What a world is made of. Each seed turns features on and off and draws their weights: a world in which everything happens at
//! once hides what needs a calm moment, and never gets far (swarm testing, Groce et al., ISSTA 2012).

use crate::random::Random;
use crate::storage::Faults;

/// What a world is made of.
#[derive(Clone, Debug)]
pub struct Options {
    /// When it begins; a start may change that if `reshards`.
    pub shards: usize,
    pub reshards: bool,
    /// Clients that own their keys, each with a database of its own (at most 15), and judge each reply at once.
    pub clients: usize,
    /// Clients that share keys, whose histories are judged.
    pub sharers: usize,
    /// Keys that sharers share, and those that each has beside them.
    pub keys: usize,
    pub own_keys: usize,
    /// Weights of what sharers do, by group of commands.
    pub weights: [usize; 8],
    /// Milliseconds that keys live which expire, at most.
    pub life_ms_max: u64,
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
    /// Who does not read is cut off when so many bytes wait for it; 0: never.
    pub output_bytes_max: u64,
    /// Shards sometimes stand still for a while, as when the kernel takes their core away.
    pub sleepy_shards: bool,
    /// The clock jumps ahead, and back.
    pub clock_jumps: bool,
    /// 0: there is no bound.
    pub maxmemory: u64,
    pub policy: &'static str,
    /// Changes are logged.
    pub logs: bool,
    pub fsync: &'static str,
    /// Clients change settings.
    pub changes_settings: bool,
    /// Sharers flush the database.
    pub flushes: bool,
    /// Segments of a log: the first, and the largest.
    pub segment_bytes: (u64, u64),
    pub faults: Faults,
    /// The process is killed, or the machine loses its power, so often at most; and stops in order so often at most.
    pub crashes: usize,
    pub power_failures: bool,
    pub stops: usize,
    /// A save point that is often reached.
    pub save_points: bool,
}

/// The `maxmemory` of worlds in which nothing is ever refused, more than their clients can fill.
const PLENTY: u64 = 1 << 30;

impl Options {
    /// Options that are themselves chosen by the seed, for campaigns over many seeds.
    pub fn from_seed(seed: u64) -> Options {
        let mut random = Random::new(seed ^ 0x0051_3ed5);
        let random = &mut random;
        let logs = !random.one_in(6);
        let is_tight = random.one_in(3);
        // Somebody who knows what each of its keys holds cannot have any of them refused or taken away.
        let has_owners = !is_tight && random.one_in(3);
        let is_faulty = logs && !has_owners && random.one_in(2);
        let often = [400, 2_000][random.below(2)];
        let fault = |random: &mut Random, one_in: usize| if is_faulty && random.one_in(2) { one_in } else { 0 };
        let faults = Faults {
            delay_max: [0, 3, 30, 120][random.below(4)],
            log_error_one_in: fault(random, often),
            save_error_one_in: fault(random, 60),
            stall_max: fault(random, [100, 3_000][often / 2_000]),
            full_max: fault(random, 800),
        };
        let policies = [
            "noeviction",
            "allkeys-lru",
            "allkeys-lfu",
            "volatile-ttl",
            "volatile-lru",
            "allkeys-random",
            "allkeys-s3fifo",
        ];
        let big_bytes = match is_tight {
            true => [20_000, 70_000][random.below(2)],
            false => [0, 0, 20_000, 70_000, 300_000][random.below(5)],
        };
        let segment_bytes = [(8 << 10, 32 << 10), (16 << 10, 16 << 10), (64 << 10, 1 << 20)][random.below(3)];
        // A big value that goes through small segments, each of which takes long, is all that there would be time for.
        let faults = match big_bytes > segment_bytes.1 as usize {
            true => Faults { delay_max: faults.delay_max.min(3), ..faults },
            false => faults,
        };
        let crashes = if random.one_in(3) { 0 } else { random.between(1, 5) };
        Options {
            shards: random.between(2, 4),
            reshards: random.one_in(2),
            clients: if has_owners { random.between(1, 4) } else { 0 },
            sharers: random.between(2, 6),
            keys: [1, 3, 8, 30][random.below(4)],
            own_keys: [0, 5, 40, 400][random.below(4)],
            weights: std::array::from_fn(|_| [0, 1, 1, 3, 10][random.below(5)]),
            life_ms_max: [50, 500, 20_000][random.below(3)],
            delay_max: [0, 3, 20][random.below(3)],
            queue_capacity: random.between(1, 4),
            big_bytes,
            disconnects: random.one_in(2),
            slow_readers: random.one_in(2),
            output_bytes_max: if has_owners || !random.one_in(4) { 0 } else { 30_000 },
            sleepy_shards: random.one_in(2),
            clock_jumps: !has_owners && random.one_in(2),
            maxmemory: match is_tight {
                true => [600 << 10, 1 << 20, 3 << 20][random.below(3)],
                false => [0, PLENTY][random.below(2)],
            },
            policy: if is_tight { policies[random.below(policies.len())] } else { "noeviction" },
            logs,
            fsync: ["always", "everysec", "everysec", "no"][random.below(4)],
            changes_settings: random.one_in(3),
            flushes: !has_owners && random.one_in(3),
            segment_bytes,
            faults,
            crashes: if has_owners && !logs { 0 } else { crashes },
            power_failures: random.one_in(2),
            stops: random.below(3),
            save_points: random.one_in(3),
        }
    }

    /// Whether keys may go although nobody wants that.
    pub fn evicts(&self) -> bool {
        self.maxmemory > 0 && self.maxmemory < PLENTY
    }

    /// Whether nothing is ever answered before it is durable.
    pub fn is_always_durable(&self) -> bool {
        self.logs && self.fsync == "always" && !self.changes_settings
    }

    /// What the process is started with.
    pub(crate) fn settings(&self) -> Vec<(&'static str, String)> {
        let mut settings = vec![
            ("maxmemory", self.maxmemory.to_string()),
            ("maxmemory-policy", self.policy.to_owned()),
            ("appendonly", if self.logs { "yes" } else { "no" }.to_owned()),
            ("appendfsync", self.fsync.to_owned()),
            ("enable-debug-command", "yes".to_owned()),
            ("save", if self.save_points { "1 20" } else { "" }.to_owned()),
        ];
        if self.output_bytes_max > 0 {
            settings.push(("client-output-buffer-limit", format!("normal {} 0 0", self.output_bytes_max)));
        }
        settings
    }
}
