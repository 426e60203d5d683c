//! Every command through a real client, the `redis` crate, on RESP2 and RESP3 and on one and three shards. Exact bytes and
//! errors are in `commands.rs`; here it is shown that a client library takes each answer for what it is.

mod common;

use common::server::Server;
use redis::Value;

/// Commands with what the client should make of the answer, in order, on an empty database.
const SESSION: &[(&str, Want)] = &[
    ("FLUSHALL", Want::Ok),
    ("PING", Want::Simple("PONG")),
    ("PING hello", Want::Text("hello")),
    ("ECHO hello", Want::Text("hello")),
    ("SELECT 1", Want::Ok),
    ("SELECT 0", Want::Ok),
    ("SET k v", Want::Ok),
    ("GET k", Want::Text("v")),
    ("GET none", Want::Nil),
    ("SET k w EX 100 GET", Want::Text("v")),
    ("SET k x PX 100000 XX", Want::Ok),
    ("SET k x NX", Want::Nil),
    ("SET k x EXAT 4102444800", Want::Ok),
    ("SET k x PXAT 4102444800000", Want::Ok),
    ("EXPIRETIME k", Want::Int(4_102_444_800)),
    ("PEXPIRETIME k", Want::Int(4_102_444_800_000)),
    ("SET k y KEEPTTL", Want::Ok),
    ("PERSIST k", Want::Int(1)),
    ("TTL k", Want::Int(-1)),
    ("PTTL none", Want::Int(-2)),
    ("SETNX k z", Want::Int(0)),
    ("SETEX e 100 v", Want::Ok),
    ("PSETEX e 100000 v", Want::Ok),
    ("GETSET k new", Want::Text("y")),
    ("GETEX k EX 100", Want::Text("new")),
    ("GETDEL k", Want::Text("new")),
    ("APPEND a hello", Want::Int(5)),
    ("APPEND a world", Want::Int(10)),
    ("STRLEN a", Want::Int(10)),
    ("GETRANGE a 3 6", Want::Text("lowo")),
    ("SETRANGE a 5 W", Want::Int(10)),
    ("GET a", Want::Text("helloWorld")),
    ("INCR n", Want::Int(1)),
    ("INCRBY n 41", Want::Int(42)),
    ("DECR n", Want::Int(41)),
    ("DECRBY n 40", Want::Int(1)),
    ("INCRBYFLOAT f 0.5", Want::Text("0.5")),
    ("MSET m1 1 m2 2 m3 3 m4 4", Want::Ok),
    ("MGET m1 m2 none m3", Want::List(&[Want::Text("1"), Want::Text("2"), Want::Nil, Want::Text("3")])),
    ("EXISTS m1 m2 m3 none m1", Want::Int(4)),
    ("TOUCH m1 m4 none", Want::Int(2)),
    ("TYPE m1", Want::Simple("string")),
    ("TYPE none", Want::Simple("none")),
    ("OBJECT ENCODING m1", Want::Text("int")),
    ("OBJECT REFCOUNT none", Want::Nil),
    ("MEMORY USAGE m1", Want::Any),
    ("MEMORY DOCTOR", Want::Any),
    ("MEMORY MALLOC-STATS", Want::Any),
    ("MEMORY STATS", Want::Any),
    ("MEMORY PURGE", Want::Ok),
    ("EXPIRE m1 100", Want::Int(1)),
    ("EXPIRE m1 50 GT", Want::Int(0)),
    ("PEXPIRE m1 50000 LT", Want::Int(1)),
    ("EXPIREAT m1 4102444800 XX", Want::Int(1)),
    ("PEXPIREAT m2 4102444800000 NX", Want::Int(1)),
    ("KEYS m?", Want::Count(4)),
    ("SCAN 0 MATCH m? COUNT 1000 TYPE string", Want::Count(2)),
    ("RANDOMKEY", Want::Any),
    ("DBSIZE", Want::Int(8)),
    ("DEL m1 m2 none", Want::Int(2)),
    ("UNLINK m3 m4", Want::Int(2)),
    ("COMMAND COUNT", Want::Any),
    ("COMMAND INFO get", Want::Count(1)),
    ("CONFIG SET timeout 0", Want::Ok),
    ("CONFIG GET timeout", Want::Any),
    ("CONFIG SET maxmemory 100mb maxmemory-policy allkeys-lru", Want::Ok),
    ("CONFIG SET maxmemory 0 maxmemory-policy noeviction", Want::Ok),
    ("CLIENT ID", Want::Any),
    ("CLIENT SETNAME me", Want::Ok),
    ("CLIENT GETNAME", Want::Text("me")),
    ("CLIENT SETINFO LIB-NAME mine", Want::Ok),
    ("INFO server", Want::Any),
    ("TIME", Want::Count(2)),
    ("FLUSHDB", Want::Ok),
    ("DBSIZE", Want::Int(0)),
    ("RESET", Want::Simple("RESET")),
    ("HELLO 2", Want::Any),
    ("QUIT", Want::Ok),
];

#[derive(Debug)]
enum Want {
    Ok,
    Nil,
    Int(i64),
    Text(&'static str),
    Simple(&'static str),
    List(&'static [Want]),
    /// A list of so many, whatever they are.
    Count(usize),
    /// Anything but an error.
    Any,
}

impl Want {
    fn is(&self, value: &Value) -> bool {
        match (self, value) {
            (Want::Ok, Value::Okay) | (Want::Nil, Value::Nil) => true,
            (Want::Int(wanted), Value::Int(got)) => wanted == got,
            (Want::Text(wanted), Value::BulkString(got)) => wanted.as_bytes() == got,
            (Want::Simple(wanted), Value::SimpleString(got)) => wanted == got,
            (Want::List(wanted), Value::Array(got)) => {
                wanted.len() == got.len() && wanted.iter().zip(got).all(|(wanted, got)| wanted.is(got))
            }
            (Want::Count(wanted), Value::Array(got)) => *wanted == got.len(),
            (Want::Any, got) => !matches!(got, Value::ServerError(_)),
            _ => false,
        }
    }
}

#[test]
fn every_command_through_the_client_crate() {
    for shards in [1, 3] {
        let server = Server::start_sharded(shards, &["--requirepass", "secret"]);
        for protocol in ["resp2", "resp3"] {
            let url = format!("redis://:secret@127.0.0.1:{}/?protocol={protocol}", server.port());
            let client = redis::Client::open(url).expect("a good URL");
            let mut connection = client.get_connection().expect("HELLO or AUTH with the password succeeds");
            for (line, wanted) in SESSION {
                let mut words = line.split(' ');
                let mut command = redis::cmd(words.next().expect("a name"));
                for word in words {
                    command.arg(word);
                }
                let got = command.query::<Value>(&mut connection);
                // RESET logs out.
                if *line == "RESET" {
                    redis::cmd("AUTH").arg("secret").exec(&mut connection).expect("the password is right");
                }
                let good = got.as_ref().is_ok_and(|got| wanted.is(got));
                assert!(good, "{shards} shards, {protocol}: {line}\n  wanted {wanted:?}\n  got    {got:?}");
            }
        }
        let url = format!("redis://:secret@127.0.0.1:{}/", server.port());
        let client = redis::Client::open(url).expect("a good URL");
        let mut connection = client.get_connection().expect("the server listens");
        assert!(redis::cmd("SHUTDOWN").arg("NOSAVE").exec(&mut connection).is_err(), "there is no answer");
        let (status, output) = server.wait_for_exit();
        assert!(status.success(), "{status}\n{output}");
    }
}
