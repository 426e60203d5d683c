//! Reads a snapshot: takes the file's bytes piece by piece, and gives entries, of which it has compared the checksum.
//!
//! The caller reads into one buffer that it uses again (reading the whole file first is slower, and a mapped file no
//! faster), hands over what it has, and keeps what was not taken:
//!
//! ```text
//! | block | block | half a blo      read() takes two blocks
//! | half a blo| ...                 the caller moves the rest to the front and reads on behind it
//! ```

use bytes::{Bytes, BytesMut};

use super::format::{
    BLOCK_HEADER_BYTES, BlockHeader, Cause, Damage, ENTRY_BYTES_MIN, FOOTER_BYTES, Head, Header, Kind, PAGE_BYTES,
    ZEROS, u64_at,
};
use super::write::Totals;
use crate::limits;
use crate::store::{KeyspaceId, NewValue};

/// An entry of a snapshot.
#[derive(Clone, Copy, Debug)]
pub struct LoadedEntry<'a> {
    pub keyspace: KeyspaceId,
    pub key: &'a [u8],
    pub value: NewValue<'a>,
    /// Milliseconds since the epoch; 0 is never. Whether it has come is for the caller to judge.
    pub expire_ms: u64,
    pub version: Option<u64>,
}

/// An entry that is cut up, as far as it was read.
struct Parts {
    head: Head,
    key: Vec<u8>,
    value: BytesMut,
}

/// The reader of one file.
pub struct Loader {
    header: Header,
    /// Of the file, as its length says.
    bytes: u64,
    /// Where the next block begins.
    offset: u64,
    blocks: u64,
    entries: u64,
    /// Entries that there have to be.
    expected: u64,
    parts: Option<Parts>,
    ended: bool,
}

impl Loader {
    /// Begins with the first page of a file of so many bytes.
    pub fn new(page: &[u8; PAGE_BYTES], file_bytes: u64) -> Result<Loader, Damage> {
        let header = Header::parse(page)?;
        let (offset, expected) = (PAGE_BYTES as u64, header.entries());
        // So whoever makes room for as many trusts no number but the length of the file.
        if expected > file_bytes / ENTRY_BYTES_MIN {
            return Err(Cause::Truncated.at(0));
        }
        Ok(Loader { header, bytes: file_bytes, offset, blocks: 0, entries: 0, expected, parts: None, ended: false })
    }

    /// What the first page says.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Bytes and entries read so far.
    pub fn progress(&self) -> Totals {
        Totals { bytes: self.offset, entries: self.entries }
    }

    /// Reads the blocks that are whole at the beginning of `bytes`, the next ones of the file, and visits their entries, up
    /// to [`limits::SNAPSHOT_LOAD_ENTRIES`] at a time. Returns the bytes read. A block has
    /// [`limits::SNAPSHOT_BLOCK_BYTES_MAX`] at most: with as many, and before the end of the file, one is read.
    pub fn read(&mut self, bytes: &[u8], mut visit: impl FnMut(&[LoadedEntry<'_>])) -> Result<usize, Damage> {
        let mut at = 0;
        loop {
            let rest = &bytes[at..];
            if self.ended && !rest.is_empty() {
                return Err(Cause::Trailing.at(self.offset));
            }
            let block_bytes = BlockHeader::bytes_of(rest).map_err(|cause| cause.at(self.offset))?;
            let Some(block) = block_bytes.and_then(|bytes| rest.get(..bytes)) else { return Ok(at) };
            self.read_block(block, &mut visit).map_err(|cause| cause.at(self.offset))?;
            self.offset += block.len() as u64;
            at += block.len();
        }
    }

    /// All of the file was handed over. What there was in it, if that is all there should be.
    pub fn finish(self) -> Result<Totals, Damage> {
        match self.ended {
            true => Ok(Totals { bytes: self.offset, entries: self.entries }),
            false => Err(Cause::Truncated.at(self.offset)),
        }
    }

    fn read_block(&mut self, block: &[u8], visit: &mut impl FnMut(&[LoadedEntry<'_>])) -> Result<(), Cause> {
        let header = BlockHeader::parse(block)?;
        if header.snapshot != self.header.snapshot {
            return Err(Cause::OtherSnapshot);
        }
        if header.number != self.blocks {
            return Err(Cause::BlockNumber);
        }
        self.blocks += 1;
        let (payload, padding) = block[BLOCK_HEADER_BYTES..].split_at(header.payload_bytes);
        if *padding != ZEROS[..padding.len()] {
            return Err(Cause::BlockLength);
        }
        let count = match header.kind {
            Kind::Entries => self.read_entries(payload, visit)?,
            Kind::First => self.read_first(payload)?,
            Kind::Middle | Kind::Last => self.read_part(payload, header.kind == Kind::Last, visit)?,
            Kind::Footer => self.read_footer(payload, block.len())?,
        };
        self.entries += u64::from(count);
        if count != header.count || self.entries > self.expected {
            return Err(Cause::Count);
        }
        Ok(())
    }

    fn read_entries(&mut self, mut payload: &[u8], visit: &mut impl FnMut(&[LoadedEntry<'_>])) -> Result<u32, Cause> {
        let mut entries = Vec::with_capacity(limits::SNAPSHOT_LOAD_ENTRIES);
        let (mut count, mut last) = (0, None);
        while !payload.is_empty() {
            let (head, rest) = Head::parse(payload).ok_or(Cause::Entry)?;
            if last != Some(head.keyspace) {
                self.check_keyspace(head.keyspace)?;
                last = Some(head.keyspace);
            }
            let (key, rest) = split(rest, head.key_bytes).ok_or(Cause::Entry)?;
            let (value, rest) = split(rest, head.value_bytes).ok_or(Cause::Entry)?;
            payload = rest;
            let Head { keyspace, expire_ms, version, .. } = head;
            entries.push(LoadedEntry { keyspace, key, value: NewValue::from(value), expire_ms, version });
            count += 1;
            if entries.len() == limits::SNAPSHOT_LOAD_ENTRIES {
                visit(&entries);
                entries.clear();
            }
        }
        if !entries.is_empty() {
            visit(&entries);
        }
        Ok(count)
    }

    fn check_keyspace(&self, keyspace: KeyspaceId) -> Result<(), Cause> {
        if self.header.keyspaces.iter().any(|known| known.id == keyspace) { Ok(()) } else { Err(Cause::Keyspace) }
    }

    fn read_first(&mut self, payload: &[u8]) -> Result<u32, Cause> {
        if self.parts.is_some() {
            return Err(Cause::BlockKind);
        }
        let (head, part) = Head::parse(payload).ok_or(Cause::Entry)?;
        self.check_keyspace(head.keyspace)?;
        // Whatever it says, there is no more than the file has.
        let left = self.bytes.saturating_sub(self.offset);
        if head.key_bytes.checked_add(head.value_bytes).is_none_or(|bytes| bytes > left) {
            return Err(Cause::Truncated);
        }
        let (key, value) = (Vec::new(), BytesMut::with_capacity(head.value_bytes as usize));
        self.parts = Some(Parts { head, key, value });
        self.add(part)?;
        Ok(0)
    }

    /// Adds a part to the entry that is cut up. Returns how many bytes of it are still to come.
    fn add(&mut self, part: &[u8]) -> Result<u64, Cause> {
        let Parts { head, key, value } = self.parts.as_mut().ok_or(Cause::BlockKind)?;
        let (of_key, of_value) = part.split_at(part.len().min(head.key_bytes as usize - key.len()));
        key.extend_from_slice(of_key);
        let left = head.value_bytes as usize - value.len();
        if of_value.len() > left {
            return Err(Cause::Entry);
        }
        value.extend_from_slice(of_value);
        Ok(head.key_bytes - key.len() as u64 + head.value_bytes - value.len() as u64)
    }

    fn read_part(
        &mut self,
        payload: &[u8],
        is_last: bool,
        visit: &mut impl FnMut(&[LoadedEntry<'_>]),
    ) -> Result<u32, Cause> {
        let left = self.add(payload)?;
        if is_last != (left == 0) {
            return Err(Cause::Entry);
        }
        if !is_last {
            return Ok(0);
        }
        let Parts { head, key, value } = self.parts.take().ok_or(Cause::BlockKind)?;
        let value: Bytes = value.freeze();
        let Head { keyspace, expire_ms, version, .. } = head;
        let value = NewValue { bytes: &value, shared: Some(&value) };
        visit(&[LoadedEntry { keyspace, key: &key, value, expire_ms, version }]);
        Ok(1)
    }

    fn read_footer(&mut self, payload: &[u8], block_bytes: usize) -> Result<u32, Cause> {
        if self.parts.is_some() {
            return Err(Cause::BlockKind);
        }
        if payload.len() != FOOTER_BYTES {
            return Err(Cause::BlockLength);
        }
        let counted = [self.entries, self.offset + block_bytes as u64, self.blocks - 1];
        if self.entries != self.expected || [0, 8, 16].map(|at| u64_at(payload, at)) != counted {
            return Err(Cause::Count);
        }
        self.ended = true;
        Ok(0)
    }
}

/// The first so many bytes and the rest.
#[inline]
fn split(bytes: &[u8], at: u64) -> Option<(&[u8], &[u8])> {
    bytes.split_at_checked(usize::try_from(at).ok()?)
}

/// Reads a file that is in memory.
#[cfg(any(test, fuzzing))]
pub fn read_all(file: &[u8], visit: impl FnMut(&[LoadedEntry<'_>])) -> Result<Totals, Damage> {
    let page = file.first_chunk().ok_or(Cause::Truncated.at(0))?;
    let mut loader = Loader::new(page, file.len() as u64)?;
    let bytes = loader.read(&file[PAGE_BYTES..], visit)?;
    if PAGE_BYTES + bytes < file.len() {
        return Err(Cause::Truncated.at((PAGE_BYTES + bytes) as u64));
    }
    loader.finish()
}
