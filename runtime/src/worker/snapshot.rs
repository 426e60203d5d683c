//! The shard's part of a snapshot: the shard forms blocks in slices, and they go to its file through the ring, some at a time.

use std::fs::File;
use std::sync::Arc;

use torc_engine::log::{FsyncPolicy, LogStart, Lsn};
use torc_engine::shard::SnapshotBase;
use torc_engine::snapshot::{Block, Buffer, Totals};
use torc_engine::store::SnapshotProgress;
use tracing::{error, info};

use super::{Control, Notice, Parts, Worker};
use crate::disk::log::{LogDriver, SegmentSizes};
use crate::disk::pool::{Lane, Space};
use crate::disk::start::{FIRST_SEGMENT, Policed};
use crate::disk::{DiskError, Host};
use crate::limits::SNAPSHOT_WRITES_MAX;
use crate::ring::{Key, SyncMethod, WriteFault};

/// A snapshot that a shard is to take.
#[derive(Debug)]
pub struct SnapshotOrder {
    /// The number of the snapshot, the same for all shards.
    pub id: u64,
    pub database: [u8; 16],
    /// To be written from its beginning.
    pub file: Arc<File>,
    /// The log begins anew behind it.
    pub log: Option<LogOrder>,
}

/// A log that begins behind a snapshot.
pub struct LogOrder {
    /// The way to the disk's thread, if the shard has none yet.
    pub lane: Option<Lane<Host>>,
    pub generation: u64,
    pub salt: u64,
    pub shards: u16,
    pub sizes: SegmentSizes,
}

/// What became of a shard's part of a snapshot.
#[derive(Debug)]
pub struct SnapshotEnd {
    pub shard: u16,
    pub id: u64,
    pub result: Result<SnapshotPart, SnapshotFailure>,
}

/// A part that is written; not synced yet.
#[derive(Clone, Copy, Debug)]
pub struct SnapshotPart {
    pub base: SnapshotBase,
    pub totals: Totals,
}

/// Why a part is of no use.
#[derive(Clone, Copy, Debug)]
pub enum SnapshotFailure {
    /// What was to be saved was flushed, or the snapshot was given up.
    Aborted,
    /// The log behind it has no file.
    NoSegment,
    Write(WriteFault),
}

/// The snapshot that a shard is taking.
pub(super) struct Saving {
    order: SnapshotOrder,
    /// None until it could begin.
    base: Option<SnapshotBase>,
    /// Which one of this worker it is; part of the keys of its writes.
    number: u32,
    under_way: Vec<Option<(u64, Arc<Buffer>)>>,
    failure: Option<SnapshotFailure>,
}

impl std::fmt::Debug for LogOrder {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "LogOrder {{ generation: {} }}", self.generation)
    }
}

impl Worker {
    /// Takes an order of the main thread's that has to do with saves.
    pub(super) fn take_save_order(&mut self, order: Control) {
        match order {
            Control::Snapshot(order) => {
                assert!(self.saving.is_none(), "one snapshot is taken at a time");
                self.snapshots += 1;
                let under_way = (0..SNAPSHOT_WRITES_MAX).map(|_| None).collect();
                let number = self.snapshots;
                self.saving = Some(Saving { order: *order, base: None, number, under_way, failure: None });
            }
            Control::AbortSnapshot(id) => {
                if let Some(saving) = self.saving.as_mut().filter(|saving| saving.order.id == id) {
                    saving.failure.get_or_insert(SnapshotFailure::Aborted);
                    self.parts.shard.abort_snapshot();
                }
            }
            Control::SaveEnded { is_good, log_resumed } => {
                if is_good {
                    self.parts.shard.forget_evicted_at_load();
                }
                if log_resumed {
                    self.resume_writes();
                }
                self.parts.shard.handle_save_ended();
            }
            Control::EndLog => {
                self.log_ends = true;
                // One that was about to begin does not.
                if let Some(log) = self.saving.as_mut().and_then(|saving| saving.order.log.take()) {
                    self.spare_lane = log.lane.or(self.spare_lane.take());
                }
            }
            Control::Begin(_) | Control::Stop { .. } | Control::End => {
                unreachable!("these have nothing to do with saves")
            }
        }
    }

    /// Gives blocks to the ring, as many as may be under way, and tells the main thread when there are no more.
    #[inline]
    pub(super) fn serve_snapshot(&mut self) {
        if self.saving.is_some() {
            self.advance_snapshot();
        }
    }

    fn advance_snapshot(&mut self) {
        let Some(mut saving) = self.saving.take() else { return };
        if saving.base.is_none() && saving.failure.is_none() && !self.begin_snapshot(&mut saving) {
            self.saving = Some(saving);
            return;
        }
        let Parts { shard, ring, .. } = &mut self.parts;
        for slot in 0..saving.under_way.len() {
            if saving.failure.is_some() || saving.under_way[slot].is_some() {
                continue;
            }
            let Some(Block { offset, buffer, .. }) = shard.poll_snapshot_block() else { break };
            let buffer = Arc::new(buffer);
            ring.write_at(&saving.order.file, buffer.clone(), offset, saving.key(slot));
            saving.under_way[slot] = Some((offset, buffer));
        }
        if saving.under_way.iter().any(Option::is_some) {
            self.saving = Some(saving);
            return;
        }
        let result = match (saving.failure, shard.snapshot_progress()) {
            (Some(failure), _) => Err(failure),
            (None, SnapshotProgress::Aborted) => Err(SnapshotFailure::Aborted),
            (None, SnapshotProgress::Finished(totals)) => {
                let mut base = saving.base.expect("it was begun");
                match self.first_segment(base.segment) {
                    Ok(Some(segment)) => base.segment = segment,
                    // The manifest can name it when it is there.
                    Ok(None) => {
                        self.saving = Some(saving);
                        return;
                    }
                    Err(why) => {
                        error!(
                            "shard {}: {why}; the snapshot is given up, for its log has no file to go on in",
                            self.parts.id.0
                        );
                        return self.end_snapshot(saving, Err(SnapshotFailure::NoSegment));
                    }
                }
                Ok(SnapshotPart { base, totals })
            }
            (None, _) => {
                self.saving = Some(saving);
                return;
            }
        };
        self.end_snapshot(saving, result);
    }

    /// The segment that replay begins with which follows the snapshot: the one that the journal was in, or one before it that
    /// has a file, or is still written to, lest the file be used again too soon. None: it has none yet; Err: it cannot get one.
    fn first_segment(&mut self, base: Option<(u64, u64)>) -> Result<Option<Option<(u64, u64)>>, Arc<DiskError>> {
        let (Some((generation, segment)), Some(driver)) = (base, &mut self.parts.log) else { return Ok(Some(base)) };
        // Without a log that lasts until here nothing is behind the snapshot that could be named.
        if driver.failure().is_some() {
            return Ok(Some(base));
        }
        match (driver.oldest_segment(), driver.space()) {
            (Some(current), _) => Ok(Some(Some((generation, segment.min(current))))),
            (None, Space::Full(why)) => Err(why.clone()),
            (None, _) => Ok(None),
        }
    }

    fn end_snapshot(&mut self, saving: Saving, result: Result<SnapshotPart, SnapshotFailure>) {
        let (shard, id) = (self.parts.id.0, saving.order.id);
        // A log that did not come to begin leaves its way to the disk's thread.
        self.spare_lane = saving.order.log.and_then(|log| log.lane).or(self.spare_lane.take());
        // The main thread outlives the workers.
        let _ = self.parts.notices.send(Notice::SnapshotEnded(SnapshotEnd { shard, id, result }));
    }

    /// Begins the snapshot, and the log behind it. False: not yet.
    fn begin_snapshot(&mut self, saving: &mut Saving) -> bool {
        if self.log_ends || saving.order.log.is_some() && self.is_log_busy() {
            return false;
        }
        let order = &mut saving.order;
        if let Some(log) = order.log.take() {
            self.begin_log(log, order.database);
        }
        let Parts { shard, .. } = &mut self.parts;
        match shard.begin_snapshot(order.database, order.id, self.now) {
            Ok(base) => saving.base = Some(base),
            // Entries have to be marked first, which the shard does in slices.
            Err(_) => return false,
        }
        true
    }

    /// A write of the snapshot has ended.
    pub(super) fn snapshot_written(&mut self, key: Key, result: Result<(), WriteFault>) {
        let saving = self.saving.as_mut().expect("a snapshot ends after its writes");
        let slot = (key.slot - LogDriver::<Buffer>::SIDE_SLOT - 1) as usize;
        assert_eq!(key, saving.key(slot), "one snapshot is taken at a time");
        let (offset, buffer) = saving.under_way[slot].take().expect("it was under way");
        let Some(buffer) = Arc::into_inner(buffer) else { unreachable!("the ring has let go of it") };
        let shard = &mut self.parts.shard;
        shard.handle_snapshot_block_written(Block { snapshot: saving.order.id, offset, buffer });
        if let Err(fault) = result {
            saving.failure = Some(SnapshotFailure::Write(fault));
            shard.abort_snapshot();
        }
    }

    /// Begins a log, of a new generation, with what is changed from now on.
    fn begin_log(&mut self, order: LogOrder, database: [u8; 16]) {
        let LogOrder { lane, generation, salt, shards, sizes } = order;
        let Parts { id, shard, log, .. } = &mut self.parts;
        match (log.as_mut(), lane.or(self.spare_lane.take())) {
            (Some(driver), _) => {
                driver.set_sizes(sizes);
                driver.restart(generation, FIRST_SEGMENT);
            }
            (None, Some(lane)) => {
                *log = Some(LogDriver::new(lane, SyncMethod::Linked, sizes, generation, FIRST_SEGMENT));
            }
            (None, None) => unreachable!("who has no lane is given one"),
        }
        let (next_lsn, last_txid) = (Lsn(shard.journal().last_lsn().0 + 1), shard.journal().last_txid());
        shard.begin_log(LogStart {
            database,
            generation,
            shard: id.0,
            shards,
            segment: FIRST_SEGMENT,
            salt,
            next_lsn,
            last_txid,
            segment_bytes: sizes.full_bytes,
            first_segment_bytes: sizes.first_bytes,
            previous: None,
        });
    }

    /// Ends the log that was switched off, when all of it is on the disk.
    pub(super) fn end_log(&mut self) {
        if !self.log_ends {
            return;
        }
        let Parts { id, shard, log, .. } = &mut self.parts;
        let journal = shard.journal();
        if let Some(driver) = log {
            if matches!(driver.space(), Space::Full(_)) && driver.segment() != journal.segment() {
                // What comes next has no place, and nobody wants it any more.
                driver.give_up_waiting(&mut Policed { journal, policy: FsyncPolicy::No });
            }
            let is_over = driver.failure().is_some() || journal.is_sealed();
            if journal.is_on() && !is_over {
                journal.seal();
                return;
            }
            if driver.busy_since().is_some() {
                return;
            }
        }
        shard.end_log();
        (self.log_ends, self.log_loss) = (false, None);
        info!("shard {} does not log any more", id.0);
    }

    fn is_log_busy(&self) -> bool {
        self.parts.log.as_ref().is_some_and(|driver| driver.busy_since().is_some())
    }
}

impl Saving {
    fn key(&self, slot: usize) -> Key {
        Key::new(LogDriver::<Buffer>::SIDE_SLOT + 1 + slot as u32, self.number)
    }
}
