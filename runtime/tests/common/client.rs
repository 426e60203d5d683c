//! A client that understands just enough RESP to know where a reply ends, and hands it over untouched.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};

use super::server::{PATIENCE, wait_until};
use super::want::{Dialect, Want};

/// One connection.
pub struct Client {
    stream: TcpStream,
    dialect: Dialect,
    /// What was received; the first `taken` bytes have been handed out.
    received: Vec<u8>,
    taken: usize,
}

impl Client {
    pub fn connect(address: SocketAddr) -> Client {
        Client::from_stream(TcpStream::connect(address).expect("the server listens"))
    }

    pub fn from_stream(stream: TcpStream) -> Client {
        stream.set_nodelay(true).expect("a TCP socket");
        stream.set_read_timeout(Some(PATIENCE)).expect("not zero");
        stream.set_write_timeout(Some(PATIENCE)).expect("not zero");
        Client { stream, dialect: Dialect::Resp2, received: Vec::new(), taken: 0 }
    }

    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    pub fn dialect(&self) -> Dialect {
        self.dialect
    }

    /// Says HELLO.
    pub fn speak(&mut self, dialect: Dialect) {
        let version: &[u8] = match dialect {
            Dialect::Resp2 => b"2",
            Dialect::Resp3 => b"3",
        };
        let reply = self.call(&[b"HELLO", version]);
        assert!(!reply.starts_with(b"-"), "{}", reply.escape_ascii());
        self.dialect = dialect;
    }

    /// What the next replies are to be read as, after a command that changed it on the server.
    pub fn expect_dialect(&mut self, dialect: Dialect) {
        self.dialect = dialect;
    }

    pub fn send_bytes(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("the server reads");
    }

    /// One command, one raw reply.
    pub fn call(&mut self, arguments: &[&[u8]]) -> Vec<u8> {
        self.send_bytes(&encode(arguments));
        self.read_reply()
    }

    /// A command written as text (see `words`).
    pub fn call_line(&mut self, line: &str) -> Vec<u8> {
        let words = words(line);
        let arguments: Vec<&[u8]> = words.iter().map(Vec::as_slice).collect();
        self.call(&arguments)
    }

    /// Runs a command and compares its reply, byte for byte where the wanted reply says every byte.
    #[track_caller]
    pub fn check(&mut self, line: &str, want: &Want) {
        let reply = self.call_line(line);
        assert!(
            want.matches(self.dialect, &reply),
            "{:?}: {line}\n  wanted {want:?}\n  got    {}",
            self.dialect,
            reply.escape_ascii()
        );
    }

    /// Runs commands one after the other.
    #[track_caller]
    pub fn transcript(&mut self, rows: &[(&str, Want)]) {
        for (line, want) in rows {
            self.check(line, want);
        }
    }

    /// Waits until a key with a time to live has gone.
    pub fn wait_until_gone(&mut self, key: &str) {
        wait_until(&format!("{key} expires"), || self.call(&[b"EXISTS", key.as_bytes()]) == b":0\r\n");
    }

    /// The next whole reply, raw.
    pub fn read_reply(&mut self) -> Vec<u8> {
        self.try_read_reply().expect("a reply comes").expect("the connection stays open")
    }

    /// The same; None when the server has closed the connection instead.
    pub fn try_read_reply(&mut self) -> io::Result<Option<Vec<u8>>> {
        loop {
            if let Some(len) = reply_len(&self.received[self.taken..]) {
                let reply = self.received[self.taken..][..len].to_vec();
                self.taken += len;
                return Ok(Some(reply));
            }
            if self.receive()? == 0 {
                let rest = &self.received[self.taken..];
                assert!(rest.is_empty(), "closed inside a reply: {}", rest[..rest.len().min(200)].escape_ascii());
                return Ok(None);
            }
        }
    }

    /// Everything until the server closes. A reset counts as a close: it is one that came with bytes unread.
    pub fn read_to_close(&mut self) -> Vec<u8> {
        loop {
            match self.receive() {
                Ok(0) => return self.received.split_off(self.taken),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                    return self.received.split_off(self.taken);
                }
                Err(error) => panic!("the server should have closed: {error}"),
            }
        }
    }

    /// Closes the sending side only.
    pub fn shut_down_writing(&mut self) {
        self.stream.shutdown(Shutdown::Write).expect("the server is there");
    }

    fn receive(&mut self) -> io::Result<usize> {
        if self.taken == self.received.len() {
            self.received.clear();
            self.taken = 0;
        } else if self.taken > 1 << 20 {
            self.received.drain(..self.taken);
            self.taken = 0;
        }
        let old = self.received.len();
        // A reply that has grown large is read in large pieces.
        let room = old.clamp(16 << 10, 4 << 20);
        self.received.resize(old + room, 0);
        let result = self.stream.read(&mut self.received[old..]);
        self.received.truncate(old + result.as_ref().map_or(0, |count| *count));
        result
    }
}

/// A request as clients send it.
pub fn encode(arguments: &[&[u8]]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", arguments.len()).into_bytes();
    for argument in arguments {
        bytes.extend_from_slice(format!("${}\r\n", argument.len()).as_bytes());
        bytes.extend_from_slice(argument);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
}

/// A bulk string as servers answer it.
pub fn bulk(value: &[u8]) -> Vec<u8> {
    let mut bytes = format!("${}\r\n", value.len()).into_bytes();
    bytes.extend_from_slice(value);
    bytes.extend_from_slice(b"\r\n");
    bytes
}

/// Splits at spaces; double quotes keep spaces and write the empty argument: `SET key ""`.
pub fn words(line: &str) -> Vec<Vec<u8>> {
    let mut words = Vec::new();
    let mut word: Option<Vec<u8>> = None;
    let mut quoted = false;
    for byte in line.bytes() {
        match byte {
            b'"' => {
                quoted = !quoted;
                word.get_or_insert_default();
            }
            b' ' if !quoted => words.extend(word.take()),
            _ => word.get_or_insert_default().push(byte),
        }
    }
    assert!(!quoted, "unbalanced quotes in {line}");
    words.extend(word);
    words
}

/// Length of the first reply in `bytes`; None when it is not all there.
pub fn reply_len(bytes: &[u8]) -> Option<usize> {
    let line_end = bytes.windows(2).position(|pair| pair == b"\r\n")?;
    let mut len = line_end + 2;
    let number = || -> i64 {
        let digits = std::str::from_utf8(&bytes[1..line_end]).ok();
        digits.and_then(|digits| digits.parse().ok()).unwrap_or_else(|| {
            panic!("not a length: {}", bytes[..line_end].escape_ascii());
        })
    };
    let parts = match bytes[0] {
        b'+' | b'-' | b':' | b'_' | b',' | b'#' | b'(' => 0,
        b'$' | b'=' | b'!' => {
            if number() >= 0 {
                len += number() as usize + 2;
            }
            0
        }
        b'*' | b'~' | b'>' => number().max(0),
        b'%' => 2 * number(),
        _ => panic!("not a reply: {}", bytes[..bytes.len().min(200)].escape_ascii()),
    };
    for _ in 0..parts {
        len += reply_len(bytes.get(len..)?)?;
    }
    (len <= bytes.len()).then_some(len)
}
