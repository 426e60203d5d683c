//! Arguments to values, as the commands share them.

use torc_protocol::resp::number::read_decimal;

use super::Error;
use crate::id::Millis;

/// A whole signed number.
#[inline]
pub fn integer(text: &[u8]) -> Result<i64, Error> {
    read_decimal(text).ok_or(Error::NotAnInteger)
}

/// How an expiry time is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeUnit {
    Seconds,
    Milliseconds,
    UnixSeconds,
    UnixMilliseconds,
}

/// An absolute time in milliseconds, which may be in the past or before the epoch; overflow is an invalid expire time.
#[inline]
pub fn absolute_ms(value: i64, unit: TimeUnit, now: Millis) -> Result<i64, Error> {
    let ms = match unit {
        TimeUnit::Seconds | TimeUnit::UnixSeconds => value.checked_mul(1000).ok_or(Error::InvalidExpire)?,
        TimeUnit::Milliseconds | TimeUnit::UnixMilliseconds => value,
    };
    match unit {
        TimeUnit::Seconds | TimeUnit::Milliseconds => ms.checked_add(now.0 as i64).ok_or(Error::InvalidExpire),
        TimeUnit::UnixSeconds | TimeUnit::UnixMilliseconds => Ok(ms),
    }
}

/// An expiry argument of SET, GETEX and the like, which must be positive.
#[inline]
pub fn positive_expiry(text: &[u8], unit: TimeUnit, now: Millis) -> Result<Millis, Error> {
    let value = integer(text)?;
    if value <= 0 {
        return Err(Error::InvalidExpire);
    }
    let ms = absolute_ms(value, unit, now)?;
    Ok(Millis(ms as u64))
}

/// A finite or infinite decimal fraction, without surrounding spaces (as Redis's `string2ld`).
pub fn float(text: &[u8]) -> Result<f64, Error> {
    let text = std::str::from_utf8(text).map_err(|_| Error::NotAFloat)?;
    let plain = text.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b'+' | b'-' | b'.' | b'e' | b'E'));
    let unsigned = text.trim_start_matches(['+', '-']);
    let infinite = unsigned.eq_ignore_ascii_case("inf") || unsigned.eq_ignore_ascii_case("infinity");
    if !plain && !infinite {
        return Err(Error::NotAFloat);
    }
    text.parse::<f64>().map_err(|_| Error::NotAFloat)
}
