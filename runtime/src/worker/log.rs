//! The shard's log, as the worker drives it: after each turn what the turn changed, and what the disk has done before the next.

use std::time::Instant;

use torc_engine::id::Millis;
use torc_engine::log::{Buffer, FsyncPolicy, Journal};
use torc_engine::shard::Writes;
use tracing::{error, info, warn};

use super::{Notice, Parts, Worker, WorkerError};
use crate::disk::log::LogDriver;
use crate::disk::pool::Space;
use crate::disk::start::Policed;
use crate::limits::{LOG_FLUSH_SLOW, LOG_FLUSH_STUCK, SHUTDOWN_MAX};
use crate::ring::{Errno, Key, WriteFault};

impl Worker {
    /// Gives what was logged to the disk. An error ends the process.
    #[inline]
    pub(super) fn serve_log(&mut self) -> Result<(), WorkerError> {
        let Parts { shard, ring, log, .. } = &mut self.parts;
        let Some(driver) = log else { return Ok(()) };
        let policy = shard.config().fsync;
        driver.set_filling(policy == FsyncPolicy::Always);
        let was_busy = driver.busy_since().is_some();
        driver.serve(&mut Policed { journal: shard.journal(), policy }, ring, self.now);
        if policy == FsyncPolicy::Always && !was_busy && driver.busy_since().is_some() {
            // The disk works while replies are sent, and not only after that.
            ring.submit()?;
        }
        shard.set_flushing(driver.is_flushing());
        let delays = driver.totals().delays;
        while self.log_delays < delays {
            self.log_delays += 1;
            shard.count_delayed_flush();
        }
        if let Some(failure) = driver.failure()
            && policy == FsyncPolicy::Always
            && !self.log_ends
            && shard.journal().is_poisoned()
        {
            return Err(WorkerError::Log(failure.clone()));
        }
        let (before, mut writes) = (shard.writes(), judge(driver, shard.journal(), self.now));
        if self.log_loss.is_some() {
            writes = Writes::Refused;
        }
        if before != writes {
            self.say(before, writes);
            self.parts.shard.set_writes(writes);
        }
        Ok(())
    }

    /// Says in the log of messages that other writes are let in than before.
    #[cold]
    fn say(&mut self, before: Writes, writes: Writes) {
        let Parts { shard, log, id, .. } = &mut self.parts;
        let Some(driver) = log else { return };
        match writes {
            Writes::Refused => {
                let Some(failure) = driver.failure().cloned() else { return };
                self.log_loss = Some(loss(id.0, driver, shard.journal()));
                error!(
                    "{failure}; writes are refused until a snapshot is taken and a log begun behind it, reads go on"
                );
                // The main thread outlives the workers.
                let _ = self.parts.notices.send(Notice::LogFailed(self.parts.id.0));
            }
            Writes::OnlyFreeing | Writes::Full => {
                let Space::Full(why) = driver.space() else { return };
                let what = if writes == Writes::Full { "all writes" } else { "writes that need memory" };
                warn!("{why}; {what} to shard {} are refused until there is room on the disk", id.0);
            }
            Writes::Waiting => {
                let seconds = LOG_FLUSH_SLOW.as_secs();
                warn!("the disk has not answered shard {} for {seconds} s: who writes to it waits, reads go on", id.0);
            }
            Writes::Stuck => {
                let seconds = LOG_FLUSH_STUCK.as_secs();
                error!(
                    "the disk has not answered shard {} for {seconds} s: writes are refused until it does; look at dmesg for its \
                     state",
                    id.0
                );
            }
            Writes::Allowed => match before {
                Writes::OnlyFreeing | Writes::Full => {
                    info!("there is room on the disk again: writes to shard {} go on", id.0);
                }
                _ => info!("the disk answers shard {} again: writes go on", id.0),
            },
        }
    }

    /// The log that was begun after a failure counts: writes go on.
    pub(super) fn resume_writes(&mut self) {
        let is_well = !self.parts.shard.journal().is_poisoned();
        if !is_well {
            // It has failed meanwhile too.
            let _ = self.parts.notices.send(Notice::LogFailed(self.parts.id.0));
        } else if self.log_loss.take().is_some() {
            info!("a log was begun behind a snapshot: writes to shard {} go on", self.parts.id.0);
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
        let Parts { shard, log, .. } = &mut self.parts;
        let driver = log.as_mut().expect("only the log syncs files");
        let policy = shard.config().fsync;
        if key.slot == LogDriver::<Buffer>::SIDE_SLOT {
            return driver.handle_side_synced(&mut Policed { journal: shard.journal(), policy }, key, result, self.now);
        }
        driver.handle_synced(&mut Policed { journal: shard.journal(), policy }, key, result, self.now);
    }

    /// When the log has something to do although nothing happens: to write, or to say that the disk is slow.
    pub(super) fn log_wake(&mut self) -> Option<Millis> {
        let Parts { shard, log, .. } = &mut self.parts;
        let driver = log.as_ref().filter(|driver| driver.failure().is_none())?;
        let policy = shard.config().fsync;
        let own = match driver.takes_writes() {
            true => shard.journal().next_deadline(self.now, policy),
            false => shard.journal().sync_due(self.now, policy),
        };
        let slow = driver.owed_since().and_then(|since| {
            let at = [LOG_FLUSH_SLOW, LOG_FLUSH_STUCK].map(|after| Millis(since.0 + after.as_millis() as u64));
            at.into_iter().find(|&at| at > self.now)
        });
        own.into_iter().chain(slow).min()
    }

    /// At a stop, when nobody is owed anything: whether the log says that it ended in order, or cannot any more. Then it is
    /// said what is lost, and the process ends with an error.
    pub(super) fn is_log_sealed(&mut self, stop_at: Instant) -> bool {
        let Parts { shard, log, census, id, .. } = &mut self.parts;
        let Some(driver) = log else { return true };
        if driver.failure().is_none() && self.log_loss.is_none() {
            if !shard.journal().is_on() {
                return true;
            }
            shard.journal().seal();
            // Without a first segment there were no writes: what expired while it was away has expired at the next start too.
            if shard.journal().is_sealed() || driver.segment().is_none() && matches!(driver.space(), Space::Full(_)) {
                return true;
            }
            if Instant::now() < stop_at + SHUTDOWN_MAX {
                return false;
            }
        }
        if !std::mem::replace(&mut self.log_lost, true) {
            let loss = self.log_loss.take().unwrap_or_else(|| loss(id.0, driver, shard.journal()));
            error!("{loss}");
            census.report_loss();
        }
        true
    }

    /// The segment that was to be the next is not needed.
    pub(super) fn finish_log(&mut self) {
        if let Some(driver) = self.parts.log.take().filter(|driver| driver.busy_since().is_none()) {
            driver.finish();
        }
    }
}

/// Which writes the state of a log lets in.
#[inline]
fn judge<B: crate::ring::StableBytes>(driver: &mut LogDriver<B>, journal: &Journal, now: Millis) -> Writes {
    if !journal.is_on() {
        return if journal.is_poisoned() { Writes::Refused } else { Writes::Allowed };
    }
    if let Space::Full(_) = driver.space() {
        // What comes has a place as long as the journal has not come to the segment that cannot be made.
        return if journal.segment() == driver.segment() { Writes::OnlyFreeing } else { Writes::Full };
    }
    let busy_ms = driver.owed_since().map_or(0, |since| now.0.saturating_sub(since.0));
    match u128::from(busy_ms) {
        ms if ms >= LOG_FLUSH_STUCK.as_millis() => Writes::Stuck,
        ms if ms >= LOG_FLUSH_SLOW.as_millis() => Writes::Waiting,
        _ => Writes::Allowed,
    }
}

/// What a log that did not come to its end lacks, and why.
fn loss<B: crate::ring::StableBytes>(shard: u16, driver: &mut LogDriver<B>, journal: &Journal) -> String {
    let why = match (driver.failure(), driver.busy_since()) {
        (Some(failure), _) => failure.to_string(),
        (None, busy) => match driver.space() {
            Space::Full(why) => why.to_string(),
            _ if busy.is_some() => "the disk did not answer in time".to_owned(),
            _ => "there was not enough time".to_owned(),
        },
    };
    // After a failure what was written and not synced may be lost too; otherwise the system has it.
    let kept = if driver.failure().is_some() { journal.durable_lsn() } else { journal.written_lsn() };
    match journal.last_lsn().0 - kept.0 {
        0 => format!("the log of shard {shard} ends without its seal, with all changes in it: {why}"),
        count => format!(
            "LOST: the last {count} changes of shard {shard}, records {} to {}, are not in its log: {why}",
            kept.0 + 1,
            journal.last_lsn()
        ),
    }
}
