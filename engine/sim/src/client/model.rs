//! What one client's keys hold, in the plainest code possible, and what each command must answer. The client's keys are
//! nobody else's, and its commands on each of them take effect in the order sent, so every answer is known when the
//! command is made.

use std::collections::BTreeMap;

/// An answer, before it is written in a dialect.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Answer {
    Ok,
    Null,
    Simple(&'static str),
    Integer(i64),
    Bulk(Vec<u8>),
    Array(Vec<Answer>),
    Error(String),
    /// An integer not known exactly: what is left of a long time to live.
    Between(i64, i64),
}

impl Answer {
    /// The bytes of the reply, in RESP3 or RESP2. `Between` has none.
    pub fn encode(&self, resp3: bool, out: &mut Vec<u8>) {
        match self {
            Answer::Ok => out.extend_from_slice(b"+OK\r\n"),
            Answer::Null if resp3 => out.extend_from_slice(b"_\r\n"),
            Answer::Null => out.extend_from_slice(b"$-1\r\n"),
            Answer::Simple(text) => out.extend_from_slice(format!("+{text}\r\n").as_bytes()),
            Answer::Integer(value) => out.extend_from_slice(format!(":{value}\r\n").as_bytes()),
            Answer::Bulk(bytes) => {
                out.extend_from_slice(format!("${}\r\n", bytes.len()).as_bytes());
                out.extend_from_slice(bytes);
                out.extend_from_slice(b"\r\n");
            }
            Answer::Array(elements) => {
                out.extend_from_slice(format!("*{}\r\n", elements.len()).as_bytes());
                elements.iter().for_each(|element| element.encode(resp3, out));
            }
            Answer::Error(text) => out.extend_from_slice(format!("-{text}\r\n").as_bytes()),
            Answer::Between(..) => unreachable!("judged as an integer, not byte by byte"),
        }
    }
}

/// A key's value, and whether it has a (long) time to live.
#[derive(Clone, Debug)]
struct Value {
    bytes: Vec<u8>,
    expires: bool,
}

/// Seconds that keys with an expiry live: longer than any run.
pub(crate) const LONG_S: i64 = 1_000_000;
/// A run is shorter than this, in seconds.
pub(crate) const RUN_S: i64 = 100_000;

/// The keys of one client.
#[derive(Debug, Default)]
pub(crate) struct Model {
    keys: BTreeMap<Vec<u8>, Value>,
}

impl Model {
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// All keys, in order.
    pub fn names(&self) -> Vec<Vec<u8>> {
        self.keys.keys().cloned().collect()
    }

    fn bytes(&self, key: &[u8]) -> Option<&Vec<u8>> {
        self.keys.get(key).map(|value| &value.bytes)
    }

    fn bulk(&self, key: &[u8]) -> Answer {
        self.bytes(key).map_or(Answer::Null, |bytes| Answer::Bulk(bytes.clone()))
    }

    fn put(&mut self, key: &[u8], bytes: Vec<u8>, expires: bool) {
        self.keys.insert(key.to_vec(), Value { bytes, expires });
    }

    /// Executes a command and says what it answers.
    pub fn run(&mut self, words: &[Vec<u8>]) -> Answer {
        let name = String::from_utf8_lossy(&words[0]).to_ascii_lowercase();
        let wrong_arity = || Answer::Error(format!("ERR wrong number of arguments for '{name}' command"));
        let not_an_integer = || Answer::Error("ERR value is not an integer or out of range".to_owned());
        let Some(key) = words.get(1) else {
            return match name.as_str() {
                "ping" => Answer::Simple("PONG"),
                _ => wrong_arity(),
            };
        };
        match name.as_str() {
            "ping" | "echo" => Answer::Bulk(key.clone()),
            "select" => Answer::Ok,
            "nosuch" => Answer::Error(format!(
                "ERR unknown command 'NOSUCH', with args beginning with: '{}' ",
                String::from_utf8_lossy(key)
            )),
            "get" if words.len() > 2 => wrong_arity(),
            "get" => self.bulk(key),
            "set" => self.set(words),
            "setnx" => {
                let absent = !self.keys.contains_key(key);
                if absent {
                    self.put(key, words[2].clone(), false);
                }
                Answer::Integer(absent as i64)
            }
            "getset" => {
                let old = self.bulk(key);
                self.put(key, words[2].clone(), false);
                old
            }
            "getdel" => {
                let old = self.bulk(key);
                self.keys.remove(key);
                old
            }
            "getex" => {
                let old = self.bulk(key);
                if let (Some(value), Some(option)) = (self.keys.get_mut(key), words.get(2)) {
                    value.expires = option != b"PERSIST";
                }
                old
            }
            "append" => {
                let value = self.keys.entry(key.clone()).or_insert(Value { bytes: Vec::new(), expires: false });
                value.bytes.extend_from_slice(&words[2]);
                Answer::Integer(value.bytes.len() as i64)
            }
            "setrange" => {
                let offset: usize = text(&words[2]).parse().expect("the generator gives offsets");
                let end = offset + words[3].len();
                if words[3].is_empty() {
                    return Answer::Integer(self.bytes(key).map_or(0, |bytes| bytes.len() as i64));
                }
                let value = self.keys.entry(key.clone()).or_insert(Value { bytes: Vec::new(), expires: false });
                if value.bytes.len() < end {
                    value.bytes.resize(end, 0);
                }
                value.bytes[offset..end].copy_from_slice(&words[3]);
                Answer::Integer(value.bytes.len() as i64)
            }
            "getrange" => {
                let bytes = self.bytes(key).cloned().unwrap_or_default();
                let len = bytes.len() as i64;
                let number = |word: &[u8]| text(word).parse::<i64>().expect("the generator gives offsets");
                let (start, end) = (number(&words[2]), number(&words[3]));
                // An end far before the beginning means the first byte, as in Redis.
                let from_end = |at: i64| if at < 0 { (at + len).max(0) } else { at };
                let (from, to) = (from_end(start), from_end(end).min(len - 1));
                match len > 0 && from <= to && !(start < 0 && end < 0 && start > end) {
                    true => Answer::Bulk(bytes[from as usize..=to as usize].to_vec()),
                    false => Answer::Bulk(Vec::new()),
                }
            }
            "strlen" => Answer::Integer(self.bytes(key).map_or(0, |bytes| bytes.len() as i64)),
            "incr" | "incrby" => {
                let by: i64 = words.get(2).map_or(1, |by| text(by).parse().expect("the generator gives numbers"));
                let (old, expires) = match self.keys.get(key) {
                    Some(value) => {
                        let number = text(&value.bytes).parse::<i64>().ok();
                        let canonical = number.filter(|number| number.to_string().as_bytes() == value.bytes);
                        let Some(number) = canonical else { return not_an_integer() };
                        (number, value.expires)
                    }
                    None => (0, false),
                };
                let Some(new) = old.checked_add(by) else {
                    return Answer::Error("ERR increment or decrement would overflow".to_owned());
                };
                self.put(key, new.to_string().into_bytes(), expires);
                Answer::Integer(new)
            }
            "mget" => Answer::Array(words[1..].iter().map(|key| self.bulk(key)).collect()),
            "mset" => {
                if words.len().is_multiple_of(2) {
                    return wrong_arity();
                }
                for pair in words[1..].chunks_exact(2) {
                    self.put(&pair[0], pair[1].clone(), false);
                }
                Answer::Ok
            }
            "del" | "unlink" => {
                Answer::Integer(words[1..].iter().filter(|key| self.keys.remove(*key).is_some()).count() as i64)
            }
            "exists" => Answer::Integer(words[1..].iter().filter(|key| self.keys.contains_key(*key)).count() as i64),
            "type" => Answer::Simple(if self.keys.contains_key(key) { "string" } else { "none" }),
            "expire" | "pexpire" => {
                let Some(value) = self.keys.get_mut(key) else { return Answer::Integer(0) };
                let allowed = match words.get(3).map(Vec::as_slice) {
                    Some(b"NX") => !value.expires,
                    Some(b"XX") => value.expires,
                    _ => true,
                };
                value.expires |= allowed;
                Answer::Integer(allowed as i64)
            }
            "persist" => match self.keys.get_mut(key) {
                Some(value) => Answer::Integer(std::mem::take(&mut value.expires) as i64),
                None => Answer::Integer(0),
            },
            "ttl" | "pttl" => match self.keys.get(key) {
                None => Answer::Integer(-2),
                Some(value) if !value.expires => Answer::Integer(-1),
                Some(_) => {
                    let unit = if name == "ttl" { 1 } else { 1000 };
                    Answer::Between((LONG_S - RUN_S) * unit, LONG_S * unit)
                }
            },
            _ => unreachable!("the generator makes no {name}"),
        }
    }

    fn set(&mut self, words: &[Vec<u8>]) -> Answer {
        let (key, bytes) = (&words[1], words[2].clone());
        let has = |option: &[u8]| words[3..].iter().any(|word| word == option);
        if has(b"NX") && has(b"XX") {
            return Answer::Error("ERR syntax error".to_owned());
        }
        let old = self.keys.get(key).cloned();
        let refused = has(b"NX") && old.is_some() || has(b"XX") && old.is_none();
        if !refused {
            let kept = has(b"KEEPTTL") && old.as_ref().is_some_and(|old| old.expires);
            self.put(key, bytes, kept || has(b"EX"));
        }
        match (has(b"GET"), refused) {
            (true, _) => old.map_or(Answer::Null, |old| Answer::Bulk(old.bytes)),
            (false, true) => Answer::Null,
            (false, false) => Answer::Ok,
        }
    }
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap_or("not a number")
}
