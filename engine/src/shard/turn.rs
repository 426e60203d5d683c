//! The turn: everything that arrived, in batches that hide the latency of memory.
//!
//! A batch is filled by parsing: the key of each command for this shard is hashed. When the batch is full, or nothing is
//! left to parse, the buckets of all its keys are asked for, then their entries, and then the commands are executed one
//! after another. By then most of what they touch has arrived.

use bytes::Bytes;
use torc_protocol::args::{Args, Span};
use torc_protocol::resp::reply::{Dialect, ReplyBuffer, ReplyWriter};
use torc_protocol::resp::request::{ProtocolError, Step};

use super::garbage::{discard_all, discard_frame};
use super::gate::{self, Refusal};
use super::waiters::Waiter;
use super::{Core, Input, Shard, Stage};
use crate::command::{Call, Command, Error, Handler, Outcome, Owner, Result as CommandResult, Route, flag};
use crate::id::{Millis, SessionId, ShardId};
use crate::limits;
use crate::machine::Machine;
use crate::message::{Cursor, Frame, Record, Target};
use crate::planted::{Bug, is_planted};

/// What a turn is given.
pub(super) struct Context<'a> {
    pub now: Millis,
    pub machine: &'a mut dyn Machine,
    pub arena: &'a [u8],
    pub inputs: &'a [Input],
}

/// Why the inner loop of parsing stopped.
enum Pause {
    /// The bytes are through, or nothing more is read from this session.
    Ended,
    BatchFull,
    /// A command that is not for one key.
    Other {
        command: Command,
        source: Source,
        first_span: usize,
    },
    Refused(Refusal),
    /// The next command has to wait.
    Stall,
    /// What was sent is not the protocol.
    Broken(ProtocolError),
}

/// The bytes that a command's spans index.
#[derive(Clone, Copy, Debug)]
pub(super) enum Source {
    /// The turn's input with this number.
    Input(u32),
    /// A buffer of the batch.
    Owned(u32),
    /// A frame of the batch.
    Frame(u32),
}

/// Where a command came from, which is where its reply goes.
#[derive(Clone, Copy, Debug)]
pub(super) enum Origin {
    /// This shard.
    Home(Target),
    /// Another shard, which has `cost` bytes of credit in it.
    Away { from: ShardId, target: Target, cost: u32 },
}

/// A command of the batch.
#[derive(Clone, Copy, Debug)]
pub(super) struct Operation {
    pub command: Command,
    pub db: u8,
    pub dialect: Dialect,
    pub source: Source,
    pub first_span: u32,
    pub span_count: u32,
    /// Hash of the one key; 0 if there is not exactly one.
    pub hash: u64,
    pub origin: Origin,
}

/// Commands parsed and not yet executed, with what their arguments lie in. Kept from turn to turn for its allocations.
#[derive(Default)]
pub(super) struct Batch {
    pub operations: Vec<Operation>,
    pub spans: Vec<Span>,
    pub shared: Vec<Bytes>,
    pub owned: Vec<Bytes>,
    pub frames: Vec<(ShardId, Frame)>,
    /// For commands that are not written straight to where their reply goes.
    pub scratch: ReplyBuffer,
    /// For splitting: the owner of each key.
    pub owners: Vec<u16>,
}

/// A request that was read and has to wait, with what its spans index.
#[derive(Debug)]
pub(crate) struct Postponed {
    buffer: Vec<u8>,
    /// As in a batch whose table of shared values is this one's.
    spans: Vec<Span>,
    pub shared: Vec<Bytes>,
}

impl Postponed {
    /// `spans` index `buffer` and the end of a table of shared values, which `shared` takes from there.
    fn new(buffer: &[u8], spans: &[Span], shared: std::vec::Drain<'_, Bytes>) -> Box<Postponed> {
        let shared: Vec<Bytes> = shared.collect();
        // Each shared value is an argument, in order.
        let mut next = 0..;
        let own = |span: &Span| span.shared_index().and_then(|_| next.next()).map_or(*span, Span::shared);
        Box::new(Postponed { buffer: buffer.to_vec(), spans: spans.iter().map(own).collect(), shared })
    }

    /// Puts the request into the batch as if it had just been read, and gives the buffer.
    fn resume(self, batch: &mut Batch) -> Vec<u8> {
        let first = batch.shared.len();
        let placed = |span: &Span| span.shared_index().map_or(*span, |index| Span::shared(first + index));
        batch.spans.extend(self.spans.iter().map(placed));
        batch.shared.extend(self.shared);
        self.buffer
    }

    /// Bytes of memory.
    pub fn held_bytes(&self) -> usize {
        let shared: usize = self.shared.iter().map(Bytes::len).sum();
        self.buffer.capacity() + self.spans.capacity() * size_of::<Span>() + shared
    }
}

impl Batch {
    /// Whether a command about the shard itself waits in it.
    pub fn is_about_shard(&self) -> bool {
        self.operations.iter().any(|operation| matches!(operation.command.row().handler, Handler::Shard(_)))
    }
}

impl Shard {
    /// Executes: what arrived for sessions, the frames, resumed sessions and due background slices.
    /// `buffers_others`: bytes of client buffers of all other shards together, as they last published them.
    pub fn turn(
        &mut self,
        now: Millis,
        machine: &mut dyn Machine,
        buffers_others: u64,
        arena: &[u8],
        inputs: &[Input],
    ) {
        let mut context = Context { now, machine, arena, inputs };
        let mut batch = std::mem::take(&mut self.batch);
        self.buffer_bytes_others = buffers_others;
        let idle = inputs.is_empty() && self.incoming.is_empty();
        self.core.stats.counters.torc_turns += !idle as u64;
        let executed = self.core.executed;

        self.look_at_logs(&mut *context.machine);
        self.release_durable(&mut context);
        if !self.paused {
            self.read_frames(&mut context, &mut batch);
        }
        self.continue_scans(&mut batch);
        self.resume_stalled(&mut context, &mut batch);
        for (index, input) in inputs.iter().enumerate() {
            self.read_input(&mut context, &mut batch, index, *input);
        }
        self.execute(&mut context, &mut batch);
        self.step_waiters(&mut context, &mut batch);
        if self.stage != Stage::Redoing && self.core.may_expire() {
            self.core.store.reap(now);
        }
        let tick = self.run_timers(now);
        self.enforce_buffer_limits(now);
        self.run_budget(now, &mut *context.machine, tick);
        let is_busy = !idle || self.core.executed != executed;
        self.run_saving(&mut context, &mut batch, is_busy, tick);
        let paused = self.core.budget.owes_too_much();
        self.recheck |= self.paused && !paused;
        self.paused = paused;
        self.note_own_log(&mut *context.machine);

        batch.owned.clear();
        for (_, mut frame) in batch.frames.drain(..) {
            discard_frame(&mut self.core.store, &mut frame);
            self.links.recycle(frame);
        }
        self.batch = batch;
    }

    /// Takes in what other shards sent: replies go to their places, requests join the batch.
    fn read_frames(&mut self, context: &mut Context<'_>, batch: &mut Batch) {
        // Taken out while frames are read, and put back for its allocation.
        let mut incoming = std::mem::take(&mut self.incoming);
        let mut batch_commands = self.batch_commands();
        for (from, frame) in incoming.drain(..) {
            let index = batch.frames.len() as u32;
            batch.frames.push((from, frame));
            let mut cursor = Cursor::default();
            loop {
                let first_span = batch.spans.len();
                let frame = &batch.frames[index as usize].1;
                let Some(record) = frame.next(&mut cursor, &mut batch.spans, &mut batch.shared) else { break };
                match record {
                    Record::Request(head) => {
                        batch.operations.push(Operation {
                            command: head.command,
                            db: head.db,
                            dialect: head.dialect,
                            source: Source::Frame(index),
                            first_span: first_span as u32,
                            span_count: (batch.spans.len() - first_span) as u32,
                            hash: head.hash,
                            origin: Origin::Away { from, target: head.target, cost: head.cost },
                        });
                        if batch.operations.len() >= batch_commands {
                            self.execute(context, batch);
                            batch_commands = self.batch_commands();
                        }
                    }
                    Record::Reply { target, cost, start, end, shared_start, shared_end } => {
                        self.recheck |= self.links.replied(from, cost) && !is_planted(Bug::WakeLost);
                        let bytes = &frame.body.bytes[start..end];
                        let shared = &frame.body.shared[shared_start..shared_end];
                        match target {
                            Target::Session { id, seq } => {
                                if let Some(session) = self.sessions.get_mut(id) {
                                    session.replies.deliver(seq, bytes, shared, start, &mut self.pool);
                                    self.recheck |= session.stalled;
                                    self.list(id);
                                }
                            }
                            Target::Part { fanout, generation, part } => {
                                let shared = shared.iter().map(|(at, value)| (at - start, value.clone())).collect();
                                let reply = ReplyBuffer { bytes: bytes.to_vec(), shared };
                                self.complete_part(context, fanout, generation, part, reply);
                            }
                        }
                    }
                }
            }
        }
        self.incoming = incoming;
    }

    /// Parses what sessions sent whose commands had to wait and need not any more.
    fn resume_stalled(&mut self, context: &mut Context<'_>, batch: &mut Batch) {
        if !std::mem::take(&mut self.recheck) || self.stalled.is_empty() {
            return;
        }
        // Each is looked at once; who has to go on waiting goes to the end.
        for _ in 0..self.stalled.len() {
            let Some(id) = self.stalled.pop_front() else { break };
            if !self.may_resume(id) {
                if self.sessions.get(id).is_some() {
                    self.stalled.push_back(id);
                }
                continue;
            }
            let Some(session) = self.sessions.get_mut(id) else { continue };
            (session.stalled, session.alone, session.awaited_log) = (false, false, None);
            let bytes = Bytes::from(std::mem::take(&mut session.backlog));
            batch.owned.push(bytes.clone());
            let source = Source::Owned(batch.owned.len() as u32 - 1);
            self.parse(context, batch, id, source, &bytes);
            self.list(id);
        }
    }

    fn read_input(&mut self, context: &mut Context<'_>, batch: &mut Batch, index: usize, input: Input) {
        let bytes = &context.arena[input.start as usize..][..input.len as usize];
        let Some(session) = self.sessions.get_mut(input.session) else { return };
        session.client.last_active = context.now;
        self.core.stats.counters.total_net_input_bytes += bytes.len() as u64;
        if session.stalled {
            session.backlog.extend_from_slice(bytes);
            self.list(input.session);
            return;
        }
        self.parse(context, batch, input.session, Source::Input(index as u32), bytes);
    }

    /// Parses and dispatches a session's requests until its bytes end or it has to wait.
    fn parse(&mut self, context: &mut Context<'_>, batch: &mut Batch, id: SessionId, source: Source, bytes: &[u8]) {
        let mut position = 0;
        loop {
            match self.parse_for_owners(batch, id, source, bytes, &mut position) {
                Pause::Ended => return,
                Pause::BatchFull => self.execute(context, batch),
                Pause::Other { command, source, first_span } => {
                    let Some(session) = self.sessions.get_mut(id) else { return };
                    let args = batch.spans.len() - first_span;
                    let before = if session.replies.outstanding() == 0 { 0 } else { session.args_outstanding };
                    session.args_outstanding = before + args;
                    let many = session.args_outstanding >= limits::ALONE_ARGS_MIN;
                    match source {
                        Source::Owned(index) => {
                            let carried = batch.owned[index as usize].clone();
                            self.dispatch(context, batch, id, command, source, &carried, first_span);
                        }
                        _ => self.dispatch(context, batch, id, command, source, bytes, first_span),
                    }
                    // These go from shard to shard, and what comes after them must not overtake them.
                    let wanders = matches!(command.row().route, Route::Cursor | Route::Ordered(_));
                    if many || wanders || command.gate().flags & flag::LINEAR != 0 {
                        let Some(session) = self.sessions.get_mut(id) else { return };
                        session.alone = true;
                        // If it was refused, no reply will come that says that the session may go on.
                        self.recheck |= session.replies.outstanding() == 0;
                        return self.stall(id, &bytes[position..]);
                    }
                }
                Pause::Refused(refusal) => self.refuse(id, refusal),
                Pause::Stall => {
                    self.recheck |= batch.operations.is_empty();
                    return self.stall(id, &bytes[position..]);
                }
                Pause::Broken(error) => {
                    if let Some(text) = error.reply_text() {
                        self.reply_error(id, &text);
                    }
                    if let Some(session) = self.sessions.get_mut(id) {
                        session.closing = true;
                    }
                    return self.list(id);
                }
            }
        }
    }

    /// How many commands a batch has.
    #[inline]
    fn batch_commands(&self) -> usize {
        match self.core.store.snapshot_pending_bytes() >= limits::SNAPSHOT_PENDING_BYTES_MAX / 2 {
            true => limits::SNAPSHOT_PRESSING_COMMANDS,
            false => limits::BATCH_COMMANDS,
        }
    }

    /// Keeps what a session sent until its next command may be read.
    fn stall(&mut self, id: SessionId, rest: &[u8]) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        session.stalled = true;
        session.backlog.extend_from_slice(rest);
        self.stalled.push_back(id);
        self.list(id);
    }

    /// The inner loop: parses requests and sends those for one key on their way, until something else is to be done. One
    /// look at the session for all of them.
    fn parse_for_owners(
        &mut self,
        batch: &mut Batch,
        id: SessionId,
        source: Source,
        bytes: &[u8],
        position: &mut usize,
    ) -> Pause {
        let batch_commands = self.batch_commands();
        let Some(session) = self.sessions.get_mut(id) else { return Pause::Ended };
        let waits = self.waiters.len() >= limits::WAITERS_MAX || self.paused;
        if session.closing || self.stopping || waits {
            return if session.closing || self.stopping { Pause::Ended } else { Pause::Stall };
        }
        let limits = super::request_limits(&self.core.config, session.client.authenticated);
        let required = gate::required_flags(&session.client, self.stage != Stage::Serving);
        let mut postponed = session.postponed.take();
        loop {
            if !session.may_read() || !self.links.have_credit() {
                session.postponed = postponed;
                return Pause::Stall;
            }
            if batch.operations.len() >= batch_commands {
                session.postponed = postponed;
                return Pause::BatchFull;
            }
            let (first_span, first_shared, began) = (batch.spans.len(), batch.shared.len(), *position);
            let carried;
            let step = match postponed.take() {
                Some(postponed) => Ok(Step::Carried(postponed.resume(batch))),
                None => session.parser.parse(bytes, position, &mut batch.spans, &mut batch.shared, &limits),
            };
            let is_in_place = matches!(step, Ok(Step::InPlace));
            let (source, bytes) = match step {
                Ok(Step::InPlace) => (source, bytes),
                Ok(Step::Carried(buffer)) => {
                    carried = Bytes::from(buffer);
                    batch.owned.push(carried.clone());
                    // What it brings is not the client's buffer any more, or it would be counted twice.
                    let bytes = session.buffer_bytes();
                    self.buffer_bytes = self.buffer_bytes + bytes as u64 - session.accounted_bytes as u64;
                    session.accounted_bytes = bytes;
                    self.core.budget.set_buffers(self.buffer_bytes);
                    (Source::Owned(batch.owned.len() as u32 - 1), &carried[..])
                }
                Ok(Step::NeedMore) => {
                    if session.parser.is_mid_request() {
                        super::list(&mut self.ready, id, session);
                    }
                    return Pause::Ended;
                }
                Err(error) => return Pause::Broken(error),
            };
            let args = Args::new(bytes, &batch.spans[first_span..], &batch.shared);
            let command = match gate::pass_home(args, &session.client, &self.core.config, required) {
                Ok(command) => command,
                Err(refusal) => return Pause::Refused(refusal),
            };
            let single_key = command.gate().single_key as usize;
            let key = || (single_key != 0).then(|| args.get(single_key));
            if let Some(log) = self.logs.awaited_by(&mut self.core, self.route, command, key) {
                session.awaited_log = Some(log);
                if is_in_place {
                    // It is read again.
                    *position = began;
                } else {
                    session.postponed =
                        Some(Postponed::new(bytes, &batch.spans[first_span..], batch.shared.drain(first_shared..)));
                }
                batch.spans.truncate(first_span);
                batch.shared.truncate(first_shared);
                return Pause::Stall;
            }
            if single_key == 0 {
                return Pause::Other { command, source, first_span };
            }
            self.core.stats.counters.total_commands_processed += 1;
            let operation = Operation {
                command,
                db: session.client.db,
                dialect: session.client.dialect,
                source,
                first_span: first_span as u32,
                span_count: args.len() as u32,
                hash: 0,
                origin: Origin::Home(Target::Session { id, seq: session.replies.reserve() }),
            };
            let key = args.get(single_key);
            let (links, operations) = (&mut self.links, &mut batch.operations);
            super::dispatch::send_to_owner(&self.core, self.route, links, args, key, operation, operations);
        }
    }

    /// Writes an error as the reply to the next command of a session.
    pub(super) fn reply_error(&mut self, id: SessionId, text: &[u8]) {
        self.core.stats.counters.total_error_replies += 1;
        let Some(session) = self.sessions.get_mut(id) else { return };
        let seq = session.replies.reserve();
        let (buffer, mark) = session.replies.begin(seq, &mut self.pool);
        ReplyWriter::new(buffer, session.client.dialect).error(text);
        session.replies.end(mark);
        self.list(id);
    }

    /// Executes the batch.
    pub(super) fn execute(&mut self, context: &mut Context<'_>, batch: &mut Batch) {
        let mut operations = std::mem::take(&mut batch.operations);
        // Asking in tight loops of its own lets the processor translate several addresses at a time.
        for operation in operations.iter().filter(|operation| operation.hash != 0) {
            self.core.store.prefetch_bucket(operation.db, operation.hash);
        }
        for operation in operations.iter().filter(|operation| operation.hash != 0) {
            self.core.store.prefetch_entry(operation.db, operation.hash);
        }
        for operation in &operations {
            self.execute_one(context, batch, operation);
        }
        operations.clear();
        batch.operations = operations;
        batch.spans.clear();
        if !batch.shared.is_empty() {
            discard_all(&mut self.core.store, batch.shared.drain(..));
        }
    }

    fn execute_one(&mut self, context: &mut Context<'_>, batch: &mut Batch, operation: &Operation) {
        let buffer: &[u8] = match operation.source {
            Source::Input(index) => {
                let input = context.inputs[index as usize];
                &context.arena[input.start as usize..][..input.len as usize]
            }
            Source::Owned(index) => &batch.owned[index as usize],
            Source::Frame(index) => &batch.frames[index as usize].1.body.bytes,
        };
        let first = operation.first_span as usize;
        let spans = &batch.spans[first..first + operation.span_count as usize];
        let call = Call {
            buffer,
            spans,
            shared: &batch.shared,
            command: operation.command,
            db: operation.db,
            hash: operation.hash,
            now: context.now,
            bulk_bytes_max: self.core.config.bulk_bytes_max,
        };
        let dialect = operation.dialect;
        let before = self.core.changed_before();
        let direct = !matches!(operation.command.row().handler, Handler::Shard(_));
        match operation.origin {
            Origin::Home(Target::Session { id, seq }) if direct => {
                if let Some(session) = self.sessions.get_mut(id) {
                    let (reply, mark) = session.replies.begin(seq, &mut self.pool);
                    match self.core.run(&call, context.machine, ReplyWriter::new(reply, dialect)) {
                        Ok(Outcome::Done) => {}
                        Ok(Outcome::Wait(wait)) => {
                            session.replies.rewind(mark);
                            return self.waiters.push(Waiter::new(operation.origin, dialect, wait));
                        }
                        Err(error) => {
                            let text = error.text(operation.command.row().name, call.args());
                            ReplyWriter::new(session.replies.rewind(mark), dialect).error(&text);
                        }
                    }
                    if let Some(lsn) = self.core.awaited(&call, before) {
                        let reply = session.replies.take(mark);
                        return self.hold(lsn, operation.origin, reply);
                    }
                    session.replies.end(mark);
                    self.recheck |= session.stalled;
                    return super::list(&mut self.ready, id, session);
                }
            }
            Origin::Away { from, target, cost } if direct => {
                let frame = self.links.frame(from);
                let mark = frame.begin_reply(target, cost);
                match self.core.run(&call, context.machine, ReplyWriter::new(&mut frame.body, dialect)) {
                    Ok(Outcome::Done) => {}
                    Ok(Outcome::Wait(wait)) => {
                        frame.cancel_reply(mark);
                        return self.waiters.push(Waiter::new(operation.origin, dialect, wait));
                    }
                    Err(error) => {
                        frame.rewind_reply(mark);
                        let text = error.text(operation.command.row().name, call.args());
                        ReplyWriter::new(&mut frame.body, dialect).error(&text);
                    }
                }
                if let Some(lsn) = self.core.awaited(&call, before) {
                    let reply = frame.take_reply(mark);
                    return self.hold(lsn, operation.origin, reply);
                }
                return frame.end_reply(mark);
            }
            _ => {}
        }
        // What is left: commands about the shard itself, parts of split commands, and sessions that are gone.
        let mut scratch = std::mem::take(&mut batch.scratch);
        let is_ordered = matches!(operation.command.row().route, Route::Ordered(_));
        let is_first = self.core.id == ShardId(0);
        let is_other_closed = is_first && is_ordered && self.logs.is_other_closed(self.core.id);
        // What shard 0 has done all do, or their databases would differ: a record of it waits for room like others.
        let is_passed_on = !is_first && is_ordered && matches!(operation.origin, Origin::Away { from: ShardId(0), .. });
        let result = match operation.command.row().handler {
            Handler::Shard(handler) => {
                self.refresh_gauges(call.now);
                let sessions = &self.sessions;
                let clients = || super::dispatch::client_list(sessions, call.now);
                let core = &mut self.core;
                core.count(&call, context.machine, |core| {
                    if is_other_closed && call.command.gate().flags & flag::WRITE != 0 {
                        return Err(Error::OtherLog);
                    }
                    if core.are_writes_refused() && !(is_passed_on && core.store.log().is_on()) {
                        core.pass_log(&call)?;
                    }
                    let mut owner = Owner {
                        id: core.id,
                        shards: core.shards,
                        store: &mut core.store,
                        config: &mut core.config,
                        stats: &mut core.stats,
                        random: &mut || core.random.next(),
                        compact: &mut self.timers.compacting,
                        clients: &clients,
                    };
                    handler(&call, &mut owner, &mut ReplyWriter::new(&mut scratch, dialect))
                })
                .inspect(|_| {
                    self.config_changed();
                    self.core.look_at_saves = true;
                })
            }
            _ => self.core.run(&call, context.machine, ReplyWriter::new(&mut scratch, dialect)),
        };
        let wait = match result {
            Ok(Outcome::Done) => None,
            Ok(Outcome::Wait(wait)) => Some(wait),
            Err(error) => {
                scratch.clear();
                let text = error.text(operation.command.row().name, call.args());
                ReplyWriter::new(&mut scratch, dialect).error(&text);
                None
            }
        };
        let failed = scratch.bytes.first() == Some(&b'-');
        if is_first && self.core.shards > 1 && !failed && is_ordered {
            // What this shard did counts for the answer when it is durable.
            let own = self.core.awaited(&call, before).map(|lsn| (lsn, std::mem::take(&mut scratch)));
            self.pass_on_to_others(operation, call.args(), wait, own);
        } else if let Some(wait) = wait {
            self.waiters.push(Waiter::new(operation.origin, dialect, wait));
        } else if let Some(lsn) = self.core.awaited(&call, before) {
            self.hold(lsn, operation.origin, std::mem::take(&mut scratch));
        } else {
            self.finish(context, operation.origin, &mut scratch);
        }
        scratch.clear();
        batch.scratch = scratch;
    }

    /// Sends a whole reply to where its command came from, and leaves the buffer empty.
    pub(super) fn finish(&mut self, context: &mut Context<'_>, origin: Origin, reply: &mut ReplyBuffer) {
        match origin {
            Origin::Home(Target::Session { id, seq }) => {
                if let Some(session) = self.sessions.get_mut(id) {
                    session.replies.deliver(seq, &reply.bytes, &reply.shared, 0, &mut self.pool);
                    self.recheck |= session.stalled;
                    self.list(id);
                }
            }
            Origin::Home(Target::Part { fanout, generation, part }) => {
                self.complete_part(context, fanout, generation, part, std::mem::take(reply));
            }
            Origin::Away { from, target, cost } => {
                let frame = self.links.frame(from);
                let too_long = frame.body.bytes.len() + reply.bytes.len() > limits::FRAME_BYTES_MAX;
                let mark = frame.begin_reply(target, cost);
                match too_long {
                    true => ReplyWriter::new(&mut frame.body, Dialect::Resp2)
                        .error(b"ERR too many bytes of replies under way between two shards"),
                    false => frame.body.append(reply),
                }
                frame.end_reply(mark);
            }
        }
    }
}

impl Core {
    /// Runs a command on keys.
    #[inline(always)]
    fn run(&mut self, call: &Call<'_>, machine: &mut dyn Machine, mut reply: ReplyWriter<'_>) -> CommandResult {
        if self.are_writes_refused() {
            self.pass_log(call)?;
        }
        self.admit(call, machine)?;
        self.count(call, machine, |core| match call.command.row().handler {
            Handler::Read(handler) => handler(call, &core.store, &mut reply),
            Handler::Write(handler) => handler(call, &mut core.store, &mut reply),
            Handler::Home(_) | Handler::Shard(_) | Handler::None => unreachable!("routed elsewhere"),
        })
    }

    /// Counts a command, and times one in 64 and all that are O(N).
    #[inline(always)]
    fn count(
        &mut self,
        call: &Call<'_>,
        machine: &mut dyn Machine,
        run: impl FnOnce(&mut Core) -> CommandResult,
    ) -> CommandResult {
        self.executed += 1;
        let linear = call.command.row().flags & flag::LINEAR != 0;
        if !self.executed.is_multiple_of(64) && !linear {
            let result = run(self);
            let counters = &mut self.stats.commands[call.command.index()];
            counters.calls += 1;
            if result.is_err() {
                counters.failed += 1;
                self.stats.counters.total_error_replies += 1;
            }
            return result;
        }
        let start = machine.ticks();
        let result = run(self);
        let duration = machine.ticks() - start;
        let counters = &mut self.stats.commands[call.command.index()];
        counters.calls += 1;
        counters.timed += 1;
        counters.timed_ns += duration;
        counters.failed += result.is_err() as u64;
        self.stats.counters.total_error_replies += result.is_err() as u64;
        self.stats.counters.torc_linear_commands += linear as u64;
        result
    }
}
