//! All chance of a world comes from one seed.

/// A generator (SplitMix64): small, fast, and the same everywhere for ever, which recorded seeds rely on.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    /// Any number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// A number below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        (self.number() % end as u64) as usize
    }

    /// A number from `low` to `high`, both included.
    pub fn between(&mut self, low: usize, high: usize) -> usize {
        low + self.below(high - low + 1)
    }

    /// True once in `n` times.
    pub fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    /// How many bytes move at once: often one, sometimes a few, sometimes all.
    pub fn chunk(&mut self, available: usize) -> usize {
        let most = match self.below(8) {
            0 => 1,
            1 => 7,
            2 | 3 => 100,
            4 | 5 => 5_000,
            _ => available,
        };
        self.between(1, most.max(1)).min(available)
    }

    /// A generator of its own for a part of the world, so that one part's use of chance does not move another's.
    pub fn fork(&mut self) -> Random {
        Random(self.number())
    }
}
