//! Saving, as far as one shard goes: when a save begins by itself, how much of the shard's time its snapshot takes, and
//! who waits.
//!
//! The runtime begins a snapshot on every shard, writes the blocks that it is given, and says when the save of all of them
//! has ended. In between each turn takes slices of 20 to 50 µs:
//!
//! - While commands are being executed the snapshot has a share of the time, `snapshot-duty`. The stopwatch is read once a
//!   turn and once a slice: what passes is earned by the percentage, and spent by slices.
//! - A shard that had nothing to execute for [`limits::SNAPSHOT_IDLE_NS`] takes slices back to back, in turns of
//!   [`limits::SNAPSHOT_TURN_NS`], so that what comes meanwhile does not wait longer. Not at the first turn without
//!   commands: a client that waits for each reply leaves such gaps, and would find each of them filled.
//! - While a shard waits for the disk, or for its share, it takes no turns.
//!
//! Writers save what they change, so blocks may come faster than the disk takes them. When
//! [`limits::SNAPSHOT_PENDING_BYTES_MAX`] are in memory writers wait, as they do while the log is behind
//! ([`super::log_state`]).

use super::budget::Tick;
use super::turn::{Batch, Context};
use super::{Core, Shard};
use crate::config::Config;
use crate::id::{Millis, ShardId};
use crate::limits;
use crate::log::Lsn;
use crate::machine::{SaveFacts, SaveKind};
use crate::planted::{Bug, is_planted};
use crate::snapshot::Block;
use crate::store::{SnapshotProgress, SnapshotRefused, SnapshotStart};

/// What a shard keeps for saving.
#[derive(Default)]
pub(super) struct Saving {
    /// What the stopwatch said when the share was counted last, and when something was last executed, nanoseconds.
    counted_at: u64,
    busy_at: u64,
    /// What the snapshot may take of the shard's time now, nanoseconds; negative if it took more than its share.
    credit_ns: i64,
    /// The next slice is due at once, or at this time.
    goes_on: bool,
    next_slice: Option<Millis>,
    /// When shard 0 looks next whether a save is to begin.
    next_look: Millis,
}

/// The moment that a snapshot is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotBase {
    /// The last change that is in it. Without a log: [`Lsn`] 0.
    pub base_lsn: Lsn,
    /// Generation and number of the first segment that has changes after it, or will have; None without a log.
    pub segment: Option<(u64, u64)>,
    /// Changes before it, and bytes that were logged of them, since the start of the process
    /// ([`crate::machine::Machine::publish_changes`]).
    pub changes: u64,
    pub log_bytes: u64,
}

impl Shard {
    /// Begins a snapshot of the shard as it is now, for the data directory `database` and the save `snapshot`. From here on
    /// turns take it, and the blocks that [`Shard::poll_snapshot_block`] gives are to be written. Err: try again in a later
    /// turn if it is [`SnapshotRefused::Unsettled`]; the turns see to it that this ends.
    pub fn begin_snapshot(
        &mut self,
        database: [u8; 16],
        snapshot: u64,
        now: Millis,
    ) -> Result<SnapshotBase, SnapshotRefused> {
        let changes = self.core.store.counters().changes;
        let journal = self.core.store.log().journal();
        let (base_lsn, last_txid) = (journal.last_lsn(), journal.last_txid());
        let base_lsn = Lsn(base_lsn.0 + u64::from(is_planted(Bug::SnapshotBaseLate)));
        let base = SnapshotBase { base_lsn, segment: journal.position(), changes, log_bytes: journal.logged_bytes() };
        let begun = self.core.store.begin_snapshot(SnapshotStart {
            database,
            snapshot,
            shard: self.core.id.0,
            shards: self.core.shards as u16,
            base_lsn: base_lsn.0,
            last_txid,
            wall_ms: now.0,
            ..SnapshotStart::default()
        });
        // If it cannot begin yet, turns see to it that it can.
        self.saving.goes_on = true;
        begun.map(|()| base)
    }

    /// The next block to be written. Several may be under way, and be written in any order.
    pub fn poll_snapshot_block(&mut self) -> Option<Block> {
        self.core.store.poll_snapshot_block()
    }

    /// A block is written, or, of a snapshot that was aborted, is not going to be. Take a turn if [`Shard::has_work`].
    pub fn handle_snapshot_block_written(&mut self, block: Block) {
        self.core.store.handle_snapshot_block_written(block);
        self.saving.goes_on = self.core.store.wants_snapshot_slice();
        self.look_at_writers();
    }

    /// How far the snapshot is that runs, or what became of the last one. FLUSHALL may abort it in any turn: then another
    /// is to be begun.
    pub fn snapshot_progress(&self) -> SnapshotProgress {
        self.core.store.snapshot_progress()
    }

    /// Bytes of the snapshot that are in memory.
    pub fn snapshot_pending_bytes(&self) -> usize {
        self.core.store.snapshot_pending_bytes()
    }

    /// Gives the snapshot up, if one runs. Another can begin at once.
    pub fn abort_snapshot(&mut self) {
        self.core.store.abort_snapshot();
        self.look_at_writers();
    }

    /// A save of all shards has ended, well or not: take a turn, in which clients that wait for it are answered.
    pub fn handle_save_ended(&mut self) {
        self.core.look_at_saves = true;
    }

    /// The end of a turn: what is known of saves, if it is time, and some of the snapshot, if one runs.
    pub(super) fn run_saving(
        &mut self,
        context: &mut Context<'_>,
        batch: &mut Batch,
        is_busy: bool,
        tick: Option<Tick>,
    ) {
        if tick.is_some() {
            let changes = self.core.store.counters().changes;
            let log_bytes = self.core.store.log().journal().logged_bytes();
            context.machine.publish_changes(self.core.id, changes, log_bytes);
        }
        let is_told = std::mem::take(&mut self.core.look_at_saves);
        if tick.is_some() || is_told || self.stopping && self.waiters.have_saves() {
            let facts = context.machine.saves();
            self.core.note_save(&facts);
            self.step_saves(context, batch, &facts);
            if tick.is_some() && self.core.id == ShardId(0) {
                self.look_at_schedule(context);
            }
        }
        if self.core.store.has_snapshot() {
            self.take_snapshot(context, is_busy);
        } else {
            (self.saving.goes_on, self.saving.next_slice) = (false, None);
        }
    }

    /// Takes slices of the snapshot, as many as it is entitled to now.
    fn take_snapshot(&mut self, context: &mut Context<'_>, is_busy: bool) {
        let (saving, store) = (&mut self.saving, &mut self.core.store);
        let start = context.machine.ticks();
        if is_busy {
            saving.busy_at = start;
        }
        let is_idle = start.saturating_sub(saving.busy_at) >= limits::SNAPSHOT_IDLE_NS;
        // What is kept only for the snapshot leaves memory by slices: writers wait for them.
        let is_pressing = store.snapshot_pending_bytes() >= limits::SNAPSHOT_PENDING_BYTES_MAX / 2;
        let percent = if is_pressing { limits::SNAPSHOT_DUTY_MAX } else { self.core.config.snapshot_duty };
        let passed = start.saturating_sub(saving.counted_at).min(limits::SNAPSHOT_IDLE_NS);
        let earned = saving.credit_ns + (passed * percent / 100) as i64;
        saving.credit_ns = earned.min(limits::SNAPSHOT_TURN_NS as i64);
        saving.counted_at = start;
        let mut at = start;
        while store.wants_snapshot_slice() && (is_idle || saving.credit_ns > 0) && at - start < limits::SNAPSHOT_TURN_NS
        {
            store.snapshot_slice(limits::SNAPSHOT_SLICE_BYTES);
            let now = context.machine.ticks();
            saving.credit_ns -= (now - at) as i64;
            at = now;
        }
        if is_idle {
            // Nobody wanted the time that was taken.
            saving.credit_ns = saving.credit_ns.max(0);
        }
        let wants_more = store.wants_snapshot_slice();
        saving.goes_on = wants_more && (is_idle || saving.credit_ns > 0);
        saving.next_slice = (wants_more && !saving.goes_on).then_some(Millis(context.now.0 + 1));
    }

    /// Begins a save if it is time for one.
    fn look_at_schedule(&mut self, context: &mut Context<'_>) {
        let now = context.now;
        // Also when the clock was set back.
        let is_far = self.saving.next_look.0 > now.0 + limits::SAVE_LOOK_MS;
        if now < self.saving.next_look && !is_far {
            return;
        }
        self.saving.next_look = Millis(now.0 + limits::SAVE_LOOK_MS);
        let facts = context.machine.saves();
        if let Some(kind) = due_save(&self.core.config, &facts, now.0 / 1000) {
            // Refused if somebody else was faster, which does as well.
            context.machine.begin_save(kind).ok();
        }
    }

    /// When a look at the schedule or a slice of the snapshot is due that waits for no event.
    pub(super) fn next_saving(&self) -> Option<Millis> {
        let config = &self.core.config;
        let has_schedule = !config.save_points.is_empty() || self.core.store.is_logged() && config.rewrite_percent > 0;
        let look = (has_schedule && self.core.id == ShardId(0)).then_some(self.saving.next_look);
        // A look is part of a tick.
        let look = look.map(|at| at.max(self.timers.next_tick()));
        look.into_iter().chain(self.saving.next_slice).min()
    }

    /// Whether something is to be done at once.
    pub(super) fn saving_has_work(&self) -> bool {
        self.saving.goes_on || self.core.look_at_saves || self.stopping && self.waiters.have_saves()
    }

    /// Whether nobody waits for a save to end.
    pub(super) fn is_saving_drained(&self) -> bool {
        !self.waiters.have_saves()
    }
}

impl Core {
    /// Whether writes are refused because of the last save.
    fn note_save(&mut self, facts: &SaveFacts) {
        let config = &self.config;
        let matters = config.stop_writes_after_failed_save && !config.save_points.is_empty();
        self.has_save_failed = matters && !facts.last_save_ok;
    }
}

/// The save that is to begin now by itself, if one is.
fn due_save(config: &Config, facts: &SaveFacts, now_s: u64) -> Option<SaveKind> {
    if !facts.is_available || facts.running.is_some() {
        return None;
    }
    if let Some(doublings) = facts.failures_in_a_row.checked_sub(1) {
        let wait_s = limits::SAVE_RETRY_S.checked_shl(doublings).unwrap_or(u64::MAX).min(limits::SAVE_RETRY_S_MAX);
        // A clock that was set back does not make it longer.
        if now_s.abs_diff(facts.last_attempt_s) < wait_s {
            return None;
        }
    }
    let passed_s = now_s.saturating_sub(facts.last_save_s);
    if config.save_points.iter().any(|point| facts.changes >= point.changes && passed_s > point.seconds) {
        return Some(SaveKind::Snapshot);
    }
    let part = (facts.snapshot_bytes as u128 * config.rewrite_percent as u128 / 100) as u64;
    let is_long = facts.log_bytes > part.max(config.rewrite_bytes_min);
    (config.append_only && config.rewrite_percent > 0 && is_long).then_some(SaveKind::Rewrite)
}

#[cfg(test)]
mod tests {
    use super::*;
    const MIB: u64 = 1 << 20;

    fn config(lines: &[(&str, &str)]) -> Config {
        let mut config = Config::default();
        for (name, words) in lines {
            config.set_at_start(name, &[words]).expect("a test's settings are right");
        }
        config
    }

    fn facts() -> SaveFacts {
        SaveFacts { is_available: true, last_save_s: 1_000, ..SaveFacts::default() }
    }

    #[test]
    fn a_save_point_is_reached_by_time_and_changes() {
        let config = config(&[("save", "300 100 3600 1")]);
        let due = |changes, now_s| due_save(&config, &SaveFacts { changes, ..facts() }, now_s);
        assert_eq!(due(100, 1_300), None);
        assert_eq!(due(99, 1_301), None);
        assert_eq!(due(100, 1_301), Some(SaveKind::Snapshot));
        assert_eq!(due(1, 4_601), Some(SaveKind::Snapshot));
        assert_eq!(due(0, 9_999), None);
        let running = SaveFacts { changes: 100, running: Some((SaveKind::Rewrite, 1_300)), ..facts() };
        assert_eq!(due_save(&config, &running, 1_301), None);
        assert_eq!(due_save(&config, &SaveFacts { is_available: false, changes: 100, ..facts() }, 1_301), None);
    }

    #[test]
    fn a_log_is_long_by_itself_and_beside_its_snapshot() {
        let logged = |percent: &str| config(&[("appendonly", "yes"), ("auto-aof-rewrite-percentage", percent)]);
        let due = |config: &Config, log_bytes, snapshot_bytes| {
            due_save(config, &SaveFacts { log_bytes, snapshot_bytes, ..facts() }, 2_000)
        };
        assert_eq!(due(&logged("100"), 64 * MIB, 0), None);
        assert_eq!(due(&logged("100"), 64 * MIB + 1, 0), Some(SaveKind::Rewrite));
        assert_eq!(due(&logged("100"), 100 * MIB, 100 * MIB), None);
        assert_eq!(due(&logged("100"), 101 * MIB, 100 * MIB), Some(SaveKind::Rewrite));
        assert_eq!(due(&logged("50"), 101 * MIB, 200 * MIB), Some(SaveKind::Rewrite));
        assert_eq!(due(&logged("0"), u64::MAX, 0), None);
        assert_eq!(due(&config(&[("appendonly", "no")]), u64::MAX, 0), None);
    }

    #[test]
    fn failures_make_the_next_try_wait() {
        let config = config(&[("appendonly", "yes")]);
        for (failures, wait_s) in [(1, 5), (2, 10), (6, 160), (7, 300), (8, 300), (70, 300), (u32::MAX, 300)] {
            let facts = SaveFacts {
                failures_in_a_row: failures,
                last_attempt_s: 5_000,
                log_bytes: 65 * MIB,
                last_save_ok: false,
                ..facts()
            };
            assert_eq!(due_save(&config, &facts, 5_000 + wait_s - 1), None, "{failures}");
            assert_eq!(due_save(&config, &facts, 5_000 + wait_s), Some(SaveKind::Rewrite), "{failures}");
            assert_eq!(due_save(&config, &facts, 1_000), Some(SaveKind::Rewrite), "the clock was set back");
        }
    }
}
