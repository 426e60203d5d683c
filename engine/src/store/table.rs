//! The hash table of one keyspace: extendible hashing over small segments, so that no step of growing takes long.
//!
//! ```text
//! hash   63 ............ 64-depth | ...            | 14 ...... 7 | 6 ... 0
//!        directory index          |                |     tag     | bucket in segment
//!
//! directory --> segment of 128 buckets --> bucket of 10 slots, one cache line --> entry
//!               8 KiB                      | 10 tags | 10 marks | bits | 10 references of 32 bits |
//! ```
//!
//! A slot takes 6.4 bytes. Its *tag* is eight bits of the hash, compared for all slots of a bucket with one instruction:
//! only a slot whose tag is right is looked at, so a lookup that misses reads an entry once in 30 times. Its *reference*
//! is the entry's place in the keyspace's arena in units of 8 bytes: 32 bits and two more among the bucket's bits, which
//! makes 128 GiB. Another of these bits says that the entry has an expiry time. Its *mark* says how recently or how often
//! the entry was used ([`super::eviction`]): reading a key changes no line but that of its bucket, and whoever looks for
//! what to evict reads no entries.
//!
//! A lookup reads the directory (4 bytes for about 800 keys, so it stays in cache), one bucket, and the entry: two
//! misses in DRAM, and both can be prefetched. A bucket that is full spills into the next one of its segment; a lookup
//! stops at the first bucket that has a slot which was never used.
//!
//! A segment that is four fifths full splits in two by the next bit of the hash: about 1000 entries are re-hashed, tens
//! of microseconds, however large the table is. Two that are nearly empty become one again ([`Table::merge_slice`]), and
//! the last takes the place of the one that is gone, so segments lie together. The directory doubles a few entries at a
//! time while segments split. (Extendible hashing: Fagin et al., TODS 1979; small segments with a bucket per cache line:
//! Dash, Lu et al., VLDB 2020, and Dragonfly's table.) The directory is indexed by the *high* bits of the hash, so
//! directory order is hash order and a scan position stays meaningful while segments split and merge ([`Table::scan`]).
#![allow(unsafe_code)]

use std::cell::Cell;
use std::ptr::NonNull;

use super::arena::{ALIGN, ARENA_BYTES_MAX};
use super::entry::{Entry, EntryRef};
use super::space::{Ahead, Grown};

const BUCKETS: usize = 128;
const SLOTS_PER_BUCKET: usize = 10;
const SLOTS: usize = BUCKETS * SLOTS_PER_BUCKET;
/// A segment splits when more of its slots are taken, unless another did so within the last [`SPLIT_PACE`] insertions: they
/// all fill at the same time, and one turn should not split many of them.
const SPLIT_AT: usize = SLOTS * 13 / 16;
const SPLIT_PACE: u32 = 48;
/// With so many it splits however many did.
const SPLIT_AT_MOST: usize = SLOTS * 7 / 8;
/// Two neighbours with no more than this together become one.
const MERGE_AT: usize = SPLIT_AT / 2;
/// A segment with more slots that are neither taken nor fresh is rebuilt, so that misses stay short.
const TOMBSTONES_MAX: usize = SLOTS / 10;
/// Bits of the hash that a scan cursor can hold for the directory; 2^40 segments are out of reach.
pub const DEPTH_MAX: u32 = 40;
/// Bits of the bucket in a scan position.
pub const BUCKET_BITS: u32 = BUCKETS.trailing_zeros();
/// Entries of the next directory that one split fills.
const DOUBLE_STEP: usize = 64;

/// Addresses for so many bytes of segments: of entries of 56 bytes, an arena is full before. And of the two lists beside.
const SEGMENTS_BYTES_MAX: usize = 32 << 30;
const HEADS_BYTES_MAX: usize = (SEGMENTS_BYTES_MAX / SEGMENT_BYTES * size_of::<Head>()).next_power_of_two();
const DIRECTORY_BYTES_MAX: usize = SEGMENTS_BYTES_MAX / SEGMENT_BYTES * 16;

/// A slot that was never taken: a lookup ends at its bucket.
const FRESH: u8 = 0;
/// A slot that was taken once: a lookup goes on past its bucket.
const TOMBSTONE: u8 = 1;

/// Where the bits of expiry begin in [`Bucket::bits`]; below are two bits of each reference.
const VOLATILE_SHIFT: usize = 2 * SLOTS_PER_BUCKET;

const _: () =
    assert!(BUCKETS.is_power_of_two() && size_of::<Bucket>() == 64 && VOLATILE_SHIFT + SLOTS_PER_BUCKET <= 32);
const _: () = assert!(SPLIT_AT_MOST + TOMBSTONES_MAX < SLOTS, "a lookup must find a fresh slot");
const _: () = assert!(ARENA_BYTES_MAX / ALIGN == 1 << 34);

#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Bucket {
    tags: [u8; SLOTS_PER_BUCKET],
    marks: [u8; SLOTS_PER_BUCKET],
    bits: u32,
    low: [u32; SLOTS_PER_BUCKET],
}

/// What a slot holds: all of it but the tag, which is of the hash.
#[derive(Clone, Copy)]
struct Slot {
    reference: u64,
    mark: u8,
    volatile: bool,
}

impl Bucket {
    const EMPTY: Bucket =
        Bucket { tags: [FRESH; SLOTS_PER_BUCKET], marks: [0; SLOTS_PER_BUCKET], bits: 0, low: [0; SLOTS_PER_BUCKET] };

    #[inline(always)]
    fn reference(&self, slot: usize) -> u64 {
        (self.bits as u64 >> (2 * slot) & 3) << 32 | self.low[slot] as u64
    }

    #[inline]
    fn is_volatile(&self, slot: usize) -> bool {
        self.bits >> (VOLATILE_SHIFT + slot) & 1 == 1
    }

    fn get(&self, slot: usize) -> Slot {
        Slot { reference: self.reference(slot), mark: self.marks[slot], volatile: self.is_volatile(slot) }
    }

    #[inline]
    fn set_reference(&mut self, slot: usize, reference: u64) {
        self.low[slot] = reference as u32;
        self.bits = self.bits & !(3 << (2 * slot)) | ((reference >> 32) as u32) << (2 * slot);
    }

    #[inline]
    fn set_volatile(&mut self, slot: usize, volatile: bool) {
        let bit = VOLATILE_SHIFT + slot;
        self.bits = self.bits & !(1 << bit) | (volatile as u32) << bit;
    }

    /// One bit per slot that has this tag.
    #[inline(always)]
    fn matches(&self, tag: u8) -> Mask {
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
    fn has_fresh(&self) -> bool {
        self.matches(FRESH).0 != 0
    }

    /// The slots that hold an entry.
    fn taken(&self) -> impl Iterator<Item = usize> {
        (0..SLOTS_PER_BUCKET).filter(|&slot| self.tags[slot] > TOMBSTONE)
    }
}

/// Slots of a bucket as bits.
struct Mask(u32);

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

type Buckets = [Bucket; BUCKETS];

/// Bytes of a slot, and what a bucket has besides.
pub const SLOT_BYTES: usize = size_of::<Bucket>().div_ceil(SLOTS_PER_BUCKET);
/// Bytes of one segment.
const SEGMENT_BYTES: usize = size_of::<Buckets>();

/// What is known of a segment.
#[derive(Clone, Copy, Debug)]
struct Head {
    /// The least hash that belongs here.
    first: u64,
    /// When it is worth while to look for expired entries here; `u64::MAX` is never.
    look_at: u64,
    /// How many high bits of the hash all entries here share.
    depth: u16,
    taken: u16,
    tombstones: u16,
    /// The generation that the marks here are of ([`Table::begin_generation`]).
    generation: u16,
}

/// Where an entry is: valid until the table changes.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    segment: u32,
    bucket: u16,
    slot: u16,
}

/// A directory of twice the size, as far as it is filled.
struct Doubling {
    directory: Grown<u32>,
}

/// Keys to entries. The caller gives the hash with each key, always of the same function.
pub struct Table {
    /// Segments by the high bits of the hash; empty as long as there is none.
    directory: Grown<u32>,
    doubling: Option<Doubling>,
    depth: u32,
    /// How far a hash, already shifted by one, is shifted further for its place in the directory (depth 0 is all the way).
    shift: u32,
    segments: Grown<Buckets>,
    heads: Grown<Head>,
    /// Segments as deep as the directory.
    deepest: usize,
    len: usize,
    volatile: usize,
    /// The segment that merging looks at next.
    merge_at: usize,
    /// Kept for its memory: what is moved when segments split and merge.
    moved: Vec<Slot>,
    /// Insertions since the last split.
    since_split: u32,
    generation: u16,
    /// Segments whose marks are of the generation before.
    stale: usize,
    /// Where the arena of the entries begins.
    base: u64,
}

impl Table {
    /// An empty table: no memory until the first insertion.
    pub fn new() -> Table {
        Table {
            directory: Grown::new(DIRECTORY_BYTES_MAX),
            doubling: None,
            depth: 0,
            shift: 63,
            segments: Grown::new(SEGMENTS_BYTES_MAX),
            heads: Grown::new(HEADS_BYTES_MAX),
            deepest: 0,
            len: 0,
            volatile: 0,
            merge_at: 0,
            moved: Vec::new(),
            since_split: 0,
            generation: 0,
            stale: 0,
            base: 0,
        }
    }

    /// Entries, expired ones included.
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Entries that have an expiry time.
    #[inline]
    pub fn volatile(&self) -> usize {
        self.volatile
    }

    /// Segments there are.
    pub fn segments(&self) -> usize {
        self.heads.len()
    }

    /// Bytes that it can still grow by.
    pub fn room_bytes(&self) -> usize {
        self.segments.room_bytes()
    }

    /// Bytes of the table itself, entries not included.
    pub fn memory_bytes(&self) -> usize {
        let next = self.doubling.as_ref().map_or(0, |doubling| doubling.directory.bytes());
        self.directory.bytes() + next + self.segments.bytes() + self.heads.bytes()
    }

    #[inline(always)]
    fn index_of(&self, hash: u64) -> usize {
        (hash >> 1 >> self.shift) as usize
    }

    #[inline(always)]
    fn segment_of(&self, hash: u64) -> Option<u32> {
        self.directory.get(self.index_of(hash)).copied()
    }

    #[inline(always)]
    fn bucket_pointer(&self, segment: u32, bucket: usize) -> NonNull<Bucket> {
        debug_assert!((segment as usize) < self.segments.len() && bucket < BUCKETS);
        // SAFETY: the directory, and places, name segments that are there; a bucket is below BUCKETS.
        unsafe { self.segments.first().cast::<Bucket>().add(segment as usize * BUCKETS + bucket) }
    }

    #[inline(always)]
    fn bucket(&self, segment: u32, bucket: usize) -> &Bucket {
        // SAFETY: see bucket_pointer; only marks change while &self is borrowed, through Cells.
        unsafe { self.bucket_pointer(segment, bucket).as_ref() }
    }

    #[inline(always)]
    fn bucket_mut(&mut self, place: Place) -> &mut Bucket {
        // SAFETY: see bucket_pointer; &mut self is exclusive.
        unsafe { self.bucket_pointer(place.segment, place.bucket as usize).as_mut() }
    }

    #[inline(always)]
    fn address(&self, reference: u64) -> u64 {
        self.base + reference * ALIGN as u64
    }

    fn reference(&self, entry: Entry) -> u64 {
        let reference = (entry.into_raw() - self.base) / ALIGN as u64;
        debug_assert!(reference < 1 << 34);
        reference
    }

    #[inline(always)]
    fn entry_at(&self, reference: u64) -> EntryRef<'_> {
        // SAFETY: references in the table are of live entries, and &self keeps the table from changing.
        unsafe { EntryRef::from_raw(self.address(reference)) }
    }

    /// Asks the processor for the bucket of `hash`.
    #[inline]
    pub fn prefetch_bucket(&self, hash: u64) {
        if let Some(segment) = self.segment_of(hash) {
            prefetch(self.bucket_pointer(segment, bucket_of(hash)).as_ptr().cast());
        }
    }

    /// Asks the processor for the entry that `hash` most probably means; its bucket should have arrived.
    #[inline]
    pub fn prefetch_entry(&self, hash: u64) {
        let Some(segment) = self.segment_of(hash) else { return };
        let bucket = self.bucket(segment, bucket_of(hash));
        if let Some(slot) = bucket.matches(tag_of(hash)).next() {
            prefetch_entry(self.address(bucket.reference(slot)));
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
            let bucket = self.bucket(segment, index);
            for slot in bucket.matches(tag) {
                if matches(self.entry_at(bucket.reference(slot))) {
                    return Some(Place { segment, bucket: index as u16, slot: slot as u16 });
                }
            }
            if bucket.has_fresh() {
                return None;
            }
            index = (index + 1) % BUCKETS;
        }
        None
    }

    /// The entry at a place just found.
    #[inline]
    pub fn entry(&self, place: Place) -> EntryRef<'_> {
        self.entry_at(self.bucket(place.segment, place.bucket as usize).reference(place.slot as usize))
    }

    /// The mark at a place just found.
    #[inline(always)]
    pub fn mark(&self, place: Place) -> &Cell<u8> {
        let bucket = self.bucket_pointer(place.segment, place.bucket as usize);
        // SAFETY: the slot is below SLOTS_PER_BUCKET. A Cell<u8> is laid out as a u8; marks change through it alone, and
        // no reference to a bucket outlives the method that made it.
        unsafe { &*(&raw const (*bucket.as_ptr()).marks[place.slot as usize]).cast::<Cell<u8>>() }
    }

    /// Whether the mark at a place is of this generation: others say nothing.
    #[inline(always)]
    pub fn is_renewed(&self, place: Place) -> bool {
        self.stale == 0 || self.heads[place.segment as usize].generation == self.generation
    }

    /// From now on marks mean something else: each segment's are given anew by [`Table::renew`].
    pub fn begin_generation(&mut self) {
        // Marks older than the generation that ends are taken to be of it: neither say anything now. So two generations at
        // most are about at a time, and no slot is looked at.
        self.heads.iter_mut().for_each(|head| head.generation = self.generation);
        self.generation = self.generation.wrapping_add(1);
        self.stale = self.heads.len();
    }

    /// Whether any segment's marks are of an old generation.
    pub fn is_stale(&self) -> bool {
        self.stale > 0
    }

    /// Gives every entry of a segment a mark of this generation, unless they have one.
    pub fn renew(&mut self, segment: usize, mut mark: impl FnMut(u8) -> u8) {
        let head = &mut self.heads[segment];
        if head.generation == self.generation {
            return;
        }
        head.generation = self.generation;
        self.stale -= 1;
        for bucket in &mut self.segments[segment] {
            for slot in (0..SLOTS_PER_BUCKET).filter(|&slot| bucket.tags[slot] > TOMBSTONE) {
                bucket.marks[slot] = mark(bucket.marks[slot]);
            }
        }
    }

    /// The segment where a hash belongs, if it has old marks.
    pub fn stale_segment(&self, hash: u64) -> Option<usize> {
        let segment = self.segment_of(hash).filter(|_| self.stale > 0)? as usize;
        (self.heads[segment].generation != self.generation).then_some(segment)
    }

    /// Says whether the entry at a place just found has an expiry time, and which; 0 is none.
    pub fn set_expiry(&mut self, place: Place, expire_ms: u64) {
        let bucket = self.bucket_mut(place);
        let before = bucket.is_volatile(place.slot as usize);
        bucket.set_volatile(place.slot as usize, expire_ms != 0);
        self.volatile = self.volatile + (expire_ms != 0) as usize - before as usize;
        self.look_at(place.segment, expire_ms);
    }

    /// Makes sure that a segment is looked at when this time comes.
    #[inline]
    fn look_at(&mut self, segment: u32, expire_ms: u64) {
        if expire_ms != 0 {
            let head = &mut self.heads[segment as usize];
            head.look_at = head.look_at.min(expire_ms);
        }
    }

    /// Changes the entry at a place just found. The change may give back an entry that replaces it; then the old one is
    /// returned.
    #[inline]
    pub fn change<R>(
        &mut self,
        place: Place,
        change: impl FnOnce(&mut Entry) -> (R, Option<Entry>),
    ) -> (R, Option<Entry>) {
        let address = self.entry(place).address();
        // SAFETY: the place holds a live entry; ours alone, because of &mut self.
        let mut entry = std::mem::ManuallyDrop::new(unsafe { Entry::from_raw(address) });
        let (result, moved) = change(&mut entry);
        if let Some(moved) = moved {
            let reference = self.reference(moved);
            self.bucket_mut(place).set_reference(place.slot as usize, reference);
            return (result, Some(std::mem::ManuallyDrop::into_inner(entry)));
        }
        (result, None)
    }

    /// Names the new place of an entry that was moved.
    pub fn relocate(&mut self, old: u64, moved: Entry, rehash: &impl Fn(EntryRef) -> u64) {
        let hash = rehash(moved.as_ref());
        let place = self.find_by(hash, |entry| entry.address() == old).expect("every entry is in the table");
        let reference = self.reference(moved);
        self.bucket_mut(place).set_reference(place.slot as usize, reference);
    }

    /// Takes the entry at a place just found out of the table.
    #[inline]
    pub fn remove(&mut self, place: Place) -> Entry {
        let address = self.entry(place).address();
        let slot = place.slot as usize;
        let bucket = self.bucket_mut(place);
        // A bucket that has a fresh slot was never full, so nothing has spilled past it.
        let never_full = bucket.has_fresh();
        bucket.tags[slot] = if never_full { FRESH } else { TOMBSTONE };
        let volatile = bucket.is_volatile(slot);
        let head = &mut self.heads[place.segment as usize];
        head.taken -= 1;
        head.tombstones += !never_full as u16;
        self.len -= 1;
        self.volatile -= volatile as usize;
        // SAFETY: the slot owned this entry and no longer names it.
        unsafe { Entry::from_raw(address) }
    }

    /// Adds an entry whose key is not in the table, with its mark and its expiry time (0 is none); its segment has no old
    /// marks. `base` is where the arena of all entries begins; `rehash` gives the hash of any entry's key.
    pub fn insert(
        &mut self,
        hash: u64,
        entry: Entry,
        base: NonNull<u8>,
        mark: u8,
        expire_ms: u64,
        rehash: &impl Fn(EntryRef) -> u64,
    ) {
        if self.directory.is_empty() {
            self.base = base.as_ptr().addr() as u64;
            self.add_segment(Head {
                first: 0,
                look_at: u64::MAX,
                depth: 0,
                taken: 0,
                tombstones: 0,
                generation: self.generation,
            });
            self.directory.push(0);
            self.deepest = 1;
        }
        debug_assert_eq!(self.base, base.as_ptr().addr() as u64);
        let mut segment = self.segment_of(hash).expect("the directory is not empty");
        self.since_split = self.since_split.saturating_add(1);
        while self.wants_split(segment) && self.split(segment, rehash) {
            self.since_split = 0;
            segment = self.segment_of(hash).expect("splitting keeps the directory full");
        }
        let head = self.heads[segment as usize];
        assert!(
            (head.taken as usize) < SPLIT_AT_MOST + TOMBSTONES_MAX,
            "more equal hash prefixes than a segment holds"
        );
        if head.tombstones as usize > TOMBSTONES_MAX {
            self.rebuild(segment, rehash);
        }
        let reference = self.reference(entry);
        self.put(segment, hash, Slot { reference, mark, volatile: expire_ms != 0 });
        self.look_at(segment, expire_ms);
        self.len += 1;
        self.volatile += (expire_ms != 0) as usize;
    }

    #[inline]
    fn wants_split(&self, segment: u32) -> bool {
        let taken = self.heads[segment as usize].taken as usize;
        taken >= SPLIT_AT && (self.since_split >= SPLIT_PACE || taken >= SPLIT_AT_MOST)
    }

    /// Memory that would be good to have filled soon.
    pub fn take_ahead(&mut self) -> Option<Ahead> {
        self.segments.take_ahead()
    }

    fn add_segment(&mut self, head: Head) -> u32 {
        let segment = self.heads.len() as u32;
        self.heads.push(head);
        self.segments.push([Bucket::EMPTY; BUCKETS]);
        segment
    }

    /// Puts an entry into the first free slot from its bucket on.
    fn put(&mut self, segment: u32, hash: u64, held: Slot) {
        let mut index = bucket_of(hash);
        loop {
            let bucket = self.bucket_mut(Place { segment, bucket: index as u16, slot: 0 });
            // There is never one of each: tombstones are where the bucket was full.
            let free = bucket.matches(FRESH).next().or_else(|| bucket.matches(TOMBSTONE).next());
            if let Some(slot) = free {
                let was_tombstone = bucket.tags[slot] == TOMBSTONE;
                bucket.tags[slot] = tag_of(hash);
                bucket.marks[slot] = held.mark;
                bucket.set_reference(slot, held.reference);
                bucket.set_volatile(slot, held.volatile);
                let head = &mut self.heads[segment as usize];
                head.tombstones -= was_tombstone as u16;
                head.taken += 1;
                return;
            }
            index = (index + 1) % BUCKETS;
        }
    }

    /// Empties a segment and gives what was there.
    fn take_all(&mut self, segment: u32) -> Vec<Slot> {
        let buckets = &mut self.segments[segment as usize];
        let mut held = std::mem::take(&mut self.moved);
        held.clear();
        held.extend(buckets.iter().flat_map(|bucket| bucket.taken().map(|slot| bucket.get(slot))));
        buckets.fill(Bucket::EMPTY);
        let head = &mut self.heads[segment as usize];
        (head.taken, head.tombstones) = (0, 0);
        held
    }

    /// Calls `visit` with each of `held` and its hash, asking for entries a few steps ahead.
    fn rehash_all(
        &mut self,
        held: Vec<Slot>,
        rehash: &impl Fn(EntryRef) -> u64,
        mut visit: impl FnMut(&mut Table, u64, Slot),
    ) {
        const AHEAD: usize = 16;
        for (at, &slot) in held.iter().enumerate() {
            if let Some(ahead) = held.get(at + AHEAD) {
                prefetch(self.address(ahead.reference) as *const u8);
            }
            let hash = rehash(self.entry_at(slot.reference));
            visit(self, hash, slot);
        }
        self.moved = held;
    }

    /// Puts every entry of a segment back where it belongs, without tombstones.
    fn rebuild(&mut self, segment: u32, rehash: &impl Fn(EntryRef) -> u64) {
        let held = self.take_all(segment);
        self.rehash_all(held, rehash, |table, hash, slot| table.put(segment, hash, slot));
    }

    /// Names a segment wherever the directory has its hashes.
    fn enter_in_directory(&mut self, segment: u32) {
        let head = self.heads[segment as usize];
        let run = 1usize << (self.depth - u32::from(head.depth));
        let start = self.index_of(head.first);
        self.directory[start..start + run].fill(segment);
        if let Some(Doubling { directory }) = &mut self.doubling {
            let filled = directory.len();
            directory[(start * 2).min(filled)..((start + run) * 2).min(filled)].fill(segment);
        }
    }

    /// Splits a segment in two. False if the depth is exhausted.
    fn split(&mut self, segment: u32, rehash: &impl Fn(EntryRef) -> u64) -> bool {
        let depth = u32::from(self.heads[segment as usize].depth);
        if depth == DEPTH_MAX {
            return false;
        }
        if depth == self.depth {
            self.double(usize::MAX);
        }
        let held = self.take_all(segment);
        let upper_bit = 1u64 << (63 - depth);
        let head = &mut self.heads[segment as usize];
        head.depth += 1;
        let upper_head = Head { first: head.first | upper_bit, ..*head };
        let upper = self.add_segment(upper_head);
        self.deepest += if depth + 1 == self.depth { 2 } else { 0 };
        self.enter_in_directory(upper);
        self.rehash_all(held, rehash, |table, hash, slot| {
            table.put(if hash & upper_bit != 0 { upper } else { segment }, hash, slot);
        });
        // Most segments split at about the same size, so when half are as deep as the directory it will soon be doubled.
        if self.doubling.is_some() || self.deepest * 2 >= self.heads.len() && self.heads.len() > DOUBLE_STEP {
            self.double(DOUBLE_STEP);
        }
        true
    }

    /// Fills up to `count` more entries of the directory of twice the size, which takes over when it is full.
    fn double(&mut self, count: usize) {
        if self.depth == DEPTH_MAX {
            return;
        }
        let doubling = self.doubling.get_or_insert_with(|| Doubling { directory: Grown::new(DIRECTORY_BYTES_MAX) });
        let next = &mut doubling.directory;
        let from = next.len() / 2;
        for &segment in self.directory[from..].iter().take(count) {
            next.push(segment);
            next.push(segment);
        }
        // Not before it is needed: until then the smaller one is better to have in the cache.
        if next.len() == self.directory.len() * 2 && count == usize::MAX {
            self.directory = self.doubling.take().expect("just filled").directory;
            self.depth += 1;
            self.shift -= 1;
            self.deepest = 0;
        }
    }

    /// Merges neighbours that are nearly empty: looks at up to `count` segments, merges one pair at most. True if it did.
    pub fn merge_slice(&mut self, count: usize, rehash: &impl Fn(EntryRef) -> u64) -> bool {
        if self.stale > 0 {
            return false;
        }
        for _ in 0..count.min(self.heads.len()) {
            self.merge_at = (self.merge_at + 1) % self.heads.len();
            if (self.heads[self.merge_at].taken as usize) < MERGE_AT && self.merge(self.merge_at as u32, rehash) {
                return true;
            }
        }
        false
    }

    /// Merges a segment with the one that it was split from, or that was split from it.
    fn merge(&mut self, segment: u32, rehash: &impl Fn(EntryRef) -> u64) -> bool {
        let head = self.heads[segment as usize];
        if head.depth == 0 {
            return false;
        }
        let bit = 1u64 << (64 - head.depth);
        let other = self.segment_of(head.first ^ bit).expect("the directory is full");
        let other_head = self.heads[other as usize];
        if other_head.depth != head.depth || (head.taken + other_head.taken) as usize > MERGE_AT {
            return false;
        }
        let (stays, goes) = if head.taken < other_head.taken { (other, segment) } else { (segment, other) };
        self.deepest -= if u32::from(head.depth) == self.depth { 2 } else { 0 };
        let merged = &mut self.heads[stays as usize];
        merged.depth -= 1;
        merged.first &= !bit;
        merged.look_at = head.look_at.min(other_head.look_at);
        if merged.tombstones as usize > TOMBSTONES_MAX / 2 {
            self.rebuild(stays, rehash);
        }
        let held = self.take_all(goes);
        self.rehash_all(held, rehash, |table, hash, slot| table.put(stays, hash, slot));
        self.enter_in_directory(stays);
        // The last one takes the place of the one that goes.
        let last_head = self.heads.pop().expect("two were merged");
        let last_buckets = self.segments.pop().expect("as many as heads");
        if (goes as usize) < self.heads.len() {
            self.heads[goes as usize] = last_head;
            self.segments[goes as usize] = last_buckets;
            self.enter_in_directory(goes);
        }
        true
    }

    /// Visits entries from `position` on, at least `count` of them unless the end comes first, and gives the next
    /// position, or `None` at the end.
    ///
    /// A position is a bucket and the high [`DEPTH_MAX`] bits of a hash: the first bucket of every segment is visited in
    /// hash order, then the second of every segment, and so on. Everything present from the first call to the last is
    /// visited at least once: its bucket in the segment never changes, and when a segment splits or two merge between
    /// two calls, the same hashes are still ahead (or are visited again).
    pub fn scan(
        &self,
        position: u64,
        count: usize,
        rehash: &impl Fn(EntryRef) -> u64,
        mut visit: impl FnMut(EntryRef),
    ) -> Option<u64> {
        let mut prefix = position & ((1 << DEPTH_MAX) - 1);
        let mut bucket = (position >> DEPTH_MAX) as usize;
        let mut visited = 0;
        // Empty stretches are bounded too: a call looks at no more than this many buckets.
        let mut buckets_left = count.saturating_mul(10).max(BUCKETS);
        while bucket < BUCKETS {
            let segment = self.segment_of(prefix << (64 - DEPTH_MAX))?;
            if visited >= count || buckets_left == 0 {
                return Some((bucket as u64) << DEPTH_MAX | prefix);
            }
            buckets_left -= 1;
            self.for_each_at_home(segment, bucket, rehash, |entry| {
                visited += 1;
                visit(entry);
            });
            // The next segment begins where this one's range of prefixes ends.
            let width = 1u64 << (DEPTH_MAX - u32::from(self.heads[segment as usize].depth));
            prefix = (prefix & !(width - 1)) + width;
            if prefix == 1 << DEPTH_MAX {
                prefix = 0;
                bucket += 1;
            }
        }
        None
    }

    /// Visits the entries whose own bucket is `home`, wherever they spilled.
    fn for_each_at_home(
        &self,
        segment: u32,
        home: usize,
        rehash: &impl Fn(EntryRef) -> u64,
        mut visit: impl FnMut(EntryRef),
    ) {
        let mut index = home;
        for _ in 0..BUCKETS {
            let bucket = self.bucket(segment, index);
            for slot in bucket.taken() {
                let entry = self.entry_at(bucket.reference(slot));
                if bucket_of(rehash(entry)) == home {
                    visit(entry);
                }
            }
            if bucket.has_fresh() {
                return;
            }
            index = (index + 1) % BUCKETS;
        }
    }

    /// Goes through the slots of buckets from a hand's position on, in storage order, until the visitor says so or
    /// `buckets` are done, and gives the next position; it is [`Table::buckets`] or more once all were seen. With
    /// `volatile_only`, segments where nothing expires are passed over. What merges meanwhile may be seen twice or not.
    pub fn sweep(
        &self,
        hand: usize,
        buckets: usize,
        volatile_only: bool,
        mut visit: impl FnMut(Place, u8, bool) -> bool,
    ) -> usize {
        let (mut at, mut left) = (hand, buckets);
        while at < self.buckets() && left > 0 {
            let (segment, index) = ((at / BUCKETS) as u32, at % BUCKETS);
            left -= 1;
            if volatile_only && self.heads[segment as usize].look_at == u64::MAX {
                at += BUCKETS - index;
                continue;
            }
            at += 1;
            // A copy, because the visitor may set marks.
            let bucket = *self.bucket(segment, index);
            let mut enough = false;
            for slot in bucket.taken() {
                let place = Place { segment, bucket: index as u16, slot: slot as u16 };
                enough |= visit(place, bucket.marks[slot], bucket.is_volatile(slot));
            }
            if enough {
                break;
            }
        }
        at
    }

    /// Most entries that a hand meets between two positions.
    pub const SLOTS_PER_BUCKET: usize = SLOTS_PER_BUCKET;

    /// The position of a hand that comes to this place next.
    pub fn hand_at(place: Place) -> usize {
        place.segment as usize * BUCKETS + place.bucket as usize
    }

    /// Buckets there are: what a hand goes through.
    pub fn buckets(&self) -> usize {
        self.heads.len() * BUCKETS
    }

    /// Asks the processor for the entry at a place.
    pub fn prefetch_at(&self, place: Place) {
        let bucket = self.bucket(place.segment, place.bucket as usize);
        prefetch_entry(self.address(bucket.reference(place.slot as usize)));
    }

    /// The first of `count` segments from `from` on where it is time to look for expired entries.
    pub fn due_segment(&self, from: usize, count: usize, now_ms: u64) -> Option<usize> {
        let end = (from + count).min(self.heads.len());
        (from.min(end)..end).find(|&segment| self.heads[segment].look_at <= now_ms)
    }

    /// Sets when a segment is to be looked at; `u64::MAX` is never. An expiry time that is set afterwards moves it forward.
    pub fn set_look_at(&mut self, segment: usize, look_at: u64) {
        self.heads[segment].look_at = look_at;
    }

    /// The places of a segment whose entries have an expiry time. Asks the processor for these entries.
    pub fn volatile_places(&self, segment: usize, places: &mut Vec<Place>) {
        places.clear();
        for index in 0..BUCKETS {
            let bucket = self.bucket(segment as u32, index);
            if bucket.bits >> VOLATILE_SHIFT == 0 {
                continue;
            }
            places.extend(bucket.taken().filter(|&slot| bucket.is_volatile(slot)).map(|slot| {
                prefetch(self.address(bucket.reference(slot)) as *const u8);
                Place { segment: segment as u32, bucket: index as u16, slot: slot as u16 }
            }));
        }
    }

    /// An entry chosen by `random`, near enough to uniform: a random bucket, and the next ones while they are empty.
    pub fn sample(&self, random: u64) -> Option<EntryRef<'_>> {
        if self.len == 0 {
            return None;
        }
        let all = self.buckets();
        let start = (random >> 16) as usize % all;
        let first = random as usize % SLOTS_PER_BUCKET;
        for step in 0..all {
            let at = (start + step) % all;
            let bucket = self.bucket((at / BUCKETS) as u32, at % BUCKETS);
            let mut slots = (0..SLOTS_PER_BUCKET).map(|slot| (first + slot) % SLOTS_PER_BUCKET);
            if let Some(slot) = slots.find(|&slot| bucket.tags[slot] > TOMBSTONE) {
                return Some(self.entry_at(bucket.reference(slot)));
            }
        }
        None
    }

    /// Forgets a run of segments, for a table that is given up in slices: the arena frees its entries. True when nothing
    /// is left.
    pub fn free_some(&mut self) -> bool {
        self.len = 0;
        self.volatile = 0;
        self.doubling = None;
        if !self.segments.drop_run() {
            return false;
        }
        let mut fresh = Table::new();
        std::mem::swap(self, &mut fresh);
        true
    }
}

impl Default for Table {
    fn default() -> Self {
        Table::new()
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

/// Eight bits of the hash, but never a value that says that a slot is free.
#[inline]
fn tag_of(hash: u64) -> u8 {
    ((hash >> BUCKET_BITS) as u8).max(TOMBSTONE + 1)
}

/// Asks for an entry; a short one that straddles cache lines needs both.
#[inline(always)]
fn prefetch_entry(address: u64) {
    prefetch(address as *const u8);
    if !address.is_multiple_of(64) {
        prefetch((address + 64) as *const u8);
    }
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

#[cfg(test)]
mod tests;
