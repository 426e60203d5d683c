//! What one shard tells another: requests for keys that it owns, and the replies to those.
//!
//! All that a shard has to say to another in one turn travels as one [`Frame`], a run of records:
//!
//! ```text
//! request  | 0 | db | dialect | target kind | row u16 | 0 u16 | argc u32 | cost u32 | hash u64 | target 16 | args ...
//!   arg    | length u32 | bytes          or   | u32::MAX | place in the frame's shared values u32 |
//! reply    | 1 | 0  | 0       | target kind | 0 u32           | length u32 | cost u32           | target 16 | bytes
//! ```
//!
//! Integers are little-endian. Values longer than [`SHARED_BYTES_MIN`] are not copied: the frame carries the refcounted
//! value beside its bytes, in requests by its place in the list, in replies spliced in at its position. A frame never
//! leaves the process, so it has no version and nothing in it is suspect.
//!
//! [`SHARED_BYTES_MIN`]: torc_protocol::limits::SHARED_BYTES_MIN

use bytes::Bytes;
use torc_protocol::args::{Args, Span};
use torc_protocol::resp::reply::{Dialect, ReplyBuffer};

use crate::command::Command;
use crate::id::SessionId;

/// All that one turn of one shard has to say to another shard.
#[derive(Debug, Default)]
pub struct Frame {
    pub(crate) body: ReplyBuffer,
}

/// Where a reply belongs on its home shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// A place in the order of a session's replies.
    Session { id: SessionId, seq: u64 },
    /// A part of a command that was split over several shards.
    Part { fanout: u32, generation: u32, part: u32 },
}

/// Everything of a request but its arguments.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RequestHead {
    pub command: Command,
    pub db: u8,
    pub dialect: Dialect,
    pub hash: u64,
    pub target: Target,
    /// Bytes that the request holds of its sender's credit; the reply gives them back.
    pub cost: u32,
}

impl RequestHead {
    /// A request that has no one key.
    pub fn new(command: Command, db: u8, dialect: Dialect, target: Target) -> RequestHead {
        RequestHead { command, db, dialect, hash: 0, target, cost: 0 }
    }
}

/// A record read from a frame.
pub(crate) enum Record {
    /// Its arguments' spans were pushed; they index the frame's bytes and the shared table given.
    Request(RequestHead),
    /// Its bytes are `body.bytes[start..end]`, with the shared values `shared_start..shared_end` spliced in.
    Reply { target: Target, cost: u32, start: usize, end: usize, shared_start: usize, shared_end: usize },
}

/// How far a frame has been read.
#[derive(Clone, Copy, Default)]
pub(crate) struct Cursor {
    at: usize,
    shared_at: usize,
}

/// An open reply record, to be closed with [`Frame::end_reply`].
#[derive(Clone, Copy)]
pub(crate) struct ReplyMark {
    start: usize,
    shared_start: usize,
}

const REQUEST: u8 = 0;
const REPLY: u8 = 1;
const REQUEST_HEAD_BYTES: usize = 40;
const REPLY_HEAD_BYTES: usize = 32;
const COST_AT: usize = 12;
const SHARED_MARK: u32 = u32::MAX;

impl Frame {
    /// Whether there is nothing to say.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.body.is_empty()
    }

    /// Appends a request with the arguments `spans` of `args`' buffer; returns its cost in credit bytes.
    pub(crate) fn push_request(&mut self, mut head: RequestHead, args: Args<'_>) -> u32 {
        let start = self.body.bytes.len();
        let (kind, target) = encode_target(head.target);
        let out = &mut self.body.bytes;
        let mut bytes = [0u8; REQUEST_HEAD_BYTES];
        bytes[0] = REQUEST;
        bytes[1] = head.db;
        bytes[2] = (head.dialect == Dialect::Resp3) as u8;
        bytes[3] = kind;
        bytes[4..6].copy_from_slice(&head.command.id().to_le_bytes());
        bytes[8..12].copy_from_slice(&(args.len() as u32).to_le_bytes());
        bytes[16..24].copy_from_slice(&head.hash.to_le_bytes());
        bytes[24..40].copy_from_slice(&target);
        out.extend_from_slice(&bytes);
        let mut shared_bytes = 0;
        for index in 0..args.len() {
            if let Some(shared) = args.get_shared(index) {
                shared_bytes += shared.len();
                out.extend_from_slice(&SHARED_MARK.to_le_bytes());
                out.extend_from_slice(&(self.body.shared.len() as u32).to_le_bytes());
                self.body.shared.push((out.len(), shared.clone()));
            } else {
                let arg = args.get(index);
                out.extend_from_slice(&(arg.len() as u32).to_le_bytes());
                out.extend_from_slice(arg);
            }
        }
        head.cost = u32::try_from(out.len() - start + shared_bytes).unwrap_or(u32::MAX);
        out[start + COST_AT..start + COST_AT + 4].copy_from_slice(&head.cost.to_le_bytes());
        head.cost
    }

    /// Opens a reply; the caller writes its bytes to `body` and closes it.
    #[inline]
    pub(crate) fn begin_reply(&mut self, target: Target, cost: u32) -> ReplyMark {
        let start = self.body.bytes.len();
        let (kind, target) = encode_target(target);
        let mut bytes = [0u8; REPLY_HEAD_BYTES];
        bytes[0] = REPLY;
        bytes[3] = kind;
        bytes[COST_AT..COST_AT + 4].copy_from_slice(&cost.to_le_bytes());
        bytes[16..32].copy_from_slice(&target);
        self.body.bytes.extend_from_slice(&bytes);
        ReplyMark { start, shared_start: self.body.shared.len() }
    }

    /// Drops what was written since the reply was opened, to write something else instead.
    pub(crate) fn rewind_reply(&mut self, mark: ReplyMark) {
        self.body.bytes.truncate(mark.start + REPLY_HEAD_BYTES);
        self.body.shared.truncate(mark.shared_start);
    }

    /// Takes a reply out of the frame, for it to be sent later.
    pub(crate) fn take_reply(&mut self, mark: ReplyMark) -> ReplyBuffer {
        let reply = self.body.split_off(mark.start + REPLY_HEAD_BYTES, mark.shared_start);
        self.cancel_reply(mark);
        reply
    }

    /// Drops the reply altogether.
    pub(crate) fn cancel_reply(&mut self, mark: ReplyMark) {
        self.body.bytes.truncate(mark.start);
        self.body.shared.truncate(mark.shared_start);
    }

    /// Closes a reply.
    #[inline]
    pub(crate) fn end_reply(&mut self, mark: ReplyMark) {
        let len = self.body.bytes.len() - mark.start - REPLY_HEAD_BYTES;
        let len = u32::try_from(len).expect("a frame stays below 4 GiB: credits bound it");
        self.body.bytes[mark.start + 8..mark.start + 12].copy_from_slice(&len.to_le_bytes());
    }

    /// Reads the next record. A request's spans are pushed to `spans`, its shared values to `shared`.
    #[inline]
    pub(crate) fn next(&self, cursor: &mut Cursor, spans: &mut Vec<Span>, shared: &mut Vec<Bytes>) -> Option<Record> {
        let bytes = &self.body.bytes[..];
        if cursor.at >= bytes.len() {
            return None;
        }
        let at = cursor.at;
        if bytes[at] == REPLY {
            let head = &bytes[at..at + REPLY_HEAD_BYTES];
            let start = at + REPLY_HEAD_BYTES;
            let end = start + u32_at(head, 8) as usize;
            let shared_start = cursor.shared_at;
            while self.body.shared.get(cursor.shared_at).is_some_and(|&(position, _)| position <= end) {
                cursor.shared_at += 1;
            }
            cursor.at = end;
            let target = decode_target(head[3], &head[16..32]);
            let shared_end = cursor.shared_at;
            return Some(Record::Reply { target, cost: u32_at(head, COST_AT), start, end, shared_start, shared_end });
        }
        let head = &bytes[at..at + REQUEST_HEAD_BYTES];
        let argc = u32_at(head, 8);
        let mut at = at + REQUEST_HEAD_BYTES;
        for _ in 0..argc {
            let len = u32_at(bytes, at);
            at += 4;
            if len == SHARED_MARK {
                let place = u32_at(bytes, at) as usize;
                at += 4;
                spans.push(Span::shared(shared.len()));
                shared.push(self.body.shared[place].1.clone());
                cursor.shared_at = place + 1;
            } else {
                spans.push(Span::range(at, len as usize));
                at += len as usize;
            }
        }
        cursor.at = at;
        Some(Record::Request(RequestHead {
            command: Command::from_id(u16::from_le_bytes([head[4], head[5]])),
            db: head[1],
            dialect: if head[2] == 1 { Dialect::Resp3 } else { Dialect::Resp2 },
            hash: u64_at(head, 16),
            target: decode_target(head[3], &head[24..40]),
            cost: u32_at(head, COST_AT),
        }))
    }
}

#[inline]
fn encode_target(target: Target) -> (u8, [u8; 16]) {
    let (kind, a, b, c) = match target {
        Target::Session { id, seq } => (0, id.slot, id.generation, seq),
        Target::Part { fanout, generation, part } => (1, fanout, generation, part as u64),
    };
    let mut bytes = [0; 16];
    bytes[..4].copy_from_slice(&a.to_le_bytes());
    bytes[4..8].copy_from_slice(&b.to_le_bytes());
    bytes[8..].copy_from_slice(&c.to_le_bytes());
    (kind, bytes)
}

#[inline]
fn decode_target(kind: u8, bytes: &[u8]) -> Target {
    let (a, b, c) = (u32_at(bytes, 0), u32_at(bytes, 4), u64_at(bytes, 8));
    match kind {
        0 => Target::Session { id: SessionId { slot: a, generation: b }, seq: c },
        _ => Target::Part { fanout: a, generation: b, part: c as u32 },
    }
}

#[inline]
fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

#[inline]
fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_pushed_is_read_in_order() {
        let big = Bytes::from(vec![9u8; 20_000]);
        let buffer = b"SETkey";
        let spans = [Span::range(0, 3), Span::range(3, 3), Span::shared(0)];
        let table = [big.clone()];
        let args = Args::new(buffer, &spans, &table);
        let target = Target::Session { id: SessionId { slot: 3, generation: 7 }, seq: 11 };
        let part = Target::Part { fanout: 5, generation: 6, part: 2 };
        let command = Command::lookup(b"set").expect("SET exists");
        let mut frame = Frame::default();
        let head = RequestHead { command, db: 4, dialect: Dialect::Resp3, hash: 99, target, cost: 0 };
        let cost = frame.push_request(head, args);
        assert!(cost > 20_000);
        let mark = frame.begin_reply(part, 42);
        frame.body.bytes.extend_from_slice(b"$20000\r\n");
        frame.body.shared.push((frame.body.bytes.len(), big));
        frame.body.bytes.extend_from_slice(b"\r\n");
        frame.end_reply(mark);
        let mark = frame.begin_reply(target, 1);
        frame.body.bytes.extend_from_slice(b"oops");
        frame.rewind_reply(mark);
        frame.body.bytes.extend_from_slice(b"+OK\r\n");
        frame.end_reply(mark);

        let (mut cursor, mut spans, mut shared) = (Cursor::default(), Vec::new(), Vec::new());
        let Some(Record::Request(head)) = frame.next(&mut cursor, &mut spans, &mut shared) else { panic!("a request") };
        assert_eq!((head.db, head.hash, head.target, head.cost), (4, 99, target, cost));
        let args = Args::new(&frame.body.bytes, &spans, &shared);
        assert_eq!((args.len(), args.get(1), args.get(2).len()), (3, &b"key"[..], 20_000));
        let Some(Record::Reply { target: t, cost, start, end, shared_start, shared_end }) =
            frame.next(&mut cursor, &mut spans, &mut shared)
        else {
            panic!("a reply")
        };
        assert_eq!((t, cost, &frame.body.bytes[start..end]), (part, 42, &b"$20000\r\n\r\n"[..]));
        assert_eq!((shared_start, shared_end), (1, 2));
        let Some(Record::Reply { target: t, start, end, shared_start, shared_end, .. }) =
            frame.next(&mut cursor, &mut spans, &mut shared)
        else {
            panic!("a reply")
        };
        assert_eq!((t, &frame.body.bytes[start..end]), (target, &b"+OK\r\n"[..]));
        assert_eq!((shared_start, shared_end), (2, 2));
        assert!(frame.next(&mut cursor, &mut spans, &mut shared).is_none());
    }
}
