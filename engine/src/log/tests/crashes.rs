//! Crashes: any sectors of what is not synced are lost, over files that were used before.

use super::*;
use crate::random::Random;
use FsyncPolicy::{Always, EverySec, No};

/// Sectors of the unsynced window whose subsets are all tried; of larger windows so many are sampled.
const SECTORS_MAX: u32 = 16;
const SAMPLES: u64 = 2000;

/// Crashes in every way there is. What is read must be a beginning with all that is durable, and no refusal.
fn crash_everyhow(world: &World) {
    let unsynced = world.files.values().flat_map(|file| &file.unsynced);
    let sectors: usize = unsynced.map(|(_, bytes)| bytes.len() / SECTOR_BYTES).sum();
    let durable = world.changes.partition_point(|(lsn, _)| *lsn <= world.journal.durable_lsn());
    let mut contents = world.contents();
    let is_exhaustive = sectors as u32 <= SECTORS_MAX;
    let mut random = Random(sectors as u64);
    let mut most = 0;
    for subset in 0..if is_exhaustive { 1 << sectors } else { SAMPLES } {
        // Samples lose from almost none to almost all.
        let one_in = random.next() % 20 + 1;
        let mut bits = subset;
        for ((.., content), file) in contents.iter_mut().zip(world.files.values()) {
            *content = file.crashed(|| {
                let is_kept = bits & 1 == 1;
                bits >>= 1;
                if is_exhaustive { is_kept } else { !random.next().is_multiple_of(one_in) }
            });
        }
        let (count, result) = world.read(&contents);
        let end = result.unwrap_or_else(|damage| panic!("{sectors} sectors, {subset:b}: {damage}"));
        assert!(count >= durable, "{sectors} sectors, {subset:b}: {count} of {durable}");
        assert!(end.last_lsn >= world.journal.durable_lsn());
        most = most.max(count);
    }
    assert!(!is_exhaustive || most > durable || world.changes.len() == durable);
}

/// A log over recycled files, with something durable in it.
fn begun() -> World {
    let mut before = World::new(LogStart { salt: start(2, 1).salt, ..start(1, 1) });
    for _ in 0..12 {
        before.set("stale", &[b's'; 3000]);
        before.settle(Always);
    }
    let mut world = World::new(start(2, 1));
    world.recycled = before.contents().into_iter().map(|(.., bytes)| bytes).collect();
    world.recycled.reverse();
    world
}

fn write_unsynced(world: &mut World) {
    let write = world.journal.poll_write(world.now, Always).expect("something to write");
    world.put(&write);
}

#[test]
fn the_first_header() {
    let mut world = begun();
    write_unsynced(&mut world);
    crash_everyhow(&world);
}

#[test]
fn one_write_of_a_page() {
    let mut world = begun();
    world.settle(Always);
    world.set("a", &[b'a'; 3000]);
    write_unsynced(&mut world);
    crash_everyhow(&world);
}

#[test]
fn a_batch_of_two_pages() {
    let mut world = begun();
    world.settle(Always);
    (0..10).for_each(|at| world.set(&at.to_string(), &[b'a'; 600]));
    write_unsynced(&mut world);
    crash_everyhow(&world);
}

#[test]
fn two_writes_of_a_page_each() {
    let mut world = begun();
    world.settle(Always);
    for key in ["a", "b"] {
        world.now.0 += 10;
        world.set(key, &[b'a'; 3000]);
        world.now.0 += 10;
        assert!(!world.write(No));
        world.now.0 += 10;
        assert!(world.write(No));
    }
    crash_everyhow(&world);
}

#[test]
fn the_header_of_a_later_segment_with_its_first_batch() {
    let mut world = begun();
    world.settle(Always);
    world.set("a", &[b'a'; 3000]);
    world.settle(Always);
    world.set("b", &[b'b'; 3000]);
    world.settle(Always);
    world.set("c", &[b'c'; 3000]);
    write_unsynced(&mut world);
    assert_eq!(world.files.len(), 2);
    crash_everyhow(&world);
}

#[test]
fn several_writes_in_flight() {
    let mut world = begun();
    world.settle(Always);
    for key in ["a", "b"] {
        world.set(key, &[b'a'; 3000]);
        assert!(!world.begin_write(EverySec));
        world.now.0 += 25;
        assert!(world.begin_write(EverySec));
    }
    assert_eq!(world.in_flight.len(), 2);
    crash_everyhow(&world);
}

/// Three segments are written to, and nothing of them is synced but the first header.
#[test]
fn several_segments() {
    for ended in [0, 2, 9] {
        let mut world = begun();
        world.settle(EverySec);
        for key in ["a", "b", "c", "d", "e", "f", "g"] {
            world.set(key, &[b'a'; 3000]);
            world.now.0 += 25;
            while world.begin_write(EverySec) {}
            world.now.0 += 25;
            while world.begin_write(EverySec) {}
        }
        (0..ended).for_each(|_| assert!(world.end_write() || ended == 9));
        assert_eq!((world.files.len(), world.journal.durable_lsn()), (3, Lsn(0)));
        crash_everyhow(&world);
        // The second segment is whole, and the first is synced.
        while world.end_write() {}
        let sync = world.begin_sync(EverySec).expect("a segment is complete");
        world.end_sync(sync);
        assert_eq!((sync.0, world.journal.durable_lsn()), (1, Lsn(2)));
        crash_everyhow(&world);
    }
}

#[test]
fn a_cut_value_and_what_is_behind_it() {
    let mut world = begun();
    world.start = LogStart { first_segment_bytes: 64 * 4096, segment_bytes: 64 * 4096, ..world.start };
    world.journal.begin(world.start);
    world.settle(Always);
    world.set("a", &[b'a'; 300 << 10]);
    world.set("b", b"1");
    while world.files.len() < 2 {
        write_unsynced(&mut world);
        if world.files.len() < 2 {
            let file = world.files.values_mut().next_back().expect("a file");
            file.sync_first(file.writes());
            // As if it had been given back.
            world.journal.handle_written(Ok(true), crate::log::Buffer::default());
        }
    }
    crash_everyhow(&world);
}

/// Random changes, policies, moments to write, crashes, snapshots and recycled files, through many generations.
#[test]
fn a_life_with_crashes() {
    for seed in 0..250 {
        live(Random(seed));
    }
}

fn below(random: &mut Random, end: u64) -> u64 {
    random.next() % end
}

fn random_change(random: &mut Random, world: &mut World) {
    let keyspace = KeyspaceId(below(random, 300) as u32);
    let key_bytes_max = if below(random, 30) == 0 { 20_000 } else { 20 };
    let key = vec![b'k'; below(random, key_bytes_max) as usize];
    let value_bytes_max = if below(random, 10) == 0 { 30_000 } else { 600 };
    let value = vec![random.next() as u8; below(random, value_bytes_max) as usize];
    let version = (below(random, 4) == 0).then(|| random.next());
    let expire_ms = if below(random, 2) == 0 { 0 } else { random.next() };
    let (key, value) = (&key[..], &value[..]);
    match below(random, 10) {
        0 => world.log(Record::Remove { keyspace, key }),
        1 => world.log(Record::Expire { keyspace, key, expire_ms, version }),
        2 => world.log(Record::WriteAt { keyspace, key, offset: random.next(), bytes: value, version }),
        3 | 4 => {
            let ids = Layout::encode([keyspace, KeyspaceId(300)]);
            world.log(Record::Layout(Layout::new(random.next(), 301, &ids)));
        }
        5 => {
            let mut effects = Effects::default();
            effects.push(&Record::Set { keyspace, key, value, expire_ms, version });
            effects.push(&Record::Remove { keyspace, key });
            let txid = world.journal.last_txid() + 1 + below(random, 3);
            world.log(Effects::join([(1, &effects), (3, &effects)]).transaction(txid));
        }
        _ => world.log(Record::Set { keyspace, key, value, expire_ms, version }),
    }
}

fn live(mut random: Random) {
    let random = &mut random;
    let mut world = World::new(start(1, 1));
    // The last record in the snapshot, and files that are not needed because of it.
    let mut base = Lsn(0);
    let mut policy = Always;
    for _ in 0..below(random, 6) + 2 {
        let mut beside = None;
        for _ in 0..below(random, 60) {
            (0..below(random, 8)).for_each(|_| random_change(random, &mut world));
            if below(random, 20) == 0 {
                policy = [Always, EverySec, No][below(random, 3) as usize];
            }
            world.now.0 += [0, 1, 10, 500][below(random, 4) as usize];
            // A sync that writes go on beside, and that a crash may interrupt.
            if let Some(sync) = beside.take_if(|_| below(random, 3) == 0) {
                world.end_sync(sync);
            }
            let deadline = world.journal.next_deadline(world.now, policy);
            let sync = world.begin_sync(policy);
            let has_written = world.begin_write(policy) || sync.is_some();
            assert_eq!(has_written, deadline.is_some_and(|at| at <= world.now), "{deadline:?} at {:?}", world.now);
            beside = beside.or(sync);
            if let Some(sync) = beside.take_if(|_| below(random, 3) == 0) {
                world.end_sync(sync);
            }
            let ends = [0, 1, 20][below(random, 3) as usize];
            (0..ends).for_each(|_| _ = world.end_write());
            if below(random, 30) == 0 {
                snapshot(random, &mut world, &mut base);
            }
        }
        if below(random, 4) == 0 {
            if let Some(sync) = beside {
                world.end_sync(sync);
            }
            while world.end_write() {}
            world.seal();
        } else {
            // The process ends while these are under way.
            while world.begin_write(policy) {}
        }
        restart(random, &mut world, base);
    }
}

/// What a snapshot makes superfluous is used again.
fn snapshot(random: &mut Random, world: &mut World, base: &mut Lsn) {
    // A snapshot is of the state between two changes, not within one that was cut; of the last one, or an earlier one. It
    // can be durable before the log is.
    let durable = world.changes.partition_point(|(lsn, _)| *lsn <= world.journal.durable_lsn());
    let up_to = if below(random, 2) == 0 { durable } else { world.changes.len() };
    *base = world.changes[..up_to].last().map_or(*base, |(lsn, _)| *lsn).max(*base);
    let names: Vec<_> = world.files.keys().copied().collect();
    for pair in names.windows(2) {
        let next = crate::log::format::SegmentHeader::parse(&world.files[&pair[1]].crashed(|| true));
        if matches!(next, crate::log::format::HeaderFound::Valid(header) if header.first_lsn <= base.0 + 1) {
            let file = world.files.remove(&pair[0]).expect("it is there");
            world.recycled.insert(0, file.durable);
        } else {
            break;
        }
    }
}

/// Crashes, reads what is left, and goes on in a new generation.
fn restart(random: &mut Random, world: &mut World, base: Lsn) {
    let is_sealed = world.journal.is_sealed();
    let durable = world.journal.durable_lsn();
    world.in_flight.clear();
    let one_in = below(random, 20) + 1;
    for file in world.files.values_mut() {
        let bytes = file.crashed(|| below(random, one_in) != 0);
        *file = File { durable: bytes, ..File::default() };
    }
    let mut contents = world.contents();
    // The file that would have been next, as it was used before.
    if let Some(next) = world.recycled.last() {
        contents.push((world.start.generation, world.journal.segment().unwrap_or(1) + 1, next.clone()));
    }
    let (count, result) = read(Expected { base, ..world.expected() }, &contents, &world.changes);
    let end = result.unwrap_or_else(|damage| panic!("{damage}"));
    assert!(end.last_lsn >= durable && end.is_sealed == is_sealed | end.is_sealed);
    assert!(!is_sealed || end.is_sealed && count == world.changes.len());
    world.changes.truncate(count);
    let mut is_clean = true;
    if let Tail::Torn(tail) = end.tail {
        assert!(!is_sealed);
        // Not zeroed by a repair of long ago, or by one that was interrupted: the next generation says where it ended.
        is_clean = below(random, 4) != 0;
        if is_clean {
            let file = world.files.get_mut(&(tail.generation, tail.segment)).expect("it is there");
            file.durable[tail.offset as usize..][..tail.bytes as usize].fill(0);
        }
        // Whichever of them a repair has come to: the tail is the same.
        let later = |number: u64| (tail.generation, number);
        for number in tail.segment + 1..=tail.last_segment {
            if let Some(file) = world.files.get_mut(&later(number)).filter(|_| below(random, 2) == 0) {
                file.durable.fill(0);
            }
        }
        let (again, result) = read(Expected { base, ..world.expected() }, &world.contents(), &world.changes);
        assert!(again == count && result.is_ok_and(|again| again.last_lsn == end.last_lsn));
        // Before another generation is begun none of them is left.
        (tail.segment + 1..=tail.last_segment).for_each(|number| _ = world.files.remove(&later(number)));
    }
    if below(random, 2) == 0 {
        let (again, result) = read(Expected { base, ..world.expected() }, &world.contents(), &world.changes);
        assert!(again == count && result.is_ok_and(|again| again.last_lsn == end.last_lsn));
    }
    let generation = world.start.generation + 1;
    let mut previous = end.previous;
    if is_clean && below(random, 2) == 0 {
        // What has no records is removed, and the rest of the last segment that has cut off.
        let last = end.records_end.map(|last| (last.generation, last.segment));
        world.files.retain(|name, _| last.is_some_and(|last| *name <= last));
        previous = end.records_end.and_then(|last| last.previous);
        if let Some(last) = end.records_end.filter(|_| below(random, 2) == 0) {
            let file = world.files.get_mut(&(last.generation, last.segment)).expect("it is there");
            file.durable.truncate(last.offset as usize);
        }
        let (again, result) = read(Expected { base, ..world.expected() }, &world.contents(), &world.changes);
        assert!(again == count && is_sound(&result), "{result:?}");
    }
    world.start = LogStart {
        next_lsn: Lsn(end.last_lsn.max(base).0 + 1),
        last_txid: end.last_txid,
        previous,
        segment: if below(random, 2) == 0 { 1 } else { world.journal.segment().unwrap_or(1) + 1 },
        ..start(generation, 1)
    };
    world.journal = Journal::off();
    world.journal.begin(world.start);
    world.write(Always);
}
