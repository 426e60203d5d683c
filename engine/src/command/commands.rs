//! COMMAND: the table about itself.

use torc_protocol::resp::reply::ReplyWriter;

use super::client::write_help;
use super::{Command, Error, Handler, Home, NO_KEYS, Outcome, Result, Route, Row, flag};

const fn row(name: &'static str, arity: i32, handler: Handler, since: &'static str) -> Row {
    Row {
        name,
        arity,
        flags: flag::LOADING | flag::STALE | flag::CONNECTION,
        keys: NO_KEYS,
        route: Route::Home,
        handler,
        group: "server",
        summary: "",
        complexity: "O(N) where N is the number of commands",
        since,
        subcommands: &[],
    }
}

pub(super) const ROWS: &[Row] = &[Row {
    summary: "Returns detailed information about all commands.",
    subcommands: &[
        Row {
            summary: "Returns a count of commands.",
            complexity: "O(1)",
            ..row("command|count", 2, Handler::Home(count), "2.8.13")
        },
        Row {
            summary: "Returns information about one, multiple or all commands.",
            ..row("command|info", -2, Handler::Home(info), "2.8.13")
        },
        Row {
            summary: "Returns documentary information about one, multiple or all commands.",
            ..row("command|docs", -2, Handler::Home(docs), "7.0.0")
        },
        Row { summary: "Returns a list of command names.", ..row("command|list", 2, Handler::Home(list), "7.0.0") },
        Row {
            summary: "Extracts the key names from an arbitrary command.",
            complexity: "O(N) where N is the number of arguments to the command",
            ..row("command|getkeys", -3, Handler::Home(getkeys), "2.8.13")
        },
        Row {
            summary: "Returns helpful text about the different subcommands.",
            complexity: "O(1)",
            ..row("command|help", 2, Handler::Home(help), "5.0.0")
        },
    ],
    // COMMAND alone is a command too, so the container has a function.
    ..row("command", -1, Handler::Home(all), "2.8.13")
}];

fn all(home: &mut Home<'_>) -> Result {
    let mut reply = home.writer();
    reply.array(Command::top_level().count());
    for command in Command::top_level() {
        write_row(&mut reply, command.row());
    }
    Ok(Outcome::Done)
}

fn count(home: &mut Home<'_>) -> Result {
    home.writer().integer(Command::top_level().count() as i64);
    Ok(Outcome::Done)
}

fn info(home: &mut Home<'_>) -> Result {
    let names = home.args;
    if names.len() == 2 {
        return all(home);
    }
    let mut reply = home.writer();
    reply.array(names.len() - 2);
    for name in names.iter_from(2) {
        match find(name) {
            Some(row) => write_row(&mut reply, row),
            None => reply.null(),
        }
    }
    Ok(Outcome::Done)
}

/// A row by its full name, `config|get` for a subcommand.
fn find(name: &[u8]) -> Option<&'static Row> {
    match memchr::memchr(b'|', name) {
        Some(at) => Command::lookup(&name[..at])?.subcommand(&name[at + 1..]).map(Command::row),
        None => Command::lookup(name).map(Command::row),
    }
}

/// The ten elements of COMMAND's description of one command.
fn write_row(reply: &mut ReplyWriter<'_>, row: &'static Row) {
    reply.array(10);
    reply.bulk(row.name.as_bytes());
    reply.integer(row.arity as i64);
    let flags = flags(row);
    reply.set(flags.len());
    for flag in flags {
        reply.simple(flag);
    }
    reply.integer(row.keys.first as i64);
    reply.integer(row.keys.last as i64);
    reply.integer(row.keys.step as i64);
    let categories = categories(row);
    reply.set(categories.len());
    for category in categories {
        reply.simple(category);
    }
    // Tips.
    reply.array(0);
    write_key_specs(reply, row);
    reply.array(row.subcommands.len());
    for sub in row.subcommands {
        write_row(reply, sub);
    }
}

fn write_key_specs(reply: &mut ReplyWriter<'_>, row: &Row) {
    if row.keys.first == 0 {
        return reply.array(0);
    }
    reply.array(1);
    reply.map(3);
    reply.bulk(b"flags");
    let access = if row.flags & flag::WRITE != 0 { ["RW", "UPDATE"] } else { ["RO", "ACCESS"] };
    reply.set(access.len());
    for word in access {
        reply.simple(word);
    }
    reply.bulk(b"begin_search");
    reply.map(2);
    reply.bulk(b"type");
    reply.bulk(b"index");
    reply.bulk(b"spec");
    reply.map(1);
    reply.bulk(b"index");
    reply.integer(row.keys.first as i64);
    reply.bulk(b"find_keys");
    reply.map(2);
    reply.bulk(b"type");
    reply.bulk(b"range");
    reply.bulk(b"spec");
    reply.map(3);
    reply.bulk(b"lastkey");
    // Relative to the first key, unless it counts from the end.
    let last = if row.keys.last > 0 { row.keys.last - row.keys.first as isize } else { row.keys.last };
    reply.integer(last as i64);
    reply.bulk(b"keystep");
    reply.integer(row.keys.step as i64);
    reply.bulk(b"limit");
    reply.integer(0);
}

fn flags(row: &Row) -> Vec<&'static str> {
    const NAMES: [(u32, &str); 11] = [
        (flag::WRITE, "write"),
        (flag::READONLY, "readonly"),
        (flag::DENYOOM, "denyoom"),
        (flag::ADMIN, "admin"),
        (flag::NOSCRIPT, "noscript"),
        (flag::LOADING, "loading"),
        (flag::STALE, "stale"),
        (flag::SKIP_MONITOR, "skip_monitor"),
        (flag::SKIP_MONITOR, "skip_slowlog"),
        (flag::FAST, "fast"),
        (flag::NO_AUTH, "no_auth"),
    ];
    NAMES.iter().filter(|(bit, _)| row.flags & bit != 0).map(|&(_, name)| name).collect()
}

fn categories(row: &Row) -> Vec<&'static str> {
    let mut categories = Vec::new();
    let mut add = |condition: bool, name| {
        if condition {
            categories.push(name);
        }
    };
    add(row.flags & flag::KEYSPACE != 0, "@keyspace");
    add(row.flags & flag::READONLY != 0, "@read");
    add(row.flags & flag::WRITE != 0, "@write");
    add(row.flags & flag::STRING != 0, "@string");
    add(row.flags & flag::ADMIN != 0, "@admin");
    add(row.flags & flag::FAST != 0, "@fast");
    add(row.flags & flag::FAST == 0, "@slow");
    add(row.flags & (flag::DANGEROUS | flag::ADMIN) != 0, "@dangerous");
    add(row.flags & flag::CONNECTION != 0, "@connection");
    categories
}

fn docs(home: &mut Home<'_>) -> Result {
    let names = home.args;
    let rows: Vec<&'static Row> = match names.len() {
        2 => Command::top_level().map(Command::row).collect(),
        // Unknown names are left out, as in Redis.
        _ => names.iter_from(2).filter_map(find).collect(),
    };
    let mut reply = home.writer();
    reply.map(rows.len());
    for row in rows {
        write_docs(&mut reply, row);
    }
    Ok(Outcome::Done)
}

fn write_docs(reply: &mut ReplyWriter<'_>, row: &Row) {
    reply.bulk(row.name.as_bytes());
    let fields = [("summary", row.summary), ("since", row.since), ("group", row.group), ("complexity", row.complexity)];
    reply.map(fields.len() + !row.subcommands.is_empty() as usize);
    for (name, value) in fields {
        reply.bulk(name.as_bytes());
        reply.bulk(value.as_bytes());
    }
    if !row.subcommands.is_empty() {
        reply.bulk(b"subcommands");
        reply.map(row.subcommands.len());
        for sub in row.subcommands {
            write_docs(reply, sub);
        }
    }
}

fn list(home: &mut Home<'_>) -> Result {
    let mut reply = home.writer();
    reply.array(Command::top_level().count());
    for command in Command::top_level() {
        reply.bulk(command.row().name.as_bytes());
    }
    Ok(Outcome::Done)
}

fn getkeys(home: &mut Home<'_>) -> Result {
    let args = home.args;
    let row = find(args.get(2)).ok_or(Error::Text("ERR Invalid command specified"))?;
    let count = args.len() as i32 - 2;
    if row.arity > 0 && count != row.arity || count < -row.arity {
        return Err(Error::Text("ERR Invalid number of arguments specified for command"));
    }
    if row.keys.first == 0 {
        return Err(Error::Text("ERR The command has no key arguments"));
    }
    let last = if row.keys.last < 0 { count as isize + row.keys.last } else { row.keys.last };
    let keys: Vec<&[u8]> =
        (row.keys.first..=last as usize).step_by(row.keys.step).map(|index| args.get(index + 2)).collect();
    let mut reply = home.writer();
    reply.array(keys.len());
    for key in keys {
        reply.bulk(key);
    }
    Ok(Outcome::Done)
}

fn help(home: &mut Home<'_>) -> Result {
    write_help(&mut home.writer(), "COMMAND", ROWS[0].subcommands);
    Ok(Outcome::Done)
}
