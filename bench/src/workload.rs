//! Requests. A template is one request with holes for key digits and values; a batch is a pipeline of
//! templates. Where all requests have one size their holes are patched in place, so that sending the next
//! batch copies nothing that stays the same; otherwise each batch is written anew.

use crate::error::Error;
use crate::keys;
use crate::random::{KeySource, Random};
use crate::replies::{Asked, Check, Expectation, Kind};
use crate::sizes::Sizes;
use crate::trace::Operation;
use clap::ValueEnum;
use std::sync::Arc;

/// What the requests of a workload share.
#[derive(Clone, Debug)]
pub struct Shape {
    pub key_bytes: usize,
    pub sizes: Arc<Sizes>,
    pub dialect: Dialect,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, ValueEnum)]
pub enum Dialect {
    #[default]
    Resp,
    /// memcached's text protocol; the commands get, set, setex and mixed.
    Memcache,
}

#[derive(Clone, Debug)]
pub struct Template {
    /// One request, with zeros for the digits of keys and for values; of use if it has one size.
    pub bytes: Vec<u8>,
    pub expectation: Expectation,
    pieces: Vec<Piece>,
    /// How many keys a request names.
    keys: usize,
    /// Where its holes are.
    patches: Vec<Patch>,
}

/// Where a key's digits stand in the template, and the value that belongs to it.
#[derive(Clone, Copy, Debug)]
struct Patch {
    digits: usize,
    value: Option<usize>,
}

#[derive(Clone, Debug)]
enum Piece {
    Bytes(Vec<u8>),
    /// The digits of the next key; what comes before them keeps types apart: a list never meets a preloaded string.
    Digits,
    /// The length of the last key's value, and the value.
    Length,
    Value,
}

/// One argument of a request.
enum Part {
    Word(&'static str),
    Key(&'static str),
    Value,
    /// Text around a key.
    Around(String, String),
    Text(String),
}

impl Template {
    /// `name` is `get`, `set`, `incr`, `mget:16` and so on, or a whole request with `__key__` and `__value__` in it.
    pub fn new(name: &str, shape: &Shape) -> Result<Template, Error> {
        use Part::{Key, Value, Word};
        if shape.dialect == Dialect::Memcache {
            return Template::memcache(name, shape);
        }
        if name.contains(char::is_whitespace) || name.contains("__") {
            return Template::custom(name, shape);
        }
        let (base, count) = match name.split_once(':') {
            None => (name, None),
            Some((base, count)) => match count.parse::<usize>() {
                Ok(count @ 1..=10_000) => (base, Some(count)),
                _ => return Err(Error::Usage(format!("'{name}': the number of keys must be 1 to 10000"))),
            },
        };
        let repeated = |first: &'static str, each: fn() -> Vec<Part>| {
            let mut parts = vec![Word(first)];
            (0..count.unwrap_or(1)).for_each(|_| parts.extend(each()));
            parts
        };
        let (parts, kind) = match (base, count) {
            ("get", None) => (vec![Word("GET"), Key("key:")], Kind::Value),
            ("set", None) => (vec![Word("SET"), Key("key:"), Value], Kind::Ok),
            ("setex", None) => (vec![Word("SET"), Key("key:"), Value, Word("EX"), Word("3600")], Kind::Ok),
            ("expire", None) => (vec![Word("EXPIRE"), Key("key:"), Word("3600")], Kind::Present),
            ("del", None) => (vec![Word("DEL"), Key("key:")], Kind::Present),
            ("exists", None) => (vec![Word("EXISTS"), Key("key:")], Kind::Present),
            ("incr", None) => (vec![Word("INCR"), Key("num:")], Kind::Integer),
            ("ping", None) => (vec![Word("PING")], Kind::Pong),
            ("mget", Some(count)) => (repeated("MGET", || vec![Key("key:")]), Kind::Values(count)),
            ("mset", Some(_)) => (repeated("MSET", || vec![Key("key:"), Value]), Kind::Ok),
            ("hset", None) => (vec![Word("HSET"), Key("hsh:"), Word("field"), Value], Kind::Integer),
            ("hget", None) => (vec![Word("HGET"), Key("hsh:"), Word("field")], Kind::Value),
            ("lpush", None) => (vec![Word("LPUSH"), Key("lst:"), Value], Kind::Integer),
            ("lpop", None) => (vec![Word("LPOP"), Key("lst:")], Kind::AnyValue),
            ("sadd", None) => (vec![Word("SADD"), Key("set:"), Value], Kind::Integer),
            ("zadd", None) => (vec![Word("ZADD"), Key("zst:"), Word("1"), Value], Kind::Integer),
            _ => {
                return Err(Error::Usage(format!(
                    "unknown command '{name}': get, set, setex, mixed, trace, expire, incr, del, exists, ping, mget:N, \
                     mset:N, hset, hget, lpush, lpop, sadd, zadd, or a whole request such as \
                     'HSET __key__ field __value__'"
                )));
            }
        };
        Ok(Template::build(resp(&parts, shape), kind, shape))
    }

    /// `GETRANGE __key__ 0 10`: any request. Each `__key__` is another key, `__value__` is the value of the last one.
    fn custom(line: &str, shape: &Shape) -> Result<Template, Error> {
        let mut parts = Vec::new();
        for word in line.split_whitespace() {
            parts.push(match word.split_once("__key__") {
                _ if word == "__value__" => Part::Value,
                Some((before, after)) => Part::Around(before.to_string(), after.to_string()),
                None => Part::Text(word.to_string()),
            });
            let rest = if word == "__value__" { String::new() } else { word.replacen("__key__", "", 1) };
            if rest.contains("__") {
                return Err(Error::Usage(format!(
                    "'{word}': an argument holds one __key__, or is __value__; there are no other placeholders"
                )));
            }
        }
        Ok(Template::build(resp(&parts, shape), Kind::Any, shape))
    }

    fn memcache(name: &str, shape: &Shape) -> Result<Template, Error> {
        let text = |text: &str| Piece::Bytes(text.as_bytes().to_vec());
        let (pieces, kind) = match name {
            "get" => (vec![text("get key:"), Piece::Digits, text("\r\n")], Kind::Item),
            "set" | "setex" => {
                // Flags, and seconds until it expires; 0 is never.
                let middle = if name == "setex" { " 0 3600 " } else { " 0 0 " };
                let (head, tail) = (vec![text("set key:"), Piece::Digits, text(middle), Piece::Length], text("\r\n"));
                ([head, vec![tail.clone(), Piece::Value, tail]].concat(), Kind::Stored)
            }
            _ => {
                return Err(Error::Usage(format!(
                    "'{name}': over memcached's protocol there are get, set, setex and mixed"
                )));
            }
        };
        Ok(Template::build(pieces, kind, shape))
    }

    fn build(pieces: Vec<Piece>, kind: Kind, shape: &Shape) -> Template {
        let keys = pieces.iter().filter(|piece| matches!(piece, Piece::Digits)).count();
        let expectation = Expectation::new(kind, &shape.sizes, shape.key_bytes);
        let value_bytes = shape.sizes.fixed().unwrap_or(0);
        let (mut bytes, mut patches) = (Vec::new(), Vec::<Patch>::new());
        for piece in &pieces {
            match piece {
                Piece::Bytes(text) => bytes.extend_from_slice(text),
                Piece::Digits => {
                    patches.push(Patch { digits: bytes.len(), value: None });
                    bytes.resize(bytes.len() + shape.digits(), b'0');
                }
                Piece::Length => bytes.extend_from_slice(value_bytes.to_string().as_bytes()),
                Piece::Value => {
                    if let Some(patch) = patches.last_mut() {
                        patch.value = Some(bytes.len());
                    }
                    bytes.resize(bytes.len() + value_bytes, b'0');
                }
            }
        }
        Template { bytes, expectation, pieces, keys, patches }
    }

    /// Appends a request. `next` gives the next key's index and the size of its value.
    fn write(&self, out: &mut Vec<u8>, digits: usize, mut next: impl FnMut() -> (u64, usize)) {
        let (mut index, mut size) = (0, 0);
        for piece in &self.pieces {
            let start = out.len();
            match piece {
                Piece::Bytes(text) => out.extend_from_slice(text),
                Piece::Digits => {
                    (index, size) = next();
                    out.resize(start + digits, b'0');
                    keys::write_digits(&mut out[start..], index);
                }
                Piece::Length => out.extend_from_slice(size.to_string().as_bytes()),
                Piece::Value => {
                    out.resize(start + size, 0);
                    keys::write_value(&mut out[start..], index);
                }
            }
        }
    }
}

/// The arguments as a RESP request.
fn resp(parts: &[Part], shape: &Shape) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut text = format!("*{}\r\n", parts.len());
    let mut flush = |text: &mut String, piece| {
        pieces.push(Piece::Bytes(std::mem::take(text).into_bytes()));
        pieces.push(piece);
    };
    for part in parts {
        match part {
            Part::Word(word) => text += &format!("${}\r\n{word}", word.len()),
            Part::Text(word) => text += &format!("${}\r\n{word}", word.len()),
            Part::Key(prefix) => {
                assert!(prefix.len() == keys::PREFIX_BYTES, "prefixes have one length");
                text += &format!("${}\r\n{prefix}", shape.key_bytes);
                flush(&mut text, Piece::Digits);
            }
            Part::Around(before, after) => {
                text += &format!("${}\r\n{before}key:", before.len() + shape.key_bytes + after.len());
                flush(&mut text, Piece::Digits);
                text += after;
            }
            Part::Value => {
                text += "$";
                flush(&mut text, Piece::Length);
                text += "\r\n";
                flush(&mut text, Piece::Value);
            }
        }
        text += "\r\n";
    }
    pieces.push(Piece::Bytes(text.into_bytes()));
    pieces
}

impl Shape {
    /// Digits of a key.
    fn digits(&self) -> usize {
        self.key_bytes - keys::PREFIX_BYTES
    }
}

/// What is sent: one template, two chosen between at random, or what a trace says.
#[derive(Clone, Debug)]
pub struct Workload {
    templates: Vec<Template>,
    choice: Choice,
    shape: Shape,
    pub verify: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Choice {
    /// Of `total` requests, `first` are of the first template.
    Weighted { first: u64, total: u64 },
    /// The record of a trace names the template, by its operation, and the size of the value.
    Replay,
}

impl Workload {
    pub fn new(command: &str, ratio: (u64, u64), shape: &Shape, verify: bool) -> Result<Workload, Error> {
        let names: &[&str] = match command {
            "mixed" => &["set", "get"],
            // In the order of `template_of`.
            "trace" => &["get", "set", "del", "incr"],
            command => &[command],
        };
        let choice = match command {
            "mixed" => Choice::Weighted { first: ratio.0, total: ratio.0 + ratio.1 },
            "trace" => Choice::Replay,
            _ => Choice::Weighted { first: 1, total: 1 },
        };
        let template = |name: &&str| Template::new(name, shape);
        let mut templates = names.iter().map(template).collect::<Result<Vec<_>, _>>()?;
        if choice == Choice::Replay {
            // The size of a value is that of the last record which set it, which nobody knows in advance.
            templates[0].expectation = Expectation::new(Kind::AnyValue, &shape.sizes, shape.key_bytes);
        }
        Ok(Workload { templates, choice, shape: shape.clone(), verify })
    }

    /// All requests have one size, so batches are patched in place.
    fn is_patched(&self) -> bool {
        self.templates.len() == 1 && self.shape.sizes.fixed().is_some()
    }

    /// Replies are held against the keys that were asked for.
    fn remembers_keys(&self) -> bool {
        self.verify || self.shape.sizes.fixed().is_none() && self.choice != Choice::Replay
    }

    pub fn reply_bytes_max(&self) -> usize {
        let value_bytes = self.shape.sizes.max();
        self.templates.iter().map(|template| template.expectation.bytes_max(value_bytes)).max().unwrap_or(0)
    }
}

/// The place of a trace's operation among the templates of a replay.
fn template_of(operation: Operation) -> usize {
    match operation {
        Operation::Get => 0,
        Operation::Set => 1,
        Operation::Delete => 2,
        Operation::Increment => 3,
    }
}

/// Parses `1:10`.
pub fn parse_ratio(text: &str) -> Result<(u64, u64), String> {
    let parts = text.split_once(':').and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
    match parts {
        Some((sets, gets)) if (1..=1_000_000).contains(&u64::saturating_add(sets, gets)) => Ok((sets, gets)),
        _ => Err(format!("'{text}' is not a ratio of sets to gets, as in 1:10")),
    }
}

/// A connection talks about every `count`-th key, beginning with `first`: all of them, or the share of
/// its server when the keys are split between several.
#[derive(Clone, Copy, Debug)]
pub struct Slice {
    pub first: u64,
    pub count: u64,
}

impl Slice {
    fn index(self, key: u64) -> u64 {
        key * self.count + self.first
    }
}

/// One pipeline of requests and what their replies are checked against.
#[derive(Debug)]
pub struct Batch {
    bytes: Vec<u8>,
    requests: usize,
    choices: Vec<u8>,
    indices: Vec<u64>,
    /// The reply that comes next, and the first of its keys in `indices`.
    next_reply: usize,
    next_index: usize,
}

impl Batch {
    pub fn new(workload: &Workload, pipeline: usize) -> Batch {
        let bytes = match workload.is_patched() {
            true => workload.templates[0].bytes.repeat(pipeline),
            false => Vec::new(),
        };
        Batch { bytes, requests: 0, choices: Vec::new(), indices: Vec::new(), next_reply: 0, next_index: 0 }
    }

    /// Makes `requests` new requests.
    pub fn fill(
        &mut self,
        workload: &Workload,
        keys: &mut KeySource,
        choice: &mut Random,
        slice: Slice,
        requests: usize,
    ) {
        self.requests = requests;
        self.next_reply = 0;
        self.next_index = 0;
        self.indices.clear();
        if workload.is_patched() {
            return self.patch(workload, keys, slice);
        }
        self.bytes.clear();
        self.choices.clear();
        let digits = workload.shape.digits();
        let mut indices = workload.remembers_keys().then_some(&mut self.indices);
        for _ in 0..requests {
            let Choice::Weighted { first, total } = workload.choice else {
                let record = keys.record().expect("a replay has a trace");
                let chosen = template_of(record.operation);
                let next = || (slice.index(u64::from(record.key)), record.size as usize);
                workload.templates[chosen].write(&mut self.bytes, digits, next);
                self.choices.push(chosen as u8);
                continue;
            };
            let chosen = usize::from(total > 1 && choice.below(total) >= first);
            workload.templates[chosen].write(&mut self.bytes, digits, || {
                let index = slice.index(keys.index());
                if let Some(indices) = &mut indices {
                    indices.push(index);
                }
                (index, workload.shape.sizes.of(index))
            });
            self.choices.push(chosen as u8);
        }
    }

    #[inline]
    fn patch(&mut self, workload: &Workload, keys: &mut KeySource, slice: Slice) {
        let template = &workload.templates[0];
        let digits = workload.shape.digits();
        let value_bytes = workload.shape.sizes.fixed().unwrap_or(0);
        let mut indices = workload.remembers_keys().then_some(&mut self.indices);
        for request in self.bytes.chunks_exact_mut(template.bytes.len()).take(self.requests) {
            for patch in &template.patches {
                let index = slice.index(keys.index());
                keys::write_digits(&mut request[patch.digits..patch.digits + digits], index);
                if let Some(start) = patch.value {
                    keys::write_value(&mut request[start..start + value_bytes], index);
                }
                if let Some(indices) = &mut indices {
                    indices.push(index);
                }
            }
        }
    }

    pub fn bytes(&self, workload: &Workload) -> &[u8] {
        match workload.is_patched() {
            true => &self.bytes[..workload.templates[0].bytes.len() * self.requests],
            false => &self.bytes,
        }
    }

    pub fn outstanding(&self) -> usize {
        self.requests - self.next_reply
    }

    /// Replies taken so far.
    pub fn answered(&self) -> usize {
        self.next_reply
    }

    /// Takes whole replies off the front of `data`, until the batch is answered or the data is short.
    pub fn take_replies(&mut self, workload: &Workload, data: &[u8]) -> Taken {
        let mut taken = Taken { need: 1, ..Taken::default() };
        let remembers = workload.remembers_keys();
        while self.next_reply < self.requests {
            let chosen = self.choices.get(self.next_reply).map_or(0, |&chosen| usize::from(chosen));
            let template = &workload.templates[chosen];
            let indices = if remembers { &self.indices[self.next_index..] } else { &[] };
            let asked = Asked { indices, sizes: &workload.shape.sizes, verify: workload.verify };
            match template.expectation.check(&data[taken.bytes..], asked) {
                Check::Good { bytes, misses } => {
                    taken.bytes += bytes;
                    taken.misses += u64::from(misses);
                }
                Check::Refused { bytes, kind } => {
                    taken.bytes += bytes;
                    taken.refused.push(kind);
                }
                Check::Incomplete { need } => {
                    taken.need = need;
                    return taken;
                }
                Check::Wrong { got } => {
                    taken.wrong = Some((template.expectation.describe(), got));
                    return taken;
                }
            }
            taken.replies += 1;
            self.next_reply += 1;
            self.next_index += template.keys;
        }
        taken
    }
}

/// What `take_replies` found. `need`: the bytes the next, unfinished reply needs at least.
#[derive(Debug, Default)]
pub struct Taken {
    pub bytes: usize,
    pub replies: u64,
    pub misses: u64,
    pub need: usize,
    /// Of each error reply, its first word. They are among the replies.
    pub refused: Vec<String>,
    pub wrong: Option<(String, String)>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Distribution;

    const ALL: Slice = Slice { first: 0, count: 1 };

    fn shape(sizes: &str) -> Shape {
        Shape { key_bytes: 16, sizes: Arc::new(sizes.parse().unwrap()), dialect: Dialect::Resp }
    }

    fn keys_from(next: u64) -> KeySource {
        KeySource::Sequential { next }
    }

    fn filled_as(command: &str, requests: usize, slice: Slice, shape: &Shape) -> Vec<u8> {
        let workload = Workload::new(command, (1, 1), shape, false).unwrap();
        let mut batch = Batch::new(&workload, 4);
        batch.fill(&workload, &mut keys_from(7), &mut Random::new(1), slice, requests);
        batch.bytes(&workload).to_vec()
    }

    fn filled(command: &str, requests: usize, slice: Slice) -> Vec<u8> {
        filled_as(command, requests, slice, &shape("3"))
    }

    #[test]
    fn requests_are_resp_with_their_keys() {
        assert_eq!(
            filled("get", 2, ALL),
            b"*2\r\n$3\r\nGET\r\n$16\r\nkey:000000000007\r\n*2\r\n$3\r\nGET\r\n$16\r\nkey:000000000008\r\n"
        );
        let mut value = [0; 3];
        keys::write_value(&mut value, 7);
        let set = [&b"*3\r\n$3\r\nSET\r\n$16\r\nkey:000000000007\r\n$3\r\n"[..], &value, b"\r\n"].concat();
        assert_eq!(filled("set", 1, ALL), set);
        assert_eq!(
            filled("mget:2", 1, ALL),
            b"*3\r\n$4\r\nMGET\r\n$16\r\nkey:000000000007\r\n$16\r\nkey:000000000008\r\n"
        );
        assert_eq!(filled("ping", 2, ALL), b"*1\r\n$4\r\nPING\r\n*1\r\n$4\r\nPING\r\n");
        let custom = [&b"*4\r\n$4\r\nHSET\r\n$20\r\na:key:000000000007:b\r\n$1\r\nf\r\n$3\r\n"[..], &value, b"\r\n"];
        assert_eq!(filled("HSET a:__key__:b f __value__", 1, ALL), custom.concat());
    }

    #[test]
    fn requests_are_those_of_memcached_with_their_keys() {
        let memcache = Shape { dialect: Dialect::Memcache, ..shape("3") };
        assert_eq!(filled_as("get", 2, ALL, &memcache), b"get key:000000000007\r\nget key:000000000008\r\n");
        let mut value = [0; 3];
        keys::write_value(&mut value, 7);
        let set = [&b"set key:000000000007 0 0 3\r\n"[..], &value, b"\r\n"].concat();
        assert_eq!(filled_as("set", 1, ALL, &memcache), set);
        assert!(Template::new("incr", &memcache).is_err());
    }

    /// Each value is as long as its key says, and what is read back is held against that.
    #[test]
    fn sizes_which_vary_go_with_the_key() {
        let varied = shape("range:1-300");
        let bytes = filled_as("set", 3, ALL, &varied);
        let mut wanted = Vec::new();
        for index in 7..10 {
            let mut value = vec![0; varied.sizes.of(index)];
            keys::write_value(&mut value, index);
            let head = format!("*3\r\n$3\r\nSET\r\n$16\r\nkey:{index:012}\r\n${}\r\n", value.len());
            wanted.extend_from_slice(&[head.as_bytes(), &value, b"\r\n"].concat());
        }
        assert_eq!(bytes, wanted);

        let workload = Workload::new("mget:2", (1, 1), &varied, true).unwrap();
        let mut batch = Batch::new(&workload, 1);
        batch.fill(&workload, &mut keys_from(7), &mut Random::new(1), ALL, 1);
        let mut reply = b"*2\r\n".to_vec();
        for index in 7..9 {
            let mut value = vec![0; varied.sizes.of(index)];
            keys::write_value(&mut value, index);
            reply.extend_from_slice(&[format!("${}\r\n", value.len()).as_bytes(), &value, b"\r\n"].concat());
        }
        let taken = batch.take_replies(&workload, &reply);
        assert_eq!((taken.bytes, taken.replies, taken.wrong), (reply.len(), 1, None));
    }

    #[test]
    fn a_slice_talks_about_every_nth_key() {
        let bytes = filled("get", 1, Slice { first: 1, count: 2 });
        assert!(bytes.ends_with(b"key:000000000015\r\n"));
    }

    #[test]
    fn a_mixed_batch_checks_each_reply_against_its_own_request() {
        let workload = Workload::new("mixed", (1, 1), &shape("3"), true).unwrap();
        let mut batch = Batch::new(&workload, 64);
        batch.fill(&workload, &mut keys_from(0), &mut Random::new(1), ALL, 64);
        let mut replies = Vec::new();
        for (index, &chosen) in batch.choices.clone().iter().enumerate() {
            let mut value = [0; 3];
            keys::write_value(&mut value, index as u64);
            match chosen {
                0 => replies.extend_from_slice(b"+OK\r\n"),
                _ => replies.extend_from_slice(&[b"$3\r\n", &value[..], b"\r\n"].concat()),
            }
        }
        let first = batch.take_replies(&workload, &replies[..20]);
        assert!(first.wrong.is_none() && first.replies > 0 && first.bytes + first.need > 20);
        let rest = batch.take_replies(&workload, &replies[first.bytes..]);
        assert_eq!((first.replies + rest.replies, batch.outstanding()), (64, 0));
    }

    #[test]
    fn error_replies_are_counted_and_the_rest_goes_on() {
        let workload = Workload::new("set", (1, 1), &shape("3"), false).unwrap();
        let mut batch = Batch::new(&workload, 3);
        batch.fill(&workload, &mut keys_from(0), &mut Random::new(1), ALL, 3);
        let taken = batch.take_replies(&workload, b"+OK\r\n-OOM no\r\n+OK\r\n");
        assert_eq!((taken.replies, taken.refused, taken.wrong), (3, vec!["OOM".to_string()], None));
    }

    /// Operations, keys and sizes come from the trace.
    #[test]
    fn a_trace_is_replayed() {
        let trace = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/replay.csv");
        let distribution: Distribution = format!("trace:{trace}:twitter").parse().unwrap();
        let mut keys = KeySource::new(&distribution, 2, 1, 0, 1);
        let workload = Workload::new("trace", (1, 1), &shape("3"), false).unwrap();
        let mut batch = Batch::new(&workload, 4);
        batch.fill(&workload, &mut keys, &mut Random::new(1), ALL, 4);
        let mut value = [0; 5];
        keys::write_value(&mut value, 0);
        let wanted = [
            &b"*3\r\n$3\r\nSET\r\n$16\r\nkey:000000000000\r\n$5\r\n"[..],
            &value,
            b"\r\n*2\r\n$3\r\nGET\r\n$16\r\nkey:000000000001\r\n",
            b"*2\r\n$3\r\nGET\r\n$16\r\nkey:000000000000\r\n*2\r\n$3\r\nDEL\r\n$16\r\nkey:000000000000\r\n",
        ];
        assert_eq!(batch.bytes(&workload).escape_ascii().to_string(), wanted.concat().escape_ascii().to_string());
        let taken = batch.take_replies(&workload, b"+OK\r\n$-1\r\n$5\r\nabcde\r\n:1\r\n");
        assert_eq!((taken.replies, taken.misses, taken.wrong), (4, 1, None));
    }

    #[test]
    fn unknown_commands_and_ratios_are_refused() {
        for command in ["flushall", "mget:0", "GET __key__x__value__", "GET __keys__", "GET __key__ a__value__"] {
            assert!(Template::new(command, &shape("3")).is_err(), "{command}");
        }
        assert_eq!(parse_ratio("1:10"), Ok((1, 10)));
        assert!(parse_ratio("0:0").is_err());
        assert!(parse_ratio("1").is_err());
    }
}
