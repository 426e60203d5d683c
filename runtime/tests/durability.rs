//! What the real process keeps when it stops, is killed, or finds its files damaged. The formats and what follows from damage
//! are tested beside `engine/src/log/`; which replies wait, in `engine/tests/durability.rs`.

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::data::{Data, connect, kill};
use common::server::{Server, free_port, run_refused, wait_until};
use common::skip_on_redis;
use redis::{Commands, Connection, Value};
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
    for named in
        ["the log of shard 0", data.path(), "wal-1-0-000001.log", "offset 40960", "were durable", "Nothing was changed"]
    {
        assert!(output.contains(named), "{named} is not in: {output}");
    }
    assert_eq!(data.segments(), before);
    assert_eq!(fs::read(&segment).expect("the log"), damaged);
}

#[test]
fn a_directory_serves_one_process() {
    if skip_on_redis("its flags are others") {
        return;
    }
    let data = Data::new();
    let server = data.start(1, "everysec");
    let flags = ["--cores", "0", "--appendonly", "yes", "--dir", data.path()];
    let (status, output) = run_refused(None, free_port(), &flags);
    assert!(!status.success() && output.contains("is in use by the process"), "{output}");
    kill(server);
    assert!(Path::new(data.path()).join("CURRENT").exists());
    let server = data.start(1, "everysec");
    let mut connection = connect(&server);
    assert_eq!(redis::cmd("PING").query::<Value>(&mut connection).expect("PONG"), Value::SimpleString("PONG".into()));
}

/// The CRC-32 of the formats.
fn crc32(bytes: impl Iterator<Item = u8>) -> [u8; 4] {
    let step = |crc: u32| (0..8).fold(crc, |crc, _| crc >> 1 ^ if crc & 1 == 1 { 0xedb8_8320 } else { 0 });
    (!bytes.fold(u32::MAX, |crc, byte| step(crc ^ u32::from(byte)))).to_le_bytes()
}

#[test]
fn a_directory_of_another_version_is_refused() {
    if skip_on_redis("its files are others") {
        return;
    }
    let data = Data::new();
    drop(data.start(1, "everysec"));
    let server = data.start(1, "everysec");
    let _: () = connect(&server).set("key", "v").expect("SET");
    server.signal(Signal::TERM);
    server.wait_for_exit();
    let names = fs::read_dir(data.folder()).expect("a directory").map(|entry| entry.expect("an entry").path());
    let is_manifest = |path: &PathBuf| path.to_str().expect("text").contains("MANIFEST-");
    let manifest = names.into_iter().find(is_manifest).expect("a manifest");
    let segment = data.segments().remove(0);
    let shown = ["written by another version of Torc", "version 2", "version 1", "start the version that wrote it"];
    for (path, version_at, crc_at) in [(manifest, 8, 12), (segment, 12, 8)] {
        let before = fs::read(&path).expect("a file");
        let mut changed = before.clone();
        changed[version_at] = 2;
        let crc = match crc_at {
            8 => crc32(changed[12..4096].iter().copied()),
            _ => crc32(changed[..12].iter().chain(&changed[16..]).copied()),
        };
        changed[crc_at..][..4].copy_from_slice(&crc);
        fs::write(&path, &changed).expect("write");
        let flags = ["--cores", "0", "--appendonly", "yes", "--dir", data.path()];
        let (status, output) = run_refused(None, free_port(), &flags);
        assert!(!status.success());
        for part in shown.iter().chain(&[data.path()]) {
            assert!(output.contains(part), "{part} is not in: {output}");
        }
        assert_eq!(fs::read(&path).expect("a file"), changed, "nothing was changed");
        fs::write(&path, &before).expect("write");
    }
    drop(data.start(1, "everysec"));
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

/// The lines of a server's INFO persistence.
fn persistence(connection: &mut Connection) -> String {
    redis::cmd("INFO").arg("persistence").query(connection).expect("INFO")
}

#[test]
fn a_full_disk_loses_nothing_that_was_acknowledged() {
    if skip_on_redis("its files are others") {
        return;
    }
    let data = Data::new();
    let server = data.start_telling(2, "everysec");
    let mut connection = connect(&server);
    let value = vec![b'v'; 20_000];
    let mut kept = Vec::new();
    for key in 0..100 {
        kept.push(format!("early:{key}"));
        let _: () = connection.set(&kept[key], &value).expect("SET");
    }
    // The third segments are longer.
    server.limit_files(Some(9 << 20));
    let error = (0..2_000).find_map(|key| {
        let key = format!("key:{key}");
        let result: redis::RedisResult<()> = connection.set(&key, &value);
        let error = result.err();
        kept.extend(error.is_none().then_some(key));
        error
    });
    let text = error.expect("there is no room for all").to_string();
    assert!(text.contains("MISCONF"), "{text}");
    assert!(persistence(&mut connection).contains("aof_last_write_status:err"));
    // Those that free memory are let in while there is room.
    let removed: usize = connection.del(&kept[0]).expect("DEL");
    assert_eq!(removed, 1);
    let found: Vec<u8> = connection.get(&kept[1]).expect("GET");
    assert_eq!(found, value);
    server.signal(Signal::TERM);
    let (status, output) = server.wait_for_exit();
    assert!(status.success(), "{output}");
    let output = data.messages();
    assert!(output.contains("File too large") && output.contains("ulimit -f"), "{output}");

    let server = data.start(2, "everysec");
    let mut connection = connect(&server);
    let keys: usize = redis::cmd("DBSIZE").query(&mut connection).expect("DBSIZE");
    assert_eq!(keys, kept.len() - 1);
    // Where there is room again writes go on.
    server.limit_files(Some(6 << 20));
    let mut is_refused = false;
    for key in 0..2_000 {
        let result: redis::RedisResult<()> = connection.set(format!("key:{key}"), &value);
        is_refused |= result.is_err();
    }
    assert!(is_refused);
    server.limit_files(None);
    wait_until("writes go on", || {
        let mut is_taken = |key: &str| connection.set::<_, _, ()>(key, "v").is_ok();
        is_taken("{user:1}") && is_taken("{user:7}")
    });
    assert!(persistence(&mut connection).contains("aof_last_write_status:ok"));
    kill(server);
}

#[test]
fn a_log_that_fails_ends_writes_or_the_process() {
    if skip_on_redis("its messages are others") {
        return;
    }
    let data = Data::new();
    let server = data.start_telling(1, "everysec");
    let mut connection = connect(&server);
    let _: () = connection.set("kept", "v").expect("SET");
    std::thread::sleep(std::time::Duration::from_millis(300));
    // Nothing may be written where the log goes on.
    server.limit_files(Some(4096));
    let _: () = connection.set("lost", "v").expect("it is acknowledged before it is written");
    wait_until("writes are refused", || connection.set::<_, _, ()>("refused", "v").is_err());
    let found: String = connection.get("kept").expect("reads go on");
    assert_eq!(found, "v");
    assert!(persistence(&mut connection).contains("aof_last_write_status:err"));
    server.signal(Signal::TERM);
    let (status, output) = server.wait_for_exit();
    assert_eq!(status.code(), Some(1), "{output}");
    let output = data.messages();
    for part in ["the log /", "wal-1-0-000001.log failed", "dmesg", "LOST: the last", "changes of shard 0, records"] {
        assert!(output.contains(part), "{part} is not in: {output}");
    }

    let server = data.start(1, "always");
    let mut connection = connect(&server);
    server.limit_files(Some(4096));
    let result: redis::RedisResult<()> = connection.set("unacknowledged", "v");
    assert!(result.is_err());
    let (status, output) = server.wait_for_exit();
    assert_eq!(status.code(), Some(1), "{output}");
    assert!(output.contains("under appendfsync always nothing can be acknowledged any more"), "{output}");
    let server = data.start(1, "always");
    let keys: usize = redis::cmd("DBSIZE").query(&mut connect(&server)).expect("DBSIZE");
    assert_eq!(keys, 1);
}

#[test]
fn starts_leave_nothing_behind_that_is_not_needed() {
    if skip_on_redis("its files are others") {
        return;
    }
    let data = Data::new();
    let used = || -> (usize, u64) {
        let entries = fs::read_dir(data.folder()).expect("a directory").map(|entry| entry.expect("an entry"));
        let bytes: Vec<u64> = entries.map(|entry| entry.metadata().expect("a file").len()).collect();
        (bytes.len(), bytes.iter().sum())
    };
    // Nothing at all was written, then something each second time.
    for (writes, segments) in [(false, 0), (true, 8)] {
        for round in 0..8 {
            let server = data.start(2, "everysec");
            if writes && round % 2 == 0 {
                let mut connection = connect(&server);
                for tag in ["{user:1}", "{user:7}"] {
                    let _: () = connection.set(format!("{tag}{round}"), "v").expect("SET");
                }
                std::thread::sleep(std::time::Duration::from_millis(100));
            }
            match round % 4 {
                0 | 3 => kill(server),
                _ => {
                    server.signal(Signal::TERM);
                    let (status, output) = server.wait_for_exit();
                    assert!(status.success(), "{output}");
                }
            }
        }
        drop(data.start(2, "everysec"));
        wait_until("what is not needed is gone", || {
            let (files, bytes) = used();
            // CURRENT, LOCK, MANIFEST and the folder of free files; and the next segments, which may be there.
            let manifests = files - data.segments().len();
            manifests <= 4
                && data.segments().len() <= segments + 4
                && bytes < (25 << 20) + ((segments as u64 * 16) << 10)
        });
    }
    let server = data.start(2, "everysec");
    let keys: usize = redis::cmd("DBSIZE").query(&mut connect(&server)).expect("DBSIZE");
    assert_eq!(keys, 8);
    let ended: Vec<u64> = data.segments().iter().map(|path| fs::metadata(path).expect("a file").len()).collect();
    assert!(ended.iter().filter(|&&bytes| bytes < 64 << 10).count() >= 7, "{ended:?}");
}

/// Who keeps nothing may be started where another one serves its data.
#[test]
fn a_second_server_in_a_folder_keeps_nothing_if_it_is_told_so() {
    if skip_on_redis("its files are others") {
        return;
    }
    let data = Data::new();
    let first = data.start(1, "always");
    let _: () = connect(&first).set("key", "v").expect("SET");
    let second = Server::start_sharded(1, &["--appendonly", "no", "--dir", data.path()]);
    let keys: usize = redis::cmd("DBSIZE").query(&mut connect(&second)).expect("DBSIZE");
    assert_eq!(keys, 0);
    let saved: redis::RedisResult<()> = redis::cmd("SAVE").query(&mut connect(&second));
    assert!(saved.is_err());
}
