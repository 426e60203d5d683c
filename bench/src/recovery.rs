//! `torc-bench recovery`: how long a snapshot takes, what the data takes on the disk, and how long a killed server takes until
//! it serves again. For each server, number of keys and size of values:
//!
//! ```text
//! snapshot   start empty, SET every key, save, wait until it is done | kill -9, start: PING is answered, all keys are there
//! log        start empty, SET every key, wait until it is written    | kill -9, start: the same
//! ```
//!
//! Saving is BGREWRITEAOF where the server keeps a log, because a Redis with a log starts from that alone, and BGSAVE where it
//! does not, or SAVE if there is no such command. A server without a log has no second row, and one without a command to save
//! no first: both are named. Each row begins with a new directory. The file cache is warm: the disk's reading is not measured.

use crate::bar::Bar;
use crate::client::Client;
use crate::compare::servers::{Server, ServerSpec};
use crate::data_dir::{DataDir, check_spec};
use crate::error::Error;
use crate::keys;
use crate::process;
use crate::run::seconds;
use crate::sizes::Sizes;
use crate::statistics::{median, spread_json, spread_text};
use crate::system;
use crate::under_test::{connect, fill, load_cpus, mib};
use crate::workload::{Dialect, Shape};
use clap::Args;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

#[derive(Args, Clone, Debug)]
pub struct RecoveryArgs {
    /// NAME=COMMAND, once for each server. The command gets {port} and {dir}, and runs under `sh -c 'exec ...'`. It should
    /// not save by itself.
    #[arg(long = "server", required = true)]
    pub servers: Vec<ServerSpec>,
    #[arg(long, value_delimiter = ',', default_value = "0")]
    pub server_cpus: Vec<usize>,
    /// The load's cpu; 1 unless named.
    #[arg(long, value_delimiter = ',')]
    pub load_cpus: Vec<usize>,
    /// Several numbers of keys, separated by commas.
    #[arg(long, value_delimiter = ',', default_value = "1000000")]
    pub keys: Vec<u64>,
    #[arg(long, default_value_t = 16)]
    pub key_size: usize,
    /// Several --value-size as in `run`, separated by spaces.
    #[arg(long, value_delimiter = ' ', default_value = "32 1024")]
    pub value_sizes: Vec<Sizes>,
    /// Times that each is measured, with the servers in turn.
    #[arg(long, default_value_t = 1)]
    pub rounds: usize,
    /// Seconds that a snapshot, and a start, may take.
    #[arg(long, default_value_t = 120.0)]
    pub timeout: f64,
    /// Where the data directories are made; the system's temporary directory unless named.
    #[arg(long)]
    pub dir: Option<PathBuf>,
    /// Print the result as JSON.
    #[arg(long)]
    pub json: bool,
}

/// Between two looks whether a snapshot is done.
const SNAPSHOT_LOOK: Duration = Duration::from_millis(1);
/// After the last SET, until a log that is written each second has all of it.
const LOG_WRITTEN: Duration = Duration::from_millis(1_500);

#[derive(Clone, Copy, Debug, PartialEq)]
enum Source {
    Snapshot,
    Log,
}

impl Source {
    fn name(self) -> &'static str {
        match self {
            Source::Snapshot => "snapshot",
            Source::Log => "log",
        }
    }
}

/// One server with one number of keys and size of values, from one source; each list has a number for each round.
struct Cell {
    server: String,
    version: String,
    keys: u64,
    value_size: Sizes,
    source: Source,
    /// How it saved.
    command: &'static str,
    snapshot_ms: Vec<f64>,
    disk_bytes: Vec<f64>,
    /// Until the empty server served.
    empty_start_ms: Vec<f64>,
    start_ms: Vec<f64>,
    rss_bytes: Vec<f64>,
    rss_peak_bytes: Vec<f64>,
    /// Why it is not there.
    left_out: Option<String>,
}

pub fn run(args: &RecoveryArgs) -> Result<(), Error> {
    check(args)?;
    let machine = system::describe_machine();
    system::catch_signals();
    let mut cells = Vec::new();
    for &keys in &args.keys {
        for value_size in &args.value_sizes {
            for source in [Source::Snapshot, Source::Log] {
                let cell = |spec| (spec, Cell::new(spec, keys, value_size, source));
                cells.extend(args.servers.iter().map(cell));
            }
        }
    }
    let bar = Bar::new((!args.json).then_some("recovery"), (cells.len() * args.rounds) as u64);
    for round in 0..args.rounds {
        let done = round * cells.len();
        for (i, (spec, cell)) in cells.iter_mut().enumerate() {
            bar.set_with((done + i) as u64, cell.title());
            if cell.left_out.is_none() {
                cell.measure(args, spec)?;
            }
        }
    }
    drop(bar);
    let cells: Vec<Cell> = cells.into_iter().map(|(_, cell)| cell).collect();
    let (cells, out): (Vec<Cell>, Vec<Cell>) = cells.into_iter().partition(|cell| cell.left_out.is_none());
    for cell in &out {
        eprintln!("{} is left out: {}", cell.title(), cell.left_out.as_deref().unwrap_or_default());
    }
    if args.json {
        println!("{:#}", report(args, machine, &cells));
    } else {
        print(args, &cells);
    }
    Ok(())
}

fn check(args: &RecoveryArgs) -> Result<(), Error> {
    args.servers.iter().try_for_each(check_spec)?;
    if args.keys.contains(&0) || args.rounds == 0 || args.value_sizes.is_empty() {
        return Err(Error::Usage("--keys, --rounds and --value-sizes must be at least 1".to_string()));
    }
    if !args.keys.iter().all(|&keys| keys::key_fits(args.key_size, keys)) {
        return Err(Error::Usage("--key-size is too small for --keys: 4 bytes of prefix and the digits".to_string()));
    }
    if seconds(args.timeout)?.is_zero() {
        return Err(Error::Usage("--timeout is more than 0".to_string()));
    }
    Ok(())
}

impl Cell {
    fn new(spec: &ServerSpec, keys: u64, value_size: &Sizes, source: Source) -> Cell {
        Cell {
            server: spec.name.clone(),
            version: String::new(),
            keys,
            value_size: value_size.clone(),
            source,
            command: "",
            snapshot_ms: Vec::new(),
            disk_bytes: Vec::new(),
            empty_start_ms: Vec::new(),
            start_ms: Vec::new(),
            rss_bytes: Vec::new(),
            rss_peak_bytes: Vec::new(),
            left_out: None,
        }
    }

    fn title(&self) -> String {
        format!("{}, {} keys of {} B, {}", self.server, self.keys, self.value_size, self.source.name())
    }

    fn measure(&mut self, args: &RecoveryArgs, spec: &ServerSpec) -> Result<(), Error> {
        let data = DataDir::create(args.dir.as_deref(), "recovery")?;
        let timeout = seconds(args.timeout)?;
        let spec = data.spec(&spec.name, &spec.commands[0]);
        let start = || -> Result<(Server, f64), Error> {
            let mut server = Server::start(&spec, &args.server_cpus)?;
            let start = Instant::now();
            server.wait_until_serving(timeout)?;
            Ok((server, start.elapsed().as_secs_f64() * 1e3))
        };
        let (mut server, empty_start_ms) = start()?;
        let mut client = connect(&server.address())?;
        let has_log = client.info("persistence", "aof_enabled").unwrap_or(0) == 1;
        if self.source == Source::Log && !has_log {
            self.left_out = Some("it keeps no log".to_string());
            return Ok(());
        }
        let sizes = Arc::new(self.value_size.clone());
        let shape = Shape { key_bytes: args.key_size, sizes, dialect: Dialect::Resp };
        fill(&server.address(), &shape, "set", self.keys, &load_cpus(&args.load_cpus), None)?;
        match self.source {
            Source::Log => system::sleep(LOG_WRITTEN)?,
            Source::Snapshot => match save(&mut client, has_log, timeout)? {
                Ok((command, time)) => {
                    self.command = command;
                    self.snapshot_ms.push(time.as_secs_f64() * 1e3);
                }
                Err(reason) => {
                    self.left_out = Some(reason);
                    return Ok(());
                }
            },
        }
        let disk_bytes = data.allocated_bytes()?;
        drop(client);
        server.kill()?;
        drop(server);
        let (server, start_ms) = start()?;
        let found = connect(&server.address())?.integer(&[b"DBSIZE"])?;
        if found != self.keys {
            let expected = format!("{} keys after the restart", self.keys);
            return Err(Error::WrongReply { address: self.title(), expected, got: found.to_string() });
        }
        let sample = process::sample(&server.pids())?;
        self.version = server.version.clone();
        self.disk_bytes.push(disk_bytes as f64);
        self.empty_start_ms.push(empty_start_ms);
        self.start_ms.push(start_ms);
        self.rss_bytes.push(sample.rss_bytes as f64);
        self.rss_peak_bytes.push(sample.rss_peak_bytes as f64);
        Ok(())
    }

    /// What the start took beyond that of the empty server.
    fn load_ms(&self) -> Vec<f64> {
        self.start_ms.iter().zip(&self.empty_start_ms).map(|(start, empty)| (start - empty).max(0.0)).collect()
    }

    /// Less what the start of the empty server took, as long as that is the smaller part of it.
    fn keys_per_second(&self) -> Vec<f64> {
        let rate = |(&start, &empty): (&f64, &f64)| {
            let load_ms = if empty < start / 2.0 { start - empty } else { start };
            self.keys as f64 / (load_ms / 1e3)
        };
        self.start_ms.iter().zip(&self.empty_start_ms).map(rate).collect()
    }
}

/// Saves and waits until that is done: with which command, and how long. Or why it cannot.
fn save(
    client: &mut Client,
    has_log: bool,
    timeout: Duration,
) -> Result<Result<(&'static str, Duration), String>, Error> {
    let commands: &[&'static str] = if has_log { &["BGREWRITEAOF", "BGSAVE", "SAVE"] } else { &["BGSAVE", "SAVE"] };
    for &command in commands {
        let start = Instant::now();
        match client.call(&[command.as_bytes()]) {
            Err(Error::WrongReply { got, .. }) if got.contains("unknown command") => continue,
            Err(error) => return Err(error),
            Ok(_) if command == "SAVE" => return Ok(Ok((command, start.elapsed()))),
            Ok(_) => {}
        }
        let (running, status) = match command {
            "BGSAVE" => (&["rdb_bgsave_in_progress"][..], "rdb_last_bgsave_status"),
            _ => (&["aof_rewrite_in_progress", "aof_rewrite_scheduled"][..], "aof_last_bgrewrite_status"),
        };
        loop {
            let info = client.call(&[b"INFO", b"persistence"])?;
            let time = start.elapsed();
            let field = |name: &str| info_field(&info, name);
            if running.iter().all(|name| field(name) == Some("0")) {
                return match field(status) {
                    Some("ok") => Ok(Ok((command, time))),
                    other => Err(client.wrong(format!("{status}:ok"), other.unwrap_or("nothing").as_bytes())),
                };
            }
            if time >= timeout {
                return Err(client.wrong(format!("{command} to be done after {} s", timeout.as_secs()), &info));
            }
            system::sleep(SNAPSHOT_LOOK)?;
        }
    }
    Ok(Err("it has no command to save".to_string()))
}

fn info_field<'a>(info: &'a [u8], name: &str) -> Option<&'a str> {
    let text = std::str::from_utf8(info).ok()?;
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
}

fn print(args: &RecoveryArgs, cells: &[Cell]) {
    println!("keys of {} bytes; started again after kill -9, with files in the cache\n", args.key_size);
    println!(
        "{:<12} {:>10} {:>11} {:>9} {:>13} {:>10} {:>18} {:>10} {:>12} {:>10}",
        "server",
        "keys",
        "value bytes",
        "from",
        "snapshot ms",
        "disk MiB",
        "serves after ms",
        "load ms",
        "keys/s",
        "peak MiB"
    );
    let text = |values: &[f64], digits: usize| match values {
        [] => "-".to_string(),
        [value] => format!("{value:.digits$}"),
        values => spread_text(values, digits),
    };
    for cell in cells {
        println!(
            "{:<12} {:>10} {:>11} {:>9} {:>13} {:>10.1} {:>18} {:>10.1} {:>12.0} {:>10.1}",
            cell.server,
            cell.keys,
            cell.value_size.to_string(),
            cell.source.name(),
            text(&cell.snapshot_ms, 1),
            mib(median(&cell.disk_bytes) as u64),
            text(&cell.start_ms, 1),
            median(&cell.load_ms()),
            median(&cell.keys_per_second()),
            mib(median(&cell.rss_peak_bytes) as u64)
        );
    }
}

fn report(args: &RecoveryArgs, machine: Value, cells: &[Cell]) -> Value {
    let cell = |cell: &Cell| {
        let saved = (cell.source == Source::Snapshot)
            .then(|| json!({ "command": cell.command, "ms": spread_json(&cell.snapshot_ms) }));
        json!({
            "server": cell.server,
            "version": cell.version,
            "keys": cell.keys,
            "value_size": cell.value_size.to_string(),
            "from": cell.source.name(),
            "snapshot": saved,
            "disk_bytes": spread_json(&cell.disk_bytes),
            "empty_start_ms": spread_json(&cell.empty_start_ms),
            "start_ms": spread_json(&cell.start_ms),
            "load_ms": spread_json(&cell.load_ms()),
            "keys_per_second": spread_json(&cell.keys_per_second()),
            "rss_bytes": spread_json(&cell.rss_bytes),
            "rss_peak_bytes": spread_json(&cell.rss_peak_bytes),
        })
    };
    json!({
        "command_line": system::command_line(),
        "machine": machine,
        "key_size": args.key_size,
        "results": cells.iter().map(cell).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_info_are_whole_names() {
        let info = b"$50\r\n# Persistence\r\naof_rewrite_in_progress_x:1\r\naof_rewrite_in_progress:0\r\n\r\n";
        assert_eq!(info_field(info, "aof_rewrite_in_progress"), Some("0"));
        assert_eq!(info_field(info, "aof_rewrite"), None);
    }

    #[test]
    fn the_start_of_an_empty_server_is_taken_off_when_it_is_small() {
        let spec = "x=server {port} {dir}".parse().unwrap();
        let mut cell = Cell::new(&spec, 1_000, &"32".parse().unwrap(), Source::Log);
        (cell.start_ms, cell.empty_start_ms) = (vec![1_100.0, 10.0], vec![100.0, 9.0]);
        assert_eq!(cell.keys_per_second(), [1_000.0, 100_000.0]);
        assert_eq!(cell.load_ms(), [1_000.0, 1.0]);
    }
}
