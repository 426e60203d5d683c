//! Faults that are injected on purpose: who may, and that each does what it says, seen from outside.

mod common;

use std::time::{Duration, Instant};

use common::data::{Data, connect, kill};
use common::server::{Server, free_port, run_refused, wait_until};
use common::skip_on_redis;
use redis::{Commands, Connection};

const DELAY: Duration = Duration::from_millis(300);
const DEBUG: [&str; 2] = ["--enable-debug-command", "local"];

fn ask(connection: &mut Connection, words: &str) -> Result<String, String> {
    let mut words = words.split(' ');
    let mut command = redis::cmd(words.next().expect("a command"));
    words.for_each(|word| {
        command.arg(word);
    });
    command.query(connection).map_err(|error| error.to_string())
}

#[track_caller]
fn inject(connection: &mut Connection, fault: &str) {
    assert_eq!(ask(connection, &format!("DEBUG SET-FAULT {fault}")).as_deref(), Ok("OK"));
}

/// How long a command takes.
fn time(connection: &mut Connection, words: &str) -> Duration {
    let start = Instant::now();
    ask(connection, words).expect("an answer");
    start.elapsed()
}

fn info(connection: &mut Connection, name: &str) -> String {
    let text: String = redis::cmd("INFO").arg("persistence").query(connection).expect("INFO");
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("{name} is not in {text}")).to_owned()
}

#[test]
fn only_who_may_debug_injects_faults() {
    if skip_on_redis("it has no such faults") {
        return;
    }
    for fault in [["--fault-wal-delay-ms", "5"], ["--fault-wal-fail-probability", "0.5"], ["--fault-hop-delay-ms", "1"]]
    {
        let (status, output) = run_refused(None, free_port(), &fault);
        assert_eq!(status.code(), Some(1));
        let said = format!("{} {}", &fault[0][2..], fault[1]);
        for part in [&said, "--enable-debug-command local"] {
            assert!(output.contains(part), "{part} is not in: {output}");
        }
    }
    let server = Server::start(&["--fault-wal-delay-ms", "0", "--fault-seed", "7"]);
    let mut connection = connect(&server);
    let refused = ask(&mut connection, "DEBUG SET-FAULT wal-delay-ms 5").expect_err("DEBUG is off");
    assert!(refused.contains("not allowed"), "{refused}");
    let refused = ask(&mut connection, "CONFIG SET fault-wal-delay-ms 5").expect_err("it is not for everybody");
    assert!(refused.contains("DEBUG SET-FAULT"), "{refused}");

    let data = Data::new();
    let log_path = data.log_path();
    let flags = [&DEBUG[..], &["--fault-hop-delay-ms", "1", "--logfile", &log_path]].concat();
    std::fs::create_dir_all(data.folder()).expect("a directory");
    let server = data.start_with(2, &flags);
    assert!(data.messages().contains("FAULTS ARE INJECTED ON PURPOSE"), "{}", data.messages());
    let mut connection = connect(&server);
    inject(&mut connection, "wal-fail-probability 0.000001");
    wait_until("it is said", || data.messages().contains("fault-wal-fail-probability 0.000001"));
    for (words, part) in [
        (
            "DEBUG SET-FAULT nosuch 5",
            "there are hop-delay-ms, seed, snapshot-delay-ms, wal-delay-ms, wal-fail-probability",
        ),
        ("DEBUG SET-FAULT wal-delay-ms -1", "fault-wal-delay-ms: argument must be between 0 and 60000"),
        ("DEBUG SET-FAULT wal-fail-probability 1.5", "probability from 0 to 1"),
    ] {
        let error = ask(&mut connection, words).expect_err("it is wrong");
        assert!(error.contains(part), "{error}");
    }
    let shown: Vec<String> =
        redis::cmd("CONFIG").arg("GET").arg("fault-wal-fail*").query(&mut connection).expect("CONFIG GET");
    assert_eq!(shown, ["fault-wal-fail-probability", "0.000001"]);
    inject(&mut connection, "hop-delay-ms 0");
    inject(&mut connection, "wal-fail-probability 0");
    wait_until("it is said", || data.messages().contains("none any more"));
}

/// What is written is acknowledged later under `always`, and is there; under `everysec` nobody waits.
#[test]
fn a_log_that_is_late() {
    if skip_on_redis("it has no such faults") {
        return;
    }
    for (fsync, waits) in [("always", true), ("everysec", false)] {
        let data = Data::new();
        let flags = [&DEBUG[..], &["--appendfsync", fsync]].concat();
        let server = data.start_with(2, &flags);
        let mut connection = connect(&server);
        assert!(time(&mut connection, "SET before 1") < DELAY, "{fsync}");
        inject(&mut connection, &format!("wal-delay-ms {}", DELAY.as_millis()));
        let took = time(&mut connection, "SET late 1");
        assert_eq!(took >= DELAY, waits, "{fsync}: {took:?}");
        inject(&mut connection, "wal-delay-ms 0");
        wait_until("what was held back is through", || time(&mut connection, "SET after 1") < DELAY);
        if waits {
            kill(server);
            let server = data.start_with(2, &flags);
            let keys: usize = redis::cmd("DBSIZE").query(&mut connect(&server)).expect("DBSIZE");
            assert_eq!(keys, 3);
        }
    }
}

/// Under `everysec` writes are refused until a snapshot lets another log begin; under `always` the process ends, with all that it
/// has acknowledged.
#[test]
fn a_log_that_fails() {
    if skip_on_redis("it has no such faults") {
        return;
    }
    let data = Data::new();
    let server = data.start_with(1, &[&DEBUG[..], &["--appendfsync", "everysec"]].concat());
    let mut connection = connect(&server);
    let _: () = connection.set("kept", "v").expect("SET");
    inject(&mut connection, "wal-fail-probability 1");
    wait_until("writes are refused", || ask(&mut connection, "SET k v").is_err_and(|error| error.contains("MISCONF")));
    assert_eq!(info(&mut connection, "aof_last_write_status"), "err");
    assert_eq!(ask(&mut connection, "GET kept").as_deref(), Ok("v"));
    inject(&mut connection, "wal-fail-probability 0");
    // The server begins another log by itself.
    wait_until("writes go on", || ask(&mut connection, "SET after v").is_ok());
    kill(server);

    let data = Data::new();
    let server = data.start_with(1, &[&DEBUG[..], &["--appendfsync", "always"]].concat());
    let mut connection = connect(&server);
    let _: () = connection.set("kept", "v").expect("SET");
    inject(&mut connection, "wal-fail-probability 1");
    assert!(connection.set::<_, _, ()>("unacknowledged", "v").is_err());
    let (status, output) = server.wait_for_exit();
    assert_eq!(status.code(), Some(1), "{output}");
    assert!(output.contains("under appendfsync always nothing can be acknowledged any more"), "{output}");
    let server = data.start_with(1, &["--appendfsync", "always"]);
    assert_eq!(ask(&mut connect(&server), "GET kept").as_deref(), Ok("v"));
}

#[test]
fn a_snapshot_that_is_late() {
    if skip_on_redis("it has no such faults") {
        return;
    }
    let data = Data::new();
    let server = data.start_with(2, &DEBUG);
    let mut connection = connect(&server);
    for key in 0..1_000 {
        let _: () = connection.set(format!("key:{key}"), key).expect("SET");
    }
    inject(&mut connection, &format!("snapshot-delay-ms {}", DELAY.as_millis()));
    let start = Instant::now();
    ask(&mut connection, "BGSAVE").expect("it is begun");
    // Nobody waits for it.
    assert!(time(&mut connection, "SET key:0 new") < DELAY);
    wait_until("the snapshot is taken", || info(&mut connection, "rdb_bgsave_in_progress") == "0");
    assert!(start.elapsed() >= DELAY);
    assert_eq!(info(&mut connection, "rdb_last_bgsave_status"), "ok");
    kill(server);
    let keys: usize = redis::cmd("DBSIZE").query(&mut connect(&data.start_with(2, &[]))).expect("DBSIZE");
    assert_eq!(keys, 1_000);
}

/// Of some keys all are on other shards: a pipeline of all waits, and its replies come in order.
#[test]
fn shards_that_hear_each_other_late() {
    if skip_on_redis("it has no shards") {
        return;
    }
    let server = Server::start_sharded(3, &DEBUG);
    let mut connection = connect(&server);
    let keys: Vec<String> = (0..200).map(|key| format!("key:{key}")).collect();
    inject(&mut connection, &format!("hop-delay-ms {}", DELAY.as_millis()));
    let mut pipe = redis::pipe();
    for key in &keys {
        pipe.set(key, key).ignore().get(key);
    }
    let start = Instant::now();
    let replies: Vec<String> = pipe.query(&mut connection).expect("replies");
    // There and back.
    assert!(start.elapsed() >= 2 * DELAY, "{:?}", start.elapsed());
    assert_eq!(replies, keys);
    inject(&mut connection, "hop-delay-ms 0");
    wait_until("what was held back is through", || {
        let start = Instant::now();
        let count: usize = redis::cmd("EXISTS").arg(&keys).query(&mut connection).expect("EXISTS");
        count == keys.len() && start.elapsed() < DELAY
    });
}
