//! CONFIG: reading and changing the settings. A change is made on every shard, each on its own copy.

use torc_protocol::resp::reply::ReplyWriter;

use super::client::write_help;
use super::{Call, Error, Handler, Home, Merge, NO_KEYS, Outcome, Owner, Result, Route, Row, flag};

const fn row(name: &'static str, arity: i32, route: Route, handler: Handler) -> Row {
    Row {
        name,
        arity,
        flags: flag::ADMIN | flag::NOSCRIPT | flag::LOADING | flag::STALE | flag::DANGEROUS,
        keys: NO_KEYS,
        route,
        handler,
        group: "server",
        summary: "",
        complexity: "O(N) where N is the number of parameters",
        since: "2.0.0",
        subcommands: &[],
    }
}

pub(super) const ROWS: &[Row] = &[Row {
    summary: "A container for server configuration commands.",
    complexity: "Depends on subcommand.",
    subcommands: &[
        Row {
            summary: "Returns the effective values of configuration parameters.",
            ..row("config|get", -3, Route::Home, Handler::Home(get))
        },
        Row {
            summary: "Sets configuration parameters in-flight.",
            ..row("config|set", -4, Route::Ordered(Merge::Ok), Handler::Shard(set))
        },
        Row {
            summary: "Resets the server's statistics.",
            complexity: "O(1)",
            ..row("config|resetstat", 2, Route::All(Merge::Ok), Handler::Shard(resetstat))
        },
        Row {
            summary: "Persists the effective configuration to file.",
            complexity: "O(1)",
            ..row("config|rewrite", 2, Route::Home, Handler::Home(rewrite))
        },
        Row {
            summary: "Returns helpful text about the different subcommands.",
            complexity: "O(1)",
            ..row("config|help", 2, Route::Home, Handler::Home(help))
        },
    ],
    ..row("config", -2, Route::Container, Handler::None)
}];

fn get(home: &mut Home<'_>) -> Result {
    let patterns: Vec<&[u8]> = home.args.iter_from(2).collect();
    let found = home.config.get_matching(&patterns);
    let mut reply = home.writer();
    reply.map(found.len());
    for (name, value) in found {
        // A name asked for in full is shown as it was written.
        let written = patterns.iter().find(|pattern| pattern.eq_ignore_ascii_case(name.as_bytes()));
        reply.bulk(written.copied().unwrap_or(name.as_bytes()));
        reply.bulk(value.as_bytes());
    }
    Ok(Outcome::Done)
}

fn set(call: &Call<'_>, owner: &mut Owner<'_>, reply: &mut ReplyWriter<'_>) -> Result {
    if !call.args().len().is_multiple_of(2) {
        return Err(Error::Syntax);
    }
    let words: Vec<&[u8]> = call.args().iter_from(2).collect();
    let pairs: Vec<(&[u8], &[u8])> = words.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect();
    match owner.config.set_at_run_time(&pairs) {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(error.to_string().as_bytes()),
    }
    Ok(Outcome::Done)
}

fn resetstat(_: &Call<'_>, owner: &mut Owner<'_>, reply: &mut ReplyWriter<'_>) -> Result {
    owner.store.reset_counters();
    owner.stats.reset();
    reply.ok();
    Ok(Outcome::Done)
}

fn rewrite(_: &mut Home<'_>) -> Result {
    Err(Error::NotBuilt("CONFIG REWRITE"))
}

fn help(home: &mut Home<'_>) -> Result {
    write_help(&mut home.writer(), "CONFIG", ROWS[0].subcommands);
    Ok(Outcome::Done)
}
