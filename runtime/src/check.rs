//! `torc check DIR` and `torc repair DIR`: what is in a data directory, and what can be done if that is not what should be.
//!
//! ```text
//! torc check DIR [--json]
//! torc repair DIR (--truncate | --skip-batch) [--dry-run] [--json]
//! ```
//!
//! Exit statuses, which tell all that a script needs:
//!
//! | status | check | repair |
//! | --- | --- | --- |
//! | 0 | sound | repaired, or nothing was wrong |
//! | 1 | a crash tore an unsynced write: the next start mends that | - |
//! | 2 | corrupt: damaged, no valid manifest, a newer one that does not count, or of another version | it cannot be repaired so; as it was |
//! | 64 | called wrongly | called wrongly |
//! | 66 | there is no file of Torc's, and there are others | - |
//! | 74 | it cannot be read | it cannot be read or written |
//! | 75 | - | somebody uses it; as it was |
//!
//! With `--dry-run` the statuses of `repair` are the same and nothing is changed. `examine.rs` looks, `repair.rs` mends, `log.rs`
//! reads a shard for both, `newer.rs` judges manifests that do not count yet, and `report.rs` says what was found.

mod examine;
mod log;
mod newer;
mod repair;
mod report;
#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::error::ErrorKind;
use clap::{ArgGroup, Parser};
use rustix::rand::{GetRandomFlags, getrandom};
use serde_json::{Value, json};
use torc_engine::id::Millis;
use torc_engine::limits::LOG_SEGMENT_FIRST_BYTES;

use self::repair::{Method, Plan, RepairError};
use crate::disk::log::SegmentSizes;
use crate::disk::{DiskError, Host};
use crate::limits::REPAIR_SEGMENT_BYTES;

/// sysexits.h: the command was used incorrectly.
const STATUS_USAGE: u8 = 64;
/// sysexits.h: an error of input or output.
const STATUS_IO: u8 = 74;
/// sysexits.h: try again later.
const STATUS_IN_USE: u8 = 75;
const STATUS_CORRUPT: u8 = 2;

/// Reads a data directory and says whether a server starts on it. Changes nothing.
///
/// Every file that counts is read whole: CURRENT and its manifest, the snapshots, and the log from each shard's base on. A shard's log
/// is held in memory meanwhile.
///
/// It may run beside a server. What that writes last is not judged then, and damage counts if two looks find the same; stop
/// the server to have a definite answer.
#[derive(Parser)]
#[command(
    name = "torc check",
    bin_name = "torc check",
    after_help = "\
Exit status: 0 sound; 1 torn, which the next start mends by itself; 2 corrupt, another version, or data without a valid \
manifest or with a newer one that does not count; 64 called wrongly; 66 foreign: files, and none of Torc's; 74 the directory cannot be read.

--json prints one object:
  directory, verdict (sound, torn, corrupt, foreign), exit_status, advice
  in_use, in_use_by           whether somebody serves it, and the process, or null
  problem                     why no manifest counts, or null
  manifest                    null, or {file, number, generation}
  newer                       null, or {files, unfinished}: manifests after that one, and whether a switch to them
                              was merely not finished
  shards[]                    shard, verdict, and
    .snapshot                 null, or {file, bytes, entries, entries_expected,
                                        damage: null or {offset, why, fallback_manifest}}
    .log                      {base_lsn, last_lsn, records, sealed, segments[], torn, damage[]}
    .log.segments[]           {file, bytes, records, first_lsn, last_lsn, sealed}
    .log.torn                 null, or {file, offset, bytes}
    .log.damage[]             {file, offset, why, first_lsn, last_lsn, more_follows}
  files[]                     {file, bytes, role, needed}; role is lock, current, manifest, segment, snapshot,
                              previous, spare, torn-copy, unneeded, foreign or unknown"
)]
struct CheckArgs {
    /// The data directory.
    dir: PathBuf,
    /// Print one JSON object, see below.
    #[arg(long)]
    json: bool,
}

/// Makes a damaged data directory one that a server starts on, and says what is lost.
///
/// What can be read of a damaged shard is written again, and counts from the moment at which the new manifest does; what was
/// replaced is kept in DIR/repair-<n>. Other shards are not touched. A damaged snapshot is replaced by the one before, as long
/// as that and its log are there. Nothing is changed if nothing is wrong, or if somebody uses the directory.
#[derive(Parser)]
#[command(
    name = "torc repair",
    bin_name = "torc repair",
    group = ArgGroup::new("method").required(true),
    after_help = "\
Exit status: 0 repaired, or nothing was wrong; 2 this cannot be repaired; 64 called wrongly; 74 the directory cannot be \
read or written, or has no room for copies; 75 somebody uses it.

--json prints one object:
  directory, method, dry_run, changed, copy (a folder or null), manifest (the file that counts now, or null)
  shards[]                    {shard, fallback_manifest, damage[], torn, records_kept, lost[], lost_readable}
    .damage[], .torn          as of torc check
    .lost[]                   {first_lsn, last_lsn}; last_lsn is null if nobody knows
    .lost_readable            {records, by_kind, keys}: what of the lost can be read, with some of its keys
  error                       instead of all that, if nothing was repaired"
)]
struct RepairArgs {
    /// The data directory.
    dir: PathBuf,
    /// Give up all of a damaged shard's log from the first damage on: a state that was there once.
    #[arg(long, group = "method")]
    truncate: bool,
    /// Give up what cannot be read only, and keep what follows, although that may lack what it was made of.
    #[arg(long, group = "method")]
    skip_batch: bool,
    /// Say what would be lost, and change nothing.
    #[arg(long)]
    dry_run: bool,
    /// Print one JSON object, see below.
    #[arg(long)]
    json: bool,
}

/// Runs `check` or `repair` if the arguments of the process, its own name first, ask for one of them.
pub fn run(args: impl Iterator<Item = OsString>) -> Option<ExitCode> {
    let mut args = args.skip(1).peekable();
    let status = match args.peek()?.to_str()? {
        "check" => parse(args).map_or_else(|status| status, check),
        "repair" => parse(args).map_or_else(|status| status, mend),
        _ => return None,
    };
    Some(ExitCode::from(status))
}

/// The arguments, or the status to end with.
fn parse<P: Parser>(args: impl Iterator<Item = OsString>) -> Result<P, u8> {
    P::try_parse_from(args).map_err(|error| {
        // Whoever asked may have stopped listening.
        let _ = error.print();
        match error.kind() {
            ErrorKind::DisplayHelp => 0,
            _ => STATUS_USAGE,
        }
    })
}

fn check(args: CheckArgs) -> u8 {
    match examine::examine(&Host, &args.dir) {
        Ok(report) => {
            show(args.json, || report.to_text(), || report.to_json());
            report.verdict() as u8
        }
        Err(error) => fail(args.json, STATUS_IO, &error.to_string()),
    }
}

fn mend(args: RepairArgs) -> u8 {
    let mut salt = [0; 8];
    // As many bytes as that come at once or not at all.
    if let Err(errno) = getrandom(&mut salt, GetRandomFlags::empty()) {
        return fail(args.json, STATUS_IO, &format!("cannot get random bytes: {errno}"));
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
    let plan = Plan {
        method: if args.truncate { Method::Truncate } else { Method::SkipBatch },
        is_dry: args.dry_run,
        sizes: SegmentSizes { first_bytes: LOG_SEGMENT_FIRST_BYTES, full_bytes: REPAIR_SEGMENT_BYTES },
        now: Millis(now),
        salt: u64::from_le_bytes(salt),
    };
    match repair::repair(&Host, &args.dir, &plan) {
        Ok(outcome) => {
            show(args.json, || outcome.to_text(), || outcome.to_json());
            0
        }
        Err(error) => {
            let status = match &error {
                RepairError::Disk(DiskError::InUse { .. }) => STATUS_IN_USE,
                RepairError::Disk(DiskError::Io { .. }) | RepairError::Space { .. } => STATUS_IO,
                _ => STATUS_CORRUPT,
            };
            fail(args.json, status, &error.to_string())
        }
    }
}

fn show(json: bool, text: impl FnOnce() -> String, value: impl FnOnce() -> Value) {
    let text = if json { format!("{:#}\n", value()) } else { text() };
    // Whoever asked may have stopped listening.
    let _ = std::io::stdout().write_all(text.as_bytes());
}

fn fail(json: bool, status: u8, error: &str) -> u8 {
    if json {
        show(true, String::new, || json!({ "error": error, "exit_status": status }));
    } else {
        crate::log::complain(error);
    }
    status
}
