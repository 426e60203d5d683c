//! The command table: one row says everything that is true of a command without running it, one function runs it.
//!
//! COMMAND, routing, the gates, statistics and the documentation read the rows. To add a command, add a row and a
//! function to its family's file (and a family to [`FAMILIES`]), and a test.
//!
//! What a function is given tells what it can do: a [`Handler::Read`] sees the store but cannot change it, a
//! [`Handler::Write`] can, a [`Handler::Home`] sees the client's session and no keys, a [`Handler::Shard`] is executed on
//! every shard and sees that shard's settings and counters. All arguments are parsed before the store is touched: a
//! command that fails changes nothing.

mod client;
mod commands;
mod config;
mod connection;
mod counter;
mod debug;
mod error;
mod expiry;
mod info;
mod keys;
mod memory;
mod object;
mod parse;
mod persistence;
mod report;
mod scan;
mod server;
mod string;

use std::collections::VecDeque;

use bytes::Bytes;
use torc_protocol::args::{Args, Span};
use torc_protocol::resp::reply::{ReplyBuffer, ReplyWriter};

pub use debug::Sleep;
pub use error::Error;
pub(crate) use info::counts_keys;
pub(crate) use persistence::NOT_ENDED;
pub use persistence::Save;
pub use report::Report;
pub(crate) use report::write_report;
pub use scan::KeysScan;
pub(crate) use scan::{cursor_shard, wanted_count};

use crate::config::Config;
use crate::id::{Millis, ShardId};
use crate::machine::Machine;
use crate::session::Client;
use crate::shard::Event;
use crate::stats::Stats;
use crate::store::Store;

/// What is true of a command, apart from what it does.
#[derive(Debug)]
pub struct Row {
    /// Lower case; a subcommand is `config|get`.
    pub name: &'static str,
    /// Number of arguments with the name; negative: at least that many.
    pub arity: i32,
    /// Properties, see [`flag`].
    pub flags: u32,
    /// Where the keys are.
    pub keys: Keys,
    /// Where it is executed.
    pub route: Route,
    pub handler: Handler,
    pub group: &'static str,
    pub summary: &'static str,
    pub complexity: &'static str,
    pub since: &'static str,
    /// Rows of subcommands; those of a container only.
    pub subcommands: &'static [Row],
}

/// Properties of a command, as bits.
pub mod flag {
    /// Changes data.
    pub const WRITE: u32 = 1 << 0;
    /// Reads data.
    pub const READONLY: u32 = 1 << 1;
    /// May use more memory: refused when there is none.
    pub const DENYOOM: u32 = 1 << 2;
    /// For operators.
    pub const ADMIN: u32 = 1 << 3;
    /// Constant or logarithmic time.
    pub const FAST: u32 = 1 << 4;
    /// Allowed while data is loaded.
    pub const LOADING: u32 = 1 << 5;
    /// Allowed on a replica with stale data.
    pub const STALE: u32 = 1 << 6;
    /// Allowed before login.
    pub const NO_AUTH: u32 = 1 << 7;
    /// Not for scripts.
    pub const NOSCRIPT: u32 = 1 << 8;
    /// O(N): its duration is always measured, and it counts as slow for the other commands of its shard.
    pub const LINEAR: u32 = 1 << 9;
    /// Dangerous for production data or availability (ACL category).
    pub const DANGEROUS: u32 = 1 << 10;
    /// About the connection (ACL category).
    pub const CONNECTION: u32 = 1 << 11;
    /// About keys whatever their type (ACL category).
    pub const KEYSPACE: u32 = 1 << 12;
    /// On strings (ACL category).
    pub const STRING: u32 = 1 << 13;
    /// May take far more memory than its arguments.
    pub const GROWS: u32 = 1 << 15;
    /// Not shown in MONITOR and the slow log: carries a password.
    pub const SKIP_MONITOR: u32 = 1 << 14;
    /// Only for whom a parameter names (`enable-debug-command`). Subcommands that do not exist and wrong numbers of
    /// arguments are one error, as in Redis.
    pub const PROTECTED: u32 = 1 << 16;

    // No two share a bit.
    const ALL: [u32; 17] = [
        WRITE,
        READONLY,
        DENYOOM,
        ADMIN,
        FAST,
        LOADING,
        STALE,
        NO_AUTH,
        NOSCRIPT,
        LINEAR,
        DANGEROUS,
        CONNECTION,
        KEYSPACE,
        STRING,
        GROWS,
        SKIP_MONITOR,
        PROTECTED,
    ];
    const _: () = {
        let (mut at, mut seen) = (0, 0);
        while at < ALL.len() {
            assert!(seen & ALL[at] == 0);
            seen |= ALL[at];
            at += 1;
        }
    };
}

/// Where a command's keys are among its arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keys {
    /// Index of the first; 0: no keys.
    pub first: usize,
    /// Index of the last; negative counts from the end.
    pub last: isize,
    /// Distance from one key to the next.
    pub step: usize,
}

/// No keys.
pub const NO_KEYS: Keys = Keys { first: 0, last: 0, step: 0 };
/// One key, right after the name.
pub const ONE_KEY: Keys = Keys { first: 1, last: 1, step: 1 };
/// All arguments are keys.
pub const ALL_KEYS: Keys = Keys { first: 1, last: -1, step: 1 };
/// Keys and values in turn.
pub const KEYS_AND_VALUES: Keys = Keys { first: 1, last: -1, step: 2 };

/// Where a command is executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// On the client's own shard, at once.
    Home,
    /// On the shard that owns its one key.
    Key,
    /// On the shards that own its keys, each with its share of them.
    Keys(Merge),
    /// On every shard.
    All(Merge),
    /// On shard 0 and, if it succeeds there, on every other shard in the order in which shard 0 executed it: two of them
    /// at the same moment leave all shards alike.
    Ordered(Merge),
    /// On the shard that the cursor in the first argument names, and on the next ones while keys are wanting.
    Cursor,
    /// Its subcommand tells.
    Container,
}

/// How the replies of several shards become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Merge {
    /// Integers are added.
    Sum,
    /// `+OK`, if all say so.
    Ok,
    /// Arrays with one element per key become one in the order of the keys.
    Interleave,
    /// Arrays are joined.
    Concat,
    /// Texts are joined into one verbatim string.
    ConcatText,
    /// One of the keys offered, each shard's weighted by how many keys it has.
    RandomKey,
    /// Counters become a report such as `INFO`.
    Report(Report),
    /// Pages of SCAN, one shard after another until there are enough keys.
    Scan,
}

/// The function that runs a command.
#[derive(Clone, Copy, Debug)]
pub enum Handler {
    Home(fn(&mut Home<'_>) -> Result),
    Read(fn(&Call<'_>, &Store, &mut ReplyWriter<'_>) -> Result),
    Write(fn(&Call<'_>, &mut Store, &mut ReplyWriter<'_>) -> Result),
    Shard(fn(&Call<'_>, &mut Owner<'_>, &mut ReplyWriter<'_>) -> Result),
    /// A container without a function of its own.
    None,
}

/// How a handler ended: the reply is written, or the command goes on later.
#[derive(Debug)]
pub enum Outcome {
    Done,
    /// Nothing was written; the command keeps its place in the order of replies and is resumed in slices.
    Wait(Wait),
}

/// Why a command waits, with what it needs to go on.
#[derive(Debug)]
pub enum Wait {
    /// KEYS goes through the keyspace in slices.
    Keys(Box<KeysScan>),
    /// FLUSHALL SYNC and its relatives wait until what was flushed so far is freed ([`Store::flushes`]).
    Freed { flushes: u64 },
    /// DEBUG SLEEP.
    Sleep(Sleep),
    /// SAVE waits until the save has ended: it goes on when something is known, and takes no slices.
    Save(Save),
}

/// What a handler returns. An error is written as the reply, whatever the handler wrote before is dropped.
pub type Result = std::result::Result<Outcome, Error>;

/// One command as its owner executes it.
#[derive(Clone, Copy)]
pub struct Call<'a> {
    /// What [`Call::args`] is made of. Kept apart: an `Args` that is stored here in one piece is copied in wider pieces
    /// than it was made of, and the processor waits for each (6 ns of a GET).
    pub buffer: &'a [u8],
    pub spans: &'a [Span],
    pub shared: &'a [Bytes],
    pub command: Command,
    pub db: u8,
    /// Hash of the key; of commands with one key only.
    pub hash: u64,
    pub now: Millis,
    /// Longest string that a value may become (`proto-max-bulk-len`).
    pub bulk_bytes_max: u64,
}

impl<'a> Call<'a> {
    /// The arguments, the command's name first.
    #[inline(always)]
    pub fn args(&self) -> Args<'a> {
        Args::new(self.buffer, self.spans, self.shared)
    }
}

/// The shard, for the commands that are about it.
pub struct Owner<'a> {
    pub id: ShardId,
    pub shards: usize,
    pub store: &'a mut Store,
    pub config: &'a mut Config,
    pub stats: &'a mut Stats,
    pub random: &'a mut dyn FnMut() -> u64,
    /// Set it to have memory given back to the system from now on, not from the next tick on.
    pub compact: &'a mut bool,
    /// One line per client of this shard, for CLIENT LIST.
    pub clients: &'a dyn Fn() -> Vec<u8>,
}

/// The client's own shard, for the commands that are about the connection or the process.
pub struct Home<'a> {
    pub args: Args<'a>,
    pub command: Command,
    pub client: &'a mut Client,
    pub reply: &'a mut ReplyBuffer,
    pub config: &'a Config,
    pub machine: &'a mut dyn Machine,
    pub events: &'a mut VecDeque<Event>,
    pub now: Millis,
}

impl Home<'_> {
    /// A writer in the client's dialect as it is now (HELLO changes it).
    pub fn writer(&mut self) -> ReplyWriter<'_> {
        ReplyWriter::new(self.reply, self.client.dialect)
    }

    /// Replies `+OK`.
    pub fn ok(&mut self) -> Result {
        self.writer().ok();
        Ok(Outcome::Done)
    }
}

/// The families, in the order of COMMAND.
const FAMILIES: &[&[Row]] = &[
    string::ROWS,
    counter::ROWS,
    keys::ROWS,
    object::ROWS,
    memory::ROWS,
    expiry::ROWS,
    scan::ROWS,
    connection::ROWS,
    client::ROWS,
    config::ROWS,
    info::ROWS,
    server::ROWS,
    persistence::ROWS,
    debug::ROWS,
    commands::ROWS,
];

/// A command: its row's place in the table, which is also what travels between shards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Command(u16);

impl Command {
    /// The place in the table, for tables of counters beside it.
    #[inline]
    pub fn index(self) -> usize {
        self.0 as usize
    }

    pub(crate) fn id(self) -> u16 {
        self.0
    }

    pub(crate) fn from_id(id: u16) -> Command {
        Command(id)
    }

    /// The row.
    #[inline]
    pub fn row(self) -> &'static Row {
        TABLE.rows[self.0 as usize]
    }

    /// What the gates ask.
    #[inline(always)]
    pub(crate) fn gate(self) -> &'static Gate {
        &TABLE.gates[self.0 as usize]
    }

    /// All commands, subcommands after their containers.
    pub fn all() -> impl Iterator<Item = Command> {
        (0..TABLE.len as u16).map(Command)
    }

    /// All commands but subcommands.
    pub fn top_level() -> impl Iterator<Item = Command> {
        Command::all().filter(|command| !command.row().name.contains('|'))
    }

    /// The command with a name, whatever its case; not subcommands.
    pub fn lookup(name: &[u8]) -> Option<Command> {
        Command::lookup_packed(pack_name(name), name)
    }

    /// The command that a request names.
    #[inline(always)]
    pub fn of(args: Args<'_>) -> Option<Command> {
        match args.word(0) {
            Some((word, len)) => Command::lookup_packed(fold_case(word) | (len as u64) << 56, b""),
            None => Command::lookup(args.get(0)),
        }
    }

    /// `name` is looked at only if it is longer than what `packed` holds.
    #[inline(always)]
    fn lookup_packed(packed: u64, name: &[u8]) -> Option<Command> {
        let mut at = hash_packed(packed) % INDEX_LEN;
        loop {
            let id = TABLE.index[at];
            if id == NO_ROW {
                return None;
            }
            if TABLE.packed[id as usize] == packed && (name.len() <= 7 || is_long_name(id, name)) {
                return Some(Command(id));
            }
            at = (at + 1) % INDEX_LEN;
        }
    }

    /// The subcommand with a name, whatever its case. Rows of subcommands follow their container's.
    pub fn subcommand(self, name: &[u8]) -> Option<Command> {
        let row = self.row();
        let at = row.subcommands.iter().position(|sub| {
            let sub = sub.name.as_bytes();
            sub[row.name.len() + 1..].eq_ignore_ascii_case(name)
        })?;
        Some(Command(self.0 + 1 + at as u16))
    }
}

const ROWS_MAX: usize = 512;
const INDEX_LEN: usize = 2048;
const NO_ROW: u16 = u16::MAX;

/// The families in one array, and an open-addressed index of names into it; made by the compiler.
struct Table {
    rows: [&'static Row; ROWS_MAX],
    len: usize,
    index: [u16; INDEX_LEN],
    /// The names' packed forms.
    packed: [u64; ROWS_MAX],
    /// What the gates ask of each row, side by side.
    gates: [Gate; ROWS_MAX],
}

/// What every command is asked before it runs, from its row.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Gate {
    /// Fewest and most arguments, the name included.
    pub args_min: u32,
    pub args_max: u32,
    pub flags: u32,
    /// Index of the key if it has exactly one and goes to its owner; 0 otherwise.
    pub single_key: u16,
    /// It has subcommands.
    pub container: bool,
}

const fn gate(row: &Row) -> Gate {
    Gate {
        args_min: row.arity.unsigned_abs(),
        args_max: if row.arity > 0 { row.arity as u32 } else { u32::MAX },
        flags: row.flags,
        single_key: if matches!(row.route, Route::Key) { row.keys.first as u16 } else { 0 },
        container: !row.subcommands.is_empty(),
    }
}

static TABLE: Table = build_table();

const fn build_table() -> Table {
    let mut table = Table {
        rows: [&FAMILIES[0][0]; ROWS_MAX],
        len: 0,
        index: [NO_ROW; INDEX_LEN],
        packed: [0; ROWS_MAX],
        gates: [gate(&FAMILIES[0][0]); ROWS_MAX],
    };
    let mut family = 0;
    while family < FAMILIES.len() {
        let mut at = 0;
        while at < FAMILIES[family].len() {
            let row = &FAMILIES[family][at];
            let packed = pack_name(row.name.as_bytes());
            table.packed[table.len] = packed;
            table.gates[table.len] = gate(row);
            let mut place = hash_packed(packed) % INDEX_LEN;
            while table.index[place] != NO_ROW {
                place = (place + 1) % INDEX_LEN;
            }
            table.index[place] = table.len as u16;
            table.rows[table.len] = row;
            table.len += 1;
            let mut sub = 0;
            while sub < row.subcommands.len() {
                table.rows[table.len] = &row.subcommands[sub];
                table.gates[table.len] = gate(&row.subcommands[sub]);
                table.len += 1;
                sub += 1;
            }
            at += 1;
        }
        family += 1;
    }
    table
}

/// A name as one number: its first seven bytes in lower case and its length, so that the usual name is compared at once.
#[inline]
const fn pack_name(name: &[u8]) -> u64 {
    let len = name.len() as u8;
    let word = match *name {
        [] => 0,
        [a] => a as u64,
        [a, b] => u64::from_le_bytes([a, b, 0, 0, 0, 0, 0, 0]),
        [a, b, c] => u64::from_le_bytes([a, b, c, 0, 0, 0, 0, 0]),
        [a, b, c, d] => u64::from_le_bytes([a, b, c, d, 0, 0, 0, 0]),
        [a, b, c, d, e] => u64::from_le_bytes([a, b, c, d, e, 0, 0, 0]),
        [a, b, c, d, e, f] => u64::from_le_bytes([a, b, c, d, e, f, 0, 0]),
        [a, b, c, d, e, f, g, ..] => u64::from_le_bytes([a, b, c, d, e, f, g, 0]),
    };
    fold_case(word) | (len as u64) << 56
}

/// Sets bit 5 where bit 6 is set, which makes letters lower case; what else it changes is in no name.
#[inline(always)]
const fn fold_case(word: u64) -> u64 {
    word | (word & 0x0040_4040_4040_4040) >> 1
}

const fn hash_packed(packed: u64) -> usize {
    (packed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 48) as usize
}

#[cold]
fn is_long_name(id: u16, name: &[u8]) -> bool {
    TABLE.rows[id as usize].name.as_bytes().eq_ignore_ascii_case(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_found_by_its_name_and_is_consistent() {
        for command in Command::top_level() {
            let row = command.row();
            assert_eq!(Command::lookup(row.name.to_ascii_uppercase().as_bytes()), Some(command), "{}", row.name);
            assert_eq!(row.name, row.name.to_ascii_lowercase());
            for sub in row.subcommands {
                let (container, name) = sub.name.split_once('|').expect("a subcommand names its container");
                assert_eq!(container, row.name);
                let found = command.subcommand(name.to_ascii_uppercase().as_bytes()).expect(sub.name);
                assert!(std::ptr::eq(found.row(), sub));
            }
        }
        for command in Command::all() {
            let row = command.row();
            let keyed = matches!(row.route, Route::Key | Route::Keys(_));
            assert_eq!(keyed, row.keys.first > 0, "{}", row.name);
            match row.handler {
                Handler::Read(_) => assert!(row.flags & flag::READONLY != 0, "{}", row.name),
                Handler::Write(_) => assert!(row.flags & flag::WRITE != 0, "{}", row.name),
                Handler::Home(_) => assert_eq!(row.route, Route::Home, "{}", row.name),
                Handler::Shard(_) => {
                    let on_shards = matches!(row.route, Route::All(_) | Route::Ordered(_) | Route::Cursor);
                    assert!(on_shards, "{}", row.name);
                }
                Handler::None => assert!(!row.subcommands.is_empty(), "{}", row.name),
            }
            assert!(!row.summary.is_empty() && !row.since.is_empty() && !row.complexity.is_empty(), "{}", row.name);
        }
    }

    #[test]
    fn unknown_words_are_not_found() {
        for word in [
            "",
            "g",
            "gett",
            "get ",
            "config|get",
            "ge\0",
            "g\0t",
            "GE\x14",
            "get\0",
            "a very long word that is no command at all",
        ] {
            assert_eq!(Command::lookup(word.as_bytes()), None, "{word:?}");
        }
    }
}
