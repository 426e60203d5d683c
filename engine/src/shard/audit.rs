//! Counts again what a shard counts as it goes, and shows what it holds, for whoever judges it: its tests, and the simulator.

use super::Shard;
use crate::limits;
use crate::store::{EntryRef, KeyspaceId, StoreCounters};

impl Shard {
    /// Panics unless all that is counted is what a walk over it finds, and what is bounded is within its bounds.
    pub fn audit(&self) {
        let id = self.core.id.0;
        self.core.store.audit();
        let buffers: u64 = self.sessions.iter().map(|(_, session)| session.accounted_bytes as u64).sum();
        assert_eq!(self.buffer_bytes, buffers, "bytes of the buffers of shard {id}");
        assert_eq!(self.held.bytes(), self.held.recount(), "bytes of held replies of shard {id}");
        for (_, session) in self.sessions.iter() {
            // A batch is parsed before its replies are looked at again.
            let most = limits::SESSION_OUTSTANDING_MAX + limits::BATCH_COMMANDS as u64;
            assert!(session.replies.outstanding() <= most, "replies that a session of shard {id} waits for");
        }
        let most = limits::WAITERS_MAX + limits::BATCH_COMMANDS * self.core.shards;
        assert!(self.waiters.len() <= most, "{} commands of shard {id} wait for slices", self.waiters.len());
        let most = (limits::CREDIT_REQUESTS as usize + limits::BATCH_COMMANDS) * self.core.shards.pow(2);
        assert!(self.links.outstanding() <= most, "{} requests of shard {id} are under way", self.links.outstanding());
    }

    /// Shows every entry of every keyspace, expired or not.
    pub fn for_each(&self, visit: impl FnMut(KeyspaceId, EntryRef<'_>)) {
        self.core.store.for_each(visit);
    }

    /// What happened to keys since the start.
    pub fn store_counters(&self) -> StoreCounters {
        self.core.store.counters()
    }

    /// Bytes of `maxmemory` that this shard has leased.
    pub fn leased_bytes(&self) -> u64 {
        self.core.budget.lease()
    }
}
