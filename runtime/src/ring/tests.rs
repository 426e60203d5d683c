//! Rings against the real kernel, over socket pairs: what arrives, what runs out, what is cancelled.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use super::*;
use crate::limits::{BUFFER_BYTES, BUFFERS_MAX, BUFFERS_START};

const KEY: Key = Key { slot: 3, generation: 7 };

/// Waits for the next completion.
fn next(ring: &mut Ring) -> Completion {
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        if let Some(completion) = ring.next_completion() {
            return completion;
        }
        assert!(Instant::now() < deadline, "no completion");
        ring.wait(Duration::from_millis(100)).unwrap();
    }
}

fn received(ring: &mut Ring) -> (Vec<u8>, BufferId, bool) {
    match next(ring) {
        Completion::Received { key, result: Ok(Some(received)), more } => {
            assert_eq!(key, KEY);
            let bytes = ring.arena()[received.start as usize..][..received.len as usize].to_vec();
            (bytes, received.buffer, more)
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn ring_receives_again_and_again_then_the_end() {
    let (mut client, server) = UnixStream::pair().unwrap();
    let mut ring = Ring::new().unwrap();
    ring.receive_multishot(&server, KEY);
    // More rounds than buffers: they must come back.
    for round in 0..BUFFERS_START as usize * 3 {
        let text = format!("round {round}");
        client.write_all(text.as_bytes()).unwrap();
        let (bytes, buffer, more) = received(&mut ring);
        assert_eq!(bytes, text.as_bytes());
        assert!(more);
        ring.give_back(buffer);
        ring.publish_buffers();
    }
    drop(client);
    match next(&mut ring) {
        Completion::Received { key: KEY, result: Ok(None), more: false } => {}
        other => panic!("{other:?}"),
    }
    assert_eq!(ring.buffers_free(), BUFFERS_START as usize);
}

#[test]
fn ring_without_buffers_ends_the_receive_and_growth_helps() {
    let (mut client, server) = UnixStream::pair().unwrap();
    server.set_nonblocking(true).unwrap();
    let mut ring = Ring::new().unwrap();
    ring.receive_multishot(&server, KEY);
    let mut held = Vec::new();
    for _ in 0..BUFFERS_START {
        client.write_all(b"x").unwrap();
        let (_, buffer, more) = received(&mut ring);
        assert!(more);
        held.push(buffer);
    }
    assert_eq!(ring.buffers_free(), 0);
    client.write_all(b"left over").unwrap();
    match next(&mut ring) {
        Completion::Received { result: Err(Errno(libc::ENOBUFS)), more: false, .. } => {}
        other => panic!("{other:?}"),
    }
    ring.want_buffers(BUFFERS_START as usize + 1);
    ring.publish_buffers();
    ring.receive_multishot(&server, KEY);
    let (bytes, buffer, _) = received(&mut ring);
    assert_eq!(bytes, b"left over");
    held.push(buffer);

    // Fewer again: what comes back beyond the number is kept.
    ring.want_buffers(0);
    for buffer in held {
        ring.give_back(buffer);
    }
    ring.publish_buffers();
    assert_eq!((ring.buffers_active(), ring.buffers_free()), (BUFFERS_START as usize, BUFFERS_START as usize));
}

#[test]
fn ring_all_buffers_hold_their_own_bytes() {
    let (mut client, server) = UnixStream::pair().unwrap();
    let mut ring = Ring::new().unwrap();
    ring.want_buffers(BUFFERS_MAX as usize);
    ring.publish_buffers();
    ring.receive_multishot(&server, KEY);
    let mut held = Vec::new();
    for index in 0..BUFFERS_MAX as usize + 1 {
        if index == BUFFERS_MAX as usize {
            break;
        }
        client.write_all(&(index as u32).to_le_bytes()).unwrap();
        match next(&mut ring) {
            Completion::Received { result: Ok(Some(received)), .. } => held.push(received),
            other => panic!("{other:?}"),
        }
    }
    for (index, received) in held.iter().enumerate() {
        let bytes = &ring.arena()[received.start as usize..][..received.len as usize];
        assert_eq!(bytes, (index as u32).to_le_bytes());
        assert_eq!(received.start as usize % BUFFER_BYTES, 0);
    }
}

#[test]
fn ring_cancelled_receive_says_so() {
    let (_client, server) = UnixStream::pair().unwrap();
    let mut ring = Ring::new().unwrap();
    ring.receive_multishot(&server, KEY);
    ring.submit().unwrap();
    ring.cancel_receive(KEY);
    match next(&mut ring) {
        Completion::Received { key: KEY, result: Err(Errno(libc::ECANCELED)), more: false } => {}
        other => panic!("{other:?}"),
    }
    // Cancelling what has ended is not an event.
    ring.cancel_receive(KEY);
    ring.wait(Duration::from_millis(10)).unwrap();
    assert!(ring.next_completion().is_none());
}

#[test]
fn ring_takes_more_operations_than_its_queue_holds() {
    let mut ring = Ring::new().unwrap();
    let pairs: Vec<_> = (0..100).map(|_| UnixStream::pair().unwrap()).collect();
    let count = RING_SUBMISSIONS * 3;
    for slot in 0..count {
        ring.poll_writable(&pairs[slot as usize % 100].0, Key::new(slot, 1));
    }
    let mut seen = vec![false; count as usize];
    for _ in 0..count {
        match next(&mut ring) {
            Completion::Writable { key } => assert!(!std::mem::replace(&mut seen[key.slot as usize], true)),
            other => panic!("{other:?}"),
        }
    }
    assert!(ring.is_submitted() && ring.is_quiet());
}

#[test]
fn ring_message_to_a_closed_descriptor_is_undelivered() {
    let mut ring = Ring::new().unwrap();
    ring.wake(-1, 5);
    match next(&mut ring) {
        Completion::Undelivered { peer: 5, .. } => {}
        other => panic!("{other:?}"),
    }
}
