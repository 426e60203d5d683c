//! What the store tells the log: each change as an effect, at the place where it happens, and which keys have changes that
//! are not durable yet.
//!
//! Under `appendfsync always` a reply leaves when all that it observed is durable. What a read of one key observed is the
//! last change of that key, if that is not durable; so the keys of such changes are remembered, by a hash of their own.
//! When all up to some change are durable, those remembered before are forgotten in one go: there are two generations, of
//! the batch that is being written and of what came after it. A key that only shares its hash with a changed one waits
//! with it, which is harmless.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher};

use ahash::RandomState;

use super::{Journal, Layout, Lsn};
use crate::store::KeyspaceId;

/// The log of one shard as its store sees it.
pub struct ChangeLog {
    journal: Journal,
    hasher: RandomState,
    undurable: Option<Box<Undurable>>,
}

/// Keys with changes that are not durable, by generation: the older was there when the newer was begun.
struct Undurable {
    older: HashMap<u64, Lsn, RandomState>,
    newer: HashMap<u64, Lsn, RandomState>,
    /// The last change when the newer generation was begun.
    newer_since: Lsn,
    /// The last change that concerned all keys, or the last when nothing was remembered yet.
    unknown_until: Lsn,
}

impl ChangeLog {
    /// A log that is off. `hasher` is for keys.
    pub fn new(hasher: RandomState) -> ChangeLog {
        ChangeLog { journal: Journal::off(), hasher, undurable: None }
    }

    /// The log, to be written.
    pub fn journal(&mut self) -> &mut Journal {
        &mut self.journal
    }

    /// Whether anything is logged.
    #[inline(always)]
    pub fn is_on(&self) -> bool {
        self.journal.is_on()
    }

    /// Whether replies wait for the disk: then changed keys are remembered from now on, and whoever reads any other key that
    /// was changed before waits for all.
    pub fn set_waiting(&mut self, waits: bool) {
        if waits != self.undurable.is_some() {
            let last = self.journal.last_lsn();
            let table = || HashMap::with_hasher(self.hasher.clone());
            self.undurable = waits.then(|| {
                Box::new(Undurable { older: table(), newer: table(), newer_since: last, unknown_until: last })
            });
        }
    }

    /// Whether replies wait for the disk.
    #[inline(always)]
    pub fn is_waiting(&self) -> bool {
        self.undurable.is_some()
    }

    /// The last change.
    pub fn last_lsn(&self) -> Lsn {
        self.journal.last_lsn()
    }

    /// Up to which change all are durable.
    pub fn durable_lsn(&self) -> Lsn {
        self.journal.durable_lsn()
    }

    /// Bytes of records that are not written yet.
    #[inline(always)]
    pub fn pending_bytes(&self) -> usize {
        self.journal.pending_bytes()
    }

    /// The change that whoever reads this key observes, if that may not be durable yet; zero otherwise.
    pub fn observed(&self, keyspace: KeyspaceId, key: &[u8]) -> Lsn {
        let Some(undurable) = &self.undurable else { return Lsn(0) };
        let hash = hash_of(&self.hasher, keyspace, key);
        let found = undurable.newer.get(&hash).or_else(|| undurable.older.get(&hash)).copied();
        let unknown = Some(undurable.unknown_until).filter(|&until| until > self.journal.durable_lsn());
        found.max(unknown).unwrap_or(Lsn(0))
    }

    /// To be called when more has become durable.
    pub fn forget_durable(&mut self) {
        let (durable, last) = (self.journal.durable_lsn(), self.journal.last_lsn());
        if let Some(undurable) = &mut self.undurable
            && durable >= undurable.newer_since
        {
            let Undurable { older, newer, newer_since, .. } = &mut **undurable;
            std::mem::swap(older, newer);
            newer.clear();
            *newer_since = last;
            if durable >= last {
                older.clear();
            }
        }
    }

    /// A key has this value from now on, until `expire_ms` (0: for ever).
    #[inline]
    pub fn set(&mut self, keyspace: KeyspaceId, key: &[u8], value: &[u8], expire_ms: u64) {
        if self.is_on() {
            self.journal.set(keyspace, key, value, expire_ms, None);
            self.note(keyspace, key);
        }
    }

    /// A key is gone.
    #[inline]
    pub fn remove(&mut self, keyspace: KeyspaceId, key: &[u8]) {
        if self.is_on() {
            self.journal.remove(keyspace, key);
            self.note(keyspace, key);
        }
    }

    /// A key expires at this time, or never if it is 0.
    #[inline]
    pub fn expire(&mut self, keyspace: KeyspaceId, key: &[u8], expire_ms: u64) {
        if self.is_on() {
            self.journal.expire(keyspace, key, expire_ms, None);
            self.note(keyspace, key);
        }
    }

    /// Bytes of a value were written; what is missing before them is zeros.
    #[inline]
    pub fn write_at(&mut self, keyspace: KeyspaceId, key: &[u8], offset: usize, bytes: &[u8]) {
        if self.is_on() {
            self.journal.write_at(keyspace, key, offset as u64, bytes, None);
            self.note(keyspace, key);
        }
    }

    /// The numbers of databases lead to these keyspaces.
    pub fn layout(&mut self, layout: Layout<'_>) {
        if self.is_on() {
            self.journal.layout(layout);
            self.note_all();
        }
    }

    /// Whoever reads any key from now on observes the last change.
    fn note_all(&mut self) {
        if let Some(undurable) = &mut self.undurable {
            undurable.unknown_until = self.journal.last_lsn();
        }
    }

    #[inline]
    fn note(&mut self, keyspace: KeyspaceId, key: &[u8]) {
        if let Some(undurable) = &mut self.undurable {
            undurable.newer.insert(hash_of(&self.hasher, keyspace, key), self.journal.last_lsn());
        }
    }
}

fn hash_of(hasher: &RandomState, keyspace: KeyspaceId, key: &[u8]) -> u64 {
    let mut hasher = hasher.build_hasher();
    hasher.write(key);
    hasher.write_u32(keyspace.0);
    hasher.finish()
}
