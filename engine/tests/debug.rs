//! Who may use DEBUG, and that a sleep reaches all shards before any of them sleeps.

use torc_sim::{Connection, Shards, encode};

fn client_from(setting: &str, address: &str) -> (Shards, Connection) {
    let settings = [("enable-debug-command", &[setting][..]), ("protected-mode", &["no"][..])];
    let mut shards = Shards::with_settings(2, &settings);
    let client = shards.try_connect(1, address, 1).expect("nobody is refused");
    (shards, client)
}

#[test]
fn the_setting_says_who_may() {
    for (setting, address, may) in [
        ("no", "127.0.0.1:5000", false),
        ("local", "127.0.0.1:5000", true),
        ("local", "127.8.8.8:5000", true),
        ("local", "[::1]:5000", true),
        ("local", "[::ffff:127.0.0.1]:5000", true),
        ("local", "10.0.0.1:5000", false),
        ("yes", "10.0.0.1:5000", true),
    ] {
        let (mut shards, client) = client_from(setting, address);
        for words in [
            &["DEBUG", "SLEEP", "0"][..],
            &["DEBUG", "HELP"],
            &["DEBUG", "NOSUCH"],
            &["debug", "object"],
            &["DEBUG", "SET-FAULT", "seed", "1"],
        ] {
            let reply = shards.command(client, words);
            let refused =
                reply.starts_with("-ERR DEBUG command not allowed. If the enable-debug-command option is set");
            assert_eq!(refused, !may, "{setting} from {address}: {words:?} gives {reply}");
        }
    }
}

#[test]
fn a_shard_sleeps_after_it_has_told_the_others() {
    let (mut shards, client) = client_from("yes", "127.0.0.1:5000");
    let start = shards.now();
    shards.feed(client, &encode(&["DEBUG", "SLEEP", "2"]));
    assert_eq!(shards.now(), start);
    let frame = shards.take_frame(1, 0).expect("shard 0 is told");
    shards.give_frame(1, 0, frame);
    shards.turn(0, &[]);
    assert_eq!(shards.now(), start);
    shards.turn(1, &[]);
    assert_eq!(shards.now().0, start.0 + 2000);
    assert_eq!(shards.unread(client), 0);
    shards.settle();
    assert_eq!(shards.now().0, start.0 + 4000);
    assert_eq!(shards.read(client, 100), b"+OK\r\n");
    shards.assert_at_rest();
}
