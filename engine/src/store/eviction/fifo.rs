//! S3-FIFO (Yang et al., "FIFO queues are all you need for cache eviction", SOSP 2023).
//!
//! New keys go to a small queue with a tenth of all keys. At its end those that were read twice go on to the main queue,
//! the others are evicted, and remembered for a while: a key that comes back meanwhile goes to the main queue at once.
//! At the main queue's end a key that was read goes back to the beginning, with one read less to its credit, and one that
//! was not is evicted. So what is asked for once passes through quickly, and a read costs a counter in the mark.
//!
//! One thing is added. When popularity shifts, the main queue is full of keys that nobody asks for any more, and as its
//! end moves only when a key comes in from the small queue, they stay for long. A small queue of three quarters of all
//! keys, which sends on what was read once, and a main queue in which reads count for one more round only, do much like
//! LRU there, or better; and otherwise worse than S3-FIFO. Which of these two shapes has more hits of late, caches in
//! [`super::miniature`] find out, that are asked for a sample of all keys; it is taken on from one eviction to the next,
//! as only what the queues' ends do depends on it. Hit
//! ratio in percent with 10,000 of 1,000,000 keys in the simulation:
//!
//! | | LRU | S3-FIFO | with this |
//! | --- | --- | --- | --- |
//! | Zipf 0.99 | 56.7 | 64.8 | 64.8 |
//! | the same, its 20,000 first keys replaced 20 times | 55.5 | 53.8 | 56.0 |
//! | its 10,000 first keys replaced every 50,000 requests | 54.5 | 50.5 | 54.7 |
//! | round and round over 11,000 keys | 0 | 66.7 | 67.7 |
//!
//! With 100,000 keys the wide shape is 0.3 to 0.4 points below LRU in the second and third line. To compare how often keys
//! evicted from either queue come back, and to empty the main queue when those from there come back less, wins half as
//! much and loses nearly all hits in the last line.
//!
//! ```text
//! mark   7 6   | 5 ....... 0
//!        reads | level in the small or in the main queue
//! ```

use std::cell::{Cell, RefCell};

use super::Judgement;
use super::ghost::Ghost;
use super::levels::{Levels, Wanted};
use super::miniature::{self, Miniatures, SHAPES, Shape, WIDE, ghost_keys};
use crate::id::Millis;

const IDS: usize = 64;
const READ: u8 = IDS as u8;
const READS_MAX: u8 = miniature::READS_MAX * READ;

const SMALL: usize = 0;
const MAIN: usize = 1;
/// When this part of all keys was sent on without a victim, reads count for one more round only.
const FRUITLESS_PER_TOTAL: u32 = 16;
/// When the hand has passed over so many keys of the other queue's tail since the last victim, that one has a turn too, as
/// long as the small queue is within this part of all keys of its size. Takes half to nine tenths of the hand's way.
const PASSED_MAX: u32 = 8;
const NEAR_PER_TOTAL: u32 = 20;
/// A level takes this part of all keys, by queue; in all they take three quarters of the ids.
const LEVELS_PER_TOTAL: [u32; 2] = [80, 40];
const LEVELS_PER_TOTAL_WIDE: [u32; 2] = [40, 40];
/// Victims are chosen from this part of all keys, by queue.
const TAIL_PER_TOTAL: [u32; 2] = [32, 16];

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
    /// Keys in the tail of the queue whose turn it is not, passed over since the last one was evicted.
    passed: u32,
    ghost: Ghost,
    /// The place in [`SHAPES`] of how the queues are run now.
    shape: Cell<usize>,
    /// From the first eviction on.
    miniatures: RefCell<Option<Box<Miniatures>>>,
    /// A hash with none of these bits is in their sample.
    sample_mask: u64,
    now: Millis,
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
            passed: 0,
            ghost: Ghost::default(),
            shape: Cell::new(0),
            miniatures: RefCell::default(),
            sample_mask: u64::MAX,
            now,
        }
    }

    #[inline(always)]
    pub fn hit(&self, mark: u8, hash: u64) -> u8 {
        if hash & self.sample_mask == 0 {
            self.ask_miniatures(hash);
        }
        if mark >= READS_MAX { mark } else { mark + READ }
    }

    #[cold]
    #[inline(never)]
    fn ask_miniatures(&self, hash: u64) {
        if let Some(miniatures) = self.miniatures.borrow_mut().as_deref_mut() {
            self.shape.set(miniatures.ask(hash, self.levels.total()));
        }
    }

    fn shape(&self) -> &'static Shape {
        &SHAPES[self.shape.get()]
    }

    pub fn insert(&mut self, hash: u64, now: Millis) -> u8 {
        self.now = now;
        if hash & self.sample_mask == 0 {
            self.ask_miniatures(hash);
        }
        self.inserted = self.inserted.saturating_add(1);
        let total = self.levels.total();
        // While nothing has to go a full small queue would only make the first victims worse.
        let filling = self.inserted > total / 64 + 64;
        let remembered = self.ghost.take(hash);
        let queue = match remembered || filling && self.small() > self.shape().small(total) {
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
        let parts = if self.shape.get() == WIDE { LEVELS_PER_TOTAL_WIDE } else { LEVELS_PER_TOTAL };
        let share = (self.levels.total() / parts[queue]).max(1);
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
        let shape = self.shape();
        let turn = if small == 0 || small < shape.small(total) { MAIN } else { SMALL };
        let in_tail = self.levels.in_tail(queue, id);
        // Keys that the hand sent on lie together in the table, and the tail of the queue whose turn it is may be far away.
        self.passed += (in_tail && queue != turn) as u32;
        let far = self.passed > PASSED_MAX && small.abs_diff(shape.small(total)) < total / NEAR_PER_TOTAL;
        if queue != turn && !far || !in_tail {
            return match self.tidy(mark) {
                tidy if tidy == mark => Judgement::Keep,
                tidy => Judgement::Remark(tidy),
            };
        }
        let hurried = self.fruitless > total / FRUITLESS_PER_TOTAL;
        let left = match queue {
            SMALL if reads >= shape.promoted_at * READ => 0,
            MAIN if reads > 0 && (shape.forgets || hurried) => 0,
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
        if queue == SMALL {
            self.ghost.insert(hash, ghost_keys(total));
        }
        if !self.miniatures.get_mut().as_ref().is_some_and(|miniatures| miniatures.fit(total)) {
            let miniatures = Miniatures::new(total, self.shape.get());
            self.sample_mask = miniatures.sample_mask();
            *self.miniatures.get_mut() = Some(Box::new(miniatures));
        }
        self.inserted = 0;
        self.passed = 0;
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

    pub fn memory_bytes(&self) -> usize {
        let miniatures = self.miniatures.borrow().as_ref().map_or(0, |miniatures| miniatures.memory_bytes());
        size_of::<Self>() + self.ghost.memory_bytes() + miniatures
    }

    #[cfg(test)]
    pub fn is_wide(&self) -> bool {
        self.shape.get() == WIDE
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
