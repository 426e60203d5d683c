//! The process: TIME and SHUTDOWN.

use super::{Error, Handler, Home, NO_KEYS, Outcome, Result, Route, Row, flag};
use crate::shard::Event;

pub(super) const ROWS: &[Row] = &[
    Row {
        name: "time",
        arity: 1,
        flags: flag::FAST | flag::LOADING | flag::STALE,
        keys: NO_KEYS,
        route: Route::Home,
        handler: Handler::Home(time),
        group: "server",
        summary: "Returns the server time.",
        complexity: "O(1)",
        since: "2.6.0",
        subcommands: &[],
    },
    Row {
        name: "shutdown",
        arity: -1,
        flags: flag::ADMIN | flag::NOSCRIPT | flag::LOADING | flag::STALE | flag::DANGEROUS,
        keys: NO_KEYS,
        route: Route::Home,
        handler: Handler::Home(shutdown),
        group: "server",
        summary: "Synchronously saves the database(s) to disk and shuts down the Redis server.",
        complexity: "O(1) as long as there is nothing to save",
        since: "1.0.0",
        subcommands: &[],
    },
];

fn time(home: &mut Home<'_>) -> Result {
    let micros = home.machine.wall_micros();
    let mut reply = home.writer();
    reply.array(2);
    reply.bulk_integer((micros / 1_000_000) as i64);
    reply.bulk_integer((micros % 1_000_000) as i64);
    Ok(Outcome::Done)
}

fn shutdown(home: &mut Home<'_>) -> Result {
    let (mut save, mut nosave, mut abort, mut others) = (false, false, false, false);
    for word in home.args.iter_from(1) {
        match word {
            _ if word.eq_ignore_ascii_case(b"save") => save = true,
            _ if word.eq_ignore_ascii_case(b"nosave") => nosave = true,
            _ if word.eq_ignore_ascii_case(b"now") || word.eq_ignore_ascii_case(b"force") => others = true,
            _ if word.eq_ignore_ascii_case(b"abort") => abort = true,
            _ => return Err(Error::Syntax),
        }
    }
    if abort && (save || nosave || others) || save && nosave {
        return Err(Error::Syntax);
    }
    if abort {
        return Err(Error::Text("ERR No shutdown in progress."));
    }
    if save && !home.machine.saves().is_available {
        return Err(super::persistence::UNAVAILABLE);
    }
    let saves = save || !nosave && !home.config.save_points.is_empty() && !home.config.append_only;
    if saves && !others {
        // If it fails the process goes on. What changes meanwhile is saved again at the end.
        return super::persistence::save_and_end(home);
    }
    // No reply: the connection ends when the process does.
    home.client.quit = true;
    let save = if nosave { Some(false) } else { save.then_some(true) };
    home.events.push_back(Event::Shutdown { save });
    Ok(Outcome::Done)
}
