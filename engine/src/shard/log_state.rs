//! What the state of the logs lets in.
//!
//! A log that cannot take more, or not soon, concerns writers only: reads, commands without keys and whatever other
//! shards have to say go on, so that no two shards can wait for each other.
//!
//! - *Behind*: more is pending than [`limits::LOG_PENDING_BYTES_MAX`], or a flush takes long. A session whose next command is
//!   a write there waits where the session lives, with all that comes after it; requests that are under way already
//!   are executed, and the senders' credit bounds them.
//!   So it is while more of a snapshot is in memory than [`limits::SNAPSHOT_PENDING_BYTES_MAX`].
//! - *Full*: the next segment cannot be made. What frees memory is let in as long as its records fit into the segment that
//!   is written, for then they reach the disk whatever happens. After that nothing is.
//! - *Stuck*: the disk has not answered for so long that waiting helps nobody. *Failed*: it never will.
//!
//! Each shard publishes how its log stands, because sessions must know it of the owners of keys, and shard 0 of all before it
//! begins what all shards have to do alike (`Route::Ordered`).

use super::sessions::Session;
use super::{Core, Shard};
use crate::command::{Call, Command, Error, flag};
use crate::id::{Millis, ShardId};
use crate::limits;
use crate::machine::{LogStanding, Machine};
use crate::route::Route as KeyRoute;

/// Which writes are let in, by the state of the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Writes {
    #[default]
    Allowed,
    /// None for now: a flush takes long. Who writes waits.
    Waiting,
    /// Those that free memory: the disk is full, and what is left of the segment is for them.
    OnlyFreeing,
    /// None until there is room: the disk is full, and so is the segment.
    Full,
    /// None until the disk answers, which it has not done for long.
    Stuck,
    /// None: the log has failed.
    Refused,
}

/// Which log a session's next command waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AwaitedLog {
    Of(ShardId),
    /// Of every shard: keys of several are to be changed.
    All,
}

/// What a shard knows of logs.
#[derive(Debug, Default)]
pub(super) struct LogStates {
    /// This shard's log is behind. It stays so until half of what it may have pending is written.
    is_behind: bool,
    published: LogStanding,
    /// How all logs stood when this was last looked at; empty: all were well.
    all: Vec<LogStanding>,
    /// Other shards whose log is behind.
    others_behind: usize,
    /// Which writes are let in was changed since the last turn.
    pub changed: bool,
}

impl LogStates {
    /// The log that a write has to wait for, if any. Asked of writes only, and only if some log may be behind.
    #[cold]
    fn awaited(&self, own: ShardId, is_own_behind: bool, owner: Option<ShardId>) -> Option<AwaitedLog> {
        let is_behind = |shard: ShardId| match shard == own {
            true => is_own_behind,
            false => self.all.get(shard.index()) == Some(&LogStanding::Behind),
        };
        match owner {
            Some(owner) => is_behind(owner).then_some(AwaitedLog::Of(owner)),
            None => (is_own_behind || self.others_behind > 0).then_some(AwaitedLog::All),
        }
    }

    /// The log that a command about to be dispatched has to wait for. `key` gives its key if it has exactly one.
    #[inline(always)]
    pub fn awaited_by<'a>(
        &self,
        core: &mut Core,
        route: KeyRoute,
        command: Command,
        key: impl FnOnce() -> Option<&'a [u8]>,
    ) -> Option<AwaitedLog> {
        if command.gate().flags & flag::WRITE == 0 {
            return None;
        }
        let is_own_behind = self.is_behind || core.must_writers_wait(limits::LOG_PENDING_BYTES_MAX);
        if !is_own_behind && self.others_behind == 0 {
            return None;
        }
        self.awaited(core.id, is_own_behind, key().map(|key| route.owner(key)))
    }

    /// Whether a log other than this shard's takes no writes at all.
    pub fn is_other_closed(&self, own: ShardId) -> bool {
        let others = self.all.iter().enumerate().filter(|(shard, _)| *shard != own.index());
        others.map(|(_, standing)| standing).any(|standing| *standing == LogStanding::Closed)
    }
}

impl Core {
    /// Whether writers are to wait, if so many bytes may be pending.
    #[inline(always)]
    fn must_writers_wait(&mut self, pending_max: usize) -> bool {
        if self.store.is_snapshot_full() {
            return true;
        }
        match self.writes {
            Writes::Waiting => true,
            Writes::Allowed | Writes::OnlyFreeing => self.store.log().pending_bytes() > pending_max,
            Writes::Full | Writes::Stuck | Writes::Refused => false,
        }
    }

    /// Whether some writes are refused, because of the log or of a save.
    #[inline(always)]
    pub(super) fn are_writes_refused(&self) -> bool {
        self.writes != Writes::Allowed || self.has_save_failed
    }

    /// The gate of the log: whether a command may run. Asked only if not all writes are let in.
    #[cold]
    pub(super) fn pass_log(&mut self, call: &Call<'_>) -> Result<(), Error> {
        let flags = call.command.gate().flags;
        if flags & flag::WRITE == 0 {
            return Ok(());
        }
        let writes = self.writes;
        let error = match writes {
            Writes::Allowed | Writes::Waiting | Writes::OnlyFreeing if self.has_save_failed => Error::SaveFailed,
            Writes::Allowed | Writes::Waiting => return Ok(()),
            Writes::OnlyFreeing if flags & flag::DENYOOM == 0 && self.is_room_for(call) => return Ok(()),
            Writes::OnlyFreeing | Writes::Full => Error::DiskFull,
            Writes::Stuck => Error::DiskStuck,
            Writes::Refused => Error::LogFailed,
        };
        self.stats.commands[call.command.index()].rejected += 1;
        self.stats.counters.total_error_replies += 1;
        Err(error)
    }

    /// Whether the records of a command fit into the segment, with what is kept for the end of the log.
    fn is_room_for(&mut self, call: &Call<'_>) -> bool {
        let args = call.args();
        let records = args.bytes_from(1) + args.len() * limits::LOG_RECORD_OVERHEAD_BYTES;
        // Batches end at pages.
        let needed = records + records / limits::LOG_PADDING_PART + limits::LOG_ROOM_BYTES_MIN;
        self.store.log().journal().room_bytes() >= needed as u64
    }

    /// Whether removals that nobody asked for may be logged: not while there may be no room for them.
    pub(super) fn may_expire(&mut self) -> bool {
        match self.writes {
            Writes::Allowed => !self.must_writers_wait(limits::LOG_PENDING_BYTES_MAX),
            // Then nothing is logged any more.
            Writes::Refused => true,
            _ => !self.store.log().is_on(),
        }
    }
}

impl Shard {
    /// Lets writes in, or not.
    pub fn set_writes(&mut self, writes: Writes) {
        self.logs.changed |= self.core.writes != writes;
        self.core.writes = writes;
    }

    /// Which writes are let in.
    pub fn writes(&self) -> Writes {
        self.core.writes
    }

    /// A sync of the log is under way, or not any more.
    pub fn set_flushing(&mut self, is_flushing: bool) {
        self.core.stats.counters.log_flushes_pending = is_flushing as u64;
    }

    /// A sync of the log takes longer than it should.
    pub fn count_delayed_flush(&mut self) {
        self.core.stats.counters.log_flushes_delayed += 1;
    }

    /// Less of a snapshot may be in memory: writers who wait for that are looked at in a turn.
    pub(super) fn look_at_writers(&mut self) {
        self.logs.changed |= self.logs.is_behind && !self.core.store.is_snapshot_full();
    }

    /// At the beginning of a turn: how all logs stand.
    pub(super) fn look_at_logs(&mut self, machine: &mut dyn Machine) {
        self.note_own_log(machine);
        machine.logs(&mut self.logs.all);
        let own = self.core.id.index();
        let others = self.logs.all.iter().enumerate().filter(|(shard, _)| *shard != own);
        let behind = others.filter(|(_, standing)| **standing == LogStanding::Behind).count();
        self.recheck |= std::mem::replace(&mut self.logs.others_behind, behind) > 0;
    }

    /// Publishes how this shard's log stands, if that has changed.
    pub(super) fn note_own_log(&mut self, machine: &mut dyn Machine) {
        let pending_max = limits::LOG_PENDING_BYTES_MAX / if self.logs.is_behind { 2 } else { 1 };
        let is_behind = self.core.must_writers_wait(pending_max);
        self.recheck |= self.logs.is_behind && !is_behind;
        (self.logs.is_behind, self.logs.changed) = (is_behind, false);
        let standing = match self.core.writes {
            Writes::Full | Writes::Stuck | Writes::Refused => LogStanding::Closed,
            _ if is_behind => LogStanding::Behind,
            _ => LogStanding::Well,
        };
        if std::mem::replace(&mut self.logs.published, standing) != standing {
            machine.publish_log(self.core.id, standing);
        }
    }

    /// Whether the log that a session's next command waits for is still behind.
    pub(super) fn is_log_awaited(&self, session: &Session) -> bool {
        let logs = &self.logs;
        match session.awaited_log {
            None => false,
            Some(AwaitedLog::Of(shard)) => logs.awaited(self.core.id, logs.is_behind, Some(shard)).is_some(),
            Some(AwaitedLog::All) => logs.awaited(self.core.id, logs.is_behind, None).is_some(),
        }
    }

    /// When to look again at the logs of others that sessions may wait for.
    pub(super) fn next_look_at_logs(&self) -> Option<Millis> {
        let waits = self.logs.others_behind > 0 && !self.stalled.is_empty();
        waits.then(|| Millis(self.timers.now.0 + limits::LOG_LOOK_MS))
    }
}
