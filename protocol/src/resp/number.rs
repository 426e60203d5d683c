//! Decimal integers, written and read without the formatting machinery.

/// Appends `value` in decimal.
#[inline]
pub fn write_decimal(out: &mut Vec<u8>, value: i64) {
    if (0..10).contains(&value) {
        out.push(b'0' + value as u8);
        return;
    }
    out.extend_from_slice(format_decimal(&mut [0; 20], value));
}

/// Formats `value` in decimal into the end of `digits`.
#[inline]
pub fn format_decimal(digits: &mut [u8; 20], value: i64) -> &[u8] {
    let mut at = digits.len();
    let mut rest = value.unsigned_abs();
    loop {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    if value < 0 {
        at -= 1;
        digits[at] = b'-';
    }
    &digits[at..]
}

/// Reads a whole signed decimal as Redis's `string2ll` does: an optional `-`, no `+`, no spaces, no leading zeros, no
/// overflow; anything else is `None`.
#[inline]
pub fn read_decimal(text: &[u8]) -> Option<i64> {
    let (negative, digits) = match text {
        [b'-', rest @ ..] => (true, rest),
        rest => (false, rest),
    };
    match digits {
        [] => return None,
        [b'0'] => return (!negative).then_some(0),
        [b'0', ..] => return None,
        _ if digits.len() > 19 => return None,
        _ => {}
    }
    let mut value: u64 = 0;
    for &digit in digits {
        let digit = digit.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        // At most 19 digits: below 10^19, which fits in 64 bits.
        value = value * 10 + digit as u64;
    }
    if negative { (value <= 1 << 63).then(|| (value as i64).wrapping_neg()) } else { i64::try_from(value).ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals_round_trip_and_bad_ones_are_refused() {
        for value in [0, 1, 9, 10, -1, 42, i64::MAX, i64::MIN, 1 << 40] {
            let mut text = Vec::new();
            write_decimal(&mut text, value);
            assert_eq!(text, value.to_string().into_bytes());
            assert_eq!(read_decimal(&text), Some(value));
        }
        for bad in ["", "-", "+1", " 1", "1 ", "01", "-0", "00", "1a", "9223372036854775808", "-9223372036854775809"] {
            assert_eq!(read_decimal(bad.as_bytes()), None, "{bad:?}");
        }
    }
}
