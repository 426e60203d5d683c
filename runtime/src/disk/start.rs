//! The start of a process that logs, in the order that [`super`] describes: what the directory has is loaded by the shards,
//! each on its own thread ([`super::load`]), and then each gets a log to write to.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::rand::{GetRandomFlags, getrandom};
use thiserror::Error;
use torc_engine::id::Millis;
use torc_engine::limits::LOG_SEGMENT_FIRST_BYTES;
use torc_engine::log::manifest::{Manifest, ShardManifest};
use torc_engine::log::{Buffer, Damage, FsyncPolicy, Journal, LogStart, Lsn, RecordsEnd, Recovery, Refused, Tail};
use torc_engine::log::{WriteError as JournalError, WriteStep as JournalStep};
use torc_engine::snapshot::Damage as SnapshotDamage;
use torc_engine::store::KeyspacesRefused;
use tracing::warn;

use super::DiskError;
use super::directory::{Access, Directory, PoolSize};
use super::error::folder;
use super::files::Host;
use super::load::{Part, PartEnd, Source};
use super::log::{JournalIo, LogDriver, LogFailure, SegmentSizes, Write};
use super::names::{SegmentId, SnapshotId};
use super::pool::{self, DiskThread, Haste, Lane, Opening};
use crate::limits::{POOL_FILES_PER_SHARD, SEGMENT_BYTES_MIN};
use crate::ring::{SyncMethod, WriteStep};

/// The number of the first segment of a generation.
pub const FIRST_SEGMENT: u64 = 1;

/// Why a process that is to log does not start.
#[derive(Debug, Error)]
pub enum StartError {
    #[error(transparent)]
    Disk(#[from] DiskError),
    #[error(
        "the log of shard {shard} in {directory} is damaged, in the file {file}: {damage}. Nothing was changed; \
         `torc check {directory}` shows all that is damaged. Bring the files back from a copy, or give up what is lost: `torc repair {directory} --skip-batch` leaves \
         out what cannot be read, `torc repair {directory} --truncate` that and all that came after it on the shard; both keep \
         copies and say what is lost (--dry-run: and change nothing). Or move the directory away to begin with nothing",
        file = file_of(*.shard, .damage)
    )]
    Damaged { shard: u16, directory: PathBuf, damage: Damage },
    #[error("the log of shard {shard} in {directory} is not taken: {refused}. Nothing was changed")]
    Refused { shard: u16, directory: PathBuf, refused: Refused },
    #[error(
        "the snapshot {path} of shard {shard} cannot be used: {fault}. Nothing was changed; bring the file back from a copy. An older \
         snapshot that is kept, with the log behind it, may make up for it: `torc check {folder}` shows whether there is one, and \
         `torc repair {folder} --skip-batch` takes it then (--dry-run: and change nothing). Or move the directory away to begin with \
         nothing",
        folder = folder(.path)
    )]
    Snapshot { shard: u16, path: PathBuf, fault: SnapshotFault },
    #[error(
        "the logs of two shards in {directory} contradict each other about which database is which (layout {number}). Nothing was \
         changed; run `torc check` on the directory"
    )]
    Layout { directory: PathBuf, number: u64 },
    #[error(
        "the log of shard {shard} in {directory} was written by another version of Torc, in the file {file}: {damage}. Nothing was \
         changed; start the version that wrote it, or name another directory (--dir)",
        file = file_of(*.shard, .damage)
    )]
    Version { shard: u16, directory: PathBuf, damage: Damage },
    #[error(
        "the data directory {directory} has keys that this process has not loaded, as persistence was off when it was \
         started: start it with appendonly yes or with save points, or name an empty directory (--dir)"
    )]
    NotLoaded { directory: PathBuf },
    #[error(transparent)]
    Segment(Arc<DiskError>),
    #[error("cannot {step}: {source}")]
    Machine { step: &'static str, source: std::io::Error },
}

/// The file of a shard's log that damage is in.
pub(super) fn file_of(shard: u16, damage: &Damage) -> SegmentId {
    SegmentId { shard, generation: damage.generation, number: damage.segment }
}

/// What is wrong with a snapshot.
#[derive(Debug, Error)]
pub enum SnapshotFault {
    #[error(transparent)]
    Damage(#[from] SnapshotDamage),
    #[error("the file ends before the snapshot does")]
    Short,
    #[error("it is sound, but of another {0} than the manifest names")]
    Other(&'static str),
    #[error(transparent)]
    Keyspaces(#[from] KeyspacesRefused),
}

/// The data directory, before the shards have what is in it.
pub struct Opened {
    directory: Directory<Host>,
    database: [u8; 16],
    shards: usize,
}

/// What a shard needs to log.
pub struct Seat {
    pub driver: LogDriver<Buffer>,
    pub start: LogStart,
}

/// The data directory, served by the disk's thread.
pub struct Folder {
    pub thread: DiskThread<Host>,
    /// By shard; None when the shard has it.
    pub lanes: Vec<Option<Lane<Host>>>,
    pub database: [u8; 16],
    /// The generation of the logs, or of what was saved last.
    pub generation: u64,
    pub pool: PoolSize,
    pub sizes: SegmentSizes,
}

/// Logs that have begun.
pub struct Begun {
    pub folder: Folder,
    /// By shard.
    pub seats: Vec<Seat>,
    pub relayout: Relayout,
}

/// Whether what is on the disk is of as many shards as there are now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relayout {
    /// It is, and the manifest counts the new segments.
    Done,
    /// It is not, or damage was left out when it was read. The manifest that counts is still the old one, and nothing that is logged counts, until all shards have
    /// taken a snapshot and the directory was switched to a manifest that names these. Clients have to wait for that.
    NeedsSnapshot,
}

impl Opened {
    /// Opens the directory for so many shards.
    pub fn open(path: &Path, shards: usize) -> Result<Opened, StartError> {
        let directory = Directory::open(Host, path, Access::Serve)?;
        let database = match directory.manifest() {
            Some(manifest) => manifest.database,
            None => random()?,
        };
        Ok(Opened { directory, database, shards })
    }

    /// How many shards have written what is there.
    pub fn written_by(&self) -> usize {
        self.directory.manifest().map_or(self.shards, |manifest| manifest.shards.len())
    }

    /// Bytes of the snapshots that there are to be loaded.
    pub fn snapshot_bytes(&self) -> u64 {
        let shards = self.directory.manifest().into_iter().flat_map(|manifest| manifest.shards.iter().zip(0..));
        let snapshots = shards.filter_map(|(state, shard)| Some(SnapshotId { id: state.snapshot?, shard }));
        snapshots.map(|id| self.directory.snapshot_bytes(id)).sum()
    }

    /// What there is to be loaded by each shard.
    pub fn sources(&self, recovery: Recovery) -> Vec<Source> {
        let shards = self.written_by();
        let part = |shard: u16| {
            let state = self.directory.manifest().map(|manifest| manifest.shards[shard as usize]);
            let snapshot = state.and_then(|state| state.snapshot).map(|id| SnapshotId { id, shard });
            let segments = self.directory.log_of(shard).into_iter();
            Part {
                database: self.database,
                directory: self.directory.path().to_owned(),
                shard,
                shards: shards as u16,
                snapshot: snapshot.map(|id| (id, self.directory.snapshot_path(id), self.directory.snapshot_bytes(id))),
                base: state.map_or(Lsn(0), |state| state.base_lsn),
                segments: segments.map(|(id, bytes)| (id, self.directory.segment_path(id), bytes)).collect(),
            }
        };
        let parts: Arc<Vec<Part>> = Arc::new((0..shards as u16).map(part).collect());
        let own = |shard: u16| (shards == self.shards).then_some(shard);
        (0..self.shards as u16).map(|shard| Source { parts: parts.clone(), own: own(shard), recovery }).collect()
    }

    /// Cuts torn tails off, makes the first segment of each log, and notes that they count, if they can. `ends` are those of
    /// all shards of the process before, once each and in their order.
    pub fn begin(
        mut self,
        ends: &[PartEnd],
        policy: FsyncPolicy,
        segment_bytes: u64,
        shard_cores: &[usize],
        wake: impl Fn(u16) + Send + 'static,
    ) -> Result<Begun, StartError> {
        assert!(ends.iter().map(|end| end.shard as usize).eq(0..self.written_by()));
        let (sizes, pool) = sizes(segment_bytes, self.shards);
        let (database, generation) = (self.database, self.directory.next_generation());
        let is_salvaged = ends.iter().any(|end| end.is_salvaged);
        let relayout = match ends.len() == self.shards && !is_salvaged {
            true => Relayout::Done,
            false => Relayout::NeedsSnapshot,
        };
        // What was read past damage stays as it is, until a snapshot has what could be read.
        ends.iter().filter(|end| !end.is_salvaged).try_for_each(|end| self.repair(end))?;
        self.directory.remove_unclaimed(generation)?;
        let last_txid = ends.iter().map(|end| end.end.last_txid).max().unwrap_or(0);
        let opening = match relayout {
            Relayout::NeedsSnapshot => None,
            Relayout::Done => {
                let shards = ends.iter().map(|end| self.settle_log(end, generation, pool));
                let shards = shards.collect::<Result<_, DiskError>>()?;
                let manifest = Manifest { number: 0, database, generation, last_txid, wall_ms: now_ms(), shards };
                let records_end = |part: &PartEnd| {
                    let RecordsEnd { generation, segment, offset, .. } = part.end.records_end?;
                    Some((SegmentId { shard: part.shard, generation, number: segment }, offset))
                };
                Some(Opening { manifest, ends: ends.iter().filter_map(records_end).collect() })
            }
        };
        let machine = |source| StartError::Machine { step: "start a thread", source };
        let (thread, lanes) = pool::start(self.directory, pool, shard_cores, wake).map_err(machine)?;
        if let Some(opening) = opening {
            thread.open(opening);
        }
        // Where shards have changed each goes on behind all records that there are, so that no number is used twice.
        let last_of_all = ends.iter().map(|end| end.end.last_lsn).max().unwrap_or_default();
        let mut seats = Vec::new();
        for (lane, shard) in lanes.into_iter().zip(0..) {
            let (last, previous) = match relayout {
                Relayout::Done => {
                    let end = &ends[shard].end;
                    (end.last_lsn, end.records_end.and_then(|end| end.previous))
                }
                Relayout::NeedsSnapshot => (last_of_all, None),
            };
            let start = LogStart {
                database,
                generation,
                shard: lane.shard(),
                shards: shard_cores.len() as u16,
                segment: FIRST_SEGMENT,
                salt: salt(),
                next_lsn: Lsn(last.0 + 1),
                last_txid: if relayout == Relayout::Done { ends[shard].end.last_txid } else { last_txid },
                segment_bytes: sizes.full_bytes,
                first_segment_bytes: sizes.first_bytes,
                previous,
            };
            let mut driver = LogDriver::new(lane, SyncMethod::Linked, sizes, generation, FIRST_SEGMENT);
            // Clients wait for it.
            driver.lane().hurry(Haste::Soon);
            driver.set_filling(policy == FsyncPolicy::Always);
            seats.push(Seat { driver, start });
        }
        seats.iter_mut().try_for_each(Seat::wait_for_segment)?;
        let lanes = shard_cores.iter().map(|_| None).collect();
        Ok(Begun { folder: Folder { thread, lanes, database, generation, pool, sizes }, seats, relayout })
    }

    /// Opens a directory that nothing was loaded from, for saves: there must be nothing in it.
    pub fn open_unused(path: &Path, shards: usize) -> Result<Opened, StartError> {
        let opened = Opened::open(path, shards)?;
        let names_data =
            |manifest: &Manifest| manifest.shards.iter().any(|shard| shard.snapshot.is_some() || shard.has_log());
        match opened.directory.manifest().is_some_and(names_data) {
            true => Err(StartError::NotLoaded { directory: path.to_owned() }),
            false => Ok(opened),
        }
    }

    /// Has the disk's thread serve the directory, without logs. One that is new gets a manifest that names nothing: otherwise
    /// the files of a first snapshot that a crash interrupts would be data without a manifest.
    pub fn serve(
        mut self,
        segment_bytes: u64,
        shard_cores: &[usize],
        wake: impl Fn(u16) + Send + 'static,
    ) -> Result<Folder, StartError> {
        let (sizes, pool) = sizes(segment_bytes, self.shards);
        let (database, generation) = (self.database, self.directory.next_generation());
        if self.directory.manifest().is_none() {
            let nothing =
                ShardManifest { snapshot: None, base_lsn: Lsn(0), first_generation: generation, first_segment: 0 };
            let shards = vec![nothing; self.shards];
            let manifest = Manifest { number: 0, database, generation, last_txid: 0, wall_ms: now_ms(), shards };
            self.directory.switch(manifest)?;
        }
        let machine = |source| StartError::Machine { step: "start a thread", source };
        let (thread, lanes) = pool::start(self.directory, pool, shard_cores, wake).map_err(machine)?;
        Ok(Folder { thread, lanes: lanes.into_iter().map(Some).collect(), database, generation, pool, sizes })
    }

    /// Cuts the torn tail of a log off.
    fn repair(&mut self, part: &PartEnd) -> Result<(), StartError> {
        let Tail::Torn(torn) = part.end.tail else { return Ok(()) };
        let id = SegmentId { shard: part.shard, generation: torn.generation, number: torn.segment };
        let copy = self.directory.repair_tail(id, torn.offset, torn.bytes)?;
        warn!(
            "the log of shard {} ended in the middle of a write that was not synced: {} bytes of {} from offset {} on were \
             copied to {} and cut off",
            part.shard,
            torn.bytes,
            self.directory.segment_path(id).display(),
            torn.offset,
            copy.display()
        );
        for number in torn.segment + 1..=torn.last_segment {
            if let Some(aside) = self.directory.set_aside(SegmentId { number, ..id })? {
                warn!("what was behind it is {} now", aside.display());
            }
        }
        Ok(())
    }

    /// Removes what is behind the end of a log. Gives what the next manifest says of the shard.
    fn settle_log(&mut self, part: &PartEnd, generation: u64, pool: PoolSize) -> Result<ShardManifest, DiskError> {
        let needed = self.directory.manifest().map(|manifest| manifest.shards[part.shard as usize]);
        // What has no records goes, headers and seals too: the next log begins where the records end.
        let last = part.end.records_end.map(|last| (last.generation, last.segment));
        let all: Vec<SegmentId> = self.directory.log_of(part.shard).into_iter().map(|(id, _)| id).collect();
        for id in all.into_iter().filter(|id| last.is_none_or(|last| (id.generation, id.number) > last)) {
            // The manifest needs its first until there is another manifest.
            let is_first = needed
                .is_some_and(|needed| (needed.first_generation, needed.first_segment) == (id.generation, id.number));
            if !is_first {
                self.directory.discard(id, pool)?;
            }
        }
        let new = ShardManifest {
            snapshot: None,
            base_lsn: Lsn(0),
            first_generation: generation,
            first_segment: FIRST_SEGMENT,
        };
        Ok(match needed {
            Some(needed) if last.is_some() => needed,
            Some(ShardManifest { snapshot, base_lsn, .. }) => ShardManifest { snapshot, base_lsn, ..new },
            None => new,
        })
    }
}

/// The sizes of segments, and what is kept of free ones.
fn sizes(segment_bytes: u64, shards: usize) -> (SegmentSizes, PoolSize) {
    let segment_bytes = segment_bytes.next_multiple_of(4096);
    let sizes = SegmentSizes { first_bytes: LOG_SEGMENT_FIRST_BYTES.min(segment_bytes), full_bytes: segment_bytes };
    (sizes, PoolSize { segment_bytes, files: POOL_FILES_PER_SHARD * shards })
}

impl Seat {
    /// Waits for the first segment. On a full disk it may be smaller than others, or not be there for now: then the shard serves
    /// reads until it is.
    fn wait_for_segment(&mut self) -> Result<(), StartError> {
        let most = self.start.first_segment_bytes;
        let bytes = match self.driver.lane().wait() {
            Ok(()) => self.driver.lane().ready_bytes().unwrap_or(most),
            Err(error) if error.is_full() => SEGMENT_BYTES_MIN,
            Err(error) => return Err(StartError::Segment(error)),
        };
        self.start.first_segment_bytes = most.min(bytes);
        self.driver.set_first_bytes(self.start.first_segment_bytes);
        Ok(())
    }
}

/// A journal as its driver wants it.
pub struct Policed<'a> {
    pub journal: &'a mut Journal,
    pub policy: FsyncPolicy,
}

impl JournalIo for Policed<'_> {
    type Buffer = Buffer;

    fn poll_write(&mut self, now: Millis) -> Option<Write<Buffer>> {
        let write = self.journal.poll_write(now, self.policy)?;
        Some(Write { segment: write.segment, offset: write.offset, buffer: write.buffer, sync: write.sync })
    }

    fn poll_sync(&mut self, now: Millis) -> Option<u64> {
        self.journal.poll_sync(now, self.policy)
    }

    fn handle_synced(&mut self, result: Result<(), &LogFailure>) {
        self.journal.handle_synced(result.map_err(as_the_journal_says));
    }

    fn handle_written(&mut self, result: Result<bool, &LogFailure>, buffer: Buffer) {
        self.journal.handle_written(result.map_err(as_the_journal_says), buffer);
    }
}

fn as_the_journal_says(failure: &LogFailure) -> JournalError {
    let step = match failure.fault.step {
        WriteStep::Write => JournalStep::Write,
        WriteStep::Sync => JournalStep::Sync,
    };
    JournalError { step, errno: failure.fault.errno.0 }
}

fn random<const N: usize>() -> Result<[u8; N], StartError> {
    let mut bytes = [0; N];
    let mut filled = 0;
    while filled < N {
        filled += getrandom(&mut bytes[filled..], GetRandomFlags::empty())
            .map_err(|errno| StartError::Machine { step: "get random bytes", source: errno.into() })?;
    }
    Ok(bytes)
}

/// What tells the batches of one log from those of another that used the same file. They also differ in generation, so
/// without random numbers the clock will do.
pub fn salt() -> u64 {
    random().map_or_else(|_| now_ms(), u64::from_le_bytes)
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}
