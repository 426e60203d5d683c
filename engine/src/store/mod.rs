//! The keyspaces of one shard: what is stored, until when, and how much memory it takes. No replies, no commands.
//!
//! [`Store`] is the whole interface, and it is safe: [`entry`] lays one key and value out in memory, which
//! [`arena`] manages in a [`space`] of addresses, and [`table`] finds it; [`expiry`] removes what is due, and [`evict`]
//! what [`eviction`] says has to go. [`snapshot`] saves what is about to change, or to go, while one is being taken.
//! Everything is told the time; an entry whose time has come reads as absent. What a reader finds expired goes to a
//! bounded reap list that [`Store::reap`] empties at the end of the turn; what nobody reads is found by
//! [`Store::expire_slice`]. Every change is counted, and told to the log ([`Store::log`]), where it happens.

mod arena;
mod audit;
mod entry;
mod evict;
pub mod eviction;
mod expiry;
mod garbage;
mod layout;
mod load;
mod restore;
mod snapshot;
mod space;
mod table;

use std::cell::{Cell, RefCell};
use std::hash::{BuildHasher, Hasher};

use ahash::RandomState;
use bytes::Bytes;

use arena::Arena;
use entry::{Entry, Outside};
pub use entry::{EntryRef, NewValue, Value};
use evict::Hands;
use eviction::{Kind, Marks};
pub use eviction::{LfuSettings, Policy};
use expiry::{Expirer, is_expired};
use garbage::Garbage;
pub use garbage::GarbageCounters;
pub use layout::{Databases, KeyspaceId, KeyspacesExhausted, KeyspacesRefused};
use snapshot::Snapshot;
pub use snapshot::{SnapshotCounters, SnapshotProgress, SnapshotRefused, SnapshotStart};
pub use space::Ahead;
use table::{Place, Table};

use crate::id::Millis;
use crate::limits;
use crate::log::ChangeLog;
use crate::planted::{Bug, is_planted};
use crate::random::Random;

/// Bits of a scan position on one shard ([`Store::scan`]).
pub const SCAN_POSITION_BITS: u32 = table::DEPTH_MAX + table::BUCKET_BITS;

/// Bytes of a key's slot in the table.
pub const SLOT_BYTES: usize = table::SLOT_BYTES;

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

struct Keyspace {
    /// Never given twice in the life of the shard; the number of the database that it is found by may change.
    id: KeyspaceId,
    table: Table,
    /// Where its entries lie.
    arena: Arena,
    /// What entries own outside the arena.
    outside: Outside,
    expirer: Expirer,
    /// What the marks in the table mean.
    marks: Marks,
    hands: Hands,
}

/// What is known of a key's use: the policy decides what is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Usage {
    /// Since it was used last, milliseconds.
    IdleMs(u64),
    /// The logarithmic counter of its uses.
    Frequency(u8),
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
    /// Values, and keys, that are longer.
    pub outside: usize,
    /// Tables, and what eviction remembers.
    pub tables: usize,
    /// Free slots, and free pages that were not given back: taken from the system and not used.
    pub slack: usize,
}

impl StoreMemory {
    /// Whether more is unused than compaction leaves when it has time.
    pub fn is_slack(self) -> bool {
        self.slack > self.slots / limits::SLACK_PART + limits::SLACK_BYTES
    }

    /// What is in use: this is what `maxmemory` is about.
    pub fn used(self) -> usize {
        self.slots + self.outside + self.tables
    }
}

/// Who is told of what changes and goes: the snapshot before, the log and the garbage after.
struct Observers {
    garbage: Garbage,
    snapshot: Snapshot,
    log: ChangeLog,
}

/// What marking an entry costs, in bytes that could be copied in the time.
const SETTLE_COST_BYTES: usize = 32;

/// The data of one shard.
pub struct Store {
    /// By the number of the database.
    keyspaces: Vec<Keyspace>,
    /// Changes of the layout so far, and the id of the next fresh keyspace.
    layout_number: u64,
    next_id: u32,
    /// Removals are logged of keys that are absent, too ([`Store::log_all_removals`]).
    logs_all_removals: bool,
    hasher: RandomState,
    /// Hashes of entries that a reader found expired, with their database.
    reap: RefCell<Vec<(u8, u64)>>,
    observers: Observers,
    /// Whether expired keys are looked for that nobody reads.
    active_expiry: bool,
    counters: StoreCounters,
    /// Keys of the disk that had expired when all of it was redone.
    dropped_due: u64,
    hits: Cell<u64>,
    misses: Cell<u64>,
    /// The database that the next slice of expiry is about.
    expire_db: usize,
    /// What the last slice of compaction was about, two jobs for each database.
    compact_job: usize,
    policy: Policy,
    lfu: LfuSettings,
    prefault: bool,
    /// State of the random numbers of frequency counters.
    random: Cell<Random>,
}

impl Keyspace {
    fn new(id: KeyspaceId, policy: Policy, lfu: LfuSettings, prefault: bool) -> Keyspace {
        Keyspace {
            id,
            table: Table::default(),
            arena: Arena::new(prefault),
            outside: Outside::default(),
            expirer: Expirer::default(),
            marks: Marks::new(policy, lfu),
            hands: Hands::default(),
        }
    }

    /// Takes an entry out and frees it.
    fn remove(&mut self, place: Place, observers: &mut Observers) {
        if self.table.is_renewed(place) {
            self.marks.remove(self.table.mark(place).get());
        }
        self.free(place, observers);
    }

    /// As [`Keyspace::remove`], for an entry that the marks have been told of.
    fn free(&mut self, place: Place, observers: &mut Observers) {
        observers.log.remove(self.id, self.table.entry(place).key());
        self.free_unlogged(place, observers);
    }

    /// As [`Keyspace::free`], and the log does not know it yet.
    fn free_unlogged(&mut self, place: Place, observers: &mut Observers) {
        self.save_before_change(place, &mut observers.snapshot);
        let entry = self.table.remove(place);
        self.outside.change(entry.as_ref().outside(), Outside::default());
        observers.garbage.discard_value_of(entry.as_ref());
        entry.free(&mut self.arena);
    }

    /// Gives back some memory that was of entries. True if there is more.
    fn give_back_slice(&mut self, snapshot: &mut Snapshot, rehash: &impl Fn(EntryRef) -> u64) -> bool {
        let Keyspace { id, table, arena, .. } = self;
        // What merges under a hand may be passed by or met twice: marks are less precise then, and never wrong.
        if table.merge_slice(limits::MERGE_SLICE_SEGMENTS, rehash) {
            return true;
        }
        // What is moved is saved first: that waits until there is room for it.
        !snapshot.is_full()
            && Entry::compact_slice(arena, limits::COMPACT_SLICE_BYTES, |old, mut moved| {
                if snapshot.is_walking() && !is_planted(Bug::PreImageSkippedOnMove) {
                    snapshot.settle(*id, &mut moved);
                }
                table.relocate(old, moved, rehash);
            })
    }
}

impl Store {
    /// An empty store. `seed` keeps clients from choosing keys that collide; `prefault` has memory filled ahead of its use
    /// ([`Store::poll_ahead`]).
    pub fn new(databases: usize, seed: [u64; 4], prefault: bool) -> Store {
        let (policy, lfu) = (Policy::default(), LfuSettings::default());
        let hasher = RandomState::with_seeds(seed[0], seed[1], seed[2], seed[3]);
        Store {
            keyspaces: (0..databases as u32).map(|id| Keyspace::new(KeyspaceId(id), policy, lfu, prefault)).collect(),
            layout_number: 0,
            next_id: databases as u32,
            logs_all_removals: false,
            observers: Observers {
                garbage: Garbage::default(),
                snapshot: Snapshot::default(),
                log: ChangeLog::new(hasher.clone()),
            },
            hasher,
            reap: RefCell::new(Vec::with_capacity(limits::REAP_MAX)),
            active_expiry: true,
            counters: StoreCounters::default(),
            dropped_due: 0,
            hits: Cell::new(0),
            misses: Cell::new(0),
            expire_db: 0,
            compact_job: 0,
            policy,
            lfu,
            prefault,
            random: Cell::new(Random(seed[0])),
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

    /// The entry of a key, unless it is absent or expired; counted as a hit or a miss, and as a use of the key.
    #[inline(always)]
    pub fn get(&self, key: Key<'_>, now: Millis) -> Option<EntryRef<'_>> {
        let Some(place) = self.find(key, now) else {
            self.misses.set(self.misses.get() + 1);
            return None;
        };
        self.hits.set(self.hits.get() + 1);
        let keyspace = &self.keyspaces[key.db as usize];
        keyspace.touch(place, key.hash, || self.next_random());
        Some(keyspace.table.entry(place))
    }

    /// As [`Store::get`], for commands that ask about a key and do not use it.
    #[inline]
    pub fn look(&self, key: Key<'_>, now: Millis) -> Option<EntryRef<'_>> {
        let found = self.peek(key, now);
        let counter = if found.is_some() { &self.hits } else { &self.misses };
        counter.set(counter.get() + 1);
        found
    }

    /// As [`Store::look`], for commands that write: not counted.
    #[inline(always)]
    pub fn peek(&self, key: Key<'_>, now: Millis) -> Option<EntryRef<'_>> {
        Some(self.keyspaces[key.db as usize].table.entry(self.find(key, now)?))
    }

    /// The place of a key for a reader.
    #[inline(always)]
    fn find(&self, key: Key<'_>, now: Millis) -> Option<Place> {
        let table = &self.keyspaces[key.db as usize].table;
        let place = table.find(key.hash, key.bytes)?;
        if is_expired(table.entry(place), now) {
            let mut reap = self.reap.borrow_mut();
            if reap.len() < limits::REAP_MAX {
                reap.push((key.db, key.hash));
            }
            return None;
        }
        Some(place)
    }

    /// What is known of a key's use; None if it is absent. Asking is no use.
    pub fn usage(&self, key: Key<'_>, now: Millis) -> Option<Usage> {
        let keyspace = &self.keyspaces[key.db as usize];
        let place = self.find(key, now)?;
        // Until a key has a mark of this policy nothing is known of it.
        let mark = keyspace.table.is_renewed(place).then(|| keyspace.table.mark(place).get());
        Some(match self.policy.kind() {
            Kind::Frequency => Usage::Frequency(mark.map_or(0, |mark| keyspace.marks.frequency(mark))),
            Kind::Recency | Kind::Fifo => Usage::IdleMs(mark.map_or(0, |mark| keyspace.marks.idle_ms(mark, now))),
        })
    }

    fn next_random(&self) -> u64 {
        let mut random = self.random.get();
        let next = random.next();
        self.random.set(random);
        next
    }

    fn touch(&self, key: Key<'_>, place: Place) {
        self.keyspaces[key.db as usize].touch(place, key.hash, || self.next_random());
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
        self.keyspaces[db as usize].remove(place, &mut self.observers);
    }

    /// Sets a key's value, creating the key if it is absent.
    #[inline]
    pub fn set(&mut self, key: Key<'_>, value: NewValue<'_>, expiry: Expiry, now: Millis) {
        self.counters.changes += 1;
        let Some(place) = self.find_mut(key, now) else {
            return self.insert(key, value, expiry, now);
        };
        self.touch(key, place);
        let keyspace = &mut self.keyspaces[key.db as usize];
        keyspace.save_before_change(place, &mut self.observers.snapshot);
        let entry = keyspace.table.entry(place);
        let (old_outside, old_expire) = (entry.outside(), entry.expire_ms());
        self.observers.garbage.discard_value_of(entry);
        let expire = match expiry {
            Expiry::Never => 0,
            Expiry::At(at) => at.0.max(1),
            Expiry::Keep => old_expire,
        };
        let (new_outside, old) = keyspace.table.change(place, |entry| {
            if entry.try_set(value, expire) {
                return (entry.as_ref().outside(), None);
            }
            let moved = Entry::new(&mut keyspace.arena, key.bytes, value, expire, entry.as_ref().version());
            (moved.as_ref().outside(), Some(moved))
        });
        if !is_planted(Bug::MemoryNotCounted) {
            keyspace.outside.change(old_outside, new_outside);
        }
        if let Some(old) = old {
            old.free(&mut keyspace.arena);
        }
        if expire != old_expire {
            keyspace.table.set_expiry(place, expire);
        }
        self.observers.log.set(keyspace.id, key.bytes, value.bytes, expire);
    }

    fn insert(&mut self, key: Key<'_>, value: NewValue<'_>, expiry: Expiry, now: Millis) {
        let expire = match expiry {
            Expiry::Never | Expiry::Keep => 0,
            Expiry::At(at) => at.0.max(1),
        };
        self.insert_with(key, value, expire, None, now);
    }

    /// Adds a key that is absent. It expires at `expire`, milliseconds, unless that is 0.
    #[inline]
    fn insert_with(&mut self, key: Key<'_>, value: NewValue<'_>, expire: u64, version: Option<u64>, now: Millis) {
        let keyspace = &mut self.keyspaces[key.db as usize];
        let entry = Entry::new(&mut keyspace.arena, key.bytes, value, expire, version);
        keyspace.outside.change(Outside::default(), entry.as_ref().outside());
        let base = keyspace.arena.base().expect("it has an entry");
        let hasher = &self.hasher;
        let rehash = |entry: EntryRef| hash_of(hasher, entry.key());
        let Keyspace { table, marks, .. } = keyspace;
        if let Some(segment) = table.stale_segment(key.hash) {
            table.renew(segment, |_| marks.adopt(now));
        }
        table.insert(key.hash, entry, base, marks.insert(key.hash, now), expire, &rehash);
        self.observers.log.set(keyspace.id, key.bytes, value.bytes, expire);
    }

    /// Removes a key. False if it was absent or expired.
    #[inline]
    pub fn remove(&mut self, key: Key<'_>, now: Millis) -> bool {
        let Some(place) = self.find_mut(key, now) else {
            self.log_absence(key);
            return false;
        };
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
        self.touch(key, place);
        let expire = at.map_or(0, |at| at.0.max(1));
        let keyspace = &mut self.keyspaces[key.db as usize];
        keyspace.save_before_change(place, &mut self.observers.snapshot);
        let entry = keyspace.table.entry(place);
        let old_outside = entry.outside();
        let (new_outside, old) = keyspace.table.change(place, |entry| {
            let moved = entry.set_expire_ms(&mut keyspace.arena, expire);
            (moved.as_ref().unwrap_or(entry).as_ref().outside(), moved)
        });
        keyspace.outside.change(old_outside, new_outside);
        if let Some(old) = old {
            old.free(&mut keyspace.arena);
        }
        keyspace.table.set_expiry(place, expire);
        if !is_planted(Bug::ExpireNotLogged) {
            self.observers.log.expire(keyspace.id, key.bytes, expire);
        }
        true
    }

    /// Writes `bytes` at `offset` of a value, which is created if the key is absent and filled with zeros up to `offset`. Returns
    /// the new length. The caller has checked it against the limit.
    pub fn write_at(&mut self, key: Key<'_>, offset: usize, bytes: &[u8], now: Millis) -> usize {
        let place = match self.find_mut(key, now) {
            Some(place) => place,
            None => {
                // One change, so that no crash leaves a part of it.
                let mut value = vec![0; offset + bytes.len()];
                value[offset..].copy_from_slice(bytes);
                let value = Bytes::from(value);
                self.counters.changes += 1;
                self.insert(key, NewValue { bytes: &value, shared: Some(&value) }, Expiry::Never, now);
                return value.len();
            }
        };
        self.counters.changes += 1;
        self.touch(key, place);
        let keyspace = &mut self.keyspaces[key.db as usize];
        keyspace.save_before_change(place, &mut self.observers.snapshot);
        let old_outside = keyspace.table.entry(place).outside();
        let ((len, new_outside), old) = keyspace.table.change(place, |entry| {
            let moved = entry.write_at(&mut keyspace.arena, offset, bytes);
            let now = moved.as_ref().unwrap_or(entry).as_ref();
            ((now.value().bytes().len(), now.outside()), moved)
        });
        keyspace.outside.change(old_outside, new_outside);
        if let Some(old) = old {
            old.free(&mut keyspace.arena);
        }
        self.observers.log.write_at(keyspace.id, key.bytes, offset, bytes);
        len
    }

    /// Keys of a database, those included whose time has come and nobody has noticed.
    pub fn len(&self, db: u8) -> usize {
        self.keyspaces[db as usize].table.len()
    }

    /// Keys of a database that have an expiry time.
    pub fn expiring(&self, db: u8) -> usize {
        self.keyspaces[db as usize].table.volatile()
    }

    /// How many databases there are.
    pub fn databases(&self) -> usize {
        self.keyspaces.len()
    }

    /// Bytes of entries and tables, what waits to be freed not included.
    pub fn memory(&self) -> StoreMemory {
        let mut sum = StoreMemory::default();
        // Most databases are never used.
        for keyspace in self.keyspaces.iter().filter(|keyspace| keyspace.table.segments() > 0) {
            let slots = keyspace.arena.used_bytes();
            sum.slots += slots;
            sum.outside += keyspace.outside.bytes;
            sum.tables += keyspace.table.memory_bytes() + keyspace.marks.memory_bytes();
            sum.slack += keyspace.arena.held_bytes().saturating_sub(slots);
        }
        sum
    }

    /// Bytes that the fullest database can still grow by, entries or table, whatever the machine has.
    pub fn room_bytes(&self) -> usize {
        let room = |keyspace: &Keyspace| keyspace.arena.room_bytes().min(keyspace.table.room_bytes());
        self.keyspaces.iter().map(room).min().unwrap_or(0)
    }

    /// Bytes of a database's table.
    pub fn table_bytes(&self, db: u8) -> usize {
        self.keyspaces[db as usize].table.memory_bytes()
    }

    /// Bytes held for entries and tables, what waits to be freed not included.
    pub fn memory_bytes(&self) -> usize {
        let held =
            |keyspace: &Keyspace| keyspace.arena.held_bytes() + keyspace.outside.bytes + keyspace.table.memory_bytes();
        self.keyspaces.iter().map(held).sum()
    }

    /// Counts since the start.
    pub fn counters(&self) -> StoreCounters {
        StoreCounters { hits: self.hits.get(), misses: self.misses.get(), ..self.counters }
    }

    /// CONFIG RESETSTAT: everything counted but the changes goes back to zero.
    pub fn reset_counters(&mut self) {
        self.counters.expired = 0;
        self.counters.evicted = 0;
        self.observers.garbage.reset_counters();
        self.hits.set(0);
        self.misses.set(0);
    }

    /// Keys of the disk that had expired when all of it was redone.
    pub fn dropped_due(&self) -> u64 {
        self.dropped_due
    }

    /// The log that is told of every change.
    pub fn log(&mut self) -> &mut ChangeLog {
        &mut self.observers.log
    }

    /// Whether changes are logged.
    pub fn is_logged(&self) -> bool {
        self.observers.log.is_on()
    }

    /// Frees a slice of what was cleared: about 50 µs of work. True if there is more that can be done at once.
    pub fn free_slice(&mut self) -> bool {
        let hasher = &self.hasher;
        self.observers.garbage.free_slice(&|entry: EntryRef| hash_of(hasher, entry.key()))
    }

    /// How often databases were cleared that had something to free; see [`Store::has_freed`].
    pub fn flushes(&self) -> u64 {
        self.observers.garbage.flushes()
    }

    /// Whether everything is freed that was cleared when [`Store::flushes`] gave this number; big values may still be
    /// under way to who drops them.
    pub fn has_freed(&self, flushes: u64) -> bool {
        self.observers.garbage.has_freed(flushes)
    }

    /// Whether cleared databases wait to be freed.
    pub fn has_flushed(&self) -> bool {
        self.observers.garbage.has_flushed()
    }

    /// Takes a value that somebody holds no longer, perhaps as the last. If it is big it is dropped by who polls it.
    #[inline]
    pub fn discard(&mut self, value: Bytes) {
        self.observers.garbage.discard(&value);
    }

    /// Memory that will be needed soon, to be filled where that may take long.
    pub fn poll_ahead(&mut self) -> Option<Ahead> {
        if !self.prefault {
            return None;
        }
        self.keyspaces
            .iter_mut()
            .find_map(|keyspace| keyspace.arena.take_ahead().or_else(|| keyspace.table.take_ahead()))
    }

    /// A big value that was given up, to be dropped where that may take long; then call [`Store::garbage_freed`].
    pub fn poll_garbage(&mut self) -> Option<Bytes> {
        self.observers.garbage.poll()
    }

    /// So many values of so many bytes together, of those that [`Store::poll_garbage`] gave, were dropped.
    pub fn garbage_freed(&mut self, objects: u64, bytes: u64) {
        self.observers.garbage.freed(objects, bytes);
    }

    /// Bounds the bytes of big values that are pending, in [`limits::GARBAGE_BYTES_MAX`].
    pub fn set_garbage_bytes_max(&mut self, bytes: u64) {
        self.observers.garbage.set_bytes_max(bytes);
    }

    /// What was given up and what of it is freed.
    pub fn garbage_counters(&self) -> GarbageCounters {
        self.observers.garbage.counters()
    }

    /// Gives back a slice of the memory that deleted entries leave, moving others where that takes it: about 50 µs of
    /// work. True if there is more. No entry is borrowed meanwhile:
    ///
    /// ```compile_fail,E0502
    /// # use torc_engine::{id::Millis, store::Store};
    /// let mut store = Store::new(1, [1, 2, 3, 4], false);
    /// let entry = store.get(store.key(0, b"key"), Millis(0));
    /// store.compact_slice(Millis(0));
    /// entry.map(|entry| entry.value().bytes().len());
    /// ```
    pub fn compact_slice(&mut self, now: Millis) -> bool {
        let hasher = &self.hasher;
        let rehash = |entry: EntryRef| hash_of(hasher, entry.key());
        // Marks and memory of all databases take turns: under load each of them may always have more to do.
        let jobs = 2 * self.keyspaces.len();
        for _ in 0..jobs {
            self.compact_job = (self.compact_job + 1) % jobs;
            let keyspace = &mut self.keyspaces[self.compact_job / 2];
            let more = match self.compact_job % 2 {
                0 => keyspace.tidy_slice(now),
                _ => keyspace.give_back_slice(&mut self.observers.snapshot, &rehash),
            };
            if more {
                return true;
            }
        }
        false
    }

    /// As [`Store::compact_slice`], for memory alone.
    pub fn give_back_slice(&mut self) -> bool {
        let hasher = &self.hasher;
        let rehash = |entry: EntryRef| hash_of(hasher, entry.key());
        self.keyspaces.iter_mut().any(|keyspace| keyspace.give_back_slice(&mut self.observers.snapshot, &rehash))
    }

    /// Tells the order of eviction the time: some ten times a second.
    pub fn tick(&mut self, now: Millis) {
        self.keyspaces.iter_mut().for_each(|keyspace| keyspace.marks.tick(now));
    }

    /// Changes what decides which keys go first. What was known of the keys' uses is kept if the new policy is of the same
    /// kind; otherwise marks are given anew in slices.
    pub fn set_policy(&mut self, policy: Policy, lfu: LfuSettings) {
        (self.policy, self.lfu) = (policy, lfu);
        for keyspace in &mut self.keyspaces {
            keyspace.marks.set_lfu(lfu);
            if !keyspace.marks.set_policy(policy) {
                keyspace.marks = Marks::new(policy, lfu);
                keyspace.hands = Hands::default();
                keyspace.table.begin_generation();
            }
        }
    }

    /// Whether any key may be evicted.
    pub fn has_evictable(&self) -> bool {
        self.keyspaces.iter().any(|keyspace| keyspace.evictable(self.policy) > 0)
    }

    /// Evicts keys until `bytes` are free or a slice is over, at most 10 µs. False if there is nothing to evict.
    pub fn evict_slice(&mut self, bytes: usize, now: Millis, random: &mut dyn FnMut() -> u64) -> bool {
        // Each database gives in proportion to what it has: there is no order of keys across them.
        let all: usize = self.keyspaces.iter().map(|keyspace| keyspace.evictable(self.policy)).sum();
        if all == 0 {
            return false;
        }
        let mut ticket = random() as usize % all;
        let chosen = self.keyspaces.iter_mut().find(|keyspace| {
            let here = keyspace.evictable(self.policy);
            let hit = ticket < here;
            ticket = ticket.wrapping_sub(here);
            hit
        });
        let Some(keyspace) = chosen else { return false };
        let hasher = &self.hasher;
        let rehash = |entry: EntryRef| hash_of(hasher, entry.key());
        let evicted = keyspace.evict_slice(self.policy, bytes, now, &rehash, random, &mut self.observers);
        self.counters.evicted += evicted.evicted;
        self.counters.expired += evicted.expired;
        true
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

    /// Switches the search for expired keys that nobody reads on or off. What is read expires all the same.
    pub fn set_active_expiry(&mut self, on: bool) {
        self.active_expiry = on;
    }

    /// Whether any key has an expiry time and is to be looked for when it has come.
    pub fn has_expiring(&self) -> bool {
        self.active_expiry && self.keyspaces.iter().any(|keyspace| keyspace.table.volatile() > 0)
    }

    /// Removes a slice of what is due: tens of microseconds of work. False when a round through all databases is at its
    /// end; the next call begins another.
    pub fn expire_slice(&mut self, now: Millis) -> bool {
        // What is removed may have to be saved first: nobody waits for that, so it is done when there is room.
        if self.is_snapshot_full() {
            return false;
        }
        while let Some(keyspace) = self.keyspaces.get_mut(self.expire_db) {
            if keyspace.table.volatile() > 0 {
                let more = keyspace.expirer.slice(&mut keyspace.table, now);
                let due = keyspace.expirer.take_due();
                due.iter().for_each(|&place| keyspace.remove(place, &mut self.observers));
                self.counters.expired += due.len() as u64;
                keyspace.expirer.recycle(due);
                self.expire_db += !more as usize;
                return true;
            }
            self.expire_db += 1;
        }
        self.expire_db = 0;
        false
    }
}

/// The bytes alone: `hash_one` would mix in the length, which ahash does anyway.
#[inline]
fn hash_of(hasher: &RandomState, key: &[u8]) -> u64 {
    let mut hasher = hasher.build_hasher();
    hasher.write(key);
    hasher.finish()
}

#[cfg(test)]
mod tests;
