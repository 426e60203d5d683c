//! `torc-bench cross-check`: does the generator tell the truth? The same server under this generator and
//! under others, in interleaved rounds.
//!
//! ```text
//! drive    how fast each drives a floor, on one thread    (what each sends is looked at first)
//! rate     p50 and p99 at a fixed rate which all sustain
//! closed   p50 and p99 in a closed loop of few connections, where all measure the same
//! ```
//!
//! A floor costs less than any server, so there the generators themselves are the limit.

mod figures;
mod measure;
mod report;
mod tables;
mod tap;
mod tools;

use crate::client::Greeting;
use crate::compare::servers::{Server, ServerSpec};
use crate::error::Error;
use crate::run::check_open_files;
use crate::system;
use crate::workload::Dialect;
use clap::{Args, ValueEnum};
use measure::Measured;
use report::Report;
use std::path::PathBuf;
use std::time::Duration;
use tables::{Cell, Table};
use tap::Tap;
use tools::{Amount, Asked, KEY_BYTES, KEYS_LIMIT, Kind, Load, Tool};

#[derive(Args, Clone, Debug)]
pub struct CrossCheckArgs {
    #[arg(long, value_enum, value_delimiter = ',', default_value = "drive,rate,closed,slow")]
    pub parts: Vec<Part>,
    /// memtier_benchmark, if it is not on PATH.
    #[arg(long)]
    pub memtier: Option<PathBuf>,
    /// redis-benchmark, if it is not on PATH.
    #[arg(long)]
    pub redis_benchmark: Option<PathBuf>,
    /// The server of all parts but `drive`; runs under `sh -c 'exec ...'`.
    #[arg(long, default_value = "redis-server --save '' --appendonly no --port {port}")]
    pub server: String,
    #[arg(long, default_value_t = 0)]
    pub server_cpu: usize,
    /// Of every generator; 1 unless there is only one.
    #[arg(long)]
    pub load_cpu: Option<usize>,
    #[arg(long, default_value_t = 50)]
    pub connections: usize,
    /// Of `drive`; the others have one request in flight on each connection.
    #[arg(long, value_delimiter = ',', default_value = "1,16,64")]
    pub pipelines: Vec<usize>,
    #[arg(long, default_value_t = 1_000_000)]
    pub keys: u64,
    #[arg(long, default_value_t = 32)]
    pub value_size: usize,
    #[arg(long, default_value_t = 5)]
    pub rounds: usize,
    /// Of each measurement; memtier_benchmark knows only whole ones.
    #[arg(long, default_value_t = 3)]
    pub seconds: u64,
    /// Requests a second over all connections, in `rate`.
    #[arg(long, default_value_t = 20_000)]
    pub rate: u64,
    /// Connections in `closed`, one measurement for each.
    #[arg(long, value_delimiter = ',', default_value = "4")]
    pub closed_connections: Vec<usize>,
    /// Write PREFIX.json and PREFIX.md.
    #[arg(long)]
    pub out_prefix: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
pub enum Part {
    Drive,
    Rate,
    Closed,
    /// One connection to a server which has much to do for each request.
    Slow,
}

/// Keys of `slow`, and their size: some hundred microseconds of work for one request.
const SLOW_KEYS: u64 = 100;
const SLOW_BYTES: usize = 1 << 20;

/// A GET's reply but for the value: `$32\r\n` and `\r\n`.
fn reply_bytes(value_size: usize) -> usize {
    format!("${value_size}\r\n\r\n").len() + value_size
}

pub fn run(args: &CrossCheckArgs) -> Result<(), Error> {
    check_usage(args)?;
    let (tools, missing) = tools::find(args.memtier.as_deref(), args.redis_benchmark.as_deref())?;
    if tools.len() < 2 {
        let names: Vec<&str> = missing.iter().map(|kind| kind.name()).collect();
        return Err(Error::Usage(format!("nothing to compare with: found neither {}", names.join(" nor "))));
    }
    for kind in &missing {
        eprintln!("left out, for it was not found: {}", kind.name());
    }
    let check = Check { args, load_cpu: args.load_cpu.unwrap_or_else(default_load_cpu), tools };
    check_open_files(args.closed_connections.iter().copied().fold(args.connections, usize::max))?;
    system::catch_signals();
    // The machine is described before it is busy with us.
    let mut report = Report::new(system::describe_machine(), args, check.load_cpu, &check.tools, &missing);
    system::pin_thread(&[check.load_cpu]).map_err(Error::io("pin to --load-cpu"))?;
    if args.parts.contains(&Part::Drive) {
        check.drive(&mut report)?;
    }
    if args.parts.iter().any(|part| *part != Part::Drive) {
        check.latency(&mut report)?;
    }
    println!("{}", report.to_markdown());
    match &args.out_prefix {
        Some(prefix) => report.write(prefix),
        None => Ok(()),
    }
}

fn default_load_cpu() -> usize {
    1 % std::thread::available_parallelism().map_or(1, usize::from)
}

fn check_usage(args: &CrossCheckArgs) -> Result<(), Error> {
    let usage = |text: String| Err(Error::Usage(text));
    let &CrossCheckArgs { connections, keys, rounds, seconds, rate, .. } = args;
    if rounds == 0 || seconds == 0 || keys == 0 || keys > KEYS_LIMIT || args.pipelines.contains(&0) {
        return usage(format!("--rounds, --seconds, --pipelines and --keys (to {KEYS_LIMIT}) must be at least 1"));
    }
    if connections == 0 || args.closed_connections.contains(&0) {
        return usage("--connections and --closed-connections must be at least 1".to_string());
    }
    if !args.server.contains("{port}") {
        return usage("--server needs {port}".to_string());
    }
    if args.parts.contains(&Part::Rate) && (rate == 0 || rate % connections as u64 != 0) {
        return usage("--rate must be a multiple of --connections: memtier_benchmark's is for each".to_string());
    }
    Ok(())
}

struct Check<'a> {
    args: &'a CrossCheckArgs,
    load_cpu: usize,
    tools: Vec<Tool>,
}

impl Check<'_> {
    fn load(&self, port: u16, connections: usize, pipeline: usize, amount: Amount) -> Load {
        let (keys, value_size) = (self.args.keys, self.args.value_size);
        Load { asked: Asked::Get, port, cpu: self.load_cpu, connections, pipeline, keys, value_size, amount }
    }

    /// Each tool against a floor which knows the size of its requests.
    fn drive(&self, report: &mut Report) -> Result<(), Error> {
        let mut floors: Vec<(usize, Server)> = Vec::new();
        let mut request_bytes = Vec::new();
        for tool in &self.tools {
            let bytes = self.preflight(tool)?;
            request_bytes.push(bytes);
            if !floors.iter().any(|(known, _)| *known == bytes) {
                floors.push((bytes, self.start_floor(bytes)?));
            }
        }
        report.describe_requests(&request_bytes);
        let floor_of = |bytes: usize| &floors.iter().find(|(known, _)| *known == bytes).expect("just started").1;
        for &pipeline in &self.args.pipelines {
            let mut plans = Vec::new();
            for (tool, &bytes) in self.tools.iter().zip(&request_bytes) {
                let floor = floor_of(bytes);
                let amount = Amount::Seconds(self.args.seconds);
                plans.push((tool, self.load(floor.ports[0], self.args.connections, pipeline, amount), floor));
            }
            let title = format!("Drive rate, pipeline {pipeline}");
            let cells = self.rounds(&title, plans)?;
            for (cell, &bytes) in cells.iter().zip(&request_bytes) {
                self.check_wire(cell, bytes)?;
            }
            report.add(Table { part: Part::Drive, title, pipeline, connections: self.args.connections, cells });
        }
        Ok(())
    }

    /// Looks at what the tool sends at every pipeline, and returns the size of its requests.
    fn preflight(&self, tool: &Tool) -> Result<usize, Error> {
        let mut sizes = Vec::new();
        for &pipeline in &self.args.pipelines {
            let wrong = |reason: String| {
                let operation = format!("{} at pipeline {pipeline} cannot drive a floor", tool.kind.name());
                Error::Io { operation, source: std::io::Error::other(reason) }
            };
            let tap = Tap::start(self.args.value_size)?;
            let asked = (4 * self.args.connections * pipeline) as u64;
            let load = self.load(tap.port, self.args.connections, pipeline, Amount::Requests(asked));
            measure::run(tool, &load, &[])?;
            let requests = tap.finish().map_err(wrong)?;
            if requests.count != asked {
                return Err(wrong(format!("of {asked} requests {} were sent", requests.count)));
            }
            eprintln!(
                "{} P={pipeline}: {asked} requests of {} bytes each, apart from them {}",
                tool.kind.name(),
                requests.bytes,
                if requests.aside.is_empty() { "none".to_string() } else { requests.aside.join(", ") }
            );
            sizes.push(requests.bytes);
        }
        match sizes.iter().find(|&&bytes| bytes != sizes[0]) {
            None => Ok(sizes[0]),
            Some(bytes) => Err(Error::Usage(format!("{} sends {} and {bytes} bytes", tool.kind.name(), sizes[0]))),
        }
    }

    fn start_floor(&self, request_bytes: usize) -> Result<Server, Error> {
        let program = std::env::current_exe().map_err(Error::io("find this program"))?;
        let buffers = (2 * self.args.connections).next_power_of_two().clamp(64, 32_768);
        let command = format!(
            "'{}' floor --kind uring --port {{port}} --command get --key-size {KEY_BYTES} --value-size {} \
             --request-bytes {request_bytes} --buffers {buffers}",
            program.display(),
            self.args.value_size
        );
        let spec = ServerSpec { name: "floor".to_string(), dialect: Dialect::Resp, commands: vec![command] };
        let mut floor = Server::start(&spec, &[self.args.server_cpu])?;
        floor.wait_until_listening()?;
        Ok(floor)
    }

    /// A tool which counts bytes must have counted ours.
    fn check_wire(&self, cell: &Cell, request_bytes: usize) -> Result<(), Error> {
        let reply_bytes = reply_bytes(self.args.value_size);
        let near = |counted: f64, bytes: usize| (counted - bytes as f64).abs() < 0.5;
        for wire in &cell.wire {
            if !near(wire.sent, request_bytes) || !near(wire.received, reply_bytes) {
                let (sent, received) = (wire.sent, wire.received);
                return Err(Error::WrongReply {
                    address: "the floor".to_string(),
                    expected: format!("{request_bytes} bytes a request and {reply_bytes} a reply"),
                    got: format!("{sent:.1} and {received:.1} by the count of {}", cell.kind.name()),
                });
            }
        }
        Ok(())
    }

    fn latency(&self, report: &mut Report) -> Result<(), Error> {
        let commands = vec![self.args.server.clone()];
        let spec = ServerSpec { name: "server".to_string(), dialect: Dialect::Resp, commands };
        let mut server = Server::start(&spec, &[self.args.server_cpu])?;
        server.wait_until_ready(&Greeting::default())?;
        report.describe_server(&server);
        let port = server.ports[0];
        self.preload(&self.load(port, self.args.connections, 16, Amount::Preload))?;
        let seconds = self.args.seconds;
        let rate = Amount::Rate { per_second: self.args.rate, seconds };
        let mut parts = vec![(Part::Rate, "Latency at a fixed rate", self.args.connections, rate)];
        for &connections in &self.args.closed_connections {
            parts.push((Part::Closed, "Latency in a closed loop", connections, Amount::Seconds(seconds)));
        }
        for (part, title, connections, amount) in parts {
            if !self.args.parts.contains(&part) {
                continue;
            }
            // redis-benchmark keeps no rate.
            let able = |tool: &&Tool| part != Part::Rate || tool.kind != Kind::RedisBenchmark;
            let load = self.load(port, connections, 1, amount);
            let plans: Vec<_> = self.tools.iter().filter(able).map(|tool| (tool, load, &server)).collect();
            let cells = if plans.len() < 2 { Vec::new() } else { self.rounds(title, plans)? };
            report.add(Table { part, title: title.to_string(), pipeline: 1, connections, cells });
        }
        if self.args.parts.contains(&Part::Slow) {
            let connections = 1;
            let heavy = Load {
                asked: Asked::BitCount,
                keys: SLOW_KEYS,
                value_size: SLOW_BYTES,
                ..self.load(port, connections, 1, Amount::Seconds(seconds))
            };
            self.preload(&heavy)?;
            let title = "Latency of slow requests".to_string();
            let cells = self.rounds(&title, self.tools.iter().map(|tool| (tool, heavy, &server)).collect())?;
            report.add(Table { part: Part::Slow, title, pipeline: 1, connections, cells });
        }
        Ok(())
    }

    /// Each tool writes its own keys; those of redis-benchmark are ours.
    fn preload(&self, load: &Load) -> Result<(), Error> {
        for tool in self.tools.iter().filter(|tool| tool.kind != Kind::RedisBenchmark) {
            eprintln!("preload with {}", tool.kind.name());
            measure::preload(tool, load)?;
        }
        Ok(())
    }

    /// A B C A B C: the machine drifts by more than the differences of interest.
    fn rounds(&self, title: &str, mut plans: Vec<(&Tool, Load, &Server)>) -> Result<Vec<Cell>, Error> {
        for (tool, load, _) in &mut plans {
            load.amount = measure::amount_of(tool, load)?;
        }
        let mut cells: Vec<Cell> = plans.iter().map(|(tool, ..)| Cell::new(tool.kind)).collect();
        for round in 1..=self.args.rounds {
            for ((tool, load, server), cell) in plans.iter().zip(&mut cells) {
                let measured = measure::run(tool, load, &server.pids())?;
                note(title, round, tool, &measured);
                cell.record(&measured);
                // Lets the server close its connections outside the next one's window.
                system::sleep(Duration::from_millis(50))?;
            }
        }
        Ok(cells)
    }
}

fn note(title: &str, round: usize, tool: &Tool, measured: &Measured) {
    eprintln!(
        "{title}, round {round}, {}: {:.0} ops/s, p50 {:.1} us, p99 {:.1} us, tool {:.0} % \
         (waiting {:.0} %), server {:.0} %",
        tool.kind.name(),
        measured.claim.ops_per_second,
        measured.claim.p50_us,
        measured.claim.p99_us,
        measured.busy * 100.0,
        measured.waiting * 100.0,
        measured.server_busy * 100.0
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[test]
    fn replies_have_the_floors_size() {
        assert_eq!(reply_bytes(32), b"$32\r\n".len() + 34);
    }

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: CrossCheckArgs,
    }

    #[test]
    fn wrong_usage_is_refused() {
        let check = |line: &str| check_usage(&Cli::parse_from(line.split(' ')).args);
        assert!(check("x --parts drive,closed").is_ok());
        for line in ["x --parts drive --rounds 0", "x --parts drive --seconds 0", "x --parts rate --rate 20001"] {
            assert!(matches!(check(line), Err(Error::Usage(_))), "{line}");
        }
    }
}
