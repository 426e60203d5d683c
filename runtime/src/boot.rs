//! The life of the process: check the machine, take the ports, start a worker per core, wait for the reason to stop, stop.
//!
//! The main thread does this and nothing else: it waits while the shards load, and after the start it sleeps until a signal
//! or SHUTDOWN comes.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{OwnedFd, RawFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::rand::{GetRandomFlags, getrandom};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use thiserror::Error;
use torc_engine::config::{Config, Wakeup};
use torc_engine::id::{Millis, ShardId};
use torc_engine::limits::SHARD_BYTES_MIN;
use torc_engine::shard::Shard;
use tracing::{info, warn};

use crate::disk::Host;
use crate::disk::load::{PartEnd, Source};
use crate::disk::pool::DiskThread;
use crate::disk::start::{Opened, StartError};
use crate::limits::{FILES_RESERVED, MESH_PARCELS, SPIN_OUTSTANDING};
use crate::listen::{self, ListenError};
use crate::log::{self, LogError};
use crate::machine::{HostMachine, Identity};
use crate::mesh::{Parcel, Port, mesh};
use crate::place::{self, PlaceError, Places};
use crate::prefault::{self, Filler};
use crate::probe::{self, ProbeError, Report};
use crate::progress::{Display, Progress};
use crate::reaper::{self, Chute};
use crate::settings::Loaded;
use crate::worker::{
    Beginning, Bell, Census, Control, Door, Loading, LogBegun, Notice, Parts, Worker, event_descriptor,
};

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
    // What is of other shards can be loaded; to keep it takes a snapshot before anybody is served.
    if let Some(written) = opened.as_ref().map(Opened::written_by).filter(|&written| written != shards) {
        return Err(StartError::Shards { directory: config.dir.into(), written, wanted: shards }.into());
    }
    let report = probe::probe(Path::new(&config.dir))?;
    let wake_by_ring = choose_wakeup(config.wakeup, &report);
    let (doors, addresses) = listen::open(&config.bind, config.port, config.tcp_backlog, shards)?;

    let (notices, noticed) = mpsc::channel();
    watch_signals(notices.clone()).map_err(|source| BootError::Machine { step: "handle signals", source })?;
    // After the port, lest a second start take the file of the first away; before anybody is served.
    let pid_file = PidFile::write(&config.pidfile)?;
    let mut crew = Crew::start(&config, file, &places, doors, wake_by_ring, notices, opened.as_ref())?;
    announce(&config, &places, &addresses, &report, wake_by_ring);

    let ended = match opened {
        Some(opened) => crew.load(&config, &places, opened, &noticed)?,
        None => None,
    };
    wait_for_end(ended, &noticed);
    crew.stop();
    drop(pid_file);
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
/// the terminal does not mean the server.
fn watch_signals(notices: Sender<Notice>) -> io::Result<()> {
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP])?;
    let watch = move || {
        let mut asked = false;
        for signal in signals.forever() {
            if signal == SIGHUP {
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

/// Waits until the process shall end, unless it has been told to already.
fn wait_for_end(mut ended: Option<End>, noticed: &Receiver<Notice>) {
    let ended = loop {
        match ended {
            Some(ended) => break ended,
            None => ended = End::of(&next_notice(noticed, None)),
        }
    };
    match ended {
        End::Shutdown => info!("a client asked for SHUTDOWN, stopping"),
        End::Signal(SIGINT) => info!("SIGINT received, stopping"),
        End::Signal(_) => info!("SIGTERM received, stopping"),
    }
}

/// Why the process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Shutdown,
    Signal(i32),
}

impl End {
    fn of(notice: &Option<Notice>) -> Option<End> {
        match notice {
            Some(Notice::Shutdown) => Some(End::Shutdown),
            Some(Notice::Signal(signal)) => Some(End::Signal(*signal)),
            _ => None,
        }
    }
}

/// The next notice; None if there was none in the time.
fn next_notice(noticed: &Receiver<Notice>, within: Option<Duration>) -> Option<Notice> {
    let next = match within {
        Some(within) => noticed.recv_timeout(within),
        None => noticed.recv().map_err(|_| RecvTimeoutError::Disconnected),
    };
    match next {
        Ok(notice) => Some(notice),
        Err(RecvTimeoutError::Timeout) => None,
        Err(RecvTimeoutError::Disconnected) => fatal("the threads that give notice are gone"),
    }
}

/// The workers and the means to speak to them.
struct Crew {
    threads: Vec<JoinHandle<()>>,
    controls: Vec<Sender<Control>>,
    bells: Arc<Vec<Bell>>,
    census: Arc<Census>,
    /// How far loading is, if there is anything that may be loaded.
    progress: Option<Arc<Progress>>,
    /// The disk's thread, if changes are logged.
    disk: Option<DiskThread<Host>>,
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
    /// What is to be loaded; None if nothing is logged.
    loading: Option<Loading>,
    ready: Sender<Result<Made, BootError>>,
    bells: Receiver<Arc<Vec<Bell>>>,
}

/// What a worker tells before it runs.
struct Made {
    id: ShardId,
    ring: RawFd,
}

impl Crew {
    /// Starts a worker per place and returns when all of them run.
    fn start(
        config: &Config,
        config_file: String,
        places: &Places,
        doors: Vec<Vec<Door>>,
        wake_by_ring: bool,
        notices: Sender<Notice>,
        opened: Option<&Opened>,
    ) -> Result<Crew, BootError> {
        let shards = places.cores.len();
        let census = Arc::new(Census::new(shards));
        let (seed, random) = randomness().map_err(|source| BootError::Machine { step: "get random bytes", source })?;
        let chutes =
            reaper::start(&places.cores).map_err(|source| BootError::Machine { step: "start a thread", source })?;
        let filler = config.prefault.then(|| prefault::start(&places.cores)).transpose();
        let filler = filler.map_err(|source| BootError::Machine { step: "start a thread", source })?;
        let identity = Arc::new(Identity::new(config_file, random));
        let spin_outstanding = if places.crowded { Duration::ZERO } else { SPIN_OUTSTANDING };

        let sources = opened.map(Opened::sources);
        let total_bytes = |sources: &Vec<Source>| sources.iter().map(Source::bytes).sum();
        let progress = sources.as_ref().map(|sources| Arc::new(Progress::new(total_bytes(sources))));
        let mut sources = sources.into_iter().flatten();
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
                machine: HostMachine::new(identity.clone(), census.clone(), progress.clone()),
                loading: sources.next().zip(progress.clone()).map(|(source, progress)| Loading::new(source, progress)),
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
        for _ in 0..shards {
            let Made { id, ring } = made.recv().expect("a worker that dies takes the process with it")?;
            rings[id.index()] = ring;
        }
        let bell = |ring| event_descriptor().map(|event: OwnedFd| Bell { ring, event });
        let bells: io::Result<Vec<Bell>> = rings.into_iter().map(bell).collect();
        let bells = Arc::new(bells.map_err(|source| BootError::Machine { step: "make event descriptors", source })?);
        for worker in waiting {
            // A worker that is gone has taken the process with it.
            let _ = worker.send(bells.clone());
        }
        Ok(Crew { threads, controls, bells, census, progress, disk: None })
    }

    /// Waits until all shards have loaded what the disk has, gives each a log to go on with, and has them serve. Some: the
    /// process was told to end before.
    fn load(
        &mut self,
        config: &Config,
        places: &Places,
        opened: Opened,
        noticed: &Receiver<Notice>,
    ) -> Result<Option<End>, BootError> {
        let loaded = match self.hear_all(noticed, |notice| match notice {
            Notice::Loaded(loaded) => Some((loaded.shard, loaded)),
            _ => None,
        })? {
            Ok(loaded) => loaded,
            Err(ended) => return Ok(Some(ended)),
        };
        // Of some logs a crash may have taken the end: the others know what was flushed and swapped there.
        let layouts = || loaded.iter().map(|loaded| &loaded.layout);
        let layout = layouts().max_by_key(|layout| layout.number).expect("there is a shard").clone();
        if layouts().any(|other| other.number == layout.number && *other != layout) {
            return Err(StartError::Layout { directory: config.dir.clone().into(), number: layout.number }.into());
        }
        // If each shard has loaded all that there is, any one says how it ended.
        let mut ends: Vec<PartEnd> = loaded.iter().flat_map(|loaded| loaded.ends.iter().copied()).collect();
        ends.sort_by_key(|end| end.shard);
        ends.dedup_by_key(|end| end.shard);
        let bells = self.bells.clone();
        let wake = move |shard: u16| bells[usize::from(shard)].notify();
        let begun = opened.begin(&ends, config.segment_bytes, &places.cores, wake)?;
        self.disk = Some(begun.disk);
        for (shard, seat) in begun.seats.into_iter().enumerate() {
            self.tell(shard, Control::Begin(Box::new(Beginning { seat, layout: layout.clone() })));
        }
        let begun = match self.hear_all(noticed, |notice| match notice {
            Notice::LogBegun(begun) => Some((begun.shard, begun)),
            _ => None,
        })? {
            Ok(begun) => begun,
            Err(ended) => return Ok(Some(ended)),
        };
        if let Some(progress) = &self.progress {
            progress.serve();
        }
        self.bells.iter().for_each(Bell::notify);
        self.say_ready(config, &begun);
        Ok(None)
    }

    /// What each shard says, by shard, when all have said it; Err: the process was told to end before. How far loading is
    /// is shown meanwhile.
    fn hear_all<T>(
        &self,
        noticed: &Receiver<Notice>,
        mut pick: impl FnMut(Notice) -> Option<(ShardId, T)>,
    ) -> Result<Result<Vec<T>, End>, BootError> {
        let mut heard: Vec<Option<T>> = self.controls.iter().map(|_| None).collect();
        let mut display = self.progress.as_ref().map(|progress| Display::new(progress));
        while heard.iter().any(Option::is_none) {
            let notice = next_notice(noticed, display.as_ref().map(Display::interval));
            if let Some((display, progress)) = display.as_mut().zip(self.progress.as_ref()) {
                display.show(progress);
            }
            if let Some(ended) = End::of(&notice) {
                return Ok(Err(ended));
            }
            match notice {
                Some(Notice::LoadFailed(error)) => return Err(error.into()),
                Some(notice) => {
                    if let Some((shard, said)) = pick(notice) {
                        heard[shard.index()] = Some(said);
                    }
                }
                None => {}
            }
        }
        if let Some(display) = display {
            display.finish();
        }
        Ok(Ok(heard.into_iter().flatten().collect()))
    }

    fn say_ready(&self, config: &Config, begun: &[LogBegun]) {
        let sum = |of: fn(&LogBegun) -> u64| begun.iter().map(of).sum::<u64>();
        let (keys, evicted) = (sum(|begun| begun.keys), sum(|begun| begun.evicted));
        let seconds = self.progress.as_ref().map_or(0.0, |progress| progress.elapsed().as_secs_f64());
        if evicted > 0 {
            let bytes = config.maxmemory;
            warn!("{evicted} keys were evicted while they were loaded: maxmemory is {bytes} bytes");
        }
        if begun.iter().any(|begun| begun.is_over) {
            warn!(
                "what was loaded is more than maxmemory, {} bytes, and {} evicts nothing of it: writes are refused until there is \
                 room",
                config.maxmemory,
                config.maxmemory_policy.name()
            );
        }
        info!("ready: {keys} keys loaded in {seconds:.3} s");
    }

    fn tell(&self, shard: usize, order: Control) {
        // A worker that is gone has taken the process with it.
        let _ = self.controls[shard].send(order);
        self.bells[shard].notify();
    }

    /// Asks all workers to stop and waits for them.
    fn stop(self) {
        self.census.announce_stop();
        (0..self.controls.len()).for_each(|shard| self.tell(shard, Control::Stop));
        for thread in self.threads {
            if thread.join().is_err() {
                fatal("a worker panicked while stopping");
            }
        }
        if self.disk.is_some_and(|disk| !disk.stop()) {
            fatal("the disk's thread panicked");
        }
    }
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
    if start.loading.is_some() {
        shard.begin_loading();
    }
    if ready.send(Ok(Made { id: start.id, ring: ring.descriptor() })).is_err() {
        return;
    }
    drop(ready);
    let Ok(bells) = start.bells.recv() else { return };
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
        log: None,
        loading: start.loading,
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
