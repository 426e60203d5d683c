//! Parse and execute: `cargo bench -p torc-engine --bench turn`.
//!
//! One iteration is one turn of a shard with 64 pipelined commands of one client, from the bytes in the receive buffer to
//! the bytes of the replies, which are then taken as the worker takes them. All that a server adds is the kernel and the
//! ring. Items are commands, bytes those of the requests. The keys are other ones each time, and are written to the
//! receive buffer outside of the measured time; so they lie in the core's cache, as what the kernel has just copied does.

mod common;

use std::time::{Duration, Instant};

use common::{Pipeline, Verb, keys};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use torc_engine::limits::BATCH_COMMANDS;

const SIZES: [(&str, usize); 2] = [("1k", 1_000), ("4M", 4_000_000)];

fn turn(criterion: &mut Criterion) {
    for (size_name, size) in SIZES {
        // Made when the first benchmark needs it: the large one takes seconds.
        let mut world = None;
        for (verb_name, verb) in [("get", Verb::Get), ("set", Verb::Set)] {
            let mut group = criterion.benchmark_group(format!("turn/{size_name}"));
            let bytes = verb.request_bytes() * BATCH_COMMANDS as u64;
            group.throughput(Throughput::ElementsAndBytes { elements: BATCH_COMMANDS as u64, bytes });
            group.bench_function(format!("{verb_name}-64"), |bencher| {
                let (keys, shards) = world.get_or_insert_with(|| {
                    let keys = keys(0, size);
                    let shards = common::serving(1, &keys);
                    (keys, shards)
                });
                let mut pipeline = Pipeline::new(shards, verb, BATCH_COMMANDS);
                let mut pipelines = keys.chunks_exact(BATCH_COMMANDS).cycle();
                bencher.iter_custom(|iterations| {
                    let mut measured = Duration::ZERO;
                    for keys in pipelines.by_ref().take(iterations as usize) {
                        pipeline.choose(keys);
                        let start = Instant::now();
                        pipeline.turn_home();
                        pipeline.take_replies();
                        measured += start.elapsed();
                    }
                    measured
                });
            });
            group.finish();
        }
    }
}

criterion_group! { name = benches; config = common::criterion(); targets = turn }
criterion_main!(benches);
