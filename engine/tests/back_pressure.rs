//! What happens when somebody does not keep up: a client that does not read, a shard that does not answer, too many
//! commands that take long. Always: whoever asks for more is not read for a while, nothing is lost, and everything goes
//! on by itself. And what has an end: the limits past which a client is closed.
//!
//! `torc_sim::Shards` plays the runtime; see `life_of_a_command.rs`.

use torc_engine::limits::{
    CHOKED_MS, CREDIT_BYTES, CREDIT_REQUESTS, KEYS_SLICE_ENTRIES, OUTPUT_PAUSE_BYTES, SCAN_PAGE_ENTRIES_MAX,
    SESSION_OUTSTANDING_MAX, WAITERS_MAX,
};
use torc_engine::shard::Close;
use torc_sim::{Connection, Shards, encode};

/// Of two shards, 1 owns `user:1` and 0 owns `user:7`.
const KEY_OF_1: &str = "user:1";
const KEY_OF_0: &str = "user:7";

fn repeated(words: &[&str], count: usize) -> Vec<u8> {
    encode(words).repeat(count)
}

/// Reads until nothing comes any more.
fn read_all(shards: &mut Shards, connection: Connection) -> Vec<u8> {
    shards.exchange(connection, b"")
}

#[test]
fn a_client_that_does_not_read_is_not_read_and_goes_on_when_it_reads() {
    let mut shards = Shards::new(1);
    let client = shards.connect(0);
    let value = "v".repeat(10_000);
    shards.command(client, &["SET", "key", &value]);
    let count = 1_000;
    shards.feed(client, &repeated(&["GET", "key"], count));
    // One batch may pass the bound, not more; the rest of the input waits.
    let held = shards.unread(client);
    assert!((OUTPUT_PAUSE_BYTES..5 * OUTPUT_PAUSE_BYTES).contains(&held), "{held} bytes are held");
    assert_eq!(shards.shards[0].outstanding(), 0);

    // More input is kept, and past some of it the socket is not read.
    assert!(shards.flow(client).read, "a little more may come");
    shards.feed(client, &repeated(&["ECHO", &value], 8));
    assert!(!shards.flow(client).read);
    assert!(!shards.shards[0].has_work(), "a shard does not spin because of a client that does not read");

    // It reads, in pieces: everything comes, in order, and the socket is read again.
    let mut got = Vec::new();
    for _ in 0..100_000 {
        let more = shards.read(client, 70_001);
        shards.settle();
        if more.is_empty() {
            break;
        }
        got.extend_from_slice(&more);
    }
    let reply = format!("$10000\r\n{value}\r\n");
    assert!(got == reply.repeat(count + 8).as_bytes(), "all replies, whole and in order");
    assert!(shards.flow(client).read);
    assert_eq!(shards.shards[0].buffers_bytes(), 0);
    shards.assert_at_rest();
}

#[test]
fn the_commands_of_one_client_under_way_are_bounded() {
    let mut shards = Shards::new(2);
    let client = shards.connect(0);
    let count = 10_000;
    shards.feed(client, &repeated(&["INCR", KEY_OF_1], count));
    assert_eq!(shards.shards[0].outstanding() as u64, SESSION_OUTSTANDING_MAX);
    assert!(!shards.flow(client).read, "what is not parsed is more than is held without a pause");
    let got = read_all(&mut shards, client);
    let wanted: String = (1..=count).map(|value| format!(":{value}\r\n")).collect();
    assert!(got == wanted.as_bytes());
    assert!(shards.flow(client).read);
    shards.assert_at_rest();
}

#[test]
fn a_shard_that_does_not_answer_stops_the_readers_of_the_other_and_nothing_is_lost() {
    let mut shards = Shards::new(2);
    let per_client = SESSION_OUTSTANDING_MAX as usize;
    let clients: Vec<Connection> = (0..6).map(|_| shards.connect(0)).collect();
    for client in &clients {
        shards.feed(*client, &repeated(&["INCR", KEY_OF_1], per_client));
    }
    // The credit is used up, not exceeded, and whoever comes now waits: even with a command for its own shard, because
    // what comes after it may not be one.
    assert_eq!(shards.shards[0].outstanding(), CREDIT_REQUESTS as usize);
    shards.feed(clients[5], b"PING\r\n");
    assert_eq!(shards.unread(clients[5]), 0);
    let other = shards.connect(0);
    shards.feed(other, b"PING\r\n");
    assert_eq!(shards.unread(other), 0);
    shards.turn(0, &[]);
    assert!(!shards.shards[0].has_work(), "a shard does not spin because of another one that does not answer");

    // Shard 1 answers.
    shards.settle();
    let mut replies = 0;
    for client in &clients {
        let got = String::from_utf8(read_all(&mut shards, *client)).expect("ASCII");
        let values: Vec<u64> = got.lines().filter_map(|line| line.strip_prefix(':')?.parse().ok()).collect();
        assert!(values.is_sorted(), "one client's commands take effect in order");
        replies += values.len();
    }
    assert_eq!(replies, 6 * per_client);
    assert_eq!(read_all(&mut shards, other), b"+PONG\r\n");
    assert_eq!(shards.command(other, &["GET", KEY_OF_1]), format!("$5\r\n{}\r\n", 6 * per_client));
    shards.assert_at_rest();
}

#[test]
fn the_bytes_under_way_are_bounded_too() {
    let mut shards = Shards::new(2);
    let client = shards.connect(0);
    let value = "v".repeat(1 << 20);
    let count = 40;
    shards.feed(client, &repeated(&["SET", KEY_OF_1, &value], count));
    let sent = shards.shards[0].outstanding() as u64;
    assert_eq!(sent, CREDIT_BYTES >> 20, "one request may pass the bound, which is then full");
    assert_eq!(read_all(&mut shards, client), b"+OK\r\n".repeat(count));
    shards.assert_at_rest();
}

#[test]
fn two_shards_out_of_credit_still_answer_each_other() {
    let mut shards = Shards::new(2);
    let clients: Vec<Connection> = (0..10).map(|number| shards.connect(number % 2)).collect();
    for (number, client) in clients.iter().enumerate() {
        let key = if number % 2 == 0 { KEY_OF_1 } else { KEY_OF_0 };
        shards.feed(*client, &repeated(&["INCR", key], 5_000));
    }
    assert_eq!(shards.shards[0].outstanding(), CREDIT_REQUESTS as usize);
    assert_eq!(shards.shards[1].outstanding(), CREDIT_REQUESTS as usize);
    for client in &clients {
        let got = read_all(&mut shards, *client);
        assert_eq!(got.iter().filter(|&&byte| byte == b':').count(), 5_000);
    }
    shards.assert_at_rest();
}

/// Enough keys that KEYS takes several slices.
fn with_many_keys(shards: &mut Shards, client: Connection) -> usize {
    let count = KEYS_SLICE_ENTRIES * 8;
    let pairs: Vec<String> = (0..count).flat_map(|number| [format!("many:{number}"), "1".to_owned()]).collect();
    let mut words = vec!["MSET"];
    words.extend(pairs.iter().map(String::as_str));
    assert_eq!(shards.command(client, &words), "+OK\r\n");
    count
}

#[test]
fn keys_goes_on_in_slices_and_keeps_its_place_in_the_order() {
    for shard_count in [1, 2] {
        let mut shards = Shards::new(shard_count);
        let client = shards.connect(0);
        let count = with_many_keys(&mut shards, client);
        shards.feed(client, b"PING before\r\nKEYS many:*\r\nPING after\r\n");
        assert_eq!(shards.read(client, 1 << 20), b"$6\r\nbefore\r\n");
        assert!(shards.shards[0].has_work(), "KEYS is not done");
        // Somebody else is served between its slices.
        let other = shards.connect(0);
        shards.feed(other, b"PING\r\n");
        assert_eq!(shards.read(other, 100), b"+PONG\r\n");
        let got = String::from_utf8(read_all(&mut shards, client)).expect("ASCII");
        assert!(got.starts_with(&format!("*{count}\r\n")), "{}", &got[..20]);
        assert!(got.ends_with("$5\r\nafter\r\n"));
        assert_eq!(got.matches("many:").count(), count);
        shards.assert_at_rest();
    }
}

#[test]
fn clients_that_wait_because_of_slow_commands_of_others_go_on_after_them() {
    let mut shards = Shards::new(2);
    let slow = shards.connect(1);
    with_many_keys(&mut shards, slow);
    let patient = shards.connect(0);
    // Slow commands of clients of shard 1 fill the list of shard 0.
    let slow: Vec<Connection> = (0..WAITERS_MAX).map(|_| shards.connect(1)).collect();
    for client in &slow {
        shards.feed(*client, &encode(&["KEYS", "nothing"]));
    }
    let frame = shards.take_frame(1, 0).expect("KEYS on shard 0");
    shards.give_frame(1, 0, frame);
    shards.turn(0, &[]);
    shards.feed(patient, b"PING\r\n");
    shards.feed(patient, b"PING\r\n");
    // However many of them are done in the meantime, in the end the others go on.
    let mut got = Vec::new();
    shards.settle();
    got.extend_from_slice(&shards.read(patient, 100));
    assert_eq!(got, b"+PONG\r\n+PONG\r\n");
    for client in slow {
        assert_eq!(read_all(&mut shards, client), b"*0\r\n");
    }
    shards.assert_at_rest();
}

#[test]
fn what_follows_a_slow_command_waits_for_it() {
    for shard_count in [1, 2] {
        let mut shards = Shards::new(shard_count);
        let client = shards.connect(0);
        let count = with_many_keys(&mut shards, client);
        // One KEYS at a time, however many were asked for, and none sees what comes after it.
        let input = [repeated(&["KEYS", "many:*"], 200), encode(&["FLUSHALL"]), encode(&["KEYS", "*"])].concat();
        shards.feed(client, &input);
        shards.settle();
        let held = shards.unread(client);
        assert!(held < 2 * OUTPUT_PAUSE_BYTES, "{held} bytes are held");
        let got = String::from_utf8(read_all(&mut shards, client)).expect("ASCII");
        assert_eq!(got.matches("many:").count(), 200 * count);
        assert!(got.ends_with("\r\n+OK\r\n*0\r\n"));
        shards.assert_at_rest();
    }
}

#[test]
fn what_follows_a_scan_does_not_overtake_it() {
    let mut shards = Shards::new(2);
    let client = shards.connect(0);
    shards.command(client, &["MSET", KEY_OF_0, "1", KEY_OF_1, "1"]);
    let input = [encode(&["SCAN", "0"]), encode(&["DEL", KEY_OF_1]), encode(&["SET", "new", "1"])].concat();
    let got = String::from_utf8(shards.exchange(client, &input)).expect("ASCII");
    assert_eq!(got, "*2\r\n$1\r\n0\r\n*2\r\n$6\r\nuser:7\r\n$6\r\nuser:1\r\n:1\r\n+OK\r\n");
    shards.assert_at_rest();
}

#[test]
fn one_page_of_scan_is_bounded_whatever_its_count() {
    let mut shards = Shards::new(2);
    let client = shards.connect(0);
    for part in 0..4 {
        let pairs: Vec<String> =
            (0..SCAN_PAGE_ENTRIES_MAX).flat_map(|number| [format!("{part}:{number}"), "1".to_owned()]).collect();
        let mut words = vec!["MSET"];
        words.extend(pairs.iter().map(String::as_str));
        shards.command(client, &words);
    }
    let page = shards.command(client, &["SCAN", "0", "COUNT", "9223372036854775807"]);
    assert!(page.matches("\r\n$").count() < 3 * SCAN_PAGE_ENTRIES_MAX);
    assert!(!page.starts_with("*2\r\n$1\r\n0\r\n"), "there is more");
}

#[test]
fn a_reply_that_would_be_too_long_is_refused() {
    for keys in [&[KEY_OF_1][..], &[KEY_OF_0, KEY_OF_1]] {
        let mut shards = Shards::new(2);
        let client = shards.connect(0);
        let value = "v".repeat(64 << 20);
        for key in keys {
            shards.command(client, &["SET", key, &value]);
        }
        let mut words = vec!["MGET"];
        words.extend((0..keys.len() * 20).map(|number| keys[number % keys.len()]));
        let reply = shards.command(client, &words);
        assert!(reply.starts_with("-ERR the reply would be longer"), "{}", &reply[..50]);
        assert_eq!(shards.command(client, &["PING"]), "+PONG\r\n");
    }
}

#[test]
fn everything_that_a_client_holds_alone_is_counted() {
    let mut shards = Shards::new(1);
    let client = shards.connect(0);
    let text = "v".repeat(1 << 20);
    shards.command(client, &["CLIENT", "SETNAME", &text]);
    assert!(shards.shards[0].buffers_bytes() >= 1 << 20);
    shards.command(client, &["RESET"]);
    // A reply that nobody else holds.
    for word in ["ECHO", "PING"] {
        shards.feed(client, &encode(&[word, &text]));
        let held = shards.shards[0].buffers_bytes();
        assert!(held >= 1 << 20, "{held} bytes are counted");
        assert!(held < 3 << 20, "{held}");
        read_all(&mut shards, client);
    }
}

/// A value that is overwritten or removed while a client waits to be sent it is memory of that client's.
#[test]
fn values_that_only_a_reply_holds_are_counted() {
    let mut shards = Shards::with_settings(2, &[("maxmemory-clients", &["3mb"])]);
    let writer = shards.connect(0);
    let held = |shards: &Shards| shards.shards.iter().map(|shard| shard.buffers_bytes()).sum::<u64>();
    let tick = |shards: &mut Shards, shard: usize| {
        let wake = shards.shards[shard].next_wake().expect("a client waits to be sent a value");
        shards.advance(wake.0.saturating_sub(shards.now().0));
    };
    let value = "v".repeat(1 << 20);
    let ends: [&[&str]; 4] =
        [&["SET", KEY_OF_0, "short"], &["DEL", KEY_OF_0], &["FLUSHALL"], &["APPEND", KEY_OF_0, "x"]];
    for home in [0, 1] {
        let reader = shards.connect(home);
        for end in ends {
            shards.command(writer, &["SET", KEY_OF_0, &value]);
            shards.feed(reader, &encode(&["GET", KEY_OF_0]));
            shards.settle();
            let before = held(&shards);
            assert!(before < 1 << 20, "{before} bytes are counted of a value that the store holds");
            shards.command(writer, end);
            tick(&mut shards, home);
            let after = held(&shards);
            assert!((1 << 20..2 << 20).contains(&after), "{after} bytes after {end:?}");
            assert!(read_all(&mut shards, reader).len() > 1 << 20);
            assert_eq!(held(&shards), 0);
        }
        tick(&mut shards, home);
        assert_eq!(shards.shards[home].next_wake(), None, "a shard without such values sleeps");
    }
    // Too much of it: the biggest holder is not read, then closed; who reads what the store holds is left alone.
    let (hog, innocent) = (shards.connect(1), shards.connect(1));
    for part in 0..40 {
        shards.command(writer, &["SET", &format!("{{{KEY_OF_0}}}{part}"), &value[..100_000]]);
    }
    let words: Vec<String> = (0..40).map(|part| format!("{{{KEY_OF_0}}}{part}")).collect();
    shards.feed(hog, &encode(&[&["MGET".to_owned()], &words[..]].concat()));
    shards.command(writer, &["SET", KEY_OF_0, &value]);
    shards.feed(innocent, &encode(&["GET", KEY_OF_0]));
    shards.settle();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    shards.command(writer, &[&["DEL"], &words[..]].concat());
    tick(&mut shards, 1);
    assert!(!shards.flow(hog).read && shards.flow(innocent).read);
    shards.advance(CHOKED_MS);
    assert_eq!((shards.flow(hog).close, shards.flow(innocent).close), (Close::Now, Close::No));
}

/// Two clients change one setting at the same moment, each on its own shard: in the end all shards hold the same.
#[test]
fn settings_are_the_same_on_all_shards_whoever_changes_them() {
    for first in 0..3 {
        let mut shards = Shards::new(3);
        let clients = [shards.connect(0), shards.connect(1), shards.connect(2)];
        for (client, timeout) in clients.iter().zip(["10", "20", "30"]) {
            shards.feed(*client, &encode(&["CONFIG", "SET", "timeout", timeout]));
        }
        // What one of them sends arrives before anything else moves.
        for to in 0..3 {
            if let Some(frame) = shards.take_frame(first, to) {
                shards.give_frame(first, to, frame);
                shards.turn(to, &[]);
            }
        }
        shards.settle();
        let timeouts: Vec<u64> = shards.shards.iter().map(|shard| shard.config().timeout_s).collect();
        assert!(timeouts.iter().all(|timeout| *timeout == timeouts[0]), "{timeouts:?}");
        for client in clients {
            assert_eq!(shards.read(client, 100), b"+OK\r\n");
        }
        // A change that is refused is refused once, and changes nothing anywhere.
        let refused = shards.command(clients[2], &["CONFIG", "SET", "timeout", "no"]);
        assert!(refused.starts_with("-ERR CONFIG SET failed"), "{refused}");
        shards.assert_at_rest();
    }
}

#[test]
fn settings_take_effect_between_pipelined_commands() {
    for shard_count in [1, 2] {
        let mut shards = Shards::new(shard_count);
        let client = shards.connect(0);
        let long = "x".repeat(20_000);
        let input = [
            encode(&["CONFIG", "SET", "timeout", "77"]),
            encode(&["CONFIG", "GET", "timeout"]),
            encode(&["SET", KEY_OF_0, "1"]),
            encode(&["CONFIG", "SET", "timeout", "78"]),
            encode(&["ECHO", &long]),
            encode(&["GET", KEY_OF_0]),
        ]
        .concat();
        let got = String::from_utf8(shards.exchange(client, &input)).expect("ASCII");
        let wanted = format!("+OK\r\n*2\r\n$7\r\ntimeout\r\n$2\r\n77\r\n+OK\r\n+OK\r\n$20000\r\n{long}\r\n$1\r\n1\r\n");
        assert!(got == wanted, "{}", &got[..100]);
    }
}

/// A client with more unsent output than `bytes`.
fn hold_output(shards: &mut Shards, client: Connection, bytes: usize) {
    let value = "v".repeat(10_000);
    shards.feed(client, &repeated(&["ECHO", &value], bytes / 10_000 + 1));
    assert!(shards.unread(client) > bytes);
}

#[test]
fn past_the_hard_limit_of_output_a_client_is_closed_at_once() {
    let limit: &[&str] = &["normal", "200000", "100000", "10"];
    let mut shards = Shards::with_settings(1, &[("client-output-buffer-limit", limit)]);
    let (client, other) = (shards.connect(0), shards.connect(0));
    hold_output(&mut shards, client, 150_000);
    assert_eq!(shards.flow(client).close, Close::No);
    hold_output(&mut shards, client, 200_000);
    assert_eq!(shards.flow(client).close, Close::Now);
    shards.disconnect(client);
    assert_eq!(shards.command(other, &["PING"]), "+PONG\r\n");
    assert_eq!(shards.shards[0].buffers_bytes(), 0);
}

#[test]
fn past_the_soft_limit_of_output_a_client_is_closed_when_its_time_is_up() {
    let limit: &[&str] = &["normal", "200000", "100000", "10"];
    let mut shards = Shards::with_settings(1, &[("client-output-buffer-limit", limit)]);
    let (reader, sleeper) = (shards.connect(0), shards.connect(0));
    hold_output(&mut shards, reader, 150_000);
    hold_output(&mut shards, sleeper, 150_000);
    while shards.shards[0].poll_session().is_some() {}
    shards.advance(6_000);
    shards.read(reader, 100_000);
    // From here on nothing is heard of the sleeper. The shard must ask for a turn itself.
    for _ in 0..60 {
        if shards.is_closing(sleeper) {
            break;
        }
        let wake = shards.shards[0].next_wake().expect("a client is over its limit");
        shards.advance(wake.0.saturating_sub(shards.now().0).max(100));
    }
    assert_eq!(shards.flow(sleeper).close, Close::Now);
    assert_eq!(shards.flow(reader).close, Close::No);
}

#[test]
fn past_the_limit_of_all_clients_the_biggest_is_not_read_and_then_closed() {
    let mut shards = Shards::with_settings(1, &[("maxmemory-clients", &["3mb"])]);
    let (small, big) = (shards.connect(0), shards.connect(0));
    let unfinished = |bytes: usize| [b"*2\r\n$4\r\nECHO\r\n$8000000\r\n".to_vec(), vec![b'v'; bytes]].concat();
    shards.feed(small, &unfinished(200_000));
    shards.feed(big, &unfinished(4_000_000));
    assert!(shards.flow(small).read);
    assert_eq!((shards.flow(big).read, shards.flow(big).close), (false, Close::No));
    // A turn later nothing has changed: it is given time. The time being up, it is closed.
    shards.turn(0, &[]);
    assert_eq!(shards.flow(big).close, Close::No);
    assert!(shards.shards[0].next_wake().is_some());
    shards.advance(CHOKED_MS);
    assert_eq!(shards.flow(big).close, Close::Now);
    shards.disconnect(big);
    shards.advance(CHOKED_MS);
    assert!(shards.flow(small).read, "who was not read because of the other is read again");
}

#[test]
fn a_client_that_was_not_read_because_of_the_limit_of_all_is_read_again() {
    let mut shards = Shards::with_settings(1, &[("maxmemory-clients", &["3mb"])]);
    let client = shards.connect(0);
    hold_output(&mut shards, client, 950_000);
    let hog = shards.connect(0);
    shards.feed(hog, &[b"*2\r\n$4\r\nECHO\r\n$3500000\r\n".to_vec(), vec![b'v'; 3_000_000]].concat());
    assert!(!shards.flow(hog).read);
    // What was already on its way completes the request, and the client reads the reply.
    shards.feed(hog, &[vec![b'v'; 500_000], b"\r\n".to_vec()].concat());
    shards.read(hog, usize::MAX);
    shards.read(client, usize::MAX);
    while shards.shards[0].poll_session().is_some() {}
    for _ in 0..5 {
        let wake = shards.shards[0].next_wake().expect("a client is not read");
        shards.advance(wake.0.saturating_sub(shards.now().0).max(CHOKED_MS / 2));
        if shards.flow(hog).read {
            break;
        }
    }
    assert!(shards.flow(hog).read);
    assert_eq!(shards.shards[0].poll_session(), Some(hog.session), "the runtime is told");
    assert_eq!(shards.command(hog, &["PING"]), "+PONG\r\n");
}

#[test]
fn a_client_that_says_nothing_for_too_long_is_closed() {
    let mut shards = Shards::with_settings(2, &[("timeout", &["10"])]);
    let (idle, busy, waiting) = (shards.connect(0), shards.connect(0), shards.connect(0));
    shards.feed(waiting, &encode(&["GET", KEY_OF_1]));
    for _ in 0..11 {
        assert_eq!(shards.command(busy, &["PING"]), "+PONG\r\n");
        let now = shards.now();
        let wake = shards.shards[0].next_wake().expect("a timeout needs the clock");
        assert!(wake.0 <= now.0 + 1_000);
        shards.machine.now.0 += 1_000;
        // Shard 1 stands still: who waits for it is not idle.
        shards.turn(0, &[]);
    }
    assert_eq!(shards.flow(idle).close, Close::Now);
    assert_eq!(shards.flow(busy).close, Close::No);
}

#[test]
fn a_client_that_reads_a_long_reply_is_not_idle() {
    let mut shards = Shards::with_settings(1, &[("timeout", &["10"])]);
    let (reader, sleeper) = (shards.connect(0), shards.connect(0));
    hold_output(&mut shards, reader, 500_000);
    hold_output(&mut shards, sleeper, 500_000);
    for _ in 0..12 {
        shards.advance(1_000);
        shards.read(reader, 10_000);
    }
    assert_eq!(shards.flow(reader).close, Close::No);
    assert_eq!(shards.flow(sleeper).close, Close::Now);
}

#[test]
fn a_soft_limit_that_never_ends_is_no_overflow() {
    let limit: &[&str] = &["normal", "0", "1", "9223372036854775807"];
    let mut shards = Shards::with_settings(1, &[("client-output-buffer-limit", limit)]);
    let client = shards.connect(0);
    assert_eq!(shards.command(client, &["PING"]), "+PONG\r\n");
    assert_eq!(shards.flow(client).close, Close::No);
}

#[test]
fn a_clock_that_is_set_back_does_not_stop_what_is_done_by_the_clock() {
    let mut shards = Shards::with_settings(1, &[("timeout", &["10"])]);
    let idle = shards.connect(0);
    shards.advance(5_000);
    shards.machine.now.0 -= 3_600_000;
    shards.command(idle, &["PING"]);
    shards.advance(5_000);
    assert_eq!(shards.flow(idle).close, Close::No);
    shards.advance(6_000);
    assert_eq!(shards.flow(idle).close, Close::Now);
}

#[test]
fn a_client_that_goes_away_leaves_nothing_behind() {
    let mut shards = Shards::new(2);
    let client = shards.connect(0);
    let many: Vec<u8> = [
        repeated(&["INCR", KEY_OF_1], 100),
        encode(&["MGET", KEY_OF_0, KEY_OF_1]),
        encode(&["KEYS", "*"]),
        b"*2\r\n$4\r\nECHO\r\n$100000\r\nunfinished".to_vec(),
    ]
    .concat();
    shards.feed(client, &many);
    shards.disconnect(client);
    // Another takes its place, and must not get its replies.
    let other = shards.connect(0);
    assert_eq!(other.session.slot, client.session.slot);
    assert_eq!(shards.command(other, &["GET", KEY_OF_1]), "$3\r\n100\r\n", "what was sent is executed");
    shards.settle();
    assert_eq!(shards.unread(other), 0);
    assert_eq!(shards.shards[0].buffers_bytes(), 0);
    shards.assert_at_rest();
}

#[test]
fn what_a_client_sent_before_it_closed_its_sending_side_is_answered() {
    let mut shards = Shards::new(2);
    let client = shards.connect(0);
    shards.feed(client, &[encode(&["SET", KEY_OF_1, "x"]), encode(&["GET", KEY_OF_1])].concat());
    shards.eof(client);
    assert_eq!(shards.flow(client).close, Close::No);
    shards.settle();
    assert_eq!(shards.flow(client).close, Close::Flush);
    assert_eq!(shards.read(client, 100), b"+OK\r\n$1\r\nx\r\n");
}

/// Many commands with some keys each are bounded as one with many keys is: what they ask for at once stays small.
#[test]
fn commands_about_several_keys_are_bounded_together() {
    let mut shards = Shards::new(2);
    let client = shards.connect(0);
    let mut words = vec!["MGET"];
    words.resize(512, KEY_OF_1);
    shards.feed(client, &repeated(&words, 40));
    let asked = shards.shards[0].outstanding();
    assert_eq!(asked, 2, "commands of 512 arguments under way at once");
    let replies = read_all(&mut shards, client);
    assert_eq!(replies.len(), 40 * ("*511\r\n".len() + 511 * "$-1\r\n".len()));
    shards.assert_at_rest();
}
