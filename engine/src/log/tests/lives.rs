//! Lives of logs as the runtime lives them: what a manifest says is the first segment, processes that are killed and machines
//! that fail, starts that are interrupted, and repairs. What was durable is there, and what only a crash has touched is
//! never refused.

use super::*;
use crate::random::Random;
use FsyncPolicy::{Always, EverySec, No};

/// Lives in a test.
const LIVES: u64 = 200;

fn below(random: &mut Random, end: u64) -> u64 {
    random.next() % end
}

/// What a life may have.
#[derive(Clone, Copy)]
struct Life {
    /// A process is killed, and the machine goes on.
    kills: bool,
    snapshots: bool,
}

#[test]
fn machines_fail() {
    for snapshots in [false, true] {
        (0..LIVES).for_each(|seed| live(seed, Life { kills: false, snapshots }));
    }
}

#[test]
fn processes_are_killed_and_machines_fail() {
    for snapshots in [false, true] {
        (0..LIVES).for_each(|seed| live(seed, Life { kills: true, snapshots }));
    }
}

fn live(seed: u64, life: Life) {
    let mut random = Random(seed);
    let random = &mut random;
    let mut world = World::new(start(1, 1));
    let mut base = Lsn(0);
    let mut first = (1u64, 1u64);
    let mut policy = EverySec;
    for _ in 0..below(random, 8) + 3 {
        let mut beside = None;
        let len = [3, 12, 60][below(random, 3) as usize];
        for _ in 0..below(random, len) {
            for _ in 0..below(random, 8) {
                let long = below(random, 10) == 0;
                let value = vec![random.next() as u8; below(random, if long { 30_000 } else { 600 }) as usize];
                world.set("k", &value);
            }
            if below(random, 10) == 0 {
                policy = [Always, EverySec, No][below(random, 3) as usize];
            }
            world.now.0 += [0, 1, 10, 25, 500][below(random, 5) as usize];
            if let Some(sync) = beside.take_if(|_| below(random, 3) == 0) {
                world.end_sync(sync);
            }
            let deadline = world.journal.next_deadline(world.now, policy);
            let sync = world.begin_sync(policy);
            let has_written = world.begin_write(policy) || sync.is_some();
            assert_eq!(has_written, deadline.is_some_and(|at| at <= world.now), "{deadline:?} at {:?}", world.now);
            while below(random, 2) == 0 && world.begin_write(policy) {}
            beside = beside.or(sync);
            if let Some(sync) = beside.take_if(|_| below(random, 3) == 0) {
                world.end_sync(sync);
            }
            let ends = [0, 1, 20][below(random, 3) as usize];
            (0..ends).for_each(|_| _ = world.end_write());
            if life.snapshots && below(random, 15) == 0 {
                // As Shard::begin_snapshot and Worker::first_segment say.
                let handed = world.files.keys().rfind(|name| name.0 == world.start.generation).copied();
                if let (Some((generation, segment)), Some(current)) = (world.journal.position(), handed) {
                    base = world.journal.last_lsn().max(base);
                    first = (generation, segment.min(current.1)).max(first);
                    let gone: Vec<_> = world.files.keys().copied().filter(|name| *name < first).collect();
                    for name in gone {
                        let file = world.files.remove(&name).unwrap();
                        world.recycled.insert(0, file.crashed(|| true));
                    }
                }
            }
        }
        if below(random, 5) == 0 {
            if let Some(sync) = beside {
                world.end_sync(sync);
            }
            while world.end_write() {}
            world.seal();
        } else {
            while below(random, 3) != 0 && world.begin_write(policy) {}
        }
        restart(random, &mut world, base, &mut first, life, seed);
    }
}

fn restart(random: &mut Random, world: &mut World, base: Lsn, first: &mut (u64, u64), life: Life, seed: u64) {
    let is_sealed = world.journal.is_sealed();
    let durable = world.journal.durable_lsn();
    world.in_flight.clear();
    let is_kill = life.kills && below(random, 2) == 0;
    let mut needed = (durable, is_sealed);
    loop {
        if !is_kill || below(random, 3) == 0 {
            let one_in = below(random, 20) + 1;
            for file in world.files.values_mut() {
                let bytes = file.crashed(|| below(random, one_in) != 0);
                *file = File { durable: bytes, ..File::default() };
            }
        }
        let mut contents = world.contents();
        if let Some(next) = world.recycled.last() {
            contents.push((world.start.generation, world.journal.segment().unwrap_or(1) + 1, next.clone()));
        }
        let (count, result) = read(Expected { base, ..world.expected() }, &contents, &world.changes);
        let end = result.unwrap_or_else(|damage| panic!("seed {seed}: {damage}; base {base:?} first {first:?}"));
        let last = end.last_lsn.max(base);
        assert!(last >= needed.0, "seed {seed}: {last:?} of {needed:?}");
        assert!(!needed.1 || end.is_sealed && count == world.changes.len(), "seed {seed}");
        let interrupted = below(random, 3) == 0;
        if let Tail::Torn(tail) = end.tail {
            assert!(!needed.1);
            let file = world.files.get_mut(&(tail.generation, tail.segment)).expect("it is there");
            let at = tail.offset as usize;
            let zeros = vec![0; file.durable.len() - at];
            if interrupted && below(random, 2) == 0 {
                file.unsynced.push((at, zeros));
                continue;
            }
            file.sync_first(file.writes());
            file.durable[at..].fill(0);
            for number in tail.segment + 1..=tail.last_segment {
                if interrupted && below(random, 2) == 0 {
                    break;
                }
                world.files.remove(&(tail.generation, number));
            }
            if interrupted {
                needed = (if is_kill { needed.0 } else { last }, false);
                continue;
            }
        }
        let records_end = end.records_end.map(|last| (last.generation, last.segment));
        let behind: Vec<_> =
            world.files.keys().copied().filter(|name| records_end.is_none_or(|last| *name > last)).collect();
        for name in behind.into_iter().filter(|name| name != first) {
            if interrupted && below(random, 2) == 0 {
                break;
            }
            world.files.remove(&name);
        }
        if interrupted {
            needed = (if is_kill { needed.0 } else { last }, false);
            continue;
        }
        // What was read is made durable before it counts.
        for file in world.files.values_mut() {
            file.sync_first(file.writes());
        }
        // Not before: zeros may make a torn batch whole, if what it lacks was zeros.
        world.changes.truncate(count);
        let generation = world.start.generation + 1;
        if records_end.is_none() {
            *first = (generation, 1);
            world.files.retain(|name, _| *name >= *first);
        }
        if let Some(end) = end.records_end.filter(|_| below(random, 2) == 0) {
            let file = world.files.get_mut(&(end.generation, end.segment)).expect("it is there");
            file.durable.truncate(end.offset as usize);
        }
        world.start = LogStart {
            next_lsn: Lsn(last.0 + 1),
            last_txid: end.last_txid,
            previous: end.records_end.and_then(|end| end.previous),
            ..start(generation, 1)
        };
        world.journal = Journal::off();
        world.journal.begin(world.start);
        return;
    }
}

/// The header of a generation's first segment is lost, that of its second is not.
#[test]
fn first_header_is_lost_and_the_second_is_not() {
    let mut world = World::new(start(1, 1));
    world.set("a", b"1");
    world.settle(Always);
    world.start = LogStart { next_lsn: Lsn(2), previous: Some(end_of(&world)), ..start(2, 1) };
    world.journal = Journal::off();
    world.journal.begin(world.start);
    // The header is written, and its sync takes long.
    assert!(world.begin_write(EverySec));
    assert!(world.end_write());
    let _sync = world.begin_sync(EverySec).expect("at once");
    for _ in 0..4 {
        world.set("b", &[b'b'; 3000]);
        world.now.0 += 25;
        while world.begin_write(EverySec) {}
    }
    while world.end_write() {}
    assert_eq!(world.files.keys().copied().collect::<Vec<_>>(), [(1, 1), (2, 1), (2, 2)]);
    // The machine fails: of the first segment nothing has come to the disk.
    world.files.get_mut(&(2, 1)).unwrap().unsynced.clear();
    let (count, result) = world.read(&world.contents());
    assert_eq!(count, 1);
    result.expect("nothing durable is lost");
}

/// The log ends before the snapshot does, and the first header behind it is lost.
#[test]
fn first_header_behind_a_snapshot_is_lost_and_its_batch_is_not() {
    let mut world = World::new(start(1, 1));
    world.set("a", b"1");
    world.settle(Always);
    // This one only the snapshot has.
    let previous = end_of(&world);
    world.set("b", b"2");
    let base = Lsn(2);
    world.start = LogStart { next_lsn: Lsn(3), previous: Some(previous), ..start(2, 1) };
    world.journal = Journal::off();
    world.journal.begin(world.start);
    assert!(world.begin_write(EverySec));
    world.set("c", b"3");
    assert!(!world.begin_write(EverySec));
    world.now.0 += 25;
    while world.begin_write(EverySec) {}
    // The machine fails: the header has not come to the disk, the batch has.
    let unsynced = &mut world.files.get_mut(&(2, 1)).unwrap().unsynced;
    assert_eq!(unsynced.len(), 2);
    unsynced.remove(0);
    let (_, result) = read(Expected { base, ..world.expected() }, &world.contents(), &world.changes);
    result.expect("nothing durable is lost");
}

fn end_of(world: &World) -> (Lsn, u32) {
    world.read(&world.contents()).1.unwrap().previous.unwrap()
}

/// A write that waits for its file (a full disk) keeps what is written from being synced at a stop, and under always.
#[test]
fn what_is_written_is_synced_though_the_next_write_waits() {
    for seals in [true, false] {
        let mut world = World::new(start(1, 1));
        world.settle(EverySec);
        for _ in 0..3 {
            world.set("b", &[b'b'; 3000]);
            world.begin_write(EverySec);
            world.now.0 += 25;
            world.begin_write(EverySec);
            if world.in_flight.front().is_some_and(|write| write.segment == 1) {
                world.end_write();
            }
        }
        assert_eq!(world.in_flight.len(), 1, "the driver keeps this one until there is a file");
        assert_eq!((world.journal.written_lsn(), world.journal.durable_lsn()), (Lsn(2), Lsn(0)));
        let policy = if seals { EverySec } else { Always };
        if seals {
            world.journal.seal();
        }
        world.now.0 += 100_000;
        assert!(world.journal.poll_sync(world.now, policy).is_some(), "seals: {seals}");
    }
}
