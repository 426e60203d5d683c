//! A world made from one seed: shards, queues with delays between them, disks that fail, a clock, clients, crashes; and judges of
//! everything that clients are told and that a start finds. One thread, no sleep, no machine: the same seed gives the same run to the
//! last byte.
//!
//! Start with [`World`]. [`Shards`] is the smaller tool under it: a few shards driven by hand, for tests that tell one
//! story at a time.
//!
//! - `world.rs`    the loop: what moves in a step, who is killed when, and what must be true when all is over.
//! - `options.rs`  what a world is made of, which its seed chooses.
//! - `process.rs`  one life of the process, its start and its end.
//! - `storage/`    the data directory and the disks: bytes, names, faults, crashes.
//! - `oracle.rs`   what the disks must have; `content.rs` what keyspaces hold.
//! - `client/`     clients that own their keys: what one sends, what it expects (`model.rs`), how it behaves.
//! - `crowd/`      clients that share keys: requests from the table of commands, histories, and whether they are linearizable.
//! - `coverage.rs` what must happen in some world; `trace.rs` the history of one.
//! - `shards.rs`   the shards with a clock, driven as the runtime drives them, and nothing delayed.
//! - `queues.rs`   the way from shard to shard: in order, late, sometimes full.
//! - `disk.rs`     logs without faults, and snapshots that are judged by them.
//! - `random.rs`   the seed; `machine.rs` the machine that shards ask.
#![forbid(unsafe_code)]

mod client;
mod content;
mod coverage;
mod crowd;
mod disk;
mod machine;
mod options;
mod oracle;
mod process;
mod queues;
mod random;
mod shards;
mod storage;
mod trace;
mod world;

pub use coverage::{Coverage, Event};
pub use disk::{Disk, SnapshotCounts};
pub use machine::SimMachine;
pub use options::Options;
pub use random::Random;
pub use shards::{Connection, Shards, encode};
pub use storage::Faults;
pub use trace::Trace;
pub use world::{Report, World};
