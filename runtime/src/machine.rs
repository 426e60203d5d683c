//! What a shard may ask of the machine: a stopwatch, the wall clock, and what INFO says about the process.

use std::fs;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use torc_engine::id::ShardId;
use torc_engine::machine::{LogStanding, Machine, MachineFacts, SaveFacts, SaveKind, SaveRefused};

use crate::limits::SLEEP_STEP;
use crate::progress::Progress;
use crate::saver::Ledger;
use crate::worker::Census;

/// What never changes while the process runs.
#[derive(Debug)]
pub struct Identity {
    pub started: Instant,
    pub executable: String,
    pub config_file: String,
    /// 40 hexadecimal digits, random.
    pub run_id: String,
}

/// What `INFO` calls the allocator that `main.rs` chooses.
const ALLOCATOR_NAME: &str = "mimalloc";

impl Identity {
    /// The identity of this process, which starts now.
    pub fn new(config_file: String, random: [u8; 20]) -> Identity {
        let executable = std::env::current_exe().map_or(String::new(), |path| path.to_string_lossy().into_owned());
        let run_id = random.iter().map(|byte| format!("{byte:02x}")).collect();
        Identity { started: Instant::now(), executable, config_file, run_id }
    }
}

/// The machine as one shard sees it.
#[derive(Clone)]
pub struct HostMachine {
    identity: Arc<Identity>,
    census: Arc<Census>,
    ledger: Arc<Ledger>,
    /// None if nothing is loaded at the start.
    progress: Option<Arc<Progress>>,
}

impl HostMachine {
    pub fn new(
        identity: Arc<Identity>,
        census: Arc<Census>,
        ledger: Arc<Ledger>,
        progress: Option<Arc<Progress>>,
    ) -> HostMachine {
        HostMachine { identity, census, ledger, progress }
    }
}

impl Machine for HostMachine {
    fn ticks(&mut self) -> u64 {
        self.identity.started.elapsed().as_nanos() as u64
    }

    fn wall_micros(&mut self) -> u64 {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as u64)
    }

    fn lease(&mut self, bytes: u64, ceiling: u64) -> u64 {
        self.census.lease(bytes, ceiling)
    }

    fn give_back(&mut self, bytes: u64) {
        self.census.give_back(bytes);
    }

    fn leased(&mut self) -> u64 {
        self.census.leased()
    }

    fn resident(&mut self) -> u64 {
        let statm = fs::read_to_string("/proc/self/statm").unwrap_or_default();
        resident_pages(&statm).unwrap_or(0) * rustix::param::page_size() as u64
    }

    fn hold_back(&mut self, bytes: u64) {
        self.census.hold_back(bytes);
    }

    fn held_back(&mut self) -> u64 {
        self.census.held_back()
    }

    fn publish_used(&mut self, shard: ShardId, bytes: u64) {
        self.census.publish_used(shard, bytes);
    }

    fn sleep(&mut self, time: Duration) {
        let end = Instant::now() + time;
        while let Some(left) = end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())
            && !self.census.is_stopping()
        {
            thread::sleep(left.min(SLEEP_STEP));
        }
    }

    fn begin_save(&mut self, kind: SaveKind) -> Result<u64, SaveRefused> {
        self.ledger.begin(kind)
    }

    fn schedule_save(&mut self, kind: SaveKind) {
        self.ledger.schedule(kind);
    }

    fn saves(&mut self) -> SaveFacts {
        self.ledger.facts()
    }

    fn publish_changes(&mut self, shard: ShardId, changes: u64, log_bytes: u64) {
        self.ledger.publish(shard, changes, log_bytes);
    }

    fn publish_log(&mut self, shard: ShardId, standing: LogStanding) {
        self.census.publish_log(shard, standing);
    }

    fn logs(&mut self, standings: &mut Vec<LogStanding>) {
        self.census.logs(standings);
    }

    fn facts(&mut self) -> MachineFacts {
        let uname = rustix::system::uname();
        let text = |name: &std::ffi::CStr| name.to_string_lossy().into_owned();
        let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
        let (user, system) = cpu_ticks(&stat).unwrap_or_default();
        let tick_us = 1_000_000 / rustix::param::clock_ticks_per_second().max(1);
        let statm = fs::read_to_string("/proc/self/statm").unwrap_or_default();
        let memory = rustix::system::sysinfo();
        MachineFacts {
            os: format!("{} {} {}", text(uname.sysname()), text(uname.release()), text(uname.machine())),
            process_id: std::process::id(),
            saves: self.saves(),
            executable: self.identity.executable.clone(),
            config_file: self.identity.config_file.clone(),
            run_id: self.identity.run_id.clone(),
            rss_bytes: resident_pages(&statm).unwrap_or(0) * rustix::param::page_size() as u64,
            used_peak_bytes: self.census.used_peak(),
            held_back_bytes: self.census.held_back(),
            system_memory_bytes: memory.totalram as u64 * memory.mem_unit.max(1) as u64,
            cpu_user_us: user * tick_us,
            cpu_system_us: system * tick_us,
            uptime_s: self.identity.started.elapsed().as_secs(),
            allocator: ALLOCATOR_NAME.to_owned(),
            clients: self.census.connections(),
            loading: self.progress.as_ref().and_then(|progress| progress.facts()),
        }
    }
}

/// User and system time from `/proc/self/stat`, fields 14 and 15. The second field, the name, may hold anything.
fn cpu_ticks(stat: &str) -> Option<(u64, u64)> {
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_ascii_whitespace().skip(11);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

/// The second field of `/proc/self/statm`.
fn resident_pages(statm: &str) -> Option<u64> {
    statm.split_ascii_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_files_are_read_by_field() {
        let stat = "4711 (a ) b) S 1 2 3 0 -1 4194560 10 0 0 0 123 45 0 0 20 0 3 0 99 1 2";
        assert_eq!(cpu_ticks(stat), Some((123, 45)));
        assert_eq!(cpu_ticks("nonsense"), None);
        assert_eq!(resident_pages("500 120 30 1 0 60 0"), Some(120));
        assert_eq!(resident_pages(""), None);
    }

    #[test]
    fn facts_are_filled_in() {
        let identity = Identity::new("/etc/torc.conf".into(), [0xab; 20]);
        let ledger = Arc::new(Ledger::new(2, std::sync::mpsc::channel().0));
        let mut machine = HostMachine::new(Arc::new(identity), Arc::new(Census::new(2)), ledger, None);
        let facts = machine.facts();
        assert!(facts.os.starts_with("Linux "), "{}", facts.os);
        assert_eq!(facts.run_id, "ab".repeat(20));
        assert_eq!(facts.clients, [0, 0]);
        assert!(facts.rss_bytes > 0 && facts.system_memory_bytes > facts.rss_bytes);
        let first = machine.ticks();
        assert!(machine.ticks() >= first);
    }
}
