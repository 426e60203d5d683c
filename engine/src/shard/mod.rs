//! The state machine of one core: bytes, messages and the time go in; replies, messages and wake times come out.
//!
//! The runtime drives it: it calls the `handle_*` functions with what happened, [`Shard::turn`] once per pass of its
//! loop, and then takes what is to be done from the `poll_*` functions. The simulator drives it the same way.
//!
//! One command's way: [`turn`] parses it, [`dispatch`] lets it through the gates ([`gate`]) and decides where it is
//! executed; here, it joins the batch, and [`turn`] executes the batch; elsewhere, it goes into a frame ([`links`]), and
//! its reply comes back in one. [`replies`] keeps the order, [`fanout`] splits and merges, [`waiters`] resumes what goes
//! on in slices, [`durable`] holds replies until the disk has what they tell, [`log_state`] makes writers wait for a log or
//! refuses them, [`save`] has its part in snapshots, [`buffers`] bounds clients' memory and [`budget`] all of it, [`garbage`]
//! hands big values out to be dropped,
//! [`timers`] does what is due.

mod budget;
mod buffers;
mod dispatch;
mod durable;
mod fanout;
mod garbage;
mod gate;
mod links;
mod log_state;
mod replies;
mod save;
mod sessions;
mod timers;
mod turn;
mod waiters;

use std::collections::VecDeque;
use std::net::SocketAddr;

use torc_protocol::limits::RequestLimits;
use torc_protocol::resp::reply::{Dialect, ReplyBuffer};

use crate::config::Config;
use crate::id::{Millis, SessionId, ShardId};
use crate::limits;
use crate::log::{Journal, LogStart, Lsn, Record};
use crate::machine::Machine;
use crate::message::Frame;
use crate::planted::{Bug, is_planted};
use crate::random::Random;
use crate::route::Route;
use crate::session::Client;
use crate::snapshot::{Header, LoadedEntry};
use crate::stats::Stats;
use crate::store::{Databases, KeyspacesRefused, Store};
use budget::Budget;
use durable::HeldReplies;
use fanout::{Fanout, Fanouts};
use links::Links;
use log_state::LogStates;
pub use log_state::Writes;
use replies::BufferPool;
use save::Saving;
pub use save::SnapshotBase;
use sessions::{Session, Sessions};
use timers::Timers;
use turn::Batch;
use waiters::Waiters;

/// Bytes that arrived for a session: `arena[start..start + len]` of the turn's arena.
#[derive(Clone, Copy, Debug)]
pub struct Input {
    pub session: SessionId,
    pub start: u32,
    pub len: u32,
}

/// What the runtime knows of a new connection.
#[derive(Clone, Debug)]
pub struct Peer {
    pub address: SocketAddr,
    pub local_address: SocketAddr,
    /// Clients connected to the whole process, this one included.
    pub clients_total: usize,
}

/// A connection that is not served: the bytes to send before it is closed.
#[derive(Debug)]
pub struct Refusal(pub &'static [u8]);

/// What the runtime shall do with a session's socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Go on receiving. False: cancel the receive until this is true again.
    pub read: bool,
    pub close: Close,
}

/// Whether and how to close a session's socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Close {
    No,
    /// Once the output is sent.
    Flush,
    /// At once, unsent output dropped.
    Now,
}

/// Something for the whole process.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    /// A client asked for SHUTDOWN, with a save before, without one, or with one if there are save points (None).
    Shutdown { save: Option<bool> },
    /// Changes are to be logged from now on, or not any more.
    AppendOnly(bool),
}

const MAX_CLIENTS_REACHED: &[u8] = b"-ERR max number of clients reached\r\n";
const PROTECTED_MODE: &[u8] = b"-DENIED Torc is running in protected mode because protected mode is enabled and no \
password is set for the default user. In this mode connections are only accepted from the loopback interface. If you \
want to connect from external computers to Torc you may adopt one of the following solutions: 1) Just disable protected \
mode sending the command 'CONFIG SET protected-mode no' from the loopback interface by connecting to Torc from the same \
host the server is running, however MAKE SURE Torc is not publicly accessible from internet if you do so. 2) \
Alternatively you can just disable the protected mode by editing the configuration file, and setting the protected mode \
option to 'no', and then restarting the server. 3) If you started the server manually just for testing, restart it with \
the '--protected-mode no' option. 4) Setup an authentication password for the default user. NOTE: You only need to do \
one of the above things in order for the server to start accepting connections from the outside.\r\n";

/// One shard: its keys, its sessions, and what it has under way with the other shards.
pub struct Shard {
    /// What the execution of a command may touch.
    core: Core,
    route: Route,
    sessions: Sessions,
    links: Links,
    fanouts: Fanouts,
    /// Pages of SCAN to go on with in the next turn.
    scans: Vec<Fanout>,
    waiters: Waiters,
    held: HeldReplies,
    saving: Saving,
    logs: LogStates,
    /// Nothing is executed for a while, until a debt is paid.
    paused: bool,
    timers: Timers,
    pool: BufferPool,
    batch: Batch,
    /// Frames that came since the last turn.
    incoming: Vec<(ShardId, Frame)>,
    /// Sessions that the runtime is to look at.
    ready: VecDeque<SessionId>,
    /// Sessions whose commands wait; looked at when `recheck` says that something has changed.
    stalled: VecDeque<SessionId>,
    recheck: bool,
    /// Sessions whose output is over the soft limit.
    over_soft_limit: VecDeque<SessionId>,
    /// Sessions with refcounted values in their output, which may become theirs alone while nothing else happens to them.
    with_values: VecDeque<SessionId>,
    /// Sessions that are not read because of the process's limit.
    choked: VecDeque<SessionId>,
    events: VecDeque<Event>,
    connections: u64,
    /// Bytes of all sessions' buffers, and of those of all other shards.
    buffer_bytes: u64,
    buffer_bytes_others: u64,
    stopping: bool,
    /// How many keys there were when all was redone.
    loaded_keys: u64,
    /// Whether the runtime has been told that there is to be a log.
    is_logging: bool,
    stage: Stage,
    /// Where, after everything was redone, the next look for expired keys begins.
    swept: (u8, u64),
}

/// How far the shard is with what the disk has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// It is being redone: nothing expires, and nobody is served.
    Redoing,
    /// It is there. What other shards ask is answered; clients of this one wait until all shards are as far.
    Redone,
    Serving,
}

/// The part of a shard that commands are executed on.
struct Core {
    id: ShardId,
    shards: usize,
    config: Config,
    store: Store,
    stats: Stats,
    random: Random,
    budget: Budget,
    writes: Writes,
    /// What is known of saves may have changed.
    look_at_saves: bool,
    /// The last save failed, and writes are to be refused because of that.
    has_save_failed: bool,
    /// Commands executed, for sampling durations.
    executed: u64,
}

impl Shard {
    /// A shard of `shards`. `seed` is the same on all shards of the process (hash flooding), random per process.
    pub fn new(id: ShardId, shards: usize, seed: [u64; 4], config: Config, now: Millis) -> Shard {
        let is_logging = config.append_only;
        let mut core = Core {
            id,
            shards,
            // What the disk has may tell of databases that clients cannot select now, and ids of keyspaces go on from a
            // fixed number.
            store: Store::new(limits::DATABASES_MAX, seed, config.prefault),
            config,
            stats: Stats::new(),
            random: Random(seed[0] ^ (id.0 as u64) << 48),
            budget: Budget::new(),
            writes: Writes::Allowed,
            look_at_saves: false,
            has_save_failed: false,
            executed: 0,
        };
        core.config_changed();
        Shard {
            core,
            route: Route::new(shards),
            sessions: Sessions::default(),
            links: Links::new(shards),
            fanouts: Fanouts::default(),
            scans: Vec::new(),
            waiters: Waiters::default(),
            held: HeldReplies::default(),
            saving: Saving::default(),
            logs: LogStates::default(),
            paused: false,
            timers: Timers::new(now),
            pool: BufferPool::default(),
            batch: Batch::default(),
            incoming: Vec::new(),
            ready: VecDeque::new(),
            stalled: VecDeque::new(),
            recheck: false,
            over_soft_limit: VecDeque::new(),
            with_values: VecDeque::new(),
            choked: VecDeque::new(),
            events: VecDeque::new(),
            connections: 0,
            buffer_bytes: 0,
            buffer_bytes_others: 0,
            stopping: false,
            loaded_keys: 0,
            is_logging,
            stage: Stage::Serving,
            swept: (0, 0),
        }
    }

    /// From now on commands on keys are refused, until [`Shard::end_loading`], and what the disk has is redone:
    /// snapshots and logs of one or several shards, of each of them first its snapshot and then its log.
    pub fn begin_loading(&mut self) {
        (self.stage, self.swept) = (Stage::Redoing, (0, 0));
    }

    /// Whether so much of the log waits for the disk that nothing more is to be logged for now.
    pub fn is_log_behind(&mut self) -> bool {
        self.core.store.log().pending_bytes() >= limits::LOG_PENDING_BYTES_MAX
    }

    /// Whether [`Shard::drop_expired_slice`] has removed all that there was.
    pub fn is_swept(&self) -> bool {
        usize::from(self.swept.0) == self.core.store.databases()
    }

    /// Begins a snapshot. `is_own`: nothing of other shards will come, so there is room to be made for all of it.
    pub fn begin_snapshot_load(&mut self, header: &Header, is_own: bool) -> Result<(), KeyspacesRefused> {
        self.core.store.restore_keyspaces(header)?;
        for keyspace in header.keyspaces.iter().filter(|_| is_own && self.core.config.maxmemory == 0) {
            self.core.store.reserve(keyspace.id, keyspace.entries);
        }
        Ok(())
    }

    /// Takes entries of a snapshot, those whose keys are this shard's.
    pub fn load(&mut self, entries: &[LoadedEntry<'_>]) {
        let (route, id) = (&self.route, self.core.id);
        self.core.store.load(entries, self.timers.now, |key| route.owner(key) == id);
    }

    /// Redoes changes that a log has, in order: of keys that are this shard's, and of databases.
    pub fn redo(&mut self, records: &[(Lsn, Record<'_>)]) {
        let (route, id) = (&self.route, self.core.id);
        let owns = |key: &[u8]| route.owner(key) == id || is_planted(Bug::RedoneByAll);
        self.core.store.redo(records, self.timers.now, owns);
    }

    /// Frees a slice of what was redone and is no more. True if there is more; it had better go before more comes.
    pub fn free_redone_slice(&mut self) -> bool {
        self.core.store.free_redone_slice()
    }

    /// Evicts a slice of what is loaded if that is more than `maxmemory` allows, and the policy evicts. True if there is
    /// more to go before more comes.
    pub fn evict_loaded_slice(&mut self, now: Millis, machine: &mut dyn Machine) -> bool {
        self.core.budget.set_buffers(self.buffer_bytes);
        self.core.balance_loaded(machine, now)
    }

    /// Whether more is used than `maxmemory` allows, and nothing may be evicted.
    pub fn is_over_budget(&mut self, machine: &mut dyn Machine, now: Millis) -> bool {
        self.core.is_over_budget(machine, now)
    }

    /// Keys of all databases.
    pub fn keys(&self) -> u64 {
        (0..self.core.store.databases() as u8).map(|db| self.core.store.len(db) as u64).sum()
    }

    /// Which keyspaces the numbers of databases lead to.
    pub fn layout(&self) -> Databases {
        self.core.store.layout()
    }

    /// What another shard says of that, if it knows more: a crash may have taken the end of this shard's log. Logged, if
    /// the journal is on.
    pub fn adopt_layout(&mut self, layout: &Databases) -> Result<(), KeyspacesRefused> {
        self.core.store.adopt(layout)
    }

    /// Removals of keys that are not there need no log any more: a snapshot was taken since keys were evicted while they
    /// were loaded.
    pub fn forget_evicted_at_load(&mut self) {
        self.core.store.log_all_removals(false);
    }

    /// All that the disk has is there, and the journal, if there is to be one, has been begun: removes some of what expired
    /// meanwhile. `now` is not before what the log says the clock had reached. False: that is through, or the disk has to
    /// take what was logged first.
    pub fn drop_expired_slice(&mut self, now: Millis) -> bool {
        !self.is_log_behind() && self.core.store.drop_due_slice(&mut self.swept, now)
    }

    /// Ends the redoing, after what is left of [`Shard::drop_expired_slice`]. Other shards may ask from now on; clients of
    /// this one are served from [`Shard::end_loading`] on, when all shards are here. Returns how many keys were evicted.
    pub fn end_redo(&mut self, now: Millis) -> u64 {
        while self.core.store.drop_due_slice(&mut self.swept, now) {}
        let counters = self.core.store.counters();
        let evicted = counters.evicted + counters.expired;
        if evicted > 0 {
            self.core.store.log_all_removals(true);
        }
        self.core.store.end_redo();
        self.loaded_keys = self.keys();
        self.core.config_changed();
        self.stage = Stage::Redone;
        evicted
    }

    /// Clients are served. Ends what [`Shard::end_redo`] ends, if that was not called.
    pub fn end_loading(&mut self, now: Millis) {
        if self.stage != Stage::Redone {
            self.end_redo(now);
        }
        self.stage = Stage::Serving;
    }

    /// Whether clients are told to wait for what the disk has.
    pub fn is_loading(&self) -> bool {
        self.stage != Stage::Serving
    }

    /// Begins a log of what changes from now on.
    pub fn begin_log(&mut self, start: LogStart) {
        self.journal().begin(start);
        self.core.config_changed();
    }

    /// Nothing is logged any more; what was is sealed, or failed.
    pub fn end_log(&mut self) {
        self.journal().end();
        self.core.writes = Writes::Allowed;
        self.core.config_changed();
    }

    /// Settings were changed.
    fn config_changed(&mut self) {
        self.core.config_changed();
        let wanted = self.core.config.append_only;
        // All shards are told the same: one passes it on.
        if std::mem::replace(&mut self.is_logging, wanted) != wanted && self.core.id == ShardId(0) {
            self.events.push_back(Event::AppendOnly(wanted));
        }
    }

    /// The log, to be begun and written. Off until it is begun.
    pub fn journal(&mut self) -> &mut Journal {
        self.core.store.log().journal()
    }

    /// The settings as CONFIG SET left them; the same on every shard.
    pub fn config(&self) -> &Config {
        &self.core.config
    }

    /// A client connected. Err: send the refusal's bytes and close.
    pub fn handle_connect(&mut self, now: Millis, peer: Peer) -> Result<SessionId, Refusal> {
        let config = &self.core.config;
        let counters = &mut self.core.stats.counters;
        if peer.clients_total > config.maxclients {
            counters.rejected_connections += 1;
            return Err(Refusal(MAX_CLIENTS_REACHED));
        }
        let open = config.requirepass.is_empty();
        if config.protected_mode && open && !peer.address.ip().to_canonical().is_loopback() {
            return Err(Refusal(PROTECTED_MODE));
        }
        counters.total_connections_received += 1;
        counters.connected_clients += 1;
        // Unique over all shards of the process.
        let id = self.connections * self.core.shards as u64 + self.core.id.0 as u64 + 1;
        self.connections += 1;
        let client = Client {
            id,
            address: peer.address,
            local_address: peer.local_address,
            db: 0,
            dialect: Dialect::Resp2,
            authenticated: open,
            quit: false,
            name: Vec::new(),
            lib_name: Vec::new(),
            lib_version: Vec::new(),
            connected_at: now,
            last_active: now,
        };
        Ok(self.sessions.insert(Session::new(client)))
    }

    /// The client closed its sending side: what it sent is still answered, then the session closes (`flow`).
    pub fn handle_eof(&mut self, id: SessionId) {
        if let Some(session) = self.sessions.get_mut(id) {
            session.eof = true;
            self.list(id);
        }
    }

    /// The connection is gone (error, or the runtime has closed it). The id is dead after this; commands that it sent
    /// are still executed, their replies dropped.
    pub fn handle_disconnect(&mut self, id: SessionId) {
        if let Some(session) = self.sessions.remove(id) {
            self.buffer_bytes -= session.accounted_bytes as u64;
            self.core.stats.counters.connected_clients -= 1;
            self.recheck |= session.stalled;
            if session.choked_since.is_some() {
                self.choked.retain(|&choked| choked != id);
            }
            garbage::discard_session(&mut self.core.store, session);
        }
    }

    /// `count` bytes of the session's output were sent. Call with what send(2) returned.
    pub fn handle_sent(&mut self, id: SessionId, count: usize) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        let store = &mut self.core.store;
        session.replies.sent(count, &mut self.pool, |value| garbage::discard_all(store, [value]));
        // Who reads a long reply is not idle.
        session.client.last_active = self.timers.now;
        self.recheck |= session.stalled;
        self.core.stats.counters.total_net_output_bytes += count as u64;
        self.account(id);
    }

    /// A frame from another shard; executed in the next turn. Frames of one shard come in the order it sent them.
    pub fn handle_frame(&mut self, from: ShardId, frame: Frame) {
        debug_assert!(from != self.core.id && from.index() < self.core.shards);
        self.incoming.push((from, frame));
    }

    /// The next session whose output or flow changed since it was last given; None when all were.
    pub fn poll_session(&mut self) -> Option<SessionId> {
        while let Some(id) = self.ready.pop_front() {
            if let Some(session) = self.sessions.get_mut(id) {
                session.listed = false;
                return Some(id);
            }
        }
        None
    }

    /// Unsent output: `(buffer, sent)`; the first `sent` bytes of the logical stream (shared values included) are gone.
    pub fn output(&self, id: SessionId) -> (&ReplyBuffer, usize) {
        static NOTHING: ReplyBuffer = ReplyBuffer { bytes: Vec::new(), shared: Vec::new() };
        self.sessions.get(id).map_or((&NOTHING, 0), |session| session.replies.output())
    }

    /// Whether replies that belong behind the session's output are on their way from other shards. The runtime may hold a
    /// short output back for a moment, so that one send carries all.
    pub fn has_more_soon(&self, id: SessionId) -> bool {
        self.sessions.get(id).is_some_and(|session| session.replies.outstanding() > 0)
    }

    /// What to do with the session's socket.
    pub fn flow(&self, id: SessionId) -> Flow {
        let Some(session) = self.sessions.get(id) else { return Flow { read: false, close: Close::Now } };
        let answered = session.replies.outstanding() == 0;
        let nothing_left = session.eof && session.backlog.is_empty() && !session.stalled;
        let close = match () {
            _ if session.killed => Close::Now,
            _ if answered && (session.closing || nothing_left) => Close::Flush,
            _ => Close::No,
        };
        let room = session.backlog.len() < limits::BACKLOG_PAUSE_BYTES;
        Flow { read: room && !session.eof && !session.closing && session.choked_since.is_none(), close }
    }

    /// The turn's frame to another shard, if there is anything to say. Not asked for while that queue is full.
    pub fn poll_frame(&mut self, to: ShardId) -> Option<Frame> {
        self.links.take_frame(to)
    }

    /// Something for the whole process.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// The control thread asks for a stop: no more commands are read; existing replies are finished. Done when
    /// `is_drained`.
    pub fn begin_shutdown(&mut self) {
        self.stopping = true;
    }

    /// No replies are owed to anyone, and nothing to send remains.
    pub fn is_drained(&self) -> bool {
        let all_sent = || self.sessions.iter().all(|(_, session)| session.replies.unsent_bytes() == 0);
        self.links.outstanding() == 0
            && !self.links.have_frames()
            && self.incoming.is_empty()
            && self.waiters.is_empty()
            && self.held.is_empty()
            && self.is_saving_drained()
            && self.scans.is_empty()
            && self.fanouts.is_empty()
            && all_sent()
    }

    /// There is more to do without any new event: take another turn before parking.
    pub fn has_work(&self) -> bool {
        // While nothing is taken, what came waits for the budget, which has work then.
        !self.paused && !self.incoming.is_empty()
            || !self.waiters.is_empty()
            || !self.scans.is_empty()
            || self.timers.has_work()
            || self.core.budget.has_work()
            || self.saving_has_work()
            || self.recheck && !self.stalled.is_empty()
            || self.logs.changed
    }

    /// Requests sent to other shards that have no reply yet.
    pub fn outstanding(&self) -> usize {
        self.links.outstanding()
    }

    /// Bytes of this shard's client buffers (input, output, held replies), to be published to the others.
    pub fn buffers_bytes(&self) -> u64 {
        self.buffer_bytes + self.held.bytes()
    }

    /// When to take a turn even if nothing happens (timers: expiry, idle clients). None: no timer.
    pub fn next_wake(&self) -> Option<Millis> {
        let asked = self.core.config.timeout_s > 0 || self.buffers_need_timer();
        let asked = asked || self.budget_needs_timer();
        let needed = self.core.store.has_expiring() || self.store_needs_timer() || asked;
        let tick = needed.then(|| self.timers.next_tick());
        tick.into_iter().chain(self.next_look_at_logs()).chain(self.next_saving()).min()
    }

    /// Puts a session on the list of those that the runtime is to look at.
    #[inline]
    fn list(&mut self, id: SessionId) {
        if let Some(session) = self.sessions.get_mut(id) {
            list(&mut self.ready, id, session);
        }
    }
}

/// As [`Shard::list`], for a session in hand.
#[inline]
fn list(ready: &mut VecDeque<SessionId>, id: SessionId, session: &mut Session) {
    if !session.listed {
        session.listed = true;
        ready.push_back(id);
    }
}

fn request_limits(config: &Config, authenticated: bool) -> RequestLimits {
    RequestLimits {
        bulk_bytes_max: config.bulk_bytes_max,
        query_buffer_bytes_max: config.query_buffer_bytes_max,
        authenticated,
    }
}
