//! What the end-to-end tests share: a server started for one test, a client that shows raw replies, a way to write
//! down the reply that is wanted, and seeded random numbers.
//!
//! Each test starts the real binary on a free loopback port and waits for conditions, never for time. With
//! `TORC_TEST_PEER=redis` the same tests run against `redis-server` (7.0), which shows that they ask for what Redis
//! does and not for what we happen to do:
//!
//! ```text
//! TORC_TEST_PEER=redis cargo test -p torc-runtime --tests
//! ```
//!
//! What only Torc promises is skipped there, and says so.

// Each test file is a crate that uses its own part of this module.
#![allow(dead_code)]

pub mod client;
pub mod data;
pub mod info;
pub mod random;
pub mod server;
pub mod want;

/// Whether the tests run against redis-server.
pub fn peer_is_redis() -> bool {
    match std::env::var("TORC_TEST_PEER").as_deref() {
        Ok("redis") => true,
        Ok("") | Err(_) => false,
        Ok(other) => panic!("TORC_TEST_PEER is {other:?}; it can be 'redis'"),
    }
}

/// True, with a message, where the peer does not promise what the rest of the test asks for.
pub fn skip_on_redis(what: &str) -> bool {
    if peer_is_redis() {
        eprintln!("skipped on redis-server: {what}");
    }
    peer_is_redis()
}
