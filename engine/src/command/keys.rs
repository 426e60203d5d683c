//! Keys whatever they hold: DEL, EXISTS, TYPE, DBSIZE, FLUSHALL and their relatives.

use std::ops::Range;

use torc_protocol::resp::reply::ReplyWriter;

use super::{
    ALL_KEYS, Call, Error, Handler, Merge, NO_KEYS, ONE_KEY, Outcome, Owner, Result, Route, Row, Wait, flag, parse,
};
use crate::store::{Key, Store};

/// A row about any number of keys, whose reply is a count.
const fn count_row(name: &'static str, flags: u32, handler: Handler, since: &'static str) -> Row {
    Row {
        name,
        arity: -2,
        flags: flags | flag::KEYSPACE,
        keys: ALL_KEYS,
        route: Route::Keys(Merge::Sum),
        handler,
        group: "generic",
        summary: "",
        complexity: "O(N) where N is the number of keys",
        since,
        subcommands: &[],
    }
}

/// A row about a whole database.
const fn database_row(name: &'static str, arity: i32, flags: u32, merge: Merge, handler: Handler) -> Row {
    Row {
        name,
        arity,
        flags: flags | flag::KEYSPACE,
        keys: NO_KEYS,
        route: Route::All(merge),
        handler,
        group: "server",
        summary: "",
        complexity: "O(1)",
        since: "1.0.0",
        subcommands: &[],
    }
}

/// A row that changes what a database's number means: on all shards in one order.
const fn whole_database_row(name: &'static str, arity: i32, handler: Handler) -> Row {
    Row {
        route: Route::Ordered(Merge::Ok),
        ..database_row(name, arity, flag::WRITE | flag::DANGEROUS, Merge::Ok, handler)
    }
}

pub(super) const ROWS: &[Row] = &[
    Row { summary: "Deletes one or more keys.", ..count_row("del", flag::WRITE, Handler::Write(del), "1.0.0") },
    Row {
        summary: "Asynchronously deletes one or more keys.",
        ..count_row("unlink", flag::WRITE | flag::FAST, Handler::Write(del), "4.0.0")
    },
    Row {
        summary: "Determines whether one or more keys exist.",
        ..count_row("exists", flag::READONLY | flag::FAST, Handler::Read(exists), "1.0.0")
    },
    Row {
        summary: "Returns the number of existing keys out of those specified after updating the time they were last accessed.",
        ..count_row("touch", flag::READONLY | flag::FAST, Handler::Read(touch), "3.2.1")
    },
    Row {
        name: "type",
        arity: 2,
        flags: flag::READONLY | flag::FAST | flag::KEYSPACE,
        keys: ONE_KEY,
        route: Route::Key,
        handler: Handler::Read(type_of),
        group: "generic",
        summary: "Determines the type of value stored at a key.",
        complexity: "O(1)",
        since: "1.0.0",
        subcommands: &[],
    },
    Row {
        summary: "Returns the number of keys in the database.",
        ..database_row("dbsize", 1, flag::READONLY | flag::FAST, Merge::Sum, Handler::Shard(dbsize))
    },
    Row {
        summary: "Removes all keys from the current database.",
        ..whole_database_row("flushdb", -1, Handler::Shard(flushdb))
    },
    Row {
        summary: "Removes all keys from all databases.",
        ..whole_database_row("flushall", -1, Handler::Shard(flushall))
    },
    Row {
        flags: flag::WRITE | flag::FAST | flag::KEYSPACE | flag::DANGEROUS,
        summary: "Swaps two databases.",
        since: "4.0.0",
        ..whole_database_row("swapdb", 3, Handler::Shard(swapdb))
    },
    Row {
        group: "generic",
        summary: "Returns a random key name from the database.",
        ..database_row("randomkey", 1, flag::READONLY, Merge::RandomKey, Handler::Shard(random_key))
    },
];

/// Keys whose table and entry are asked for ahead of time in commands about many keys.
const KEYS_AHEAD: usize = 16;

/// Visits the keys of `call`, `step` arguments apart, each with its index, asking for memory some keys ahead.
pub(super) fn for_each_key(call: &Call<'_>, store: &Store, step: usize, mut visit: impl FnMut(Key<'_>, usize)) {
    let mut at = 1;
    while at < call.args().len() {
        let (keys, count) = prefetch_keys(call, store, at, step);
        for key in keys.iter().take(count) {
            visit(*key, at);
            at += step;
        }
    }
}

/// As [`for_each_key`], for commands that write.
pub(super) fn for_each_key_mut(
    call: &Call<'_>,
    store: &mut Store,
    step: usize,
    mut visit: impl FnMut(&mut Store, Key<'_>, usize),
) {
    let mut at = 1;
    while at < call.args().len() {
        let (keys, count) = prefetch_keys(call, store, at, step);
        for key in keys.iter().take(count) {
            visit(store, *key, at);
            at += step;
        }
    }
}

/// The next few keys from argument `at` on, hashed, with their memory asked for.
fn prefetch_keys<'a>(call: &Call<'a>, store: &Store, at: usize, step: usize) -> ([Key<'a>; KEYS_AHEAD], usize) {
    let mut keys = [Key { db: call.db, hash: 0, bytes: b"" }; KEYS_AHEAD];
    let mut count = 0;
    while count < KEYS_AHEAD && at + count * step < call.args().len() {
        keys[count] = store.key(call.db, call.args().get(at + count * step));
        store.prefetch_bucket(call.db, keys[count].hash);
        count += 1;
    }
    for key in &keys[..count] {
        store.prefetch_entry(key.db, key.hash);
    }
    (keys, count)
}

fn del(call: &Call<'_>, store: &mut Store, reply: &mut ReplyWriter<'_>) -> Result {
    let mut removed = 0;
    for_each_key_mut(call, store, 1, |store, key, _| removed += store.remove(key, call.now) as i64);
    reply.integer(removed);
    Ok(Outcome::Done)
}

fn exists(call: &Call<'_>, store: &Store, reply: &mut ReplyWriter<'_>) -> Result {
    let mut present = 0;
    for_each_key(call, store, 1, |key, _| present += store.look(key, call.now).is_some() as i64);
    reply.integer(present);
    Ok(Outcome::Done)
}

fn touch(call: &Call<'_>, store: &Store, reply: &mut ReplyWriter<'_>) -> Result {
    let mut present = 0;
    for_each_key(call, store, 1, |key, _| present += store.get(key, call.now).is_some() as i64);
    reply.integer(present);
    Ok(Outcome::Done)
}

fn type_of(call: &Call<'_>, store: &Store, reply: &mut ReplyWriter<'_>) -> Result {
    let key = Key { db: call.db, hash: call.hash, bytes: call.args().get(1) };
    reply.simple(if store.look(key, call.now).is_some() { "string" } else { "none" });
    Ok(Outcome::Done)
}

fn dbsize(call: &Call<'_>, owner: &mut Owner<'_>, reply: &mut ReplyWriter<'_>) -> Result {
    reply.integer(owner.store.len(call.db) as i64);
    Ok(Outcome::Done)
}

fn flushdb(call: &Call<'_>, owner: &mut Owner<'_>, reply: &mut ReplyWriter<'_>) -> Result {
    flush(call, owner, reply, call.db as usize..call.db as usize + 1)
}

fn flushall(call: &Call<'_>, owner: &mut Owner<'_>, reply: &mut ReplyWriter<'_>) -> Result {
    flush(call, owner, reply, 0..owner.store.databases())
}

/// The databases are empty at once, and their memory is freed in slices. With SYNC the reply waits for that; nobody else
/// does.
fn flush(call: &Call<'_>, owner: &mut Owner<'_>, reply: &mut ReplyWriter<'_>, databases: Range<usize>) -> Result {
    let args = call.args();
    let lazy = match args.len() {
        1 => owner.config.lazyfree_user_flush,
        2 if args.get(1).eq_ignore_ascii_case(b"async") => true,
        2 if args.get(1).eq_ignore_ascii_case(b"sync") => false,
        _ => return Err(Error::Syntax),
    };
    if owner.store.clear(databases).is_err() {
        return Err(Error::Text("ERR no database can be flushed any more: Torc has to be restarted for that"));
    }
    let flushes = owner.store.flushes();
    if !lazy && !owner.store.has_freed(flushes) {
        return Ok(Outcome::Wait(Wait::Freed { flushes }));
    }
    reply.ok();
    Ok(Outcome::Done)
}

fn swapdb(call: &Call<'_>, owner: &mut Owner<'_>, reply: &mut ReplyWriter<'_>) -> Result {
    let number = |at: usize, error: &'static str| {
        let number = parse::integer(call.args().get(at)).ok().and_then(|number| i32::try_from(number).ok());
        number.ok_or(Error::Text(error))
    };
    let one = number(1, "ERR invalid first DB index")?;
    let other = number(2, "ERR invalid second DB index")?;
    let existing = |number: i32| u8::try_from(number).ok().filter(|&db| (db as usize) < owner.config.databases);
    let (Some(one), Some(other)) = (existing(one), existing(other)) else { return Err(Error::DbIndexOutOfRange) };
    owner.store.swap(one, other);
    reply.ok();
    Ok(Outcome::Done)
}

/// This shard's offer: how many keys it has, and one of them. The merge picks one offer.
fn random_key(call: &Call<'_>, owner: &mut Owner<'_>, reply: &mut ReplyWriter<'_>) -> Result {
    let key = owner.store.random_key(call.db, call.now, &mut *owner.random);
    reply.array(2);
    match key {
        Some(key) => {
            reply.integer(owner.store.len(call.db) as i64);
            reply.bulk(key);
        }
        None => {
            reply.integer(0);
            reply.null();
        }
    }
    Ok(Outcome::Done)
}
