//! The log of one shard: every change of its keys, in order, in segments that the runtime writes. No I/O, no clock.
//!
//! [`ChangeLog`] is what the store tells them ([`change_log`]). [`Journal`] takes the changes and says what is to be written where, and what is durable ([`journal`]); [`Replay`] reads
//! it all again and tells a tail that a crash tore from damage ([`replay`]); [`Recovery`] says how much of that a start takes. What lies on disk is laid out in [`format`]
//! (segments and batches), [`record`] (records), and `engine/FORMAT.md`.
//!
//! How it holds together:
//! - Bytes are written once, front to back. Nothing that may be durable is written again.
//! - One write is under way at a time. A segment is synced before the next one is begun, so what a crash can take lies
//!   in one segment, the last.
//! - A batch says which LSN was durable when it was handed over. If it covers what is missing before it, that is damage.

mod change_log;
pub mod format;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz_body;
mod journal;
pub mod manifest;
pub mod record;
mod recovery;
mod replay;
#[cfg(test)]
mod tests;

pub use crate::buffer::Buffer;
pub use change_log::ChangeLog;
pub use journal::{FsyncPolicy, Journal, LogStart, Write, WriteError, WriteStep, segment_bytes};
pub use record::{Effects, Layout, Record, Transaction};
pub use recovery::{Recovery, Refused, Step};
pub use replay::{Damage, End, Expected, Paused, Position, RecordsEnd, Replay, Segment, Tail, TornTail, Why};

/// The number of a record in the log of one shard, from 1 on; it goes on over segments and restarts. 0: none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(pub u64);

impl std::fmt::Display for Lsn {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(formatter)
    }
}
