//! Snapshots of the real process: asked for, by schedule, at its end, in the middle of writes and flushes, and what a start
//! makes of them.

mod common;

use std::thread;
use std::time::Duration;

use common::data::{Data, connect, kill};
use common::server::{Server, wait_until};
use common::skip_on_redis;
use redis::{Commands, Connection};
use rustix::process::Signal;

/// A line of INFO.
fn info(connection: &mut Connection, name: &str) -> String {
    let text: String = redis::cmd("INFO").arg("persistence").query(connection).expect("INFO");
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("{name} is not in {text}")).to_owned()
}

fn ask(connection: &mut Connection, words: &str) -> String {
    let mut words = words.split(' ');
    let mut command = redis::cmd(words.next().expect("a command"));
    words.for_each(|word| {
        command.arg(word);
    });
    match command.query(connection) {
        Ok(answer) => answer,
        Err(error) => error.to_string(),
    }
}

fn count(connection: &mut Connection) -> usize {
    redis::cmd("DBSIZE").query(connection).expect("DBSIZE")
}

/// Writes so many keys, each with its number.
fn fill(connection: &mut Connection, keys: std::ops::Range<usize>) {
    for start in keys.clone().step_by(1000) {
        let mut pipe = redis::pipe();
        for key in start..(start + 1000).min(keys.end) {
            pipe.set(format!("key:{key}"), key).ignore();
        }
        pipe.exec(connection).expect("SET");
    }
}

fn save(connection: &mut Connection) {
    assert_eq!(ask(connection, "SAVE"), "OK");
}

#[test]
fn a_snapshot_and_the_log_behind_it_make_up_the_keys() {
    if skip_on_redis("its flags for shards are others") {
        return;
    }
    let data = Data::new();
    let server = data.start(2, "everysec");
    let mut connection = connect(&server);
    fill(&mut connection, 0..20_000);
    let before = data.segments().len();
    save(&mut connection);
    save(&mut connection);
    assert!(data.segments().len() <= before, "what was before the snapshot is used again");
    fill(&mut connection, 20_000..21_000);
    let _: () = connection.del("key:7").expect("DEL");
    assert_eq!(ask(&mut connection, "SET key:8 eight PX 3600000"), "OK");
    thread::sleep(Duration::from_millis(300));
    kill(server);

    let server = data.start(2, "everysec");
    let mut connection = connect(&server);
    assert_eq!(count(&mut connection), 20_999);
    assert_eq!(ask(&mut connection, "GET key:8"), "eight");
    assert_eq!(ask(&mut connection, "GET key:20999"), "20999");
    assert!(connection.ttl::<_, i64>("key:8").expect("TTL") > 3000);
    assert!(!connection.exists::<_, bool>("key:7").expect("EXISTS"));
}

#[test]
fn writes_flushes_and_swaps_go_on_while_a_snapshot_is_taken() {
    if skip_on_redis("its flags for shards are others") {
        return;
    }
    let data = Data::new();
    let mut server = data.start(2, "always");
    for round in 0..4 {
        let mut connection = connect(&server);
        fill(&mut connection, 0..30_000);
        assert_eq!(ask(&mut connection, "BGSAVE"), "Background saving started");
        match round {
            0 => assert_eq!(ask(&mut connection, "FLUSHALL"), "OK"),
            1 => assert_eq!(ask(&mut connection, "SWAPDB 0 3"), "OK"),
            2 => fill(&mut connection, 10_000..40_000),
            _ => assert_eq!(ask(&mut connection, "BGREWRITEAOF"), "Background append only file rewriting scheduled"),
        }
        assert_eq!(ask(&mut connection, &format!("SET round {round}")), "OK");
        if round % 2 == 0 {
            wait_until("the snapshot is taken", || info(&mut connection, "rdb_bgsave_in_progress") == "0");
            assert_eq!(info(&mut connection, "rdb_last_bgsave_status"), "ok");
        }
        kill(server);
        server = data.start(2, "always");
        let mut connection = connect(&server);
        let expected = [1, 1, 40_001, 40_001][round];
        assert_eq!(count(&mut connection), expected, "round {round}");
        assert_eq!(ask(&mut connection, "GET round"), round.to_string());
    }
}

#[test]
fn logging_is_switched_on_and_off_while_it_runs() {
    if skip_on_redis("its files are others") {
        return;
    }
    let data = Data::new();
    let flags = ["--appendonly", "no", "--dir", data.path()];
    std::fs::create_dir(data.folder()).expect("a folder");
    let server = Server::start_sharded(2, &flags);
    let mut connection = connect(&server);
    fill(&mut connection, 0..5_000);
    assert_eq!(ask(&mut connection, "CONFIG SET appendonly yes"), "OK");
    wait_until("a log was begun", || info(&mut connection, "aof_rewrites") == "1");
    fill(&mut connection, 5_000..6_000);
    thread::sleep(Duration::from_millis(300));
    kill(server);
    let server = data.start(2, "everysec");
    let mut connection = connect(&server);
    assert_eq!(count(&mut connection), 6_000);
    assert_eq!(ask(&mut connection, "CONFIG SET appendonly no"), "OK");
    thread::sleep(Duration::from_millis(100));
    fill(&mut connection, 6_000..7_000);
    thread::sleep(Duration::from_millis(100));
    kill(server);
    let server = data.start(2, "everysec");
    let mut connection = connect(&server);
    assert_eq!(count(&mut connection), 6_000, "what came after was not to be kept");
    // There and back: what was changed meanwhile is in the snapshot.
    assert_eq!(ask(&mut connection, "CONFIG SET appendonly no"), "OK");
    fill(&mut connection, 6_000..8_000);
    assert_eq!(ask(&mut connection, "CONFIG SET appendonly yes"), "OK");
    fill(&mut connection, 8_000..9_000);
    wait_until("a log was begun", || info(&mut connection, "aof_rewrites") != "0");
    thread::sleep(Duration::from_millis(300));
    kill(server);
    let server = data.start(2, "everysec");
    assert_eq!(count(&mut connect(&server)), 9_000);
}

#[test]
fn without_a_log_what_was_saved_comes_back() {
    if skip_on_redis("its files are others") {
        return;
    }
    let data = Data::new();
    std::fs::create_dir(data.folder()).expect("a folder");
    let flags = ["--appendonly", "no", "--save", "3600 1", "--dir", data.path()];
    // The last save is that of the end, which save points ask for.
    let server = Server::start_sharded(2, &flags);
    fill(&mut connect(&server), 0..3_000);
    server.signal(Signal::TERM);
    let (status, output) = server.wait_for_exit();
    assert!(status.success(), "{output}");
    let server = Server::start_sharded(2, &flags);
    let mut connection = connect(&server);
    assert_eq!(count(&mut connection), 3_000);
    fill(&mut connection, 3_000..4_000);
    connection.send_packed_command(b"SHUTDOWN NOSAVE\r\n").expect("it is sent");
    let (status, output) = server.wait_for_exit();
    assert!(status.success(), "{output}");
    let server = Server::start_sharded(2, &flags);
    let mut connection = connect(&server);
    assert_eq!(count(&mut connection), 3_000);
    save(&mut connection);
    fill(&mut connection, 3_000..5_000);
    kill(server);
    let server = Server::start_sharded(2, &flags);
    let mut connection = connect(&server);
    assert_eq!(count(&mut connection), 3_000);
    // With a log the next start has all of it too.
    redis::cmd("CONFIG").arg("SET").arg("save").arg("1 1").exec(&mut connection).expect("CONFIG SET");
    fill(&mut connection, 3_000..5_000);
    wait_until("a save point is reached", || info(&mut connection, "rdb_saves") == "1");
    kill(server);
    let server = data.start(2, "always");
    assert_eq!(count(&mut connect(&server)), 5_000);
}

#[test]
fn a_log_that_has_become_long_is_replaced_by_a_snapshot() {
    if skip_on_redis("its files are others") {
        return;
    }
    let data = Data::new();
    let flags = ["--appendonly", "yes", "--auto-aof-rewrite-min-size", "1mb", "--append-segment-size", "4mb"];
    let server = Server::start_sharded(1, &[&flags[..], &["--dir", data.path()]].concat());
    let mut connection = connect(&server);
    let value = vec![b'v'; 100_000];
    for round in 0..4 {
        for key in 0..100 {
            let _: () = connection.set(format!("key:{}", key % 10), &value).expect("SET");
        }
        wait_until("a snapshot was taken", || {
            info(&mut connection, "aof_rewrites").parse::<usize>().expect("a number") > round
        });
    }
    assert!(data.segments().len() < 10, "{:?}", data.segments());
    kill(server);
    let server = data.start(1, "everysec");
    assert_eq!(count(&mut connect(&server)), 10);
}

#[test]
fn a_first_snapshot_that_is_killed_leaves_a_directory_that_starts() {
    if skip_on_redis("its files are others") {
        return;
    }
    let data = Data::new();
    std::fs::create_dir(data.folder()).expect("a folder");
    let flags = ["--appendonly", "no", "--save", "3600 1000000000", "--dir", data.path()];
    for command in ["BGSAVE", "CONFIG SET appendonly yes"] {
        let server = Server::start_sharded(2, &flags);
        let mut connection = connect(&server);
        fill(&mut connection, 0..50_000);
        ask(&mut connection, command);
        thread::sleep(Duration::from_millis(1));
        kill(server);
        let server = Server::start_sharded(2, &flags);
        let found = count(&mut connect(&server));
        assert!(found == 0 || found == 50_000, "{command}: {found}");
        kill(server);
    }
}

/// As Redis does: who asks for an end with a save does not lose what cannot be saved.
#[test]
fn a_shutdown_whose_save_fails_goes_on() {
    if skip_on_redis("the limit would have to be another") {
        return;
    }
    let data = Data::new();
    std::fs::create_dir(data.folder()).expect("a folder");
    let server = Server::start_sharded(2, &["--appendonly", "no", "--save", "3600 1", "--dir", data.path()]);
    let mut connection = connect(&server);
    fill(&mut connection, 0..10_000);
    server.limit_files(Some(4096));
    for command in ["SHUTDOWN", "SHUTDOWN SAVE"] {
        assert!(ask(&mut connection, command).contains("Errors trying to SHUTDOWN"), "{command}");
    }
    assert_eq!(count(&mut connection), 10_000);
    server.limit_files(None);
    connection.send_packed_command(b"SHUTDOWN\r\n").expect("it is sent");
    let (status, output) = server.wait_for_exit();
    assert!(status.success(), "{output}");
    // What was saved is loaded, whatever is to be kept from now on.
    let server = Server::start_sharded(1, &["--appendonly", "no", "--dir", data.path()]);
    assert_eq!(count(&mut connect(&server)), 10_000);
}

#[test]
fn logging_that_is_switched_on_while_it_loads_begins_when_it_has() {
    if skip_on_redis("its files are others") {
        return;
    }
    let data = Data::new();
    std::fs::create_dir(data.folder()).expect("a folder");
    let flags = ["--appendonly", "no", "--save", "3600 1000000000", "--dir", data.path()];
    let server = Server::start_sharded(2, &flags);
    let mut connection = connect(&server);
    fill(&mut connection, 0..200_000);
    save(&mut connection);
    kill(server);
    let server = Server::start_loading(2, &flags);
    let mut connection = connect(&server);
    assert_eq!(ask(&mut connection, "CONFIG SET appendonly yes"), "OK");
    wait_until("a log was begun", || info(&mut connection, "aof_rewrites") == "1");
    assert_eq!(ask(&mut connection, "SET new 1"), "OK");
    thread::sleep(Duration::from_millis(300));
    kill(server);
    let server = data.start(2, "everysec");
    assert_eq!(count(&mut connect(&server)), 200_001);
}

#[test]
fn logging_is_switched_to_and_fro() {
    if skip_on_redis("its files are others") {
        return;
    }
    let data = Data::new();
    let server = data.start(3, "everysec");
    let mut connection = connect(&server);
    for round in 0..8 {
        assert_eq!(ask(&mut connection, "CONFIG SET appendonly no"), "OK");
        fill(&mut connection, round * 20..round * 20 + 20);
        assert_eq!(ask(&mut connection, "CONFIG SET appendonly yes"), "OK");
        if round % 2 == 0 {
            assert_eq!(ask(&mut connection, "FLUSHALL"), "OK");
        }
        let rewrites = (round + 1).to_string();
        wait_until("a log was begun", || info(&mut connection, "aof_rewrites") == rewrites);
        assert_eq!(info(&mut connection, "aof_last_bgrewrite_status"), "ok");
    }
    let expected = count(&mut connection);
    thread::sleep(Duration::from_millis(300));
    kill(server);
    let server = data.start(3, "everysec");
    assert_eq!(count(&mut connect(&server)), expected);
}
