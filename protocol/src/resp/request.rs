//! Client bytes to requests: RESP arrays of bulk strings (RESP2 and RESP3 are the same here) and inline lines.
//!
//! There are two paths over the same grammar.
//!
//! *In place.* A request that lies whole in the receive buffer is parsed without copying: its spans index the input.
//! Almost every request goes this way, so this path is straight-line: headers of one and two digits are matched as byte
//! patterns, everything rarer is out of line. If the input ends before the request does, the spans are dropped and the
//! request starts over on the second path. That reads the first piece of a request twice, never more.
//!
//! *Unfinished.* A boxed state machine (`Unfinished`) takes the request piece by piece and remembers where it stopped,
//! so that a request that trickles in byte by byte costs time linear in its length. It keeps the arguments, packed, not
//! the headers between them:
//!
//! ```text
//! arrived  *3\r\n$3\r\nSET\r\n$3\r\nkey\r\n$5\r\nva
//! carry    SETkeyva          spans (0, 3) (3, 3)      state: payload, 3 bytes left
//! ```
//!
//! An argument longer than [`SHARED_BYTES_MIN`] never enters the carry: it grows in a vector of its own, from what has
//! arrived and not from what was promised, and ends at exactly the promised capacity, so turning it into a [`Bytes`]
//! moves nothing.
//!
//! Differences from Redis, all for input that no client library sends. A line is too long when its terminator is
//! further than 64 KiB from its start, however it was cut into packets; Redis lets a longer line pass when it arrives
//! in one read. A zero byte is like any other in a line; Redis stops looking for the terminator there. The bytes where
//! a `\n` (after a header) or a `\r\n` (after a payload) should stand are skipped unread, as in Redis.

use std::borrow::Cow;

use bytes::Bytes;
use memchr::memchr;

use super::inline::{split_line, trim_line};
use super::number::read_decimal;
use crate::args::Span;
use crate::limits::{
    ARGS_MAX, ARGS_MAX_UNAUTHENTICATED, BULK_BYTES_MAX_UNAUTHENTICATED, INLINE_BYTES_MAX, RequestLimits,
    SHARED_BYTES_MIN,
};

/// What one call of [`RequestParser::parse`] found.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// One whole request inside `input`; its spans (just pushed) index `input`.
    InPlace,
    /// One request that began in an earlier input, or an inline request that had to be unquoted; its spans index this
    /// buffer.
    Carried(Vec<u8>),
    /// All of `input` is consumed; more bytes are needed. Nothing was pushed.
    NeedMore,
}

/// The client broke the protocol, and its connection is to be closed after the reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    #[error("too big inline request")]
    InlineTooLong,
    #[error("unbalanced quotes in request")]
    UnbalancedQuotes,
    #[error("too big mbulk count string")]
    CountTooLong,
    #[error("invalid multibulk length")]
    InvalidCount,
    #[error("unauthenticated multibulk length")]
    UnauthenticatedCount,
    #[error("too big bulk count string")]
    BulkHeaderTooLong,
    /// Another byte where `$` must stand.
    #[error("expected '$', got '{}'", .0.escape_ascii())]
    ExpectedBulk(u8),
    #[error("invalid bulk length")]
    InvalidBulkLength,
    #[error("unauthenticated bulk length")]
    UnauthenticatedBulkLength,
    /// The unfinished request outgrew `client-query-buffer-limit`.
    #[error("query buffer limit reached")]
    QueryBufferLimit,
}

impl ProtocolError {
    /// The text of the error reply without its `-` and line end, as Redis sends it; `None` where Redis closes the
    /// connection without a reply (the query buffer limit).
    pub fn reply_text(self) -> Option<Cow<'static, [u8]>> {
        let text: &'static [u8] = match self {
            ProtocolError::InlineTooLong => b"ERR Protocol error: too big inline request",
            ProtocolError::UnbalancedQuotes => b"ERR Protocol error: unbalanced quotes in request",
            ProtocolError::CountTooLong => b"ERR Protocol error: too big mbulk count string",
            ProtocolError::InvalidCount => b"ERR Protocol error: invalid multibulk length",
            ProtocolError::UnauthenticatedCount => b"ERR Protocol error: unauthenticated multibulk length",
            ProtocolError::BulkHeaderTooLong => b"ERR Protocol error: too big bulk count string",
            ProtocolError::InvalidBulkLength => b"ERR Protocol error: invalid bulk length",
            ProtocolError::UnauthenticatedBulkLength => b"ERR Protocol error: unauthenticated bulk length",
            ProtocolError::QueryBufferLimit => return None,
            ProtocolError::ExpectedBulk(got) => {
                // Any byte goes out as it came, but a line break would end the reply.
                let got = if matches!(got, b'\r' | b'\n') { b' ' } else { got };
                let mut text = b"ERR Protocol error: expected '$', got '".to_vec();
                text.extend_from_slice(&[got, b'\'']);
                return Some(Cow::Owned(text));
            }
        };
        Some(Cow::Borrowed(text))
    }
}

/// The parser of one connection. One pointer wide; an idle one holds nothing.
#[derive(Debug, Default)]
pub struct RequestParser {
    unfinished: Option<Box<Unfinished>>,
}

impl RequestParser {
    /// Finds the next request of `input`, from `*position` on. Call it with the same input until it says
    /// [`Step::NeedMore`], which leaves `*position` at the end and everything that is still needed copied, so that the
    /// input's buffer can be given back.
    ///
    /// The spans of one whole request are appended to `spans`, and its arguments longer than [`SHARED_BYTES_MIN`] to
    /// `shared`. With any other outcome both are left as they were. After an error the connection is beyond repair; the
    /// parser is as new and `*position` means nothing.
    ///
    /// `input` is a receive buffer, shorter than 4 GiB.
    #[inline]
    pub fn parse(
        &mut self,
        input: &[u8],
        position: &mut usize,
        spans: &mut Vec<Span>,
        shared: &mut Vec<Bytes>,
        limits: &RequestLimits,
    ) -> Result<Step, ProtocolError> {
        debug_assert!(input.len() < u32::MAX as usize);
        let below_limits = limits.bulk_bytes_max >= SHORT_BYTES_MAX;
        if self.unfinished.is_none() && below_limits && parse_short(input, position, spans) {
            return Ok(Step::InPlace);
        }
        self.parse_any(input, position, spans, shared, limits)
    }

    /// [`RequestParser::parse`] of whatever is not short and whole.
    #[inline(never)]
    fn parse_any(
        &mut self,
        input: &[u8],
        position: &mut usize,
        spans: &mut Vec<Span>,
        shared: &mut Vec<Bytes>,
        limits: &RequestLimits,
    ) -> Result<Step, ProtocolError> {
        if self.unfinished.is_some()
            && let Some(step) = self.resume(input, position, spans, shared, limits)?
        {
            return Ok(step);
        }
        let spans_before = spans.len();
        loop {
            let rest = input.get(*position..).unwrap_or_default();
            let Some(&first) = rest.first() else {
                return Ok(Step::NeedMore);
            };
            if first != b'*' {
                match self.parse_inline(input, position, spans, shared, limits)? {
                    Some(step) => return Ok(step),
                    None => continue,
                }
            }
            match parse_array(rest, *position, spans, limits) {
                Ok(InPlace::Whole { len, has_long }) => {
                    *position += len;
                    if has_long {
                        share_long(input, &mut spans[spans_before..], shared);
                    }
                    return Ok(Step::InPlace);
                }
                Ok(InPlace::Empty { len }) => *position += len,
                Ok(InPlace::Partial) => {
                    spans.truncate(spans_before);
                    self.unfinished = Some(Box::new(Unfinished::new(State::Count)));
                    if let Some(step) = self.resume(input, position, spans, shared, limits)? {
                        return Ok(step);
                    }
                }
                Err(error) => {
                    spans.truncate(spans_before);
                    return Err(error);
                }
            }
        }
    }

    /// Bytes of memory held for an unfinished request.
    pub fn held_bytes(&self) -> usize {
        self.unfinished.as_ref().map_or(0, |unfinished| unfinished.held_bytes())
    }

    /// What of an unfinished request is long, for a connection that is gone: the caller frees it where that may take long.
    /// Nothing can be parsed after this.
    pub fn take_long_arguments(&mut self) -> Vec<Bytes> {
        let Some(unfinished) = self.unfinished.take() else { return Vec::new() };
        let Unfinished { mut shared, long, .. } = *unfinished;
        if long.capacity() > 0 {
            shared.push(Bytes::from(long));
        }
        shared
    }

    /// Whether a request has begun and not ended.
    pub fn is_mid_request(&self) -> bool {
        self.unfinished.is_some()
    }

    /// Goes on with the unfinished request. `None`: it ended and was empty, look for another one.
    #[cold]
    #[inline(never)]
    fn resume(
        &mut self,
        input: &[u8],
        position: &mut usize,
        spans: &mut Vec<Span>,
        shared: &mut Vec<Bytes>,
        limits: &RequestLimits,
    ) -> Result<Option<Step>, ProtocolError> {
        let Some(mut unfinished) = self.unfinished.take() else {
            return Ok(None);
        };
        match unfinished.feed(input, position, limits)? {
            Fed::NeedMore => {
                self.unfinished = Some(unfinished);
                Ok(Some(Step::NeedMore))
            }
            Fed::Empty => Ok(None),
            Fed::Array => Ok(Some(unfinished.finish(spans, shared))),
            Fed::Inline => {
                // What an empty line becomes is decided in one place, for both paths.
                let line = unfinished.line;
                let spans_before = spans.len();
                let unquoted = split_line(trim_line(&line), 0, spans)?;
                if spans.len() == spans_before {
                    return Ok(None);
                }
                let buffer = unquoted.unwrap_or(line);
                share_long(&buffer, &mut spans[spans_before..], shared);
                Ok(Some(Step::Carried(buffer)))
            }
        }
    }

    /// An inline request, in place if it is whole. `None`: an empty line was skipped.
    #[cold]
    #[inline(never)]
    fn parse_inline(
        &mut self,
        input: &[u8],
        position: &mut usize,
        spans: &mut Vec<Span>,
        shared: &mut Vec<Bytes>,
        limits: &RequestLimits,
    ) -> Result<Option<Step>, ProtocolError> {
        let rest = &input[*position..];
        let Some(end) = memchr(b'\n', &rest[..rest.len().min(INLINE_BYTES_MAX + 1)]) else {
            self.unfinished = Some(Box::new(Unfinished::new(State::Inline)));
            return self.resume(input, position, spans, shared, limits);
        };
        let spans_before = spans.len();
        let unquoted = split_line(trim_line(&rest[..=end]), *position, spans)?;
        *position += end + 1;
        if spans.len() == spans_before {
            return Ok(None);
        }
        share_long(unquoted.as_deref().unwrap_or(input), &mut spans[spans_before..], shared);
        Ok(Some(unquoted.map_or(Step::InPlace, Step::Carried)))
    }
}

/// Most arguments that [`parse_short`] reads, and how long each may be.
const SHORT_ARGS_MAX: usize = 4;
const SHORT_BYTES_MAX: u64 = 999;

const _: () = assert!(SHORT_ARGS_MAX <= ARGS_MAX_UNAUTHENTICATED);
const _: () = assert!(SHORT_BYTES_MAX <= BULK_BYTES_MAX_UNAUTHENTICATED && SHORT_BYTES_MAX < SHARED_BYTES_MIN as u64);

/// Reads the usual request: up to four arguments of up to 999 bytes, whole, with eight bytes to look at where each header
/// begins. The caller knows that no limit is below that. False: nothing was done, it is not that simple.
#[inline(always)]
fn parse_short(input: &[u8], position: &mut usize, spans: &mut Vec<Span>) -> bool {
    const CRLF: u64 = u16::from_le_bytes(*b"\r\n") as u64;
    let Some(rest) = input.get(*position..) else { return false };
    let Some(head) = rest.first_chunk::<4>() else { return false };
    let head = u32::from_le_bytes(*head);
    // `*`, a digit that is looked at next, and the end of the line.
    if head & 0xffff_00ff != u32::from_le_bytes(*b"*\0\r\n") {
        return false;
    }
    let count = (head >> 8 & 0xff).wrapping_sub(b'0' as u32) as usize;
    if !(1..=SHORT_ARGS_MAX).contains(&count) {
        return false;
    }
    let digit = |word: u64, at: u32| (word >> (8 * at) & 0xff).wrapping_sub(b'0' as u64);
    let spans_before = spans.len();
    let mut at = 4;
    for _ in 0..count {
        let Some(word) = rest.get(at..).and_then(|rest| rest.first_chunk::<8>()) else { break };
        let word = u64::from_le_bytes(*word);
        let (one, two, three) = (digit(word, 1), digit(word, 2), digit(word, 3));
        if word & 0xff != b'$' as u64 || one > 9 {
            break;
        }
        // A number of more than one digit that begins with 0 is an error, which the other path tells.
        let (len, header_len) = if word >> 16 & 0xffff == CRLF {
            (one, 4)
        } else if word >> 24 & 0xffff == CRLF && two <= 9 && one != 0 {
            (one * 10 + two, 5)
        } else if word >> 32 & 0xffff == CRLF && two <= 9 && three <= 9 && one != 0 {
            (one * 100 + two * 10 + three, 6)
        } else {
            break;
        };
        at += header_len;
        spans.push(Span::range(*position + at, len as usize));
        at += len as usize + 2;
    }
    if spans.len() - spans_before < count || at > rest.len() {
        spans.truncate(spans_before);
        return false;
    }
    *position += at;
    true
}

/// What [`parse_array`] found.
enum InPlace {
    /// A request of `len` bytes; `has_long` if an argument is to become a shared value.
    Whole { len: usize, has_long: bool },
    /// A count of zero or less: no request.
    Empty { len: usize },
    /// The input ends before the request does.
    Partial,
}

/// Reads one request that begins with `*` at the start of `whole`, which lies at `base` in the input.
#[inline]
fn parse_array(
    whole: &[u8],
    base: usize,
    spans: &mut Vec<Span>,
    limits: &RequestLimits,
) -> Result<InPlace, ProtocolError> {
    let Some((count, header_len)) = header::<b'*'>(whole)? else {
        return Ok(InPlace::Partial);
    };
    let count = check_count(count, limits)?;
    if count == 0 {
        return Ok(InPlace::Empty { len: header_len });
    }
    let bulk_bytes_max = bulk_bytes_max(limits);
    let mut has_long = false;
    // `rest` is what is left of `whole`; walking a slice instead of an index leaves one length check per step.
    let mut rest = &whole[header_len..];
    for _ in 0..count {
        let Some((len, header_len)) = header::<b'$'>(rest)? else {
            return Ok(InPlace::Partial);
        };
        if len as u64 > bulk_bytes_max {
            return Err(bad_bulk_length(len, limits));
        }
        let len = len as usize;
        let payload = &rest[header_len..];
        let Some(after) = len.checked_add(2).and_then(|end| payload.get(end..)) else {
            return Ok(InPlace::Partial);
        };
        spans.push(Span::range(base + (whole.len() - payload.len()), len));
        has_long |= len > SHARED_BYTES_MIN;
        rest = after;
    }
    Ok(InPlace::Whole { len: whole.len() - rest.len(), has_long })
}

/// Reads a header line, `*<n>\r\n` or `$<n>\r\n`: its number and its length with the terminator. `None` if it is not
/// whole. The number may be anything that fits.
#[inline(always)]
fn header<const KIND: u8>(rest: &[u8]) -> Result<Option<(i64, usize)>, ProtocolError> {
    if let [kind, ones, b'\r', _, ..] = *rest
        && kind == KIND
        && ones.is_ascii_digit()
    {
        return Ok(Some(((ones - b'0') as i64, 4)));
    }
    if let [kind, tens, ones, b'\r', _, ..] = *rest
        && kind == KIND
        && matches!(tens, b'1'..=b'9')
        && ones.is_ascii_digit()
    {
        return Ok(Some(((tens - b'0') as i64 * 10 + (ones - b'0') as i64, 5)));
    }
    header_any::<KIND>(rest)
}

/// [`header`] of any length, right or wrong.
#[inline(never)]
fn header_any<const KIND: u8>(rest: &[u8]) -> Result<Option<(i64, usize)>, ProtocolError> {
    let window = &rest[..rest.len().min(INLINE_BYTES_MAX + 1)];
    // Nearly every number is short; looking by hand beats setting up a vector search.
    let (near, far) = window.split_at(window.len().min(12));
    let found = near.iter().position(|&byte| byte == b'\r');
    let Some(end) = found.or_else(|| memchr(b'\r', far).map(|at| near.len() + at)) else {
        return if rest.len() > INLINE_BYTES_MAX { Err(header_too_long::<KIND>()) } else { Ok(None) };
    };
    if rest.len() < end + 2 {
        return Ok(None);
    }
    Ok(Some((header_number::<KIND>(&rest[..end])?, end + 2)))
}

/// The number of a header line given without its terminator.
fn header_number<const KIND: u8>(line: &[u8]) -> Result<i64, ProtocolError> {
    if KIND == b'*' {
        // Which kind of request it is was decided by this byte.
        let digits = line.get(1..).unwrap_or_default();
        return read_decimal(digits).ok_or(ProtocolError::InvalidCount);
    }
    match line {
        [b'$', digits @ ..] => read_decimal(digits).ok_or(ProtocolError::InvalidBulkLength),
        [got, ..] => Err(ProtocolError::ExpectedBulk(*got)),
        [] => Err(ProtocolError::ExpectedBulk(b'\r')),
    }
}

fn header_too_long<const KIND: u8>() -> ProtocolError {
    if KIND == b'*' { ProtocolError::CountTooLong } else { ProtocolError::BulkHeaderTooLong }
}

/// How many arguments a count promises; zero for an empty or null array.
#[inline]
fn check_count(count: i64, limits: &RequestLimits) -> Result<usize, ProtocolError> {
    if count > ARGS_MAX as i64 {
        Err(ProtocolError::InvalidCount)
    } else if count > ARGS_MAX_UNAUTHENTICATED as i64 && !limits.authenticated {
        Err(ProtocolError::UnauthenticatedCount)
    } else {
        Ok(count.max(0) as usize)
    }
}

/// Longest bulk string under all limits. A negative length, seen as unsigned, is longer than any of them.
#[inline]
fn bulk_bytes_max(limits: &RequestLimits) -> u64 {
    let bulk_bytes_max = limits.bulk_bytes_max.min(i64::MAX as u64);
    if limits.authenticated { bulk_bytes_max } else { bulk_bytes_max.min(BULK_BYTES_MAX_UNAUTHENTICATED) }
}

/// What is wrong with a length above [`bulk_bytes_max`].
#[cold]
fn bad_bulk_length(len: i64, limits: &RequestLimits) -> ProtocolError {
    if len < 0 || len as u64 > limits.bulk_bytes_max {
        ProtocolError::InvalidBulkLength
    } else {
        ProtocolError::UnauthenticatedBulkLength
    }
}

/// Moves the long arguments among `spans` out of `buffer`.
fn share_long(buffer: &[u8], spans: &mut [Span], shared: &mut Vec<Bytes>) {
    for span in spans {
        if let Some(range) = span.buffer_range()
            && range.len() > SHARED_BYTES_MIN
        {
            *span = Span::shared(shared.len());
            shared.push(Bytes::copy_from_slice(&buffer[range]));
        }
    }
}

/// A long argument gets the memory for all of it when this part has arrived.
const LONG_PART: usize = 16;

/// A request of which not all has arrived.
#[derive(Debug)]
struct Unfinished {
    state: State,
    /// Arguments still to come, the one being collected included.
    args_left: usize,
    /// A header or an inline request, as far as it has arrived.
    line: Vec<u8>,
    /// The arguments that are not long, one after another.
    carry: Vec<u8>,
    /// The whole arguments, over `carry` and `shared`.
    spans: Vec<Span>,
    shared: Vec<Bytes>,
    /// Total length of `shared`.
    shared_bytes: usize,
    /// The long argument being collected.
    long: Vec<u8>,
    /// Bytes of the request taken so far.
    received_bytes: u64,
}

/// What the next byte of an unfinished request belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// An inline request.
    Inline,
    /// The `*<count>` line.
    Count,
    /// A `$<len>` line.
    BulkHeader,
    /// An argument of `len` bytes, of which `left` are missing.
    Payload { len: usize, left: usize },
    /// The two bytes after an argument, of which `left` are missing.
    Terminator { left: usize },
}

/// What [`Unfinished::feed`] came to.
enum Fed {
    /// The input is used up.
    NeedMore,
    /// The request was an array of no arguments.
    Empty,
    /// All arguments are there.
    Array,
    /// `line` holds a whole inline request.
    Inline,
}

impl Unfinished {
    fn new(state: State) -> Unfinished {
        Unfinished {
            state,
            args_left: 0,
            line: Vec::new(),
            carry: Vec::new(),
            spans: Vec::new(),
            shared: Vec::new(),
            shared_bytes: 0,
            long: Vec::new(),
            received_bytes: 0,
        }
    }

    /// Takes from `input` what belongs to this request and no more.
    fn feed(&mut self, input: &[u8], position: &mut usize, limits: &RequestLimits) -> Result<Fed, ProtocolError> {
        // Spans are 32 bits wide, whatever the setting.
        let received_bytes_max = limits.query_buffer_bytes_max.min(u32::MAX as u64 - 1);
        let bulk_bytes_max = bulk_bytes_max(limits);
        loop {
            let rest = input.get(*position..).unwrap_or_default();
            if rest.is_empty() {
                return Ok(Fed::NeedMore);
            }
            let (taken, number) = match self.state {
                State::Inline => self.take_inline(rest)?,
                State::Count => self.take_header::<b'*'>(rest)?,
                State::BulkHeader => self.take_header::<b'$'>(rest)?,
                State::Payload { left, .. } | State::Terminator { left } => (rest.len().min(left), None),
            };
            // Checked before an argument is stored, so that the limit bounds memory and not only its growth.
            self.received_bytes += taken as u64;
            if self.received_bytes > received_bytes_max {
                return Err(ProtocolError::QueryBufferLimit);
            }
            *position += taken;
            match self.state {
                State::Inline => {
                    if number.is_some() {
                        return Ok(Fed::Inline);
                    }
                }
                State::Count => {
                    if let Some(count) = number {
                        self.args_left = check_count(count, limits)?;
                        if self.args_left == 0 {
                            return Ok(Fed::Empty);
                        }
                        self.state = State::BulkHeader;
                    }
                }
                State::BulkHeader => {
                    if let Some(len) = number {
                        if len as u64 > bulk_bytes_max {
                            return Err(bad_bulk_length(len, limits));
                        }
                        self.begin_payload(len as usize);
                    }
                }
                State::Payload { len, left } => {
                    self.collect(&rest[..taken], len);
                    if left > taken {
                        self.state = State::Payload { len, left: left - taken };
                    } else {
                        self.end_payload(len);
                    }
                }
                State::Terminator { left } if left > taken => self.state = State::Terminator { left: left - taken },
                State::Terminator { .. } => {
                    self.args_left -= 1;
                    if self.args_left == 0 {
                        return Ok(Fed::Array);
                    }
                    self.state = State::BulkHeader;
                }
            }
        }
    }

    /// Adds to the inline request up to its `\n`. Gives what was taken, and a number (any) once it is whole.
    fn take_inline(&mut self, rest: &[u8]) -> Result<(usize, Option<i64>), ProtocolError> {
        debug_assert!(self.line.len() <= INLINE_BYTES_MAX);
        let window = &rest[..rest.len().min(INLINE_BYTES_MAX + 1 - self.line.len())];
        match memchr(b'\n', window) {
            Some(end) => {
                self.line.extend_from_slice(&window[..=end]);
                Ok((end + 1, Some(0)))
            }
            None => {
                self.line.extend_from_slice(window);
                if self.line.len() > INLINE_BYTES_MAX {
                    return Err(ProtocolError::InlineTooLong);
                }
                Ok((window.len(), None))
            }
        }
    }

    /// Takes a header line, or adds to the one begun. Gives what was taken, and the number once the line is whole.
    fn take_header<const KIND: u8>(&mut self, rest: &[u8]) -> Result<(usize, Option<i64>), ProtocolError> {
        if self.line.is_empty() {
            if let Some((number, len)) = header::<KIND>(rest)? {
                return Ok((len, Some(number)));
            }
            self.line.extend_from_slice(rest);
            return Ok((rest.len(), None));
        }
        // Only the line's last byte can be its `\r`: what came before it has been looked at.
        let mut taken = 0;
        if self.line.last() != Some(&b'\r') {
            debug_assert!(self.line.len() <= INLINE_BYTES_MAX);
            let window = &rest[..rest.len().min(INLINE_BYTES_MAX + 1 - self.line.len())];
            let end = memchr(b'\r', window);
            taken = end.map_or(window.len(), |end| end + 1);
            self.line.extend_from_slice(&window[..taken]);
            if end.is_none() {
                if self.line.len() > INLINE_BYTES_MAX {
                    return Err(header_too_long::<KIND>());
                }
                return Ok((taken, None));
            }
        }
        if taken == rest.len() {
            return Ok((taken, None));
        }
        let number = header_number::<KIND>(&self.line[..self.line.len() - 1])?;
        self.line.clear();
        Ok((taken + 1, Some(number)))
    }

    fn begin_payload(&mut self, len: usize) {
        if len == 0 { self.end_payload(0) } else { self.state = State::Payload { len, left: len } }
    }

    /// Stores a piece of an argument of `len` bytes.
    fn collect(&mut self, piece: &[u8], len: usize) {
        if len <= SHARED_BYTES_MIN {
            self.carry.extend_from_slice(piece);
            return;
        }
        let needed = self.long.len() + piece.len();
        if needed > self.long.capacity() {
            // Twice what has arrived, so that 512 MiB promised in 20 bytes cost nothing; and once a part of it is there,
            // all that was promised: what is not touched is only addresses, and copying the half of it takes long.
            let promised = needed >= len / LONG_PART;
            let capacity = if promised { len } else { needed.max(SHARED_BYTES_MIN).saturating_mul(2).min(len) };
            self.long.reserve_exact(capacity - self.long.len());
        }
        self.long.extend_from_slice(piece);
    }

    fn end_payload(&mut self, len: usize) {
        self.state = State::Terminator { left: 2 };
        if len <= SHARED_BYTES_MIN {
            self.spans.push(Span::range(self.carry.len() - len, len));
            return;
        }
        self.spans.push(Span::shared(self.shared.len()));
        self.shared.push(Bytes::from(std::mem::take(&mut self.long)));
        self.shared_bytes += len;
    }

    /// Hands over the whole request.
    fn finish(self, spans: &mut Vec<Span>, shared: &mut Vec<Bytes>) -> Step {
        let shared_before = shared.len();
        spans.extend(self.spans.iter().map(|span| match span.shared_index() {
            Some(index) => Span::shared(shared_before + index),
            None => *span,
        }));
        shared.extend(self.shared);
        Step::Carried(self.carry)
    }

    fn held_bytes(&self) -> usize {
        size_of::<Unfinished>()
            + self.line.capacity()
            + self.carry.capacity()
            + self.spans.capacity() * size_of::<Span>()
            + self.shared.capacity() * size_of::<Bytes>()
            + self.shared_bytes
            + self.long.capacity()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuzz_bodies::{Outcome, parse_stream};

    fn limits() -> RequestLimits {
        RequestLimits { bulk_bytes_max: 20_000, ..RequestLimits::default() }
    }

    fn logged_out() -> RequestLimits {
        RequestLimits { authenticated: false, ..limits() }
    }

    /// Parses `stream` whole, in halves and bytewise, which must all agree.
    fn parse_all(stream: &[u8], limits: &RequestLimits) -> Outcome {
        let whole = parse_stream(stream, limits, || usize::MAX);
        for piece in [1, 2, 3, stream.len().div_ceil(2)] {
            assert_eq!(whole, parse_stream(stream, limits, || piece), "pieces of {piece}");
        }
        whole
    }

    fn requests(outcome: &Outcome) -> Vec<Vec<Vec<u8>>> {
        outcome.requests.iter().map(|request| request.iter().map(|(arg, _)| arg.clone()).collect()).collect()
    }

    #[track_caller]
    fn check(stream: &[u8], expected: &[&[&[u8]]]) {
        let outcome = parse_all(stream, &limits());
        let shown = stream.escape_ascii();
        assert_eq!(requests(&outcome), expected, "{shown}");
        assert_eq!((outcome.error, outcome.is_mid_request), (None, false), "{shown}");
    }

    #[track_caller]
    fn check_error(stream: &[u8], limits: &RequestLimits, text: &str) {
        let outcome = parse_all(stream, limits);
        let got = outcome.error.and_then(ProtocolError::reply_text);
        let shown = stream[..stream.len().min(80)].escape_ascii();
        assert_eq!(
            got.as_deref().map(<[u8]>::escape_ascii).map(|text| text.to_string()),
            Some(escaped(text)),
            "{shown}"
        );
    }

    fn escaped(text: &str) -> String {
        format!("ERR Protocol error: {text}").as_bytes().escape_ascii().to_string()
    }

    #[test]
    fn arrays() {
        check(b"*1\r\n$4\r\nPING\r\n", &[&[b"PING"]]);
        check(b"*2\r\n$3\r\nGET\r\n$0\r\n\r\n", &[&[b"GET", b""]]);
        check(
            b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$12\r\n\r\n\0*1\r\n$4 x\n\r\n",
            &[&[b"SET", b"k", b"\r\n\0*1\r\n$4 x\n"]],
        );
        check(b"*1\r\n$1\r\na\r\n*1\r\n$1\r\nb\r\n", &[&[b"a"], &[b"b"]]);
        // Nothing to do: null and empty arrays.
        check(b"*0\r\n*-1\r\n*-5\r\n*1\r\n$1\r\na\r\n*0\r\n", &[&[b"a"]]);
        // Terminators after the `\r` and after a payload are not looked at.
        check(b"*1\rx$1\ryaxy*1\r\n$1\r\nb\r\n", &[&[b"a"], &[b"b"]]);
        // Ten arguments: a count of two digits.
        let ten = b"$1\r\na\r\n".repeat(10);
        check(&[b"*10\r\n", &ten[..]].concat(), &[&[b"a" as &[u8]; 10]]);
    }

    #[test]
    fn inline_requests() {
        check(b"PING\r\n", &[&[b"PING"]]);
        check(b"PING\n", &[&[b"PING"]]);
        check(b"\r\n\n  \t\r\n\rPING\r\r\n", &[&[b"PING"]]);
        check(
            b"  SET  key\tvalue \r\n*1\r\n$1\r\na\r\nGET key\n",
            &[&[b"SET", b"key", b"value"], &[b"a"], &[b"GET", b"key"]],
        );
        check(b"a\\b c\x0bd \x0c e\0f\n", &[&[b"a\\b", b"c\x0bd", b"e\0f"]]);
        check(b"SET \"a b\" 'c \"d' \"\" '' x\"y z\"\n", &[&[b"SET", b"a b", b"c \"d", b"", b"", b"xy z"]]);
        check(b"\"\\x41\\x4a\\xff\\xg1\\n\\r\\t\\b\\a\\\"\\\\\\q\"\r\n", &[&[b"AJ\xffxg1\n\r\t\x08\x07\"\\q"]]);
        check(b"'\\'\\n\\\\ '\r\n", &[&[b"'\\n\\\\ "]]);
        check(b"\"a\"\x0b'b'\r\nPING\r\n", &[&[b"a", b"b"], &[b"PING"]]);
    }

    #[test]
    fn every_error() {
        let long = "9".repeat(INLINE_BYTES_MAX + 1);
        for (stream, text) in [
            (long.as_str(), "too big inline request"),
            ("SET \"a\r\n", "unbalanced quotes in request"),
            ("SET 'a\r\n", "unbalanced quotes in request"),
            ("SET \"a\"b\r\n", "unbalanced quotes in request"),
            ("SET 'a'\"b\"\r\n", "unbalanced quotes in request"),
            ("SET \"a\\\"\n", "unbalanced quotes in request"),
            ("SET \"a\\\n", "unbalanced quotes in request"),
            (&format!("*{long}"), "too big mbulk count string"),
            ("*\r\n", "invalid multibulk length"),
            ("*x\r\n", "invalid multibulk length"),
            ("*01\r\n", "invalid multibulk length"),
            ("*+1\r\n", "invalid multibulk length"),
            ("*-0\r\n", "invalid multibulk length"),
            ("*1 \r\n", "invalid multibulk length"),
            ("*1048577\r\n", "invalid multibulk length"),
            ("*99999999999999999999\r\n", "invalid multibulk length"),
            (&format!("*1\r\n${long}"), "too big bulk count string"),
            (&format!("*1\r\n{long}"), "too big bulk count string"),
            ("*1\r\nx1\r\n", "expected '$', got 'x'"),
            ("*1\r\nPING\r\n", "expected '$', got 'P'"),
            ("*2\r\n$1\r\na\r\n:1\r\n", "expected '$', got ':'"),
            ("*1\r\n\r\n", "expected '$', got ' '"),
            ("*1\r\n$\r\n", "invalid bulk length"),
            ("*1\r\n$-1\r\n", "invalid bulk length"),
            ("*1\r\n$x\r\n", "invalid bulk length"),
            ("*1\r\n$007\r\n", "invalid bulk length"),
            ("*1\r\n$20001\r\n", "invalid bulk length"),
            ("*1\r\n$9223372036854775807\r\n", "invalid bulk length"),
        ] {
            check_error(stream.as_bytes(), &limits(), text);
            // What came before still counts.
            let after_ping = format!("PING\r\n*1\r\n$4\r\nPING\r\n{stream}");
            let outcome = parse_all(after_ping.as_bytes(), &limits());
            assert_eq!((outcome.requests.len(), outcome.error.is_some()), (2, true), "{text}");
        }
        check_error(b"*11\r\n", &logged_out(), "unauthenticated multibulk length");
        check_error(b"*1048577\r\n", &logged_out(), "invalid multibulk length");
        check_error(b"*1\r\n$16385\r\n", &logged_out(), "unauthenticated bulk length");
        check_error(b"*1\r\n$20001\r\n", &logged_out(), "invalid bulk length");
        assert_eq!(parse_all(b"*10\r\n$16384\r\n", &logged_out()).error, None);
        assert_eq!(parse_all(b"*1048576\r\n$20000\r\n", &limits()).error, None);
        // Any byte is sent as it came.
        assert_eq!(
            ProtocolError::ExpectedBulk(0xff).reply_text().unwrap(),
            &b"ERR Protocol error: expected '$', got '\xff'"[..]
        );
        assert_eq!(ProtocolError::ExpectedBulk(0xff).to_string(), "expected '$', got '\\xff'");
    }

    #[test]
    fn a_line_is_too_long_past_64_kib_however_it_is_cut() {
        let word = "x".repeat(INLINE_BYTES_MAX);
        for (line, error) in [(format!("{word}\n"), None), (format!("{word}x\n"), Some(ProtocolError::InlineTooLong))] {
            for piece in [usize::MAX, 1, 1000, INLINE_BYTES_MAX, INLINE_BYTES_MAX + 1] {
                assert_eq!(parse_stream(line.as_bytes(), &limits(), || piece).error, error, "{piece}");
            }
        }
        let digits = &"9".repeat(INLINE_BYTES_MAX - 1);
        for (line, error) in [
            (format!("*{digits}\r\n"), ProtocolError::InvalidCount),
            (format!("*{digits}9\r\n"), ProtocolError::CountTooLong),
            (format!("*1\r\n${digits}\r\n"), ProtocolError::InvalidBulkLength),
            (format!("*1\r\n${digits}9\r\n"), ProtocolError::BulkHeaderTooLong),
        ] {
            for piece in [usize::MAX, 1, 1000, INLINE_BYTES_MAX, INLINE_BYTES_MAX + 1] {
                assert_eq!(parse_stream(line.as_bytes(), &limits(), || piece).error, Some(error), "{piece}");
            }
        }
    }

    #[test]
    fn in_place_before_and_after_the_request_that_was_cut() {
        let ping: &[u8] = b"*1\r\n$4\r\nPING\r\n";
        let first = [ping, b"*2\r\n$3\r\nGET\r\n$3\r\nke"].concat();
        let second = [b"y\r\n", ping, b"'q'\r\n", ping].concat();
        let (mut parser, mut position) = (RequestParser::default(), 0);
        let (mut spans, mut shared) = (Vec::new(), Vec::new());
        let mut step = |input: &[u8], position: &mut usize| {
            spans.clear();
            let step = parser.parse(input, position, &mut spans, &mut shared, &limits()).unwrap();
            (step, spans.clone(), parser.is_mid_request())
        };
        assert_eq!(step(&first, &mut position), (Step::InPlace, vec![Span::range(8, 4)], false));
        assert_eq!(step(&first, &mut position), (Step::NeedMore, vec![], true));
        assert_eq!(position, first.len());
        position = 0;
        let get = vec![Span::range(0, 3), Span::range(3, 3)];
        assert_eq!(step(&second, &mut position), (Step::Carried(b"GETkey".to_vec()), get, false));
        assert_eq!(position, 3);
        assert_eq!(step(&second, &mut position), (Step::InPlace, vec![Span::range(11, 4)], false));
        assert_eq!(step(&second, &mut position), (Step::Carried(b"q".to_vec()), vec![Span::range(0, 1)], false));
        assert_eq!(step(&second, &mut position), (Step::InPlace, vec![Span::range(30, 4)], false));
        assert_eq!(step(&second, &mut position), (Step::NeedMore, vec![], false));
    }

    #[test]
    fn long_arguments_are_shared_in_place_and_carried() {
        for (len, is_shared) in [(SHARED_BYTES_MIN, false), (SHARED_BYTES_MIN + 1, true)] {
            let value = vec![b'v'; len];
            let header = format!("*4\r\n$3\r\nSET\r\n${len}\r\n");
            let stream = [header.as_bytes(), &value, b"\r\n$1\r\nx\r\n$0\r\n\r\nPING\r\n"].concat();
            let set =
                vec![(b"SET".to_vec(), false), (value.clone(), is_shared), (b"x".to_vec(), false), (vec![], false)];
            let expected = [set, vec![(b"PING".to_vec(), false)]];
            assert_eq!(parse_all(&stream, &limits()).requests, expected);
            // The same in lines, bare and quoted.
            let line = [b"SET ", &value[..], b"\nSET 'a' ", &value, b"\n"].concat();
            let outcome = parse_all(&line, &limits());
            assert_eq!(outcome.requests[0][1], (value.clone(), is_shared));
            assert_eq!(outcome.requests[1][2], (value, is_shared));
        }
    }

    #[test]
    fn a_promise_allocates_nothing() {
        let (mut parser, mut spans, mut shared) = (RequestParser::default(), Vec::new(), Vec::new());
        let limits = RequestLimits::default();
        let mut feed = |input: &[u8]| {
            let step = parser.parse(input, &mut 0, &mut spans, &mut shared, &limits);
            (step.unwrap(), parser.held_bytes())
        };
        let promise = format!("*1048576\r\n$3\r\nSET\r\n${}\r\n", 512 << 20);
        let (step, held) = feed(promise.as_bytes());
        assert_eq!(step, Step::NeedMore);
        assert!(held < 1024, "{held}");
        let mut arrived = 0;
        for _ in 0..100 {
            arrived += 10_000;
            let (_, held) = feed(&[0; 10_000]);
            assert!((arrived..2 * arrived + 40_000).contains(&held), "{held} bytes for {arrived}");
        }
        assert_eq!(size_of::<RequestParser>(), size_of::<usize>());
        assert_eq!(RequestParser::default().held_bytes(), 0);
    }

    #[test]
    fn a_long_argument_ends_at_its_exact_capacity() {
        let mut unfinished = Unfinished::new(State::Count);
        let len = 3 * SHARED_BYTES_MIN + 77;
        for at in (0..len).step_by(1000) {
            unfinished.collect(&[0; 1000][..1000.min(len - at)], len);
        }
        assert_eq!((unfinished.long.len(), unfinished.long.capacity()), (len, len));
    }

    #[test]
    fn the_unfinished_request_is_bounded() {
        let limits = RequestLimits { query_buffer_bytes_max: 100_000, ..RequestLimits::default() };
        let long = [b"*3\r\n$99900\r\n", &[b'a'; 99_900][..], b"\r\n$999\r\n", &[b'b'; 999], b"\r\n"].concat();
        let short =
            [b"*2000\r\n".to_vec(), b"$100\r\n".iter().chain(&[b'c'; 102]).copied().collect::<Vec<u8>>().repeat(2000)];
        for stream in [long, short.concat()] {
            for piece in [1, 777, 16 << 10] {
                let outcome = parse_stream(&stream, &limits, || piece);
                assert_eq!(outcome.error, Some(ProtocolError::QueryBufferLimit));
                assert_eq!(ProtocolError::QueryBufferLimit.reply_text(), None);
            }
        }
        // Many requests are not one: the bound is per request.
        let many = b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n".repeat(10_000);
        assert_eq!(parse_stream(&many, &limits, || 7).requests.len(), 10_000);
    }

    #[test]
    fn a_million_arguments_trickle_in_linear_time() {
        let stream = [b"*1048576\r\n".to_vec(), b"$1\r\nx\r\n".repeat(ARGS_MAX)].concat();
        // Quadratic would be 10^13 steps.
        for piece in [1, 16 << 10] {
            let outcome = parse_stream(&stream, &limits(), || piece);
            assert_eq!(outcome.requests[0].len(), ARGS_MAX);
        }
    }
}
