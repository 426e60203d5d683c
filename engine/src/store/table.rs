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
//! of microseconds, however large the table is. Two that have become sparse are one again ([`Table::merge_slice`]), and
//! the last takes the place of the one that is gone, so segments lie together. When that is:
//!
//! ```text
//! entries of two neighbours together   0 ............ 780 ............ 1040 ........
//!                                      always merge   | merge after    | never: as one
//!                                                     | the table      | they would split
//!                                                     | shrank         |
//! ```
//!
//! Keys that come and go at random make the number in a segment waver by some 30. In a table of steady size segments
//! split here and there because of that, and what has just split must not merge because of it: hence the gap. But a table
//! from which half of the entries go has to become the one that the others alone would have made. So once an eighth is
//! gone of the entries that there were when a segment split last, all neighbours merge that can be one, until as many
//! splits as one for every 16 segments say that the table no longer shrinks. What that costs a table that goes up and
//! down is in proportion to what comes and goes.
//!
//! The directory doubles a few entries at a time while segments split. It is indexed by the *high* bits of the hash, so
//! directory order is hash order and a scan position stays meaningful while segments split and merge ([`Table::scan`]).
//! (Extendible hashing: Fagin et al., TODS 1979; small segments with a bucket per cache line: Dash, Lu et al., VLDB 2020,
//! and Dragonfly's table.)
#![allow(unsafe_code)]

mod bucket;
mod grow;
mod walk;

use std::cell::Cell;
use std::ptr::NonNull;

use self::bucket::{Bucket, FRESH, Slot, TOMBSTONE, VOLATILE_SHIFT, bucket_of, prefetch, prefetch_entry, tag_of};
use super::arena::{ALIGN, ARENA_BYTES_MAX};
use super::entry::{Entry, EntryRef};
use super::space::Grown;

const BUCKETS: usize = 128;
const SLOTS_PER_BUCKET: usize = 10;
const SLOTS: usize = BUCKETS * SLOTS_PER_BUCKET;
/// A segment splits when more of its slots are taken, unless another did so within the last [`SPLIT_PACE`] insertions: they
/// all fill at the same time, and one turn should not split many of them.
const SPLIT_AT: usize = SLOTS * 13 / 16;
const SPLIT_PACE: u32 = 48;
/// With so many it splits however many did.
const SPLIT_AT_MOST: usize = SLOTS * 7 / 8;
/// Two neighbours with no more than this together become one at any time.
const MERGE_AT: usize = SPLIT_AT * 3 / 4;
/// And with no more than this while the table shrinks.
const MERGE_AT_MOST: usize = SPLIT_AT - 1;
/// The table shrinks once this part of its entries is gone, until one split for so many segments.
const SHRUNK_PART: usize = 8;
const SHRINK_PART: usize = 16;
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
const SEGMENTS_MAX: usize = SEGMENTS_BYTES_MAX / SEGMENT_BYTES;

const _: () =
    assert!(BUCKETS.is_power_of_two() && size_of::<Bucket>() == 64 && VOLATILE_SHIFT + SLOTS_PER_BUCKET <= 32);
const _: () = assert!(SPLIT_AT_MOST + TOMBSTONES_MAX < SLOTS, "a lookup must find a fresh slot");
const _: () = assert!(ARENA_BYTES_MAX / ALIGN == 1 << 34);

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
    /// Most entries there were when a segment split, since the table shrank last.
    full_len: usize,
    /// Splits until the table no longer counts as shrinking; 0 is when it does not.
    shrink_splits: usize,
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
            full_len: 0,
            shrink_splits: 0,
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
            self.make(0, base);
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

#[cfg(test)]
mod tests;
