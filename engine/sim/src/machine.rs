//! The machine as the shards of a world see it.

use std::collections::BTreeMap;
use std::time::Duration;

use torc_engine::id::{Millis, ShardId};
use torc_engine::machine::{LogStanding, Machine, MachineFacts};

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
    /// Shards whose log is not well.
    logs: BTreeMap<u16, LogStanding>,
}

impl SimMachine {
    pub fn new(now: Millis) -> SimMachine {
        SimMachine { now, ..SimMachine::default() }
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
            ..MachineFacts::default()
        }
    }
}
