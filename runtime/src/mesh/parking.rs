//! Who is asleep: one flag per shard, so that only a parked shard is woken, and only once.
//!
//! The sleeper says that it parks, then looks at its queues once more; the sender pushes, then looks at the flag. With a
//! full fence between the two steps on both sides at least one of them sees the other, so no item is left lying in front
//! of a sleeping shard:
//!
//! ```text
//!   sleeper                         sender
//!   parked = true                   push
//!   fence                           fence
//!   queues empty? then park         parked? then parked = false, wake
//! ```

use super::sync::{AtomicBool, Ordering, fence};

/// The flag of one shard.
#[derive(Debug)]
pub struct Parking(AtomicBool);

impl Default for Parking {
    fn default() -> Parking {
        Parking(AtomicBool::new(false))
    }
}

impl Parking {
    /// The shard is about to park. It must look at its queues after this and before it does.
    #[inline]
    pub fn announce(&self) {
        // A store would do: a claim that read an older value cannot come after it in the flag's order. loom does not know
        // that about read-modify-writes, and reports a lost wake-up; a swap, once per park, costs nothing.
        self.0.swap(true, Ordering::AcqRel);
        fence(Ordering::SeqCst);
    }

    /// The shard is awake again, whatever woke it.
    #[inline]
    pub fn retract(&self) {
        self.0.store(false, Ordering::Relaxed);
    }

    /// Whether the caller, who has just pushed, must wake the shard. True for one of several senders.
    #[inline]
    pub fn claim(&self) -> bool {
        fence(Ordering::SeqCst);
        self.0.load(Ordering::Relaxed) && self.0.swap(false, Ordering::AcqRel)
    }
}
