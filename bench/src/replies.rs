//! Reading replies. `check` asks "is this the reply I expect?", which for the common replies is one
//! masked 8-byte comparison and a jump over the value; `scan` measures any reply, for everything else.

use crate::keys;
use crate::sizes::Sizes;
use std::io::Write;

/// One reply at the front of a buffer.
#[derive(Debug, PartialEq)]
pub enum Scan {
    Complete {
        bytes: usize,
    },
    /// No use in asking again before the buffer holds this many bytes.
    Incomplete {
        need: usize,
    },
    Invalid,
}

/// Measures the reply at the front of `buffer`, RESP2 or RESP3, aggregates with all they contain.
pub fn scan(buffer: &[u8]) -> Scan {
    let mut position = 0;
    let mut items = 1u64;
    while items > 0 {
        let rest = &buffer[position..];
        let Some(end) = rest.windows(2).position(|pair| pair == b"\r\n") else {
            return match rest.first() {
                Some(kind) if !b"+-:$*%~>_,#(=!|".contains(kind) => Scan::Invalid,
                _ => Scan::Incomplete { need: buffer.len() + 1 },
            };
        };
        position += end + 2;
        items -= 1;
        let length = std::str::from_utf8(&rest[1..end.max(1)]).ok().and_then(|text| text.parse::<i64>().ok());
        match (rest[0], length) {
            (b'+' | b'-' | b':' | b'_' | b',' | b'#' | b'(', _) => {}
            (b'$' | b'*', Some(-1)) => {}
            (b'$' | b'=' | b'!', Some(length @ 0..)) => {
                position = position.saturating_add(length as usize).saturating_add(2);
                if buffer.len() < position {
                    return Scan::Incomplete { need: position };
                }
                if &buffer[position - 2..position] != b"\r\n" {
                    return Scan::Invalid;
                }
            }
            (b'*' | b'~' | b'>', Some(count @ 0..)) => items = items.saturating_add(count as u64),
            (b'%', Some(count @ 0..)) => items = items.saturating_add((count as u64).saturating_mul(2)),
            // Attributes precede the reply they describe.
            (b'|', Some(count @ 0..)) => {
                items = items.saturating_add((count as u64).saturating_mul(2)).saturating_add(1)
            }
            _ => return Scan::Invalid,
        }
    }
    Scan::Complete { bytes: position }
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    Ok,
    Pong,
    Integer,
    /// 1, or 0 if the key is not there.
    Present,
    /// The value of the request's key, or nil.
    Value,
    /// One value or nil for each of so many keys.
    Values(usize),
    /// A string of any length, or nil.
    AnyValue,
    /// Whatever it is, if it is no error.
    Any,
    /// memcached: the item was stored.
    Stored,
    /// memcached: the item of the request's key, or none.
    Item,
}

/// What a request asked for, as far as its reply is held against it.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// The keys' indices; empty if the sizes are fixed and nothing is verified.
    pub indices: &'a [u64],
    pub sizes: &'a Sizes,
    /// Compare values byte for byte; then a miss is wrong too.
    pub verify: bool,
}

/// What one request's reply must be.
#[derive(Clone, Debug)]
pub struct Expectation {
    kind: Kind,
    /// Of values, if all have one size.
    value_bytes: Option<usize>,
    /// `*16\r\n`
    array_header: Header,
    fast: Option<Fast>,
}

/// A reply of fixed size whose first bytes, at most eight, decide what it is.
#[derive(Clone, Copy, Debug)]
struct Fast {
    word: u64,
    mask: u64,
    bytes: usize,
}

#[derive(Debug, PartialEq)]
pub enum Check {
    Good {
        bytes: usize,
        misses: u32,
    },
    Incomplete {
        need: usize,
    },
    /// An error reply; `kind` is its first word.
    Refused {
        bytes: usize,
        kind: String,
    },
    /// Anything else: what comes after it cannot be trusted.
    Wrong {
        got: String,
    },
}

impl Expectation {
    /// `key_bytes` are those of a request's key, which memcached repeats.
    pub fn new(kind: Kind, sizes: &Sizes, key_bytes: usize) -> Expectation {
        let value_bytes = sizes.fixed();
        let array_header = Header::new(b'*', if let Kind::Values(count) = kind { count } else { 0 });
        let fast = match (kind, value_bytes) {
            (Kind::Ok, _) => Fast::new(b"+OK\r\n", 0),
            (Kind::Pong, _) => Fast::new(b"+PONG\r\n", 0),
            (Kind::Stored, _) => Fast::new(b"STORED\r\n", 0),
            (Kind::Value, Some(bytes)) => Fast::new(Header::new(b'$', bytes).bytes(), bytes + 2),
            (Kind::Item, Some(bytes)) => {
                // "VALUE " and the key, " 0 " for the flags, the length with its line end, the item, "\r\nEND\r\n".
                let length = Header::new(b'$', bytes).bytes().len() - 1;
                Fast::new(b"VALUE ", key_bytes + 3 + length + bytes + 7)
            }
            _ => None,
        };
        Expectation { kind, value_bytes, array_header, fast }
    }

    /// Checks the reply at the front of `buffer`.
    #[inline]
    pub fn check(&self, buffer: &[u8], asked: Asked<'_>) -> Check {
        if !asked.verify
            && let Some(fast) = self.fast
            && fast.matches(buffer)
        {
            return Check::Good { bytes: fast.bytes, misses: 0 };
        }
        self.check_slowly(buffer, asked)
    }

    fn check_slowly(&self, buffer: &[u8], asked: Asked<'_>) -> Check {
        let whole = |accepted: &[u8]| match (buffer.first(), scan(buffer)) {
            (Some(first), Scan::Complete { bytes }) if accepted.contains(first) => Check::Good { bytes, misses: 0 },
            _ => unexpected(buffer),
        };
        match self.kind {
            Kind::Ok => literal(buffer, b"+OK\r\n"),
            Kind::Pong => literal(buffer, b"+PONG\r\n"),
            Kind::Integer => whole(b":"),
            Kind::Present if buffer.starts_with(b":0\r\n") => match asked.verify {
                false => Check::Good { bytes: 4, misses: 1 },
                true => Check::Wrong { got: "no such key".to_string() },
            },
            Kind::Present => whole(b":"),
            Kind::Any => whole(b"+:$*%~>_,#(=|"),
            Kind::AnyValue => match nil_bytes(buffer) {
                Some(bytes) => Check::Good { bytes, misses: 1 },
                None => whole(b"$"),
            },
            Kind::Value => self.value(buffer, asked, 0),
            Kind::Values(count) => self.values(buffer, count, asked),
            Kind::Stored if buffer.starts_with(b"STORED\r\n") => Check::Good { bytes: 8, misses: 0 },
            Kind::Stored => unexpected_line(buffer),
            Kind::Item => self.item(buffer, asked),
        }
    }

    fn values(&self, buffer: &[u8], count: usize, asked: Asked<'_>) -> Check {
        let header = self.array_header.bytes();
        if !buffer.starts_with(header) {
            return unexpected(buffer);
        }
        let (mut position, mut misses_total) = (header.len(), 0);
        for i in 0..count {
            match self.value(&buffer[position..], asked, i) {
                Check::Good { bytes, misses } => {
                    position += bytes;
                    misses_total += misses;
                }
                Check::Incomplete { need } => return Check::Incomplete { need: position + need },
                Check::Refused { kind, .. } => return Check::Wrong { got: format!("{kind} inside an array") },
                wrong @ Check::Wrong { .. } => return wrong,
            }
        }
        Check::Good { bytes: position, misses: misses_total }
    }

    /// How long the value of key number `i` of the request is.
    fn expected_bytes(&self, asked: Asked<'_>, i: usize) -> usize {
        self.value_bytes.unwrap_or_else(|| asked.sizes.of(asked.indices[i]))
    }

    fn value(&self, buffer: &[u8], asked: Asked<'_>, i: usize) -> Check {
        let value_bytes = self.expected_bytes(asked, i);
        let header = Header::new(b'$', value_bytes);
        if buffer.starts_with(header.bytes()) {
            return body(buffer, header.bytes().len(), value_bytes, b"\r\n", asked, i);
        }
        // A promise of other bytes is wrong at once, not when they have come.
        if buffer.first() == Some(&b'$')
            && let Some(end) = buffer.iter().position(|&byte| byte == b'\n')
            && nil_bytes(buffer).is_none()
        {
            return Check::Wrong { got: format!("another length: {}", show(&buffer[..=end])) };
        }
        match nil_bytes(buffer) {
            Some(bytes) if !asked.verify => Check::Good { bytes, misses: 1 },
            Some(_) => Check::Wrong { got: "nil".to_string() },
            None => unexpected(buffer),
        }
    }

    /// `VALUE key flags bytes\r\n...\r\nEND\r\n`, or `END\r\n` for a miss.
    fn item(&self, buffer: &[u8], asked: Asked<'_>) -> Check {
        if buffer.starts_with(b"END\r\n") {
            let miss = Check::Good { bytes: 5, misses: 1 };
            return if asked.verify { Check::Wrong { got: "no item".to_string() } } else { miss };
        }
        let end = buffer.windows(2).position(|pair| pair == b"\r\n");
        let (true, Some(end)) = (buffer.starts_with(b"VALUE "), end) else { return unexpected_line(buffer) };
        let value_bytes = self.expected_bytes(asked, 0);
        let length = buffer[..end].rsplit(|&byte| byte == b' ').next().unwrap_or_default();
        if length != value_bytes.to_string().as_bytes() {
            return Check::Wrong { got: show(&buffer[..end]) };
        }
        let key = buffer[..end].split(|&byte| byte == b' ').nth(1).unwrap_or_default();
        let number =
            key.get(keys::PREFIX_BYTES..).and_then(|digits| std::str::from_utf8(digits).ok()?.parse::<u64>().ok());
        if asked.verify && number != Some(asked.indices[0]) {
            return Check::Wrong { got: format!("another key: {}", show(&buffer[..end])) };
        }
        body(buffer, end + 2, value_bytes, b"\r\nEND\r\n", asked, 0)
    }

    /// A correct reply, for the floor server to send.
    pub fn sample(&self) -> Vec<u8> {
        let value_bytes = self.value_bytes.unwrap_or(0);
        let mut value = Header::new(b'$', value_bytes).bytes().to_vec();
        value.resize(value.len() + value_bytes, b'v');
        value.extend_from_slice(b"\r\n");
        match self.kind {
            Kind::Ok => b"+OK\r\n".to_vec(),
            Kind::Pong => b"+PONG\r\n".to_vec(),
            Kind::Integer | Kind::Present => b":1\r\n".to_vec(),
            Kind::Value | Kind::AnyValue | Kind::Any => value,
            Kind::Values(count) => [self.array_header.bytes(), &value.repeat(count)].concat(),
            Kind::Stored => b"STORED\r\n".to_vec(),
            Kind::Item => b"END\r\n".to_vec(),
        }
    }

    /// Bytes of a reply, at most, if values are of `value_bytes`.
    pub fn bytes_max(&self, value_bytes: usize) -> usize {
        let value = value_bytes + 32;
        match self.kind {
            Kind::Values(count) => 32 + value * count,
            Kind::Value | Kind::AnyValue => value,
            Kind::Item => value + 300,
            _ => 32,
        }
    }

    pub fn describe(&self) -> String {
        let size = || self.value_bytes.map_or("its own size".to_string(), |bytes| format!("{bytes} bytes"));
        match self.kind {
            Kind::Ok => "+OK".to_string(),
            Kind::Pong => "+PONG".to_string(),
            Kind::Integer => "an integer".to_string(),
            Kind::Present => "1, or 0 if the key is not there".to_string(),
            Kind::Value => format!("the key's value of {}", size()),
            Kind::Values(count) => format!("{count} values of {}", size()),
            Kind::AnyValue => "a string or nil".to_string(),
            Kind::Any => "a reply".to_string(),
            Kind::Stored => "STORED".to_string(),
            Kind::Item => format!("the key's item of {}", size()),
        }
    }
}

/// The value of key number `i` from `start` on, followed by `tail`.
fn body(buffer: &[u8], start: usize, bytes: usize, tail: &[u8], asked: Asked<'_>, i: usize) -> Check {
    let end = start + bytes;
    let whole = end + tail.len();
    if buffer.len() < whole {
        return Check::Incomplete { need: whole };
    }
    let value_is_wrong = asked.verify && !keys::value_matches(&buffer[start..end], asked.indices[i]);
    if value_is_wrong || &buffer[end..whole] != tail {
        return Check::Wrong { got: format!("other bytes: {}", show(&buffer[..whole])) };
    }
    Check::Good { bytes: whole, misses: 0 }
}

/// `$32\r\n` and the like.
#[derive(Clone, Copy, Debug)]
struct Header {
    text: [u8; 23],
    len: u8,
}

impl Header {
    fn new(first: u8, number: usize) -> Header {
        let mut header = Header { text: [0; 23], len: 0 };
        let mut rest = &mut header.text[..];
        write!(rest, "{}{number}\r\n", first as char).expect("a number has at most 20 digits");
        header.len = (23 - rest.len()) as u8;
        header
    }

    fn bytes(&self) -> &[u8] {
        &self.text[..usize::from(self.len)]
    }
}

fn nil_bytes(buffer: &[u8]) -> Option<usize> {
    [&b"$-1\r\n"[..], b"_\r\n"].into_iter().find(|nil| buffer.starts_with(nil)).map(<[u8]>::len)
}

impl Fast {
    fn new(prefix: &[u8], rest_bytes: usize) -> Option<Fast> {
        if prefix.len() > 8 {
            return None;
        }
        let mut word = [0; 8];
        let mut mask = [0; 8];
        word[..prefix.len()].copy_from_slice(prefix);
        mask[..prefix.len()].fill(0xff);
        let bytes = prefix.len() + rest_bytes;
        Some(Fast { word: u64::from_le_bytes(word), mask: u64::from_le_bytes(mask), bytes })
    }

    #[inline]
    fn matches(self, buffer: &[u8]) -> bool {
        // A reply which is shorter than the word and the last of the buffer takes the slow path.
        buffer.len() >= self.bytes
            && buffer.first_chunk().is_some_and(|&first| u64::from_le_bytes(first) & self.mask == self.word)
    }
}

fn literal(buffer: &[u8], expected: &[u8]) -> Check {
    if buffer.starts_with(expected) {
        return Check::Good { bytes: expected.len(), misses: 0 };
    }
    unexpected(buffer)
}

/// The reply is not, or not yet, what it should be: wait until it is whole, then it is an error or wrong.
fn unexpected(buffer: &[u8]) -> Check {
    match scan(buffer) {
        Scan::Incomplete { need } => Check::Incomplete { need },
        Scan::Complete { bytes } if buffer[0] == b'-' => {
            Check::Refused { bytes, kind: first_word(&buffer[1..bytes - 2]) }
        }
        Scan::Complete { bytes } => Check::Wrong { got: show(&buffer[..bytes]) },
        Scan::Invalid => Check::Wrong { got: format!("no RESP: {}", show(buffer)) },
    }
}

/// The same for memcached, whose errors are lines which begin with a word in capitals.
fn unexpected_line(buffer: &[u8]) -> Check {
    let Some(end) = buffer.windows(2).position(|pair| pair == b"\r\n") else {
        return Check::Incomplete { need: buffer.len() + 1 };
    };
    let kind = first_word(&buffer[..end]);
    match kind.as_str() {
        "ERROR" | "CLIENT_ERROR" | "SERVER_ERROR" => Check::Refused { bytes: end + 2, kind },
        _ => Check::Wrong { got: show(&buffer[..end]) },
    }
}

fn first_word(line: &[u8]) -> String {
    let word = line.split(|&byte| byte == b' ').next().unwrap_or_default();
    word[..word.len().min(40)].escape_ascii().to_string()
}

fn show(bytes: &[u8]) -> String {
    let shown = bytes[..bytes.len().min(120)].escape_ascii().to_string();
    if bytes.len() > 120 { format!("{shown}... ({} bytes)", bytes.len()) } else { shown }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whole, the reply has its length; each prefix of it is incomplete and asks for no more than it.
    #[test]
    fn every_reply_is_measured_and_every_prefix_is_incomplete() {
        for reply in [
            &b"+OK\r\n"[..],
            b"-ERR no\r\n",
            b":12\r\n",
            b"$5\r\na\r\nbc\r\n",
            b"$0\r\n\r\n",
            b"$-1\r\n",
            b"*-1\r\n",
            b"*0\r\n",
            b"*2\r\n*1\r\n:1\r\n$1\r\nx\r\n",
            b"%1\r\n+a\r\n_\r\n",
            b"~2\r\n#t\r\n,1.5\r\n",
            b"|1\r\n+k\r\n+v\r\n:3\r\n",
            b"=6\r\ntxt:ab\r\n",
        ] {
            let more = [reply, b"+NEXT\r\n"].concat();
            assert_eq!(scan(&more), Scan::Complete { bytes: reply.len() }, "{}", show(reply));
            for cut in 0..reply.len() {
                match scan(&reply[..cut]) {
                    Scan::Incomplete { need } => assert!(need > cut && need <= reply.len()),
                    other => panic!("{} cut at {cut}: {other:?}", show(reply)),
                }
            }
        }
        for bad in [&b"hello\r\n"[..], b"?", b"$x\r\n", b"*-2\r\n", b"$1\r\nabcd"] {
            assert_eq!(scan(bad), Scan::Invalid, "{}", show(bad));
        }
    }

    fn fixed(bytes: usize) -> Sizes {
        bytes.to_string().parse().unwrap()
    }

    fn unverified(sizes: &Sizes) -> Asked<'_> {
        Asked { indices: &[], sizes, verify: false }
    }

    #[test]
    fn expected_replies_pass_and_others_do_not() {
        let sizes = fixed(32);
        let kinds = [Kind::Ok, Kind::Pong, Kind::Integer, Kind::Value, Kind::Values(3), Kind::Stored, Kind::Item];
        for kind in kinds {
            let expectation = Expectation::new(kind, &sizes, 16);
            let sample = expectation.sample();
            let misses = u32::from(kind == Kind::Item);
            for tail in [&b""[..], b"$", b"+OK\r\n+OK\r\n"] {
                let buffer = [&sample[..], tail].concat();
                let good = Check::Good { bytes: sample.len(), misses };
                assert_eq!(expectation.check(&buffer, unverified(&sizes)), good, "{kind:?}");
            }
            for cut in 0..sample.len() {
                let check = expectation.check(&sample[..cut], unverified(&sizes));
                assert!(matches!(check, Check::Incomplete { .. }), "{kind:?} {cut} {check:?}");
            }
            for other in kinds.iter().filter(|&&other| other != kind) {
                let reply = Expectation::new(*other, &sizes, 16).sample();
                let check = expectation.check(&reply, unverified(&sizes));
                assert!(matches!(check, Check::Wrong { .. }), "{kind:?} {other:?}");
            }
        }
    }

    #[test]
    fn error_replies_are_told_from_wrong_ones() {
        let sizes = fixed(32);
        let refused = |bytes, kind: &str| Check::Refused { bytes, kind: kind.to_string() };
        for kind in [Kind::Ok, Kind::Integer, Kind::Value, Kind::Values(2), Kind::Any, Kind::AnyValue] {
            let expectation = Expectation::new(kind, &sizes, 16);
            assert_eq!(expectation.check(b"-OOM no room\r\n", unverified(&sizes)), refused(14, "OOM"));
        }
        for kind in [Kind::Stored, Kind::Item] {
            let expectation = Expectation::new(kind, &sizes, 16);
            assert_eq!(expectation.check(b"ERROR\r\n", unverified(&sizes)), refused(7, "ERROR"));
            let check = expectation.check(b"SERVER_ERROR out of memory\r\n", unverified(&sizes));
            assert_eq!(check, refused(28, "SERVER_ERROR"));
            assert!(matches!(expectation.check(b"SERVER_", unverified(&sizes)), Check::Incomplete { .. }));
        }
    }

    #[test]
    fn a_value_of_another_size_is_wrong_and_nil_is_a_miss() {
        let sizes = fixed(3);
        let expectation = Expectation::new(Kind::Value, &sizes, 16);
        assert_eq!(expectation.check(b"$-1\r\n", unverified(&sizes)), Check::Good { bytes: 5, misses: 1 });
        assert_eq!(expectation.check(b"_\r\n", unverified(&sizes)), Check::Good { bytes: 3, misses: 1 });
        assert!(matches!(expectation.check(b"$4\r\nabcd\r\n", unverified(&sizes)), Check::Wrong { .. }));
        let both = Expectation::new(Kind::Values(2), &sizes, 16);
        let replies = b"*2\r\n$-1\r\n$3\r\nabc\r\n";
        assert_eq!(both.check(replies, unverified(&sizes)), Check::Good { bytes: 18, misses: 1 });
    }

    #[test]
    fn sizes_which_vary_are_held_against_the_key() {
        let sizes: Sizes = "range:1-100".parse().unwrap();
        let expectation = Expectation::new(Kind::Value, &sizes, 16);
        let asked = Asked { indices: &[7], sizes: &sizes, verify: false };
        let reply = |bytes: usize| format!("${bytes}\r\n{}\r\n", "v".repeat(bytes)).into_bytes();
        let own = reply(sizes.of(7));
        assert_eq!(expectation.check(&own, asked), Check::Good { bytes: own.len(), misses: 0 });
        assert!(matches!(expectation.check(&reply(sizes.of(7) + 1), asked), Check::Wrong { .. }));
    }

    #[test]
    fn verification_compares_bytes_and_refuses_nil() {
        let sizes = fixed(20);
        let mut value = [0; 20];
        keys::write_value(&mut value, 9);
        let reply = [b"$20\r\n", &value[..], b"\r\n"].concat();
        let item = [b"VALUE key:000000000009 0 20\r\n", &value[..], b"\r\nEND\r\n"].concat();
        for (kind, reply, miss) in [(Kind::Value, reply, &b"$-1\r\n"[..]), (Kind::Item, item, b"END\r\n")] {
            let expectation = Expectation::new(kind, &sizes, 16);
            let asked = |indices| Asked { indices, sizes: &sizes, verify: true };
            let good = Check::Good { bytes: reply.len(), misses: 0 };
            assert_eq!(expectation.check(&reply, unverified(&sizes)), good);
            assert_eq!(expectation.check(&reply, asked(&[9])), good);
            assert!(matches!(expectation.check(&reply, asked(&[8])), Check::Wrong { .. }));
            assert!(matches!(expectation.check(miss, asked(&[9])), Check::Wrong { .. }));
        }
    }
}
