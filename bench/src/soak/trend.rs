//! Does a series of numbers grow? A straight line is laid through its second half (least squares): by then caches, pools and
//! tables have what they need, and whatever still goes up has no reason to stop.
//!
//! It grows if the line rises by more than is allowed *and* by more than the scatter of the numbers around it explains: a slope
//! is believed beyond four times its standard error. So a busy machine makes the numbers wide, and the verdict slow to blame;
//! a leak is a line and has little scatter.

/// Fewer numbers than this make no series: half of them are what is judged.
pub const NUMBERS_MIN: usize = 8;
/// Standard errors beyond which a slope is believed.
const ERRORS: f64 = 4.0;

/// The line through the second half of a series.
#[derive(Clone, Copy, Debug)]
pub struct Trend {
    /// Where the line begins.
    pub start: f64,
    /// By how much it rises to its end; less than 0 if it falls.
    pub growth: f64,
    /// So much may be chance.
    pub scatter: f64,
}

impl Trend {
    /// # Panics
    /// If there are fewer than [`NUMBERS_MIN`].
    pub fn of(series: &[f64]) -> Trend {
        assert!(series.len() >= NUMBERS_MIN, "half of it is a line");
        let half = &series[series.len() / 2..];
        let count = half.len() as f64;
        let length = count - 1.0;
        let (mean_x, mean_y) = (length / 2.0, half.iter().sum::<f64>() / count);
        let points = || half.iter().enumerate().map(|(x, &y)| (x as f64 - mean_x, y - mean_y));
        let square: f64 = points().map(|(x, _)| x * x).sum();
        let slope = points().map(|(x, y)| x * y).sum::<f64>() / square;
        let rest: f64 = points().map(|(x, y)| (y - slope * x).powi(2)).sum();
        let error = (rest / (count - 2.0) / square).sqrt();
        Trend { start: mean_y - slope * mean_x, growth: slope * length, scatter: ERRORS * error * length }
    }

    pub fn grows_by_more_than(&self, allowed: f64) -> bool {
        self.growth > allowed && self.growth > self.scatter
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    fn noise(random: &mut Random, width: f64) -> f64 {
        (random.unit() + random.unit() + random.unit() - 1.5) * width
    }

    #[test]
    fn a_line_is_found_with_its_start_and_growth() {
        let series: Vec<f64> = (0..20).map(|x| if x < 10 { 900.0 } else { 100.0 + 3.0 * f64::from(x - 10) }).collect();
        let trend = Trend::of(&series);
        assert!((trend.start - 100.0).abs() < 1e-9 && (trend.growth - 27.0).abs() < 1e-9, "{trend:?}");
        assert!(trend.scatter < 1e-6, "{trend:?}");
        assert!(trend.grows_by_more_than(26.0) && !trend.grows_by_more_than(28.0));
    }

    #[test]
    fn what_fills_up_and_then_rests_is_flat() {
        let series: Vec<f64> = (0..30).map(|x| 100.0 * (1.0 - (-f64::from(x) / 3.0).exp())).collect();
        assert!(!Trend::of(&series).grows_by_more_than(1.0));
        assert!(!Trend::of(&[5.0; 8]).grows_by_more_than(0.0), "nothing moves at all");
        let falling: Vec<f64> = (0..30).map(|x| 100.0 - f64::from(x)).collect();
        assert!(!Trend::of(&falling).grows_by_more_than(0.0));
    }

    /// A leak of a fifth over the judged half, in noise of a tenth, is found each time; the noise alone is never taken for one.
    #[test]
    fn a_leak_is_told_from_noise() {
        for seed in 0..200 {
            let mut random = Random::new(seed);
            let mut series = |leak: f64| -> Vec<f64> {
                (0..30).map(|x| 100.0 + leak * f64::from(x) + noise(&mut random, 5.0)).collect()
            };
            assert!(Trend::of(&series(20.0 / 14.0)).grows_by_more_than(8.0), "seed {seed}");
            assert!(!Trend::of(&series(0.0)).grows_by_more_than(8.0), "seed {seed}");
        }
    }
}
