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

/// A file of this test's own in the folder for temporary files; its name is gone at once.
fn temporary_file(direct: bool) -> Arc<File> {
    use std::os::unix::fs::OpenOptionsExt;
    use std::sync::atomic::{AtomicU32, Ordering};
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let name = format!("torc-ring-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
    let path = std::env::temp_dir().join(name);
    let flags = if direct { libc::O_DIRECT } else { 0 };
    let options = |flags| File::options().read(true).write(true).create(true).custom_flags(flags).open(&path);
    let file = options(flags).or_else(|_| options(0)).unwrap();
    std::fs::remove_file(&path).unwrap();
    Arc::new(file)
}

/// 4 KiB of a byte at an address that O_DIRECT takes.
fn block(byte: u8) -> memmap2::MmapMut {
    let mut map = memmap2::MmapMut::map_anon(4096).unwrap();
    map.fill(byte);
    map
}

#[test]
fn ring_writes_files_and_makes_them_durable() {
    use std::os::unix::fs::FileExt;
    let mut ring = Ring::new().unwrap();
    for (direct, method) in [
        (false, None),
        (true, None),
        (false, Some(SyncMethod::Linked)),
        (true, Some(SyncMethod::Linked)),
        (true, Some(SyncMethod::Dsync)),
    ] {
        let file = temporary_file(direct);
        // More than the submission queue holds, so that linked ones meet its end.
        let count = if method == Some(SyncMethod::Linked) { RING_SUBMISSIONS } else { 20 };
        for index in 0..count {
            let (buffer, offset, key) = (Arc::new(block(index as u8)), index as u64 * 4096, Key::new(index, 1));
            match method {
                None => ring.write_at(&file, buffer, offset, key),
                Some(method) => ring.write_at_then_sync(&file, buffer, offset, method, key),
            }
        }
        let mut seen = vec![false; count as usize];
        for _ in 0..count {
            match next(&mut ring) {
                Completion::Written { key, result } => {
                    assert_eq!(result, Ok(()));
                    assert!(!std::mem::replace(&mut seen[key.slot as usize], true));
                }
                other => panic!("{other:?}"),
            }
        }
        ring.sync(&file, KEY);
        assert!(matches!(next(&mut ring), Completion::Synced { key: KEY, result: Ok(()) }));
        assert_eq!(ring.writes_under_way(), 0);
        let mut found = block(0);
        for index in 0..count {
            file.read_exact_at(&mut found, index as u64 * 4096).unwrap();
            assert!(found.iter().all(|&byte| byte == index as u8));
        }
    }
}

#[test]
fn ring_failed_writes_and_syncs_say_so() {
    let mut ring = Ring::new().unwrap();
    // One that takes nothing, and one that takes all and syncs nothing.
    for (path, step, errno) in
        [("/dev/full", WriteStep::Write, libc::ENOSPC), ("/dev/null", WriteStep::Sync, libc::EINVAL)]
    {
        let file = Arc::new(File::options().write(true).open(path).unwrap());
        ring.write_at_then_sync(&file, Arc::new(vec![1u8; 4096]), 0, SyncMethod::Linked, KEY);
        match next(&mut ring) {
            Completion::Written { key: KEY, result: Err(fault) } => {
                assert_eq!(fault, WriteFault { step, errno: Errno(errno) });
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(ring.writes_under_way(), 0);
}

#[test]
fn ring_runs_its_workers_where_it_is_told() {
    let mut ring = Ring::new().unwrap();
    ring.run_workers_on(&crate::place::others(&[])).unwrap();
    let file = temporary_file(false);
    ring.sync(&file, KEY);
    assert!(matches!(next(&mut ring), Completion::Synced { key: KEY, result: Ok(()) }));
    ring.run_workers_on(&[]).unwrap();
}
