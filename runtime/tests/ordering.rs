//! Replies come in the order of the commands, whichever shards run them.
//!
//! Several connections at once send long pipelines of random commands over keys that are spread on all shards, in
//! pieces that end anywhere. Each connection has keys of its own, so a plain map can say beforehand what every reply
//! must be, byte for byte. `TORC_TEST_SEED=<n>` runs a failed seed again.

mod common;

use std::collections::HashMap;
use std::thread;

use common::client::{Client, bulk, encode};
use common::random::{Random, seed};
use common::server::Server;

/// Keys per connection: few enough that commands meet, enough that they live everywhere.
const KEYS: u64 = 48;

#[test]
fn one_shard() {
    check(&Server::start_sharded(1, &[]), 4, 6_000);
}

#[test]
fn three_shards() {
    check(&Server::start_sharded(3, &[]), 8, 12_500);
}

/// The other way to wake a sleeping shard.
#[test]
fn two_shards_woken_by_eventfd() {
    check(&Server::start_sharded(2, &["--wakeup", "eventfd"]), 4, 2_500);
}

/// With a single connection even DBSIZE is known exactly.
#[test]
fn one_connection_on_three_shards() {
    check(&Server::start_sharded(3, &[]), 1, 20_000);
}

/// `commands` commands on each of `connections` connections.
fn check(server: &Server, connections: u64, commands: usize) {
    let seed = seed();
    eprintln!("TORC_TEST_SEED={seed}");
    thread::scope(|scope| {
        for connection in 0..connections {
            scope.spawn(move || converse(server, connection, connections, commands, seed));
        }
    });
}

fn converse(server: &Server, connection: u64, connections: u64, commands: usize, seed: u64) {
    let mut random = Random(seed ^ connection.wrapping_mul(0x5851_f42d_4c95_7f2d));
    let mut model = Model { prefix: format!("c{connection}:"), values: HashMap::new(), keys_all: connections * KEYS };
    let mut pipeline = Vec::new();
    let mut steps = Vec::with_capacity(commands);
    for _ in 0..commands {
        let command = model.random_command(&mut random);
        let arguments: Vec<&[u8]> = command.iter().map(Vec::as_slice).collect();
        pipeline.extend(encode(&arguments));
        let wanted = model.execute(&command);
        steps.push((command, wanted));
    }

    let mut client = Client::connect(server.address());
    let writer = client.stream().try_clone().expect("a descriptor is left");
    thread::scope(|scope| {
        scope.spawn(move || {
            let mut writer = Client::from_stream(writer);
            let mut rest = pipeline.as_slice();
            while !rest.is_empty() {
                // Mostly big pieces; some that cut a request's header in two.
                let most = if random.below(4) == 0 { 20 } else { 16 << 10 };
                let (piece, after) = rest.split_at(rest.len().min(1 + random.below(most) as usize));
                writer.send_bytes(piece);
                rest = after;
            }
        });
        for (index, (command, wanted)) in steps.iter().enumerate() {
            let reply = client.read_reply();
            assert!(
                wanted.is_met(&reply),
                "TORC_TEST_SEED={seed}, connection {connection}, command {index}: {}\n  wanted {wanted}\n  got    {}",
                command.join(&b' ').escape_ascii(),
                reply.escape_ascii()
            );
        }
    });
}

/// What one connection's keys hold, in the plainest way there is.
struct Model {
    prefix: String,
    values: HashMap<Vec<u8>, Vec<u8>>,
    /// Keys of all connections together.
    keys_all: u64,
}

/// A reply that is known, or an integer that depends on how far the other connections are.
enum Wanted {
    Exact(Vec<u8>),
    Between(u64, u64),
}

impl Model {
    fn random_command(&self, random: &mut Random) -> Vec<Vec<u8>> {
        let key = |random: &mut Random| format!("{}{}", self.prefix, random.below(KEYS)).into_bytes();
        let word = |text: &str| text.as_bytes().to_vec();
        match random.below(100) {
            0..25 => vec![word("GET"), key(random)],
            25..45 => vec![word("SET"), key(random), value(random)],
            45..60 => vec![word("INCR"), key(random)],
            60..70 => {
                let mut command = vec![word("MGET")];
                command.extend((0..1 + random.below(12)).map(|_| key(random)));
                command
            }
            70..80 => {
                let mut command = vec![word("MSET")];
                for _ in 0..1 + random.below(12) {
                    command.extend([key(random), value(random)]);
                }
                command
            }
            80..88 => {
                let mut command = vec![word("DEL")];
                command.extend((0..1 + random.below(4)).map(|_| key(random)));
                command
            }
            88..93 => {
                let mut command = vec![word("EXISTS")];
                command.extend((0..1 + random.below(6)).map(|_| key(random)));
                command
            }
            93..96 => vec![word("PING")],
            96..98 => vec![word("ECHO"), value(random)],
            _ => vec![word("DBSIZE")],
        }
    }

    fn execute(&mut self, command: &[Vec<u8>]) -> Wanted {
        let keys = &command[1..];
        let integer = |value: usize| format!(":{value}\r\n").into_bytes();
        Wanted::Exact(match command[0].as_slice() {
            b"GET" => self.read(&keys[0]),
            b"SET" | b"MSET" => {
                for pair in keys.chunks(2) {
                    self.values.insert(pair[0].clone(), pair[1].clone());
                }
                b"+OK\r\n".to_vec()
            }
            b"INCR" => self.increment(&keys[0]),
            b"MGET" => {
                let mut reply = format!("*{}\r\n", keys.len()).into_bytes();
                reply.extend(keys.iter().flat_map(|key| self.read(key)));
                reply
            }
            b"DEL" => integer(keys.iter().filter(|key| self.values.remove(*key).is_some()).count()),
            b"EXISTS" => integer(keys.iter().filter(|key| self.values.contains_key(*key)).count()),
            b"PING" => b"+PONG\r\n".to_vec(),
            b"ECHO" => bulk(&command[1]),
            b"DBSIZE" => {
                let own = self.values.len() as u64;
                return Wanted::Between(own, own + self.keys_all - KEYS);
            }
            _ => unreachable!("random_command makes no other"),
        })
    }

    fn read(&self, key: &[u8]) -> Vec<u8> {
        self.values.get(key).map_or(b"$-1\r\n".to_vec(), |value| bulk(value))
    }

    fn increment(&mut self, key: &[u8]) -> Vec<u8> {
        let text = self.values.get(key).map_or("0", |value| std::str::from_utf8(value).unwrap_or(""));
        match text.parse::<i64>() {
            Ok(number) if number.to_string() == text => {
                self.values.insert(key.to_vec(), (number + 1).to_string().into_bytes());
                format!(":{}\r\n", number + 1).into_bytes()
            }
            _ => b"-ERR value is not an integer or out of range\r\n".to_vec(),
        }
    }
}

/// Half of the values are numbers, so that INCR has something to count; a few are big enough to be shared, not copied.
fn value(random: &mut Random) -> Vec<u8> {
    let size = match random.below(200) {
        0..100 => return random.below(1_000_000).to_string().into_bytes(),
        199 => 20_000 + random.below(20_000),
        _ => random.below(100),
    };
    (0..size).map(|_| random.next() as u8).collect()
}

impl Wanted {
    fn is_met(&self, reply: &[u8]) -> bool {
        match self {
            Wanted::Exact(wanted) => reply == wanted,
            Wanted::Between(low, high) => {
                let number = reply.strip_prefix(b":").and_then(|rest| rest.strip_suffix(b"\r\n"));
                let number: Option<u64> = number.and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok());
                number.is_some_and(|number| *low <= number && number <= *high)
            }
        }
    }
}

impl std::fmt::Display for Wanted {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Wanted::Exact(wanted) => write!(formatter, "{}", wanted.escape_ascii()),
            Wanted::Between(low, high) => write!(formatter, "an integer from {low} to {high}"),
        }
    }
}
