//! Starting, refusing to start, and stopping; passwords; what the server says of itself.

mod common;

use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use common::client::{Client, encode};
use common::server::{ConfigFile, Server, cores, free_port, run_refused, wait_until};
use common::want::Want::{self, Bulk, Error, Int, Map, Nil, OneOf, Status};
use common::{info, peer_is_redis, skip_on_redis};

/// Asked to stop in any of the three ways, the server closes its clients and ends with success.
#[test]
fn stops_when_asked() {
    type Ask = fn(&Server);
    let ways: [(&str, Ask); 4] = [
        ("SIGTERM", |server| server.signal(Signal::TERM)),
        ("SIGINT", |server| server.signal(Signal::INT)),
        ("SHUTDOWN NOSAVE", |server| {
            let mut client = Client::connect(server.address());
            client.send_bytes(b"SHUTDOWN NOSAVE\r\n");
            assert_eq!(client.read_to_close(), b"");
        }),
        ("SHUTDOWN", |server| Client::connect(server.address()).send_bytes(b"shutdown\r\n")),
    ];
    for (way, ask) in ways {
        for shards in [1, 3] {
            let server = Server::start_sharded(shards, &[]);
            let address = server.address();
            let mut client = Client::connect(address);
            client.check("SET a 1", &Status("OK"));
            ask(&server);
            assert_eq!(client.read_to_close(), b"", "{way}");
            let (status, output) = server.wait_for_exit();
            assert!(status.success(), "{way}, {shards} shards: {status}\n{output}");
            assert!(TcpStream::connect(address).is_err(), "{way}: still accepting");
        }
    }
}

/// A client that does not take its replies cannot keep the server from stopping.
#[test]
fn stops_despite_a_slow_reader() {
    for shards in [1, 3] {
        let server = Server::start_sharded(shards, &[]);
        let mut client = Client::connect(server.address());
        assert_eq!(client.call(&[b"SET", b"a", &vec![b'v'; 1 << 20]]), b"+OK\r\n");
        client.send_bytes(&encode(&[b"GET", b"a"]).repeat(64));
        Client::connect(server.address()).check("STRLEN a", &Int(1 << 20));
        server.signal(Signal::TERM);
        // Whoever asks twice, as a process group and its leader's parent may, still gets an orderly end.
        thread::sleep(Duration::from_millis(200));
        server.signal(Signal::TERM);
        let (status, output) = server.wait_for_exit();
        assert!(status.success(), "{shards} shards: {status}\n{output}");
    }
}

/// A closed terminal is no reason to stop.
#[test]
fn a_hangup_is_ignored() {
    let server = Server::start_sharded(1, &[]);
    server.signal(Signal::HUP);
    thread::sleep(Duration::from_millis(50));
    Client::connect(server.address()).check("PING", &Status("PONG"));
}

/// `torc 2>&1 | head -1`: a log that nobody reads any more takes nothing down.
#[test]
fn a_log_that_nobody_reads() {
    if skip_on_redis("its log is its own") {
        return;
    }
    let port = free_port();
    let closed = || {
        let (reader, writer) = std::io::pipe().expect("descriptors are left");
        drop(reader);
        writer
    };
    let start = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_torc"));
        command.args(arguments).stdout(closed()).stderr(closed()).current_dir(env!("CARGO_TARGET_TMPDIR"));
        command.spawn().expect("the server binary can be started")
    };
    let flags = ["--port", &port.to_string(), "--bind", "127.0.0.1", "--cores", &cores(1), "--appendonly", "no"];
    let mut server = start(&flags);
    wait_until("the server listens", || {
        assert_eq!(server.try_wait().expect("our child"), None, "the server ended at start");
        TcpStream::connect(("127.0.0.1", port)).is_ok()
    });
    Client::connect(([127, 0, 0, 1], port).into()).check("PING", &Status("PONG"));
    kill_process(Pid::from_child(&server), Signal::TERM).expect("it runs");
    assert!(server.wait().expect("our child").success());

    assert_eq!(start(&["--help"]).wait().expect("our child").code(), Some(0));
    assert_eq!(start(&["--no-such-flag"]).wait().expect("our child").code(), Some(1));
}

/// A port is free again as soon as its server has ended.
#[test]
fn starts_again_on_the_same_port() {
    let first = Server::start_sharded(2, &[]);
    let port = first.port();
    let mut client = Client::connect(first.address());
    client.check("SET a 1", &Status("OK"));
    first.signal(Signal::TERM);
    assert!(first.wait_for_exit().0.success());
    let second = Server::start_on(port, &["--cores", &cores(2)]);
    Client::connect(second.address()).check("GET a", &Nil);
}

#[test]
fn refuses_what_it_does_not_understand() {
    let rows: &[(&[&str], &str)] = &[
        (&["--no-such-flag", "1"], "no-such-flag"),
        (&["--timeout", "soon"], "timeout"),
        (&["--maxclients", "0"], "maxclients"),
        (&["--databases", "0"], "databases"),
    ];
    for (arguments, named) in rows {
        let (status, output) = run_refused(None, free_port(), arguments);
        assert!(!status.success(), "{arguments:?} was accepted\n{output}");
        assert!(output.contains(named), "{arguments:?} is not named in:\n{output}");
    }
}

/// What Torc does not do yet it must not pretend to do.
#[test]
fn refuses_what_it_cannot_do() {
    if skip_on_redis("it can") {
        return;
    }
    let missing_core = cores(1).replace('0', "4096");
    let rows: &[(&[&str], &str)] = &[
        (&["--tls-port", "1"], "tls-port"),
        (&["--cores", &missing_core], "4096"),
        (&["--cores", "x"], "cores"),
        (&["--wakeup", "telepathy"], "wakeup"),
    ];
    for (arguments, named) in rows {
        let (status, output) = run_refused(None, free_port(), arguments);
        assert!(!status.success(), "{arguments:?} was accepted\n{output}");
        assert!(output.contains(named), "{arguments:?} is not named in:\n{output}");
        assert!(!output.contains("panicked"), "{arguments:?}:\n{output}");
    }
}

#[test]
fn refuses_a_bad_configuration_file() {
    let rows = [
        ("# a comment\nno-such-directive yes\n", 2, "no-such-directive"),
        ("timeout 0\n\ntimeout soon\n", 3, "timeout"),
        ("timeout\n", 1, "timeout"),
        ("timeout 0\nrequirepass \"unbalanced\n", 2, ""),
    ];
    for (text, line, named) in rows {
        let file = ConfigFile::new(text);
        let (status, output) = run_refused(Some(&file), free_port(), &[]);
        assert!(!status.success(), "{text:?} was accepted\n{output}");
        assert!(output.contains(named), "{named} is not named in:\n{output}");
        if !peer_is_redis() {
            let place = format!("{}:{line}", file.path.display());
            assert!(output.contains(&place), "{place} is not named in:\n{output}");
        }
    }
    let file = ConfigFile::new("");
    std::fs::remove_file(&file.path).expect("just made");
    let (status, output) = run_refused(Some(&file), free_port(), &[]);
    assert!(!status.success(), "a missing file was accepted\n{output}");
    assert!(output.contains(&file.path.display().to_string()), "{output}");
}

/// A port that is taken, by anything or by a server of the same kind. (Sockets that share a port, as shards do, would
/// let the second server have half of the first one's clients.)
#[test]
fn refuses_a_port_in_use() {
    let port = free_port();
    let listener = TcpListener::bind(("127.0.0.1", port)).expect("free a moment ago");
    check_port_refused(port);
    drop(listener);

    let server = Server::start_sharded(2, &[]);
    check_port_refused(server.port());
    Client::connect(server.address()).check("PING", &Status("PONG"));
}

fn check_port_refused(port: u16) {
    let (status, output) = run_refused(None, port, &["--cores", &cores(2)]);
    assert!(!status.success(), "port {port} was shared\n{output}");
    assert!(output.contains(&port.to_string()), "{port} is not named in:\n{output}");
}

/// The configuration file is the first argument, as for redis-server; flags that follow win.
#[test]
fn reads_a_configuration_file() {
    let file = ConfigFile::new(
        "# The whole line is a comment.\n\n  timeout 100\nMaxClients 77\nrequirepass \"two words\"\n\
         client-output-buffer-limit normal 1mb 512kb 60\r\n",
    );
    let server = Server::start_with_file(&file, &["--timeout", "200"]);
    let mut client = Client::connect(server.address());
    client.transcript(&[
        ("AUTH \"two words\"", Status("OK")),
        ("CONFIG GET timeout", Map(&[("timeout", Bulk("200"))])),
        ("CONFIG GET maxclients", Map(&[("maxclients", Bulk("77"))])),
        ("CONFIG GET requirepass", Map(&[("requirepass", Bulk("two words"))])),
    ]);
    let path = file.path.display().to_string();
    assert_eq!(info::field(&mut client, "config_file"), Some(path));
    let limits = client.call_line("CONFIG GET client-output-buffer-limit");
    let limits = String::from_utf8(limits).expect("text");
    assert!(limits.contains("normal 1048576 524288 60"), "{limits}");
}

#[test]
fn asks_for_the_password() {
    const NOAUTH: Want = Error("NOAUTH Authentication required.");
    const WRONGPASS: Want = Error("WRONGPASS invalid username-password pair or user is disabled.");
    // 7.0's text first, then 7.2's, which says that HELLO takes the version before AUTH.
    const HELLO_NOAUTH: Want = OneOf(&[
        Error(
            "NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO AUTH <user> \
             <pass> option can be used to authenticate the client and select the RESP protocol version at the same \
             time",
        ),
        Error(
            "NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO <proto> AUTH \
             <user> <pass> option can be used to authenticate the client and select the RESP protocol version at the \
             same time",
        ),
    ]);
    for shards in [1, 3] {
        let server = Server::start_sharded(shards, &["--requirepass", "secret"]);
        let mut client = Client::connect(server.address());
        client.transcript(&[
            ("PING", NOAUTH),
            ("GET a", NOAUTH),
            ("INFO", NOAUTH),
            ("CONFIG GET requirepass", NOAUTH),
            ("SHUTDOWN NOSAVE", NOAUTH),
            ("HELLO", HELLO_NOAUTH),
            ("HELLO 3", HELLO_NOAUTH),
            ("HELLO 3 SETNAME me", HELLO_NOAUTH),
            ("HELLO 9", Error("NOPROTO unsupported protocol version")),
            // That a command does not exist, or is used wrongly, comes before who asks.
            ("NOSUCH", Error("ERR unknown command 'NOSUCH', with args beginning with: ")),
            ("GET", Error("ERR wrong number of arguments for 'get' command")),
            ("AUTH wrong", WRONGPASS),
            ("AUTH default wrong", WRONGPASS),
            ("AUTH nobody secret", WRONGPASS),
            ("AUTH \"\"", WRONGPASS),
            ("AUTH secretly", WRONGPASS),
            ("HELLO 3 AUTH default wrong", WRONGPASS),
            ("GET a", NOAUTH),
            ("RESET", Status("RESET")),
            ("AUTH secret", Status("OK")),
            ("SET a 1", Status("OK")),
            // A wrong password later takes nothing away.
            ("AUTH wrong", WRONGPASS),
            ("GET a", Bulk("1")),
            ("RESET", Status("RESET")),
            ("GET a", NOAUTH),
            ("AUTH default secret", Status("OK")),
            ("GET a", Bulk("1")),
        ]);

        let mut client = Client::connect(server.address());
        let hello = client.call_line("HELLO 3 AUTH default secret SETNAME me");
        assert!(hello.starts_with(b"%7\r\n$6\r\nserver\r\n"), "{}", hello.escape_ascii());
        client.check("CLIENT GETNAME", &Bulk("me"));
        client.check("GET a", &Bulk("1"));

        let mut client = Client::connect(server.address());
        client.send_bytes(b"GET a\r\nQUIT\r\n");
        assert_eq!(client.read_to_close(), b"-NOAUTH Authentication required.\r\n+OK\r\n");
    }
}

#[test]
fn says_what_it_is() {
    let server = Server::start_sharded(3, &[]);
    let mut client = Client::connect(server.address());
    assert_eq!(info::field(&mut client, "redis_mode").as_deref(), Some("standalone"));
    assert_eq!(info::field(&mut client, "role").as_deref(), Some("master"));
    assert_eq!(info::field(&mut client, "config_file").as_deref(), Some(""));
    if skip_on_redis("versions and shards of Torc") {
        return;
    }
    assert_eq!(info::field(&mut client, "redis_version").as_deref(), Some("7.2.4"));
    assert_eq!(info::field(&mut client, "torc_version").as_deref(), Some(env!("CARGO_PKG_VERSION")));
    let hello = client.call_line("HELLO");
    assert!(hello.windows(22).any(|part| part == b"$7\r\nversion\r\n$5\r\n7.2.4"), "{}", hello.escape_ascii());
    for shard in 0..3 {
        assert!(info::field(&mut client, &format!("torc_shard{shard}_clients")).is_some());
    }
    assert!(info::field(&mut client, "torc_shard3_clients").is_none());
    let section = String::from_utf8(client.call_line("INFO torc")).expect("text");
    assert!(section.contains("# Torc\r\n") && section.contains("torc_shard2_clients:"), "{section}");
}
