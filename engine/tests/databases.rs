//! SWAPDB, FLUSHALL and FLUSHDB over shards: all shards do them in one order, other clients go on meanwhile, and a client
//! means by a number whatever that number leads to now. Frames are moved by hand where their order is the point.

use torc_engine::limits;
use torc_sim::{Connection, Shards, encode};

/// Keys that both shards have some of.
fn keys() -> Vec<String> {
    (0..40).map(|number| format!("key:{number}")).collect()
}

fn fill(shards: &mut Shards, client: Connection, value: &str) {
    for key in keys() {
        assert_eq!(shards.command(client, &["SET", &key, value]), "+OK\r\n");
    }
}

fn values(shards: &mut Shards, client: Connection) -> Vec<String> {
    let mut values: Vec<String> = keys().iter().map(|key| shards.command(client, &["GET", key])).collect();
    values.sort();
    values.dedup();
    values
}

#[test]
fn who_has_selected_a_swapped_database_sees_the_other_data_at_once() {
    let mut shards = Shards::new(2);
    let (one, other) = (shards.connect(0), shards.connect(1));
    shards.command(other, &["SELECT", "5"]);
    fill(&mut shards, one, "zero");
    fill(&mut shards, other, "five");
    // From either home.
    for (by, now_of_one, now_of_other) in [(other, "five", "zero"), (one, "zero", "five")] {
        assert_eq!(shards.command(by, &["SWAPDB", "0", "5"]), "+OK\r\n");
        assert_eq!(values(&mut shards, one), [format!("$4\r\n{now_of_one}\r\n")]);
        assert_eq!(values(&mut shards, other), [format!("$4\r\n{now_of_other}\r\n")]);
    }
    assert_eq!(shards.command(one, &["SWAPDB", "0", "16"]), "-ERR DB index is out of range\r\n");
    shards.assert_at_rest();
}

/// Two clients of two homes say at the same moment what does not commute. Whoever shard 0 hears first, it is the same on
/// both shards: either all keys of database 0 come through or none.
#[test]
fn a_swap_and_a_flush_at_the_same_moment_come_in_one_order_everywhere() {
    for first in [0, 1] {
        let mut shards = Shards::new(2);
        let clients = [shards.connect(0), shards.connect(1)];
        fill(&mut shards, clients[0], "v");
        shards.feed(clients[first], &encode(&["SWAPDB", "0", "1"]));
        shards.feed(clients[1 - first], &encode(&["FLUSHDB"]));
        shards.settle();
        for client in clients {
            assert_eq!(shards.read(client, 100), b"+OK\r\n");
            shards.command(client, &["SELECT", "1"]);
        }
        let left = values(&mut shards, clients[0]);
        assert!(left == ["$-1\r\n"] || left == ["$1\r\nv\r\n"], "{left:?}");
        shards.assert_at_rest();
    }
}

/// While one client flushes again and again, another writes: its replies come, and what it wrote after the last flush was
/// answered is there.
#[test]
fn a_client_writes_while_another_flushes() {
    for command in [&["FLUSHALL"][..], &["FLUSHALL", "SYNC"], &["FLUSHDB", "ASYNC"]] {
        let mut shards = Shards::new(2);
        let (flusher, writer) = (shards.connect(1), shards.connect(0));
        let writes: Vec<u8> = keys().iter().flat_map(|key| encode(&["SET", key, "v"])).collect();
        for round in 0..20 {
            shards.feed(writer, &writes);
            shards.feed(flusher, &encode(command));
            if round % 2 == 0 {
                shards.settle();
            }
            shards.feed(writer, &writes);
            shards.settle();
            assert_eq!(shards.read(flusher, 100), b"+OK\r\n");
            assert_eq!(shards.read(writer, usize::MAX), b"+OK\r\n".repeat(2 * keys().len()));
        }
        assert_eq!(shards.command(flusher, command), "+OK\r\n");
        fill(&mut shards, writer, "last");
        assert_eq!(shards.command(writer, &["DBSIZE"]), format!(":{}\r\n", keys().len()));
        shards.assert_at_rest();
    }
}

/// With SYNC the reply comes when the memory is free, with ASYNC before. Others are served meanwhile either way.
#[test]
fn only_who_asks_for_sync_waits_for_the_memory() {
    const KEYS: usize = 60_000;
    for (word, waits) in [("SYNC", true), ("ASYNC", false)] {
        let mut shards = Shards::new(2);
        let (flusher, other) = (shards.connect(1), shards.connect(0));
        let mut all = Vec::new();
        // Enough for many slices on each shard.
        let value = "v".repeat(1_000);
        (0..KEYS).for_each(|number| all.extend(encode(&["SET", &format!("key:{number}"), &value])));
        shards.exchange(other, &all);
        let pending = |shards: &Shards| -> u64 {
            shards.shards.iter().map(|shard| shard.garbage_counters().pending_objects).sum()
        };
        shards.feed(flusher, &encode(&["FLUSHALL", word]));
        let mut turns_before_reply = 0;
        while shards.unread(flusher) == 0 {
            turns_before_reply += 1;
            for (from, to) in [(0, 1), (1, 0)] {
                if let Some(frame) = shards.take_frame(from, to) {
                    shards.give_frame(from, to, frame);
                }
                shards.turn(to, &[]);
            }
            shards.feed(other, &encode(&["PING"]));
            assert_eq!(shards.read(other, 100), b"+PONG\r\n", "after {turns_before_reply} turns");
        }
        assert_eq!(pending(&shards) == 0, waits, "{word}: {} left", pending(&shards));
        shards.settle();
        let freed: u64 = shards.shards.iter().map(|shard| shard.garbage_counters().freed_objects).sum();
        assert_eq!((pending(&shards), freed), (0, KEYS as u64));
        assert_eq!(shards.read(flusher, 100), b"+OK\r\n");
        shards.assert_at_rest();
    }
}

/// KEYS goes on in slices; a swap meanwhile does not lead it into the other keyspace, and a flush ends it.
#[test]
fn keys_under_way_stays_with_its_keyspace() {
    let count = limits::KEYS_SLICE_ENTRIES * 5;
    for (command, all) in [(&["SWAPDB", "0", "1"][..], true), (&["FLUSHALL", "ASYNC"], false)] {
        let mut shards = Shards::new(1);
        let (asker, other) = (shards.connect(0), shards.connect(0));
        for number in 0..count {
            shards.command(other, &["SET", &number.to_string(), "v"]);
        }
        shards.feed(asker, &encode(&["KEYS", "*"]));
        assert_eq!(shards.unread(asker), 0);
        shards.feed(other, &encode(command));
        shards.settle();
        let reply = shards.read(asker, usize::MAX);
        let found: usize = std::str::from_utf8(&reply[1..]).unwrap().split('\r').next().unwrap().parse().unwrap();
        assert_eq!(found == count, all, "{found} of {count} after {command:?}");
    }
}

/// A client sets a key of shard 1 from shard 2 and flushes in the same breath. The flush comes to shard 1 by way of shard 0, and
/// the SET's frame may be late.
#[test]
fn a_flush_does_not_overtake_what_the_same_client_sent_before_it() {
    for flush in ["FLUSHALL", "FLUSHDB"] {
        let mut shards = Shards::new(3);
        let client = shards.connect(2);
        let route = torc_engine::route::Route::new(3);
        let key = keys().into_iter().find(|key| route.owner(key.as_bytes()).0 == 1).expect("a key of shard 1");
        let requests = [encode(&["SET", &key, "v"]), encode(&[flush]), encode(&["GET", &key])].concat();
        shards.feed(client, &requests);
        let late = shards.take_frame(2, 1).expect("the SET");
        shards.settle();
        shards.give_frame(2, 1, late);
        shards.settle();
        assert_eq!(shards.read(client, 100), b"+OK\r\n+OK\r\n$-1\r\n");
        shards.assert_at_rest();
    }
}
