//! DEBUG, as tests of other programs use it, and big values whose memory goes back without a shard's doing.

mod common;

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use common::client::Client;
use common::server::{Server, wait_until};
use common::skip_on_redis;
use common::want::Want::{Error, Int, Status};

const REFUSED: &str = "ERR DEBUG command not allowed. If the enable-debug-command option is set to \"local\", you can run \
                       it from a local connection, otherwise you need to set this option in the configuration file, and \
                       then restart the server.";

#[test]
fn only_who_is_named_may_debug() {
    let server = Server::start_sharded(2, &[]);
    let mut client = Client::connect(server.address());
    for line in ["DEBUG SLEEP 0", "DEBUG HELP", "DEBUG NOSUCH"] {
        client.check(line, &Error(REFUSED));
    }
    client.check("DEBUG", &Error("ERR wrong number of arguments for 'debug' command"));
    let why =
        "ERR CONFIG SET failed (possibly related to argument 'enable-debug-command') - can't set immutable config";
    client.check("CONFIG SET enable-debug-command yes", &Error(why));

    for value in ["local", "yes"] {
        let server = Server::start_sharded(2, &["--enable-debug-command", value, "--requirepass", "secret"]);
        let mut client = Client::connect(server.address());
        client.check("DEBUG SLEEP 0", &Error("NOAUTH Authentication required."));
        client.check("AUTH secret", &Status("OK"));
        client.check("DEBUG SLEEP 0", &Status("OK"));
    }
}

/// All shards sleep, at the same time: every client waits about as long as the one that asked.
#[test]
fn sleep_holds_everybody_up() {
    const SLEEP: Duration = Duration::from_millis(600);
    for shards in [1, 3] {
        let server = Server::start_sharded(shards, &["--enable-debug-command", "local"]);
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            // As many connections as there are on each shard several.
            let others: Vec<_> = (0..2 * shards)
                .map(|_| {
                    scope.spawn(|| {
                        let mut client = Client::connect(server.address());
                        let mut longest = Duration::ZERO;
                        while !done.load(Ordering::Relaxed) {
                            let start = Instant::now();
                            client.check("PING", &Status("PONG"));
                            longest = longest.max(start.elapsed());
                        }
                        longest
                    })
                })
                .collect();
            let mut client = Client::connect(server.address());
            let start = Instant::now();
            client.check("DEBUG SLEEP 0.6", &Status("OK"));
            assert!(start.elapsed() >= SLEEP);
            // Behind it in a pipeline nothing overtakes it.
            let start = Instant::now();
            client.send_bytes(b"DEBUG SLEEP 0.1\r\nPING\r\n");
            assert_eq!(client.read_reply(), b"+OK\r\n");
            assert_eq!(client.read_reply(), b"+PONG\r\n");
            assert!(start.elapsed() >= Duration::from_millis(100));
            done.store(true, Ordering::Relaxed);
            for other in others {
                let longest = other.join().expect("every PING is answered");
                assert!(longest >= SLEEP / 2, "{shards} shards: one was held up for {longest:?} only");
            }
        });
    }
}

/// A long sleep does not outlive the wish to stop.
#[test]
fn sleep_ends_when_the_server_is_to_stop() {
    if skip_on_redis("it sleeps to the end") {
        return;
    }
    let server = Server::start_sharded(2, &["--enable-debug-command", "yes"]);
    Client::connect(server.address()).send_bytes(b"DEBUG SLEEP 3000\r\n");
    let patience = Some(Duration::from_millis(300));
    wait_until("the server sleeps", || {
        let mut client = Client::connect(server.address());
        client.stream().set_read_timeout(patience).expect("not zero");
        client.send_bytes(b"PING\r\n");
        client.try_read_reply().is_err()
    });
    let start = Instant::now();
    server.signal(Signal::TERM);
    let (status, output) = server.wait_for_exit();
    assert!(status.success(), "{status}\n{output}");
    assert!(start.elapsed() < Duration::from_secs(60), "{:?}", start.elapsed());
}

/// The memory of a big value goes back to the system, without anybody saying anything more, and no shard has the work.
#[test]
fn the_memory_of_big_values_goes_back() {
    if skip_on_redis("its allocator gives back at once") {
        return;
    }
    const BYTES: usize = 128 << 20;
    let server = Server::start_sharded(2, &[]);
    let mut client = Client::connect(server.address());
    let value = vec![b'v'; BYTES];
    for (command, reply) in [
        ("DEL k", Int(1)),
        ("UNLINK k", Int(1)),
        ("SET k short", Status("OK")),
        ("FLUSHALL SYNC", Status("OK")),
        ("FLUSHALL ASYNC", Status("OK")),
    ] {
        assert_eq!(client.call(&[b"SET", b"k", &value]), b"+OK\r\n");
        let held = server.resident_bytes();
        client.check(command, &reply);
        wait_until("the memory goes back", || server.resident_bytes() + BYTES as u64 / 10 * 9 < held);
    }
    // A reply that is under way holds the value longer than the store does.
    assert_eq!(client.call(&[b"SET", b"k", &value]), b"+OK\r\n");
    let mut reader = Client::connect(server.address());
    reader.send_bytes(b"GET k\r\n");
    wait_until("the reply begins", || {
        let mut byte = [0];
        reader.stream().peek(&mut byte).expect("connected") == 1
    });
    let held = server.resident_bytes();
    client.check("DEL k", &Int(1));
    assert_eq!(reader.read_reply().len(), BYTES + format!("${BYTES}\r\n\r\n").len());
    wait_until("the memory goes back", || server.resident_bytes() + BYTES as u64 / 10 * 9 < held);
}
