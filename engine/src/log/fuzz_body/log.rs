//! Target `log`: a log is written, crashes, and is damaged. What comes out is a beginning of what went in, with all that was
//! durable, or damage that durable bytes have.

use std::collections::VecDeque;
use std::sync::LazyLock;

use crate::fuzz::Input;
use crate::id::Millis;
use crate::log::format::{BatchHeader, PAGE_BYTES};
use crate::log::record::Reader;
use crate::log::{
    Damage, Effects, End, Expected, FsyncPolicy, Journal, Layout, Lsn, Record, Replay, Segment, Tail, Write,
};
use crate::store::KeyspaceId;

use super::{DATABASE, FIRST_SEGMENT_BYTES, SEGMENT_BYTES, encoded, start, write_all};

const SEGMENTS_MAX: u64 = 4;
const SECTOR_BYTES: usize = 512;
/// The generation that is read; the one before it has left its files.
const GENERATION: u64 = 2;

/// A file: what is on the disk, and what was written since the last sync.
struct File {
    durable: Vec<u8>,
    unsynced: Vec<(usize, Vec<u8>)>,
}

impl File {
    /// What is there if of what is not synced those sectors arrive which `keep` is true for.
    fn content(&self, mut keep: impl FnMut() -> bool) -> Vec<u8> {
        let mut bytes = self.durable.clone();
        for (offset, written) in &self.unsynced {
            for (at, sector) in (*offset..).step_by(SECTOR_BYTES).zip(written.chunks(SECTOR_BYTES)) {
                if keep() {
                    bytes[at..][..sector.len()].copy_from_slice(sector);
                }
            }
        }
        bytes
    }

    /// A sync that was begun when so many writes were through has ended.
    fn sync_first(&mut self, writes: usize) {
        for (offset, bytes) in self.unsynced.drain(..writes.min(self.unsynced.len())) {
            self.durable[offset..][..bytes.len()].copy_from_slice(&bytes);
        }
    }
}

/// A log, its files, and what went into it.
struct World {
    journal: Journal,
    now: Millis,
    policy: FsyncPolicy,
    /// What files hold before they are written.
    old: Vec<Vec<u8>>,
    files: Vec<File>,
    in_flight: VecDeque<Write>,
    /// The segment that is being synced beside writes, and how many of its writes that makes durable.
    side_sync: Option<(u64, usize)>,
    /// Each change with its LSN, as one record however long.
    changes: Vec<(Lsn, Vec<u8>)>,
}

/// The first byte chooses how it ends, the second is the number of steps, which follow; then which sectors arrive, or what is
/// overwritten.
pub fn log(data: &[u8]) {
    let mut input = Input(data);
    let (flags, steps) = (input.byte(), input.byte());
    let (is_over_old_files, is_sealed, is_crashed) = (flags & 1 != 0, flags & 2 != 0, flags & 4 != 0);
    let mut world = World::new(if is_over_old_files { old_files() } else { Vec::new() });
    for _ in 0..steps {
        world.step(&mut input);
    }
    if is_crashed {
        let files = world.content(|| input.byte() & 1 != 0);
        let durable = world.changes_to(world.journal.durable_lsn());
        let (count, result) = world.read(&files);
        let end = result.unwrap_or_else(|damage| panic!("nothing that was durable is lost: {damage}"));
        assert!(count >= durable, "{count} of {durable}");
        assert!(end.last_lsn >= world.journal.durable_lsn());
        return;
    }
    if is_sealed {
        world.journal.seal();
    }
    world.policy = FsyncPolicy::Always;
    world.settle();
    assert_eq!(world.journal.durable_lsn(), world.journal.last_lsn());
    let files = world.content(|| unreachable!("all is synced"));
    let (count, result) = world.read(&files);
    let end = result.unwrap_or_else(|damage| panic!("nothing is lost: {damage}"));
    assert_eq!((count, end.tail, end.is_sealed), (world.changes.len(), Tail::Sound, is_sealed));
    world.damage(&files, &mut input, is_sealed);
}

impl World {
    fn new(old: Vec<Vec<u8>>) -> World {
        let mut journal = Journal::off();
        journal.begin(start(GENERATION));
        World {
            journal,
            now: Millis(1_000_000),
            policy: FsyncPolicy::Always,
            old,
            files: Vec::new(),
            in_flight: VecDeque::new(),
            side_sync: None,
            changes: Vec::new(),
        }
    }

    /// A change, or something that the disk or the clock does.
    fn step(&mut self, input: &mut Input<'_>) {
        match input.byte() {
            0xff => self.settle(),
            0xe0..=0xe3 => drop(self.begin_write()),
            0xe4..=0xe7 => drop(self.end_write()),
            0xe8..=0xeb => drop(self.begin_sync()),
            0xec..=0xef => drop(self.end_sync()),
            0xf0..=0xf3 => self.now.0 += u64::from(input.byte()) * 10,
            choice @ 0xf4..=0xfe => {
                self.policy =
                    [FsyncPolicy::Always, FsyncPolicy::EverySec, FsyncPolicy::No][usize::from(choice - 0xf4) % 3];
            }
            kind if self.journal.segment() <= Some(SEGMENTS_MAX) => self.change(kind, input),
            _ => {}
        }
    }

    /// Does what is to be done at this time, until there is nothing.
    fn settle(&mut self) {
        while self.end_sync() || self.begin_sync() || self.begin_write() || self.end_write() {}
    }

    fn begin_write(&mut self) -> bool {
        let Some(write) = self.journal.poll_write(self.now, self.policy) else { return false };
        let bytes = write.buffer.as_slice();
        while self.files.len() < write.segment as usize {
            let file_bytes = if self.files.is_empty() { FIRST_SEGMENT_BYTES } else { SEGMENT_BYTES };
            let mut durable = self.old.pop().unwrap_or_default();
            durable.resize(file_bytes, 0);
            self.files.push(File { durable, unsynced: Vec::new() });
        }
        if !bytes.is_empty() {
            let file = &mut self.files[write.segment as usize - 1];
            assert!(write.offset as usize + bytes.len() <= file.durable.len());
            file.unsynced.push((write.offset as usize, bytes.to_vec()));
        }
        self.in_flight.push_back(write);
        true
    }

    /// Writes to a segment that are through and not synced.
    fn ended_writes(&self, segment: u64) -> usize {
        let begun = self.in_flight.iter().filter(|write| write.segment == segment && !write.buffer.is_empty()).count();
        self.files[segment as usize - 1].unsynced.len() - begun
    }

    fn end_write(&mut self) -> bool {
        let Some(write) = self.in_flight.pop_front() else { return false };
        if write.sync {
            let ended = self.ended_writes(write.segment);
            self.files[write.segment as usize - 1].sync_first(ended);
        }
        self.journal.handle_written(Ok(write.sync), write.buffer);
        true
    }

    fn begin_sync(&mut self) -> bool {
        let Some(segment) = self.journal.poll_sync(self.now, self.policy) else { return false };
        assert!(self.side_sync.is_none(), "one at a time");
        self.side_sync = Some((segment, self.ended_writes(segment)));
        true
    }

    fn end_sync(&mut self) -> bool {
        let Some((segment, writes)) = self.side_sync.take() else { return false };
        self.files[segment as usize - 1].sync_first(writes);
        self.journal.handle_synced(Ok(()));
        true
    }

    /// The files, and of what is not synced those sectors which `keep` is true for.
    fn content(&self, mut keep: impl FnMut() -> bool) -> Vec<Vec<u8>> {
        self.files.iter().map(|file| file.content(&mut keep)).collect()
    }

    fn change(&mut self, kind: u8, input: &mut Input<'_>) {
        let keyspace = KeyspaceId(u32::from(input.byte()));
        let key = input.prefixed();
        match kind % 8 {
            0 => self.log(Record::Remove { keyspace, key }),
            1 => self.log(Record::Expire { keyspace, key, expire_ms: input.u64(), version: None }),
            2 => {
                let (offset, bytes, version) = (input.u64(), input.prefixed(), Some(input.u64()));
                self.log(Record::WriteAt { keyspace, key, offset, bytes, version });
            }
            3 => {
                let ids = Layout::encode([KeyspaceId(1 + keyspace.0), KeyspaceId(0)]);
                self.log(Record::Layout(Layout::new(input.u64(), 257, &ids)));
            }
            4 => {
                let value = vec![input.byte(); usize::from(input.byte()) * 80];
                self.log(Record::Set { keyspace, key, value: &value, expire_ms: 0, version: None });
            }
            5 => {
                let mut parts = [Effects::default(), Effects::default()];
                parts[0].push(&Record::Remove { keyspace, key });
                parts[1].push(&Record::Set { keyspace, key, value: input.prefixed(), expire_ms: 0, version: Some(1) });
                let joined = Effects::join([(0, &parts[0]), (300, &parts[1])]);
                self.log(joined.transaction(self.journal.last_txid() + 1));
            }
            _ => {
                let (value, expire_ms, version) = (input.prefixed(), input.u64(), Some(input.u64()));
                self.log(Record::Set { keyspace, key, value, expire_ms, version });
            }
        }
    }

    fn log(&mut self, record: Record<'_>) {
        self.journal.record(&record);
        self.changes.push((self.journal.last_lsn(), encoded(&record)));
    }

    /// How many changes have an LSN up to this.
    fn changes_to(&self, lsn: Lsn) -> usize {
        self.changes.partition_point(|(logged, _)| *logged <= lsn)
    }

    /// Reads files, which must give a beginning of what was logged: how many changes, and the end.
    fn read(&self, files: &[Vec<u8>]) -> (usize, Result<End, Damage>) {
        let segments: Vec<Segment<'_>> =
            files.iter().zip(1..).map(|(bytes, segment)| Segment { generation: GENERATION, segment, bytes }).collect();
        let mut replay = Replay::new(Expected { database: DATABASE, shard: 0, base: Lsn(0) }, &segments);
        let mut count = 0;
        let result = loop {
            let step = replay.step(|records| {
                for (lsn, record) in records {
                    let (logged_lsn, logged) = self.changes.get(count).expect("no more than was logged");
                    let logged = Reader(logged).record().and_then(|raw| raw.whole());
                    assert_eq!((lsn, Some(record)), (logged_lsn, logged.as_ref()));
                    count += 1;
                }
            });
            match step {
                Ok(true) => {}
                Ok(false) => break Ok(replay.end()),
                Err(damage) => break Err(damage),
            }
        };
        (count, result)
    }

    /// Overwrites bytes, but for checksums, so that what is damaged cannot be right by accident.
    fn damage(&self, sound: &[Vec<u8>], input: &mut Input<'_>, is_sealed: bool) {
        let mut files = sound.to_vec();
        while !input.is_empty() {
            let (place, at) = (input.byte() as usize % files.len(), input.u16() as usize);
            let bytes = input.bytes(1 + at % 5);
            let file = &mut files[place];
            for (byte, at) in bytes.iter().zip(at..) {
                if at < file.len() && !(4..12).contains(&(at % PAGE_BYTES)) {
                    file[at] = *byte;
                }
            }
        }
        // What is known to be durable by batches that are not hit.
        let is_whole = |&&(place, at, len, _): &&(usize, usize, usize, Lsn)| {
            files[place][at..][..len] == sound[place][at..][..len]
        };
        let batches = batches(sound);
        let durable = batches.iter().filter(is_whole).map(|batch| batch.3).max().unwrap_or_default();
        let bytes_hit: usize = files.iter().zip(sound).map(|(one, other)| differing(one, other)).sum();
        let (count, result) = self.read(&files);
        match result {
            Ok(end) => {
                assert!(count >= self.changes_to(durable), "{durable} was durable: {end:?}");
                // Of the last batch more than one mark may be gone, and then it is taken for what an earlier use has left.
                let is_told = bytes_hit > 1 || end.tail != Tail::Sound;
                assert!(is_told || count == self.changes.len(), "nobody is told: {end:?}");
                assert!(!is_sealed || !end.is_sealed || count == self.changes.len());
            }
            Err(damage) => {
                assert!(bytes_hit > 0, "{damage}");
                assert!(damage.first.0 > self.changes[..count].last().map_or(0, |(lsn, _)| lsn.0));
            }
        }
    }
}

/// Each batch of this log: its file's place, offset, length, and what it says was durable.
fn batches(files: &[Vec<u8>]) -> Vec<(usize, usize, usize, Lsn)> {
    let mut batches = Vec::new();
    for (place, file) in files.iter().enumerate() {
        for at in (0..file.len()).step_by(PAGE_BYTES) {
            if let Some(header) = BatchHeader::parse(&file[at..])
                && (header.owner.generation, header.owner.segment) == (GENERATION, place as u64 + 1)
            {
                batches.push((place, at, header.batch_bytes(), Lsn(header.durable_lsn)));
            }
        }
    }
    batches
}

fn differing(one: &[u8], other: &[u8]) -> usize {
    one.iter().zip(other).filter(|(one, other)| one != other).count()
}

/// What another log has left in the files.
fn old_files() -> Vec<Vec<u8>> {
    static FILES: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
        let (mut journal, mut files) = (Journal::off(), Vec::new());
        journal.begin(start(GENERATION - 1));
        while journal.segment() <= Some(3) {
            journal.set(KeyspaceId(0), b"stale", &[b's'; 3000], 0, None);
            write_all(&mut journal, &mut files);
        }
        files
    });
    FILES.clone()
}
