//! The life of the process: check the machine, take the ports, start a worker per core, wait for the reason to stop, stop.
//!
//! The main thread does this and nothing else; after the start it sleeps until a signal or SHUTDOWN comes.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::mpsc::{self, Sender};
use std::thread;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::iterator::Signals;
use thiserror::Error;
use torc_engine::config::{Config, Wakeup};
use torc_engine::limits::SHARD_BYTES_MIN;
use tracing::{info, warn};

use crate::crew::Crew;
use crate::disk::start::{Opened, StartError};
use crate::disk::{DiskError, names};
use crate::limits::FILES_RESERVED;
use crate::listen::{self, ListenError};
use crate::log::{self, LogError};
use crate::place::{self, PlaceError, Places};
use crate::probe::{self, ProbeError, Report};
use crate::settings::Loaded;
use crate::worker::Notice;

/// Why Torc does not start. One line each.
#[derive(Debug, Error)]
pub enum BootError {
    #[error(transparent)]
    Log(#[from] LogError),
    #[error(transparent)]
    Place(#[from] PlaceError),
    #[error(transparent)]
    Probe(#[from] ProbeError),
    #[error(transparent)]
    Listen(#[from] ListenError),
    #[error(transparent)]
    Start(#[from] StartError),
    #[error("the process may open {limit} files, too few for one client; allow more with: ulimit -n 65536")]
    Files { limit: u64 },
    #[error("cannot {step}: {source}")]
    Machine { step: &'static str, source: io::Error },
    #[error("the snapshot before the end failed, as said above: what was changed after the last good one is lost")]
    LastSave,
    #[error(
        "the snapshot failed, as said above, that has to be taken before anything is logged by another number of shards, or after \
         damage was left out; what was there still counts: start again when the disk is well"
    )]
    LayoutSave,
    #[error("stopped, but not all changes are in the log: see the messages before")]
    Lost,
    #[error("cannot write the pid file {path}: {source}")]
    PidFile { path: String, source: io::Error },
}

/// Serves until told to stop.
pub fn run(loaded: Loaded) -> Result<(), BootError> {
    crate::ring::purge_at_once();
    let Loaded { mut config, file, warnings } = loaded;
    log::start(&config)?;
    warnings.iter().for_each(|warning| warn!("{warning}"));

    let places = place::choose(&config.cores)?;
    let shards = places.cores.len();
    allow_files(&mut config, shards)?;
    // It makes the directory if there is none.
    let opened = open(&config, shards)?;
    let report = probe::probe(Path::new(&config.dir))?;
    let wake_by_ring = choose_wakeup(config.wakeup, &report);
    let (doors, addresses) = listen::open(&config.bind, config.port, config.tcp_backlog, shards)?;

    let (notices, noticed) = mpsc::channel();
    watch_signals(notices.clone()).map_err(|source| BootError::Machine { step: "handle signals", source })?;
    // After the port, lest a second start take the file of the first away; before anybody is served.
    let pid_file = PidFile::write(&config.pidfile)?;
    let mut crew = Crew::start(&config, file, &places, doors, wake_by_ring, notices, opened.as_ref())?;
    announce(&config, &places, &addresses, &report, wake_by_ring);

    let ended = crew.load(opened, &noticed)?;
    let ended = ended.unwrap_or_else(|| crew.lead(&noticed));
    let stopped = crew.stop(&noticed, ended);
    drop(pid_file);
    stopped?;
    info!("stopped");
    Ok(())
}

/// Opens the data directory, which is made if there is none; None if nothing is to be kept and nothing is there.
fn open(config: &Config, shards: usize) -> Result<Option<Opened>, StartError> {
    let dir = Path::new(&config.dir);
    let keeps = config.append_only || !config.save_points.is_empty();
    // What was saved is loaded whatever is to be kept from now on.
    if !keeps && !dir.join(names::CURRENT).exists() {
        return Ok(None);
    }
    match Opened::open(dir, shards) {
        Err(StartError::Disk(error @ DiskError::InUse { .. })) if !keeps => {
            warn!("{error}; this one loads and keeps nothing, as it was told to");
            Ok(None)
        }
        opened => opened.map(Some),
    }
}

/// At most ten lines about what matters.
fn announce(config: &Config, places: &Places, addresses: &[SocketAddr], report: &Report, wake_by_ring: bool) {
    info!("torc {} started, pid {}, Linux {}", env!("CARGO_PKG_VERSION"), std::process::id(), report.release);
    let addresses: Vec<String> = addresses.iter().map(SocketAddr::to_string).collect();
    info!("listening on {}", addresses.join(" and "));
    info!("{} shards, one thread each, on cores {}", places.cores.len(), place::ranges(&places.cores));
    if places.crowded {
        warn!("a core has more than one shard: good for tests, slow otherwise");
    }
    let wake = if wake_by_ring { "a message between rings" } else { "an event descriptor" };
    info!("a parked shard is woken by {wake}");
    match config.append_only {
        true => info!("changes are logged to {}, appendfsync {}", config.dir, config.text_of("appendfsync")),
        false if config.save_points.is_empty() => {
            info!("persistence is off: a stop loses what is not saved by command")
        }
        false => info!("snapshots are taken in {}; what comes after the last one is lost in a crash", config.dir),
    }
    info!("up to {} clients", config.maxclients);
    announce_memory(config, places.cores.len());
    if config.requirepass.is_empty() && !config.protected_mode {
        warn!("no password is set and protected-mode is off: whoever reaches the port can do everything");
    }
}

fn announce_memory(config: &Config, shards: usize) {
    let (bytes, policy) = (config.maxmemory, config.maxmemory_policy.name());
    if bytes == 0 {
        return;
    }
    info!("up to {bytes} bytes of keys and client buffers, then {policy}");
    let least = SHARD_BYTES_MIN * shards as u64;
    if bytes < least {
        warn!(
            "you specified a maxmemory of {bytes} bytes, and {shards} shards want {least} at least: are you sure this is \
             what you really want?"
        );
    }
}

fn choose_wakeup(wanted: Wakeup, report: &Report) -> bool {
    match wanted {
        Wakeup::Eventfd => false,
        Wakeup::Ring | Wakeup::Auto if report.ring_wakes => true,
        Wakeup::Ring => {
            warn!("--wakeup ring: a message between rings wakes nobody on this kernel; an event descriptor is used");
            false
        }
        Wakeup::Auto => {
            warn!("a message between rings wakes nobody on this kernel; an event descriptor is used");
            false
        }
    }
}

/// Raises the limit of open files up to the hard limit, or beyond it if `maxclients` needs that and the process may, and
/// fits `maxclients`, now and later, to it.
fn allow_files(config: &mut Config, shards: usize) -> Result<(), BootError> {
    // A ring, an event descriptor and some listeners per shard.
    let reserved = (FILES_RESERVED + shards * 8) as u64;
    let wanted = config.maxclients as u64 + reserved;
    let unlimited = u64::MAX;
    let hard = getrlimit(Resource::Nofile).maximum.unwrap_or(unlimited);
    let raise = |files: u64| setrlimit(Resource::Nofile, Rlimit { current: Some(files), maximum: Some(files) });
    // A limit may be above what the system allows one process (fs.nr_open), and is refused then.
    let system = fs::read_to_string("/proc/sys/fs/nr_open").ok().and_then(|text| text.trim().parse().ok());
    let most = hard.min(system.unwrap_or(unlimited));
    if most >= wanted || raise(wanted).is_err() {
        let _ = raise(most).or_else(|_| raise(wanted.min(most)));
    }
    let have = getrlimit(Resource::Nofile).current.unwrap_or(unlimited);
    let clients = have.saturating_sub(reserved) as usize;
    if clients == 0 {
        return Err(BootError::Files { limit: have });
    }
    if clients < config.maxclients {
        warn!(
            "maxclients lowered from {} to {clients}: the process may open {have} files; allow more with: ulimit -n {wanted}",
            config.maxclients
        );
        let lowered = config.set_at_start("maxclients", &[clients.to_string()]);
        lowered.expect("a smaller number is as good as the one before");
    }
    config.maxclients_ceiling = clients;
    Ok(())
}

/// SIGTERM and SIGINT become notices. A second SIGINT ends the process at once. SIGHUP is nothing, as in Redis: who closes
/// the terminal does not mean the server; and so is SIGXFSZ: who writes more than `ulimit -f` allows gets an error.
fn watch_signals(notices: Sender<Notice>) -> io::Result<()> {
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP, SIGXFSZ])?;
    let watch = move || {
        let mut asked = false;
        for signal in signals.forever() {
            if signal == SIGHUP || signal == SIGXFSZ {
                continue;
            }
            if std::mem::replace(&mut asked, true) && signal == SIGINT {
                fatal("a second signal while stopping");
            }
            // The main thread listens as long as the process lives.
            let _ = notices.send(Notice::Signal(signal));
        }
    };
    thread::Builder::new().name("torc-signals".into()).spawn(watch).map(drop)
}

/// The file that says which process this is; removed when dropped.
struct PidFile(String);

impl PidFile {
    /// Writes the file; an empty path means none.
    fn write(path: &str) -> Result<Option<PidFile>, BootError> {
        if path.is_empty() {
            return Ok(None);
        }
        let fail = |source| BootError::PidFile { path: path.to_string(), source };
        fs::write(path, format!("{}\n", std::process::id())).map_err(fail)?;
        Ok(Some(PidFile(path.to_string())))
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        // Somebody may have removed it already.
        let _ = fs::remove_file(&self.0);
    }
}

/// Says why the process ends, and ends it.
pub(crate) fn fatal(what: &str) -> ! {
    log::complain(what);
    std::process::exit(1);
}
