//! Every bound of the runtime. What is full stops being read or is refused; nothing here blocks a thread or grows past
//! its number.

use std::time::Duration;

/// Submission queue entries of a shard's ring. When they are used up the ring submits early and goes on.
pub const RING_SUBMISSIONS: u32 = 1024;
/// Completion queue entries. More completions than this wait in the kernel until there is room (NODROP); multishot
/// operations then end and are armed again.
pub const RING_COMPLETIONS: u32 = 8192;

/// How often a part of a write of a file is submitted without any byte of it being written before the write has failed.
pub const WRITE_ATTEMPTS_MAX: u32 = 16;

/// Bytes of one receive buffer.
pub const BUFFER_BYTES: usize = 16 * 1024;
/// Places in the ring of receive buffers; the arena reserves `BUFFERS_MAX * BUFFER_BYTES` of address space.
pub const BUFFERS_MAX: u16 = 4096;
/// Buffers the kernel is given at start.
pub const BUFFERS_START: u16 = 64;
/// Receive buffers per connection the pool grows to by itself. The ring of buffers is a FIFO, its whole footprint cycles
/// through the cache: more would cost more.
pub const BUFFERS_PER_CONNECTION: usize = 2;
/// Where growth by the number of connections ends; past it the pool grows only when receives went without a buffer.
pub const BUFFERS_UNASKED_MAX: u16 = 512;

/// Bytes of the first segment of a log where there is no space for more.
pub const SEGMENT_BYTES_MIN: u64 = 64 * 1024;
/// Bytes of zeros that are written at a time into a file that becomes a segment of the log.
pub const SEGMENT_FILL_CHUNK: usize = 1024 * 1024;
/// How fast such files are filled, all shards together, as long as none is needed soon: bytes per second.
pub const SEGMENT_FILL_RATE: u64 = 64 * 1024 * 1024;
/// Free files that the pool keeps per shard.
pub const POOL_FILES_PER_SHARD: usize = 3;
/// How soon another file is tried after the disk was full or failed.
pub const SEGMENT_RETRY: Duration = Duration::from_secs(1);
/// A write or sync of the log that takes longer makes who writes wait, and after the second time be refused.
pub const LOG_FLUSH_SLOW: Duration = Duration::from_secs(2);
pub const LOG_FLUSH_STUCK: Duration = Duration::from_secs(10);
/// Copies of torn ends that are kept of one segment.
pub const TORN_COPIES_MAX: u32 = 100;

/// How often the lock of a data directory is tried, and the pause between two tries.
pub const LOCK_TRIES: u32 = 4;
pub const LOCK_PAUSE: Duration = Duration::from_millis(5);
/// How often a directory in use is looked at until two looks find the same damage.
pub const CHECK_LOOKS_MAX: u32 = 5;
/// Copies that repairs keep in a directory.
pub const REPAIR_COPIES_MAX: u32 = 1000;
/// Keys that a repair names of those that are lost.
pub const REPAIR_KEYS_SHOWN: usize = 20;
/// Length of the segments that a repair writes; the first ones are shorter.
pub const REPAIR_SEGMENT_BYTES: u64 = 64 * 1024 * 1024;

/// Parcels one shard can have under way to another.
pub const MESH_PARCELS: usize = 256;
/// Parcels a shard takes from one peer in one turn.
pub const PARCELS_PER_TURN: usize = 256;

/// How often the reaper has the allocator give back what is free.
pub const COLLECT_INTERVAL: Duration = Duration::from_secs(1);

/// Slices of one vectored send.
pub const SEND_SLICES_MAX: usize = 64;
/// Sends to one client in one turn; what is left goes out when the ring says the socket is writable.
pub const SENDS_PER_TURN: usize = 8;

/// For how many turns the output of a session is held back at most while more is on its way to it, and how long it may be.
pub const HELD_BACK_TURNS: u64 = 4;
pub const HELD_BACK_BYTES_MAX: usize = 16 * 1024;
/// How long a shard looks for answers of its peers before it parks, when it waits for a few. With one to eight clients
/// this is what keeps an answer from another core short; with more requests under way others want the core, and a
/// wake-up serves many (measured: 154 against 174 ns more per operation at 16 in a pipeline).
pub const SPIN_OUTSTANDING: Duration = Duration::from_micros(30);
pub const SPIN_REQUESTS_MAX: usize = 4;
/// A parked shard looks at the clock at least this often, lest a step of the wall clock leave it asleep.
pub const PARK_MAX: Duration = Duration::from_secs(1);
/// How soon a shard looks again at a peer whose queue was full.
pub const PARK_CONGESTED: Duration = Duration::from_millis(1);
/// How soon a listener accepts again after the process ran out of file descriptors.
pub const ACCEPT_PAUSE_MS: u64 = 100;
/// How often a shard sums up the client buffers of the others.
pub const BUFFERS_OTHERS_MS: u64 = 10;

/// Blocks of a snapshot that one shard has under way to the disk at a time.
pub const SNAPSHOT_WRITES_MAX: usize = 4;
/// How often a save is begun anew because keys were flushed while it was taken.
pub const SNAPSHOT_RESTARTS_MAX: u32 = 16;
/// How soon a save is tried again that is to begin the log of a shard.
pub const LOG_RESUME_RETRY: Duration = Duration::from_secs(5);

/// How often is said how far loading is, in the log and on a terminal.
pub const LOAD_LOG_INTERVAL: Duration = Duration::from_secs(1);
pub const LOAD_BAR_INTERVAL: Duration = Duration::from_millis(100);
/// How long a shard loads between two looks at its clients.
pub const LOAD_SLICE: Duration = Duration::from_millis(1);
/// Bytes of a log's file that are read at a time before it is mapped.
pub const LOAD_READ_BYTES: usize = 1024 * 1024;

/// Parcels of other shards that one shard holds back on purpose (`fault-hop-delay-ms`).
pub const FAULT_PARCELS_MAX: usize = 4096;

/// Seconds between two log lines about the same trouble.
pub const LOG_REPEAT_MS: u64 = 1000;

/// File descriptors kept beside those of clients: rings, listeners, event descriptors, files.
pub const FILES_RESERVED: usize = 128;

/// How long a stop waits for replies to leave.
pub const SHUTDOWN_MAX: Duration = Duration::from_secs(5);
/// How often a drained shard looks whether the others are.
pub const SHUTDOWN_STEP: Duration = Duration::from_millis(5);

/// How often DEBUG SLEEP looks whether the process is to stop.
pub const SLEEP_STEP: Duration = Duration::from_millis(10);

const _: () = assert!(LOG_FLUSH_SLOW.as_millis() < LOG_FLUSH_STUCK.as_millis());
const _: () = assert!(SEGMENT_BYTES_MIN > 2 * torc_engine::limits::LOG_ROOM_BYTES_MIN as u64);
const _: () = assert!(BUFFERS_MAX.is_power_of_two() && BUFFERS_MAX <= 32768);
const _: () = assert!(BUFFERS_START <= BUFFERS_UNASKED_MAX && BUFFERS_UNASKED_MAX <= BUFFERS_MAX);
const _: () = assert!(BUFFERS_MAX as usize * BUFFER_BYTES <= u32::MAX as usize);
const _: () = assert!(MESH_PARCELS.is_power_of_two());
const _: () = assert!(SEND_SLICES_MAX >= 2 && SEND_SLICES_MAX <= 1024);
