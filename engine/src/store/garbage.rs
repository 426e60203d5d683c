//! What was given up and is freed later: flushed keyspaces, in slices, and big values, by somebody else.
//!
//! Returning the memory of a value of 512 MiB to the system takes the kernel milliseconds, tens of them if the pages are
//! small, and the shard has no such time. Whoever gives a value of [`limits::GARBAGE_VALUE_BYTES_MIN`] or more up leaves a reference here; the runtime
//! takes it ([`Store::poll_garbage`](super::Store::poll_garbage)) and drops it on a thread of its own, where it is the
//! last one. A flushed keyspace that has such values is searched for them, in slices, before its table and arena are
//! freed; one that has none, the usual case, is not looked through.
//!
//! What is pending is bounded, by [`limits::GARBAGE_BYTES_MAX`] and a part of `maxmemory`: past it a value is dropped here and
//! now, and values of flushed keyspaces are handed out only while much less is pending.

use std::collections::VecDeque;

use bytes::Bytes;

use super::arena::Arena;
use super::entry::{EntryRef, Value};
use super::table::Table;
use crate::limits;

/// A keyspace without a number.
struct Flushed {
    table: Table,
    arena: Arena,
    /// Keys that count as freed when the keyspace is.
    keys: u64,
    /// Big values not found yet, and where the search goes on.
    big_values: usize,
    position: u64,
    /// Those found. They are handed out when the entries are gone, or the entries would be the last to hold them.
    found: Vec<Bytes>,
}

/// Objects given up, as INFO counts them: keys of flushed databases, and big values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GarbageCounters {
    /// Not freed yet.
    pub pending_objects: u64,
    /// Bytes of big values not freed yet; flushed keyspaces not included.
    pub pending_bytes: u64,
    /// Freed since the start or CONFIG RESETSTAT.
    pub freed_objects: u64,
}

pub(super) struct Garbage {
    /// Most bytes pending.
    bytes_max: u64,
    /// The oldest first.
    flushed: VecDeque<Flushed>,
    /// Flushed keyspaces that were ever put here.
    flushes: u64,
    values: VecDeque<Bytes>,
    counters: GarbageCounters,
}

/// Whether a value of so many bytes is dropped by somebody else.
#[inline]
pub(super) fn is_big(bytes: usize) -> bool {
    bytes >= limits::GARBAGE_VALUE_BYTES_MIN
}

impl Default for Garbage {
    fn default() -> Garbage {
        Garbage {
            bytes_max: limits::GARBAGE_BYTES_MAX,
            flushed: VecDeque::new(),
            flushes: 0,
            values: VecDeque::new(),
            counters: GarbageCounters::default(),
        }
    }
}

impl Garbage {
    /// Bounds the bytes that are pending, [`limits::GARBAGE_BYTES_MAX`] at most; one value may be larger.
    pub fn set_bytes_max(&mut self, bytes: u64) {
        self.bytes_max = bytes.min(limits::GARBAGE_BYTES_MAX);
    }

    /// Keeps a reference to a value that its holder is about to drop, if it is big.
    #[inline]
    pub fn discard(&mut self, value: &Bytes) {
        if is_big(value.len()) {
            self.keep(value.clone());
        }
    }

    /// As [`Garbage::discard`], for the value of an entry.
    #[inline]
    pub fn discard_value_of(&mut self, entry: EntryRef<'_>) {
        if let Value::Shared(value) = entry.value() {
            self.discard(value);
        }
    }

    #[cold]
    fn keep(&mut self, value: Bytes) {
        let pending = self.counters.pending_bytes;
        if pending > 0 && pending + value.len() as u64 > self.bytes_max {
            return;
        }
        self.counters.pending_objects += 1;
        self.counters.pending_bytes += value.len() as u64;
        self.values.push_back(value);
    }

    /// The next big value to be dropped elsewhere; [`Garbage::freed`] tells when it was.
    pub fn poll(&mut self) -> Option<Bytes> {
        self.values.pop_front()
    }

    /// So many values of so many bytes together, of those that were polled, are freed.
    pub fn freed(&mut self, objects: u64, bytes: u64) {
        self.counters.pending_objects -= objects;
        self.counters.pending_bytes -= bytes;
        self.counters.freed_objects += objects;
    }

    pub fn counters(&self) -> GarbageCounters {
        self.counters
    }

    pub fn reset_counters(&mut self) {
        self.counters.freed_objects = 0;
    }

    /// Takes a keyspace's data, of which `big_values` values are big. `rehash` is of its keys, here and in
    /// [`Garbage::free_slice`].
    pub fn flush(&mut self, table: Table, arena: Arena, big_values: usize, rehash: &impl Fn(EntryRef) -> u64) {
        // A small table is freed here and now, or a client that fills and flushes fast would stay ahead of the slices.
        let small = table.segments() <= 1 && big_values == 0;
        if !small && self.flushed.len() < limits::GARBAGE_TABLES_MAX {
            let keys = table.len() as u64;
            self.flushes += 1;
            self.counters.pending_objects += keys;
            self.flushed.push_back(Flushed { table, arena, keys, big_values, position: 0, found: Vec::new() });
        } else if big_values > 0 {
            table.scan(0, usize::MAX, rehash, |entry| self.discard_value_of(entry));
        }
    }

    /// Keyspaces that were ever put here: all of them are freed when [`Garbage::has_freed`] says so of this number.
    pub fn flushes(&self) -> u64 {
        self.flushes
    }

    /// Whether the first so many keyspaces are freed.
    pub fn has_freed(&self, flushes: u64) -> bool {
        self.flushes - self.flushed.len() as u64 >= flushes
    }

    /// Whether flushed keyspaces wait to be freed.
    pub fn has_flushed(&self) -> bool {
        !self.flushed.is_empty()
    }

    /// Frees a slice of what was flushed. True if there is more that can be done at once.
    pub fn free_slice(&mut self, rehash: &impl Fn(EntryRef) -> u64) -> bool {
        let Some(mut flushed) = self.flushed.pop_front() else { return false };
        if flushed.big_values > 0 {
            flushed.search(rehash);
            self.flushed.push_front(flushed);
            return true;
        }
        let freed =
            flushed.table.free_some() && flushed.arena.free_some(limits::FREE_SLICE_ENTRIES, limits::FREE_SLICE_RUNS);
        let paused = freed && !self.hand_out(&mut flushed);
        if !freed || paused {
            self.flushed.push_front(flushed);
            return !paused;
        }
        self.counters.pending_objects -= flushed.keys;
        self.counters.freed_objects += flushed.keys;
        !self.flushed.is_empty()
    }

    /// Hands out the big values of a keyspace whose entries are gone. False if too much is pending for all of them.
    fn hand_out(&mut self, flushed: &mut Flushed) -> bool {
        while self.counters.pending_bytes < (self.bytes_max / limits::GARBAGE_FLUSHED_PART).max(1) {
            let Some(value) = flushed.found.pop() else { return true };
            // From here on the value is what is counted, not its key.
            flushed.keys -= 1;
            self.counters.pending_bytes += value.len() as u64;
            self.values.push_back(value);
        }
        flushed.found.is_empty()
    }
}

impl Flushed {
    /// Looks at a slice of the entries for big values.
    fn search(&mut self, rehash: &impl Fn(EntryRef) -> u64) {
        let Flushed { table, big_values, position, found, .. } = self;
        let next = table.scan(*position, limits::FREE_SLICE_ENTRIES, rehash, |entry| {
            if let Value::Shared(value) = entry.value()
                && is_big(value.len())
            {
                found.push(value.clone());
                *big_values -= 1;
            }
        });
        match next {
            Some(next) => *position = next,
            None => debug_assert_eq!(*big_values, 0, "each big value is met once"),
        }
    }
}
