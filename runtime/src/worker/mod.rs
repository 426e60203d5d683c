//! The pinned thread that drives one shard. Blocked in nothing but its own ring; start with [`Worker::run`].
//!
//! One pass of the loop is a *turn*: everything the kernel and the other shards have brought is collected, the shard takes
//! its turn on all of it at once, and what it has to say goes out: frames to the other shards, one send per client with
//! output, and then one enter that carries wake-ups and new operations and waits for the next events.
//!
//! Sends are plain `send(2)`, which costs the same as a send by the ring and answers at once. A socket that takes less than
//! it is given gets a POLLOUT from the ring and is left alone until that fires, so there is never more than one send under
//! way per connection.
//!
//! Tried and not worth it, or worse (measured in prototypes): sends by the ring, SQPOLL, receive bundles, incremental
//! buffers, direct descriptors, a registered ring descriptor.

mod accept;
mod connection;
mod faults;
mod load;
mod log;
mod peers;
mod snapshot;

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use socket2::Socket;
use thiserror::Error;
use torc_engine::id::{Millis, SessionId, ShardId};
use torc_engine::log::Buffer;
use torc_engine::machine::Machine;
use torc_engine::shard::{Close, Event, Input, Shard};

use crate::disk::Host;
use crate::disk::log::{LogDriver, LogFailure};
use crate::disk::pool::Lane;
use crate::disk::start::StartError;
use crate::limits::*;
use crate::machine::HostMachine;
use crate::mesh::{Parcel, Port};
use crate::prefault::Filler;
use crate::reaper::Chute;
use crate::ring::{BufferId, Completion, Errno, Key, Received, Ring, collect_free};
use crate::saver::SaveStep;
use accept::Listener;
use connection::{Connections, Receive, key, send};
use faults::{Faults, is_of_log};
use snapshot::Saving;

pub use accept::Door;
pub use load::{Beginning, GoneOn, Loaded, Loading};
pub use peers::{Bell, Census, event_descriptor};
pub use snapshot::{LogOrder, SnapshotEnd, SnapshotFailure, SnapshotOrder, SnapshotPart};

/// What the main thread tells a worker.
pub enum Control {
    /// All shards have loaded what is theirs: go on behind it.
    Begin(Box<Beginning>),
    /// Stop accepting, finish, flush, and wait for `End`. With a save before, without one, or with one if there are save points
    /// and no log (None).
    Stop { save: Option<bool> },
    /// The save before the end is over, or none is taken.
    End,
    /// Take a snapshot.
    Snapshot(Box<SnapshotOrder>),
    /// Give the snapshot with this number up, if it is still being taken.
    AbortSnapshot(u64),
    /// A save of all shards has ended; the log that was begun with it counts from now on.
    SaveEnded { is_good: bool, log_resumed: bool },
    /// Changes are not to be logged any more.
    EndLog,
}

/// What a worker or the signal thread tells the main thread.
#[derive(Debug)]
pub enum Notice {
    /// A shard has loaded everything.
    Loaded(Loaded),
    /// A shard could not: the process cannot start.
    LoadFailed(StartError),
    /// A shard can be asked for keys.
    GoneOn(GoneOn),
    /// A client asked for SHUTDOWN, with a save before, without, or with one if there are save points (None).
    Shutdown { save: Option<bool> },
    /// A signal came.
    Signal(i32),
    /// A shard stops; it waits for a last save or not.
    Stopping { saves: bool },
    /// A save was begun in the ledger.
    Save,
    /// The disk's thread has done a step of a save.
    SaveStep(SaveStep),
    /// A shard's part of a snapshot has ended.
    SnapshotEnded(SnapshotEnd),
    /// Changes are to be logged from now on, or not any more.
    AppendOnly(bool),
    /// The log of a shard has failed, and takes nothing more.
    LogFailed(u16),
}

/// Why a worker, and the process with it, ends.
#[derive(Debug, Error)]
pub enum WorkerError {
    #[error("the io_uring of a shard failed: {0}")]
    Ring(#[from] io::Error),
    #[error("{0}; under appendfsync always nothing can be acknowledged any more")]
    Log(LogFailure),
}

/// What a worker is made of.
pub struct Parts {
    pub id: ShardId,
    pub ring: Ring,
    pub shard: Shard,
    pub port: Port<Parcel>,
    pub doors: Vec<Door>,
    pub census: Arc<Census>,
    /// By shard.
    pub bells: Arc<Vec<Bell>>,
    /// Parked peers are woken by messages between rings; otherwise by event descriptors.
    pub wake_by_ring: bool,
    /// How long to look for answers of other shards before parking; `busy-poll-us` is for all else.
    pub spin_outstanding: Duration,
    pub chute: Chute,
    /// None if memory is not to be filled ahead.
    pub filler: Option<Filler>,
    /// None if nothing is logged, or not yet.
    pub log: Option<LogDriver<Buffer>>,
    /// What is to be loaded before clients are served.
    pub loading: Option<Loading>,
    pub control: Receiver<Control>,
    pub notices: Sender<Notice>,
    pub machine: HostMachine,
}

/// One shard's thread.
pub struct Worker {
    parts: Parts,
    listeners: Vec<Option<Listener>>,
    connections: Connections,
    /// The wall clock, read once per turn.
    now: Millis,
    /// When this thread's memory is looked through next.
    collect_own_at: Millis,

    // What a turn collects; empty between turns, kept for their allocations.
    inputs: Vec<Input>,
    held: Vec<BufferId>,
    ended: Vec<SessionId>,
    failed: Vec<SessionId>,
    touched: Vec<SessionId>,
    notified: bool,

    /// Sessions whose output is held back, because more is on its way to them from other shards: since which turn.
    held_back: VecDeque<(SessionId, u64)>,
    turn: u64,

    /// Connections whose receive found no buffer, the longest waiting first.
    starved: VecDeque<Key>,
    /// Buffers that starved receives have asked for.
    buffers_asked: usize,
    /// Closed sockets. An operation that names one may not have been submitted yet, and the number of a descriptor must
    /// not go to another connection before it is.
    graveyard: Vec<Socket>,

    buffers_published: u64,
    buffers_others: u64,
    buffers_others_at: Millis,
    accept_logged_at: Millis,
    /// Delays of the log that the shard was told of.
    log_delays: u64,
    /// That the log did not come to its end has been said.
    log_lost: bool,
    /// The log has failed, and none counts yet that was begun after it: what would be lost.
    log_loss: Option<String>,
    /// The log was switched off, and its end is not on the disk yet.
    log_ends: bool,
    /// The way to the disk's thread, of a shard that was to log and did not come to it.
    spare_lane: Option<Lane<Host>>,
    /// The snapshot that is being taken, and how many there were.
    saving: Option<Saving>,
    snapshots: u32,
    /// When a stop gives up waiting; Some once asked to stop.
    stop_at: Option<Instant>,
    /// The main thread has said that the end may come: a last snapshot is taken before, if one is wanted.
    may_end: bool,
    drained: bool,
    /// What goes wrong on purpose; None: nothing.
    faults: Option<Box<Faults>>,
}

impl Worker {
    pub fn new(mut parts: Parts) -> Worker {
        let listeners = std::mem::take(&mut parts.doors).into_iter().map(|door| Some(Listener::new(door))).collect();
        Worker {
            parts,
            listeners,
            connections: Connections::default(),
            now: wall_clock(),
            collect_own_at: Millis(0),
            inputs: Vec::new(),
            held: Vec::new(),
            ended: Vec::new(),
            failed: Vec::new(),
            touched: Vec::new(),
            notified: false,
            held_back: VecDeque::new(),
            turn: 0,
            starved: VecDeque::new(),
            buffers_asked: 0,
            graveyard: Vec::new(),
            buffers_published: 0,
            buffers_others: 0,
            buffers_others_at: Millis(0),
            accept_logged_at: Millis(0),
            log_delays: 0,
            log_lost: false,
            log_loss: None,
            log_ends: false,
            spare_lane: None,
            saving: None,
            snapshots: 0,
            stop_at: None,
            may_end: false,
            drained: false,
            faults: None,
        }
    }

    /// Serves until told to stop. An error is fatal.
    pub fn run(mut self) -> Result<(), WorkerError> {
        let own = self.parts.id.index();
        self.parts.ring.poll_notified(&self.parts.bells[own].event);
        self.accept_all();
        loop {
            self.now = wall_clock();
            self.serve_faults();
            self.collect();
            self.take_parcels();
            self.take_orders();
            self.look_whether_to_serve();
            self.accept_again();

            self.look_at_buffers();
            let Parts { shard, ring, machine, .. } = &mut self.parts;
            shard.turn(self.now, machine, self.buffers_others, ring.arena(), &self.inputs);
            self.inputs.clear();
            self.return_buffers();
            self.load_slice();
            self.serve_log()?;
            self.serve_snapshot();
            self.end_log();

            self.send_frames();
            self.settle();
            self.publish_buffers();
            let Parts { shard, chute, filler, .. } = &mut self.parts;
            chute.serve(shard);
            if let Some(filler) = filler {
                filler.serve(shard);
            }
            self.collect_own_free();
            if self.is_done() {
                self.finish_log();
                return Ok(());
            }
            self.rest()?;
        }
    }

    /// While the process is too large, gives back what others have freed of this thread's memory. It takes a while where
    /// there is much, and otherwise the allocator comes to it when this thread asks for such memory again.
    #[inline]
    fn collect_own_free(&mut self) {
        if self.now.0 >= self.collect_own_at.0 {
            self.collect_own_at = Millis(self.now.0 + COLLECT_INTERVAL.as_millis() as u64);
            if self.parts.machine.held_back() > 0 {
                collect_free();
            }
        }
    }

    /// Takes all completions.
    fn collect(&mut self) {
        while let Some(completion) = self.parts.ring.next_completion() {
            match completion {
                Completion::Received { key, result, more } => self.received(key, result, more),
                Completion::Writable { key } => {
                    if let Some(connection) = self.connections.get_by_key(key) {
                        connection.waits_writable = false;
                        self.touched.push(connection.session);
                    }
                }
                Completion::Accepted { listener, result, more } => self.accepted(listener, result, more),
                Completion::Woken => {}
                Completion::Notified { more } => {
                    let bell = &self.parts.bells[self.parts.id.index()];
                    bell.silence();
                    if !more {
                        self.parts.ring.poll_notified(&bell.event);
                    }
                    self.notified = true;
                }
                // The peer's ring is full or closed: its event descriptor reaches it all the same.
                Completion::Undelivered { peer, .. } => self.parts.bells[peer as usize].notify(),
                Completion::Written { .. } | Completion::Synced { .. } => match &mut self.faults {
                    None => self.file_done(completion),
                    Some(faults) => faults.hold(completion),
                },
            }
        }
    }

    /// A write or sync of a file has ended.
    fn file_done(&mut self, completion: Completion) {
        match completion {
            Completion::Written { key, result } if is_of_log(key) => self.log_written(key, result),
            Completion::Written { key, result } => self.snapshot_written(key, result),
            Completion::Synced { key, result } => self.log_synced(key, result),
            _ => unreachable!("it is of a file"),
        }
    }

    #[inline]
    fn received(&mut self, key: Key, result: Result<Option<Received>, Errno>, more: bool) {
        let Some(connection) = self.connections.get_by_key(key) else {
            if let Ok(Some(received)) = result {
                self.held.push(received.buffer);
            }
            return;
        };
        let session = connection.session;
        if !more {
            connection.receive = Receive::Off;
        }
        match result {
            Ok(Some(Received { start, len, buffer })) => {
                self.inputs.push(Input { session, start, len });
                self.held.push(buffer);
                if !more {
                    self.touched.push(session);
                }
            }
            Ok(None) => {
                connection.ended = true;
                self.ended.push(session);
            }
            Err(Errno(libc::ENOBUFS)) if !more => {
                connection.receive = Receive::Starved;
                self.starved.push_back(key);
            }
            // Cancelled by us, or disturbed: armed again when the shard wants to read.
            Err(Errno(libc::ECANCELED | libc::EINTR | libc::EAGAIN)) => self.touched.push(session),
            Err(_) => self.failed.push(session),
        }
    }

    /// Takes what other shards have sent, a bounded number from each.
    fn take_parcels(&mut self) {
        if self.faults.is_some() {
            return self.take_parcels_late();
        }
        for from in 0..self.parts.port.shards() {
            let from = ShardId(from as u16);
            for _ in 0..PARCELS_PER_TURN {
                match self.parts.port.pop(from) {
                    Some(parcel) => self.take_parcel(from, parcel),
                    None => break,
                }
            }
        }
    }

    #[inline]
    fn take_parcel(&mut self, from: ShardId, parcel: Parcel) {
        match parcel {
            Parcel::Frame(frame) => self.parts.shard.handle_frame(from, frame),
            Parcel::Connection(socket) => self.adopt(socket),
        }
    }

    /// Takes what the main thread has sent; it always notifies.
    fn take_orders(&mut self) {
        if !std::mem::take(&mut self.notified) {
            return;
        }
        while let Ok(order) = self.parts.control.try_recv() {
            match order {
                Control::Begin(beginning) => self.go_on(*beginning),
                Control::Stop { save } => self.stop(save),
                Control::End => self.may_end = true,
                order => self.take_save_order(order),
            }
        }
    }

    /// Gives the turn's buffers back to the kernel, and arms starved receives again, as many as there are buffers.
    fn return_buffers(&mut self) {
        let ring = &mut self.parts.ring;
        self.held.drain(..).for_each(|buffer| ring.give_back(buffer));
        if !self.starved.is_empty() {
            self.buffers_asked = ring.buffers_active() * 2;
            self.size_buffers();
        }
        let ring = &mut self.parts.ring;
        ring.publish_buffers();
        let mut free = ring.buffers_free();
        debug_assert_eq!(free, ring.buffers_active(), "between turns every buffer is with the kernel");
        while free > 0 {
            let Some(key) = self.starved.pop_front() else { break };
            let Some(connection) = self.connections.get_by_key(key) else { continue };
            if connection.receive == Receive::Starved {
                connection.receive = Receive::Off;
                self.touched.push(connection.session);
                free -= 1;
            }
        }
    }

    /// Makes the pool of buffers follow the connections.
    fn size_buffers(&mut self) {
        let count = self.connections.len();
        let unasked = (count * BUFFERS_PER_CONNECTION).min(BUFFERS_UNASKED_MAX as usize);
        self.buffers_asked = self.buffers_asked.min(count * BUFFERS_PER_CONNECTION * 2);
        self.parts.ring.want_buffers(unasked.max(self.buffers_asked));
    }

    /// Sends the turn's frames, as far as the queues take them.
    fn send_frames(&mut self) {
        let Parts { port, shard, id, .. } = &mut self.parts;
        for to in 0..port.shards() {
            let to = ShardId(to as u16);
            if to == *id {
                continue;
            }
            while port.has_room(to) {
                let Some(frame) = shard.poll_frame(to) else { break };
                if port.push(to, Parcel::Frame(frame)).is_err() {
                    unreachable!("a queue that has room takes a parcel");
                }
            }
        }
    }

    /// Tells the shard about ends and failures, and serves every session for which something changed.
    fn settle(&mut self) {
        while let Some(session) = self.failed.pop() {
            self.close(session);
        }
        while let Some(session) = self.ended.pop() {
            if self.connections.get(session).is_some() {
                self.parts.shard.handle_eof(session);
                self.touched.push(session);
            }
        }
        while let Some(session) = self.touched.pop() {
            self.serve(session);
        }
        self.turn += 1;
        while let Some(session) = self.parts.shard.poll_session() {
            if !self.hold_back(session) {
                self.serve(session);
            }
        }
        while self.held_back.front().is_some_and(|&(_, since)| self.turn - since >= HELD_BACK_TURNS) {
            self.send_held_back();
        }
        while let Some(event) = self.parts.shard.poll_event() {
            match event {
                // The main thread outlives the workers.
                Event::Shutdown { save } => drop(self.parts.notices.send(Notice::Shutdown { save })),
                Event::AppendOnly(wanted) => drop(self.parts.notices.send(Notice::AppendOnly(wanted))),
            }
        }
    }

    /// Holds a session's output back if more is on its way: what other shards answer usually comes within microseconds,
    /// and one send for all costs half of two.
    #[inline]
    fn hold_back(&mut self, session: SessionId) -> bool {
        let shard = &self.parts.shard;
        if !shard.has_more_soon(session) || shard.output(session).0.bytes.len() > HELD_BACK_BYTES_MAX {
            return false;
        }
        let Some(connection) = self.connections.get(session) else { return false };
        if !std::mem::replace(&mut connection.held_back, true) {
            self.held_back.push_back((session, self.turn));
        }
        true
    }

    /// Serves the session that has been held back longest, unless it was served meanwhile.
    fn send_held_back(&mut self) {
        let Some((session, _)) = self.held_back.pop_front() else { return };
        if self.connections.get(session).is_some_and(|connection| connection.held_back) {
            self.serve(session);
        }
    }

    /// Sends a session's output and does with its socket what the shard wants.
    #[inline]
    fn serve(&mut self, session: SessionId) {
        let Some(connection) = self.connections.get(session) else { return };
        connection.held_back = false;
        let Parts { shard, ring, .. } = &mut self.parts;
        let mut sends = 0;
        let all_sent = loop {
            let (buffer, sent) = shard.output(session);
            if buffer.is_empty() {
                break true;
            }
            if connection.waits_writable {
                break false;
            }
            // A client that takes everything at once does not hold up the others: the ring brings it back.
            if sends == SENDS_PER_TURN {
                connection.waits_writable = true;
                ring.poll_writable(&connection.socket, connection.key());
                break false;
            }
            sends += 1;
            match send(&connection.socket, buffer, sent) {
                Ok((taken, given)) => {
                    shard.handle_sent(session, taken);
                    if taken < given {
                        connection.waits_writable = true;
                        ring.poll_writable(&connection.socket, connection.key());
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    connection.waits_writable = true;
                    ring.poll_writable(&connection.socket, connection.key());
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return self.close(session),
            }
        };

        let flow = shard.flow(session);
        if flow.close == Close::Now || flow.close == Close::Flush && all_sent {
            return self.close(session);
        }
        match connection.receive {
            Receive::Off if flow.read && !connection.ended => {
                connection.receive = Receive::Armed;
                ring.receive_multishot(&connection.socket, connection.key());
            }
            Receive::Armed if !flow.read => {
                connection.receive = Receive::Cancelling;
                ring.cancel_receive(connection.key());
            }
            _ => {}
        }
    }

    /// Closes a connection; the shard forgets its session.
    fn close(&mut self, session: SessionId) {
        let Some(connection) = self.connections.remove(session) else { return };
        let Parts { shard, ring, census, id, .. } = &mut self.parts;
        if matches!(connection.receive, Receive::Armed | Receive::Cancelling) {
            ring.cancel_receive(key(session));
        }
        if connection.waits_writable {
            ring.cancel_writable(key(session));
        }
        shard.handle_disconnect(session);
        census.dismiss(*id);
        self.graveyard.push(connection.socket);
        self.size_buffers();
    }

    /// Wakes peers, submits, and parks if there is nothing to do.
    fn rest(&mut self) -> io::Result<()> {
        while let Some(peer) = self.parts.port.poll_wake() {
            let bell = &self.parts.bells[peer.index()];
            match self.parts.wake_by_ring {
                true => self.parts.ring.wake(bell.ring, peer.0 as u32),
                false => bell.notify(),
            }
        }
        if self.parts.shard.has_work() || self.has_to_load() {
            self.enter()?;
        } else if !self.spin()? {
            // Nobody is kept waiting by a shard that sleeps.
            while !self.held_back.is_empty() {
                self.send_held_back();
            }
            match self.parts.port.announce_park() {
                true => {
                    let timeout = self.park_time();
                    let result = self.parts.ring.wait(timeout);
                    self.parts.port.retract_park();
                    result?;
                }
                false => self.enter()?,
            }
        }
        if !self.graveyard.is_empty() && self.parts.ring.is_submitted() {
            self.graveyard.clear();
        }
        Ok(())
    }

    /// Submits and collects without waiting, if there is anything to submit or collect.
    #[inline]
    fn enter(&mut self) -> io::Result<()> {
        if self.parts.ring.is_quiet() {
            return Ok(());
        }
        self.parts.ring.submit()
    }

    /// Looks for something to do for a short while, if that is likely or wanted. True: there is something.
    fn spin(&mut self) -> io::Result<bool> {
        let mut time = Duration::from_micros(self.parts.shard.config().busy_poll_us.into());
        if (1..=SPIN_REQUESTS_MAX).contains(&self.parts.shard.outstanding()) {
            time = time.max(self.parts.spin_outstanding);
        }
        if time.is_zero() {
            return Ok(false);
        }
        self.enter()?;
        let start = Instant::now();
        loop {
            if !self.parts.port.is_empty() {
                return Ok(true);
            }
            if !self.parts.ring.is_quiet() {
                self.parts.ring.submit()?;
                return Ok(true);
            }
            if start.elapsed() >= time {
                return Ok(false);
            }
            std::hint::spin_loop();
        }
    }

    /// How long to park if nothing happens.
    fn park_time(&mut self) -> Duration {
        let mut time = PARK_MAX;
        let now = self.now;
        let until = |at: Millis| Duration::from_millis(at.0.saturating_sub(now.0));
        if let Some(at) = self.parts.shard.next_wake() {
            time = time.min(until(at));
        }
        if let Some(at) = self.log_wake() {
            time = time.min(until(at));
        }
        if let Some(at) = self.faults.as_ref().and_then(|faults| faults.next_due()) {
            time = time.min(at.saturating_duration_since(Instant::now()));
        }
        for listener in self.listeners.iter().flatten() {
            if let Some(at) = listener.paused_until {
                time = time.min(until(at));
            }
        }
        // The shard may have frames for a peer that has no room.
        if !self.parts.port.has_room_everywhere() {
            time = time.min(PARK_CONGESTED);
        }
        if self.stop_at.is_some() {
            time = time.min(SHUTDOWN_STEP);
        }
        time
    }

    fn look_at_buffers(&mut self) {
        // Also when the clock was set back.
        if self.now.0.abs_diff(self.buffers_others_at.0) >= BUFFERS_OTHERS_MS {
            self.buffers_others_at = self.now;
            self.buffers_others = self.parts.census.buffers_others(self.parts.id);
        }
    }

    fn publish_buffers(&mut self) {
        let bytes = self.parts.shard.buffers_bytes();
        if bytes != self.buffers_published {
            self.buffers_published = bytes;
            self.parts.census.publish_buffers(self.parts.id, bytes);
        }
    }

    fn stop(&mut self, save: Option<bool>) {
        if self.stop_at.is_none() {
            self.stop_at = Some(Instant::now() + SHUTDOWN_MAX);
            let config = self.parts.shard.config();
            let wants = save.unwrap_or(!config.save_points.is_empty() && !config.append_only);
            // What is not loaded yet is where it was.
            let saves = wants && self.parts.loading.take().is_none();
            // The main thread outlives the workers.
            let _ = self.parts.notices.send(Notice::Stopping { saves });
            self.close_listeners();
            self.parts.shard.begin_shutdown();
        }
    }

    /// Asked to stop, and no shard owes anybody anything, or the time for that is over.
    fn is_done(&mut self) -> bool {
        let Some(stop_at) = self.stop_at else { return false };
        if !self.drained && self.parts.shard.is_drained() {
            self.drained = true;
            self.parts.census.report_drained();
        }
        let is_late = Instant::now() >= stop_at;
        let is_drained = self.parts.census.all_drained() || is_late;
        is_drained && self.is_log_sealed(stop_at) && self.may_end && self.saving.is_none()
    }
}

fn wall_clock() -> Millis {
    // Before 1970 all keys live for ever; the machine has other troubles then.
    Millis(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64))
}
