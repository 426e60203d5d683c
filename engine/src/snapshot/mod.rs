//! The snapshot of one shard: a file with exactly what its keyspaces held at one moment.
//!
//! `format.rs` says what every byte means (`engine/FORMAT.md` draws it). [`Writer`] makes blocks of entries, which the
//! runtime writes; which entries, and when, is decided by the store, because it knows what changes
//! (`engine/src/store/snapshot.rs`, read that first). [`Loader`] reads the file again.

mod format;
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

/// What fuzzing does with bytes that somebody made up; the tests do it too.
#[cfg(any(test, fuzzing))]
pub fn fuzz_body(data: &[u8]) {
    load::read_all(data, |entries| assert!(!entries.is_empty())).ok();
    // Checksums keep what is made up away from the rest of the reader; with the right ones it gets there.
    let mut sealed = data.to_vec();
    format::seal_all(&mut sealed);
    load::read_all(&sealed, |entries| assert!(!entries.is_empty())).ok();
}
