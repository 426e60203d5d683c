//! Counts again what a store counts as it goes, for whoever judges it: its tests, and the simulator. Each of these walks over
//! everything that there is.

use super::{EntryRef, KeyspaceId, Outside, Store, StoreMemory, hash_of};

impl Store {
    /// Shows every entry that is held, expired or not.
    pub fn for_each(&self, mut visit: impl FnMut(KeyspaceId, EntryRef<'_>)) {
        let rehash = |entry: EntryRef<'_>| hash_of(&self.hasher, entry.key());
        for keyspace in &self.keyspaces {
            keyspace.table.scan(0, usize::MAX, &rehash, |entry| visit(keyspace.id, entry));
        }
    }

    /// Panics unless all that is counted of entries and of memory is what a walk finds.
    pub fn audit(&self) {
        let rehash = |entry: EntryRef<'_>| hash_of(&self.hasher, entry.key());
        let mut sum = StoreMemory::default();
        for keyspace in &self.keyspaces {
            let (mut slots, mut outside, mut entries, mut expiring) = (0, Outside::default(), 0, 0);
            keyspace.table.scan(0, usize::MAX, &rehash, |entry| {
                slots += entry.memory_bytes() - entry.outside().bytes;
                outside.change(Outside::default(), entry.outside());
                entries += 1;
                expiring += usize::from(entry.expire_ms() > 0);
            });
            assert_eq!(keyspace.table.len(), entries, "entries of keyspace {}", keyspace.id.0);
            assert_eq!(keyspace.table.volatile(), expiring, "entries of keyspace {} that expire", keyspace.id.0);
            assert_eq!(keyspace.arena.used_bytes(), slots, "bytes of slots of keyspace {}", keyspace.id.0);
            assert_eq!(keyspace.outside, outside, "bytes outside the slots of keyspace {}", keyspace.id.0);
            assert!(keyspace.arena.held_bytes() >= slots, "what is used of keyspace {} is held", keyspace.id.0);
            if keyspace.table.segments() > 0 {
                sum.slots += slots;
                sum.outside += outside.bytes;
                sum.tables += keyspace.table.memory_bytes() + keyspace.marks.memory_bytes();
                sum.slack += keyspace.arena.held_bytes() - slots;
            }
        }
        assert_eq!(self.memory(), sum);
    }
}
