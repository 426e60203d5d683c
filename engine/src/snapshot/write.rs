//! Makes blocks of entries: copies short ones together, and cuts long ones up.
//!
//! An entry is copied when it is saved, so that it may change or go at once. Only a value that is refcounted and too long to
//! be copied with others is kept by its count, and copied fragment by fragment into blocks of its own. Blocks get their
//! place in the file when they are complete. They may be written in any order; what counts is that all are.

use std::collections::VecDeque;

use bytes::Bytes;
use crc32fast::Hasher;

use super::Buffer;
use super::format::{
    BLOCK_HEADER_BYTES, BlockHeader, FOOTER_BYTES, HEAD_BYTES_MAX, Head, Header, Kind, PAGE_BYTES, PAYLOAD_BYTES_MAX,
};
use crate::limits::{
    SNAPSHOT_BLOCK_BYTES_MAX, SNAPSHOT_BLOCKS_AHEAD, SNAPSHOT_FRAGMENT_BYTES_MAX, SNAPSHOT_PENDING_BYTES_MAX,
    SNAPSHOT_WHOLE_BYTES_MAX,
};
use crate::store::{EntryRef, KeyspaceId, Value};

/// The checksum of a block is computed along with it, in pieces of this size: all at once would take 20 µs.
const CHECKSUM_STEP_BYTES: usize = 16 << 10;
/// What an entry costs besides copying it, in bytes that could be copied in the time.
const ENTRY_COST_BYTES: usize = 48;

/// A part of the file that is complete. When it is written it goes back with [`Writer::handle_block_written`].
#[derive(Debug)]
pub struct Block {
    /// The snapshot that it is of.
    pub snapshot: u64,
    /// Where it belongs in the file, a multiple of 4 KiB.
    pub offset: u64,
    pub buffer: Buffer,
}

/// What a snapshot came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Of the file.
    pub bytes: u64,
    pub entries: u64,
}

/// A block of whole entries that still has room.
struct Open {
    buffer: Buffer,
    /// How far it is filled, and how far the checksum is of what follows the header.
    at: usize,
    summed: usize,
    hasher: Hasher,
    count: u32,
}

/// An entry that is too long to be copied at once.
struct Long {
    head: Head,
    key: Box<[u8]>,
    value: Bytes,
    /// Bytes that nobody else may hold any longer: they count as pending.
    pending_bytes: usize,
    /// Bytes of key and value that are in blocks.
    done: usize,
}

/// The file of one snapshot of one shard, on its way out.
pub struct Writer {
    snapshot: u64,
    open: Option<Open>,
    long: VecDeque<Long>,
    /// Bytes of those that wait behind the first.
    waiting_bytes: usize,
    /// Blocks to be written, and how many are being written.
    ready: VecDeque<Block>,
    in_flight: usize,
    /// Buffers to be used again.
    free: Vec<Buffer>,
    blocks: u64,
    totals: Totals,
    /// Entries that there have to be.
    expected: u64,
    ended: bool,
}

impl Writer {
    /// Begins the file with its header.
    pub fn new(header: &Header) -> Writer {
        let mut writer = Writer {
            snapshot: header.snapshot,
            open: None,
            long: VecDeque::new(),
            waiting_bytes: 0,
            ready: VecDeque::new(),
            in_flight: 0,
            free: Vec::new(),
            blocks: 0,
            totals: Totals::default(),
            expected: header.entries(),
            ended: false,
        };
        let mut buffer = writer.buffer();
        header.encode(&mut buffer.whole_mut()[..PAGE_BYTES]);
        writer.push(buffer, PAGE_BYTES);
        writer
    }

    /// Saves an entry as it is now. `leaves` says that its value is about to be given up by the store. Returns what that
    /// cost, in bytes that could be copied in the time.
    #[inline]
    pub fn save(&mut self, keyspace: KeyspaceId, entry: EntryRef<'_>, leaves: bool) -> usize {
        let (key, value) = (entry.key(), entry.value());
        let (key_bytes, value_bytes) = (key.len(), value.bytes().len());
        let head = Head {
            keyspace,
            key_bytes: key_bytes as u64,
            value_bytes: value_bytes as u64,
            expire_ms: entry.expire_ms(),
            version: entry.version(),
        };
        self.totals.entries += 1;
        let bytes = key_bytes + value_bytes;
        if bytes > SNAPSHOT_WHOLE_BYTES_MAX {
            self.keep(head, key, value, leaves);
            return ENTRY_COST_BYTES + key_bytes;
        }
        let needed = HEAD_BYTES_MAX + bytes;
        if self.open.as_ref().is_none_or(|open| SNAPSHOT_BLOCK_BYTES_MAX - open.at < needed) {
            self.close();
            let buffer = self.buffer();
            self.open = Some(Open {
                buffer,
                at: BLOCK_HEADER_BYTES,
                summed: BLOCK_HEADER_BYTES,
                hasher: Hasher::new(),
                count: 0,
            });
        }
        let open = self.open.as_mut().expect("just opened");
        let out = &mut open.buffer.whole_mut()[open.at..open.at + needed];
        let head_bytes = head.encode(out);
        let (out_key, out) = out[head_bytes..].split_at_mut(key_bytes);
        out_key.copy_from_slice(key);
        out[..value_bytes].copy_from_slice(value.bytes());
        open.at += head_bytes + bytes;
        open.count += 1;
        if open.at - open.summed >= CHECKSUM_STEP_BYTES {
            open.sum();
        }
        ENTRY_COST_BYTES + bytes
    }

    /// Keeps a long entry to be cut up.
    #[cold]
    fn keep(&mut self, head: Head, key: &[u8], value: Value<'_>, leaves: bool) {
        let value = match value {
            Value::Shared(bytes) => bytes.clone(),
            Value::Inline(bytes) => Bytes::copy_from_slice(bytes),
        };
        let pending_bytes = if leaves { key.len() + value.len() } else { key.len() };
        if !self.long.is_empty() {
            self.waiting_bytes += pending_bytes;
        }
        self.long.push_back(Long { head, key: key.into(), value, pending_bytes, done: 0 });
    }

    /// Cuts up long entries, as far as `budget` goes and blocks are not too far ahead. `dropped` is given each value that
    /// is done with.
    pub fn cut(&mut self, budget: &mut usize, mut dropped: impl FnMut(Bytes)) {
        while *budget > 0
            && self.wants_more()
            && let Some(mut long) = self.long.pop_front()
        {
            let (key_bytes, all) = (long.key.len(), long.key.len() + long.value.len());
            let kind = match long.done {
                0 => Kind::First,
                done if all - done > SNAPSHOT_FRAGMENT_BYTES_MAX => Kind::Middle,
                _ => Kind::Last,
            };
            let mut buffer = self.buffer();
            let payload = &mut buffer.whole_mut()[BLOCK_HEADER_BYTES..];
            let mut at = if kind == Kind::First { long.head.encode(payload) } else { 0 };
            let end = (long.done + SNAPSHOT_FRAGMENT_BYTES_MAX).min(all);
            // An entry that is cut up has two parts at least.
            let end = if kind == Kind::First { end.min(all / 2) } else { end };
            let value_from = |done: usize| done.max(key_bytes) - key_bytes;
            let of_key = &long.key[long.done.min(key_bytes)..end.min(key_bytes)];
            let of_value = &long.value[value_from(long.done)..value_from(end)];
            for part in [of_key, of_value] {
                payload[at..at + part.len()].copy_from_slice(part);
                at += part.len();
            }
            *budget = budget.saturating_sub(2 * (end - long.done));
            long.done = end;
            let is_last = kind == Kind::Last;
            self.push_block(buffer, kind, at, is_last as u32, None);
            if is_last {
                if let Some(next) = self.long.front() {
                    self.waiting_bytes -= next.pending_bytes;
                }
                dropped(long.value);
            } else {
                self.long.push_front(long);
            }
        }
    }

    /// Whether long entries wait to be cut up.
    pub fn has_long(&self) -> bool {
        !self.long.is_empty()
    }

    /// Whether the walk may go on: blocks are not too far ahead of the disk.
    #[inline]
    pub fn wants_more(&self) -> bool {
        self.ready.len() + self.in_flight < SNAPSHOT_BLOCKS_AHEAD
    }

    /// Whether more is in memory than there should be: writers have to wait.
    pub fn is_full(&self) -> bool {
        self.pending_bytes() >= SNAPSHOT_PENDING_BYTES_MAX
    }

    /// Bytes of blocks that are not written, and of values that are only kept for the snapshot, but for the one that is
    /// being cut up.
    pub fn pending_bytes(&self) -> usize {
        let blocks = self.ready.len() + self.in_flight + self.open.is_some() as usize;
        blocks * SNAPSHOT_BLOCK_BYTES_MAX + self.waiting_bytes
    }

    /// All entries are saved: adds the footer, if none is still to be cut up.
    pub fn end(&mut self) {
        if self.ended || self.has_long() {
            return;
        }
        self.close();
        assert_eq!(self.totals.entries, self.expected, "a snapshot has what there was when it was begun");
        self.ended = true;
        let mut buffer = self.buffer();
        let footer = &mut buffer.whole_mut()[BLOCK_HEADER_BYTES..];
        let bytes = self.totals.bytes + BlockHeader::block_bytes(FOOTER_BYTES) as u64;
        for (at, number) in [self.totals.entries, bytes, self.blocks].into_iter().enumerate() {
            footer[8 * at..8 * at + 8].copy_from_slice(&number.to_le_bytes());
        }
        self.push_block(buffer, Kind::Footer, FOOTER_BYTES, 0, None);
    }

    /// Whether all blocks are made.
    pub fn is_ended(&self) -> bool {
        self.ended
    }

    /// What it came to, when everything is written.
    pub fn finished(&self) -> Option<Totals> {
        (self.ended && self.ready.is_empty() && self.in_flight == 0).then_some(self.totals)
    }

    /// What is saved so far; bytes are those of complete blocks.
    pub fn totals(&self) -> Totals {
        self.totals
    }

    /// Entries there will be.
    pub fn expected_entries(&self) -> u64 {
        self.expected
    }

    /// The next block to be written.
    pub fn poll_block(&mut self) -> Option<Block> {
        let block = self.ready.pop_front()?;
        self.in_flight += 1;
        Some(block)
    }

    /// A block that was polled is written.
    pub fn handle_block_written(&mut self, block: Block) {
        if block.snapshot != self.snapshot {
            // Of one that was aborted.
            return;
        }
        self.in_flight -= 1;
        if self.free.len() < SNAPSHOT_BLOCKS_AHEAD {
            self.free.push(block.buffer);
        }
    }

    /// The values that were not cut up yet, of a snapshot that is given up.
    pub fn into_values(self) -> impl Iterator<Item = Bytes> {
        self.long.into_iter().map(|long| long.value)
    }

    fn buffer(&mut self) -> Buffer {
        self.free.pop().unwrap_or_else(|| Buffer::with_room(SNAPSHOT_BLOCK_BYTES_MAX))
    }

    /// Completes the block of whole entries.
    fn close(&mut self) {
        if let Some(mut open) = self.open.take() {
            open.sum();
            self.push_block(open.buffer, Kind::Entries, open.at - BLOCK_HEADER_BYTES, open.count, Some(open.hasher));
        }
    }

    /// Completes a block. `payload` is the checksum of the payload without the padding, if it is known.
    fn push_block(
        &mut self,
        mut buffer: Buffer,
        kind: Kind,
        payload_bytes: usize,
        count: u32,
        payload: Option<Hasher>,
    ) {
        assert!(payload_bytes <= PAYLOAD_BYTES_MAX);
        let bytes = BlockHeader::block_bytes(payload_bytes);
        let block = &mut buffer.whole_mut()[..bytes];
        let end = BLOCK_HEADER_BYTES + payload_bytes;
        block[end..].fill(0);
        BlockHeader { kind, payload_bytes, count, number: self.blocks, snapshot: self.snapshot }.encode(block);
        let mut hasher = Hasher::new();
        hasher.update(&block[4..BLOCK_HEADER_BYTES]);
        match payload {
            Some(mut payload) => {
                payload.update(&block[end..]);
                hasher.combine(&payload);
            }
            None => hasher.update(&block[BLOCK_HEADER_BYTES..]),
        }
        block[..4].copy_from_slice(&hasher.finalize().to_le_bytes());
        self.blocks += 1;
        self.push(buffer, bytes);
    }

    fn push(&mut self, mut buffer: Buffer, bytes: usize) {
        buffer.set_len(bytes);
        self.ready.push_back(Block { snapshot: self.snapshot, offset: self.totals.bytes, buffer });
        self.totals.bytes += bytes as u64;
    }
}

impl Open {
    /// Brings the checksum up to date.
    fn sum(&mut self) {
        let Open { buffer, at, summed, hasher, .. } = self;
        hasher.update(&buffer.whole_mut()[*summed..*at]);
        *summed = *at;
    }
}
