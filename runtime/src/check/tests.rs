//! Check and repair on directories that the real journal and snapshot writer filled: what is found is what was done, what is
//! repaired holds what is promised, and a crash or an error at any step leaves what was there or what is wanted.

use std::collections::BTreeMap;
use std::path::Path;

use torc_engine::id::Millis;
use torc_engine::log::manifest::{Current, Manifest, ShardManifest};
use torc_engine::log::{FsyncPolicy, Journal, LogStart, Lsn, Record};
use torc_engine::snapshot::{Header, KeyspaceHeader, Writer};
use torc_engine::store::KeyspaceId;

use super::examine::look;
use super::log::{Fault, LogReader};
use super::repair::{Method, Outcome, Plan, RepairError, repair};
use super::report::{Report, Role, Verdict};
use crate::disk::log::SegmentSizes;
use crate::disk::sim::{self, Sim};
use crate::disk::{Access, Directory, Disk, DiskError, DiskFile, SegmentId, SnapshotId};

const PATH: &str = "/data";
const DATABASE: [u8; 16] = [7; 16];
const SHARDS: u16 = 2;
const PAGE: usize = 4096;
const SIZES: SegmentSizes = SegmentSizes { first_bytes: 4 * PAGE as u64, full_bytes: 8 * PAGE as u64 };
const NOW: Millis = Millis(1000);

fn plan(method: Method) -> Plan {
    Plan { method, is_dry: false, sizes: SIZES, now: NOW, salt: 9 }
}

/// Fills the log of a shard: a key for each of the records, each in a batch of its own, and synced.
fn log(directory: &mut Directory<Sim>, shard: u16, generation: u64, first: u64, records: u64, seal: bool) {
    let mut journal = Journal::off();
    journal.begin(LogStart {
        database: DATABASE,
        generation,
        shard,
        shards: SHARDS,
        segment: 1,
        salt: u64::from(shard) + 1,
        next_lsn: Lsn(first),
        last_txid: 0,
        segment_bytes: SIZES.full_bytes,
        first_segment_bytes: SIZES.first_bytes,
        previous: None,
    });
    let mut file = None;
    for lsn in first..=first + records {
        if lsn < first + records {
            journal.set(KeyspaceId(0), format!("key:{lsn}").as_bytes(), b"value", 0, None);
        } else if seal {
            journal.seal();
        }
        while let Some(write) = journal.poll_write(NOW, FsyncPolicy::Always) {
            let id = SegmentId { shard, generation, number: write.segment };
            if file.as_ref().is_none_or(|(of, _)| *of != id) {
                let bytes = SIZES.bytes(write.segment - 1);
                let filling = directory.begin_segment(id, bytes).unwrap();
                file = Some((id, directory.finish_segment(filling).unwrap().file));
            }
            let (_, file) = file.as_ref().unwrap();
            file.write_all_at(write.buffer.as_slice(), write.offset).unwrap();
            file.sync().unwrap();
            journal.handle_written(Ok(true), write.buffer);
        }
    }
}

/// Writes a shard's snapshot, without keys.
fn snapshot(directory: &mut Directory<Sim>, id: u64, shard: u16, base_lsn: u64) {
    let header = Header {
        database: DATABASE,
        snapshot: id,
        shard,
        shards: SHARDS,
        base_lsn,
        next_keyspace: 1,
        keyspaces: vec![KeyspaceHeader { id: KeyspaceId(0), entries: 0 }],
        ..Header::default()
    };
    let (file, _) = directory.create_snapshot(SnapshotId { id, shard }).unwrap();
    let mut writer = Writer::new(&header);
    writer.end();
    while let Some(block) = writer.poll_block() {
        file.write_all_at(block.buffer.as_slice(), block.offset).unwrap();
        writer.handle_block_written(block);
    }
}

fn row(snapshot: Option<u64>, base_lsn: u64, first: (u64, u64)) -> ShardManifest {
    ShardManifest { snapshot, base_lsn: Lsn(base_lsn), first_generation: first.0, first_segment: first.1 }
}

fn switch(directory: &mut Directory<Sim>, generation: u64, row: ShardManifest) {
    let shards = vec![row; SHARDS as usize];
    let manifest = Manifest { number: 0, database: DATABASE, generation, last_txid: 0, wall_ms: 1, shards };
    directory.switch(manifest).unwrap();
}

fn open(sim: &Sim) -> Directory<Sim> {
    Directory::open(sim.clone(), Path::new(PATH), Access::Serve).unwrap()
}

/// Two shards with logs of 20 records over some segments, the first from 1 and one page each.
fn logged(seal: bool) -> Sim {
    let sim = Sim::new(1);
    let mut directory = open(&sim);
    for shard in 0..SHARDS {
        log(&mut directory, shard, 1, 1, 20, seal);
    }
    switch(&mut directory, 1, row(None, 0, (1, 1)));
    sim.killed()
}

/// The same with two snapshots, of the fifth record and of the tenth, each with a manifest that is kept.
fn saved() -> Sim {
    let sim = logged(true);
    let mut directory = open(&sim);
    for (id, base) in [(1, 5), (2, 10)] {
        for shard in 0..SHARDS {
            snapshot(&mut directory, id, shard, base);
        }
        switch(&mut directory, 1, row(Some(id), base, (1, if id == 1 { 2 } else { 3 })));
    }
    sim.killed()
}

fn seen(sim: &Sim) -> Report {
    look(sim, Path::new(PATH)).unwrap()
}

fn flip(sim: &Sim, name: &str, at: usize) {
    let path = format!("{PATH}/{name}");
    let mut bytes = sim.get(&path).unwrap();
    bytes[at] ^= 1;
    sim.put(&path, &bytes);
}

/// What a server finds: the keys of each shard's log.
fn keys(sim: &Sim) -> Vec<BTreeMap<String, ()>> {
    #[derive(Default)]
    struct Keys(BTreeMap<String, ()>);
    impl LogReader for Keys {
        fn records(&mut self, records: &[(Lsn, Record<'_>)], _is_behind_damage: bool) {
            for (_, record) in records {
                let Record::Set { key, .. } = record else { panic!("{record:?}") };
                self.0.insert(String::from_utf8(key.to_vec()).unwrap(), ());
            }
        }

        fn stepped(&mut self) -> Result<(), DiskError> {
            Ok(())
        }
    }
    let directory = Directory::open(sim.clone(), Path::new(PATH), Access::Inspect).unwrap();
    let manifest = directory.manifest().unwrap();
    (0..SHARDS)
        .map(|shard| {
            let files: Vec<_> = directory.log_of(shard).into_iter().map(|(id, _)| id).collect();
            let files: Vec<_> = files.into_iter().map(|id| (id, directory.map_segment(id).unwrap())).collect();
            let mut keys = Keys::default();
            let row = &manifest.shards[shard as usize];
            let log = super::log::read_log(manifest, shard, row, &files, &mut keys).unwrap();
            assert!(log.damages.is_empty(), "{log:?}");
            keys.0
        })
        .collect()
}

fn numbers(ranges: &[std::ops::RangeInclusive<u64>]) -> BTreeMap<String, ()> {
    ranges.iter().cloned().flatten().map(|lsn| (format!("key:{lsn}"), ())).collect()
}

fn mended(sim: &Sim, method: Method) -> Outcome {
    repair(sim, Path::new(PATH), &plan(method)).unwrap()
}

#[test]
fn sound_directory_is_sound_and_not_changed() {
    for (sim, name) in [(logged(true), "sealed"), (logged(false), "killed"), (saved(), "saved")] {
        let report = seen(&sim);
        assert_eq!(report.verdict(), Verdict::Sound, "{name}: {}", report.to_text());
        let log = &report.shards[1].log;
        assert_eq!((log.last_lsn, log.is_sealed), (Lsn(20), name != "killed"), "{name}");
        assert_eq!(log.records, if name == "saved" { 10 } else { 20 }, "{name}");
        let before: Vec<_> = sim.paths().into_iter().map(|path| (path.clone(), sim.get(&path))).collect();
        for method in [Method::Truncate, Method::SkipBatch] {
            let outcome = mended(&sim.killed(), method);
            assert!(outcome.shards.is_empty() && outcome.copy.is_none(), "{name}");
        }
        let after: Vec<_> = sim.paths().into_iter().map(|path| (path.clone(), sim.get(&path))).collect();
        assert_eq!(before, after, "{name}");
    }
}

#[test]
fn files_are_told_with_their_records_and_what_they_are_for() {
    let report = seen(&logged(true));
    let segments = &report.shards[0].log.segments;
    // A page for the header, then a batch to the page.
    let found: Vec<_> = segments.iter().map(|one| (one.first_lsn, one.last_lsn, one.records, one.is_sealed)).collect();
    let lsn = |number: u64| Some(Lsn(number));
    assert_eq!(
        found,
        [
            (lsn(1), lsn(3), 3, false),
            (lsn(4), lsn(10), 7, false),
            (lsn(11), lsn(17), 7, false),
            (lsn(18), lsn(20), 3, true)
        ]
    );
    let sim = saved();
    for name in ["notes.txt", "wal-1-0-000002.log.torn-1", "snap-000009-0.tsn", "CURRENT.next"] {
        sim.put(&format!("{PATH}/{name}"), b"x");
    }
    let report = seen(&sim);
    let role = |name: &str| report.files.iter().find(|file| file.name == name).unwrap().role;
    let expected = [
        ("LOCK", Role::Lock),
        ("CURRENT", Role::Current),
        ("CURRENT.next", Role::Unneeded),
        ("MANIFEST-3", Role::Manifest),
        ("MANIFEST-2", Role::Previous),
        ("snap-000002-1.tsn", Role::Snapshot),
        ("snap-000001-1.tsn", Role::Previous),
        ("snap-000009-0.tsn", Role::Unneeded),
        ("wal-1-1-000003.log", Role::Segment),
        ("wal-1-1-000002.log", Role::Previous),
        ("wal-1-0-000002.log.torn-1", Role::TornCopy),
        ("notes.txt", Role::Foreign),
    ];
    for (name, expected) in expected {
        if name.starts_with("MANIFEST-2") {
            assert!(matches!(role(name), Role::Previous | Role::Unneeded));
        } else {
            assert_eq!(role(name), expected, "{name}");
        }
    }
}

#[test]
fn torn_tail_is_told_and_can_be_cut_off() {
    let sim = logged(false);
    let path = format!("{PATH}/wal-1-0-000004.log");
    let mut bytes = sim.get(&path).unwrap();
    // The last of the three records there.
    bytes[3 * PAGE + 90] ^= 1;
    sim.put(&path, &bytes);
    let report = seen(&sim);
    assert_eq!(report.verdict(), Verdict::Torn, "{}", report.to_text());
    let torn = report.shards[0].log.torn.unwrap();
    assert_eq!((torn.id.number, torn.offset, torn.bytes), (4, 3 * PAGE as u64, PAGE as u64));
    assert!(report.to_json()["shards"][0]["log"]["torn"]["offset"] == 3 * PAGE);
    mended(&sim, Method::Truncate);
    let sim = sim.killed();
    let report = seen(&sim);
    assert_eq!(report.verdict(), Verdict::Sound, "{}", report.to_text());
    assert!(report.shards[0].log.is_sealed);
    assert_eq!(keys(&sim), [numbers(&[1..=19]), numbers(&[1..=20])]);
}

#[test]
fn damage_is_told_with_its_place_and_given_up_in_two_ways() {
    for (method, kept) in [(Method::Truncate, vec![1..=4]), (Method::SkipBatch, vec![1..=4, 6..=20])] {
        let sim = logged(true);
        flip(&sim, "wal-1-0-000002.log", 2 * PAGE + 100);
        let report = seen(&sim);
        assert_eq!(report.verdict(), Verdict::Corrupt);
        let damage = report.shards[0].log.damages[0];
        let place = (damage.id.number, damage.offset, damage.first_lsn, damage.skipped_to);
        assert_eq!(place, (2, 2 * PAGE as u64, Lsn(5), Some(Lsn(5))));
        let text = report.to_text();
        assert!(text.contains("torc repair /data --skip-batch"), "{text}");

        let dry = repair(&sim.killed(), Path::new(PATH), &Plan { is_dry: true, ..plan(method) }).unwrap();
        assert!(dry.copy.is_none() && dry.manifest.is_none());
        assert_eq!(seen(&sim).damage(), report.damage());
        let before = sim.get("/data/wal-1-0-000002.log");
        let outcome = mended(&sim, method);
        assert_eq!(dry.shards[0].lost, outcome.shards[0].lost);
        let lost = if method == Method::Truncate { (5, Some(20)) } else { (5, Some(5)) };
        assert_eq!(outcome.shards[0].lost, [lost]);
        assert_eq!(outcome.shards[0].readable.records, if method == Method::Truncate { 15 } else { 0 });
        assert_eq!(outcome.shards.len(), 1);
        let sim = sim.killed();
        assert_eq!(seen(&sim).verdict(), Verdict::Sound);
        assert_eq!(keys(&sim), [numbers(&kept), numbers(&[1..=20])], "{method:?}");
        assert_eq!(sim.get("/data/repair-1/wal-1-0-000002.log"), before);
        assert_eq!(sim.get("/data/wal-1-0-000002.log"), None);
        // Nothing is wrong any more.
        assert!(mended(&sim, method).shards.is_empty());
    }
}

#[test]
fn damaged_snapshot_gives_way_to_the_one_before() {
    let sim = saved();
    flip(&sim, "snap-000002-1.tsn", 5000);
    let report = seen(&sim);
    assert_eq!((report.verdict(), report.shards[1].fallback), (Verdict::Corrupt, Some(2)));
    mended(&sim, Method::Truncate);
    let sim = sim.killed();
    let report = seen(&sim);
    assert_eq!(report.verdict(), Verdict::Sound, "{}", report.to_text());
    // Behind the fifth record, instead of the tenth.
    assert_eq!(keys(&sim), [numbers(&[11..=20]), numbers(&[6..=20])]);

    // And the log from its beginning, if there is no other.
    let sim = saved();
    flip(&sim, "snap-000002-1.tsn", 5000);
    flip(&sim, "snap-000001-1.tsn", 5000);
    mended(&sim, Method::SkipBatch);
    assert_eq!(keys(&sim.killed())[1], numbers(&[1..=20]));

    let sim = saved();
    flip(&sim, "snap-000002-0.tsn", 100);
    let directory = open(&sim);
    for number in 1..=2 {
        sim.remove(&directory.path().join(format!("MANIFEST-{number}"))).unwrap();
    }
    let sim = sim.killed();
    let error = repair(&sim, Path::new(PATH), &plan(Method::Truncate)).unwrap_err();
    assert!(matches!(error, RepairError::Snapshot { shard: 0, .. }), "{error}");
    assert!(seen(&sim).advice().contains("no older one is sound"));
}

#[test]
fn directory_without_a_manifest_and_one_of_another_version_are_refused() {
    let sim = logged(true);
    let current = sim.get("/data/CURRENT").unwrap();
    flip(&sim, "CURRENT", 3);
    let report = seen(&sim);
    assert_eq!(report.verdict(), Verdict::Corrupt);
    let line = String::from_utf8(current).unwrap();
    assert!(report.advice().contains(&format!("'{}'", line.trim_end())), "{}", report.advice());
    assert!(matches!(
        repair(&sim, Path::new(PATH), &plan(Method::Truncate)),
        Err(RepairError::Disk(DiskError::Current { .. }))
    ));

    let sim = logged(true);
    let mut bytes = sim.get("/data/wal-1-0-000001.log").unwrap();
    bytes[12] = 9;
    let crc = crc32(&bytes[12..PAGE]);
    bytes[8..12].copy_from_slice(&crc.to_le_bytes());
    sim.put("/data/wal-1-0-000001.log", &bytes);
    assert_eq!(seen(&sim).verdict(), Verdict::Corrupt);
    let error = repair(&sim, Path::new(PATH), &plan(Method::SkipBatch)).unwrap_err();
    assert!(error.to_string().contains("version 9"), "{error}");
}

#[test]
fn older_manifest_is_no_remedy_for_a_newer_one() {
    for (name, at) in [("CURRENT", 3), ("MANIFEST-3", 40)] {
        let sim = saved();
        flip(&sim, "MANIFEST-3", 30);
        flip(&sim, name, at);
        let advice = seen(&sim).advice();
        assert!(
            advice.contains("newest sound manifest is MANIFEST-2, and MANIFEST-3 came after it"),
            "{name}: {advice}"
        );
        assert!(advice.contains("would be lost") && !advice.contains("crc32"), "{name}: {advice}");
    }
    // The file of the newest is gone altogether, and CURRENT says that it was there.
    let sim = saved();
    sim.remove(Path::new("/data/MANIFEST-3")).unwrap();
    let advice = seen(&sim).advice();
    assert!(advice.contains("MANIFEST-3 came after it") && !advice.contains("crc32"), "{advice}");
    // CURRENT is wrong and nothing else: its number, or all of it.
    for line in [Some("MANIFEST-7"), None] {
        let sim = saved();
        let right = String::from_utf8(sim.get("/data/CURRENT").unwrap()).unwrap();
        let wrong = line.map_or(String::new(), |line| right.replace("MANIFEST-3", line));
        sim.put("/data/CURRENT", wrong.as_bytes());
        let advice = seen(&sim).advice();
        assert!(advice.contains(&format!("'{}'", right.trim_end())), "{advice}");
    }
    // A file that is missing is not CURRENT's fault.
    let sim = saved();
    sim.remove(Path::new("/data/snap-000002-0.tsn")).unwrap();
    assert!(!seen(&sim).advice().contains("crc32"));
}

/// A process of the next generation logs five records more, and its manifest counts. Gives `CURRENT` as it was before.
fn go_on(sim: &Sim, row: ShardManifest) -> Vec<u8> {
    let before = sim.get("/data/CURRENT").unwrap();
    let mut directory = open(sim);
    if let Some(id) = row.snapshot {
        (0..SHARDS).for_each(|shard| snapshot(&mut directory, id, shard, row.base_lsn.0));
    }
    (0..SHARDS).for_each(|shard| log(&mut directory, shard, 2, 21, 5, true));
    switch(&mut directory, 2, row);
    before
}

#[test]
fn directory_that_was_set_back_is_not_sound() {
    for is_damaged in [false, true] {
        let sim = logged(true);
        let before = go_on(&sim, row(Some(1), 20, (2, 1)));
        let sim = sim.killed();
        assert_eq!(seen(&sim).verdict(), Verdict::Sound);
        sim.put("/data/CURRENT", &before);
        if is_damaged {
            flip(&sim, "MANIFEST-2", 40);
        }
        let report = seen(&sim);
        let text = report.to_text();
        assert_eq!(report.verdict(), Verdict::Corrupt, "{text}");
        assert!(text.contains("MANIFEST-2 came after MANIFEST-1, which CURRENT names"), "{text}");
        assert!(text.contains("keep all of it\n  MANIFEST-2 ") && text.contains("  wal-2-1-000001.log"), "{text}");
        assert!(!text.contains("files that nobody needs"), "{text}");
        assert_eq!(report.to_json()["newer"]["unfinished"], false);
        // A repair for another reason keeps copies of what came later.
        let logged = sim.get("/data/wal-2-1-000001.log");
        flip(&sim, "wal-1-0-000002.log", 2 * PAGE + 100);
        mended(&sim, Method::SkipBatch);
        assert_eq!(sim.get("/data/repair-1/wal-2-1-000001.log"), logged);
        assert!(sim.get("/data/repair-1/MANIFEST-2").is_some());
    }
}

#[test]
fn switch_that_was_not_finished_is_told_and_sound() {
    // All that the later process has logged is in its snapshots; or it has only taken a snapshot.
    let relaid = logged(true);
    let before = go_on(&relaid, row(Some(1), 25, (2, 1)));
    let saved = saved();
    let manifest = saved.get("/data/MANIFEST-2").unwrap();
    let second = Current::to(&manifest, 2).encode().into_bytes();
    for (sim, line, number) in [(relaid, before, 2), (saved, second, 3)] {
        sim.put("/data/CURRENT", &line);
        let report = seen(&sim.killed());
        let text = report.to_text();
        assert_eq!(report.verdict(), Verdict::Sound, "{text}");
        assert!(text.contains(&format!("MANIFEST-{number} came after that and does not count: a crash")), "{text}");
    }
}

#[test]
fn crash_at_every_call_of_a_switch_is_no_damage() {
    let base = logged(false);
    let mut unfinished = 0;
    for at in 1.. {
        let sim = base.killed();
        let mut directory = open(&sim);
        for shard in 0..SHARDS {
            snapshot(&mut directory, 1, shard, 10);
        }
        sim.plan(sim::Plan::Crash { at });
        let next = vec![row(Some(1), 10, (1, 3)); SHARDS as usize];
        let next = Manifest { number: 0, database: DATABASE, generation: 1, last_txid: 0, wall_ms: 1, shards: next };
        let is_done = directory.switch(next).is_ok();
        for left in [sim.crashed(at), sim.crashed(at + 1000), sim.killed()] {
            let report = seen(&left);
            assert_eq!(report.verdict(), Verdict::Sound, "call {at}: {}", report.to_text());
            unfinished += usize::from(report.newer.is_some());
        }
        if is_done {
            break;
        }
    }
    assert!(unfinished > 3, "{unfinished}");
}

#[test]
fn files_are_all_kept_if_nobody_knows_what_counts() {
    let sim = saved();
    sim.put("/data/CURRENT", b"");
    sim.put("/data/CURRENT.next", b"x");
    sim.put("/data/notes.txt", b"x");
    let report = seen(&sim);
    let text = report.to_text();
    assert!(text.contains("nobody knows what of this counts; keep all of it\n  CURRENT.next "), "{text}");
    assert!(!text.contains("nobody needs"), "{text}");
    assert!(text.contains("files that are not of Torc's\n  notes.txt"), "{text}");
    let is_kept = |file: &super::report::FileReport| file.role == Role::Unknown;
    // Three manifests, four snapshots, eight segments and CURRENT.next.
    assert_eq!(report.files.iter().filter(|file| is_kept(file)).count(), 16, "{text}");
    sim.remove(Path::new("/data/CURRENT")).unwrap();
    assert!(seen(&sim).advice().contains("(snap-000001-0.tsn and 14 more files)"), "{}", seen(&sim).advice());
}

#[test]
fn directory_of_others_is_told_from_a_new_one() {
    let sim = Sim::new(1);
    sim.create_directory(Path::new(PATH)).unwrap();
    assert_eq!(seen(&sim).verdict(), Verdict::Sound);
    sim.put("/data/notes.txt", b"x");
    let report = seen(&sim);
    assert_eq!((report.verdict(), report.verdict() as u8), (Verdict::Foreign, 66));
    assert!(report.advice().contains("there is no data of Torc's here"));
    drop(open(&sim));
    assert_eq!(seen(&sim).verdict(), Verdict::Sound);
}

#[test]
fn missing_snapshot_gives_way_to_the_one_before() {
    let sim = saved();
    sim.remove(Path::new("/data/snap-000002-1.tsn")).unwrap();
    let refused = Directory::open(sim.killed(), Path::new(PATH), Access::Serve).err().unwrap().to_string();
    assert!(refused.contains("`torc check /data`") && refused.contains("`torc repair /data`"), "{refused}");
    let report = seen(&sim);
    assert_eq!((report.verdict(), report.shards[1].fallback), (Verdict::Corrupt, Some(2)));
    let damage = report.shards[1].snapshot.as_ref().unwrap().damage.as_ref().unwrap();
    assert_eq!((damage.offset, damage.why.as_str()), (0, "the file is missing"));
    mended(&sim, Method::Truncate);
    let sim = sim.killed();
    assert_eq!(seen(&sim).verdict(), Verdict::Sound);
    assert_eq!(keys(&sim), [numbers(&[11..=20]), numbers(&[6..=20])]);

    let sim = saved();
    for id in 1..=2 {
        sim.remove(Path::new(&format!("/data/snap-00000{id}-1.tsn"))).unwrap();
    }
    mended(&sim, Method::Truncate);
    assert_eq!(keys(&sim.killed())[1], numbers(&[1..=20]));
}

#[test]
fn missing_segment_is_damage_and_the_snapshot_is_kept() {
    // What is removed of shard 0; what a repair keeps in either way; where the next record is that can be read.
    let cases = [
        (vec![3], (11, Some(17)), vec![], vec![18..=20]),
        (vec![3, 4], (11, None), vec![], vec![]),
        (vec![4], (0, None), vec![11..=17], vec![11..=17]),
    ];
    for (removed, lost, truncated, skipped) in cases {
        for (method, kept) in [(Method::Truncate, &truncated), (Method::SkipBatch, &skipped)] {
            let sim = saved();
            for number in &removed {
                sim.remove(Path::new(&format!("/data/wal-1-0-00000{number}.log"))).unwrap();
            }
            let report = seen(&sim);
            // What is behind the end, and nothing tells of, is not missed.
            let is_seen = lost.0 > 0;
            let expected = if is_seen { Verdict::Corrupt } else { Verdict::Sound };
            assert_eq!(report.verdict(), expected, "{removed:?}: {}", report.to_text());
            if is_seen {
                let damage = report.shards[0].log.damages[0];
                assert_eq!((damage.id.number, damage.offset, damage.why), (3, 0, Fault::Missing));
                assert_eq!((damage.first_lsn.0, damage.lost_to()), lost);
                assert!(report.to_text().contains("wal-1-0-000003.log, offset 0: the file is missing"));
            }
            mended(&sim, method);
            let sim = sim.killed();
            assert_eq!(seen(&sim).verdict(), Verdict::Sound);
            assert_eq!(keys(&sim), [numbers(kept), numbers(&[11..=20])], "{removed:?} {method:?}");
            assert!(mended(&sim, method).shards.is_empty());
        }
    }
    // All that was in it is in the snapshot too.
    let sim = saved();
    let mut directory = open(&sim);
    switch(&mut directory, 1, row(Some(2), 10, (1, 2)));
    let sim = sim.killed();
    sim.remove(Path::new("/data/wal-1-0-000002.log")).unwrap();
    let text = seen(&sim).to_text();
    assert!(text.contains("wal-1-0-000002.log, offset 0: the file is missing; no record is missing there"), "{text}");
    assert!(mended(&sim, Method::SkipBatch).shards[0].lost.is_empty());
    assert_eq!(keys(&sim.killed())[0], numbers(&[11..=20]));
}

/// CRC-32 as in zip, bit by bit.
fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32, _: u32| if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 };
    !bytes.iter().fold(!0, |crc, &byte| (0..8).fold(crc ^ u32::from(byte), step))
}

#[test]
fn directory_in_use_and_one_without_room_are_left_alone() {
    let sim = logged(true);
    flip(&sim, "wal-1-1-000001.log", PAGE + 100);
    let held = open(&sim);
    let error = repair(&sim, Path::new(PATH), &plan(Method::Truncate)).unwrap_err();
    assert!(matches!(error, RepairError::Disk(DiskError::InUse { .. })), "{error}");
    drop(held);
    let sim = sim.killed();
    sim.set_available(100_000);
    let error = repair(&sim, Path::new(PATH), &plan(Method::Truncate)).unwrap_err();
    assert!(matches!(error, RepairError::Space { .. }), "{error}");
    assert!(!sim.paths().iter().any(|path| path.contains("repair")));
}

#[test]
fn crash_at_every_call_leaves_what_was_there_or_what_is_wanted() {
    let base = logged(true);
    flip(&base, "wal-1-0-000002.log", 2 * PAGE + 100);
    let damage = seen(&base).damage();
    let counting = base.killed();
    counting.plan(sim::Plan::Nothing);
    mended(&counting, Method::SkipBatch);
    let mut seen_states = [0, 0];
    for at in 1..=counting.calls() + 1 {
        for seed in 0..3 {
            let sim = base.killed();
            sim.plan(sim::Plan::Crash { at });
            let result = repair(&sim, Path::new(PATH), &plan(Method::SkipBatch));
            for left in [sim.crashed(at * 100 + seed), sim.killed()] {
                let report = seen(&left);
                let is_repaired = report.verdict() == Verdict::Sound;
                assert!(is_repaired || report.damage() == damage, "call {at}: {}", report.to_text());
                assert!(is_repaired || result.is_err(), "call {at}");
                if !is_repaired {
                    mended(&left, Method::SkipBatch);
                }
                assert_eq!(keys(&left.killed()), [numbers(&[1..=4, 6..=20]), numbers(&[1..=20])], "call {at}");
                seen_states[usize::from(is_repaired)] += 1;
            }
        }
    }
    assert!(seen_states.iter().all(|&times| times > 10), "{seen_states:?}");
}

#[test]
fn failure_of_every_call_is_told_and_leaves_what_was_there_or_what_is_wanted() {
    let base = logged(true);
    flip(&base, "wal-1-0-000002.log", 2 * PAGE + 100);
    let damage = seen(&base).damage();
    for at in 1.. {
        let sim = base.killed();
        sim.plan(sim::Plan::Fail { at, errno: libc::EIO });
        let result = repair(&sim, Path::new(PATH), &plan(Method::Truncate));
        if !sim.has_failed() {
            break;
        }
        let report = seen(&sim.killed());
        assert!(report.verdict() == Verdict::Sound || report.damage() == damage, "call {at}");
        if let Err(error) = result {
            assert!(error.to_string().starts_with("cannot "), "call {at}: {error}");
        }
    }
}

#[test]
fn any_flip_in_a_sealed_log_is_found_and_mended() {
    let base = logged(true);
    for segment in 1..=4 {
        let name = format!("wal-1-0-{segment:06}.log");
        let bytes = base.get(&format!("{PATH}/{name}")).unwrap().len();
        // Behind the seal there are zeros, which nobody reads.
        let end = if segment == 4 { 5 * PAGE } else { bytes };
        for at in (0..end).step_by(509) {
            let sim = base.killed();
            flip(&sim, &name, at);
            let report = seen(&sim);
            let found = report.verdict();
            // The seal itself has nothing behind it.
            let is_seal = segment == 4 && at >= 4 * PAGE;
            assert!(
                found == Verdict::Corrupt || is_seal && found == Verdict::Torn,
                "{name} {at}: {}",
                report.to_text()
            );
            let skipped = sim.killed();
            mended(&skipped, Method::SkipBatch);
            let kept = keys(&skipped.killed());
            assert!(kept[0].len() >= 13 && kept[1].len() == 20, "{name} {at}: {}", kept[0].len());
            mended(&sim, Method::Truncate);
            let kept = keys(&sim.killed());
            let count = kept[0].len() as u64;
            assert_eq!(kept[0], numbers(&[1..=count]), "{name} {at}");
        }
    }
}
