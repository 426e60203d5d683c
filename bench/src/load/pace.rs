//! When requests are due.

use crate::random::Random;
use clap::ValueEnum;

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pace {
    /// As fast as the replies come.
    Closed,
    /// So many a second in total, whatever the server does.
    Open { per_second: f64, arrivals: Arrivals },
}

#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
pub enum Arrivals {
    /// At equal distances.
    Even,
    /// At random, as those of many independent users (a Poisson process): bursts are part of it.
    Poisson,
}

/// The times at which one thread's requests are due, in nanoseconds of its own clock.
#[derive(Clone, Debug)]
pub struct Schedule {
    next_ns: f64,
    /// On average.
    distance_ns: f64,
    arrivals: Arrivals,
    random: Random,
}

impl Schedule {
    /// Thread `thread` of `threads` takes its share of the requests, each at a time of its own.
    pub fn new(pace: Pace, thread: usize, threads: usize, start_ns: u64, random: Random) -> Option<Schedule> {
        let Pace::Open { per_second, arrivals } = pace else { return None };
        let distance_ns = 1e9 * threads as f64 / per_second;
        let next_ns = start_ns as f64 + distance_ns * thread as f64 / threads as f64;
        Some(Schedule { next_ns, distance_ns, arrivals, random })
    }

    pub fn next_ns(&self) -> u64 {
        self.next_ns as u64
    }

    /// About how many requests are due, the next one included.
    pub fn due(&self, now_ns: u64) -> u64 {
        ((now_ns as f64 - self.next_ns) / self.distance_ns).max(0.0) as u64 + 1
    }

    /// The time of the next request, if it is due; the one after it becomes the next.
    pub fn take(&mut self, now_ns: u64) -> Option<u64> {
        if self.next_ns as u64 > now_ns {
            return None;
        }
        let due = self.next_ns as u64;
        self.next_ns += match self.arrivals {
            Arrivals::Even => self.distance_ns,
            // 1 - u is in (0, 1].
            Arrivals::Poisson => -self.distance_ns * (1.0 - self.random.unit()).ln(),
        };
        Some(due)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(arrivals: Arrivals, thread: usize, until_ns: u64) -> Vec<u64> {
        let pace = Pace::Open { per_second: 1_000.0, arrivals };
        let mut schedule = Schedule::new(pace, thread, 2, 0, Random::new(5)).unwrap();
        std::iter::from_fn(|| schedule.take(until_ns)).collect()
    }

    #[test]
    fn threads_share_an_even_pace() {
        assert_eq!(times(Arrivals::Even, 0, 5_000_000), [0, 2_000_000, 4_000_000]);
        assert_eq!(times(Arrivals::Even, 1, 5_000_000), [1_000_000, 3_000_000, 5_000_000]);
        assert!(Schedule::new(Pace::Closed, 0, 1, 0, Random::new(1)).is_none());
    }

    /// Of a Poisson process the mean and the standard deviation of the distances are equal.
    #[test]
    fn random_arrivals_have_the_rate_and_the_bursts() {
        let times = times(Arrivals::Poisson, 0, 100_000_000_000);
        let distances: Vec<f64> = times.windows(2).map(|pair| (pair[1] - pair[0]) as f64).collect();
        let mean = distances.iter().sum::<f64>() / distances.len() as f64;
        let variance = distances.iter().map(|d| (d - mean).powi(2)).sum::<f64>() / distances.len() as f64;
        assert!((mean / 2e6 - 1.0).abs() < 0.02, "{mean}");
        assert!((variance.sqrt() / mean - 1.0).abs() < 0.03, "{}", variance.sqrt() / mean);
    }
}
