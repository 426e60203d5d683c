//! Zipf's law: the k-th hottest of n keys is asked for with a probability proportional to k^-s.
//!
//! The ranks are cut into steps: the first ones alone, later ones in runs of a sixteenth of the rank they
//! begin with. Over each step lies a flat hat as high as its first rank. A draw picks a step by the area of
//! its hat, from an alias table (A. Walker, "An efficient method for generating discrete random variables
//! with general distributions", 1977; built as M. Vose, 1991), then a rank within the step evenly, and keeps
//! it with the probability by which the law is below the hat there; else all is drawn again. Below the height
//! of the step's last rank it is kept without computing the law (the "squeeze" of G. Marsaglia, 1977), so
//! that a logarithm and an exponential are needed for less than one draw in sixteen.
//!
//! This is exact for every exponent and number of keys, up to the rounding of an f64, in constant time, with a
//! table that grows with the logarithm of the number of keys: 206 steps (8 KiB) for a million, 434 (17 KiB)
//! for 10^12.
//!
//! Left: rejection-inversion (W. Hörmann, G. Derflinger, 1996; exact, no table, but a logarithm and an
//! exponential every time: 30 ns instead of 7), an alias table of all ranks (8 bytes a key of cache
//! which the server under test would pay for too) and the approximation of Gray et al. used by YCSB (wrong
//! beyond the second rank, and only for exponents below 1).

use super::{Random, Spread, fraction_of_words};
use std::hint::select_unpredictable;

/// A step holds at most the rank it begins with divided by this. A larger one means more steps and fewer
/// draws which are rejected or need the law itself.
const FINENESS: u64 = 16;

#[derive(Clone, Debug)]
pub struct Zipf {
    exponent: f64,
    columns: Box<[Column]>,
    steps: Box<[Step]>,
    spread: Spread,
}

/// A column of the alias table: its own step up to the height `keep`, of 2^64, and another one above.
#[derive(Clone, Copy, Debug)]
struct Column {
    keep: u64,
    alias: u32,
}

/// `ranks` ranks, from `first` on. Here the hottest rank is 1, as in the law.
#[derive(Clone, Copy, Debug)]
struct Step {
    first: u64,
    ranks: u64,
    /// Every rank is kept whose height below the hat, of 2^64, is at most this.
    surely: u64,
}

impl Zipf {
    pub fn new(keys: u64, exponent: f64) -> Zipf {
        assert!(keys > 0, "a distribution over no keys");
        let steps = steps(keys, exponent);
        let areas: Vec<f64> = steps.iter().map(|step| step.ranks as f64 * law(step.first as f64, exponent)).collect();
        Zipf { exponent, columns: alias_table(&areas), steps, spread: Spread::new(keys) }
    }

    #[inline]
    pub fn key(&self, random: &mut Random) -> u64 {
        self.spread.key(self.rank(random))
    }

    /// 0 is the most frequent.
    #[inline]
    pub fn rank(&self, random: &mut Random) -> u64 {
        loop {
            let (column, height) = random.below_with_rest(self.columns.len() as u64);
            let Column { keep, alias } = self.columns[column as usize];
            // Which it is cannot be predicted.
            let step = self.steps[select_unpredictable(height < keep, column as usize, alias as usize)];
            let (offset, height) = random.below_with_rest(step.ranks);
            if height <= step.surely || self.keeps(step, offset, height) {
                return step.first + offset - 1;
            }
        }
    }

    #[cold]
    fn keeps(&self, step: Step, offset: u64, height: u64) -> bool {
        height < fraction_of_words(below_hat(step, offset, self.exponent))
    }
}

/// k^-s.
fn law(rank: f64, exponent: f64) -> f64 {
    (-exponent * rank.ln()).exp()
}

/// The law at a rank of the step over the height of its hat.
fn below_hat(step: Step, offset: u64, exponent: f64) -> f64 {
    law((step.first + offset) as f64 / step.first as f64, exponent)
}

fn steps(keys: u64, exponent: f64) -> Box<[Step]> {
    let mut steps = Vec::new();
    let mut first = 1;
    while first <= keys {
        let ranks = (first / FINENESS).clamp(1, keys - first + 1);
        let mut step = Step { first, ranks, surely: u64::MAX };
        if ranks > 1 {
            // A little less than the law at the last rank, for rounding; above it the law itself decides.
            step.surely = fraction_of_words(below_hat(step, ranks - 1, exponent) * (1.0 - 1e-12));
        }
        steps.push(step);
        first += ranks;
    }
    steps.into()
}

/// Fills up columns of equal area, one for each of `areas`: what is short of the mean is topped up from one
/// which is above it, whose rest is then filled up likewise.
fn alias_table(areas: &[f64]) -> Box<[Column]> {
    let mean = areas.iter().sum::<f64>() / areas.len() as f64;
    let mut left: Vec<f64> = areas.iter().map(|area| area / mean).collect();
    let (mut short, mut over): (Vec<usize>, Vec<usize>) = (0..areas.len()).partition(|&i| left[i] < 1.0);
    // What is neither topped up nor used up at the end is full, but for rounding.
    let mut columns: Vec<Column> = (0..areas.len()).map(|i| Column { keep: u64::MAX, alias: i as u32 }).collect();
    while let (Some(&low), Some(&high)) = (short.last(), over.last()) {
        short.pop();
        columns[low] = Column { keep: fraction_of_words(left[low]), alias: high as u32 };
        left[high] -= 1.0 - left[low];
        if left[high] < 1.0 {
            over.pop();
            short.push(high);
        }
    }
    columns.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The probability of each step which the alias table stands for.
    fn step_probabilities(zipf: &Zipf) -> Vec<f64> {
        let mut probabilities = vec![0.0; zipf.steps.len()];
        for (i, column) in zipf.columns.iter().enumerate() {
            let keep = column.keep as f64 / 2f64.powi(64);
            probabilities[i] += keep / zipf.columns.len() as f64;
            probabilities[column.alias as usize] += (1.0 - keep) / zipf.columns.len() as f64;
        }
        probabilities
    }

    /// Not drawn but computed from the tables: each rank's probability is k^-s / H(n, s).
    #[test]
    fn the_tables_stand_for_the_exact_law() {
        for keys in [1u64, 2, 31, 32, 33, 1_000, 30_000] {
            for exponent in [0.1, 0.5, 0.99, 1.0, 1.3, 4.0, 300.0] {
                let zipf = Zipf::new(keys, exponent);
                let mut probabilities = Vec::new();
                for (step, probability) in zipf.steps.iter().zip(step_probabilities(&zipf)) {
                    assert_eq!(step.first, probabilities.len() as u64 + 1);
                    for offset in 0..step.ranks {
                        let kept = below_hat(*step, offset, exponent);
                        assert!(
                            step.ranks == 1 || fraction_of_words(kept) >= step.surely,
                            "the squeeze is below the law"
                        );
                        probabilities.push(probability / step.ranks as f64 * kept);
                    }
                }
                assert_eq!(probabilities.len() as u64, keys);
                let kept: f64 = probabilities.iter().sum();
                let norm: f64 = (1..=keys).map(|k| law(k as f64, exponent)).sum();
                for (i, probability) in probabilities.iter().enumerate() {
                    let exact = law(i as f64 + 1.0, exponent) / norm;
                    assert!((probability / kept - exact).abs() < 1e-13, "n={keys} s={exponent} rank={i}");
                }
                assert!(kept > 0.93, "n={keys} s={exponent}: {kept}");
            }
        }
    }

    /// The share of each of the first ranks is 1 / (rank+1)^s / H(n, s), within four standard errors, and so
    /// is that of each run of ranks from a power of two to the next.
    #[test]
    fn zipf_ranks_have_their_exact_probabilities() {
        for (keys, draws) in [(1_000u64, 400_000), (100_000, 400_000)] {
            for exponent in [0.5, 0.99, 1.0, 1.3] {
                let zipf = Zipf::new(keys, exponent);
                let mut random = Random::new(7);
                let mut counts = vec![0u64; keys as usize];
                for _ in 0..draws {
                    counts[zipf.rank(&mut random) as usize] += 1;
                }
                let norm: f64 = (1..=keys).map(|k| (k as f64).powf(-exponent)).sum();
                let single = [0usize, 1, 2, 9, 99].map(|rank| rank..rank + 1);
                let runs = (0..17).map(|power| (1usize << power) - 1..((2usize << power) - 1).min(keys as usize));
                for ranks in single.into_iter().chain(runs.filter(|run| !run.is_empty())) {
                    let p = ranks.clone().map(|rank| ((rank + 1) as f64).powf(-exponent)).sum::<f64>() / norm;
                    let expected = p * f64::from(draws);
                    let tolerance = 4.0 * (expected * (1.0 - p)).sqrt();
                    let got = counts[ranks.clone()].iter().sum::<u64>() as f64;
                    assert!((got - expected).abs() < tolerance, "s={exponent} ranks={ranks:?}: {got} for {expected}");
                }
            }
        }
    }

    #[test]
    fn tables_stay_small_and_ranks_in_bounds() {
        for (keys, steps) in [(1, 1), (1_000_000, 206), (1_000_000_000_000, 434)] {
            let zipf = Zipf::new(keys, 0.99);
            assert_eq!(zipf.steps.len(), steps);
            let mut random = Random::new(1);
            assert!((0..10_000).all(|_| zipf.rank(&mut random) < keys));
        }
    }
}
