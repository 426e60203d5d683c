//! The shard's log, as the worker drives it: after each turn what the turn changed, and what the disk has done before the next.

use std::time::Instant;

use torc_engine::id::Millis;
use torc_engine::log::FsyncPolicy;
use torc_engine::shard::Writes;
use tracing::{error, info, warn};

use super::{Notice, Parts, Worker, WorkerError};
use crate::disk::pool::Space;
use crate::disk::start::Policed;
use crate::limits::SHUTDOWN_MAX;
use crate::ring::{Errno, Key, WriteFault};

impl Worker {
    /// Gives what was logged to the disk, if that has nothing of this log under way. An error ends the process.
    #[inline]
    pub(super) fn serve_log(&mut self) -> Result<(), WorkerError> {
        let Parts { shard, ring, log, .. } = &mut self.parts;
        let Some(driver) = log else { return Ok(()) };
        let policy = shard.config().fsync;
        driver.serve(&mut Policed { journal: shard.journal(), policy }, ring, self.now);
        if let Some(failure) = driver.failure() {
            if policy == FsyncPolicy::Always {
                return Err(WorkerError::Log(failure.clone()));
            }
            if !self.log_failed {
                self.log_failed = true;
                error!("{failure}; writes are refused until a snapshot is taken and a log begun behind it, reads go on");
                shard.set_writes(Writes::Refused);
                // The main thread outlives the workers.
                let _ = self.parts.notices.send(Notice::LogFailed(self.parts.id.0));
            }
            return Ok(());
        }
        let was_full = shard.writes() == Writes::OnlyFreeing;
        match driver.space() {
            Space::Full(why) if !was_full => {
                warn!("{why}; writes that need memory are refused until there is room on the disk");
                shard.set_writes(Writes::OnlyFreeing);
            }
            Space::Ready if was_full => {
                info!("there is room on the disk again: writes go on");
                shard.set_writes(Writes::Allowed);
            }
            _ => {}
        }
        Ok(())
    }

    /// The log that was begun after a failure counts: writes go on.
    pub(super) fn resume_writes(&mut self) {
        if std::mem::take(&mut self.log_failed) {
            info!("a log was begun behind a snapshot: writes go on");
            self.parts.shard.set_writes(Writes::Allowed);
        }
    }

    /// A write of the log has ended.
    pub(super) fn log_written(&mut self, key: Key, result: Result<(), WriteFault>) {
        let Parts { shard, log, .. } = &mut self.parts;
        let driver = log.as_mut().expect("only the log writes files");
        let policy = shard.config().fsync;
        driver.handle_written(&mut Policed { journal: shard.journal(), policy }, key, result, self.now);
    }

    /// A sync of the log has ended.
    pub(super) fn log_synced(&mut self, key: Key, result: Result<(), Errno>) {
        let Parts { shard, ring, log, .. } = &mut self.parts;
        let driver = log.as_mut().expect("only the log syncs files");
        let policy = shard.config().fsync;
        driver.handle_synced(&mut Policed { journal: shard.journal(), policy }, ring, key, result, self.now);
    }

    /// When the log has something to write although nothing happens.
    pub(super) fn log_wake(&mut self) -> Option<Millis> {
        let Parts { shard, log, .. } = &mut self.parts;
        log.as_ref().filter(|driver| driver.busy_since().is_none() && driver.failure().is_none())?;
        let policy = shard.config().fsync;
        shard.journal().next_deadline(self.now, policy)
    }

    /// At a stop, when nobody is owed anything: whether the log says that it ended in order, or cannot any more.
    pub(super) fn is_log_sealed(&mut self, stop_at: Instant) -> bool {
        let Parts { shard, log, .. } = &mut self.parts;
        let Some(driver) = log else { return true };
        if driver.failure().is_some() || Instant::now() >= stop_at + SHUTDOWN_MAX {
            return true;
        }
        shard.journal().seal();
        shard.journal().is_sealed()
    }

    /// The segment that was to be the next is not needed.
    pub(super) fn finish_log(&mut self) {
        if let Some(driver) = self.parts.log.take().filter(|driver| driver.busy_since().is_none()) {
            driver.finish();
        }
    }
}
