//! The kinds of values: words to a checked [`Value`], and back to the text CONFIG GET shows.
//!
//! The problems are worded exactly as Redis 7 words them, because clients and tests compare them.

use super::{Cores, OutputLimit, OutputLimits};

/// What a parameter's value may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `yes` or `no`.
    Bool,
    Integer {
        min: i64,
        max: i64,
    },
    /// File permissions.
    Octal {
        max: u32,
    },
    /// Bytes, with a unit or without: `1k` is 1,000, `1kb` is 1,024.
    Memory {
        min: u64,
        max: u64,
    },
    /// Bytes, or `5%`.
    MemoryOrPercent,
    /// A decimal from 0 to 1; in steps of a millionth.
    Probability,
    /// One of these words.
    Enum(&'static [&'static str]),
    Text,
    /// A text that is not empty.
    Path,
    /// A file name without a directory.
    FileName,
    /// Any bytes, not to be repeated in messages.
    Secret,
    /// `default`, or any of `save nosave now force`.
    ShutdownFlags,
    Addresses,
    /// `<seconds> <changes>` pairs.
    SavePoints,
    /// `<class> <hard> <soft> <soft seconds>`, one or more times.
    OutputLimits,
    OomScores,
    EventClasses,
    Percentiles,
    /// `<host> <port>`, or `no one`.
    Primary,
    /// `auto`, or a list as `0-3,6`.
    Cores,
    /// Whatever follows, of a directive that is refused as a whole or done elsewhere.
    Words,
}

/// A value that has passed its kind's checks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    Bool(bool),
    Number(i64),
    Octal(u32),
    Bytes(u64),
    Percent(u8),
    /// A probability.
    Millionths(u32),
    Word(&'static str),
    Words(Vec<String>),
    Text(String),
    Secret(Vec<u8>),
    Limits(OutputLimits),
    Cores(Cores),
}

/// Most `bind` addresses, as in Redis.
const ADDRESSES_MAX: usize = 16;
/// One past the highest core number that can be named.
const CORES_MAX: usize = 1024;
/// A probability is kept as so many parts.
pub(super) const MILLION: f64 = 1e6;
const ARITY: &str = "wrong number of arguments";

impl Kind {
    /// Whether several words may follow the name.
    pub fn takes_words(&self) -> bool {
        matches!(
            self,
            Kind::ShutdownFlags
                | Kind::Addresses
                | Kind::SavePoints
                | Kind::OutputLimits
                | Kind::OomScores
                | Kind::Percentiles
                | Kind::Primary
                | Kind::Words
        )
    }

    /// What stands for the value in `--help`.
    pub fn placeholder(&self) -> &'static str {
        match self {
            Kind::Bool => "yes|no",
            Kind::Integer { .. } => "number",
            Kind::Octal { .. } => "octal",
            Kind::Memory { .. } => "bytes",
            Kind::MemoryOrPercent => "bytes|percent",
            Kind::Probability => "probability",
            Kind::Enum(_) => "word",
            Kind::Text => "text",
            Kind::Path | Kind::FileName => "path",
            Kind::Secret => "password",
            Kind::ShutdownFlags => "flag ...",
            Kind::Addresses => "address ...",
            Kind::SavePoints => "seconds changes ...",
            Kind::OutputLimits => "class hard soft seconds ...",
            Kind::OomScores => "primary replica child",
            Kind::EventClasses => "letters",
            Kind::Percentiles => "percentile ...",
            Kind::Primary => "host port",
            Kind::Cores => "auto|list",
            Kind::Words => "word ...",
        }
    }

    /// Checks the words of a directive. `current` is the row's text so far, for the kinds that
    /// add to it; `save` does so only at start.
    pub(super) fn parse(&self, words: &[&[u8]], current: &str, at_start: bool) -> Result<Value, String> {
        // An empty word alone means "none" for the kinds that take many.
        let words = match words {
            [b""] if matches!(self, Kind::Addresses | Kind::SavePoints | Kind::Percentiles) => &[],
            other => other,
        };
        match self {
            Kind::ShutdownFlags => return shutdown_flags(words),
            Kind::Addresses if words.len() > ADDRESSES_MAX => {
                return Err("Too many bind addresses specified.".into());
            }
            Kind::Addresses | Kind::Words => {
                let texts: Result<_, _> = words.iter().map(|word| utf8(word)).collect();
                return texts.map(Value::Words);
            }
            Kind::SavePoints => return save_points(words, if at_start { current } else { "" }),
            Kind::OutputLimits => return output_limits(words, current),
            Kind::OomScores => return oom_scores(words),
            Kind::Percentiles => return percentiles(words),
            Kind::Primary => return primary(words),
            _ => {}
        }
        let [word] = *words else {
            return Err(ARITY.into());
        };
        match *self {
            Kind::Bool if word.eq_ignore_ascii_case(b"yes") => Ok(Value::Bool(true)),
            Kind::Bool if word.eq_ignore_ascii_case(b"no") => Ok(Value::Bool(false)),
            Kind::Bool => Err("argument must be 'yes' or 'no'".into()),
            Kind::Integer { min, max } => {
                let number = integer(word).ok_or("argument couldn't be parsed into an integer")?;
                within(number, min, max).map(Value::Number)
            }
            Kind::Octal { max } => {
                let digits = std::str::from_utf8(word).ok();
                let number = digits.and_then(|digits| u32::from_str_radix(digits, 8).ok());
                let number = number.ok_or("argument couldn't be parsed as an octal number")?;
                if number > max {
                    return Err(format!("argument must be between 0 and {max:o} inclusive"));
                }
                Ok(Value::Octal(number))
            }
            Kind::Memory { min, max } => {
                let bytes = memory(word).ok_or("argument must be a memory value")?;
                within(bytes, min, max).map(Value::Bytes)
            }
            Kind::MemoryOrPercent => memory_or_percent(word),
            Kind::Probability => probability(word).map(Value::Millionths),
            Kind::Enum(names) => one_of(names, word).map(Value::Word).ok_or_else(|| not_one_of(names)),
            Kind::Text => utf8(word).map(Value::Text),
            Kind::Path if word.is_empty() => Err("can't be empty".into()),
            Kind::FileName if word.is_empty() => Err("can't be empty".into()),
            Kind::FileName if word.contains(&b'/') => Err("can't be a path, just a filename".into()),
            Kind::Path | Kind::FileName => utf8(word).map(Value::Text),
            Kind::Secret => Ok(Value::Secret(word.to_vec())),
            Kind::EventClasses => match word.iter().all(|byte| EVENT_CLASSES.contains(byte)) {
                true => utf8(word).map(Value::Text),
                false => Err("Invalid event class character. Use 'Ag$lshzxeKEtmdn'.".into()),
            },
            Kind::Cores => cores(word).map(Value::Cores),
            Kind::ShutdownFlags
            | Kind::Addresses
            | Kind::SavePoints
            | Kind::OutputLimits
            | Kind::OomScores
            | Kind::Percentiles
            | Kind::Primary
            | Kind::Words => unreachable!("kinds of many words were answered above"),
        }
    }
}

impl Value {
    /// As CONFIG GET shows it: memory in bytes, lists with single spaces.
    pub fn text(&self) -> String {
        match self {
            Value::Bool(true) => "yes".into(),
            Value::Bool(false) => "no".into(),
            Value::Number(number) => number.to_string(),
            Value::Octal(number) => format!("{number:o}"),
            Value::Bytes(bytes) => bytes.to_string(),
            Value::Percent(percent) => format!("{percent}%"),
            Value::Millionths(millionths) => (f64::from(*millionths) / MILLION).to_string(),
            Value::Word(word) => (*word).into(),
            Value::Words(words) => words.join(" "),
            Value::Text(text) => text.clone(),
            Value::Secret(bytes) => String::from_utf8_lossy(bytes).into_owned(),
            Value::Limits(limits) => {
                let classes = [("normal", limits.normal), ("slave", limits.replica), ("pubsub", limits.pubsub)];
                let classes = classes.map(|(class, limit)| {
                    format!("{class} {} {} {}", limit.hard_bytes, limit.soft_bytes, limit.soft_s)
                });
                classes.join(" ")
            }
            Value::Cores(Cores::Auto) => "auto".into(),
            Value::Cores(Cores::List(cores)) => cores.iter().map(usize::to_string).collect::<Vec<_>>().join(","),
        }
    }

    // What the rows of the table take their fields from. A row asks for what its own kind gives,
    // and building the defaults asks every row once.

    pub(super) fn millionths(&self) -> u32 {
        let Value::Millionths(value) = self else { panic!("the row is not a probability: {self:?}") };
        *value
    }

    pub(super) fn bool(&self) -> bool {
        let Value::Bool(value) = self else { panic!("the row is not a bool: {self:?}") };
        *value
    }

    pub(super) fn number<T: TryFrom<i64>>(&self) -> T {
        let Value::Number(number) = self else { panic!("the row is not a number: {self:?}") };
        T::try_from(*number).ok().expect("the row's bounds fit its field")
    }

    pub(super) fn bytes(&self) -> u64 {
        let Value::Bytes(bytes) = self else { panic!("the row is not a memory size: {self:?}") };
        *bytes
    }
}

const EVENT_CLASSES: &[u8] = b"Ag$lshzxeKEtmdn";
const SHUTDOWN_FLAGS: &[&str] = &["default", "save", "nosave", "now", "force"];

fn utf8(word: &[u8]) -> Result<String, String> {
    let text = std::str::from_utf8(word).map_err(|_| "argument must be UTF-8 text")?;
    if text.contains('\0') {
        return Err("argument must not contain a zero byte".into());
    }
    Ok(text.to_string())
}

fn within<T: PartialOrd + std::fmt::Display>(number: T, min: T, max: T) -> Result<T, String> {
    match number < min || number > max {
        true => Err(format!("argument must be between {min} and {max} inclusive")),
        false => Ok(number),
    }
}

/// Redis's `string2ll`: no space, no plus sign, no leading zero.
fn integer(word: &[u8]) -> Option<i64> {
    match word {
        [b'0'] => {}
        [b'1'..=b'9', ..] | [b'-', b'1'..=b'9', ..] => {}
        _ => return None,
    }
    std::str::from_utf8(word).ok()?.parse().ok()
}

/// Redis's `memtoull`, except that a bare unit, nothing at all, and what does not fit in 64 bits
/// are refused, where Redis takes the first two for 0 and lets the third wrap around.
pub(super) fn memory(word: &[u8]) -> Option<u64> {
    let digits = word.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let unit: u64 = match word[digits..].to_ascii_lowercase().as_slice() {
        b"" | b"b" => 1,
        b"k" => 1000,
        b"kb" => 1 << 10,
        b"m" => 1000 * 1000,
        b"mb" => 1 << 20,
        b"g" => 1000 * 1000 * 1000,
        b"gb" => 1 << 30,
        _ => return None,
    };
    let number: u64 = std::str::from_utf8(&word[..digits]).ok()?.parse().ok()?;
    number.checked_mul(unit)
}

fn probability(word: &[u8]) -> Result<u32, String> {
    let number: Option<f64> = std::str::from_utf8(word).ok().and_then(|word| word.parse().ok());
    match number {
        Some(number) if (0.0..=1.0).contains(&number) => Ok((number * MILLION).round() as u32),
        _ => Err("argument must be a probability from 0 to 1".into()),
    }
}

fn memory_or_percent(word: &[u8]) -> Result<Value, String> {
    if let Some(bytes) = memory(word) {
        return within(bytes, 0, i64::MAX as u64).map(Value::Bytes);
    }
    let percent = word.strip_suffix(b"%").and_then(integer).filter(|percent| *percent >= 0);
    match percent {
        None => Err("argument must be a memory or percent value".into()),
        Some(percent @ 0..=100) => Ok(Value::Percent(percent as u8)),
        Some(_) => Err("percentage argument must be less or equal to 100".into()),
    }
}

fn one_of(names: &[&'static str], word: &[u8]) -> Option<&'static str> {
    names.iter().find(|name| word.eq_ignore_ascii_case(name.as_bytes())).copied()
}

fn not_one_of(names: &[&str]) -> String {
    format!("argument(s) must be one of the following: {}", names.join(", "))
}

fn shutdown_flags(words: &[&[u8]]) -> Result<Value, String> {
    let mut set = [false; SHUTDOWN_FLAGS.len()];
    for word in words {
        let flag = SHUTDOWN_FLAGS.iter().position(|f| word.eq_ignore_ascii_case(f.as_bytes()));
        set[flag.ok_or_else(|| not_one_of(SHUTDOWN_FLAGS))?] = true;
    }
    if words.is_empty() {
        return Err(not_one_of(SHUTDOWN_FLAGS));
    }
    if set[1] && set[2] {
        return Err("shutdown options SAVE and NOSAVE can't be used simultaneously".into());
    }
    // "default" is the absence of the others.
    set[0] = !set[1..].contains(&true);
    let names = SHUTDOWN_FLAGS.iter().zip(set).filter(|(_, set)| *set);
    Ok(Value::Words(names.map(|(name, _)| name.to_string()).collect()))
}

fn save_points(words: &[&[u8]], current: &str) -> Result<Value, String> {
    if words.is_empty() {
        return Ok(Value::Words(Vec::new()));
    }
    let mut points: Vec<String> = current.split_ascii_whitespace().map(String::from).collect();
    for pair in words.chunks(2) {
        let numbers = match pair {
            [seconds, changes] => integer(seconds).zip(integer(changes)),
            _ => None,
        };
        let Some((seconds @ 1.., changes @ 0..)) = numbers else {
            return Err("Invalid save parameters".into());
        };
        points.extend([seconds.to_string(), changes.to_string()]);
    }
    Ok(Value::Words(points))
}

fn output_limits(words: &[&[u8]], current: &str) -> Result<Value, String> {
    let mut limits = OutputLimits::default();
    let current: Vec<&[u8]> = current.split_ascii_whitespace().map(str::as_bytes).collect();
    for words in [&current[..], words] {
        if !words.len().is_multiple_of(4) {
            return Err("Wrong number of arguments in buffer limit configuration.".into());
        }
        for group in words.chunks_exact(4) {
            let class = match group[0].to_ascii_lowercase().as_slice() {
                b"normal" => &mut limits.normal,
                b"slave" | b"replica" => &mut limits.replica,
                b"pubsub" => &mut limits.pubsub,
                _ => {
                    return Err("Invalid client class specified in buffer limit configuration.".into());
                }
            };
            let (Some(hard_bytes), Some(soft_bytes), Some(soft_s @ 0..)) =
                (memory(group[1]), memory(group[2]), integer(group[3]))
            else {
                return Err("Error in hard, soft or soft_seconds setting in buffer limit \
                            configuration."
                    .into());
            };
            *class = OutputLimit { hard_bytes, soft_bytes, soft_s: soft_s as u64 };
        }
    }
    Ok(Value::Limits(limits))
}

fn oom_scores(words: &[&[u8]]) -> Result<Value, String> {
    if words.len() != 3 {
        return Err(ARITY.into());
    }
    let scores = words.iter().map(|word| match integer(word) {
        Some(score @ -2000..=2000) => Ok(score.to_string()),
        _ => Err("Invalid oom-score-adj-values, elements must be between -2000 and 2000."),
    });
    Ok(Value::Words(scores.collect::<Result<_, _>>()?))
}

fn percentiles(words: &[&[u8]]) -> Result<Value, String> {
    let percentiles = words.iter().map(|word| {
        let number = std::str::from_utf8(word).ok().and_then(|word| word.parse::<f64>().ok());
        match number.filter(|number| !number.is_nan()) {
            None => Err("Invalid latency-tracking-info-percentiles parameters"),
            Some(number) if (0.0..=100.0).contains(&number) => Ok(number.to_string()),
            Some(_) => Err("latency-tracking-info-percentiles parameters should sit between [0.0,100.0]"),
        }
    });
    Ok(Value::Words(percentiles.collect::<Result<_, _>>()?))
}

fn primary(words: &[&[u8]]) -> Result<Value, String> {
    match words {
        // How the row's own default, "nobody", is written.
        [] | [b""] => Ok(Value::Words(Vec::new())),
        [no, one] if no.eq_ignore_ascii_case(b"no") && one.eq_ignore_ascii_case(b"one") => Ok(Value::Words(Vec::new())),
        [host, port] => match integer(port) {
            Some(0..=65535) => Ok(Value::Words(vec![utf8(host)?, utf8(port)?])),
            _ => Err("Invalid master port".into()),
        },
        _ => Err(ARITY.into()),
    }
}

fn cores(word: &[u8]) -> Result<Cores, String> {
    const PROBLEM: &str = "argument must be 'auto', or up to 1024 cores below 1024 as in '0-3,6'";
    if word.eq_ignore_ascii_case(b"auto") {
        return Ok(Cores::Auto);
    }
    let mut cores = Vec::new();
    for part in word.split(|byte| *byte == b',') {
        let mut ends = part
            .splitn(2, |byte| *byte == b'-')
            .map(|end| integer(end).and_then(|end| usize::try_from(end).ok()).filter(|end| *end < CORES_MAX));
        let first = ends.next().flatten().ok_or(PROBLEM)?;
        let last = ends.next().unwrap_or(Some(first)).ok_or(PROBLEM)?;
        if last < first {
            return Err(PROBLEM.into());
        }
        // A core may come twice: two shards share it (tests of several shards on a small machine).
        cores.extend(first..=last);
        if cores.len() > CORES_MAX {
            return Err(PROBLEM.into());
        }
    }
    Ok(Cores::List(cores))
}
