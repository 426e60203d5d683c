//! Runs worlds of many seeds, or one with its history. Exit code 1: one has failed, or something never happened that must.

#[cfg(feature = "planted")]
mod planted;

use std::cell::Cell;
use std::io::IsTerminal;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use torc_sim::{Event, Options, Report, Trace, World};

/// Runs simulated worlds, each made from one seed: shards, disks that fail, clients, crashes.
#[derive(Parser, Debug)]
#[command(name = "torc-sim", version)]
struct Flags {
    /// How many worlds to run, of seeds that follow one another.
    #[arg(long, value_name = "N", default_value_t = 100, conflicts_with = "seed")]
    seeds: u64,
    /// The first seed.
    #[arg(long, value_name = "S", default_value_t = 0, conflicts_with = "seed")]
    from: u64,
    /// Runs the world of this seed only, and tells its history.
    #[arg(long, value_name = "S")]
    seed: Option<u64>,
    /// Worlds at a time; as many as there are cores unless set.
    #[arg(long, value_name = "N")]
    jobs: Option<usize>,
    /// Commands that are answered in one world.
    #[arg(long, value_name = "N", default_value_t = COMMANDS)]
    commands: u64,
    /// Plants mistakes in the engine, one after the other, and runs worlds until each is found, in as many as it may take; or
    /// only this one, in --seeds worlds at most.
    #[cfg(feature = "planted")]
    #[arg(long, value_name = "MISTAKE", num_args = 0..=1, default_missing_value = "all", conflicts_with = "seed")]
    planted: Option<String>,
}

/// Commands of a world.
const COMMANDS: u64 = 5_000;
/// A run of so many seeds must come to everything.
const SEEDS_FOR_ALL: u64 = 500;
/// How often progress is shown where there is no terminal.
const SHOW_EVERY: Duration = Duration::from_secs(1);

thread_local! {
    /// The world that this thread is in.
    static SEED: Cell<Option<u64>> = const { Cell::new(None) };
}

/// What all worlds of a run came to.
#[derive(Default)]
struct Totals {
    worlds: u64,
    crashed: u64,
    recovered: u64,
    sum: Report,
    /// Time that threads have spent in worlds.
    busy: Duration,
}

fn main() -> ExitCode {
    let flags = Flags::parse();
    #[cfg(feature = "planted")]
    if let Some(name) = &flags.planted {
        let name = Some(name.as_str()).filter(|name| *name != "all");
        return planted::run(name, flags.from, flags.seeds, flags.commands, jobs(&flags));
    }
    name_seed_of_panics(flags.commands);
    match flags.seed {
        Some(seed) => {
            run_one(seed, flags.commands);
            ExitCode::SUCCESS
        }
        None => run_many(&flags),
    }
}

/// A world that fails ends the run, and the last words say how to see it again.
fn name_seed_of_panics(commands: u64) {
    std::panic::set_hook(Box::new(move |panic| {
        let Some(seed) = SEED.get() else {
            eprintln!("{panic}");
            std::process::exit(1);
        };
        let commands = if commands == COMMANDS { String::new() } else { format!(" --commands {commands}") };
        eprintln!("\nseed {seed} failed: {panic}");
        eprintln!("again, with its history: cargo run -p torc-sim --profile sim -- --seed {seed}{commands}");
        std::process::exit(1);
    }));
}

fn run_one(seed: u64, commands: u64) {
    SEED.set(Some(seed));
    let options = Options::from_seed(seed);
    println!("{options:#?}");
    let (report, _) = World::traced(seed, options, Trace::Print).run_traced(commands);
    println!("{report:#?}");
}

/// Worlds at a time.
fn jobs(flags: &Flags) -> usize {
    flags.jobs.or_else(|| std::thread::available_parallelism().ok().map(usize::from)).unwrap_or(1).max(1)
}

fn run_many(flags: &Flags) -> ExitCode {
    let jobs = jobs(flags);
    let next = AtomicU64::new(flags.from);
    let end = flags.from.saturating_add(flags.seeds);
    let totals = Mutex::new(Totals::default());
    let bar = bar(flags.seeds);
    let began = Instant::now();
    let shown = Mutex::new(began);
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end {
                        return;
                    }
                    SEED.set(Some(seed));
                    let began_one = Instant::now();
                    let report = World::new(seed, Options::from_seed(seed)).run(flags.commands);
                    let mut totals = totals.lock().unwrap_or_else(PoisonError::into_inner);
                    totals.add(&report, began_one.elapsed());
                    bar.inc(1);
                    let mut shown = shown.lock().unwrap_or_else(PoisonError::into_inner);
                    if bar.is_hidden() && shown.elapsed() >= SHOW_EVERY {
                        *shown = Instant::now();
                        eprintln!(
                            "{} of {} worlds, {:.0} s",
                            totals.worlds,
                            flags.seeds,
                            began.elapsed().as_secs_f64()
                        );
                    }
                }
            });
        }
    });
    bar.finish_and_clear();
    let totals = totals.into_inner().unwrap_or_else(PoisonError::into_inner);
    totals.print(began.elapsed(), jobs);
    totals.judge(flags.seeds)
}

fn bar(seeds: u64) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{wide_bar} {pos} of {len} worlds, {per_sec}, {eta} left");
    ProgressBar::new(seeds).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

impl Totals {
    fn add(&mut self, report: &Report, took: Duration) {
        self.worlds += 1;
        self.crashed += u64::from(report.crashes > 0);
        self.recovered += u64::from(report.crashes > 0 && report.recoveries > 0);
        self.busy += took;
        self.sum.steps += report.steps;
        self.sum.turns += report.turns;
        self.sum.frames += report.frames;
        self.sum.replies += report.replies;
        self.sum.crashes += report.crashes;
        self.sum.recoveries += report.recoveries;
        self.sum.stops += report.stops;
        self.sum.judged += report.judged;
        self.sum.undecided += report.undecided;
        self.sum.virtual_ms += report.virtual_ms;
        self.sum.coverage.add(&report.coverage);
    }

    fn print(&self, took: Duration, jobs: usize) {
        let Totals { worlds, crashed, recovered, sum, busy } = self;
        let hours = sum.virtual_ms as f64 / 3_600_000.0;
        println!(
            "{worlds} worlds in {:.1} s on {jobs} threads: {:.2} a second and thread",
            took.as_secs_f64(),
            *worlds as f64 / busy.as_secs_f64()
        );
        println!(
            "  {hours:.1} hours of simulated time, {} steps, {} turns, {} frames",
            sum.steps, sum.turns, sum.frames
        );
        println!(
            "  {} replies, {} commands in histories, {} of keys undecided",
            sum.replies, sum.judged, sum.undecided
        );
        println!(
            "  {crashed} worlds crashed, {recovered} of them recovered: {} crashes, {} recoveries, {} other ends",
            sum.crashes, sum.recoveries, sum.stops
        );
        for (event, what, _) in Event::ALL {
            println!("  {:>10}  {what}", sum.coverage.of(*event));
        }
    }

    fn judge(&self, seeds: u64) -> ExitCode {
        if seeds < SEEDS_FOR_ALL {
            return ExitCode::SUCCESS;
        }
        let missing = self.sum.coverage.missing();
        for what in &missing {
            eprintln!("in none of {seeds} worlds: {what}");
        }
        let is_harmless = self.recovered * 2 < self.worlds;
        if is_harmless {
            eprintln!("only {} of {} worlds crashed and recovered; half of them must", self.recovered, self.worlds);
        }
        ExitCode::from(u8::from(!missing.is_empty() || is_harmless))
    }
}
