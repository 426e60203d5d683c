//! Sizes of values. A size is a pure function of the index of its key, so that writers and readers agree on it
//! without remembering: a hash of the index says at which place of the distribution the key is.
//!
//! `parse.rs` has the names on the command line, `power_law.rs` the law of that name.

mod parse;
mod power_law;

use crate::random::Random;
use power_law::PowerLaw;

/// The largest value of the protocol, 512 MiB.
pub const SIZE_MAX: usize = 512 << 20;

/// Sizes of a [`Sizes::LogNormal`] end here, at 1 MiB: the largest that memcached and so most caches are run
/// with.
pub const LOG_NORMAL_MAX: usize = 1 << 20;

/// Keeps the hash of an index for its size apart from those for its value and for other uses.
const SALT: u64 = 0x6a09_e667_f3bc_c908;

/// How large the values are, in bytes. Made with `parse`, which checks the bounds.
#[derive(Clone, Debug, PartialEq)]
pub enum Sizes {
    Fixed(usize),
    /// Every size from `low` to `high` as often as every other.
    Range {
        low: usize,
        high: usize,
    },
    /// A power law: with exponent 1 each doubling of the size holds as many values, with a larger one small values
    /// are the most. The sizes of files on the web have such a tail, with exponents around 2.1 (M. Crovella,
    /// A. Bestavros, "Self-similarity in World Wide Web traffic", 1997).
    Zipf(PowerLaw),
    /// The logarithm of the size is normal, with the standard deviation `sigma` around that of `median`: the bulk
    /// of files on the web, with a sigma of 1.3 (P. Barford, M. Crovella, "Generating representative web
    /// workloads", 1998), and typical of caches. At least 1 and at most [`LOG_NORMAL_MAX`]; what would be
    /// larger has that size.
    LogNormal {
        median: usize,
        sigma: f64,
    },
    /// Each of the sizes in proportion to its weight.
    List(List),
}

#[derive(Clone, Debug, PartialEq)]
pub struct List {
    sizes: Vec<usize>,
    /// The sum of the weights up to and including each size's own.
    weights_up_to: Vec<u64>,
}

impl List {
    fn weights(&self) -> impl Iterator<Item = u64> {
        let before = [0].into_iter().chain(self.weights_up_to.iter().copied());
        self.weights_up_to.iter().zip(before).map(|(up_to, before)| up_to - before)
    }

    fn weight_total(&self) -> u64 {
        *self.weights_up_to.last().expect("a list is not empty")
    }
}

impl Sizes {
    /// The size of the value of key `index`.
    #[inline]
    pub fn of(&self, index: u64) -> usize {
        let mut hash = Random::new(index ^ SALT);
        match self {
            Sizes::Fixed(size) => *size,
            Sizes::Range { low, high } => low + hash.below((high - low + 1) as u64) as usize,
            Sizes::Zipf(law) => law.at(hash.unit()),
            Sizes::LogNormal { median, sigma } => log_normal(*median, *sigma, standard_normal(&mut hash)),
            Sizes::List(list) => {
                let place = hash.below(list.weight_total());
                list.sizes[list.weights_up_to.partition_point(|&up_to| up_to <= place)]
            }
        }
    }

    /// The largest size there can be.
    pub fn max(&self) -> usize {
        match self {
            Sizes::Fixed(size) => *size,
            Sizes::Range { high, .. } => *high,
            Sizes::Zipf(law) => law.high,
            Sizes::LogNormal { median, sigma } => log_normal(*median, *sigma, STANDARD_NORMAL_MAX),
            Sizes::List(list) => list.sizes.iter().copied().max().unwrap_or(0),
        }
    }

    /// The size of all values, if they have the same one.
    pub fn fixed(&self) -> Option<usize> {
        match self {
            Sizes::Fixed(size) => Some(*size),
            Sizes::Range { low, high } => (low == high).then_some(*low),
            Sizes::Zipf(law) => (law.low == law.high).then_some(law.low),
            Sizes::LogNormal { .. } => None,
            Sizes::List(list) => list.sizes.iter().all(|&size| size == list.sizes[0]).then_some(list.sizes[0]),
        }
    }

    /// The expected size, in bytes: exact for the first two and lists, computed to better than 0.1 % for the
    /// others.
    pub fn mean(&self) -> f64 {
        match self {
            Sizes::Fixed(size) => *size as f64,
            Sizes::Range { low, high } => (low + high) as f64 / 2.0,
            Sizes::Zipf(law) => law.mean(),
            Sizes::LogNormal { median, sigma } => log_normal_mean(*median, *sigma),
            Sizes::List(list) => {
                let sum: f64 =
                    list.sizes.iter().zip(list.weights()).map(|(&size, weight)| size as f64 * weight as f64).sum();
                sum / list.weight_total() as f64
            }
        }
    }
}

/// The farthest that [`standard_normal`] goes, where its uniform number is the smallest, 2^-53.
const STANDARD_NORMAL_MAX: f64 = 8.572;

/// A number of mean 0 and deviation 1 (G. Box, M. Muller, 1958): exact, and two words of the hash always do.
fn standard_normal(hash: &mut Random) -> f64 {
    let radius = (-2.0 * (1.0 - hash.unit()).ln()).sqrt();
    radius * (std::f64::consts::TAU * hash.unit()).cos()
}

fn log_normal(median: usize, sigma: f64, normal: f64) -> usize {
    let size = (median as f64 * (sigma * normal).exp()).round();
    (size as usize).clamp(1, LOG_NORMAL_MAX)
}

/// The integral of the size over the normal density, by the trapezoidal rule.
fn log_normal_mean(median: usize, sigma: f64) -> f64 {
    let steps = 1 << 15;
    let (mut sum, mut weights) = (0.0, 0.0);
    for step in 0..=steps {
        let normal = STANDARD_NORMAL_MAX * (2.0 * f64::from(step) / f64::from(steps) - 1.0);
        let weight = (-normal * normal / 2.0).exp();
        sum += weight * log_normal(median, sigma, normal) as f64;
        weights += weight;
    }
    sum / weights
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [&str; 16] = [
        "0",
        "32",
        "range:0-9",
        "range:100-1kb",
        "range:7-7",
        "zipf:1-100:1",
        "zipf:10-1mb:1.5",
        "zipf:1-512mb:1",
        "zipf:64-64kb:3",
        "zipf:1000-2000:40",
        "zipf:5-5:1",
        "lognormal:100:0.5",
        "lognormal:300:1.5",
        "lognormal:2:1",
        "lognormal:64kb:3",
        "list:100*90,1kb*9,64kb",
    ];

    fn sizes(text: &str) -> Sizes {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn sizes_are_functions_of_the_index_within_bounds() {
        for text in ALL {
            let sizes = sizes(text);
            let drawn: Vec<usize> = (0..5_000).map(|index| sizes.of(index)).collect();
            assert_eq!(drawn, (0..5_000).map(|index| sizes.of(index)).collect::<Vec<_>>());
            let (least, most) = (*drawn.iter().min().unwrap(), *drawn.iter().max().unwrap());
            assert!(most <= sizes.max() && sizes.max() <= SIZE_MAX, "{text}: {most}");
            match sizes.fixed() {
                Some(size) => assert_eq!((least, most, sizes.mean()), (size, size, size as f64), "{text}"),
                None => assert!(least < most, "{text}"),
            }
        }
    }

    /// Within five standard errors.
    #[test]
    fn means_are_those_of_the_sizes() {
        for text in ALL {
            let sizes = sizes(text);
            let count = 400_000;
            let (mut sum, mut squares) = (0.0, 0.0);
            for index in 0..count {
                let size = sizes.of(index) as f64;
                sum += size;
                squares += size * size;
            }
            let mean = sum / count as f64;
            let error = ((squares / count as f64 - mean * mean).max(0.0) / count as f64).sqrt();
            assert!(
                (mean - sizes.mean()).abs() <= 5.0 * error + 1e-9,
                "{text}: {mean} +- {error} for {}",
                sizes.mean()
            );
        }
    }

    /// Against the closed form of the law without its ends.
    #[test]
    fn the_normal_mean_is_well_computed() {
        let exact = 1_000.0 * (0.5f64 * 0.5 / 2.0).exp();
        assert!((log_normal_mean(1_000, 0.5) / exact - 1.0).abs() < 1e-6);
    }

    /// The share of sizes up to each bound, within five standard errors.
    #[test]
    fn distributions_have_their_shapes() {
        let cases = [
            ("range:1-100", 25, 0.25),
            ("zipf:1-1023:1", 31, 0.5),
            ("zipf:100-100kb:2", 199, 0.5005),
            ("lognormal:300:1.5", 300, 0.5006),
            ("lognormal:300:1.5", 1_345, 0.84134),
            ("lognormal:300:1.5", 67, 0.1593),
            ("list:100*90,1kb*9,64kb", 100, 0.9),
            ("list:100*90,1kb*9,64kb", 1_024, 0.99),
        ];
        for (text, bound, share) in cases {
            let sizes = sizes(text);
            let count = 200_000;
            let below = (0..count).filter(|&index| sizes.of(index) <= bound).count() as f64 / count as f64;
            let tolerance = 5.0 * (share * (1.0 - share) / count as f64).sqrt();
            assert!((below - share).abs() < tolerance, "{text} up to {bound}: {below} for {share}");
        }
    }

    #[test]
    fn the_farthest_normal_number_bounds_the_size() {
        let farthest = (-2.0 * (1.0f64 / (1u64 << 53) as f64).ln()).sqrt();
        assert!(farthest <= STANDARD_NORMAL_MAX && STANDARD_NORMAL_MAX - farthest < 1e-3);
        assert!(sizes("lognormal:100:0.1").max() < 240 && sizes("lognormal:64kb:3").max() == LOG_NORMAL_MAX);
    }
}
