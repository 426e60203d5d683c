//! Saving as clients and the runtime see it: who waits for what, how much of the time a snapshot takes, what is in its
//! file, and how much of it is in memory. `torc_sim::Shards` plays the runtime.

use std::collections::BTreeMap;

use torc_engine::limits;
use torc_engine::snapshot::{Block, Loader, PAGE_BYTES};
use torc_engine::store::SnapshotProgress;
use torc_sim::{Connection, Shards, encode};

fn with_directory(count: usize, settings: &[(&str, &[&str])]) -> (Shards, Connection) {
    let mut shards = Shards::with_settings(count, settings);
    shards.machine.saves.is_available = true;
    let client = shards.connect(0);
    (shards, client)
}

fn end_save(shards: &mut Shards, is_good: bool) {
    shards.machine.end_save(is_good.then_some(1));
    shards.shards.iter_mut().for_each(|shard| shard.handle_save_ended());
    shards.settle();
}

fn unread(shards: &mut Shards, client: Connection) -> String {
    String::from_utf8(shards.read(client, usize::MAX)).expect("text")
}

/// The file of one shard's snapshot.
#[derive(Default)]
struct File {
    bytes: Vec<u8>,
}

impl File {
    fn write(&mut self, block: &Block) {
        let (at, bytes) = (block.offset as usize, block.buffer.as_slice());
        self.bytes.resize(self.bytes.len().max(at + bytes.len()), 0);
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
    }

    /// Keyspace and key to value and expiry time.
    fn content(&self) -> BTreeMap<(u32, Vec<u8>), (Vec<u8>, u64)> {
        let mut loader =
            Loader::new(self.bytes.first_chunk().expect("a page"), self.bytes.len() as u64).expect("sound");
        let mut content = BTreeMap::new();
        loader
            .read(&self.bytes[PAGE_BYTES..], |entries| {
                for entry in entries {
                    let key = (entry.keyspace.0, entry.key.to_vec());
                    let before = content.insert(key, (entry.value.bytes.to_vec(), entry.expire_ms));
                    assert!(before.is_none(), "saved twice");
                }
            })
            .expect("sound");
        loader.finish().expect("complete");
        content
    }
}

/// Writes up to so many blocks of a shard's snapshot.
fn write_blocks(shards: &mut Shards, shard: usize, file: &mut File, most: usize) -> usize {
    for count in 0..most {
        let Some(block) = shards.shards[shard].poll_snapshot_block() else { return count };
        file.write(&block);
        shards.shards[shard].handle_snapshot_block_written(block);
    }
    most
}

/// Has a shard's snapshot written to its end.
fn finish(shards: &mut Shards, shard: usize, file: &mut File) {
    for _ in 0..1_000_000 {
        write_blocks(shards, shard, file, usize::MAX);
        match shards.shards[shard].snapshot_progress() {
            SnapshotProgress::Finished(_) => return,
            SnapshotProgress::Saving { .. } | SnapshotProgress::Writing => {}
            other => panic!("{other:?}"),
        }
        if !shards.shards[shard].has_work() {
            assert!(shards.shards[shard].next_wake().is_some(), "nothing would happen any more");
            shards.machine.now.0 += 1;
        }
        shards.turn(shard, &[]);
    }
    panic!("the snapshot does not end");
}

#[test]
fn save_waits_alone() {
    for count in [1, 3] {
        let (mut shards, client) = with_directory(count, &[]);
        let other = shards.connect(count - 1);
        shards.feed(client, b"SET a 1\r\nSAVE\r\nGET a\r\n");
        shards.settle();
        assert_eq!(unread(&mut shards, client), "+OK\r\n");
        assert!(shards.machine.saves.running.is_some());
        shards.settle();
        for shard in &shards.shards {
            assert!(!shard.has_work(), "who waits for the disk does not spin");
        }
        assert_eq!(shards.command(other, &["SET", "a", "2"]), "+OK\r\n");
        assert_eq!(shards.command(other, &["SAVE"]), "-ERR Background save already in progress\r\n");
        shards.advance(1500);
        assert_eq!(unread(&mut shards, client), "");
        end_save(&mut shards, true);
        assert_eq!(unread(&mut shards, client), "+OK\r\n$1\r\n2\r\n");
        shards.assert_at_rest();
    }
}

#[test]
fn save_says_that_it_failed() {
    let (mut shards, client) = with_directory(2, &[]);
    shards.feed(client, b"SAVE\r\n");
    shards.settle();
    end_save(&mut shards, false);
    assert!(unread(&mut shards, client).starts_with("-ERR The save has failed"));
    shards.feed(client, b"SAVE\r\n");
    end_save(&mut shards, true);
    assert_eq!(unread(&mut shards, client), "+OK\r\n");
    shards.assert_at_rest();
}

#[test]
fn saves_behind_a_rewrite_have_their_turn() {
    let (mut shards, client) = with_directory(2, &[]);
    let other = shards.connect(1);
    assert!(shards.command(client, &["BGREWRITEAOF"]).contains("started"));
    shards.feed(client, b"SAVE\r\n");
    shards.feed(other, b"SAVE\r\n");
    shards.settle();
    for replies in ["", "", "+OK\r\n"] {
        assert_eq!(unread(&mut shards, client) + &unread(&mut shards, other), replies);
        end_save(&mut shards, true);
    }
    assert_eq!(unread(&mut shards, client) + &unread(&mut shards, other), "+OK\r\n");
    assert_eq!((shards.machine.saves.saves, shards.machine.saves.rewrites), (3, 1));
    shards.assert_at_rest();
}

#[test]
fn a_stop_does_not_wait_for_a_save() {
    let (mut shards, client) = with_directory(1, &[]);
    shards.feed(client, b"SAVE\r\n");
    shards.settle();
    shards.shards[0].begin_shutdown();
    assert!(!shards.shards[0].is_drained());
    shards.settle();
    assert!(unread(&mut shards, client).starts_with("-ERR Torc is shutting down"));
    assert!(shards.shards[0].is_drained());
}

#[test]
fn shutdown_says_whether_to_save() {
    use torc_engine::shard::Event;
    for (words, save) in [
        (&["SHUTDOWN"][..], None),
        (&["SHUTDOWN", "NOSAVE"], Some(false)),
        (&["SHUTDOWN", "SAVE", "NOW", "FORCE"], Some(true)),
    ] {
        let (mut shards, client) = with_directory(1, &[]);
        assert_eq!(shards.command(client, words), "");
        assert_eq!(shards.events, [Event::Shutdown { save }]);
    }
}

#[test]
fn a_save_begins_when_the_log_is_long_and_again_when_it_failed() {
    let settings: &[(&str, &[&str])] = &[("appendonly", &["yes"]), ("auto-aof-rewrite-min-size", &["1mb"])];
    let (mut shards, _) = with_directory(1, settings);
    let start = torc_engine::log::LogStart {
        database: [7; 16],
        generation: 3,
        shard: 0,
        shards: 1,
        segment: 5,
        salt: 1,
        next_lsn: torc_engine::log::Lsn(1),
        last_txid: 9,
        segment_bytes: 1 << 20,
        first_segment_bytes: 1 << 20,
        previous: None,
    };
    shards.shards[0].journal().begin(start);
    let client = shards.connect(0);
    let (now, value) = (shards.now(), "v".repeat(1000));
    for number in 0..1100 {
        shards.command(client, &["SET", &format!("key{number}"), &value]);
        let journal = shards.shards[0].journal();
        while let Some(write) = journal.poll_write(now, torc_engine::log::FsyncPolicy::Always) {
            journal.handle_written(Ok(write.sync), write.buffer);
        }
    }
    // A shard without any event looks by itself.
    let wake = shards.shards[0].next_wake().expect("there is a schedule");
    assert!(wake.0 <= now.0 + limits::SAVE_LOOK_MS);
    shards.advance(limits::SAVE_LOOK_MS);
    shards.advance(limits::SAVE_LOOK_MS);
    let kind = shards.machine.saves.running.map(|(kind, _)| kind);
    assert_eq!(kind, Some(torc_engine::machine::SaveKind::Rewrite));
    let segment = shards.shards[0].journal().segment().map(|number| (3, number));
    let base = shards.shards[0].begin_snapshot([7; 16], 1, now).expect("none runs");
    assert_eq!((base.base_lsn, base.changes, base.segment), (torc_engine::log::Lsn(1100), 1100, segment));
    assert!(base.log_bytes > 1_100_000);
    let mut file = File::default();
    finish(&mut shards, 0, &mut file);
    let header = torc_engine::snapshot::Header::parse(file.bytes.first_chunk().expect("a page")).expect("sound");
    assert_eq!((header.base_lsn, header.last_txid, header.shard, header.shards), (1100, 9, 0, 1));
    end_save(&mut shards, false);
    shards.advance(2_000);
    assert_eq!(shards.machine.saves.running, None, "it waits for five seconds");
    shards.advance(4_000);
    assert!(shards.machine.saves.running.is_some());
    end_save(&mut shards, true);
    shards.advance(60_000);
    assert_eq!(shards.machine.saves.running, None);
}

/// Fills a database with so many keys, and gives what a snapshot of it must have.
fn fill(shards: &mut Shards, client: Connection, keys: usize, value: &str) {
    let mut pipeline = Vec::new();
    for key in 0..keys {
        pipeline.extend_from_slice(&encode(&["SET", &format!("key{key}"), value]));
        if pipeline.len() > 1 << 18 || key + 1 == keys {
            shards.exchange(client, &pipeline);
            pipeline.clear();
        }
    }
}

#[test]
fn a_busy_shard_gives_the_snapshot_its_share_and_an_idle_one_all() {
    let (mut shards, client) = with_directory(1, &[("snapshot-duty", &["20"])]);
    fill(&mut shards, client, 200_000, &"v".repeat(100));
    let now = shards.now();
    shards.shards[0].begin_snapshot([0; 16], 1, now).expect("none runs");
    // Each look at the stopwatch, so each slice, takes a microsecond; a turn with a command takes 20.
    let mut file = File::default();
    // What was earned before it began is spent in the first turn.
    shards.turn(0, &[]);
    let mut slices_ns = 0;
    const TURNS: u64 = 60;
    for _ in 0..TURNS {
        shards.machine.ticks += 20_000;
        let before = shards.machine.ticks;
        shards.feed(client, b"GET key1\r\n");
        slices_ns += shards.machine.ticks - before;
        shards.read(client, usize::MAX);
        write_blocks(&mut shards, 0, &mut file, usize::MAX);
        if !matches!(shards.shards[0].snapshot_progress(), SnapshotProgress::Saving { .. }) {
            panic!("it was to go on for all the turns: give it more keys");
        }
    }
    let share = 100 * slices_ns / (TURNS * 20_000 + slices_ns);
    assert!((15..=30).contains(&share), "{share} percent");
    // Then nobody wants anything.
    let mut turns = 0;
    while !matches!(shards.shards[0].snapshot_progress(), SnapshotProgress::Finished(_)) {
        if !shards.shards[0].has_work() {
            shards.machine.now.0 += 1;
            shards.machine.ticks += 1_000_000;
        }
        let before = shards.machine.ticks;
        shards.turn(0, &[]);
        assert!(shards.machine.ticks - before <= limits::SNAPSHOT_TURN_NS + 10_000);
        write_blocks(&mut shards, 0, &mut file, usize::MAX);
        turns += 1;
        assert!(turns < 10_000);
    }
    assert_eq!(file.content().len(), 200_000);
    shards.settle();
    shards.assert_at_rest();
}

#[test]
fn a_snapshot_of_swapped_and_flushed_databases_is_what_they_were() {
    let (mut shards, client) = with_directory(1, &[]);
    fill(&mut shards, client, 20_000, "zero");
    shards.exchange(client, b"SELECT 1\r\nSET one 1\r\n");
    let now = shards.now();
    shards.shards[0].begin_snapshot([0; 16], 1, now).expect("none runs");
    shards.exchange(client, b"SWAPDB 0 1\r\nSELECT 0\r\nSET one 2\r\nSET two 2\r\nDEL one\r\n");
    shards.exchange(client, b"SELECT 1\r\nSET key7 seven\r\nDEL key8\r\n");
    // An empty database.
    shards.exchange(client, b"SELECT 2\r\nFLUSHDB\r\n");
    let mut file = File::default();
    finish(&mut shards, 0, &mut file);
    let content = file.content();
    assert_eq!(content.len(), 20_001);
    assert!(content.iter().all(|(key, value)| value.0 == if key.0 == 0 { &b"zero"[..] } else { b"1" }));
    // What is not saved and flushed makes it worthless.
    shards.shards[0].begin_snapshot([0; 16], 2, now).expect("none runs");
    shards.exchange(client, b"FLUSHALL\r\n");
    assert_eq!(shards.shards[0].snapshot_progress(), SnapshotProgress::Aborted);
    shards.settle();
    let mut file = File::default();
    shards.shards[0].begin_snapshot([0; 16], 3, now).expect("none runs");
    finish(&mut shards, 0, &mut file);
    assert_eq!(file.content().len(), 0);
}

/// Writers overwrite everything while nothing is written: they wait before there is too much, readers do not.
fn under_full_write_load(value: &str, keys: usize) {
    let (mut shards, client) = with_directory(2, &[]);
    fill(&mut shards, client, keys, value);
    let now = shards.now();
    shards.shards[0].begin_snapshot([0; 16], 1, now).expect("none runs");
    let expected = shards.shards[0].snapshot_progress();
    let (writers, readers): (Vec<_>, Vec<_>) =
        (0..4).map(|number| (shards.connect(number % 2), shards.connect(number % 2))).unzip();
    let mut most = 0;
    for key in 0..keys {
        let writer = writers[key % writers.len()];
        shards.feed(writer, &encode(&["SET", &format!("key{key}"), "new"]));
        if key % 64 == 0 {
            shards.settle();
        }
        most = most.max(shards.shards[0].snapshot_pending_bytes());
    }
    shards.settle();
    most = most.max(shards.shards[0].snapshot_pending_bytes());
    assert!(most >= limits::SNAPSHOT_PENDING_BYTES_MAX, "there was not enough to make anybody wait: {most}");
    assert!(most <= 16 << 20, "{most} bytes of a snapshot are in memory");
    let mut answered = writers.iter().map(|&writer| shards.read(writer, usize::MAX).len() / 5).sum::<usize>();
    assert!(answered < keys, "nobody waits");
    shards.settle();
    for shard in &shards.shards {
        assert!(!shard.has_work(), "who waits for the disk does not spin");
    }
    for &reader in &readers {
        for key in ["key1", "key2", "key3", "key4", "key5"] {
            assert!(shards.command(reader, &["GET", key]).starts_with('$'), "reads go on");
        }
    }
    // The disk comes back.
    let mut file = File::default();
    while answered < keys {
        let written = write_blocks(&mut shards, 0, &mut file, 4);
        most = most.max(shards.shards[0].snapshot_pending_bytes());
        shards.settle();
        most = most.max(shards.shards[0].snapshot_pending_bytes());
        let more = writers.iter().map(|&writer| shards.read(writer, usize::MAX).len() / 5).sum::<usize>();
        shards.settle();
        answered += more;
        if written == 0 && more == 0 {
            assert!(shards.shards[0].next_wake().is_some(), "nothing would happen any more");
            shards.machine.ticks += 1_000_000;
            shards.advance(1);
        }
    }
    assert!(most <= 16 << 20, "{most} bytes of a snapshot are in memory");
    finish(&mut shards, 0, &mut file);
    let content = file.content();
    let SnapshotProgress::Saving { of, .. } = expected else { panic!("{expected:?}") };
    assert_eq!(content.len() as u64, of);
    assert!(content.values().all(|(saved, _)| saved == value.as_bytes()));
    shards.settle();
    shards.assert_at_rest();
}

#[test]
fn full_write_load_on_short_values() {
    under_full_write_load(&"v".repeat(200), 200_000);
}

#[test]
fn full_write_load_on_long_values() {
    under_full_write_load(&"v".repeat(100_000), 600);
}
