//! Which keys of one keyspace go first when memory is full: bookkeeping apart from the table that holds the keys.
//!
//! Every slot of the table carries one byte for it, the *mark*. [`Marks`] says what a key's mark is when it comes and
//! what it becomes when the key is read, and knows how many keys have each. The *hand* goes over the table in the order
//! of the slots, which is random with regard to age; of each mark it looks up in [`Marks::wanted`] whether the key stays
//! or is to be judged, and evicts those that [`Marks::judge`] tells it to. So there are no lists to keep up on reads, no
//! samples that miss the old keys, and the memory is read in sequence.
//!
//! | kind | mark | goes first |
//! | --- | --- | --- |
//! | [`recency`] | level of the last touch | the oldest levels |
//! | [`frequency`] | logarithmic counter of accesses | the lowest counters |
//! | [`fifo`] | level in one of two queues, reads | the end of the queue whose turn it is, see [`miniature`] too |
//!
//! A table calls, for each key: [`Marks::insert`] when it comes, [`Marks::hit`] when it is touched, [`Marks::remove`]
//! when it is deleted or has expired, and nothing when its value changes. To evict: [`Marks::aim`], then the hand goes on
//! until enough is free, and calls `aim` again after each pass over the whole table. In the background: [`Marks::tick`],
//! and while [`Marks::wants_sweep`], one pass over the table that begins with [`Marks::sweep_begins`] and gives each key
//! the mark that [`Marks::tidy`] returns.
//!
//! `simulation.rs` measures hit ratios against exact algorithms, and is where the constants come from.

mod fifo;
mod frequency;
mod ghost;
mod levels;
mod miniature;
mod policy;
mod recency;
#[cfg(test)]
pub(super) mod simulation;
#[cfg(test)]
mod tests;

use fifo::Fifo;
use frequency::Frequency;
pub use levels::{KEEP, LOOK, Wanted};
pub use policy::{Kind, Policy};
use recency::Recency;

use crate::id::Millis;

/// What happens to a key at which the hand looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// Nothing.
    Keep,
    /// It gets this mark; that is accounted for.
    Remark(u8),
    /// It goes: the table removes it and says so with [`Marks::evicted`], or leaves it and says nothing.
    Evict,
}

/// `lfu-log-factor` and `lfu-decay-time`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LfuSettings {
    /// An access adds one to a counter with probability 1 / ((counter - 5) * factor + 1).
    pub log_factor: u32,
    /// A counter loses one in so many minutes; never if 0.
    pub decay_minutes: u32,
}

impl Default for LfuSettings {
    fn default() -> Self {
        LfuSettings { log_factor: 10, decay_minutes: 1 }
    }
}

/// How many keys of one keyspace have each mark, and what that means.
pub struct Marks {
    policy: Policy,
    lfu: LfuSettings,
    state: State,
}

/// What the policy's kind needs, from the first key on.
enum State {
    Empty,
    Recency(Box<Recency>),
    Frequency(Box<Frequency>),
    Fifo(Box<Fifo>),
}

impl Marks {
    pub fn new(policy: Policy, lfu: LfuSettings) -> Marks {
        Marks { policy, lfu, state: State::Empty }
    }

    /// What marks say of their keys.
    pub fn kind(&self) -> Kind {
        self.policy.kind()
    }

    /// Changes the policy. False if that changes the kind: then every key needs a new mark, from [`Marks::adopt`] of a
    /// new `Marks`, and until it has one nothing is said of it here.
    pub fn set_policy(&mut self, policy: Policy) -> bool {
        if policy.kind() != self.kind() {
            return false;
        }
        self.policy = policy;
        if let State::Recency(recency) = &mut self.state {
            recency.set_precise(policy.orders_by_recency());
        }
        true
    }

    pub fn set_lfu(&mut self, settings: LfuSettings) {
        self.lfu = settings;
        if let State::Frequency(frequency) = &mut self.state {
            frequency.set(settings);
        }
    }

    #[cold]
    fn begin(&mut self, now: Millis) {
        self.state = match self.kind() {
            Kind::Recency => State::Recency(Box::new(Recency::new(self.policy.orders_by_recency(), now))),
            Kind::Frequency => State::Frequency(Box::new(Frequency::new(self.lfu, now))),
            Kind::Fifo => State::Fifo(Box::new(Fifo::new(now))),
        };
    }

    /// The mark of a new key.
    #[inline]
    pub fn insert(&mut self, hash: u64, now: Millis) -> u8 {
        if let State::Empty = self.state {
            self.begin(now);
        }
        match &mut self.state {
            State::Empty => unreachable!("begun above"),
            State::Recency(recency) => recency.insert(now),
            State::Frequency(frequency) => frequency.insert(now),
            State::Fifo(fifo) => fifo.insert(hash, now),
        }
    }

    /// The mark of a key that is there already and had one of another kind.
    pub fn adopt(&mut self, now: Millis) -> u8 {
        if let State::Empty = self.state {
            self.begin(now);
        }
        match &mut self.state {
            State::Empty => unreachable!("begun above"),
            State::Recency(recency) => recency.adopt(),
            State::Frequency(frequency) => frequency.adopt(),
            State::Fifo(fifo) => fifo.adopt(),
        }
    }

    /// The mark of a key that is touched: the same more often than not. `random` gives 64 random bits where they are
    /// needed.
    #[inline(always)]
    pub fn hit(&self, mark: u8, hash: u64, random: impl FnOnce() -> u64) -> u8 {
        match &self.state {
            State::Empty => mark,
            State::Recency(recency) => recency.hit(mark),
            State::Frequency(frequency) => frequency.hit(mark, random),
            State::Fifo(fifo) => fifo.hit(mark, hash),
        }
    }

    /// A key was deleted or has expired.
    #[inline]
    pub fn remove(&mut self, mark: u8) {
        match &mut self.state {
            State::Empty => {}
            State::Recency(recency) => recency.remove(mark),
            State::Frequency(frequency) => frequency.remove(mark),
            State::Fifo(fifo) => fifo.remove(mark),
        }
    }

    /// What the hand does with each mark: [`KEEP`], or [`LOOK`], which is a call of [`Marks::judge`]. None if no key
    /// ever came.
    #[inline]
    pub fn wanted(&self) -> Option<&Wanted> {
        match &self.state {
            State::Empty => None,
            State::Recency(recency) => Some(recency.wanted()),
            State::Frequency(frequency) => Some(frequency.wanted()),
            State::Fifo(fifo) => Some(fifo.wanted()),
        }
    }

    /// Chooses what is to go next, if only by marks: from here on the hand meets a victim within a few passes, mostly
    /// within some hundred slots, as long as no key is touched.
    pub fn aim(&mut self) {
        match &mut self.state {
            State::Empty => {}
            State::Recency(recency) => recency.aim(),
            State::Frequency(frequency) => frequency.aim(),
            State::Fifo(fifo) => fifo.aim(),
        }
    }

    /// What to do with a key that the hand looks at.
    #[inline]
    pub fn judge(&mut self, mark: u8) -> Judgement {
        match &mut self.state {
            State::Empty => Judgement::Keep,
            State::Recency(recency) => recency.judge(mark),
            State::Frequency(frequency) => frequency.judge(mark),
            State::Fifo(fifo) => fifo.judge(mark),
        }
    }

    /// A key was evicted; not to be told with [`Marks::remove`] too.
    #[inline]
    pub fn evicted(&mut self, mark: u8, hash: impl FnOnce() -> u64) {
        match &mut self.state {
            State::Empty => {}
            State::Recency(recency) => recency.evicted(mark),
            State::Frequency(frequency) => frequency.evicted(mark),
            State::Fifo(fifo) => fifo.evicted(mark, hash()),
        }
    }

    /// Of two keys the one with the lower rank goes first.
    pub fn rank(&self, mark: u8) -> u32 {
        match &self.state {
            State::Empty => 0,
            State::Recency(recency) => u32::from(recency.rank(mark)),
            State::Frequency(_) => u32::from(mark),
            State::Fifo(fifo) => fifo.rank(mark),
        }
    }

    /// Whether a pass over the whole table is due: to free the ids of merged levels, or to let counters decay.
    pub fn wants_sweep(&self) -> bool {
        match &self.state {
            State::Empty => false,
            State::Recency(recency) => recency.wants_sweep(),
            State::Frequency(frequency) => frequency.wants_sweep(),
            State::Fifo(fifo) => fifo.wants_sweep(),
        }
    }

    pub fn sweep_begins(&mut self) {
        match &mut self.state {
            State::Empty => {}
            State::Recency(recency) => recency.sweep_begins(),
            State::Frequency(frequency) => frequency.sweep_begins(),
            State::Fifo(fifo) => fifo.sweep_begins(),
        }
    }

    /// The only marks that [`Marks::tidy`] may change, each of which is not [`KEEP`] there; or it may change any.
    pub fn untidy(&self) -> Option<&Wanted> {
        match &self.state {
            State::Empty | State::Frequency(_) => None,
            State::Recency(recency) => Some(recency.wanted()),
            State::Fifo(fifo) => Some(fifo.wanted()),
        }
    }

    /// The mark that a key gets when the sweep comes by.
    #[inline]
    pub fn tidy(&self, mark: u8) -> u8 {
        match &self.state {
            State::Empty => mark,
            State::Recency(recency) => recency.tidy(mark),
            State::Frequency(frequency) => frequency.tidy(mark),
            State::Fifo(fifo) => fifo.tidy(mark),
        }
    }

    /// The time, some ten times a second.
    pub fn tick(&mut self, now: Millis) {
        match &mut self.state {
            State::Empty => {}
            State::Recency(recency) => recency.tick(now),
            State::Frequency(frequency) => frequency.tick(now),
            State::Fifo(fifo) => fifo.tick(now),
        }
    }

    /// Milliseconds since a key was touched, as far as marks of this kind say; 0 if they do not.
    pub fn idle_ms(&self, mark: u8, now: Millis) -> u64 {
        match &self.state {
            State::Empty | State::Frequency(_) => 0,
            State::Recency(recency) => recency.idle_ms(mark, now),
            State::Fifo(fifo) => fifo.idle_ms(mark, now),
        }
    }

    /// The logarithmic counter of accesses; 0 if marks of this kind have none.
    pub fn frequency(&self, mark: u8) -> u8 {
        if self.kind() == Kind::Frequency { mark } else { 0 }
    }

    /// Bytes that all this takes.
    pub fn memory_bytes(&self) -> usize {
        match &self.state {
            State::Empty => 0,
            State::Recency(_) => size_of::<Recency>(),
            State::Frequency(_) => size_of::<Frequency>(),
            State::Fifo(fifo) => fifo.memory_bytes(),
        }
    }
}
