//! Memory that clients can make the server hold: when a client is not read, and when it is closed.
//!
//! A client that does not read its replies is not read either once they pass [`limits::OUTPUT_PAUSE_BYTES`]; its input
//! waits in the kernel and then at the client. Past `client-output-buffer-limit` it is closed. For the process there is
//! `maxmemory-clients`: past it the client that holds the most is not read, and if that does not help it is closed.

use super::Shard;
use crate::id::{Millis, SessionId};
use crate::limits;

impl Shard {
    /// Whether a session's next command may be parsed.
    #[inline]
    pub(super) fn may_read(&self, id: SessionId) -> bool {
        let Some(session) = self.sessions.get(id) else { return false };
        self.links.have_credit()
            && session.replies.outstanding() < limits::SESSION_OUTSTANDING_MAX
            && session.replies.unsent_bytes() < limits::OUTPUT_PAUSE_BYTES
            && self.waiters.len() < limits::WAITERS_MAX
    }

    /// Whether a stalled session may go on: with some distance to the bounds, so that it does not stop at once again.
    pub(super) fn may_resume(&self, id: SessionId) -> bool {
        let Some(session) = self.sessions.get(id) else { return false };
        self.links.have_credit()
            && session.replies.outstanding() <= limits::SESSION_OUTSTANDING_MAX / 2
            && session.replies.unsent_bytes() <= limits::OUTPUT_RESUME_BYTES
            && self.waiters.len() <= limits::WAITERS_MAX / 2
    }

    /// Brings the sum of buffers up to date after a session's changed.
    #[inline]
    pub(super) fn account(&mut self, id: SessionId) {
        if let Some(session) = self.sessions.get_mut(id) {
            let bytes = session.buffer_bytes();
            self.buffer_bytes = self.buffer_bytes + bytes as u64 - session.accounted_bytes as u64;
            session.accounted_bytes = bytes;
        }
    }

    /// Closes a session at once.
    pub(super) fn kill(&mut self, id: SessionId) {
        if let Some(session) = self.sessions.get_mut(id) {
            session.killed = true;
            session.closing = true;
            self.list(id);
        }
    }

    /// Looks at the sessions of this turn: closes those past their hard limit, and acts when the process holds too much.
    pub(super) fn enforce_buffer_limits(&mut self, now: Millis) {
        let limit = self.core.config.output_limits.normal;
        for index in 0..self.ready.len() {
            let id = self.ready[index];
            self.account(id);
            let Some(session) = self.sessions.get_mut(id) else { continue };
            if limit.hard_bytes == 0 && limit.soft_bytes == 0 {
                continue;
            }
            let unsent = session.replies.unsent_bytes() as u64;
            let mut over = limit.hard_bytes > 0 && unsent > limit.hard_bytes;
            if limit.soft_bytes > 0 && unsent > limit.soft_bytes {
                let since = *session.over_soft_limit_since.get_or_insert(now);
                over |= now.0 - since.0 > limit.soft_s * 1000;
            } else {
                session.over_soft_limit_since = None;
            }
            if over {
                self.core.stats.counters.client_output_buffer_limit_disconnections += 1;
                self.kill(id);
            }
        }
        let limit = self.core.config.maxmemory_clients;
        let total = self.buffer_bytes + self.buffer_bytes_others;
        // The shards that hold their share or more act, each on its own clients.
        if total > limit && self.buffer_bytes >= limit / self.core.shards as u64 {
            self.relieve();
        }
    }

    /// The biggest holder is not read any more; if it is that already, it is closed.
    #[cold]
    fn relieve(&mut self) {
        let alive = self.sessions.iter().filter(|(_, session)| !session.killed);
        let Some((id, _)) = alive.max_by_key(|(_, session)| session.accounted_bytes) else { return };
        let Some(session) = self.sessions.get_mut(id) else { return };
        if session.choked {
            self.core.stats.counters.evicted_clients += 1;
            self.kill(id);
        } else {
            session.choked = true;
            self.list(id);
        }
    }

    /// Whether limits need the clock: soft limits, and clients that are not read while the process holds too much.
    pub(super) fn buffers_need_timer(&self) -> bool {
        let limit = self.core.config.maxmemory_clients;
        self.buffer_bytes + self.buffer_bytes_others > limit / 10 * 8
    }
}
