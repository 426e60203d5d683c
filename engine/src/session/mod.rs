//! One client's conversation: who it is, which dialect it speaks, which database it means.
//!
//! What is about bytes (unfinished requests, the order of replies, flow) belongs to the shard: see `shard/`.

use std::fmt::Write;
use std::net::SocketAddr;

use torc_protocol::resp::reply::Dialect;

use crate::id::Millis;

/// A connected client, as commands about the connection see it.
#[derive(Debug)]
pub struct Client {
    /// Never reused in the life of the process.
    pub id: u64,
    pub address: SocketAddr,
    pub local_address: SocketAddr,
    pub db: u8,
    pub dialect: Dialect,
    pub authenticated: bool,
    /// Set by QUIT: no more commands are read, and the connection ends when the replies are sent.
    pub quit: bool,
    pub name: Vec<u8>,
    pub lib_name: Vec<u8>,
    pub lib_version: Vec<u8>,
    pub connected_at: Millis,
    pub last_active: Millis,
}

impl Client {
    /// What RESET goes back to. The name goes, the library's name stays, as in Redis.
    pub fn reset(&mut self, authenticated: bool) {
        self.db = 0;
        self.dialect = Dialect::Resp2;
        self.authenticated = authenticated;
        self.name.clear();
    }

    /// The client's line of CLIENT LIST and CLIENT INFO, without its line break.
    pub fn describe(&self, now: Millis, command: &str) -> String {
        let mut line = String::new();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let written = write!(
            line,
            "id={} addr={} laddr={} fd=-1 name={} age={} idle={} flags=N db={} sub=0 psub=0 ssub=0 multi=-1 qbuf=0 \
             qbuf-free=0 argv-mem=0 multi-mem=0 rbs=0 rbp=0 obl=0 oll=0 omem=0 tot-mem=0 events=r cmd={} user=default \
             redir=-1 resp={} lib-name={} lib-ver={}",
            self.id,
            self.address,
            self.local_address,
            text(&self.name),
            now.0.saturating_sub(self.connected_at.0) / 1000,
            now.0.saturating_sub(self.last_active.0) / 1000,
            self.db,
            command,
            if self.dialect == Dialect::Resp3 { 3 } else { 2 },
            text(&self.lib_name),
            text(&self.lib_version),
        );
        written.expect("writing to a String does not fail");
        line
    }
}
