//! What the fuzz targets `batch`, `segment`, `log` and `manifest` run (`engine/fuzz`), kept in the crate so that its tests run
//! it too and it cannot rot.

mod batch;
mod log;
mod segment;

pub use batch::batch;
pub use log::log;
#[cfg(test)]
pub use segment::is_sound;
pub use segment::segment;

use super::manifest::{CURRENT_BYTES_MAX, Current, MANIFEST_BYTES_MAX, Manifest, mend_checksum};
use super::{Effects, FsyncPolicy, Journal, LogStart, Lsn, Record};
use crate::id::Millis;
use crate::log::format::PAGE_BYTES;

const DATABASE: [u8; 16] = [7; 16];
const NOW: Millis = Millis(1);
const SEGMENT_BYTES: usize = 4 * PAGE_BYTES;
const FIRST_SEGMENT_BYTES: usize = 3 * PAGE_BYTES;

/// Target `manifest`: no bytes make the readers of a manifest and of `CURRENT` panic, and what they take is written again as it
/// was read, byte for byte, so that nothing in a file goes unread.
pub fn manifest(data: &[u8]) {
    let mut mended = data.to_vec();
    mend_checksum(&mut mended);
    for bytes in [data, &mended] {
        if let Ok(manifest) = Manifest::decode(bytes) {
            assert!(bytes.len() <= MANIFEST_BYTES_MAX && !manifest.shards.is_empty());
            assert_eq!(manifest.encode(), bytes);
            let current = Current::to(bytes, manifest.number);
            assert!(current.leads_to(bytes));
            assert_eq!(Current::decode(current.encode().as_bytes()), Some(current));
        }
        if let Some(current) = Current::decode(bytes) {
            assert!(bytes.len() <= CURRENT_BYTES_MAX);
            assert_eq!(current.encode().as_bytes(), bytes);
        }
    }
}

/// A log of one shard that begins with record 1, with small segments.
fn start(generation: u64) -> LogStart {
    LogStart {
        database: DATABASE,
        generation,
        shard: 0,
        shards: 1,
        segment: 1,
        salt: generation,
        next_lsn: Lsn(1),
        last_txid: 0,
        segment_bytes: SEGMENT_BYTES as u64,
        first_segment_bytes: FIRST_SEGMENT_BYTES as u64,
        previous: None,
    }
}

/// Files of a log that takes all writes and syncs at once.
fn write_all(journal: &mut Journal, files: &mut Vec<Vec<u8>>) {
    while let Some(write) = journal.poll_write(NOW, FsyncPolicy::Always) {
        // Segments are numbered from 1.
        let index = write.segment as usize - 1;
        while files.len() <= index {
            files.push(vec![0; if files.is_empty() { FIRST_SEGMENT_BYTES } else { SEGMENT_BYTES }]);
        }
        let bytes = write.buffer.as_slice();
        files[index][write.offset as usize..][..bytes.len()].copy_from_slice(bytes);
        journal.handle_written(Ok(write.sync), write.buffer);
    }
}

/// A record as its bytes, to be compared and kept.
fn encoded(record: &Record<'_>) -> Vec<u8> {
    let mut effects = Effects::default();
    effects.push(record);
    effects.bytes().to_vec()
}
