//! Directories as a process leaves them, loaded by as many shards or by others, and begun again.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

use torc_engine::config::Config;
use torc_engine::id::ShardId;
use torc_engine::log::manifest::{Current, Manifest, ShardManifest};
use torc_engine::log::{FsyncPolicy, LogStart};
use torc_engine::route::Route;
use torc_engine::store::{Databases, Expiry, NewValue, SnapshotProgress, SnapshotStart, Store};

use super::super::start::{Begun, Opened, Relayout};
use super::*;

const DATABASE: [u8; 16] = [7; 16];
const NOW: Millis = Millis(1_000_000);
const SEGMENT_BYTES: u64 = 1 << 20;
/// The snapshot that some shards have.
const SNAPSHOT: u64 = 5;
const KEYS: u32 = 600;

/// A directory that goes away with the test.
struct Data(PathBuf);

impl Drop for Data {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// One shard of the process before.
struct Old {
    store: Store,
    state: ShardManifest,
    segments: BTreeMap<u64, Vec<u8>>,
}

impl Old {
    fn new(shard: u16, shards: u16) -> Old {
        let mut store = Store::new(torc_engine::limits::DATABASES_MAX, [1, 2, 3, 4], false);
        store.log().journal().begin(LogStart {
            database: DATABASE,
            generation: 3,
            shard,
            shards,
            segment: 1,
            salt: 9,
            next_lsn: Lsn(1),
            last_txid: 0,
            segment_bytes: SEGMENT_BYTES,
            first_segment_bytes: SEGMENT_BYTES,
            previous: None,
        });
        let state = ShardManifest { snapshot: None, base_lsn: Lsn(0), first_generation: 3, first_segment: 1 };
        Old { store, state, segments: BTreeMap::new() }
    }

    fn set(&mut self, key: &str, value: &str) {
        let key = self.store.key(0, key.as_bytes());
        self.store.set(key, NewValue::from(value.as_bytes()), Expiry::Never, NOW);
    }

    /// Has the disk take what was logged.
    fn sync(&mut self) {
        let journal = self.store.log().journal();
        while let Some(write) = journal.poll_write(NOW, FsyncPolicy::Always) {
            let file = self.segments.entry(write.segment).or_insert_with(|| vec![0; SEGMENT_BYTES as usize]);
            file[write.offset as usize..][..write.buffer.len()].copy_from_slice(write.buffer.as_slice());
            journal.handle_written(Ok(write.sync), write.buffer);
        }
    }

    fn snapshot(&mut self, shard: u16, shards: u16) -> Vec<u8> {
        let base = self.store.log().last_lsn();
        (self.state.snapshot, self.state.base_lsn) = (Some(SNAPSHOT), base);
        let start = SnapshotStart { database: DATABASE, snapshot: SNAPSHOT, shard, shards, ..SnapshotStart::default() };
        let wall_ms = NOW.0 + 77;
        self.store
            .begin_snapshot(SnapshotStart { base_lsn: base.0, last_version: 9, wall_ms, ..start })
            .expect("none runs");
        let mut file = Vec::new();
        while !matches!(self.store.snapshot_progress(), SnapshotProgress::Finished(_)) {
            self.store.snapshot_slice(torc_engine::limits::SNAPSHOT_SLICE_BYTES);
            while let Some(block) = self.store.poll_snapshot_block() {
                let end = block.offset as usize + block.buffer.len();
                file.resize(file.len().max(end), 0);
                file[block.offset as usize..end].copy_from_slice(block.buffer.as_slice());
                self.store.handle_snapshot_block_written(block);
            }
        }
        file
    }
}

fn key(number: u32) -> String {
    format!("key:{number}")
}

fn value(number: u32) -> String {
    format!("{number}").repeat(200)
}

impl Data {
    /// What so many shards leave of `KEYS` keys in database 1, and as many that were flushed; the last shard was killed before
    /// the flush was durable. Each second shard has a snapshot, and after it another log.
    fn written_by(shards: u16) -> Data {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("torc-load-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let data = Data(std::env::temp_dir().join(name));
        fs::create_dir(&data.0).expect("a new directory");
        let route = Route::new(shards.into());
        let mut all: Vec<Old> = (0..shards).map(|shard| Old::new(shard, shards)).collect();
        for number in 0..KEYS {
            all[route.owner(key(number).as_bytes()).index()].set(&key(number), "flushed");
        }
        all.iter_mut().for_each(|old| old.store.swap(0, 1));
        for number in 0..KEYS {
            all[route.owner(key(number).as_bytes()).index()].set(&key(number), &value(number));
            if number == KEYS / 2 {
                for (shard, old) in (0..).zip(&mut all).filter(|(shard, _)| shard % 2 == 0) {
                    let id = SnapshotId { id: SNAPSHOT, shard };
                    fs::write(data.0.join(id.to_string()), old.snapshot(shard, shards)).expect("write");
                }
            }
        }
        all.iter_mut().for_each(Old::sync);
        all.iter_mut().for_each(|old| old.store.clear(1..2).expect("there are ids"));
        all.iter_mut().for_each(|old| old.store.swap(0, 1));
        let count = all.len();
        all.iter_mut().take(count - 1).for_each(Old::sync);
        if count == 1 {
            all[0].sync();
        }
        for (shard, old) in (0..).zip(&all) {
            for (&number, bytes) in &old.segments {
                let id = SegmentId { shard, generation: 3, number };
                fs::write(data.0.join(id.to_string()), bytes).expect("write");
            }
        }
        data.write_manifest(all.iter().map(|old| old.state).collect());
        data
    }

    fn write_manifest(&self, shards: Vec<ShardManifest>) {
        let manifest = Manifest { number: 1, database: DATABASE, generation: 3, last_txid: 0, wall_ms: 1, shards };
        fs::write(self.0.join("MANIFEST-1"), manifest.encode()).expect("write");
        fs::write(self.0.join("CURRENT"), Current::to(&manifest.encode(), 1).encode()).expect("write");
    }

    fn open(&self, shards: usize) -> Opened {
        Opened::open(&self.0, shards).expect("a sound directory")
    }

    fn current(&self) -> Vec<u8> {
        fs::read(self.0.join("CURRENT")).expect("it is there")
    }

    fn snapshot_path(&self) -> PathBuf {
        self.0.join(SnapshotId { id: SNAPSHOT, shard: 0 }.to_string())
    }

    fn torn_copies(&self) -> usize {
        let names = fs::read_dir(&self.0).expect("a directory").map(|entry| entry.expect("an entry").file_name());
        names.filter(|name| name.to_string_lossy().contains(".torn-")).count()
    }
}

/// Loads everything: the shards, and how the parts of each ended.
fn load(opened: &Opened, shards: usize) -> Result<Vec<(Shard, Vec<PartEnd>)>, StartError> {
    let load_one = |(source, id): (Source, u16)| {
        let mut config = Config::default();
        config.set_at_start("appendonly", &["yes".to_string()]).expect("a parameter");
        let mut shard = Shard::new(ShardId(id), shards, [1, 2, 3, 4], config, NOW);
        shard.begin_loading();
        let bytes = source.bytes();
        let mut load = Load::new(source);
        let mut loaded = 0;
        while load.step(&mut shard)? {
            loaded += load.take_loaded_bytes();
            while shard.free_redone_slice() {}
        }
        assert_eq!(loaded, bytes, "the bar comes to its end");
        Ok((shard, load.into_ends()))
    };
    opened.sources(Recovery::Tail).into_iter().zip(0..).map(load_one).collect()
}

fn layout_of(loaded: &[(Shard, Vec<PartEnd>)]) -> Databases {
    loaded.iter().map(|(shard, _)| shard.layout()).max_by_key(|layout| layout.number).expect("a shard")
}

fn begin(opened: Opened, loaded: &[(Shard, Vec<PartEnd>)]) -> Begun {
    let mut ends: Vec<PartEnd> = loaded.iter().flat_map(|(_, ends)| ends.clone()).collect();
    ends.sort_by_key(|end| end.shard);
    ends.dedup();
    let cores: Vec<usize> = loaded.iter().map(|_| 0).collect();
    opened
        .begin(&ends, torc_engine::log::FsyncPolicy::EverySec, SEGMENT_BYTES, &cores, |_| {})
        .expect("room on the disk")
}

/// Leaves everything as a kill would.
fn end(begun: Begun) {
    drop(begun.seats);
    assert!(begun.folder.thread.stop());
}

#[test]
fn any_number_of_shards_loads_what_any_number_has_left() {
    for old in 1..=3u16 {
        for new in 1..=3usize {
            let data = Data::written_by(old);
            let before = data.current();
            let opened = data.open(new);
            assert_eq!(opened.written_by(), usize::from(old));
            let mut loaded = load(&opened, new).expect("it is sound");
            // What one log lost the others know.
            let layout = layout_of(&loaded);
            assert_eq!(layout.number, 3);
            for (shard, ends) in &mut loaded {
                shard.adopt_layout(&layout).expect("ids that can be");
                assert!(shard.is_loading());
                assert_eq!(ends.len(), if old as usize == new { 1 } else { old.into() });
            }
            let keys: Vec<u64> = loaded.iter().map(|(shard, _)| shard.keys()).collect();
            assert_eq!(keys.iter().sum::<u64>(), u64::from(KEYS), "{old} to {new}: what was flushed is gone on all");
            assert!(keys.iter().all(|&keys| keys > 100), "{keys:?}");
            let ends: Vec<PartEnd> = loaded.iter().flat_map(|(_, ends)| ends.clone()).collect();
            let wall_ms = ends.iter().map(|end| end.end.wall_ms).max();
            assert_eq!((wall_ms, ends[0].last_version), (Some(Millis(NOW.0 + 77)), 9));

            let last = ends.iter().map(|end| end.end.last_lsn).max().expect("an end");
            let begun = begin(opened, &loaded);
            assert_eq!((begun.folder.database, begun.folder.generation, begun.seats.len()), (DATABASE, 4, new));
            assert!(begun.seats.iter().all(|seat| seat.start.generation == 4));
            if old as usize == new {
                assert_eq!(begun.relayout, Relayout::Done);
                assert_ne!(data.current(), before);
                for (seat, end) in begun.seats.iter().zip(&ends) {
                    assert_eq!(seat.start.next_lsn.0, end.end.last_lsn.0 + 1);
                    assert_eq!(seat.start.previous, end.end.previous);
                }
            } else {
                assert_eq!(begun.relayout, Relayout::NeedsSnapshot);
                assert_eq!(data.current(), before, "what counts is still what was there");
                let numbers = begun.seats.iter().map(|seat| (seat.start.next_lsn.0, seat.start.previous));
                assert!(numbers.clone().all(|start| start == (last.0 + 1, None)), "no number is used twice");
            }
            end(begun);
            // So it is when that is done again, by others.
            let opened = data.open(1);
            let loaded = load(&opened, 1).expect("it is sound");
            assert_eq!(loaded[0].0.keys(), u64::from(KEYS));
        }
    }
}

#[test]
fn each_torn_end_is_cut_off_once_whoever_has_read_it() {
    for new in 1..=3usize {
        let data = Data::written_by(2);
        // Of each log the last page is lost but for its first bytes.
        for shard in 0..2 {
            let path = data.0.join(SegmentId { shard, generation: 3, number: 1 }.to_string());
            let mut bytes = fs::read(&path).expect("the log");
            let end = bytes.iter().rposition(|&byte| byte != 0).expect("a log") / 4096 * 4096;
            bytes[end + 100..].fill(0);
            fs::write(&path, &bytes).expect("write");
        }
        let opened = data.open(new);
        let loaded = load(&opened, new).expect("it is sound");
        end(begin(opened, &loaded));
        assert_eq!(data.torn_copies(), 2);
        let opened = data.open(new);
        let loaded = load(&opened, new).expect("it is sound");
        end(begin(opened, &loaded));
        assert_eq!(data.torn_copies(), 2);
    }
}

#[test]
fn a_snapshot_that_is_damaged_or_another_one_is_refused_by_name() {
    let data = Data::written_by(1);
    let path = data.snapshot_path();
    let sound = fs::read(&path).expect("the snapshot");
    let refusal = || {
        let opened = data.open(1);
        let said = load(&opened, 1).err().map(|error| error.to_string());
        said.filter(|said| said.contains(path.to_str().expect("text")) && said.contains("Nothing was changed"))
    };
    assert_eq!(refusal(), None);
    let mut damaged = sound.clone();
    damaged[5000] ^= 4;
    fs::write(&path, &damaged).expect("write");
    assert!(refusal().is_some_and(|said| said.contains("at byte 4096: the checksum of the block does not match")));
    for len in [0, 4095, 4096, 6000, sound.len() - 4096] {
        fs::write(&path, &sound[..len]).expect("write");
        assert!(refusal().is_some(), "{len}");
    }
    fs::write(&path, [&sound[..], &[0; 4096]].concat()).expect("write");
    assert!(refusal().is_some());

    fs::write(&path, &sound).expect("write");
    let manifest = Manifest::decode(&fs::read(data.0.join("MANIFEST-1")).expect("it is there")).expect("it is sound");
    let state = manifest.shards[0];
    data.write_manifest(vec![ShardManifest { base_lsn: Lsn(state.base_lsn.0 - 1), ..state }]);
    assert!(refusal().is_some_and(|said| said.contains("of another moment than the manifest names")));
    fs::write(data.0.join(SnapshotId { id: 6, shard: 0 }.to_string()), &sound).expect("write");
    data.write_manifest(vec![ShardManifest { snapshot: Some(6), ..state }]);
    let opened = data.open(1);
    let said = load(&opened, 1).err().expect("another snapshot").to_string();
    assert!(said.contains("snap-000006-0.tsn") && said.contains("of another snapshot than"), "{said}");
    assert_eq!(fs::read(&path).expect("the snapshot"), sound);
}

#[test]
fn a_log_without_a_record_is_begun_anew_and_then_given_up() {
    let data = Data::written_by(1);
    let segment = data.0.join(SegmentId { shard: 0, generation: 3, number: 1 }.to_string());
    fs::write(&segment, vec![0; SEGMENT_BYTES as usize]).expect("write");
    let opened = data.open(1);
    let loaded = load(&opened, 1).expect("the snapshot is sound");
    let base = loaded[0].1[0].end.last_lsn;
    assert!(base > Lsn(0) && loaded[0].0.keys() > 100);
    let begun = begin(opened, &loaded);
    assert_eq!(begun.seats[0].start.next_lsn.0, base.0 + 1);
    end(begun);
    assert!(!segment.exists());
    let opened = data.open(1);
    assert_eq!(load(&opened, 1).expect("it is sound")[0].1[0].end.last_lsn, base);
}
