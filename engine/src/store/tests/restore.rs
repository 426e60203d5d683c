//! Stores rebuilt from snapshots and logs of other shards, which crashes ended at different moments, against a model that
//! knows nothing of shards: what each log says of each keyspace, and of that what the last layout leads to.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::super::*;
use super::NOW;
use crate::log::{Expected, FsyncPolicy, LogStart, Lsn, Record, Replay, Segment};
use crate::snapshot::{Header, read_all};

const DATABASES: usize = 3;
const SEGMENT_BYTES: u64 = 1 << 20;
const DATABASE: [u8; 16] = [7; 16];

#[derive(Clone, Debug)]
enum Step {
    Set {
        db: u8,
        key: u8,
        len: usize,
        expire_ms: u64,
    },
    Remove {
        db: u8,
        key: u8,
    },
    Expire {
        db: u8,
        key: u8,
        expire_ms: u64,
    },
    WriteAt {
        db: u8,
        key: u8,
        offset: usize,
    },
    Flush(u8),
    FlushAll,
    Swap(u8, u8),
    /// One of the shards takes a snapshot.
    Snapshot(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let db = || 0..DATABASES as u8;
    let key = || 0..9u8;
    let expire_ms = || prop_oneof![Just(0), 1_000_000..1_000_003u64];
    prop_oneof![
        8 => (db(), key(), prop_oneof![9 => 0..40usize, 1 => Just(70_000)], expire_ms())
            .prop_map(|(db, key, len, expire_ms)| Step::Set { db, key, len, expire_ms }),
        3 => (db(), key()).prop_map(|(db, key)| Step::Remove { db, key }),
        2 => (db(), key(), expire_ms()).prop_map(|(db, key, expire_ms)| Step::Expire { db, key, expire_ms }),
        3 => (db(), key(), 0..30usize).prop_map(|(db, key, offset)| Step::WriteAt { db, key, offset }),
        2 => db().prop_map(Step::Flush),
        1 => Just(Step::FlushAll),
        2 => (db(), db()).prop_map(|(one, other)| Step::Swap(one, other)),
        1 => (0..3usize).prop_map(Step::Snapshot),
    ]
}

fn owner(key: &[u8], shards: usize) -> usize {
    key[0] as usize % shards
}

/// A shard of the process that crashed.
struct Old {
    store: Store,
    /// The last snapshot, and the last record that is in it.
    snapshot: Option<(Vec<u8>, Lsn)>,
}

impl Old {
    fn new(shard: u16, shards: usize) -> Old {
        let mut store = Store::new(DATABASES, [1, 2, 3, 4], false);
        store.log().journal().begin(LogStart {
            database: DATABASE,
            generation: 1,
            shard,
            shards: shards as u16,
            segment: 1,
            salt: 1,
            next_lsn: Lsn(1),
            last_txid: 0,
            segment_bytes: SEGMENT_BYTES,
            first_segment_bytes: SEGMENT_BYTES,
            previous: None,
        });
        Old { store, snapshot: None }
    }

    fn take_snapshot(&mut self) {
        let store = &mut self.store;
        let base = store.log().last_lsn();
        let start = SnapshotStart { shards: 1, base_lsn: base.0, ..SnapshotStart::default() };
        store.begin_snapshot(start).expect("none is running");
        let mut file = Vec::new();
        while !matches!(store.snapshot_progress(), SnapshotProgress::Finished(_)) {
            store.snapshot_slice(limits::SNAPSHOT_SLICE_BYTES);
            while let Some(block) = store.poll_snapshot_block() {
                let end = block.offset as usize + block.buffer.len();
                file.resize(file.len().max(end), 0);
                file[block.offset as usize..end].copy_from_slice(block.buffer.as_slice());
                store.handle_snapshot_block_written(block);
            }
        }
        self.snapshot = Some((file, base));
    }

    fn log(&mut self) -> Vec<u8> {
        let journal = self.store.log().journal();
        let mut segment = vec![0; SEGMENT_BYTES as usize];
        while let Some(write) = journal.poll_write(NOW, FsyncPolicy::Always) {
            assert_eq!(write.segment, 1);
            segment[write.offset as usize..][..write.buffer.len()].copy_from_slice(write.buffer.as_slice());
            journal.handle_written(Ok(write.sync), write.buffer);
        }
        segment
    }
}

/// What is left of an old shard.
struct Left {
    shard: u16,
    snapshot: Option<(Vec<u8>, Lsn)>,
    log: Vec<u8>,
    /// The last record that was durable.
    end: Lsn,
}

impl Left {
    /// Visits the durable records behind a base.
    fn records(&self, base: Lsn, mut visit: impl FnMut(&[(Lsn, Record<'_>)])) {
        let segments = [Segment { generation: 1, segment: 1, bytes: &self.log }];
        let mut replay = Replay::new(Expected { database: DATABASE, shard: self.shard, base }, &segments);
        while replay
            .step(|records| visit(&records[..records.partition_point(|(lsn, _)| *lsn <= self.end)]))
            .expect("a sound log")
        {}
    }

    fn redo(&self, store: &mut Store, owns: impl Fn(&[u8]) -> bool) {
        if let Some((file, _)) = &self.snapshot {
            let header = Header::parse(file.first_chunk().expect("a page")).expect("it is sound");
            store.restore_keyspaces(&header).expect("ids that can be");
            read_all(file, |entries| store.load(entries, NOW, &owns)).expect("it is sound");
        }
        let base = self.snapshot.as_ref().map_or(Lsn(0), |(_, base)| *base);
        self.records(base, |records| store.redo(records, NOW, &owns));
    }
}

/// By database and key: value and expiry time.
type Content = BTreeMap<(u8, Vec<u8>), (Vec<u8>, u64)>;

/// What should be there, from the whole logs without snapshots.
fn model(left: &[Left]) -> (Databases, Content) {
    let keyspaces = (0..DATABASES as u32).map(KeyspaceId).collect();
    let mut last = Databases { number: 0, next_keyspace: DATABASES as u32, keyspaces };
    let mut keys: BTreeMap<(u32, Vec<u8>), (Vec<u8>, u64)> = BTreeMap::new();
    for left in left {
        left.records(Lsn(0), |records| {
            for (_, record) in records {
                match *record {
                    Record::Set { keyspace, key, value, expire_ms, .. } => {
                        keys.insert((keyspace.0, key.to_vec()), (value.to_vec(), expire_ms));
                    }
                    Record::Remove { keyspace, key } => drop(keys.remove(&(keyspace.0, key.to_vec()))),
                    Record::Expire { keyspace, key, expire_ms, .. } => {
                        keys.get_mut(&(keyspace.0, key.to_vec())).expect("only a key expires").1 = expire_ms;
                    }
                    Record::WriteAt { keyspace, key, offset, bytes, .. } => {
                        let value = &mut keys.get_mut(&(keyspace.0, key.to_vec())).expect("its value was logged").0;
                        let (start, end) = (offset as usize, offset as usize + bytes.len());
                        value.resize(value.len().max(end), 0);
                        value[start..end].copy_from_slice(bytes);
                    }
                    Record::Layout(layout) if layout.number > last.number => {
                        let (number, next_keyspace) = (layout.number, layout.next_keyspace);
                        last = Databases { number, next_keyspace, keyspaces: layout.keyspaces().collect() };
                    }
                    Record::Layout(_) => {}
                    Record::Transaction(_) => unreachable!("none was logged"),
                }
            }
        });
    }
    let number_of = |id: u32| last.keyspaces.iter().position(|known| known.0 == id);
    let content = keys.into_iter().filter_map(|((id, key), held)| Some(((number_of(id)? as u8, key), held))).collect();
    (last, content)
}

fn content(stores: &[Store]) -> Content {
    let mut content = Content::new();
    for store in stores {
        for db in 0..DATABASES as u8 {
            store.scan(db, 0, usize::MAX, Millis(0), |entry| {
                let held = (entry.value().bytes().to_vec(), entry.expire_ms());
                let before = content.insert((db, entry.key().to_vec()), held);
                assert!(before.is_none(), "a key is on one shard");
            });
        }
    }
    content
}

fn run(steps: &[Step], old: usize, new: usize, ends: &[u64], order: usize) {
    let mut shards: Vec<Old> = (0..old).map(|shard| Old::new(shard as u16, old)).collect();
    for step in steps {
        let name = |key: u8| [key];
        let at = |expire_ms: u64| Some(Millis(expire_ms)).filter(|at| at.0 > 0);
        match *step {
            Step::Set { db, key, len, expire_ms } => {
                let store = &mut shards[owner(&name(key), old)].store;
                let expiry = at(expire_ms).map_or(Expiry::Never, Expiry::At);
                store.set(store.key(db, &name(key)), NewValue::from(&vec![key; len][..]), expiry, NOW);
            }
            Step::Remove { db, key } => {
                let store = &mut shards[owner(&name(key), old)].store;
                store.remove(store.key(db, &name(key)), NOW);
            }
            Step::Expire { db, key, expire_ms } => {
                let store = &mut shards[owner(&name(key), old)].store;
                store.set_expiry(store.key(db, &name(key)), at(expire_ms), NOW);
            }
            Step::WriteAt { db, key, offset } => {
                let store = &mut shards[owner(&name(key), old)].store;
                store.write_at(store.key(db, &name(key)), offset, b"written", NOW);
            }
            Step::Flush(db) => {
                shards.iter_mut().for_each(|shard| shard.store.clear(db as usize..db as usize + 1).expect("ids"));
            }
            Step::FlushAll => shards.iter_mut().for_each(|shard| shard.store.clear(0..DATABASES).expect("ids")),
            Step::Swap(one, other) => shards.iter_mut().for_each(|shard| shard.store.swap(one, other)),
            Step::Snapshot(shard) => shards[shard % old].take_snapshot(),
        }
    }
    let mut left: Vec<Left> = Vec::new();
    for (shard, mut old) in shards.into_iter().enumerate() {
        let log = old.log();
        let last = old.store.log().last_lsn().0;
        // What is in the snapshot is durable.
        let base = old.snapshot.as_ref().map_or(0, |(_, base)| base.0);
        let end = Lsn(base + ends[shard] % (last - base + 1));
        left.push(Left { shard: shard as u16, snapshot: old.snapshot, log, end });
    }
    let (layout, wanted) = model(&left);

    // As many shards: each redoes what is its own, and learns from the others what it has missed.
    let mut stores: Vec<Store> = (0..old).map(|_| Store::new(DATABASES, [5, 6, 7, 8], false)).collect();
    left.iter().zip(&mut stores).for_each(|(left, store)| left.redo(store, |_| true));
    let last = stores.iter().map(Store::layout).max_by_key(|layout| layout.number).expect("a shard");
    assert_eq!(last, layout);
    stores.iter_mut().for_each(|store| store.adopt(&last).expect("ids that can be"));
    assert_eq!(content(&stores), wanted);

    // Any number: all redo everything, in any order.
    left.rotate_left(order % old);
    if order >= old {
        left.reverse();
    }
    let mut stores: Vec<Store> = (0..new).map(|_| Store::new(DATABASES, [5, 6, 7, 8], false)).collect();
    for (shard, store) in stores.iter_mut().enumerate() {
        left.iter().for_each(|left| left.redo(store, |key| owner(key, new) == shard));
        assert_eq!(store.layout(), layout);
        while store.free_redone_slice() {}
    }
    assert_eq!(content(&stores), wanted);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn any_shards_are_rebuilt_from_any_others(
        steps in prop::collection::vec(step(), 0..60),
        (old, new, order) in (1..4usize, 1..4usize, 0..6usize),
        ends in prop::array::uniform3(prop_oneof![0..60u64, Just(u64::MAX)]),
    ) {
        run(&steps, old, new, &ends, order);
    }
}

fn set(store: &mut Store, key: &[u8], value: &[u8]) {
    store.set(store.key(0, key), NewValue::from(value), Expiry::Never, NOW);
}

#[test]
fn what_was_written_to_a_key_that_was_evicted_since_makes_no_other_value() {
    let mut store = Store::new(1, [1, 2, 3, 4], false);
    let keyspace = KeyspaceId(0);
    let record = Record::WriteAt { keyspace, key: b"key", offset: 3, bytes: b"end", version: None };
    store.redo(&[(Lsn(1), record)], NOW, |_| true);
    assert_eq!(store.len(0), 0);
    set(&mut store, b"key", b"abc");
    store.redo(&[(Lsn(2), record)], NOW, |_| true);
    assert_eq!(
        store.peek(store.key(0, b"key"), NOW).map(|entry| entry.value().bytes().to_vec()),
        Some(b"abcend".to_vec())
    );
}

#[test]
fn a_layout_is_adopted_if_it_is_later_and_can_be() {
    let mut store = Store::new(2, [1, 2, 3, 4], false);
    set(&mut store, b"key", b"value");
    store.swap(0, 1);
    let layout = |number, next_keyspace, ids: &[u32]| {
        let keyspaces = ids.iter().copied().map(KeyspaceId).collect();
        Databases { number, next_keyspace, keyspaces }
    };
    let mine = layout(1, 2, &[1, 0]);
    assert_eq!(store.layout(), mine);
    assert_eq!(store.adopt(&layout(0, 9, &[7, 8])), Ok(()));
    assert_eq!(store.adopt(&mine), Ok(()));
    assert_eq!(store.adopt(&layout(1, 2, &[0, 1])), Err(KeyspacesRefused::Ids));
    assert_eq!(store.adopt(&layout(2, 2, &[2])), Err(KeyspacesRefused::Ids));
    assert_eq!(store.adopt(&layout(2, 2, &[0, 0])), Err(KeyspacesRefused::Ids));
    assert_eq!(store.adopt(&layout(2, 9, &[1, 2, 3])), Err(KeyspacesRefused::Databases(3)));
    assert_eq!(store.adopt(&layout(2, u32::MAX, &[1])), Err(KeyspacesRefused::Ids), "the other one has no id");
    assert_eq!((store.layout(), store.len(1)), (mine, 1));
    // A number that there was not then gets a keyspace of its own.
    assert_eq!(store.adopt(&layout(5, 9, &[0])), Ok(()));
    assert_eq!((store.layout(), store.len(0)), (layout(5, 10, &[0, 9]), 1));
    assert_eq!(store.adopt(&layout(6, 11, &[9, 10])), Ok(()));
    assert_eq!((store.len(0), store.len(1)), (0, 0));
}

/// A value that is written to beyond the end of nothing is one record: a crash between two left a key that was empty, which it
/// had never been.
#[test]
fn a_key_that_begins_with_a_write_at_an_offset_is_one_record() {
    for (offset, len) in [(1, 1), (5, 100), (0, 3), (20_000, 10), (7, 300_000)] {
        let mut old = Old::new(0, 1);
        let key = old.store.key(0, b"key");
        assert_eq!(old.store.write_at(key, offset, &vec![b'x'; len], NOW), offset + len);
        let left = Left { shard: 0, snapshot: None, log: old.log(), end: Lsn(u64::MAX) };
        let mut records = Vec::new();
        left.records(Lsn(0), |shown| {
            let lengths = shown.iter().map(|(_, record)| match record {
                Record::Set { value, .. } => value.len(),
                other => panic!("{other:?}"),
            });
            records.extend(lengths);
        });
        assert_eq!(records, [offset + len], "at {offset}");
    }
}
