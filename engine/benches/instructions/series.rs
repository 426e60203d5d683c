//! What was counted before: `bench/results/instructions.csv`, one row for each count, the newest last.

use std::fmt;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

const HEADER: &str = "date,commit,rustc,case,instructions_per_operation";

/// What a count belongs to.
pub struct Version {
    date: String,
    commit: String,
    rustc: String,
}

impl Version {
    /// Of the tree as it is now. A `+` behind the commit: with changes that are not in it.
    pub fn current() -> Result<Version, String> {
        let changes = output("git", &["status", "--porcelain", "--", ":/", ":!/bench/results"])?;
        let mut commit = output("git", &["rev-parse", "--short=10", "HEAD"])?;
        if !changes.is_empty() {
            commit.push('+');
        }
        let rustc = output("rustc", &["--version"])?;
        let rustc = rustc.split(' ').nth(1).unwrap_or("unknown").to_owned();
        Ok(Version { date: output("date", &["--utc", "+%F"])?, commit, rustc })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}, rustc {}", self.commit, self.rustc)
    }
}

fn output(program: &str, words: &[&str]) -> Result<String, String> {
    let output = Command::new(program).args(words).current_dir(env!("CARGO_MANIFEST_DIR")).output();
    match output {
        Ok(output) if output.status.success() => Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned()),
        Ok(output) => Err(format!("{program}: {}", String::from_utf8_lossy(&output.stderr).trim())),
        Err(error) => Err(format!("{program}: {error}")),
    }
}

/// One row.
pub struct Row<'a> {
    pub commit: &'a str,
    pub rustc: &'a str,
    pub count: f64,
}

pub struct Series {
    path: PathBuf,
    /// As it was, and below it what `append` adds.
    text: String,
    recorded_bytes: usize,
}

impl Series {
    pub fn load() -> Result<Series, String> {
        let path = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../bench/results/instructions.csv"));
        let text = match path.exists() {
            true => fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?,
            false => format!("{HEADER}\n"),
        };
        let recorded_bytes = text.len();
        Ok(Series { path, text, recorded_bytes })
    }

    /// The newest row of a case.
    pub fn last(&self, case: &str) -> Option<Row<'_>> {
        self.text[..self.recorded_bytes].lines().rev().find_map(|line| {
            let mut fields = line.split(',');
            let mut next = || fields.next();
            let (_, commit, rustc, name, count) = (next()?, next()?, next()?, next()?, next()?);
            (name == case).then_some(Row { commit, rustc, count: count.parse().ok()? })
        })
    }

    pub fn append(&mut self, version: &Version, case: &str, count: f64) {
        let Version { date, commit, rustc } = version;
        self.text += &format!("{date},{commit},{rustc},{case},{count:.2}\n");
    }

    pub fn save(&self) -> Result<(), String> {
        fs::write(&self.path, &self.text).map_err(|error| format!("{}: {error}", self.path.display()))
    }
}
