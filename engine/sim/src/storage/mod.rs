//! What the shards of a world have to write to: one data directory, and a disk for each shard that is late, stalls, fails, fills up,
//! and forgets or tears at a crash whatever was not synced. The bytes are those of the engine; the rules of the directory are
//! those of `runtime/src/disk`, re-enacted as plainly as they can be.
//!
//! - `file.rs`    one file, as the process sees it and as the disk has it.
//! - `folder.rs`  names and manifests: what counts, and how something else comes to count.
//! - `faults.rs`  when a disk is late, and what it does not do.
//! - `log.rs`     a shard's log on its way to its segments.
//! - `save.rs`    a save of all shards, step by step.
//! - `load.rs`    what a start finds, on its way into the shards.

mod faults;
mod file;
mod folder;
mod load;
mod log;
mod save;

pub use faults::Faults;
pub(crate) use faults::Weather;
pub(crate) use file::Crash;
pub(crate) use folder::{FileId, Folder, Name, Switch};
pub(crate) use load::{Ending, Load};
pub(crate) use log::{LogDriver, Tools as LogTools};
pub(crate) use save::{Saver, Tools as SaveTools};

/// The data directory of every world.
pub(crate) const DATABASE: [u8; 16] = [7; 16];
