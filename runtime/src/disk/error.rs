//! What can be wrong with the data directory, in words for whoever is woken up by it: what, where, and what to do.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;
use torc_engine::log::manifest::ManifestError;

/// Why the data directory cannot be used, or not changed.
#[derive(Debug, Error)]
pub enum DiskError {
    #[error("cannot {step} {path}: {source}{}", advice(.source))]
    Io { step: &'static str, path: PathBuf, source: io::Error },
    #[error(
        "cannot allocate {path}: {source}: {needed} bytes are needed, and {available} are free in {directory}{}",
        advice(.source)
    )]
    Space { path: PathBuf, directory: PathBuf, needed: u64, available: u64, source: io::Error },
    #[error(
        "the data directory {path} is in use by {}; stop it, or give this one a directory of its own (--dir)",
        match .holder { Some(id) => format!("the process {id}"), None => "another process".into() }
    )]
    InUse { path: PathBuf, holder: Option<u32> },
    #[error("the data directory {path} is not a directory; name another one (--dir), or move that file away")]
    NoDirectory { path: PathBuf },
    #[error(
        "{path} was written by another version of Torc: {source}. Nothing was changed; start the version that wrote it, or name \
         another directory (--dir)"
    )]
    Version { path: PathBuf, source: ManifestError },
    #[error(
        "{path} is not a sound manifest: {source}. Nothing was changed; run `torc check` on the directory, and bring the file \
         back from a copy"
    )]
    Manifest { path: PathBuf, source: ManifestError },
    #[error(
        "{path} does not say which manifest counts: {why}. Nothing was changed; run `torc check` on the directory, and bring the \
         file back from a copy"
    )]
    Current { path: PathBuf, why: &'static str },
    #[error(
        "the data directory {path} holds data ({file} and {others} more files) and no file CURRENT that says what of it counts. \
         Nothing was changed; remove none of them; bring CURRENT and its MANIFEST back from a copy, or name another directory (--dir) to begin \
         with nothing"
    )]
    NoManifest { path: PathBuf, file: String, others: usize },
    #[error(
        "{path} is missing, and {manifest} needs it. Nothing was changed; bring the file back from a copy; `torc check {folder}` \
         shows what is there, and `torc repair {folder}` what can be saved without it (--truncate or --skip-batch; with --dry-run \
         nothing is changed)",
        folder = folder(.path)
    )]
    Missing { path: PathBuf, manifest: String },
}

impl DiskError {
    /// The system's number, if it was the system that refused.
    pub fn errno(&self) -> Option<i32> {
        match self {
            DiskError::Io { source, .. } | DiskError::Space { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }

    /// There is no space left, or no more is allowed: it may come back by itself.
    pub fn is_full(&self) -> bool {
        matches!(self, DiskError::Io { source, .. } | DiskError::Space { source, .. } if is_full(source))
    }
}

/// The folder of a file.
pub(super) fn folder(file: &Path) -> std::path::Display<'_> {
    file.parent().unwrap_or(file).display()
}

/// As [`DiskError::is_full`], for what the system says.
pub fn is_full(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT | libc::EFBIG))
}

/// What helps against an error of the system's.
fn advice(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::ENOSPC) => "; free some space there, or move the directory to a larger disk",
        Some(libc::EDQUOT) => "; raise the quota, or free some space",
        Some(libc::EFBIG) => "; allow larger files: ulimit -f unlimited",
        Some(libc::EROFS) => {
            "; the file system is mounted read-only: mount it again with -o remount,rw (it may have \
                              become so by an error of the disk: look at dmesg), or name another directory (--dir)"
        }
        Some(libc::EACCES | libc::EPERM) => {
            "; the user of this process needs the right to read and write it and the directory that it is in: chown or chmod \
             them, or start as their owner"
        }
        Some(libc::EIO) => {
            "; the disk or its connection is failing: look at dmesg, and copy what is there to another disk"
        }
        Some(libc::EMFILE | libc::ENFILE) => "; allow more open files: ulimit -n 65536",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_one_line_and_name_path_and_remedy() {
        for (errno, part) in [
            (libc::ENOSPC, "cannot write /data/x: No space left on device (os error 28); free some space"),
            (libc::EROFS, "remount,rw"),
            (libc::EACCES, "chown or chmod"),
            (libc::EIO, "look at dmesg"),
        ] {
            let source = io::Error::from_raw_os_error(errno);
            let text = DiskError::Io { step: "write", path: "/data/x".into(), source }.to_string();
            assert!(text.contains(part) && text.contains("/data/x"), "{text}");
            assert!(!text.contains('\n') && !text.contains("  "), "{text}");
        }
        let text = DiskError::InUse { path: "/data".into(), holder: Some(4711) }.to_string();
        assert!(text.contains("/data is in use by the process 4711; stop it"), "{text}");
    }
}
