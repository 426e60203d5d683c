//! A store beside its naive model, driven by steps that each concern many keys, with a scan under way all the time.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Range;

use proptest::prelude::*;

use super::super::eviction::simulation::Random;
use super::super::expiry::LAG_MS;
use super::super::*;

const DATABASES: usize = 2;

#[derive(Clone, Debug)]
pub enum Step {
    /// Sets keys of database 0 or 1 to new values; they expire within so many milliseconds, if at all.
    Set(u8, Range<u32>, Option<u64>),
    /// The same, but the expiry times stay.
    SetKeeping(u8, Range<u32>),
    /// Removes every n-th key.
    Remove(u8, Range<u32>, usize),
    Get(u8, Range<u32>),
    Expire(u8, Range<u32>, Option<u64>),
    /// Writes a few bytes at an offset.
    WriteAt(u8, Range<u32>, usize),
    /// Milliseconds.
    Wait(u64),
    SetPolicy(Policy),
    /// Slices.
    Evict(usize),
    Expiry(usize),
    /// Tidying, renewing of marks, merging of segments, moving of entries.
    Compact(usize),
    /// Pages of the scan, of so many keys.
    Scan(usize, usize),
    Swap,
    Clear(u8),
}

/// What the model knows of a key.
struct Held {
    value: Vec<u8>,
    /// 0 is never.
    expire_ms: u64,
    /// The step in which it came.
    came: usize,
}

/// A scan under way, and what it has met since it began.
struct Scan {
    db: u8,
    position: u64,
    began: usize,
    seen: HashSet<Vec<u8>>,
}

pub struct World {
    pub store: Store,
    model: [BTreeMap<u32, Held>; DATABASES],
    pub now: Millis,
    random: Random,
    policy: Policy,
    step: usize,
    scan: Scan,
    pub scans_completed: usize,
    /// Keys that eviction or expiry has taken.
    pub taken: u64,
}

/// Most keys are short; some are outside their entry, and one is very long.
fn key(number: u32) -> Vec<u8> {
    let mut key = format!("key:{number}").into_bytes();
    match number {
        777 => key.resize(200 << 10, b'x'),
        _ if number % 97 == 5 => key.resize(385 + number as usize % 100, b'y'),
        _ if number % 89 == 5 => key.resize(384, b'z'),
        _ => {}
    }
    key
}

impl World {
    pub fn new(seed: u64) -> World {
        World {
            store: Store::new(DATABASES, [seed, 2, 3, 4], true),
            model: Default::default(),
            now: Millis(1_000),
            random: Random::new(seed),
            policy: Policy::default(),
            step: 1,
            scan: Scan { db: 0, position: 0, began: 1, seen: HashSet::new() },
            scans_completed: 0,
            taken: 0,
        }
    }

    /// Keys of a database that are alive.
    pub fn alive(&self, db: u8) -> usize {
        self.model[db as usize].values().filter(|held| self.is_alive(held)).count()
    }

    fn is_alive(&self, held: &Held) -> bool {
        held.expire_ms == 0 || held.expire_ms > self.now.0
    }

    fn value(&mut self) -> Vec<u8> {
        let len = match self.random.below(1_000) {
            0 => 300_000,
            1..=4 => 16_000 + self.random.below(1_000),
            5..=50 => self.random.below(3_000),
            _ => self.random.below(60),
        };
        vec![self.random.next() as u8; len]
    }

    /// Forgets a key whose time has come.
    fn forget_expired(&mut self, db: u8, number: u32) {
        let model = &self.model[db as usize];
        if model.get(&number).is_some_and(|held| !self.is_alive(held)) {
            self.model[db as usize].remove(&number);
        }
    }

    pub fn apply(&mut self, step: Step) {
        self.step += 1;
        let now = self.now;
        match step {
            Step::Set(db, numbers, within) => {
                for number in numbers {
                    let expire = within.map(|within| now.0 + 1 + self.random.below(within as usize) as u64);
                    let expiry = expire.map_or(Expiry::Never, |at| Expiry::At(Millis(at)));
                    self.set(db, number, expiry);
                }
            }
            Step::SetKeeping(db, numbers) => numbers.for_each(|number| self.set(db, number, Expiry::Keep)),
            Step::Remove(db, numbers, nth) => {
                for number in numbers.step_by(nth) {
                    self.forget_expired(db, number);
                    let name = key(number);
                    let was_there = self.model[db as usize].remove(&number).is_some();
                    assert_eq!(self.store.remove(self.store.key(db, &name), now), was_there);
                }
            }
            Step::Get(db, numbers) => {
                for number in numbers {
                    let name = key(number);
                    let got = self.store.get(self.store.key(db, &name), now);
                    let held = self.model[db as usize].get(&number).filter(|held| self.is_alive(held));
                    assert_eq!(got.is_some(), held.is_some(), "{number}");
                    if let (Some(entry), Some(held)) = (got, held) {
                        assert_eq!((entry.value().bytes(), entry.expire_ms()), (&held.value[..], held.expire_ms));
                    }
                }
                self.store.reap(now);
            }
            Step::Expire(db, numbers, within) => {
                for number in numbers {
                    self.forget_expired(db, number);
                    let name = key(number);
                    let expire = within.map(|within| now.0 + self.random.below(within as usize) as u64);
                    let held = self.model[db as usize].get_mut(&number);
                    let done = self.store.set_expiry(self.store.key(db, &name), expire.map(Millis), now);
                    assert_eq!(done, held.is_some());
                    if let Some(held) = held {
                        held.expire_ms = expire.unwrap_or(0);
                    }
                    // Due at once is gone at once.
                    self.forget_expired(db, number);
                }
            }
            Step::WriteAt(db, numbers, offset) => {
                for number in numbers {
                    self.forget_expired(db, number);
                    let (name, came) = (key(number), self.step);
                    let bytes = [number as u8; 9];
                    let new = Held { value: Vec::new(), expire_ms: 0, came };
                    let held = self.model[db as usize].entry(number).or_insert(new);
                    held.value.resize(held.value.len().max(offset + 9), 0);
                    held.value[offset..offset + 9].copy_from_slice(&bytes);
                    let len = self.store.write_at(self.store.key(db, &name), offset, &bytes, now);
                    assert_eq!(len, held.value.len());
                }
            }
            Step::Wait(ms) => {
                self.now.0 += ms;
                self.store.tick(self.now);
            }
            Step::SetPolicy(policy) => {
                self.policy = policy;
                self.store.set_policy(policy, LfuSettings::default());
            }
            Step::Evict(slices) => self.evict(slices),
            Step::Expiry(slices) => {
                let before = self.store.counters().expired;
                (0..slices).for_each(|_| {
                    self.store.expire_slice(now);
                });
                self.taken += self.store.counters().expired - before;
            }
            Step::Compact(slices) => (0..slices).for_each(|_| {
                self.store.compact_slice(now);
            }),
            Step::Scan(pages, count) => (0..pages).for_each(|_| self.scan(count)),
            Step::Swap => {
                self.store.swap(0, 1);
                self.model.swap(0, 1);
                // It goes on with the data that it was begun with.
                self.scan.db ^= 1;
            }
            Step::Clear(db) => {
                self.store.clear(db as usize..db as usize + 1).expect("there are ids");
                self.model[db as usize].clear();
                self.store.free_slice();
            }
        }
        while let Some(value) = self.store.poll_garbage() {
            self.store.garbage_freed(1, value.len() as u64);
        }
    }

    fn set(&mut self, db: u8, number: u32, expiry: Expiry) {
        self.forget_expired(db, number);
        let (name, value, came) = (key(number), self.value(), self.step);
        self.store.set(self.store.key(db, &name), NewValue::from(&value[..]), expiry, self.now);
        let held = self.model[db as usize].entry(number).or_insert(Held { value: Vec::new(), expire_ms: 0, came });
        held.value = value;
        match expiry {
            Expiry::Never => held.expire_ms = 0,
            Expiry::At(at) => held.expire_ms = at.0,
            Expiry::Keep => {}
        }
    }

    /// Evicts, and finds out which keys went: as many as are counted, each of a kind that the policy may take.
    fn evict(&mut self, slices: usize) {
        let before = self.store.counters();
        for _ in 0..slices {
            let evictable = self.store.has_evictable();
            assert_eq!(self.store.evict_slice(1_000, self.now, &mut || self.random.next()), evictable);
        }
        self.store.reap(self.now);
        let after = self.store.counters();
        let mut gone = 0;
        for db in 0..DATABASES as u8 {
            let (store, now, policy) = (&self.store, self.now, self.policy);
            self.model[db as usize].retain(|&number, held| {
                let name = key(number);
                let is_there = store.peek(store.key(db, &name), now).is_some();
                let was_due = held.expire_ms != 0 && held.expire_ms <= now.0;
                assert!(is_there != was_due || !is_there, "what is due is not there");
                if !is_there && !was_due {
                    gone += 1;
                    assert!(policy.evicts() && (held.expire_ms != 0 || !policy.volatile_only()));
                }
                is_there
            });
        }
        assert_eq!(after.evicted - before.evicted, gone);
        self.taken += gone;
    }

    /// One page of the scan. When it is at its end, what was there all the time has been seen, and the next begins.
    fn scan(&mut self, count: usize) {
        let Scan { db, position, began, seen } = &mut self.scan;
        *position = self.store.scan(*db, *position, count, self.now, |entry| {
            seen.insert(entry.key().to_vec());
        });
        assert!(*position < 1 << SCAN_POSITION_BITS);
        if *position != 0 {
            return;
        }
        let now = self.now.0;
        let there_throughout = self.model[*db as usize]
            .iter()
            .filter(|(_, held)| held.came < *began && (held.expire_ms == 0 || held.expire_ms > now));
        there_throughout.for_each(|(&number, _)| assert!(seen.contains(&key(number)), "key {number} was not returned"));
        self.scans_completed += 1;
        let db = self.random.below(DATABASES) as u8;
        self.scan = Scan { db, position: 0, began: self.step, seen: HashSet::new() };
        // Nothing comes of a position that nobody gave.
        let anything = self.random.next();
        let mut met = 0;
        let next = self.store.scan(db, anything, 10, self.now, |_| met += 1);
        assert!(next < 1 << SCAN_POSITION_BITS && met < 10 + 2_000);
        self.store.scan(db, anything % (1 << SCAN_POSITION_BITS), 10, self.now, |_| {});
    }

    /// Compares everything there is, and all that is counted.
    pub fn check(&self) {
        check(&self.store);
        for db in 0..DATABASES as u8 {
            let mut live = HashMap::new();
            self.store.scan(db, 0, usize::MAX, self.now, |entry| {
                live.insert(entry.key().to_vec(), (entry.value().bytes().to_vec(), entry.expire_ms()));
            });
            let model = self.model[db as usize].iter().filter(|(_, held)| self.is_alive(held));
            let mut alive = 0;
            for (&number, held) in model {
                let (value, expire_ms) = live.get(&key(number)).unwrap_or_else(|| panic!("key {number} is gone"));
                assert!((value, *expire_ms) == (&held.value, held.expire_ms), "key {number}");
                alive += 1;
            }
            assert_eq!(live.len(), alive, "nothing is there that was not set");
        }
    }
}

/// Panics unless all that a store counts is what a walk over tables and arenas finds, and each place is what its marks say.
pub fn check(store: &Store) {
    store.audit();
    let rehash = |entry: EntryRef| hash_of(&store.hasher, entry.key());
    for keyspace in &store.keyspaces {
        let marks = keyspace.table.check(LAG_MS, &rehash);
        keyspace.marks.check(&marks);
        let mut walked = 0;
        keyspace.arena.for_each(|_| walked += 1);
        assert_eq!(walked, keyspace.table.len());
    }
}

/// Steps about keys of which there are so many, up to `most` of them at a time.
pub fn steps(keys: u32, most: u32, count: usize) -> impl Strategy<Value = Vec<Step>> {
    let db = || 0..DATABASES as u8;
    let numbers = move || (0..keys, 1..=most).prop_map(move |(from, count)| from..(from + count).min(keys));
    let within = || prop_oneof![1 => Just(None), 2 => (1..40_000u64).prop_map(Some)];
    let policy = prop::sample::select(Policy::ALL.to_vec());
    let step = prop_oneof![
        6 => (db(), numbers(), within()).prop_map(|(db, numbers, within)| Step::Set(db, numbers, within)),
        1 => (db(), numbers()).prop_map(|(db, numbers)| Step::SetKeeping(db, numbers)),
        3 => (db(), numbers(), 1..4usize).prop_map(|(db, numbers, nth)| Step::Remove(db, numbers, nth)),
        2 => (db(), numbers()).prop_map(|(db, numbers)| Step::Get(db, numbers)),
        2 => (db(), numbers(), within()).prop_map(|(db, numbers, within)| Step::Expire(db, numbers, within)),
        1 => (db(), numbers(), 0..100usize).prop_map(|(db, numbers, offset)| Step::WriteAt(db, numbers, offset)),
        2 => (0..20_000u64).prop_map(Step::Wait),
        2 => policy.prop_map(Step::SetPolicy),
        3 => (1..200usize).prop_map(Step::Evict),
        2 => (1..10usize).prop_map(Step::Expiry),
        4 => (1..30usize).prop_map(Step::Compact),
        6 => (1..20usize, 1..100usize).prop_map(|(pages, count)| Step::Scan(pages, count)),
        1 => Just(Step::Swap),
    ];
    let clear = db().prop_map(Step::Clear);
    prop::collection::vec(prop_oneof![40 => step, 1 => clear], 1..count)
}
