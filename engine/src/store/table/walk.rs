//! Going through a table: scans by clients, hands of eviction and tidying, the search for what is due, samples.

use std::cell::Cell;

use super::bucket::{TOMBSTONE, VOLATILE_SHIFT, bucket_of, prefetch, prefetch_entry};
use super::{BUCKETS, DEPTH_MAX, Place, SLOTS_PER_BUCKET, Table};
use crate::planted::{Bug, is_planted};
use crate::store::entry::EntryRef;

impl Table {
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
            let mut width = 1u64 << (DEPTH_MAX - u32::from(self.heads[segment as usize].depth));
            if is_planted(Bug::ScanSkips) && self.shrink_splits > 0 {
                width = (width * 2).min(1 << DEPTH_MAX);
            }
            prefix = (prefix & !(width - 1)) + width;
            if prefix == 1 << DEPTH_MAX {
                prefix = 0;
                bucket += 1;
            }
        }
        None
    }

    /// Visits the entries whose own bucket is `home`, wherever they spilled.
    pub(super) fn for_each_at_home(
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

    /// As [`Table::sweep`], but visits only slots whose mark is `wanted`, which is 1 for those, and otherwise 0.
    pub fn sweep_marked(
        &self,
        hand: usize,
        buckets: usize,
        wanted: &[Cell<u8>; 256],
        mut visit: impl FnMut(Place, u8) -> bool,
    ) -> usize {
        let end = self.buckets().min(hand.saturating_add(buckets));
        for at in hand..end {
            let (segment, index) = ((at / BUCKETS) as u32, at % BUCKETS);
            let bucket = self.bucket(segment, index);
            // A copy, because the visitor may set marks.
            let (slots, marks) = (bucket.marked(wanted), bucket.marks);
            let mut enough = false;
            for slot in slots {
                enough |= visit(Place { segment, bucket: index as u16, slot: slot as u16 }, marks[slot]);
            }
            if enough {
                return at + 1;
            }
        }
        end.max(hand)
    }

    /// Most entries that a hand meets between two positions.
    pub const SLOTS_PER_BUCKET: usize = SLOTS_PER_BUCKET;

    /// The position of a hand that comes to this place next.
    pub fn hand_at(place: Place) -> usize {
        place.segment as usize * BUCKETS + place.bucket as usize
    }

    /// A hand's position after a sweep: at the beginning again if that came to the end.
    pub fn around(&self, position: usize) -> usize {
        if position >= self.buckets() { 0 } else { position }
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
}
