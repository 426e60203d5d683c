//! One life of the process: the shards and the queues between them, their logs, saves, and the start, which finds what the life
//! before has left. What the runtime's workers and its main thread do (`runtime/src/crew.rs`, `runtime/src/worker`), in one thread
//! and a step at a time, so that it can end between any two steps.

use torc_engine::id::{Millis, ShardId};
use torc_engine::limits;
use torc_engine::log::manifest::{Manifest, ShardManifest};
use torc_engine::log::{FsyncPolicy, LogStart, Lsn, Tail};
use torc_engine::machine::SaveKind;
use torc_engine::shard::{Event as ShardEvent, Input, Writes};
use torc_engine::store::{Databases, SnapshotProgress};

use crate::client::Guest;
use crate::content::Content;
use crate::coverage::{Coverage, Event};
use crate::options::Options;
use crate::oracle::{Found, Oracle};
use crate::queues::Queues;
use crate::random::Random;
use crate::shards::{Connection, Shards};
use crate::storage::{
    DATABASE, Ending, FileId, Folder, Load, LogDriver, LogTools, Name, SaveTools, Saver, Switch, Weather,
};
use crate::trace::Trace;

/// Steps that a stop may take.
const STOP_STEPS_MAX: u64 = 5_000;
/// Keys that may be removed by a turn: what its slices may expire and evict.
const REMOVALS_PER_TURN_MAX: u64 = (limits::EXPIRE_SLICES_PER_TICK * limits::EXPIRE_SLICE_ENTRIES) as u64;

/// What outlives the process.
pub(crate) struct Outside {
    pub folder: Folder,
    /// By shard of the process that runs.
    pub weathers: Vec<Weather>,
    pub oracle: Oracle,
    pub coverage: Coverage,
    pub trace: Trace,
    pub random: Random,
    pub step: u64,
    /// What has happened to the keys that clients share, so far.
    pub moment: u64,
    /// What the wall clock says.
    pub now: Millis,
    pub turns: u64,
}

pub(crate) struct Process {
    pub shards: Shards,
    pub queues: Queues,
    drivers: Vec<Option<LogDriver>>,
    /// By shard: its log has failed, and none counts yet that was begun after it.
    log_lost: Vec<bool>,
    saver: Saver,
    stage: Stage,
    /// By shard: does not move before this step; and something has happened that wakes it.
    sleeps_until: Vec<u64>,
    is_woken: Vec<bool>,
    /// Of the logs, or of the database without logs.
    generation: u64,
    logs: bool,
    /// Sizes of segments: of the first, and of the others.
    sizes: (u64, u64),
    /// What the start found; None before it has.
    pub found: Option<Found>,
}

enum Stage {
    Loading(Vec<Load>),
    Opening {
        switch: Option<Switch>,
        until: u64,
        starts: Vec<(LogStart, FileId)>,
        layout: Databases,
        wall_ms: Millis,
        counts: bool,
    },
    Sweeping {
        now: Millis,
        counts: bool,
    },
    /// A snapshot of as many shards as there are now has to count before anything that they log does.
    Laying,
    Serving,
    Stopping {
        since: u64,
    },
}

/// Why a process is not there any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// It has stopped in order.
    Stopped,
    /// Its log failed under `appendfsync always`.
    LogFailed,
    /// The snapshot that a start needs failed.
    LayoutSaveFailed,
}

impl Process {
    /// Starts with so many shards.
    pub fn start(options: &Options, shards: usize, outside: &mut Outside) -> Process {
        let folder = &mut outside.folder;
        if !options.logs {
            // Without a log nobody is promised that what is found now would be found again.
            folder.sync_names();
        }
        folder.open();
        let seed = [outside.random.number(), outside.random.number(), outside.random.number(), outside.random.number()];
        let settings = options.settings();
        let settings: Vec<(&str, Vec<&str>)> =
            settings.iter().map(|(name, words)| (*name, words.split(' ').collect())).collect();
        let settings: Vec<(&str, &[&str])> = settings.iter().map(|(name, words)| (*name, words.as_slice())).collect();
        let mut started = Shards::begin(shards, &settings, seed, outside.now);
        let parts = folder.manifest().map_or(shards, |manifest| manifest.shards.len());
        outside.coverage.note_if(parts != shards, Event::ShardsChanged);
        let is_own = parts == shards;
        let own = |shard: usize| if is_own { shard as u16..shard as u16 + 1 } else { 0..parts as u16 };
        let loads = (0..shards).map(|shard| Load::new(own(shard), is_own)).collect();
        started.shards.iter_mut().for_each(|shard| shard.begin_loading());
        let random = outside.random.fork();
        Process {
            queues: Queues::new(shards, options.queue_capacity, options.delay_max, random),
            shards: started,
            drivers: (0..shards).map(|_| None).collect(),
            log_lost: vec![false; shards],
            saver: Saver::new(shards),
            stage: Stage::Loading(loads),
            sleeps_until: vec![0; shards],
            is_woken: vec![true; shards],
            generation: 0,
            logs: options.logs,
            sizes: options.segment_bytes,
            found: None,
        }
    }

    pub fn is_serving(&self) -> bool {
        matches!(self.stage, Stage::Serving)
    }

    pub fn is_loading(&self) -> bool {
        !matches!(self.stage, Stage::Serving | Stage::Stopping { .. })
    }

    /// Whether a save is under way, and how many steps of its switch are done.
    pub fn saving(&self) -> (bool, Option<u32>) {
        (!self.saver.is_idle(), self.saver.switching())
    }

    /// How many steps of the switch of a start are done.
    pub fn opening(&self) -> Option<u32> {
        match &self.stage {
            Stage::Opening { switch: Some(switch), .. } => Some(switch.steps_done()),
            _ => None,
        }
    }

    /// Begins to stop in order.
    pub fn stop(&mut self, step: u64) {
        if self.is_serving() {
            self.stage = Stage::Stopping { since: step };
            self.shards.shards.iter_mut().for_each(|shard| shard.begin_shutdown());
            self.is_woken.fill(true);
            self.saver.is_ending = true;
        }
    }

    /// For messages: what the shards and their logs wait for.
    pub fn waits_for(&mut self) -> String {
        let mut lines = Vec::new();
        for (index, (shard, driver)) in self.shards.shards.iter_mut().zip(&self.drivers).enumerate() {
            let log = driver.as_ref().map(LogDriver::waits_for).unwrap_or_default();
            let journal = shard.journal();
            let (last, written, durable) = (journal.last_lsn(), journal.written_lsn(), journal.durable_lsn());
            lines.push(format!(
                "shard {index}: {:?}, {} requests under way; log: last {last}, written {written}, durable {durable}{log}",
                shard.writes(),
                shard.outstanding(),
            ));
        }
        lines.join("\n")
    }

    /// Whether a shard lets not all writes in.
    pub fn is_refusing(&self) -> bool {
        self.shards.shards.iter().any(|shard| shard.writes() != Writes::Allowed)
    }

    /// A client's bytes arrive.
    pub fn feed(&mut self, connection: Connection, bytes: &[u8]) {
        self.shards.feed(connection, bytes);
        self.is_woken[connection.home] = true;
    }

    /// No log and no save has anything under way.
    pub fn is_at_rest(&mut self) -> bool {
        let saves = &self.shards.machine.saves;
        let is_idle = self.saver.is_idle() && saves.running.is_none() && saves.scheduled.is_none();
        let logged = self.shards.shards.iter_mut().zip(&self.drivers).all(|(shard, driver)| {
            let is_durable = shard.journal().durable_lsn() == shard.journal().last_lsn();
            driver.is_none() || is_durable || shard.config().fsync != FsyncPolicy::Always
        });
        is_idle && logged && !self.log_lost.contains(&true)
    }

    /// A step of the world. Some: the process has ended.
    pub fn pass(&mut self, options: &Options, guests: &mut [&mut dyn Guest], outside: &mut Outside) -> Option<Ended> {
        self.shards.machine.now = outside.now;
        if let Some(ended) = self.advance(outside) {
            return Some(ended);
        }
        for shard in 0..self.shards.shards.len() {
            if options.sleepy_shards && outside.random.one_in(400) {
                self.sleeps_until[shard] = outside.step + outside.random.between(5, 100) as u64;
            }
            if self.sleeps_until[shard] > outside.step {
                let waits = |from: usize| !self.queues.is_empty_between(from, shard);
                let waits = (0..self.shards.shards.len()).any(waits);
                outside.coverage.note_if(waits, Event::WaitedForPeers);
                continue;
            }
            if let Some(ended) = self.turn(shard, guests, outside) {
                return Some(ended);
            }
        }
        let is_saving = !self.saver.is_idle();
        self.saver.pass(&mut SaveTools {
            shards: &mut self.shards,
            drivers: &mut self.drivers,
            log_lost: &mut self.log_lost,
            folder: &mut outside.folder,
            weathers: &mut outside.weathers,
            oracle: &mut outside.oracle,
            coverage: &mut outside.coverage,
            moment: outside.moment,
            sizes: self.sizes,
            generation: &mut self.generation,
            step: outside.step,
        });
        if is_saving {
            self.is_woken.fill(true);
            if self.saver.is_idle() {
                let is_good = self.shards.machine.saves.last_save_ok;
                outside.trace.say(outside.step, outside.now, || format!("a save has ended, well: {is_good}"));
                if is_good {
                    outside.oracle.note_counting();
                }
            }
        }
        self.check();
        None
    }

    /// What is bounded is within its bounds.
    fn check(&mut self) {
        let maxmemory = self.shards.shards[0].config().maxmemory;
        let leased = self.shards.machine.leased;
        let overdraft = (maxmemory / limits::OVERDRAFT_PART).max(limits::OVERDRAFT_LEASES * limits::LEASE_BYTES_MIN);
        if maxmemory > 0 {
            assert!(leased <= maxmemory + overdraft, "{leased} bytes of {maxmemory} are leased");
        }
        let of_shards: u64 = self.shards.shards.iter().map(|shard| shard.leased_bytes()).sum();
        assert_eq!(leased, of_shards, "leases of the process, and of its shards");
        for (id, shard) in self.shards.shards.iter_mut().enumerate() {
            let bytes_max = shard.config().bulk_bytes_max as usize;
            let pending = shard.journal().pending_bytes();
            let most = limits::LOG_PENDING_BYTES_MAX + limits::CREDIT_BYTES as usize + bytes_max.min(4 << 20);
            assert!(pending <= most, "{pending} bytes of the log of shard {id} are pending");
            let pending = shard.snapshot_pending_bytes();
            assert!(
                pending <= limits::SNAPSHOT_PENDING_BYTES_MAX + (8 << 20),
                "{pending} bytes of a snapshot are pending"
            );
        }
    }

    /// Recounts everything.
    pub fn audit(&self) {
        self.shards.shards.iter().for_each(|shard| shard.audit());
    }

    /// One pass of a shard's loop, as the runtime's worker does it.
    fn turn(&mut self, index: usize, guests: &mut [&mut dyn Guest], outside: &mut Outside) -> Option<Ended> {
        let (step, now) = (outside.step, outside.now);
        let mut is_woken = std::mem::take(&mut self.is_woken[index]);
        if let Some(driver) = &mut self.drivers[index] {
            let journal = self.shards.shards[index].journal();
            is_woken |= driver.collect(journal, &mut tools(outside, index));
        }
        for from in 0..self.shards.shards.len() {
            while let Some(frame) = self.queues.pop(step, from, index) {
                self.shards.give_frame(from, index, frame);
                is_woken = true;
            }
        }
        let (mut arena, mut inputs) = (Vec::new(), Vec::new());
        if matches!(self.stage, Stage::Serving) {
            for guest in guests.iter_mut() {
                let Some(connection) = guest.connection().filter(|connection| connection.home == index) else {
                    continue;
                };
                for _ in 0..outside.random.between(1, 2) {
                    if let Some(bytes) = guest.send() {
                        let (start, len) = (arena.len() as u32, bytes.len() as u32);
                        inputs.push(Input { session: connection.session, start, len });
                        arena.extend_from_slice(&bytes);
                    }
                }
            }
        }
        let shard = &mut self.shards.shards[index];
        let is_due = shard.next_wake().is_some_and(|at| at <= now);
        let takes_turn = is_woken || !inputs.is_empty() || is_due || shard.has_work();
        if takes_turn {
            let before = shard.store_counters();
            self.shards.turn_in(index, &arena, &inputs);
            outside.turns += 1;
            let after = self.shards.shards[index].store_counters();
            // CONFIG RESETSTAT sets them back.
            let expired = after.expired.saturating_sub(before.expired);
            let evicted = after.evicted.saturating_sub(before.evicted);
            assert!(expired + evicted <= REMOVALS_PER_TURN_MAX, "a turn removed {expired} and {evicted} keys");
            let is_saving = self.shards.shards[index].snapshot_progress();
            let is_saving = matches!(is_saving, SnapshotProgress::Saving { .. });
            outside.coverage.note_if(is_saving && expired > 0, Event::ExpiredDuringSave);
            outside.coverage.note_if(is_saving && evicted > 0, Event::EvictedDuringSave);
        }
        let policy = self.shards.shards[index].config().fsync;
        let journal = self.shards.shards[index].journal();
        let deadline = match self.drivers[index].as_ref().is_some_and(LogDriver::takes_writes) {
            true => journal.next_deadline(now, policy),
            false => journal.sync_due(now, policy),
        };
        let is_due = deadline.is_some_and(|at| at <= now);
        if (takes_turn || is_due || self.drivers[index].as_ref().is_some_and(|driver| driver.is_waiting()))
            && let Some(ended) = self.serve_log(index, policy, outside)
        {
            return Some(ended);
        }
        for guest in guests.iter_mut() {
            if guest.connection().is_some_and(|connection| connection.home == index) {
                guest.send_eof(&mut self.shards);
            }
        }
        while let Some(session) = self.shards.shards[index].poll_session() {
            let is_listed = |guest: &&mut &mut dyn Guest| {
                guest.connection().is_some_and(|connection| connection.home == index && connection.session == session)
            };
            if let Some(guest) = guests.iter_mut().find(is_listed) {
                guest.touch(&self.shards);
            }
        }
        for to in (0..self.shards.shards.len()).filter(|&to| to != index) {
            while self.queues.has_room(index, to) {
                let Some(frame) = self.shards.shards[index].poll_frame(ShardId(to as u16)) else { break };
                self.queues.push(step, index, to, frame);
            }
            outside.coverage.note_if(!self.queues.has_room(index, to), Event::QueueFull);
        }
        for event in std::mem::take(&mut self.shards.events) {
            match event {
                ShardEvent::Shutdown { .. } => self.stop(step),
                ShardEvent::AppendOnly(_) => unreachable!("nobody sets appendonly"),
            }
        }
        None
    }

    /// Gives what was logged to the disk, and says which writes are let in.
    fn serve_log(&mut self, index: usize, policy: FsyncPolicy, outside: &mut Outside) -> Option<Ended> {
        let driver = self.drivers[index].as_mut()?;
        let shard = &mut self.shards.shards[index];
        driver.serve(shard.journal(), policy, &mut tools(outside, index));
        shard.set_flushing(driver.is_flushing());
        if driver.is_in_doubt() && !self.log_lost[index] {
            outside.oracle.note_failed(index as u16);
        }
        if driver.has_failed() && policy == FsyncPolicy::Always && shard.journal().is_poisoned() {
            outside.coverage.note(Event::ProcessEndedByLog);
            return Some(Ended::LogFailed);
        }
        let before = shard.writes();
        let mut writes = driver.judge(shard.journal(), outside.now);
        if self.log_lost[index] {
            writes = Writes::Refused;
        } else if !driver.is_in_doubt()
            && matches!(self.stage, Stage::Serving | Stage::Stopping { .. } | Stage::Sweeping { counts: true, .. })
        {
            let journal = shard.journal();
            let (last, durable, written) = (journal.last_lsn(), journal.durable_lsn(), journal.written_lsn());
            outside.oracle.note_log_at(index as u16, outside.moment, last, durable, written);
        }
        if before != writes {
            let (step, now) = (outside.step, outside.now);
            outside.trace.say(step, now, || format!("shard {index}: writes are {writes:?}"));
            match writes {
                Writes::Refused if !self.log_lost[index] => {
                    outside.coverage.note(Event::LogFailed);
                    self.log_lost[index] = true;
                    self.saver.want_log(index, &mut self.shards);
                }
                Writes::OnlyFreeing | Writes::Full => outside.coverage.note(Event::FullDiskRefused),
                Writes::Stuck => outside.coverage.note(Event::DiskStuck),
                Writes::Waiting => outside.coverage.note(Event::WriterWaitedForLog),
                Writes::Allowed | Writes::Refused => {}
            }
            self.shards.shards[index].set_writes(writes);
            self.is_woken[index] = true;
        }
        None
    }

    /// The start, and the stop, a step further.
    fn advance(&mut self, outside: &mut Outside) -> Option<Ended> {
        self.stage = match std::mem::replace(&mut self.stage, Stage::Serving) {
            Stage::Serving => Stage::Serving,
            Stage::Loading(mut loads) => {
                let mut is_loaded = true;
                for (load, shard) in loads.iter_mut().zip(&mut self.shards.shards) {
                    for _ in 0..outside.random.between(1, 20) {
                        if shard.free_redone_slice() || shard.evict_loaded_slice(outside.now, &mut self.shards.machine)
                        {
                            is_loaded = false;
                        } else if !load.step(&outside.folder, shard) {
                            break;
                        } else {
                            is_loaded = false;
                        }
                    }
                }
                if is_loaded { self.open(loads, outside) } else { Stage::Loading(loads) }
            }
            Stage::Opening { switch: Some(mut switch), mut until, starts, layout, wall_ms, counts } => {
                let weather = &mut outside.weathers[0];
                let mut is_done = false;
                if until <= outside.step && !weather.is_stalled(outside.step) {
                    until = weather.end_of(outside.step);
                    let fails = weather.save_error(outside.step).is_some();
                    match switch.advance(&mut outside.folder, fails) {
                        Ok(done) => is_done = done,
                        Err(()) => return Some(Ended::LayoutSaveFailed),
                    }
                }
                let switch = (!is_done).then_some(switch);
                Stage::Opening { switch, until, starts, layout, wall_ms, counts }
            }
            Stage::Opening { switch: None, starts, layout, wall_ms, counts, .. } => {
                self.go_on(starts, &layout, counts, outside);
                Stage::Sweeping { now: outside.now.max(wall_ms), counts }
            }
            Stage::Sweeping { now, counts } => self.sweep(now, counts, outside),
            Stage::Laying => {
                let saves = &self.shards.machine.saves;
                match (saves.ended, saves.failed) {
                    (0, _) => Stage::Laying,
                    (_, 0) => self.serve(outside),
                    _ => return Some(Ended::LayoutSaveFailed),
                }
            }
            Stage::Stopping { since } => {
                let is_late = outside.step > since + STOP_STEPS_MAX;
                let is_drained = self.shards.shards.iter().all(|shard| shard.is_drained());
                let mut is_sealed = is_late || is_drained && self.saver.is_idle();
                for (shard, driver) in self.shards.shards.iter_mut().zip(&self.drivers) {
                    let is_logging = driver.is_some() && shard.journal().is_on();
                    if is_sealed && is_logging && !is_late {
                        shard.journal().seal();
                        is_sealed &= shard.journal().is_sealed();
                    }
                }
                self.is_woken.fill(true);
                if is_sealed {
                    return Some(Ended::Stopped);
                }
                Stage::Stopping { since }
            }
        };
        None
    }

    /// Everything is loaded: judges it, cuts torn tails off, and says what is to count next.
    fn open(&mut self, loads: Vec<Load>, outside: &mut Outside) -> Stage {
        let mut ends: Vec<Ending> = loads.iter().flat_map(|load| load.ended.iter().copied()).collect();
        ends.sort_by_key(|ending| ending.shard);
        ends.dedup();
        assert!(
            ends.windows(2).all(|pair| pair[0].shard < pair[1].shard),
            "all shards that read a log find the same end"
        );
        let layouts: Vec<Databases> = self.shards.shards.iter().map(|shard| shard.layout()).collect();
        let layout = layouts.iter().max_by_key(|layout| layout.number).expect("there is a shard").clone();
        assert!(layouts.iter().all(|other| other.number != layout.number || *other == layout), "layouts agree");
        let wall_ms = ends.iter().map(|ending| ending.end.wall_ms).max().unwrap_or_default();
        let shards = self.shards.shards.len();
        let found = outside.oracle.judge(&outside.folder, &ends);
        note_ends(&ends, &found, outside);
        self.found = Some(found);

        let folder = &mut outside.folder;
        self.generation = folder.next_generation();
        let is_same = ends.len() == shards;
        let is_new = folder.manifest().is_none();
        for Ending { shard, end } in &ends {
            if let Tail::Torn(torn) = end.tail {
                let name = Name::Segment { shard: *shard, generation: torn.generation, number: torn.segment };
                let file = folder.find(name).and_then(|id| folder.file(id)).expect("it was read");
                let zeros = vec![0; file.bytes().len() - torn.offset as usize];
                file.write(torn.offset as usize, &zeros);
                file.sync();
                for number in torn.segment + 1..=torn.last_segment {
                    folder.remove(Name::Segment { shard: *shard, generation: torn.generation, number });
                    folder.sync_names();
                }
            }
        }
        let mut switch = None;
        let mut starts = Vec::new();
        if self.logs {
            folder.remove_unclaimed(self.generation);
            let reusable = self.sizes.1 as usize;
            if is_same {
                let states = ends.iter().map(|ending| settle_log(folder, ending, self.generation, reusable)).collect();
                let manifest = manifest(self.generation, wall_ms.max(outside.now), states);
                switch = Some(Switch::new(folder, manifest, reusable));
            }
            let last_of_all = ends.iter().map(|ending| ending.end.last_lsn).max().unwrap_or_default();
            let own = ends.iter().copied().map(Some).filter(|_| is_same).chain(std::iter::repeat(None));
            for (shard, own) in (0..shards).zip(own) {
                let start = self.log_start(shard, own, last_of_all);
                let name = Name::Segment { shard: start.shard, generation: start.generation, number: start.segment };
                starts.push((start, folder.make_segment(name, self.sizes.0 as usize).0));
            }
            folder.sync_names();
        } else if is_new {
            let none =
                ShardManifest { snapshot: None, base_lsn: Lsn(0), first_generation: self.generation, first_segment: 0 };
            switch = Some(Switch::new(folder, manifest(self.generation, outside.now, vec![none; shards]), 0));
        }
        Stage::Opening { switch, until: outside.step, starts, layout, wall_ms, counts: self.logs && is_same }
    }

    fn log_start(&self, shard: usize, ending: Option<Ending>, last_of_all: Lsn) -> LogStart {
        let (last, previous) = match ending {
            Some(Ending { end, .. }) => (end.last_lsn, end.records_end.and_then(|end| end.previous)),
            None => (last_of_all, None),
        };
        LogStart {
            database: DATABASE,
            generation: self.generation,
            shard: shard as u16,
            shards: self.shards.shards.len() as u16,
            segment: 1,
            salt: self.generation << 8 | shard as u64,
            next_lsn: Lsn(last.0 + 1),
            last_txid: 0,
            segment_bytes: self.sizes.1,
            first_segment_bytes: self.sizes.0,
            previous,
        }
    }

    /// Begins the logs behind what was loaded, and compares that with what was found.
    fn go_on(&mut self, starts: Vec<(LogStart, FileId)>, layout: &Databases, counts: bool, outside: &mut Outside) {
        let found = self.found.as_ref().expect("it was judged");
        let route = torc_engine::route::Route::new(self.shards.shards.len());
        let mut contents = Vec::new();
        for (shard, index) in self.shards.shards.iter().zip(0..) {
            let content = match counts {
                // What was evicted on the way is still there for another start.
                true => {
                    let mut own = found.content.clone();
                    own.entries.retain(|(_, key), _| route.owner(key) == ShardId(index));
                    own
                }
                false => Content::of_shard(shard),
            };
            contents.push((content, starts.get(index as usize).map_or(Lsn(0), |(start, _)| Lsn(start.next_lsn.0 - 1))));
        }
        outside.oracle.begin(contents, counts, self.generation);
        for (start, file) in starts {
            let index = start.shard as usize;
            outside.oracle.note_log(start.shard, start.generation, Lsn(start.next_lsn.0 - 1));
            self.shards.shards[index].begin_log(start);
            self.drivers[index] = Some(LogDriver::new(start, Some(file)));
        }
        let mut evicted = 0;
        for shard in &mut self.shards.shards {
            shard.adopt_layout(layout).expect("layouts were compared");
            while shard.free_redone_slice() {}
            // What had expired too counts as that.
            evicted += shard.store_counters().evicted + shard.store_counters().expired;
        }
        outside.coverage.note_if(evicted > 0, Event::EvictedAtLoad);
        let found = self.found.as_ref().expect("it was judged");
        Oracle::compare(&found.content, &self.shards.shards, evicted > 0);
    }

    fn sweep(&mut self, now: Millis, counts: bool, outside: &mut Outside) -> Stage {
        let mut is_swept = true;
        for shard in &mut self.shards.shards {
            let before = shard.keys();
            if !shard.is_swept() {
                shard.drop_expired_slice(now);
            }
            let dropped = before - shard.keys();
            assert!(dropped <= 4 * limits::REDO_END_SLICE_KEYS as u64, "{dropped} keys were dropped in one slice");
            outside.coverage.note_if(dropped > 0, Event::ExpiredWhileDown);
            is_swept &= shard.is_swept();
        }
        if !is_swept {
            return Stage::Sweeping { now, counts };
        }
        for shard in &mut self.shards.shards {
            shard.end_redo(now);
        }
        self.shards.machine.saves.is_available = true;
        if self.logs && !counts {
            // One that a shard has begun by itself does as well.
            let _ = torc_engine::machine::Machine::begin_save(&mut self.shards.machine, SaveKind::Rewrite);
            return Stage::Laying;
        }
        self.serve(outside)
    }

    fn serve(&mut self, outside: &mut Outside) -> Stage {
        self.shards.shards.iter_mut().for_each(|shard| shard.end_loading(outside.now));
        self.is_woken.fill(true);
        let keys: u64 = self.shards.shards.iter().map(|shard| shard.keys()).sum();
        let shards = self.shards.shards.len();
        outside.trace.say(outside.step, outside.now, || format!("{shards} shards serve, with {keys} keys"));
        Stage::Serving
    }
}

fn tools(outside: &mut Outside, shard: usize) -> LogTools<'_> {
    LogTools {
        folder: &mut outside.folder,
        weather: &mut outside.weathers[shard],
        oracle: &mut outside.oracle,
        coverage: &mut outside.coverage,
        step: outside.step,
        now: outside.now,
    }
}

fn manifest(generation: u64, wall_ms: Millis, shards: Vec<ShardManifest>) -> Manifest {
    Manifest { number: 0, database: DATABASE, generation, last_txid: 0, wall_ms: wall_ms.0, shards }
}

fn note_ends(ends: &[Ending], found: &Found, outside: &mut Outside) {
    for Ending { shard, end } in ends {
        if let Tail::Torn(torn) = end.tail {
            outside.coverage.note(Event::TornTail);
            outside.coverage.note_if(torn.segment > 1, Event::TornInLaterSegment);
            outside.coverage.note_if(torn.last_segment > torn.segment, Event::TornOverSegments);
        }
        outside.coverage.note_if(end.is_sealed, Event::SealFound);
        let (step, now) = (outside.step, outside.now);
        let end = (end.last_lsn, end.tail, end.is_sealed);
        outside.trace.say(step, now, || {
            format!("of shard {shard} was found up to record {}, {:?}, sealed: {}", end.0, end.1, end.2)
        });
    }
    outside.coverage.note_if(found.has_lost, Event::UnsyncedLost);
}

/// Removes what is behind the end of a log. Gives what the next manifest says of the shard.
fn settle_log(folder: &mut Folder, ending: &Ending, generation: u64, reusable_bytes: usize) -> ShardManifest {
    let shard = ending.shard;
    let needed = folder.manifest().map(|manifest| manifest.shards[shard as usize]);
    let last = ending.end.records_end.map(|end| (end.generation, end.segment));
    let all: Vec<(u64, u64)> =
        folder.log_of(shard).into_iter().map(|(generation, number, _)| (generation, number)).collect();
    for (generation, number) in all.into_iter().filter(|at| last.is_none_or(|last| *at > last)) {
        // The manifest needs its first until there is another manifest.
        let is_first =
            needed.is_some_and(|needed| (needed.first_generation, needed.first_segment) == (generation, number));
        if !is_first {
            folder.retire(Name::Segment { shard, generation, number }, reusable_bytes);
        }
    }
    let new = ShardManifest { snapshot: None, base_lsn: Lsn(0), first_generation: generation, first_segment: 1 };
    match needed {
        Some(needed) if last.is_some() => needed,
        Some(ShardManifest { snapshot, base_lsn, .. }) => ShardManifest { snapshot, base_lsn, ..new },
        None => new,
    }
}
