//! Replies that wait for the disk. Under `appendfsync always` nothing leaves a shard before every change that it could have
//! observed is durable: the reply to a write, and the reply to a read of a key whose last change is on its way to the disk.
//!
//! Commands are executed at once, and in order; what waits is the reply, with its place kept in the order of its session,
//! or in the credit of the shard that asked. Other clients' replies do not wait, and neither do those to commands that
//! neither read nor write keys.

use std::collections::VecDeque;

use torc_protocol::resp::reply::ReplyBuffer;

use super::turn::{Context, Origin};
use super::{Core, Shard};
use crate::command::{Call, counts_keys, flag};
use crate::log::Lsn;
use crate::message::Target;
use crate::planted::{Bug, is_planted};

/// A reply, and the change that has to be durable first.
struct Held {
    lsn: Lsn,
    origin: Origin,
    reply: ReplyBuffer,
}

/// The replies of one shard that wait, in the order in which they were given.
#[derive(Default)]
pub(super) struct HeldReplies {
    queue: VecDeque<Held>,
    /// Bytes of those that are not a session's of this shard: sessions count their own.
    bytes: u64,
}

impl Held {
    /// Bytes of memory. Shared values belong to the store too.
    fn held_bytes(&self) -> usize {
        self.reply.bytes.capacity() + size_of::<Held>()
    }
}

impl HeldReplies {
    /// Bytes of replies that are in no session's sum.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }
}

impl Core {
    /// The last change, if replies wait for changes.
    #[inline(always)]
    pub(super) fn changed_before(&mut self) -> Option<Lsn> {
        let log = self.store.log();
        log.is_waiting().then(|| log.last_lsn())
    }

    /// The change that the reply to a command has to wait for, if any. `before` is the last one before it was executed.
    #[inline(always)]
    pub(super) fn awaited(&mut self, call: &Call<'_>, before: Option<Lsn>) -> Option<Lsn> {
        before.and_then(|before| self.awaited_since(call, before))
    }

    #[cold]
    fn awaited_since(&mut self, call: &Call<'_>, before: Lsn) -> Option<Lsn> {
        let gate = call.command.gate();
        let keyspace = self.store.keyspace_id(call.db);
        let log = self.store.log();
        let last = log.last_lsn();
        let observed = match gate.single_key as usize {
            _ if last > before && is_planted(Bug::AcknowledgedEarly) => Lsn(0),
            _ if last > before => last,
            // Whoever asks about several keys, or all, waits for all.
            0 if gate.flags & (flag::READONLY | flag::WRITE) != 0 || counts_keys(call) => last,
            0 => Lsn(0),
            _ if is_planted(Bug::ReadNotHeld) => Lsn(0),
            key => log.observed(keyspace, call.args().get(key)),
        };
        Some(observed).filter(|&lsn| lsn > log.durable_lsn())
    }
}

impl Shard {
    /// Keeps a reply until a change is durable.
    pub(super) fn hold(&mut self, lsn: Lsn, origin: Origin, reply: ReplyBuffer) {
        let held = Held { lsn, origin, reply };
        match origin {
            Origin::Home(Target::Session { id, .. }) => {
                if let Some(session) = self.sessions.get_mut(id) {
                    session.replies.hold(held.reply.len(), held.held_bytes());
                    super::list(&mut self.ready, id, session);
                }
            }
            _ => self.held.bytes += held.held_bytes() as u64,
        }
        self.held.queue.push_back(held);
    }

    /// Sends the replies whose changes are durable by now, or that need not wait any more.
    pub(super) fn release_durable(&mut self, context: &mut Context<'_>) {
        if self.held.is_empty() {
            return;
        }
        let log = self.core.store.log();
        let early = u64::from(is_planted(Bug::ReleasedOneEarly));
        let durable = if log.is_waiting() { Lsn(log.durable_lsn().0 + early) } else { Lsn(u64::MAX) };
        log.forget_durable();
        while self.held.queue.front().is_some_and(|held| held.lsn <= durable)
            && let Some(mut held) = self.held.queue.pop_front()
        {
            match held.origin {
                Origin::Home(Target::Session { id, .. }) => {
                    if let Some(session) = self.sessions.get_mut(id) {
                        session.replies.release(held.reply.len(), held.held_bytes());
                    }
                }
                _ => self.held.bytes -= held.held_bytes() as u64,
            }
            self.finish(context, held.origin, &mut held.reply);
        }
    }
}
