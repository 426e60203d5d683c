//! Many connections, odd connections, and how they end.

mod common;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use common::client::{Client, bulk, encode};
use common::server::{ConfigFile, Server, wait_until};
use common::want::Want::{Bulk, Int, Status};
use common::{info, skip_on_redis};

const MAXCLIENTS_REFUSAL: &[u8] = b"-ERR max number of clients reached\r\n";

/// Five thousand clients are connected at once, and each is served.
#[test]
fn five_thousand_at_once() {
    const CLIENTS: usize = 5_000;
    // Ours, and some for the tests running beside this one.
    if !raise_descriptor_limit(CLIENTS as u64 + 500) {
        return;
    }
    let server = Server::start_sharded(2, &[]);
    let mut clients: Vec<Client> = (0..CLIENTS).map(|_| Client::connect(server.address())).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        let key = format!("key:{number}");
        client.send_bytes(&encode(&[b"SET", key.as_bytes(), format!("value:{number}").as_bytes()]));
        client.send_bytes(&encode(&[b"GET", key.as_bytes()]));
    }
    for (number, client) in clients.iter_mut().enumerate() {
        assert_eq!(client.read_reply(), b"+OK\r\n");
        assert_eq!(client.read_reply(), bulk(format!("value:{number}").as_bytes()));
    }
    let mut one = Client::connect(server.address());
    assert_eq!(info::number(&mut one, "connected_clients"), CLIENTS as u64 + 1);
    one.check("DBSIZE", &Int(CLIENTS as i64));
    drop(clients);
    wait_until("the clients are gone", || info::number(&mut one, "connected_clients") == 1);
}

/// Lets this process open `wanted` descriptors; false, with a message, where it may not.
fn raise_descriptor_limit(wanted: u64) -> bool {
    let limit = getrlimit(Resource::Nofile);
    // The server under test inherits the hard limit and needs as many for its side.
    if limit.maximum.is_some_and(|maximum| maximum < wanted) {
        eprintln!("skipped: {wanted} descriptors are wanted, the hard limit is {:?}", limit.maximum);
        return false;
    }
    if limit.current.is_some_and(|current| current < wanted) {
        setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum: limit.maximum })
            .expect("below the hard limit");
    }
    true
}

/// CONFIG SET promises no more clients than the process may open files for, and says how many that is.
#[test]
fn maxclients_is_bounded_by_the_files_that_may_be_opened() {
    let server = Server::start_sharded(2, &[]);
    let mut client = Client::connect(server.address());
    let before = client.call_line("CONFIG GET maxclients");
    let text = String::from_utf8(client.call_line("CONFIG SET maxclients 4294967295")).expect("UTF-8");
    let (reason, ceiling) = text.trim_end().rsplit_once(' ').expect("words");
    assert!(
        reason.starts_with('-') && reason.ends_with("not able to handle the specified number of clients, try with"),
        "{text}"
    );
    assert_eq!(client.call_line("CONFIG GET maxclients"), before);
    if !skip_on_redis("it says what holds now") {
        client.check(&format!("CONFIG SET maxclients {ceiling}"), &Status("OK"));
    }
}

/// One client too many is told so and let go; when one leaves, the next is served again.
#[test]
fn too_many_clients() {
    for shards in [1, 3] {
        let server = Server::start_sharded(shards, &["--maxclients", "5"]);
        let mut clients: Vec<Client> = Vec::new();
        // The connection that asked whether the server is up may still be counted.
        wait_until("five clients are served", || {
            let mut client = Client::connect(server.address());
            let served = client.stream().write_all(b"PING\r\n").is_ok()
                && matches!(client.try_read_reply(), Ok(Some(reply)) if reply == b"+PONG\r\n");
            if served {
                clients.push(client);
            }
            clients.len() == 5
        });
        for _ in 0..10 {
            let mut refused = Client::connect(server.address());
            assert_eq!(refused.read_to_close(), MAXCLIENTS_REFUSAL);
        }
        for client in &mut clients {
            client.check("PING", &Status("PONG"));
        }
        if shards == 1 {
            assert!(info::number(&mut clients[0], "rejected_connections") >= 10);
        }
        clients.pop();
        wait_until("there is room again", || {
            let mut client = Client::connect(server.address());
            client.stream().write_all(b"PING\r\n").is_ok()
                && matches!(client.try_read_reply(), Ok(Some(reply)) if reply == b"+PONG\r\n")
        });
    }
}

/// A client that has said everything and closes its sending side still gets every reply, then the end.
#[test]
fn half_closed() {
    for shards in [1, 3] {
        let server = Server::start_sharded(shards, &[]);
        let mut client = Client::connect(server.address());
        let mut wanted = Vec::new();
        let mut pipeline = Vec::new();
        for number in 0..1_000 {
            let key = format!("key:{number}");
            pipeline.extend(encode(&[b"SET", key.as_bytes(), key.as_bytes()]));
            pipeline.extend(encode(&[b"GET", key.as_bytes()]));
            wanted.extend(b"+OK\r\n");
            wanted.extend(bulk(key.as_bytes()));
        }
        client.send_bytes(&pipeline);
        client.shut_down_writing();
        assert!(client.read_to_close() == wanted, "{shards} shards");

        // The end in the middle of a request: what was whole is answered, the rest is nothing.
        let mut client = Client::connect(server.address());
        client.send_bytes(b"PING\r\n*2\r\n$3\r\nGET\r\n$5\r\nkey");
        client.shut_down_writing();
        assert_eq!(client.read_to_close(), b"+PONG\r\n");

        // The end at once.
        let mut client = Client::connect(server.address());
        client.shut_down_writing();
        assert_eq!(client.read_to_close(), b"");
    }
}

/// The same with more to send than sockets hold, to a client that begins to read late.
#[test]
fn half_closed_with_much_to_send() {
    if skip_on_redis("at the end of a client's requests Redis drops the replies that have not been sent") {
        return;
    }
    const VALUE: usize = 1 << 20;
    const GETS: usize = 32;
    for shards in [1, 3] {
        let server = Server::start_sharded(shards, &[]);
        let mut client = Client::connect(server.address());
        let value = vec![b'v'; VALUE];
        assert_eq!(client.call(&[b"SET", b"a", &value]), b"+OK\r\n");
        client.send_bytes(&encode(&[b"GET", b"a"]).repeat(GETS));
        client.shut_down_writing();
        Client::connect(server.address()).check("PING", &Status("PONG"));
        assert!(client.read_to_close() == bulk(&value).repeat(GETS), "{shards} shards");
    }
}

/// Requests that arrive a byte at a time, each byte on its own.
#[test]
fn byte_by_byte() {
    for shards in [1, 3] {
        let server = Server::start_sharded(shards, &[]);
        let mut client = Client::connect(server.address());
        let mut requests = encode(&[b"MSET", b"a", b"1\r\n", b"b", b"2", b"c", b"3"]);
        requests.extend(encode(&[b"MGET", b"a", b"b", b"c"]));
        requests.extend(b"ECHO \"in line\"\r\n");
        for byte in requests {
            client.send_bytes(&[byte]);
            thread::sleep(Duration::from_millis(3));
        }
        assert_eq!(client.read_reply(), b"+OK\r\n");
        assert_eq!(client.read_reply(), b"*3\r\n$3\r\n1\r\n\r\n$1\r\n2\r\n$1\r\n3\r\n");
        assert_eq!(client.read_reply(), b"$7\r\nin line\r\n");
    }
}

#[test]
fn quit_closes() {
    for shards in [1, 3] {
        let server = Server::start_sharded(shards, &[]);
        let mut client = Client::connect(server.address());
        // What was asked before is answered, by whichever shard.
        client.send_bytes(b"SET a 1\r\nGET a\r\nMGET a b c\r\nQUIT\r\nPING\r\n");
        assert_eq!(client.read_to_close(), b"+OK\r\n$1\r\n1\r\n*3\r\n$1\r\n1\r\n$-1\r\n$-1\r\n+OK\r\n");
    }
}

/// A client that leaves without a word, or with requests under way, takes nothing down with it.
#[test]
fn sudden_departures() {
    for shards in [1, 3] {
        let server = Server::start_sharded(shards, &[]);
        let mut stays = Client::connect(server.address());
        assert_eq!(stays.call(&[b"SET", b"a", &[b'v'; 100_000]]), b"+OK\r\n");
        for round in 0..50 {
            let mut stream = TcpStream::connect(server.address()).expect("the server listens");
            let gets = encode(&[b"MGET", b"a", b"b", b"c"]).repeat(round);
            stream.write_all(&gets).expect("the server reads");
            match round % 3 {
                0 => drop(stream),
                1 => stream.shutdown(Shutdown::Both).expect("connected"),
                _ => {
                    // Closing with replies unread resets the connection.
                    let _ = stream.read(&mut [0; 10]);
                }
            }
            stays.check("STRLEN a", &Int(100_000));
        }
        wait_until("one is left", || info::number(&mut stays, "connected_clients") == 1);
    }
}

/// `timeout 1`: who says nothing is let go, who talks is not.
#[test]
fn idle_clients_are_closed() {
    let file = ConfigFile::new("timeout 1\n");
    let server = Server::start_with_file(&file, &["--cores", &common::server::cores(3)]);
    let mut talker = Client::connect(server.address());
    let mut idle: Vec<Client> = (0..6).map(|_| Client::connect(server.address())).collect();
    for client in &mut idle {
        client.check("SET a 1", &Status("OK"));
    }
    thread::scope(|scope| {
        let waiting: Vec<_> = idle.iter_mut().map(|client| scope.spawn(|| client.read_to_close())).collect();
        while !waiting.iter().all(|closed| closed.is_finished()) {
            talker.check("GET a", &Bulk("1"));
            thread::sleep(Duration::from_millis(20));
        }
        for closed in waiting {
            assert_eq!(closed.join().expect("closed in time"), b"");
        }
    });
    talker.check("PING", &Status("PONG"));
}

/// Connections are spread over the shards: none holds more than half again its share.
#[test]
fn balanced_over_shards() {
    if skip_on_redis("it has no shards") {
        return;
    }
    let server = Server::start_sharded(2, &[]);
    let mut clients: Vec<Client> = (0..16).map(|_| Client::connect(server.address())).collect();
    for client in &mut clients {
        client.check("PING", &Status("PONG"));
    }
    let mut counts = [0, 0];
    // The one that asked whether the server is up may still be counted.
    wait_until("sixteen are counted", || {
        counts = [0, 1].map(|shard| info::number(&mut clients[0], &format!("torc_shard{shard}_clients")));
        counts.iter().sum::<u64>() == 16
    });
    assert!(counts.iter().all(|count| *count <= 12), "{counts:?}");
    for client in &mut clients {
        client.check("PING", &Status("PONG"));
    }
}

/// A new connection is answered while another pours in requests without end.
#[test]
fn one_busy_client_does_not_starve_the_next() {
    let server = Server::start_sharded(1, &[]);
    let mut busy = Client::connect(server.address());
    let mut writer = busy.stream().try_clone().expect("a descriptor is left");
    thread::scope(|scope| {
        scope.spawn(move || {
            let pings = b"PING\r\n".repeat(10_000);
            for _ in 0..20 {
                writer.write_all(&pings).expect("the server reads");
            }
        });
        scope.spawn(move || {
            for _ in 0..200_000 {
                assert_eq!(busy.read_reply(), b"+PONG\r\n");
            }
        });
        for number in 0..100 {
            let mut client = Client::connect(server.address());
            client.check(&format!("SET a {number}"), &Status("OK"));
        }
    });
}
