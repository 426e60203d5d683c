//! Bounds of the engine: every queue, buffer, loop and retry has one here. What each bounds, and what happens at it.

use torc_protocol::limits::SHARED_BYTES_MIN;

/// Most databases (`databases`).
pub const DATABASES_MAX: usize = 16;

/// Commands that one batch parses before it executes: enough to hide memory latency, few enough to stay in cache.
pub const BATCH_COMMANDS: usize = 64;

/// Commands of one session that wait for their replies: past it the session stops being read.
pub const SESSION_OUTSTANDING_MAX: u64 = 4096;
/// Unsent output of one session: past it the session stops being read and its commands wait.
pub const OUTPUT_PAUSE_BYTES: usize = 1 << 20;
/// A paused session goes on below this.
pub const OUTPUT_RESUME_BYTES: usize = OUTPUT_PAUSE_BYTES / 2;

/// Values in one reply together: MGET refuses what would be longer.
pub const REPLY_BYTES_MAX: usize = 1 << 30;
/// Bytes of one frame: past it the replies of split commands become errors. Places in a frame are 32 bits wide.
pub const FRAME_BYTES_MAX: usize = 2 << 30;
/// When unanswered commands about several keys have so many arguments together, the session's next command waits until
/// all are answered; so it does behind SCAN and each command that is O(N). What one client can ask for at once is bounded
/// by this and its unsent output: values of 16 KiB each, the longest that are copied, make 32 MiB.
pub const ALONE_ARGS_MIN: usize = 1024;
/// Refcounted values in one session's output that are looked at when its memory is counted; the rest is taken to be like
/// them. And sessions that one tick counts again because of such values.
pub const COUNTED_VALUES_MAX: usize = 64;
pub const COUNTED_SESSIONS_MAX: usize = 250;

/// Requests under way from one shard to one other: past it the shard reads no more commands from its clients. (Shard 0
/// passes on what the others ask it to, `Route::Ordered`, without asking: at most what each of them may have under way.)
pub const CREDIT_REQUESTS: u32 = 16 * 1024;
/// Bytes of requests under way from one shard to one other, likewise.
pub const CREDIT_BYTES: u64 = 16 << 20;

/// Client buffers of the whole process unless `maxmemory-clients` says otherwise.
pub const CLIENT_BUFFERS_BYTES_MAX_DEFAULT: u64 = 1 << 30;

/// How long a client is not read because the process holds too much for its clients, milliseconds: then it is closed if
/// it holds the most and that did not help, or read again if it did.
pub const CHOKED_MS: u64 = 100;

/// Output buffers kept for reuse by one shard, and the largest that is kept.
pub const BUFFER_POOL_MAX: usize = 1024;
pub const BUFFER_POOL_BYTES_MAX: usize = 64 << 10;
/// Places in the order of replies that a session keeps room for while it has nothing to wait for.
pub const PLACES_KEPT_MAX: usize = 64;

/// Expired keys that readers report in one turn; the rest is found again.
pub const REAP_MAX: usize = 256;
/// Entries that one slice of active expiry removes, and segments of the table whose times it compares.
pub const EXPIRE_SLICE_ENTRIES: usize = 256;
pub const EXPIRE_SLICE_SEGMENTS: usize = 2048;
/// Slices of active expiry in one tick (1/hz seconds).
pub const EXPIRE_SLICES_PER_TICK: usize = 512;
/// Buckets of the table that one slice of eviction looks at, and samples that it takes where there is no order of all keys.
pub const EVICT_SLICE_BUCKETS: usize = 256;
pub const EVICT_SLICE_SAMPLES: usize = 4;
/// Keys of one miniature cache of `allkeys-s3fifo`, give or take a half, and bytes of all of one database of a shard.
pub const MINIATURE_KEYS: u32 = 512;
pub const MINIATURES_BYTES_MAX: usize = 128 << 10;
/// Buckets whose marks one slice tidies, and segments whose marks it gives anew when the policy has changed.
pub const TIDY_SLICE_BUCKETS: usize = 1024;
pub const RENEW_SLICE_SEGMENTS: usize = 8;
/// Entries that one slice of freeing takes.
pub const FREE_SLICE_ENTRIES: usize = 500;
/// Runs of pages (of 2 MiB) that one slice of freeing gives back.
pub const FREE_SLICE_RUNS: usize = 1;
/// Segments of the table that one slice of compaction looks at for neighbours to merge.
pub const MERGE_SLICE_SEGMENTS: usize = 1024;
/// Bytes that one slice of compaction could copy in its time; moving an entry takes as long as some hundred of them.
pub const COMPACT_SLICE_BYTES: usize = 96 << 10;
/// Flushed tables that wait to be freed in slices; past it, and if it is one segment, a table is freed when it is flushed.
pub const GARBAGE_TABLES_MAX: usize = 64;
/// A value of so many bytes is not dropped on the shard's thread: returning its memory to the system would take more than
/// some ten microseconds.
pub const GARBAGE_VALUE_BYTES_MIN: usize = 256 << 10;
/// Bytes of such values of one shard that wait to be dropped elsewhere, unless it is one value: past it the shard drops
/// them itself, so that clients who overwrite fast cannot make them pile up.
pub const GARBAGE_BYTES_MAX: u64 = 256 << 20;
/// The part of `maxmemory` that all shards' may be together.
pub const GARBAGE_BUDGET_PART: u64 = 32;
/// Past this part of what is allowed, those of flushed keyspaces stay with them for a while.
pub const GARBAGE_FLUSHED_PART: u64 = 4;
/// Longest delay that is injected on purpose, milliseconds.
pub const FAULT_DELAY_MS_MAX: u32 = 60_000;
/// Longest DEBUG SLEEP, seconds.
pub const DEBUG_SLEEP_S_MAX: f64 = 3600.0;
/// What arenas may hold unused, as a part of what is used and besides, before writes that need room help to give it back.
pub const SLACK_PART: usize = 16;
pub const SLACK_BYTES: usize = 16 << 20;
/// Keys that one slice of KEYS looks at.
pub const KEYS_SLICE_ENTRIES: usize = 1000;
/// Addresses that a database of one shard has left when writes are refused (it has 128 GiB, values over 16 KiB not included).
pub const ROOM_BYTES_MIN: usize = 256 << 20;
/// Slices in which the hand of eviction meets nothing that may go; then the worst of a sample goes each time.
pub const EVICT_DRY_SLICES: usize = 8;
/// A write that has to evict evicts so much more, but not more than this part of the budget: the next ones need not look.
pub const EVICT_AHEAD_BYTES: u64 = 8 << 10;
pub const EVICT_AHEAD_PART: u64 = 1024;
/// Slices of eviction for one write, and of one turn: 50 to 100 µs of work. A write gets one more for each so many bytes
/// that it brings, up to the most: less than a millisecond, for a value that took as long to arrive.
pub const EVICT_SLICES: usize = 32;
pub const EVICT_SLICE_BYTES_MIN: usize = 2 << 10;
pub const EVICT_SLICES_MAX: usize = 256;
/// What the process may have of the system's memory beside `maxmemory` before a part of the budget is held back: a part of it,
/// and so much once and for each shard.
pub const RESIDENT_BESIDE_PART: u64 = 20;
pub const RESIDENT_BESIDE_BYTES: u64 = 16 << 20;
pub const RESIDENT_BESIDE_BYTES_PER_SHARD: u64 = 24 << 20;
/// How the budget is held back: at each tick, and each time that writes have brought this part of `maxmemory`, it is looked
/// at what the process has too much. This part of that is held back; or what writes brought, times the square of how much
/// larger than the last part of `maxmemory` it is, if that is more.
pub const HOLD_BACK_LOOK_PART: u64 = 512;
pub const HOLD_BACK_PART: u64 = 32;
pub const HOLD_BACK_LIKE_WRITES_PART: u64 = 128;
/// This part of `maxmemory` is never held back.
pub const HOLD_BACK_LEAVES_PART: u64 = 4;
/// Smallest lease on `maxmemory` that a shard asks for while it fills, the largest part of it, and the largest part of a
/// shard's share (`maxmemory` / shards) that the smallest lease may be.
pub const LEASE_BYTES_MIN: u64 = 1 << 20;
pub const LEASE_PART: u64 = 256;
pub const LEASE_SHARE_PART: u64 = 16;
/// Leases are asked for and given back in pieces that are not smaller, if there are as many.
pub const LEASE_GRAIN_BYTES: u64 = 64 << 10;
/// By how many leases, and by which part of `maxmemory`, shards below their share may pass it together while those above
/// theirs make room.
pub const OVERDRAFT_LEASES: u64 = 4;
pub const OVERDRAFT_PART: u64 = 16;
/// Bytes that a write takes beyond its arguments: an entry's header, its slot in the table, what rounding costs.
pub const WRITE_OVERHEAD_BYTES: u64 = 64;
/// A `maxmemory` below this for each shard deserves a warning.
pub const SHARD_BYTES_MIN: u64 = 1 << 20;
/// Most keys that one page of SCAN looks at, whatever its COUNT says: COUNT is a hint.
pub const SCAN_PAGE_ENTRIES_MAX: usize = 10_000;
/// Tries of RANDOMKEY to meet a key that has not expired.
pub const RANDOM_KEY_TRIES: usize = 100;
/// Sessions that one tick looks at for idleness.
pub const IDLE_CHECK_SESSIONS: usize = 1000;
/// Operations of O(N) commands that wait for their next slice on one shard; past it clients are not read.
pub const WAITERS_MAX: usize = 1024;

const _: () = assert!(OUTPUT_PAUSE_BYTES > SHARED_BYTES_MIN);
const _: () = assert!(GARBAGE_VALUE_BYTES_MIN > SHARED_BYTES_MIN, "only refcounted values can be dropped elsewhere");
const _: () = assert!(BATCH_COMMANDS as u64 <= SESSION_OUTSTANDING_MAX);

/// Frames between shards kept for reuse by one shard, and the largest that is kept.
pub const FRAMES_KEPT_MAX: usize = 64;
pub const FRAME_KEPT_BYTES_MAX: usize = 1 << 20;
/// Input of a session whose commands wait that is held before its socket is not read any more.
pub const BACKLOG_PAUSE_BYTES: usize = 64 << 10;
/// Shortest time between two looks at timers while any is needed, milliseconds.
pub const TICK_MS_MIN: u64 = 10;

/// A batch of the log on disk, header and padding included. Part of the format: a longer one is damage.
pub const LOG_BATCH_BYTES_MAX: usize = 256 << 10;
/// What one write of the log carries: batches that lie next to each other.
pub const LOG_WRITE_BYTES_MAX: usize = 1 << 20;
/// Records that wait to be written, or are being written: past it whoever writes waits. One value may go beyond it by its
/// own length, and what other shards have under way by their credit ([`CREDIT_BYTES`]).
pub const LOG_PENDING_BYTES_MAX: usize = 8 << 20;
/// How soon a shard looks again at the logs of others that its clients wait for, milliseconds.
pub const LOG_LOOK_MS: u64 = 5;
/// What a full disk leaves of the last segment for the end of the log: the seal, and what is being padded.
pub const LOG_ROOM_BYTES_MIN: usize = 16 << 10;
/// Bytes of a record beside its key, at most, and the part of a batch of full size that padding may be.
pub const LOG_RECORD_OVERHEAD_BYTES: usize = 64;
pub const LOG_PADDING_PART: usize = 16;
/// Buffers of the log kept for reuse by one shard, each for one write.
pub const LOG_BUFFERS_KEPT_MAX: usize = 4;
/// How old a record may get before it is handed to be written, and how long what is written stays unsynced under
/// `everysec`, milliseconds.
pub const LOG_WRITE_AFTER_MS: u64 = 10;
/// How old it may get while other writes are under way, and how many of those there may be: a disk that does not answer for
/// `LOG_WRITES_IN_FLIGHT_MAX` times as long has what came before. Under `always` there is one.
pub const LOG_WRITE_BESIDE_AFTER_MS: u64 = 25;
pub const LOG_WRITES_IN_FLIGHT_MAX: usize = 16;
/// Segments that are written to before the first of them is synced.
pub const LOG_SEGMENTS_UNSYNCED_MAX: u64 = 8;
pub const LOG_SYNC_AFTER_MS: u64 = 1000;
/// The first segment of a generation; each further one is twice as long, up to the configured size.
pub const LOG_SEGMENT_FIRST_BYTES: u64 = 4 << 20;
pub const LOG_SEGMENT_BYTES_DEFAULT: u64 = 100 << 20;
/// Records that replay decodes before it shows them: enough to hide memory latency, as in a batch of commands.
pub const LOG_REPLAY_RECORDS: usize = BATCH_COMMANDS;

const _: () = assert!(LOG_WRITE_BYTES_MAX.is_multiple_of(LOG_BATCH_BYTES_MAX));
const _: () = assert!(LOG_PENDING_BYTES_MAX > 2 * LOG_WRITE_BYTES_MAX, "some writes in flight and one that forms");
const _: () = assert!(LOG_SEGMENT_FIRST_BYTES > LOG_BATCH_BYTES_MAX as u64);
/// A block of a snapshot, header and padding included. Part of the format: a longer one is damage.
pub const SNAPSHOT_BLOCK_BYTES_MAX: usize = 256 << 10;
/// Keys with values up to this length together are copied into a block with others; of longer ones a fragment at a time is,
/// so that a slice never copies much more.
pub const SNAPSHOT_WHOLE_BYTES_MAX: usize = 64 << 10;
pub const SNAPSHOT_FRAGMENT_BYTES_MAX: usize = 128 << 10;
/// Blocks that wait to be written, or are being written, before the walk pauses. Entries that are about to change are saved
/// all the same.
pub const SNAPSHOT_BLOCKS_AHEAD: usize = 8;
/// Bytes of a snapshot in memory: past it the shard delays writers. What the commands of one batch change, a request of each
/// client that came in parts, and the value that is being cut up may go beyond it: together it stays below 16 MiB unless
/// values are long.
pub const SNAPSHOT_PENDING_BYTES_MAX: usize = 12 << 20;
/// Bytes that one slice of a snapshot could copy in its time, 20 to 50 µs.
pub const SNAPSHOT_SLICE_BYTES: usize = 64 << 10;
/// What slices of a snapshot take of one turn, give or take one: commands that arrive meanwhile wait as long. Nanoseconds.
pub const SNAPSHOT_TURN_NS: u64 = 100_000;
/// After so long without a command a shard takes slices back to back. Nanoseconds.
pub const SNAPSHOT_IDLE_NS: u64 = 1_000_000;
/// Percent of the time of a busy shard that slices take while half of what may be in memory is: what is kept only for the
/// snapshot leaves memory by them.
pub const SNAPSHOT_DUTY_MAX: u64 = 50;
/// Commands of a batch while half of what may be in memory is: each may add what it changes.
pub const SNAPSHOT_PRESSING_COMMANDS: usize = 8;
/// How often it is looked whether a save is to begin by itself, milliseconds.
pub const SAVE_LOOK_MS: u64 = 1000;
/// How long after a failed save the next one is begun by itself: doubled with each failure in a row up to the most, seconds.
pub const SAVE_RETRY_S: u64 = 5;
pub const SAVE_RETRY_S_MAX: u64 = 300;
/// Entries that a reader hands out at a time, so that they can be asked for ahead.
pub const SNAPSHOT_LOAD_ENTRIES: usize = 64;

/// Keys that are looked at in one slice for what has expired, when all is redone: some tens of microseconds.
pub const REDO_END_SLICE_KEYS: usize = 256;

const _: () = assert!(SNAPSHOT_WHOLE_BYTES_MAX * 2 < SNAPSHOT_BLOCK_BYTES_MAX);
const _: () = assert!(SNAPSHOT_FRAGMENT_BYTES_MAX < SNAPSHOT_BLOCK_BYTES_MAX);
const _: () = assert!(SNAPSHOT_BLOCKS_AHEAD * SNAPSHOT_BLOCK_BYTES_MAX * 2 <= SNAPSHOT_PENDING_BYTES_MAX);
