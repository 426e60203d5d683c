//! Logs are written to files in memory that know what is synced, damaged in every way there is, and read again. What comes
//! out must be a beginning of what went in, with all that was durable, or a refusal that durable bytes deserve.

mod crashes;
mod damage;
mod journal;
mod lives;

use std::collections::{BTreeMap, VecDeque};

use super::format::{BATCH_HEADER_BYTES, BatchHeader};
use super::record::Reader;
use super::{
    Damage, Effects, End, Expected, FsyncPolicy, Journal, Layout, LogStart, Lsn, Record, Replay, Segment, Tail, Write,
};
use crate::id::Millis;
use crate::store::KeyspaceId;

const DATABASE: [u8; 16] = *b"0123456789abcdef";
const SECTOR_BYTES: usize = 512;

/// A log with small segments: a header and two pages, then twice as long.
fn start(generation: u64, first_lsn: u64) -> LogStart {
    LogStart {
        database: DATABASE,
        generation,
        shard: 3,
        shards: 4,
        segment: 1,
        salt: 0x5a17_0000 + generation,
        next_lsn: Lsn(first_lsn),
        last_txid: 0,
        segment_bytes: 5 * 4096,
        first_segment_bytes: 3 * 4096,
        previous: None,
    }
}

/// A file: what is on the disk, and what was written since the last sync.
#[derive(Clone, Default)]
struct File {
    durable: Vec<u8>,
    unsynced: Vec<(usize, Vec<u8>)>,
    /// Writes that are synced.
    synced: usize,
}

impl File {
    fn writes(&self) -> usize {
        self.synced + self.unsynced.len()
    }

    /// A sync that was begun when so many writes were through has ended.
    fn sync_first(&mut self, writes: usize) {
        for (offset, bytes) in self.unsynced.drain(..writes.saturating_sub(self.synced)) {
            self.durable[offset..][..bytes.len()].copy_from_slice(&bytes);
            self.synced += 1;
        }
    }

    /// What is there after a crash that kept the sectors of unsynced writes which `keep` is true for.
    fn crashed(&self, mut keep: impl FnMut() -> bool) -> Vec<u8> {
        let mut bytes = self.durable.clone();
        for (offset, written) in &self.unsynced {
            for (at, sector) in written.chunks(SECTOR_BYTES).enumerate() {
                if keep() {
                    bytes[offset + at * SECTOR_BYTES..][..SECTOR_BYTES].copy_from_slice(sector);
                }
            }
        }
        bytes
    }
}

type Files = BTreeMap<(u64, u64), File>;

/// A log with its files, and what went into it.
struct World {
    journal: Journal,
    start: LogStart,
    files: Files,
    /// What files hold before they are written; zeros if there is nothing.
    recycled: Vec<Vec<u8>>,
    /// Writes that are begun, the oldest first.
    in_flight: VecDeque<Write>,
    /// Each change with its LSN, encoded as one record however long.
    changes: Vec<(Lsn, Vec<u8>)>,
    now: Millis,
}

impl World {
    fn new(start: LogStart) -> World {
        let mut journal = Journal::off();
        journal.begin(start);
        World {
            journal,
            start,
            files: Files::new(),
            recycled: Vec::new(),
            in_flight: VecDeque::new(),
            changes: Vec::new(),
            now: Millis(1_000_000),
        }
    }

    fn log(&mut self, record: Record<'_>) {
        let journal = &mut self.journal;
        let mut encoded = Effects::default();
        encoded.push(&record);
        match record {
            Record::Set { keyspace, key, value, expire_ms, version } => {
                journal.set(keyspace, key, value, expire_ms, version);
            }
            Record::Remove { keyspace, key } => journal.remove(keyspace, key),
            Record::Expire { keyspace, key, expire_ms, version } => journal.expire(keyspace, key, expire_ms, version),
            Record::WriteAt { keyspace, key, offset, bytes, version } => {
                journal.write_at(keyspace, key, offset, bytes, version);
            }
            Record::Layout(layout) => journal.layout(layout),
            Record::Transaction(transaction) => {
                let parts: Vec<(u16, Effects)> = transaction
                    .participants()
                    .map(|(shard, records)| {
                        let mut effects = Effects::default();
                        records.for_each(|record| effects.push(&record));
                        (shard, effects)
                    })
                    .collect();
                let joined = Effects::join(parts.iter().map(|(shard, effects)| (*shard, effects)));
                journal.transaction(transaction.txid, &joined);
            }
        }
        self.changes.push((self.journal.last_lsn(), encoded.bytes().to_vec()));
    }

    fn set(&mut self, key: &str, value: &[u8]) {
        self.log(Record::Set { keyspace: KeyspaceId(0), key: key.as_bytes(), value, expire_ms: 0, version: None });
    }

    /// Begins a sync beside writes, if one is due. Gives the segment, and how many writes it makes durable.
    fn begin_sync(&mut self, policy: FsyncPolicy) -> Option<(u64, usize)> {
        let segment = self.journal.poll_sync(self.now, policy)?;
        let begun = self.begun_writes(segment);
        // A snapshot may have made it superfluous meanwhile.
        let writes = self.files.get(&(self.start.generation, segment)).map_or(begun, |file| file.writes());
        Some((segment, writes - begun))
    }

    /// Writes to a segment that have not ended.
    fn begun_writes(&self, segment: u64) -> usize {
        self.in_flight.iter().filter(|write| write.segment == segment && !write.buffer.is_empty()).count()
    }

    fn end_sync(&mut self, (segment, writes): (u64, usize)) {
        // A snapshot may have made it superfluous meanwhile.
        if let Some(file) = self.files.get_mut(&(self.start.generation, segment)) {
            file.sync_first(writes);
        }
        self.journal.handle_synced(Ok(()));
    }

    /// Performs the next write, or sync, if there is one, after those that are begun.
    fn write(&mut self, policy: FsyncPolicy) -> bool {
        let sync = self.begin_sync(policy);
        if let Some(sync) = sync {
            self.end_sync(sync);
        }
        let has_begun = self.begin_write(policy);
        while self.end_write() {}
        has_begun || sync.is_some()
    }

    /// Begins the next write, if there is one.
    fn begin_write(&mut self, policy: FsyncPolicy) -> bool {
        let Some(write) = self.journal.poll_write(self.now, policy) else { return false };
        self.put(&write);
        self.in_flight.push_back(write);
        true
    }

    /// Ends the oldest write, if there is one.
    fn end_write(&mut self) -> bool {
        let Some(write) = self.in_flight.pop_front() else { return false };
        if write.sync {
            let behind = self.begun_writes(write.segment);
            if let Some(file) = self.files.get_mut(&(self.start.generation, write.segment)) {
                file.sync_first(file.writes() - behind);
            }
        }
        self.journal.handle_written(Ok(write.sync), write.buffer);
        true
    }

    /// Has the file take a write, not synced.
    fn put(&mut self, write: &Write) {
        assert!(self.journal.poll_write(self.now, FsyncPolicy::Always).is_none(), "what is to be durable waits");
        let bytes = write.buffer.as_slice();
        assert!(bytes.is_empty() || (bytes.as_ptr() as usize).is_multiple_of(4096));
        assert!(bytes.len().is_multiple_of(4096) && write.offset.is_multiple_of(4096));
        for at in (0..bytes.len()).step_by(4096) {
            if let Some(batch) = BatchHeader::parse(&bytes[at..]) {
                let used = BATCH_HEADER_BYTES + batch.payload_bytes as usize;
                let padding = &bytes[at..][used..batch.batch_bytes()];
                assert!(padding.iter().all(|&byte| byte == 0));
            }
        }
        let segment_bytes = self.start.segment_bytes(write.segment);
        assert!(write.offset + bytes.len() as u64 <= segment_bytes);
        let recycled = &mut self.recycled;
        let file = self.files.entry((self.start.generation, write.segment)).or_insert_with(|| {
            let mut durable = recycled.pop().unwrap_or_default();
            durable.resize(segment_bytes as usize, 0);
            File { durable, ..File::default() }
        });
        if !bytes.is_empty() {
            file.unsynced.push((write.offset as usize, bytes.to_vec()));
        }
    }

    /// Performs writes until there is nothing to do at this time.
    fn settle(&mut self, policy: FsyncPolicy) {
        while self.write(policy) {}
    }

    fn seal(&mut self) {
        self.journal.seal();
        self.settle(FsyncPolicy::No);
        assert!(self.journal.is_sealed());
    }

    fn expected(&self) -> Expected {
        Expected { database: DATABASE, shard: self.start.shard, base: Lsn(0) }
    }

    /// The files as they are without a crash.
    fn contents(&self) -> Vec<(u64, u64, Vec<u8>)> {
        self.files.iter().map(|(&(generation, segment), file)| (generation, segment, file.crashed(|| true))).collect()
    }

    /// Reads `contents` and checks that what comes out is a beginning of what went in: how many changes, and the end.
    fn read(&self, contents: &[(u64, u64, Vec<u8>)]) -> (usize, Result<End, Damage>) {
        read(self.expected(), contents, &self.changes)
    }
}

/// Reads `contents`, which must give a beginning of `changes` behind the base.
fn read(
    expected: Expected,
    contents: &[(u64, u64, Vec<u8>)],
    changes: &[(Lsn, Vec<u8>)],
) -> (usize, Result<End, Damage>) {
    let segments: Vec<Segment<'_>> = contents
        .iter()
        .map(|(generation, segment, bytes)| Segment { generation: *generation, segment: *segment, bytes })
        .collect();
    let before = changes.partition_point(|(lsn, _)| *lsn <= expected.base);
    let mut rest = changes[before..].iter();
    let mut replay = Replay::new(expected, &segments);
    let mut count = 0;
    let result = loop {
        let step = replay.step(|records| {
            for (lsn, record) in records {
                let (logged_lsn, logged) = rest.next().expect("no more than was logged");
                let logged = Reader(logged).record().and_then(|raw| raw.whole());
                assert_eq!((lsn, Some(record)), (logged_lsn, logged.as_ref()));
                count += 1;
            }
        });
        match step {
            // Nothing of what is behind it is missed when it goes on.
            Ok(true) => {
                let paused = replay.pause();
                assert!(paused.segments_done() < segments.len());
                replay = Replay::resume(paused, &segments);
            }
            Ok(false) => break Ok(replay.end()),
            Err(damage) => break Err(damage),
        }
    };
    (before + count, result)
}

fn is_sound(result: &Result<End, Damage>) -> bool {
    matches!(result, Ok(End { tail: Tail::Sound, .. }))
}
