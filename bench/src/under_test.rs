//! What the measurements of the store share: which servers, starting one, filling it, and waiting until its memory rests.

use crate::client::{Address, Client, Greeting};
use crate::compare::peers::{self, PeerPath};
use crate::compare::servers::{Server, ServerSpec};
use crate::error::Error;
use crate::load::{self, Order, Pace, Plan, Stop, Target};
use crate::process;
use crate::system;
use crate::workload::{Dialect, Shape, Slice, Workload};
use clap::Args;
use std::time::{Duration, Instant};

/// Which servers, and where they and the load run.
#[derive(Args, Clone, Debug)]
pub struct ServersArgs {
    /// NAME=COMMAND, once for each server. The command gets {port} and runs under `sh -c 'exec ...'`.
    /// NAME+memcache=COMMAND speaks memcached's protocol. Without any: Torc and every peer that is found.
    #[arg(long = "server")]
    pub servers: Vec<ServerSpec>,
    /// NAME=PATH of a peer that is not on the PATH: torc, redis, valkey, memcached, pogocache, dragonfly or garnet.
    #[arg(long = "peer", conflicts_with = "servers")]
    pub peers: Vec<PeerPath>,
    #[arg(long, value_delimiter = ',', default_value = "0")]
    pub server_cpus: Vec<usize>,
}

impl ServersArgs {
    /// The servers, each of one process. With `resp_only` those that do not speak RESP are left out, and named.
    pub fn specs(&self, resp_only: bool) -> Result<Vec<ServerSpec>, Error> {
        let mut specs = self.servers.clone();
        if specs.is_empty() {
            // One process each: a peer that uses one core gets the first one.
            specs = peers::find(&self.peers, &self.server_cpus[..1])?;
        }
        if let Some(spec) = specs.iter().find(|spec| spec.commands.len() > 1) {
            return Err(Error::Usage(format!("{}: a server is one process here", spec.name)));
        }
        specs.retain(|spec| {
            let able = !resp_only || spec.dialect == Dialect::Resp;
            if !able {
                eprintln!("{} is left out: this is measured over RESP", spec.name);
            }
            able
        });
        if specs.is_empty() {
            return Err(Error::Usage("there is no server to measure; name one with --server".to_string()));
        }
        Ok(specs)
    }

    /// Starts a server and waits until it answers.
    pub fn start(&self, spec: &ServerSpec) -> Result<Server, Error> {
        let mut server = Server::start(spec, &self.server_cpus)?;
        server.wait_until_ready(&Greeting::default())?;
        Ok(server)
    }
}

/// The load's cpus: those named, or cpu 1 if there is one.
pub fn load_cpus(named: &[usize]) -> Vec<usize> {
    match named {
        [] => vec![1 % std::thread::available_parallelism().map_or(1, usize::from)],
        named => named.to_vec(),
    }
}

/// How long a server may take for one reply before it counts as dead.
pub const REPLY_TIMEOUT: Duration = Duration::from_secs(30);

pub fn connect(address: &Address) -> Result<Client, Error> {
    Client::connect(address, REPLY_TIMEOUT, &Greeting::default())
}

const FILL_CONNECTIONS: usize = 8;
const FILL_PIPELINE_MAX: usize = 64;
/// Bounds the bytes of one batch when values are large.
const FILL_BATCH_BYTES: usize = 1 << 20;

/// Sends `command` once for each of `keys` keys, pipelined.
pub fn fill(
    address: &Address,
    shape: &Shape,
    command: &str,
    keys: u64,
    cpus: &[usize],
    progress: Option<&'static str>,
) -> Result<(), Error> {
    let plan = Plan {
        targets: vec![Target { address: address.clone(), slice: Slice { first: 0, count: 1 } }],
        greeting: Greeting::default(),
        workload: Workload::new(command, (1, 1), shape, false)?,
        keys,
        order: Order::Sequential,
        connections: FILL_CONNECTIONS,
        pipeline: FILL_PIPELINE_MAX.min(1 + FILL_BATCH_BYTES / shape.sizes.max().max(1)),
        pace: Pace::Closed,
        threads: 1,
        cpus: cpus.to_vec(),
        seed: 0,
        warmup: Duration::ZERO,
        stop: Stop::Requests(keys),
        timeout: REPLY_TIMEOUT,
        progress,
    };
    load::run(&plan, &[])?.check()
}

/// A number that came to rest, or the last one seen when the time was up.
#[derive(Clone, Copy, Debug)]
pub struct Settled {
    pub bytes: u64,
    pub at_rest: bool,
}

const SETTLE_LOOK: Duration = Duration::from_millis(100);
/// Looks that must agree.
const SETTLE_LOOKS: usize = 10;
/// Within so much, or within a thousandth.
const SETTLE_BYTES: u64 = 64 << 10;

/// Looks at `bytes` until it moves no more for a second, for at most `bound`.
pub fn settle(bound: Duration, mut bytes: impl FnMut() -> Result<u64, Error>) -> Result<Settled, Error> {
    let start = Instant::now();
    let mut first = bytes()?;
    let mut agreeing = 1;
    let mut last = first;
    while agreeing < SETTLE_LOOKS && start.elapsed() < bound {
        system::sleep(SETTLE_LOOK)?;
        last = bytes()?;
        if last.abs_diff(first) <= SETTLE_BYTES.max(first / 1_000) {
            agreeing += 1;
        } else {
            (first, agreeing) = (last, 1);
        }
    }
    Ok(Settled { bytes: last, at_rest: agreeing >= SETTLE_LOOKS })
}

/// The resident memory of the server, once it rests.
pub fn settled_rss(server: &Server, bound: Duration) -> Result<Settled, Error> {
    settle(bound, || Ok(process::sample(&server.pids())?.rss_bytes))
}

pub fn mib(bytes: u64) -> f64 {
    bytes as f64 / 1_048_576.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_moves_is_waited_for_within_a_bound() {
        let resting = settle(Duration::from_secs(20), || Ok(5)).unwrap();
        assert!(resting.at_rest && resting.bytes == 5);
        let mut bytes = 0;
        let growing = settle(Duration::from_millis(250), || {
            bytes += 1 << 20;
            Ok(bytes)
        });
        let growing = growing.unwrap();
        assert!(!growing.at_rest && growing.bytes == bytes);
    }
}
