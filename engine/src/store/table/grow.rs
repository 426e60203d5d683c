//! How a table grows and shrinks: segments split and merge, the directory doubles, each in steps that take tens of
//! microseconds at most.

use std::ptr::NonNull;

use super::bucket::{Bucket, FRESH, Slot, TOMBSTONE, bucket_of, prefetch, tag_of};
use super::{
    BUCKETS, DEPTH_MAX, DIRECTORY_BYTES_MAX, DOUBLE_STEP, Doubling, Head, MERGE_AT, MERGE_AT_MOST, Place, SEGMENTS_MAX,
    SHRINK_PART, SHRUNK_PART, SPLIT_AT, SPLIT_AT_MOST, SPLIT_PACE, TOMBSTONES_MAX, Table,
};
use crate::store::entry::EntryRef;
use crate::store::space::{Ahead, Grown};

impl Table {
    #[inline]
    pub(super) fn wants_split(&self, segment: u32) -> bool {
        let taken = self.heads[segment as usize].taken as usize;
        taken >= SPLIT_AT && (self.since_split >= SPLIT_PACE || taken >= SPLIT_AT_MOST)
    }

    /// Memory that would be good to have filled soon.
    pub fn take_ahead(&mut self) -> Option<Ahead> {
        self.segments.take_ahead()
    }

    /// Makes an empty table with as many segments as so many entries need. `base` is where the arena of all entries begins.
    pub fn reserve(&mut self, entries: u64, base: NonNull<u8>) {
        assert!(self.directory.is_empty());
        // Some segments have more than others, by a hundred; none should have to split.
        let each = (SPLIT_AT * 7 / 8) as u64;
        let segments = entries.div_ceil(each).clamp(1, SEGMENTS_MAX as u64 / 2).next_power_of_two();
        self.make(segments.trailing_zeros(), base);
        self.full_len = entries as usize;
    }

    /// Makes all segments of an empty table of this depth.
    pub(super) fn make(&mut self, depth: u32, base: NonNull<u8>) {
        self.base = base.as_ptr().addr() as u64;
        (self.depth, self.shift) = (depth, 63 - depth);
        let (look_at, taken, tombstones, generation) = (u64::MAX, 0, 0, self.generation);
        for segment in 0..1u64 << depth {
            // The first has no bit set, in a table with one segment too.
            let first = (segment << 1) << (63 - depth);
            self.add_segment(Head { first, look_at, depth: depth as u16, taken, tombstones, generation });
            self.directory.push(segment as u32);
        }
        self.deepest = self.heads.len();
    }

    pub(super) fn add_segment(&mut self, head: Head) -> u32 {
        let segment = self.heads.len() as u32;
        self.heads.push(head);
        self.segments.push([Bucket::EMPTY; BUCKETS]);
        segment
    }

    /// Puts an entry into the first free slot from its bucket on.
    pub(super) fn put(&mut self, segment: u32, hash: u64, held: Slot) {
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
    pub(super) fn take_all(&mut self, segment: u32) -> Vec<Slot> {
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
    pub(super) fn rehash_all(
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
    pub(super) fn rebuild(&mut self, segment: u32, rehash: &impl Fn(EntryRef) -> u64) {
        let held = self.take_all(segment);
        self.rehash_all(held, rehash, |table, hash, slot| table.put(segment, hash, slot));
    }

    /// Names a segment wherever the directory has its hashes.
    pub(super) fn enter_in_directory(&mut self, segment: u32) {
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
    pub(super) fn split(&mut self, segment: u32, rehash: &impl Fn(EntryRef) -> u64) -> bool {
        let depth = u32::from(self.heads[segment as usize].depth);
        if depth == DEPTH_MAX {
            return false;
        }
        self.note_split();
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
    pub(super) fn double(&mut self, count: usize) {
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

    /// Remembers how many entries the segments are there for, and whether the table still shrinks.
    fn note_split(&mut self) {
        if self.shrink_splits == 0 {
            self.full_len = self.full_len.max(self.len);
            return;
        }
        self.shrink_splits -= 1;
        if self.shrink_splits == 0 {
            self.full_len = self.len;
        }
    }

    /// Merges neighbours that are sparse, see [`super`]: looks at up to `count` segments and takes one step at most, which
    /// takes no longer than a split. True if it did.
    pub fn merge_slice(&mut self, count: usize, rehash: &impl Fn(EntryRef) -> u64) -> bool {
        if self.stale > 0 {
            return false;
        }
        if self.shrink_splits == 0 && self.len < self.full_len - self.full_len / SHRUNK_PART {
            self.shrink_splits = 1 + self.heads.len() / SHRINK_PART;
        }
        let most = if self.shrink_splits > 0 { MERGE_AT_MOST } else { MERGE_AT };
        for _ in 0..count.min(self.heads.len()) {
            let segment = if self.merge_at < self.heads.len() { self.merge_at } else { 0 };
            self.merge_at = segment;
            // One of two that can be merged has no more than half.
            if self.heads[segment].taken as usize <= most / 2 && self.merge(segment as u32, most, rehash) {
                // It is looked at again: it may be rebuilt and not merged yet, or another may have taken its place.
                return true;
            }
            self.merge_at += 1;
        }
        false
    }

    /// Merges a segment with the one that it was split from, or that was split from it, if they have no more than `most`
    /// entries together; or rebuilds one of them first. False if nothing was done.
    fn merge(&mut self, segment: u32, most: usize, rehash: &impl Fn(EntryRef) -> u64) -> bool {
        let head = self.heads[segment as usize];
        if head.depth == 0 {
            return false;
        }
        let bit = 1u64 << (64 - head.depth);
        let other = self.segment_of(head.first ^ bit).expect("the directory is full");
        let other_head = self.heads[other as usize];
        if other_head.depth != head.depth || (head.taken + other_head.taken) as usize > most {
            return false;
        }
        let (stays, goes) = if head.taken < other_head.taken { (other, segment) } else { (segment, other) };
        if self.heads[stays as usize].tombstones as usize > TOMBSTONES_MAX / 2 {
            // This takes as long as merging: a step of its own.
            self.rebuild(stays, rehash);
            return true;
        }
        self.deepest -= if u32::from(head.depth) == self.depth { 2 } else { 0 };
        let merged = &mut self.heads[stays as usize];
        merged.depth -= 1;
        merged.first &= !bit;
        merged.look_at = head.look_at.min(other_head.look_at);
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
}
