//! Random numbers from one seed (splitmix64), so that a failing run can be run again.

use std::hash::{BuildHasher, RandomState};

/// The seed of this run: `TORC_TEST_SEED` if set, else a new one each time. Print it on failure.
pub fn seed() -> u64 {
    match std::env::var("TORC_TEST_SEED") {
        Ok(text) => text.parse().expect("TORC_TEST_SEED is a number"),
        Err(_) => RandomState::new().hash_one(0),
    }
}

pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number in `0..bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}
