//! Rebuilding a store from what its log says. Records are redone as they are: expiry is judged by nobody before the last
//! of them, because a later one may lift it.

use super::{Databases, Expiry, Key, KeyspaceId, NewValue, Store, is_expired};
use crate::id::Millis;
use crate::limits;
use crate::log::{Lsn, Record};
use crate::planted::{Bug, is_planted};

/// A time at which nothing has expired.
const NEVER_EXPIRED: Millis = Millis(0);

impl Store {
    /// Redoes changes, in order: those of keys that `owns` says are here, and those of databases. What belongs to a keyspace
    /// that no number leads to any more is passed over. Some tens of records at a time hide the latency of memory. What is new
    /// counts as used at `now`.
    pub fn redo(&mut self, records: &[(Lsn, Record<'_>)], now: Millis, mut owns: impl FnMut(&[u8]) -> bool) {
        let mut known: Option<(KeyspaceId, Option<u8>)> = None;
        let mut found = |store: &Store, keyspace: KeyspaceId| match known {
            Some((id, db)) if id == keyspace => db,
            _ => {
                let db = store.database_of(keyspace);
                known = Some((keyspace, db));
                db
            }
        };
        // Where databases are flushed or swapped meanwhile, the numbers that were looked up are worth nothing.
        if records.iter().any(|(_, record)| matches!(record, Record::Layout(_))) {
            for (_, record) in records {
                let key = self.key_of(record, |store, id| store.database_of(id)).filter(|key| owns(key.bytes));
                self.redo_one(record, key, now);
            }
            return;
        }
        let keys: Vec<Option<Key<'_>>> = records
            .iter()
            .map(|(_, record)| self.key_of(record, &mut found).filter(|key| owns(key.bytes)))
            .inspect(|key| {
                if let Some(key) = key {
                    self.prefetch_bucket(key.db, key.hash);
                }
            })
            .collect();
        keys.iter().flatten().for_each(|key| self.prefetch_entry(key.db, key.hash));
        for ((_, record), key) in records.iter().zip(keys) {
            self.redo_one(record, key, now);
        }
    }

    fn key_of<'a>(
        &self,
        record: &Record<'a>,
        mut database_of: impl FnMut(&Store, KeyspaceId) -> Option<u8>,
    ) -> Option<Key<'a>> {
        match *record {
            Record::Set { keyspace, key, .. }
            | Record::Remove { keyspace, key }
            | Record::Expire { keyspace, key, .. }
            | Record::WriteAt { keyspace, key, .. } => Some(self.key(database_of(self, keyspace)?, key)),
            Record::Layout(_) | Record::Transaction(_) => None,
        }
    }

    fn redo_one(&mut self, record: &Record<'_>, key: Option<Key<'_>>, used_at: Millis) {
        let now = NEVER_EXPIRED;
        match (*record, key) {
            (Record::Set { value, expire_ms, version, .. }, Some(key)) => {
                let expiry = if expire_ms == 0 { Expiry::Never } else { Expiry::At(Millis(expire_ms)) };
                match self.peek(key, now) {
                    Some(_) => self.set(key, NewValue::from(value), expiry, now),
                    None => self.insert_with(key, NewValue::from(value), expire_ms, version, used_at),
                }
            }
            (Record::Remove { .. }, Some(key)) => {
                self.remove(key, now);
            }
            (Record::Expire { expire_ms, .. }, Some(key)) => {
                self.set_expiry(key, Some(Millis(expire_ms)).filter(|at| at.0 > 0), now);
            }
            // What was there may have been evicted since.
            (Record::WriteAt { offset, bytes, .. }, Some(key)) if self.peek(key, now).is_some() => {
                let offset = offset.saturating_sub(u64::from(is_planted(Bug::RedoneAtWrongOffset)));
                self.write_at(key, offset as usize, bytes, now);
            }
            (Record::Layout(layout), _) => {
                let keyspaces = layout.keyspaces().collect();
                let (number, next_keyspace) = (layout.number, layout.next_keyspace);
                // One that cannot be is not one that a store has logged.
                let _ = self.adopt(&Databases { number, next_keyspace, keyspaces });
            }
            _ => {}
        }
    }

    /// Frees a slice of what was flushed and replaced, big values included: about 50 µs of work and one value. True if there is
    /// more.
    pub fn free_redone_slice(&mut self) -> bool {
        let more = self.free_slice();
        let Some(value) = self.poll_garbage() else { return more };
        let bytes = value.len() as u64;
        drop(value);
        self.garbage_freed(1, bytes);
        true
    }

    /// From now on the removal of a key that is absent is logged, too: keys were evicted that what the log goes on from still
    /// has, so that after a restart they would come back although clients have deleted them. False: until now, when a
    /// snapshot was taken without them.
    pub fn log_all_removals(&mut self, all: bool) {
        self.logs_all_removals = all;
    }

    /// A client was told that a key is absent that it wanted to be.
    #[inline]
    pub(super) fn log_absence(&mut self, key: Key<'_>) {
        if self.logs_all_removals && !is_planted(Bug::AbsenceNotLogged) {
            self.observers.log.remove(self.keyspaces[key.db as usize].id, key.bytes);
        }
    }

    /// Removes some of what was due at `now`, which is not before what the log says the clock had reached. `from` says where
    /// that goes on, and is 0 at first. True if there is more to look at.
    pub fn drop_due_slice(&mut self, from: &mut (u8, u64), now: Millis) -> bool {
        let (db, position) = *from;
        if usize::from(db) == self.databases() {
            return false;
        }
        let (mut due, mut next) = (Vec::new(), None);
        if self.expiring(db) > 0 {
            let hasher = &self.hasher;
            let rehash = |entry: super::EntryRef| super::hash_of(hasher, entry.key());
            let table = &self.keyspaces[db as usize].table;
            next = table.scan(position, limits::REDO_END_SLICE_KEYS, &rehash, |entry| {
                if is_expired(entry, now) {
                    due.push(rehash(entry));
                }
            });
        }
        for hash in due {
            let table = &self.keyspaces[db as usize].table;
            if let Some(place) = table.find_by(hash, |entry| is_expired(entry, now)) {
                self.remove_at(db, place);
                self.dropped_due += 1;
            }
        }
        *from = next.map_or((db + 1, 0), |next| (db, next));
        true
    }

    /// Ends the rebuilding: counters begin.
    pub fn end_redo(&mut self) {
        self.reset_counters();
        self.counters.changes = 0;
    }
}
