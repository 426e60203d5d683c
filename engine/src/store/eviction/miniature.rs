//! Which of a few shapes of S3-FIFO's queues has most hits: tried out in *miniature*, as in Waldspurger et al., "Cache
//! modeling and optimization using miniature simulations", USENIX ATC 2017.
//!
//! ```text
//! hash       63 ... | 16 + n ... 16 | 15 ... 0
//!                   | all zero: the key is in the sample, one of 2^n keys
//! ```
//!
//! For each shape there is a small cache of hashes with exact queues and no values. It is asked for the keys of the sample
//! alone, and has room for as many of its keys as the real cache has for all: so its hit ratio is what the real one's
//! would be in that shape, give or take a point. What counts is who is ahead, and all are asked for the same keys, which
//! leaves little to chance: those of a cache of 1000 keys have 125 each, and on no trace of the simulation does the real
//! one come more than 0.3 points after the better of both shapes.
//!
//! Reads that find their key and insertions are told, and so a miss that is followed by a write counts once. Deletions
//! and expirations are not: the key stays in each miniature until its turn comes.
//!
//! Nothing is there before the first eviction. Then it is two miniatures of 512 keys, a small part of what the keys take
//! where they are fewer, and at most 128 KiB whatever happens.

use std::collections::{HashMap, VecDeque};

use ahash::RandomState;

use super::ghost::Ghost;
use crate::limits;

/// A way to run a small and a main queue.
#[derive(Debug, PartialEq, Eq)]
pub struct Shape {
    /// The part of all keys in the small queue.
    small_percent: u32,
    /// Reads that take a key from the small to the main queue.
    pub promoted_at: u8,
    /// Whether reads of a key in the main queue count for one more round only, however many there were.
    pub forgets: bool,
}

impl Shape {
    /// Keys that are to be in the small queue.
    #[inline]
    pub fn small(&self, total: u32) -> u32 {
        (u64::from(total) * u64::from(self.small_percent) / 100) as u32
    }
}

/// As published, and [`WIDE`] for popularity that shifts. In a model with exact queues a third one of 30 % wins a point where
/// a tenth of all keys fit and some are scanned, and where a thousandth fit and popularity shifts; it loses 0.2 points at
/// most elsewhere but in a loop, and costs half as much again.
pub const SHAPES: [Shape; 2] = [
    Shape { small_percent: 10, promoted_at: 2, forgets: false },
    Shape { small_percent: 75, promoted_at: 1, forgets: true },
];
/// The place in [`SHAPES`] of a small queue through which nearly all keys pass, and where one read is enough to stay. Where
/// popularity shifts it is 0.4 points below LRU at worst.
pub const WIDE: usize = 1;

/// Reads that a key is given credit for.
pub const READS_MAX: u8 = 3;

/// The lowest bit of the hash that decides who is in the sample. Those below find a key in its segment of the table.
const SAMPLE_SHIFT: u32 = 16;
/// At most one of 2^3 keys is in the sample, however few there are: that bounds the time it takes.
const SAMPLE_BITS_MIN: u32 = 3;
/// Counts are halved when each key of a miniature was asked for so many times on average.
const WINDOW_PER_KEY: u32 = 6;
/// A shape takes over when it has this part of all requests more hits, and so many.
const LEAD_PER_ASKED: u32 = 200;
const LEAD_MIN: u32 = 4;

/// A miniature of each shape.
pub struct Miniatures {
    sample_bits: u32,
    caches: [Miniature; SHAPES.len()],
    /// Counts that are halved again and again, so that they tell of lately.
    hits: [u32; SHAPES.len()],
    asked: u32,
    leader: usize,
}

impl Miniatures {
    /// For a real cache of `total` keys, which has the shape `leader` now.
    pub fn new(total: u32, leader: usize) -> Miniatures {
        let mut sample_bits = SAMPLE_BITS_MIN;
        while total >> sample_bits > limits::MINIATURE_KEYS {
            sample_bits += 1;
        }
        let caches = std::array::from_fn(|_| Miniature::default());
        Miniatures { sample_bits, caches, hits: Default::default(), asked: 0, leader }
    }

    /// Whether the sample is of a good size for so many keys in the real cache, within a factor of two or so.
    pub fn fit(&self, total: u32) -> bool {
        let keys = total >> self.sample_bits;
        keys <= limits::MINIATURE_KEYS * 3 / 2
            && (keys >= limits::MINIATURE_KEYS / 4 || self.sample_bits == SAMPLE_BITS_MIN)
    }

    /// A hash that has none of these bits is in the sample.
    pub fn sample_mask(&self) -> u64 {
        ((1 << self.sample_bits) - 1) << SAMPLE_SHIFT
    }

    /// A key of the sample was read or came, and the real cache has `total` keys. Returns which shape is best.
    pub fn ask(&mut self, hash: u64, total: u32) -> usize {
        let keys = (total >> self.sample_bits).clamp(2, limits::MINIATURE_KEYS * 3 / 2);
        for ((cache, hits), shape) in self.caches.iter_mut().zip(&mut self.hits).zip(&SHAPES) {
            *hits += cache.ask(hash, shape, keys) as u32;
        }
        self.asked += 1;
        if self.asked > WINDOW_PER_KEY * keys {
            self.asked /= 2;
            self.hits.iter_mut().for_each(|hits| *hits /= 2);
        }
        let lead = self.asked / LEAD_PER_ASKED + LEAD_MIN;
        let best = (0..SHAPES.len()).max_by_key(|&shape| self.hits[shape]).expect("there are shapes");
        if self.hits[best] > self.hits[self.leader] + lead {
            self.leader = best;
        }
        self.leader
    }

    pub fn memory_bytes(&self) -> usize {
        size_of::<Self>() + self.caches.iter().map(Miniature::memory_bytes).sum::<usize>()
    }
}

/// S3-FIFO over hashes.
struct Miniature {
    /// How often each hash in one of the queues was read.
    reads: HashMap<u64, u8, RandomState>,
    small: VecDeque<u64>,
    main: VecDeque<u64>,
    ghost: Ghost,
}

impl Default for Miniature {
    fn default() -> Self {
        // What is hashed is a hash already, of a secret seed.
        let reads = HashMap::with_hasher(RandomState::with_seeds(0, 0, 0, 0));
        Miniature { reads, small: VecDeque::new(), main: VecDeque::new(), ghost: Ghost::default() }
    }
}

impl Miniature {
    /// Whether the key is there. If not, it comes, and others go until there are no more than `keys`.
    fn ask(&mut self, hash: u64, shape: &Shape, keys: u32) -> bool {
        if let Some(reads) = self.reads.get_mut(&hash) {
            *reads = (*reads + 1).min(READS_MAX);
            return true;
        }
        let queue = if self.ghost.take(hash) { &mut self.main } else { &mut self.small };
        queue.push_back(hash);
        self.reads.insert(hash, 0);
        while self.reads.len() > keys as usize {
            self.evict(shape, keys);
        }
        false
    }

    fn evict(&mut self, shape: &Shape, keys: u32) {
        let from_small = self.main.is_empty() || self.small.len() > shape.small(keys) as usize;
        let queue = if from_small { &mut self.small } else { &mut self.main };
        let victim =
            queue.pop_front().expect("one of the queues has a key, and if the main queue has none the small one");
        let reads = self.reads.get_mut(&victim).expect("it was in a queue");
        let stays = if from_small { *reads >= shape.promoted_at } else { *reads > 0 };
        if stays {
            *reads = if from_small || shape.forgets { 0 } else { *reads - 1 };
            return self.main.push_back(victim);
        }
        self.reads.remove(&victim);
        if from_small {
            self.ghost.insert(victim, ghost_keys(keys));
        }
    }

    fn memory_bytes(&self) -> usize {
        // A place in a hash map has a byte of its own, and one of eight is left free.
        let places = self.reads.capacity() * 8 / 7 * (size_of::<(u64, u8)>() + 1);
        places + (self.small.capacity() + self.main.capacity()) * 8 + self.ghost.memory_bytes()
    }
}

/// How many evicted keys are remembered in a cache of `total`.
pub fn ghost_keys(total: u32) -> usize {
    (total - total / 10) as usize
}

#[cfg(test)]
mod tests {
    use super::super::simulation::{Trace, mix, trace};
    use super::*;

    const KEYS: usize = 20_000;
    const CAPACITY: usize = 2000;

    /// Asks for the sample of these keys, and says after which requests the shape changed.
    fn run(miniatures: &mut Miniatures, asked: &[u32]) -> Vec<(usize, usize)> {
        let mut changes = Vec::new();
        for (at, &key) in asked.iter().enumerate() {
            let hash = mix(u64::from(key) + 1);
            if hash & miniatures.sample_mask() == 0 {
                let before = miniatures.leader;
                let leader = miniatures.ask(hash, CAPACITY as u32);
                if leader != before {
                    changes.push((at, leader));
                }
            }
        }
        changes
    }

    #[test]
    fn the_wide_shape_leads_where_popularity_shifts_and_the_published_one_where_it_does_not() {
        let mut miniatures = Miniatures::new(CAPACITY as u32, 0);
        let steady = trace(Trace::Zipf(99), KEYS, CAPACITY, 100_000).0;
        assert_eq!(run(&mut miniatures, &steady), []);
        let changes = run(&mut miniatures, &trace(Trace::Drifting, KEYS, CAPACITY, 100_000).0);
        assert!(matches!(changes[..], [(at, WIDE)] if at < 20_000), "{changes:?}");
        let changes = run(&mut miniatures, &steady);
        assert!(matches!(changes[..], [(at, 0)] if at < 50_000), "{changes:?}");
    }

    #[test]
    fn memory_is_bounded_however_many_keys_there_are() {
        for total in [1, 10, 300, 5_000, 1_000_000, u32::MAX] {
            let mut miniatures = Miniatures::new(total, 0);
            assert!(miniatures.fit(total));
            for key in 0..10_000u64 {
                miniatures.ask(mix(key), total);
                // The real cache grew, and nothing was evicted.
                miniatures.ask(mix(key / 2), u32::MAX);
            }
            assert!(miniatures.memory_bytes() < limits::MINIATURES_BYTES_MAX, "{}", miniatures.memory_bytes());
        }
    }

    #[test]
    fn a_sample_of_another_size_is_due_when_the_cache_has_grown_or_shrunk_much() {
        for total in [4096, 100_000, 50_000_000] {
            let miniatures = Miniatures::new(total, 0);
            assert!([total - total / 4, total, total + total / 4].iter().all(|&total| miniatures.fit(total)));
            assert!(!miniatures.fit(total * 4));
            assert!(total < 10_000 || !miniatures.fit(total / 8));
        }
    }
}
