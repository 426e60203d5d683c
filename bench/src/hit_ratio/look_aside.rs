//! A server as a look-aside cache: GET, and SET what was not found. And an exact cache under the very same requests.
//!
//! Requests go in batches, which both sides see alike: first all GETs of the batch, then SETs of the keys that it missed,
//! each once, in the order in which they were first missed. So a key that comes twice in a batch and is not held is missed
//! twice. A batch is at most a hundredth of what the cache is for, so that this differs little from request by request. The SETs
//! of a batch travel in front of the GETs of the next one, which saves every other way to the server and back.

use super::cache::Cache;
use super::requests::Requests;
use crate::bar::Bar;
use crate::client::{Client, first_word, write_request};
use crate::error::Error;
use crate::keys;
use crate::system;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How many requests, and how they are sent.
#[derive(Clone, Copy, Debug)]
pub struct Course {
    /// Before hits are counted.
    pub warmup: u64,
    pub requests: u64,
    /// Requests of a batch.
    pub batch: usize,
    /// Requests a second at most.
    pub rate: Option<f64>,
}

const BATCH_MAX: u64 = 64;
/// A batch in parts of what the cache is for.
const BATCH_SHARE: u64 = 100;

impl Course {
    pub fn batch_for(capacity: u64) -> usize {
        (capacity / BATCH_SHARE).clamp(1, BATCH_MAX) as usize
    }

    /// The batches: the length of each, and whether its hits count.
    fn batches(self) -> impl Iterator<Item = (usize, bool)> {
        let part = move |total: u64, counts: bool| {
            let batch = self.batch as u64;
            (0..total.div_ceil(batch)).map(move |i| ((total - i * batch).min(batch) as usize, counts))
        };
        part(self.warmup, false).chain(part(self.requests, true))
    }
}

/// Hits of the exact cache.
pub fn simulate(cache: &mut dyn Cache, requests: &mut Requests, course: Course) -> u64 {
    let mut keys = vec![0; course.batch];
    let mut missed = Vec::with_capacity(course.batch);
    let mut hits = 0;
    for (length, counts) in course.batches() {
        let batch = &mut keys[..length];
        requests.fill(batch);
        missed.clear();
        for &key in &*batch {
            if cache.get(key) {
                hits += u64::from(counts);
            } else if !missed.contains(&key) {
                missed.push(key);
            }
        }
        missed.iter().for_each(|&key| cache.set(key));
    }
    hits
}

/// What a server did.
#[derive(Clone, Debug, Default)]
pub struct Measured {
    pub hits: u64,
    /// Keys it held, from looks while hits were counted.
    pub held: Vec<u64>,
    pub seconds: f64,
}

impl Measured {
    pub fn held_mean(&self) -> f64 {
        self.held.iter().sum::<u64>() as f64 / self.held.len() as f64
    }
}

/// The client side of a server under test.
pub struct LookAside {
    pub client: Client,
    /// The key and the value in hand.
    name: Vec<u8>,
    value: Vec<u8>,
    /// Requests to be sent, and how many SETs are among them.
    out: Vec<u8>,
    sets: usize,
    /// Error replies by their first word.
    pub refused: BTreeMap<String, u64>,
}

/// Looks at the number of keys.
const HELD_LOOKS: u64 = 200;
/// Keys of a batch that fills.
const FILL_BATCH: u64 = 16;
/// Looks at signals and draws.
const LOOK_BATCHES: usize = 64;

impl LookAside {
    pub fn new(client: Client, key_bytes: usize, value_bytes: usize) -> LookAside {
        let mut name = vec![0; key_bytes];
        name[..keys::PREFIX_BYTES].copy_from_slice(b"key:");
        LookAside { client, name, value: vec![0; value_bytes], out: Vec::new(), sets: 0, refused: BTreeMap::new() }
    }

    /// Sends the requests and counts.
    pub fn measure(&mut self, requests: &mut Requests, course: Course, bar: &Bar) -> Result<Measured, Error> {
        let mut keys = vec![0; course.batch];
        let mut missed = Vec::with_capacity(course.batch);
        let mut measured = Measured::default();
        let (mut sent, mut counted, mut look_at) = (0, 0, 0);
        let start = Instant::now();
        for (i, (length, counts)) in course.batches().enumerate() {
            let batch = &mut keys[..length];
            requests.fill(batch);
            missed.clear();
            let hits = self.get(batch, &mut missed)?;
            missed.iter().for_each(|&key| self.set(key));
            sent += length as u64;
            if counts {
                measured.hits += hits;
                counted += length as u64;
                if counted >= look_at {
                    measured.held.push(self.client.integer(&[b"DBSIZE"])?);
                    look_at += (course.requests / HELD_LOOKS).max(1);
                }
            }
            if i % LOOK_BATCHES == 0 {
                system::check_interrupt()?;
                bar.set(sent);
            }
            if let Some(rate) = course.rate {
                let due = Duration::from_secs_f64(sent as f64 / rate);
                system::sleep(due.saturating_sub(start.elapsed()))?;
            }
        }
        self.get(&[], &mut missed)?;
        measured.seconds = start.elapsed().as_secs_f64();
        Ok(measured)
    }

    /// Sets the keys below `count`.
    pub fn fill(&mut self, count: u64) -> Result<(), Error> {
        for first in (0..count).step_by(FILL_BATCH as usize) {
            system::check_interrupt()?;
            (first..(first + FILL_BATCH).min(count)).for_each(|key| self.set(key as u32));
            self.get(&[], &mut Vec::new())?;
        }
        Ok(())
    }

    /// Gets the keys, after what is to be set, and returns how many were found; those that were not are appended to
    /// `missed`, once each. A value must be the key's own.
    fn get(&mut self, batch: &[u32], missed: &mut Vec<u32>) -> Result<u64, Error> {
        for &key in batch {
            keys::write_digits(&mut self.name[keys::PREFIX_BYTES..], key.into());
            write_request(&mut self.out, &[b"GET", &self.name]);
        }
        self.client.send(&self.out)?;
        self.out.clear();
        let (mut hits, mut wrong, mut asked) = (0, None, batch.iter());
        let (refused, value_bytes) = (&mut self.refused, self.value.len());
        let mut sets = std::mem::take(&mut self.sets);
        self.client.replies(sets + batch.len(), |reply| {
            if sets > 0 {
                sets -= 1;
                if reply != b"+OK\r\n" {
                    *refused.entry(first_word(reply)).or_default() += 1;
                }
                return;
            }
            let key = *asked.next().expect("a reply for each request");
            match reply {
                b"$-1\r\n" | b"_\r\n" => {
                    if !missed.contains(&key) {
                        missed.push(key);
                    }
                }
                _ if is_value(reply, key, value_bytes) => hits += 1,
                _ => wrong = wrong.take().or(Some(reply.to_vec())),
            }
        })?;
        match wrong {
            None => Ok(hits),
            Some(reply) => Err(self.client.wrong("the key's value or nil".to_string(), &reply)),
        }
    }

    /// To be sent with the next GETs.
    fn set(&mut self, key: u32) {
        keys::write_digits(&mut self.name[keys::PREFIX_BYTES..], key.into());
        keys::write_value(&mut self.value, key.into());
        write_request(&mut self.out, &[b"SET", &self.name, &self.value]);
        self.sets += 1;
    }
}

fn is_value(reply: &[u8], key: u32, value_bytes: usize) -> bool {
    let Some(value) = reply.len().checked_sub(value_bytes + 2).map(|start| &reply[start..start + value_bytes]) else {
        return false;
    };
    reply.starts_with(b"$") && keys::value_matches(value, key.into())
}

#[cfg(test)]
mod tests {
    use super::super::cache::Lru;
    use super::*;

    const COURSE: Course = Course { warmup: 5, requests: 10, batch: 4, rate: None };

    #[test]
    fn batches_are_cut_at_the_end_of_the_warm_up() {
        let batches: Vec<_> = COURSE.batches().collect();
        assert_eq!(batches, [(4, false), (1, false), (4, true), (4, true), (2, true)]);
        assert_eq!([1, 99, 200, 1_000_000].map(Course::batch_for), [1, 1, 2, 64]);
    }

    /// A loop of three keys: in a cache of three all of the ten hit, in a cache of two none does; unless a batch of four
    /// looks for all of its keys before it sets one.
    #[test]
    fn an_exact_cache_sees_gets_of_a_batch_before_its_sets() {
        let pattern = "loop:1.5".parse().unwrap();
        let requests = || Requests::new(pattern, 100, 2, 1, 0);
        assert_eq!(simulate(&mut Lru::new(3, 3), &mut requests(), COURSE), 10);
        let one_by_one = Course { batch: 1, ..COURSE };
        assert_eq!(simulate(&mut Lru::new(2, 3), &mut requests(), one_by_one), 0);
        assert_eq!(simulate(&mut Lru::new(2, 3), &mut requests(), COURSE), by_hand());
    }

    /// The batches of that loop in the plainest way: a vector, used last at its end.
    fn by_hand() -> u64 {
        let mut held: Vec<u32> = Vec::new();
        let mut hits = 0;
        for (batch, counts) in [
            (&[0u32, 1, 2, 0][..], false),
            (&[1], false),
            (&[2, 0, 1, 2], true),
            (&[0, 1, 2, 0], true),
            (&[1, 2], true),
        ] {
            let mut missed = Vec::new();
            for &key in batch {
                match held.iter().position(|&other| other == key) {
                    Some(at) => {
                        held.remove(at);
                        held.push(key);
                        hits += u64::from(counts);
                    }
                    None if missed.contains(&key) => {}
                    None => missed.push(key),
                }
            }
            for key in missed {
                if held.len() == 2 {
                    held.remove(0);
                }
                held.push(key);
            }
        }
        hits
    }

    #[test]
    fn a_value_is_the_keys_own() {
        let mut reply = b"$3\r\n...\r\n".to_vec();
        keys::write_value(&mut reply[4..7], 5);
        assert!(is_value(&reply, 5, 3) && !is_value(&reply, 6, 3) && !is_value(b"-ERR\r\n", 5, 3));
        assert!(!is_value(b"$1\r\n", 5, 3) && !is_value(b":1\r\n", 5, 1));
    }
}
