//! Segment and batch headers, byte for byte; `engine/FORMAT.md` draws them.
//!
//! A segment is a file: a page with its header, then batches, each on a page boundary and padded to one. All numbers are
//! little-endian. A checksum covers all that lies behind it, to the end of the page or the batch.
//!
//! A batch repeats which segment it belongs to, because files are used again: what an earlier use left behind differs in
//! salt, generation, shard or segment, and is not there for a reader.

use crate::limits::LOG_BATCH_BYTES_MAX;

/// Headers and batches begin at multiples of this, and reads and writes of the file do.
pub use crate::buffer::PAGE_BYTES;
pub const SEGMENT_HEADER_BYTES: usize = PAGE_BYTES;
pub const BATCH_HEADER_BYTES: usize = 80;
/// Bytes of records in the largest batch.
pub const PAYLOAD_BYTES_MAX: usize = LOG_BATCH_BYTES_MAX - BATCH_HEADER_BYTES;

/// The version of everything in a segment. See `engine/FORMAT.md` for what a next version must keep.
pub const VERSION: u32 = 1;

const SEGMENT_MAGIC: [u8; 8] = *b"TORCWAL\n";
const BATCH_MAGIC: [u8; 4] = *b"TBAT";

/// Set in the header of a segment that says what came before it.
const SEGMENT_HAS_PREVIOUS: u32 = 1;
/// Set in a batch without records: the process stopped in order, and all before it is durable.
pub(super) const BATCH_IS_SEAL: u16 = 1;
/// Set in a batch that was handed over when its segment's header was synced.
const BATCH_IS_BEHIND_DURABLE_HEADER: u16 = 2;

const _: () = assert!(LOG_BATCH_BYTES_MAX.is_multiple_of(PAGE_BYTES));

/// `bytes` rounded up to whole pages.
pub(super) const fn pages_up(bytes: usize) -> usize {
    bytes.next_multiple_of(PAGE_BYTES)
}

/// What the first page of a segment says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    /// The directory that it belongs to.
    pub database: [u8; 16],
    /// Which start of the process wrote it.
    pub generation: u64,
    /// The number of the segment, one after the other within a generation.
    pub segment: u64,
    /// Random, the same in all segments of one shard and generation.
    pub salt: u64,
    /// Of the first record.
    pub first_lsn: u64,
    /// The last record before it and the checksum of that record's batch.
    pub previous: Option<(u64, u32)>,
    pub shard: u16,
    /// How many shards there were.
    pub shards: u16,
    /// The last transaction over shards with a part in the log before it.
    pub last_txid: u64,
    /// Length of the file.
    pub segment_bytes: u64,
    /// When it was begun, milliseconds since the epoch.
    pub wall_ms: u64,
    /// The last record that was synced then. What is before it and not synced a crash of the machine can take.
    pub durable_lsn: u64,
}

/// What the first page of a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderFound {
    Valid(SegmentHeader),
    /// Of a version that this build does not read.
    OtherVersion(u32),
    /// Zeros, a torn or damaged header, or something else.
    None,
}

impl SegmentHeader {
    /// Writes the header over a page.
    pub(super) fn encode(&self, page: &mut [u8]) {
        page[..SEGMENT_HEADER_BYTES].fill(0);
        let (previous_lsn, previous_crc) = self.previous.unwrap_or_default();
        let flags = if self.previous.is_some() { SEGMENT_HAS_PREVIOUS } else { 0 };
        put(page, 0, SEGMENT_MAGIC);
        put(page, 12, VERSION.to_le_bytes());
        put(page, 16, self.database);
        put(page, 32, self.generation.to_le_bytes());
        put(page, 40, self.segment.to_le_bytes());
        put(page, 48, self.salt.to_le_bytes());
        put(page, 56, self.first_lsn.to_le_bytes());
        put(page, 64, previous_lsn.to_le_bytes());
        put(page, 72, previous_crc.to_le_bytes());
        put(page, 76, self.shard.to_le_bytes());
        put(page, 78, self.shards.to_le_bytes());
        put(page, 80, flags.to_le_bytes());
        put(page, 88, self.last_txid.to_le_bytes());
        put(page, 96, self.segment_bytes.to_le_bytes());
        put(page, 104, self.wall_ms.to_le_bytes());
        put(page, 112, self.durable_lsn.to_le_bytes());
        let crc = crc32fast::hash(&page[12..SEGMENT_HEADER_BYTES]);
        put(page, 8, crc.to_le_bytes());
    }

    /// Reads the first page of a file.
    pub fn parse(bytes: &[u8]) -> HeaderFound {
        let Some(page) = bytes.get(..SEGMENT_HEADER_BYTES) else {
            return HeaderFound::None;
        };
        if page[..8] != SEGMENT_MAGIC || u32_at(page, 8) != crc32fast::hash(&page[12..]) {
            return HeaderFound::None;
        }
        let version = u32_at(page, 12);
        if version != VERSION {
            return HeaderFound::OtherVersion(version);
        }
        let has_previous = u32_at(page, 80) & SEGMENT_HAS_PREVIOUS != 0;
        HeaderFound::Valid(SegmentHeader {
            database: take(page, 16),
            generation: u64_at(page, 32),
            segment: u64_at(page, 40),
            salt: u64_at(page, 48),
            first_lsn: u64_at(page, 56),
            previous: has_previous.then(|| (u64_at(page, 64), u32_at(page, 72))),
            shard: u16_at(page, 76),
            shards: u16_at(page, 78),
            last_txid: u64_at(page, 88),
            segment_bytes: u64_at(page, 96),
            wall_ms: u64_at(page, 104),
            durable_lsn: u64_at(page, 112),
        })
    }
}

/// Which segment a batch belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchOwner {
    pub salt: u64,
    pub generation: u64,
    pub segment: u64,
    pub shard: u16,
}

/// What the first bytes of a batch say. Not checked against its checksum yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchHeader {
    pub crc: u32,
    /// Bytes of records; padding follows them.
    pub payload_bytes: u32,
    /// Records, the first of which has `first_lsn`.
    pub count: u32,
    pub owner: BatchOwner,
    pub first_lsn: u64,
    /// The last record that was synced when this batch was handed to be written.
    pub durable_lsn: u64,
    /// The checksum of the batch before it, in this segment or an earlier one; 0 for the first of all.
    pub previous_crc: u32,
    pub is_seal: bool,
    /// The header of the segment was synced when this batch was handed over: without it, that is damaged and not torn.
    pub is_header_durable: bool,
    pub wall_ms: u64,
    /// The last transaction over shards with a part in the log up to and with this batch.
    pub last_txid: u64,
}

/// What is known of a batch when it is closed.
pub(super) struct BatchContent {
    pub payload_bytes: usize,
    pub count: u32,
    pub owner: BatchOwner,
    pub first_lsn: u64,
    pub flags: u16,
    pub last_txid: u64,
}

impl BatchContent {
    /// Writes what is known over the header; [`BatchMoment`] adds the rest.
    pub fn encode(&self, header: &mut [u8]) {
        put(header, 0, BATCH_MAGIC);
        put(header, 8, (self.payload_bytes as u32).to_le_bytes());
        put(header, 12, self.count.to_le_bytes());
        put(header, 16, self.owner.salt.to_le_bytes());
        put(header, 24, self.owner.generation.to_le_bytes());
        put(header, 32, self.owner.segment.to_le_bytes());
        put(header, 40, self.first_lsn.to_le_bytes());
        put(header, 68, self.owner.shard.to_le_bytes());
        put(header, 70, self.flags.to_le_bytes());
        put(header, 72, self.last_txid.to_le_bytes());
    }
}

/// What a batch says of the moment when it is handed over.
#[derive(Clone, Copy)]
pub(super) struct BatchMoment {
    pub durable_lsn: u64,
    pub previous_crc: u32,
    pub is_header_durable: bool,
    pub wall_ms: u64,
}

impl BatchMoment {
    /// Completes the closed batch at the beginning of `bytes`. Returns its length and its checksum.
    pub fn complete(&self, bytes: &mut [u8]) -> (usize, u32) {
        let batch_bytes = pages_up(BATCH_HEADER_BYTES + u32_at(bytes, 8) as usize);
        let header_flag = if self.is_header_durable { BATCH_IS_BEHIND_DURABLE_HEADER } else { 0 };
        let flags = u16_at(bytes, 70) | header_flag;
        put(bytes, 48, self.durable_lsn.to_le_bytes());
        put(bytes, 56, self.wall_ms.to_le_bytes());
        put(bytes, 64, self.previous_crc.to_le_bytes());
        put(bytes, 70, flags.to_le_bytes());
        let crc = crc32fast::hash(&bytes[8..batch_bytes]);
        put(bytes, 4, crc.to_le_bytes());
        (batch_bytes, crc)
    }
}

impl BatchHeader {
    /// Reads what may be a batch header; None if there is no room for one or it has another magic number.
    pub fn parse(bytes: &[u8]) -> Option<BatchHeader> {
        let header = bytes.get(..BATCH_HEADER_BYTES)?;
        (header[..4] == BATCH_MAGIC).then(|| Self::read(header))
    }

    fn read(header: &[u8]) -> BatchHeader {
        BatchHeader {
            crc: u32_at(header, 4),
            payload_bytes: u32_at(header, 8),
            count: u32_at(header, 12),
            owner: BatchOwner {
                salt: u64_at(header, 16),
                generation: u64_at(header, 24),
                segment: u64_at(header, 32),
                shard: u16_at(header, 68),
            },
            first_lsn: u64_at(header, 40),
            durable_lsn: u64_at(header, 48),
            wall_ms: u64_at(header, 56),
            previous_crc: u32_at(header, 64),
            is_seal: u16_at(header, 70) & BATCH_IS_SEAL != 0,
            is_header_durable: u16_at(header, 70) & BATCH_IS_BEHIND_DURABLE_HEADER != 0,
            last_txid: u64_at(header, 72),
        }
    }

    /// Length on disk, padding included; more than [`LOG_BATCH_BYTES_MAX`] if the header is not one.
    pub fn batch_bytes(&self) -> usize {
        pages_up(BATCH_HEADER_BYTES + self.payload_bytes as usize)
    }

    /// The records, if the batch lies in `bytes` (which begin with it) as it was written.
    pub fn payload<'a>(&self, bytes: &'a [u8]) -> Option<&'a [u8]> {
        let batch_bytes = self.batch_bytes();
        if batch_bytes > LOG_BATCH_BYTES_MAX {
            return None;
        }
        let batch = bytes.get(..batch_bytes)?;
        (crc32fast::hash(&batch[8..]) == self.crc).then(|| &batch[BATCH_HEADER_BYTES..][..self.payload_bytes as usize])
    }

    /// The record after the last one.
    pub fn end_lsn(&self) -> u64 {
        self.first_lsn.saturating_add(self.count as u64)
    }

    /// Whether `bytes` begin with what may be the damaged header of a batch which `owner` has and that begins with
    /// `first_lsn`: at most one of its marks is wrong. What an earlier use of the file left differs in more of them.
    pub fn resembles(bytes: &[u8], owner: &BatchOwner, first_lsn: u64) -> bool {
        let Some(bytes) = bytes.get(..BATCH_HEADER_BYTES) else {
            return false;
        };
        let header = Self::read(bytes);
        let marks = [
            bytes[..4] == BATCH_MAGIC,
            header.owner.salt == owner.salt,
            (header.owner.generation, header.owner.shard) == (owner.generation, owner.shard),
            header.owner.segment == owner.segment,
            header.first_lsn == first_lsn,
        ];
        marks.iter().filter(|&&is_right| is_right).count() >= marks.len() - 1
    }
}

fn put<const N: usize>(bytes: &mut [u8], at: usize, value: [u8; N]) {
    bytes[at..][..N].copy_from_slice(&value);
}

fn take<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..][..N].try_into().expect("as long as it is")
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(take(bytes, at))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(take(bytes, at))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(take(bytes, at))
}
