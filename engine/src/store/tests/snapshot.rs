//! Snapshots against a copy of everything that was made when they began: whatever is done between their slices, what is
//! read of the file is that copy.

use std::collections::{BTreeMap, HashMap};

use proptest::prelude::*;

use super::super::eviction::simulation::Random;
use super::super::*;
use super::NOW;
use super::model::{Step, World, check, steps};
use crate::snapshot::{Block, LoadedEntry, read_all};

/// Keyspace and key to value, expiry time and version.
type Content = BTreeMap<(u32, Vec<u8>), (Vec<u8>, u64, Option<u64>)>;

/// All that there is, whatever the time.
fn content(store: &Store) -> Content {
    let rehash = |entry: EntryRef| hash_of(&store.hasher, entry.key());
    let mut content = Content::new();
    for keyspace in &store.keyspaces {
        keyspace.table.scan(0, usize::MAX, &rehash, |entry| {
            let key = (keyspace.id.0, entry.key().to_vec());
            content.insert(key, (entry.value().bytes().to_vec(), entry.expire_ms(), entry.version()));
        });
    }
    content
}

/// Panics unless marks are those that entries may have.
fn check_marks(store: &Store) {
    let snapshot = &store.observers.snapshot;
    let rehash = |entry: EntryRef| hash_of(&store.hasher, entry.key());
    let (current, oldest) = snapshot.epochs();
    for keyspace in &store.keyspaces {
        assert_eq!(keyspace.arena.epoch(), current);
        keyspace.table.scan(0, usize::MAX, &rehash, |entry| {
            assert!(entry.epoch().wrapping_sub(oldest) <= current.wrapping_sub(oldest));
        });
    }
}

/// A file that is being written, and what it has to be in the end.
#[derive(Default)]
struct File {
    bytes: Vec<u8>,
    wanted: Option<Content>,
    layout: Option<Databases>,
    under_way: Vec<Block>,
    number: u64,
    finished: u64,
    aborted: u64,
    refused: u64,
}

impl File {
    fn begin(&mut self, store: &mut Store) {
        let start = SnapshotStart { snapshot: self.number + 1, shards: 1, ..SnapshotStart::default() };
        match store.begin_snapshot(start) {
            Ok(()) => {
                self.number += 1;
                self.bytes.clear();
                self.wanted = Some(content(store));
                self.layout = Some(store.layout());
            }
            Err(SnapshotRefused::Running) => assert!(self.wanted.is_some()),
            Err(SnapshotRefused::Unsettled) => {
                assert_eq!(self.wanted, None);
                self.refused += 1;
            }
        }
    }

    /// Hands over up to so many blocks, and has some of them written, in any order.
    fn write(&mut self, store: &mut Store, most: usize, random: &mut Random) {
        self.under_way.extend(std::iter::from_fn(|| store.poll_snapshot_block()).take(most));
        for _ in 0..most {
            if self.under_way.is_empty() {
                break;
            }
            let block = self.under_way.swap_remove(random.below(self.under_way.len()));
            if block.snapshot == self.number {
                let (at, bytes) = (block.offset as usize, block.buffer.as_slice());
                self.bytes.resize(self.bytes.len().max(at + bytes.len()), 0);
                self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
            }
            store.handle_snapshot_block_written(block);
        }
        self.look(store);
    }

    /// Sees what became of the snapshot.
    fn look(&mut self, store: &Store) {
        match store.snapshot_progress() {
            SnapshotProgress::Finished(totals) if self.wanted.is_some() => {
                let wanted = self.wanted.take().expect("just looked");
                assert_eq!((totals.bytes, totals.entries), (self.bytes.len() as u64, wanted.len() as u64));
                self.compare(store, &wanted);
                self.finished += 1;
            }
            SnapshotProgress::Aborted if self.wanted.take().is_some() => self.aborted += 1,
            _ => {}
        }
    }

    /// What is read, and what is loaded into another store, is what there was.
    fn compare(&self, store: &Store, wanted: &Content) {
        let mut loaded = Store::new(store.databases(), [5, 6, 7, 8], false);
        let header = crate::snapshot::Header::parse(self.bytes.first_chunk().expect("a page")).expect("it is sound");
        loaded.restore_keyspaces(&header).expect("ids that can be");
        assert_eq!(Some(loaded.layout()), self.layout);
        let known = header.keyspaces.iter().filter(|_| self.number.is_multiple_of(2));
        known.for_each(|keyspace| loaded.reserve(keyspace.id, keyspace.entries));
        let mut read = Content::new();
        read_all(&self.bytes, |entries| {
            for entry in entries {
                let key = (entry.keyspace.0, entry.key.to_vec());
                let before = read.insert(key, (entry.value.bytes.to_vec(), entry.expire_ms, entry.version));
                assert!(before.is_none(), "saved twice");
            }
            loaded.load(entries, NOW, |_| true);
        })
        .expect("it is sound");
        assert!(read == *wanted, "{} entries, wanted {}", read.len(), wanted.len());
        assert!(content(&loaded) == *wanted);
        check(&loaded);
    }

    /// To the end of the snapshot that runs, or until nothing is left to be marked.
    fn finish(&mut self, store: &mut Store, random: &mut Random) {
        let mut slices = 0;
        while store.has_snapshot() {
            store.snapshot_slice(limits::SNAPSHOT_SLICE_BYTES);
            self.write(store, 8, random);
            slices += 1;
            assert!(slices < 100_000, "a snapshot has an end");
        }
        self.look(store);
    }

    /// What a shard may do at any time.
    fn anything(&mut self, store: &mut Store, random: &mut Random) {
        match random.below(20) {
            0 => self.begin(store),
            1 if random.below(4) == 0 => store.abort_snapshot(),
            2..8 => self.write(store, 1 + random.below(12), random),
            8 => self.finish(store, random),
            _ => {
                store.snapshot_slice(1 + random.below(3_000));
            }
        }
        self.look(store);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]
    #[test]
    fn a_snapshot_is_the_state_at_its_beginning(seed in any::<u64>(), steps in steps(4_000, 150, 200)) {
        let (mut world, mut file, mut random) = (World::new(seed), File::default(), Random::new(seed));
        world.apply(Step::Set(0, 0..2_000, None));
        world.apply(Step::Set(1, 0..500, Some(20_000)));
        for (number, step) in steps.into_iter().enumerate() {
            world.apply(step);
            (0..1 + number % 4).for_each(|_| file.anything(&mut world.store, &mut random));
            if number % 16 == 0 {
                check_marks(&world.store);
            }
        }
        file.finish(&mut world.store, &mut random);
        check_marks(&world.store);
        world.check();
        file.begin(&mut world.store);
        file.finish(&mut world.store, &mut random);
        prop_assert!(file.finished > 0);
    }
}

/// So often that epochs go round several times, with aborted snapshots in rows of any length, while tables grow and shrink
/// and entries are moved.
#[test]
fn epochs_go_round_whatever_became_of_the_snapshots() {
    let (mut world, mut file, mut random) = (World::new(1), File::default(), Random::new(1));
    for round in 0..900u32 {
        let from = random.below(1_000) as u32;
        match round / 100 % 2 {
            0 => world.apply(Step::Set((round % 2) as u8, from..from + 40, None)),
            _ => world.apply(Step::Remove((round % 2) as u8, from..from + 60, 1)),
        }
        world.apply(Step::Compact(3));
        file.begin(&mut world.store);
        world.store.snapshot_slice(1 + random.below(20_000));
        world.apply(Step::Expire((round % 2) as u8, from..from + 20, [None, Some(1 << 30)][random.below(2)]));
        // 400 in a row are aborted, then few.
        if (100..500).contains(&round) || random.below(3) == 0 {
            if file.wanted.is_some() {
                world.store.abort_snapshot();
                file.look(&world.store);
            }
        } else {
            file.finish(&mut world.store, &mut random);
        }
        if round % 20 == 0 {
            check_marks(&world.store);
        }
    }
    file.finish(&mut world.store, &mut random);
    world.check();
    assert!(file.finished > 300 && file.aborted > 400 && file.refused > 0, "{} {}", file.finished, file.refused);
    let counters = world.store.snapshot_counters();
    assert_eq!((counters.begun, counters.finished), (file.number, file.finished));
    assert_eq!(counters.aborted, file.aborted);
}

fn set(store: &mut Store, number: u32, len: usize) {
    store.set(store.key(0, &number.to_le_bytes()), NewValue::from(&vec![number as u8; len][..]), Expiry::Never, NOW);
}

/// Pages run empty and are used again, for slots of another size, under the walk and on both sides of it.
#[test]
fn pages_that_are_used_again_under_the_walk_are_passed() {
    const KEYS: u32 = 12_000;
    let mut random = Random::new(2);
    for slices in [0, 1, 7, 40, 200, 500] {
        let (mut store, mut file) = (super::store(), File::default());
        (0..KEYS).for_each(|number| set(&mut store, number, 100));
        file.begin(&mut store);
        (0..slices).for_each(|_| {
            store.snapshot_slice(2_000);
            file.write(&mut store, 8, &mut random);
        });
        for (from, len) in [(0, 40), (KEYS, 1_000), (2 * KEYS, 24)] {
            (from..from + KEYS).for_each(|number| {
                store.remove(store.key(0, &number.to_le_bytes()), NOW);
                if number % 3 == 0 {
                    set(&mut store, number + KEYS, len);
                }
                if number % 50 == 0 {
                    while store.compact_slice(NOW) {}
                    store.snapshot_slice(50);
                    file.write(&mut store, 8, &mut random);
                }
            });
        }
        file.finish(&mut store, &mut random);
        assert_eq!(file.finished, 1);
        check(&store);
    }
}

/// As above, all of it between two slices: the walk stands in the middle of a page that is another's when it goes on.
#[test]
fn the_page_under_the_walk_may_become_another() {
    let mut random = Random::new(7);
    for (budget, len) in [(500, 40), (500, 1_000), (40_000, 24), (200_000, 300), (900_000, 8)] {
        let (mut store, mut file) = (super::store(), File::default());
        (0..12_000).for_each(|number| set(&mut store, number, 100));
        file.begin(&mut store);
        store.snapshot_slice(budget);
        (0..12_000u32).for_each(|number| assert!(store.remove(store.key(0, &number.to_le_bytes()), NOW)));
        while store.compact_slice(NOW) {}
        let pages = store.memory_bytes() / (128 << 10);
        (0..(8 << 20) / (len as u32 + 100)).for_each(|number| set(&mut store, number % 60, len));
        (0..(3 << 20) / (len as u32 + 16)).for_each(|number| set(&mut store, number, len));
        assert!(store.memory_bytes() / (128 << 10) > pages);
        file.finish(&mut store, &mut random);
        assert_eq!(file.finished, 1);
        check(&store);
    }
}

/// Entries of sparse pages ahead of the walk are moved to fuller ones that it has been through.
#[test]
fn what_is_moved_behind_the_walk_is_saved_first() {
    const KEYS: u32 = 40_000;
    let mut random = Random::new(8);
    for slices in [0, 20, 100, 200, 300] {
        let (mut store, mut file) = (super::store(), File::default());
        (0..KEYS).for_each(|number| set(&mut store, number, 100));
        let gone = |number: &u32| if *number < KEYS / 2 { number.is_multiple_of(4) } else { !number.is_multiple_of(4) };
        (0..KEYS).filter(gone).for_each(|number| assert!(store.remove(store.key(0, &number.to_le_bytes()), NOW)));
        file.begin(&mut store);
        (0..slices).for_each(|_| {
            store.snapshot_slice(10_000);
            file.write(&mut store, 8, &mut random);
        });
        let before: HashMap<Vec<u8>, u64> = addresses(&store);
        while store.compact_slice(NOW) || store.is_snapshot_full() {
            file.write(&mut store, 8, &mut random);
        }
        let after = addresses(&store);
        let moved = before.iter().filter(|(key, address)| after[&key[..]] < **address).count();
        assert!(moved > 2_000, "{moved} were moved down");
        file.finish(&mut store, &mut random);
        assert_eq!(file.finished, 1);
        check(&store);
    }
}

fn addresses(store: &Store) -> HashMap<Vec<u8>, u64> {
    let mut addresses = HashMap::new();
    store.scan(0, 0, usize::MAX, NOW, |entry| {
        addresses.insert(entry.key().to_vec(), entry.address());
    });
    addresses
}

#[test]
fn flushing_what_is_not_saved_aborts_and_other_flushes_do_not() {
    let (mut store, mut file, mut random) = (super::store(), File::default(), Random::new(3));
    (0..5_000).for_each(|number| set(&mut store, number, 50));
    file.begin(&mut store);
    store.snapshot_slice(10_000);
    // There is nothing in it.
    store.clear(1..2).expect("there are ids");
    store.swap(0, 1);
    assert!(matches!(store.snapshot_slice(1), SnapshotProgress::Saving { of: 5_000, .. }));
    store.clear(0..2).expect("there are ids");
    assert_eq!(store.snapshot_progress(), SnapshotProgress::Aborted);
    file.look(&store);
    // The blocks of the one that is gone come back while the next one runs.
    file.under_way.extend(store.poll_snapshot_block());
    (0..5_000).for_each(|number| set(&mut store, number, 60));
    file.begin(&mut store);
    file.finish(&mut store, &mut random);
    // All is saved, though not all is written.
    file.begin(&mut store);
    while matches!(store.snapshot_slice(1 << 20), SnapshotProgress::Saving { .. }) {
        file.write(&mut store, 8, &mut random);
    }
    store.clear(0..2).expect("there are ids");
    file.finish(&mut store, &mut random);
    assert_eq!((file.finished, file.aborted), (2, 1));
    assert_eq!(store.snapshot_counters(), SnapshotCounters { begun: 3, finished: 2, aborted: 1 });
}

/// Long values are not copied: what changes meanwhile is another value, and what goes is kept until it is written.
#[test]
fn long_values_are_kept_by_reference_and_cut_up() {
    const LEN: usize = 5 << 20;
    let (mut store, mut file, mut random) = (super::store(), File::default(), Random::new(4));
    let values: Vec<Bytes> = (0..6u8).map(|number| Bytes::from(vec![number; LEN])).collect();
    for (number, value) in values.iter().enumerate() {
        let shared = NewValue { bytes: value, shared: Some(value) };
        store.set(store.key(0, &[number as u8]), shared, Expiry::Never, NOW);
    }
    store.set(store.key(0, &vec![b'k'; 200_000]), NewValue::from(&b"short"[..]), Expiry::Never, NOW);
    drop(values);
    file.begin(&mut store);
    let before = store.snapshot_pending_bytes();
    store.snapshot_slice(1_000);
    assert!(store.snapshot_pending_bytes() <= before + (1 << 20), "the walk copies no value");
    assert!(!store.is_snapshot_full());
    // In place, anew, gone: all before they are cut up.
    store.write_at(store.key(0, &[0]), 0, b"changed", NOW);
    store.set(store.key(0, &[1]), NewValue::from(&b"short"[..]), Expiry::Never, NOW);
    assert!(store.remove(store.key(0, &[2]), NOW));
    assert!(store.set_expiry(store.key(0, &[3]), Some(Millis(1 << 40)), NOW));
    assert!(store.remove(store.key(0, &[4]), NOW));
    assert!(store.remove(store.key(0, &vec![b'k'; 200_000]), NOW));
    assert!(store.is_snapshot_full(), "what is gone is only kept for the snapshot");
    let mut full = 0;
    while store.has_snapshot() {
        full += store.is_snapshot_full() as usize;
        store.snapshot_slice(limits::SNAPSHOT_SLICE_BYTES);
        file.write(&mut store, 2, &mut random);
    }
    assert!(full > 10 && file.finished == 1);
    while let Some(value) = store.poll_garbage() {
        assert!(value.is_unique(), "whoever drops it is the last who has it");
        store.garbage_freed(1, value.len() as u64);
    }
    check(&store);
}

/// What is saved before it changes is bounded by who looks whether there is room; the store's own work waits by itself.
#[test]
fn a_slow_disk_makes_it_full_and_nothing_is_lost() {
    let (mut store, mut file, mut random) = (super::store(), File::default(), Random::new(5));
    (0..40_000).for_each(|number| set(&mut store, number, 1_000));
    (0..40_000u32).filter(|number| number % 4 != 0).for_each(|number| {
        assert!(store.remove(store.key(0, &number.to_le_bytes()), NOW));
    });
    (40_000..60_000).for_each(|number| set(&mut store, number, 1_000));
    assert!(store.set_expiry(store.key(0, &0u32.to_le_bytes()), Some(Millis(NOW.0 + 1)), NOW));
    file.begin(&mut store);
    (0..100).for_each(|_| {
        store.snapshot_slice(limits::SNAPSHOT_SLICE_BYTES);
    });
    // And one that is not complete.
    let ahead = (limits::SNAPSHOT_BLOCKS_AHEAD + 1) * limits::SNAPSHOT_BLOCK_BYTES_MAX;
    assert_eq!(store.snapshot_pending_bytes(), ahead, "the walk waits for the disk");
    let mut written = 0;
    for number in 40_000..60_000 {
        if store.is_snapshot_full() {
            break;
        }
        set(&mut store, number, 900);
        written += 1;
    }
    assert!(store.is_snapshot_full() && (10_000..20_000).contains(&written), "{written}");
    let most = limits::SNAPSHOT_PENDING_BYTES_MAX + limits::SNAPSHOT_BLOCK_BYTES_MAX;
    // Merging goes on, moving does not; nor does expiry.
    while store.give_back_slice() {}
    store.expire_slice(Millis(NOW.0 + 1_000_000));
    assert!(store.snapshot_pending_bytes() <= most && store.counters().expired == 0);
    file.write(&mut store, 1_000, &mut random);
    assert!(!store.is_snapshot_full());
    file.finish(&mut store, &mut random);
    assert_eq!(file.finished, 1);
    while store.give_back_slice() {}
    while store.expire_slice(Millis(NOW.0 + 1_000_000)) {}
    assert_eq!(store.counters().expired, 1);
    check(&store);
}

/// Versions go with their entries, whatever becomes of these, and come back.
#[test]
fn versions_stay_with_their_keys() {
    let (mut store, mut file, mut random) = (super::store(), File::default(), Random::new(6));
    for (number, len) in [10, 300, 20_000, 100_000].into_iter().enumerate() {
        for (part, expire_ms) in [0, 1 << 40].into_iter().enumerate() {
            let key = vec![b'a' + part as u8; 1 + number * 200];
            let (value, version) = (vec![7; len], Some((number + part) as u64));
            let value = NewValue::from(&value[..]);
            let keyspace = KeyspaceId(0);
            store.load(&[LoadedEntry { keyspace, key: &key, value, expire_ms, version }], NOW, |_| true);
            store.write_at(store.key(0, &key), 30_000, b"more", NOW);
            assert!(store.set_expiry(store.key(0, &key), Some(Millis(1 << 41)), NOW));
            let entry = store.peek(store.key(0, &key), NOW).expect("it is there");
            assert_eq!((entry.version(), entry.expire_ms()), (version, 1 << 41));
        }
    }
    file.begin(&mut store);
    file.finish(&mut store, &mut random);
    assert_eq!(file.finished, 1);
    let unknown = LoadedEntry {
        keyspace: KeyspaceId(9),
        key: b"key",
        value: NewValue::from(&b""[..]),
        expire_ms: 0,
        version: None,
    };
    let keys = store.len(0);
    store.load(&[unknown], NOW, |_| true);
    assert_eq!(store.len(0), keys);
}
