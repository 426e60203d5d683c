//! What a start finds, on its way into the shards, as `runtime/src/disk/load.rs` brings it there: of each part, which is what one
//! shard of the process before has left, the snapshot and then the log.

use std::collections::VecDeque;

use torc_engine::limits::SNAPSHOT_BLOCK_BYTES_MAX;
use torc_engine::log::{End, Expected, Lsn, Paused, Replay, Segment};
use torc_engine::shard::Shard;
use torc_engine::snapshot::{Loader, PAGE_BYTES};

use super::DATABASE;
use super::folder::{Folder, Name};

/// How a part ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ending {
    pub shard: u16,
    pub end: End,
}

/// The loading of one shard.
pub(crate) struct Load {
    /// Nothing of other shards will come.
    is_own: bool,
    left: VecDeque<u16>,
    state: State,
    pub ended: Vec<Ending>,
}

enum State {
    Between,
    Snapshot { part: u16, loader: Box<Loader>, at: usize },
    Redoing { part: u16, wall_ms: u64, paused: Option<Box<Paused>> },
}

impl Load {
    /// Of one part, or of all.
    pub fn new(parts: impl Iterator<Item = u16>, is_own: bool) -> Load {
        Load { is_own, left: parts.collect(), state: State::Between, ended: Vec::new() }
    }

    /// Loads a little. False: there is no more. Nothing that a crash leaves is damage.
    pub fn step(&mut self, folder: &Folder, shard: &mut Shard) -> bool {
        self.state = match std::mem::replace(&mut self.state, State::Between) {
            State::Between => match self.left.pop_front() {
                None => return false,
                Some(part) => self.begin(part, folder, shard),
            },
            State::Snapshot { part, mut loader, mut at } => {
                let file = folder.bytes_of(snapshot_of(folder, part).expect("it was begun"));
                let end = file.len().min(at + SNAPSHOT_BLOCK_BYTES_MAX);
                let taken = loader.read(&file[at..end], |entries| shard.load(entries)).expect("a snapshot is sound");
                at += taken;
                match taken {
                    0 => {
                        let wall_ms = loader.header().wall_ms;
                        loader.finish().expect("a snapshot is complete");
                        State::Redoing { part, wall_ms, paused: None }
                    }
                    _ => State::Snapshot { part, loader, at },
                }
            }
            State::Redoing { part, wall_ms, paused } => self.redo(part, wall_ms, paused, folder, shard),
        };
        true
    }

    fn begin(&mut self, part: u16, folder: &Folder, shard: &mut Shard) -> State {
        let Some(name) = snapshot_of(folder, part) else { return State::Redoing { part, wall_ms: 0, paused: None } };
        let file = folder.bytes_of(name);
        let page = file.first_chunk().expect("a snapshot has a page");
        let loader = Loader::new(page, file.len() as u64).expect("the header of a snapshot is sound");
        let manifest = folder.manifest().expect("it names the snapshot");
        let header = loader.header();
        assert_eq!(
            header.base_lsn, manifest.shards[part as usize].base_lsn.0,
            "it is of the moment that the manifest says"
        );
        assert_eq!((header.shard, usize::from(header.shards)), (part, manifest.shards.len()));
        shard.begin_snapshot_load(header, self.is_own).expect("databases are as they were");
        State::Snapshot { part, loader: Box::new(loader), at: PAGE_BYTES }
    }

    fn redo(
        &mut self,
        part: u16,
        wall_ms: u64,
        paused: Option<Box<Paused>>,
        folder: &Folder,
        shard: &mut Shard,
    ) -> State {
        let segments: Vec<Segment<'_>> = folder
            .log_of(part)
            .into_iter()
            .map(|(generation, segment, bytes)| Segment { generation, segment, bytes })
            .collect();
        let base = folder.manifest().map_or(Lsn(0), |manifest| manifest.shards[part as usize].base_lsn);
        let expected = Expected { database: DATABASE, shard: part, base };
        let mut replay = match paused {
            Some(paused) => Replay::resume(*paused, &segments),
            None => Replay::new(expected, &segments),
        };
        match replay.step(|records| shard.redo(records)) {
            Ok(true) => State::Redoing { part, wall_ms, paused: Some(Box::new(replay.pause())) },
            Ok(false) => {
                let mut end = replay.end();
                end.last_lsn = end.last_lsn.max(base);
                end.wall_ms.0 = end.wall_ms.0.max(wall_ms);
                self.ended.push(Ending { shard: part, end });
                State::Between
            }
            Err(damage) => panic!("the log of shard {part} is called damaged after a crash: {damage}"),
        }
    }
}

fn snapshot_of(folder: &Folder, shard: u16) -> Option<Name> {
    let id = folder.manifest()?.shards[shard as usize].snapshot?;
    Some(Name::Snapshot { id, shard })
}
