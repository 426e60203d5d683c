//! What goes wrong on purpose (`fault-...`, DEBUG SET-FAULT), to see from outside what becomes of it: ends of writes and syncs that
//! come late or as failures, and what other shards sent, late.
//!
//! Everything is held back here where it arrives at the shard, in the order in which it came: the disk did its work, and
//! nobody hears of it yet. While no fault is set there is none of this: the worker has no [`Faults`], and looks once a turn whether
//! that has changed.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use torc_engine::config;
use torc_engine::id::ShardId;
use torc_engine::log::Buffer;
use torc_engine::random::Random;
use tracing::warn;

use super::Worker;
use crate::disk::log::LogDriver;
use crate::limits::{FAULT_PARCELS_MAX, PARCELS_PER_TURN};
use crate::mesh::Parcel;
use crate::ring::{Completion, Errno, Key, WriteFault, WriteStep};

/// The faults that are on, and what they hold back.
pub(super) struct Faults {
    settings: config::Faults,
    random: Random,
    log: Late<Completion>,
    snapshot: Late<Completion>,
    parcels: Late<(ShardId, Parcel)>,
}

/// What is held back, in its order.
struct Late<T>(VecDeque<(Instant, T)>);

impl Worker {
    /// Hands on what was held back long enough, and sees to it that what is held back is what the settings say now.
    #[inline]
    pub(super) fn serve_faults(&mut self) {
        if self.parts.shard.config().faults.any() || self.faults.is_some() {
            self.advance_faults();
        }
    }

    #[cold]
    fn advance_faults(&mut self) {
        let settings = self.parts.shard.config().faults;
        let own = self.parts.id;
        let faults = self.faults.get_or_insert_with(|| Box::new(Faults::new(settings, own)));
        if faults.settings != settings {
            // All shards are told the same.
            if own == ShardId(0) {
                warn!("faults that are injected on purpose: {}", said(self.parts.shard.config()));
            }
            if faults.settings.seed != settings.seed {
                faults.random = Faults::new(settings, own).random;
            }
            faults.settings = settings;
        }
        let now = Instant::now();
        while let Some(faults) = &mut self.faults {
            if let Some(completion) = faults.log.take(now).or_else(|| faults.snapshot.take(now)) {
                self.file_done(completion);
            } else if let Some((from, parcel)) = faults.parcels.take(now) {
                self.take_parcel(from, parcel);
            } else {
                break;
            }
        }
        self.faults.take_if(|faults| !settings.any() && faults.next_due().is_none());
    }

    /// Takes what other shards have sent while it may have to be held back.
    #[cold]
    pub(super) fn take_parcels_late(&mut self) {
        for from in (0..self.parts.port.shards()).map(|from| ShardId(from as u16)) {
            for _ in 0..PARCELS_PER_TURN {
                let Some(faults) = &mut self.faults else { return };
                // What is not taken stays in its queue, and who sends waits for room there.
                if faults.parcels.0.len() >= FAULT_PARCELS_MAX {
                    return;
                }
                let Some(parcel) = self.parts.port.pop(from) else { break };
                faults.parcels.put((from, parcel), faults.settings.hop_delay_ms);
            }
        }
    }
}

/// The faults as the settings have them.
fn said(config: &config::Config) -> String {
    match config.injected_faults() {
        faults if faults.is_empty() => "none any more".to_owned(),
        faults => faults.join(", "),
    }
}

impl Faults {
    pub fn new(settings: config::Faults, shard: ShardId) -> Faults {
        // Each shard has chances of its own.
        let mut random = Random(settings.seed.wrapping_add(u64::from(shard.0) << 32));
        random.next();
        Faults { settings, random, log: Late::new(), snapshot: Late::new(), parcels: Late::new() }
    }

    /// Takes the end of a write or sync of a file.
    pub fn hold(&mut self, completion: Completion) {
        match completion {
            Completion::Written { key, result } if !is_of_log(key) => {
                self.snapshot.put(Completion::Written { key, result }, self.settings.snapshot_delay_ms);
            }
            Completion::Written { key, result } => {
                let fails = result.is_ok() && self.draws_failure();
                let fault = WriteFault { step: WriteStep::Write, errno: Errno(libc::EIO) };
                let result = if fails { Err(fault) } else { result };
                self.log.put(Completion::Written { key, result }, self.settings.wal_delay_ms);
            }
            Completion::Synced { key, result } => {
                let fails = result.is_ok() && self.draws_failure();
                let result = if fails { Err(Errno(libc::EIO)) } else { result };
                self.log.put(Completion::Synced { key, result }, self.settings.wal_delay_ms);
            }
            _ => unreachable!("it is of a file"),
        }
    }

    /// When the next of what is held back is to be handed on.
    pub fn next_due(&self) -> Option<Instant> {
        [self.log.due(), self.snapshot.due(), self.parcels.due()].into_iter().flatten().min()
    }

    fn draws_failure(&mut self) -> bool {
        self.random.next() % 1_000_000 < u64::from(self.settings.wal_fail_millionths)
    }
}

/// Whether an operation on a file is one of the log.
pub(super) fn is_of_log(key: Key) -> bool {
    key.slot <= LogDriver::<Buffer>::SIDE_SLOT
}

impl<T> Late<T> {
    fn new() -> Late<T> {
        Late(VecDeque::new())
    }

    /// Nothing overtakes what came before it, although the delay may have become shorter.
    fn put(&mut self, item: T, delay_ms: u32) {
        let due = Instant::now() + Duration::from_millis(delay_ms.into());
        let last = self.0.back().map_or(due, |(due, _)| *due);
        self.0.push_back((due.max(last), item));
    }

    fn take(&mut self, now: Instant) -> Option<T> {
        let is_due = self.due().is_some_and(|due| due <= now);
        if is_due { self.0.pop_front().map(|(_, item)| item) } else { None }
    }

    fn due(&self) -> Option<Instant> {
        self.0.front().map(|(due, _)| *due)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> config::Faults {
        config::Faults { wal_fail_millionths: 250_000, seed: 7, ..config::Faults::default() }
    }

    fn failures(settings: config::Faults, shard: u16) -> Vec<bool> {
        let mut faults = Faults::new(settings, ShardId(shard));
        (0..4_000).map(|_| faults.draws_failure()).collect()
    }

    #[test]
    fn failures_come_as_often_as_they_should_and_again_from_the_same_seed() {
        let drawn = failures(settings(), 0);
        let count = drawn.iter().filter(|fails| **fails).count();
        assert!((900..1_100).contains(&count), "{count} of 4000");
        assert_eq!(drawn, failures(settings(), 0));
        assert_ne!(drawn, failures(settings(), 1), "shards do not fail together");
        assert_ne!(drawn, failures(config::Faults { seed: 8, ..settings() }, 0));
        assert!(failures(config::Faults::default(), 0).iter().all(|fails| !fails));
    }

    #[test]
    fn what_is_held_back_keeps_its_order_when_the_delay_becomes_shorter() {
        let mut late = Late::new();
        let start = Instant::now();
        late.put(1, 10_000);
        late.put(2, 0);
        assert_eq!(late.take(start + Duration::from_secs(1)), None);
        let later = start + Duration::from_secs(20);
        assert_eq!([late.take(later), late.take(later), late.take(later)], [Some(1), Some(2), None]);
    }

    #[test]
    fn only_the_log_fails() {
        let always = config::Faults { wal_fail_millionths: 1_000_000, ..config::Faults::default() };
        let mut faults = Faults::new(always, ShardId(0));
        let key = |slot| Key::new(slot, 1);
        let log = LogDriver::<Buffer>::SLOT;
        faults.hold(Completion::Written { key: key(log), result: Ok(()) });
        faults.hold(Completion::Synced { key: key(log), result: Ok(()) });
        faults.hold(Completion::Written { key: key(LogDriver::<Buffer>::SIDE_SLOT + 1), result: Ok(()) });
        let now = Instant::now();
        assert!(matches!(faults.log.take(now), Some(Completion::Written { result: Err(fault), .. })
            if fault.errno == Errno(libc::EIO)));
        assert!(matches!(faults.log.take(now), Some(Completion::Synced { result: Err(Errno(libc::EIO)), .. })));
        assert!(matches!(faults.snapshot.take(now), Some(Completion::Written { result: Ok(()), .. })));
        assert_eq!(faults.next_due(), None);
    }
}
