//! `maxmemory`: one budget for the process, leased to the shards in pieces from a pool that the machine keeps.
//!
//! A shard may use what it has leased. A write is counted against the *headroom*, one subtraction; only when that is used
//! up does the shard look at what it really uses, ask for a further lease, and, when there is none, evict in slices. So one
//! shard may use nearly all of the budget while the others need none, and nobody waits for anybody.
//!
//! ```text
//! maxmemory |---- leased to 0 ----|--- leased to 1 ---|... pool ...|
//!           |==== used ====|..headroom..|
//! ```
//!
//! *Debt*: a write that is let in before enough was evicted leaves the shard with more than it has leased, by what it
//! brought and no more. It is worked off in the following turns and by each write. When writes have run up more of it than
//! the overdraft, as large values do that replace many small ones, the shard reads no further requests until it is paid.
//!
//! *Fairness*: who finds the pool empty below its fair share, `maxmemory` / shards, may overdraw it a little. While the
//! pool is overdrawn the shards above their share give back what they do not use, and evict to give back more; with a
//! lease above its share a shard therefore looks at the pool at every tick, busy or not.
//!
//! *Held back*: what is used and what the process has of the system's memory are not the same; allocators keep pages that
//! are not full, and some that are empty for a while. When the process is larger than `maxmemory` allows for, a part of
//! the budget is held back, a little more at each tick, and much more each time that writes have brought a small part of
//! it, until it is not.

use super::{Core, Shard, Stage};
use crate::command::{Call, Error, flag};
use crate::id::{Millis, ShardId};
use crate::limits;
use crate::log::FsyncPolicy;
use crate::machine::Machine;

/// What one shard has of `maxmemory`.
#[derive(Debug)]
pub(super) struct Budget {
    /// There is a budget, or it is not known yet.
    bounded: bool,
    /// Bytes that writes may still bring before anything is looked at.
    headroom: i64,
    /// What it was when the store was last looked at.
    headroom_seen: i64,
    /// `maxmemory` without what is held back, when it was last looked at.
    limit: u64,
    /// Bytes that writes brought since the process's size was looked at.
    brought: u64,
    /// Bytes leased from the pool.
    lease: u64,
    /// Evicting in the next turn will help.
    in_debt: bool,
    /// What writes brought beyond the lease that is not worked off yet, bytes, and from where on it is too much.
    owed: u64,
    owed_max: u64,
    /// Since when more is used than leased.
    exceeded_since: Option<Millis>,
    /// Bytes of this shard's client buffers, now and when everything was last looked at.
    buffer_bytes: u64,
    buffer_bytes_seen: u64,
}

impl Budget {
    /// Nothing leased; the first write looks at what the budget is.
    pub fn new() -> Budget {
        Budget {
            bounded: true,
            headroom: 0,
            headroom_seen: 0,
            limit: 0,
            brought: 0,
            lease: 0,
            in_debt: false,
            owed: 0,
            owed_max: u64::MAX,
            exceeded_since: None,
            buffer_bytes: 0,
            buffer_bytes_seen: 0,
        }
    }

    /// The client buffers of the shard have so many bytes now.
    pub fn set_buffers(&mut self, bytes: u64) {
        self.buffer_bytes = bytes;
    }

    /// Makes the next write, and the end of the turn, look at everything anew.
    pub fn look_again(&mut self) {
        self.bounded = true;
        (self.headroom, self.headroom_seen) = (-1, 0);
    }

    /// Whether evicting goes on without any event.
    pub fn has_work(&self) -> bool {
        self.in_debt
    }

    /// Whether nothing further is to be read before some of the debt is paid.
    #[inline(always)]
    pub fn owes_too_much(&self) -> bool {
        self.owed > self.owed_max
    }

    pub fn lease(&self) -> u64 {
        self.lease
    }

    /// How long more has been used than leased by now, milliseconds.
    pub fn exceeded_ms(&self, now: Millis) -> u64 {
        self.exceeded_since.map_or(0, |since| now.0.saturating_sub(since.0))
    }

    /// Notes what writes may bring, at the end of a look at everything.
    fn set_headroom(&mut self, bytes: i64) {
        (self.headroom, self.headroom_seen) = (bytes, bytes);
    }
}

impl Core {
    /// The settings are new, or a command about the shard itself was executed, which may have changed some.
    pub(super) fn config_changed(&mut self) {
        self.store.set_policy(self.config.maxmemory_policy, self.config.lfu());
        let garbage_max = match self.config.maxmemory {
            0 => u64::MAX,
            maxmemory => maxmemory / limits::GARBAGE_BUDGET_PART / self.shards as u64,
        };
        self.store.set_garbage_bytes_max(garbage_max);
        self.budget.look_again();
        let log = self.store.log();
        log.set_waiting(log.is_on() && self.config.fsync == FsyncPolicy::Always);
    }

    /// The last gate: whether a command that may use more memory may run.
    #[inline(always)]
    pub(super) fn admit(&mut self, call: &Call<'_>, machine: &mut dyn Machine) -> Result<(), Error> {
        let flags = call.command.gate().flags;
        if flags & flag::DENYOOM == 0 || !self.budget.bounded {
            return Ok(());
        }
        let brought = call.args().bytes_from(1) as u64 + limits::WRITE_OVERHEAD_BYTES;
        self.budget.headroom -= brought as i64;
        if self.budget.headroom < 0 || flags & flag::GROWS != 0 {
            return self.make_room(call, brought, machine);
        }
        Ok(())
    }

    /// Leases or evicts what a write needs. Err: there is no room, and none can be made.
    #[cold]
    fn make_room(&mut self, call: &Call<'_>, brought: u64, machine: &mut dyn Machine) -> Result<(), Error> {
        if self.lacks_room() {
            return self.refuse(call);
        }
        if self.config.maxmemory == 0 {
            self.be_unbounded(machine, call.now);
            return Ok(());
        }
        // What comes may be of other sizes than what goes, and then the room of what went is not where it is needed.
        self.budget.brought += brought;
        if self.budget.brought > self.config.maxmemory / limits::HOLD_BACK_LOOK_PART {
            self.regulate(machine);
        }
        self.budget.limit = self.config.maxmemory.saturating_sub(machine.held_back());
        let before = self.used_bytes();
        self.ask(before + brought, self.chunk_bytes(), machine);
        let fits = before + brought <= self.budget.lease;
        let ahead = if fits { 0 } else { limits::EVICT_AHEAD_BYTES.min(self.budget.limit / limits::EVICT_AHEAD_PART) };
        let target = self.budget.lease.saturating_sub(brought + ahead);
        // Who brings much waits for as much to go, even if it is many small keys; what is still missing is a debt.
        let slices = limits::EVICT_SLICES + brought as usize / limits::EVICT_SLICE_BYTES_MIN;
        let (used, evictable) = self.evict_to(target, before, slices.min(limits::EVICT_SLICES_MAX), call.now);
        if used > self.budget.lease && !evictable {
            self.budget.set_headroom(self.budget.lease as i64 - used as i64);
            return self.refuse(call);
        }
        if used + brought > self.budget.lease {
            self.budget.owed = (self.budget.owed + brought).saturating_sub(before.saturating_sub(used));
        }
        self.budget.headroom = self.budget.lease as i64 - used as i64 - brought as i64;
        if call.command.gate().flags & flag::GROWS != 0 {
            self.budget.look_again();
        }
        Ok(())
    }

    fn refuse(&mut self, call: &Call<'_>) -> Result<(), Error> {
        self.stats.commands[call.command.index()].rejected += 1;
        self.stats.counters.total_error_replies += 1;
        Err(Error::OutOfMemory)
    }

    /// Whether what the table can name is nearly used up, whatever the budget is.
    fn lacks_room(&self) -> bool {
        self.store.room_bytes() < limits::ROOM_BYTES_MIN
    }

    /// Evicts until at most `target` bytes are used, or so many slices are over. Returns what is used then, and whether
    /// evicting more would help.
    fn evict_to(&mut self, target: u64, mut used: u64, slices: usize, now: Millis) -> (u64, bool) {
        // While values become larger or smaller room is where nothing of the new size fits.
        if used > target && self.store.memory().is_slack() {
            self.store.give_back_slice();
        }
        let policy = self.config.maxmemory_policy;
        let mut evictable = policy.evicts();
        for _ in 0..slices {
            if used <= target || !evictable {
                break;
            }
            let random = &mut self.random;
            evictable = self.store.evict_slice((used - target) as usize, now, &mut || random.next());
            used = self.used_bytes();
        }
        (used, evictable)
    }

    /// Leases more if more than the lease is `wanted`, in pieces of `grain` bytes; less if there is no more.
    fn ask(&mut self, wanted: u64, grain: u64, machine: &mut dyn Machine) {
        let limit = self.budget.limit;
        let Some(missing) = wanted.checked_sub(self.budget.lease).filter(|&missing| missing > 0) else { return };
        let pieces = missing.div_ceil(grain) * grain;
        self.budget.lease += machine.lease(pieces, limit);
        let fair = self.fair_share();
        if self.budget.lease < wanted.min(fair) && self.config.maxmemory_policy.evicts() {
            let pieces = pieces.min(fair - self.budget.lease);
            self.budget.lease += machine.lease(pieces, limit.saturating_add(self.overdraft_bytes()));
        }
    }

    /// What this shard uses of `maxmemory`: its data, and its clients' buffers.
    fn used_bytes(&self) -> u64 {
        self.store.memory().used() as u64 + self.budget.buffer_bytes
    }

    fn fair_share(&self) -> u64 {
        self.budget.limit / self.shards as u64
    }

    /// The piece in which a shard that fills leases memory. Each shard may sit on two that it does not use, so they are
    /// small beside the shards' shares.
    fn chunk_bytes(&self) -> u64 {
        let least = limits::LEASE_BYTES_MIN.min(self.fair_share() / limits::LEASE_SHARE_PART);
        (self.budget.limit / limits::LEASE_PART).max(least).max(1)
    }

    /// By how much the shards below their share may overdraw the pool, together.
    fn overdraft_bytes(&self) -> u64 {
        (self.chunk_bytes() * limits::OVERDRAFT_LEASES).min(self.budget.limit / limits::OVERDRAFT_PART)
    }

    fn be_unbounded(&mut self, machine: &mut dyn Machine, now: Millis) {
        self.note_exceeded(false, now);
        if self.budget.lease > 0 {
            machine.give_back(std::mem::take(&mut self.budget.lease));
        }
        if self.id == ShardId(0) && machine.held_back() > 0 {
            machine.hold_back(0);
        }
        (self.budget.in_debt, self.budget.owed) = (false, 0);
        // Where a database has hardly any addresses left each write looks, and is refused.
        self.budget.bounded = self.lacks_room();
        self.budget.set_headroom(0);
    }

    /// Brings lease and headroom in line with what is used, pays debts, and gives back what others should have.
    fn balance(&mut self, machine: &mut dyn Machine, now: Millis, tick: Option<Tick>) {
        let maxmemory = self.config.maxmemory;
        if maxmemory == 0 {
            return self.be_unbounded(machine, now);
        }
        let used = self.used_bytes();
        self.budget.buffer_bytes_seen = self.budget.buffer_bytes;
        self.note_exceeded(used > self.budget.lease, now);
        if tick.is_some() && self.id == ShardId(0) {
            self.regulate(machine);
        }
        self.budget.limit = maxmemory.saturating_sub(machine.held_back());
        let limit = self.budget.limit;
        let grain = match tick {
            Some(Tick::Quiet) => limits::LEASE_GRAIN_BYTES.min(self.chunk_bytes()),
            _ => self.chunk_bytes(),
        };
        self.ask(used, grain, machine);
        // Who has more than its share owes what the pool is overdrawn by.
        let lease = self.budget.lease;
        let owed = machine.leased().saturating_sub(limit).min(lease.saturating_sub(self.fair_share()));
        let target = lease - owed;
        let before = used;
        // While writers wait for the snapshot, nothing goes but for them.
        let slices = if self.store.is_snapshot_full() { 0 } else { limits::EVICT_SLICES };
        let (used, evictable) = self.evict_to(target, used, slices, now);
        let unused = lease.saturating_sub(used);
        let given = match tick {
            _ if owed > 0 => owed.min(unused),
            Some(Tick::Quiet) if unused > grain => unused,
            Some(Tick::Busy) | None if unused > 2 * grain => unused - grain,
            _ => 0,
        };
        if given > 0 {
            machine.give_back(given);
            self.budget.lease -= given;
        }
        self.budget.in_debt = evictable && used > target && slices > 0;
        self.budget.owed =
            if self.budget.in_debt { self.budget.owed.saturating_sub(before.saturating_sub(used)) } else { 0 };
        self.budget.owed_max = self.overdraft_bytes();
        self.budget.set_headroom(self.budget.lease.min(target) as i64 - used as i64);
        self.note_exceeded(used > self.budget.lease, now);
    }

    /// Holds back more of the budget, or less, by how large the process is and how much was written since the last time:
    /// a part of what it has too much, as what is evicted comes back to the system with a delay, and as many times what
    /// writes brought as it takes, which are few when it is a little too large and many when room of other sizes than what
    /// is evicted is needed.
    fn regulate(&mut self, machine: &mut dyn Machine) {
        let brought = std::mem::take(&mut self.budget.brought);
        let maxmemory = self.config.maxmemory;
        let beside = limits::RESIDENT_BESIDE_BYTES + limits::RESIDENT_BESIDE_BYTES_PER_SHARD * self.shards as u64;
        let allowed = maxmemory.saturating_add(maxmemory / limits::RESIDENT_BESIDE_PART + beside);
        let (resident, before) = (machine.resident(), machine.held_back());
        let (excess, less) = (resident.saturating_sub(allowed), allowed.saturating_sub(resident));
        let times = excess.saturating_mul(limits::HOLD_BACK_LIKE_WRITES_PART) as f64 / maxmemory.max(1) as f64;
        let by_writes = brought as f64 * times * times;
        let more = (excess / limits::HOLD_BACK_PART).max((by_writes as u64).min(excess));
        let less = less / limits::HOLD_BACK_PART;
        let held_back = (before + more).saturating_sub(less).min(maxmemory - maxmemory / limits::HOLD_BACK_LEAVES_PART);
        if held_back != before {
            machine.hold_back(held_back);
        }
    }

    /// As [`Core::balance`], while nobody is served. True: evicting more would help.
    pub(super) fn balance_loaded(&mut self, machine: &mut dyn Machine, now: Millis) -> bool {
        self.balance(machine, now, None);
        self.budget.in_debt
    }

    /// Whether more is used than may be leased, so that writes will be refused.
    pub(super) fn is_over_budget(&mut self, machine: &mut dyn Machine, now: Millis) -> bool {
        self.balance(machine, now, None);
        self.budget.exceeded_since.is_some() && !self.budget.in_debt
    }

    fn note_exceeded(&mut self, exceeded: bool, now: Millis) {
        if !exceeded {
            self.stats.counters.eviction_exceeded_ms += self.budget.exceeded_ms(now);
            self.budget.exceeded_since = None;
        } else if self.budget.exceeded_since.is_none() {
            self.budget.exceeded_since = Some(now);
        }
    }
}

/// What kind of tick it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tick {
    /// The store was changed since the one before.
    Busy,
    Quiet,
}

impl Shard {
    /// At the end of a turn: the budget, if anything was written or it is time to look.
    pub(super) fn run_budget(&mut self, now: Millis, machine: &mut dyn Machine, tick: Option<Tick>) {
        let core = &mut self.core;
        core.budget.set_buffers(self.buffer_bytes + self.held.bytes());
        // What is loaded makes room for itself, and nothing else may go meanwhile.
        if self.stage == Stage::Redoing {
            return;
        }
        // Without a budget, and before what the table can name is full, nothing else would look.
        if tick.is_some() && core.lacks_room() {
            core.budget.look_again();
        }
        let budget = &core.budget;
        // What a big request leaves here is needed, before it arrives, where it goes.
        let rebuffered = budget.buffer_bytes.abs_diff(budget.buffer_bytes_seen) > limits::LEASE_BYTES_MIN;
        if budget.bounded && (tick.is_some() || budget.in_debt || rebuffered || budget.headroom != budget.headroom_seen)
        {
            core.balance(machine, now, tick);
        }
        if tick.is_some() {
            machine.publish_used(core.id, core.used_bytes());
        }
    }

    /// Whether the budget needs the clock: others may need what this shard has beyond its share, or does not use.
    pub(super) fn budget_needs_timer(&self) -> bool {
        let core = &self.core;
        let (maxmemory, lease) = (core.config.maxmemory, core.budget.lease);
        if core.budget.limit < maxmemory {
            return true;
        }
        if maxmemory == 0 || lease == 0 {
            return false;
        }
        let unused = lease.saturating_sub(core.used_bytes());
        core.config.maxmemory_policy.evicts() && lease > core.fair_share() || unused > 2 * core.chunk_bytes()
    }
}
