//! What the real process keeps when it stops, is killed, or finds its files damaged. The formats and what follows from damage
//! are tested beside `engine/src/log/`; which replies wait, in `engine/tests/durability.rs`.

mod common;

use std::fs;
use std::path::Path;

use common::data::{Data, connect, kill};
use common::server::{Server, free_port, run_refused, wait_until};
use common::skip_on_redis;
use redis::{Commands, Value};
use rustix::process::Signal;

#[test]
fn what_was_acknowledged_survives_a_kill() {
    if skip_on_redis("its flags for shards are others") {
        return;
    }
    for fsync in ["always", "everysec", "no"] {
        let data = Data::new();
        let long = vec![b'l'; 3 << 20];
        let mut server = data.start(2, fsync);
        for round in 0..3 {
            let mut connection = connect(&server);
            for key in 0..500 {
                let _: () = connection.set(format!("key:{round}:{key}"), key).expect("SET");
            }
            let _: () = connection.set("long", &long).expect("SET");
            let _: () = connection.del("key:0:1").expect("DEL");
            let _: () = connection.append("appended", "x").expect("APPEND");
            let _: () =
                redis::cmd("SET").arg("short-lived").arg(1).arg("PX").arg(1).exec(&mut connection).expect("SET");
            if fsync != "always" {
                // Within 10 ms what is logged is with the kernel.
                std::thread::sleep(std::time::Duration::from_millis(300));
            }
            kill(server);
            server = data.start(2, fsync);
            let mut connection = connect(&server);
            let keys: usize = redis::cmd("DBSIZE").query(&mut connection).expect("DBSIZE");
            assert_eq!(keys, 500 * (round + 1) - 1 + 2, "{fsync}, round {round}");
            let last: usize = connection.get(format!("key:{round}:499")).expect("GET");
            let appended: String = connection.get("appended").expect("GET");
            let kept: Vec<u8> = connection.get("long").expect("GET");
            assert_eq!((last, appended.len(), kept == long), (499, round + 1, true), "{fsync}");
        }
        // A stop in order is a sound end, even where nothing was synced.
        server.signal(Signal::TERM);
        let (status, output) = server.wait_for_exit();
        assert!(status.success(), "{output}");
        let server = data.start(2, fsync);
        let keys: usize = redis::cmd("DBSIZE").query(&mut connect(&server)).expect("DBSIZE");
        assert_eq!(keys, 1501, "{fsync}");
    }
}

#[test]
fn a_torn_end_is_cut_off_and_damage_is_refused() {
    if skip_on_redis("its files are others") {
        return;
    }
    let data = Data::new();
    let server = data.start(1, "always");
    let mut connection = connect(&server);
    for key in 0..50 {
        let _: () = connection.set(format!("key:{key}"), "v").expect("SET");
    }
    kill(server);
    let segment = data.segments().remove(0);
    let whole = fs::read(&segment).expect("the log");
    let end = whole.iter().rposition(|&byte| byte != 0).expect("a log") + 1;
    // Of the last batch the end is lost.
    let mut torn = whole.clone();
    torn[end - 2..end].fill(0);
    fs::write(&segment, &torn).expect("write");
    let log = data.folder().join("messages");
    let flags = ["--appendonly", "yes", "--dir", data.path(), "--logfile", log.to_str().expect("text")];
    let server = Server::start_sharded(1, &flags);
    let keys: usize = redis::cmd("DBSIZE").query(&mut connect(&server)).expect("DBSIZE");
    assert_eq!(keys, 49);
    let said = fs::read_to_string(&log).expect("messages");
    assert!(said.contains("ended in the middle of a write that was not synced") && said.contains(".torn-1"), "{said}");
    kill(server);

    // In the middle there is something that was durable.
    let mut damaged = fs::read(&segment).expect("the log");
    damaged[4096 * 10 + 100] ^= 1;
    fs::write(&segment, &damaged).expect("write");
    let before = data.segments();
    let (status, output) =
        run_refused(None, free_port(), &["--cores", "0", "--appendonly", "yes", "--dir", data.path()]);
    assert!(!status.success());
    for named in ["the log of shard 0", data.path(), "segment 1", "offset 40960", "were durable", "Nothing was changed"]
    {
        assert!(output.contains(named), "{named} is not in: {output}");
    }
    assert_eq!(data.segments(), before);
    assert_eq!(fs::read(&segment).expect("the log"), damaged);
}

#[test]
fn a_directory_serves_one_process_with_the_shards_that_wrote_it() {
    if skip_on_redis("its flags are others") {
        return;
    }
    let data = Data::new();
    let server = data.start(1, "everysec");
    let flags = ["--cores", "0", "--appendonly", "yes", "--dir", data.path()];
    let (status, output) = run_refused(None, free_port(), &flags);
    assert!(!status.success() && output.contains("is in use by the process"), "{output}");
    kill(server);
    let flags = ["--cores", "0,0", "--appendonly", "yes", "--dir", data.path()];
    let (status, output) = run_refused(None, free_port(), &flags);
    assert!(!status.success() && output.contains("was written by 1 shards, and this start has 2"), "{output}");
    assert!(Path::new(data.path()).join("CURRENT").exists());
    let server = data.start(1, "everysec");
    let mut connection = connect(&server);
    assert_eq!(redis::cmd("PING").query::<Value>(&mut connection).expect("PONG"), Value::SimpleString("PONG".into()));
}

#[test]
fn the_log_goes_on_over_many_segments() {
    if skip_on_redis("its files are others") {
        return;
    }
    let data = Data::new();
    let flags = ["--appendonly", "yes", "--append-segment-size", "4mb", "--dir", data.path()];
    let server = Server::start_sharded(1, &flags);
    let mut connection = connect(&server);
    let value = vec![b'v'; 100_000];
    for key in 0..300 {
        let _: () = connection.set(format!("key:{}", key % 40), &value).expect("SET");
    }
    wait_until("more segments", || data.segments().len() >= 8);
    std::thread::sleep(std::time::Duration::from_millis(300));
    kill(server);
    let server = Server::start_sharded(1, &flags);
    let mut connection = connect(&server);
    for key in 0..40 {
        let kept: Vec<u8> = connection.get(format!("key:{key}")).expect("GET");
        assert!(kept == value, "{key}");
    }
}
