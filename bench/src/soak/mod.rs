//! `torc-bench soak`: is a server the same after half an hour as it was after a quarter?
//!
//! ```text
//! lap 1 | lap 2 | ... | lap N     each: the same drift of the load, a snapshot, a rewrite of the log, and at its end
//!                                 all connections of the load closed, descriptors and memory looked at
//! ```
//!
//! `drift.rs` is what the load is at a moment, `load.rs` sends it, `probe.rs` is the client whose latency is judged, and
//! `trend.rs` says whether something grows.

mod drift;
mod load;
mod probe;
mod trend;

use crate::bar::Bar;
use crate::client::{Client, write_request};
use crate::compare::servers::{Server, ServerSpec};
use crate::data_dir::{DataDir, check_spec};
use crate::error::Error;
use crate::load::new_histogram;
use crate::process;
use crate::run::seconds;
use crate::system;
use crate::under_test::{connect, load_cpus, mib};
use clap::Args;
use drift::{Bounds, VALUE_BYTES_MIN};
use hdrhistogram::Histogram;
use load::Load;
use probe::Probe;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use trend::{NUMBERS_MIN, Trend};

#[derive(Args, Clone, Debug)]
pub struct SoakArgs {
    /// NAME=COMMAND. The command gets {port} and {dir}, and runs under `sh -c 'exec ...'`.
    #[arg(long)]
    pub server: ServerSpec,
    #[arg(long, default_value_t = 30.0)]
    pub minutes: f64,
    /// The load drifts through all that it can be once in so many seconds; laps are what is compared.
    #[arg(long, default_value_t = 60.0)]
    pub lap_seconds: f64,
    /// Seconds between two looks at memory and latency.
    #[arg(long, default_value_t = 1.0)]
    pub interval: f64,
    /// Requests a second, of all connections of the load.
    #[arg(long, default_value_t = 20_000.0)]
    pub rate: f64,
    /// Requests a second of the client whose latency is judged.
    #[arg(long, default_value_t = 500.0)]
    pub probe_rate: f64,
    #[arg(long, default_value_t = 100_000)]
    pub keys: u64,
    #[arg(long, default_value_t = 16 << 10)]
    pub value_max: usize,
    /// Batches have 1 to so many requests.
    #[arg(long, default_value_t = 32)]
    pub pipeline: usize,
    /// There are 1 to so many connections.
    #[arg(long, default_value_t = 50)]
    pub connections: usize,
    /// Growth of the memory over the second half that is not blamed, as a part of what it was; 4 MiB never are.
    #[arg(long, default_value_t = 0.05)]
    pub rss_tolerance: f64,
    /// The same for each of the three percentiles of latency; 0.1 ms is never blamed.
    #[arg(long, default_value_t = 0.25)]
    pub latency_tolerance: f64,
    /// Descriptors by which their number may grow over the second half.
    #[arg(long, default_value_t = 3.0)]
    pub descriptors_tolerance: f64,
    /// Plants a leak, to see that it is found: so many bytes of keys a lap that nobody removes.
    #[arg(long, default_value_t = 0)]
    pub leak_bytes: u64,
    /// The same with connections, which stay open.
    #[arg(long, default_value_t = 0)]
    pub leak_connections: usize,
    /// Seconds that a start may take until PING is answered.
    #[arg(long, default_value_t = 60.0)]
    pub start_timeout: f64,
    /// Where the data directory is made; the system's temporary directory unless named.
    #[arg(long)]
    pub dir: Option<PathBuf>,
    #[arg(long, value_delimiter = ',', default_value = "0")]
    pub server_cpus: Vec<usize>,
    /// The load's cpus; 1 unless named.
    #[arg(long, value_delimiter = ',')]
    pub load_cpus: Vec<usize>,
    #[arg(long)]
    pub seed: Option<u64>,
    /// Print the result as JSON.
    #[arg(long)]
    pub json: bool,
}

const VALUE_BYTES_MAX: usize = 16 << 20;
const CONNECTIONS_MAX: usize = 10_000;
const PIPELINE_MAX: usize = 1_000;
/// A load that the server did not keep up with is not made up for beyond this.
const BEHIND_MAX: Duration = Duration::from_millis(100);
/// Places of a lap at which the server is told to save.
const SNAPSHOTS: [(f64, &str); 2] = [(0.25, "BGSAVE"), (0.6, "BGREWRITEAOF")];
/// How long the server may take to notice that connections were closed.
const REST_TIMEOUT: Duration = Duration::from_secs(20);
const REST_LOOK: Duration = Duration::from_millis(20);
/// At the end of a lap descriptors are counted so often, and the least counts: the server may be changing files.
const DESCRIPTOR_LOOKS: usize = 10;
/// Growth that is never blamed.
const RSS_BYTES_FREE: f64 = (4 << 20) as f64;
const LATENCY_US_FREE: f64 = 100.0;
/// Bytes of a key that a planted leak leaves.
const LEAK_VALUE_BYTES: usize = 1_000;
/// Keys of it that are set at once.
const LEAK_BATCH: u64 = 200;
/// The clients that are there at the end of each lap: the one that watches, and the probe.
const WATCHERS: u64 = 2;

/// What was seen in one interval.
struct Sample {
    /// Seconds since the first lap began.
    end: f64,
    lap: usize,
    rss_bytes: u64,
    descriptors: u64,
    used_bytes: u64,
    keys: u64,
    connections: u64,
    ops_per_second: f64,
    latency: Latency,
}

/// Of the probe, microseconds.
#[derive(Clone, Copy)]
struct Latency {
    p50: f64,
    p99: f64,
    p999: f64,
    max: f64,
}

struct Lap {
    operations: u64,
    seconds: f64,
    /// The mean of its samples, and the most.
    rss_bytes: f64,
    rss_bytes_max: u64,
    /// When the connections of the load were closed.
    descriptors: u64,
    latency: Latency,
}

/// Whether one quantity grew.
struct Finding {
    what: &'static str,
    unit: &'static str,
    digits: usize,
    trend: Trend,
    allowed: f64,
}

struct Soak<'a> {
    args: &'a SoakArgs,
    bounds: Bounds,
    server: &'a mut Server,
    probe: &'a Probe,
    watch: Client,
    load: Load,
    /// Those of [`SNAPSHOTS`] that the server knows.
    snapshots: Vec<(f64, &'static str)>,
    saved: u64,
    /// What a planted leak keeps.
    leaked: Vec<Client>,
    leaked_keys: u64,
    start: Instant,
    samples: Vec<Sample>,
    laps: Vec<Lap>,
}

pub fn run(args: &SoakArgs) -> Result<(), Error> {
    let laps = check(args)?;
    let machine = system::describe_machine();
    system::catch_signals();
    let clock = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos() as u64;
    let seed = args.seed.unwrap_or(clock);
    if !args.json {
        println!("soak: --seed {seed}, {laps} laps of {} s; {}", args.lap_seconds, system::machine_line(&machine));
    }
    let data = DataDir::create(args.dir.as_deref(), "soak")?;
    let mut server = Server::start(&data.spec(&args.server.name, &args.server.commands[0]), &args.server_cpus)?;
    server.wait_until_serving(seconds(args.start_timeout)?)?;
    let (address, cpus, probe) = (server.address(), load_cpus(&args.load_cpus), Probe::new());
    system::pin_thread(&cpus).map_err(Error::io("pin to --load-cpus"))?;
    let mut soak = Soak {
        args,
        bounds: Bounds {
            keys: args.keys,
            value_bytes_max: args.value_max,
            pipeline_max: args.pipeline,
            connections_max: args.connections,
        },
        watch: connect(&address)?,
        load: Load::new(address.clone(), args.value_max, seed),
        server: &mut server,
        probe: &probe,
        snapshots: SNAPSHOTS.to_vec(),
        saved: 0,
        leaked: Vec::new(),
        leaked_keys: 0,
        start: Instant::now(),
        samples: Vec::new(),
        laps: Vec::new(),
    };
    std::thread::scope(|scope| {
        let prober = scope.spawn(|| probe.run(&address, args.probe_rate, &cpus));
        let ran = soak.run(laps);
        probe.stop();
        let probed = prober.join().expect("the probe does not panic");
        // What a server said before it ended by itself is more than that it is gone.
        soak.server.check_alive()?;
        ran.and(probed)
    })?;
    let findings = judge(args, &soak.laps);
    if args.json {
        println!("{:#}", soak.report(machine, seed, &findings));
    } else {
        soak.print(&findings);
    }
    Error::if_refused(&soak.load.refused)?;
    let grown: Vec<&str> = findings.iter().filter(|finding| finding.grows()).map(|finding| finding.what).collect();
    if grown.is_empty() { Ok(()) } else { Err(Error::Grows(grown.join(", "))) }
}

/// The number of laps.
fn check(args: &SoakArgs) -> Result<usize, Error> {
    let usage = |text: &str| Err(Error::Usage(text.to_string()));
    check_spec(&args.server)?;
    let (lap, length) = (seconds(args.lap_seconds)?, seconds(args.minutes * 60.0)?);
    if lap.is_zero() || seconds(args.interval)?.is_zero() || seconds(args.start_timeout)?.is_zero() {
        return usage("--lap-seconds, --interval and --start-timeout are more than 0");
    }
    let laps = (length.as_secs_f64() / lap.as_secs_f64()).round() as usize;
    if laps < NUMBERS_MIN {
        return usage("--minutes has at least eight times --lap-seconds in it: half of the laps are judged");
    }
    if args.interval > args.lap_seconds {
        return usage("--interval is at most --lap-seconds");
    }
    if ![args.rate, args.probe_rate].iter().all(|rate| (1.0..=1e7).contains(rate)) {
        return usage("--rate and --probe-rate are from 1 to 10000000");
    }
    if args.keys == 0 || !(VALUE_BYTES_MIN..=VALUE_BYTES_MAX).contains(&args.value_max) {
        return usage("--keys is at least 1, and --value-max from 24 bytes to 16 MiB");
    }
    if !(1..=CONNECTIONS_MAX).contains(&args.connections) || !(1..=PIPELINE_MAX).contains(&args.pipeline) {
        return usage("--connections is from 1 to 10000, and --pipeline from 1 to 1000");
    }
    let tolerances = [args.rss_tolerance, args.latency_tolerance, args.descriptors_tolerance];
    if !tolerances.iter().all(|tolerance| tolerance.is_finite() && *tolerance >= 0.0) {
        return usage("tolerances are 0 or more");
    }
    Ok(laps)
}

impl Soak<'_> {
    fn run(&mut self, laps: usize) -> Result<(), Error> {
        let bar = Bar::new((!self.args.json).then_some("soak"), laps as u64 * 1_000);
        self.start = Instant::now();
        self.probe.take();
        for lap in 0..laps {
            self.run_lap(lap, &bar)?;
            self.leak()?;
        }
        Ok(())
    }

    fn run_lap(&mut self, lap: usize, bar: &Bar) -> Result<(), Error> {
        let (length, interval) = (self.args.lap_seconds, self.args.interval);
        let (start, mut due) = (Instant::now(), Instant::now());
        let (first_sample, operations_before) = (self.samples.len(), self.load.operations);
        let (mut latency, mut noted, mut operations_noted) = (new_histogram(), 0.0, operations_before);
        let mut snapshots = self.snapshots.clone();
        loop {
            let elapsed = start.elapsed().as_secs_f64();
            let place = elapsed / length;
            // What is left of a lap behind its last whole interval goes with that.
            if elapsed - noted >= interval && length - elapsed >= interval / 2.0 || place >= 1.0 {
                let rate = (self.load.operations - operations_noted) as f64 / (elapsed - noted);
                (noted, operations_noted) = (elapsed, self.load.operations);
                self.sample(lap, rate, &mut latency)?;
                bar.set_with(((lap as f64 + place) * 1e3) as u64, format!("{rate:.0} ops/s"));
            }
            if place >= 1.0 {
                break;
            }
            if let Some(at) = snapshots.iter().position(|(at, _)| place >= *at) {
                let (_, command) = snapshots.remove(at);
                self.ask_for_snapshot(command)?;
            }
            system::check_interrupt()?;
            std::thread::sleep(due.saturating_duration_since(Instant::now()).min(Duration::from_millis(50)));
            if Instant::now() < due {
                continue;
            }
            let sent = self.load.step(&drift::at(place, &self.bounds))?;
            due += Duration::from_secs_f64(sent as f64 / self.args.rate);
            due = due.max(Instant::now().checked_sub(BEHIND_MAX).unwrap_or(due));
        }
        let seconds = start.elapsed().as_secs_f64();
        let descriptors = self.rest()?;
        let rss: Vec<u64> = self.samples[first_sample..].iter().map(|sample| sample.rss_bytes).collect();
        self.laps.push(Lap {
            operations: self.load.operations - operations_before,
            seconds,
            rss_bytes: rss.iter().sum::<u64>() as f64 / rss.len() as f64,
            rss_bytes_max: rss.into_iter().max().expect("a lap has a sample"),
            descriptors,
            latency: Latency::of(&latency),
        });
        Ok(())
    }

    /// Notes what there is to be seen; the probe's latencies go to those of the lap.
    fn sample(&mut self, lap: usize, ops_per_second: f64, latency: &mut Histogram<u64>) -> Result<(), Error> {
        self.server.check_alive()?;
        let pids = self.server.pids();
        let measured = self.probe.take();
        latency.add(&measured).expect("they have the same bounds");
        self.samples.push(Sample {
            end: self.start.elapsed().as_secs_f64(),
            lap,
            rss_bytes: process::sample(&pids)?.rss_bytes,
            descriptors: process::descriptors(&pids)?,
            used_bytes: self.watch.info("memory", "used_memory")?,
            keys: self.watch.integer(&[b"DBSIZE"])?,
            connections: self.watch.info("clients", "connected_clients")?,
            ops_per_second,
            latency: Latency::of(&measured),
        });
        Ok(())
    }

    fn ask_for_snapshot(&mut self, command: &'static str) -> Result<(), Error> {
        match self.watch.call(&[command.as_bytes()]) {
            Ok(_) => self.saved += 1,
            // One may be under way.
            Err(Error::WrongReply { got, .. }) if got.starts_with('-') => {
                if got.contains("unknown command") {
                    eprintln!("{command} is left out: the server has no such command");
                    self.snapshots.retain(|(_, known)| *known != command);
                }
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Closes the connections of the load; gives the server's descriptors when it has noticed.
    fn rest(&mut self) -> Result<u64, Error> {
        self.load.rest()?;
        let (start, left) = (Instant::now(), WATCHERS + self.leaked.len() as u64);
        loop {
            let connected = self.watch.info("clients", "connected_clients")?;
            if connected <= left {
                break;
            }
            if start.elapsed() > REST_TIMEOUT {
                let reason = format!("has {connected} clients 20 s after all but {left} were closed");
                return Err(Error::dead(&self.server.name, reason));
            }
            system::sleep(REST_LOOK)?;
        }
        let mut least = u64::MAX;
        for _ in 0..DESCRIPTOR_LOOKS {
            least = least.min(process::descriptors(&self.server.pids())?);
            system::sleep(REST_LOOK)?;
        }
        Ok(least)
    }

    /// Leaks what is to be leaked a lap.
    fn leak(&mut self) -> Result<(), Error> {
        let address = self.server.address();
        for _ in 0..self.args.leak_connections {
            self.leaked.push(connect(&address)?);
        }
        let mut left = self.args.leak_bytes.div_ceil(LEAK_VALUE_BYTES as u64);
        let mut requests = Vec::new();
        while left > 0 {
            let batch = left.min(LEAK_BATCH);
            requests.clear();
            for _ in 0..batch {
                self.leaked_keys += 1;
                let key = format!("leaked:{}", self.leaked_keys);
                write_request(&mut requests, &[b"SET", key.as_bytes(), &[b'x'; LEAK_VALUE_BYTES]]);
            }
            self.watch.send(&requests)?;
            self.watch.replies(batch as usize, |_| {})?;
            left -= batch;
        }
        Ok(())
    }
}

impl Latency {
    fn of(nanoseconds: &Histogram<u64>) -> Latency {
        let us = |quantile| nanoseconds.value_at_quantile(quantile) as f64 / 1e3;
        Latency { p50: us(0.5), p99: us(0.99), p999: us(0.999), max: nanoseconds.max() as f64 / 1e3 }
    }

    fn json(&self) -> Value {
        json!({ "p50_us": self.p50, "p99_us": self.p99, "p999_us": self.p999, "max_us": self.max })
    }
}

/// What grew over the second half of the laps, and what did not.
fn judge(args: &SoakArgs, laps: &[Lap]) -> Vec<Finding> {
    let trend = |of: fn(&Lap) -> f64| Trend::of(&laps.iter().map(of).collect::<Vec<f64>>());
    let latency = |what, of| {
        let trend: Trend = trend(of);
        let allowed = (args.latency_tolerance * trend.start).max(LATENCY_US_FREE);
        Finding { what, unit: "us", digits: 0, trend, allowed }
    };
    let rss = trend(|lap| lap.rss_bytes);
    let rss_allowed = (args.rss_tolerance * rss.start).max(RSS_BYTES_FREE);
    vec![
        Finding { what: "RSS", unit: "bytes", digits: 0, trend: rss, allowed: rss_allowed },
        Finding {
            what: "descriptors",
            unit: "",
            digits: 1,
            trend: trend(|lap| lap.descriptors as f64),
            allowed: args.descriptors_tolerance,
        },
        latency("latency p50", |lap| lap.latency.p50),
        latency("latency p99", |lap| lap.latency.p99),
        latency("latency p99.9", |lap| lap.latency.p999),
    ]
}

impl Finding {
    fn grows(&self) -> bool {
        self.trend.grows_by_more_than(self.allowed)
    }

    fn verdict(&self) -> &'static str {
        if self.grows() { "GROWS" } else { "flat" }
    }
}

impl Soak<'_> {
    fn print(&self, findings: &[Finding]) {
        println!(
            "{} ({}): {} requests, {} connections opened, {} saves asked for",
            self.server.name, self.server.version, self.load.operations, self.load.opened, self.saved
        );
        println!(
            "  {:>5} {:>10} {:>10} {:>10} {:>12} {:>9} {:>9} {:>9} {:>9}",
            "lap", "ops/s", "RSS MiB", "RSS max", "descriptors", "p50 us", "p99 us", "p99.9 us", "max us"
        );
        for (number, lap) in self.laps.iter().enumerate() {
            let Latency { p50, p99, p999, max } = lap.latency;
            println!(
                "  {:>5} {:>10.0} {:>10.1} {:>10.1} {:>12} {:>9.0} {:>9.0} {:>9.0} {:>9.0}",
                number + 1,
                lap.operations as f64 / lap.seconds,
                mib(lap.rss_bytes as u64),
                mib(lap.rss_bytes_max),
                lap.descriptors,
                p50,
                p99,
                p999,
                max
            );
        }
        println!("  over the last {} laps:", self.laps.len().div_ceil(2));
        for finding in findings {
            let Finding { what, unit, digits, trend: Trend { start, growth, scatter }, allowed } = finding;
            let verdict = finding.verdict();
            println!(
                "    {what:<14} {verdict:<6} from {start:.digits$} {unit} by {growth:+.digits$}; {allowed:.digits$} allowed, \
                 {scatter:.digits$} may be chance"
            );
        }
    }

    fn report(&self, machine: Value, seed: u64, findings: &[Finding]) -> Value {
        let finding = |finding: &Finding| {
            let Trend { start, growth, scatter } = finding.trend;
            json!({
                "what": finding.what,
                "unit": finding.unit,
                "verdict": finding.verdict(),
                "start": start,
                "growth": growth,
                "scatter": scatter,
                "allowed": finding.allowed,
            })
        };
        let lap = |lap: &Lap| {
            json!({
                "seconds": lap.seconds,
                "operations": lap.operations,
                "rss_bytes_mean": lap.rss_bytes,
                "rss_bytes_max": lap.rss_bytes_max,
                "descriptors": lap.descriptors,
                "latency": lap.latency.json(),
            })
        };
        let sample = |sample: &Sample| {
            json!({
                "second": sample.end,
                "lap": sample.lap + 1,
                "rss_bytes": sample.rss_bytes,
                "descriptors": sample.descriptors,
                "used_memory_bytes": sample.used_bytes,
                "keys": sample.keys,
                "connections": sample.connections,
                "ops_per_second": sample.ops_per_second,
                "latency": sample.latency.json(),
            })
        };
        json!({
            "command_line": system::command_line(),
            "machine": machine,
            "server": self.server.name,
            "version": self.server.version,
            "command": self.server.commands,
            "seed": seed,
            "rate": self.args.rate,
            "probe_rate": self.args.probe_rate,
            "lap_seconds": self.args.lap_seconds,
            "operations": self.load.operations,
            "connections_opened": self.load.opened,
            "saves": self.saved,
            "errors": self.load.refused,
            "findings": findings.iter().map(finding).collect::<Vec<_>>(),
            "laps": self.laps.iter().map(lap).collect::<Vec<_>>(),
            "samples": self.samples.iter().map(sample).collect::<Vec<_>>(),
        })
    }
}
