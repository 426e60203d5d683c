//! The log without a shard or a disk: `cargo bench -p torc-engine --bench log`.
//!
//! `append` is what a change costs the shard: encoding it, closing batches of 256 KiB, their checksums; a disk that takes
//! everything at once gives the buffers back. `replay` is reading such a log: checksums and decoding, up to where records
//! would be applied. Items are records; one iteration is [`ROUND`] of them. A record of 100 bytes has a key of 16 and a
//! value of 78.

mod common;

use std::hint::black_box;

use common::{KEY_BYTES, KeyBytes, NOW, keys};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use torc_engine::log::{Expected, FsyncPolicy, Journal, LogStart, Lsn, Record, Replay, Segment};
use torc_engine::store::KeyspaceId;

const ROUND: usize = 100_000;
/// With a length of one byte, type, flags, keyspace and the length of the key: 100 bytes.
const VALUE: &[u8] = &[b'v'; 100 - 5 - KEY_BYTES];
const DATABASE: [u8; 16] = [7; 16];

fn journal() -> Journal {
    let mut journal = Journal::off();
    journal.begin(LogStart {
        database: DATABASE,
        generation: 1,
        shard: 0,
        shards: 1,
        segment: 1,
        salt: 0x1234_5678_9abc_def0,
        next_lsn: Lsn(1),
        last_txid: 0,
        segment_bytes: 1 << 40,
        first_segment_bytes: 1 << 40,
        previous: None,
    });
    journal
}

/// Logs one change for each key; `written` sees each write.
fn log(journal: &mut Journal, keys: &[KeyBytes], mut written: impl FnMut(&[u8])) {
    for keys in keys.chunks(1000) {
        for key in keys {
            journal.set(KeyspaceId(0), key, VALUE, 0, None);
        }
        // As under `everysec`, once a turn: most of the time there is no full batch yet.
        drain(journal, FsyncPolicy::EverySec, &mut written);
    }
}

fn drain(journal: &mut Journal, policy: FsyncPolicy, written: &mut impl FnMut(&[u8])) {
    while let Some(write) = journal.poll_write(NOW, policy) {
        written(write.buffer.as_slice());
        journal.handle_written(Ok(write.sync), write.buffer);
        while journal.poll_sync(NOW, policy).is_some() {
            journal.handle_synced(Ok(()));
        }
    }
}

fn append(criterion: &mut Criterion) {
    let keys = keys(0, ROUND);
    let mut group = criterion.benchmark_group("log/append");
    group.throughput(Throughput::Elements(ROUND as u64));
    let mut journal = journal();
    group
        .bench_function("100 bytes", |bencher| bencher.iter(|| log(&mut journal, &keys, |bytes| _ = black_box(bytes))));
    group.finish();
}

fn replay(criterion: &mut Criterion) {
    let mut journal = journal();
    let mut file = Vec::new();
    let mut written = |bytes: &[u8]| file.extend_from_slice(bytes);
    log(&mut journal, &keys(0, ROUND), &mut written);
    drain(&mut journal, FsyncPolicy::Always, &mut written);
    let segments = [Segment { generation: 1, segment: 1, bytes: &file }];
    let mut group = criterion.benchmark_group("log/replay");
    group.throughput(Throughput::Elements(ROUND as u64));
    group.bench_function("100 bytes", |bencher| {
        bencher.iter(|| {
            let mut replay = Replay::new(Expected { database: DATABASE, shard: 0, base: Lsn(0) }, &segments);
            let mut bytes = 0;
            let mut visit = |records: &[(Lsn, Record<'_>)]| {
                for (_, record) in records {
                    if let Record::Set { key, value, .. } = record {
                        bytes += key.len() + value.len();
                    }
                }
            };
            while replay.step(&mut visit).expect("undamaged") {}
            assert_eq!(bytes, ROUND * (KEY_BYTES + VALUE.len()));
            replay.end()
        });
    });
    group.finish();
}

criterion_group! { name = benches; config = common::criterion(); targets = append, replay }
criterion_main!(benches);
