//! Every command's replies, byte for byte: the good case, the wrong number of arguments, wrong arguments, expiry, and
//! the missing key. Each table runs on RESP2 and RESP3, on one shard and on three, where `a` to `h` are spread over
//! all shards; a command's keys then live with different owners, and the replies must not show it.

mod common;

use common::client::Client;
use common::server::Server;
use common::want::Dialect::{self, Resp2, Resp3};
use common::want::Want::{self, *};
use common::{info, skip_on_redis};

const OK: Want = Status("OK");
const SYNTAX: Want = Error("ERR syntax error");
const NOT_AN_INTEGER: Want = Error("ERR value is not an integer or out of range");
const NOT_A_FLOAT: Want = Error("ERR value is not a valid float");
/// A timestamp far enough to outlive any test: the year 2128 in seconds and in milliseconds.
const FAR_S: i64 = 4_999_999_999;
const FAR_MS: i64 = 4_999_999_999_000;

/// Runs a test on each shard count and dialect, every time on an empty keyspace with a new connection.
fn each(test: impl Fn(&mut Client, &Server)) {
    for shards in [1, 3] {
        let server = Server::start_sharded(shards, &[]);
        for dialect in [Resp2, Resp3] {
            eprintln!("{shards} shards, {dialect:?}");
            let mut client = Client::connect(server.address());
            client.speak(dialect);
            client.check("FLUSHALL", &OK);
            test(&mut client, &server);
        }
    }
}

fn each_transcript(rows: &[(&str, Want)]) {
    each(|client, _| client.transcript(rows));
}

/// The error of a command with too few or too many arguments.
#[track_caller]
fn check_arity(client: &mut Client, name: &str, lines: &[&str]) {
    for line in lines {
        let reply = client.call_line(line);
        let want = format!("-ERR wrong number of arguments for '{name}' command\r\n");
        assert_eq!(String::from_utf8_lossy(&reply), want, "{line}");
    }
}

#[test]
fn wrong_number_of_arguments() {
    each(|client, _| {
        for (name, lines) in [
            ("ping", &["PING a b"][..]),
            ("echo", &["ECHO", "ECHO a b"]),
            ("reset", &["RESET a"]),
            ("select", &["SELECT", "SELECT 0 1"]),
            ("auth", &["AUTH"]),
            ("get", &["GET", "get a b"]),
            ("set", &["SET", "SET a"]),
            ("setnx", &["SETNX a", "SETNX a b c"]),
            ("setex", &["SETEX a 1", "SETEX a 1 b c"]),
            ("psetex", &["PSETEX a 1", "PSETEX a 1 b c"]),
            ("getset", &["GETSET a", "GETSET a b c"]),
            ("getdel", &["GETDEL", "GETDEL a b"]),
            ("getex", &["GETEX"]),
            ("append", &["APPEND a", "APPEND a b c"]),
            ("strlen", &["STRLEN", "STRLEN a b"]),
            ("getrange", &["GETRANGE a 0", "GETRANGE a 0 1 2"]),
            ("setrange", &["SETRANGE a 0", "SETRANGE a 0 1 2"]),
            ("incr", &["INCR", "INCR a b"]),
            ("decr", &["DECR", "DECR a b"]),
            ("incrby", &["INCRBY a", "INCRBY a 1 2"]),
            ("decrby", &["DECRBY a", "DECRBY a 1 2"]),
            ("incrbyfloat", &["INCRBYFLOAT a", "INCRBYFLOAT a 1 2"]),
            ("mget", &["MGET"]),
            ("mset", &["MSET", "MSET a", "MSET a 1 b"]),
            ("del", &["DEL"]),
            ("unlink", &["UNLINK"]),
            ("exists", &["EXISTS"]),
            ("touch", &["TOUCH"]),
            ("expire", &["EXPIRE a"]),
            ("pexpire", &["PEXPIRE a"]),
            ("expireat", &["EXPIREAT a"]),
            ("pexpireat", &["PEXPIREAT a"]),
            ("ttl", &["TTL", "TTL a b"]),
            ("pttl", &["PTTL", "PTTL a b"]),
            ("expiretime", &["EXPIRETIME", "EXPIRETIME a b"]),
            ("pexpiretime", &["PEXPIRETIME", "PEXPIRETIME a b"]),
            ("persist", &["PERSIST", "PERSIST a b"]),
            ("type", &["TYPE", "TYPE a b"]),
            ("dbsize", &["DBSIZE a"]),
            ("keys", &["KEYS", "KEYS a b"]),
            ("scan", &["SCAN"]),
            ("randomkey", &["RANDOMKEY a"]),
            ("time", &["TIME a"]),
            ("config", &["CONFIG"]),
            ("config|get", &["CONFIG GET"]),
            ("config|set", &["CONFIG SET", "CONFIG SET timeout"]),
            ("client", &["CLIENT"]),
            ("client|id", &["CLIENT ID a"]),
            ("client|getname", &["CLIENT GETNAME a"]),
            ("client|setname", &["CLIENT SETNAME", "CLIENT SETNAME a b"]),
            ("command|count", &["COMMAND COUNT a"]),
        ] {
            check_arity(client, name, lines);
        }
    });
}

#[test]
fn unknown_commands() {
    each_transcript(&[
        ("NOSUCH", Error("ERR unknown command 'NOSUCH', with args beginning with: ")),
        ("nosuch a \"b c\"", Error("ERR unknown command 'nosuch', with args beginning with: 'a' 'b c' ")),
        ("CLIENT NOSUCH", Error("ERR unknown subcommand 'NOSUCH'. Try CLIENT HELP.")),
        ("CONFIG nosuch a", Error("ERR unknown subcommand 'nosuch'. Try CONFIG HELP.")),
        ("COMMAND NOSUCH", Error("ERR unknown subcommand 'NOSUCH'. Try COMMAND HELP.")),
        ("\"\"", Error("ERR unknown command '', with args beginning with: ")),
        ("PING", Status("PONG")),
    ]);
    // What is quoted back is bounded: 128 bytes of the name, and arguments until 128 bytes of them are shown.
    each(|client, _| {
        let long = "x".repeat(300);
        let reply = client.call_line(&format!("{long} {long} {long}"));
        let shown = "x".repeat(128);
        let want = format!("-ERR unknown command '{shown}', with args beginning with: '{shown}' \r\n");
        assert_eq!(String::from_utf8_lossy(&reply), want);
    });
}

#[test]
fn greetings() {
    each_transcript(&[
        ("PING", Status("PONG")),
        ("ping hello", Bulk("hello")),
        ("PING \"\"", Bulk("")),
        ("ECHO hello", Bulk("hello")),
        ("eChO \"two words\"", Bulk("two words")),
        ("ECHO \"\"", Bulk("")),
    ]);
}

#[test]
fn hello() {
    each(|client, server| {
        client.expect_dialect(Resp2);
        client.check("HELLO 2", &hello_map("2"));
        client.expect_dialect(Resp3);
        client.check("HELLO 3", &hello_map("3"));
        client.check("HELLO", &hello_map("3"));
        client.transcript(&[
            ("HELLO 4", Error("NOPROTO unsupported protocol version")),
            ("HELLO 1", Error("NOPROTO unsupported protocol version")),
            ("HELLO x", Error("ERR Protocol version is not an integer or out of range")),
            ("HELLO 3 NOSUCH", Error("ERR Syntax error in HELLO option 'NOSUCH'")),
            ("HELLO 3 AUTH default", Error("ERR Syntax error in HELLO option 'AUTH'")),
            ("HELLO 3 SETNAME", Error("ERR Syntax error in HELLO option 'SETNAME'")),
            (
                "HELLO 3 SETNAME \"a b\"",
                Error("ERR Client names cannot contain spaces, newlines or special characters."),
            ),
            // A refused HELLO changes nothing.
            ("GET missing", Nil),
            ("CLIENT GETNAME", Nil),
        ]);
        client.check("HELLO 3 SETNAME me", &hello_map("3"));
        client.check("CLIENT GETNAME", &Bulk("me"));
        // The default user has no password here, so any will do.
        client.check("HELLO 3 AUTH default anything", &hello_map("3"));
        client.check("HELLO 3 AUTH nobody x", &Error("WRONGPASS invalid username-password pair or user is disabled."));

        client.expect_dialect(Resp2);
        client.check("RESET", &Status("RESET"));
        client.check("GET missing", &Nil);
        client.check("CLIENT GETNAME", &Nil);

        // What one connection speaks is its own affair.
        let mut other = Client::connect(server.address());
        other.check("HELLO", &hello_map("2"));
    });
}

fn hello_map(version: &str) -> Want {
    const HEAD: (&str, Want) = ("server", Bulk("redis"));
    // Which version it is, lifecycle.rs checks.
    const VERSION: (&str, Want) = ("version", AnyBulk);
    const ID: (&str, Want) = ("id", Between(1, i64::MAX));
    const MODE: (&str, Want) = ("mode", Bulk("standalone"));
    const ROLE: (&str, Want) = ("role", Bulk("master"));
    const MODULES: (&str, Want) = ("modules", List(&[]));
    match version {
        "2" => Map(&[HEAD, VERSION, ("proto", Int(2)), ID, MODE, ROLE, MODULES]),
        _ => Map(&[HEAD, VERSION, ("proto", Int(3)), ID, MODE, ROLE, MODULES]),
    }
}

#[test]
fn quit() {
    each(|client, server| {
        let mut quitter = Client::connect(server.address());
        quitter.send_bytes(b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$1\r\n1\r\nQUIT\r\nSET a 2\r\n");
        assert_eq!(quitter.read_to_close(), b"+OK\r\n+OK\r\n");
        // Nothing after QUIT was run.
        client.check("GET a", &Bulk("1"));

        let mut quitter = Client::connect(server.address());
        quitter.send_bytes(b"QUIT with arguments\r\n");
        assert_eq!(quitter.read_to_close(), b"+OK\r\n");
    });
}

#[test]
fn select() {
    each_transcript(&[
        ("SELECT 0", OK),
        ("SET a zero", OK),
        ("SELECT 1", OK),
        ("GET a", Nil),
        ("SET a one", OK),
        ("SET b one", OK),
        ("DBSIZE", Int(2)),
        ("SELECT 15", OK),
        ("DBSIZE", Int(0)),
        ("SELECT 16", Error("ERR DB index is out of range")),
        ("SELECT -1", Error("ERR DB index is out of range")),
        ("SELECT x", NOT_AN_INTEGER),
        ("SELECT 99999999999999999999", NOT_AN_INTEGER),
        // A number, but not one of 32 bits: a text of its own.
        ("SELECT 99999999999", Error("ERR value is out of range, value must between -2147483648 and 2147483647")),
        ("SELECT 1", OK),
        ("FLUSHDB", OK),
        ("DBSIZE", Int(0)),
        ("SELECT 0", OK),
        ("GET a", Bulk("zero")),
        ("SELECT 1", OK),
        ("SET c one", OK),
        ("FLUSHALL", OK),
        ("SELECT 0", OK),
        ("DBSIZE", Int(0)),
    ]);
    each(|client, server| {
        client.transcript(&[("SELECT 3", OK), ("SET a three", OK), ("RESET", Status("RESET"))]);
        client.expect_dialect(Resp2);
        client.check("GET a", &Nil);
        Client::connect(server.address()).check("GET a", &Nil);
    });
}

#[test]
fn authentication_without_a_password() {
    each_transcript(&[
        (
            "AUTH secret",
            Error(
                "ERR AUTH <password> called without any password configured for the default user. Are you sure your \
                 configuration is correct?",
            ),
        ),
        ("AUTH default secret", OK),
        ("AUTH nobody secret", Error("WRONGPASS invalid username-password pair or user is disabled.")),
        ("AUTH a b c", SYNTAX),
    ]);
}

#[test]
fn get_and_set() {
    each_transcript(&[
        ("GET a", Nil),
        ("SET a 1", OK),
        ("GET a", Bulk("1")),
        ("SET a \"\"", OK),
        ("GET a", Bulk("")),
        ("SET \"\" empty", OK),
        ("GET \"\"", Bulk("empty")),
        ("SET b 2 NX", OK),
        ("SET b 3 nx", Nil),
        ("GET b", Bulk("2")),
        ("SET b 4 XX", OK),
        ("SET c 4 xx", Nil),
        ("GET c", Nil),
        ("SET b 5 GET", Bulk("4")),
        ("SET c 5 GET", Nil),
        ("GET c", Bulk("5")),
        ("SET d 6 NX GET", Nil),
        ("GET d", Bulk("6")),
        ("SET d 7 NX GET", Bulk("6")),
        ("GET d", Bulk("6")),
        ("SET d 8 XX GET", Bulk("6")),
        ("GET d", Bulk("8")),
        ("SET e 1 XX GET", Nil),
        ("EXISTS e", Int(0)),
        // An option given twice is given.
        ("SET f 1 EX 10 EX 100", OK),
        ("TTL f", Between(90, 100)),
        ("SET f 2 NX NX", Nil),
        ("SET f 2 GET GET", Bulk("1")),
        ("DEL f", Int(1)),
        // Wrong arguments change nothing.
        ("SET a 1 NX XX", SYNTAX),
        ("SET a 1 XX NX", SYNTAX),
        ("SET a 1 NOSUCH", SYNTAX),
        ("SET a 1 EX", SYNTAX),
        ("SET a 1 EX 1 PX 1", SYNTAX),
        ("SET a 1 EX 10 KEEPTTL", SYNTAX),
        ("SET a 1 KEEPTTL PXAT 10", SYNTAX),
        ("SET a 1 EXAT 10 EX 10", SYNTAX),
        ("SET a 1 EX x", NOT_AN_INTEGER),
        ("SET a 1 PX 1.5", NOT_AN_INTEGER),
        ("SET a 1 EX 0", Error("ERR invalid expire time in 'set' command")),
        ("SET a 1 PX -1", Error("ERR invalid expire time in 'set' command")),
        ("SET a 1 EXAT 0", Error("ERR invalid expire time in 'set' command")),
        ("SET a 1 PXAT -5", Error("ERR invalid expire time in 'set' command")),
        ("SET a 1 EX 9223372036854775807", Error("ERR invalid expire time in 'set' command")),
        ("SET a 1 PX 9223372036854775807", Error("ERR invalid expire time in 'set' command")),
        ("GET a", Bulk("")),
    ]);
}

#[test]
fn set_with_expiry() {
    each_transcript(&[
        ("SET a 1 EX 100", OK),
        ("TTL a", Between(90, 100)),
        ("SET a 1 PX 100000", OK),
        ("PTTL a", Between(90_000, 100_000)),
        ("SET a 1 EXAT 4999999999", OK),
        ("EXPIRETIME a", Int(FAR_S)),
        ("PEXPIRETIME a", Int(FAR_MS)),
        ("SET a 1 pxat 4999999999000", OK),
        ("PEXPIRETIME a", Int(FAR_MS)),
        ("SET a 2 KEEPTTL", OK),
        ("GET a", Bulk("2")),
        ("PEXPIRETIME a", Int(FAR_MS)),
        ("SET a 3", OK),
        ("TTL a", Int(-1)),
        ("SET a 4 XX GET EX 100", Bulk("3")),
        ("TTL a", Between(90, 100)),
        // Options that do not take effect leave the time to live alone.
        ("SET a 5 NX EX 1000", Nil),
        ("TTL a", Between(90, 100)),
        // A time in the past: the key is written and is already gone.
        ("SET a 6 EXAT 1", OK),
        ("GET a", Nil),
        ("EXISTS a", Int(0)),
        ("DBSIZE", Int(0)),
        ("SET b 6 PXAT 1 GET", Nil),
        ("GET b", Nil),
    ]);
    each(|client, _| {
        for (set, key) in [("SET a 1 PX 10", "a"), ("SET b 1 PX 10", "b"), ("PSETEX c 10 1", "c")] {
            client.check(set, &OK);
            client.wait_until_gone(key);
            client.check(&format!("GET {key}"), &Nil);
            client.check(&format!("TTL {key}"), &Int(-2));
            client.check(&format!("SET {key} 2 KEEPTTL"), &OK);
            client.check(&format!("TTL {key}"), &Int(-1));
        }
    });
}

#[test]
fn older_ways_to_set() {
    each_transcript(&[
        ("SETNX a 1", Int(1)),
        ("SETNX a 2", Int(0)),
        ("GET a", Bulk("1")),
        ("SETEX b 100 x", OK),
        ("TTL b", Between(90, 100)),
        ("SETEX b 0 y", Error("ERR invalid expire time in 'setex' command")),
        ("SETEX b -1 y", Error("ERR invalid expire time in 'setex' command")),
        ("SETEX b x y", NOT_AN_INTEGER),
        ("SETEX b 9223372036854775807 y", Error("ERR invalid expire time in 'setex' command")),
        ("GET b", Bulk("x")),
        ("PSETEX c 100000 x", OK),
        ("PTTL c", Between(90_000, 100_000)),
        ("PSETEX c 0 y", Error("ERR invalid expire time in 'psetex' command")),
        ("PSETEX c x y", NOT_AN_INTEGER),
        ("GETSET a 2", Bulk("1")),
        ("GETSET d 2", Nil),
        ("GET d", Bulk("2")),
        // GETSET, like SET, takes the time to live away.
        ("GETSET b new", Bulk("x")),
        ("TTL b", Int(-1)),
    ]);
}

#[test]
fn getdel_and_getex() {
    each_transcript(&[
        ("GETDEL a", Nil),
        ("SET a 1", OK),
        ("GETDEL a", Bulk("1")),
        ("EXISTS a", Int(0)),
        ("GETEX a", Nil),
        ("GETEX a EX 10", Nil),
        // The key is looked for before the time is looked at, but after the options are.
        ("GETEX a EX 0", Nil),
        ("GETEX a NOSUCH", SYNTAX),
        ("SET a 1", OK),
        ("GETEX a", Bulk("1")),
        ("TTL a", Int(-1)),
        ("GETEX a EX 100", Bulk("1")),
        ("TTL a", Between(90, 100)),
        ("GETEX a", Bulk("1")),
        ("TTL a", Between(90, 100)),
        ("GETEX a PERSIST", Bulk("1")),
        ("TTL a", Int(-1)),
        ("GETEX a px 100000", Bulk("1")),
        ("PTTL a", Between(90_000, 100_000)),
        ("GETEX a EXAT 4999999999", Bulk("1")),
        ("EXPIRETIME a", Int(FAR_S)),
        ("GETEX a PXAT 4999999999000", Bulk("1")),
        ("PEXPIRETIME a", Int(FAR_MS)),
        ("GETEX a NOSUCH", SYNTAX),
        ("GETEX a EX", SYNTAX),
        ("GETEX a EX 10 PERSIST", SYNTAX),
        ("GETEX a EX 10 PX 10", SYNTAX),
        ("GETEX a NX", SYNTAX),
        ("GETEX a KEEPTTL", SYNTAX),
        ("GETEX a EX x", NOT_AN_INTEGER),
        ("GETEX a EX 0", Error("ERR invalid expire time in 'getex' command")),
        ("GETEX a EX 9223372036854775807", Error("ERR invalid expire time in 'getex' command")),
        ("PEXPIRETIME a", Int(FAR_MS)),
        ("GETEX a PXAT 1", Bulk("1")),
        ("EXISTS a", Int(0)),
    ]);
}

#[test]
fn parts_of_values() {
    each_transcript(&[
        ("APPEND a hello", Int(5)),
        ("APPEND a \" world\"", Int(11)),
        ("APPEND a \"\"", Int(11)),
        ("GET a", Bulk("hello world")),
        ("STRLEN a", Int(11)),
        ("STRLEN missing", Int(0)),
        ("SET n 12345", OK),
        ("STRLEN n", Int(5)),
        ("APPEND n 6", Int(6)),
        ("INCR n", Int(123_457)),
        ("GETRANGE a 0 4", Bulk("hello")),
        ("GETRANGE a -5 -1", Bulk("world")),
        ("GETRANGE a 0 -1", Bulk("hello world")),
        ("GETRANGE a 6 1000", Bulk("world")),
        ("GETRANGE a 1000 2000", Bulk("")),
        ("GETRANGE a 3 2", Bulk("")),
        ("GETRANGE a -2 -5", Bulk("")),
        ("GETRANGE a -1000 1", Bulk("he")),
        ("GETRANGE a -1000 -900", Bulk("h")),
        ("GETRANGE missing 0 -1", Bulk("")),
        ("GETRANGE n 1 2", Bulk("23")),
        ("GETRANGE a x 1", NOT_AN_INTEGER),
        ("GETRANGE a 0 x", NOT_AN_INTEGER),
        ("GETRANGE a 0 9223372036854775807", Bulk("hello world")),
        ("SETRANGE a 6 redis", Int(11)),
        ("GET a", Bulk("hello redis")),
        ("SETRANGE b 5 x", Int(6)),
        ("GET b", Bulk("\0\0\0\0\0x")),
        ("SETRANGE b 0 \"\"", Int(6)),
        // Writing nothing makes no key; appending nothing does.
        ("SETRANGE c 5 \"\"", Int(0)),
        ("EXISTS c", Int(0)),
        ("APPEND d \"\"", Int(0)),
        ("EXISTS d", Int(1)),
        ("GET d", Bulk("")),
        ("SETRANGE a -1 x", Error("ERR offset is out of range")),
        ("SETRANGE a x x", NOT_AN_INTEGER),
        ("SETRANGE a 536870911 xx", Error("ERR string exceeds maximum allowed size (proto-max-bulk-len)")),
        ("SETRANGE c 9223372036854775807 x", Error("ERR string exceeds maximum allowed size (proto-max-bulk-len)")),
        ("EXISTS c", Int(0)),
        ("SET n 10 EX 100", OK),
        ("APPEND n 0", Int(3)),
        ("SETRANGE n 0 2", Int(3)),
        ("GET n", Bulk("200")),
        ("TTL n", Between(90, 100)),
    ]);
}

#[test]
fn counters() {
    each_transcript(&[
        ("INCR a", Int(1)),
        ("INCR a", Int(2)),
        ("DECR a", Int(1)),
        ("DECR b", Int(-1)),
        ("INCRBY a 41", Int(42)),
        ("INCRBY a -2", Int(40)),
        ("DECRBY a 50", Int(-10)),
        ("DECRBY a -20", Int(10)),
        ("GET a", Bulk("10")),
        ("INCRBY a x", NOT_AN_INTEGER),
        ("INCRBY a 1.5", NOT_AN_INTEGER),
        ("INCRBY a 9223372036854775808", NOT_AN_INTEGER),
        ("DECRBY a x", NOT_AN_INTEGER),
        ("DECRBY a -9223372036854775808", Error("ERR decrement would overflow")),
        ("SET c 9223372036854775807", OK),
        ("INCR c", Error("ERR increment or decrement would overflow")),
        ("GET c", Bulk("9223372036854775807")),
        ("SET c -9223372036854775808", OK),
        ("DECR c", Error("ERR increment or decrement would overflow")),
        ("DECRBY c 1", Error("ERR increment or decrement would overflow")),
        ("INCR c", Int(-9_223_372_036_854_775_807)),
        ("SET d text", OK),
        ("INCR d", NOT_AN_INTEGER),
        ("SET d \" 1\"", OK),
        ("INCR d", NOT_AN_INTEGER),
        ("SET d \"1 \"", OK),
        ("INCR d", NOT_AN_INTEGER),
        ("SET d +1", OK),
        ("INCR d", NOT_AN_INTEGER),
        ("SET d 01", OK),
        ("INCR d", NOT_AN_INTEGER),
        ("SET d -0", OK),
        ("INCR d", NOT_AN_INTEGER),
        ("SET d \"\"", OK),
        ("INCR d", NOT_AN_INTEGER),
        ("SET e 5 EX 100", OK),
        ("INCR e", Int(6)),
        ("TTL e", Between(90, 100)),
    ]);
}

#[test]
fn float_counters() {
    each_transcript(&[
        ("INCRBYFLOAT a 1.5", Bulk("1.5")),
        ("INCRBYFLOAT a 1.5", Bulk("3")),
        ("INCRBYFLOAT a -0.1", Bulk("2.9")),
        ("GET a", Bulk("2.9")),
        ("SET a 3.0e3", OK),
        ("INCRBYFLOAT a 200", Bulk("3200")),
        ("INCRBYFLOAT a 5.0e3", Bulk("8200")),
        ("INCR a", Int(8201)),
        ("SET b 0.1", OK),
        ("INCRBYFLOAT b 0.2", Bulk("0.3")),
        ("INCRBYFLOAT c 1e-3", Bulk("0.001")),
        ("INCRBYFLOAT c 0", Bulk("0.001")),
        ("INCRBYFLOAT d -1e10", Bulk("-10000000000")),
        ("INCRBYFLOAT a x", NOT_A_FLOAT),
        ("INCRBYFLOAT a nan", NOT_A_FLOAT),
        ("INCRBYFLOAT a \"1 \"", NOT_A_FLOAT),
        ("INCRBYFLOAT a \" 1\"", NOT_A_FLOAT),
        ("INCRBYFLOAT a \"\"", NOT_A_FLOAT),
        ("INCRBYFLOAT a inf", Error("ERR increment would produce NaN or Infinity")),
        ("INCRBYFLOAT a -inf", Error("ERR increment would produce NaN or Infinity")),
        ("SET e text", OK),
        ("INCRBYFLOAT e 1", NOT_A_FLOAT),
        ("SET f 5 EX 100", OK),
        ("INCRBYFLOAT f 1", Bulk("6")),
        ("TTL f", Between(90, 100)),
    ]);
}

#[test]
fn many_keys_at_once() {
    each_transcript(&[
        ("MGET a b c", List(&[Nil, Nil, Nil])),
        ("MSET a 1 b 2 c 3", OK),
        ("MGET a missing b a c", List(&[Bulk("1"), Nil, Bulk("2"), Bulk("1"), Bulk("3")])),
        // The last of two values for one key wins.
        ("MSET a 4 a 5", OK),
        ("GET a", Bulk("5")),
        ("SET d 1 EX 100", OK),
        ("MSET d 2 e 3", OK),
        ("TTL d", Int(-1)),
        ("EXISTS a b c missing", Int(3)),
        ("EXISTS a a a", Int(3)),
        ("EXISTS missing", Int(0)),
        ("TOUCH a b c missing", Int(3)),
        ("TOUCH a a", Int(2)),
        ("TOUCH missing", Int(0)),
        ("DEL a a b missing", Int(2)),
        ("DEL a", Int(0)),
        ("UNLINK c d e d", Int(3)),
        ("UNLINK c", Int(0)),
        ("DBSIZE", Int(0)),
    ]);
    // Two hundred keys in one command touch every shard.
    each(|client, _| {
        let keys: Vec<String> = (0..200).map(|number| format!("key:{number}")).collect();
        let mset: Vec<String> = keys.iter().map(|key| format!("{key} value-of-{key}")).collect();
        client.check(&format!("MSET {}", mset.join(" ")), &OK);
        let mut want = b"*200\r\n".to_vec();
        for key in &keys {
            want.extend(common::client::bulk(format!("value-of-{key}").as_bytes()));
        }
        let reply = client.call_line(&format!("MGET {}", keys.join(" ")));
        assert_eq!(reply.escape_ascii().to_string(), want.escape_ascii().to_string());
        client.check(&format!("EXISTS {}", keys.join(" ")), &Int(200));
        client.check("DBSIZE", &Int(200));
        client.check(&format!("UNLINK {}", keys.join(" ")), &Int(200));
        client.check("DBSIZE", &Int(0));
    });
}

#[test]
fn expiring() {
    each_transcript(&[
        ("EXPIRE a 100", Int(0)),
        ("TTL a", Int(-2)),
        ("PTTL a", Int(-2)),
        ("EXPIRETIME a", Int(-2)),
        ("PEXPIRETIME a", Int(-2)),
        ("PERSIST a", Int(0)),
        ("SET a 1", OK),
        ("TTL a", Int(-1)),
        ("PTTL a", Int(-1)),
        ("EXPIRETIME a", Int(-1)),
        ("PEXPIRETIME a", Int(-1)),
        ("PERSIST a", Int(0)),
        ("EXPIRE a 100", Int(1)),
        ("TTL a", Between(90, 100)),
        ("PEXPIRE a 200000", Int(1)),
        ("PTTL a", Between(190_000, 200_000)),
        ("EXPIREAT a 4999999999", Int(1)),
        ("EXPIRETIME a", Int(FAR_S)),
        ("PEXPIREAT a 4999999999001", Int(1)),
        ("PEXPIRETIME a", Int(FAR_MS + 1)),
        // Rounded to the nearest second.
        ("EXPIRETIME a", Int(FAR_S)),
        ("PEXPIREAT a 4999999999500", Int(1)),
        ("EXPIRETIME a", Int(FAR_S + 1)),
        ("PERSIST a", Int(1)),
        ("TTL a", Int(-1)),
        ("GET a", Bulk("1")),
        // A time in the past deletes.
        ("EXPIRE a 0", Int(1)),
        ("EXISTS a", Int(0)),
        ("SET a 1", OK),
        ("PEXPIRE a -1", Int(1)),
        ("GET a", Nil),
        ("SET a 1", OK),
        ("EXPIREAT a 1", Int(1)),
        ("EXISTS a", Int(0)),
        ("SET a 1", OK),
        ("PEXPIREAT a 1", Int(1)),
        ("DBSIZE", Int(0)),
        ("SET a 1", OK),
        ("EXPIRE a x", NOT_AN_INTEGER),
        ("EXPIRE a 1.5", NOT_AN_INTEGER),
        ("EXPIREAT a \"\"", NOT_AN_INTEGER),
        ("EXPIRE a 9223372036854775807", Error("ERR invalid expire time in 'expire' command")),
        ("PEXPIRE a 9223372036854775807", Error("ERR invalid expire time in 'pexpire' command")),
        ("EXPIREAT a 9223372036854775807", Error("ERR invalid expire time in 'expireat' command")),
        ("EXPIRE a -9223372036854775808", Error("ERR invalid expire time in 'expire' command")),
        ("TTL a", Int(-1)),
        // PEXPIREAT takes any time there is.
        ("PEXPIREAT a 9223372036854775807", Int(1)),
        ("PEXPIRETIME a", Int(i64::MAX)),
    ]);
    each(|client, _| {
        for expire in ["PEXPIRE a 10", "PEXPIRE b 10", "PEXPIRE c 10"] {
            let key = &expire[8..9];
            client.check(&format!("SET {key} 1"), &OK);
            client.check(expire, &Int(1));
            client.wait_until_gone(key);
            client.check(&format!("GET {key}"), &Nil);
            client.check(&format!("STRLEN {key}"), &Int(0));
            client.check(&format!("TYPE {key}"), &Status("none"));
            client.check(&format!("PERSIST {key}"), &Int(0));
            client.check(&format!("DEL {key}"), &Int(0));
            client.check(&format!("INCR {key}"), &Int(1));
            client.check(&format!("TTL {key}"), &Int(-1));
        }
    });
}

#[test]
fn expiring_under_conditions() {
    each_transcript(&[
        ("SET a 1", OK),
        // Without a time to live: XX and GT refuse (no time is later than never), NX and LT set.
        ("EXPIRE a 100 XX", Int(0)),
        ("EXPIRE a 100 GT", Int(0)),
        ("TTL a", Int(-1)),
        ("EXPIRE a 100 nx", Int(1)),
        ("EXPIRE a 200 NX", Int(0)),
        ("EXPIRE a 200 LT", Int(0)),
        ("EXPIRE a 50 GT", Int(0)),
        ("TTL a", Between(90, 100)),
        ("EXPIRE a 200 GT", Int(1)),
        ("TTL a", Between(190, 200)),
        ("EXPIRE a 100 LT", Int(1)),
        ("TTL a", Between(90, 100)),
        ("EXPIRE a 300 XX", Int(1)),
        ("EXPIRE a 400 XX GT", Int(1)),
        ("EXPIRE a 400 XX LT", OneOf(&[Int(0), Int(1)])),
        ("TTL a", Between(390, 400)),
        ("PEXPIRE a 100000 LT", Int(1)),
        ("PTTL a", Between(90_000, 100_000)),
        ("EXPIREAT a 4999999999 GT", Int(1)),
        ("EXPIREAT a 4999999999 GT", Int(0)),
        ("PEXPIREAT a 4999999998000 LT", Int(1)),
        ("PEXPIREAT a 1 GT", Int(0)),
        ("EXISTS a", Int(1)),
        ("PERSIST a", Int(1)),
        ("EXPIRE a 100 LT", Int(1)),
        ("PERSIST a", Int(1)),
        ("EXPIRE a 100 XX LT", Int(0)),
        ("TTL a", Int(-1)),
        ("EXPIRE a 100 NOSUCH", Error("ERR Unsupported option NOSUCH")),
        ("EXPIRE a 100 NX XX", Error("ERR NX and XX, GT or LT options at the same time are not compatible")),
        ("EXPIRE a 100 GT NX", Error("ERR NX and XX, GT or LT options at the same time are not compatible")),
        ("PEXPIREAT a 100 NX LT", Error("ERR NX and XX, GT or LT options at the same time are not compatible")),
        ("EXPIRE a 100 GT LT", Error("ERR GT and LT options at the same time are not compatible")),
        // Options are looked at before the number, and both before the key.
        ("EXPIRE missing x NOSUCH", Error("ERR Unsupported option NOSUCH")),
        ("EXPIRE missing x", NOT_AN_INTEGER),
        ("EXPIRE missing 100 NX", Int(0)),
        ("TTL a", Int(-1)),
        ("EXPIRE a -1 LT", Int(1)),
        ("EXISTS a", Int(0)),
    ]);
}

#[test]
fn the_keyspace() {
    each_transcript(&[
        ("DBSIZE", Int(0)),
        ("RANDOMKEY", Nil),
        ("KEYS *", List(&[])),
        ("TYPE a", Status("none")),
        ("MSET a 1 b 2 c 3 d 4", OK),
        ("DBSIZE", Int(4)),
        ("TYPE a", Status("string")),
        ("RANDOMKEY", OneOf(&[Bulk("a"), Bulk("b"), Bulk("c"), Bulk("d")])),
        ("KEYS *", Members(&["a", "b", "c", "d"])),
        ("KEYS [b-c]", Members(&["b", "c"])),
        ("KEYS a", Members(&["a"])),
        ("KEYS missing*", List(&[])),
        ("KEYS \"\"", List(&[])),
        ("FLUSHDB", OK),
        ("DBSIZE", Int(0)),
        ("MSET a 1 b 2 c 3", OK),
        ("FLUSHDB ASYNC", OK),
        ("GET a", Nil),
        ("MSET a 1 b 2 c 3", OK),
        ("FLUSHALL sync", OK),
        ("DBSIZE", Int(0)),
        ("FLUSHALL async", OK),
        ("FLUSHDB SYNC", OK),
        ("FLUSHALL NOSUCH", SYNTAX),
        ("FLUSHDB NOSUCH", SYNTAX),
        ("FLUSHDB SYNC ASYNC", SYNTAX),
    ]);
    each_transcript(&[
        ("MSET hello 1 hallo 1 hxllo 1 hllo 1 heello 1 h*llo 1 h?llo 1 h[llo 1 HELLO 1", OK),
        ("KEYS h?llo", Members(&["hello", "hallo", "hxllo", "h*llo", "h?llo", "h[llo"])),
        ("KEYS h*llo", Members(&["hello", "hallo", "hxllo", "hllo", "heello", "h*llo", "h?llo", "h[llo"])),
        ("KEYS h[ae]llo", Members(&["hello", "hallo"])),
        ("KEYS h[^e]llo", Members(&["hallo", "hxllo", "h*llo", "h?llo", "h[llo"])),
        ("KEYS h[a-e]llo", Members(&["hello", "hallo"])),
        ("KEYS h[e-a]llo", Members(&["hello", "hallo"])),
        ("KEYS h\\*llo", Members(&["h*llo"])),
        ("KEYS h\\?llo", Members(&["h?llo"])),
        ("KEYS h\\[llo", Members(&["h[llo"])),
        ("KEYS h[\\[]llo", Members(&["h[llo"])),
        ("KEYS *ee*", Members(&["heello"])),
        ("KEYS H*", Members(&["HELLO"])),
        ("KEYS **llo***", Members(&["hello", "hallo", "hxllo", "hllo", "heello", "h*llo", "h?llo", "h[llo"])),
        ("KEYS h[", List(&[])),
        ("KEYS h[llo", List(&[])),
    ]);
}

#[test]
fn scanning() {
    each_transcript(&[
        ("SCAN 0", List(&[Bulk("0"), List(&[])])),
        ("SET a 1", OK),
        ("SCAN 0 COUNT 1000", List(&[Bulk("0"), Members(&["a"])])),
        ("SCAN 0 COUNT 1000 MATCH b*", List(&[Bulk("0"), List(&[])])),
        ("SCAN 0 TYPE string COUNT 1000", List(&[Bulk("0"), Members(&["a"])])),
        ("SCAN 0 type STRING count 1000 match *", List(&[Bulk("0"), Members(&["a"])])),
        ("SCAN 0 TYPE hash COUNT 1000", List(&[Bulk("0"), List(&[])])),
        ("SCAN 0 TYPE nosuch COUNT 1000", List(&[Bulk("0"), List(&[])])),
        ("SCAN x", Error("ERR invalid cursor")),
        ("SCAN \" 0\"", Error("ERR invalid cursor")),
        ("SCAN 99999999999999999999999", Error("ERR invalid cursor")),
        ("SCAN 0 COUNT", SYNTAX),
        ("SCAN 0 COUNT 0", SYNTAX),
        ("SCAN 0 COUNT -1", SYNTAX),
        ("SCAN 0 COUNT x", NOT_AN_INTEGER),
        ("SCAN 0 MATCH", SYNTAX),
        ("SCAN 0 NOSUCH x", SYNTAX),
    ]);
    each(|client, _| {
        let mut keys: Vec<String> = (0..1000).map(|number| format!("key:{number}")).collect();
        for key in &keys {
            client.check(&format!("SET {key} x"), &OK);
        }
        keys.sort();
        assert_eq!(scan_all(client, ""), keys);
        assert_eq!(scan_all(client, "COUNT 1"), keys);
        assert_eq!(scan_all(client, "COUNT 100000"), keys);
        assert_eq!(scan_all(client, "MATCH key:99? COUNT 50 TYPE string").len(), 10);

        // Keys that are there from beginning to end are seen, whatever happens to others meanwhile.
        let mut seen = Vec::new();
        let mut cursor = "0".to_string();
        let mut step = 0;
        loop {
            let (next, mut some) = scan(client, &cursor, "COUNT 20");
            seen.append(&mut some);
            for number in step * 50..(step + 1) * 50 {
                client.check(&format!("SET other:{number} x"), &OK);
            }
            if step % 2 == 1 {
                client.check(&format!("DEL other:{}", step * 50), &Int(1));
            }
            step += 1;
            cursor = next;
            if cursor == "0" {
                break;
            }
        }
        seen.retain(|key| key.starts_with("key:"));
        seen.sort();
        seen.dedup();
        assert_eq!(seen, keys);
    });
}

/// One step of SCAN: the next cursor and the keys.
fn scan(client: &mut Client, cursor: &str, options: &str) -> (String, Vec<String>) {
    let reply = client.call_line(&format!("SCAN {cursor} {options}"));
    let text = String::from_utf8(reply).expect("the keys are text");
    let mut lines = text.split("\r\n");
    assert_eq!(lines.next(), Some("*2"), "{text}");
    let mut strings = lines.filter(|line| !line.starts_with(['$', '*'])).map(str::to_string);
    let cursor = strings.next().expect("a cursor");
    (cursor, strings.filter(|key| !key.is_empty()).collect())
}

/// Scans from beginning to end; sorted, each key once.
fn scan_all(client: &mut Client, options: &str) -> Vec<String> {
    let mut keys = Vec::new();
    let mut cursor = "0".to_string();
    loop {
        let (next, mut some) = scan(client, &cursor, options);
        keys.append(&mut some);
        cursor = next;
        if cursor == "0" {
            break;
        }
    }
    keys.sort();
    keys.dedup();
    keys
}

#[test]
fn commands_about_commands() {
    const GET: Want = ListLike(&[
        Bulk("get"),
        Int(2),
        Flags(&["readonly", "fast"]),
        Int(1),
        Int(1),
        Int(1),
        Flags(&["@read", "@string", "@fast"]),
    ]);
    const MSET: Want = ListLike(&[
        Bulk("mset"),
        Int(-3),
        Flags(&["write", "denyoom"]),
        Int(1),
        Int(-1),
        Int(2),
        Flags(&["@write", "@string", "@slow"]),
    ]);
    each_transcript(&[
        ("COMMAND COUNT", Between(50, 1000)),
        ("COMMAND INFO get", List(&[GET])),
        ("COMMAND INFO nosuch", List(&[Nil])),
        ("command info GET nosuch mset", List(&[GET, Nil, MSET])),
        ("COMMAND INFO ping", List(&[ListLike(&[Bulk("ping"), Int(-1)])])),
        ("COMMAND INFO scan", List(&[ListLike(&[Bulk("scan"), Int(-2)])])),
    ]);
    each(|client, _| {
        let count = client.call_line("COMMAND COUNT");
        let all = client.call_line("COMMAND");
        let info = client.call_line("COMMAND INFO");
        assert_eq!(all[1..].split(|byte| *byte == b'\r').next(), count[1..].split(|byte| *byte == b'\r').next());
        assert!(all.starts_with(b"*") && info.starts_with(b"*"));
        assert_eq!(all.len(), info.len());
    });
}

#[test]
fn config() {
    each_transcript(&[
        ("CONFIG GET nosuch", Map(&[])),
        ("CONFIG GET maxclients", Map(&[("maxclients", Bulk("10000"))])),
        // A name that is no pattern comes back as it was asked for.
        ("CONFIG GET MaxClients", Map(&[("MaxClients", Bulk("10000"))])),
        ("CONFIG GET appendonl?", Map(&[("appendonly", Bulk("no"))])),
        ("CONFIG GET maxclients maxclients", Map(&[("maxclients", Bulk("10000"))])),
        ("CONFIG SET timeout 100", OK),
        ("CONFIG GET timeout", Map(&[("timeout", Bulk("100"))])),
        ("config set TIMEOUT 0", OK),
        ("CONFIG GET timeout", Map(&[("timeout", Bulk("0"))])),
        ("CONFIG SET nosuch 1", Error("ERR Unknown option or number of arguments for CONFIG SET - 'nosuch'")),
        ("CONFIG SET timeout 1 nosuch 1", Error("ERR Unknown option or number of arguments for CONFIG SET - 'nosuch'")),
        (
            "CONFIG SET timeout x",
            ErrorLike("ERR CONFIG SET failed (possibly related to argument 'timeout') - argument couldn't be parsed"),
        ),
        (
            "CONFIG SET timeout -1",
            ErrorLike(
                "ERR CONFIG SET failed (possibly related to argument 'timeout') - argument must be between 0 and",
            ),
        ),
        (
            "CONFIG SET timeout 5 timeout 6",
            ErrorLike("ERR CONFIG SET failed (possibly related to argument 'timeout') - duplicate parameter"),
        ),
        // A refused CONFIG SET changes nothing.
        ("CONFIG GET timeout", Map(&[("timeout", Bulk("0"))])),
    ]);
    each(|client, server| {
        client.check("CONFIG SET requirepass secret", &OK);
        // Whoever is in stays in; a new connection is asked.
        client.check("PING", &Status("PONG"));
        let mut other = Client::connect(server.address());
        other.transcript(&[
            ("PING", Error("NOAUTH Authentication required.")),
            ("AUTH secret", OK),
            ("PING", Status("PONG")),
            ("CONFIG SET requirepass \"\"", OK),
        ]);
        Client::connect(server.address()).check("PING", &Status("PONG"));
    });
}

#[test]
fn clients() {
    each(|client, server| {
        client.transcript(&[
            ("CLIENT GETNAME", Nil),
            ("CLIENT SETNAME worker-1", OK),
            ("CLIENT GETNAME", Bulk("worker-1")),
            (
                "CLIENT SETNAME \"a b\"",
                Error("ERR Client names cannot contain spaces, newlines or special characters."),
            ),
            (
                "CLIENT SETNAME \"a\nb\"",
                Error("ERR Client names cannot contain spaces, newlines or special characters."),
            ),
            ("CLIENT GETNAME", Bulk("worker-1")),
            ("CLIENT SETNAME \"\"", OK),
            ("CLIENT GETNAME", Nil),
            ("CLIENT ID", Between(1, i64::MAX)),
        ]);
        let first = client.call_line("CLIENT ID");
        assert_eq!(client.call_line("CLIENT ID"), first);
        let mut other = Client::connect(server.address());
        assert_ne!(other.call_line("CLIENT ID"), first);
    });
    if skip_on_redis("CLIENT SETINFO came with 7.2") {
        return;
    }
    each(|client, _| {
        check_arity(client, "client|setinfo", &["CLIENT SETINFO lib-name"]);
        client.transcript(&[
            ("CLIENT SETINFO LIB-NAME redis-py", OK),
            ("CLIENT SETINFO lib-ver 5.0", OK),
            ("CLIENT SETINFO nosuch 5.0", Error("ERR Unrecognized option 'nosuch'")),
            (
                "CLIENT SETINFO lib-name \"a b\"",
                Error("ERR lib-name cannot contain spaces, newlines or special characters."),
            ),
        ]);
    });
}

#[test]
fn info_and_time() {
    each_transcript(&[
        ("INFO", Text(&["# Server\r\n", "redis_version:7.", "\r\n# Clients\r\nconnected_clients:", "# Memory"])),
        ("INFO server", Text(&["# Server\r\n", "redis_mode:standalone\r\n", "tcp_port:", "process_id:"])),
        ("info REPLICATION", Text(&["# Replication\r\nrole:master\r\n", "connected_slaves:0\r\n"])),
        ("INFO clients keyspace", Text(&["# Clients\r\n", "\r\n# Keyspace\r\n"])),
        ("INFO nosuch", Text(&[])),
        ("TIME", List(&[AnyBulk, AnyBulk])),
    ]);
    each(|client, server| {
        client.transcript(&[
            ("MSET a 1 b 2 c 3", OK),
            ("EXPIRE a 1000", Int(1)),
            ("INFO keyspace", Text(&["db0:keys=3,expires=1,avg_ttl="])),
            ("FLUSHALL", OK),
        ]);
        assert_eq!(info::number(client, "tcp_port"), u64::from(server.port()));
        assert!(!client.call_line("INFO server").windows(9).any(|window| window == b"# Clients"));
        assert!(!client.call_line("INFO keyspace").windows(4).any(|window| window == b"db0:"));

        let commands = info::number(client, "total_commands_processed");
        client.transcript(&[("PING", Status("PONG")), ("SET a 1", OK), ("GET a", Bulk("1"))]);
        assert!(info::number(client, "total_commands_processed") >= commands + 3);
        let hits = info::number(client, "keyspace_hits");
        let misses = info::number(client, "keyspace_misses");
        client.transcript(&[("GET a", Bulk("1")), ("GET b", Nil), ("MGET a b c", List(&[Bulk("1"), Nil, Nil]))]);
        assert_eq!(info::number(client, "keyspace_hits"), hits + 2);
        assert_eq!(info::number(client, "keyspace_misses"), misses + 3);
    });
}

#[test]
fn shutdown_with_wrong_arguments() {
    each_transcript(&[
        ("SHUTDOWN NOSUCH", SYNTAX),
        ("SHUTDOWN SAVE NOSAVE", SYNTAX),
        ("SHUTDOWN NOSAVE ABORT", SYNTAX),
        ("SHUTDOWN ABORT", Error("ERR No shutdown in progress.")),
        ("PING", Status("PONG")),
    ]);
}

/// Requests typed into a terminal: words in a line, quotes as in Redis.
#[test]
fn inline_requests() {
    each(|client, _| {
        for (line, want) in [
            ("PING\r\n", "+PONG\r\n"),
            ("ping\n", "+PONG\r\n"),
            ("   ECHO    spaced   \r\n", "$6\r\nspaced\r\n"),
            ("SET a \"x y\"\r\n", "+OK\r\n"),
            ("GET a\r\n", "$3\r\nx y\r\n"),
            ("ECHO 'single \"quoted\"'\r\n", "$15\r\nsingle \"quoted\"\r\n"),
            ("ECHO 'it\\'s'\r\n", "$4\r\nit's\r\n"),
            ("ECHO \"\\x41\\n\\\"\"\r\n", "$3\r\nA\n\"\r\n"),
            ("ECHO \"\"\r\n", "$0\r\n\r\n"),
            ("\r\n\r\n\n  \r\nPING\r\n", "+PONG\r\n"),
        ] {
            client.send_bytes(line.as_bytes());
            assert_eq!(String::from_utf8_lossy(&client.read_reply()), want, "{line:?}");
        }
    });
}

/// Keys and values are bytes: nothing in them means anything.
#[test]
fn binary_safety() {
    each(|client, _| {
        let all: Vec<u8> = (0..=255).collect();
        for key in [&all[..], b"\r\n", b"$-1\r\n", b"\0", b"{}", b"{", b"a}b{c"] {
            assert_eq!(client.call(&[b"SET", key, &all]), b"+OK\r\n");
            assert_eq!(client.call(&[b"GET", key]), common::client::bulk(&all));
            assert_eq!(client.call(&[b"APPEND", key, b"\r\n"]), b":258\r\n");
            assert_eq!(client.call(&[b"STRLEN", key]), b":258\r\n");
            assert_eq!(client.call(&[b"DEL", key]), b":1\r\n");
        }
        assert_eq!(client.call(&[b"ECHO", &all]), common::client::bulk(&all));
    });
}

/// Keys of one hash tag live together, and are still keys of their own.
#[test]
fn hash_tags() {
    each_transcript(&[
        ("MSET {tag}a 1 {tag}b 2 x{tag} 3", OK),
        ("MGET {tag}a {tag}b x{tag} {tag}", List(&[Bulk("1"), Bulk("2"), Bulk("3"), Nil])),
        ("DEL {tag}a {tag}b x{tag}", Int(3)),
    ]);
}

/// The redis crate, as an application would use it.
#[test]
fn a_real_client() {
    use redis::Commands;

    for shards in [1, 3] {
        let server = Server::start_sharded(shards, &[]);
        for (database, parameters) in [(0, ""), (1, ""), (0, "?protocol=resp3"), (2, "?protocol=resp3")] {
            let url = format!("redis://127.0.0.1:{}/{database}{parameters}", server.port());
            let client = redis::Client::open(url).expect("a good URL");
            let mut connection = client.get_connection().expect("the server listens");
            real_client_session(&mut connection).expect("every command succeeds");
            let wrong: redis::RedisResult<i64> = connection.set("text", "x").and_then(|()| connection.incr("text", 1));
            let text = wrong.expect_err("not a number").to_string();
            assert!(text.contains("value is not an integer or out of range"), "{text}");
        }
    }
}

fn real_client_session(connection: &mut redis::Connection) -> redis::RedisResult<()> {
    use redis::Commands;

    redis::cmd("FLUSHALL").exec(connection)?;
    let () = connection.set("user:7", "x")?;
    assert_eq!(connection.get::<_, Option<String>>("user:7")?.as_deref(), Some("x"));
    assert_eq!(connection.get::<_, Option<String>>("user:8")?, None);
    let () = connection.set_ex("session", vec![0_u8, 255, 13, 10], 100)?;
    assert_eq!(connection.get::<_, Vec<u8>>("session")?, [0, 255, 13, 10]);
    assert!(connection.ttl::<_, i64>("session")? > 90);
    assert_eq!(connection.incr::<_, _, i64>("hits", 5)?, 5);
    let () = connection.mset(&[("k1", 1), ("k2", 2), ("k3", 3)])?;
    assert_eq!(connection.mget::<_, Vec<Option<i64>>>(&["k1", "k2", "none", "k3"])?, [Some(1), Some(2), None, Some(3)]);
    let (set, got, counted): ((), String, i64) =
        redis::pipe().set("p", "q").get("p").incr("hits", 1).query(connection)?;
    let () = set;
    assert_eq!((got.as_str(), counted), ("q", 6));

    let mut keys: Vec<String> = connection.scan_match("k?")?.collect::<redis::RedisResult<_>>()?;
    keys.sort();
    assert_eq!(keys, ["k1", "k2", "k3"]);
    assert_eq!(connection.del::<_, i64>(&["k1", "k2", "k3", "none"])?, 3);
    assert!(connection.exists::<_, bool>("user:7")?);
    let timeout: std::collections::HashMap<String, String> =
        redis::cmd("CONFIG").arg("GET").arg("timeout").query(connection)?;
    assert_eq!(timeout["timeout"], "0");
    let info: redis::InfoDict = redis::cmd("INFO").query(connection)?;
    assert_eq!(info.get::<String>("role").as_deref(), Some("master"));
    Ok(())
}

/// Each command's reply in the dialect of its connection while connections of both dialects talk at once.
#[test]
fn dialects_side_by_side() {
    each(|client, server| {
        let mut other = Client::connect(server.address());
        let theirs = if client.dialect() == Resp2 { Resp3 } else { Dialect::Resp2 };
        other.speak(theirs);
        for key in ["a", "b", "c"] {
            client.check(&format!("GET {key}"), &Nil);
            other.check(&format!("GET {key}"), &Nil);
            client.check(&format!("MGET {key} x"), &List(&[Nil, Nil]));
            other.check(&format!("MGET {key} x"), &List(&[Nil, Nil]));
        }
    });
}
