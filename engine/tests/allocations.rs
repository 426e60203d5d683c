//! Steady-state GET and SET allocate nothing beyond the value.
//!
//! An allocator that counts is put under the whole test binary. Each case is run until every buffer has found its size,
//! and then for [`COMMANDS`] more commands while allocations are counted. What is measured is all that happens between
//! the bytes of a request and the sent bytes of its reply: parse, dispatch, the way to another shard and back, execute,
//! reply, `handle_sent`.
//!
//! One test, because the count is the process's.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use torc_engine::id::{Millis, ShardId};
use torc_engine::route::Route;
use torc_engine::shard::Input;
use torc_sim::{Connection, Shards, encode};

struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);
static LARGE_ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

/// Longer values travel as refcounted bytes of their own.
const LARGE_BYTES: usize = 16 * 1024;

fn count(bytes: usize) {
    ALLOCATIONS.fetch_add(1, Relaxed);
    LARGE_ALLOCATIONS.fetch_add((bytes > LARGE_BYTES) as u64, Relaxed);
}

// SAFETY: every call is passed to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller's promise is the one System asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        count(bytes);
        // SAFETY: as above.
        unsafe { System.realloc(pointer, layout, bytes) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const COMMANDS: usize = 10_000;
const PIPELINE: usize = 16;

/// A pipeline of one kind of command that is sent again and again.
struct Case {
    shards: Shards,
    client: Connection,
    arena: Vec<u8>,
    inputs: Vec<Input>,
    reply_bytes: usize,
}

impl Case {
    /// `PIPELINE` commands on keys that `owner` owns, of a client on shard 0, in one receive buffer.
    fn new(shard_count: usize, owner: u16, command: impl Fn(&str) -> Vec<Vec<u8>>, reply_bytes: usize) -> Case {
        let route = Route::new(shard_count);
        let keys = (0..).map(|number| format!("key:{number}"));
        let own: Vec<String> =
            keys.filter(|key| route.owner(key.as_bytes()) == ShardId(owner)).take(PIPELINE).collect();
        let mut shards = Shards::new(shard_count);
        let client = shards.connect(0);
        for key in &own {
            assert_eq!(shards.command(client, &["SET", key, &"-".repeat(100)]), "+OK\r\n");
        }
        let arena = own.iter().flat_map(|key| encode(&command(key))).collect::<Vec<u8>>();
        let inputs = vec![Input { session: client.session, start: 0, len: arena.len() as u32 }];
        Case { shards, client, arena, inputs, reply_bytes: reply_bytes * PIPELINE }
    }

    /// One pipeline, from its bytes to its sent replies.
    fn round(&mut self) {
        let Shards { shards, machine, .. } = &mut self.shards;
        machine.now = Millis(machine.now.0 + 1);
        let now = machine.now;
        shards[0].turn(now, machine, 0, &self.arena, &self.inputs);
        if shards.len() > 1 {
            for (from, to) in [(0, 1), (1, 0)] {
                if let Some(frame) = shards[from].poll_frame(ShardId(to as u16)) {
                    shards[to].handle_frame(ShardId(from as u16), frame);
                    shards[to].turn(now, machine, 0, &[], &[]);
                }
            }
        }
        while let Some(session) = shards[0].poll_session() {
            let (buffer, sent) = shards[0].output(session);
            assert_eq!(buffer.len() - sent, self.reply_bytes);
            shards[0].handle_sent(session, self.reply_bytes);
        }
        assert_eq!(self.shards.unread(self.client), 0);
    }

    /// Allocations of the counted commands: all, and the large ones.
    fn measure(mut self) -> (u64, u64) {
        (0..500).for_each(|_| self.round());
        let before = (ALLOCATIONS.load(Relaxed), LARGE_ALLOCATIONS.load(Relaxed));
        (0..COMMANDS / PIPELINE).for_each(|_| self.round());
        (ALLOCATIONS.load(Relaxed) - before.0, LARGE_ALLOCATIONS.load(Relaxed) - before.1)
    }
}

fn words(words: &[&[u8]]) -> Vec<Vec<u8>> {
    words.iter().map(|word| word.to_vec()).collect()
}

#[test]
fn steady_state_get_and_set_allocate_nothing_beyond_the_value() {
    let get = |key: &str| words(&[b"GET", key.as_bytes()]);
    let set = |key: &str| words(&[b"SET", key.as_bytes(), &[b'+'; 100]]);
    let (get_reply, set_reply) = ("$100\r\n\r\n".len() + 100, "+OK\r\n".len());
    assert_eq!(Case::new(1, 0, get, get_reply).measure().0, 0, "GET at home");
    assert_eq!(Case::new(1, 0, set, set_reply).measure().0, 0, "SET at home");
    assert_eq!(Case::new(2, 0, get, get_reply).measure().0, 0, "GET at home, with another shard");
    assert_eq!(Case::new(2, 1, get, get_reply).measure().0, 0, "GET on another shard");
    assert_eq!(Case::new(2, 1, set, set_reply).measure().0, 0, "SET on another shard");

    // A long value is one buffer that is never copied again, and the count of its references.
    let long = vec![b'+'; LARGE_BYTES + 1];
    let set = |key: &str| words(&[b"SET", key.as_bytes(), &long]);
    let commands = (COMMANDS / PIPELINE * PIPELINE) as u64;
    for owner in [0, 1] {
        let (all, large) = Case::new(2, owner, set, set_reply).measure();
        assert_eq!(large, commands, "SET of a long value on shard {owner} is one buffer");
        assert!(all <= 2 * commands, "SET of a long value on shard {owner}: {all} allocations for {commands}");
    }
    let mut reading = Case::new(2, 1, get, "$16385\r\n\r\n".len() + LARGE_BYTES + 1);
    let text = String::from_utf8(long.clone()).expect("ASCII");
    let route = Route::new(2);
    let keys = (0..).map(|number| format!("key:{number}"));
    for key in keys.filter(|key| route.owner(key.as_bytes()) == ShardId(1)).take(PIPELINE) {
        reading.shards.command(reading.client, &["SET", &key, &text]);
    }
    assert_eq!(reading.measure(), (0, 0), "GET of a long value on another shard");
}
