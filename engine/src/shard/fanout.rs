//! Commands that concern several shards: split here, merged here.
//!
//! `MGET a b c`, with `a` and `c` on shard 0 and `b` on shard 1, becomes `MGET a c` there and `MGET b` here. Each part is
//! an ordinary command to the shard that executes it; its reply comes back to the part's place, and when the last part
//! is in, the replies become one. The parts are atomic each for itself, not together.

use bytes::Bytes;
use torc_protocol::resp::number::read_decimal;
use torc_protocol::resp::reply::{Dialect, ReplyBuffer, ReplyWriter};

use super::turn::Origin;
use crate::command::{Merge, Report, cursor_shard};
use crate::id::ShardId;

/// A command that was split.
#[derive(Debug)]
pub(super) struct Fanout {
    /// Where the one reply goes.
    pub origin: Origin,
    pub dialect: Dialect,
    pub merge: Merge,
    /// Of MGET: which part answers each key, in the order of the keys.
    pub order: Vec<u16>,
    /// Of reports: the arguments, as the sections of INFO. Of SCAN: all its arguments.
    pub words: Vec<Vec<u8>>,
    /// Of SCAN: what the shards so far have given.
    pub page: Page,
    parts: Vec<ReplyBuffer>,
    missing: usize,
}

impl Fanout {
    pub fn new(origin: Origin, dialect: Dialect, merge: Merge, parts: usize) -> Fanout {
        let parts_list = (0..parts).map(|_| ReplyBuffer::default()).collect();
        Fanout {
            origin,
            dialect,
            merge,
            order: Vec::new(),
            words: Vec::new(),
            page: Page::default(),
            parts: parts_list,
            missing: parts,
        }
    }
}

/// A page of SCAN that is being filled.
#[derive(Debug, Default)]
pub(super) struct Page {
    /// Keys wanted, and the database they are in.
    pub wanted: usize,
    pub db: u8,
    /// The shard asked last.
    pub shard: ShardId,
    cursor: Vec<u8>,
    keys: Vec<u8>,
    count: usize,
}

impl Page {
    /// Adds what a shard gave.
    fn add(&mut self, reply: &[u8]) {
        let (_, cursor_at) = header(reply);
        let cursor = bulk_body(&reply[cursor_at..]);
        let rest = &reply[cursor_at + header(&reply[cursor_at..]).1 + cursor.len() + 2..];
        let (count, keys_at) = header(rest);
        self.cursor = cursor.to_vec();
        self.keys.extend_from_slice(&rest[keys_at..]);
        self.count += count as usize;
    }
}

impl Fanout {
    /// After a part of SCAN: the next shard to ask, with the arguments, if that shard's keys came to an end before the
    /// page was full.
    pub fn next_scan(&mut self, shards: usize) -> Option<ShardId> {
        if self.merge != Merge::Scan || self.parts[0].bytes.first() != Some(&b'*') {
            return None;
        }
        self.page.add(&std::mem::take(&mut self.parts[0]).bytes);
        let next = cursor_shard(&self.page.cursor, shards).ok()?;
        let ended = self.page.cursor != b"0" && next != self.page.shard;
        if !ended || self.page.count >= self.page.wanted {
            return None;
        }
        self.words[1] = self.page.cursor.clone();
        self.page.shard = next;
        self.missing = 1;
        Some(next)
    }
}

/// The split commands under way, found by place and generation.
#[derive(Debug, Default)]
pub(super) struct Fanouts {
    slots: Vec<(u32, Option<Fanout>)>,
    free: Vec<u32>,
}

impl Fanouts {
    pub fn insert(&mut self, fanout: Fanout) -> (u32, u32) {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push((0, None));
            self.slots.len() as u32 - 1
        });
        let place = &mut self.slots[slot as usize];
        place.1 = Some(fanout);
        (slot, place.0)
    }

    /// A part's reply has come. The split command, if it was the last part.
    pub fn complete(&mut self, slot: u32, generation: u32, part: u32, reply: ReplyBuffer) -> Option<Fanout> {
        let place = &mut self.slots[slot as usize];
        assert_eq!(place.0, generation, "a part answers once, and its command lives until all parts have");
        let fanout = place.1.as_mut().expect("a split command lives until all parts have answered");
        fanout.parts[part as usize] = reply;
        fanout.missing -= 1;
        if fanout.missing > 0 {
            return None;
        }
        place.0 = place.0.wrapping_add(1);
        self.free.push(slot);
        place.1.take()
    }

    pub fn is_empty(&self) -> bool {
        self.free.len() == self.slots.len()
    }
}

impl Fanout {
    /// Writes the one reply that the parts make. `report` makes one of the counters of each shard and the command's words.
    pub fn write(
        &mut self,
        reply: &mut ReplyBuffer,
        random: u64,
        report: impl FnOnce(Report, &[&[u8]], &[Vec<u8>], &mut ReplyWriter<'_>),
    ) {
        // A part that failed speaks for all.
        if let Some(failed) = self.parts.iter_mut().find(|part| part.bytes.first() == Some(&b'-')) {
            return reply.append(failed);
        }
        let mut writer = ReplyWriter::new(reply, self.dialect);
        match self.merge {
            Merge::Ok => writer.ok(),
            Merge::Sum => writer.integer(self.parts.iter().map(|part| header(&part.bytes).0).sum()),
            Merge::Concat => {
                writer.array(self.parts.iter().map(|part| header(&part.bytes).0 as usize).sum());
                for part in &mut self.parts {
                    let mut body = part.split_off(header(&part.bytes).1, 0);
                    reply.append(&mut body);
                }
            }
            Merge::ConcatText => {
                let texts: Vec<u8> = self.parts.iter().flat_map(|part| bulk_body(&part.bytes)).copied().collect();
                writer.verbatim(&texts);
            }
            Merge::Interleave => {
                writer.array(self.order.len());
                let mut readers: Vec<Elements<'_>> = self.parts.iter().map(Elements::new).collect();
                for &part in &self.order {
                    readers[part as usize].copy_next(reply);
                }
            }
            Merge::Scan => {
                writer.array(2);
                writer.bulk(&self.page.cursor);
                writer.array(self.page.count);
                writer.raw(&self.page.keys);
            }
            Merge::RandomKey => {
                // Each part is [keys of that shard, one of them]. The first header is the array's own.
                let offers: Vec<(u64, &[u8])> = self.parts.iter().map(|part| offer(&part.bytes)).collect();
                let total: u64 = offers.iter().map(|(weight, _)| weight).sum();
                let mut ticket = if total == 0 { 0 } else { random % total };
                let chosen = offers.iter().find(|(weight, _)| {
                    let hit = ticket < *weight;
                    ticket = ticket.wrapping_sub(*weight);
                    hit
                });
                match chosen {
                    Some((_, key)) => writer.bulk(key),
                    None => writer.null(),
                }
            }
            Merge::Report(kind) => {
                let counters: Vec<&[u8]> = self.parts.iter().map(|part| bulk_body(&part.bytes)).collect();
                report(kind, &counters, &self.words, &mut writer);
            }
        }
    }
}

/// The number in a reply's first line, and where the line ends. The replies are our own, so they are well formed.
fn header(bytes: &[u8]) -> (i64, usize) {
    let end = memchr::memchr(b'\r', bytes).expect("a reply's first line ends");
    (read_decimal(&bytes[1..end]).expect("a counting reply has a number"), end + 2)
}

/// The text of a bulk string reply.
fn bulk_body(bytes: &[u8]) -> &[u8] {
    let (len, start) = header(bytes);
    &bytes[start..start + len as usize]
}

fn offer(bytes: &[u8]) -> (u64, &[u8]) {
    let (_, array_end) = header(bytes);
    let rest = &bytes[array_end..];
    let (keys, keys_end) = header(rest);
    match keys {
        0 => (0, b""),
        keys => (keys as u64, bulk_body(&rest[keys_end..])),
    }
}

/// Goes through the elements of an array of bulk strings and nulls, some of them shared.
struct Elements<'a> {
    buffer: &'a ReplyBuffer,
    at: usize,
    shared_at: usize,
}

impl<'a> Elements<'a> {
    fn new(buffer: &'a ReplyBuffer) -> Elements<'a> {
        Elements { buffer, at: header(&buffer.bytes).1, shared_at: 0 }
    }

    fn copy_next(&mut self, reply: &mut ReplyBuffer) {
        let bytes = &self.buffer.bytes;
        let start = self.at;
        let line_end = start + memchr::memchr(b'\r', &bytes[start..]).expect("an element's line ends") + 2;
        let is_null = bytes[start] == b'_' || bytes[start + 1] == b'-';
        if is_null {
            reply.bytes.extend_from_slice(&bytes[start..line_end]);
            self.at = line_end;
            return;
        }
        let shared: Option<&(usize, Bytes)> =
            self.buffer.shared.get(self.shared_at).filter(|(position, _)| *position == line_end);
        match shared {
            Some((_, value)) => {
                reply.bytes.extend_from_slice(&bytes[start..line_end]);
                reply.shared.push((reply.bytes.len(), value.clone()));
                reply.bytes.extend_from_slice(b"\r\n");
                self.shared_at += 1;
                self.at = line_end + 2;
            }
            None => {
                let len = read_decimal(&bytes[start + 1..line_end - 2]).expect("a bulk string has a length");
                let end = line_end + len as usize + 2;
                reply.bytes.extend_from_slice(&bytes[start..end]);
                self.at = end;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::SessionId;
    use crate::message::Target;

    fn merged(merge: Merge, order: &[u16], parts: &[&[u8]]) -> String {
        let session = SessionId { slot: 0, generation: 0 };
        let origin = Origin::Home(Target::Session { id: session, seq: 0 });
        let mut fanouts = Fanouts::default();
        let mut fanout = Fanout::new(origin, Dialect::Resp2, merge, parts.len());
        fanout.order = order.to_vec();
        let (slot, generation) = fanouts.insert(fanout);
        let mut done = None;
        for (part, bytes) in parts.iter().enumerate().rev() {
            assert!(done.is_none());
            let reply = ReplyBuffer { bytes: bytes.to_vec(), shared: Vec::new() };
            done = fanouts.complete(slot, generation, part as u32, reply);
        }
        let mut reply = ReplyBuffer::default();
        done.expect("the last part completes").write(&mut reply, 7, |_, _, _, _| unreachable!("no report"));
        assert!(fanouts.is_empty());
        String::from_utf8(reply.to_vec()).expect("text")
    }

    #[test]
    fn parts_become_one_reply() {
        assert_eq!(merged(Merge::Sum, &[], &[b":2\r\n", b":40\r\n"]), ":42\r\n");
        assert_eq!(merged(Merge::Ok, &[], &[b"+OK\r\n", b"+OK\r\n"]), "+OK\r\n");
        assert_eq!(merged(Merge::Ok, &[], &[b"+OK\r\n", b"-OOM no\r\n"]), "-OOM no\r\n");
        let concat: [&[u8]; 3] = [b"*1\r\n$1\r\na\r\n", b"*0\r\n", b"*2\r\n$1\r\nb\r\n$1\r\nc\r\n"];
        assert_eq!(merged(Merge::Concat, &[], &concat), "*3\r\n$1\r\na\r\n$1\r\nb\r\n$1\r\nc\r\n");
        let values: [&[u8]; 2] = [b"*2\r\n$1\r\na\r\n$-1\r\n", b"*1\r\n$2\r\nbb\r\n"];
        assert_eq!(merged(Merge::Interleave, &[0, 1, 0], &values), "*3\r\n$1\r\na\r\n$2\r\nbb\r\n$-1\r\n");
        let offers: [&[u8]; 2] = [b"*2\r\n:0\r\n$-1\r\n", b"*2\r\n:3\r\n$1\r\nk\r\n"];
        assert_eq!(merged(Merge::RandomKey, &[], &offers), "$1\r\nk\r\n");
        assert_eq!(merged(Merge::RandomKey, &[], &offers[..1]), "$-1\r\n");
    }
}
