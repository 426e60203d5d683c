//! Target `log`: a log is written, crashes, and is damaged. What comes out is a beginning of what went in, with all that was
//! durable, or damage that durable bytes have.

use crate::fuzz::Input;
use crate::log::format::{BatchHeader, PAGE_BYTES};
use crate::log::record::Reader;
use crate::log::{Damage, Effects, End, Expected, FsyncPolicy, Journal, Layout, Lsn, Record, Replay, Segment, Tail};
use crate::store::KeyspaceId;

use super::{DATABASE, NOW, encoded, put, start, write_all};

const SEGMENTS_MAX: u64 = 4;
const SECTOR_BYTES: usize = 512;
/// The generation that is read; the one before it has left its files.
const GENERATION: u64 = 2;

/// A log, and what went into it.
struct World {
    journal: Journal,
    files: Vec<Vec<u8>>,
    /// Each change with its LSN, as one record however long.
    changes: Vec<(Lsn, Vec<u8>)>,
}

pub fn log(data: &[u8]) {
    let mut input = Input(data);
    let (flags, changes) = (input.byte(), input.byte());
    let (is_over_old_files, is_sealed, is_crashed) = (flags & 1 != 0, flags & 2 != 0, flags & 4 != 0);
    let mut world = World::new(if is_over_old_files { old_files() } else { Vec::new() });
    for _ in 0..changes {
        world.change(&mut input);
    }
    if is_sealed && !is_crashed {
        world.journal.seal();
    }
    // What is under way at the crash, of which any sectors arrive.
    let mut last_write = None;
    if is_crashed {
        last_write = world.journal.poll_write(NOW, FsyncPolicy::Always);
        if let Some(write) = &last_write {
            for (at, sector) in write.buffer.as_slice().chunks(SECTOR_BYTES).enumerate() {
                if at % 8 == 0 || input.byte() & 1 != 0 {
                    put(&mut world.files, write.segment, write.offset + (at * SECTOR_BYTES) as u64, sector);
                }
            }
        }
    } else {
        write_all(&mut world.journal, &mut world.files);
    }
    let durable = world.changes_to(world.journal.durable_lsn());
    let (count, result) = world.read(&world.files);
    let end = result.unwrap_or_else(|damage| panic!("nothing that was durable is lost: {damage}"));
    assert!(count >= durable, "{count} of {durable}");
    assert!(is_crashed || (count == world.changes.len() && end.tail == Tail::Sound && end.is_sealed == is_sealed));
    if !is_crashed {
        world.damage(&mut input, is_sealed);
    }
    drop(last_write);
}

impl World {
    fn new(files: Vec<Vec<u8>>) -> World {
        let mut journal = Journal::off();
        journal.begin(start(GENERATION));
        World { journal, files, changes: Vec::new() }
    }

    fn change(&mut self, input: &mut Input<'_>) {
        let (kind, keyspace) = (input.byte(), KeyspaceId(u32::from(input.byte())));
        if kind >= 0xe0 || self.journal.segment() > Some(SEGMENTS_MAX) {
            write_all(&mut self.journal, &mut self.files);
            return;
        }
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
    fn damage(&self, input: &mut Input<'_>, is_sealed: bool) {
        let batches = self.batches();
        let mut files = self.files.clone();
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
            files[place][at..][..len] == self.files[place][at..][..len]
        };
        let durable = batches.iter().filter(is_whole).map(|batch| batch.3).max().unwrap_or_default();
        let bytes_hit: usize = files.iter().zip(&self.files).map(|(one, other)| differing(one, other)).sum();
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

    /// Each batch of this log: its file's place, offset, length, and what it says was durable.
    fn batches(&self) -> Vec<(usize, usize, usize, Lsn)> {
        let mut batches = Vec::new();
        for (place, file) in self.files.iter().enumerate() {
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
}

fn differing(one: &[u8], other: &[u8]) -> usize {
    one.iter().zip(other).filter(|(one, other)| one != other).count()
}

/// What another log has left in the files.
fn old_files() -> Vec<Vec<u8>> {
    let (mut journal, mut files) = (Journal::off(), Vec::new());
    journal.begin(start(GENERATION - 1));
    while journal.segment() <= Some(3) {
        journal.set(KeyspaceId(0), b"stale", &[b's'; 3000], 0, None);
        write_all(&mut journal, &mut files);
    }
    files
}
