//! The shard's part of a start: what the disk has is loaded in slices between which clients are told to wait; then the main
//! thread, when it has heard that of all shards, gives each its place in the log; and when it has heard that all have begun
//! theirs, it lets them serve. So a shard that serves is never asked before the others can answer what it asks them.

use std::sync::Arc;
use std::time::Instant;

use torc_engine::id::{Millis, ShardId};
use torc_engine::store::Databases;

use super::{Notice, Parts, Worker, wall_clock};
use crate::disk::load::{Load, PartEnd, Source};
use crate::disk::start::Seat;
use crate::limits::LOAD_SLICE;
use crate::progress::Progress;

/// What a shard has to load, and whom it tells how far it is.
pub struct Loading {
    /// None when it is through.
    load: Option<Load>,
    progress: Arc<Progress>,
    /// Keys when that was told last.
    keys: u64,
    /// The log has begun, and what had expired at this time is being removed.
    ending: Option<Millis>,
}

/// What a shard tells when it has loaded everything.
#[derive(Debug)]
pub struct Loaded {
    pub shard: ShardId,
    pub ends: Vec<PartEnd>,
    pub layout: Databases,
}

/// What a shard needs to go on behind what it has loaded.
pub struct Beginning {
    /// None: nothing is to be logged.
    pub seat: Option<Seat>,
    /// The latest time that the logs have seen.
    pub wall_ms: Millis,
    /// The last layout that any shard knows.
    pub layout: Databases,
}

/// What a shard tells when it can be asked for keys.
#[derive(Clone, Copy, Debug)]
pub struct GoneOn {
    pub shard: ShardId,
    pub keys: u64,
    /// Keys that did not fit into `maxmemory`.
    pub evicted: u64,
    /// All that is left is more than `maxmemory`.
    pub is_over: bool,
}

impl Loading {
    pub fn new(source: Source, progress: Arc<Progress>) -> Loading {
        Loading { load: Some(Load::new(source)), progress, keys: 0, ending: None }
    }
}

impl Worker {
    /// Whether there is something to do for it at once.
    pub(super) fn has_to_load(&mut self) -> bool {
        let pending = self.parts.shard.is_log_behind();
        let has = |loading: &Loading| loading.load.is_some() || loading.ending.is_some() && !pending;
        self.parts.loading.as_ref().is_some_and(has)
    }

    /// Loads a slice, if anything is left to load, or ends the loading a slice further.
    pub(super) fn load_slice(&mut self) {
        let Parts { shard, machine, loading, notices, id, .. } = &mut self.parts;
        let Some(loading) = loading else { return };
        let began = Instant::now();
        if let Some(now) = loading.ending {
            while began.elapsed() < LOAD_SLICE && shard.drop_expired_slice(now) {}
            if shard.is_swept() {
                loading.ending = None;
                let evicted = shard.end_redo(now);
                let (shard_id, keys, is_over) = (*id, shard.keys(), shard.is_over_budget(machine, now));
                let _ = notices.send(Notice::GoneOn(GoneOn { shard: shard_id, keys, evicted, is_over }));
            }
            return;
        }
        let Some(load) = &mut loading.load else {
            // Others still load, and may need what this shard has beyond its share of `maxmemory`.
            shard.evict_loaded_slice(self.now, machine);
            return;
        };
        let outcome = loop {
            // What is there no more goes before more comes.
            if !shard.free_redone_slice() && !shard.evict_loaded_slice(self.now, machine) {
                match load.step(shard) {
                    Ok(true) => {}
                    Ok(false) => break Some(Ok(())),
                    Err(error) => break Some(Err(error)),
                }
            }
            if began.elapsed() >= LOAD_SLICE {
                break None;
            }
        };
        let keys = shard.keys();
        loading.progress.add(load.take_loaded_bytes(), std::mem::replace(&mut loading.keys, keys), keys);
        let Some(outcome) = outcome else { return };
        let Some(load) = loading.load.take() else { return };
        // The main thread outlives the workers.
        let _ = notices.send(match outcome {
            Ok(()) => Notice::Loaded(Loaded { shard: *id, ends: load.into_ends(), layout: shard.layout() }),
            Err(error) => Notice::LoadFailed(error),
        });
    }

    /// Begins the log behind what was loaded, if there is to be one, and has what expired meanwhile removed, in slices. Then
    /// other shards may ask.
    pub(super) fn go_on(&mut self, beginning: Beginning) {
        let Beginning { seat, wall_ms, layout } = beginning;
        let Parts { shard, log, loading, .. } = &mut self.parts;
        if let Some(Seat { driver, start }) = seat {
            shard.begin_log(start);
            *log = Some(driver);
        }
        shard.adopt_layout(&layout).expect("the main thread has compared the layouts");
        while shard.free_redone_slice() {}
        if let Some(loading) = loading {
            // What had expired when the process before was there has expired, whatever the clock says now.
            loading.ending = Some(wall_clock().max(wall_ms));
        }
    }

    /// Serves clients from this turn on, if all shards can be asked for keys.
    #[inline]
    pub(super) fn look_whether_to_serve(&mut self) {
        if self.parts.loading.as_ref().is_some_and(|loading| loading.progress.is_serving()) {
            self.parts.loading = None;
            self.parts.shard.end_loading(self.now);
        }
    }
}
