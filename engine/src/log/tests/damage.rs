//! Every truncation and every flipped bit of small logs.

use super::*;
use crate::log::{Recovery, Refused, Step, Why};
use FsyncPolicy::Always;

/// Three segments: several batches, a value cut over two segments, and files that were used before.
fn small_log(is_sealed: bool) -> World {
    let mut before = World::new(start(1, 1));
    for _ in 0..6 {
        before.set("stale", &[b's'; 3000]);
        before.settle(Always);
    }
    let mut world = World::new(start(2, 1));
    // Of another generation, and one as a later segment of this one left it.
    world.recycled = before.contents().into_iter().map(|(.., bytes)| bytes).collect();
    world.set("a", b"1");
    world.set("b", b"2");
    world.settle(Always);
    world.set("long", &[b'l'; 17_000]);
    world.set("c", b"3");
    world.settle(Always);
    world.set("d", b"4");
    world.settle(Always);
    world.set("e", &[b'e'; 3000]);
    world.settle(Always);
    if is_sealed {
        world.seal();
    }
    world
}

/// Each batch: its segment's place, offset, length, last LSN, and what it says was durable.
fn batches(contents: &[(u64, u64, Vec<u8>)], generation: u64) -> Vec<(usize, usize, usize, Lsn, Lsn)> {
    let mut batches = Vec::new();
    for (place, (of, segment, bytes)) in contents.iter().enumerate() {
        for at in (0..bytes.len()).step_by(4096) {
            if let Some(header) = BatchHeader::parse(&bytes[at..])
                && *of == generation
                && (header.owner.generation, header.owner.segment) == (generation, *segment)
            {
                let (last, durable) = (Lsn(header.end_lsn() - 1), Lsn(header.durable_lsn));
                batches.push((place, at, header.batch_bytes(), last, durable));
            }
        }
    }
    batches
}

/// How many changes have an LSN up to this.
fn changes_to(world: &World, lsn: Lsn) -> usize {
    world.changes.partition_point(|(logged, _)| *logged <= lsn)
}

#[test]
fn every_flipped_bit_is_found_and_nothing_durable_is_called_torn() {
    for is_sealed in [false, true] {
        let world = small_log(is_sealed);
        let mut contents = world.contents();
        assert_eq!(contents.len(), 3);
        let batches = batches(&contents, 2);
        let all = world.changes.len();
        assert_eq!(world.read(&contents).0, all);
        for place in 0..contents.len() {
            for at in 0..contents[place].2.len() {
                let own =
                    batches.iter().position(|&(of, begin, len, ..)| of == place && (begin..begin + len).contains(&at));
                let is_used = own.is_some() || at < 4096;
                // What is known to be durable by batches that are not hit.
                let later = |from: usize| batches[from..].iter().map(|batch| batch.4).max().unwrap_or_default();
                let durable = match own {
                    Some(own) => later(own + 1),
                    None => later(0),
                };
                // With the seal, which changes little, one bit of each byte.
                for bit in if is_sealed { at % 8..at % 8 + 1 } else { 0..8 } {
                    contents[place].2[at] ^= 1 << bit;
                    let (count, result) = world.read(&contents);
                    contents[place].2[at] ^= 1 << bit;
                    match result {
                        _ if !is_used => assert!(result.is_ok() && count == all, "{place} {at} {bit}"),
                        Ok(end) => {
                            assert!(count >= changes_to(&world, durable), "{place} {at} {bit}: {end:?}");
                            assert!(count == all || end.tail != Tail::Sound, "{place} {at} {bit}: nobody is told");
                            assert!(!is_sealed || count == all, "{place} {at} {bit}: {end:?}");
                        }
                        Err(damage) => {
                            let is_there = (damage.generation, damage.segment) == (2, contents[place].1)
                                && damage.offset == own.map_or(0, |own| batches[own].1) as u64;
                            // A header that is not there is seen where the segment before it ends.
                            assert!(is_there || own.is_none(), "{place} {at} {bit}: {damage}");
                            assert!(damage.first.0 > world.changes[..count].last().map_or(0, |(lsn, _)| lsn.0));
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn every_truncation_leaves_a_beginning() {
    let world = small_log(false);
    let contents = world.contents();
    let batches = batches(&contents, 2);
    for place in 0..contents.len() {
        let mut cut = contents[..=place].to_vec();
        for len in (0..cut[place].2.len()).rev() {
            cut[place].2.truncate(len);
            // Whole batches before the cut are all there, and no others.
            let last = batches.iter().filter(|batch| (batch.0, batch.1 + batch.2) <= (place, len)).map(|batch| batch.3);
            let (count, result) = world.read(&cut);
            assert!(result.is_ok(), "{place} {len}: {result:?}");
            assert_eq!(count, changes_to(&world, last.max().unwrap_or_default()), "{place} {len}");
            // With what follows, it is missing.
            if place + 1 < contents.len() && batches.iter().any(|batch| batch.0 == place && batch.1 + batch.2 > len) {
                let mut hole = contents.clone();
                hole[place].2.truncate(len);
                let (_, result) = world.read(&hole);
                assert!(result.is_err(), "{place} {len}: {result:?}");
            }
        }
    }
}

#[test]
fn stale_sectors_among_durable_ones_are_damage() {
    let world = small_log(true);
    let contents = world.contents();
    for (place, at, len, ..) in batches(&contents, 2) {
        for sector in (at..at + len).step_by(SECTOR_BYTES) {
            let mut damaged = contents.clone();
            let sector = &mut damaged[place].2[sector..][..SECTOR_BYTES];
            if sector.iter().all(|&byte| byte == 0) {
                continue;
            }
            sector.fill(0);
            let (count, result) = world.read(&damaged);
            assert!(result.is_err() || count == world.changes.len(), "{place} {at}: {result:?}");
        }
    }
}

/// What a reading of the files ends with, after something was done to them.
fn refusal(world: &World, change: impl FnOnce(&mut Vec<(u64, u64, Vec<u8>)>)) -> Option<Damage> {
    let mut contents = world.contents();
    change(&mut contents);
    world.read(&contents).1.err()
}

#[test]
fn damage_says_where_and_what() {
    let world = small_log(true);
    let damage = refusal(&world, |contents| contents[0].2[4096 + 100] ^= 1).expect("damage");
    let lost = Damage { generation: 2, segment: 1, offset: 4096, first: Lsn(1), last: Lsn(2), why: Why::Link };
    assert_eq!(damage, lost);
    assert_eq!(
        damage.to_string(),
        "segment 1 of generation 2, offset 4096: it does not end where the next segment says; record 1 cannot be \
         read, and those after it, which were durable up to 2, are in doubt"
    );
    let damage = refusal(&world, |contents| contents[2].2[4096 + 100] ^= 1).expect("damage");
    assert_eq!((damage.segment, damage.offset, damage.why), (3, 4096, Why::Batch));
    assert_eq!(refusal(&world, |contents| drop(contents.remove(0))).map(|damage| damage.why), Some(Why::Start));
    assert_eq!(refusal(&world, |contents| contents[2].2[20] ^= 1).map(|damage| damage.why), Some(Why::Header));
    assert_eq!(refusal(&world, |contents| contents.truncate(1)), None, "nothing is left that could tell");
}

#[test]
fn logs_of_others_are_refused() {
    let world = small_log(true);
    let contents = world.contents();
    let expected = Expected { database: [7; 16], ..world.expected() };
    let (_, result) = read(expected, &contents, &world.changes);
    assert_eq!(result.map_err(|damage| damage.why), Err(Why::Database));
    let newer = |contents: &mut Vec<(u64, u64, Vec<u8>)>| {
        let header = &mut contents[0].2[..4096];
        header[12] = 2;
        let crc = crc32fast::hash(&header[12..]);
        header[8..12].copy_from_slice(&crc.to_le_bytes());
    };
    assert_eq!(refusal(&world, newer).map(|damage| damage.why), Some(Why::Version(2)));
}

#[test]
fn a_header_that_was_durable_is_missed_even_without_a_later_sync() {
    let mut world = World::new(start(1, 1));
    world.settle(Always);
    world.set("a", b"1");
    world.settle(Always);
    let damage = refusal(&world, |contents| contents[0].2[50] ^= 1).expect("the first header is synced alone");
    assert_eq!((damage.why, damage.segment, damage.offset, damage.first), (Why::Header, 1, 0, Lsn(1)));
}

#[test]
fn a_segment_without_a_header_tells_of_the_one_before_it() {
    let mut world = World::new(start(1, 1));
    world.set("a", &[b'a'; 3000]);
    world.settle(Always);
    world.set("b", &[b'b'; 3000]);
    world.settle(Always);
    world.set("c", &[b'c'; 3000]);
    world.settle(Always);
    let damage = refusal(&world, |contents| {
        contents[0].2[2 * 4096 + 90] ^= 1;
        contents[1].2[50] ^= 1;
    });
    assert_eq!(damage.map(|damage| (damage.first, damage.last)), Some((Lsn(2), Lsn(2))));
}

#[test]
fn a_generation_that_does_not_go_on_from_the_one_before_is_damage() {
    let mut world = World::new(start(1, 1));
    world.set("a", b"1");
    world.set("b", b"2");
    world.settle(Always);
    // It says nothing of what was before it, which only a snapshot up to there excuses; or it repeats numbers.
    for (next_lsn, base, is_sound_then) in [(3, 0, false), (3, 2, true), (5, 4, true), (5, 3, false), (2, 2, false)] {
        let mut next = World::new(start(2, next_lsn));
        next.settle(Always);
        let contents = [world.contents(), next.contents()].concat();
        let expected = Expected { base: Lsn(base), ..world.expected() };
        let (_, result) = read(expected, &contents, &world.changes);
        assert_eq!(is_sound(&result), is_sound_then, "{next_lsn} {base}: {result:?}");
        assert!(is_sound_then || result.is_err_and(|damage| damage.why == Why::Link));
    }
}

/// Reads on over all damage. Returns the LSNs of what is shown, and the runs that are left out.
fn salvage(world: &World, contents: &[(u64, u64, Vec<u8>)]) -> (Vec<Lsn>, Vec<(Lsn, Lsn)>) {
    let segments: Vec<Segment<'_>> = contents
        .iter()
        .map(|(generation, segment, bytes)| Segment { generation: *generation, segment: *segment, bytes })
        .collect();
    let mut replay = Replay::new(world.expected(), &segments);
    let (mut shown, mut skipped) = (Vec::new(), Vec::new());
    loop {
        match replay.step(|records| shown.extend(records.iter().map(|(lsn, _)| *lsn))) {
            Ok(true) => {}
            Ok(false) => return (shown, skipped),
            Err(_) => skipped.extend(replay.skip_damage()),
        }
    }
}

/// What a start with this setting makes of a log: the last record, how often something was left out, and whether it is taken.
fn recovered(
    recovery: Recovery,
    world: &World,
    contents: &[(u64, u64, Vec<u8>)],
) -> Result<(Lsn, usize, Result<(), Refused>), Damage> {
    let segments: Vec<Segment<'_>> = contents
        .iter()
        .map(|(generation, segment, bytes)| Segment { generation: *generation, segment: *segment, bytes })
        .collect();
    let mut replay = Replay::new(world.expected(), &segments);
    let mut left_out = 0;
    loop {
        match recovery.step(&mut replay, |_| {})? {
            Step::Read => {}
            Step::LeftOut(..) => left_out += 1,
            Step::Done => return Ok((replay.end().last_lsn, left_out, recovery.accept(&replay.end()))),
        }
    }
}

#[test]
fn what_is_taken_depends_on_the_setting() {
    use Recovery::{Salvage, Strict, Tail};
    let (sealed, killed) = (small_log(true), small_log(false));
    for (recovery, unsealed) in [(Tail, Ok(())), (Strict, Err(Refused::NotSealed)), (Salvage, Ok(()))] {
        let all = sealed.journal.last_lsn();
        assert_eq!(recovered(recovery, &sealed, &sealed.contents()), Ok((all, 0, Ok(()))), "{recovery:?}");
        let last = killed.journal.last_lsn();
        assert_eq!(recovered(recovery, &killed, &killed.contents()), Ok((last, 0, unsealed)), "{recovery:?}");
        // Of the last batch something is lost.
        let mut torn = killed.contents();
        let (place, offset, ..) = *batches(&torn, 2).last().unwrap();
        torn[place].2[offset + 90] ^= 1;
        let (_, left_out, taken) = recovered(recovery, &killed, &torn).unwrap();
        assert_eq!((left_out, matches!(taken, Err(Refused::Torn(_)))), (0, recovery == Strict), "{recovery:?}");
        // And of the first something that was durable.
        let mut damaged = sealed.contents();
        damaged[0].2[4096 + 90] ^= 1;
        let found = recovered(recovery, &sealed, &damaged);
        match recovery {
            Salvage => assert_eq!(found, Ok((all, 1, Ok(())))),
            Tail | Strict => assert!(found.is_err()),
        }
    }
    // A new directory has nothing to be sealed.
    assert_eq!(recovered(Strict, &sealed, &[]), Ok((Lsn(0), 0, Ok(()))));
}

#[test]
fn salvage_leaves_out_what_is_damaged_and_nothing_else() {
    let world = small_log(true);
    let contents = world.contents();
    let all: Vec<Lsn> = world.changes.iter().map(|(lsn, _)| *lsn).collect();
    assert_eq!(salvage(&world, &contents), (all.clone(), vec![]));
    let batches = batches(&contents, 2);
    for (at, &(place, offset, .., last, _)) in batches.iter().enumerate() {
        let mut damaged = contents.clone();
        damaged[place].2[offset + 90] ^= 1;
        let (shown, skipped) = salvage(&world, &damaged);
        // The seal has no records and nothing behind it.
        if at + 1 == batches.len() {
            assert_eq!((shown, skipped), (all.clone(), vec![]));
            continue;
        }
        let first = Lsn(if at == 0 { 1 } else { batches[at - 1].3.0 + 1 });
        assert_eq!(skipped, [(first, last)]);
        let is_lost = |lsn: &Lsn| (first..=last).contains(lsn);
        // With its first part, what was cut is lost; it has the LSN of its second.
        let is_cut = |lsn: &Lsn| lsn.0 == 4 && is_lost(&Lsn(3));
        let rest: Vec<Lsn> = all.iter().copied().filter(|lsn| !is_lost(lsn) && !is_cut(lsn)).collect();
        assert_eq!(shown, rest);
    }
    for place in 0..contents.len() {
        let mut damaged = contents.clone();
        damaged[place].2[50] ^= 1;
        assert_eq!(salvage(&world, &damaged).0, all, "batches are found without the header");
    }
}
