//! Reads fields which may be missing, null or nonsense.

use serde_json::Value;

pub fn number(value: &Value) -> Option<f64> {
    value.as_f64().filter(|number| number.is_finite())
}

/// A number which can be drawn: all that is measured here is at least 0, and nothing comes near the limit.
pub fn amount(value: &Value) -> Option<f64> {
    number(value).filter(|number| (0.0..=1e15).contains(number))
}

/// Strings, numbers and truth values as text. Control characters, which no document may hold, become visible.
pub fn text(value: &Value) -> Option<String> {
    let text = match value {
        Value::String(text) => text.trim().to_string(),
        Value::Number(number) => number.to_string(),
        Value::Bool(truth) => truth.to_string(),
        _ => String::new(),
    };
    let visible = |c: char| {
        let allowed = c == '\n' || !(c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}'));
        if allowed { c } else { char::REPLACEMENT_CHARACTER }
    };
    Some(text.chars().map(visible).collect()).filter(|text: &String| !text.is_empty())
}

pub fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// A median over rounds with the smallest and the largest of them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    pub median: f64,
    pub low: f64,
    pub high: f64,
}

pub fn spread(value: &Value) -> Option<Spread> {
    let median = amount(&value["median"])?;
    let low = amount(&value["min"]).unwrap_or(median).min(median);
    let high = amount(&value["max"]).unwrap_or(median).max(median);
    Some(Spread { median, low, high })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn nonsense_is_as_good_as_missing() {
        for nonsense in [json!(null), json!(-1), json!(1e300), json!("12"), json!([1]), json!({})] {
            assert_eq!(amount(&nonsense), None, "{nonsense}");
            assert_eq!(spread(&json!({ "median": nonsense, "min": 1, "max": 2 })), None);
        }
        assert_eq!(list(&json!({ "a": 1 })), &[] as &[Value]);
        assert_eq!(text(&json!("  ")), None);
    }

    #[test]
    fn a_spread_encloses_its_median() {
        let expected = Some(Spread { median: 2.0, low: 2.0, high: 2.0 });
        assert_eq!(spread(&json!({ "median": 2, "min": 3, "max": null })), expected);
    }

    #[test]
    fn control_characters_become_visible() {
        assert_eq!(text(&json!("a\u{0}b\u{1b}c\u{ffff}")).unwrap(), "a\u{fffd}b\u{fffd}c\u{fffd}");
    }
}
