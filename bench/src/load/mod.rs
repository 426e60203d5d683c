//! The load generator: a plan, one thread per share of the connections, and the measurement around them.
//!
//! Closed loop: each connection sends a batch of `pipeline` requests and sends the next one when the last
//! reply of it has arrived. Latency is from just before the batch's send to the arrival of each reply. At
//! saturation it therefore says how long the queue is, which the number of connections decides; compare
//! latencies only between runs with the same plan.
//!
//! Open loop: requests are due at times which do not depend on the server. Each goes to the next connection
//! that has none under way, and its latency is from the time at which it was due: if the server stalls, all
//! that was due meanwhile counts as late, as it would be for the users behind it (G. Tene, "How NOT to
//! measure latency": no coordinated omission).

mod pace;
mod progress;
mod series;
mod worker;

pub use pace::{Arrivals, Pace};
pub use series::Second;
pub use worker::new_histogram;

use crate::client::{Address, Greeting};
use crate::error::Error;
use crate::process;
use crate::random::Distribution;
use crate::workload::{Shape, Slice, Workload};
use hdrhistogram::Histogram;
use progress::Progress;
use series::Interval;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Above this share of a core the generator may be what limits the throughput.
const BUSY: f64 = 0.90;

/// Everything a load run needs to know. Connections go round-robin over `targets`.
#[derive(Clone, Debug)]
pub struct Plan {
    pub targets: Vec<Target>,
    pub greeting: Greeting,
    pub workload: Workload,
    /// How many keys each target has.
    pub keys: u64,
    pub order: Order,
    pub connections: usize,
    /// Requests in flight on each connection, at most.
    pub pipeline: usize,
    pub pace: Pace,
    pub threads: usize,
    /// Thread i runs on cpu i modulo their number; none means unpinned.
    pub cpus: Vec<usize>,
    pub seed: u64,
    pub warmup: Duration,
    pub stop: Stop,
    pub timeout: Duration,
    /// Shows a bar on a terminal, with this in front of it.
    pub progress: Option<&'static str>,
}

/// A server, and which of all keys it is asked for.
#[derive(Clone, Debug)]
pub struct Target {
    pub address: Address,
    pub slice: Slice,
}

#[derive(Clone, Debug)]
pub enum Order {
    Random(Distribution),
    /// Each key once, in order.
    Sequential,
}

#[derive(Clone, Copy, Debug)]
pub enum Stop {
    /// In total, without a warm-up.
    Requests(u64),
    After(Duration),
}

#[derive(Debug)]
pub struct Outcome {
    pub requests: u64,
    pub misses: u64,
    pub seconds: f64,
    pub latency_ns: Histogram<u64>,
    /// The same in intervals of a second.
    pub series: Vec<Second>,
    /// What the series was made of: the intervals of each thread.
    intervals: Vec<Vec<Interval>>,
    /// When the measured window began.
    pub began: Instant,
    /// Error replies by their first word, from the first request to the last.
    pub refused: BTreeMap<String, u64>,
    /// Requests of an open loop which were due when it ended: those that had not been sent, and those whose reply had not
    /// come. Both are among the latencies: the former with their age at the end, the latter with the time until they came.
    pub behind: u64,
    pub unanswered: u64,
    pub threads: Vec<ThreadUsage>,
    pub server: Option<ServerUsage>,
}

#[derive(Clone, Copy, Debug)]
pub struct ThreadUsage {
    pub requests: u64,
    pub cpu_ns: u64,
    /// Ready to run while something else had the core.
    pub wait_ns: u64,
    pub wall_ns: u64,
    /// Of the CPU time, what an open loop spent looking at the clock because its next request was near.
    pub spun_ns: u64,
}

impl ThreadUsage {
    /// Of one core, waiting for the next request to be due not counted.
    pub fn busy(self) -> f64 {
        self.cpu_ns.saturating_sub(self.spun_ns) as f64 / self.wall_ns.max(1) as f64
    }

    /// The share of the time in which it wanted a core and had none.
    pub fn waiting(self) -> f64 {
        self.wait_ns as f64 / self.wall_ns.max(1) as f64
    }
}

impl ServerUsage {
    pub fn cpu_ns(self) -> u64 {
        self.after.cpu_ns.saturating_sub(self.before.cpu_ns)
    }

    pub fn wait_ns(self) -> u64 {
        self.after.wait_ns.saturating_sub(self.before.wait_ns)
    }
}

impl Outcome {
    pub fn requests_per_second(&self) -> f64 {
        self.requests as f64 / self.seconds
    }

    pub fn server_ns_per_request(&self) -> Option<f64> {
        self.server.map(|server| server.cpu_ns() as f64 / self.requests.max(1) as f64)
    }

    pub fn load_ns_per_request(&self) -> f64 {
        let requests: u64 = self.threads.iter().map(|thread| thread.requests).sum();
        let cpu_ns = |thread: &ThreadUsage| thread.cpu_ns.saturating_sub(thread.spun_ns);
        self.threads.iter().map(cpu_ns).sum::<u64>() as f64 / requests.max(1) as f64
    }

    /// The thread with the least idle time.
    fn busiest(&self) -> ThreadUsage {
        let demand = |thread: &&ThreadUsage| ((thread.busy() + thread.waiting()) * 1_000.0) as u64;
        *self.threads.iter().max_by_key(demand).expect("a plan has a thread")
    }

    pub fn load_busy(&self) -> f64 {
        self.busiest().busy()
    }

    pub fn load_waiting(&self) -> f64 {
        self.busiest().waiting()
    }

    /// Running or kept from running, the generator had no time to spare.
    pub fn load_is_limit(&self) -> bool {
        self.load_busy() + self.load_waiting() > BUSY
    }

    /// Latencies of the replies that came in these seconds of the measured window.
    pub fn latency_of_seconds(&self, seconds: Range<usize>) -> Histogram<u64> {
        series::latency_of(&self.intervals, seconds)
    }

    /// An error if there was an error reply.
    pub fn check(&self) -> Result<(), Error> {
        Error::if_refused(&self.refused)
    }

    /// The share of the time in which the server wanted a core and had none.
    pub fn server_waiting(&self) -> f64 {
        self.server.map_or(0.0, |server| server.wait_ns() as f64 / 1e9 / self.seconds)
    }
}

#[derive(Clone, Copy, Debug)]
pub struct ServerUsage {
    pub before: process::Sample,
    pub after: process::Sample,
}

/// Bounds what one preload batch holds when values are large.
const PRELOAD_BATCH_BYTES: usize = 1 << 20;

const PHASE_WARMUP: u8 = 0;
const PHASE_MEASURE: u8 = 1;
const PHASE_STOP: u8 = 2;
/// Something failed, or Ctrl-C: end without waiting for replies.
const PHASE_ABORT: u8 = 3;

/// What the measuring thread and the workers share. Workers write their own counters, once a turn.
struct Shared {
    phase: AtomicU8,
    /// A worker has ended with an error.
    failed: AtomicBool,
    requests: Vec<AtomicU64>,
    misses: Vec<AtomicU64>,
    /// Passed twice: when all connections are open, and when the load begins.
    start: Barrier,
}

/// The place among `targets` of connection number `i`, which belongs to thread `i % threads`: each target gets as many as
/// any other, and each thread talks to all of them.
fn target_of(i: usize, threads: usize, targets: usize) -> usize {
    let divisor = (1..=threads.min(targets)).rev().find(|n| threads.is_multiple_of(*n) && targets.is_multiple_of(*n));
    let block = threads * targets / divisor.unwrap_or(1);
    (i % targets + i / block) % targets
}

/// Runs the plan. The cost of the processes in `server_pids` is taken over the measured window.
pub fn run(plan: &Plan, server_pids: &[u32]) -> Result<Outcome, Error> {
    assert!(plan.threads >= 1 && plan.connections >= plan.threads && plan.pipeline >= 1, "checked by the caller");
    let shared = Shared {
        phase: AtomicU8::new(PHASE_WARMUP),
        failed: AtomicBool::new(false),
        requests: (0..plan.threads).map(|_| AtomicU64::new(0)).collect(),
        misses: (0..plan.threads).map(|_| AtomicU64::new(0)).collect(),
        start: Barrier::new(plan.threads + 1),
    };
    thread::scope(|scope| {
        let mut workers = Vec::new();
        for thread in 0..plan.threads {
            let shared = &shared;
            workers.push(scope.spawn(move || worker::run(plan, thread, shared)));
        }
        let finished = || workers.iter().filter(|worker| worker.is_finished()).count();
        let window = measure(plan, &shared, server_pids, &finished);
        let aborted = window.is_err() || shared.failed.load(Ordering::Relaxed);
        shared.phase.store(if aborted { PHASE_ABORT } else { PHASE_STOP }, Ordering::Relaxed);
        let mut reports = Vec::new();
        let mut failure = None;
        for worker in workers {
            match worker.join().expect("a worker does not panic") {
                Ok(report) => reports.push(report),
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        // The reason a server is gone comes before the note that its process cannot be read.
        if let Some(error) = failure {
            return Err(error);
        }
        let Window { requests, misses, began, seconds, server } = window?;
        let mut outcome = Outcome {
            requests,
            misses,
            seconds,
            latency_ns: new_histogram(),
            series: Vec::new(),
            intervals: Vec::new(),
            began,
            refused: BTreeMap::new(),
            behind: 0,
            unanswered: 0,
            threads: Vec::new(),
            server,
        };
        for report in reports {
            outcome.latency_ns.add(&report.latency_ns).expect("histograms of one shape");
            outcome.threads.push(report.usage);
            outcome.behind += report.behind;
            outcome.unanswered += report.unanswered;
            for (kind, count) in report.refused {
                *outcome.refused.entry(kind).or_default() += count;
            }
            outcome.intervals.push(report.series);
        }
        outcome.series = series::merge(&outcome.intervals, seconds);
        Ok(outcome)
    })
}

struct Window {
    requests: u64,
    misses: u64,
    began: Instant,
    seconds: f64,
    server: Option<ServerUsage>,
}

fn measure(plan: &Plan, shared: &Shared, pids: &[u32], finished: &dyn Fn() -> usize) -> Result<Window, Error> {
    let sample = || if pids.is_empty() { Ok(None) } else { process::sample(pids).map(Some) };
    let total = |counters: &[AtomicU64]| counters.iter().map(|c| c.load(Ordering::Relaxed)).sum::<u64>();
    let requests = || total(&shared.requests);
    let failed = || shared.failed.load(Ordering::Relaxed);
    shared.start.wait();
    let progress = Progress::start(plan);
    if let Stop::After(_) = plan.stop {
        shared.start.wait();
        let end = Instant::now() + plan.warmup;
        progress.watch(&requests, || Instant::now() >= end || failed())?;
    }
    let before = sample();
    let start = Instant::now();
    let (requests_before, misses_before) = (requests(), total(&shared.misses));
    shared.phase.store(PHASE_MEASURE, Ordering::Relaxed);
    match plan.stop {
        Stop::After(duration) => {
            progress.watch(&requests, || start.elapsed() >= duration || failed())?;
        }
        Stop::Requests(_) => {
            shared.start.wait();
            progress.watch(&requests, || finished() == plan.threads || failed())?;
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    let after = sample()?;
    Ok(Window {
        requests: requests() - requests_before,
        misses: total(&shared.misses) - misses_before,
        began: start,
        seconds,
        server: before?.zip(after).map(|(before, after)| ServerUsage { before, after }),
    })
}

/// Writes every key once to its target, or to each, and reads every one back, byte for byte.
pub fn preload(plan: &Plan, shape: &Shape) -> Result<(), Error> {
    for target in &plan.targets {
        for (command, progress) in [("set", "writing every key"), ("get", "reading every key")] {
            let step = Plan {
                targets: vec![target.clone()],
                workload: Workload::new(command, (1, 1), shape, true)?,
                order: Order::Sequential,
                connections: plan.threads * 8,
                pipeline: 64.min(1 + PRELOAD_BATCH_BYTES / shape.sizes.max().max(1)),
                pace: Pace::Closed,
                stop: Stop::Requests(plan.keys),
                progress: plan.progress.map(|_| progress),
                ..plan.clone()
            };
            run(&step, &[])?.check()?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_shared_evenly_by_targets_and_threads() {
        for (threads, targets, connections) in [(2, 4, 4), (2, 2, 8), (3, 2, 12), (1, 3, 9), (4, 6, 24)] {
            let mut counts = vec![0; targets];
            let mut seen = vec![vec![false; targets]; threads];
            for i in 0..connections {
                counts[target_of(i, threads, targets)] += 1;
                seen[i % threads][target_of(i, threads, targets)] = true;
            }
            assert!(counts.iter().all(|&count| count == connections / targets), "{counts:?}");
            let enough = connections >= threads * targets;
            assert!(!enough || seen.iter().flatten().all(|&seen| seen), "{threads} {targets}");
        }
    }
}
