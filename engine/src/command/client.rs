//! CLIENT: what a connection says about itself, and who is connected.

use torc_protocol::resp::reply::ReplyWriter;

use super::{Call, Error, Handler, Home, Merge, NO_KEYS, Outcome, Owner, Result, Route, Row, flag};

const fn row(name: &'static str, arity: i32, handler: Handler, since: &'static str) -> Row {
    Row {
        name,
        arity,
        flags: flag::NOSCRIPT | flag::LOADING | flag::STALE | flag::CONNECTION,
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

pub(super) const ROWS: &[Row] = &[Row {
    summary: "A container for client connection commands.",
    complexity: "Depends on subcommand.",
    route: Route::Container,
    subcommands: &[
        Row {
            summary: "Returns the unique client ID of the connection.",
            ..row("client|id", 2, Handler::Home(id), "5.0.0")
        },
        Row {
            summary: "Returns the name of the connection.",
            ..row("client|getname", 2, Handler::Home(getname), "2.6.9")
        },
        Row { summary: "Sets the connection name.", ..row("client|setname", 3, Handler::Home(setname), "2.6.9") },
        Row {
            summary: "Sets information specific to the client or connection.",
            ..row("client|setinfo", 4, Handler::Home(setinfo), "7.2.0")
        },
        Row {
            summary: "Returns information about the connection.",
            ..row("client|info", 2, Handler::Home(info), "6.2.0")
        },
        Row {
            summary: "Lists open connections.",
            complexity: "O(N) where N is the number of client connections",
            route: Route::All(Merge::ConcatText),
            ..row("client|list", -2, Handler::Shard(list), "2.4.0")
        },
        Row {
            summary: "Returns helpful text about the different subcommands.",
            ..row("client|help", 2, Handler::Home(help), "5.0.0")
        },
    ],
    ..row("client", -2, Handler::None, "2.4.0")
}];

/// Names are printed in space-separated lists, so they hold visible ASCII only.
pub(super) fn check_name(name: &[u8], error: Error) -> std::result::Result<(), Error> {
    if name.iter().all(|byte| (b'!'..=b'~').contains(byte)) { Ok(()) } else { Err(error) }
}

fn id(home: &mut Home<'_>) -> Result {
    let id = home.client.id as i64;
    home.writer().integer(id);
    Ok(Outcome::Done)
}

fn getname(home: &mut Home<'_>) -> Result {
    let mut reply = ReplyWriter::new(home.reply, home.client.dialect);
    match home.client.name.is_empty() {
        true => reply.null(),
        false => reply.bulk(&home.client.name),
    }
    Ok(Outcome::Done)
}

fn setname(home: &mut Home<'_>) -> Result {
    let name = home.args.get(2);
    check_name(name, Error::BadClientName)?;
    home.client.name = name.to_vec();
    home.ok()
}

fn setinfo(home: &mut Home<'_>) -> Result {
    let (attribute, value) = (home.args.get(2), home.args.get(3));
    if attribute.eq_ignore_ascii_case(b"lib-name") {
        check_name(value, Error::BadLibName)?;
        home.client.lib_name = value.to_vec();
    } else if attribute.eq_ignore_ascii_case(b"lib-ver") {
        check_name(value, Error::BadLibVersion)?;
        home.client.lib_version = value.to_vec();
    } else {
        let mut text = b"ERR Unrecognized option '".to_vec();
        text.extend_from_slice(attribute);
        text.push(b'\'');
        home.writer().error(&text);
        return Ok(Outcome::Done);
    }
    home.ok()
}

fn info(home: &mut Home<'_>) -> Result {
    let mut line = home.client.describe(home.now, "client|info");
    line.push('\n');
    home.writer().verbatim(line.as_bytes());
    Ok(Outcome::Done)
}

fn list(call: &Call<'_>, owner: &mut Owner<'_>, reply: &mut ReplyWriter<'_>) -> Result {
    let args = call.args();
    let mut all = true;
    match args.len() {
        2 => {}
        4 if args.get(2).eq_ignore_ascii_case(b"type") => {
            let kind = args.get(3);
            let kinds = ["normal", "master", "replica", "slave", "pubsub"];
            let found = kinds.iter().position(|name| kind.eq_ignore_ascii_case(name.as_bytes()));
            all = found == Some(0);
            if found.is_none() {
                let text = [b"ERR Unknown client type '", kind, b"'"].concat();
                reply.error(&text);
                return Ok(Outcome::Done);
            }
        }
        _ => return Err(Error::Syntax),
    }
    if !all {
        reply.bulk(b"");
        return Ok(Outcome::Done);
    }
    reply.bulk(&(owner.clients)());
    Ok(Outcome::Done)
}

fn help(home: &mut Home<'_>) -> Result {
    write_help(&mut home.writer(), "CLIENT", ROWS[0].subcommands);
    Ok(Outcome::Done)
}

/// The help of a container, from its rows.
pub(super) fn write_help(reply: &mut ReplyWriter<'_>, container: &str, rows: &[Row]) {
    reply.array(1 + rows.len() * 2);
    reply.simple(&format!("{container} <subcommand> [<arg> [value] [opt] ...]. Subcommands are:"));
    for row in rows {
        let (_, name) = row.name.split_once('|').unwrap_or(("", row.name));
        reply.simple(&name.to_ascii_uppercase());
        reply.simple(&format!("    {}", row.summary));
    }
}
