//! How the real process starts with what it has on the disk: what clients are told meanwhile, what `maxmemory` does to it, and
//! how it is stopped. What is loaded is tested beside `runtime/src/disk/load.rs` and in `engine/tests/durability.rs`.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

use common::data::{Data, connect, kill};
use common::server::{Server, free_port, run_refused, wait_until};
use common::skip_on_redis;
use redis::{Commands, Connection, Pipeline, RedisResult, Value};
use rustix::process::Signal;

const MIB: u64 = 1 << 20;

fn select(server: &Server, database: u8) -> Connection {
    let mut connection = connect(server);
    redis::cmd("SELECT").arg(database).exec(&mut connection).expect("SELECT");
    connection
}

/// Sets so many keys to values of so many bytes, and waits until the kernel has them.
fn fill(server: &Server, keys: usize, value_bytes: usize) {
    let mut connection = connect(server);
    let value = vec![b'v'; value_bytes];
    for first in (0..keys).step_by(500) {
        let mut pipeline = Pipeline::new();
        for key in first..(first + 500).min(keys) {
            pipeline.cmd("SET").arg(format!("key:{key}")).arg(&value).ignore();
        }
        pipeline.query::<()>(&mut connection).expect("SET");
    }
    std::thread::sleep(Duration::from_millis(500));
}

fn info(connection: &mut Connection) -> BTreeMap<String, String> {
    let text: String = redis::cmd("INFO").arg("persistence").query(connection).expect("INFO is answered while loading");
    text.lines().filter_map(|line| line.split_once(':')).map(|(name, value)| (name.into(), value.into())).collect()
}

fn is_loading(result: &RedisResult<Value>) -> bool {
    match result {
        Err(error) => {
            assert!(error.to_string().contains("oading the dataset in memory"), "{error}");
            true
        }
        Ok(_) => false,
    }
}

#[test]
fn clients_are_told_to_wait_and_how_long_while_it_loads() {
    if skip_on_redis("its flags are others") {
        return;
    }
    let data = Data::new();
    let server = data.start_with(2, &[]);
    // Debug builds redo about a hundred thousand in a second.
    const KEYS: usize = 150_000;
    fill(&server, KEYS, 300);
    kill(server);

    let log = data.folder().join("messages");
    let server = data.start_loading(2, &["--logfile", log.to_str().expect("text")]);
    let mut connection = connect(&server);
    let (mut refused, mut percents) = (0, Vec::new());
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let report = info(&mut connection);
        if report["loading"] == "1" {
            let number = |name: &str| report[name].parse::<f64>().expect("a number");
            let (loaded, total) = (number("loading_loaded_bytes"), number("loading_total_bytes"));
            assert!(loaded <= total && total > (KEYS * 300) as f64);
            assert!(number("loading_start_time") > 1e9 && number("loading_eta_seconds") < 1e6);
            percents.push(number("loading_loaded_perc"));
        } else {
            assert!(!report.contains_key("loading_eta_seconds"));
        }
        let got = redis::cmd("GET").arg("key:7").query::<Value>(&mut connection);
        let pinged = redis::cmd("PING").query::<Value>(&mut connection);
        let looked_up = redis::cmd("MGET").arg("key:1").arg("key:2").arg("key:3").query::<Value>(&mut connection);
        if is_loading(&looked_up) {
            assert!(is_loading(&got));
            refused += 1;
        } else if !is_loading(&got) {
            assert!(!is_loading(&pinged));
            break;
        }
        // Some commands are for any time.
        let echoed: String = redis::cmd("ECHO").arg("here").query(&mut connection).expect("ECHO");
        assert_eq!(echoed, "here");
        assert!(Instant::now() < deadline, "it loads for ever");
    }
    assert!(refused > 0, "it was loaded before anybody asked");
    assert!(percents.is_sorted() && percents.last() <= Some(&100.0), "{percents:?}");
    let keys: usize = redis::cmd("DBSIZE").query(&mut connection).expect("DBSIZE");
    assert_eq!(keys, KEYS);
    // Whichever shard a client comes to, it serves.
    for _ in 0..8 {
        let value: Vec<u8> = connect(&server).get("key:149999").expect("GET");
        assert_eq!(value.len(), 300);
    }
    assert_eq!(info(&mut connection)["loading"], "0");
    let said = fs::read_to_string(&log).expect("messages");
    assert!(said.contains(&format!("ready: {KEYS} keys loaded in ")), "{said}");
}

#[test]
fn a_stop_while_it_loads_is_prompt_and_changes_nothing() {
    if skip_on_redis("its flags are others") {
        return;
    }
    let data = Data::new();
    let server = data.start_with(2, &[]);
    fill(&server, 150_000, 300);
    kill(server);
    let before = data.files();
    for by_client in [false, true] {
        let server = data.start_loading(2, &[]);
        let mut connection = connect(&server);
        let began = Instant::now();
        if by_client {
            let _ = redis::cmd("SHUTDOWN").query::<Value>(&mut connection);
        } else {
            assert!(is_loading(&redis::cmd("DBSIZE").query(&mut connection)));
            server.signal(Signal::TERM);
        }
        let (status, output) = server.wait_for_exit();
        assert!(status.success(), "{output}");
        assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
        assert!(data.files() == before, "files have changed");
    }
    let server = data.start_with(2, &[]);
    let keys: usize = redis::cmd("DBSIZE").query(&mut connect(&server)).expect("DBSIZE");
    assert_eq!(keys, 150_000);
}

#[test]
fn what_is_more_than_maxmemory_is_evicted_or_kept() {
    if skip_on_redis("its flags are others") {
        return;
    }
    let data = Data::new();
    let server = data.start_with(2, &[]);
    fill(&server, 60_000, 2_000);
    kill(server);

    let log = data.folder().join("evicted");
    let flags = ["--maxmemory", "32mb", "--maxmemory-policy", "allkeys-lru", "--logfile", log.to_str().expect("text")];
    let server = data.start_loading(2, &flags);
    let mut most = 0;
    wait_until("it serves", || {
        most = most.max(server.resident_bytes());
        !is_loading(&redis::cmd("PING").query(&mut connect(&server)))
    });
    let mut connection = connect(&server);
    let keys: usize = redis::cmd("DBSIZE").query(&mut connection).expect("DBSIZE");
    assert!((4_000..16_800).contains(&keys), "{keys}");
    let memory: String = redis::cmd("INFO").arg("memory").query(&mut connection).expect("INFO");
    let used = memory.lines().find_map(|line| line.strip_prefix("used_memory:")).expect("a figure");
    assert!(used.parse::<u64>().expect("a number") <= 33 * MIB, "{used}");
    // Files that are mapped are resident, too, as long as they are redone.
    assert!(most < 120 * MIB + 32 * MIB + 2 * 48 * MIB, "{most}");
    let said = fs::read_to_string(&log).expect("messages");
    assert!(said.contains("keys were evicted while they were loaded: maxmemory is 33554432 bytes"), "{said}");
    // It goes on as usual, and what is deleted in vain stays away.
    let _: () = connection.set("new", vec![b'n'; 2_000]).expect("SET");
    let gone: Vec<String> = (0..60_000)
        .map(|key| format!("key:{key}"))
        .filter(|key| connection.exists::<_, usize>(key).expect("EXISTS") == 0)
        .take(500)
        .collect();
    for key in &gone {
        assert_eq!(connection.del::<_, usize>(key).expect("DEL"), 0);
    }
    std::thread::sleep(Duration::from_millis(300));
    drop(connection);
    kill(server);

    let log = data.folder().join("kept");
    let server = data.start_with(2, &["--maxmemory", "32mb", "--logfile", log.to_str().expect("text")]);
    let mut connection = connect(&server);
    let keys: usize = redis::cmd("DBSIZE").query(&mut connection).expect("DBSIZE");
    assert!(keys > 30_000, "what was evicted and not deleted is there: {keys}");
    for key in &gone {
        assert_eq!(connection.exists::<_, usize>(key).expect("EXISTS"), 0, "{key}");
    }
    let error = connection.set::<_, _, ()>("newer", "x").expect_err("there is no room");
    assert!(error.to_string().contains("OOM"), "{error}");
    let said = fs::read_to_string(&log).expect("messages");
    assert!(said.contains("is more than maxmemory, 33554432 bytes, and noeviction evicts nothing of it"), "{said}");
}

#[test]
fn a_flush_that_one_log_has_lost_is_completed() {
    if skip_on_redis("its files are others") {
        return;
    }
    let data = Data::new();
    let always = ["--appendfsync", "always"];
    let server = data.start_with(2, &always);
    let mut connection = connect(&server);
    for key in 0..100 {
        let _: () = connection.set(format!("key:{key}"), "value").expect("SET");
    }
    redis::cmd("SWAPDB").arg(0).arg(3).exec(&mut connection).expect("SWAPDB");
    let _: () = connection.set("kept", "value").expect("SET");
    redis::cmd("FLUSHDB").exec(&mut select(&server, 3)).expect("FLUSHDB");
    kill(server);
    // The last thing that shard 1 wrote.
    let logs = data.files().into_iter().filter(|(path, _)| path.extension().is_some_and(|kind| kind == "log"));
    let (path, mut bytes) = logs.rev().find(|(path, _)| path.to_string_lossy().contains("-1-")).expect("a log");
    let last = bytes.iter().rposition(|&byte| byte != 0).expect("a batch") / 4096 * 4096;
    bytes[last..].fill(0);
    fs::write(&path, &bytes).expect("write");
    for _ in 0..2 {
        let server = data.start_with(2, &always);
        let mut connection = connect(&server);
        let keys: usize = redis::cmd("DBSIZE").query(&mut connection).expect("DBSIZE");
        assert_eq!(keys, 1);
        let mut third = select(&server, 3);
        let keys: usize = redis::cmd("DBSIZE").query(&mut third).expect("DBSIZE");
        assert_eq!(keys, 0, "the other shard has flushed it");
        kill(server);
    }
}

/// What `wal-recovery` takes of a log that a kill has ended, and of one that is damaged.
#[test]
fn a_start_takes_what_it_is_told_to() {
    if skip_on_redis("its settings are others") {
        return;
    }
    let data = Data::new();
    let server = data.start_with(2, &["--appendfsync", "always"]);
    let mut connection = connect(&server);
    for key in 0..200 {
        let _: () = connection.set(format!("key:{key}"), "v").expect("SET");
    }
    kill(server);
    let refused = |setting: &str| {
        let flags = ["--cores", "0,0", "--appendonly", "yes", "--dir", data.path(), "--wal-recovery", setting];
        let (status, output) = run_refused(None, free_port(), &flags);
        assert!(!status.success());
        output
    };
    let output = refused("strict");
    assert!(output.contains("was not ended in order") && output.contains("--wal-recovery tail"), "{output}");
    // A clean stop seals the log, and that is taken.
    let count = |server: &Server| -> usize { redis::cmd("DBSIZE").query(&mut connect(server)).expect("DBSIZE") };
    for setting in ["tail", "strict"] {
        let server = data.start_with(2, &["--wal-recovery", setting]);
        assert_eq!(count(&server), 200);
        server.signal(Signal::TERM);
        assert!(server.wait_for_exit().0.success());
    }
    // A flipped bit in what was durable.
    let path = data.folder().join("wal-1-0-000001.log");
    let mut bytes = fs::read(&path).expect("the log");
    bytes[4096 * 20 + 90] ^= 1;
    fs::write(&path, &bytes).expect("write");
    let output = refused("tail");
    assert!(output.contains("damaged") && output.contains("torc repair"), "{output}");
    let server = data.start_with(2, &["--wal-recovery", "salvage"]);
    let salvaged = count(&server);
    assert!((100..200).contains(&salvaged), "{salvaged}");
    kill(server);
    // What could be read is in a snapshot now.
    let server = data.start_with(2, &[]);
    assert_eq!(count(&server), salvaged);
}

/// Any number of shards loads what any other number has left, with writes and snapshots in between.
#[test]
fn shards_come_and_go() {
    if skip_on_redis("it has one shard") {
        return;
    }
    let data = Data::new();
    let mut keys = 0;
    for (round, shards) in [1, 2, 3, 1, 3, 2].into_iter().enumerate() {
        let server = data.start_with(shards, &["--appendfsync", "always"]);
        let mut connection = connect(&server);
        let count: usize = redis::cmd("DBSIZE").query(&mut connection).expect("DBSIZE");
        assert_eq!(count, keys, "round {round}");
        for key in 0..keys {
            let value: usize = connection.get(format!("key:{key}")).expect("GET");
            assert_eq!(value, key, "round {round}");
        }
        if round % 2 == 1 {
            redis::cmd("SWAPDB").arg(0).arg(round).exec(&mut connection).expect("SWAPDB");
            redis::cmd("SWAPDB").arg(0).arg(round).exec(&mut connection).expect("SWAPDB");
            redis::cmd("SAVE").exec(&mut connection).expect("SAVE");
        }
        for key in keys..keys + 300 {
            let _: () = connection.set(format!("key:{key}"), key).expect("SET");
        }
        keys += 300;
        kill(server);
    }
}
