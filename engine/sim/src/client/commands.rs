//! What clients say: random commands on a client's own keys. `model.rs` knows what each answers.

use super::model::LONG_S;
use crate::random::Random;

/// Keys that a client uses: few, so that commands meet.
const KEYS: usize = 24;

/// Makes commands for one client.
pub(crate) struct Generator {
    pub random: Random,
    /// Keys begin with this.
    pub prefix: String,
    /// Longest value of the long ones.
    pub big_bytes: usize,
}

fn words(words: &[&str]) -> Vec<Vec<u8>> {
    words.iter().map(|word| word.as_bytes().to_vec()).collect()
}

impl Generator {
    fn key(&mut self) -> Vec<u8> {
        let number = self.random.below(KEYS);
        // Some keys share a slot by their hash tag, so that commands about several keys go to one shard too.
        match number % 4 {
            0 => format!("{}{{tag}}{number}", self.prefix),
            _ => format!("{}{number}", self.prefix),
        }
        .into_bytes()
    }

    fn value(&mut self) -> Vec<u8> {
        let len = match self.random.below(20) {
            0 => return Vec::new(),
            1..=5 => return self.random.below(1000).to_string().into_bytes(),
            // Around the length from which values travel as refcounted bytes.
            6 if self.big_bytes > 0 => self.random.between(16 * 1024 - 2, 16 * 1024 + 2),
            7 if self.big_bytes > 0 => self.random.between(1, self.big_bytes),
            8 => self.random.between(1, 3000),
            _ => self.random.between(1, 40),
        };
        // Not all alike, so that a piece at the wrong place is noticed; line breaks and zeros included.
        let mut byte = self.random.number() as u8;
        (0..len)
            .map(|_| {
                byte = byte.wrapping_mul(5).wrapping_add(3);
                byte
            })
            .collect()
    }

    /// A random command, its name first.
    pub fn command(&mut self) -> Vec<Vec<u8>> {
        let long = LONG_S.to_string();
        let long_ms = (LONG_S * 1000).to_string();
        let list = |name: &str, parts: Vec<Vec<u8>>| {
            let mut all = words(&[name]);
            all.extend(parts);
            all
        };
        match self.random.below(40) {
            0..=6 => list("GET", vec![self.key()]),
            7..=11 => list("SET", vec![self.key(), self.value()]),
            12 | 13 => {
                let mut all = list("SET", vec![self.key(), self.value()]);
                let options: &[&[&str]] = &[
                    &["NX"],
                    &["XX"],
                    &["GET"],
                    &["NX", "GET"],
                    &["XX", "GET"],
                    &["KEEPTTL"],
                    &["EX", &long],
                    &["XX", "EX", &long],
                    &["NX", "XX"],
                ];
                all.extend(words(options[self.random.below(options.len())]));
                all
            }
            14 | 15 => list("INCR", vec![self.key()]),
            16 => {
                let by = self.random.number() as i64 >> self.random.below(60);
                list("INCRBY", vec![self.key(), by.to_string().into_bytes()])
            }
            17 | 18 => list("APPEND", vec![self.key(), self.value()]),
            19 => {
                let most = if self.big_bytes > 0 && self.random.one_in(8) { 20_000 } else { 60 };
                let offset = self.random.below(most).to_string().into_bytes();
                list("SETRANGE", vec![self.key(), offset, self.value()])
            }
            20 => {
                let mut offset = || (self.random.below(100) as i64 - 50).to_string().into_bytes();
                let (start, end) = (offset(), offset());
                list("GETRANGE", vec![self.key(), start, end])
            }
            21..=23 => {
                let keys = (0..self.random.between(1, 6)).map(|_| self.key()).collect();
                list("MGET", keys)
            }
            24 | 25 => {
                let pairs = (0..self.random.between(1, 5)).flat_map(|_| [self.key(), self.value()]).collect();
                list("MSET", pairs)
            }
            26 => {
                let keys = (0..self.random.between(1, 4)).map(|_| self.key()).collect();
                list(if self.random.one_in(2) { "DEL" } else { "UNLINK" }, keys)
            }
            27 => {
                let keys = (0..self.random.between(1, 6)).map(|_| self.key()).collect();
                list("EXISTS", keys)
            }
            28 => match self.random.below(4) {
                0 => list("PEXPIRE", vec![self.key(), long_ms.into_bytes()]),
                1 => list("EXPIRE", vec![self.key(), long.into_bytes(), b"NX".to_vec()]),
                2 => list("EXPIRE", vec![self.key(), long.into_bytes(), b"XX".to_vec()]),
                _ => list("EXPIRE", vec![self.key(), long.into_bytes()]),
            },
            29 => list(if self.random.one_in(2) { "TTL" } else { "PTTL" }, vec![self.key()]),
            30 => list("PERSIST", vec![self.key()]),
            31 => match self.random.below(3) {
                0 => list("GETEX", vec![self.key()]),
                1 => list("GETEX", vec![self.key(), b"PERSIST".to_vec()]),
                _ => list("GETEX", vec![self.key(), b"EX".to_vec(), long.into_bytes()]),
            },
            32 => list("GETDEL", vec![self.key()]),
            33 => list("SETNX", vec![self.key(), self.value()]),
            34 => list("GETSET", vec![self.key(), self.value()]),
            35 => list("STRLEN", vec![self.key()]),
            36 => list("PING", Vec::new()),
            37 => list("ECHO", vec![self.value()]),
            38 => list("TYPE", vec![self.key()]),
            _ => match self.random.below(4) {
                0 => list("NOSUCH", vec![self.key()]),
                1 => list("GET", vec![self.key(), self.key()]),
                2 => list("MSET", vec![self.key(), self.value(), self.key()]),
                _ => list("GET", Vec::new()),
            },
        }
    }
}
