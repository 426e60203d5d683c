//! One tool, one load: run to its end, watched, and its claim checked.

use super::tools::{Amount, Claim, Kind, Load, Tool};
use crate::compare::servers::Process;
use crate::error::Error;
use crate::{process, system};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use std::{fs, io, mem};

/// Seldom, for the watching runs on the tool's core.
const LOOK: Duration = Duration::from_millis(100);
/// Above this share of a core a side may be what limits the throughput, as in `run`.
pub const BUSY: f64 = 0.90;

/// A run as the tool saw it, and as the scheduler did.
#[derive(Clone, Copy, Debug)]
pub struct Measured {
    pub claim: Claim,
    /// The tool's share of a core, between the first look and the last.
    pub busy: f64,
    /// The share of the time in which it wanted a core and had none.
    pub waiting: f64,
    pub server_busy: f64,
}

/// A file which does not stay.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Runs `tool`, and reads what it says.
pub fn run(tool: &Tool, load: &Load, server_pids: &[u32]) -> Result<Measured, Error> {
    let finished = run_to_end(tool, load, server_pids)?;
    let text = if tool.kind == Kind::Memtier { &finished.file } else { &finished.log };
    let claim = tool.kind.parse(text).map_err(|reason| failed(tool, format!("its result: {reason}"), text))?;
    Ok(Measured { claim, busy: finished.busy, waiting: finished.waiting, server_busy: finished.server_busy })
}

/// Only for its effect: no claim is read.
pub fn preload(tool: &Tool, load: &Load) -> Result<(), Error> {
    run_to_end(tool, &Load { amount: Amount::Preload, ..*load }, &[]).map(|_| ())
}

/// redis-benchmark knows a number of requests but no time: how many fill the time, from a short run.
pub fn amount_of(tool: &Tool, load: &Load) -> Result<Amount, Error> {
    match load.amount {
        Amount::Seconds(seconds) if tool.kind == Kind::RedisBenchmark => {
            let probe = Load { amount: Amount::Requests(20_000 * load.pipeline as u64), ..*load };
            let rate = run(tool, &probe, &[])?.claim.ops_per_second;
            let batch = (load.connections * load.pipeline) as u64;
            Ok(Amount::Requests(((rate * seconds as f64) as u64).next_multiple_of(batch).max(batch)))
        }
        amount => Ok(amount),
    }
}

struct Finished {
    log: String,
    file: String,
    busy: f64,
    waiting: f64,
    server_busy: f64,
}

fn run_to_end(tool: &Tool, load: &Load, server_pids: &[u32]) -> Result<Finished, Error> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let name = format!("torc-bench-cross-{}-{number}.json", std::process::id());
    let file = Scratch(std::env::temp_dir().join(name));
    let mut command = Command::new(&tool.program);
    command.args(tool.kind.arguments(load, &file.0));
    let limit = match load.amount {
        Amount::Seconds(seconds) | Amount::Rate { seconds, .. } => Duration::from_secs(seconds + 30),
        Amount::Requests(_) | Amount::Preload => Duration::from_secs(300),
    };
    let process = Process::start(command, vec![load.cpu], tool.kind.name())?;
    let watched = watch(&process, server_pids, limit)?;
    let log = read(&process.log);
    match watched.end {
        None => return Err(failed(tool, format!("did not end within {} s", limit.as_secs()), &log)),
        Some(0) => {}
        Some(status) => return Err(failed(tool, format!("ended with status {status}"), &log)),
    }
    // memtier only prints these, and goes on.
    if tool.kind == Kind::Memtier && (log.contains("error response") || log.contains("parsing failed")) {
        return Err(failed(tool, "got a wrong reply".to_string(), &log));
    }
    let (busy, waiting) = shares(&watched.looks, |look| look.tool);
    let (server_busy, _) = shares(&watched.looks, |look| look.server);
    Ok(Finished { log, file: read(&file.0), busy, waiting, server_busy })
}

fn read(path: &Path) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
}

fn failed(tool: &Tool, reason: String, log: &str) -> Error {
    let end: Vec<&str> = log.split(['\n', '\r']).filter(|line| !line.trim().is_empty()).collect();
    let end = end[end.len().saturating_sub(5)..].join("\n");
    Error::Io { operation: format!("{} {reason}", tool.kind.name()), source: io::Error::other(end) }
}

#[derive(Clone, Copy)]
struct Look {
    at: Instant,
    tool: process::Sample,
    server: process::Sample,
}

struct Watched {
    /// The exit status, or 128 and the signal; None if it did not end in time.
    end: Option<i32>,
    looks: Vec<Look>,
}

fn watch(process: &Process, server_pids: &[u32], limit: Duration) -> Result<Watched, Error> {
    let start = Instant::now();
    let mut looks: Vec<Look> = Vec::new();
    let pid = process.child.id();
    loop {
        system::sleep(LOOK)?;
        let end = status_of(pid)?;
        if end.is_some() || start.elapsed() > limit {
            return Ok(Watched { end, looks });
        }
        let tool = process::sample(&[pid])?;
        // A thread which ended takes its time along: such a sum is of no use.
        if looks.last().is_none_or(|last| tool.cpu_ns >= last.tool.cpu_ns && tool.wait_ns >= last.tool.wait_ns) {
            looks.push(Look { at: Instant::now(), tool, server: process::sample(server_pids)? });
        }
    }
}

/// Whether it has ended, without reaping it: `Process` ends it by its id, which is its own only so long.
fn status_of(pid: u32) -> Result<Option<i32>, Error> {
    // SAFETY: the call fills the siginfo it is given, and zero is a valid one; the fields which are read
    // are those of a SIGCHLD, which is what waitid reports.
    unsafe {
        let mut info: libc::siginfo_t = mem::zeroed();
        let flags = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
        if libc::waitid(libc::P_PID, pid, &mut info, flags) != 0 {
            return Err(Error::io("wait for a tool")(io::Error::last_os_error()));
        }
        Ok(match (info.si_pid(), info.si_code) {
            (0, _) => None,
            (_, libc::CLD_EXITED) => Some(info.si_status()),
            _ => Some(128 + info.si_status()),
        })
    }
}

/// Running and kept from running, as shares of the time between the first look and the last.
fn shares(looks: &[Look], side: impl Fn(&Look) -> process::Sample) -> (f64, f64) {
    let (Some(first), Some(last)) = (looks.first(), looks.last()) else { return (f64::NAN, f64::NAN) };
    let wall_ns = (last.at - first.at).as_nanos() as f64;
    let (first, last) = (side(first), side(last));
    let share = |from: u64, to: u64| to.saturating_sub(from) as f64 / wall_ns;
    (share(first.cpu_ns, last.cpu_ns), share(first.wait_ns, last.wait_ns))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(at: Instant, cpu_ms: u64, wait_ms: u64) -> Look {
        let tool = process::Sample { cpu_ns: cpu_ms * 1_000_000, wait_ns: wait_ms * 1_000_000, ..Default::default() };
        Look { at, tool, server: process::Sample::default() }
    }

    #[test]
    fn shares_are_of_the_watched_time() {
        let start = Instant::now();
        let looks = [look(start, 50, 5), look(start + Duration::from_millis(500), 1_000, 5)];
        assert!(shares(&looks[..1], |look| look.tool).0.is_nan());
        let later = Look { at: start + Duration::from_secs(1), ..look(start, 800, 105) };
        let (busy, waiting) = shares(&[looks[0], looks[1], later], |look| look.tool);
        assert!((busy - 0.75).abs() < 1e-9 && (waiting - 0.1).abs() < 1e-9, "{busy} {waiting}");
    }

    #[test]
    fn a_child_is_seen_to_end_and_not_reaped() {
        for (program, expected) in [("exit 3", 3), ("kill -9 $$", 128 + 9)] {
            let mut child = Command::new("sh").args(["-c", program]).spawn().unwrap();
            let end = loop {
                if let Some(end) = status_of(child.id()).unwrap() {
                    break end;
                }
                std::thread::sleep(Duration::from_millis(5));
            };
            assert_eq!(end, expected);
            assert!(child.wait().is_ok(), "it was still there to be waited for");
        }
    }
}
