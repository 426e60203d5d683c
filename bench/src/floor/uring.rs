//! The io_uring floor: multishot accept, multishot receive from provided buffers, one wait a turn.
//!
//! At most one send is in flight on a connection. send(2) takes what it can; a ring send runs inside the
//! submission (MSG_DONTWAIT) and completes only when it did not take all. Either way what is left waits
//! for a poll of the socket, so a client which does not read holds up nobody.

use super::{Account, FloorArgs, Replies, Send};
use crate::ring::{self, BUFFER_GROUP, BufferRing};
use io_uring::{IoUring, cqueue, opcode, squeue, types};
use std::io;
use std::net::TcpListener;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

/// user_data is `operation << 56 | generation << 32 | slot`: a completion which comes after its
/// connection was closed names a generation which is gone.
const OPERATION_ACCEPT: u64 = 0;
const OPERATION_RECEIVE: u64 = 1;
const OPERATION_SEND: u64 = 2;
const OPERATION_WRITABLE: u64 = 3;
const GENERATION_MASK: u32 = 0xff_ffff;

struct Connection {
    fd: OwnedFd,
    generation: u32,
    account: Account,
    /// Owed bytes wait for the socket to become writable.
    blocked: bool,
    /// Among those to answer at the end of this turn.
    ready: bool,
    /// What the last ring send was to take.
    claimed_bytes: u64,
}

struct Server<'a> {
    ring: IoUring,
    buffers: BufferRing,
    replies: &'a Replies,
    send: Send,
    connections: Vec<Option<Connection>>,
    free: Vec<usize>,
    generation: u32,
    /// Slots to answer, and to receive on again, at the end of the turn.
    ready: Vec<usize>,
    starved: Vec<usize>,
    /// Slots whose socket turned out to be full.
    blocked: Vec<usize>,
    /// A ring send was cut short by the size of the reply buffer, so there is more to do at once.
    again: bool,
}

pub fn serve(args: &FloorArgs, replies: &Replies, listener: &TcpListener) -> io::Result<()> {
    let ring = ring::new_ring(1024)?;
    let buffers = BufferRing::register(&ring, args.buffers, args.buffer_bytes)?;
    let mut server = Server {
        ring,
        buffers,
        replies,
        send: args.send,
        connections: Vec::new(),
        free: Vec::new(),
        generation: 0,
        ready: Vec::new(),
        starved: Vec::new(),
        blocked: Vec::new(),
        again: false,
    };
    server.accept(listener.as_raw_fd())?;
    let mut completions = Vec::new();
    loop {
        if server.again {
            server.again = false;
            server.ring.submit()?;
        } else {
            ring::submit_and_wait(&mut server.ring)?;
        }
        completions.extend(server.ring.completion().map(|cqe| (cqe.user_data(), cqe.result(), cqe.flags())));
        for (user_data, result, flags) in completions.drain(..) {
            match user_data >> 56 {
                OPERATION_ACCEPT => {
                    if result >= 0 {
                        server.open(result)?;
                    }
                    if !cqueue::more(flags) {
                        server.accept(listener.as_raw_fd())?;
                    }
                }
                operation => server.handle(operation, user_data, result, flags),
            }
        }
        server.buffers.publish();
        for slot in std::mem::take(&mut server.starved) {
            server.receive(slot)?;
        }
        let mut ready = std::mem::take(&mut server.ready);
        for slot in ready.drain(..) {
            server.answer(slot)?;
        }
        for slot in std::mem::take(&mut server.blocked) {
            server.wait_writable(slot)?;
        }
    }
}

impl Server<'_> {
    fn handle(&mut self, operation: u64, user_data: u64, result: i32, flags: u32) {
        let slot = user_data as u32 as usize;
        if operation == OPERATION_RECEIVE
            && let Some(id) = cqueue::buffer_select(flags)
        {
            self.buffers.give_back(id);
        }
        let generation = (user_data >> 32) as u32 & GENERATION_MASK;
        let live = self.connections[slot].as_mut().filter(|connection| connection.generation == generation);
        let Some(connection) = live else { return };
        match operation {
            OPERATION_RECEIVE if result > 0 => {
                self.replies.received(&mut connection.account, result as u64);
                if !cqueue::more(flags) {
                    self.starved.push(slot);
                }
            }
            OPERATION_RECEIVE if result == -libc::ENOBUFS => {
                self.starved.push(slot);
                return;
            }
            // The bytes were counted as sent when the entry was queued; only a short send comes here.
            OPERATION_SEND if result >= 0 || result == -libc::EAGAIN => {
                let rest = connection.claimed_bytes - result.max(0) as u64;
                self.replies.not_sent(&mut connection.account, rest);
                connection.blocked = true;
                self.blocked.push(slot);
                return;
            }
            OPERATION_WRITABLE if result >= 0 => connection.blocked = false,
            _ => {
                self.close(slot);
                return;
            }
        }
        if let Some(connection) = &mut self.connections[slot]
            && !connection.ready
        {
            connection.ready = true;
            self.ready.push(slot);
        }
    }

    /// Sends what the connection is owed.
    fn answer(&mut self, slot: usize) -> io::Result<()> {
        let Some(connection) = &mut self.connections[slot] else { return Ok(()) };
        connection.ready = false;
        if connection.blocked {
            return Ok(());
        }
        let fd = connection.fd.as_raw_fd();
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        if self.send == Send::Ring {
            let bytes = self.replies.next(&connection.account);
            if bytes.is_empty() {
                return Ok(());
            }
            let entry = opcode::Send::new(types::Fd(fd), bytes.as_ptr(), bytes.len() as u32)
                .flags(flags | libc::MSG_WAITALL)
                .build()
                .flags(squeue::Flags::SKIP_SUCCESS)
                .user_data(user_data(OPERATION_SEND, connection.generation, slot));
            connection.claimed_bytes = bytes.len() as u64;
            self.replies.sent(&mut connection.account, connection.claimed_bytes);
            if connection.account.owed_bytes > 0 {
                connection.ready = true;
                self.ready.push(slot);
                self.again = true;
            }
            return ring::push(&mut self.ring, &entry);
        }
        loop {
            let bytes = self.replies.next(&connection.account);
            if bytes.is_empty() {
                return Ok(());
            }
            // SAFETY: the pointer and the length are those of a live slice.
            let sent = unsafe { libc::send(fd, bytes.as_ptr().cast(), bytes.len(), flags) };
            match sent {
                0.. => self.replies.sent(&mut connection.account, sent as u64),
                _ if io::Error::last_os_error().kind() == io::ErrorKind::WouldBlock => {
                    connection.blocked = true;
                    self.blocked.push(slot);
                    return Ok(());
                }
                _ => {
                    self.close(slot);
                    return Ok(());
                }
            }
        }
    }

    fn open(&mut self, fd: RawFd) -> io::Result<()> {
        // SAFETY: the kernel has just made this descriptor for us.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        socket2::SockRef::from(&fd).set_tcp_nodelay(true)?;
        self.generation = (self.generation + 1) & GENERATION_MASK;
        let connection = Connection {
            fd,
            generation: self.generation,
            account: Account::default(),
            blocked: false,
            ready: false,
            claimed_bytes: 0,
        };
        let slot = self.free.pop().unwrap_or_else(|| {
            self.connections.push(None);
            self.connections.len() - 1
        });
        self.connections[slot] = Some(connection);
        self.receive(slot)
    }

    /// Shuts down first: the receive on the ring holds the socket and must end too.
    fn close(&mut self, slot: usize) {
        if let Some(connection) = self.connections[slot].take() {
            let _ = socket2::SockRef::from(&connection.fd).shutdown(std::net::Shutdown::Both);
            self.free.push(slot);
        }
    }

    fn accept(&mut self, listener: RawFd) -> io::Result<()> {
        let entry = opcode::AcceptMulti::new(types::Fd(listener)).build().user_data(user_data(OPERATION_ACCEPT, 0, 0));
        ring::push(&mut self.ring, &entry)
    }

    fn receive(&mut self, slot: usize) -> io::Result<()> {
        let Some(connection) = &self.connections[slot] else { return Ok(()) };
        let entry = opcode::RecvMulti::new(types::Fd(connection.fd.as_raw_fd()), BUFFER_GROUP)
            .build()
            .user_data(user_data(OPERATION_RECEIVE, connection.generation, slot));
        ring::push(&mut self.ring, &entry)
    }

    fn wait_writable(&mut self, slot: usize) -> io::Result<()> {
        let Some(connection) = &self.connections[slot] else { return Ok(()) };
        let entry = opcode::PollAdd::new(types::Fd(connection.fd.as_raw_fd()), libc::POLLOUT as u32)
            .build()
            .user_data(user_data(OPERATION_WRITABLE, connection.generation, slot));
        ring::push(&mut self.ring, &entry)
    }
}

fn user_data(operation: u64, generation: u32, slot: usize) -> u64 {
    operation << 56 | u64::from(generation) << 32 | slot as u64
}
