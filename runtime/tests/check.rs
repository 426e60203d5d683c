//! `torc check` and `torc repair` as they are typed, on what real servers left: what they say and end with, and that a server
//! starts on what was repaired with what was promised. How damage is judged is tested beside `runtime/src/check/`.

mod common;

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use common::data::{Data, connect};
use common::server::{Server, free_port, run_refused};
use common::skip_on_redis;
use redis::Commands;
use rustix::process::Signal;

/// The first segment of a shard's log.
fn segment(data: &Data, shard: usize) -> PathBuf {
    data.folder().join(format!("wal-1-{shard}-000001.log"))
}

fn change(data: &Data, shard: usize, change: impl FnOnce(&mut Vec<u8>)) {
    let path = segment(data, shard);
    let mut bytes = fs::read(&path).expect("the log");
    change(&mut bytes);
    fs::write(&path, bytes).expect("write");
}

/// The status and what was printed on standard output and standard error.
fn torc(arguments: &[&str]) -> (i32, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_torc")).args(arguments).output().expect("it can be started");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (output.status.code().expect("it ends by itself"), text(output.stdout), text(output.stderr))
}

fn json(arguments: &[&str]) -> (i32, serde_json::Value) {
    let (status, out, error) = torc(arguments);
    (status, serde_json::from_str(&out).unwrap_or_else(|wrong| panic!("{wrong}: {out} {error}")))
}

/// One shard with 50 keys, each in a batch and a page of its own from the second page on.
fn filled() -> (Data, Server) {
    let data = Data::new();
    let server = data.start(1, "always");
    let mut connection = connect(&server);
    for key in 0..50 {
        let _: () = connection.set(format!("key:{key}"), "v").expect("SET");
    }
    (data, server)
}

fn kill(server: Server) {
    server.signal(Signal::KILL);
    server.wait_for_exit();
}

fn stop(server: Server) {
    server.signal(Signal::TERM);
    let (status, output) = server.wait_for_exit();
    assert!(status.success(), "{output}");
}

#[test]
fn what_is_sound_is_called_so_while_it_is_served_and_after() {
    if skip_on_redis("it has no such command") {
        return;
    }
    let (data, server) = filled();
    let (status, out, _) = torc(&["check", data.path()]);
    assert!(status == 0 && out.contains("in use by the process") && out.contains("sound: "), "{status} {out}");
    let (status, _, error) = torc(&["repair", data.path(), "--truncate"]);
    assert!(status == 75 && error.contains("is in use by the process"), "{status} {error}");
    // It was nobody's hindrance.
    let _: () = connect(&server).set("more", "v").expect("SET");
    kill(server);
    let (status, found) = json(&["check", data.path(), "--json"]);
    assert_eq!((status, found["verdict"].as_str(), found["in_use"].as_bool()), (0, Some("sound"), Some(false)));
    let log = &found["shards"][0]["log"];
    assert_eq!((log["records"].as_u64(), log["sealed"].as_bool()), (Some(51), Some(false)), "{found}");
    stop(data.start(1, "always"));
    let (status, found) = json(&["check", data.path(), "--json"]);
    assert_eq!((status, found["shards"][0]["log"]["sealed"].as_bool()), (0, Some(true)));
    let (status, out, _) = torc(&["repair", data.path(), "--skip-batch"]);
    assert!(status == 0 && out.contains("nothing is wrong"), "{out}");
}

#[test]
fn torn_end_is_one_and_a_start_mends_it() {
    if skip_on_redis("it has no such command") {
        return;
    }
    let (data, server) = filled();
    kill(server);
    change(&data, 0, |bytes| {
        let end = bytes.iter().rposition(|&byte| byte != 0).expect("a log") + 1;
        bytes[end - 2..end].fill(0);
    });
    let (status, out, _) = torc(&["check", data.path()]);
    assert!(status == 1 && out.contains("TORN: wal-1-0-000001.log, offset 204800, 4096 bytes"), "{status} {out}");
    let (status, out, _) = torc(&["repair", data.path(), "--truncate", "--dry-run"]);
    assert!(status == 0 && out.contains("nothing was changed"), "{out}");
    stop(data.start(1, "always"));
    assert_eq!(torc(&["check", data.path()]).0, 0);
}

#[test]
fn damage_is_refused_repaired_and_started() {
    if skip_on_redis("it has no such command") {
        return;
    }
    for (method, kept, lost) in [("--truncate", 19, "20 to 50"), ("--skip-batch", 49, "20 to 20")] {
        let (data, server) = filled();
        stop(server);
        // The header has the first page, and the first record the second.
        change(&data, 0, |bytes| bytes[4096 * 20 + 100] ^= 1);
        let flags = ["--cores", "0", "--appendonly", "yes", "--dir", data.path()];
        let (status, output) = run_refused(None, free_port(), &flags);
        assert!(!status.success());
        for named in [format!("torc check {}", data.path()), format!("torc repair {} --skip-batch", data.path())] {
            assert!(output.contains(&named), "{named} is not in: {output}");
        }
        let (status, found) = json(&["check", data.path(), "--json"]);
        let damage = &found["shards"][0]["log"]["damage"][0];
        assert_eq!((status, damage["offset"].as_u64(), damage["first_lsn"].as_u64()), (2, Some(81920), Some(20)));

        let (status, out, error) = torc(&["repair", data.path(), method]);
        assert_eq!(status, 0, "{out} {error}");
        assert!(out.contains(&format!("LOST: records {lost}")), "{out}");
        assert!(data.folder().join("repair-1/wal-1-0-000001.log").exists() && !segment(&data, 0).exists());
        assert_eq!(torc(&["check", data.path()]).0, 0);
        for round in 0..2 {
            let server = data.start(1, "always");
            let mut connection = connect(&server);
            let keys: usize = redis::cmd("DBSIZE").query(&mut connection).expect("DBSIZE");
            let is_there: (bool, bool, bool) = (
                connection.exists("key:18").expect("EXISTS"),
                connection.exists("key:19").expect("EXISTS"),
                connection.exists("key:49").expect("EXISTS"),
            );
            assert_eq!(is_there, (true, false, method == "--skip-batch"));
            assert_eq!(keys, kept + round, "{method}");
            let _: () = connection.set(format!("new:{round}"), "v").expect("SET");
            kill(server);
        }
    }
}

#[test]
fn only_the_damaged_shard_is_touched() {
    if skip_on_redis("it has no such command") {
        return;
    }
    let data = Data::new();
    let server = data.start(2, "always");
    let mut connection = connect(&server);
    for key in 0..100 {
        let _: () = connection.set(format!("key:{key}"), "v".repeat(100)).expect("SET");
    }
    stop(server);
    let other = fs::read(segment(&data, 0)).expect("the log");
    change(&data, 1, |bytes| bytes[4096 * 2 + 100] ^= 1);
    let (status, found) = json(&["repair", data.path(), "--skip-batch", "--json"]);
    assert_eq!(
        (status, found["changed"].as_bool(), found["shards"].as_array().map(Vec::len)),
        (0, Some(true), Some(1))
    );
    assert_eq!(fs::read(segment(&data, 0)).expect("the log"), other);
    let server = data.start(2, "always");
    let keys: usize = redis::cmd("DBSIZE").query(&mut connect(&server)).expect("DBSIZE");
    assert_eq!(keys, 99);
}

#[test]
fn directory_that_nobody_knows_what_counts_in_is_kept_as_it_is() {
    if skip_on_redis("it has no such command") {
        return;
    }
    let (data, server) = filled();
    stop(server);
    let current = fs::read(data.folder().join("CURRENT")).expect("it is there");
    let line = String::from_utf8(current.clone()).expect("text");
    fs::write(data.folder().join("CURRENT"), "").expect("write");
    let (status, out, _) = torc(&["check", data.path()]);
    assert!(status == 2 && out.contains("keep all of it\n  MANIFEST-") && !out.contains("nobody needs"), "{out}");
    assert!(out.contains(&format!("one with the line '{}'", line.trim_end())), "{out}");

    // A newer manifest was there once: none before it is offered.
    let name = line.split(' ').next().expect("a name");
    let number: u64 = name.strip_prefix("MANIFEST-").and_then(|number| number.parse().ok()).expect("a number");
    let newer = data.folder().join(format!("MANIFEST-{}", number + 1));
    fs::write(&newer, "damaged").expect("write");
    let (status, out, _) = torc(&["check", data.path()]);
    assert!(status == 2 && out.contains("would be lost") && !out.contains(line.trim_end()), "{status} {out}");

    // And this is what a crash in the middle of a switch leaves.
    fs::write(data.folder().join("CURRENT"), current).expect("write");
    let (status, out, _) = torc(&["check", data.path()]);
    assert!(status == 0 && out.contains("a crash in the middle of a switch leaves that"), "{status} {out}");
    stop(data.start(1, "always"));
    assert!(!newer.exists());
    let (status, out, _) = torc(&["check", data.path()]);
    assert!(status == 0 && !out.contains("switch"), "{status} {out}");

    let others = Data::new();
    fs::create_dir_all(others.folder()).expect("a folder");
    assert_eq!(torc(&["check", others.path()]).0, 0);
    fs::write(others.folder().join("notes.txt"), "x").expect("write");
    let (status, out, _) = torc(&["check", others.path()]);
    assert!(status == 66 && out.contains("foreign: there is no data of Torc's here"), "{status} {out}");
}

#[test]
fn missing_files_are_refused_and_what_is_left_is_saved() {
    if skip_on_redis("it has no such command") {
        return;
    }
    let (data, server) = filled();
    let mut connection = connect(&server);
    let _: () = redis::cmd("SAVE").query(&mut connection).expect("SAVE");
    let _: () = connection.set("after", "v").expect("SET");
    stop(server);
    let flags = ["--cores", "0", "--appendonly", "yes", "--dir", data.path()];
    let refused = |name: &str| {
        let (status, output) = run_refused(None, free_port(), &flags);
        assert!(!status.success() && output.contains(name), "{output}");
        for command in ["check", "repair"] {
            assert!(output.contains(&format!("torc {command} {}", data.path())), "{output}");
        }
    };
    let (_, found) = json(&["check", data.path(), "--json"]);
    let snapshot = found["shards"][0]["snapshot"]["file"].as_str().expect("a snapshot");
    let first = found["shards"][0]["log"]["segments"][0]["file"].as_str().expect("a segment");
    let bytes = fs::read(data.folder().join(snapshot)).expect("the snapshot");

    // A snapshot that is damaged, or missing: without an older one nothing else will do.
    let mut damaged = bytes.clone();
    damaged[100] ^= 1;
    fs::write(data.folder().join(snapshot), damaged).expect("write");
    refused(snapshot);
    fs::remove_file(data.folder().join(snapshot)).expect("it was there");
    refused(snapshot);
    let (status, out, _) = torc(&["check", data.path()]);
    assert!(status == 2 && out.contains("DAMAGED at offset 0: the file is missing"), "{status} {out}");
    fs::write(data.folder().join(snapshot), bytes).expect("write");

    fs::remove_file(data.folder().join(first)).expect("it was there");
    refused(first);
    let (status, out, _) = torc(&["check", data.path()]);
    assert!(status == 2 && out.contains(&format!("{first}, offset 0: the file is missing")), "{status} {out}");
    let (status, out, error) = torc(&["repair", data.path(), "--truncate"]);
    assert_eq!(status, 0, "{out} {error}");
    let server = data.start(1, "always");
    let keys: usize = redis::cmd("DBSIZE").query(&mut connect(&server)).expect("DBSIZE");
    assert_eq!(keys, 50);
    stop(server);
}

#[test]
fn statuses_tell_mistakes_from_corruption() {
    if skip_on_redis("it has no such command") {
        return;
    }
    for wrong in
        [&["check"][..], &["check", "a", "b"], &["repair", "a"], &["repair", "a", "--truncate", "--skip-batch"]]
    {
        let (status, _, error) = torc(wrong);
        assert!(status == 64 && error.contains("Usage: torc"), "{wrong:?}: {status} {error}");
    }
    let (status, out, _) = torc(&["check", "--help"]);
    assert!(status == 0 && out.contains("Exit status: 0 sound"), "{out}");
    let (status, _, error) = torc(&["check", "/nonexistent/torc"]);
    assert!(status == 74 && error.contains("/nonexistent/torc"), "{status} {error}");
    assert_eq!(torc(&["repair", "/nonexistent/torc", "--truncate"]).0, 74);

    let (data, server) = filled();
    stop(server);
    fs::remove_file(data.folder().join("CURRENT")).expect("it was there");
    let (status, out, _) = torc(&["check", data.path()]);
    assert!(status == 2 && out.contains("corrupt: ") && out.contains("one with the line 'MANIFEST-"), "{status} {out}");
    let (status, found) = json(&["repair", data.path(), "--truncate", "--json"]);
    assert!(status == 2 && found["error"].as_str().is_some_and(|text| text.contains("no file CURRENT")), "{found}");
    assert!(!data.folder().join("repair-1").exists());
}
