//! Looks at all of a data directory. Nothing is changed and nobody is kept out, so a server may write to it meanwhile: see
//! [`examine`].

use std::io;
use std::path::Path;

use torc_engine::log::manifest::{Current, MANIFEST_BYTES_MAX, Manifest, ShardManifest};

use super::log::{read_log, read_snapshot};
use super::newer::newer;
use super::report::{FileReport, Report, Role, ShardReport, Verdict};
use crate::disk::directory::failed;
use crate::disk::files::Open;
use crate::disk::names::{self, CURRENT, CURRENT_NEXT, LOCK, POOL};
use crate::disk::{Access, Directory, Disk, DiskError, DiskFile, SegmentId, SnapshotId, user_of};
use crate::limits::CHECK_LOOKS_MAX;

/// Looks at a directory, and once more if it was in use and something seems damaged: files come and go and grow while they
/// are read. Damage is there if two looks, one after the other, find the same.
pub fn examine<D: Disk>(disk: &D, path: &Path) -> Result<Report, DiskError> {
    let mut before: Option<Report> = None;
    for look_number in 1.. {
        let user = user_of(disk, path)?;
        let found = look(disk, path);
        let user = user.or(user_of(disk, path)?);
        let is_last = user.is_none() || look_number >= CHECK_LOOKS_MAX;
        let report = match found {
            Err(DiskError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound && !is_last => continue,
            found => Report { user, ..found? },
        };
        let is_same =
            before.as_ref().is_some_and(|before| before.damage() == report.damage() && before.newer == report.newer);
        if is_last || report.verdict() != Verdict::Corrupt || is_same {
            return Ok(report);
        }
        before = Some(report);
    }
    unreachable!("the last look is the last")
}

/// Looks at a directory once.
pub fn look<D: Disk>(disk: &D, path: &Path) -> Result<Report, DiskError> {
    let listed = disk.list(path).map_err(failed("list", path))?;
    let mut report = Report {
        directory: path.to_owned(),
        user: None,
        problem: None,
        hint: None,
        manifest: None,
        newer: None,
        shards: Vec::new(),
        files: Vec::new(),
    };
    let directory = match Directory::open_incomplete(disk.clone(), path, Access::Inspect) {
        Ok(directory) => directory,
        Err(error @ DiskError::Io { .. }) => return Err(error),
        Err(error) => {
            report.problem = Some(error.to_string());
            report.hint = remedy(disk, path, &listed, &error);
            report.files = files(disk, path, &listed, None, &[], Role::Unknown)?;
            return Ok(report);
        }
    };
    let older = older(disk, path, &listed, directory.manifest());
    report.newer = newer(disk, path, &listed, &directory)?;
    let loose = if report.is_set_back() { Role::Unknown } else { Role::Unneeded };
    report.files = files(disk, path, &listed, directory.manifest(), &older, loose)?;
    let Some(manifest) = directory.manifest() else { return Ok(report) };
    report.manifest = Some((manifest.number, manifest.generation));
    for (shard, row) in manifest.shards.iter().enumerate() {
        let shard = shard as u16;
        let snapshot = read_snapshot(&directory, manifest, shard, row)?;
        let is_damaged = snapshot.as_ref().is_some_and(|snapshot| snapshot.damage.is_some());
        let fallback = if is_damaged { fallback(&directory, manifest, &older, shard)? } else { None };
        // The last one first: what it says of those before it was written before it.
        let mut files = Vec::new();
        for (id, _) in directory.log_of(shard).into_iter().rev() {
            files.push((id, read_whole(disk, &directory.segment_path(id))?));
        }
        files.reverse();
        let log = read_log(manifest, shard, row, &files, &mut ())?;
        report.shards.push(ShardReport { shard, snapshot, fallback: fallback.map(|(number, _)| number), log });
    }
    Ok(report)
}

/// Manifests before the one that counts, of the same shards, the newest first.
pub fn older<D: Disk>(disk: &D, path: &Path, listed: &[(String, u64)], current: Option<&Manifest>) -> Vec<Manifest> {
    let Some(current) = current else { return Vec::new() };
    let mut found: Vec<Manifest> = listed
        .iter()
        .filter_map(|(name, _)| names::parse_manifest(name).filter(|&number| number < current.number))
        .filter_map(|number| read_manifest(disk, path, number))
        .map(|(manifest, _)| manifest)
        .filter(|older| older.database == current.database && older.shards.len() == current.shards.len())
        .collect();
    found.sort_by_key(|manifest| std::cmp::Reverse(manifest.number));
    found
}

/// Where a shard may be read from instead, if its snapshot is damaged: an older manifest's snapshot of it, or its log from the
/// very beginning, as long as the log behind that is there. The number of that manifest, and what it says of the shard.
pub fn fallback<D: Disk>(
    directory: &Directory<D>,
    current: &Manifest,
    older: &[Manifest],
    shard: u16,
) -> Result<Option<(u64, ShardManifest)>, DiskError> {
    let damaged = current.shards[shard as usize].snapshot;
    for manifest in older {
        let row = manifest.shards[shard as usize];
        let first = SegmentId { shard, generation: row.first_generation, number: row.first_segment };
        let has_log = !row.has_log() || directory.segments_of(shard).any(|id| id == first);
        if row.snapshot == damaged || !has_log {
            continue;
        }
        match read_snapshot(directory, manifest, shard, &row) {
            Ok(None) => return Ok(Some((manifest.number, row))),
            Ok(Some(snapshot)) if snapshot.damage.is_none() => return Ok(Some((manifest.number, row))),
            Ok(Some(_)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

/// A manifest and its bytes; None: it is not sound.
pub fn read_manifest<D: Disk>(disk: &D, path: &Path, number: u64) -> Option<(Manifest, Vec<u8>)> {
    let path = path.join(names::manifest(number));
    let file = disk.open(&path, Open::Read).ok()?;
    let bytes = file.bytes().ok().filter(|&bytes| bytes <= MANIFEST_BYTES_MAX as u64)?;
    let mut content = vec![0; bytes as usize];
    let read = file.read_full_at(&mut content, 0).ok()?;
    content.truncate(read);
    let manifest = Manifest::decode(&content).ok().filter(|manifest| manifest.number == number)?;
    Some((manifest, content))
}

/// What may help if no manifest counts. Another one is made to count only where nothing came after it: what a manifest does not
/// need is removed by the next start.
fn remedy<D: Disk>(disk: &D, path: &Path, listed: &[(String, u64)], error: &DiskError) -> Option<String> {
    let named = match error {
        DiskError::Current { .. } => read_whole(disk, &path.join(CURRENT)).ok().and_then(|line| Current::decode(&line)),
        DiskError::NoManifest { .. } | DiskError::Manifest { .. } => None,
        _ => return None,
    };
    let mut numbers: Vec<u64> = listed.iter().filter_map(|(name, _)| names::parse_manifest(name)).collect();
    numbers.sort_unstable();
    let Some((manifest, bytes)) = numbers.iter().rev().find_map(|&number| read_manifest(disk, path, number)) else {
        return Some("No manifest is sound. Copy the directory before anything else".into());
    };
    let sound = names::manifest(manifest.number);
    // A name with the checksum of that one is a damaged name of it.
    let named = named.filter(|named| !named.leads_to(&bytes)).map(|named| named.number);
    let last = numbers.into_iter().chain(named).max().unwrap_or(manifest.number);
    let reason = match error {
        _ if last > manifest.number => format!("{} came after it", names::manifest(last)),
        DiskError::Manifest { .. } => "CURRENT, which names another one, is not what is damaged".into(),
        _ => {
            let line = Current::to(&bytes, manifest.number).encode();
            return Some(format!(
                "The newest manifest, {sound}, is sound: if no copy of CURRENT is to be had, one with the line '{}' leads to \
                 it; copy the directory before you write that",
                line.trim_end()
            ));
        }
    };
    Some(format!(
        "The newest sound manifest is {sound}, and {reason}: if {sound} were made to count, everything after it would be lost, \
         and removed by the next start. Copy the directory before anything else, and bring what is damaged or missing back from \
         a copy"
    ))
}

/// Reads a file that may grow, as far as it goes.
pub fn read_whole<D: Disk>(disk: &D, path: &Path) -> Result<Vec<u8>, DiskError> {
    let file = disk.open(path, Open::Read).map_err(failed("open", path))?;
    let mut content = vec![0; file.bytes().map_err(failed("look at", path))? as usize];
    let read = file.read_full_at(&mut content, 0).map_err(failed("read", path))?;
    content.truncate(read);
    Ok(content)
}

/// All files and what they are for; `loose`: those of Torc's that no manifest needs.
fn files<D: Disk>(
    disk: &D,
    path: &Path,
    listed: &[(String, u64)],
    manifest: Option<&Manifest>,
    older: &[Manifest],
    loose: Role,
) -> Result<Vec<FileReport>, DiskError> {
    let mut files: Vec<FileReport> = listed
        .iter()
        .map(|(name, bytes)| FileReport { name: name.clone(), bytes: *bytes, role: role(name, manifest, older, loose) })
        .collect();
    let spares = match disk.list(&path.join(POOL)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        listed => listed.map_err(failed("list", &path.join(POOL)))?,
    };
    files.extend(spares.into_iter().map(|(name, bytes)| {
        let role = match names::parse_free(&name) {
            Some(_) => Role::Spare,
            None if name.ends_with(".filling") => Role::Spare,
            None => Role::Foreign,
        };
        FileReport { name: format!("{POOL}/{name}"), bytes, role }
    }));
    Ok(files)
}

fn role(name: &str, manifest: Option<&Manifest>, older: &[Manifest], loose: Role) -> Role {
    let row_of = |manifest: &Manifest, shard: u16| manifest.shards.get(shard as usize).copied();
    let needs_segment = |manifest: &Manifest, id: SegmentId| {
        row_of(manifest, id.shard).is_some_and(|row| {
            id.generation <= manifest.generation
                && (id.generation, id.number) >= (row.first_generation, row.first_segment)
        })
    };
    let needs_snapshot =
        |manifest: &Manifest, id: SnapshotId| row_of(manifest, id.shard).is_some_and(|row| row.snapshot == Some(id.id));
    let by = |role: Role, needs: &dyn Fn(&Manifest) -> bool| match manifest {
        Some(current) if needs(current) => role,
        Some(_) if older.iter().any(needs) => Role::Previous,
        _ => loose,
    };
    if name == LOCK {
        Role::Lock
    } else if name == CURRENT {
        Role::Current
    } else if name == CURRENT_NEXT {
        loose
    } else if let Some(id) = SegmentId::parse(name) {
        by(Role::Segment, &|manifest| needs_segment(manifest, id))
    } else if let Some(id) = SnapshotId::parse(name) {
        by(Role::Snapshot, &|manifest| needs_snapshot(manifest, id))
    } else if let Some(number) = names::parse_manifest(name) {
        by(Role::Manifest, &|manifest| manifest.number == number)
    } else if name.starts_with("wal-") && name.contains(".log.torn-") {
        Role::TornCopy
    } else {
        Role::Foreign
    }
}
