//! The tables of a comparison.

use super::compare::Cell;
use super::page::{command_line, facts};
use super::{field, format};
use maud::{Markup, html};
use serde_json::Value;

/// Whether the load generator had no time to spare, so that the figures are partly its own.
pub fn limited(result: &Value) -> bool {
    field::number(&result["rounds_limited_by_load"]).is_some_and(|rounds| rounds > 0.0)
}

/// All figures of one load, by pipeline, the floors after the servers.
pub fn results(pipelines: &[(&str, Vec<&Cell>)]) -> Markup {
    let heads = ["server", "CPU ns/op", "ratio to floor", "ops/s", "p50 \u{b5}s", "p99 \u{b5}s", "p99.9 \u{b5}s"];
    html! {
        p class="muted" { "Median [min..max] over the rounds. The ratio is to the cheaper floor of the same round." }
        div class="scroll" { table {
            thead { tr {
                @for head in heads { th { (head) } }
                th { "load busy + waiting" }
                th { "server waiting" }
            } }
            tbody { @for (pipeline, cells) in pipelines {
                tr class="group" { th colspan="9" { "pipeline " (pipeline) } }
                @for cell in cells.iter().filter(|cell| !cell.is_floor) { (row(cell)) }
                @for cell in cells.iter().filter(|cell| cell.is_floor) { (row(cell)) }
            } }
        } }
    }
}

fn row(cell: &Cell) -> Markup {
    let result = cell.result;
    let latency = &result["latency_us"];
    let share =
        |name: &str| field::spread(&result[name]).map_or("-".to_string(), |share| format::percent(share.median));
    let misses = field::number(&result["misses"]).filter(|&misses| misses > 0.0);
    html! {
        tr class=[cell.is_floor.then_some("floor")] {
            td {
                (cell.server)
                @if let Some(misses) = misses { span class="range" { (format::count(misses)) " misses" } }
            }
            (spread_cell(&result["cpu_ns_per_op"], format::number))
            (spread_cell(&result["floor_ratio"], format::number))
            (spread_cell(&result["ops_per_second"], format::count))
            @for name in ["p50", "p99", "p99.9"] { (spread_cell(&latency[name], format::number)) }
            td class="shares" { (share("load_busy")) " + " (share("load_waiting")) @if limited(result) { " (!)" } }
            td { (share("server_waiting")) }
        }
    }
}

fn spread_cell(value: &Value, text: fn(f64) -> String) -> Markup {
    html! {
        td { @match field::spread(value) {
            Some(spread) => {
                (text(spread.median))
                span class="range" { "[" (text(spread.low)) ".." (text(spread.high)) "]" }
            }
            None => "-",
        } }
    }
}

/// What the figures of two servers say about each other, or that they say nothing.
pub struct Verdict<'a> {
    pub load: String,
    pub value: &'a Value,
}

/// With their loads, unless the table stands under its load.
pub fn verdicts(verdicts: &[&Verdict], with_load: bool) -> Markup {
    html! {
        @if !verdicts.is_empty() {
            div class="scroll" { table class="texts" {
                thead { tr { @if with_load { th { "load" } } th { "pipeline" } th { "servers" } th { "verdict" } } }
                tbody { @for Verdict { load, value } in verdicts {
                    @let pair: Vec<String> =
                        ["server", "peer"].iter().filter_map(|name| field::text(&value[*name])).collect();
                    tr {
                        @if with_load { td { (load) } }
                        td { (field::text(&value["pipeline"]).unwrap_or_default()) }
                        td { (pair.join(" and ")) }
                        td {
                            @if value["decided"] == false { span class="doubt" { "within noise" } " " }
                            (field::text(&value["text"]).unwrap_or_default())
                        }
                    }
                } }
            } }
        }
    }
}

/// A row for each server, a column for each value size.
pub fn memory(servers: &Value) -> Markup {
    let rows: Vec<(String, &[Value])> = field::list(servers)
        .iter()
        .map(|server| (field::text(&server["name"]).unwrap_or_default(), field::list(&server["memory"])))
        .filter(|(_, memory)| !memory.is_empty())
        .collect();
    let mut sizes: Vec<f64> =
        rows.iter().flat_map(|(_, memory)| *memory).filter_map(|entry| field::amount(&entry["value_size"])).collect();
    sizes.sort_by(f64::total_cmp);
    sizes.dedup();
    let entry = |memory: &[Value], size: f64| {
        let entry = memory.iter().find(|entry| field::amount(&entry["value_size"]) == Some(size))?;
        Some((field::number(&entry["bytes_per_key"])?, field::number(&entry["overhead_per_key"])))
    };
    html! {
        @if !sizes.is_empty() {
            p class="muted" { "Bytes of memory for each key; below, what of it is neither key nor value." }
            div class="scroll" { table {
                thead { tr { th { "server" } @for &size in &sizes { th { "values of " (format::count(size)) } } } }
                tbody { @for (name, memory) in &rows { tr {
                    td { (name) }
                    @for &size in &sizes { td { @match entry(memory, size) {
                        Some((bytes, overhead)) => {
                            (format::number(bytes))
                            @if let Some(overhead) = overhead { span class="range" { (format::number(overhead)) " overhead" } }
                        }
                        None => "-",
                    } } }
                } } }
            } }
        }
    }
}

pub fn servers(servers: &Value) -> Markup {
    let servers = field::list(servers);
    html! {
        @for server in servers {
            @let name = field::text(&server["name"]);
            @let version = field::text(&server["version"]);
            @if name.is_some() || version.is_some() {
                p {
                    @if let Some(name) = name { b { (name) } " " }
                    @if let Some(version) = version { (version) }
                }
            }
            @for command in field::list(&server["commands"]) { (command_line(command)) }
        }
    }
}

pub fn settings(settings: &Value) -> Markup {
    let count = |name: &str| field::number(&settings[name]).map(format::count);
    let with_unit = |name: &str, unit: &str| field::text(&settings[name]).map(|text| format!("{text} {unit}"));
    let cpus = |name: &str| {
        let cpus: Vec<String> = field::list(&settings[name]).iter().filter_map(field::text).collect();
        (!cpus.is_empty()).then(|| cpus.join(", "))
    };
    facts(&[
        ("Connections", count("connections")),
        ("Keys", count("keys")),
        ("Key size", with_unit("key_size", "bytes")),
        ("Sets to gets, of mixed", field::text(&settings["ratio"])),
        ("Interleaved rounds", count("rounds")),
        ("Time of each", with_unit("seconds", "s")),
        ("Warm-up", with_unit("warmup", "s")),
        ("Cores of the servers", cpus("server_cpus")),
        ("Cores of the load", cpus("load_cpus")),
        ("Threads of the load", count("load_threads")),
    ])
}
