//! What drives one shard's log: takes what the journal has to write, finds its file, gives it to the shard's ring, and tells the
//! journal what is durable. It runs on the shard's thread and never waits.
//!
//! As many writes are under way as the journal gives out; what ends before its turn waits for those before it, so that the
//! journal hears of them in order. Beside writes there may be a sync of what was written before, in the segment that is
//! written to or an earlier one. If the file of the next segment is not there yet the write waits for it, and the disk's thread
//! is told to hurry.
//!
//! A write or sync that fails ends it: what the kernel could not write it forgets, and the next fdatasync of the same file finds
//! nothing wrong. The journal is told, and nothing is written until [`LogDriver::restart`] begins another segment, which
//! needs a whole snapshot before it. That waits for what is still under way.

use std::collections::VecDeque;
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

use thiserror::Error;
use torc_engine::id::Millis;

use super::directory::Segment;
use super::files::Host;
use super::pool::{Haste, Lane, Space};
use crate::limits::LOG_FLUSH_SLOW;
use crate::ring::{Errno, Key, Ring, StableBytes, SyncMethod, WriteFault, WriteStep};

/// What is to be written of a log.
#[derive(Debug)]
pub struct Write<B> {
    /// The number of the segment; never lower than that of the write before, and at most one higher.
    pub segment: u64,
    /// Bytes from the start of the file.
    pub offset: u64,
    /// May be empty if `sync` is set: then only what was written is synced.
    pub buffer: B,
    /// Make it durable, with all before it in its segment.
    pub sync: bool,
}

/// A journal as its driver sees it.
pub trait JournalIo {
    type Buffer: StableBytes;

    /// What is to be written now, until there is nothing.
    fn poll_write(&mut self, now: Millis) -> Option<Write<Self::Buffer>>;
    /// The segment that is to be synced now, beside what is under way, if one is; then `handle_synced` is called. Never one
    /// before the last that was.
    fn poll_sync(&mut self, now: Millis) -> Option<u64>;
    /// The sync that `poll_sync` asked for has ended.
    fn handle_synced(&mut self, result: Result<(), &LogFailure>);
    /// The oldest write has ended: it is in the file, and durable if true; or it failed, and so has the log, and nothing is said
    /// of the others. The buffer is given back.
    fn handle_written(&mut self, result: Result<bool, &LogFailure>, buffer: Self::Buffer);
}

/// Why a log can take nothing more.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error(
    "the log {path} failed ({fault}); what was being written may be lost, and nothing more is written to it: look at dmesg for the \
     state of the disk"
)]
pub struct LogFailure {
    pub path: PathBuf,
    pub fault: WriteFault,
}

/// Sizes of a log's segments: the first is small, and each twice as large as the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentSizes {
    pub first_bytes: u64,
    pub full_bytes: u64,
}

impl SegmentSizes {
    /// Bytes of a segment, by its place after the first.
    pub fn bytes(&self, index: u64) -> u64 {
        let doubled = u32::try_from(index).ok().and_then(|index| 1u64.checked_shl(index));
        doubled.and_then(|times| self.first_bytes.checked_mul(times)).unwrap_or(u64::MAX).min(self.full_bytes)
    }
}

/// What was written since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogTotals {
    pub writes: u64,
    pub bytes: u64,
    pub syncs: u64,
    pub segments: u64,
    /// The longest sync, with the write before it.
    pub sync_ms_max: u64,
    /// Times that a write had to wait for the file of its segment.
    pub waits: u64,
    /// What took longer than [`LOG_FLUSH_SLOW`], what goes on included.
    pub delays: u64,
}

/// Drives one shard's log.
pub struct LogDriver<B> {
    lane: Lane<Host>,
    method: SyncMethod,
    /// The next segment is filled with zeros before it is used.
    fills: bool,
    sizes: SegmentSizes,
    /// The generation of the segments, and the number of the first.
    generation: u64,
    first: u64,
    /// The segment that is written to, behind those before it that may have to be synced, the oldest first.
    segments: VecDeque<Segment<Arc<File>>>,
    /// The segment that the disk's thread was asked for.
    next: u64,
    /// What has no file yet, and since when.
    waiting: Option<(Write<B>, Millis)>,
    /// Writes that were submitted, the oldest first.
    under_way: VecDeque<UnderWay<B>>,
    /// The sync beside writes.
    side: Option<SideSync>,
    failure: Option<LogFailure>,
    /// What is under way counts as delayed.
    is_delayed: bool,
    operations: u32,
    side_operations: u32,
    totals: LogTotals,
}

struct UnderWay<B> {
    key: Key,
    segment: u64,
    buffer: Arc<B>,
    sync: bool,
    /// When it was submitted.
    since: Millis,
    /// It has ended, and those before it have not.
    result: Option<Result<(), WriteFault>>,
}

#[derive(Clone, Copy)]
struct SideSync {
    key: Key,
    segment: u64,
    since: Millis,
}

impl<B: StableBytes> LogDriver<B> {
    /// The place of the log's operations among those of the ring; whoever else writes files takes others.
    pub const SLOT: u32 = 0;
    /// That of the sync beside them.
    pub const SIDE_SLOT: u32 = 1;

    /// A driver whose first write begins a segment. Asks for that at once.
    pub fn new(lane: Lane<Host>, method: SyncMethod, sizes: SegmentSizes, generation: u64, first: u64) -> LogDriver<B> {
        let mut driver = LogDriver {
            lane,
            method,
            fills: true,
            sizes,
            generation,
            first,
            segments: VecDeque::new(),
            next: first,
            waiting: None,
            under_way: VecDeque::new(),
            side: None,
            failure: None,
            is_delayed: false,
            operations: 0,
            side_operations: 0,
            totals: LogTotals::default(),
        };
        driver.ask();
        driver
    }

    /// The lane to the disk's thread: to wait for the first segment before anything is served.
    pub fn lane(&mut self) -> &mut Lane<Host> {
        &mut self.lane
    }

    /// Begins what the journal has to write and to sync.
    pub fn serve(&mut self, journal: &mut impl JournalIo<Buffer = B>, ring: &mut Ring, now: Millis) {
        self.count_delay(now);
        if self.failure.is_some() {
            return;
        }
        let has_file = matches!(self.lane.space(), Space::Ready);
        if let Some((write, _)) = self.waiting.take_if(|_| has_file) {
            self.begin(write, ring, now);
        }
        while self.takes_writes()
            && let Some(write) = journal.poll_write(now)
        {
            self.begin(write, ring, now);
        }
        if self.side.is_none()
            && let Some(segment) = journal.poll_sync(now)
        {
            self.forget_before(segment);
            let file = &self.segments.front().expect("it was written to").file;
            self.side_operations = self.side_operations.wrapping_add(1);
            let key = Key::new(Self::SIDE_SLOT, self.side_operations);
            ring.sync(file, key);
            self.side = Some(SideSync { key, segment, since: now });
        }
    }

    /// The first segment that something is being written to.
    pub fn oldest_segment(&self) -> Option<u64> {
        self.under_way.front().map(|write| write.segment).or(self.segment())
    }

    /// Whether the journal is asked for writes.
    pub fn takes_writes(&self) -> bool {
        self.failure.is_none() && self.waiting.is_none()
    }

    /// Takes the end of a sync of the ring's whose key has the slot `SIDE_SLOT`.
    pub fn handle_side_synced(
        &mut self,
        journal: &mut impl JournalIo<Buffer = B>,
        key: Key,
        result: Result<(), Errno>,
        now: Millis,
    ) {
        // One of a log that was left behind is nothing to this one.
        let Some(side) = self.side.take_if(|side| side.key == key) else { return };
        self.count_sync(side.since, now);
        if self.failure.is_some() {
            return;
        }
        match result {
            Ok(()) => journal.handle_synced(Ok(())),
            Err(errno) => {
                let fault = WriteFault { step: WriteStep::Sync, errno };
                journal.handle_synced(Err(self.fail(side.segment, fault)));
            }
        }
    }

    /// Takes the end of a write of the ring's whose key has the slot `SLOT`.
    pub fn handle_written(
        &mut self,
        journal: &mut impl JournalIo<Buffer = B>,
        key: Key,
        result: Result<(), WriteFault>,
        now: Millis,
    ) {
        self.count_delay(now);
        let write = self.under_way.iter_mut().find(|write| write.key == key).expect("it was submitted");
        write.result = Some(result);
        while let Some(result) = self.under_way.front().and_then(|write| write.result) {
            let Some(UnderWay { segment, buffer, sync, since, .. }) = self.under_way.pop_front() else {
                unreachable!()
            };
            if self.failure.is_some() {
                continue;
            }
            let Some(buffer) = Arc::into_inner(buffer) else { unreachable!("the ring has let go of it") };
            match result {
                Ok(()) => {
                    let bytes = buffer.bytes().len() as u64;
                    self.totals.writes += u64::from(bytes > 0);
                    self.totals.bytes += bytes;
                    if sync {
                        self.count_sync(since, now);
                    }
                    journal.handle_written(Ok(sync), buffer);
                }
                Err(fault) => journal.handle_written(Err(self.fail(segment, fault)), buffer),
            }
        }
    }

    /// Takes the end of a sync of the ring's whose key has the slot `SLOT`.
    pub fn handle_synced(
        &mut self,
        journal: &mut impl JournalIo<Buffer = B>,
        key: Key,
        result: Result<(), Errno>,
        now: Millis,
    ) {
        let result = result.map_err(|errno| WriteFault { step: WriteStep::Sync, errno });
        self.handle_written(journal, key, result, now);
    }

    /// Whether a sync is under way.
    pub fn is_flushing(&self) -> bool {
        self.side.is_some() || self.under_way.iter().any(|write| write.sync)
    }

    /// The segment that is written to; None: the first is not begun.
    pub fn segment(&self) -> Option<u64> {
        self.segments.back().map(|segment| segment.id.number)
    }

    /// Since when a write is under way, after a failure too, or waits for its file.
    pub fn busy_since(&self) -> Option<Millis> {
        let waiting = self.waiting.as_ref().map(|(_, since)| *since);
        self.under_way.front().map(|write| write.since).or(waiting)
    }

    /// Since when the disk owes an answer: of a write, or of a sync.
    pub fn owed_since(&self) -> Option<Millis> {
        let side = self.side.map(|side| side.since);
        self.busy_since().into_iter().chain(side).min().filter(|_| self.failure.is_none())
    }

    /// Why nothing is written any more.
    pub fn failure(&self) -> Option<&LogFailure> {
        self.failure.as_ref()
    }

    /// How the next segment stands. `Full`: writes are to be refused while there is still room for what must be logged.
    pub fn space(&mut self) -> &Space {
        self.lane.space()
    }

    pub fn totals(&self) -> LogTotals {
        self.totals
    }

    /// Whether segments are filled with zeros before they are used, unless it is too late. Syncs of each write are a third
    /// cheaper then; where there is one a second only, it is not worth writing all bytes twice.
    pub fn set_filling(&mut self, fills: bool) {
        if std::mem::replace(&mut self.fills, fills) && !fills {
            self.lane.hurry(Haste::Now);
        }
    }

    /// Of the segments after those that the disk's thread was asked for already.
    pub fn set_sizes(&mut self, sizes: SegmentSizes) {
        self.sizes = sizes;
    }

    /// The first segment has another size than was asked for, and the ones after it follow it. Before anything is written.
    pub fn set_first_bytes(&mut self, bytes: u64) {
        assert!(self.segments.is_empty(), "nothing is written yet");
        self.sizes.first_bytes = bytes;
    }

    /// Gives up what waits for a file that cannot be made: the log ends here, as after a failure.
    pub fn give_up_waiting(&mut self, journal: &mut impl JournalIo<Buffer = B>) {
        if let Some((Write { segment, buffer, .. }, _)) = self.waiting.take() {
            let fault = WriteFault { step: WriteStep::Write, errno: Errno(libc::ENOSPC) };
            journal.handle_written(Err(self.fail(segment, fault)), buffer);
        }
    }

    /// Leaves everything behind, a failure too: the journal begins anew with the segment `first`. Nothing may be under way.
    pub fn restart(&mut self, generation: u64, first: u64) {
        assert!(self.busy_since().is_none(), "nothing is under way");
        assert!((generation, first) > (self.generation, self.next), "no file is used twice");
        self.lane.cancel();
        (self.generation, self.first, self.next) = (generation, first, first);
        self.segments.clear();
        (self.side, self.failure) = (None, None);
        self.ask();
    }

    /// Ends: the segment that was to be the next is not needed. Nothing may be under way.
    pub fn finish(mut self) {
        assert!(self.busy_since().is_none(), "nothing is under way");
        self.lane.cancel();
    }

    fn begin(&mut self, write: Write<B>, ring: &mut Ring, now: Millis) {
        if self.segment() != Some(write.segment) {
            assert_eq!(write.segment, self.next, "segments are written in order");
            let Some(segment) = self.lane.take() else {
                self.lane.hurry(Haste::Now);
                self.totals.waits += 1;
                self.waiting = Some((write, now));
                return;
            };
            assert_eq!((segment.id.generation, segment.id.number), (self.generation, self.next));
            self.totals.segments += 1;
            self.segments.push_back(segment);
            self.next += 1;
            self.ask();
        }
        if write.sync {
            // All before it is durable.
            self.forget_before(write.segment);
        }
        self.submit(write, ring, now);
    }

    fn submit(&mut self, write: Write<B>, ring: &mut Ring, now: Millis) {
        let Write { segment: number, offset, buffer, sync } = write;
        self.operations = self.operations.wrapping_add(1);
        let key = Key::new(Self::SLOT, self.operations);
        let segment = self.segments.back().expect("the segment was found");
        let len = buffer.bytes().len() as u64;
        if offset + len > segment.bytes / 2 {
            self.lane.hurry(Haste::Soon);
        }
        let buffer = Arc::new(buffer);
        match (len, sync, segment.direct) {
            (0, _, _) => {
                assert!(sync, "there is something to do");
                ring.sync(&segment.file, key);
            }
            (_, false, _) => ring.write_at(&segment.file, buffer.clone(), offset, key),
            // Synchronous buffered writes would block this thread.
            (_, true, false) => {
                ring.write_at_then_sync(&segment.file, buffer.clone(), offset, SyncMethod::Linked, key);
            }
            (_, true, true) => ring.write_at_then_sync(&segment.file, buffer.clone(), offset, self.method, key),
        }
        self.under_way.push_back(UnderWay { key, segment: number, buffer, sync, since: now, result: None });
    }

    /// Lets go of segments that nothing has to be synced in any more.
    fn forget_before(&mut self, segment: u64) {
        while self.segments.front().is_some_and(|first| first.id.number < segment) {
            self.segments.pop_front();
        }
    }

    /// Nothing is written any more. What is under way is waited for, and nobody is told what becomes of it.
    fn fail(&mut self, segment: u64, fault: WriteFault) -> &LogFailure {
        let file = self.segments.iter().rev().find(|file| file.id.number <= segment);
        let path = file.map_or(PathBuf::new(), |file| file.path.clone());
        self.waiting = None;
        self.failure.insert(LogFailure { path, fault })
    }

    /// Asks for the next segment.
    fn ask(&mut self) {
        self.lane.prepare(self.generation, self.next, self.sizes.bytes(self.next - self.first));
        if !self.fills {
            self.lane.hurry(Haste::Now);
        }
    }

    /// Counts what is under way once if it takes long.
    fn count_delay(&mut self, now: Millis) {
        let owed_ms = self.owed_since().map_or(0, |since| now.0.saturating_sub(since.0));
        let is_slow = owed_ms >= LOG_FLUSH_SLOW.as_millis() as u64;
        self.totals.delays += u64::from(is_slow && !self.is_delayed);
        self.is_delayed = is_slow;
    }

    fn count_sync(&mut self, since: Millis, now: Millis) {
        self.totals.syncs += 1;
        self.totals.sync_ms_max = self.totals.sync_ms_max.max(now.0.saturating_sub(since.0));
    }
}

#[cfg(test)]
mod tests;
