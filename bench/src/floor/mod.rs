//! The floor: a server on one thread which moves the same bytes and does nothing. It is the kernel's own
//! price for the traffic, and what a real server's CPU per operation is divided by.
//!
//! It does not parse: requests of one workload have one size, so `bytes / request_bytes` is their number,
//! and a reply is cut from a buffer of ready copies.

mod epoll;
mod uring;

use crate::client::{self, Address};
use crate::error::Error;
use crate::system;
use crate::workload::{Dialect, Shape, Template};
use clap::{Args, ValueEnum};
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::{Duration, Instant};

#[derive(Args, Clone, Debug)]
pub struct FloorArgs {
    /// How it talks to the kernel.
    #[arg(long, value_enum, default_value = "uring")]
    pub kind: Kind,
    #[arg(long, default_value = "127.0.0.1")]
    pub host: String,
    #[arg(long)]
    pub port: u16,
    /// Pin to this cpu.
    #[arg(long)]
    pub cpu: Option<usize>,
    /// The command of the load: get, set, incr, mget:N and so on; one size of request, so not mixed.
    #[arg(long, alias = "reply-kind", default_value = "get")]
    pub command: String,
    #[arg(long, default_value_t = 16)]
    pub key_size: usize,
    #[arg(long, default_value_t = 32)]
    pub value_size: usize,
    /// Bytes of one request, instead of those of the generator's command.
    #[arg(long)]
    pub request_bytes: Option<u64>,
    /// How the io_uring kind sends.
    #[arg(long, value_enum, default_value = "plain")]
    pub send: Send,
    /// Provided buffers of the io_uring kind, a power of two: two to four times the connections.
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u16).range(1..=32768))]
    pub buffers: u16,
    #[arg(long, default_value_t = 16_384)]
    pub buffer_bytes: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
pub enum Kind {
    /// Multishot accept and receive into provided buffers, one wait a turn.
    Uring,
    /// epoll_wait, read, write.
    Epoll,
}

#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
pub enum Send {
    /// send(2).
    Plain,
    /// An entry on the ring which completes only when it fails.
    Ring,
}

/// Serves until it is killed.
pub fn run(args: &FloorArgs) -> Result<(), Error> {
    if let Some(cpu) = args.cpu {
        system::pin_thread(&[cpu]).map_err(Error::io(format!("pin to cpu {cpu}")))?;
    }
    if !args.buffers.is_power_of_two() {
        return Err(Error::Usage("--buffers must be a power of two".to_string()));
    }
    let sizes = args.value_size.to_string().parse().map_err(Error::Usage)?;
    let shape = Shape { key_bytes: args.key_size, sizes: Arc::new(sizes), dialect: Dialect::Resp };
    if args.key_size <= crate::keys::PREFIX_BYTES {
        return Err(Error::Usage("--key-size is too small".to_string()));
    }
    let template = Template::new(&args.command, &shape)?;
    let request_bytes = args.request_bytes.unwrap_or(template.bytes.len() as u64).max(1);
    let replies = Replies::new(request_bytes, &template.expectation.sample());
    system::raise_open_files();
    let Address::Tcp(address) = client::resolve(&args.host, args.port)? else { unreachable!("a host and a port") };
    let listener = listen(address)?;
    match args.kind {
        Kind::Uring => uring::serve(args, &replies, &listener).map_err(Error::io("serve over io_uring")),
        Kind::Epoll => epoll::serve(&replies, &listener).map_err(Error::io("serve over epoll")),
    }
}

/// A killed io_uring server leaves its port busy for some milliseconds, so a busy port is tried again.
fn listen(address: SocketAddr) -> Result<TcpListener, Error> {
    let start = Instant::now();
    loop {
        match TcpListener::bind(address) {
            Err(error) if error.kind() == ErrorKind::AddrInUse && start.elapsed() < Duration::from_secs(2) => {
                std::thread::sleep(Duration::from_millis(5));
            }
            result => return result.map_err(Error::io(format!("listen on {address}"))),
        }
    }
}

/// Copies of the reply, back to back: the stream of replies is periodic, so whatever is owed to a
/// connection begins at its phase in the first copy.
struct Replies {
    request_bytes: u64,
    reply_bytes: u64,
    copies: Vec<u8>,
}

/// What one connection is owed.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Account {
    /// Bytes of a request whose end has not arrived.
    request_carry: u64,
    owed_bytes: u64,
    /// Bytes of the next reply which are already sent.
    phase: u64,
}

impl Replies {
    fn new(request_bytes: u64, reply: &[u8]) -> Replies {
        let count = (262_144 / reply.len()).max(1) + 1;
        Replies { request_bytes, reply_bytes: reply.len() as u64, copies: reply.repeat(count) }
    }

    fn received(&self, account: &mut Account, bytes: u64) {
        let total = account.request_carry + bytes;
        account.request_carry = total % self.request_bytes;
        account.owed_bytes += total / self.request_bytes * self.reply_bytes;
    }

    /// What to send next, empty if nothing is owed.
    fn next(&self, account: &Account) -> &[u8] {
        let rest = &self.copies[account.phase as usize..];
        &rest[..rest.len().min(account.owed_bytes as usize)]
    }

    fn sent(&self, account: &mut Account, bytes: u64) {
        account.owed_bytes -= bytes;
        account.phase = (account.phase + bytes) % self.reply_bytes;
    }

    /// Takes back the last `bytes` which were counted as sent.
    fn not_sent(&self, account: &mut Account, bytes: u64) {
        account.owed_bytes += bytes;
        account.phase = (account.phase + self.reply_bytes - bytes % self.reply_bytes) % self.reply_bytes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// However the requests are cut on arrival and the replies on departure, n requests get n replies.
    #[test]
    fn every_request_gets_one_whole_reply() {
        let replies = Replies::new(36, b"$3\r\nabc\r\n");
        let mut account = Account::default();
        let mut stream = Vec::new();
        let mut seed = crate::random::Random::new(5);
        let mut received = 0;
        for _ in 0..1_000 {
            let bytes = seed.below(500);
            received += bytes;
            replies.received(&mut account, bytes);
            while account.owed_bytes > 0 {
                let piece = replies.next(&account);
                let cut = 1 + seed.below(piece.len() as u64) as usize;
                stream.extend_from_slice(&piece[..cut]);
                let claimed = cut as u64 + seed.below((piece.len() - cut) as u64 + 1);
                replies.sent(&mut account, claimed);
                replies.not_sent(&mut account, claimed - cut as u64);
            }
        }
        assert_eq!(stream, b"$3\r\nabc\r\n".repeat((received / 36) as usize));
        assert_eq!(account.request_carry, received % 36);
    }
}
