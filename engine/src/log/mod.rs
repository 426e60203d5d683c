//! The log of a shard and what says where it begins.

pub mod manifest;

/// Number of a record of one shard's log, from 1; 0 means none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(pub u64);
