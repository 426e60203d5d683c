//! The load generator, the floor server and the comparison of servers. Start with `README.md` for the
//! method, `load/` for the generator, `compare/` for how figures are made.
//!
//! Exit status: 0 all replies were as they should be, 1 a server or the machine failed, 2 wrong usage.

mod bar;
mod churn;
mod client;
mod compare;
mod cross_check;
mod data_dir;
mod error;
mod expire_storm;
mod floor;
mod hit_ratio;
mod html;
mod idle;
mod keys;
mod kill9;
mod load;
mod memory;
mod process;
mod random;
mod recovery;
mod replies;
mod ring;
mod run;
mod sizes;
mod slow_reader;
mod soak;
mod statistics;
mod system;
mod trace;
mod under_test;
mod workload;

use clap::{Parser, Subcommand};
use error::Error;
use std::process::ExitCode;

#[derive(Parser)]
#[command(version, about = "Measures Redis-protocol servers: load, floor, comparison.")]
struct Cli {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Load one server and report throughput, latency and its CPU per operation.
    Run(run::RunArgs),
    /// A server which moves the same bytes and does nothing: the kernel's own price.
    Floor(floor::FloorArgs),
    /// Start servers and floors, measure them in interleaved rounds, write the result.
    Compare(compare::CompareArgs),
    /// Load one server with this generator and with others, and compare what they say.
    CrossCheck(cross_check::CrossCheckArgs),
    /// Open many connections, then measure what they cost while idle.
    Idle(idle::IdleArgs),
    /// Measure others' latency while one client asks for much and reads nothing.
    SlowReader(slow_reader::SlowReaderArgs),
    /// Start servers, fill them, and report what a key costs beyond its own bytes.
    Memory(memory::MemoryArgs),
    /// Use servers as look-aside caches with a memory limit: their hit ratio beside that of exact LRU.
    HitRatio(hit_ratio::HitRatioArgs),
    /// Churn servers that have a memory limit with values whose sizes drift: RSS over the limit, and throughput.
    Churn(churn::ChurnArgs),
    /// Let many keys expire at one moment while others are read: latency, and when keys and memory are gone.
    ExpireStorm(expire_storm::ExpireStormArgs),
    /// Kill a server again and again while it is written to: is everything there that it promised to keep?
    Kill9(kill9::Kill9Args),
    /// Fill servers, have them save, kill them: time of a snapshot, bytes on disk, time until they serve again.
    Recovery(recovery::RecoveryArgs),
    /// Load a server for long with a load that drifts: are memory, latency and descriptors the same at the end?
    Soak(soak::SoakArgs),
}

fn main() -> ExitCode {
    let result = match &Cli::parse().action {
        Action::Run(args) => run::run(args),
        Action::Floor(args) => floor::run(args),
        Action::Compare(args) => compare::run(args),
        Action::CrossCheck(args) => cross_check::run(args),
        Action::Idle(args) => idle::run(args),
        Action::SlowReader(args) => slow_reader::run(args),
        Action::Memory(args) => memory::run(args),
        Action::HitRatio(args) => hit_ratio::run(args),
        Action::Churn(args) => churn::run(args),
        Action::ExpireStorm(args) => expire_storm::run(args),
        Action::Kill9(args) => kill9::run(args),
        Action::Recovery(args) => recovery::run(args),
        Action::Soak(args) => soak::run(args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("torc-bench: {error}");
            ExitCode::from(if matches!(error, Error::Usage(_)) { 2 } else { 1 })
        }
    }
}
