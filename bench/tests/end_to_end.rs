//! The binary against the floor, and against servers which are dead, wrong or silent: what it reports and
//! with which exit status. Each test uses its own free loopback port.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Output};
use std::thread;
use std::time::{Duration, Instant};

const BENCH: &str = env!("CARGO_BIN_EXE_torc-bench");

struct Floor {
    child: Child,
    port: u16,
}

impl Floor {
    fn start(arguments: &[&str]) -> Floor {
        let port = free_port();
        let child = Command::new(BENCH).args(["floor", "--port", &port.to_string()]).args(arguments).spawn().unwrap();
        let start = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(start.elapsed() < Duration::from_secs(10), "the floor does not listen");
            thread::sleep(Duration::from_millis(5));
        }
        Floor { child, port }
    }
}

impl Drop for Floor {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn run(port: u16, arguments: &str) -> Output {
    let port = port.to_string();
    Command::new(BENCH).args(["run", "--port", &port]).args(arguments.split_whitespace()).output().unwrap()
}

#[track_caller]
fn check_success(output: &Output) {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[track_caller]
fn check_failure(output: &Output, reason: &str) {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{errors}");
    assert!(errors.contains(reason), "'{reason}' not in '{errors}'");
}

#[test]
fn every_floor_answers_every_kind_of_load() {
    for floor in ["--kind uring", "--kind uring --send ring", "--kind epoll"] {
        for (command, value_size) in [("get", 32), ("set", 32), ("incr", 32), ("mget:3", 10), ("get", 100_000)] {
            let shape = format!("--command {command} --value-size {value_size}");
            let arguments = format!("{floor} {shape}");
            let floor = Floor::start(&arguments.split_whitespace().collect::<Vec<_>>());
            let pid = floor.child.id();
            for size in ["--pipeline 1 --connections 3", "--pipeline 16 --connections 8 --threads 2"] {
                let load = format!("{shape} {size} --pid {pid} --seconds 0.1 --warmup 0.02");
                check_success(&run(floor.port, &load));
            }
        }
    }
}

#[test]
fn exactly_the_asked_number_of_requests_is_sent() {
    let floor = Floor::start(&[]);
    let output = run(floor.port, "--requests 10007 --pipeline 16 --connections 7 --threads 3 --json");
    check_success(&output);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["requests"], 10_007);
    let latency = &report["latency_us"];
    let of = |name: &str| latency[name].as_f64().unwrap();
    assert!(0.0 < of("p50") && of("p50") <= of("p99") && of("p99") <= of("p99.9") && of("p99.9") <= of("max"));
}

#[test]
fn verification_sees_that_the_floor_has_no_table() {
    let floor = Floor::start(&[]);
    check_failure(&run(floor.port, "--seconds 0.2 --verify"), "wrong reply");
}

#[test]
fn a_dead_server_is_reported() {
    check_failure(&run(free_port(), "--seconds 0.2"), "dead server");
}

#[test]
fn a_server_which_dies_is_reported() {
    let floor = Floor::start(&[]);
    let port = floor.port;
    let load = thread::spawn(move || run(port, "--seconds 20"));
    thread::sleep(Duration::from_millis(300));
    drop(floor);
    check_failure(&load.join().unwrap(), "dead server");
}

/// A server which answers the first request of each connection with `reply` and then only listens.
fn serve_once(reply: &'static [u8]) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            thread::spawn(move || {
                let mut input = [0; 65_536];
                let _ = stream.read(&mut input);
                let _ = stream.write_all(reply);
                while stream.read(&mut input).is_ok_and(|bytes| bytes > 0) {}
            });
        }
    });
    port
}

#[test]
fn a_wrong_reply_is_reported() {
    for reply in [&b"-ERR no\r\n"[..], b"+OK\r\n", b"$2\r\nab\r\n", b"hello\r\n", b"$3\r\nabc\r\n$3\r\nabc\r\n"] {
        check_failure(&run(serve_once(reply), "--value-size 3 --seconds 1 --connections 1"), "wrong reply");
    }
}

#[test]
fn a_missing_reply_is_reported() {
    for reply in [&b""[..], b"$3\r\nab"] {
        let output = run(serve_once(reply), "--value-size 3 --seconds 5 --connections 2 --timeout 0.2");
        check_failure(&output, "missing reply");
    }
}

#[test]
fn wrong_usage_has_its_own_exit_status() {
    for arguments in ["--command flushall", "--key-size 5 --keys 100", "--connections 1 --threads 2", "--seconds -1"] {
        assert_eq!(run(1, arguments).status.code(), Some(2), "{arguments}");
    }
}
