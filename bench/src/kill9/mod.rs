//! `torc-bench kill9`: does a server keep what it promised when it is killed?
//!
//! ```text
//! start, serve | load, perhaps a snapshot | kill -9 | start, perhaps kill -9 again, ... | serve | verify | load ...
//!              |<------------------------ a round ----------------------------------------------->|
//! ```
//!
//! All on one data directory. Each next start is the next of the command lines, so shards may come and go. What clients know
//! of each key is in `history.rs`, with the function that judges it; `lane.rs` is the load of a connection, `value.rs` what
//! values are, `verify.rs` reads everything back.

mod history;
mod lane;
mod value;
mod verify;

use crate::bar::Bar;
use crate::client::{Address, Client};
use crate::compare::servers::{Server, ServerSpec};
use crate::data_dir::{DataDir, check_spec};
use crate::error::Error;
use crate::random::Random;
use crate::run::seconds;
use crate::statistics::median;
use crate::system;
use crate::under_test::{connect, load_cpus};
use clap::Args;
use lane::{Course, Lane, now_ms, share_databases};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use verify::{Expected, Promise, Violation, verify};

#[derive(Args, Clone, Debug)]
pub struct Kill9Args {
    /// NAME=COMMAND. The command gets {port} and {dir}, and runs under `sh -c 'exec ...'`.
    #[arg(long)]
    pub server: ServerSpec,
    /// Another command line for the same data, without a name; each start takes the next one, and then the first again.
    #[arg(long = "server-variant")]
    pub variants: Vec<String>,
    /// Numbers of shards, one for each start in turn: `{cores}` in a command becomes as many of --server-cpus, which are
    /// taken again from the first where there are fewer.
    #[arg(long, value_delimiter = ',')]
    pub shards_cycle: Vec<usize>,
    /// What the server is held to.
    #[arg(long, value_enum, default_value = "always")]
    pub promise: Promise,
    /// Of `everysec`: what was acknowledged so long before the kill must be there.
    #[arg(long, default_value_t = 50)]
    pub grace_ms: u64,
    /// The server has one log: no operation of a connection may survive an earlier one, whatever their keys.
    #[arg(long)]
    pub ordered: bool,
    #[arg(long, default_value_t = 25)]
    pub rounds: u64,
    /// The kill comes after 0.2 to 1 times this.
    #[arg(long, default_value_t = 1.0)]
    pub seconds_per_round: f64,
    /// Of all connections together.
    #[arg(long, default_value_t = 4_000)]
    pub keys: usize,
    #[arg(long, default_value_t = 8)]
    pub connections: usize,
    /// Batches have 1 to so many requests.
    #[arg(long, default_value_t = 16)]
    pub pipeline: usize,
    /// Chance that a start is killed too, at a moment at which the last one may have been loading.
    #[arg(long, default_value_t = 0.25)]
    pub startup_kills: f64,
    /// Chance that a snapshot (BGSAVE or BGREWRITEAOF) is asked for during a round's load: half of them shortly before the kill,
    /// half at any moment.
    #[arg(long, default_value_t = 0.4)]
    pub snapshots: f64,
    /// Seconds that a start may take until PING is answered.
    #[arg(long, default_value_t = 60.0)]
    pub start_timeout: f64,
    /// Where the data directory is made; the system's temporary directory unless named. Kept if anything was wrong.
    #[arg(long)]
    pub dir: Option<PathBuf>,
    #[arg(long, value_delimiter = ',', default_value = "0")]
    pub server_cpus: Vec<usize>,
    /// The load's cpus; 1 unless named.
    #[arg(long, value_delimiter = ',')]
    pub load_cpus: Vec<usize>,
    /// Of what is asked for and when it is killed. What the server made of it by then differs from run to run.
    #[arg(long)]
    pub seed: Option<u64>,
    /// Violations that are shown with their history.
    #[arg(long, default_value_t = 5)]
    pub show: usize,
    /// Print the result as JSON.
    #[arg(long)]
    pub json: bool,
}

const CONNECTIONS_MAX: usize = 64;
const SHARDS_MAX: usize = 64;
const KEYS_MAX: usize = 1_000_000;
const PIPELINE_MAX: usize = 64;
/// Starts of one round that are killed.
const STARTUP_KILLS_MAX: usize = 3;
/// A start is killed up to so much after it, as long as none was timed.
const STARTUP_KILL: Duration = Duration::from_millis(30);
/// Where a kill is meant to come into a snapshot, it comes up to so much after that was asked for.
const SNAPSHOT_KILL: Duration = Duration::from_millis(200);
/// Violations that are remembered; all are counted.
const VIOLATIONS_MAX: usize = 1_000;

/// What was seen in all rounds.
#[derive(Default)]
struct Tally {
    rounds: u64,
    acknowledged: u64,
    reads: u64,
    kills_load: u64,
    kills_snapshot: u64,
    kills_startup: u64,
    /// Snapshots that were asked for, by command.
    snapshots: BTreeMap<String, u64>,
    serve_ms: Vec<f64>,
    violations: Vec<Violation>,
    violations_count: u64,
}

struct Campaign<'a> {
    args: &'a Kill9Args,
    seed: u64,
    start_timeout: Duration,
    commands: Vec<String>,
    starts: usize,
    random: Random,
    data: DataDir,
    pool: value::Pool,
    lanes: Vec<Lane>,
    /// Commands for a snapshot, those taken out that the server does not know.
    snapshots: Vec<&'static str>,
    tally: Tally,
}

pub fn run(args: &Kill9Args) -> Result<(), Error> {
    check(args)?;
    let machine = system::describe_machine();
    system::catch_signals();
    let clock = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos() as u64;
    let seed = args.seed.unwrap_or(clock);
    if !args.json {
        println!("kill9: --seed {seed}");
    }
    let mut campaign = Campaign::new(args, seed)?;
    let result = campaign.run();
    let tally = &campaign.tally;
    if tally.violations_count > 0 || matches!(result, Err(Error::Dead { .. } | Error::WrongReply { .. })) {
        campaign.data.keep();
        eprintln!("the data is kept in {}", campaign.data.path().display());
    }
    let mut errors = BTreeMap::new();
    for (kind, count) in campaign.lanes.iter().flat_map(|lane| &lane.errors) {
        *errors.entry(kind.clone()).or_insert(0) += count;
    }
    if args.json {
        println!("{:#}", campaign.report(machine, &errors));
    } else {
        campaign.print();
    }
    result?;
    if campaign.tally.violations_count > 0 {
        return Err(Error::Broken(campaign.tally.violations_count));
    }
    Error::if_refused(&errors)
}

fn check(args: &Kill9Args) -> Result<(), Error> {
    let usage = |text: &str| Err(Error::Usage(text.to_string()));
    check_spec(&args.server)?;
    if args.variants.iter().any(|command| !command.contains("{port}") || !command.contains("{dir}")) {
        return usage("a --server-variant is a command with {port} and {dir}");
    }
    let mut commands = args.server.commands.iter().chain(&args.variants);
    if args.shards_cycle.is_empty() == commands.any(|command| command.contains("{cores}")) {
        return usage("--shards-cycle and {cores} in a command go together");
    }
    if args.shards_cycle.iter().any(|shards| !(1..=SHARDS_MAX).contains(shards)) || args.server_cpus.is_empty() {
        return usage("--shards-cycle has numbers from 1 to 64, and --server-cpus at least one");
    }
    if args.rounds == 0 || !(1..=CONNECTIONS_MAX).contains(&args.connections) {
        return usage("--rounds is at least 1, and --connections from 1 to 64");
    }
    if !(args.connections..=KEYS_MAX).contains(&args.keys) || !(1..=PIPELINE_MAX).contains(&args.pipeline) {
        return usage("--keys is from --connections to 1000000, and --pipeline from 1 to 64");
    }
    if ![args.startup_kills, args.snapshots].iter().all(|chance| (0.0..=1.0).contains(chance)) {
        return usage("--startup-kills and --snapshots are chances from 0 to 1");
    }
    if seconds(args.seconds_per_round)?.is_zero() || seconds(args.start_timeout)?.is_zero() {
        return usage("--seconds-per-round and --start-timeout are more than 0");
    }
    Ok(())
}

impl<'a> Campaign<'a> {
    fn new(args: &'a Kill9Args, seed: u64) -> Result<Campaign<'a>, Error> {
        Ok(Campaign {
            args,
            seed,
            start_timeout: seconds(args.start_timeout)?,
            commands: [args.server.commands.clone(), args.variants.clone()].concat(),
            starts: 0,
            random: Random::new(seed),
            data: DataDir::create(args.dir.as_deref(), "kill9")?,
            pool: value::Pool::new(seed),
            lanes: Vec::new(),
            snapshots: vec!["BGSAVE", "BGREWRITEAOF"],
            tally: Tally::default(),
        })
    }

    fn run(&mut self) -> Result<(), Error> {
        let bar = Bar::new((!self.args.json).then_some("kill9"), self.args.rounds);
        let mut server = self.start()?;
        let databases = connect(&server.address())?.config("databases")?.unwrap_or(1) as usize;
        if databases < 2 {
            return Err(Error::Usage(format!("{}: it takes two databases at least", server.name)));
        }
        let keys = self.args.keys / self.args.connections;
        for (index, shared) in share_databases(self.args.connections, databases).into_iter().enumerate() {
            let seed = self.random.word();
            self.lanes.push(Lane::new(index, shared, keys, seed));
        }
        for round in 1..=self.args.rounds {
            let (killed, ended) = self.load(&mut server)?;
            drop(server);
            server = self.restart()?;
            let Kill9Args { promise, grace_ms, ordered, show, .. } = *self.args;
            let expected = Expected { promise, grace_ms, ordered, killed, ended };
            self.tally.reads += self.lanes.iter().map(|lane| lane.reads.len() as u64).sum::<u64>();
            let shown = show.saturating_sub(self.tally.violations.len());
            let found = verify(&mut self.lanes, &server.address(), &expected, round, shown)?;
            self.tally.rounds = round;
            self.tally.acknowledged = self.lanes.iter().map(|lane| lane.acknowledged).sum();
            self.tally.violations_count += found.len() as u64;
            let room = VIOLATIONS_MAX - self.tally.violations.len();
            self.tally.violations.extend(found.into_iter().take(room));
            let Tally { acknowledged, violations_count, .. } = &self.tally;
            bar.set_with(round, format!("{acknowledged} acknowledged, {violations_count} violations"));
        }
        Ok(())
    }

    /// Starts the next of the command lines.
    fn spawn(&mut self) -> Result<Server, Error> {
        let command = &self.commands[self.starts % self.commands.len()];
        let cores = match &self.args.shards_cycle[..] {
            [] => String::new(),
            cycle => cores(cycle[self.starts % cycle.len()], &self.args.server_cpus),
        };
        self.starts += 1;
        let command = command.replace("{cores}", &cores);
        Server::start(&self.data.spec(&self.args.server.name, &command), &self.args.server_cpus)
    }

    /// Starts and waits until it serves.
    fn start(&mut self) -> Result<Server, Error> {
        let mut server = self.spawn()?;
        let start = Instant::now();
        server.wait_until_serving(self.start_timeout)?;
        self.tally.serve_ms.push(start.elapsed().as_secs_f64() * 1e3);
        Ok(server)
    }

    /// The same after a kill; perhaps it is killed again before it serves.
    fn restart(&mut self) -> Result<Server, Error> {
        for _ in 0..STARTUP_KILLS_MAX {
            if self.random.unit() >= self.args.startup_kills {
                break;
            }
            let last = self.tally.serve_ms.last().map_or(STARTUP_KILL, |ms| Duration::from_secs_f64(ms / 1e3));
            let mut server = self.spawn()?;
            system::sleep(last.mul_f64(self.random.unit()))?;
            server.check_alive()?;
            server.kill()?;
            self.tally.kills_startup += 1;
        }
        self.start()
    }

    /// Loads the server and kills it. The moments just before the kill and when it was gone.
    fn load(&mut self, server: &mut Server) -> Result<(u64, u64), Error> {
        let address = server.address();
        let killed = AtomicBool::new(false);
        let databases: Vec<[usize; 2]> = self.lanes.iter().map(|lane| lane.databases).collect();
        let course = Course {
            address: &address,
            pool: &self.pool,
            pipeline: self.args.pipeline,
            databases: &databases,
            keys_per_lane: self.lanes[0].keys.len(),
            killed: &killed,
        };
        let time = Duration::from_secs_f64(self.args.seconds_per_round * (0.2 + 0.8 * self.random.unit()));
        let snapshot = match self.snapshots.len() as u64 {
            0 => None,
            count => {
                let command = self.snapshots[self.random.below(count) as usize];
                let within = if self.random.below(2) == 0 { SNAPSHOT_KILL.min(time) } else { time };
                let after = within.mul_f64(self.random.unit());
                (self.random.unit() < self.args.snapshots).then_some((command, after))
            }
        };
        let cpus = load_cpus(&self.args.load_cpus);
        let (snapshots, tally) = (&mut self.snapshots, &mut self.tally);
        std::thread::scope(|scope| {
            let lanes = self.lanes.iter_mut().map(|lane| {
                let (course, cpus) = (&course, &cpus);
                scope.spawn(move || {
                    system::pin_thread(cpus).map_err(Error::io("pin to --load-cpus"))?;
                    lane.run(course)
                })
            });
            let lanes: Vec<_> = lanes.collect();
            let waited = match snapshot {
                None => system::sleep(time),
                Some((command, after)) => system::sleep(time - after)
                    .and_then(|()| ask_for_snapshot(&address, command, snapshots, tally))
                    .and_then(|()| system::sleep(after)),
            };
            let alive = server.check_alive();
            killed.store(true, Ordering::SeqCst);
            let before = now_ms();
            let gone = server.kill();
            let after = now_ms();
            let lanes: Vec<Result<(), Error>> =
                lanes.into_iter().map(|lane| lane.join().expect("a lane does not panic")).collect();
            // What the server said before it ended by itself is more than that it is gone.
            alive?;
            lanes.into_iter().collect::<Result<(), Error>>()?;
            waited.and(gone)?;
            Ok((before, after))
        })
        .inspect(|_| {
            self.tally.kills_load += 1;
            self.tally.kills_snapshot += u64::from(snapshot.is_some());
        })
    }

    fn print(&self) {
        let Tally { rounds, acknowledged, reads, kills_load, kills_snapshot, kills_startup, .. } = &self.tally;
        let version = self.args.server.name.as_str();
        println!("{version}: {rounds} rounds, {acknowledged} operations acknowledged, {reads} values read by others");
        println!(
            "kills: {kills_load} under load, {kills_snapshot} of them after a snapshot began; {kills_startup} of starts"
        );
        let (p50, max) = serve_times(&self.tally.serve_ms);
        println!("time to serve: p50 {p50:.1} ms, max {max:.1} ms over {} starts", self.tally.serve_ms.len());
        println!("violations: {}", self.tally.violations_count);
        for violation in self.tally.violations.iter().take(self.args.show) {
            println!("\nround {}, {}: {}", violation.round, violation.name, violation.text);
            violation.history.iter().for_each(|line| println!("    {line}"));
        }
    }

    fn report(&self, machine: Value, errors: &BTreeMap<String, u64>) -> Value {
        let (p50, max) = serve_times(&self.tally.serve_ms);
        json!({
            "command_line": system::command_line(),
            "machine": machine,
            "server": self.args.server.name,
            "commands": self.commands,
            "shards_cycle": self.args.shards_cycle,
            "promise": format!("{:?}", self.args.promise).to_lowercase(),
            "grace_ms": self.args.grace_ms,
            "seed": self.seed,
            "rounds": self.tally.rounds,
            "acknowledged": self.tally.acknowledged,
            "values_read": self.tally.reads,
            "kills": {
                "load": self.tally.kills_load,
                "snapshot": self.tally.kills_snapshot,
                "startup": self.tally.kills_startup,
            },
            "snapshots": self.tally.snapshots,
            "serve_ms": { "p50": p50, "max": max, "starts": self.tally.serve_ms.len() },
            "errors": errors,
            "violations": self.tally.violations_count,
            "first_violations": self.tally.violations.iter().take(self.args.show).map(Violation::json).collect::<Vec<_>>(),
        })
    }
}

/// The median and the longest.
fn serve_times(serve_ms: &[f64]) -> (f64, f64) {
    let sorted = || serve_ms.iter().copied();
    (median(serve_ms), sorted().fold(0.0, f64::max))
}

/// So many of the cpus, from the first again if there are fewer.
fn cores(shards: usize, cpus: &[usize]) -> String {
    let cores: Vec<String> = cpus.iter().cycle().take(shards).map(usize::to_string).collect();
    cores.join(",")
}

/// One that is not known is not asked for again; one that cannot be now is no error.
fn ask_for_snapshot(
    address: &Address,
    command: &'static str,
    snapshots: &mut Vec<&'static str>,
    tally: &mut Tally,
) -> Result<(), Error> {
    let mut client: Client = connect(address)?;
    match client.call(&[command.as_bytes()]) {
        Ok(_) => *tally.snapshots.entry(command.to_string()).or_insert(0) += 1,
        Err(Error::WrongReply { got, .. }) if got.starts_with('-') => {
            if got.contains("unknown command") {
                eprintln!("{command} is left out: the server has no such command");
                snapshots.retain(|known| *known != command);
            }
        }
        Err(error) => return Err(error),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_share_the_cpus_there_are() {
        assert_eq!([1, 2, 3].map(|shards| cores(shards, &[0, 1])), ["0", "0,1", "0,1,0"]);
        assert_eq!(cores(2, &[3]), "3,3");
    }
}
