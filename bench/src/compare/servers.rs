//! The processes under comparison: started, pinned, waited for, and ended whatever happens.

use crate::client::{Address, Client, Greeting, wait_for_port};
use crate::error::Error;
use crate::run::LoadArgs;
use crate::system;
use crate::workload::Dialect;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::str::FromStr;
use std::time::{Duration, Instant};

const START_TIMEOUT: Duration = Duration::from_secs(20);
const END_TIMEOUT: Duration = Duration::from_secs(5);
/// Between two looks whether a server serves, when that is timed.
const SERVING_LOOK: Duration = Duration::from_millis(1);
/// Ports that are tried.
const PORTS: u32 = 4_000;

/// `NAME=COMMAND` or `NAME=COMMAND;COMMAND`; `NAME+memcache=COMMAND` if it speaks memcached's protocol.
#[derive(Clone, Debug, PartialEq)]
pub struct ServerSpec {
    pub name: String,
    pub dialect: Dialect,
    pub commands: Vec<String>,
}

impl FromStr for ServerSpec {
    type Err = String;

    fn from_str(text: &str) -> Result<ServerSpec, String> {
        let (name, commands) = text.split_once('=').ok_or("a server is NAME=COMMAND")?;
        let commands: Vec<String> =
            commands.split(';').map(str::trim).filter(|command| !command.is_empty()).map(str::to_string).collect();
        if name.is_empty() || commands.is_empty() || !commands.iter().all(|command| command.contains("{port")) {
            return Err(format!("'{text}' is not NAME=COMMAND with {{port}} in each command"));
        }
        let (name, dialect) = match name.strip_suffix("+memcache") {
            Some(name) => (name, Dialect::Memcache),
            None => (name, Dialect::Resp),
        };
        Ok(ServerSpec { name: name.to_string(), dialect, commands })
    }
}

pub struct Server {
    pub name: String,
    pub version: String,
    pub commands: Vec<String>,
    pub ports: Vec<u16>,
    pub dialect: Dialect,
    pub is_floor: bool,
    processes: Vec<Process>,
}

impl Server {
    pub fn start(spec: &ServerSpec, cpus: &[usize]) -> Result<Server, Error> {
        let ports = free_ports(spec.commands.len())?;
        let mut server = Server {
            name: spec.name.clone(),
            version: version(&spec.commands[0]),
            commands: spec.commands.clone(),
            ports,
            dialect: spec.dialect,
            is_floor: false,
            processes: Vec::new(),
        };
        for (i, command) in spec.commands.iter().enumerate() {
            let line = with_ports(command, &server.ports, i);
            let mut shell = Command::new("sh");
            shell.args(["-c", &format!("exec {line}")]);
            server.processes.push(Process::start(shell, cpus_of(i, spec.commands.len(), cpus), &line)?);
        }
        Ok(server)
    }

    pub fn start_floor(kind: &str, command: &str, load: &LoadArgs, cpus: &[usize]) -> Result<Server, Error> {
        let count = cpus.len().max(1);
        let mut server = Server {
            name: format!("floor-{kind}"),
            version: format!("torc-bench {}", env!("CARGO_PKG_VERSION")),
            commands: vec![format!("torc-bench floor --kind {kind}")],
            ports: free_ports(count)?,
            dialect: Dialect::Resp,
            is_floor: true,
            processes: Vec::new(),
        };
        let program = std::env::current_exe().map_err(Error::io("find this program"))?;
        let buffers = (2 * load.connections.div_ceil(count)).next_power_of_two().clamp(64, 32_768);
        for (i, &port) in server.ports.iter().enumerate() {
            let mut floor = Command::new(&program);
            floor.args(["floor", "--kind", kind, "--command", command]);
            floor.args(["--port", &port.to_string(), "--buffers", &buffers.to_string()]);
            let value_bytes = load.value_size.fixed().unwrap_or(0);
            floor.args(["--key-size", &load.key_size.to_string(), "--value-size", &value_bytes.to_string()]);
            server.processes.push(Process::start(floor, cpus_of(i, count, cpus), &server.name)?);
        }
        Ok(server)
    }

    pub fn pids(&self) -> Vec<u32> {
        self.processes.iter().map(|process| process.child.id()).collect()
    }

    /// Of the first process.
    pub fn address(&self) -> Address {
        local(self.ports[0])
    }

    /// Ends all processes as a crash would, and returns when they are gone.
    pub fn kill(&mut self) -> Result<(), Error> {
        for process in &mut self.processes {
            process.child.kill().map_err(Error::io("kill a server"))?;
            process.child.wait().map_err(Error::io("wait for a server"))?;
        }
        Ok(())
    }

    /// Whether all processes are there, and the end of what the first one printed that is not.
    pub fn check_alive(&mut self) -> Result<(), Error> {
        for process in &mut self.processes {
            if let Some(status) = process.child.try_wait().map_err(Error::io("wait for a server"))? {
                return Err(Error::dead(&self.name, format!("ended by itself ({status}): {}", process.output())));
            }
        }
        Ok(())
    }

    /// Waits until the first process answers PING, which it refuses while it loads its data. Looks often, to be told the
    /// time.
    pub fn wait_until_serving(&mut self, bound: Duration) -> Result<(), Error> {
        let (start, address) = (Instant::now(), self.address());
        let left = || bound.saturating_sub(start.elapsed()).max(Duration::from_millis(1));
        let mut client = None;
        loop {
            system::check_interrupt()?;
            if client.is_none() {
                client = Client::connect(&address, left(), &Greeting::default()).ok();
            }
            let reply = client.as_mut().map(|client| client.call(&[b"PING"]));
            match reply {
                Some(Ok(_)) => return Ok(()),
                // Answers with an error: the connection is good for another try.
                Some(Err(Error::WrongReply { .. })) => {}
                _ => client = None,
            }
            self.check_alive()?;
            if start.elapsed() >= bound {
                let reason = format!("does not serve after {} s: {}", bound.as_secs(), self.processes[0].output());
                return Err(Error::dead(&self.name, reason));
            }
            std::thread::sleep(SERVING_LOOK);
        }
    }

    pub fn wait_until_listening(&mut self) -> Result<(), Error> {
        for (process, &port) in self.processes.iter_mut().zip(&self.ports) {
            let start = Instant::now();
            let address = local(port);
            while wait_for_port(&address, Duration::from_millis(100)).is_err() {
                system::check_interrupt()?;
                let status = process.child.try_wait().map_err(Error::io("wait for a server"))?;
                if status.is_some() || start.elapsed() > START_TIMEOUT {
                    return Err(Error::dead(&self.name, format!("did not start: {}", process.output())));
                }
            }
        }
        Ok(())
    }

    /// Waits until PING is answered (a server may refuse while loading), and asks for the version.
    pub fn wait_until_ready(&mut self, greeting: &Greeting) -> Result<(), Error> {
        self.wait_until_listening()?;
        if self.dialect == Dialect::Memcache {
            self.version = memcache_version(&local(self.ports[0]))?;
            return Ok(());
        }
        for &port in &self.ports {
            let address = local(port);
            let start = Instant::now();
            let mut client = loop {
                let client = Client::connect(&address, Duration::from_secs(2), greeting)
                    .and_then(|mut client| client.call(&[b"PING"]).map(|_| client));
                match client {
                    Ok(client) => break client,
                    Err(error) if start.elapsed() > START_TIMEOUT => return Err(error),
                    Err(_) => system::sleep(Duration::from_millis(50))?,
                }
            };
            if self.version.is_empty() {
                let info = client.call(&[b"INFO", b"server"]).unwrap_or_default();
                self.version = version_in_info(&String::from_utf8_lossy(&info));
            }
        }
        Ok(())
    }
}

fn local(port: u16) -> Address {
    Address::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
}

/// `VERSION 1.6.18`
fn memcache_version(address: &Address) -> Result<String, Error> {
    let dead = |error| Error::dead(address, error);
    let mut stream = address.connect(START_TIMEOUT).map_err(dead)?;
    stream.set_read_timeout(Some(START_TIMEOUT)).map_err(dead)?;
    stream.write_all(b"version\r\n").map_err(dead)?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).map_err(dead)?;
    match line.trim().strip_prefix("VERSION ") {
        Some(version) => Ok(format!("memcached {version}")),
        None => {
            let expected = "VERSION and a number".to_string();
            Err(Error::WrongReply { address: address.to_string(), expected, got: line.escape_debug().to_string() })
        }
    }
}

/// A child which does not outlive this one.
pub(crate) struct Process {
    pub(crate) child: Child,
    pub(crate) log: PathBuf,
}

impl Process {
    pub(crate) fn start(mut command: Command, cpus: Vec<usize>, line: &str) -> Result<Process, Error> {
        static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let log = std::env::temp_dir().join(format!("torc-bench-{}-{number}.log", std::process::id()));
        let output = File::create(&log).map_err(Error::io(format!("create {}", log.display())))?;
        let errors = output.try_clone().map_err(Error::io("duplicate a descriptor"))?;
        command.stdin(Stdio::null()).stdout(output).stderr(errors);
        // Its own group: Ctrl-C reaches us, and we end it.
        command.process_group(0);
        // SAFETY: both calls are async-signal-safe and allocate nothing. If we are killed with SIGKILL,
        // the kernel kills the child: it is started from the main thread, which lives as long as we do.
        unsafe {
            command.pre_exec(move || {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                system::pin_thread(&cpus)
            });
        }
        let child = command.spawn().map_err(Error::io(format!("start {line}")))?;
        Ok(Process { child, log })
    }

    /// The end of what it printed.
    fn output(&self) -> String {
        let text = std::fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&text[text.len().saturating_sub(1_000)..]).trim().to_string()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            // SAFETY: the child is not reaped, so its id is still its own.
            unsafe { libc::kill(self.child.id() as i32, libc::SIGTERM) };
        }
        let start = Instant::now();
        while matches!(self.child.try_wait(), Ok(None)) {
            if start.elapsed() > END_TIMEOUT {
                let _ = self.child.kill();
                let _ = self.child.wait();
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = std::fs::remove_file(&self.log);
    }
}

/// As many processes as cpus get one each; otherwise each may use all.
fn cpus_of(process: usize, processes: usize, cpus: &[usize]) -> Vec<usize> {
    if processes == cpus.len() { vec![cpus[process]] } else { cpus.to_vec() }
}

/// `{port}` is the first port, `{port2}` the second; in process i `{port}` is the i-th, unless it says which.
fn with_ports(command: &str, ports: &[u16], process: usize) -> String {
    let mut line = command.to_string();
    for (i, port) in ports.iter().enumerate() {
        line = line.replace(&format!("{{port{}}}", i + 1), &port.to_string());
    }
    line.replace("{port}", &ports[process].to_string())
}

/// Below the range from which the kernel takes ports for outgoing connections, among which a port that
/// was free a moment ago may be taken. Goes round after some thousand.
fn free_ports(count: usize) -> Result<Vec<u16>, Error> {
    static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let first = 20_000 + (std::process::id() % 8_000) as u16;
    let mut ports = Vec::new();
    for _ in 0..PORTS {
        if ports.len() == count {
            return Ok(ports);
        }
        let offset = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed) % PORTS;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, first + offset as u16)).is_ok() {
            ports.push(first + offset as u16);
        }
    }
    Err(Error::Usage("no free port".to_string()))
}

/// The first line of `PROGRAM --version`, empty if the program does not know the flag.
pub(crate) fn version(command: &str) -> String {
    let program = command.split_whitespace().next().unwrap_or_default();
    let output = Command::new("timeout").args(["2", program, "--version"]).stdin(Stdio::null()).output();
    match output {
        Ok(output) if output.status.success() => {
            String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().trim().to_string()
        }
        _ => String::new(),
    }
}

fn version_in_info(info: &str) -> String {
    let fields = ["torc_version:", "valkey_version:", "redis_version:"];
    let find = |field: &&str| info.lines().find(|line| line.starts_with(*field)).map(|line| line.trim().to_string());
    fields.iter().find_map(find).unwrap_or_else(|| "unknown".to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_parse_and_get_their_ports() {
        let spec: ServerSpec = "two=redis --port {port};redis --port {port2}".parse().unwrap();
        assert_eq!((&spec.name[..], spec.commands.len()), ("two", 2));
        assert_eq!(with_ports(&spec.commands[0], &[7001, 7002], 0), "redis --port 7001");
        assert_eq!(with_ports(&spec.commands[1], &[7001, 7002], 1), "redis --port 7002");
        assert_eq!(with_ports("redis --port {port}", &[7001, 7002], 1), "redis --port 7002");
        assert_eq!(spec.dialect, Dialect::Resp);
        let spec: ServerSpec = "m+memcache=memcached -p {port}".parse().unwrap();
        assert_eq!((&spec.name[..], spec.dialect), ("m", Dialect::Memcache));
        assert!("redis".parse::<ServerSpec>().is_err());
        assert!("a=redis".parse::<ServerSpec>().is_err());
    }

    #[test]
    fn versions_are_found_in_info() {
        let info = "# Server\r\nredis_version:7.2.4\r\nvalkey_version:8.1\r\n";
        assert_eq!(version_in_info(info), "valkey_version:8.1");
        assert_eq!(version_in_info(""), "unknown");
    }

    #[test]
    fn as_many_processes_as_cpus_get_one_each() {
        assert_eq!(cpus_of(1, 2, &[0, 3]), [3]);
        assert_eq!(cpus_of(0, 1, &[0, 3]), [0, 3]);
    }
}
