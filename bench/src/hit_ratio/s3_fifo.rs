//! S3-FIFO (J. Yang and others, "FIFO queues are all you need for cache eviction", 2023).
//!
//! ```text
//! new key --> small queue (a tenth) --used twice--> main queue --used--> its front again
//!                  \--else--> ghost queue            ^       \--else--> gone
//!                              (names only) --asked for again
//! ```
//!
//! As the paper has it: a use counts up to 3, a key moves to the main queue with its count taken away, and the ghost queue
//! is as long as the main queue. A name that leaves the ghost queue because it was asked for leaves its place empty.

use super::cache::{Cache, List};

const USES_MAX: u8 = 3;
/// More uses than this take a key from the small queue to the main one.
const USES_MOVE: u8 = 1;

pub struct S3Fifo {
    small: List,
    main: List,
    uses: Vec<u8>,
    /// When a key became a ghost, as a number of ghosts; 0 is never.
    ghosts: Vec<u64>,
    ghosts_total: u64,
    capacity: usize,
    small_capacity: usize,
}

impl S3Fifo {
    pub fn new(capacity: usize, keys: usize) -> S3Fifo {
        S3Fifo {
            small: List::new(keys),
            main: List::new(keys),
            uses: vec![0; keys],
            ghosts: vec![0; keys],
            ghosts_total: 0,
            capacity,
            small_capacity: (capacity / 10).max(1),
        }
    }

    fn main_capacity(&self) -> usize {
        self.capacity - self.small_capacity
    }

    fn take_ghost(&mut self, key: u32) -> bool {
        let number = std::mem::take(&mut self.ghosts[key as usize]);
        number > 0 && self.ghosts_total - number < self.main_capacity() as u64
    }

    fn evict(&mut self) {
        if self.small.len() >= self.small_capacity {
            self.evict_small();
        } else {
            self.evict_main();
        }
    }

    fn evict_small(&mut self) {
        while let Some(key) = self.small.back() {
            self.small.remove(key);
            if self.uses[key as usize] <= USES_MOVE {
                self.ghosts_total += 1;
                self.ghosts[key as usize] = self.ghosts_total;
                return;
            }
            self.uses[key as usize] = 0;
            self.main.push_front(key);
            if self.main.len() > self.main_capacity() {
                return self.evict_main();
            }
        }
    }

    fn evict_main(&mut self) {
        while let Some(key) = self.main.back() {
            self.main.remove(key);
            if self.uses[key as usize] == 0 {
                return;
            }
            self.uses[key as usize] -= 1;
            self.main.push_front(key);
        }
    }
}

impl Cache for S3Fifo {
    fn get(&mut self, key: u32) -> bool {
        let held = self.small.contains(key) || self.main.contains(key);
        if held {
            let uses = &mut self.uses[key as usize];
            *uses = (*uses + 1).min(USES_MAX);
        }
        held
    }

    fn set(&mut self, key: u32) {
        if self.get(key) {
            return;
        }
        while self.small.len() + self.main.len() >= self.capacity {
            self.evict();
        }
        self.uses[key as usize] = 0;
        let queue = if self.take_ghost(key) { &mut self.main } else { &mut self.small };
        queue.push_front(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(list: &List) -> Vec<u32> {
        std::iter::successors(list.back(), |&key| list.before(key)).collect()
    }

    /// Ten keys: one in the small queue once it is full, nine in the main one.
    #[test]
    fn keys_move_between_the_queues_as_in_the_paper() {
        let mut cache = S3Fifo::new(10, 100);
        cache.set(1);
        assert!(cache.get(1) && cache.get(1));
        (2..=10).for_each(|key| cache.set(key));
        assert_eq!((cache.small.len(), cache.main.len()), (10, 0), "nothing has to go before it is full");
        // 1 was used twice and moves; 2 was not, and becomes a ghost.
        cache.set(11);
        assert_eq!((queue(&cache.small), queue(&cache.main)), ((3..=11).collect(), vec![1]));
        assert!(!cache.get(2));
        // A ghost comes back to the main queue; 3 goes.
        cache.set(2);
        assert_eq!((queue(&cache.small), queue(&cache.main)), ((4..=11).collect(), vec![1, 2]));
        // One use is not enough.
        assert!(cache.get(4));
        cache.set(12);
        assert_eq!((queue(&cache.small), queue(&cache.main)), ((5..=12).collect(), vec![1, 2]));
    }

    #[test]
    fn the_main_queue_gives_what_was_used_another_round() {
        let mut cache = S3Fifo::new(3, 100);
        // One place in the small queue, two in the main one. 1 comes back as a ghost.
        for key in [1, 2, 3, 4, 1] {
            cache.set(key);
        }
        assert_eq!((queue(&cache.small), queue(&cache.main)), (vec![3, 4], vec![1]));
        // 3 and 4 are used twice and move. The main queue is too long by one then: 1 was used once, loses that and goes to
        // the front, 3 goes.
        assert!([1, 3, 3, 4, 4].iter().all(|&key| cache.get(key)));
        cache.set(5);
        assert_eq!((queue(&cache.small), queue(&cache.main), cache.uses[1]), (vec![5], vec![4, 1], 0));
    }

    #[test]
    fn names_of_ghosts_are_forgotten() {
        let mut cache = S3Fifo::new(10, 100);
        (0..30).for_each(|key| cache.set(key));
        // 20 keys became ghosts, 0 first; nine of them are known.
        assert!(!cache.take_ghost(10) && cache.take_ghost(11) && !cache.take_ghost(11) && cache.take_ghost(19));
    }
}
