//! A connection that writes keys of its own, reads them and those of others, and holds every reply against what it must be.

use std::collections::HashMap;
use std::io::Write;
use std::net::TcpStream;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use redis::{Connection, Value};

use crate::common::random::Random;
use crate::common::server::PATIENCE;
use crate::history::{Key, State};

/// Keys that a writer has.
const KEYS: u64 = 24;
const BATCH_MAX: u64 = 30;
/// Of so many batches one is sent on a connection that is cut at once.
const CUT: u64 = 150;

/// What the writers of one life of the server know of each other and of it.
pub struct Life {
    pub port: u16,
    /// What is acknowledged is promised.
    pub always: bool,
    /// The server has ended, or is about to be ended.
    pub over: AtomicBool,
    /// The last value that somebody was given of a key, by its name.
    pub seen: Mutex<HashMap<String, u64>>,
    /// Names of keys, for others to read.
    pub names: Mutex<Vec<String>>,
    pub acknowledged: AtomicU64,
    pub refused: AtomicU64,
}

pub struct Writer {
    id: u64,
    random: Random,
    keys: Vec<Key>,
    /// Those that a cut connection may still write to.
    left: Vec<Key>,
    /// How often keys were left.
    epoch: u64,
    /// Of values and of tags; never used twice.
    number: u64,
}

/// What a reply must be.
enum Expected {
    Tag(String),
    Set {
        key: usize,
        operation: usize,
    },
    Delete {
        key: usize,
        operation: usize,
    },
    /// The value behind so many operations.
    Own {
        key: usize,
        behind: usize,
    },
    Other {
        name: String,
    },
}

impl Writer {
    pub fn new(id: u64, seed: u64) -> Writer {
        let mut writer = Writer { id, random: Random(seed), keys: Vec::new(), left: Vec::new(), epoch: 0, number: 0 };
        writer.keys = writer.new_keys();
        writer
    }

    fn new_keys(&self) -> Vec<Key> {
        (0..KEYS).map(|key| Key::new(format!("w{}.{}.{key}", self.id, self.epoch))).collect()
    }

    /// Writes until the life is over.
    pub fn run(&mut self, life: &Life) {
        while !life.over.load(Ordering::SeqCst) {
            let mut connection = match connect(life.port) {
                Ok(connection) => connection,
                Err(error) => {
                    await_end(life, &format!("nobody may connect: {error}"));
                    return;
                }
            };
            self.publish(life);
            let mut last_seen = HashMap::new();
            while !life.over.load(Ordering::SeqCst) {
                if self.random.below(CUT) == 0 {
                    self.cut(life);
                    break;
                }
                if let Err(error) = self.batch(&mut connection, life, &mut last_seen) {
                    await_end(life, &format!("writer {}: {error}", self.id));
                    return;
                }
            }
        }
    }

    /// Holds every key against what the server has; it has just been restarted.
    pub fn verify(&mut self, connection: &mut Connection, seen: &HashMap<String, u64>) -> Result<(), String> {
        for key in self.keys.iter_mut().chain(&mut self.left) {
            if let Some(number) = seen.get(&key.name) {
                key.promise_value(*number);
            }
            let found: Value = redis::cmd("GET").arg(&key.name).query(connection).map_err(|error| error.to_string())?;
            key.settle(read(&key.name, &found)?)?;
        }
        // No connection of before is left that may still write to them.
        for key in self.left.drain(..) {
            let removed: Result<Value, _> = redis::cmd("DEL").arg(&key.name).query(connection);
            removed.map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    /// What was acknowledged until then is to be there after the restart.
    pub fn promise(&mut self, until: Instant) {
        self.keys.iter_mut().chain(&mut self.left).for_each(|key| key.promise(until));
    }

    fn publish(&self, life: &Life) {
        let mut names = life.names.lock().expect("nobody panics with it");
        names.extend(self.keys.iter().map(|key| key.name.clone()));
    }

    /// Sends a batch and takes its replies. Err: the connection has ended.
    fn batch(
        &mut self,
        connection: &mut Connection,
        life: &Life,
        last_seen: &mut HashMap<String, u64>,
    ) -> Result<(), redis::RedisError> {
        let (pipe, expected) = self.requests(life);
        connection.send_packed_command(&pipe)?;
        for expected in expected {
            match connection.recv_response()? {
                Value::ServerError(error) => {
                    assert_eq!(error.code(), "MISCONF", "writer {}: {error:?}", self.id);
                    match expected {
                        Expected::Set { key, operation } | Expected::Delete { key, operation } => {
                            self.keys[key].refuse(operation);
                        }
                        _ => panic!("writer {}: a read was refused: {error:?}", self.id),
                    }
                    life.refused.fetch_add(1, Ordering::Relaxed);
                }
                reply => {
                    self.take(expected, reply, life, last_seen);
                    life.acknowledged.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
        Ok(())
    }

    fn requests(&mut self, life: &Life) -> (Vec<u8>, Vec<Expected>) {
        let (mut bytes, mut expected) = (Vec::new(), Vec::new());
        for _ in 0..1 + self.random.below(BATCH_MAX) {
            let (command, wanted) = self.request(life);
            expected.push(wanted);
            command.write_packed_command(&mut bytes);
        }
        (bytes, expected)
    }

    fn request(&mut self, life: &Life) -> (redis::Cmd, Expected) {
        let key = self.random.below(KEYS) as usize;
        let ask = |name: &str, argument: &str| {
            let mut command = redis::cmd(name);
            command.arg(argument);
            command
        };
        match self.random.below(20) {
            0..=9 => {
                self.number += 1;
                let operation = self.keys[key].send(Some(self.number));
                let name = &self.keys[key].name;
                let mut command = ask("SET", name);
                command.arg(value(name, self.number));
                (command, Expected::Set { key, operation })
            }
            10 | 11 => {
                let operation = self.keys[key].send(None);
                (ask("DEL", &self.keys[key].name), Expected::Delete { key, operation })
            }
            12..=14 => (ask("GET", &self.keys[key].name), Expected::Own { key, behind: self.keys[key].count() }),
            15..=17 => {
                let names = life.names.lock().expect("nobody panics with it");
                let name = names[self.random.below(names.len() as u64) as usize].clone();
                (ask("GET", &name), Expected::Other { name })
            }
            _ => {
                self.number += 1;
                let tag = format!("tag {}.{}", self.id, self.number);
                (ask("ECHO", &tag), Expected::Tag(tag))
            }
        }
    }

    fn take(&mut self, expected: Expected, reply: Value, life: &Life, last_seen: &mut HashMap<String, u64>) {
        let id = self.id;
        match expected {
            Expected::Tag(tag) => assert_eq!(reply, Value::BulkString(tag.into_bytes()), "writer {id}: out of order"),
            Expected::Set { key, operation } => {
                assert_eq!(reply, Value::Okay, "writer {id}");
                self.keys[key].acknowledge(operation);
            }
            // All replies to what came before are known by now.
            Expected::Delete { key, operation } => {
                let existed = self.keys[key].state_behind(operation).is_some();
                assert_eq!(reply, Value::Int(existed.into()), "writer {id}: {}", self.keys[key].name);
                self.keys[key].acknowledge(operation);
            }
            Expected::Own { key, behind } => {
                let (name, state) = (&self.keys[key].name, self.keys[key].state_behind(behind));
                let found = read(name, &reply).unwrap_or_else(|wrong| panic!("writer {id}: {wrong}"));
                assert_eq!(found, state, "writer {id}: {name}");
            }
            Expected::Other { name } => {
                let found = read(&name, &reply).unwrap_or_else(|wrong| panic!("writer {id}: {wrong}"));
                let Some(number) = found else { return };
                let last = last_seen.insert(name.clone(), number).unwrap_or(0);
                assert!(number >= last, "writer {id}: {name} was {last} before it was {number}");
                if life.always {
                    let mut seen = life.seen.lock().expect("nobody panics with it");
                    let most = seen.entry(name).or_default();
                    *most = number.max(*most);
                }
            }
        }
    }

    /// Sends writes on a connection that is closed at once: they may happen now, later or not at all. So their keys are left.
    fn cut(&mut self, life: &Life) {
        let Ok(mut stream) = TcpStream::connect(("127.0.0.1", life.port)) else { return };
        let (bytes, expected) = self.requests(life);
        // A reply that is not taken makes the close a reset.
        let part = self.random.below(bytes.len() as u64 + 1) as usize;
        let _ = stream.write_all(&bytes[..part]);
        if self.random.below(2) == 0 {
            thread::sleep(Duration::from_millis(self.random.below(5)));
        }
        drop((stream, expected));
        self.epoch += 1;
        let keys = self.new_keys();
        self.left.extend(std::mem::replace(&mut self.keys, keys));
    }
}

/// The value with a number, of a key: it says whose it is, and has a length that the number decides.
fn value(name: &str, number: u64) -> Vec<u8> {
    let len = match number % 40 {
        0 => 20_000,
        part => (part * 7) as usize,
    };
    let mut value = format!("{name}#{number}#").into_bytes();
    value.resize(value.len() + len, b'a' + (number % 26) as u8);
    value
}

/// The number of a key's value, which is checked whole.
fn read(name: &str, reply: &Value) -> Result<State, String> {
    let bytes = match reply {
        Value::Nil => return Ok(None),
        Value::BulkString(bytes) => bytes,
        other => return Err(format!("{name}: {other:?} is no value")),
    };
    let number =
        String::from_utf8_lossy(&bytes[..bytes.len().min(64)]).split('#').nth(1).and_then(|text| text.parse().ok());
    match number.filter(|&number| value(name, number) == *bytes) {
        Some(number) => Ok(Some(number)),
        None => {
            Err(format!("{name} has a value that is not its own: {}", bytes[..bytes.len().min(100)].escape_ascii()))
        }
    }
}

pub fn connect(port: u16) -> Result<Connection, redis::RedisError> {
    let client = redis::Client::open(format!("redis://127.0.0.1:{port}/"))?;
    let connection = client.get_connection_with_timeout(PATIENCE)?;
    connection.set_read_timeout(Some(PATIENCE))?;
    connection.set_write_timeout(Some(PATIENCE))?;
    Ok(connection)
}

/// A connection has ended: so must the server.
fn await_end(life: &Life, why: &str) {
    let start = Instant::now();
    while !life.over.load(Ordering::SeqCst) {
        assert!(start.elapsed() < PATIENCE, "the server did not end, but {why}");
        thread::sleep(Duration::from_millis(5));
    }
}
