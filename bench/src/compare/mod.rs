//! `torc-bench compare`: starts servers and floors and measures them in interleaved rounds.
//!
//! ```text
//! for each size of values, for each distribution, for each command, for each pipeline:
//!     for each round:  server A, server B, ..., floor (io_uring), floor (epoll)
//! ```
//!
//! Rounds are interleaved because a machine drifts (frequency, neighbours, page cache) by more than the
//! differences of interest. Ratios are formed within a round, where both sides saw the same machine, and
//! their median is taken afterwards. All servers stay alive; an idle one costs nothing. Each size of values
//! gets new servers, so that what their keys take can be told from how their memory grew.

pub(crate) mod peers;
mod report;
pub(crate) mod servers;

use crate::client::Greeting;
use crate::data_dir::DataDir;
use crate::error::Error;
use crate::load::{self, Outcome, Stop};
use crate::process;
use crate::random::Distribution;
use crate::run::{LoadArgs, Ports, check_open_files, seconds};
use crate::sizes::Sizes;
use crate::system;
use crate::workload::{Dialect, Workload};
use clap::Args;
use peers::PeerPath;
use report::{Cell, Memory, Report};
use servers::{Server, ServerSpec};
use std::path::PathBuf;
use std::time::Duration;

#[derive(Args, Clone, Debug)]
pub struct CompareArgs {
    /// NAME=COMMAND, once for each server; verdicts are about the first one. The command gets {port}; several
    /// processes are separated by ';' and get {port}, {port2} and so on. It runs under `sh -c 'exec ...'`.
    /// NAME+memcache=COMMAND speaks memcached's protocol. Without any: Torc and every peer that is found.
    #[arg(long = "server")]
    pub servers: Vec<ServerSpec>,
    /// NAME=PATH of a peer that is not on the PATH: torc, redis, valkey, memcached, pogocache, dragonfly or garnet.
    #[arg(long = "peer", conflicts_with = "servers")]
    pub peers: Vec<PeerPath>,
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
    /// Several --value-size, separated by spaces.
    #[arg(long, value_delimiter = ' ', conflicts_with = "value_size")]
    pub value_sizes: Vec<Sizes>,
    /// Several --dist, separated by spaces.
    #[arg(long, value_delimiter = ' ', conflicts_with = "dist")]
    pub dists: Vec<Distribution>,
    #[arg(long, default_value_t = 5)]
    pub rounds: usize,
    /// Of each measurement.
    #[arg(long, default_value_t = 3.0)]
    pub seconds: f64,
    /// With a server of several processes, every process gets all keys instead of its share.
    #[arg(long)]
    pub shared_keys: bool,
    /// Names of servers, separated by commas, that are measured once more with a log: with `--appendonly yes --appendfsync everysec --dir {dir}` behind their commands, as
    /// NAME-everysec. Beside it is the ratio to the same server without.
    #[arg(long, value_delimiter = ',')]
    pub everysec: Vec<String>,
    /// Where the data directories of commands with {dir} are made; the system's temporary directory unless named, which may
    /// be in memory.
    #[arg(long)]
    pub dir: Option<PathBuf>,
    /// Leave the floors out.
    #[arg(long)]
    pub no_floor: bool,
    /// Write PREFIX.json, PREFIX.md and PREFIX.html.
    #[arg(long)]
    pub out_prefix: Option<PathBuf>,
}

/// What makes Torc, Redis and Valkey keep a log.
const LOG_FLAGS: &str = "--appendonly yes --appendfsync everysec --dir {dir}";
/// What the name of a server with a log ends with.
pub(crate) const LOG_SUFFIX: &str = "-everysec";

pub fn run(args: &CompareArgs) -> Result<(), Error> {
    let mut args = args.clone();
    if args.load.cpus.is_empty() {
        args.load.cpus = vec![1 % std::thread::available_parallelism().map_or(1, usize::from)];
    }
    if args.rounds == 0 {
        return Err(Error::Usage("--rounds must be at least 1".to_string()));
    }
    if args.servers.is_empty() {
        args.servers = peers::find(&args.peers, &args.server_cpus)?;
    }
    args.servers = with_logs(args.servers, &args.everysec)?;
    if args.value_sizes.is_empty() {
        args.value_sizes = vec![args.load.value_size.clone()];
    }
    if args.dists.is_empty() {
        args.dists = vec![args.load.dist.clone()];
    }
    check_open_files(args.load.connections)?;
    system::catch_signals();
    // The machine is described before it is busy with us.
    let mut report = Report::new(system::describe_machine(), &args);
    check(&args)?;
    let measured = measure(&args, &mut report);
    // What was measured before a failure is not lost by it.
    if let Some(prefix) = &args.out_prefix {
        report.write(prefix)?;
    }
    println!("{}", report.to_markdown());
    measured
}

/// Each of the named servers is followed by itself with a log.
fn with_logs(servers: Vec<ServerSpec>, names: &[String]) -> Result<Vec<ServerSpec>, Error> {
    let able = |spec: &ServerSpec| spec.dialect == Dialect::Resp && !spec.commands[0].contains("{dir}");
    if let Some(name) = names.iter().find(|name| !servers.iter().any(|spec| spec.name == **name && able(spec))) {
        let reason = "is no server here that speaks RESP and has no {dir} of its own";
        return Err(Error::Usage(format!("--everysec {name}: '{name}' {reason}")));
    }
    let mut all = Vec::new();
    for spec in servers {
        let logged = names.contains(&spec.name).then(|| ServerSpec {
            name: format!("{}{LOG_SUFFIX}", spec.name),
            dialect: spec.dialect,
            commands: spec.commands.iter().map(|command| format!("{command} {LOG_FLAGS}")).collect(),
        });
        all.push(spec);
        all.extend(logged);
    }
    Ok(all)
}

/// The server over new directories, one for each command that wants one.
fn with_directories(spec: &ServerSpec, args: &CompareArgs, data: &mut Vec<DataDir>) -> Result<ServerSpec, Error> {
    let mut spec = spec.clone();
    for command in spec.commands.iter_mut().filter(|command| command.contains("{dir}")) {
        let directory = DataDir::create(args.dir.as_deref(), "compare")?;
        *command = command.replace("{dir}", &directory.path().to_string_lossy());
        data.push(directory);
    }
    Ok(spec)
}

/// What can be known to be wrong before hours of measuring.
fn check(args: &CompareArgs) -> Result<(), Error> {
    for value_size in &args.value_sizes {
        for dist in &args.dists {
            let load = LoadArgs { value_size: value_size.clone(), dist: dist.clone(), ..args.load.clone() };
            for (command, &pipeline) in
                args.commands.iter().flat_map(|command| args.pipelines.iter().map(move |p| (command, p)))
            {
                load.plan(&Ports::local(&[1], false), command, pipeline, Stop::After(seconds(args.seconds)?))?;
            }
        }
    }
    match &args.out_prefix {
        Some(prefix) => report::check_writable(prefix),
        None => Ok(()),
    }
}

fn measure(args: &CompareArgs, report: &mut Report) -> Result<(), Error> {
    for value_size in &args.value_sizes {
        let load = LoadArgs { value_size: value_size.clone(), ..args.load.clone() };
        // Removed when the servers have ended.
        let mut data = Vec::new();
        let servers = start_servers(args, &load, report, &mut data)?;
        for dist in &args.dists {
            let load = LoadArgs { dist: dist.clone(), ..load.clone() };
            for command in &args.commands {
                measure_command(args, &load, command, &servers, report)?;
            }
        }
    }
    Ok(())
}

/// Starts the servers with all keys in them.
fn start_servers(
    args: &CompareArgs,
    load: &LoadArgs,
    report: &mut Report,
    data: &mut Vec<DataDir>,
) -> Result<Vec<Server>, Error> {
    let mut servers = Vec::new();
    for spec in &args.servers {
        servers.push(Server::start(&with_directories(spec, args, data)?, &args.server_cpus)?);
    }
    system::pin_thread(&load.cpus).map_err(Error::io("pin to --load-cpus"))?;
    for server in &mut servers {
        server.wait_until_ready(&load.greeting())?;
        let load = load_for(load, server);
        let plan = load.plan(&ports(args, server), "get", 1, Stop::Requests(1))?;
        eprintln!("preload {} ({})", server.name, server.version);
        let empty = process::sample(&server.pids())?.rss_bytes;
        load::preload(&plan, &load.shape())?;
        let full = process::sample(&server.pids())?.rss_bytes;
        report.describe_server(server, Memory::new(&load, plan.keys * plan.targets.len() as u64, empty, full));
    }
    Ok(servers)
}

/// The load as a server understands it.
fn load_for(load: &LoadArgs, server: &Server) -> LoadArgs {
    LoadArgs { protocol: server.dialect, ..load.clone() }
}

fn measure_command(
    args: &CompareArgs,
    load: &LoadArgs,
    command: &str,
    servers: &[Server],
    report: &mut Report,
) -> Result<(), Error> {
    let of_one_size = load.value_size.fixed().is_some() && !["mixed", "trace"].contains(&command);
    // What the reply to a whole request will be is not known.
    let one_size = of_one_size && !command.contains([' ', '_']);
    let floors = if args.no_floor || !one_size { Vec::new() } else { start_floors(args, load, command)? };
    let stop = Stop::After(seconds(args.seconds)?);
    let able = |server: &&Server| {
        server.is_floor || Workload::new(command, load.ratio, &load_for(load, server).shape(), false).is_ok()
    };
    for server in servers.iter().filter(|server| !able(server)) {
        eprintln!("{} is left out of {command}: its protocol has no such command here", server.name);
    }
    for &pipeline in &args.pipelines {
        let all = || servers.iter().filter(able).chain(&floors);
        let mut cells: Vec<Cell> = all().map(|server| Cell::new(server, load, command, pipeline)).collect();
        for round in 1..=args.rounds {
            let mut turns: Vec<_> = all().zip(&mut cells).collect();
            // Whoever comes first in one round comes last in the next.
            if round % 2 == 0 {
                turns.reverse();
            }
            for (server, cell) in turns {
                let load = load_for(load, server);
                let mut plan = load.plan(&ports(args, server), command, pipeline, stop)?;
                if server.is_floor {
                    // It knows one request and one reply, and has no table.
                    plan.greeting = Greeting::default();
                    plan.workload.verify = false;
                }
                let outcome = load::run(&plan, &server.pids())?;
                outcome.check()?;
                note(server, command, pipeline, round, &outcome);
                cell.record(&outcome);
                // Lets the server close its connections outside the next one's window.
                system::sleep(Duration::from_millis(50))?;
            }
        }
        report.add(cells);
    }
    Ok(())
}

/// Floors answer one size of request, so each command has its own; one process for each server cpu.
fn start_floors(args: &CompareArgs, load: &LoadArgs, command: &str) -> Result<Vec<Server>, Error> {
    let mut floors = Vec::new();
    for kind in ["uring", "epoll"] {
        let mut floor = Server::start_floor(kind, command, load, &args.server_cpus)?;
        floor.wait_until_listening()?;
        floors.push(floor);
    }
    Ok(floors)
}

fn ports(args: &CompareArgs, server: &Server) -> Ports {
    Ports::local(&server.ports, server.ports.len() > 1 && !args.shared_keys && !server.is_floor)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_with_a_log_follow_those_without() {
        let specs: Vec<ServerSpec> = ["a=one {port}", "b=two {port1};two {port2}", "m+memcache=three {port}"]
            .map(|text| text.parse().unwrap())
            .into();
        let all = with_logs(specs.clone(), &["b".to_string()]).unwrap();
        let names: Vec<&str> = all.iter().map(|spec| &spec.name[..]).collect();
        assert_eq!(names, ["a", "b", "b-everysec", "m"]);
        assert_eq!(all[2].commands[1], "two {port2} --appendonly yes --appendfsync everysec --dir {dir}");
        for wrong in ["m", "c", ""] {
            assert!(with_logs(specs.clone(), &[wrong.to_string()]).is_err(), "{wrong}");
        }
    }
}
