//! The store without a shard around it: `cargo bench -p torc-engine --bench store`.
//!
//! At 1,000 keys everything lies in the core's cache; at 4 million (about 400 MB) every bucket and every entry comes from
//! memory. `plain` hashes a batch of keys and uses them; `prefetched` asks for their places first, as the turn does
//! ([`common::in_batches`]). One iteration is [`ROUND`] operations, each on another key. Items are operations.
//!
//! New keys are deleted again and deleted keys are set again outside of the measured time, so the table keeps its size:
//! its growth is not in here, but in the instruction counts.

mod common;

use std::hint::black_box;
use std::time::{Duration, Instant};

use common::{KeyBytes, NOW, VALUE, empty_store, fill, in_batches, keys};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use torc_engine::limits::BATCH_COMMANDS;
use torc_engine::store::{Expiry, Key, NewValue, Store};

/// Operations of one iteration: enough to hide what the clock costs.
const ROUND: usize = 8 * BATCH_COMMANDS;
const SIZES: [(&str, usize); 2] = [("1k", 1_000), ("4M", 4_000_000)];
/// Keys that the store does not have are numbered from here on.
const ABSENT_FROM: usize = 100_000_000;
const ABSENT_MAX: usize = 1_000_000;

/// A store with the keys that it has and keys that it has not.
struct World {
    store: Store,
    present: Vec<KeyBytes>,
    absent: Vec<KeyBytes>,
}

impl World {
    fn new(size: usize) -> World {
        let mut store = empty_store();
        let (mut present, mut absent) = (keys(0, size), keys(ABSENT_FROM, size.min(ABSENT_MAX)));
        fill(&mut store, &present, |_| Expiry::Never);
        if size < ABSENT_MAX {
            // Rounds do not come out even with 1,000 keys, but with so many times 1,000.
            (present, absent) = (present.repeat(BATCH_COMMANDS), absent.repeat(BATCH_COMMANDS));
        }
        World { store, present, absent }
    }
}

/// The benchmarks over a store of one size, which is made when the first of them runs: the large one takes seconds.
struct Group<'a> {
    criterion: &'a mut Criterion,
    name: &'static str,
    size: usize,
    world: Option<World>,
}

impl Group<'_> {
    /// `run` on each key of a round is measured, `undo` of a round is not.
    fn measure(
        &mut self,
        name: &str,
        choose: fn(&World) -> &Vec<KeyBytes>,
        run: impl Fn(&mut Store, Key<'_>),
        undo: impl Fn(&mut Store, &[KeyBytes]),
    ) {
        let mut group = self.criterion.benchmark_group(format!("store/{}", self.name));
        group.throughput(Throughput::Elements(ROUND as u64));
        for (variant, prefetch) in [("plain", false), ("prefetched", true)] {
            group.bench_function(format!("{name}/{variant}"), |bencher| {
                let world = self.world.get_or_insert_with(|| World::new(self.size));
                // A copy, because the store beside them is written to.
                let keys = choose(world).clone();
                let mut rounds = keys.chunks_exact(ROUND).cycle();
                bencher.iter_custom(|iterations| {
                    let mut measured = Duration::ZERO;
                    for round in rounds.by_ref().take(iterations as usize) {
                        let start = Instant::now();
                        in_batches(&mut world.store, round, prefetch, &run);
                        measured += start.elapsed();
                        undo(&mut world.store, round);
                    }
                    measured
                });
            });
        }
        group.finish();
    }
}

fn get(store: &mut Store, key: Key<'_>, found: bool) {
    assert_eq!(black_box(store.get(key, NOW)).is_some(), found);
}

fn set(store: &mut Store, key: Key<'_>) {
    store.set(key, NewValue::from(VALUE), Expiry::Never, NOW);
}

fn remove(store: &mut Store, key: Key<'_>) {
    assert!(store.remove(key, NOW));
}

fn store(criterion: &mut Criterion) {
    for (name, size) in SIZES {
        let mut group = Group { criterion, name, size, world: None };
        let nothing = |_: &mut Store, _: &[KeyBytes]| {};
        group.measure("get-hit", |world| &world.present, |store, key| get(store, key, true), nothing);
        group.measure("get-miss", |world| &world.absent, |store, key| get(store, key, false), nothing);
        group.measure("set-existing", |world| &world.present, set, nothing);
        let remove_all = |store: &mut Store, keys: &[KeyBytes]| in_batches(store, keys, true, remove);
        group.measure("set-new", |world| &world.absent, set, remove_all);
        let set_all = |store: &mut Store, keys: &[KeyBytes]| in_batches(store, keys, true, set);
        group.measure("delete", |world| &world.present, remove, set_all);
    }
}

criterion_group! { name = benches; config = common::criterion(); targets = store }
criterion_main!(benches);
