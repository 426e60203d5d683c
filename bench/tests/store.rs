//! The measurements of memory, eviction and expiry against real servers, each for some seconds: that they come to an end and
//! that their figures are possible. What is not installed is left out.

use serde_json::Value;
use std::path::PathBuf;
use std::process::{Command, Output};

const BENCH: &str = env!("CARGO_BIN_EXE_torc-bench");

/// `--server` and what belongs to it, if redis-server is on the PATH.
fn redis(flags: &str) -> Option<[String; 2]> {
    let found = Command::new("redis-server").arg("--version").output().is_ok();
    if !found {
        eprintln!("skipped: redis-server is not installed");
    }
    let command = format!("redis=redis-server --bind 127.0.0.1 --save '' --appendonly no --port {{port}} {flags}");
    found.then(|| ["--server".to_string(), command])
}

/// The same for Torc, if it is built.
fn torc() -> Option<[String; 2]> {
    let torc = PathBuf::from(BENCH).with_file_name("torc");
    if !torc.is_file() {
        eprintln!("skipped: {} is not built; cargo test --workspace builds it", torc.display());
    }
    let command = format!("torc={} --appendonly no --port {{port}} --cores 0", torc.display());
    torc.is_file().then(|| ["--server".to_string(), command])
}

fn run(servers: &[[String; 2]], arguments: &str) -> Output {
    run_words(servers, &arguments.split_whitespace().collect::<Vec<_>>())
}

/// The subcommand and its arguments, which may have spaces in them.
fn run_words(servers: &[[String; 2]], words: &[&str]) -> Output {
    Command::new(BENCH).args(&words[..1]).args(servers.concat()).args(&words[1..]).output().unwrap()
}

#[track_caller]
fn results(output: &Output) -> Vec<Value> {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    report["results"].as_array().unwrap().clone()
}

#[track_caller]
fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

#[test]
fn memory_of_keys_is_measured() {
    let servers: Vec<_> = redis("").into_iter().chain(torc()).collect();
    if servers.is_empty() {
        return;
    }
    let output = run(&servers, "memory --keys 100000 --value-sizes 64 --settle 3 --json");
    let results = results(&output);
    assert_eq!(results.len(), 2 * servers.len());
    for result in &results {
        let overhead = number(&result["overhead_bytes_per_key"]["median"]);
        assert!((1.0..400.0).contains(&overhead), "{result}");
        assert!(number(&result["empty_rss_bytes"]["median"]) > 100_000.0, "{result}");
    }
    let text = run(&servers, "memory --keys 1000 --value-sizes 64 --settle 0.2");
    assert!(String::from_utf8_lossy(&text.stdout).contains("overhead a key"));
}

#[test]
fn hit_ratios_stand_beside_exact_caches() {
    let Some(redis) = redis("") else { return };
    let servers = [redis];
    let with = |policies: &str| {
        let size = ["hit-ratio", "--keys", "20000", "--sizes", "5", "--value-size", "256", "--json"];
        let course =
            ["--requests", "20000", "--warmup", "10000", "--trace", "zipf:0.99 loop:1.1", "--policy", policies];
        run_words(&servers, &[size, course].concat())
    };
    let output = with("allkeys-lru no-such-policy");
    assert!(String::from_utf8_lossy(&output.stderr).contains("redis is left out of no-such-policy"));
    let results = results(&output);
    assert_eq!(results.len(), 2);
    for result in &results {
        let held = number(&result["keys_held_mean"]);
        assert!((800.0..1_200.0).contains(&held), "calibrated for 1000 keys: {result}");
    }
    let exact = &results[0]["exact_hit_percent"];
    assert!(number(&exact["lru"]) > 20.0 && number(&exact["s3fifo"]) > number(&exact["lru"]), "{exact}");
    assert!(number(&results[0]["points_to_exact_lru"]).abs() < 20.0, "{}", results[0]);
    assert_eq!(with("no-such-policy").status.code(), Some(2));
}

#[test]
fn a_limit_is_churned_with_and_without_drift() {
    let Some(redis) = redis("--maxmemory 16mb --maxmemory-policy allkeys-random") else { return };
    let arguments = "churn --seconds 2 --shift 0.5 --value-max 4096 --keys 300000 --json";
    let results = results(&run(&[redis], arguments));
    let result = &results[0];
    assert_eq!(result["maxmemory_bytes"], 16 << 20);
    assert!(number(&result["throughput_drift_over_no_drift"]) > 0.0);
    let runs = result["runs"].as_array().unwrap();
    assert_eq!((runs.len(), &runs[0]["run"], &runs[1]["run"]), (2, &"drift".into(), &"no drift".into()));
    for run in runs {
        let series = run["series"].as_array().unwrap();
        let last = &series[series.len() - 1];
        assert!(number(&last["evicted_keys"]) > 0.0 && number(&last["keys"]) > 0.0, "{last}");
        assert!(number(&last["used_memory_bytes"]) < 1.2 * f64::from(16 << 20), "{last}");
        let over = number(&run["rss_max_over_maxmemory"]);
        assert!((0.5..20.0).contains(&over), "{over}");
    }
    // Four windows of half a second each, the last one without its name.
    let drift = runs[0]["series"].as_array().unwrap();
    assert!(drift.iter().any(|second| second["value_bytes_min"] == 16));
    assert!(drift.iter().any(|second| second["value_bytes_max"] == 4_096));
}

#[test]
fn churn_needs_a_limit() {
    let Some(redis) = redis("") else { return };
    let output = run(&[redis], "churn --seconds 1 --json");
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--maxmemory"));
}

/// A server that refuses writes instead of evicting is measured, and the run fails.
#[test]
fn refused_writes_fail_the_run() {
    let Some(redis) = redis("--maxmemory 8mb --maxmemory-policy noeviction") else { return };
    let output = run(&[redis], "churn --seconds 1 --shift 1 --value-max 4096 --keys 300000 --drift-only --json");
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("OOM"));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(number(&report["results"][0]["runs"][0]["errors"]["OOM"]) > 0.0);
}

#[test]
fn keys_expire_at_once_under_load() {
    let servers: Vec<_> = redis("").into_iter().chain(torc()).collect();
    if servers.is_empty() {
        return;
    }
    let arguments =
        "expire-storm --expiring 20000 --keys 1000 --connections 4 --rate 2000 --quiet 2 --seconds 3 --json";
    for result in results(&run(&servers, arguments)) {
        let back = number(&result["keys_back_seconds"]);
        assert!((0.0..3.0).contains(&back) && result["keys_end"] == 1_000, "{back} s");
        assert_eq!(result["misses"], 0, "what stays is there");
        // On a busy machine the load begins late.
        assert!((1.0..=2.0).contains(&number(&result["quiet"]["seconds"])), "{}", result["quiet"]);
        assert!(number(&result["storm"]["seconds"]) >= 1.0);
        for phase in ["quiet", "storm"] {
            let latency = &result[phase]["latency_us"];
            assert!(number(&latency["p99"]) > 0.0 && number(&latency["p99"]) <= number(&latency["max"]), "{latency}");
        }
    }
}

#[test]
fn wrong_usage_is_told_before_a_server_is_started() {
    let servers = [["--server".to_string(), "x=/nonexistent/server --port {port}".to_string()]];
    let wrong = [
        "memory --keys 0",
        "memory --key-size 5",
        "memory --rounds 0",
        "hit-ratio --sizes 0",
        "hit-ratio --sizes 101",
        "hit-ratio --keys 100 --sizes 0.1",
        "hit-ratio --trace loop:1",
        "hit-ratio --value-size 1",
        "hit-ratio --rate 0",
        "churn --value-min 0",
        "churn --value-max 99999999999",
        "churn --octaves 0",
        "churn --shift 0",
        "expire-storm --quiet 1",
        "expire-storm --expiring 0",
        "expire-storm --protocol memcache",
        "expire-storm --rate 0",
    ];
    for arguments in wrong {
        let output = run(&servers, arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments}: {}", String::from_utf8_lossy(&output.stderr));
    }
    let memcached = [["--server".to_string(), "m+memcache=/nonexistent/server {port}".to_string()]];
    assert_eq!(run(&memcached, "churn --seconds 1").status.code(), Some(2));
    let two = [["--server".to_string(), "two=server {port};server {port2}".to_string()]];
    assert_eq!(run(&two, "memory --keys 10").status.code(), Some(2));
}
