//! What drives one shard's log: takes what the journal has to write, finds its file, gives it to the shard's ring, and tells the
//! journal what is durable. It runs on the shard's thread and never waits.
//!
//! One write is under way at a time; what the shard logs meanwhile is the next one. Beside writes there may be a sync of what
//! was written before (`appendfsync everysec`). A write that begins another segment first
//! has everything in the old one synced, lest a later sync of the new file be taken for one of both. If the file of the next
//! segment is not there yet the write waits for it, and the disk's thread is told to hurry.
//!
//! A write or sync that fails ends it: what the kernel could not write it forgets, and the next fdatasync of the same file finds
//! nothing wrong. The journal is told, and nothing is written until [`LogDriver::restart`] begins another segment, which
//! needs a whole snapshot before it.

use std::fs::File;
use std::mem;
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
    /// Make it, and all before it, durable.
    pub sync: bool,
}

/// A journal as its driver sees it.
pub trait JournalIo {
    type Buffer: StableBytes;

    /// What is to be written now. Not called while a write is under way.
    fn poll_write(&mut self, now: Millis) -> Option<Write<Self::Buffer>>;
    /// The segment that is to be synced now, beside what is under way, if one is; then `handle_synced` is called.
    fn poll_sync(&mut self, now: Millis) -> Option<u64>;
    /// The sync that `poll_sync` asked for has ended.
    fn handle_synced(&mut self, result: Result<(), &LogFailure>);
    /// The write has ended: it is in the file, and durable if true; or it failed, and so has the log. The buffer is given back.
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
    /// The segment that is written to.
    current: Option<Segment<Arc<File>>>,
    /// The segment that the disk's thread was asked for.
    next: u64,
    /// `current` has bytes that were not synced.
    unsynced: bool,
    state: State<B>,
    /// The sync beside writes, and since when; and that it failed, while a write is under way.
    side: Option<(Key, Millis)>,
    side_fault: Option<WriteFault>,
    /// When what is under way was submitted, and whether it counts as delayed.
    since: Millis,
    is_delayed: bool,
    operations: u32,
    side_operations: u32,
    totals: LogTotals,
}

enum State<B> {
    Idle,
    /// The file of its segment is not there yet.
    Waiting(Write<B>),
    /// The segment before is being synced.
    Closing(Write<B>),
    Writing {
        buffer: Arc<B>,
        sync: bool,
    },
    /// A sync without a write.
    Syncing(B),
    Failed(LogFailure),
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
            current: None,
            next: first,
            unsynced: false,
            state: State::Idle,
            side: None,
            side_fault: None,
            since: Millis(0),
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

    /// Begins what the journal has to write, if nothing is under way.
    pub fn serve(&mut self, journal: &mut impl JournalIo<Buffer = B>, ring: &mut Ring, now: Millis) {
        self.count_delay(now);
        let has_file = matches!(self.lane.space(), Space::Ready);
        let write = match mem::replace(&mut self.state, State::Idle) {
            State::Idle => journal.poll_write(now),
            State::Waiting(write) if has_file => Some(write),
            busy => {
                self.state = busy;
                None
            }
        };
        if let Some(write) = write {
            self.begin(write, ring, now);
        }
        if self.side.is_none()
            && let Some(segment) = &self.current
            && let Some(number) = journal.poll_sync(now)
        {
            // What is not synced is in the last segment: those before were when it was begun.
            assert_eq!(segment.id.number, number, "it is the one that is written to");
            self.side_operations = self.side_operations.wrapping_add(1);
            let key = Key::new(Self::SIDE_SLOT, self.side_operations);
            ring.sync(&segment.file, key);
            self.side = Some((key, now));
        }
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
        let Some((_, since)) = self.side.take_if(|(side, _)| *side == key) else { return };
        self.totals.syncs += 1;
        self.totals.sync_ms_max = self.totals.sync_ms_max.max(now.0.saturating_sub(since.0));
        let Err(errno) = result else { return journal.handle_synced(Ok(())) };
        let fault = WriteFault { step: WriteStep::Sync, errno };
        match mem::replace(&mut self.state, State::Idle) {
            State::Idle => {
                let failure = self.failure_of(fault);
                journal.handle_synced(Err(&failure));
                self.state = State::Failed(failure);
            }
            State::Waiting(Write { buffer, .. }) => self.fail(journal, fault, buffer),
            // What is under way ends first.
            busy => (self.state, self.side_fault) = (busy, Some(fault)),
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
        assert_eq!(key, self.key(), "one operation is under way");
        let State::Writing { buffer, sync } = mem::replace(&mut self.state, State::Idle) else {
            unreachable!("a write was submitted");
        };
        let Some(buffer) = Arc::into_inner(buffer) else { unreachable!("the ring has let go of it") };
        match result.and_then(|()| self.side_fault.take().map_or(Ok(()), Err)) {
            Ok(()) => {
                self.totals.writes += 1;
                self.totals.bytes += buffer.bytes().len() as u64;
                self.unsynced = !sync;
                if sync {
                    self.count_sync(now);
                }
                journal.handle_written(Ok(sync), buffer);
            }
            Err(fault) => self.fail(journal, fault, buffer),
        }
    }

    /// Takes the end of a sync of the ring's whose key has the slot `SLOT`.
    pub fn handle_synced(
        &mut self,
        journal: &mut impl JournalIo<Buffer = B>,
        ring: &mut Ring,
        key: Key,
        result: Result<(), Errno>,
        now: Millis,
    ) {
        self.count_delay(now);
        assert_eq!(key, self.key(), "one operation is under way");
        let state = mem::replace(&mut self.state, State::Idle);
        let fault = result.err().map(|errno| WriteFault { step: WriteStep::Sync, errno });
        match (state, fault.or(self.side_fault.take())) {
            (State::Closing(Write { buffer, .. }) | State::Syncing(buffer), Some(fault)) => {
                self.fail(journal, fault, buffer);
            }
            (State::Closing(write), None) => {
                self.unsynced = false;
                self.count_sync(now);
                self.begin(write, ring, now);
            }
            (State::Syncing(buffer), None) => {
                self.unsynced = false;
                self.count_sync(now);
                journal.handle_written(Ok(true), buffer);
            }
            _ => unreachable!("a sync was submitted"),
        }
    }

    /// Whether a sync is under way.
    pub fn is_flushing(&self) -> bool {
        let is_main = matches!(self.state, State::Closing(_) | State::Syncing(_) | State::Writing { sync: true, .. });
        is_main || self.side.is_some()
    }

    /// The segment that is written to; None: the first is not begun.
    pub fn segment(&self) -> Option<u64> {
        self.current.as_ref().map(|segment| segment.id.number)
    }

    /// Since when a write or sync is under way, or waits for its file.
    pub fn busy_since(&self) -> Option<Millis> {
        (!matches!(self.state, State::Idle | State::Failed(_))).then_some(self.since)
    }

    /// Since when the disk owes an answer: of a write, or of a sync.
    pub fn owed_since(&self) -> Option<Millis> {
        let side = self.side.map(|(_, since)| since).filter(|_| self.failure().is_none());
        self.busy_since().into_iter().chain(side).min()
    }

    /// Why nothing is written any more.
    pub fn failure(&self) -> Option<&LogFailure> {
        match &self.state {
            State::Failed(failure) => Some(failure),
            _ => None,
        }
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
        assert!(self.current.is_none(), "nothing is written yet");
        self.sizes.first_bytes = bytes;
    }

    /// Gives up what waits for a file that cannot be made: the log ends here, as after a failure.
    pub fn give_up_waiting(&mut self, journal: &mut impl JournalIo<Buffer = B>) {
        match mem::replace(&mut self.state, State::Idle) {
            State::Waiting(Write { buffer, .. }) => {
                self.fail(journal, WriteFault { step: WriteStep::Write, errno: Errno(libc::ENOSPC) }, buffer);
            }
            other => self.state = other,
        }
    }

    /// Leaves everything behind, a failure too: the journal begins anew with the segment `first`. Nothing may be under way.
    pub fn restart(&mut self, generation: u64, first: u64) {
        assert!(self.busy_since().is_none(), "nothing is under way");
        assert!((generation, first) > (self.generation, self.next), "no file is used twice");
        self.lane.cancel();
        (self.generation, self.first, self.next) = (generation, first, first);
        (self.current, self.unsynced, self.state) = (None, false, State::Idle);
        (self.side, self.side_fault) = (None, None);
        self.ask();
    }

    /// Ends: the segment that was to be the next is not needed. Nothing may be under way.
    pub fn finish(mut self) {
        assert!(self.busy_since().is_none(), "nothing is under way");
        self.lane.cancel();
    }

    fn begin(&mut self, write: Write<B>, ring: &mut Ring, now: Millis) {
        if !matches!(self.current, Some(Segment { id, .. }) if id.number == write.segment) {
            assert_eq!(write.segment, self.next, "segments are written in order");
            if let Some(segment) = self.current.as_ref().filter(|_| self.unsynced) {
                let file = segment.file.clone();
                self.state = State::Closing(write);
                ring.sync(&file, self.next_key(now));
                return;
            }
            let Some(segment) = self.lane.take() else {
                self.lane.hurry(Haste::Now);
                self.totals.waits += 1;
                self.since = now;
                self.state = State::Waiting(write);
                return;
            };
            assert_eq!((segment.id.generation, segment.id.number), (self.generation, self.next));
            self.totals.segments += 1;
            self.current = Some(segment);
            self.next += 1;
            self.ask();
        }
        self.submit(write, ring, now);
    }

    fn submit(&mut self, write: Write<B>, ring: &mut Ring, now: Millis) {
        let Write { offset, buffer, sync, .. } = write;
        let key = self.next_key(now);
        let segment = self.current.as_ref().expect("the segment was found");
        let len = buffer.bytes().len() as u64;
        if len == 0 {
            assert!(sync, "there is something to do");
            ring.sync(&segment.file, key);
            self.state = State::Syncing(buffer);
            return;
        }
        if offset + len > segment.bytes / 2 {
            self.lane.hurry(Haste::Soon);
        }
        let buffer = Arc::new(buffer);
        match (sync, segment.direct) {
            (false, _) => ring.write_at(&segment.file, buffer.clone(), offset, key),
            // Synchronous buffered writes would block this thread.
            (true, false) => {
                ring.write_at_then_sync(&segment.file, buffer.clone(), offset, SyncMethod::Linked, key);
            }
            (true, true) => ring.write_at_then_sync(&segment.file, buffer.clone(), offset, self.method, key),
        }
        self.state = State::Writing { buffer, sync };
    }

    fn fail(&mut self, journal: &mut impl JournalIo<Buffer = B>, fault: WriteFault, buffer: B) {
        let failure = self.failure_of(fault);
        journal.handle_written(Err(&failure), buffer);
        self.state = State::Failed(failure);
    }

    fn failure_of(&self, fault: WriteFault) -> LogFailure {
        let path = self.current.as_ref().map_or(PathBuf::new(), |segment| segment.path.clone());
        LogFailure { path, fault }
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

    fn count_sync(&mut self, now: Millis) {
        self.totals.syncs += 1;
        self.totals.sync_ms_max = self.totals.sync_ms_max.max(now.0.saturating_sub(self.since.0));
    }

    /// The key of the operation that is under way.
    fn key(&self) -> Key {
        Key::new(Self::SLOT, self.operations)
    }

    fn next_key(&mut self, now: Millis) -> Key {
        self.since = now;
        self.operations = self.operations.wrapping_add(1);
        self.key()
    }
}

#[cfg(test)]
mod tests;
