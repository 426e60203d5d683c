//! The real server under everything that may happen to it, judged from outside: killed and restarted with another number of
//! shards, held up, given a disk that is slow, fails and fills up, other settings while it works, clients that are cut or do not read,
//! saves in between.
//!
//! A campaign is a series of lives of a server over one data directory. In each, writers load it (`writer.rs`) while a schedule
//! from a seed goes wrong here and there; then it is ended, `torc check` looks at what it left, it starts again, and every key is
//! held against what was promised (`history.rs`): under `appendfsync always` all that was acknowledged and all that anybody has
//! read; under `everysec` what was acknowledged a second before a kill, unless the disk was full or failed; and all that was
//! acknowledged after a stop in order. Replies are checked one by one as they come: none lost, none out of order, reads exact. A
//! server ends by itself only if its log could not be written, and one that is stopped says what is lost.
//!
//! The directory is on a small file system of its own that can be filled up, in a mount namespace that goes away with the test.
//! Where none may be made, files that may not grow (RLIMIT_FSIZE) stand for it, as they do otherwise too.
//!
//! ```text
//! cargo test -p torc-runtime --test chaos                                       about half a minute
//! TORC_CHAOS_SECONDS=3600 cargo test -p torc-runtime --test chaos               an hour
//! TORC_TEST_SEED=7 cargo test -p torc-runtime --test chaos -- --nocapture       the schedule of one seed
//! ```

#[path = "../common/mod.rs"]
mod common;
mod history;
mod writer;

use std::collections::HashMap;
use std::fs;
use std::io::Write;
use std::net::{Shutdown, TcpStream};
use std::path::PathBuf;
use std::process::{Command, ExitStatus};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use redis::Connection;
use rustix::process::Signal;

use common::client::encode;
use common::data::Data;
use common::random::{Random, seed};
use common::server::{PATIENCE, Server};
use common::skip_on_redis;
use writer::{Life, Writer, connect};

/// How long a campaign takes if `TORC_CHAOS_SECONDS` does not say.
const SECONDS: u64 = 20;
const WRITERS: u64 = 4;
const SHARDS_MAX: u64 = 3;
/// Where the small file system is, for the test that runs inside.
const DISK: &str = "TORC_CHAOS_DISK";
const DISK_SIZE: &str = "size=160m";
/// Which of these is done is drawn; a life takes so many milliseconds, from and less than.
const LIFE_MS: (u64, u64) = (700, 2_500);

/// What was acknowledged so long before a kill is there under `everysec` too: it is written within 10 to 25 ms, and this machine may
/// be busy.
const EVERYSEC_GRACE: Duration = Duration::from_secs(1);

#[test]
fn what_was_promised_holds_whatever_goes_wrong() {
    if skip_on_redis("it has no such faults") {
        return;
    }
    if let Some(disk) = std::env::var_os(DISK) {
        return Campaign::new(Some(disk.into())).run();
    }
    let data = Data::new();
    fs::create_dir_all(data.folder()).expect("a directory");
    let mount = r#"mount -t tmpfs -o "$1" torc-chaos "$2" && shift 2 && exec "$@""#;
    let inside = |namespaces: &[&str], program: &[&str]| {
        let mut command = Command::new("unshare");
        command.args(namespaces).args(["sh", "-c", mount, "sh", DISK_SIZE, data.path()]).args(program);
        command
    };
    let kinds: [&[&str]; 2] = [&["--mount"], &["--user", "--map-root-user", "--mount"]];
    let may = |kind: &&&[&str]| inside(kind, &["true"]).output().is_ok_and(|output| output.status.success());
    let Some(kind) = kinds.iter().find(may) else {
        eprintln!("no file system may be mounted here: the disk does not fill up, files do");
        return Campaign::new(None).run();
    };
    let program = std::env::current_exe().expect("this program");
    let test = "what_was_promised_holds_whatever_goes_wrong";
    let mut command = inside(kind, &[program.to_str().expect("text"), test, "--exact", "--nocapture"]);
    let output = command.env(DISK, data.folder()).output().expect("it was tried");
    eprint!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{}", output.status);
}

/// Lives of a server over one directory.
struct Campaign {
    random: Random,
    /// The small file system, if there is one.
    disk: Option<PathBuf>,
    data: Data,
    /// The data directory.
    directory: PathBuf,
    writers: Vec<Writer>,
    tally: Tally,
}

/// What has happened, so that a campaign in which nothing did is none.
#[derive(Debug, Default)]
struct Tally {
    lives: u64,
    acknowledged: u64,
    refused: u64,
    kills: u64,
    kills_while_loading: u64,
    stops: u64,
    ends_with_loss: u64,
    ends_by_itself: u64,
    stops_and_goes: u64,
    faults: u64,
    full_disks: u64,
    settings: u64,
    saves: u64,
    bad_clients: u64,
    looks_at_info: u64,
}

/// How a life ended.
enum End {
    Killed(Instant),
    /// It was told to, and has kept everything.
    InOrder,
    /// Its log could not be written.
    WithLoss,
}

/// How a life is set up.
struct Setup {
    shards: usize,
    always: bool,
    /// Its log may fail.
    fails: bool,
    /// Its disk fills up.
    fills: bool,
}

impl Campaign {
    fn new(disk: Option<PathBuf>) -> Campaign {
        let (seed, data) = (seed(), Data::new());
        println!("TORC_TEST_SEED={seed}, the disk is {disk:?}");
        fs::create_dir_all(data.folder()).expect("a directory");
        let mut random = Random(seed);
        Campaign {
            directory: disk.as_deref().unwrap_or(data.folder()).join("data"),
            writers: (0..WRITERS).map(|id| Writer::new(id, random.next())).collect(),
            random,
            disk,
            data,
            tally: Tally::default(),
        }
    }

    fn run(mut self) {
        let seconds =
            std::env::var("TORC_CHAOS_SECONDS").ok().map(|text| text.parse().expect("TORC_CHAOS_SECONDS is a number"));
        let end = Instant::now() + Duration::from_secs(seconds.unwrap_or(SECONDS));
        let mut seen = HashMap::new();
        while Instant::now() < end {
            let setup = self.setup();
            let server = self.start(&setup);
            self.verify(&server, &seen);
            seen = self.live(server, &setup);
            self.check(&[0, 1]);
        }
        // The last one has nothing to complain of, and leaves nothing to be mended.
        let setup = Setup { shards: 2, always: true, fails: false, fills: false };
        let server = self.start(&setup);
        self.verify(&server, &seen);
        server.signal(Signal::TERM);
        let (status, output) = server.wait_for_exit();
        assert!(status.success(), "{status}\n{output}\n{}", self.said());
        self.check(&[0]);
        println!("{:#?}", self.tally);
        let Tally { acknowledged, kills, kills_while_loading, stops, ends_by_itself, .. } = self.tally;
        let restarts = kills + kills_while_loading + stops + ends_by_itself;
        assert!(restarts >= 3 && acknowledged >= 1_000, "hardly anything has happened");
    }

    fn setup(&mut self) -> Setup {
        let random = &mut self.random;
        Setup {
            shards: 1 + random.below(SHARDS_MAX) as usize,
            always: random.below(4) != 0,
            fails: random.below(4) == 0,
            fills: self.disk.is_some() && random.below(3) == 0,
        }
    }

    /// Says what happens next, for whoever has to find out why it went wrong.
    fn say(&self, what: &str) {
        println!("life {}: {what}", self.tally.lives);
    }

    fn start(&mut self, setup: &Setup) -> Server {
        self.tally.lives += 1;
        let fsync = if setup.always { "always" } else { "everysec" };
        let directory = self.directory.to_str().expect("text").to_owned();
        let messages = self.data.log_path();
        let seed = (self.random.next() >> 1).to_string();
        let flags = [
            ["--appendonly", "yes"],
            ["--appendfsync", fsync],
            ["--append-segment-size", "4mb"],
            ["--dir", &directory],
            ["--logfile", &messages],
            ["--enable-debug-command", "local"],
            ["--fault-seed", &seed],
        ];
        let flags = flags.concat();
        while self.random.below(5) == 0 {
            // It is killed while it may be loading.
            let shards = 1 + self.random.below(SHARDS_MAX) as usize;
            let after = Duration::from_millis(self.random.below(60));
            self.say(&format!("{shards} shards, killed {after:?} after it listens"));
            let server = Server::start_loading(shards, &flags);
            thread::sleep(after);
            server.signal(Signal::KILL);
            server.wait_for_exit();
            self.tally.kills_while_loading += 1;
        }
        self.say(&format!("{} shards, {fsync}{}", setup.shards, if setup.fails { ", its log may fail" } else { "" }));
        Server::start_sharded(setup.shards, &flags)
    }

    /// Every key is as was promised.
    fn verify(&mut self, server: &Server, seen: &HashMap<String, u64>) {
        let mut connection = connect(server.port()).expect("it serves");
        for writer in &mut self.writers {
            if let Err(wrong) = writer.verify(&mut connection, seen) {
                panic!("{wrong}\n{}", self.said());
            }
        }
    }

    /// A life of the server from where it serves to its end; gives what was seen of keys, and has to be there after it.
    fn live(&mut self, mut server: Server, setup: &Setup) -> HashMap<String, u64> {
        let life = Life {
            port: server.port(),
            always: setup.always,
            over: AtomicBool::new(false),
            seen: Mutex::new(HashMap::new()),
            names: Mutex::new(Vec::new()),
            acknowledged: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        };
        let mut writers = std::mem::take(&mut self.writers);
        let end = thread::scope(|scope| {
            let running: Vec<_> = writers.iter_mut().map(|writer| scope.spawn(|| writer.run(&life))).collect();
            let schedule = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                let by_itself = self.schedule(&mut server, setup);
                self.end(server, setup, &life, by_itself)
            }));
            life.over.store(true, Ordering::SeqCst);
            // All of them end before what any of them found wrong is told.
            let ended: Vec<_> = running.into_iter().map(|writer| writer.join()).collect();
            let wrong = ended.into_iter().find_map(Result::err);
            match (wrong, schedule) {
                (None, Ok(end)) => end,
                (Some(wrong), _) | (None, Err(wrong)) => {
                    println!("{}", self.said());
                    std::panic::resume_unwind(wrong)
                }
            }
        });
        self.writers = writers;
        self.tally.acknowledged += life.acknowledged.load(Ordering::Relaxed);
        self.tally.refused += life.refused.load(Ordering::Relaxed);
        let had_room = !setup.fails && !setup.fills;
        let kept_until = match end {
            _ if setup.always => Some(Instant::now()),
            End::InOrder => Some(Instant::now()),
            End::Killed(at) if had_room => at.checked_sub(EVERYSEC_GRACE),
            End::Killed(_) | End::WithLoss => None,
        };
        if let Some(until) = kept_until {
            self.writers.iter_mut().for_each(|writer| writer.promise(until));
        }
        life.seen.into_inner().expect("nobody panicked with it")
    }

    /// Ends the server, if it has not ended by itself.
    fn end(&mut self, mut server: Server, setup: &Setup, life: &Life, mut by_itself: bool) -> End {
        // Connections may end from now on.
        life.over.store(true, Ordering::SeqCst);
        if !by_itself && self.random.below(3) != 0 {
            self.say("kill -9");
            self.tally.kills += 1;
            let at = Instant::now();
            server.signal(Signal::KILL);
            server.wait_for_exit();
            return End::Killed(at);
        }
        if !by_itself {
            self.say("SIGTERM");
            // Since the last look it may have ended.
            by_itself = server.has_ended();
            if !by_itself {
                self.tally.stops += 1;
                server.signal(Signal::TERM);
            }
        }
        let (status, output) = server.wait_for_exit();
        self.judge_end(status, &output, setup, by_itself)
    }

    /// A server that was told to stop, or ended by itself.
    fn judge_end(&mut self, status: ExitStatus, output: &str, setup: &Setup, by_itself: bool) -> End {
        let said = self.said();
        if by_itself {
            self.tally.ends_by_itself += 1;
            let why = "under appendfsync always nothing can be acknowledged any more";
            let may = setup.fails && setup.always && status.code() == Some(1) && output.contains(why);
            assert!(may, "it ended by itself: {status}\n{output}\n{said}");
            return End::WithLoss;
        }
        if status.success() {
            return End::InOrder;
        }
        // It had no room, or its disk failed or was too slow: that is told, shard by shard.
        self.tally.ends_with_loss += 1;
        let told = [
            "LOST: the last ",
            "ends without its seal",
            "the snapshot before the end failed",
            "nothing can be acknowledged",
        ];
        let is_told = told.iter().any(|part| said.contains(part) || output.contains(part));
        assert!(
            setup.fails && status.code() == Some(1) && is_told,
            "it did not stop in order: {status}\n{output}\n{said}"
        );
        End::WithLoss
    }

    /// What goes wrong in a life. True: the server has ended by itself.
    fn schedule(&mut self, server: &mut Server, setup: &Setup) -> bool {
        let mut control = connect(server.port()).expect("it serves");
        let end = Instant::now() + Duration::from_millis(LIFE_MS.0 + self.random.below(LIFE_MS.1 - LIFE_MS.0));
        let (mut commands, mut limited) = (0, false);
        let mut filled = None;
        while Instant::now() < end {
            let what = self.random.below(9);
            // Who asks something of a server that ends has no answer.
            let asked: Result<(), redis::RedisError> = match what {
                0 => {
                    let pause = Duration::from_millis(20 + self.random.below(300));
                    self.say(&format!("stopped for {pause:?}"));
                    self.tally.stops_and_goes += 1;
                    server.signal(Signal::STOP);
                    thread::sleep(pause);
                    server.signal(Signal::CONT);
                    Ok(())
                }
                1 | 2 => self.inject(&mut control, setup),
                3 => self.change_settings(&mut control),
                4 => self.save(&mut control),
                5 if setup.fails => {
                    // What is longer already cannot be written at its end any more.
                    limited = !limited;
                    let bytes = limited.then(|| 64 << 10 << self.random.below(7));
                    self.say(&format!("files may have {bytes:?} bytes"));
                    self.tally.full_disks += 1;
                    server.limit_files(bytes);
                    Ok(())
                }
                6 if setup.fills => {
                    filled = match filled.take() {
                        None => Some(self.fill()),
                        Some(ballast) => self.empty(ballast),
                    };
                    Ok(())
                }
                7 => {
                    self.misbehave(server.port());
                    Ok(())
                }
                _ => self.look_at_info(&mut control, &mut commands),
            };
            if let Err(error) = asked {
                let start = Instant::now();
                while !server.has_ended() {
                    assert!(start.elapsed() < PATIENCE, "the server did not end, but {error}");
                    thread::sleep(Duration::from_millis(5));
                }
            }
            thread::sleep(Duration::from_millis(self.random.below(120)));
            if server.has_ended() {
                break;
            }
        }
        // There is room for the end, and for the next start.
        filled.and_then(|ballast| self.empty(ballast));
        server.has_ended()
    }

    fn inject(&mut self, control: &mut Connection, setup: &Setup) -> redis::RedisResult<()> {
        let (fault, value) = match self.random.below(if setup.fails { 5 } else { 4 }) {
            0 => ("wal-delay-ms", self.random.below(80).to_string()),
            1 => ("snapshot-delay-ms", self.random.below(200).to_string()),
            2 => ("hop-delay-ms", self.random.below(15).to_string()),
            3 => (["wal-delay-ms", "snapshot-delay-ms", "hop-delay-ms"][self.random.below(3) as usize], "0".to_owned()),
            _ => ("wal-fail-probability", format!("0.00{}", self.random.below(40))),
        };
        self.say(&format!("{fault} {value}"));
        self.tally.faults += 1;
        redis::cmd("DEBUG").arg("SET-FAULT").arg(fault).arg(value).query(control)
    }

    fn change_settings(&mut self, control: &mut Connection) -> redis::RedisResult<()> {
        let rows: [(&str, &[&str]); 12] = [
            ("hz", &["1", "10", "500"]),
            ("snapshot-duty", &["1", "10", "50"]),
            ("maxmemory", &["0", "2gb"]),
            ("maxmemory-policy", &["noeviction", "allkeys-lru", "volatile-lfu", "allkeys-s3fifo"]),
            ("lazyfree-lazy-user-flush", &["yes", "no"]),
            ("tcp-keepalive", &["0", "300"]),
            ("timeout", &["0", "100"]),
            ("auto-aof-rewrite-percentage", &["0", "1", "100"]),
            ("auto-aof-rewrite-min-size", &["0", "1mb", "64mb"]),
            ("busy-poll-us", &["0", "20"]),
            ("maxclients", &["1000", "10000"]),
            ("client-output-buffer-limit", &["normal 0 0 0", "normal 64mb 32mb 10"]),
        ];
        let count = 1 + self.random.below(100);
        self.say(&format!("{count} settings"));
        self.tally.settings += count;
        for _ in 0..count {
            let (name, values) = rows[self.random.below(rows.len() as u64) as usize];
            let value = values[self.random.below(values.len() as u64) as usize];
            redis::cmd("CONFIG").arg("SET").arg(name).arg(value).query::<()>(control)?;
            let shown: Vec<String> = redis::cmd("CONFIG").arg("GET").arg(name).query(control)?;
            assert_eq!(shown[0], name);
            let wrong: redis::RedisResult<()> =
                redis::cmd("CONFIG").arg("SET").arg(name).arg("nonsense").query(control);
            let wrong = wrong.expect_err("nonsense is refused");
            if wrong.is_io_error() || wrong.is_connection_dropped() {
                return Err(wrong);
            }
        }
        Ok(())
    }

    fn save(&mut self, control: &mut Connection) -> redis::RedisResult<()> {
        let command = ["BGSAVE", "BGREWRITEAOF"][self.random.below(2) as usize];
        self.say(command);
        self.tally.saves += 1;
        match redis::cmd(command).query::<String>(control) {
            // One may be under way.
            Err(error) if !error.is_io_error() && !error.is_connection_dropped() => Ok(()),
            answer => answer.map(drop),
        }
    }

    /// Fills the file system up but for some bytes.
    fn fill(&mut self) -> PathBuf {
        let path = self.disk.as_ref().expect("there is one").join("ballast");
        let mut file = fs::File::create(&path).expect("a file");
        let chunk = vec![1; 256 << 10];
        while file.write_all(&chunk).is_ok() {}
        let len = file.metadata().expect("a file").len();
        let room = self.random.below(1 << 20);
        file.set_len(len.saturating_sub(room)).expect("it becomes shorter");
        self.say(&format!("the disk is full but for {room} bytes"));
        self.tally.full_disks += 1;
        path
    }

    fn empty(&mut self, ballast: PathBuf) -> Option<PathBuf> {
        fs::remove_file(ballast).expect("it is there");
        self.say("there is room on the disk");
        None
    }

    /// A client that does not read, stops in the middle of a request, or talks nonsense.
    fn misbehave(&mut self, port: u16) {
        self.tally.bad_clients += 1;
        let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else { return };
        let _ = stream.set_write_timeout(Some(Duration::from_millis(200)));
        let kind = self.random.below(4);
        self.say(&format!("a bad client of kind {kind}"));
        let _ = match kind {
            0 => {
                let big = vec![b'b'; 64 << 10];
                let set = encode(&[b"SET", b"bad", &big]);
                stream.write_all(&set).and_then(|()| stream.write_all(&encode(&[b"GET", b"bad"]).repeat(2_000)))
            }
            1 => stream.write_all(b"*3\r\n$3\r\nSET\r\n$3\r\nbad\r\n$1000000\r\nhalf"),
            2 => stream.write_all(&[0xff; 5_000]),
            _ => stream.write_all(&encode(&[b"PING"]).repeat(500)).and_then(|()| stream.shutdown(Shutdown::Write)),
        };
        thread::sleep(Duration::from_millis(self.random.below(50)));
    }

    /// INFO is all there, and says nothing that cannot be.
    fn look_at_info(&mut self, control: &mut Connection, commands: &mut u64) -> redis::RedisResult<()> {
        self.tally.looks_at_info += 1;
        let text: String = redis::cmd("INFO").arg("everything").query(control)?;
        let number = |name: &str| -> u64 {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            let line = line.unwrap_or_else(|| panic!("{name} is not in {text}"));
            line.parse().unwrap_or_else(|_| panic!("{name} is {line}"))
        };
        assert!((1..100).contains(&number("connected_clients")), "{text}");
        assert!(
            (1..4 << 30).contains(&number("used_memory")) && (1..8 << 30).contains(&number("used_memory_rss")),
            "{text}"
        );
        assert!(number("uptime_in_seconds") < 600 && number("loading") == 0, "{text}");
        let before = std::mem::replace(commands, number("total_commands_processed"));
        assert!(*commands > before, "{before} commands were processed before {commands}");
        for status in ["aof_last_write_status", "aof_last_bgrewrite_status", "rdb_last_bgsave_status"] {
            let is_known = ["ok", "err"].iter().any(|word| text.contains(&format!("{status}:{word}\r\n")));
            assert!(is_known, "{status}: {text}");
        }
        let impossible = text.lines().filter(|line| line.contains("NaN") || line.contains("18446744073"));
        assert_eq!(impossible.collect::<Vec<_>>(), Vec::<&str>::new());
        Ok(())
    }

    /// `torc check` ends with one of these statuses.
    fn check(&self, statuses: &[i32]) {
        let output =
            Command::new(env!("CARGO_BIN_EXE_torc")).arg("check").arg(&self.directory).output().expect("it starts");
        let code = output.status.code();
        if !code.is_some_and(|code| statuses.contains(&code)) {
            let text = [output.stdout, output.stderr].concat();
            panic!("torc check: {code:?}\n{}\n{}", String::from_utf8_lossy(&text), self.said());
        }
    }

    /// The last that the server has said.
    fn said(&self) -> String {
        let text = fs::read(self.data.log_path()).unwrap_or_default();
        String::from_utf8_lossy(&text[text.len().saturating_sub(6_000)..]).into_owned()
    }
}
