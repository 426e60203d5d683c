//! `torc-bench run`: one load against one server, or against several at once.

use crate::client::{self, Address, Greeting};
use crate::error::Error;
use crate::keys;
use crate::load::{self, Arrivals, Order, Outcome, Pace, Plan, Stop, Target};
use crate::process;
use crate::random::Distribution;
use crate::sizes::Sizes;
use crate::system;
use crate::workload::{self, Dialect, Shape, Slice, Template, Workload};
use clap::Args;
use hdrhistogram::Histogram;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

#[derive(Args, Clone, Debug)]
pub struct RunArgs {
    #[arg(long, default_value = "127.0.0.1")]
    pub host: String,
    /// Several ports share the connections round-robin.
    #[arg(long, value_delimiter = ',', default_value = "6379")]
    pub port: Vec<u16>,
    /// A socket file, instead of host and port.
    #[arg(long, conflicts_with_all = ["host", "port"])]
    pub unix: Option<PathBuf>,
    /// With several ports, give each its own share of the keys instead of all of them.
    #[arg(long)]
    pub split_keys: bool,
    #[command(flatten)]
    pub load: LoadArgs,
    /// Requests in flight on each connection.
    #[arg(long, default_value_t = 1)]
    pub pipeline: usize,
    /// Open loop: so many requests a second in total, whatever the server does; latency is from the time at
    /// which a request was due. Without it each connection sends when it has its replies (closed loop).
    #[arg(long)]
    pub rate: Option<f64>,
    /// Of an open loop.
    #[arg(long, value_enum, default_value = "even", requires = "rate")]
    pub arrivals: Arrivals,
    /// get, set, mixed (see --ratio), incr, expire, mget:N, mset:N, setex, del, exists, ping, hset, hget, lpush,
    /// lpop, sadd, zadd; trace, which replays what --dist trace:FILE names; or a whole request, in which each
    /// __key__ is another key and __value__ the value of the last one: 'SETRANGE __key__ 0 __value__'.
    #[arg(long, default_value = "get")]
    pub command: String,
    /// Stop after so many requests, without a warm-up, instead of after --seconds.
    #[arg(long)]
    pub requests: Option<u64>,
    #[arg(long, default_value_t = 5.0)]
    pub seconds: f64,
    /// First SET every key and read every one back.
    #[arg(long)]
    pub preload: bool,
    /// Processes of the server, whose cost is to be measured.
    #[arg(long, value_delimiter = ',')]
    pub pid: Vec<u32>,
    /// Print the result as JSON.
    #[arg(long)]
    pub json: bool,
    /// Write a report with charts, one file which needs nothing else.
    #[arg(long)]
    pub html: Option<PathBuf>,
    /// Print the bytes of one request, which the floor needs to know, and end.
    #[arg(long)]
    pub print_request_bytes: bool,
}

/// The flags of a load which `run` and `compare` share.
#[derive(Args, Clone, Debug)]
pub struct LoadArgs {
    #[arg(long, default_value_t = 50)]
    pub connections: usize,
    #[arg(long, alias = "load-threads", default_value_t = 1)]
    pub threads: usize,
    /// Pin the load's threads to these cpus.
    #[arg(long, aliases = ["cpu", "load-cpus"], value_delimiter = ',')]
    pub cpus: Vec<usize>,
    #[arg(long, default_value_t = 1_000_000)]
    pub keys: u64,
    #[arg(long, default_value_t = 16)]
    pub key_size: usize,
    /// Bytes: 32 or 1kb; range:LOW-HIGH; lognormal:MEDIAN:SIGMA; list:SIZE*WEIGHT,SIZE*WEIGHT. Each key's value has one
    /// size for good.
    #[arg(long, default_value = "32")]
    pub value_size: Sizes,
    /// Sets to gets, for the command `mixed`.
    #[arg(long, default_value = "1:10", value_parser = workload::parse_ratio)]
    pub ratio: (u64, u64),
    /// uniform, zipf:EXPONENT, hotspot:TRAFFIC:KEYS (their shares), sequential, or trace:FILE[:twitter|:csv|:keys].
    #[arg(long, default_value = "uniform")]
    pub dist: Distribution,
    /// Each thread derives its own; without it, from the time.
    #[arg(long)]
    pub seed: Option<u64>,
    /// Seconds of load before the measurement.
    #[arg(long, default_value_t = 0.5)]
    pub warmup: f64,
    /// Compare every value byte for byte; then a miss is wrong too.
    #[arg(long)]
    pub verify: bool,
    /// PASSWORD or USER:PASSWORD.
    #[arg(long)]
    pub auth: Option<String>,
    #[arg(long)]
    pub resp3: bool,
    /// What is spoken.
    #[arg(long, value_enum, default_value = "resp")]
    pub protocol: Dialect,
    /// Seconds after which a reply counts as missing.
    #[arg(long, default_value_t = 5.0)]
    pub timeout: f64,
}

impl LoadArgs {
    pub fn shape(&self) -> Shape {
        Shape { key_bytes: self.key_size, sizes: Arc::new(self.value_size.clone()), dialect: self.protocol }
    }

    pub fn greeting(&self) -> Greeting {
        match self.protocol {
            Dialect::Resp => Greeting { auth: self.auth.clone(), resp3: self.resp3 },
            // It knows neither HELLO nor AUTH.
            Dialect::Memcache => Greeting::default(),
        }
    }

    /// Checks the flags, and makes the plan for `command` over `targets`.
    pub fn plan(&self, ports: &Ports, command: &str, pipeline: usize, stop: Stop) -> Result<Plan, Error> {
        let usage = |text: &str| Err(Error::Usage(text.to_string()));
        let keys = self.dist.keys().unwrap_or(self.keys);
        if self.threads == 0 || pipeline == 0 || keys == 0 {
            return usage("--threads, --pipeline and --keys must be at least 1");
        }
        if self.key_size > KEY_BYTES_MAX || command.trim().is_empty() || self.timeout.is_nan() || self.timeout <= 0.0 {
            return usage("--key-size is at most 65536, --command is not empty, --timeout is more than 0");
        }
        if matches!(stop, Stop::Requests(0) | Stop::After(Duration::ZERO)) {
            return usage("nothing is measured with --requests 0 or --seconds 0");
        }
        let addresses = ports.addresses()?;
        if self.connections < self.threads.max(addresses.len()) {
            return usage("--connections must be at least --threads, and at least the number of ports");
        }
        if !keys::key_fits(self.key_size, keys) {
            return usage("--key-size is too small for --keys: 4 bytes of prefix and the digits of the last key");
        }
        if self.verify && (["hget", "lpop"].contains(&command) || command.contains([' ', '_'])) {
            return usage(
                "--verify knows what strings hold that it wrote; not hget, lpop, or what a whole request returns",
            );
        }
        if ports.split_keys && self.dist.keys().is_some() {
            return usage("a trace does not go with keys split between servers");
        }
        if command == "trace" && (self.dist.keys().is_none() || self.verify || ports.split_keys) {
            return usage("--command trace needs --dist trace:FILE, and goes with neither --verify nor --split-keys");
        }
        let workload = Workload::new(command, self.ratio, &self.shape(), self.verify)?;
        let batch_bytes = workload.reply_bytes_max().saturating_mul(pipeline);
        if batch_bytes > BATCH_BYTES_MAX || pipeline > PIPELINE_MAX {
            return usage("--pipeline is too large: a batch and its replies are at most 1 GiB, and a million requests");
        }
        let share = if ports.split_keys { addresses.len() as u64 } else { 1 };
        let slice = |i: usize| Slice { first: i as u64 % share, count: share };
        let targets =
            addresses.into_iter().enumerate().map(|(i, address)| Target { address, slice: slice(i) }).collect();
        let clock = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos() as u64);
        Ok(Plan {
            targets,
            greeting: self.greeting(),
            workload,
            keys: (keys / share).max(1),
            order: Order::Random(self.dist.clone()),
            connections: self.connections,
            pipeline,
            pace: Pace::Closed,
            threads: self.threads,
            cpus: self.cpus.clone(),
            seed: self.seed.unwrap_or(clock),
            warmup: seconds(self.warmup)?,
            stop,
            timeout: seconds(self.timeout)?,
            progress: None,
        })
    }
}

const KEY_BYTES_MAX: usize = 65_536;
const BATCH_BYTES_MAX: usize = 1 << 30;
const PIPELINE_MAX: usize = 1_000_000;
/// So many requests of an open loop may be under way at the end of any run.
const LATE_FEW: u64 = 5;
/// Bounds of `--rate`.
const RATE_MIN: f64 = 0.001;
const RATE_MAX: f64 = 100_000_000.0;

/// Where the load goes.
#[derive(Clone, Debug)]
pub struct Ports {
    pub host: String,
    pub ports: Vec<u16>,
    /// Instead of the ports.
    pub unix: Option<PathBuf>,
    pub split_keys: bool,
}

impl Ports {
    /// Ports of this machine.
    pub fn local(ports: &[u16], split_keys: bool) -> Ports {
        Ports { host: "127.0.0.1".to_string(), ports: ports.to_vec(), unix: None, split_keys }
    }

    fn addresses(&self) -> Result<Vec<Address>, Error> {
        match &self.unix {
            Some(path) => Ok(vec![Address::Unix(path.clone())]),
            None => self.ports.iter().map(|&port| client::resolve(&self.host, port)).collect(),
        }
    }
}

pub fn seconds(value: f64) -> Result<Duration, Error> {
    Duration::try_from_secs_f64(value).map_err(|error| Error::Usage(format!("{value} seconds: {error}")))
}

pub fn run(args: &RunArgs) -> Result<(), Error> {
    if args.print_request_bytes {
        args.load.plan(&Ports::local(&args.port, false), &args.command, 1, Stop::Requests(1))?;
        let template = Template::new(&args.command, &args.load.shape())?;
        if args.load.value_size.fixed().is_none() {
            return Err(Error::Usage("requests have one size only if values do".to_string()));
        }
        println!("{}", template.bytes.len());
        return Ok(());
    }
    let stop = match args.requests {
        Some(requests) => Stop::Requests(requests),
        None => Stop::After(seconds(args.seconds)?),
    };
    let (host, ports, unix) = (args.host.clone(), args.port.clone(), args.unix.clone());
    let ports = Ports { host, ports, unix, split_keys: args.split_keys };
    let mut plan = args.load.plan(&ports, &args.command, args.pipeline, stop)?;
    plan.progress = (!args.json).then_some("load");
    if let Some(per_second) = args.rate {
        if !(RATE_MIN..=RATE_MAX).contains(&per_second) {
            return Err(Error::Usage(format!("--rate is from {RATE_MIN} to {RATE_MAX} a second")));
        }
        plan.pace = Pace::Open { per_second, arrivals: args.arrivals };
    }
    check_open_files(plan.connections)?;
    let machine = system::describe_machine();
    system::catch_signals();
    system::pin_thread(&args.load.cpus).map_err(Error::io("pin to --cpus"))?;
    if args.preload {
        load::preload(&plan, &args.load.shape())?;
    }
    // Before the load, not after it.
    if !args.pid.is_empty() {
        process::sample(&args.pid)?;
    }
    let outcome = load::run(&plan, &args.pid)?;
    if outcome.latency_ns.is_empty() {
        let address = plan.targets[0].address.to_string();
        let waited_ms = (outcome.seconds * 1e3) as u64;
        return Err(Error::MissingReply { address, outstanding: plan.connections, waited_ms });
    }
    let report = report(&plan, &args.command, args.rate, machine, &outcome);
    if args.json {
        println!("{report:#}");
    } else {
        print(&plan, &args.command, &outcome);
    }
    if let Some(path) = &args.html {
        let page = crate::html::run_report(&report);
        std::fs::write(path, page).map_err(Error::io(format!("write {}", path.display())))?;
    }
    warn(&outcome);
    // Last, so that error replies do not hide the figures, nor the figures them.
    outcome.check()
}

pub fn check_open_files(connections: usize) -> Result<(), Error> {
    let limit = system::raise_open_files();
    if connections as u64 + 64 > limit {
        return Err(Error::Usage(format!("{connections} connections need a higher limit on open files than {limit}")));
    }
    Ok(())
}

/// Says on standard error what makes the figures mean less than they seem to.
pub fn warn(outcome: &Outcome) {
    if outcome.load_is_limit() {
        eprintln!(
            "warning: a load thread used {:.0} % of its core and waited {:.0} % of the time for it: the generator may \
             limit the throughput, and its own queue is part of the latency. The server's CPU per operation stays \
             valid, but a server which waits for load does smaller batches and looks dearer than a saturated one",
            outcome.load_busy() * 100.0,
            outcome.load_waiting() * 100.0
        );
    }
    if let Some(text) = rate_not_kept(outcome) {
        eprintln!("warning: {text}");
    }
}

/// Of an open loop: more than a hundredth of what was due had no reply at the end.
fn rate_not_kept(outcome: &Outcome) -> Option<String> {
    let late = outcome.behind + outcome.unanswered;
    (late > LATE_FEW && late * 100 > outcome.requests).then(|| {
        format!(
            "the rate was not kept: of the requests which were due {} had not been sent at the end, and {} had no reply. \
             Either the server cannot do more, or there are too few connections (connections x pipeline are in flight at \
             most)",
            outcome.behind, outcome.unanswered
        )
    })
}

pub const PERCENTILES: [(&str, f64); 5] =
    [("p50", 0.50), ("p90", 0.90), ("p99", 0.99), ("p99.9", 0.999), ("p99.99", 0.9999)];

/// Microseconds.
pub fn percentile_us(outcome: &Outcome, quantile: f64) -> f64 {
    outcome.latency_ns.value_at_quantile(quantile) as f64 / 1e3
}

fn print(plan: &Plan, command: &str, outcome: &Outcome) {
    println!("{}, {} thread(s), {:.2} s, seed {}", title(plan, command), plan.threads, outcome.seconds, plan.seed);
    println!(
        "  throughput {:.0} ops/s ({} operations, {} misses)",
        outcome.requests_per_second(),
        outcome.requests,
        outcome.misses
    );
    print!("  latency us");
    for (name, quantile) in PERCENTILES {
        print!("  {name} {:.1}", percentile_us(outcome, quantile));
    }
    println!("  max {:.1}", outcome.latency_ns.max() as f64 / 1e3);
    for (kind, count) in &outcome.refused {
        println!("  errors     {kind}: {count}");
    }
    if let (Some(server), Some(cpu)) = (outcome.server, outcome.server_ns_per_request()) {
        let (before, after) = (server.before, server.after);
        println!(
            "  server     {cpu:.0} ns CPU/op ({:.0} % user), {:.1} % of one core, waiting for it {:.1} %",
            user_share(&before, &after) * 100.0,
            server.cpu_ns() as f64 / outcome.seconds / 1e7,
            outcome.server_waiting() * 100.0
        );
        println!(
            "             RSS {:.1} -> {:.1} MiB, context switches {} voluntary, {} involuntary",
            before.rss_bytes as f64 / 1048576.0,
            after.rss_bytes as f64 / 1048576.0,
            after.switches_voluntary.saturating_sub(before.switches_voluntary),
            after.switches_involuntary.saturating_sub(before.switches_involuntary)
        );
    }
    for (i, thread) in outcome.threads.iter().enumerate() {
        let cpu = thread.cpu_ns.saturating_sub(thread.spun_ns) as f64 / thread.requests.max(1) as f64;
        println!(
            "  load       thread {i}: {cpu:.0} ns CPU/op, {:.1} % of its core, waiting for it {:.1} %",
            thread.busy() * 100.0,
            thread.waiting() * 100.0
        );
    }
}

fn user_share(before: &crate::process::Sample, after: &crate::process::Sample) -> f64 {
    let user = after.user_ticks.saturating_sub(before.user_ticks) as f64;
    let system = after.system_ticks.saturating_sub(before.system_ticks) as f64;
    user / (user + system).max(1.0)
}

fn title(plan: &Plan, command: &str) -> String {
    let load = format!("{command}: {} connections x pipeline {}", plan.connections, plan.pipeline);
    match plan.pace {
        Pace::Closed => load,
        Pace::Open { per_second, arrivals } => format!("{load}, {per_second} a second ({arrivals:?})").to_lowercase(),
    }
}

/// The whole result, which is what `--json` prints and the charts are made of.
fn report(plan: &Plan, command: &str, rate: Option<f64>, machine: Value, outcome: &Outcome) -> Value {
    let histogram = &outcome.latency_ns;
    let mut latency = json!({ "mean": histogram.mean() / 1e3, "max": histogram.max() as f64 / 1e3 });
    for (name, quantile) in PERCENTILES {
        latency[name] = json!(percentile_us(outcome, quantile));
    }
    let series = |second: &load::Second| {
        json!({
            "second": second.end,
            "ops_per_second": second.ops_per_second,
            "p50_us": second.p50_us,
            "p99_us": second.p99_us,
            "p99.9_us": second.p999_us,
            "max_us": second.max_us,
            "errors": second.errors,
        })
    };
    let server = outcome.server.map(|server| {
        let (before, after) = (server.before, server.after);
        json!({
            "cpu_ns_per_op": outcome.server_ns_per_request(),
            "cpu_ns": server.cpu_ns(),
            "waiting": outcome.server_waiting(),
            "user_share": user_share(&before, &after),
            "rss_bytes_before": before.rss_bytes,
            "rss_bytes_after": after.rss_bytes,
            "switches_voluntary": after.switches_voluntary.saturating_sub(before.switches_voluntary),
            "switches_involuntary": after.switches_involuntary.saturating_sub(before.switches_involuntary),
        })
    });
    json!({
        "title": title(plan, command),
        "date": machine["date"],
        "command_line": system::command_line(),
        "machine": machine,
        "command": command,
        "connections": plan.connections,
        "pipeline": plan.pipeline,
        "threads": plan.threads,
        "rate": rate,
        "seed": plan.seed,
        "seconds": outcome.seconds,
        "requests": outcome.requests,
        "misses": outcome.misses,
        "errors": outcome.refused,
        "behind": outcome.behind,
        "unanswered": outcome.unanswered,
        "rate_warning": rate_not_kept(outcome),
        "ops_per_second": outcome.requests_per_second(),
        "latency_us": latency,
        "latency_percentiles": percentiles(histogram),
        "latency_histogram": buckets(histogram),
        "series": outcome.series.iter().map(series).collect::<Vec<_>>(),
        "server": server,
        "load_cpu_ns_per_op": outcome.load_ns_per_request(),
        "load_busy": outcome.load_busy(),
        "load_waiting": outcome.load_waiting(),
        "load_busy_warning": outcome.load_is_limit(),
    })
}

/// `[quantile, microseconds]`, closer together towards 1.
fn percentiles(histogram: &Histogram<u64>) -> Vec<[f64; 2]> {
    let steps = histogram.iter_quantiles(5).map(|step| step.quantile_iterated_to().min(0.99999));
    let mut quantiles: Vec<f64> = steps.filter(|&quantile| quantile > 0.0).collect();
    quantiles.dedup();
    quantiles.iter().map(|&quantile| [quantile, histogram.value_at_quantile(quantile) as f64 / 1e3]).collect()
}

/// `[low, high, count]`, microseconds; each bucket 15 % wide.
fn buckets(histogram: &Histogram<u64>) -> Vec<[f64; 3]> {
    let steps = histogram.iter_log(1_000, 1.15);
    let mut low = 0.0;
    let mut buckets = Vec::new();
    for step in steps {
        let high = step.value_iterated_to() as f64 / 1e3;
        if step.count_since_last_iteration() > 0 {
            buckets.push([low, high, step.count_since_last_iteration() as f64]);
        }
        low = high;
    }
    buckets
}
