//! What the benchmarks of the engine share: the allocator, keys, a store, a client with a pipeline.
//!
//! Everything is made from fixed seeds, so that two runs do the same work.

// Each benchmark is a crate of its own and uses a part of this.
#![allow(dead_code, unused_imports)]

mod pipeline;

use std::time::Duration;

use criterion::Criterion;
use torc_engine::id::Millis;
use torc_engine::limits::BATCH_COMMANDS;
use torc_engine::store::{Expiry, Key, NewValue, Store};
use torc_sim::Random;

pub use pipeline::{HOME, OWNER, Pipeline, Verb, owned_by, serving};

/// The allocator of the server, so that what allocates costs here what it costs there.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Some day in 2026.
pub const NOW: Millis = Millis(1_780_000_000_000);
pub const VALUE: &[u8] = &[b'v'; 32];
const HASH_SEED: [u64; 4] = [1, 2, 3, 4];
const ORDER_SEED: u64 = 1;

pub const KEY_BYTES: usize = 16;
pub type KeyBytes = [u8; KEY_BYTES];

/// Keys as `torc-bench` makes them, `key:000000001234`, from number `first` on and in random order.
pub fn keys(first: usize, count: usize) -> Vec<KeyBytes> {
    let key = |number| format!("key:{number:012}").into_bytes().try_into().expect("twelve digits are enough");
    let mut keys: Vec<KeyBytes> = (first..first + count).map(key).collect();
    let mut random = Random::new(ORDER_SEED);
    for at in (1..count).rev() {
        keys.swap(at, random.below(at + 1));
    }
    keys
}

/// An empty store with the one database that is used.
pub fn empty_store() -> Store {
    Store::new(1, HASH_SEED, false)
}

/// Sets all of `keys`, each to expire at the time that `expiry` gives for its place.
pub fn fill(store: &mut Store, keys: &[KeyBytes], expiry: impl Fn(usize) -> Expiry) {
    for (at, key) in keys.iter().enumerate() {
        store.set(store.key(0, key), NewValue::from(VALUE), expiry(at), NOW);
    }
}

/// Runs something on each key, in batches as a turn makes them: all keys of a batch are hashed, then, if `prefetch`, their
/// places are asked for as the turn asks for them, then each is used.
#[inline(always)]
pub fn in_batches(store: &mut Store, keys: &[KeyBytes], prefetch: bool, mut run: impl FnMut(&mut Store, Key<'_>)) {
    for batch in keys.as_chunks::<BATCH_COMMANDS>().0 {
        let hashed = batch.each_ref().map(|key| store.key(0, key));
        if prefetch {
            hashed.iter().for_each(|key| store.prefetch_bucket(0, key.hash));
            hashed.iter().for_each(|key| store.prefetch_entry(0, key.hash));
        }
        hashed.iter().for_each(|&key| run(store, key));
    }
}

/// Short runs: what is measured takes nanoseconds, and the spread comes from the machine, not from too few samples.
pub fn criterion() -> Criterion {
    let criterion = Criterion::default().without_plots().sample_size(50);
    criterion.warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(1))
}
