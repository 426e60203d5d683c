//! Random numbers, and where the keys of a load come from.
//!
//! - `distribution.rs` has the names on the command line.
//! - `zipf.rs` draws ranks by Zipf's law.
//! - `spread.rs` turns ranks into keys, so that hot keys are not neighbours.

mod distribution;
mod spread;
mod zipf;

pub use distribution::Distribution;
pub use spread::Spread;
pub use zipf::Zipf;

use crate::trace::{Record, Trace};
use std::sync::Arc;

/// SplitMix64 (G. Steele, D. Lea, C. Flood, "Fast splittable pseudorandom number generators", 2014): one
/// word of state, any seed is good, and it passes BigCrush.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    #[inline]
    pub fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `limit`, by multiplication; the bias is below limit / 2^64.
    #[inline]
    pub fn below(&mut self, limit: u64) -> u64 {
        self.below_with_rest(limit).0
    }

    /// A number below `limit`, and what is left of the word: a number over the whole of u64, in steps of
    /// about `limit`.
    #[inline]
    fn below_with_rest(&mut self, limit: u64) -> (u64, u64) {
        let product = u128::from(self.word()) * u128::from(limit);
        ((product >> 64) as u64, product as u64)
    }

    /// In [0, 1), in steps of 2^-53.
    #[inline]
    pub fn unit(&mut self) -> f64 {
        (self.word() >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }
}

/// Where the next key index comes from. Each thread of a load has its own.
#[derive(Clone, Debug)]
pub enum KeySource {
    Uniform {
        random: Random,
        keys: u64,
    },
    Zipf {
        random: Random,
        zipf: Zipf,
    },
    Hotspot {
        random: Random,
        hotspot: Hotspot,
    },
    /// Up from `next` without an end, for who counts the requests and wants each key once.
    Sequential {
        next: u64,
    },
    Interleaved {
        walk: Walk,
    },
    Trace {
        trace: Arc<Trace>,
        walk: Walk,
        keys: u64,
    },
}

impl KeySource {
    /// The source of thread number `thread` of `threads`, over `keys` keys. `seed` should be different for
    /// each thread. A trace says itself how many keys it has, see [`Distribution::keys`]; with fewer, its
    /// numbers wrap round.
    pub fn new(distribution: &Distribution, keys: u64, seed: u64, thread: usize, threads: usize) -> KeySource {
        assert!(keys > 0 && thread < threads, "a distribution over no keys, or no such thread");
        let random = Random::new(seed);
        let walk = |length: u64| Walk::new(thread as u64, threads as u64, length);
        match distribution {
            Distribution::Uniform => KeySource::Uniform { random, keys },
            Distribution::Zipf(exponent) => KeySource::Zipf { random, zipf: Zipf::new(keys, *exponent) },
            Distribution::Hotspot { traffic, keys: share } => {
                KeySource::Hotspot { random, hotspot: Hotspot::new(*traffic, *share, keys) }
            }
            Distribution::Sequential => KeySource::Interleaved { walk: walk(keys) },
            Distribution::Trace(trace) => {
                KeySource::Trace { trace: trace.clone(), walk: walk(trace.records().len() as u64), keys }
            }
        }
    }

    #[inline]
    pub fn index(&mut self) -> u64 {
        match self {
            KeySource::Uniform { random, keys } => random.below(*keys),
            KeySource::Zipf { random, zipf } => zipf.key(random),
            KeySource::Hotspot { random, hotspot } => hotspot.key(random),
            KeySource::Sequential { next } => {
                *next += 1;
                *next - 1
            }
            KeySource::Interleaved { walk } => walk.step(),
            KeySource::Trace { trace, walk, keys } => take_record(trace, walk, *keys).key.into(),
        }
    }

    /// The next record of a trace, for who replays its operations and sizes too; it counts as a draw, like
    /// [`KeySource::index`]. Nothing for other sources, and nothing is drawn then.
    #[inline]
    pub fn record(&mut self) -> Option<Record> {
        match self {
            KeySource::Trace { trace, walk, keys } => Some(take_record(trace, walk, *keys)),
            _ => None,
        }
    }
}

fn take_record(trace: &Trace, walk: &mut Walk, keys: u64) -> Record {
    let record = trace.records()[walk.step() as usize];
    Record { key: (u64::from(record.key) % keys) as u32, ..record }
}

/// Two sets of keys, each used evenly: a hot one with its share of the traffic, and the rest.
#[derive(Clone, Debug)]
pub struct Hotspot {
    /// Words up to this one ask for a hot key.
    threshold: u64,
    hot: u64,
    cold: u64,
    spread: Spread,
}

impl Hotspot {
    /// `traffic` and `share` are fractions. The hot set has at least one key.
    fn new(traffic: f64, share: f64, keys: u64) -> Hotspot {
        let hot = ((keys as f64 * share).round() as u64).clamp(1, keys);
        let threshold = if hot == keys { u64::MAX } else { fraction_of_words(traffic) };
        Hotspot { threshold, hot, cold: keys - hot, spread: Spread::new(keys) }
    }

    #[inline]
    fn key(&self, random: &mut Random) -> u64 {
        let (first, count) = if random.word() <= self.threshold { (0, self.hot) } else { (self.hot, self.cold) };
        self.spread.key(first + random.below(count))
    }
}

/// `fraction` of 2^64, as far as it fits.
fn fraction_of_words(fraction: f64) -> u64 {
    (fraction * 18_446_744_073_709_551_616.0) as u64
}

/// Every `threads`-th place of `length`, from a thread's own first one on and then again from there. Threads
/// together visit each place equally often. A thread too many shares its places with another one.
#[derive(Clone, Debug)]
pub struct Walk {
    first: u64,
    next: u64,
    threads: u64,
    length: u64,
}

impl Walk {
    fn new(thread: u64, threads: u64, length: u64) -> Walk {
        let first = thread % length;
        Walk { first, next: first, threads, length }
    }

    #[inline]
    fn step(&mut self) -> u64 {
        let place = self.next;
        self.next += self.threads;
        if self.next >= self.length {
            self.next = self.first;
        }
        place
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::{Operation, TraceFormat};

    fn draws(name: &str, keys: u64, thread: usize, threads: usize, count: usize) -> Vec<u64> {
        let mut source = KeySource::new(&name.parse().unwrap(), keys, 3, thread, threads);
        (0..count).map(|_| source.index()).collect()
    }

    #[test]
    fn uniform_covers_the_space_evenly() {
        let mut counts = [0u32; 10];
        for key in draws("uniform", 10, 0, 1, 100_000) {
            counts[key as usize] += 1;
        }
        assert!(counts.iter().all(|&count| (9_500..10_500).contains(&count)), "{counts:?}");
    }

    /// Both sets get their traffic, and every key of a set its even part of it, within five standard errors.
    #[test]
    fn hot_keys_get_their_traffic() {
        for (name, traffic, hot) in
            [("hotspot:0.9:0.1", 0.9, 10u64), ("hotspot:50%:1%", 0.5, 1), ("hotspot:1:1", 1.0, 100)]
        {
            let (keys, count) = (100u64, 200_000);
            let mut counts = [0u32; 100];
            for key in draws(name, keys, 0, 1, count) {
                counts[key as usize] += 1;
            }
            let spread = Spread::new(keys);
            for rank in 0..keys {
                let p = if rank < hot { traffic / hot as f64 } else { (1.0 - traffic) / (keys - hot) as f64 };
                let expected = p * count as f64;
                let got = f64::from(counts[spread.key(rank) as usize]);
                let tolerance = 5.0 * (expected * (1.0 - p)).sqrt();
                assert!((got - expected).abs() <= tolerance, "{name} rank {rank}: {got} for {expected}");
            }
        }
    }

    #[test]
    fn all_traffic_can_be_hot_and_the_hot_set_is_never_empty() {
        assert!(draws("hotspot:1:0.1", 10, 0, 1, 1_000).iter().all(|&key| key == 0));
        assert!(draws("hotspot:1:0.0001", 10, 0, 1, 1_000).iter().all(|&key| key == 0));
        assert!(draws("hotspot:0.5:0.5", 1, 0, 1, 100).iter().all(|&key| key == 0));
    }

    #[test]
    fn sequential_threads_interleave_and_wrap_round() {
        assert_eq!(draws("sequential", 7, 0, 3, 5), [0, 3, 6, 0, 3]);
        assert_eq!(draws("sequential", 7, 1, 3, 5), [1, 4, 1, 4, 1]);
        assert_eq!(draws("sequential", 7, 2, 3, 4), [2, 5, 2, 5]);
        assert_eq!(draws("sequential", 2, 3, 5, 3), [1, 1, 1]);
    }

    #[test]
    fn a_trace_is_replayed_in_the_order_of_the_file() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/twitter.csv");
        let trace = Arc::new(Trace::load(path.as_ref(), TraceFormat::Twitter, Some(5)).unwrap());
        let distribution = Distribution::Trace(trace.clone());
        assert_eq!(distribution.keys(), Some(trace.distinct_keys()));
        let in_file: Vec<u64> = trace.records().iter().map(|record| record.key.into()).collect();
        let source = |thread, threads, keys| KeySource::new(&distribution, keys, 1, thread, threads);
        let mut alone = source(0, 1, 100);
        assert_eq!((0..5).map(|_| alone.index()).collect::<Vec<_>>(), in_file);
        let mut second = source(1, 2, 100);
        let expected = [in_file[1], in_file[3], in_file[1]];
        assert_eq!(expected.map(|_| second.index()), expected);
        let mut records = source(0, 1, 100);
        assert_eq!((0..6).map(|_| records.record().unwrap()).collect::<Vec<_>>()[..5], *trace.records());
        assert!(in_file.iter().any(|&key| key >= 2) && trace.records().iter().any(|r| r.operation == Operation::Set));
        let mut folded = source(0, 1, 2);
        assert!((0..5).all(|i| folded.record().unwrap().key == (in_file[i] % 2) as u32));
        assert_eq!(KeySource::Sequential { next: 0 }.record(), None);
    }
}
