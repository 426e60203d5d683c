//! The machine as the shards of a world see it.

use std::time::Duration;

use torc_engine::id::Millis;
use torc_engine::machine::{Machine, MachineFacts};

/// Time that passes when it is told to, and facts that never change.
#[derive(Debug, Default)]
pub struct SimMachine {
    /// What the wall clock says.
    pub now: Millis,
    /// What the stopwatch says.
    pub ticks: u64,
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

    /// The clock moves for all, so that three shards that sleep one after another sleep three times as long.
    fn sleep(&mut self, time: Duration) {
        self.now.0 += time.as_millis() as u64;
        self.ticks += time.as_nanos() as u64;
    }

    fn facts(&mut self) -> MachineFacts {
        MachineFacts { os: "simulated".to_owned(), process_id: 1, ..MachineFacts::default() }
    }
}
