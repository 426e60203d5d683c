//! A bounded queue between two threads: one pushes, one pops, neither waits.
//!
//! ```text
//!            head (written by the consumer)      tail (written by the producer)
//!              v                                   v
//!   [ free ][ item ][ item ][ item ][ item ][ free ][ free ][ free ]
//! ```
//!
//! Both positions count up for ever and are masked into the slots. Each side keeps the other's position as it last saw
//! it and looks again only when that says "full" or "empty", so that in a burst the two lines move between the cores
//! once, not once per item.

use std::mem::MaybeUninit;

use super::sync::{Arc, AtomicUsize, CachePadded, Ordering, UnsafeCell};

struct Shared<T> {
    /// Items popped so far.
    head: CachePadded<AtomicUsize>,
    /// Items pushed so far.
    tail: CachePadded<AtomicUsize>,
    slots: Box<[UnsafeCell<MaybeUninit<T>>]>,
}

// SAFETY: a slot is touched by the producer only while it is outside head..tail and by the consumer only while it is
// inside; the Release stores and Acquire loads of head and tail hand it over. Items move between threads, hence T: Send.
unsafe impl<T: Send> Sync for Shared<T> {}
// SAFETY: as above; the queue owns its items.
unsafe impl<T: Send> Send for Shared<T> {}

/// The pushing side.
pub struct Producer<T> {
    shared: Arc<Shared<T>>,
    tail: usize,
    head_seen: usize,
}

/// The popping side.
pub struct Consumer<T> {
    shared: Arc<Shared<T>>,
    head: usize,
    tail_seen: usize,
}

/// A queue of `capacity` items, a power of two.
pub fn queue<T: Send>(capacity: usize) -> (Producer<T>, Consumer<T>) {
    assert!(capacity.is_power_of_two(), "the capacity of a queue is a power of two");
    let slots = (0..capacity).map(|_| UnsafeCell::new(MaybeUninit::uninit())).collect();
    let shared =
        Arc::new(Shared { head: CachePadded(AtomicUsize::new(0)), tail: CachePadded(AtomicUsize::new(0)), slots });
    let producer = Producer { shared: shared.clone(), tail: 0, head_seen: 0 };
    (producer, Consumer { shared, head: 0, tail_seen: 0 })
}

impl<T> Producer<T> {
    /// Whether a push would succeed.
    #[inline]
    pub fn has_room(&mut self) -> bool {
        let capacity = self.shared.slots.len();
        if self.tail.wrapping_sub(self.head_seen) < capacity {
            return true;
        }
        // Acquire: the consumer is done with the slots it gave up.
        self.head_seen = self.shared.head.0.load(Ordering::Acquire);
        self.tail.wrapping_sub(self.head_seen) < capacity
    }

    /// Appends `item`, or gives it back when the queue is full.
    #[inline]
    pub fn push(&mut self, item: T) -> Result<(), T> {
        if !self.has_room() {
            return Err(item);
        }
        let slot = &self.shared.slots[self.tail & (self.shared.slots.len() - 1)];
        slot.with_mut(|place| {
            // SAFETY: has_room: the slot is outside head..tail, so it is the producer's, and holds no item.
            unsafe { (*place).write(item) };
        });
        self.tail = self.tail.wrapping_add(1);
        // Release: whoever sees the new tail sees the item.
        self.shared.tail.0.store(self.tail, Ordering::Release);
        Ok(())
    }
}

impl<T> Consumer<T> {
    /// Whether there is nothing to pop.
    #[inline]
    pub fn is_empty(&mut self) -> bool {
        if self.head != self.tail_seen {
            return false;
        }
        // Acquire: the items below the tail are there.
        self.tail_seen = self.shared.tail.0.load(Ordering::Acquire);
        self.head == self.tail_seen
    }

    /// The oldest item.
    #[inline]
    pub fn pop(&mut self) -> Option<T> {
        if self.is_empty() {
            return None;
        }
        let slot = &self.shared.slots[self.head & (self.shared.slots.len() - 1)];
        let item = slot.with_mut(|place| {
            // SAFETY: not empty: the slot is inside head..tail, so it is the consumer's and holds an item, which is
            // taken out once because head moves past it.
            unsafe { (*place).assume_init_read() }
        });
        self.head = self.head.wrapping_add(1);
        // Release: the slot is free only after the item was read.
        self.shared.head.0.store(self.head, Ordering::Release);
        Some(item)
    }
}

impl<T> Drop for Consumer<T> {
    /// Drops what the producer has pushed so far. What it pushes later is leaked (memory and descriptors, not soundness):
    /// a worker ends only together with the process.
    fn drop(&mut self) {
        while self.pop().is_some() {}
    }
}
