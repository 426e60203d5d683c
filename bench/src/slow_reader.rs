//! `torc-bench slow-reader`: one client asks for much and reads nothing. What does it cost the server in
//! memory, and the others in latency?

use crate::client::{self, Client};
use crate::error::Error;
use crate::load::{self, Outcome, Plan, Stop};
use crate::process;
use crate::run::{LoadArgs, PERCENTILES, Ports, seconds, warn};
use crate::system;
use clap::Args;
use serde_json::{Value, json};
use std::io::{ErrorKind, Write};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

#[derive(Args, Clone, Debug)]
pub struct SlowReaderArgs {
    #[arg(long, default_value = "127.0.0.1")]
    pub host: String,
    #[arg(long, default_value_t = 6379)]
    pub port: u16,
    /// Processes of the server.
    #[arg(long, value_delimiter = ',', required = true)]
    pub pid: Vec<u32>,
    /// The other clients: GETs, one at a time on each connection.
    #[command(flatten)]
    pub load: LoadArgs,
    /// How much the slow client asks for.
    #[arg(long, default_value_t = 1 << 30)]
    pub total_bytes: u64,
    /// Size of the one value it asks for again and again.
    #[arg(long, default_value_t = 1 << 20)]
    pub big_value_size: usize,
    /// Of each of the two measurements.
    #[arg(long, default_value_t = 5.0)]
    pub seconds: f64,
    #[arg(long)]
    pub json: bool,
}

const BIG_KEY: &[u8] = b"torc-bench:big";
/// Small, so that little of what is asked for hides in the kernel.
const RECEIVE_BUFFER_BYTES: usize = 65_536;

pub fn run(args: &SlowReaderArgs) -> Result<(), Error> {
    system::catch_signals();
    let ports = Ports { host: args.host.clone(), ports: vec![args.port], unix: None, split_keys: false };
    let stop = Stop::After(seconds(args.seconds)?);
    let plan = args.load.plan(&ports, "get", 1, stop)?;
    system::pin_thread(&args.load.cpus).map_err(Error::io("pin to --cpus"))?;
    load::preload(&plan, &args.load.shape())?;

    let address = client::resolve(&args.host, args.port)?;
    let mut slow = Client::connect(&address, plan.timeout, &plan.greeting)?;
    slow.call(&[b"SET", BIG_KEY, &vec![b'b'; args.big_value_size]])?;
    let before = load::run(&plan, &args.pid)?;

    let rss_before = process::sample(&args.pid)?.rss_bytes;
    let requests = args.total_bytes.div_ceil(args.big_value_size.max(1) as u64);
    let accepted = ask(&mut slow, requests)?;
    let (during, rss_peak) = measure_with_peak(&plan, args)?;
    let rss_end = process::sample(&args.pid)?.rss_bytes;
    let disconnected = hung_up(&slow);
    drop(slow);
    let mut last = Client::connect(&address, plan.timeout, &plan.greeting)?;
    last.call(&[b"DEL", BIG_KEY])?;

    if args.json {
        let result = json!({
            "before": latencies(&before),
            "during": latencies(&during),
            "requested_bytes": requests * args.big_value_size as u64,
            "request_bytes_accepted_share": accepted,
            "slow_client_disconnected": disconnected,
            "rss_bytes_before": rss_before,
            "rss_bytes_peak": rss_peak,
            "rss_bytes_end": rss_end,
        });
        println!("{result:#}");
    } else {
        let mib = |bytes: u64| bytes as f64 / 1048576.0;
        println!(
            "slow reader: {:.0} MiB asked for and not read ({:.0} % of the requests were taken), {}",
            mib(requests * args.big_value_size as u64),
            accepted * 100.0,
            if disconnected { "the server disconnected it" } else { "it stayed connected" }
        );
        println!(
            "  server RSS {:.1} MiB before, {:.1} at most (+{:.1}), {:.1} at the end",
            mib(rss_before),
            mib(rss_peak),
            mib(rss_peak.saturating_sub(rss_before)),
            mib(rss_end)
        );
        for (name, outcome) in [("before", &before), ("during", &during)] {
            print!("  others {name}: {:.0} ops/s, latency us", outcome.requests_per_second());
            for (name, quantile) in PERCENTILES {
                print!("  {name} {:.1}", outcome.latency_ns.value_at_quantile(quantile) as f64 / 1e3);
            }
            println!("  max {:.1}", outcome.latency_ns.max() as f64 / 1e3);
        }
    }
    warn(&during);
    before.check()?;
    during.check()
}

/// Sends the requests, and gives up where the server stops reading. Returns the share it took.
fn ask(slow: &mut Client, requests: u64) -> Result<f64, Error> {
    let socket = socket2::SockRef::from(&slow.stream);
    socket.set_recv_buffer_size(RECEIVE_BUFFER_BYTES).map_err(Error::io("set the receive buffer"))?;
    socket.set_nonblocking(true).map_err(Error::io("set the slow connection non-blocking"))?;
    let key = BIG_KEY.escape_ascii();
    let request = format!("*2\r\n$3\r\nGET\r\n${}\r\n{key}\r\n", BIG_KEY.len()).into_bytes();
    let all = request.repeat(requests as usize);
    let mut sent = 0;
    let mut refusals = 0;
    while sent < all.len() && refusals < 20 {
        match slow.stream.write(&all[sent..]) {
            Ok(bytes) => {
                sent += bytes;
                refusals = 0;
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                refusals += 1;
                system::sleep(Duration::from_millis(10))?;
            }
            // Being thrown out is a legitimate answer to this behaviour, and reported.
            Err(_) => break,
        }
    }
    Ok(sent as f64 / all.len().max(1) as f64)
}

/// Runs the load and looks at the server's memory every 20 ms meanwhile.
fn measure_with_peak(plan: &Plan, args: &SlowReaderArgs) -> Result<(Outcome, u64), Error> {
    let peak = AtomicU64::new(0);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let rss_bytes = process::sample(&args.pid).map_or(0, |sample| sample.rss_bytes);
                peak.fetch_max(rss_bytes, Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        let outcome = load::run(plan, &args.pid);
        done.store(true, Ordering::Relaxed);
        outcome.map(|outcome| (outcome, peak.load(Ordering::Relaxed)))
    })
}

fn hung_up(slow: &Client) -> bool {
    let mut poll = libc::pollfd { fd: slow.stream.as_raw_fd(), events: libc::POLLRDHUP, revents: 0 };
    // SAFETY: one pollfd, which outlives the call.
    unsafe { libc::poll(&mut poll, 1, 0) };
    poll.revents & (libc::POLLRDHUP | libc::POLLHUP | libc::POLLERR) != 0
}

fn latencies(outcome: &Outcome) -> Value {
    let mut value = json!({
        "ops_per_second": outcome.requests_per_second(),
        "latency_us": { "max": outcome.latency_ns.max() as f64 / 1e3 },
    });
    for (name, quantile) in PERCENTILES {
        value["latency_us"][name] = json!(outcome.latency_ns.value_at_quantile(quantile) as f64 / 1e3);
    }
    value
}
