//! Client bytes to argument spans: `cargo bench -p torc-protocol --bench parse`.
//!
//! One iteration is one receive buffer, read as a shard reads it: request after request until the parser says that
//! nothing whole is left. Items are requests.

mod common;

use std::hint::black_box;

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use torc_protocol::args::Span;
use torc_protocol::limits::RequestLimits;
use torc_protocol::resp::request::{RequestParser, Step};

const KEY: &[u8] = b"key:000000001234";

/// A connection's parser with the lists that it fills, which keep their allocations as those of a shard do.
#[derive(Default)]
struct Reader {
    parser: RequestParser,
    spans: Vec<Span>,
    shared: Vec<Bytes>,
    limits: RequestLimits,
}

impl Reader {
    /// Reads one receive buffer and gives the number of requests that ended in it.
    fn read(&mut self, input: &[u8]) -> u64 {
        let mut position = 0;
        let mut requests = 0;
        self.spans.clear();
        self.shared.clear();
        loop {
            let step = self.parser.parse(input, &mut position, &mut self.spans, &mut self.shared, &self.limits);
            match step.expect("what is benchmarked is well formed") {
                Step::InPlace | Step::Carried(_) => requests += 1,
                Step::NeedMore => break,
            }
        }
        black_box(&self.spans);
        requests
    }
}

/// A request as client libraries send it.
fn encode(words: &[&[u8]]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        bytes.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        bytes.extend_from_slice(word);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
}

/// One request that arrives in two pieces, cut in its last argument.
fn cut(request: &[u8]) -> Vec<Vec<u8>> {
    let (first, second) = request.split_at(request.len() - 10);
    vec![first.to_vec(), second.to_vec()]
}

fn parse(criterion: &mut Criterion) {
    let get = encode(&[b"GET", KEY]);
    let set_32 = encode(&[b"SET", KEY, &[b'v'; 32]]);
    let set_1024 = encode(&[b"SET", KEY, &[b'v'; 1024]]);
    let inline = [b"GET ", KEY, b"\r\n"].concat();
    let cases = [
        ("get", vec![get.clone()]),
        ("get-pipeline-16", vec![get.repeat(16)]),
        ("get-pipeline-64", vec![get.repeat(64)]),
        ("get-in-two-pieces", cut(&get)),
        ("get-inline", vec![inline]),
        ("set-32", vec![set_32.clone()]),
        ("set-32-pipeline-16", vec![set_32.repeat(16)]),
        ("set-32-pipeline-64", vec![set_32.repeat(64)]),
        ("set-32-in-two-pieces", cut(&set_32)),
        ("set-1024", vec![set_1024]),
    ];
    let mut group = criterion.benchmark_group("parse");
    for (name, pieces) in cases {
        let mut reader = Reader::default();
        let elements = pieces.iter().map(|piece| reader.read(piece)).sum();
        let bytes = pieces.iter().map(|piece| piece.len() as u64).sum();
        group.throughput(Throughput::ElementsAndBytes { elements, bytes });
        group.bench_function(name, |bencher| {
            bencher.iter(|| pieces.iter().map(|piece| reader.read(black_box(piece))).sum::<u64>());
        });
    }
    group.finish();
}

criterion_group! { name = benches; config = common::criterion(); targets = parse }
criterion_main!(benches);
