//! Replies to bytes, in RESP2 or RESP3.
//!
//! A [`ReplyBuffer`] is a flat byte vector with refcounted values spliced into it at known places: what is short is
//! copied in, what is longer than [`SHARED_BYTES_MIN`] is only pointed at. A [`ReplyWriter`] writes one reply into it
//! and knows the dialect, so that commands do not.
//!
//! ```text
//! bytes   $3\r\nabc\r\n$20000\r\n|\r\n:1\r\n
//! shared                         ^ (18, 20000 bytes)
//! ```

use bytes::Bytes;

use super::number::write_decimal;
use crate::limits::SHARED_BYTES_MIN;

/// Which version of the protocol a client speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Dialect {
    /// RESP2, what every connection starts with.
    #[default]
    Resp2,
    /// RESP3, after `HELLO 3`.
    Resp3,
}

/// Bytes ready to be sent, with refcounted values spliced in.
#[derive(Debug, Default)]
pub struct ReplyBuffer {
    /// Everything but the shared values.
    pub bytes: Vec<u8>,
    /// Shared values, each with the position in `bytes` before which it stands. Positions never decrease.
    pub shared: Vec<(usize, Bytes)>,
}

impl ReplyBuffer {
    /// Total bytes, shared values included.
    pub fn len(&self) -> usize {
        self.bytes.len() + self.shared.iter().map(|(_, value)| value.len()).sum::<usize>()
    }

    /// Whether nothing is left to send.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty() && self.shared.is_empty()
    }

    /// Drops the content and keeps the allocation.
    #[inline]
    pub fn clear(&mut self) {
        self.bytes.clear();
        if !self.shared.is_empty() {
            self.shared.clear();
        }
    }

    /// Appends all of `other`, whose shared values are moved, not copied.
    pub fn append(&mut self, other: &mut ReplyBuffer) {
        let base = self.bytes.len();
        self.bytes.extend_from_slice(&other.bytes);
        self.shared.extend(other.shared.drain(..).map(|(at, value)| (base + at, value)));
        other.bytes.clear();
    }

    /// Moves everything from byte position `at` on (of `bytes`) and from shared entry `shared_at` on into a new buffer.
    pub fn split_off(&mut self, at: usize, shared_at: usize) -> ReplyBuffer {
        let bytes = self.bytes.split_off(at);
        let shared = self.shared.drain(shared_at..).map(|(position, value)| (position - at, value)).collect();
        ReplyBuffer { bytes, shared }
    }

    /// All bytes in one vector, shared values copied. For tests and tools.
    pub fn to_vec(&self) -> Vec<u8> {
        let mut all = Vec::with_capacity(self.len());
        let mut from = 0;
        for (at, value) in &self.shared {
            all.extend_from_slice(&self.bytes[from..*at]);
            all.extend_from_slice(value);
            from = *at;
        }
        all.extend_from_slice(&self.bytes[from..]);
        all
    }
}

/// Writes replies in a client's dialect.
#[derive(Debug)]
pub struct ReplyWriter<'a> {
    buffer: &'a mut ReplyBuffer,
    dialect: Dialect,
}

impl<'a> ReplyWriter<'a> {
    /// A writer that appends to `buffer`.
    #[inline]
    pub fn new(buffer: &'a mut ReplyBuffer, dialect: Dialect) -> ReplyWriter<'a> {
        ReplyWriter { buffer, dialect }
    }

    /// The dialect that is written.
    #[inline]
    pub fn dialect(&self) -> Dialect {
        self.dialect
    }

    /// Bytes in the buffer, replies before this one and no shared values included.
    pub fn buffered_bytes(&self) -> usize {
        self.buffer.bytes.len()
    }

    /// A writer over the same buffer, for a helper that writes part of the reply.
    pub fn reborrow(&mut self) -> ReplyWriter<'_> {
        ReplyWriter { buffer: self.buffer, dialect: self.dialect }
    }

    /// `+OK`.
    #[inline]
    pub fn ok(&mut self) {
        self.buffer.bytes.extend_from_slice(b"+OK\r\n");
    }

    /// `+text`; the text holds no line break.
    #[inline]
    pub fn simple(&mut self, text: &str) {
        debug_assert!(!text.contains(['\r', '\n']));
        self.buffer.bytes.push(b'+');
        self.buffer.bytes.extend_from_slice(text.as_bytes());
        self.crlf();
    }

    /// `-text`. Line breaks, which would end the reply early, become spaces, as in Redis.
    pub fn error(&mut self, text: &[u8]) {
        self.buffer.bytes.push(b'-');
        self.buffer.bytes.extend(text.iter().map(|&byte| if matches!(byte, b'\r' | b'\n') { b' ' } else { byte }));
        self.crlf();
    }

    /// `:value`.
    #[inline]
    pub fn integer(&mut self, value: i64) {
        self.buffer.bytes.push(b':');
        write_decimal(&mut self.buffer.bytes, value);
        self.crlf();
    }

    /// A bulk string, copied.
    #[inline]
    pub fn bulk(&mut self, value: &[u8]) {
        self.buffer.bytes.reserve(value.len() + 32);
        self.header(b'$', value.len());
        self.buffer.bytes.extend_from_slice(value);
        self.crlf();
    }

    /// A bulk string that is pointed at when it is long, copied when it is short.
    #[inline]
    pub fn bulk_shared(&mut self, value: &Bytes) {
        if value.len() <= SHARED_BYTES_MIN {
            return self.bulk(value);
        }
        self.header(b'$', value.len());
        self.buffer.shared.push((self.buffer.bytes.len(), value.clone()));
        self.crlf();
    }

    /// A decimal number as a bulk string.
    pub fn bulk_integer(&mut self, value: i64) {
        let mut text = Vec::with_capacity(20);
        write_decimal(&mut text, value);
        self.bulk(&text);
    }

    /// The absent value: `$-1` or `_`.
    #[inline]
    pub fn null(&mut self) {
        let text: &[u8] = match self.dialect {
            Dialect::Resp2 => b"$-1\r\n",
            Dialect::Resp3 => b"_\r\n",
        };
        self.buffer.bytes.extend_from_slice(text);
    }

    /// The absent array: `*-1` or `_`.
    pub fn null_array(&mut self) {
        let text: &[u8] = match self.dialect {
            Dialect::Resp2 => b"*-1\r\n",
            Dialect::Resp3 => b"_\r\n",
        };
        self.buffer.bytes.extend_from_slice(text);
    }

    /// Opens an array of `len` elements, which the caller writes next.
    #[inline]
    pub fn array(&mut self, len: usize) {
        self.header(b'*', len);
    }

    /// Opens a map of `len` pairs: a flat array of twice as many elements in RESP2.
    pub fn map(&mut self, len: usize) {
        match self.dialect {
            Dialect::Resp2 => self.header(b'*', len * 2),
            Dialect::Resp3 => self.header(b'%', len),
        }
    }

    /// Opens a set of `len` elements: an array in RESP2.
    pub fn set(&mut self, len: usize) {
        match self.dialect {
            Dialect::Resp2 => self.header(b'*', len),
            Dialect::Resp3 => self.header(b'~', len),
        }
    }

    /// A boolean: `:1` and `:0` in RESP2.
    pub fn boolean(&mut self, value: bool) {
        match self.dialect {
            Dialect::Resp2 => self.integer(value as i64),
            Dialect::Resp3 => self.buffer.bytes.extend_from_slice(if value { b"#t\r\n" } else { b"#f\r\n" }),
        }
    }

    /// A floating-point number given as its decimal text: a bulk string in RESP2.
    pub fn double(&mut self, text: &str) {
        match self.dialect {
            Dialect::Resp2 => self.bulk(text.as_bytes()),
            Dialect::Resp3 => {
                self.buffer.bytes.push(b',');
                self.buffer.bytes.extend_from_slice(text.as_bytes());
                self.crlf();
            }
        }
    }

    /// Plain text for people (`INFO`): a verbatim string in RESP3, a bulk string in RESP2.
    pub fn verbatim(&mut self, text: &[u8]) {
        match self.dialect {
            Dialect::Resp2 => self.bulk(text),
            Dialect::Resp3 => {
                self.header(b'=', text.len() + 4);
                self.buffer.bytes.extend_from_slice(b"txt:");
                self.buffer.bytes.extend_from_slice(text);
                self.crlf();
            }
        }
    }

    /// Bytes that are a reply already, in this dialect.
    #[inline]
    pub fn raw(&mut self, bytes: &[u8]) {
        self.buffer.bytes.extend_from_slice(bytes);
    }

    #[inline]
    fn header(&mut self, kind: u8, len: usize) {
        let digit = |value: usize| b'0' + value as u8;
        // Short lengths, which nearly all are, with one store of a known size.
        match len {
            0..10 => self.buffer.bytes.extend_from_slice(&[kind, digit(len), b'\r', b'\n']),
            10..100 => {
                self.buffer.bytes.extend_from_slice(&[kind, digit(len / 10), digit(len % 10), b'\r', b'\n']);
            }
            100..1000 => {
                let (hundreds, tens) = (digit(len / 100), digit(len / 10 % 10));
                self.buffer.bytes.extend_from_slice(&[kind, hundreds, tens, digit(len % 10), b'\r', b'\n']);
            }
            _ => {
                self.buffer.bytes.push(kind);
                write_decimal(&mut self.buffer.bytes, len as i64);
                self.crlf();
            }
        }
    }

    #[inline]
    fn crlf(&mut self) {
        self.buffer.bytes.extend_from_slice(b"\r\n");
    }
}
