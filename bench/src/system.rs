//! What the tool asks of the machine: pinning, limits, clocks, signals, and a description of itself.

use crate::error::Error;
use serde_json::{Value, json};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use std::{fs, io, mem};

/// Pins the calling thread, and what it starts later. Async-signal-safe, for use between fork and exec.
pub fn pin_thread(cpus: &[usize]) -> io::Result<()> {
    if cpus.is_empty() {
        return Ok(());
    }
    // SAFETY: an all-zero cpu_set_t is the empty set; CPU_SET and the call stay within its size.
    unsafe {
        let mut set: libc::cpu_set_t = mem::zeroed();
        for &cpu in cpus.iter().filter(|&&cpu| cpu < libc::CPU_SETSIZE as usize) {
            libc::CPU_SET(cpu, &mut set);
        }
        match libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set) {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

/// Raises the limit on open files to what is allowed and reports it.
pub fn raise_open_files() -> u64 {
    // SAFETY: both calls get a pointer to a whole rlimit.
    unsafe {
        let mut limit: libc::rlimit = mem::zeroed();
        libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit);
        limit.rlim_cur = limit.rlim_max;
        libc::setrlimit(libc::RLIMIT_NOFILE, &limit);
        libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit);
        limit.rlim_cur
    }
}

/// CPU time of the calling thread.
pub fn thread_cpu_ns() -> u64 {
    // SAFETY: the call fills the timespec it is given.
    let time = unsafe {
        let mut time: libc::timespec = mem::zeroed();
        libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time);
        time
    };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// How long the calling thread was ready to run and something else had its core: the second field of schedstat.
pub fn thread_wait_ns() -> u64 {
    let schedstat = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    schedstat.split_whitespace().nth(1).and_then(|field| field.parse().ok()).unwrap_or(0)
}

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

extern "C" fn on_signal(_: libc::c_int) {
    INTERRUPTED.store(true, Ordering::Relaxed);
}

/// From now on Ctrl-C and SIGTERM are noticed by `check_interrupt` instead of ending the process, so
/// that the servers it started are ended first.
pub fn catch_signals() {
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        // SAFETY: the handler only stores to an atomic.
        unsafe { libc::signal(signal, on_signal as *const () as libc::sighandler_t) };
    }
}

pub fn check_interrupt() -> Result<(), Error> {
    if INTERRUPTED.load(Ordering::Relaxed) { Err(Error::Interrupted) } else { Ok(()) }
}

pub fn sleep(duration: Duration) -> Result<(), Error> {
    let end = std::time::Instant::now() + duration;
    loop {
        check_interrupt()?;
        let rest = end.saturating_duration_since(std::time::Instant::now());
        if rest.is_zero() {
            return Ok(());
        }
        std::thread::sleep(rest.min(Duration::from_millis(50)));
    }
}

/// The table every recorded figure carries.
pub fn describe_machine() -> Value {
    let field = |path: &str, name: &str| {
        let text = fs::read_to_string(path).unwrap_or_default();
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        line.split_once(':').map_or(String::new(), |(_, value)| value.trim().to_string())
    };
    let memory_kib: u64 =
        field("/proc/meminfo", "MemTotal").split(' ').next().and_then(|kib| kib.parse().ok()).unwrap_or(0);
    let hypervisor = field("/proc/cpuinfo", "flags").split(' ').any(|flag| flag == "hypervisor");
    json!({
        "cpu": field("/proc/cpuinfo", "model name"),
        "cores": std::thread::available_parallelism().map_or(0, usize::from),
        "virtual_machine": hypervisor,
        "memory_gib": (memory_kib as f64 / 1048576.0 * 10.0).round() / 10.0,
        "kernel": fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim(),
        "load_average": fs::read_to_string("/proc/loadavg").unwrap_or_default().trim(),
        "date": date_utc(SystemTime::now()),
    })
}

/// The machine in a line of text.
pub fn machine_line(machine: &Value) -> String {
    let text = |name: &str| machine[name].as_str().unwrap_or_default().to_string();
    let kind = if machine["virtual_machine"] == true { ", virtual machine" } else { "" };
    format!(
        "{}, {} cores{kind}, {} GiB, Linux {}; load average before: {}",
        text("cpu"),
        machine["cores"],
        machine["memory_gib"],
        text("kernel"),
        text("load_average")
    )
}

/// This program's command line, as a shell would need it.
pub fn command_line() -> String {
    std::env::args().map(quote).collect::<Vec<_>>().join(" ")
}

fn quote(argument: String) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,".contains(c);
    if !argument.is_empty() && argument.chars().all(plain) {
        return argument;
    }
    format!("\"{}\"", argument.replace('\\', "\\\\").replace('"', "\\\"").replace('$', "\\$"))
}

/// `2025-11-20T18:15:00Z`. Days to civil date after H. Hinnant, "chrono-Compatible Low-Level Date Algorithms".
fn date_utc(time: SystemTime) -> String {
    let seconds = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let days = (seconds / 86_400) as i64 + 719_468;
    let era = days / 146_097;
    let day_of_era = days % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (hour, minute, second) = (seconds / 3_600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_can_be_pasted() {
        assert_eq!(quote("--server".into()), "--server");
        assert_eq!(quote("r=redis --save ''".into()), "\"r=redis --save ''\"");
    }

    #[test]
    fn dates_are_civil() {
        for (seconds, expected) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_827_696, "2000-02-29T12:34:56Z"),
            (1_767_225_599, "2025-12-31T23:59:59Z"),
        ] {
            assert_eq!(date_utc(UNIX_EPOCH + Duration::from_secs(seconds)), expected);
        }
    }
}
