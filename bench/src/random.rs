//! Random numbers and the two key distributions.
//!
//! Zipf is drawn by rejection-inversion (W. Hörmann, G. Derflinger, "Rejection-inversion to generate
//! variates from monotone discrete distributions", 1996): exact for any exponent, no table, one
//! logarithm and one exponential a draw. Tried in thought and left: an alias table (exact and cheaper,
//! but 8 bytes a key of cache which the server under test would pay for too) and the approximation of
//! Gray et al. used by YCSB (wrong beyond the second rank, and only for exponents below 1).
//!
//! Rank 0 is the hottest. Ranks are spread over the key space by multiplication with a number coprime
//! to its size, so that hot keys are not neighbours, which would flatter ordered tables.

use std::str::FromStr;

/// SplitMix64.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    pub fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `limit`, by multiplication; the bias is below limit / 2^64.
    pub fn below(&mut self, limit: u64) -> u64 {
        ((u128::from(self.word()) * u128::from(limit)) >> 64) as u64
    }

    /// In [0, 1).
    fn unit(&mut self) -> f64 {
        (self.word() >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }
}

/// How the command line names a distribution: `uniform` or `zipf:0.99`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Distribution {
    Uniform,
    Zipf(f64),
}

impl FromStr for Distribution {
    type Err = String;

    fn from_str(text: &str) -> Result<Distribution, String> {
        if text == "uniform" {
            return Ok(Distribution::Uniform);
        }
        match text.strip_prefix("zipf:").map(str::parse::<f64>) {
            Some(Ok(exponent)) if exponent > 0.0 && exponent.is_finite() => Ok(Distribution::Zipf(exponent)),
            _ => Err(format!("'{text}' is neither 'uniform' nor 'zipf:EXPONENT'")),
        }
    }
}

impl std::fmt::Display for Distribution {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Distribution::Uniform => f.write_str("uniform"),
            Distribution::Zipf(exponent) => write!(f, "zipf:{exponent}"),
        }
    }
}

/// Where the next key index comes from.
#[derive(Clone, Debug)]
pub enum KeySource {
    Uniform { random: Random, keys: u64 },
    Zipf { random: Random, zipf: Zipf },
    Sequential { next: u64 },
}

impl KeySource {
    pub fn new(distribution: Distribution, keys: u64, seed: u64) -> KeySource {
        let random = Random::new(seed);
        match distribution {
            Distribution::Uniform => KeySource::Uniform { random, keys },
            Distribution::Zipf(exponent) => KeySource::Zipf { random, zipf: Zipf::new(keys, exponent) },
        }
    }

    pub fn index(&mut self) -> u64 {
        match self {
            KeySource::Uniform { random, keys } => random.below(*keys),
            KeySource::Zipf { random, zipf } => zipf.key(random),
            KeySource::Sequential { next } => {
                *next += 1;
                *next - 1
            }
        }
    }
}

#[derive(Clone, Debug)]
pub struct Zipf {
    keys: u64,
    exponent: f64,
    /// The integral of the hat function at its two ends, and the shortcut that accepts at once.
    integral_first: f64,
    integral_last: f64,
    accept: f64,
    spread: u64,
}

impl Zipf {
    pub fn new(keys: u64, exponent: f64) -> Zipf {
        assert!(keys > 0, "a distribution over no keys");
        let mut zipf =
            Zipf { keys, exponent, integral_first: 0.0, integral_last: 0.0, accept: 0.0, spread: spread(keys) };
        zipf.integral_first = zipf.integral(1.5) - 1.0;
        zipf.integral_last = zipf.integral(keys as f64 + 0.5);
        zipf.accept = 2.0 - zipf.integral_inverse(zipf.integral(2.5) - zipf.density(2.0));
        zipf
    }

    pub fn key(&self, random: &mut Random) -> u64 {
        let rank = self.rank(random);
        ((u128::from(rank) * u128::from(self.spread)) % u128::from(self.keys)) as u64
    }

    /// 0 is the most frequent.
    fn rank(&self, random: &mut Random) -> u64 {
        loop {
            let u = self.integral_last + random.unit() * (self.integral_first - self.integral_last);
            let x = self.integral_inverse(u);
            let k = x.round().clamp(1.0, self.keys as f64);
            if k - x <= self.accept || u >= self.integral(k + 0.5) - self.density(k) {
                return k as u64 - 1;
            }
        }
    }

    /// x^-exponent, the unnormalised probability.
    fn density(&self, x: f64) -> f64 {
        (-self.exponent * x.ln()).exp()
    }

    /// (x^(1-s) - 1) / (1-s), which is ln x for s = 1.
    fn integral(&self, x: f64) -> f64 {
        let log = x.ln();
        let t = (1.0 - self.exponent) * log;
        if t.abs() > 1e-8 { t.exp_m1() / t * log } else { log * (1.0 + t / 2.0) }
    }

    fn integral_inverse(&self, y: f64) -> f64 {
        let t = (y * (1.0 - self.exponent)).max(-1.0);
        if t.abs() > 1e-8 { (t.ln_1p() / t * y).exp() } else { (y * (1.0 - t / 2.0)).exp() }
    }
}

/// A multiplier near the golden section of `keys` and coprime to it.
fn spread(keys: u64) -> u64 {
    let mut candidate = ((keys as f64 * 0.618_033_988_749) as u64).max(1);
    while greatest_common_divisor(candidate, keys) != 1 {
        candidate += 1;
    }
    candidate
}

fn greatest_common_divisor(mut a: u64, mut b: u64) -> u64 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The share of each of the first ranks is 1 / (rank+1)^s / H(n, s), within four standard errors.
    #[test]
    fn zipf_ranks_have_their_exact_probabilities() {
        let (keys, draws) = (1_000u64, 400_000);
        for exponent in [0.5, 0.99, 1.0, 1.3] {
            let zipf = Zipf::new(keys, exponent);
            let mut random = Random::new(7);
            let mut counts = vec![0u64; keys as usize];
            for _ in 0..draws {
                counts[zipf.rank(&mut random) as usize] += 1;
            }
            let norm: f64 = (1..=keys).map(|k| (k as f64).powf(-exponent)).sum();
            for rank in [0usize, 1, 2, 9, 99] {
                let p = ((rank + 1) as f64).powf(-exponent) / norm;
                let expected = p * draws as f64;
                let tolerance = 4.0 * (expected * (1.0 - p)).sqrt();
                let got = counts[rank] as f64;
                assert!((got - expected).abs() < tolerance, "s={exponent} rank={rank}: {got} for {expected}");
            }
        }
    }

    #[test]
    fn zipf_keys_are_a_permutation_of_ranks() {
        for keys in [1u64, 2, 10, 1_000, 4_096] {
            let multiplier = spread(keys);
            let mut seen = vec![false; keys as usize];
            for rank in 0..keys {
                seen[(u128::from(rank) * u128::from(multiplier) % u128::from(keys)) as usize] = true;
            }
            assert!(seen.iter().all(|&hit| hit), "{keys}");
        }
    }

    #[test]
    fn uniform_covers_the_space_evenly() {
        let mut source = KeySource::new(Distribution::Uniform, 10, 3);
        let mut counts = [0u32; 10];
        for _ in 0..100_000 {
            counts[source.index() as usize] += 1;
        }
        assert!(counts.iter().all(|&count| (9_500..10_500).contains(&count)), "{counts:?}");
    }

    #[test]
    fn distributions_parse() {
        assert_eq!("zipf:0.99".parse(), Ok(Distribution::Zipf(0.99)));
        assert_eq!("uniform".parse(), Ok(Distribution::Uniform));
        assert!("zipf:-1".parse::<Distribution>().is_err());
        assert!("normal".parse::<Distribution>().is_err());
    }
}
