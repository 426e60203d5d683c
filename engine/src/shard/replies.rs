//! The order of one session's replies, and what of them is not yet sent.
//!
//! Every command takes the next number when it is read. A reply whose number is the next one due is written straight to
//! the output; one that is early (an answer from this shard while an earlier one is still under way to another) waits in
//! the stash. In the common case, every key at home, nothing is ever stashed and no place is ever kept.
//!
//! ```text
//! numbers     due                         next
//!              |                            |
//!   places    [ waiting | ready | ready | waiting ]
//!                          \_______\______________ stash: "...bytes..bytes"
//!   output    "bytes of everything before due"
//! ```

use std::collections::VecDeque;

use bytes::Bytes;
use torc_protocol::resp::reply::ReplyBuffer;

use crate::limits;
use crate::planted::{Bug, is_planted};

/// The replies of one session.
#[derive(Debug, Default)]
pub(crate) struct Replies {
    /// In order, ready to be sent.
    output: ReplyBuffer,
    /// Bytes of the refcounted values in the output.
    values_bytes: usize,
    /// How much of the output's logical stream has been sent.
    sent: usize,
    /// Number of the next reply for the output.
    due: u64,
    /// Number of the next command.
    next: u64,
    /// What is known of the replies from `due` on; those at the end that are merely waiting are left out.
    places: VecDeque<Place>,
    stash: Vec<u8>,
    /// Of replies that wait for the disk: what they will be in the output, and the memory that they take.
    waiting_bytes: usize,
    waiting_memory: usize,
}

#[derive(Debug)]
enum Place {
    Waiting,
    /// A range of the stash.
    Ready {
        start: usize,
        len: usize,
    },
    /// A reply with refcounted values.
    Spliced(Box<ReplyBuffer>),
}

/// A reply being written, to be closed with [`Replies::end`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mark {
    seq: u64,
    start: usize,
    shared_start: usize,
}

impl Replies {
    /// Takes the next number.
    #[inline]
    pub fn reserve(&mut self) -> u64 {
        self.next += 1;
        self.next - 1
    }

    /// Commands whose replies are not in the output yet.
    #[inline]
    pub fn outstanding(&self) -> u64 {
        self.next - self.due
    }

    /// The output and how much of it was sent.
    pub fn output(&self) -> (&ReplyBuffer, usize) {
        (&self.output, self.sent)
    }

    /// Bytes not sent yet, whatever was stashed or waits for the disk included.
    #[inline]
    pub fn unsent_bytes(&self) -> usize {
        self.output.bytes.len() + self.values_bytes - self.sent + self.stash.len() + self.waiting_bytes
    }

    /// Whether there are refcounted values in the output.
    #[inline]
    pub fn has_values(&self) -> bool {
        self.values_bytes > 0
    }

    /// Bytes of memory held: shared values that belong to someone else too, the store most often, not included.
    #[inline]
    pub fn held_bytes(&self) -> usize {
        let copied = self.output.bytes.capacity() + self.stash.capacity() + self.waiting_memory;
        if self.output.shared.is_empty() {
            return copied;
        }
        let (mut seen, mut alone) = (0, 0);
        for (_, value) in self.output.shared.iter().take(limits::COUNTED_VALUES_MAX) {
            seen += value.len();
            alone += if value.is_unique() { value.len() } else { 0 };
        }
        copied + (alone as u128 * self.values_bytes as u128 / seen.max(1) as u128) as usize
    }

    /// A reply of so many bytes, which take so much memory, is kept elsewhere until it may be delivered.
    pub fn hold(&mut self, bytes: usize, memory: usize) {
        self.waiting_bytes += bytes;
        self.waiting_memory += memory;
    }

    /// A reply that was held is about to be delivered.
    pub fn release(&mut self, bytes: usize, memory: usize) {
        self.waiting_bytes -= bytes;
        self.waiting_memory -= memory;
    }

    /// Opens the reply with number `seq`; its bytes are written to the buffer given.
    #[inline(always)]
    pub fn begin(&mut self, seq: u64, pool: &mut BufferPool) -> (&mut ReplyBuffer, Mark) {
        debug_assert!(self.due <= seq && seq < self.next);
        if self.output.bytes.capacity() == 0 {
            self.output.bytes = pool.take();
        }
        if seq != self.due && self.stash.capacity() == 0 {
            self.stash = pool.take();
        }
        let mark = Mark { seq, start: self.output.bytes.len(), shared_start: self.output.shared.len() };
        (&mut self.output, mark)
    }

    /// Drops what was written since the reply was opened, to write something else.
    pub fn rewind(&mut self, mark: Mark) -> &mut ReplyBuffer {
        self.output.bytes.truncate(mark.start);
        self.output.shared.truncate(mark.shared_start);
        &mut self.output
    }

    /// Takes out what was written since the reply was opened, for it to be delivered later.
    pub fn take(&mut self, mark: Mark) -> ReplyBuffer {
        self.output.split_off(mark.start, mark.shared_start)
    }

    /// Closes a reply: it stays in the output if it is due, and goes to the stash if it is early.
    #[inline(always)]
    pub fn end(&mut self, mark: Mark) {
        if self.output.shared.len() > mark.shared_start {
            self.count_values(mark.shared_start);
        }
        if mark.seq == self.due && self.places.is_empty() {
            self.due += 1;
            return;
        }
        self.end_among_places(mark);
    }

    /// Adds the output's values from this one on to their sum.
    fn count_values(&mut self, first: usize) {
        self.values_bytes += self.output.shared[first..].iter().map(|(_, value)| value.len()).sum::<usize>();
    }

    #[inline(never)]
    fn end_among_places(&mut self, mark: Mark) {
        if mark.seq == self.due {
            self.due += 1;
            self.places.pop_front();
            self.drain();
            return;
        }
        let place = if self.output.shared.len() > mark.shared_start {
            let early = self.output.split_off(mark.start, mark.shared_start);
            self.values_bytes -= early.shared.iter().map(|(_, value)| value.len()).sum::<usize>();
            Place::Spliced(Box::new(early))
        } else {
            let start = self.stash.len();
            self.stash.extend_from_slice(&self.output.bytes[mark.start..]);
            self.output.bytes.truncate(mark.start);
            Place::Ready { start, len: self.stash.len() - start }
        };
        self.set_place(mark.seq, place);
    }

    /// Puts a whole reply, with the shared values spliced in at positions relative to `bytes`, at its place.
    #[inline]
    pub fn deliver(&mut self, seq: u64, bytes: &[u8], shared: &[(usize, Bytes)], base: usize, pool: &mut BufferPool) {
        let (buffer, mark) = self.begin(seq, pool);
        let at = buffer.bytes.len();
        buffer.bytes.extend_from_slice(bytes);
        buffer.shared.extend(shared.iter().map(|(position, value)| (at + position - base, value.clone())));
        self.end(mark);
    }

    fn set_place(&mut self, seq: u64, place: Place) {
        let index = (seq - self.due) as usize;
        if self.places.len() <= index {
            self.places.resize_with(index + 1, || Place::Waiting);
        }
        self.places[index] = place;
    }

    /// Moves what has become due from the stash to the output.
    fn drain(&mut self) {
        if is_planted(Bug::ReplyOutOfOrder) && matches!(self.places.get(1), Some(Place::Ready { .. })) {
            self.places.swap(0, 1);
        }
        while let Some(place) = self.places.front_mut() {
            match place {
                Place::Waiting => return,
                Place::Ready { start, len } => {
                    self.output.bytes.extend_from_slice(&self.stash[*start..*start + *len]);
                }
                Place::Spliced(buffer) => {
                    let first = self.output.shared.len();
                    self.output.append(buffer);
                    self.values_bytes +=
                        self.output.shared[first..].iter().map(|(_, value)| value.len()).sum::<usize>();
                }
            }
            self.places.pop_front();
            self.due += 1;
        }
        self.stash.clear();
        if self.stash.capacity() > limits::BUFFER_POOL_BYTES_MAX {
            self.stash = Vec::new();
        }
    }

    /// All is sent: what held it goes back.
    #[inline]
    fn give_back(&mut self, pool: &mut BufferPool) {
        pool.give(std::mem::take(&mut self.output.bytes));
        if self.places.is_empty() && self.stash.capacity() > 0 {
            debug_assert!(self.stash.is_empty());
            pool.give(std::mem::take(&mut self.stash));
            if self.places.capacity() > limits::PLACES_KEPT_MAX {
                self.places = VecDeque::new();
            }
        }
    }

    /// `count` bytes of the output were sent; `let_go` gets the values of which nothing is left to send.
    pub fn sent(&mut self, count: usize, pool: &mut BufferPool, mut let_go: impl FnMut(Bytes)) {
        self.sent += count;
        if self.output.shared.is_empty() {
            debug_assert!(self.sent <= self.output.bytes.len());
            if self.sent == self.output.bytes.len() {
                self.sent = 0;
                self.give_back(pool);
            } else if self.sent > limits::OUTPUT_PAUSE_BYTES && self.sent > self.output.bytes.len() / 2 {
                self.output.bytes.drain(..self.sent);
                self.sent = 0;
            }
            return;
        }
        // Let go of what was sent up to and with the last shared value that is through.
        let mut through = 0;
        let mut stream = 0;
        let mut position = 0;
        for (at, value) in &self.output.shared {
            let end = stream + (at - position) + value.len();
            if end > self.sent {
                break;
            }
            stream = end;
            position = *at;
            through += 1;
        }
        if through > 0 {
            for (_, value) in self.output.shared.drain(..through) {
                self.values_bytes -= value.len();
                let_go(value);
            }
            self.output.bytes.drain(..position);
            for (at, _) in &mut self.output.shared {
                *at -= position;
            }
            self.sent -= stream;
        }
        if self.output.shared.is_empty() {
            self.sent(0, pool, let_go);
        }
    }

    /// All values that wait to be sent, for a session that is gone. Nothing can be sent after this.
    pub fn take_values(&mut self) -> Vec<Bytes> {
        let early = self.places.drain(..).filter_map(|place| match place {
            Place::Spliced(buffer) => Some(buffer.shared),
            Place::Waiting | Place::Ready { .. } => None,
        });
        let output = std::mem::take(&mut self.output.shared);
        output.into_iter().chain(early.flatten()).map(|(_, value)| value).collect()
    }
}

/// Output buffers that are not in use. A session that has sent everything holds none, so ten thousand idle clients cost
/// no buffers, and the few in use stay in cache.
#[derive(Debug, Default)]
pub(crate) struct BufferPool {
    free: Vec<Vec<u8>>,
}

impl BufferPool {
    /// An empty buffer.
    #[inline]
    pub fn take(&mut self) -> Vec<u8> {
        self.free.pop().unwrap_or_else(|| Vec::with_capacity(256))
    }

    /// Bytes of the buffers kept.
    pub fn held_bytes(&self) -> usize {
        self.free.iter().map(Vec::capacity).sum()
    }

    /// Keeps a buffer for later, unless it is large or enough are kept.
    #[inline]
    pub fn give(&mut self, mut buffer: Vec<u8>) {
        if buffer.capacity() <= limits::BUFFER_POOL_BYTES_MAX && self.free.len() < limits::BUFFER_POOL_MAX {
            buffer.clear();
            self.free.push(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(replies: &mut Replies, pool: &mut BufferPool, seq: u64, text: &str) {
        let (buffer, mark) = replies.begin(seq, pool);
        buffer.bytes.extend_from_slice(text.as_bytes());
        replies.end(mark);
    }

    #[test]
    fn early_replies_wait_for_those_before_them() {
        let (mut replies, mut pool) = (Replies::default(), BufferPool::default());
        for _ in 0..5 {
            replies.reserve();
        }
        let big = Bytes::from_static(b"shared");
        write(&mut replies, &mut pool, 2, "two ");
        replies.deliver(4, b"4<>", &[(102, big)], 100, &mut pool);
        write(&mut replies, &mut pool, 1, "one ");
        assert!(replies.output().0.is_empty());
        write(&mut replies, &mut pool, 0, "zero ");
        assert_eq!(replies.output().0.to_vec(), b"zero one two ");
        assert_eq!(replies.outstanding(), 2);
        write(&mut replies, &mut pool, 3, "three ");
        assert_eq!(replies.output().0.to_vec(), b"zero one two three 4<shared>");
        assert_eq!(replies.outstanding(), 0);
    }

    #[test]
    fn sending_in_pieces_loses_nothing() {
        let big = Bytes::from(vec![b'x'; 50]);
        for step in [1, 7, 33, 1000] {
            let (mut replies, mut pool) = (Replies::default(), BufferPool::default());
            for seq in 0..6 {
                replies.reserve();
                match seq % 2 {
                    0 => write(&mut replies, &mut pool, seq, "plain "),
                    _ => replies.deliver(seq, b"[]", &[(1, big.clone())], 0, &mut pool),
                }
            }
            let whole = replies.output().0.to_vec();
            let mut got = Vec::new();
            while !replies.output().0.is_empty() {
                let (buffer, sent) = replies.output();
                let rest = &buffer.to_vec()[sent..];
                let count = step.min(rest.len());
                got.extend_from_slice(&rest[..count]);
                replies.sent(count, &mut pool, |_| ());
            }
            assert_eq!(got, whole, "in steps of {step}");
            assert_eq!(replies.unsent_bytes(), 0);
        }
    }
}
