//! What the fuzz targets `log` and `manifest` run (`engine/fuzz`), kept in the crate so that its tests run it too and it cannot rot.
//!
//! Bytes that nobody wrote are refused by the first checksum, and nothing behind it would be tried. So the input is an
//! instruction: a sound log is made from some of it, then overwritten here and there, and what was overwritten
//! may get its checksum back.

use super::format::{BatchHeader, PAGE_BYTES, SEGMENT_HEADER_BYTES};
use super::manifest::{CURRENT_BYTES_MAX, Current, MANIFEST_BYTES_MAX, Manifest, mend_checksum};
use super::{Expected, FsyncPolicy, Journal, Layout, LogStart, Lsn, Record, Replay, Segment, Tail};
use crate::id::Millis;
use crate::store::KeyspaceId;

const DATABASE: [u8; 16] = [7; 16];
const NOW: Millis = Millis(1);
const SEGMENT_BYTES: usize = 4 * PAGE_BYTES;
const FIRST_SEGMENT_BYTES: usize = 3 * PAGE_BYTES;
const SEGMENTS_MAX: usize = 4;

/// Target `log`: no bytes make replay panic, or show more than their length bears out, or forget where it is.
pub fn log(data: &[u8]) {
    let [flags, count, data @ ..] = data else { return };
    // As they are, as one segment.
    replay(&[data.to_vec()], 0);
    let (values, edits) = data.split_at((*count as usize * 8).min(data.len()));
    let mut files = sound_log(values, flags & 1 != 0);
    let changes = replay(&files, 0);
    // Where, which segment, whether checksums are made right, how many bytes; then so many.
    let mut edits = edits;
    while let [low, high, how, rest @ ..] = edits {
        let (bytes, rest) = rest.split_at((how >> 4) as usize % (rest.len() + 1));
        edits = rest;
        let at = u16::from_le_bytes([*low, *high]) as usize;
        let place = (how & 3) as usize % files.len();
        let file = &mut files[place];
        let at = at % file.len();
        let end = (at + bytes.len()).min(file.len());
        file[at..end].copy_from_slice(&bytes[..end - at]);
        if how & 4 != 0 {
            mend(file, at);
        }
    }
    replay(&files, 0);
    replay(&files, changes / 2);
}

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

/// A log of values cut out of `bytes`.
fn sound_log(bytes: &[u8], is_sealed: bool) -> Vec<Vec<u8>> {
    let mut journal = Journal::off();
    journal.begin(LogStart {
        database: DATABASE,
        generation: 1,
        shard: 0,
        shards: 1,
        segment: 1,
        salt: 1,
        next_lsn: Lsn(1),
        last_txid: 0,
        segment_bytes: SEGMENT_BYTES as u64,
        first_segment_bytes: FIRST_SEGMENT_BYTES as u64,
        previous: None,
    });
    let mut files = vec![Vec::new()];
    let mut write = |journal: &mut Journal, policy| {
        while let Some(write) = journal.poll_write(NOW, policy) {
            let index = write.segment as usize - 1;
            let bytes = if index == 0 { FIRST_SEGMENT_BYTES } else { SEGMENT_BYTES };
            if files.len() <= index {
                files.push(Vec::new());
            }
            files[index].resize(bytes, 0);
            files[index][write.offset as usize..][..write.buffer.len()].copy_from_slice(write.buffer.as_slice());
            journal.handle_written(Ok(write.sync), write.buffer);
        }
    };
    for value in bytes.chunks(8) {
        if journal.segment() >= Some(SEGMENTS_MAX as u64) {
            break;
        }
        let keyspace = KeyspaceId(value[0] as u32);
        match value[0] % 8 {
            0 => journal.remove(keyspace, value),
            1 => journal.expire(keyspace, value, value[0] as u64, None),
            2 => journal.write_at(keyspace, value, value[0] as u64, value, Some(1)),
            3 if value.len() > 4 => {
                let ids = Layout::encode([KeyspaceId(1 + value[1] as u32), KeyspaceId(0)]);
                journal.layout(Layout::new(value[2] as u64, 257, &ids));
            }
            3 => write(&mut journal, FsyncPolicy::Always),
            4 => journal.set(keyspace, value, &vec![value[0]; value[0] as usize * 80], 0, None),
            _ => journal.set(keyspace, &value[1..], value, value[0] as u64, None),
        }
    }
    if is_sealed {
        journal.seal();
    }
    write(&mut journal, FsyncPolicy::Always);
    files
}

/// Makes the checksum right of the header or batch that begins in the page of `at`, or before it.
fn mend(file: &mut [u8], at: usize) {
    let page = at / PAGE_BYTES * PAGE_BYTES;
    if page == 0 && file.len() >= SEGMENT_HEADER_BYTES {
        let crc = crc32fast::hash(&file[12..SEGMENT_HEADER_BYTES]);
        file[8..12].copy_from_slice(&crc.to_le_bytes());
        return;
    }
    for begin in (1..=page / PAGE_BYTES).rev().map(|page| page * PAGE_BYTES) {
        let Some(header) = BatchHeader::parse(&file[begin..]) else { continue };
        if let Some(batch) = file[begin..].get_mut(..header.batch_bytes()) {
            let crc = crc32fast::hash(&batch[8..]);
            batch[4..8].copy_from_slice(&crc.to_le_bytes());
        }
        return;
    }
}

/// Reads segments, and checks what is promised of any bytes. Returns how many records there were.
fn replay(files: &[Vec<u8>], base: u64) -> u64 {
    let segments: Vec<Segment<'_>> =
        files.iter().zip(1..).map(|(bytes, segment)| Segment { generation: 1, segment, bytes }).collect();
    let mut replay = Replay::new(Expected { database: DATABASE, shard: 0, base: Lsn(base) }, &segments);
    let (mut last, mut shown) = (Lsn(base), 0);
    let end = loop {
        let step = replay.step(|records| {
            assert!(!records.is_empty());
            for (lsn, record) in records {
                assert!(*lsn > last);
                last = *lsn;
                shown += bytes_of(record);
            }
        });
        match step {
            Ok(true) => {}
            Ok(false) => break replay.end(),
            Err(damage) => {
                assert!(damage.first.0 > 0 && !damage.to_string().is_empty());
                if replay.skip_damage().is_none() {
                    return last.0;
                }
            }
        }
    };
    let total: usize = files.iter().map(|file| file.len()).sum();
    assert!(shown <= total && end.bytes <= total as u64);
    // The log may end before the base.
    assert!(end.last_lsn >= last || last == Lsn(base));
    if let Tail::Torn(tail) = end.tail {
        let file = &files[tail.segment as usize - 1];
        assert!(tail.bytes > 0 && tail.offset + tail.bytes <= file.len() as u64);
        assert!(tail.offset.is_multiple_of(PAGE_BYTES as u64));
        assert!((tail.segment..=files.len() as u64).contains(&tail.last_segment));
    }
    last.0
}

/// Bytes that a record shows.
fn bytes_of(record: &Record<'_>) -> usize {
    match record {
        Record::Set { key, value, .. } => key.len() + value.len(),
        Record::WriteAt { key, bytes, .. } => key.len() + bytes.len(),
        Record::Remove { key, .. } | Record::Expire { key, .. } => key.len(),
        Record::Layout(layout) => 4 * layout.keyspaces().count(),
        Record::Transaction(transaction) => {
            transaction.participants().flat_map(|(_, effects)| effects).map(|record| bytes_of(&record)).sum()
        }
    }
}
