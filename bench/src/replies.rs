//! Reading replies. `check` asks "is this the reply I expect?", which for the common replies is one
//! masked 8-byte comparison and a jump over the value; `scan` measures any reply, for everything else.

use crate::keys;

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
    /// The value of the request's key, or nil.
    Value,
    /// One value or nil for each of so many keys.
    Values(usize),
}

/// What one request's reply must be.
#[derive(Clone, Debug)]
pub struct Expectation {
    kind: Kind,
    value_bytes: usize,
    /// `$32\r\n`
    value_header: Vec<u8>,
    /// `*16\r\n`
    array_header: Vec<u8>,
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
    Good { bytes: usize, misses: u32 },
    Incomplete { need: usize },
    Wrong { got: String },
}

impl Expectation {
    pub fn new(kind: Kind, value_bytes: usize) -> Expectation {
        let value_header = format!("${value_bytes}\r\n").into_bytes();
        let array_header = match kind {
            Kind::Values(count) => format!("*{count}\r\n").into_bytes(),
            _ => Vec::new(),
        };
        let fast = match kind {
            Kind::Ok => Fast::new(b"+OK\r\n", 0),
            Kind::Pong => Fast::new(b"+PONG\r\n", 0),
            Kind::Value => Fast::new(&value_header, value_bytes + 2),
            Kind::Integer | Kind::Values(_) => None,
        };
        Expectation { kind, value_bytes, value_header, array_header, fast }
    }

    /// Checks the reply at the front of `buffer`. With `indices`, the keys the request asked for, the
    /// values are compared byte for byte and nil is wrong.
    #[inline]
    pub fn check(&self, buffer: &[u8], indices: Option<&[u64]>) -> Check {
        if indices.is_none()
            && let Some(fast) = self.fast
            && fast.matches(buffer)
        {
            return Check::Good { bytes: fast.bytes, misses: 0 };
        }
        self.check_slowly(buffer, indices)
    }

    fn check_slowly(&self, buffer: &[u8], indices: Option<&[u64]>) -> Check {
        match self.kind {
            Kind::Ok => literal(buffer, b"+OK\r\n"),
            Kind::Pong => literal(buffer, b"+PONG\r\n"),
            Kind::Integer => match (buffer.first(), scan(buffer)) {
                (Some(b':'), Scan::Complete { bytes }) => Check::Good { bytes, misses: 0 },
                _ => unexpected(buffer),
            },
            Kind::Value => self.value(buffer, indices.map(|all| all[0])),
            Kind::Values(count) => self.values(buffer, count, indices),
        }
    }

    fn values(&self, buffer: &[u8], count: usize, indices: Option<&[u64]>) -> Check {
        if !buffer.starts_with(&self.array_header) {
            return unexpected(buffer);
        }
        let (mut position, mut misses_total) = (self.array_header.len(), 0);
        for i in 0..count {
            match self.value(&buffer[position..], indices.map(|all| all[i])) {
                Check::Good { bytes, misses } => {
                    position += bytes;
                    misses_total += misses;
                }
                Check::Incomplete { need } => return Check::Incomplete { need: position + need },
                wrong => return wrong,
            }
        }
        Check::Good { bytes: position, misses: misses_total }
    }

    fn value(&self, buffer: &[u8], index: Option<u64>) -> Check {
        if buffer.starts_with(&self.value_header) {
            let start = self.value_header.len();
            let end = start + self.value_bytes;
            if buffer.len() < end + 2 {
                return Check::Incomplete { need: end + 2 };
            }
            let value_is_wrong = index.is_some_and(|index| !keys::value_matches(&buffer[start..end], index));
            if value_is_wrong || &buffer[end..end + 2] != b"\r\n" {
                return Check::Wrong { got: format!("other bytes: {}", show(&buffer[..end + 2])) };
            }
            return Check::Good { bytes: end + 2, misses: 0 };
        }
        let nil_bytes = [&b"$-1\r\n"[..], b"_\r\n"].into_iter().find(|nil| buffer.starts_with(nil)).map(<[u8]>::len);
        match nil_bytes {
            Some(bytes) if index.is_none() => Check::Good { bytes, misses: 1 },
            Some(_) => Check::Wrong { got: "nil".to_string() },
            None => unexpected(buffer),
        }
    }

    /// A correct reply, for the floor server to send.
    pub fn sample(&self) -> Vec<u8> {
        let mut value = self.value_header.clone();
        value.resize(value.len() + self.value_bytes, b'v');
        value.extend_from_slice(b"\r\n");
        match self.kind {
            Kind::Ok => b"+OK\r\n".to_vec(),
            Kind::Pong => b"+PONG\r\n".to_vec(),
            Kind::Integer => b":1\r\n".to_vec(),
            Kind::Value => value,
            Kind::Values(count) => [self.array_header.clone(), value.repeat(count)].concat(),
        }
    }

    pub fn describe(&self) -> String {
        match self.kind {
            Kind::Ok => "+OK".to_string(),
            Kind::Pong => "+PONG".to_string(),
            Kind::Integer => "an integer".to_string(),
            Kind::Value => format!("the key's value of {} bytes", self.value_bytes),
            Kind::Values(count) => format!("{count} values of {} bytes", self.value_bytes),
        }
    }
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

/// The reply is not, or not yet, what it should be: wait until it is whole, then it is wrong.
fn unexpected(buffer: &[u8]) -> Check {
    match scan(buffer) {
        Scan::Incomplete { need } => Check::Incomplete { need },
        Scan::Complete { bytes } => Check::Wrong { got: show(&buffer[..bytes]) },
        Scan::Invalid => Check::Wrong { got: format!("no RESP: {}", show(buffer)) },
    }
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

    #[test]
    fn expected_replies_pass_and_others_do_not() {
        let kinds = [Kind::Ok, Kind::Pong, Kind::Integer, Kind::Value, Kind::Values(3)];
        for kind in kinds {
            let expectation = Expectation::new(kind, 32);
            let sample = expectation.sample();
            for tail in [&b""[..], b"$", b"+OK\r\n+OK\r\n"] {
                let buffer = [&sample[..], tail].concat();
                assert_eq!(expectation.check(&buffer, None), Check::Good { bytes: sample.len(), misses: 0 });
            }
            for cut in 0..sample.len() {
                assert!(matches!(expectation.check(&sample[..cut], None), Check::Incomplete { .. }), "{kind:?} {cut}");
            }
            let wrong = Check::Wrong { got: "-ERR x\\r\\n".to_string() };
            assert_eq!(expectation.check(b"-ERR x\r\n", None), wrong);
            for other in kinds.iter().filter(|&&other| other != kind) {
                let reply = Expectation::new(*other, 32).sample();
                assert!(matches!(expectation.check(&reply, None), Check::Wrong { .. }), "{kind:?} {other:?}");
            }
        }
    }

    #[test]
    fn a_value_of_another_size_is_wrong_and_nil_is_a_miss() {
        let expectation = Expectation::new(Kind::Value, 3);
        assert_eq!(expectation.check(b"$-1\r\n", None), Check::Good { bytes: 5, misses: 1 });
        assert_eq!(expectation.check(b"_\r\n", None), Check::Good { bytes: 3, misses: 1 });
        assert!(matches!(expectation.check(b"$4\r\nabcd\r\n", None), Check::Wrong { .. }));
        let both = Expectation::new(Kind::Values(2), 3);
        assert_eq!(both.check(b"*2\r\n$-1\r\n$3\r\nabc\r\n", None), Check::Good { bytes: 18, misses: 1 });
    }

    #[test]
    fn verification_compares_bytes_and_refuses_nil() {
        let expectation = Expectation::new(Kind::Value, 20);
        let mut reply = b"$20\r\n".to_vec();
        let mut value = [0; 20];
        keys::write_value(&mut value, 9);
        reply.extend_from_slice(&value);
        reply.extend_from_slice(b"\r\n");
        assert_eq!(expectation.check(&reply, Some(&[9])), Check::Good { bytes: 27, misses: 0 });
        assert!(matches!(expectation.check(&reply, Some(&[8])), Check::Wrong { .. }));
        assert!(matches!(expectation.check(b"$-1\r\n", Some(&[9])), Check::Wrong { .. }));
    }
}
