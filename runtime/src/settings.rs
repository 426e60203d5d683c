//! The settings of a start: a file, then flags, as redis-server takes them.
//!
//! ```text
//! torc [/path/to/torc.conf | -] [--name value ...] ...
//! ```
//!
//! A file called `check` or `repair` has to be named with its folder (`./check`): as first words these are commands of their own
//! ([`crate::check`]).
//!
//! Every parameter is a row of [`Config::rows`]; the file, the flags and `--help` all come from
//! there. A flag takes the words up to the next one that starts with `--`, so values may start
//! with a single dash (`--bind 127.0.0.1 -::1`); clap cannot be told so. Therefore the words are
//! grouped first and every group becomes `--name=<a line of a file>`, which is what redis-server
//! makes of its flags too. Clap then finds wrong names, suggests right ones and writes the help.
//!
//! The environment is not used. Nothing is printed: texts are returned.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use clap::error::ErrorKind;
use clap::{Arg, ArgAction, ArgMatches, Command};
use thiserror::Error;
use torc_engine::config::{Change, Config, ConfigError, DATA_DIR, Kind, Protection, Row, State, line};
use torc_engine::glob;

/// What a start is to be made with.
#[derive(Debug)]
pub struct Loaded {
    /// `dir` is absolute, and a directory.
    pub config: Config,
    /// Absolute path of the file that was read first; empty if none was.
    pub file: String,
    /// To be logged.
    pub warnings: Vec<String>,
}

/// Why there is no start; `Display` is the text to print.
#[derive(Debug, Error)]
pub enum SettingsError {
    /// Not an error: the text that `--help` or `--version` asked for.
    #[error("{0}")]
    Shown(String),
    /// A flag that does not exist or has no value.
    #[error("{0}")]
    Usage(String),
    #[error("on the command line: --{name}: {problem}")]
    Flag { name: String, problem: Problem },
    #[error("{file}:{number}: {problem}\n>>> {line}")]
    Line { file: String, number: usize, line: String, problem: Problem },
    #[error("{0}")]
    File(Problem),
    #[error(
        "{0}: faults are injected into a server that allows DEBUG, so that no other one has them by mistake; add \
         --enable-debug-command local, or remove it"
    )]
    Faults(String),
    #[error("dir '{dir}' cannot be used: {source}; create it or name another")]
    Dir { dir: String, source: io::Error },
}

impl SettingsError {
    /// What the process should exit with.
    pub fn exit_status(&self) -> u8 {
        match self {
            SettingsError::Shown(_) => 0,
            _ => 1,
        }
    }
}

/// What is wrong at the place a [`SettingsError`] names.
#[derive(Debug, Error)]
pub enum Problem {
    #[error(transparent)]
    Directive(#[from] ConfigError),
    #[error(transparent)]
    Quotes(#[from] line::Unbalanced),
    #[error("cannot read '{}': {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("'{}' is longer than {FILE_BYTES_MAX} bytes", path.display())]
    Long { path: PathBuf },
    #[error("'include' takes one path")]
    IncludeWords,
    #[error("files include each other in a circle: {0}")]
    IncludeCircle(String),
    #[error("files include each other more than {DEPTH_MAX} deep")]
    IncludeDepth,
    #[error("more than {FILES_MAX} files are included")]
    IncludeCount,
    #[error("only the last part of an 'include' path may have wildcards")]
    IncludeWildcard,
}

/// Longest configuration file.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// Deepest nesting of files, the first one included.
const DEPTH_MAX: usize = 16;
/// Most files of one start; without it, 16 levels could still mean 2^16 files.
const FILES_MAX: usize = 1024;
/// The id of the positional argument; no parameter has this name.
const FILE_ARGUMENT: &str = "torc.conf";

/// Reads the settings from the arguments of the process, its own name first, as
/// [`std::env::args_os`] gives them.
pub fn load(args: impl Iterator<Item = OsString>) -> Result<Loaded, SettingsError> {
    load_with(args, io::stdin())
}

fn load_with(args: impl Iterator<Item = OsString>, stdin: impl Read) -> Result<Loaded, SettingsError> {
    let words: Vec<OsString> = args.skip(1).collect();
    let matches = command().try_get_matches_from(grouped(&words)).map_err(|error| {
        let text = error.render().to_string();
        match error.kind() {
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => SettingsError::Shown(text),
            _ => SettingsError::Usage(text),
        }
    })?;

    let mut reader = Reader { config: Config::default(), open: Vec::new(), files: 0 };
    let mut file = String::new();
    if let Some(path) = matches.get_one::<OsString>(FILE_ARGUMENT) {
        if path == "-" {
            let path = Path::new("standard input");
            let text = read_bounded(stdin, path).map_err(SettingsError::File)?;
            reader.text(&text, path)?;
        } else {
            reader.file(Path::new(path))?;
            let path = std::path::absolute(path).unwrap_or_else(|_| path.into());
            file = path.to_string_lossy().into_owned();
        }
    }
    for (name, text) in flags_in_order(&matches) {
        let wrong = |problem| SettingsError::Flag { name: name.to_string(), problem };
        let values = line::split(text.as_bytes()).map_err(|error| wrong(error.into()))?;
        reader.directive(name, &values).map_err(|error| match error {
            Stop::Here(problem) => wrong(problem),
            Stop::Elsewhere(error) => error,
        })?;
    }

    let mut config = reader.config;
    settle_dir(&mut config)?;
    let mut warnings = Vec::new();
    let faults = config.injected_faults().join(", ");
    if !faults.is_empty() {
        if config.debug_command == Protection::No {
            return Err(SettingsError::Faults(faults));
        }
        warnings.push(format!("FAULTS ARE INJECTED ON PURPOSE, keep nothing here that matters: {faults}"));
    }
    let idle = config.without_effect();
    if !idle.is_empty() {
        let names = idle.join(", ");
        warnings.push(format!("accepted, but without effect in Torc: {names}"));
    }
    Ok(Loaded { config, file, warnings })
}

/// Makes `--name=<quoted values>` of every flag and its values. Words before the first flag stay.
fn grouped(words: &[OsString]) -> Vec<OsString> {
    let mut result = vec![OsString::from("torc")];
    let mut words = words.iter().map(|word| word.as_bytes()).peekable();
    while let Some(word) = words.next() {
        let Some(flag) = word.strip_prefix(b"--").filter(|flag| !flag.is_empty()) else {
            result.push(OsString::from_vec(word.to_vec()));
            continue;
        };
        let mut parts = flag.splitn(2, |byte| *byte == b'=');
        let name = parts.next().unwrap_or_default();
        let mut values: Vec<&[u8]> = parts.collect();
        if name != b"help" && name != b"version" {
            while let Some(value) = words.next_if(|word| !word.starts_with(b"--")) {
                values.push(value);
            }
        }
        let mut group = [b"--", name].concat();
        if !values.is_empty() {
            group.push(b'=');
            group.extend_from_slice(line::join(&values).as_bytes());
        }
        result.push(OsString::from_vec(group));
    }
    result
}

/// One flag per row, in the sections of `--help`.
fn command() -> Command {
    let file = Arg::new(FILE_ARGUMENT)
        .value_parser(clap::value_parser!(OsString))
        .help("A file with a 'name value' line per parameter; '-' reads standard input");
    let version = Arg::new("version").short('v').long("version").action(ArgAction::Version).help("Print the version");
    let mut command = Command::new("torc")
        .version(env!("CARGO_PKG_VERSION"))
        .about("A thread-per-core cache that speaks the Redis protocol.")
        .override_usage(
            "torc [torc.conf | -] [--name value ...] ...\n       torc check --help\n       torc repair --help",
        )
        .disable_version_flag(true)
        .args([file, version]);
    for section in SECTIONS {
        let rows = Config::rows().iter().filter(|row| section_of(row) == section);
        command = command.args(rows.map(flag));
    }
    command
}

const SECTIONS: [&str; 4] =
    ["Torc", "Redis: applied", "Redis: not built yet, only the default is accepted", "Redis: accepted without effect"];

fn section_of(row: &Row) -> &'static str {
    SECTIONS[match row.state {
        _ if row.own => 0,
        State::Applied(_) | State::Include => 1,
        State::OnlyOff { .. } => 2,
        State::WithoutEffect => 3,
    }]
}

fn flag(row: &'static Row) -> Arg {
    let mut help = row.help.trim_end_matches('.').to_string();
    if let Kind::Enum(names) = row.kind {
        help += &format!(" [{}]", names.join(" "));
    }
    if !row.default.is_empty() {
        help += &format!(" [default: {}]", row.default);
    }
    let flag = Arg::new(row.name)
        .long(row.name)
        .value_name(row.kind.placeholder())
        .help(help)
        .help_heading(section_of(row))
        .hide_short_help(row.change == Change::ByDebug)
        .action(ArgAction::Append)
        .num_args(1);
    match row.alias {
        Some(alias) => flag.alias(alias),
        None => flag,
    }
}

/// The flags as they were given; the last word on a parameter wins.
fn flags_in_order(matches: &ArgMatches) -> Vec<(&'static str, &str)> {
    let mut flags = Vec::new();
    for row in Config::rows() {
        let indices = matches.indices_of(row.name).into_iter().flatten();
        let texts = matches.get_many::<String>(row.name).into_iter().flatten();
        flags.extend(indices.zip(texts).map(|(index, text)| (index, row.name, text.as_str())));
    }
    flags.sort();
    flags.into_iter().map(|(_, name, text)| (name, text)).collect()
}

/// Applies lines to a configuration, and follows `include`.
struct Reader {
    config: Config,
    /// The files being read, outermost first.
    open: Vec<PathBuf>,
    files: usize,
}

/// What stops a directive.
enum Stop {
    /// It is wrong itself; whoever read it knows where it stands.
    Here(Problem),
    /// A line of a file that it included is wrong, and already has its place.
    Elsewhere(SettingsError),
}

impl From<SettingsError> for Stop {
    fn from(error: SettingsError) -> Stop {
        match error {
            // A file that cannot be opened is the fault of the line that names it.
            SettingsError::File(problem) => Stop::Here(problem),
            error => Stop::Elsewhere(error),
        }
    }
}

impl Reader {
    fn file(&mut self, path: &Path) -> Result<(), SettingsError> {
        let refused = |problem| Err(SettingsError::File(problem));
        let unread = |source| SettingsError::File(Problem::Read { path: path.to_path_buf(), source });
        let real = fs::canonicalize(path).map_err(unread)?;
        self.files += 1;
        if self.open.contains(&real) {
            let circle = self.open.iter().skip_while(|open| **open != real).chain([&real]);
            let names: Vec<_> = circle.map(|path| path.display().to_string()).collect();
            return refused(Problem::IncludeCircle(names.join(" -> ")));
        }
        if self.open.len() >= DEPTH_MAX {
            return refused(Problem::IncludeDepth);
        }
        if self.files > FILES_MAX {
            return refused(Problem::IncludeCount);
        }
        let text = File::open(&real).map_err(unread)?;
        let text = read_bounded(text, path).map_err(SettingsError::File)?;
        self.open.push(real);
        self.text(&text, path)?;
        self.open.pop();
        Ok(())
    }

    fn text(&mut self, text: &[u8], path: &Path) -> Result<(), SettingsError> {
        for (number, line, parsed) in line::lines(text) {
            let file = path.display().to_string();
            let wrong = |problem| SettingsError::Line { file, number, line: shown(line), problem };
            let line::Line { name, values } = match parsed {
                Ok(Some(line)) => line,
                Ok(None) => continue,
                Err(error) => return Err(wrong(error.into())),
            };
            self.directive(&name, &values).map_err(|error| match error {
                Stop::Here(problem) => wrong(problem),
                Stop::Elsewhere(error) => error,
            })?;
        }
        Ok(())
    }

    fn directive(&mut self, name: &str, values: &[Vec<u8>]) -> Result<(), Stop> {
        if name != "include" {
            return self.config.set_at_start(name, values).map_err(|e| Stop::Here(e.into()));
        }
        let [path] = values else {
            return Err(Stop::Here(Problem::IncludeWords));
        };
        let path = Path::new(OsStr::from_bytes(path));
        for path in expanded(path).map_err(Stop::Here)? {
            self.file(&path)?;
        }
        Ok(())
    }
}

/// The files an `include` names, sorted. A path without wildcards names itself; wildcards may
/// match nothing, so that an empty folder can be included. Relative to the working directory.
fn expanded(path: &Path) -> Result<Vec<PathBuf>, Problem> {
    if !glob::has_wildcard(path.as_os_str().as_bytes()) {
        return Ok(vec![path.to_path_buf()]);
    }
    let folder = path.parent().unwrap_or(Path::new(""));
    let Some(pattern) = path.file_name().map(OsStrExt::as_bytes) else {
        return Err(Problem::IncludeWildcard);
    };
    if glob::has_wildcard(folder.as_os_str().as_bytes()) {
        return Err(Problem::IncludeWildcard);
    }
    let listed = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let unread = |source| Problem::Read { path: listed.to_path_buf(), source };
    let entries = match fs::read_dir(listed) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(unread)?,
    };
    let mut paths = Vec::new();
    for entry in entries {
        let name = entry.map_err(unread)?.file_name();
        // As in a shell, a star does not stand for a leading dot.
        let hidden = name.as_bytes().starts_with(b".") && !pattern.starts_with(b".");
        if !hidden && glob::matches(pattern, name.as_bytes(), false) {
            paths.push(folder.join(name));
        }
        if paths.len() > FILES_MAX {
            return Err(Problem::IncludeCount);
        }
    }
    paths.sort();
    Ok(paths)
}

fn read_bounded(source: impl Read, path: &Path) -> Result<Vec<u8>, Problem> {
    let mut text = Vec::new();
    let read = source.take(FILE_BYTES_MAX + 1).read_to_end(&mut text);
    read.map_err(|source| Problem::Read { path: path.to_path_buf(), source })?;
    match text.len() as u64 > FILE_BYTES_MAX {
        true => Err(Problem::Long { path: path.to_path_buf() }),
        false => Ok(text),
    }
}

/// A line for a message, without a password.
fn shown(line: &[u8]) -> String {
    let line = String::from_utf8_lossy(line.trim_ascii()).into_owned();
    let name = line.split_ascii_whitespace().next().unwrap_or_default();
    let name = name.trim_matches(['"', '\'']);
    match Config::find(name) {
        Some(row) if Config::rows()[row].is_secret() => format!("{name} (hidden)"),
        _ => line,
    }
}

/// Makes `dir` absolute, as CONFIG GET shows it, after looking whether it is a directory. One that data is to go to need not be
/// there, but what it is in must: that is mistyped more often than missing. Nobody misses that of the default without data.
fn settle_dir(config: &mut Config) -> Result<(), SettingsError> {
    let wrong = |source| SettingsError::Dir { dir: config.dir.clone(), source };
    let may_be_missing = config.append_only || config.dir == DATA_DIR;
    let real = match fs::canonicalize(&config.dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound && may_be_missing => {
            let path = std::path::absolute(&config.dir).map_err(wrong)?;
            let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Err(wrong(error)) };
            fs::canonicalize(parent).map_err(wrong)?.join(name)
        }
        real => real.map_err(wrong).and_then(|real| match real.is_dir() {
            true => Ok(real),
            false => Err(wrong(io::ErrorKind::NotADirectory.into())),
        })?,
    };
    let set = config.set_at_start("dir", &[real.as_os_str().as_bytes()]);
    set.map_err(|error| SettingsError::File(error.into()))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use torc_engine::config::Cores;

    use super::*;

    /// A folder of files that goes away with the test.
    struct Folder(PathBuf);

    impl Folder {
        fn new(files: &[(&str, &str)]) -> Folder {
            static NEXT: AtomicUsize = AtomicUsize::new(0);
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let name = format!("torc-settings-{}-{number}", std::process::id());
            let folder = Folder(std::env::temp_dir().join(name));
            fs::create_dir_all(&folder.0).unwrap();
            for (name, text) in files {
                // `@` stands for the folder, so that files can name each other.
                let text = text.replace('@', folder.0.to_str().unwrap());
                fs::write(folder.0.join(name), text).unwrap();
            }
            folder
        }

        fn load(&self, file: &str, flags: &str) -> Result<Loaded, String> {
            let path = self.0.join(file);
            load_words([path.to_str().unwrap()].into_iter().chain(flags.split_whitespace()))
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn load_words<'a>(words: impl Iterator<Item = &'a str>) -> Result<Loaded, String> {
        let words = ["torc"].into_iter().chain(words).map(OsString::from);
        load_with(words, &b"port 1234"[..]).map_err(|error| {
            let shown = matches!(error, SettingsError::Shown(_));
            assert_eq!(error.exit_status(), if shown { 0 } else { 1 });
            error.to_string()
        })
    }

    fn load_flags(words: &[&str]) -> Result<Loaded, String> {
        load_words(words.iter().copied())
    }

    fn get(loaded: &Loaded, name: &str) -> String {
        loaded.config.get_matching(&[name.as_bytes()])[0].1.clone()
    }

    #[test]
    fn nothing_given() {
        let loaded = load_flags(&[]).unwrap();
        assert!(loaded.warnings.is_empty());
        assert_eq!(loaded.file, "");
        assert_eq!(loaded.config.port, 6379);
        assert!(Path::new(&loaded.config.dir).is_absolute());
    }

    #[test]
    fn flags() {
        let loaded = load_flags(&[
            "--port",
            "7000",
            "--bind",
            "127.0.0.1",
            "-::1",
            "--save",
            "900",
            "1",
            "--save",
            "60 5",
            "--client-output-buffer-limit",
            "normal",
            "1",
            "0",
            "0",
            "--port=7001",
            "--slave-priority",
            "5",
            "--slowlog-log-slower-than",
            "-1",
            "--cores",
            "0-1",
            "--requirepass",
            "a \"b\\",
        ])
        .unwrap();
        assert_eq!(loaded.config.port, 7001);
        assert_eq!(loaded.config.bind, ["127.0.0.1", "-::1"]);
        assert_eq!(get(&loaded, "save"), "900 1 60 5");
        assert_eq!(loaded.config.output_limits.normal.hard_bytes, 1);
        assert_eq!(loaded.config.cores, Cores::List(vec![0, 1]));
        assert_eq!(loaded.config.requirepass, b"a \"b\\");
        let names = "replica-priority, slowlog-log-slower-than";
        assert_eq!(loaded.warnings, [format!("accepted, but without effect in Torc: {names}")]);
        assert_eq!(get(&load_flags(&["--save", ""]).unwrap(), "save"), "");
        assert_eq!(load_flags(&["-", "--hz", "20"]).unwrap().config.port, 1234);
    }

    #[test]
    fn faults_are_for_those_who_may_debug() {
        for who in ["local", "yes"] {
            let loaded = load_flags(&["--fault-hop-delay-ms", "5", "--enable-debug-command", who]).unwrap();
            let [warning] = &loaded.warnings[..] else { panic!("{:?}", loaded.warnings) };
            assert!(
                warning.starts_with("FAULTS ARE INJECTED ON PURPOSE") && warning.ends_with(": fault-hop-delay-ms 5")
            );
        }
        assert!(load_flags(&["--fault-hop-delay-ms", "0", "--fault-seed", "5"]).unwrap().warnings.is_empty());
    }

    #[test]
    fn wrong_flags() {
        let rows: &[(&[&str], &str)] = &[
            (&["--prot", "1"], "a similar argument exists: '--port'"),
            (&["--port"], "a value is required for '--port"),
            (&["--port", "x"], "on the command line: --port: 'port x' is wrong: argument couldn't"),
            (&["--appendonly", "yes", "--dir", "/dev/null/x"], "dir '/dev/null/x' cannot be used: Not a directory"),
            (&["--appendonly", "yes", "--dir", "/dev/null"], "dir '/dev/null' cannot be used: not a directory"),
            (&["--dir", "/does/not/exist"], "dir '/does/not/exist' cannot be used: No such file"),
            (&["--dir", "/dev/null"], "dir '/dev/null' cannot be used: not a directory"),
            (&["/does/not/exist.conf"], "cannot read '/does/not/exist.conf': No such file"),
            (&["--include", "/does/not/exist"], "--include: cannot read '/does/not/exist'"),
            (&["-x"], "unexpected argument '-x'"),
            (&["a", "b"], "unexpected argument 'b'"),
            (
                &["--fault-wal-delay-ms", "5"],
                "fault-wal-delay-ms 5: faults are injected into a server that allows DEBUG",
            ),
            (&["--requirepass", "abc", "def"], "'requirepass (hidden)' is wrong"),
        ];
        for (words, want) in rows {
            let error = load_flags(words).expect_err(want);
            assert!(error.contains(want), "{words:?}: {error}");
            assert!(!error.contains("abc"), "{error}");
        }
    }

    #[test]
    fn help_and_version() {
        assert_eq!(load_flags(&["--version"]).unwrap_err(), "torc 0.1.0\n");
        assert_eq!(load_flags(&["-v"]).unwrap_err(), "torc 0.1.0\n");
        let help = load_flags(&["--help"]).unwrap_err();
        let places: Vec<_> =
            SECTIONS.iter().map(|section| help.find(&format!("\n{section}:\n")).expect(section)).collect();
        assert!(places.is_sorted(), "{help}");
        for row in Config::rows() {
            assert!(help.contains(&format!("--{} <", row.name)), "{}", row.name);
        }
        let short = load_flags(&["-h"]).unwrap_err();
        assert!(short.contains("--port <") && !short.contains("--fault-"), "faults are for those who look for them");
        command().debug_assert();
    }

    #[test]
    fn a_file_and_what_it_includes() {
        let folder = Folder::new(&[
            (
                "torc.conf",
                "# port 1\n\nPORT 7000\r\nrequirepass \"p\\x41 s\"\ninclude @/more.conf\n\
                 include '@/d-*'\ninclude @/none-*\nhz 20\ntimeout 5",
            ),
            ("more.conf", "maxclients 5\nhz 30\n"),
            ("d-2", "tcp-keepalive 2"),
            ("d-1", "tcp-keepalive 1\nslowlog-max-len 1"),
        ]);
        let loaded = folder.load("torc.conf", "--timeout 6").unwrap();
        assert_eq!(loaded.file, folder.0.join("torc.conf").to_str().unwrap());
        let config = &loaded.config;
        assert_eq!((config.port, config.maxclients, config.hz), (7000, 5, 20));
        assert_eq!(config.requirepass, b"pA s");
        assert_eq!((config.tcp_keepalive_s, config.timeout_s), (2, 6));
        assert_eq!(loaded.warnings.len(), 1);
    }

    #[test]
    fn errors_name_file_line_and_text() {
        let rows: &[(&str, &str)] = &[
            ("port 1\nprot 2\n", "/a:2: unknown directive 'prot'\n>>> prot 2"),
            ("port 1 \"", "/a:1: unbalanced quotes in configuration line\n>>> port 1 \""),
            (
                "\n\n  port x\r\n",
                "/a:3: 'port x' is wrong: argument couldn't be parsed \
                into an integer\n>>> port x",
            ),
            ("requirepass \"pw", "line\n>>> requirepass (hidden)"),
            (
                "user a on >pw",
                "'user (hidden)' is refused: Torc has no users yet; remove it\n>>> \
                user (hidden)",
            ),
            ("include", "/a:1: 'include' takes one path\n>>> include"),
            ("hz 1\ninclude @/b", "/b:1: unknown directive 'wrong'\n>>> wrong line"),
            ("include @/x*/y", "only the last part of an 'include' path may have wildcards"),
            ("\ninclude @/gone", "/gone': No such file or directory (os error 2)\n>>> include"),
            ("include @/circle", "files include each other in a circle: "),
        ];
        for (text, want) in rows {
            let folder = Folder::new(&[("a", text), ("b", "wrong line"), ("circle", "include @/a")]);
            let error = folder.load("a", "").expect_err(want);
            assert!(error.contains(want), "{text:?}: {error}");
            assert!(!error.contains("pw"), "{error}");
        }
    }

    #[test]
    fn includes_are_bounded() {
        let names: Vec<String> = (0..DEPTH_MAX + 1).map(|depth| depth.to_string()).collect();
        let text = |depth: usize| format!("include @/{depth}");
        let texts: Vec<String> = (1..DEPTH_MAX + 1).map(text).chain(["hz 1".into()]).collect();
        let files: Vec<_> = names.iter().map(|n| &n[..]).zip(texts.iter().map(|t| &t[..])).collect();
        let folder = Folder::new(&files);
        let error = folder.load("0", "").expect_err("too deep");
        assert!(error.contains("more than 16 deep"), "{error}");
        assert!(folder.load("1", "").is_ok());

        // Ten levels that double would be 1,024 files at the bottom alone.
        let texts: Vec<String> = (1..12).map(|n| format!("include @/{n}\n").repeat(2)).collect();
        let files: Vec<_> = names.iter().map(|n| &n[..]).zip(texts.iter().map(|t| &t[..])).collect();
        let folder = Folder::new(&files);
        fs::write(folder.0.join("11"), "").unwrap();
        let error = folder.load("0", "").expect_err("too many");
        assert!(error.contains("more than 1024 files"), "{error}");

        fs::write(folder.0.join("long"), vec![b'#'; FILE_BYTES_MAX as usize + 1]).unwrap();
        let error = folder.load("long", "").expect_err("too long");
        assert!(error.contains("is longer than 1048576 bytes"), "{error}");
    }
}
