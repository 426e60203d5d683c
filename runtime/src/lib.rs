//! The machine: the only part of Torc that touches rings, sockets, threads, files and clocks.
//!
//! Start with [`boot::run`], which brings the process up and down again; [`worker`] is the loop that drives one shard.
//! Unsafe code is in `ring/` (io_uring) and `mesh/` (queues between cores) and nowhere else.
#![deny(unsafe_code)]

pub mod boot;
pub mod check;
mod crew;
pub mod disk;
pub mod limits;
mod listen;
pub mod log;
pub mod machine;
#[allow(unsafe_code)]
pub mod mesh;
pub mod place;
pub mod prefault;
pub mod probe;
pub mod progress;
pub mod reaper;
#[allow(unsafe_code)]
pub mod ring;
pub mod saver;
pub mod settings;
pub mod worker;
