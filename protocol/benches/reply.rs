//! Replies to bytes: `cargo bench -p torc-protocol --bench reply`.
//!
//! One iteration writes the replies of a pipeline of 16 into a buffer that keeps its allocation, and drops them. Items
//! are replies. A bulk string, `+OK`, an integer and an array are the same bytes in both dialects; that their price is
//! the same too is what the pairs show.

mod common;

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use torc_protocol::resp::reply::{Dialect, ReplyBuffer, ReplyWriter};

const PIPELINE: u64 = 16;
const VALUE: &[u8] = &[b'v'; 32];

type Write = fn(&mut ReplyWriter<'_>);

const CASES: [(&str, Write); 6] = [
    ("ok", |reply| reply.ok()),
    ("bulk-32", |reply| reply.bulk(black_box(VALUE))),
    ("integer", |reply| reply.integer(black_box(1_234_567))),
    ("null", |reply| reply.null()),
    ("array-of-16-bulks", |reply| {
        reply.array(16);
        (0..16).for_each(|_| reply.bulk(black_box(VALUE)));
    }),
    ("map-of-8-pairs", |reply| {
        reply.map(8);
        (0..16).for_each(|_| reply.bulk(black_box(VALUE)));
    }),
];

fn reply(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("reply");
    for (name, write) in CASES {
        for (dialect, dialect_name) in [(Dialect::Resp2, "resp2"), (Dialect::Resp3, "resp3")] {
            let mut buffer = ReplyBuffer::default();
            write(&mut ReplyWriter::new(&mut buffer, dialect));
            let bytes = buffer.len() as u64 * PIPELINE;
            group.throughput(Throughput::ElementsAndBytes { elements: PIPELINE, bytes });
            group.bench_function(format!("{name}/{dialect_name}"), |bencher| {
                bencher.iter(|| {
                    buffer.clear();
                    for _ in 0..PIPELINE {
                        write(&mut ReplyWriter::new(&mut buffer, black_box(dialect)));
                    }
                    black_box(buffer.bytes.len())
                });
            });
        }
    }
    group.finish();
}

criterion_group! { name = benches; config = common::criterion(); targets = reply }
criterion_main!(benches);
