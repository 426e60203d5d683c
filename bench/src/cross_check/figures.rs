//! Medians with their spread, ratios within a round, and when a difference may be believed.

use crate::statistics::{ROUNDS_MIN, median, range, spread_json, spread_text};
use serde_json::Value;
use std::fmt;

/// `median [min..max]`.
pub fn text(values: &[f64], digits: usize) -> String {
    if values.is_empty() {
        return "-".to_string();
    }
    spread_text(values, digits)
}

/// Ratios as signed percentages: `+5.0 % [+2.0..+7.5]`.
pub fn percent_text(ratios: &[f64]) -> String {
    if ratios.is_empty() {
        return "-".to_string();
    }
    let percent = |ratio: f64| (ratio - 1.0) * 100.0;
    let (low, high) = range(ratios);
    format!("{:+.1} % [{:+.1}..{:+.1}]", percent(median(ratios)), percent(low), percent(high))
}

pub fn json(values: &[f64]) -> Value {
    if values.is_empty() {
        return Value::Null;
    }
    spread_json(values)
}

/// Each round's figure over the highest of the others' in the same round; empty without others.
pub fn ratios_to_best(values: &[f64], others: &[&[f64]]) -> Vec<f64> {
    if others.is_empty() {
        return Vec::new();
    }
    let best = |round: usize| others.iter().map(|other| other[round]).fold(f64::NEG_INFINITY, f64::max);
    values.iter().enumerate().map(|(round, value)| value / best(round)).collect()
}

/// What the ratios of the rounds allow to be said.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Verdict {
    TooFewRounds,
    /// The rounds differ among themselves by more than the sides do.
    Undecided,
    Higher,
    Lower,
    /// In every round within the tolerance.
    Agrees,
    /// The answer depends on where in its step the other's figure lies.
    TooCoarse,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Verdict::TooFewRounds => "no conclusion: fewer than 3 rounds",
            Verdict::Undecided => "no conclusion: the rounds spread too much",
            Verdict::Higher => "higher",
            Verdict::Lower => "lower",
            Verdict::Agrees => "agrees",
            Verdict::TooCoarse => "no conclusion: the other tool's steps are too coarse",
        })
    }
}

/// Which side is higher.
pub fn compare(ratios: &[f64]) -> Verdict {
    let (low, high) = range(ratios);
    let difference = median(ratios) - 1.0;
    if ratios.len() < ROUNDS_MIN {
        Verdict::TooFewRounds
    } else if !ratios.iter().all(|ratio| ratio.is_finite()) || high - low > difference.abs() || difference == 0.0 {
        Verdict::Undecided
    } else if difference > 0.0 {
        Verdict::Higher
    } else {
        Verdict::Lower
    }
}

/// Whether both sides are the same within `tolerance`. That every round is inside is an answer whatever
/// the spread; that they differ needs a difference which is larger than the spread.
pub fn agree(ratios: &[f64], tolerance: f64) -> Verdict {
    let inside = |ratio: &f64| (ratio - 1.0).abs() <= tolerance;
    if ratios.len() >= ROUNDS_MIN && ratios.iter().all(inside) {
        return Verdict::Agrees;
    }
    match compare(ratios) {
        Verdict::Higher | Verdict::Lower if (median(ratios) - 1.0).abs() <= tolerance => Verdict::Undecided,
        verdict => verdict,
    }
}

/// The histograms of memtier_benchmark and redis-benchmark have steps of 8 us, for they say that nothing is
/// below 10 us, and give the last microsecond of a step: 47, 55, 63. A version which does not is seen by its
/// figures. Steps grow from 16 ms on, where they no longer matter.
pub fn step_us(values: &[f64]) -> f64 {
    let on_step = |value: &f64| value.round() % 8.0 == 7.0;
    if !values.is_empty() && values.iter().all(on_step) { 8.0 } else { 1.0 }
}

/// Like `agree`, for figures of which the others are only known to lie within `step` below what is given.
pub fn agree_in_steps(ours: &[f64], others: &[f64], step: f64, tolerance: f64) -> Verdict {
    let lowest: Vec<f64> = others.iter().map(|other| other - (step - 1.0)).collect();
    let at_end = agree(&ratios_to_best(ours, &[others]), tolerance);
    let at_start = agree(&ratios_to_best(ours, &[&lowest]), tolerance);
    match (at_end, at_start) {
        (end, start) if end == start => end,
        (Verdict::Undecided, _) | (_, Verdict::Undecided) => Verdict::Undecided,
        _ => Verdict::TooCoarse,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_their_spread() {
        assert_eq!(text(&[1.0, 2.0, 4.0], 1), "2.0 [1.0..4.0]");
        assert_eq!(text(&[], 1), "-");
        assert_eq!(percent_text(&[1.05, 0.98, 1.1]), "+5.0 % [-2.0..+10.0]");
    }

    #[test]
    fn ratios_are_to_the_best_other_of_the_same_round() {
        assert_eq!(ratios_to_best(&[200.0, 300.0], &[&[100.0, 50.0], &[50.0, 150.0]]), [2.0, 2.0]);
        assert!(ratios_to_best(&[200.0], &[]).is_empty());
    }

    #[test]
    fn a_difference_smaller_than_the_spread_is_no_conclusion() {
        assert_eq!(compare(&[1.5, 1.6, 1.55]), Verdict::Higher);
        assert_eq!(compare(&[0.5, 0.6, 0.55]), Verdict::Lower);
        assert_eq!(compare(&[1.0, 1.3, 1.2]), Verdict::Undecided);
        assert_eq!(compare(&[0.9, 1.1, 1.0]), Verdict::Undecided);
        assert_eq!(compare(&[1.0, 1.0, 1.0]), Verdict::Undecided);
        assert_eq!(compare(&[f64::NAN, 2.0, 2.0]), Verdict::Undecided);
        assert_eq!(compare(&[2.0, 2.0]), Verdict::TooFewRounds);
        assert_eq!(compare(&[]), Verdict::TooFewRounds);
    }

    #[test]
    fn agreement_needs_every_round_and_difference_needs_a_small_spread() {
        assert_eq!(agree(&[0.95, 1.02, 1.05], 0.1), Verdict::Agrees);
        assert_eq!(agree(&[1.30, 1.35, 1.40], 0.1), Verdict::Higher);
        assert_eq!(agree(&[0.60, 0.65, 0.70], 0.1), Verdict::Lower);
        assert_eq!(agree(&[0.90, 1.02, 1.50], 0.1), Verdict::Undecided);
        assert_eq!(agree(&[1.08, 1.09, 1.11], 0.1), Verdict::Undecided);
        assert_eq!(agree(&[f64::NAN, 1.0, 1.0], 0.1), Verdict::Undecided);
        assert_eq!(agree(&[1.0], 0.1), Verdict::TooFewRounds);
    }

    #[test]
    fn coarse_steps_allow_no_fine_conclusion() {
        assert_eq!(step_us(&[47.0, 55.0, 3_087.0]), 8.0);
        assert_eq!(step_us(&[47.0, 56.0]), 1.0);
        assert_eq!(step_us(&[]), 1.0);
        // 47 is 40 to 47: the same as 46, or 15 % less.
        assert_eq!(agree_in_steps(&[46.0; 3], &[47.0; 3], 8.0, 0.1), Verdict::TooCoarse);
        assert_eq!(agree_in_steps(&[46.0; 3], &[47.0; 3], 1.0, 0.1), Verdict::Agrees);
        assert_eq!(agree_in_steps(&[300.0; 3], &[303.0; 3], 8.0, 0.1), Verdict::Agrees);
        assert_eq!(agree_in_steps(&[30.0; 3], &[47.0; 3], 8.0, 0.1), Verdict::Lower);
        assert_eq!(agree_in_steps(&[60.0; 3], &[47.0; 3], 8.0, 0.1), Verdict::Higher);
    }
}
