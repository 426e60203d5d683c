//! The connections of one shard, and what is sent on them.
//!
//! A connection stands at the place its session has in the shard, so a session finds it without a search, and the ring's
//! completions name the same place and generation.

use std::io::{self, IoSlice};

use socket2::Socket;
use torc_engine::id::SessionId;
use torc_protocol::resp::reply::ReplyBuffer;

use crate::limits::SEND_SLICES_MAX;
use crate::ring::Key;

/// Where the receive of a connection stands. There is one at a time: it is armed again only after its last completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Receive {
    /// None under way.
    Off,
    Armed,
    /// Cancelled, the last completion has not come.
    Cancelling,
    /// Ended for want of a buffer; waits its turn in the worker's queue.
    Starved,
}

pub struct Connection {
    pub socket: Socket,
    pub session: SessionId,
    pub receive: Receive,
    /// The socket took less than it was given; the ring says when it takes more. Nothing is sent meanwhile.
    pub waits_writable: bool,
    /// The client has closed its sending side.
    pub ended: bool,
    /// Its output waits for more that is on its way from other shards.
    pub held_back: bool,
}

impl Connection {
    pub fn key(&self) -> Key {
        key(self.session)
    }
}

/// How the ring names a session.
#[inline]
pub fn key(session: SessionId) -> Key {
    Key::new(session.slot, session.generation)
}

/// All connections of a shard.
#[derive(Default)]
pub struct Connections {
    slots: Vec<Option<Connection>>,
    count: usize,
}

impl Connections {
    pub fn insert(&mut self, connection: Connection) {
        let slot = connection.session.slot as usize;
        if slot >= self.slots.len() {
            self.slots.resize_with(slot + 1, || None);
        }
        assert!(self.slots[slot].is_none(), "the shard gives a session's place away only after it was disconnected");
        self.slots[slot] = Some(connection);
        self.count += 1;
    }

    pub fn remove(&mut self, session: SessionId) -> Option<Connection> {
        self.get(session)?;
        self.count -= 1;
        self.slots[session.slot as usize].take()
    }

    /// The connection of a session; None when it was closed.
    #[inline]
    pub fn get(&mut self, session: SessionId) -> Option<&mut Connection> {
        let connection = self.slots.get_mut(session.slot as usize)?.as_mut()?;
        (connection.session == session).then_some(connection)
    }

    /// The connection a completion is about; None when the completion is stale.
    #[inline]
    pub fn get_by_key(&mut self, wanted: Key) -> Option<&mut Connection> {
        let connection = self.slots.get_mut(wanted.slot as usize)?.as_mut()?;
        (key(connection.session) == wanted).then_some(connection)
    }

    pub fn len(&self) -> usize {
        self.count
    }
}

/// One send of what is left of `buffer` after its first `sent` bytes: how many bytes the socket took, and how many it was
/// given. Never waits.
#[inline]
pub fn send(socket: &Socket, buffer: &ReplyBuffer, sent: usize) -> io::Result<(usize, usize)> {
    const FLAGS: i32 = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    if buffer.shared.is_empty() {
        let bytes = &buffer.bytes[sent..];
        return Ok((socket.send_with_flags(bytes, FLAGS)?, bytes.len()));
    }
    let mut slices = [IoSlice::new(&[]); SEND_SLICES_MAX];
    let (count, bytes) = gather(buffer, sent, &mut slices);
    Ok((socket.send_vectored_with_flags(&slices[..count], FLAGS)?, bytes))
}

/// Points `slices` at the stream of `buffer` from byte `skip` on: how many slices, and how many bytes they hold.
fn gather<'a>(buffer: &'a ReplyBuffer, skip: usize, slices: &mut [IoSlice<'a>]) -> (usize, usize) {
    let (mut count, mut bytes, mut skip) = (0, 0, skip);
    // True: there is no place for another one.
    let mut add = |piece: &'a [u8]| {
        if skip >= piece.len() {
            skip -= piece.len();
            return false;
        }
        let piece = &piece[std::mem::take(&mut skip)..];
        slices[count] = IoSlice::new(piece);
        count += 1;
        bytes += piece.len();
        count == slices.len()
    };
    let mut from = 0;
    for (at, value) in &buffer.shared {
        if add(&buffer.bytes[from..*at]) || add(value) {
            return (count, bytes);
        }
        from = *at;
    }
    add(&buffer.bytes[from..]);
    (count, bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> ReplyBuffer {
        let mut buffer = ReplyBuffer::default();
        buffer.bytes.extend_from_slice(b"0123456789");
        buffer.shared.push((0, b"aa".to_vec().into()));
        buffer.shared.push((4, b"bbb".to_vec().into()));
        buffer.shared.push((4, b"c".to_vec().into()));
        buffer.shared.push((10, b"dd".to_vec().into()));
        buffer
    }

    #[test]
    fn gather_gives_the_stream_from_any_byte_on() {
        let buffer = sample();
        let all = buffer.to_vec();
        assert_eq!(all, b"aa0123bbbc456789dd");
        for places in [2, 3, 64] {
            for skip in 0..all.len() {
                let mut sent = skip;
                let mut rest = Vec::new();
                while sent < all.len() {
                    let mut slices = vec![IoSlice::new(&[]); places];
                    let (count, bytes) = gather(&buffer, sent, &mut slices);
                    assert!(count >= 1 && count <= places);
                    let before = rest.len();
                    slices[..count].iter().for_each(|slice| rest.extend_from_slice(slice));
                    assert_eq!(rest.len() - before, bytes);
                    sent += bytes;
                }
                assert_eq!(rest, &all[skip..], "from {skip} in {places} slices");
            }
        }
    }

    #[test]
    fn a_completion_of_an_earlier_session_finds_nothing() {
        let mut connections = Connections::default();
        let socket = || Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None).unwrap();
        let connection = |generation| Connection {
            socket: socket(),
            session: SessionId { slot: 2, generation },
            receive: Receive::Off,
            waits_writable: false,
            held_back: false,
            ended: false,
        };
        connections.insert(connection(1));
        assert!(connections.get_by_key(Key::new(2, 1)).is_some());
        assert!(connections.remove(SessionId { slot: 2, generation: 2 }).is_none());
        assert!(connections.remove(SessionId { slot: 2, generation: 1 }).is_some());
        connections.insert(connection(2));
        assert!(connections.get_by_key(Key::new(2, 1)).is_none());
        assert!(connections.get_by_key(Key::new(7, 1)).is_none());
        assert!(connections.get(SessionId { slot: 2, generation: 2 }).is_some());
        assert_eq!(connections.len(), 1);
    }
}
