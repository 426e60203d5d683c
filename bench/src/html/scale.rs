//! From values to pixels, and which values an axis labels.

enum Kind {
    Linear,
    Logarithmic,
    /// Quantiles by their nines, -log10(1 - q): the same room for 90 to 99 % as for 99 to 99.9 %.
    Nines,
}

pub struct Scale {
    kind: Kind,
    /// After the transformation of the kind.
    low: f64,
    high: f64,
    pub pixels: (f64, f64),
    pub ticks: Vec<f64>,
}

impl Scale {
    /// From 0 to the first tick that is not below `high`.
    pub fn linear(high: f64, pixels: (f64, f64)) -> Scale {
        let mut scale = Scale::linear_to(high, pixels);
        let step = nice_step(scale.high / 5.0);
        let last = (scale.high / step - 1e-6).ceil();
        scale.high = last * step;
        scale.ticks = (0..=last as usize).map(|i| i as f64 * step).collect();
        scale
    }

    /// From 0 to exactly `high`, as for time.
    pub fn linear_to(high: f64, pixels: (f64, f64)) -> Scale {
        let high = if high > 1e-6 { high } else { 1.0 };
        let step = nice_step(high / 8.0);
        let ticks = (0..=(high / step + 1e-6) as usize).map(|i| i as f64 * step).collect();
        Scale { kind: Kind::Linear, low: 0.0, high, pixels, ticks }
    }

    /// Between the nearest values of 1, 2, 5, 10, 20, ... which enclose both.
    pub fn logarithmic(low: f64, high: f64, pixels: (f64, f64)) -> Scale {
        let low = low.clamp(1e-3, 1e15);
        let high = high.clamp(low, 1e15);
        let exponents = low.log10().floor() as i32 - 1..=high.log10().ceil() as i32 + 1;
        let candidates: Vec<f64> =
            exponents.flat_map(|exponent| [1.0, 2.0, 5.0].map(|digit| digit * 10f64.powi(exponent))).collect();
        let first = candidates.iter().rposition(|&tick| tick <= low * 1.000001).unwrap_or(0);
        let end = candidates.iter().position(|&tick| tick >= high * 0.999999).unwrap_or(candidates.len() - 1);
        let last = end.max(first + 1);
        // Three steps a decade; with many decades only their beginnings, and not more of these than fit.
        let decades = (candidates[last] / candidates[first]).log10();
        let stride = if decades < 3.2 { 1 } else { 3 * (decades / 8.0).ceil() as usize };
        let ticks = (first..=last).filter(|i| i.is_multiple_of(stride)).map(|i| candidates[i]).collect();
        Scale { kind: Kind::Logarithmic, low: candidates[first].log10(), high: candidates[last].log10(), pixels, ticks }
    }

    pub fn nines(highest: f64, pixels: (f64, f64)) -> Scale {
        let high = nines(highest).clamp(1.0, 7.0);
        let ticks = (0..=(high + 1e-6) as i32).map(|count| 1.0 - 10f64.powi(-count)).collect();
        Scale { kind: Kind::Nines, low: 0.0, high, pixels, ticks }
    }

    /// Always between the two ends, so that nothing is drawn outside of the chart.
    pub fn at(&self, value: f64) -> f64 {
        let transformed = match self.kind {
            Kind::Linear => value,
            Kind::Logarithmic => value.max(1e-9).log10(),
            Kind::Nines => nines(value),
        };
        let share = ((transformed - self.low) / (self.high - self.low)).clamp(0.0, 1.0);
        self.pixels.0 + share * (self.pixels.1 - self.pixels.0)
    }
}

fn nines(quantile: f64) -> f64 {
    -(1.0 - quantile).clamp(1e-7, 1.0).log10()
}

/// The next of 1, 2, 5, 10, 20, ...
fn nice_step(least: f64) -> f64 {
    let decade = 10f64.powf(least.log10().floor());
    let digit = [1.0, 2.0, 5.0].into_iter().find(|digit| digit * decade >= least * 0.999999);
    digit.unwrap_or(10.0) * decade
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn linear_axes_end_at_a_tick_and_time_where_it_ends() {
        assert_eq!(Scale::linear(870.0, (0.0, 1.0)).ticks, [0.0, 200.0, 400.0, 600.0, 800.0, 1000.0]);
        let time = Scale::linear_to(7.5, (0.0, 75.0));
        assert_eq!(time.ticks, [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]);
        assert_eq!(time.at(7.5), 75.0);
    }

    #[test]
    fn logarithmic_axes_enclose_their_values() {
        assert_eq!(Scale::logarithmic(130.0, 870.0, (0.0, 1.0)).ticks, [100.0, 200.0, 500.0, 1000.0]);
        assert_eq!(Scale::logarithmic(100.0, 100.0, (0.0, 1.0)).ticks, [100.0, 200.0]);
        assert_eq!(Scale::logarithmic(3.0, 90_000.0, (0.0, 1.0)).ticks, [10.0, 100.0, 1000.0, 10_000.0, 100_000.0]);
        let scale = Scale::logarithmic(10.0, 1000.0, (0.0, 100.0));
        assert!((scale.at(100.0) - 50.0).abs() < 1e-9);
    }

    #[test]
    fn nines_are_evenly_spaced() {
        let scale = Scale::nines(0.9999, (0.0, 400.0));
        assert_eq!(scale.ticks.len(), 5);
        assert!((scale.at(0.99) - 200.0).abs() < 1e-9);
        assert_eq!(scale.at(1.0), 400.0);
    }

    #[test]
    fn strange_ranges_give_few_ticks_and_places_inside() {
        for high in [0.0, 1e-12, 1e-5, 3.0, 1e15] {
            let scales = [
                Scale::linear(high, (10.0, 90.0)),
                Scale::linear_to(high, (10.0, 90.0)),
                Scale::logarithmic(0.0, high, (10.0, 90.0)),
                Scale::logarithmic(high, 0.0, (10.0, 90.0)),
                Scale::nines(high, (10.0, 90.0)),
            ];
            for scale in scales {
                assert!((2..=12).contains(&scale.ticks.len()), "{high}: {:?}", scale.ticks);
                for value in [-1.0, 0.0, 0.5, 1.0, 1e15] {
                    assert!((10.0..=90.0).contains(&scale.at(value)));
                }
            }
        }
    }
}
