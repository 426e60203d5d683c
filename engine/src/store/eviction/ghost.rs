//! Keys that were evicted lately: a fingerprint of two bytes each; the oldest are forgotten first.
//!
//! ```text
//! hash * odd   63 ........ 32 | ...... | 15 .... 0
//!              bucket         |        | fingerprint, never 0
//! bucket       32 fingerprints, newest first: 64 bytes, so a look-up or a change touches one cache line or two
//! ```
//!
//! Each bucket forgets for itself, so how long a key is remembered differs by a fifth or so from bucket to bucket. A key
//! that was never seen is taken for a ghost once in 2000 times.
//!
//! Fingerprints cannot move to a table of another size. When the number of keys has changed much, a table of the right
//! size takes over, and the one before answers too until the new one has seen as many keys as it holds.

const BUCKET: usize = 32;
/// Keys that the smallest table remembers.
const KEYS_MIN: usize = 4 * BUCKET;

#[derive(Default)]
pub struct Ghost {
    table: Table,
    before: Table,
    /// Keys that `table` still has to see before `before` is forgotten.
    before_for: usize,
}

#[derive(Default)]
struct Table {
    fingerprints: Vec<u16>,
}

impl Ghost {
    /// Remembers a key that was evicted; about `keys` are to be remembered in all.
    pub fn insert(&mut self, hash: u64, keys: usize) {
        let keys = keys.max(KEYS_MIN);
        let held = self.table.fingerprints.len();
        if held < keys - keys / 4 || held > keys + keys / 2 {
            self.before = std::mem::replace(&mut self.table, Table::new(keys));
            self.before_for = keys;
        }
        if self.before_for > 0 {
            self.before_for -= 1;
            if self.before_for == 0 {
                self.before = Table::default();
            }
        }
        self.table.insert(hash);
    }

    /// Whether a key is remembered; it is forgotten by that.
    pub fn take(&mut self, hash: u64) -> bool {
        self.table.take(hash) || self.before.take(hash)
    }

    pub fn memory_bytes(&self) -> usize {
        (self.table.fingerprints.capacity() + self.before.fingerprints.capacity()) * 2
    }
}

impl Table {
    fn new(keys: usize) -> Table {
        Table { fingerprints: vec![0; keys.div_ceil(BUCKET) * BUCKET] }
    }

    fn place(&mut self, hash: u64) -> (&mut [u16], u16) {
        let mixed = hash.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let buckets = self.fingerprints.len() / BUCKET;
        let bucket = (((mixed >> 32) as u128 * buckets as u128) >> 32) as usize;
        (&mut self.fingerprints[bucket * BUCKET..][..BUCKET], (mixed as u16).max(1))
    }

    fn insert(&mut self, hash: u64) {
        let (bucket, fingerprint) = self.place(hash);
        bucket.copy_within(..BUCKET - 1, 1);
        bucket[0] = fingerprint;
    }

    fn take(&mut self, hash: u64) -> bool {
        if self.fingerprints.is_empty() {
            return false;
        }
        let (bucket, fingerprint) = self.place(hash);
        let Some(at) = bucket.iter().position(|&other| other == fingerprint) else { return false };
        bucket.copy_within(at + 1.., at);
        bucket[BUCKET - 1] = 0;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(key: u64) -> u64 {
        (key + 1).wrapping_mul(0xd6e8_feb8_6659_fd93).rotate_left(32).wrapping_mul(0xd6e8_feb8_6659_fd93)
    }

    #[test]
    fn remembers_the_last_ones_and_forgets_the_oldest() {
        for keys in [200, 10_000] {
            let mut ghost = Ghost::default();
            for key in 0..10 * keys {
                ghost.insert(hash(key), keys as usize);
            }
            assert!(ghost.memory_bytes() <= (keys as usize + BUCKET) * 2);
            let lately = (9 * keys + keys / 2..10 * keys).filter(|&key| ghost.take(hash(key))).count() as u64;
            assert!(lately > keys / 2 * 99 / 100, "{lately} of {}", keys / 2);
            let long_ago = (0..8 * keys).filter(|&key| ghost.take(hash(key))).count() as u64;
            assert!(long_ago < keys / 50, "{long_ago}");
            assert_eq!(
                (9 * keys + keys / 2..10 * keys).filter(|&key| ghost.take(hash(key))).count() / 10,
                0,
                "forgotten when taken"
            );
        }
    }

    #[test]
    fn a_table_of_another_size_takes_over_without_forgetting() {
        let mut ghost = Ghost::default();
        for key in 0..2000 {
            ghost.insert(hash(key), 1000);
        }
        ghost.insert(hash(2000), 4000);
        assert!((1500..=2000).filter(|&key| ghost.take(hash(key))).count() > 490);
        for key in 3000..8000 {
            ghost.insert(hash(key), 4000);
        }
        assert!(ghost.memory_bytes() < 2 * 4100);
        assert!(!ghost.take(hash(1499)));
    }
}
