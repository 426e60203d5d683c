//! What the benchmarks of the protocol share.

use std::time::Duration;

use criterion::Criterion;

/// The allocator of the server, so that what allocates costs here what it costs there.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Short runs: what is measured takes nanoseconds, and the spread comes from the machine, not from too few samples.
pub fn criterion() -> Criterion {
    let criterion = Criterion::default().without_plots().sample_size(50);
    criterion.warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(1))
}
