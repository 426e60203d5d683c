//! The soak against a real redis-server for some seconds: that leaks which are planted are told, each by its name, and that a server
//! without any has nothing to be told of. Without redis-server it is left out.

use serde_json::Value;
use std::process::{Command, Output};

const BENCH: &str = env!("CARGO_BIN_EXE_torc-bench");
/// Ten laps of half a second, of which the last five are judged; few keys, so that they are all there long before.
const SHORT: &str = "--minutes 0.0834 --lap-seconds 0.5 --interval 0.1 --rate 4000 --keys 200 --value-max 1000 --connections 8 --seed 3 \
                     --rss-tolerance 0.3 --latency-tolerance 100 --json";

fn soak(arguments: &str) -> Option<Output> {
    if Command::new("redis-server").arg("--version").output().is_err() {
        eprintln!("skipped: redis-server is not installed");
        return None;
    }
    let server = "redis=redis-server --bind 127.0.0.1 --save '' --appendonly yes --dir {dir} --port {port}";
    let mut command = Command::new(BENCH);
    command.args(["soak", "--server", server]).args(arguments.split_whitespace());
    Some(command.output().unwrap())
}

fn verdicts(report: &Value) -> Vec<(&str, &str)> {
    let findings = report["findings"].as_array().unwrap().iter();
    findings.map(|finding| (finding["what"].as_str().unwrap(), finding["verdict"].as_str().unwrap())).collect()
}

#[track_caller]
fn report(output: &Output) -> Value {
    let errors = String::from_utf8_lossy(&output.stderr);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {errors}"))
}

#[test]
fn a_server_that_is_the_same_passes() {
    let Some(output) = soak(SHORT) else { return };
    let report = report(&output);
    assert!(output.status.success(), "{:#}", report["findings"]);
    let names = ["RSS", "descriptors", "latency p50", "latency p99", "latency p99.9"];
    assert_eq!(verdicts(&report), names.map(|name| (name, "flat")));
    assert_eq!(report["laps"].as_array().unwrap().len(), 10);
    assert!(report["operations"].as_u64() > Some(5_000), "{}", report["operations"]);
    assert!(report["connections_opened"].as_u64() > Some(50) && report["saves"].as_u64() > Some(2), "{report:#}");
    for sample in report["samples"].as_array().unwrap() {
        assert!(
            sample["rss_bytes"].as_u64() > Some(1 << 20) && sample["latency"]["p50_us"].as_f64() > Some(0.0),
            "{sample}"
        );
    }
}

#[test]
fn planted_leaks_are_told() {
    let Some(output) = soak(&format!("{SHORT} --leak-bytes 4000000 --leak-connections 3")) else { return };
    assert_eq!(output.status.code(), Some(1));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(errors.contains("not flat: RSS, descriptors"), "{errors}");
    let report = report(&output);
    let grown: Vec<_> = verdicts(&report).into_iter().filter(|(_, verdict)| *verdict == "GROWS").collect();
    assert_eq!(grown, [("RSS", "GROWS"), ("descriptors", "GROWS")]);
    // Of three connections a lap, and five laps.
    let growth = report["findings"][1]["growth"].as_f64().unwrap();
    assert!((11.0..13.0).contains(&growth), "{growth}");
}

#[test]
fn wrong_usage_is_told_before_a_server_is_started() {
    for arguments in [
        "--minutes 7",
        "--minutes 0",
        "--lap-seconds 0",
        "--interval 61",
        "--rate 0",
        "--keys 0",
        "--value-max 5",
        "--connections 0",
        "--pipeline 0",
        "--rss-tolerance -1",
        "--latency-tolerance NaN",
    ] {
        let mut command = Command::new(BENCH);
        command.args(["soak", "--server", "x=/nonexistent/server {port} {dir}"]).args(arguments.split_whitespace());
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments}: {}", String::from_utf8_lossy(&output.stderr));
    }
}
