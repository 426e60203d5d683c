//! What the workers share: counters that are not on the data path, and the means to wake each other.

use std::io;
use std::os::fd::{OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use torc_engine::id::ShardId;
use torc_engine::machine::LogStanding;

use crate::mesh::CachePadded;

/// One shard's public figures. Written by the shard, except that an acceptor counts a connection it hands over.
#[derive(Default)]
struct Load {
    connections: AtomicU32,
    buffers_bytes: AtomicU64,
    used_bytes: AtomicU64,
    log: AtomicU8,
}

/// Figures every worker may look at. They are counts, not messages: nothing is ordered by them, hence Relaxed.
pub struct Census {
    loads: Vec<CachePadded<Load>>,
    /// Shards that are asked to stop and owe nobody anything.
    drained: AtomicUsize,
    /// The pool of `maxmemory`: bytes leased to the shards. On a line of its own, because shards that fill write to it.
    leased: CachePadded<AtomicU64>,
    /// By how much less than `maxmemory` the pool may lease.
    held_back: AtomicU64,
    /// The most that all shards together used.
    used_peak: AtomicU64,
    stopping: AtomicBool,
    /// Shards whose log is not well.
    logs_unwell: AtomicUsize,
    /// A shard has ended without all of its log on the disk.
    lost: AtomicBool,
}

impl Census {
    pub fn new(shards: usize) -> Census {
        Census {
            loads: (0..shards).map(|_| CachePadded::default()).collect(),
            drained: AtomicUsize::new(0),
            leased: CachePadded::default(),
            held_back: AtomicU64::new(0),
            used_peak: AtomicU64::new(0),
            stopping: AtomicBool::new(false),
            logs_unwell: AtomicUsize::new(0),
            lost: AtomicBool::new(false),
        }
    }

    /// Counts a connection to the shard with the fewest, `own` if that is one of them, and says which it is and how many
    /// the process has.
    pub fn admit(&self, own: ShardId) -> ShardId {
        let count = |shard: usize| self.loads[shard].0.connections.load(Ordering::Relaxed);
        let mut least = own.index();
        for shard in 0..self.loads.len() {
            if count(shard) < count(least) {
                least = shard;
            }
        }
        let least = ShardId(least as u16);
        self.count(least);
        least
    }

    /// Counts a connection to `shard`.
    pub fn count(&self, shard: ShardId) {
        self.loads[shard.index()].0.connections.fetch_add(1, Ordering::Relaxed);
    }

    /// A connection of `shard` is gone.
    pub fn dismiss(&self, shard: ShardId) {
        self.loads[shard.index()].0.connections.fetch_sub(1, Ordering::Relaxed);
    }

    /// Connections of each shard.
    pub fn connections(&self) -> Vec<u32> {
        self.loads.iter().map(|load| load.0.connections.load(Ordering::Relaxed)).collect()
    }

    /// Connections of the process.
    pub fn connections_total(&self) -> usize {
        self.loads.iter().map(|load| load.0.connections.load(Ordering::Relaxed) as usize).sum()
    }

    /// Publishes the bytes of a shard's client buffers.
    pub fn publish_buffers(&self, shard: ShardId, bytes: u64) {
        self.loads[shard.index()].0.buffers_bytes.store(bytes, Ordering::Relaxed);
    }

    /// Bytes of the client buffers of all shards but `own`.
    pub fn buffers_others(&self, own: ShardId) -> u64 {
        let others = self.loads.iter().enumerate().filter(|(shard, _)| *shard != own.index());
        others.map(|(_, load)| load.0.buffers_bytes.load(Ordering::Relaxed)).sum()
    }

    /// Leases up to `bytes` of the process's memory, as many as keep all leases at `ceiling` bytes at most; says how many.
    pub fn lease(&self, bytes: u64, ceiling: u64) -> u64 {
        let granted = |leased: u64| bytes.min(ceiling.saturating_sub(leased));
        let grant = |leased| (granted(leased) > 0).then(|| leased + granted(leased));
        self.leased.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, grant).map_or(0, granted)
    }

    /// Takes leased bytes back.
    pub fn give_back(&self, bytes: u64) {
        let before = self.leased.0.fetch_sub(bytes, Ordering::Relaxed);
        debug_assert!(before >= bytes, "what is given back was leased");
    }

    /// Bytes leased to all shards.
    pub fn leased(&self) -> u64 {
        self.leased.0.load(Ordering::Relaxed)
    }

    /// Notes by how much less than `maxmemory` the pool may lease.
    pub fn hold_back(&self, bytes: u64) {
        self.held_back.store(bytes, Ordering::Relaxed);
    }

    pub fn held_back(&self) -> u64 {
        self.held_back.load(Ordering::Relaxed)
    }

    /// Publishes the bytes of `maxmemory` that a shard uses.
    pub fn publish_used(&self, shard: ShardId, bytes: u64) {
        self.loads[shard.index()].0.used_bytes.store(bytes, Ordering::Relaxed);
        let sum = self.loads.iter().map(|load| load.0.used_bytes.load(Ordering::Relaxed)).sum();
        self.used_peak.fetch_max(sum, Ordering::Relaxed);
    }

    /// The most that all shards together ever published as used.
    pub fn used_peak(&self) -> u64 {
        self.used_peak.load(Ordering::Relaxed)
    }

    /// Notes how a shard's log stands; by that shard.
    pub fn publish_log(&self, shard: ShardId, standing: LogStanding) {
        let before = self.loads[shard.index()].0.log.swap(standing as u8, Ordering::Relaxed);
        match (before == LogStanding::Well as u8, standing == LogStanding::Well) {
            (true, false) => drop(self.logs_unwell.fetch_add(1, Ordering::Relaxed)),
            (false, true) => drop(self.logs_unwell.fetch_sub(1, Ordering::Relaxed)),
            _ => {}
        }
    }

    /// How all logs stand, in the order of shards; nothing if all are well.
    pub fn logs(&self, standings: &mut Vec<LogStanding>) {
        standings.clear();
        if self.logs_unwell.load(Ordering::Relaxed) > 0 {
            let all = [LogStanding::Well, LogStanding::Behind, LogStanding::Closed];
            standings.extend(self.loads.iter().map(|load| all[load.0.log.load(Ordering::Relaxed) as usize]));
        }
    }

    /// A shard ends, and not all of its log is on the disk.
    pub fn report_loss(&self) {
        self.lost.store(true, Ordering::Relaxed);
    }

    pub fn has_lost(&self) -> bool {
        self.lost.load(Ordering::Relaxed)
    }

    /// The process is to stop.
    pub fn announce_stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    /// A shard owes nobody anything any more.
    pub fn report_drained(&self) {
        self.drained.fetch_add(1, Ordering::AcqRel);
    }

    pub fn all_drained(&self) -> bool {
        self.drained.load(Ordering::Acquire) == self.loads.len()
    }
}

/// By what a parked shard is woken: a message to its ring, or its event descriptor, which every ring polls.
pub struct Bell {
    pub ring: RawFd,
    pub event: OwnedFd,
}

impl Bell {
    /// Wakes the shard by its event descriptor, from any thread. Never waits: a counter that is full has been rung.
    pub fn notify(&self) {
        let _ = rustix::io::write(&self.event, &1u64.to_ne_bytes());
    }

    /// Takes what was written to the event descriptor.
    pub fn silence(&self) {
        let _ = rustix::io::read(&self.event, &mut [0u8; 8]);
    }
}

/// An event descriptor for a bell.
pub fn event_descriptor() -> io::Result<OwnedFd> {
    use rustix::event::{EventfdFlags, eventfd};
    Ok(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_go_to_the_least_loaded_shard() {
        let census = Census::new(3);
        // All arrive at shard 1, as the kernel's hash may have it.
        let mut counts = [0; 3];
        for _ in 0..25 {
            counts[census.admit(ShardId(1)).index()] += 1;
        }
        assert_eq!(counts, [8, 9, 8], "a tie goes to the acceptor");
        census.dismiss(ShardId(2));
        census.dismiss(ShardId(2));
        assert_eq!(census.admit(ShardId(0)), ShardId(2));
        assert_eq!(census.connections(), [8, 9, 7]);
        assert_eq!(census.connections_total(), 24);
    }

    #[test]
    fn leases_stay_below_the_ceiling_however_many_ask() {
        let census = Census::new(4);
        let got: u64 = std::thread::scope(|scope| {
            let ask = || (0..1000).map(|_| census.lease(7, 10_000)).sum::<u64>();
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(ask)).collect();
            threads.into_iter().map(|thread| thread.join().expect("it does not panic")).sum()
        });
        assert_eq!((got, census.leased()), (10_000, 10_000), "the last one got what was left");
        assert_eq!((census.lease(1, 10_000), census.lease(50, 10_020)), (0, 20));
        census.give_back(10_020);
        assert_eq!((census.leased(), census.lease(5, 10_000)), (0, 5));
    }

    #[test]
    fn the_peak_is_of_all_shards_together() {
        let census = Census::new(2);
        census.publish_used(ShardId(0), 10);
        census.publish_used(ShardId(1), 5);
        census.publish_used(ShardId(0), 1);
        census.publish_used(ShardId(1), 12);
        assert_eq!(census.used_peak(), 15);
    }

    #[test]
    fn buffers_of_the_others_leave_out_ones_own() {
        let census = Census::new(3);
        for shard in 0..3 {
            census.publish_buffers(ShardId(shard), 10 << shard);
        }
        assert_eq!(census.buffers_others(ShardId(0)), 60);
        assert_eq!(census.buffers_others(ShardId(2)), 30);
    }
}
