//! The queues between cores: `cargo bench -p torc-runtime --bench mesh`.
//!
//! - `one-thread` pushes a parcel and pops it again: the instructions of a hop, with every line in the cache.
//! - `two-cores` sends a parcel to a thread on another core and waits until it is back: two hops and the way of the lines
//!   between the cores. Both threads spin; nothing here parks or wakes.

use std::hint::{black_box, spin_loop};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use torc_engine::config::Cores;
use torc_engine::id::ShardId;
use torc_engine::message::Frame;
use torc_runtime::limits::MESH_PARCELS;
use torc_runtime::mesh::{Parcel, Port, mesh};
use torc_runtime::place;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const HERE: ShardId = ShardId(0);
const THERE: ShardId = ShardId(1);

/// The ports of two shards.
fn ports() -> (Port<Parcel>, Port<Parcel>) {
    let mut ports = mesh(2, MESH_PARCELS).into_iter();
    let mut next = || ports.next().expect("two shards");
    (next(), next())
}

fn send(port: &mut Port<Parcel>, to: ShardId, parcel: Parcel) {
    assert!(port.push(to, parcel).is_ok(), "one parcel is under way");
    // Asked by every turn that sent something; here nobody sleeps.
    black_box(port.poll_wake());
}

fn receive(port: &mut Port<Parcel>, from: ShardId) -> Parcel {
    loop {
        match port.pop(from) {
            Some(parcel) => return parcel,
            None => spin_loop(),
        }
    }
}

fn one_thread(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("mesh");
    group.throughput(Throughput::Elements(1));
    group.bench_function("one-thread", |bencher| {
        let (mut here, mut there) = ports();
        let mut parcel = Some(Parcel::Frame(Frame::default()));
        bencher.iter(|| {
            send(&mut here, THERE, parcel.take().expect("it came back"));
            parcel = there.pop(HERE);
        });
    });
    group.finish();
}

fn two_cores(criterion: &mut Criterion) {
    let cores = place::choose(&Cores::Auto).expect("the kernel says which cores are ours").cores;
    let [first, second, ..] = cores[..] else {
        return println!("mesh/two-cores: left out, this process may run on one core only");
    };
    place::pin(first).expect("the core is ours");
    let mut group = criterion.benchmark_group("mesh");
    // Two hops for each round trip.
    group.throughput(Throughput::Elements(2));
    group.bench_function("two-cores", |bencher| {
        let (mut here, mut there) = ports();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let echo = thread::spawn(move || {
            place::pin(second).expect("the core is ours");
            while !stopped.load(Ordering::Relaxed) {
                match there.pop(HERE) {
                    Some(parcel) => send(&mut there, HERE, parcel),
                    None => spin_loop(),
                }
            }
        });
        bencher.iter_custom(|round_trips| {
            let mut parcel = Parcel::Frame(Frame::default());
            let start = Instant::now();
            for _ in 0..round_trips {
                send(&mut here, THERE, parcel);
                parcel = receive(&mut here, THERE);
            }
            start.elapsed()
        });
        stop.store(true, Ordering::Relaxed);
        echo.join().expect("the echo ends when it is told to");
    });
    group.finish();
}

fn config() -> Criterion {
    let criterion = Criterion::default().without_plots().sample_size(50);
    criterion.warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(1))
}

criterion_group! { name = benches; config = config(); targets = one_thread, two_cores }
criterion_main!(benches);
