//! What is counted. Each case makes what it needs, warms up (until every buffer has found its size and every page is
//! there), hands the measured part to [`torc_measured`] and gives the number of operations in that.

use std::hint::black_box;

use torc_engine::store::{Expiry, Key, NewValue, Store};
use torc_protocol::args::Span;
use torc_protocol::limits::RequestLimits;
use torc_protocol::resp::reply::{Dialect, ReplyBuffer, ReplyWriter};
use torc_protocol::resp::request::{RequestParser, Step};

use crate::callgrind::torc_measured;
use crate::common::{
    HOME, KeyBytes, NOW, OWNER, Pipeline, VALUE, Verb, empty_store, fill, in_batches, keys, owned_by, serving,
};

/// A name, and what sets up, measures and gives the number of operations.
type Case = (&'static str, fn() -> u64);

const CASES: [Case; 18] = [
    ("parse/get", || parse(Verb::Get, 1)),
    ("parse/set-32", || parse(Verb::Set, 1)),
    ("parse/get-pipeline-16", || parse(Verb::Get, PIPELINE)),
    ("reply/bulk-32", || reply(|reply| reply.bulk(black_box(VALUE)))),
    ("reply/ok", || reply(|reply| reply.ok())),
    ("reply/integer", || reply(|reply| reply.integer(black_box(1_234_567)))),
    ("store/hash-and-prefetch", || on_present(|_, _| {})),
    ("store/get-hit", || on_present(|store, key| assert!(black_box(store.get(key, NOW)).is_some()))),
    ("store/get-miss", || on_absent(|store, key| assert!(black_box(store.get(key, NOW)).is_none()))),
    ("store/set-existing", || on_present(set)),
    ("store/set-new", || set_new()),
    ("store/delete", || delete()),
    ("turn/get", || turn(1, Verb::Get)),
    ("turn/set", || turn(1, Verb::Set)),
    ("turn/get-of-two-shards", || turn(2, Verb::Get)),
    ("turn/set-of-two-shards", || turn(2, Verb::Set)),
    ("forwarded/get-home", || forwarded(HOME)),
    ("forwarded/get-owner", || forwarded(OWNER)),
];

pub fn names() -> impl Iterator<Item = &'static str> {
    CASES.iter().map(|(name, _)| *name)
}

/// Runs a case and gives the number of its operations.
pub fn run(name: &str) -> u64 {
    let (_, case) = CASES.iter().find(|(case, _)| *case == name).expect("the outer process knows the cases");
    case()
}

/// Commands in a pipeline, and how often it is sent unmeasured and measured.
const PIPELINE: usize = 16;
const WARM_UP: usize = 500;
const ROUNDS: usize = 500;
/// Keys of the store, and of the shard; a whole number of batches and of pipelines.
const KEYS: usize = 16_000;

/// Runs something unmeasured as often as it takes, then measured.
fn warm_up_and_measure(mut work: impl FnMut()) {
    (0..WARM_UP).for_each(|_| work());
    torc_measured(&mut || (0..ROUNDS).for_each(|_| work()));
}

/// Receive buffers with `requests` requests each, read as a shard reads them.
fn parse(verb: Verb, requests: usize) -> u64 {
    let buffer = verb.request(&keys(0, 1)[0]).repeat(requests);
    let limits = RequestLimits::default();
    let mut parser = RequestParser::default();
    let (mut spans, mut shared) = (Vec::<Span>::new(), Vec::new());
    warm_up_and_measure(|| {
        let mut position = 0;
        loop {
            match parser.parse(black_box(&buffer), &mut position, &mut spans, &mut shared, &limits) {
                Ok(Step::InPlace) => {}
                Ok(Step::NeedMore) => break,
                step => panic!("{step:?}"),
            }
        }
        black_box(&spans);
        spans.clear();
    });
    (ROUNDS * requests) as u64
}

/// The replies of a pipeline, written into a buffer that keeps its allocation.
fn reply(write: impl Fn(&mut ReplyWriter<'_>)) -> u64 {
    let mut buffer = ReplyBuffer::default();
    warm_up_and_measure(|| {
        buffer.clear();
        (0..PIPELINE).for_each(|_| write(&mut ReplyWriter::new(&mut buffer, black_box(Dialect::Resp2))));
        black_box(&buffer);
    });
    (ROUNDS * PIPELINE) as u64
}

/// Something with each key that a store has. Like all that follow, it contains hashing and prefetching the key.
fn on_present(run: impl Fn(&mut Store, Key<'_>)) -> u64 {
    on_each(&keys(0, KEYS), run)
}

/// Something with keys that the store does not have.
fn on_absent(run: impl Fn(&mut Store, Key<'_>)) -> u64 {
    on_each(&keys(KEYS, KEYS), run)
}

fn on_each(used: &[KeyBytes], run: impl Fn(&mut Store, Key<'_>)) -> u64 {
    let mut store = empty_store();
    fill(&mut store, &keys(0, KEYS), |_| Expiry::Never);
    let mut work = || in_batches(&mut store, black_box(used), true, &run);
    work();
    torc_measured(&mut work);
    used.len() as u64
}

fn set(store: &mut Store, key: Key<'_>) {
    store.set(key, NewValue::from(VALUE), Expiry::Never, NOW);
}

/// A store that doubles: so its growth is in it, each segment's split once.
fn set_new() -> u64 {
    const BEFORE: usize = 102_400;
    let mut store = empty_store();
    fill(&mut store, &keys(0, BEFORE), |_| Expiry::Never);
    let new = keys(BEFORE, BEFORE);
    torc_measured(&mut || in_batches(&mut store, black_box(&new), true, set));
    new.len() as u64
}

fn delete() -> u64 {
    let mut store = empty_store();
    fill(&mut store, &keys(0, 3 * KEYS), |_| Expiry::Never);
    let remove_all = |store: &mut Store, keys: &[KeyBytes]| {
        in_batches(store, black_box(keys), true, |store, key| assert!(store.remove(key, NOW)));
    };
    remove_all(&mut store, &keys(KEYS, KEYS));
    let gone = keys(0, KEYS);
    torc_measured(&mut || remove_all(&mut store, &gone));
    gone.len() as u64
}

/// One turn of a shard for each pipeline, from the bytes received to the bytes sent. With two shards each key's slot is
/// computed as well; all keys are at home.
fn turn(shards: usize, verb: Verb) -> u64 {
    let mut used = keys(0, KEYS);
    if shards > 1 {
        used = owned_by(HOME, &used);
    }
    let mut shards = serving(shards, &used);
    let mut pipeline = Pipeline::new(&mut shards, verb, PIPELINE);
    for (round, keys) in used.chunks_exact(PIPELINE).cycle().take(WARM_UP + ROUNDS).enumerate() {
        pipeline.choose(keys);
        count_if(round >= WARM_UP, || {
            pipeline.turn_home();
            pipeline.take_replies();
        });
    }
    (ROUNDS * PIPELINE) as u64
}

/// Pipelines of GETs whose keys the other shard owns: what the home shard does for them (send them on, then take the
/// replies in), or what the owner does.
fn forwarded(side: usize) -> u64 {
    let used = owned_by(OWNER, &keys(0, KEYS));
    let mut shards = serving(2, &used);
    let mut pipeline = Pipeline::new(&mut shards, Verb::Get, PIPELINE);
    let mut frame = None;
    for (round, keys) in used.chunks_exact(PIPELINE).cycle().take(WARM_UP + ROUNDS).enumerate() {
        let (at_home, at_owner) = (round >= WARM_UP && side == HOME, round >= WARM_UP && side == OWNER);
        pipeline.choose(keys);
        count_if(at_home, || {
            pipeline.turn_home();
            frame = pipeline.take_frame(HOME, OWNER);
        });
        count_if(at_owner, || {
            pipeline.turn_for_frame(OWNER, HOME, &mut frame);
            frame = pipeline.take_frame(OWNER, HOME);
        });
        count_if(at_home, || {
            pipeline.turn_for_frame(HOME, OWNER, &mut frame);
            pipeline.take_replies();
        });
    }
    (ROUNDS * PIPELINE) as u64
}

fn count_if(counted: bool, mut work: impl FnMut()) {
    if counted {
        torc_measured(&mut work);
    } else {
        work();
    }
}
