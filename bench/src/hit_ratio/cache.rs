//! Exact caches that hold a number of keys, to compare servers with. A key is a number below a bound, so that all lists
//! are arrays and a request takes some nanoseconds.

use super::s3_fifo::S3Fifo;

/// A look-aside cache: what a `get` does not find is `set`.
pub trait Cache {
    /// Whether the key is held; if so, it was used.
    fn get(&mut self, key: u32) -> bool;

    /// Brings in a key, for which another one may have to go.
    fn set(&mut self, key: u32);
}

/// The algorithms by name.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Algorithm {
    Lru,
    S3Fifo,
    Sieve,
}

impl Algorithm {
    pub const ALL: [Algorithm; 3] = [Algorithm::Lru, Algorithm::S3Fifo, Algorithm::Sieve];

    pub fn name(self) -> &'static str {
        match self {
            Algorithm::Lru => "lru",
            Algorithm::S3Fifo => "s3fifo",
            Algorithm::Sieve => "sieve",
        }
    }

    /// A cache of `capacity` keys, at least 1, for keys below `keys`.
    pub fn cache(self, capacity: usize, keys: usize) -> Box<dyn Cache> {
        match self {
            Algorithm::Lru => Box::new(Lru::new(capacity, keys)),
            Algorithm::S3Fifo => Box::new(S3Fifo::new(capacity, keys)),
            Algorithm::Sieve => Box::new(Sieve::new(capacity, keys)),
        }
    }
}

/// What was used last is kept.
pub struct Lru {
    /// Used last in front.
    list: List,
    capacity: usize,
}

impl Lru {
    pub fn new(capacity: usize, keys: usize) -> Lru {
        Lru { list: List::new(keys), capacity }
    }
}

impl Cache for Lru {
    fn get(&mut self, key: u32) -> bool {
        let held = self.list.contains(key);
        if held {
            self.list.remove(key);
            self.list.push_front(key);
        }
        held
    }

    fn set(&mut self, key: u32) {
        if self.get(key) {
            return;
        }
        if self.list.len() == self.capacity {
            let oldest = self.list.back().expect("a full cache is not empty");
            self.list.remove(oldest);
        }
        self.list.push_front(key);
    }
}

/// SIEVE (Y. Zhang and others, "SIEVE is simpler than LRU", 2024): a queue that nothing moves in, a mark on what was used,
/// and a hand that goes from the oldest to the newest, takes marks away and evicts the first key without one.
pub struct Sieve {
    /// Newest in front.
    list: List,
    used: Vec<bool>,
    /// Where the hand is; nothing: at the oldest.
    hand: Option<u32>,
    capacity: usize,
}

impl Sieve {
    pub fn new(capacity: usize, keys: usize) -> Sieve {
        Sieve { list: List::new(keys), used: vec![false; keys], hand: None, capacity }
    }

    fn evict(&mut self) {
        let oldest = self.list.back().expect("a full cache is not empty");
        let mut at = self.hand.unwrap_or(oldest);
        while self.used[at as usize] {
            self.used[at as usize] = false;
            at = self.list.before(at).unwrap_or(oldest);
        }
        self.hand = self.list.before(at);
        self.list.remove(at);
    }
}

impl Cache for Sieve {
    fn get(&mut self, key: u32) -> bool {
        let held = self.list.contains(key);
        self.used[key as usize] |= held;
        held
    }

    fn set(&mut self, key: u32) {
        if self.get(key) {
            return;
        }
        if self.list.len() == self.capacity {
            self.evict();
        }
        self.used[key as usize] = false;
        self.list.push_front(key);
    }
}

/// A doubly linked list of keys, each in it once at most. The place behind the last key is its end: what comes after
/// the back and before the front.
pub struct List {
    after: Vec<u32>,
    before: Vec<u32>,
    len: usize,
}

const NOT_IN_LIST: u32 = u32::MAX;

impl List {
    pub fn new(keys: usize) -> List {
        let end = u32::try_from(keys).ok().filter(|&end| end < NOT_IN_LIST).expect("keys are numbers of 32 bits");
        let mut places = vec![NOT_IN_LIST; keys];
        places.push(end);
        List { after: places.clone(), before: places, len: 0 }
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn contains(&self, key: u32) -> bool {
        self.after[key as usize] != NOT_IN_LIST
    }

    pub fn push_front(&mut self, key: u32) {
        debug_assert!(!self.contains(key));
        let end = self.end();
        let front = self.after[end as usize];
        (self.before[key as usize], self.after[key as usize]) = (end, front);
        (self.after[end as usize], self.before[front as usize]) = (key, key);
        self.len += 1;
    }

    pub fn remove(&mut self, key: u32) {
        debug_assert!(self.contains(key));
        let (before, after) = (self.before[key as usize], self.after[key as usize]);
        (self.after[before as usize], self.before[after as usize]) = (after, before);
        (self.before[key as usize], self.after[key as usize]) = (NOT_IN_LIST, NOT_IN_LIST);
        self.len -= 1;
    }

    pub fn back(&self) -> Option<u32> {
        self.before(self.end())
    }

    /// The neighbour towards the front.
    pub fn before(&self, key: u32) -> Option<u32> {
        Some(self.before[key as usize]).filter(|&before| before != self.end())
    }

    fn end(&self) -> u32 {
        (self.after.len() - 1) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(cache: &mut dyn Cache, keys: &[u32]) -> Vec<bool> {
        keys.iter().map(|&key| cache.get(key)).collect()
    }

    #[test]
    fn lists_keep_their_order() {
        let mut list = List::new(5);
        assert_eq!((list.len(), list.back()), (0, None));
        (0..4).for_each(|key| list.push_front(key));
        list.remove(1);
        list.remove(3);
        assert_eq!((list.len(), list.back(), list.before(0), list.before(2)), (2, Some(0), Some(2), None));
        list.remove(0);
        list.push_front(4);
        assert!(list.contains(4) && list.contains(2) && !list.contains(0) && list.back() == Some(2));
    }

    #[test]
    fn lru_evicts_what_was_used_longest_ago() {
        let mut lru = Lru::new(2, 10);
        lru.set(1);
        lru.set(2);
        assert!(lru.get(1));
        // 2 has to go.
        lru.set(3);
        assert_eq!(held(&mut lru, &[2, 1, 3]), [false, true, true]);
        // Used last is 3 now, and a set of what is held is a use.
        lru.set(1);
        lru.set(4);
        assert_eq!(held(&mut lru, &[3, 1, 4]), [false, true, true]);
    }

    #[test]
    fn lru_holds_nothing_of_a_loop_that_is_longer() {
        let mut lru = Lru::new(10, 11);
        let mut hits = 0;
        for key in (0..11).cycle().take(1_000) {
            hits += u32::from(lru.get(key));
            lru.set(key);
        }
        assert_eq!(hits, 0);
    }

    #[test]
    fn sieve_evicts_from_the_old_end_what_was_not_used() {
        let mut sieve = Sieve::new(3, 10);
        (1..=3).for_each(|key| sieve.set(key));
        assert!(sieve.get(1));
        // The hand takes the mark of 1, evicts 2 and stays before 3.
        sieve.set(4);
        // So 3 is next, although 1 is older and has no mark any more.
        sieve.set(5);
        assert_eq!(held(&mut sieve, &[1, 2, 3, 4, 5]), [true, false, false, true, true]);
        // All are marked. The hand at 4 takes the marks of 4 and 5, begins at the old end again with 1, and evicts 4.
        sieve.set(6);
        assert_eq!(held(&mut sieve, &[1, 4, 5, 6]), [true, false, true, true]);
    }

    #[test]
    fn a_cache_of_one_key_is_one() {
        for algorithm in Algorithm::ALL {
            let mut cache = algorithm.cache(1, 3);
            cache.set(0);
            assert!(cache.get(0), "{algorithm:?}");
            cache.set(1);
            cache.set(2);
            assert_eq!((0..3).filter(|&key| cache.get(key)).count(), 1, "{algorithm:?}");
        }
    }
}
