//! How shards reach each other: a queue per ordered pair, and a flag that says who sleeps.
//!
//! A [`Port`] is one shard's end of everything: it pushes to each peer, pops from each peer, announces that its shard
//! parks and says which peer has to be woken. Waking itself is a matter of the ring (`worker/peers.rs`).
//!
//! The queues carry [`Parcel`]s: what a shard's turn has to say to another shard, or a connection that is handed over to
//! the core with the fewest. They are bounded; the sender asks for room first and keeps what does not fit.

mod parking;
mod queue;
mod sync;
#[cfg(test)]
mod tests;

use socket2::Socket;
use torc_engine::id::ShardId;
use torc_engine::message::Frame;

pub use parking::Parking;
pub use queue::{Consumer, Producer, queue};
pub use sync::{Arc, CachePadded};

/// What travels from one shard to another.
pub enum Parcel {
    /// What one turn had to say.
    Frame(Frame),
    /// An accepted connection; it is counted as the receiver's already.
    Connection(Socket),
}

/// One shard's end of the mesh.
pub struct Port<T> {
    own: ShardId,
    /// By peer; None at the shard's own place.
    producers: Vec<Option<Producer<T>>>,
    consumers: Vec<Option<Consumer<T>>>,
    parkings: Arc<Vec<CachePadded<Parking>>>,
    /// Peers pushed to since `poll_wake` last looked at them.
    touched: Vec<bool>,
    any_touched: bool,
}

/// The ports of `shards` shards, in their order, with queues of `capacity`.
pub fn mesh<T: Send>(shards: usize, capacity: usize) -> Vec<Port<T>> {
    let parkings = Arc::new((0..shards).map(|_| CachePadded::default()).collect::<Vec<CachePadded<Parking>>>());
    let mut ports: Vec<Port<T>> = (0..shards)
        .map(|own| Port {
            own: ShardId(u16::try_from(own).expect("fewer shards than slots")),
            producers: (0..shards).map(|_| None).collect(),
            consumers: (0..shards).map(|_| None).collect(),
            parkings: parkings.clone(),
            touched: vec![false; shards],
            any_touched: false,
        })
        .collect();
    for from in 0..shards {
        for to in (0..shards).filter(|&to| to != from) {
            let (producer, consumer) = queue(capacity);
            ports[from].producers[to] = Some(producer);
            ports[to].consumers[from] = Some(consumer);
        }
    }
    ports
}

impl<T> Port<T> {
    /// The shards of the process, this one included.
    pub fn shards(&self) -> usize {
        self.parkings.len()
    }

    /// Whether a push to `to` would succeed. Never to oneself.
    #[inline]
    pub fn has_room(&mut self, to: ShardId) -> bool {
        self.producers[to.index()].as_mut().is_some_and(Producer::has_room)
    }

    /// Whether a push to any peer would succeed.
    pub fn has_room_everywhere(&mut self) -> bool {
        self.producers.iter_mut().flatten().all(Producer::has_room)
    }

    /// Sends `item` to `to`, or gives it back when there is no room. The peer is woken by what `poll_wake` says.
    #[inline]
    pub fn push(&mut self, to: ShardId, item: T) -> Result<(), T> {
        let Some(producer) = &mut self.producers[to.index()] else { return Err(item) };
        producer.push(item)?;
        self.touched[to.index()] = true;
        self.any_touched = true;
        Ok(())
    }

    /// The oldest item from `from`.
    #[inline]
    pub fn pop(&mut self, from: ShardId) -> Option<T> {
        self.consumers[from.index()].as_mut()?.pop()
    }

    /// Whether no peer has anything for this shard.
    #[inline]
    pub fn is_empty(&mut self) -> bool {
        self.consumers.iter_mut().flatten().all(Consumer::is_empty)
    }

    /// The next peer that was pushed to, sleeps, and is the caller's to wake.
    #[inline]
    pub fn poll_wake(&mut self) -> Option<ShardId> {
        if !self.any_touched {
            return None;
        }
        for peer in 0..self.touched.len() {
            if std::mem::take(&mut self.touched[peer]) && self.parkings[peer].0.claim() {
                return Some(ShardId(peer as u16));
            }
        }
        self.any_touched = false;
        None
    }

    /// Announces that the shard parks. False: something arrived meanwhile, do not park.
    #[inline]
    pub fn announce_park(&mut self) -> bool {
        self.parkings[self.own.index()].0.announce();
        if self.is_empty() {
            return true;
        }
        self.retract_park();
        false
    }

    /// The shard is awake.
    #[inline]
    pub fn retract_park(&self) {
        self.parkings[self.own.index()].0.retract();
    }
}
