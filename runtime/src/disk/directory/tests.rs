//! The directory over a file system that crashes and fails at each call: what counted before or what counts after is found,
//! whole; every failure says where and why; and every refusal leaves the directory as it is.

use torc_engine::log::Lsn;
use torc_engine::log::manifest::ShardManifest;

use super::*;
use crate::disk::sim::{Plan, Sim};

const PATH: &str = "/data";
const SHARDS: u16 = 2;
const SEGMENT: u64 = 16 * 1024;
const POOL_SIZE: PoolSize = PoolSize { segment_bytes: SEGMENT, files: 3 };

fn open(sim: &Sim) -> Result<Directory<Sim>, DiskError> {
    Directory::open(sim.clone(), Path::new(PATH), Access::Serve)
}

fn manifest(generation: u64, snapshot: Option<u64>, first: (u64, u64)) -> Manifest {
    let shard = ShardManifest {
        snapshot,
        base_lsn: Lsn(snapshot.unwrap_or(0) * 100),
        first_generation: first.0,
        first_segment: first.1,
    };
    Manifest {
        number: 0,
        database: [7; 16],
        generation,
        last_txid: 0,
        wall_ms: 1,
        shards: vec![shard; SHARDS as usize],
    }
}

fn segments(directory: &mut Directory<Sim>, generation: u64, number: u64) -> Result<(), DiskError> {
    for shard in 0..SHARDS {
        let mut filling = directory.begin_segment(SegmentId { shard, generation, number }, SEGMENT)?;
        while !filling.is_full() {
            directory.fill(&mut filling, &[0; 4096])?;
        }
        directory.finish_segment(filling)?;
    }
    Ok(())
}

/// Writes into a segment, as a shard does once there is a manifest of its generation.
fn log(sim: &Sim, shard: u16, generation: u64, number: u64) -> Result<(), DiskError> {
    let path = Path::new(PATH).join(SegmentId { shard, generation, number }.to_string());
    let text = "x".repeat(5300);
    let file = sim.open(&path, Open::Write).map_err(failed("open", &path))?;
    file.write_all_at(text.as_bytes(), 0).and_then(|()| file.sync()).map_err(failed("write", &path))
}

fn snapshot_text(id: SnapshotId) -> Vec<u8> {
    format!("{id} {}", "z".repeat(3000)).into_bytes()
}

fn snapshots(directory: &mut Directory<Sim>, id: u64) -> Result<(), DiskError> {
    for shard in 0..SHARDS {
        let id = SnapshotId { id, shard };
        let (file, _) = directory.create_snapshot(id)?;
        let path = directory.snapshot_path(id);
        file.write_all_at(&snapshot_text(id), 0).map_err(failed("write", &path))?;
    }
    Ok(())
}

/// The first start of a directory.
fn start(sim: &Sim) -> Result<Directory<Sim>, DiskError> {
    let mut directory = open(sim)?;
    let generation = directory.next_generation();
    segments(&mut directory, generation, 1)?;
    directory.switch(manifest(generation, None, (generation, 1)))?;
    for shard in 0..SHARDS {
        log(sim, shard, generation, 1)?;
    }
    Ok(directory)
}

/// Another segment and a snapshot, and what is not needed any more is gone.
fn advance(directory: &mut Directory<Sim>) -> Result<(), DiskError> {
    let generation = directory.manifest().unwrap().generation;
    let number = directory.log_of(0).last().unwrap().0.number + 1;
    segments(directory, generation, number)?;
    for shard in 0..SHARDS {
        log(&directory.disk, shard, generation, number)?;
    }
    let id = directory.next_snapshot();
    snapshots(directory, id)?;
    directory.switch(manifest(generation, Some(id), (generation, number)))?;
    directory.recycle(POOL_SIZE, true).map(drop)
}

/// A directory with the manifests 1, 2 and 3, of which the first is not kept.
fn lived_in(seed: u64) -> Sim {
    let sim = Sim::new(seed);
    let mut directory = start(&sim).unwrap();
    advance(&mut directory).unwrap();
    advance(&mut directory).unwrap();
    drop(directory);
    sim
}

/// Opens what is left and checks that all that counts is whole. Gives the number of the manifest, 0 for none.
fn check(sim: &Sim) -> u64 {
    let directory = open(sim).unwrap_or_else(|error| panic!("{error}: {:?}", sim.paths()));
    let Some(manifest) = directory.manifest() else { return 0 };
    let mut bytes = Vec::new();
    for kept in directory.older.values().chain([manifest]) {
        for (shard, state) in kept.shards.iter().enumerate() {
            let shard = shard as u16;
            let Some(id) = state.snapshot.map(|id| SnapshotId { id, shard }) else { continue };
            let (file, size) = directory.open_snapshot(id).unwrap();
            bytes.resize(size as usize, 0);
            file.read_full_at(&mut bytes, 0).unwrap();
            assert_eq!(bytes, snapshot_text(id));
        }
    }
    for shard in 0..SHARDS {
        let log = directory.log_of(shard);
        assert_eq!(log[0].0.number, manifest.shards[0].first_segment);
        for (id, size) in log {
            let log = directory.map_segment(id).unwrap();
            assert_eq!((size, log.len() as u64), (SEGMENT, SEGMENT));
        }
    }
    manifest.number
}

#[test]
fn directory_lives() {
    let sim = Sim::new(1);
    let mut directory = start(&sim).unwrap();
    assert_eq!(directory.manifest().unwrap().number, 1);
    advance(&mut directory).unwrap();
    // The log from the beginning is kept beside the first snapshot.
    assert_eq!(directory.log_of(0).len(), 1);
    assert!(sim.paths().contains(&"/data/wal-1-0-000001.log".to_owned()));
    advance(&mut directory).unwrap();
    advance(&mut directory).unwrap();
    let names: Vec<String> = sim.paths().into_iter().map(|path| path.replace("/data/", "")).collect();
    assert_eq!(
        names,
        [
            "CURRENT",
            "LOCK",
            "MANIFEST-3",
            "MANIFEST-4",
            "pool/3.free",
            "pool/4.free",
            "snap-000002-0.tsn",
            "snap-000002-1.tsn",
            "snap-000003-0.tsn",
            "snap-000003-1.tsn",
            "wal-1-0-000003.log",
            "wal-1-0-000004.log",
            "wal-1-1-000003.log",
            "wal-1-1-000004.log",
        ]
    );
    assert_eq!((directory.next_generation(), directory.next_snapshot()), (2, 4));
    assert_eq!(check(&sim.killed()), 4);

    // Without space for it the previous snapshot goes, and its log.
    sim.set_available(100);
    assert!(directory.recycle(POOL_SIZE, true).unwrap() > 6000);
    assert_eq!(sim.paths().iter().filter(|path| path.contains("snap")).count(), 2);
    assert_eq!(check(&sim.killed()), 4);
}

#[test]
fn crash_at_every_call_leaves_the_old_state_or_the_new_one() {
    let base = lived_in(1);
    let steps = |sim: &Sim| -> Result<(), DiskError> {
        let mut directory = open(sim)?;
        advance(&mut directory)
    };
    let counting = base.killed();
    steps(&counting).unwrap();
    let calls = counting.calls() - base.calls();
    let mut seen = [0, 0];
    for at in 1..=calls + 1 {
        for seed in 0..12 {
            let sim = base.killed();
            sim.plan(Plan::Crash { at });
            let result = steps(&sim);
            let number = check(&sim.crashed(at * 1000 + seed));
            assert!(number == 4 || number == 3 && result.is_err(), "call {at}: {number} {result:?}");
            seen[number as usize - 3] += 1;
            // The crash may be one of the process only.
            assert!(check(&sim.killed()) >= 3, "call {at}");
        }
    }
    assert!(seen.iter().all(|&times| times > 100), "{seen:?}");
}

#[test]
fn crash_at_every_call_of_the_first_start_leaves_a_directory_that_starts() {
    let counting = Sim::new(1);
    start(&counting).unwrap();
    for at in 1..=counting.calls() + 1 {
        for seed in 0..12 {
            let sim = Sim::new(seed);
            sim.plan(Plan::Crash { at });
            let result = start(&sim).map(drop);
            let left = sim.crashed(at * 1000 + seed);
            let number = check(&left.killed());
            assert!(number == 1 || number == 0 && result.is_err(), "call {at}: {number} {result:?}");
            if number == 0 {
                assert_eq!(start(&left).unwrap().manifest().unwrap().shards[0].snapshot, None, "call {at}");
                assert!(check(&left.killed()) > 0);
            }
        }
    }
}

#[test]
fn failure_of_every_call_is_told_and_the_old_state_stays() {
    let base = lived_in(1);
    for errno in [libc::EIO, libc::ENOSPC] {
        for at in 1.. {
            let sim = base.killed();
            let mut directory = open(&sim).unwrap();
            sim.plan(Plan::Fail { at, errno });
            let result = advance(&mut directory);
            if !sim.has_failed() {
                break;
            }
            let error = result.expect_err("every call of this matters");
            let text = error.to_string();
            assert!(text.contains(PATH) && text.contains(&format!("os error {errno}")), "{text}");
            sim.plan(Plan::Nothing);
            for left in [sim.killed(), sim.crashed(at), sim.crashed(at + 1000)] {
                assert!([3, 4].contains(&check(&left)), "call {at}");
            }
            // The same process goes on, and what counts then counts after a crash too.
            advance(&mut directory).unwrap();
            let counts = directory.manifest().unwrap().number;
            assert!(counts >= 4);
            assert_eq!(check(&sim.crashed(at)), counts, "call {at}");
        }
    }
}

#[test]
fn full_disk_leaves_the_old_state_until_there_is_space() {
    let base = lived_in(1);
    for from in 1.. {
        let sim = base.killed();
        let mut directory = open(&sim).unwrap();
        sim.plan(Plan::Full { from });
        let result = advance(&mut directory);
        if !sim.has_failed() {
            break;
        }
        assert!(result.unwrap_err().is_full());
        assert!([3, 4].contains(&check(&sim.crashed(from))));
        sim.plan(Plan::Nothing);
        advance(&mut directory).unwrap();
        assert!(check(&sim.crashed(from)) >= 4);
    }
}

#[test]
fn ended_segment_is_cut_and_nothing_else() {
    let sim = Sim::new(1);
    let mut directory = start(&sim).unwrap();
    let id = SegmentId { shard: 0, generation: 1, number: 1 };
    directory.cut_segment(id, 2 * SEGMENT).unwrap();
    assert_eq!(sim.get("/data/wal-1-0-000001.log").unwrap().len() as u64, SEGMENT);
    let before = sim.get("/data/wal-1-0-000001.log").unwrap();
    directory.cut_segment(id, 8192).unwrap();
    assert_eq!((directory.log_of(0), directory.log_of(1)[0].1), (vec![(id, 8192)], SEGMENT));
    for seed in 0..10 {
        assert_eq!(sim.crashed(seed).get("/data/wal-1-0-000001.log").unwrap(), before[..8192]);
    }
    // What is shorter than a segment of full size is not used again.
    directory.discard(id, POOL_SIZE).unwrap();
    assert!(!sim.paths().iter().any(|path| path.ends_with(".free")));
}

#[test]
fn what_got_no_manifest_is_removed_before_space_is_needed() {
    let sim = Sim::new(1);
    let mut directory = start(&sim).unwrap();
    segments(&mut directory, 2, 1).unwrap();
    let mut directory = open(&sim.killed()).unwrap();
    assert_eq!(directory.next_generation(), 3);
    directory.remove_unclaimed(3).unwrap();
    assert_eq!(directory.segments.len(), 2);
    assert_eq!(directory.log_of(0).len(), 1);
}

/// A start with another number of shards: the log of one fails before the snapshot, whose manifest is of a later generation then.
#[test]
fn a_switch_keeps_what_its_manifest_claims_of_generations_before() {
    let sim = Sim::new(1);
    let mut directory = start(&sim).unwrap();
    segments(&mut directory, 2, 1).unwrap();
    snapshots(&mut directory, 1).unwrap();
    directory.switch(manifest(3, Some(1), (2, 1))).unwrap();
    let opened = open(&sim.crashed(1)).unwrap();
    assert_eq!(opened.log_of(0)[0].0, SegmentId { shard: 0, generation: 2, number: 1 });
}

#[test]
fn short_reads_and_writes_are_continued() {
    let sim = Sim::new(1);
    sim.plan(Plan::Short { bytes: 7 });
    let mut directory = start(&sim).unwrap();
    advance(&mut directory).unwrap();
    assert_eq!(check(&sim.killed()), 2);
}

#[test]
fn failed_sync_of_a_snapshot_is_not_tried_again() {
    let sim = Sim::new(1);
    let mut directory = start(&sim).unwrap();
    snapshots(&mut directory, 1).unwrap();
    // Open, size and sync of the first.
    sim.plan(Plan::Fail { at: 3, errno: libc::EIO });
    let next = manifest(1, Some(1), (1, 1));
    assert!(directory.switch(next.clone()).unwrap_err().to_string().contains("cannot sync /data/snap-000001-0.tsn"));
    sim.plan(Plan::Nothing);
    let text = directory.switch(next).unwrap_err().to_string();
    assert!(text.contains("snap-000001-0.tsn: the disk has failed since it was begun"), "{text}");
    directory.abort_snapshot(SnapshotId { id: 1, shard: 0 }).unwrap();
    snapshots(&mut directory, 2).unwrap();
    directory.switch(manifest(1, Some(2), (1, 1))).unwrap();
    assert_eq!(check(&sim.crashed(5)), 4);
}

#[test]
fn manifest_without_its_files_is_refused() {
    let sim = Sim::new(1);
    let mut directory = start(&sim).unwrap();
    assert!(matches!(directory.switch(manifest(1, None, (1, 2))), Err(DiskError::Missing { .. })));
    assert!(directory.switch(manifest(1, Some(9), (1, 1))).is_err());
    assert_eq!(check(&sim.killed()), 1);
}

/// Opens a changed copy: it must be refused with these words, and nothing in it change.
fn refused(change: impl Fn(&Sim), words: &[&str]) {
    let sim = lived_in(1).killed();
    change(&sim);
    let state = |sim: &Sim| sim.paths().iter().map(|path| (path.clone(), sim.get(path))).collect::<Vec<_>>();
    let before = state(&sim);
    let Err(error) = open(&sim) else { panic!("{words:?}") };
    let text = error.to_string();
    assert!(words.iter().all(|word| text.contains(word)), "{text}");
    assert!(!text.contains('\n') && !text.contains("  "), "{text}");
    let mut after = state(&sim);
    after.iter_mut().zip(&before).filter(|(after, _)| after.0.ends_with("LOCK")).for_each(|(after, before)| {
        after.1.clone_from(&before.1);
    });
    assert_eq!(before, after);
}

fn drop_file(sim: &Sim, path: &str) {
    sim.remove(Path::new(path)).unwrap();
}

#[test]
fn damage_is_refused_by_name() {
    refused(|sim| drop_file(sim, "/data/CURRENT"), &["holds data (snap-", "no file CURRENT", "bring CURRENT"]);
    refused(|sim| sim.put("/data/CURRENT", b"MANIFEST-3\n"), &["/data/CURRENT", "it is damaged", "torc check"]);
    refused(|sim| drop_file(sim, "/data/MANIFEST-3"), &["/data/CURRENT", "the manifest that it names is missing"]);
    refused(
        |sim| sim.put("/data/CURRENT", &sim.get("/data/CURRENT").unwrap().map_number()),
        &["/data/CURRENT", "its checksum is not that"],
    );
    refused(|sim| drop_file(sim, "/data/snap-000002-1.tsn"), &["/data/snap-000002-1.tsn is missing", "MANIFEST-3"]);
    refused(|sim| drop_file(sim, "/data/wal-1-0-000003.log"), &["/data/wal-1-0-000003.log is missing", "MANIFEST-3"]);
    let flip = |sim: &Sim, place: usize| {
        let mut bytes = sim.get("/data/MANIFEST-3").unwrap();
        bytes[place] ^= 4;
        sim.put("/data/MANIFEST-3", &bytes);
    };
    refused(|sim| flip(sim, 50), &["/data/MANIFEST-3 is not a sound manifest", "damaged"]);
    refused(|sim| sim.put("/data/MANIFEST-3", b""), &["/data/MANIFEST-3 is not a sound manifest", "0 bytes"]);
    refused(|sim| sim.set_read_only("/data/wal-1-1-000003.log"), &["/data/wal-1-1-000003.log", "chown or chmod"]);
    refused(|sim| sim.set_read_only("/data/LOCK"), &["/data/LOCK", "chown or chmod"]);
}

trait MapNumber {
    fn map_number(&self) -> Vec<u8>;
}

impl MapNumber for Vec<u8> {
    /// `CURRENT` with a number that leads to the manifest before.
    fn map_number(&self) -> Vec<u8> {
        String::from_utf8(self.clone()).unwrap().replace("MANIFEST-3", "MANIFEST-2").into_bytes()
    }
}

#[test]
fn every_damaged_bit_of_current_and_manifest_is_refused() {
    let base = lived_in(1);
    for path in ["/data/CURRENT", "/data/MANIFEST-3"] {
        let bytes = base.get(path).unwrap();
        for bit in 0..bytes.len() * 8 {
            let sim = base.killed();
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            sim.put(path, &flipped);
            assert!(open(&sim).is_err(), "{path} {bit}");
        }
        for len in 0..bytes.len() {
            let sim = base.killed();
            sim.put(path, &bytes[..len]);
            assert!(open(&sim).is_err(), "{path} {len}");
        }
    }
}

#[test]
fn older_manifest_that_is_damaged_is_not_kept_and_no_reason_to_refuse() {
    let sim = lived_in(1).killed();
    sim.put("/data/MANIFEST-2", b"damage");
    let mut directory = open(&sim).unwrap();
    assert!(directory.older.is_empty());
    directory.recycle(POOL_SIZE, true).unwrap();
    assert!(!sim.paths().iter().any(|path| path.ends_with("MANIFEST-2") || path.contains("snap-000001")));
    assert_eq!(check(&sim.killed()), 3);
}

#[test]
fn directory_is_locked_and_may_be_looked_at_when_it_is_not() {
    let sim = lived_in(1);
    let first = open(&sim.killed());
    assert!(first.is_ok());
    let locked = sim.killed();
    let _held = open(&locked).unwrap();
    let text = open(&locked).map(drop).unwrap_err().to_string();
    assert!(text.contains(&format!("/data is in use by the process {};", std::process::id())), "{text}");
    // Looking at it is nobody's hindrance, and sees who has it.
    let beside = Directory::open(locked.clone(), Path::new(PATH), Access::Inspect).unwrap();
    let user = user_of(&locked, Path::new(PATH)).unwrap();
    assert_eq!((beside.manifest().unwrap().number, user), (3, Some(User { process: Some(std::process::id()) })));

    let looked = sim.killed();
    let before = looked.paths();
    let directory = Directory::open(looked.clone(), Path::new(PATH), Access::Inspect).unwrap();
    assert_eq!((directory.manifest().unwrap().number, looked.paths()), (3, before));
    assert_eq!(user_of(&looked, Path::new(PATH)).unwrap(), None);
    let nowhere = Directory::open(Sim::new(1), Path::new(PATH), Access::Inspect);
    assert!(matches!(nowhere, Err(DiskError::Io { .. })));
}

#[test]
fn file_in_place_of_the_directory_is_refused() {
    let sim = Sim::new(1);
    sim.put(PATH, b"a file");
    assert!(matches!(open(&sim), Err(DiskError::NoDirectory { .. })));
}

#[test]
fn generations_that_got_no_manifest_are_removed_before_they_could_count() {
    let sim = lived_in(1).killed();
    let mut directory = open(&sim).unwrap();
    segments(&mut directory, 2, 1).unwrap();
    drop(directory);
    let sim = sim.killed();
    let mut directory = open(&sim).unwrap();
    assert_eq!(directory.next_generation(), 3);
    assert_eq!(directory.log_of(0).len(), 1);
    segments(&mut directory, 3, 1).unwrap();
    directory.switch(manifest(3, Some(2), (1, 3))).unwrap();
    let log: Vec<u64> = directory.log_of(0).iter().map(|(id, _)| id.generation).collect();
    assert_eq!(log, [1, 3]);
}

#[test]
fn torn_tail_is_copied_then_zeroed_whenever_a_crash_comes() {
    let base = lived_in(1);
    let id = SegmentId { shard: 0, generation: 1, number: 3 };
    let whole = base.get("/data/wal-1-0-000003.log").unwrap();
    let tail = whole[1000..5300].to_vec();
    for at in 1..40 {
        let sim = base.killed();
        let mut directory = open(&sim).unwrap();
        sim.plan(Plan::Crash { at });
        let result = directory.repair_tail(id, 1000, 4300);
        let left = sim.crashed(at);
        let segment = left.get("/data/wal-1-0-000003.log").unwrap();
        assert_eq!(segment[..1000], whole[..1000]);
        let copy = left.get("/data/wal-1-0-000003.log.torn-1");
        if segment != whole {
            assert_eq!(copy.as_ref(), Some(&tail), "nothing is lost");
        }
        if let Ok(path) = result {
            assert_eq!(path, Path::new("/data/wal-1-0-000003.log.torn-1"));
            assert!(segment[1000..].iter().all(|&byte| byte == 0) && segment.len() == whole.len());
        }
        // A second attempt keeps the first copy.
        let mut directory = open(&left).unwrap();
        directory.repair_tail(id, 1000, 4300).unwrap();
        assert!(copy.is_none() || left.get("/data/wal-1-0-000003.log.torn-1") == copy);
    }
}

#[test]
fn segments_behind_a_torn_one_are_set_aside_whenever_a_crash_comes() {
    let base = lived_in(1);
    let id = SegmentId { shard: 0, generation: 1, number: 3 };
    let (path, aside) = ("/data/wal-1-0-000003.log", "/data/wal-1-0-000003.log.torn-1");
    for at in 1..12 {
        let sim = base.killed();
        let mut directory = open(&sim).unwrap();
        sim.plan(Plan::Crash { at });
        let result = directory.set_aside(id);
        let left = sim.crashed(at);
        let (here, there) = (left.get(path), left.get(aside));
        assert!(here.is_some() != there.is_some(), "nothing is lost");
        if let Ok(given) = result {
            // Nothing in it is a log's.
            assert!(there.is_some_and(|bytes| bytes.is_empty()) && given.as_deref() == Some(Path::new(aside)));
            assert!(directory.set_aside(id).unwrap().is_none() && !directory.segments_of(0).any(|other| other == id));
        }
    }
}

/// What a killed process wrote and did not sync is replayed, and the next log says that it is durable.
#[test]
fn what_a_start_reads_is_durable() {
    let base = lived_in(1);
    let id = SegmentId { shard: 0, generation: 1, number: 3 };
    let path = Path::new(PATH).join(id.to_string());
    let file = base.open(&path, Open::Write).unwrap();
    file.write_all_at(&[b'y'; 4096], 8192).unwrap();
    let sim = base.killed();
    let directory = open(&sim).unwrap();
    assert!(directory.map_segment(id).unwrap()[8192..12288].iter().all(|&byte| byte == b'y'), "it is read");
    for seed in 0..20 {
        let left = sim.crashed(seed).get(path.to_str().unwrap()).unwrap();
        assert!(left[8192..12288].iter().all(|&byte| byte == b'y'), "seed {seed}: what was read is lost");
    }
}

#[test]
fn real_directory_lives_and_is_private() {
    use std::os::unix::fs::PermissionsExt;
    let path = std::env::temp_dir().join(format!("torc-directory-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&path);
    let open = |access| Directory::open(crate::disk::Host, &path, access);
    let mut directory = open(Access::Serve).unwrap();
    for (name, mode) in [("", 0o700), ("pool", 0o700), ("LOCK", 0o600)] {
        let about = std::fs::metadata(path.join(name)).unwrap();
        assert_eq!(about.permissions().mode() & 0o777, mode, "{name}");
    }
    assert!(matches!(open(Access::Serve), Err(DiskError::InUse { holder: Some(id), .. }) if id == std::process::id()));
    let id = SegmentId { shard: 0, generation: 1, number: 1 };
    let filling = directory.begin_segment(id, 1 << 20).unwrap();
    let segment = directory.finish_segment(filling).unwrap();
    assert_eq!(std::fs::metadata(&segment.path).unwrap().len(), 1 << 20);
    let mut first = manifest(1, None, (1, 1));
    first.shards.truncate(1);
    directory.switch(first).unwrap();
    assert!(directory.disk.available(&path).unwrap() > 0);
    drop(directory);
    let mut directory = open(Access::Serve).unwrap();
    assert_eq!(directory.log_of(0), [(id, 1 << 20)]);
    assert!(directory.map_segment(id).unwrap().iter().all(|&byte| byte == 0));
    directory.discard(id, POOL_SIZE).unwrap();
    assert!(path.join("pool/1.free").exists());
    std::fs::remove_dir_all(&path).unwrap();
}

#[test]
fn failure_of_every_call_of_recovery_is_told_and_changes_nothing() {
    let base = lived_in(1);
    let recover = |sim: &Sim| -> Result<u64, DiskError> {
        let directory = open(sim)?;
        for shard in 0..SHARDS {
            for (id, _) in directory.log_of(shard) {
                directory.map_segment(id)?;
            }
            let id = directory.manifest().unwrap().shards[shard as usize].snapshot.unwrap();
            directory.open_snapshot(SnapshotId { id, shard })?;
        }
        Ok(directory.manifest().unwrap().number)
    };
    let mut told = 0;
    for at in 1.. {
        let sim = base.killed();
        sim.plan(Plan::Fail { at, errno: libc::EIO });
        let result = recover(&sim);
        if !sim.has_failed() {
            break;
        }
        match result {
            // What is kept for bad times was not read, and no reason to refuse.
            Ok(number) => assert_eq!(number, 3),
            Err(error) => {
                let text = error.to_string();
                assert!(text.contains("cannot ") && text.contains("Input/output error"), "{text}");
                told += 1;
            }
        }
        assert_eq!(check(&sim.killed()), 3, "call {at}");
    }
    assert!(told > 20, "{told}");
}
