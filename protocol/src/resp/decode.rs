//! Replies, read: for the load generator, tests and clients.
//!
//! [`decode`] builds a tree, [`skip_reply`] only finds where a reply ends. Both take a prefix of a stream and say `None`
//! when it holds less than one reply; both then start from the beginning when more has arrived, so a caller that awaits
//! a large reply should read in growing pieces.
//!
//! Unlike requests, replies come from a server that is meant to be right: anything out of form is an error. `skip_reply`
//! checks only what it needs to find the end, so it accepts all that `decode` accepts and more (`#x`, an integer that is
//! no number, deeper nesting). RESP3's streamed types (`$?`, `*?`), which no server sends, are refused.

use memchr::memchr;

use super::number::read_decimal;

/// Deepest nesting that [`decode`] follows.
pub const DEPTH_MAX: usize = 128;
/// Most elements an aggregate may announce.
const ELEMENTS_MAX: i64 = u32::MAX as i64;

/// One reply of either dialect.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    /// `+text`.
    Simple(Vec<u8>),
    /// `-text` or `!<len>`.
    Error(Vec<u8>),
    /// `:<n>`.
    Integer(i64),
    /// `$<len>`.
    Bulk(Vec<u8>),
    /// `_`, `$-1` or `*-1`.
    Null,
    /// `*<count>`.
    Array(Vec<Reply>),
    /// `%<count>`, in the order sent.
    Map(Vec<(Reply, Reply)>),
    /// `~<count>`, in the order sent.
    Set(Vec<Reply>),
    /// `,<text>`.
    Double(f64),
    /// `#t` or `#f`.
    Boolean(bool),
    /// `=<len>`: three bytes that name the format, a colon, the text.
    Verbatim { format: [u8; 3], text: Vec<u8> },
    /// `(<digits>`.
    BigNumber(Vec<u8>),
    /// `><count>`: out of band, no answer to a command.
    Push(Vec<Reply>),
    /// `|<count>`: pairs that say something about the reply that follows.
    Attribute { pairs: Vec<(Reply, Reply)>, reply: Box<Reply> },
}

/// Why bytes are not a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    #[error("a reply cannot begin with '{}'", .0.escape_ascii())]
    Kind(u8),
    #[error("a length is not a number in range")]
    Length,
    #[error("a line or payload does not end in \\r\\n")]
    Terminator,
    #[error("a number, boolean or verbatim string is out of form")]
    Value,
    #[error("replies are nested more than {DEPTH_MAX} deep")]
    Depth,
}

/// Reads the first reply of `input` and says how long it was. `None`: it is not whole yet.
pub fn decode(input: &[u8]) -> Result<Option<(Reply, usize)>, DecodeError> {
    let mut reader = Reader { rest: input };
    Ok(reader.reply(0)?.map(|reply| (reply, input.len() - reader.rest.len())))
}

/// The length of the first reply of `input`, pushes and attributes with their reply included. `None`: it is not whole
/// yet. Walks the elements of aggregates in a loop, so no nesting is too deep.
pub fn skip_reply(input: &[u8]) -> Result<Option<usize>, DecodeError> {
    let mut reader = Reader { rest: input };
    // A header adds at most 2^33: no input is long enough to reach the top, and saturating costs nothing.
    let mut replies_left: u64 = 1;
    while replies_left > 0 {
        let Some((kind, line)) = reader.line()? else {
            return Ok(None);
        };
        replies_left -= 1;
        match kind {
            b'+' | b'-' | b':' | b'_' | b',' | b'#' | b'(' => {}
            b'$' | b'!' | b'=' => {
                if let Some(len) = length(kind, line)?
                    && reader.payload(len)?.is_none()
                {
                    return Ok(None);
                }
            }
            b'*' | b'~' | b'>' => replies_left = replies_left.saturating_add(count(kind, line)?.unwrap_or(0)),
            b'%' => replies_left = replies_left.saturating_add(count(kind, line)?.unwrap_or(0) * 2),
            b'|' => replies_left = replies_left.saturating_add(count(kind, line)?.unwrap_or(0) * 2 + 1),
            _ => return Err(DecodeError::Kind(kind)),
        }
    }
    Ok(Some(input.len() - reader.rest.len()))
}

/// What is left of the input.
struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn reply(&mut self, depth: usize) -> Result<Option<Reply>, DecodeError> {
        if depth >= DEPTH_MAX {
            return Err(DecodeError::Depth);
        }
        let Some((kind, line)) = self.line()? else {
            return Ok(None);
        };
        Ok(Some(match kind {
            b'+' => Reply::Simple(line.to_vec()),
            b'-' => Reply::Error(line.to_vec()),
            b':' => Reply::Integer(integer(line)?),
            b'_' if line.is_empty() => Reply::Null,
            b',' => Reply::Double(double(line)?),
            b'#' if line == b"t" => Reply::Boolean(true),
            b'#' if line == b"f" => Reply::Boolean(false),
            b'(' if is_big_number(line) => Reply::BigNumber(line.to_vec()),
            b'_' | b'#' | b'(' => return Err(DecodeError::Value),
            b'$' | b'!' | b'=' => {
                let Some(len) = length(kind, line)? else {
                    return Ok(Some(Reply::Null));
                };
                let Some(payload) = self.payload(len)? else {
                    return Ok(None);
                };
                match (kind, payload) {
                    (b'$', _) => Reply::Bulk(payload.to_vec()),
                    (b'!', _) => Reply::Error(payload.to_vec()),
                    (_, &[a, b, c, b':', ref text @ ..]) => Reply::Verbatim { format: [a, b, c], text: text.to_vec() },
                    _ => return Err(DecodeError::Value),
                }
            }
            b'*' | b'~' | b'>' => {
                let Some(count) = count(kind, line)? else {
                    return Ok(Some(Reply::Null));
                };
                // Grown as elements arrive: the count is only a promise.
                let mut elements = Vec::new();
                for _ in 0..count {
                    match self.reply(depth + 1)? {
                        Some(element) => elements.push(element),
                        None => return Ok(None),
                    }
                }
                match kind {
                    b'*' => Reply::Array(elements),
                    b'~' => Reply::Set(elements),
                    _ => Reply::Push(elements),
                }
            }
            b'%' | b'|' => {
                let mut pairs = Vec::new();
                for _ in 0..count(kind, line)?.unwrap_or(0) {
                    let Some(key) = self.reply(depth + 1)? else {
                        return Ok(None);
                    };
                    let Some(value) = self.reply(depth + 1)? else {
                        return Ok(None);
                    };
                    pairs.push((key, value));
                }
                if kind == b'%' {
                    return Ok(Some(Reply::Map(pairs)));
                }
                match self.reply(depth + 1)? {
                    Some(reply) => Reply::Attribute { pairs, reply: Box::new(reply) },
                    None => return Ok(None),
                }
            }
            _ => return Err(DecodeError::Kind(kind)),
        }))
    }

    /// Takes a line: its first byte, and the rest without `\r\n`.
    #[inline]
    fn line(&mut self) -> Result<Option<(u8, &'a [u8])>, DecodeError> {
        let rest = self.rest;
        // `:1`, `$5`, `*2`: by far the most lines of a large reply.
        if let [kind, digit, b'\r', b'\n', after @ ..] = rest
            && digit.is_ascii_digit()
            && *kind != b'\n'
        {
            self.rest = after;
            return Ok(Some((*kind, &rest[1..2])));
        }
        let Some(end) = memchr(b'\n', rest) else {
            return Ok(None);
        };
        self.rest = &rest[end + 1..];
        match &rest[..end] {
            [kind, text @ .., b'\r'] => Ok(Some((*kind, text))),
            _ => Err(DecodeError::Terminator),
        }
    }

    /// Takes `len` bytes and the `\r\n` after them.
    #[inline]
    fn payload(&mut self, len: usize) -> Result<Option<&'a [u8]>, DecodeError> {
        let Some(payload) = self.rest.get(..len) else {
            return Ok(None);
        };
        match &self.rest[len..] {
            [b'\r', b'\n', after @ ..] => {
                self.rest = after;
                Ok(Some(payload))
            }
            [] | [b'\r'] => Ok(None),
            _ => Err(DecodeError::Terminator),
        }
    }
}

/// The length of a string; `None` for the null `$-1`.
#[inline]
fn length(kind: u8, line: &[u8]) -> Result<Option<usize>, DecodeError> {
    match read_decimal(line) {
        Some(-1) if kind == b'$' => Ok(None),
        Some(len) => usize::try_from(len).map(Some).map_err(|_| DecodeError::Length),
        None => Err(DecodeError::Length),
    }
}

/// How many elements or pairs; `None` for the null `*-1`.
#[inline]
fn count(kind: u8, line: &[u8]) -> Result<Option<u64>, DecodeError> {
    match read_decimal(line) {
        Some(-1) if kind == b'*' => Ok(None),
        Some(count @ 0..=ELEMENTS_MAX) => Ok(Some(count as u64)),
        _ => Err(DecodeError::Length),
    }
}

/// RESP3 allows a `+` before an integer.
fn integer(line: &[u8]) -> Result<i64, DecodeError> {
    let unsigned = line.strip_prefix(b"+").filter(|digits| digits.first() != Some(&b'-'));
    read_decimal(unsigned.unwrap_or(line)).ok_or(DecodeError::Value)
}

fn double(line: &[u8]) -> Result<f64, DecodeError> {
    std::str::from_utf8(line).ok().and_then(|text| text.parse().ok()).ok_or(DecodeError::Value)
}

fn is_big_number(line: &[u8]) -> bool {
    let digits = line.strip_prefix(b"-").or(line.strip_prefix(b"+")).unwrap_or(line);
    !digits.is_empty() && digits.iter().all(u8::is_ascii_digit)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bulk(text: &str) -> Reply {
        Reply::Bulk(text.as_bytes().to_vec())
    }

    #[test]
    fn every_type() {
        use Reply::*;
        let pair = || vec![(Simple(b"k".to_vec()), Integer(1))];
        for (text, reply) in [
            ("+OK\r\n", Simple(b"OK".to_vec())),
            ("+\r\n", Simple(Vec::new())),
            ("+x\r\n", Simple(b"x".to_vec())),
            ("-ERR no\r\n", Error(b"ERR no".to_vec())),
            ("!3\r\na\nb\r\n", Error(b"a\nb".to_vec())),
            (":0\r\n", Integer(0)),
            (":+12\r\n", Integer(12)),
            (":-9223372036854775808\r\n", Integer(i64::MIN)),
            ("$3\r\nabc\r\n", bulk("abc")),
            ("$0\r\n\r\n", bulk("")),
            ("$-1\r\n", Null),
            ("*-1\r\n", Null),
            ("_\r\n", Null),
            ("*0\r\n", Array(vec![])),
            ("*2\r\n$1\r\na\r\n*1\r\n:7\r\n", Array(vec![bulk("a"), Array(vec![Integer(7)])])),
            ("%1\r\n+k\r\n:1\r\n", Map(pair())),
            ("~1\r\n:1\r\n", Set(vec![Integer(1)])),
            (",3.5\r\n", Double(3.5)),
            (",-inf\r\n", Double(f64::NEG_INFINITY)),
            ("#t\r\n", Boolean(true)),
            ("#f\r\n", Boolean(false)),
            ("=7\r\ntxt:abc\r\n", Verbatim { format: *b"txt", text: b"abc".to_vec() }),
            ("(-123456789012345678901234\r\n", BigNumber(b"-123456789012345678901234".to_vec())),
            (">1\r\n+pong\r\n", Push(vec![Simple(b"pong".to_vec())])),
            ("|1\r\n+k\r\n:1\r\n:2\r\n", Attribute { pairs: pair(), reply: Box::new(Integer(2)) }),
        ] {
            let with_more = format!("{text}+more\r\n");
            assert_eq!(decode(with_more.as_bytes()), Ok(Some((reply, text.len()))), "{text:?}");
            assert_eq!(skip_reply(with_more.as_bytes()), Ok(Some(text.len())), "{text:?}");
            for end in 0..text.len() {
                assert_eq!(decode(&text.as_bytes()[..end]), Ok(None), "{text:?} cut at {end}");
                assert_eq!(skip_reply(&text.as_bytes()[..end]), Ok(None), "{text:?} cut at {end}");
            }
        }
    }

    #[test]
    fn what_is_refused() {
        for (text, error) in [
            ("x\r\n", DecodeError::Kind(b'x')),
            ("\r\n", DecodeError::Terminator),
            ("+a\n", DecodeError::Terminator),
            ("+\n\r\n", DecodeError::Terminator),
            ("\n1\r\n", DecodeError::Terminator),
            ("$1\r\nabc", DecodeError::Terminator),
            ("$-2\r\n", DecodeError::Length),
            ("$?\r\n", DecodeError::Length),
            ("$\r\n", DecodeError::Length),
            ("!-1\r\n", DecodeError::Length),
            ("%-1\r\n", DecodeError::Length),
            ("*4294967296\r\n", DecodeError::Length),
            (":1x\r\n", DecodeError::Value),
            (":+-1\r\n", DecodeError::Value),
            ("#x\r\n", DecodeError::Value),
            ("_x\r\n", DecodeError::Value),
            (",one\r\n", DecodeError::Value),
            ("(\r\n", DecodeError::Value),
            ("=3\r\ntxt\r\n", DecodeError::Value),
        ] {
            assert_eq!(decode(text.as_bytes()), Err(error), "{text:?}");
            if error != DecodeError::Value {
                assert_eq!(skip_reply(text.as_bytes()), Err(error), "{text:?}");
            }
        }
    }

    #[test]
    fn deep_nesting_is_refused_without_deep_recursion() {
        let nested = |depth: usize| [b"*1\r\n".repeat(depth), b":1\r\n".to_vec()].concat();
        assert!(matches!(decode(&nested(DEPTH_MAX - 1)), Ok(Some(_))));
        for depth in [DEPTH_MAX, 1_000_000] {
            let text = nested(depth);
            assert_eq!(decode(&text), Err(DecodeError::Depth));
            assert_eq!(skip_reply(&text), Ok(Some(text.len())));
        }
        assert_eq!(decode(&b"|0\r\n".repeat(100_000)), Err(DecodeError::Depth));
    }
}
