//! Saving: SAVE, BGSAVE, BGREWRITEAOF and LASTSAVE. All three save the same way, beside the clients and without a fork:
//! a snapshot of every shard, after which the log before it is dropped. They differ in what they answer, and in what INFO
//! says of them.

use super::{Error, Handler, Home, NO_KEYS, Outcome, Result, Route, Row, Wait, flag};
use crate::machine::{Machine, SaveFacts, SaveKind, SaveRefused};

const FLAGS: u32 = flag::ADMIN | flag::NOSCRIPT | flag::DANGEROUS;

const fn row(name: &'static str, arity: i32, handler: fn(&mut Home<'_>) -> Result) -> Row {
    Row {
        name,
        arity,
        flags: FLAGS,
        keys: NO_KEYS,
        route: Route::Home,
        handler: Handler::Home(handler),
        group: "server",
        summary: "",
        complexity: "O(1)",
        since: "1.0.0",
        subcommands: &[],
    }
}

pub(super) const ROWS: &[Row] = &[
    Row {
        // The client's next command waits as for an O(N) command, which it is.
        flags: FLAGS | flag::LINEAR,
        summary: "Synchronously saves the database(s) to disk.",
        complexity: "O(N) where N is the total number of keys in all databases",
        ..row("save", 1, save)
    },
    Row { summary: "Asynchronously saves the database(s) to disk.", ..row("bgsave", -1, bgsave) },
    Row { summary: "Asynchronously rewrites the append-only file to disk.", ..row("bgrewriteaof", 1, bgrewriteaof) },
    Row {
        flags: flag::FAST | flag::LOADING | flag::STALE | flag::DANGEROUS,
        summary: "Returns the Unix timestamp of the last successful save to disk.",
        ..row("lastsave", 1, lastsave)
    },
];

/// What would be saved is not all there.
pub(super) const UNAVAILABLE: Error = Error::Text(
    "ERR nothing can be saved yet: Torc is still loading what its data directory has, and what is there stays as it is until \
     then",
);
const RUNNING: Error = Error::Text("ERR Background save already in progress");
/// What SHUTDOWN answers when it goes on.
pub(crate) const NOT_ENDED: Error = Error::Text("ERR Errors trying to SHUTDOWN. Check logs.");
const FAILED: Error = Error::Text(
    "ERR The save has failed; what was saved before is untouched. Torc's messages say what the system answered",
);
const STOPPING: Error = Error::Text("ERR Torc is shutting down, and does not wait for this save");

/// SAVE under way. Only its client waits for it.
#[derive(Debug)]
pub struct Save {
    /// None: it begins when the rewrite that runs has ended, as Redis would not wait for that one either.
    number: Option<u64>,
    /// It is a SHUTDOWN that waits for it.
    pub(crate) ends: bool,
}

impl Save {
    /// Looks whether it has ended, and how.
    pub(crate) fn step(
        &mut self,
        facts: &SaveFacts,
        machine: &mut dyn Machine,
        is_stopping: bool,
    ) -> Option<std::result::Result<(), Error>> {
        match self.number {
            // If a later one has ended too, nobody knows which of them a failure was.
            Some(number) if facts.ended >= number && facts.failed >= number => Some(Err(FAILED)),
            Some(number) if facts.ended >= number => Some(Ok(())),
            _ if is_stopping => Some(Err(STOPPING)),
            Some(_) => None,
            None => match machine.begin_save(SaveKind::Snapshot) {
                Ok(number) => {
                    self.number = Some(number);
                    None
                }
                Err(SaveRefused::Running(_)) => None,
                Err(SaveRefused::Unavailable) => Some(Err(UNAVAILABLE)),
            },
        }
    }
}

fn save(home: &mut Home<'_>) -> Result {
    let number = match home.machine.begin_save(SaveKind::Snapshot) {
        Ok(number) => Some(number),
        Err(SaveRefused::Running(SaveKind::Rewrite)) => None,
        Err(SaveRefused::Running(SaveKind::Snapshot)) => return Err(RUNNING),
        Err(SaveRefused::Unavailable) => return Err(UNAVAILABLE),
    };
    Ok(Outcome::Wait(Wait::Save(Save { number, ends: false })))
}

/// SHUTDOWN that saves: the process ends if that succeeds.
pub(super) fn save_and_end(home: &mut Home<'_>) -> Result {
    match home.machine.begin_save(SaveKind::Snapshot) {
        Ok(number) => Ok(Outcome::Wait(Wait::Save(Save { number: Some(number), ends: true }))),
        // It comes after the one that runs.
        Err(SaveRefused::Running(_)) => Ok(Outcome::Wait(Wait::Save(Save { number: None, ends: true }))),
        Err(SaveRefused::Unavailable) => Err(UNAVAILABLE),
    }
}

fn bgsave(home: &mut Home<'_>) -> Result {
    let may_wait = match home.args.len() {
        1 => false,
        2 if home.args.get(1).eq_ignore_ascii_case(b"schedule") => true,
        _ => return Err(Error::Syntax),
    };
    let said = match home.machine.begin_save(SaveKind::Snapshot) {
        Ok(_) => "Background saving started",
        Err(SaveRefused::Running(SaveKind::Snapshot)) => return Err(RUNNING),
        Err(SaveRefused::Running(SaveKind::Rewrite)) if may_wait => {
            home.machine.schedule_save(SaveKind::Snapshot);
            "Background saving scheduled"
        }
        Err(SaveRefused::Running(SaveKind::Rewrite)) => {
            return Err(Error::Text(
                "ERR Another child process is active (AOF?): can't BGSAVE right now. Use BGSAVE SCHEDULE in order to \
                 schedule a BGSAVE whenever possible.",
            ));
        }
        Err(SaveRefused::Unavailable) => return Err(UNAVAILABLE),
    };
    home.writer().simple(said);
    Ok(Outcome::Done)
}

/// Without a log too, as in Redis.
fn bgrewriteaof(home: &mut Home<'_>) -> Result {
    let said = match home.machine.begin_save(SaveKind::Rewrite) {
        Ok(_) => "Background append only file rewriting started",
        Err(SaveRefused::Running(SaveKind::Rewrite)) => {
            return Err(Error::Text("ERR Background append only file rewriting already in progress"));
        }
        Err(SaveRefused::Running(SaveKind::Snapshot)) => {
            home.machine.schedule_save(SaveKind::Rewrite);
            "Background append only file rewriting scheduled"
        }
        Err(SaveRefused::Unavailable) => return Err(UNAVAILABLE),
    };
    home.writer().simple(said);
    Ok(Outcome::Done)
}

fn lastsave(home: &mut Home<'_>) -> Result {
    let at = home.machine.saves().last_save_s;
    home.writer().integer(at as i64);
    Ok(Outcome::Done)
}
