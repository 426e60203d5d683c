//! The store against a model in the plainest code: a HashMap of keys to values and times.

mod model;
mod restore;
mod shrink;
mod snapshot;

use std::collections::HashMap;

use model::{Step as BulkStep, World, check, steps as bulk_steps};
use proptest::prelude::*;

use super::eviction::simulation::Random;
use super::*;

fn store() -> Store {
    Store::new(2, [1, 2, 3, 4], true)
}

const NOW: Millis = Millis(1_000);

#[test]
fn growth_keeps_every_key() {
    let mut store = store();
    for i in 0..100_000u32 {
        let name = format!("key:{i}");
        store.set(store.key(0, name.as_bytes()), NewValue::from(&i.to_le_bytes()[..]), Expiry::Never, NOW);
    }
    assert_eq!(store.len(0), 100_000);
    for i in 0..100_000u32 {
        let name = format!("key:{i}");
        let entry = store.get(store.key(0, name.as_bytes()), NOW).expect(&name);
        assert_eq!(entry.value().bytes(), i.to_le_bytes());
    }
    for i in (0..100_000u32).filter(|i| i % 3 != 0) {
        let name = format!("key:{i}");
        assert!(store.remove(store.key(0, name.as_bytes()), NOW));
    }
    assert_eq!(store.len(0), 33_334);
    store.clear(0..1).unwrap();
    while store.free_slice() {}
    assert_eq!((store.len(0), store.memory_bytes()), (0, 0));
}

#[test]
fn filling_and_flushing_fast_leaves_no_garbage() {
    let mut store = store();
    for _ in 0..1_000 {
        store.set(store.key(0, b"key"), NewValue::from(&b"v"[..]), Expiry::Never, NOW);
        store.clear(0..1).unwrap();
        store.clear(1..2).unwrap();
    }
    assert!(!store.free_slice());
}

#[test]
fn what_is_given_up_and_not_dropped_is_bounded() {
    const VALUE: usize = 32 << 20;
    let mut store = store();
    // Zeros that nobody looks at take no memory.
    let value = || Bytes::from(vec![0; VALUE]);
    store.discard(Bytes::from(vec![0; limits::GARBAGE_VALUE_BYTES_MIN - 1]));
    assert_eq!(store.garbage_counters(), GarbageCounters::default());
    let most = limits::GARBAGE_BYTES_MAX as usize / VALUE;
    for number in 1..most + 5 {
        store.discard(value());
        let pending = number.min(most);
        let wanted = GarbageCounters {
            pending_objects: pending as u64,
            pending_bytes: (pending * VALUE) as u64,
            freed_objects: 0,
        };
        assert_eq!(store.garbage_counters(), wanted);
    }
    let polled = std::iter::from_fn(|| store.poll_garbage()).count();
    store.garbage_freed(polled as u64, (polled * VALUE) as u64);
    let wanted = GarbageCounters { freed_objects: most as u64, ..GarbageCounters::default() };
    assert_eq!((polled, store.garbage_counters()), (most, wanted));
}

/// A flushed keyspace is searched for its big values before it is freed; too many of them under way make that pause.
#[test]
fn big_values_of_a_flushed_keyspace_are_given_out() {
    let mut store = store();
    let small = Bytes::from(vec![0; 20_000]);
    let bytes = (limits::GARBAGE_BYTES_MAX / limits::GARBAGE_FLUSHED_PART) as usize / 4;
    for i in 0..3_000u32 {
        let name = format!("key:{i}");
        let big = (i % 300 == 0).then(|| Bytes::from(vec![0; bytes]));
        let shared = big.as_ref().unwrap_or(&small);
        let value = NewValue { bytes: shared, shared: Some(shared) };
        store.set(store.key(0, name.as_bytes()), value, Expiry::Never, NOW);
    }
    store.clear(0..1).unwrap();
    assert_eq!(store.garbage_counters().pending_objects, 3_000);
    let (mut given, mut pauses) = (0, 0);
    while store.has_flushed() {
        if store.free_slice() {
            assert_eq!(store.poll_garbage(), None);
            continue;
        }
        pauses += 1;
        while let Some(value) = store.poll_garbage() {
            given += 1;
            assert!(value.len() == bytes && value.is_unique(), "the entry that had it is gone");
            store.garbage_freed(1, bytes as u64);
        }
    }
    assert_eq!(given, 10);
    assert!((2..=4).contains(&pauses), "{pauses} pauses");
    let wanted = GarbageCounters { freed_objects: 3_000, ..GarbageCounters::default() };
    assert_eq!((store.garbage_counters(), small.is_unique()), (wanted, true));
}

#[test]
fn keyspaces_keep_their_ids_when_they_are_swapped_and_lose_them_when_they_are_flushed() {
    let mut store = store();
    let ids = |store: &Store| [store.keyspace_id(0).0, store.keyspace_id(1).0];
    assert_eq!(ids(&store), [0, 1]);
    store.swap(0, 1);
    assert_eq!(ids(&store), [1, 0]);
    assert_eq!(store.database_of(KeyspaceId(0)), Some(1));
    store.clear(0..1).unwrap();
    assert_eq!(ids(&store), [2, 0]);
    store.clear(0..2).unwrap();
    assert_eq!(ids(&store), [3, 4]);
    assert_eq!(store.database_of(KeyspaceId(0)), None);
    // No id is ever given again: when there are none, nothing is flushed.
    store.next_id = u32::MAX - 1;
    store.set(store.key(1, b"key"), NewValue::from(&b"v"[..]), Expiry::Never, NOW);
    assert_eq!(store.clear(0..2), Err(KeyspacesExhausted));
    assert_eq!((ids(&store), store.len(1)), ([3, 4], 1));
}

#[test]
fn a_scan_meets_what_stays_while_the_table_grows_and_keys_go() {
    let mut store = store();
    let name = |i: u32| format!("stay:{i}");
    for i in 0..5_000 {
        store.set(store.key(0, name(i).as_bytes()), NewValue::from(&b"v"[..]), Expiry::Never, NOW);
    }
    let (mut seen, mut position, mut added) = (std::collections::HashSet::new(), 0, 0u32);
    loop {
        position = store.scan(0, position, 50, NOW, |entry| {
            seen.insert(entry.key().to_vec());
        });
        if position == 0 {
            break;
        }
        assert!(position < 1 << SCAN_POSITION_BITS);
        for _ in 0..500 {
            let other = format!("other:{added}");
            store.set(store.key(0, other.as_bytes()), NewValue::from(&b"v"[..]), Expiry::Never, NOW);
            if added % 2 == 0 {
                store.remove(store.key(0, other.as_bytes()), NOW);
            }
            added += 1;
        }
    }
    assert!(added > 10_000, "the table should have grown meanwhile");
    assert!((0..5_000).all(|i| seen.contains(name(i).as_bytes())));
}

#[test]
fn what_is_due_goes_by_reading_and_by_slices() {
    let mut store = store();
    for i in 0..1_000u32 {
        let name = format!("{i}");
        store.set(store.key(1, name.as_bytes()), NewValue::from(&b"v"[..]), Expiry::At(Millis(2_000)), NOW);
    }
    assert_eq!(store.expiring(1), 1_000);
    let later = Millis(2_000);
    assert!(store.get(store.key(1, b"7"), later).is_none());
    store.reap(later);
    assert_eq!(store.len(1), 999);
    while store.expire_slice(later) {}
    for _ in 0..10 {
        store.expire_slice(later);
    }
    assert_eq!((store.len(1), store.expiring(1), store.counters().expired), (0, 0, 1_000));
}

#[test]
fn what_is_evicted_is_free_at_once_and_policies_take_what_they_are_about() {
    let mut store = store();
    let mut state = 7u64;
    let mut random = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state.rotate_left(32)
    };
    for i in 0..3_000u32 {
        let expiry = if i.is_multiple_of(100) { Expiry::At(Millis(1 << 40)) } else { Expiry::Never };
        store.set(store.key((i % 2) as u8, &i.to_le_bytes()), NewValue::from(&[1; 100][..]), expiry, NOW);
    }
    assert!(!store.evict_slice(1000, NOW, &mut random));
    store.set_policy(Policy::VolatileTtl, LfuSettings::default());
    let full = store.memory().used();
    while store.evict_slice(1000, NOW, &mut random) {}
    assert_eq!((store.counters().evicted, store.expiring(0) + store.expiring(1)), (30, 0));
    assert!(full - store.memory().used() >= 30 * 100);
    check(&store);
    store.set_policy(Policy::AllKeysLru, LfuSettings::default());
    while store.evict_slice(1000, NOW, &mut random) {}
    assert_eq!((store.len(0), store.len(1), store.counters().evicted, store.memory().slots), (0, 0, 3_000, 0));
}

#[test]
fn what_stays_when_most_goes_is_moved_together() {
    let mut store = store();
    let name = |i: u32| format!("key:{i}");
    let value =
        |i: u32| vec![i as u8; [10, 100, 1_000, 20_000][if i.is_multiple_of(1_000) { 3 } else { i as usize % 3 }]];
    let expiry = |i: u32| if i.is_multiple_of(20) { Expiry::Never } else { Expiry::At(Millis(1 << 40)) };
    for i in 0..60_000 {
        store.set(store.key(0, name(i).as_bytes()), NewValue::from(&value(i)[..]), expiry(i), NOW);
    }
    let full = store.memory_bytes();
    for i in (0..60_000).filter(|i| i % 10 != 0) {
        assert!(store.remove(store.key(0, name(i).as_bytes()), NOW));
    }
    while store.compact_slice(NOW) {}
    check(&store);
    let left = store.memory_bytes();
    assert!(left < full / 2, "{full} bytes of which {left} are left");
    for i in (0..60_000).filter(|i| i % 10 == 0) {
        let entry = store.get(store.key(0, name(i).as_bytes()), NOW).expect("it stays");
        assert_eq!(entry.value().bytes(), value(i));
    }
    for i in (0..60_000).filter(|i| i % 10 == 0) {
        assert!(store.remove(store.key(0, name(i).as_bytes()), NOW));
    }
    assert_eq!(store.keyspaces[0].outside, Outside::default());
}

/// Compaction never moves an entry under a reader of the same turn: an `EntryRef` borrows the store, and moving takes it
/// exclusively (see the example at [`Store::compact_slice`]). So nobody can notice but by address: entries are elsewhere
/// afterwards, and values that a reply holds by reference count are where they were.
#[test]
fn what_compaction_moves_nobody_reads_and_shared_values_stay() {
    let mut store = store();
    let value = |i: u32| vec![i as u8; if i.is_multiple_of(100) { 20_000 } else { 200 }];
    for i in 0..20_000u32 {
        store.set(store.key(0, &i.to_le_bytes()), NewValue::from(&value(i)[..]), Expiry::Never, NOW);
    }
    for i in (0..20_000u32).filter(|i| i % 20 != 0) {
        assert!(store.remove(store.key(0, &i.to_le_bytes()), NOW));
    }
    let (mut addresses, mut held) = (HashMap::new(), HashMap::new());
    store.scan(0, 0, usize::MAX, NOW, |entry| {
        addresses.insert(entry.key().to_vec(), entry.address());
        if let Value::Shared(value) = entry.value() {
            held.insert(entry.key().to_vec(), value.clone());
        }
    });
    while store.compact_slice(NOW) {}
    let mut moved = 0;
    for i in (0..20_000u32).step_by(20) {
        let name = i.to_le_bytes();
        let entry = store.get(store.key(0, &name), NOW).expect("it stays");
        assert_eq!(entry.value().bytes(), value(i));
        moved += (entry.address() != addresses[&name[..]]) as usize;
        if let Some(value) = held.get(&name[..]) {
            assert_eq!(value.as_ptr(), entry.value().bytes().as_ptr());
        }
    }
    assert!(moved > 500 && held.len() == 200, "{moved} {}", held.len());
    check(&store);
}

#[derive(Clone, Debug)]
enum Step {
    Set(u8, Vec<u8>, Option<u64>, bool),
    Remove(u8),
    Get(u8),
    Expire(u8, Option<u64>),
    WriteAt(u8, u16, Vec<u8>),
    Wait(u64),
    Reap,
    ExpireSlice,
    CompactSlice,
    Clear,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let value = prop_oneof![
        4 => proptest::collection::vec(any::<u8>(), 0..40),
        1 => (0usize..40_000).prop_map(|len| vec![3; len]),
    ];
    let step = prop_oneof![
        4 => (any::<u8>(), value.clone(), proptest::option::of(0u64..50), any::<bool>())
            .prop_map(|(k, v, e, keep)| Step::Set(k, v, e, keep)),
        2 => any::<u8>().prop_map(Step::Remove),
        3 => any::<u8>().prop_map(Step::Get),
        1 => (any::<u8>(), proptest::option::of(0u64..50)).prop_map(|(k, e)| Step::Expire(k, e)),
        2 => (any::<u8>(), 0u16..300, value).prop_map(|(k, o, v)| Step::WriteAt(k, o, v)),
        1 => (0u64..20).prop_map(Step::Wait),
        1 => Just(Step::Reap),
        1 => Just(Step::ExpireSlice),
        1 => Just(Step::CompactSlice),
        1 => Just(Step::Clear),
    ];
    proptest::collection::vec(step, 0..300)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn behaves_like_a_hash_map(steps in steps()) {
        let mut store = store();
        let mut model: HashMap<Vec<u8>, (Vec<u8>, u64)> = HashMap::new();
        let mut now = NOW;
        for step in steps {
            model.retain(|_, (_, expire)| *expire == 0 || *expire > now.0);
            let name = |k: u8| format!("key:{k}").into_bytes();
            match step {
                Step::Set(k, value, expire, keep) => {
                    let name = name(k);
                    let old = model.get(&name).map_or(0, |(_, expire)| *expire);
                    let (expiry, new) = match (keep, expire) {
                        (true, _) => (Expiry::Keep, old),
                        (false, None) => (Expiry::Never, 0),
                        (false, Some(after)) => (Expiry::At(Millis(now.0 + after)), now.0 + after),
                    };
                    store.set(store.key(0, &name), NewValue::from(&value[..]), expiry, now);
                    model.insert(name, (value, new));
                }
                Step::Remove(k) => {
                    let name = name(k);
                    prop_assert_eq!(store.remove(store.key(0, &name), now), model.remove(&name).is_some());
                }
                Step::Get(k) => {
                    let name = name(k);
                    let got = store.get(store.key(0, &name), now).map(|e| (e.value().bytes().to_vec(), e.expire_ms()));
                    prop_assert_eq!(got.as_ref(), model.get(&name));
                }
                Step::Expire(k, after) => {
                    let name = name(k);
                    let at = after.map(|after| Millis(now.0 + after));
                    prop_assert_eq!(store.set_expiry(store.key(0, &name), at, now), model.contains_key(&name));
                    if let Some(entry) = model.get_mut(&name) {
                        entry.1 = at.map_or(0, |at| at.0);
                    }
                }
                Step::WriteAt(k, offset, bytes) => {
                    let name = name(k);
                    let entry = model.entry(name.clone()).or_default();
                    let end = offset as usize + bytes.len();
                    if entry.0.len() < end {
                        entry.0.resize(end, 0);
                    }
                    entry.0[offset as usize..end].copy_from_slice(&bytes);
                    prop_assert_eq!(store.write_at(store.key(0, &name), offset as usize, &bytes, now), entry.0.len());
                }
                Step::Wait(ms) => now.0 += ms,
                Step::Reap => store.reap(now),
                Step::ExpireSlice => { store.expire_slice(now); }
                Step::CompactSlice => { store.compact_slice(NOW); }
                Step::Clear => {
                    store.clear(0..1).unwrap();
                    store.free_slice();
                    model.clear();
                }
            }
        }
        model.retain(|_, (_, expire)| *expire == 0 || *expire > now.0);
        let mut live = HashMap::new();
        let mut position = 0;
        loop {
            position = store.scan(0, position, 10, now, |entry| {
                live.insert(entry.key().to_vec(), (entry.value().bytes().to_vec(), entry.expire_ms()));
            });
            if position == 0 { break; }
        }
        prop_assert_eq!(live, model);
        check(&store);
        while store.expire_slice(now) {}
        store.reap(now);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn behaves_like_its_model_through_everything(seed in any::<u64>(), steps in bulk_steps(5_000, 1_500, 60)) {
        let mut world = World::new(seed);
        for (number, step) in steps.into_iter().enumerate() {
            world.apply(step);
            if number % 8 == 0 {
                world.check();
            }
        }
        world.check();
    }
}

/// Large enough that segments split and merge by the dozen and the directory doubles, with a scan through all of it.
#[test]
fn a_large_store_behaves_like_its_model_while_it_grows_and_shrinks() {
    const KEYS: u32 = 40_000;
    let mut world = World::new(9);
    let mut random = Random::new(9);
    for round in 0..2u32 {
        // Growth: keys that stay, keys that expire, and keys that are removed again.
        for from in (0..KEYS).step_by(500) {
            let within = [None, Some(20_000), Some(3_000_000)][from as usize / 500 % 3];
            world.apply(BulkStep::Set((round % 2) as u8, from..from + 500, within));
            world.apply(BulkStep::Scan(4, 300));
            world.apply(BulkStep::Get(0, from / 2..from / 2 + 20));
            if from % 4_000 == 0 {
                world.apply(BulkStep::SetPolicy(Policy::ALL[random.below(Policy::ALL.len())]));
                world.apply(BulkStep::Compact(2));
                world.apply(BulkStep::Wait(200));
            }
            if from % 10_000 == 5_000 {
                world.check();
            }
        }
        let full = world.store.keyspaces[(round % 2) as usize].table.segments();
        assert!(full >= 32, "{full} segments");
        // Shrinking: everything at once, the scan goes on.
        for from in (0..KEYS).step_by(1_000) {
            world.apply(BulkStep::Remove((round % 2) as u8, from..from + 1_000, 1 + from as usize / 1_000 % 2));
            world.apply(BulkStep::Expire((round % 2) as u8, from..from + 100, [None, Some(30_000)][random.below(2)]));
            world.apply(BulkStep::Compact(4));
            world.apply(BulkStep::Scan(4, 100));
            world.apply(BulkStep::Wait(1_000));
            world.apply(BulkStep::Expiry(4));
            if from % 10_000 == 0 {
                world.apply(BulkStep::Swap);
                world.apply(BulkStep::Swap);
                world.apply(BulkStep::Evict(20));
                world.check();
            }
        }
        world.apply(BulkStep::SetPolicy(Policy::NoEviction));
        world.apply(BulkStep::Remove((round % 2) as u8, 0..KEYS / 2, 1));
        // To the end of the scan that was begun while the table was large, in pages between which segments merge.
        let completed = world.scans_completed;
        while world.scans_completed < completed + 2 {
            world.apply(BulkStep::Scan(1, 50));
            world.apply(BulkStep::Compact(1));
        }
        while world.store.compact_slice(world.now) {}
        let left = world.store.keyspaces[(round % 2) as usize].table.segments();
        assert!(left < full / 2, "{left} segments of {full}");
        world.check();
        world.apply(BulkStep::Swap);
    }
    assert!(world.scans_completed > 8);
    world.apply(BulkStep::Clear(0));
    world.apply(BulkStep::Clear(1));
    while world.store.free_slice() {}
    world.check();
    assert_eq!(world.store.memory(), StoreMemory::default());
}

/// The directory of twice the size is filled while segments split; those that split or merge meanwhile are right in both.
#[test]
fn a_half_filled_directory_is_right_when_segments_merge() {
    let mut store = store();
    let set = |store: &mut Store, i: u32| {
        store.set(store.key(0, &i.to_le_bytes()), NewValue::from(&b""[..]), Expiry::Never, NOW);
    };
    let (mut keys, mut half_filled, mut tried) = (0u32, 0, 0);
    while tried < 2 {
        set(&mut store, keys);
        keys += 1;
        let (depth, is_half_filled) = store.keyspaces[0].table.depth();
        half_filled += is_half_filled as usize;
        if is_half_filled && keys % 100 == 0 {
            store.keyspaces[0].table.check_directory();
        }
        if is_half_filled && depth >= 8 {
            let full = store.keyspaces[0].table.segments();
            (0..keys).for_each(|i| assert!(i % 4 == 0 || store.remove(store.key(0, &i.to_le_bytes()), NOW)));
            while store.compact_slice(NOW) {}
            assert!(store.keyspaces[0].table.segments() < full * 2 / 3 && store.keyspaces[0].table.depth().1);
            check(&store);
            (0..keys).filter(|i| i % 4 != 0).for_each(|i| set(&mut store, i));
            check(&store);
            tried += 1;
        }
        assert!(keys < 1_000_000);
    }
    assert!(half_filled > 0);
}

/// One scan from its first page to its last while the table grows eightfold and shrinks again.
#[test]
fn growth_and_shrinking_within_one_scan_hide_no_key() {
    let mut world = World::new(4);
    world.apply(BulkStep::Set(0, 0..4_000, None));
    world.apply(BulkStep::Scan(3, 100));
    let pages_each = 12;
    for from in (4_000..34_000).step_by(3_000) {
        world.apply(BulkStep::Set(0, from..from + 3_000, None));
        world.apply(BulkStep::Scan(pages_each, 30));
    }
    let full = world.store.keyspaces[0].table.segments();
    for from in (4_000..34_000).step_by(3_000) {
        world.apply(BulkStep::Remove(0, from..from + 3_000, 1));
        world.apply(BulkStep::Compact(100));
        world.apply(BulkStep::Scan(pages_each, 30));
    }
    assert_eq!(world.scans_completed, 0, "it is still the first scan");
    assert!(full >= 32 && world.store.keyspaces[0].table.segments() <= full / 4);
    while world.scans_completed == 0 {
        world.apply(BulkStep::Scan(1, 100));
    }
    world.check();
}

/// Whatever a client makes up as a cursor, a page ends, with no more keys than a page may have, and so does the scan.
#[test]
fn made_up_positions_are_harmless() {
    let mut random = Random::new(5);
    for keys in [0, 1, 500, 5_000] {
        let mut world = World::new(u64::from(keys));
        world.apply(BulkStep::Set(0, 0..keys, None));
        for bits in 0..64 {
            let mut position = random.next() >> bits;
            for page in 0.. {
                let mut met = 0;
                position = world.store.scan(0, position, 100, NOW, |_| met += 1);
                assert!(met < 200 && position < 1 << SCAN_POSITION_BITS);
                if position == 0 {
                    break;
                }
                assert!(page < 1_000, "a scan has an end");
            }
        }
    }
}

/// Segments merge, move and split while rounds of expiry are under way: all that is due goes in bounded time all the same,
/// and nothing else.
#[test]
fn no_key_escapes_expiry_because_its_segment_moves() {
    const KEYS: u32 = 30_000;
    let mut world = World::new(6);
    world.apply(BulkStep::Set(0, 0..KEYS, Some(60_000)));
    world.apply(BulkStep::Set(0, 0..KEYS / 4, None));
    let full = world.store.keyspaces[0].table.segments();
    for second in 0..70u32 {
        // What is removed makes segments merge, what comes makes them split.
        let from = KEYS / 4 + second * (KEYS * 3 / 4 / 70);
        world.apply(BulkStep::Remove(0, from..from + 300, 1));
        if second % 7 == 0 {
            world.apply(BulkStep::Set(
                0,
                KEYS + second * 100..KEYS + second * 100 + 500,
                Some(1 + u64::from(second) * 100),
            ));
        }
        world.apply(BulkStep::Wait(1_000));
        while world.store.expire_slice(world.now) {
            world.apply(BulkStep::Compact(3));
        }
        let due = world.store.len(0) - world.alive(0);
        // Due for LAG_MS at most, or one in a hundred of a segment.
        assert!(due <= KEYS as usize / 60 * 6 + 1_000, "{due} in second {second}");
    }
    let left = world.store.keyspaces[0].table.segments();
    assert!(left * 2 <= full, "most segments have merged: {left} of {full} are left");
    world.apply(BulkStep::Wait(expiry::LAG_MS));
    while world.store.expire_slice(world.now) {}
    assert_eq!(world.store.len(0), world.alive(0));
    world.check();
}

/// Under no policy does eviction stop before all is gone that may go, or take more than a few passes for it; whatever
/// kind the marks were before, wherever segments merge meanwhile.
#[test]
fn eviction_always_comes_to_an_end() {
    let mut random = Random::new(8);
    for (number, &policy) in Policy::ALL.iter().enumerate().filter(|(_, policy)| policy.evicts()) {
        let mut world = World::new(number as u64);
        world.apply(BulkStep::SetPolicy(Policy::ALL[(number + 3) % Policy::ALL.len()]));
        world.apply(BulkStep::Set(0, 0..6_000, None));
        world.apply(BulkStep::Set(1, 0..50, Some(1 << 31)));
        world.apply(BulkStep::Expire(0, 1_000..3_000, Some(1 << 31)));
        // Segments with no expiring key but the memory of one.
        world.apply(BulkStep::Expire(0, 1_100..2_900, None));
        for _ in 0..3 {
            world.apply(BulkStep::Get(0, 0..6_000));
        }
        world.apply(BulkStep::SetPolicy(policy));
        let wanted = if policy.volatile_only() { 250 } else { 6_050 };
        let mut slices = 0;
        while world.store.evict_slice(1 << 30, world.now, &mut || random.next()) {
            slices += 1;
            if slices % 16 == 0 {
                world.store.compact_slice(world.now);
            }
            if slices % 64 == 0 {
                check(&world.store);
            }
            assert!(slices < 20_000, "{policy:?} has evicted {}", world.store.counters().evicted);
        }
        assert_eq!(world.store.counters().evicted, wanted, "{policy:?}");
        check(&world.store);
    }
}

/// When the kind of marks changes before all have been given anew, those of both kinds before are forgotten.
#[test]
fn policies_that_change_faster_than_marks_leave_them_counted() {
    let mut world = World::new(3);
    world.apply(BulkStep::Set(0, 0..20_000, None));
    for (number, &policy) in Policy::ALL.iter().cycle().take(40).enumerate() {
        world.apply(BulkStep::SetPolicy(policy));
        let from = number as u32 * 300;
        world.apply(BulkStep::Compact(number % 3));
        world.apply(BulkStep::Set(0, from + 10_000..from + 10_200, Some(1 << 31)));
        world.apply(BulkStep::Get(0, from..from + 200));
        world.apply(BulkStep::Remove(0, from..from + 50, 1));
        world.apply(BulkStep::Evict(number % 5));
        check(&world.store);
    }
    world.check();
}

/// What the table relies on: hashes of ordinary keys are spread so evenly that a lookup reads little more than one bucket,
/// and the directory is hardly larger than it must be.
#[test]
fn ordinary_keys_are_spread_evenly() {
    const KEYS: u64 = 40_000;
    type Name = fn(u64) -> Vec<u8>;
    let names: [(&str, Name); 6] = [
        ("decimal", |i| i.to_string().into_bytes()),
        ("padded", |i| format!("user:{i:011}").into_bytes()),
        ("binary", |i| i.to_le_bytes().to_vec()),
        ("high bits", |i| (i << 44).to_be_bytes().to_vec()),
        ("long, different at the end", |i| [vec![b'p'; 300], i.to_be_bytes().to_vec()].concat()),
        ("long, different in the middle", |i| [vec![0; 100], i.to_be_bytes().to_vec(), vec![0; 100]].concat()),
    ];
    for (what, name) in names {
        for seed in 0..2 {
            let mut store = Store::new(1, [seed, 0, 0, 0], true);
            for i in 0..KEYS {
                let name = name(i);
                store.set(store.key(0, &name), NewValue::from(&b""[..]), Expiry::Never, NOW);
            }
            let table = &store.keyspaces[0].table;
            let rehash = |entry: EntryRef| hash_of(&store.hasher, entry.key());
            let (depth, probes) = (table.depth().0, table.probes(&rehash));
            assert!((5..=7).contains(&depth) && probes < 1.2, "{what}: depth {depth}, {probes} buckets");
        }
    }
}

/// Reads and writes between two slices may be so many that marks always need tidying; what deletions left is given back
/// all the same.
#[test]
fn tidying_marks_does_not_keep_memory_from_being_given_back() {
    for policy in [Policy::AllKeysLru, Policy::AllKeysS3Fifo, Policy::AllKeysLfu] {
        const KEYS: u32 = 60_000;
        let mut store = store();
        store.set_policy(policy, LfuSettings::default());
        let mut random = Random::new(2);
        let set = |store: &mut Store, i: u32, now: Millis| {
            store.set(store.key(0, &i.to_le_bytes()), NewValue::from(&[1; 300][..]), Expiry::Never, now);
        };
        (0..KEYS).for_each(|i| set(&mut store, i, NOW));
        let (full, segments) = (store.memory_bytes(), store.keyspaces[0].table.segments());
        for i in (0..KEYS).filter(|i| i % 10 != 0) {
            assert!(store.remove(store.key(0, &i.to_le_bytes()), NOW));
        }
        // Of what is left some is read, and some is replaced by new keys.
        let mut names: Vec<u32> = (0..KEYS).step_by(10).collect();
        let mut now = NOW;
        for _ in 0..200 {
            for _ in 0..1_000 {
                let at = random.below(names.len());
                if random.below(4) == 0 {
                    assert!(store.remove(store.key(0, &names[at].to_le_bytes()), now));
                    names[at] = KEYS + random.next() as u32 / 2;
                    set(&mut store, names[at], now);
                }
                assert!(store.get(store.key(0, &names[at].to_le_bytes()), now).is_some());
            }
            now.0 += 60_000;
            store.tick(now);
            store.compact_slice(now);
        }
        let (left, segments_left) = (store.memory_bytes(), store.keyspaces[0].table.segments());
        assert!(left < full / 3, "{policy:?}: {full} bytes, of which {left} are left");
        assert!(segments_left < segments / 2, "{policy:?}: {segments} segments, of which {segments_left} are left");
        check(&store);
    }
}
