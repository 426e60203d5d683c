//! The ids and units that travel through the engine. An id is not an index, a count or a size.

/// A shard, numbered from 0: one pinned thread with its keys, sockets and queues.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShardId(pub u16);

impl ShardId {
    /// The shard's place in a table of all shards.
    #[inline]
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// Milliseconds since the Unix epoch, read by the runtime once per turn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Millis(pub u64);

/// One client's conversation on one shard: a place in the table of sessions, and a generation that tells a session from
/// the one that used the place before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SessionId {
    pub slot: u32,
    pub generation: u32,
}
