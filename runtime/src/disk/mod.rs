//! The disk: the data directory, the files of the log ahead of their use, and what drives a shard's log.
//!
//! What is written and what it means is decided in `torc_engine`; here it reaches the disk. Shards write through their rings
//! and wait for nothing: [`log::LogDriver`] is a shard's side. All that blocks is done by one thread, which owns the
//! [`Directory`]: [`pool`].
//!
//! A start, in order:
//!
//! 1. [`Directory::open`] with [`Access::Serve`]: locks, reads the manifest that counts, refuses what is not sound.
//! 2. For each shard of the manifest, its snapshot is loaded and its log ([`Directory::log_of`]) redone ([`load::Load`]).
//! 3. When all shards have done that: torn ends are cut off with [`Directory::repair_tail`] ([`start::Opened::begin`], which
//!    does this and what follows).
//! 4. [`pool::start`] with the directory, a [`log::LogDriver`] per lane with [`Directory::next_generation`], and
//!    [`pool::Lane::wait`] for each first segment.
//! 5. [`Directory::switch`] to a manifest of this generation, through [`pool::DiskCaller::call`]. The first segments must be
//!    there by then. If the number of shards has changed this waits for a snapshot of all.
//! 6. Only now may the journals log what is acknowledged: segments of a generation without a manifest are removed at the
//!    next start.
//! 7. Segments behind the end of a log that hold no record are given up ([`Directory::discard`]); not before, as the old manifest
//!    may name one of them.

pub mod directory;
mod error;
pub mod files;
pub mod load;
pub mod log;
pub mod names;
pub mod pool;
#[cfg(test)]
pub(crate) mod sim;
pub mod start;

pub use directory::{Access, Directory, PoolSize, Segment, User, user_of};
pub use error::DiskError;
pub use files::{Disk, DiskFile, Host};
pub use names::{SegmentId, SnapshotId};
