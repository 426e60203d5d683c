//! What the journal hands out and when, and that a whole log is read as it was written.

use super::*;
use crate::limits::{LOG_PENDING_BYTES_MAX, LOG_WRITE_BYTES_MAX};
use crate::log::{Buffer, WriteError, WriteStep, segment_bytes};
use FsyncPolicy::{Always, EverySec, No};

/// A log that the header of is written.
fn begun() -> World {
    let mut world = World::new(start(1, 1));
    assert!(world.write(Always));
    world
}

fn large() -> World {
    World::new(LogStart { segment_bytes: 100 << 20, first_segment_bytes: 4 << 20, ..start(1, 1) })
}

#[test]
fn a_journal_that_is_off_keeps_nothing() {
    let mut journal = Journal::off();
    journal.set(KeyspaceId(0), b"k", b"v", 0, None);
    journal.seal();
    assert!(!journal.is_on() && journal.pending_bytes() == 0 && journal.last_lsn() == Lsn(0));
    assert!(journal.poll_write(Millis(1), Always).is_none());
    assert_eq!(journal.next_deadline(Millis(1), Always), None);
}

#[test]
fn the_first_header_is_written_alone_and_synced() {
    for policy in [Always, EverySec, No] {
        let mut world = World::new(start(1, 1));
        world.set("k", b"v");
        let write = world.journal.poll_write(world.now, policy).expect("the header");
        assert_eq!((write.segment, write.offset, write.buffer.len(), write.sync), (1, 0, 4096, policy == Always));
        assert_eq!(write.last_lsn, Lsn(0));
        world.put(&write);
        world.journal.handle_written(Ok(write.sync), write.buffer);
        // At once, and once.
        assert_eq!(world.begin_sync(policy), (policy != Always).then_some((1, 1)));
        assert_eq!(world.begin_sync(policy), None);
    }
}

#[test]
fn a_disk_that_does_not_answer_has_what_is_older_than_25_ms() {
    for policy in [EverySec, No] {
        let mut world = large();
        world.settle(Always);
        world.set("a", b"1");
        assert_eq!(world.journal.next_deadline(world.now, policy), Some(Millis(world.now.0 + 10)));
        assert!(!world.begin_write(policy));
        world.now.0 += 10;
        assert!(world.begin_write(policy));
        for writes in 2..=16 {
            world.set("a", b"1");
            assert!(!world.begin_write(policy));
            assert_eq!(world.journal.next_deadline(world.now, policy), Some(Millis(world.now.0 + 25)));
            world.now.0 += 25;
            assert!(world.begin_write(policy));
            assert_eq!(world.in_flight.len(), writes);
        }
        world.set("a", b"1");
        assert!(!world.begin_write(policy));
        world.now.0 += 1000;
        assert!(!world.begin_write(policy) && world.journal.next_deadline(world.now, policy).is_none());
        // What ends makes room, in the order in which it was begun.
        assert_eq!(world.journal.written_lsn(), Lsn(0));
        assert!(world.end_write());
        assert_eq!(world.journal.written_lsn(), Lsn(1));
        assert!(world.begin_write(policy));
        // Under `always`, and at the end, what is under way is waited for, and what is written is synced meanwhile.
        world.set("a", b"1");
        assert!(!world.begin_write(Always) && world.journal.next_deadline(world.now, Always) == Some(world.now));
        let sync = world.begin_sync(Always).expect("something is written");
        assert_eq!(world.journal.next_deadline(world.now, Always), None);
        while world.end_write() {
            assert!(!world.begin_write(Always));
        }
        world.end_sync(sync);
        assert_eq!((world.journal.durable_lsn(), world.journal.written_lsn()), (Lsn(1), Lsn(17)));
        assert!(world.begin_write(Always) && world.end_write());
        assert_eq!(world.journal.durable_lsn(), Lsn(18));
    }
}

#[test]
fn segments_are_begun_while_those_before_are_synced_one_after_the_other() {
    let mut world = World::new(start(1, 1));
    world.settle(EverySec);
    let mut segments = 0;
    for _ in 0..40 {
        world.set("a", &[b'a'; 3000]);
        world.now.0 += 10;
        while world.begin_write(EverySec) {}
        while world.end_write() {}
        segments = segments.max(world.files.len());
    }
    // The ninth waits for the first.
    assert_eq!((segments, world.journal.durable_lsn()), (8, Lsn(0)));
    assert_eq!(world.journal.next_deadline(world.now, EverySec), Some(world.now));
    for segment in 1..8 {
        let sync = world.begin_sync(EverySec).expect("a complete segment");
        assert!(sync.0 == segment && world.begin_sync(EverySec).is_none());
        assert_eq!(world.journal.next_deadline(world.now, Always), None);
        world.end_sync(sync);
        assert_eq!(world.journal.durable_lsn(), Lsn(2 + 4 * (segment - 1)));
        // Nothing is synced with a write before they all are.
        assert_eq!(world.journal.next_deadline(world.now, Always), Some(world.now));
        assert_eq!(world.begin_write(Always), segment == 7);
    }
    assert!(world.end_write());
    world.settle(Always);
    assert_eq!(world.journal.durable_lsn(), world.journal.last_lsn());
    let (count, result) = world.read(&world.contents());
    assert!(count == 40 && is_sound(&result));
}

#[test]
fn always_writes_at_once_with_a_sync_and_one_at_a_time() {
    let mut world = begun();
    assert_eq!(world.journal.next_deadline(world.now, Always), None);
    world.set("a", b"1");
    assert_eq!(world.journal.next_deadline(world.now, Always), Some(world.now));
    let write = world.journal.poll_write(world.now, Always).expect("a record");
    assert_eq!((write.offset, write.buffer.len(), write.sync, write.last_lsn), (4096, 4096, true, Lsn(1)));
    world.set("b", b"2");
    assert!(world.journal.poll_write(world.now, Always).is_none());
    assert_eq!(world.journal.next_deadline(world.now, Always), None);
    assert_eq!((world.journal.written_lsn(), world.journal.durable_lsn()), (Lsn(0), Lsn(0)));
    world.journal.handle_written(Ok(true), write.buffer);
    assert_eq!((world.journal.written_lsn(), world.journal.durable_lsn()), (Lsn(1), Lsn(1)));
    assert_eq!(world.journal.poll_write(world.now, Always).map(|write| write.last_lsn), Some(Lsn(2)));
}

#[test]
fn everysec_writes_after_ten_milliseconds_and_syncs_after_a_second() {
    let mut world = begun();
    let begun = world.now;
    world.set("a", b"1");
    assert!(!world.write(EverySec));
    assert_eq!(world.journal.next_deadline(world.now, EverySec), Some(Millis(begun.0 + 10)));
    world.now.0 += 10;
    assert!(world.write(EverySec));
    assert_eq!((world.journal.written_lsn(), world.journal.durable_lsn()), (Lsn(1), Lsn(0)));
    // Nothing new: the second after the last sync began is waited for, then there is a sync without a write.
    assert!(!world.write(EverySec));
    assert_eq!(world.journal.next_deadline(world.now, EverySec), Some(Millis(begun.0 + 1000)));
    world.now.0 = begun.0 + 1000;
    let sync = world.begin_sync(EverySec).expect("a sync");
    // Writes go on beside it, and it speaks for what was there when it began.
    world.set("b", b"2");
    assert!(!world.write(EverySec));
    world.now.0 += 10;
    assert!(world.write(EverySec));
    assert_eq!((world.journal.written_lsn(), world.journal.durable_lsn()), (Lsn(2), Lsn(0)));
    world.end_sync(sync);
    assert_eq!(world.journal.durable_lsn(), Lsn(1));
    assert_eq!(world.journal.next_deadline(world.now, EverySec), Some(Millis(begun.0 + 2000)));
    world.now.0 = begun.0 + 2000;
    assert!(world.write(EverySec));
    assert_eq!(world.journal.durable_lsn(), Lsn(2));
    assert_eq!(world.journal.next_deadline(world.now, EverySec), None);
}

#[test]
fn a_sync_beside_writes_that_fails_ends_the_log() {
    let mut world = begun();
    world.set("a", b"1");
    world.now.0 += 10;
    assert!(!world.write(EverySec));
    world.now.0 += 1000;
    assert!(world.write(EverySec));
    world.now.0 += 1000;
    let _ = world.begin_sync(EverySec).expect("a sync");
    world.set("b", b"2");
    world.now.0 += 10;
    let write = world.journal.poll_write(world.now, EverySec);
    world.now.0 += 10;
    let write = write.or_else(|| world.journal.poll_write(world.now, EverySec)).expect("a write");
    assert!(!write.sync);
    // What becomes of the write is of no interest any more.
    world.journal.handle_synced(Err(WriteError { step: WriteStep::Sync, errno: 5 }));
    assert!(world.journal.is_poisoned() && !world.journal.is_on());
    assert_eq!(world.journal.durable_lsn(), Lsn(0));
    assert!(!world.write(EverySec) && world.journal.next_deadline(world.now, EverySec).is_none());
}

#[test]
fn no_writes_like_everysec_and_syncs_segments_only() {
    let mut world = begun();
    world.set("a", b"1");
    world.now.0 += 1;
    assert!(!world.write(No));
    world.now.0 += 100_000;
    assert!(world.write(No) && !world.write(No));
    assert_eq!((world.journal.written_lsn(), world.journal.durable_lsn()), (Lsn(1), Lsn(0)));
    assert_eq!(world.journal.next_deadline(world.now, No), None);
    // The policy can change: what is written is synced at once, or when it is due.
    assert_eq!(world.journal.next_deadline(world.now, Always), Some(world.now));
    assert!(world.write(Always));
    assert_eq!(world.journal.durable_lsn(), Lsn(1));
    // The page that is left in the segment, and one more for the next.
    world.set("b", &[b'b'; 3000]);
    world.set("c", &[b'c'; 3000]);
    assert!(world.write(No));
    world.now.0 += 10;
    assert!(world.write(No));
    assert_eq!((world.journal.durable_lsn(), world.journal.segment()), (Lsn(1), Some(2)));
    assert!(world.write(No) && !world.write(No));
    assert_eq!((world.journal.durable_lsn(), world.journal.written_lsn()), (Lsn(2), Lsn(3)));
}

#[test]
fn a_clock_that_is_set_back_delays_nothing() {
    let mut world = begun();
    world.set("a", b"1");
    assert!(!world.write(EverySec));
    world.now.0 -= 500_000;
    assert!(!world.write(EverySec));
    world.now.0 += 10;
    assert!(world.write(EverySec));
    world.now.0 += 1000;
    assert!(world.write(EverySec));
    assert_eq!(world.journal.durable_lsn(), Lsn(1));
}

#[test]
fn a_full_batch_is_written_at_once() {
    let mut world = large();
    world.settle(EverySec);
    let value = [b'v'; 1000];
    while world.journal.pending_bytes() < 200 << 10 {
        world.set("key", &value);
        assert!(world.journal.poll_write(world.now, EverySec).is_none());
    }
    while world.journal.pending_bytes() < 300 << 10 {
        world.set("key", &value);
    }
    let write = world.journal.poll_write(world.now, EverySec).expect("a full batch");
    assert!(write.buffer.len() > 256 << 10 && write.last_lsn == world.journal.last_lsn());
}

#[test]
fn pending_bytes_count_what_is_formed_queued_and_in_flight() {
    let mut world = large();
    world.settle(Always);
    assert_eq!(world.journal.pending_bytes(), 0);
    let value = vec![b'v'; 100_000];
    let mut logged = 0;
    while world.journal.pending_bytes() < LOG_PENDING_BYTES_MAX {
        world.set("key", &value);
        logged += value.len();
        assert!(world.journal.pending_bytes() >= logged);
        // Batches of 256 KiB take two of these: the rest is not filled.
        assert!(world.journal.pending_bytes() <= logged * 3 / 2 + LOG_WRITE_BYTES_MAX);
    }
    let pending = world.journal.pending_bytes();
    let write = world.journal.poll_write(world.now, No).expect("much");
    assert_eq!(world.journal.pending_bytes(), pending);
    let len = write.buffer.len();
    world.journal.handle_written(Ok(false), write.buffer);
    assert_eq!(world.journal.pending_bytes(), pending - len);
    world.settle(Always);
    assert_eq!(world.journal.pending_bytes(), 0);
}

#[test]
fn buffers_are_used_again() {
    let mut world = large();
    world.settle(Always);
    let mut addresses = std::collections::BTreeSet::new();
    for at in 0..1000 {
        (0..at % 7 * 100).for_each(|_| world.journal.set(KeyspaceId(0), b"key", &[b'v'; 1000], 0, None));
        while let Some(write) = world.journal.poll_write(world.now, Always) {
            if !write.buffer.is_empty() {
                addresses.insert(write.buffer.as_slice().as_ptr());
            }
            world.journal.handle_written(Ok(true), write.buffer);
        }
    }
    assert!(addresses.len() <= 3, "{} buffers", addresses.len());
}

#[test]
fn a_failed_write_poisons_until_the_log_is_begun_again() {
    let mut world = begun();
    world.set("a", b"1");
    let write = world.journal.poll_write(world.now, Always).expect("a record");
    let error = WriteError { step: WriteStep::Sync, errno: 5 };
    world.journal.handle_written(Err(error), write.buffer);
    assert!(world.journal.is_poisoned() && !world.journal.is_on() && world.journal.error() == Some(error));
    assert_eq!(error.to_string(), "a sync of the log failed: system error 5");
    world.journal.set(KeyspaceId(0), b"b", b"2", 0, None);
    assert!(world.journal.poll_write(world.now, Always).is_none() && world.journal.pending_bytes() == 0);
    assert_eq!((world.journal.last_lsn(), world.journal.durable_lsn()), (Lsn(1), Lsn(0)));
    world.journal.begin(start(2, 2));
    assert!(world.journal.is_on() && !world.journal.is_poisoned());
}

#[test]
#[should_panic(expected = "a write is in flight")]
fn what_was_not_handed_out_cannot_be_through() {
    begun().journal.handle_written(Ok(true), Buffer::default());
}

#[test]
fn segments_grow_to_their_full_length() {
    let lengths: Vec<u64> = [0, 1, 2, 3, 4, 5, 63, 64, u64::MAX].map(|at| segment_bytes(4, 100, at)).into();
    assert_eq!(lengths, [4, 8, 16, 32, 64, 100, 100, 100, 100]);
}

#[test]
fn all_kinds_of_changes_are_read_as_they_were_written() {
    for policy in [Always, EverySec, No] {
        let mut world = World::new(start(1, 1));
        let (keyspace, version) = (KeyspaceId(7), Some(9));
        let key: &[u8] = b"key";
        world.log(Record::Set { keyspace, key, value: &[], expire_ms: 5, version });
        world.log(Record::Remove { keyspace, key });
        world.log(Record::Expire { keyspace, key, expire_ms: 0, version: None });
        world.log(Record::WriteAt { keyspace, key, offset: 1 << 40, bytes: b"x", version });
        let ids = Layout::encode([keyspace, KeyspaceId(0)]);
        world.log(Record::Layout(Layout::new(1, 8, &ids)));
        let mut effects = Effects::default();
        effects.push(&Record::Remove { keyspace, key });
        world.log(Effects::join([(0, &effects), (1, &effects)]).transaction(77));
        // Over several segments, the long one with a key that is cut too.
        let long = [b'k'; 9000];
        world.log(Record::Set { keyspace, key: &long, value: &[b'v'; 70_000], expire_ms: 5, version });
        world.log(Record::WriteAt { keyspace, key, offset: 3, bytes: &long, version: None });
        world.settle(policy);
        world.set("after", b"it");
        world.seal();
        let (count, result) = world.read(&world.contents());
        let end = result.expect("undamaged");
        assert_eq!((count, end.tail, end.is_sealed), (9, Tail::Sound, true));
        assert_eq!((end.last_lsn, end.last_txid, end.changes), (world.journal.last_lsn(), 77, 9));
        assert_eq!(end.wall_ms, world.now);
        assert!(world.files.len() > 4);
    }
}

#[test]
fn a_log_goes_on_in_the_next_generation() {
    let mut world = World::new(start(1, 1));
    world.set("a", b"1");
    world.seal();
    for generation in 2..5 {
        let (_, result) = world.read(&world.contents());
        let end = result.expect("undamaged");
        let next_lsn = Lsn(end.last_lsn.0 + 1);
        world.start = LogStart { next_lsn, previous: end.previous, ..start(generation, 1) };
        world.journal.begin(world.start);
        // The third one logs nothing.
        if generation != 3 {
            world.set("b", &vec![b'b'; 3000 * generation as usize]);
        }
        world.settle(Always);
    }
    let contents = world.contents();
    assert_eq!(world.read(&contents).0, world.changes.len());
    // From a snapshot on, the segments before it are not needed.
    let base = world.changes[0].0;
    let expected = Expected { base, ..world.expected() };
    let (count, result) = read(expected, &contents[1..], &world.changes);
    assert!(is_sound(&result) && count == world.changes.len());
    let (_, result) = world.read(&contents[1..]);
    assert_eq!(result.map_err(|damage| (damage.first, damage.last)), Err((Lsn(1), base)));
}

#[test]
fn a_log_goes_on_where_its_records_end() {
    let mut world = World::new(start(1, 1));
    world.set("a", b"1");
    world.seal();
    for generation in 2..6 {
        let end = world.read(&world.contents()).1.expect("undamaged");
        let last = end.records_end.expect("records");
        // Those without records are gone, seals and all, and the last one that has some is only as long as it must be.
        world.files.retain(|name, _| *name <= (last.generation, last.segment));
        let file = world.files.get_mut(&(last.generation, last.segment)).expect("it is there");
        file.durable.truncate(last.offset as usize);
        assert_eq!(last.offset, 3 * 4096, "header, records, seal");
        let next_lsn = Lsn(end.last_lsn.0 + 1);
        world.start = LogStart { next_lsn, previous: last.previous, ..start(generation, 1) };
        world.journal.begin(world.start);
        if generation == 4 {
            world.set("b", b"2");
        }
        world.seal();
    }
    let contents = world.contents();
    assert_eq!(contents.iter().map(|(generation, ..)| *generation).collect::<Vec<_>>(), [1, 4, 5]);
    let (count, result) = world.read(&contents);
    assert!(is_sound(&result) && count == 2);
}

#[test]
fn changes_behind_a_seal_are_sealed_again() {
    let mut world = begun();
    world.seal();
    world.set("late", b"1");
    assert!(!world.journal.is_sealed());
    world.settle(EverySec);
    assert!(world.journal.is_sealed());
    let (count, result) = world.read(&world.contents());
    assert!(count == 1 && result.is_ok_and(|end| end.is_sealed));
}

#[test]
fn what_is_longer_than_a_write_goes_through() {
    let mut world = large();
    world.set("long", &vec![b'v'; 6 << 20]);
    world.set("next", b"1");
    world.seal();
    let (count, result) = world.read(&world.contents());
    assert!(count == 2 && is_sound(&result));
}
