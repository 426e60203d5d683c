//! The snapshot's side of the store: which entries are saved, and when, so that the file has exactly the state at one
//! moment, B, although the store changes all the while it is written.
//!
//! An entry that was there at B is saved once, as it was at B: either when the walk over its arena comes to it, or before
//! that because it is about to change, to go or to be moved. Each entry has a mark of one byte, its epoch. While a snapshot
//! runs, an entry is *settled*, which is to say saved or newer than B, if and only if its mark is the current epoch:
//!
//! - At B the current epoch becomes one that no entry has: nothing is settled.
//! - What takes a slot of the arena gets the current epoch at once: new entries, and those that are made anew because they
//!   no longer fit. The entry that they are made from was there until then, so it was saved if it had to be.
//! - Saving an entry settles it. Whatever changes, removes or moves an entry that is not settled saves it first.
//!
//! So an entry that is not settled is as it was at B and where it was at B. Its page cannot have been given back meanwhile,
//! so the walk, which goes through the pages of B from the lowest address up, comes to it. When the walk is through,
//! nothing is left that is not settled: the file is complete, and all entries have the current epoch.
//!
//! Not so after a snapshot that was aborted: entries have its epoch or older ones. The epochs that entries may have are at
//! any time those from `oldest`, the one of the last complete walk, up to `current`, going round through 255; that is all
//! that is known, and enough, because the next snapshot takes `current + 1`. Only when that would be `oldest`, after 255
//! snapshots in a row were aborted, a walk must come first that saves nothing and gives all entries the current epoch,
//! under the same rules; until it is through no snapshot can begin.
//!
//! (Comparing an entry's address with the position of the walk instead of marks would do only as long as nothing takes a
//! free slot ahead of the walk.)

use bytes::Bytes;

use super::entry::Entry;
use super::garbage::{Garbage, is_big};
use super::table::Place;
use super::{Keyspace, KeyspaceId, Store};
use crate::planted::{Bug, is_planted};
use crate::snapshot::{Block, Header, KeyspaceHeader, Totals, Writer};

/// What a snapshot begins with that the store does not know: see [`Header`].
#[derive(Clone, Copy, Debug, Default)]
pub struct SnapshotStart {
    pub database: [u8; 16],
    pub snapshot: u64,
    pub shard: u16,
    pub shards: u16,
    pub base_lsn: u64,
    pub last_txid: u64,
    pub last_version: u64,
    pub wall_ms: u64,
}

/// Why no snapshot can begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SnapshotRefused {
    /// One is running.
    Running,
    /// So many were aborted that entries have to be marked first: [`Store::snapshot_slice`] does it, until it says
    /// something else than [`SnapshotProgress::Settling`].
    Unsettled,
}

/// How far the snapshot is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SnapshotProgress {
    /// There was none since the start.
    #[default]
    None,
    /// None is running. Entries are being marked, so that one can begin.
    Settling,
    /// Entries are being saved: so far, and all.
    Saving { entries: u64, of: u64 },
    /// All are saved, and blocks wait to be written.
    Writing,
    /// Every block is written.
    Finished(Totals),
    /// The last one was given up: what is written of it is of no use.
    Aborted,
}

/// Counts of snapshots since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SnapshotCounters {
    pub begun: u64,
    pub finished: u64,
    pub aborted: u64,
}

/// The snapshot that is being taken, if any, and what is known of the marks.
#[derive(Default)]
pub(super) struct Snapshot {
    current: u8,
    oldest: u8,
    walking: bool,
    /// Keyspaces that the walk has not been through.
    left: Vec<KeyspaceId>,
    /// None while nothing is saved.
    writer: Option<Box<Writer>>,
    last: SnapshotProgress,
    counters: SnapshotCounters,
}

impl Snapshot {
    /// Whether entries have to be settled before they change.
    #[inline(always)]
    pub fn is_walking(&self) -> bool {
        self.walking
    }

    /// The mark of new entries.
    pub fn epoch(&self) -> u8 {
        self.current
    }

    #[cfg(test)]
    pub fn epochs(&self) -> (u8, u8) {
        (self.current, self.oldest)
    }

    pub fn is_full(&self) -> bool {
        self.writer.as_ref().is_some_and(|writer| writer.is_full())
    }

    /// Saves an entry, unless it is settled, and settles it.
    #[inline(never)]
    pub fn settle(&mut self, keyspace: KeyspaceId, entry: &mut Entry) {
        if entry.as_ref().epoch() == self.current {
            return;
        }
        // While entries are only being marked there is no writer.
        if let Some(writer) = &mut self.writer {
            writer.save(keyspace, entry.as_ref(), true);
        }
        entry.set_epoch(self.current);
    }

    /// A keyspace of so many entries is flushed. Those not saved would be lost: the snapshot is given up.
    pub fn handle_flush(&mut self, keyspace: KeyspaceId, entries: usize, garbage: &mut Garbage) {
        if self.walking && entries > 0 && !is_planted(Bug::FlushKeepsSnapshot) && self.left.contains(&keyspace) {
            self.abort(garbage);
        }
    }

    fn abort(&mut self, garbage: &mut Garbage) {
        let Some(writer) = self.writer.take() else { return };
        (self.walking, self.last) = (false, SnapshotProgress::Aborted);
        self.counters.aborted += 1;
        writer.into_values().for_each(|value| discard(garbage, value));
    }

    /// Begins a walk for the epoch that is the current one.
    fn begin_walk(&mut self, keyspaces: &mut [Keyspace]) {
        self.walking = true;
        self.left.clear();
        for keyspace in keyspaces {
            keyspace.arena.set_epoch(self.current);
            if keyspace.table.len() > 0 {
                keyspace.arena.begin_walk();
                self.left.push(keyspace.id);
            }
        }
    }
}

/// Drops a value that was cut up, elsewhere if it is big and nobody else has it.
fn discard(garbage: &mut Garbage, value: Bytes) {
    if is_big(value.len()) && value.is_unique() {
        garbage.discard(&value);
    }
}

impl Keyspace {
    /// To be called before the entry at a place changes or goes.
    #[inline(always)]
    pub(super) fn save_before_change(&mut self, place: Place, snapshot: &mut Snapshot) {
        if snapshot.is_walking() && !is_planted(Bug::PreImageSkipped) {
            let id = self.id;
            self.table.change(place, |entry| (snapshot.settle(id, entry), None));
        }
    }
}

impl Store {
    /// Begins a snapshot of the state as it is now. From here on [`Store::snapshot_slice`] is to be called until it is
    /// finished, and the blocks that [`Store::poll_snapshot_block`] gives are to be written.
    pub fn begin_snapshot(&mut self, start: SnapshotStart) -> Result<(), SnapshotRefused> {
        let snapshot = &mut self.observers.snapshot;
        if snapshot.writer.is_some() {
            return Err(SnapshotRefused::Running);
        }
        if snapshot.current.wrapping_add(1) == snapshot.oldest {
            if !snapshot.walking {
                snapshot.last = SnapshotProgress::Settling;
                snapshot.begin_walk(&mut self.keyspaces);
            }
            return Err(SnapshotRefused::Unsettled);
        }
        let SnapshotStart { database, snapshot: number, shard, shards, .. } = start;
        let SnapshotStart { base_lsn, last_txid, last_version, wall_ms, .. } = start;
        let header = Header {
            database,
            snapshot: number,
            shard,
            shards,
            base_lsn,
            last_txid,
            last_version,
            wall_ms,
            layout: self.layout_number,
            next_keyspace: self.next_id,
            keyspaces: self
                .keyspaces
                .iter()
                .map(|keyspace| KeyspaceHeader { id: keyspace.id, entries: keyspace.table.len() as u64 })
                .collect(),
        };
        snapshot.writer = Some(Box::new(Writer::new(&header)));
        snapshot.counters.begun += 1;
        snapshot.current = snapshot.current.wrapping_add(1);
        snapshot.begin_walk(&mut self.keyspaces);
        Ok(())
    }

    /// Saves a slice of the entries, unless enough blocks wait to be written. `budget` is in bytes that could be copied in
    /// the time ([`limits::SNAPSHOT_SLICE_BYTES`](crate::limits::SNAPSHOT_SLICE_BYTES) takes 20 to 50 µs).
    pub fn snapshot_slice(&mut self, budget: usize) -> SnapshotProgress {
        let mut budget = budget;
        let (snapshot, garbage) = (&mut self.observers.snapshot, &mut self.observers.garbage);
        if let Some(writer) = &mut snapshot.writer {
            writer.cut(&mut budget, |value| discard(garbage, value));
        }
        while snapshot.walking && budget > 0 {
            let Some(&id) = snapshot.left.last() else {
                snapshot.walking = false;
                snapshot.oldest = snapshot.current;
                if snapshot.writer.is_none() {
                    snapshot.last = SnapshotProgress::None;
                }
                break;
            };
            // One that was flushed has nothing to be saved, or the snapshot would have been given up.
            let keyspace = self.keyspaces.iter_mut().find(|keyspace| keyspace.id == id);
            let more = keyspace.is_some_and(|keyspace| match &mut snapshot.writer {
                None => Entry::walk(&mut keyspace.arena, &mut budget, |_| super::SETTLE_COST_BYTES),
                Some(writer) if writer.has_long() || !writer.wants_more() => {
                    budget = 0;
                    true
                }
                Some(writer) => Entry::walk(&mut keyspace.arena, &mut budget, |entry| {
                    let cost = writer.save(id, entry, false);
                    // A long one is cut up before others are met.
                    if writer.has_long() || !writer.wants_more() { usize::MAX } else { cost }
                }),
            });
            if !more {
                snapshot.left.pop();
            }
        }
        if let Some(writer) = &mut snapshot.writer
            && !snapshot.walking
        {
            writer.end();
        }
        self.snapshot_progress()
    }

    /// How far the snapshot is that runs, or what became of the last one.
    pub fn snapshot_progress(&self) -> SnapshotProgress {
        let snapshot = &self.observers.snapshot;
        match &snapshot.writer {
            None => snapshot.last,
            Some(writer) if snapshot.walking || writer.has_long() => {
                SnapshotProgress::Saving { entries: writer.totals().entries, of: writer.expected_entries() }
            }
            Some(_) => SnapshotProgress::Writing,
        }
    }

    /// The next block of the snapshot that is to be written. Several may be under way, and be written in any order.
    pub fn poll_snapshot_block(&mut self) -> Option<Block> {
        self.observers.snapshot.writer.as_mut()?.poll_block()
    }

    /// A block is written (or, of a snapshot that was aborted, is not going to be).
    pub fn handle_snapshot_block_written(&mut self, block: Block) {
        let snapshot = &mut self.observers.snapshot;
        let Some(writer) = &mut snapshot.writer else { return };
        writer.handle_block_written(block);
        if let Some(totals) = writer.finished() {
            snapshot.writer = None;
            snapshot.last = SnapshotProgress::Finished(totals);
            snapshot.counters.finished += 1;
        }
    }

    /// Gives up the snapshot that runs, if one does: [`SnapshotProgress::Aborted`]. Another can begin at once.
    pub fn abort_snapshot(&mut self) {
        self.observers.snapshot.abort(&mut self.observers.garbage);
    }

    /// Whether so much of the snapshot is in memory that writers have to wait.
    #[inline]
    pub fn is_snapshot_full(&self) -> bool {
        self.observers.snapshot.is_full()
    }

    /// Whether [`Store::snapshot_slice`] has something to do now: not while enough blocks wait to be written.
    #[inline]
    pub fn wants_snapshot_slice(&self) -> bool {
        let snapshot = &self.observers.snapshot;
        match &snapshot.writer {
            None => snapshot.walking,
            Some(writer) => writer.wants_more() && (snapshot.walking || !writer.is_ended()),
        }
    }

    /// Whether [`Store::snapshot_slice`] has something to do, or blocks are still to be written.
    pub fn has_snapshot(&self) -> bool {
        self.observers.snapshot.writer.is_some() || self.observers.snapshot.walking
    }

    /// Bytes of the snapshot that are in memory.
    pub fn snapshot_pending_bytes(&self) -> usize {
        self.observers.snapshot.writer.as_ref().map_or(0, |writer| writer.pending_bytes())
    }

    /// Counts of snapshots since the start.
    pub fn snapshot_counters(&self) -> SnapshotCounters {
        self.observers.snapshot.counters
    }
}
