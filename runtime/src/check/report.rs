//! What a check found, in words and as JSON.

use std::fmt::Write;
use std::path::PathBuf;

use serde_json::{Value, json};

use super::log::{Damage, Log, LogSegment, Snapshot};
use super::newer::Newer;
use crate::disk::{User, names};

/// What a directory is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    Sound,
    /// The next start cuts off what a crash tore, and goes on.
    Torn,
    /// No start before something is done.
    Corrupt,
    /// There are files, and none of Torc's: as sysexits.h has it, no input.
    Foreign = 66,
}

impl Verdict {
    pub fn name(self) -> &'static str {
        match self {
            Verdict::Sound => "sound",
            Verdict::Torn => "torn",
            Verdict::Corrupt => "corrupt",
            Verdict::Foreign => "foreign",
        }
    }
}

/// A whole directory.
#[derive(Clone, Debug)]
pub struct Report {
    pub directory: PathBuf,
    /// Who uses it, while it was looked at.
    pub user: Option<User>,
    /// What is wrong with the directory itself, so that nothing in it counts.
    pub problem: Option<String>,
    /// What may help against that.
    pub hint: Option<String>,
    /// Number and generation of the manifest that counts.
    pub manifest: Option<(u64, u64)>,
    /// Manifests that came after it and do not count.
    pub newer: Option<Newer>,
    pub shards: Vec<ShardReport>,
    pub files: Vec<FileReport>,
}

#[derive(Clone, Debug)]
pub struct ShardReport {
    pub shard: u16,
    pub snapshot: Option<Snapshot>,
    /// The number of an older manifest whose snapshot of this shard is sound, if that of this one is not.
    pub fallback: Option<u64>,
    pub log: Log,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileReport {
    pub name: String,
    pub bytes: u64,
    pub role: Role,
}

/// What a file of the directory is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Lock,
    Current,
    Manifest,
    Segment,
    Snapshot,
    /// Of the manifest before.
    Previous,
    /// To be used again.
    Spare,
    /// What was cut off by a start.
    TornCopy,
    /// Of Torc's, and needed by nobody; the server removes it by itself.
    Unneeded,
    /// Not of Torc's.
    Foreign,
    /// As long as it is not known what counts nobody knows.
    Unknown,
}

impl Role {
    fn name(self) -> &'static str {
        match self {
            Role::Lock => "lock",
            Role::Current => "current",
            Role::Manifest => "manifest",
            Role::Segment => "segment",
            Role::Snapshot => "snapshot",
            Role::Previous => "previous",
            Role::Spare => "spare",
            Role::TornCopy => "torn-copy",
            Role::Unneeded => "unneeded",
            Role::Foreign => "foreign",
            Role::Unknown => "unknown",
        }
    }

    /// That it must not be removed.
    fn is_needed(self) -> bool {
        !matches!(self, Role::TornCopy | Role::Unneeded | Role::Foreign)
    }
}

impl ShardReport {
    pub fn verdict(&self) -> Verdict {
        let is_snapshot_damaged = self.snapshot.as_ref().is_some_and(|snapshot| snapshot.damage.is_some());
        match &self.log {
            log if is_snapshot_damaged || !log.damages.is_empty() => Verdict::Corrupt,
            log if log.torn.is_some() => Verdict::Torn,
            _ => Verdict::Sound,
        }
    }
}

impl Report {
    /// Beside a process that writes, an unfinished end is nothing but a write under way.
    pub fn verdict(&self) -> Verdict {
        if self.problem.is_some() || self.is_set_back() {
            return Verdict::Corrupt;
        }
        if self.is_foreign() {
            return Verdict::Foreign;
        }
        match self.shards.iter().map(ShardReport::verdict).max() {
            Some(Verdict::Torn) if self.user.is_some() => Verdict::Sound,
            worst => worst.unwrap_or(Verdict::Sound),
        }
    }

    /// There may be data that came after what counts.
    pub fn is_set_back(&self) -> bool {
        self.newer.as_ref().is_some_and(|newer| !newer.is_unfinished)
    }

    /// There are files, and none of them is Torc's.
    fn is_foreign(&self) -> bool {
        !self.files.is_empty() && self.files.iter().all(|file| file.role == Role::Foreign)
    }

    /// What is damaged, to be compared with another look.
    pub fn damage(&self) -> Vec<String> {
        let mut found: Vec<String> = self.problem.iter().cloned().collect();
        for ShardReport { snapshot, log, .. } in &self.shards {
            for (id, damage) in snapshot.iter().filter_map(|snapshot| Some((snapshot.id, snapshot.damage.as_ref()?))) {
                found.push(format!("{id}, offset {}: {}", damage.offset, damage.why));
            }
            found.extend(log.damages.iter().map(Damage::to_string));
        }
        found
    }

    /// For whoever reads it at night: what is so, and last of all what to do.
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        let mut line = |content: String| writeln!(text, "{content}").expect("writing to a string");
        let directory = self.directory.display();
        match self.manifest {
            Some((number, generation)) => line(format!(
                "{directory}: MANIFEST-{number} counts (generation {generation}), {} shards",
                self.shards.len()
            )),
            None => line(format!("{directory}: no manifest counts")),
        }
        if let Some(user) = self.user {
            line(format!(
                "in use by {}: it was read while it was written; what was written last is not judged, and damage was \
                 looked at twice",
                process(user)
            ));
        }
        for shard in &self.shards {
            line(format!("shard {}", shard.shard));
            shard.lines(&mut line, self.user.is_some());
        }
        if let Some(newer) = self.newer.as_ref().filter(|newer| newer.is_unfinished) {
            line(format!(
                "{} came after that and does not count: a crash in the middle of a switch leaves that; nothing was logged under \
                 it, and a server removes it; if CURRENT was changed by hand, copy the directory before a start",
                newer.names()
            ));
        }
        let groups: [(&str, &[Role]); 3] = [
            ("nobody knows what of this counts; keep all of it", &[Role::Unknown]),
            ("files that nobody needs", &[Role::TornCopy, Role::Unneeded]),
            ("files that are not of Torc's", &[Role::Foreign]),
        ];
        for (heading, roles) in groups {
            let mut files = self.files.iter().filter(|file| roles.contains(&file.role)).peekable();
            if files.peek().is_some() {
                line(heading.into());
            }
            for FileReport { name, bytes, role } in files {
                line(match role {
                    Role::TornCopy => format!("  {name}  {bytes} bytes  what a start cut off; may be removed"),
                    Role::Unneeded => {
                        format!("  {name}  {bytes} bytes  left over; the server removes it when it has saved")
                    }
                    _ => format!("  {name}  {bytes} bytes"),
                });
            }
        }
        line(format!("{}: {}", self.verdict().name(), self.advice()));
        text
    }

    /// What is so and what to do next.
    pub fn advice(&self) -> String {
        let directory = self.directory.display();
        if let Some(problem) = &self.problem {
            return match &self.hint {
                Some(hint) => format!("{problem}. {hint}"),
                None => problem.clone(),
            };
        }
        if let (Some(newer), Some((number, _))) = (self.newer.as_ref().filter(|_| self.is_set_back()), self.manifest) {
            return format!(
                "{} came after {}, which CURRENT names, and something may have been saved or logged since: that does not count, \
                 and the next start removes it. Start no server on it; copy the directory before anything else, and bring CURRENT, \
                 and of the manifests what is damaged, back from a copy",
                newer.names(),
                names::manifest(number)
            );
        }
        match self.verdict() {
            Verdict::Foreign => {
                "there is no data of Torc's here, only files that are not of Torc's; name the data directory".into()
            }
            Verdict::Sound if self.manifest.is_none() => "there is no data; a server starts with nothing".into(),
            Verdict::Sound if self.shards.iter().all(|shard| shard.log.is_sealed) => {
                "all is there; nothing is to be done".into()
            }
            Verdict::Sound if self.user.is_some() => "all that can be judged is there; nothing is to be done".into(),
            Verdict::Sound => "all is there; the server was killed, and starts as it is; nothing is to be done".into(),
            Verdict::Torn => {
                "a crash tore a write that was not synced; the next start keeps a copy, cuts it off, and goes \
                              on; nothing is to be done"
                    .into()
            }
            Verdict::Corrupt => {
                let damaged: Vec<&ShardReport> =
                    self.shards.iter().filter(|shard| shard.verdict() == Verdict::Corrupt).collect();
                let numbers: Vec<String> = damaged.iter().map(|shard| shard.shard.to_string()).collect();
                let named =
                    format!("shard {} has lost what was durable, and no server starts on it", numbers.join(", "));
                let is_lost = |shard: &&ShardReport| {
                    let snapshot = shard.snapshot.as_ref().and_then(|snapshot| snapshot.damage.as_ref());
                    snapshot.is_some() && shard.fallback.is_none()
                };
                if damaged.iter().any(is_lost) {
                    return format!(
                        "{named}; a snapshot is damaged and no older one is sound: bring the directory back from a copy, or \
                         move it away and begin with nothing"
                    );
                }
                let stop = if self.user.is_some() { "stop the server; " } else { "" };
                format!(
                    "{named}; {stop}bring the files back from a copy, or give up what is lost: torc repair {directory} \
                     --skip-batch (what cannot be read) or --truncate (that and all that came after it on the shard); both \
                     keep copies, and --dry-run only says what would be lost"
                )
            }
        }
    }

    pub fn to_json(&self) -> Value {
        json!({
            "directory": self.directory.display().to_string(),
            "verdict": self.verdict().name(),
            "exit_status": self.verdict() as u8,
            "in_use": self.user.is_some(),
            "in_use_by": self.user.and_then(|user| user.process),
            "problem": self.problem,
            "manifest": self.manifest.map(|(number, generation)| json!({
                "file": names::manifest(number), "number": number, "generation": generation,
            })),
            "newer": self.newer.as_ref().map(|newer| json!({
                "files": newer.numbers.iter().copied().map(names::manifest).collect::<Vec<_>>(),
                "unfinished": newer.is_unfinished,
            })),
            "shards": self.shards.iter().map(ShardReport::to_json).collect::<Vec<_>>(),
            "files": self.files.iter().map(|file| json!({
                "file": file.name,
                "bytes": file.bytes,
                "role": file.role.name(),
                "needed": file.role.is_needed(),
            })).collect::<Vec<_>>(),
            "advice": self.advice(),
        })
    }
}

fn process(user: User) -> String {
    user.process.map_or("another process".into(), |process| format!("the process {process}"))
}

impl ShardReport {
    fn lines(&self, line: &mut impl FnMut(String), is_live: bool) {
        if let Some(snapshot) = &self.snapshot {
            let Snapshot { id, bytes, entries, expected, damage } = snapshot;
            match damage {
                None => line(format!("  {id}  {bytes} bytes  {entries} keys, up to record {}", self.log.base_lsn)),
                Some(damage) => {
                    let readable = format!("{entries} of {expected} keys are before it");
                    line(format!(
                        "  {id}  {bytes} bytes  DAMAGED at offset {}: {}; {readable}",
                        damage.offset, damage.why
                    ));
                    if let Some(number) = self.fallback {
                        line(format!("    MANIFEST-{number} is kept, and its snapshot of this shard is sound"));
                    }
                }
            }
        }
        for segment in &self.log.segments {
            let LogSegment { id, bytes, first_lsn, last_lsn, records, is_sealed } = segment;
            let holds = match (first_lsn, last_lsn) {
                (Some(first), Some(last)) => format!("{records} records, {first} to {last}"),
                (Some(_), None) => "no records".into(),
                (None, _) => "not begun".into(),
            };
            line(format!("  {id}  {bytes} bytes  {holds}{}", if *is_sealed { ", sealed" } else { "" }));
        }
        for damage in &self.log.damages {
            line(format!("  DAMAGED: {damage}"));
        }
        if let Some(torn) = &self.log.torn {
            let what = if is_live { "being written" } else { "TORN" };
            line(format!("  {what}: {}", torn.describe()));
        }
    }

    fn to_json(&self) -> Value {
        let log = &self.log;
        json!({
            "shard": self.shard,
            "verdict": self.verdict().name(),
            "snapshot": self.snapshot.as_ref().map(|snapshot| json!({
                "file": snapshot.id.to_string(),
                "bytes": snapshot.bytes,
                "entries": snapshot.entries,
                "entries_expected": snapshot.expected,
                "damage": snapshot.damage.as_ref().map(|damage| json!({
                    "offset": damage.offset, "why": damage.why, "fallback_manifest": self.fallback,
                })),
            })),
            "log": {
                "base_lsn": log.base_lsn.0,
                "last_lsn": log.last_lsn.0,
                "records": log.records,
                "sealed": log.is_sealed,
                "segments": log.segments.iter().map(|segment| json!({
                    "file": segment.id.to_string(),
                    "bytes": segment.bytes,
                    "records": segment.records,
                    "first_lsn": segment.first_lsn.map(|lsn| lsn.0),
                    "last_lsn": segment.last_lsn.map(|lsn| lsn.0),
                    "sealed": segment.is_sealed,
                })).collect::<Vec<_>>(),
                "torn": log.torn.map(|torn| json!({
                    "file": torn.id.to_string(), "offset": torn.offset, "bytes": torn.bytes, "last_segment": torn.last_segment,
                })),
                "damage": log.damages.iter().map(|damage| damage.to_json()).collect::<Vec<_>>(),
            },
        })
    }
}

impl Damage {
    /// The last record that is lost if what follows is kept, as far as is known.
    pub fn lost_to(&self) -> Option<u64> {
        let known = (self.last_lsn >= self.first_lsn).then_some(self.last_lsn.0);
        self.skipped_to.map(|last| last.0).or(known)
    }

    pub fn to_json(self) -> Value {
        json!({
            "file": self.id.to_string(),
            "offset": self.offset,
            "why": self.why.to_string(),
            "first_lsn": self.first_lsn.0,
            "last_lsn": self.lost_to(),
            "more_follows": self.skipped_to.is_some(),
        })
    }
}

impl std::fmt::Display for Damage {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{}, offset {}: {}; ", self.id, self.offset, self.why)?;
        match (self.lost_to(), self.skipped_to) {
            (Some(last), Some(_)) if last < self.first_lsn.0 => write!(out, "no record is missing there"),
            (Some(last), Some(_)) => {
                write!(out, "records {} to {last} cannot be read, what follows can", self.first_lsn)
            }
            (Some(last), None) => write!(
                out,
                "records {} to {last} were durable and cannot be read, and nothing behind them",
                self.first_lsn
            ),
            (None, _) => write!(out, "record {} and all behind it cannot be read", self.first_lsn),
        }
    }
}
