//! Which keyspaces the numbers of databases lead to, and how that changes: a flush gives numbers fresh keyspaces, a swap
//! exchanges two.
//!
//! The changes are counted, and happen on all shards in one order, so a number says which layout is meant on every shard.
//! Whatever a store is rebuilt from (snapshots and logs, of several shards, that a crash ended at different moments) tells
//! the whole layout with its number, and the highest number is right: a flush or a swap that one shard had done, and
//! another not yet, is completed.

use super::{EntryRef, Keyspace, Store, hash_of};
use crate::log::Layout;
use crate::planted::{Bug, is_planted};

/// A keyspace of one shard. It stays with its data when databases are swapped, and ends when they are flushed. The same on
/// all shards, as what changes it happens on all in one order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeyspaceId(pub u32);

/// There are no more ids for keyspaces: some four billion databases were flushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyspacesExhausted;

/// A layout apart from a store, and from a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Databases {
    /// How many changes there were; 0 is what a new store has.
    pub number: u64,
    /// The id of the next fresh keyspace.
    pub next_keyspace: u32,
    /// The keyspaces by the number of the database.
    pub keyspaces: Vec<KeyspaceId>,
}

/// Keyspaces cannot be what they are said to have been.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyspacesRefused {
    #[error("there were {0} databases, and there are not as many")]
    Databases(usize),
    #[error("the ids of keyspaces contradict each other")]
    Ids,
}

impl Store {
    /// The keyspace that a database's number leads to.
    pub fn keyspace_id(&self, db: u8) -> KeyspaceId {
        self.keyspaces[db as usize].id
    }

    /// The number of the database that leads to a keyspace now; None when it was flushed.
    pub fn database_of(&self, id: KeyspaceId) -> Option<u8> {
        self.keyspaces.iter().position(|keyspace| keyspace.id == id).map(|db| db as u8)
    }

    /// The layout as it is.
    pub fn layout(&self) -> Databases {
        let keyspaces = self.keyspaces.iter().map(|keyspace| keyspace.id).collect();
        Databases { number: self.layout_number, next_keyspace: self.next_id, keyspaces }
    }

    /// Makes the layout what it became with a later change, if it is one: keyspaces that no number leads to any more are
    /// flushed. Databases that there were not get fresh keyspaces. An error changes nothing.
    pub fn adopt(&mut self, layout: &Databases) -> Result<(), KeyspacesRefused> {
        let Databases { number, next_keyspace, ref keyspaces } = *layout;
        let fresh =
            self.keyspaces.len().checked_sub(keyspaces.len()).ok_or(KeyspacesRefused::Databases(keyspaces.len()))?;
        let end = next_keyspace.checked_add(fresh as u32).ok_or(KeyspacesRefused::Ids)?;
        let twice = keyspaces.iter().enumerate().any(|(at, id)| keyspaces[..at].contains(id));
        if twice || keyspaces.iter().any(|id| id.0 >= next_keyspace) {
            return Err(KeyspacesRefused::Ids);
        }
        let mut ids = keyspaces.clone();
        ids.extend((next_keyspace..end).map(KeyspaceId));
        if number == self.layout_number {
            let is_same = self.next_id == end && self.keyspaces.iter().map(|keyspace| keyspace.id).eq(ids);
            return if is_same { Ok(()) } else { Err(KeyspacesRefused::Ids) };
        }
        if number > self.layout_number {
            self.change_layout(number, end, &ids);
        }
        Ok(())
    }

    /// Exchanges what two databases' numbers lead to.
    pub fn swap(&mut self, one: u8, other: u8) {
        let mut ids = self.layout().keyspaces;
        ids.swap(one as usize, other as usize);
        self.change_layout(self.layout_number + 1, self.next_id, &ids);
        self.counters.changes += 1;
    }

    /// Empties databases at once, each of which gets a fresh keyspace; the memory of the old ones is freed in slices
    /// ([`Store::free_slice`]). A snapshot that still has entries of theirs to save is given up. An error changes nothing.
    pub fn clear(&mut self, databases: std::ops::Range<usize>) -> Result<(), KeyspacesExhausted> {
        let count = u32::try_from(databases.len()).map_err(|_| KeyspacesExhausted)?;
        let end = self.next_id.checked_add(count).ok_or(KeyspacesExhausted)?;
        let mut ids = self.layout().keyspaces;
        ids[databases].iter_mut().zip(self.next_id..end).for_each(|(id, fresh)| *id = KeyspaceId(fresh));
        self.change_layout(self.layout_number + 1, end, &ids);
        Ok(())
    }

    /// Numbers lead to these keyspaces, one for each; what none leads to any more is garbage.
    fn change_layout(&mut self, number: u64, next_id: u32, ids: &[KeyspaceId]) {
        let mut old: Vec<Option<Keyspace>> = self.keyspaces.drain(..).map(Some).collect();
        for &id in ids {
            let kept = old.iter_mut().find(|old| old.as_ref().is_some_and(|old| old.id == id)).and_then(Option::take);
            self.keyspaces.push(kept.unwrap_or_else(|| {
                let mut fresh = Keyspace::new(id, self.policy, self.lfu, self.prefault);
                fresh.arena.set_epoch(self.observers.snapshot.epoch());
                fresh
            }));
        }
        for Keyspace { id, table, arena, outside, .. } in old.into_iter().flatten() {
            self.counters.changes += table.len() as u64;
            self.observers.snapshot.handle_flush(id, table.len(), &mut self.observers.garbage);
            let hasher = &self.hasher;
            self.observers
                .garbage
                .flush(table, arena, outside.big_values, &|entry: EntryRef| hash_of(hasher, entry.key()));
        }
        (self.layout_number, self.next_id) = (number, next_id);
        let ids = Layout::encode(ids.iter().copied());
        if is_planted(Bug::LayoutNotLogged) {
            return;
        }
        self.observers.log.layout(Layout::new(number, next_id, &ids));
    }
}
