//! What must be true of a table after any history ([`Table::check`]), and how evenly ordinary keys fill it.

use super::*;

impl Table {
    /// Panics unless segments, slots and directories agree with each other, and no entry with an expiry time is left out
    /// when its segment is looked at, at most `lag_ms` after it is due. Returns the marks of all segments that have those
    /// of this generation.
    pub fn check(&self, lag_ms: u64, rehash: &impl Fn(EntryRef) -> u64) -> Vec<u8> {
        self.check_directory();
        let (mut len, mut volatile, mut marks) = (0, 0, Vec::new());
        for (segment, head) in self.heads.iter().enumerate() {
            let (mut taken, mut tombstones, mut first_due) = (0, 0, u64::MAX);
            for index in 0..BUCKETS {
                let bucket = self.bucket(segment as u32, index);
                let removed = bucket.matches(TOMBSTONE).count();
                assert!(removed == 0 || !bucket.has_fresh(), "a bucket with tombstones was full");
                tombstones += removed;
                for slot in bucket.taken() {
                    let place = Place { segment: segment as u32, bucket: index as u16, slot: slot as u16 };
                    first_due = first_due.min(self.check_slot(place, rehash));
                    taken += 1;
                    volatile += bucket.is_volatile(slot) as usize;
                    if self.is_renewed(place) {
                        marks.push(bucket.marks[slot]);
                    }
                }
            }
            assert_eq!((head.taken as usize, head.tombstones as usize), (taken, tombstones));
            assert!(head.look_at <= first_due.saturating_add(lag_ms), "would never be found, or too late");
            len += taken;
        }
        assert_eq!((self.len, self.volatile), (len, volatile));
        marks
    }

    /// Checks one slot that is taken, and returns when its entry expires.
    fn check_slot(&self, place: Place, rehash: &impl Fn(EntryRef) -> u64) -> u64 {
        let (entry, slot) = (self.entry(place), place.slot as usize);
        let bucket = self.bucket(place.segment, place.bucket as usize);
        let hash = rehash(entry);
        assert_eq!(bucket.tags[slot], tag_of(hash));
        assert_eq!(bucket.is_volatile(slot), entry.expire_ms() != 0);
        let found = self.find(hash, entry.key()).expect("it can be found");
        assert_eq!(
            (found.segment, found.bucket, found.slot),
            (place.segment, place.bucket, place.slot),
            "no key is there twice"
        );
        if entry.expire_ms() == 0 { u64::MAX } else { entry.expire_ms() }
    }

    /// The part of [`Table::check`] that is about segments and directories.
    pub fn check_directory(&self) {
        assert_eq!(self.heads.len(), self.segments.len());
        assert_eq!(self.shift, 63 - self.depth);
        assert_eq!(self.directory.len(), if self.heads.is_empty() { 0 } else { 1 << self.depth });
        let mut runs = 0;
        for (segment, head) in self.heads.iter().enumerate() {
            let run = 1usize << (self.depth - u32::from(head.depth));
            let start = self.index_of(head.first);
            assert_eq!(head.first & (u64::MAX >> head.depth), 0, "the least hash of its segment");
            assert!(self.directory[start..start + run].iter().all(|&named| named == segment as u32));
            runs += run;
        }
        assert_eq!(runs, self.directory.len());
        if let Some(Doubling { directory }) = &self.doubling {
            assert!(directory.len() <= 2 * self.directory.len());
            assert!(directory.iter().enumerate().all(|(index, &segment)| segment == self.directory[index / 2]));
        }
        let deepest = self.heads.iter().filter(|head| u32::from(head.depth) == self.depth).count();
        let stale = self.heads.iter().filter(|head| head.generation != self.generation).count();
        assert_eq!((self.deepest, self.stale), (deepest, stale));
    }

    /// The depth of the directory, and whether the next one is partly filled.
    pub fn depth(&self) -> (u32, bool) {
        let filled = self.doubling.as_ref().map_or(0, |doubling| doubling.directory.len());
        (self.depth, (1..2 * self.directory.len()).contains(&filled))
    }

    /// Buckets that a lookup of each entry's key reads, on average.
    pub fn probes(&self, rehash: &impl Fn(EntryRef) -> u64) -> f64 {
        let mut read = 0;
        for at in 0..self.buckets() {
            let bucket = self.bucket((at / BUCKETS) as u32, at % BUCKETS);
            for slot in bucket.taken() {
                let home = bucket_of(rehash(self.entry_at(bucket.reference(slot))));
                read += (at + BUCKETS - home) % BUCKETS + 1;
            }
        }
        read as f64 / self.len as f64
    }
}
