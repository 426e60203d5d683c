//! Snapshots of a store of a million keys of 16 bytes with values of 32: entries per second that the walk saves, and that
//! are loaded again, beside inserting them into an empty store as fast as that goes. Blocks are kept or thrown away; no
//! disk is waited for. Times are those of the thread's CPU: what else the machine does is left out.

mod common;

use std::time::Duration;

use common::{NOW, VALUE, empty_store, fill, in_batches, keys};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use rustix::time::{ClockId, clock_gettime};
use torc_engine::limits::{BATCH_COMMANDS, SNAPSHOT_BLOCK_BYTES_MAX, SNAPSHOT_SLICE_BYTES};
use torc_engine::snapshot::{Loader, PAGE_BYTES};
use torc_engine::store::{Expiry, NewValue, SnapshotProgress, SnapshotStart, Store};

const KEYS: usize = 1_000_000 / BATCH_COMMANDS * BATCH_COMMANDS;

/// What a thread has had of its CPU since it began.
fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Takes a snapshot in slices. `visit` is given each block; what it takes is not counted.
fn take(store: &mut Store, mut visit: impl FnMut(&[u8])) -> (Duration, Duration) {
    let (mut all, mut longest) = (Duration::ZERO, Duration::ZERO);
    let start = cpu_time();
    store.begin_snapshot(SnapshotStart { shards: 1, ..SnapshotStart::default() }).expect("none is running");
    all += cpu_time() - start;
    while !matches!(store.snapshot_progress(), SnapshotProgress::Finished(_)) {
        let start = cpu_time();
        store.snapshot_slice(SNAPSHOT_SLICE_BYTES);
        let took = cpu_time() - start;
        all += took;
        longest = longest.max(took);
        while let Some(block) = store.poll_snapshot_block() {
            visit(block.buffer.as_slice());
            store.handle_snapshot_block_written(block);
        }
    }
    (all, longest)
}

/// Loads a file as the runtime does, through one buffer of two blocks.
fn load(file: &[u8]) -> Store {
    let mut store = empty_store();
    let mut loader = Loader::new(file.first_chunk().expect("a page"), file.len() as u64).expect("a snapshot");
    let header = loader.header();
    store.restore_keyspaces(header).expect("the same databases");
    header.keyspaces.iter().for_each(|keyspace| store.reserve(keyspace.id, keyspace.entries));
    let mut buffer = vec![0; 2 * SNAPSHOT_BLOCK_BYTES_MAX];
    let (mut at, mut held) = (PAGE_BYTES, 0);
    while at < file.len() || held > 0 {
        let more = (buffer.len() - held).min(file.len() - at);
        buffer[held..held + more].copy_from_slice(&file[at..at + more]);
        at += more;
        held += more;
        let read = loader.read(&buffer[..held], |entries| store.load(entries, NOW, |_| true));
        let read = read.expect("it is sound");
        buffer.copy_within(read..held, 0);
        held -= read;
    }
    assert_eq!(loader.finish().expect("it is complete").entries, store.len(0) as u64);
    store
}

fn snapshot(criterion: &mut Criterion) {
    let keys = keys(0, KEYS);
    let mut store = empty_store();
    fill(&mut store, &keys, |_| Expiry::Never);
    let mut file = Vec::new();
    take(&mut store, |block| file.extend_from_slice(block));

    let mut group = criterion.benchmark_group("snapshot/1M");
    group.sample_size(10).throughput(Throughput::Elements(KEYS as u64));
    let mut slices = Vec::new();
    group.bench_function("walk", |bencher| {
        bencher.iter_custom(|iterations| {
            (0..iterations)
                .map(|_| {
                    let (all, longest) = take(&mut store, |_| {});
                    slices.push(longest);
                    all
                })
                .sum()
        });
    });
    let timed = |run: &dyn Fn() -> Store| {
        let start = cpu_time();
        let store = run();
        let took = cpu_time() - start;
        assert_eq!(store.len(0), KEYS);
        took
    };
    group.bench_function("load", |bencher| {
        bencher.iter_custom(|iterations| (0..iterations).map(|_| timed(&|| load(&file))).sum());
    });
    group.bench_function("bare-insertion", |bencher| {
        let insert = || {
            let mut store = empty_store();
            in_batches(&mut store, &keys, true, |store, key| {
                store.set(key, NewValue::from(VALUE), Expiry::Never, NOW);
            });
            store
        };
        bencher.iter_custom(|iterations| (0..iterations).map(|_| timed(&insert)).sum());
    });
    group.finish();
    slices.sort_unstable();
    eprintln!("longest slice of a snapshot: {:?} (median), {:?} (best)", slices[slices.len() / 2], slices[0]);
}

criterion_group! { name = benches; config = common::criterion(); targets = snapshot }
criterion_main!(benches);
