//! `torc-bench hit-ratio`: how well a server chooses what it evicts.
//!
//! ```text
//! for each server, for each policy, for each size of the cache:
//!     how much memory do so many keys take?      fill without a limit, INFO used_memory, FLUSHALL
//!     CONFIG SET maxmemory to that
//!     for each pattern of requests:
//!         GET, and SET on a miss; warm up, then count hits, and the keys held
//!         the same requests to exact caches that hold as many keys as the server did
//! ```
//!
//! A server that needs more memory for a key holds fewer of them than one that needs less. The comparison with the exact
//! caches leaves that out: it says what the choice of the server is worth. `cache.rs` and `s3_fifo.rs` have the exact
//! caches, `requests.rs` the patterns, `look_aside.rs` how requests are sent.

mod cache;
mod look_aside;
mod requests;
mod s3_fifo;

use crate::bar::Bar;
use crate::compare::servers::{Server, ServerSpec};
use crate::error::Error;
use crate::keys;
use crate::system;
use crate::under_test::{ServersArgs, connect, load_cpus, settle};
use cache::Algorithm;
use clap::Args;
use look_aside::{Course, LookAside, Measured, simulate};
use requests::{Pattern, Requests};
use serde_json::{Value, json};
use std::time::Duration;

#[derive(Args, Clone, Debug)]
pub struct HitRatioArgs {
    #[command(flatten)]
    pub servers: ServersArgs,
    /// The load's cpu; 1 unless named.
    #[arg(long, value_delimiter = ',')]
    pub load_cpus: Vec<usize>,
    /// Values of maxmemory-policy, separated by spaces. A server that refuses one is left out of it.
    #[arg(long = "policy", value_delimiter = ' ', default_value = "allkeys-lru")]
    pub policies: Vec<String>,
    /// Which keys are asked for, separated by spaces: zipf:EXPONENT; zipf-scan:EXPONENT, a fifth of it scans over keys of
    /// their own; loop:TIMES, over a set so many times as large as the cache; shift:EXPONENT, where the hottest hundredth
    /// becomes the coldest every --shift-requests.
    #[arg(
        long = "trace",
        value_delimiter = ' ',
        default_value = "zipf:0.7 zipf:0.99 zipf-scan:0.99 loop:1.1 shift:0.99"
    )]
    pub patterns: Vec<Pattern>,
    /// Sizes of the cache in per cent of --keys, separated by commas.
    #[arg(long = "sizes", value_delimiter = ',', default_value = "0.1,1,10")]
    pub sizes: Vec<f64>,
    #[arg(long, default_value_t = 1_000_000)]
    pub keys: u64,
    #[arg(long, default_value_t = 16)]
    pub key_size: usize,
    /// The smallest cache should be some hundred KiB: less is lost in what a server needs beside its keys.
    #[arg(long, default_value_t = 1024)]
    pub value_size: usize,
    /// Requests whose hits are counted.
    #[arg(long, default_value_t = 2_000_000)]
    pub requests: u64,
    /// Requests before those.
    #[arg(long, default_value_t = 1_000_000)]
    pub warmup: u64,
    #[arg(long, default_value_t = 50_000)]
    pub shift_requests: u64,
    /// At most so many requests a second; for servers whose clocks of use are coarse.
    #[arg(long)]
    pub rate: Option<f64>,
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Print the result as JSON.
    #[arg(long)]
    pub json: bool,
}

/// Larger numbers of keys make the exact caches too large.
const KEYS_MAX: u64 = 100_000_000;
const VALUE_BYTES_MAX: usize = 1 << 20;
/// How long used_memory is given to come to rest.
const SETTLE: Duration = Duration::from_secs(10);

struct Cell {
    server: String,
    version: String,
    policy: String,
    pattern: Pattern,
    size_percent: f64,
    capacity: u64,
    batch: usize,
    maxmemory_bytes: u64,
    bytes_per_key: f64,
    requests: u64,
    measured: Measured,
    /// In the order of `Algorithm::ALL`.
    exact_hits: [u64; Algorithm::ALL.len()],
}

pub fn run(args: &HitRatioArgs) -> Result<(), Error> {
    check(args)?;
    let specs = args.servers.specs(true)?;
    let machine = system::describe_machine();
    system::catch_signals();
    let mut cells = Vec::new();
    for spec in &specs {
        cells.append(&mut measure_server(args, spec)?);
    }
    if cells.is_empty() {
        return Err(Error::Usage("no server took any of the policies".to_string()));
    }
    if args.json {
        println!("{:#}", report(args, machine, &cells));
    } else {
        print(args, &cells);
    }
    Ok(())
}

fn check(args: &HitRatioArgs) -> Result<(), Error> {
    let usage = |text: &str| Err(Error::Usage(text.to_string()));
    if !(1..=KEYS_MAX).contains(&args.keys) || args.requests == 0 || args.shift_requests == 0 {
        return usage("--requests and --shift-requests must be at least 1, --keys 1 to 100 million");
    }
    if args.value_size > VALUE_BYTES_MAX || args.value_size < 8 || !keys::key_fits(args.key_size, 2 * args.keys) {
        return usage(
            "--value-size is 8 to 1048576, --key-size holds 4 bytes of prefix and the digits of twice --keys",
        );
    }
    if args.patterns.is_empty() || args.policies.is_empty() || args.sizes.is_empty() {
        return usage("--trace, --policy and --sizes name at least one");
    }
    let is_size = |&size: &f64| size > 0.0 && size <= 100.0 && capacity_of(size, args.keys) >= 1;
    if !args.sizes.iter().all(is_size) {
        return usage("--sizes are per cent of --keys, above 0 and up to 100, of one key at least");
    }
    if args.rate.is_some_and(|rate| !(rate >= 1.0 && rate.is_finite())) {
        return usage("--rate must be at least 1 a second");
    }
    Ok(())
}

fn capacity_of(size_percent: f64, keys: u64) -> u64 {
    (keys as f64 * size_percent / 100.0).round() as u64
}

fn measure_server(args: &HitRatioArgs, spec: &ServerSpec) -> Result<Vec<Cell>, Error> {
    let server = args.servers.start(spec)?;
    system::pin_thread(&load_cpus(&args.load_cpus)).map_err(Error::io("pin to --load-cpus"))?;
    let mut cache = LookAside::new(connect(&server.address())?, args.key_size, args.value_size);
    let mut cells = Vec::new();
    for policy in &args.policies {
        match cache.client.call(&[b"CONFIG", b"SET", b"maxmemory-policy", policy.as_bytes()]) {
            Ok(_) => {}
            Err(Error::WrongReply { got, .. }) => {
                eprintln!("{} is left out of {policy}: {got}", server.name);
                continue;
            }
            Err(error) => return Err(error),
        }
        for &size in &args.sizes {
            let limit = Limit::find(&mut cache, capacity_of(size, args.keys))?;
            for &pattern in &args.patterns {
                cells.push(measure(args, &server, policy, size, limit, pattern, &mut cache)?);
            }
        }
    }
    Ok(cells)
}

/// The memory that a number of keys takes.
#[derive(Clone, Copy)]
struct Limit {
    capacity: u64,
    maxmemory_bytes: u64,
    bytes_per_key: f64,
}

impl Limit {
    fn find(cache: &mut LookAside, capacity: u64) -> Result<Limit, Error> {
        set_limit(cache, 0)?;
        let before = empty(cache)?;
        cache.fill(capacity)?;
        Error::if_refused(&cache.refused)?;
        let held = cache.client.integer(&[b"DBSIZE"])?;
        if held != capacity {
            return Err(cache.client.wrong(format!("{capacity} keys without a limit"), held.to_string().as_bytes()));
        }
        let full = used_memory(cache)?;
        let after = empty(cache)?;
        let grown = full.saturating_sub(before);
        Ok(Limit { capacity, maxmemory_bytes: after + grown, bytes_per_key: grown as f64 / capacity as f64 })
    }
}

fn set_limit(cache: &mut LookAside, bytes: u64) -> Result<(), Error> {
    cache.client.call(&[b"CONFIG", b"SET", b"maxmemory", bytes.to_string().as_bytes()]).map(|_| ())
}

/// Used memory, at rest.
fn used_memory(cache: &mut LookAside) -> Result<u64, Error> {
    Ok(settle(SETTLE, || cache.client.info("memory", "used_memory"))?.bytes)
}

/// Takes all keys away and returns the memory that is used then.
fn empty(cache: &mut LookAside) -> Result<u64, Error> {
    cache.client.call(&[b"FLUSHALL"])?;
    used_memory(cache)
}

fn measure(
    args: &HitRatioArgs,
    server: &Server,
    policy: &str,
    size_percent: f64,
    limit: Limit,
    pattern: Pattern,
    cache: &mut LookAside,
) -> Result<Cell, Error> {
    let capacity = limit.capacity;
    let batch = Course::batch_for(capacity);
    let course = Course { warmup: args.warmup, requests: args.requests, batch, rate: args.rate };
    let requests = || Requests::new(pattern, args.keys, capacity, args.shift_requests, args.seed);
    let bar = Bar::new((!args.json).then_some("hit-ratio"), args.warmup + args.requests);
    bar.set_with(0, format!("{}, {policy}, {pattern}, {size_percent} %", server.name));
    set_limit(cache, 0)?;
    empty(cache)?;
    set_limit(cache, limit.maxmemory_bytes)?;
    let measured = cache.measure(&mut requests(), course, &bar)?;
    Error::if_refused(&cache.refused)?;
    let held = measured.held_mean().round() as usize;
    let bound = pattern.bound(args.keys, capacity) as usize;
    // A server that holds nothing is compared with a cache of one key, the least there is.
    let exact = |algorithm: Algorithm| simulate(&mut *algorithm.cache(held.max(1), bound), &mut requests(), course);
    Ok(Cell {
        server: server.name.clone(),
        version: server.version.clone(),
        policy: policy.to_string(),
        pattern,
        size_percent,
        capacity,
        batch,
        maxmemory_bytes: limit.maxmemory_bytes,
        bytes_per_key: limit.bytes_per_key,
        requests: args.requests,
        measured,
        exact_hits: Algorithm::ALL.map(exact),
    })
}

impl Cell {
    fn percent(&self, hits: u64) -> f64 {
        hits as f64 / self.requests as f64 * 100.0
    }

    /// Of the server's hit ratio from that of exact LRU, in points of per cent.
    fn difference(&self) -> f64 {
        self.percent(self.measured.hits) - self.percent(self.exact_hits[0])
    }
}

fn print(args: &HitRatioArgs, cells: &[Cell]) {
    println!(
        "{} keys, values of {} bytes, {} requests after {} to warm up, seed {}; hit ratios in per cent; exact caches hold as \
         many keys as the server did\n",
        args.keys, args.value_size, args.requests, args.warmup, args.seed
    );
    println!(
        "{:<10} {:<16} {:<16} {:>6} {:>9} {:>10} | {:>7} {:>9} | {:>7} {:>8} {:>7}",
        "server", "policy", "trace", "size %", "keys for", "keys held", "hits", "to LRU", "LRU", "S3-FIFO", "SIEVE"
    );
    for cell in cells {
        let [lru, s3_fifo, sieve] = cell.exact_hits.map(|hits| cell.percent(hits));
        println!(
            "{:<10} {:<16} {:<16} {:>6} {:>9} {:>10.0} | {:>7.2} {:>+9.2} | {lru:>7.2} {s3_fifo:>8.2} {sieve:>7.2}",
            cell.server,
            cell.policy,
            cell.pattern.to_string(),
            cell.size_percent,
            cell.capacity,
            cell.measured.held_mean(),
            cell.percent(cell.measured.hits),
            cell.difference(),
        );
    }
}

fn report(args: &HitRatioArgs, machine: Value, cells: &[Cell]) -> Value {
    let cell = |cell: &Cell| {
        let mut value = json!({
            "server": cell.server,
            "version": cell.version,
            "policy": cell.policy,
            "trace": cell.pattern.to_string(),
            "size_percent": cell.size_percent,
            "capacity_keys": cell.capacity,
            "batch": cell.batch,
            "maxmemory_bytes": cell.maxmemory_bytes,
            "bytes_per_key": cell.bytes_per_key,
            "keys_held_mean": cell.measured.held_mean(),
            "keys_held_min": cell.measured.held.iter().min(),
            "keys_held_max": cell.measured.held.iter().max(),
            "seconds": cell.measured.seconds,
            "hits": cell.measured.hits,
            "hit_percent": cell.percent(cell.measured.hits),
            "points_to_exact_lru": cell.difference(),
        });
        for (algorithm, hits) in Algorithm::ALL.iter().zip(cell.exact_hits) {
            value["exact_hit_percent"][algorithm.name()] = json!(cell.percent(hits));
        }
        value
    };
    json!({
        "command_line": system::command_line(),
        "machine": machine,
        "keys": args.keys,
        "key_size": args.key_size,
        "value_size": args.value_size,
        "requests": args.requests,
        "warmup": args.warmup,
        "shift_requests": args.shift_requests,
        "rate": args.rate,
        "seed": args.seed,
        "results": cells.iter().map(cell).collect::<Vec<_>>(),
    })
}
