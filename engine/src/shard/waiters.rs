//! Commands that go on in slices, so that no command holds the shard for long. Each keeps its place in the order of its
//! client's replies; other commands go on between its slices. (Those built so far hold no locks: KEYS promises what SCAN
//! does. What waits for a key will queue here too.)

use std::collections::VecDeque;

use torc_protocol::args::Args;
use torc_protocol::resp::reply::{Dialect, ReplyWriter};

use super::turn::{Batch, Context, Origin};
use super::{Event, Shard};
use crate::command::{NOT_ENDED, Wait};
use crate::limits;
use crate::machine::SaveFacts;

/// A command that waits, with what it needs to be answered.
pub(super) struct Waiter {
    origin: Origin,
    dialect: Dialect,
    wait: Wait,
}

impl Waiter {
    pub fn new(origin: Origin, dialect: Dialect, wait: Wait) -> Waiter {
        Waiter { origin, dialect, wait }
    }
}

/// The waiting commands of one shard, in turn.
#[derive(Default)]
pub(super) struct Waiters {
    queue: VecDeque<Waiter>,
    /// SAVEs, which are looked at when something is known of saves. Each has a client of its own that waits with it.
    saves: Vec<Waiter>,
}

impl Waiters {
    pub fn push(&mut self, waiter: Waiter) {
        match waiter.wait {
            Wait::Save(_) => self.saves.push(waiter),
            _ => self.queue.push_back(waiter),
        }
    }

    /// Whether a command waits that goes on in slices.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    pub fn len(&self) -> usize {
        self.queue.len()
    }

    pub fn have_saves(&self) -> bool {
        !self.saves.is_empty()
    }
}

impl Shard {
    /// Gives the command at the head of the queue a slice.
    pub(super) fn step_waiters(&mut self, context: &mut Context<'_>, batch: &mut Batch) {
        let Some(mut waiter) = self.waiters.queue.pop_front() else { return };
        let store = &self.core.store;
        let waits = match &mut waiter.wait {
            Wait::Keys(scan) => scan.step(store, context.now),
            Wait::Freed { flushes } => !store.has_freed(*flushes),
            Wait::Sleep(sleep) => sleep.step(context.machine),
            Wait::Save(_) => unreachable!("it is among the saves"),
        };
        if waits {
            return self.waiters.queue.push_back(waiter);
        }
        // Sessions that wait because too many commands did need not be those whose command has ended.
        self.recheck |= self.waiters.len() == limits::WAITERS_MAX / 2;
        let mut writer = ReplyWriter::new(&mut batch.scratch, waiter.dialect);
        match waiter.wait {
            Wait::Keys(scan) => scan.write(&mut writer),
            Wait::Freed { .. } | Wait::Sleep(_) | Wait::Save(_) => writer.ok(),
        }
        let mut reply = std::mem::take(&mut batch.scratch);
        // It has seen all keys, or changed them.
        match self.core.changed_before().filter(|&last| last > self.core.store.log().durable_lsn()) {
            Some(lsn) => self.hold(lsn, waiter.origin, std::mem::take(&mut reply)),
            None => self.finish(context, waiter.origin, &mut reply),
        }
        reply.clear();
        batch.scratch = reply;
    }
    /// Answers the SAVEs that have ended.
    pub(super) fn step_saves(&mut self, context: &mut Context<'_>, batch: &mut Batch, facts: &SaveFacts) {
        for mut waiter in std::mem::take(&mut self.waiters.saves) {
            let Wait::Save(save) = &mut waiter.wait else { unreachable!("nothing else is among the saves") };
            let ends = save.ends;
            let Some(result) = save.step(facts, context.machine, self.stopping) else {
                self.waiters.saves.push(waiter);
                continue;
            };
            let mut reply = std::mem::take(&mut batch.scratch);
            let mut writer = ReplyWriter::new(&mut reply, waiter.dialect);
            match result {
                // No reply: the connection ends when the process does.
                Ok(()) if ends => self.events.push_back(Event::Shutdown { save: Some(true) }),
                Ok(()) => writer.ok(),
                Err(error) => {
                    let error = if ends { NOT_ENDED } else { error };
                    self.core.stats.counters.total_error_replies += 1;
                    writer.error(&error.text("save", Args::new(&[], &[], &[])));
                }
            }
            self.finish(context, waiter.origin, &mut reply);
            reply.clear();
            batch.scratch = reply;
        }
    }
}
