//! The snapshot of one shard: a file with exactly what its keyspaces held at one moment.
//!
//! `format.rs` says what every byte means (`engine/FORMAT.md` draws it). [`Writer`] makes blocks of entries, which the
//! runtime writes; which entries, and when, is decided by the store, because it knows what changes
//! (`engine/src/store/snapshot.rs`, read that first). [`Loader`] reads the file again.

mod format;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz_body;
mod load;
#[cfg(test)]
mod tests;
mod write;

pub use crate::buffer::Buffer;
pub use format::{Cause, Damage, Header, KeyspaceHeader, PAGE_BYTES, VERSION};
#[cfg(test)]
pub(crate) use load::read_all;
pub use load::{LoadedEntry, Loader};
pub use write::{Block, Totals, Writer};
