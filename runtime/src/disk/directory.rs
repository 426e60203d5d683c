//! The data directory: what is in it, what of that counts, and how something else comes to count.
//!
//! `CURRENT` names a manifest, and the manifest says which snapshots and segments make up the database
//! (`torc_engine::log::manifest`). [`Directory::switch`] makes another manifest count. Its steps are such that after a crash
//! between any two of them, whatever of the unsynced names and bytes reached the disk, `CURRENT` names either the old
//! manifest or the new one, and all that it needs is there:
//!
//! 1. sync the snapshots that the new manifest names, and the folder;
//! 2. write `MANIFEST-<n+1>`, sync it, sync the folder;
//! 3. write `CURRENT.next`, sync it, rename it to `CURRENT`, sync the folder.
//!
//! Only then may [`Directory::recycle`] remove what neither the new manifest nor the one kept beside it needs. When step 3
//! fails it is not known which of the two would be found: nothing is removed until another switch has succeeded.
//!
//! All of this blocks, for a fsync and more: never on a shard's thread.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use torc_engine::limits::LOG_SEGMENTS_UNSYNCED_MAX;
use torc_engine::log::Segment as LogSegment;
use torc_engine::log::manifest::{CURRENT_BYTES_MAX, Current, MANIFEST_BYTES_MAX, Manifest, ManifestError};

use super::error::{DiskError, is_full};
use super::files::{Disk, DiskFile, Open};
use super::names::{self, CURRENT, CURRENT_NEXT, LOCK, POOL, SegmentId, SnapshotId};
use crate::limits::{SEGMENT_FILL_CHUNK, TORN_COPIES_MAX};

/// What somebody wants with the directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// To serve it: made if there is none, and locked.
    Serve,
    /// To look at it: nothing is changed, and nobody is kept out, so what is seen may change meanwhile ([`user_of`]).
    Inspect,
}

/// How much the pool may keep.
#[derive(Clone, Copy, Debug)]
pub struct PoolSize {
    /// Bytes of a segment of full size; smaller files are not kept.
    pub segment_bytes: u64,
    /// Files at most.
    pub files: usize,
}

/// A segment's file, ready to be written: as large as it will be, its blocks there, its name durable.
#[derive(Debug)]
pub struct Segment<F> {
    pub id: SegmentId,
    pub file: F,
    /// Opened with O_DIRECT.
    pub direct: bool,
    pub bytes: u64,
    pub path: PathBuf,
}

/// A file that becomes a segment.
#[derive(Debug)]
pub struct Filling<F> {
    id: SegmentId,
    file: F,
    direct: bool,
    bytes: u64,
    filled: u64,
    from: PathBuf,
}

impl<F> Filling<F> {
    /// Nothing is left to be filled.
    pub fn is_full(&self) -> bool {
        self.filled == self.bytes
    }
}

/// An open data directory.
pub struct Directory<D: Disk> {
    disk: D,
    path: PathBuf,
    /// Held until the directory is dropped.
    _lock: Option<D::File>,
    current: Option<Manifest>,
    /// Older manifests that are sound and whose files are there, by number.
    older: BTreeMap<u64, Manifest>,
    /// The number of the next manifest: above all that were ever tried.
    next_manifest: u64,
    /// It is not known which manifest `CURRENT` names on the disk.
    unsettled: bool,
    /// Files by what they are, with their bytes.
    segments: BTreeMap<SegmentId, u64>,
    snapshots: BTreeMap<SnapshotId, u64>,
    /// Snapshots that are being written: no manifest names them yet.
    writing: BTreeSet<SnapshotId>,
    last_snapshot: u64,
    /// Generations that segments were begun of here: those of others that no manifest claims were left by processes before.
    begun: BTreeSet<u64>,
    free: BTreeMap<u64, u64>,
    next_free: u64,
}

/// What the files of the manifest that counts must be.
type CheckFiles<D> = fn(&Directory<D>, &Manifest) -> Result<(), DiskError>;

/// The error of a step on a path.
pub(crate) fn failed(step: &'static str, path: &Path) -> impl FnOnce(io::Error) -> DiskError {
    let path = path.to_owned();
    move |source| DiskError::Io { step, path, source }
}

impl<D: Disk> Directory<D> {
    /// Opens a directory. An error has changed nothing, but that it may have made an empty directory.
    pub fn open(disk: D, path: &Path, access: Access) -> Result<Directory<D>, DiskError> {
        Directory::open_with(disk, path, access, Directory::check_files)
    }

    /// As [`Directory::open`], but files that the manifest needs may be missing: to check and to repair it.
    pub fn open_incomplete(disk: D, path: &Path, access: Access) -> Result<Directory<D>, DiskError> {
        Directory::open_with(disk, path, access, |_, _| Ok(()))
    }

    fn open_with(disk: D, path: &Path, access: Access, check: CheckFiles<D>) -> Result<Directory<D>, DiskError> {
        if access == Access::Serve {
            create(&disk, path)?;
        }
        let lock = lock(&disk, path, access)?;
        let mut directory = Directory {
            disk,
            path: path.to_owned(),
            _lock: lock,
            current: None,
            older: BTreeMap::new(),
            next_manifest: 1,
            unsettled: false,
            segments: BTreeMap::new(),
            snapshots: BTreeMap::new(),
            writing: BTreeSet::new(),
            last_snapshot: 0,
            begun: BTreeSet::new(),
            free: BTreeMap::new(),
            next_free: 1,
        };
        directory.look(access, check)?;
        Ok(directory)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it is not known which manifest counts on the disk, because a switch failed on its last step.
    pub fn is_unsettled(&self) -> bool {
        self.unsettled
    }

    /// The manifest that counts; None: the directory is new.
    pub fn manifest(&self) -> Option<&Manifest> {
        self.current.as_ref()
    }

    /// A generation above all that appear in the directory.
    pub fn next_generation(&self) -> u64 {
        let manifests = self.current.iter().chain(self.older.values()).map(|manifest| manifest.generation);
        manifests.chain(self.segments.keys().map(|id| id.generation)).max().unwrap_or(0) + 1
    }

    /// A snapshot id above all that appear in the directory, and above all that were begun: the name of a file that failed
    /// is not used again, for it may be lost at any time.
    pub fn next_snapshot(&self) -> u64 {
        self.last_snapshot + 1
    }

    /// The segments that make up the log of a shard of the manifest, in order, with their bytes.
    pub fn log_of(&self, shard: u16) -> Vec<(SegmentId, u64)> {
        let Some(manifest) = &self.current else { return Vec::new() };
        let counts = |id: &SegmentId| id.shard == shard && id.generation <= manifest.generation && needs(manifest, *id);
        self.segments.iter().filter(|(id, _)| counts(id)).map(|(id, bytes)| (*id, *bytes)).collect()
    }

    /// All segments of a shard that are there, needed or not, in order.
    pub fn segments_of(&self, shard: u16) -> impl Iterator<Item = SegmentId> {
        self.segments.keys().copied().filter(move |id| id.shard == shard)
    }

    /// Bytes of all files that the manifest needs.
    pub fn needed_bytes(&self) -> u64 {
        let Some(manifest) = &self.current else { return 0 };
        let segments = self.segments.iter().filter(|(id, _)| needs(manifest, **id)).map(|(_, bytes)| bytes);
        let snapshots = self.snapshots.iter().filter(|(id, _)| names_snapshot(manifest, **id)).map(|(_, bytes)| bytes);
        segments.chain(snapshots).sum()
    }

    pub fn segment_path(&self, id: SegmentId) -> PathBuf {
        self.path.join(id.to_string())
    }

    pub fn snapshot_path(&self, id: SnapshotId) -> PathBuf {
        self.path.join(id.to_string())
    }

    /// Whether the file of a snapshot is there.
    pub fn has_snapshot(&self, id: SnapshotId) -> bool {
        self.snapshots.contains_key(&id)
    }

    /// The length of a snapshot's file when the directory was looked at, or it was made to count.
    pub fn snapshot_bytes(&self, id: SnapshotId) -> u64 {
        self.snapshots.get(&id).copied().unwrap_or(0)
    }

    /// A whole segment as memory, to be replayed before anything is written to it. All of it is read first, so that a disk
    /// that fails is an error here, and not the end of the process when a page is looked at.
    pub fn map_segment(&self, id: SegmentId) -> Result<<D::File as DiskFile>::Map, DiskError> {
        let path = self.segment_path(id);
        let file = self.disk.open(&path, Open::Read).map_err(failed("open", &path))?;
        let mut buffer = vec![0; SEGMENT_FILL_CHUNK];
        let mut at = 0;
        loop {
            match file.read_full_at(&mut buffer, at).map_err(failed("read", &path))? {
                0 => break,
                read => at += read as u64,
            }
        }
        file.map().map_err(failed("map", &path))
    }

    /// Opens a snapshot to be read.
    pub fn open_snapshot(&self, id: SnapshotId) -> Result<(D::File, u64), DiskError> {
        let path = self.snapshot_path(id);
        let file = self.disk.open(&path, Open::Read).map_err(failed("open", &path))?;
        let bytes = file.bytes().map_err(failed("look at", &path))?;
        Ok((file, bytes))
    }

    /// Makes the file of a snapshot that is to be written. True: it is opened with O_DIRECT. It counts for nothing until a
    /// manifest names it.
    pub fn create_snapshot(&mut self, id: SnapshotId) -> Result<(D::File, bool), DiskError> {
        assert!(!self.snapshots.contains_key(&id), "a snapshot is written once");
        let path = self.snapshot_path(id);
        self.last_snapshot = self.last_snapshot.max(id.id);
        let opened = self.disk.open_direct(&path, Open::Create).map_err(failed("create", &path))?;
        self.writing.insert(id);
        Ok(opened)
    }

    /// Removes what was written of a snapshot that is given up.
    pub fn abort_snapshot(&mut self, id: SnapshotId) -> Result<(), DiskError> {
        self.writing.remove(&id);
        self.remove(&self.snapshot_path(id))
    }

    /// Cuts a torn tail off a segment: what stands from `offset` on, `bytes` of it, is copied beside it, and then zeroed to
    /// the end of the file, durably. Gives the path of the copy.
    pub fn repair_tail(&mut self, id: SegmentId, offset: u64, bytes: u64) -> Result<PathBuf, DiskError> {
        let path = self.segment_path(id);
        let copy = self.copy_tail(id, offset, bytes)?;
        let file = self.disk.open(&path, Open::Write).map_err(failed("open for writing", &path))?;
        let end = file.bytes().map_err(failed("look at", &path))?;
        let zeros = vec![0; SEGMENT_FILL_CHUNK];
        let mut at = offset;
        while at < end {
            let len = (end - at).min(zeros.len() as u64);
            file.write_all_at(&zeros[..len as usize], at).map_err(failed("write", &path))?;
            at += len;
        }
        file.sync().map_err(failed("sync", &path))?;
        Ok(copy)
    }

    /// Keeps a segment that nothing counts of under another name, which is given, and durable before this returns; what was
    /// not written of it is cut off. None: it is not there any more.
    pub fn set_aside(&mut self, id: SegmentId) -> Result<Option<PathBuf>, DiskError> {
        if !self.segments.contains_key(&id) {
            return Ok(None);
        }
        let (path, aside) = (self.segment_path(id), self.copy_path(id)?);
        let (generation, segment) = (id.generation, id.number);
        let written = LogSegment { generation, segment, bytes: self.map_segment(id)?.as_ref() }.written_bytes(id.shard);
        let file = self.disk.open(&path, Open::Write).map_err(failed("open for writing", &path))?;
        file.truncate(written).map_err(failed("cut", &path))?;
        self.disk.rename(&path, &aside).map_err(failed("rename", &path))?;
        self.segments.remove(&id);
        self.sync_names()?;
        Ok(Some(aside))
    }

    /// The path of the next copy of a segment's torn end.
    fn copy_path(&self, id: SegmentId) -> Result<PathBuf, DiskError> {
        let listed = self.disk.list(&self.path).map_err(failed("list", &self.path))?;
        // A crash may have left copies: none is ever overwritten.
        let name = |index: u32| format!("{id}.torn-{index}");
        let is_new = |name: &String| !listed.iter().any(|(old, _)| old == name);
        let copy_name = (1..=TORN_COPIES_MAX).map(name).find(is_new).ok_or_else(|| DiskError::Io {
            step: "copy the torn end of",
            path: self.segment_path(id),
            source: io::Error::other("there are too many copies of it already; remove the files .torn-*"),
        })?;
        Ok(self.path.join(copy_name))
    }

    fn copy_tail(&mut self, id: SegmentId, offset: u64, bytes: u64) -> Result<PathBuf, DiskError> {
        let path = self.segment_path(id);
        let copy_path = self.copy_path(id)?;
        let file = self.disk.open(&path, Open::Read).map_err(failed("open", &path))?;
        let copy = self.disk.open(&copy_path, Open::Create).map_err(failed("create", &copy_path))?;
        let mut buffer = vec![0; SEGMENT_FILL_CHUNK];
        let mut done = 0;
        let copied = (|| {
            while done < bytes {
                let len = (bytes - done).min(buffer.len() as u64) as usize;
                let read = file.read_full_at(&mut buffer[..len], offset + done).map_err(failed("read", &path))?;
                if read == 0 {
                    break;
                }
                copy.write_all_at(&buffer[..read], done).map_err(failed("write", &copy_path))?;
                done += read as u64;
            }
            copy.sync().map_err(failed("sync", &copy_path))
        })();
        if let Err(error) = copied {
            // A part of a copy is none, and on a full disk it takes what is needed for the next try.
            let _ = self.disk.remove(&copy_path);
            return Err(error);
        }
        self.sync_names()?;
        Ok(copy_path)
    }

    /// Makes a manifest count; its number is chosen here. All snapshots that it names must be written, and the first
    /// segment of each shard be there. An error leaves what counted before.
    pub fn switch(&mut self, mut manifest: Manifest) -> Result<u64, DiskError> {
        if let Some(current) = &self.current {
            assert_eq!(manifest.database, current.database, "a directory holds one database");
            assert!(manifest.generation >= current.generation, "generations go up");
        }
        manifest.number = self.next_manifest;
        self.next_manifest += 1;
        let mut snapshots = Vec::new();
        for (shard, state) in manifest.shards.iter().enumerate() {
            let shard = u16::try_from(shard).expect("shards are numbered with 16 bits");
            let first = SegmentId { shard, generation: state.first_generation, number: state.first_segment };
            if state.has_log() && !self.segments.contains_key(&first) {
                let manifest = names::manifest(manifest.number);
                return Err(DiskError::Missing { path: self.segment_path(first), manifest });
            }
            snapshots.extend(state.snapshot.map(|id| SnapshotId { id, shard }));
        }
        self.remove_unclaimed_but(manifest.generation, |id| needs(&manifest, id))?;
        let mut written = Vec::new();
        snapshots.retain(|id| !self.snapshots.contains_key(id));
        for id in snapshots {
            written.push((id, self.sync_snapshot(id)?));
        }
        self.sync_names()?;

        let bytes = manifest.encode();
        let path = self.path.join(names::manifest(manifest.number));
        if let Err(error) = self.write_file(&path, &bytes).and_then(|()| self.sync_names()) {
            // Nothing names it, and a full disk may make many of them.
            let _ = self.disk.remove(&path);
            return Err(error);
        }

        let (next, current) = (self.path.join(CURRENT_NEXT), self.path.join(CURRENT));
        self.write_file(&next, Current::to(&bytes, manifest.number).encode().as_bytes())?;
        self.unsettled = true;
        self.disk.rename(&next, &current).map_err(failed("rename", &next))?;
        self.sync_names()?;
        self.unsettled = false;

        for (id, size) in written {
            self.writing.remove(&id);
            self.snapshots.insert(id, size);
        }
        let number = manifest.number;
        if let Some(old) = self.current.replace(manifest) {
            self.older.insert(old.number, old);
        }
        Ok(number)
    }

    /// Removes what processes that got no manifest have left, of generations before this one: it would count as soon as there
    /// is a manifest of a later generation.
    pub fn remove_unclaimed(&mut self, generation: u64) -> Result<(), DiskError> {
        self.remove_unclaimed_but(generation, |_| false)
    }

    /// As [`Directory::remove_unclaimed`], but for what was begun here and the next manifest claims: of a start that needs a
    /// snapshot all logs but those that have failed since are of the generation before the snapshot's.
    fn remove_unclaimed_but(
        &mut self,
        generation: u64,
        is_claimed: impl Fn(SegmentId) -> bool,
    ) -> Result<(), DiskError> {
        let before = self.current.as_ref().map_or(0, |current| current.generation);
        let is_kept = |id: SegmentId| self.begun.contains(&id.generation) && is_claimed(id);
        let is_left = |id: &&SegmentId| id.generation > before && id.generation < generation && !is_kept(**id);
        let left: Vec<SegmentId> = self.segments.keys().filter(is_left).copied().collect();
        for id in left {
            self.remove(&self.segment_path(id))?;
            self.segments.remove(&id);
        }
        Ok(())
    }

    /// Cuts off what is behind the end of a segment to which nothing is written any more.
    pub fn cut_segment(&mut self, id: SegmentId, end: u64) -> Result<(), DiskError> {
        let Some(bytes) = self.segments.get_mut(&id).filter(|bytes| **bytes > end) else { return Ok(()) };
        let path = self.path.join(id.to_string());
        let file = self.disk.open(&path, Open::Write).map_err(failed("open for writing", &path))?;
        file.truncate(end).and_then(|()| file.sync()).map_err(failed("cut off the end of", &path))?;
        *bytes = end;
        Ok(())
    }

    /// Makes a snapshot durable, and gives its bytes. One that failed once cannot be trusted again, although its next sync may
    /// succeed: it must be written anew.
    fn sync_snapshot(&mut self, id: SnapshotId) -> Result<u64, DiskError> {
        let path = self.snapshot_path(id);
        if !self.writing.remove(&id) {
            let source = io::Error::other("the disk has failed since it was begun, and it must be written anew");
            return Err(DiskError::Io { step: "use the snapshot", path, source });
        }
        let file = self.disk.open(&path, Open::Write).map_err(failed("open", &path))?;
        let bytes = file.bytes().map_err(failed("look at", &path))?;
        file.sync().map_err(failed("sync", &path))?;
        self.writing.insert(id);
        Ok(bytes)
    }

    /// Removes what no manifest needs any more, or keeps it in the pool to be used again. The newest manifest with other
    /// snapshots is kept with all that it needs if `keep_previous`, and as long as there is space for another snapshot and
    /// some log beside it. Gives the bytes that were removed.
    pub fn recycle(&mut self, pool: PoolSize, keep_previous: bool) -> Result<u64, DiskError> {
        let Some(current) = self.current.clone().filter(|_| !self.unsettled) else { return Ok(0) };
        let previous = self.older.values().rev().find(|older| !has_same_snapshots(older, &current)).cloned();
        let previous = match previous.filter(|_| keep_previous) {
            Some(previous) => {
                let available =
                    self.disk.available(&self.path).map_err(failed("ask for the free space of", &self.path))?;
                let reserve = pool.segment_bytes.saturating_mul(2 * current.shards.len() as u64);
                (available >= self.needed_bytes().saturating_add(reserve)).then_some(previous)
            }
            None => None,
        };
        let kept = || [Some(&current), previous.as_ref()].into_iter().flatten();

        // Manifests go first, so that none is left whose files are not.
        let listed = self.disk.list(&self.path).map_err(failed("list", &self.path))?;
        let mut removed = 0;
        for (name, bytes) in &listed {
            let number = names::parse_manifest(name);
            if name == CURRENT_NEXT || number.is_some_and(|number| kept().all(|manifest| manifest.number != number)) {
                self.remove(&self.path.join(name))?;
                removed += bytes;
            }
        }
        self.older.retain(|number, _| kept().any(|manifest| manifest.number == *number));
        self.sync_names()?;

        for (name, bytes) in &listed {
            let snapshot = SnapshotId::parse(name).filter(|id| !self.writing.contains(id));
            let segment = SegmentId::parse(name).filter(|id| self.segments.contains_key(id));
            if let Some(id) = snapshot
                && !kept().any(|manifest| names_snapshot(manifest, id))
            {
                self.remove(&self.path.join(name))?;
                self.snapshots.remove(&id);
                removed += bytes;
            } else if let Some(id) = segment
                && !kept().any(|manifest| needs(manifest, id))
            {
                removed += self.retire(id, pool)?;
            }
        }
        while self.free.len() > pool.files {
            let Some((number, bytes)) = self.free.pop_first() else { break };
            self.remove(&self.path.join(POOL).join(names::free(number)))?;
            removed += bytes;
        }
        self.sync_names()?;
        self.sync_pool()?;
        Ok(removed)
    }

    /// Gives up a segment in which nothing was written, or of which nothing counts.
    pub fn discard(&mut self, id: SegmentId, pool: PoolSize) -> Result<(), DiskError> {
        if self.segments.contains_key(&id) {
            self.retire(id, pool)?;
        }
        Ok(())
    }

    /// Moves a segment to the pool, or removes it. Gives the bytes removed.
    fn retire(&mut self, id: SegmentId, pool: PoolSize) -> Result<u64, DiskError> {
        let path = self.segment_path(id);
        let bytes = self.segments.get(&id).copied().unwrap_or(0);
        let removed = if bytes >= pool.segment_bytes && self.free.len() < pool.files {
            let free = self.path.join(POOL).join(names::free(self.next_free));
            self.disk.rename(&path, &free).map_err(failed("rename", &path))?;
            self.free.insert(self.next_free, bytes);
            self.next_free += 1;
            0
        } else {
            self.remove(&path)?;
            bytes
        };
        self.segments.remove(&id);
        Ok(removed)
    }

    /// Begins a segment of so many bytes: a free file is used again, and is full at once; otherwise there is a new one with
    /// all its blocks, which `fill` fills with zeros. Here is where a full disk shows.
    pub fn begin_segment(&mut self, id: SegmentId, bytes: u64) -> Result<Filling<D::File>, DiskError> {
        assert!(bytes > 0 && bytes.is_multiple_of(4096), "O_DIRECT transfers whole blocks");
        self.begun.insert(id.generation);
        let fits = self.free.iter().filter(|(_, size)| **size >= bytes).min_by_key(|(_, size)| **size);
        if let Some((&number, &size)) = fits {
            let from = self.path.join(POOL).join(names::free(number));
            let opened = self.disk.open_direct(&from, Open::Write).map_err(failed("open for writing", &from));
            // What cannot be used now will not be later.
            self.free.remove(&number);
            let (file, direct) = opened?;
            return Ok(Filling { id, file, direct, bytes: size, filled: size, from });
        }
        let from = self.path.join(POOL).join(names::filling(id.shard));
        let (file, direct) = self.disk.open_direct(&from, Open::Create).map_err(failed("create", &from))?;
        match file.allocate(bytes) {
            Ok(()) => Ok(Filling { id, file, direct, bytes, filled: 0, from }),
            Err(source) => {
                drop(file);
                // The blocks that it did get are needed by others.
                let _ = self.disk.remove(&from);
                let error = failed("allocate", &from)(source);
                match (error, self.disk.available(&self.path)) {
                    (DiskError::Io { path, source, .. }, Ok(available)) if is_full(&source) => {
                        let directory = self.path.clone();
                        Err(DiskError::Space { path, directory, needed: bytes, available, source })
                    }
                    (error, _) => Err(error),
                }
            }
        }
    }

    /// Writes some of the zeros that a file lacks; `zeros` is what to write, aligned for O_DIRECT.
    pub fn fill(&self, filling: &mut Filling<D::File>, zeros: &[u8]) -> Result<(), DiskError> {
        let len = (filling.bytes - filling.filled).min(zeros.len() as u64);
        let zeros = &zeros[..len as usize];
        filling.file.write_all_at(zeros, filling.filled).map_err(failed("write", &filling.from))?;
        filling.filled += len;
        Ok(())
    }

    /// Gives the file its name and makes all of it durable, full or not.
    pub fn finish_segment(&mut self, filling: Filling<D::File>) -> Result<Segment<D::File>, DiskError> {
        let Filling { id, file, direct, bytes, from, .. } = filling;
        let path = self.segment_path(id);
        file.sync().map_err(failed("sync", &from))?;
        // Who may write the file may still not add to the directory.
        self.disk.rename(&from, &path).map_err(failed("create", &path))?;
        if let Err(error) = self.sync_names().and_then(|()| self.sync_pool()) {
            // Its name may be lost at any time: it is not used.
            let _ = self.disk.remove(&path);
            return Err(error);
        }
        self.segments.insert(id, bytes);
        Ok(Segment { id, file, direct, bytes, path })
    }

    /// Gives up a file that does not become a segment.
    pub fn abandon_segment(&mut self, filling: Filling<D::File>) {
        // If it cannot be removed it is overwritten by the next one, or removed at the next start.
        let _ = self.disk.remove(&filling.from);
    }

    /// Reads names, `CURRENT` and manifests, and judges them.
    fn look(&mut self, access: Access, check: CheckFiles<D>) -> Result<(), DiskError> {
        let listed = self.disk.list(&self.path).map_err(failed("list", &self.path))?;
        let mut manifests = BTreeSet::new();
        for (name, bytes) in &listed {
            if let Some(id) = SegmentId::parse(name) {
                self.segments.insert(id, *bytes);
            } else if let Some(id) = SnapshotId::parse(name) {
                self.snapshots.insert(id, *bytes);
                self.last_snapshot = self.last_snapshot.max(id.id);
            } else if let Some(number) = names::parse_manifest(name) {
                manifests.insert(number);
            }
        }
        self.next_manifest = manifests.last().map_or(1, |last| last + 1);
        if listed.iter().any(|(name, _)| name == CURRENT) {
            let current = self.read_current()?;
            check(self, &current)?;
            for &number in manifests.iter().filter(|&&number| number < current.number) {
                // An older one is kept for bad times: if it is damaged, or incomplete, it is not worth keeping.
                if let Ok(older) =
                    self.read_manifest(number).and_then(|(older, _)| self.check_files(&older).map(|()| older))
                {
                    self.older.insert(number, older);
                }
            }
            self.current = Some(current);
        } else {
            self.check_empty(manifests.len())?;
        }
        if access == Access::Serve {
            self.check_writable()?;
            self.look_at_pool()?;
            self.settle_log()?;
        }
        Ok(())
    }

    /// What a process that was killed has written is through, and durable, before it is read: the next log says that it is.
    /// All but the last segments of each log were synced when they were written.
    fn settle_log(&self) -> Result<(), DiskError> {
        let mut last = BTreeMap::new();
        for id in self.segments.keys() {
            last.insert((id.shard, id.generation), id.number);
        }
        for &id in self.segments.keys() {
            if last[&(id.shard, id.generation)] - id.number > LOG_SEGMENTS_UNSYNCED_MAX {
                continue;
            }
            let path = self.segment_path(id);
            // What cannot be opened is nobody's, or told of when it is read.
            if let Ok(file) = self.disk.open(&path, Open::Write) {
                file.settle();
                file.sync().map_err(failed("sync", &path))?;
            }
        }
        Ok(())
    }

    fn read_current(&self) -> Result<Manifest, DiskError> {
        let path = self.path.join(CURRENT);
        let bytes = self.read_small(&path, CURRENT_BYTES_MAX)?;
        let wrong = |why| DiskError::Current { path: path.clone(), why };
        let current = Current::decode(&bytes).ok_or_else(|| wrong("it is damaged"))?;
        let (manifest, bytes) = match self.read_manifest(current.number) {
            Err(DiskError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                return Err(wrong("the manifest that it names is missing"));
            }
            read => read?,
        };
        if !current.leads_to(&bytes) {
            return Err(wrong("its checksum is not that of the manifest that it names"));
        }
        Ok(manifest)
    }

    fn read_manifest(&self, number: u64) -> Result<(Manifest, Vec<u8>), DiskError> {
        let path = self.path.join(names::manifest(number));
        let bytes = self.read_small(&path, MANIFEST_BYTES_MAX)?;
        match Manifest::decode(&bytes) {
            Ok(manifest) if manifest.number == number => Ok((manifest, bytes)),
            Ok(_) => {
                let source = ManifestError::Content("its number is not that of its name");
                Err(DiskError::Manifest { path, source })
            }
            Err(source @ ManifestError::Version { .. }) => Err(DiskError::Version { path, source }),
            Err(source) => Err(DiskError::Manifest { path, source }),
        }
    }

    /// What a manifest needs must be there.
    fn check_files(&self, manifest: &Manifest) -> Result<(), DiskError> {
        for (shard, state) in manifest.shards.iter().enumerate() {
            let shard = shard as u16;
            let missing = |path| DiskError::Missing { path, manifest: names::manifest(manifest.number) };
            if let Some(id) = state.snapshot.map(|id| SnapshotId { id, shard })
                && !self.snapshots.contains_key(&id)
            {
                return Err(missing(self.snapshot_path(id)));
            }
            let first = SegmentId { shard, generation: state.first_generation, number: state.first_segment };
            if state.has_log() && !self.segments.contains_key(&first) {
                return Err(missing(self.segment_path(first)));
            }
        }
        Ok(())
    }

    /// Without `CURRENT` there must be no data: a snapshot, or a segment that was written to. Segments without content and
    /// manifests are what a crash leaves of the first start.
    fn check_empty(&self, manifests: usize) -> Result<(), DiskError> {
        let mut data = self.snapshots.keys().map(SnapshotId::to_string).next();
        for id in self.segments.keys() {
            let path = self.segment_path(*id);
            let file = self.disk.open(&path, Open::Read).map_err(failed("open", &path))?;
            let mut head = [0; 4096];
            let read = file.read_full_at(&mut head, 0).map_err(failed("read", &path))?;
            if head[..read].iter().any(|&byte| byte != 0) {
                data.get_or_insert_with(|| id.to_string());
            }
        }
        let others = (self.snapshots.len() + self.segments.len() + manifests).saturating_sub(1);
        data.map_or(Ok(()), |file| Err(DiskError::NoManifest { path: self.path.clone(), file, others }))
    }

    /// What is to be read and changed can be: better said now than by the first fault at night.
    fn check_writable(&self) -> Result<(), DiskError> {
        let Some(manifest) = &self.current else { return Ok(()) };
        for id in self.segments.keys().filter(|id| needs(manifest, **id)) {
            let path = self.segment_path(*id);
            self.disk.open(&path, Open::Write).map_err(failed("open for writing", &path))?;
        }
        for id in self.snapshots.keys().filter(|id| names_snapshot(manifest, **id)) {
            let path = self.snapshot_path(*id);
            self.disk.open(&path, Open::Read).map_err(failed("open", &path))?;
        }
        Ok(())
    }

    fn look_at_pool(&mut self) -> Result<(), DiskError> {
        let pool = self.path.join(POOL);
        self.disk.create_directory(&pool).map_err(failed("create", &pool))?;
        for (name, bytes) in self.disk.list(&pool).map_err(failed("list", &pool))? {
            if let Some(number) = names::parse_free(&name) {
                self.free.insert(number, bytes);
                self.next_free = self.next_free.max(number + 1);
            } else if name.ends_with(".filling") {
                self.remove(&pool.join(name))?;
            }
        }
        Ok(())
    }

    fn read_small(&self, path: &Path, most: usize) -> Result<Vec<u8>, DiskError> {
        let file = self.disk.open(path, Open::Read).map_err(failed("open", path))?;
        let size = file.bytes().map_err(failed("look at", path))?;
        // One byte too many is enough to be refused.
        let mut bytes = vec![0; (size as usize).min(most + 1)];
        let read = file.read_full_at(&mut bytes, 0).map_err(failed("read", path))?;
        bytes.truncate(read);
        Ok(bytes)
    }

    fn write_file(&self, path: &Path, bytes: &[u8]) -> Result<(), DiskError> {
        let file = self.disk.open(path, Open::Create).map_err(failed("create", path))?;
        file.write_all_at(bytes, 0).map_err(failed("write", path))?;
        file.sync().map_err(failed("sync", path))
    }

    /// What is gone already is no error.
    fn remove(&self, path: &Path) -> Result<(), DiskError> {
        match self.disk.remove(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", path)(error)),
            _ => Ok(()),
        }
    }

    /// Makes names durable. After a failure those that were new may be lost although the next sync succeeds, so snapshots
    /// that were begun are given up.
    fn sync_names(&mut self) -> Result<(), DiskError> {
        let result = self.disk.sync_directory(&self.path).map_err(failed("sync", &self.path));
        if result.is_err() {
            self.writing.clear();
        }
        result
    }

    fn sync_pool(&self) -> Result<(), DiskError> {
        let pool = self.path.join(POOL);
        self.disk.sync_directory(&pool).map_err(failed("sync", &pool))
    }
}

/// Makes the directory if there is none.
fn create<D: Disk>(disk: &D, path: &Path) -> Result<(), DiskError> {
    match disk.create_directory(path) {
        Err(error) if matches!(error.raw_os_error(), Some(libc::EEXIST | libc::ENOTDIR)) => {
            return Err(DiskError::NoDirectory { path: path.to_owned() });
        }
        result => result.map_err(failed("create", path))?,
    }
    // The name of a new directory is in the one above.
    let above = path.parent().filter(|above| !above.as_os_str().is_empty()).unwrap_or(Path::new("."));
    match disk.sync_directory(above) {
        // One that may not be read has its directory already.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        result => result.map_err(failed("sync", above)),
    }
}

/// Who uses a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct User {
    /// The process, if that could be read.
    pub process: Option<u32>,
}

/// Who serves, or repairs, the directory at this moment. Asking takes the lock for that moment if nobody has it.
pub fn user_of<D: Disk>(disk: &D, path: &Path) -> Result<Option<User>, DiskError> {
    let name = path.join(LOCK);
    let file = match disk.open(&name, Open::Read) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(failed("open", &name))?,
    };
    let is_free = file.lock().map_err(failed("lock", &name))?;
    Ok((!is_free).then(|| User { process: holder(&file) }))
}

/// The process that the lock's file names.
fn holder(file: &impl DiskFile) -> Option<u32> {
    let mut text = [0; 16];
    let read = file.read_full_at(&mut text, 0).unwrap_or(0);
    std::str::from_utf8(&text[..read]).ok().and_then(|text| text.trim().parse().ok())
}

/// Locks the directory for whoever serves it.
fn lock<D: Disk>(disk: &D, path: &Path, access: Access) -> Result<Option<D::File>, DiskError> {
    if access == Access::Inspect {
        return Ok(None);
    }
    let name = path.join(LOCK);
    let file = disk.open(&name, Open::Keep).map_err(failed("create", &name))?;
    if !file.lock().map_err(failed("lock", &name))? {
        return Err(DiskError::InUse { path: path.to_owned(), holder: holder(&file) });
    }
    // As long for each process, so that nothing of the one before stays.
    let text = format!("{:<15}\n", std::process::id());
    file.write_all_at(text.as_bytes(), 0).map_err(failed("write", &name))?;
    Ok(Some(file))
}

/// Whether the log of a manifest needs a segment.
fn needs(manifest: &Manifest, id: SegmentId) -> bool {
    let shard = manifest.shards.get(id.shard as usize);
    shard.is_some_and(|shard| (id.generation, id.number) >= (shard.first_generation, shard.first_segment))
}

fn names_snapshot(manifest: &Manifest, id: SnapshotId) -> bool {
    manifest.shards.get(id.shard as usize).is_some_and(|shard| shard.snapshot == Some(id.id))
}

fn has_same_snapshots(one: &Manifest, other: &Manifest) -> bool {
    one.shards.iter().map(|shard| shard.snapshot).eq(other.shards.iter().map(|shard| shard.snapshot))
}

#[cfg(test)]
mod tests;
