//! Looking at a key from outside: OBJECT and MEMORY.

use torc_protocol::resp::number::read_decimal;
use torc_protocol::resp::reply::ReplyWriter;

use super::client::write_help;
use super::{Call, Error, Handler, Home, Keys, NO_KEYS, Outcome, Result, Route, Row, flag, parse};
use crate::store::{EntryRef, Key, SLOT_BYTES, Store};

/// One key, behind the subcommand.
const KEY_BEHIND: Keys = Keys { first: 2, last: 2, step: 1 };
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

pub(super) const ROWS: &[Row] = &[
    Row {
        summary: "A container for object introspection commands.",
        complexity: "Depends on subcommand.",
        route: Route::Container,
        subcommands: OBJECT,
        ..row("object", -2, Handler::None, "2.2.3")
    },
    Row {
        summary: "A container for memory diagnostics commands.",
        complexity: "Depends on subcommand.",
        group: "server",
        route: Route::Container,
        subcommands: MEMORY,
        ..row("memory", -2, Handler::None, "4.0.0")
    },
];

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

const MEMORY: &[Row] = &[
    Row {
        summary: "Estimates the memory usage of a key.",
        complexity: "O(1): it is known exactly.",
        group: "server",
        ..row("memory|usage", -3, Handler::Read(usage), "4.0.0")
    },
    Row {
        summary: "Returns helpful text about the different subcommands.",
        group: "server",
        ..row("memory|help", 2, Handler::Home(memory_help), "4.0.0")
    },
];

fn entry<'a>(call: &Call<'_>, store: &'a Store) -> Option<EntryRef<'a>> {
    store.get(Key { db: call.db, hash: call.hash, bytes: call.args().get(2) }, call.now)
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

/// Bytes of the entry, its value included wherever that is, and of its slot in the table.
fn usage(call: &Call<'_>, store: &Store, reply: &mut ReplyWriter<'_>) -> Result {
    let args = call.args();
    match args.len() {
        3 => {}
        // How many elements of a collection are looked at; a string is one.
        5 if args.get(3).eq_ignore_ascii_case(b"samples") => {
            if parse::integer(args.get(4))? < 0 {
                return Err(Error::Syntax);
            }
        }
        _ => return Err(Error::Syntax),
    }
    match entry(call, store) {
        None => reply.null(),
        Some(entry) => reply.integer((entry.memory_bytes() + SLOT_BYTES) as i64),
    }
    Ok(Outcome::Done)
}

fn object_help(home: &mut Home<'_>) -> Result {
    write_help(&mut home.writer(), "OBJECT", OBJECT);
    Ok(Outcome::Done)
}

fn memory_help(home: &mut Home<'_>) -> Result {
    write_help(&mut home.writer(), "MEMORY", MEMORY);
    Ok(Outcome::Done)
}
