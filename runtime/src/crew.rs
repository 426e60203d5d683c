//! The workers, as the main thread leads them: it starts them, hears what they have loaded and has them go on behind it, leads
//! saves, and stops them.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{OwnedFd, RawFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::rand::{GetRandomFlags, getrandom};
use signal_hook::consts::SIGINT;
use torc_engine::config::Config;
use torc_engine::id::{Millis, ShardId};
use torc_engine::machine::{SaveKind, SaveRefused};
use torc_engine::shard::Shard;
use tracing::{info, warn};

use crate::boot::{BootError, fatal};
use crate::disk::load::{PartEnd, Source};
use crate::disk::start::{Opened, Relayout, StartError};
use crate::limits::{LOG_RESUME_RETRY, MESH_PARCELS, SHUTDOWN_MAX, SHUTDOWN_STEP, SPIN_OUTSTANDING};
use crate::machine::{HostMachine, Identity};
use crate::mesh::{Parcel, Port, mesh};
use crate::place::{self, Places};
use crate::prefault::{self, Filler};
use crate::probe;
use crate::progress::{Display, Progress};
use crate::reaper::{self, Chute};
use crate::saver::{Ledger, Saver, Wires};
use crate::worker::{Beginning, Bell, Census, Control, Door, GoneOn, Loading, Notice, Parts, Worker, event_descriptor};

/// Why the process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// A client asked for it, with a save before, without, or as the settings say.
    Shutdown {
        save: Option<bool>,
    },
    Signal(i32),
}

impl End {
    fn of(notice: &Notice) -> Option<End> {
        match *notice {
            Notice::Shutdown { save } => Some(End::Shutdown { save }),
            Notice::Signal(signal) => Some(End::Signal(signal)),
            _ => None,
        }
    }
}

/// The workers and the means to speak to them.
pub struct Crew {
    threads: Vec<JoinHandle<()>>,
    census: Arc<Census>,
    /// How far loading is, if there is anything that may be loaded.
    progress: Option<Arc<Progress>>,
    saver: Saver,
    /// What came while shards were loading and has to wait until they serve.
    later: VecDeque<Notice>,
    /// As it was at the start.
    config: Config,
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
    pub fn start(
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
        let ledger = Arc::new(Ledger::new(shards, notices.clone()));
        let spin_outstanding = if places.crowded { Duration::ZERO } else { SPIN_OUTSTANDING };

        let sources = opened.map(|opened| opened.sources(config.recovery));
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
                machine: HostMachine::new(identity.clone(), census.clone(), ledger.clone(), progress.clone()),
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
        let saver = Saver::new(ledger, Wires { controls, bells, notices });
        Ok(Crew {
            threads,
            census,
            progress,
            saver,
            later: VecDeque::new(),
            config: config.clone(),
            cores: places.cores.clone(),
        })
    }

    /// Waits until all shards have loaded what the disk has, gives each a log to go on with, and has them serve. Some: the
    /// process was told to end before. Without a directory there is nothing to be loaded.
    pub fn load(&mut self, opened: Option<Opened>, noticed: &Receiver<Notice>) -> Result<Option<End>, BootError> {
        let Some(opened) = opened else {
            self.saver.ledger().allow();
            return Ok(None);
        };
        let loaded = match self.hear_all(noticed, |notice| match notice {
            Notice::Loaded(loaded) => Ok((loaded.shard, loaded)),
            other => Err(other),
        })? {
            Ok(loaded) => loaded,
            Err(ended) => return Ok(Some(ended)),
        };
        // Of some logs a crash may have taken the end: the others know what was flushed and swapped there.
        let layouts = || loaded.iter().map(|loaded| &loaded.layout);
        let layout = layouts().max_by_key(|layout| layout.number).expect("there is a shard").clone();
        if layouts().any(|other| other.number == layout.number && *other != layout) {
            let directory = self.config.dir.clone().into();
            return Err(StartError::Layout { directory, number: layout.number }.into());
        }
        // If each shard has loaded all that there is, any one says how it ended.
        let mut ends: Vec<PartEnd> = loaded.iter().flat_map(|loaded| loaded.ends.iter().copied()).collect();
        ends.sort_by_key(|end| end.shard);
        ends.dedup_by_key(|end| end.shard);
        let wall_ms = ends.iter().map(|end| end.end.wall_ms).max().unwrap_or_default();
        let (snapshot_bytes, log_bytes) = (opened.snapshot_bytes(), sum(&ends, |end| end.end.bytes));
        let (segment_bytes, wake) = (self.config.segment_bytes, wake(&self.saver.wires().bells));
        let (found, mut seats, relayout) = match self.config.append_only {
            true => {
                let begun = opened.begin(&ends, self.config.fsync, segment_bytes, &self.cores, wake)?;
                (begun.folder, begun.seats.into_iter().map(Some).collect(), begun.relayout)
            }
            false => (opened.serve(segment_bytes, &self.cores, wake)?, Vec::new(), Relayout::Done),
        };
        self.saver.ledger().note_loaded(snapshot_bytes, log_bytes);
        self.saver.set_folder(found);
        seats.resize_with(self.threads.len(), || None);
        for (shard, seat) in seats.into_iter().enumerate() {
            let beginning = Beginning { seat, wall_ms, layout: layout.clone() };
            self.saver.wires().tell(shard, Control::Begin(Box::new(beginning)));
        }
        let gone_on = match self.hear_all(noticed, |notice| match notice {
            Notice::GoneOn(gone_on) => Ok((gone_on.shard, gone_on)),
            other => Err(other),
        })? {
            Ok(gone_on) => gone_on,
            Err(ended) => return Ok(Some(ended)),
        };
        self.saver.ledger().allow();
        if relayout == Relayout::NeedsSnapshot
            && let Some(ended) = self.save_layout(noticed)?
        {
            return Ok(Some(ended));
        }
        if let Some(progress) = &self.progress {
            progress.serve();
        }
        self.saver.wires().bells.iter().for_each(Bell::notify);
        self.say_ready(&gone_on);
        Ok(None)
    }

    /// Takes a snapshot of all shards, of which there are another number than before, or which have read past damage. Only then
    /// does anything count that they log.
    /// Some: the process was told to end before.
    fn save_layout(&mut self, noticed: &Receiver<Notice>) -> Result<Option<End>, BootError> {
        let ledger = self.saver.ledger().clone();
        // A shard may have begun one by itself, which does as well.
        let _ = ledger.begin(SaveKind::Rewrite);
        while ledger.facts().ended == 0 {
            let Some(notice) = next_notice(noticed, None) else { continue };
            match notice {
                Notice::AppendOnly(_) | Notice::LogFailed(_) => self.later.push_back(notice),
                _ => match End::of(&notice) {
                    Some(ended) => return Ok(Some(ended)),
                    None => self.save_on(notice),
                },
            }
        }
        match ledger.facts().failed {
            0 => Ok(None),
            _ => Err(BootError::LayoutSave),
        }
    }

    /// What each shard says, by shard, when all have said it; Err: the process was told to end before. How far loading is
    /// is shown meanwhile.
    fn hear_all<T>(
        &mut self,
        noticed: &Receiver<Notice>,
        mut pick: impl FnMut(Notice) -> Result<(ShardId, T), Notice>,
    ) -> Result<Result<Vec<T>, End>, BootError> {
        let mut heard: Vec<Option<T>> = self.threads.iter().map(|_| None).collect();
        let mut display = self.progress.as_ref().map(|progress| Display::new(progress));
        while heard.iter().any(Option::is_none) {
            let notice = next_notice(noticed, display.as_ref().map(Display::interval));
            if let Some((display, progress)) = display.as_mut().zip(self.progress.as_ref()) {
                display.show(progress);
            }
            let Some(notice) = notice else { continue };
            if let Some(ended) = End::of(&notice) {
                return Ok(Err(ended));
            }
            match notice {
                Notice::LoadFailed(error) => return Err(error.into()),
                notice => match pick(notice) {
                    Ok((shard, said)) => heard[shard.index()] = Some(said),
                    Err(notice) => self.later.push_back(notice),
                },
            }
        }
        if let Some(display) = display {
            display.finish();
        }
        Ok(Ok(heard.into_iter().flatten().collect()))
    }

    fn say_ready(&self, gone_on: &[GoneOn]) {
        let (keys, evicted) = (sum(gone_on, |shard| shard.keys), sum(gone_on, |shard| shard.evicted));
        let seconds = self.progress.as_ref().map_or(0.0, |progress| progress.elapsed().as_secs_f64());
        let bytes = self.config.maxmemory;
        if evicted > 0 {
            warn!("{evicted} keys were evicted while they were loaded: maxmemory is {bytes} bytes");
        }
        if gone_on.iter().any(|shard| shard.is_over) {
            warn!(
                "what was loaded is more than maxmemory, {bytes} bytes, and {} evicts nothing of it: writes are refused until there \
                 is room",
                self.config.maxmemory_policy.name()
            );
        }
        info!("ready: {keys} keys loaded in {seconds:.3} s");
    }

    /// Leads saves until there is a reason to end.
    pub fn lead(&mut self, noticed: &Receiver<Notice>) -> End {
        let mut retry_at: Option<Instant> = None;
        loop {
            let within = retry_at.map(|at| at.saturating_duration_since(Instant::now()));
            let notice = self.later.pop_front().or_else(|| next_notice(noticed, within));
            if let Some(ended) = notice.as_ref().and_then(End::of) {
                return ended;
            }
            match notice {
                Some(Notice::AppendOnly(true)) => {
                    (0..self.threads.len()).for_each(|shard| self.saver.want_log(shard));
                    self.saver.ledger().schedule(SaveKind::Rewrite);
                }
                Some(Notice::AppendOnly(false)) => {
                    self.saver.want_no_logs();
                    self.saver.wires().tell_all(|| Control::EndLog);
                }
                Some(Notice::LogFailed(shard)) => {
                    self.saver.want_log(usize::from(shard));
                    self.saver.ledger().schedule(SaveKind::Rewrite);
                }
                Some(notice) => self.save_on(notice),
                None => self.saver.ledger().schedule(SaveKind::Rewrite),
            }
            // A save that was to begin a log, and failed.
            let waits = self.saver.wants_logs() && !self.saver.is_busy();
            let now = Instant::now();
            retry_at = waits.then(|| retry_at.filter(|&at| at > now).unwrap_or(now + LOG_RESUME_RETRY));
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
        let (config, cores, wake) = (&self.config, &self.cores, wake(&self.saver.wires().bells));
        let open =
            || Opened::open_unused(Path::new(&config.dir), cores.len())?.serve(config.segment_bytes, cores, wake);
        self.saver.begin(open);
    }

    /// Asks all workers to stop and waits for them; a last save is taken before, if that is wanted.
    pub fn stop(mut self, noticed: &Receiver<Notice>, end: End) -> Result<(), BootError> {
        let save = match end {
            End::Shutdown { save } => {
                info!("a client asked for SHUTDOWN, stopping");
                save
            }
            End::Signal(signal) => {
                info!("{} received, stopping", if signal == SIGINT { "SIGINT" } else { "SIGTERM" });
                None
            }
        };
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
        let go_on = |crew: &mut Crew| {
            if let Some(notice) = next_notice(noticed, Some(SHUTDOWN_STEP)) {
                crew.save_on(notice);
            }
        };
        while self.saver.is_busy() || !self.census.all_drained() && Instant::now() < deadline {
            go_on(self);
        }
        let ledger = self.saver.ledger().clone();
        // If one was begun meanwhile it is of this moment too: nothing changes any more.
        let number = match ledger.begin(SaveKind::Snapshot) {
            Ok(number) => number,
            Err(SaveRefused::Running(_)) => ledger.facts().ended + 1,
            Err(SaveRefused::Unavailable) => return Err(BootError::LastSave),
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

fn sum<T>(of: &[T], figure: impl Fn(&T) -> u64) -> u64 {
    of.iter().map(figure).sum()
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
