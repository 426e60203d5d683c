//! The sequences of requests whose hits are counted. Each is a function of its seed.

use crate::random::{Random, Spread, Zipf};
use std::fmt;
use std::str::FromStr;

/// Which keys are asked for. `Display` writes what `FromStr` reads.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pattern {
    /// Zipf's law with this exponent.
    Zipf(f64),
    /// The same, and between it scans: keys in their order that nothing else asks for.
    ZipfScan(f64),
    /// All keys of a set in their order, again and again; the set is so many times as large as the cache.
    Loop(f64),
    /// Zipf's law, and which keys are hot changes.
    Shift(f64),
}

/// After so many requests by Zipf's law, in parts of the number of keys, a scan of a quarter of that.
const SCAN_DISTANCE: u64 = 25;
const SCAN_SHARE: u64 = 4;
/// Ranks by which popularity moves, in parts of the number of keys: the hottest hundredth becomes the coldest.
const SHIFT_RANKS: u64 = 100;

impl FromStr for Pattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Pattern, String> {
        let wrong = || {
            format!(
                "'{text}' is none of zipf:EXPONENT, zipf-scan:EXPONENT, shift:EXPONENT (above 0) and loop:TIMES-THE-CACHE \
                 (above 1, up to 10)"
            )
        };
        let (name, number) = text.split_once(':').ok_or_else(wrong)?;
        let number: f64 =
            number.parse().ok().filter(|number: &f64| number.is_finite() && *number > 0.0).ok_or_else(wrong)?;
        match name {
            "zipf" => Ok(Pattern::Zipf(number)),
            "zipf-scan" => Ok(Pattern::ZipfScan(number)),
            "shift" => Ok(Pattern::Shift(number)),
            "loop" if number > 1.0 && number <= 10.0 => Ok(Pattern::Loop(number)),
            _ => Err(wrong()),
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Pattern::Zipf(exponent) => write!(f, "zipf:{exponent}"),
            Pattern::ZipfScan(exponent) => write!(f, "zipf-scan:{exponent}"),
            Pattern::Loop(times) => write!(f, "loop:{times}"),
            Pattern::Shift(exponent) => write!(f, "shift:{exponent}"),
        }
    }
}

impl Pattern {
    /// Numbers of keys are below this, given that there are `keys` and the cache is for `capacity` of them.
    pub fn bound(self, keys: u64, capacity: u64) -> u64 {
        match self {
            Pattern::Zipf(_) | Pattern::Shift(_) => keys,
            Pattern::ZipfScan(_) => 2 * keys,
            Pattern::Loop(times) => (capacity as f64 * times).ceil() as u64,
        }
    }
}

/// One sequence, without an end.
pub struct Requests {
    pattern: Pattern,
    keys: u64,
    bound: u64,
    shift_requests: u64,
    zipf: Zipf,
    spread: Spread,
    random: Random,
    /// Requests made.
    made: u64,
    scanned: u64,
}

impl Requests {
    /// `shift_requests`: after how many requests popularity moves.
    pub fn new(pattern: Pattern, keys: u64, capacity: u64, shift_requests: u64, seed: u64) -> Requests {
        let (Pattern::Zipf(number) | Pattern::ZipfScan(number) | Pattern::Shift(number) | Pattern::Loop(number)) =
            pattern;
        Requests {
            pattern,
            keys,
            bound: pattern.bound(keys, capacity),
            shift_requests,
            zipf: Zipf::new(keys, number),
            spread: Spread::new(keys),
            random: Random::new(seed),
            made: 0,
            scanned: 0,
        }
    }

    pub fn next(&mut self) -> u32 {
        let made = self.made;
        self.made += 1;
        let key = match self.pattern {
            Pattern::Zipf(_) => self.zipf.key(&mut self.random),
            Pattern::ZipfScan(_) => {
                let before = (self.keys / SCAN_DISTANCE).max(SCAN_SHARE);
                let period = before + before / SCAN_SHARE;
                if made % period < before {
                    self.zipf.key(&mut self.random)
                } else {
                    self.scanned += 1;
                    self.keys + (self.scanned - 1) % self.keys
                }
            }
            Pattern::Loop(_) => made % self.bound,
            Pattern::Shift(_) => {
                let moved = (made / self.shift_requests) * (self.keys / SHIFT_RANKS).max(1);
                let rank = self.zipf.rank(&mut self.random) + moved % self.keys;
                self.spread.key(rank % self.keys)
            }
        };
        debug_assert!(key < self.bound);
        key as u32
    }

    /// The next requests, as many as there is room for.
    pub fn fill(&mut self, batch: &mut [u32]) {
        batch.fill_with(|| self.next());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    fn take(pattern: &str, keys: u64, capacity: u64, count: usize) -> Vec<u32> {
        let mut requests = Requests::new(pattern.parse().unwrap(), keys, capacity, 1_000, 7);
        (0..count).map(|_| requests.next()).collect()
    }

    fn hottest(requests: &[u32]) -> u32 {
        let mut counts = HashMap::new();
        requests.iter().for_each(|&key| *counts.entry(key).or_insert(0) += 1);
        counts.into_iter().max_by_key(|&(key, count)| (count, key)).unwrap().0
    }

    #[test]
    fn names_are_read_and_written() {
        for name in ["zipf:0.7", "zipf-scan:0.99", "loop:1.1", "shift:0.99"] {
            assert_eq!(name.parse::<Pattern>().unwrap().to_string(), name);
        }
        for name in ["zipf", "zipf:0", "loop:1", "loop:11", "loop:x", "uniform:1", "shift:inf"] {
            assert!(name.parse::<Pattern>().is_err(), "{name}");
        }
    }

    #[test]
    fn a_seed_gives_one_sequence() {
        for name in ["zipf:0.7", "zipf-scan:0.99", "loop:1.1", "shift:0.99"] {
            assert_eq!(take(name, 1_000, 10, 5_000), take(name, 1_000, 10, 5_000));
        }
    }

    #[test]
    fn loops_are_longer_than_the_cache() {
        assert_eq!(take("loop:1.1", 1_000, 10, 13), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 0, 1]);
    }

    #[test]
    fn scans_ask_for_keys_of_their_own_in_order() {
        let requests = take("zipf-scan:0.99", 1_000, 10, 100);
        let scans: Vec<u32> = requests.iter().copied().filter(|&key| key >= 1_000).collect();
        assert_eq!(scans, (1_000..1_020).collect::<Vec<_>>());
        assert!(requests[..40].iter().all(|&key| key < 1_000) && requests[40..50].iter().all(|&key| key >= 1_000));
    }

    #[test]
    fn popularity_moves() {
        let requests = take("shift:1.3", 1_000, 10, 2_000);
        let (first, second) = (hottest(&requests[..1_000]), hottest(&requests[1_000..]));
        let spread = Spread::new(1_000);
        assert_eq!((u64::from(first), u64::from(second)), (spread.key(0), spread.key(10)));
    }
}
