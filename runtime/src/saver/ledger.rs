//! What shards and the main thread know of saves: which one is under way, how the last ones ended, and how much has changed
//! since. Looked at for commands about saves and at ticks, never on the way of a key.

use std::sync::mpsc::Sender;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use torc_engine::id::ShardId;
use torc_engine::machine::{SaveFacts, SaveKind, SaveRefused};

use crate::worker::Notice;

/// The state of saves.
pub struct Ledger {
    state: Mutex<State>,
    notices: Sender<Notice>,
}

struct State {
    /// But for what has changed, which is worked out when it is asked for.
    facts: SaveFacts,
    /// By shard, since the start of the process.
    shards: Vec<Changed>,
    /// What all shards had changed when the last good save began, and when the one did that is under way.
    saved: Changed,
    saving: Changed,
}

#[derive(Clone, Copy, Default)]
struct Changed {
    changes: u64,
    log_bytes: u64,
}

impl State {
    fn changed(&self) -> Changed {
        self.shards.iter().fold(Changed::default(), |sum, shard| Changed {
            changes: sum.changes + shard.changes,
            log_bytes: sum.log_bytes + shard.log_bytes,
        })
    }

    fn begin(&mut self, kind: SaveKind) -> u64 {
        let now = unix_seconds();
        (self.facts.running, self.facts.last_attempt_s) = (Some((kind, now)), now);
        self.saving = self.changed();
        self.facts.ended + 1
    }
}

impl Ledger {
    pub fn new(shards: usize, notices: Sender<Notice>) -> Ledger {
        let facts = SaveFacts {
            last_save_s: unix_seconds(),
            last_save_ok: true,
            last_rewrite_ok: true,
            ..SaveFacts::default()
        };
        let (shards, saved) = (vec![Changed::default(); shards], Changed::default());
        Ledger { state: Mutex::new(State { facts, shards, saved, saving: saved }), notices }
    }

    /// There can be saves from now on: everything that there is is loaded.
    pub fn allow(&self) {
        self.state().facts.is_available = true;
    }

    /// Begins a save, unless one is under way; the main thread is told. Gives its number.
    pub fn begin(&self, kind: SaveKind) -> Result<u64, SaveRefused> {
        self.begin_in(&mut self.state(), kind)
    }

    fn begin_in(&self, state: &mut State, kind: SaveKind) -> Result<u64, SaveRefused> {
        if !state.facts.is_available {
            return Err(SaveRefused::Unavailable);
        }
        if let Some((running, _)) = state.facts.running {
            return Err(SaveRefused::Running(running));
        }
        let number = state.begin(kind);
        // The main thread outlives the shards.
        let _ = self.notices.send(Notice::Save);
        Ok(number)
    }

    /// Has a save begin when the one under way has ended, or at once.
    pub fn schedule(&self, kind: SaveKind) {
        let mut state = self.state();
        if self.begin_in(&mut state, kind).is_err() {
            state.facts.scheduled = Some(kind);
        }
    }

    /// The save under way has ended: with so many bytes, or not well.
    pub fn end(&self, bytes: Option<u64>) {
        let mut state = self.state();
        let Some((kind, began_s)) = state.facts.running.take() else { return };
        let now = unix_seconds();
        let took = Some(now.saturating_sub(began_s));
        let saving = state.saving;
        let facts = &mut state.facts;
        facts.ended += 1;
        (facts.last_save_ok, facts.last_save_took_s) = (bytes.is_some(), took);
        if kind == SaveKind::Rewrite {
            (facts.last_rewrite_ok, facts.last_rewrite_took_s) = (bytes.is_some(), took);
        }
        match bytes {
            Some(bytes) => {
                (facts.last_save_s, facts.snapshot_bytes, facts.failures_in_a_row) = (now, bytes, 0);
                facts.saves += 1;
                facts.rewrites += u64::from(kind == SaveKind::Rewrite);
                state.saved = saving;
            }
            None => {
                facts.failed = facts.ended;
                facts.failures_in_a_row += 1;
            }
        }
    }

    /// Begins what was scheduled, if nothing is under way. True: there was something.
    pub fn begin_scheduled(&self) -> bool {
        let mut state = self.state();
        if state.facts.running.is_some() {
            return false;
        }
        let Some(kind) = state.facts.scheduled.take() else { return false };
        state.begin(kind);
        true
    }

    /// What is known now.
    pub fn facts(&self) -> SaveFacts {
        let state = self.state();
        let now = state.changed();
        SaveFacts {
            changes: now.changes.saturating_sub(state.saved.changes),
            log_bytes: now.log_bytes.saturating_sub(state.saved.log_bytes),
            ..state.facts
        }
    }

    /// How much a shard has changed since the start.
    pub fn publish(&self, shard: ShardId, changes: u64, log_bytes: u64) {
        self.state().shards[shard.index()] = Changed { changes, log_bytes };
    }

    /// What a save was made of that this process found at its start.
    pub fn note_loaded(&self, snapshot_bytes: u64, log_bytes: u64) {
        let mut state = self.state();
        state.facts.snapshot_bytes = snapshot_bytes;
        // The log that there was counts: what is behind is what it came to.
        state.shards[0].log_bytes += log_bytes;
    }

    /// Plain numbers: whoever panicked while it had them has left none half written.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn saves_come_one_after_the_other_and_count_what_they_hold() {
        let (notices, noticed) = mpsc::channel();
        let ledger = Ledger::new(2, notices);
        assert_eq!(ledger.begin(SaveKind::Snapshot), Err(SaveRefused::Unavailable));
        ledger.allow();
        ledger.publish(ShardId(0), 10, 1000);
        ledger.publish(ShardId(1), 5, 500);
        assert_eq!((ledger.facts().changes, ledger.facts().log_bytes), (15, 1500));
        assert_eq!(ledger.begin(SaveKind::Snapshot), Ok(1));
        assert!(matches!(noticed.try_recv(), Ok(Notice::Save)));
        assert_eq!(ledger.begin(SaveKind::Rewrite), Err(SaveRefused::Running(SaveKind::Snapshot)));
        ledger.schedule(SaveKind::Rewrite);
        assert_eq!(ledger.facts().scheduled, Some(SaveKind::Rewrite));
        // What came after it was begun is not in it.
        ledger.publish(ShardId(1), 6, 600);
        ledger.end(Some(4096));
        let facts = ledger.facts();
        assert_eq!((facts.changes, facts.log_bytes, facts.snapshot_bytes), (1, 100, 4096));
        assert_eq!((facts.saves, facts.ended, facts.failed, facts.running), (1, 1, 0, None));

        assert!(ledger.begin_scheduled() && !ledger.begin_scheduled());
        assert!(noticed.try_recv().is_err(), "who begins it knows");
        ledger.end(None);
        let facts = ledger.facts();
        assert_eq!((facts.ended, facts.failed, facts.failures_in_a_row, facts.changes), (2, 2, 1, 1));
        assert!(!facts.last_save_ok && !facts.last_rewrite_ok);
        assert_eq!(ledger.begin(SaveKind::Snapshot), Ok(3));
        ledger.end(Some(1));
        assert_eq!(ledger.facts().failures_in_a_row, 0);
    }
}
