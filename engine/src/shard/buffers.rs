//! Memory that clients can make the server hold: when a client is not read, and when it is closed.
//!
//! A client that does not read its replies is not read either once they pass [`limits::OUTPUT_PAUSE_BYTES`]; its input
//! waits in the kernel and then at the client. Past `client-output-buffer-limit` it is closed. For the process there is
//! `maxmemory-clients`: past it the client that holds the most is not read, and if that does not help it is closed.

use super::Shard;
use super::sessions::Session;
use crate::id::{Millis, SessionId};
use crate::limits;

impl Session {
    /// Whether the session's next command may be parsed, as far as it is up to the session.
    #[inline]
    pub(super) fn may_read(&self) -> bool {
        self.replies.outstanding() < limits::SESSION_OUTSTANDING_MAX
            && self.replies.unsent_bytes() < limits::OUTPUT_PAUSE_BYTES
    }
}

impl Shard {
    /// Whether a stalled session may go on: with some distance to the bounds, so that it does not stop at once again.
    pub(super) fn may_resume(&self, id: SessionId) -> bool {
        let Some(session) = self.sessions.get(id) else { return false };
        self.links.have_credit()
            && !self.paused
            && !self.is_log_awaited(session)
            && (!session.alone || session.replies.outstanding() == 0)
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
            if session.replies.has_values() && !std::mem::replace(&mut session.has_values, true) {
                self.with_values.push_back(id);
            }
        }
    }

    /// At each tick: what replies share with the store may have been overwritten or removed there, and is the session's
    /// alone then. (What several sessions hold and the store does not is in nobody's sum.)
    pub(super) fn count_values_again(&mut self) {
        for _ in 0..self.with_values.len().min(limits::COUNTED_SESSIONS_MAX) {
            let Some(id) = self.with_values.pop_front() else { break };
            let Some(session) = self.sessions.get_mut(id) else { continue };
            // The count puts it on the list again if it still has any.
            session.has_values = false;
            self.account(id);
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

    /// Looks at the sessions of this turn: closes those past their limits, and acts when the process holds too much.
    pub(super) fn enforce_buffer_limits(&mut self, now: Millis) {
        for index in 0..self.ready.len() {
            let id = self.ready[index];
            self.account(id);
            self.check_output(id, now);
        }
        let limit = self.core.config.maxmemory_clients;
        let own = self.buffers_bytes();
        let total = own + self.buffer_bytes_others;
        // The shards that hold their share or more act, each on its own clients.
        if total > limit && own >= limit / self.core.shards as u64 {
            self.relieve(now);
        } else if total <= limit && !self.choked.is_empty() {
            self.release(now);
        }
    }

    /// `client-output-buffer-limit`: closes a session past the hard limit, or past the soft one for too long.
    fn check_output(&mut self, id: SessionId, now: Millis) {
        let limit = self.core.config.output_limits.normal;
        let Some(session) = self.sessions.get_mut(id) else { return };
        if session.killed || limit.hard_bytes == 0 && limit.soft_bytes == 0 {
            session.over_soft_limit_since = None;
            return;
        }
        let unsent = session.replies.unsent_bytes() as u64;
        let mut over = limit.hard_bytes > 0 && unsent > limit.hard_bytes;
        if limit.soft_bytes > 0 && unsent > limit.soft_bytes {
            if !std::mem::replace(&mut session.watched, true) {
                self.over_soft_limit.push_back(id);
            }
            let since = *session.over_soft_limit_since.get_or_insert(now);
            over |= now.0.saturating_sub(since.0) > limit.soft_s.saturating_mul(1000);
        } else {
            session.over_soft_limit_since = None;
        }
        if over {
            self.core.stats.counters.client_output_buffer_limit_disconnections += 1;
            self.kill(id);
        }
    }

    /// At each tick: sessions over the soft limit, of which nothing need be heard any more.
    pub(super) fn check_soft_limits(&mut self, now: Millis) {
        for _ in 0..self.over_soft_limit.len() {
            let Some(id) = self.over_soft_limit.pop_front() else { break };
            let Some(session) = self.sessions.get_mut(id) else { continue };
            // The look puts it on the list again if it is still over the limit.
            session.watched = false;
            self.check_output(id, now);
        }
    }

    /// The biggest holder is not read any more; if that does not help for a while, it is closed.
    #[cold]
    fn relieve(&mut self, now: Millis) {
        let alive = || self.sessions.iter().filter(|(_, session)| !session.killed && session.accounted_bytes > 0);
        let bytes = |(_, session): &(SessionId, &Session)| session.accounted_bytes;
        let Some((id, biggest)) = alive().max_by_key(bytes) else { return };
        let time_is_up = |since: Millis| now.0.saturating_sub(since.0) >= limits::CHOKED_MS;
        if biggest.choked_since.is_some_and(time_is_up) {
            self.core.stats.counters.evicted_clients += 1;
            self.kill(id);
            return self.choked.retain(|&id| self.sessions.get(id).is_some());
        }
        // Until then the next biggest are not read either.
        let unchoked = alive().filter(|(_, session)| session.choked_since.is_none()).max_by_key(bytes);
        let Some(id) = unchoked.map(|(id, _)| id) else { return };
        if let Some(session) = self.sessions.get_mut(id) {
            session.choked_since = Some(now);
            self.choked.push_back(id);
            self.list(id);
        }
    }

    /// The process holds no more than it may: clients are read again, each after its time.
    #[cold]
    fn release(&mut self, now: Millis) {
        for _ in 0..self.choked.len() {
            let Some(id) = self.choked.pop_front() else { break };
            let Some(session) = self.sessions.get_mut(id) else { continue };
            let since = session.choked_since.unwrap_or(now);
            if now.0.saturating_sub(since.0) < limits::CHOKED_MS {
                self.choked.push_back(id);
                continue;
            }
            session.choked_since = None;
            self.list(id);
        }
    }

    /// Whether limits need the clock: soft limits, and clients that are not read while the process holds too much.
    pub(super) fn buffers_need_timer(&self) -> bool {
        let limit = self.core.config.maxmemory_clients;
        let full = self.buffers_bytes() + self.buffer_bytes_others > limit / 10 * 8;
        full || !self.with_values.is_empty() || !self.choked.is_empty() || !self.over_soft_limit.is_empty()
    }
}
