//! Filling a store from snapshots.

use super::{Databases, Key, Keyspace, KeyspaceId, KeyspacesRefused, Store};
use crate::id::Millis;
use crate::limits;
use crate::snapshot::{Header, LoadedEntry};

impl Store {
    /// Makes the table of an empty keyspace as large as so many entries will make it, so that nothing has to be moved while
    /// they are added. This takes as long as filling the memory of the table.
    pub fn reserve(&mut self, keyspace: KeyspaceId, entries: u64) {
        let Some(db) = self.database_of(keyspace) else { return };
        let Keyspace { table, arena, .. } = &mut self.keyspaces[db as usize];
        if entries > 0 && table.segments() == 0 {
            table.reserve(entries, arena.reserve());
        }
    }

    /// Gives the databases the keyspaces that they had when a snapshot was begun, unless the store knows later ones.
    pub fn restore_keyspaces(&mut self, header: &Header) -> Result<(), KeyspacesRefused> {
        self.adopt(&Databases {
            number: header.layout,
            next_keyspace: header.next_keyspace,
            keyspaces: header.keyspaces.iter().map(|keyspace| keyspace.id).collect(),
        })
    }

    /// Adds entries of a snapshot, those of keys that `owns` says are here. Whether their time has come is not asked. Those
    /// of a keyspace that no number leads to any more are passed over.
    pub fn load(&mut self, entries: &[LoadedEntry<'_>], now: Millis, mut owns: impl FnMut(&[u8]) -> bool) {
        for entries in entries.chunks(limits::SNAPSHOT_LOAD_ENTRIES) {
            let mut places = [None; limits::SNAPSHOT_LOAD_ENTRIES];
            let mut last = None;
            for (entry, place) in entries.iter().zip(&mut places) {
                let db = match last {
                    Some((keyspace, db)) if keyspace == entry.keyspace => db,
                    _ => self.database_of(entry.keyspace),
                };
                last = Some((entry.keyspace, db));
                if let Some(db) = db.filter(|_| owns(entry.key)) {
                    let hash = self.hash(entry.key);
                    self.prefetch_bucket(db, hash);
                    *place = Some((db, hash));
                }
            }
            for (entry, place) in entries.iter().zip(places) {
                if let Some((db, hash)) = place {
                    self.load_one(Key { db, hash, bytes: entry.key }, entry, now);
                }
            }
        }
    }

    #[inline]
    fn load_one(&mut self, key: Key<'_>, entry: &LoadedEntry<'_>, now: Millis) {
        // A key that is there twice, which no snapshot has, would be there for ever.
        if let Some(place) = self.keyspaces[key.db as usize].table.find(key.hash, key.bytes) {
            self.remove_at(key.db, place);
        }
        self.insert_with(key, entry.value, entry.expire_ms, entry.version, now);
    }
}
