//! The parts of io_uring which the load generator and the floor share: a ring set up for one thread, and
//! a ring of provided buffers.

use io_uring::types::BufRingEntry;
use io_uring::{IoUring, squeue, types};
use std::io;
use std::ptr;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

pub const BUFFER_GROUP: u16 = 0;

/// Must be called on the thread which will use the ring.
pub fn new_ring(entries: u32) -> io::Result<IoUring> {
    IoUring::builder()
        .setup_single_issuer()
        .setup_defer_taskrun()
        // Lets a thread that looks without waiting see that there is something to enter the kernel for.
        .setup_taskrun_flag()
        .setup_submit_all()
        .setup_cqsize(entries * 4)
        .build(entries)
}

/// Queues one entry, submitting what is queued when the queue is full.
pub fn push(ring: &mut IoUring, entry: &squeue::Entry) -> io::Result<()> {
    loop {
        // SAFETY: each caller passes an entry whose buffers, if any, outlive the operation: request
        // batches and reply buffers live as long as their ring and are not touched while in flight.
        if unsafe { ring.submission().push(entry) }.is_ok() {
            return Ok(());
        }
        ring.submit()?;
    }
}

/// Submits and waits for one completion; a signal counts as none.
pub fn submit_and_wait(ring: &mut IoUring) -> io::Result<()> {
    match ring.submit_and_wait(1) {
        Err(error) if error.raw_os_error() != Some(libc::EINTR) => Err(error),
        _ => Ok(()),
    }
}

/// Submits, and waits for one completion or until the time is over.
pub fn submit_and_wait_for(ring: &mut IoUring, duration: Duration) -> io::Result<()> {
    let time = types::Timespec::from(duration);
    let arguments = types::SubmitArgs::new().timespec(&time);
    match ring.submitter().submit_with_args(1, &arguments) {
        Err(error) if !matches!(error.raw_os_error(), Some(libc::EINTR | libc::ETIME)) => Err(error),
        _ => Ok(()),
    }
}

/// Whether entering the kernel, or looking at the completions, would bring anything.
pub fn has_news(ring: &mut IoUring) -> bool {
    ring.submission().taskrun() || !ring.completion().is_empty()
}

/// Provided buffers, registered as group `BUFFER_GROUP`.
///
/// ```text
/// region   [ entries: count x 16 bytes ][ buffer 0 ][ buffer 1 ] ...     one anonymous mapping
/// entry 0  addr len bid tail            the tail of the ring lies in the unused field of entry 0
/// ```
///
/// The kernel takes buffers from the head in the order in which they were given.
pub struct BufferRing {
    region: *mut u8,
    region_bytes: usize,
    buffers_start: usize,
    count: u16,
    buffer_bytes: usize,
    tail: u16,
}

impl BufferRing {
    /// `count` must be a power of two up to 32768. The ring must be dropped before the buffers.
    pub fn register(ring: &IoUring, count: u16, buffer_bytes: usize) -> io::Result<BufferRing> {
        assert!(count.is_power_of_two() && count <= 32_768, "the kernel's limit on buffer rings");
        let buffers_start = (usize::from(count) * size_of::<BufRingEntry>()).next_multiple_of(4096);
        let region_bytes = buffers_start + usize::from(count) * buffer_bytes;
        // SAFETY: an anonymous mapping at an address the kernel chooses; the result is checked.
        let region = unsafe {
            libc::mmap(
                ptr::null_mut(),
                region_bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if region == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let mut buffers =
            BufferRing { region: region.cast(), region_bytes, buffers_start, count, buffer_bytes, tail: 0 };
        // SAFETY: the region is page-aligned, large enough for `count` entries, and unmapped only when
        // `buffers` is dropped, which callers do after their ring.
        unsafe { ring.submitter().register_buf_ring_with_flags(buffers.region as u64, count, BUFFER_GROUP, 0)? };
        for id in 0..count {
            buffers.give_back(id);
        }
        buffers.publish();
        Ok(buffers)
    }

    /// The first `bytes` of buffer `id`, which the kernel handed over with a completion.
    pub fn bytes(&self, id: u16, bytes: usize) -> &[u8] {
        assert!(id < self.count && bytes <= self.buffer_bytes, "the kernel names a buffer of this ring");
        // SAFETY: inside the region by the assertion; the kernel does not write a buffer it has handed
        // over until `give_back`, which needs `&mut self`.
        unsafe { std::slice::from_raw_parts(self.region.add(self.buffer_start(id)), bytes) }
    }

    /// Returns a buffer; the kernel sees it after `publish`.
    pub fn give_back(&mut self, id: u16) {
        let slot = usize::from(self.tail & (self.count - 1));
        // SAFETY: the slot lies inside the entries. Field setters leave the tail in entry 0 alone.
        unsafe {
            let entry = &mut *self.region.cast::<BufRingEntry>().add(slot);
            entry.set_addr(self.region.add(self.buffer_start(id)) as u64);
            entry.set_len(self.buffer_bytes as u32);
            entry.set_bid(id);
        }
        self.tail = self.tail.wrapping_add(1);
    }

    pub fn publish(&mut self) {
        // SAFETY: the tail is an aligned u16 inside the region, shared with the kernel only.
        let tail = unsafe { &*BufRingEntry::tail(self.region.cast()).cast::<AtomicU16>() };
        tail.store(self.tail, Ordering::Release);
    }

    fn buffer_start(&self, id: u16) -> usize {
        self.buffers_start + usize::from(id) * self.buffer_bytes
    }
}

impl Drop for BufferRing {
    fn drop(&mut self) {
        // SAFETY: mapped in `register` with this size; the ring is gone, so nobody else refers to it.
        unsafe { libc::munmap(self.region.cast(), self.region_bytes) };
    }
}
