//! The drifting load: connections that come and go, each with at most one batch under way, and every reply checked.
//!
//! A value begins with the number of its key, so that a GET can be checked whoever wrote it; what follows is noise.

use super::drift::Mix;
use crate::client::{Address, Client, first_word, write_request};
use crate::error::Error;
use crate::keys::write_value;
use crate::random::Random;
use crate::under_test::connect;
use std::collections::BTreeMap;

/// Requests for which a connection is taken, on average, before it goes.
const BATCHES_PER_CONNECTION: u64 = 100;
/// Times to live, milliseconds: from, and less than.
const EXPIRE_MS: (u64, u64) = (20, 3_000);
/// Counters that INCR uses.
const COUNTERS: u64 = 1_000;
/// Bytes of one APPEND.
const APPEND_BYTES: usize = 16;

enum Expected {
    Ok,
    Integer,
    /// Nothing, or a value of this key.
    ValueOf(u64),
}

struct Lane {
    client: Client,
    owed: Vec<Expected>,
}

pub struct Load {
    address: Address,
    random: Random,
    /// Values are pieces of this.
    noise: Vec<u8>,
    lanes: Vec<Lane>,
    turn: usize,
    out: Vec<u8>,
    pub operations: u64,
    /// Connections that were opened.
    pub opened: u64,
    /// Error replies, by their first word.
    pub refused: BTreeMap<String, u64>,
}

impl Load {
    pub fn new(address: Address, value_bytes_max: usize, seed: u64) -> Load {
        let mut noise = vec![0; 2 * value_bytes_max];
        write_value(&mut noise, seed);
        Load {
            address,
            random: Random::new(seed),
            noise,
            lanes: Vec::new(),
            turn: 0,
            out: Vec::new(),
            operations: 0,
            opened: 0,
            refused: BTreeMap::new(),
        }
    }

    /// Sends one batch on the next connection, after what it was answered before was looked at. Gives the batch's length.
    pub fn step(&mut self, mix: &Mix) -> Result<usize, Error> {
        while self.lanes.len() > mix.connections {
            let last = self.lanes.len() - 1;
            self.take(last)?;
            self.lanes.pop();
        }
        while self.lanes.len() < mix.connections {
            self.lanes.push(Lane { client: connect(&self.address)?, owed: Vec::new() });
            self.opened += 1;
        }
        self.turn = (self.turn + 1) % self.lanes.len();
        if self.random.below(BATCHES_PER_CONNECTION) == 0 {
            // Half of those that go do so without reading what they asked for.
            if self.random.below(2) == 0 {
                self.take(self.turn)?;
            }
            self.lanes[self.turn] = Lane { client: connect(&self.address)?, owed: Vec::new() };
            self.opened += 1;
        }
        self.take(self.turn)?;
        self.out.clear();
        for _ in 0..mix.pipeline {
            let expected = self.write(mix);
            self.lanes[self.turn].owed.push(expected);
        }
        self.operations += mix.pipeline as u64;
        self.lanes[self.turn].client.send(&self.out)?;
        Ok(mix.pipeline)
    }

    /// Takes all replies, and closes all connections.
    pub fn rest(&mut self) -> Result<(), Error> {
        (0..self.lanes.len()).try_for_each(|lane| self.take(lane))?;
        self.lanes.clear();
        Ok(())
    }

    fn write(&mut self, mix: &Mix) -> Expected {
        let random = &mut self.random;
        let index = mix.keys.0 + random.below(mix.keys.1);
        let key = format!("soak:{index}");
        let out = &mut self.out;
        if random.unit() < mix.reads {
            write_request(out, &[b"GET", key.as_bytes()]);
            return Expected::ValueOf(index);
        }
        match random.below(20) {
            0 | 1 => {
                write_request(out, &[b"DEL", key.as_bytes()]);
                Expected::Integer
            }
            2 => {
                let counter = format!("counter:{}", random.below(COUNTERS));
                write_request(out, &[b"INCR", counter.as_bytes()]);
                Expected::Integer
            }
            3 => {
                write_request(out, &[b"EXPIRE", key.as_bytes(), b"5"]);
                Expected::Integer
            }
            4 => {
                // Keys of their own kind, which a SET makes short again now and then.
                let key = format!("appended:{}", random.below(COUNTERS));
                if random.below(8) == 0 {
                    write_request(out, &[b"SET", key.as_bytes(), b""]);
                    return Expected::Ok;
                }
                write_request(out, &[b"APPEND", key.as_bytes(), &self.noise[..APPEND_BYTES]]);
                Expected::Integer
            }
            _ => {
                let (low, high) = mix.value_bytes;
                let bytes = low + random.below((high - low + 1) as u64) as usize;
                let mut value = format!("{index}:").into_bytes();
                let from = random.below((self.noise.len() - bytes) as u64) as usize;
                value.extend_from_slice(&self.noise[from..from + bytes.saturating_sub(value.len())]);
                match random.unit() < mix.expiring {
                    true => {
                        let ms = EXPIRE_MS.0 + random.below(EXPIRE_MS.1 - EXPIRE_MS.0);
                        write_request(out, &[b"SET", key.as_bytes(), &value, b"PX", ms.to_string().as_bytes()]);
                    }
                    false => write_request(out, &[b"SET", key.as_bytes(), &value]),
                }
                Expected::Ok
            }
        }
    }

    /// Takes what a connection is owed.
    fn take(&mut self, lane: usize) -> Result<(), Error> {
        let Lane { client, owed } = &mut self.lanes[lane];
        let (refused, mut wrong) = (&mut self.refused, None);
        let mut expected = owed.iter();
        client.replies(owed.len(), |reply| {
            let expected = expected.next().expect("one for each reply");
            if reply.starts_with(b"-") {
                *refused.entry(first_word(reply)).or_default() += 1;
            } else if wrong.is_none() && !expected.is(reply) {
                wrong = Some((expected.text(), reply.to_vec()));
            }
        })?;
        if let Some((expected, reply)) = wrong {
            return Err(client.wrong(expected, &reply));
        }
        owed.clear();
        Ok(())
    }
}

impl Expected {
    fn is(&self, reply: &[u8]) -> bool {
        match self {
            Expected::Ok => reply == b"+OK\r\n",
            Expected::Integer => reply.starts_with(b":"),
            Expected::ValueOf(_) if reply == b"$-1\r\n" => true,
            Expected::ValueOf(index) => {
                let value = reply.iter().position(|&byte| byte == b'\n').map_or(&[][..], |end| &reply[end + 1..]);
                reply.starts_with(b"$") && value.starts_with(format!("{index}:").as_bytes())
            }
        }
    }

    fn text(&self) -> String {
        match self {
            Expected::Ok => "OK".to_string(),
            Expected::Integer => "an integer".to_string(),
            Expected::ValueOf(index) => format!("nothing, or a value that begins with {index}:"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_are_held_against_what_was_asked() {
        for reply in [&b"$-1\r\n"[..], b"$3\r\n7:x\r\n", b"$2\r\n7:\r\n"] {
            assert!(Expected::ValueOf(7).is(reply), "{}", reply.escape_ascii());
        }
        for reply in [&b"$4\r\n77:x\r\n"[..], b":7\r\n", b"+7:\r\n", b"$0\r\n\r\n", b"$-1"] {
            assert!(!Expected::ValueOf(7).is(reply), "{}", reply.escape_ascii());
        }
        assert!(Expected::Ok.is(b"+OK\r\n") && !Expected::Ok.is(b":1\r\n"));
        assert!(Expected::Integer.is(b":1\r\n") && !Expected::Integer.is(b"+OK\r\n"));
    }
}
