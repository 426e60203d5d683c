//! Strings: GET, SET and their relatives.

use torc_protocol::args::Args;
use torc_protocol::resp::reply::ReplyWriter;

use super::parse::{TimeUnit, integer, positive_expiry};
use super::{ALL_KEYS, Call, Error, Handler, KEYS_AND_VALUES, Merge, ONE_KEY, Outcome, Result, Route, Row, flag};
use crate::limits;
use crate::store::{Expiry, Key, NewValue, Store, Value};

const STRING_WRITE: u32 = flag::WRITE | flag::DENYOOM | flag::STRING;
const STRING_READ: u32 = flag::READONLY | flag::STRING;

/// A row about one key of this family.
const fn row(name: &'static str, arity: i32, flags: u32, handler: Handler, since: &'static str) -> Row {
    Row {
        name,
        arity,
        flags,
        keys: ONE_KEY,
        route: Route::Key,
        handler,
        group: "string",
        summary: "",
        complexity: "O(1)",
        since,
        subcommands: &[],
    }
}

pub(super) const ROWS: &[Row] = &[
    Row {
        summary: "Returns the string value of a key.",
        ..row("get", 2, STRING_READ | flag::FAST, Handler::Read(get), "1.0.0")
    },
    Row {
        summary: "Sets the string value of a key, ignoring its type. The key is created if it doesn't exist.",
        ..row("set", -3, STRING_WRITE, Handler::Write(set), "1.0.0")
    },
    Row {
        summary: "Sets the string value of a key only when the key doesn't exist.",
        ..row("setnx", 3, STRING_WRITE | flag::FAST, Handler::Write(setnx), "1.0.0")
    },
    Row {
        summary: "Sets the string value and expiration time of a key. Creates the key if it doesn't exist.",
        ..row("setex", 4, STRING_WRITE, Handler::Write(setex), "2.0.0")
    },
    Row {
        summary: "Sets both string value and expiration time in milliseconds of a key.",
        ..row("psetex", 4, STRING_WRITE, Handler::Write(psetex), "2.6.0")
    },
    Row {
        summary: "Returns the previous string value of a key after setting it to a new value.",
        ..row("getset", 3, STRING_WRITE | flag::FAST, Handler::Write(getset), "1.0.0")
    },
    Row {
        summary: "Returns the string value of a key after deleting the key.",
        ..row("getdel", 2, flag::WRITE | flag::STRING | flag::FAST, Handler::Write(getdel), "6.2.0")
    },
    Row {
        summary: "Returns the string value of a key after setting its expiration time.",
        ..row("getex", -2, flag::WRITE | flag::STRING | flag::FAST, Handler::Write(getex), "6.2.0")
    },
    Row {
        summary: "Appends a string to the value of a key. Creates the key if it doesn't exist.",
        ..row("append", 3, STRING_WRITE | flag::FAST, Handler::Write(append), "2.0.0")
    },
    Row {
        summary: "Returns the length of a string value.",
        ..row("strlen", 2, STRING_READ | flag::FAST, Handler::Read(strlen), "2.2.0")
    },
    Row {
        summary: "Returns a substring of the string stored at a key.",
        complexity: "O(N) where N is the length of the returned string",
        ..row("getrange", 4, STRING_READ, Handler::Read(getrange), "2.4.0")
    },
    Row {
        summary: "Returns a substring from a string value.",
        complexity: "O(N) where N is the length of the returned string",
        ..row("substr", 4, STRING_READ, Handler::Read(getrange), "1.0.0")
    },
    Row {
        summary: "Overwrites a part of a string value with another by an offset. Creates the key if it doesn't exist.",
        ..row("setrange", 4, STRING_WRITE | flag::GROWS, Handler::Write(setrange), "2.2.0")
    },
    Row {
        summary: "Atomically returns the string values of one or more keys.",
        complexity: "O(N) where N is the number of keys",
        keys: ALL_KEYS,
        route: Route::Keys(Merge::Interleave),
        ..row("mget", -2, STRING_READ | flag::FAST, Handler::Read(mget), "1.0.0")
    },
    Row {
        summary: "Creates or modifies the string values of one or more keys.",
        complexity: "O(N) where N is the number of keys",
        keys: KEYS_AND_VALUES,
        route: Route::Keys(Merge::Ok),
        ..row("mset", -3, STRING_WRITE, Handler::Write(mset), "1.0.1")
    },
];

#[inline]
fn key<'a>(call: &Call<'a>) -> Key<'a> {
    Key { db: call.db, hash: call.hash, bytes: call.args().get(1) }
}

#[inline]
fn new_value<'a>(args: Args<'a>, index: usize) -> NewValue<'a> {
    NewValue { bytes: args.get(index), shared: args.get_shared(index) }
}

#[inline]
fn write_value(value: Option<Value<'_>>, reply: &mut ReplyWriter<'_>) {
    match value {
        Some(Value::Inline(bytes)) => reply.bulk(bytes),
        Some(Value::Shared(bytes)) => reply.bulk_shared(bytes),
        None => reply.null(),
    }
}

#[inline]
fn write_current(call: &Call<'_>, store: &Store, reply: &mut ReplyWriter<'_>) -> bool {
    let value = store.get(key(call), call.now).map(|entry| entry.value());
    write_value(value, reply);
    value.is_some()
}

fn get(call: &Call<'_>, store: &Store, reply: &mut ReplyWriter<'_>) -> Result {
    write_current(call, store, reply);
    Ok(Outcome::Done)
}

/// The options of SET after key and value.
struct SetOptions {
    expiry: Expiry,
    if_absent: bool,
    if_present: bool,
    get: bool,
}

fn set_options(call: &Call<'_>) -> std::result::Result<SetOptions, Error> {
    let mut options = SetOptions { expiry: Expiry::Never, if_absent: false, if_present: false, get: false };
    let args = call.args();
    let mut at = 3;
    // The same option may come twice, the last time wins; options that contradict each other are an error.
    let mut expiry: Option<(TimeUnit, usize)> = None;
    while at < args.len() {
        let word = args.get(at);
        if word.eq_ignore_ascii_case(b"nx") && !options.if_present {
            options.if_absent = true;
        } else if word.eq_ignore_ascii_case(b"xx") && !options.if_absent {
            options.if_present = true;
        } else if word.eq_ignore_ascii_case(b"get") {
            options.get = true;
        } else if word.eq_ignore_ascii_case(b"keepttl") && expiry.is_none() {
            options.expiry = Expiry::Keep;
        } else if let Some(unit) = time_unit(word)
            && expiry.is_none_or(|(other, _)| other == unit)
            && options.expiry != Expiry::Keep
            && at + 1 < args.len()
        {
            expiry = Some((unit, at + 1));
            at += 1;
        } else {
            return Err(Error::Syntax);
        }
        at += 1;
    }
    if let Some((unit, at)) = expiry {
        options.expiry = Expiry::At(positive_expiry(args.get(at), unit, call.now)?);
    }
    Ok(options)
}

fn time_unit(word: &[u8]) -> Option<TimeUnit> {
    const UNITS: [(&[u8], TimeUnit); 4] = [
        (b"ex", TimeUnit::Seconds),
        (b"px", TimeUnit::Milliseconds),
        (b"exat", TimeUnit::UnixSeconds),
        (b"pxat", TimeUnit::UnixMilliseconds),
    ];
    UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(word)).map(|&(_, unit)| unit)
}

fn set(call: &Call<'_>, store: &mut Store, reply: &mut ReplyWriter<'_>) -> Result {
    let value = new_value(call.args(), 2);
    if call.args().len() == 3 {
        store.set(key(call), value, Expiry::Never, call.now);
        reply.ok();
        return Ok(Outcome::Done);
    }
    let options = set_options(call)?;
    let present = match options.get {
        true => write_current(call, store, reply),
        false if options.if_absent || options.if_present => store.peek(key(call), call.now).is_some(),
        false => false,
    };
    let refused = options.if_absent && present || options.if_present && !present;
    if !refused {
        match options.expiry {
            // A time that has come: the key is gone at once.
            Expiry::At(at) if at <= call.now => drop(store.remove(key(call), call.now)),
            expiry => store.set(key(call), value, expiry, call.now),
        }
    }
    match (options.get, refused) {
        (true, _) => {}
        (false, true) => reply.null(),
        (false, false) => reply.ok(),
    }
    Ok(Outcome::Done)
}

fn setnx(call: &Call<'_>, store: &mut Store, reply: &mut ReplyWriter<'_>) -> Result {
    let absent = store.peek(key(call), call.now).is_none();
    if absent {
        store.set(key(call), new_value(call.args(), 2), Expiry::Never, call.now);
    }
    reply.integer(absent as i64);
    Ok(Outcome::Done)
}

fn setex(call: &Call<'_>, store: &mut Store, reply: &mut ReplyWriter<'_>) -> Result {
    set_with_expiry(call, store, reply, TimeUnit::Seconds)
}

fn psetex(call: &Call<'_>, store: &mut Store, reply: &mut ReplyWriter<'_>) -> Result {
    set_with_expiry(call, store, reply, TimeUnit::Milliseconds)
}

fn set_with_expiry(call: &Call<'_>, store: &mut Store, reply: &mut ReplyWriter<'_>, unit: TimeUnit) -> Result {
    let at = positive_expiry(call.args().get(2), unit, call.now)?;
    store.set(key(call), new_value(call.args(), 3), Expiry::At(at), call.now);
    reply.ok();
    Ok(Outcome::Done)
}

fn getset(call: &Call<'_>, store: &mut Store, reply: &mut ReplyWriter<'_>) -> Result {
    write_current(call, store, reply);
    store.set(key(call), new_value(call.args(), 2), Expiry::Never, call.now);
    Ok(Outcome::Done)
}

fn getdel(call: &Call<'_>, store: &mut Store, reply: &mut ReplyWriter<'_>) -> Result {
    write_current(call, store, reply);
    store.remove(key(call), call.now);
    Ok(Outcome::Done)
}

fn getex(call: &Call<'_>, store: &mut Store, reply: &mut ReplyWriter<'_>) -> Result {
    let args = call.args();
    // As with SET, the same option may come twice.
    let (mut persist, mut expiry, mut at) = (false, None, 2);
    while at < args.len() {
        let word = args.get(at);
        if word.eq_ignore_ascii_case(b"persist") && expiry.is_none() {
            persist = true;
        } else if let Some(unit) = time_unit(word)
            && expiry.is_none_or(|(other, _)| other == unit)
            && !persist
            && at + 1 < args.len()
        {
            expiry = Some((unit, at + 1));
            at += 1;
        } else {
            return Err(Error::Syntax);
        }
        at += 1;
    }
    // A key that is absent gives nil before the time is looked at, as in Redis.
    if !write_current(call, store, reply) {
        return Ok(Outcome::Done);
    }
    let at = expiry.map(|(unit, at)| positive_expiry(args.get(at), unit, call.now)).transpose()?;
    if args.len() > 2 {
        store.set_expiry(key(call), at, call.now);
    }
    Ok(Outcome::Done)
}

fn append(call: &Call<'_>, store: &mut Store, reply: &mut ReplyWriter<'_>) -> Result {
    let bytes = call.args().get(2);
    let len = store.peek(key(call), call.now).map_or(0, |entry| entry.value().bytes().len());
    check_length(call, len, bytes.len())?;
    let len = match len {
        0 => {
            // Also where the key is present and empty: its expiry stays.
            store.set(key(call), new_value(call.args(), 2), Expiry::Keep, call.now);
            bytes.len()
        }
        _ => store.write_at(key(call), len, bytes, call.now),
    };
    reply.integer(len as i64);
    Ok(Outcome::Done)
}

fn strlen(call: &Call<'_>, store: &Store, reply: &mut ReplyWriter<'_>) -> Result {
    let len = store.get(key(call), call.now).map_or(0, |entry| entry.value().bytes().len());
    reply.integer(len as i64);
    Ok(Outcome::Done)
}

fn getrange(call: &Call<'_>, store: &Store, reply: &mut ReplyWriter<'_>) -> Result {
    let (start, end) = (integer(call.args().get(2))?, integer(call.args().get(3))?);
    let Some(entry) = store.get(key(call), call.now) else {
        reply.bulk(b"");
        return Ok(Outcome::Done);
    };
    let value = entry.value();
    let len = value.bytes().len() as i64;
    if start < 0 && end < 0 && start > end {
        reply.bulk(b"");
        return Ok(Outcome::Done);
    }
    let from_end = |at: i64| if at < 0 { (at.saturating_add(len)).max(0) } else { at };
    let (start, end) = (from_end(start), from_end(end).min(len - 1));
    if len == 0 || start > end {
        reply.bulk(b"");
        return Ok(Outcome::Done);
    }
    let range = start as usize..end as usize + 1;
    match value {
        Value::Inline(bytes) => reply.bulk(&bytes[range]),
        Value::Shared(bytes) => reply.bulk_shared(&bytes.slice(range)),
    }
    Ok(Outcome::Done)
}

fn setrange(call: &Call<'_>, store: &mut Store, reply: &mut ReplyWriter<'_>) -> Result {
    let offset = integer(call.args().get(2))?;
    let bytes = call.args().get(3);
    let offset = usize::try_from(offset).map_err(|_| Error::OffsetOutOfRange)?;
    let present = store.peek(key(call), call.now).map(|entry| entry.value().bytes().len());
    if bytes.is_empty() {
        reply.integer(present.unwrap_or(0) as i64);
        return Ok(Outcome::Done);
    }
    check_length(call, offset, bytes.len())?;
    let len = store.write_at(key(call), offset, bytes, call.now);
    reply.integer(len as i64);
    Ok(Outcome::Done)
}

fn check_length(call: &Call<'_>, len: usize, more: usize) -> std::result::Result<(), Error> {
    match len.checked_add(more) {
        Some(total) if total as u64 <= call.bulk_bytes_max => Ok(()),
        _ => Err(Error::StringTooLong),
    }
}

fn mget(call: &Call<'_>, store: &Store, reply: &mut ReplyWriter<'_>) -> Result {
    reply.array(call.args().len() - 1);
    // What other replies hold counts too: of a frame, they are those of all clients of a shard.
    let mut bytes = reply.buffered_bytes();
    super::keys::for_each_key(call, store, 1, |key, _| {
        let value = store.get(key, call.now).map(|entry| entry.value());
        bytes += value.map_or(0, |value| value.bytes().len());
        if bytes <= limits::REPLY_BYTES_MAX {
            write_value(value, reply);
        }
    });
    if bytes > limits::REPLY_BYTES_MAX { Err(Error::ReplyTooLong) } else { Ok(Outcome::Done) }
}

fn mset(call: &Call<'_>, store: &mut Store, reply: &mut ReplyWriter<'_>) -> Result {
    if call.args().len().is_multiple_of(2) {
        return Err(Error::WrongArity);
    }
    super::keys::for_each_key_mut(call, store, 2, |store, key, at| {
        store.set(key, new_value(call.args(), at + 1), Expiry::Never, call.now);
    });
    reply.ok();
    Ok(Outcome::Done)
}
