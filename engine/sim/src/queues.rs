//! The way from each shard to each other: frames arrive in the order sent, late, and a full queue takes none.

use std::collections::VecDeque;

use torc_engine::message::Frame;

use crate::random::Random;

/// The queues between all pairs of shards.
pub(crate) struct Queues {
    shards: usize,
    /// By sender, then receiver.
    queues: Vec<Queue>,
    capacity: usize,
    delay_max: usize,
    random: Random,
    pub frames: u64,
}

#[derive(Default)]
struct Queue {
    /// Each frame with the step in which it arrives. Steps never decrease.
    frames: VecDeque<(u64, Frame)>,
}

impl Queues {
    pub fn new(shards: usize, capacity: usize, delay_max: usize, random: Random) -> Queues {
        let queues = (0..shards * shards).map(|_| Queue::default()).collect();
        Queues { shards, queues, capacity, delay_max, random, frames: 0 }
    }

    pub fn has_room(&self, from: usize, to: usize) -> bool {
        self.queues[from * self.shards + to].frames.len() < self.capacity
    }

    pub fn push(&mut self, step: u64, from: usize, to: usize, frame: Frame) {
        let delay = self.random.between(0, self.delay_max) as u64;
        let queue = &mut self.queues[from * self.shards + to];
        let after_the_last = queue.frames.back().map_or(0, |&(arrival, _)| arrival);
        queue.frames.push_back(((step + delay).max(after_the_last), frame));
        self.frames += 1;
    }

    /// The next frame that has arrived.
    pub fn pop(&mut self, step: u64, from: usize, to: usize) -> Option<Frame> {
        let frames = &mut self.queues[from * self.shards + to].frames;
        match frames.front() {
            Some(&(arrival, _)) if arrival <= step => frames.pop_front().map(|(_, frame)| frame),
            _ => None,
        }
    }

    pub fn is_empty_between(&self, from: usize, to: usize) -> bool {
        self.queues[from * self.shards + to].frames.is_empty()
    }

    pub fn is_empty(&self) -> bool {
        self.queues.iter().all(|queue| queue.frames.is_empty())
    }
}
