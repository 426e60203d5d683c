//! Filling a store from a snapshot.

use super::{Key, Keyspace, KeyspaceId, Store};
use crate::id::Millis;
use crate::limits;
use crate::snapshot::LoadedEntry;

/// No number of a database leads to this keyspace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no database has the keyspace {}", .0.0)]
pub struct UnknownKeyspace(pub KeyspaceId);

/// Keyspaces cannot be what they were.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyspacesRefused {
    #[error("there are keys already")]
    NotEmpty,
    #[error("there were {0} databases, and there are not as many")]
    Databases(usize),
    #[error("the ids of keyspaces contradict each other")]
    Ids,
}

impl Store {
    /// Makes the table of an empty keyspace as large as so many entries will make it, so that nothing has to be moved while
    /// they are added. This takes as long as filling the memory of the table.
    pub fn reserve(&mut self, keyspace: KeyspaceId, entries: u64) -> Result<(), UnknownKeyspace> {
        let db = self.database_of(keyspace).ok_or(UnknownKeyspace(keyspace))?;
        let Keyspace { table, arena, .. } = &mut self.keyspaces[db as usize];
        if entries > 0 && table.segments() == 0 {
            table.reserve(entries, arena.reserve());
        }
        Ok(())
    }

    /// Gives the databases of an empty store the keyspaces that they had, by number, and says which id is the next.
    /// Databases that there were not get fresh ones.
    pub fn restore_keyspaces(&mut self, ids: &[KeyspaceId], next: u32) -> Result<(), KeyspacesRefused> {
        if self.keyspaces.iter().any(|keyspace| keyspace.table.len() > 0) {
            return Err(KeyspacesRefused::NotEmpty);
        }
        if ids.len() > self.keyspaces.len() {
            return Err(KeyspacesRefused::Databases(ids.len()));
        }
        let twice = ids.iter().enumerate().any(|(number, id)| ids[..number].contains(id));
        let fresh = (self.keyspaces.len() - ids.len()) as u32;
        if twice || ids.iter().any(|id| id.0 >= next) {
            return Err(KeyspacesRefused::Ids);
        }
        self.next_id = next.checked_add(fresh).ok_or(KeyspacesRefused::Ids)?;
        let ids = ids.iter().copied().chain((next..self.next_id).map(KeyspaceId));
        self.keyspaces.iter_mut().zip(ids).for_each(|(keyspace, id)| keyspace.id = id);
        Ok(())
    }

    /// Adds entries of a snapshot. Whether their time has come is not asked. Those of a database that the store does not have
    /// are an error; entries before the first of them are there.
    pub fn load(&mut self, entries: &[LoadedEntry<'_>], now: Millis) -> Result<(), UnknownKeyspace> {
        for entries in entries.chunks(limits::SNAPSHOT_LOAD_ENTRIES) {
            let mut places = [(0u8, 0u64); limits::SNAPSHOT_LOAD_ENTRIES];
            let mut last = None;
            for (entry, place) in entries.iter().zip(&mut places) {
                let db = match last {
                    Some((keyspace, db)) if keyspace == entry.keyspace => db,
                    _ => self.database_of(entry.keyspace).ok_or(UnknownKeyspace(entry.keyspace))?,
                };
                last = Some((entry.keyspace, db));
                let hash = self.hash(entry.key);
                self.prefetch_bucket(db, hash);
                *place = (db, hash);
            }
            for (entry, (db, hash)) in entries.iter().zip(places) {
                self.load_one(Key { db, hash, bytes: entry.key }, entry, now);
            }
        }
        Ok(())
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
