//! Which of the interesting things happened, and how often. A simulator that never gets somewhere finds nothing there, so a long
//! run in which something never happened has failed.

/// Something that worlds must come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Event {
    QueueFull,
    WriterWaitedForLog,
    DiskStuck,
    NextSegment,
    WritesSideBySide,
    SegmentUsedAgain,
    TornTail,
    TornInLaterSegment,
    TornOverSegments,
    UnsyncedLost,
    NamesLost,
    SealFound,
    FullDiskRefused,
    FullDiskHasRoomAgain,
    LogFailed,
    LogBegunAnew,
    ProcessEndedByLog,
    KilledInRecovery,
    KilledInSave,
    KilledInSwitch,
    KilledWhileUnsettled,
    ShardsChanged,
    StoppedInOrder,
    SaveDone,
    SaveFailed,
    SaveBegunAnewByFlush,
    EvictedDuringSave,
    ExpiredDuringSave,
    EvictedAtLoad,
    ExpiredWhileDown,
    ExpiredUnderWay,
    OutOfMemory,
    PolicyChanged,
    FsyncChanged,
    ClockWentBack,
    ClockJumpedAhead,
    SlowReaderCut,
    CutInRequest,
    WaitedForPeers,
    HistoryUndecided,
}

impl Event {
    /// All, with what they are, and whether a long run must come to them.
    pub const ALL: &[(Event, &str, bool)] = &[
        (Event::QueueFull, "a queue between shards was full", true),
        (Event::WriterWaitedForLog, "a shard's writers waited for its log or its snapshot", true),
        (Event::DiskStuck, "a disk did not answer for so long that writes were refused", true),
        (Event::NextSegment, "a log went on to its next segment", true),
        (Event::WritesSideBySide, "several writes of a log were under way", true),
        (Event::SegmentUsedAgain, "a segment was made of one that was not needed any more", true),
        (Event::TornTail, "a torn batch was found at a start, and cut off", true),
        (Event::TornInLaterSegment, "... in another segment than the first of its generation", true),
        (Event::TornOverSegments, "... which goes on over several segments", true),
        (Event::UnsyncedLost, "a crash took changes that were written and not synced", true),
        (Event::NamesLost, "a crash took names that were not synced", true),
        (Event::SealFound, "a log was found that ended in order", true),
        (Event::FullDiskRefused, "a write was refused for want of space", true),
        (Event::FullDiskHasRoomAgain, "... and a log went on when there was room", true),
        (Event::LogFailed, "a log failed, and writes were refused", true),
        (Event::LogBegunAnew, "... and a log was begun anew behind a snapshot", true),
        (Event::ProcessEndedByLog, "a log failed under appendfsync always, and ended the process", true),
        (Event::KilledInRecovery, "killed while what was on the disk was loaded", true),
        (Event::KilledInSave, "killed while a snapshot was taken", true),
        (Event::KilledInSwitch, "killed between two steps of the switch to another manifest", true),
        (Event::KilledWhileUnsettled, "... when either manifest might be found", true),
        (Event::ShardsChanged, "started with another number of shards", true),
        (Event::StoppedInOrder, "stopped in order", true),
        (Event::SaveDone, "a save was done", true),
        (Event::SaveFailed, "a save failed", true),
        (Event::SaveBegunAnewByFlush, "a flush had a save begin anew", true),
        (Event::EvictedDuringSave, "keys were evicted while a snapshot was taken", true),
        (Event::ExpiredDuringSave, "keys expired while a snapshot was taken", true),
        (Event::EvictedAtLoad, "keys were evicted while they were loaded", true),
        (Event::ExpiredWhileDown, "keys expired while the process was away", true),
        (Event::ExpiredUnderWay, "a key expired while a command about it was under way to another shard", true),
        (Event::OutOfMemory, "a write was refused for want of memory", true),
        (Event::PolicyChanged, "maxmemory-policy was changed", true),
        (Event::FsyncChanged, "appendfsync was changed", true),
        (Event::ClockWentBack, "the clock went back", true),
        (Event::ClockJumpedAhead, "the clock jumped ahead", true),
        (Event::SlowReaderCut, "a client was cut off that did not read", true),
        (Event::CutInRequest, "a connection was cut in the middle of a request", true),
        (Event::WaitedForPeers, "a shard stood still with frames for it under way", true),
        (Event::HistoryUndecided, "the history of a key was too long to be judged", false),
    ];
}

/// How often each happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Coverage {
    counts: [u64; Event::ALL.len()],
}

impl Default for Coverage {
    fn default() -> Coverage {
        Coverage { counts: [0; Event::ALL.len()] }
    }
}

impl Coverage {
    pub fn note(&mut self, event: Event) {
        self.counts[event as usize] += 1;
    }

    pub fn note_if(&mut self, happened: bool, event: Event) {
        self.counts[event as usize] += u64::from(happened);
    }

    pub fn add_many(&mut self, event: Event, count: u64) {
        self.counts[event as usize] += count;
    }

    pub fn of(&self, event: Event) -> u64 {
        self.counts[event as usize]
    }

    pub fn add(&mut self, other: &Coverage) {
        self.counts.iter_mut().zip(other.counts).for_each(|(sum, count)| *sum += count);
    }

    /// What should have happened and never did.
    pub fn missing(&self) -> Vec<&'static str> {
        let never = Event::ALL.iter().filter(|(event, _, must)| *must && self.of(*event) == 0);
        never.map(|(_, what, _)| *what).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_event_has_its_line_in_its_place() {
        for (index, (event, ..)) in Event::ALL.iter().enumerate() {
            assert_eq!(*event as usize, index);
        }
        assert_eq!(Event::HistoryUndecided as usize + 1, Event::ALL.len());
    }
}
