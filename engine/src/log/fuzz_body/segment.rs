//! Target `segment`: files that nobody wrote, with checksums that are right.

use crate::fuzz::pages;
use crate::log::format::{BatchHeader, PAGE_BYTES, SEGMENT_HEADER_BYTES};
use crate::log::{Expected, Journal, Lsn, Record, Replay, Segment, Tail};

use super::{DATABASE, encoded, start, write_all};

/// No bytes make replay panic, or show more than their length bears out, or forget where it is, or depend on where it was
/// interrupted; and the changes that they show, logged anew, are shown again. The first byte chooses what is mended.
pub fn segment(data: &[u8]) {
    let [flags, data @ ..] = data else { return };
    let mut files = pages(data);
    if flags & 1 == 0 {
        mend(&mut files, flags & 2 == 0);
    }
    let all = replay(&files, 0, false);
    assert_eq!(all, replay(&files, 0, true));
    replay(&files, all.last().map_or(0, |(lsn, _)| lsn.0 / 2), flags & 4 != 0);

    let mut journal = Journal::off();
    journal.begin(start(1));
    let mut written = Vec::new();
    for (_, bytes) in &all {
        let record = crate::log::record::Reader(bytes).record().and_then(|raw| raw.whole());
        journal.record(&record.expect("it was shown"));
    }
    write_all(&mut journal, &mut written);
    let again: Vec<Vec<u8>> = replay(&written, 0, false).into_iter().map(|(_, bytes)| bytes).collect();
    assert_eq!(again, all.into_iter().map(|(_, bytes)| bytes).collect::<Vec<_>>());
}

/// Whether the files are a log without damage, and with changes.
#[cfg(test)]
pub fn is_sound(files: &[Vec<u8>]) -> bool {
    let segments: Vec<Segment<'_>> =
        files.iter().zip(1..).map(|(bytes, segment)| Segment { generation: 1, segment, bytes }).collect();
    let mut replay = Replay::new(Expected { database: DATABASE, shard: 0, base: Lsn(0) }, &segments);
    while let Ok(true) = replay.step(|_| {}) {}
    replay.step(|_| {}) == Ok(false) && replay.end().tail == Tail::Sound && replay.end().changes > 0
}

/// Makes the checksums right of headers and of what looks like a batch; `is_chained`: and has each batch name the one before.
fn mend(files: &mut [Vec<u8>], is_chained: bool) {
    let mut last_crc = 0u32;
    for file in files {
        if file.len() < SEGMENT_HEADER_BYTES {
            continue;
        }
        if is_chained {
            file[72..76].copy_from_slice(&last_crc.to_le_bytes());
        }
        let crc = crc32fast::hash(&file[12..SEGMENT_HEADER_BYTES]);
        file[8..12].copy_from_slice(&crc.to_le_bytes());
        let mut at = SEGMENT_HEADER_BYTES;
        while at < file.len() {
            let batch_bytes = BatchHeader::parse(&file[at..]).map(|header| header.batch_bytes());
            let Some(batch) = batch_bytes.and_then(|bytes| file[at..].get_mut(..bytes)) else {
                at += PAGE_BYTES;
                continue;
            };
            if is_chained {
                batch[64..68].copy_from_slice(&last_crc.to_le_bytes());
            }
            last_crc = crc32fast::hash(&batch[8..]);
            batch[4..8].copy_from_slice(&last_crc.to_le_bytes());
            at += batch.len();
        }
    }
}

/// Reads segments, over all damage, and checks what is promised of any bytes. Returns what was shown. `is_interrupted`: leaves
/// off after each step.
pub(super) fn replay(files: &[Vec<u8>], base: u64, is_interrupted: bool) -> Vec<(Lsn, Vec<u8>)> {
    let segments: Vec<Segment<'_>> =
        files.iter().zip(1..).map(|(bytes, segment)| Segment { generation: 1, segment, bytes }).collect();
    let mut replay = Replay::new(Expected { database: DATABASE, shard: 0, base: Lsn(base) }, &segments);
    let (mut all, mut last, mut shown) = (Vec::new(), Lsn(base), 0);
    let end = loop {
        let step = replay.step(|records| {
            assert!(!records.is_empty());
            for (lsn, record) in records {
                assert!(*lsn > last);
                last = *lsn;
                shown += bytes_of(record);
                all.push((*lsn, encoded(record)));
            }
        });
        match step {
            Ok(true) if is_interrupted => replay = Replay::resume(replay.pause(), &segments),
            Ok(true) => {}
            Ok(false) => break replay.end(),
            Err(damage) => {
                assert!(damage.first.0 > 0 && !damage.to_string().is_empty());
                if replay.skip_damage().is_none() {
                    return all;
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
    all
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
