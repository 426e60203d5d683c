//! The disk under the shards of a world: their logs, and snapshots that are begun at random moments and whose blocks come
//! back late and in any order.
//!
//! What a snapshot must have is known from the log: all its records up to the base, redone by the plainest code possible. So
//! the two ways in which a state comes to the disk judge each other.

use std::collections::BTreeMap;

use torc_engine::id::Millis;
use torc_engine::log::{Expected, FsyncPolicy, LogStart, Lsn, Record, Replay, Segment};
use torc_engine::shard::Shard;
use torc_engine::snapshot::{Block, Loader, PAGE_BYTES};
use torc_engine::store::{Key, KeyspaceId, SnapshotProgress, SnapshotRefused, Store};

use crate::random::Random;
use crate::shards::Shards;

const DATABASE: [u8; 16] = [7; 16];
const SEGMENT_BYTES: u64 = 1 << 20;
/// No expiry time is before this.
const BEFORE_ALL: Millis = Millis(1);

/// Keyspace and key to value, expiry time (0: never) and version.
type Content = BTreeMap<(u32, Vec<u8>), (Vec<u8>, u64, Option<u64>)>;

/// What became of the snapshots.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SnapshotCounts {
    pub finished: u64,
    pub aborted: u64,
    pub entries: u64,
    /// Times that writers had to wait.
    pub full: u64,
}

/// The disk of all shards. Its shards must log: `appendonly yes`.
pub struct Disk {
    random: Random,
    /// Steps that a block is under way, at most.
    delay_max: usize,
    shards: Vec<ShardDisk>,
    /// The number of the last snapshot that was begun.
    snapshots: u64,
    pub counts: SnapshotCounts,
    /// Whether snapshots are begun.
    pub begins: bool,
}

#[derive(Default)]
struct ShardDisk {
    segments: BTreeMap<u64, Vec<u8>>,
    /// The snapshot that runs: its number, its base, and its file so far.
    running: Option<(u64, Lsn, Vec<u8>)>,
    /// Blocks of any snapshot, and the steps at which they are written.
    under_way: Vec<(u64, Block)>,
    was_full: bool,
}

impl Disk {
    /// Begins a log on every shard.
    pub fn new(shards: &mut Shards, delay_max: usize, random: Random) -> Disk {
        let count = shards.shards.len();
        for (index, shard) in shards.shards.iter_mut().enumerate() {
            shard.journal().begin(LogStart {
                database: DATABASE,
                generation: 1,
                shard: index as u16,
                shards: count as u16,
                segment: 1,
                salt: index as u64,
                next_lsn: Lsn(1),
                last_txid: 0,
                segment_bytes: SEGMENT_BYTES,
                first_segment_bytes: SEGMENT_BYTES,
                previous: None,
            });
        }
        let disks = (0..count).map(|_| ShardDisk::default()).collect();
        Disk { random, delay_max, shards: disks, snapshots: 0, counts: SnapshotCounts::default(), begins: true }
    }

    /// What the runtime does for a shard after its turn.
    pub fn pass(&mut self, step: u64, index: usize, shards: &mut Shards) {
        let now = shards.now();
        let shard = &mut shards.shards[index];
        self.shards[index].write_log(shard, now);
        let disk = &mut self.shards[index];
        if self.begins && disk.running.is_none() && self.random.one_in(60) {
            match shard.begin_snapshot(DATABASE, self.snapshots + 1, now) {
                Ok(base) => {
                    self.snapshots += 1;
                    disk.running = Some((self.snapshots, base.base_lsn, Vec::new()));
                }
                Err(SnapshotRefused::Unsettled) => {}
                Err(SnapshotRefused::Running) => panic!("it was not known that one runs"),
            }
        }
        for _ in 0..self.random.below(4) {
            let Some(block) = shard.poll_snapshot_block() else { break };
            disk.under_way.push((step + self.random.below(self.delay_max + 1) as u64, block));
        }
        let mut at = 0;
        while at < disk.under_way.len() {
            if disk.under_way[at].0 > step {
                at += 1;
                continue;
            }
            let (_, block) = disk.under_way.swap_remove(at);
            if let Some((number, _, file)) = &mut disk.running
                && *number == block.snapshot
            {
                let (at, bytes) = (block.offset as usize, block.buffer.as_slice());
                file.resize(file.len().max(at + bytes.len()), 0);
                file[at..at + bytes.len()].copy_from_slice(bytes);
            }
            shard.handle_snapshot_block_written(block);
        }
        if self.begins && disk.running.is_some() && self.random.one_in(2_000) {
            shard.abort_snapshot();
        }
        let is_full = shard.snapshot_pending_bytes() >= torc_engine::limits::SNAPSHOT_PENDING_BYTES_MAX;
        self.counts.full += (is_full && !disk.was_full) as u64;
        disk.was_full = is_full;
        self.look(index, shard, now);
    }

    /// No blocks are under way, and no snapshot runs.
    pub fn is_at_rest(&self) -> bool {
        self.shards.iter().all(|disk| disk.running.is_none() && disk.under_way.is_empty())
    }

    /// Sees what became of a shard's snapshot, and judges it when it is complete.
    fn look(&mut self, index: usize, shard: &mut Shard, now: Millis) {
        let disk = &mut self.shards[index];
        match shard.snapshot_progress() {
            SnapshotProgress::Finished(totals) => {
                let Some((_, base, file)) = disk.running.take() else { return };
                assert_eq!(totals.bytes, file.len() as u64);
                self.counts.finished += 1;
                self.counts.entries += totals.entries;
                // All of the log up to the base, whatever the clock says.
                disk.write_log(shard, Millis(now.0 + 1_000_000));
                let wanted = disk.content_at(index, base);
                let found = loaded(&file, base);
                assert!(found == wanted, "shard {index} at {base}: {} entries, wanted {}", found.len(), wanted.len());
            }
            SnapshotProgress::Aborted => self.counts.aborted += disk.running.take().is_some() as u64,
            _ => {}
        }
    }
}

impl ShardDisk {
    fn write_log(&mut self, shard: &mut Shard, now: Millis) {
        let journal = shard.journal();
        while let Some(write) = journal.poll_write(now, FsyncPolicy::EverySec) {
            let file = self.segments.entry(write.segment).or_insert_with(|| vec![0; SEGMENT_BYTES as usize]);
            let bytes = write.buffer.as_slice();
            file[write.offset as usize..][..bytes.len()].copy_from_slice(bytes);
            journal.handle_written(Ok(write.sync), write.buffer);
            while journal.poll_sync(now, FsyncPolicy::EverySec).is_some() {
                journal.handle_synced(Ok(()));
            }
        }
    }

    /// What the records of the log up to `base` make.
    fn content_at(&self, index: usize, base: Lsn) -> Content {
        let segments: Vec<Segment<'_>> =
            self.segments.iter().map(|(&segment, bytes)| Segment { generation: 1, segment, bytes }).collect();
        let expected = Expected { database: DATABASE, shard: index as u16, base: Lsn(0) };
        let mut replay = Replay::new(expected, &segments);
        let mut model = LogModel::new();
        while replay
            .step(|records| records.iter().filter(|(lsn, _)| *lsn <= base).for_each(|(_, record)| model.redo(record)))
            .expect("a sound log")
        {}
        assert!(replay.end().last_lsn >= base, "the log has not come to the base");
        model.content
    }
}

/// A state made of records.
struct LogModel {
    /// By number of the database.
    keyspaces: Vec<u32>,
    content: Content,
}

impl LogModel {
    fn new() -> LogModel {
        let store = Store::new(torc_engine::limits::DATABASES_MAX, [0; 4], false);
        LogModel {
            keyspaces: (0..store.databases()).map(|db| store.keyspace_id(db as u8).0).collect(),
            content: Content::new(),
        }
    }

    fn redo(&mut self, record: &Record<'_>) {
        let place = |keyspace: KeyspaceId, key: &[u8]| (keyspace.0, key.to_vec());
        match *record {
            Record::Set { keyspace, key, value, expire_ms, version } => {
                self.content.insert(place(keyspace, key), (value.to_vec(), expire_ms, version));
            }
            Record::Remove { keyspace, key } => drop(self.content.remove(&place(keyspace, key))),
            Record::Expire { keyspace, key, expire_ms, version } => {
                let entry = self.content.get_mut(&place(keyspace, key)).expect("what expires is there");
                (entry.1, entry.2) = (expire_ms, version);
            }
            Record::WriteAt { keyspace, key, offset, bytes, version } => {
                let entry = self.content.entry(place(keyspace, key)).or_default();
                let (offset, end) = (offset as usize, offset as usize + bytes.len());
                entry.0.resize(entry.0.len().max(end), 0);
                entry.0[offset..end].copy_from_slice(bytes);
                entry.2 = version;
            }
            Record::Layout(layout) => {
                self.keyspaces = layout.keyspaces().map(|id| id.0).collect();
                let keyspaces = &self.keyspaces;
                self.content.retain(|(keyspace, _), _| keyspaces.contains(keyspace));
            }
            Record::Transaction(_) => unreachable!("there are none yet"),
        }
    }
}

/// What a file has, loaded into an empty store and read from it again.
fn loaded(file: &[u8], base: Lsn) -> Content {
    let mut loader = Loader::new(file.first_chunk().expect("a page"), file.len() as u64).expect("a sound snapshot");
    let header = loader.header().clone();
    assert_eq!(header.base_lsn, base.0);
    let mut store = Store::new(torc_engine::limits::DATABASES_MAX, [5, 6, 7, 8], false);
    let ids: Vec<KeyspaceId> = header.keyspaces.iter().map(|keyspace| keyspace.id).collect();
    store.restore_keyspaces(&header).expect("it is empty");
    let mut keys = Vec::new();
    let read = loader.read(&file[PAGE_BYTES..], |entries| {
        keys.extend(entries.iter().map(|entry| (entry.keyspace, entry.key.to_vec())));
        store.load(entries, BEFORE_ALL, |_| true);
    });
    read.expect("a sound snapshot");
    loader.finish().expect("a complete snapshot");
    let mut content = Content::new();
    for (keyspace, bytes) in keys {
        let db = ids.iter().position(|id| *id == keyspace).expect("its keyspace") as u8;
        let key = Key { db, hash: store.hash(&bytes), bytes: &bytes };
        let entry = store.peek(key, BEFORE_ALL).expect("it was loaded");
        let value = (entry.value().bytes().to_vec(), entry.expire_ms(), entry.version());
        assert!(content.insert((keyspace.0, bytes), value).is_none(), "saved twice");
    }
    content
}
