//! The store against a model in the plainest code: a HashMap of keys to values and times.

use std::collections::HashMap;

use proptest::prelude::*;

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
    let bytes = limits::GARBAGE_FLUSHED_BYTES_PAUSE as usize / 4;
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

/// What is counted as it changes is what a walk over all entries finds.
fn assert_counted(store: &Store) {
    let (mut slots, mut outside) = (0, 0);
    for db in 0..store.databases() as u8 {
        store.scan(db, 0, usize::MAX, Millis(0), |entry| {
            slots += entry.memory_bytes() - entry.outside().bytes;
            outside += entry.outside().bytes;
        });
    }
    let memory = store.memory();
    assert_eq!((memory.slots, memory.outside), (slots, outside));
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
    assert_counted(&store);
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
    assert_counted(&store);
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
        assert_counted(&store);
        while store.expire_slice(now) {}
        store.reap(now);
    }
}
