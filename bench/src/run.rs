//! `torc-bench run`: one load against one server, or against several at once.

use crate::client::{self, Greeting};
use crate::error::Error;
use crate::keys;
use crate::load::{self, Order, Outcome, Plan, Stop, Target};
use crate::random::Distribution;
use crate::system;
use crate::workload::{self, Shape, Slice, Template, Workload};
use clap::Args;
use serde_json::{Value, json};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

#[derive(Args, Clone, Debug)]
pub struct RunArgs {
    #[arg(long, default_value = "127.0.0.1")]
    pub host: String,
    /// Several ports share the connections round-robin.
    #[arg(long, value_delimiter = ',', default_value = "6379")]
    pub port: Vec<u16>,
    /// With several ports, give each its own share of the keys instead of all of them.
    #[arg(long)]
    pub split_keys: bool,
    #[command(flatten)]
    pub load: LoadArgs,
    /// Requests in flight on each connection.
    #[arg(long, default_value_t = 1)]
    pub pipeline: usize,
    /// get, set, mixed (see --ratio), incr, mget:N, mset:N, setex, del, exists, ping, hset, hget, lpush,
    /// lpop, sadd or zadd.
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
    #[arg(long)]
    pub json: bool,
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
    #[arg(long, default_value_t = 32)]
    pub value_size: usize,
    /// Sets to gets, for the command `mixed`.
    #[arg(long, default_value = "1:10", value_parser = workload::parse_ratio)]
    pub ratio: (u64, u64),
    /// uniform or zipf:EXPONENT.
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
    /// Seconds after which a reply counts as missing.
    #[arg(long, default_value_t = 5.0)]
    pub timeout: f64,
}

impl LoadArgs {
    pub fn shape(&self) -> Shape {
        Shape { key_bytes: self.key_size, value_bytes: self.value_size }
    }

    /// Checks the flags, and makes the plan for `command` over `targets`.
    pub fn plan(&self, ports: &Ports, command: &str, pipeline: usize, stop: Stop) -> Result<Plan, Error> {
        let usage = |text: &str| Err(Error::Usage(text.to_string()));
        if self.threads == 0 || pipeline == 0 || self.keys == 0 {
            return usage("--threads, --pipeline and --keys must be at least 1");
        }
        if self.connections < self.threads.max(ports.ports.len()) {
            return usage("--connections must be at least --threads, and at least the number of ports");
        }
        if !keys::key_fits(self.key_size, self.keys) {
            return usage("--key-size is too small for --keys: 4 bytes of prefix and the digits of the last key");
        }
        if self.verify && command == "hget" {
            return usage("hget cannot be verified: --preload writes strings only");
        }
        let share = if ports.split_keys { ports.ports.len() as u64 } else { 1 };
        let mut targets = Vec::new();
        for (i, &port) in ports.ports.iter().enumerate() {
            let address = client::resolve(&ports.host, port)?;
            let slice = Slice { first: i as u64 % share, count: share };
            targets.push(Target { address, slice });
        }
        let clock = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos() as u64);
        Ok(Plan {
            targets,
            greeting: Greeting { auth: self.auth.clone(), resp3: self.resp3 },
            workload: Workload::new(command, self.ratio, self.shape(), self.verify)?,
            keys: (self.keys / share).max(1),
            order: Order::Random(self.dist),
            connections: self.connections,
            pipeline,
            threads: self.threads,
            cpus: self.cpus.clone(),
            seed: self.seed.unwrap_or(clock),
            warmup: seconds(self.warmup)?,
            stop,
            timeout: seconds(self.timeout)?,
        })
    }
}

/// Where the load goes.
#[derive(Clone, Debug)]
pub struct Ports {
    pub host: String,
    pub ports: Vec<u16>,
    pub split_keys: bool,
}

pub fn seconds(value: f64) -> Result<Duration, Error> {
    Duration::try_from_secs_f64(value).map_err(|error| Error::Usage(format!("{value} seconds: {error}")))
}

pub fn run(args: &RunArgs) -> Result<(), Error> {
    if args.print_request_bytes {
        println!("{}", Template::new(&args.command, args.load.shape())?.bytes.len());
        return Ok(());
    }
    let stop = match args.requests {
        Some(requests) => Stop::Requests(requests),
        None => Stop::After(seconds(args.seconds)?),
    };
    let ports = Ports { host: args.host.clone(), ports: args.port.clone(), split_keys: args.split_keys };
    let plan = args.load.plan(&ports, &args.command, args.pipeline, stop)?;
    check_open_files(plan.connections)?;
    system::catch_signals();
    system::pin_thread(&args.load.cpus).map_err(Error::io("pin to --cpus"))?;
    if args.preload {
        load::preload(&plan, args.load.shape())?;
    }
    let outcome = load::run(&plan, &args.pid)?;
    if args.json {
        println!("{:#}", to_json(&plan, &args.command, &outcome));
    } else {
        print(&plan, &args.command, &outcome);
    }
    warn_if_busy(&outcome);
    Ok(())
}

pub fn check_open_files(connections: usize) -> Result<(), Error> {
    let limit = system::raise_open_files();
    if connections as u64 + 64 > limit {
        return Err(Error::Usage(format!("{connections} connections need a higher limit on open files than {limit}")));
    }
    Ok(())
}

pub fn warn_if_busy(outcome: &Outcome) {
    if outcome.load_is_limit() {
        eprintln!(
            "warning: a load thread used {:.0} % of its core and waited {:.0} % of the time for it: the generator may \
             limit the throughput, and its own queue is part of the latency. The server's CPU per operation stays \
             valid, but a server which waits for load does smaller batches and looks dearer than a saturated one",
            outcome.load_busy() * 100.0,
            outcome.load_waiting() * 100.0
        );
    }
}

pub const PERCENTILES: [(&str, f64); 3] = [("p50", 0.50), ("p99", 0.99), ("p99.9", 0.999)];

fn print(plan: &Plan, command: &str, outcome: &Outcome) {
    println!(
        "{command}: {} connections x pipeline {}, {} thread(s), {:.2} s, seed {}",
        plan.connections, plan.pipeline, plan.threads, outcome.seconds, plan.seed
    );
    println!(
        "  throughput {:.0} ops/s ({} operations, {} misses)",
        outcome.requests_per_second(),
        outcome.requests,
        outcome.misses
    );
    print!("  latency us");
    for (name, quantile) in PERCENTILES {
        print!("  {name} {:.1}", outcome.latency_ns.value_at_quantile(quantile) as f64 / 1e3);
    }
    println!("  max {:.1}", outcome.latency_ns.max() as f64 / 1e3);
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
        let cpu = thread.cpu_ns as f64 / thread.requests.max(1) as f64;
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

fn to_json(plan: &Plan, command: &str, outcome: &Outcome) -> Value {
    let mut latency = json!({ "max": outcome.latency_ns.max() as f64 / 1e3 });
    for (name, quantile) in PERCENTILES {
        latency[name] = json!(outcome.latency_ns.value_at_quantile(quantile) as f64 / 1e3);
    }
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
        "command": command,
        "connections": plan.connections,
        "pipeline": plan.pipeline,
        "threads": plan.threads,
        "seed": plan.seed,
        "seconds": outcome.seconds,
        "requests": outcome.requests,
        "misses": outcome.misses,
        "ops_per_second": outcome.requests_per_second(),
        "latency_us": latency,
        "server": server,
        "load_cpu_ns_per_op": outcome.load_ns_per_request(),
        "load_busy": outcome.load_busy(),
        "load_waiting": outcome.load_waiting(),
        "load_busy_warning": outcome.load_is_limit(),
    })
}
