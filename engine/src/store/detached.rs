//! Long values that the store has let go of and a reply still holds: their memory is nobody's but the clients'.

use std::collections::VecDeque;

use bytes::Bytes;

use super::entry::Value;
use crate::limits;

/// The values that were overwritten, removed or flushed while a reply held them, until the reply is gone.
#[derive(Default)]
pub(super) struct Detached {
    /// In no order. An allocation belongs to one entry, so it is here once.
    values: VecDeque<Bytes>,
    bytes: u64,
}

impl Detached {
    /// The store is about to let go of a value.
    #[inline]
    pub fn note(&mut self, value: Value<'_>) {
        if let Value::Shared(bytes) = value
            && !bytes.is_unique()
        {
            self.keep(bytes.clone());
        }
    }

    #[cold]
    fn keep(&mut self, bytes: Bytes) {
        self.bytes += bytes.len() as u64;
        self.values.push_back(bytes);
        // Faster than they come, so that what is read at once is not held until the next tick.
        self.sweep(2);
    }

    /// Looks at some, and drops those that nobody else holds any more.
    pub fn sweep(&mut self, count: usize) {
        for _ in 0..count.min(self.values.len()) {
            let Some(bytes) = self.values.pop_front() else { return };
            if bytes.is_unique() {
                self.bytes -= bytes.len() as u64;
            } else {
                self.values.push_back(bytes);
            }
        }
    }

    /// A tick's share of looking.
    pub fn sweep_slice(&mut self) {
        self.sweep(limits::DETACHED_SLICE_VALUES);
    }

    /// Bytes of all of them.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}
