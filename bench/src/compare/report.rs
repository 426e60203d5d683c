//! What a comparison found: per server and workload the medians with their spread, and verdicts.

use super::servers::Server;
use super::{CompareArgs, LOG_SUFFIX};
use crate::error::Error;
use crate::html;
use crate::load::Outcome;
use crate::run::{LoadArgs, PERCENTILES, percentile_us};
use crate::statistics::{ROUNDS_MIN, is_decided, median, ratios, spread_json, spread_text};
use crate::system;
use serde_json::{Value, json};
use std::fmt::Write;
use std::path::Path;

/// An error if the files of a result cannot be written; they are not touched.
pub fn check_writable(prefix: &Path) -> Result<(), Error> {
    let path = format!("{}.json", prefix.display());
    let file = std::fs::OpenOptions::new().append(true).create(true).open(&path);
    file.map(|_| ()).map_err(Error::io(format!("write {path}")))
}

/// What servers are compared under.
#[derive(Clone, Debug, Default, PartialEq)]
struct Work {
    command: String,
    value_size: String,
    distribution: String,
    pipeline: usize,
}

/// One server under one workload; each list has one number a round.
#[derive(Clone, Debug, Default)]
pub struct Cell {
    server: String,
    is_floor: bool,
    work: Work,
    cpu_ns_per_op: Vec<f64>,
    ops_per_second: Vec<f64>,
    /// In the order of `PERCENTILES`.
    latency_us: [Vec<f64>; PERCENTILES.len()],
    load_cpu_ns_per_op: Vec<f64>,
    load_busy: Vec<f64>,
    load_waiting: Vec<f64>,
    server_waiting: Vec<f64>,
    /// Rounds in which the generator had no time to spare.
    rounds_limited_by_load: usize,
    misses: u64,
    /// CPU per operation over that of the cheaper floor of the same round; empty without floors.
    floor_ratio: Vec<f64>,
    /// Of a server with a log: its operations per second over those of the same without, in the same round.
    unlogged_ratio: Vec<f64>,
}

impl Cell {
    pub fn new(server: &Server, load: &LoadArgs, command: &str, pipeline: usize) -> Cell {
        let command = match command {
            "mixed" => format!("mixed {}:{}", load.ratio.0, load.ratio.1),
            command => command.to_string(),
        };
        let (value_size, distribution) = (load.value_size.to_string(), load.dist.to_string());
        let work = Work { command, value_size, distribution, pipeline };
        Cell { server: server.name.clone(), is_floor: server.is_floor, work, ..Cell::default() }
    }

    pub fn record(&mut self, outcome: &Outcome) {
        self.cpu_ns_per_op.push(outcome.server_ns_per_request().unwrap_or(f64::NAN));
        self.ops_per_second.push(outcome.requests_per_second());
        for (list, (_, quantile)) in self.latency_us.iter_mut().zip(PERCENTILES) {
            list.push(percentile_us(outcome, quantile));
        }
        self.load_cpu_ns_per_op.push(outcome.load_ns_per_request());
        self.load_busy.push(outcome.load_busy());
        self.load_waiting.push(outcome.load_waiting());
        self.server_waiting.push(outcome.server_waiting());
        self.rounds_limited_by_load += usize::from(outcome.load_is_limit());
        self.misses += outcome.misses;
    }

    fn latency(&self, name: &str) -> &[f64] {
        let place = PERCENTILES.iter().position(|(percentile, _)| *percentile == name);
        &self.latency_us[place.expect("one of PERCENTILES")]
    }

    fn to_json(&self) -> Value {
        let mut value = json!({
            "server": self.server,
            "floor": self.is_floor,
            "command": self.work.command,
            "pipeline": self.work.pipeline,
            "value_size": self.work.value_size,
            "distribution": self.work.distribution,
            "cpu_ns_per_op": spread_json(&self.cpu_ns_per_op),
            "floor_ratio": if self.floor_ratio.is_empty() { Value::Null } else { spread_json(&self.floor_ratio) },
            "ops_per_second": spread_json(&self.ops_per_second),
            "unlogged_ratio": if self.unlogged_ratio.is_empty() { Value::Null } else { spread_json(&self.unlogged_ratio) },
            "load_cpu_ns_per_op": spread_json(&self.load_cpu_ns_per_op),
            "load_busy": spread_json(&self.load_busy),
            "load_waiting": spread_json(&self.load_waiting),
            "server_waiting": spread_json(&self.server_waiting),
            "rounds_limited_by_load": self.rounds_limited_by_load,
            "misses": self.misses,
        });
        for (list, (name, _)) in self.latency_us.iter().zip(PERCENTILES) {
            value["latency_us"][name] = spread_json(list);
        }
        value
    }
}

/// What a server's keys take.
#[derive(Clone, Debug)]
pub struct Memory {
    value_size: String,
    /// RSS growth by key, and that less the key's and the value's own bytes.
    bytes_per_key: f64,
    overhead_per_key: f64,
}

impl Memory {
    /// From the server's memory before and after so many keys were written.
    pub fn new(load: &LoadArgs, keys: u64, empty_bytes: u64, full_bytes: u64) -> Memory {
        let bytes_per_key = (full_bytes as f64 - empty_bytes as f64) / keys as f64;
        let overhead_per_key = bytes_per_key - load.key_size as f64 - load.value_size.mean();
        Memory { value_size: load.value_size.to_string(), bytes_per_key, overhead_per_key }
    }
}

struct Described {
    name: String,
    version: String,
    commands: Vec<String>,
    memory: Vec<Memory>,
}

/// What may be said of the first server and another one under one workload.
struct Verdict {
    work: Work,
    server: String,
    peer: String,
    text: String,
    is_decided: bool,
}

pub struct Report {
    machine: Value,
    settings: Value,
    command_line: String,
    servers: Vec<Described>,
    cells: Vec<Cell>,
    verdicts: Vec<Verdict>,
}

impl Report {
    pub fn new(machine: Value, args: &CompareArgs) -> Report {
        let load = &args.load;
        let settings = json!({
            "connections": load.connections,
            "keys": load.keys,
            "key_size": load.key_size,
            "ratio": format!("{}:{}", load.ratio.0, load.ratio.1),
            "rounds": args.rounds,
            "seconds": args.seconds,
            "warmup": load.warmup,
            "server_cpus": args.server_cpus,
            "load_cpus": load.cpus,
            "load_threads": load.threads,
        });
        let command_line = system::command_line();
        Report { machine, settings, command_line, servers: Vec::new(), cells: Vec::new(), verdicts: Vec::new() }
    }

    /// Adds the cells of one workload, with one and the same number of rounds.
    pub fn add(&mut self, mut cells: Vec<Cell>) {
        let floors: Vec<Vec<f64>> =
            cells.iter().filter(|cell| cell.is_floor).map(|cell| cell.cpu_ns_per_op.clone()).collect();
        for cell in cells.iter_mut().filter(|_| !floors.is_empty()) {
            cell.floor_ratio = floor_ratios(&cell.cpu_ns_per_op, &floors);
        }
        note_unlogged(&mut cells);
        if let [first, peers @ ..] = &cells[..] {
            self.verdicts.extend(peers.iter().filter(|peer| !peer.is_floor).map(|peer| verdict(first, peer)));
        }
        self.cells.append(&mut cells);
    }

    /// Notes a server, and once more the same one started for other values.
    pub fn describe_server(&mut self, server: &Server, memory: Memory) {
        if let Some(known) = self.servers.iter_mut().find(|known| known.name == server.name) {
            return known.memory.push(memory);
        }
        let (name, version) = (server.name.clone(), server.version.clone());
        self.servers.push(Described { name, version, commands: server.commands.clone(), memory: vec![memory] });
    }

    pub fn write(&self, prefix: &Path) -> Result<(), Error> {
        let result = self.to_json();
        let files =
            [("json", format!("{result}\n")), ("md", self.to_markdown()), ("html", html::compare_report(&result))];
        for (extension, text) in files {
            let path = format!("{}.{extension}", prefix.display());
            std::fs::write(&path, text).map_err(Error::io(format!("write {path}")))?;
        }
        Ok(())
    }

    fn to_json(&self) -> Value {
        let memory = |memory: &Memory| {
            json!({
                "value_size": memory.value_size,
                "bytes_per_key": memory.bytes_per_key,
                "overhead_per_key": memory.overhead_per_key,
            })
        };
        let server = |server: &Described| {
            json!({
                "name": server.name,
                "version": server.version,
                "commands": server.commands,
                "memory": server.memory.iter().map(memory).collect::<Vec<_>>(),
            })
        };
        let verdict = |verdict: &Verdict| {
            json!({
                "command": verdict.work.command,
                "pipeline": verdict.work.pipeline,
                "value_size": verdict.work.value_size,
                "distribution": verdict.work.distribution,
                "server": verdict.server,
                "peer": verdict.peer,
                "text": verdict.text,
                "decided": verdict.is_decided,
            })
        };
        json!({
            "command_line": self.command_line,
            "machine": self.machine,
            "settings": self.settings,
            "servers": self.servers.iter().map(server).collect::<Vec<_>>(),
            "results": self.cells.iter().map(Cell::to_json).collect::<Vec<_>>(),
            "verdicts": self.verdicts.iter().map(verdict).collect::<Vec<_>>(),
        })
    }

    pub fn to_markdown(&self) -> String {
        let mut text = String::new();
        let mut line = |content: String| writeln!(text, "{content}").expect("writing to a string");
        let machine = &self.machine;
        line(format!("# Comparison of {}\n", as_text(&machine["date"])));
        line(format!("- Machine: {}", system::machine_line(machine)));
        for server in &self.servers {
            let commands: Vec<String> = server.commands.iter().map(|command| format!("`{command}`")).collect();
            line(format!("- {}: {}; {}", server.name, server.version, commands.join(" and ")));
        }
        let settings = &self.settings;
        line(format!(
            "- Load: {} connections, {} keys of {} bytes, {} thread(s) on cpus {}; servers on cpus {}",
            settings["connections"],
            settings["keys"],
            settings["key_size"],
            settings["load_threads"],
            settings["load_cpus"],
            settings["server_cpus"]
        ));
        line(format!(
            "- {} interleaved rounds of {} s; median [min..max] over rounds",
            settings["rounds"], settings["seconds"]
        ));
        line(format!("- `{}`\n", self.command_line));
        let note = "CPU is the server's, in ns per operation. The ratio is to the cheaper floor of the same round.";
        line(note.to_string());
        self.overviews(&mut text);
        self.logs(&mut text);
        self.memory(&mut text);
        self.details(&mut text);
        text
    }

    /// One row a workload, one column a server.
    fn overviews(&self, text: &mut String) {
        let mut works: Vec<&Work> = self.cells.iter().map(|cell| &cell.work).collect();
        works.dedup();
        let mut names: Vec<&str> = Vec::new();
        for cell in &self.cells {
            if !names.contains(&cell.server.as_str()) {
                names.push(&cell.server);
            }
        }
        let ratio = |cell: &Cell| match cell.floor_ratio.is_empty() {
            true => String::new(),
            false => format!(" ({:.2})", median(&cell.floor_ratio)),
        };
        type Show<'a> = &'a dyn Fn(&Cell) -> String;
        let tables: [(&str, Show<'_>); 4] = [
            ("CPU per operation, ns (ratio to floor)", &|cell| {
                format!("{:.0}{}", median(&cell.cpu_ns_per_op), ratio(cell))
            }),
            ("Throughput, thousand operations a second", &|cell| {
                let limited = if cell.rounds_limited_by_load > 0 { " (!)" } else { "" };
                format!("{:.0}{limited}", median(&cell.ops_per_second) / 1e3)
            }),
            ("Latency p50 / p99 / p99.9, µs", &|cell| {
                let each = ["p50", "p99", "p99.9"].map(|name| format!("{:.0}", median(cell.latency(name))));
                each.join(" / ")
            }),
            ("Verdicts on CPU per operation", &|cell| match self.verdict_on(cell) {
                Some(verdict) if verdict.is_decided => verdict.text.clone(),
                Some(_) => "not decided".to_string(),
                None => "-".to_string(),
            }),
        ];
        for (title, show) in tables {
            let _ = writeln!(text, "\n## {title}\n");
            let _ = writeln!(text, "| values, keys, command, P | {} |", names.join(" | "));
            let _ = writeln!(text, "|---|{}", "---|".repeat(names.len()));
            for work in &works {
                let cell = |name: &&str| self.cells.iter().find(|cell| cell.work == **work && cell.server == *name);
                let columns: Vec<String> = names.iter().map(|name| cell(name).map_or("-".to_string(), show)).collect();
                let Work { command, value_size, distribution, pipeline } = work;
                let _ = writeln!(
                    text,
                    "| {value_size} B, {distribution}, {command}, {pipeline} | {} |",
                    columns.join(" | ")
                );
            }
        }
    }

    fn verdict_on(&self, cell: &Cell) -> Option<&Verdict> {
        self.verdicts.iter().find(|verdict| verdict.work == cell.work && verdict.peer == cell.server)
    }

    /// What a log costs each server that was measured with one.
    fn logs(&self, text: &mut String) {
        let logged: Vec<&Cell> = self.cells.iter().filter(|cell| !cell.unlogged_ratio.is_empty()).collect();
        if logged.is_empty() {
            return;
        }
        let _ = writeln!(text, "\n## With a log synced each second, over the same server without\n");
        let _ = writeln!(text, "| server | values, keys, command, P | throughput | p99 with, us |\n|---|---|---|---|");
        for cell in logged {
            let Work { command, value_size, distribution, pipeline } = &cell.work;
            let ratio = spread_text(&cell.unlogged_ratio, 2);
            let p99 = spread_text(cell.latency("p99"), 0);
            let work = format!("{value_size} B, {distribution}, {command}, {pipeline}");
            let _ = writeln!(text, "| {} | {work} | {ratio} | {p99} |", cell.server);
        }
    }

    fn memory(&self, text: &mut String) {
        let _ = writeln!(text, "\n## Memory per key: growth of RSS, bytes\n");
        let _ = writeln!(text, "| server | values | with key and value | over key and value |\n|---|---|---|---|");
        for server in &self.servers {
            for memory in &server.memory {
                let Memory { value_size, bytes_per_key, overhead_per_key } = memory;
                let name = &server.name;
                let _ = writeln!(text, "| {name} | {value_size} B | {bytes_per_key:.1} | {overhead_per_key:.1} |");
            }
        }
    }

    fn details(&self, text: &mut String) {
        let mut line = |content: String| writeln!(text, "{content}").expect("writing to a string");
        let mut group = None;
        for cell in &self.cells {
            if group != Some(&cell.work) {
                group = Some(&cell.work);
                let Work { command, value_size, distribution, pipeline } = &cell.work;
                line(format!("\n## {command}, pipeline {pipeline}, values of {value_size} B, {distribution} keys\n"));
                line(
                    "| server | CPU ns/op | ratio to floor | ops/s | p50 us | p99 us | p99.9 us | load busy + waiting | server waiting |"
                        .to_string(),
                );
                line("|---|---|---|---|---|---|---|---|---|".to_string());
            }
            let ratio = if cell.floor_ratio.is_empty() { "-".to_string() } else { spread_text(&cell.floor_ratio, 2) };
            let latencies = ["p50", "p99", "p99.9"].map(|name| spread_text(cell.latency(name), 0));
            let warning = if cell.rounds_limited_by_load > 0 { " (!)" } else { "" };
            let misses = if cell.misses > 0 { format!(", {} misses", cell.misses) } else { String::new() };
            line(format!(
                "| {}{misses} | {} | {ratio} | {} | {} | {:.0} + {:.0} %{warning} | {:.0} % |",
                cell.server,
                spread_text(&cell.cpu_ns_per_op, 0),
                spread_text(&cell.ops_per_second, 0),
                latencies.join(" | "),
                median(&cell.load_busy) * 100.0,
                median(&cell.load_waiting) * 100.0,
                median(&cell.server_waiting) * 100.0
            ));
        }
        if self.cells.iter().any(|cell| cell.rounds_limited_by_load > 0) {
            line(
                "\n(!) In some round the load generator ran or waited for its core more than 90 % of the time: throughput \
                 and latency there say more about it than about the server, and a server which waits for load does \
                 smaller batches and looks dearer than a saturated one."
                    .to_string(),
            );
        }
    }
}

/// CPU per operation, which is the main figure.
fn verdict(first: &Cell, peer: &Cell) -> Verdict {
    let ratios = ratios(&first.cpu_ns_per_op, &peer.cpu_ns_per_op);
    let is_decided = is_decided(&ratios);
    let spread = spread_text(&ratios, 2);
    let (one, other) = (&first.server, &peer.server);
    let text = match is_decided {
        true => format!("{one} takes {spread} of {other}'s"),
        false if ratios.len() < ROUNDS_MIN => format!("{} rounds are too few to say", ratios.len()),
        false => format!("{one} takes {spread} of {other}'s, which is within noise"),
    };
    Verdict { work: first.work.clone(), server: one.clone(), peer: other.clone(), text, is_decided }
}

/// Each round's cost over that of the cheapest floor in the same round.
/// Compares servers with a log to the same without.
fn note_unlogged(cells: &mut [Cell]) {
    for at in 0..cells.len() {
        let base = cells[at].server.strip_suffix(LOG_SUFFIX);
        let Some(without) = cells.iter().find(|cell| Some(&cell.server[..]) == base) else { continue };
        cells[at].unlogged_ratio = ratios(&cells[at].ops_per_second, &without.ops_per_second);
    }
}

fn floor_ratios(costs: &[f64], floors: &[Vec<f64>]) -> Vec<f64> {
    let cheapest = |round: usize| floors.iter().map(|floor| floor[round]).fold(f64::INFINITY, f64::min);
    costs.iter().enumerate().map(|(round, cost)| cost / cheapest(round)).collect()
}

fn as_text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_to_the_cheaper_floor_of_their_round() {
        let floors = [vec![100.0, 300.0], vec![200.0, 150.0]];
        assert_eq!(floor_ratios(&[200.0, 300.0], &floors), [2.0, 2.0]);
    }

    fn cell(server: &str, cpu_ns_per_op: &[f64]) -> Cell {
        Cell { server: server.to_string(), cpu_ns_per_op: cpu_ns_per_op.to_vec(), ..Cell::default() }
    }

    #[test]
    fn servers_with_a_log_are_compared_to_themselves() {
        let mut cells = ["a", "a-everysec", "b-everysec"].map(|name| cell(name, &[]));
        cells[0].ops_per_second = vec![100.0, 200.0];
        cells[1].ops_per_second = vec![90.0, 190.0];
        note_unlogged(&mut cells);
        assert_eq!(cells.map(|cell| cell.unlogged_ratio), [vec![], vec![0.9, 0.95], vec![]]);
    }

    #[test]
    fn verdicts_are_refused_within_noise() {
        let one = cell("a", &[100.0, 110.0, 90.0]);
        let clear = verdict(&one, &cell("b", &[200.0, 220.0, 180.0]));
        assert_eq!((clear.is_decided, clear.text.as_str()), (true, "a takes 0.50 [0.50..0.50] of b's"));
        let noisy = verdict(&one, &cell("b", &[101.0, 100.0, 95.0]));
        assert!(!noisy.is_decided && noisy.text.ends_with("within noise"), "{}", noisy.text);
        let few = verdict(&cell("a", &[1.0]), &cell("b", &[2.0]));
        assert!(!few.is_decided && few.text.contains("too few"), "{}", few.text);
    }
}
