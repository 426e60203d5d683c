//! The settings: one row per parameter feeds flags, files, CONFIG GET, CONFIG SET and `--help`.
//!
//! - `table.rs` has the rows: name, kind of value, default, when it may change, what comes of it.
//! - `value.rs` has the kinds: how words become a checked [`Value`], and how it is shown again.
//! - `line.rs` takes a line of a file apart.
//!
//! A [`Config`] keeps the canonical text of every row, which is what CONFIG GET shows, and typed
//! fields for the rows that are applied. Both are written in one place, [`Config::store`].
//! Reading files is left to the runtime; nothing here does I/O.
//!
//! A directive of Redis is never unknown. If Torc does not do what it asks, either nobody can
//! tell except by speed or looks, and it is accepted without effect (and named in a warning), or
//! somebody relies on it, and every value but the one meaning "off" is refused.

use std::fmt;

use thiserror::Error;

use crate::glob;
use crate::log::{FsyncPolicy, Recovery};
use crate::store::{LfuSettings, Policy};

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz_body;
pub mod line;
mod table;
mod value;

pub use value::{Kind, Value};

/// One parameter: all that is true of it without applying it.
#[derive(Debug)]
pub struct Row {
    pub name: &'static str,
    /// An older name, as good as the first.
    pub alias: Option<&'static str>,
    pub kind: Kind,
    /// What holds when nothing is said, in the form of a file.
    pub default: &'static str,
    pub change: Change,
    pub state: State,
    pub shown: Shown,
    /// Whether it is Torc's and not Redis's.
    pub own: bool,
    pub help: &'static str,
}

/// When a parameter may change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// In a file, as a flag, and by CONFIG SET.
    RunTime,
    /// Not by CONFIG SET.
    AtStart,
    /// Not by CONFIG SET, and Redis names the reason differently: it could be used to write files.
    Protected,
    /// A fault, which is injected for tests: by DEBUG SET-FAULT, and at a start that allows DEBUG.
    ByDebug,
}

/// What comes of setting a parameter.
#[derive(Clone, Copy, Debug)]
pub enum State {
    /// The function writes the field of [`Config`] that the rest of Torc reads.
    Applied(fn(&mut Config, &Value)),
    /// Accepted, checked, remembered, shown by CONFIG GET, and nothing else.
    WithoutEffect,
    /// Not built. Only the default, which means "off", is accepted.
    OnlyOff { until: &'static str },
    /// `include`: done by whoever reads the file.
    Include,
}

/// Where CONFIG GET shows a parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shown {
    Everywhere,
    /// To those who name it without wildcards.
    ByName,
    /// Known in files and as a flag; CONFIG has not heard of it.
    InFilesOnly,
}

impl Row {
    /// Whether the value must not appear in logs and error messages.
    pub fn is_secret(&self) -> bool {
        // A `user` line has the user's passwords in it.
        matches!(self.kind, Kind::Secret) || self.name == "user"
    }

    /// Whether several words may follow the name.
    pub fn takes_words(&self) -> bool {
        self.kind.takes_words()
    }
}

/// The settings of a process. `Debug` shows all of them but secrets.
#[derive(Clone)]
pub struct Config {
    pub port: u16,
    /// Addresses to listen on. One that starts with `-` may be missing on this machine.
    pub bind: Vec<String>,
    pub protected_mode: bool,
    /// Empty: clients need no password.
    pub requirepass: Vec<u8>,
    pub maxclients: usize,
    /// Most that `maxclients` may become at run time: what the machine can serve. Not a parameter; the runtime knows it.
    pub maxclients_ceiling: usize,
    /// Close a client that is silent for so long; 0: never.
    pub timeout_s: u64,
    /// 0: no keepalive probes.
    pub tcp_keepalive_s: u32,
    pub tcp_backlog: i32,
    pub databases: usize,
    /// At most [`QUERY_BUFFER_BYTES_CEILING`].
    pub query_buffer_bytes_max: u64,
    pub bulk_bytes_max: u64,
    pub output_limits: OutputLimits,
    /// Most bytes of keys, values and client buffers; 0: no bound.
    pub maxmemory: u64,
    pub maxmemory_policy: Policy,
    pub lfu_log_factor: u32,
    pub lfu_decay_minutes: u32,
    /// Bound of all clients' buffers together, bytes; never 0.
    pub maxmemory_clients: u64,
    pub dir: String,
    /// Changes are logged to `dir`.
    pub append_only: bool,
    pub fsync: FsyncPolicy,
    /// Length of a segment of the log.
    pub segment_bytes: u64,
    /// When a save begins by itself: at each of them.
    pub save_points: Vec<SavePoint>,
    pub stop_writes_after_failed_save: bool,
    /// A snapshot is taken when so much was logged since the last one, and this part of that one's size, percent; 0: not.
    pub rewrite_bytes_min: u64,
    pub rewrite_percent: u64,
    /// What a snapshot takes of a busy core's time, percent: 1..=50.
    pub snapshot_duty: u64,
    /// What a start takes of a log that does not end as it should.
    pub recovery: Recovery,
    /// Who may use DEBUG.
    pub debug_command: Protection,
    pub faults: Faults,
    /// FLUSHALL and FLUSHDB answer before the memory is freed if they do not say SYNC.
    pub lazyfree_user_flush: bool,
    /// 1..=500.
    pub hz: u32,
    pub loglevel: LogLevel,
    /// Empty: standard output.
    pub logfile: String,
    /// Empty: none is written.
    pub pidfile: String,
    pub cores: Cores,
    pub wakeup: Wakeup,
    pub busy_poll_us: u32,
    /// Memory is filled ahead of its use by a thread of its own, in huge pages.
    pub prefault: bool,
    /// What `maxmemory_clients` is made of.
    client_bound: ClientBound,
    /// The canonical text of every row, in the order of [`Config::rows`].
    texts: Vec<String>,
    /// Which rows were set at start.
    given: Vec<bool>,
}

/// Names of parameters that inject faults begin with it.
const FAULT_PREFIX: &str = "fault-";
/// Where data goes if nothing else is said, from where Torc is started.
pub const DATA_DIR: &str = "torc-data";
/// Spans over a request are 32 bits wide, so a query buffer stays below that.
pub const QUERY_BUFFER_BYTES_CEILING: u64 = u32::MAX as u64 - 1;
/// What `maxmemory-clients 0` means: 1 GiB.
pub const CLIENT_BYTES_MAX_DEFAULT: u64 = 1 << 30;

/// One of `save`: after so many seconds, if there were so many changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SavePoint {
    pub seconds: u64,
    pub changes: u64,
}

/// `maxmemory-clients` as it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ClientBound {
    Bytes(u64),
    /// Of `maxmemory`.
    Percent(u8),
}

/// `client-output-buffer-limit`: per kind of client, when one that does not read is closed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OutputLimits {
    pub normal: OutputLimit,
    pub replica: OutputLimit,
    pub pubsub: OutputLimit,
}

/// A zero means "no limit".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OutputLimit {
    /// Close at once.
    pub hard_bytes: u64,
    /// Close after so many seconds above so many bytes.
    pub soft_bytes: u64,
    pub soft_s: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    Debug,
    Verbose,
    Notice,
    Warning,
    Nothing,
}

/// The cores that get a shard each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cores {
    Auto,
    /// In the order given, without repetition.
    List(Vec<usize>),
}

/// Who may do what is dangerous.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protection {
    /// Nobody.
    No,
    Yes,
    /// Clients on this machine.
    Local,
}

/// What goes wrong on purpose, to see what becomes of it. None does by default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// Each write and sync of the log ends so much later.
    pub wal_delay_ms: u32,
    /// How often one of them fails with EIO, of a million.
    pub wal_fail_millionths: u32,
    /// Each write of a snapshot ends so much later.
    pub snapshot_delay_ms: u32,
    /// What shards tell each other arrives so much later, in its order.
    pub hop_delay_ms: u32,
    pub seed: u64,
}

impl Faults {
    /// Whether anything is to go wrong.
    #[inline]
    pub fn any(&self) -> bool {
        self.wal_delay_ms | self.wal_fail_millionths | self.snapshot_delay_ms | self.hop_delay_ms != 0
    }
}

/// How one core wakes another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wakeup {
    Auto,
    /// A message from ring to ring.
    Ring,
    Eventfd,
}

/// Why a directive is not accepted at start.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum ConfigError {
    #[error("unknown directive '{name}'")]
    Unknown { name: String },
    #[error("'{name}' belongs to Redis Sentinel or to a module; Torc has neither, remove it")]
    Foreign { name: String },
    #[error("'{given}' is wrong: {problem}")]
    Value { given: String, problem: String },
    #[error("'{given}' is refused: {refusal}")]
    Refused { given: String, refusal: String },
    #[error("'include' is done by the reader of files")]
    Include,
}

/// Why CONFIG SET changed nothing; `Display` gives Redis's error reply without the leading `-`.
/// Bytes from the client are in it, so write it through what replaces line ends.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum SetError {
    #[error("ERR Unknown option or number of arguments for CONFIG SET - '{name}'")]
    Unknown { name: String },
    #[error("ERR CONFIG SET failed (possibly related to argument '{name}') - {problem}")]
    Failed { name: String, problem: String },
}

impl Config {
    /// `lfu-log-factor` and `lfu-decay-time`.
    pub fn lfu(&self) -> LfuSettings {
        LfuSettings { log_factor: self.lfu_log_factor, decay_minutes: self.lfu_decay_minutes }
    }

    /// All parameters, in alphabetical order.
    pub fn rows() -> &'static [Row] {
        table::ROWS
    }

    /// The place of a parameter among the rows, by name or alias, in any case.
    pub fn find(name: &str) -> Option<usize> {
        Config::find_label(name).map(|(row, _)| row)
    }

    /// The canonical text of the parameter with this name.
    ///
    /// # Panics
    /// If there is none.
    pub fn text_of(&self, name: &str) -> &str {
        self.text(Config::find(name).expect("a parameter's name"))
    }

    /// The canonical text of a row.
    pub fn text(&self, row: usize) -> &str {
        &self.texts[row]
    }

    /// Sets what a line of a file or a flag says. A later word wins, except that each `save`
    /// adds to those before and `client-output-buffer-limit` leaves the classes it does not name.
    pub fn set_at_start<V: AsRef<[u8]>>(&mut self, name: &str, values: &[V]) -> Result<(), ConfigError> {
        let Some(row) = Config::find(name) else {
            let name = name.to_ascii_lowercase();
            return Err(match name == "sentinel" || name.contains('.') {
                true => ConfigError::Foreign { name },
                false => ConfigError::Unknown { name },
            });
        };
        if matches!(table::ROWS[row].state, State::Include) {
            return Err(ConfigError::Include);
        }
        let mut words: Vec<&[u8]> = values.iter().map(AsRef::as_ref).collect();
        let given = described(&table::ROWS[row], name, &words);
        // `--save "900 1"` is one word on the command line, and means two.
        let split;
        if table::ROWS[row].takes_words() && words.len() == 1 && !words[0].is_empty() {
            let Ok(parts) = line::split(words[0]) else {
                let problem = line::Unbalanced.to_string();
                return Err(ConfigError::Value { given, problem });
            };
            split = parts;
            words = split.iter().map(Vec::as_slice).collect();
        }
        match self.set(row, &words, true) {
            Ok(()) => {
                self.given[row] = true;
                Ok(())
            }
            Err(Problem::Value(problem)) => Err(ConfigError::Value { given, problem }),
            Err(Problem::Refused(refusal)) => Err(ConfigError::Refused { given, refusal }),
        }
    }

    /// CONFIG SET: all pairs, or none if one of them is wrong.
    pub fn set_at_run_time(&mut self, pairs: &[(&[u8], &[u8])]) -> Result<(), SetError> {
        let shown = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let mut found: Vec<(usize, &'static str)> = Vec::with_capacity(pairs.len());
        let mut seen = vec![[false; 2]; table::ROWS.len()];
        // Names first, then values: the first wrong name is reported before any wrong value.
        for (name, _) in pairs {
            let label = std::str::from_utf8(name).ok().and_then(Config::find_label);
            let label = label.filter(|(row, _)| table::ROWS[*row].shown != Shown::InFilesOnly);
            let Some((row, label)) = label else {
                return Err(SetError::Unknown { name: shown(name) });
            };
            // A parameter and its alias in one command are two parameters to Redis.
            let twice = &mut seen[row][usize::from(label == table::ROWS[row].name)];
            let problem = match table::ROWS[row].change {
                Change::AtStart => "can't set immutable config",
                Change::Protected => "can't set protected config",
                Change::ByDebug => "it is changed by DEBUG SET-FAULT",
                Change::RunTime if *twice => "duplicate parameter",
                Change::RunTime => {
                    *twice = true;
                    found.push((row, label));
                    continue;
                }
            };
            return Err(SetError::Failed { name: shown(name), problem: problem.to_string() });
        }
        let mut next = self.clone();
        for ((row, label), (_, value)) in found.into_iter().zip(pairs) {
            let words: Vec<&[u8]> = match table::ROWS[row].takes_words() {
                true if value.is_empty() => Vec::new(),
                true => value.split(|byte| *byte == b' ').collect(),
                false => vec![value],
            };
            next.set(row, &words, false).map_err(|problem| SetError::Failed {
                name: label.to_string(),
                problem: match problem {
                    Problem::Value(problem) => problem,
                    Problem::Refused(refusal) => format!("refused: {refusal}"),
                },
            })?;
        }
        if next.maxclients > self.maxclients_ceiling {
            let problem = format!(
                "The operating system is not able to handle the specified number of clients, try with {}",
                self.maxclients_ceiling
            );
            return Err(SetError::Failed { name: "maxclients".to_owned(), problem });
        }
        *self = next;
        Ok(())
    }

    /// DEBUG SET-FAULT: sets the parameter `fault-NAME`. Err: what is wrong, for a client.
    pub fn set_fault(&mut self, name: &[u8], value: &[u8]) -> Result<(), String> {
        let row = std::str::from_utf8(name).ok().and_then(|name| Config::find(&format!("{FAULT_PREFIX}{name}")));
        let Some(row) = row else {
            let rows = table::ROWS.iter().filter(|row| row.change == Change::ByDebug);
            let names: Vec<&str> = rows.filter_map(|row| row.name.strip_prefix(FAULT_PREFIX)).collect();
            return Err(format!("ERR there is no such fault; there are {}", names.join(", ")));
        };
        self.set(row, &[value], false).map_err(|problem| match problem {
            Problem::Value(problem) | Problem::Refused(problem) => format!("ERR {}: {problem}", table::ROWS[row].name),
        })
    }

    /// The faults that are on, as they were set. Empty: none.
    pub fn injected_faults(&self) -> Vec<String> {
        if !self.faults.any() {
            return Vec::new();
        }
        let rows = table::ROWS.iter().zip(&self.texts).filter(|(row, _)| row.change == Change::ByDebug);
        rows.filter(|(row, text)| *text != row.default).map(|(row, text)| format!("{} {text}", row.name)).collect()
    }

    /// CONFIG GET: names and values for any number of patterns, each name once. A name that is
    /// an alias is shown as the alias. Bytes of a password that are not UTF-8 are not shown.
    pub fn get_matching(&self, patterns: &[&[u8]]) -> Vec<(&'static str, String)> {
        let mut found = Vec::new();
        for (row, text) in table::ROWS.iter().zip(&self.texts) {
            for label in [Some(row.name), row.alias].into_iter().flatten() {
                let wanted = |pattern: &&[u8]| match (row.shown, glob::has_wildcard(pattern)) {
                    (Shown::InFilesOnly, _) | (Shown::ByName, true) => false,
                    (_, false) => pattern.eq_ignore_ascii_case(label.as_bytes()),
                    (Shown::Everywhere, true) => glob::matches(pattern, label.as_bytes(), true),
                };
                if patterns.iter().any(wanted) {
                    found.push((label, text.clone()));
                }
            }
        }
        found
    }

    /// The directives set at start that were accepted and have no effect, for one warning.
    pub fn without_effect(&self) -> Vec<&'static str> {
        let rows = table::ROWS.iter().zip(&self.given);
        rows.filter(|(row, given)| **given && matches!(row.state, State::WithoutEffect))
            .map(|(row, _)| row.name)
            .collect()
    }

    fn find_label(name: &str) -> Option<(usize, &'static str)> {
        let name = name.to_ascii_lowercase();
        if let Ok(row) = table::ROWS.binary_search_by(|row| row.name.cmp(&name)) {
            return Some((row, table::ROWS[row].name));
        }
        let row = table::ROWS.iter().position(|row| row.alias == Some(&name))?;
        table::ROWS[row].alias.map(|alias| (row, alias))
    }

    /// Checks and stores; changes nothing on an error.
    fn set(&mut self, row: usize, words: &[&[u8]], at_start: bool) -> Result<(), Problem> {
        let Row { kind, default, state, .. } = &table::ROWS[row];
        if let (State::OnlyOff { until }, Kind::Words) = (state, kind) {
            return Err(Problem::Refused(format!("{until}; remove it")));
        }
        let value = kind.parse(words, &self.texts[row], at_start).map_err(Problem::Value)?;
        if let State::OnlyOff { until } = state
            && value.text() != *default
        {
            return Err(Problem::Refused(format!("{until}; only '{default}' is accepted")));
        }
        self.store(row, &value);
        Ok(())
    }

    fn bound_memory(&mut self, bytes: u64) {
        // So that differences have a sign; no machine has as much.
        self.maxmemory = bytes.min(i64::MAX as u64);
        self.bound_clients(self.client_bound);
    }

    fn bound_clients(&mut self, bound: ClientBound) {
        self.client_bound = bound;
        let bytes = match bound {
            ClientBound::Bytes(bytes) => bytes,
            ClientBound::Percent(percent) => (self.maxmemory as u128 * percent as u128 / 100) as u64,
        };
        self.maxmemory_clients = if bytes == 0 { CLIENT_BYTES_MAX_DEFAULT } else { bytes };
    }

    /// The one place where texts and typed fields are written.
    fn store(&mut self, row: usize, value: &Value) {
        self.texts[row] = value.text();
        if let State::Applied(apply) = table::ROWS[row].state {
            apply(self, value);
        }
    }
}

/// What is wrong with a value, before it is known who asked.
enum Problem {
    Value(String),
    Refused(String),
}

/// `name value ...` for a message, with secrets left out.
fn described(row: &Row, name: &str, words: &[&[u8]]) -> String {
    let mut text = name.to_ascii_lowercase();
    if row.is_secret() {
        return text + " (hidden)";
    }
    for word in words {
        let word = String::from_utf8_lossy(word);
        text += if word.is_empty() { " \"\"" } else { " " };
        text += &word;
    }
    text
}

impl Default for Config {
    fn default() -> Config {
        let rows = table::ROWS.len();
        // Every field here is overwritten by the default of its row; a test checks it.
        let mut config = Config {
            port: 0,
            bind: Vec::new(),
            protected_mode: false,
            requirepass: Vec::new(),
            maxclients: 0,
            maxclients_ceiling: usize::MAX,
            timeout_s: 0,
            tcp_keepalive_s: 0,
            tcp_backlog: 0,
            databases: 0,
            query_buffer_bytes_max: 0,
            bulk_bytes_max: 0,
            output_limits: OutputLimits::default(),
            maxmemory: 0,
            maxmemory_policy: Policy::NoEviction,
            lfu_log_factor: 0,
            lfu_decay_minutes: 0,
            maxmemory_clients: 0,
            dir: String::new(),
            append_only: true,
            fsync: FsyncPolicy::No,
            segment_bytes: 0,
            save_points: Vec::new(),
            stop_writes_after_failed_save: false,
            rewrite_bytes_min: 0,
            rewrite_percent: 0,
            snapshot_duty: 0,
            recovery: Recovery::Tail,
            debug_command: Protection::No,
            faults: Faults::default(),
            lazyfree_user_flush: false,
            hz: 0,
            loglevel: LogLevel::Nothing,
            logfile: String::new(),
            pidfile: String::new(),
            cores: Cores::Auto,
            wakeup: Wakeup::Auto,
            busy_poll_us: 0,
            prefault: false,
            client_bound: ClientBound::Bytes(0),
            texts: vec![String::new(); rows],
            given: vec![false; rows],
        };
        for (index, row) in table::ROWS.iter().enumerate() {
            let value = row.parse_default().expect("a test parses the default of every row");
            config.store(index, &value);
        }
        config
    }
}

impl Row {
    fn parse_default(&self) -> Result<Value, String> {
        let words: Vec<&[u8]> = match self.takes_words() {
            true => self.default.split_ascii_whitespace().map(str::as_bytes).collect(),
            false => vec![self.default.as_bytes()],
        };
        self.kind.parse(&words, "", true)
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows = table::ROWS.iter().zip(&self.texts);
        f.debug_map()
            .entries(rows.map(|(row, text)| match row.is_secret() && !text.is_empty() {
                true => (row.name, "(hidden)"),
                false => (row.name, text.as_str()),
            }))
            .finish()
    }
}

#[cfg(test)]
mod tests;
