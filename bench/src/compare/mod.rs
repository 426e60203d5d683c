//! `torc-bench compare`: starts servers and floors and measures them in interleaved rounds.
//!
//! ```text
//! for each command, for each pipeline:
//!     for each round:  server A, server B, ..., floor (io_uring), floor (epoll)
//! ```
//!
//! Rounds are interleaved because a machine drifts (frequency, neighbours, page cache) by more than the
//! differences of interest. The ratio to the floor is formed within a round, where both sides saw the same
//! machine, and its median is taken afterwards. All servers stay alive; an idle one costs nothing.

mod report;
mod servers;

use crate::client::Greeting;
use crate::error::Error;
use crate::load::{self, Outcome, Stop};
use crate::run::{LoadArgs, Ports, check_open_files, seconds};
use crate::system;
use clap::Args;
use report::{Cell, Report};
use servers::{Server, ServerSpec};
use std::path::PathBuf;
use std::time::Duration;

#[derive(Args, Clone, Debug)]
pub struct CompareArgs {
    /// NAME=COMMAND, once for each server. The command gets {port}; several processes are separated by
    /// ';' and get {port}, {port2} and so on. The command runs under `sh -c 'exec ...'`.
    #[arg(long = "server", required = true)]
    pub servers: Vec<ServerSpec>,
    /// The servers' cpus. As many processes as cpus get one each.
    #[arg(long, value_delimiter = ',', default_value = "0")]
    pub server_cpus: Vec<usize>,
    /// The load runs on cpu 1 unless --load-cpus says otherwise.
    #[command(flatten)]
    pub load: LoadArgs,
    #[arg(long, value_delimiter = ',', default_value = "1,16,64")]
    pub pipelines: Vec<usize>,
    #[arg(long, value_delimiter = ',', default_value = "get,set")]
    pub commands: Vec<String>,
    #[arg(long, default_value_t = 5)]
    pub rounds: usize,
    /// Of each measurement.
    #[arg(long, default_value_t = 3.0)]
    pub seconds: f64,
    /// With a server of several processes, every process gets all keys instead of its share.
    #[arg(long)]
    pub shared_keys: bool,
    /// Leave the floors out.
    #[arg(long)]
    pub no_floor: bool,
    /// Write PREFIX.json and PREFIX.md.
    #[arg(long)]
    pub out_prefix: Option<PathBuf>,
}

pub fn run(args: &CompareArgs) -> Result<(), Error> {
    let mut args = args.clone();
    if args.load.cpus.is_empty() {
        args.load.cpus = vec![1 % std::thread::available_parallelism().map_or(1, usize::from)];
    }
    if args.rounds == 0 {
        return Err(Error::Usage("--rounds must be at least 1".to_string()));
    }
    check_open_files(args.load.connections)?;
    system::catch_signals();
    // The machine is described before it is busy with us.
    let machine = system::describe_machine();
    let stop = Stop::After(seconds(args.seconds)?);

    let mut servers = Vec::new();
    for spec in &args.servers {
        servers.push(Server::start(spec, &args.server_cpus)?);
    }
    system::pin_thread(&args.load.cpus).map_err(Error::io("pin to --load-cpus"))?;
    for server in &mut servers {
        server.wait_until_ready(&args.load)?;
        let plan = args.load.plan(&ports(&args, server), "get", 1, stop)?;
        eprintln!("preload {} ({})", server.name, server.version);
        load::preload(&plan, args.load.shape())?;
    }

    let mut report = Report::new(machine, &args);
    for command in &args.commands {
        let floors = if args.no_floor || command == "mixed" { Vec::new() } else { start_floors(&args, command)? };
        for &pipeline in &args.pipelines {
            let mut cells: Vec<Cell> =
                servers.iter().chain(&floors).map(|server| Cell::new(server, command, pipeline)).collect();
            for round in 1..=args.rounds {
                for (server, cell) in servers.iter().chain(&floors).zip(&mut cells) {
                    let mut plan = args.load.plan(&ports(&args, server), command, pipeline, stop)?;
                    if server.is_floor {
                        // It knows one request and one reply, and has no table.
                        plan.greeting = Greeting::default();
                        plan.workload.verify = false;
                    }
                    let outcome = load::run(&plan, &server.pids())?;
                    note(server, command, pipeline, round, &outcome);
                    cell.record(&outcome);
                    // Lets the server close its connections outside the next one's window.
                    system::sleep(Duration::from_millis(50))?;
                }
            }
            report.add(cells);
        }
    }
    report.describe_servers(&servers);
    println!("{}", report.to_markdown());
    if let Some(prefix) = &args.out_prefix {
        report.write(prefix)?;
    }
    Ok(())
}

/// Floors answer one size of request, so each command has its own; one process for each server cpu.
fn start_floors(args: &CompareArgs, command: &str) -> Result<Vec<Server>, Error> {
    let mut floors = Vec::new();
    for kind in ["uring", "epoll"] {
        let mut floor = Server::start_floor(kind, command, &args.load, &args.server_cpus)?;
        floor.wait_until_listening()?;
        floors.push(floor);
    }
    Ok(floors)
}

fn ports(args: &CompareArgs, server: &Server) -> Ports {
    let split_keys = server.ports.len() > 1 && !args.shared_keys && !server.is_floor;
    Ports { host: "127.0.0.1".to_string(), ports: server.ports.clone(), split_keys }
}

fn note(server: &Server, command: &str, pipeline: usize, round: usize, outcome: &Outcome) {
    eprintln!(
        "{command} P={pipeline} round {round} {}: {:.0} ns/op, {:.0} ops/s, load {:.0} % of its core (waiting {:.0} %), {} misses",
        server.name,
        outcome.server_ns_per_request().unwrap_or(f64::NAN),
        outcome.requests_per_second(),
        outcome.load_busy() * 100.0,
        outcome.load_waiting() * 100.0,
        outcome.misses
    );
}
