//! `torc-bench expire-storm`: many keys expire at the same moment while others are read.
//!
//! ```text
//! write the keys that stay        write those that expire, all at T       GETs of those that stay, a look every 20 ms
//! |-------------------------------|---------------------------------|-----------------------|T--------------------|
//!                                                                          quiet                 storm     calm
//! ```
//!
//! Latencies of the quiet seconds before T stand beside those of the seconds from T until DBSIZE says that the keys are gone.
//! The seconds are those of the load's series. The storm begins with the one in which T is, a few hundredths of a second
//! before it.

use crate::bar::Bar;
use crate::client::Client;
use crate::compare::servers::{Server, ServerSpec};
use crate::error::Error;
use crate::load::{self, Arrivals, Outcome, Pace, Plan, Stop};
use crate::process;
use crate::run::{LoadArgs, PERCENTILES, Ports, check_open_files, seconds, warn};
use crate::system;
use crate::under_test::{ServersArgs, connect, fill, load_cpus, mib, settled_rss};
use crate::workload::Dialect;
use clap::Args;
use hdrhistogram::Histogram;
use serde_json::{Value, json};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

#[derive(Args, Clone, Debug)]
pub struct ExpireStormArgs {
    #[command(flatten)]
    pub servers: ServersArgs,
    /// GETs of the keys that stay. The load runs on cpu 1 unless --load-cpus says otherwise.
    #[command(flatten)]
    pub load: LoadArgs,
    #[arg(long, default_value_t = 1)]
    pub pipeline: usize,
    /// Open loop: so many GETs a second. Without it each connection sends when it has its replies.
    #[arg(long)]
    pub rate: Option<f64>,
    /// Of an open loop.
    #[arg(long, value_enum, default_value = "even", requires = "rate")]
    pub arrivals: Arrivals,
    /// Keys that expire.
    #[arg(long, default_value_t = 1_000_000)]
    pub expiring: u64,
    /// Seconds of load before they do.
    #[arg(long, default_value_t = 5)]
    pub quiet: u64,
    /// Seconds of load from then on.
    #[arg(long, default_value_t = 20)]
    pub seconds: u64,
    /// Print the result as JSON.
    #[arg(long)]
    pub json: bool,
}

/// Bounds of --quiet and --seconds.
const SECONDS_MAX: u64 = 3_600;
const LOOK_INTERVAL: Duration = Duration::from_millis(20);
/// The measured window begins this much before a whole number of seconds before T: what makes it late is connecting, and
/// the generator's look at the clock.
const LEAD: Duration = Duration::from_millis(100);
/// How long RSS is given to come to rest before the keys that expire are written.
const SETTLE: Duration = Duration::from_secs(5);
/// RSS is back when this share of its growth is left.
const RSS_LEFT: f64 = 0.1;

/// What one look saw.
#[derive(Clone, Copy, Debug)]
struct Look {
    /// Seconds since T.
    at: f64,
    keys: u64,
    rss_bytes: u64,
}

struct Storm {
    server: String,
    version: String,
    /// RSS with the keys that stay, and with all.
    rss_before_bytes: u64,
    rss_full_bytes: u64,
    looks: Vec<Look>,
    /// Seconds after T, if they came within the run.
    keys_back: Option<f64>,
    rss_back: Option<f64>,
    /// Whole seconds of load before the one with T, and from there until the keys were gone.
    quiet_seconds: usize,
    storm_seconds: usize,
    quiet: Histogram<u64>,
    storm: Histogram<u64>,
    outcome: Outcome,
}

pub fn run(args: &ExpireStormArgs) -> Result<(), Error> {
    let mut args = args.clone();
    args.load.cpus = load_cpus(&args.load.cpus);
    check(&args)?;
    check_open_files(args.load.connections)?;
    let specs = args.servers.specs(true)?;
    let machine = system::describe_machine();
    system::catch_signals();
    let mut storms = Vec::new();
    for spec in &specs {
        storms.push(measure(&args, spec)?);
    }
    if args.json {
        println!("{:#}", report(&args, machine, &storms));
    } else {
        storms.iter().for_each(|storm| print(&args, storm));
    }
    storms.iter().for_each(|storm| warn(&storm.outcome));
    storms.iter().try_for_each(|storm| storm.outcome.check())
}

fn check(args: &ExpireStormArgs) -> Result<(), Error> {
    let usage = |text: &str| Err(Error::Usage(text.to_string()));
    if !(2..=SECONDS_MAX).contains(&args.quiet) || !(1..=SECONDS_MAX).contains(&args.seconds) || args.expiring == 0 {
        return usage("--quiet is 2 to 3600 seconds, --seconds 1 to 3600, --expiring at least 1");
    }
    if args.load.protocol != Dialect::Resp || args.load.dist.keys().is_some() {
        return usage("this is measured over RESP, and not with a trace");
    }
    if args.rate.is_some_and(|rate| !(1.0..=1e8).contains(&rate)) {
        return usage("--rate is from 1 to 100000000 a second");
    }
    plan(args, 1).map(|_| ())
}

/// The load from the beginning of its quiet seconds on.
fn plan(args: &ExpireStormArgs, port: u16) -> Result<Plan, Error> {
    let stop = Stop::After(Duration::from_secs(args.quiet + args.seconds));
    let mut plan = args.load.plan(&Ports::local(&[port], false), "get", args.pipeline, stop)?;
    if let Some(per_second) = args.rate {
        plan.pace = Pace::Open { per_second, arrivals: args.arrivals };
    }
    Ok(plan)
}

fn measure(args: &ExpireStormArgs, spec: &ServerSpec) -> Result<Storm, Error> {
    let server = args.servers.start(spec)?;
    system::pin_thread(&args.load.cpus).map_err(Error::io("pin to --load-cpus"))?;
    let mut plan = plan(args, server.ports[0])?;
    let progress = (!args.json).then_some("expire-storm");
    let bar = Bar::new(progress, 2);
    bar.set_with(0, format!("{}: writing the keys that stay", server.name));
    let start = Instant::now();
    load::preload(&plan, &args.load.shape())?;
    let keys_stay = plan.keys;
    let taken = start.elapsed();
    let rss_before_bytes = settled_rss(&server, SETTLE)?.bytes;

    bar.set_with(1, format!("{}: writing the keys that expire", server.name));
    let at = storm_time(args, taken, keys_stay)?;
    let shape = args.load.shape();
    let command = format!("SET storm:__key__ __value__ PXAT {}", at.as_millis());
    fill(&server.address(), &shape, &command, args.expiring, &args.load.cpus, None)?;
    drop(bar);
    let mut watch = connect(&server.address())?;
    let keys_full = watch.integer(&[b"DBSIZE"])?;
    if keys_full != keys_stay + args.expiring {
        let expected = format!("{} keys before the storm", keys_stay + args.expiring);
        return Err(watch.wrong(expected, keys_full.to_string().as_bytes()));
    }

    // From here on by the clock that does not jump.
    let late = || Error::dead(&server.name, "took too long to take the keys that expire: give it fewer");
    let left = at.checked_sub(since_epoch()).ok_or_else(late)?;
    let storm_at = Instant::now() + left;
    plan.warmup = left.checked_sub(Duration::from_secs(args.quiet) + LEAD).ok_or_else(late)?;
    plan.progress = progress;
    let (outcome, looks) = load_and_look(&plan, &server, watch, storm_at)?;

    let keys_back = looks.iter().find(|look| look.at >= 0.0 && look.keys <= keys_stay).map(|look| look.at);
    // The last look before they are due.
    let rss_full_bytes = looks.iter().rfind(|look| look.at < 0.0).map_or(rss_before_bytes, |look| look.rss_bytes);
    let growth = rss_full_bytes.saturating_sub(rss_before_bytes) as f64;
    let rss_back_bytes = rss_before_bytes as f64 + RSS_LEFT * growth;
    let rss_back =
        looks.iter().find(|look| look.at >= 0.0 && look.rss_bytes as f64 <= rss_back_bytes).map(|look| look.at);
    // Where T is in the measured window.
    let storm_begins = storm_at.saturating_duration_since(outcome.began).as_secs_f64();
    let quiet_seconds = storm_begins as usize;
    let storm_ends = keys_back.map_or(usize::MAX, |back| (storm_begins + back) as usize + 1);
    let storm_ends = storm_ends.clamp(quiet_seconds + 1, outcome.series.len().max(quiet_seconds + 1));
    Ok(Storm {
        server: server.name.clone(),
        version: server.version.clone(),
        rss_before_bytes,
        rss_full_bytes,
        looks,
        keys_back,
        rss_back,
        quiet_seconds,
        storm_seconds: storm_ends - quiet_seconds,
        quiet: outcome.latency_of_seconds(0..quiet_seconds),
        storm: outcome.latency_of_seconds(quiet_seconds..storm_ends),
        outcome,
    })
}

/// When the keys shall expire: writing them is given twice as long as it should take, going by how long the others took to be
/// written and read, and some seconds.
fn storm_time(args: &ExpireStormArgs, taken: Duration, keys: u64) -> Result<Duration, Error> {
    let writing = seconds(taken.as_secs_f64() / keys as f64 * args.expiring as f64)?;
    let at = since_epoch() + writing + LEAD + Duration::from_secs(3 + args.quiet);
    Ok(Duration::from_secs(at.as_secs()))
}

fn since_epoch() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Runs the load, and looks at the server meanwhile.
fn load_and_look(
    plan: &Plan,
    server: &Server,
    mut watch: Client,
    storm_at: Instant,
) -> Result<(Outcome, Vec<Look>), Error> {
    let done = AtomicBool::new(false);
    let pids = server.pids();
    std::thread::scope(|scope| {
        let looks = scope.spawn(|| -> Result<Vec<Look>, Error> {
            let mut looks = Vec::new();
            while !done.load(Ordering::Relaxed) {
                let keys = watch.integer(&[b"DBSIZE"])?;
                let rss_bytes = process::sample(&pids)?.rss_bytes;
                let now = Instant::now();
                let before = storm_at.saturating_duration_since(now).as_secs_f64();
                let at = now.saturating_duration_since(storm_at).as_secs_f64() - before;
                looks.push(Look { at, keys, rss_bytes });
                std::thread::sleep(LOOK_INTERVAL);
            }
            Ok(looks)
        });
        let outcome = load::run(plan, &pids);
        done.store(true, Ordering::Relaxed);
        let looks = looks.join().expect("looking does not panic");
        Ok((outcome?, looks?))
    })
}

fn us(histogram: &Histogram<u64>, quantile: f64) -> f64 {
    histogram.value_at_quantile(quantile) as f64 / 1e3
}

impl Storm {
    fn phases(&self) -> [(&'static str, usize, &Histogram<u64>); 2] {
        [("quiet", self.quiet_seconds, &self.quiet), ("storm", self.storm_seconds, &self.storm)]
    }

    fn rss_end_bytes(&self) -> u64 {
        self.looks.last().map_or(0, |look| look.rss_bytes)
    }

    fn keys_end(&self) -> u64 {
        self.looks.last().map_or(0, |look| look.keys)
    }
}

fn print(args: &ExpireStormArgs, storm: &Storm) {
    let pace = match args.rate {
        Some(rate) => format!("{rate} GETs a second"),
        None => "GETs as fast as the replies come".to_string(),
    };
    println!(
        "{} ({}): {} keys expire at once beside {} that stay; {} connections x pipeline {}, {pace}",
        storm.server, storm.version, args.expiring, args.load.keys, args.load.connections, args.pipeline
    );
    println!(
        "  {:<6} {:>4} {:>10} {:>10} {:>10} {:>10} {:>10}   latency us",
        "", "s", "ops/s", "p50", "p99", "p99.9", "max"
    );
    for (name, seconds, histogram) in storm.phases() {
        println!(
            "  {name:<6} {seconds:>4} {:>10.0} {:>10.1} {:>10.1} {:>10.1} {:>10.1}",
            histogram.len() as f64 / seconds.max(1) as f64,
            us(histogram, 0.5),
            us(histogram, 0.99),
            us(histogram, 0.999),
            histogram.max() as f64 / 1e3
        );
    }
    let ratio = |quantile| us(&storm.storm, quantile) / us(&storm.quiet, quantile);
    println!("  storm over quiet: p99 {:.2}, p99.9 {:.2}", ratio(0.99), ratio(0.999));
    match storm.keys_back {
        Some(seconds) => println!("  the keys were gone after {seconds:.2} s"),
        None => println!("  the keys were not gone after {} s: {} were left", args.seconds, storm.keys_end()),
    }
    let rss = format!(
        "{:.1} MiB before them, {:.1} with them, {:.1} at the end",
        mib(storm.rss_before_bytes),
        mib(storm.rss_full_bytes),
        mib(storm.rss_end_bytes())
    );
    match storm.rss_back {
        Some(seconds) => println!("  RSS was back (a tenth of the growth left) after {seconds:.2} s: {rss}"),
        None => println!("  RSS was not back (a tenth of the growth left) after {} s: {rss}", args.seconds),
    }
}

fn report(args: &ExpireStormArgs, machine: Value, storms: &[Storm]) -> Value {
    let storm = |storm: &Storm| {
        let mut value = json!({
            "server": storm.server,
            "version": storm.version,
            "rss_bytes_before": storm.rss_before_bytes,
            "rss_bytes_full": storm.rss_full_bytes,
            "rss_bytes_end": storm.rss_end_bytes(),
            "keys_end": storm.keys_end(),
            "keys_back_seconds": storm.keys_back,
            "rss_back_seconds": storm.rss_back,
            "errors": storm.outcome.refused,
            "misses": storm.outcome.misses,
            "behind": storm.outcome.behind,
            "unanswered": storm.outcome.unanswered,
            "load_busy": storm.outcome.load_busy(),
            "looks": storm.looks.iter().map(|look| json!([look.at, look.keys, look.rss_bytes])).collect::<Vec<_>>(),
        });
        for (name, seconds, histogram) in storm.phases() {
            value[name]["seconds"] = json!(seconds);
            value[name]["ops_per_second"] = json!(histogram.len() as f64 / seconds.max(1) as f64);
            value[name]["latency_us"]["max"] = json!(histogram.max() as f64 / 1e3);
            for (percentile, quantile) in PERCENTILES {
                value[name]["latency_us"][percentile] = json!(us(histogram, quantile));
            }
        }
        value
    };
    json!({
        "command_line": system::command_line(),
        "machine": machine,
        "keys": args.load.keys,
        "expiring": args.expiring,
        "value_size": args.load.value_size.to_string(),
        "connections": args.load.connections,
        "pipeline": args.pipeline,
        "rate": args.rate,
        "quiet_seconds": args.quiet,
        "storm_seconds": args.seconds,
        "looks": "seconds since the keys were due, keys, RSS in bytes",
        "results": storms.iter().map(storm).collect::<Vec<_>>(),
    })
}
