//! Requests. A template is one request with holes for key digits and values; a batch is a pipeline of
//! templates whose holes are patched in place, so that sending the next batch copies nothing that
//! stays the same.

use crate::error::Error;
use crate::keys;
use crate::random::{KeySource, Random};
use crate::replies::{Expectation, Kind};

/// The sizes every request of a workload shares.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub key_bytes: usize,
    pub value_bytes: usize,
}

#[derive(Clone, Debug)]
pub struct Template {
    pub bytes: Vec<u8>,
    pub expectation: Expectation,
    patches: Vec<Patch>,
}

/// Where a key's digits stand in the template, and the value that belongs to it.
#[derive(Clone, Copy, Debug)]
struct Patch {
    digits: usize,
    value: Option<usize>,
}

enum Part {
    Word(&'static str),
    /// The prefix, of `keys::PREFIX_BYTES`, keeps types apart: a list never meets a preloaded string.
    Key(&'static str),
    Value,
}

impl Template {
    /// `name` is `get`, `set`, `incr`, `mget:16` and so on.
    pub fn new(name: &str, shape: Shape) -> Result<Template, Error> {
        use Part::{Key, Value, Word};
        let (base, count) = match name.split_once(':') {
            None => (name, None),
            Some((base, count)) => match count.parse::<usize>() {
                Ok(count @ 1..=10_000) => (base, Some(count)),
                _ => return Err(Error::Usage(format!("'{name}': the number of keys must be 1 to 10000"))),
            },
        };
        let repeated = |first: &'static str, each: &[Part]| {
            let mut parts = vec![Word(first)];
            for _ in 0..count.unwrap_or(1) {
                parts.extend(each.iter().map(|part| match part {
                    Word(word) => Word(word),
                    Key(prefix) => Key(prefix),
                    Value => Value,
                }));
            }
            parts
        };
        let (parts, kind) = match (base, count) {
            ("get", None) => (vec![Word("GET"), Key("key:")], Kind::Value),
            ("set", None) => (vec![Word("SET"), Key("key:"), Value], Kind::Ok),
            ("setex", None) => (vec![Word("SET"), Key("key:"), Value, Word("EX"), Word("3600")], Kind::Ok),
            ("del", None) => (vec![Word("DEL"), Key("key:")], Kind::Integer),
            ("exists", None) => (vec![Word("EXISTS"), Key("key:")], Kind::Integer),
            ("incr", None) => (vec![Word("INCR"), Key("num:")], Kind::Integer),
            ("ping", None) => (vec![Word("PING")], Kind::Pong),
            ("mget", Some(count)) => (repeated("MGET", &[Key("key:")]), Kind::Values(count)),
            ("mset", Some(_)) => (repeated("MSET", &[Key("key:"), Value]), Kind::Ok),
            ("hset", None) => (vec![Word("HSET"), Key("hsh:"), Word("field"), Value], Kind::Integer),
            ("hget", None) => (vec![Word("HGET"), Key("hsh:"), Word("field")], Kind::Value),
            ("lpush", None) => (vec![Word("LPUSH"), Key("lst:"), Value], Kind::Integer),
            ("lpop", None) => (vec![Word("LPOP"), Key("lst:")], Kind::Value),
            ("sadd", None) => (vec![Word("SADD"), Key("set:"), Value], Kind::Integer),
            ("zadd", None) => (vec![Word("ZADD"), Key("zst:"), Word("1"), Value], Kind::Integer),
            _ => {
                return Err(Error::Usage(format!(
                    "unknown command '{name}': get, set, setex, mixed, incr, del, exists, ping, mget:N, mset:N, \
                     hset, hget, lpush, lpop, sadd or zadd"
                )));
            }
        };
        Ok(Template::build(&parts, kind, shape))
    }

    fn build(parts: &[Part], kind: Kind, shape: Shape) -> Template {
        let mut bytes = format!("*{}\r\n", parts.len()).into_bytes();
        let mut patches: Vec<Patch> = Vec::new();
        for part in parts {
            let length = match part {
                Part::Word(word) => word.len(),
                Part::Key(_) => shape.key_bytes,
                Part::Value => shape.value_bytes,
            };
            bytes.extend_from_slice(format!("${length}\r\n").as_bytes());
            let start = bytes.len();
            match part {
                Part::Word(word) => bytes.extend_from_slice(word.as_bytes()),
                Part::Key(prefix) => {
                    assert!(prefix.len() == keys::PREFIX_BYTES, "prefixes have one length");
                    bytes.extend_from_slice(prefix.as_bytes());
                    patches.push(Patch { digits: bytes.len(), value: None });
                }
                Part::Value => patches.last_mut().expect("a value follows its key").value = Some(start),
            }
            bytes.resize(start + length, b'0');
            bytes.extend_from_slice(b"\r\n");
        }
        Template { bytes, expectation: Expectation::new(kind, shape.value_bytes), patches }
    }
}

/// What is sent: one template, or two chosen between at random.
#[derive(Clone, Debug)]
pub struct Workload {
    templates: Vec<Template>,
    /// Of `weight_total` requests, this many are of the first template.
    weight_first: u64,
    weight_total: u64,
    shape: Shape,
    pub verify: bool,
}

impl Workload {
    pub fn new(command: &str, ratio: (u64, u64), shape: Shape, verify: bool) -> Result<Workload, Error> {
        if command != "mixed" {
            let templates = vec![Template::new(command, shape)?];
            return Ok(Workload { templates, weight_first: 1, weight_total: 1, shape, verify });
        }
        let templates = vec![Template::new("set", shape)?, Template::new("get", shape)?];
        let weight_total = ratio.0 + ratio.1;
        Ok(Workload { templates, weight_first: ratio.0, weight_total, shape, verify })
    }

    pub fn request_bytes_max(&self) -> usize {
        self.templates.iter().map(|template| template.bytes.len()).max().unwrap_or(0)
    }

    pub fn reply_bytes_max(&self) -> usize {
        self.templates.iter().map(|template| template.expectation.sample().len()).max().unwrap_or(0)
    }
}

/// Parses `1:10`.
pub fn parse_ratio(text: &str) -> Result<(u64, u64), String> {
    let parts = text.split_once(':').and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
    match parts {
        Some((sets, gets)) if (1..=1_000_000).contains(&(sets + gets)) => Ok((sets, gets)),
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
        let bytes = match &workload.templates[..] {
            [template] => template.bytes.repeat(pipeline),
            _ => Vec::with_capacity(workload.request_bytes_max() * pipeline),
        };
        Batch { bytes, requests: 0, choices: Vec::new(), indices: Vec::new(), next_reply: 0, next_index: 0 }
    }

    /// Makes `requests` new requests and returns their bytes.
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
        let indices = workload.verify.then_some(&mut self.indices);
        let mut patcher = Patcher {
            keys,
            slice,
            value_bytes: workload.shape.value_bytes,
            digits: workload.shape.key_bytes - keys::PREFIX_BYTES,
            indices,
        };
        if let [template] = &workload.templates[..] {
            for request in self.bytes.chunks_exact_mut(template.bytes.len()).take(requests) {
                patcher.patch(request, template);
            }
            return;
        }
        self.bytes.clear();
        self.choices.clear();
        for _ in 0..requests {
            let chosen = u8::from(choice.below(workload.weight_total) >= workload.weight_first);
            let template = &workload.templates[usize::from(chosen)];
            let start = self.bytes.len();
            self.bytes.extend_from_slice(&template.bytes);
            patcher.patch(&mut self.bytes[start..], template);
            self.choices.push(chosen);
        }
    }

    pub fn bytes(&self, workload: &Workload) -> &[u8] {
        match &workload.templates[..] {
            [template] => &self.bytes[..template.bytes.len() * self.requests],
            _ => &self.bytes,
        }
    }

    pub fn outstanding(&self) -> usize {
        self.requests - self.next_reply
    }

    /// Takes whole replies off the front of `data`, until the batch is answered or the data is short.
    pub fn take_replies(&mut self, workload: &Workload, data: &[u8]) -> Taken {
        use crate::replies::Check;
        let mut taken = Taken { bytes: 0, replies: 0, misses: 0, need: 1, wrong: None };
        while self.next_reply < self.requests {
            let chosen = self.choices.get(self.next_reply).map_or(0, |&chosen| usize::from(chosen));
            let template = &workload.templates[chosen];
            let indices = workload.verify.then(|| &self.indices[self.next_index..]);
            match template.expectation.check(&data[taken.bytes..], indices) {
                Check::Good { bytes, misses } => {
                    taken.bytes += bytes;
                    taken.misses += u64::from(misses);
                    taken.replies += 1;
                    self.next_reply += 1;
                    self.next_index += template.patches.len();
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
        }
        taken
    }
}

/// What `take_replies` found. `need`: the bytes the next, unfinished reply needs at least.
#[derive(Debug)]
pub struct Taken {
    pub bytes: usize,
    pub replies: u64,
    pub misses: u64,
    pub need: usize,
    pub wrong: Option<(String, String)>,
}

struct Patcher<'a> {
    keys: &'a mut KeySource,
    slice: Slice,
    value_bytes: usize,
    digits: usize,
    indices: Option<&'a mut Vec<u64>>,
}

impl Patcher<'_> {
    #[inline]
    fn patch(&mut self, request: &mut [u8], template: &Template) {
        for patch in &template.patches {
            let index = self.keys.index() * self.slice.count + self.slice.first;
            keys::write_digits(&mut request[patch.digits..patch.digits + self.digits], index);
            if let Some(start) = patch.value {
                keys::write_value(&mut request[start..start + self.value_bytes], index);
            }
            if let Some(indices) = &mut self.indices {
                indices.push(index);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: Shape = Shape { key_bytes: 16, value_bytes: 3 };
    const ALL: Slice = Slice { first: 0, count: 1 };

    fn filled(command: &str, requests: usize, slice: Slice) -> Vec<u8> {
        let workload = Workload::new(command, (1, 1), SHAPE, false).unwrap();
        let mut batch = Batch::new(&workload, 4);
        batch.fill(&workload, &mut KeySource::Sequential { next: 7 }, &mut Random::new(1), slice, requests);
        batch.bytes(&workload).to_vec()
    }

    #[test]
    fn requests_are_resp_with_their_keys() {
        assert_eq!(
            filled("get", 2, ALL),
            b"*2\r\n$3\r\nGET\r\n$16\r\nkey:000000000007\r\n*2\r\n$3\r\nGET\r\n$16\r\nkey:000000000008\r\n"
        );
        let mut value = [0; 3];
        keys::write_value(&mut value, 7);
        let mut set = b"*3\r\n$3\r\nSET\r\n$16\r\nkey:000000000007\r\n$3\r\n".to_vec();
        set.extend_from_slice(&value);
        set.extend_from_slice(b"\r\n");
        assert_eq!(filled("set", 1, ALL), set);
        assert_eq!(
            filled("mget:2", 1, ALL),
            b"*3\r\n$4\r\nMGET\r\n$16\r\nkey:000000000007\r\n$16\r\nkey:000000000008\r\n"
        );
        assert_eq!(filled("ping", 2, ALL), b"*1\r\n$4\r\nPING\r\n*1\r\n$4\r\nPING\r\n");
    }

    #[test]
    fn a_slice_talks_about_every_nth_key() {
        let bytes = filled("get", 1, Slice { first: 1, count: 2 });
        assert!(bytes.ends_with(b"key:000000000015\r\n"));
    }

    #[test]
    fn a_mixed_batch_checks_each_reply_against_its_own_request() {
        let workload = Workload::new("mixed", (1, 1), SHAPE, true).unwrap();
        let mut batch = Batch::new(&workload, 64);
        batch.fill(&workload, &mut KeySource::Sequential { next: 0 }, &mut Random::new(1), ALL, 64);
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
    fn unknown_commands_and_ratios_are_refused() {
        assert!(Template::new("flushall", SHAPE).is_err());
        assert!(Template::new("mget:0", SHAPE).is_err());
        assert_eq!(parse_ratio("1:10"), Ok((1, 10)));
        assert!(parse_ratio("0:0").is_err());
        assert!(parse_ratio("1").is_err());
    }
}
