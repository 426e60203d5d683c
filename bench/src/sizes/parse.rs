//! How the command line names sizes: `32`, `1kb`, `range:100-1kb`, `zipf:64-1mb:1.5`, `lognormal:300:1.2`,
//! `list:100*90,1kb*9,64kb`. `Display` writes what `FromStr` reads, in bytes.

use super::{LOG_NORMAL_MAX, List, PowerLaw, SIZE_MAX, Sizes};
use std::fmt;
use std::str::FromStr;

impl FromStr for Sizes {
    type Err = String;

    fn from_str(text: &str) -> Result<Sizes, String> {
        let Some((name, rest)) = text.split_once(':') else {
            return size(text).map(Sizes::Fixed);
        };
        let shape = |text: &str, meaning: &str| match text.parse::<f64>() {
            Ok(number) if number > 0.0 && number <= 100.0 => Ok(number),
            _ => Err(format!("'{text}': the {meaning} must be a number above 0 and up to 100")),
        };
        match (name, rest.rsplit_once(':')) {
            ("range", None) => range(rest).map(|(low, high)| Sizes::Range { low, high }),
            ("zipf", Some((sizes, exponent))) => match range(sizes)? {
                (0, _) => Err(format!("'{text}': sizes in a zipf range begin with 1")),
                (low, high) => Ok(Sizes::Zipf(PowerLaw::new(low, high, shape(exponent, "exponent")?))),
            },
            ("lognormal", Some((median, sigma))) => match size(median)? {
                median @ 1..=LOG_NORMAL_MAX => Ok(Sizes::LogNormal { median, sigma: shape(sigma, "sigma")? }),
                _ => Err(format!("'{text}': the median must be from 1 byte to 1mb")),
            },
            ("list", None) => list(rest).map(Sizes::List),
            _ => Err(format!(
                "'{text}' is no size: 32, 1kb, range:LOW-HIGH, zipf:LOW-HIGH:EXPONENT, lognormal:MEDIAN:SIGMA or \
                 list:SIZE*WEIGHT,SIZE*WEIGHT"
            )),
        }
    }
}

/// As in Redis's settings `k` and `m` are powers of ten, and `kb` and `mb`, also written `kib` and `mib`, of two.
fn size(text: &str) -> Result<usize, String> {
    let wrong = || format!("'{text}' is no size from 0 to 512mb, as in 32, 10k (10000 bytes) or 10kb (10240 bytes)");
    let (digits, unit) = text.split_at(text.bytes().take_while(u8::is_ascii_digit).count());
    let unit: usize = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" => 1_000,
        "kb" | "kib" => 1 << 10,
        "m" => 1_000_000,
        "mb" | "mib" => 1 << 20,
        _ => return Err(wrong()),
    };
    let size = digits.parse::<usize>().ok().and_then(|number| number.checked_mul(unit));
    size.filter(|&size| size <= SIZE_MAX).ok_or_else(wrong)
}

fn range(text: &str) -> Result<(usize, usize), String> {
    let (low, high) = text.split_once('-').ok_or_else(|| format!("'{text}' is no range of sizes, as in 100-1kb"))?;
    match (size(low)?, size(high)?) {
        (low, high) if low <= high => Ok((low, high)),
        _ => Err(format!("'{text}': the lower size comes first")),
    }
}

/// A size without a weight has weight 1.
fn list(text: &str) -> Result<List, String> {
    let mut list = List { sizes: Vec::new(), weights_up_to: Vec::new() };
    let mut total = 0;
    for entry in text.split(',') {
        let (bytes, weight) = entry.split_once('*').unwrap_or((entry, "1"));
        match weight.parse::<u32>() {
            Ok(weight @ 1..) => total += u64::from(weight),
            _ => return Err(format!("'{entry}': the weight must be a whole number from 1 to 4294967295")),
        }
        list.sizes.push(size(bytes)?);
        list.weights_up_to.push(total);
    }
    Ok(list)
}

impl fmt::Display for Sizes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Sizes::Fixed(size) => write!(f, "{size}"),
            Sizes::Range { low, high } => write!(f, "range:{low}-{high}"),
            Sizes::Zipf(PowerLaw { low, high, exponent, .. }) => write!(f, "zipf:{low}-{high}:{exponent}"),
            Sizes::LogNormal { median, sigma } => write!(f, "lognormal:{median}:{sigma}"),
            Sizes::List(list) => {
                f.write_str("list")?;
                for (i, (size, weight)) in list.sizes.iter().zip(list.weights()).enumerate() {
                    write!(f, "{}{size}*{weight}", if i == 0 { ':' } else { ',' })?;
                }
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_parse() {
        for (text, expected) in [
            ("0", "0"),
            ("32", "32"),
            ("10k", "10000"),
            ("1kb", "1024"),
            ("1KiB", "1024"),
            ("2m", "2000000"),
            ("512MB", "536870912"),
            ("3MiB", "3145728"),
            ("range:100-1kb", "range:100-1024"),
            ("zipf:64-1mb:1.5", "zipf:64-1048576:1.5"),
            ("lognormal:300:1.2", "lognormal:300:1.2"),
            ("list:100*90,1kb*9,64kb", "list:100*90,1024*9,65536*1"),
        ] {
            let sizes: Sizes = text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(sizes.to_string(), expected);
            assert_eq!(expected.parse(), Ok(sizes));
        }
    }

    #[test]
    fn wrong_sizes_are_refused() {
        for text in [
            "",
            "x",
            "-1",
            "1.5",
            "k",
            "1gb",
            "1 kb",
            "513mb",
            "536870913",
            "99999999999999999999",
            "range:1",
            "range:2-1",
            "range:1-513mb",
            "range:1-2:3",
            "zipf:0-9:1",
            "zipf:1-9",
            "zipf:1-9:0",
            "zipf:1-9:NaN",
            "zipf:1-9:inf",
            "lognormal:0:1",
            "lognormal:2mb:1",
            "lognormal:5",
            "lognormal:5:-1",
            "list:",
            "list:5*0",
            "list:5*-1",
            "list:5*x",
            "list:5,",
            "list:5:6",
            "pareto:1-2",
            ":",
        ] {
            assert!(text.parse::<Sizes>().is_err(), "{text}");
        }
    }
}
