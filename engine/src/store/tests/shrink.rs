//! A store that shrinks becomes what the keys that stay would have made alone, and one of steady size stays as it is.

use super::super::eviction::simulation::Random;
use super::super::*;
use super::model::{Step, World, check};
use super::{NOW, store};

const DUE: Millis = Millis(NOW.0 + 1);

fn set(store: &mut Store, number: u64, expiry: Expiry) {
    store.set(store.key(0, &number.to_le_bytes()), NewValue::from(&[7; 300][..]), expiry, NOW);
}

fn segments(store: &Store) -> usize {
    store.keyspaces[0].table.segments()
}

/// A store that only ever had the keys that stay, and one that had others too, which went; both when they have come to
/// rest.
fn alone_and_shrunk(stay: u64, gone: u64, by_expiry: bool) -> [Store; 2] {
    let (mut alone, mut shrunk) = (store(), store());
    (0..stay).for_each(|number| set(&mut alone, number, Expiry::Never));
    // In turns, so that both kinds are in all pages.
    for number in 0..stay.max(gone) {
        if number < stay {
            set(&mut shrunk, number, Expiry::Never);
        }
        if number < gone {
            set(&mut shrunk, u64::MAX - number, if by_expiry { Expiry::At(DUE) } else { Expiry::Never });
        }
    }
    if by_expiry {
        while shrunk.expire_slice(DUE) {}
    } else {
        (0..gone).for_each(|number| assert!(shrunk.remove(shrunk.key(0, &(u64::MAX - number).to_le_bytes()), NOW)));
    }
    assert_eq!(shrunk.len(0), stay as usize);
    [&mut alone, &mut shrunk].into_iter().for_each(|store| while store.compact_slice(NOW) {});
    [alone, shrunk]
}

/// Wherever it is between two doublings that the store comes to rest.
#[test]
fn a_store_that_shrank_takes_what_the_rest_alone_would() {
    for (stay, gone, by_expiry) in [
        (62_500, 62_500, false),
        (62_500, 62_500, true),
        (66_000, 66_000, false),
        (40_000, 40_000, true),
        (90_000, 40_000, false),
        (20_000, 100_000, true),
    ] {
        let [alone, shrunk] = alone_and_shrunk(stay, gone, by_expiry);
        check(&shrunk);
        let (wanted, left) = (alone.memory(), shrunk.memory());
        assert_eq!(wanted.slots, left.slots);
        let more = left.tables as f64 / wanted.tables as f64 - 1.0;
        assert!(more < 0.04, "{stay} of {}: the table takes {:.1} % more", stay + gone, more * 100.0);
        // Some free pages are kept.
        let bound = wanted.slots / 16 + (4 << 20);
        assert!(left.slack < bound, "{stay} of {}: {} bytes of pages are not used", stay + gone, left.slack);
    }
}

/// Segments that split, and that merged, while a store's keys are replaced by others `turns` times, each time one that
/// chance takes.
fn churn(store: &mut Store, names: &mut [u64], turns: u64) -> (usize, usize) {
    let (mut splits, mut merges) = (0, 0);
    let mut random = Random::new(1);
    let first = names.iter().max().expect("there are keys") + 1;
    for name in first..first + names.len() as u64 * turns {
        let old = &mut names[random.below(names.len())];
        assert!(store.remove(store.key(0, &old.to_le_bytes()), NOW));
        *old = name;
        let before = segments(store);
        set(store, name, Expiry::Never);
        splits += segments(store) - before;
        if name.is_multiple_of(50) {
            let before = segments(store);
            store.compact_slice(NOW);
            merges += before - segments(store);
        }
    }
    (splits, merges)
}

/// Where nearly all neighbours are as one, or apart, and between: a store that grew to its size, and one that shrank to it
/// from twice that.
#[test]
fn a_store_of_steady_size_does_not_split_and_merge() {
    for keys in [29_000u64, 31_250, 33_000, 36_000] {
        for shrank in [false, true] {
            let mut store = store();
            let mut names: Vec<u64> = (0..keys).collect();
            if shrank {
                (0..2 * keys).for_each(|number| set(&mut store, number, Expiry::Never));
                (keys..2 * keys).for_each(|number| assert!(store.remove(store.key(0, &number.to_le_bytes()), NOW)));
                while store.compact_slice(NOW) {}
            } else {
                (0..keys).for_each(|number| set(&mut store, number, Expiry::Never));
            }
            // What wavers over the edge splits once, and a few merge again until splits have ended the shrinking.
            let at_first = segments(&store);
            let (splits, merges) = churn(&mut store, &mut names, 4);
            let context = format!("{keys} keys, shrank {shrank}: of {at_first} {splits} split, {merges} merged");
            assert!(merges <= if shrank { at_first / 3 } else { 0 }, "{context}");
            assert!(splits <= at_first + merges, "{context}");
            // From then on none merges, so there is an end to splits too.
            let (splits, merges) = churn(&mut store, &mut names, 4);
            assert!(merges == 0 && segments(&store) <= 2 * at_first, "{context}; then {splits} and {merges}");
            check(&store);
        }
    }
}

/// A size that goes up and down by less than an eighth leaves segments alone.
#[test]
fn a_store_that_wavers_does_not_merge() {
    const KEYS: u64 = 33_000;
    let mut store = store();
    (0..KEYS).for_each(|number| set(&mut store, number, Expiry::Never));
    for _ in 0..5 {
        let full = segments(&store);
        (0..KEYS / 10).for_each(|number| assert!(store.remove(store.key(0, &number.to_le_bytes()), NOW)));
        while store.compact_slice(NOW) {}
        assert_eq!(segments(&store), full);
        (0..KEYS / 10).for_each(|number| set(&mut store, number, Expiry::Never));
        assert_eq!(segments(&store), full);
    }
}

/// One scan while half of the keys go and half-full segments become one under it, page by page; what stays is met.
#[test]
fn segments_that_merge_half_full_hide_no_key_from_a_scan() {
    const KEYS: u32 = 31_000;
    for seed in 0..3 {
        let mut world = World::new(seed);
        world.apply(Step::Set(0, 0..KEYS, None));
        world.apply(Step::Scan(1 + seed as usize * 40, 60));
        let full = segments(&world.store);
        world.apply(Step::Remove(0, 0..KEYS, 2));
        // A scan goes through the first bucket of all segments before the second, so there is time for all to merge.
        for _ in 0..100 {
            world.apply(Step::Compact(2));
            world.apply(Step::Scan(1, 20));
        }
        assert_eq!(world.scans_completed, 0, "it is still the first scan");
        let left = segments(&world.store);
        assert!(left <= full * 6 / 10, "{left} segments of {full} are left");
        // And while they split again.
        for from in (0..KEYS).step_by(1_000) {
            world.apply(Step::Set(0, KEYS + from..KEYS + from + 1_000, None));
            world.apply(Step::Scan(1, 20));
        }
        assert!(world.scans_completed == 0 && segments(&world.store) > left);
        while world.scans_completed == 0 {
            world.apply(Step::Scan(1, 100));
        }
        world.check();
    }
}
