//! The sessions of one shard, found by place and generation.

use torc_protocol::resp::request::RequestParser;

use super::log_state::AwaitedLog;
use super::replies::Replies;
use super::turn::Postponed;
use crate::id::{Millis, SessionId};
use crate::planted::{Bug, is_planted};
use crate::session::Client;

/// A client's conversation with everything about its bytes.
#[derive(Debug)]
pub(crate) struct Session {
    pub client: Client,
    pub parser: RequestParser,
    pub replies: Replies,
    /// Input that was received and not parsed, because the session was stalled.
    pub backlog: Vec<u8>,
    /// In the list of sessions that the runtime is to look at.
    pub listed: bool,
    /// Its commands wait: for replies to go out, for replies to come, or for credit.
    pub stalled: bool,
    /// It waits until all its commands are answered.
    pub alone: bool,
    /// Its next command waits until this log has caught up.
    pub awaited_log: Option<AwaitedLog>,
    /// Its next command, if that is read already and not at the beginning of the backlog.
    pub postponed: Option<Box<Postponed>>,
    /// Arguments of its commands about several keys, since it last had none unanswered.
    pub args_outstanding: usize,
    /// The client has sent everything it will ever send.
    pub eof: bool,
    /// No more commands are read; close when the replies are out.
    pub closing: bool,
    /// Close at once.
    pub killed: bool,
    /// Since when it is not read, because client buffers are over the limit of the process and it holds the most.
    pub choked_since: Option<Millis>,
    /// Bytes counted for this session in the shard's sum.
    pub accounted_bytes: usize,
    /// In the list of sessions with refcounted values in their output.
    pub has_values: bool,
    /// Since when the output has been over the soft limit.
    pub over_soft_limit_since: Option<Millis>,
    /// In the list of sessions whose output is looked at by the clock.
    pub watched: bool,
}

impl Session {
    pub fn new(client: Client) -> Session {
        Session {
            client,
            parser: RequestParser::default(),
            replies: Replies::default(),
            backlog: Vec::new(),
            listed: false,
            stalled: false,
            alone: false,
            awaited_log: None,
            postponed: None,
            args_outstanding: 0,
            eof: false,
            closing: false,
            killed: false,
            choked_since: None,
            accounted_bytes: 0,
            has_values: false,
            over_soft_limit_since: None,
            watched: false,
        }
    }

    /// Bytes of memory that the session's buffers hold.
    #[inline]
    pub fn buffer_bytes(&self) -> usize {
        let names = self.client.name.capacity() + self.client.lib_name.capacity() + self.client.lib_version.capacity();
        let postponed = self.postponed.as_ref().map_or(0, |postponed| postponed.held_bytes());
        self.backlog.capacity() + self.parser.held_bytes() + self.replies.held_bytes() + names + postponed
    }
}

#[derive(Debug, Default)]
pub(crate) struct Sessions {
    slots: Vec<Slot>,
    free: Vec<u32>,
}

#[derive(Debug)]
struct Slot {
    generation: u32,
    session: Option<Session>,
}

impl Sessions {
    pub fn insert(&mut self, session: Session) -> SessionId {
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None => {
                self.slots.push(Slot { generation: 0, session: None });
                self.slots.len() as u32 - 1
            }
        };
        let place = &mut self.slots[slot as usize];
        place.session = Some(session);
        SessionId { slot, generation: place.generation }
    }

    pub fn remove(&mut self, id: SessionId) -> Option<Session> {
        let place = self.slots.get_mut(id.slot as usize).filter(|place| place.generation == id.generation)?;
        let session = place.session.take()?;
        place.generation = place.generation.wrapping_add(1);
        self.free.push(id.slot);
        Some(session)
    }

    #[inline]
    pub fn get(&self, id: SessionId) -> Option<&Session> {
        let place = self.slots.get(id.slot as usize)?;
        if place.generation == id.generation { place.session.as_ref() } else { None }
    }

    #[inline]
    pub fn get_mut(&mut self, id: SessionId) -> Option<&mut Session> {
        let place = self.slots.get_mut(id.slot as usize)?;
        let is_same = place.generation == id.generation || is_planted(Bug::StaleSession);
        if is_same { place.session.as_mut() } else { None }
    }

    /// Places in use or used once.
    pub fn slots(&self) -> usize {
        self.slots.len()
    }

    /// The session at a place, if there is one.
    pub fn at(&self, slot: usize) -> Option<(SessionId, &Session)> {
        let place = self.slots.get(slot)?;
        let id = SessionId { slot: slot as u32, generation: place.generation };
        place.session.as_ref().map(|session| (id, session))
    }

    /// All sessions.
    pub fn iter(&self) -> impl Iterator<Item = (SessionId, &Session)> {
        (0..self.slots.len()).filter_map(|slot| self.at(slot))
    }
}
