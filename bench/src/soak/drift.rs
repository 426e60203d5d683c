//! What the load is at a moment. It drifts through all that is here once a lap, each with its own period, and the next lap is the
//! same again: so laps can be compared although no two moments of one are alike.

use std::f64::consts::TAU;

/// The load of a moment.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mix {
    /// Of values that are written: from, to.
    pub value_bytes: (usize, usize),
    /// The keys that are used: the first, and how many.
    pub keys: (u64, u64),
    /// Chance that a request only reads.
    pub reads: f64,
    /// Requests of a batch.
    pub pipeline: usize,
    pub connections: usize,
    /// Chance that what is written expires.
    pub expiring: f64,
}

/// Between which the load moves.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    pub keys: u64,
    pub value_bytes_max: usize,
    pub pipeline_max: usize,
    pub connections_max: usize,
}

/// The smallest values.
pub const VALUE_BYTES_MIN: usize = 24;
/// Values of one moment differ by this factor.
const VALUE_SPREAD: f64 = 8.0;

/// The load at a place of the lap, 0 to 1.
pub fn at(place: f64, bounds: &Bounds) -> Mix {
    // From 0 to 1 and back, so often a lap.
    let wave = |times: f64, shift: f64| 0.5 - 0.5 * (TAU * (times * place + shift)).cos();
    let between = |low: f64, high: f64, part: f64| low * (high / low).powf(part);
    let count = |low: f64, high: usize, part: f64| between(low, (high as f64).max(low), part).round() as usize;
    let low = between(VALUE_BYTES_MIN as f64, bounds.value_bytes_max as f64 / VALUE_SPREAD, wave(1.0, 0.0));
    let keys = between(bounds.keys as f64 / 50.0, bounds.keys as f64 / 2.0, wave(2.0, 0.3)).max(1.0) as u64;
    Mix {
        value_bytes: (low as usize, ((low * VALUE_SPREAD) as usize).min(bounds.value_bytes_max)),
        keys: (((bounds.keys - keys) as f64 * wave(1.0, 0.2)) as u64, keys),
        reads: 0.1 + 0.8 * wave(3.0, 0.1),
        pipeline: count(1.0, bounds.pipeline_max, wave(5.0, 0.0)),
        connections: count(1.0, bounds.connections_max, wave(4.0, 0.4)),
        expiring: 0.6 * wave(2.0, 0.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lap_goes_through_everything_and_ends_where_it_began() {
        let bounds = Bounds { keys: 10_000, value_bytes_max: 16_384, pipeline_max: 32, connections_max: 40 };
        let mixes: Vec<Mix> = (0..=1_000).map(|step| at(f64::from(step) / 1_000.0, &bounds)).collect();
        let (first, last) = (mixes[0], mixes[1_000]);
        assert_eq!(
            (first.value_bytes, first.pipeline, first.connections),
            (last.value_bytes, last.pipeline, last.connections)
        );
        let all = |of: fn(&Mix) -> f64| {
            let of = mixes.iter().map(of);
            of.fold((f64::MAX, f64::MIN), |(low, high), value| (low.min(value), high.max(value)))
        };
        assert_eq!(all(|mix| mix.pipeline as f64), (1.0, 32.0));
        assert_eq!(all(|mix| mix.connections as f64), (1.0, 40.0));
        let (small, _) = all(|mix| mix.value_bytes.0 as f64);
        let (_, large) = all(|mix| mix.value_bytes.1 as f64);
        assert!(small <= 25.0 && large >= 16_000.0, "{small} {large}");
        let (low, high) = all(|mix| mix.reads);
        assert!(low >= 0.1 && high <= 0.9 && high - low > 0.7);
        assert!(mixes.iter().all(|mix| mix.keys.0 + mix.keys.1 <= 10_000 && mix.keys.1 >= 199));
    }

    #[test]
    fn the_least_bounds_are_a_load_too() {
        let bounds = Bounds { keys: 1, value_bytes_max: VALUE_BYTES_MIN, pipeline_max: 1, connections_max: 1 };
        for step in 0..100 {
            let mix = at(f64::from(step) / 100.0, &bounds);
            assert_eq!((mix.keys, mix.pipeline, mix.connections), ((0, 1), 1, 1));
            assert!(mix.value_bytes.0 <= mix.value_bytes.1 && mix.value_bytes.1 <= VALUE_BYTES_MIN, "{mix:?}");
        }
    }
}
