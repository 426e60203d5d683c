//! The measurements of durability against a real redis-server, each for some seconds: that what it keeps is found to be kept, that
//! losses are found, and that times of recovery are possible. Without redis-server they are left out.

use serde_json::Value;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

const BENCH: &str = env!("CARGO_BIN_EXE_torc-bench");

/// A directory of this test's own, removed when it ends.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Directory {
        let path = std::env::temp_dir().join(format!("torc-bench-durability-{}-{name}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Directory(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The command of a server, if redis-server is on the PATH.
fn redis(flags: &str) -> Option<String> {
    let found = Command::new("redis-server").arg("--version").output().is_ok();
    if !found {
        eprintln!("skipped: redis-server is not installed");
    }
    found.then(|| format!("redis-server --bind 127.0.0.1 --save '' --dir {{dir}} --port {{port}} {flags}"))
}

fn run(subcommand: &str, directory: &Directory, servers: &[&str], arguments: &str) -> Output {
    let mut command = Command::new(BENCH);
    command.arg(subcommand).arg("--dir").arg(&directory.0).args(servers);
    command.args(arguments.split_whitespace()).output().unwrap()
}

#[track_caller]
fn report(output: &Output) -> Value {
    let errors = String::from_utf8_lossy(&output.stderr);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {errors}"))
}

#[track_caller]
fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

fn is_empty(directory: &Directory) -> bool {
    fs::read_dir(&directory.0).unwrap().next().is_none()
}

/// Every kill of a start and every snapshot that the chances allow, and other command lines from start to start.
#[test]
fn a_server_that_keeps_its_promise_passes() {
    let Some(always) = redis("--appendonly yes --appendfsync always") else { return };
    let other = redis("--appendonly yes --appendfsync always --aof-use-rdb-preamble no").unwrap();
    let directory = Directory::new("always");
    let server = format!("redis={always}");
    // This server has no shards; it gets its list of cores as the last digit of a number.
    let other = format!("{other} --tcp-backlog 51{{cores}}");
    let servers = ["--server", &server, "--server-variant", &other];
    let arguments = "--shards-cycle 1 --server-cpus 0 --rounds 3 --seconds-per-round 0.6 --keys 400 --connections 4 --startup-kills 0.7 --snapshots 1 \
         --ordered --seed 5 --json";
    let output = run("kill9", &directory, &servers, arguments);
    let report = report(&output);
    assert!(output.status.success(), "{report:#}");
    assert_eq!((&report["violations"], &report["rounds"]), (&0.into(), &3.into()));
    assert_eq!((&report["kills"]["load"], &report["kills"]["snapshot"]), (&3.into(), &3.into()));
    assert!(number(&report["kills"]["startup"]) > 0.0, "{report:#}");
    assert!(number(&report["acknowledged"]) > 0.0 && number(&report["serve_ms"]["max"]) > 0.0, "{report:#}");
    assert!(is_empty(&directory), "the data of a good run is removed");
}

#[test]
fn everysec_is_held_to_less() {
    let Some(redis) = redis("--appendonly yes --appendfsync everysec") else { return };
    let directory = Directory::new("everysec");
    // More connections than pairs of databases.
    let arguments = "--promise everysec --rounds 2 --seconds-per-round 0.4 --keys 400 --connections 10 --json";
    let output = run("kill9", &directory, &["--server", &format!("redis={redis}")], arguments);
    let report = report(&output);
    assert!(output.status.success(), "{report:#}");
    assert_eq!((&report["promise"], &report["violations"]), (&"everysec".into(), &0.into()));
}

#[test]
fn a_server_that_keeps_nothing_is_found_out() {
    let Some(redis) = redis("--appendonly no") else { return };
    for promise in ["always", "everysec"] {
        let directory = Directory::new(&format!("nothing-{promise}"));
        let arguments = format!(
            "--promise {promise} --rounds 1 --seconds-per-round 1.5 --keys 100 --connections 2 --startup-kills 0 --seed 1 \
             --json"
        );
        let output = run("kill9", &directory, &["--server", &format!("redis={redis}")], &arguments);
        assert_eq!(output.status.code(), Some(1));
        let report = report(&output);
        assert!(number(&report["violations"]) > 0.0, "{report:#}");
        let first = &report["first_violations"][0];
        assert!(first["text"].as_str().unwrap().contains("lost"), "{first}");
        assert!(first["history"].as_array().unwrap().len() >= 3, "{first}");
        assert!(!is_empty(&directory), "the data is kept");
    }
}

/// The last bytes of the log are cut off before each start, as a disk that lied would.
#[test]
fn a_lost_tail_is_found() {
    let Some(redis) = redis("--appendonly yes --appendfsync always") else { return };
    let directory = Directory::new("tail");
    let script = directory.0.join("cut.sh");
    let redis = redis.replace("{dir}", "$1").replace("{port}", "$2");
    let cut = "for log in $1/appendonlydir/*.incr.aof; do [ -f $log ] && truncate -s -20000 $log; done";
    fs::write(&script, format!("{cut}\nexec {redis}\n")).unwrap();
    let server = format!("redis=sh {} {{dir}} {{port}}", script.display());
    let arguments = "--rounds 2 --seconds-per-round 1.5 --keys 200 --connections 4 --snapshots 0 --seed 3 --json";
    let output = run("kill9", &directory, &["--server", &server], arguments);
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
    let report = report(&output);
    let violations = number(&report["violations"]);
    assert!(violations > 0.0 && violations <= 400.0, "{report:#}");
    assert!(report["rounds"].as_u64() <= Some(2), "{report:#}");
}

#[test]
fn a_server_that_does_not_start_again_is_told() {
    let Some(redis) = redis("--appendonly yes") else { return };
    let directory = Directory::new("refused");
    let server = format!("redis={redis}");
    let variant = "echo the data is not mine '#' {port} {dir}";
    let servers = ["--server", &server, "--server-variant", variant];
    let arguments = "--rounds 1 --seconds-per-round 0.2 --keys 100 --connections 1 --startup-kills 0 --json";
    let output = run("kill9", &directory, &servers, arguments);
    assert_eq!(output.status.code(), Some(1));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(errors.contains("the data is not mine") && errors.contains("kept in"), "{errors}");
}

#[test]
fn recovery_is_timed_from_snapshot_and_log() {
    let Some(log) = redis("--appendonly yes --auto-aof-rewrite-percentage 0") else { return };
    let directory = Directory::new("recovery");
    let (log, snapshot) = (format!("aof={log}"), format!("rdb={}", redis("--appendonly no").unwrap()));
    let servers = ["--server", &log, "--server", &snapshot];
    let output = run("recovery", &directory, &servers, "--keys 20000 --value-sizes 64 --json");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(String::from_utf8_lossy(&output.stderr).contains("rdb, 20000 keys of 64 B, log is left out"));
    let report = report(&output);
    let results = report["results"].as_array().unwrap();
    let names: Vec<_> =
        results.iter().map(|result| (&result["server"], &result["from"], &result["snapshot"]["command"])).collect();
    let expected: [[Value; 3]; 3] = [
        ["aof".into(), "snapshot".into(), "BGREWRITEAOF".into()],
        ["rdb".into(), "snapshot".into(), "BGSAVE".into()],
        ["aof".into(), "log".into(), Value::Null],
    ];
    assert_eq!(names, expected.each_ref().map(|[server, from, command]| (server, from, command)));
    for result in results {
        let median = |name: &str| number(&result[name]["median"]);
        assert!(median("disk_bytes") > 20_000.0 * 64.0 && median("disk_bytes") < 20e6, "{result}");
        assert!(median("start_ms") > 0.0 && median("keys_per_second") > 1_000.0, "{result}");
        assert!(median("rss_peak_bytes") >= median("rss_bytes"), "{result}");
    }
    assert!(is_empty(&directory));
    let text = run("recovery", &directory, &["--server", &snapshot], "--keys 100 --value-sizes 16");
    assert!(String::from_utf8_lossy(&text.stdout).contains("serves after ms"));
}

#[test]
fn wrong_usage_is_told_before_a_server_is_started() {
    let directory = Directory::new("usage");
    let good = ["--server", "x=/nonexistent/server {port} {dir}"];
    let wrong = [
        "kill9 --rounds 0",
        "kill9 --connections 0",
        "kill9 --keys 3",
        "kill9 --pipeline 0",
        "kill9 --startup-kills 2",
        "kill9 --seconds-per-round 0",
        "kill9 --server-variant server",
        "kill9 --shards-cycle 1,2",
        "recovery --keys 0",
        "recovery --rounds 0",
        "recovery --key-size 5",
        "recovery --timeout 0",
    ];
    for line in wrong {
        let (subcommand, arguments) = line.split_once(' ').unwrap();
        let output = run(subcommand, &directory, &good, arguments);
        assert_eq!(output.status.code(), Some(2), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    }
    for subcommand in ["kill9", "recovery"] {
        let output = run(subcommand, &directory, &["--server", "x=server {port}"], "");
        assert_eq!(output.status.code(), Some(2), "it does not say where its data is");
    }
    assert!(is_empty(&directory));
}
