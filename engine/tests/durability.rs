//! Changes go to the log, and come back from it; under `appendfsync always` replies wait for the disk.
//!
//! `torc_sim::Shards` plays the runtime, and [`Disk`] the disk: what was written, and what of it is durable.

use std::collections::BTreeMap;

use torc_engine::log::{Expected, FsyncPolicy, LogStart, Lsn, Replay, Segment};
use torc_engine::shard::Writes;
use torc_sim::{Connection, Shards, encode};

const SEGMENT_BYTES: u64 = 1 << 20;
const TAG_OF: [&str; 2] = ["{user:7}", "{user:1}"];

/// The files of each shard's log, by number.
#[derive(Default)]
struct Disk {
    segments: Vec<BTreeMap<u64, Vec<u8>>>,
}

impl Disk {
    /// Begins a log on every shard, behind what is there.
    fn begin(&mut self, shards: &mut Shards, generation: u64, next: &[Lsn]) {
        let count = shards.shards.len();
        self.segments.resize_with(count, BTreeMap::new);
        for (index, shard) in shards.shards.iter_mut().enumerate() {
            shard.journal().begin(LogStart {
                database: [7; 16],
                generation,
                shard: index as u16,
                shards: count as u16,
                segment: 1,
                salt: generation << 8 | index as u64,
                next_lsn: next.get(index).copied().unwrap_or(Lsn(1)),
                last_txid: 0,
                segment_bytes: SEGMENT_BYTES,
                first_segment_bytes: SEGMENT_BYTES,
                previous: None,
            });
            shard.end_loading(shards.machine.now);
        }
    }

    /// Writes what there is to write on one shard; whether there was something.
    fn write(&mut self, shards: &mut Shards, shard: usize, policy: FsyncPolicy) -> bool {
        let now = shards.machine.now;
        let journal = shards.shards[shard].journal();
        let Some(write) = journal.poll_write(now, policy) else { return false };
        let file = self.segments[shard].entry(write.segment).or_insert_with(|| vec![0; SEGMENT_BYTES as usize]);
        let bytes = write.buffer.as_slice();
        file[write.offset as usize..][..bytes.len()].copy_from_slice(bytes);
        journal.handle_written(Ok(write.sync), write.buffer);
        while journal.poll_sync(now, policy).is_some() {
            journal.handle_synced(Ok(()));
        }
        true
    }

    fn write_all(&mut self, shards: &mut Shards, policy: FsyncPolicy) {
        for shard in 0..shards.shards.len() {
            while self.write(shards, shard, policy) {}
        }
    }

    /// What a process does that is killed a second after its last change.
    fn write_after_a_second(&mut self, shards: &mut Shards) {
        for _ in 0..4 {
            self.write_all(shards, FsyncPolicy::EverySec);
            shards.advance(250);
        }
    }

    /// Other shards that have redone all of it.
    fn recover(&self, settings: &[(&str, &[&str])]) -> (Shards, Vec<Lsn>) {
        let mut shards = Shards::with_settings(self.segments.len(), settings);
        let mut next = Vec::new();
        for (index, files) in self.segments.iter().enumerate() {
            let segments: Vec<Segment<'_>> =
                files.iter().map(|(&segment, bytes)| Segment { generation: 1, segment, bytes }).collect();
            let expected = Expected { database: [7; 16], shard: index as u16, base: Lsn(0) };
            let mut replay = Replay::new(expected, &segments);
            let shard = &mut shards.shards[index];
            shard.begin_loading();
            let (now, machine) = (shards.machine.now, &mut shards.machine);
            while replay.step(|records| shard.redo(records)).expect("a sound log") {
                while shard.free_redone_slice() || shard.evict_loaded_slice(now, machine) {}
            }
            next.push(Lsn(replay.end().last_lsn.0 + 1));
        }
        (shards, next)
    }
}

fn durable(count: usize, settings: &[(&str, &[&str])]) -> (Shards, Disk, Connection) {
    let mut shards = Shards::with_settings(count, settings);
    let mut disk = Disk::default();
    disk.begin(&mut shards, 1, &[]);
    let client = shards.connect(0);
    (shards, disk, client)
}

#[test]
fn what_was_changed_is_there_again() {
    let (mut shards, mut disk, client) = durable(2, &[("appendfsync", &["everysec"])]);
    let long = "l".repeat(300_000);
    for (words, reply) in [
        (&["SET", "plain", "1"][..], "+OK\r\n"),
        (&["SET", "{user:1}a", "other shard"], "+OK\r\n"),
        (&["SET", "long", &long], "+OK\r\n"),
        (&["SET", "gone", "x"], "+OK\r\n"),
        (&["DEL", "gone"], ":1\r\n"),
        (&["SET", "expired", "x", "PX", "5000"], "+OK\r\n"),
        (&["SET", "kept", "x", "PX", "5000"], "+OK\r\n"),
        (&["PERSIST", "kept"], ":1\r\n"),
        (&["SET", "later", "x"], "+OK\r\n"),
        (&["PEXPIRE", "later", "100000"], ":1\r\n"),
        (&["APPEND", "appended", "one"], ":3\r\n"),
        (&["APPEND", "appended", "two"], ":6\r\n"),
        (&["SETRANGE", "ranged", "3", "x"], ":4\r\n"),
        (&["INCR", "counted"], ":1\r\n"),
        (&["INCR", "counted"], ":2\r\n"),
        (&["SELECT", "3"], "+OK\r\n"),
        (&["SET", "flushed", "x"], "+OK\r\n"),
        (&["FLUSHDB"], "+OK\r\n"),
        (&["SET", "in three", "x"], "+OK\r\n"),
        (&["SELECT", "0"], "+OK\r\n"),
        (&["SWAPDB", "3", "4"], "+OK\r\n"),
    ] {
        assert_eq!(shards.command(client, words), reply, "{words:?}");
    }
    disk.write_after_a_second(&mut shards);

    let (mut again, next) = disk.recover(&[]);
    let client = again.connect(0);
    assert_eq!(again.command(client, &["GET", "plain"]), "-LOADING Torc is loading the dataset in memory\r\n");
    assert!(again.command(client, &["INFO"]).contains("redis_version"));
    again.machine.now.0 = shards.machine.now.0 + 10_000;
    let mut second = Disk::default();
    second.begin(&mut again, 2, &next);
    for (words, reply) in [
        (&["GET", "plain"][..], "$1\r\n1\r\n".to_owned()),
        (&["GET", "{user:1}a"], "$11\r\nother shard\r\n".to_owned()),
        (&["GET", "long"], format!("$300000\r\n{long}\r\n")),
        (&["EXISTS", "gone"], ":0\r\n".to_owned()),
        (&["EXISTS", "expired"], ":0\r\n".to_owned()),
        (&["TTL", "kept"], ":-1\r\n".to_owned()),
        (&["PTTL", "later"], ":89000\r\n".to_owned()),
        (&["GET", "appended"], "$6\r\nonetwo\r\n".to_owned()),
        (&["GET", "ranged"], "$4\r\n\0\0\0x\r\n".to_owned()),
        (&["GET", "counted"], "$1\r\n2\r\n".to_owned()),
        (&["DBSIZE"], ":8\r\n".to_owned()),
        (&["SELECT", "3"], "+OK\r\n".to_owned()),
        (&["DBSIZE"], ":0\r\n".to_owned()),
        (&["SELECT", "4"], "+OK\r\n".to_owned()),
        (&["GET", "in three"], "$1\r\nx\r\n".to_owned()),
        (&["EXISTS", "flushed"], ":0\r\n".to_owned()),
    ] {
        assert_eq!(again.command(client, words), reply, "{words:?}");
    }
    // What had expired is told to the new log, or an older one would bring it back under a clock that was set back.
    let changes = (0..2).map(|shard| again.shards[shard].journal().last_lsn().0).sum::<u64>();
    assert_eq!(changes, next.iter().map(|lsn| lsn.0 - 1).sum::<u64>() + 1);
}

#[test]
fn another_number_of_databases_changes_no_keys() {
    let with = |count: &'static str| {
        let count: &'static [&'static str] = if count == "4" { &["4"] } else { &["16"] };
        [("appendonly", &["yes"][..]), ("databases", count)]
    };
    let (mut shards, mut disk, client) = durable(2, &with("4"));
    for words in [&["SET", "old", "1"][..], &["FLUSHALL"], &["SET", "new", "1"], &["SWAPDB", "0", "2"]] {
        assert_eq!(shards.command(client, words), "+OK\r\n", "{words:?}");
    }
    assert_eq!(shards.command(client, &["SWAPDB", "0", "5"]), "-ERR DB index is out of range\r\n");
    disk.write_after_a_second(&mut shards);
    for count in ["16", "4"] {
        let (mut again, next) = disk.recover(&with(count));
        Disk::default().begin(&mut again, 2, &next);
        let client = again.connect(0);
        let report = again.command(client, &["INFO", "keyspace"]);
        assert!(report.contains("db2:keys=1") && !report.contains("db0") && !report.contains("db4"), "{report}");
        assert_eq!(again.command(client, &["SELECT", "2"]), "+OK\r\n");
        assert_eq!(again.command(client, &["GET", "new"]), "$1\r\n1\r\n");
    }
}

#[test]
fn what_was_evicted_and_deleted_in_vain_stays_away() {
    let settings: [(&str, &[&str]); 2] = [("maxmemory", &["4mb"]), ("maxmemory-policy", &["allkeys-random"])];
    let (mut shards, mut disk, client) = durable(1, &settings);
    let value = "v".repeat(1000);
    for key in 0..8_000 {
        shards.command(client, &["SET", &format!("key:{key}"), &value]);
    }
    let left = shards.command(client, &["DBSIZE"]);
    let evicted: Vec<String> = (0..8_000)
        .map(|key| format!("key:{key}"))
        .filter(|key| shards.command(client, &["DEL", key]) == ":0\r\n")
        .collect();
    assert!(evicted.len() > 2_000, "{left}");
    disk.write_after_a_second(&mut shards);
    let (mut again, next) = disk.recover(&[]);
    Disk::default().begin(&mut again, 2, &next);
    let client = again.connect(0);
    assert_eq!(again.command(client, &["DBSIZE"]), ":0\r\n");
}

#[test]
fn what_did_not_fit_while_it_was_loaded_and_was_deleted_then_stays_away() {
    let (mut shards, mut disk, client) = durable(1, &[]);
    let value = "v".repeat(1000);
    let key = |number: u32| format!("key:{number}");
    for number in 0..8_000 {
        shards.command(client, &["SET", &key(number), &value]);
    }
    for number in (0..8_000).step_by(7) {
        // What was written before may be gone when this is redone.
        shards.command(client, &["APPEND", &key(number), "more"]);
    }
    disk.write_after_a_second(&mut shards);

    for policy in ["allkeys-random", "allkeys-lru", "allkeys-s3fifo"] {
        let policy: &'static [&'static str] = match policy {
            "allkeys-random" => &["allkeys-random"],
            "allkeys-lru" => &["allkeys-lru"],
            _ => &["allkeys-s3fifo"],
        };
        let (mut again, next) = disk.recover(&[("maxmemory", &["4mb"]), ("maxmemory-policy", policy)]);
        let mut second = Disk::default();
        second.begin(&mut again, 2, &next);
        let client = again.connect(0);
        let left: usize = again.command(client, &["DBSIZE"])[1..].trim_end().parse().expect("a number");
        assert!((1_500..5_000).contains(&left), "{policy:?}: {left}");
        let length = |number: u32| if number.is_multiple_of(7) { 1004 } else { 1000 };
        let is_gone = |again: &mut Shards, number: u32| {
            let said = again.command(client, &["STRLEN", &key(number)]);
            assert!(said == ":0\r\n" || said == format!(":{}\r\n", length(number)), "{said}");
            said == ":0\r\n"
        };
        let gone: Vec<u32> = (0..8_000).filter(|&number| is_gone(&mut again, number)).collect();
        assert_eq!(gone.len(), 8_000 - left);
        // Clients delete some of those in vain.
        for (index, &number) in gone.iter().enumerate().take(400) {
            let (words, reply): (&[&str], _) = match index % 4 {
                0 => (&["DEL", &key(number)], ":0\r\n"),
                1 => (&["UNLINK", "other", &key(number)], ":0\r\n"),
                2 => (&["GETDEL", &key(number)], "$-1\r\n"),
                _ => (&["PEXPIREAT", &key(number), "1"], ":0\r\n"),
            };
            assert_eq!(again.command(client, words), reply);
        }
        second.write_after_a_second(&mut again);

        // With room for everything what was evicted is there again, and what was deleted is not.
        let mut third = Shards::new(1);
        third.shards[0].begin_loading();
        for (generation, files, base) in [(1, &disk.segments[0], 0), (2, &second.segments[0], next[0].0 - 1)] {
            let segments: Vec<Segment<'_>> =
                files.iter().map(|(&segment, bytes)| Segment { generation, segment, bytes }).collect();
            let mut replay = Replay::new(Expected { database: [7; 16], shard: 0, base: Lsn(base) }, &segments);
            while replay.step(|records| third.shards[0].redo(records)).expect("a sound log") {}
        }
        third.shards[0].end_loading(third.machine.now);
        let client = third.connect(0);
        for (index, &number) in gone.iter().enumerate() {
            let length = if index < 400 { 0 } else { length(number) };
            assert_eq!(
                third.command(client, &["STRLEN", &key(number)]),
                format!(":{length}\r\n"),
                "{policy:?} {index}"
            );
        }
    }
}

#[test]
fn without_eviction_everything_is_loaded_and_writes_are_refused() {
    let (mut shards, mut disk, client) = durable(1, &[]);
    for number in 0..8_000 {
        shards.command(client, &["SET", &format!("key:{number}"), &"v".repeat(1000)]);
    }
    disk.write_after_a_second(&mut shards);
    for policy in [&["noeviction"][..], &["volatile-lru"]] {
        let (mut again, next) = disk.recover(&[("maxmemory", &["4mb"]), ("maxmemory-policy", policy)]);
        Disk::default().begin(&mut again, 2, &next);
        let now = again.machine.now;
        assert!(again.shards[0].is_over_budget(&mut again.machine, now));
        let client = again.connect(0);
        assert_eq!(again.command(client, &["DBSIZE"]), ":8000\r\n");
        assert!(again.command(client, &["SET", "key:1", "x"]).starts_with("-OOM "));
        assert_eq!(again.command(client, &["DEL", "key:1"]), ":1\r\n");
        assert_eq!(again.command(client, &["STRLEN", "key:2"]), ":1000\r\n");
    }
}

#[test]
fn under_always_a_reply_waits_for_what_it_observed() {
    for owner in [0, 1] {
        let (mut shards, mut disk, writer) = durable(2, &[("appendfsync", &["always"])]);
        let (reader, stranger) = (shards.connect(1 - owner), shards.connect(owner));
        let key = format!("{}key", TAG_OF[owner]);
        let other = format!("{}other", TAG_OF[owner]);
        disk.write_all(&mut shards, FsyncPolicy::Always);
        let say = |shards: &mut Shards, client, words: &[&str]| {
            shards.feed(client, &encode(words));
            shards.settle();
        };
        let replies = |shards: &mut Shards, client| {
            let count = shards.unread(client);
            String::from_utf8(shards.read(client, count)).expect("text")
        };
        say(&mut shards, writer, &["SET", &key, "new"]);
        say(&mut shards, writer, &["PING"]);
        say(&mut shards, reader, &["GET", &key]);
        say(&mut shards, stranger, &["GET", &other]);
        say(&mut shards, stranger, &["CONFIG", "GET", "appendonly"]);
        assert_eq!(replies(&mut shards, writer), "", "its changes are not durable, and PING comes after them");
        assert_eq!(replies(&mut shards, reader), "", "it saw what is not durable");
        assert!(replies(&mut shards, stranger).starts_with("$-1\r\n*2\r\n"), "it saw nothing of it");
        say(&mut shards, stranger, &["DBSIZE"]);
        say(&mut shards, stranger, &["GET", &key]);
        assert_eq!(replies(&mut shards, stranger), "");

        assert!(disk.write(&mut shards, owner, FsyncPolicy::Always));
        shards.settle();
        shards.turn(owner, &[]);
        shards.settle();
        assert_eq!(replies(&mut shards, writer), "+OK\r\n+PONG\r\n");
        assert_eq!(replies(&mut shards, reader), "$3\r\nnew\r\n");
        assert_eq!(replies(&mut shards, stranger), ":1\r\n$3\r\nnew\r\n");
        assert_eq!(shards.command(reader, &["GET", &key]), "$3\r\nnew\r\n");

        // Who waits when that is not asked for any more is answered.
        say(&mut shards, writer, &["DEL", &key]);
        assert_eq!(replies(&mut shards, writer), "");
        assert_eq!(shards.command(stranger, &["CONFIG", "SET", "appendfsync", "everysec"]), "+OK\r\n");
        shards.turn(owner, &[]);
        shards.settle();
        assert_eq!(replies(&mut shards, writer), ":1\r\n");
    }
}

#[test]
fn what_all_shards_do_is_answered_when_all_have_it_on_the_disk() {
    for words in [&["FLUSHALL", "ASYNC"][..], &["FLUSHALL", "SYNC"], &["SWAPDB", "0", "1"]] {
        for first in [0, 1] {
            let (mut shards, mut disk, client) = durable(2, &[("appendfsync", &["always"])]);
            disk.write_all(&mut shards, FsyncPolicy::Always);
            shards.feed(client, &encode(words));
            shards.settle();
            for owner in [first, 1 - first] {
                assert_eq!(shards.unread(client), 0, "{words:?}");
                disk.write(&mut shards, owner, FsyncPolicy::Always);
                shards.turn(owner, &[]);
                shards.settle();
            }
            assert_eq!(shards.read(client, 100), b"+OK\r\n", "{words:?}");
        }
    }
}

#[test]
fn what_concerns_all_keys_is_observed_by_whoever_reads_one() {
    for words in [&["FLUSHALL", "ASYNC"][..], &["SWAPDB", "0", "1"]] {
        let (mut shards, mut disk, client) = durable(1, &[("appendfsync", &["always"])]);
        shards.feed(client, &encode(&["SET", "key", "value"]));
        for _ in 0..3 {
            disk.write_all(&mut shards, FsyncPolicy::Always);
            shards.turn(0, &[]);
        }
        assert_eq!(shards.read(client, 100), b"+OK\r\n");
        shards.feed(client, &encode(words));
        let reader = shards.connect(0);
        shards.feed(reader, &encode(&["GET", "key"]));
        shards.settle();
        assert_eq!(shards.unread(reader), 0, "{words:?}");
        disk.write_all(&mut shards, FsyncPolicy::Always);
        shards.turn(0, &[]);
        assert_eq!(shards.read(reader, 100), b"$-1\r\n", "{words:?}");
    }
}

#[test]
fn a_log_that_failed_lets_no_write_in() {
    let (mut shards, mut disk, client) = durable(2, &[]);
    assert_eq!(shards.command(client, &["SET", "key", "value"]), "+OK\r\n");
    disk.write_all(&mut shards, FsyncPolicy::EverySec);
    shards.shards.iter_mut().for_each(|shard| shard.set_writes(Writes::Refused));
    for words in
        [&["SET", "key", "x"][..], &["DEL", "key"], &["FLUSHALL"], &["FLUSHDB", "ASYNC"], &["SWAPDB", "0", "1"]]
    {
        assert!(shards.command(client, words).starts_with("-MISCONF "), "{words:?}");
    }
    assert_eq!(shards.command(client, &["GET", "key"]), "$5\r\nvalue\r\n");
    // On a full disk what frees memory goes.
    shards.shards.iter_mut().for_each(|shard| shard.set_writes(Writes::OnlyFreeing));
    assert!(shards.command(client, &["SET", "key", "x"]).starts_with("-MISCONF "));
    assert_eq!(shards.command(client, &["DEL", "key"]), ":1\r\n");
}

#[test]
fn what_was_flushed_is_freed_while_the_log_is_redone() {
    let (mut shards, mut disk, client) = durable(1, &[]);
    for _ in 0..5 {
        for key in 0..30 {
            assert_eq!(shards.command(client, &["SET", &format!("key:{key}"), &"v".repeat(300_000)]), "+OK\r\n");
            disk.write_all(&mut shards, FsyncPolicy::EverySec);
        }
        shards.command(client, &["FLUSHALL"]);
    }
    disk.write_after_a_second(&mut shards);
    let (again, _) = disk.recover(&[]);
    assert_eq!(again.shards[0].garbage_counters().pending_objects, 0);
}

/// Replies that a client has got so far.
fn replies(shards: &mut Shards, client: Connection) -> String {
    let count = shards.unread(client);
    String::from_utf8_lossy(&shards.read(client, count)).into_owned()
}

/// Sends a command and lets everything happen that can.
fn say(shards: &mut Shards, client: Connection, words: &[&str]) {
    shards.feed(client, &encode(words));
    shards.settle();
}

/// Brings a shard's log past what may be pending.
fn fall_behind(shards: &mut Shards, shard: usize) {
    let (client, key) = (shards.connect(shard), format!("{}filler", TAG_OF[shard]));
    while shards.shards[shard].journal().pending_bytes() <= torc_engine::limits::LOG_PENDING_BYTES_MAX {
        say(shards, client, &["SET", &key, &"f".repeat(1 << 20)]);
        assert_eq!(replies(shards, client), "+OK\r\n");
    }
    shards.turn(shard, &[]);
}

#[test]
fn what_has_no_place_on_a_full_disk_is_refused() {
    let (mut shards, mut disk, client) = durable(1, &[]);
    for key in 0..2_000 {
        assert_eq!(shards.command(client, &["SET", &format!("{key:0300}"), "v"]), "+OK\r\n");
    }
    disk.write_after_a_second(&mut shards);
    shards.shards[0].set_writes(Writes::OnlyFreeing);
    let mut refused = 0;
    for key in 0..2_000 {
        let reply = shards.command(client, &["DEL", &format!("{key:0300}")]);
        // Each is written alone, in a page of its own.
        disk.write_after_a_second(&mut shards);
        refused += reply.starts_with("-MISCONF Errors writing to the AOF file: No space left") as usize;
    }
    assert!((1..2_000).contains(&refused), "{refused}");
    let last = *disk.segments[0].keys().last().expect("a segment");
    assert_eq!(last, 1, "what was acknowledged is in the segment that there was");
    // And there is room for the end.
    shards.shards[0].journal().seal();
    disk.write_all(&mut shards, FsyncPolicy::EverySec);
    assert!(shards.shards[0].journal().is_sealed());
    assert_eq!(disk.segments[0].len(), 1);
    // A key that is longer than what is left.
    let long = "k".repeat(1 << 20);
    assert!(shards.command(client, &["DEL", &long]).starts_with("-MISCONF"));
    assert_eq!(shards.command(client, &["GET", &long]), "$-1\r\n");

    for writes in [Writes::Full, Writes::Stuck] {
        shards.shards[0].set_writes(writes);
        for words in [&["DEL", "key"][..], &["EXPIRE", "key", "1"], &["FLUSHALL"], &["SWAPDB", "0", "1"]] {
            assert!(shards.command(client, words).starts_with("-MISCONF"), "{words:?}");
        }
        assert_eq!(shards.command(client, &["PING"]), "+PONG\r\n");
    }
    shards.shards[0].set_writes(Writes::Allowed);
    assert_eq!(shards.command(client, &["SET", "key", "v"]), "+OK\r\n");
}

#[test]
fn nothing_expires_into_a_log_that_has_no_room() {
    let (mut shards, mut disk, client) = durable(1, &[]);
    for key in 0..100 {
        shards.command(client, &["SET", &format!("key:{key}"), "v", "PX", "100"]);
    }
    disk.write_all(&mut shards, FsyncPolicy::Always);
    for writes in [Writes::OnlyFreeing, Writes::Full, Writes::Stuck, Writes::Waiting] {
        shards.shards[0].set_writes(writes);
        shards.advance(100);
        shards.advance(100);
        assert_eq!(shards.command(client, &["GET", "key:7"]), "$-1\r\n");
        assert_eq!(shards.shards[0].journal().last_lsn().0, 100, "{writes:?}");
    }
    shards.shards[0].set_writes(Writes::Allowed);
    shards.advance(100);
    shards.advance(100);
    assert_eq!(shards.shards[0].journal().last_lsn().0, 200);
}

#[test]
fn while_a_log_is_behind_only_writers_wait() {
    let (mut shards, mut disk, _) = durable(2, &[("appendfsync", &["everysec"])]);
    for behind in [0, 1] {
        let well = 1 - behind;
        fall_behind(&mut shards, behind);
        let slow = format!("{}key{behind}", TAG_OF[behind]);
        let fast = format!("{}key{behind}", TAG_OF[well]);
        for home in [0, 1] {
            let (writer, other) = (shards.connect(home), shards.connect(home));
            // The request comes in two parts, so it is not where it was received when it has to wait.
            let long = "x".repeat(100_000);
            let set = encode(&["SET", &slow, &long]);
            shards.feed(writer, &set[..50]);
            shards.feed(writer, &set[50..]);
            shards.settle();
            say(&mut shards, writer, &["APPEND", &slow, "y"]);
            say(&mut shards, writer, &["STRLEN", &slow]);
            say(&mut shards, writer, &["PING"]);
            assert_eq!(replies(&mut shards, writer), "", "in order");
            let several = shards.connect(home);
            say(&mut shards, several, &["DEL", &slow, &fast]);
            assert_eq!(replies(&mut shards, several), "");

            assert_eq!(shards.command(other, &["GET", &slow]), "$-1\r\n");
            assert_eq!(shards.command(other, &["PING"]), "+PONG\r\n");
            assert!(shards.command(other, &["DBSIZE"]).starts_with(':'));
            let report = shards.command(other, &["INFO", "persistence"]);
            let line = |name: &str| report.lines().find_map(|line| line.strip_prefix(name)).expect("a line").to_owned();
            assert!(line("aof_buffer_length:").parse::<u64>().expect("a number") > 8 << 20, "{report}");
            assert_eq!(line("aof_last_write_status:"), "ok");
            assert_eq!(shards.command(other, &["SET", &fast, "v"]), "+OK\r\n", "another log");

            disk.write_all(&mut shards, FsyncPolicy::EverySec);
            shards.advance(10);
            shards.advance(10);
            assert_eq!(replies(&mut shards, writer), "+OK\r\n:100001\r\n:100001\r\n+PONG\r\n");
            // It came when the writes of the other were through, or before: both are right.
            shards.advance(10);
            assert!(replies(&mut shards, several).starts_with(':'));
            shards.command(other, &["DEL", &slow]);
            disk.write_after_a_second(&mut shards);
            fall_behind(&mut shards, behind);
        }
        disk.write_after_a_second(&mut shards);
        shards.advance(10);
    }
    shards.assert_at_rest();
}

#[test]
fn shards_whose_logs_are_both_behind_answer_each_other() {
    let (mut shards, mut disk, _) = durable(2, &[]);
    let clients = [shards.connect(0), shards.connect(1)];
    // Requests for the other shard are under way when both logs fall behind.
    for (home, client) in clients.into_iter().enumerate() {
        for key in 0..100 {
            shards.feed(client, &encode(&["SET", &format!("{}{key}", TAG_OF[1 - home]), "v"]));
        }
    }
    for shard in [0, 1] {
        let client = shards.connect(shard);
        for _ in 0..9 {
            shards.feed(client, &encode(&["SET", &format!("{}filler", TAG_OF[shard]), &"f".repeat(1 << 20)]));
        }
    }
    shards.settle();
    for client in clients {
        assert_eq!(replies(&mut shards, client).len(), 100 * 5, "{client:?}");
    }
    disk.write_after_a_second(&mut shards);
}

#[test]
fn a_flush_that_takes_long_makes_writers_wait_and_then_refuses_them() {
    let (mut shards, _, client) = durable(1, &[]);
    let reader = shards.connect(0);
    shards.shards[0].set_writes(Writes::Waiting);
    shards.settle();
    say(&mut shards, client, &["SET", "key", "v"]);
    assert_eq!(replies(&mut shards, client), "");
    assert_eq!(shards.command(reader, &["GET", "key"]), "$-1\r\n");
    shards.shards[0].set_writes(Writes::Stuck);
    shards.settle();
    assert!(
        replies(&mut shards, client).starts_with("-MISCONF Errors writing to the AOF file: the disk does not answer")
    );
    shards.shards[0].set_writes(Writes::Waiting);
    shards.settle();
    say(&mut shards, client, &["SET", "key", "v"]);
    shards.shards[0].set_writes(Writes::Allowed);
    shards.settle();
    assert_eq!(replies(&mut shards, client), "+OK\r\n");
}

#[test]
fn what_all_shards_do_alike_none_does_while_one_cannot() {
    for home in [0, 1] {
        for closed in [0, 1] {
            for writes in [Writes::Refused, Writes::Full, Writes::Stuck] {
                let (mut shards, _, _) = durable(2, &[]);
                let client = shards.connect(home);
                for tag in TAG_OF {
                    assert_eq!(shards.command(client, &["SET", &format!("{tag}key"), "v"]), "+OK\r\n");
                }
                shards.shards[closed].set_writes(writes);
                shards.settle();
                for words in [&["FLUSHALL"][..], &["FLUSHDB", "ASYNC"], &["SWAPDB", "0", "1"]] {
                    let reply = shards.command(client, words);
                    assert!(reply.starts_with("-MISCONF"), "{closed} {writes:?} {words:?}: {reply}");
                    assert_eq!(shards.command(client, &["DBSIZE"]), ":2\r\n");
                }
                assert_eq!(shards.command(client, &["CONFIG", "SET", "timeout", "7"]), "+OK\r\n");
                let report = shards.command(client, &["INFO", "persistence"]);
                assert!(report.contains("aof_last_write_status:err"), "{report}");
                shards.shards[closed].set_writes(Writes::Allowed);
                shards.settle();
                assert_eq!(shards.command(client, &["FLUSHALL"]), "+OK\r\n");
                let report = shards.command(client, &["INFO", "persistence"]);
                assert!(report.contains("aof_last_write_status:ok"), "{report}");
            }
        }
    }
    // What shard 0 has done before it heard of it is done by all.
    let (mut shards, _, client) = durable(2, &[]);
    for tag in TAG_OF {
        shards.command(client, &["SET", &format!("{tag}key"), "v"]);
    }
    shards.shards[1].set_writes(Writes::Full);
    assert_eq!(shards.command(client, &["FLUSHALL"]), "+OK\r\n");
    assert_eq!(shards.command(client, &["DBSIZE"]), ":0\r\n");
}

#[test]
fn info_that_counts_keys_waits_like_any_other_who_does() {
    let (mut shards, mut disk, writer) = durable(2, &[("appendfsync", &["always"])]);
    disk.write_all(&mut shards, FsyncPolicy::Always);
    say(&mut shards, writer, &["SET", "{user:1}key", "v"]);
    for words in [&["INFO"][..], &["INFO", "keyspace"], &["INFO", "server", "EVERYTHING"]] {
        let client = shards.connect(0);
        say(&mut shards, client, words);
        assert_eq!(shards.unread(client), 0, "{words:?}");
    }
    let client = shards.connect(0);
    assert!(shards.command(client, &["INFO", "persistence"]).contains("aof_enabled"));
    say(&mut shards, client, &["INFO", "keyspace"]);
    assert_eq!(shards.unread(client), 0);
    disk.write_all(&mut shards, FsyncPolicy::Always);
    shards.advance(1);
    assert!(replies(&mut shards, client).contains("db0:keys=1"));
}

#[test]
fn replies_that_wait_for_the_disk_are_client_buffers() {
    let (mut shards, mut disk, client) = durable(2, &[("appendfsync", &["always"])]);
    disk.write_all(&mut shards, FsyncPolicy::Always);
    for owner in [0, 1] {
        let key = format!("{}key", TAG_OF[owner]);
        say(&mut shards, client, &["SET", &key, &"v".repeat(10_000)]);
        let before = shards.shards[owner].buffers_bytes();
        let mut asked = 0;
        while asked < 300 {
            say(&mut shards, client, &["GET", &key]);
            asked += 1;
        }
        let held = shards.shards[owner].buffers_bytes() - before;
        // What a client's own shard holds for it is bounded as if it did not read its replies.
        let least = if owner == client.home { 1 << 20 } else { 10_000 * asked };
        assert!(held >= least && held < least * 5 / 4, "{owner}: {held}");
        for _ in 0..5 {
            disk.write_all(&mut shards, FsyncPolicy::Always);
            shards.advance(1);
            while shards.unread(client) > 0 {
                replies(&mut shards, client);
                shards.settle();
            }
        }
        assert!(shards.shards[owner].buffers_bytes() < before + (1 << 20));
    }
}

#[test]
fn who_writes_faster_than_the_disk_waits_for_it() {
    let (mut shards, mut disk, client) = durable(1, &[("appendfsync", &["everysec"])]);
    let set = encode(&["SET", "key", &"v".repeat(1 << 20)]);
    for _ in 0..40 {
        shards.feed(client, &set);
        shards.settle();
    }
    let answered = shards.unread(client);
    assert!((5..400).contains(&answered), "{answered}");
    assert!(shards.shards[0].journal().pending_bytes() < 32 << 20);
    for _ in 0..20 {
        disk.write_all(&mut shards, FsyncPolicy::EverySec);
        shards.turn(0, &[]);
        shards.settle();
        shards.advance(100);
    }
    assert_eq!(shards.unread(client), 40 * 5);
    assert_eq!(shards.command(client, &["STRLEN", "key"]).len(), 200 + ":1048576\r\n".len());
}
