//! `maxmemory` of the real process: what is resident stays near it however much is written, all shards share it, and
//! flags, files and CONFIG SET set it. What is let in and refused in detail is in `engine/tests/memory.rs`.

mod common;

use std::collections::HashMap;

use common::random::Random;
use common::server::{ConfigFile, Server, wait_until};
use common::skip_on_redis;
use redis::{Connection, ConnectionLike, Pipeline, RedisError, Value};
use rustix::process::Signal;

const MIB: u64 = 1 << 20;

fn connect(server: &Server, protocol: &str) -> Connection {
    let url = format!("redis://127.0.0.1:{}/?protocol={protocol}", server.port());
    redis::Client::open(url).expect("a good URL").get_connection().expect("the server listens")
}

fn info(connection: &mut Connection, name: &str) -> u64 {
    let text: String = redis::cmd("INFO").query(connection).expect("INFO answers");
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("INFO has no {name}")).parse().expect("a number")
}

/// Sets so many keys with values of mixed lengths, up to 4000 bytes and some of 100 KB; how many bytes those were.
fn churn(connection: &mut Connection, random: &mut Random, sets: usize) -> Result<u64, RedisError> {
    let value = vec![b'v'; 100_000];
    let mut bytes = 0;
    for _ in 0..sets / 100 {
        let mut pipeline = Pipeline::new();
        for _ in 0..100 {
            let long = if random.below(500) == 0 { value.len() } else { 0 };
            let len = long.max(random.below(4_000) as usize);
            bytes += len as u64;
            pipeline.cmd("SET").arg(format!("key:{}", random.below(1_000_000))).arg(&value[..len]).ignore();
        }
        pipeline.query::<()>(connection)?;
    }
    Ok(bytes)
}

#[test]
#[cfg_attr(asan, ignore = "what AddressSanitizer keeps is resident too")]
fn resident_memory_stays_near_maxmemory_under_churn() {
    const BUDGET: u64 = 128 * MIB;
    // What is resident beside what is used, whatever the budget: of every size of entry a page that is not full (12 MiB a
    // shard), buffers kept for reuse (10), those of the rings, what the allocator keeps of long values.
    const BESIDE: u64 = 2 * 48 * MIB;
    let server = Server::start_sharded(2, &["--maxmemory", "128mb", "--maxmemory-policy", "allkeys-random"]);
    let mut connection = connect(&server, "resp2");
    let mut random = Random(7);
    let (mut written, mut most, mut used_when_full) = (0, 0, Vec::new());
    while written < 4 * BUDGET {
        written += churn(&mut connection, &mut random, 2_000).expect("keys are evicted, nothing is refused");
        let used = info(&mut connection, "used_memory");
        assert!(used <= BUDGET + MIB, "{used} bytes are used");
        most = most.max(server.resident_bytes());
        if written > BUDGET {
            used_when_full.push(used);
        }
    }
    // Not at every moment: some of it is held back while the process is a little too large.
    let used = used_when_full.iter().sum::<u64>() / used_when_full.len() as u64;
    assert!(used > BUDGET / 10 * 9, "of the budget only {used} bytes are used: {used_when_full:?}");
    assert!(info(&mut connection, "evicted_keys") > 10_000);
    assert!(most < BUDGET / 10 * 11 + BESIDE, "{most} bytes were resident");

    redis::cmd("CONFIG").arg("SET").arg("maxmemory").arg("16mb").exec(&mut connection).expect("it may be lowered");
    wait_until("what is above is evicted", || info(&mut connection, "used_memory") <= 16 * MIB);
    redis::cmd("FLUSHALL").exec(&mut connection).expect("FLUSHALL");
    if skip_on_redis("it has no leases") {
        return;
    }
    wait_until("leases go back", || {
        info(&mut connection, "torc_shard0_leased_memory") + info(&mut connection, "torc_shard1_leased_memory") < MIB
    });
}

/// Sets so many keys with values of one length, ten at a time; how many were refused.
fn set_all(connection: &mut Connection, prefix: &str, keys: usize, len: usize, at_once: usize) -> usize {
    let value = vec![b'v'; len];
    let mut refused = 0;
    for first in (0..keys).step_by(at_once) {
        let mut bytes = Vec::new();
        for key in first..first + at_once {
            bytes.extend(redis::cmd("SET").arg(format!("{prefix}:{key}")).arg(&value[..]).get_packed_command());
        }
        let replies = connection.req_packed_commands(&bytes, 0, at_once);
        match replies {
            Ok(replies) => refused += replies.iter().filter(|reply| !matches!(reply, Value::Okay)).count(),
            Err(_) => refused += 1,
        }
    }
    refused
}

/// The reaper is of the lowest priority, and what waits for it may be 1 GiB a shard whatever `maxmemory` is; that
/// is resident, so the budget is held back, more is evicted, and more waits.
#[test]
#[cfg_attr(asan, ignore = "what AddressSanitizer keeps is resident too")]
fn values_that_wait_to_be_dropped_are_bounded_by_maxmemory() {
    const BUDGET: u64 = 100 * MIB;
    let server = Server::start_sharded(2, &["--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru"]);
    let (mut most, mut least) = (0, u64::MAX);
    let port = server.port();
    let clients: Vec<_> = (0..8)
        .map(|client| {
            std::thread::spawn(move || {
                let url = format!("redis://127.0.0.1:{port}/");
                let mut connection = redis::Client::open(url).unwrap().get_connection().unwrap();
                set_all(&mut connection, &format!("c{client}"), 1_200, 300_000, 4)
            })
        })
        .collect();
    let mut connection = connect(&server, "resp2");
    let mut evicted = false;
    while clients.iter().any(|client| !client.is_finished()) {
        most = most.max(server.resident_bytes());
        evicted |= info(&mut connection, "evicted_keys") > 1_000;
        if evicted {
            least = least.min(info(&mut connection, "used_memory"));
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let refused: usize = clients.into_iter().map(|client| client.join().unwrap()).sum();
    assert_eq!(refused, 0, "refused although everything may be evicted");
    let (most, least) = (most / MIB, least / MIB);
    assert!(most < BUDGET / MIB * 11 / 10 + 2 * 64, "{most} MiB were resident of 100; {least} MiB were used at least");
    assert!(least > BUDGET / MIB / 2, "only {least} MiB of 100 were used");
}

/// Redis never refuses a write while something may be evicted.
#[test]
fn large_values_after_small_ones_are_not_refused_while_keys_may_be_evicted() {
    let server = Server::start_sharded(2, &["--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru"]);
    let mut connection = connect(&server, "resp2");
    assert_eq!(set_all(&mut connection, "small", 700_000, 100, 5_000), 0);
    assert_eq!(set_all(&mut connection, "large", 300, 1_000_000, 10), 0);
}

/// The buffers that a long value outgrew while it arrived are as much as itself, and the server has nothing to do then.
#[test]
fn what_a_long_value_outgrew_is_given_back_by_an_idle_server() {
    let server = Server::start_sharded(1, &[]);
    let mut connection = connect(&server, "resp2");
    let before = server.resident_bytes();
    redis::cmd("SET").arg("long").arg(vec![b'l'; 256 << 20]).exec(&mut connection).expect("SET");
    redis::cmd("DEL").arg("long").exec(&mut connection).expect("DEL");
    wait_until("its memory is back", || server.resident_bytes() < before + 48 * MIB);
}

#[test]
#[cfg_attr(asan, ignore = "what AddressSanitizer keeps is resident too")]
fn writes_are_refused_on_every_shard_when_nothing_is_evicted() {
    let server = Server::start_sharded(2, &["--maxmemory", "8mb"]);
    let mut connection = connect(&server, "resp3");
    let mut random = Random(8);
    let error = churn(&mut connection, &mut random, 10_000).expect_err("8 MiB are less than 20");
    let text = error.to_string();
    assert!(text.contains("command not allowed when used memory > 'maxmemory'."), "{text}");
    let used = info(&mut connection, "used_memory");
    assert!((7 * MIB..9 * MIB).contains(&used), "{used} bytes are used");
    assert!(redis::cmd("DBSIZE").query::<u64>(&mut connection).expect("reads go on") > 1_000);

    redis::cmd("CONFIG").arg("SET").arg("maxmemory-policy").arg("allkeys-lru").exec(&mut connection).expect("a policy");
    churn(&mut connection, &mut random, 5_000).expect("now keys are evicted");
    redis::cmd("FLUSHALL").exec(&mut connection).expect("it needs no memory");
}

#[test]
fn a_file_and_flags_set_it_and_too_little_is_warned_of() {
    if skip_on_redis("it has no shards") {
        return;
    }
    let log = ConfigFile::new("");
    let lines = "maxmemory 1mb\nmaxmemory-policy allkeys-s3fifo\nmaxmemory-clients 50%\n";
    let file = ConfigFile::new(&format!("{lines}logfile {}\n", log.path.display()));
    let server = Server::start_with_file(&file, &["--cores", "0,0", "--lfu-log-factor", "5"]);
    let mut connection = connect(&server, "resp3");
    let settings: HashMap<String, String> =
        redis::cmd("CONFIG").arg("GET").arg("maxmemory*").arg("lfu*").query(&mut connection).expect("a map");
    for (name, value) in [
        ("maxmemory", "1048576"),
        ("maxmemory-policy", "allkeys-s3fifo"),
        ("maxmemory-clients", "50%"),
        ("lfu-log-factor", "5"),
    ] {
        assert_eq!(settings.get(name).map(String::as_str), Some(value), "{name}");
    }
    server.signal(Signal::TERM);
    let (status, _) = server.wait_for_exit();
    let logged = std::fs::read_to_string(&log.path).expect("the log is text");
    assert!(status.success() && logged.contains("maxmemory of 1048576 bytes, and 2 shards want 2097152"), "{logged}");
}

#[test]
fn memory_stats_is_a_map_of_numbers() {
    let server = Server::start_sharded(2, &["--maxmemory", "64mb"]);
    for protocol in ["resp2", "resp3"] {
        let mut connection = connect(&server, protocol);
        redis::cmd("SET").arg("key").arg("value").exec(&mut connection).expect("SET");
        let stats: HashMap<String, Value> =
            redis::cmd("MEMORY").arg("STATS").query(&mut connection).expect("a map, or an array of pairs");
        assert_eq!(stats["keys.count"], Value::Int(1));
        let Value::Int(total) = stats["total.allocated"] else { panic!("{stats:?}") };
        assert!(total > 0 && stats.contains_key("db.0"));
        let fragmentation = match &stats["fragmentation"] {
            Value::Double(ratio) => *ratio,
            Value::BulkString(text) => std::str::from_utf8(text).expect("text").parse().expect("a number"),
            other => panic!("{other:?}"),
        };
        assert!(fragmentation > 0.0);
    }
}
