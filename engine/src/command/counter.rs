//! Strings that are numbers: INCR and its relatives.

use torc_protocol::resp::number::{format_decimal, read_decimal};
use torc_protocol::resp::reply::ReplyWriter;

use super::parse::{float, integer};
use super::{Call, Error, Handler, ONE_KEY, Outcome, Result, Route, Row, flag};
use crate::store::{Expiry, Key, NewValue, Store};

const fn row(name: &'static str, arity: i32, handler: Handler, since: &'static str) -> Row {
    Row {
        name,
        arity,
        flags: flag::WRITE | flag::DENYOOM | flag::FAST | flag::STRING,
        keys: ONE_KEY,
        route: Route::Key,
        handler,
        group: "string",
        summary: "",
        complexity: "O(1)",
        since,
        subcommands: &[],
    }
}

pub(super) const ROWS: &[Row] = &[
    Row {
        summary: "Increments the integer value of a key by one. Uses 0 as initial value if the key doesn't exist.",
        ..row("incr", 2, Handler::Write(incr), "1.0.0")
    },
    Row {
        summary: "Decrements the integer value of a key by one. Uses 0 as initial value if the key doesn't exist.",
        ..row("decr", 2, Handler::Write(decr), "1.0.0")
    },
    Row {
        summary: "Increments the integer value of a key by a number. Uses 0 as initial value if the key doesn't exist.",
        ..row("incrby", 3, Handler::Write(incrby), "1.0.0")
    },
    Row {
        summary: "Decrements a number from the integer value of a key. Uses 0 as initial value if the key doesn't exist.",
        ..row("decrby", 3, Handler::Write(decrby), "1.0.0")
    },
    Row {
        summary: "Increment the floating point value of a key by a number. Uses 0 as initial value if the key doesn't exist.",
        ..row("incrbyfloat", 3, Handler::Write(incrbyfloat), "2.6.0")
    },
];

fn incr(call: &Call<'_>, store: &mut Store, reply: &mut ReplyWriter<'_>) -> Result {
    add(call, store, reply, 1)
}

fn decr(call: &Call<'_>, store: &mut Store, reply: &mut ReplyWriter<'_>) -> Result {
    add(call, store, reply, -1)
}

fn incrby(call: &Call<'_>, store: &mut Store, reply: &mut ReplyWriter<'_>) -> Result {
    let by = integer(call.args().get(2))?;
    add(call, store, reply, by)
}

fn decrby(call: &Call<'_>, store: &mut Store, reply: &mut ReplyWriter<'_>) -> Result {
    let by = integer(call.args().get(2))?.checked_neg().ok_or(Error::DecrementOverflow)?;
    add(call, store, reply, by)
}

fn add(call: &Call<'_>, store: &mut Store, reply: &mut ReplyWriter<'_>, by: i64) -> Result {
    let key = Key { db: call.db, hash: call.hash, bytes: call.args().get(1) };
    let old = match store.peek(key, call.now) {
        Some(entry) => read_decimal(entry.value().bytes()).ok_or(Error::NotAnInteger)?,
        None => 0,
    };
    let new = old.checked_add(by).ok_or(Error::Overflow)?;
    let mut digits = [0; 20];
    store.set(key, NewValue::from(format_decimal(&mut digits, new)), Expiry::Keep, call.now);
    reply.integer(new);
    Ok(Outcome::Done)
}

fn incrbyfloat(call: &Call<'_>, store: &mut Store, reply: &mut ReplyWriter<'_>) -> Result {
    let key = Key { db: call.db, hash: call.hash, bytes: call.args().get(1) };
    let old = store.peek(key, call.now).map_or(&b"0"[..], |entry| entry.value().bytes());
    let text = add_floats(old, call.args().get(2))?;
    store.set(key, NewValue::from(text.as_bytes()), Expiry::Keep, call.now);
    reply.bulk(text.as_bytes());
    Ok(Outcome::Done)
}

/// Adds two decimal numbers and prints the sum as Redis does: at most 17 digits after the point, no trailing zeros, no
/// exponent. Redis adds with 80 bits, so that 0.1 and 0.2 make 0.3. Here they are added exactly, as multiples of 10^-17;
/// those too large or too fine for that, with 64 bits.
fn add_floats(old: &[u8], by: &[u8]) -> std::result::Result<String, Error> {
    let sum = float(old)? + float(by)?;
    if !sum.is_finite() {
        return Err(Error::NanOrInfinity);
    }
    if let (Some(old), Some(by)) = (scaled(old), scaled(by))
        && let Some(sum) = old.checked_add(by)
    {
        let (whole, fraction) = (sum.unsigned_abs() / SCALE, sum.unsigned_abs() % SCALE);
        let sign = if sum < 0 { "-" } else { "" };
        let text = format!("{sign}{whole}.{fraction:017}");
        return Ok(text.trim_end_matches('0').trim_end_matches('.').to_owned());
    }
    let text = format!("{sum:.17}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    Ok(if text == "-0" { "0".to_owned() } else { text.to_owned() })
}

const SCALE: u128 = 100_000_000_000_000_000;

/// A decimal, with or without exponent, as a multiple of 10^-17; `None` if it has more places or is too large.
fn scaled(text: &[u8]) -> Option<i128> {
    let text = std::str::from_utf8(text).ok()?;
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let (digits, exponent) = digits.split_once(['e', 'E']).unwrap_or((digits, "0"));
    let exponent = exponent.parse::<i32>().ok()?;
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let plain = |digits: &str| digits.bytes().all(|byte| byte.is_ascii_digit());
    if !plain(whole) || !plain(fraction) || whole.len() > 19 || fraction.len() > 17 {
        return None;
    }
    let digits = format!("0{whole}{fraction}").parse::<i128>().ok()?;
    let places = exponent.checked_add(17 - fraction.len() as i32)?;
    let number = digits.checked_mul(10i128.checked_pow(u32::try_from(places).ok()?)?)?;
    // Past 64 bits Redis rounds too.
    (number / SCALE as i128 <= u64::MAX as i128).then_some(if negative { -number } else { number })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_are_added_and_printed_as_redis_does() {
        let cases = [
            ("10.5", "0.1", "10.6"),
            ("0.1", "0.2", "0.3"),
            ("5.0e3", "2.0e2", "5200"),
            ("5.6", "1e2", "105.6"),
            ("5.6", "-1E-1", "5.5"),
            ("1", "2", "3"),
            ("0", "-1.5", "-1.5"),
            ("-1.5", "1.5", "0"),
            ("3.0", "1.000000000000000005", "4"),
            ("1e20", "1", "100000000000000000000"),
        ];
        for (old, by, sum) in cases {
            assert_eq!(add_floats(old.as_bytes(), by.as_bytes()).as_deref(), Ok(sum), "{old} + {by}");
        }
        for (old, by, error) in [
            ("a", "1", Error::NotAFloat),
            ("1", "", Error::NotAFloat),
            (" 1", "1", Error::NotAFloat),
            ("1", "inf", Error::NanOrInfinity),
            ("1e308", "1e308", Error::NanOrInfinity),
        ] {
            assert_eq!(add_floats(old.as_bytes(), by.as_bytes()), Err(error), "{old} + {by}");
        }
    }
}
