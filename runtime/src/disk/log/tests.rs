//! The driver with a real ring, real files and the disk's thread, and a journal that only says what is to be written.

use std::collections::VecDeque;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use memmap2::MmapMut;

use super::*;
use crate::disk::pool::{self, DiskThread};
use crate::disk::{Access, Directory, PoolSize};
use crate::ring::Completion;

const BLOCK: usize = 4096;
const SIZES: SegmentSizes = SegmentSizes { first_bytes: 4 * BLOCK as u64, full_bytes: 16 * BLOCK as u64 };

/// Bytes at an address that O_DIRECT takes.
fn block(byte: u8, blocks: usize) -> MmapMut {
    let mut map = MmapMut::map_anon(BLOCK * blocks).unwrap();
    map.fill(byte);
    map
}

/// What is written is chosen by the test; what comes of it is kept.
#[derive(Default)]
struct Script {
    writes: VecDeque<Write<MmapMut>>,
    results: Vec<Result<bool, WriteFault>>,
    buffers: Vec<u8>,
    /// The segment that a sync beside writes is wanted of, and what came of those that were.
    wants_sync: Option<u64>,
    syncs: Vec<Result<(), WriteFault>>,
}

impl JournalIo for Script {
    type Buffer = MmapMut;

    fn poll_write(&mut self, _now: Millis) -> Option<Write<MmapMut>> {
        self.writes.pop_front()
    }

    fn poll_sync(&mut self, _now: Millis) -> Option<u64> {
        self.wants_sync.take()
    }

    fn handle_synced(&mut self, result: Result<(), &LogFailure>) {
        self.syncs.push(result.map_err(|failure| failure.fault));
    }

    fn handle_written(&mut self, result: Result<bool, &LogFailure>, buffer: MmapMut) {
        self.results.push(result.map_err(|failure| failure.fault));
        self.buffers.extend(buffer.first());
    }
}

struct World {
    path: PathBuf,
    thread: DiskThread<Host>,
    driver: LogDriver<MmapMut>,
    ring: Ring,
    script: Script,
}

impl World {
    fn new(name: &str, method: SyncMethod) -> World {
        let path = std::env::temp_dir().join(format!("torc-log-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        let directory = Directory::open(Host, &path, Access::Serve).unwrap();
        let size = PoolSize { segment_bytes: SIZES.full_bytes, files: 2 };
        let (thread, mut lanes) = pool::start(directory, size, &[0], |_| ()).unwrap();
        let driver = LogDriver::new(lanes.remove(0), method, SIZES, 1, 1);
        World { path, thread, driver, ring: Ring::new().unwrap(), script: Script::default() }
    }

    fn write(&mut self, segment: u64, offset_blocks: usize, byte: u8, blocks: usize, sync: bool) {
        let offset = (offset_blocks * BLOCK) as u64;
        self.script.writes.push_back(Write { segment, offset, buffer: block(byte, blocks), sync });
    }

    /// Until so many results are there.
    fn run(&mut self, results: usize) {
        let deadline = Instant::now() + Duration::from_secs(20);
        let mut now = 0;
        while self.script.results.len() < results {
            assert!(Instant::now() < deadline, "{:?}", self.script.results);
            now += 1;
            self.driver.serve(&mut self.script, &mut self.ring, Millis(now));
            self.ring.wait(Duration::from_millis(1)).unwrap();
            while let Some(completion) = self.ring.next_completion() {
                self.take(completion, now);
            }
        }
    }

    /// Until the ring has nothing under way.
    fn drain(&mut self) {
        while self.ring.writes_under_way() > 0 {
            self.run(self.script.results.len());
            self.ring.wait(Duration::from_millis(1)).unwrap();
            while let Some(completion) = self.ring.next_completion() {
                self.take(completion, 1);
            }
        }
    }

    /// Has the ring end what is under way, and nobody told.
    fn let_go(&mut self) {
        while self.ring.writes_under_way() > 0 {
            self.ring.wait(Duration::from_millis(1)).unwrap();
            while self.ring.next_completion().is_some() {}
        }
    }

    fn take(&mut self, completion: Completion, now: u64) {
        let World { driver, script, .. } = self;
        match completion {
            Completion::Written { key, result } => driver.handle_written(script, key, result, Millis(now)),
            Completion::Synced { key, result } if key.slot == LogDriver::<MmapMut>::SIDE_SLOT => {
                driver.handle_side_synced(script, key, result, Millis(now));
            }
            Completion::Synced { key, result } => driver.handle_synced(script, key, result, Millis(now)),
            other => panic!("{other:?}"),
        }
    }

    fn replace_file(&mut self, path: &str) {
        let file = File::options().write(true).open(path).unwrap();
        self.driver.segments.back_mut().unwrap().file = Arc::new(file);
    }

    fn end(self) {
        self.driver.finish();
        assert!(self.thread.stop());
        fs::remove_dir_all(&self.path).unwrap();
    }
}

fn segment(path: &Path, number: u64) -> Vec<u8> {
    fs::read(path.join(format!("wal-1-0-{number:06}.log"))).unwrap()
}

#[test]
fn sizes_double_up_to_the_full_one() {
    let bytes: Vec<u64> = (0..5).map(|index| SIZES.bytes(index) / BLOCK as u64).collect();
    assert_eq!(bytes, [4, 8, 16, 16, 16]);
    assert_eq!((SIZES.bytes(63), SIZES.bytes(64), SIZES.bytes(u64::MAX)), (65536, 65536, 65536));
}

#[test]
fn writes_go_to_their_segments_in_order() {
    for (name, method) in [("linked", SyncMethod::Linked), ("dsync", SyncMethod::Dsync)] {
        let mut world = World::new(name, method);
        let mut byte = 0;
        for (number, blocks) in [(1, 4), (2, 8), (3, 16), (4, 16)] {
            for offset in (0..blocks).step_by(2) {
                byte += 1;
                world.write(number, offset, byte, 2, offset % 4 == 0);
            }
        }
        world.run(byte as usize);
        let synced = |index: usize| index.is_multiple_of(2);
        assert!(world.script.results.iter().enumerate().all(|(index, result)| *result == Ok(synced(index))));
        assert_eq!(world.script.buffers, (1..=byte).collect::<Vec<u8>>(), "every buffer is given back");
        let log: Vec<u8> = (1..=4).flat_map(|number| segment(&world.path, number)).collect();
        assert_eq!(log.len(), 44 * BLOCK);
        assert!(log.chunks(2 * BLOCK).zip(1u8..).all(|(part, byte)| part.iter().all(|&found| found == byte)));
        let totals = world.driver.totals();
        assert_eq!((totals.writes, totals.bytes, totals.segments, totals.syncs), (22, 44 * 4096, 4, 11));
        // The spare goes back to the pool.
        let path = world.path.clone();
        world.driver.lane.wait().unwrap();
        world.driver.finish();
        assert!(world.thread.stop());
        assert!(path.join("pool/1.free").exists() && !path.join("wal-1-0-000005.log").exists());
        fs::remove_dir_all(&path).unwrap();
    }
}

#[test]
fn writes_go_on_beside_a_sync() {
    let mut world = World::new("beside", SyncMethod::Linked);
    world.write(1, 0, 1, 1, false);
    world.run(1);
    world.script.wants_sync = Some(1);
    world.write(1, 1, 2, 1, false);
    world.write(1, 2, 3, 1, false);
    world.run(3);
    while world.script.syncs.is_empty() {
        world.write(1, 3, 4, 1, false);
        world.run(world.script.results.len() + 1);
    }
    assert_eq!(world.script.syncs, [Ok(())]);
    assert!(!world.driver.is_flushing() && world.driver.owed_since().is_none());
    // Of the segment before the one that is written to, and then of that.
    for segment in [1, 2] {
        world.script.wants_sync = Some(segment);
        world.write(2, 0, 5, 1, false);
        world.run(world.script.results.len() + 1);
        while world.script.syncs.len() == segment as usize {
            world.run(world.script.results.len());
            world.write(2, 1, 6, 1, false);
            world.run(world.script.results.len() + 1);
        }
        assert_eq!((world.script.syncs.last(), world.driver.segments.len()), (Some(&Ok(())), 3 - segment as usize));
    }
    // One that fails ends the log, and nobody is told of what is under way.
    world.script.wants_sync = Some(2);
    world.write(2, 2, 7, 1, false);
    world.driver.serve(&mut world.script, &mut world.ring, Millis(9));
    let key = world.driver.side.expect("a sync is under way").key;
    let before = world.script.results.len();
    world.driver.handle_side_synced(&mut world.script, key, Err(Errno(libc::EIO)), Millis(9));
    let fault = WriteFault { step: WriteStep::Sync, errno: Errno(libc::EIO) };
    assert_eq!(world.script.syncs.last(), Some(&Err(fault)));
    let text = world.driver.failure().expect("it has failed").to_string();
    assert!(text.contains("wal-1-0-000002.log failed (fdatasync"), "{text}");
    assert!(world.driver.busy_since().is_some() && world.driver.owed_since().is_none());
    world.drain();
    assert_eq!(world.script.results.len(), before);
    world.end();
}

#[test]
fn what_ends_out_of_order_is_told_in_order() {
    let mut world = World::new("order", SyncMethod::Linked);
    world.driver.lane().wait().unwrap();
    for (offset, byte) in [(0, 1), (1, 2), (2, 3), (3, 4)] {
        world.write(1, offset, byte, 1, byte == 4);
    }
    world.driver.serve(&mut world.script, &mut world.ring, Millis(1));
    assert_eq!((world.driver.under_way.len(), world.script.writes.len()), (4, 0));
    let keys: Vec<Key> = world.driver.under_way.iter().map(|write| write.key).collect();
    world.let_go();
    for (index, told) in [(2, 0), (1, 0), (0, 3)] {
        world.driver.handle_written(&mut world.script, keys[index], Ok(()), Millis(5));
        assert_eq!(world.script.results.len(), told);
    }
    assert_eq!(world.script.buffers, [1, 2, 3]);
    assert!(world.driver.is_flushing() && world.driver.busy_since() == Some(Millis(1)));
    world.driver.handle_written(&mut world.script, keys[3], Ok(()), Millis(8));
    assert_eq!((world.script.results.last(), world.driver.busy_since()), (Some(&Ok(true)), None));
    assert_eq!((world.driver.totals().sync_ms_max, world.driver.totals().writes), (7, 4));

    // The first that fails is told when those before it have ended, and is the last.
    (0..3).for_each(|offset| world.write(1, offset, 7, 1, false));
    world.driver.serve(&mut world.script, &mut world.ring, Millis(9));
    let keys: Vec<Key> = world.driver.under_way.iter().map(|write| write.key).collect();
    world.let_go();
    let fault = WriteFault { step: WriteStep::Write, errno: Errno(libc::EIO) };
    world.driver.handle_written(&mut world.script, keys[1], Err(fault), Millis(9));
    assert!(world.driver.failure().is_none());
    world.driver.handle_written(&mut world.script, keys[0], Ok(()), Millis(9));
    assert_eq!((&world.script.results[4..], world.driver.failure().is_some()), (&[Ok(false), Err(fault)][..], true));
    assert!(world.driver.busy_since().is_some());
    world.driver.handle_written(&mut world.script, keys[2], Ok(()), Millis(9));
    assert!(world.driver.busy_since().is_none() && world.script.results.len() == 6);
    world.end();
}

#[test]
fn empty_write_syncs_what_was_written() {
    let mut world = World::new("empty", SyncMethod::Linked);
    world.write(1, 0, 1, 1, false);
    world.run(1);
    world.write(1, 1, 0, 0, true);
    world.run(2);
    assert_eq!(world.script.results, [Ok(false), Ok(true)]);
    let totals = world.driver.totals();
    assert!(world.driver.busy_since().is_none());
    assert_eq!((totals.writes, totals.syncs), (1, 1));
    // One in a file that syncs nothing.
    world.write(1, 1, 2, 1, false);
    world.run(3);
    world.replace_file("/dev/null");
    world.write(1, 2, 0, 0, true);
    world.run(4);
    let fault = WriteFault { step: WriteStep::Sync, errno: Errno(libc::EINVAL) };
    assert_eq!(
        (world.script.results[3], world.driver.failure().map(|failure| failure.fault)),
        (Err(fault), Some(fault))
    );
    world.end();
}

#[test]
fn failure_ends_the_log_until_it_begins_anew() {
    // A file that takes nothing, and one that takes all and syncs nothing.
    for (device, step, errno) in
        [("/dev/full", WriteStep::Write, libc::ENOSPC), ("/dev/null", WriteStep::Sync, libc::EINVAL)]
    {
        let mut world = World::new(&device.replace('/', "-"), SyncMethod::Linked);
        world.write(1, 0, 1, 1, true);
        world.run(1);
        world.replace_file(device);
        world.write(1, 1, 2, 1, true);
        world.run(2);
        world.write(1, 2, 3, 1, true);
        let fault = WriteFault { step, errno: Errno(errno) };
        assert_eq!(world.script.results, [Ok(true), Err(fault)]);
        assert_eq!(world.script.buffers, [1, 2]);
        let text = world.driver.failure().unwrap().to_string();
        assert!(text.contains("wal-1-0-000001.log failed (") && text.contains("look at dmesg"), "{text}");
        assert!(!text.contains("  "), "{text}");
        // Nothing is written, and nothing is tried again.
        for now in 10..20 {
            world.driver.serve(&mut world.script, &mut world.ring, Millis(now));
        }
        assert_eq!((world.script.writes.len(), world.ring.writes_under_way()), (1, 0));

        world.script.writes.clear();
        world.driver.restart(1, 7);
        world.write(7, 0, 9, 1, true);
        world.run(3);
        assert_eq!(world.script.results[2], Ok(true));
        assert_eq!(segment(&world.path, 7)[..BLOCK], [9; BLOCK]);
        world.end();
    }
}

#[test]
fn what_takes_long_is_counted_once() {
    let mut world = World::new("delays", SyncMethod::Linked);
    world.write(1, 0, 1, 1, true);
    world.driver.lane().wait().unwrap();
    world.driver.serve(&mut world.script, &mut world.ring, Millis(1_000));
    assert!(world.driver.is_flushing() && world.driver.segment() == Some(1));
    for (now, delays) in [(1_000, 0), (2_999, 0), (3_000, 1), (9_000, 1)] {
        world.driver.serve(&mut world.script, &mut world.ring, Millis(now));
        assert_eq!(world.driver.totals().delays, delays, "{now}");
    }
    world.run(1);
    assert!(!world.driver.is_flushing());
    // One that nobody looked at meanwhile.
    world.write(1, 1, 2, 1, true);
    world.driver.serve(&mut world.script, &mut world.ring, Millis(20_000));
    while world.script.results.len() < 2 {
        world.ring.wait(Duration::from_millis(1)).unwrap();
        while let Some(completion) = world.ring.next_completion() {
            let Completion::Written { key, result } = completion else { panic!("{completion:?}") };
            world.driver.handle_written(&mut world.script, key, result, Millis(23_000));
        }
    }
    assert_eq!(world.driver.totals().delays, 2);
    world.end();
}
