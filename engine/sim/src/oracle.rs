//! What the disk must have. It is told of every write that a log hands out, before any disk sees it, and of what a shard held when its
//! snapshot began; so it knows what a shard held after each of its records, by the plainest code possible, and judges at each
//! start:
//!
//! - what was found of a shard is what it held after some record, and nothing else;
//! - that record is not before what the log called durable, or, if only the process was killed, written;
//! - a key is on the shard that owns it, and on no other;
//! - a start that is itself interrupted is repeated with the same end.

use std::collections::BTreeMap;

use torc_engine::log::{Expected, Lsn, Replay, Segment, Write};
use torc_engine::shard::Shard;

use crate::content::Content;
use crate::storage::{DATABASE, Ending, Folder};

/// One shard of the process that was there last.
#[derive(Debug)]
struct Told {
    /// What it began with.
    base: Content,
    base_lsn: Lsn,
    /// What was handed out, by generation; with the last record before.
    logs: BTreeMap<u64, (Lsn, BTreeMap<u64, Vec<u8>>)>,
    /// What it held when snapshots began, and at which moments they did.
    snapshots: BTreeMap<u64, (Content, u64)>,
    /// The last record that must be found, if the machine fails, and if only the process is killed.
    durable: Lsn,
    written: Lsn,
    /// Pairs of a moment and the last record then.
    moments: Vec<(u64, Lsn)>,
    /// What a start found last, that was interrupted.
    last: Option<Lsn>,
}

impl Told {
    fn new(base: Content, base_lsn: Lsn) -> Told {
        let (logs, snapshots) = (BTreeMap::new(), BTreeMap::new());
        let (durable, written) = (base_lsn, base_lsn);
        Told { base, base_lsn, logs, snapshots, durable, written, moments: Vec::new(), last: None }
    }

    /// What it held after a record, if the snapshot with this number is the one that counts.
    fn content_at(&self, shard: u16, snapshot: Option<(u64, Lsn)>, generation: u64, lsn: Lsn) -> Content {
        let known = snapshot.and_then(|(id, base)| self.snapshots.get(&id).map(|(content, _)| (content, base)));
        let (content, base) = known.unwrap_or((&self.base, self.base_lsn));
        let mut content = content.clone();
        for (&generation, (before, segments)) in self.logs.range(..=generation) {
            let segments: Vec<Segment<'_>> =
                segments.iter().map(|(&segment, bytes)| Segment { generation, segment, bytes }).collect();
            let expected = Expected { database: DATABASE, shard, base: *before };
            let mut replay = Replay::new(expected, &segments);
            let redo = |records: &[(Lsn, torc_engine::log::Record<'_>)], content: &mut Content| {
                let counts = |of: &Lsn| *of > base && *of <= lsn;
                records.iter().filter(|(of, _)| counts(of)).for_each(|(_, record)| content.redo(record));
            };
            while replay.step(|records| redo(records, &mut content)).expect("what was handed out is sound") {}
        }
        content
    }
}

#[derive(Debug, Default)]
pub(crate) struct Oracle {
    /// By shard; of the last process whose logs count.
    told: Vec<Told>,
    /// Of the process that runs, while those of the one before still count; and the generation of a manifest that has them count.
    next: Vec<Told>,
    next_generation: u64,
    /// Since something was found last, only processes were killed; None: nothing has happened.
    was_only_killed: Option<bool>,
}

/// What was found at a start.
#[derive(Debug)]
pub(crate) struct Found {
    /// All that there was, of all shards.
    pub content: Content,
    /// By shard of the process before: everything that was answered up to this moment had left its record.
    pub survived: Vec<u64>,
    /// Changes were written and are lost.
    pub has_lost: bool,
}

impl Oracle {
    fn current(&mut self, shard: u16) -> Option<&mut Told> {
        let told = if self.next.is_empty() { &mut self.told } else { &mut self.next };
        told.get_mut(shard as usize)
    }

    /// A process has begun with this, by shard. `counts`: what it logs counts from now on; otherwise from
    /// [`Oracle::note_counting`] on.
    pub fn begin(&mut self, shards: Vec<(Content, Lsn)>, counts: bool, generation: u64) {
        let told = shards.into_iter().map(|(content, lsn)| Told::new(content, lsn)).collect();
        self.next = Vec::new();
        if counts {
            self.told = told;
        } else {
            (self.next, self.next_generation) = (told, generation);
        }
    }

    /// What the process that runs logs counts, and nothing before.
    pub fn note_counting(&mut self) {
        if !self.next.is_empty() {
            self.told = std::mem::take(&mut self.next);
        }
    }

    /// A log begins behind this record.
    pub fn note_log(&mut self, shard: u16, generation: u64, before: Lsn) {
        if let Some(told) = self.current(shard) {
            told.logs.insert(generation, (before, BTreeMap::new()));
        }
    }

    /// A log hands this out to be written.
    pub fn note_write(&mut self, shard: u16, generation: u64, write: &Write) {
        let Some((_, segments)) = self.current(shard).and_then(|told| told.logs.get_mut(&generation)) else { return };
        let (segment, bytes) = (segments.entry(write.segment).or_default(), write.buffer.as_slice());
        let end = write.offset as usize + bytes.len();
        segment.resize(segment.len().max(end), 0);
        segment[write.offset as usize..end].copy_from_slice(bytes);
    }

    /// A shard's snapshot begins with this.
    pub fn note_snapshot(&mut self, shard: u16, id: u64, content: Content, moment: u64) {
        if let Some(told) = self.current(shard) {
            told.snapshots.insert(id, (content, moment));
        }
    }

    /// What a shard held when its snapshot began.
    pub fn snapshot(&mut self, shard: u16, id: u64) -> &Content {
        &self.current(shard).expect("it was told of the snapshot").snapshots[&id].0
    }

    /// A snapshot came to nothing.
    pub fn forget_snapshot(&mut self, id: u64) {
        self.told.iter_mut().chain(&mut self.next).for_each(|told| drop(told.snapshots.remove(&id)));
    }

    /// How far a shard's log is, which counts: `moment` has passed, and the last record is `last`.
    pub fn note_log_at(&mut self, shard: u16, moment: u64, last: Lsn, durable: Lsn, written: Lsn) {
        let Some(told) = self.current(shard) else { return };
        (told.durable, told.written) = (told.durable.max(durable), told.written.max(written));
        match told.moments.last_mut() {
            Some((at, lsn)) if *lsn == last => *at = moment,
            _ => told.moments.push((moment, last)),
        }
    }

    /// A log has failed: what was written and not synced may be lost, whatever happens next.
    pub fn note_failed(&mut self, shard: u16) {
        if let Some(told) = self.current(shard) {
            told.written = told.durable;
        }
    }

    /// The process is gone, or the machine.
    pub fn note_crash(&mut self, only_process: bool) {
        self.was_only_killed = Some(self.was_only_killed.unwrap_or(true) && only_process);
    }

    /// Judges what a start has found of all shards of the process before.
    pub fn judge(&mut self, folder: &Folder, ends: &[Ending]) -> Found {
        // A crash between two steps of a switch leaves either manifest.
        if folder.manifest().is_some_and(|manifest| manifest.generation >= self.next_generation) {
            self.note_counting();
        }
        self.next = Vec::new();
        let mut found = Found { content: Content::nothing(), survived: Vec::new(), has_lost: false };
        let was_only_killed = self.was_only_killed.take().unwrap_or(true);
        let Some(manifest) = folder.manifest() else {
            assert!(self.told.is_empty(), "there was a database");
            return found;
        };
        for Ending { shard, end } in ends {
            let state = manifest.shards[*shard as usize];
            // The first process was killed before it had begun.
            let Some(told) = self.told.get_mut(*shard as usize) else {
                assert_eq!(end.last_lsn, Lsn(0), "nothing was logged yet");
                found.survived.push(0);
                continue;
            };
            if let Some(last) = told.last {
                assert_eq!(
                    end.last_lsn, last,
                    "a start that is repeated finds of shard {shard} what the first one found"
                );
            }
            if state.has_log() {
                let must = if was_only_killed { told.written } else { told.durable };
                assert!(
                    end.last_lsn >= must,
                    "records {} to {must} of shard {shard} are lost, which were {}",
                    end.last_lsn.0 + 1,
                    if was_only_killed { "written" } else { "durable" },
                );
            }
            let snapshot = state.snapshot.map(|id| (id, state.base_lsn));
            found.content.join(&told.content_at(*shard, snapshot, manifest.generation, end.last_lsn));
            let logged = told.moments.iter().rev().find(|(_, lsn)| *lsn <= end.last_lsn).map(|(moment, _)| *moment);
            // Without a log a snapshot has what there was when it began.
            let saved = state.snapshot.and_then(|id| told.snapshots.get(&id)).map(|(_, moment)| *moment);
            let survived = if state.has_log() { logged } else { saved };
            found.survived.push(survived.unwrap_or(0));
            found.has_lost |= told.written > end.last_lsn;
            // Whoever starts again finds the same.
            (told.durable, told.written) = (end.last_lsn, end.last_lsn);
            told.last = Some(end.last_lsn);
        }
        found
    }

    /// Compares what the shards have taken with what was found.
    pub fn compare(found: &Content, shards: &[Shard], may_lack: bool) {
        let route = torc_engine::route::Route::new(shards.len());
        let mut all = Content::nothing();
        for (shard, index) in shards.iter().zip(0..) {
            let content = Content::of_shard(shard);
            for (_, key) in content.entries.keys() {
                assert_eq!(route.owner(key).0, index, "{} is not on its shard", key.escape_ascii());
            }
            all.join(&content);
        }
        all.compare(found, may_lack, "after a start");
    }
}
