//! The world: a process, its disks, its clients and the clock, which move one step at a time, all by one seed; and what may happen to
//! them.
//!
//! In a step the clock may move; frames that have arrived are handed over; clients' bytes arrive; disks finish what they were told; each
//! shard that is awake takes a turn, but only if something happened to it that would have woken the runtime; sessions that it lists
//! are served; clients read. A wake-up that a shard forgets to ask for is therefore noticed: the world stands still. Between any two
//! steps the process may be killed, or the machine lose its power; then another process starts with what the disks have.
//!
//! What must be true is asserted where it can be seen: replies of clients that own their keys in `client/`, histories of keys that are
//! shared in `crowd/`, what a start finds in `oracle.rs`, bounds in `process.rs`, the end in [`World::finish`].

use torc_engine::limits;
use torc_protocol::resp::decode::{Reply, decode};

use crate::client::{Client, Guest, SHARED_COUNTERS, shared_counter};
use crate::coverage::{Coverage, Event};
use crate::crowd::{History, Sharer, Surroundings, Survival};
use crate::options::Options;
use crate::oracle::Oracle;
use crate::process::{Ended, Outside, Process};
use crate::random::Random;
use crate::shards::{Connection, EPOCH, encode};
use crate::storage::{Crash, Folder, Weather};
use crate::trace::Trace;

/// What happened in a run. Two runs of one seed report the same.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    pub steps: u64,
    pub turns: u64,
    /// Frames between shards.
    pub frames: u64,
    /// Replies, each of them judged.
    pub replies: u64,
    pub reply_bytes: u64,
    /// A hash of all bytes that clients read, in order.
    pub reply_hash: u64,
    pub episodes: u64,
    pub disconnects: u64,
    pub half_closes: u64,
    /// Times that the process was killed, or the machine failed; and that it has served again after that.
    pub crashes: u64,
    pub recoveries: u64,
    /// Times that it has stopped in order, or its log has ended it.
    pub stops: u64,
    /// Commands about keys whose histories were judged, and keys of which there was too much.
    pub judged: u64,
    pub undecided: u64,
    pub virtual_ms: u64,
    pub coverage: Coverage,
}

impl Report {
    /// Notes bytes that a client has read.
    pub(crate) fn take(&mut self, bytes: &[u8]) {
        self.reply_bytes += bytes.len() as u64;
        for byte in bytes {
            self.reply_hash = (self.reply_hash ^ *byte as u64).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
}

/// What each shard may have leased when all keys are gone: two pieces that it does not use, and a little for buffers.
const LEASED_PIECES_AT_REST_MAX: u64 = 2;
const LEASED_AT_REST_MAX: u64 = 1 << 20;
/// Steps in which everything must come to rest after the last command.
const FINISH_STEPS_MAX: u64 = 300_000;
/// Steps without an answer after which a world stands still.
const QUIET_STEPS_MAX: u64 = 200_000;
/// Steps that a crash waits for the moment it was meant for.
const PATIENCE_STEPS: u64 = 1_500;
/// How often everything is recounted, in steps.
const AUDIT_STEPS: usize = 700;

/// The moment that a crash is meant for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Moment {
    Any,
    InSave,
    /// When so many steps of a switch are done.
    InSwitch(u32),
    InRecovery(u64),
    InOpening(u32),
    /// When a log has failed, or a disk is full.
    WhileRefusing,
}

/// A crash that is to come.
#[derive(Clone, Copy, Debug)]
struct Plan {
    moment: Moment,
    /// Not before so many replies, and after that not later than this step.
    replies: u64,
    latest: Option<u64>,
    is_stop: bool,
}

pub struct World {
    seed: u64,
    options: Options,
    random: Random,
    outside: Outside,
    process: Option<Process>,
    /// How many shards there are, and when the next process starts while there is none.
    shards: usize,
    starts_at: u64,
    clients: Vec<Client>,
    sharers: Vec<Sharer>,
    history: History,
    /// The next is the last.
    plans: Vec<Plan>,
    has_lost: bool,
    /// What the last start has found was judged.
    is_judged: bool,
    is_recovering: bool,
    /// Nothing fails any more: everything is to come to rest.
    is_calm: bool,
    report: Report,
}

impl World {
    pub fn new(seed: u64, options: Options) -> World {
        World::traced(seed, options, Trace::Off)
    }

    /// A world that tells its history.
    pub fn traced(seed: u64, options: Options, trace: Trace) -> World {
        assert!(options.clients <= 15, "each client has a database of its own");
        let mut random = Random::new(seed);
        let clients = (0..options.clients).map(|id| Client::new(id, &options, random.fork())).collect();
        let sharers = (0..options.sharers).map(|number| Sharer::new(number, &options, random.fork())).collect();
        let outside = Outside {
            folder: Folder::default(),
            weathers: Vec::new(),
            oracle: Oracle::default(),
            coverage: Coverage::default(),
            trace,
            random: random.fork(),
            step: 0,
            moment: 0,
            now: EPOCH,
            turns: 0,
        };
        World {
            seed,
            process: None,
            shards: options.shards,
            starts_at: 0,
            clients,
            sharers,
            history: History::new(&options),
            plans: Vec::new(),
            has_lost: false,
            is_judged: true,
            is_recovering: false,
            is_calm: false,
            report: Report::default(),
            outside,
            random,
            options,
        }
    }

    /// Lets clients act until so many commands are answered, then everything come to rest. Panics if anything is not as it must be.
    pub fn run(self, commands: u64) -> Report {
        self.run_traced(commands).0
    }

    /// As [`World::run`]; gives the history too.
    pub fn run_traced(mut self, commands: u64) -> (Report, Trace) {
        self.plan(commands);
        let mut last = (0, 0);
        while self.report.replies < commands {
            if self.process.as_ref().is_some_and(Process::is_serving) {
                self.think();
            }
            self.step();
            if self.report.replies > last.0 {
                last = (self.report.replies, self.outside.step);
            }
            let stuck = self.outside.step - last.1;
            assert!(stuck < QUIET_STEPS_MAX, "nothing is answered any more:\n{}", self.waits_for());
        }
        self.finish()
    }

    /// Chooses when the process is to end.
    fn plan(&mut self, commands: u64) {
        let random = &mut self.random;
        let mut plan = |is_stop: bool| {
            let moment = match random.below(8) {
                0 | 1 => Moment::InSave,
                2 => Moment::InSwitch(random.between(0, 10) as u32),
                3 => Moment::InSwitch(8),
                4 => Moment::WhileRefusing,
                _ => Moment::Any,
            };
            let moment = if is_stop { Moment::Any } else { moment };
            Plan { moment, replies: random.below(commands as usize) as u64, latest: None, is_stop }
        };
        for _ in 0..self.options.crashes {
            self.plans.push(plan(false));
        }
        for _ in 0..self.options.stops {
            self.plans.push(plan(true));
        }
        self.plans.sort_by_key(|plan| std::cmp::Reverse(plan.replies));
    }

    fn think(&mut self) {
        let Some(process) = &mut self.process else { return };
        for client in &mut self.clients {
            if self.random.one_in(4) {
                client.think(self.outside.step, &self.options, &mut process.shards, &mut self.report);
            }
        }
        let mut around = Surroundings {
            shards: &mut process.shards,
            history: &mut self.history,
            report: &mut self.report,
            coverage: &mut self.outside.coverage,
            trace: &mut self.outside.trace,
            step: self.outside.step,
            is_stopping: false,
        };
        for sharer in &mut self.sharers {
            if self.random.one_in(4) {
                sharer.think(&mut around);
            }
        }
    }

    fn step(&mut self) {
        self.outside.step += 1;
        self.outside.moment = self.history.moment();
        self.move_clock();
        let step = self.outside.step;
        self.outside.weathers.iter_mut().for_each(|weather| weather.step(step));
        if self.process.is_none() && step >= self.starts_at {
            self.start();
        }
        self.look_at_plans();
        let Some(process) = &mut self.process else { return };
        let owners = self.clients.iter_mut().map(|client| client as &mut dyn Guest);
        let mut guests: Vec<&mut dyn Guest> =
            owners.chain(self.sharers.iter_mut().map(|sharer| sharer as &mut dyn Guest)).collect();
        let ended = process.pass(&self.options, &mut guests, &mut self.outside);
        // DEBUG SLEEP moves it.
        self.outside.now = self.outside.now.max(process.shards.now());
        self.history.note_clock(self.outside.now);
        if !self.is_judged && process.found.is_some() {
            self.judge_start();
        }
        if let Some(ended) = ended {
            return self.end(ended);
        }
        let Some(process) = &mut self.process else { return };
        if process.is_loading() {
            return;
        }
        if std::mem::take(&mut self.is_recovering) {
            self.report.recoveries += 1;
        }
        for client in &mut self.clients {
            client.receive(step, &mut process.shards, &mut self.report);
        }
        let is_stopping = !process.is_serving();
        let mut around = Surroundings {
            shards: &mut process.shards,
            history: &mut self.history,
            report: &mut self.report,
            coverage: &mut self.outside.coverage,
            trace: &mut self.outside.trace,
            step,
            is_stopping,
        };
        self.sharers.iter_mut().for_each(|sharer| sharer.receive(&mut around));
        if self.random.one_in(AUDIT_STEPS) {
            process.audit();
        }
    }

    fn move_clock(&mut self) {
        let ms = match self.random.below(40) {
            0 => self.random.between(1, 150),
            1..=15 => 1,
            _ => 0,
        } as u64;
        self.outside.now.0 += ms;
        self.report.virtual_ms += ms;
        if self.options.clock_jumps && self.random.one_in(1_500) {
            let ms = [10, 1_000, 20_000][self.random.below(3)];
            let ms = self.random.between(1, ms) as u64;
            let is_back = self.random.one_in(2);
            let event = if is_back { Event::ClockWentBack } else { Event::ClockJumpedAhead };
            self.outside.coverage.note(event);
            self.outside.now.0 = if is_back { self.outside.now.0 - ms } else { self.outside.now.0 + ms };
            let (step, now) = (self.outside.step, self.outside.now);
            self.outside.trace.say(step, now, || format!("the clock jumped by {ms} ms, back: {is_back}"));
        }
        self.history.note_clock(self.outside.now);
    }

    fn start(&mut self) {
        if self.options.reshards && self.outside.step > 1 && self.random.one_in(2) {
            self.shards = self.random.between(1, 4);
        }
        let (random, faults) = (&mut self.random, self.options.faults);
        self.outside.weathers = (0..self.shards).map(|_| Weather::new(faults, random.fork())).collect();
        self.outside.weathers.iter_mut().for_each(|weather| weather.is_calm = self.is_calm);
        let shards = self.shards;
        let (step, now) = (self.outside.step, self.outside.now);
        self.outside.trace.say(step, now, || format!("a process starts, with {shards} shards"));
        self.is_judged = false;
        self.process = Some(Process::start(&self.options, shards, &mut self.outside));
        if self.options.crashes > 0 && !self.is_calm && self.random.one_in(4) {
            let moment = match self.random.one_in(2) {
                true => Moment::InRecovery(step + self.random.between(0, 12) as u64),
                false => Moment::InOpening(self.random.between(0, 10) as u32),
            };
            self.plans.push(Plan { moment, replies: 0, latest: Some(step + PATIENCE_STEPS), is_stop: false });
        }
    }

    /// Ends the process if it is time for that.
    fn look_at_plans(&mut self) {
        let Some(process) = &mut self.process else { return };
        let (step, replies) = (self.outside.step, self.report.replies);
        let is_serving = process.is_serving();
        let Some(plan) = self.plans.last_mut().filter(|plan| plan.replies <= replies) else { return };
        let is_late = step >= *plan.latest.get_or_insert(step + PATIENCE_STEPS);
        let (is_saving, switching) = process.saving();
        let is_now = match plan.moment {
            Moment::Any => is_serving,
            Moment::InSave => is_serving && is_saving && self.random.one_in(4),
            Moment::InSwitch(steps) => switching == Some(steps),
            Moment::InRecovery(at) => process.is_loading() && step >= at,
            Moment::InOpening(steps) => process.opening() == Some(steps),
            Moment::WhileRefusing => is_serving && process.is_refusing() && self.random.one_in(4),
        };
        // Who was to be killed in its start, and has come through it, lives.
        let is_missed = matches!(plan.moment, Moment::InRecovery(_) | Moment::InOpening(_)) && is_serving;
        let is_late = is_late && is_serving;
        if is_missed {
            self.plans.pop();
        } else if is_now || is_late {
            let is_stop = plan.is_stop;
            self.plans.pop();
            match is_stop {
                true => process.stop(step),
                false => self.kill(),
            }
        }
    }

    /// The process is killed, or the machine fails.
    fn kill(&mut self) {
        let Some(process) = self.process.take() else { return };
        let crash = match self.options.power_failures && self.random.one_in(2) {
            true => Crash::Power,
            false => Crash::Process,
        };
        let (is_saving, switching) = process.saving();
        let coverage = &mut self.outside.coverage;
        coverage.note_if(process.is_loading(), Event::KilledInRecovery);
        coverage.note_if(is_saving, Event::KilledInSave);
        let switching = switching.or(process.opening());
        coverage.note_if(switching.is_some_and(|steps| (1..=8).contains(&steps)), Event::KilledInSwitch);
        coverage.note_if(self.outside.folder.is_unsettled(), Event::KilledWhileUnsettled);
        self.report.crashes += 1;
        self.report.frames += process.queues.frames;
        drop(process);
        self.go_down(crash, &format!("{crash:?} crash"));
    }

    /// The process has ended by itself.
    fn end(&mut self, ended: Ended) {
        if let Some(process) = self.process.take() {
            self.report.frames += process.queues.frames;
        }
        self.outside.coverage.note_if(ended == Ended::Stopped, Event::StoppedInOrder);
        self.report.stops += 1;
        self.go_down(Crash::Process, &format!("the process has ended: {ended:?}"));
    }

    fn go_down(&mut self, crash: Crash, why: &str) {
        let (counts, names_lost) = self.outside.folder.crash(crash, &mut self.random);
        self.outside.coverage.note_if(names_lost > 0, Event::NamesLost);
        self.outside.oracle.note_crash(crash == Crash::Process);
        let (step, now) = (self.outside.step, self.outside.now);
        self.outside.trace.say(step, now, || format!("{why}; {counts:?}, {names_lost} names lost"));
        self.clients.iter_mut().for_each(Client::crash);
        self.sharers.iter_mut().for_each(Sharer::lose);
        self.has_lost = true;
        self.is_recovering = true;
        self.starts_at = self.outside.step + self.random.between(0, 300) as u64;
        // Time passes while it is away.
        let away_ms = [0, 200, 5_000][self.random.below(3)];
        self.outside.now.0 += away_ms;
        self.report.virtual_ms += away_ms;
    }

    /// What a start has found is known: the histories before it are judged.
    fn judge_start(&mut self) {
        let Some(found) = self.process.as_ref().and_then(|process| process.found.as_ref()) else { return };
        self.is_judged = true;
        let mut moments = found.survived.clone();
        if self.options.is_always_durable() {
            // Nothing is answered before it is durable, nor what was seen of it.
            moments.fill(u64::MAX);
        }
        let survival = Survival { content: &found.content, moments: &moments };
        let judged = self.history.judge(Some(survival), self.options.evicts());
        self.report.judged += judged.operations;
        self.report.undecided += judged.undecided;
    }

    /// Lets everything come to rest and looks at what is left.
    fn finish(mut self) -> (Report, Trace) {
        self.plans.clear();
        self.is_calm = true;
        self.outside.weathers.iter_mut().for_each(|weather| weather.is_calm = true);
        self.run_until("the process serves", |world| world.process.as_ref().is_some_and(Process::is_serving));
        self.run_until("all commands are answered", |world| {
            let now = world.outside.now;
            world.clients.iter_mut().for_each(|client| client.wind_down(now));
            world.sharers.iter_mut().for_each(Sharer::leave);
            world.is_quiet()
                && world.clients.iter().all(Client::is_resting)
                && world.sharers.iter().all(Sharer::is_gone)
        });
        self.run_until("all connections are closed", |world| {
            world.clients.iter_mut().for_each(Client::close_sending_side);
            world.clients.iter().all(|client| client.connection.is_none())
        });
        let judged = self.history.judge(None, self.options.evicts());
        self.report.judged += judged.operations;
        self.report.undecided += judged.undecided;
        self.count_increments();
        // What is not used any more goes back to the pool.
        self.ask(&["FLUSHALL"]);
        let until = self.outside.now.0 + 750;
        self.run_until("memory is given back", |world| world.outside.now.0 > until && world.is_quiet());
        let Some(process) = &mut self.process else { unreachable!("nothing ends it any more") };
        process.audit();
        let leased = process.shards.machine.leased;
        let piece = (self.options.maxmemory / limits::LEASE_PART).max(limits::LEASE_BYTES_MIN);
        let most = self.shards as u64 * LEASED_PIECES_AT_REST_MAX * piece + LEASED_AT_REST_MAX;
        assert!(leased <= most, "{leased} bytes are leased to shards without keys");
        self.report.steps = self.outside.step;
        self.report.turns = self.outside.turns;
        self.report.frames += process.queues.frames;
        self.report.coverage.add(&self.outside.coverage);
        self.report.coverage.add_many(Event::HistoryUndecided, self.report.undecided);
        (self.report.clone(), std::mem::take(&mut self.outside.trace))
    }

    /// Nothing is under way, and no buffers are held for clients that want nothing.
    fn is_quiet(&mut self) -> bool {
        let Some(process) = &mut self.process else { return false };
        let shards = &process.shards.shards;
        let is_drained = shards.iter().all(|shard| shard.is_drained() && shard.outstanding() == 0);
        let holds_nothing = shards.iter().all(|shard| shard.buffers_bytes() == 0);
        process.is_serving() && is_drained && holds_nothing && process.queues.is_empty() && process.is_at_rest()
    }

    /// For messages: what everybody waits for.
    fn waits_for(&mut self) -> String {
        let mut lines: Vec<String> = self.clients.iter().map(Client::waits_for).collect();
        lines.extend(self.sharers.iter().map(Sharer::waits_for));
        lines.extend(self.process.as_mut().map(Process::waits_for));
        lines.join("\n")
    }

    fn run_until(&mut self, what: &str, mut done: impl FnMut(&mut World) -> bool) {
        let last = self.outside.step + FINISH_STEPS_MAX;
        while !done(self) {
            self.step();
            assert!(self.outside.step < last, "it never came that {what}:\n{}", self.waits_for());
        }
    }

    /// Asks the first shard something, when everything is at rest.
    fn ask(&mut self, words: &[&str]) -> Reply {
        let connection: Connection = {
            let Some(process) = &mut self.process else { unreachable!("it serves") };
            let connection = process.shards.connect(0);
            process.feed(connection, &encode(words));
            connection
        };
        let mut bytes = Vec::new();
        let last = self.outside.step + FINISH_STEPS_MAX;
        loop {
            self.step();
            assert!(self.outside.step < last, "{words:?} is never answered");
            let Some(process) = &mut self.process else { unreachable!("nothing ends it any more") };
            bytes.extend_from_slice(&process.shards.read(connection, usize::MAX));
            if let Some((reply, _)) = decode(&bytes).expect("replies are well formed") {
                process.shards.disconnect(connection);
                return reply;
            }
        }
    }

    /// The counters that all clients incremented hold what was answered, or more where clients went away unanswered.
    fn count_increments(&mut self) {
        if self.clients.is_empty() {
            return;
        }
        for counter in 0..SHARED_COUNTERS {
            let reply = self.ask(&["INCRBY", &shared_counter(counter), "0"]);
            let Reply::Integer(value) = reply else { panic!("a counter is {reply:?}") };
            let sum = |of: fn(&Client) -> &[u64; SHARED_COUNTERS]| -> u64 {
                self.clients.iter().map(|client| of(client)[counter]).sum()
            };
            let (answered, sent) = (sum(|client| &client.increments_answered), sum(|client| &client.increments_sent));
            // What was answered may be lost, unless everything was durable before.
            let may_lose = self.has_lost && !self.options.is_always_durable();
            let least = if may_lose { 0 } else { answered };
            assert!((least..=sent).contains(&(value as u64)), "shared counter {counter}: {least} <= {value} <= {sent}");
            assert!(
                self.report.disconnects > 0 || self.has_lost || answered == sent,
                "nobody went away, so all were answered"
            );
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let seed = self.seed;
            eprintln!(
                "seed {seed} failed; again, with its history: cargo run -p torc-sim --profile sim -- --seed {seed}"
            );
        }
    }
}

const _: () = assert!(limits::DATABASES_MAX > 15);
