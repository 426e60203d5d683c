//! One shard's log and its snapshot, read whole, past damage too.

use std::fmt;
use std::io;

use torc_engine::id::Millis;
use torc_engine::limits::SNAPSHOT_BLOCK_BYTES_MAX;
use torc_engine::log::format::{HeaderFound, SegmentHeader};
use torc_engine::log::manifest::{Manifest, ShardManifest};
use torc_engine::log::{Expected, Lsn, Position, Record, Replay, Segment, Tail, Why};
use torc_engine::snapshot::{Cause, Damage as SnapshotDamage, Loader, PAGE_BYTES};

use crate::disk::directory::failed;
use crate::disk::{Directory, Disk, DiskError, DiskFile, SegmentId, SnapshotId};

/// A shard's log, as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    pub segments: Vec<LogSegment>,
    /// Where the snapshot ends.
    pub base_lsn: Lsn,
    /// The last record, or the base.
    pub last_lsn: Lsn,
    /// Records behind the base that can be read.
    pub records: u64,
    /// The process stopped in order.
    pub is_sealed: bool,
    pub torn: Option<Torn>,
    pub damages: Vec<Damage>,
    /// The last transaction over shards, and the latest time, that it has.
    pub last_txid: u64,
    pub wall_ms: Millis,
}

/// One file of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogSegment {
    pub id: SegmentId,
    pub bytes: u64,
    /// What its header says; None: it has none, and holds nothing that counts.
    pub first_lsn: Option<Lsn>,
    pub last_lsn: Option<Lsn>,
    pub records: u64,
    /// Its last batch is a seal.
    pub is_sealed: bool,
}

/// What a crash tore.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Torn {
    pub id: SegmentId,
    pub offset: u64,
    pub bytes: u64,
    /// The last segment that has a part of it.
    pub last_segment: u64,
}

impl Torn {
    /// Where it lies, for people.
    pub fn describe(&self) -> String {
        let Torn { id, offset, bytes, last_segment } = self;
        let here = format!("{id}, offset {offset}, {bytes} bytes");
        if *last_segment > id.number { format!("{here}, and all up to segment {last_segment}") } else { here }
    }
}

/// Something in the log that was durable and cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Damage {
    pub id: SegmentId,
    pub offset: u64,
    /// The first record that is missing, and the last that is known to have been durable; less than the first: none is.
    pub first_lsn: Lsn,
    pub last_lsn: Lsn,
    pub why: Fault,
    /// The last record that is missing if what follows is read; None: nothing follows.
    pub skipped_to: Option<Lsn>,
}

/// What is wrong with a file of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The manifest needs it, and it is not there.
    Missing,
    Damaged(Why),
}

impl fmt::Display for Fault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Missing => write!(out, "the file is missing"),
            Fault::Damaged(why) => why.fmt(out),
        }
    }
}

/// Who is shown what a log holds.
pub trait LogReader {
    /// Changes in order; `is_behind_damage`: something before them is missing.
    fn records(&mut self, records: &[(Lsn, Record<'_>)], is_behind_damage: bool);
    /// A batch is read.
    fn stepped(&mut self) -> Result<(), DiskError>;
}

/// Nobody.
impl LogReader for () {
    fn records(&mut self, _records: &[(Lsn, Record<'_>)], _is_behind_damage: bool) {}

    fn stepped(&mut self) -> Result<(), DiskError> {
        Ok(())
    }
}

/// Reads a shard's log: the segments of `files`, in order, behind the base of `row`. That the first one, which `row` names, is
/// missing is damage before all others.
pub fn read_log<M: AsRef<[u8]>>(
    manifest: &Manifest,
    shard: u16,
    row: &ShardManifest,
    files: &[(SegmentId, M)],
    reader: &mut impl LogReader,
) -> Result<Log, DiskError> {
    let segments: Vec<Segment<'_>> = files
        .iter()
        .map(|(id, bytes)| Segment { generation: id.generation, segment: id.number, bytes: bytes.as_ref() })
        .collect();
    let mut notes: Vec<LogSegment> = files.iter().map(|(id, bytes)| about(*id, bytes.as_ref())).collect();
    let first = SegmentId { shard, generation: row.first_generation, number: row.first_segment };
    let is_first_missing = row.has_log() && !files.iter().any(|(id, _)| *id == first);
    let mut damages = Vec::new();
    if is_first_missing {
        let (first_lsn, last_lsn) = (Lsn(row.base_lsn.0 + 1), Lsn(0));
        damages.push(Damage { id: first, offset: 0, first_lsn, last_lsn, why: Fault::Missing, skipped_to: None });
    }
    let mut replay = Replay::new(Expected { database: manifest.database, shard, base: row.base_lsn }, &segments);
    let mut before: Option<Position> = None;
    let end = loop {
        let is_behind_damage = !damages.is_empty();
        match replay.step(|records| reader.records(records, is_behind_damage)) {
            Ok(true) => {
                let now = replay.position().expect("a batch was read");
                if let ([missing], true) = (&mut damages[..], is_first_missing && before.is_none()) {
                    missing.skipped_to = Some(row.base_lsn);
                }
                note(&mut notes, before, now);
                before = Some(now);
                reader.stepped()?;
            }
            Ok(false) => break replay.end(),
            Err(damage) => {
                let skipped = replay.skip_damage().map(|(_, last)| last);
                if let ([missing], true, Why::Start | Why::Header) =
                    (&mut damages[..], is_first_missing && before.is_none(), damage.why)
                {
                    // That is how the missing file shows.
                    (missing.last_lsn, missing.skipped_to) = (damage.last, skipped);
                    before = replay.position();
                    continue;
                }
                damages.push(Damage {
                    id: SegmentId { shard, generation: damage.generation, number: damage.segment },
                    offset: damage.offset,
                    first_lsn: damage.first,
                    last_lsn: damage.last,
                    why: Fault::Damaged(damage.why),
                    skipped_to: skipped,
                });
                before = replay.position();
            }
        }
    };
    let torn = match end.tail {
        Tail::Sound => None,
        Tail::Torn(tail) => Some(Torn {
            id: SegmentId { shard, generation: tail.generation, number: tail.segment },
            offset: tail.offset,
            bytes: tail.bytes,
            last_segment: tail.last_segment,
        }),
    };
    Ok(Log {
        segments: notes,
        base_lsn: row.base_lsn,
        last_lsn: end.last_lsn,
        records: end.changes,
        is_sealed: end.is_sealed,
        torn,
        damages,
        last_txid: end.last_txid,
        wall_ms: end.wall_ms,
    })
}

fn about(id: SegmentId, bytes: &[u8]) -> LogSegment {
    let first_lsn = match SegmentHeader::parse(bytes) {
        HeaderFound::Valid(header) if (header.generation, header.segment) == (id.generation, id.number) => {
            Some(Lsn(header.first_lsn))
        }
        _ => None,
    };
    LogSegment { id, bytes: bytes.len() as u64, first_lsn, last_lsn: None, records: 0, is_sealed: false }
}

/// Notes a batch with the segment that it is in.
fn note(notes: &mut [LogSegment], before: Option<Position>, now: Position) {
    let is_here = |note: &&mut LogSegment| (note.id.generation, note.id.number) == (now.generation, now.segment);
    let Some(note) = notes.iter_mut().find(is_here) else { return };
    let is_same = |before: &Position| (before.generation, before.segment) == (now.generation, now.segment);
    let begin = match before.filter(is_same) {
        Some(before) => before.last_lsn.0,
        None => note.first_lsn.map_or(now.last_lsn.0, |first| first.0.saturating_sub(1)),
    };
    let records = now.last_lsn.0.saturating_sub(begin);
    note.records += records;
    if records > 0 {
        note.first_lsn = note.first_lsn.or(Some(Lsn(begin + 1)));
        note.last_lsn = Some(now.last_lsn);
    }
    note.is_sealed = now.is_sealed;
}

/// A shard's part of a snapshot, as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    pub id: SnapshotId,
    pub bytes: u64,
    /// Entries in it that were read before the damage, if there is any.
    pub entries: u64,
    /// As many as its header says; 0 if that is damaged.
    pub expected: u64,
    pub damage: Option<SnapshotDamaged>,
}

/// Where a snapshot is damaged, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotDamaged {
    pub offset: u64,
    pub why: String,
}

/// Reads the snapshot of a shard, if it has one. A file that is missing is damaged from its beginning on.
pub fn read_snapshot<D: Disk>(
    directory: &Directory<D>,
    manifest: &Manifest,
    shard: u16,
    row: &ShardManifest,
) -> Result<Option<Snapshot>, DiskError> {
    let Some(id) = row.snapshot.map(|id| SnapshotId { id, shard }) else { return Ok(None) };
    let path = directory.snapshot_path(id);
    let mut found = Snapshot { id, bytes: 0, entries: 0, expected: 0, damage: None };
    let (file, bytes) = match directory.open_snapshot(id) {
        Err(DiskError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            found.damage = Some(SnapshotDamaged { offset: 0, why: "the file is missing".into() });
            return Ok(Some(found));
        }
        opened => opened?,
    };
    found.bytes = bytes;
    let damaged =
        |damage: SnapshotDamage| Some(SnapshotDamaged { offset: damage.offset, why: damage.cause.to_string() });
    let mut page = [0; PAGE_BYTES];
    if file.read_full_at(&mut page, 0).map_err(failed("read", &path))? < PAGE_BYTES {
        found.damage = damaged(SnapshotDamage { offset: 0, cause: Cause::Truncated });
        return Ok(Some(found));
    }
    let mut loader = match Loader::new(&page, bytes) {
        Ok(loader) => loader,
        Err(damage) => {
            found.damage = damaged(damage);
            return Ok(Some(found));
        }
    };
    let header = loader.header();
    found.expected = header.entries();
    let of = (header.database, header.snapshot, header.shard, Lsn(header.base_lsn));
    if of != (manifest.database, id.id, shard, row.base_lsn) {
        let why = "it is not the snapshot that the manifest names: another database, id, shard or last record".into();
        found.damage = Some(SnapshotDamaged { offset: 0, why });
        return Ok(Some(found));
    }
    let mut buffer = vec![0; SNAPSHOT_BLOCK_BYTES_MAX];
    let (mut kept, mut at) = (0, PAGE_BYTES as u64);
    let result = loop {
        let read = file.read_full_at(&mut buffer[kept..], at).map_err(failed("read", &path))?;
        at += read as u64;
        let have = kept + read;
        match loader.read(&buffer[..have], |_| {}) {
            Ok(taken) => {
                buffer.copy_within(taken..have, 0);
                kept = have - taken;
            }
            Err(damage) => break Err(damage),
        }
        if read == 0 {
            break Ok(());
        }
    };
    found.entries = loader.progress().entries;
    found.damage = result.and_then(|()| loader.finish().map(drop)).err().and_then(damaged);
    Ok(Some(found))
}
