//! Big values are not dropped by the shard: whatever gives one up, `Shard::poll_garbage` hands it out as the last reference.

use bytes::Bytes;
use torc_engine::limits::GARBAGE_VALUE_BYTES_MIN;
use torc_sim::{Connection, Shards, encode};

const BIG: usize = GARBAGE_VALUE_BYTES_MIN;

fn shards(count: usize) -> (Shards, Connection, Connection) {
    let mut shards = Shards::new(count);
    shards.keep_garbage = true;
    let (client, other) = (shards.connect(0), shards.connect(count - 1));
    (shards, client, other)
}

fn call(shards: &mut Shards, client: Connection, words: &[&[u8]]) -> Vec<u8> {
    shards.exchange(client, &encode(words))
}

fn set(shards: &mut Shards, client: Connection, key: &str, bytes: usize) {
    assert_eq!(call(shards, client, &[b"SET", key.as_bytes(), &vec![b'v'; bytes]]), b"+OK\r\n");
}

/// Everything handed out, which nobody else may hold.
fn poll_all(shards: &mut Shards) -> Vec<usize> {
    let mut lens = Vec::new();
    for shard in &mut shards.shards {
        let values: Vec<Bytes> = std::iter::from_fn(|| shard.poll_garbage()).collect();
        for value in values {
            assert!(value.is_unique(), "somebody else would have to free it");
            lens.push(value.len());
            shard.handle_garbage_freed(1, value.len() as u64);
        }
    }
    lens
}

#[test]
fn whatever_gives_a_big_value_up_hands_it_out() {
    type Story = (&'static str, &'static [&'static [&'static str]]);
    let stories: &[Story] = &[
        ("DEL", &[&["DEL", "k"]]),
        ("UNLINK", &[&["UNLINK", "k"]]),
        ("SET short", &[&["SET", "k", "v"]]),
        ("SET EX", &[&["SET", "k", "v", "EX", "10"]]),
        ("GETDEL", &[&["GETDEL", "k"]]),
        ("EXPIRE now", &[&["EXPIRE", "k", "-1"]]),
        ("PEXPIRE and the clock", &[&["PEXPIRE", "k", "1"]]),
        ("FLUSHALL", &[&["FLUSHALL"]]),
        ("FLUSHALL ASYNC", &[&["FLUSHALL", "ASYNC"]]),
        ("FLUSHDB after SWAPDB", &[&["SWAPDB", "0", "1"], &["SELECT", "1"], &["FLUSHDB"]]),
    ];
    for count in [1, 2] {
        for (name, commands) in stories {
            let (mut shards, client, other) = shards(count);
            set(&mut shards, client, "k", BIG);
            set(&mut shards, client, "small", BIG - 1);
            assert_eq!(poll_all(&mut shards), [], "{name}");
            for words in *commands {
                let words: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
                let reply = call(&mut shards, other, &words);
                assert!(!reply.starts_with(b"-"), "{name}: {}", reply.escape_ascii());
            }
            shards.advance(200);
            shards.advance(200);
            assert_eq!(poll_all(&mut shards), [BIG], "{name} on {count} shards");
        }
    }
}

#[test]
fn a_value_overwritten_with_a_big_one_is_handed_out_and_a_refused_one_too() {
    for count in [1, 2] {
        let (mut shards, client, _) = shards(count);
        set(&mut shards, client, "k", BIG);
        set(&mut shards, client, "k", BIG + 1);
        assert_eq!(poll_all(&mut shards), [BIG]);
        assert_eq!(call(&mut shards, client, &[b"SET", b"k", &vec![b'w'; BIG + 2], b"NX"]), b"$-1\r\n");
        assert_eq!(poll_all(&mut shards), [BIG + 2]);
    }
}

/// The client reads slowly what is overwritten meanwhile: it is the last to hold the value.
#[test]
fn a_value_that_only_a_reply_holds_is_handed_out_when_it_is_sent() {
    for count in [1, 2] {
        for leaves in [false, true] {
            let (mut shards, client, other) = shards(count);
            set(&mut shards, other, "k", BIG);
            shards.feed(client, &encode(&["GET", "k"]));
            shards.settle();
            assert_eq!(shards.read(client, 1000).len(), 1000);
            set(&mut shards, other, "k", 1);
            // The store has given its reference away, which is not the last.
            let handed: Vec<Bytes> =
                shards.shards.iter_mut().flat_map(|shard| std::iter::from_fn(|| shard.poll_garbage())).collect();
            assert_eq!(handed.len(), 1);
            assert!(!handed[0].is_unique());
            drop(handed);
            if leaves {
                shards.disconnect(client);
            } else {
                assert_eq!(shards.read(client, usize::MAX).len(), BIG + format!("${BIG}\r\n\r\n").len() - 1000);
            }
            let home = &mut shards.shards[client.home];
            let value = home.poll_garbage().expect("the reply's");
            assert!(value.is_unique() && value.len() == BIG);
        }
    }
}

/// A client that goes away in the middle of a big argument leaves it.
#[test]
fn an_argument_that_never_became_whole_is_handed_out() {
    let (mut shards, client, _) = shards(1);
    let whole = encode(&[&b"SET"[..], b"k", &vec![b'v'; 4 * BIG]]);
    shards.feed(client, &whole[..3 * BIG]);
    shards.disconnect(client);
    assert_eq!(poll_all(&mut shards).len(), 1);
}
