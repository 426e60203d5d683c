//! Eviction of one keyspace's keys, in slices: the hand that goes over the table and does what the marks say.

use super::entry::EntryRef;
use super::eviction::{Judgement, Policy};
use super::expiry::is_expired;
use super::table::{Place, Table};
use super::{Keyspace, Observers};
use crate::id::Millis;
use crate::limits;
use crate::planted::{Bug, is_planted};

/// Where the hands of a keyspace are, as [`Table::sweep`] counts.
#[derive(Default)]
pub struct Hands {
    /// Of eviction.
    evict: usize,
    /// Slices since it last met a key that may go.
    dry: usize,
    /// Of the sweep that tidies marks, while there is one.
    tidy: Option<usize>,
    /// The segment whose marks are renewed next.
    renew: usize,
}

/// What a slice of eviction removed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Evicted {
    pub evicted: u64,
    /// Keys that had expired anyway.
    pub expired: u64,
    /// What they all took.
    pub bytes: usize,
}

/// Keys at which the hand looks at a time. Where the policy has no order of all keys, the worst of so many goes (Redis
/// looks at 5 unless told otherwise).
const AT_ONCE: usize = 24;

/// Keys that the hand has found, without memory of their own.
struct Found {
    places: [Option<(Place, u8)>; AT_ONCE],
    len: usize,
}

impl Found {
    fn new() -> Found {
        Found { places: [None; AT_ONCE], len: 0 }
    }

    /// Whether it is full but for the rest of the bucket, of which no key is left out: the next may be full of them.
    #[inline]
    fn note(&mut self, table: &Table, place: Place, mark: u8) -> bool {
        table.prefetch_at(place);
        self.places[self.len] = Some((place, mark));
        self.len += 1;
        self.len + Table::SLOTS_PER_BUCKET > AT_ONCE
    }

    fn iter(&self) -> impl Iterator<Item = (Place, u8)> {
        self.places[..self.len].iter().flatten().copied()
    }
}

impl Keyspace {
    /// Notes that the key of this hash is used.
    #[inline(always)]
    pub(super) fn touch(&self, place: Place, hash: u64, random: impl FnOnce() -> u64) {
        if self.table.is_renewed(place) {
            let mark = self.table.mark(place);
            let new = self.marks.hit(mark.get(), hash, random);
            if new != mark.get() {
                mark.set(new);
            }
        }
    }

    /// How many keys a policy may evict here.
    pub(super) fn evictable(&self, policy: Policy) -> usize {
        match policy.volatile_only() {
            _ if !policy.evicts() => 0,
            true => self.table.volatile(),
            false => self.table.len(),
        }
    }

    /// Evicts keys until `bytes` are free or a slice is over, at most 10 µs. There is at least one that may go, and it may
    /// take several slices to come to it.
    pub(super) fn evict_slice(
        &mut self,
        policy: Policy,
        bytes: usize,
        now: Millis,
        rehash: &impl Fn(EntryRef) -> u64,
        random: &mut dyn FnMut() -> u64,
        observers: &mut Observers,
    ) -> Evicted {
        let mut done = Evicted::default();
        match policy {
            Policy::NoEviction => {}
            Policy::AllKeysLru | Policy::AllKeysLfu | Policy::AllKeysS3Fifo => {
                self.evict_marked(bytes, now, rehash, &mut done, observers);
                let found = done.evicted + done.expired > 0;
                self.hands.dry = if found { 0 } else { self.hands.dry + 1 };
                // What the marks say goes first is far from the hand: writes do not wait for it.
                if self.hands.dry >= limits::EVICT_DRY_SLICES && self.table.len() > 0 {
                    self.evict_of_sample(policy, now, rehash, &mut done, random, observers);
                }
            }
            _ => {
                for _ in 0..limits::EVICT_SLICE_SAMPLES {
                    if done.bytes >= bytes || self.evictable(policy) == 0 {
                        break;
                    }
                    self.evict_of_sample(policy, now, rehash, &mut done, random, observers);
                }
            }
        }
        done
    }

    /// Evicts what the marks of all keys say.
    fn evict_marked(
        &mut self,
        bytes: usize,
        now: Millis,
        rehash: &impl Fn(EntryRef) -> u64,
        done: &mut Evicted,
        observers: &mut Observers,
    ) {
        self.renew_slice(now);
        if self.hands.evict == 0 {
            self.marks.aim();
        }
        let Some(wanted) = self.marks.wanted() else { return };
        let mut found = Found::new();
        let next = self.table.sweep_marked(self.hands.evict, limits::EVICT_SLICE_BUCKETS, wanted, |place, mark| {
            found.note(&self.table, place, mark)
        });
        self.hands.evict = self.table.around(next);
        for (place, mark) in found.iter() {
            if done.bytes >= bytes {
                // The others are met again.
                self.hands.evict = Table::hand_at(place);
                return;
            }
            if !self.table.is_renewed(place) {
                continue;
            }
            match self.marks.judge(mark) {
                Judgement::Keep => {}
                Judgement::Remark(mark) => self.table.mark(place).set(mark),
                Judgement::Evict => self.evict(place, now, rehash, done, observers),
            }
        }
    }

    /// Evicts the one of a few keys that the policy likes least.
    fn evict_of_sample(
        &mut self,
        policy: Policy,
        now: Millis,
        rehash: &impl Fn(EntryRef) -> u64,
        done: &mut Evicted,
        random: &mut dyn FnMut() -> u64,
        observers: &mut Observers,
    ) {
        let by_chance = matches!(policy, Policy::AllKeysRandom | Policy::VolatileRandom);
        if by_chance {
            // Somewhere else each time, and there one of those that may go.
            self.hands.evict = random() as usize % self.table.buckets();
        }
        let mut found = Found::new();
        let volatile_only = policy.volatile_only();
        let next =
            self.table.sweep(self.hands.evict, limits::EVICT_SLICE_BUCKETS, volatile_only, |place, mark, volatile| {
                (volatile || !volatile_only) && found.note(&self.table, place, mark)
            });
        self.hands.evict = self.table.around(next);
        let worst = found.iter().min_by_key(|&(place, mark)| match policy {
            Policy::VolatileTtl => self.table.entry(place).expire_ms(),
            _ if by_chance => random(),
            // What has no mark of this policy yet was used before all that have.
            _ if !self.table.is_renewed(place) => 0,
            _ => self.marks.rank(mark).into(),
        });
        if let Some((place, _)) = worst {
            self.evict(place, now, rehash, done, observers);
        }
    }

    /// Takes an entry out, and lets the marks know.
    fn evict(
        &mut self,
        place: Place,
        now: Millis,
        rehash: &impl Fn(EntryRef) -> u64,
        done: &mut Evicted,
        observers: &mut Observers,
    ) {
        let entry = self.table.entry(place);
        let was_due = is_expired(entry, now);
        done.bytes += entry.memory_bytes();
        *(if was_due { &mut done.expired } else { &mut done.evicted }) += 1;
        if self.table.is_renewed(place) && !was_due {
            self.marks.evicted(self.table.mark(place).get(), || rehash(entry));
            if is_planted(Bug::EvictionNotLogged) {
                return self.free_unlogged(place, observers);
            }
            self.free(place, observers);
        } else {
            self.remove(place, observers);
        }
    }

    /// Gives some segments marks of the kind that the policy needs now, if there are others.
    fn renew_slice(&mut self, now: Millis) -> bool {
        let Keyspace { table, marks, hands, .. } = self;
        for _ in 0..limits::RENEW_SLICE_SEGMENTS {
            if !table.is_stale() {
                return false;
            }
            hands.renew = (hands.renew + 1) % table.segments();
            table.renew(hands.renew, |_| marks.adopt(now));
        }
        table.is_stale()
    }

    /// Tidies some marks, if that is due. True if there is more to do.
    pub(super) fn tidy_slice(&mut self, now: Millis) -> bool {
        if self.table.is_stale() {
            return self.renew_slice(now);
        }
        if self.hands.tidy.is_none() && self.marks.wants_sweep() {
            self.marks.sweep_begins();
            self.hands.tidy = Some(0);
        }
        let Some(hand) = self.hands.tidy else { return false };
        let (table, marks) = (&self.table, &self.marks);
        let visit = |place, mark| {
            let tidy = marks.tidy(mark);
            if tidy != mark {
                table.mark(place).set(tidy);
            }
            false
        };
        let next = match marks.untidy() {
            Some(untidy) => table.sweep_marked(hand, limits::TIDY_SLICE_BUCKETS, untidy, visit),
            None => table.sweep(hand, limits::TIDY_SLICE_BUCKETS, false, |place, mark, _| visit(place, mark)),
        };
        self.hands.tidy = Some(next).filter(|&next| next < self.table.buckets());
        self.hands.tidy.is_some()
    }
}
