//! The formats of traces: their names and options on the command line, and how the first line of a file decides
//! what was left open.

use super::line::{self, Problem, Request};
use super::{Operation, Trace, TraceError};
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// `FILE[:FORMAT[:OPTIONS]]`. Options are `limit=N`, and for CSV those of libCacheSim. `Display` writes what
/// `FromStr` reads.
#[derive(Clone, Debug, PartialEq)]
pub struct TraceSpec {
    pub path: PathBuf,
    pub format: TraceFormat,
    /// How many requests to read; at least one.
    pub limit: Option<usize>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum TraceFormat {
    /// By the first line: a request of Twitter's or seven columns between commas are Twitter's; another three
    /// columns or more are CSV; else keys.
    Detect,
    /// <https://github.com/twitter/cache-trace>.
    Twitter,
    /// What libCacheSim calls csv, <https://github.com/1a1a11a/libCacheSim>.
    Csv(Csv),
    /// One key a line; libCacheSim's txt.
    Keys,
}

/// Which column, from 1 on, is what. `None` of a column: there is none. `None` of another option: the first line
/// decides.
#[derive(Clone, Debug, PartialEq)]
pub struct Csv {
    pub time: Option<usize>,
    pub object_id: usize,
    pub object_size: Option<usize>,
    pub operation: Option<usize>,
    pub ttl: Option<usize>,
    /// `007` and `7` are the same key.
    pub id_is_number: bool,
    pub delimiter: Option<char>,
    pub has_header: Option<bool>,
    /// How many columns each line has.
    columns: Option<usize>,
}

/// Time, object id and size, which is also libCacheSim's order.
impl Default for Csv {
    fn default() -> Csv {
        Csv { time: Some(1), object_id: 2, object_size: Some(3), ..Csv::without_columns() }
    }
}

impl TraceSpec {
    pub fn load(self) -> Result<Trace, TraceError> {
        Trace::load(&self.path, self.format, self.limit)
    }
}

impl FromStr for TraceSpec {
    type Err = String;

    fn from_str(text: &str) -> Result<TraceSpec, String> {
        // From the end, for a file's name may contain colons.
        let named = text.rmatch_indices(':').find_map(|(at, _)| {
            let rest = &text[at + 1..];
            let (name, options) = rest.split_once(':').unwrap_or((rest, ""));
            matches!(name, "twitter" | "csv" | "keys").then_some((&text[..at], name, options))
        });
        let (path, name, options) = named.unwrap_or((text, "", ""));
        if path.is_empty() {
            return Err("a trace needs a file, as in trace:FILE:twitter".to_string());
        }
        let (mut csv, mut names_columns, mut limit) = (Csv::without_columns(), false, None);
        for option in Options(options) {
            let (key, value) = option?;
            match key.replace('_', "-").to_ascii_lowercase().as_str() {
                "limit" => match value.parse() {
                    Ok(number @ 1..) => limit = Some(number),
                    _ => return Err(format!("limit='{value}' must be a number of requests, at least 1")),
                },
                key if name == "csv" => names_columns |= csv.set(key, value)?,
                _ => return Err(format!("'{key}' is no option of the format {name}, which has only limit=N")),
            }
        }
        if !names_columns {
            let Csv { id_is_number, delimiter, has_header, .. } = csv;
            csv = Csv { id_is_number, delimiter, has_header, ..Csv::default() };
        } else if csv.object_id == 0 {
            return Err("the options of a csv trace name columns, but not the obj-id-col".to_string());
        }
        let format = match name {
            "twitter" => TraceFormat::Twitter,
            "csv" => TraceFormat::Csv(csv),
            "keys" => TraceFormat::Keys,
            _ => TraceFormat::Detect,
        };
        Ok(TraceSpec { path: path.into(), format, limit })
    }
}

/// Takes `key=value,key=value` apart as libCacheSim does: spaces and further commas after a comma do not
/// count, so that `delimiter=,,` is a comma.
struct Options<'a>(&'a str);

impl<'a> Iterator for Options<'a> {
    type Item = Result<(&'a str, &'a str), String>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let Some((key, rest)) = self.0.split_once('=') else {
            return Some(Err(format!("'{}' is no option of a trace, as in limit=1000", std::mem::take(&mut self.0))));
        };
        let (value, rest) = rest.split_once(',').unwrap_or((rest, ""));
        self.0 = rest.trim_start_matches([' ', ',']);
        Some(Ok((key.trim(), value)))
    }
}

impl Csv {
    /// Column 0 is none.
    fn without_columns() -> Csv {
        Csv {
            time: None,
            object_id: 0,
            object_size: None,
            operation: None,
            ttl: None,
            id_is_number: false,
            delimiter: None,
            has_header: None,
            columns: None,
        }
    }

    /// Sets an option; whether it was a column.
    fn set(&mut self, key: &str, value: &str) -> Result<bool, String> {
        let column = || match value.trim().parse::<usize>() {
            Ok(column @ 1..=1_000) => Ok(column),
            _ => Err(format!("{key}='{value}' must be the number of a column, from 1 on")),
        };
        match key {
            "time-col" => self.time = Some(column()?),
            "obj-id-col" => self.object_id = column()?,
            "obj-size-col" | "size-col" => self.object_size = Some(column()?),
            "op-col" => self.operation = Some(column()?),
            "ttl-col" => self.ttl = Some(column()?),
            "obj-id-is-num" => self.id_is_number = truth(key, value)?,
            "has-header" | "header" => self.has_header = Some(truth(key, value)?),
            "delimiter" => self.delimiter = Some(delimiter(value)?),
            _ => {
                return Err(format!(
                    "unknown option '{key}' of a csv trace: time-col, obj-id-col, obj-size-col, op-col, ttl-col, \
                     obj-id-is-num, delimiter, has-header or limit"
                ));
            }
        }
        Ok(key.ends_with("-col"))
    }

    fn last_column(&self) -> usize {
        let optional = [self.time, self.object_size, self.operation, self.ttl];
        optional.into_iter().flatten().fold(self.object_id, usize::max)
    }

    /// Fills in what is open by the first line. The delimiter is the first of the usual ones which makes enough
    /// columns. A first line is a header if there is a column for a number, and no column is or could be one.
    fn resolve(mut self, line: &str) -> Result<Csv, Problem> {
        let enough = |delimiter: &char| line::columns(line, *delimiter).is_ok_and(|c| c.len() >= self.last_column());
        let delimiter = self.delimiter.or_else(|| [',', '\t', '|', ';', ':', ' '].into_iter().find(enough));
        let columns = line::columns(line, delimiter.unwrap_or(','))?;
        let numbers = [self.time, self.object_size, self.ttl].into_iter().flatten();
        let mut numbers = numbers.map(|column| columns.get(column - 1).copied().unwrap_or(""));
        let is_name = |text: &str| text.starts_with(|c: char| c.is_alphabetic() || matches!(c, '_' | '#'));
        let looks_like_header =
            numbers.any(|text| !text.is_empty()) && columns.iter().all(|text| text.is_empty() || is_name(text));
        self.has_header = self.has_header.or(Some(looks_like_header));
        self.delimiter = delimiter.or(Some(','));
        self.columns = Some(columns.len());
        if columns.len() < self.last_column() {
            return Err(self.too_few(columns.len()));
        }
        Ok(self)
    }

    fn too_few(&self, got: usize) -> Problem {
        let expected = match self.columns {
            Some(columns) if columns >= self.last_column() => format!("{columns} as in the first line"),
            _ => format!("{} or more", self.last_column()),
        };
        Problem::Columns { got, expected, names: format!("the options are {self}") }
    }

    fn request<'a>(&self, line: &'a str) -> Result<Request<'a>, Problem> {
        let columns = line::columns(line, self.delimiter.unwrap_or(','))?;
        if self.columns.is_some_and(|expected| expected != columns.len()) || columns.len() < self.last_column() {
            return Err(self.too_few(columns.len()));
        }
        let text = |column: usize| columns[column - 1];
        if let Some(time) = self.time.map(text) {
            check_time(time)?;
        }
        let mut key = line::not_empty(text(self.object_id))?;
        if self.id_is_number {
            key = whole_number(key)?;
        }
        let size = self.object_size.map_or(Ok(0), |column| line::value_size("object size", text(column)))?;
        let ttl_s = match self.ttl.map(text) {
            None | Some("") => 0,
            Some(ttl) => line::number("ttl", ttl, u32::MAX)?,
        };
        let operation = self.operation.map_or(Ok(Operation::Get), |column| line::operation(text(column)))?;
        Ok(Request { key, size, ttl_s, operation })
    }
}

/// Times are not used. What is none tells of a damaged line, or of a header.
fn check_time(text: &str) -> Result<(), Problem> {
    let expected = "a number".to_string();
    match text.parse::<f64>() {
        Ok(time) if time.is_finite() => Ok(()),
        _ => Err(Problem::Number { column: "time", text: line::shortened(text), expected }),
    }
}

/// The digits without leading zeros.
fn whole_number(text: &str) -> Result<&str, Problem> {
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        let expected = "a whole number, as obj-id-is-num says".to_string();
        return Err(Problem::Number { column: "object id", text: line::shortened(text), expected });
    }
    let significant = text.trim_start_matches('0');
    Ok(if significant.is_empty() { "0" } else { significant })
}

fn truth(key: &str, value: &str) -> Result<bool, String> {
    match value.trim().to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "y" => Ok(true),
        "false" | "0" | "no" | "n" => Ok(false),
        _ => Err(format!("{key}='{value}' must be true or false")),
    }
}

fn delimiter(value: &str) -> Result<char, String> {
    let mut characters = value.chars();
    match (value, characters.next(), characters.next()) {
        ("" | "\\", ..) => Ok(','),
        ("\\t", ..) => Ok('\t'),
        (_, Some(character), None) if character != '"' && !character.is_alphanumeric() => Ok(character),
        _ => Err(format!("delimiter='{value}' must be one character, neither a letter, digit nor quote, or \\t")),
    }
}

impl TraceFormat {
    /// The format with nothing left open.
    pub(super) fn resolve(self, line: &str) -> Result<TraceFormat, Problem> {
        match self {
            TraceFormat::Detect if line.split(',').count() == 7 || line::twitter(line).is_ok() => {
                Ok(TraceFormat::Twitter)
            }
            TraceFormat::Detect => Ok(Csv::default().resolve(line).map_or(TraceFormat::Keys, TraceFormat::Csv)),
            TraceFormat::Csv(csv) => csv.resolve(line).map(TraceFormat::Csv),
            TraceFormat::Twitter | TraceFormat::Keys => Ok(self),
        }
    }

    pub(super) fn has_header(&self) -> bool {
        matches!(self, TraceFormat::Csv(Csv { has_header: Some(true), .. }))
    }

    pub(super) fn request<'a>(&self, line: &'a str) -> Result<Request<'a>, Problem> {
        match self {
            TraceFormat::Twitter => line::twitter(line),
            TraceFormat::Csv(csv) => csv.request(line),
            TraceFormat::Keys | TraceFormat::Detect => line::key(line),
        }
    }
}

impl fmt::Display for TraceSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path.display())?;
        let limit = self.limit.map(|limit| format!("limit={limit}"));
        match &self.format {
            TraceFormat::Detect => return Ok(()),
            TraceFormat::Twitter => f.write_str(":twitter")?,
            TraceFormat::Keys => f.write_str(":keys")?,
            TraceFormat::Csv(csv) => write!(f, ":csv:{csv}")?,
        }
        match (&self.format, limit) {
            (_, None) => Ok(()),
            (TraceFormat::Csv(_), Some(limit)) => write!(f, ",{limit}"),
            (_, Some(limit)) => write!(f, ":{limit}"),
        }
    }
}

impl fmt::Display for Csv {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "obj-id-col={}", self.object_id)?;
        let optional = [("time", self.time), ("obj-size", self.object_size), ("op", self.operation), ("ttl", self.ttl)];
        for (name, column) in optional {
            if let Some(column) = column {
                write!(f, ",{name}-col={column}")?;
            }
        }
        if self.id_is_number {
            f.write_str(",obj-id-is-num=true")?;
        }
        match self.delimiter {
            None => {}
            Some('\t') => f.write_str(",delimiter=\\t")?,
            Some(',') => f.write_str(",delimiter=,")?,
            Some(delimiter) => write!(f, ",delimiter={delimiter}")?,
        }
        match self.has_header {
            None => Ok(()),
            Some(has_header) => write!(f, ",has-header={has_header}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> TraceSpec {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn options_are_those_of_libcachesim() {
        let spec = parsed(
            "a.csv:csv:time-col=2, obj-id-col=5, obj-size-col=4, obj-id-is-num=true, delimiter=,, has-header=true",
        );
        let expected = Csv {
            time: Some(2),
            object_id: 5,
            object_size: Some(4),
            id_is_number: true,
            delimiter: Some(','),
            has_header: Some(true),
            ..Csv::without_columns()
        };
        assert_eq!(spec, TraceSpec { path: "a.csv".into(), format: TraceFormat::Csv(expected), limit: None });
        assert_eq!(parsed("a:csv:time-col=1,obj-id-col=2,obj-size-col=3").format, TraceFormat::Csv(Csv::default()));
        assert_eq!(parsed("a:csv").format, TraceFormat::Csv(Csv::default()));
        for (text, character) in
            [("\\t", '\t'), ("", ','), (",,", ','), ("\\,", ','), (";", ';'), (":", ':'), (" ", ' ')]
        {
            let expected = Csv { delimiter: Some(character), ..Csv::default() };
            assert_eq!(parsed(&format!("a:csv:delimiter={text}")).format, TraceFormat::Csv(expected), "{text}");
        }
    }

    #[test]
    fn names_of_files_may_contain_colons() {
        assert_eq!(parsed("a:b:keys").path, PathBuf::from("a:b"));
        assert_eq!(parsed("a:b").path, PathBuf::from("a:b"));
        assert_eq!(parsed("a:csv:x:keys:limit=3"), TraceSpec { limit: Some(3), ..parsed("a:csv:x:keys") });
    }

    #[test]
    fn what_is_read_is_shown_and_read_again() {
        for text in [
            "a",
            "a:twitter",
            "a:keys:limit=5",
            "a:csv",
            "a:csv:limit=7,delimiter=;",
            "a:csv:delimiter=,,has-header=no",
            "a:csv:obj-id-col=1,ttl-col=3,op-col=2,delimiter=\\t,limit=2",
            "a:csv:delimiter=:,obj-id-is-num=1",
        ] {
            let spec = parsed(text);
            assert_eq!(parsed(&spec.to_string()), spec, "{text} as {spec}");
        }
    }

    #[test]
    fn wrong_options_are_refused() {
        for text in [
            "",
            ":csv",
            "a:keys:delimiter=;",
            "a:twitter:limit=0",
            "a:twitter:limit=-1",
            "a:keys:limit",
            "a:csv:time-col=1",
            "a:csv:obj-id-col=0",
            "a:csv:obj-id-col=x",
            "a:csv:obj-id-col=99999",
            "a:csv:has-header=maybe",
            "a:csv:delimiter=ab",
            "a:csv:delimiter=x",
            "a:csv:delimiter=\"",
            "a:csv:cnt-col=3",
            "a:csv:nonsense",
        ] {
            assert!(text.parse::<TraceSpec>().is_err(), "{text}");
        }
    }
}
