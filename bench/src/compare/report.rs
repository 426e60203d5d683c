//! What a comparison found: per server, command and pipeline the medians with their spread.

use super::CompareArgs;
use super::servers::Server;
use crate::error::Error;
use crate::load::Outcome;
use crate::run::PERCENTILES;
use serde_json::{Value, json};
use std::fmt::Write;
use std::path::Path;

/// One server under one command and pipeline; each list has one number a round.
#[derive(Clone, Debug, Default)]
pub struct Cell {
    server: String,
    is_floor: bool,
    command: String,
    pipeline: usize,
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
}

impl Cell {
    pub fn new(server: &Server, command: &str, pipeline: usize) -> Cell {
        Cell {
            server: server.name.clone(),
            is_floor: server.is_floor,
            command: command.to_string(),
            pipeline,
            ..Cell::default()
        }
    }

    pub fn record(&mut self, outcome: &Outcome) {
        self.cpu_ns_per_op.push(outcome.server_ns_per_request().unwrap_or(f64::NAN));
        self.ops_per_second.push(outcome.requests_per_second());
        for (list, (_, quantile)) in self.latency_us.iter_mut().zip(PERCENTILES) {
            list.push(outcome.latency_ns.value_at_quantile(quantile) as f64 / 1e3);
        }
        self.load_cpu_ns_per_op.push(outcome.load_ns_per_request());
        self.load_busy.push(outcome.load_busy());
        self.load_waiting.push(outcome.load_waiting());
        self.server_waiting.push(outcome.server_waiting());
        self.rounds_limited_by_load += usize::from(outcome.load_is_limit());
        self.misses += outcome.misses;
    }

    fn to_json(&self) -> Value {
        let mut value = json!({
            "server": self.server,
            "floor": self.is_floor,
            "command": self.command,
            "pipeline": self.pipeline,
            "cpu_ns_per_op": spread_json(&self.cpu_ns_per_op),
            "floor_ratio": if self.floor_ratio.is_empty() { Value::Null } else { spread_json(&self.floor_ratio) },
            "ops_per_second": spread_json(&self.ops_per_second),
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

pub struct Report {
    machine: Value,
    settings: Value,
    command_line: String,
    servers: Vec<Value>,
    cells: Vec<Cell>,
}

impl Report {
    pub fn new(machine: Value, args: &CompareArgs) -> Report {
        let load = &args.load;
        let settings = json!({
            "connections": load.connections,
            "keys": load.keys,
            "key_size": load.key_size,
            "value_size": load.value_size,
            "distribution": load.dist.to_string(),
            "ratio": format!("{}:{}", load.ratio.0, load.ratio.1),
            "rounds": args.rounds,
            "seconds": args.seconds,
            "warmup": load.warmup,
            "server_cpus": args.server_cpus,
            "load_cpus": load.cpus,
            "load_threads": load.threads,
        });
        let command_line = std::env::args().map(quote).collect::<Vec<_>>().join(" ");
        Report { machine, settings, command_line, servers: Vec::new(), cells: Vec::new() }
    }

    /// Adds the cells of one command and pipeline, with one and the same number of rounds.
    pub fn add(&mut self, mut cells: Vec<Cell>) {
        let floors: Vec<Vec<f64>> =
            cells.iter().filter(|cell| cell.is_floor).map(|cell| cell.cpu_ns_per_op.clone()).collect();
        for cell in cells.iter_mut().filter(|_| !floors.is_empty()) {
            cell.floor_ratio = floor_ratios(&cell.cpu_ns_per_op, &floors);
        }
        self.cells.append(&mut cells);
    }

    pub fn describe_servers(&mut self, servers: &[Server]) {
        let describe =
            |server: &Server| json!({ "name": server.name, "version": server.version, "commands": server.commands });
        self.servers = servers.iter().map(describe).collect();
    }

    pub fn write(&self, prefix: &Path) -> Result<(), Error> {
        let result = json!({
            "command_line": self.command_line,
            "machine": self.machine,
            "settings": self.settings,
            "servers": self.servers,
            "results": self.cells.iter().map(Cell::to_json).collect::<Vec<_>>(),
        });
        for (extension, text) in [("json", format!("{result:#}\n")), ("md", self.to_markdown())] {
            let path = format!("{}.{extension}", prefix.display());
            std::fs::write(&path, text).map_err(Error::io(format!("write {path}")))?;
        }
        Ok(())
    }

    pub fn to_markdown(&self) -> String {
        let mut text = String::new();
        let mut line = |content: String| writeln!(text, "{content}").expect("writing to a string");
        let machine = &self.machine;
        line(format!("# Comparison of {}\n", as_text(&machine["date"])));
        let kind = if machine["virtual_machine"] == true { ", virtual machine" } else { "" };
        line(format!(
            "- Machine: {}, {} cores{kind}, {} GiB, Linux {}; load average before: {}",
            as_text(&machine["cpu"]),
            machine["cores"],
            machine["memory_gib"],
            as_text(&machine["kernel"]),
            as_text(&machine["load_average"])
        ));
        for server in &self.servers {
            let commands: Vec<String> = server["commands"]
                .as_array()
                .into_iter()
                .flatten()
                .map(|command| format!("`{}`", as_text(command)))
                .collect();
            line(format!(
                "- {}: {}; {}",
                as_text(&server["name"]),
                as_text(&server["version"]),
                commands.join(" and ")
            ));
        }
        let settings = &self.settings;
        line(format!(
            "- Load: {} connections, {} keys ({}) of {} bytes, values of {} bytes, {} thread(s) on cpus {}; servers on cpus {}",
            settings["connections"],
            settings["keys"],
            as_text(&settings["distribution"]),
            settings["key_size"],
            settings["value_size"],
            settings["load_threads"],
            settings["load_cpus"],
            settings["server_cpus"]
        ));
        line(format!(
            "- {} interleaved rounds of {} s; median [min..max] over rounds",
            settings["rounds"], settings["seconds"]
        ));
        line(format!("- `{}`\n", self.command_line));
        line(
            "CPU is the server's, in ns per operation. The ratio is to the cheaper floor of the same round."
                .to_string(),
        );
        let mut group = None;
        for cell in &self.cells {
            if group != Some((&cell.command, cell.pipeline)) {
                group = Some((&cell.command, cell.pipeline));
                line(format!("\n## {}, pipeline {}\n", cell.command, cell.pipeline));
                line(
                    "| server | CPU ns/op | ratio to floor | ops/s | p50 us | p99 us | p99.9 us | load busy + waiting | server waiting |"
                        .to_string(),
                );
                line("|---|---|---|---|---|---|---|---|---|".to_string());
            }
            let ratio = if cell.floor_ratio.is_empty() { "-".to_string() } else { spread_text(&cell.floor_ratio, 2) };
            let latencies: Vec<String> = cell.latency_us.iter().map(|list| spread_text(list, 0)).collect();
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
                "\n(!) In some round the load generator ran or waited for its core more than 90 % of the time: throughput and latency there say more about \
                 it than about the server, and a server which waits for load does smaller batches and looks dearer \
                 than a saturated one."
                    .to_string(),
            );
        }
        text
    }
}

/// Each round's cost over that of the cheapest floor in the same round.
fn floor_ratios(costs: &[f64], floors: &[Vec<f64>]) -> Vec<f64> {
    let cheapest = |round: usize| floors.iter().map(|floor| floor[round]).fold(f64::INFINITY, f64::min);
    costs.iter().enumerate().map(|(round, cost)| cost / cheapest(round)).collect()
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[middle],
        _ => (sorted[middle - 1] + sorted[middle]) / 2.0,
    }
}

fn range(values: &[f64]) -> (f64, f64) {
    values.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), &value| (low.min(value), high.max(value)))
}

fn spread_text(values: &[f64], digits: usize) -> String {
    let (low, high) = range(values);
    format!("{:.digits$} [{low:.digits$}..{high:.digits$}]", median(values))
}

fn spread_json(values: &[f64]) -> Value {
    let (low, high) = range(values);
    json!({ "median": median(values), "min": low, "max": high, "rounds": values })
}

fn as_text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// As a shell would need it.
fn quote(argument: String) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,".contains(c);
    if !argument.is_empty() && argument.chars().all(plain) {
        return argument;
    }
    format!("\"{}\"", argument.replace('\\', "\\\\").replace('"', "\\\"").replace('$', "\\$"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_ranges() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(range(&[3.0, 1.0, 2.0]), (1.0, 3.0));
        assert_eq!(spread_text(&[1.0, 2.0, 4.0], 1), "2.0 [1.0..4.0]");
    }

    #[test]
    fn ratios_are_to_the_cheaper_floor_of_their_round() {
        let floors = [vec![100.0, 300.0], vec![200.0, 150.0]];
        assert_eq!(floor_ratios(&[200.0, 300.0], &floors), [2.0, 2.0]);
    }

    #[test]
    fn the_command_line_can_be_pasted() {
        assert_eq!(quote("--server".into()), "--server");
        assert_eq!(quote("r=redis --save ''".into()), "\"r=redis --save ''\"");
    }
}
