//! What a command must pass before it runs, in order. The client's own shard asks first (name, arity, login, loading; later
//! permission, rate, subscribe mode, MULTI), the owner of the key asks last: memory ([`super::budget`]; later read-only).

use torc_protocol::args::Args;

use crate::command::{Command, Error, flag};
use crate::config::{Config, Protection};
use crate::session::Client;

/// Bytes of a name, and of arguments together, that an error shows.
const SHOWN_BYTES_MAX: usize = 128;

/// Why a command is not run.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// An error reply, and the command it counts for if it was found.
    Reply { text: Vec<u8>, command: Option<Command> },
    /// A web browser was made to talk to us: close at once, without a reply (as Redis does).
    CrossProtocol,
}

/// What a command's flags must say for a client to use it now.
#[inline]
pub(super) fn required_flags(client: &Client, is_loading: bool) -> u32 {
    (if client.authenticated { 0 } else { flag::NO_AUTH }) | (if is_loading { flag::LOADING } else { 0 })
}

/// The home gates: finds the command, or says why it is refused. `required` are [`required_flags`].
#[inline(always)]
pub(super) fn pass_home(args: Args<'_>, client: &Client, config: &Config, required: u32) -> Result<Command, Refusal> {
    let Some(mut command) = Command::of(args) else { return Err(unknown(args)) };
    let mut gate = command.gate();
    let count = args.len() as u32;
    if gate.container && count > 1 {
        if gate.flags & flag::PROTECTED != 0 {
            pass_protection(command, args, client, config)?;
        }
        let Some(sub) = command.subcommand(args.get(1)) else { return Err(unknown_subcommand(command, args)) };
        command = sub;
        gate = sub.gate();
    }
    if count < gate.args_min || count > gate.args_max {
        return Err(wrong_arity(command, args));
    }
    if gate.flags & required != required {
        let login_first = required & !gate.flags & flag::NO_AUTH != 0;
        return Err(refuse(command, if login_first { Error::NoAuth } else { Error::Loading }, args));
    }
    Ok(command)
}

/// Whether the parameters let the client use a command of this kind. DEBUG is the one there is.
#[cold]
fn pass_protection(command: Command, args: Args<'_>, client: &Client, config: &Config) -> Result<(), Refusal> {
    let local = client.address.ip().to_canonical().is_loopback();
    match config.debug_command {
        Protection::Yes => Ok(()),
        Protection::Local if local => Ok(()),
        Protection::Local | Protection::No => Err(refuse(command, Error::DebugNotAllowed, args)),
    }
}

#[cold]
fn refuse(command: Command, error: Error, args: Args<'_>) -> Refusal {
    Refusal::Reply { text: error.text(command.row().name, args), command: Some(command) }
}

#[cold]
fn wrong_arity(command: Command, args: Args<'_>) -> Refusal {
    match args.len() > 1 && command.gate().flags & flag::PROTECTED != 0 {
        true => unknown_subcommand(command, args),
        false => refuse(command, Error::WrongArity, args),
    }
}

#[cold]
fn unknown(args: Args<'_>) -> Refusal {
    let name = args.get(0);
    if name.eq_ignore_ascii_case(b"post") || name.eq_ignore_ascii_case(b"host:") {
        return Refusal::CrossProtocol;
    }
    let mut text = b"ERR unknown command '".to_vec();
    text.extend_from_slice(&name[..name.len().min(SHOWN_BYTES_MAX)]);
    text.extend_from_slice(b"', with args beginning with: ");
    let start = text.len();
    for arg in args.iter_from(1) {
        let left = SHOWN_BYTES_MAX.saturating_sub(text.len() - start);
        if left == 0 {
            break;
        }
        text.push(b'\'');
        text.extend_from_slice(&arg[..arg.len().min(left)]);
        text.extend_from_slice(b"' ");
    }
    Refusal::Reply { text, command: None }
}

#[cold]
fn unknown_subcommand(command: Command, args: Args<'_>) -> Refusal {
    let sub = args.get(1);
    let row = command.row();
    let container = row.name.split('|').next().unwrap_or_default();
    let mut text = b"ERR unknown subcommand ".to_vec();
    if row.flags & flag::PROTECTED != 0 {
        text.extend_from_slice(b"or wrong number of arguments for ");
    }
    text.push(b'\'');
    text.extend_from_slice(&sub[..sub.len().min(SHOWN_BYTES_MAX)]);
    text.extend_from_slice(b"'. Try ");
    text.extend_from_slice(container.to_ascii_uppercase().as_bytes());
    text.extend_from_slice(b" HELP.");
    Refusal::Reply { text, command: Some(command) }
}
