//! Latency second by second.

use super::worker::new_histogram;
use hdrhistogram::Histogram;
use std::ops::Range;

/// What one thread measured in one interval: latencies in nanoseconds with their counts, which is much smaller than a
/// histogram.
#[derive(Clone, Debug, Default)]
pub struct Interval {
    pub errors: u64,
    latencies: Vec<(u64, u64)>,
}

impl Interval {
    pub fn new(latency_ns: &Histogram<u64>, errors: u64) -> Interval {
        let recorded = latency_ns.iter_recorded();
        Interval { errors, latencies: recorded.map(|step| (step.value_iterated_to(), step.count_at_value())).collect() }
    }
}

/// What all threads measured in one interval, microseconds.
#[derive(Clone, Copy, Debug)]
pub struct Second {
    /// End of the interval, in seconds since the measurement began.
    pub end: f64,
    pub ops_per_second: f64,
    pub p50_us: f64,
    pub p99_us: f64,
    pub p999_us: f64,
    pub max_us: f64,
    pub errors: u64,
}

const REST_SECONDS_MIN: f64 = 0.1;

/// Brings the threads' intervals, a second each but for the last, together. `seconds` is the length of the whole.
pub fn merge(threads: &[Vec<Interval>], seconds: f64) -> Vec<Second> {
    let mut count = threads.iter().map(Vec::len).max().unwrap_or(0);
    // A rest of some milliseconds says nothing by itself, and goes with the second before it.
    if count > 1 && seconds - (count - 1) as f64 <= REST_SECONDS_MIN {
        count -= 1;
    }
    let mut merged = Vec::with_capacity(count);
    for i in 0..count {
        let last = i + 1 == count;
        let places = i..if last { usize::MAX } else { i + 1 };
        let all = latency_of(threads, places.clone());
        let end = if last { seconds.max(i as f64 + 0.001) } else { (i + 1) as f64 };
        let us = |quantile| all.value_at_quantile(quantile) as f64 / 1e3;
        merged.push(Second {
            end,
            ops_per_second: all.len() as f64 / (end - i as f64),
            p50_us: us(0.5),
            p99_us: us(0.99),
            p999_us: us(0.999),
            max_us: all.max() as f64 / 1e3,
            errors: intervals(threads, places).map(|interval| interval.errors).sum(),
        });
    }
    merged
}

/// Latencies of all threads in these intervals.
pub fn latency_of(threads: &[Vec<Interval>], seconds: Range<usize>) -> Histogram<u64> {
    let mut all = new_histogram();
    for &(value, count) in intervals(threads, seconds).flat_map(|interval| &interval.latencies) {
        all.saturating_record_n(value, count);
    }
    all
}

fn intervals(threads: &[Vec<Interval>], seconds: Range<usize>) -> impl Iterator<Item = &Interval> {
    threads.iter().flat_map(move |thread| thread.iter().skip(seconds.start).take(seconds.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interval(latencies: &[(u64, u64)], errors: u64) -> Interval {
        let mut histogram = new_histogram();
        latencies.iter().for_each(|&(value, count)| histogram.saturating_record_n(value, count));
        Interval::new(&histogram, errors)
    }

    #[test]
    fn threads_are_merged_second_by_second() {
        let one = vec![interval(&[(1_000, 98), (9_000, 1)], 0), interval(&[(2_000, 10)], 1)];
        let two = vec![interval(&[(5_000, 1)], 2), interval(&[(3_000, 10)], 0), interval(&[(1_000, 1)], 0)];
        let series = merge(&[one, two], 2.05);
        assert_eq!(series.len(), 2, "the rest is too short for a row of its own");
        assert_eq!((series[0].end, series[0].ops_per_second, series[0].errors), (1.0, 100.0, 2));
        assert!((series[0].p50_us - 1.0).abs() < 0.01 && (series[0].max_us - 9.0).abs() < 0.02);
        assert!(
            (series[1].ops_per_second - 21.0 / 1.05).abs() < 0.01 && series[1].end == 2.05 && series[1].errors == 1
        );
        assert!(merge(&[], 1.0).is_empty());
        let half = merge(&[vec![interval(&[(1_000, 50)], 0)]], 0.5);
        assert_eq!((half[0].end, half[0].ops_per_second), (0.5, 100.0));
    }
}
