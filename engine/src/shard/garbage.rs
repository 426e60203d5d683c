//! What takes the system long, on its way to where it holds up no client: big values that nobody holds any more, and memory
//! that will be needed soon.
//!
//! The store keeps the list (`store/garbage.rs`), as it is where most of them come from. The others are of replies that
//! were sent after their values had been overwritten, of clients that went away, and arguments that nobody took.

use bytes::Bytes;

use super::Shard;
use super::sessions::Session;
use crate::message::Frame;
use crate::store::{Ahead, GarbageCounters, Store};

impl Shard {
    /// A big value that may be dropped now, which may take long. Until [`Shard::handle_garbage_freed`] it counts as
    /// pending, and too much of it pending makes the shard drop what follows itself.
    pub fn poll_garbage(&mut self) -> Option<Bytes> {
        self.core.store.poll_garbage()
    }

    /// Memory that will be needed soon, to be filled where that may take long.
    #[inline]
    pub fn poll_ahead(&mut self) -> Option<Ahead> {
        self.core.store.poll_ahead()
    }

    /// So many values of so many bytes together were dropped, of those that [`Shard::poll_garbage`] gave.
    pub fn handle_garbage_freed(&mut self, objects: u64, bytes: u64) {
        self.core.store.garbage_freed(objects, bytes);
    }

    /// What was given up, and what of it is freed.
    pub fn garbage_counters(&self) -> GarbageCounters {
        self.core.store.garbage_counters()
    }
}

/// Values that somebody is about to drop: the big ones whose last holder that is are kept for who drops them elsewhere.
/// (If two shards let go of one value in the same nanoseconds, none of them knows that it is the last.)
pub(super) fn discard_all(store: &mut Store, values: impl IntoIterator<Item = Bytes>) {
    for value in values {
        if value.is_unique() {
            store.discard(value);
        }
    }
}

/// What a client that is gone leaves: replies that it did not read, the argument that it was sending.
pub(super) fn discard_session(store: &mut Store, mut session: Session) {
    discard_all(store, session.replies.take_values());
    discard_all(store, session.parser.take_long_arguments());
    discard_all(store, session.postponed.take().into_iter().flat_map(|postponed| postponed.shared));
}

/// The values of a frame that was read.
pub(super) fn discard_frame(store: &mut Store, frame: &mut Frame) {
    if !frame.body.shared.is_empty() {
        discard_all(store, frame.body.shared.drain(..).map(|(_, value)| value));
    }
}
