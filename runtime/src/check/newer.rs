//! Manifests that are newer than the one that `CURRENT` names. A crash in the middle of a switch leaves one, and nothing hangs
//! on it: what it names was there before it, and nothing is logged under it before `CURRENT` names it
//! ([`crate::disk::directory`]). An older `CURRENT`, written or copied by hand, leaves the same names, and then what came after
//! the older manifest does not count, and the next start removes it. What was logged since tells the two apart.

use std::path::Path;

use torc_engine::log::format::SEGMENT_HEADER_BYTES;
use torc_engine::log::manifest::Manifest;

use super::examine::{read_manifest, read_whole};
use super::log::read_log;
use crate::disk::directory::failed;
use crate::disk::files::Open;
use crate::disk::{Directory, Disk, DiskError, DiskFile, SegmentId, names};

/// Manifests that came after the one that counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Newer {
    /// Their numbers, ascending; there is at least one.
    pub numbers: Vec<u64>,
    /// Switches that a crash or a full disk has cut short: nothing hangs on them. Otherwise there may be data that does not count.
    pub is_unfinished: bool,
}

impl Newer {
    /// The names of the files.
    pub fn names(&self) -> String {
        let names: Vec<String> = self.numbers.iter().copied().map(names::manifest).collect();
        names.join(", ")
    }
}

/// The manifests of the files `listed` that are newer than the one that counts; None: there is none.
pub fn newer<D: Disk>(
    disk: &D,
    path: &Path,
    listed: &[(String, u64)],
    directory: &Directory<D>,
) -> Result<Option<Newer>, DiskError> {
    let Some(current) = directory.manifest() else { return Ok(None) };
    let mut numbers: Vec<u64> = listed.iter().filter_map(|(name, _)| names::parse_manifest(name)).collect();
    numbers.retain(|&number| number > current.number);
    numbers.sort_unstable();
    if numbers.is_empty() {
        return Ok(None);
    }
    let sound: Vec<Manifest> =
        numbers.iter().filter_map(|&number| read_manifest(disk, path, number)).map(|(manifest, _)| manifest).collect();
    let is_successor = numbers == [current.number + 1];
    let is_unfinished = match is_logged_since(disk, path, listed, current)? {
        // Without a log only the number tells: a save that was finished looks like one that was not.
        false => is_successor || sound.len() == numbers.len() && sound.iter().all(|newer| is_covered(current, newer)),
        // A new number of shards is logged for before its manifest counts, and has its records in the snapshots.
        true if is_successor && sound.len() == 1 => !has_records_since(disk, path, directory, current, &sound[0])?,
        true => false,
    };
    Ok(Some(Newer { numbers, is_unfinished }))
}

/// Whether the log of one manifest has all that a later one has: both are of the same process, which logged.
fn is_covered(current: &Manifest, newer: &Manifest) -> bool {
    let has_log = current.shards.iter().all(|row| row.has_log());
    has_log && (newer.database, newer.generation) == (current.database, current.generation)
}

/// Whether a process after that of a manifest has written anything behind the header of a segment.
fn is_logged_since<D: Disk>(
    disk: &D,
    path: &Path,
    listed: &[(String, u64)],
    current: &Manifest,
) -> Result<bool, DiskError> {
    let later = listed.iter().filter_map(|(name, _)| SegmentId::parse(name));
    for id in later.filter(|id| id.generation > current.generation) {
        let path = path.join(id.to_string());
        let file = disk.open(&path, Open::Read).map_err(failed("open", &path))?;
        let mut page = [0; SEGMENT_HEADER_BYTES];
        let read = file.read_full_at(&mut page, SEGMENT_HEADER_BYTES as u64).map_err(failed("read", &path))?;
        if page[..read].iter().any(|&byte| byte != 0) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether a later process has logged records that the snapshots of its manifest lack.
fn has_records_since<D: Disk>(
    disk: &D,
    path: &Path,
    directory: &Directory<D>,
    current: &Manifest,
    newer: &Manifest,
) -> Result<bool, DiskError> {
    for (shard, row) in newer.shards.iter().enumerate() {
        let shard = shard as u16;
        let is_of_it = |id: &SegmentId| (id.generation, id.number) >= (row.first_generation, row.first_segment);
        let mut files = Vec::new();
        for id in directory.segments_of(shard).filter(is_of_it) {
            files.push((id, read_whole(disk, &path.join(id.to_string()))?));
        }
        let log = read_log(newer, shard, row, &files, &mut ())?;
        let is_later = |id: &SegmentId| id.generation > current.generation;
        let has_records = |last: u64| last > row.base_lsn.0;
        let mut segments = log.segments.iter().filter(|segment| is_later(&segment.id));
        if !log.damages.is_empty() || segments.any(|one| one.last_lsn.is_some_and(|last| has_records(last.0))) {
            return Ok(true);
        }
    }
    Ok(false)
}
