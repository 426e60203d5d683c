//! The binary against the floor, and against servers which are dead, wrong or silent: what it reports and
//! with which exit status. Each test uses its own free loopback port.

use serde_json::Value;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
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

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap()
}

/// A file of this test's own in the temporary folder.
fn own_file(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("torc-bench-test-{}-{name}", std::process::id()))
}

fn run_with(arguments: &str) -> Output {
    Command::new(BENCH).args(arguments.split_whitespace()).output().unwrap()
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
    let report = json(&output);
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
    for reply in [&b"+OK\r\n"[..], b"$2\r\nab\r\n", b"hello\r\n", b"$3\r\nabc\r\n$3\r\nabc\r\n"] {
        check_failure(&run(serve_once(reply), "--value-size 3 --seconds 1 --connections 1"), "wrong reply");
    }
}

/// A server which answers each read with `reply`, the first one after `pause`.
fn serve(mut stream: impl Read + Write, reply: &[u8], pause: Duration) {
    let mut input = [0; 65_536];
    let mut pause = Some(pause);
    while stream.read(&mut input).is_ok_and(|bytes| bytes > 0) {
        thread::sleep(pause.take().unwrap_or_default());
        if stream.write_all(reply).is_err() {
            return;
        }
    }
}

fn serve_always(reply: &'static [u8], pause: Duration) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for stream in listener.incoming() {
            thread::spawn(move || serve(stream.unwrap(), reply, pause));
        }
    });
    port
}

#[test]
fn error_replies_are_counted_by_kind_and_fail_the_run() {
    let port = serve_always(b"-OOM command not allowed\r\n", Duration::ZERO);
    let output = run(port, "--requests 7 --connections 1 --json");
    check_failure(&output, "wrong reply: 7 error replies: OOM 7 times");
    let report = json(&output);
    assert_eq!((&report["errors"]["OOM"], &report["requests"]), (&7.into(), &7.into()));
}

/// What was due while the server stood still is late, each request of it, although none was sent meanwhile.
#[test]
fn an_open_loop_omits_nothing() {
    let port = serve_always(b"$3\r\nabc\r\n", Duration::from_millis(400));
    let load = "--value-size 3 --connections 1 --requests 100 --json";
    let late = |output: Output| {
        check_success(&output);
        let report = json(&output);
        assert_eq!(report["requests"], 100);
        let buckets = report["latency_histogram"].as_array().unwrap().clone();
        let is_late = |bucket: &&Value| bucket[0].as_f64().unwrap() >= 100_000.0;
        buckets.iter().filter(is_late).map(|bucket| bucket[2].as_f64().unwrap() as u64).sum::<u64>()
    };
    assert_eq!(late(run(port, load)), 1, "a closed loop sees one slow reply");
    let open = late(run(port, &format!("{load} --rate 200")));
    assert!(open >= 50, "{open} of the 60 requests which were due in the first 300 ms are late");
}

#[test]
fn an_open_loop_keeps_its_pace_and_says_when_it_cannot() {
    let floor = Floor::start(&[]);
    for arrivals in ["even", "poisson"] {
        let output = run(floor.port, &format!("--rate 3000 --arrivals {arrivals} --requests 300 --pipeline 4 --json"));
        check_success(&output);
        assert_eq!(json(&output)["requests"], 300);
    }
    let slow = serve_always(b"$3\r\nabc\r\n", Duration::from_millis(500));
    let output = run(slow, "--value-size 3 --connections 1 --rate 1000 --warmup 0 --seconds 0.2 --json");
    check_success(&output);
    assert!(String::from_utf8_lossy(&output.stderr).contains("the rate was not kept"));
    // The one that was sent, and all that were due behind it, although none was answered in time.
    let report = json(&output);
    let buckets = report["latency_histogram"].as_array().unwrap();
    let counted: f64 = buckets.iter().map(|bucket| bucket[2].as_f64().unwrap()).sum();
    assert!(counted >= 150.0 && report["latency_us"]["p50"].as_f64().unwrap() >= 50_000.0, "{counted}");
}

#[test]
fn a_socket_file_is_as_good_as_a_port() {
    let path = own_file("socket");
    let listener = UnixListener::bind(&path).unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            thread::spawn(move || serve(stream.unwrap(), b"+OK\r\n", Duration::ZERO));
        }
    });
    let load = ["run", "--unix", path.to_str().unwrap(), "--command", "set", "--connections", "2", "--requests", "50"];
    check_success(&Command::new(BENCH).args(load).output().unwrap());
    let _ = std::fs::remove_file(&path);
    check_failure(&Command::new(BENCH).args(load).output().unwrap(), "dead server");
}

/// A server which takes connections no more must not hang the generator.
#[test]
fn a_full_socket_file_ends_in_an_error() {
    let path = own_file("full-socket");
    let listener = UnixListener::bind(&path).unwrap();
    // The kernel queues some connections that nobody accepts, and then lets connect(2) wait.
    let load = format!("run --unix {} --connections 5000 --timeout 0.3 --requests 1", path.display());
    let output = run_with(&load);
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
    drop(listener);
    let _ = std::fs::remove_file(&path);
}

/// One of two servers ends; the other would go on for a minute.
#[test]
fn one_dead_server_of_several_ends_the_run() {
    let dead = serve_once(b"$3\r\nabc\r\n+OK\r\n");
    let alive = serve_always(b"$3\r\nabc\r\n", Duration::ZERO);
    let load =
        format!("run --port {dead},{alive} --threads 2 --connections 4 --value-size 3 --rate 50 --requests 3000");
    let start = Instant::now();
    assert_eq!(run_with(&load).status.code(), Some(1));
    assert!(start.elapsed() < Duration::from_secs(30), "a minute would be the whole load");
}

#[test]
fn memcached_is_understood() {
    let load = "--protocol memcache --connections 1 --requests 5 --keys 1 --value-size 3";
    let item = serve_always(b"VALUE key:000000000000 0 3\r\nabc\r\nEND\r\n", Duration::ZERO);
    check_success(&run(item, load));
    check_failure(&run(item, &load.replace("size 3", "size 4")), "wrong reply");
    check_failure(&run(item, &format!("{load} --verify")), "wrong reply");
    let error = serve_always(b"SERVER_ERROR out of memory\r\n", Duration::ZERO);
    check_failure(&run(error, load), "SERVER_ERROR 5 times");
    check_success(&run(serve_always(b"STORED\r\n", Duration::ZERO), &format!("{load} --command set")));
}

/// Not of the floor, whose replies have one size: of itself, which says what it sends.
#[test]
fn whole_requests_and_sizes_which_vary_are_sent() {
    let ok = serve_always(b"+OK\r\n", Duration::ZERO);
    for load in ["--command set --value-size range:10-500", "--command mset:3 --value-size list:10*9,100*1"] {
        check_success(&run(ok, &format!("{load} --connections 1 --requests 20")));
    }
    let arguments = ["run", "--connections", "1", "--requests", "20", "--command", "SETRANGE a:__key__ 5 __value__"];
    check_success(&Command::new(BENCH).args(arguments).args(["--port", &ok.to_string()]).output().unwrap());
}

#[test]
fn a_report_with_charts_is_written() {
    let floor = Floor::start(&[]);
    let path = own_file("report.html");
    let pid = floor.child.id();
    check_success(&run(floor.port, &format!("--seconds 0.3 --warmup 0.1 --pid {pid} --html {}", path.display())));
    let page = std::fs::read_to_string(&path).unwrap();
    let _ = std::fs::remove_file(&path);
    assert!(page.contains("<svg") && page.contains("</html>") && page.contains("pipeline"));
}

/// Two of our own servers under every kind of load which is compared, with all files written.
#[test]
fn servers_are_compared() {
    let torc = PathBuf::from(BENCH).with_file_name("torc");
    if !torc.is_file() {
        return eprintln!("skipped: {} is not built; cargo test --workspace builds it", torc.display());
    }
    let prefix = own_file("compare");
    let server = |name: &str| format!("{name}={} --appendonly no --port {{port}} --cores 0", torc.display());
    let output = Command::new(BENCH)
        .args(["compare", "--server", &server("one"), "--server", &server("other"), "--load-cpus", "0"])
        .args(["--value-sizes", "16 list:10*1,20*1", "--dists", "uniform zipf:0.99", "--commands", "get,mixed"])
        .args(["--pipelines", "4", "--keys", "1000", "--connections", "4", "--rounds", "1", "--seconds", "0.05"])
        .args(["--warmup", "0.01", "--out-prefix", prefix.to_str().unwrap()])
        .output()
        .unwrap();
    check_success(&output);
    let read = |extension: &str| {
        let path = PathBuf::from(format!("{}.{extension}", prefix.display()));
        let text = std::fs::read_to_string(&path).unwrap();
        let _ = std::fs::remove_file(path);
        text
    };
    let result: Value = serde_json::from_str(&read("json")).unwrap();
    let results = result["results"].as_array().unwrap();
    // Two sizes, two distributions, two commands, two servers; and two floors where requests have one size.
    assert_eq!(results.len(), 2 * 2 * 2 * 2 + 2 * 2);
    assert_eq!(result["servers"][1]["memory"].as_array().unwrap().len(), 2);
    let verdicts = result["verdicts"].as_array().unwrap();
    assert!(
        verdicts.len() == 8 && verdicts.iter().all(|verdict| verdict["decided"] == false),
        "one round decides nothing"
    );
    assert!(read("md").contains("| 16 B, uniform, get, 4 |"));
    assert!(read("html").contains("<svg"));
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
    let wrong = [
        "--rate 0",
        "--rate 1e12",
        "--requests 0",
        "--seconds 0",
        "--timeout 0",
        "--pipeline 100000000",
        "--key-size 99999999999",
        "--command lpop --verify",
        "--command trace",
        "--dist trace:/nonexistent",
        "--unix /x --port 1",
    ];
    for arguments in wrong {
        assert_eq!(run_with(&format!("run {arguments}")).status.code(), Some(2), "{arguments}");
    }
    for arguments in ["--command flushall", "--key-size 5 --keys 100", "--connections 1 --threads 2", "--seconds -1"] {
        assert_eq!(run(1, arguments).status.code(), Some(2), "{arguments}");
    }
}
