//! What a command about one key must answer, and what the key holds then, in the plainest code possible. Unlike the model of a
//! client that owns its keys this knows the time only roughly, and gives every answer that is right: a key whose time may have come,
//! or that may have been evicted, is there or is not.

use std::hash::{Hash, Hasher};
use std::ops::Deref;
use std::rc::Rc;

use torc_protocol::resp::decode::Reply;

/// Bytes that many hold and that are compared and looked up often: with their hash.
#[derive(Clone, Debug)]
pub(crate) struct Blob(Rc<(u64, Vec<u8>)>);

impl From<Vec<u8>> for Blob {
    fn from(bytes: Vec<u8>) -> Blob {
        let mix = |hash: u64, word: u64| (hash.rotate_left(5) ^ word).wrapping_mul(0x517c_c1b7_2722_0a95);
        let (words, rest) = bytes.as_chunks::<8>();
        let hash = words.iter().fold(bytes.len() as u64, |hash, word| mix(hash, u64::from_le_bytes(*word)));
        let hash = rest.iter().fold(hash, |hash, byte| mix(hash, u64::from(*byte)));
        Blob(Rc::new((hash, bytes)))
    }
}

impl Deref for Blob {
    type Target = Vec<u8>;

    fn deref(&self) -> &Vec<u8> {
        &self.0.1
    }
}

impl PartialEq for Blob {
    fn eq(&self, other: &Blob) -> bool {
        Rc::ptr_eq(&self.0, &other.0) || self.0.0 == other.0.0 && self.0.1 == other.0.1
    }
}

impl Eq for Blob {}

impl Hash for Blob {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.0.hash(state);
    }
}

/// What a key holds.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Value {
    pub bytes: Blob,
    pub life: Life,
}

/// How long it is there: for ever, or until a time that is known to lie between two, milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Life {
    Forever,
    Until(i64, i64),
}

/// What the wall clock has said: the least and the most while a command was under way, and the most ever, milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Clock {
    pub least: i64,
    pub most: i64,
    pub ever: i64,
}

/// An answer.
#[derive(Clone, Debug, PartialEq)]
enum Answer {
    Ok,
    Null,
    Integer(i64),
    Between(i64, i64),
    Bulk(Blob),
    Simple(&'static str),
    /// An error that begins so.
    Error(&'static str),
    /// Whatever it is; of commands that tell how a key is kept.
    Any,
}

/// What may come of a command: the answer, and what the key holds then.
type Outcome = (Answer, Option<Value>);

const NOT_AN_INTEGER: &str = "ERR value is not an integer";
const NOT_A_FLOAT: &str = "ERR value is not a valid float";
/// Floats beyond this, and those that are no quarters, are not exact in all their digits.
const EXACT_FLOAT_MAX: f64 = 1e12;

/// What a key may hold behind a command (its name first, in lower case) that was answered so, if it held `before`; nothing: it
/// cannot be answered so. Without a reply any answer will do.
pub(crate) fn after(
    words: &[Blob],
    reply: Option<&Reply>,
    before: Option<&Value>,
    clock: Clock,
    evicts: bool,
) -> Vec<Option<Value>> {
    let mut all: Vec<Option<Value>> = Vec::new();
    for view in views(before, clock, evicts) {
        if !is_long_enough(words, reply, view) {
            continue;
        }
        for (answer, value) in outcomes(words, view, clock) {
            let value = match reply {
                None => value,
                Some(reply) if answer.allows(reply) => learn(words, reply, value),
                Some(_) => continue,
            };
            // Nobody found the key, and it was left to lie: a clock that goes back finds it.
            let lies = (value.is_none() && view.is_none() && before.is_some()).then(|| before.cloned());
            for value in [value].into_iter().chain(lies) {
                if !all.contains(&value) {
                    all.push(value);
                }
            }
        }
    }
    all
}

/// Whether the length that APPEND was answered is that of what it would make, which is not made for nothing.
fn is_long_enough(words: &[Blob], reply: Option<&Reply>, view: Option<&Value>) -> bool {
    match (words[0].as_slice(), reply) {
        (b"append", Some(Reply::Integer(length))) => {
            let before = view.map_or(0, |value| value.bytes.len());
            *length == (before + words[2].len()) as i64
        }
        _ => true,
    }
}

/// As what a key may appear.
pub(crate) fn views(before: Option<&Value>, clock: Clock, evicts: bool) -> Vec<Option<&Value>> {
    let Some(value) = before else { return vec![None] };
    let (may_live, may_be_gone) = match value.life {
        Life::Forever => (true, evicts),
        Life::Until(least, most) => (clock.least <= most, evicts || clock.ever >= least),
    };
    let mut views = Vec::new();
    if may_live {
        views.push(before);
    }
    if may_be_gone {
        views.push(None);
    }
    views
}

/// An exact time that is answered is known from then on.
fn learn(words: &[Blob], reply: &Reply, value: Option<Value>) -> Option<Value> {
    match (words[0].as_slice(), reply, value) {
        (b"pexpiretime", Reply::Integer(at), Some(value)) if *at > 0 => {
            Some(Value { life: Life::Until(*at, *at), ..value })
        }
        (b"incrbyfloat", Reply::Bulk(bytes), Some(value)) => Some(Value { bytes: bytes.clone().into(), ..value }),
        (_, _, value) => value,
    }
}

impl Answer {
    fn allows(&self, reply: &Reply) -> bool {
        match (self, reply) {
            (Answer::Ok, Reply::Simple(text)) => text == b"OK",
            (Answer::Null, Reply::Null) => true,
            (Answer::Integer(wanted), Reply::Integer(value)) => wanted == value,
            (Answer::Between(low, high), Reply::Integer(value)) => (low..=high).contains(&value),
            (Answer::Bulk(wanted), Reply::Bulk(bytes)) => **wanted == *bytes,
            (Answer::Simple(wanted), Reply::Simple(text)) => wanted.as_bytes() == text,
            (Answer::Error(wanted), Reply::Error(text)) => text.starts_with(wanted.as_bytes()),
            (Answer::Any, _) => true,
            _ => false,
        }
    }
}

fn number(word: &[u8]) -> i64 {
    std::str::from_utf8(word).ok().and_then(|text| text.parse().ok()).expect("the generator gives numbers")
}

/// The number that a value is, written as numbers are.
fn integer(bytes: &[u8]) -> Option<i64> {
    let number = std::str::from_utf8(bytes).ok()?.parse::<i64>().ok()?;
    (number.to_string().as_bytes() == bytes).then_some(number)
}

/// Whether a text is a float with a few digits, of which it is known how a sum is written.
pub(crate) fn is_exact_float(bytes: &[u8]) -> bool {
    let float = std::str::from_utf8(bytes).ok().and_then(|text| text.parse::<f64>().ok());
    float.is_none_or(|float| float.abs() < EXACT_FLOAT_MAX && (float * 4.0).fract() == 0.0)
}

fn bulk(value: Option<&Value>) -> Answer {
    value.map_or(Answer::Null, |value| Answer::Bulk(value.bytes.clone()))
}

/// A life that ends so many milliseconds from now.
fn within(ms: i64, clock: Clock) -> Life {
    Life::Until(clock.least.saturating_add(ms), clock.most.saturating_add(ms))
}

/// The life that an option such as `EX 10` gives.
fn life_of(option: &[u8], word: &[u8], clock: Clock) -> Life {
    let number = number(word);
    match option {
        b"EX" => within(number * 1000, clock),
        b"PX" => within(number, clock),
        b"EXAT" => Life::Until(number * 1000, number * 1000),
        _ => Life::Until(number, number),
    }
}

fn outcomes(words: &[Blob], view: Option<&Value>, clock: Clock) -> Vec<Outcome> {
    let held = view.cloned();
    let one = |answer: Answer, value: Option<Value>| vec![(answer, value)];
    let fresh = |bytes: &Blob| Some(Value { bytes: bytes.clone(), life: Life::Forever });
    let length = |value: Option<&Value>| value.map_or(0, |value| value.bytes.len() as i64);
    let life = view.map_or(Life::Forever, |value| value.life);
    match words[0].as_slice() {
        b"get" => one(bulk(view), held),
        b"strlen" => one(Answer::Integer(length(view)), held),
        b"exists" | b"touch" => one(Answer::Integer(view.is_some() as i64), held),
        b"type" => one(Answer::Simple(if view.is_some() { "string" } else { "none" }), held),
        b"del" | b"unlink" => one(Answer::Integer(view.is_some() as i64), None),
        b"flush" => one(Answer::Any, None),
        b"getdel" => one(bulk(view), None),
        b"getset" => one(bulk(view), fresh(&words[2])),
        b"set" => one_of_set(words, view, clock),
        b"setnx" => match view {
            Some(_) => one(Answer::Integer(0), held),
            None => one(Answer::Integer(1), fresh(&words[2])),
        },
        b"setex" => {
            one(Answer::Ok, Some(Value { bytes: words[3].clone(), life: within(number(&words[2]) * 1000, clock) }))
        }
        b"psetex" => one(Answer::Ok, Some(Value { bytes: words[3].clone(), life: within(number(&words[2]), clock) })),
        b"getex" => {
            let mut after = held;
            if let Some(value) = &mut after {
                match words.get(2).map(|word| word.as_slice()) {
                    None => {}
                    Some(b"PERSIST") => value.life = Life::Forever,
                    Some(option) => value.life = life_of(option, &words[3], clock),
                }
            }
            one(bulk(view), after)
        }
        b"append" => {
            let mut bytes = held.map_or(Vec::new(), |value| value.bytes.to_vec());
            bytes.extend_from_slice(&words[2]);
            one(Answer::Integer(bytes.len() as i64), Some(Value { bytes: bytes.into(), life }))
        }
        b"setrange" => {
            if words[3].is_empty() {
                return one(Answer::Integer(length(view)), held);
            }
            let offset = number(&words[2]) as usize;
            let mut bytes = held.map_or(Vec::new(), |value| value.bytes.to_vec());
            let end = offset + words[3].len();
            bytes.resize(bytes.len().max(end), 0);
            bytes[offset..end].copy_from_slice(&words[3]);
            one(Answer::Integer(bytes.len() as i64), Some(Value { bytes: bytes.into(), life }))
        }
        b"getrange" | b"substr" => {
            let bytes: &[u8] = view.map_or(&[], |value| &value.bytes);
            one(Answer::Bulk(range(bytes, number(&words[2]), number(&words[3])).into()), held)
        }
        b"incr" => counted(view, 1),
        b"decr" => counted(view, -1),
        b"incrby" => counted(view, number(&words[2])),
        b"decrby" => counted(view, -number(&words[2])),
        b"incrbyfloat" => {
            let by: f64 = String::from_utf8_lossy(&words[2]).parse().expect("the generator gives floats");
            let Some(value) = view else {
                let text = Blob::from(by.to_string().into_bytes());
                return one(Answer::Bulk(text.clone()), fresh(&text));
            };
            let parsed = std::str::from_utf8(&value.bytes).ok().and_then(|text| text.parse::<f64>().ok());
            match parsed {
                // All the digits of a long one are for other tests to say.
                Some(float) => {
                    let text = Blob::from((float + by).to_string().into_bytes());
                    let is_exact = is_exact_float(&value.bytes);
                    let answer = if is_exact { Answer::Bulk(text.clone()) } else { Answer::Any };
                    one(answer, Some(Value { bytes: text, life }))
                }
                None => one(Answer::Error(NOT_A_FLOAT), held),
            }
        }
        b"expire" | b"pexpire" | b"expireat" | b"pexpireat" => expired(words, view, clock),
        b"persist" => match (view, life) {
            (Some(value), Life::Until(..)) => {
                one(Answer::Integer(1), Some(Value { bytes: value.bytes.clone(), life: Life::Forever }))
            }
            _ => one(Answer::Integer(0), held),
        },
        b"ttl" | b"pttl" | b"expiretime" | b"pexpiretime" => {
            let answer = match (view, life) {
                (None, _) => Answer::Integer(-2),
                (_, Life::Forever) => Answer::Integer(-1),
                (_, Life::Until(least, most)) => match words[0].as_slice() {
                    b"pttl" => Answer::Between((least - clock.most).max(0), (most - clock.least).max(0)),
                    b"ttl" => Answer::Between(
                        ((least - clock.most) / 1000 - 1).max(0),
                        ((most - clock.least) / 1000 + 1).max(1),
                    ),
                    b"pexpiretime" => Answer::Between(least, most),
                    _ => Answer::Between(least / 1000, most / 1000 + 1),
                },
            };
            one(answer, held)
        }
        // How a key is kept is not part of what it holds.
        _ => one(Answer::Any, held),
    }
}

fn one_of_set(words: &[Blob], view: Option<&Value>, clock: Clock) -> Vec<Outcome> {
    let options = &words[3..];
    let has = |wanted: &[u8]| options.iter().any(|word| word.as_slice() == wanted);
    let is_refused = has(b"NX") && view.is_some() || has(b"XX") && view.is_none();
    let answer = match (has(b"GET"), is_refused) {
        (true, _) => bulk(view),
        (false, true) => Answer::Null,
        (false, false) => Answer::Ok,
    };
    if is_refused {
        return vec![(answer, view.cloned())];
    }
    let timed = options
        .iter()
        .zip(options.iter().skip(1))
        .find(|(word, _)| [&b"EX"[..], b"PX", b"EXAT", b"PXAT"].contains(&word.as_slice()));
    let life = match timed {
        Some((option, word)) => life_of(option, word, clock),
        None if has(b"KEEPTTL") => view.map_or(Life::Forever, |value| value.life),
        None => Life::Forever,
    };
    vec![(answer, Some(Value { bytes: words[2].clone(), life }))]
}

fn counted(view: Option<&Value>, by: i64) -> Vec<Outcome> {
    let (old, life) = match view {
        None => (0, Life::Forever),
        Some(value) => match integer(&value.bytes) {
            Some(number) => (number, value.life),
            None => return vec![(Answer::Error(NOT_AN_INTEGER), view.cloned())],
        },
    };
    match old.checked_add(by) {
        None => vec![(Answer::Error("ERR increment or decrement would overflow"), view.cloned())],
        Some(new) => vec![(Answer::Integer(new), Some(Value { bytes: new.to_string().into_bytes().into(), life }))],
    }
}

fn expired(words: &[Blob], view: Option<&Value>, clock: Clock) -> Vec<Outcome> {
    let Some(value) = view else { return vec![(Answer::Integer(0), None)] };
    let given = number(&words[2]);
    let (least, most) = match words[0].as_slice() {
        b"expire" => (clock.least + given * 1000, clock.most + given * 1000),
        b"pexpire" => (clock.least + given, clock.most + given),
        b"expireat" => (given * 1000, given * 1000),
        _ => (given, given),
    };
    let (may, may_not) = match (words.get(3).map(|word| word.as_slice()), value.life) {
        (Some(b"NX"), life) => (life == Life::Forever, life != Life::Forever),
        (Some(b"XX"), life) => (life != Life::Forever, life == Life::Forever),
        // Without a life a key lives longer than with any.
        (Some(b"GT"), Life::Forever) => (false, true),
        (Some(b"LT"), Life::Forever) => (true, false),
        (Some(b"GT"), Life::Until(low, high)) => (most > low, least <= high),
        (Some(b"LT"), Life::Until(low, high)) => (least < high, most >= low),
        _ => (true, false),
    };
    let mut outcomes = Vec::new();
    if may_not {
        outcomes.push((Answer::Integer(0), view.cloned()));
    }
    if may {
        // What has passed is deleted at once.
        if least <= clock.most {
            outcomes.push((Answer::Integer(1), None));
        }
        if most > clock.least {
            outcomes
                .push((Answer::Integer(1), Some(Value { bytes: value.bytes.clone(), life: Life::Until(least, most) })));
        }
    }
    outcomes
}

fn range(bytes: &[u8], start: i64, end: i64) -> Vec<u8> {
    let len = bytes.len() as i64;
    // An end far before the beginning means the first byte, as in Redis.
    let from_end = |at: i64| if at < 0 { (at + len).max(0) } else { at };
    let (from, to) = (from_end(start), from_end(end).min(len - 1));
    match len > 0 && from <= to && !(start < 0 && end < 0 && start > end) {
        true => bytes[from as usize..=to as usize].to_vec(),
        false => Vec::new(),
    }
}
