//! The generators: where they are, what they are told, and what they say about themselves.

use crate::compare::servers::version;
use crate::error::Error;
use serde_json::Value;
use std::path::{Path, PathBuf};

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    TorcBench,
    Memtier,
    RedisBenchmark,
}

#[derive(Clone, Debug)]
pub struct Tool {
    pub kind: Kind,
    pub program: PathBuf,
    pub version: String,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Asked {
    Get,
    /// BITCOUNT: long work for the server and a short reply, so that the server is the limit and no tool is.
    BitCount,
}

/// A load on one thread.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    pub asked: Asked,
    pub port: u16,
    pub cpu: usize,
    pub connections: usize,
    pub pipeline: usize,
    pub keys: u64,
    pub value_size: usize,
    pub amount: Amount,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Amount {
    Seconds(u64),
    Requests(u64),
    /// A fixed rate over all connections.
    Rate {
        per_second: u64,
        seconds: u64,
    },
    /// Write each key once, then end.
    Preload,
}

/// What a tool says it did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Claim {
    pub ops_per_second: f64,
    pub p50_us: f64,
    pub p99_us: f64,
    pub mean_us: Option<f64>,
    /// None when it does not tell.
    pub misses: Option<f64>,
    pub wire: Option<WireBytes>,
}

/// What a tool counted on the wire for one request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct WireBytes {
    pub sent: f64,
    pub received: f64,
}

/// All tools send keys of 16 bytes, as `torc-bench run` does by default: the server then does the same
/// work for each, and one floor fits all. memtier cannot pad its numbers with zeros, so they begin where
/// they have 12 digits.
pub const KEY_BYTES: usize = 16;
const KEY_PREFIX: &str = "key:";
const MEMTIER_FIRST_KEY: u64 = 100_000_000_000;
pub const KEYS_LIMIT: u64 = MEMTIER_FIRST_KEY;

impl Kind {
    pub const ALL: [Kind; 3] = [Kind::TorcBench, Kind::Memtier, Kind::RedisBenchmark];

    pub fn name(self) -> &'static str {
        match self {
            Kind::TorcBench => "torc-bench",
            Kind::Memtier => "memtier_benchmark",
            Kind::RedisBenchmark => "redis-benchmark",
        }
    }

    pub fn arguments(self, load: &Load, json_file: &Path) -> Vec<String> {
        let mut arguments = Vec::new();
        let mut add = |line: String| arguments.extend(line.split(' ').map(str::to_string));
        let &Load { asked, port, cpu, connections, pipeline, keys, value_size, amount } = load;
        match self {
            Kind::TorcBench => {
                add(format!("run --json --threads 1 --cpus {cpu} --port {port}"));
                add(format!("--connections {connections} --pipeline {pipeline} --keys {keys}"));
                add(format!("--key-size {KEY_BYTES} --value-size {value_size}"));
                match amount {
                    Amount::Seconds(seconds) => add(format!("--seconds {seconds}")),
                    Amount::Requests(requests) => add(format!("--requests {requests}")),
                    Amount::Rate { per_second, seconds } => add(format!("--rate {per_second} --seconds {seconds}")),
                    Amount::Preload => add("--preload --requests 1".to_string()),
                }
                let command = if asked == Asked::Get { "get" } else { "BITCOUNT __key__" };
                arguments.extend(["--command", command].map(str::to_string));
            }
            Kind::Memtier => {
                let last = MEMTIER_FIRST_KEY + keys - 1;
                // Without their own seeds all connections would ask for the same keys in the same order.
                add(format!("-s 127.0.0.1 -p {port} -t 1 -c {connections} --distinct-client-seed --randomize"));
                add(format!("--pipeline {pipeline} -d {value_size} --hide-histogram --key-prefix {KEY_PREFIX}"));
                add(format!("--key-minimum {MEMTIER_FIRST_KEY} --key-maximum {last}"));
                match (amount, asked) {
                    (Amount::Preload, _) => add("--ratio 1:0 --key-pattern P:P -n allkeys".to_string()),
                    (_, Asked::Get) => add("--ratio 0:1 --key-pattern R:R".to_string()),
                    (_, Asked::BitCount) => add("--command-ratio 1 --command-key-pattern R".to_string()),
                }
                let each = |total: u64| (total / connections as u64).max(1);
                match amount {
                    Amount::Seconds(seconds) => add(format!("--test-time {seconds}")),
                    Amount::Requests(requests) => add(format!("-n {}", each(requests))),
                    Amount::Rate { per_second, seconds } => {
                        add(format!("--rate-limiting {} --test-time {seconds}", each(per_second)))
                    }
                    Amount::Preload => {}
                }
                arguments.extend(["--json-out-file".to_string(), json_file.display().to_string()]);
                // Its flags on commands belong to the last command, so it comes before them.
                if asked == Asked::BitCount && amount != Amount::Preload {
                    arguments.splice(0..0, ["--command".to_string(), "BITCOUNT __key__".to_string()]);
                }
            }
            Kind::RedisBenchmark => {
                let Amount::Requests(requests) = amount else {
                    unreachable!("redis-benchmark knows neither time nor rate, and its keys are ours");
                };
                add(format!("-h 127.0.0.1 -p {port} -c {connections} -P {pipeline} -n {requests}"));
                add(format!("-r {keys} -d {value_size} --csv"));
                match asked {
                    Asked::Get => add("-t get".to_string()),
                    Asked::BitCount => add("BITCOUNT key:__rand_int__".to_string()),
                }
            }
        }
        arguments
    }

    /// Reads the tool's result. `output` is what it printed, and for memtier what it wrote to its file.
    pub fn parse(self, output: &str) -> Result<Claim, String> {
        match self {
            Kind::TorcBench => parse_torc_bench(output),
            Kind::Memtier => parse_memtier(output),
            Kind::RedisBenchmark => parse_redis_benchmark(output),
        }
    }
}

/// The tools which are there, and the names of those which are not. A path which was given must be right.
pub fn find(memtier: Option<&Path>, redis_benchmark: Option<&Path>) -> Result<(Vec<Tool>, Vec<Kind>), Error> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path = |name: &str| std::env::split_paths(&path).map(|folder| folder.join(name)).find(|file| file.is_file());
    let mut tools = Vec::new();
    let mut missing = Vec::new();
    for kind in Kind::ALL {
        let given = match kind {
            Kind::TorcBench => Some(std::env::current_exe().map_err(Error::io("find this program"))?),
            Kind::Memtier => memtier.map(Path::to_path_buf),
            Kind::RedisBenchmark => redis_benchmark.map(Path::to_path_buf),
        };
        if let Some(given) = given.as_ref().filter(|given| !given.is_file()) {
            return Err(Error::Usage(format!("{}: there is no file {}", kind.name(), given.display())));
        }
        match given.or_else(|| on_path(kind.name())) {
            Some(program) => {
                let version = version(&program.display().to_string());
                tools.push(Tool { kind, program, version });
            }
            None => missing.push(kind),
        }
    }
    Ok((tools, missing))
}

fn parse_torc_bench(output: &str) -> Result<Claim, String> {
    // Its warnings follow on the same log.
    let start = output.find('{').ok_or("no JSON")?;
    let mut values = serde_json::Deserializer::from_str(&output[start..]).into_iter::<Value>();
    let value = values.next().ok_or("no JSON")?.map_err(|error| error.to_string())?;
    let latency = &value["latency_us"];
    Ok(Claim {
        ops_per_second: number(&value, "ops_per_second")?,
        p50_us: number(latency, "p50")?,
        p99_us: number(latency, "p99")?,
        mean_us: number(latency, "mean").ok(),
        misses: Some(number(&value, "misses")?),
        wire: None,
    })
}

fn parse_memtier(output: &str) -> Result<Claim, String> {
    let value: Value = serde_json::from_str(output).map_err(|error| error.to_string())?;
    // What it makes of other commands has the name of the command.
    let all = &value["ALL STATS"];
    let gets =
        ["Gets", "Bitcounts", "Totals"].iter().map(|name| &all[name]).find(|part| part["Ops/sec"].as_f64() > Some(0.0));
    let gets = gets.ok_or("it sent nothing")?;
    let percentiles = &gets["Percentile Latencies"];
    let ops_per_second = number(gets, "Ops/sec")?;
    if gets["Connection Errors"].as_u64().unwrap_or(0) > 0 {
        return Err("it had connection errors".to_string());
    }
    // Older versions give only the sum.
    let each = |name: &str| number(gets, name).map(|kib_per_second| kib_per_second * 1024.0 / ops_per_second);
    let wire = each("KB/sec TX").and_then(|sent| Ok(WireBytes { sent, received: each("KB/sec RX")? })).ok();
    Ok(Claim {
        ops_per_second,
        p50_us: number(percentiles, "p50.00")? * 1e3,
        p99_us: number(percentiles, "p99.00")? * 1e3,
        mean_us: number(gets, "Average Latency").map(|milliseconds| milliseconds * 1e3).ok(),
        misses: number(gets, "Misses/sec").and_then(|misses| Ok(misses / ops_per_second * number(gets, "Count")?)).ok(),
        wire,
    })
}

/// `"test","rps",...` and a line for each test, among warnings.
fn parse_redis_benchmark(output: &str) -> Result<Claim, String> {
    let fields = |line: &str| line.split(',').map(|field| field.trim_matches('"').to_string()).collect::<Vec<_>>();
    let mut lines = output.lines().map(str::trim);
    let header = fields(lines.find(|line| line.starts_with("\"test\"")).ok_or("no CSV with a header line")?);
    let row = fields(lines.find(|line| line.starts_with('"')).ok_or("no line of figures")?);
    let column = |name: &str| {
        let index = header.iter().position(|field| field == name).ok_or(format!("no column {name}"))?;
        let field = row.get(index).ok_or(format!("nothing in column {name}"))?;
        field.parse::<f64>().map_err(|error| format!("{name} is {field}: {error}"))
    };
    Ok(Claim {
        ops_per_second: column("rps")?,
        p50_us: column("p50_latency_ms")? * 1e3,
        p99_us: column("p99_latency_ms")? * 1e3,
        mean_us: column("avg_latency_ms").map(|milliseconds| milliseconds * 1e3).ok(),
        misses: None,
        wire: None,
    })
}

fn number(value: &Value, name: &str) -> Result<f64, String> {
    value[name].as_f64().ok_or(format!("no number {name}"))
}

/// How memtier keeps a rate, from its source (2.x): it wakes at most 50 times a second for each connection,
/// and then sends so many requests one after another. Returns their number and the milliseconds between.
pub fn memtier_bursts(per_connection: u64) -> (u64, f64) {
    let requests = per_connection.div_ceil(50).max(1);
    let bursts_per_second = (per_connection / requests).max(1);
    (requests, 1e3 / bursts_per_second as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Captured, and shortened to the parts which are read.
    const MEMTIER: &str = r#"{
	"configuration":{
		"server": "127.0.0.1"
		,"key_minimum":  1215752192
		}
	,"ALL STATS":{
		"Runtime":{
			"Total duration": 5
			,"Interrupted": "false"
			}
		,"Sets":{
			"Count": 0
			,"Ops/sec": 0.00
			}
		,"Gets":{
			"Count": 40
			,"Ops/sec": 8385.74
			,"Hits/sec": 0.00
			,"Misses/sec": 8385.74
			,"Connection Errors/sec": 0.00
			,"Connection Errors": 0
			,"Average Latency": 0.950
			,"KB/sec": 335.76
			,"KB/sec RX/TX": 335.76
			,"KB/sec RX": 40.95
			,"KB/sec TX": 294.81
			,"Percentile Latencies":{
				"p50.00": 0.151
				,"p99.00": 3.871
				,"p99.90": 3.871
				,"Histogram log format":{
					"Compressed Histogram": "HISTFAAAAC94nJNpmSzMwMAgxAABTFCaC0QoH3ZjsP8AEZAU4OBgBkJOjpmMHO0sQBYAmn4FYA=="
					}
				}
			}
		}
	}"#;

    const REDIS_BENCHMARK: &str = "WARNING: Could not fetch server CONFIG\n\
        \"test\",\"rps\",\"avg_latency_ms\",\"min_latency_ms\",\"p50_latency_ms\",\
        \"p95_latency_ms\",\"p99_latency_ms\",\"max_latency_ms\"\n\
        \"GET\",\"20000.00\",\"0.269\",\"0.032\",\"0.111\",\"1.047\",\"1.023\",\"1.047\"\n";

    const TORC_BENCH: &str = r#"{
  "latency_us": { "max": 100.0, "p50": 40.5, "p99": 60.25, "p99.9": 80.0 },
  "misses": 0,
  "ops_per_second": 50000.5
}
warning: a load thread used 97 % of its core {and waited}"#;

    #[track_caller]
    fn check_near(found: f64, expected: f64) {
        assert!((found - expected).abs() < expected.abs() * 1e-3, "{found} is not {expected}");
    }

    #[test]
    fn memtier_is_read() {
        let claim = Kind::Memtier.parse(MEMTIER).unwrap();
        check_near(claim.ops_per_second, 8385.74);
        check_near(claim.p50_us, 151.0);
        check_near(claim.p99_us, 3871.0);
        check_near(claim.mean_us.unwrap(), 950.0);
        check_near(claim.misses.unwrap(), 40.0);
        let wire = claim.wire.unwrap();
        check_near(wire.sent, 36.0);
        // These were misses: `$-1\r\n`.
        check_near(wire.received, 5.0);
        let broken = MEMTIER.replace("\"Connection Errors\": 0", "\"Connection Errors\": 3");
        assert!(Kind::Memtier.parse(&broken).is_err());
        assert_eq!(Kind::Memtier.parse(&MEMTIER.replace("KB/sec TX", "old")).unwrap().wire, None);
        assert!(Kind::Memtier.parse("{}").is_err());
    }

    #[test]
    fn redis_benchmark_is_read() {
        let claim = Kind::RedisBenchmark.parse(REDIS_BENCHMARK).unwrap();
        check_near(claim.ops_per_second, 20_000.0);
        check_near(claim.p50_us, 111.0);
        check_near(claim.p99_us, 1_023.0);
        check_near(claim.mean_us.unwrap(), 269.0);
        assert_eq!(claim.misses, None);
        assert!(Kind::RedisBenchmark.parse("WARNING: nothing\n").is_err());
        assert!(Kind::RedisBenchmark.parse(&REDIS_BENCHMARK.replace("p99_latency_ms", "p98")).is_err());
    }

    #[test]
    fn torc_bench_is_read() {
        let claim = Kind::TorcBench.parse(TORC_BENCH).unwrap();
        assert_eq!((claim.ops_per_second, claim.p50_us, claim.p99_us), (50_000.5, 40.5, 60.25));
        assert_eq!(claim.misses, Some(0.0));
        assert!(Kind::TorcBench.parse("dead server").is_err());
    }

    fn arguments(kind: Kind, amount: Amount) -> String {
        let load = Load {
            asked: Asked::Get,
            port: 7,
            cpu: 1,
            connections: 50,
            pipeline: 16,
            keys: 1_000,
            value_size: 32,
            amount,
        };
        kind.arguments(&load, Path::new("out.json")).join(" ")
    }

    #[test]
    fn every_amount_reaches_the_tool_in_its_own_terms() {
        for (kind, amount, expected) in [
            (Kind::TorcBench, Amount::Rate { per_second: 20_000, seconds: 3 }, "--rate 20000 --seconds 3"),
            (Kind::TorcBench, Amount::Preload, "--preload"),
            (Kind::Memtier, Amount::Seconds(3), "--test-time 3"),
            (Kind::Memtier, Amount::Requests(100), "-n 2 "),
            (Kind::Memtier, Amount::Rate { per_second: 20_000, seconds: 3 }, "--rate-limiting 400 --test-time 3"),
            (Kind::Memtier, Amount::Preload, "--ratio 1:0 --key-pattern P:P -n allkeys"),
            (Kind::Memtier, Amount::Seconds(3), "--key-minimum 100000000000 --key-maximum 100000000999"),
            (Kind::RedisBenchmark, Amount::Requests(100), "-n 100 -r 1000 -d 32 --csv -t get"),
        ] {
            let line = arguments(kind, amount);
            assert!(line.contains(expected), "'{expected}' is not in '{line}'");
        }
    }

    #[test]
    fn memtier_sends_in_bursts() {
        assert_eq!(memtier_bursts(400), (8, 20.0));
        assert_eq!(memtier_bursts(50), (1, 20.0));
        assert_eq!(memtier_bursts(20), (1, 50.0));
    }

    #[test]
    fn a_given_path_must_exist() {
        let error = find(Some(Path::new("/nowhere/memtier")), None).unwrap_err();
        assert!(error.to_string().contains("/nowhere/memtier"), "{error}");
    }
}
