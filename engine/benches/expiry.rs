//! What expiry times cost: `cargo bench -p torc-engine --bench expiry`.
//!
//! - `get`: a key that has an expiry time, beside one that has none.
//! - `slice`: one slice of active expiry over 100,000 keys that all have a time, of which none, half or all are due. Items
//!   are the entries that a slice looks at. Once all that is due is gone, it is set again outside of the measured time.

mod common;

use std::hint::black_box;
use std::time::{Duration, Instant};

use common::{KeyBytes, NOW, empty_store, fill, in_batches, keys};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use torc_engine::id::Millis;
use torc_engine::limits::EXPIRE_SLICE_ENTRIES;
use torc_engine::store::{Expiry, Store};

/// Operations of one iteration of `get`.
const ROUND: usize = 960;
const SLICED_KEYS: usize = 100_000;
const NEVER_REACHED: Expiry = Expiry::At(Millis(NOW.0 + 1_000_000));

fn get(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("expiry/get");
    group.throughput(Throughput::Elements(ROUND as u64));
    for (name, expiry) in [("without-time", Expiry::Never), ("with-time", NEVER_REACHED)] {
        let keys = keys(0, ROUND);
        let mut store = empty_store();
        fill(&mut store, &keys, |_| expiry);
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                in_batches(&mut store, black_box(&keys), true, |store, key| {
                    assert!(black_box(store.get(key, NOW)).is_some());
                });
            });
        });
    }
    group.finish();
}

fn slice(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("expiry/slice");
    group.throughput(Throughput::Elements(EXPIRE_SLICE_ENTRIES as u64));
    let keys = keys(0, SLICED_KEYS);
    // Every how many keys one stays.
    for (name, one_stays_in) in [("none-due", 1), ("half-due", 2), ("all-due", usize::MAX)] {
        let stays = |at: usize| at % one_stays_in == one_stays_in - 1;
        let staying = (0..SLICED_KEYS).filter(|&at| stays(at)).count();
        let mut store = empty_store();
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|iterations| {
                let mut measured = Duration::ZERO;
                for _ in 0..iterations {
                    if store.expiring(0) <= staying {
                        refill(&mut store, &keys, stays);
                    }
                    let start = Instant::now();
                    black_box(store.expire_slice(DUE));
                    measured += start.elapsed();
                }
                measured
            });
        });
    }
    group.finish();
}

/// When those keys are due that do not stay.
const DUE: Millis = Millis(NOW.0 + 1);

fn refill(store: &mut Store, keys: &[KeyBytes], stays: impl Fn(usize) -> bool) {
    if store.len(0) < keys.len() {
        fill(store, keys, |at| if stays(at) { NEVER_REACHED } else { Expiry::At(DUE) });
    }
}

criterion_group! { name = benches; config = common::criterion(); targets = get, slice }
criterion_main!(benches);
