//! The report of a comparison. What was measured under one load stands together, floors after servers.

use super::bars::{self, Bar, Labels, Panel};
use super::field::{self, Spread};
use super::format;
use super::page::{self, command_line, figure, section};
use super::tables::{self, Verdict};
use maud::{Markup, html};
use serde_json::Value;

/// The style sheet has so many colours; further servers start again with the first.
const COLOURS: usize = 8;

/// One server under one load and pipeline.
pub struct Cell<'a> {
    pub server: String,
    pub is_floor: bool,
    pub pipeline: String,
    pub result: &'a Value,
}

/// What was measured under one load, which its description tells from others.
pub struct Group<'a> {
    load: String,
    cells: Vec<Cell<'a>>,
}

/// A figure that gets a chart.
struct Metric {
    title: &'static str,
    note: &'static str,
    read: fn(&Value) -> Option<Spread>,
    value: fn(f64) -> String,
    tick: fn(f64) -> String,
    /// Which of two floors is the better one.
    better: fn(f64, f64) -> f64,
    with_ratio: bool,
}

const METRICS: [Metric; 3] = [
    Metric {
        title: "CPU per operation of the server",
        note: "less is better",
        read: |result| field::spread(&result["cpu_ns_per_op"]),
        value: format::nanoseconds,
        tick: format::tick,
        better: f64::min,
        with_ratio: true,
    },
    Metric {
        title: "Operations per second",
        note: "more is better",
        read: |result| field::spread(&result["ops_per_second"]),
        value: format::per_second,
        tick: format::short_tick,
        better: f64::max,
        with_ratio: false,
    },
    Metric {
        title: "Latency, p99",
        note: "less is better",
        read: |result| field::spread(&result["latency_us"]["p99"]),
        value: format::microseconds,
        tick: format::microsecond_tick,
        better: f64::min,
        with_ratio: false,
    },
];

pub fn page(report: &Value) -> Markup {
    let groups = groups(report);
    let names = server_names(&groups);
    let verdict = |value| Verdict { load: describe_load(value, &report["settings"]), value };
    let verdicts: Vec<Verdict> = field::list(&report["verdicts"]).iter().map(verdict).collect();
    let others: Vec<&Verdict> =
        verdicts.iter().filter(|verdict| !groups.iter().any(|group| group.load == verdict.load)).collect();
    let machine = &report["machine"];
    let title = match field::text(&machine["date"]) {
        Some(date) => format!("Comparison of {date}"),
        None => "Comparison of servers".to_string(),
    };
    let limited = groups.iter().flat_map(|group| &group.cells).any(|cell| tables::limited(cell.result));
    let content = html! {
        (command_line(&report["command_line"]))
        @if limited {
            div class="notice" { p {
                b { "(!) The load generator had no time to spare" }
                " in some rounds: throughput and latency there say more about it than about the server, and a server \
                 which waits for load does smaller batches and looks dearer than a saturated one."
            } }
        }
        @for group in &groups {
            @let verdicts: Vec<&Verdict> = verdicts.iter().filter(|verdict| verdict.load == group.load).collect();
            (section(&group.load, group.show(&names, &verdicts)))
        }
        (section("Other verdicts", tables::verdicts(&others, true)))
        (section("Memory per key", tables::memory(&report["servers"])))
        (section("Servers", tables::servers(&report["servers"])))
        div class="beside" {
            (section("Load", tables::settings(&report["settings"])))
            (page::machine(machine))
        }
    };
    page::page(&title, &content)
}

/// By load, in the order of the report.
fn groups(report: &Value) -> Vec<Group<'_>> {
    let mut groups: Vec<Group> = Vec::new();
    for result in field::list(&report["results"]) {
        let load = describe_load(result, &report["settings"]);
        let cell = Cell {
            server: field::text(&result["server"]).unwrap_or_else(|| "unnamed".to_string()),
            is_floor: result["floor"] == true,
            pipeline: field::text(&result["pipeline"]).unwrap_or_else(|| "unknown".to_string()),
            result,
        };
        match groups.iter_mut().find(|group| group.load == load) {
            Some(group) => group.cells.push(cell),
            None => groups.push(Group { load, cells: vec![cell] }),
        }
    }
    groups
}

/// Reports of a single value size and distribution have these in the settings.
fn describe_load(entry: &Value, settings: &Value) -> String {
    let general = |name: &str| field::text(&entry[name]).or_else(|| field::text(&settings[name]));
    let command = field::text(&entry["command"]).unwrap_or_else(|| "unknown command".to_string());
    let size = general("value_size").map(|size| format!("values of {size} bytes"));
    let keys = general("distribution").map(|distribution| format!("{distribution} keys"));
    [Some(command), size, keys].into_iter().flatten().collect::<Vec<_>>().join(", ")
}

/// All servers which are no floors; the place of a name decides about its colour, which is the same everywhere.
fn server_names(groups: &[Group]) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for cell in groups.iter().flat_map(|group| &group.cells) {
        if !cell.is_floor && !names.contains(&cell.server) {
            names.push(cell.server.clone());
        }
    }
    names
}

impl Group<'_> {
    fn pipelines(&self) -> Vec<(&str, Vec<&Cell<'_>>)> {
        let mut pipelines: Vec<(&str, Vec<&Cell>)> = Vec::new();
        for cell in &self.cells {
            match pipelines.iter_mut().find(|(pipeline, _)| *pipeline == cell.pipeline) {
                Some((_, cells)) => cells.push(cell),
                None => pipelines.push((&cell.pipeline, vec![cell])),
            }
        }
        pipelines
    }

    fn show(&self, names: &[String], verdicts: &[&Verdict]) -> Markup {
        let charts: Vec<Markup> = METRICS.iter().filter_map(|metric| self.chart(metric, names)).collect();
        html! {
            @if !charts.is_empty() { div class="figures narrow" { @for chart in &charts { (chart) } } }
            (tables::verdicts(verdicts, false))
            (tables::results(&self.pipelines()))
        }
    }

    fn chart(&self, metric: &Metric, names: &[String]) -> Option<Markup> {
        let panel = |(pipeline, cells): (&str, Vec<&Cell>)| {
            let bars: Vec<Bar> =
                cells.iter().filter(|cell| !cell.is_floor).filter_map(|cell| bar(cell, metric, names)).collect();
            let floors = cells.iter().filter(|cell| cell.is_floor).filter_map(|cell| (metric.read)(cell.result));
            let floor = floors.map(|floor| floor.median).reduce(metric.better);
            let floor = floor.map(|value| (format!("floor {}", (metric.value)(value)), value));
            (!bars.is_empty()).then(|| Panel { heading: format!("pipeline {pipeline}"), bars, floor })
        };
        let panels: Vec<Panel> = self.pipelines().into_iter().filter_map(panel).collect();
        if panels.is_empty() {
            return None;
        }
        let labels =
            Labels { description: format!("{}: {}", metric.title, self.load), value: metric.value, tick: metric.tick };
        Some(figure(metric.title, metric.note, &html! {}, &bars::chart(&labels, &panels)))
    }
}

fn bar(cell: &Cell, metric: &Metric, names: &[String]) -> Option<Bar> {
    let spread = (metric.read)(cell.result)?;
    let ratio = field::spread(&cell.result["floor_ratio"]).filter(|_| metric.with_ratio);
    let ratio = ratio.map(|ratio| format!("{} \u{d7} floor", format::number(ratio.median)));
    let warning = tables::limited(cell.result).then(|| "(!)".to_string());
    let [median, low, high] = [spread.median, spread.low, spread.high].map(metric.value);
    Some(Bar {
        name: cell.server.clone(),
        colour: names.iter().position(|name| *name == cell.server).unwrap_or(0) % COLOURS,
        spread,
        note: [ratio, warning].into_iter().flatten().collect::<Vec<_>>().join(" "),
        hint: format!("{}, pipeline {}\nmedian {median}, from {low} to {high}", cell.server, cell.pipeline),
    })
}
