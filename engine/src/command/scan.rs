//! Going through a keyspace: SCAN and KEYS.
//!
//! A SCAN cursor is a shard and a position in that shard's table, below 2^63. A page comes from one shard; when that one
//! ends before the page is full, the client's shard asks the next one for the rest (`shard/fanout.rs`), so that a small
//! keyspace is one page whatever the number of shards. A cursor from before a restart means another place of another
//! table and does no harm.
//!
//! ```text
//! cursor   | 0 | shard | position (SCAN_POSITION_BITS) |
//! ```

use torc_protocol::args::Args;
use torc_protocol::resp::reply::{ReplyBuffer, ReplyWriter};

use super::parse::integer;
use super::{Call, Error, Handler, Merge, NO_KEYS, Outcome, Owner, Result, Route, Row, Wait, flag};
use crate::glob;
use crate::id::{Millis, ShardId};
use crate::limits;
use crate::store::{KeyspaceId, SCAN_POSITION_BITS, Store};

pub(super) const ROWS: &[Row] = &[
    Row {
        name: "scan",
        arity: -2,
        flags: flag::READONLY | flag::KEYSPACE,
        keys: NO_KEYS,
        route: Route::Cursor,
        handler: Handler::Shard(scan),
        group: "generic",
        summary: "Iterates over the key names in the database.",
        complexity: "O(1) for every call. O(N) for a complete iteration, where N is the number of keys",
        since: "2.8.0",
        subcommands: &[],
    },
    Row {
        name: "keys",
        arity: 2,
        flags: flag::READONLY | flag::KEYSPACE | flag::DANGEROUS | flag::LINEAR,
        keys: NO_KEYS,
        route: Route::All(Merge::Concat),
        handler: Handler::Shard(keys),
        group: "generic",
        summary: "Returns all key names that match a pattern.",
        complexity: "O(N) with N being the number of keys in the database",
        since: "1.0.0",
        subcommands: &[],
    },
];

/// The shard that a cursor leads to; `None` if it is no cursor, or one past the last shard.
pub(crate) fn cursor_shard(cursor: &[u8], shards: usize) -> std::result::Result<ShardId, Error> {
    let cursor = parse_cursor(cursor)?;
    let shard = cursor >> SCAN_POSITION_BITS;
    // A cursor that no shard gave goes to the last one, which ends the iteration.
    Ok(ShardId(shard.min(shards as u64 - 1) as u16))
}

/// How many keys a SCAN asks for; what is wrong with its arguments is told by the shard that executes it.
pub(crate) fn wanted_count(args: Args<'_>) -> usize {
    let at = (2..args.len()).step_by(2).rev().find(|&at| args.get(at).eq_ignore_ascii_case(b"count"));
    let count = at.filter(|at| at + 1 < args.len()).and_then(|at| integer(args.get(at + 1)).ok());
    count.map_or(DEFAULT_COUNT, |count| page_entries(count.max(1)))
}

const DEFAULT_COUNT: usize = 10;

fn page_entries(count: i64) -> usize {
    (count as usize).min(limits::SCAN_PAGE_ENTRIES_MAX)
}

fn parse_cursor(text: &[u8]) -> std::result::Result<u64, Error> {
    let text = std::str::from_utf8(text).map_err(|_| Error::InvalidCursor)?;
    // Nothing at all is 0, as it is to C.
    if text.is_empty() {
        return Ok(0);
    }
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits {
        return Err(Error::InvalidCursor);
    }
    text.parse().map_err(|_| Error::InvalidCursor)
}

fn scan(call: &Call<'_>, owner: &mut Owner<'_>, reply: &mut ReplyWriter<'_>) -> Result {
    let cursor = parse_cursor(call.args().get(1))?;
    let (mut pattern, mut count, mut type_matches) = (None, DEFAULT_COUNT as i64, true);
    let mut at = 2;
    while at < call.args().len() {
        let word = call.args().get(at);
        if at + 1 == call.args().len() {
            return Err(Error::Syntax);
        }
        let value = call.args().get(at + 1);
        if word.eq_ignore_ascii_case(b"match") {
            pattern = Some(value);
        } else if word.eq_ignore_ascii_case(b"count") {
            count = integer(value)?;
            if count < 1 {
                return Err(Error::Syntax);
            }
        } else if word.eq_ignore_ascii_case(b"type") {
            type_matches = value.eq_ignore_ascii_case(b"string");
        } else {
            return Err(Error::Syntax);
        }
        at += 2;
    }
    let everything = |pattern: &[u8]| pattern == b"*";
    let pattern = pattern.filter(|pattern| !everything(pattern));

    let mut found = ReplyBuffer::default();
    let mut found_count = 0;
    let known = cursor >> SCAN_POSITION_BITS == owner.id.0 as u64;
    let position = if known { cursor & ((1 << SCAN_POSITION_BITS) - 1) } else { 0 };
    let next = if cursor == 0 || known {
        owner.store.scan(call.db, position, page_entries(count), call.now, |entry| {
            if type_matches && pattern.is_none_or(|pattern| glob::matches(pattern, entry.key(), false)) {
                ReplyWriter::new(&mut found, reply.dialect()).bulk(entry.key());
                found_count += 1;
            }
        })
    } else {
        0
    };
    let next = match next {
        0 if known && owner.id.index() + 1 < owner.shards => (owner.id.0 as u64 + 1) << SCAN_POSITION_BITS,
        0 => 0,
        next => (owner.id.0 as u64) << SCAN_POSITION_BITS | next,
    };
    reply.array(2);
    reply.bulk_integer(next as i64);
    reply.array(found_count);
    reply.raw(&found.bytes);
    Ok(Outcome::Done)
}

fn keys(call: &Call<'_>, owner: &mut Owner<'_>, reply: &mut ReplyWriter<'_>) -> Result {
    let keyspace = owner.store.keyspace_id(call.db);
    let mut scan = KeysScan { pattern: call.args().get(1).to_vec(), keyspace, ..KeysScan::default() };
    if scan.step(owner.store, call.now) {
        return Ok(Outcome::Wait(Wait::Keys(Box::new(scan))));
    }
    scan.write(reply);
    Ok(Outcome::Done)
}

/// KEYS under way.
#[derive(Debug, Default)]
pub struct KeysScan {
    pattern: Vec<u8>,
    /// What it goes through, wherever SWAPDB puts it.
    keyspace: KeyspaceId,
    position: u64,
    found: ReplyBuffer,
    count: usize,
}

impl KeysScan {
    /// Looks at a slice of the keyspace. True if there is more; what was flushed has no more.
    pub(crate) fn step(&mut self, store: &Store, now: Millis) -> bool {
        let Some(db) = store.database_of(self.keyspace) else { return false };
        self.position = store.scan(db, self.position, limits::KEYS_SLICE_ENTRIES, now, |entry| {
            // `*` is no filter; as a pattern it would not match the empty key.
            if self.pattern == b"*" || glob::matches(&self.pattern, entry.key(), false) {
                ReplyWriter::new(&mut self.found, Default::default()).bulk(entry.key());
                self.count += 1;
            }
        });
        self.position != 0
    }

    /// Writes what was found.
    pub(crate) fn write(&self, reply: &mut ReplyWriter<'_>) {
        reply.array(self.count);
        reply.raw(&self.found.bytes);
    }
}
