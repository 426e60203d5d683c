//! Makes a damaged directory one that a server opens, and says what that costs.
//!
//! A log has no gaps, so it cannot just be cut: later segments name the checksum of what came before them. What can be read of
//! a damaged shard is therefore written again, as a log of a new generation, and a manifest then makes that count:
//!
//! 1. read everything, and find out what would be lost;
//! 2. copy what is to be replaced, and what came after the manifest that counts, to `repair-<n>`, and sync that;
//! 3. write the new log; nobody looks at it, as no manifest has its generation;
//! 4. switch to a manifest that begins there;
//! 5. remove the old log, of which there is the copy.
//!
//! A crash before 4 leaves what was there, one after it a repaired directory with files that nobody needs. Shards that are
//! sound are not touched.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use thiserror::Error;
use torc_engine::id::Millis;
use torc_engine::log::manifest::{Manifest, ShardManifest};
use torc_engine::log::{FsyncPolicy, Journal, LogStart, Lsn, Record, Why};

use super::examine::{fallback, older};
use super::log::{Damage, Fault, Log, LogReader, Torn, read_log, read_snapshot};
use crate::disk::directory::failed;
use crate::disk::files::Open;
use crate::disk::log::SegmentSizes;
use crate::disk::names::{self, CURRENT};
use crate::disk::{Access, Directory, Disk, DiskError, DiskFile, PoolSize, Segment, SegmentId, SnapshotId};
use crate::limits::{REPAIR_COPIES_MAX, REPAIR_KEYS_SHOWN, SEGMENT_FILL_CHUNK};

/// Files that are given up are removed, not kept for later.
const NO_POOL: PoolSize = PoolSize { segment_bytes: u64::MAX, files: 0 };
const FIRST_SEGMENT: u64 = 1;

/// What is given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// All of the shard's log from the first damage on.
    Truncate,
    /// What cannot be read; what follows is kept, although it may have been made of what is missing.
    SkipBatch,
}

/// How to go about it.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub method: Method,
    /// Change nothing.
    pub is_dry: bool,
    /// Of the segments that are written.
    pub sizes: SegmentSizes,
    /// The wall clock, and a random number.
    pub now: Millis,
    pub salt: u64,
}

/// Why nothing was repaired; but for an error of the system, the directory is as it was.
#[derive(Debug, Error)]
pub enum RepairError {
    #[error(transparent)]
    Disk(#[from] DiskError),
    #[error(
        "{file} is damaged at offset {offset}: {why}. {readable} of its {expected} keys are before that, but the log alone does \
         not make up for the others, and no older manifest with a sound snapshot of shard {shard} is kept. Nothing was changed; \
         bring the directory back from a copy, or move it away to begin with nothing"
    )]
    Snapshot { shard: u16, file: SnapshotId, offset: u64, why: String, readable: u64, expected: u64 },
    #[error("{file}: {why}. That is no damage that a repair could mend; nothing was changed")]
    Foreign { file: SegmentId, why: Fault },
    #[error(
        "the copies and the new log take up to {needed} bytes in {directory}, and {available} are free. Nothing was changed; make \
         room, or copy the directory to a larger disk and repair it there"
    )]
    Space { directory: PathBuf, needed: u64, available: u64 },
}

/// What was done, or would be.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub directory: PathBuf,
    pub method: Method,
    pub is_dry: bool,
    /// Where what was replaced is kept; None: nothing was changed.
    pub copy: Option<PathBuf>,
    /// The manifest that counts now.
    pub manifest: Option<u64>,
    /// Shards that something was wrong with.
    pub shards: Vec<Mended>,
}

/// What a repair does to one shard.
#[derive(Clone, Debug)]
pub struct Mended {
    pub shard: u16,
    /// The older manifest whose snapshot and log are taken, and the damaged snapshot.
    pub fallback: Option<(u64, SnapshotId)>,
    pub damages: Vec<Damage>,
    pub torn: Option<Torn>,
    /// Records behind the snapshot that are kept.
    pub records_kept: u64,
    /// The range of records that are lost, if any is known to be, and how many of them could be read.
    pub lost: Vec<(u64, Option<u64>)>,
    pub readable: Losses,
}

/// Records that can be read and are given up.
#[derive(Clone, Debug, Default)]
pub struct Losses {
    pub records: u64,
    pub by_kind: BTreeMap<&'static str, u64>,
    /// Some of the keys that they are of.
    pub keys: BTreeSet<Vec<u8>>,
}

/// What is to be done to a shard, with what is needed for it.
struct Job {
    mended: Mended,
    row: ShardManifest,
    log: Log,
    files: Vec<(SegmentId, u64)>,
}

impl Job {
    /// Otherwise another row in the manifest is enough.
    fn is_rewritten(&self) -> bool {
        !self.log.damages.is_empty() || self.log.torn.is_some()
    }
}

/// Repairs a directory that nobody uses. One without damage is not changed.
pub fn repair<D: Disk>(disk: &D, path: &Path, plan: &Plan) -> Result<Outcome, RepairError> {
    let listed = disk.list(path).map_err(failed("list", path))?;
    let mut directory = Directory::open_incomplete(disk.clone(), path, Access::Serve)?;
    let mut outcome = Outcome {
        directory: path.to_owned(),
        method: plan.method,
        is_dry: plan.is_dry,
        copy: None,
        manifest: None,
        shards: Vec::new(),
    };
    let Some(manifest) = directory.manifest().cloned() else { return Ok(outcome) };
    let older = older(disk, path, &listed, Some(&manifest));
    let mut jobs = Vec::new();
    for shard in 0..manifest.shards.len() as u16 {
        jobs.extend(judge(&directory, &manifest, &older, shard, plan.method)?);
    }
    outcome.shards = jobs.iter().map(|job| job.mended.clone()).collect();
    if jobs.is_empty() || plan.is_dry {
        return Ok(outcome);
    }
    let later = later(&listed, &manifest);
    check_space(disk, &directory, &jobs, &later, plan)?;
    outcome.copy = Some(copy(disk, &directory, &manifest, &jobs, &later)?);

    let generation = directory.next_generation();
    let mut next = Manifest { generation, wall_ms: plan.now.0, ..manifest.clone() };
    for job in &jobs {
        let row = &mut next.shards[job.mended.shard as usize];
        *row = job.row;
        if job.is_rewritten() {
            rewrite(&mut directory, &manifest, job, generation, plan)?;
            (row.first_generation, row.first_segment) = (generation, FIRST_SEGMENT);
        }
    }
    outcome.manifest = Some(directory.switch(next)?);
    for (id, _) in jobs.iter().filter(|job| job.is_rewritten()).flat_map(|job| &job.files) {
        directory.discard(*id, NO_POOL)?;
    }
    disk.sync_directory(path).map_err(failed("sync", path))?;
    Ok(outcome)
}

/// What is wrong with a shard, and what it would cost; None: nothing is.
fn judge<D: Disk>(
    directory: &Directory<D>,
    manifest: &Manifest,
    older: &[Manifest],
    shard: u16,
    method: Method,
) -> Result<Option<Job>, RepairError> {
    let mut row = manifest.shards[shard as usize];
    let mut taken = None;
    if let Some(snapshot) = read_snapshot(directory, manifest, shard, &row)?
        && let Some(damage) = snapshot.damage
    {
        let Some((number, older)) = fallback(directory, manifest, older, shard)? else {
            return Err(RepairError::Snapshot {
                shard,
                file: snapshot.id,
                offset: damage.offset,
                why: damage.why,
                readable: snapshot.entries,
                expected: snapshot.expected,
            });
        };
        taken = Some((number, snapshot.id));
        row = older;
    }
    let files = map(directory, shard, &row, manifest.generation)?;
    let mut readable = Losses::default();
    let log = match method {
        Method::Truncate => read_log(manifest, shard, &row, &files, &mut readable)?,
        Method::SkipBatch => read_log(manifest, shard, &row, &files, &mut ())?,
    };
    let is_foreign = |damage: &&Damage| matches!(damage.why, Fault::Damaged(Why::Version(_) | Why::Database));
    if let Some(damage) = log.damages.iter().find(is_foreign) {
        return Err(RepairError::Foreign { file: damage.id, why: damage.why });
    }
    if taken.is_none() && log.damages.is_empty() && log.torn.is_none() {
        return Ok(None);
    }
    let lost = match (method, log.damages.first()) {
        (_, None) => Vec::new(),
        (Method::Truncate, Some(first)) => {
            let known = log.damages.iter().filter_map(Damage::lost_to).max().unwrap_or(0).max(log.last_lsn.0);
            vec![(first.first_lsn.0, (known >= first.first_lsn.0).then_some(known))]
        }
        (Method::SkipBatch, Some(_)) => {
            let ranges = log.damages.iter().map(|damage| (damage.first_lsn.0, damage.lost_to()));
            ranges.filter(|(first, last)| last.is_none_or(|last| last >= *first)).collect()
        }
    };
    let mended = Mended {
        shard,
        fallback: taken,
        damages: log.damages.clone(),
        torn: log.torn,
        records_kept: log.records - readable.records,
        lost,
        readable,
    };
    let files = files.iter().map(|(id, bytes)| (*id, bytes.as_ref().len() as u64)).collect();
    Ok(Some(Job { mended, row, log, files }))
}

type Mapped<D> = Vec<(SegmentId, <<D as Disk>::File as DiskFile>::Map)>;

/// The log of a shard from what a row of a manifest says on.
fn map<D: Disk>(
    directory: &Directory<D>,
    shard: u16,
    row: &ShardManifest,
    generation: u64,
) -> Result<Mapped<D>, DiskError> {
    directory
        .segments_of(shard)
        .filter(|id| id.generation <= generation)
        .filter(|id| (id.generation, id.number) >= (row.first_generation, row.first_segment))
        .map(|id| Ok((id, directory.map_segment(id)?)))
        .collect()
}

impl LogReader for Losses {
    fn records(&mut self, records: &[(Lsn, Record<'_>)], is_behind_damage: bool) {
        if !is_behind_damage {
            return;
        }
        for (_, record) in records {
            let (kind, key) = match record {
                Record::Set { key, .. } => ("set", Some(*key)),
                Record::Remove { key, .. } => ("remove", Some(*key)),
                Record::Expire { key, .. } => ("expire", Some(*key)),
                Record::WriteAt { key, .. } => ("write", Some(*key)),
                Record::Transaction(_) => ("transaction", None),
                _ => ("database", None),
            };
            self.records += 1;
            *self.by_kind.entry(kind).or_default() += 1;
            if let Some(key) = key
                && self.keys.len() < REPAIR_KEYS_SHOWN
                && !self.keys.contains(key)
            {
                self.keys.insert(key.to_vec());
            }
        }
    }

    fn stepped(&mut self) -> Result<(), DiskError> {
        Ok(())
    }
}

/// Writes what is kept of a shard's log.
struct Rewriter<'a, D: Disk> {
    directory: &'a mut Directory<D>,
    journal: Journal,
    start: LogStart,
    segment: Option<Segment<D::File>>,
    method: Method,
    now: Millis,
}

fn rewrite<D: Disk>(
    directory: &mut Directory<D>,
    manifest: &Manifest,
    job: &Job,
    generation: u64,
    plan: &Plan,
) -> Result<(), DiskError> {
    let shard = job.mended.shard;
    let files = map(directory, shard, &job.row, manifest.generation)?;
    let start = LogStart {
        database: manifest.database,
        generation,
        shard,
        shards: manifest.shards.len() as u16,
        segment: FIRST_SEGMENT,
        salt: plan.salt.wrapping_add(u64::from(shard)),
        next_lsn: Lsn(job.row.base_lsn.0 + 1),
        last_txid: manifest.last_txid,
        segment_bytes: plan.sizes.full_bytes,
        first_segment_bytes: plan.sizes.first_bytes,
        previous: None,
    };
    let mut journal = Journal::off();
    journal.begin(start);
    // What had expired by the log's own time has expired, whatever the clock says now.
    let now = plan.now.max(job.log.wall_ms);
    let mut rewriter = Rewriter { directory, journal, start, segment: None, method: plan.method, now };
    let again = read_log(manifest, shard, &job.row, &files, &mut rewriter)?;
    assert_eq!(again, job.log, "the directory is locked");
    rewriter.journal.seal();
    rewriter.stepped()?;
    assert!(rewriter.journal.is_sealed());
    Ok(())
}

impl<D: Disk> LogReader for Rewriter<'_, D> {
    fn records(&mut self, records: &[(Lsn, Record<'_>)], is_behind_damage: bool) {
        if !is_behind_damage || self.method == Method::SkipBatch {
            records.iter().for_each(|(_, record)| self.journal.record(record));
        }
    }

    fn stepped(&mut self) -> Result<(), DiskError> {
        while let Some(write) = self.journal.poll_write(self.now, FsyncPolicy::No) {
            let segment = match self.segment.take() {
                Some(segment) if segment.id.number == write.segment => segment,
                before => {
                    if let Some(before) = before {
                        before.file.sync().map_err(failed("sync", &before.path))?;
                    }
                    let LogStart { shard, generation, .. } = self.start;
                    let id = SegmentId { shard, generation, number: write.segment };
                    let filling = self.directory.begin_segment(id, self.start.segment_bytes(write.segment))?;
                    self.directory.finish_segment(filling)?
                }
            };
            let bytes = write.buffer.as_slice();
            segment.file.write_all_at(bytes, write.offset).map_err(failed("write", &segment.path))?;
            if write.sync {
                segment.file.sync().map_err(failed("sync", &segment.path))?;
            }
            self.journal.handle_written(Ok(write.sync), write.buffer);
            while let Some(number) = self.journal.poll_sync(self.now, FsyncPolicy::No) {
                // Those before were synced when this one was begun.
                if number == write.segment {
                    segment.file.sync().map_err(failed("sync", &segment.path))?;
                }
                self.journal.handle_synced(Ok(()));
            }
            self.segment = Some(segment);
        }
        Ok(())
    }
}

/// What came after the manifest that counts, with its bytes. The next manifest does away with it, and if `CURRENT` was set back
/// that is data.
fn later(listed: &[(String, u64)], manifest: &Manifest) -> Vec<(String, u64)> {
    let is_later = |name: &str| {
        let of_segment = SegmentId::parse(name).is_some_and(|id| id.generation > manifest.generation);
        of_segment || names::parse_manifest(name).is_some_and(|number| number > manifest.number)
    };
    listed.iter().filter(|(name, _)| is_later(name)).cloned().collect()
}

fn check_space<D: Disk>(
    disk: &D,
    directory: &Directory<D>,
    jobs: &[Job],
    later: &[(String, u64)],
    plan: &Plan,
) -> Result<(), RepairError> {
    let path = directory.path();
    let mut needed: u64 = later.iter().map(|(_, bytes)| bytes).sum();
    for job in jobs {
        let bytes: u64 = job.files.iter().map(|(_, bytes)| bytes).sum();
        if job.is_rewritten() {
            needed += 2 * bytes + plan.sizes.full_bytes;
        }
        if let Some((_, id)) = job.mended.fallback {
            needed += directory.snapshot_bytes(id);
        }
    }
    let available = disk.available(path).map_err(failed("ask for the free space of", path))?;
    match available < needed {
        true => Err(RepairError::Space { directory: path.to_owned(), needed, available }),
        false => Ok(()),
    }
}

/// Copies all that is going to be replaced, and what says that it counted. Gives the folder.
fn copy<D: Disk>(
    disk: &D,
    directory: &Directory<D>,
    manifest: &Manifest,
    jobs: &[Job],
    later: &[(String, u64)],
) -> Result<PathBuf, DiskError> {
    let path = directory.path();
    let folder = free_folder(disk, path)?;
    disk.create_directory(&folder).map_err(failed("create", &folder))?;
    let mut names = vec![CURRENT.to_string(), names::manifest(manifest.number)];
    names.extend(later.iter().map(|(name, _)| name.clone()));
    for job in jobs {
        let damaged = job.mended.fallback.map(|(_, id)| id).filter(|id| directory.has_snapshot(*id));
        names.extend(damaged.map(|id| id.to_string()));
        if job.is_rewritten() {
            names.extend(job.files.iter().map(|(id, _)| id.to_string()));
        }
    }
    for name in names {
        copy_file(disk, &path.join(&name), &folder.join(&name))?;
    }
    disk.sync_directory(&folder).map_err(failed("sync", &folder))?;
    disk.sync_directory(path).map_err(failed("sync", path))?;
    Ok(folder)
}

fn free_folder<D: Disk>(disk: &D, path: &Path) -> Result<PathBuf, DiskError> {
    for number in 1..=REPAIR_COPIES_MAX {
        let folder = path.join(format!("repair-{number}"));
        match disk.list(&folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(folder),
            listed => listed.map_err(failed("list", &folder))?,
        };
    }
    let source = io::Error::other("there are too many copies of earlier repairs; move the folders repair-* away");
    Err(DiskError::Io { step: "make a copy in", path: path.to_owned(), source })
}

fn copy_file<D: Disk>(disk: &D, from: &Path, to: &Path) -> Result<(), DiskError> {
    let source = disk.open(from, Open::Read).map_err(failed("open", from))?;
    let copy = disk.open(to, Open::Create).map_err(failed("create", to))?;
    let mut buffer = vec![0; SEGMENT_FILL_CHUNK];
    let mut at = 0;
    loop {
        let read = source.read_full_at(&mut buffer, at).map_err(failed("read", from))?;
        if read == 0 {
            return copy.sync().map_err(failed("sync", to));
        }
        copy.write_all_at(&buffer[..read], at).map_err(failed("write", to))?;
        at += read as u64;
    }
}

impl Outcome {
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        let mut line = |content: String| writeln!(text, "{content}").expect("writing to a string");
        let directory = self.directory.display();
        if self.shards.is_empty() {
            line(format!("{directory}: nothing is wrong, and nothing was changed"));
            return text;
        }
        let (kept, lost) = if self.is_dry { ("would be kept", "would be lost") } else { ("kept", "LOST") };
        for mended in &self.shards {
            line(format!("shard {}: {} records behind its snapshot {kept}", mended.shard, mended.records_kept));
            if let Some((number, id)) = mended.fallback {
                line(format!(
                    "  {id} is damaged or missing; the snapshot and the log of MANIFEST-{number} have all that it had"
                ));
            }
            for damage in &mended.damages {
                line(format!("  damage: {damage}"));
            }
            if let Some(torn) = &mended.torn {
                line(format!("  torn: {}, of writes that were not synced", torn.describe()));
            }
            for (first, last) in &mended.lost {
                line(match last {
                    Some(last) => format!("  {lost}: records {first} to {last} ({} of them)", last - first + 1),
                    None => format!("  {lost}: record {first} and all behind it; how many is not known"),
                });
            }
            let Losses { records, by_kind, keys } = &mended.readable;
            if *records > 0 {
                let kinds: Vec<String> = by_kind.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
                line(format!("  {records} of these can be read: {}", kinds.join(", ")));
                let keys: Vec<String> = keys.iter().map(|key| format!("'{}'", key.escape_ascii())).collect();
                line(format!("  of keys such as {}", keys.join(", ")));
            }
        }
        line(match (&self.copy, self.is_dry) {
            (Some(copy), _) => format!(
                "repaired: {directory} can be started; what was replaced is in {}, remove it when it is not needed",
                copy.display()
            ),
            (None, _) => format!("nothing was changed; without --dry-run {directory} is repaired like that"),
        });
        text
    }

    pub fn to_json(&self) -> Value {
        let shard = |mended: &Mended| {
            json!({
                "shard": mended.shard,
                "fallback_manifest": mended.fallback.map(|(number, _)| number),
                "damage": mended.damages.iter().map(|damage| damage.to_json()).collect::<Vec<_>>(),
                "torn": mended.torn.map(|torn| json!({
                    "file": torn.id.to_string(), "offset": torn.offset, "bytes": torn.bytes, "last_segment": torn.last_segment,
                })),
                "records_kept": mended.records_kept,
                "lost": mended.lost.iter().map(|(first, last)| json!({
                    "first_lsn": first, "last_lsn": last,
                })).collect::<Vec<_>>(),
                "lost_readable": {
                    "records": mended.readable.records,
                    "by_kind": mended.readable.by_kind,
                    "keys": mended.readable.keys.iter().map(|key| key.escape_ascii().to_string()).collect::<Vec<_>>(),
                },
            })
        };
        json!({
            "directory": self.directory.display().to_string(),
            "method": match self.method { Method::Truncate => "truncate", Method::SkipBatch => "skip-batch" },
            "dry_run": self.is_dry,
            "changed": self.copy.is_some(),
            "copy": self.copy.as_ref().map(|copy| copy.display().to_string()),
            "manifest": self.manifest.map(names::manifest),
            "shards": self.shards.iter().map(shard).collect::<Vec<_>>(),
        })
    }
}
