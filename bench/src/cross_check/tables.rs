//! The tools under one load, side by side: who was the limit, and what may be concluded.

use super::Part;
use super::figures::{self, Verdict};
use super::measure::{BUSY, Measured};
use super::tools::{Kind, WireBytes};
use crate::statistics::median;
use serde_json::{Value, json};

/// Sides whose latencies are within this of each other agree.
const TOLERANCE: f64 = 0.10;
/// A tool which was further from the rate than this did not keep it.
const RATE_TOLERANCE: f64 = 0.02;

/// One tool under one load; each list has one number a round.
#[derive(Clone, Debug)]
pub struct Cell {
    pub kind: Kind,
    pub wire: Vec<WireBytes>,
    pub ops_per_second: Vec<f64>,
    pub p50_us: Vec<f64>,
    pub p99_us: Vec<f64>,
    /// Empty if the tool does not tell.
    pub mean_us: Vec<f64>,
    busy: Vec<f64>,
    waiting: Vec<f64>,
    server_busy: Vec<f64>,
    misses: f64,
}

impl Cell {
    pub fn new(kind: Kind) -> Cell {
        Cell {
            kind,
            wire: Vec::new(),
            ops_per_second: Vec::new(),
            p50_us: Vec::new(),
            p99_us: Vec::new(),
            mean_us: Vec::new(),
            busy: Vec::new(),
            waiting: Vec::new(),
            server_busy: Vec::new(),
            misses: 0.0,
        }
    }

    pub fn record(&mut self, measured: &Measured) {
        let claim = &measured.claim;
        self.wire.extend(claim.wire);
        self.ops_per_second.push(claim.ops_per_second);
        self.p50_us.push(claim.p50_us);
        self.p99_us.push(claim.p99_us);
        self.mean_us.extend(claim.mean_us);
        self.busy.push(measured.busy);
        self.waiting.push(measured.waiting);
        self.server_busy.push(measured.server_busy);
        self.misses += claim.misses.unwrap_or(0.0);
    }

    pub fn tool_is_limit(&self) -> bool {
        median(&self.busy) + median(&self.waiting) > BUSY
    }

    fn server_is_limit(&self) -> bool {
        median(&self.server_busy) > BUSY
    }

    pub fn step_us(&self) -> f64 {
        figures::step_us(&[&self.p50_us[..], &self.p99_us].concat())
    }

    /// From one request of a connection to its next, on average, by the throughput alone.
    pub fn cycle_us(&self, connections: usize) -> Vec<f64> {
        self.ops_per_second.iter().map(|rate| connections as f64 / rate * 1e6).collect()
    }

    pub fn limit(&self) -> &'static str {
        match (self.tool_is_limit(), self.server_is_limit()) {
            (true, true) => "tool and server",
            (true, false) => "tool",
            (false, true) => "server",
            (false, false) => "neither",
        }
    }

    pub fn name(&self) -> String {
        let misses = if self.misses > 0.0 { format!(", {:.0} misses", self.misses) } else { String::new() };
        format!("{}{misses}", self.kind.name())
    }

    pub fn shares_text(&self) -> String {
        let percent = |values: &[f64]| match median(values) * 100.0 {
            share if share.is_finite() => format!("{share:.0}"),
            _ => "?".to_string(),
        };
        let warning = if self.tool_is_limit() { " (!)" } else { "" };
        let (busy, waiting, server) = (percent(&self.busy), percent(&self.waiting), percent(&self.server_busy));
        format!("{busy} + {waiting} %{warning} | {server} % | {}", self.limit())
    }

    pub fn to_json(&self) -> Value {
        json!({
            "tool": self.kind.name(),
            "ops_per_second": figures::json(&self.ops_per_second),
            "p50_us": figures::json(&self.p50_us),
            "p99_us": figures::json(&self.p99_us),
            "mean_us": figures::json(&self.mean_us),
            "step_us": self.step_us(),
            "busy": figures::json(&self.busy),
            "waiting": figures::json(&self.waiting),
            "server_busy": figures::json(&self.server_busy),
            "limit": self.limit(),
            "misses": self.misses,
        })
    }
}

/// All tools under one load.
#[derive(Clone, Debug)]
pub struct Table {
    pub part: Part,
    pub title: String,
    pub pipeline: usize,
    pub connections: usize,
    /// Empty if there was nothing to compare with.
    pub cells: Vec<Cell>,
}

/// One tool's throughput against the others'.
pub struct DriveRow<'a> {
    pub cell: &'a Cell,
    pub to_best_other: Vec<f64>,
    pub to_memtier: Vec<f64>,
    pub conclusion: String,
}

/// One percentile of ours against that of another tool.
pub struct LatencyRow<'a> {
    pub percentile: &'static str,
    pub other: &'a Cell,
    pub ours_us: &'a [f64],
    pub other_us: &'a [f64],
    pub ratios: Vec<f64>,
    pub verdict: Verdict,
    pub conclusion: String,
}

impl Table {
    /// The others of a tool are the established ones: this generator is what is to be checked.
    pub fn drive_rows(&self) -> Vec<DriveRow<'_>> {
        let row = |cell: &'_ Cell| {
            let others: Vec<&Cell> =
                self.cells.iter().filter(|other| other.kind != cell.kind && other.kind != Kind::TorcBench).collect();
            let rates: Vec<&[f64]> = others.iter().map(|other| &other.ops_per_second[..]).collect();
            let to_best_other = figures::ratios_to_best(&cell.ops_per_second, &rates);
            let memtier = self.cells.iter().find(|other| other.kind == Kind::Memtier && cell.kind != Kind::Memtier);
            let memtier: Vec<&[f64]> = memtier.iter().map(|other| &other.ops_per_second[..]).collect();
            let best = others.iter().max_by(|a, b| median(&a.ops_per_second).total_cmp(&median(&b.ops_per_second)));
            let conclusion = best.map_or("nothing to compare with".to_string(), |best| {
                drive_conclusion(figures::compare(&to_best_other), cell, best)
            });
            (to_best_other, figures::ratios_to_best(&cell.ops_per_second, &memtier), conclusion)
        };
        let with_cell = |cell| {
            let (to_best_other, to_memtier, conclusion) = row(cell);
            DriveRow { cell, to_best_other, to_memtier, conclusion }
        };
        self.cells.iter().map(with_cell).collect()
    }

    pub fn latency_rows(&self, rate: Option<u64>) -> Vec<LatencyRow<'_>> {
        let Some(ours) = self.cells.iter().find(|cell| cell.kind == Kind::TorcBench) else { return Vec::new() };
        let mut rows = Vec::new();
        for other in self.cells.iter().filter(|cell| cell.kind != Kind::TorcBench) {
            let lists = [("p50", &ours.p50_us, &other.p50_us), ("p99", &ours.p99_us, &other.p99_us)];
            for (percentile, ours_us, other_us) in lists {
                let ratios = figures::ratios_to_best(ours_us, &[other_us]);
                let verdict = figures::agree_in_steps(ours_us, other_us, other.step_us(), TOLERANCE);
                let off_rate = |cell: &&&Cell| {
                    rate.is_some_and(|rate| (median(&cell.ops_per_second) / rate as f64 - 1.0).abs() > RATE_TOLERANCE)
                };
                let conclusion = match [ours, other].iter().find(off_rate) {
                    Some(cell) => format!("no conclusion: {} did not keep the rate", cell.kind.name()),
                    None => latency_conclusion(verdict),
                };
                rows.push(LatencyRow { percentile, other, ours_us, other_us, ratios, verdict, conclusion });
            }
        }
        rows
    }
}

/// A tool which does not drive the server to its own limit says less about itself than about the server.
fn drive_conclusion(verdict: Verdict, cell: &Cell, best: &Cell) -> String {
    let best_name = best.kind.name();
    match verdict {
        Verdict::Higher if !cell.tool_is_limit() => format!("faster than {best_name}, and was not the limit itself"),
        Verdict::Higher => format!("faster than {best_name}"),
        Verdict::Lower if !cell.tool_is_limit() => format!("fewer than {best_name}, though it had time to spare"),
        Verdict::Lower => format!("slower than {best_name}"),
        undecided => undecided.to_string(),
    }
}

fn latency_conclusion(verdict: Verdict) -> String {
    let within = TOLERANCE * 100.0;
    match verdict {
        Verdict::Agrees => format!("within {within:.0} % in every round"),
        Verdict::Higher => format!("ours is higher, by more than {within:.0} %"),
        Verdict::Lower => format!("ours is lower, by more than {within:.0} %"),
        undecided => undecided.to_string(),
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::cross_check::tools::Claim;

    fn cell(kind: Kind, rates: [f64; 3], p50_us: [f64; 3], busy: f64) -> Cell {
        let mut cell = Cell::new(kind);
        for (ops_per_second, p50_us) in rates.into_iter().zip(p50_us) {
            let claim = Claim { ops_per_second, p50_us, p99_us: 2.0 * p50_us, mean_us: None, misses: None, wire: None };
            cell.record(&Measured { claim, busy, waiting: 0.0, server_busy: 0.5 });
        }
        cell
    }

    pub fn table(part: Part) -> Table {
        let cells = vec![
            cell(Kind::TorcBench, [300.0, 310.0, 320.0], [41.0, 42.0, 43.0], 0.8),
            cell(Kind::Memtier, [100.0, 100.0, 100.0], [40.0, 41.0, 42.0], 0.99),
            cell(Kind::RedisBenchmark, [150.0, 155.0, 160.0], [80.0, 84.0, 86.0], 0.5),
        ];
        Table { part, title: "Some load".to_string(), pipeline: 1, connections: 4, cells }
    }

    #[test]
    fn throughput_is_compared_with_the_established_tools() {
        let table = table(Part::Drive);
        let rows = table.drive_rows();
        assert_eq!(median(&rows[0].to_best_other), 2.0);
        assert_eq!(median(&rows[0].to_memtier), 3.1);
        assert_eq!(rows[0].conclusion, "faster than redis-benchmark, and was not the limit itself");
        assert!(rows[1].to_memtier.is_empty());
        assert_eq!(rows[1].conclusion, "slower than redis-benchmark");
        assert_eq!(rows[2].conclusion, "faster than memtier_benchmark, and was not the limit itself");
    }

    #[test]
    fn a_rate_which_was_not_kept_is_no_conclusion() {
        let mut table = table(Part::Rate);
        table.cells[0].ops_per_second = vec![100.0, 99.0, 101.0];
        table.cells.truncate(2);
        let conclusion = |table: &Table, rate| table.latency_rows(Some(rate))[0].conclusion.clone();
        assert_eq!(conclusion(&table, 100), "within 10 % in every round");
        table.cells[1].ops_per_second = vec![95.0, 120.0, 96.0];
        assert_eq!(conclusion(&table, 100), "no conclusion: memtier_benchmark did not keep the rate");
        assert_eq!(conclusion(&table, 50), "no conclusion: torc-bench did not keep the rate");
    }
}
