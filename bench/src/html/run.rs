//! The report of one load.

use super::page::{self, facts, figure, section};
use super::plot::{self, ACROSS, Axis, Line, Plot, UP};
use super::scale::Scale;
use super::{field, format};
use maud::{Markup, html};
use serde_json::Value;

/// What of the latencies is drawn over time: the fields of a second, their names and their looks.
const OVER_TIME: [(&str, &str, &str); 4] = [
    ("p50_us", "p50", "low"),
    ("p99_us", "p99", "high"),
    ("p99.9_us", "p99.9", "higher"),
    ("max_us", "max", "highest"),
];

/// The percentiles of the summary.
const PERCENTILES: [&str; 7] = ["mean", "p50", "p90", "p99", "p99.9", "p99.99", "max"];

pub fn page(report: &Value) -> Markup {
    let title = field::text(&report["title"]).unwrap_or_else(|| "Load of one server".to_string());
    let charts = [throughput(report), percentiles_over_time(report), distribution(report), by_percentile(report)];
    let content = html! {
        @if let Some(date) = field::text(&report["date"]) { p class="muted" { (date) } }
        (page::command_line(&report["command_line"]))
        (warnings(report))
        (cards(report))
        @if charts.iter().any(Option::is_some) {
            div class="figures" { @for chart in charts.iter().flatten() { (chart) } }
        }
        div class="beside" {
            (section("Load", load(report)))
            (section("Latency", latency(&report["latency_us"])))
            (section("Server", server(&report["server"])))
            (page::machine(&report["machine"]))
        }
    };
    page::page(&title, &content)
}

fn warnings(report: &Value) -> Markup {
    let errors: Vec<(&String, String)> = report["errors"]
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(_, count)| field::number(count) != Some(0.0))
        .filter_map(|(kind, count)| {
            Some((kind, field::number(count).map(format::count).or_else(|| field::text(count))?))
        })
        .collect();
    let share = |name: &str| field::number(&report[name]).map(format::percent);
    html! {
        @if !errors.is_empty() {
            div class="notice" {
                p { b { "Errors: " } @for (i, (kind, count)) in errors.iter().enumerate() {
                    @if i > 0 { ", " }
                    (field::text(&Value::from(kind.as_str())).unwrap_or_default()) " " (count)
                } }
            }
        }
        @if let Some(text) = field::text(&report["rate_warning"]) {
            div class="notice" { p { b { "Rate: " } (text) } }
        }
        @if report["load_busy_warning"] == true {
            div class="notice" {
                p {
                    b { "The load generator had no time to spare" }
                    @if let Some(busy) = share("load_busy") { ": a thread used " (busy) " of its core" }
                    @if let Some(waiting) = share("load_waiting") { ", and waited for it " (waiting) " of the time" }
                    ". It may have limited the throughput, and its own queue is part of the latency. The server's CPU \
                     per operation stays valid, but a server which waits for load does smaller batches and looks \
                     dearer than a saturated one."
                }
            }
        }
    }
}

fn cards(report: &Value) -> Markup {
    let latency = &report["latency_us"];
    let micros = |name: &str| field::number(&latency[name]).map(format::microseconds);
    let cost = field::number(&report["server"]["cpu_ns_per_op"]).map(format::nanoseconds);
    let cards = [
        ("operations/s", field::number(&report["ops_per_second"]).map(format::short)),
        ("p50 latency", micros("p50")),
        ("p99 latency", micros("p99")),
        ("p99.9 latency", micros("p99.9")),
        ("longest latency", micros("max")),
    ];
    html! {
        @if cost.is_some() || cards.iter().any(|card| card.1.is_some()) {
            div class="cards" {
                @if let Some(cost) = cost { div class="card main" { b { (cost) } span { "server's CPU per operation" } } }
                @for (name, value) in &cards {
                    @if let Some(value) = value { div class="card" { b { (value) } span { (name) } } }
                }
            }
        }
    }
}

fn load(report: &Value) -> Markup {
    let count = |name: &str| field::number(&report[name]).map(format::count);
    let per_second =
        |name: &str| field::number(&report[name]).map(|rate| format!("{} operations/s", format::count(rate)));
    let share = |name: &str| field::number(&report[name]).map(format::percent);
    let misses = field::number(&report["misses"]).map(|misses| match field::number(&report["requests"]) {
        Some(requests) if requests > 0.0 => {
            format!("{} ({})", format::count(misses), format::percent(misses / requests))
        }
        _ => format::count(misses),
    });
    facts(&[
        ("Command", field::text(&report["command"])),
        ("Connections", count("connections")),
        ("Pipeline", count("pipeline")),
        ("Threads", count("threads")),
        ("Target rate", per_second("rate")),
        ("Seed", field::text(&report["seed"])),
        ("Time", field::number(&report["seconds"]).map(|seconds| format!("{} s", format::number(seconds)))),
        ("Requests", count("requests")),
        ("Misses", misses),
        ("Throughput", per_second("ops_per_second")),
        (
            "Generator's CPU",
            field::number(&report["load_cpu_ns_per_op"])
                .map(|cost| format!("{} per operation", format::nanoseconds(cost))),
        ),
        ("Generator's core used", share("load_busy")),
        ("Generator waited for its core", share("load_waiting")),
    ])
}

fn latency(latency: &Value) -> Markup {
    facts(&PERCENTILES.map(|name| (name, field::number(&latency[name]).map(format::microseconds))))
}

fn server(server: &Value) -> Markup {
    let share = |name: &str| field::number(&server[name]).map(format::percent);
    let count = |name: &str| field::number(&server[name]).map(format::count);
    let bytes = |name: &str| field::number(&server[name]).map(format::bytes);
    facts(&[
        ("CPU per operation", field::number(&server["cpu_ns_per_op"]).map(format::nanoseconds)),
        ("of it in user mode", share("user_share")),
        ("Waited for its core", share("waiting")),
        ("Resident memory before", bytes("rss_bytes_before")),
        ("Resident memory after", bytes("rss_bytes_after")),
        ("Voluntary context switches", count("switches_voluntary")),
        ("Involuntary context switches", count("switches_involuntary")),
    ])
}

/// The seconds of the series which have a time, in order.
fn series(report: &Value) -> Vec<(f64, &Value)> {
    let mut series: Vec<(f64, &Value)> = field::list(&report["series"])
        .iter()
        .filter_map(|interval| Some((field::amount(&interval["second"])?, interval)))
        .collect();
    series.sort_by(|a, b| a.0.total_cmp(&b.0));
    series
}

fn time_axis(series: &[(f64, &Value)]) -> Axis {
    let end = series.last().map_or(0.0, |last| last.0);
    Axis { scale: Scale::linear_to(end, ACROSS), name: "seconds since the start", label: format::tick }
}

fn throughput(report: &Value) -> Option<Markup> {
    let series = series(report);
    let points: Vec<_> = series.iter().map(|(second, at)| (*second, field::amount(&at["ops_per_second"]))).collect();
    let highest = points.iter().filter_map(|point| point.1).reduce(f64::max)?;
    let rate = field::amount(&report["rate"]);
    let plot = Plot {
        description: "Throughput over time",
        x: time_axis(&series),
        y: Axis {
            scale: Scale::linear(highest.max(rate.unwrap_or(0.0)), UP),
            name: "operations per second",
            label: format::short_tick,
        },
    };
    let mut hints = Vec::new();
    let mut alarms = Vec::new();
    for (second, at) in &series {
        let time = format!("at {} s", format::number(*second));
        let done = field::amount(&at["ops_per_second"]).map_or("nothing known".to_string(), format::per_second);
        hints.push((*second, format!("{time}: {done}")));
        if let Some(errors) = field::amount(&at["errors"]).filter(|&errors| errors > 0.0) {
            alarms.push((*second, format!("{time}: {} errors", format::count(errors))));
        }
    }
    let note = if alarms.is_empty() { "" } else { "a red sign at the foot: errors" };
    let chart = plot.draw(&html! {
        @if let Some(rate) = rate { (plot.level(rate, &format!("target {}", format::per_second(rate)))) }
        (plot.lines(&[Line { name: "", class: "low", points }]))
        (plot.bands(&hints))
        (plot.alarms(&alarms))
    });
    Some(figure("Throughput over time", note, &html! {}, &chart))
}

fn percentiles_over_time(report: &Value) -> Option<Markup> {
    let series = series(report);
    let line = |(key, name, class)| {
        let points: Vec<_> = series.iter().map(|(second, at)| (*second, field::amount(&at[key]))).collect();
        points.iter().any(|point| point.1.is_some()).then_some(Line { name, class, points })
    };
    let lines: Vec<Line> = OVER_TIME.into_iter().filter_map(line).collect();
    let values = || lines.iter().flat_map(|line| &line.points).filter_map(|point| point.1).filter(|&value| value > 0.0);
    let (low, high) = (values().reduce(f64::min)?, values().reduce(f64::max)?);
    let plot = Plot {
        description: "Latency percentiles over time",
        x: time_axis(&series),
        y: Axis { scale: Scale::logarithmic(low, high, UP), name: "latency", label: format::microsecond_tick },
    };
    let hints: Vec<(f64, String)> = series
        .iter()
        .map(|(second, at)| {
            let mut hint = format!("at {} s", format::number(*second));
            for (key, name, _) in OVER_TIME {
                if let Some(value) = field::amount(&at[key]) {
                    hint.push_str(&format!("\n{name}: {}", format::microseconds(value)));
                }
            }
            (*second, hint)
        })
        .collect();
    let chart = plot.draw(&html! { (plot.lines(&lines)) (plot.bands(&hints)) });
    Some(figure("Latency over time", "logarithmic scale", &plot::legend(&lines), &chart))
}

fn distribution(report: &Value) -> Option<Markup> {
    let buckets: Vec<(f64, f64, f64)> = field::list(&report["latency_histogram"])
        .iter()
        .filter_map(|bucket| {
            let [low, high, count] = [0, 1, 2].map(|i| field::amount(&bucket[i]));
            Some((low?, high?, count?)).filter(|(low, high, count)| high > low && *count > 0.0)
        })
        .collect();
    let total: f64 = buckets.iter().map(|bucket| bucket.2).sum();
    let highest = buckets.iter().map(|bucket| bucket.2).reduce(f64::max)?;
    // A bucket from 0 has no beginning on a logarithmic axis.
    let low = buckets.iter().map(|&(low, high, _)| if low > 0.0 { low } else { high / 2.0 }).reduce(f64::min)?;
    let high = buckets.iter().map(|bucket| bucket.1).reduce(f64::max)?;
    let plot = Plot {
        description: "Distribution of the latencies",
        x: Axis { scale: Scale::logarithmic(low, high, ACROSS), name: "latency", label: format::microsecond_tick },
        y: Axis {
            scale: Scale::linear(highest / total * 1.2, UP),
            name: "share of the requests",
            label: format::percent_tick,
        },
    };
    let column = |&(low, high, count): &(f64, f64, f64)| {
        let [from, to] = [low, high].map(format::microseconds);
        let hint = format!("{from} to {to}\n{} requests, {}", format::count(count), format::percent(count / total));
        (low, high, count / total, hint)
    };
    let columns: Vec<_> = buckets.iter().map(column).collect();
    let mark = |name: &str| {
        let value = field::amount(&report["latency_us"][name])?;
        Some((value, format!("{name} {}", format::microseconds(value))))
    };
    let marks: Vec<(f64, String)> = ["p50", "p99", "p99.9"].into_iter().filter_map(mark).collect();
    let chart = plot.draw(&html! { (plot.columns(&columns)) (plot.marks(&marks)) });
    Some(figure("Distribution of the latencies", "logarithmic scale", &html! {}, &chart))
}

fn by_percentile(report: &Value) -> Option<Markup> {
    let mut points: Vec<(f64, f64)> = field::list(&report["latency_percentiles"])
        .iter()
        .filter_map(|pair| Some((field::amount(&pair[0])?, field::amount(&pair[1])?)))
        .filter(|&(quantile, value)| quantile <= 1.0 && value > 0.0)
        .collect();
    points.sort_by(|a, b| a.0.total_cmp(&b.0));
    let values = || points.iter().map(|point| point.1);
    let (low, high) = (values().reduce(f64::min)?, values().reduce(f64::max)?);
    let plot = Plot {
        description: "Latency by percentile",
        x: Axis {
            scale: Scale::nines(points.last()?.0, ACROSS),
            name: "percentile, each nine the same room",
            label: format::quantile,
        },
        y: Axis { scale: Scale::logarithmic(low, high, UP), name: "latency", label: format::microsecond_tick },
    };
    let hint = |&(quantile, value): &(f64, f64)| {
        (
            quantile,
            format!("{} of the requests took at most {}", format::quantile(quantile), format::microseconds(value)),
        )
    };
    let hints: Vec<(f64, String)> = points.iter().map(hint).collect();
    let line = Line { name: "", class: "low", points: points.iter().map(|&(x, y)| (x, Some(y))).collect() };
    let chart = plot.draw(&html! { (plot.lines(&[line])) (plot.bands(&hints)) });
    Some(figure("Latency by percentile", "logarithmic scale", &html! {}, &chart))
}
