//! A server which writes down what a generator sends. The floor does not parse: it counts bytes, so it
//! answers rightly only if every request on a connection has one size, and it must be told which.
//!
//! GET is answered with a value, anything else with an error.

use crate::error::Error;
use crate::replies::{Scan, scan};
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// A generator which stops in the middle must not hold up the end.
const SILENCE: Duration = Duration::from_secs(10);

/// What one connection said.
#[derive(Clone, Debug, Default, PartialEq)]
struct Conversation {
    gets: u64,
    /// The different sizes of its GETs.
    get_bytes: Vec<usize>,
    /// Names of other commands, in order.
    others: Vec<String>,
    /// Bytes after the last whole request.
    rest: usize,
}

/// What a generator sends on its connections, when the floor can answer it.
#[derive(Clone, Debug, PartialEq)]
pub struct Requests {
    pub count: u64,
    pub bytes: usize,
    /// Commands on connections of their own, like a question for the server's settings.
    pub aside: Vec<String>,
}

pub struct Tap {
    pub port: u16,
    ending: Arc<AtomicBool>,
    conversations: Arc<Mutex<Vec<Conversation>>>,
    acceptor: Option<JoinHandle<()>>,
}

impl Tap {
    pub fn start(value_size: usize) -> Result<Tap, Error> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(Error::io("listen"))?;
        let port = listener.local_addr().map_err(Error::io("listen"))?.port();
        let ending = Arc::new(AtomicBool::new(false));
        let conversations = Arc::new(Mutex::new(Vec::new()));
        let reply = [format!("${value_size}\r\n").as_bytes(), &vec![b'x'; value_size], b"\r\n"].concat();
        let acceptor = thread::spawn({
            let (ending, conversations) = (ending.clone(), conversations.clone());
            move || accept(&listener, &reply, &ending, &conversations)
        });
        Ok(Tap { port, ending, conversations, acceptor: Some(acceptor) })
    }

    /// Waits until all connections are closed, and judges what was said.
    pub fn finish(mut self) -> Result<Requests, String> {
        self.end();
        judge(&self.conversations.lock().expect("no thread panics with the lock"))
    }

    fn end(&mut self) {
        self.ending.store(true, Ordering::Relaxed);
        if let Some(acceptor) = self.acceptor.take() {
            // A connection of our own ends its accept.
            let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port));
            acceptor.join().expect("the acceptor does not panic");
        }
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.end();
    }
}

fn accept(listener: &TcpListener, reply: &[u8], ending: &AtomicBool, conversations: &Mutex<Vec<Conversation>>) {
    thread::scope(|scope| {
        while let Ok((stream, _)) = listener.accept() {
            if ending.load(Ordering::Relaxed) {
                return;
            }
            scope.spawn(move || {
                let conversation = serve(stream, reply);
                conversations.lock().expect("no thread panics with the lock").push(conversation);
            });
        }
    });
}

/// Until the other side closes, breaks or falls silent.
fn serve(mut stream: TcpStream, reply: &[u8]) -> Conversation {
    let mut conversation = Conversation::default();
    let mut received = Vec::new();
    let mut chunk = vec![0; 65_536];
    let _ = stream.set_nodelay(true);
    let _ = stream.set_read_timeout(Some(SILENCE));
    loop {
        match stream.read(&mut chunk) {
            Ok(0) => break,
            Ok(bytes) => received.extend_from_slice(&chunk[..bytes]),
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(_) => break,
        }
        let answer = conversation.hear(&mut received, reply);
        if stream.write_all(&answer).is_err() {
            break;
        }
    }
    conversation.rest = received.len();
    conversation
}

impl Conversation {
    /// Takes the whole requests from `received`, and returns the replies to them.
    fn hear(&mut self, received: &mut Vec<u8>, reply: &[u8]) -> Vec<u8> {
        let mut answer = Vec::new();
        while let Scan::Complete { bytes } = scan(received) {
            let request: Vec<u8> = received.drain(..bytes).collect();
            let name = command_name(&request);
            if name == "GET" {
                self.gets += 1;
                if !self.get_bytes.contains(&bytes) {
                    self.get_bytes.push(bytes);
                }
                answer.extend_from_slice(reply);
            } else {
                self.others.push(name);
                answer.extend_from_slice(b"-ERR only GET is known here\r\n");
            }
        }
        answer
    }
}

/// The first word of `*2\r\n$3\r\nGET\r\n...`.
fn command_name(request: &[u8]) -> String {
    let text = String::from_utf8_lossy(request);
    text.split("\r\n").nth(2).unwrap_or_default().to_ascii_uppercase()
}

fn judge(conversations: &[Conversation]) -> Result<Requests, String> {
    let mut requests = Requests { count: 0, bytes: 0, aside: Vec::new() };
    for conversation in conversations {
        if conversation.rest > 0 {
            return Err(format!("left {} bytes which are no whole request", conversation.rest));
        }
        if conversation.gets == 0 {
            requests.aside.extend(conversation.others.iter().cloned());
            continue;
        }
        if !conversation.others.is_empty() {
            return Err(format!("sends {} among its GETs", conversation.others.join(", ")));
        }
        for &bytes in &conversation.get_bytes {
            if requests.bytes != 0 && requests.bytes != bytes {
                return Err(format!("sends GETs of {} and of {bytes} bytes", requests.bytes));
            }
            requests.bytes = bytes;
        }
        requests.count += conversation.gets;
    }
    if requests.count == 0 { Err("sent no GET".to_string()) } else { Ok(requests) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The beginning of a connection of memtier_benchmark 2.x, with the flags which `tools` gives it.
    const MEMTIER: &[u8] =
        b"*2\r\n$3\r\nGET\r\n$16\r\nkey:100000938922\r\n*2\r\n$3\r\nGET\r\n$16\r\nkey:100000852239\r\n";
    /// Of redis-benchmark 7.0.15.
    const REDIS_BENCHMARK: &[u8] =
        b"*2\r\n$3\r\nGET\r\n$16\r\nkey:000000000668\r\n*2\r\n$3\r\nGET\r\n$16\r\nkey:000000000454\r\n";
    /// Of redis-benchmark's first connection.
    const SETTINGS: &[u8] = b"*3\r\n$6\r\nCONFIG\r\n$3\r\nGET\r\n$4\r\nsave\r\n\
                              *3\r\n$6\r\nCONFIG\r\n$3\r\nGET\r\n$10\r\nappendonly\r\n";

    fn hear(bytes: &[u8]) -> Conversation {
        let mut conversation = Conversation::default();
        let mut received = Vec::new();
        for byte in bytes {
            received.push(*byte);
            conversation.hear(&mut received, b"$1\r\nx\r\n");
        }
        conversation.rest = received.len();
        conversation
    }

    #[test]
    fn captured_requests_have_one_size_which_is_ours() {
        let sizes = std::sync::Arc::new("32".parse().unwrap());
        let shape = crate::workload::Shape { key_bytes: 16, sizes, dialect: Default::default() };
        let ours = crate::workload::Template::new("get", &shape);
        let bytes = ours.unwrap().bytes.len();
        let expected = Requests { count: 2, bytes, aside: Vec::new() };
        assert_eq!(judge(&[hear(MEMTIER)]), Ok(expected.clone()));
        let aside = vec!["CONFIG".to_string(), "CONFIG".to_string()];
        assert_eq!(judge(&[hear(SETTINGS), hear(REDIS_BENCHMARK)]), Ok(Requests { aside, ..expected }));
    }

    #[test]
    fn what_would_confuse_the_floor_is_refused() {
        let short = b"*2\r\n$3\r\nGET\r\n$5\r\nkey:1\r\n";
        for (bytes, reason) in [
            ([SETTINGS, MEMTIER].concat(), "sends CONFIG, CONFIG among its GETs"),
            ([MEMTIER, short].concat(), "sends GETs of 36 and of 24 bytes"),
            (MEMTIER[..40].to_vec(), "left 4 bytes which are no whole request"),
            (SETTINGS.to_vec(), "sent no GET"),
        ] {
            assert_eq!(judge(&[hear(&bytes)]), Err(reason.to_string()));
        }
    }

    #[test]
    fn it_answers_and_counts_over_a_socket() {
        let tap = Tap::start(3).unwrap();
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, tap.port)).unwrap();
        stream.write_all(MEMTIER).unwrap();
        let mut replies = [0; 18];
        stream.read_exact(&mut replies).unwrap();
        assert_eq!(&replies, b"$3\r\nxxx\r\n$3\r\nxxx\r\n");
        drop(stream);
        assert_eq!(tap.finish().unwrap().count, 2);
    }
}
