//! Target `config`: configuration files and CONFIG SET, with any bytes.

use std::sync::LazyLock;

use super::line::{self, join, lines, split};
use super::{Change, Config, QUERY_BUFFER_BYTES_CEILING, Shown, State};

/// Longest input: each line that is accepted is tried in several ways.
const BYTES_MAX: usize = 4 << 10;
const SECRET: &str = "(hidden)";

/// Whatever a file or CONFIG SET says ends in settings within their bounds or in an error that shows no password, an error changes
/// nothing, and what is shown of a setting, set again, is shown the same. Up to the first zero the input is a file; behind it are
/// names and values of CONFIG SET with zeros between them.
pub fn config(data: &[u8]) {
    let data = &data[..data.len().min(BYTES_MAX)];
    let mut parts = data.split(|&byte| byte == 0);
    let mut config = default();
    for (number, line, parsed) in lines(parts.next().unwrap_or_default()) {
        assert!(number > 0);
        let words = split(line.trim_ascii());
        let Ok(words) = words else {
            assert!(parsed.is_err() || line.trim_ascii().starts_with(b"#"));
            continue;
        };
        assert_eq!(split(join(&words).as_bytes()).as_ref(), Ok(&words));
        if let Ok(Some(line::Line { name, values })) = parsed {
            set_at_start(&mut config, &name, &values);
        }
    }
    check(&config);
    let words: Vec<&[u8]> = parts.collect();
    let pairs: Vec<(&[u8], &[u8])> = words.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect();
    let before = texts(&config);
    match config.set_at_run_time(&pairs) {
        Ok(()) => check(&config),
        Err(error) => {
            assert!(!error.to_string().is_empty());
            assert_eq!(texts(&config), before);
        }
    }
}

fn set_at_start(config: &mut Config, name: &str, values: &[Vec<u8>]) {
    let row = Config::find(name);
    let before = row.map(|row| config.text(row).to_owned());
    if let Err(error) = config.set_at_start(name, values) {
        assert_eq!(row.map(|row| config.text(row)), before.as_deref());
        let is_secret = row.is_some_and(|row| Config::rows()[row].is_secret());
        assert!(!is_secret || error.to_string().contains(SECRET));
        return;
    }
    let row = row.expect("it was set");
    let (text, row) = (config.text(row).to_owned(), &Config::rows()[row]);
    // As CONFIG SET is given it: in one piece, with single blanks between words.
    if row.change == Change::RunTime && row.shown != Shown::InFilesOnly {
        let mut again = config.clone();
        let set = again.set_at_run_time(&[(row.name.as_bytes(), text.as_bytes())]);
        assert_eq!((set, again.text_of(row.name)), (Ok(()), &*text), "{}", row.name);
    }
    // And in a file.
    let mut again = default();
    let words: Vec<&[u8]> = match row.takes_words() {
        true => text.split(' ').map(str::as_bytes).collect(),
        false => vec![text.as_bytes()],
    };
    let line = format!("{} {}", row.name, join(&words));
    let line::Line { name, values } = line::parse(line.as_bytes()).expect("balanced").expect("not blank");
    assert_eq!(again.set_at_start(&name, &values), Ok(()), "{line}");
    assert_eq!(again.text_of(row.name), text, "{line}");
}

/// What the rest of Torc relies on.
fn check(config: &Config) {
    assert!((1..=16).contains(&config.databases));
    assert!((1..=500).contains(&config.hz));
    assert!((1..=50).contains(&config.snapshot_duty));
    assert!((4 << 20..=4 << 30).contains(&config.segment_bytes));
    assert!(config.query_buffer_bytes_max <= QUERY_BUFFER_BYTES_CEILING);
    assert!(config.maxmemory <= i64::MAX as u64 && config.maxmemory_clients > 0);
    let defaults = default();
    for (index, row) in Config::rows().iter().enumerate() {
        // What is not built stays off.
        if matches!(row.state, State::OnlyOff { .. }) {
            assert_eq!(config.text(index), defaults.text(index));
        }
    }
    let shown = format!("{config:?}");
    let password = String::from_utf8_lossy(&config.requirepass);
    assert!(password.is_empty() || shown.contains(&format!("\"requirepass\": \"{SECRET}\"")));
}

/// Made once: it takes longer than all the rest.
fn default() -> Config {
    static DEFAULT: LazyLock<Config> = LazyLock::new(Config::default);
    DEFAULT.clone()
}

fn texts(config: &Config) -> Vec<String> {
    (0..Config::rows().len()).map(|row| config.text(row).to_owned()).collect()
}
