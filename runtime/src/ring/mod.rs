//! A shard's io_uring: the only place that speaks io_uring, and with `mesh/` the only one with `unsafe`.
//!
//! [`Ring`] belongs to the thread that made it (SINGLE_ISSUER) and runs completions only when that thread asks
//! (DEFER_TASKRUN): the kernel touches the receive buffers and the completion queue inside [`Ring::submit`],
//! [`Ring::wait`] and nowhere else, which is what makes [`Ring::arena`] a plain shared slice.
//!
//! Operations are pushed by typed methods and come back as typed [`Completion`]s. What ties the two is a [`Key`], a place
//! and a generation, never a bare descriptor: completions of a closed connection arrive late and must not be taken for
//! those of the connection that got its number next.
//!
//! The memory rule: an operation that is given memory owns it. Receives take it from the ring's own provided buffers;
//! a write of a file holds its buffer and its file until it has ended (`writes.rs`); no other operation here points at
//! memory.

mod buffers;
mod pages;
mod writes;

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

use io_uring::types::{CancelBuilder, Fd, FsyncFlags, SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, opcode, squeue};

pub use buffers::BufferId;
use buffers::ProvidedBuffers;
pub use pages::{collect_free, give_back, map_file, purge_at_once};
use writes::{Next, Writes};
pub use writes::{StableBytes, SyncMethod, WriteFault, WriteStep};

use crate::limits::{RING_COMPLETIONS, RING_SUBMISSIONS};

/// The group of receive buffers; a ring has one.
const BUFFER_GROUP: u16 = 0;

/// Whose operation it is: a place in a table of the caller's, and a generation that tells its users apart. The ring keeps
/// the lower 24 bits of the generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    pub slot: u32,
    pub generation: u32,
}

impl Key {
    /// The generation as completions carry it.
    pub const GENERATION_MASK: u32 = 0x00ff_ffff;

    /// A key; the generation is cut to what completions carry.
    #[inline]
    pub fn new(slot: u32, generation: u32) -> Key {
        Key { slot, generation: generation & Key::GENERATION_MASK }
    }
}

/// A raw error number of the kernel's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Errno(pub i32);

impl From<Errno> for io::Error {
    fn from(error: Errno) -> io::Error {
        io::Error::from_raw_os_error(error.0)
    }
}

/// Bytes that arrived: `arena()[start..start + len]`, until `buffer` is given back.
#[derive(Debug)]
pub struct Received {
    pub start: u32,
    pub len: u32,
    pub buffer: BufferId,
}

/// What the kernel has done. `more`: the multishot operation goes on; otherwise it has ended, error or not.
#[derive(Debug)]
pub enum Completion {
    /// A connection on a listener.
    Accepted { listener: u32, result: Result<OwnedFd, Errno>, more: bool },
    /// Bytes of a connection; None is the end of its stream.
    Received { key: Key, result: Result<Option<Received>, Errno>, more: bool },
    /// The socket takes more output, or has an error that the next send will report.
    Writable { key: Key },
    /// The shard's event descriptor was written to.
    Notified { more: bool },
    /// Another ring woke this one.
    Woken,
    /// A message to another ring was not delivered.
    Undelivered { peer: u32, error: Errno },
    /// A write of a file has ended: all of it is written, and is durable if that was asked for, or it failed. The
    /// buffer is the caller's alone again.
    Written { key: Key, result: Result<(), WriteFault> },
    /// What was written to a file before `sync` is durable, or that failed.
    Synced { key: Key, result: Result<(), Errno> },
}

#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Accept = 1,
    Receive,
    Writable,
    Notified,
    Woken,
    Message,
    Cancel,
    Write,
    /// The fdatasync that is linked to a write.
    WriteSync,
    Sync,
}

/// `kind:8 | generation:24 | slot:32`.
fn token(kind: Kind, key: Key) -> u64 {
    (kind as u64) << 56 | ((key.generation & Key::GENERATION_MASK) as u64) << 32 | key.slot as u64
}

/// What waits for room in the submission queue.
enum Waiting {
    One(squeue::Entry),
    /// The second is for the first's success.
    Linked([squeue::Entry; 2]),
}

/// One thread's io_uring with its receive buffers.
pub struct Ring {
    // Dropped before the buffers: no receive is executed for a closed ring, and the kernel holds the pages of the buffer
    // ring itself.
    uring: IoUring,
    buffers: ProvidedBuffers,
    writes: Writes,
    /// What found the submission queue full and the kernel unwilling to take more; goes first.
    backlog: VecDeque<Waiting>,
}

impl Ring {
    /// A ring for the calling thread.
    pub fn new() -> io::Result<Ring> {
        let uring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            // Shows in memory that deferred work waits, so that looking for it costs no system call.
            .setup_taskrun_flag()
            .setup_submit_all()
            .setup_cqsize(RING_COMPLETIONS)
            .build(RING_SUBMISSIONS)?;
        let buffers = ProvidedBuffers::new()?;
        // SAFETY: the memory is page-aligned, holds BUFFERS_MAX entries, is owned by this Ring and outlives `uring`.
        unsafe {
            uring.submitter().register_buf_ring_with_flags(
                buffers.ring_address(),
                buffers.entries(),
                BUFFER_GROUP,
                0,
            )?;
        }
        let mut ring = Ring { uring, buffers, writes: Writes::default(), backlog: VecDeque::new() };
        ring.buffers.publish();
        Ok(ring)
    }

    /// The descriptor by which other rings send messages to this one.
    pub fn descriptor(&self) -> RawFd {
        self.uring.as_raw_fd()
    }

    /// Accepts connections until cancelled. They are blocking and close-on-exec.
    pub fn accept_multishot(&mut self, socket: &impl AsFd, listener: u32) {
        let key = Key::new(listener, 0);
        let entry = opcode::AcceptMulti::new(fd(socket)).flags(libc::SOCK_CLOEXEC).build();
        self.push(entry.user_data(token(Kind::Accept, key)));
    }

    /// Ends `accept_multishot`; its last completion says so.
    pub fn cancel_accept(&mut self, listener: u32) {
        self.cancel(Kind::Accept, Key::new(listener, 0));
    }

    /// Receives into provided buffers until cancelled, out of buffers, or at the end of the stream.
    #[inline]
    pub fn receive_multishot(&mut self, socket: &impl AsFd, key: Key) {
        let entry = opcode::RecvMulti::new(fd(socket), BUFFER_GROUP).build();
        self.push(entry.user_data(token(Kind::Receive, key)));
    }

    /// Ends `receive_multishot`; its last completion says so.
    pub fn cancel_receive(&mut self, key: Key) {
        self.cancel(Kind::Receive, key);
    }

    /// Says once that the socket takes output again.
    pub fn poll_writable(&mut self, socket: &impl AsFd, key: Key) {
        let entry = opcode::PollAdd::new(fd(socket), libc::POLLOUT as u32).build();
        self.push(entry.user_data(token(Kind::Writable, key)));
    }

    /// Ends `poll_writable`.
    pub fn cancel_writable(&mut self, key: Key) {
        self.cancel(Kind::Writable, key);
    }

    /// Says whenever the event descriptor is written to.
    pub fn poll_notified(&mut self, event: &impl AsFd) {
        let entry = opcode::PollAdd::new(fd(event), libc::POLLIN as u32).multi(true).build();
        self.push(entry.user_data(token(Kind::Notified, Key::new(0, 0))));
    }

    /// Wakes the ring `peer_ring`, known to the caller as `peer`. Only a failure comes back.
    #[inline]
    pub fn wake(&mut self, peer_ring: RawFd, peer: u32) {
        let woken = token(Kind::Woken, Key::new(0, 0));
        let entry = opcode::MsgRingData::new(Fd(peer_ring), 0, woken, None)
            .build()
            .flags(squeue::Flags::SKIP_SUCCESS)
            .user_data(token(Kind::Message, Key::new(peer, 0)));
        self.push(entry);
    }

    /// Writes a buffer at `offset` bytes of a file, all of it: a short write is continued. Holds buffer and file until
    /// the completion. With O_DIRECT address, length and offset must be multiples of the device's sector.
    pub fn write_at(&mut self, file: &Arc<File>, buffer: Arc<dyn StableBytes>, offset: u64, key: Key) {
        self.write(file, buffer, offset, None, key);
    }

    /// As `write_at`, and then makes the file's data durable; there is one completion for both.
    pub fn write_at_then_sync(
        &mut self,
        file: &Arc<File>,
        buffer: Arc<dyn StableBytes>,
        offset: u64,
        method: SyncMethod,
        key: Key,
    ) {
        self.write(file, buffer, offset, Some(method), key);
    }

    fn write(
        &mut self,
        file: &Arc<File>,
        buffer: Arc<dyn StableBytes>,
        offset: u64,
        method: Option<SyncMethod>,
        key: Key,
    ) {
        let place = self.writes.insert(file.clone(), buffer, offset, method, key);
        self.push_write(place);
    }

    /// Makes durable what was written to a file.
    pub fn sync(&mut self, file: &Arc<File>, key: Key) {
        let place = self.writes.insert_sync(file.clone(), key);
        let entry = opcode::Fsync::new(fd(file)).flags(FsyncFlags::DATASYNC).build();
        self.push(entry.user_data(token(Kind::Sync, place)));
    }

    /// Writes and syncs of files that have not ended.
    pub fn writes_under_way(&self) -> usize {
        self.writes.len()
    }

    /// Submits what is left of a write.
    fn push_write(&mut self, place: Key) {
        let part = self.writes.part(place);
        let write = opcode::Write::new(Fd(part.file), part.address, part.len).offset(part.offset);
        match part.method {
            None => self.push(write.build().user_data(token(Kind::Write, place))),
            Some(SyncMethod::Dsync) => {
                self.push(write.rw_flags(libc::RWF_DSYNC).build().user_data(token(Kind::Write, place)));
            }
            Some(SyncMethod::Linked) => {
                let write = write.build().flags(squeue::Flags::IO_LINK).user_data(token(Kind::Write, place));
                let sync = opcode::Fsync::new(Fd(part.file)).flags(FsyncFlags::DATASYNC).build();
                self.push_linked([write, sync.user_data(token(Kind::WriteSync, place))]);
            }
        }
    }

    /// What comes of a part of a write: its end, or the next part.
    fn write_went_on(&mut self, place: Key, next: Next) -> Option<Completion> {
        match next {
            Next::Nothing => None,
            Next::Again => {
                self.push_write(place);
                None
            }
            Next::Ended { key, result } => Some(Completion::Written { key, result }),
        }
    }

    /// Has the kernel's threads of the calling thread's rings, which execute what would block (an fdatasync always does),
    /// run on these cores. None: where they like.
    pub fn run_workers_on(&mut self, cores: &[usize]) -> io::Result<()> {
        if cores.is_empty() {
            return self.uring.submitter().unregister_iowq_aff();
        }
        // SAFETY: all zeros is the empty set.
        let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
        for &core in cores.iter().filter(|&&core| core < libc::CPU_SETSIZE as usize) {
            // SAFETY: the number is below the size of the set.
            unsafe { libc::CPU_SET(core, &mut set) };
        }
        self.uring.submitter().register_iowq_aff(&set)
    }

    /// Takes the next completion, if the kernel has posted one.
    #[inline]
    pub fn next_completion(&mut self) -> Option<Completion> {
        loop {
            let entry = self.uring.completion().next()?;
            if let Some(completion) = self.decode(&entry) {
                return Some(completion);
            }
        }
    }

    /// Whether nothing waits to be submitted, taken or run: entering the kernel would do nothing.
    #[inline]
    pub fn is_quiet(&mut self) -> bool {
        let queue = self.uring.submission();
        let busy = !queue.is_empty() || queue.taskrun() || queue.cq_overflow();
        drop(queue);
        !busy && self.backlog.is_empty() && self.uring.completion().is_empty()
    }

    /// Submits what was pushed and runs the kernel's deferred work, without waiting.
    pub fn submit(&mut self) -> io::Result<()> {
        self.unload_backlog();
        // The crate adds GETEVENTS when the kernel shows deferred work.
        allowed(self.uring.submitter().submit())
    }

    /// Submits what was pushed, and waits for a completion for at most `timeout`.
    pub fn wait(&mut self, timeout: Duration) -> io::Result<()> {
        self.unload_backlog();
        let timeout = Timespec::from(timeout);
        let arguments = SubmitArgs::new().timespec(&timeout);
        allowed(self.uring.submitter().submit_with_args(1, &arguments))
    }

    /// Whether everything pushed so far was submitted, so that descriptors it names may be closed.
    #[inline]
    pub fn is_submitted(&mut self) -> bool {
        self.backlog.is_empty() && self.uring.submission().is_empty()
    }

    /// The memory of all receive buffers; see [`Received`].
    #[inline]
    pub fn arena(&self) -> &[u8] {
        self.buffers.arena()
    }

    /// Gives a buffer back; the kernel sees it after `publish_buffers`.
    #[inline]
    pub fn give_back(&mut self, buffer: BufferId) {
        self.buffers.give_back(buffer);
    }

    /// Shows the kernel the buffers given back, and those that `want_buffers` added.
    #[inline]
    pub fn publish_buffers(&mut self) {
        self.buffers.publish();
    }

    /// How many buffers there shall be, within the bounds. Fewer come about as buffers are given back.
    pub fn want_buffers(&mut self, count: usize) {
        self.buffers.want(count);
    }

    /// Buffers that circulate now.
    pub fn buffers_active(&self) -> usize {
        self.buffers.active()
    }

    /// Buffers the kernel can fill now.
    #[inline]
    pub fn buffers_free(&self) -> usize {
        self.buffers.free()
    }

    fn cancel(&mut self, kind: Kind, key: Key) {
        let entry = opcode::AsyncCancel2::new(CancelBuilder::user_data(token(kind, key)))
            .build()
            .flags(squeue::Flags::SKIP_SUCCESS)
            .user_data(token(Kind::Cancel, key));
        self.push(entry);
    }

    #[inline]
    fn push(&mut self, entry: squeue::Entry) {
        if self.backlog.is_empty() && self.push_now(&entry) {
            return;
        }
        self.backlog.push_back(Waiting::One(entry));
        // A full queue: submit and go on. If the kernel does not take it now, the next submission tries again.
        let _ = self.uring.submitter().submit();
        self.unload_backlog();
    }

    #[inline]
    fn push_now(&mut self, entry: &squeue::Entry) -> bool {
        // SAFETY: entries are made by the methods above only; none points at memory except receives into the registered
        // buffers, which live as long as the ring, and writes, whose buffers `writes` holds until they have ended.
        unsafe { self.uring.submission().push(entry).is_ok() }
    }

    /// Pushes two operations of which the second is for the first's success. They must be submitted together: a chain ends
    /// where a submission does.
    fn push_linked(&mut self, entries: [squeue::Entry; 2]) {
        if self.backlog.is_empty() && self.push_both(&entries) {
            return;
        }
        self.backlog.push_back(Waiting::Linked(entries));
        let _ = self.uring.submitter().submit();
        self.unload_backlog();
    }

    /// Pushes both or none.
    fn push_both(&mut self, entries: &[squeue::Entry; 2]) -> bool {
        // SAFETY: as in `push_now`.
        unsafe { self.uring.submission().push_multiple(entries).is_ok() }
    }

    fn unload_backlog(&mut self) {
        while let Some(waiting) = self.backlog.pop_front() {
            let pushed = match &waiting {
                Waiting::One(entry) => self.push_now(entry),
                Waiting::Linked(entries) => self.push_both(entries),
            };
            if !pushed {
                self.backlog.push_front(waiting);
                if self.uring.submitter().submit().is_err() || self.uring.submission().is_full() {
                    return;
                }
            }
        }
    }

    #[inline]
    fn decode(&mut self, entry: &cqueue::Entry) -> Option<Completion> {
        let data = entry.user_data();
        let key = Key::new(data as u32, (data >> 32) as u32);
        let more = cqueue::more(entry.flags());
        let result = if entry.result() < 0 { Err(Errno(-entry.result())) } else { Ok(entry.result() as u32) };
        let kind = (data >> 56) as u8;
        // By frequency. A kind is only ever written by `token`.
        if kind == Kind::Receive as u8 {
            let buffer = cqueue::buffer_select(entry.flags());
            let result = match (result, buffer) {
                (Ok(len), Some(id)) if len > 0 => Ok(Some(self.buffers.taken(id, len))),
                (result, buffer) => {
                    // An end or an error that took a buffer all the same.
                    if let Some(id) = buffer {
                        let unused = self.buffers.taken(id, 0);
                        self.buffers.give_back(unused.buffer);
                    }
                    result.map(|_| None)
                }
            };
            return Some(Completion::Received { key, result, more });
        }
        Some(match kind {
            k if k == Kind::Woken as u8 => Completion::Woken,
            k if k == Kind::Writable as u8 => Completion::Writable { key },
            k if k == Kind::Notified as u8 => Completion::Notified { more },
            k if k == Kind::Accept as u8 => {
                let result = result.map(|descriptor| {
                    // SAFETY: the kernel made this descriptor for this completion, which is taken once: it is ours alone.
                    unsafe { OwnedFd::from_raw_fd(descriptor as RawFd) }
                });
                Completion::Accepted { listener: key.slot, result, more }
            }
            k if k == Kind::Message as u8 => match result {
                Ok(_) => return None,
                Err(error) => Completion::Undelivered { peer: key.slot, error },
            },
            k if k == Kind::Write as u8 => {
                let next = self.writes.handle_written(key, result);
                return self.write_went_on(key, next);
            }
            k if k == Kind::WriteSync as u8 => {
                let next = self.writes.handle_synced(key, result.map(drop));
                return self.write_went_on(key, next);
            }
            k if k == Kind::Sync as u8 => Completion::Synced { key: self.writes.remove(key), result: result.map(drop) },
            // A cancel that found nothing: what it was for has ended by itself.
            _ => return None,
        })
    }
}

fn fd(socket: &impl AsFd) -> Fd {
    let borrowed: BorrowedFd = socket.as_fd();
    Fd(borrowed.as_raw_fd())
}

/// Errors of an enter that only say "later": the time is over, a signal came, the kernel is short of memory or wants its
/// completions taken first.
fn allowed(result: io::Result<usize>) -> io::Result<()> {
    match result {
        Ok(_) => Ok(()),
        Err(error) => match error.raw_os_error() {
            Some(libc::ETIME | libc::EINTR | libc::EAGAIN | libc::EBUSY) => Ok(()),
            _ => Err(error),
        },
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
