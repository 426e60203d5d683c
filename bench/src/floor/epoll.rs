//! The epoll floor: level-triggered epoll_wait, read, write.

use super::{Account, Replies};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

const LISTENER: u64 = u64::MAX;
const EVENTS: usize = 256;

struct Connection {
    stream: TcpStream,
    account: Account,
    /// The last write took less than all, so epoll watches for room.
    blocked: bool,
}

pub fn serve(replies: &Replies, listener: &TcpListener) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    // SAFETY: a new descriptor, owned from here on.
    let epoll = unsafe {
        let fd = libc::epoll_create1(libc::EPOLL_CLOEXEC);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        OwnedFd::from_raw_fd(fd)
    };
    watch(&epoll, libc::EPOLL_CTL_ADD, listener.as_raw_fd(), libc::EPOLLIN, LISTENER)?;
    let mut connections: Vec<Option<Connection>> = Vec::new();
    let mut events = vec![libc::epoll_event { events: 0, u64: 0 }; EVENTS];
    let mut input = vec![0; 65_536];
    loop {
        // SAFETY: the kernel writes at most EVENTS events into the vector of that length.
        let ready = unsafe { libc::epoll_wait(epoll.as_raw_fd(), events.as_mut_ptr(), EVENTS as i32, -1) };
        for event in &events[..ready.max(0) as usize] {
            if event.u64 == LISTENER {
                accept(&epoll, listener, &mut connections)?;
                continue;
            }
            let slot = event.u64 as usize;
            let Some(connection) = &mut connections[slot] else { continue };
            if turn(&epoll, connection, slot as u64, replies, &mut input).is_err() {
                connections[slot] = None;
            }
        }
    }
}

/// Reads once and writes what is owed. An error ends the connection; the end of its stream is one.
fn turn(
    epoll: &OwnedFd,
    connection: &mut Connection,
    slot: u64,
    replies: &Replies,
    input: &mut [u8],
) -> io::Result<()> {
    if !connection.blocked {
        match connection.stream.read(input) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(bytes) => replies.received(&mut connection.account, bytes as u64),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    let mut blocked = false;
    while connection.account.owed_bytes > 0 && !blocked {
        match connection.stream.write(replies.next(&connection.account)) {
            Ok(bytes) => replies.sent(&mut connection.account, bytes as u64),
            Err(error) if error.kind() == ErrorKind::WouldBlock => blocked = true,
            Err(error) => return Err(error),
        }
    }
    if blocked != connection.blocked {
        connection.blocked = blocked;
        let interest = if blocked { libc::EPOLLOUT } else { libc::EPOLLIN };
        watch(epoll, libc::EPOLL_CTL_MOD, connection.stream.as_raw_fd(), interest, slot)?;
    }
    Ok(())
}

fn accept(epoll: &OwnedFd, listener: &TcpListener, connections: &mut Vec<Option<Connection>>) -> io::Result<()> {
    while let Ok((stream, _)) = listener.accept() {
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        let slot = connections.iter().position(Option::is_none).unwrap_or_else(|| {
            connections.push(None);
            connections.len() - 1
        });
        watch(epoll, libc::EPOLL_CTL_ADD, stream.as_raw_fd(), libc::EPOLLIN, slot as u64)?;
        connections[slot] = Some(Connection { stream, account: Account::default(), blocked: false });
    }
    Ok(())
}

fn watch(epoll: &OwnedFd, operation: i32, fd: i32, interest: i32, data: u64) -> io::Result<()> {
    let mut event = libc::epoll_event { events: interest as u32, u64: data };
    // SAFETY: the event outlives the call, which copies it.
    match unsafe { libc::epoll_ctl(epoll.as_raw_fd(), operation, fd, &mut event) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
