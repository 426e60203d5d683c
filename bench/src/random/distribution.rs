//! How the command line names a distribution of keys.

use crate::trace::{Trace, TraceSpec};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// Which keys are asked for, and how often. `Display` writes what `FromStr` reads.
#[derive(Clone, Debug, PartialEq)]
pub enum Distribution {
    Uniform,
    /// The exponent, above 0.
    Zipf(f64),
    /// The hot keys' shares of the traffic and of the keys, as fractions above 0 and up to 1.
    Hotspot {
        traffic: f64,
        keys: f64,
    },
    /// Each thread walks over its own interleaved share of the keys, again and again.
    Sequential,
    /// The requests of a file, in its order. Loaded when the name is parsed.
    Trace(Arc<Trace>),
}

impl Distribution {
    /// How many keys there are, if the distribution itself decides that, as a trace does.
    pub fn keys(&self) -> Option<u64> {
        match self {
            Distribution::Trace(trace) => Some(trace.distinct_keys()),
            _ => None,
        }
    }
}

impl FromStr for Distribution {
    type Err = String;

    fn from_str(text: &str) -> Result<Distribution, String> {
        let (name, rest) = match text.split_once(':') {
            Some((name, rest)) => (name, Some(rest)),
            None => (text, None),
        };
        match (name, rest) {
            ("uniform", None) => Ok(Distribution::Uniform),
            ("sequential", None) => Ok(Distribution::Sequential),
            ("zipf", Some(rest)) => match rest.parse::<f64>() {
                Ok(exponent) if exponent > 0.0 && exponent.is_finite() => Ok(Distribution::Zipf(exponent)),
                _ => Err(format!("'{text}': the exponent must be a number above 0, as in zipf:0.99")),
            },
            ("hotspot", Some(rest)) => {
                let shares = rest.split_once(':').and_then(|(traffic, keys)| Some((share(traffic)?, share(keys)?)));
                match shares {
                    Some((traffic, keys)) => Ok(Distribution::Hotspot { traffic, keys }),
                    None => Err(format!(
                        "'{text}': the shares of the traffic and of the keys must be above 0 and up to 1 or 100%, as \
                         in hotspot:0.9:0.1 or hotspot:90%:10%"
                    )),
                }
            }
            ("trace", Some(rest)) => {
                let trace = rest.parse::<TraceSpec>()?.load().map_err(|error| error.to_string())?;
                Ok(Distribution::Trace(Arc::new(trace)))
            }
            _ => Err(format!(
                "'{text}' is none of uniform, sequential, zipf:EXPONENT, hotspot:TRAFFIC:KEYS and \
                 trace:FILE[:twitter|:csv|:keys[:OPTIONS]]"
            )),
        }
    }
}

/// A fraction, or a number of percent; above 0 and up to all.
fn share(text: &str) -> Option<f64> {
    let share = match text.strip_suffix('%') {
        Some(percent) => percent.parse::<f64>().ok()? / 100.0,
        None => text.parse().ok()?,
    };
    (share > 0.0 && share <= 1.0).then_some(share)
}

impl fmt::Display for Distribution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Distribution::Uniform => f.write_str("uniform"),
            Distribution::Zipf(exponent) => write!(f, "zipf:{exponent}"),
            Distribution::Hotspot { traffic, keys } => write!(f, "hotspot:{traffic}:{keys}"),
            Distribution::Sequential => f.write_str("sequential"),
            Distribution::Trace(trace) => write!(f, "trace:{}", trace.spec()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distributions_parse() {
        assert_eq!("zipf:0.99".parse(), Ok(Distribution::Zipf(0.99)));
        assert_eq!("uniform".parse(), Ok(Distribution::Uniform));
        assert_eq!("sequential".parse(), Ok(Distribution::Sequential));
        let hotspot = Distribution::Hotspot { traffic: 0.9, keys: 0.1 };
        assert_eq!("hotspot:0.9:0.1".parse(), Ok(hotspot.clone()));
        assert_eq!("hotspot:90%:10%".parse(), Ok(hotspot));
        assert_eq!("hotspot:1:100%".parse(), Ok(Distribution::Hotspot { traffic: 1.0, keys: 1.0 }));
    }

    #[test]
    fn what_is_no_distribution_is_refused() {
        let wrong = [
            "",
            "normal",
            "uniform:",
            "sequential:1",
            "zipf",
            "zipf:",
            "zipf:0",
            "zipf:-1",
            "zipf:inf",
            "zipf:NaN",
            "hotspot",
            "hotspot:0.9",
            "hotspot:0:0.1",
            "hotspot:0.9:0",
            "hotspot:1.1:0.1",
            "hotspot:0.9:101%",
            "hotspot:NaN:0.1",
            "hotspot:-1:0.1",
            "hotspot:0.9:0.1:0.1",
            "trace",
            "trace:",
            "trace:/no/such/file:keys",
        ];
        for text in wrong {
            assert!(text.parse::<Distribution>().is_err(), "{text}");
        }
    }

    #[test]
    fn names_are_read_back() {
        let data = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data");
        let mut names: Vec<String> =
            ["uniform", "sequential", "zipf:0.99", "hotspot:90%:0.123"].map(String::from).into();
        for rest in ["twitter.csv", "twitter.csv:twitter:limit=7", "libcachesim.csv:csv", "keys.txt:keys"] {
            names.push(format!("trace:{data}/{rest}"));
        }
        for name in names {
            let distribution: Distribution = name.parse().unwrap();
            let shown = distribution.to_string();
            assert_eq!(shown.parse(), Ok(distribution), "{name} as {shown}");
        }
    }
}
