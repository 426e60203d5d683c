//! One page of an arena: slots of one size, the free ones in a list that runs through them.
//!
//! ```text
//! | header, 64 bytes | slot | slot | ... carved up to `fresh` | never touched |
//! ```
//!
//! A page is aligned to its size, so a slot's address says where its page is. Slots are carved a few at a time, as many
//! as begin in one page of the system: what is not needed is not touched. A free slot says so in the top bit of its
//! seventh byte, where an entry's header has `how`, which never sets it: so live slots can be told without a map.

use std::ptr::NonNull;

/// Bytes of a page: a class that is hardly used wastes little, and seven of the largest slots fit.
pub const PAGE_BYTES: usize = 128 << 10;
/// What the system gives and takes, at least; where its pages are larger this only makes the accounting finer than it is.
pub const TOUCH_BYTES: usize = 4 << 10;
const HEADER_BYTES: usize = std::mem::size_of::<Header>();
/// Pages with free slots are kept apart by eighths of how full they are.
pub const BINS: usize = 8;
const FREE_MARK: u64 = 0x80 << 48;
/// What is kept in a free slot: where the next one is.
const LINK_BYTES: usize = 8;

/// Where a page is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// Slots are taken from it.
    Current,
    /// Nowhere: it has no free slot.
    Full,
    /// Among the pages of its class that are about as full.
    Bin(u8),
    /// It is being emptied.
    Victim,
}

#[repr(C, align(64))]
pub struct Header {
    /// Offset of the first free slot, 0 if there is none.
    free: u32,
    /// Slots in use.
    pub live: u32,
    /// With fewer in use the page has to be kept somewhere else.
    pub low: u32,
    /// Offset of the first slot that was never carved.
    fresh: u32,
    slot_bytes: u32,
    /// Entries in use that own memory outside.
    pub owners: u32,
    /// Bytes of this page that were touched since the system gave them.
    pub touched: u32,
    pub kept: Kept,
    pub class: u8,
    pub previous: Option<Page>,
    pub next: Option<Page>,
}

const _: () = assert!(HEADER_BYTES == 64);

/// A pointer to a page in use. Only [`Page::new`] makes one of foreign memory, and the arena keeps none of a page that it
/// has released, so reading and writing its header is sound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Page(NonNull<Header>);

impl std::ops::Deref for Page {
    type Target = Header;

    #[inline(always)]
    fn deref(&self) -> &Header {
        // SAFETY: the page is in use, see the type; references to headers end before the next call.
        unsafe { self.0.as_ref() }
    }
}

impl std::ops::DerefMut for Page {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut Header {
        // SAFETY: as above; an arena belongs to one thread and its writers have it exclusively.
        unsafe { self.0.as_mut() }
    }
}

/// What AddressSanitizer is told, which knows nothing of slots by itself: nobody reads or writes a free one behind its link, nor
/// what was never carved. Otherwise nothing.
mod watch {
    use std::ptr::NonNull;

    #[cfg(asan)]
    unsafe extern "C" {
        fn __asan_poison_memory_region(start: *const std::ffi::c_void, bytes: usize);
        fn __asan_unpoison_memory_region(start: *const std::ffi::c_void, bytes: usize);
    }

    #[inline(always)]
    pub fn allow(_start: NonNull<u8>, _bytes: usize) {
        #[cfg(asan)]
        // SAFETY: it changes what the sanitizer says of these addresses, and nothing else.
        unsafe {
            __asan_unpoison_memory_region(_start.as_ptr().cast(), _bytes);
        }
    }

    #[inline(always)]
    pub fn forbid(_start: NonNull<u8>, _bytes: usize) {
        #[cfg(asan)]
        // SAFETY: as above.
        unsafe {
            __asan_poison_memory_region(_start.as_ptr().cast(), _bytes);
        }
    }

    #[inline(always)]
    pub fn forbid_behind_link(_slot: NonNull<u8>, _bytes: usize) {
        #[cfg(asan)]
        // SAFETY: a slot has room for a link.
        unsafe {
            forbid(_slot.add(super::LINK_BYTES), _bytes - super::LINK_BYTES);
        }
    }
}

impl Page {
    /// Makes a page for one class.
    ///
    /// # Safety
    /// `start` has PAGE_BYTES of memory, aligned to PAGE_BYTES, that nobody else uses.
    pub unsafe fn new(start: NonNull<u8>, class: u8, slot_bytes: usize) -> Page {
        let header = start.cast::<Header>();
        let (free, live, low, owners, touched) = (0, 0, 0, 0, 0);
        let (fresh, slot_bytes) = (HEADER_BYTES as u32, slot_bytes as u32);
        let (kept, previous, next) = (Kept::Current, None, None);
        // SAFETY: by the caller; a page's alignment is a multiple of the header's.
        unsafe {
            watch::allow(start, PAGE_BYTES);
            header.write(Header { free, live, low, fresh, slot_bytes, owners, touched, kept, class, previous, next });
            watch::forbid(start.add(HEADER_BYTES), PAGE_BYTES - HEADER_BYTES);
        }
        Page(header)
    }

    /// The page of a slot.
    ///
    /// # Safety
    /// `slot` is in a page in use.
    #[inline(always)]
    pub unsafe fn of(slot: NonNull<u8>) -> Page {
        // SAFETY: a page begins at a multiple of its size, which is not 0, and its header comes first.
        Page(unsafe { NonNull::new_unchecked(slot.as_ptr().map_addr(|address| address & !(PAGE_BYTES - 1)).cast()) })
    }

    /// Its first byte.
    pub fn start(self) -> NonNull<u8> {
        self.0.cast()
    }

    /// Slots there can be.
    pub fn capacity(self) -> usize {
        (PAGE_BYTES - HEADER_BYTES) / self.slot_bytes as usize
    }

    #[inline(always)]
    fn word(self, offset: u32) -> NonNull<u64> {
        // SAFETY: offsets are of slots, which are inside the page.
        unsafe { self.start().add(offset as usize).cast() }
    }

    /// A free slot that was carved before.
    #[inline(always)]
    pub fn take(&mut self) -> Option<NonNull<u8>> {
        if self.free == 0 {
            return None;
        }
        let slot = self.word(self.free);
        // SAFETY: a free slot begins with the offset of the next one; slots are aligned to 8.
        self.free = unsafe { slot.read() } as u32;
        self.live += 1;
        watch::allow(slot.cast(), self.slot_bytes as usize);
        Some(slot.cast())
    }

    /// Takes a slot back.
    ///
    /// # Safety
    /// The slot is one of this page, in use, and nobody reads it any more.
    #[inline(always)]
    pub unsafe fn put(&mut self, slot: NonNull<u8>) {
        debug_assert!(self.is_live(slot), "freed twice");
        // SAFETY: by the caller.
        unsafe { slot.cast().write(self.free as u64 | FREE_MARK) };
        watch::forbid_behind_link(slot, self.slot_bytes as usize);
        self.free = slot.as_ptr().addr() as u32 & (PAGE_BYTES - 1) as u32;
        self.live -= 1;
    }

    /// Carves slots up to the next page of the system. False if there is no room for one.
    pub fn carve(&mut self) -> bool {
        debug_assert!(self.free == 0);
        let slot_bytes = self.slot_bytes;
        let first = self.fresh;
        let end = (first + 1).next_multiple_of(TOUCH_BYTES as u32);
        let mut at = first;
        while at < end && at + slot_bytes <= PAGE_BYTES as u32 {
            let next = at + slot_bytes;
            let last = next >= end || next + slot_bytes > PAGE_BYTES as u32;
            watch::allow(self.word(at).cast(), LINK_BYTES);
            // SAFETY: the slot is inside the page and was never given to anyone.
            unsafe { self.word(at).write(if last { 0 } else { next as u64 } | FREE_MARK) };
            at = next;
        }
        self.fresh = at;
        self.free = if at > first { first } else { 0 };
        at > first
    }

    /// Bytes from the start of the page that its slots make it touch.
    pub fn reached(self) -> u32 {
        self.fresh.next_multiple_of(TOUCH_BYTES as u32)
    }

    fn is_live(self, slot: NonNull<u8>) -> bool {
        // SAFETY: a carved slot begins with eight initialized bytes, an entry's header or the link of a free one.
        unsafe { slot.cast::<u64>().read() & FREE_MARK == 0 }
    }

    /// The first slot in use from this offset on (0 is the beginning), and the offset to go on from.
    pub fn next_live(self, offset: u32) -> Option<(NonNull<u8>, u32)> {
        let mut at = offset.max(HEADER_BYTES as u32);
        while at < self.fresh {
            let slot = self.word(at).cast();
            at += self.slot_bytes;
            if self.is_live(slot) {
                return Some((slot, at));
            }
        }
        None
    }
}
