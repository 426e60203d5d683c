//! A save of all shards, step by step, as `runtime/src/saver` and `runtime/src/worker/snapshot.rs` lead it: a snapshot of each shard,
//! in a file of its own, and then a manifest that names them. A log that has failed is begun anew behind its shard's snapshot.

use torc_engine::id::Millis;
use torc_engine::log::manifest::{Manifest, ShardManifest};
use torc_engine::log::{LogStart, Lsn};
use torc_engine::machine::SaveKind;
use torc_engine::shard::SnapshotBase;
use torc_engine::snapshot::{Block, Totals};
use torc_engine::store::{SnapshotProgress, SnapshotRefused};

use super::file::File;
use super::folder::{FileId, Folder, Name, Switch};
use super::{DATABASE, LogDriver, Weather};
use crate::content::Content;
use crate::coverage::{Coverage, Event};
use crate::oracle::Oracle;
use crate::shards::Shards;

/// Blocks of one shard under way, and times that a save is begun anew, as the runtime has it.
const WRITES_MAX: usize = 4;
const RESTARTS_MAX: u32 = 16;
/// Steps after which a save that was to begin a log, and failed, is tried again.
const RETRY_STEPS: u64 = 60;

pub(crate) struct Saver {
    state: State,
    restarts: u32,
    /// By shard: the save under way begins a log; the next one is to begin one.
    begins_log: Vec<bool>,
    wants_log: Vec<bool>,
    retry_at: u64,
    /// No save is begun any more.
    pub is_ending: bool,
}

enum State {
    Idle,
    Writing { id: u64, generation: u64, parts: Vec<Part> },
    Switching { switch: Switch, id: u64, bytes: u64, until: u64 },
}

struct Part {
    file: FileId,
    base: Option<SnapshotBase>,
    /// With the step at which each is written, and whether that fails.
    under_way: Vec<(u64, bool, Block)>,
    failure: Option<Failure>,
    end: Option<Result<Totals, Failure>>,
    begins_log: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Failure {
    Aborted,
    Fault,
}

/// What a save works with.
pub(crate) struct Tools<'a> {
    pub shards: &'a mut Shards,
    pub drivers: &'a mut Vec<Option<LogDriver>>,
    /// By shard: its log has failed, and none counts yet that was begun after it.
    pub log_lost: &'a mut Vec<bool>,
    pub folder: &'a mut Folder,
    pub weathers: &'a mut Vec<Weather>,
    pub oracle: &'a mut Oracle,
    pub coverage: &'a mut Coverage,
    pub sizes: (u64, u64),
    /// The generation of the logs that were begun at the start; of a database without logs, its own.
    pub generation: &'a mut u64,
    pub step: u64,
    /// What has happened to the keys that clients share, so far.
    pub moment: u64,
}

impl Saver {
    pub fn new(shards: usize) -> Saver {
        Saver {
            state: State::Idle,
            restarts: 0,
            begins_log: vec![false; shards],
            wants_log: vec![false; shards],
            retry_at: 0,
            is_ending: false,
        }
    }

    /// The log of a shard has failed: the next save begins another.
    pub fn want_log(&mut self, shard: usize, shards: &mut Shards) {
        self.wants_log[shard] = true;
        shards.machine.schedule(SaveKind::Rewrite);
    }

    pub fn is_idle(&self) -> bool {
        matches!(self.state, State::Idle)
    }

    /// Whether a log is to be begun.
    pub fn wants_logs(&self) -> bool {
        self.wants_log.contains(&true)
    }

    /// How many steps of a switch are done, if one is under way.
    pub fn switching(&self) -> Option<u32> {
        match &self.state {
            State::Switching { switch, .. } => Some(switch.steps_done()),
            _ => None,
        }
    }

    /// A step of the world.
    pub fn pass(&mut self, tools: &mut Tools<'_>) {
        match &self.state {
            State::Idle => {
                if self.wants_logs() && tools.step >= self.retry_at && !self.is_ending {
                    tools.shards.machine.schedule(SaveKind::Rewrite);
                    self.retry_at = tools.step + RETRY_STEPS;
                }
                if tools.shards.machine.saves.running.is_some() {
                    self.restarts = 0;
                    let none = vec![false; self.wants_log.len()];
                    self.begins_log = std::mem::replace(&mut self.wants_log, none);
                    self.begin(tools);
                }
            }
            State::Writing { .. } => self.write(tools),
            State::Switching { .. } => self.advance(tools),
        }
    }

    fn begin(&mut self, tools: &mut Tools<'_>) {
        let id = tools.folder.next_snapshot();
        let generation = tools.folder.next_generation();
        tools.folder.writing = Some(id);
        if tools.weathers[0].save_error(tools.step).is_some() {
            tools.folder.writing = None;
            return self.end(None, id, tools);
        }
        let parts = (0..tools.shards.shards.len() as u16).map(|shard| Part {
            file: tools.folder.create(Name::Snapshot { id, shard }, File::default()),
            base: None,
            under_way: Vec::new(),
            failure: None,
            end: None,
            begins_log: self.begins_log[shard as usize],
        });
        let parts = parts.collect();
        self.state = State::Writing { id, generation, parts };
    }

    fn write(&mut self, tools: &mut Tools<'_>) {
        let State::Writing { id, generation, parts } = &mut self.state else { return };
        let (id, generation) = (*id, *generation);
        let mut fails = false;
        for (shard, part) in parts.iter_mut().enumerate().filter(|(_, part)| part.end.is_none()) {
            part.advance(shard, id, generation, tools);
            fails |= matches!(part.end, Some(Err(_)));
        }
        if fails {
            for (part, shard) in parts.iter_mut().zip(&mut tools.shards.shards).filter(|(part, _)| part.end.is_none()) {
                part.failure.get_or_insert(Failure::Aborted);
                shard.abort_snapshot();
            }
        }
        if parts.iter().all(|part| part.end.is_some()) {
            self.conclude(tools);
        }
    }

    /// All parts have ended.
    fn conclude(&mut self, tools: &mut Tools<'_>) {
        let State::Writing { id, generation, parts } = std::mem::replace(&mut self.state, State::Idle) else { return };
        if parts.iter().any(|part| !matches!(part.end, Some(Ok(_)))) {
            let has_failed = parts.iter().any(|part| part.end.is_some_and(|end| end == Err(Failure::Fault)));
            give_up(id, parts.len(), tools);
            if has_failed || self.restarts == RESTARTS_MAX {
                return self.end(None, id, tools);
            }
            tools.coverage.note(Event::SaveBegunAnewByFlush);
            self.restarts += 1;
            return self.begin(tools);
        }
        let bases: Vec<SnapshotBase> = parts.iter().map(|part| part.base.expect("it was begun")).collect();
        let is_anew = self.begins_log.contains(&true) || bases.iter().any(|base| base.segment.is_none());
        if is_anew {
            *tools.generation = generation;
        }
        let current = *tools.generation;
        let of = |base: &SnapshotBase| {
            let (first_generation, first_segment) = base.segment.unwrap_or((current, 0));
            ShardManifest { snapshot: Some(id), base_lsn: base.base_lsn, first_generation, first_segment }
        };
        let manifest = Manifest {
            number: 0,
            database: DATABASE,
            generation: current,
            last_txid: 0,
            wall_ms: tools.shards.now().0,
            shards: bases.iter().map(of).collect(),
        };
        let bytes = parts.iter().filter_map(|part| part.end).flatten().map(|totals| totals.bytes).sum();
        let switch = Switch::new(tools.folder, manifest, tools.sizes.1 as usize);
        self.state = State::Switching { switch, id, bytes, until: tools.step };
    }

    fn advance(&mut self, tools: &mut Tools<'_>) {
        let State::Switching { switch, id, bytes, until } = &mut self.state else { return };
        if *until > tools.step || tools.weathers[0].is_stalled(tools.step) {
            return;
        }
        *until = tools.weathers[0].end_of(tools.step);
        let (id, bytes) = (*id, *bytes);
        let fails = tools.weathers[0].save_error(tools.step).is_some();
        let advanced = switch.advance(tools.folder, fails);
        match advanced {
            Ok(true) => {
                self.state = State::Idle;
                self.end(Some(bytes), id, tools);
            }
            Ok(false) => {}
            Err(()) => {
                if !tools.folder.is_unsettled() {
                    give_up(id, self.wants_log.len(), tools);
                }
                self.state = State::Idle;
                self.end(None, id, tools);
            }
        }
    }

    /// The save has ended.
    fn end(&mut self, bytes: Option<u64>, id: u64, tools: &mut Tools<'_>) {
        let is_good = bytes.is_some();
        tools.coverage.note(if is_good { Event::SaveDone } else { Event::SaveFailed });
        if !is_good && !tools.folder.is_unsettled() {
            tools.oracle.forget_snapshot(id);
        }
        tools.shards.machine.end_save(bytes);
        for (shard, begun) in self.begins_log.iter_mut().enumerate() {
            let begun = std::mem::take(begun);
            self.wants_log[shard] |= begun && !is_good;
            let state = &mut tools.shards.shards[shard];
            if is_good {
                state.forget_evicted_at_load();
            }
            if begun && is_good {
                match state.journal().is_poisoned() {
                    // It has failed meanwhile too.
                    true => self.wants_log[shard] = true,
                    false => {
                        tools.log_lost[shard] = false;
                        tools.coverage.note(Event::LogBegunAnew);
                    }
                }
            }
            tools.shards.shards[shard].handle_save_ended();
        }
        self.retry_at = tools.step + RETRY_STEPS;
    }
}

impl Part {
    /// What the worker of a shard does for its snapshot after a turn.
    fn advance(&mut self, index: usize, id: u64, generation: u64, tools: &mut Tools<'_>) {
        let (step, now) = (tools.step, tools.shards.now());
        if self.base.is_none() && self.failure.is_none() && !self.begin(index, id, generation, tools, now) {
            return;
        }
        let (shard, weather) = (&mut tools.shards.shards[index], &mut tools.weathers[index]);
        while self.failure.is_none() && self.under_way.len() < WRITES_MAX {
            let Some(block) = shard.poll_snapshot_block() else { break };
            self.under_way.push((weather.end_of(step), weather.save_error(step).is_some(), block));
        }
        let mut at = 0;
        while at < self.under_way.len() && !weather.is_stalled(step) {
            if self.under_way[at].0 > step {
                at += 1;
                continue;
            }
            let (_, fails, block) = self.under_way.swap_remove(at);
            if let Some(file) = tools.folder.file(self.file).filter(|_| !fails) {
                file.write(block.offset as usize, block.buffer.as_slice());
            }
            shard.handle_snapshot_block_written(block);
            if fails {
                self.failure = Some(Failure::Fault);
                shard.abort_snapshot();
            }
        }
        if !self.under_way.is_empty() {
            return;
        }
        self.end = match (self.failure, shard.snapshot_progress()) {
            (Some(failure), _) => Some(Err(failure)),
            (None, SnapshotProgress::Aborted) => Some(Err(Failure::Aborted)),
            (None, SnapshotProgress::Finished(totals)) => self.first_segment(index, tools).then_some(Ok(totals)),
            (None, _) => None,
        };
        if let Some(Ok(totals)) = self.end {
            let file = tools.folder.file(self.file).expect("it is being written").bytes();
            assert_eq!(totals.bytes, file.len() as u64);
            let base = self.base.expect("it was begun").base_lsn;
            let wanted = tools.oracle.snapshot(index as u16, id);
            Content::of_snapshot(file, base).compare(wanted, false, "in a snapshot");
        }
    }

    /// Begins the snapshot, and the log behind it. False: not yet.
    fn begin(&mut self, index: usize, id: u64, generation: u64, tools: &mut Tools<'_>, now: Millis) -> bool {
        let count = tools.shards.shards.len() as u16;
        let shard = &mut tools.shards.shards[index];
        if self.begins_log {
            let driver = &mut tools.drivers[index];
            if driver.as_ref().is_some_and(LogDriver::is_busy) {
                return false;
            }
            let before = shard.journal().last_lsn();
            let (full, first) = (tools.sizes.1, tools.sizes.0);
            let start = LogStart {
                database: DATABASE,
                generation,
                shard: index as u16,
                shards: count,
                segment: 1,
                salt: generation << 8 | index as u64,
                next_lsn: Lsn(before.0 + 1),
                last_txid: 0,
                segment_bytes: full,
                first_segment_bytes: first,
                previous: None,
            };
            shard.begin_log(start);
            tools.oracle.note_log(index as u16, generation, before);
            *driver = Some(LogDriver::new(start, None));
            self.begins_log = false;
        }
        match shard.begin_snapshot(DATABASE, id, now) {
            Ok(base) => {
                self.base = Some(base);
                tools.oracle.note_snapshot(index as u16, id, Content::of_shard(shard), tools.moment);
                true
            }
            Err(SnapshotRefused::Unsettled) => false,
            Err(SnapshotRefused::Running) => panic!("it was not known that one runs"),
        }
    }

    /// Names the segment that replay begins with which follows the snapshot. False: it has no file yet.
    fn first_segment(&mut self, index: usize, tools: &mut Tools<'_>) -> bool {
        let Some(base) = &mut self.base else { return false };
        let (Some((generation, segment)), Some(driver)) = (base.segment, &tools.drivers[index]) else { return true };
        if driver.has_failed() {
            return true;
        }
        match driver.oldest_segment() {
            Some(current) => base.segment = Some((generation, segment.min(current))),
            None if driver.is_full() => self.end = Some(Err(Failure::Fault)),
            None => return false,
        }
        self.end.is_none()
    }
}

/// Removes what there is of a snapshot.
fn give_up(id: u64, shards: usize, tools: &mut Tools<'_>) {
    (0..shards as u16).for_each(|shard| tools.folder.remove(Name::Snapshot { id, shard }));
    tools.folder.writing = None;
}
