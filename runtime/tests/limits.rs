//! What a client can do to the server: read slowly, send nonsense, promise much, use big values. Memory stays bounded,
//! the texts are Redis's, and the others are served meanwhile.

mod common;

use std::io::{Read, Write};
use std::thread;
use std::time::Duration;

use common::client::{Client, bulk, encode};
use common::random::Random;
use common::server::{ConfigFile, Server, cores};
use common::want::Want::{Bulk, Int, List, Nil, Status};
use common::{peer_is_redis, skip_on_redis};

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;
/// What a misbehaving client may cost.
const GROWTH_BYTES_MAX: u64 = 64 << 20;

/// A client asks for 1 GiB and does not read. The server keeps it waiting instead of keeping its replies, and when it
/// reads at last everything is there.
#[test]
fn slow_reader() {
    const GETS: usize = 1024;
    for shards in [1, 3] {
        let server = Server::start_sharded(shards, &[]);
        let mut other = Client::connect(server.address());
        other.check("SET small x", &Status("OK"));
        let mut slow = Client::connect(server.address());
        let value = random_bytes(MIB);
        assert_eq!(slow.call(&[b"SET", b"big", &value]), b"+OK\r\n");
        let before = server.resident_bytes();

        slow.send_bytes(&encode(&[b"GET", b"big"]).repeat(GETS));
        let mut most = before;
        for _ in 0..100 {
            other.check("GET small", &Bulk("x"));
            other.check("STRLEN big", &Int(MIB as i64));
            most = most.max(server.resident_bytes());
            thread::sleep(Duration::from_millis(5));
        }
        if !skip_on_redis("a bound on what is kept for a slow reader") {
            let growth = most - before;
            assert!(growth < GROWTH_BYTES_MAX, "{shards} shards: grew by {} KiB", growth / 1024);
        }

        let wanted = bulk(&value);
        let mut reply = vec![0; wanted.len()];
        for number in 0..GETS {
            slow.stream().read_exact(&mut reply).expect("every reply comes");
            assert!(reply == wanted, "{shards} shards: reply {number} is not the value");
        }
        slow.check("PING", &Status("PONG"));
    }
}

/// The same, but the unread replies are many and small, and the requests themselves do not fit.
#[test]
#[cfg_attr(asan, ignore = "what AddressSanitizer keeps is resident too")]
fn slow_reader_of_small_replies() {
    const COMMANDS: usize = 200_000;
    for shards in [1, 3] {
        let server = Server::start_sharded(shards, &[]);
        let mut other = Client::connect(server.address());
        assert_eq!(other.call(&[b"SET", b"a", &[b'a'; 200]]), b"+OK\r\n");
        let before = server.resident_bytes();
        let slow = Client::connect(server.address());
        let mut writer = slow.stream().try_clone().expect("a descriptor is left");
        thread::scope(|scope| {
            let request = encode(&[b"MGET", b"a", b"b", b"c"]);
            scope.spawn(move || {
                for _ in 0..COMMANDS / 1000 {
                    writer.write_all(&request.repeat(1000)).expect("the server reads on when it is read");
                }
            });
            let mut most = before;
            for _ in 0..100 {
                other.check("STRLEN a", &Int(200));
                most = most.max(server.resident_bytes());
                thread::sleep(Duration::from_millis(5));
            }
            let growth = most - before;
            let bounded = peer_is_redis() || growth < GROWTH_BYTES_MAX;
            let wanted = format!("*3\r\n$200\r\n{}\r\n$-1\r\n$-1\r\n", "a".repeat(200)).into_bytes().repeat(1000);
            let mut replies = vec![0; wanted.len()];
            for number in 0..COMMANDS / 1000 {
                slow.stream().read_exact(&mut replies).expect("every reply comes");
                assert!(replies == wanted, "{shards} shards: among the replies {number}000 and following");
            }
            assert!(bounded, "{shards} shards: grew by {} KiB", growth / 1024);
        });
    }
}

/// `client-output-buffer-limit`: a client whose unsent output passes the hard limit is closed, the others are not.
#[test]
fn output_buffer_limit() {
    let file = ConfigFile::new("client-output-buffer-limit normal 1mb 0 0\n");
    for shards in [1, 3] {
        let server = Server::start_with_file(&file, &["--cores", &cores(shards)]);
        let mut other = Client::connect(server.address());
        assert_eq!(other.call(&[b"SET", b"big", &vec![b'b'; 8 * MIB]]), b"+OK\r\n");
        assert_eq!(other.call(&[b"SET", b"medium", &vec![b'm'; 512 * KIB]]), b"+OK\r\n");

        let mut greedy = Client::connect(server.address());
        greedy.send_bytes(&encode(&[b"GET", b"big"]));
        let received = greedy.read_to_close().len();
        assert!(received < 8 * MIB, "{shards} shards: {received} bytes came through");

        assert_eq!(other.call(&[b"GET", b"medium"]), bulk(&vec![b'm'; 512 * KIB]));
        other.check("STRLEN big", &Int(8 * MIB as i64));
    }
}

const BAD_MULTIBULK_LENGTH: &[u8] = b"-ERR Protocol error: invalid multibulk length\r\n";
const BAD_BULK_LENGTH: &[u8] = b"-ERR Protocol error: invalid bulk length\r\n";
const UNBALANCED: &[u8] = b"-ERR Protocol error: unbalanced quotes in request\r\n";

/// Input that is no request is answered with its error, and the connection is closed. Whatever was whole before it is
/// answered first.
#[test]
fn malformed_requests() {
    let digits = vec![b'1'; 64 * KIB + 1];
    let letters = vec![b'x'; 64 * KIB + 1];
    let rows: Vec<(Vec<u8>, &[u8])> = vec![
        (b"*x\r\n".to_vec(), BAD_MULTIBULK_LENGTH),
        (b"*\r\n".to_vec(), BAD_MULTIBULK_LENGTH),
        (b"*1.5\r\n".to_vec(), BAD_MULTIBULK_LENGTH),
        (b"* 1\r\n".to_vec(), BAD_MULTIBULK_LENGTH),
        (b"*+1\r\n".to_vec(), BAD_MULTIBULK_LENGTH),
        (b"*01\r\n".to_vec(), BAD_MULTIBULK_LENGTH),
        (b"*2147483648\r\n".to_vec(), BAD_MULTIBULK_LENGTH),
        (b"*99999999999999999999\r\n".to_vec(), BAD_MULTIBULK_LENGTH),
        (b"*1\r\n$x\r\n".to_vec(), BAD_BULK_LENGTH),
        (b"*1\r\n$\r\n".to_vec(), BAD_BULK_LENGTH),
        (b"*1\r\n$-1\r\n".to_vec(), BAD_BULK_LENGTH),
        (b"*1\r\n$04\r\n".to_vec(), BAD_BULK_LENGTH),
        (b"*1\r\n$536870913\r\n".to_vec(), BAD_BULK_LENGTH),
        (b"*1\r\n$99999999999999999999\r\n".to_vec(), BAD_BULK_LENGTH),
        (b"*2\r\n$4\r\nECHO\r\n$x\r\n".to_vec(), BAD_BULK_LENGTH),
        (b"*1\r\n+PING\r\n".to_vec(), b"-ERR Protocol error: expected '$', got '+'\r\n"),
        (b"*1\r\nPING\r\n".to_vec(), b"-ERR Protocol error: expected '$', got 'P'\r\n"),
        // A control character is shown as a space.
        (b"*1\r\n\r\n".to_vec(), b"-ERR Protocol error: expected '$', got ' '\r\n"),
        (b"*1\r\n*1\r\n".to_vec(), b"-ERR Protocol error: expected '$', got '*'\r\n"),
        (b"*2\r\n$4\r\nECHO\r\n:5\r\n".to_vec(), b"-ERR Protocol error: expected '$', got ':'\r\n"),
        (b"SET a \"b\r\n".to_vec(), UNBALANCED),
        (b"SET a 'b\r\n".to_vec(), UNBALANCED),
        (b"SET a \"b\"c\r\n".to_vec(), UNBALANCED),
        (letters, b"-ERR Protocol error: too big inline request\r\n"),
        ([b"*", &digits[..]].concat(), b"-ERR Protocol error: too big mbulk count string\r\n"),
        ([b"*1\r\n$", &digits[..]].concat(), b"-ERR Protocol error: too big bulk count string\r\n"),
    ];
    for shards in [1, 3] {
        let server = Server::start_sharded(shards, &[]);
        for (input, wanted) in &rows {
            check_refused(&server, b"", input, wanted);
            check_refused(&server, b"*1\r\n$4\r\nPING\r\nSET a 1\r\nMGET a b\r\n", input, wanted);
            if input.len() < 100 {
                let mut client = Client::connect(server.address());
                for byte in input {
                    client.send_bytes(&[*byte]);
                }
                assert_eq!(client.read_to_close().escape_ascii().to_string(), wanted.escape_ascii().to_string());
            }
        }
        Client::connect(server.address()).check("PING", &Status("PONG"));
    }
}

fn check_refused(server: &Server, before: &[u8], input: &[u8], wanted: &[u8]) {
    let mut client = Client::connect(server.address());
    client.send_bytes(&[before, input].concat());
    let answered: &[u8] = if before.is_empty() { b"" } else { b"+PONG\r\n+OK\r\n*2\r\n$1\r\n1\r\n$-1\r\n" };
    let wanted = [answered, wanted].concat();
    let input = input[..input.len().min(80)].escape_ascii();
    assert_eq!(client.read_to_close().escape_ascii().to_string(), wanted.escape_ascii().to_string(), "{input}");
}

/// One argument more than Redis documents as the most. (Redis 7.0 itself counts to 2^31.)
#[test]
fn too_many_arguments() {
    if skip_on_redis("7.0 accepts any count below 2^31") {
        return;
    }
    let server = Server::start_sharded(1, &[]);
    check_refused(&server, b"", b"*1048577\r\n", BAD_MULTIBULK_LENGTH);
}

/// Before the password, requests are small.
#[test]
fn requests_before_the_password() {
    for shards in [1, 3] {
        let server = Server::start_sharded(shards, &["--requirepass", "secret"]);
        check_refused(&server, b"", b"*11\r\n", b"-ERR Protocol error: unauthenticated multibulk length\r\n");
        check_refused(&server, b"", b"*1\r\n$16385\r\n", b"-ERR Protocol error: unauthenticated bulk length\r\n");
        let mut client = Client::connect(server.address());
        client.check("AUTH secret", &Status("OK"));
        assert_eq!(client.call(&[b"ECHO", &[b'x'; 16_385]]), bulk(&[b'x'; 16_385]));
        client.check("EXISTS a b c d e f g h i j k", &Int(0));
    }
}

/// Counts of nothing are nothing.
#[test]
fn empty_requests() {
    let server = Server::start_sharded(1, &[]);
    let mut client = Client::connect(server.address());
    for input in ["*0\r\n", "*-1\r\n", "*-5\r\n", "\r\n", "\n", "  \r\n"] {
        client.send_bytes(input.as_bytes());
        client.check("PING", &Status("PONG"));
    }
}

/// A browser made to talk to the port by a web page is cut off before it can do harm.
#[test]
fn http_is_cut_off() {
    for request in ["POST / HTTP/1.1\r\nHost: x\r\n\r\nFLUSHALL\r\n", "GET a\r\nHost: 127.0.0.1\r\nFLUSHALL\r\n"] {
        let server = Server::start_sharded(1, &[]);
        let mut other = Client::connect(server.address());
        other.check("SET a 1", &Status("OK"));
        let mut client = Client::connect(server.address());
        client.send_bytes(request.as_bytes());
        let reply = client.read_to_close();
        assert!(reply.is_empty() || reply == b"$1\r\n1\r\n", "{}", reply.escape_ascii());
        other.check("GET a", &Bulk("1"));
    }
}

/// Promises cost nothing until they are kept.
#[test]
fn promised_bytes() {
    let server = Server::start_sharded(2, &[]);
    let mut other = Client::connect(server.address());
    other.check("PING", &Status("PONG"));
    let before = server.resident_bytes();
    let mut promising: Vec<Client> = (0..8).map(|_| Client::connect(server.address())).collect();
    for (number, client) in promising.iter_mut().enumerate() {
        client.send_bytes(b"PING\r\n");
        if number % 2 == 0 {
            client.send_bytes(b"*2\r\n$4\r\nECHO\r\n$536870912\r\n");
            client.send_bytes(&[b'x'; 40_000]);
        } else {
            client.send_bytes(b"*1000000\r\n$4\r\nMGET\r\n$1\r\na\r\n");
        }
        assert_eq!(client.read_reply(), b"+PONG\r\n");
    }
    let mut most = before;
    for _ in 0..50 {
        other.check("PING", &Status("PONG"));
        most = most.max(server.resident_bytes());
        thread::sleep(Duration::from_millis(2));
    }
    let growth = most - before;
    assert!(growth < GROWTH_BYTES_MAX, "grew by {} KiB", growth / 1024);
}

#[test]
fn big_values() {
    for shards in [1, 3] {
        let server = Server::start_sharded(shards, &[]);
        let mut client = Client::connect(server.address());
        for size in [16 * KIB - 1, 16 * KIB, 16 * KIB + 1, 100 * KIB, 8 * MIB] {
            for key in ["a", "b", "c"] {
                round_trip(&mut client, key.as_bytes(), size);
            }
        }
        client.check("DBSIZE", &Int(0));
    }
}

fn round_trip(client: &mut Client, key: &[u8], size: usize) {
    let mut value = random_bytes(size);
    let integer = |number: usize| format!(":{number}\r\n").into_bytes();
    let decimal = |number: usize| number.to_string().into_bytes();
    assert!(client.call(&[b"SET", key, &value]) == b"+OK\r\n", "SET of {size}");
    assert!(client.call(&[b"GET", key]) == bulk(&value), "GET of {size}");
    assert!(client.call(&[b"ECHO", &value]) == bulk(&value), "ECHO of {size}");

    assert!(client.call(&[b"APPEND", key, b"tail"]) == integer(size + 4), "APPEND to {size}");
    value.extend_from_slice(b"tail");
    let more = random_bytes(50 * KIB);
    assert!(client.call(&[b"APPEND", key, &more]) == integer(size + 4 + more.len()), "long APPEND to {size}");
    value.extend_from_slice(&more);
    assert!(client.call(&[b"GET", key]) == bulk(&value), "GET after APPEND to {size}");

    assert!(client.call(&[b"SETRANGE", key, &decimal(size / 2), b"middle"]) == integer(value.len()));
    value[size / 2..size / 2 + 6].copy_from_slice(b"middle");
    let range = client.call(&[b"GETRANGE", key, &decimal(size / 2 - 100), &decimal(size / 2 + 99)]);
    assert!(range == bulk(&value[size / 2 - 100..size / 2 + 100]), "short GETRANGE of {size}");
    let range = client.call(&[b"GETRANGE", key, b"1", b"-2"]);
    assert!(range == bulk(&value[1..value.len() - 1]), "long GETRANGE of {size}");
    assert!(client.call(&[b"STRLEN", key]) == integer(value.len()));
    assert!(client.call(&[b"INCR", key]) == b"-ERR value is not an integer or out of range\r\n");

    assert!(client.call(&[b"GETSET", key, &more]) == bulk(&value), "GETSET of {size}");
    assert!(client.call(&[b"SET", key, &value, b"GET"]) == bulk(&more), "SET GET of {size}");
    assert!(client.call(&[b"GETEX", key, b"EX", b"100"]) == bulk(&value), "GETEX of {size}");
    assert!(client.call(&[b"GETDEL", key]) == bulk(&value), "GETDEL of {size}");
    client.check("EXISTS a b c", &Int(0));
}

/// Big and small values in one pipeline, on all shards, with a reader that keeps up and one that does not.
#[test]
fn big_and_small_values_in_one_pipeline() {
    for shards in [1, 3] {
        let server = Server::start_sharded(shards, &[]);
        let mut client = Client::connect(server.address());
        let sizes = [8 * MIB, 10, 100 * KIB, 0, 20 * KIB, 1000, MIB, 1];
        let keys: Vec<String> = (0..24).map(|number| format!("key:{number}")).collect();
        let values: Vec<Vec<u8>> = (0..24).map(|number| random_bytes(sizes[number % sizes.len()])).collect();

        // Written as one MSET per eight and a pipeline of SETs for the rest; read back by GET and by MGET.
        let mut pipeline = Vec::new();
        let mut wanted = Vec::new();
        let mut mset: Vec<&[u8]> = vec![b"MSET"];
        for (key, value) in keys.iter().zip(&values).take(8) {
            mset.extend([key.as_bytes(), value]);
        }
        pipeline.extend(encode(&mset));
        wanted.extend(b"+OK\r\n");
        for (key, value) in keys.iter().zip(&values).skip(8) {
            pipeline.extend(encode(&[b"SET", key.as_bytes(), value]));
            wanted.extend(b"+OK\r\n");
        }
        let mut mget: Vec<&[u8]> = vec![b"MGET", b"missing"];
        wanted_gets(&keys, &values, &mut pipeline, &mut wanted);
        mget.extend(keys.iter().map(String::as_bytes));
        pipeline.extend(encode(&mget));
        wanted.extend(format!("*{}\r\n$-1\r\n", keys.len() + 1).into_bytes());
        wanted.extend(values.iter().flat_map(|value| bulk(value)));
        pipeline.extend(b"PING\r\n");
        wanted.extend(b"+PONG\r\n");

        let mut writer = client.stream().try_clone().expect("a descriptor is left");
        thread::scope(|scope| {
            scope.spawn(move || writer.write_all(&pipeline).expect("the server reads"));
            let mut replies = vec![0; wanted.len()];
            client.stream().read_exact(&mut replies).expect("every reply comes");
            let wrong = replies.iter().zip(&wanted).position(|(got, wanted)| got != wanted);
            assert!(replies == wanted, "{shards} shards: wrong from byte {wrong:?} of {}", wanted.len());
        });

        client.check("MGET missing missing", &List(&[Nil, Nil]));
        let mut unlink: Vec<&[u8]> = vec![b"UNLINK"];
        unlink.extend(keys.iter().map(String::as_bytes));
        assert_eq!(client.call(&unlink), b":24\r\n");
    }
}

fn wanted_gets(keys: &[String], values: &[Vec<u8>], pipeline: &mut Vec<u8>, wanted: &mut Vec<u8>) {
    for (key, value) in keys.iter().zip(values) {
        pipeline.extend(encode(&[b"GET", key.as_bytes()]));
        pipeline.extend(b"PING\r\n");
        wanted.extend(bulk(value));
        wanted.extend(b"+PONG\r\n");
    }
}

/// Bytes that do not repeat, so that a piece in the wrong place shows.
fn random_bytes(size: usize) -> Vec<u8> {
    let mut random = Random(size as u64);
    let mut bytes = Vec::with_capacity(size + 8);
    while bytes.len() < size {
        bytes.extend(random.next().to_le_bytes());
    }
    bytes.truncate(size);
    bytes
}
