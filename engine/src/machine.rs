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
}
