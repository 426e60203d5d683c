//! Saves: a snapshot of every shard, and then a manifest that names them. The main thread leads; here is what it knows.
//!
//! ```text
//! asked (ledger) -> files are made (disk's thread) -> every shard writes its own (worker/snapshot.rs)
//!                -> manifest, and what is not needed any more goes (disk's thread) -> told to all
//! ```
//!
//! One save is under way at a time. If a shard's part fails all are given up, and what counted before still does; if one was
//! flushed meanwhile they are begun anew. A save may begin logs too: of shards that had none (`appendonly` was switched on), or
//! whose log has failed. Such a log counts from the manifest on that names the snapshots before it.

mod ledger;

use std::fs::File;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use torc_engine::log::manifest::{Manifest, ShardManifest};
use tracing::{error, info, warn};

use crate::disk::start::{self, Folder, StartError};
use crate::disk::{DiskError, Host, SnapshotId};
use crate::limits::SNAPSHOT_RESTARTS_MAX;
use crate::worker::{Bell, Control, LogOrder, Notice, SnapshotEnd, SnapshotFailure, SnapshotOrder, SnapshotPart};

pub use ledger::Ledger;

/// How the shards are reached.
pub struct Wires {
    pub controls: Vec<Sender<Control>>,
    pub bells: Arc<Vec<Bell>>,
    pub notices: Sender<Notice>,
}

impl Wires {
    /// Tells one shard something.
    pub fn tell(&self, shard: usize, order: Control) {
        // A worker that is gone has taken the process with it.
        let _ = self.controls[shard].send(order);
        self.bells[shard].notify();
    }

    /// Tells all shards something.
    pub fn tell_all(&self, order: impl Fn() -> Control) {
        (0..self.controls.len()).for_each(|shard| self.tell(shard, order()));
    }
}

/// Files for a snapshot of all shards, made by the disk's thread.
#[derive(Debug)]
pub struct Files {
    id: u64,
    /// Of logs that begin with it, if any do.
    generation: u64,
    files: Vec<Arc<File>>,
}

/// A step of a save that the disk's thread has done.
#[derive(Debug)]
pub enum SaveStep {
    Made(Result<Files, DiskError>),
    /// With what could not be removed.
    Switched(Result<Option<DiskError>, DiskError>),
}

/// What is under way.
enum State {
    Idle,
    Making,
    /// `fresh`: a generation that no log has.
    Writing {
        id: u64,
        fresh: u64,
        parts: Vec<Option<Result<SnapshotPart, SnapshotFailure>>>,
    },
    Switching {
        bytes: u64,
        entries: u64,
    },
}

/// What the main thread knows of saves.
pub struct Saver {
    ledger: Arc<Ledger>,
    wires: Wires,
    folder: Option<Folder>,
    state: State,
    began: Instant,
    /// How often the save under way was begun anew.
    restarts: u32,
    /// By shard: the save under way begins a log; the next one is to begin one.
    begins_log: Vec<bool>,
    wants_log: Vec<bool>,
}

impl Saver {
    /// Without a data directory: the first save opens it, unless [`Saver::set_folder`] comes before.
    pub fn new(ledger: Arc<Ledger>, wires: Wires) -> Saver {
        let shards = wires.controls.len();
        Saver {
            ledger,
            wires,
            folder: None,
            state: State::Idle,
            began: Instant::now(),
            restarts: 0,
            begins_log: vec![false; shards],
            wants_log: vec![false; shards],
        }
    }

    /// The data directory is open.
    pub fn set_folder(&mut self, folder: Folder) {
        self.folder = Some(folder);
    }

    /// Whether a save is under way.
    pub fn is_busy(&self) -> bool {
        !matches!(self.state, State::Idle)
    }

    /// A save was asked for, and is in the ledger. `open` opens the directory if it is not.
    pub fn begin(&mut self, open: impl FnOnce() -> Result<Folder, StartError>) {
        assert!(!self.is_busy(), "the ledger has one at a time");
        if self.folder.is_none() {
            match open() {
                Ok(folder) => self.folder = Some(folder),
                Err(error) => {
                    error!("no snapshot is taken: {error}");
                    return self.end(None);
                }
            }
        }
        (self.began, self.restarts) = (Instant::now(), 0);
        self.begins_log = std::mem::replace(&mut self.wants_log, vec![false; self.begins_log.len()]);
        self.make_files();
    }

    /// The next save begins a log for this shard.
    pub fn want_log(&mut self, shard: usize) {
        self.wants_log[shard] = true;
    }

    /// No log is to begin any more.
    pub fn want_no_logs(&mut self) {
        self.wants_log.fill(false);
        self.begins_log.fill(false);
    }

    /// Whether a shard waits for a save that begins its log.
    pub fn wants_logs(&self) -> bool {
        self.wants_log.contains(&true)
    }

    /// Gives up what is under way, as far as shards are at it: the process is to end.
    pub fn abort(&mut self) {
        if let State::Writing { id, .. } = self.state {
            self.wires.tell_all(|| Control::AbortSnapshot(id));
        }
    }

    pub fn wires(&self) -> &Wires {
        &self.wires
    }

    pub fn ledger(&self) -> &Arc<Ledger> {
        &self.ledger
    }

    fn make_files(&mut self) {
        self.state = State::Making;
        let Some(folder) = &self.folder else { unreachable!("it was opened") };
        let shards = self.wires.controls.len() as u16;
        let (notices, last) = (self.wires.notices.clone(), folder.generation);
        folder.thread.caller().call(move |directory| {
            let id = directory.next_snapshot();
            let generation = directory.next_generation().max(last + 1);
            let make = |shard| directory.create_snapshot(SnapshotId { id, shard }).map(|(file, _)| file);
            let files: Result<Vec<Arc<File>>, DiskError> = (0..shards).map(make).collect();
            if files.is_err() {
                give_up(directory, id, shards);
            }
            let files = files.map(|files| Files { id, generation, files });
            // The main thread ends after this one.
            let _ = notices.send(Notice::SaveStep(SaveStep::Made(files)));
        });
    }

    /// The disk's thread has done a step.
    pub fn handle_step(&mut self, step: SaveStep) {
        match step {
            SaveStep::Made(Ok(files)) => self.order(files),
            SaveStep::Made(Err(error)) | SaveStep::Switched(Err(error)) => {
                error!("a snapshot failed: {error}; what was saved before still counts");
                self.end(None);
            }
            SaveStep::Switched(Ok(stays)) => {
                if let Some(error) = stays {
                    warn!(
                        "what the snapshot made superfluous could not be removed, and is tried again after the next: {error}"
                    );
                }
                let State::Switching { bytes, entries } = self.state else { unreachable!("it was switching") };
                let took = self.began.elapsed().as_secs_f64();
                info!("a snapshot of {entries} keys, {bytes} bytes, was taken in {took:.3} s");
                self.end(Some(bytes));
            }
        }
    }

    /// Has every shard write its part.
    fn order(&mut self, files: Files) {
        let Some(folder) = &mut self.folder else { unreachable!("it was opened") };
        let Files { id, generation, files } = files;
        if self.begins_log.contains(&true) {
            folder.generation = generation;
        }
        let shards = files.len();
        for (shard, file) in files.into_iter().enumerate() {
            let log = self.begins_log[shard].then(|| LogOrder {
                lane: folder.lanes[shard].take(),
                generation,
                salt: start::salt(),
                shards: shards as u16,
                sizes: folder.sizes,
            });
            self.wires
                .tell(shard, Control::Snapshot(Box::new(SnapshotOrder { id, database: folder.database, file, log })));
        }
        self.state = State::Writing { id, fresh: generation, parts: (0..shards).map(|_| None).collect() };
    }

    /// A shard has written its part, or has not.
    pub fn handle_part(&mut self, end: SnapshotEnd) {
        let State::Writing { id, parts, .. } = &mut self.state else { unreachable!("shards were told to write") };
        assert_eq!(*id, end.id, "one save is under way");
        let id = *id;
        let is_first_failure = end.result.is_err() && !parts.iter().flatten().any(Result::is_err);
        parts[usize::from(end.shard)] = Some(end.result);
        let is_whole = parts.iter().all(Option::is_some);
        if is_first_failure {
            if let Err(SnapshotFailure::Write(fault)) = end.result {
                error!("shard {} cannot write its snapshot: {fault}", end.shard);
            }
            self.wires.tell_all(|| Control::AbortSnapshot(id));
        }
        if is_whole {
            self.conclude();
        }
    }

    /// All parts have ended.
    fn conclude(&mut self) {
        let State::Writing { id, fresh, parts } = std::mem::replace(&mut self.state, State::Idle) else {
            unreachable!("parts were awaited")
        };
        let Some(folder) = &mut self.folder else { unreachable!("it was opened") };
        let caller = folder.thread.caller();
        let shards = parts.len() as u16;
        let has_failed = parts
            .iter()
            .flatten()
            .any(|part| matches!(part, Err(SnapshotFailure::Write(_) | SnapshotFailure::NoSegment)));
        let Ok(parts): Result<Vec<SnapshotPart>, SnapshotFailure> = parts.into_iter().flatten().collect() else {
            caller.call(move |directory| give_up(directory, id, shards));
            // The logs that were to begin have begun, or what follows begins them again: with files of their own.
            return match has_failed || self.restarts == SNAPSHOT_RESTARTS_MAX {
                true => {
                    if !has_failed {
                        error!("a snapshot is given up: keys were flushed again and again while it was taken");
                    }
                    self.end(None);
                }
                false => {
                    info!("keys were flushed while a snapshot was taken, which begins anew");
                    self.restarts += 1;
                    self.make_files();
                }
            };
        };
        if parts.iter().any(|part| part.base.segment.is_none()) {
            folder.generation = folder.generation.max(fresh);
        }
        let generation = folder.generation;
        let of = |part: &SnapshotPart| {
            // Segments are counted from 1: there is no log behind it.
            let (first_generation, first_segment) = part.base.segment.unwrap_or((generation, 0));
            ShardManifest { snapshot: Some(id), base_lsn: part.base.base_lsn, first_generation, first_segment }
        };
        let manifest = Manifest {
            number: 0,
            database: folder.database,
            generation,
            last_txid: 0,
            wall_ms: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64),
            shards: parts.iter().map(of).collect(),
        };
        let sum = |of: fn(&SnapshotPart) -> u64| parts.iter().map(of).sum();
        self.state =
            State::Switching { bytes: sum(|part| part.totals.bytes), entries: sum(|part| part.totals.entries) };
        let (notices, pool) = (self.wires.notices.clone(), folder.pool);
        caller.call(move |directory| {
            let switched = directory.switch(manifest).map(|_| directory.recycle(pool, true).err());
            // If it is not known which manifest would be found after a crash, what the new one names has to stay.
            if switched.is_err() && !directory.is_unsettled() {
                give_up(directory, id, shards);
            }
            let _ = notices.send(Notice::SaveStep(SaveStep::Switched(switched)));
        });
    }

    /// The save has ended.
    fn end(&mut self, bytes: Option<u64>) {
        self.state = State::Idle;
        self.ledger.end(bytes);
        for (shard, begun) in self.begins_log.iter_mut().enumerate() {
            let begun = std::mem::take(begun);
            // Who had a log that failed, or none, still needs one.
            self.wants_log[shard] |= begun && bytes.is_none();
            self.wires
                .tell(shard, Control::SaveEnded { is_good: bytes.is_some(), log_resumed: begun && bytes.is_some() });
        }
    }

    /// Ends the disk's thread. False: it has panicked.
    pub fn stop(self) -> bool {
        self.folder.is_none_or(|folder| {
            drop(folder.lanes);
            folder.thread.stop()
        })
    }
}

/// Removes what there is of a snapshot. What cannot be removed is removed at the next start.
fn give_up(directory: &mut crate::disk::Directory<Host>, id: u64, shards: u16) {
    for shard in 0..shards {
        if let Err(error) = directory.abort_snapshot(SnapshotId { id, shard }) {
            warn!("a part of a snapshot that was given up stays for now: {error}");
        }
    }
}
