//! The bar with the live rate, on a terminal.

use super::{Plan, Stop};
use crate::bar::Bar;
use crate::error::Error;
use crate::system;
use std::time::{Duration, Instant};

const DRAW_INTERVAL: Duration = Duration::from_millis(200);

pub struct Progress {
    bar: Bar,
    start: Instant,
    stop: Stop,
}

impl Progress {
    /// A bar for the plan, if it wants one and standard error is a terminal.
    pub fn start(plan: &Plan) -> Progress {
        let length = match plan.stop {
            Stop::Requests(requests) => requests,
            Stop::After(duration) => (plan.warmup + duration).as_millis() as u64,
        };
        let bar = Bar::new(plan.progress, length);
        Progress { bar, start: Instant::now(), stop: plan.stop }
    }

    /// Waits until it is done, and draws meanwhile. `requests` counts those answered so far.
    pub fn watch(&self, requests: &dyn Fn() -> u64, done: impl Fn() -> bool) -> Result<(), Error> {
        let (mut drawn, mut counted) = (Instant::now(), requests());
        // A look costs the load some of its core; where the end is an event, and not a time, it must be seen soon.
        let look_interval = Duration::from_millis(if matches!(self.stop, Stop::Requests(_)) { 1 } else { 20 });
        while !done() {
            system::check_interrupt()?;
            std::thread::sleep(look_interval);
            if !self.bar.is_shown() || drawn.elapsed() < DRAW_INTERVAL {
                continue;
            }
            let now = requests();
            let rate = (now - counted) as f64 / drawn.elapsed().as_secs_f64();
            (drawn, counted) = (Instant::now(), now);
            let position = match self.stop {
                Stop::Requests(_) => now,
                Stop::After(_) => self.start.elapsed().as_millis() as u64,
            };
            self.bar.set_with(position, format!("{rate:.0} ops/s"));
        }
        Ok(())
    }
}
