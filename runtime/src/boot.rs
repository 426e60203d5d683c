//! The life of the process: check the machine, take the ports, start a worker per core, wait for the reason to stop, stop.
//!
//! The main thread does this and nothing else; after the start it sleeps until a signal or SHUTDOWN comes.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::rand::{GetRandomFlags, getrandom};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::iterator::Signals;
use thiserror::Error;
use torc_engine::config::{Config, Wakeup};
use torc_engine::id::{Millis, ShardId};
use torc_engine::limits::SHARD_BYTES_MIN;
use torc_engine::log::End;
use torc_engine::machine::SaveKind;
use torc_engine::shard::Shard;
use tracing::{info, warn};

use crate::disk::start::{Opened, Seat, Source, StartError};
use crate::limits::{
    FILES_RESERVED, LOG_RESUME_RETRY, MESH_PARCELS, SHUTDOWN_MAX, SHUTDOWN_STEP, SPIN_OUTSTANDING,
};
use crate::listen::{self, ListenError};
use crate::log::{self, LogError};
use crate::machine::{HostMachine, Identity};
use crate::mesh::{Parcel, Port, mesh};
use crate::place::{self, PlaceError, Places};
use crate::prefault::{self, Filler};
use crate::probe::{self, ProbeError, Report};
use crate::reaper::{self, Chute};
use crate::saver::{Ledger, Saver, Wires};
use crate::settings::Loaded;
use crate::worker::{Bell, Census, Control, Door, Notice, Parts, Worker, event_descriptor};

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
    let opened = config.append_only.then(|| Opened::open(Path::new(&config.dir), shards)).transpose()?;
    let report = probe::probe(Path::new(&config.dir))?;
    let wake_by_ring = choose_wakeup(config.wakeup, &report);
    let (doors, addresses) = listen::open(&config.bind, config.port, config.tcp_backlog, shards)?;

    let (notices, noticed) = mpsc::channel();
    watch_signals(notices.clone()).map_err(|source| BootError::Machine { step: "handle signals", source })?;
    // After the port, lest a second start take the file of the first away; before anybody is served.
    let pid_file = PidFile::write(&config.pidfile)?;
    let mut crew = Crew::start(&config, file, &places, doors, wake_by_ring, notices, opened)?;
    announce(&config, &places, &addresses, &report, wake_by_ring);

    let save = crew.lead(&noticed);
    let stopped = crew.stop(&noticed, save);
    drop(pid_file);
    stopped?;
    info!("stopped");
    Ok(())
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
        false => info!("persistence is off: a stop loses all keys"),
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

/// The workers and the means to speak to them.
struct Crew {
    threads: Vec<JoinHandle<()>>,
    census: Arc<Census>,
    saver: Saver,
    settings: DirectorySettings,
}

/// What the data directory is opened with.
struct DirectorySettings {
    path: PathBuf,
    segment_bytes: u64,
    cores: Vec<usize>,
}

/// What a worker is given before it can exist: the rings must be made by their own threads, and each worker must know the
/// rings of all.
struct Start {
    id: ShardId,
    core: usize,
    config: Config,
    seed: [u64; 4],
    port: Port<Parcel>,
    doors: Vec<Door>,
    census: Arc<Census>,
    wake_by_ring: bool,
    spin_outstanding: Duration,
    chute: Chute,
    filler: Option<Filler>,
    control: Receiver<Control>,
    notices: Sender<Notice>,
    machine: HostMachine,
    /// What the disk has of the shard; None if nothing is logged.
    source: Option<Source>,
    ready: Sender<Result<Made, BootError>>,
    bells: Receiver<(Arc<Vec<Bell>>, Option<Seat>)>,
}

/// What a worker tells before it serves.
struct Made {
    id: ShardId,
    ring: RawFd,
    /// How its log ended, if it has one.
    end: Option<End>,
}

impl Crew {
    /// Starts a worker per place and returns when all of them serve.
    fn start(
        config: &Config,
        config_file: String,
        places: &Places,
        doors: Vec<Vec<Door>>,
        wake_by_ring: bool,
        notices: Sender<Notice>,
        opened: Option<Opened>,
    ) -> Result<Crew, BootError> {
        let shards = places.cores.len();
        let census = Arc::new(Census::new(shards));
        let (seed, random) = randomness().map_err(|source| BootError::Machine { step: "get random bytes", source })?;
        let chutes =
            reaper::start(&places.cores).map_err(|source| BootError::Machine { step: "start a thread", source })?;
        let filler = config.prefault.then(|| prefault::start(&places.cores)).transpose();
        let filler = filler.map_err(|source| BootError::Machine { step: "start a thread", source })?;
        let identity = Arc::new(Identity::new(config_file, random));
        let ledger = Arc::new(Ledger::new(shards, notices.clone()));
        let spin_outstanding = if places.crowded { Duration::ZERO } else { SPIN_OUTSTANDING };

        let mut sources = opened.as_ref().map(Opened::sources).transpose()?.into_iter().flatten();
        let (ready, made) = mpsc::channel();
        let (mut threads, mut controls, mut waiting) = (Vec::new(), Vec::new(), Vec::new());
        let parts = mesh(shards, MESH_PARCELS).into_iter().zip(doors).zip(&places.cores).zip(chutes);
        for (index, (((port, doors), &core), chute)) in parts.enumerate() {
            let (control, orders) = mpsc::channel();
            let (bells_sender, bells) = mpsc::channel();
            let start = Start {
                id: ShardId(index as u16),
                core,
                config: config.clone(),
                seed,
                port,
                doors,
                census: census.clone(),
                wake_by_ring,
                spin_outstanding,
                chute,
                filler: filler.clone(),
                control: orders,
                notices: notices.clone(),
                machine: HostMachine::new(identity.clone(), census.clone(), ledger.clone()),
                source: sources.next(),
                ready: ready.clone(),
                bells,
            };
            let thread = thread::Builder::new().name(format!("torc-shard-{index}")).spawn(move || work(start));
            threads.push(thread.map_err(|source| BootError::Machine { step: "start a thread", source })?);
            controls.push(control);
            waiting.push(bells_sender);
        }
        drop(ready);

        let mut rings: Vec<RawFd> = vec![-1; shards];
        let mut ends: Vec<Option<End>> = vec![None; shards];
        for _ in 0..shards {
            let Made { id, ring, end } = made.recv().expect("a worker that dies takes the process with it")?;
            (rings[id.index()], ends[id.index()]) = (ring, end);
        }
        let bell = |ring| event_descriptor().map(|event: OwnedFd| Bell { ring, event });
        let bells: io::Result<Vec<Bell>> = rings.into_iter().map(bell).collect();
        let bells = Arc::new(bells.map_err(|source| BootError::Machine { step: "make event descriptors", source })?);
        let settings = DirectorySettings {
            path: PathBuf::from(&config.dir),
            segment_bytes: config.segment_bytes,
            cores: places.cores.clone(),
        };
        let (mut folder, mut seats) = (None, Vec::new());
        if let Some(opened) = opened {
            let ends: Vec<End> = ends.into_iter().flatten().collect();
            let (begun, seated) = opened.begin(&ends, config.segment_bytes, &places.cores, wake(&bells))?;
            (folder, seats) = (Some(begun), seated);
        }
        let mut seats = seats.into_iter();
        for worker in waiting {
            // A worker that is gone has taken the process with it.
            let _ = worker.send((bells.clone(), seats.next()));
        }
        let wires = Wires { controls, bells, notices };
        Ok(Crew { threads, census, saver: Saver::new(ledger, wires, folder), settings })
    }

    /// Leads saves until there is a reason to stop. Gives whether to save before: None leaves that to the settings.
    fn lead(&mut self, noticed: &Receiver<Notice>) -> Option<bool> {
        let mut retry_at: Option<Instant> = None;
        loop {
            let notice = match retry_at {
                None => noticed.recv().map_err(RecvTimeoutError::from),
                Some(at) => noticed.recv_timeout(at.saturating_duration_since(Instant::now())),
            };
            match notice {
                Ok(Notice::Shutdown { save }) => {
                    info!("a client asked for SHUTDOWN, stopping");
                    return save;
                }
                Ok(Notice::Signal(signal)) => {
                    info!("{} received, stopping", if signal == SIGINT { "SIGINT" } else { "SIGTERM" });
                    return None;
                }
                Ok(Notice::AppendOnly(true)) => {
                    (0..self.threads.len()).for_each(|shard| self.saver.want_log(shard));
                    self.saver.ledger().schedule(SaveKind::Rewrite);
                }
                Ok(Notice::AppendOnly(false)) => {
                    self.saver.want_no_logs();
                    self.saver.wires().tell_all(|| Control::EndLog);
                }
                Ok(Notice::LogFailed(shard)) => {
                    self.saver.want_log(usize::from(shard));
                    self.saver.ledger().schedule(SaveKind::Rewrite);
                }
                Ok(notice) => self.save_on(notice),
                Err(RecvTimeoutError::Timeout) => self.saver.ledger().schedule(SaveKind::Rewrite),
                Err(RecvTimeoutError::Disconnected) => fatal("the threads that give notice are gone"),
            }
            // A save that was to begin a log, and failed.
            let waits = self.saver.wants_logs() && !self.saver.is_busy();
            retry_at = waits.then(|| retry_at.filter(|&at| at > Instant::now()).unwrap_or(Instant::now() + LOG_RESUME_RETRY));
        }
    }

    /// Goes on with saves.
    fn save_on(&mut self, notice: Notice) {
        match notice {
            Notice::Save => self.begin_save(),
            Notice::SaveStep(step) => self.saver.handle_step(step),
            Notice::SnapshotEnded(end) => self.saver.handle_part(end),
            // Whoever stops is asked for nothing else.
            _ => return,
        }
        if !self.saver.is_busy() && self.saver.ledger().begin_scheduled() {
            self.begin_save();
        }
    }

    fn begin_save(&mut self) {
        let DirectorySettings { path, segment_bytes, cores } = &self.settings;
        let bells = self.saver.wires().bells.clone();
        self.saver.begin(|| Opened::open_unused(path, cores.len())?.serve(*segment_bytes, cores, wake(&bells)));
    }

    /// Asks all workers to stop and waits for them; a last save is taken before, if that is wanted.
    fn stop(mut self, noticed: &Receiver<Notice>, save: Option<bool>) -> Result<(), BootError> {
        self.census.announce_stop();
        self.saver.wires().tell_all(|| Control::Stop { save });
        let deadline = Instant::now() + SHUTDOWN_MAX;
        let (mut stopping, mut saves) = (0, false);
        while stopping < self.threads.len() {
            match noticed.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(Notice::Stopping { saves: wanted }) => (stopping, saves) = (stopping + 1, saves | wanted),
                Ok(notice) => self.save_on(notice),
                Err(_) => break,
            }
        }
        let saved = match saves {
            true => self.save_last(noticed, deadline),
            false => {
                self.saver.abort();
                Ok(())
            }
        };
        self.saver.wires().tell_all(|| Control::End);
        for thread in self.threads {
            if thread.join().is_err() {
                fatal("a worker panicked while stopping");
            }
        }
        if !self.saver.stop() {
            fatal("the disk's thread panicked");
        }
        saved?;
        match self.census.has_lost() {
            true => Err(BootError::Lost),
            false => Ok(()),
        }
    }

    /// Takes a snapshot of what there is when nobody is owed anything any more.
    fn save_last(&mut self, noticed: &Receiver<Notice>, deadline: Instant) -> Result<(), BootError> {
        let go_on = |crew: &mut Crew| match noticed.recv_timeout(SHUTDOWN_STEP) {
            Ok(notice) => crew.save_on(notice),
            Err(_) => {}
        };
        while self.saver.is_busy() || !self.census.all_drained() && Instant::now() < deadline {
            go_on(self);
        }
        let ledger = self.saver.ledger().clone();
        // If one was begun meanwhile it is of this moment too: nothing changes any more.
        let number = match ledger.begin(SaveKind::Snapshot) {
            Ok(number) => number,
            Err(_) => ledger.facts().ended + 1,
        };
        while ledger.facts().ended < number {
            go_on(self);
        }
        match ledger.facts().failed == number {
            true => Err(BootError::LastSave),
            false => Ok(()),
        }
    }
}

/// What the disk's thread wakes a shard by.
fn wake(bells: &Arc<Vec<Bell>>) -> impl Fn(u16) + Send + 'static {
    let bells = bells.clone();
    move |shard| bells[usize::from(shard)].notify()
}

/// The thread of a worker.
fn work(start: Start) {
    // Where panics unwind (debug builds), a worker's death must not leave a process that serves some of its keys.
    let _guard = AbortOnPanic;
    let ready = start.ready.clone();
    let made = place::pin(start.core).map_err(BootError::from).and_then(|()| Ok(probe::make_ring()?));
    let ring = match made {
        Ok(ring) => ring,
        Err(error) => return drop(ready.send(Err(error))),
    };
    let mut shard = Shard::new(start.id, start.port.shards(), start.seed, start.config, wall_clock());
    let redone = start.source.map(|source| {
        shard.begin_loading();
        source.redo(&mut shard)
    });
    let end = match redone.transpose() {
        Ok(end) => end,
        Err(error) => return drop(ready.send(Err(error.into()))),
    };
    if ready.send(Ok(Made { id: start.id, ring: ring.descriptor(), end })).is_err() {
        return;
    }
    drop(ready);
    let Ok((bells, seat)) = start.bells.recv() else { return };
    let log = seat.map(|seat| {
        shard.journal().begin(seat.start);
        // What had expired when the process before was there has expired, whatever the clock says now.
        shard.end_loading(wall_clock().max(seat.wall_ms));
        seat.driver
    });
    let worker = Worker::new(Parts {
        id: start.id,
        ring,
        shard,
        port: start.port,
        doors: start.doors,
        census: start.census,
        bells,
        wake_by_ring: start.wake_by_ring,
        spin_outstanding: start.spin_outstanding,
        chute: start.chute,
        filler: start.filler,
        log,
        control: start.control,
        notices: start.notices,
        machine: start.machine,
    });
    if let Err(error) = worker.run() {
        fatal(&error.to_string());
    }
}

fn wall_clock() -> Millis {
    Millis(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64))
}

struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if thread::panicking() {
            std::process::abort();
        }
    }
}

fn fatal(what: &str) -> ! {
    log::complain(what);
    std::process::exit(1);
}

/// Seeds for hashing, the same on all shards, and the random part of the process's identity.
fn randomness() -> io::Result<([u64; 4], [u8; 20])> {
    let mut bytes = [0u8; 32 + 20];
    let mut filled = 0;
    while filled < bytes.len() {
        filled += getrandom(&mut bytes[filled..], GetRandomFlags::empty())?;
    }
    let word = |index: usize| u64::from_le_bytes(bytes[index * 8..][..8].try_into().expect("eight bytes"));
    Ok(([word(0), word(1), word(2), word(3)], bytes[32..].try_into().expect("twenty bytes")))
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
