//! Numbers of several rounds: their middle, their spread, and what may be concluded from two lists of them.

use serde_json::{Value, json};

/// With fewer rounds nothing is concluded.
pub const ROUNDS_MIN: usize = 3;

pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[middle],
        _ => (sorted[middle - 1] + sorted[middle]) / 2.0,
    }
}

pub fn range(values: &[f64]) -> (f64, f64) {
    values.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), &value| (low.min(value), high.max(value)))
}

/// `2.0 [1.0..4.0]`: the median and the range.
pub fn spread_text(values: &[f64], digits: usize) -> String {
    let (low, high) = range(values);
    format!("{:.digits$} [{low:.digits$}..{high:.digits$}]", median(values))
}

pub fn spread_json(values: &[f64]) -> Value {
    let (low, high) = range(values);
    json!({ "median": median(values), "min": low, "max": high, "rounds": values })
}

/// Round by round, the one over the other.
pub fn ratios(values: &[f64], others: &[f64]) -> Vec<f64> {
    values.iter().zip(others).map(|(value, other)| value / other).collect()
}

/// Smaller differences are not believed: the same server measured twice differs by that much.
const DIFFERENCE_MIN: f64 = 0.02;

/// Whether ratios of paired rounds say that the two sides differ: only if there are enough rounds, every one of them says
/// so, and the one that says it least does so by more than the rounds differ among themselves.
pub fn is_decided(ratios: &[f64]) -> bool {
    let (low, high) = range(ratios);
    let least = if low > 1.0 { low - 1.0 } else { 1.0 - high };
    let enough = ratios.len() >= ROUNDS_MIN && ratios.iter().all(|ratio| ratio.is_finite());
    enough && least > (high - low).max(DIFFERENCE_MIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_ranges() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(range(&[3.0, 1.0, 2.0]), (1.0, 3.0));
        assert_eq!(spread_text(&[1.0, 2.0, 4.0], 1), "2.0 [1.0..4.0]");
    }

    #[test]
    fn nothing_is_concluded_within_noise() {
        assert!(is_decided(&[0.65, 0.66, 0.67]) && is_decided(&[1.30, 1.35, 1.31]));
        assert!(!is_decided(&[1.01, 1.01, 1.012]), "as the same server against itself");
        assert!(!is_decided(&[1.03, 1.20, 1.10]), "the rounds differ by more than the sides");
        assert!(!is_decided(&ratios(&[1.0, 2.0, 3.0], &[2.0, 1.9, 4.0])), "one round disagrees");
        assert!(!is_decided(&ratios(&[1.0, 2.0], &[2.0, 3.0])), "two rounds are too few");
        assert!(!is_decided(&[f64::NAN; 5]));
    }
}
