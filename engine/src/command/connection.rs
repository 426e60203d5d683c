//! The connection: PING, AUTH, HELLO, SELECT and their relatives.

use torc_protocol::resp::number::read_decimal;
use torc_protocol::resp::reply::Dialect;

use super::client::check_name;
use super::{Error, Handler, Home, NO_KEYS, Outcome, Result, Route, Row, flag};
use crate::limits;

const fn row(name: &'static str, arity: i32, flags: u32, handler: Handler, since: &'static str) -> Row {
    Row {
        name,
        arity,
        flags: flags | flag::FAST | flag::CONNECTION,
        keys: NO_KEYS,
        route: Route::Home,
        handler,
        group: "connection",
        summary: "",
        complexity: "O(1)",
        since,
        subcommands: &[],
    }
}

const ANYTIME: u32 = flag::NOSCRIPT | flag::LOADING | flag::STALE | flag::NO_AUTH;

pub(super) const ROWS: &[Row] = &[
    Row { summary: "Returns the server's liveliness response.", ..row("ping", -1, 0, Handler::Home(ping), "1.0.0") },
    Row {
        summary: "Returns the given string.",
        ..row("echo", 2, flag::LOADING | flag::STALE, Handler::Home(echo), "1.0.0")
    },
    Row {
        summary: "Authenticates the connection.",
        ..row("auth", -2, ANYTIME | flag::SKIP_MONITOR, Handler::Home(auth), "1.0.0")
    },
    Row {
        summary: "Handshakes with the Redis server.",
        ..row("hello", -1, ANYTIME | flag::SKIP_MONITOR, Handler::Home(hello), "6.0.0")
    },
    Row {
        summary: "Changes the selected database.",
        ..row("select", 2, flag::LOADING | flag::STALE, Handler::Home(select), "1.0.0")
    },
    Row { summary: "Closes the connection.", ..row("quit", -1, ANYTIME, Handler::Home(quit), "1.0.0") },
    Row { summary: "Resets the connection.", ..row("reset", 1, ANYTIME, Handler::Home(reset), "6.2.0") },
];

fn ping(home: &mut Home<'_>) -> Result {
    match home.args.len() {
        1 => home.writer().simple("PONG"),
        2 => return echo(home),
        _ => return Err(Error::WrongArity),
    }
    Ok(Outcome::Done)
}

fn echo(home: &mut Home<'_>) -> Result {
    match home.args.get_shared(1) {
        Some(shared) => home.writer().bulk_shared(shared),
        None => {
            let text = home.args.get(1);
            home.writer().bulk(text);
        }
    }
    Ok(Outcome::Done)
}

fn auth(home: &mut Home<'_>) -> Result {
    match home.args.len() {
        2 => {
            if home.config.requirepass.is_empty() {
                return Err(Error::NoPasswordSet);
            }
            log_in(home, b"default", home.args.get(1))?;
        }
        3 => log_in(home, home.args.get(1), home.args.get(2))?,
        _ => return Err(Error::Syntax),
    }
    home.ok()
}

fn log_in(home: &mut Home<'_>, user: &[u8], password: &[u8]) -> std::result::Result<(), Error> {
    let expected = &home.config.requirepass;
    // Without a password the default user may log in with any.
    if user != b"default" || !(expected.is_empty() || equal_in_constant_time(password, expected)) {
        return Err(Error::WrongPassword);
    }
    home.client.authenticated = true;
    Ok(())
}

/// Whether two texts are equal, in a time that depends on the length of the first one only.
fn equal_in_constant_time(given: &[u8], expected: &[u8]) -> bool {
    let different = given
        .iter()
        .enumerate()
        .fold(0, |different, (at, byte)| different | (byte ^ expected.get(at).copied().unwrap_or(!byte)));
    std::hint::black_box(different) == 0 && given.len() == expected.len()
}

fn hello(home: &mut Home<'_>) -> Result {
    let args = home.args;
    let mut dialect = home.client.dialect;
    if args.len() > 1 {
        dialect = match read_decimal(args.get(1)) {
            Some(2) => Dialect::Resp2,
            Some(3) => Dialect::Resp3,
            Some(_) => return Err(Error::NoProto),
            None => return Err(Error::ProtocolVersionNotANumber),
        };
    }
    let (mut login, mut name) = (None, None);
    let mut at = 2;
    while at < args.len() {
        let word = args.get(at);
        if word.eq_ignore_ascii_case(b"auth") && at + 2 < args.len() {
            login = Some((args.get(at + 1), args.get(at + 2)));
            at += 3;
        } else if word.eq_ignore_ascii_case(b"setname") && at + 1 < args.len() {
            name = Some(args.get(at + 1));
            check_name(args.get(at + 1), Error::BadClientName)?;
            at += 2;
        } else {
            return Err(Error::HelloSyntax { argument: at });
        }
    }
    if let Some((user, password)) = login {
        log_in(home, user, password)?;
    }
    if !home.client.authenticated {
        return Err(Error::HelloNoAuth);
    }
    if let Some(name) = name {
        home.client.name = name.to_vec();
    }
    home.client.dialect = dialect;
    let id = home.client.id;
    let mut reply = home.writer();
    reply.map(7);
    reply.bulk(b"server");
    reply.bulk(b"redis");
    reply.bulk(b"version");
    reply.bulk(super::info::REDIS_VERSION.as_bytes());
    reply.bulk(b"proto");
    reply.integer(if dialect == Dialect::Resp3 { 3 } else { 2 });
    reply.bulk(b"id");
    reply.integer(id as i64);
    reply.bulk(b"mode");
    reply.bulk(b"standalone");
    reply.bulk(b"role");
    reply.bulk(b"master");
    reply.bulk(b"modules");
    reply.array(0);
    Ok(Outcome::Done)
}

fn select(home: &mut Home<'_>) -> Result {
    let index = read_decimal(home.args.get(1)).ok_or(Error::NotAnInteger)?;
    if i32::try_from(index).is_err() {
        return Err(Error::NotInIntRange);
    }
    let databases = home.config.databases.min(limits::DATABASES_MAX) as i64;
    if !(0..databases).contains(&index) {
        return Err(Error::DbIndexOutOfRange);
    }
    home.client.db = index as u8;
    home.ok()
}

fn quit(home: &mut Home<'_>) -> Result {
    home.client.quit = true;
    home.ok()
}

fn reset(home: &mut Home<'_>) -> Result {
    let authenticated = home.config.requirepass.is_empty();
    home.client.reset(authenticated);
    home.writer().simple("RESET");
    Ok(Outcome::Done)
}
