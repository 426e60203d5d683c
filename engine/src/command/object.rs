//! Looking at a key from outside: OBJECT.

use torc_protocol::resp::number::read_decimal;
use torc_protocol::resp::reply::ReplyWriter;

use super::client::write_help;
use super::{Call, Handler, Home, Keys, NO_KEYS, Outcome, Result, Route, Row, flag};
use crate::store::{EntryRef, Key, Store};

/// One key, behind the subcommand.
pub(super) const KEY_BEHIND: Keys = Keys { first: 2, last: 2, step: 1 };
/// Longest string that Redis keeps in one piece with its object, which OBJECT ENCODING calls `embstr`.
const EMBEDDED_BYTES_MAX: usize = 44;
/// Integers that Redis shares between all keys, and the reference count that it shows for them.
const SHARED_INTEGERS: i64 = 10_000;
const SHARED_REFERENCES: i64 = i32::MAX as i64;

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
        summary: "Returns helpful text about the different subcommands.",
        ..row("object|help", 2, Handler::Home(object_help), "6.2.0")
    },
];

/// The entry of a key that is named behind the subcommand.
pub(super) fn entry<'a>(call: &Call<'_>, store: &'a Store) -> Option<EntryRef<'a>> {
    store.look(Key { db: call.db, hash: call.hash, bytes: call.args().get(2) }, call.now)
}

/// The names that Redis has for the ways in which it keeps a string: clients and tests ask for them.
fn encoding(call: &Call<'_>, store: &Store, reply: &mut ReplyWriter<'_>) -> Result {
    match entry(call, store).map(|entry| entry.value().bytes()) {
        None => reply.null(),
        Some(value) if read_decimal(value).is_some() => reply.bulk(b"int"),
        Some(value) if value.len() <= EMBEDDED_BYTES_MAX => reply.bulk(b"embstr"),
        Some(_) => reply.bulk(b"raw"),
    }
    Ok(Outcome::Done)
}

fn refcount(call: &Call<'_>, store: &Store, reply: &mut ReplyWriter<'_>) -> Result {
    match entry(call, store).map(|entry| read_decimal(entry.value().bytes())) {
        None => reply.null(),
        Some(Some(0..SHARED_INTEGERS)) => reply.integer(SHARED_REFERENCES),
        Some(_) => reply.integer(1),
    }
    Ok(Outcome::Done)
}

fn object_help(home: &mut Home<'_>) -> Result {
    write_help(&mut home.writer(), "OBJECT", OBJECT);
    Ok(Outcome::Done)
}
