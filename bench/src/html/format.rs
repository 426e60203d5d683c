//! Numbers as people read them: three significant digits, grouped thousands, units.

/// At least three significant digits, never fewer than the integer part has.
pub fn number(value: f64) -> String {
    if value.abs() >= 1e15 {
        return format!("{value:.2e}");
    }
    let digits = match value.abs() {
        size if size >= 99.95 || size == 0.0 => 0,
        size if size >= 9.995 => 1,
        size if size >= 0.01 => 2,
        _ => 4,
    };
    group(&format!("{value:.digits$}"))
}

/// The same without zeros at the end, for the ticks of an axis.
pub fn tick(value: f64) -> String {
    trim(number(value))
}

pub fn count(value: f64) -> String {
    if value.abs() >= 1e15 { number(value) } else { group(&format!("{value:.0}")) }
}

/// 1.23 M
pub fn short(value: f64) -> String {
    for (factor, prefix) in [(1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")] {
        if value.abs() >= factor * 0.9995 {
            return format!("{} {prefix}", number(value / factor));
        }
    }
    number(value)
}

pub fn short_tick(value: f64) -> String {
    let text = short(value);
    match text.split_once(' ') {
        Some((digits, prefix)) => format!("{} {prefix}", trim(digits.to_string())),
        None => trim(text),
    }
}

pub fn per_second(value: f64) -> String {
    match short(value) {
        text if text.contains(' ') => format!("{text}/s"),
        text => format!("{text} /s"),
    }
}

pub fn nanoseconds(value: f64) -> String {
    format!("{} ns", number(value))
}

pub fn microseconds(value: f64) -> String {
    let (value, unit) = microsecond_unit(value);
    format!("{} {unit}", number(value))
}

pub fn microsecond_tick(value: f64) -> String {
    let (value, unit) = microsecond_unit(value);
    format!("{} {unit}", tick(value))
}

fn microsecond_unit(value: f64) -> (f64, &'static str) {
    match value.abs() {
        size if size >= 999.5e3 => (value / 1e6, "s"),
        size if size >= 999.5 => (value / 1e3, "ms"),
        _ => (value, "\u{b5}s"),
    }
}

pub fn percent(share: f64) -> String {
    format!("{} %", number(share * 100.0))
}

pub fn percent_tick(share: f64) -> String {
    format!("{} %", tick(share * 100.0))
}

/// 0.999 as 99.9 %: all the nines matter.
pub fn quantile(quantile: f64) -> String {
    format!("{} %", trim(format!("{:.5}", quantile * 100.0)))
}

pub fn bytes(value: f64) -> String {
    for (factor, unit) in [(1073741824.0, "GiB"), (1048576.0, "MiB"), (1024.0, "KiB")] {
        if value.abs() >= factor {
            return format!("{} {unit}", number(value / factor));
        }
    }
    format!("{} bytes", number(value))
}

fn trim(text: String) -> String {
    if text.contains('.') && !text.contains('e') {
        text.trim_end_matches('0').trim_end_matches('.').to_string()
    } else {
        text
    }
}

fn group(text: &str) -> String {
    let (integer, fraction) = text.split_once('.').map_or((text, None), |(integer, rest)| (integer, Some(rest)));
    let (sign, digits) = integer.strip_prefix('-').map_or(("", integer), |digits| ("-", digits));
    let mut grouped = sign.to_string();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    if let Some(fraction) = fraction {
        grouped.push('.');
        grouped.push_str(fraction);
    }
    grouped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_three_digits() {
        let texts = [0.0, 0.00123, 1.5, 12.34, 99.97, 862.4, -4804.5, 14163621.5, 1e300].map(number);
        assert_eq!(texts, ["0", "0.0012", "1.50", "12.3", "100", "862", "-4,804", "14,163,622", "1.00e300"]);
    }

    #[test]
    fn units_follow_the_size() {
        assert_eq!([150.0, 1500.0, 2.5e6].map(microseconds), ["150 \u{b5}s", "1.50 ms", "2.50 s"]);
        assert_eq!([500.0, 999_999.0, 14.2e6].map(short), ["500", "1.00 M", "14.2 M"]);
        assert_eq!([0.0, 200e3, 1.5e6, 1e9].map(short_tick), ["0", "200 k", "1.5 M", "1 G"]);
        assert_eq!([100.0, 3.0 * 1048576.0].map(bytes), ["100 bytes", "3.00 MiB"]);
        assert_eq!([0.0, 0.9, 0.999, 0.99999].map(quantile), ["0 %", "90 %", "99.9 %", "99.999 %"]);
    }
}
