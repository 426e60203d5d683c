//! When the disks of a world are late, and what they do not do.

use crate::random::Random;

/// What may happen to the disks of a world; chosen by its seed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// Steps that a write or a sync is under way, at most.
    pub delay_max: usize,
    /// Once in so many writes and syncs of logs, and in so many of snapshots and manifests, one fails; 0: never.
    pub log_error_one_in: usize,
    pub save_error_one_in: usize,
    /// Disks stand still now and then, for so many steps at most; 0: never.
    pub stall_max: usize,
    /// Disks are full now and then, for so many steps at most; 0: never.
    pub full_max: usize,
}

/// The error of an input or output that failed, and of a disk without space, as the system numbers them.
pub(crate) const EIO: i32 = 5;
pub(crate) const ENOSPC: i32 = 28;

/// The disk of one shard, as it is now.
#[derive(Debug)]
pub(crate) struct Weather {
    faults: Faults,
    random: Random,
    stalled_until: u64,
    full_until: u64,
    /// No more faults: the world comes to rest.
    pub is_calm: bool,
}

impl Weather {
    pub fn new(faults: Faults, random: Random) -> Weather {
        Weather { faults, random, stalled_until: 0, full_until: 0, is_calm: false }
    }

    /// A step of the world.
    pub fn step(&mut self, step: u64) {
        if self.is_calm {
            (self.stalled_until, self.full_until) = (0, 0);
            return;
        }
        if self.faults.stall_max > 0 && self.random.one_in(1_500) {
            self.stalled_until = step + self.random.between(1, self.faults.stall_max) as u64;
        }
        if self.faults.full_max > 0 && self.random.one_in(1_000) {
            self.full_until = step + self.random.between(1, self.faults.full_max) as u64;
        }
    }

    /// When something that begins now is through, unless the disk stalls.
    pub fn end_of(&mut self, step: u64) -> u64 {
        step + self.random.below(self.faults.delay_max + 1) as u64
    }

    pub fn is_stalled(&self, step: u64) -> bool {
        step < self.stalled_until
    }

    pub fn is_full(&self, step: u64) -> bool {
        step < self.full_until
    }

    /// Whether a write or a sync of a log that begins now will fail, and how.
    pub fn log_error(&mut self) -> Option<i32> {
        self.error(self.faults.log_error_one_in)
    }

    /// As [`Weather::log_error`], of a snapshot or a manifest; a full disk has no room for it.
    pub fn save_error(&mut self, step: u64) -> Option<i32> {
        if self.is_full(step) {
            return Some(ENOSPC);
        }
        self.error(self.faults.save_error_one_in)
    }

    fn error(&mut self, one_in: usize) -> Option<i32> {
        (one_in > 0 && !self.is_calm && self.random.one_in(one_in))
            .then(|| if self.random.one_in(4) { ENOSPC } else { EIO })
    }

    pub fn random(&mut self) -> &mut Random {
        &mut self.random
    }
}
