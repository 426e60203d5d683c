//! The disk: the data directory, the files of the log ahead of their use, and what drives a shard's log.
pub mod directory;
mod error;
pub mod files;
pub mod log;
pub mod names;
pub mod pool;
#[cfg(test)]
mod sim;

pub use directory::{Access, Directory, PoolSize, Segment};
pub use error::DiskError;
pub use files::{Disk, DiskFile, Host};
pub use names::{SegmentId, SnapshotId};
