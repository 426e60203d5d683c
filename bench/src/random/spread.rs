//! From ranks to keys.

/// Spreads ranks over the key space by multiplication with a number coprime to its size: each rank has its
/// own key, and neighbours in rank are far apart. Hot keys that were neighbours would flatter tables which
/// keep their order.
///
/// The remainder is taken without a division (D. Lemire, O. Kaser, N. Kurz, "Faster remainder by direct
/// computation", 2019): multiplier / keys is kept as a fraction of 2^128, rounded up. Rank times that, without
/// the whole part, is remainder / keys, too large by less than rank / 2^128, so that times `keys` its whole part
/// is the remainder as long as rank * keys is below 2^128, which it is. A division of 64 bits is compiled to a
/// branch on whether 32 bits would do, which with ranks by Zipf's law cannot be predicted.
#[derive(Clone, Debug)]
pub struct Spread {
    keys: u64,
    fraction: u128,
}

impl Spread {
    pub fn new(keys: u64) -> Spread {
        let multiplier = u128::from(multiplier(keys));
        let divisor = u128::from(keys);
        // 2^128 is one more than the largest u128.
        let (quotient, rest) = match (u128::MAX / divisor, u128::MAX % divisor + 1) {
            (quotient, rest) if rest == divisor => (quotient.wrapping_add(1), 0),
            other => other,
        };
        let fraction = quotient.wrapping_mul(multiplier).wrapping_add((rest * multiplier).div_ceil(divisor));
        Spread { keys, fraction }
    }

    /// The key of `rank`, which is below the number of keys.
    #[inline]
    pub fn key(&self, rank: u64) -> u64 {
        let fraction = self.fraction.wrapping_mul(u128::from(rank));
        let low = (u128::from(fraction as u64) * u128::from(self.keys)) >> 64;
        let high = (fraction >> 64) * u128::from(self.keys);
        ((high + low) >> 64) as u64
    }
}

/// Coprime to `keys` and near its golden section, which scatters the first ranks best.
fn multiplier(keys: u64) -> u64 {
    let mut multiplier = ((keys as f64 * 0.618_033_988_749) as u64).max(1);
    while greatest_common_divisor(multiplier, keys) != 1 {
        multiplier += 1;
    }
    multiplier
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

    #[test]
    fn keys_are_a_permutation_of_ranks() {
        for keys in [1u64, 2, 3, 6, 10, 1_000, 4_096] {
            let spread = Spread::new(keys);
            let mut seen = vec![false; keys as usize];
            for rank in 0..keys {
                seen[spread.key(rank) as usize] = true;
            }
            assert!(seen.iter().all(|&hit| hit), "{keys}");
        }
    }

    #[test]
    fn the_remainder_without_division_is_the_remainder() {
        let around = |middle: u64| [middle - 1, middle, middle + 1];
        for keys in
            [around(1 << 20), around(1 << 32), around(1 << 40), around(1_000_000_007), around(u64::MAX - 1)].concat()
        {
            let mut random = crate::random::Random::new(keys);
            let edges = [0, 1, keys / 2, keys - 2, keys - 1];
            for rank in edges.into_iter().chain((0..1_000).map(|_| random.below(keys))) {
                let remainder = u128::from(rank) * u128::from(multiplier(keys)) % u128::from(keys);
                assert_eq!(u128::from(Spread::new(keys).key(rank)), remainder, "{keys} {rank}");
            }
        }
    }
}
