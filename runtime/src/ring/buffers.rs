//! Receive buffers that the kernel picks from: one mapping cut into buffers, and the ring through which they are lent.
//!
//! ```text
//!   ring    [ address, length, id | ... ]   BUFFERS_MAX entries of 16 bytes, shared with the kernel
//!   arena   [ buffer 0 | buffer 1 | ... ]   BUFFERS_MAX * BUFFER_BYTES, touched only as far as used
//! ```
//!
//! Only `active` buffers circulate. There are few of them, because the ring is a FIFO and all of them pass through the
//! cache; too few, and receives end with ENOBUFS. So the pool follows the connections (`want`), and shrinks by keeping
//! what comes back. Where every buffer is: lent to the kernel, taken by a completion, or idle.

use std::io;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::types::BufRingEntry;
use memmap2::{Advice, MmapMut, MmapOptions, UncheckedAdvice};

use super::Received;
use crate::limits::{BUFFER_BYTES, BUFFERS_MAX, BUFFERS_START};

/// A buffer taken from the kernel. Not `Clone`: it is given back once.
#[derive(Debug)]
pub struct BufferId(u16);

pub struct ProvidedBuffers {
    ring: MmapMut,
    arena: MmapMut,
    /// Entries written to the ring so far, and how many of them the kernel was shown.
    tail: u16,
    published: u16,
    /// Entries the kernel can take: shown or about to be, not yet taken.
    lent: u16,
    /// Buffers that are lent or taken.
    active: u16,
    wanted: u16,
    /// Buffers that do not circulate, the next to use last.
    idle: Vec<u16>,
}

impl ProvidedBuffers {
    pub fn new() -> io::Result<ProvidedBuffers> {
        let ring = MmapMut::map_anon(BUFFERS_MAX as usize * size_of::<BufRingEntry>())?;
        let arena = MmapOptions::new().len(BUFFERS_MAX as usize * BUFFER_BYTES).no_reserve_swap().map_anon()?;
        // A request rarely fills more than the first page of its buffer; huge pages would make all of the rest resident.
        // A kernel without huge pages refuses the advice, and does not need it.
        let _ = arena.advise(Advice::NoHugePage);
        let mut buffers = ProvidedBuffers {
            ring,
            arena,
            tail: 0,
            published: 0,
            lent: 0,
            active: 0,
            wanted: BUFFERS_START,
            idle: (0..BUFFERS_MAX).rev().collect(),
        };
        buffers.grow();
        Ok(buffers)
    }

    pub fn ring_address(&self) -> u64 {
        self.ring.as_ptr() as u64
    }

    pub fn entries(&self) -> u16 {
        BUFFERS_MAX
    }

    pub fn active(&self) -> usize {
        self.active as usize
    }

    #[inline]
    pub fn free(&self) -> usize {
        self.lent as usize
    }

    /// All buffers. A shared slice of memory the kernel writes to is sound because it writes only while the owning
    /// thread is inside an enter of its ring (receives are copied by deferred task work or during submission, never by
    /// another thread), and entering takes the whole `Ring` by `&mut`.
    #[inline]
    pub fn arena(&self) -> &[u8] {
        &self.arena
    }

    /// The kernel has put `len` bytes into buffer `id`.
    #[inline]
    pub fn taken(&mut self, id: u16, len: u32) -> Received {
        assert!(id < BUFFERS_MAX && len as usize <= BUFFER_BYTES, "the kernel names a buffer it was lent");
        self.lent -= 1;
        Received { start: id as u32 * BUFFER_BYTES as u32, len, buffer: BufferId(id) }
    }

    #[inline]
    pub fn give_back(&mut self, BufferId(id): BufferId) {
        if self.active > self.wanted {
            self.retire(id);
        } else {
            self.lend(id);
        }
    }

    /// Sets how many buffers shall circulate.
    pub fn want(&mut self, count: usize) {
        self.wanted = count.clamp(BUFFERS_START as usize, BUFFERS_MAX as usize) as u16;
        self.grow();
    }

    /// Shows the kernel what was lent since the last time.
    #[inline]
    pub fn publish(&mut self) {
        if self.published == self.tail {
            return;
        }
        self.published = self.tail;
        // SAFETY: the mapping starts with entry 0, whose `resv` is the ring's tail by the kernel's definition; it is 2-byte
        // aligned, alive, and written by this thread only. Release: the entries come before the tail that shows them.
        unsafe {
            let tail = BufRingEntry::tail(self.ring.as_ptr().cast::<BufRingEntry>()).cast_mut();
            AtomicU16::from_ptr(tail).store(self.tail, Ordering::Release);
        }
    }

    fn grow(&mut self) {
        while self.active < self.wanted {
            let id = self.idle.pop().expect("active + idle is all buffers, and wanted is no more than that");
            self.active += 1;
            self.lend(id);
        }
    }

    #[inline]
    fn lend(&mut self, id: u16) {
        debug_assert!(self.lent < BUFFERS_MAX);
        let address = self.arena.as_mut_ptr().wrapping_add(id as usize * BUFFER_BYTES) as u64;
        let place = (self.tail & (BUFFERS_MAX - 1)) as usize;
        // SAFETY: the place is inside the mapping, which is aligned for entries and all-zero at first (a valid entry).
        // The kernel reads an entry only between the published tail and its head, and this one lies outside, because no
        // more than BUFFERS_MAX are ever lent. The setters leave `resv` alone, which in entry 0 is the tail.
        let entry = unsafe { &mut *self.ring.as_mut_ptr().cast::<BufRingEntry>().add(place) };
        entry.set_addr(address);
        entry.set_len(BUFFER_BYTES as u32);
        entry.set_bid(id);
        self.tail = self.tail.wrapping_add(1);
        self.lent += 1;
    }

    fn retire(&mut self, id: u16) {
        self.active -= 1;
        self.idle.push(id);
        // SAFETY: the buffer is neither lent nor taken; losing its bytes (it reads as zeroes then) hurts nobody.
        let result = unsafe {
            self.arena.unchecked_advise_range(UncheckedAdvice::DontNeed, id as usize * BUFFER_BYTES, BUFFER_BYTES)
        };
        debug_assert!(result.is_ok(), "{result:?}");
    }
}
