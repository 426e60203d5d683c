//! One line of a configuration file: a name, and values quoted as redis-server quotes them.
//!
//! ```text
//! # a comment, only at the start of a line
//! name value "double \x41 \n \"" 'single \''
//! ```

use thiserror::Error;

/// A line that says something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// In lower case.
    pub name: String,
    pub values: Vec<Vec<u8>>,
}

/// A quote that does not close, or is followed by something other than a space.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("unbalanced quotes in configuration line")]
pub struct Unbalanced;

/// The lines of a file: each with its number from 1 on, as it stands there, and what it says, see [`parse`].
pub fn lines(text: &[u8]) -> impl Iterator<Item = (usize, &[u8], Result<Option<Line>, Unbalanced>)> {
    text.split(|byte| *byte == b'\n').zip(1..).map(|(line, number)| (number, line, parse(line)))
}

/// Parses a line; `None` for a blank one or a comment.
pub fn parse(line: &[u8]) -> Result<Option<Line>, Unbalanced> {
    let line = line.trim_ascii();
    if line.first() == Some(&b'#') {
        return Ok(None);
    }
    let mut words = split(line)?.into_iter();
    let Some(name) = words.next() else {
        return Ok(None);
    };
    let name = String::from_utf8_lossy(&name).to_ascii_lowercase();
    Ok(Some(Line { name, values: words.collect() }))
}

/// Splits a line into words as Redis's `sdssplitargs` does.
pub fn split(line: &[u8]) -> Result<Vec<Vec<u8>>, Unbalanced> {
    let mut words = Vec::new();
    let mut rest = line;
    loop {
        rest = rest.trim_ascii_start();
        if rest.is_empty() {
            return Ok(words);
        }
        let mut word = Vec::new();
        loop {
            match rest {
                [] | [b' ' | b'\n' | b'\r' | b'\t', ..] => break,
                [b'"', after @ ..] => {
                    rest = double_quoted(after, &mut word)?;
                    break;
                }
                [b'\'', after @ ..] => {
                    rest = single_quoted(after, &mut word)?;
                    break;
                }
                [byte, after @ ..] => {
                    word.push(*byte);
                    rest = after;
                }
            }
        }
        words.push(word);
    }
}

/// The words as a line that [`split`] takes apart into the same words.
pub fn join<W: AsRef<[u8]>>(words: &[W]) -> String {
    let mut line = String::new();
    for word in words {
        if !line.is_empty() {
            line.push(' ');
        }
        line.push('"');
        for byte in word.as_ref() {
            match byte {
                b'"' | b'\\' => line.extend(['\\', *byte as char]),
                b' '..=b'~' => line.push(*byte as char),
                _ => line.push_str(&format!("\\x{byte:02x}")),
            }
        }
        line.push('"');
    }
    line
}

/// Reads up to the closing quote; gives what follows it.
fn double_quoted<'a>(mut rest: &'a [u8], word: &mut Vec<u8>) -> Result<&'a [u8], Unbalanced> {
    loop {
        rest = match rest {
            [b'\\', b'x', high, low, after @ ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                let digit = |byte: u8| (byte as char).to_digit(16).expect("a hex digit") as u8;
                word.push(digit(*high) * 16 + digit(*low));
                after
            }
            [b'\\', escaped, after @ ..] => {
                word.push(match escaped {
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    b'b' => 8,
                    b'a' => 7,
                    other => *other,
                });
                after
            }
            [b'"', after @ ..] => return closed(after),
            [byte, after @ ..] => {
                word.push(*byte);
                after
            }
            [] => return Err(Unbalanced),
        };
    }
}

fn single_quoted<'a>(mut rest: &'a [u8], word: &mut Vec<u8>) -> Result<&'a [u8], Unbalanced> {
    loop {
        rest = match rest {
            [b'\\', b'\'', after @ ..] => {
                word.push(b'\'');
                after
            }
            [b'\'', after @ ..] => return closed(after),
            [byte, after @ ..] => {
                word.push(*byte);
                after
            }
            [] => return Err(Unbalanced),
        };
    }
}

/// A closing quote is followed by a space or by nothing.
fn closed(after: &[u8]) -> Result<&[u8], Unbalanced> {
    match after.first() {
        Some(byte) if !byte.is_ascii_whitespace() => Err(Unbalanced),
        _ => Ok(after),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::Config;

    #[test]
    fn lines() {
        let rows: &[(&str, Option<&[&str]>)] = &[
            ("", None),
            (" \t ", None),
            ("  # port 1", None),
            ("PORT 6379\r", Some(&["port", "6379"])),
            ("save  900\t1", Some(&["save", "900", "1"])),
            ("save \"\"", Some(&["save", ""])),
            (r#"a "b \"c\" \x41\n" 'd \' "e"'"#, Some(&["a", "b \"c\" A\n", "d ' \"e\""])),
            (r#"a "\xg1""#, Some(&["a", "xg1"])),
            ("dir a#b # c", Some(&["dir", "a#b", "#", "c"])),
        ];
        for (text, want) in rows {
            let got = parse(text.as_bytes()).expect("balanced").map(|line| {
                let values = line.values.into_iter().map(|v| String::from_utf8(v).unwrap());
                [line.name].into_iter().chain(values).collect::<Vec<_>>()
            });
            assert_eq!(got.as_deref(), want.map(|w| w.map_strings()).as_deref(), "{text:?}");
        }
        for text in ["a \"b", "a 'b", "a \"b\"c", "a 'b'c", "a \"b\\"] {
            assert_eq!(parse(text.as_bytes()), Err(Unbalanced), "{text:?}");
        }
    }

    trait MapStrings {
        fn map_strings(&self) -> Vec<String>;
    }
    impl MapStrings for &[&str] {
        fn map_strings(&self) -> Vec<String> {
            self.iter().map(|word| word.to_string()).collect()
        }
    }

    proptest! {
        #[test]
        fn join_is_undone_by_split(words: Vec<Vec<u8>>) {
            prop_assert_eq!(split(join(&words).as_bytes()), Ok(words));
        }

        /// Whatever a file holds, reading it ends in a value or an error.
        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>, row in 0..Config::rows().len(), tail: Vec<u8>) {
            let mut config = Config::default();
            let named = [Config::rows()[row].name.as_bytes(), b" ", &tail].concat();
            for line in bytes.split(|byte| *byte == b'\n').chain([&named[..]]) {
                if let Ok(Some(line)) = parse(line) {
                    let _ = config.set_at_start(&line.name, &line.values);
                }
            }
        }
    }
}
