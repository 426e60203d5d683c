//! `torc-bench memory`: what a key costs beyond its own bytes.
//!
//! For each server, size of values, and without and with an expiry time on every key:
//!
//! ```text
//! start a new server, wait until its RSS rests      empty
//! SET every key once, wait until its RSS rests      full
//! overhead per key = (full - empty) / keys - bytes of a key - bytes of its value
//! ```
//!
//! A new server each time: what an allocator kept from the last size would be counted for the next one.

use crate::bar::Bar;
use crate::compare::servers::ServerSpec;
use crate::error::Error;
use crate::keys;
use crate::run::seconds;
use crate::sizes::Sizes;
use crate::statistics::{median, spread_json, spread_text};
use crate::system;
use crate::under_test::{ServersArgs, fill, load_cpus, mib, settled_rss};
use crate::workload::Shape;
use clap::Args;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

#[derive(Args, Clone, Debug)]
pub struct MemoryArgs {
    #[command(flatten)]
    pub servers: ServersArgs,
    /// The load's cpu; 1 unless named.
    #[arg(long, value_delimiter = ',')]
    pub load_cpus: Vec<usize>,
    #[arg(long, default_value_t = 2_000_000)]
    pub keys: u64,
    #[arg(long, default_value_t = 16)]
    pub key_size: usize,
    /// Several --value-size as in `run`, separated by spaces.
    #[arg(long, value_delimiter = ' ', default_value = "32 256 1024")]
    pub value_sizes: Vec<Sizes>,
    /// Times that each is measured, with the servers in turn.
    #[arg(long, default_value_t = 1)]
    pub rounds: usize,
    /// Seconds that the memory is given to come to rest.
    #[arg(long, default_value_t = 20.0)]
    pub settle: f64,
    /// Print the result as JSON.
    #[arg(long)]
    pub json: bool,
}

/// One server with one size of values; each list has a number for each round.
struct Cell {
    server: String,
    version: String,
    value_size: Sizes,
    expiring: bool,
    empty_bytes: Vec<f64>,
    bytes_per_key: Vec<f64>,
    overhead_per_key: Vec<f64>,
    /// Rounds in which the memory still moved when the time was up.
    restless: usize,
}

pub fn run(args: &MemoryArgs) -> Result<(), Error> {
    let settle = seconds(args.settle)?;
    if args.keys == 0 || args.rounds == 0 || args.value_sizes.is_empty() {
        return Err(Error::Usage("--keys, --rounds and --value-sizes must be at least 1".to_string()));
    }
    if !keys::key_fits(args.key_size, args.keys) {
        return Err(Error::Usage("--key-size is too small for --keys: 4 bytes of prefix and the digits".to_string()));
    }
    let specs = args.servers.specs(false)?;
    let machine = system::describe_machine();
    system::catch_signals();
    let cpus = load_cpus(&args.load_cpus);
    let mut cells = Vec::new();
    for value_size in &args.value_sizes {
        for expiring in [false, true] {
            cells.extend(specs.iter().map(|spec| (spec, Cell::new(spec, value_size, expiring))));
        }
    }
    let bar = Bar::new((!args.json).then_some("memory"), (cells.len() * args.rounds) as u64);
    for round in 0..args.rounds {
        for (i, (spec, cell)) in cells.iter_mut().enumerate() {
            bar.set_with((round * specs.len() * args.value_sizes.len() * 2 + i) as u64, cell.title());
            cell.measure(args, spec, &cpus, settle)?;
        }
    }
    drop(bar);
    let cells: Vec<Cell> = cells.into_iter().map(|(_, cell)| cell).collect();
    for cell in cells.iter().filter(|cell| cell.restless > 0) {
        eprintln!("warning: {}: the memory still moved after {} s", cell.title(), args.settle);
    }
    if args.json {
        println!("{:#}", report(args, machine, &cells));
    } else {
        print(args, &cells);
    }
    Ok(())
}

impl Cell {
    fn new(spec: &ServerSpec, value_size: &Sizes, expiring: bool) -> Cell {
        Cell {
            server: spec.name.clone(),
            version: String::new(),
            value_size: value_size.clone(),
            expiring,
            empty_bytes: Vec::new(),
            bytes_per_key: Vec::new(),
            overhead_per_key: Vec::new(),
            restless: 0,
        }
    }

    fn title(&self) -> String {
        let expiring = if self.expiring { ", expiring" } else { "" };
        format!("{}, {} B{expiring}", self.server, self.value_size)
    }

    fn measure(&mut self, args: &MemoryArgs, spec: &ServerSpec, cpus: &[usize], bound: Duration) -> Result<(), Error> {
        // Started before the load is pinned, which its threads are and not this one.
        let server = args.servers.start(spec)?;
        let sizes = Arc::new(self.value_size.clone());
        let shape = Shape { key_bytes: args.key_size, sizes, dialect: server.dialect };
        let empty = settled_rss(&server, bound)?;
        let command = if self.expiring { "setex" } else { "set" };
        fill(&server.address(), &shape, command, args.keys, cpus, None)?;
        let full = settled_rss(&server, bound)?;
        let own_bytes = args.key_size as f64 + mean_of(&self.value_size, args.keys);
        let bytes_per_key = (full.bytes as f64 - empty.bytes as f64) / args.keys as f64;
        self.version = server.version.clone();
        self.empty_bytes.push(empty.bytes as f64);
        self.bytes_per_key.push(bytes_per_key);
        self.overhead_per_key.push(bytes_per_key - own_bytes);
        self.restless += usize::from(!empty.at_rest || !full.at_rest);
        Ok(())
    }
}

/// The mean over the keys that there are, which have their sizes for good.
fn mean_of(sizes: &Sizes, keys: u64) -> f64 {
    match sizes.fixed() {
        Some(size) => size as f64,
        None => (0..keys).map(|key| sizes.of(key) as f64).sum::<f64>() / keys as f64,
    }
}

fn print(args: &MemoryArgs, cells: &[Cell]) {
    println!("{} keys of {} bytes; RSS growth less the bytes of keys and values\n", args.keys, args.key_size);
    println!(
        "{:<12} {:>14} {:>8} {:>12} {:>16} {:>24}",
        "server", "value bytes", "expiry", "empty MiB", "bytes a key", "overhead a key"
    );
    let text = |values: &[f64], digits: usize| match values {
        [value] => format!("{value:.digits$}"),
        values => spread_text(values, digits),
    };
    for cell in cells {
        println!(
            "{:<12} {:>14} {:>8} {:>12.1} {:>16} {:>24}",
            cell.server,
            cell.value_size.to_string(),
            if cell.expiring { "each" } else { "none" },
            mib(median(&cell.empty_bytes) as u64),
            text(&cell.bytes_per_key, 1),
            text(&cell.overhead_per_key, 1)
        );
    }
}

fn report(args: &MemoryArgs, machine: Value, cells: &[Cell]) -> Value {
    let cell = |cell: &Cell| {
        json!({
            "server": cell.server,
            "version": cell.version,
            "value_size": cell.value_size.to_string(),
            "expiring": cell.expiring,
            "empty_rss_bytes": spread_json(&cell.empty_bytes),
            "rss_bytes_per_key": spread_json(&cell.bytes_per_key),
            "overhead_bytes_per_key": spread_json(&cell.overhead_per_key),
            "rounds_not_at_rest": cell.restless,
        })
    };
    json!({
        "command_line": system::command_line(),
        "machine": machine,
        "keys": args.keys,
        "key_size": args.key_size,
        "results": cells.iter().map(cell).collect::<Vec<_>>(),
    })
}
