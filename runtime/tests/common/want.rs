//! The reply a test wants, written once for both dialects.

use super::client::reply_len;

/// The version of the protocol a connection speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    Resp2,
    Resp3,
}

/// A wanted reply. Everything but the named liberties is compared byte for byte.
#[derive(Clone, Copy, Debug)]
pub enum Want {
    /// `+OK`
    Status(&'static str),
    /// `-ERR syntax error`
    Error(&'static str),
    /// An error that begins so.
    ErrorLike(&'static str),
    Int(i64),
    /// An integer between the two, both included.
    Between(i64, i64),
    Bulk(&'static str),
    /// Any bulk string but the null one.
    AnyBulk,
    /// The null bulk string, or RESP3's null.
    Nil,
    List(&'static [Want]),
    /// A list that begins with these.
    ListLike(&'static [Want]),
    /// Bulk strings in any order.
    Members(&'static [&'static str]),
    /// A list of statuses in any order; in RESP3 a set.
    Flags(&'static [&'static str]),
    /// Pairs in this order: a flat list in RESP2.
    Map(&'static [(&'static str, Want)]),
    /// Text that contains all of these: a verbatim string in RESP3.
    Text(&'static [&'static str]),
    /// Any of these.
    OneOf(&'static [Want]),
}

impl Want {
    /// Whether `reply` is this, and nothing follows it.
    pub fn matches(&self, dialect: Dialect, reply: &[u8]) -> bool {
        self.take(dialect, reply) == Some(reply.len())
    }

    /// The length of the reply at the front of `bytes` if it is the wanted one.
    fn take(&self, dialect: Dialect, bytes: &[u8]) -> Option<usize> {
        let exact = |text: String| bytes.starts_with(text.as_bytes()).then_some(text.len());
        let resp2 = dialect == Dialect::Resp2;
        match *self {
            Want::Status(text) => exact(format!("+{text}\r\n")),
            Want::Error(text) => exact(format!("-{text}\r\n")),
            Want::ErrorLike(text) => bytes.starts_with(format!("-{text}").as_bytes()).then(|| reply_len(bytes))?,
            Want::Int(value) => exact(format!(":{value}\r\n")),
            Want::Between(low, high) => {
                let len = reply_len(bytes)?;
                let value: i64 = std::str::from_utf8(bytes.strip_prefix(b":")?.get(..len - 3)?).ok()?.parse().ok()?;
                (low <= value && value <= high).then_some(len)
            }
            Want::Bulk(value) => exact(format!("${}\r\n{value}\r\n", value.len())),
            Want::AnyBulk => (bytes.starts_with(b"$") && !bytes.starts_with(b"$-")).then(|| reply_len(bytes))?,
            Want::Nil => exact(if resp2 { "$-1\r\n" } else { "_\r\n" }.to_string()),
            Want::List(wants) => {
                let head = exact(format!("*{}\r\n", wants.len()))?;
                take_all(wants, dialect, bytes, head)
            }
            Want::ListLike(wants) => {
                let head = bytes.starts_with(b"*").then(|| line_len(bytes))?;
                take_all(wants, dialect, bytes, head)?;
                reply_len(bytes)
            }
            Want::Members(members) => {
                let head = exact(format!("*{}\r\n", members.len()))?;
                take_any_order(members.iter().map(|member| Want::Bulk(member)), dialect, bytes, head)
            }
            Want::Flags(flags) => {
                let kind = if resp2 { '*' } else { '~' };
                let head = exact(format!("{kind}{}\r\n", flags.len()))?;
                take_any_order(flags.iter().map(|flag| Want::Status(flag)), dialect, bytes, head)
            }
            Want::Map(pairs) => {
                let mut len =
                    exact(if resp2 { format!("*{}\r\n", 2 * pairs.len()) } else { format!("%{}\r\n", pairs.len()) })?;
                for (name, want) in pairs {
                    len = take_all(&[Want::Bulk(name), *want], dialect, bytes, len)?;
                }
                Some(len)
            }
            Want::Text(parts) => {
                let len = reply_len(bytes)?;
                let head = line_len(bytes);
                let typed = if resp2 {
                    bytes.starts_with(b"$")
                } else {
                    bytes.starts_with(b"=") && bytes[head..].starts_with(b"txt:")
                };
                let text = std::str::from_utf8(&bytes[head..len]).ok()?;
                (typed && parts.iter().all(|part| text.contains(part))).then_some(len)
            }
            Want::OneOf(wants) => wants.iter().find_map(|want| want.take(dialect, bytes)),
        }
    }
}

fn take_all(wants: &[Want], dialect: Dialect, bytes: &[u8], start: usize) -> Option<usize> {
    wants.iter().try_fold(start, |len, want| Some(len + want.take(dialect, &bytes[len..])?))
}

fn take_any_order(wants: impl Iterator<Item = Want>, dialect: Dialect, bytes: &[u8], start: usize) -> Option<usize> {
    let mut wants: Vec<Want> = wants.collect();
    let mut len = start;
    while !wants.is_empty() {
        let (at, taken) =
            wants.iter().enumerate().find_map(|(at, want)| Some((at, want.take(dialect, &bytes[len..])?)))?;
        wants.swap_remove(at);
        len += taken;
    }
    Some(len)
}

fn line_len(bytes: &[u8]) -> usize {
    bytes.windows(2).position(|pair| pair == b"\r\n").map_or(bytes.len(), |at| at + 2)
}
