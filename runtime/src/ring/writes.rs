//! The writes of files that are under way: the table that keeps their buffers and files alive, and what is to be done when
//! the kernel has executed a part of one.
//!
//! A write that is linked with an fdatasync is two operations and two completions, in this order. A write that is short or
//! fails breaks the link, and the fdatasync comes back cancelled: then what is left is submitted again, linked again, or
//! the failure is told. So the second completion decides.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;

use thiserror::Error;

use super::{Errno, Key};
use crate::limits::WRITE_ATTEMPTS_MAX;

/// O_DIRECT takes only whole blocks; a short write goes on where the last whole one ended.
const BLOCK_BYTES: usize = 4096;

/// How a write becomes durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncMethod {
    /// An fdatasync linked to the write. The robust one: both are executed in time when all cores are busy.
    Linked,
    /// The write itself is synchronous (RWF_DSYNC). Somewhat faster on idle cores, and only for files opened with O_DIRECT:
    /// a buffered one blocks the thread that submits it.
    Dsync,
}

/// Which step of a write failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteStep {
    Write,
    Sync,
}

/// Why a write of a file failed. What of it is on the disk is not known.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("{}: {}", match .step { WriteStep::Write => "write", WriteStep::Sync => "fdatasync" }, io::Error::from(*.errno))]
pub struct WriteFault {
    pub step: WriteStep,
    pub errno: Errno,
}

/// Memory that a write may take its bytes from while the caller goes on.
///
/// # Safety
///
/// While the value is not changed and not dropped, `bytes` gives the same address and length each time, also after the
/// value has been moved, and nothing changes these bytes.
pub unsafe trait StableBytes: Send + Sync + 'static {
    fn bytes(&self) -> &[u8];
}

// SAFETY: what it is made of is a vector, which it leaves alone unless it is borrowed exclusively.
unsafe impl StableBytes for torc_engine::log::Buffer {
    fn bytes(&self) -> &[u8] {
        self.as_slice()
    }
}

// SAFETY: a vector's bytes are on the heap and stay there; behind a shared reference nobody changes them.
unsafe impl StableBytes for Vec<u8> {
    fn bytes(&self) -> &[u8] {
        self
    }
}

// SAFETY: a mapping stays where it is; behind a shared reference nobody changes its bytes, and if it is one of a file then
// whoever mapped it has promised that.
unsafe impl StableBytes for memmap2::MmapMut {
    fn bytes(&self) -> &[u8] {
        self
    }
}

/// What comes of a completion.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Another completion is to come.
    Nothing,
    /// What is left is to be submitted.
    Again,
    /// The write is over.
    Ended { key: Key, result: Result<(), WriteFault> },
}

/// What is left of a write. The address is good until the write is ended.
pub(super) struct Part {
    pub file: RawFd,
    pub address: *const u8,
    pub len: u32,
    pub offset: u64,
    pub method: Option<SyncMethod>,
}

/// Writes under way, by place.
#[derive(Default)]
pub(super) struct Writes {
    places: Vec<Place>,
    free: Vec<u32>,
}

#[derive(Default)]
struct Place {
    /// Of the write that has the place, or of the next one.
    generation: u32,
    write: Option<Write>,
}

struct Write {
    key: Key,
    file: Arc<File>,
    /// None: only an fdatasync.
    buffer: Option<Arc<dyn StableBytes>>,
    offset: u64,
    method: Option<SyncMethod>,
    /// Bytes written.
    done: usize,
    /// Parts submitted since the last byte was written.
    attempts: u32,
    /// The first failure.
    fault: Option<WriteFault>,
}

impl Writes {
    pub fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }

    /// Takes a write of at least one byte; what is to be submitted is `part` of the place that it gets.
    pub fn insert(
        &mut self,
        file: Arc<File>,
        buffer: Arc<dyn StableBytes>,
        offset: u64,
        method: Option<SyncMethod>,
        key: Key,
    ) -> Key {
        assert!(!buffer.bytes().is_empty(), "a write has bytes");
        assert!(u32::try_from(buffer.bytes().len()).is_ok(), "one write is below 4 GiB");
        self.keep(Write { key, file, buffer: Some(buffer), offset, method, done: 0, attempts: 0, fault: None })
    }

    /// Takes an fdatasync.
    pub fn insert_sync(&mut self, file: Arc<File>, key: Key) -> Key {
        self.keep(Write { key, file, buffer: None, offset: 0, method: None, done: 0, attempts: 0, fault: None })
    }

    fn keep(&mut self, write: Write) -> Key {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.places.push(Place::default());
            (self.places.len() - 1) as u32
        });
        let place = &mut self.places[slot as usize];
        place.write = Some(write);
        Key::new(slot, place.generation)
    }

    /// What is to be submitted of a write.
    pub fn part(&self, place: Key) -> Part {
        let write = self.places[place.slot as usize].write.as_ref().expect("the place has a write");
        let left = &write.buffer.as_ref().expect("it has a buffer").bytes()[write.done..];
        Part {
            file: write.file.as_raw_fd(),
            address: left.as_ptr(),
            len: left.len() as u32,
            offset: write.offset + write.done as u64,
            method: write.method,
        }
    }

    /// The completion of a part's write: bytes written, or the error.
    pub fn handle_written(&mut self, place: Key, result: Result<u32, Errno>) -> Next {
        let write = self.at(place);
        let before = write.done;
        match result {
            Ok(bytes) => write.advance(bytes as usize),
            Err(Errno(libc::EINTR | libc::EAGAIN)) => {}
            Err(errno) => write.fault = Some(WriteFault { step: WriteStep::Write, errno }),
        }
        write.attempts = if write.done > before { 0 } else { write.attempts + 1 };
        if write.attempts == WRITE_ATTEMPTS_MAX && write.fault.is_none() {
            write.fault = Some(WriteFault { step: WriteStep::Write, errno: Errno(libc::EIO) });
        }
        match write.method {
            Some(SyncMethod::Linked) => Next::Nothing,
            _ if write.fault.is_none() && !write.is_whole() => Next::Again,
            _ => self.end(place),
        }
    }

    /// The completion of the fdatasync that is linked to a part.
    pub fn handle_synced(&mut self, place: Key, result: Result<(), Errno>) -> Next {
        let write = self.at(place);
        if write.fault.is_none() {
            if !write.is_whole() {
                return Next::Again;
            }
            // Never tried again: the kernel forgets what it could not write, and the next fdatasync finds nothing wrong.
            write.fault = result.err().map(|errno| WriteFault { step: WriteStep::Sync, errno });
        }
        self.end(place)
    }

    fn end(&mut self, place: Key) -> Next {
        let fault = self.at(place).fault;
        Next::Ended { key: self.remove(place), result: fault.map_or(Ok(()), Err) }
    }

    /// Lets go of what has ended; gives the caller's key.
    pub fn remove(&mut self, place: Key) -> Key {
        let Key { slot, generation } = place;
        let place = &mut self.places[slot as usize];
        assert_eq!(place.generation, generation, "a place is given to the next only after the last completion");
        place.generation = (generation + 1) & Key::GENERATION_MASK;
        self.free.push(slot);
        place.write.take().expect("the place has a write").key
    }

    fn at(&mut self, place: Key) -> &mut Write {
        let Key { slot, generation } = place;
        let place = &mut self.places[slot as usize];
        assert_eq!(place.generation, generation, "a place is given to the next only after the last completion");
        place.write.as_mut().expect("the place has a write")
    }
}

impl Write {
    fn len(&self) -> usize {
        self.buffer.as_ref().map_or(0, |buffer| buffer.bytes().len())
    }

    fn is_whole(&self) -> bool {
        self.done == self.len()
    }

    /// Counts what a part has written. What is not a whole block is written once more.
    fn advance(&mut self, bytes: usize) {
        let done = self.done + bytes;
        assert!(done <= self.len(), "no more is written than was given");
        self.done = if done == self.len() { done } else { done - done % BLOCK_BYTES };
    }
}

impl Drop for Writes {
    /// The kernel may go on reading the buffers of writes that have not ended when their ring is closed: these are never
    /// freed.
    fn drop(&mut self) {
        self.places.iter_mut().filter_map(|place| place.write.take()).for_each(std::mem::forget);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: Key = Key { slot: 9, generation: 4 };

    fn writes(bytes: usize, method: Option<SyncMethod>) -> (Writes, Key) {
        let mut writes = Writes::default();
        let file = Arc::new(File::open("/dev/null").unwrap());
        let place = writes.insert(file, Arc::new(vec![7u8; bytes]), 8192, method, KEY);
        (writes, place)
    }

    fn ended(result: Result<(), WriteFault>) -> Next {
        Next::Ended { key: KEY, result }
    }

    fn failed(step: WriteStep, errno: i32) -> Next {
        ended(Err(WriteFault { step, errno: Errno(errno) }))
    }

    #[test]
    fn short_writes_go_on_at_whole_blocks() {
        for method in [None, Some(SyncMethod::Dsync)] {
            let (mut writes, place) = writes(16384, method);
            assert_eq!((writes.part(place).len, writes.part(place).offset), (16384, 8192));
            assert_eq!(writes.handle_written(place, Ok(5000)), Next::Again);
            assert_eq!((writes.part(place).len, writes.part(place).offset), (12288, 12288));
            assert_eq!(writes.handle_written(place, Ok(8192)), Next::Again);
            assert_eq!((writes.part(place).len, writes.part(place).offset), (4096, 20480));
            assert_eq!(writes.handle_written(place, Err(Errno(libc::EINTR))), Next::Again);
            assert_eq!(writes.handle_written(place, Ok(4096)), ended(Ok(())));
            assert_eq!(writes.len(), 0);
        }
    }

    #[test]
    fn linked_sync_is_submitted_again_with_the_rest() {
        let (mut writes, place) = writes(8192, Some(SyncMethod::Linked));
        assert_eq!(writes.handle_written(place, Ok(4096)), Next::Nothing);
        assert_eq!(writes.handle_synced(place, Err(Errno(libc::ECANCELED))), Next::Again);
        assert_eq!(writes.handle_written(place, Ok(4096)), Next::Nothing);
        assert_eq!(writes.handle_synced(place, Ok(())), ended(Ok(())));
    }

    #[test]
    fn failures_name_their_step_and_are_not_tried_again() {
        let (mut table, place) = writes(4096, Some(SyncMethod::Linked));
        assert_eq!(table.handle_written(place, Err(Errno(libc::EIO))), Next::Nothing);
        let next = table.handle_synced(place, Err(Errno(libc::ECANCELED)));
        assert_eq!(next, failed(WriteStep::Write, libc::EIO));

        let (mut table, place) = writes(4096, Some(SyncMethod::Linked));
        assert_eq!(table.handle_written(place, Ok(4096)), Next::Nothing);
        assert_eq!(table.handle_synced(place, Err(Errno(libc::EIO))), failed(WriteStep::Sync, libc::EIO));

        let (mut table, place) = writes(4096, None);
        assert_eq!(table.handle_written(place, Err(Errno(libc::ENOSPC))), failed(WriteStep::Write, libc::ENOSPC));
    }

    #[test]
    fn write_that_gets_nowhere_fails() {
        let (mut table, place) = writes(4096, None);
        for _ in 1..WRITE_ATTEMPTS_MAX {
            assert_eq!(table.handle_written(place, Ok(0)), Next::Again);
        }
        assert_eq!(table.handle_written(place, Ok(0)), failed(WriteStep::Write, libc::EIO));
    }

    #[test]
    fn buffer_is_held_until_the_end_and_for_ever_if_there_is_none() {
        let buffer = Arc::new(vec![1u8; 4096]);
        let file = Arc::new(File::open("/dev/null").unwrap());
        let mut writes = Writes::default();
        let place = writes.insert(file.clone(), buffer.clone(), 0, None, KEY);
        assert_eq!((Arc::strong_count(&buffer), Arc::strong_count(&file)), (2, 2));
        assert_eq!(writes.handle_written(place, Ok(4096)), ended(Ok(())));
        assert_eq!((Arc::strong_count(&buffer), Arc::strong_count(&file)), (1, 1));
        writes.insert(file.clone(), buffer.clone(), 0, None, KEY);
        drop(writes);
        assert_eq!((Arc::strong_count(&buffer), Arc::strong_count(&file)), (2, 2));
    }
}
