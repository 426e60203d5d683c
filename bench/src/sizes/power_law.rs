//! Sizes which fall with a power.

/// Sizes from `low` to `high` with a density proportional to size^-exponent: the density over [low, high + 1), cut
/// to whole bytes. `low` is at least 1.
#[derive(Clone, Debug, PartialEq)]
pub struct PowerLaw {
    pub low: usize,
    pub high: usize,
    pub exponent: f64,
    /// The integral of the density, in units of `low`, so that the small numbers of steep laws keep their digits.
    all: f64,
}

impl PowerLaw {
    pub fn new(low: usize, high: usize, exponent: f64) -> PowerLaw {
        assert!(1 <= low && low <= high, "checked by the caller");
        PowerLaw { low, high, exponent, all: integral(exponent, (high as f64 + 1.0) / low as f64) }
    }

    /// The size at a quantile in [0, 1), by the inverse of the distribution's function.
    pub fn at(&self, quantile: f64) -> usize {
        let size = integral_inverse(self.exponent, quantile * self.all) * self.low as f64;
        (size as usize).clamp(self.low, self.high)
    }

    /// Sums the first sizes one by one. Of further ones it is the mean of the density less half a byte, which
    /// whole bytes lose on average.
    pub fn mean(&self) -> f64 {
        let unit = self.low as f64;
        let up_to = |size: usize, exponent: f64| integral(exponent, size as f64 / unit);
        let (end, tail) = (self.high + 1, (self.low + 10_000).min(self.high + 1));
        let share = |size: usize| up_to(size + 1, self.exponent) - up_to(size, self.exponent);
        let head: f64 = (self.low..tail).map(|size| size as f64 * share(size)).sum();
        let tail_share = up_to(end, self.exponent) - up_to(tail, self.exponent);
        let tail_size = unit * (up_to(end, self.exponent - 1.0) - up_to(tail, self.exponent - 1.0));
        (head + tail_size - 0.5 * tail_share) / self.all
    }
}

/// The integral of t^-s from 1 to x, (x^(1-s) - 1) / (1-s), which is ln x for s = 1.
fn integral(exponent: f64, x: f64) -> f64 {
    let log = x.ln();
    let t = (1.0 - exponent) * log;
    if t.abs() > 1e-8 { t.exp_m1() / t * log } else { log * (1.0 + t / 2.0) }
}

fn integral_inverse(exponent: f64, y: f64) -> f64 {
    let t = (y * (1.0 - exponent)).max(-1.0);
    if t.abs() > 1e-8 { (t.ln_1p() / t * y).exp() } else { (y * (1.0 - t / 2.0)).exp() }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Against the sum over all sizes.
    #[test]
    fn means_are_well_computed() {
        for (low, high, exponent) in
            [(1usize, 300_000usize, 1.0f64), (1, 300_000, 2.0), (50, 300_000, 1.5), (3, 90, 0.5)]
        {
            let edge = |size: usize| integral(exponent, size as f64);
            let sum: f64 = (low..=high).map(|size| size as f64 * (edge(size + 1) - edge(size))).sum();
            let exact = sum / (edge(high + 1) - edge(low));
            let got = PowerLaw::new(low, high, exponent).mean();
            assert!((got / exact - 1.0).abs() < 1e-6, "{low}-{high}:{exponent}: {got} for {exact}");
        }
    }

    /// Where a steep law has all but ended, the digits of its integral are used up.
    #[test]
    fn the_inverse_undoes_the_integral() {
        for (exponent, last, tolerance) in [
            (0.1, 5e8, 1e-13),
            (0.999_999_999, 5e8, 1e-13),
            (1.0, 5e8, 1e-13),
            (1.000_000_001, 5e8, 1e-13),
            (1.5, 5e8, 1e-10),
            (3.0, 1e3, 1e-9),
        ] {
            for x in [1.0, 1.000_1, 2.0, 100.0, last] {
                let back = integral_inverse(exponent, integral(exponent, x));
                assert!((back / x - 1.0).abs() <= tolerance, "{exponent} {x}: {back}");
            }
        }
    }
}
