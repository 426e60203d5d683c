//! Every decision of Torc, as functions of their inputs: no clock, file, socket, thread, environment or unseeded
//! randomness.
//!
//! Start with [`shard::Shard`], the state machine of one core: bytes, messages and the time go in, replies and messages
//! come out. `shard/dispatch.rs` is where one command's way begins.
#![deny(unsafe_code)]

mod buffer;
pub mod command;
pub mod config;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
pub mod glob;
pub mod id;
pub mod limits;
pub mod log;
pub mod machine;
pub mod message;
pub mod planted;
pub mod random;
pub mod route;
pub mod session;
pub mod shard;
pub mod snapshot;
pub mod stats;
pub mod store;
