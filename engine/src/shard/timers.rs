//! What a shard does by the clock: keys that expire unread, idle clients, memory given back in slices.

use super::budget::Tick;
use super::{Shard, Stage};
use crate::id::{Millis, SessionId};
use crate::limits;

/// The shard's clockwork.
pub(super) struct Timers {
    /// When the last turn was.
    pub now: Millis,
    next_tick: Millis,
    /// Slices of active expiry left in this tick.
    expire_slices: usize,
    /// Tables wait to be freed.
    freeing: bool,
    /// Deleted entries left memory to give back.
    pub compacting: bool,
    /// Changes of the store up to the last tick, and whether there were none since the tick before.
    changes: u64,
    quiet: bool,
    /// Where the next look for idle clients begins.
    idle_slot: usize,
}

impl Timers {
    pub fn new(now: Millis) -> Timers {
        Timers {
            now,
            next_tick: now,
            expire_slices: 0,
            freeing: false,
            compacting: false,
            changes: 0,
            quiet: false,
            idle_slot: 0,
        }
    }

    pub fn next_tick(&self) -> Millis {
        self.next_tick
    }

    /// Whether a slice is due that waits for no event.
    pub fn has_work(&self) -> bool {
        self.freeing || self.compacting || self.expire_slices > 0
    }
}

impl Shard {
    /// Runs what is due, at most a slice of each. Says if it is a tick, and of which kind.
    pub(super) fn run_timers(&mut self, now: Millis) -> Option<Tick> {
        self.timers.now = now;
        let interval = (1000 / u64::from(self.core.config.hz.max(1))).max(limits::TICK_MS_MIN);
        // Also when the clock was set back.
        let ticked = now >= self.timers.next_tick || self.timers.next_tick.0 - now.0 > interval;
        if ticked {
            self.timers.next_tick = Millis(now.0 + interval);
            // What is redone last may lift what has come.
            self.timers.expire_slices = if self.stage == Stage::Redoing { 0 } else { limits::EXPIRE_SLICES_PER_TICK };
            self.close_idle(now);
            self.check_soft_limits(now);
            self.count_values_again();
            self.core.store.tick(now);
            let changes = self.changes();
            self.timers.quiet = changes == std::mem::replace(&mut self.timers.changes, changes);
        }
        if !self.core.may_expire() {
            self.timers.expire_slices = 0;
        }
        if self.timers.expire_slices > 0 {
            let more = self.core.store.has_expiring() && self.core.store.expire_slice(now);
            self.timers.expire_slices = if more { self.timers.expire_slices - 1 } else { 0 };
        }
        self.timers.freeing = self.core.store.free_slice();
        // What would be moved is saved first, and there is no room for it.
        let may_move = !self.core.store.is_snapshot_full();
        self.timers.compacting = may_move && (ticked || self.timers.compacting) && self.core.store.compact_slice(now);
        let tick = if self.timers.quiet { Tick::Quiet } else { Tick::Busy };
        ticked.then_some(tick)
    }

    /// What happened to the store since the start that may leave something to tidy up.
    fn changes(&self) -> u64 {
        let counters = self.core.store.counters();
        counters.changes + counters.expired + counters.evicted
    }

    /// Whether the store may have something to tidy up: it was changed, and no tick has found it unchanged since.
    pub(super) fn store_needs_timer(&self) -> bool {
        // Freeing may have paused until the big values given up before are dropped.
        self.changes() != self.timers.changes || !self.timers.quiet || self.core.store.has_flushed()
    }

    /// Closes clients that said nothing and read nothing for `timeout` seconds; looks at some of them each time.
    fn close_idle(&mut self, now: Millis) {
        let timeout_ms = self.core.config.timeout_s * 1000;
        if timeout_ms == 0 {
            return;
        }
        let slots = self.sessions.slots();
        let mut idle: Vec<SessionId> = Vec::new();
        for _ in 0..slots.min(limits::IDLE_CHECK_SESSIONS) {
            self.timers.idle_slot = (self.timers.idle_slot + 1) % slots;
            let Some((id, session)) = self.sessions.at(self.timers.idle_slot) else { continue };
            let waits = session.replies.outstanding() > 0 || session.stalled;
            if !waits && now.0.saturating_sub(session.client.last_active.0) > timeout_ms {
                idle.push(id);
            }
        }
        for id in idle {
            self.kill(id);
        }
    }
}
