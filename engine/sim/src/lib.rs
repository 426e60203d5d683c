//! A world made from one seed: shards, queues with delays between them, a clock, clients, and a naive model that judges
//! every reply. One thread, no sleep, no machine: the same seed gives the same run to the last byte.
//!
//! Start with [`World`]. [`Shards`] is the smaller tool under it: a few shards driven by hand, for tests that tell one
//! story at a time.
//!
//! - `world.rs`   the loop: what moves in a step, and what must be true when all is over.
//! - `shards.rs`  the shards with a clock, driven as the runtime drives them, and nothing delayed.
//! - `queues.rs`  the way from shard to shard: in order, late, sometimes full.
//! - `client/`    one client: what it sends (`commands.rs`), what it expects (`model.rs`), how it behaves (`mod.rs`).
//! - `disk.rs`    the logs of the shards, and snapshots that are judged by them.
//! - `random.rs`  the seed; `machine.rs`  the machine that shards ask.
#![forbid(unsafe_code)]

mod client;
mod disk;
mod machine;
mod queues;
mod random;
mod shards;
mod world;

pub use disk::{Disk, SnapshotCounts};
pub use machine::SimMachine;
pub use random::Random;
pub use shards::{Connection, Shards, encode};
pub use world::{Options, Report, World};
