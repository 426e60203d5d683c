//! The hash table of one keyspace: extendible hashing over small segments, so that no step of growing takes long.
//!
//! ```text
//! hash   63 ............ 64-depth | ...            | 22 ...... 7 | 6 ... 0
//!        directory index          |                |     tag     | bucket in segment
//!
//! directory --> segment of 128 buckets --> bucket of 8 slots, one cache line --> entry
//!               8 KiB                      | 8 tags of 2 bytes | 8 addresses of 6 bytes |
//! ```
//!
//! The eight tags of a bucket are compared with one instruction; only a slot whose tag is right is looked at, so a lookup
//! that misses reads no entry but once in about 4000.
//!
//! A lookup reads the directory (8 bytes for about 600 keys, so it stays in cache), one bucket, and the entry: two
//! misses in DRAM, and both can be prefetched. A bucket that is full spills into the next one of its segment; a lookup
//! stops at the first bucket that has a slot which was never used.
//!
//! A segment that is four fifths full splits in two by the next bit of the hash: about 820 entries are re-hashed, tens
//! of microseconds, however large the table is. Only the directory is ever doubled as a whole: 8 bytes per segment, a
//! plain copy. (Extendible hashing: Fagin et al., TODS 1979; small segments with a bucket per cache line: Dash, Lu et
//! al., VLDB 2020, and Dragonfly's table.) The directory is indexed by the *high* bits of the hash, so directory order
//! is hash order and a scan position stays meaningful while segments split (see [`Table::scan`]).
#![allow(unsafe_code)]

use std::ptr::NonNull;

use super::entry::{Entry, EntryRef};

const BUCKETS: usize = 128;
const SLOTS_PER_BUCKET: usize = 8;
const SLOTS: usize = BUCKETS * SLOTS_PER_BUCKET;
/// A segment splits when more of its slots are taken.
const SPLIT_AT: usize = SLOTS * 4 / 5;
/// A segment with more slots that are neither taken nor fresh is rebuilt, so that misses stay short.
const TOMBSTONES_MAX: usize = SLOTS / 8;
/// Bits of the hash that a scan cursor can hold for the directory; 2^40 segments are out of reach.
pub const DEPTH_MAX: u32 = 40;
/// Bits of the bucket in a scan position.
pub const BUCKET_BITS: u32 = BUCKETS.trailing_zeros();

/// A slot that was never taken: a lookup ends at its bucket.
const FRESH: u16 = 0;
/// A slot that was taken once: a lookup goes on past its bucket.
const TOMBSTONE: u16 = 1;
const ADDRESS_MASK: u64 = (1 << 48) - 1;

const _: () = assert!(BUCKETS.is_power_of_two() && std::mem::size_of::<Bucket>() == 64);
const _: () = assert!(SPLIT_AT + TOMBSTONES_MAX < SLOTS, "a lookup must find a fresh slot");

#[repr(C, align(64))]
struct Bucket {
    tags: [u16; SLOTS_PER_BUCKET],
    /// Addresses in 48 bits, the low half first: eight pairs would be padded, so they are kept apart.
    low: [u32; SLOTS_PER_BUCKET],
    high: [u16; SLOTS_PER_BUCKET],
}

impl Bucket {
    const EMPTY: Bucket =
        Bucket { tags: [FRESH; SLOTS_PER_BUCKET], low: [0; SLOTS_PER_BUCKET], high: [0; SLOTS_PER_BUCKET] };

    #[inline]
    fn address(&self, slot: usize) -> u64 {
        (self.high[slot] as u64) << 32 | self.low[slot] as u64
    }

    #[inline]
    fn set(&mut self, slot: usize, tag: u16, address: u64) {
        self.tags[slot] = tag;
        self.low[slot] = address as u32;
        self.high[slot] = (address >> 32) as u16;
    }

    /// One bit per slot that has this tag.
    #[inline]
    fn matches(&self, tag: u16) -> Mask {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: SSE2 belongs to every x86-64 processor; the tags are 16 bytes, and the bucket's alignment is theirs.
        unsafe {
            use std::arch::x86_64::*;
            let tags = _mm_load_si128(self.tags.as_ptr().cast());
            let equal = _mm_cmpeq_epi16(tags, _mm_set1_epi16(tag as i16));
            Mask(_mm_movemask_epi8(_mm_packs_epi16(equal, _mm_setzero_si128())) as u32)
        }
        #[cfg(not(target_arch = "x86_64"))]
        Mask(self.tags.iter().enumerate().fold(0, |mask, (slot, &other)| mask | ((other == tag) as u32) << slot))
    }

    #[inline]
    fn has_fresh(&self) -> bool {
        self.matches(FRESH).0 != 0
    }

    /// The addresses of all entries here.
    fn addresses(&self) -> impl Iterator<Item = u64> {
        (0..SLOTS_PER_BUCKET).filter(|&slot| self.tags[slot] > TOMBSTONE).map(|slot| self.address(slot))
    }
}

/// Slots of a bucket as bits.
struct Mask(u32);

impl Iterator for Mask {
    type Item = usize;

    #[inline]
    fn next(&mut self) -> Option<usize> {
        if self.0 == 0 {
            return None;
        }
        let slot = self.0.trailing_zeros() as usize;
        self.0 &= self.0 - 1;
        Some(slot)
    }
}

#[repr(C, align(64))]
struct Segment {
    buckets: [Bucket; BUCKETS],
    /// How many high bits of the hash all entries here share.
    depth: u32,
    taken: u32,
    tombstones: u32,
}

/// Bytes of one segment.
pub const SEGMENT_BYTES: usize = std::mem::size_of::<Segment>();

/// Where an entry is: valid until the table changes.
#[derive(Clone, Copy)]
pub struct Place {
    segment: NonNull<Segment>,
    bucket: u32,
    slot: u32,
}

/// Keys to entries. The caller gives the hash with each key, always of the same function.
pub struct Table {
    directory: Vec<NonNull<Segment>>,
    depth: u32,
    /// How far a hash, already shifted by one, is shifted further for its place in the directory (depth 0 is all the way).
    shift: u32,
    len: usize,
    segments: usize,
}

// SAFETY: a table owns its segments and entries outright; the raw pointers are not shared with anyone.
unsafe impl Send for Table {}

impl Table {
    /// An empty table: no memory until the first insertion.
    pub fn new() -> Table {
        Table { directory: Vec::new(), depth: 0, shift: 63, len: 0, segments: 0 }
    }

    /// Entries, expired ones included.
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Segments allocated.
    pub fn segments(&self) -> usize {
        self.segments
    }

    /// Bytes of the table itself, entries not included.
    pub fn memory_bytes(&self) -> usize {
        self.directory.capacity() * 8 + self.segments * SEGMENT_BYTES
    }

    #[inline(always)]
    fn index_of(&self, hash: u64) -> usize {
        (hash >> 1 >> self.shift) as usize
    }

    #[inline(always)]
    fn segment_of(&self, hash: u64) -> Option<NonNull<Segment>> {
        self.directory.get(self.index_of(hash)).copied()
    }

    /// Asks the processor for the bucket of `hash`.
    #[inline]
    pub fn prefetch_bucket(&self, hash: u64) {
        if let Some(segment) = self.segment_of(hash) {
            let bucket = bucket_of(hash);
            // SAFETY: the segment is live and the bucket index is below BUCKETS, so the address is inside it.
            prefetch(unsafe { (&raw const (*segment.as_ptr()).buckets[bucket]).cast() });
        }
    }

    /// Asks the processor for the entry that `hash` most probably means; its bucket should have arrived.
    #[inline]
    pub fn prefetch_entry(&self, hash: u64) {
        let Some(segment) = self.segment_of(hash) else { return };
        // SAFETY: the segment is live; no reference to it is held by anyone else during this call.
        let bucket = unsafe { &(*segment.as_ptr()).buckets[bucket_of(hash)] };
        if let Some(slot) = bucket.matches(tag_of(hash)).next() {
            let entry = bucket.address(slot) as usize;
            prefetch(entry as *const u8);
            // A short entry that straddles cache lines needs both.
            if !entry.is_multiple_of(64) {
                prefetch((entry + 64) as *const u8);
            }
        }
    }

    /// Where `key` is.
    #[inline(always)]
    pub fn find(&self, hash: u64, key: &[u8]) -> Option<Place> {
        self.find_by(hash, |entry| same_key(entry.key(), key))
    }

    /// Where the first entry with this hash is that `matches`.
    #[inline(always)]
    pub fn find_by(&self, hash: u64, matches: impl Fn(EntryRef) -> bool) -> Option<Place> {
        let segment = self.segment_of(hash)?;
        let tag = tag_of(hash);
        let mut index = bucket_of(hash);
        for _ in 0..BUCKETS {
            // SAFETY: the segment is live, &self keeps it from changing.
            let bucket = unsafe { &(*segment.as_ptr()).buckets[index] };
            for slot in bucket.matches(tag) {
                // SAFETY: a slot with a tag holds the address of an entry that the table owns.
                let entry = unsafe { EntryRef::from_raw(bucket.address(slot)) };
                if matches(entry) {
                    return Some(Place { segment, bucket: index as u32, slot: slot as u32 });
                }
            }
            if bucket.has_fresh() {
                return None;
            }
            index = (index + 1) % BUCKETS;
        }
        None
    }

    #[inline]
    fn address(&self, place: Place) -> u64 {
        // SAFETY: a Place points into a live segment until the table changes, which the callers' borrows rule out.
        unsafe { (&(*place.segment.as_ptr()).buckets)[place.bucket as usize].address(place.slot as usize) }
    }

    /// The entry at a place just found.
    #[inline]
    pub fn entry(&self, place: Place) -> EntryRef<'_> {
        let address = self.address(place);
        // SAFETY: `find` gave the place of a live entry and &self keeps the table from changing.
        unsafe { EntryRef::from_raw(address) }
    }

    /// Changes the entry at a place just found. The change may give back an entry that replaces it; then the old one is
    /// returned.
    #[inline]
    pub fn change<R>(
        &mut self,
        place: Place,
        change: impl FnOnce(&mut Entry) -> (R, Option<Entry>),
    ) -> (R, Option<Entry>) {
        // SAFETY: the place holds a live entry; ours alone, because of &mut self.
        let mut entry = std::mem::ManuallyDrop::new(unsafe { Entry::from_raw(self.address(place)) });
        let (result, moved) = change(&mut entry);
        if let Some(moved) = moved {
            // SAFETY: the segment is live and &mut self is exclusive.
            let bucket = unsafe { &mut (&mut (*place.segment.as_ptr()).buckets)[place.bucket as usize] };
            bucket.set(place.slot as usize, bucket.tags[place.slot as usize], pack(moved));
            return (result, Some(std::mem::ManuallyDrop::into_inner(entry)));
        }
        (result, None)
    }

    /// Names the new place of an entry that was moved.
    pub fn relocate(&mut self, old: u64, moved: Entry, rehash: &impl Fn(EntryRef) -> u64) {
        let hash = rehash(moved.as_ref());
        let place = self.find_by(hash, |entry| entry.address() == old).expect("every entry is in the table");
        // SAFETY: the segment is live and &mut self is exclusive.
        let bucket = unsafe { &mut (&mut (*place.segment.as_ptr()).buckets)[place.bucket as usize] };
        bucket.set(place.slot as usize, bucket.tags[place.slot as usize], pack(moved));
    }

    /// Takes the entry at a place just found out of the table.
    pub fn remove(&mut self, place: Place) -> Entry {
        let address = self.address(place);
        // SAFETY: the segment is live and &mut self is exclusive.
        let segment = unsafe { &mut *place.segment.as_ptr() };
        let bucket = &mut segment.buckets[place.bucket as usize];
        // A bucket that has a fresh slot was never full, so nothing has spilled past it.
        let never_full = bucket.has_fresh();
        bucket.tags[place.slot as usize] = if never_full { FRESH } else { TOMBSTONE };
        segment.taken -= 1;
        segment.tombstones += !never_full as u32;
        self.len -= 1;
        // SAFETY: the slot owned this entry and no longer names it.
        unsafe { Entry::from_raw(address) }
    }

    /// Adds an entry whose key is not in the table. `rehash` gives the hash of any entry's key.
    pub fn insert(&mut self, hash: u64, entry: Entry, rehash: &impl Fn(EntryRef) -> u64) {
        if self.directory.is_empty() {
            self.directory.push(Segment::new(0));
            self.segments = 1;
        }
        let mut segment = self.segment_of(hash).expect("the directory is not empty");
        // SAFETY: the segment is live and &mut self is exclusive (here and below).
        while unsafe { segment.as_ref() }.taken as usize >= SPLIT_AT && self.split(hash, rehash) {
            segment = self.segment_of(hash).expect("splitting keeps the directory full");
        }
        // SAFETY: as above; split may have replaced the segment, so it was looked up again.
        let full = unsafe { segment.as_mut() };
        assert!((full.taken as usize) < SPLIT_AT + TOMBSTONES_MAX, "more equal hash prefixes than a segment holds");
        if full.tombstones as usize > TOMBSTONES_MAX {
            full.rebuild(rehash);
        }
        full.put(hash, pack(entry));
        self.len += 1;
    }

    /// Splits the segment of `hash` in two. False if the depth is exhausted.
    fn split(&mut self, hash: u64, rehash: &impl Fn(EntryRef) -> u64) -> bool {
        let mut old = self.segment_of(hash).expect("only a present segment is split");
        // SAFETY: the segment is live and &mut self is exclusive.
        let old_segment = unsafe { old.as_mut() };
        let depth = old_segment.depth;
        if depth == DEPTH_MAX {
            return false;
        }
        if depth == self.depth {
            self.directory = self.directory.iter().flat_map(|&segment| [segment, segment]).collect();
            self.depth += 1;
            self.shift -= 1;
        }
        let addresses = old_segment.take_all();
        let mut new = Segment::new(depth + 1);
        old_segment.depth = depth + 1;
        self.segments += 1;
        // SAFETY: just made, not yet shared.
        let new_segment = unsafe { new.as_mut() };
        for_each_prefetched(&addresses, |address| {
            // SAFETY: the address is that of a live entry that the table owns.
            let hash = rehash(unsafe { EntryRef::from_raw(address) });
            let upper = hash >> (63 - depth) & 1 == 1;
            if upper { new_segment.put(hash, address) } else { old_segment.put(hash, address) }
        });
        // The old segment filled an aligned run of the directory; its upper half is the new one's.
        let run = 1usize << (self.depth - depth);
        let index = self.index_of(hash);
        let start = index & !(run - 1);
        self.directory[start + run / 2..start + run].fill(new);
        true
    }

    /// Visits entries in hash order from `position` on, at least `count` of them unless the end comes first, and gives
    /// the next position, or `None` at the end.
    ///
    /// A position is a bucket: the high [`DEPTH_MAX`] bits of the hash, then the bucket in the segment. Everything
    /// present from the first call to the last is visited at least once: a segment that splits between two calls has
    /// been visited up to its bucket for both halves (so the second half may be visited twice), and directory order
    /// never changes.
    pub fn scan(
        &self,
        position: u64,
        count: usize,
        rehash: &impl Fn(EntryRef) -> u64,
        mut visit: impl FnMut(EntryRef),
    ) -> Option<u64> {
        let mut prefix = position >> BUCKET_BITS;
        let mut bucket = position as usize % BUCKETS;
        let mut visited = 0;
        // Empty stretches are bounded too: a call looks at no more than this many buckets.
        let mut buckets_left = count.saturating_mul(10).max(BUCKETS);
        while prefix < 1 << DEPTH_MAX {
            let segment = self.segment_of(prefix << (64 - DEPTH_MAX))?;
            // SAFETY: the segment is live, &self keeps it from changing.
            let segment = unsafe { segment.as_ref() };
            while bucket < BUCKETS {
                if visited >= count || buckets_left == 0 {
                    return Some(prefix << BUCKET_BITS | bucket as u64);
                }
                buckets_left -= 1;
                segment.for_each_at_home(bucket, rehash, |entry| {
                    visited += 1;
                    visit(entry);
                });
                bucket += 1;
            }
            bucket = 0;
            // The next segment begins where this one's range of prefixes ends.
            let width = 1u64 << (DEPTH_MAX - segment.depth);
            prefix = (prefix & !(width - 1)) + width;
        }
        None
    }

    /// An entry chosen by `random`, near enough to uniform: a random bucket, and the next ones while they are empty.
    pub fn sample(&self, random: u64) -> Option<EntryRef<'_>> {
        if self.len == 0 {
            return None;
        }
        let mut index = (random >> 32) as usize % self.directory.len();
        let mut bucket = random as usize % BUCKETS;
        let first = (random >> 16) as usize;
        for _ in 0..self.directory.len() {
            // SAFETY: the segment is live, &self keeps it from changing.
            let segment = unsafe { self.directory[index].as_ref() };
            for _ in 0..BUCKETS {
                for step in 0..SLOTS_PER_BUCKET {
                    let slot = (first + step) % SLOTS_PER_BUCKET;
                    if segment.buckets[bucket].tags[slot] > TOMBSTONE {
                        // SAFETY: the slot holds the address of a live entry; the borrow is tied to &self.
                        return Some(unsafe { EntryRef::from_raw(segment.buckets[bucket].address(slot)) });
                    }
                }
                bucket = (bucket + 1) % BUCKETS;
            }
            index = (index + 1) % self.directory.len();
        }
        None
    }

    /// Forgets up to `count` entries, for a table that is given up in slices: their arena frees them. True when nothing
    /// is left.
    pub fn free_some(&mut self, mut count: usize) -> bool {
        while let Some(&last) = self.directory.last() {
            // SAFETY: the segment is live; copies of its pointer further down the directory are popped with it.
            let segment = unsafe { &mut *last.as_ptr() };
            let freed = segment.taken as usize;
            self.len -= freed;
            while self.directory.last() == Some(&last) {
                self.directory.pop();
            }
            self.segments -= 1;
            // SAFETY: made by Box in Segment::new, and no pointer to it is left in the directory.
            drop(unsafe { Box::from_raw(last.as_ptr()) });
            count = count.saturating_sub(freed.max(1));
            if count == 0 {
                break;
            }
        }
        self.directory.is_empty()
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        while !self.free_some(usize::MAX) {}
    }
}

impl Default for Table {
    fn default() -> Self {
        Table::new()
    }
}

impl Segment {
    fn new(depth: u32) -> NonNull<Segment> {
        let layout = std::alloc::Layout::new::<Segment>();
        // SAFETY: the layout is not empty, and all-zero bytes are a valid Segment: fresh slots and zero counters.
        let pointer = unsafe { std::alloc::alloc_zeroed(layout) }.cast::<Segment>();
        let Some(mut segment) = NonNull::new(pointer) else { std::alloc::handle_alloc_error(layout) };
        // SAFETY: just allocated and initialized.
        unsafe { segment.as_mut() }.depth = depth;
        segment
    }

    /// Puts an entry's address into the first free slot from its bucket on.
    fn put(&mut self, hash: u64, address: u64) {
        let mut index = bucket_of(hash);
        loop {
            let bucket = &mut self.buckets[index];
            if let Some(slot) = bucket.tags.iter().position(|&tag| tag <= TOMBSTONE) {
                self.tombstones -= (bucket.tags[slot] == TOMBSTONE) as u32;
                bucket.set(slot, tag_of(hash), address);
                self.taken += 1;
                return;
            }
            index = (index + 1) % BUCKETS;
        }
    }

    /// Empties the segment and gives the addresses of what was there.
    fn take_all(&mut self) -> Vec<u64> {
        let addresses = self.buckets.iter().flat_map(Bucket::addresses).collect();
        self.buckets.fill_with(|| Bucket::EMPTY);
        self.taken = 0;
        self.tombstones = 0;
        addresses
    }

    /// Puts every entry back where it belongs, without tombstones.
    fn rebuild(&mut self, rehash: &impl Fn(EntryRef) -> u64) {
        let addresses = self.take_all();
        for_each_prefetched(&addresses, |address| {
            // SAFETY: the address is that of a live entry that the table owns.
            let hash = rehash(unsafe { EntryRef::from_raw(address) });
            self.put(hash, address);
        });
    }

    /// Visits the entries whose own bucket is `home`, wherever they spilled.
    fn for_each_at_home(&self, home: usize, rehash: &impl Fn(EntryRef) -> u64, mut visit: impl FnMut(EntryRef)) {
        let mut index = home;
        for _ in 0..BUCKETS {
            for address in self.buckets[index].addresses() {
                // SAFETY: the address is that of a live entry that the table owns.
                let entry = unsafe { EntryRef::from_raw(address) };
                if bucket_of(rehash(entry)) == home {
                    visit(entry);
                }
            }
            if self.buckets[index].has_fresh() {
                return;
            }
            index = (index + 1) % BUCKETS;
        }
    }
}

/// Calls `visit` for each address, asking for entries a few steps ahead.
fn for_each_prefetched(addresses: &[u64], mut visit: impl FnMut(u64)) {
    const AHEAD: usize = 16;
    for (at, &address) in addresses.iter().enumerate() {
        if let Some(&ahead) = addresses.get(at + AHEAD) {
            prefetch(ahead as *const u8);
        }
        visit(address);
    }
}

/// Whether two keys are equal, without a call for keys of usual lengths.
#[inline(always)]
fn same_key(one: &[u8], other: &[u8]) -> bool {
    let len = one.len();
    if len != other.len() {
        return false;
    }
    if !(8..=32).contains(&len) {
        return one == other;
    }
    // The first eight bytes, the last eight, and for more than sixteen the next eight from either end; they overlap.
    let word = |key: &[u8], at: usize| u64::from_le_bytes(key[at..at + 8].try_into().expect("eight bytes"));
    let same = |at: usize| word(one, at) == word(other, at);
    same(0) & same(len - 8) && (len <= 16 || same(8) & same(len - 16))
}

#[inline]
fn bucket_of(hash: u64) -> usize {
    hash as usize % BUCKETS
}

/// Sixteen bits of the hash, but never a value that says that a slot is free.
#[inline]
fn tag_of(hash: u64) -> u16 {
    // One bit is given up for it.
    (hash >> BUCKET_BITS) as u16 | 2
}

fn pack(entry: Entry) -> u64 {
    let address = entry.into_raw();
    assert!(address & !ADDRESS_MASK == 0, "user addresses have 48 bits");
    address
}

/// Asks the processor to bring a cache line; harmless for any address.
#[inline]
fn prefetch(address: *const u8) {
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
