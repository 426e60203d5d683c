//! Levels: keys that came at about the same time, known by one small id in each key's mark.
//!
//! A [`Line`] is a queue of levels, oldest first; keys join its newest. When a share of all keys has joined it, it is
//! closed and the next one begun. So a key's place in the queue is known to that share without a pointer per key, and a
//! key goes to the newest end by a change of its mark and of two counts.
//!
//! ```text
//! order      [ 7  0  3 ... 12 ]      oldest to newest; a level's place here is its rank
//! counts     keys whose mark has this id: exact, for levels and for aliases
//! level_of   7->7  0->0  3->3  5->3   5 is an alias: its keys belong to level 3
//! ```
//!
//! Ids run out, so neighbours that hold few keys, or whose times hardly differ, are merged: one id becomes an alias of
//! the other's level. The hand gives the keys of an alias the id of their level; when the last one has it, the alias is
//! free again. If the hand does not come in time, the newest level goes on for longer: less precise, never wrong.
//!
//! The *tail* of a line is the oldest levels, as many as hold the share of keys that the caller wants to choose victims
//! from. [`Levels::wanted`] tells the hand which marks belong to one.
//!
//! Everything is in cells, because reads move keys too.

use std::cell::Cell;

/// The hand passes over the key.
pub const KEEP: u8 = 0;
/// The hand asks about the key: it may be a victim, or has the id of an alias.
pub const LOOK: u8 = 1;

/// In `level_of`: an id that no key has.
const FREE: u8 = u8::MAX;

/// What the hand does with each of the 256 marks.
pub type Wanted = [Cell<u8>; 256];

/// Levels of `IDS` ids in `LINES` queues. A mark is an id, and above it whatever the owner keeps there.
pub struct Levels<const IDS: usize, const LINES: usize> {
    wanted: Wanted,
    counts: [Cell<u32>; IDS],
    level_of: [Cell<u8>; IDS],
    ranks: [Cell<u8>; IDS],
    /// When a level's keys came, milliseconds.
    times: [Cell<u64>; IDS],
    /// A stack of ids that no key has.
    free: [Cell<u8>; IDS],
    free_len: Cell<usize>,
    /// Ids that became aliases, or still were, when levels were merged last, and no sweep has begun since.
    aliases: Cell<usize>,
    total: Cell<u32>,
    lines: [Line<IDS>; LINES],
}

struct Line<const IDS: usize> {
    order: [Cell<u8>; IDS],
    len: Cell<usize>,
    newest: Cell<u8>,
    /// How many levels from the oldest on are its tail.
    tail: Cell<usize>,
    /// Keys that the tail was to hold when it was last asked for.
    tail_keys: Cell<u32>,
}

impl<const IDS: usize, const LINES: usize> Levels<IDS, LINES> {
    /// The last of 256 numbers says that there is no level.
    const USABLE: usize = if IDS < 256 { IDS } else { FREE as usize };
    /// More levels than this are merged until there are [`Self::MERGED`]; the other ids are free, or aliases that wait
    /// for the hand.
    const MOST: usize = IDS * 3 / 4;
    const MERGED: usize = IDS * 5 / 8;

    pub fn new(now: u64) -> Self {
        let levels = Levels {
            wanted: [const { Cell::new(KEEP) }; 256],
            counts: [const { Cell::new(0) }; IDS],
            level_of: [const { Cell::new(FREE) }; IDS],
            ranks: [const { Cell::new(0) }; IDS],
            times: [const { Cell::new(0) }; IDS],
            free: [const { Cell::new(0) }; IDS],
            free_len: Cell::new(0),
            aliases: Cell::new(0),
            total: Cell::new(0),
            lines: [const {
                Line {
                    order: [const { Cell::new(0) }; IDS],
                    len: Cell::new(0),
                    newest: Cell::new(0),
                    tail: Cell::new(0),
                    tail_keys: Cell::new(0),
                }
            }; LINES],
        };
        levels.list_free();
        for line in 0..LINES {
            levels.push(line, now);
        }
        levels
    }

    /// Keys in all levels.
    #[inline]
    pub fn total(&self) -> u32 {
        self.total.get()
    }

    /// Keys with this id.
    #[inline(always)]
    pub fn count(&self, id: u8) -> u32 {
        self.counts[id as usize].get()
    }

    /// The level that keys with this id belong to.
    #[inline]
    pub fn level(&self, id: u8) -> u8 {
        self.level_of[id as usize].get()
    }

    /// The place of a key with this id in its line, from the oldest.
    #[inline]
    pub fn rank(&self, id: u8) -> u8 {
        self.ranks[self.level(id) as usize].get()
    }

    /// When the keys with this id came, milliseconds.
    pub fn time(&self, id: u8) -> u64 {
        self.times[self.level(id) as usize].get()
    }

    /// Ids that no key has.
    #[inline]
    pub fn free_ids(&self) -> usize {
        self.free_len.get()
    }

    /// The level that keys join now.
    #[inline(always)]
    pub fn newest(&self, line: usize) -> u8 {
        self.lines[line].newest.get()
    }

    pub fn oldest(&self, line: usize) -> u8 {
        self.lines[line].order[0].get()
    }

    pub fn wanted(&self) -> &Wanted {
        &self.wanted
    }

    /// A new key has this id.
    #[inline]
    pub fn enter(&self, id: u8) {
        self.total.set(self.total.get() + 1);
        let count = &self.counts[id as usize];
        count.set(count.get() + 1);
    }

    /// A key with this id is gone.
    #[inline]
    pub fn leave(&self, id: u8) {
        self.total.set(self.total.get() - 1);
        let count = &self.counts[id as usize];
        count.set(count.get() - 1);
    }

    /// A key changes its id.
    #[inline(always)]
    pub fn change(&self, from: u8, to: u8) {
        let (from, to) = (&self.counts[from as usize], &self.counts[to as usize]);
        debug_assert!(from.get() > 0, "no key has this mark");
        from.set(from.get().wrapping_sub(1));
        to.set(to.get() + 1);
    }

    /// Closes the newest level of a line and begins the next. If no id is free it stays open.
    pub fn advance(&self, line: usize, now: u64) {
        if self.count(self.newest(line)) == 0 {
            return self.times[self.newest(line) as usize].set(now);
        }
        if self.levels() >= Self::MOST || self.free_len.get() == 0 {
            self.collect(now);
        }
        if self.free_len.get() > 0 {
            self.push(line, now);
        }
    }

    fn push(&self, line: usize, now: u64) {
        self.free_len.set(self.free_len.get() - 1);
        let id = self.free[self.free_len.get()].get();
        self.level_of[id as usize].set(id);
        self.times[id as usize].set(now);
        let line = &self.lines[line];
        self.ranks[id as usize].set(line.len.get() as u8);
        line.order[line.len.get()].set(id);
        line.len.set(line.len.get() + 1);
        line.newest.set(id);
    }

    fn levels(&self) -> usize {
        self.lines.iter().map(|line| line.len.get()).sum()
    }

    /// Makes the tail of a line hold `keys` keys, or all that the line has. Keys that have the id of an alias do not
    /// count: the hand meets them, and then they do. Returns how many it holds.
    pub fn aim(&self, line: usize, keys: u32) -> u32 {
        let line = &self.lines[line];
        line.tail_keys.set(keys);
        let (mut held, mut tail) = (0, 0);
        for level in line.order[..line.len.get()].iter().map(Cell::get) {
            if held < keys {
                self.want(level, LOOK);
                held += self.count(level);
                tail += 1;
            } else if tail < line.tail.get() {
                // It was part of the tail.
                self.want(level, KEEP);
                line.tail.set(line.tail.get() - 1);
            } else {
                break;
            }
        }
        line.tail.set(tail);
        held
    }

    /// Whether keys with this id, which is in this line, are in its tail.
    #[inline]
    pub fn in_tail(&self, line: usize, id: u8) -> bool {
        (self.rank(id) as usize) < self.lines[line].tail.get()
    }

    /// Tells the hand what to do with marks of this id, whatever is above it.
    fn want(&self, id: u8, what: u8) {
        self.wanted[id as usize..].iter().step_by(IDS).for_each(|wanted| wanted.set(what));
    }

    /// Whether so many ids are aliases that a pass of the hand over the whole table is worth its time.
    pub fn wants_sweep(&self) -> bool {
        self.aliases.get() > IDS / 16
    }

    pub fn sweep_begins(&self) {
        self.aliases.set(0);
    }

    fn is_alias(&self, id: usize) -> bool {
        let level = self.level_of[id].get();
        level != FREE && level as usize != id
    }

    /// Merges levels if there are too many, and finds which ids are free. Takes 1-2 µs.
    fn collect(&self, now: u64) {
        let mut weights = [0u32; IDS];
        for (level, count) in self.level_of.iter().zip(&self.counts) {
            if level.get() != FREE {
                weights[level.get() as usize] += count.get();
            }
        }
        for line in &self.lines {
            self.drop_empty(line, &weights);
        }
        // The price of a merge is a share of all keys in one level and an error in their idle time. What is paid is
        // raised until enough is merged, so the cheapest go first.
        let mut price = 1;
        while self.levels() > Self::MERGED {
            for line in &self.lines {
                self.merge(line, &mut weights, price, now);
            }
            price *= 2;
        }
        // An alias of what has become an alias belongs to the level of that.
        for id in (0..IDS).filter(|&id| self.is_alias(id)) {
            let mut level = self.level_of[id].get();
            while level != FREE && self.level(level) != level {
                level = self.level(level);
            }
            self.level_of[id].set(level);
        }
        let mut aliases = 0;
        for id in (0..IDS).filter(|&id| self.is_alias(id)) {
            if self.counts[id].get() == 0 {
                self.level_of[id].set(FREE);
            } else {
                aliases += 1;
            }
        }
        self.aliases.set(aliases);
        self.list_free();
        for id in 0..IDS {
            self.want(id as u8, if self.is_alias(id) { LOOK } else { KEEP });
        }
        for (index, line) in self.lines.iter().enumerate() {
            for (place, level) in line.order[..line.len.get()].iter().enumerate() {
                self.ranks[level.get() as usize].set(place as u8);
            }
            line.tail.set(0);
            self.aim(index, line.tail_keys.get());
        }
    }

    fn list_free(&self) {
        self.free_len.set(0);
        for id in (0..Self::USABLE).rev().filter(|&id| self.level_of[id].get() == FREE) {
            self.free[self.free_len.get()].set(id as u8);
            self.free_len.set(self.free_len.get() + 1);
        }
    }

    fn drop_empty(&self, line: &Line<IDS>, weights: &[u32; IDS]) {
        let mut kept = 0;
        for place in 0..line.len.get() {
            let level = line.order[place].get();
            if weights[level as usize] == 0 && level != line.newest.get() {
                self.level_of[level as usize].set(FREE);
            } else {
                line.order[kept].set(level);
                kept += 1;
            }
        }
        line.len.set(kept);
    }

    /// One walk over a line that merges neighbours at this price, but not the newest level.
    fn merge(&self, line: &Line<IDS>, weights: &mut [u32; IDS], price: u64, now: u64) {
        let mut last = 0;
        for place in 1..line.len.get() {
            let (older, newer) = (line.order[last].get(), line.order[place].get());
            let enough = self.levels() - (place - 1 - last) <= Self::MERGED;
            if enough || newer == line.newest.get() || !self.is_cheap(older, newer, weights, price, now) {
                last += 1;
                line.order[last].set(newer);
                continue;
            }
            // The id that more keys have stays.
            let (kept, given) = if self.count(older) >= self.count(newer) { (older, newer) } else { (newer, older) };
            let [first, second] = [older, newer].map(|level| self.times[level as usize].get());
            let [few, more] = [older, newer].map(|level| weights[level as usize]);
            let share = u128::from(second.saturating_sub(first)) * u128::from(more) / u128::from((few + more).max(1));
            self.times[kept as usize].set(first + share as u64);
            weights[kept as usize] = few + more;
            self.level_of[given as usize].set(kept);
            line.order[last].set(kept);
        }
        line.len.set(line.len.get().min(last + 1));
    }

    /// At price 1 neighbours are merged that hold 1/2048 of all keys together and whose times differ by 1/256 of their
    /// idle time.
    fn is_cheap(&self, older: u8, newer: u8, weights: &[u32; IDS], price: u64, now: u64) -> bool {
        let keys = u64::from(weights[older as usize]) + u64::from(weights[newer as usize]);
        let [first, second] = [older, newer].map(|level| self.times[level as usize].get());
        keys.saturating_mul(2048) <= price.saturating_mul(u64::from(self.total()))
            && second.saturating_sub(first).saturating_mul(256)
                <= price.saturating_mul(now.saturating_sub(first).max(256))
    }

    #[cfg(test)]
    pub fn counts(&self) -> Vec<u32> {
        self.counts.iter().map(Cell::get).collect()
    }

    /// Panics unless every id is in one place: free, an alias of a level, or a level in a line.
    #[cfg(test)]
    pub fn check(&self) {
        assert_eq!(self.counts.iter().map(Cell::get).sum::<u32>(), self.total());
        let mut seen = [0; IDS];
        for id in &self.free[..self.free_len.get()] {
            assert_eq!((self.level(id.get()), self.count(id.get())), (FREE, 0));
            seen[id.get() as usize] += 1;
        }
        for line in &self.lines {
            assert_eq!(line.order[line.len.get() - 1].get(), line.newest.get());
            for (place, id) in line.order[..line.len.get()].iter().enumerate() {
                assert_eq!((self.level(id.get()), self.rank(id.get()) as usize), (id.get(), place));
                seen[id.get() as usize] += 1;
            }
            let times = line.order[..line.len.get()].iter().map(|id| self.time(id.get()));
            assert!(times.is_sorted());
        }
        for id in (0..Self::USABLE).filter(|&id| self.is_alias(id)) {
            let level = self.level_of[id].get();
            assert_eq!(self.level(level), level);
            assert_eq!(self.wanted[id].get(), LOOK);
            seen[id] += 1;
        }
        assert!(seen[..Self::USABLE].iter().all(|&times| times == 1));
    }
}
