//! The thread that drops big values, so that no shard waits for the kernel to take their memory back, and that has the
//! allocator give back what is free, which leaves it resident otherwise: a value of 512 MiB that arrives outgrows as much in
//! smaller buffers.
//!
//! Each shard has a [`Chute`] to it. What waits in the chutes is bounded by the shards, which are told what was dropped and
//! drop values themselves when too much waits ([`torc_engine::limits::GARBAGE_BYTES_MAX`]). The thread has a low
//! priority, and no core that has a shard if there is another.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::Instant;

use bytes::Bytes;
use torc_engine::shard::Shard;

use crate::limits::COLLECT_INTERVAL;
use crate::place;
use crate::ring::{collect_free, give_back};

/// The nice value of the thread.
const NICE: i32 = 10;

/// One shard's way to the reaper.
pub struct Chute {
    sender: Sender<Waste>,
    freed: Arc<Freed>,
    /// Values sent and not known to be dropped.
    pending: u64,
}

struct Waste {
    value: Bytes,
    freed: Arc<Freed>,
}

/// What the reaper has dropped of one shard and the shard has not heard of.
#[derive(Default)]
struct Freed {
    objects: AtomicU64,
    bytes: AtomicU64,
}

impl Chute {
    /// Takes what the shard has given up, and tells it what is gone.
    #[inline]
    pub fn serve(&mut self, shard: &mut Shard) {
        while let Some(value) = shard.poll_garbage() {
            self.pending += 1;
            // If the reaper is gone, which it is never before the process, the value is dropped here.
            let _ = self.sender.send(Waste { value, freed: self.freed.clone() });
        }
        if self.pending > 0 {
            // In this order: a value that is seen here has its bytes counted.
            let objects = self.freed.objects.swap(0, Ordering::Acquire);
            let bytes = self.freed.bytes.swap(0, Ordering::Acquire);
            self.pending -= objects;
            shard.handle_garbage_freed(objects, bytes);
        }
    }
}

/// Starts the thread and gives a chute per shard. It ends when all chutes are gone.
pub fn start(shard_cores: &[usize]) -> io::Result<Vec<Chute>> {
    let (sender, receiver) = mpsc::channel();
    let cores = shard_cores.to_vec();
    thread::Builder::new().name("torc-reaper".into()).spawn(move || reap(&receiver, &cores))?;
    let chute = |_| Chute { sender: sender.clone(), freed: Arc::default(), pending: 0 };
    Ok(shard_cores.iter().map(chute).collect())
}

fn reap(receiver: &Receiver<Waste>, shard_cores: &[usize]) {
    place::keep_off(shard_cores);
    // It works as well without.
    let _ = rustix::process::setpriority_process(None, NICE);
    let mut collect_at = Instant::now() + COLLECT_INTERVAL;
    loop {
        let left = collect_at.saturating_duration_since(Instant::now());
        if left.is_zero() {
            collect_free();
            collect_at = Instant::now() + COLLECT_INTERVAL;
        }
        let Waste { value, freed } = match receiver.recv_timeout(left) {
            Ok(waste) => waste,
            Err(RecvTimeoutError::Timeout) => continue,
            Err(RecvTimeoutError::Disconnected) => return,
        };
        let bytes = value.len() as u64;
        // The allocator would keep the pages for a while and have whichever thread comes by give them back: a shard's.
        if let Ok(mut own) = value.try_into_mut() {
            give_back(&mut own);
        }
        freed.bytes.fetch_add(bytes, Ordering::Release);
        freed.objects.fetch_add(1, Ordering::Release);
    }
}
