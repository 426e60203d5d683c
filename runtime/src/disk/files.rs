//! What this room asks of a file system: [`Disk`] and [`DiskFile`], with the machine's own ([`Host`]). The tests have another
//! one, in memory, that loses what was not synced, and fails when it is told to.
//!
//! Everything here blocks and is for threads that may wait; shards write through their rings.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::thread;

use memmap2::Mmap;
use rustix::fs::{FallocateFlags, FlockOperation, fallocate, flock, statvfs};

use crate::limits::{LOCK_PAUSE, LOCK_TRIES};
use crate::ring::map_file;

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Open {
    /// An existing file, to be read.
    Read,
    /// An existing file, to be read and written.
    Write,
    /// A new file, or an old one without its content, to be read and written. Only its owner may open it (mode 0600).
    Create,
    /// As `Create` if there is none, and otherwise as `Write`.
    Keep,
}

/// A file system.
pub trait Disk: Clone + Send + 'static {
    type File: DiskFile;

    /// Makes a folder that only its owner may enter (mode 0700). One that exists is no error.
    fn create_directory(&self, path: &Path) -> io::Result<()>;
    /// The files in a folder: name and bytes. What is no file, or has a name that is no UTF-8, is left out.
    fn list(&self, path: &Path) -> io::Result<Vec<(String, u64)>>;
    fn open(&self, path: &Path, how: Open) -> io::Result<Self::File>;
    /// As `open`, past the page cache (O_DIRECT) where the file system can do that: buffer, length and offset of each
    /// transfer must be multiples of 4096 then. True: it can.
    fn open_direct(&self, path: &Path, how: Open) -> io::Result<(Self::File, bool)>;
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Makes the names in a folder durable.
    fn sync_directory(&self, path: &Path) -> io::Result<()>;
    /// Bytes that this process may still write to the file system.
    fn available(&self, path: &Path) -> io::Result<u64>;
}

/// An open file.
pub trait DiskFile: Send + 'static {
    /// The content as memory.
    type Map: AsRef<[u8]>;

    /// The whole content. What could not be read ends the process, so it is to be read before.
    fn map(&self) -> io::Result<Self::Map>;
    /// Reads some bytes; 0 at the end.
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes some bytes.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize>;
    /// Gives the file this size and the blocks for it, which read as zeros.
    fn allocate(&self, bytes: u64) -> io::Result<()>;
    /// Cuts off what is behind so many bytes.
    fn truncate(&self, bytes: u64) -> io::Result<()>;
    /// Makes content and size durable. A failure must not be tried again on the same file.
    fn sync(&self) -> io::Result<()>;
    fn bytes(&self) -> io::Result<u64>;
    /// Waits for what a process that is gone still writes past the page cache: it is neither in the file yet nor stopped.
    fn settle(&self) {}
    /// Locks the file for this process alone until it is closed. False: another one has it.
    fn lock(&self) -> io::Result<bool>;

    /// Writes all bytes.
    fn write_all_at(&self, mut bytes: &[u8], mut offset: u64) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.write_at(bytes, offset) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    bytes = &bytes[written..];
                    offset += written as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Fills `bytes`, or reads to the end of the file; gives how many there were.
    fn read_full_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut filled = 0;
        while filled < bytes.len() {
            match self.read_at(&mut bytes[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }
}

/// The machine's file systems.
#[derive(Clone, Copy, Debug, Default)]
pub struct Host;

impl Host {
    fn open_with(path: &Path, how: Open, flags: i32) -> io::Result<Arc<File>> {
        let mut options = File::options();
        options.read(true).mode(0o600).custom_flags(flags | libc::O_CLOEXEC);
        match how {
            Open::Read => &mut options,
            Open::Write => options.write(true),
            Open::Create => options.write(true).create(true).truncate(true),
            Open::Keep => options.write(true).create(true).truncate(false),
        };
        options.open(path).map(Arc::new)
    }
}

impl Disk for Host {
    type File = Arc<File>;

    fn create_directory(&self, path: &Path) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(path)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<(String, u64)>> {
        let mut files = Vec::new();
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            match entry.metadata() {
                Ok(about) if about.is_file() => files.push((name, about.len())),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        files.sort_unstable();
        Ok(files)
    }

    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<File>> {
        Host::open_with(path, how, 0)
    }

    fn open_direct(&self, path: &Path, how: Open) -> io::Result<(Arc<File>, bool)> {
        match Host::open_with(path, how, libc::O_DIRECT) {
            Ok(file) => Ok((file, true)),
            // The file system does not have it.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                Host::open_with(path, how, 0).map(|file| (file, false))
            }
            Err(error) => Err(error),
        }
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }

    fn available(&self, path: &Path) -> io::Result<u64> {
        let about = statvfs(path)?;
        Ok(about.f_bavail.saturating_mul(about.f_frsize))
    }
}

impl DiskFile for Arc<File> {
    type Map = Mmap;

    fn map(&self) -> io::Result<Mmap> {
        map_file(self)
    }

    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        FileExt::read_at(&**self, bytes, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        FileExt::write_at(&**self, bytes, offset)
    }

    fn allocate(&self, bytes: u64) -> io::Result<()> {
        match fallocate(&**self, FallocateFlags::empty(), 0, bytes) {
            // The file system cannot, so space may run out later.
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => self.set_len(bytes),
            result => Ok(result?),
        }
    }

    fn truncate(&self, bytes: u64) -> io::Result<()> {
        self.set_len(bytes)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }

    fn bytes(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn settle(&self) {
        // Asks for a block that is there: nothing is done, after direct writes that were begun (`inode_dio_wait`). File systems
        // that cannot do that write through the page cache, most of them.
        let _ = fallocate(&**self, FallocateFlags::KEEP_SIZE, 0, 1);
    }

    fn lock(&self) -> io::Result<bool> {
        for tried in 1.. {
            match flock(&**self, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(true),
                // Whoever only asks who has it (`torc check`) has it for a moment.
                Err(rustix::io::Errno::WOULDBLOCK) if tried < LOCK_TRIES => thread::sleep(LOCK_PAUSE),
                Err(rustix::io::Errno::WOULDBLOCK) => return Ok(false),
                Err(error) => return Err(error.into()),
            }
        }
        unreachable!("the last try returns")
    }
}
