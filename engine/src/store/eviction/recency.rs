//! Least recently used: the mark is the level in which a key was last touched.
//!
//! Exact order costs two pointers per key and writes to two other keys at each read. Redis keeps a clock value per key
//! and looks at a few keys at random, so some young ones go. Here a key's age is known to about 1/64 of all keys, all
//! ages are known exactly in number, and the hand takes any key from the oldest sixteenth. That is not seen in hit ratios
//! (0.04 points at most), but in a small loop over a few more keys than there is room for, where any choice beats the
//! oldest.

use std::cell::Cell;

use super::Judgement;
use super::levels::{Levels, Wanted};
use crate::id::Millis;

/// A level takes this part of all keys,
const LEVELS_PER_TOTAL: u32 = 64;
/// and at least so many.
const LEVEL_KEYS_MIN: u32 = 4;
/// Free ids that are enough to go on.
const IDS_AMPLE: usize = 32;
/// A level in which anything was touched is closed after this, milliseconds: the resolution of idle times.
const LEVEL_MS: u64 = 1000;
/// Victims are chosen from this part of all keys, the oldest: the hand looks at so many slots for one.
const TAIL_PER_TOTAL: u32 = 16;

pub struct Recency {
    levels: Levels<256, 1>,
    now: Cell<Millis>,
    /// The newest level is closed when it holds this many keys.
    close_at: Cell<u32>,
    /// Whether the order of touches within a second is worth knowing.
    precise: bool,
    /// Victims until the tail is looked at again.
    tail_budget: u32,
}

impl Recency {
    pub fn new(precise: bool, now: Millis) -> Recency {
        let recency = Recency {
            levels: Levels::new(now.0),
            now: Cell::new(now),
            close_at: Cell::new(0),
            precise,
            tail_budget: 0,
        };
        recency.set_close_at();
        recency
    }

    pub fn set_precise(&mut self, precise: bool) {
        self.precise = precise;
        self.set_close_at();
    }

    #[inline(always)]
    pub fn hit(&self, mark: u8) -> u8 {
        let newest = self.levels.newest(0);
        if mark != newest {
            self.levels.change(mark, newest);
            if self.levels.count(newest) >= self.close_at.get() {
                self.advance();
            }
        }
        newest
    }

    pub fn insert(&mut self, now: Millis) -> u8 {
        self.now.set(now);
        let newest = self.levels.newest(0);
        self.levels.enter(newest);
        if self.levels.count(newest) >= self.close_at.get() {
            self.advance();
        }
        newest
    }

    /// A key of which nothing is known: it was touched before all that were.
    pub fn adopt(&mut self) -> u8 {
        if self.levels.oldest(0) == self.levels.newest(0) {
            // The newest level is left to keys that are touched from now on.
            let adopted = self.levels.newest(0);
            self.levels.enter(adopted);
            self.advance();
            return adopted;
        }
        let adopted = self.levels.oldest(0);
        self.levels.enter(adopted);
        adopted
    }

    pub fn remove(&mut self, mark: u8) {
        self.levels.leave(mark);
    }

    #[cold]
    #[inline(never)]
    fn advance(&self) {
        self.levels.advance(0, self.now.get().0);
        self.set_close_at();
    }

    fn set_close_at(&self) {
        // Larger ones when ids are about to run out, until the hand has freed some.
        let ration = (IDS_AMPLE / (self.levels.free_ids() + 1)).max(1) as u32;
        let share = (self.levels.total() / LEVELS_PER_TOTAL).max(LEVEL_KEYS_MIN).saturating_mul(ration);
        // A level that could not be closed gets as much again.
        let close_at = self.levels.count(self.levels.newest(0)).saturating_add(share);
        self.close_at.set(if self.precise { close_at } else { u32::MAX });
    }

    pub fn tick(&mut self, now: Millis) {
        self.now.set(now);
        let newest = self.levels.newest(0);
        if self.levels.count(newest) == 0 || now.0.saturating_sub(self.levels.time(newest)) >= LEVEL_MS {
            self.advance();
        }
    }

    pub fn wanted(&self) -> &Wanted {
        self.levels.wanted()
    }

    pub fn aim(&mut self) {
        let held = self.levels.aim(0, (self.levels.total() / TAIL_PER_TOTAL).max(1));
        self.tail_budget = (held / 4).max(1);
    }

    pub fn judge(&self, mark: u8) -> Judgement {
        if self.levels.in_tail(0, mark) {
            return Judgement::Evict;
        }
        match self.tidy(mark) {
            level if level == mark => Judgement::Keep,
            level => Judgement::Remark(level),
        }
    }

    pub fn evicted(&mut self, mark: u8) {
        self.levels.leave(mark);
        self.tail_budget = self.tail_budget.saturating_sub(1);
        if self.tail_budget == 0 {
            self.aim();
        }
    }

    pub fn rank(&self, mark: u8) -> u8 {
        self.levels.rank(mark)
    }

    /// The mark of the key's level, which the key is given.
    pub fn tidy(&self, mark: u8) -> u8 {
        let level = self.levels.level(mark);
        if level != mark {
            self.levels.change(mark, level);
        }
        level
    }

    pub fn wants_sweep(&self) -> bool {
        self.levels.wants_sweep()
    }

    pub fn sweep_begins(&self) {
        self.levels.sweep_begins();
    }

    /// Milliseconds since the key was touched; less than the resolution reads as nothing.
    pub fn idle_ms(&self, mark: u8, now: Millis) -> u64 {
        now.0.saturating_sub(self.levels.time(mark))
    }

    #[cfg(test)]
    pub fn counts(&self) -> Vec<u32> {
        self.levels.counts()
    }

    #[cfg(test)]
    pub fn check(&self) {
        self.levels.check();
    }
}

const _: () = assert!(std::mem::size_of::<Recency>() < 8 << 10);
