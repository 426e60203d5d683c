//! S3-FIFO (Yang et al., "FIFO queues are all you need for cache eviction", SOSP 2023).
//!
//! New keys go to a small queue with a tenth of all keys. At its end those that were read twice go on to the main queue,
//! the others are evicted, and remembered for a while: a key that comes back meanwhile goes to the main queue at once.
//! At the main queue's end a key that was read goes back to the beginning, with one read less to its credit, and one that
//! was not is evicted. So what is asked for once passes through quickly, and a read costs a counter in the mark.
//!
//! One thing is added. When popularity shifts, the main queue is full of keys that nobody asks for any more, and as its
//! end moves only when a key comes in, they stay for long. So keys evicted from the main queue are remembered too, and
//! when fewer of them come back than of those from the small queue, victims come from the main queue alone, and reads
//! count there for one more round only, until that is no longer so or little is left ([`Balance`]). Where popularity is
//! steady it hardly ever happens. Hit ratio in percent with 10,000 of 1,000,000 keys in the simulation:
//!
//! | | LRU | S3-FIFO | with this |
//! | --- | --- | --- | --- |
//! | Zipf 0.99 | 56.7 | 64.8 | 64.8 |
//! | the same, its 20,000 first keys replaced 20 times | 55.5 | 53.8 | 55.0 |
//! | round and round over 11,000 keys | 0 | 66.7 | 9.1 |
//!
//! The last line is its price: what comes back does so later than what is evicted is counted, so a main queue that begins
//! to be emptied looks staler than it is.
//!
//! To give the main queue half of the small queue's turns at all times brings as much in the second line, and loses 6
//! points of the first.
//!
//! ```text
//! mark   7 6   | 5 ....... 0
//!        reads | level in the small or in the main queue
//! ```

use super::Judgement;
use super::ghost::Ghost;
use super::levels::{Levels, Wanted};
use crate::id::Millis;

const IDS: usize = 64;
const READ: u8 = IDS as u8;
const READS_MAX: u8 = 3 * READ;
/// Reads that take a key from the small to the main queue.
const PROMOTED_AT: u8 = 2 * READ;

const SMALL: usize = 0;
const MAIN: usize = 1;
/// The part of all keys in the small queue.
const SMALL_PER_TOTAL: u32 = 10;
/// When this part of all keys was sent on without a victim, reads count for one more round only.
const FRUITLESS_PER_TOTAL: u32 = 16;
/// A main queue that is stale is left this part of all keys.
const MAIN_PER_TOTAL_MIN: u32 = 4;
/// A level takes this part of all keys, by queue.
const LEVELS_PER_TOTAL: [u32; 2] = [80, 40];
/// Victims are chosen from this part of all keys, by queue.
const TAIL_PER_TOTAL: [u32; 2] = [128, 64];

pub struct Fifo {
    levels: Levels<IDS, 2>,
    /// Keys in the main queue.
    main: u32,
    /// One bit per id: whether its level is in the main queue.
    main_ids: u64,
    /// Keys to take from each tail until it is looked at again.
    tail_budget: [u32; 2],
    /// Keys inserted since the last one was evicted.
    inserted: u32,
    /// Keys sent on since the last one was evicted.
    fruitless: u32,
    ghost: Ghost,
    balance: Balance,
    now: Millis,
}

/// How many keys were evicted from each queue, and how many of such came back while they were remembered: counts that
/// are halved again and again, so that they tell of lately.
#[derive(Default)]
struct Balance {
    evicted: [u32; 2],
    returned: [u32; 2],
    /// Whether those from the main queue are less often missed.
    main_is_stale: bool,
}

impl Balance {
    /// Counts are halved after evictions of this part of all keys, and this many.
    const WINDOW_PER_TOTAL: u32 = 10;
    const WINDOW_MIN: u32 = 64;
    /// Fewer evictions from the main queue say nothing.
    const EVICTED_MIN: u32 = 8;
    /// How much more often those from the small queue must come back, after a standard deviation is granted to the
    /// main queue. At 1.5 half a point more is won where popularity shifts, but 4 points are lost with Zipf 0.7.
    const RATIO: f32 = 3.0;
    const DEVIATIONS: f32 = 1.0;

    fn note_evicted(&mut self, queue: usize, total: u32) {
        self.evicted[queue] += 1;
        if self.evicted[SMALL] + self.evicted[MAIN] > total / Self::WINDOW_PER_TOTAL + Self::WINDOW_MIN {
            self.evicted.iter_mut().chain(&mut self.returned).for_each(|count| *count /= 2);
        }
        self.weigh();
    }

    fn note_returned(&mut self, queue: usize) {
        self.returned[queue] += 1;
        self.weigh();
    }

    fn weigh(&mut self) {
        let [from_small, from_main] = self.evicted.map(|count| count as f32);
        let [small, main] = self.returned.map(|count| count as f32);
        let main = main + 1.0 + Self::DEVIATIONS * (main + 1.0).sqrt();
        self.main_is_stale =
            self.evicted[MAIN] >= Self::EVICTED_MIN && small * from_main > Self::RATIO * main * from_small;
    }
}

impl Fifo {
    pub fn new(now: Millis) -> Fifo {
        let levels = Levels::new(now.0);
        let main_ids = 1 << levels.newest(MAIN);
        Fifo {
            levels,
            main: 0,
            main_ids,
            tail_budget: [0; 2],
            inserted: u32::MAX,
            fruitless: 0,
            ghost: Ghost::default(),
            balance: Balance::default(),
            now,
        }
    }

    #[inline(always)]
    pub fn hit(&self, mark: u8) -> u8 {
        if mark >= READS_MAX { mark } else { mark + READ }
    }

    pub fn insert(&mut self, hash: u64, now: Millis) -> u8 {
        self.now = now;
        self.inserted = self.inserted.saturating_add(1);
        let total = self.levels.total();
        // While nothing has to go a full small queue would only make the first victims worse.
        let filling = self.inserted > total / 64 + 64;
        let remembered = self.ghost.take(hash);
        if let Some(queue) = remembered {
            self.balance.note_returned(queue);
        }
        let queue = match remembered.is_some() || filling && self.small() > total / SMALL_PER_TOTAL {
            true => MAIN,
            false => SMALL,
        };
        self.enter(queue)
    }

    /// A key of which nothing is known: it is left to the main queue to find out.
    pub fn adopt(&mut self) -> u8 {
        self.enter(MAIN)
    }

    fn enter(&mut self, queue: usize) -> u8 {
        let level = self.levels.newest(queue);
        self.levels.enter(level);
        self.main += (queue == MAIN) as u32;
        self.advance_if_full(queue);
        level
    }

    fn advance_if_full(&mut self, queue: usize) {
        let share = (self.levels.total() / LEVELS_PER_TOTAL[queue]).max(1);
        let count = self.levels.count(self.levels.newest(queue));
        // Without a free id it is tried again after as many keys.
        if count >= share && (self.levels.free_ids() > 0 || count.is_multiple_of(share)) {
            self.levels.advance(queue, self.now.0);
            let newest = self.levels.newest(queue);
            self.main_ids = self.main_ids & !(1 << newest) | (queue as u64) << newest;
        }
    }

    fn small(&self) -> u32 {
        self.levels.total() - self.main
    }

    fn queue(&self, mark: u8) -> usize {
        (self.main_ids >> (mark % READ) & 1) as usize
    }

    pub fn remove(&mut self, mark: u8) {
        self.main -= self.queue(mark) as u32;
        self.levels.leave(mark % READ);
    }

    pub fn wanted(&self) -> &Wanted {
        self.levels.wanted()
    }

    pub fn aim(&mut self) {
        self.aim_at(SMALL);
        self.aim_at(MAIN);
    }

    fn aim_at(&mut self, queue: usize) {
        let share = (self.levels.total() / TAIL_PER_TOTAL[queue]).max(1);
        // Each pass of the hand takes the keys of a tail: where many were read, a longer one.
        let held = self.levels.aim(queue, share.saturating_add(self.fruitless.saturating_mul(2)));
        self.tail_budget[queue] = (held / 4).max(1);
    }

    /// A key of this queue's tail is gone from there.
    fn taken(&mut self, queue: usize) {
        self.tail_budget[queue] = self.tail_budget[queue].saturating_sub(1);
        if self.tail_budget[queue] == 0 {
            self.aim_at(queue);
        }
    }

    pub fn judge(&mut self, mark: u8) -> Judgement {
        let (id, reads) = (mark % READ, mark - mark % READ);
        let queue = self.queue(id);
        let (small, total) = (self.small(), self.levels.total());
        let stale = self.balance.main_is_stale && self.main > total / MAIN_PER_TOTAL_MIN;
        let turn = if stale || small == 0 || small < total / SMALL_PER_TOTAL { MAIN } else { SMALL };
        if queue != turn || !self.levels.in_tail(queue, id) {
            return match self.tidy(mark) {
                tidy if tidy == mark => Judgement::Keep,
                tidy => Judgement::Remark(tidy),
            };
        }
        let hurried = self.fruitless > total / FRUITLESS_PER_TOTAL;
        let left = match queue {
            SMALL if reads >= PROMOTED_AT => 0,
            MAIN if reads > 0 && (stale || hurried) => 0,
            MAIN if reads > 0 => reads - READ,
            _ => return Judgement::Evict,
        };
        let level = self.levels.newest(MAIN);
        self.levels.change(id, level);
        self.main += (queue == SMALL) as u32;
        self.advance_if_full(MAIN);
        self.fruitless += 1;
        self.taken(queue);
        Judgement::Remark(level + left)
    }

    pub fn evicted(&mut self, mark: u8, hash: u64) {
        let queue = self.queue(mark);
        let total = self.levels.total();
        self.ghost.insert(hash, queue, (total - total / SMALL_PER_TOTAL) as usize);
        self.balance.note_evicted(queue, total);
        self.inserted = 0;
        self.fruitless = 0;
        self.remove(mark);
        self.taken(queue);
    }

    /// Small before main, older before newer.
    pub fn rank(&self, mark: u8) -> u32 {
        (self.queue(mark) * IDS) as u32 + u32::from(self.levels.rank(mark % READ))
    }

    /// The mark with the key's level, which the key is given.
    pub fn tidy(&self, mark: u8) -> u8 {
        let id = mark % READ;
        let level = self.levels.level(id);
        if level != id {
            self.levels.change(id, level);
        }
        mark - id + level
    }

    pub fn tick(&mut self, now: Millis) {
        self.now = now;
    }

    pub fn wants_sweep(&self) -> bool {
        self.levels.wants_sweep()
    }

    pub fn sweep_begins(&self) {
        self.levels.sweep_begins();
    }

    /// Milliseconds since the key came to its queue, or was sent back to the beginning: it was not touched less lately
    /// than it says, but perhaps later.
    pub fn idle_ms(&self, mark: u8, now: Millis) -> u64 {
        now.0.saturating_sub(self.levels.time(mark % READ))
    }

    pub fn ghost_bytes(&self) -> usize {
        self.ghost.memory_bytes()
    }

    #[cfg(test)]
    pub fn counts(&self) -> Vec<u32> {
        self.levels.counts()
    }

    #[cfg(test)]
    pub fn check(&self, marks: impl Iterator<Item = u8>) {
        self.levels.check();
        assert_eq!(self.main as usize, marks.filter(|&mark| self.queue(mark) == MAIN).count());
    }
}
