//! One bucket of a segment, a cache line: ten slots, and what of a hash says where an entry may be.
#![allow(unsafe_code)]

use std::cell::Cell;

use super::{BUCKET_BITS, BUCKETS, SLOTS_PER_BUCKET};

/// A slot that was never taken: a lookup ends at its bucket.
pub const FRESH: u8 = 0;
/// A slot that was taken once: a lookup goes on past its bucket.
pub const TOMBSTONE: u8 = 1;

/// Where the bits of expiry begin in [`Bucket::bits`]; below are two bits of each reference.
pub const VOLATILE_SHIFT: usize = 2 * SLOTS_PER_BUCKET;

#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub struct Bucket {
    pub tags: [u8; SLOTS_PER_BUCKET],
    pub marks: [u8; SLOTS_PER_BUCKET],
    pub bits: u32,
    pub low: [u32; SLOTS_PER_BUCKET],
}

/// What a slot holds: all of it but the tag, which is of the hash.
#[derive(Clone, Copy)]
pub struct Slot {
    pub reference: u64,
    pub mark: u8,
    pub volatile: bool,
}

impl Bucket {
    pub const EMPTY: Bucket =
        Bucket { tags: [FRESH; SLOTS_PER_BUCKET], marks: [0; SLOTS_PER_BUCKET], bits: 0, low: [0; SLOTS_PER_BUCKET] };

    #[inline(always)]
    pub fn reference(&self, slot: usize) -> u64 {
        (self.bits as u64 >> (2 * slot) & 3) << 32 | self.low[slot] as u64
    }

    #[inline]
    pub fn is_volatile(&self, slot: usize) -> bool {
        self.bits >> (VOLATILE_SHIFT + slot) & 1 == 1
    }

    pub fn get(&self, slot: usize) -> Slot {
        Slot { reference: self.reference(slot), mark: self.marks[slot], volatile: self.is_volatile(slot) }
    }

    #[inline]
    pub fn set_reference(&mut self, slot: usize, reference: u64) {
        self.low[slot] = reference as u32;
        self.bits = self.bits & !(3 << (2 * slot)) | ((reference >> 32) as u32) << (2 * slot);
    }

    #[inline]
    pub fn set_volatile(&mut self, slot: usize, volatile: bool) {
        let bit = VOLATILE_SHIFT + slot;
        self.bits = self.bits & !(1 << bit) | (volatile as u32) << bit;
    }

    /// One bit per slot that has this tag.
    #[inline(always)]
    pub fn matches(&self, tag: u8) -> Mask {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: SSE2 belongs to every x86-64 processor; the bucket has 16 bytes and more, and its alignment is theirs.
        unsafe {
            use std::arch::x86_64::*;
            let tags = _mm_load_si128((&raw const *self).cast());
            let equal = _mm_cmpeq_epi8(tags, _mm_set1_epi8(tag as i8));
            Mask(_mm_movemask_epi8(equal) as u32 & ((1 << SLOTS_PER_BUCKET) - 1))
        }
        #[cfg(not(target_arch = "x86_64"))]
        Mask(self.tags.iter().enumerate().fold(0, |mask, (slot, &other)| mask | ((other == tag) as u32) << slot))
    }

    #[inline(always)]
    pub fn has_fresh(&self) -> bool {
        self.matches(FRESH).0 != 0
    }

    /// One bit per slot that holds an entry with one of these marks: `wanted` is 1 for each of them, and otherwise 0. There
    /// are no branches, because a hand that looks for few among many would be wrong about one in each bucket.
    #[inline(always)]
    pub fn marked(&self, wanted: &[Cell<u8>; 256]) -> Mask {
        let mut mask = 0;
        for (slot, &mark) in self.marks.iter().enumerate() {
            mask |= (wanted[mark as usize].get() as u32) << slot;
        }
        Mask(mask & !self.matches(FRESH).0 & !self.matches(TOMBSTONE).0)
    }

    /// The slots that hold an entry.
    pub fn taken(&self) -> impl Iterator<Item = usize> {
        (0..SLOTS_PER_BUCKET).filter(|&slot| self.tags[slot] > TOMBSTONE)
    }
}

/// Slots of a bucket as bits.
pub struct Mask(u32);

impl Iterator for Mask {
    type Item = usize;

    #[inline(always)]
    fn next(&mut self) -> Option<usize> {
        if self.0 == 0 {
            return None;
        }
        let slot = self.0.trailing_zeros() as usize;
        self.0 &= self.0 - 1;
        Some(slot)
    }
}

#[inline]
pub fn bucket_of(hash: u64) -> usize {
    hash as usize % BUCKETS
}

/// Eight bits of the hash, but never a value that says that a slot is free.
#[inline]
pub fn tag_of(hash: u64) -> u8 {
    ((hash >> BUCKET_BITS) as u8).max(TOMBSTONE + 1)
}

/// Asks for an entry; a short one that straddles cache lines needs both.
#[inline(always)]
pub fn prefetch_entry(address: u64) {
    prefetch(address as *const u8);
    if !address.is_multiple_of(64) {
        prefetch((address + 64) as *const u8);
    }
}

/// Asks the processor to bring a cache line; harmless for any address.
#[inline]
pub fn prefetch(address: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch is a hint that never faults.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(address.cast());
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: a prefetch is a hint that never faults.
    unsafe {
        std::arch::asm!("prfm pldl1keep, [{0}]", in(reg) address, options(nostack, preserves_flags, readonly));
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let _ = address;
}
