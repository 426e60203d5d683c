//! Looking at a key from outside: OBJECT.

use torc_protocol::resp::number::read_decimal;
use torc_protocol::resp::reply::ReplyWriter;

use super::client::write_help;
use super::{Call, Error, Handler, Home, Keys, NO_KEYS, Outcome, Result, Route, Row, flag};
use crate::store::{EntryRef, Key, Store, Usage};

/// One key, behind the subcommand.
pub(super) const KEY_BEHIND: Keys = Keys { first: 2, last: 2, step: 1 };
/// Longest string that Redis keeps in one piece with its object, which OBJECT ENCODING calls `embstr`.
const EMBEDDED_BYTES_MAX: usize = 44;
/// Integers that Redis shares between all keys, and the reference count that it shows for them.
const SHARED_INTEGERS: i64 = 10_000;
const SHARED_REFERENCES: i64 = i32::MAX as i64;

const NOT_LFU: &str = "ERR An LFU maxmemory policy is not selected, access frequency not tracked. Please note that \
when switching between policies at runtime LRU and LFU data will take some time to adjust.";
const LFU: &str = "ERR An LFU maxmemory policy is selected, idle time not tracked. Please note that when switching \
between policies at runtime LRU and LFU data will take some time to adjust.";

const fn row(name: &'static str, arity: i32, handler: Handler, since: &'static str) -> Row {
    let keyed = matches!(handler, Handler::Read(_));
    Row {
        name,
        arity,
        flags: if keyed { flag::READONLY | flag::KEYSPACE } else { flag::LOADING | flag::STALE },
        keys: if keyed { KEY_BEHIND } else { NO_KEYS },
        route: if keyed { Route::Key } else { Route::Home },
        handler,
        group: "generic",
        summary: "",
        complexity: "O(1)",
        since,
        subcommands: &[],
    }
}

pub(super) const ROWS: &[Row] = &[Row {
    summary: "A container for object introspection commands.",
    complexity: "Depends on subcommand.",
    route: Route::Container,
    subcommands: OBJECT,
    ..row("object", -2, Handler::None, "2.2.3")
}];

const OBJECT: &[Row] = &[
    Row {
        summary: "Returns the internal encoding of a Redis object.",
        ..row("object|encoding", 3, Handler::Read(encoding), "2.2.3")
    },
    Row {
        summary: "Returns the reference count of a value of a key.",
        ..row("object|refcount", 3, Handler::Read(refcount), "2.2.3")
    },
    Row {
        summary: "Returns the logarithmic access frequency counter of a key.",
        ..row("object|freq", 3, Handler::Read(freq), "4.0.0")
    },
    Row {
        summary: "Returns the time since the last access to a key.",
        ..row("object|idletime", 3, Handler::Read(idletime), "2.2.3")
    },
    Row {
        summary: "Returns helpful text about the different subcommands.",
        ..row("object|help", 2, Handler::Home(object_help), "6.2.0")
    },
];

/// The entry of a key that is named behind the subcommand.
pub(super) fn entry<'a>(call: &Call<'_>, store: &'a Store) -> Option<EntryRef<'a>> {
    store.look(key(call), call.now)
}

fn key<'a>(call: &'a Call<'_>) -> Key<'a> {
    Key { db: call.db, hash: call.hash, bytes: call.args().get(2) }
}

/// The names that Redis has for the ways in which it keeps a string: clients and tests ask for them.
pub(super) fn encoding_name(value: &[u8]) -> &'static str {
    match value.len() {
        _ if read_decimal(value).is_some() => "int",
        0..=EMBEDDED_BYTES_MAX => "embstr",
        _ => "raw",
    }
}

/// How many hold the value, as Redis would say.
pub(super) fn reference_count(value: &[u8]) -> i64 {
    match read_decimal(value) {
        Some(0..SHARED_INTEGERS) => SHARED_REFERENCES,
        _ => 1,
    }
}

fn encoding(call: &Call<'_>, store: &Store, reply: &mut ReplyWriter<'_>) -> Result {
    match entry(call, store) {
        None => reply.null(),
        Some(entry) => reply.bulk(encoding_name(entry.value().bytes()).as_bytes()),
    }
    Ok(Outcome::Done)
}

fn refcount(call: &Call<'_>, store: &Store, reply: &mut ReplyWriter<'_>) -> Result {
    match entry(call, store) {
        None => reply.null(),
        Some(entry) => reply.integer(reference_count(entry.value().bytes())),
    }
    Ok(Outcome::Done)
}

fn freq(call: &Call<'_>, store: &Store, reply: &mut ReplyWriter<'_>) -> Result {
    match store.usage(key(call), call.now) {
        None => reply.null(),
        Some(Usage::Frequency(counter)) => reply.integer(counter.into()),
        Some(_) => return Err(Error::Text(NOT_LFU)),
    }
    Ok(Outcome::Done)
}

/// Seconds. Under `allkeys-s3fifo` since the key came or was last kept for having been read.
fn idletime(call: &Call<'_>, store: &Store, reply: &mut ReplyWriter<'_>) -> Result {
    match store.usage(key(call), call.now) {
        None => reply.null(),
        Some(Usage::IdleMs(idle)) => reply.integer((idle / 1000) as i64),
        Some(_) => return Err(Error::Text(LFU)),
    }
    Ok(Outcome::Done)
}

fn object_help(home: &mut Home<'_>) -> Result {
    write_help(&mut home.writer(), "OBJECT", OBJECT);
    Ok(Outcome::Done)
}
