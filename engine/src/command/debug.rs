//! DEBUG: what tests of Redis need to be told or shown. Who may use it is said by `enable-debug-command` (`shard/gate.rs`).
//!
//! The subcommands are those that mean something here; to Redis's others Torc answers as Redis does to unknown ones.

use std::time::Duration;

use torc_protocol::resp::number::read_decimal;
use torc_protocol::resp::reply::ReplyWriter;

use super::client::write_help;
use super::object::{encoding_name, reference_count};
use super::{Call, Error, Handler, Home, Keys, Merge, NO_KEYS, Outcome, Owner, Result, Route, Row, Wait, flag, parse};
use crate::limits;
use crate::machine::Machine;
use crate::store::{Key, Store, Usage};

const FLAGS: u32 = flag::ADMIN | flag::NOSCRIPT | flag::LOADING | flag::STALE | flag::DANGEROUS | flag::PROTECTED;

const fn row(name: &'static str, arity: i32, route: Route, handler: Handler) -> Row {
    Row {
        name,
        arity,
        flags: FLAGS,
        keys: NO_KEYS,
        route,
        handler,
        group: "server",
        summary: "",
        complexity: "O(1)",
        since: "1.0.0",
        subcommands: &[],
    }
}

pub(super) const ROWS: &[Row] = &[Row {
    summary: "A container for debugging commands.",
    complexity: "Depends on subcommand.",
    subcommands: SUBCOMMANDS,
    ..row("debug", -2, Route::Container, Handler::None)
}];

const SUBCOMMANDS: &[Row] = &[
    Row {
        summary: "Show low level info about a key and its value.",
        keys: Keys { first: 2, last: 2, step: 1 },
        flags: FLAGS | flag::READONLY,
        ..row("debug|object", 3, Route::Key, Handler::Read(object))
    },
    Row {
        summary: "Setting it to 0 disables expiring keys that are not accessed. Setting it to 1 reenables it.",
        ..row("debug|set-active-expire", 3, Route::Ordered(Merge::Ok), Handler::Shard(set_active_expire))
    },
    Row {
        summary: "Have something go wrong, to see what becomes of it: <name> of a parameter fault-<name>, and its value. 0 ends it.",
        ..row("debug|set-fault", 4, Route::Ordered(Merge::Ok), Handler::Shard(set_fault))
    },
    Row {
        summary: "Stop the server for so many seconds. Decimals allowed.",
        complexity: "O(N) where N is the time",
        flags: FLAGS | flag::LINEAR,
        ..row("debug|sleep", 3, Route::All(Merge::Ok), Handler::Shard(sleep))
    },
    Row { summary: "Prints this help.", ..row("debug|help", 2, Route::Home, Handler::Home(help)) },
];

/// The line has Redis's fields. Addresses are nobody's business.
fn object(call: &Call<'_>, store: &Store, reply: &mut ReplyWriter<'_>) -> Result {
    let key = Key { db: call.db, hash: call.hash, bytes: call.args().get(2) };
    let Some(entry) = store.peek(key, call.now) else { return Err(Error::Text("ERR no such key")) };
    let value = entry.value().bytes();
    let idle_ms = match store.usage(key, call.now) {
        Some(Usage::IdleMs(idle)) => idle.min(call.now.0),
        _ => 0,
    };
    reply.simple(&format!(
        "Value at:0x0 refcount:{} encoding:{} serializedlength:{} lru:{} lru_seconds_idle:{}",
        reference_count(value),
        encoding_name(value),
        serialized_bytes(value),
        // Seconds in 24 bits, as Redis keeps them.
        ((call.now.0 - idle_ms) / 1000) & 0xff_ffff,
        idle_ms / 1000,
    ));
    Ok(Outcome::Done)
}

/// Length of a string in a snapshot of Redis that does not compress: an integer of up to 32 bits in binary after a byte
/// that says so, or the bytes after their length.
fn serialized_bytes(value: &[u8]) -> usize {
    if let Some(integer) = read_decimal(value) {
        match integer {
            _ if i8::try_from(integer).is_ok() => return 2,
            _ if i16::try_from(integer).is_ok() => return 3,
            _ if i32::try_from(integer).is_ok() => return 5,
            _ => {}
        }
    }
    let prefix = match value.len() {
        0..0x40 => 1,
        0x40..0x4000 => 2,
        0x4000..=0xffff_ffff => 5,
        _ => 9,
    };
    prefix + value.len()
}

fn set_active_expire(call: &Call<'_>, owner: &mut Owner<'_>, reply: &mut ReplyWriter<'_>) -> Result {
    owner.store.set_active_expiry(parse::integer(call.args().get(2))? != 0);
    reply.ok();
    Ok(Outcome::Done)
}

fn set_fault(call: &Call<'_>, owner: &mut Owner<'_>, reply: &mut ReplyWriter<'_>) -> Result {
    match owner.config.set_fault(call.args().get(2), call.args().get(3)) {
        Ok(()) => reply.ok(),
        Err(problem) => reply.error(problem.as_bytes()),
    }
    Ok(Outcome::Done)
}

fn sleep(call: &Call<'_>, _: &mut Owner<'_>, _: &mut ReplyWriter<'_>) -> Result {
    let seconds = parse::float(call.args().get(2))?;
    if seconds > limits::DEBUG_SLEEP_S_MAX {
        return Err(Error::Text("ERR DEBUG SLEEP is for at most an hour"));
    }
    Ok(Outcome::Wait(Wait::Sleep(Sleep { time: Duration::from_secs_f64(seconds.max(0.0)), announced: false })))
}

/// DEBUG SLEEP under way. The shard must not sleep before it has passed the command on to the others, which happens at the
/// end of the turn.
#[derive(Debug)]
pub struct Sleep {
    time: Duration,
    announced: bool,
}

impl Sleep {
    /// Waits for the next turn, and then sleeps. True if it is still to sleep.
    pub(crate) fn step(&mut self, machine: &mut dyn Machine) -> bool {
        if std::mem::replace(&mut self.announced, true) {
            machine.sleep(self.time);
            return false;
        }
        true
    }
}

fn help(home: &mut Home<'_>) -> Result {
    write_help(&mut home.writer(), "DEBUG", SUBCOMMANDS);
    Ok(Outcome::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_serialized_as_redis_does() {
        let long = [b'x'; 300];
        for (value, bytes) in [
            (&b"12"[..], 2),
            (b"-128", 2),
            (b"128", 3),
            (b"-32769", 5),
            (b"2147483648", 11),
            (b"012", 4),
            (b"hello", 6),
            (b"", 1),
            (&long[..63], 64),
            (&long[..64], 66),
        ] {
            assert_eq!(serialized_bytes(value), bytes, "{value:?}");
        }
        assert_eq!(serialized_bytes(&[b'x'; 0x4000]), 0x4005);
    }
}
