//! Keys that end: EXPIRE and TTL with their relatives. Times are absolute milliseconds inside.

use torc_protocol::resp::reply::ReplyWriter;

use super::parse::{TimeUnit, absolute_ms, integer};
use super::{Call, Error, Handler, ONE_KEY, Outcome, Result, Route, Row, flag};
use crate::id::Millis;
use crate::store::{Key, Store};

const fn row(name: &'static str, arity: i32, flags: u32, handler: Handler, since: &'static str) -> Row {
    Row {
        name,
        arity,
        flags: flags | flag::FAST | flag::KEYSPACE,
        keys: ONE_KEY,
        route: Route::Key,
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
        summary: "Sets the expiration time of a key in seconds.",
        ..row("expire", -3, flag::WRITE, Handler::Write(expire), "1.0.0")
    },
    Row {
        summary: "Sets the expiration time of a key in milliseconds.",
        ..row("pexpire", -3, flag::WRITE, Handler::Write(pexpire), "2.6.0")
    },
    Row {
        summary: "Sets the expiration time of a key to a Unix timestamp.",
        ..row("expireat", -3, flag::WRITE, Handler::Write(expireat), "1.2.0")
    },
    Row {
        summary: "Sets the expiration time of a key to a Unix milliseconds timestamp.",
        ..row("pexpireat", -3, flag::WRITE, Handler::Write(pexpireat), "2.6.0")
    },
    Row {
        summary: "Returns the expiration time in seconds of a key.",
        ..row("ttl", 2, flag::READONLY, Handler::Read(ttl), "1.0.0")
    },
    Row {
        summary: "Returns the expiration time in milliseconds of a key.",
        ..row("pttl", 2, flag::READONLY, Handler::Read(pttl), "2.6.0")
    },
    Row {
        summary: "Returns the expiration time of a key as a Unix timestamp.",
        ..row("expiretime", 2, flag::READONLY, Handler::Read(expiretime), "7.0.0")
    },
    Row {
        summary: "Returns the expiration time of a key as a Unix milliseconds timestamp.",
        ..row("pexpiretime", 2, flag::READONLY, Handler::Read(pexpiretime), "7.0.0")
    },
    Row {
        summary: "Removes the expiration time of a key.",
        ..row("persist", 2, flag::WRITE, Handler::Write(persist), "2.2.0")
    },
];

fn key<'a>(call: &Call<'a>) -> Key<'a> {
    Key { db: call.db, hash: call.hash, bytes: call.args().get(1) }
}

fn expire(call: &Call<'_>, store: &mut Store, reply: &mut ReplyWriter<'_>) -> Result {
    set_expiry(call, store, reply, TimeUnit::Seconds)
}

fn pexpire(call: &Call<'_>, store: &mut Store, reply: &mut ReplyWriter<'_>) -> Result {
    set_expiry(call, store, reply, TimeUnit::Milliseconds)
}

fn expireat(call: &Call<'_>, store: &mut Store, reply: &mut ReplyWriter<'_>) -> Result {
    set_expiry(call, store, reply, TimeUnit::UnixSeconds)
}

fn pexpireat(call: &Call<'_>, store: &mut Store, reply: &mut ReplyWriter<'_>) -> Result {
    set_expiry(call, store, reply, TimeUnit::UnixMilliseconds)
}

/// NX, XX, GT and LT of the EXPIRE family.
#[derive(Default)]
struct Conditions {
    if_none: bool,
    if_some: bool,
    if_later: bool,
    if_sooner: bool,
}

fn conditions(call: &Call<'_>) -> std::result::Result<Conditions, Error> {
    let mut conditions = Conditions::default();
    for (at, word) in call.args().iter_from(3).enumerate() {
        match word {
            _ if word.eq_ignore_ascii_case(b"nx") => conditions.if_none = true,
            _ if word.eq_ignore_ascii_case(b"xx") => conditions.if_some = true,
            _ if word.eq_ignore_ascii_case(b"gt") => conditions.if_later = true,
            _ if word.eq_ignore_ascii_case(b"lt") => conditions.if_sooner = true,
            _ => return Err(Error::UnsupportedOption { argument: at + 3 }),
        }
    }
    if conditions.if_none && (conditions.if_some || conditions.if_later || conditions.if_sooner) {
        return Err(Error::NxAndOther);
    }
    if conditions.if_later && conditions.if_sooner {
        return Err(Error::GtAndLt);
    }
    Ok(conditions)
}

fn set_expiry(call: &Call<'_>, store: &mut Store, reply: &mut ReplyWriter<'_>, unit: TimeUnit) -> Result {
    let conditions = conditions(call)?;
    let at = absolute_ms(integer(call.args().get(2))?, unit, call.now)?;
    let Some(old) = store.peek(key(call), call.now).map(|entry| entry.expire_ms()) else {
        if at <= call.now.0 as i64 {
            store.remove(key(call), call.now);
        }
        reply.integer(0);
        return Ok(Outcome::Done);
    };
    // A key without expiry counts as one that expires after all others.
    let refused = conditions.if_none && old != 0
        || conditions.if_some && old == 0
        || conditions.if_later && (old == 0 || at <= old as i64)
        || conditions.if_sooner && old != 0 && at >= old as i64;
    if !refused {
        store.set_expiry(key(call), Some(Millis(at.max(0) as u64)), call.now);
    }
    reply.integer(!refused as i64);
    Ok(Outcome::Done)
}

fn persist(call: &Call<'_>, store: &mut Store, reply: &mut ReplyWriter<'_>) -> Result {
    let expires = store.peek(key(call), call.now).is_some_and(|entry| entry.expire_ms() != 0);
    if expires {
        store.set_expiry(key(call), None, call.now);
    }
    reply.integer(expires as i64);
    Ok(Outcome::Done)
}

fn ttl(call: &Call<'_>, store: &Store, reply: &mut ReplyWriter<'_>) -> Result {
    // Rounded to the nearest second, as Redis does.
    write_time(call, store, reply, |at, now| (at - now + 500) / 1000)
}

fn pttl(call: &Call<'_>, store: &Store, reply: &mut ReplyWriter<'_>) -> Result {
    write_time(call, store, reply, |at, now| at - now)
}

fn expiretime(call: &Call<'_>, store: &Store, reply: &mut ReplyWriter<'_>) -> Result {
    write_time(call, store, reply, |at, _| (at + 500) / 1000)
}

fn pexpiretime(call: &Call<'_>, store: &Store, reply: &mut ReplyWriter<'_>) -> Result {
    write_time(call, store, reply, |at, _| at)
}

fn write_time(call: &Call<'_>, store: &Store, reply: &mut ReplyWriter<'_>, time: fn(u64, u64) -> u64) -> Result {
    reply.integer(match store.look(key(call), call.now).map(|entry| entry.expire_ms()) {
        None => -2,
        Some(0) => -1,
        Some(at) => time(at, call.now.0) as i64,
    });
    Ok(Outcome::Done)
}
