//! The start of a process that logs, in the order that [`super`] describes: what the directory has is redone by the shards,
//! each on its own thread, and then each gets a log to write to.

use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use rustix::rand::{GetRandomFlags, getrandom};
use thiserror::Error;
use torc_engine::id::{Millis, ShardId};
use torc_engine::limits::LOG_SEGMENT_FIRST_BYTES;
use torc_engine::log::manifest::{Manifest, ShardManifest};
use torc_engine::log::{Buffer, Damage, End, Expected, FsyncPolicy, Journal, LogStart, Lsn, Replay, Tail};
use torc_engine::log::{Segment as LogSegment, WriteError as JournalError, WriteStep as JournalStep};
use torc_engine::shard::Shard;
use tracing::{info, warn};

use super::DiskError;
use super::directory::{Access, Directory, PoolSize};
use super::files::{Disk, DiskFile, Host};
use super::log::{JournalIo, LogDriver, LogFailure, SegmentSizes, Write};
use super::names::SegmentId;
use super::pool::{self, DiskThread, Lane};
use crate::limits::{LOAD_LOG_INTERVAL, POOL_FILES_PER_SHARD};
use crate::ring::{SyncMethod, WriteStep};

/// The number of the first segment of a generation.
const FIRST_SEGMENT: u64 = 1;

/// Why a process that is to log does not start.
#[derive(Debug, Error)]
pub enum StartError {
    #[error(transparent)]
    Disk(#[from] DiskError),
    #[error(
        "the log of shard {shard} in {directory} is damaged: {damage}. Nothing was changed; `torc check {directory}` shows all \
         that is damaged. Bring the files back from a copy, or give up what is lost: `torc repair {directory} --skip-batch` leaves \
         out what cannot be read, `torc repair {directory} --truncate` that and all that came after it on the shard; both keep \
         copies and say what is lost (--dry-run: and change nothing). Or move the directory away to begin with nothing"
    )]
    Damaged { shard: u16, directory: PathBuf, damage: Damage },
    #[error(
        "the data directory {directory} was written by {written} shards, and this start has {wanted}: choose as many cores \
         (--cores), or name another directory (--dir)"
    )]
    Shards { directory: PathBuf, written: usize, wanted: usize },
    #[error("cannot {step}: {source}")]
    Machine { step: &'static str, source: std::io::Error },
}

/// The data directory, before the shards have what is in it.
pub struct Opened {
    directory: Directory<Host>,
    database: [u8; 16],
    shards: usize,
}

/// What the disk has of one shard.
pub struct Source {
    expected: Expected,
    directory: PathBuf,
    segments: Vec<(SegmentId, <<Host as Disk>::File as DiskFile>::Map)>,
}

/// What a shard needs to log.
pub struct Seat {
    pub driver: LogDriver<Buffer>,
    pub start: LogStart,
    /// The latest time that the log has seen.
    pub wall_ms: Millis,
}

impl Opened {
    /// Opens the directory for so many shards.
    pub fn open(path: &Path, shards: usize) -> Result<Opened, StartError> {
        let directory = Directory::open(Host, path, Access::Serve)?;
        let database = match directory.manifest() {
            Some(manifest) if manifest.shards.len() != shards => {
                let (directory, written) = (path.to_owned(), manifest.shards.len());
                return Err(StartError::Shards { directory, written, wanted: shards });
            }
            Some(manifest) => manifest.database,
            None => random()?,
        };
        Ok(Opened { directory, database, shards })
    }

    /// What there is to be redone by each shard. Reads all of it.
    pub fn sources(&self) -> Result<Vec<Source>, StartError> {
        (0..self.shards as u16)
            .map(|shard| {
                let base = self.directory.manifest().map_or(Lsn(0), |found| found.shards[shard as usize].base_lsn);
                let segments = self.directory.log_of(shard).into_iter();
                let segments = segments.map(|(id, _)| Ok((id, self.directory.map_segment(id)?)));
                Ok(Source {
                    expected: Expected { database: self.database, shard, base },
                    directory: self.directory.path().to_owned(),
                    segments: segments.collect::<Result<_, DiskError>>()?,
                })
            })
            .collect()
    }

    /// Cuts torn tails off, makes the first segment of each log, and notes that they count. `ends` are by shard.
    pub fn begin(
        mut self,
        ends: &[End],
        segment_bytes: u64,
        shard_cores: &[usize],
        wake: impl Fn(u16) + Send + 'static,
    ) -> Result<(DiskThread<Host>, Vec<Seat>), StartError> {
        let segment_bytes = segment_bytes.next_multiple_of(4096);
        let sizes = SegmentSizes { first_bytes: LOG_SEGMENT_FIRST_BYTES.min(segment_bytes), full_bytes: segment_bytes };
        let pool = PoolSize { segment_bytes, files: POOL_FILES_PER_SHARD * self.shards };
        let generation = self.directory.next_generation();
        let mut shards = Vec::new();
        for (shard, end) in ends.iter().enumerate() {
            shards.push(self.settle_log(shard as u16, end, generation, pool)?);
        }
        let manifest = Manifest {
            number: 0,
            database: self.database,
            generation,
            last_txid: ends.iter().map(|end| end.last_txid).max().unwrap_or(0),
            wall_ms: wall_ms(),
            shards,
        };
        let database = self.database;
        let machine = |source| StartError::Machine { step: "start a thread", source };
        let (thread, lanes) = pool::start(self.directory, pool, shard_cores, wake).map_err(machine)?;
        let mut seats = Vec::new();
        for (lane, end) in lanes.into_iter().zip(ends) {
            seats.push(seat(lane, end, database, generation, shard_cores.len() as u16, sizes)?);
        }
        for seat in &mut seats {
            seat.driver.lane().wait()?;
        }
        let (told, switched) = std::sync::mpsc::channel();
        thread.caller().call(move |directory| {
            let _ = told.send(directory.switch(manifest));
        });
        switched.recv().expect("the thread answers")?;
        Ok((thread, seats))
    }

    /// Cuts the torn tail of a shard's log off and removes what is behind its end. Gives what the manifest says of the shard.
    fn settle_log(
        &mut self,
        shard: u16,
        end: &End,
        generation: u64,
        pool: PoolSize,
    ) -> Result<ShardManifest, StartError> {
        if let Tail::Torn(torn) = end.tail {
            let id = SegmentId { shard, generation: torn.generation, number: torn.segment };
            let copy = self.directory.repair_tail(id, torn.offset, torn.bytes)?;
            warn!(
                "the log of shard {shard} ended in the middle of a write that was not synced: {} bytes of {} from offset {} on were \
                 copied to {} and cut off",
                torn.bytes,
                self.directory.segment_path(id).display(),
                torn.offset,
                copy.display()
            );
        }
        let needed = self.directory.manifest().map(|manifest| manifest.shards[shard as usize]);
        let empty: Vec<SegmentId> = self
            .directory
            .log_of(shard)
            .into_iter()
            .map(|(id, _)| id)
            .filter(|id| end.last_segment.is_none_or(|last| (id.generation, id.number) > last))
            .collect();
        for id in empty {
            self.directory.discard(id, pool)?;
        }
        let is_empty = self.directory.log_of(shard).is_empty();
        let first = ShardManifest {
            snapshot: None,
            base_lsn: Lsn(0),
            first_generation: generation,
            first_segment: FIRST_SEGMENT,
            next_keyspace: 0,
        };
        Ok(match needed {
            Some(needed) if !is_empty => needed,
            Some(needed) => ShardManifest { first_generation: generation, first_segment: FIRST_SEGMENT, ..needed },
            None => first,
        })
    }
}

fn seat(
    lane: Lane<Host>,
    end: &End,
    database: [u8; 16],
    generation: u64,
    shards: u16,
    sizes: SegmentSizes,
) -> Result<Seat, StartError> {
    let start = LogStart {
        database,
        generation,
        shard: lane.shard(),
        shards,
        segment: FIRST_SEGMENT,
        salt: u64::from_le_bytes(random()?),
        next_lsn: Lsn(end.last_lsn.0 + 1),
        last_txid: end.last_txid,
        segment_bytes: sizes.full_bytes,
        first_segment_bytes: sizes.first_bytes,
        previous: end.previous,
    };
    let driver = LogDriver::new(lane, SyncMethod::Linked, sizes, generation, FIRST_SEGMENT);
    Ok(Seat { driver, start, wall_ms: end.wall_ms })
}

impl Source {
    /// Has the shard redo all of it, on the shard's thread.
    pub fn redo(self, shard: &mut Shard) -> Result<End, StartError> {
        let segments: Vec<LogSegment<'_>> = self
            .segments
            .iter()
            .map(|(id, map)| LogSegment { generation: id.generation, segment: id.number, bytes: map.as_ref() })
            .collect();
        let (began, mut told) = (Instant::now(), Instant::now());
        let mut replay = Replay::new(self.expected, &segments);
        let id = self.expected.shard;
        let damaged = |damage| StartError::Damaged { shard: id, directory: self.directory.clone(), damage };
        while replay.step(|records| shard.redo(records)).map_err(damaged)? {
            if told.elapsed() >= LOAD_LOG_INTERVAL {
                told = Instant::now();
                info!("shard {id} is loading: {} MiB of the log are read", replay.bytes_read() >> 20);
            }
        }
        let end = replay.end();
        if end.changes > 0 {
            info!("shard {id} has redone {} changes in {:.3} s", end.changes, began.elapsed().as_secs_f64());
        }
        Ok(end)
    }

    pub fn shard(&self) -> ShardId {
        ShardId(self.expected.shard)
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

    fn handle_written(&mut self, result: Result<bool, &LogFailure>, buffer: Buffer) {
        let result = result.map_err(|failure| JournalError {
            step: match failure.fault.step {
                WriteStep::Write => JournalStep::Write,
                WriteStep::Sync => JournalStep::Sync,
            },
            errno: failure.fault.errno.0,
        });
        self.journal.handle_written(result, buffer);
    }
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

fn wall_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}
