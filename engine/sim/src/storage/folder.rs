//! The data directory: names, which are as unsure as bytes until they are synced, and the manifest, which says what of all
//! this counts.

use std::collections::BTreeMap;

use torc_engine::limits::LOG_SEGMENTS_UNSYNCED_MAX;
use torc_engine::log::manifest::{Current, Manifest};

use super::file::{Crash, CrashCounts, File};
use crate::random::Random;

/// The name of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Name {
    Current,
    CurrentNext,
    Manifest(u64),
    Snapshot {
        id: u64,
        shard: u16,
    },
    Segment {
        shard: u16,
        generation: u64,
        number: u64,
    },
    /// A segment that is not needed any more, to be used again.
    Free(u64),
}

/// A change of names that is not synced.
#[derive(Clone, Copy, Debug)]
struct Change {
    put: Option<(Name, FileId)>,
    take: Option<Name>,
}

pub(crate) type FileId = u64;

/// Free segments that are kept.
const FREE_MAX: usize = 4;

#[derive(Debug, Default)]
pub(crate) struct Folder {
    files: BTreeMap<FileId, File>,
    files_ever: FileId,
    names: BTreeMap<Name, FileId>,
    durable: BTreeMap<Name, FileId>,
    changes: Vec<Change>,
    manifest: Option<Manifest>,
    /// It is not known which manifest a crash would leave.
    is_unsettled: bool,
    next_manifest: u64,
    last_snapshot: u64,
    last_generation: u64,
    /// Snapshots that are being written.
    pub writing: Option<u64>,
}

impl Folder {
    pub fn create(&mut self, name: Name, file: File) -> FileId {
        self.files_ever += 1;
        self.files.insert(self.files_ever, file);
        self.change(Some((name, self.files_ever)), None);
        self.files_ever
    }

    pub fn rename(&mut self, from: Name, to: Name) {
        let id = self.names[&from];
        self.change(Some((to, id)), Some(from));
    }

    pub fn remove(&mut self, name: Name) {
        if self.names.contains_key(&name) {
            self.change(None, Some(name));
        }
    }

    fn change(&mut self, put: Option<(Name, FileId)>, take: Option<Name>) {
        let change = Change { put, take };
        change.apply(&mut self.names);
        self.changes.push(change);
    }

    /// Makes names durable.
    pub fn sync_names(&mut self) {
        for change in std::mem::take(&mut self.changes) {
            // What had the name that is given or taken has perhaps none any more.
            let gone = [change.take, change.put.map(|(name, _)| name)].into_iter().flatten();
            let gone: Vec<FileId> = gone.filter_map(|name| self.durable.get(&name).copied()).collect();
            change.apply(&mut self.durable);
            for id in gone {
                if !self.names.values().chain(self.durable.values()).any(|named| *named == id) {
                    self.files.remove(&id);
                }
            }
        }
    }

    pub fn find(&self, name: Name) -> Option<FileId> {
        self.names.get(&name).copied()
    }

    /// A file that is open, whether it still has a name or not; None: it is gone.
    pub fn file(&mut self, id: FileId) -> Option<&mut File> {
        self.files.get_mut(&id)
    }

    pub fn bytes_of(&self, name: Name) -> &[u8] {
        self.names.get(&name).map_or(&[], |id| self.files[id].bytes())
    }

    /// The process is gone, or the machine. Whether names were lost whose change was not synced.
    pub fn crash(&mut self, crash: Crash, random: &mut Random) -> (CrashCounts, usize) {
        let mut counts = CrashCounts::default();
        let mut lost = 0;
        if crash == Crash::Power {
            let keep_one_in = [1, 2, 2, usize::MAX][random.below(4)];
            for change in &self.changes {
                if keep_one_in < usize::MAX && random.one_in(keep_one_in) {
                    change.apply(&mut self.durable);
                } else {
                    lost += 1;
                }
            }
            self.changes.clear();
            self.names.clone_from(&self.durable);
        }
        let (names, durable) = (&self.names, &self.durable);
        self.files.retain(|id, _| names.values().chain(durable.values()).any(|named| named == id));
        self.files.values_mut().for_each(|file| file.crash(crash, random, &mut counts));
        self.manifest = None;
        (counts, lost)
    }

    /// What a start does first: it finds the manifest that counts. Whatever a crash has done, `CURRENT` names one that is whole,
    /// and so is what that needs.
    pub fn open(&mut self) {
        self.writing = None;
        self.is_unsettled = false;
        self.settle_logs();
        self.next_manifest = self.next_manifest.max(1);
        for name in self.names.keys() {
            match *name {
                Name::Manifest(number) => self.next_manifest = self.next_manifest.max(number + 1),
                Name::Snapshot { id, .. } => self.last_snapshot = self.last_snapshot.max(id),
                Name::Segment { generation, .. } => self.last_generation = self.last_generation.max(generation),
                Name::Current | Name::CurrentNext | Name::Free(_) => {}
            }
        }
        if self.find(Name::Current).is_none() {
            return;
        }
        let current = Current::decode(self.bytes_of(Name::Current)).expect("CURRENT is whole after every crash");
        let bytes = self.bytes_of(Name::Manifest(current.number));
        assert!(current.leads_to(bytes), "the manifest that CURRENT names is there after every crash");
        let manifest = Manifest::decode(bytes).expect("a manifest is whole after every crash");
        for (state, shard) in manifest.shards.iter().zip(0..) {
            if let Some(id) = state.snapshot {
                assert!(self.find(Name::Snapshot { id, shard }).is_some(), "snapshot {id} of shard {shard} is gone");
            }
            if state.has_log() {
                let (generation, number) = (state.first_generation, state.first_segment);
                let first = Name::Segment { shard, generation, number };
                assert!(self.find(first).is_some(), "{first:?}, which the manifest needs, is gone");
            }
        }
        self.last_generation = self.last_generation.max(manifest.generation);
        self.manifest = Some(manifest);
    }

    /// What a process that was killed has written is durable before it is read: the next log says that it is. All but the last
    /// segments of each log were synced when they were written.
    fn settle_logs(&mut self) {
        let mut last = BTreeMap::new();
        for name in self.names.keys() {
            if let Name::Segment { shard, generation, number } = *name {
                last.insert((shard, generation), number);
            }
        }
        for (name, id) in &self.names {
            if let Name::Segment { shard, generation, number } = *name
                && last[&(shard, generation)] - number <= LOG_SEGMENTS_UNSYNCED_MAX
                && let Some(file) = self.files.get_mut(id)
            {
                file.sync();
            }
        }
    }

    pub fn manifest(&self) -> Option<&Manifest> {
        self.manifest.as_ref()
    }

    /// A generation that no log has had.
    pub fn next_generation(&mut self) -> u64 {
        self.last_generation += 1;
        self.last_generation
    }

    /// The number of the next snapshot.
    pub fn next_snapshot(&mut self) -> u64 {
        self.last_snapshot += 1;
        self.last_snapshot
    }

    /// The segments that make up the log of a shard, in order: generation, number and bytes.
    pub fn log_of(&self, shard: u16) -> Vec<(u64, u64, &[u8])> {
        let Some(manifest) = &self.manifest else { return Vec::new() };
        let of = |name: &Name| match *name {
            Name::Segment { shard: of, generation, number } => (of == shard).then_some((generation, number)),
            _ => None,
        };
        let all =
            self.names.iter().filter_map(|(name, id)| of(name).map(|(generation, number)| (generation, number, id)));
        all.filter(|&(generation, number, _)| {
            generation <= manifest.generation && needs(manifest, shard, generation, number)
        })
        .map(|(generation, number, id)| (generation, number, self.files[id].bytes()))
        .collect()
    }

    /// A file for a segment of at least so many bytes: one that is used again, or zeros.
    pub fn make_segment(&mut self, name: Name, bytes: usize) -> (FileId, bool) {
        let free =
            self.names.iter().find(|(name, id)| matches!(name, Name::Free(_)) && self.files[id].bytes().len() >= bytes);
        if let Some((&from, &id)) = free {
            self.rename(from, name);
            if let Some(file) = self.files.get_mut(&id) {
                file.begin_anew();
            }
            return (id, true);
        }
        (self.create(name, File::zeros(bytes)), false)
    }

    /// Gives a segment up that holds nothing that counts.
    pub fn retire(&mut self, name: Name, reusable_bytes: usize) {
        let free = self.names.keys().filter(|name| matches!(name, Name::Free(_))).count();
        if self.bytes_of(name).len() >= reusable_bytes && free < FREE_MAX {
            self.files_ever += 1;
            self.rename(name, Name::Free(self.files_ever));
        } else {
            self.remove(name);
        }
    }

    /// Segments that a process has left which got no manifest: they would count as soon as there is one of a later generation.
    pub fn remove_unclaimed(&mut self, generation: u64) {
        self.remove_unclaimed_but(generation, None);
    }

    /// As [`Folder::remove_unclaimed`], but for what the next manifest claims.
    fn remove_unclaimed_but(&mut self, generation: u64, next: Option<&Manifest>) {
        let before = self.manifest.as_ref().map_or(0, |manifest| manifest.generation);
        let is_left =
            |name: &Name| matches!(*name, Name::Segment { generation: of, .. } if of > before && of < generation);
        let is_claimed = |name: &Name| match (*name, next) {
            (Name::Segment { shard, generation, number }, Some(next)) => needs(next, shard, generation, number),
            _ => false,
        };
        let left: Vec<Name> = self.names.keys().copied().filter(is_left).filter(|name| !is_claimed(name)).collect();
        left.into_iter().for_each(|name| self.remove(name));
    }
}

impl Change {
    fn apply(&self, names: &mut BTreeMap<Name, FileId>) {
        if let Some(name) = self.take {
            names.remove(&name);
        }
        if let Some((name, id)) = self.put {
            names.insert(name, id);
        }
    }
}

fn needs(manifest: &Manifest, shard: u16, generation: u64, number: u64) -> bool {
    let state = manifest.shards.get(shard as usize);
    state.is_some_and(|state| (generation, number) >= (state.first_generation, state.first_segment))
}

/// Makes a manifest count, a step at a time, as `Directory::switch` of the runtime does.
#[derive(Debug)]
pub(crate) struct Switch {
    manifest: Manifest,
    step: u32,
    /// Segments that are at least so long are used again.
    reusable_bytes: usize,
}

impl Switch {
    pub fn new(folder: &mut Folder, mut manifest: Manifest, reusable_bytes: usize) -> Switch {
        manifest.number = folder.next_manifest;
        folder.next_manifest += 1;
        Switch { manifest, step: 0, reusable_bytes }
    }

    /// How many steps are done.
    pub fn steps_done(&self) -> u32 {
        self.step
    }

    /// Does the next step, or fails in it. True: that was the last.
    pub fn advance(&mut self, folder: &mut Folder, fails: bool) -> Result<bool, ()> {
        let number = self.manifest.number;
        let (name, step) = (Name::Manifest(number), self.step);
        self.step += 1;
        if fails && step < 9 {
            self.fail(folder, step);
            return Err(());
        }
        match step {
            0 => {
                folder.remove_unclaimed_but(self.manifest.generation, Some(&self.manifest));
                for (state, shard) in self.manifest.shards.iter().zip(0..) {
                    let snapshot = state.snapshot.and_then(|id| folder.find(Name::Snapshot { id, shard }));
                    if let Some(file) = snapshot.and_then(|id| folder.file(id)) {
                        file.sync();
                    }
                }
            }
            1 | 4 => folder.sync_names(),
            2 => {
                let id = folder.create(name, File::default());
                folder.file(id).expect("just created").write(0, &self.manifest.encode());
            }
            3 => folder.find(name).and_then(|id| folder.file(id)).expect("created before").sync(),
            5 => {
                let text = Current::to(&self.manifest.encode(), number).encode();
                let id = folder.create(Name::CurrentNext, File::default());
                folder.file(id).expect("just created").write(0, text.as_bytes());
            }
            6 => folder.find(Name::CurrentNext).and_then(|id| folder.file(id)).expect("created before").sync(),
            7 => {
                folder.rename(Name::CurrentNext, Name::Current);
                folder.is_unsettled = true;
            }
            8 => {
                folder.sync_names();
                folder.is_unsettled = false;
                folder.manifest = Some(self.manifest.clone());
                folder.writing = None;
            }
            9 => {
                let old = |name: &Name| matches!(name, Name::Manifest(of) if *of != number);
                let old: Vec<Name> = folder.names.keys().copied().filter(old).collect();
                old.into_iter().for_each(|name| folder.remove(name));
                folder.sync_names();
            }
            _ => {
                self.recycle(folder);
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn fail(&self, folder: &mut Folder, step: u32) {
        if step <= 4 {
            folder.remove(Name::Manifest(self.manifest.number));
        }
    }

    /// Removes what the manifest does not need.
    fn recycle(&self, folder: &mut Folder) {
        let manifest = &self.manifest;
        let writing = folder.writing;
        let is_superfluous = |name: &Name| match *name {
            Name::Snapshot { id, shard } => {
                let is_named = manifest.shards.get(shard as usize).is_some_and(|state| state.snapshot == Some(id));
                !is_named && writing != Some(id)
            }
            // What is of a later generation is a log's that begins behind a snapshot.
            Name::Segment { shard, generation, number } => {
                generation <= manifest.generation && !needs(manifest, shard, generation, number)
            }
            _ => false,
        };
        let superfluous: Vec<Name> = folder.names.keys().copied().filter(is_superfluous).collect();
        for name in superfluous {
            match name {
                Name::Segment { .. } => folder.retire(name, self.reusable_bytes),
                _ => folder.remove(name),
            }
        }
        folder.sync_names();
    }
}

impl Folder {
    /// Whether a switch has failed at its end.
    pub fn is_unsettled(&self) -> bool {
        self.is_unsettled
    }
}
