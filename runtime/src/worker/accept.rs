//! Connections come in: listeners of the shard's own, and connections other shards hand over.
//!
//! Every shard listens on the shared port (SO_REUSEPORT) and the kernel chooses one by a hash, which says nothing about how
//! many each has: of eight connections, seven may arrive at one shard. So an accepted connection goes to the shard with
//! the fewest, over the mesh.

use std::io;
use std::net::{Shutdown, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::Duration;

use socket2::{Socket, TcpKeepalive};
use torc_engine::id::{Millis, SessionId};
use torc_engine::shard::Peer;

use super::connection::{Connection, Receive};
use super::{Parts, Worker};
use crate::limits::{ACCEPT_PAUSE_MS, LOG_REPEAT_MS};
use crate::mesh::Parcel;
use crate::ring::Errno;

/// A bound and listening socket.
pub struct Door {
    pub socket: Socket,
    /// Its connections may go to any shard; those of a shard's own port stay.
    pub shared: bool,
}

pub(super) struct Listener {
    socket: Socket,
    shared: bool,
    /// No accept is under way until then: the process was out of descriptors.
    pub(super) paused_until: Option<Millis>,
}

impl Listener {
    pub(super) fn new(door: Door) -> Listener {
        Listener { socket: door.socket, shared: door.shared, paused_until: None }
    }
}

impl Worker {
    /// Starts accepting on all listeners.
    pub(super) fn accept_all(&mut self) {
        for (index, listener) in self.listeners.iter().enumerate() {
            if let Some(listener) = listener {
                self.parts.ring.accept_multishot(&listener.socket, index as u32);
            }
        }
    }

    /// Starts accepting again where it was paused.
    pub(super) fn accept_again(&mut self) {
        for (index, listener) in self.listeners.iter_mut().enumerate() {
            let Some(listener) = listener else { continue };
            // Also when the clock was set back.
            if listener.paused_until.is_some_and(|at| at <= self.now || at.0 - self.now.0 > ACCEPT_PAUSE_MS) {
                listener.paused_until = None;
                self.parts.ring.accept_multishot(&listener.socket, index as u32);
            }
        }
    }

    /// Stops accepting and closes the listeners.
    pub(super) fn close_listeners(&mut self) {
        for (index, listener) in self.listeners.iter_mut().enumerate() {
            if let Some(listener) = listener.take() {
                // At once: an accept under way keeps the socket beyond its close, and the kernel may end it after the process.
                let _ = listener.socket.shutdown(Shutdown::Both);
                self.parts.ring.cancel_accept(index as u32);
                self.graveyard.push(listener.socket);
            }
        }
    }

    /// A completion of an accept. After the listener was closed a connection may still come: it is dropped.
    pub(super) fn accepted(&mut self, index: u32, result: Result<OwnedFd, Errno>, more: bool) {
        let Some(listener) = &mut self.listeners[index as usize] else { return };
        let shared = listener.shared;
        let pause = match &result {
            // Out of descriptors or memory: the connection stays in the backlog, and at once would fail again.
            Err(Errno(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM)) => true,
            // The connection's own trouble (accept(2), "Error handling").
            Err(_) | Ok(_) => false,
        };
        if pause && !more {
            listener.paused_until = Some(Millis(self.now.0 + ACCEPT_PAUSE_MS));
        } else if !more {
            self.parts.ring.accept_multishot(&listener.socket, index);
        }
        match result {
            Ok(descriptor) => self.assign(Socket::from(descriptor), shared),
            Err(error) => self.log_accept(error),
        }
    }

    /// Gives a new connection to the shard with the fewest.
    fn assign(&mut self, socket: Socket, shared: bool) {
        let Parts { census, port, id, .. } = &mut self.parts;
        if !shared {
            census.count(*id);
            return self.adopt(socket);
        }
        let chosen = census.admit(*id);
        if chosen == *id {
            return self.adopt(socket);
        }
        // A peer whose queue is full has enough to do.
        if let Err(Parcel::Connection(socket)) = port.push(chosen, Parcel::Connection(socket)) {
            census.dismiss(chosen);
            census.count(*id);
            self.adopt(socket);
        }
    }

    /// Makes a connection this shard's own; it is counted already.
    pub(super) fn adopt(&mut self, socket: Socket) {
        match self.welcome(&socket) {
            Some(session) => {
                self.connections.insert(Connection {
                    socket,
                    session,
                    receive: Receive::Off,
                    waits_writable: false,
                    held_back: false,
                    ended: false,
                });
                self.size_buffers();
                self.touched.push(session);
            }
            None => {
                self.parts.census.dismiss(self.parts.id);
                // No operation names this socket.
                drop(socket);
            }
        }
    }

    /// Introduces a connection to the shard; None if it is refused (and told so) or gone already.
    fn welcome(&mut self, socket: &Socket) -> Option<SessionId> {
        if self.stop_at.is_some() {
            return None;
        }
        let address = as_inet(socket.peer_addr())?;
        let local_address = as_inet(socket.local_addr())?;
        let Parts { shard, census, .. } = &mut self.parts;
        prepare(socket, shard.config().tcp_keepalive_s);
        let peer = Peer { address, local_address, clients_total: census.connections_total() };
        match shard.handle_connect(self.now, peer) {
            Ok(session) => Some(session),
            Err(refusal) => {
                // A new socket has room for one line; a client that is gone already does not need it.
                let _ = socket.send_with_flags(refusal.0, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL);
                None
            }
        }
    }

    fn log_accept(&mut self, Errno(number): Errno) {
        let ended = number == libc::ECANCELED;
        if !ended && self.now.0.abs_diff(self.accept_logged_at.0) >= LOG_REPEAT_MS {
            self.accept_logged_at = self.now;
            let error = io::Error::from_raw_os_error(number);
            tracing::warn!("cannot accept connections: {error} (more within a second are not logged)");
        }
    }
}

fn as_inet(address: io::Result<socket2::SockAddr>) -> Option<SocketAddr> {
    address.ok()?.as_socket()
}

/// Sets a client's socket up as Redis does. An option that fails leaves a slower connection, not a broken one.
fn prepare(socket: &Socket, keepalive_s: u32) {
    let _ = socket.set_tcp_nodelay(true);
    if keepalive_s > 0 {
        let keepalive = TcpKeepalive::new()
            .with_time(Duration::from_secs(keepalive_s.into()))
            .with_interval(Duration::from_secs((keepalive_s / 3).max(1).into()))
            .with_retries(3);
        let _ = socket.set_tcp_keepalive(&keepalive);
    }
}
