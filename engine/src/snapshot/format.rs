//! The bytes of a snapshot file; `engine/FORMAT.md` draws them.
//!
//! ```text
//! | header, 4 KiB | block | block | ... | footer |
//! ```
//!
//! Header, blocks and footer begin at multiples of 4 KiB and are padded with zeros to one. All numbers are little-endian. A
//! checksum covers all that lies behind it, to the end of the header or the block, padding included. A block says which
//! snapshot it is of and which number it has, so that none can be missing, be there twice, or be left from another file.

use crate::limits;
use crate::store::KeyspaceId;

/// Header and blocks begin at multiples of this.
pub use crate::buffer::PAGE_BYTES;
/// The version of everything in the file. See `engine/FORMAT.md` for what a next version must keep.
pub const VERSION: u32 = 1;
const MAGIC: [u8; 8] = *b"TORCSNP\n";
/// Where the number of the layout lies in the header, and where the numbers of databases begin.
const LAYOUT_AT: usize = 88;
const DATABASES_AT: usize = 96;
const DATABASE_BYTES: usize = 16;
/// As many have room.
pub const DATABASES_MAX: usize = (PAGE_BYTES - DATABASES_AT) / DATABASE_BYTES;

pub const BLOCK_HEADER_BYTES: usize = 32;
/// Bytes of the largest payload.
pub const PAYLOAD_BYTES_MAX: usize = limits::SNAPSHOT_BLOCK_BYTES_MAX - BLOCK_HEADER_BYTES;
pub const FOOTER_BYTES: usize = 24;

/// Bytes before key and value at most: flags, keyspace, two lengths, expiry time, version.
pub const HEAD_BYTES_MAX: usize = 1 + 5 + 10 + 10 + 8 + 8;
const EXPIRES: u8 = 1 << 0;
const VERSIONED: u8 = 1 << 1;

const _: () = assert!(limits::DATABASES_MAX <= DATABASES_MAX);
const _: () = assert!(HEAD_BYTES_MAX + limits::SNAPSHOT_WHOLE_BYTES_MAX <= PAYLOAD_BYTES_MAX);
const _: () = assert!(HEAD_BYTES_MAX + limits::SNAPSHOT_FRAGMENT_BYTES_MAX <= PAYLOAD_BYTES_MAX);

/// What padding is compared with.
pub static ZEROS: [u8; PAGE_BYTES] = [0; PAGE_BYTES];

/// Why a snapshot cannot be read, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("at byte {offset}: {cause}")]
pub struct Damage {
    /// Of the file: where the header or the block begins that is damaged.
    pub offset: u64,
    pub cause: Cause,
}

/// What is wrong with a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Cause {
    #[error("this is no snapshot: it does not begin with the bytes of one")]
    NotASnapshot,
    #[error("the snapshot has version {0} of the format, and this program reads version {VERSION}")]
    Version(u32),
    #[error("the checksum of the header does not match")]
    HeaderChecksum,
    #[error("the header is not what a snapshot begins with")]
    Header,
    #[error("the file ends before the snapshot does")]
    Truncated,
    #[error("there are bytes behind the end of the snapshot")]
    Trailing,
    #[error("the block has a length that no block has")]
    BlockLength,
    #[error("the checksum of the block does not match")]
    BlockChecksum,
    #[error("the block is of another snapshot")]
    OtherSnapshot,
    #[error("the block is not the next one")]
    BlockNumber,
    #[error("the block is of a kind that is not known, or has no place here")]
    BlockKind,
    #[error("an entry in the block is not well formed")]
    Entry,
    #[error("an entry in the block is of a keyspace that the snapshot does not have")]
    Keyspace,
    #[error("there is not as much in the block, or in the snapshot, as it says")]
    Count,
}

impl Cause {
    pub(super) fn at(self, offset: u64) -> Damage {
        Damage { offset, cause: self }
    }
}

/// What the first page of a snapshot says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// The directory that it belongs to.
    pub database: [u8; 16],
    /// The snapshot: the same in the files of all shards, and never given twice.
    pub snapshot: u64,
    pub shard: u16,
    /// How many shards there were.
    pub shards: u16,
    /// The last record of the shard's log that is contained; 0 is none.
    pub base_lsn: u64,
    /// The last transaction over shards that is contained.
    pub last_txid: u64,
    /// The last version that the shard gave to a key, which may be gone.
    pub last_version: u64,
    /// When it was begun, milliseconds since the epoch.
    pub wall_ms: u64,
    /// How often the numbers of databases had come to lead to other keyspaces.
    pub layout: u64,
    /// The id of the next fresh keyspace.
    pub next_keyspace: u32,
    /// By the number of the database.
    pub keyspaces: Vec<KeyspaceHeader>,
}

/// What the first page says of a keyspace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeyspaceHeader {
    pub id: KeyspaceId,
    pub entries: u64,
}

impl Header {
    /// Fills a page.
    pub(super) fn encode(&self, page: &mut [u8]) {
        assert!(page.len() == PAGE_BYTES && self.keyspaces.len() <= DATABASES_MAX);
        assert!(self.shard < self.shards);
        page.fill(0);
        let mut put = |at: usize, bytes: &[u8]| page[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &MAGIC);
        put(8, &VERSION.to_le_bytes());
        put(16, &self.database);
        put(32, &self.snapshot.to_le_bytes());
        put(40, &self.base_lsn.to_le_bytes());
        put(48, &self.last_txid.to_le_bytes());
        put(56, &self.last_version.to_le_bytes());
        put(64, &self.wall_ms.to_le_bytes());
        put(72, &self.shard.to_le_bytes());
        put(74, &self.shards.to_le_bytes());
        put(76, &self.next_keyspace.to_le_bytes());
        put(80, &(self.keyspaces.len() as u32).to_le_bytes());
        put(LAYOUT_AT, &self.layout.to_le_bytes());
        for (number, keyspace) in self.keyspaces.iter().enumerate() {
            let at = DATABASES_AT + DATABASE_BYTES * number;
            put(at, &keyspace.id.0.to_le_bytes());
            put(at + 8, &keyspace.entries.to_le_bytes());
        }
        let checksum = crc32fast::hash(&page[16..]);
        page[12..16].copy_from_slice(&checksum.to_le_bytes());
    }

    /// Entries of all keyspaces together.
    pub fn entries(&self) -> u64 {
        self.keyspaces.iter().fold(0, |sum, keyspace| sum.saturating_add(keyspace.entries))
    }

    /// Reads the first page of a file.
    pub fn parse(page: &[u8; PAGE_BYTES]) -> Result<Header, Damage> {
        if page[..8] != MAGIC {
            return Err(Cause::NotASnapshot.at(0));
        }
        if u32_at(page, 8) != VERSION {
            return Err(Cause::Version(u32_at(page, 8)).at(0));
        }
        if u32_at(page, 12) != crc32fast::hash(&page[16..]) {
            return Err(Cause::HeaderChecksum.at(0));
        }
        let (shard, shards) = (u32_at(page, 72) as u16, (u32_at(page, 72) >> 16) as u16);
        let (next_keyspace, databases) = (u32_at(page, 76), u32_at(page, 80) as usize);
        if databases > DATABASES_MAX || shard >= shards {
            return Err(Cause::Header.at(0));
        }
        let keyspaces: Vec<KeyspaceHeader> = page[DATABASES_AT..]
            .chunks_exact(DATABASE_BYTES)
            .take(databases)
            .map(|keyspace| KeyspaceHeader { id: KeyspaceId(u32_at(keyspace, 0)), entries: u64_at(keyspace, 8) })
            .collect();
        let unused = [&page[84..LAYOUT_AT], &page[DATABASES_AT + DATABASE_BYTES * databases..]];
        let is_known = keyspaces.iter().all(|keyspace| keyspace.id.0 < next_keyspace);
        let ids: Vec<KeyspaceId> = keyspaces.iter().map(|keyspace| keyspace.id).collect();
        let twice = ids.iter().enumerate().any(|(number, id)| ids[..number].contains(id));
        let padded =
            page[DATABASES_AT..].chunks_exact(DATABASE_BYTES).take(databases).any(|keyspace| u32_at(keyspace, 4) != 0);
        if !is_known || twice || padded || unused.iter().any(|bytes| **bytes != ZEROS[..bytes.len()]) {
            return Err(Cause::Header.at(0));
        }
        Ok(Header {
            database: page[16..32].try_into().expect("sixteen bytes"),
            snapshot: u64_at(page, 32),
            base_lsn: u64_at(page, 40),
            last_txid: u64_at(page, 48),
            last_version: u64_at(page, 56),
            wall_ms: u64_at(page, 64),
            shard,
            shards,
            layout: u64_at(page, LAYOUT_AT),
            next_keyspace,
            keyspaces,
        })
    }
}

/// Bytes of the smallest entry: flags, keyspace, two lengths.
pub const ENTRY_BYTES_MIN: u64 = 4;

/// What a block holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Whole entries.
    Entries = 1,
    /// The first part of one entry, and the parts that follow. Between them there may be blocks of whole entries.
    First = 2,
    Middle = 3,
    Last = 4,
    /// Totals: the end.
    Footer = 5,
}

impl Kind {
    fn parse(number: u32) -> Option<Kind> {
        [Kind::Entries, Kind::First, Kind::Middle, Kind::Last, Kind::Footer]
            .into_iter()
            .find(|&kind| kind as u32 == number)
    }
}

/// What a block begins with, after its checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockHeader {
    pub kind: Kind,
    /// Bytes after the header, without the padding.
    pub payload_bytes: usize,
    /// Entries that end here.
    pub count: u32,
    /// Of the block, from 0.
    pub number: u64,
    pub snapshot: u64,
}

impl BlockHeader {
    /// Bytes of the whole block.
    pub fn block_bytes(payload_bytes: usize) -> usize {
        (BLOCK_HEADER_BYTES + payload_bytes).next_multiple_of(PAGE_BYTES)
    }

    /// Fills the header but for the checksum.
    pub fn encode(&self, block: &mut [u8]) {
        block[4..8].copy_from_slice(&(self.kind as u32).to_le_bytes());
        block[8..12].copy_from_slice(&(self.payload_bytes as u32).to_le_bytes());
        block[12..16].copy_from_slice(&self.count.to_le_bytes());
        block[16..24].copy_from_slice(&self.number.to_le_bytes());
        block[24..32].copy_from_slice(&self.snapshot.to_le_bytes());
    }

    /// The length of the block that begins with these bytes, once there are enough to say; it may be anything that a block
    /// can have until the checksum was compared.
    pub fn bytes_of(block: &[u8]) -> Result<Option<usize>, Cause> {
        if block.len() < BLOCK_HEADER_BYTES {
            return Ok(None);
        }
        let payload_bytes = u32_at(block, 8) as usize;
        if payload_bytes > PAYLOAD_BYTES_MAX {
            return Err(Cause::BlockLength);
        }
        Ok(Some(BlockHeader::block_bytes(payload_bytes)))
    }

    /// Reads the header of a whole block, whose checksum is compared.
    pub fn parse(block: &[u8]) -> Result<BlockHeader, Cause> {
        if u32_at(block, 0) != crc32fast::hash(&block[4..]) {
            return Err(Cause::BlockChecksum);
        }
        Ok(BlockHeader {
            kind: Kind::parse(u32_at(block, 4)).ok_or(Cause::BlockKind)?,
            payload_bytes: u32_at(block, 8) as usize,
            count: u32_at(block, 12),
            number: u64_at(block, 16),
            snapshot: u64_at(block, 24),
        })
    }
}

/// What is said of an entry before its key and its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    pub keyspace: KeyspaceId,
    pub key_bytes: u64,
    pub value_bytes: u64,
    /// Milliseconds since the epoch; 0 is never.
    pub expire_ms: u64,
    pub version: Option<u64>,
}

impl Head {
    /// Writes it to the beginning of at least [`HEAD_BYTES_MAX`] bytes. Returns how many it takes.
    #[inline]
    pub fn encode(&self, out: &mut [u8]) -> usize {
        let out = &mut out[..HEAD_BYTES_MAX];
        out[0] = if self.expire_ms != 0 { EXPIRES } else { 0 } | if self.version.is_some() { VERSIONED } else { 0 };
        let mut at = 1;
        for number in [self.keyspace.0.into(), self.key_bytes, self.value_bytes] {
            at += encode_varint(&mut out[at..], number);
        }
        for number in [(self.expire_ms != 0).then_some(self.expire_ms), self.version].into_iter().flatten() {
            out[at..at + 8].copy_from_slice(&number.to_le_bytes());
            at += 8;
        }
        at
    }

    /// Reads it and gives the bytes after it; None if it is not well formed.
    #[inline]
    pub fn parse(bytes: &[u8]) -> Option<(Head, &[u8])> {
        let (&flags, rest) = bytes.split_first()?;
        if flags & !(EXPIRES | VERSIONED) != 0 {
            return None;
        }
        let (keyspace, rest) = parse_varint(rest)?;
        let (key_bytes, rest) = parse_varint(rest)?;
        let (value_bytes, mut rest) = parse_varint(rest)?;
        let mut number = |flag: u8| {
            if flags & flag == 0 {
                return Some(None);
            }
            let (number, after) = rest.split_first_chunk::<8>()?;
            rest = after;
            Some(Some(u64::from_le_bytes(*number)))
        };
        let (expire_ms, version) = (number(EXPIRES)?.unwrap_or(0), number(VERSIONED)?);
        if flags & EXPIRES != 0 && expire_ms == 0 {
            return None;
        }
        let keyspace = KeyspaceId(u32::try_from(keyspace).ok()?);
        Some((Head { keyspace, key_bytes, value_bytes, expire_ms, version }, rest))
    }
}

/// Seven bits to a byte, the low ones first; the top bit says that there are more.
#[inline]
fn encode_varint(out: &mut [u8], mut number: u64) -> usize {
    let mut at = 0;
    while number >= 0x80 {
        out[at] = number as u8 | 0x80;
        number >>= 7;
        at += 1;
    }
    out[at] = number as u8;
    at + 1
}

/// The number and the bytes after it. There is one way to write each number.
#[inline]
fn parse_varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let (&first, rest) = bytes.split_first()?;
    if first < 0x80 {
        return Some((first.into(), rest));
    }
    let mut number = u64::from(first & 0x7f);
    for (at, &byte) in rest.iter().enumerate().take(9) {
        let bits = u64::from(byte & 0x7f);
        let shift = 7 * (at as u32 + 1);
        if shift == 63 && bits > 1 {
            return None;
        }
        number |= bits << shift;
        if byte < 0x80 {
            return (byte != 0).then_some((number, &rest[at + 1..]));
        }
    }
    None
}

#[inline]
pub fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

#[inline]
pub fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// Gives a file that was made up, or changed, its first bytes and the checksums that it should have, as far as its lengths
/// can be followed.
#[cfg(any(test, fuzzing))]
pub fn seal_all(file: &mut [u8]) {
    let Some(header) = file.first_chunk_mut::<PAGE_BYTES>() else { return };
    header[..8].copy_from_slice(&MAGIC);
    header[8..12].copy_from_slice(&VERSION.to_le_bytes());
    let checksum = crc32fast::hash(&header[16..]);
    header[12..16].copy_from_slice(&checksum.to_le_bytes());
    let mut at = PAGE_BYTES;
    while let Ok(Some(bytes)) = BlockHeader::bytes_of(&file[at..])
        && let Some(block) = file[at..].get_mut(..bytes)
    {
        let checksum = crc32fast::hash(&block[4..]);
        block[..4].copy_from_slice(&checksum.to_le_bytes());
        at += bytes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_back_and_have_one_form() {
        let mut numbers: Vec<u64> = (0..64).flat_map(|bit| [1 << bit, (1 << bit) - 1, !(1 << bit)]).collect();
        numbers.push(u64::MAX);
        for number in numbers {
            let mut out = [0; 10];
            let len = encode_varint(&mut out, number);
            assert_eq!(parse_varint(&out[..len]), Some((number, &[][..])));
            (0..len).for_each(|len| assert_eq!(parse_varint(&out[..len]), None));
        }
        assert_eq!(parse_varint(&[0x80, 0]), None);
        assert_eq!(parse_varint(&[0xff; 12]), None);
        assert_eq!(parse_varint(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2]), None);
    }

    #[test]
    fn heads_come_back() {
        for (expire_ms, version) in [(0, None), (7, None), (0, Some(0)), (u64::MAX, Some(u64::MAX))] {
            let head =
                Head { keyspace: KeyspaceId(u32::MAX), key_bytes: 300, value_bytes: u64::MAX, expire_ms, version };
            let mut out = [0; HEAD_BYTES_MAX];
            let len = head.encode(&mut out);
            assert_eq!(Head::parse(&out[..len]), Some((head, &[][..])));
            (0..len).for_each(|len| assert_eq!(Head::parse(&out[..len]), None));
        }
    }
}
