//! Reads the segments of one shard's log in order, and says where it ends and why there.
//!
//! A log ends where no batch follows. That may be where the process stopped, where a crash tore what was being written, or
//! where the disk lost something that was promised; they are told apart by what comes later:
//!
//! - The next segment has a header that names the last record and its checksum: the log goes on there. A header that names
//!   this record with another checksum, or an earlier record, is damage.
//! - A header or a batch behind it, in whichever segment, says which record was durable when it was written. If that is
//!   past the end, something is missing. So it is if a batch says that its segment's header was durable, and that is not
//!   there.
//! - Otherwise what is there was never known to be durable: a torn tail, of one segment or of several. Nothing of it is
//!   used, not even whole batches behind the tear, as the changes before them are gone.
//! - Otherwise there is nothing, or what an earlier use of the file left behind: a sound end.
//!
//! What no later evidence tells from a torn tail is damage to what was written last. A seal is such evidence, so after a clean
//! shutdown nothing is mistaken.
//!
//! The search for evidence looks at the beginning of each page up to the end of the file, and of files behind it.

use std::cmp::Ordering;

use thiserror::Error;

use super::Lsn;
use super::format::{BatchHeader, BatchOwner, HeaderFound, PAGE_BYTES, SEGMENT_HEADER_BYTES, SegmentHeader, VERSION};
use super::record::{PART_FIRST, PART_LAST, PART_MASK, Raw, Reader, Record};
use crate::id::Millis;
use crate::limits::LOG_REPLAY_RECORDS;
use crate::planted::{Bug, is_planted};

/// A file of the log.
#[derive(Clone, Copy, Debug)]
pub struct Segment<'a> {
    /// As its name says.
    pub generation: u64,
    pub segment: u64,
    pub bytes: &'a [u8],
}

/// What is known of the log before it is read.
#[derive(Clone, Copy, Debug)]
pub struct Expected {
    pub database: [u8; 16],
    /// The shard that wrote it.
    pub shard: u16,
    /// The last record whose effect is in the snapshot, which need not be in the log and is not shown; 0 without one.
    pub base: Lsn,
}

/// What was read, when all of it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// The last record in the log, or the base if there is none. The next log begins after this and after the base.
    pub last_lsn: Lsn,
    /// For the next log ([`super::LogStart::previous`]).
    pub previous: Option<(Lsn, u32)>,
    /// The last transaction over shards that is whole; 0: none.
    pub last_txid: u64,
    /// The latest time that a batch or header was written: the clock was there already.
    pub wall_ms: Millis,
    /// Generation and number of the last segment with a header: those behind it hold nothing.
    pub last_segment: Option<(u64, u64)>,
    /// Where the records end; None: there are none. Segments behind it hold headers and seals at most, and are not needed: the
    /// next log may begin here instead.
    pub records_end: Option<RecordsEnd>,
    /// The process stopped in order.
    pub is_sealed: bool,
    /// Changes shown, and bytes of the log read, headers and padding included.
    pub changes: u64,
    pub bytes: u64,
    pub tail: Tail,
}

/// The end of the last segment with records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordsEnd {
    pub generation: u64,
    pub segment: u64,
    /// Where the last batch ends, which may be a seal. Nothing behind it was ever durable.
    pub offset: u64,
    /// For a next log that begins here ([`super::LogStart::previous`]).
    pub previous: Option<(Lsn, u32)>,
}

/// What is behind the last record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tail {
    /// Nothing of this log.
    Sound,
    /// What a crash left of writes that were not synced.
    Torn(TornTail),
}

/// Bytes that are to be kept aside and zeroed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TornTail {
    pub generation: u64,
    pub segment: u64,
    pub offset: u64,
    pub bytes: u64,
    /// The last segment, of the same generation, that has a part of the tail: of those behind the first nothing counts.
    pub last_segment: u64,
}

/// Something that was durable is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("segment {segment} of generation {generation}, offset {offset}: {why}; {}", match first.cmp(last) {
    Ordering::Less => format!("record {first} cannot be read, and those after it, which were durable up to {last}, are in doubt"),
    Ordering::Equal => format!("record {first} was durable and cannot be read"),
    Ordering::Greater => format!("record {first} and what follows cannot be read"),
})]
pub struct Damage {
    pub generation: u64,
    pub segment: u64,
    /// Where reading stopped.
    pub offset: u64,
    /// The first record that is missing, and the last that is known to have been durable; less than the first if none is.
    pub first: Lsn,
    pub last: Lsn,
    pub why: Why,
}

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Why {
    #[error("the header of the segment is damaged or missing")]
    Header,
    #[error("a batch is damaged or missing that a later one says was durable")]
    Batch,
    #[error("it does not end where the next segment says")]
    Link,
    #[error("the log begins after the snapshot ends")]
    Start,
    #[error("a whole batch is out of order")]
    Order,
    #[error("a whole batch has a record that cannot be read")]
    Record,
    #[error("it belongs to another database")]
    Database,
    #[error("it has format version {0}, and this program reads version {VERSION}")]
    Version(u32),
}

/// Where reading is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    pub generation: u64,
    pub segment: u64,
    /// In the segment's file: behind the last batch that was read.
    pub offset: u64,
    /// The last record that was read, or where the segment says that reading begins.
    pub last_lsn: Lsn,
    /// The last batch that was read is a seal.
    pub is_sealed: bool,
}

/// A log that is being read.
#[derive(Debug)]
pub struct Replay<'a> {
    expected: Expected,
    segments: &'a [Segment<'a>],
    /// The segment that is being read, and its header. None before the first one with a header.
    current: Option<(usize, SegmentHeader)>,
    offset: usize,
    is_done: bool,
    last_lsn: u64,
    last_crc: u32,
    /// What is read of a record that was cut, and its type and flags.
    parts: Vec<u8>,
    parts_of: Option<(u8, u8)>,
    /// Something was left out: parts may lack their beginning.
    has_skipped: bool,
    group: Vec<(Lsn, Record<'a>)>,
    end: End,
}

/// Where the reading of a log was left, without the files.
#[derive(Debug)]
pub struct Paused {
    expected: Expected,
    current: Option<(usize, SegmentHeader)>,
    offset: usize,
    is_done: bool,
    last_lsn: u64,
    last_crc: u32,
    parts: Vec<u8>,
    parts_of: Option<(u8, u8)>,
    has_skipped: bool,
    end: End,
}

impl Paused {
    /// How many segments, from the first on, are not looked at any more: they may be given without bytes.
    pub fn segments_done(&self) -> usize {
        self.current.as_ref().map_or(0, |(index, _)| *index)
    }
}

impl Segment<'_> {
    /// Where what was written to it in this use of the file ends, whole or torn, by its headers.
    pub fn written_bytes(&self, shard: u16) -> u64 {
        let own = |generation, segment, of| (generation, segment, of) == (self.generation, self.segment, shard);
        let header = match SegmentHeader::parse(self.bytes) {
            HeaderFound::Valid(header) if own(header.generation, header.segment, header.shard) => SEGMENT_HEADER_BYTES,
            _ => 0,
        };
        search(self.bytes, |found| own(found.generation, found.segment, found.shard)).end.max(header) as u64
    }
}

impl<'a> Replay<'a> {
    /// A reader of one shard's segments, sorted by generation, then number; from the first that may have records behind
    /// the base on.
    pub fn new(expected: Expected, segments: &'a [Segment<'a>]) -> Replay<'a> {
        assert!(segments.is_sorted_by_key(|segment| (segment.generation, segment.segment)));
        Replay {
            expected,
            segments,
            current: None,
            offset: 0,
            is_done: false,
            last_lsn: expected.base.0,
            last_crc: 0,
            parts: Vec::new(),
            parts_of: None,
            has_skipped: false,
            group: Vec::with_capacity(LOG_REPLAY_RECORDS),
            end: End {
                last_lsn: expected.base,
                previous: None,
                last_txid: 0,
                wall_ms: Millis(0),
                last_segment: None,
                records_end: None,
                is_sealed: false,
                changes: 0,
                bytes: 0,
                tail: Tail::Sound,
            },
        }
    }

    /// Leaves off between two steps.
    pub fn pause(self) -> Paused {
        let Replay {
            expected, current, offset, is_done, last_lsn, last_crc, parts, parts_of, has_skipped, end, ..
        } = self;
        Paused { expected, current, offset, is_done, last_lsn, last_crc, parts, parts_of, has_skipped, end }
    }

    /// Goes on where the same segments were left.
    pub fn resume(paused: Paused, segments: &'a [Segment<'a>]) -> Replay<'a> {
        let Paused { expected, current, offset, is_done, last_lsn, last_crc, parts, parts_of, has_skipped, end } =
            paused;
        Replay {
            expected,
            segments,
            current,
            offset,
            is_done,
            last_lsn,
            last_crc,
            parts,
            parts_of,
            has_skipped,
            group: Vec::with_capacity(LOG_REPLAY_RECORDS),
            end,
        }
    }

    /// Reads one batch and shows its changes in order, several at a time. False: there are no more, and
    /// [`Replay::end`] has the rest. After damage nothing more is to be had but by [`Replay::skip_damage`].
    pub fn step(&mut self, mut visit: impl FnMut(&[(Lsn, Record<'_>)])) -> Result<bool, Damage> {
        loop {
            if self.is_done {
                return Ok(false);
            }
            if let Some((index, header)) = self.current
                && let Some((batch, payload)) = self.batch_here(index, &header)
            {
                if batch.first_lsn != self.next_lsn()
                    || batch.previous_crc != self.last_crc
                    || batch.durable_lsn >= batch.first_lsn
                {
                    return Err(self.damage(batch.first_lsn.saturating_sub(1), Why::Order));
                }
                self.read_batch(&batch, payload, &mut visit)?;
                return Ok(true);
            }
            self.next_segment()?;
        }
    }

    /// What was read, when [`Replay::step`] has returned false.
    pub fn end(&self) -> End {
        assert!(self.is_done);
        self.end
    }

    /// Bytes read so far, headers and padding included.
    pub fn bytes_read(&self) -> u64 {
        self.end.bytes
    }

    /// Where reading is; None before the first segment with a header.
    pub fn position(&self) -> Option<Position> {
        let (index, _) = self.current?;
        let Segment { generation, segment, .. } = self.segments[index];
        let (offset, last_lsn) = (self.offset as u64, Lsn(self.last_lsn));
        Some(Position { generation, segment, offset, last_lsn, is_sealed: self.end.is_sealed })
    }

    /// After damage: goes on at the next whole batch of this segment, or with a later segment. Returns the first and the last
    /// record that are left out, the last being less than the first if there is none; None: nothing follows, the log ends
    /// here. A change that was cut is left out if a part of it is. For salvage: the log stays as it is, so what is
    /// read belongs into a snapshot.
    pub fn skip_damage(&mut self) -> Option<(Lsn, Lsn)> {
        self.group.clear();
        let first = Lsn(self.next_lsn());
        let mut from = 0;
        if let Some((index, header)) = self.current {
            let owner = owner_of(&header);
            if let Some((at, batch)) = self.next_batch(index, self.offset + PAGE_BYTES, |found| *found == owner) {
                self.enter_at(index, header, at, &batch);
                return Some(self.left_out(first));
            }
            from = index + 1;
        }
        for index in from..self.segments.len() {
            match self.header_of(index) {
                Ok(Some(header)) if header.first_lsn > self.last_lsn => {
                    self.enter(index, header);
                    return Some(self.left_out(first));
                }
                Ok(None) => {
                    let Segment { generation, segment, bytes } = self.segments[index];
                    let shard = self.expected.shard;
                    let found = self.next_batch(index, 0, |found| {
                        (found.generation, found.segment, found.shard) == (generation, segment, shard)
                    });
                    if let Some((at, batch)) = found {
                        // What its header must have said, as far as it matters.
                        let header = SegmentHeader {
                            database: self.expected.database,
                            generation,
                            segment,
                            salt: batch.owner.salt,
                            first_lsn: batch.first_lsn,
                            previous: None,
                            shard,
                            shards: 0,
                            last_txid: 0,
                            segment_bytes: bytes.len() as u64,
                            wall_ms: batch.wall_ms,
                            durable_lsn: batch.durable_lsn,
                        };
                        self.enter_at(index, header, at, &batch);
                        return Some(self.left_out(first));
                    }
                }
                Ok(Some(_)) | Err(_) => {}
            }
        }
        self.is_done = true;
        None
    }

    /// From `first` to where reading goes on.
    fn left_out(&mut self, first: Lsn) -> (Lsn, Lsn) {
        let last = Lsn(self.last_lsn);
        if last >= first {
            self.drop_parts();
            self.has_skipped = true;
        }
        (first, last)
    }

    /// The next whole batch behind what was read.
    fn next_batch(
        &self,
        index: usize,
        from: usize,
        is_own: impl Fn(&BatchOwner) -> bool,
    ) -> Option<(usize, BatchHeader)> {
        let bytes = self.segments[index].bytes;
        (from..bytes.len()).step_by(PAGE_BYTES).find_map(|at| {
            let (batch, _) = whole_batch(&bytes[at..], &is_own)?;
            (batch.first_lsn > self.last_lsn).then_some((at, batch))
        })
    }

    fn enter_at(&mut self, index: usize, header: SegmentHeader, at: usize, batch: &BatchHeader) {
        self.current = Some((index, header));
        self.offset = at;
        self.last_lsn = batch.first_lsn - 1;
        self.last_crc = batch.previous_crc;
        self.end.last_lsn = Lsn(self.last_lsn);
        self.end.previous = Some((self.end.last_lsn, self.last_crc));
    }

    fn drop_parts(&mut self) {
        self.parts = Vec::new();
        self.parts_of = None;
    }

    /// The last record that was read or is in the snapshot: what was durable up to here is not missing.
    fn known_lsn(&self) -> u64 {
        self.last_lsn.max(self.expected.base.0)
    }

    fn next_lsn(&self) -> u64 {
        self.last_lsn.saturating_add(1)
    }

    /// The batch of this log at the current place, if it is whole.
    fn batch_here(&self, index: usize, header: &SegmentHeader) -> Option<(BatchHeader, &'a [u8])> {
        let bytes = self.segments[index].bytes.get(self.offset..)?;
        whole_batch(bytes, |owner| *owner == owner_of(header))
    }

    fn read_batch(
        &mut self,
        batch: &BatchHeader,
        payload: &'a [u8],
        visit: &mut impl FnMut(&[(Lsn, Record<'_>)]),
    ) -> Result<(), Damage> {
        let mut reader = Reader(payload);
        for at in 0..batch.count as u64 {
            let lsn = Lsn(batch.first_lsn.saturating_add(at));
            let is_read = reader.record().and_then(|raw| self.read_record(lsn, raw, visit));
            if is_read.is_none() {
                return Err(self.damage(batch.end_lsn().saturating_sub(1), Why::Record));
            }
        }
        if !reader.0.is_empty() {
            return Err(self.damage(batch.end_lsn().saturating_sub(1), Why::Record));
        }
        self.show(visit);
        self.last_lsn = batch.end_lsn().saturating_sub(1);
        self.last_crc = batch.crc;
        self.offset += batch.batch_bytes();
        let end = &mut self.end;
        end.last_lsn = Lsn(self.last_lsn);
        end.previous = Some((end.last_lsn, self.last_crc));
        end.last_txid = end.last_txid.max(batch.last_txid);
        end.wall_ms = end.wall_ms.max(Millis(batch.wall_ms));
        end.is_sealed = batch.is_seal;
        end.bytes += batch.batch_bytes() as u64;
        let BatchOwner { generation, segment, .. } = batch.owner;
        let is_of = |found: RecordsEnd| (found.generation, found.segment) == (generation, segment);
        if batch.count > 0 || end.records_end.is_some_and(is_of) {
            let offset = self.offset as u64;
            end.records_end = Some(RecordsEnd { generation, segment, offset, previous: end.previous });
        }
        Ok(())
    }

    /// None: it cannot be read.
    #[inline]
    fn read_record(&mut self, lsn: Lsn, raw: Raw<'a>, visit: &mut impl FnMut(&[(Lsn, Record<'_>)])) -> Option<()> {
        let is_wanted = lsn > self.expected.base;
        if raw.part() == 0 {
            if self.parts_of.is_some() {
                return None;
            }
            if is_wanted {
                if self.group.len() == LOG_REPLAY_RECORDS {
                    self.show(visit);
                }
                self.group.push((lsn, raw.whole()?));
            }
            return Some(());
        }
        let of = (raw.kind, raw.flags & !PART_MASK);
        match (raw.part(), self.parts_of) {
            (PART_FIRST, None) => self.parts_of = Some(of),
            (PART_FIRST, Some(_)) => return None,
            (_, Some(begun)) if begun == of => {}
            // Its beginning is in a segment that the snapshot has made superfluous, or damaged.
            (_, None) if !is_wanted || self.has_skipped => return Some(()),
            _ => return None,
        }
        self.parts.extend_from_slice(raw.rest);
        if raw.part() == PART_LAST {
            self.show(visit);
            let record = Record::decode(raw.kind, raw.flags, &self.parts)?;
            if is_wanted {
                visit(&[(lsn, record)]);
                self.end.changes += 1;
            }
            self.drop_parts();
        }
        Some(())
    }

    fn show(&mut self, visit: &mut impl FnMut(&[(Lsn, Record<'_>)])) {
        if !self.group.is_empty() {
            visit(&self.group);
            self.end.changes += self.group.len() as u64;
            self.group.clear();
        }
    }

    /// Goes on to the next segment with a header if the current one ends where that says, or to the end.
    fn next_segment(&mut self) -> Result<(), Damage> {
        let from = self.current.map_or(0, |(index, _)| index + 1);
        for index in from..self.segments.len() {
            let Some(next) = self.header_of(index)? else { continue };
            let is_in_snapshot = next.first_lsn <= self.expected.base.0.saturating_add(1);
            match self.current {
                None if !is_in_snapshot && next.durable_lsn > self.known_lsn() => {
                    let (first, last) = (self.expected.base.0.saturating_add(1), next.durable_lsn);
                    return Err(damage(&self.segments[index], 0, first, last, Why::Start));
                }
                // What is between was not durable, and is gone. A later generation may have begun where it ended.
                None if !is_in_snapshot => continue,
                Some((_, current)) if !self.follows(&current, &next, is_in_snapshot) => {
                    if is_planted(Bug::TornTailRead) {
                        self.enter(index, next);
                        return Ok(());
                    }
                    if next.first_lsn > self.next_lsn() && next.durable_lsn <= self.known_lsn() {
                        continue;
                    }
                    return Err(self.damage(next.first_lsn - 1, Why::Link));
                }
                Some((_, current)) if current.generation == next.generation => {}
                // What was begun in a generation is not continued in the next.
                _ => self.drop_parts(),
            }
            self.enter(index, next);
            return Ok(());
        }
        self.end.tail = self.judge(from)?;
        self.is_done = true;
        Ok(())
    }

    fn follows(&self, current: &SegmentHeader, next: &SegmentHeader, is_in_snapshot: bool) -> bool {
        let is_same_log = current.generation != next.generation
            || (current.segment.wrapping_add(1) == next.segment && current.salt == next.salt);
        let previous = next.previous.map(|(last, crc)| (Lsn(last), crc));
        // Or it was begun behind a snapshot.
        let is_linked = previous == self.end.previous || previous.is_none() && is_in_snapshot;
        let is_without_gap = next.first_lsn == self.next_lsn() || is_in_snapshot && next.first_lsn > self.last_lsn;
        is_same_log && is_linked && is_without_gap
    }

    fn enter(&mut self, index: usize, header: SegmentHeader) {
        self.current = Some((index, header));
        self.offset = SEGMENT_HEADER_BYTES;
        self.last_lsn = header.first_lsn - 1;
        self.last_crc = header.previous.map_or(0, |(_, crc)| crc);
        let end = &mut self.end;
        end.last_lsn = Lsn(self.last_lsn);
        end.last_segment = Some((header.generation, header.segment));
        end.previous = header.previous.map(|(last, crc)| (Lsn(last), crc));
        end.last_txid = end.last_txid.max(header.last_txid);
        end.wall_ms = end.wall_ms.max(Millis(header.wall_ms));
        end.bytes += SEGMENT_HEADER_BYTES as u64;
        end.is_sealed = false;
    }

    /// The header of a segment if it is this segment's, and not what an earlier use of the file left.
    fn header_of(&self, index: usize) -> Result<Option<SegmentHeader>, Damage> {
        let segment = &self.segments[index];
        let refuse = |why| Err(damage(segment, 0, self.next_lsn(), self.last_lsn, why));
        match SegmentHeader::parse(segment.bytes) {
            HeaderFound::OtherVersion(version) => refuse(Why::Version(version)),
            HeaderFound::Valid(header)
                if (header.generation, header.segment, header.shard)
                    == (segment.generation, segment.segment, self.expected.shard) =>
            {
                match header {
                    _ if header.database != self.expected.database => refuse(Why::Database),
                    // Records are numbered from 1.
                    _ if header.first_lsn == 0 => refuse(Why::Order),
                    _ => Ok(Some(header)),
                }
            }
            HeaderFound::Valid(_) | HeaderFound::None => Ok(None),
        }
    }

    /// What lies behind the last batch, when no later segment goes on there. `from`: the first of the later ones.
    fn judge(&self, from: usize) -> Result<Tail, Damage> {
        let mut torn: Option<TornTail> = None;
        if let Some((index, header)) = self.current {
            let segment = &self.segments[index];
            let owner = owner_of(&header);
            let rest = segment.bytes.get(self.offset..).unwrap_or_default();
            let found = search(rest, |found| *found == owner);
            if found.durable_lsn + u64::from(is_planted(Bug::TornTailRefused)) > self.known_lsn() && found.end > 0 {
                return Err(self.damage(found.durable_lsn, Why::Batch));
            }
            let end = if BatchHeader::resembles(rest, &owner, self.next_lsn()) {
                found.end.max(PAGE_BYTES.min(rest.len()))
            } else {
                found.end
            };
            torn = torn_tail(segment, self.offset, end);
        }
        for (index, segment) in self.segments.iter().enumerate().skip(from) {
            let header = self.header_of(index)?;
            if let Some(header) = header.filter(|header| header.durable_lsn > self.known_lsn()) {
                return Err(self.damage(header.durable_lsn, Why::Link));
            }
            let salt = self.current.filter(|(_, header)| header.generation == segment.generation).map(|(_, h)| h.salt);
            let found = search(segment.bytes, |found| {
                (found.generation, found.segment, found.shard)
                    == (segment.generation, segment.segment, self.expected.shard)
                    && salt.is_none_or(|salt| salt == found.salt)
            });
            if found.durable_lsn > self.known_lsn() || found.is_header_durable && header.is_none() {
                return Err(damage(segment, 0, self.next_lsn(), found.durable_lsn, Why::Header));
            }
            let end = found.end.max(header.map_or(0, |_| SEGMENT_HEADER_BYTES));
            let here = torn_tail(segment, 0, end);
            match &mut torn {
                Some(first) if here.is_some() && first.generation == segment.generation => {
                    first.last_segment = segment.segment;
                }
                _ => torn = torn.or(here),
            }
        }
        Ok(torn.map_or(Tail::Sound, Tail::Torn))
    }

    /// Damage at the current place.
    fn damage(&self, last: u64, why: Why) -> Damage {
        let (segment, offset) = match self.current {
            Some((index, _)) => (&self.segments[index], self.offset),
            None => (&self.segments[0], 0),
        };
        damage(segment, offset, self.next_lsn(), last, why)
    }
}

fn damage(segment: &Segment<'_>, offset: usize, first: u64, last: u64, why: Why) -> Damage {
    let Segment { generation, segment, .. } = *segment;
    Damage { generation, segment, offset: offset as u64, first: Lsn(first), last: Lsn(last), why }
}

fn torn_tail(segment: &Segment<'_>, offset: usize, bytes: usize) -> Option<TornTail> {
    let Segment { generation, segment, .. } = *segment;
    let (offset, bytes) = (offset as u64, bytes as u64);
    (bytes > 0).then_some(TornTail { generation, segment, offset, bytes, last_segment: segment })
}

fn owner_of(header: &SegmentHeader) -> BatchOwner {
    BatchOwner { salt: header.salt, generation: header.generation, segment: header.segment, shard: header.shard }
}

/// The batch at the beginning of `bytes`, if it is one of this owner's and as it was written.
fn whole_batch(bytes: &[u8], is_own: impl Fn(&BatchOwner) -> bool) -> Option<(BatchHeader, &[u8])> {
    let header = BatchHeader::parse(bytes).filter(|header| is_own(&header.owner))?;
    // No log has as many records, but bytes may say so, and then two of them would have one number.
    header.first_lsn.checked_add(header.count.into())?;
    Some((header, header.payload(bytes)?))
}

/// What is found behind the end of a log.
#[derive(Default)]
struct Found {
    /// The highest that a whole batch says was durable.
    durable_lsn: u64,
    is_header_durable: bool,
    /// Where the last batch ends, whole or not; 0 if there is none.
    end: usize,
}

/// Looks for batches of this owner at the beginning of each page.
fn search(bytes: &[u8], is_own: impl Fn(&BatchOwner) -> bool) -> Found {
    let mut found = Found::default();
    for at in (0..bytes.len()).step_by(PAGE_BYTES) {
        let page = &bytes[at..];
        let Some(header) = BatchHeader::parse(page).filter(|header| is_own(&header.owner)) else {
            continue;
        };
        // Of a damaged header not even the length can be believed.
        let mut batch_bytes = PAGE_BYTES;
        if header.payload(page).is_some() {
            found.durable_lsn = found.durable_lsn.max(header.durable_lsn);
            found.is_header_durable |= header.is_header_durable;
            batch_bytes = header.batch_bytes();
        } else if header.batch_bytes() <= crate::limits::LOG_BATCH_BYTES_MAX {
            batch_bytes = header.batch_bytes();
        }
        found.end = found.end.max(at + batch_bytes.min(page.len()));
    }
    found
}
