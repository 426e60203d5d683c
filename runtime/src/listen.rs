//! The listening sockets: one per bind address and shard, all on one port.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::thread;
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};
use thiserror::Error;

use crate::worker::Door;

/// How long a bind is tried again: the rings of a killed process keep its port for some milliseconds.
const BIND_RETRY: Duration = Duration::from_millis(50);
const BIND_STEP: Duration = Duration::from_millis(5);

/// Why an address cannot be served.
#[derive(Debug, Error)]
pub enum ListenError {
    #[error("port {port} on {address} is in use by another process; choose another one with --port")]
    InUse { address: String, port: u16 },
    #[error(
        "binding port {port} on {address} is not permitted; ports below 1024 need CAP_NET_BIND_SERVICE: \
         sysctl -w net.ipv4.ip_unprivileged_port_start={port}, or choose another one with --port"
    )]
    NotPermitted { address: String, port: u16 },
    #[error(
        "this machine has no address {address}; name one of those that `ip address` shows with --bind, or write -{address} if \
         it may be missing"
    )]
    Unavailable { address: String },
    #[error("--bind: {address} is served already by {other}; name it once")]
    Twice { address: SocketAddr, other: SocketAddr },
    #[error("cannot listen on {address}, port {port}: {source}")]
    Other { address: String, port: u16, source: io::Error },
    #[error("there is nothing to listen on: --bind names no address that this machine has")]
    Nothing,
    #[error("port 0 leaves nothing to listen on")]
    NoPort,
}

/// Takes the port on every address of `bind`, for this process alone: a door per address for each of `shards` shards, and
/// the addresses served. As in Redis an address that starts with `-` may be missing, `*` is every IPv4 address, `::*` every
/// IPv6 address, and no address at all is nothing to listen on. A name stands for the first address it has.
pub fn open(
    bind: &[String],
    port: u16,
    backlog: i32,
    shards: usize,
) -> Result<(Vec<Vec<Door>>, Vec<SocketAddr>), ListenError> {
    if port == 0 {
        return Err(ListenError::NoPort);
    }
    let mut doors: Vec<Vec<Door>> = (0..shards).map(|_| Vec::new()).collect();
    let mut served = Vec::new();
    for name in bind {
        let (optional, name) = match name.strip_prefix('-') {
            Some(name) => (true, name),
            None => (false, name.as_str()),
        };
        let fail = |source: io::Error| {
            let address = name.to_string();
            match source.kind() {
                ErrorKind::AddrInUse => ListenError::InUse { address, port },
                ErrorKind::PermissionDenied => ListenError::NotPermitted { address, port },
                _ if is_unavailable(&source) => ListenError::Unavailable { address },
                _ => ListenError::Other { address, port, source },
            }
        };
        let address = match resolve(name, port) {
            Ok(address) => address,
            Err(_) if optional => continue,
            Err(error) => return Err(fail(error)),
        };
        if let Some(&other) = served.iter().find(|other| overlap(**other, address)) {
            return Err(ListenError::Twice { address, other });
        }
        // SO_REUSEPORT would let a second process share the port in silence; so one without it has to fit in first.
        match bind_patiently(address) {
            Ok(alone) => drop(alone),
            Err(error) if optional && is_unavailable(&error) => continue,
            Err(error) => return Err(fail(error)),
        }
        for doors in &mut doors {
            let socket = bind_one(address, true).and_then(|socket| socket.listen(backlog).map(|()| socket));
            doors.push(Door { socket: socket.map_err(fail)?, shared: true });
        }
        served.push(address);
    }
    if served.is_empty() {
        return Err(ListenError::Nothing);
    }
    Ok((doors, served))
}

fn resolve(name: &str, port: u16) -> io::Result<SocketAddr> {
    let host = match name {
        "*" => "0.0.0.0",
        "::*" => "::",
        name => name,
    };
    let none = || io::Error::new(ErrorKind::NotFound, "the name has no address");
    let mut address = (host, port).to_socket_addrs()?.next().ok_or_else(none)?;
    // IPv6 sockets serve IPv6 alone, so ::ffff:127.0.0.1 has to be an IPv4 one.
    if let IpAddr::V4(ip) = address.ip().to_canonical() {
        address.set_ip(ip.into());
    }
    Ok(address)
}

/// Whether two addresses of one port cannot both be bound.
fn overlap(a: SocketAddr, b: SocketAddr) -> bool {
    a.is_ipv4() == b.is_ipv4() && (a == b || a.ip().is_unspecified() || b.ip().is_unspecified())
}

fn bind_patiently(address: SocketAddr) -> io::Result<Socket> {
    let deadline = Instant::now() + BIND_RETRY;
    loop {
        match bind_one(address, false) {
            Err(error) if error.kind() == ErrorKind::AddrInUse && Instant::now() < deadline => thread::sleep(BIND_STEP),
            result => return result,
        }
    }
}

fn bind_one(address: SocketAddr, share: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if share {
        socket.set_reuse_port(true)?;
    }
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    Ok(socket)
}

/// The machine has no such address, or no such protocol.
fn is_unavailable(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            libc::EADDRNOTAVAIL
                | libc::EAFNOSUPPORT
                | libc::EPFNOSUPPORT
                | libc::EPROTONOSUPPORT
                | libc::ESOCKTNOSUPPORT
        )
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| name.to_string()).collect()
    }

    /// A port that was free a moment ago.
    fn free_port() -> u16 {
        std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
    }

    #[test]
    fn every_shard_gets_a_door_per_address() {
        // 192.0.2.1 is a documentation address that no machine has.
        let (doors, served) = open(&names(&["127.0.0.1", "-192.0.2.1"]), free_port(), 16, 3).unwrap();
        assert_eq!(doors.iter().map(Vec::len).collect::<Vec<_>>(), [1, 1, 1]);
        assert_eq!(served.len(), 1);
    }

    #[test]
    fn a_second_process_does_not_share_the_port() {
        let port = free_port();
        let _first = open(&names(&["127.0.0.1"]), port, 16, 2).unwrap();
        let error = open(&names(&["127.0.0.1"]), port, 16, 2).err().unwrap();
        assert_eq!(
            error.to_string(),
            format!("port {port} on 127.0.0.1 is in use by another process; choose another one with --port")
        );
        assert!(open(&names(&["-127.0.0.1"]), port, 16, 2).is_err(), "optional is not about ports in use");
    }

    #[test]
    fn what_cannot_be_served_is_named() {
        let error = |bind: &[&str], port| open(&names(bind), port, 16, 1).err().unwrap().to_string();
        assert!(error(&["192.0.2.1"], free_port()).starts_with("this machine has no address 192.0.2.1; name one"));
        assert!(error(&["x y"], free_port()).starts_with("cannot listen on x y, port "));
        assert!(error(&[], free_port()).starts_with("there is nothing to listen on"));
        for twice in [["127.0.0.1", "127.0.0.1"], ["*", "127.0.0.1"], ["::ffff:127.0.0.1", "0.0.0.0"]] {
            let error = error(&twice, free_port());
            assert!(error.contains("is served already by"), "{twice:?}: {error}");
        }
        assert!(error(&["-192.0.2.1"], free_port()).starts_with("there is nothing to listen on"));
        assert_eq!(error(&["127.0.0.1"], 0), "port 0 leaves nothing to listen on");
    }
}
