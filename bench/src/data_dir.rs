//! A directory that servers keep their data in, and the servers that do: their command has `{dir}` in it.

use crate::compare::servers::ServerSpec;
use crate::error::Error;
use crate::workload::Dialect;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Removed with all that is in it when dropped, unless it is to be kept.
pub struct DataDir {
    path: PathBuf,
    kept: bool,
}

impl DataDir {
    /// A new directory, `name` in `parent` or else in the temporary directory. It must not be there yet.
    pub fn create(parent: Option<&Path>, name: &str) -> Result<DataDir, Error> {
        static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let parent = parent.map_or_else(std::env::temp_dir, Path::to_path_buf);
        let path = parent.join(format!("torc-bench-{name}-{}-{number}", std::process::id()));
        let path = std::path::absolute(&path).map_err(Error::io("find the working directory"))?;
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_./+".contains(c);
        if !path.to_string_lossy().chars().all(plain) {
            let reason = "a shell would not take it as it is";
            return Err(Error::Usage(format!("{}: {reason}; choose another --dir", path.display())));
        }
        fs::create_dir_all(&parent).map_err(Error::io(format!("create {}", parent.display())))?;
        fs::create_dir(&path).map_err(Error::io(format!("create {}", path.display())))?;
        Ok(DataDir { path, kept: false })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn keep(&mut self) {
        self.kept = true;
    }

    /// The server with one of its commands, over this directory.
    pub fn spec(&self, name: &str, command: &str) -> ServerSpec {
        let command = command.replace("{dir}", &self.path.to_string_lossy());
        ServerSpec { name: name.to_string(), dialect: Dialect::Resp, commands: vec![command] }
    }

    /// What its files take on the disk, in bytes.
    pub fn allocated_bytes(&self) -> Result<u64, Error> {
        allocated_bytes(&self.path).map_err(Error::io(format!("read {}", self.path.display())))
    }
}

impl Drop for DataDir {
    fn drop(&mut self) {
        if !self.kept {
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

fn allocated_bytes(directory: &Path) -> std::io::Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        bytes += match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => allocated_bytes(&entry.path())?,
            Ok(metadata) => metadata.blocks() * 512,
            // A server may remove a file meanwhile.
            Err(_) => 0,
        };
    }
    Ok(bytes)
}

/// That a server is one process, speaks RESP, and is told where its data is.
pub fn check_spec(spec: &ServerSpec) -> Result<(), Error> {
    let is_one = spec.commands.len() == 1 && spec.dialect == Dialect::Resp;
    if !is_one || !spec.commands[0].contains("{dir}") {
        let name = &spec.name;
        return Err(Error::Usage(format!(
            "{name}: a server is one process that speaks RESP, with {{port}} and {{dir}}"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_lives_as_long_as_it_is_used() {
        let directory = DataDir::create(None, "test").unwrap();
        let path = directory.path().to_path_buf();
        let spec = directory.spec("x", "server --dir {dir} {port}");
        assert_eq!(spec.commands, [format!("server --dir {} {{port}}", path.display())]);
        fs::create_dir(path.join("inner")).unwrap();
        fs::write(path.join("inner/file"), [1; 5_000]).unwrap();
        let bytes = directory.allocated_bytes().unwrap();
        assert!((4_096..100_000).contains(&bytes), "{bytes}");
        drop(directory);
        assert!(!path.exists());
    }

    #[test]
    fn servers_say_where_their_data_is() {
        let check = |text: &str| check_spec(&text.parse().unwrap());
        assert!(check("a=server {port} {dir}").is_ok());
        assert!(check("a=server {port}").is_err());
        assert!(check("a+memcache=server {port} {dir}").is_err());
        assert!(check("a=server {port} {dir};server {port2} {dir}").is_err());
        assert!(DataDir::create(Some(Path::new("/tmp/a b;c")), "x").is_err());
    }
}
