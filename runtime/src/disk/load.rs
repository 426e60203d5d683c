//! What the disk has, on its way into a shard: of each part the snapshot, then the log behind it. A part is what one shard of
//! the process before has left; there is one of them, or, where the number of shards has changed, all, of which each new
//! shard takes the keys that are its own.
//!
//! A [`Load`] does this in steps of less than a millisecond, on the thread of the shard, which serves clients in between (it
//! refuses keys). All files of a log are read before they are mapped, so that a disk that fails is an error, and not the
//! end of the process when a page is looked at. What has been redone is unmapped.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;

use torc_engine::id::Millis;
use torc_engine::limits::SNAPSHOT_BLOCK_BYTES_MAX;
use torc_engine::log::{End, Expected, Lsn, Paused, Recovery, Replay, Segment, Step, Why};
use torc_engine::shard::Shard;
use torc_engine::snapshot::{Header, Loader, PAGE_BYTES};
use tracing::warn;

use super::DiskError;
use super::files::{Disk, DiskFile, Host, Open};
use super::names::{SegmentId, SnapshotId};
use super::start::{SnapshotFault, StartError, file_of};
use crate::limits::LOAD_READ_BYTES;

type HostFile = <Host as Disk>::File;
type HostMap = <HostFile as DiskFile>::Map;

/// What the disk has for one shard. It is the same for all if the number of shards has changed.
#[derive(Clone, Debug)]
pub struct Source {
    pub(super) parts: Arc<Vec<Part>>,
    /// Which of them; None: all.
    pub(super) own: Option<u16>,
    /// What is made of a log that does not end as it should.
    pub(super) recovery: Recovery,
}

/// What one shard of the process before has left.
#[derive(Debug)]
pub(super) struct Part {
    pub database: [u8; 16],
    pub directory: PathBuf,
    pub shard: u16,
    /// How many there were.
    pub shards: u16,
    pub snapshot: Option<(SnapshotId, PathBuf, u64)>,
    /// The last record that the snapshot contains.
    pub base: Lsn,
    /// The log, with the bytes of its files.
    pub segments: Vec<(SegmentId, PathBuf, u64)>,
}

/// How a part ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartEnd {
    /// The shard of the process before.
    pub shard: u16,
    /// Of the log; `last_lsn`, `last_txid` and `wall_ms` are not below those of the snapshot.
    pub end: End,
    /// The last version that was given to a key, as far as the snapshot knows.
    pub last_version: u64,
    /// Damage of the log was left out: what is there no log says.
    pub is_salvaged: bool,
}

/// The loading of one shard.
pub struct Load {
    source: Source,
    left: VecDeque<u16>,
    state: State,
    buffer: Vec<u8>,
    ended: Vec<PartEnd>,
    /// Bytes of the part that were counted, and of all parts that were not asked for yet.
    counted: u64,
    uncounted: u64,
}

enum State {
    Between,
    Snapshot(Snapshot),
    Reading(Reading),
    Redoing(Redoing),
}

/// A snapshot that is being read.
struct Snapshot {
    part: u16,
    file: HostFile,
    bytes: u64,
    /// Read so far, and how much of that waits at the beginning of the buffer.
    at: u64,
    held: usize,
    loader: Loader,
}

/// The files of a log that are being read, and mapped.
struct Reading {
    part: u16,
    header: Option<Box<Header>>,
    maps: Vec<Option<HostMap>>,
    /// The file that is read, and how far.
    file: Option<(HostFile, u64)>,
}

/// A log that is being redone.
struct Redoing {
    part: u16,
    header: Option<Box<Header>>,
    maps: Vec<Option<HostMap>>,
    /// None before the first step.
    paused: Option<Paused>,
    is_salvaged: bool,
}

impl Part {
    fn bytes(&self) -> u64 {
        let segments: u64 = self.segments.iter().map(|(_, _, bytes)| bytes).sum();
        segments + self.snapshot.as_ref().map_or(0, |(_, _, bytes)| *bytes)
    }

    fn refuse_snapshot(&self, fault: SnapshotFault) -> StartError {
        let path = self.snapshot.as_ref().map_or_else(PathBuf::new, |(_, path, _)| path.clone());
        StartError::Snapshot { shard: self.shard, path, fault }
    }
}

impl Source {
    fn parts(&self) -> impl Iterator<Item = &Part> {
        self.parts.iter().filter(|part| self.own.is_none_or(|own| part.shard == own))
    }

    /// Bytes of the files.
    pub fn bytes(&self) -> u64 {
        self.parts().map(Part::bytes).sum()
    }
}

impl Load {
    pub fn new(source: Source) -> Load {
        let left = source.parts().map(|part| part.shard).collect();
        let (state, buffer) = (State::Between, Vec::new());
        Load { source, left, state, buffer, ended: Vec::new(), counted: 0, uncounted: 0 }
    }

    /// Loads a little. False: everything was loaded, and [`Load::into_ends`] says how it ended. After an error the shard is
    /// of no use.
    pub fn step(&mut self, shard: &mut Shard) -> Result<bool, StartError> {
        self.state = match std::mem::replace(&mut self.state, State::Between) {
            State::Between => match self.left.pop_front() {
                Some(part) => self.begin(part, shard)?,
                None => {
                    self.buffer = Vec::new();
                    return Ok(false);
                }
            },
            State::Snapshot(snapshot) => self.load(snapshot, shard)?,
            State::Reading(reading) => self.read(reading)?,
            State::Redoing(redoing) => self.redo(redoing, shard)?,
        };
        Ok(true)
    }

    /// Bytes that were loaded since this was asked last. In the end all of [`Source::bytes`] was.
    pub fn take_loaded_bytes(&mut self) -> u64 {
        std::mem::take(&mut self.uncounted)
    }

    /// How each part ended, in their order.
    pub fn into_ends(self) -> Vec<PartEnd> {
        self.ended
    }

    fn count(&mut self, bytes: u64) {
        self.counted += bytes;
        self.uncounted += bytes;
    }

    fn begin(&mut self, index: u16, shard: &mut Shard) -> Result<State, StartError> {
        self.counted = 0;
        let parts = self.source.parts.clone();
        let part = &parts[index as usize];
        let Some((id, path, _)) = &part.snapshot else { return Ok(Load::begin_reading(index, None)) };
        let file = Host.open(path, Open::Read).map_err(failed("open", path))?;
        let bytes = file.bytes().map_err(failed("look at", path))?;
        let mut page = [0; PAGE_BYTES];
        let read = file.read_full_at(&mut page, 0).map_err(failed("read", path))?;
        if read < page.len() {
            return Err(part.refuse_snapshot(SnapshotFault::Short));
        }
        let loader = Loader::new(&page, bytes).map_err(|damage| part.refuse_snapshot(damage.into()))?;
        let header = loader.header();
        let wrong = match header {
            _ if header.database != part.database => Some("database"),
            _ if header.snapshot != id.id => Some("snapshot"),
            _ if (header.shard, header.shards) != (part.shard, part.shards) => Some("shard"),
            _ if header.base_lsn != part.base.0 => Some("moment"),
            _ => None,
        };
        if let Some(what) = wrong {
            return Err(part.refuse_snapshot(SnapshotFault::Other(what)));
        }
        let is_own = self.source.own.is_some();
        shard.begin_snapshot_load(header, is_own).map_err(|refused| part.refuse_snapshot(refused.into()))?;
        self.buffer.resize(SNAPSHOT_BLOCK_BYTES_MAX, 0);
        self.count(PAGE_BYTES as u64);
        Ok(State::Snapshot(Snapshot { part: index, file, bytes, at: PAGE_BYTES as u64, held: 0, loader }))
    }

    fn load(&mut self, snapshot: Snapshot, shard: &mut Shard) -> Result<State, StartError> {
        let Snapshot { part: index, file, bytes, mut at, mut held, mut loader } = snapshot;
        let parts = self.source.parts.clone();
        let part = &parts[index as usize];
        let path = part.snapshot.as_ref().map_or(&part.directory, |(_, path, _)| path);
        let refuse = |damage: torc_engine::snapshot::Damage| part.refuse_snapshot(damage.into());
        let more = file.read_full_at(&mut self.buffer[held..], at).map_err(failed("read", path))?;
        at += more as u64;
        held += more;
        let taken = loader.read(&self.buffer[..held], |entries| shard.load(entries)).map_err(refuse)?;
        if taken == 0 {
            if more > 0 {
                return Err(part.refuse_snapshot(SnapshotFault::Short));
            }
            let header = Box::new(loader.header().clone());
            loader.finish().map_err(refuse)?;
            return Ok(Load::begin_reading(index, Some(header)));
        }
        self.buffer.copy_within(taken..held, 0);
        self.count(taken as u64);
        Ok(State::Snapshot(Snapshot { part: index, file, bytes, at, held: held - taken, loader }))
    }

    fn begin_reading(part: u16, header: Option<Box<Header>>) -> State {
        State::Reading(Reading { part, header, maps: Vec::new(), file: None })
    }

    fn read(&mut self, mut reading: Reading) -> Result<State, StartError> {
        let parts = self.source.parts.clone();
        let part = &parts[reading.part as usize];
        let Some((_, path, _)) = part.segments.get(reading.maps.len()) else {
            self.buffer = Vec::new();
            let Reading { part, header, maps, .. } = reading;
            return Ok(State::Redoing(Redoing { part, header, maps, paused: None, is_salvaged: false }));
        };
        let (file, at) = match reading.file.take() {
            Some(opened) => opened,
            None => (Host.open(path, Open::Read).map_err(failed("open", path))?, 0),
        };
        self.buffer.resize(LOAD_READ_BYTES, 0);
        match file.read_full_at(&mut self.buffer, at).map_err(failed("read", path))? {
            0 => reading.maps.push(Some(file.map().map_err(failed("map", path))?)),
            read => reading.file = Some((file, at + read as u64)),
        }
        Ok(State::Reading(reading))
    }

    fn redo(&mut self, mut redoing: Redoing, shard: &mut Shard) -> Result<State, StartError> {
        let parts = self.source.parts.clone();
        let part = &parts[redoing.part as usize];
        let segments: Vec<Segment<'_>> = part
            .segments
            .iter()
            .zip(&redoing.maps)
            .map(|((id, ..), map)| {
                let bytes = map.as_ref().map_or(&[][..], AsRef::as_ref);
                Segment { generation: id.generation, segment: id.number, bytes }
            })
            .collect();
        let expected = Expected { database: part.database, shard: part.shard, base: part.base };
        let mut replay = match redoing.paused.take() {
            Some(paused) => Replay::resume(paused, &segments),
            None => Replay::new(expected, &segments),
        };
        let before = replay.bytes_read();
        let recovery = self.source.recovery;
        let (id, directory) = (part.shard, || part.directory.clone());
        let step = recovery.step(&mut replay, |records| shard.redo(records)).map_err(|damage| match damage.why {
            Why::Version(_) => StartError::Version { shard: id, directory: directory(), damage },
            _ => StartError::Damaged { shard: id, directory: directory(), damage },
        })?;
        if let Step::LeftOut(damage, goes_on) = step {
            redoing.is_salvaged = true;
            let lost = match goes_on {
                Some(last) => format!("records {} to {last} are LOST, and what follows is read on", damage.first),
                None => format!("everything from record {} on is LOST", damage.first),
            };
            let file = part.directory.join(file_of(id, &damage).to_string());
            warn!("the log of shard {id} is damaged, in the file {}: {damage}; {lost}", file.display());
        }
        let read = replay.bytes_read().saturating_sub(before);
        if step == Step::Done {
            let end = replay.end();
            recovery.accept(&end).map_err(|refused| StartError::Refused {
                shard: id,
                directory: directory(),
                refused,
            })?;
            let all = part.bytes();
            self.ended
                .push(PartEnd { is_salvaged: redoing.is_salvaged, ..end_of(part, end, redoing.header.as_deref()) });
            self.count(all.saturating_sub(self.counted));
            return Ok(State::Between);
        }
        let paused = replay.pause();
        let done = paused.segments_done();
        redoing.maps[..done].iter_mut().for_each(|map| *map = None);
        redoing.paused = Some(paused);
        self.count(read);
        Ok(State::Redoing(redoing))
    }
}

fn end_of(part: &Part, mut end: End, header: Option<&Header>) -> PartEnd {
    end.last_lsn = end.last_lsn.max(part.base);
    if let Some(header) = header {
        end.last_txid = end.last_txid.max(header.last_txid);
        end.wall_ms = end.wall_ms.max(Millis(header.wall_ms));
    }
    PartEnd { shard: part.shard, end, last_version: header.map_or(0, |header| header.last_version), is_salvaged: false }
}

/// The error of a step on a file.
fn failed(step: &'static str, path: &std::path::Path) -> impl FnOnce(std::io::Error) -> DiskError {
    let path = path.to_owned();
    move |source| DiskError::Io { step, path, source }
}

#[cfg(test)]
mod tests;
