//! Mistakes that can be made on purpose, one at a time, to see whether the tests find them. The simulator plants each of
//! them (`engine/sim/README.md` has the table); nothing else turns the feature `planted` on, and without it each question
//! is answered `false` by the compiler.

/// A mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// A snapshot does not save an entry before it changes.
    PreImageSkipped,
    /// A snapshot does not save an entry before compaction moves it.
    PreImageSkippedOnMove,
    /// A flush during a snapshot does not give the snapshot up.
    FlushKeepsSnapshot,
    /// A snapshot claims to contain one record more than it does.
    SnapshotBaseLate,
    /// Under `appendfsync always` writes are answered before they are durable.
    AcknowledgedEarly,
    /// A read of a change that is not durable is answered at once.
    ReadNotHeld,
    /// A reply is released when all but the last change that it waits for are durable.
    ReleasedOneEarly,
    /// What is written counts as durable.
    WrittenIsDurable,
    /// A sync beside writes is taken to cover what was handed out while it went on.
    SyncCoversLater,
    /// A later segment is synced first, and counts for those before it.
    LaterSegmentSyncedFirst,
    /// A torn tail is taken for damage when the last record before it was durable.
    TornTailRefused,
    /// Behind a torn batch the next segment is read all the same.
    TornTailRead,
    /// An entry lives one millisecond too long.
    ExpiresLate,
    /// PERSIST and EXPIRE are not logged.
    ExpireNotLogged,
    /// Keys that are evicted are not logged as gone.
    EvictionNotLogged,
    /// DEL of a key that was evicted is not logged, although what the log goes on from still has it.
    AbsenceNotLogged,
    /// FLUSHALL, FLUSHDB and SWAPDB are not logged.
    LayoutNotLogged,
    /// What is written into a value is redone one byte too far to the left.
    RedoneAtWrongOffset,
    /// After a restart with another number of shards a key may be where it was before.
    RedoneByAll,
    /// A reply that is early is sent before those that are due.
    ReplyOutOfOrder,
    /// The parts of a split command are merged in the order in which they came first.
    PartsMixedUp,
    /// A reply gives its credit back twice.
    CreditTwice,
    /// Sessions that wait for credit are not looked at when there is some.
    WakeLost,
    /// A reply finds the session that has the place now, not the one that asked.
    StaleSession,
    /// A page of SCAN ends a segment too far where the table has shrunk.
    ScanSkips,
    /// A value that replaces another outside the arena is not accounted.
    MemoryNotCounted,
}

impl Bug {
    pub const ALL: [Bug; 26] = [
        Bug::PreImageSkipped,
        Bug::PreImageSkippedOnMove,
        Bug::FlushKeepsSnapshot,
        Bug::SnapshotBaseLate,
        Bug::AcknowledgedEarly,
        Bug::ReadNotHeld,
        Bug::ReleasedOneEarly,
        Bug::WrittenIsDurable,
        Bug::SyncCoversLater,
        Bug::LaterSegmentSyncedFirst,
        Bug::TornTailRefused,
        Bug::TornTailRead,
        Bug::ExpiresLate,
        Bug::ExpireNotLogged,
        Bug::EvictionNotLogged,
        Bug::AbsenceNotLogged,
        Bug::LayoutNotLogged,
        Bug::RedoneAtWrongOffset,
        Bug::RedoneByAll,
        Bug::ReplyOutOfOrder,
        Bug::PartsMixedUp,
        Bug::CreditTwice,
        Bug::WakeLost,
        Bug::StaleSession,
        Bug::ScanSkips,
        Bug::MemoryNotCounted,
    ];
}

#[cfg(feature = "planted")]
thread_local! {
    static CHOSEN: std::cell::Cell<Option<Bug>> = const { std::cell::Cell::new(None) };
}

/// Makes a mistake from now on, on this thread; None: none.
#[cfg(feature = "planted")]
pub fn plant(bug: Option<Bug>) {
    CHOSEN.set(bug);
}

/// Whether this mistake is to be made.
#[inline(always)]
pub(crate) fn is_planted(bug: Bug) -> bool {
    #[cfg(feature = "planted")]
    return CHOSEN.get() == Some(bug);
    #[cfg(not(feature = "planted"))]
    {
        let _ = bug;
        false
    }
}
