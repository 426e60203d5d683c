//! A file system in memory for tests, with everything that may go wrong, from one seed: what was not synced is lost,
//! reordered or torn at a crash, names as well as content; a call can fail, write less than it was given, or be the last one
//! before the crash; a sync that fails forgets what it was to write, as the kernel does.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use super::files::{Disk, DiskFile, Open};

/// A disk writes whole sectors.
const SECTOR_BYTES: usize = 512;

/// What is to happen, by the number of the call, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plan {
    Nothing,
    /// This call and all after it do nothing: the machine is off.
    Crash {
        at: u64,
    },
    /// This call fails.
    Fail {
        at: u64,
        errno: i32,
    },
    /// This call and all after it that need space fail.
    Full {
        from: u64,
    },
    /// All transfers are of this many bytes at most.
    Short {
        bytes: usize,
    },
}

#[derive(Clone)]
pub struct Sim(Arc<Mutex<State>>);

pub struct SimFile {
    disk: Sim,
    inode: usize,
    writable: bool,
}

#[derive(Clone)]
struct State {
    folders: BTreeSet<PathBuf>,
    names: BTreeMap<PathBuf, usize>,
    names_durable: BTreeMap<PathBuf, usize>,
    /// What was done to names since their folder was synced.
    changes: Vec<NameChange>,
    files: Vec<Content>,
    read_only: BTreeSet<PathBuf>,
    available: u64,
    largest: u64,
    locked: bool,
    calls: u64,
    failed: bool,
    plan: Plan,
    random: u64,
}

#[derive(Clone)]
enum NameChange {
    Link(PathBuf, usize),
    Unlink(PathBuf),
    Rename(PathBuf, PathBuf, usize),
}

#[derive(Clone, Default)]
struct Content {
    now: Vec<u8>,
    durable: Vec<u8>,
    unsynced: Vec<Change>,
}

#[derive(Clone)]
enum Change {
    Write(usize, Vec<u8>),
    Size(usize),
}

impl Sim {
    pub fn new(seed: u64) -> Sim {
        Sim(Arc::new(Mutex::new(State {
            folders: BTreeSet::from([PathBuf::from("/")]),
            names: BTreeMap::new(),
            names_durable: BTreeMap::new(),
            changes: Vec::new(),
            files: Vec::new(),
            read_only: BTreeSet::new(),
            available: u64::MAX,
            largest: u64::MAX,
            locked: false,
            calls: 0,
            failed: false,
            plan: Plan::Nothing,
            random: seed,
        })))
    }

    /// From now on, and counts calls anew.
    pub fn plan(&self, plan: Plan) {
        let mut state = self.state();
        (state.plan, state.calls, state.failed) = (plan, 0, false);
    }

    pub fn calls(&self) -> u64 {
        self.state().calls
    }

    /// Whether the planned failure has happened.
    pub fn has_failed(&self) -> bool {
        self.state().failed
    }

    pub fn set_available(&self, bytes: u64) {
        self.state().available = bytes;
    }

    /// No file may become longer.
    pub fn set_largest(&self, bytes: u64) {
        self.state().largest = bytes;
    }

    pub fn set_read_only(&self, path: &str) {
        self.state().read_only.insert(path.into());
    }

    /// The file system as another process finds it, after this one has ended without the machine.
    pub fn killed(&self) -> Sim {
        let mut state = self.state().clone();
        (state.locked, state.plan) = (false, Plan::Nothing);
        Sim(Arc::new(Mutex::new(state)))
    }

    /// The file system after the machine was off: one of those that are possible.
    pub fn crashed(&self, seed: u64) -> Sim {
        let mut state = self.state().clone();
        (state.locked, state.plan, state.random) = (false, Plan::Nothing, seed);
        let mut names = std::mem::take(&mut state.names_durable);
        for change in std::mem::take(&mut state.changes) {
            if state.coin() {
                change.apply(&mut names);
            }
        }
        (state.names, state.names_durable) = (names.clone(), names);
        for index in 0..state.files.len() {
            let mut file = std::mem::take(&mut state.files[index]);
            let mut changes = std::mem::take(&mut file.unsynced);
            // Any order, any of them, and of a write any of its sectors.
            for end in (1..changes.len()).rev() {
                changes.swap(end, state.below(end as u64 + 1) as usize);
            }
            for change in changes {
                match change {
                    Change::Size(_) if state.coin() => change.apply(&mut file.durable),
                    Change::Size(_) => {}
                    Change::Write(offset, bytes) => {
                        for (sector, part) in bytes.chunks(SECTOR_BYTES).enumerate() {
                            if state.coin() {
                                Change::Write(offset + sector * SECTOR_BYTES, part.to_vec()).apply(&mut file.durable);
                            }
                        }
                    }
                }
            }
            file.now = file.durable.clone();
            state.files[index] = file;
        }
        Sim(Arc::new(Mutex::new(state)))
    }

    /// Writes a file and syncs it and its name, whatever the plan is.
    pub fn put(&self, path: &str, bytes: &[u8]) {
        let mut state = self.state();
        let inode = state.files.len();
        state.files.push(Content { now: bytes.to_vec(), durable: bytes.to_vec(), unsynced: Vec::new() });
        state.names.insert(path.into(), inode);
        state.names_durable.insert(path.into(), inode);
    }

    /// What a file holds.
    pub fn get(&self, path: &str) -> Option<Vec<u8>> {
        let state = self.state();
        state.names.get(Path::new(path)).map(|&inode| state.files[inode].now.clone())
    }

    /// All files, by path.
    pub fn paths(&self) -> Vec<String> {
        self.state().names.keys().map(|path| path.display().to_string()).collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }
}

impl State {
    /// Counts a call, and fails it if that is planned.
    fn call(&mut self, needs_space: bool) -> io::Result<()> {
        self.calls += 1;
        let errno = match self.plan {
            Plan::Crash { at } if self.calls >= at => return Err(io::Error::other("the machine is off")),
            Plan::Fail { at, errno } if self.calls == at => errno,
            Plan::Full { from } if self.calls >= from && needs_space => libc::ENOSPC,
            _ => return Ok(()),
        };
        self.failed = true;
        Err(io::Error::from_raw_os_error(errno))
    }

    fn is_off(&self) -> bool {
        matches!(self.plan, Plan::Crash { at } if self.calls >= at)
    }

    fn change(&mut self, change: NameChange) {
        change.apply(&mut self.names);
        self.changes.push(change);
    }

    fn short(&self, bytes: usize) -> usize {
        match self.plan {
            Plan::Short { bytes: most } => bytes.min(most),
            _ => bytes,
        }
    }

    fn below(&mut self, end: u64) -> u64 {
        // SplitMix64.
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.random;
        word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (word ^ word >> 31) % end
    }

    fn coin(&mut self) -> bool {
        self.below(2) == 0
    }
}

impl NameChange {
    fn apply(&self, names: &mut BTreeMap<PathBuf, usize>) {
        match self {
            NameChange::Link(path, inode) => drop(names.insert(path.clone(), *inode)),
            NameChange::Unlink(path) => drop(names.remove(path)),
            NameChange::Rename(from, to, inode) => {
                names.remove(from);
                names.insert(to.clone(), *inode);
            }
        }
    }

    fn is_in(&self, folder: &Path) -> bool {
        match self {
            NameChange::Link(path, _) | NameChange::Unlink(path) => path.parent() == Some(folder),
            // Both folders must be synced; the test's own file system is content with that of the new name.
            NameChange::Rename(_, to, _) => to.parent() == Some(folder),
        }
    }
}

impl Change {
    fn apply(&self, content: &mut Vec<u8>) {
        match self {
            Change::Size(bytes) => content.resize(*bytes, 0),
            Change::Write(offset, bytes) => {
                content.resize(content.len().max(offset + bytes.len()), 0);
                content[*offset..][..bytes.len()].copy_from_slice(bytes);
            }
        }
    }
}

fn absent() -> io::Error {
    io::Error::from_raw_os_error(libc::ENOENT)
}

impl Disk for Sim {
    type File = SimFile;

    fn create_directory(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.call(true)?;
        if state.names.contains_key(path) {
            return Err(io::Error::from_raw_os_error(libc::EEXIST));
        }
        state.folders.insert(path.to_owned());
        Ok(())
    }

    fn list(&self, path: &Path) -> io::Result<Vec<(String, u64)>> {
        let mut state = self.state();
        state.call(false)?;
        if !state.folders.contains(path) {
            return Err(absent());
        }
        let inside = state.names.iter().filter(|(name, _)| name.parent() == Some(path));
        let about = |(name, &inode): (&PathBuf, &usize)| {
            (name.file_name().unwrap().to_str().unwrap().to_owned(), state.files[inode].now.len() as u64)
        };
        Ok(inside.map(about).collect())
    }

    fn open(&self, path: &Path, how: Open) -> io::Result<SimFile> {
        let mut state = self.state();
        state.call(matches!(how, Open::Create | Open::Keep))?;
        let writable = how != Open::Read;
        if writable && state.read_only.contains(path) {
            return Err(io::Error::from_raw_os_error(libc::EACCES));
        }
        let inode = match (state.names.get(path).copied(), how) {
            (Some(inode), Open::Create) => {
                state.files[inode].now.clear();
                state.files[inode].unsynced.push(Change::Size(0));
                inode
            }
            (Some(inode), _) => inode,
            (None, Open::Create | Open::Keep) => {
                state.files.push(Content::default());
                let inode = state.files.len() - 1;
                state.change(NameChange::Link(path.to_owned(), inode));
                inode
            }
            (None, _) => return Err(absent()),
        };
        Ok(SimFile { disk: self.clone(), inode, writable })
    }

    fn open_direct(&self, path: &Path, how: Open) -> io::Result<(SimFile, bool)> {
        Ok((self.open(path, how)?, true))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.call(true)?;
        let inode = *state.names.get(from).ok_or_else(absent)?;
        state.change(NameChange::Rename(from.to_owned(), to.to_owned(), inode));
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.call(false)?;
        if !state.names.contains_key(path) {
            return Err(absent());
        }
        state.change(NameChange::Unlink(path.to_owned()));
        Ok(())
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        let result = state.call(false);
        if state.is_off() {
            return result;
        }
        let changes = std::mem::take(&mut state.changes);
        let (here, elsewhere): (Vec<_>, Vec<_>) = changes.into_iter().partition(|change| change.is_in(path));
        // As with files: after a failure no later sync makes them durable.
        if result.is_ok() {
            here.iter().for_each(|change| change.apply(&mut state.names_durable));
        }
        state.changes = elsewhere;
        result
    }

    fn available(&self, _path: &Path) -> io::Result<u64> {
        let mut state = self.state();
        state.call(false)?;
        Ok(state.available)
    }
}

impl DiskFile for SimFile {
    type Map = Vec<u8>;

    fn map(&self) -> io::Result<Vec<u8>> {
        let mut state = self.disk.state();
        state.call(false)?;
        Ok(state.files[self.inode].now.clone())
    }

    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut state = self.disk.state();
        state.call(false)?;
        let content = &state.files[self.inode].now;
        let rest = content.get(offset as usize..).unwrap_or_default();
        let len = state.short(rest.len().min(bytes.len()));
        bytes[..len].copy_from_slice(&rest[..len]);
        Ok(len)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        let mut state = self.disk.state();
        state.call(true)?;
        assert!(self.writable);
        let len = state.short(bytes.len());
        let change = Change::Write(offset as usize, bytes[..len].to_vec());
        let file = &mut state.files[self.inode];
        change.apply(&mut file.now);
        file.unsynced.push(change);
        Ok(len)
    }

    fn allocate(&self, bytes: u64) -> io::Result<()> {
        let mut state = self.disk.state();
        state.call(true)?;
        if bytes > state.largest {
            return Err(io::Error::from_raw_os_error(libc::ENOSPC));
        }
        let file = &mut state.files[self.inode];
        let change = Change::Size(file.now.len().max(bytes as usize));
        change.apply(&mut file.now);
        file.unsynced.push(change);
        Ok(())
    }

    fn truncate(&self, bytes: u64) -> io::Result<()> {
        let mut state = self.disk.state();
        state.call(false)?;
        let file = &mut state.files[self.inode];
        let change = Change::Size(file.now.len().min(bytes as usize));
        change.apply(&mut file.now);
        file.unsynced.push(change);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.disk.state();
        let result = state.call(true);
        if state.is_off() {
            return result;
        }
        let file = &mut state.files[self.inode];
        // After a failure the pages count as written, and no later sync writes them.
        let changes = std::mem::take(&mut file.unsynced);
        if result.is_ok() {
            changes.iter().for_each(|change| change.apply(&mut file.durable));
        }
        result
    }

    fn bytes(&self) -> io::Result<u64> {
        let mut state = self.disk.state();
        state.call(false)?;
        Ok(state.files[self.inode].now.len() as u64)
    }

    fn lock(&self) -> io::Result<bool> {
        let mut state = self.disk.state();
        state.call(false)?;
        Ok(!std::mem::replace(&mut state.locked, true))
    }
}
