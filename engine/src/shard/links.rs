//! What this shard has under way with each other shard: the frame of this turn, and the credit.
//!
//! A shard may have a bounded number of requests, and bytes of requests, under way to each other one. When the credit of
//! any link is used up the shard stops reading commands from its clients until replies come back. What shard 0 passes on for
//! the others (`Route::Ordered`) is bounded by theirs. Replies need no credit: there is never more of them than requests, so two shards that are both out of credit still answer each other.

use torc_protocol::args::Args;

use crate::id::ShardId;
use crate::limits;
use crate::message::{Frame, RequestHead};
use crate::planted::{Bug, is_planted};

/// The link to one other shard.
#[derive(Debug, Default)]
pub(crate) struct Link {
    /// What this turn has to say so far. It may stay over for a later turn if the queue is full.
    pub frame: Frame,
    requests: u32,
    bytes: u64,
}

/// The links to all shards; the one to itself is never used.
#[derive(Debug)]
pub(crate) struct Links {
    links: Vec<Link>,
    outstanding: usize,
    /// Links that have no credit left.
    exhausted: usize,
    /// Requests sent since the start.
    pub forwarded: u64,
    /// Frames to be filled again.
    spare: Vec<Frame>,
}

impl Links {
    pub fn new(shards: usize) -> Links {
        let links = (0..shards).map(|_| Link::default()).collect();
        Links { links, outstanding: 0, exhausted: 0, forwarded: 0, spare: Vec::new() }
    }

    /// Whether a command may be read: it may go to any shard.
    #[inline]
    pub fn have_credit(&self) -> bool {
        self.exhausted == 0
    }

    /// Requests without reply.
    pub fn outstanding(&self) -> usize {
        self.outstanding
    }

    /// Sends a request with this turn's frame.
    pub fn send(&mut self, to: ShardId, head: RequestHead, args: Args<'_>) {
        let link = &mut self.links[to.index()];
        let had_credit = link.has_credit();
        let cost = link.frame.push_request(head, args);
        link.requests += 1;
        link.bytes += cost as u64;
        self.exhausted += (had_credit && !link.has_credit()) as usize;
        self.outstanding += 1;
        self.forwarded += 1;
    }

    /// A reply came: its credit is free again. True if this ended a shortage.
    #[inline]
    pub fn replied(&mut self, from: ShardId, cost: u32) -> bool {
        let link = &mut self.links[from.index()];
        let had_credit = link.has_credit();
        link.requests -= 1;
        link.bytes -= cost as u64;
        if is_planted(Bug::CreditTwice) {
            link.requests -= (link.requests > 1) as u32;
        }
        self.outstanding -= 1;
        let restored = !had_credit && link.has_credit();
        self.exhausted -= restored as usize;
        restored
    }

    /// The frame to a shard, to write a reply into.
    #[inline]
    pub fn frame(&mut self, to: ShardId) -> &mut Frame {
        &mut self.links[to.index()].frame
    }

    /// Takes the frame to a shard, if there is anything in it.
    #[inline]
    pub fn take_frame(&mut self, to: ShardId) -> Option<Frame> {
        let frame = &mut self.links[to.index()].frame;
        if frame.is_empty() {
            return None;
        }
        Some(std::mem::replace(frame, self.spare.pop().unwrap_or_default()))
    }

    /// Whether anything waits to be taken.
    pub fn have_frames(&self) -> bool {
        self.links.iter().any(|link| !link.frame.is_empty())
    }

    /// Bytes of the frames kept for reuse.
    pub fn spare_bytes(&self) -> usize {
        self.spare.iter().map(|frame| frame.body.bytes.capacity()).sum()
    }

    /// Keeps a frame that was read for reuse: what comes in balances what goes out.
    pub fn recycle(&mut self, mut frame: Frame) {
        frame.body.clear();
        if frame.body.bytes.capacity() <= limits::FRAME_KEPT_BYTES_MAX && self.spare.len() < limits::FRAMES_KEPT_MAX {
            self.spare.push(frame);
        }
    }
}

impl Link {
    #[inline]
    fn has_credit(&self) -> bool {
        self.requests < limits::CREDIT_REQUESTS && self.bytes < limits::CREDIT_BYTES
    }
}
