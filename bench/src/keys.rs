//! Keys and values. Both are functions of one number, the key's index, so that a reply can be checked
//! byte for byte without remembering what was written.
//!
//! ```text
//! key    "key:" + index in decimal, zero-padded to key_bytes          key:000000001234
//! value  64-bit words, word i = mix(index) + i * STEP, little-endian, the last one cut to fit
//! ```
//!
//! The value is binary on purpose: `\r\n` inside a value is legal and finds servers that scan for it.

pub const PREFIX_BYTES: usize = 4;
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// Whether every index below `keys` fits the digits of a key of `key_bytes`.
pub fn key_fits(key_bytes: usize, keys: u64) -> bool {
    let digits = key_bytes.saturating_sub(PREFIX_BYTES) as u32;
    digits >= 1 && 10u64.checked_pow(digits).is_none_or(|limit| keys <= limit)
}

/// Writes `index` in decimal over all of `out`, zero-padded on the left.
pub fn write_digits(out: &mut [u8], index: u64) {
    if out.len() >= 8 && index < 100_000_000 {
        let (zeros, low) = out.split_at_mut(out.len() - 8);
        zeros.fill(b'0');
        low.copy_from_slice(&eight_digits(index).to_le_bytes());
        return;
    }
    let mut rest = index;
    for digit in out.iter_mut().rev() {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    debug_assert!(rest == 0, "the index has more digits than the key");
}

/// The eight decimal digits of `value` as ASCII, the most significant in the lowest byte. Splits into
/// two fours, four twos and eight ones, each step on all lanes of one word.
fn eight_digits(value: u64) -> u64 {
    let fours = (value / 10_000) | ((value % 10_000) << 32);
    let hundreds = ((fours * 10_486) >> 20) & 0x0000_007f_0000_007f;
    let twos = hundreds | ((fours - 100 * hundreds) << 16);
    let tens = ((twos * 103) >> 10) & 0x000f_000f_000f_000f;
    let ones = tens | ((twos - 10 * tens) << 8);
    ones + 0x3030_3030_3030_3030
}

pub fn write_value(out: &mut [u8], index: u64) {
    let mut word = mix(index);
    let mut chunks = out.chunks_exact_mut(8);
    for chunk in &mut chunks {
        chunk.copy_from_slice(&word.to_le_bytes());
        word = word.wrapping_add(STEP);
    }
    let tail = chunks.into_remainder();
    tail.copy_from_slice(&word.to_le_bytes()[..tail.len()]);
}

pub fn value_matches(value: &[u8], index: u64) -> bool {
    let mut word = mix(index);
    let mut chunks = value.chunks_exact(8);
    for chunk in &mut chunks {
        if chunk != word.to_le_bytes() {
            return false;
        }
        word = word.wrapping_add(STEP);
    }
    let tail = chunks.remainder();
    tail == &word.to_le_bytes()[..tail.len()]
}

/// The finaliser of SplitMix64.
fn mix(index: u64) -> u64 {
    let mut z = index.wrapping_add(STEP);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_equal_the_formatter() {
        for width in [1usize, 3, 8, 9, 12, 16] {
            for index in [0, 7, 9, 10, 99, 101, 9_999, 10_000, 99_999_999, 100_000_000, 123_456_789] {
                if 10u64.pow(width as u32) <= index {
                    continue;
                }
                let mut out = vec![b'x'; width];
                write_digits(&mut out, index);
                assert_eq!(String::from_utf8(out).unwrap(), format!("{index:0width$}"));
            }
        }
        for index in (0..100_000_000u64).step_by(9_973) {
            let mut out = [0; 12];
            write_digits(&mut out, index);
            assert_eq!(out, format!("{index:012}").as_bytes());
        }
    }

    #[test]
    fn a_key_must_hold_its_largest_index() {
        assert!(key_fits(16, 1_000_000_000_000));
        assert!(!key_fits(16, 1_000_000_000_001));
        assert!(key_fits(5, 10));
        assert!(!key_fits(4, 1));
    }

    #[test]
    fn values_match_only_their_own_key() {
        for size in [0usize, 1, 7, 8, 32, 1_001] {
            let mut value = vec![0; size];
            write_value(&mut value, 42);
            assert!(value_matches(&value, 42));
            if size > 0 {
                assert!(!value_matches(&value, 43));
                value[size - 1] ^= 1;
                assert!(!value_matches(&value, 42));
            }
        }
    }
}
