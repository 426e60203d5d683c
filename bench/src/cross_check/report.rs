//! What a cross-check found, as Markdown and as JSON.

use super::figures::{self, Verdict, percent_text, text};
use super::tables::{Cell, Table};
use super::tools::{Kind, Tool, memtier_bursts};
use super::{CrossCheckArgs, Part};
use crate::compare::servers::Server;
use crate::error::Error;
use crate::statistics::median;
use crate::system;
use serde_json::{Value, json};
use std::fmt::Write;
use std::path::Path;
use std::ptr;

pub struct Report {
    machine: Value,
    settings: Value,
    rate: u64,
    connections: usize,
    command_line: String,
    tools: Vec<Tool>,
    missing: Vec<&'static str>,
    request_bytes: Vec<usize>,
    server: Value,
    tables: Vec<Table>,
}

impl Report {
    pub fn new(machine: Value, args: &CrossCheckArgs, load_cpu: usize, tools: &[Tool], missing: &[Kind]) -> Report {
        let settings = json!({
            "server_cpu": args.server_cpu,
            "load_cpu": load_cpu,
            "load_threads": 1,
            "connections": args.connections,
            "closed_connections": args.closed_connections,
            "keys": args.keys,
            "key_size": super::KEY_BYTES,
            "value_size": args.value_size,
            "rounds": args.rounds,
            "seconds": args.seconds,
            "rate": args.rate,
        });
        Report {
            machine,
            settings,
            rate: args.rate,
            connections: args.connections,
            command_line: system::command_line(),
            tools: tools.to_vec(),
            missing: missing.iter().map(|kind| kind.name()).collect(),
            request_bytes: Vec::new(),
            server: Value::Null,
            tables: Vec::new(),
        }
    }

    /// In the order of the tools.
    pub fn describe_requests(&mut self, request_bytes: &[usize]) {
        self.request_bytes = request_bytes.to_vec();
    }

    pub fn describe_server(&mut self, server: &Server) {
        self.server = json!({ "version": server.version, "command": server.commands[0] });
    }

    pub fn add(&mut self, table: Table) {
        self.tables.push(table);
    }

    pub fn write(&self, prefix: &Path) -> Result<(), Error> {
        for (extension, text) in [("json", format!("{:#}\n", self.to_json())), ("md", self.to_markdown())] {
            let path = format!("{}.{extension}", prefix.display());
            std::fs::write(&path, text).map_err(Error::io(format!("write {path}")))?;
        }
        Ok(())
    }

    fn rate_of(&self, table: &Table) -> Option<u64> {
        (table.part == Part::Rate).then_some(self.rate)
    }

    fn to_json(&self) -> Value {
        let table = |table: &Table| {
            let mut cells: Vec<Value> = table.cells.iter().map(Cell::to_json).collect();
            let mut comparisons = Vec::new();
            if table.part == Part::Drive {
                for (cell, row) in cells.iter_mut().zip(table.drive_rows()) {
                    cell["to_best_other"] = figures::json(&row.to_best_other);
                    cell["to_memtier"] = figures::json(&row.to_memtier);
                    cell["conclusion"] = json!(row.conclusion);
                }
            } else {
                for row in table.latency_rows(self.rate_of(table)) {
                    comparisons.push(json!({
                        "percentile": row.percentile,
                        "other": row.other.kind.name(),
                        "ratio": figures::json(&row.ratios),
                        "agrees": row.verdict == Verdict::Agrees,
                        "conclusion": row.conclusion,
                    }));
                }
            }
            json!({
                "title": table.title,
                "pipeline": table.pipeline,
                "connections": table.connections,
                "rate": self.rate_of(table),
                "tools": cells,
                "comparisons": comparisons,
            })
        };
        let tools: Vec<Value> = self
            .tools
            .iter()
            .enumerate()
            .map(|(i, tool)| {
                json!({
                    "name": tool.kind.name(),
                    "version": tool.version,
                    "request_bytes": self.request_bytes.get(i),
                })
            })
            .collect();
        json!({
            "command_line": self.command_line,
            "machine": self.machine,
            "settings": self.settings,
            "tools": tools,
            "left_out": self.missing,
            "server": self.server,
            "results": self.tables.iter().map(table).collect::<Vec<_>>(),
        })
    }

    pub fn to_markdown(&self) -> String {
        let mut text = String::new();
        self.write_head(&mut text);
        for table in &self.tables {
            let _ = writeln!(text, "\n## {}, {} connections\n", table.title, table.connections);
            match table.part {
                _ if table.cells.is_empty() => text.push_str("Left out: no other tool which can do this was found.\n"),
                Part::Drive => write_drive(&mut text, table),
                _ => self.write_latency(&mut text, table),
            }
        }
        if self.tables.iter().flat_map(|table| &table.cells).any(Cell::tool_is_limit) {
            text.push_str(
                "\n(!) The tool ran or waited for its core more than 90 % of the time: it was the bottleneck, and its \
                 own queue is part of the latency it reports.\n",
            );
        }
        text
    }

    fn write_head(&self, text: &mut String) {
        let machine = &self.machine;
        let as_text = |value: &Value| value.as_str().unwrap_or_default().to_string();
        let mut line = |content: String| writeln!(text, "{content}").expect("writing to a string");
        line(format!("# Cross-check of {}\n", as_text(&machine["date"])));
        line(format!("- Machine: {}", system::machine_line(machine)));
        for (i, tool) in self.tools.iter().enumerate() {
            let bytes = self.request_bytes.get(i).map(|bytes| format!("; every request has {bytes} bytes"));
            line(format!("- {}: {}{}", tool.kind.name(), tool.version, bytes.unwrap_or_default()));
        }
        for name in &self.missing {
            line(format!("- {name}: left out, for it was not found"));
        }
        if !self.server.is_null() {
            line(format!("- Server: {}; `{}`", as_text(&self.server["version"]), as_text(&self.server["command"])));
        }
        let settings = &self.settings;
        line(format!(
            "- Method: GET, {} keys of {} bytes, values of {} bytes; every tool with one thread on cpu {}, the server \
             on cpu {}; {} interleaved rounds of {} s; median [min..max] over rounds, ratios within a round. Nothing \
             is concluded where the ratios of the rounds spread by more than the sides differ",
            settings["keys"],
            settings["key_size"],
            settings["value_size"],
            settings["load_cpu"],
            settings["server_cpu"],
            settings["rounds"],
            settings["seconds"]
        ));
        line(format!("- `{}`", self.command_line));
    }

    fn write_latency(&self, text: &mut String, table: &Table) {
        let mut line = |content: String| writeln!(text, "{content}").expect("writing to a string");
        let is_first = self.tables.iter().find(|other| other.part == table.part).is_some_and(|it| ptr::eq(it, table));
        match table.part {
            Part::Rate => line(self.rate_explained()),
            Part::Slow => line(SLOW_EXPLAINED.to_string()),
            // Not before the table of each number of connections again.
            _ if is_first => line(CLOSED_LOOP_EXPLAINED.to_string()),
            _ => {}
        }
        line(
            "| tool | ops/s | p50 us | p99 us | mean us | cycle us | tool busy + waiting | server busy | limit |"
                .into(),
        );
        line("|---|---|---|---|---|---|---|---|---|".to_string());
        for cell in &table.cells {
            line(format!(
                "| {} | {} | {} | {} | {} | {} | {} |",
                cell.name(),
                figures::text(&cell.ops_per_second, 0),
                figures::text(&cell.p50_us, 1),
                figures::text(&cell.p99_us, 1),
                figures::text(&cell.mean_us, 1),
                figures::text(&cell.cycle_us(table.connections), 1),
                cell.shares_text()
            ));
        }
        for cell in table.cells.iter().filter(|cell| cell.step_us() > 1.0) {
            let (name, step) = (cell.kind.name(), cell.step_us());
            line(format!("\n{name} counts latencies in steps of {step} us and gives the last one of a step."));
        }
        line("\n| | torc-bench us | other us | difference | conclusion |".to_string());
        line("|---|---|---|---|---|".to_string());
        for row in table.latency_rows(self.rate_of(table)) {
            line(format!(
                "| {} to {} | {:.1} | {:.1} | {} | {} |",
                row.percentile,
                row.other.kind.name(),
                median(row.ours_us),
                median(row.other_us),
                percent_text(&row.ratios),
                row.conclusion
            ));
        }
    }

    fn rate_explained(&self) -> String {
        let (burst, every) = memtier_bursts(self.rate / self.connections as u64);
        format!(
            "{} requests a second, pipeline 1. The tools measure different things here. `torc-bench run --rate` \
             is an open loop: a request has its time, and waits for no reply before it. memtier_benchmark is a closed \
             loop with pauses: each connection wakes every {every:.0} ms and then sends {burst} request(s), each when \
             the reply to the last has come; all connections wake together. Its latency counts from when the request \
             is made, not from when it was due. So its requests come in bursts and queue behind each other at this \
             rate as they do at saturation, and what a slow reply holds back is not counted. Where the figures differ \
             here, the loads differ; slow requests are the test of the clocks. A cycle is the connections over the \
             throughput, pauses included.\n",
            self.rate
        )
    }
}

/// What the sources of memtier_benchmark 2.x and redis-benchmark 7.0 say.
const CLOSED_LOOP_EXPLAINED: &str = "\
    Pipeline 1. All tools measure from before a request is sent to when its reply is read, and wait for it before the \
    next. They differ in where they read the clock. torc-bench: just before the system call which sends, and once for \
    all replies which arrived together. redis-benchmark: just before it sends, which is one turn of its event loop \
    after the last reply, and for each connection before it reads. memtier_benchmark: when it makes the request, which \
    its event loop sends later, and for each connection after it has read. A cycle is the connections over the \
    throughput: by Little's law the mean time from one request of a connection to its next, whatever a tool says. By \
    what the mean latency falls short of it, the tool had nothing under way. A tool which is slower itself makes a \
    longer cycle: hold each latency against the cycle of its own row first, and only then against other tools.\n";

const SLOW_EXPLAINED: &str = "\
    BITCOUNT of 1 MiB, one connection, pipeline 1: the server works for hundreds of microseconds on each request, and nothing \
    queues. So all tools sustain the same rate and wait for the same thing, and must say the same; where they read the \
    clock makes some microseconds of difference.\n";

fn write_drive(text_out: &mut String, table: &Table) {
    let mut line = |content: String| writeln!(text_out, "{content}").expect("writing to a string");
    line(
        "| tool | ops/s | to the best other | to memtier | tool busy + waiting | server busy | limit | conclusion |"
            .to_string(),
    );
    line("|---|---|---|---|---|---|---|---|".to_string());
    for row in table.drive_rows() {
        line(format!(
            "| {} | {} | {} | {} | {} | {} |",
            row.cell.name(),
            text(&row.cell.ops_per_second, 0),
            text(&row.to_best_other, 2),
            text(&row.to_memtier, 2),
            row.cell.shares_text(),
            row.conclusion
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cross_check::tables::tests::table;
    use clap::Parser;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: CrossCheckArgs,
    }

    fn report(part: Part) -> Report {
        let args = Cli::parse_from(["x"]).args;
        let tool = Tool { kind: Kind::TorcBench, program: "x".into(), version: "1".to_string() };
        let mut report = Report::new(json!({}), &args, 1, &[tool], &[Kind::RedisBenchmark]);
        report.add(table(part));
        report
    }

    #[test]
    fn latencies_are_compared_with_ours() {
        let text = report(Part::Closed).to_markdown();
        assert!(
            text.contains("| p50 to memtier_benchmark | 42.0 | 41.0 | +2.4 % [+2.4..+2.5] | within 10 %"),
            "{text}"
        );
        assert!(text.contains("| p50 to redis-benchmark | 42.0 | 84.0 |"), "{text}");
        assert!(text.contains("ours is lower, by more than 10 %"), "{text}");
        assert!(text.contains("99 + 0 % (!) | 50 % | tool |"), "{text}");
    }

    #[test]
    fn missing_tools_are_named() {
        let report = report(Part::Drive);
        assert!(report.to_markdown().contains("- redis-benchmark: left out, for it was not found"));
        assert_eq!(report.to_json()["left_out"], json!(["redis-benchmark"]));
    }
}
