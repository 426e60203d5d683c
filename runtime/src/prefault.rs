//! The thread that fills memory before the shards need it, so that no shard waits for the kernel to clear a huge page.
//!
//! A shard asks for one run of each of its lists at a time, so little waits here. The thread has the priority of the shards:
//! what it does not do in time they do themselves, in small pages. It has no core that has a shard if there is another.

use std::io;
use std::sync::mpsc::{self, Sender};
use std::thread;

use torc_engine::shard::Shard;
use torc_engine::store::Ahead;

use crate::place;

/// One shard's way to the thread.
#[derive(Clone)]
pub struct Filler(Sender<Ahead>);

impl Filler {
    /// Takes what the shard asks for.
    #[inline]
    pub fn serve(&self, shard: &mut Shard) {
        while let Some(ahead) = shard.poll_ahead() {
            // If the thread is gone, which it is never before the process, the shard goes on with small pages.
            drop(self.0.send(ahead));
        }
    }
}

/// Starts the thread. It ends when all fillers are gone.
pub fn start(shard_cores: &[usize]) -> io::Result<Filler> {
    let (sender, receiver) = mpsc::channel();
    let cores = shard_cores.to_vec();
    thread::Builder::new().name("torc-prefault".into()).spawn(move || {
        place::keep_off(&cores);
        receiver.into_iter().for_each(Ahead::fill);
    })?;
    Ok(Filler(sender))
}
