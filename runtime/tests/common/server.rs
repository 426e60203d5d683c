//! A server process that lives as long as the test that started it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process, prlimit};

use super::peer_is_redis;

/// How long anything may take before the test is called stuck. A guard, not an expectation.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// How long a server may take to stop on SIGTERM before it is killed.
const STOP_PATIENCE: Duration = Duration::from_secs(10);
/// Between two looks at a condition that cannot be waited on.
const LOOK_INTERVAL: Duration = Duration::from_millis(5);

/// Flags redis-server does not know. Each takes one value.
const TORC_FLAGS: &[&str] = &["--cores", "--wakeup"];

/// A running server. Dropping it stops it; a server that died before that fails the test.
pub struct Server {
    process: Process,
    port: u16,
}

impl Server {
    /// Starts a server with `arguments` and waits until it answers.
    pub fn start(arguments: &[&str]) -> Server {
        Server::start_on(free_port(), arguments)
    }

    /// The same on a given port.
    pub fn start_on(port: u16, arguments: &[&str]) -> Server {
        Server::start_process(Process::spawn(None, port, arguments), port)
    }

    /// The same with a configuration file as first argument.
    pub fn start_with_file(file: &ConfigFile, arguments: &[&str]) -> Server {
        let port = free_port();
        Server::start_process(Process::spawn(Some(file), port, arguments), port)
    }

    /// Starts a server of `shards` shards. A core is taken more than once where the machine has fewer.
    pub fn start_sharded(shards: usize, arguments: &[&str]) -> Server {
        let cores = cores(shards);
        let mut all = vec!["--cores", &cores];
        all.extend(arguments);
        Server::start(&all)
    }

    /// As `start_sharded`, but does not wait until what it has is loaded.
    pub fn start_loading(shards: usize, arguments: &[&str]) -> Server {
        let cores = cores(shards);
        let mut all = vec!["--cores", &cores];
        all.extend(arguments);
        let port = free_port();
        let mut process = Process::spawn(None, port, &all);
        wait_until("the server listens", || {
            if let Some(status) = process.try_wait() {
                panic!("the server ended at start: {status}\n{}", process.output());
            }
            TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        Server { process, port }
    }

    fn start_process(mut process: Process, port: u16) -> Server {
        wait_until("the server answers", || {
            if let Some(status) = process.try_wait() {
                panic!("the server ended at start: {status}\n{}", process.output());
            }
            answers(port)
        });
        Server { process, port }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    /// Resident memory of the process, bytes.
    pub fn resident_bytes(&self) -> u64 {
        let path = format!("/proc/{}/status", self.process.child.id());
        let status = std::fs::read_to_string(&path).expect("the process runs");
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("Linux reports VmRSS");
        let kib: u64 = line.split_whitespace().nth(1).and_then(|word| word.parse().ok()).expect("VmRSS is a number");
        kib * 1024
    }

    pub fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    /// How long the files may become that the process writes; None: as long as they like.
    pub fn limit_files(&self, bytes: Option<u64>) {
        let pid = Pid::from_raw(self.process.child.id() as i32).expect("a process");
        let limit = Rlimit { current: bytes, maximum: None };
        prlimit(Some(pid), Resource::Fsize, limit).expect("limits may be lowered, and raised up to the hard one");
    }

    /// Whether the process has ended, by itself or because it was told to.
    pub fn has_ended(&mut self) -> bool {
        self.process.try_wait().is_some()
    }

    /// Waits until the process has ended, however it was told to; gives its status and what it wrote.
    pub fn wait_for_exit(mut self) -> (ExitStatus, String) {
        let status = self.process.wait(PATIENCE).expect("the server ends");
        let output = self.process.output();
        self.process.ended = true;
        (status, output)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.process.ended {
            return;
        }
        let died = self.process.try_wait();
        if thread::panicking() {
            eprintln!("--- server output (status {died:?}) ---\n{}---", self.process.output());
            return;
        }
        if let Some(status) = died {
            panic!("the server died during the test: {status}\n{}", self.process.output());
        }
    }
}

/// Runs a server that must refuse to start on `port`: its status and what it wrote. (redis-server logs to standard
/// output, Torc complains on standard error; only the latter counts for Torc.)
pub fn run_refused(file: Option<&ConfigFile>, port: u16, arguments: &[&str]) -> (ExitStatus, String) {
    let mut process = Process::spawn(file, port, arguments);
    let Some(status) = process.wait(PATIENCE) else {
        panic!("the server should have refused to start\n{}", process.output());
    };
    process.ended = true;
    (status, process.output())
}

/// A configuration file that is removed when the test is over.
pub struct ConfigFile {
    pub path: PathBuf,
}

impl ConfigFile {
    pub fn new(text: &str) -> ConfigFile {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("{}-{}.conf", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
        std::fs::write(&path, text).expect("the target directory is writable");
        ConfigFile { path }
    }
}

impl Drop for ConfigFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// The value of `--cores` that makes `shards` shards on this machine.
pub fn cores(shards: usize) -> String {
    let machine = thread::available_parallelism().map_or(1, |count| count.get());
    let cores: Vec<String> = (0..shards).map(|shard| (shard % machine).to_string()).collect();
    cores.join(",")
}

/// A port nobody listens on.
///
/// Taken below the kernel's ephemeral range (32768 and up), so that no outgoing connection of a test running beside
/// this one can hold it; each test process begins somewhere else.
pub fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    const FIRST: u32 = 12_000;
    const COUNT: u32 = 20_000;
    let start = std::process::id().wrapping_mul(97);
    for _ in 0..COUNT {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = (FIRST + start.wrapping_add(step) % COUNT) as u16;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no free port");
}

/// Looks at a condition until it holds.
pub fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "gave up waiting until {what}");
        thread::sleep(LOOK_INTERVAL);
    }
}

/// Whether a server on `port` answers anything (without a password: an error) but that it is loading.
fn answers(port: u16) -> bool {
    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else {
        return false;
    };
    let _ = stream.set_read_timeout(Some(PATIENCE));
    let mut first = [0; 3];
    stream.write_all(b"*1\r\n$4\r\nPING\r\n").is_ok() && stream.read_exact(&mut first).is_ok() && first != *b"-LO"
}

/// A child whose output is kept, ended when dropped.
struct Process {
    child: Child,
    output: Arc<Mutex<Vec<u8>>>,
    readers: Vec<thread::JoinHandle<()>>,
    ended: bool,
}

impl Process {
    fn spawn(file: Option<&ConfigFile>, port: u16, arguments: &[&str]) -> Process {
        let mut command =
            if peer_is_redis() { Command::new("redis-server") } else { Command::new(env!("CARGO_BIN_EXE_torc")) };
        if let Some(file) = file {
            command.arg(&file.path);
        }
        command.args(["--port", &port.to_string(), "--bind", "127.0.0.1"]);
        if peer_is_redis() {
            command.args(["--save", ""]);
        }
        // Those who want to find their keys again say so.
        let names_log = |text: &str| text.contains("appendonly");
        let file_names_log =
            file.is_some_and(|file| std::fs::read_to_string(&file.path).is_ok_and(|text| names_log(&text)));
        if !file_names_log && !arguments.iter().any(|argument| names_log(argument)) {
            command.args(["--appendonly", "no"]);
        }
        command.args(known_to_peer(arguments));
        command.current_dir(env!("CARGO_TARGET_TMPDIR"));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());

        let mut child = command.spawn().expect("the server binary can be started");
        let output = Arc::new(Mutex::new(Vec::new()));
        let mut readers = vec![keep(child.stderr.take().expect("piped"), Arc::clone(&output))];
        let stdout = child.stdout.take().expect("piped");
        let discarded = Arc::new(Mutex::new(Vec::new()));
        readers.push(keep(stdout, if peer_is_redis() { Arc::clone(&output) } else { discarded }));
        Process { child, output, readers, ended: false }
    }

    fn output(&self) -> String {
        String::from_utf8_lossy(&self.output.lock().expect("no reader panics")).into_owned()
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).expect("the child has not been waited for");
    }

    fn try_wait(&mut self) -> Option<ExitStatus> {
        let status = self.child.try_wait().expect("it is our child")?;
        for reader in self.readers.drain(..) {
            let _ = reader.join();
        }
        Some(status)
    }

    fn wait(&mut self, patience: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(status) = self.try_wait() {
                return Some(status);
            }
            if Instant::now() >= deadline {
                return None;
            }
            thread::sleep(LOOK_INTERVAL);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.ended || self.try_wait().is_some() {
            return;
        }
        self.signal(Signal::TERM);
        if self.wait(STOP_PATIENCE).is_none() {
            self.signal(Signal::KILL);
            let killed = self.wait(STOP_PATIENCE);
            if !thread::panicking() {
                panic!("the server ignored SIGTERM; SIGKILL: {killed:?}\n{}", self.output());
            }
        }
    }
}

/// Without the flags the peer does not have.
fn known_to_peer<'a>(arguments: &[&'a str]) -> Vec<&'a str> {
    let mut known = Vec::new();
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        if peer_is_redis() && TORC_FLAGS.contains(argument) {
            rest.next();
        } else {
            known.push(*argument);
        }
    }
    known
}

/// Reads a pipe to its end, so that the child never waits for us.
fn keep(mut pipe: impl Read + Send + 'static, kept: Arc<Mutex<Vec<u8>>>) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        let mut chunk = [0; 4096];
        while let Ok(count) = pipe.read(&mut chunk) {
            if count == 0 {
                break;
            }
            kept.lock().expect("no reader panics").extend_from_slice(&chunk[..count]);
        }
    })
}
