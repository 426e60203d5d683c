//! `torc-bench churn`: what a memory limit is worth when sizes of values change.
//!
//! A cache full of small values has its memory in pieces of their size. When values grow, all of these must make room; an
//! allocator that cannot put the pieces together keeps them, and the process grows beyond its limit. So for each server:
//!
//! ```text
//! drift      start, fill until the limit, then SET random keys; the sizes drift (sizes.rs)
//! no drift   the same with a new server, each window of sizes as often as before, but mixed from the start
//! ```
//!
//! Once a second: RSS, used memory, keys, evictions, operations. The limit is the server's own, from its command line.

mod sizes;

use crate::bar::Bar;
use crate::client::{Client, first_word, write_request};
use crate::compare::servers::{Server, ServerSpec};
use crate::error::Error;
use crate::keys;
use crate::process;
use crate::random::Random;
use crate::run::seconds;
use crate::system;
use crate::under_test::{ServersArgs, connect, load_cpus, mib};
use clap::Args;
use serde_json::{Value, json};
use sizes::{Mix, Windows};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

#[derive(Args, Clone, Debug)]
pub struct ChurnArgs {
    /// With a limit and a policy of eviction in the command, such as --maxmemory 256mb --maxmemory-policy allkeys-lru.
    #[command(flatten)]
    pub servers: ServersArgs,
    /// The load's cpu; 1 unless named.
    #[arg(long, value_delimiter = ',')]
    pub load_cpus: Vec<usize>,
    /// Seconds of each of the two runs, once the server is full.
    #[arg(long, default_value_t = 60.0)]
    pub seconds: f64,
    /// Seconds after which the sizes move on.
    #[arg(long, default_value_t = 5.0)]
    pub shift: f64,
    #[arg(long, default_value_t = 16)]
    pub value_min: usize,
    #[arg(long, default_value_t = 65_536)]
    pub value_max: usize,
    /// Width of the sizes at one time, as a power of two: 2 is from 16 to 64 bytes, then from 64 to 256 and so on.
    #[arg(long, default_value_t = 2.0)]
    pub octaves: f64,
    /// Keys are drawn evenly from so many. With the smallest values they should take more than the limit.
    #[arg(long, default_value_t = 4_000_000)]
    pub keys: u64,
    #[arg(long, default_value_t = 16)]
    pub key_size: usize,
    #[arg(long, default_value_t = 4)]
    pub connections: usize,
    #[arg(long, default_value_t = 16)]
    pub pipeline: usize,
    /// Leave out the run without drift.
    #[arg(long)]
    pub drift_only: bool,
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Print the result as JSON.
    #[arg(long)]
    pub json: bool,
}

const VALUE_BYTES_MAX: usize = 16 << 20;
const BATCH_BYTES_MAX: usize = 256 << 20;
/// The server counts as full at this share of its limit, or at its first eviction.
const FULL: f64 = 0.95;
/// Filling takes no longer than this.
const FILL_TIMEOUT: Duration = Duration::from_secs(120);
/// Batches between two looks at the clock's seconds and at signals while filling.
const FILL_LOOK_BATCHES: usize = 64;

/// What was seen at the end of a second.
#[derive(Clone, Copy, Debug)]
struct Second {
    /// Since the server was full.
    end: f64,
    /// Smallest and largest value of the time; all of them without drift.
    value_bytes: (usize, usize),
    rss_bytes: u64,
    used_bytes: u64,
    keys: u64,
    /// Since the server was full.
    evicted: u64,
    ops_per_second: f64,
    /// Values and keys.
    bytes_per_second: f64,
}

struct Run {
    drift: bool,
    /// RSS when it was full, and the most there ever was.
    rss_full_bytes: u64,
    rss_peak_bytes: u64,
    seconds: Vec<Second>,
    operations: u64,
    bytes: u64,
    elapsed: f64,
    /// Values written by window.
    counts: Vec<u64>,
    refused: BTreeMap<String, u64>,
}

struct Cell {
    server: String,
    version: String,
    maxmemory_bytes: u64,
    runs: Vec<Run>,
}

pub fn run(args: &ChurnArgs) -> Result<(), Error> {
    let windows = check(args)?;
    let specs = args.servers.specs(true)?;
    let machine = system::describe_machine();
    system::catch_signals();
    let mut cells = Vec::new();
    for spec in &specs {
        cells.push(measure_server(args, spec, &windows)?);
    }
    if args.json {
        println!("{:#}", report(args, machine, &cells));
    } else {
        cells.iter().for_each(|cell| print(args, cell));
    }
    let mut refused = BTreeMap::new();
    for (kind, count) in cells.iter().flat_map(|cell| &cell.runs).flat_map(|run| &run.refused) {
        *refused.entry(kind.clone()).or_insert(0) += count;
    }
    Error::if_refused(&refused)
}

fn check(args: &ChurnArgs) -> Result<Windows, Error> {
    let usage = |text: &str| Err(Error::Usage(text.to_string()));
    if args.value_min == 0 || args.value_min > args.value_max || args.value_max > VALUE_BYTES_MAX {
        return usage("--value-min is at least 1, --value-max at least that and at most 16 MiB");
    }
    if args.connections == 0 || args.pipeline == 0 || args.keys == 0 || !keys::key_fits(args.key_size, args.keys) {
        return usage(
            "--connections, --pipeline and --keys are at least 1, and --key-size holds 4 bytes and the digits",
        );
    }
    if args.value_max.saturating_mul(args.pipeline).saturating_mul(args.connections) > BATCH_BYTES_MAX {
        return usage("--value-max times --pipeline times --connections is at most 256 MiB");
    }
    if !(0.1..=24.0).contains(&args.octaves) {
        return usage("--octaves is from 0.1 to 24");
    }
    if seconds(args.seconds)?.is_zero() || seconds(args.shift)?.is_zero() {
        return usage("--seconds and --shift are more than 0");
    }
    Ok(Windows::new(args.value_min, args.value_max, args.octaves))
}

fn measure_server(args: &ChurnArgs, spec: &ServerSpec, windows: &Windows) -> Result<Cell, Error> {
    let mut cell = Cell { server: spec.name.clone(), version: String::new(), maxmemory_bytes: 0, runs: Vec::new() };
    let mut mix = None;
    while cell.runs.len() < if args.drift_only { 1 } else { 2 } {
        let server = args.servers.start(spec)?;
        system::pin_thread(&load_cpus(&args.load_cpus)).map_err(Error::io("pin to --load-cpus"))?;
        let mut churn = Churn::start(args, &server, windows)?;
        cell.version = server.version.clone();
        cell.maxmemory_bytes = churn.maxmemory_bytes;
        let run = churn.run(mix.as_ref())?;
        mix = Mix::of_counts(&run.counts);
        cell.runs.push(run);
        if mix.is_none() {
            return Err(Error::dead(&server.name, "took no value in all of --seconds"));
        }
    }
    Ok(cell)
}

/// One server, and the connections to it.
struct Churn<'a> {
    args: &'a ChurnArgs,
    windows: &'a Windows,
    server: &'a Server,
    maxmemory_bytes: u64,
    /// Asks what the server says of itself.
    watch: Client,
    /// Each has at most one batch under way.
    clients: Vec<Client>,
    /// Replies that each still owes.
    owed: Vec<usize>,
    random: Random,
    /// Values are pieces of this.
    noise: Vec<u8>,
    out: Vec<u8>,
    /// Sent since the server was full.
    operations: u64,
    bytes: u64,
    counts: Vec<u64>,
    refused: BTreeMap<String, u64>,
}

impl<'a> Churn<'a> {
    fn start(args: &'a ChurnArgs, server: &'a Server, windows: &'a Windows) -> Result<Churn<'a>, Error> {
        let address = server.address();
        let mut watch = connect(&address)?;
        let maxmemory_bytes = watch.config("maxmemory")?.unwrap_or(0);
        if maxmemory_bytes == 0 {
            let text = format!("{}: there is no limit; give --maxmemory in the server's command", server.name);
            return Err(Error::Usage(text));
        }
        let clients = (0..args.connections).map(|_| connect(&address)).collect::<Result<Vec<_>, _>>()?;
        let mut noise = vec![0; 2 * args.value_max];
        keys::write_value(&mut noise, args.seed);
        Ok(Churn {
            args,
            windows,
            server,
            maxmemory_bytes,
            watch,
            owed: vec![0; clients.len()],
            clients,
            random: Random::new(args.seed),
            noise,
            out: Vec::new(),
            operations: 0,
            bytes: 0,
            counts: vec![0; windows.count()],
            refused: BTreeMap::new(),
        })
    }

    /// With a mix all sizes come from it, from the start; without one they drift.
    fn run(&mut self, mix: Option<&Mix>) -> Result<Run, Error> {
        let what = if mix.is_some() { "no drift" } else { "drift" };
        let prefix = format!("{}, {what}", self.server.name);
        let length = seconds(self.args.seconds)?;
        let bar = Bar::new((!self.args.json).then_some(&prefix), length.as_millis() as u64);
        let first = mix.cloned().unwrap_or(Mix::One(self.windows.at(0)));
        self.fill(&first, &bar)?;
        let rss_full_bytes = self.sample()?.rss_bytes;
        let evicted_before = self.watch.info("stats", "evicted_keys")?;
        (self.operations, self.bytes) = (0, 0);
        self.counts.fill(0);
        let mut series: Vec<Second> = Vec::new();
        let (mut period_before, mut operations_before, mut bytes_before) = (0, 0, 0);
        let start = Instant::now();
        let mut noted = 0.0;
        for turn in 0.. {
            let elapsed = start.elapsed().as_secs_f64();
            let period = (elapsed / self.args.shift) as usize;
            let over = elapsed >= self.args.seconds;
            // The last second of a period ends with it.
            if elapsed - noted >= 1.0 || period != period_before || over {
                let value_bytes = match &mix {
                    Some(_) => (self.args.value_min, self.args.value_max),
                    None => self.windows.bounds(self.windows.at(period_before)),
                };
                let time = elapsed - noted;
                series.push(Second {
                    end: elapsed,
                    value_bytes,
                    rss_bytes: self.sample()?.rss_bytes,
                    used_bytes: self.watch.info("memory", "used_memory")?,
                    keys: self.watch.integer(&[b"DBSIZE"])?,
                    evicted: self.watch.info("stats", "evicted_keys")?.saturating_sub(evicted_before),
                    ops_per_second: (self.operations - operations_before) as f64 / time,
                    bytes_per_second: (self.bytes - bytes_before) as f64 / time,
                });
                (period_before, noted) = (period, elapsed);
                (operations_before, bytes_before) = (self.operations, self.bytes);
                bar.set_with((elapsed * 1e3) as u64, format!("{:.0} ops/s", series[series.len() - 1].ops_per_second));
                system::check_interrupt()?;
            }
            if over {
                break;
            }
            let mix = mix.cloned().unwrap_or(Mix::One(self.windows.at(period)));
            let keys = self.args.keys;
            self.send(turn % self.clients.len(), &mix, |random| random.below(keys))?;
        }
        let elapsed = start.elapsed().as_secs_f64();
        let (operations, bytes) = (self.operations, self.bytes);
        self.finish()?;
        Ok(Run {
            drift: mix.is_none(),
            rss_full_bytes,
            rss_peak_bytes: self.sample()?.rss_peak_bytes,
            seconds: series,
            operations,
            bytes,
            elapsed,
            counts: self.counts.clone(),
            refused: self.refused.clone(),
        })
    }

    /// Sets keys in their order until the limit is near, or something was evicted, or every key is there.
    fn fill(&mut self, mix: &Mix, bar: &Bar) -> Result<(), Error> {
        let start = Instant::now();
        let mut next = 0;
        bar.set_with(0, "filling".to_string());
        for turn in 0.. {
            self.send(turn % self.clients.len(), mix, |_| {
                next += 1;
                next - 1
            })?;
            if turn % FILL_LOOK_BATCHES == 0 || next >= self.args.keys {
                system::check_interrupt()?;
                let used = self.watch.info("memory", "used_memory")?;
                let evicted = self.watch.info("stats", "evicted_keys")?;
                if evicted > 0 || used as f64 >= FULL * self.maxmemory_bytes as f64 || next >= self.args.keys {
                    break;
                }
                if start.elapsed() > FILL_TIMEOUT {
                    return Err(Error::dead(&self.server.name, "is not full after two minutes"));
                }
            }
        }
        self.finish()
    }

    /// Takes the replies that a client owes, and sends it the next batch.
    fn send(&mut self, client: usize, mix: &Mix, mut key: impl FnMut(&mut Random) -> u64) -> Result<(), Error> {
        self.take(client)?;
        self.out.clear();
        let mut name = vec![0; self.args.key_size];
        name[..keys::PREFIX_BYTES].copy_from_slice(b"key:");
        for _ in 0..self.args.pipeline {
            let index = key(&mut self.random) % self.args.keys;
            keys::write_digits(&mut name[keys::PREFIX_BYTES..], index);
            let window = mix.window(&mut self.random);
            let size = self.windows.draw(window, &mut self.random);
            let from = self.random.below((self.noise.len() - size) as u64) as usize;
            write_request(&mut self.out, &[b"SET", &name, &self.noise[from..from + size]]);
            self.counts[window] += 1;
            self.bytes += (name.len() + size) as u64;
        }
        self.operations += self.args.pipeline as u64;
        self.owed[client] = self.args.pipeline;
        self.clients[client].send(&self.out)
    }

    fn take(&mut self, client: usize) -> Result<(), Error> {
        let refused = &mut self.refused;
        let owed = std::mem::take(&mut self.owed[client]);
        self.clients[client].replies(owed, |reply| {
            if reply != b"+OK\r\n" {
                *refused.entry(first_word(reply)).or_default() += 1;
            }
        })
    }

    fn finish(&mut self) -> Result<(), Error> {
        (0..self.clients.len()).try_for_each(|client| self.take(client))
    }

    fn sample(&self) -> Result<process::Sample, Error> {
        process::sample(&self.server.pids())
    }
}

impl Run {
    fn name(&self) -> &'static str {
        if self.drift { "drift" } else { "no drift" }
    }

    fn ops_per_second(&self) -> f64 {
        self.operations as f64 / self.elapsed
    }

    fn bytes_per_second(&self) -> f64 {
        self.bytes as f64 / self.elapsed
    }

    /// The seconds of one period each: those at which the sizes move on.
    fn periods(&self) -> impl Iterator<Item = &[Second]> {
        self.seconds.chunk_by(|one, other| one.value_bytes == other.value_bytes)
    }
}

impl Cell {
    /// The first run's operations a second over the second one's.
    fn throughput_ratio(&self) -> Option<f64> {
        match &self.runs[..] {
            [drift, steady] => Some(drift.ops_per_second() / steady.ops_per_second()),
            _ => None,
        }
    }
}

fn print(args: &ChurnArgs, cell: &Cell) {
    let limit = cell.maxmemory_bytes as f64;
    println!(
        "{} ({}), limit {:.1} MiB, values {} to {} bytes, seed {}",
        cell.server,
        cell.version,
        mib(cell.maxmemory_bytes),
        args.value_min,
        args.value_max,
        args.seed
    );
    for run in &cell.runs {
        println!(
            "  {}: RSS {:.1} MiB when full, {:.1} at most, {:.3} of the limit; {:.0} ops/s, {:.1} MB/s",
            run.name(),
            mib(run.rss_full_bytes),
            mib(run.rss_peak_bytes),
            run.rss_peak_bytes as f64 / limit,
            run.ops_per_second(),
            run.bytes_per_second() / 1e6
        );
        println!(
            "    {:>8} {:>14} {:>11} {:>11} {:>10} {:>12} {:>10} {:>8}",
            "until s", "values", "RSS max", "used max", "keys", "evicted", "ops/s", "MB/s"
        );
        for period in run.periods() {
            let last = &period[period.len() - 1];
            let mean = |value: fn(&Second) -> f64| period.iter().map(value).sum::<f64>() / period.len() as f64;
            let most = |value: fn(&Second) -> u64| period.iter().map(value).max().unwrap_or(0);
            println!(
                "    {:>8.1} {:>14} {:>11.1} {:>11.1} {:>10} {:>12} {:>10.0} {:>8.1}",
                last.end,
                format!("{}-{}", last.value_bytes.0, last.value_bytes.1),
                mib(most(|second| second.rss_bytes)),
                mib(most(|second| second.used_bytes)),
                last.keys,
                last.evicted,
                mean(|second| second.ops_per_second),
                mean(|second| second.bytes_per_second) / 1e6
            );
        }
    }
    if let Some(ratio) = cell.throughput_ratio() {
        println!("  throughput with drift over that without: {ratio:.3}");
    }
}

fn report(args: &ChurnArgs, machine: Value, cells: &[Cell]) -> Value {
    let second = |second: &Second| {
        json!({
            "second": second.end,
            "value_bytes_min": second.value_bytes.0,
            "value_bytes_max": second.value_bytes.1,
            "rss_bytes": second.rss_bytes,
            "used_memory_bytes": second.used_bytes,
            "keys": second.keys,
            "evicted_keys": second.evicted,
            "ops_per_second": second.ops_per_second,
            "bytes_per_second": second.bytes_per_second,
        })
    };
    let run = |run: &Run, limit: u64| {
        json!({
            "run": run.name(),
            "rss_bytes_full": run.rss_full_bytes,
            "rss_bytes_max": run.rss_peak_bytes,
            "rss_max_over_maxmemory": run.rss_peak_bytes as f64 / limit as f64,
            "seconds": run.elapsed,
            "operations": run.operations,
            "ops_per_second": run.ops_per_second(),
            "bytes_per_second": run.bytes_per_second(),
            "errors": run.refused,
            "series": run.seconds.iter().map(second).collect::<Vec<_>>(),
        })
    };
    let cell = |cell: &Cell| {
        json!({
            "server": cell.server,
            "version": cell.version,
            "maxmemory_bytes": cell.maxmemory_bytes,
            "throughput_drift_over_no_drift": cell.throughput_ratio(),
            "runs": cell.runs.iter().map(|one| run(one, cell.maxmemory_bytes)).collect::<Vec<_>>(),
        })
    };
    json!({
        "command_line": system::command_line(),
        "machine": machine,
        "value_min": args.value_min,
        "value_max": args.value_max,
        "octaves": args.octaves,
        "shift_seconds": args.shift,
        "keys": args.keys,
        "key_size": args.key_size,
        "connections": args.connections,
        "pipeline": args.pipeline,
        "seed": args.seed,
        "results": cells.iter().map(cell).collect::<Vec<_>>(),
    })
}
