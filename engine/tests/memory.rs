//! `maxmemory`: one budget, whichever shard needs it. What is let in, what is refused, what is evicted, and that shards
//! give each other room.
//!
//! `torc_sim::Shards` plays the runtime with a pool of leases of its own; see `life_of_a_command.rs`. Of two shards, 0 owns
//! the keys of the tag `{user:7}`, 1 those of `{user:1}`.

use torc_sim::{Connection, Shards, encode};

const MIB: u64 = 1 << 20;
const TAG_OF: [&str; 2] = ["{user:7}", "{user:1}"];
const OOM: &str = "-OOM command not allowed when used memory > 'maxmemory'.\r\n";
/// Bytes of the values that fill a shard.
const VALUE_BYTES: usize = 4000;
/// What such a key takes at least.
const KEY_BYTES: u64 = VALUE_BYTES as u64 + 32;

struct Cache {
    shards: Shards,
    client: Connection,
    next: usize,
}

impl Cache {
    fn new(count: usize, maxmemory: &str, policy: &str) -> Cache {
        let settings: [(&str, &[&str]); 2] = [("maxmemory", &[maxmemory]), ("maxmemory-policy", &[policy])];
        let mut shards = Shards::with_settings(count, &settings);
        let client = shards.connect(0);
        Cache { shards, client, next: 0 }
    }

    fn say(&mut self, words: &[&str]) -> String {
        self.shards.command(self.client, words)
    }

    /// Sets `bytes` worth of new keys on a shard, some at a time; how many were refused.
    fn fill(&mut self, shard: usize, bytes: u64) -> usize {
        let value = "v".repeat(VALUE_BYTES);
        let mut left = bytes / KEY_BYTES;
        let mut refused = 0;
        while left > 0 {
            let some = left.min(50);
            let sets = (0..some).flat_map(|_| {
                self.next += 1;
                encode(&["SET", &format!("{}{}", TAG_OF[shard], self.next), &value])
            });
            let sets: Vec<u8> = sets.collect();
            let replies = String::from_utf8(self.shards.exchange(self.client, &sets)).expect("text");
            let ok = replies.matches("+OK\r\n").count();
            refused += replies.matches(OOM).count();
            assert_eq!(ok + replies.matches(OOM).count(), some as usize, "{replies}");
            left -= some;
        }
        refused
    }

    /// A number of INFO.
    fn info(&mut self, name: &str) -> u64 {
        let text = self.say(&["INFO", "everything"]);
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.unwrap_or_else(|| panic!("INFO has no {name}")).trim().parse().expect("a number")
    }

    fn used(&mut self) -> u64 {
        self.info("used_memory")
    }

    fn used_by(&mut self, shard: usize) -> u64 {
        self.info(&format!("torc_shard{shard}_used_memory"))
    }

    /// So many ticks, in which only those shards take turns that asked for it.
    fn tick(&mut self, ticks: usize) {
        for _ in 0..ticks {
            self.shards.machine.now.0 += 100;
            for shard in 0..self.shards.shards.len() {
                if self.shards.shards[shard].next_wake().is_some_and(|at| at <= self.shards.now()) {
                    self.shards.turn(shard, &[]);
                }
            }
            self.shards.settle();
        }
    }
}

#[test]
fn one_shard_may_use_nearly_all_and_then_writes_are_refused_until_there_is_room() {
    let mut cache = Cache::new(2, "16mb", "noeviction");
    assert_eq!(cache.fill(0, 15 * MIB), 0, "all of it is for whoever needs it");
    assert!(cache.fill(0, 2 * MIB) > 0);
    let used = cache.used();
    assert!((15 * MIB..16 * MIB + 2 * KEY_BYTES).contains(&used), "{used} bytes are used");
    // The other shard has nothing, and there is nothing for it. One write is let in: it used no more than it had.
    assert!(cache.fill(1, 10 * KEY_BYTES) >= 9);

    let first = format!("{}1", TAG_OF[0]);
    for refused in [
        &["SET", &first, "x"][..],
        &["APPEND", &first, "x"],
        &["SETRANGE", &first, "0", "x"],
        &["GETSET", &first, "x"],
        &["INCR", &first],
        &["MSET", &first, "x"],
        &["SETEX", &first, "10", "x"],
    ] {
        assert_eq!(cache.say(refused), OOM, "{refused:?}");
    }
    assert_eq!(cache.say(&["STRLEN", &first]), format!(":{VALUE_BYTES}\r\n"));
    assert_eq!(cache.say(&["EXPIRE", &first, "100"]), ":1\r\n");
    assert!(
        cache
            .say(&["INFO", "commandstats"])
            .contains("cmdstat_append:calls=0,usec=0,usec_per_call=0.00,rejected_calls=1,")
    );

    let names: Vec<String> = (1..100).map(|key| format!("{}{key}", TAG_OF[0])).collect();
    let mut words = vec!["DEL"];
    words.extend(names.iter().map(String::as_str));
    assert_eq!(cache.say(&words), ":99\r\n");
    assert_eq!(cache.fill(0, 90 * KEY_BYTES), 0);
    assert_eq!(cache.info("evicted_keys"), 0);
}

#[test]
fn keys_are_evicted_only_when_all_of_the_budget_is_used_and_no_more_than_needed() {
    for policy in ["allkeys-random", "allkeys-lru", "allkeys-lfu", "allkeys-s3fifo"] {
        let mut cache = Cache::new(2, "16mb", policy);
        assert_eq!(cache.fill(0, 15 * MIB), 0);
        assert_eq!(cache.info("evicted_keys"), 0);
        assert_eq!(cache.fill(0, 20 * MIB), 0, "{policy}");
        let used = cache.used();
        assert!((15 * MIB..16 * MIB).contains(&used), "{used} bytes are used");
        assert!(cache.info("evicted_keys") > 19 * MIB / KEY_BYTES / 11 * 10);
        cache.shards.assert_at_rest();
    }
}

#[test]
fn policies_may_change_while_memory_is_full() {
    let mut cache = Cache::new(2, "4mb", "noeviction");
    assert!(cache.fill(0, 5 * MIB) > 0);
    assert_eq!(cache.say(&["CONFIG", "SET", "maxmemory-policy", "allkeys-random"]), "+OK\r\n");
    assert_eq!(cache.fill(0, 2 * MIB), 0);
    assert!(cache.used() <= 4 * MIB);
    assert_eq!(cache.say(&["CONFIG", "SET", "maxmemory-policy", "volatile-ttl"]), "+OK\r\n");
    assert!(cache.fill(0, MIB) > 0, "no key has an expiry time");
    assert_eq!(cache.say(&["CONFIG", "SET", "maxmemory", "0"]), "+OK\r\n");
    assert_eq!(cache.fill(0, 8 * MIB), 0);
    cache.tick(3);
    assert_eq!(cache.shards.machine.leased, 0);
}

#[test]
fn only_keys_with_an_expiry_time_are_evicted_if_so_it_is_said() {
    let mut cache = Cache::new(1, "4mb", "volatile-random");
    for key in 0..100 {
        let reply = cache.say(&["SET", &format!("volatile:{key}"), &"v".repeat(VALUE_BYTES), "EX", "100000"]);
        assert_eq!(reply, "+OK\r\n");
    }
    // A hundred among thousands: chance alone would hardly find the last of them.
    assert!(cache.fill(0, 5 * MIB) > 0);
    assert_eq!(cache.info("evicted_keys"), 100);
    let kept = cache.next as u64 - cache.info("evicted_keys");
    assert!(cache.say(&["DBSIZE"]).trim_start_matches(':').trim().parse::<u64>().expect("a number") < kept);
    assert_eq!(cache.say(&["GET", "volatile:1"]), "$-1\r\n");
}

#[test]
fn a_big_value_is_let_in_and_its_room_is_made_afterwards() {
    let mut cache = Cache::new(2, "16mb", "allkeys-random");
    cache.fill(0, 16 * MIB);
    let big = "b".repeat(12 << 20);
    let set = encode(&["SET", &format!("{}big", TAG_OF[0]), &big]);
    cache.shards.feed(cache.client, &set);
    cache.shards.machine.now.0 += 7;
    let slices = std::iter::from_fn(|| cache.shards.shards[0].has_work().then(|| cache.shards.turn(0, &[]))).count();
    assert!(slices > 1, "not at once");
    assert_eq!(cache.say(&["PING"]), "+OK\r\n+PONG\r\n");
    let used = cache.used();
    assert!((11 * MIB..=16 * MIB).contains(&used), "{used} bytes are used");
    // What is longer than all of it goes again when there is nothing else to evict.
    let huge = "h".repeat(20 << 20);
    cache.say(&["SET", &format!("{}huge", TAG_OF[0]), &huge]);
    assert!(cache.used() <= 16 * MIB);
    assert!(cache.info("evicted_keys") > 0);
    let exceeded = |name: &str| format!("{name}_eviction_exceeded_time");
    assert_eq!((cache.info(&exceeded("current")), cache.info(&exceeded("total"))), (0, 7));
}

/// As long as it arrives it is its client's buffer, and then it is the key's: never both, on whichever shard the key is.
#[test]
fn a_big_value_that_arrives_in_pieces_is_counted_once() {
    for (owner, policy) in
        [(0, "allkeys-lru"), (1, "allkeys-lru"), (0, "allkeys-s3fifo"), (0, "volatile-ttl"), (1, "allkeys-random")]
    {
        let mut cache = Cache::new(2, "32mb", policy);
        cache.fill(owner, 16 * MIB);
        let key = format!("{}big", TAG_OF[owner]);
        let set = encode(&["SET", &key, &"b".repeat(14 << 20)]);
        let sender = cache.shards.connect(0);
        for piece in set.chunks(256 << 10) {
            assert_eq!(cache.info("evicted_keys"), 0, "{policy} {owner}");
            cache.shards.feed(sender, piece);
            cache.tick(1);
        }
        assert_eq!(cache.shards.exchange(sender, b""), b"+OK\r\n", "{policy} {owner}");
        assert_eq!(cache.say(&["EXISTS", &key]), ":1\r\n", "{policy} {owner}");
        cache.tick(3);
        assert_eq!(cache.info("evicted_keys"), 0, "{policy} {owner}: all of it has room");
        assert!(cache.used() <= 32 * MIB);
    }
}

#[test]
fn of_a_small_budget_no_shard_takes_all_by_its_first_lease() {
    for shards in [2, 4] {
        let mut cache = Cache::new(shards, "1mb", "noeviction");
        cache.fill(0, MIB / 20);
        assert_eq!(cache.fill(1, MIB / 10 * 7), 0, "{shards} shards");
    }
    let mut cache = Cache::new(2, "200kb", "allkeys-lru");
    for _ in 0..20 {
        assert_eq!(cache.fill(0, MIB / 10) + cache.fill(1, MIB / 10), 0);
    }
    assert!((MIB / 10..=MIB / 5).contains(&cache.used()));
}

#[test]
fn a_shard_below_its_share_gets_room_while_the_other_evicts() {
    let mut cache = Cache::new(2, "16mb", "allkeys-random");
    cache.fill(0, 17 * MIB);
    assert!(cache.used_by(0) > 15 * MIB);
    for _ in 0..60 {
        assert_eq!(cache.fill(1, MIB / 4), 0);
        cache.tick(1);
        let leased = cache.shards.machine.leased;
        assert!(leased <= 17 * MIB, "{leased} bytes are leased of 16 MiB and an overdraft of one");
    }
    let (first, second) = (cache.used_by(0), cache.used_by(1));
    assert!(
        (7 * MIB..9 * MIB).contains(&first) && (7 * MIB..9 * MIB).contains(&second),
        "{first} and {second} are used"
    );
    assert!(first + second <= 16 * MIB);
    cache.tick(3);
    assert!(cache.shards.machine.leased <= 16 * MIB, "nothing stays overdrawn");
}

#[test]
fn a_smaller_budget_is_reached_in_slices_without_any_command() {
    let mut cache = Cache::new(3, "32mb", "allkeys-random");
    let bytes = "v".repeat(VALUE_BYTES);
    for key in 0..6_000 {
        cache.shards.command(cache.client, &["SET", &format!("key:{key}"), &bytes]);
    }
    cache.tick(3);
    let before = cache.used();
    assert!(before > 20 * MIB);
    let smaller = encode(&["CONFIG", "SET", "maxmemory", "8mb"]);
    cache.shards.feed(cache.client, &smaller);
    assert!(cache.shards.shards[0].has_work(), "one slice is not enough");
    let replies = cache.shards.exchange(cache.client, b"");
    assert_eq!(replies, b"+OK\r\n");
    cache.tick(1);
    let used = cache.used();
    assert!((7 * MIB..=8 * MIB).contains(&used), "{used} bytes are used");
    assert!(cache.shards.machine.leased <= 8 * MIB);
}

#[test]
fn leases_that_are_not_needed_any_more_go_back() {
    let mut cache = Cache::new(2, "16mb", "noeviction");
    cache.fill(0, 15 * MIB);
    assert!(cache.shards.machine.leased > 15 * MIB);
    assert_eq!(cache.say(&["FLUSHALL"]), "+OK\r\n");
    cache.tick(5);
    assert!(cache.shards.machine.leased < MIB / 4, "{} bytes are leased", cache.shards.machine.leased);
    assert_eq!(cache.fill(1, 15 * MIB), 0);
    assert!(cache.info("used_memory_peak") > 14 * MIB);
}

/// A write whose arguments say nothing of what it takes is seen by the next one, also in the same turn.
#[test]
fn what_grows_a_value_beyond_the_arguments_counts() {
    // Each takes 1 MiB of the allocator, five fit and the one before was not full.
    let mut cache = Cache::new(1, "4500kb", "noeviction");
    let sets: Vec<u8> = (0..100).flat_map(|key| encode(&["SETRANGE", &format!("k{key}"), "1000000", "x"])).collect();
    let replies = String::from_utf8(cache.shards.exchange(cache.client, &sets)).expect("text");
    assert_eq!(replies.matches(":1000001\r\n").count(), 5, "{replies}");
    assert_eq!(replies.matches(OOM).count(), 95);
}

/// The budget changes for what comes behind, also in the same turn.
#[test]
fn a_new_budget_holds_for_the_next_command() {
    let mut cache = Cache::new(1, "0", "noeviction");
    let mut bytes = encode(&["SET", "a", "1"]);
    bytes.extend(encode(&["CONFIG", "SET", "maxmemory", "1"]));
    bytes.extend(encode(&["SET", "b", "1"]));
    bytes.extend(encode(&["CONFIG", "SET", "maxmemory", "0"]));
    bytes.extend(encode(&["SET", "c", "1"]));
    let replies = String::from_utf8(cache.shards.exchange(cache.client, &bytes)).expect("text");
    assert_eq!(replies, format!("+OK\r\n+OK\r\n{OOM}+OK\r\n+OK\r\n"));
}

/// Whatever the shards do: when everything has come to rest, no more is used or leased than there is.
#[test]
fn the_budget_holds_whatever_happens() {
    for seed in 0..3u64 {
        let mut state = seed;
        let mut below = |bound: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % bound
        };
        let mut cache = Cache::new(2, "8mb", "allkeys-random");
        let mut maxmemory = 8 * MIB;
        for step in 0..40 {
            match below(10) {
                0 => {
                    maxmemory = [2, 4, 8, 16][below(4) as usize] * MIB;
                    assert_eq!(cache.say(&["CONFIG", "SET", "maxmemory", &maxmemory.to_string()]), "+OK\r\n");
                }
                1 => assert_eq!(cache.say(&["FLUSHALL"]), "+OK\r\n"),
                2 => {
                    let policy = ["allkeys-lru", "allkeys-random", "allkeys-s3fifo"][below(3) as usize];
                    assert_eq!(cache.say(&["CONFIG", "SET", "maxmemory-policy", policy]), "+OK\r\n");
                }
                3 => {
                    let value = "b".repeat(below(2 * MIB) as usize);
                    let key = format!("{}big{}", TAG_OF[below(2) as usize], below(3));
                    // Twice as much as there is may be refused; nothing smaller is.
                    let reply = cache.say(&["SET", &key, &value]);
                    assert!(
                        reply == "+OK\r\n" || reply == OOM && maxmemory <= 2 * MIB,
                        "seed {seed}, step {step}: {reply}"
                    );
                }
                4 => cache.tick(below(4) as usize),
                shard => assert_eq!(cache.fill(shard as usize % 2, below(4 * MIB)), 0, "seed {seed}, step {step}"),
            }
            let (used, leased) = (cache.used(), cache.shards.machine.leased);
            let most = maxmemory + maxmemory / 16;
            assert!(
                used <= most && leased <= most,
                "seed {seed}, step {step}: {used} used, {leased} leased of {maxmemory}"
            );
        }
        cache.tick(5);
        let leased = cache.shards.machine.leased;
        assert!(
            leased <= maxmemory && cache.used() <= leased + MIB / 16,
            "seed {seed}: {leased} leased of {maxmemory}"
        );
        cache.say(&["FLUSHALL"]);
        cache.tick(5);
        assert!(cache.shards.machine.leased <= MIB / 8, "seed {seed}");
    }
}

#[test]
fn the_doctor_names_what_is_wrong() {
    let mut cache = Cache::new(2, "64mb", "noeviction");
    let says = |cache: &mut Cache, what: &str| {
        let text = cache.say(&["MEMORY", "DOCTOR"]);
        assert!(text.contains(what), "wanted {what:?} in: {text}");
    };
    says(&mut cache, "Nothing to diagnose");
    cache.fill(0, 10 * MIB);
    cache.fill(1, 10 * MIB);
    says(&mut cache, "No trouble found");
    cache.fill(0, 42 * MIB);
    says(&mut cache, "Nearly full");
    cache.tick(1);
    cache.say(&["CONFIG", "SET", "maxmemory", "32mb"]);
    says(&mut cache, "Over maxmemory");
    cache.say(&["CONFIG", "SET", "maxmemory-policy", "volatile-lru"]);
    says(&mut cache, "Nothing to evict");
    cache.say(&["CONFIG", "SET", "maxmemory", "0"]);
    cache.say(&["FLUSHALL"]);
    cache.fill(1, 20 * MIB);
    says(&mut cache, "The peak was");
    says(&mut cache, "Shard 1 of 2 holds");
    // A client that does not read.
    cache.shards.command(cache.client, &["SET", "big", &"b".repeat(1_000_000)]);
    let reader = cache.shards.connect(1);
    cache.shards.feed(reader, &encode(&["GET", "big"]));
    cache.shards.settle();
    cache.say(&["SET", "big", "small"]);
    cache.tick(2);
    says(&mut cache, "Clients' buffers are big: ");
}

/// What the process has of the system's memory is what counts in the end: a part of the budget is held back while it has
/// too much, and is there again afterwards.
#[test]
fn a_process_that_is_too_large_gets_less_of_the_budget() {
    let mut cache = Cache::new(2, "64mb", "allkeys-lru");
    cache.fill(0, 80 * MIB);
    let full = cache.used();
    cache.shards.machine.resident = 300 * MIB;
    cache.tick(100);
    let (held_back, less) = (cache.shards.machine.held_back, cache.used());
    assert!(held_back > 16 * MIB && less <= 65 * MIB - held_back, "{held_back} held back, {less} used of {full}");
    cache.shards.machine.resident = 64 * MIB;
    cache.tick(100);
    assert_eq!(cache.shards.machine.held_back, 0);
    cache.fill(0, 40 * MIB);
    assert!(cache.used() > less + 30 * MIB);
}

/// Everything here may be evicted, so nothing may be refused: small keys make room more slowly than large values take it,
/// and `make_room` then says OOM although `evict_to` would have found more.
#[test]
fn large_values_after_small_keys_are_not_refused() {
    for policy in ["allkeys-lru", "allkeys-random", "allkeys-s3fifo"] {
        let mut cache = Cache::new(1, "100mb", policy);
        let small = "s".repeat(100);
        for first in (0..800_000).step_by(1000) {
            let sets = (first..first + 1000).flat_map(|key| encode(&["SET", &format!("small:{key}"), &small]));
            let sets: Vec<u8> = sets.collect();
            cache.shards.exchange(cache.client, &sets);
        }
        assert!(cache.used() > 95 * MIB);
        let large = "l".repeat(1_000_000);
        let mut refused = 0;
        for first in (0..60).step_by(10) {
            let sets = (first..first + 10).flat_map(|key| encode(&["SET", &format!("large:{key}"), &large]));
            let sets: Vec<u8> = sets.collect();
            let replies = String::from_utf8(cache.shards.exchange(cache.client, &sets)).expect("text");
            refused += replies.matches(OOM).count();
        }
        assert_eq!(refused, 0, "{policy}: refused of 60, keys that might have gone: {}", cache.say(&["DBSIZE"]));
    }
}
