//! Snapshots of one shard, as the runtime has them taken.
//!
//! The runtime begins one on every shard, writes the blocks that it is given, and ends or gives up the save of all of
//! them.

use super::Shard;
use crate::id::Millis;
use crate::log::Lsn;
use crate::snapshot::Block;
use crate::store::{SnapshotProgress, SnapshotRefused, SnapshotStart};

/// The moment that a snapshot is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotBase {
    /// The last change that is in it. Without a log: [`Lsn`] 0.
    pub base_lsn: Lsn,
    /// Generation and number of the first segment that has changes after it, or will have; None without a log.
    pub segment: Option<(u64, u64)>,
    /// Changes before it, and bytes that were logged of them, since the start of the process
    /// ([`crate::machine::Machine::publish_changes`]).
    pub changes: u64,
    pub log_bytes: u64,
}

impl Shard {
    /// Begins a snapshot of the shard as it is now, for the data directory `database` and the save `snapshot`. From here on
    /// turns take it, and the blocks that [`Shard::poll_snapshot_block`] gives are to be written. Err: try again in a later
    /// turn if it is [`SnapshotRefused::Unsettled`]; the turns see to it that this ends.
    pub fn begin_snapshot(
        &mut self,
        database: [u8; 16],
        snapshot: u64,
        now: Millis,
    ) -> Result<SnapshotBase, SnapshotRefused> {
        let changes = self.core.store.counters().changes;
        let journal = self.core.store.log().journal();
        let (base_lsn, last_txid) = (journal.last_lsn(), journal.last_txid());
        let base = SnapshotBase { base_lsn, segment: journal.position(), changes, log_bytes: journal.logged_bytes() };
        self.core.store.begin_snapshot(SnapshotStart {
            database,
            snapshot,
            shard: self.core.id.0,
            shards: self.core.shards as u16,
            base_lsn: base_lsn.0,
            last_txid,
            wall_ms: now.0,
            ..SnapshotStart::default()
        })?;
        Ok(base)
    }

    /// The next block to be written. Several may be under way, and be written in any order.
    pub fn poll_snapshot_block(&mut self) -> Option<Block> {
        self.core.store.poll_snapshot_block()
    }

    /// A block is written, or, of a snapshot that was aborted, is not going to be.
    pub fn handle_snapshot_block_written(&mut self, block: Block) {
        self.core.store.handle_snapshot_block_written(block);
    }

    /// How far the snapshot is that runs, or what became of the last one. FLUSHALL may abort it in any turn: then another
    /// is to be begun.
    pub fn snapshot_progress(&self) -> SnapshotProgress {
        self.core.store.snapshot_progress()
    }

    /// Gives the snapshot up, if one runs. Another can begin at once.
    pub fn abort_snapshot(&mut self) {
        self.core.store.abort_snapshot();
    }

    /// A save of all shards has ended, well or not: take a turn, in which clients that wait for it are answered.
    pub fn handle_save_ended(&mut self) {
        self.core.look_at_saves = true;
    }
}
