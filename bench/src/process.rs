//! What a server costs, read from /proc.
//!
//! CPU is the sum of the first field of `/proc/PID/task/*/schedstat`: nanoseconds on a CPU, counted by the
//! scheduler and not sampled. It includes the kernel's work done in the server's name (system calls, and
//! the soft interrupts which happen to run on top of it). It is brought up to date at a tick or a switch,
//! so a window is off by up to one tick (1 to 4 ms) at each end: use windows of seconds. A thread which
//! ended inside the window is missing from the sum. User and system time from `/proc/PID/stat` are in
//! ticks of 10 ms, and are given as shares only.

use crate::error::Error;
use std::fs;

#[derive(Clone, Copy, Debug, Default)]
pub struct Sample {
    pub cpu_ns: u64,
    /// Ready to run while something else had the core: the second field of schedstat.
    pub wait_ns: u64,
    pub user_ticks: u64,
    pub system_ticks: u64,
    pub rss_bytes: u64,
    /// The most it ever was.
    pub rss_peak_bytes: u64,
    pub switches_voluntary: u64,
    pub switches_involuntary: u64,
}

/// The sum over several processes.
pub fn sample(pids: &[u32]) -> Result<Sample, Error> {
    let mut sum = Sample::default();
    // Who is named twice costs once.
    let mut pids = pids.to_vec();
    pids.sort_unstable();
    pids.dedup();
    for pid in pids {
        let gone = |error: std::io::Error| Error::dead(format!("process {pid}"), error);
        for task in fs::read_dir(format!("/proc/{pid}/task")).map_err(gone)?.flatten() {
            // A thread may end between the listing and the reading.
            let schedstat = fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
            let mut fields = schedstat.split_whitespace();
            sum.cpu_ns += number(fields.next());
            sum.wait_ns += number(fields.next());
            let status = fs::read_to_string(task.path().join("status")).unwrap_or_default();
            sum.switches_voluntary += status_field(&status, "voluntary_ctxt_switches:");
            sum.switches_involuntary += status_field(&status, "nonvoluntary_ctxt_switches:");
        }
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).map_err(gone)?;
        let (user, system) = stat_ticks(&stat);
        sum.user_ticks += user;
        sum.system_ticks += system;
        let status = fs::read_to_string(format!("/proc/{pid}/status")).map_err(gone)?;
        sum.rss_bytes += status_field(&status, "VmRSS:") * 1024;
        sum.rss_peak_bytes += status_field(&status, "VmHWM:") * 1024;
    }
    Ok(sum)
}

/// Descriptors that the processes have open.
pub fn descriptors(pids: &[u32]) -> Result<u64, Error> {
    let count = |pid: &u32| {
        let listed = fs::read_dir(format!("/proc/{pid}/fd"));
        listed.map(|entries| entries.count() as u64).map_err(|error| Error::dead(format!("process {pid}"), error))
    };
    pids.iter().map(count).sum()
}

/// utime and stime, fields 14 and 15, counted after the command name, which may contain anything.
fn stat_ticks(stat: &str) -> (u64, u64) {
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let mut fields = after_name.split_whitespace().skip(11);
    (number(fields.next()), number(fields.next()))
}

fn status_field(status: &str, name: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    number(line.and_then(|rest| rest.split_whitespace().next()))
}

fn number(text: Option<&str>) -> u64 {
    text.and_then(|text| text.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_a_cost() {
        let before = sample(&[std::process::id()]).unwrap();
        let mut sum = 0u64;
        while sample(&[std::process::id()]).unwrap().cpu_ns < before.cpu_ns + 5_000_000 {
            sum = std::hint::black_box(sum.wrapping_mul(3) + 1);
        }
        assert!(before.rss_bytes > 100_000);
    }

    #[test]
    fn open_descriptors_are_counted() {
        // Other tests of this process open and close some meanwhile.
        let files: Vec<_> = (0..200).map(|_| fs::File::open("/dev/null").unwrap()).collect();
        let with = descriptors(&[std::process::id()]).unwrap();
        drop(files);
        assert!(with >= 200 && descriptors(&[std::process::id()]).unwrap() < with);
    }

    #[test]
    fn a_missing_process_is_an_error() {
        assert!(sample(&[u32::MAX]).is_err() && descriptors(&[u32::MAX]).is_err());
    }

    #[test]
    fn stat_is_read_past_an_odd_name() {
        let stat = "12 (a) b (c) S 1 1 1 0 -1 4194560 1 2 3 4 70 30 0 0 20";
        assert_eq!(stat_ticks(stat), (70, 30));
        assert_eq!(status_field("x:\t1\nnonvoluntary_ctxt_switches:\t9\n", "nonvoluntary_ctxt_switches:"), 9);
    }
}
