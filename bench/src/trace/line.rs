//! One line of a trace: the text of it, its columns, and the request they stand for.

use super::Operation;

/// The largest value of the protocol, 512 MiB.
const VALUE_BYTES_MAX: u32 = 512 << 20;

/// A record whose key has no number yet.
#[derive(Debug, PartialEq)]
pub struct Request<'a> {
    pub key: &'a str,
    pub size: u32,
    pub ttl_s: u32,
    pub operation: Operation,
}

/// What is wrong with a line.
#[derive(Debug, PartialEq, thiserror::Error)]
pub enum Problem {
    #[error(
        "the file is compressed with {0}; decompress it, or pass a pipe: {0} -dc FILE | torc-bench ... --dist \
         trace:/dev/stdin:FORMAT"
    )]
    Compressed(&'static str),
    #[error("is not UTF-8 text; is this a text file, and whole?")]
    NotText,
    #[error("contains a control character; is this a text file, and whole?")]
    Control,
    #[error("is {0} bytes or longer; is this a text file, and its format the right one?")]
    TooLong(u64),
    #[error("is empty; correct or remove it")]
    EmptyLine,
    #[error("has {got} column{s}, not {expected}: {names}; correct or remove it", s = if *got == 1 { "" } else { "s" })]
    Columns { got: usize, expected: String, names: String },
    #[error("the {column} '{text}' is not {expected}; correct or remove it")]
    Number { column: &'static str, text: String, expected: String },
    #[error(
        "the operation '{0}' is none of {known}; correct or remove it",
        known = OPERATIONS.map(|(name, _)| name).join(", ")
    )]
    Operation(String),
    #[error("the key is empty; correct or remove it")]
    EmptyKey,
    #[error("a quoted column must end with a quote, before the next delimiter; correct or remove it")]
    Quote,
    #[error("there are more than 2^32 different keys; read less of the file with limit=N")]
    TooManyKeys,
}

/// The text of a line without its end. `limit` bytes are too long.
pub fn text(bytes: &[u8], limit: u64) -> Result<&str, Problem> {
    match bytes {
        [0x1f, 0x8b, ..] => return Err(Problem::Compressed("gzip")),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => return Err(Problem::Compressed("zstd")),
        _ if bytes.len() as u64 >= limit => return Err(Problem::TooLong(limit)),
        _ => {}
    }
    let text = std::str::from_utf8(bytes).map_err(|_| Problem::NotText)?;
    let text = text.strip_suffix('\n').unwrap_or(text);
    let text = text.strip_suffix('\r').unwrap_or(text);
    if text.is_empty() {
        return Err(Problem::EmptyLine);
    }
    if text.bytes().any(|byte| byte < b' ' && byte != b'\t') {
        return Err(Problem::Control);
    }
    Ok(text)
}

/// `timestamp,anonymized key,key size,value size,client id,operation,TTL`, see
/// <https://github.com/twitter/cache-trace>. There is no quoting. A key may contain commas, so the columns
/// after it are counted from the end.
pub fn twitter(line: &str) -> Result<Request<'_>, Problem> {
    let columns = || Problem::Columns {
        got: line.split(',').count(),
        expected: "7".to_string(),
        names: "timestamp,anonymized key,key size,value size,client id,operation,TTL".to_string(),
    };
    let (timestamp, rest) = line.split_once(',').ok_or_else(columns)?;
    let mut last = rest.rsplitn(6, ',');
    let mut column = || last.next().ok_or_else(columns);
    let (ttl, name, _client, size, key_size, key) = (column()?, column()?, column()?, column()?, column()?, column()?);
    number("timestamp", timestamp, u32::MAX)?;
    number("key size", key_size, VALUE_BYTES_MAX)?;
    Ok(Request {
        key: not_empty(key)?,
        size: value_size("value size", size)?,
        ttl_s: number("TTL", ttl, u32::MAX)?,
        operation: operation(name)?,
    })
}

/// One key a line, with its spaces.
pub fn key(line: &str) -> Result<Request<'_>, Problem> {
    Ok(Request { key: not_empty(line)?, size: 0, ttl_s: 0, operation: Operation::Get })
}

/// Twitter's names, which are those of memcached, and those of block and object traces. What `add`, `replace`
/// and `cas` wrote on a condition is written without one, and what `append` and `prepend` added to a value
/// (their size is that of the piece) replaces it: a replay has not the values which the conditions are
/// about. `decr` counts up like `incr`: it costs the same, and nobody looks at the number.
const OPERATIONS: [(&str, Operation); 16] = [
    ("get", Operation::Get),
    ("gets", Operation::Get),
    ("read", Operation::Get),
    ("set", Operation::Set),
    ("add", Operation::Set),
    ("replace", Operation::Set),
    ("cas", Operation::Set),
    ("append", Operation::Set),
    ("prepend", Operation::Set),
    ("write", Operation::Set),
    ("update", Operation::Set),
    ("put", Operation::Set),
    ("delete", Operation::Delete),
    ("del", Operation::Delete),
    ("incr", Operation::Increment),
    ("decr", Operation::Increment),
];

/// In any case.
pub fn operation(name: &str) -> Result<Operation, Problem> {
    let found = OPERATIONS.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
    found.map(|(_, operation)| *operation).ok_or_else(|| Problem::Operation(shortened(name)))
}

/// Up to 512 MiB.
pub fn value_size(column: &'static str, text: &str) -> Result<u32, Problem> {
    number(column, text, VALUE_BYTES_MAX)
}

pub fn number(column: &'static str, text: &str, max: u32) -> Result<u32, Problem> {
    let wrong =
        || Problem::Number { column, text: shortened(text), expected: format!("a whole number from 0 to {max}") };
    text.parse().ok().filter(|number| *number <= max).ok_or_else(wrong)
}

pub fn not_empty(key: &str) -> Result<&str, Problem> {
    if key.is_empty() { Err(Problem::EmptyKey) } else { Ok(key) }
}

/// For messages.
pub fn shortened(text: &str) -> String {
    match text.char_indices().nth(40) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_string(),
    }
}

/// The columns of a line, without the spaces around them. A column which begins with a quote ends with one
/// and may contain delimiters; a doubled quote within stays doubled, which is enough to tell keys apart.
///
/// By hand rather than by a CSV library: those join lines when a quote is not closed, skip empty lines and
/// take what they can from wrong quoting, and here a damaged line is to be named by its number.
pub fn columns(line: &str, delimiter: char) -> Result<Vec<&str>, Problem> {
    let space = |character: char| character == ' ' && delimiter != ' ';
    let mut columns = Vec::with_capacity(8);
    let mut rest = Some(line);
    while let Some(text) = rest {
        match text.trim_start_matches(space).strip_prefix('"') {
            None => match text.split_once(delimiter) {
                Some((column, after)) => {
                    columns.push(column.trim_matches(space));
                    rest = Some(after);
                }
                None => {
                    columns.push(text.trim_matches(space));
                    rest = None;
                }
            },
            Some(quoted) => {
                let (column, after) = quoted.split_at(closing_quote(quoted).ok_or(Problem::Quote)?);
                columns.push(column);
                let after = after[1..].trim_start_matches(space);
                rest = after.strip_prefix(delimiter);
                if rest.is_none() && !after.is_empty() {
                    return Err(Problem::Quote);
                }
            }
        }
    }
    Ok(columns)
}

/// Where the first quote is that is not doubled.
fn closing_quote(quoted: &str) -> Option<usize> {
    let bytes = quoted.as_bytes();
    let mut at = 0;
    loop {
        at += bytes[at..].iter().position(|&byte| byte == b'"')?;
        if bytes.get(at + 1) != Some(&b'"') {
            return Some(at);
        }
        at += 2;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_split_at_delimiters_outside_of_quotes() {
        for (line, delimiter, expected) in [
            ("a,b,c", ',', vec!["a", "b", "c"]),
            (" a , b ,", ',', vec!["a", "b", ""]),
            ("", ',', vec![""]),
            ("\"a,b\" , \"\",c", ',', vec!["a,b", "", "c"]),
            ("\"a\"\"b\"", ',', vec!["a\"\"b"]),
            ("a\"b;c", ';', vec!["a\"b", "c"]),
            ("a  b", ' ', vec!["a", "", "b"]),
            ("é|ü", '|', vec!["é", "ü"]),
        ] {
            assert_eq!(columns(line, delimiter), Ok(expected), "{line}");
        }
        for line in ["\"a", "\"a\"b,c", "\"", "\"a\"\"", "x,\"\"\""] {
            assert_eq!(columns(line, ','), Err(Problem::Quote), "{line}");
        }
    }

    #[test]
    fn long_columns_are_shortened_at_a_character() {
        assert_eq!(shortened(&"é".repeat(41)), format!("{}...", "é".repeat(40)));
        assert_eq!(shortened("é"), "é");
    }
}
