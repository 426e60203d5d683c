//! One key with its value: a single allocation, so that a lookup touches one place in memory after the table.
//!
//! ```text
//!  0        8        12       16       20   21     22      24
//!  | expire | key    | value  | value  | how | access | free | key bytes | value area ...
//!  | ms     | length | length | room   |     |        |      |           |
//! ```
//!
//! The value area holds the bytes themselves (`HOW_INLINE`), or, for a value longer than [`SHARED_BYTES_MIN`], a
//! [`Bytes`] at the next multiple of its alignment (`HOW_SHARED`), so that a reply can point at it and overwriting or
//! deleting it costs no copy. All lengths are in bytes; `expire` 0 means never.
//!
//! An [`Entry`] is a thin owning pointer (the table packs it into 48 bits). This file is the only place that knows the
//! layout; its safe twin in `tests` is a `HashMap`.
#![allow(unsafe_code)]

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::cell::Cell;
use std::marker::PhantomData;
use std::mem::{align_of, size_of};
use std::ptr::NonNull;

use bytes::{Bytes, BytesMut};
use torc_protocol::limits::SHARED_BYTES_MIN;

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

#[repr(C)]
struct Header {
    expire_ms: u64,
    key_len: u32,
    value_len: u32,
    value_room: u32,
    how: u8,
    access: Cell<u8>,
    _free: u16,
}

const HEADER_BYTES: usize = size_of::<Header>();
const HOW_INLINE: u8 = 0;
const HOW_SHARED: u8 = 1;
const ALIGN: usize = 8;
/// Room for a `Bytes` after a key of any length: itself and the padding before it.
const SHARED_ROOM: usize = size_of::<Bytes>() + ALIGN;

const _: () = assert!(HEADER_BYTES == 24);
const _: () = assert!(align_of::<Header>() <= ALIGN && align_of::<Bytes>() <= ALIGN);
const _: () = assert!(SHARED_BYTES_MIN < u32::MAX as usize);

/// An owned key with its value. Dropping it frees both.
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
        // SAFETY: key_len bytes after the header were written when the entry was made.
        unsafe { std::slice::from_raw_parts(key_pointer(self.0), self.header().key_len as usize) }
    }

    /// The value.
    #[inline]
    pub fn value(self) -> Value<'a> {
        let header = self.header();
        // SAFETY: HOW_SHARED says that put_shared wrote a Bytes; otherwise value_len bytes of the value area were
        // written by put_inline or write_at.
        unsafe {
            if header.how == HOW_SHARED {
                return Value::Shared(&*shared_pointer(self.0));
            }
            Value::Inline(std::slice::from_raw_parts(value_pointer(self.0), header.value_len as usize))
        }
    }

    /// When the entry expires, milliseconds since the epoch; 0 is never.
    #[inline]
    pub fn expire_ms(self) -> u64 {
        self.header().expire_ms
    }

    /// Bytes allocated for this entry, the refcounted value included.
    #[inline]
    pub fn memory_bytes(self) -> usize {
        let own = allocated_bytes(self.header());
        match self.value() {
            Value::Inline(_) => own,
            Value::Shared(bytes) => own + bytes.len(),
        }
    }
}

/// # Safety
/// `header` starts a live entry.
#[inline]
unsafe fn key_pointer(header: NonNull<Header>) -> *mut u8 {
    // SAFETY: the allocation is longer than the header.
    unsafe { header.as_ptr().cast::<u8>().add(HEADER_BYTES) }
}

/// # Safety
/// `header` starts a live entry.
#[inline]
unsafe fn value_pointer(header: NonNull<Header>) -> *mut u8 {
    // SAFETY: the key bytes follow the header inside the allocation.
    unsafe { key_pointer(header).add(header.as_ref().key_len as usize) }
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

#[inline]
fn allocated_bytes(header: &Header) -> usize {
    HEADER_BYTES + header.key_len as usize + header.value_room as usize
}

impl Entry {
    /// Allocates. Keys and values are at most 4 GiB - 1 byte; the protocol's bulk limit is far below.
    pub fn new(key: &[u8], value: NewValue<'_>, expire_ms: u64) -> Entry {
        let shared = value.bytes.len() > SHARED_BYTES_MIN;
        let room = if shared { SHARED_ROOM } else { round_up(value.bytes.len()) };
        let mut entry = Entry::allocate(key, room, expire_ms);
        if shared {
            let bytes = value.shared.cloned().unwrap_or_else(|| Bytes::copy_from_slice(value.bytes));
            entry.put_shared(bytes);
        } else {
            entry.put_inline(value.bytes);
        }
        entry
    }

    /// An entry with an empty inline value and `room` bytes for it.
    fn allocate(key: &[u8], room: usize, expire_ms: u64) -> Entry {
        let key_len = u32::try_from(key.len()).expect("the protocol bounds a key below 4 GiB");
        // What rounding the whole allocation up to the alignment gives away is room for the value.
        let size = round_up(HEADER_BYTES + key.len() + room);
        let room = u32::try_from(size - HEADER_BYTES - key.len()).expect("inline values are short");
        let layout = layout(size);
        // SAFETY: the layout has a size of at least HEADER_BYTES, so it is not zero.
        let Some(pointer) = NonNull::new(unsafe { alloc(layout) }) else { handle_alloc_error(layout) };
        let header = pointer.cast::<Header>();
        // SAFETY: the allocation is at least HEADER_BYTES + key.len() bytes, aligned for Header, and ours alone.
        unsafe {
            header.write(Header {
                expire_ms,
                key_len,
                value_len: 0,
                value_room: room,
                how: HOW_INLINE,
                access: Cell::new(0),
                _free: 0,
            });
            pointer.add(HEADER_BYTES).copy_from_nonoverlapping(NonNull::from(key).cast(), key.len());
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

    /// The entry for reading.
    #[inline]
    pub fn as_ref(&self) -> EntryRef<'_> {
        EntryRef(self.0, PhantomData)
    }

    #[inline]
    fn header_mut(&mut self) -> &mut Header {
        // SAFETY: self owns a live allocation that starts with an initialized Header; &mut self is exclusive.
        unsafe { self.0.as_mut() }
    }

    /// Sets when the entry expires; 0 is never.
    #[inline]
    pub fn set_expire_ms(&mut self, expire_ms: u64) {
        self.header_mut().expire_ms = expire_ms;
    }

    /// Replaces the value without moving the entry if the new one fits and does not waste more than half of the room.
    /// False: nothing changed, make a new entry.
    #[inline]
    pub fn try_set_value(&mut self, value: NewValue<'_>) -> bool {
        let len = value.bytes.len();
        let room = self.as_ref().header().value_room as usize;
        if self.as_ref().header().how == HOW_INLINE && len <= room && (len * 2 >= room || room <= 64) {
            self.put_inline(value.bytes);
            return true;
        }
        if self.as_ref().header().how == HOW_SHARED && len > SHARED_BYTES_MIN {
            let bytes = value.shared.cloned().unwrap_or_else(|| Bytes::copy_from_slice(value.bytes));
            self.drop_shared();
            self.put_shared(bytes);
            return true;
        }
        false
    }

    /// Writes `bytes` at `offset` of the value, filling a gap with zeros, growing the value if it is shorter. Returns a
    /// new entry to put in this one's place if the value had to move.
    pub fn write_at(&mut self, offset: usize, bytes: &[u8]) -> Option<Entry> {
        let old_len = self.as_ref().value().bytes().len();
        let len = old_len.max(offset + bytes.len());
        if self.as_ref().header().how == HOW_SHARED {
            // SAFETY: HOW_SHARED says that a Bytes is here; it is moved out and a new one written before anyone looks.
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
        if len <= self.as_ref().header().value_room as usize {
            // SAFETY: offset + bytes.len() <= len <= value_room, the gap likewise; bytes is not our own memory, because
            // self is borrowed exclusively.
            unsafe {
                let value = value_pointer(self.0);
                value.add(old_len).write_bytes(0, offset.saturating_sub(old_len));
                value.add(offset).copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
            }
            self.header_mut().value_len = len as u32;
            return None;
        }
        if len > SHARED_BYTES_MIN {
            let mut value = BytesMut::with_capacity(len);
            value.extend_from_slice(self.as_ref().value().bytes());
            value.resize(len, 0);
            value[offset..offset + bytes.len()].copy_from_slice(bytes);
            let mut entry = Entry::allocate(self.as_ref().key(), SHARED_ROOM, self.as_ref().expire_ms());
            entry.put_shared(value.freeze());
            return Some(entry);
        }
        // Twice what is needed, so that a run of APPENDs costs a constant number of copies per byte (as sds does).
        let mut entry = Entry::allocate(self.as_ref().key(), len * 2, self.as_ref().expire_ms());
        entry.put_inline(self.as_ref().value().bytes());
        let moved = entry.write_at(offset, bytes);
        debug_assert!(moved.is_none());
        Some(entry)
    }

    #[inline]
    fn put_inline(&mut self, bytes: &[u8]) {
        debug_assert!(bytes.len() <= self.as_ref().header().value_room as usize);
        // SAFETY: the value area has value_room bytes; bytes is foreign memory, because self is borrowed exclusively.
        unsafe { value_pointer(self.0).copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
        let header = self.header_mut();
        header.value_len = bytes.len() as u32;
        header.how = HOW_INLINE;
    }

    fn put_shared(&mut self, bytes: Bytes) {
        debug_assert!(self.as_ref().header().value_room as usize >= SHARED_ROOM);
        self.header_mut().value_len = 0;
        self.header_mut().how = HOW_SHARED;
        // SAFETY: the value area has SHARED_ROOM bytes; what was there before was dropped or moved out by the caller.
        unsafe { shared_pointer(self.0).write(bytes) };
    }

    fn drop_shared(&mut self) {
        debug_assert_eq!(self.as_ref().header().how, HOW_SHARED);
        // SAFETY: HOW_SHARED says that a Bytes is here; the caller writes a new one or frees the entry.
        unsafe { shared_pointer(self.0).drop_in_place() };
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        if self.as_ref().header().how == HOW_SHARED {
            self.drop_shared();
        }
        let layout = layout(allocated_bytes(self.as_ref().header()));
        // SAFETY: allocate made it with the same size (room takes up what rounding added) and alignment.
        unsafe { dealloc(self.0.as_ptr().cast(), layout) };
    }
}

#[inline]
fn layout(size: usize) -> Layout {
    Layout::from_size_align(size, ALIGN).expect("a key and an inline value are far below isize::MAX")
}

#[inline]
fn round_up(len: usize) -> usize {
    len.next_multiple_of(ALIGN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_kept_inline_or_shared_by_its_length() {
        for len in [0, 1, 7, 8, 64, SHARED_BYTES_MIN, SHARED_BYTES_MIN + 1, 1 << 20] {
            let value = vec![7u8; len];
            let entry = Entry::new(b"key", NewValue::from(&value[..]), 5);
            assert_eq!(entry.as_ref().key(), b"key");
            assert_eq!(entry.as_ref().value().bytes(), value);
            assert_eq!(entry.as_ref().expire_ms(), 5);
            assert_eq!(matches!(entry.as_ref().value(), Value::Shared(_)), len > SHARED_BYTES_MIN);
        }
    }

    #[test]
    fn a_shared_value_is_not_copied() {
        let value = Bytes::from(vec![1u8; 100_000]);
        let entry = Entry::new(b"k", NewValue { bytes: &value, shared: Some(&value) }, 0);
        assert_eq!(entry.as_ref().value().bytes().as_ptr(), value.as_ptr());
        drop(entry);
        assert!(value.is_unique());
    }

    #[test]
    fn writing_past_the_end_fills_with_zeros_and_moves_when_it_must() {
        let mut entry = Entry::new(b"k", NewValue::from(&b"ab"[..]), 9);
        let mut model = b"ab".to_vec();
        for (offset, bytes) in [(0, &b"x"[..]), (5, b"yz"), (100, b"end"), (20_000, b"big"), (3, b"1234567890")] {
            if let Some(moved) = entry.write_at(offset, bytes) {
                entry = moved;
            }
            if model.len() < offset + bytes.len() {
                model.resize(offset + bytes.len(), 0);
            }
            model[offset..offset + bytes.len()].copy_from_slice(bytes);
            assert_eq!(entry.as_ref().value().bytes(), model);
            assert_eq!((entry.as_ref().key(), entry.as_ref().expire_ms()), (&b"k"[..], 9));
        }
    }

    #[test]
    fn appending_to_a_value_that_a_reply_still_reads_copies_it() {
        let mut entry = Entry::new(b"k", NewValue::from(&vec![1u8; 20_000][..]), 0);
        let Value::Shared(read) = entry.as_ref().value() else { panic!("20 kB is shared") };
        let read = read.clone();
        assert!(entry.write_at(0, b"changed").is_none());
        assert_eq!(&read[..7], &[1u8; 7]);
        assert_eq!(&entry.as_ref().value().bytes()[..7], b"changed");
    }
}
