//! Records: what happened to keys, as effects that can be applied again, never as commands.
//!
//! ```text
//! length    varint, of all that follows
//! type      1 byte  [`Kind`]
//! flags     1 byte  EXPIRE 1, VERSION 2, part: 0 whole, 4 first, 8 middle, 12 last
//! keyspace  varint
//! expire_ms 8 bytes, if EXPIRE                 Layout:      number 8 bytes, next keyspace 4 bytes, then of each
//! version   8 bytes, if VERSION                             database: keyspace 4 bytes
//! offset    varint, if WriteAt                 Transaction: id 8 bytes, then for each participant:
//! key       varint length, bytes                            shard varint, length varint, its records
//! value     the rest
//! ```
//!
//! `SET user:7 x` in keyspace 0 is 12 bytes: `0b 01 00 00 06 'user:7' 'x'`.
//!
//! What does not fit into one batch is cut: each part is a record with its own LSN, with length, type and flags, then its
//! share of what follows them. The change has the LSN of the last part.
//!
//! Varints are LEB128 of at most ten bytes. Nothing is believed about a length that the bytes at hand do not bear out.

use crate::limits;
use crate::store::KeyspaceId;

/// The first bytes of a record: which change it is. Numbers are never given to another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Set = 1,
    Remove = 2,
    Expire = 3,
    WriteAt = 4,
    Layout = 5,
    Transaction = 6,
}

const EXPIRE: u8 = 1;
const VERSION: u8 = 2;
pub(super) const PART_MASK: u8 = 12;
pub(super) const PART_FIRST: u8 = 4;
pub(super) const PART_MIDDLE: u8 = 8;
pub(super) const PART_LAST: u8 = 12;

const VARINT_BYTES_MAX: usize = 10;
/// Where the part of a [`Head`] behind type and flags begins: the length stands before them.
const REST: usize = VARINT_BYTES_MAX + 2;
/// Bytes of a [`Head`]: the length of the record, type, flags, keyspace, expire_ms, version, offset, length of the key.
const HEAD_BYTES_MAX: usize = REST + 5 + 8 + 8 + 2 * VARINT_BYTES_MAX;

/// Bytes of a part beside its share: length (a batch is shorter than 2^21), type, flags.
pub(super) const PART_OVERHEAD_BYTES: usize = 3 + 2;

/// One change. `Copy`, and borrowed from where it was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Record<'a> {
    /// The key has this value from now on, expires at `expire_ms` (0: never), and has this version, if any.
    Set { keyspace: KeyspaceId, key: &'a [u8], value: &'a [u8], expire_ms: u64, version: Option<u64> },
    /// The key is gone: deleted, expired or evicted.
    Remove { keyspace: KeyspaceId, key: &'a [u8] },
    /// The key expires at `expire_ms` from now on; 0: never.
    Expire { keyspace: KeyspaceId, key: &'a [u8], expire_ms: u64, version: Option<u64> },
    /// The value has these bytes at this offset from now on; zeros fill what is missing before it.
    WriteAt { keyspace: KeyspaceId, key: &'a [u8], offset: u64, bytes: &'a [u8], version: Option<u64> },
    /// The numbers of databases lead to these keyspaces from now on: those that none leads to are gone with all their keys,
    /// and those that were not there are empty. It says all of it, so that what is redone may have it already.
    Layout(Layout<'a>),
    /// What one transaction did on all shards that took part.
    Transaction(Transaction<'a>),
}

/// Which keyspaces the numbers of databases lead to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout<'a> {
    /// Changes of the layout are counted from 1 on, on all shards alike; 0 is what a new database has.
    pub number: u64,
    /// The keyspace id to be given next.
    pub next_keyspace: u32,
    /// Four bytes for each number.
    ids: &'a [u8],
}

impl<'a> Layout<'a> {
    /// The layout with the ids that [`Layout::encode`] made.
    pub fn new(number: u64, next_keyspace: u32, ids: &'a [u8]) -> Layout<'a> {
        let layout = Layout { number, next_keyspace, ids };
        debug_assert!(layout.is_sound());
        layout
    }

    /// Ids as they are written.
    pub fn encode(keyspaces: impl IntoIterator<Item = KeyspaceId>) -> Vec<u8> {
        keyspaces.into_iter().flat_map(|id| id.0.to_le_bytes()).collect()
    }

    /// The keyspaces by the number of the database.
    pub fn keyspaces(self) -> impl Iterator<Item = KeyspaceId> + Clone + use<'a> {
        let (ids, _) = self.ids.as_chunks();
        ids.iter().map(|id| KeyspaceId(u32::from_le_bytes(*id)))
    }

    fn is_sound(self) -> bool {
        let count = self.ids.len() / 4;
        self.ids.len().is_multiple_of(4)
            && (1..=limits::DATABASES_MAX).contains(&count)
            && self.keyspaces().enumerate().all(|(number, id)| {
                id.0 < self.next_keyspace && self.keyspaces().take(number).all(|before| before != id)
            })
    }
}

/// All effects of a transaction over shards, of every participant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transaction<'a> {
    /// Grows from transaction to transaction of the database.
    pub txid: u64,
    /// Encoded: for each participant its shard, a length, and so many bytes of records.
    parts: &'a [u8],
}

/// Effects of one participant, encoded, or of all of them.
#[derive(Clone, Debug, Default)]
pub struct Effects(Vec<u8>);

impl Effects {
    /// Adds one record.
    pub fn push(&mut self, record: &Record<'_>) {
        let mut encoding = record.encoding();
        let tail_bytes = encoding.tail_bytes();
        let head = encoding.head.finish(encoding.kind, encoding.flags, tail_bytes);
        self.0.extend_from_slice(head);
        self.0.extend_from_slice(encoding.key);
        self.0.extend_from_slice(encoding.value);
    }

    #[cfg(any(test, fuzzing))]
    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// The effects of all participants, for [`Effects::transaction`].
    pub fn join<'a>(participants: impl IntoIterator<Item = (u16, &'a Effects)>) -> Effects {
        let mut joined = Vec::new();
        for (shard, effects) in participants {
            let mut head = Head::default();
            head.varint(shard as u64);
            head.varint(effects.0.len() as u64);
            joined.extend_from_slice(head.rest());
            joined.extend_from_slice(&effects.0);
        }
        Effects(joined)
    }

    /// A transaction with what [`Effects::join`] made.
    pub fn transaction(&self, txid: u64) -> Record<'_> {
        Record::Transaction(Transaction { txid, parts: &self.0 })
    }
}

impl<'a> Transaction<'a> {
    /// The participants, each with its effects.
    pub fn participants(&self) -> impl Iterator<Item = (u16, impl Iterator<Item = Record<'a>>)> {
        let mut parts = Reader(self.parts);
        std::iter::from_fn(move || {
            let shard = parts.varint()? as u16;
            let mut effects = Reader(parts.prefixed()?);
            Some((shard, std::iter::from_fn(move || effects.record()?.whole())))
        })
    }

    fn is_sound(&self) -> bool {
        let mut parts = Reader(self.parts);
        while !parts.0.is_empty() {
            let shard = parts.varint().and_then(|shard| u16::try_from(shard).ok());
            let (Some(_), Some(effects)) = (shard, parts.prefixed()) else {
                return false;
            };
            let mut effects = Reader(effects);
            while !effects.0.is_empty() {
                match effects.record().filter(|raw| raw.kind != Kind::Transaction as u8).and_then(|raw| raw.whole()) {
                    Some(_) => {}
                    None => return false,
                }
            }
        }
        true
    }
}

/// How a record lies on disk: a head, then two runs of bytes.
pub(super) struct Encoding<'a> {
    pub kind: Kind,
    pub flags: u8,
    pub head: Head,
    pub key: &'a [u8],
    pub value: &'a [u8],
}

impl<'a> Record<'a> {
    #[inline(always)]
    pub(super) fn encoding(&self) -> Encoding<'a> {
        let none: &[u8] = &[];
        let (kind, flags, head, key, value) = match *self {
            Record::Set { keyspace, key, value, expire_ms, version } => {
                let (head, flags) = keyed(keyspace, expire_ms, version, None, key.len());
                (Kind::Set, flags, head, key, value)
            }
            Record::Remove { keyspace, key } => {
                let (head, flags) = keyed(keyspace, 0, None, None, key.len());
                (Kind::Remove, flags, head, key, none)
            }
            Record::Expire { keyspace, key, expire_ms, version } => {
                let (head, flags) = keyed(keyspace, expire_ms, version, None, key.len());
                (Kind::Expire, flags, head, key, none)
            }
            Record::WriteAt { keyspace, key, offset, bytes, version } => {
                let (head, flags) = keyed(keyspace, 0, version, Some(offset), key.len());
                (Kind::WriteAt, flags, head, key, bytes)
            }
            Record::Layout(Layout { number, next_keyspace, ids }) => {
                let mut head = Head::default();
                head.bytes(number.to_le_bytes());
                head.bytes(next_keyspace.to_le_bytes());
                (Kind::Layout, 0, head, none, ids)
            }
            Record::Transaction(Transaction { txid, parts }) => {
                let mut head = Head::default();
                head.bytes(txid.to_le_bytes());
                (Kind::Transaction, 0, head, none, parts)
            }
        };
        Encoding { kind, flags, head, key, value }
    }

    /// A record from what follows type and flags, if that is one.
    pub(super) fn decode(kind: u8, flags: u8, rest: &'a [u8]) -> Option<Record<'a>> {
        let mut reader = Reader(rest);
        let flags = flags & !PART_MASK;
        let has = |allowed: u8| flags & !allowed == 0;
        let record = match kind {
            1 if has(EXPIRE | VERSION) => {
                let (keyspace, expire_ms, version) = reader.keyed(flags)?;
                Record::Set { keyspace, key: reader.prefixed()?, value: reader.all(), expire_ms, version }
            }
            2 if has(0) => {
                let (keyspace, ..) = reader.keyed(flags)?;
                Record::Remove { keyspace, key: reader.prefixed()? }
            }
            3 if has(EXPIRE | VERSION) => {
                let (keyspace, expire_ms, version) = reader.keyed(flags)?;
                Record::Expire { keyspace, key: reader.prefixed()?, expire_ms, version }
            }
            4 if has(VERSION) => {
                let (keyspace, _, version) = reader.keyed(flags)?;
                let offset = reader.varint()?;
                Record::WriteAt { keyspace, key: reader.prefixed()?, offset, bytes: reader.all(), version }
            }
            5 if has(0) => {
                let layout = Layout { number: reader.u64()?, next_keyspace: reader.u32()?, ids: reader.all() };
                Record::Layout(layout.is_sound().then_some(layout)?)
            }
            6 if has(0) => {
                let transaction = Transaction { txid: reader.u64()?, parts: reader.all() };
                Record::Transaction(transaction.is_sound().then_some(transaction)?)
            }
            _ => return None,
        };
        reader.0.is_empty().then_some(record)
    }
}

impl Encoding<'_> {
    /// Bytes behind the head.
    #[inline]
    pub fn tail_bytes(&self) -> usize {
        self.key.len() + self.value.len()
    }
}

#[inline(always)]
fn keyed(
    keyspace: KeyspaceId,
    expire_ms: u64,
    version: Option<u64>,
    offset: Option<u64>,
    key_bytes: usize,
) -> (Head, u8) {
    let mut head = Head::default();
    let mut flags = 0;
    head.varint(keyspace.0 as u64);
    if expire_ms != 0 {
        flags |= EXPIRE;
        head.bytes(expire_ms.to_le_bytes());
    }
    if let Some(version) = version {
        flags |= VERSION;
        head.bytes(version.to_le_bytes());
    }
    if let Some(offset) = offset {
        head.varint(offset);
    }
    head.varint(key_bytes as u64);
    (head, flags)
}

/// The first bytes of a record, made where the length can be put before them when it is known.
pub(super) struct Head {
    bytes: [u8; HEAD_BYTES_MAX],
    end: usize,
}

impl Default for Head {
    #[inline(always)]
    fn default() -> Head {
        Head { bytes: [0; HEAD_BYTES_MAX], end: REST }
    }
}

impl Head {
    #[inline(always)]
    fn bytes<const N: usize>(&mut self, value: [u8; N]) {
        self.bytes[self.end..][..N].copy_from_slice(&value);
        self.end += N;
    }

    #[inline(always)]
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.bytes([value as u8 | 0x80]);
            value >>= 7;
        }
        self.bytes([value as u8]);
    }

    /// What is behind type and flags.
    pub fn rest(&self) -> &[u8] {
        &self.bytes[REST..self.end]
    }

    /// Puts length, type and flags before the rest, which `tail_bytes` follow. Returns all of the head.
    #[inline(always)]
    pub fn finish(&mut self, kind: Kind, flags: u8, tail_bytes: usize) -> &[u8] {
        self.bytes[REST - 2] = kind as u8;
        self.bytes[REST - 1] = flags;
        let mut length = (2 + self.end - REST + tail_bytes) as u64;
        let mut start = REST - 2 - varint_bytes(length);
        let first = start;
        while length >= 0x80 {
            self.bytes[start] = length as u8 | 0x80;
            length >>= 7;
            start += 1;
        }
        self.bytes[start] = length as u8;
        &self.bytes[first..self.end]
    }
}

#[inline(always)]
fn varint_bytes(value: u64) -> usize {
    // A byte for each seven bits, and one for 0.
    (value | 1).ilog2() as usize / 7 + 1
}

/// A record that is not looked into yet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Raw<'a> {
    pub kind: u8,
    pub flags: u8,
    pub rest: &'a [u8],
}

impl<'a> Raw<'a> {
    /// The record, if it is not a part of one and can be decoded.
    pub fn whole(self) -> Option<Record<'a>> {
        if self.part() != 0 {
            return None;
        }
        Record::decode(self.kind, self.flags, self.rest)
    }

    pub fn part(self) -> u8 {
        self.flags & PART_MASK
    }
}

/// Takes bytes off the front; None when there are too few or they are not what they should be.
#[derive(Clone, Copy)]
pub(super) struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    #[inline]
    pub fn record(&mut self) -> Option<Raw<'a>> {
        match *self.prefixed()? {
            [kind, flags, ref rest @ ..] => Some(Raw { kind, flags, rest }),
            _ => None,
        }
    }

    fn keyed(&mut self, flags: u8) -> Option<(KeyspaceId, u64, Option<u64>)> {
        let keyspace = self.keyspace()?;
        let expire_ms = if flags & EXPIRE != 0 { self.u64()? } else { 0 };
        let version = if flags & VERSION != 0 { Some(self.u64()?) } else { None };
        Some((keyspace, expire_ms, version))
    }

    fn keyspace(&mut self) -> Option<KeyspaceId> {
        Some(KeyspaceId(u32::try_from(self.varint()?).ok()?))
    }

    /// A length and so many bytes.
    #[inline]
    fn prefixed(&mut self) -> Option<&'a [u8]> {
        let len = usize::try_from(self.varint()?).ok()?;
        let (bytes, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(bytes)
    }

    #[inline]
    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for at in 0..VARINT_BYTES_MAX {
            let byte = self.byte()?;
            // The tenth byte has room for one bit.
            if at == VARINT_BYTES_MAX - 1 && byte > 1 {
                return None;
            }
            value |= ((byte & 0x7f) as u64) << (7 * at);
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }

    #[inline]
    fn byte(&mut self) -> Option<u8> {
        let (&byte, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(byte)
    }

    fn u64(&mut self) -> Option<u64> {
        let (bytes, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u64::from_le_bytes(*bytes))
    }

    fn u32(&mut self) -> Option<u32> {
        let (bytes, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u32::from_le_bytes(*bytes))
    }

    fn all(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(record: &Record<'_>) -> Vec<u8> {
        let mut effects = Effects::default();
        effects.push(record);
        effects.0
    }

    fn decoded(bytes: &[u8]) -> Option<Record<'_>> {
        let mut reader = Reader(bytes);
        let record = reader.record()?.whole()?;
        reader.0.is_empty().then_some(record)
    }

    const KEYSPACE: KeyspaceId = KeyspaceId(300);

    fn examples() -> Vec<Record<'static>> {
        let long = &[b'x'; 300];
        vec![
            Record::Set { keyspace: KEYSPACE, key: b"k", value: b"v", expire_ms: 0, version: None },
            Record::Set { keyspace: KEYSPACE, key: b"", value: long, expire_ms: u64::MAX, version: Some(0) },
            Record::Remove { keyspace: KEYSPACE, key: long },
            Record::Expire { keyspace: KEYSPACE, key: b"k", expire_ms: 0, version: None },
            Record::Expire { keyspace: KEYSPACE, key: b"k", expire_ms: 7, version: Some(u64::MAX) },
            Record::WriteAt { keyspace: KEYSPACE, key: b"k", offset: u64::MAX, bytes: b"", version: Some(3) },
            Record::Layout(Layout::new(u64::MAX, 301, &[44, 1, 0, 0, 0, 0, 0, 0])),
            Record::Layout(Layout::new(1, u32::MAX, &[0xfe, 0xff, 0xff, 0xff])),
        ]
    }

    #[test]
    fn bytes_are_what_the_document_says() {
        let record = Record::Set { keyspace: KeyspaceId(0), key: b"user:7", value: b"x", expire_ms: 0, version: None };
        assert_eq!(encoded(&record), b"\x0b\x01\x00\x00\x06user:7x");
        let ids = Layout::encode([1, 0, 2].map(KeyspaceId));
        let record = Record::Layout(Layout::new(1, 3, &ids));
        assert_eq!(encoded(&record), b"\x1a\x05\0\x01\0\0\0\0\0\0\0\x03\0\0\0\x01\0\0\0\0\0\0\0\x02\0\0\0");
    }

    #[test]
    fn what_is_encoded_is_decoded() {
        for record in examples() {
            assert_eq!(decoded(&encoded(&record)), Some(record));
        }
    }

    #[test]
    fn a_transaction_carries_the_effects_of_all() {
        let (mut one, mut other) = (Effects::default(), Effects::default());
        examples().iter().for_each(|record| one.push(record));
        other.push(&examples()[2]);
        let joined = Effects::join([(0, &one), (300, &other)]);
        let bytes = encoded(&joined.transaction(9));
        let Some(Record::Transaction(read)) = decoded(&bytes) else { panic!("a transaction") };
        assert_eq!(read.txid, 9);
        let parts: Vec<(u16, Vec<_>)> = read.participants().map(|(shard, part)| (shard, part.collect())).collect();
        assert_eq!(parts, [(0, examples()), (300, vec![examples()[2]])]);
    }

    #[test]
    fn what_is_cut_or_too_long_or_unknown_is_none() {
        for record in examples() {
            let bytes = encoded(&record);
            (0..bytes.len()).for_each(|end| assert_eq!(decoded(&bytes[..end]), None));
            let longer = [&bytes[..], b"x"].concat();
            assert_eq!(decoded(&longer), None);
        }
        assert_eq!(decoded(b"\x02\x07\x00"), None, "no such type");
        let layout = |next: u32, ids: &[u8]| {
            let mut bytes = vec![14 + ids.len() as u8, 5, 0];
            bytes.extend([&[1, 0, 0, 0, 0, 0, 0, 0], &next.to_le_bytes()[..], ids].concat());
            decoded(&bytes).is_some()
        };
        assert!(layout(2, &[1, 0, 0, 0, 0, 0, 0, 0]));
        assert!(!layout(2, &[]) && !layout(2, &[1, 0, 0]), "no database, or a part of one");
        assert!(!layout(2, &[1, 0, 0, 0, 1, 0, 0, 0]), "a keyspace twice");
        assert!(!layout(1, &[1, 0, 0, 0]), "a keyspace that there was not yet");
        let many: Vec<u8> = (0..100u32).flat_map(u32::to_le_bytes).collect();
        assert!(!layout(100, &many[..4 * (limits::DATABASES_MAX + 1)]), "more databases than there can be");
        assert_eq!(decoded(b"\x04\x06\x01\x00\x01"), None, "a flag that it cannot have");
        assert_eq!(decoded(b"\x05\x02\x00\x00\x01kx"), None, "a key's end, and more");
        assert_eq!(decoded(b"\x01\x01"), None, "no flags");
        let endless = [&[0xff; 9][..], &[0x02]].concat();
        assert_eq!(Reader(&endless).varint(), None, "65 bits");
    }
}
