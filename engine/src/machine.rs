//! What a shard may ask of the machine while it executes. The runtime answers from the kernel, the simulator from its
//! seed; the engine itself reads no clock, file or environment.

use std::time::Duration;

use crate::id::ShardId;

/// The machine as a shard sees it.
pub trait Machine {
    /// Monotonic nanoseconds: a stopwatch for sampled command durations. Virtual in the simulator.
    fn ticks(&mut self) -> u64;
    /// Microseconds since the Unix epoch, for `TIME`.
    fn wall_micros(&mut self) -> u64;
    /// Leases up to `bytes` of the process's memory to the shard, as many as keep all leases together at `ceiling` bytes
    /// at most. Returns how many; never waits.
    fn lease(&mut self, bytes: u64, ceiling: u64) -> u64;
    /// Takes back leased bytes.
    fn give_back(&mut self, bytes: u64);
    /// Bytes leased to all shards together.
    fn leased(&mut self) -> u64;
    /// Bytes that the process has of the system's memory; 0 if that is not known. Asked at ticks.
    fn resident(&mut self) -> u64;
    /// Notes by how much less than `maxmemory` all leases together may come to.
    fn hold_back(&mut self, bytes: u64);
    /// What was noted last, by whichever shard.
    fn held_back(&mut self) -> u64;
    /// Notes how much of the process's memory a shard uses, for the peak of all of them together.
    fn publish_used(&mut self, shard: ShardId, bytes: u64);
    /// What `INFO` says about the process and its host. May read files: called for `INFO` only.
    fn facts(&mut self) -> MachineFacts;
    /// Holds the shard up for so long, for DEBUG SLEEP: less if the process is to stop.
    fn sleep(&mut self, time: Duration);
    /// Begins to save all shards. [`Machine::saves`] says so before this returns; the runtime does it. Gives the save's
    /// number, from 1 on.
    fn begin_save(&mut self, kind: SaveKind) -> Result<u64, SaveRefused>;
    /// Has a save begun as soon as the one that runs has ended.
    fn schedule_save(&mut self, kind: SaveKind);
    /// What is known of saves. Cheap: asked at ticks, and by commands.
    fn saves(&mut self) -> SaveFacts;
    /// Notes how many changes the shard has seen, and how many bytes it has given to its log, since the start of the
    /// process. At ticks.
    fn publish_changes(&mut self, shard: ShardId, changes: u64, log_bytes: u64);
    /// Notes how a shard's log stands.
    fn publish_log(&mut self, shard: ShardId, standing: LogStanding);
    /// How the logs of all shards stand, in their order; nothing if all are well. Asked in each turn.
    fn logs(&mut self, standings: &mut Vec<LogStanding>);
}

/// How a shard's log stands, as far as other shards have to know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogStanding {
    #[default]
    Well,
    /// Who writes there waits.
    Behind,
    /// Whoever writes there is refused.
    Closed,
}

/// Why all shards are saved. What is done is the same: a snapshot, and then the log before it is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SaveKind {
    /// SAVE, BGSAVE, a save point, or the end of the process.
    Snapshot,
    /// BGREWRITEAOF, or a log that has become long.
    Rewrite,
}

/// Why no save begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SaveRefused {
    /// One is under way.
    Running(SaveKind),
    /// What the data directory has is still being loaded.
    Unavailable,
}

/// What is known of saves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SaveFacts {
    /// There can be saves: what the data directory has is loaded, or there is nothing to be loaded.
    pub is_available: bool,
    /// The one under way, and when it began, Unix seconds.
    pub running: Option<(SaveKind, u64)>,
    pub scheduled: Option<SaveKind>,
    /// The number of the last that ended, well or not; 0: none has.
    pub ended: u64,
    /// The number of the last that failed; 0: none has.
    pub failed: u64,
    /// Good ones since the start, and those of them that were rewrites of the log.
    pub saves: u64,
    pub rewrites: u64,
    /// When the last good one ended, or the process started, Unix seconds.
    pub last_save_s: u64,
    /// Whether the last one that ended was good, of either kind; true before any.
    pub last_save_ok: bool,
    pub last_rewrite_ok: bool,
    /// How long the last one that ended took, of either kind, seconds.
    pub last_save_took_s: Option<u64>,
    pub last_rewrite_took_s: Option<u64>,
    /// When one was begun last, Unix seconds; 0: none was.
    pub last_attempt_s: u64,
    pub failures_in_a_row: u32,
    /// Of all shards, since the last good one.
    pub changes: u64,
    pub log_bytes: u64,
    /// Size of the last good one, of all shards.
    pub snapshot_bytes: u64,
}

impl Default for SaveFacts {
    /// Nothing can be saved, and nothing was.
    fn default() -> SaveFacts {
        SaveFacts {
            is_available: false,
            running: None,
            scheduled: None,
            ended: 0,
            failed: 0,
            saves: 0,
            rewrites: 0,
            last_save_s: 0,
            last_save_ok: true,
            last_rewrite_ok: true,
            last_save_took_s: None,
            last_rewrite_took_s: None,
            last_attempt_s: 0,
            failures_in_a_row: 0,
            changes: 0,
            log_bytes: 0,
            snapshot_bytes: 0,
        }
    }
}

/// Facts about the process for `INFO`.
#[derive(Clone, Debug, Default)]
pub struct MachineFacts {
    /// Operating system, release and architecture, as `uname` has them.
    pub os: String,
    pub process_id: u32,
    pub executable: String,
    pub config_file: String,
    /// Random 40-digit hexadecimal id of this run.
    pub run_id: String,
    /// Resident set size, bytes.
    pub rss_bytes: u64,
    /// The most that all shards together ever published as used, bytes.
    pub used_peak_bytes: u64,
    /// What of `maxmemory` is held back because the process is too large, bytes.
    pub held_back_bytes: u64,
    /// Memory of the host, bytes.
    pub system_memory_bytes: u64,
    /// CPU time of the whole process, microseconds.
    pub cpu_user_us: u64,
    pub cpu_system_us: u64,
    /// Uptime of the process, seconds.
    pub uptime_s: u64,
    /// The memory allocator, with its version.
    pub allocator: String,
    /// Clients connected to each shard, in shard order.
    pub clients: Vec<u32>,
    pub saves: SaveFacts,
    /// How far loading is; None when it is over.
    pub loading: Option<LoadingFacts>,
}

/// How much of what is on the disk is loaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LoadingFacts {
    /// When it was begun, seconds since the Unix epoch.
    pub started_s: u64,
    /// Bytes of the files, and how many of them are read.
    pub total_bytes: u64,
    pub loaded_bytes: u64,
    /// How long the rest will take, if it goes on like this.
    pub eta_s: u64,
}
