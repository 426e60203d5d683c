//! The machine as the shards of a world see it.

use std::collections::BTreeMap;
use std::time::Duration;

use torc_engine::id::{Millis, ShardId};
use torc_engine::machine::{LogStanding, Machine, MachineFacts, SaveFacts, SaveKind, SaveRefused};

/// Time that passes when it is told to, and facts that never change.
#[derive(Debug, Default)]
pub struct SimMachine {
    /// What the wall clock says.
    pub now: Millis,
    /// What the stopwatch says.
    pub ticks: u64,
    /// Bytes of `maxmemory` that are leased.
    pub leased: u64,
    /// What the process is said to have of the system's memory.
    pub resident: u64,
    pub held_back: u64,
    /// What each shard last said that it uses, and the most of it together.
    used: BTreeMap<u16, u64>,
    used_peak: u64,
    /// What is known of saves. Set `is_available` for there to be any; they end when [`SimMachine::end_save`] says so.
    pub saves: SaveFacts,
    saves_begun: u64,
    /// Changes and bytes of the log of each shard, as published last, and of all at the last good save's begin.
    changes: BTreeMap<u16, (u64, u64)>,
    changes_at_begin: (u64, u64),
    changes_saved: (u64, u64),
    /// Shards whose log is not well.
    logs: BTreeMap<u16, LogStanding>,
}

impl SimMachine {
    pub fn new(now: Millis) -> SimMachine {
        let saves = SaveFacts { last_save_s: now.0 / 1000, ..SaveFacts::default() };
        SimMachine { now, saves, ..SimMachine::default() }
    }

    /// Has a save begun, at once or when the one that runs has ended.
    pub(crate) fn schedule(&mut self, kind: SaveKind) {
        if self.begin_save(kind).is_err() {
            self.saves.scheduled = Some(kind);
        }
    }

    /// The save that runs has ended, well with so many bytes or not.
    pub fn end_save(&mut self, bytes: Option<u64>) {
        let now_s = self.now.0 / 1000;
        let (kind, began_s) = self.saves.running.take().expect("a save is running");
        let (saves, is_good) = (&mut self.saves, bytes.is_some());
        let took = Some(now_s.saturating_sub(began_s));
        saves.ended = self.saves_begun;
        (saves.last_save_ok, saves.last_save_took_s) = (is_good, took);
        if kind == SaveKind::Rewrite {
            (saves.last_rewrite_ok, saves.last_rewrite_took_s) = (is_good, took);
        }
        match bytes {
            Some(bytes) => {
                saves.saves += 1;
                saves.rewrites += (kind == SaveKind::Rewrite) as u64;
                (saves.last_save_s, saves.snapshot_bytes, saves.failures_in_a_row) = (now_s, bytes, 0);
                self.changes_saved = self.changes_at_begin;
            }
            None => {
                saves.failed = self.saves_begun;
                saves.failures_in_a_row += 1;
            }
        }
        if let Some(kind) = self.saves.scheduled.take() {
            self.begin_save(kind).expect("none is running");
        }
    }

    fn changes_of_all(&self) -> (u64, u64) {
        self.changes.values().fold((0, 0), |sum, shard| (sum.0 + shard.0, sum.1 + shard.1))
    }
}

impl Machine for SimMachine {
    /// Each look at the stopwatch costs a microsecond.
    fn ticks(&mut self) -> u64 {
        self.ticks += 1_000;
        self.ticks
    }

    fn wall_micros(&mut self) -> u64 {
        self.now.0 * 1_000
    }

    fn lease(&mut self, bytes: u64, ceiling: u64) -> u64 {
        let granted = bytes.min(ceiling.saturating_sub(self.leased));
        self.leased += granted;
        granted
    }

    fn give_back(&mut self, bytes: u64) {
        self.leased = self.leased.checked_sub(bytes).expect("what is given back was leased");
    }

    fn leased(&mut self) -> u64 {
        self.leased
    }

    fn resident(&mut self) -> u64 {
        self.resident
    }

    fn hold_back(&mut self, bytes: u64) {
        self.held_back = bytes;
    }

    fn held_back(&mut self) -> u64 {
        self.held_back
    }

    fn publish_used(&mut self, shard: ShardId, bytes: u64) {
        self.used.insert(shard.0, bytes);
        self.used_peak = self.used_peak.max(self.used.values().sum());
    }

    /// The clock moves for all, so that three shards that sleep one after another sleep three times as long.
    fn sleep(&mut self, time: Duration) {
        self.now.0 += time.as_millis() as u64;
        self.ticks += time.as_nanos() as u64;
    }

    fn begin_save(&mut self, kind: SaveKind) -> Result<u64, SaveRefused> {
        if !self.saves.is_available {
            return Err(SaveRefused::Unavailable);
        }
        if let Some((kind, _)) = self.saves.running {
            return Err(SaveRefused::Running(kind));
        }
        self.saves_begun += 1;
        self.saves.running = Some((kind, self.now.0 / 1000));
        self.saves.last_attempt_s = self.now.0 / 1000;
        self.changes_at_begin = self.changes_of_all();
        Ok(self.saves_begun)
    }

    fn schedule_save(&mut self, kind: SaveKind) {
        self.schedule(kind);
    }

    fn saves(&mut self) -> SaveFacts {
        let (all, saved) = (self.changes_of_all(), self.changes_saved);
        SaveFacts { changes: all.0.saturating_sub(saved.0), log_bytes: all.1.saturating_sub(saved.1), ..self.saves }
    }

    fn publish_changes(&mut self, shard: ShardId, changes: u64, log_bytes: u64) {
        self.changes.insert(shard.0, (changes, log_bytes));
    }

    fn publish_log(&mut self, shard: ShardId, standing: LogStanding) {
        match standing {
            LogStanding::Well => self.logs.remove(&shard.0),
            other => self.logs.insert(shard.0, other),
        };
    }

    fn logs(&mut self, standings: &mut Vec<LogStanding>) {
        standings.clear();
        for (&shard, &standing) in &self.logs {
            standings.resize(shard as usize, LogStanding::Well);
            standings.push(standing);
        }
    }

    fn facts(&mut self) -> MachineFacts {
        MachineFacts {
            os: "simulated".to_owned(),
            process_id: 1,
            used_peak_bytes: self.used_peak,
            held_back_bytes: self.held_back,
            saves: self.saves(),
            ..MachineFacts::default()
        }
    }
}
