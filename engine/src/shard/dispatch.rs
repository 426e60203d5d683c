//! Start here: one parsed command, and where it goes.

use bytes::Bytes;
use torc_protocol::args::{Args, Span};
use torc_protocol::resp::reply::{ReplyBuffer, ReplyWriter};

use super::fanout::Fanout;
use super::gate::Refusal;
use super::links::Links;
use super::sessions::Sessions;
use super::turn::{Batch, Context, Operation, Origin, Source};
use super::waiters::Waiter;
use super::{Core, Shard, Writes};
use crate::command::{
    Command, Error, Handler, Home, Merge, Outcome, Route, Wait, cursor_shard, wanted_count, write_report,
};
use crate::id::{Millis, SessionId, ShardId};
use crate::log::Lsn;
use crate::message::{RequestHead, Target};
use crate::planted::{Bug, is_planted};
use crate::route::Route as KeyRoute;
use crate::stats::DatabaseCounters;
use crate::store::SnapshotProgress;

/// A command for one key: to the batch if the key is this shard's, to the frame of its owner if not.
#[inline(always)]
pub(super) fn send_to_owner(
    core: &Core,
    route: KeyRoute,
    links: &mut Links,
    args: Args<'_>,
    key: &[u8],
    mut operation: Operation,
    operations: &mut Vec<Operation>,
) {
    operation.hash = core.store.hash(key);
    let owner = route.owner(key);
    if owner == core.id {
        return operations.push(operation);
    }
    let Operation { command, db, dialect, hash, origin: Origin::Home(target), .. } = operation else {
        unreachable!("what is sent on is from here");
    };
    links.send(owner, RequestHead { hash, ..RequestHead::new(command, db, dialect, target) }, args);
}

impl Shard {
    /// Sends a command that has passed the gates, and is not for one key, where it is executed. Its spans are the
    /// batch's from `first_span` on; they index `bytes`, which is what `source` names.
    #[expect(clippy::too_many_arguments, reason = "what a command is made of, passed down once")]
    pub(super) fn dispatch(
        &mut self,
        context: &mut Context<'_>,
        batch: &mut Batch,
        id: SessionId,
        command: Command,
        source: Source,
        bytes: &[u8],
        first_span: usize,
    ) {
        let args = Args::new(bytes, &batch.spans[first_span..], &batch.shared);
        let Some(session) = self.sessions.get_mut(id) else { return };
        self.core.stats.counters.total_commands_processed += 1;
        match command.row().route {
            Route::Key => unreachable!("the parser's loop sends it to its owner"),
            Route::Home if batch.is_about_shard() => {
                // It may see what commands before it change: settings, and what is counted.
                let (spans, shared) = (batch.spans[first_span..].to_vec(), batch.shared.clone());
                self.execute(context, batch);
                self.run_home(context, id, command, Args::new(bytes, &spans, &shared));
            }
            Route::Home => self.run_home(context, id, command, args),
            Route::Keys(merge) => self.split_by_key(batch, id, command, merge, source, bytes, first_span),
            Route::All(merge) => self.send_to_all(batch, id, command, merge, source, bytes, first_span),
            Route::Ordered(_) => self.send_whole(batch, id, command, ShardId(0), source, bytes, first_span),
            Route::Cursor => match cursor_shard(args.get(1), self.core.shards) {
                Ok(owner) => {
                    let origin = Origin::Home(Target::Session { id, seq: session.replies.reserve() });
                    let mut fanout = Fanout::new(origin, session.client.dialect, Merge::Scan, 1);
                    fanout.words = args.iter_from(0).map(<[u8]>::to_vec).collect();
                    fanout.page.wanted = wanted_count(args);
                    fanout.page.db = session.client.db;
                    fanout.page.shard = owner;
                    self.send_scan(batch, command, fanout);
                }
                Err(error) => self.refuse_with(id, command, error, args),
            },
            Route::Container => unreachable!("the gates resolve subcommands"),
        }
    }

    #[cold]
    pub(super) fn refuse(&mut self, id: SessionId, refusal: Refusal) {
        match refusal {
            Refusal::Reply { text, command } => {
                if let Some(command) = command {
                    self.core.stats.commands[command.index()].rejected += 1;
                }
                self.reply_error(id, &text);
            }
            Refusal::CrossProtocol => {
                if let Some(session) = self.sessions.get_mut(id) {
                    session.closing = true;
                }
                self.list(id);
            }
        }
    }

    #[cold]
    fn refuse_with(&mut self, id: SessionId, command: Command, error: Error, args: Args<'_>) {
        let text = error.text(command.row().name, args);
        self.refuse(id, Refusal::Reply { text, command: Some(command) });
    }

    /// A command about the connection or the process, executed here and now.
    fn run_home(&mut self, context: &mut Context<'_>, id: SessionId, command: Command, args: Args<'_>) {
        let Handler::Home(handler) = command.row().handler else { unreachable!("a Home route has a Home handler") };
        let Some(session) = self.sessions.get_mut(id) else { return };
        let seq = session.replies.reserve();
        let (reply, mark) = session.replies.begin(seq, &mut self.pool);
        let result = handler(&mut Home {
            args,
            command,
            client: &mut session.client,
            reply,
            config: &self.core.config,
            machine: &mut *context.machine,
            events: &mut self.events,
            now: context.now,
        });
        let counters = &mut self.core.stats.commands[command.index()];
        counters.calls += 1;
        match result {
            Ok(Outcome::Done) => {}
            Ok(Outcome::Wait(wait)) => {
                session.replies.rewind(mark);
                let origin = Origin::Home(Target::Session { id, seq });
                return self.waiters.push(Waiter::new(origin, session.client.dialect, wait));
            }
            Err(error) => {
                counters.failed += 1;
                self.core.stats.counters.total_error_replies += 1;
                let text = error.text(command.row().name, args);
                ReplyWriter::new(session.replies.rewind(mark), session.client.dialect).error(&text);
            }
        }
        session.replies.end(mark);
        session.closing |= session.client.quit;
        self.list(id);
    }

    /// Sends a command to a shard: to the batch if it is this one, to that shard's frame if not. Its `span_count` spans are
    /// the batch's from `first_span` on.
    #[expect(clippy::too_many_arguments, reason = "what a command is made of, passed down once")]
    fn send(
        &mut self,
        batch: &mut Batch,
        to: ShardId,
        head: RequestHead,
        source: Source,
        bytes: &[u8],
        first_span: usize,
        span_count: usize,
    ) {
        if to != self.core.id {
            let spans = &batch.spans[first_span..first_span + span_count];
            return self.links.send(to, head, Args::new(bytes, spans, &batch.shared));
        }
        let RequestHead { command, db, dialect, hash, target, .. } = head;
        let (first_span, span_count) = (first_span as u32, span_count as u32);
        let origin = Origin::Home(target);
        batch.operations.push(Operation { command, db, dialect, source, first_span, span_count, hash, origin });
    }

    /// A command for one shard with all its arguments.
    #[expect(clippy::too_many_arguments, reason = "what a command is made of, passed down once")]
    fn send_whole(
        &mut self,
        batch: &mut Batch,
        id: SessionId,
        command: Command,
        owner: ShardId,
        source: Source,
        bytes: &[u8],
        first_span: usize,
    ) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        let target = Target::Session { id, seq: session.replies.reserve() };
        let head = RequestHead::new(command, session.client.db, session.client.dialect, target);
        let span_count = batch.spans.len() - first_span;
        self.send(batch, owner, head, source, bytes, first_span, span_count);
    }

    /// A command about every shard.
    #[expect(clippy::too_many_arguments, reason = "what a command is made of, passed down once")]
    fn send_to_all(
        &mut self,
        batch: &mut Batch,
        id: SessionId,
        command: Command,
        merge: Merge,
        source: Source,
        bytes: &[u8],
        first_span: usize,
    ) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        let origin = Origin::Home(Target::Session { id, seq: session.replies.reserve() });
        let (db, dialect) = (session.client.db, session.client.dialect);
        let span_count = batch.spans.len() - first_span;
        let mut fanout = Fanout::new(origin, dialect, merge, self.core.shards);
        if let Merge::Report(_) = merge {
            let args = Args::new(bytes, &batch.spans[first_span..], &batch.shared);
            fanout.words = args.iter_from(1).map(<[u8]>::to_vec).collect();
        }
        let (fanout, generation) = self.fanouts.insert(fanout);
        for shard in 0..self.core.shards {
            let target = Target::Part { fanout, generation, part: shard as u32 };
            let head = RequestHead::new(command, db, dialect, target);
            self.send(batch, ShardId(shard as u16), head, source, bytes, first_span, span_count);
        }
    }

    /// A command that shard 0 has executed first, with success: now all others do, in the order in which it did. The
    /// reply to `operation` is made of theirs, and of its own if that is still to come (`wait`), or has to be
    /// durable first (`own`).
    pub(super) fn pass_on_to_others(
        &mut self,
        operation: &Operation,
        args: Args<'_>,
        wait: Option<Wait>,
        own: Option<(Lsn, ReplyBuffer)>,
    ) {
        let Operation { command, db, dialect, origin, .. } = *operation;
        let Route::Ordered(merge) = command.row().route else { unreachable!("asked of ordered commands only") };
        let others = 1..self.core.shards;
        let parts = others.len() + (wait.is_some() || own.is_some()) as usize;
        let (fanout, generation) = self.fanouts.insert(Fanout::new(origin, dialect, merge, parts));
        for shard in others {
            let target = Target::Part { fanout, generation, part: shard as u32 - 1 };
            self.links.send(ShardId(shard as u16), RequestHead::new(command, db, dialect, target), args);
        }
        let part = Origin::Home(Target::Part { fanout, generation, part: parts as u32 - 1 });
        match (wait, own) {
            (Some(wait), _) => self.waiters.push(Waiter::new(part, dialect, wait)),
            (None, Some((lsn, reply))) => self.hold(lsn, part, reply),
            (None, None) => {}
        }
    }

    /// Asks the shard that a page of SCAN has come to.
    fn send_scan(&mut self, batch: &mut Batch, command: Command, fanout: Fanout) {
        let (db, dialect, owner) = (fanout.page.db, fanout.dialect, fanout.page.shard);
        // The arguments in one buffer, as if they had just been read.
        let mut spans = Vec::with_capacity(fanout.words.len());
        let mut buffer = Vec::new();
        for word in &fanout.words {
            spans.push(Span::range(buffer.len(), word.len()));
            buffer.extend_from_slice(word);
        }
        let (fanout, generation) = self.fanouts.insert(fanout);
        let head = RequestHead::new(command, db, dialect, Target::Part { fanout, generation, part: 0 });
        let (first_span, span_count) = (batch.spans.len(), spans.len());
        batch.spans.append(&mut spans);
        let buffer = Bytes::from(buffer);
        batch.owned.push(buffer.clone());
        let source = Source::Owned(batch.owned.len() as u32 - 1);
        self.send(batch, owner, head, source, &buffer, first_span, span_count);
    }

    /// Goes on with pages of SCAN that were not full when their shard's keys ended.
    pub(super) fn continue_scans(&mut self, batch: &mut Batch) {
        for fanout in std::mem::take(&mut self.scans) {
            let command = Command::lookup(&fanout.words[0]).expect("a SCAN was looked up before");
            self.send_scan(batch, command, fanout);
        }
    }

    /// A command about several keys: as it is, if one shard owns them all, otherwise split.
    #[expect(clippy::too_many_arguments, reason = "what a command is made of, passed down once")]
    fn split_by_key(
        &mut self,
        batch: &mut Batch,
        id: SessionId,
        command: Command,
        merge: Merge,
        source: Source,
        bytes: &[u8],
        first_span: usize,
    ) {
        let keys = command.row().keys;
        let args = Args::new(bytes, &batch.spans[first_span..], &batch.shared);
        let count = args.len();
        if !(count - keys.first).is_multiple_of(keys.step) {
            return self.refuse_with(id, command, Error::WrongArity, args);
        }
        batch.owners.clear();
        batch.owners.extend((keys.first..count).step_by(keys.step).map(|at| self.route.owner(args.get(at)).0));
        let first_owner = batch.owners[0];
        if batch.owners.iter().all(|&owner| owner == first_owner) {
            return self.send_whole(batch, id, command, ShardId(first_owner), source, bytes, first_span);
        }
        let Some(session) = self.sessions.get_mut(id) else { return };
        let origin = Origin::Home(Target::Session { id, seq: session.replies.reserve() });
        let (db, dialect) = (session.client.db, session.client.dialect);
        // Shards that take part, in the order in which they appear; a key's part is its owner's place among them.
        let mut participants: Vec<u16> = Vec::new();
        let mut order = Vec::with_capacity(batch.owners.len());
        let mut part_of = vec![u16::MAX; self.core.shards];
        for &owner in &batch.owners {
            let part = &mut part_of[owner as usize];
            if *part == u16::MAX {
                *part = participants.len() as u16;
                participants.push(owner);
            }
            order.push(*part);
        }
        let mut fanout = Fanout::new(origin, dialect, merge, participants.len());
        if is_planted(Bug::PartsMixedUp) {
            order.sort_unstable();
        }
        fanout.order = order;
        let (fanout, generation) = self.fanouts.insert(fanout);
        for (part, &owner) in participants.iter().enumerate() {
            let part_first = batch.spans.len();
            batch.spans.extend_from_within(first_span..first_span + keys.first);
            for (group, _) in batch.owners.iter().enumerate().filter(|&(_, &key_owner)| key_owner == owner) {
                let group_first = first_span + keys.first + group * keys.step;
                batch.spans.extend_from_within(group_first..group_first + keys.step);
            }
            let part_count = batch.spans.len() - part_first;
            let target = Target::Part { fanout, generation, part: part as u32 };
            let head = RequestHead::new(command, db, dialect, target);
            self.send(batch, ShardId(owner), head, source, bytes, part_first, part_count);
        }
    }

    /// A part of a split command is answered; after the last one the client is.
    pub(super) fn complete_part(
        &mut self,
        context: &mut Context<'_>,
        fanout: u32,
        generation: u32,
        part: u32,
        reply: ReplyBuffer,
    ) {
        let Some(mut fanout) = self.fanouts.complete(fanout, generation, part, reply) else { return };
        if fanout.next_scan(self.core.shards).is_some() {
            return self.scans.push(fanout);
        }
        let config = &self.core.config;
        let report = |kind, counters: &[&[u8]], words: &[Vec<u8>], reply: &mut ReplyWriter<'_>| {
            let facts = context.machine.facts();
            write_report(kind, counters, words, &facts, config, context.now, reply);
        };
        let random = self.core.random.next();
        // Straight to the client's output: the parts may be long.
        if let Origin::Home(Target::Session { id, seq }) = fanout.origin {
            let Some(session) = self.sessions.get_mut(id) else { return };
            let (buffer, mark) = session.replies.begin(seq, &mut self.pool);
            fanout.write(buffer, random, report);
            session.replies.end(mark);
            self.recheck |= session.stalled;
            return self.list(id);
        }
        let mut merged = ReplyBuffer::default();
        fanout.write(&mut merged, random, report);
        self.finish(context, fanout.origin, &mut merged);
    }

    /// Brings the counters that are not counted but looked up up to date.
    pub(super) fn refresh_gauges(&mut self, now: Millis) {
        let core = &mut self.core;
        let store = core.store.counters();
        let counters = &mut core.stats.counters;
        counters.expired_keys = store.expired;
        counters.changes = store.changes;
        counters.keyspace_hits = store.hits;
        counters.keyspace_misses = store.misses;
        counters.evicted_keys = store.evicted;
        counters.eviction_exceeded_now_ms = core.budget.exceeded_ms(now);
        let memory = core.store.memory();
        counters.slot_bytes = memory.slots as u64;
        counters.outside_bytes = memory.outside as u64;
        counters.table_bytes = memory.tables as u64;
        counters.slack_bytes = memory.slack as u64;
        counters.spare_buffer_bytes = (self.pool.held_bytes() + self.links.spare_bytes()) as u64;
        counters.leased_bytes = core.budget.lease();
        counters.client_buffer_bytes = self.buffer_bytes + self.held.bytes();
        counters.loaded_keys = self.loaded_keys;
        counters.load_expired_keys = core.store.dropped_due();
        counters.log_pending_bytes = core.store.log().pending_bytes() as u64;
        let is_well = matches!(core.writes, Writes::Allowed | Writes::Waiting);
        counters.log_refuses_writes = !is_well as u64;
        let garbage = core.store.garbage_counters();
        counters.lazyfree_pending_objects = garbage.pending_objects;
        counters.lazyfree_pending_bytes = garbage.pending_bytes;
        counters.lazyfreed_objects = garbage.freed_objects;
        counters.torc_forwarded_requests = self.links.forwarded;
        (counters.saved_keys, counters.keys_to_save) = match core.store.snapshot_progress() {
            SnapshotProgress::Saving { entries, of } => (entries, of),
            _ => (0, 0),
        };
        core.stats.databases.clear();
        core.stats.databases.extend((0..core.store.databases()).map(|db| DatabaseCounters {
            keys: core.store.len(db as u8) as u64,
            expiring: core.store.expiring(db as u8) as u64,
            table_bytes: core.store.table_bytes(db as u8) as u64,
        }));
    }
}

/// One line per client of this shard.
pub(super) fn client_list(sessions: &Sessions, now: Millis) -> Vec<u8> {
    let mut text = Vec::new();
    for (_, session) in sessions.iter() {
        text.extend_from_slice(session.client.describe(now, "NULL").as_bytes());
        text.push(b'\n');
    }
    text
}
