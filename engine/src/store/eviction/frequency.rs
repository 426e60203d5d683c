//! Least frequently used, as Redis counts: the mark is a counter of eight bits that grows with the logarithm of the
//! accesses, because each adds one only with a probability that falls as the counter rises. The hand takes one off it
//! for every `lfu-decay-time` that has passed, where Redis does at the next access.

use std::cell::Cell;

use super::levels::{KEEP, LOOK, Wanted};
use super::{Judgement, LfuSettings};
use crate::id::Millis;

/// The counter of a new key: not the first to go.
const NEW: u8 = 5;
const MINUTE_MS: u64 = 60_000;
/// Counters from the lowest on are wanted until they hold this part of all keys: the hand looks at no more than so many
/// slots for a victim. One counter can hold most keys, and then a smaller part takes no better ones; where popularity
/// shifts it takes the new ones before they are read.
const TAIL_PER_TOTAL: u32 = 16;

pub struct Frequency {
    wanted: Wanted,
    /// Keys with each counter.
    counts: [Cell<u32>; 256],
    /// An access adds one if 32 random bits are below this.
    thresholds: [u32; 256],
    total: u32,
    /// Counters below this are wanted.
    wanted_below: u32,
    /// Victims until the counters are looked at again.
    tail_budget: u32,
    decay_ms: u64,
    now: Millis,
    decayed_at: Millis,
    /// What the sweep takes off each counter.
    decay: u8,
}

impl Frequency {
    pub fn new(settings: LfuSettings, now: Millis) -> Frequency {
        let mut frequency = Frequency {
            wanted: [const { Cell::new(KEEP) }; 256],
            counts: [const { Cell::new(0) }; 256],
            thresholds: [0; 256],
            total: 0,
            wanted_below: 0,
            tail_budget: 0,
            decay_ms: 0,
            now,
            decayed_at: now,
            decay: 0,
        };
        frequency.set(settings);
        frequency
    }

    pub fn set(&mut self, settings: LfuSettings) {
        self.decay_ms = u64::from(settings.decay_minutes) * MINUTE_MS;
        for (counter, threshold) in self.thresholds.iter_mut().enumerate() {
            let above = (counter as u64).saturating_sub(NEW as u64);
            *threshold = (u64::from(u32::MAX) / (above * u64::from(settings.log_factor) + 1)) as u32;
        }
        // A counter that is full stays.
        self.thresholds[255] = 0;
    }

    pub fn insert(&mut self, now: Millis) -> u8 {
        self.now = now;
        self.adopt()
    }

    pub fn adopt(&mut self) -> u8 {
        self.total += 1;
        self.add(NEW);
        NEW
    }

    #[inline(always)]
    pub fn hit(&self, mark: u8, random: impl FnOnce() -> u64) -> u8 {
        if (random() >> 32) as u32 >= self.thresholds[mark as usize] {
            return mark;
        }
        self.change(mark, mark + 1)
    }

    #[inline]
    fn change(&self, from: u8, to: u8) -> u8 {
        self.take(from);
        self.add(to);
        to
    }

    #[inline]
    fn add(&self, mark: u8) {
        let count = &self.counts[mark as usize];
        count.set(count.get() + 1);
    }

    #[inline]
    fn take(&self, mark: u8) {
        let count = &self.counts[mark as usize];
        debug_assert!(count.get() > 0, "no key has this mark");
        count.set(count.get().wrapping_sub(1));
    }

    pub fn remove(&mut self, mark: u8) {
        self.total -= 1;
        self.take(mark);
    }

    pub fn wanted(&self) -> &Wanted {
        &self.wanted
    }

    pub fn aim(&mut self) {
        let enough = (self.total / TAIL_PER_TOTAL).max(1);
        let mut held = 0;
        self.wanted_below = 0;
        for (count, wanted) in self.counts.iter().zip(&self.wanted) {
            wanted.set(if held < enough { LOOK } else { KEEP });
            self.wanted_below += (held < enough) as u32;
            held += if held < enough { count.get() } else { 0 };
        }
        self.tail_budget = (held / 4).max(1);
    }

    pub fn judge(&self, mark: u8) -> Judgement {
        if u32::from(mark) < self.wanted_below { Judgement::Evict } else { Judgement::Keep }
    }

    pub fn evicted(&mut self, mark: u8) {
        self.remove(mark);
        self.tail_budget = self.tail_budget.saturating_sub(1);
        if self.tail_budget == 0 {
            self.aim();
        }
    }

    /// Takes off the counter what has decayed: the sweep does so with each key once.
    pub fn tidy(&self, mark: u8) -> u8 {
        let left = mark.saturating_sub(self.decay);
        if left == mark { mark } else { self.change(mark, left) }
    }

    pub fn tick(&mut self, now: Millis) {
        self.now = now;
    }

    pub fn wants_sweep(&self) -> bool {
        self.decay_ms > 0 && self.now.0.saturating_sub(self.decayed_at.0) >= self.decay_ms
    }

    pub fn sweep_begins(&mut self) {
        let periods = self.now.0.saturating_sub(self.decayed_at.0) / self.decay_ms.max(1);
        self.decayed_at.0 += periods * self.decay_ms;
        self.decay = periods.min(255) as u8;
    }

    #[cfg(test)]
    pub fn counts(&self) -> Vec<u32> {
        self.counts.iter().map(Cell::get).collect()
    }
}
