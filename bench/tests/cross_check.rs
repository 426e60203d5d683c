//! `torc-bench cross-check` from end to end, with what other generators there are. Runs are as short as
//! they can be, and nothing is asserted about their figures.

use std::path::Path;
use std::process::{Command, Output};

const BENCH: &str = env!("CARGO_BIN_EXE_torc-bench");

fn cross_check(arguments: &str) -> Command {
    let mut command = Command::new(BENCH);
    command.arg("cross-check").args(arguments.split_whitespace());
    command
}

fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

fn texts(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout), text(&output.stderr))
}

#[test]
fn all_tools_which_are_there_are_compared() {
    if !is_installed("redis-benchmark") {
        eprintln!("skipped: redis-benchmark is not installed");
        return;
    }
    let with_server = is_installed("redis-server");
    if !with_server {
        eprintln!("without the part `closed`: redis-server is not installed");
    }
    let prefix = std::env::temp_dir().join(format!("torc-cross-check-test-{}", std::process::id()));
    let parts = if with_server { "drive,closed" } else { "drive" };
    let output = cross_check(&format!("--parts {parts} --rounds 1 --seconds 1 --pipelines 1,16 --keys 1000"))
        .args(["--connections", "8", "--closed-connections", "2", "--out-prefix"])
        .arg(&prefix)
        .output()
        .unwrap();
    let (report, errors) = texts(&output);
    assert!(output.status.success(), "{errors}");
    let read = |extension: &str| {
        let path = format!("{}.{extension}", prefix.display());
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::remove_file(Path::new(&path)).unwrap();
        text
    };
    assert_eq!(read("md").trim(), report.trim());
    let result: serde_json::Value = serde_json::from_str(&read("json")).unwrap();
    let tables = result["results"].as_array().unwrap();
    assert_eq!(tables.len(), if with_server { 3 } else { 2 });
    for table in tables {
        let tools = table["tools"].as_array().unwrap();
        for name in ["torc-bench", "redis-benchmark"] {
            let tool = tools.iter().find(|tool| tool["tool"] == name).unwrap();
            assert!(tool["ops_per_second"]["median"].as_f64().unwrap() > 0.0, "{tool}");
            assert_eq!(tool["misses"], 0.0, "{tool}");
        }
    }
    for name in ["torc-bench", "memtier_benchmark", "redis-benchmark"] {
        assert!(report.contains(&format!("- {name}: ")), "{name} is not named:\n{report}");
    }
    // One round is no ground for a conclusion.
    assert!(report.contains("no conclusion: fewer than 3 rounds"), "{report}");
}

#[test]
fn without_any_other_tool_it_says_which_it_looked_for() {
    let output = cross_check("--parts drive").env("PATH", "/nonexistent").output().unwrap();
    let (_, errors) = texts(&output);
    assert_eq!(output.status.code(), Some(2), "{errors}");
    assert!(errors.contains("neither memtier_benchmark nor redis-benchmark"), "{errors}");
}

#[test]
fn a_tool_which_fails_ends_the_check_with_its_reason() {
    // It takes the flags of any tool, and does nothing.
    let output = cross_check("--parts drive --memtier /bin/false").output().unwrap();
    let (_, errors) = texts(&output);
    assert_eq!(output.status.code(), Some(1), "{errors}");
    assert!(errors.contains("memtier_benchmark ended with status 1"), "{errors}");
}
