//! What a shard tells of each change, and what is to be written where because of it.
//!
//! Changes are encoded straight into the buffer that will be written: batches of up to 256 KiB side by side in buffers of
//! up to a MiB, so nothing is copied or allocated again. A buffer whose room is used up is queued; what a batch's header
//! says of the moment (what is durable, the checksum) is filled in when its buffer is handed over.
//!
//! ```text
//! set, remove, ...  ->  open buffer                     ->  queue  ->  Writes  ->  handle_written
//!                       [batch][batch][batch, growing      [..][..]
//! ```
//!
//! Where each batch will lie is known when it is begun: a buffer is a run of pages of one segment.
//!
//! Where each write is to be durable (`always`, and at the end of a log) there is one at a time, with its sync, and what
//! crosses from one segment to the next waits until the old one is synced. Otherwise several are in flight, and syncs go
//! beside them, one segment after the other: what a process that is killed loses is what it has not handed to the
//! system, and a disk that takes long over a sync must not make that more. A crash of the machine then tears what is not
//! synced, which may be more than one segment; headers and batches say how far the log was durable when they were written.
//! The header of a generation's first segment is written alone, and synced at once: until then no batch can tell that it
//! is missing.

use std::collections::VecDeque;

use thiserror::Error;

use super::format::{
    BATCH_HEADER_BYTES, BATCH_IS_SEAL, BatchContent, BatchMoment, BatchOwner, PAGE_BYTES, SEGMENT_HEADER_BYTES,
    SegmentHeader, pages_up,
};
use super::record::{Effects, Encoding, Kind, Layout, PART_FIRST, PART_LAST, PART_MIDDLE, PART_OVERHEAD_BYTES, Record};
use super::{Buffer, Lsn};
use crate::id::Millis;
use crate::limits::{
    LOG_BATCH_BYTES_MAX, LOG_BUFFERS_KEPT_MAX, LOG_SEGMENTS_UNSYNCED_MAX, LOG_SYNC_AFTER_MS, LOG_WRITE_AFTER_MS,
    LOG_WRITE_BESIDE_AFTER_MS, LOG_WRITE_BYTES_MAX, LOG_WRITES_IN_FLIGHT_MAX,
};
use crate::planted::{Bug, is_planted};
use crate::store::KeyspaceId;

/// Room of a buffer: one write, and the header of a segment before it.
const BUFFER_BYTES: usize = SEGMENT_HEADER_BYTES + LOG_WRITE_BYTES_MAX;
/// The first part of what has to be cut goes into a batch that has so much room; with less it begins the next.
const SPLIT_ROOM_MIN: usize = 512;

/// When what is written is synced (`appendfsync`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FsyncPolicy {
    /// With every write, and writes as soon as there is something.
    Always,
    /// Once a second.
    EverySec,
    /// Only a segment that is complete.
    No,
}

/// Where a log begins.
#[derive(Clone, Copy, Debug)]
pub struct LogStart {
    /// The directory's.
    pub database: [u8; 16],
    /// Larger at every start of the process, and durably noted before: never used twice, by a start that failed neither.
    pub generation: u64,
    pub shard: u16,
    pub shards: u16,
    /// The number of the first segment.
    pub segment: u64,
    /// Random, another one for each shard and generation.
    pub salt: u64,
    /// Of the first record: after the last of the log before and after the snapshot's.
    pub next_lsn: Lsn,
    /// The last transaction over shards that is known.
    pub last_txid: u64,
    /// Length of segments, and of the first of them; each is twice as long as the one before up to the full length.
    /// Multiples of 4 KiB; a header and one batch of a page must fit.
    pub segment_bytes: u64,
    pub first_segment_bytes: u64,
    /// What the log before ended with ([`super::End::previous`]); None if there is none or it does not matter any more.
    pub previous: Option<(Lsn, u32)>,
}

impl LogStart {
    /// Length of a segment of this generation.
    pub fn segment_bytes(&self, segment: u64) -> u64 {
        segment_bytes(self.first_segment_bytes, self.segment_bytes, segment - self.segment)
    }
}

/// Length of the segment with this place in its generation, counted from 0.
pub fn segment_bytes(first_bytes: u64, bytes: u64, index: u64) -> u64 {
    let doubled = u32::try_from(index).ok().and_then(|index| 1u64.checked_shl(index));
    doubled.and_then(|times| first_bytes.checked_mul(times)).map_or(bytes, |grown| grown.min(bytes))
}

/// Something to be written, then given back with [`Journal::handle_written`], in the order in which it was handed out.
#[derive(Debug)]
pub struct Write {
    pub segment: u64,
    /// In the segment's file: a multiple of 4 KiB.
    pub offset: u64,
    /// Address and length are multiples of 4 KiB. Empty if all is written and only has to be synced.
    pub buffer: Buffer,
    /// Whether the file is to be synced after the write. All that was handed out before is through.
    pub sync: bool,
    /// The last record that is in it or before it.
    pub last_lsn: Lsn,
}

/// What the system did not do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteStep {
    Write,
    Sync,
}

/// A write or a sync that failed. It is never tried again: a second sync can succeed although data is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("{} of the log failed: system error {errno}", match step { WriteStep::Write => "a write", WriteStep::Sync => "a sync" })]
pub struct WriteError {
    pub step: WriteStep,
    /// As the system gives it.
    pub errno: i32,
}

/// The log of one shard, as far as it is not written.
#[derive(Debug, Default)]
pub struct Journal {
    /// Begun, and not failed.
    is_on: bool,
    /// Receives records. `start` has what the log was begun with whenever it is on.
    open: Open,
    last_lsn: Lsn,
    start: Option<LogStart>,
    queue: VecDeque<Queued>,
    /// Bytes queued or in flight, and all that ever were.
    queued_bytes: usize,
    queued_bytes_ever: u64,
    /// What the system has not answered to, the oldest first.
    in_flight: VecDeque<InFlight>,
    written_lsn: Lsn,
    durable_lsn: Lsn,
    /// Segments that have something written which is not synced, the oldest first.
    unsynced: VecDeque<Unsynced>,
    /// The end of what was handed out in the last segment.
    handed_end: u64,
    /// The segment that was synced last: its header is durable.
    synced_segment: Option<u64>,
    /// The checksum of the last batch handed over.
    last_crc: u32,
    /// What the next segment header says of what came before.
    previous: Option<(Lsn, u32)>,
    last_txid: u64,
    /// The last transaction that was handed over.
    handed_txid: u64,
    pending_since: Option<Millis>,
    sync_began: Millis,
    /// A sync beside writes that is under way: what it makes durable, and the segment.
    side_sync: Option<(Lsn, u64)>,
    seal: Seal,
    spare: Vec<Buffer>,
    error: Option<WriteError>,
}

/// A run of pages that is being filled, and the batch in it that is.
#[derive(Debug, Default)]
struct Open {
    buffer: Buffer,
    segment: u64,
    /// Where the buffer lies in the segment, and how long the segment is.
    offset: u64,
    segment_bytes: u64,
    /// The header of the open batch, the next free byte, and the end of what the batch may take. Without an open batch
    /// all three are the same.
    batch: usize,
    at: usize,
    limit: usize,
    count: u32,
}

#[derive(Debug)]
struct Queued {
    segment: u64,
    offset: u64,
    buffer: Buffer,
    /// Of the first record, and the last.
    first_lsn: Lsn,
    last_lsn: Lsn,
    last_txid: u64,
    is_seal: bool,
}

#[derive(Clone, Copy, Debug)]
struct InFlight {
    segment: u64,
    last_lsn: Lsn,
    bytes: usize,
    sync: bool,
}

#[derive(Clone, Copy, Debug)]
struct Unsynced {
    segment: u64,
    /// The last record in it, or before it, that is written.
    written_lsn: Lsn,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Seal {
    #[default]
    No,
    Wanted,
    /// Handed over, behind this record.
    Handed(Lsn),
}

impl Journal {
    /// A log that nothing goes to and that takes no memory.
    pub fn off() -> Journal {
        Journal::default()
    }

    /// Whether changes are kept.
    #[inline(always)]
    pub fn is_on(&self) -> bool {
        self.is_on
    }

    /// Begins a log; after a failure too, in another generation. Nothing may be in flight.
    pub fn begin(&mut self, start: LogStart) {
        assert!(self.in_flight.is_empty(), "what is in flight belongs to the log before");
        assert!(start.next_lsn > start.previous.map_or(Lsn(0), |(last, _)| last), "records are numbered upwards");
        assert!(start.first_segment_bytes.is_multiple_of(PAGE_BYTES as u64));
        assert!(start.segment_bytes.is_multiple_of(PAGE_BYTES as u64));
        assert!(start.first_segment_bytes <= start.segment_bytes);
        assert!(start.first_segment_bytes >= (SEGMENT_HEADER_BYTES + PAGE_BYTES) as u64, "a batch must fit");
        let before = Lsn(start.next_lsn.0 - 1);
        *self = Journal {
            is_on: true,
            last_lsn: before,
            written_lsn: before,
            durable_lsn: before,
            last_crc: start.previous.map_or(0, |(_, crc)| crc),
            previous: start.previous,
            last_txid: start.last_txid,
            handed_txid: start.last_txid,
            start: Some(start),
            spare: std::mem::take(&mut self.spare),
            queued_bytes_ever: self.queued_bytes_ever,
            ..Journal::default()
        };
        // The header of the first segment goes alone.
        self.open_segment(start.segment);
        self.queue_open(false);
    }

    /// Nothing is logged any more. Nothing may be in flight; what is not written is dropped. Another log may begin.
    pub fn end(&mut self) {
        assert!(self.in_flight.is_empty(), "what is in flight belongs to the log");
        let Journal { last_lsn, last_txid, queued_bytes_ever, .. } = *self;
        let (written_lsn, durable_lsn) = (last_lsn, last_lsn);
        *self = Journal { last_lsn, last_txid, queued_bytes_ever, written_lsn, durable_lsn, ..Journal::default() };
    }

    /// A key has this value. `expire_ms` 0: never. Version: if it has one.
    #[inline]
    pub fn set(&mut self, keyspace: KeyspaceId, key: &[u8], value: &[u8], expire_ms: u64, version: Option<u64>) {
        if self.is_on {
            self.append(Record::Set { keyspace, key, value, expire_ms, version }.encoding());
        }
    }

    /// A key is deleted, expired or evicted.
    #[inline]
    pub fn remove(&mut self, keyspace: KeyspaceId, key: &[u8]) {
        if self.is_on {
            self.append(Record::Remove { keyspace, key }.encoding());
        }
    }

    /// A key expires at `expire_ms`; 0: never.
    #[inline]
    pub fn expire(&mut self, keyspace: KeyspaceId, key: &[u8], expire_ms: u64, version: Option<u64>) {
        if self.is_on {
            self.append(Record::Expire { keyspace, key, expire_ms, version }.encoding());
        }
    }

    /// A value has these bytes at this offset.
    #[inline]
    pub fn write_at(&mut self, keyspace: KeyspaceId, key: &[u8], offset: u64, bytes: &[u8], version: Option<u64>) {
        if self.is_on {
            self.append(Record::WriteAt { keyspace, key, offset, bytes, version }.encoding());
        }
    }

    /// The numbers of databases lead to these keyspaces.
    pub fn layout(&mut self, layout: Layout<'_>) {
        if self.is_on {
            self.append(Record::Layout(layout).encoding());
        }
    }

    /// A transaction over shards that this one takes part in, with what it did on all of them ([`Effects::join`]).
    pub fn transaction(&mut self, txid: u64, effects: &Effects) {
        if self.is_on {
            debug_assert!(txid > self.last_txid, "transactions are numbered upwards");
            self.append(effects.transaction(txid).encoding());
            // Not before: a batch that ends within it does not have it.
            self.last_txid = txid;
        }
    }

    /// A record as it was read from a log, which is written again.
    pub fn record(&mut self, record: &Record<'_>) {
        if self.is_on {
            self.append(record.encoding());
            if let Record::Transaction(transaction) = record {
                // What is read may be out of order; what is whole stays the highest.
                self.last_txid = self.last_txid.max(transaction.txid);
            }
        }
    }

    /// The last change.
    pub fn last_lsn(&self) -> Lsn {
        self.last_lsn
    }

    /// The last change that the system has.
    pub fn written_lsn(&self) -> Lsn {
        self.written_lsn
    }

    /// The last change that is on the disk.
    pub fn durable_lsn(&self) -> Lsn {
        self.durable_lsn
    }

    /// The transaction over shards that was logged last.
    pub fn last_txid(&self) -> u64 {
        self.last_txid
    }

    /// The segment that records go to, which the next one may be made ready behind. None before [`Journal::begin`].
    pub fn segment(&self) -> Option<u64> {
        self.start.map(|_| self.open.segment)
    }

    /// The generation and the segment that the next record goes to, if not to a later segment. None while it is off.
    pub fn position(&self) -> Option<(u64, u64)> {
        self.start.filter(|_| self.is_on).map(|start| (start.generation, self.open.segment))
    }

    /// Bytes that were given out to be written, or are about to be, since the start of the process.
    pub fn logged_bytes(&self) -> u64 {
        self.queued_bytes_ever + self.open.at as u64
    }

    /// Bytes that the segment which records go to has left.
    pub fn room_bytes(&self) -> u64 {
        self.open.segment_room()
    }

    /// Bytes that are not written, those of the writes in flight included
    /// ([`crate::limits::LOG_PENDING_BYTES_MAX`]).
    pub fn pending_bytes(&self) -> usize {
        self.queued_bytes + self.open.at
    }

    /// A write failed: nothing is kept until the log is begun anew, in a new generation and after a snapshot.
    pub fn is_poisoned(&self) -> bool {
        self.error.is_some()
    }

    /// Why it is poisoned.
    pub fn error(&self) -> Option<WriteError> {
        self.error
    }

    /// Clean shutdown: whatever the policy, all is written and synced, then a last batch that says so. Done when
    /// [`Journal::is_sealed`]; changes that come before are sealed with the others.
    pub fn seal(&mut self) {
        if self.seal == Seal::No {
            self.seal = Seal::Wanted;
        }
    }

    /// Everything is durable, and the last batch on the disk says so.
    pub fn is_sealed(&self) -> bool {
        self.is_on && self.seal == Seal::Handed(self.last_lsn) && self.in_flight.is_empty() && self.unsynced.is_empty()
    }

    /// What is to be written now; to be called until there is nothing. Each write is begun, and
    /// [`Journal::handle_written`] is to be called.
    pub fn poll_write(&mut self, now: Millis, policy: FsyncPolicy) -> Option<Write> {
        let is_pressing = self.is_pressing(policy);
        // A clock that was set back must not make anything wait longer.
        let since = self.pending_since.map_or(now, |since| since.min(now));
        if self.open.has_records() {
            self.pending_since = Some(since);
        }
        if !self.is_on || self.is_held(is_pressing) {
            return None;
        }
        if self.open.has_records() {
            let is_due = is_pressing || self.is_batch_due() || now.0 - since.0 >= self.write_after_ms();
            if self.queue.is_empty() && is_due {
                self.queue_open(false);
            }
        }
        let Some(first) = self.queue.front() else {
            if !is_pressing {
                return None;
            }
            if let Some(last) = self.unsynced.back() {
                return Some(self.hand_sync(last.segment, now));
            }
            if self.is_seal_due() {
                self.queue_seal();
                let seal = self.queue.pop_front()?;
                return Some(self.hand(seal, true, now));
            }
            return None;
        };
        let (segment, begins_segment) = (first.segment, first.offset == 0);
        if begins_segment
            && is_pressing
            && let Some(before) = self.unsynced.back()
        {
            return Some(self.hand_sync(before.segment, now));
        }
        if begins_segment && self.is_segment_held(segment) {
            return None;
        }
        let queued = self.queue.pop_front()?;
        Some(self.hand(queued, is_pressing, now))
    }

    /// Each write is to be durable.
    fn is_pressing(&self, policy: FsyncPolicy) -> bool {
        policy == FsyncPolicy::Always || self.seal != Seal::No
    }

    /// Whether nothing may be handed out before something that is under way is through.
    fn is_held(&self, is_pressing: bool) -> bool {
        if is_pressing {
            // A sync speaks for one segment: those before are synced first, by `poll_sync`. Of two syncs of one file the
            // one could be told of what the other is about.
            !self.in_flight.is_empty() || self.unsynced.len() > 1 || self.side_sync.is_some()
        } else {
            self.in_flight.len() >= LOG_WRITES_IN_FLIGHT_MAX
        }
    }

    /// Whether a full batch is a reason to write: beside other writes it waits for company.
    fn is_batch_due(&self) -> bool {
        self.open.has_closed_batch() && self.in_flight.is_empty()
    }

    fn is_seal_due(&self) -> bool {
        self.seal != Seal::No && self.seal != Seal::Handed(self.last_lsn)
    }

    /// How old a record may get, milliseconds.
    fn write_after_ms(&self) -> u64 {
        if self.in_flight.is_empty() { LOG_WRITE_AFTER_MS } else { LOG_WRITE_BESIDE_AFTER_MS }
    }

    /// Whether a segment may not be begun yet, as too many before it have something which is not synced.
    fn is_segment_held(&self, segment: u64) -> bool {
        let in_flight = self.in_flight.front().map(|write| write.segment);
        let oldest = self.unsynced.front().map(|unsynced| unsynced.segment).or(in_flight);
        oldest.is_some_and(|oldest| segment - oldest >= LOG_SEGMENTS_UNSYNCED_MAX)
    }

    /// Whether what is written is to be synced now, beside the writes that may be in flight and those that follow: the
    /// first header and a segment that is complete at once, others once a second under `everysec`. Gives the segment: its
    /// sync is begun, and [`Journal::handle_synced`] is to be called. There is one at a time, the oldest segment first.
    pub fn poll_sync(&mut self, now: Millis, policy: FsyncPolicy) -> Option<u64> {
        // A clock that was set back must not make anything wait longer.
        self.sync_began = self.sync_began.min(now);
        let at = self.sync_due(now, policy)?;
        let oldest = match is_planted(Bug::LaterSegmentSyncedFirst) {
            true => self.unsynced.back(),
            false => self.unsynced.front(),
        };
        let Unsynced { segment, mut written_lsn } = *oldest.filter(|_| at <= now)?;
        if is_planted(Bug::SyncCoversLater) {
            written_lsn = self.handed_lsn();
        }
        if self.unsynced.len() == 1 {
            self.sync_began = now;
        }
        self.side_sync = Some((written_lsn, segment));
        Some(segment)
    }

    /// When [`Journal::poll_sync`] will have something if nothing else happens.
    pub fn sync_due(&self, now: Millis, policy: FsyncPolicy) -> Option<Millis> {
        let oldest = self.unsynced.front().filter(|_| self.is_on && self.side_sync.is_none())?;
        if self.unsynced.len() > 1 {
            return Some(now);
        }
        if self.is_pressing(policy) {
            // A write from before may wait for its file for long, and what is written waits for no file.
            return self.in_flight.front().filter(|write| !write.sync).map(|_| now);
        }
        let is_first_of_all = self.start.is_some_and(|start| start.segment == oldest.segment);
        if is_first_of_all && self.synced_segment.is_none() {
            return Some(now);
        }
        (policy == FsyncPolicy::EverySec).then(|| Millis(self.sync_began.min(now).0 + LOG_SYNC_AFTER_MS).max(now))
    }

    /// The sync beside writes is through.
    pub fn handle_synced(&mut self, result: Result<(), WriteError>) {
        let Some((lsn, segment)) = self.side_sync.take() else { return };
        match result {
            Ok(()) => {
                self.durable_lsn = self.durable_lsn.max(lsn);
                self.synced_segment = self.synced_segment.max(Some(segment));
                while self.unsynced.front().is_some_and(|first| first.segment <= segment && first.written_lsn <= lsn) {
                    self.unsynced.pop_front();
                }
            }
            Err(error) => self.fail(error),
        }
    }

    /// When [`Journal::poll_write`] or [`Journal::poll_sync`] will have something if nothing else happens. None: not before
    /// something that is under way is through, or something is appended.
    pub fn next_deadline(&self, now: Millis, policy: FsyncPolicy) -> Option<Millis> {
        let (write, sync) = (self.write_due(now, policy), self.sync_due(now, policy));
        write.into_iter().chain(sync).min()
    }

    /// When a write is due.
    fn write_due(&self, now: Millis, policy: FsyncPolicy) -> Option<Millis> {
        let is_pressing = self.is_pressing(policy);
        if !self.is_on || self.is_held(is_pressing) {
            return None;
        }
        let has_records = self.open.has_records();
        let next = self.queue.front().map_or((self.open.segment, self.open.offset), |next| (next.segment, next.offset));
        if next.1 == 0 && !is_pressing && self.is_segment_held(next.0) {
            return None;
        }
        let is_due = !self.queue.is_empty() || self.is_batch_due() || self.is_seal_due();
        if is_due || is_pressing && (has_records || !self.unsynced.is_empty()) {
            return Some(now);
        }
        let since = self.pending_since.unwrap_or(now).min(now);
        has_records.then(|| Millis(since.0 + self.write_after_ms()).max(now))
    }

    /// The oldest write in flight is through: `Ok(true)` if it was synced too, with all before it. The buffer comes back to be
    /// used again.
    pub fn handle_written(&mut self, result: Result<bool, WriteError>, buffer: Buffer) {
        let write = self.in_flight.pop_front().expect("a write is in flight");
        self.queued_bytes = self.queued_bytes.saturating_sub(write.bytes);
        match result {
            Ok(is_synced) => {
                self.written_lsn = write.last_lsn;
                if is_planted(Bug::WrittenIsDurable) {
                    self.durable_lsn = self.durable_lsn.max(write.last_lsn);
                }
                match self.unsynced.back_mut() {
                    Some(unsynced) if unsynced.segment == write.segment => unsynced.written_lsn = write.last_lsn,
                    _ => self.unsynced.push_back(Unsynced { segment: write.segment, written_lsn: write.last_lsn }),
                }
                if is_synced {
                    debug_assert_eq!(self.unsynced.len(), 1, "a sync speaks for one segment");
                    self.durable_lsn = self.durable_lsn.max(write.last_lsn);
                    self.synced_segment = Some(write.segment);
                    self.unsynced.clear();
                }
                self.recycle(buffer);
            }
            Err(error) => self.fail(error),
        }
    }

    fn fail(&mut self, error: WriteError) {
        self.error = Some(error);
        self.is_on = false;
        // Whatever becomes of the other writes, nobody is told.
        self.in_flight.clear();
        self.unsynced.clear();
        self.queue = VecDeque::new();
        self.queued_bytes = 0;
        self.open = Open::default();
        self.spare = Vec::new();
    }

    #[inline(always)]
    fn append(&mut self, mut encoding: Encoding<'_>) {
        let tail_bytes = encoding.tail_bytes();
        let head = encoding.head.finish(encoding.kind, encoding.flags, tail_bytes);
        if head.len() + tail_bytes <= self.open.limit - self.open.at {
            self.open.put(head, encoding.key, encoding.value);
            self.last_lsn.0 += 1;
        } else {
            self.append_elsewhere(encoding);
        }
    }

    /// Appends what does not fit into the open batch.
    #[cold]
    #[inline(never)]
    fn append_elsewhere(&mut self, mut encoding: Encoding<'_>) {
        let tail_bytes = encoding.tail_bytes();
        let head = encoding.head.finish(encoding.kind, encoding.flags, tail_bytes);
        if head.len() + tail_bytes <= self.payload_bytes_max() {
            self.open_batch(head.len() + tail_bytes);
            self.open.put(head, encoding.key, encoding.value);
            self.last_lsn.0 += 1;
            return;
        }
        let (kind, flags) = (encoding.kind, encoding.flags);
        let mut rest = Pieces([encoding.head.rest(), encoding.key, encoding.value]);
        let mut is_first = true;
        while rest.len() > 0 {
            if self.open.limit - self.open.at < SPLIT_ROOM_MIN {
                self.open_batch((PART_OVERHEAD_BYTES + rest.len()).min(self.payload_bytes_max()));
            }
            let take = rest.len().min(self.open.limit - self.open.at - PART_OVERHEAD_BYTES);
            let part = match (is_first, take == rest.len()) {
                // This batch has more room than any has.
                (true, true) => 0,
                (true, false) => PART_FIRST,
                (false, false) => PART_MIDDLE,
                (false, true) => PART_LAST,
            };
            self.put_part(kind, flags | part, &mut rest, take);
            is_first = false;
        }
    }

    fn put_part(&mut self, kind: Kind, flags: u8, rest: &mut Pieces<'_>, take: usize) {
        let mut head = super::record::Head::default();
        self.open.put(head.finish(kind, flags, take), &[], &[]);
        let at = self.open.at;
        rest.take(&mut self.open.buffer.whole_mut()[at..at + take]);
        self.open.at += take;
        self.last_lsn.0 += 1;
    }

    /// Bytes of records that a batch can take in any segment.
    fn payload_bytes_max(&self) -> usize {
        let room = self.start.map_or(u64::MAX, |start| start.first_segment_bytes - SEGMENT_HEADER_BYTES as u64);
        room.min(LOG_BATCH_BYTES_MAX as u64) as usize - BATCH_HEADER_BYTES
    }

    /// Closes the open batch and begins one with room for `need` bytes of records at least, where that much is left.
    fn open_batch(&mut self, need: usize) {
        self.close_batch(0);
        let need = pages_up(BATCH_HEADER_BYTES + need);
        if (need as u64) > self.open.segment_room() {
            let next = self.open.segment + 1;
            self.queue_open(false);
            self.open_segment(next);
        } else if need > self.open.buffer_room() {
            self.queue_open(false);
            self.open.buffer = self.take_buffer();
        }
        let open = &mut self.open;
        let room = open.segment_room().min(open.buffer_room() as u64).min(LOG_BATCH_BYTES_MAX as u64) as usize;
        assert!(room >= need);
        open.batch = open.at;
        open.limit = open.at + room;
        open.at += BATCH_HEADER_BYTES;
        open.count = 0;
    }

    /// Ends the open batch, if there is one with records or a seal in it.
    fn close_batch(&mut self, flags: u16) {
        let Some(start) = self.start else { return };
        let open = &mut self.open;
        if open.count > 0 || flags & BATCH_IS_SEAL != 0 {
            let content = BatchContent {
                payload_bytes: open.at - open.batch - BATCH_HEADER_BYTES,
                count: open.count,
                owner: BatchOwner {
                    salt: start.salt,
                    generation: start.generation,
                    segment: open.segment,
                    shard: start.shard,
                },
                first_lsn: self.last_lsn.0 + 1 - open.count as u64,
                flags,
                last_txid: self.last_txid,
            };
            let (batch, at, end) = (open.batch, open.at, pages_up(open.at));
            let bytes = open.buffer.whole_mut();
            content.encode(&mut bytes[batch..]);
            bytes[at..end].fill(0);
            open.batch = end;
        }
        open.at = open.batch;
        open.limit = open.batch;
        open.count = 0;
    }

    /// Begins the next segment, with room for its header. The open buffer is queued already.
    fn open_segment(&mut self, segment: u64) {
        let buffer = self.take_buffer();
        let at = SEGMENT_HEADER_BYTES;
        let segment_bytes = self.start.map_or(0, |start| start.segment_bytes(segment));
        self.open = Open { buffer, segment, segment_bytes, offset: 0, batch: at, at, limit: at, count: 0 };
    }

    /// Queues the open buffer, if there is anything in it, as far as it is filled. What comes next is another buffer.
    fn queue_open(&mut self, is_seal: bool) {
        self.close_batch(if is_seal { BATCH_IS_SEAL } else { 0 });
        self.pending_since = None;
        let len = self.open.at;
        let mut buffer = std::mem::take(&mut self.open.buffer);
        if len == 0 {
            self.recycle(buffer);
            return;
        }
        buffer.set_len(len);
        self.queued_bytes += len;
        self.queued_bytes_ever += len as u64;
        let first_lsn = Lsn(self.queue.back().map_or(self.handed_lsn(), |before| before.last_lsn).0 + 1);
        self.queue.push_back(Queued {
            segment: self.open.segment,
            offset: self.open.offset,
            buffer,
            first_lsn,
            last_lsn: self.last_lsn,
            last_txid: self.last_txid,
            is_seal,
        });
        self.open.offset += len as u64;
        (self.open.batch, self.open.at, self.open.limit) = (0, 0, 0);
    }

    fn queue_seal(&mut self) {
        self.open_batch(0);
        self.queue_open(true);
    }

    /// The last record that is written or in flight.
    fn handed_lsn(&self) -> Lsn {
        self.in_flight.back().map_or(self.written_lsn, |write| write.last_lsn)
    }

    /// Completes headers and gives a queued buffer out.
    fn hand(&mut self, queued: Queued, sync: bool, now: Millis) -> Write {
        let Queued { segment, offset, mut buffer, first_lsn, last_lsn, is_seal, .. } = queued;
        let len = buffer.len();
        let bytes = &mut buffer.whole_mut()[..len];
        let mut at = 0;
        if let (0, Some(start)) = (offset, self.start) {
            let header = SegmentHeader {
                database: start.database,
                generation: start.generation,
                segment,
                salt: start.salt,
                first_lsn: first_lsn.0,
                previous: self.previous.map(|(last, crc)| (last.0, crc)),
                shard: start.shard,
                shards: start.shards,
                last_txid: self.handed_txid,
                segment_bytes: start.segment_bytes(segment),
                wall_ms: now.0,
                durable_lsn: self.durable_lsn.0,
            };
            header.encode(bytes);
            at = SEGMENT_HEADER_BYTES;
        }
        while at < len {
            let moment = BatchMoment {
                durable_lsn: self.durable_lsn.0,
                previous_crc: self.last_crc,
                is_header_durable: self.synced_segment == Some(segment),
                wall_ms: now.0,
            };
            let (batch_bytes, crc) = moment.complete(&mut bytes[at..]);
            at += batch_bytes;
            self.last_crc = crc;
            self.previous = Some((last_lsn, crc));
        }
        if is_seal {
            self.seal = Seal::Handed(last_lsn);
        }
        self.handed_txid = queued.last_txid;
        self.handed_end = offset + len as u64;
        self.in_flight.push_back(InFlight { segment, last_lsn, bytes: len, sync });
        if sync {
            self.sync_began = now;
        }
        Write { segment, offset, buffer, sync, last_lsn }
    }

    /// A sync of the last segment that was written to.
    fn hand_sync(&mut self, segment: u64, now: Millis) -> Write {
        self.sync_began = now;
        let last_lsn = self.written_lsn;
        self.in_flight.push_back(InFlight { segment, last_lsn, bytes: 0, sync: true });
        Write { segment, offset: self.handed_end, buffer: Buffer::default(), sync: true, last_lsn }
    }

    fn take_buffer(&mut self) -> Buffer {
        self.spare.pop().unwrap_or_else(|| Buffer::with_room(BUFFER_BYTES))
    }

    fn recycle(&mut self, mut buffer: Buffer) {
        if buffer.room() == BUFFER_BYTES && self.spare.len() < LOG_BUFFERS_KEPT_MAX {
            buffer.set_len(0);
            self.spare.push(buffer);
        }
    }
}

impl Open {
    /// Whether there are records in it, in a closed batch or the open one.
    fn has_records(&self) -> bool {
        self.count > 0 || self.has_closed_batch()
    }

    fn has_closed_batch(&self) -> bool {
        self.batch > if self.offset == 0 { SEGMENT_HEADER_BYTES } else { 0 }
    }

    fn segment_room(&self) -> u64 {
        self.segment_bytes - self.offset - self.at as u64
    }

    fn buffer_room(&self) -> usize {
        self.buffer.room().saturating_sub(self.at)
    }

    /// Appends what there is room for as one record, or as the beginning of one.
    #[inline(always)]
    fn put(&mut self, head: &[u8], key: &[u8], value: &[u8]) {
        let (at, limit) = (self.at, self.limit);
        let (head_room, rest) = self.buffer.whole_mut()[at..limit].split_at_mut(head.len());
        let (key_room, rest) = rest.split_at_mut(key.len());
        head_room.copy_from_slice(head);
        key_room.copy_from_slice(key);
        rest[..value.len()].copy_from_slice(value);
        self.at = at + head.len() + key.len() + value.len();
        self.count += 1;
    }
}

/// Bytes that lie in three places, taken off the front.
struct Pieces<'a>([&'a [u8]; 3]);

impl Pieces<'_> {
    fn len(&self) -> usize {
        self.0.iter().map(|piece| piece.len()).sum()
    }

    /// Fills `room`; there must be as much.
    fn take(&mut self, mut room: &mut [u8]) {
        for piece in &mut self.0 {
            let (now, later) = piece.split_at(piece.len().min(room.len()));
            let (filled, rest) = room.split_at_mut(now.len());
            filled.copy_from_slice(now);
            (*piece, room) = (later, rest);
        }
        assert!(room.is_empty());
    }
}
