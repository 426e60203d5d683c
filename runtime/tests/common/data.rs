//! A data directory of a test, and what is done to servers that have one.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicUsize, Ordering};

use redis::Connection;
use rustix::process::Signal;

use super::server::Server;

/// A directory that goes away with the test.
pub struct Data(PathBuf);

impl Data {
    pub fn new() -> Data {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("torc-durability-{}-{}", process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        Data(std::env::temp_dir().join(name))
    }

    pub fn path(&self) -> &str {
        self.0.to_str().expect("text")
    }

    pub fn folder(&self) -> &Path {
        &self.0
    }

    pub fn start(&self, shards: usize, fsync: &str) -> Server {
        Server::start_sharded(shards, &["--appendonly", "yes", "--appendfsync", fsync, "--dir", self.path()])
    }

    fn flags<'a>(&'a self, more: &[&'a str]) -> Vec<&'a str> {
        [&["--appendonly", "yes", "--dir", self.path()], more].concat()
    }

    /// With other flags.
    pub fn start_with(&self, shards: usize, more: &[&str]) -> Server {
        Server::start_sharded(shards, &self.flags(more))
    }

    /// The same, without waiting until it has loaded what there is.
    pub fn start_loading(&self, shards: usize, more: &[&str]) -> Server {
        Server::start_loading(shards, &self.flags(more))
    }

    /// All files and what is in them, but for the lock, which has the number of the last process.
    pub fn files(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let read = |path: &Path| fs::read_dir(path).expect("a directory").map(|entry| entry.expect("an entry").path());
        let files = read(&self.0).filter(|path| path.is_file() && !path.ends_with("LOCK"));
        files.map(|path| (path.clone(), fs::read(path).expect("a file"))).collect()
    }

    /// The same with its messages in a file.
    pub fn start_telling(&self, shards: usize, fsync: &str) -> Server {
        let flags =
            ["--appendonly", "yes", "--appendfsync", fsync, "--dir", self.path(), "--logfile", &self.log_path()];
        fs::create_dir_all(&self.0).expect("a directory");
        Server::start_sharded(shards, &flags)
    }

    pub fn log_path(&self) -> String {
        format!("{}/messages", self.path())
    }

    pub fn messages(&self) -> String {
        fs::read_to_string(self.log_path()).expect("messages")
    }

    /// The files of the log, by name.
    pub fn segments(&self) -> Vec<PathBuf> {
        let names = fs::read_dir(&self.0).expect("a directory").map(|entry| entry.expect("an entry").path());
        let mut segments: Vec<PathBuf> =
            names.filter(|path| path.extension().is_some_and(|extension| extension == "log")).collect();
        segments.sort();
        segments
    }
}

impl Drop for Data {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

pub fn connect(server: &Server) -> Connection {
    let url = format!("redis://127.0.0.1:{}/", server.port());
    redis::Client::open(url).expect("a good URL").get_connection().expect("the server listens")
}

pub fn kill(server: Server) {
    server.signal(Signal::KILL);
    server.wait_for_exit();
}
