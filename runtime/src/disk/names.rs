//! The names of the files in the data directory. A name is read only if it is exactly what would be written.

use std::fmt;

/// The lock of the process that serves the directory.
pub const LOCK: &str = "LOCK";
/// The file that says which manifest counts.
pub const CURRENT: &str = "CURRENT";
/// `CURRENT` before it gets its name.
pub const CURRENT_NEXT: &str = "CURRENT.next";
/// The folder of files that are to be used again, and of those that are being filled.
pub const POOL: &str = "pool";

/// A segment of a shard's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentId {
    pub shard: u16,
    /// Which process of the directory began it, from 1.
    pub generation: u64,
    /// Segments of a shard and generation in their order.
    pub number: u64,
}

/// One shard's part of a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SnapshotId {
    pub id: u64,
    pub shard: u16,
}

impl fmt::Display for SegmentId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "wal-{}-{}-{:06}.log", self.generation, self.shard, self.number)
    }
}

impl fmt::Display for SnapshotId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "snap-{:06}-{}.tsn", self.id, self.shard)
    }
}

impl SegmentId {
    pub fn parse(name: &str) -> Option<SegmentId> {
        let mut parts = name.strip_prefix("wal-")?.strip_suffix(".log")?.splitn(3, '-');
        let generation = parts.next()?.parse().ok()?;
        let shard = parts.next()?.parse().ok()?;
        let number = parts.next()?.parse().ok()?;
        Some(SegmentId { shard, generation, number }).filter(|id| id.to_string() == name)
    }
}

impl SnapshotId {
    pub fn parse(name: &str) -> Option<SnapshotId> {
        let (id, shard) = name.strip_prefix("snap-")?.strip_suffix(".tsn")?.split_once('-')?;
        let id = SnapshotId { id: id.parse().ok()?, shard: shard.parse().ok()? };
        Some(id).filter(|id| id.to_string() == name)
    }
}

/// `MANIFEST-12`.
pub fn manifest(number: u64) -> String {
    format!("MANIFEST-{number}")
}

/// The number of a manifest.
pub fn parse_manifest(name: &str) -> Option<u64> {
    let number = name.strip_prefix("MANIFEST-")?.parse().ok()?;
    Some(number).filter(|&number| manifest(number) == name)
}

/// A file in the pool that holds nothing and is to be used again.
pub fn free(number: u64) -> String {
    format!("{number}.free")
}

/// The number of a free file.
pub fn parse_free(name: &str) -> Option<u64> {
    let number = name.strip_suffix(".free")?.parse().ok()?;
    Some(number).filter(|&number| free(number) == name)
}

/// A shard's next segment while it is filled, in the pool.
pub fn filling(shard: u16) -> String {
    format!("{shard}.filling")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        let segment = SegmentId { shard: 3, generation: 12, number: 45 };
        assert_eq!(segment.to_string(), "wal-12-3-000045.log");
        assert_eq!(SegmentId::parse("wal-12-3-000045.log"), Some(segment));
        let long = SegmentId { shard: 0, generation: u64::MAX, number: 12_345_678 };
        assert_eq!(SegmentId::parse(&long.to_string()), Some(long));
        let snapshot = SnapshotId { id: 7, shard: 1 };
        assert_eq!(snapshot.to_string(), "snap-000007-1.tsn");
        assert_eq!(SnapshotId::parse("snap-000007-1.tsn"), Some(snapshot));
        assert_eq!((parse_manifest("MANIFEST-9"), parse_free("4.free")), (Some(9), Some(4)));
    }

    #[test]
    fn other_names_are_nobodys() {
        for name in [
            "wal-12-3-45.log",
            "wal-12-3-0000045.log",
            "wal-+12-3-000045.log",
            "wal-12-70000-000045.log",
            "wal-12-3-000045.log.torn",
            "wal-12-3.log",
            "wal--3-000045.log",
            "snap-000007-1.tsn",
        ] {
            assert_eq!(SegmentId::parse(name), None, "{name}");
        }
        for name in ["snap-7-1.tsn", "snap-000007-1.tsn~", "snap-000007-01.tsn", "snap-000007.tsn"] {
            assert_eq!(SnapshotId::parse(name), None, "{name}");
        }
        for name in ["MANIFEST-", "MANIFEST-09", "MANIFEST-9 ", "manifest-9"] {
            assert_eq!(parse_manifest(name), None, "{name}");
        }
    }
}
