//! Public cache traces, read whole into memory for replay.
//!
//! - `format.rs` has the formats and their names on the command line.
//! - `line.rs` takes one line of a file apart.
//!
//! A damaged line ends the reading with an error: a trace with holes would be another workload. Traces come
//! compressed and are not decompressed here; a pipe serves as well as a file:
//! `zstd -dc cluster52.zst | torc-bench run --dist trace:/dev/stdin:twitter:limit=10000000`.

mod format;
mod line;

pub use format::{TraceFormat, TraceSpec};

use line::Problem;
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

/// No line of a trace is as long as this, in bytes. Bounds what is read of a file without line ends.
const LINE_BYTES_MAX: u64 = 1 << 16;

/// What a request of a trace did, in the terms of a load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    Get,
    Set,
    Delete,
    Increment,
}

/// One request, in 16 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// Keys are numbered from 0 in the order in which the file first names them.
    pub key: u32,
    /// Bytes of the value: written, or found, where 0 can mean that nothing was. 0 if the trace does not say.
    pub size: u32,
    /// Seconds which the value is to live; 0 for ever, or if the trace does not say.
    pub ttl_s: u32,
    pub operation: Operation,
}

const _: () = assert!(size_of::<Record>() == 16);

#[derive(Clone, PartialEq)]
pub struct Trace {
    spec: TraceSpec,
    records: Vec<Record>,
    distinct_keys: u64,
}

#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    #[error("cannot read the trace {path}: {source}")]
    Io { path: String, source: io::Error },
    #[error("the trace {path} holds no request")]
    Empty { path: String },
    #[error("{path}, line {line}: {problem}")]
    Line { path: String, line: u64, problem: Problem },
}

impl Trace {
    /// Reads the first `limit` requests, or all. The first line decides what [`TraceFormat::Detect`] and
    /// [`TraceFormat::Csv`] leave open.
    pub fn load(path: &Path, format: TraceFormat, limit: Option<usize>) -> Result<Trace, TraceError> {
        let failed = |source| TraceError::Io { path: path.display().to_string(), source };
        let file = File::open(path).map_err(failed)?;
        let spec = TraceSpec { path: path.to_path_buf(), format, limit };
        Trace::read(BufReader::with_capacity(1 << 18, file), spec)
    }

    fn read(mut input: impl BufRead, mut spec: TraceSpec) -> Result<Trace, TraceError> {
        let path = spec.path.display().to_string();
        let failed = |source| TraceError::Io { path: path.clone(), source };
        let mut bytes = Vec::new();
        let mut records = Vec::new();
        let mut numbers = Numbers::default();
        let mut line = 0;
        while spec.limit.is_none_or(|limit| records.len() < limit) {
            line += 1;
            bytes.clear();
            if input.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut bytes).map_err(failed)? == 0 {
                break;
            }
            let damaged = |problem| TraceError::Line { path: path.clone(), line, problem };
            let mut text = line::text(&bytes, LINE_BYTES_MAX).map_err(damaged)?;
            if line == 1 {
                text = text.strip_prefix('\u{feff}').unwrap_or(text);
                spec.format = spec.format.resolve(text).map_err(damaged)?;
                if spec.format.has_header() {
                    continue;
                }
            }
            let request = spec.format.request(text).map_err(damaged)?;
            let key = numbers.number(request.key).ok_or(Problem::TooManyKeys).map_err(damaged)?;
            let line::Request { size, ttl_s, operation, .. } = request;
            records.push(Record { key, size, ttl_s, operation });
        }
        if records.is_empty() {
            return Err(TraceError::Empty { path });
        }
        records.shrink_to_fit();
        Ok(Trace { spec, records, distinct_keys: numbers.0.len() as u64 })
    }

    /// At least one.
    pub fn records(&self) -> &[Record] {
        &self.records
    }

    /// Every number below is the key of some record.
    pub fn distinct_keys(&self) -> u64 {
        self.distinct_keys
    }

    /// Where it came from, with what the first line decided.
    pub fn spec(&self) -> &TraceSpec {
        &self.spec
    }
}

/// Not with its records: there may be a billion.
impl std::fmt::Debug for Trace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Trace({}, {} records, {} keys)", self.spec, self.records.len(), self.distinct_keys)
    }
}

/// Numbers keys in the order of their first appearance. Only while reading; it costs some 60 bytes and the
/// key for each distinct key.
#[derive(Default)]
struct Numbers(HashMap<Box<str>, u32>);

impl Numbers {
    fn number(&mut self, key: &str) -> Option<u32> {
        if let Some(&number) = self.0.get(key) {
            return Some(number);
        }
        let number = u32::try_from(self.0.len()).ok()?;
        self.0.insert(key.into(), number);
        Some(number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: impl AsRef<[u8]>, format: &str) -> Result<Trace, String> {
        let spec: TraceSpec = format!("some.file{format}").parse()?;
        Trace::read(text.as_ref(), spec).map_err(|error| error.to_string())
    }

    /// Key, size, seconds to live and operation of each record.
    fn records(text: &str, format: &str) -> Vec<(u32, u32, u32, Operation)> {
        let trace = read(text, format).unwrap();
        trace.records().iter().map(|r| (r.key, r.size, r.ttl_s, r.operation)).collect()
    }

    /// Where the error is, and that it says all of `parts`.
    fn refused(text: impl AsRef<[u8]>, format: &str, line: u64, parts: &[&str]) {
        let error = read(text, format).unwrap_err();
        assert!(error.starts_with(&format!("some.file, line {line}: ")), "{error}");
        for part in parts {
            assert!(error.contains(part), "{error}: no '{part}'");
        }
    }

    fn sample(name: &str) -> Trace {
        let path = format!("{}/tests/data/{name}", env!("CARGO_MANIFEST_DIR"));
        path.parse::<TraceSpec>().unwrap().load().unwrap()
    }

    use Operation::{Delete, Get, Increment, Set};

    #[test]
    fn the_samples_are_read_and_their_formats_recognised() {
        let twitter = sample("twitter.csv");
        assert_eq!((twitter.records().len(), twitter.distinct_keys()), (20, 11));
        assert_eq!(twitter.spec().format, TraceFormat::Twitter);
        let count = |operation| twitter.records().iter().filter(|record| record.operation == operation).count();
        assert_eq!([Get, Set, Delete, Increment].map(count), [9, 7, 1, 3]);
        assert_eq!(twitter.records()[1], Record { key: 1, size: 213, ttl_s: 0, operation: Get });
        assert_eq!(twitter.records()[2], Record { key: 2, size: 1024, ttl_s: 3600, operation: Set });
        let csv = sample("libcachesim.csv");
        assert_eq!((csv.records().len(), csv.distinct_keys()), (20, 9));
        assert_eq!(csv.records()[0], Record { key: 0, size: 4096, ttl_s: 0, operation: Get });
        assert!(csv.spec().format.has_header());
        let keys = sample("keys.txt");
        assert_eq!((keys.records().len(), keys.distinct_keys()), (20, 8));
        assert_eq!(keys.spec().format, TraceFormat::Keys);
    }

    #[test]
    fn operations_of_twitter_are_mapped() {
        let expected = [
            ("get", Get),
            ("gets", Get),
            ("set", Set),
            ("add", Set),
            ("replace", Set),
            ("cas", Set),
            ("append", Set),
            ("prepend", Set),
            ("delete", Delete),
            ("incr", Increment),
            ("decr", Increment),
        ];
        for (name, operation) in expected {
            assert_eq!(records(&format!("5,k,1,7,9,{name},60\n"), ":twitter"), [(0, 7, 60, operation)]);
        }
    }

    #[test]
    fn keys_of_twitter_may_contain_commas_and_quotes() {
        let text = "0,a,b,3,10,1,get,0\n0,a,3,10,1,get,0\n0,\"a,3,10,1,get,0\n0,a,b,3,10,1,get,0\n";
        assert_eq!(records(text, ":twitter").iter().map(|r| r.0).collect::<Vec<_>>(), [0, 1, 2, 0]);
    }

    #[test]
    fn columns_of_csv_are_told() {
        let expected = [(0, 10, 0, Get), (1, 20, 60, Set), (0, 30, 0, Delete)];
        let text = "a;x;10;1;GET;0\nb;y;20;2;write;60\nc;x;30;3;del;\n";
        let options = ":csv:time-col=4,obj-id-col=2,size-col=3,op-col=5,ttl-col=6,delimiter=;";
        assert_eq!(records(text, options), expected);
        let tabs = text.replace(';', "\t");
        assert_eq!(records(&tabs, &options.replace("=;", "=\\t")), expected);
        let commas = format!("id, key , size, time, op, ttl\r\n{}", text.replace(';', " , ").replace('\n', "\r\n"));
        assert_eq!(records(&commas, &options.replace("=;", "=,,has-header=true")), expected);
        assert_eq!(
            records("x\ny\nx\n", ":csv:obj-id-col=1,delimiter=,"),
            [(0, 0, 0, Get), (1, 0, 0, Get), (0, 0, 0, Get)]
        );
    }

    #[test]
    fn headers_and_delimiters_are_recognised() {
        for delimiter in [",", "\t", "|", ";", ", "] {
            let body = ["1", "7", "100\n2.5", "8", "200\n"].join(delimiter);
            let expected = [(0, 100, 0, Get), (1, 200, 0, Get)];
            assert_eq!(records(&body, ":csv"), expected);
            let header = format!("{}\n{body}", ["time", "object id", "size"].join(delimiter));
            assert_eq!(records(&header, ":csv"), expected);
            assert_eq!(records(&format!("\u{feff}{header}"), ""), expected);
            refused(&body, ":csv:delimiter=:", 1, &["1 column"]);
        }
        refused("17,2,lost\n1,2,3\n", ":csv:obj-id-col=2,size-col=3", 1, &["object size", "'lost'"]);
        refused("time,object,size\n", ":csv:has-header=false", 1, &["time", "'time'"]);
        assert_eq!(records("1,7,100\n2,8,200\n", ":csv:has-header=true"), [(0, 200, 0, Get)]);
    }

    #[test]
    fn numeric_ids_and_quoted_fields_are_the_same_key() {
        let text = "1,007,5\n2,\"7\",5\n3,000,5\n4,0,5\n";
        let keys = |format| records(text, format).iter().map(|r| r.0).collect::<Vec<_>>();
        assert_eq!(keys(":csv:obj-id-is-num=true"), [0, 0, 1, 1]);
        assert_eq!(keys(":csv"), [0, 1, 2, 3]);
        refused("1,x7,5\n", ":csv:obj-id-is-num=1,has-header=0", 1, &["object id", "'x7'"]);
        assert_eq!(records("1,\"a,\"\"b\" ,5\n2,\"a,\"\"b\",6\n", ":csv")[1], (0, 6, 0, Get));
    }

    #[test]
    fn line_ends_may_be_of_windows_and_the_last_one_missing() {
        assert_eq!(records("a\r\nb\r\na", ":keys"), [(0, 0, 0, Get), (1, 0, 0, Get), (0, 0, 0, Get)]);
        assert_eq!(records("0,a,1,5,1,get,0\r\n0,b,1,6,1,get,0", ":twitter").len(), 2);
    }

    #[test]
    fn a_limit_ends_the_reading() {
        assert_eq!(records("a\nb\nc\n", ":keys:limit=2").len(), 2);
        assert_eq!(records("t,i,s\n1,a,5\n2,b,\n", ":csv:limit=1").len(), 1);
        assert_eq!(records("a\n", ":keys:limit=5").len(), 1);
    }

    #[test]
    fn damaged_lines_are_named_with_what_is_wrong() {
        let good = "0,a,1,5,1,get,0\n";
        let after = |line: &str| format!("{good}{line}\n");
        refused(after("0,a,1,5,1,get"), ":twitter", 2, &["6 columns", "7", "correct or remove"]);
        refused(after(""), ":twitter", 2, &["empty"]);
        refused(after("0,a,1,-5,1,get,0"), ":twitter", 2, &["value size", "'-5'", "536870912"]);
        refused(after("0,a,1,536870913,1,get,0"), ":twitter", 2, &["value size", "'536870913'"]);
        refused(after("0,a,1,99999999999999999999999,1,get,0"), ":twitter", 2, &["value size"]);
        refused(after("x,a,1,5,1,get,0"), ":twitter", 2, &["timestamp", "'x'"]);
        refused(after("0,a,,5,1,get,0"), ":twitter", 2, &["key size", "''"]);
        refused(after("0,a,1,5,1,get,4294967296"), ":twitter", 2, &["TTL", "'4294967296'"]);
        refused(after("0,a,1,5,1,flush,0"), ":twitter", 2, &["'flush'", "incr"]);
        refused(after("0,,1,5,1,get,0"), ":twitter", 2, &["key is empty"]);
        refused("1,a,5\n2,b\n", ":csv", 2, &["2 columns", "3"]);
        refused("1,a,5\n2,b,5,6\n", ":csv", 2, &["4 columns"]);
        refused("1,a,5\n2,b,-1\n", ":csv", 2, &["object size", "'-1'"]);
        refused("1,a,5\nnever,b,1\n", ":csv", 2, &["time", "'never'"]);
        refused("1,a,5\n2,\"b,1\n", ":csv", 2, &["quote"]);
        refused("1,a,5\n2,\"b\"c,1\n", ":csv", 2, &["quote"]);
        refused("1,a,5\n\n", ":csv", 2, &["empty"]);
        refused("a\n\nb\n", ":keys", 2, &["empty"]);
    }

    #[test]
    fn what_is_no_text_is_refused() {
        refused(b"a\nb\xff\xfe\n", ":keys", 2, &["UTF-8"]);
        refused(b"0,\xc3\x28,1,5,1,get,0\n", ":twitter", 1, &["UTF-8"]);
        refused(b"\x28\xb5\x2f\xfd\x04\x00", ":twitter", 1, &["compressed with zstd", "/dev/stdin"]);
        refused(b"\x1f\x8b\x08\x00", "", 1, &["compressed with gzip", "/dev/stdin"]);
        refused(vec![b'a'; 100_000], ":keys", 1, &["65536"]);
        refused([vec![b'a'; 10], vec![0; 10]].concat(), ":keys", 1, &["control character"]);
    }

    #[test]
    fn files_without_a_request_are_refused() {
        assert!(read("", "").unwrap_err().contains("some.file holds no request"));
        assert!(read("time,id,size\n", ":csv").unwrap_err().contains("holds no request"));
        let missing = Trace::load("/no/such/file".as_ref(), TraceFormat::Keys, None).unwrap_err().to_string();
        assert!(missing.contains("/no/such/file"), "{missing}");
        assert!(matches!(Trace::load("/".as_ref(), TraceFormat::Keys, None), Err(TraceError::Io { .. })));
    }
}
