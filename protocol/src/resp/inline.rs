//! Inline requests: a line typed by hand, split into arguments as a shell would (Redis's `sdssplitargs`).
//!
//! ```text
//! SET "a b\x41" 'it\'s' c   becomes   SET | a bA | it's | c
//! ```
//!
//! Blanks separate arguments. A quote may open anywhere in one; where it closes the argument ends. A backslash outside
//! quotes is a byte like any other. The table of cases is in the tests of [`super::request`], which go through the parser.

use memchr::memchr2;

use super::request::ProtocolError;
use crate::args::Span;

/// A line without its `\n` or `\r\n`.
pub(super) fn trim_line(line: &[u8]) -> &[u8] {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    line.strip_suffix(b"\r").unwrap_or(line)
}

/// Splits an inline request as Redis's `sdssplitargs` does. Without quotes the spans pushed index `line`, which lies at
/// `base`; with quotes they index the returned buffer. On an error nothing is left pushed.
pub(super) fn split_line(line: &[u8], base: usize, spans: &mut Vec<Span>) -> Result<Option<Vec<u8>>, ProtocolError> {
    if memchr2(b'"', b'\'', line).is_some() {
        let spans_before = spans.len();
        let unquoted = unquote_line(line, spans);
        if unquoted.is_err() {
            spans.truncate(spans_before);
        }
        return unquoted.map(Some);
    }
    let mut at = 0;
    loop {
        at += line[at..].iter().take_while(|&&byte| is_space(byte)).count();
        if at == line.len() {
            return Ok(None);
        }
        let len = line[at..].iter().take_while(|&&byte| !ends_token(byte)).count();
        spans.push(Span::range(base + at, len));
        at += len;
    }
}

/// The arguments of a line with quotes, one after another: `"..."` with backslash escapes, `'...'` with `\'` only.
fn unquote_line(line: &[u8], spans: &mut Vec<Span>) -> Result<Vec<u8>, ProtocolError> {
    let mut out = Vec::with_capacity(line.len());
    let mut rest = line;
    loop {
        rest = &rest[rest.iter().take_while(|&&byte| is_space(byte)).count()..];
        if rest.is_empty() {
            return Ok(out);
        }
        let start = out.len();
        loop {
            match *rest {
                [] => break,
                [byte, ..] if ends_token(byte) => break,
                [quote @ (b'"' | b'\''), ref after @ ..] => {
                    rest = unquote(quote, after, &mut out)?;
                    // A closing quote ends the argument; something that follows at once is an error.
                    match rest.first() {
                        Some(&byte) if !is_space(byte) => return Err(ProtocolError::UnbalancedQuotes),
                        _ => break,
                    }
                }
                [byte, ref after @ ..] => {
                    out.push(byte);
                    rest = after;
                }
            }
        }
        spans.push(Span::range(start, out.len() - start));
    }
}

/// Appends what stands before the closing `quote`; gives what stands after it.
fn unquote<'a>(quote: u8, mut rest: &'a [u8], out: &mut Vec<u8>) -> Result<&'a [u8], ProtocolError> {
    loop {
        let (byte, after) = match *rest {
            [] => return Err(ProtocolError::UnbalancedQuotes),
            [byte, ref after @ ..] if byte == quote => return Ok(after),
            [b'\\', b'\'', ref after @ ..] if quote == b'\'' => (b'\'', after),
            [b'\\', b'x', high, low, ref after @ ..]
                if quote == b'"' && high.is_ascii_hexdigit() && low.is_ascii_hexdigit() =>
            {
                (hex_digit(high) << 4 | hex_digit(low), after)
            }
            [b'\\', escaped, ref after @ ..] if quote == b'"' => (unescape(escaped), after),
            [byte, ref after @ ..] => (byte, after),
        };
        out.push(byte);
        rest = after;
    }
}

fn unescape(escaped: u8) -> u8 {
    match escaped {
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'b' => 0x08,
        b'a' => 0x07,
        other => other,
    }
}

fn hex_digit(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        _ => (digit | 0x20) - b'a' + 10,
    }
}

/// C's `isspace`.
fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t'..=b'\r')
}

/// What ends an argument outside quotes; a vertical tab or form feed does not, and yet counts as a blank between two.
fn ends_token(byte: u8) -> bool {
    matches!(byte, b' ' | b'\n' | b'\r' | b'\t')
}
