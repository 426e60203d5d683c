//! The life of a command: read this first.
//!
//! Two shards, each of which would be a thread of its own, and one client, whose connection lives on shard 1 (its *home*).
//! The test does by hand what the runtime does with sockets and queues: it gives bytes to the home shard, carries frames
//! between the shards, and reads what is ready to be sent. Between any two of these movements nothing happens, so each
//! stage of a command can be looked at.

use torc_engine::id::ShardId;
use torc_engine::route::Route;
use torc_sim::Shards;

const HOME: usize = 1;
const OWNER: usize = 0;

#[test]
fn a_command_travels_to_the_owner_of_its_key_and_its_reply_takes_its_place_in_the_order() {
    // A key's hash slot says which shard owns it, wherever its client is connected.
    let route = Route::new(2);
    assert_eq!(route.owner(b"user:7"), ShardId(0), "user:7 lives on the other shard");
    assert_eq!(route.owner(b"user:1"), ShardId(1), "user:1 lives at home");

    let mut shards = Shards::new(2);
    let client = shards.connect(HOME);

    // The client pipelines three commands, and they arrive in one piece. The first and the last can be answered at home.
    shards.feed(client, b"SET user:1 one\r\nSET user:7 x\r\nGET user:1\r\n");

    // The turn has executed both of the home commands. But only the reply to the first is ready to be sent: replies go
    // out in the order of the commands, and the second one, SET user:7, has only begun its journey.
    assert_eq!(shards.read(client, 100), b"+OK\r\n");
    assert_eq!(shards.shards[HOME].outstanding(), 1, "one request waits for its reply");
    assert!(!shards.shards[HOME].is_drained());

    // It lies in the frame that this turn made for shard 1. All that a turn has to say to a shard is one frame.
    let request = shards.take_frame(HOME, OWNER).expect("the request is in the turn's frame");
    assert!(shards.take_frame(HOME, OWNER).is_none());

    // While the frame is under way the home is free: the client's next commands are read and executed.
    shards.feed(client, b"GET user:7\r\nPING\r\n");
    assert_eq!(shards.unread(client), 0, "nothing may pass SET user:7");

    // The owner takes the frame in, executes the command in its next turn, and has a frame for the way back.
    shards.give_frame(HOME, OWNER, request);
    assert!(shards.take_frame(OWNER, HOME).is_none(), "nothing is done before the turn");
    shards.turn(OWNER, &[]);
    let reply = shards.take_frame(OWNER, HOME).expect("the reply is in the turn's frame");

    // Back home the reply takes its place, and GET user:1, which waited behind it, is ready too. GET user:7 is a request
    // of its own, which is still to be carried; PING waits behind that.
    shards.give_frame(OWNER, HOME, reply);
    shards.turn(HOME, &[]);
    assert_eq!(shards.read(client, 100), b"+OK\r\n$3\r\none\r\n");

    let request = shards.take_frame(HOME, OWNER).expect("GET user:7");
    shards.give_frame(HOME, OWNER, request);
    shards.turn(OWNER, &[]);
    let reply = shards.take_frame(OWNER, HOME).expect("x");
    shards.give_frame(OWNER, HOME, reply);
    shards.turn(HOME, &[]);
    assert_eq!(shards.read(client, 100), b"$1\r\nx\r\n+PONG\r\n");

    // A command about keys of both shards is split: a part is executed here, the other there, and the reply is made of
    // both, in the order in which the keys were named.
    shards.feed(client, b"MGET user:7 user:1 user:7\r\n");
    assert_eq!(shards.unread(client), 0, "the home part is done, the other is not");
    let request = shards.take_frame(HOME, OWNER).expect("MGET user:7 user:7");
    shards.give_frame(HOME, OWNER, request);
    shards.turn(OWNER, &[]);
    let reply = shards.take_frame(OWNER, HOME).expect("two times x");
    shards.give_frame(OWNER, HOME, reply);
    shards.turn(HOME, &[]);
    assert_eq!(shards.read(client, 100), b"*3\r\n$1\r\nx\r\n$3\r\none\r\n$1\r\nx\r\n");

    // Nobody owes anybody anything any more.
    shards.assert_at_rest();
    assert_eq!(shards.shards[HOME].buffers_bytes(), 0);
}
