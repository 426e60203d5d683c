//! Instructions per operation: `cargo bench -p torc-engine --bench instructions`.
//!
//! Times depend on what else the machine does; how many instructions a piece of code executes does not. Each case of
//! [`cases`] runs in a process of its own under valgrind's callgrind, which counts what happens inside of one marked
//! function and nothing else. What was counted once is kept in `bench/results/instructions.csv`.
//!
//! Own code and not gungraun (formerly iai-callgrind): that needs a runner of exactly its own version to be installed
//! beside valgrind, and it keeps what it compares with in the target directory, where no series can grow.

#[path = "../common/mod.rs"]
mod common;

mod callgrind;
mod cases;
mod series;

use std::process::ExitCode;

use series::{Series, Version};

/// By how much a count may change unnoticed, in per cent.
const TOLERANCE_PERCENT: f64 = 5.0;

const USAGE: &str = "usage: cargo bench -p torc-engine --bench instructions [-- [--record | --check] [PART-OF-A-NAME]]

without option   counts, and shows beside it what was recorded last
--record         appends the counts to bench/results/instructions.csv
--check          exit status 1 if a count grew by more than 5 % since it was recorded";

#[derive(Default)]
struct Options {
    record: bool,
    check: bool,
    /// Cases whose name contains this.
    filter: String,
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if let [option, name] = &words[..]
        && option == callgrind::RUN_CASE
    {
        return callgrind::report(cases::run(name));
    }
    if !words.iter().any(|word| word == "--bench") {
        // What `cargo test --benches` does: nothing is to be tested here.
        println!("{USAGE}");
        return ExitCode::SUCCESS;
    }
    let mut options = Options::default();
    for word in &words {
        match &word[..] {
            "--bench" => {}
            "--record" => options.record = true,
            "--check" => options.check = true,
            name if !name.starts_with('-') => options.filter = name.to_owned(),
            _ => {
                eprintln!("{USAGE}");
                return ExitCode::from(2);
            }
        }
    }
    match run(&options) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Counts and shows all that was asked for. False: a check failed.
fn run(options: &Options) -> Result<bool, String> {
    let names: Vec<&str> = cases::names().filter(|name| name.contains(&options.filter)).collect();
    if names.is_empty() {
        return Err(format!("no case has \"{}\" in its name", options.filter));
    }
    let mut series = Series::load()?;
    let version = Version::current()?;
    let (mut grown, mut shrunk, mut unrecorded) = (Vec::new(), Vec::new(), Vec::new());
    println!("{:<28} {:>12} {:>12} {:>9}", "instructions per operation", "now", "recorded", "change");
    for name in names {
        let now = callgrind::count(name)?.per_operation();
        if let Some(last) = series.last(name) {
            let percent = (now / last.count - 1.0) * 100.0;
            println!("{name:<28} {now:>12.1} {:>12.1} {percent:>+8.1}%", last.count);
            let line = format!("{name}: {:.1} ({}, rustc {}) to {now:.1}", last.count, last.commit, last.rustc);
            if percent > TOLERANCE_PERCENT {
                grown.push(line);
            } else if percent < -TOLERANCE_PERCENT {
                shrunk.push(line);
            }
        } else {
            println!("{name:<28} {now:>12.1} {:>12} {:>9}", "-", "-");
            unrecorded.push(name.to_owned());
        }
        series.append(&version, name, now);
    }
    if options.record {
        series.save()?;
        println!("recorded as {version}");
    }
    if options.check {
        println!("\nchecked: {version}");
        report(&format!("grew by more than {TOLERANCE_PERCENT} %"), &grown);
        report(
            &format!("shrank by more than {TOLERANCE_PERCENT} %: --record it, or it can grow back unnoticed"),
            &shrunk,
        );
        report("never recorded", &unrecorded);
    }
    Ok(!options.check || grown.is_empty())
}

fn report(what: &str, lines: &[String]) {
    if !lines.is_empty() {
        println!("{what}");
        lines.iter().for_each(|line| println!("  {line}"));
    }
}
