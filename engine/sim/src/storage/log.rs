//! A shard's log on its way to its segments, as `runtime/src/disk/log.rs` drives it: takes what the journal has to write, finds its
//! file, writes late, and tells the journal what is durable.

use std::collections::{BTreeMap, VecDeque};

use torc_engine::id::Millis;
use torc_engine::log::{Buffer, FsyncPolicy, Journal, LogStart, Write, WriteError, WriteStep};
use torc_engine::shard::Writes;

use super::faults::Weather;
use super::folder::{FileId, Folder, Name};
use crate::coverage::{Coverage, Event};
use crate::oracle::Oracle;

/// How long a flush may take before who writes waits, and before it is refused, as the runtime has it, milliseconds.
const FLUSH_SLOW_MS: u64 = 2_000;
const FLUSH_STUCK_MS: u64 = 10_000;
/// Steps after which the next try to make a segment comes.
const SEGMENT_RETRY_STEPS: u64 = 30;

#[derive(Debug)]
pub(crate) struct LogDriver {
    shard: u16,
    start: LogStart,
    /// The segments that have something which may not be synced, and their files; the last is written to.
    segments: BTreeMap<u64, FileId>,
    /// The segment after it.
    next: u64,
    lane: Lane,
    /// What waits for the file of its segment, and since when.
    waiting: Option<(Write, Millis)>,
    in_flight: VecDeque<InFlight>,
    side: Option<Sync>,
    has_failed: bool,
}

/// How the next segment stands.
#[derive(Clone, Copy, Debug)]
enum Lane {
    Making { until: u64 },
    Ready(FileId),
    Full { retry: u64 },
}

#[derive(Debug)]
struct InFlight {
    segment: u64,
    file: FileId,
    /// In the file; None: only a sync.
    write: Option<u64>,
    buffer: Buffer,
    sync: bool,
    error: Option<WriteError>,
    until: u64,
    since: Millis,
    /// It is through; those before it may not be.
    has_ended: bool,
}

/// A sync beside the writes.
#[derive(Debug)]
struct Sync {
    file: FileId,
    writes: Vec<u64>,
    error: Option<WriteError>,
    until: u64,
    since: Millis,
}

/// What a driver works with.
pub(crate) struct Tools<'a> {
    pub folder: &'a mut Folder,
    pub weather: &'a mut Weather,
    pub oracle: &'a mut Oracle,
    pub coverage: &'a mut Coverage,
    pub step: u64,
    pub now: Millis,
}

impl LogDriver {
    /// A driver for a log that begins so, with the file of its first segment if that is there.
    pub fn new(start: LogStart, first: Option<FileId>) -> LogDriver {
        LogDriver {
            shard: start.shard,
            start,
            segments: BTreeMap::new(),
            next: start.segment,
            lane: first.map_or(Lane::Making { until: 0 }, Lane::Ready),
            waiting: None,
            in_flight: VecDeque::new(),
            side: None,
            has_failed: false,
        }
    }

    /// Takes what the disk has done, before a turn of the shard. True: there was something, which wakes it.
    pub fn collect(&mut self, journal: &mut Journal, tools: &mut Tools<'_>) -> bool {
        if tools.weather.is_stalled(tools.step) {
            return false;
        }
        let under_way =
            (self.in_flight.len(), self.side.is_some(), matches!(self.lane, Lane::Ready(_)), self.is_full());
        self.advance_lane(tools);
        self.end_side(journal, tools);
        self.end_writes(journal, tools);
        if self.has_failed {
            self.waiting = None;
        }
        under_way != (self.in_flight.len(), self.side.is_some(), matches!(self.lane, Lane::Ready(_)), self.is_full())
    }

    /// What the runtime does for a log after a turn of its shard.
    pub fn serve(&mut self, journal: &mut Journal, policy: FsyncPolicy, tools: &mut Tools<'_>) {
        if self.has_failed {
            return;
        }
        if let Some((write, since)) = self.waiting.take() {
            self.begin(write, since, tools);
        }
        while self.takes_writes()
            && let Some(write) = journal.poll_write(tools.now, policy)
        {
            tools.oracle.note_write(self.shard, self.start.generation, &write);
            self.begin(write, tools.now, tools);
        }
        if self.side.is_none()
            && let Some(segment) = journal.poll_sync(tools.now, policy)
        {
            self.segments = self.segments.split_off(&segment);
            let file = *self.segments.get(&segment).expect("it was written to");
            // A snapshot may have made it superfluous, and it is gone.
            let writes = tools.folder.file(file).map(|file| file.begin_sync()).unwrap_or_default();
            let error = tools.weather.log_error().map(|errno| WriteError { step: WriteStep::Sync, errno });
            let until = tools.weather.end_of(tools.step);
            self.side = Some(Sync { file, writes, error, until, since: tools.now });
        }
    }

    /// For messages: what it waits for.
    pub fn waits_for(&self) -> String {
        let (writes, has_waiting, has_side) = (self.in_flight.len(), self.waiting.is_some(), self.side.is_some());
        let lane = self.lane;
        format!(
            ", {writes} writes under way, one waits: {has_waiting}, a sync beside: {has_side}, the next segment: {lane:?}"
        )
    }

    /// Whether the journal is asked for writes.
    pub fn takes_writes(&self) -> bool {
        !self.has_failed && self.waiting.is_none()
    }

    /// Has the next segment made.
    fn advance_lane(&mut self, tools: &mut Tools<'_>) {
        let due = match self.lane {
            Lane::Making { until } => until,
            Lane::Full { retry } => retry,
            Lane::Ready(_) => return,
        };
        if tools.step < due || self.has_failed {
            return;
        }
        if tools.weather.is_full(tools.step) {
            self.lane = Lane::Full { retry: tools.step + SEGMENT_RETRY_STEPS };
            return;
        }
        if matches!(self.lane, Lane::Full { .. }) {
            tools.coverage.note(Event::FullDiskHasRoomAgain);
        }
        let name = Name::Segment { shard: self.shard, generation: self.start.generation, number: self.next };
        let bytes = self.start.segment_bytes(self.next) as usize;
        let (file, is_used_again) = tools.folder.make_segment(name, bytes);
        tools.coverage.note_if(is_used_again, Event::SegmentUsedAgain);
        tools.folder.sync_names();
        self.lane = Lane::Ready(file);
    }

    fn begin(&mut self, write: Write, since: Millis, tools: &mut Tools<'_>) {
        let file = match self.segments.get(&write.segment) {
            Some(file) => *file,
            None => {
                assert_eq!(write.segment, self.next, "segments are written in order");
                let Lane::Ready(file) = self.lane else {
                    self.waiting = Some((write, since));
                    return;
                };
                tools.coverage.note_if(self.next > self.start.segment, Event::NextSegment);
                self.segments.insert(self.next, file);
                self.next += 1;
                self.lane = Lane::Making { until: tools.weather.end_of(tools.step) };
                file
            }
        };
        tools.coverage.note_if(!self.in_flight.is_empty(), Event::WritesSideBySide);
        let Write { segment, offset, buffer, sync, .. } = write;
        let error = tools.weather.log_error().map(|errno| {
            let step = if sync && tools.weather.random().one_in(2) { WriteStep::Sync } else { WriteStep::Write };
            WriteError { step, errno }
        });
        let opened = tools.folder.file(file).expect("it is open");
        let number = (!buffer.is_empty()).then(|| {
            assert!(offset as usize + buffer.len() <= opened.bytes().len(), "a write stays in its segment");
            opened.begin_write(offset as usize, buffer.as_slice())
        });
        let until = tools.weather.end_of(tools.step);
        let since = tools.now;
        let write = number;
        let has_ended = false;
        self.in_flight.push_back(InFlight { segment, file, write, buffer, sync, error, until, since, has_ended });
    }

    /// Takes what the disk has written, in whichever order it did, and tells the journal in the order of the log.
    fn end_writes(&mut self, journal: &mut Journal, tools: &mut Tools<'_>) {
        for write in self.in_flight.iter_mut().filter(|write| !write.has_ended && write.until <= tools.step) {
            write.has_ended = true;
            let Some(opened) = tools.folder.file(write.file) else { continue };
            match write.error.map(|error| error.step) {
                None => {
                    write.write.into_iter().for_each(|number| opened.end_write(number));
                    if write.sync {
                        opened.sync();
                    }
                }
                Some(WriteStep::Write) => {}
                Some(WriteStep::Sync) => opened.fail_sync(),
            }
        }
        while self.in_flight.front().is_some_and(|first| first.has_ended) {
            let Some(InFlight { buffer, sync, error, .. }) = self.in_flight.pop_front() else { return };
            if self.has_failed {
                continue;
            }
            self.has_failed = error.is_some();
            journal.handle_written(error.map_or(Ok(sync), Err), buffer);
        }
    }

    fn end_side(&mut self, journal: &mut Journal, tools: &mut Tools<'_>) {
        let Some(Sync { file, writes, error, .. }) = self.side.take_if(|side| side.until <= tools.step) else { return };
        if let Some(opened) = tools.folder.file(file) {
            match error {
                None => opened.end_sync(&writes),
                Some(_) => opened.fail_sync(),
            }
        }
        if !self.has_failed {
            self.has_failed = error.is_some();
            journal.handle_synced(error.map_or(Ok(()), Err));
        }
    }

    pub fn has_failed(&self) -> bool {
        self.has_failed
    }

    /// Something of it has failed, whether the journal knows or not: what was written and not synced may be lost.
    pub fn is_in_doubt(&self) -> bool {
        self.has_failed || self.in_flight.iter().any(|write| write.has_ended && write.error.is_some())
    }

    /// A write is under way, or waits for its file.
    pub fn is_busy(&self) -> bool {
        !self.in_flight.is_empty() || self.waiting.is_some()
    }

    /// A write waits for its file, or a flush for its end: what writes are let in may change by time alone.
    pub fn is_waiting(&self) -> bool {
        self.is_busy() || self.side.is_some()
    }

    pub fn is_flushing(&self) -> bool {
        self.side.is_some() || self.in_flight.iter().any(|write| write.sync)
    }

    /// The segment that is written to.
    pub fn segment(&self) -> Option<u64> {
        self.segments.last_key_value().map(|(number, _)| *number)
    }

    /// The first segment that something is being written to.
    pub fn oldest_segment(&self) -> Option<u64> {
        self.in_flight.front().map(|write| write.segment).or(self.segment())
    }

    pub fn is_full(&self) -> bool {
        matches!(self.lane, Lane::Full { .. })
    }

    /// Which writes the state of the log lets in.
    pub fn judge(&self, journal: &Journal, now: Millis) -> Writes {
        if !journal.is_on() {
            return if journal.is_poisoned() { Writes::Refused } else { Writes::Allowed };
        }
        if self.is_full() {
            return if journal.segment() == self.segment() { Writes::OnlyFreeing } else { Writes::Full };
        }
        let writes = self.in_flight.iter().map(|write| write.since);
        let waiting = self.waiting.as_ref().map(|(_, since)| *since);
        let since = writes.chain(waiting).chain(self.side.as_ref().map(|side| side.since)).min();
        match since.map_or(0, |since| now.0.saturating_sub(since.0)) {
            FLUSH_STUCK_MS.. => Writes::Stuck,
            FLUSH_SLOW_MS.. => Writes::Waiting,
            _ => Writes::Allowed,
        }
    }
}
