//! The keyspaces of one shard: what is stored, until when, and how much memory it takes. No replies, no commands.
//!
//! [`Store`] is the whole interface, and it is safe: [`entry`] lays one key and value out in memory, which
//! [`arena`] manages, and [`table`] finds it.
//! Everything is told the time; an entry whose time has come reads as absent. What a reader finds expired goes to a
//! bounded reap list that [`Store::reap`] empties at the end of the turn; what nobody reads is found by
//! [`Store::expire_slice`]. Every change is counted ([`Store::changes`]); the log will be told at the same place.

mod arena;
mod entry;
pub mod eviction;
mod table;

use std::cell::{Cell, RefCell};
use std::hash::{BuildHasher, Hasher};

use ahash::RandomState;

use arena::Arena;
use entry::Entry;
pub use entry::{EntryRef, NewValue, Value};
pub use eviction::Policy;
use table::{Place, Table};

use crate::id::Millis;
use crate::limits;

/// Bits of a scan position on one shard ([`Store::scan`]).
pub const SCAN_POSITION_BITS: u32 = table::DEPTH_MAX + table::BUCKET_BITS;

/// Bytes of a key's slot in the table.
pub const SLOT_BYTES: usize = 8;

/// Entries that a table forgets in the time that it takes to free one.
const FORGET_PER_FREE: usize = 16;

/// A key with what is known of it: its database and its hash.
#[derive(Clone, Copy, Debug)]
pub struct Key<'a> {
    pub db: u8,
    pub hash: u64,
    pub bytes: &'a [u8],
}

/// What happens to the expiry time of a key that is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expiry {
    /// None from now on.
    Never,
    /// At this time.
    At(Millis),
    /// As it was.
    Keep,
}

#[derive(Default)]
struct Keyspace {
    table: Table,
    /// Entries that have an expiry time.
    expiring: usize,
    /// Where its entries lie.
    arena: Arena,
    /// Bytes of the slots that its entries take.
    slot_bytes: usize,
    /// Bytes that entries own outside the arena.
    outside_bytes: usize,
    /// Where the next look for a key to evict begins, when chance does not find one.
    evict_position: u64,
    /// Where the next expiry slice looks.
    expire_position: u64,
}

/// Counts of what happened to keys, for `INFO`.
#[derive(Clone, Copy, Debug, Default)]
pub struct StoreCounters {
    /// Changes since the start (`rdb_changes_since_last_save`).
    pub changes: u64,
    /// Keys removed because their time had come.
    pub expired: u64,
    /// Keys removed because memory was short.
    pub evicted: u64,
    /// Reads that found their key, and reads that did not.
    pub hits: u64,
    pub misses: u64,
}

/// Bytes of one shard's data by what they are for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreMemory {
    /// Slots of entries: keys, values up to 16 KiB, headers, what rounding costs.
    pub slots: usize,
    /// Values that are longer.
    pub outside: usize,
    pub tables: usize,
    /// Free slots, and free pages that were not given back: taken from the system and not used.
    pub slack: usize,
}

impl StoreMemory {
    /// What is in use: this is what `maxmemory` is about.
    pub fn used(self) -> usize {
        self.slots + self.outside + self.tables
    }
}

/// The data of one shard.
pub struct Store {
    keyspaces: Vec<Keyspace>,
    hasher: RandomState,
    /// Hashes of entries that a reader found expired, with their database.
    reap: RefCell<Vec<(u8, u64)>>,
    /// Tables and their entries given up by FLUSHDB and FLUSHALL, freed in slices.
    garbage: Vec<(Table, Arena)>,
    counters: StoreCounters,
    hits: Cell<u64>,
    misses: Cell<u64>,
}

impl Store {
    /// An empty store. `seed` keeps clients from choosing keys that collide.
    pub fn new(databases: usize, seed: [u64; 4]) -> Store {
        Store {
            keyspaces: (0..databases).map(|_| Keyspace::default()).collect(),
            hasher: RandomState::with_seeds(seed[0], seed[1], seed[2], seed[3]),
            reap: RefCell::new(Vec::with_capacity(limits::REAP_MAX)),
            garbage: Vec::new(),
            counters: StoreCounters::default(),
            hits: Cell::new(0),
            misses: Cell::new(0),
        }
    }

    /// The hash of a key: the same on every shard of a process, different in every process, never stored or sent.
    #[inline]
    pub fn hash(&self, key: &[u8]) -> u64 {
        hash_of(&self.hasher, key)
    }

    /// A key of database `db`, hashed.
    #[inline]
    pub fn key<'a>(&self, db: u8, bytes: &'a [u8]) -> Key<'a> {
        Key { db, hash: self.hash(bytes), bytes }
    }

    /// Asks the processor for the place of the table where a hash is looked up.
    #[inline]
    pub fn prefetch_bucket(&self, db: u8, hash: u64) {
        self.keyspaces[db as usize].table.prefetch_bucket(hash);
    }

    /// Asks the processor for the entry; [`Store::prefetch_bucket`] should have been called a while before.
    #[inline]
    pub fn prefetch_entry(&self, db: u8, hash: u64) {
        self.keyspaces[db as usize].table.prefetch_entry(hash);
    }

    /// The entry of a key, unless it is absent or expired; counted as a hit or a miss.
    #[inline(always)]
    pub fn get(&self, key: Key<'_>, now: Millis) -> Option<EntryRef<'_>> {
        let found = self.peek(key, now);
        let counter = if found.is_some() { &self.hits } else { &self.misses };
        counter.set(counter.get() + 1);
        found
    }

    /// As [`Store::get`], for commands that write: not counted.
    #[inline(always)]
    pub fn peek(&self, key: Key<'_>, now: Millis) -> Option<EntryRef<'_>> {
        let table = &self.keyspaces[key.db as usize].table;
        let entry = table.entry(table.find(key.hash, key.bytes)?);
        if is_expired(entry, now) {
            let mut reap = self.reap.borrow_mut();
            if reap.len() < limits::REAP_MAX {
                reap.push((key.db, key.hash));
            }
            return None;
        }
        Some(entry)
    }

    /// The place of a key for a writer: an expired entry is removed first.
    #[inline]
    fn find_mut(&mut self, key: Key<'_>, now: Millis) -> Option<Place> {
        let table = &self.keyspaces[key.db as usize].table;
        let place = table.find(key.hash, key.bytes)?;
        if is_expired(table.entry(place), now) {
            self.remove_at(key.db, place);
            self.counters.expired += 1;
            return None;
        }
        Some(place)
    }

    fn remove_at(&mut self, db: u8, place: Place) {
        let keyspace = &mut self.keyspaces[db as usize];
        let entry = keyspace.table.remove(place);
        keyspace.expiring -= (entry.as_ref().expire_ms() != 0) as usize;
        keyspace.outside_bytes -= entry.as_ref().outside_bytes();
        keyspace.slot_bytes -= slot_bytes(entry.as_ref());
        entry.free(&mut keyspace.arena);
    }

    /// Sets a key's value, creating the key if it is absent.
    #[inline]
    pub fn set(&mut self, key: Key<'_>, value: NewValue<'_>, expiry: Expiry, now: Millis) {
        self.counters.changes += 1;
        let Some(place) = self.find_mut(key, now) else {
            return self.insert(key, value, expiry);
        };
        let keyspace = &mut self.keyspaces[key.db as usize];
        let entry = keyspace.table.entry(place);
        let (old_bytes, old_expire) = (entry.outside_bytes(), entry.expire_ms());
        let expire = match expiry {
            Expiry::Never => 0,
            Expiry::At(at) => at.0.max(1),
            Expiry::Keep => old_expire,
        };
        let (new_bytes, old) = keyspace.table.change(place, |entry| {
            if entry.try_set(value, expire) {
                return (entry.as_ref().outside_bytes(), None);
            }
            let moved = Entry::new(&mut keyspace.arena, key.bytes, value, expire);
            keyspace.slot_bytes += slot_bytes(moved.as_ref());
            (moved.as_ref().outside_bytes(), Some(moved))
        });
        keyspace.outside_bytes = keyspace.outside_bytes + new_bytes - old_bytes;
        if let Some(old) = old {
            keyspace.slot_bytes -= slot_bytes(old.as_ref());
            old.free(&mut keyspace.arena);
        }
        keyspace.expiring = keyspace.expiring + (expire != 0) as usize - (old_expire != 0) as usize;
    }

    fn insert(&mut self, key: Key<'_>, value: NewValue<'_>, expiry: Expiry) {
        let expire = match expiry {
            Expiry::Never | Expiry::Keep => 0,
            Expiry::At(at) => at.0.max(1),
        };
        let keyspace = &mut self.keyspaces[key.db as usize];
        let entry = Entry::new(&mut keyspace.arena, key.bytes, value, expire);
        keyspace.outside_bytes += entry.as_ref().outside_bytes();
        keyspace.slot_bytes += slot_bytes(entry.as_ref());
        keyspace.expiring += (expire != 0) as usize;
        let hasher = &self.hasher;
        keyspace.table.insert(key.hash, entry, &|entry: EntryRef| hash_of(hasher, entry.key()));
    }

    /// Removes a key. False if it was absent or expired.
    #[inline]
    pub fn remove(&mut self, key: Key<'_>, now: Millis) -> bool {
        let Some(place) = self.find_mut(key, now) else { return false };
        self.remove_at(key.db, place);
        self.counters.changes += 1;
        true
    }

    /// Sets a present key's expiry; `None` makes it permanent. A time that has come removes the key. False if absent.
    pub fn set_expiry(&mut self, key: Key<'_>, at: Option<Millis>, now: Millis) -> bool {
        let Some(place) = self.find_mut(key, now) else { return false };
        self.counters.changes += 1;
        if at.is_some_and(|at| at <= now) {
            self.remove_at(key.db, place);
            return true;
        }
        let expire = at.map_or(0, |at| at.0.max(1));
        let keyspace = &mut self.keyspaces[key.db as usize];
        let entry = keyspace.table.entry(place);
        let (old_expire, old_bytes) = (entry.expire_ms(), entry.outside_bytes());
        let (new_bytes, old) = keyspace.table.change(place, |entry| {
            let moved = entry.set_expire_ms(&mut keyspace.arena, expire);
            keyspace.slot_bytes += moved.as_ref().map_or(0, |moved| slot_bytes(moved.as_ref()));
            (moved.as_ref().unwrap_or(entry).as_ref().outside_bytes(), moved)
        });
        keyspace.outside_bytes = keyspace.outside_bytes + new_bytes - old_bytes;
        if let Some(old) = old {
            keyspace.slot_bytes -= slot_bytes(old.as_ref());
            old.free(&mut keyspace.arena);
        }
        keyspace.expiring = keyspace.expiring + (expire != 0) as usize - (old_expire != 0) as usize;
        true
    }

    /// Writes `bytes` at `offset` of a value, which is created empty if the key is absent and filled with zeros up to
    /// `offset`. Returns the new length. The caller has checked it against the limit.
    pub fn write_at(&mut self, key: Key<'_>, offset: usize, bytes: &[u8], now: Millis) -> usize {
        let place = match self.find_mut(key, now) {
            Some(place) => place,
            None if offset == 0 => {
                self.counters.changes += 1;
                self.insert(key, NewValue::from(bytes), Expiry::Never);
                return bytes.len();
            }
            None => {
                self.insert(key, NewValue::from(&b""[..]), Expiry::Never);
                self.find_mut(key, now).expect("just inserted")
            }
        };
        self.counters.changes += 1;
        let keyspace = &mut self.keyspaces[key.db as usize];
        let old_bytes = keyspace.table.entry(place).outside_bytes();
        let ((len, new_bytes), old) = keyspace.table.change(place, |entry| {
            let moved = entry.write_at(&mut keyspace.arena, offset, bytes);
            keyspace.slot_bytes += moved.as_ref().map_or(0, |moved| slot_bytes(moved.as_ref()));
            let now = moved.as_ref().unwrap_or(entry).as_ref();
            ((now.value().bytes().len(), now.outside_bytes()), moved)
        });
        keyspace.outside_bytes = keyspace.outside_bytes + new_bytes - old_bytes;
        if let Some(old) = old {
            keyspace.slot_bytes -= slot_bytes(old.as_ref());
            old.free(&mut keyspace.arena);
        }
        len
    }

    /// Keys of a database, those included whose time has come and nobody has noticed.
    pub fn len(&self, db: u8) -> usize {
        self.keyspaces[db as usize].table.len()
    }

    /// Keys of a database that have an expiry time.
    pub fn expiring(&self, db: u8) -> usize {
        self.keyspaces[db as usize].expiring
    }

    /// How many databases there are.
    pub fn databases(&self) -> usize {
        self.keyspaces.len()
    }

    /// Bytes held for entries and tables, what waits to be freed not included.
    pub fn memory_bytes(&self) -> usize {
        let held =
            |keyspace: &Keyspace| keyspace.arena.held_bytes() + keyspace.outside_bytes + keyspace.table.memory_bytes();
        self.keyspaces.iter().map(held).sum()
    }

    /// Bytes of entries and tables, what waits to be freed not included.
    pub fn memory(&self) -> StoreMemory {
        let mut sum = StoreMemory::default();
        // Most databases are never used.
        for keyspace in self.keyspaces.iter().filter(|keyspace| keyspace.table.segments() > 0) {
            sum.slots += keyspace.slot_bytes;
            sum.outside += keyspace.outside_bytes;
            sum.tables += keyspace.table.memory_bytes();
            sum.slack += keyspace.arena.held_bytes().saturating_sub(keyspace.slot_bytes);
        }
        sum
    }

    /// Bytes of a database's table.
    pub fn table_bytes(&self, db: u8) -> usize {
        self.keyspaces[db as usize].table.memory_bytes()
    }

    /// Keys of flushed databases that wait to be freed.
    pub fn pending_free(&self) -> usize {
        self.garbage.iter().map(|(table, _)| table.len()).sum()
    }

    /// Counts since the start.
    pub fn counters(&self) -> StoreCounters {
        StoreCounters { hits: self.hits.get(), misses: self.misses.get(), ..self.counters }
    }

    /// CONFIG RESETSTAT: everything counted but the changes goes back to zero.
    pub fn reset_counters(&mut self) {
        self.counters.expired = 0;
        self.counters.evicted = 0;
        self.hits.set(0);
        self.misses.set(0);
    }

    /// Empties a database at once; its memory is freed in slices ([`Store::free_slice`]).
    pub fn clear(&mut self, db: u8) {
        let old = std::mem::take(&mut self.keyspaces[db as usize]);
        self.counters.changes += old.table.len() as u64;
        // A small table is freed here and now, or a client that fills and flushes fast would stay ahead of the slices.
        if old.table.segments() > 1 && self.garbage.len() < limits::GARBAGE_TABLES_MAX {
            self.garbage.push((old.table, old.arena));
        }
    }

    /// Frees a slice of what was cleared: about 50 µs of work. True if there is more.
    pub fn free_slice(&mut self) -> bool {
        if let Some((table, arena)) = self.garbage.last_mut()
            && table.free_some(limits::FREE_SLICE_ENTRIES * FORGET_PER_FREE)
            && arena.free_some(limits::FREE_SLICE_ENTRIES, arena::GIVE_BACK_PAGES)
        {
            self.garbage.pop();
        }
        !self.garbage.is_empty()
    }

    /// Gives back a slice of the memory that deleted entries leave, moving others where that takes it: about 50 µs of
    /// work. No entry is borrowed meanwhile. True if there is more.
    pub fn compact_slice(&mut self) -> bool {
        let hasher = &self.hasher;
        let rehash = |entry: EntryRef| hash_of(hasher, entry.key());
        let mut more = false;
        for Keyspace { table, arena, .. } in &mut self.keyspaces {
            // One database after another: the others wait while one has something to do.
            more = more
                || Entry::compact_slice(arena, limits::COMPACT_SLICE_BYTES, |old, moved| {
                    table.relocate(old, moved, &rehash);
                });
        }
        more
    }

    /// Visits at least `count` live keys from `position` on (or as many as there are), and gives the next position; 0 is
    /// the beginning, and what is returned at the end. A key that is present from the first call to the one that returns
    /// 0 is visited at least once, whatever else happens in between. Positions are below `1 << SCAN_POSITION_BITS`.
    pub fn scan(&self, db: u8, position: u64, count: usize, now: Millis, mut visit: impl FnMut(EntryRef)) -> u64 {
        let rehash = |entry: EntryRef| hash_of(&self.hasher, entry.key());
        let visit_live = |entry: EntryRef| {
            if !is_expired(entry, now) {
                visit(entry);
            }
        };
        self.keyspaces[db as usize].table.scan(position, count, &rehash, visit_live).unwrap_or(0)
    }

    /// A live key chosen by the random numbers, or `None` if a few tries found only expired ones.
    pub fn random_key(&self, db: u8, now: Millis, mut random: impl FnMut() -> u64) -> Option<&[u8]> {
        let table = &self.keyspaces[db as usize].table;
        (0..limits::RANDOM_KEY_TRIES)
            .filter_map(|_| table.sample(random()))
            .find(|&entry| !is_expired(entry, now))
            .map(|entry| entry.key())
    }

    /// Removes what readers found expired during the turn.
    #[inline]
    pub fn reap(&mut self, now: Millis) {
        if self.reap.get_mut().is_empty() {
            return;
        }
        let mut list = std::mem::take(self.reap.get_mut());
        for (db, hash) in list.drain(..) {
            let table = &self.keyspaces[db as usize].table;
            if let Some(place) = table.find_by(hash, |entry| is_expired(entry, now)) {
                self.remove_at(db, place);
                self.counters.expired += 1;
            }
        }
        *self.reap.get_mut() = list;
    }

    /// Whether any key has an expiry time.
    pub fn has_expiring(&self) -> bool {
        self.keyspaces.iter().any(|keyspace| keyspace.expiring > 0)
    }

    /// Looks at a slice of each database that has keys with an expiry time, and removes what is due. True if so much
    /// was due that another slice should follow soon (Redis's rule: more than a quarter of those looked at).
    pub fn expire_slice(&mut self, now: Millis) -> bool {
        let mut more = false;
        for db in 0..self.keyspaces.len() {
            let keyspace = &self.keyspaces[db];
            if keyspace.expiring == 0 {
                continue;
            }
            let (mut seen, mut due) = (0, Vec::new());
            let hasher = &self.hasher;
            let rehash = |entry: EntryRef| hash_of(hasher, entry.key());
            let next = keyspace.table.scan(keyspace.expire_position, limits::EXPIRE_SLICE_ENTRIES, &rehash, |entry| {
                seen += (entry.expire_ms() != 0) as usize;
                if is_expired(entry, now) {
                    due.push(rehash(entry));
                }
            });
            self.keyspaces[db].expire_position = next.unwrap_or(0);
            more |= due.len() * 4 > seen.max(1);
            for hash in due {
                let table = &self.keyspaces[db].table;
                if let Some(place) = table.find_by(hash, |entry| is_expired(entry, now)) {
                    self.remove_at(db as u8, place);
                    self.counters.expired += 1;
                }
            }
        }
        more
    }

    /// Evicts a few keys, each one that the random numbers choose among those that the policy is about, whatever order it
    /// would have: a few µs of work. False if there is nothing to evict.
    pub fn evict_slice(&mut self, policy: Policy, now: Millis, random: &mut dyn FnMut() -> u64) -> bool {
        let volatile_only = policy.volatile_only();
        let candidate = |entry: EntryRef| !volatile_only || entry.expire_ms() != 0;
        for _ in 0..limits::EVICT_SLICE_KEYS {
            let Some(db) = self.choose_keyspace(policy, random()) else { return false };
            let Keyspace { table, evict_position, .. } = &mut self.keyspaces[db as usize];
            let hasher = &self.hasher;
            let rehash = |entry: EntryRef| hash_of(hasher, entry.key());
            let mut tries = (0..limits::EVICT_TRIES).filter_map(|_| table.sample(random()));
            let mut found = tries.find(|&entry| candidate(entry)).map(rehash);
            let by_chance = found.is_some();
            if !by_chance {
                // They are few: one after another, each slice where the one before ended.
                let position = table.scan(*evict_position, limits::EVICT_SCAN_ENTRIES, &rehash, |entry| {
                    if candidate(entry) {
                        found = Some(rehash(entry));
                    }
                });
                *evict_position = position.unwrap_or(0);
            }
            let Some(hash) = found else { return true };
            let place = self.keyspaces[db as usize].table.find_by(hash, candidate).expect("just seen");
            let expired = is_expired(self.keyspaces[db as usize].table.entry(place), now);
            self.remove_at(db, place);
            self.counters.evicted += !expired as u64;
            self.counters.expired += expired as u64;
            if !by_chance {
                break;
            }
        }
        true
    }

    /// A database with keys that a policy may evict, each with the chance of its share of them.
    fn choose_keyspace(&self, policy: Policy, random: u64) -> Option<u8> {
        let evictable = |keyspace: &Keyspace| match policy {
            Policy::NoEviction => 0,
            _ if policy.volatile_only() => keyspace.expiring as u64,
            _ => keyspace.table.len() as u64,
        };
        let total: u64 = self.keyspaces.iter().map(evictable).sum();
        let mut ticket = random.checked_rem(total)?;
        let chosen = self.keyspaces.iter().position(|keyspace| {
            let hit = ticket < evictable(keyspace);
            ticket = ticket.wrapping_sub(evictable(keyspace));
            hit
        });
        chosen.map(|db| db as u8)
    }
}

/// Bytes of an entry's slot.
#[inline]
fn slot_bytes(entry: EntryRef<'_>) -> usize {
    entry.memory_bytes() - entry.outside_bytes()
}

/// The bytes alone: `hash_one` would mix in the length, which ahash does anyway.
#[inline]
fn hash_of(hasher: &RandomState, key: &[u8]) -> u64 {
    let mut hasher = hasher.build_hasher();
    hasher.write(key);
    hasher.finish()
}

#[inline]
fn is_expired(entry: EntryRef<'_>, now: Millis) -> bool {
    let expire = entry.expire_ms();
    expire != 0 && expire <= now.0
}

#[cfg(test)]
mod tests;
