//! The binary starts, serves a round of PINGs on many connections over three shards whichever way shards wake each
//! other, and stops with status 0. Start here when nothing works; the other files say what does not.

mod common;

use std::io::{Read, Write};
use std::net::TcpStream;

use common::server::Server;
use rustix::process::Signal;

fn serves(wakeup: &str) {
    let server = Server::start_sharded(3, &["--wakeup", wakeup]);
    let mut connections: Vec<TcpStream> =
        (0..30).map(|_| TcpStream::connect(server.address()).expect("the server listens")).collect();
    for round in 0..10 {
        for connection in &mut connections {
            // Keys of all shards, so that shards have to wake each other.
            let command = format!("PING\r\nSET key:{round} x\r\n");
            connection.write_all(command.as_bytes()).expect("the server reads");
        }
        for connection in &mut connections {
            let mut reply = [0; 12];
            connection.read_exact(&mut reply).expect("the server answers");
            assert_eq!(&reply, b"+PONG\r\n+OK\r\n");
        }
    }
    server.signal(Signal::TERM);
    let (status, output) = server.wait_for_exit();
    assert!(status.success(), "{status}\n{output}");
}

#[test]
fn serves_when_rings_wake_each_other() {
    serves("auto");
}

#[test]
fn serves_when_event_descriptors_wake() {
    serves("eventfd");
}
