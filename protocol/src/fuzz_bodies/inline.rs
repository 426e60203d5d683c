//! Target `inline`: lines typed by hand, held against the splitter of Redis in its plainest form.

use super::{Outcome, parse_stream};
use crate::limits::{ARGS_MAX, INLINE_BYTES_MAX, RequestLimits};
use crate::resp::request::ProtocolError;

/// A line gives the arguments that Redis's `sdssplitargs` gives, in one piece or byte by byte; and words, quoted and
/// joined, come back as they were.
pub fn inline(data: &[u8]) {
    let line: Vec<u8> = data.iter().copied().filter(|&byte| byte != b'\n').collect();
    // With a star it is no line, and what is too long is refused whatever is in it.
    if line.first() != Some(&b'*') && line.len() < INLINE_BYTES_MAX {
        let outcome = parsed(&line);
        match split(line.strip_suffix(b"\r").unwrap_or(&line)) {
            None => assert_eq!((outcome.error, outcome.requests.len()), (Some(ProtocolError::UnbalancedQuotes), 0)),
            Some(words) => assert_eq!((arguments(&outcome), outcome.error), (words, None)),
        }
    }
    // Words between zeros, each in quotes of one kind or the other.
    let words: Vec<&[u8]> = data.split(|&byte| byte == 0).take(ARGS_MAX).collect();
    let quoted: Vec<u8> = words.iter().enumerate().flat_map(|(at, word)| quoted(word, at % 2 == 0)).collect();
    if quoted.len() < INLINE_BYTES_MAX {
        assert_eq!(arguments(&parsed(&quoted)), words);
    }
}

/// What a line is taken for, which must not depend on how it arrives.
fn parsed(line: &[u8]) -> Outcome {
    let stream = [line, b"\n"].concat();
    let limits = RequestLimits::default();
    let whole = parse_stream(&stream, &limits, || usize::MAX);
    assert_eq!(whole, parse_stream(&stream, &limits, || 1));
    assert!(!whole.is_mid_request && whole.requests.len() <= 1);
    whole
}

/// The arguments of the only request; none if there is no request.
fn arguments(outcome: &Outcome) -> Vec<Vec<u8>> {
    outcome.requests.iter().flatten().map(|(argument, _)| argument.clone()).collect()
}

fn quoted(word: &[u8], is_double: bool) -> Vec<u8> {
    // Between single quotes there is no way to write the end of a line, or a backslash before a quote.
    if !is_double && !word.contains(&b'\n') && !word.contains(&b'\\') {
        let escaped: Vec<u8> =
            word.iter().flat_map(|&byte| if byte == b'\'' { vec![b'\\', byte] } else { vec![byte] }).collect();
        return [b"'", &escaped[..], b"' "].concat();
    }
    let escaped: Vec<u8> = word
        .iter()
        .flat_map(|&byte| match byte {
            b'"' | b'\\' => vec![b'\\', byte],
            b'\n' => b"\\n".to_vec(),
            b' '..=b'~' => vec![byte],
            _ => format!("\\x{byte:02x}").into_bytes(),
        })
        .collect();
    [b"\"", &escaped[..], b"\" "].concat()
}

/// Redis's `sdssplitargs`, state by state; None: the quotes do not match. Where that reads the zero behind a C string, this
/// reads None; a zero within the line is a byte like any other.
fn split(line: &[u8]) -> Option<Vec<Vec<u8>>> {
    let is_space = |byte: u8| matches!(byte, b' ' | b'\t' | b'\n' | 0x0b | 0x0c | b'\r');
    let is_hex = |byte: Option<&u8>| byte.is_some_and(|byte| byte.is_ascii_hexdigit());
    let hex = |byte: u8| (byte as char).to_digit(16).expect("a digit") as u8;
    let (mut at, mut words) = (0, Vec::new());
    loop {
        while line.get(at).is_some_and(|&byte| is_space(byte)) {
            at += 1;
        }
        if at == line.len() {
            return Some(words);
        }
        let (mut word, mut quote, mut is_done) = (Vec::new(), None, false);
        while !is_done {
            let byte = line.get(at).copied();
            match (quote, byte) {
                (Some(_), None) => return None,
                (Some(b'"'), Some(b'\\'))
                    if line.get(at + 1) == Some(&b'x') && is_hex(line.get(at + 2)) && is_hex(line.get(at + 3)) =>
                {
                    word.push(hex(line[at + 2]) * 16 + hex(line[at + 3]));
                    at += 3;
                }
                (Some(b'"'), Some(b'\\')) if at + 1 < line.len() => {
                    at += 1;
                    word.push(match line[at] {
                        b'n' => b'\n',
                        b'r' => b'\r',
                        b't' => b'\t',
                        b'b' => 8,
                        b'a' => 7,
                        other => other,
                    });
                }
                (Some(b'\''), Some(b'\\')) if line.get(at + 1) == Some(&b'\'') => {
                    at += 1;
                    word.push(b'\'');
                }
                (Some(open), Some(byte)) if byte == open => {
                    if line.get(at + 1).is_some_and(|&byte| !is_space(byte)) {
                        return None;
                    }
                    is_done = true;
                }
                (Some(_), Some(byte)) => word.push(byte),
                (None, None | Some(b' ' | b'\n' | b'\r' | b'\t')) => is_done = true,
                (None, Some(open @ (b'"' | b'\''))) => quote = Some(open),
                (None, Some(byte)) => word.push(byte),
            }
            at = line.len().min(at + 1);
        }
        words.push(word);
    }
}
