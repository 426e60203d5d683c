//! One key with its value: a single allocation, so that a lookup touches one place in memory after the table.
//!
//! ```text
//!  0        2        4        6     7       8
//!  | key    | value  | value  | how | epoch | expire ms | version | long key: address, length | key bytes | value area ...
//!  | length | length | room   |     |       | if any    | if any  | if it is long             | if not    |
//! ```
//!
//! `how` says which of the optional fields of 8 bytes are there, and what the value area holds: the bytes themselves, or,
//! for a value longer than [`SHARED_BYTES_MIN`], a [`Bytes`] at the next multiple of its alignment, so that a reply can
//! point at it and overwriting or deleting it costs no copy. A key longer than [`KEY_INLINE_MAX`] is outside too. `epoch`
//! says whether the snapshot that is being taken still has to save the entry ([`super::snapshot`]). All lengths are in bytes. A key without expiry, 16 bytes long, with a
//! value of 32 bytes takes 56 bytes, one cache line or two.
//!
//! An [`Entry`] is a thin owning pointer into the keyspace's [`Arena`] (the table packs it into 34 bits). This file is the
//! only place that knows the layout; its safe twin in `tests` is a `HashMap`.
#![allow(unsafe_code)]

use std::marker::PhantomData;
use std::mem::{ManuallyDrop, align_of, size_of};
use std::ptr::NonNull;

use bytes::{Bytes, BytesMut};
use torc_protocol::limits::SHARED_BYTES_MIN;

use super::arena::{ALIGN, Arena, LARGEST_BYTES, slot_bytes_of};
use super::garbage::is_big;

/// A value on its way into the store: its bytes, and the refcounted form if it arrived as one.
#[derive(Clone, Copy, Debug)]
pub struct NewValue<'a> {
    pub bytes: &'a [u8],
    pub shared: Option<&'a Bytes>,
}

impl<'a> From<&'a [u8]> for NewValue<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        NewValue { bytes, shared: None }
    }
}

/// A stored value, borrowed.
#[derive(Clone, Copy, Debug)]
pub enum Value<'a> {
    Inline(&'a [u8]),
    Shared(&'a Bytes),
}

impl<'a> Value<'a> {
    /// The value's bytes.
    #[inline]
    pub fn bytes(self) -> &'a [u8] {
        match self {
            Value::Inline(bytes) => bytes,
            Value::Shared(bytes) => bytes,
        }
    }
}

/// What the allocator takes for so many bytes: four sizes to a doubling, as mimalloc and jemalloc have it, and pages beyond.
fn allocated_bytes(len: usize) -> usize {
    const PAGES_FROM: usize = 4 << 20;
    const PAGE: usize = 64 << 10;
    let step = if len > PAGES_FROM { PAGE } else { (len.max(32).next_power_of_two() / 8).max(8) };
    len.next_multiple_of(step)
}

/// What entries own outside the arena.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outside {
    pub bytes: usize,
    /// Values that are too big to be dropped on the shard's thread.
    pub big_values: usize,
}

impl Outside {
    /// The sum after an entry that owned `old` owns `new`.
    #[inline]
    pub fn change(&mut self, old: Outside, new: Outside) {
        self.bytes = self.bytes + new.bytes - old.bytes;
        self.big_values = self.big_values + new.big_values - old.big_values;
    }
}

#[repr(C)]
struct Header {
    /// 0 if the key is outside.
    key_len: u16,
    value_len: u16,
    value_room: u16,
    how: u8,
    epoch: u8,
}

const HEADER_BYTES: usize = size_of::<Header>();
const FIELD_BYTES: usize = 8;
/// The value area holds a `Bytes`.
const SHARED: u8 = 1 << 0;
/// There is a field with an expiry time (which may be 0, never).
const EXPIRES: u8 = 1 << 1;
/// There are two fields with the key's address and length.
const LONG_KEY: u8 = 1 << 2;
/// There is a field with a version.
const VERSIONED: u8 = 1 << 3;
/// Set in a free slot of the arena, and never here.
const _FREE: u8 = 1 << 7;
/// The longest key that lies in the entry itself.
const KEY_INLINE_MAX: usize = 384;
/// Room for a `Bytes` after a key of any length: itself and the padding before it.
const SHARED_ROOM: usize = size_of::<Bytes>() + ALIGN;

const _: () = assert!(HEADER_BYTES == 8 && HEADER_BYTES.is_multiple_of(ALIGN) && FIELD_BYTES.is_multiple_of(ALIGN));
const _: () = assert!(align_of::<Header>() <= ALIGN && align_of::<Bytes>() <= ALIGN);
// The room of a value that grows is twice its length, and what rounding up adds.
const _: () = assert!(SHARED_BYTES_MIN * 2 + ALIGN < u16::MAX as usize);
// The longest key and the longest inline value have room in a slot, with all fields.
const _: () = assert!(HEADER_BYTES + 4 * FIELD_BYTES + KEY_INLINE_MAX + SHARED_BYTES_MIN + ALIGN <= LARGEST_BYTES);

/// An owned key with its value. It cannot be dropped: it goes back to its arena with [`Entry::free`].
pub struct Entry(NonNull<Header>);

/// A borrowed entry: the same thin pointer, for reading. The table makes one from the address that it packs.
#[derive(Clone, Copy)]
pub struct EntryRef<'a>(NonNull<Header>, PhantomData<&'a Entry>);

impl<'a> EntryRef<'a> {
    /// Borrows what [`Entry::into_raw`] gave, without owning it.
    ///
    /// # Safety
    /// `address` came from `into_raw`, and the entry is neither changed nor freed during `'a`.
    #[inline]
    pub unsafe fn from_raw(address: u64) -> EntryRef<'a> {
        let pointer = std::ptr::with_exposed_provenance_mut::<Header>(address as usize);
        // SAFETY: the caller got the address from a live entry, which is never null.
        EntryRef(unsafe { NonNull::new_unchecked(pointer) }, PhantomData)
    }

    #[inline]
    fn header(self) -> &'a Header {
        // SAFETY: the entry is live during 'a and starts with an initialized Header.
        unsafe { self.0.as_ref() }
    }

    /// The key.
    #[inline]
    pub fn key(self) -> &'a [u8] {
        // SAFETY: the key's bytes were written when the entry was made.
        unsafe { std::slice::from_raw_parts(key_pointer(self.0), key_len(self.0)) }
    }

    /// The value.
    #[inline]
    pub fn value(self) -> Value<'a> {
        let header = self.header();
        // SAFETY: SHARED says that put_shared wrote a Bytes; otherwise value_len bytes of the value area were
        // written by put_inline or write_at.
        unsafe {
            if header.how & SHARED != 0 {
                return Value::Shared(&*shared_pointer(self.0));
            }
            Value::Inline(std::slice::from_raw_parts(value_pointer(self.0), header.value_len as usize))
        }
    }

    /// When the entry expires, milliseconds since the epoch; 0 is never.
    #[inline]
    pub fn expire_ms(self) -> u64 {
        if self.header().how & EXPIRES == 0 {
            return 0;
        }
        // SAFETY: EXPIRES says that the first field after the header is there and holds the time.
        unsafe { field(self.0, 0).read() }
    }

    /// The version of the key, if it has been given one.
    #[inline]
    pub fn version(self) -> Option<u64> {
        let how = self.header().how;
        if how & VERSIONED == 0 {
            return None;
        }
        // SAFETY: VERSIONED says that the field is there, after that of the expiry time if there is one.
        Some(unsafe { field(self.0, version_field(how)).read() })
    }

    /// The mark that says whether a snapshot has to save the entry.
    #[inline]
    pub fn epoch(self) -> u8 {
        self.header().epoch
    }

    /// What the entry owns outside the arena: a refcounted value and a long key.
    #[inline]
    pub fn outside(self) -> Outside {
        let header = self.header();
        if !header.owns() {
            return Outside::default();
        }
        let value = if let Value::Shared(bytes) = self.value() { bytes.len() } else { 0 };
        let key = if header.how & LONG_KEY != 0 { self.key().len() } else { 0 };
        Outside { bytes: allocated_bytes(value) + allocated_bytes(key), big_values: is_big(value) as usize }
    }

    /// Bytes that the entry takes: its slot in the arena, and what it owns outside.
    pub fn memory_bytes(self) -> usize {
        slot_bytes_of(self.size()) + self.outside().bytes
    }

    fn size(self) -> usize {
        let header = self.header();
        key_offset(header.how) + header.key_len as usize + header.value_room as usize
    }

    /// Where it is.
    #[inline]
    pub fn address(self) -> u64 {
        self.0.as_ptr().addr() as u64
    }
}

/// The optional field with this place among those that are there.
///
/// # Safety
/// `header` starts a live entry with more than `index` fields.
#[inline]
unsafe fn field(header: NonNull<Header>, index: usize) -> *mut u64 {
    // SAFETY: the fields follow the header; both are multiples of a u64's alignment.
    unsafe { header.as_ptr().cast::<u8>().add(HEADER_BYTES + index * FIELD_BYTES).cast() }
}

/// Bytes before the key.
#[inline]
fn key_offset(how: u8) -> usize {
    HEADER_BYTES + FIELD_BYTES * (long_key_field(how) + 2 * (how & LONG_KEY != 0) as usize)
}

/// The field with the version.
#[inline]
fn version_field(how: u8) -> usize {
    (how & EXPIRES != 0) as usize
}

/// The field with a long key's address.
#[inline]
fn long_key_field(how: u8) -> usize {
    (how & EXPIRES != 0) as usize + (how & VERSIONED != 0) as usize
}

impl Header {
    /// Whether the entry owns memory outside its slot.
    #[inline]
    fn owns(&self) -> bool {
        self.how & (SHARED | LONG_KEY) != 0
    }
}

/// # Safety
/// `header` starts a live entry.
#[inline]
unsafe fn key_len(header: NonNull<Header>) -> usize {
    // SAFETY: by the caller; LONG_KEY says that the last two fields are there, and the second holds the length.
    unsafe {
        let fixed = header.as_ref();
        if fixed.how & LONG_KEY != 0 {
            return field(header, long_key_field(fixed.how) + 1).read() as usize;
        }
        fixed.key_len as usize
    }
}

/// # Safety
/// `header` starts a live entry.
#[inline]
unsafe fn key_pointer(header: NonNull<Header>) -> *mut u8 {
    // SAFETY: the key follows the fields inside the allocation, or the first of its two fields holds its address.
    unsafe {
        let how = header.as_ref().how;
        if how & LONG_KEY != 0 {
            return std::ptr::with_exposed_provenance_mut(field(header, long_key_field(how)).read() as usize);
        }
        header.as_ptr().cast::<u8>().add(key_offset(how))
    }
}

/// # Safety
/// `header` starts a live entry.
#[inline]
unsafe fn value_pointer(header: NonNull<Header>) -> *mut u8 {
    // SAFETY: the value area follows the fields and the key, if it is inside the allocation.
    unsafe {
        let fixed = header.as_ref();
        header.as_ptr().cast::<u8>().add(key_offset(fixed.how) + fixed.key_len as usize)
    }
}

/// # Safety
/// `header` starts a live entry whose value area has SHARED_ROOM bytes.
#[inline]
unsafe fn shared_pointer(header: NonNull<Header>) -> *mut Bytes {
    // SAFETY: SHARED_ROOM is a Bytes and up to ALIGN - 1 bytes of padding.
    unsafe {
        let at = value_pointer(header);
        at.add(at.align_offset(ALIGN)).cast()
    }
}

/// Frees what an entry owns outside its arena; true if it did. The entry is not to be used any more.
///
/// # Safety
/// `slot` starts a live entry that nobody else uses, and this happens once.
pub unsafe fn drop_outside(slot: NonNull<u8>) -> bool {
    let mut entry = std::mem::ManuallyDrop::new(Entry(slot.cast()));
    let owns = entry.header().owns();
    if owns {
        entry.drop_outside();
    }
    owns
}

impl Entry {
    /// Allocates. Keys and values are at most 4 GiB - 1 byte; the protocol's bulk limit is far below.
    pub fn new(arena: &mut Arena, key: &[u8], value: NewValue<'_>, expire_ms: u64, version: Option<u64>) -> Entry {
        let shared = value.bytes.len() > SHARED_BYTES_MIN;
        let room = if shared { SHARED_ROOM } else { round_up(value.bytes.len()) };
        let mut entry = Entry::allocate(arena, key, room, expire_ms, version, shared);
        if shared {
            let bytes = value.shared.cloned().unwrap_or_else(|| Bytes::copy_from_slice(value.bytes));
            entry.put_shared(bytes);
        } else {
            entry.put_inline(value.bytes);
        }
        entry
    }

    /// An entry with an empty inline value and `room` bytes for it. There is a field for the expiry if it has one.
    /// `shared` says that a Bytes will be put there.
    fn allocate(
        arena: &mut Arena,
        key: &[u8],
        room: usize,
        expire_ms: u64,
        version: Option<u64>,
        shared: bool,
    ) -> Entry {
        let long = key.len() > KEY_INLINE_MAX;
        let mut how = if expire_ms != 0 { EXPIRES } else { 0 } | if long { LONG_KEY } else { 0 };
        how |= if version.is_some() { VERSIONED } else { 0 };
        let key_at = key_offset(how);
        let key_len = if long { 0 } else { key.len() };
        // What rounding the whole allocation up to the alignment gives away is room for the value.
        let size = round_up(key_at + key_len + room);
        let value_room = u16::try_from(size - key_at - key_len).expect("inline values are short");
        let pointer = arena.allocate(size, shared || long);
        let header = pointer.cast::<Header>();
        // SAFETY: the allocation has room for the header, the fields that `how` names and the key; it is aligned for
        // them, and ours alone.
        unsafe {
            header.write(Header { key_len: key_len as u16, value_len: 0, value_room, how, epoch: arena.epoch() });
            if expire_ms != 0 {
                field(header, 0).write(expire_ms);
            }
            if let Some(version) = version {
                field(header, version_field(how)).write(version);
            }
            if long {
                let outside = Box::into_raw(Box::<[u8]>::from(key));
                field(header, long_key_field(how)).write(outside.cast::<u8>().expose_provenance() as u64);
                field(header, long_key_field(how) + 1).write(key.len() as u64);
            }
            pointer.add(key_at).copy_from_nonoverlapping(NonNull::from(key).cast(), key_len);
        }
        Entry(header)
    }

    /// The pointer, for the table to pack. Its low three bits are zero.
    #[inline]
    pub fn into_raw(self) -> u64 {
        let address = self.0.as_ptr().expose_provenance() as u64;
        std::mem::forget(self);
        address
    }

    /// Takes back what [`Entry::into_raw`] gave.
    ///
    /// # Safety
    /// `address` came from `into_raw` and nobody else takes it back.
    #[inline]
    pub unsafe fn from_raw(address: u64) -> Entry {
        let pointer = std::ptr::with_exposed_provenance_mut::<Header>(address as usize);
        // SAFETY: the caller got the address from a live entry, which is never null.
        Entry(unsafe { NonNull::new_unchecked(pointer) })
    }

    /// Gives it back to the arena that it is of.
    #[inline]
    pub fn free(mut self, arena: &mut Arena) {
        let owns = self.header().owns();
        if owns {
            self.drop_outside();
        }
        let slot = self.0.cast();
        std::mem::forget(self);
        // SAFETY: allocate got it from the arena in the same way; whether it owns anything never changes.
        unsafe { arena.free(slot, owns) }
    }

    /// Moves the entries of sparse pages, at most as many as `budget` allows ([`Arena::compact_slice`]), and tells
    /// where each was. True if there is more to do.
    pub fn compact_slice(arena: &mut Arena, budget: usize, mut relocate: impl FnMut(u64, Entry)) -> bool {
        arena.compact_slice(budget, |old, new| {
            let entry = Entry(new.cast());
            let owns = entry.header().owns();
            new.as_ptr().expose_provenance();
            relocate(old.as_ptr().addr() as u64, entry);
            owns
        })
    }

    /// Marks it as one that the snapshot of this epoch does not have to save, or not any more.
    pub fn set_epoch(&mut self, epoch: u8) {
        self.header_mut().epoch = epoch;
    }

    /// Visits the entries of a slice of the arena that the snapshot has still to save, and marks them ([`Arena::walk`]).
    /// The visitor says what that cost. True if there is more.
    #[inline]
    pub fn walk(arena: &mut Arena, budget: &mut usize, mut visit: impl FnMut(EntryRef<'_>) -> usize) -> bool {
        let epoch = arena.epoch();
        arena.walk(budget, |slot| {
            // It stays in the table.
            let mut entry = ManuallyDrop::new(Entry(slot.cast()));
            if entry.header().epoch == epoch {
                return 0;
            }
            entry.set_epoch(epoch);
            visit(entry.as_ref())
        })
    }

    /// The entry for reading.
    #[inline]
    pub fn as_ref(&self) -> EntryRef<'_> {
        EntryRef(self.0, PhantomData)
    }

    #[inline]
    fn header(&self) -> &Header {
        self.as_ref().header()
    }

    #[inline]
    fn header_mut(&mut self) -> &mut Header {
        // SAFETY: self owns a live allocation that starts with an initialized Header; &mut self is exclusive.
        unsafe { self.0.as_mut() }
    }

    /// Sets when the entry expires; 0 is never. Returns a new entry to put in this one's place if it had no field for it.
    #[must_use]
    pub fn set_expire_ms(&mut self, arena: &mut Arena, expire_ms: u64) -> Option<Entry> {
        if self.try_set_expire_ms(expire_ms) {
            return None;
        }
        let value = self.as_ref().value();
        let shared = match value {
            Value::Shared(bytes) => Some(bytes),
            Value::Inline(_) => None,
        };
        Some(Entry::new(
            arena,
            self.as_ref().key(),
            NewValue { bytes: value.bytes(), shared },
            expire_ms,
            self.as_ref().version(),
        ))
    }

    #[inline]
    fn try_set_expire_ms(&mut self, expire_ms: u64) -> bool {
        if self.header().how & EXPIRES == 0 {
            return expire_ms == 0;
        }
        // SAFETY: EXPIRES says that the first field is there; &mut self is exclusive.
        unsafe { field(self.0, 0).write(expire_ms) };
        true
    }

    /// Replaces value and expiry without moving the entry, if both fit and the value does not waste more than half of
    /// its room. False: nothing of the value changed, make a new entry.
    #[inline]
    pub fn try_set(&mut self, value: NewValue<'_>, expire_ms: u64) -> bool {
        let len = value.bytes.len();
        let room = self.header().value_room as usize;
        let shared = self.header().how & SHARED != 0;
        let fits = match shared {
            false => len <= room && (len * 2 >= room || room <= 64),
            true => len > SHARED_BYTES_MIN,
        };
        if !fits || !self.try_set_expire_ms(expire_ms) {
            return false;
        }
        if shared {
            let bytes = value.shared.cloned().unwrap_or_else(|| Bytes::copy_from_slice(value.bytes));
            self.drop_shared();
            self.put_shared(bytes);
        } else {
            self.put_inline(value.bytes);
        }
        true
    }

    /// Writes `bytes` at `offset` of the value, filling a gap with zeros, growing the value if it is shorter. Returns a
    /// new entry to put in this one's place if the value had to move.
    pub fn write_at(&mut self, arena: &mut Arena, offset: usize, bytes: &[u8]) -> Option<Entry> {
        let old_len = self.as_ref().value().bytes().len();
        let len = old_len.max(offset + bytes.len());
        if self.header().how & SHARED != 0 {
            // SAFETY: SHARED says that a Bytes is here; it is moved out and a new one written before anyone looks.
            let shared = unsafe { shared_pointer(self.0).read() };
            // Sole owner: in place, with the capacity doubling of BytesMut. Otherwise a reply still reads it: copy.
            let mut value = shared.try_into_mut().unwrap_or_else(|shared| {
                let mut copy = BytesMut::with_capacity(len);
                copy.extend_from_slice(&shared);
                copy
            });
            if value.len() < len {
                value.resize(len, 0);
            }
            value[offset..offset + bytes.len()].copy_from_slice(bytes);
            self.put_shared(value.freeze());
            return None;
        }
        if len <= self.header().value_room as usize && len <= SHARED_BYTES_MIN {
            // SAFETY: offset + bytes.len() <= len <= value_room, the gap likewise; bytes is not our own memory, because
            // self is borrowed exclusively.
            unsafe {
                let value = value_pointer(self.0);
                value.add(old_len).write_bytes(0, offset.saturating_sub(old_len));
                value.add(offset).copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
            }
            self.header_mut().value_len = len as u16;
            return None;
        }
        if len > SHARED_BYTES_MIN {
            let mut value = BytesMut::with_capacity(len);
            value.extend_from_slice(self.as_ref().value().bytes());
            value.resize(len, 0);
            value[offset..offset + bytes.len()].copy_from_slice(bytes);
            let mut entry = self.allocate_alike(arena, SHARED_ROOM, true);
            entry.put_shared(value.freeze());
            return Some(entry);
        }
        // Twice what is needed, so that a run of APPENDs costs a constant number of copies per byte (as sds does).
        let room = (len * 2).min(SHARED_BYTES_MIN);
        let mut entry = self.allocate_alike(arena, room, false);
        entry.put_inline(self.as_ref().value().bytes());
        let moved = entry.write_at(arena, offset, bytes);
        debug_assert!(moved.is_none());
        Some(entry)
    }

    /// As [`Entry::allocate`], with everything but the value as it is here.
    fn allocate_alike(&self, arena: &mut Arena, room: usize, shared: bool) -> Entry {
        let old = self.as_ref();
        Entry::allocate(arena, old.key(), room, old.expire_ms(), old.version(), shared)
    }

    #[inline]
    fn put_inline(&mut self, bytes: &[u8]) {
        debug_assert!(bytes.len() <= self.header().value_room as usize);
        // SAFETY: the value area has value_room bytes; bytes is foreign memory, because self is borrowed exclusively.
        unsafe { value_pointer(self.0).copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
        let header = self.header_mut();
        header.value_len = bytes.len() as u16;
        header.how &= !SHARED;
    }

    fn put_shared(&mut self, bytes: Bytes) {
        debug_assert!(self.header().value_room as usize >= SHARED_ROOM);
        self.header_mut().value_len = 0;
        self.header_mut().how |= SHARED;
        // SAFETY: the value area has SHARED_ROOM bytes; what was there before was dropped or moved out by the caller.
        unsafe { shared_pointer(self.0).write(bytes) };
    }

    fn drop_outside(&mut self) {
        if self.header().how & SHARED != 0 {
            self.drop_shared();
        }
        if self.header().how & LONG_KEY != 0 {
            // SAFETY: allocate made a Box of the key, and the entry is freed, so nobody reads it any more.
            unsafe {
                let key = std::ptr::slice_from_raw_parts_mut(key_pointer(self.0), key_len(self.0));
                drop(Box::from_raw(key));
            }
        }
    }

    fn drop_shared(&mut self) {
        debug_assert!(self.header().how & SHARED != 0);
        // SAFETY: SHARED says that a Bytes is here; the caller writes a new one or frees the entry.
        unsafe { shared_pointer(self.0).drop_in_place() };
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        debug_assert!(std::thread::panicking(), "an entry is given back to its arena");
    }
}

#[inline]
fn round_up(len: usize) -> usize {
    len.next_multiple_of(ALIGN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_allocated_has_four_sizes_to_a_doubling() {
        for (len, bytes) in
            [(0, 0), (16_384, 16_384), (16_385, 20_480), (20_480, 20_480), (33_000, 40_960), (65_536, 65_536)]
        {
            assert_eq!(allocated_bytes(len), bytes);
        }
        assert_eq!(allocated_bytes((4 << 20) + 1), (4 << 20) + (64 << 10));
    }

    #[test]
    fn a_value_is_kept_inline_or_shared_by_its_length() {
        let mut arena = Arena::default();
        for len in [0, 1, 7, 8, 64, SHARED_BYTES_MIN, SHARED_BYTES_MIN + 1, 1 << 20] {
            let value = vec![7u8; len];
            let entry = Entry::new(&mut arena, b"key", NewValue::from(&value[..]), 5, None);
            assert_eq!(entry.as_ref().key(), b"key");
            assert_eq!(entry.as_ref().value().bytes(), value);
            assert_eq!(entry.as_ref().expire_ms(), 5);
            assert_eq!(matches!(entry.as_ref().value(), Value::Shared(_)), len > SHARED_BYTES_MIN);
            entry.free(&mut arena);
        }
    }

    #[test]
    fn long_keys_and_late_expiry_keep_everything() {
        let mut arena = Arena::default();
        for key_len in [0, 1, 384, 385, 65_535, 200_000] {
            for value_len in [3, 20_000] {
                let (key, value) = (vec![b'k'; key_len], vec![b'v'; value_len]);
                let mut entry = Entry::new(&mut arena, &key, NewValue::from(&value[..]), 0, None);
                assert!(entry.set_expire_ms(&mut arena, 0).is_none());
                let moved = entry.set_expire_ms(&mut arena, 77).expect("an entry without expiry has no field for it");
                std::mem::replace(&mut entry, moved).free(&mut arena);
                assert!(entry.set_expire_ms(&mut arena, 78).is_none());
                assert_eq!((entry.as_ref().key(), entry.as_ref().value().bytes()), (&key[..], &value[..]));
                assert_eq!(entry.as_ref().expire_ms(), 78);
                assert!(entry.try_set(NewValue::from(&value[..]), 0));
                assert_eq!(entry.as_ref().expire_ms(), 0);
                entry.free(&mut arena);
            }
        }
    }

    #[test]
    fn a_shared_value_is_not_copied() {
        let mut arena = Arena::default();
        let value = Bytes::from(vec![1u8; 100_000]);
        let entry = Entry::new(&mut arena, b"k", NewValue { bytes: &value, shared: Some(&value) }, 0, None);
        assert_eq!(entry.as_ref().value().bytes().as_ptr(), value.as_ptr());
        entry.free(&mut arena);
        assert!(value.is_unique());
    }

    #[test]
    fn writing_past_the_end_fills_with_zeros_and_moves_when_it_must() {
        let mut arena = Arena::default();
        let mut entry = Entry::new(&mut arena, b"k", NewValue::from(&b"ab"[..]), 9, None);
        let mut model = b"ab".to_vec();
        for (offset, bytes) in [
            (0, &b"x"[..]),
            (5, b"yz"),
            (100, b"end"),
            (9_000, b"half"),
            (17_000, b"more"),
            (20_000, b"big"),
            (3, b"1234567890"),
        ] {
            if let Some(moved) = entry.write_at(&mut arena, offset, bytes) {
                std::mem::replace(&mut entry, moved).free(&mut arena);
            }
            if model.len() < offset + bytes.len() {
                model.resize(offset + bytes.len(), 0);
            }
            model[offset..offset + bytes.len()].copy_from_slice(bytes);
            assert_eq!(entry.as_ref().value().bytes(), model);
            assert_eq!(matches!(entry.as_ref().value(), Value::Shared(_)), model.len() > SHARED_BYTES_MIN);
            assert_eq!((entry.as_ref().key(), entry.as_ref().expire_ms()), (&b"k"[..], 9));
        }
        entry.free(&mut arena);
    }

    #[test]
    fn appending_to_a_value_that_a_reply_still_reads_copies_it() {
        let mut arena = Arena::default();
        let mut entry = Entry::new(&mut arena, b"k", NewValue::from(&vec![1u8; 20_000][..]), 0, None);
        let Value::Shared(read) = entry.as_ref().value() else { panic!("20 kB is shared") };
        let read = read.clone();
        assert!(entry.write_at(&mut arena, 0, b"changed").is_none());
        assert_eq!(&read[..7], &[1u8; 7]);
        assert_eq!(&entry.as_ref().value().bytes()[..7], b"changed");
        entry.free(&mut arena);
    }
}
