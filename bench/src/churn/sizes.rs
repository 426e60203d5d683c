//! Sizes of values that drift: a window over the sizes, of so many octaves, which moves up and down again. In a window the
//! logarithm of the size is uniform.
//!
//! ```text
//! 16 B                                                    64 KiB
//! |--- 0 ---|--- 1 ---|--- 2 ---|--- 3 ---|--- 4 ---|--- 5 ---|      windows of two octaves
//!      0 1 2 3 4 5 4 3 2 1 0 1 ...                                   one after another in time
//! ```

use crate::random::Random;

/// The windows, lowest first.
#[derive(Clone, Debug, PartialEq)]
pub struct Windows {
    /// Smallest size of each window, and behind them the largest of all.
    edges: Vec<f64>,
}

impl Windows {
    /// Windows of `octaves` from `low` bytes to `high`; the last one may be narrower.
    pub fn new(low: usize, high: usize, octaves: f64) -> Windows {
        let factor = octaves.exp2();
        let mut edges = vec![low as f64];
        while edges[edges.len() - 1] * factor < high as f64 {
            edges.push(edges[edges.len() - 1] * factor);
        }
        edges.push(high as f64);
        Windows { edges }
    }

    pub fn count(&self) -> usize {
        self.edges.len() - 1
    }

    /// The window of period number `period`.
    pub fn at(&self, period: usize) -> usize {
        let last = self.count() - 1;
        match last {
            0 => 0,
            _ => last - (period % (2 * last)).abs_diff(last),
        }
    }

    /// Smallest and largest size, bytes.
    pub fn bounds(&self, window: usize) -> (usize, usize) {
        (self.edges[window].round() as usize, self.edges[window + 1].round() as usize)
    }

    /// A size from a window, bytes.
    pub fn draw(&self, window: usize, random: &mut Random) -> usize {
        let (low, high) = (self.edges[window], self.edges[window + 1]);
        (low * (random.unit() * (high / low).ln()).exp()).round() as usize
    }
}

/// Which window the next size is from.
#[derive(Clone, Debug, PartialEq)]
pub enum Mix {
    /// This one.
    One(usize),
    /// Each as often as it was counted; here are the sums of the counts up to and with each.
    All(Vec<u64>),
}

impl Mix {
    /// Nothing if all counts are 0.
    pub fn of_counts(counts: &[u64]) -> Option<Mix> {
        let sums: Vec<u64> = counts
            .iter()
            .scan(0, |sum, count| {
                *sum += count;
                Some(*sum)
            })
            .collect();
        (*sums.last()? > 0).then_some(Mix::All(sums))
    }

    pub fn window(&self, random: &mut Random) -> usize {
        match self {
            Mix::One(window) => *window,
            Mix::All(sums) => {
                let place = random.below(sums[sums.len() - 1]);
                sums.partition_point(|&sum| sum <= place)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_cover_all_sizes_and_go_up_and_down() {
        let windows = Windows::new(16, 65_536, 2.0);
        assert_eq!(windows.count(), 6);
        assert_eq!((windows.bounds(0), windows.bounds(5)), ((16, 64), (16_384, 65_536)));
        let order: Vec<usize> = (0..13).map(|period| windows.at(period)).collect();
        assert_eq!(order, [0, 1, 2, 3, 4, 5, 4, 3, 2, 1, 0, 1, 2]);
        let narrow = Windows::new(10, 100, 3.0);
        assert_eq!((narrow.count(), narrow.bounds(0), narrow.bounds(1)), (2, (10, 80), (80, 100)));
        let one = Windows::new(16, 64, 8.0);
        assert_eq!((one.count(), one.at(0), one.at(7)), (1, 0, 0));
        assert_eq!(Windows::new(5, 5, 1.0).draw(0, &mut Random::new(1)), 5);
    }

    #[test]
    fn sizes_are_uniform_by_their_logarithm() {
        let windows = Windows::new(16, 65_536, 12.0);
        let mut random = Random::new(3);
        let sizes: Vec<usize> = (0..20_000).map(|_| windows.draw(0, &mut random)).collect();
        assert!(sizes.iter().all(|size| (16..=65_536).contains(size)));
        // Half of the octaves are below 1 KiB.
        let small = sizes.iter().filter(|&&size| size < 1_024).count();
        assert!((small as f64 / 10_000.0 - 1.0).abs() < 0.03, "{small}");
    }

    #[test]
    fn windows_are_drawn_as_often_as_counted() {
        let mut random = Random::new(5);
        assert_eq!((Mix::One(4).window(&mut random), Mix::of_counts(&[0, 0])), (4, None));
        let mix = Mix::of_counts(&[0, 3, 0, 1]).unwrap();
        let mut counts = [0; 4];
        (0..4_000).for_each(|_| counts[mix.window(&mut random)] += 1);
        assert!(counts[0] == 0 && counts[2] == 0 && counts[1] > 2_850 && counts[1] < 3_150, "{counts:?}");
    }
}
