//! A small blocking client: connecting, greeting, and the few calls which are not load.

use crate::error::Error;
use crate::replies::{Scan, scan};
use socket2::{Domain, SockAddr, Socket, Type};
use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Where a server listens.
#[derive(Clone, Debug, PartialEq)]
pub enum Address {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp(address) => address.fmt(f),
            Address::Unix(path) => path.display().fmt(f),
        }
    }
}

impl Address {
    /// A blocking connection, without Nagle's delay.
    pub fn connect(&self, timeout: Duration) -> io::Result<Socket> {
        match self {
            Address::Tcp(address) => {
                let socket = Socket::new(Domain::for_address(*address), Type::STREAM, None)?;
                socket.connect_timeout(&SockAddr::from(*address), timeout)?;
                socket.set_tcp_nodelay(true)?;
                Ok(socket)
            }
            Address::Unix(path) => {
                let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
                let (address, start) = (SockAddr::unix(path)?, Instant::now());
                socket.set_nonblocking(true)?;
                // A full queue of connections is no reason to wait in the kernel, where nothing ends it.
                while let Err(error) = socket.connect(&address) {
                    if error.kind() != ErrorKind::WouldBlock || start.elapsed() >= timeout {
                        return Err(error);
                    }
                    crate::system::sleep(Duration::from_millis(10)).map_err(io::Error::other)?;
                }
                socket.set_nonblocking(false)?;
                Ok(socket)
            }
        }
    }
}

/// What a connection says before its first request.
#[derive(Clone, Debug, Default)]
pub struct Greeting {
    /// `password` or `user:password`.
    pub auth: Option<String>,
    pub resp3: bool,
}

/// How much is read at once.
const CHUNK_BYTES: usize = 65_536;

pub struct Client {
    pub stream: Socket,
    address: Address,
    timeout: Duration,
    received: Vec<u8>,
}

pub fn resolve(host: &str, port: u16) -> Result<Address, Error> {
    let mut addresses = (host, port).to_socket_addrs().map_err(Error::io(format!("resolve {host}")))?;
    let address = addresses.next().ok_or_else(|| Error::Usage(format!("{host} has no address")))?;
    Ok(Address::Tcp(address))
}

impl Client {
    pub fn connect(address: &Address, timeout: Duration, greeting: &Greeting) -> Result<Client, Error> {
        let dead = |error| Error::dead(address, error);
        let stream = address.connect(timeout).map_err(dead)?;
        stream.set_read_timeout(Some(timeout)).map_err(dead)?;
        let mut client = Client { stream, address: address.clone(), timeout, received: Vec::new() };
        if let Some(auth) = &greeting.auth {
            let words: Vec<&[u8]> = match auth.split_once(':') {
                Some((user, password)) => vec![b"AUTH", user.as_bytes(), password.as_bytes()],
                None => vec![b"AUTH", auth.as_bytes()],
            };
            client.call(&words)?;
        }
        if greeting.resp3 {
            client.call(&[b"HELLO", b"3"])?;
        }
        if !client.received.is_empty() {
            return Err(client.wrong("no reply that was not asked for".to_string(), &client.received));
        }
        Ok(client)
    }

    /// Sends one command and returns its whole reply; an error reply is an error.
    pub fn call(&mut self, words: &[&[u8]]) -> Result<Vec<u8>, Error> {
        let mut request = Vec::new();
        write_request(&mut request, words);
        self.send(&request)?;
        let mut reply = Vec::new();
        self.replies(1, |bytes| reply.extend_from_slice(bytes))?;
        if reply.starts_with(b"-") {
            let expected = format!("no error for {}", words[0].escape_ascii());
            return Err(self.wrong(expected, &reply));
        }
        Ok(reply)
    }

    /// The integer that a command is answered with.
    pub fn integer(&mut self, words: &[&[u8]]) -> Result<u64, Error> {
        let reply = self.call(words)?;
        let text = std::str::from_utf8(&reply).unwrap_or_default();
        let number = text.strip_prefix(':').and_then(|text| text.trim().parse().ok());
        number.ok_or_else(|| self.wrong("an integer".to_string(), &reply))
    }

    /// A number of a section of INFO.
    pub fn info(&mut self, section: &str, field: &str) -> Result<u64, Error> {
        let reply = self.call(&[b"INFO", section.as_bytes()])?;
        let text = String::from_utf8_lossy(&reply);
        let value = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        let number = value.and_then(|value| value.trim().parse().ok());
        number.ok_or_else(|| self.wrong(format!("{field} in INFO {section}"), &reply))
    }

    /// A number that CONFIG GET gives; nothing if the server has no such parameter, or one that is no number.
    pub fn config(&mut self, name: &str) -> Result<Option<u64>, Error> {
        let reply = self.call(&[b"CONFIG", b"GET", name.as_bytes()])?;
        Ok(String::from_utf8_lossy(&reply).lines().nth(4).and_then(|value| value.trim().parse().ok()))
    }

    /// Sends requests without waiting for what they are answered with.
    pub fn send(&mut self, requests: &[u8]) -> Result<(), Error> {
        self.stream.write_all(requests).map_err(|error| Error::dead(&self.address, error))
    }

    /// Waits for `count` replies and hands over each, whole.
    pub fn replies(&mut self, count: usize, mut take: impl FnMut(&[u8])) -> Result<(), Error> {
        let mut start = Instant::now();
        // How much of what was received belongs to replies that were handed over.
        let (mut taken, mut left) = (0, count);
        while left > 0 {
            match scan(&self.received[taken..]) {
                Scan::Complete { bytes } => {
                    take(&self.received[taken..taken + bytes]);
                    (taken, left) = (taken + bytes, left - 1);
                    continue;
                }
                Scan::Invalid => return Err(self.wrong("RESP".to_string(), &self.received[taken..])),
                Scan::Incomplete { .. } => {}
            }
            self.received.drain(..taken);
            taken = 0;
            let length = self.received.len();
            self.received.resize(length + CHUNK_BYTES, 0);
            let read = self.stream.read(&mut self.received[length..]);
            self.received.truncate(length + *read.as_ref().unwrap_or(&0));
            match read {
                Ok(0) => return Err(Error::dead(&self.address, "closed the connection")),
                Ok(_) => start = Instant::now(),
                Err(error) if error.kind() == ErrorKind::Interrupted => crate::system::check_interrupt()?,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(Error::dead(&self.address, error)),
            }
            if start.elapsed() >= self.timeout {
                let waited_ms = self.timeout.as_millis() as u64;
                return Err(Error::MissingReply { address: self.address.to_string(), outstanding: left, waited_ms });
            }
        }
        self.received.drain(..taken);
        Ok(())
    }

    pub fn wrong(&self, expected: String, got: &[u8]) -> Error {
        let got = got[..got.len().min(200)].escape_ascii().to_string();
        Error::WrongReply { address: self.address.to_string(), expected, got }
    }
}

/// By which error replies are counted: `OOM` of `-OOM command not allowed`.
pub fn first_word(reply: &[u8]) -> String {
    let text = String::from_utf8_lossy(reply);
    text.trim_start_matches('-').split_whitespace().next().unwrap_or_default().to_string()
}

/// Appends a command as RESP.
pub fn write_request(out: &mut Vec<u8>, words: &[&[u8]]) {
    write_length(out, b'*', words.len());
    for word in words {
        write_length(out, b'$', word.len());
        out.extend_from_slice(word);
        out.extend_from_slice(b"\r\n");
    }
}

fn write_length(out: &mut Vec<u8>, kind: u8, length: usize) {
    out.push(kind);
    write!(out, "{length}\r\n").expect("a vector takes all");
}

/// Waits until something accepts connections there.
pub fn wait_for_port(address: &Address, timeout: Duration) -> Result<(), Error> {
    let start = Instant::now();
    loop {
        match address.connect(timeout) {
            Ok(_) => return Ok(()),
            Err(error) if start.elapsed() >= timeout => return Err(Error::dead(address, error)),
            Err(_) => crate::system::sleep(Duration::from_millis(20))?,
        }
    }
}
