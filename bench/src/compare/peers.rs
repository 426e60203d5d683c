//! The servers that are compared if none is named: Torc, and every peer that is found.

use super::servers::ServerSpec;
use crate::error::Error;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// A peer, and how it is started with `{program}`, `{threads}` and `{cpus}`. `{port}` is left for later.
struct Peer {
    name: &'static str,
    /// What its program may be called.
    programs: &'static [&'static str],
    command: &'static str,
    /// Uses one core only, so that several cores get several of it, with the keys split between them.
    one_core: bool,
}

const PEERS: &[Peer] = &[
    Peer {
        name: "torc",
        programs: &["torc"],
        command: "{program} --appendonly no --port {port} --cores {cpus}",
        one_core: false,
    },
    Peer {
        name: "redis",
        programs: &["redis-server"],
        command: "{program} --bind 127.0.0.1 --save '' --appendonly no --port {port}",
        one_core: true,
    },
    Peer {
        name: "valkey",
        programs: &["valkey-server"],
        command: "{program} --bind 127.0.0.1 --save '' --appendonly no --port {port}",
        one_core: true,
    },
    Peer {
        name: "memcached+memcache",
        programs: &["memcached"],
        // As root it wants to be told who it shall be.
        command: "{program} -u $(id -un) -l 127.0.0.1 -p {port} -U 0 -t {threads} -m 4096 -c 4096",
        one_core: false,
    },
    Peer {
        name: "pogocache",
        programs: &["pogocache"],
        command: "{program} -h 127.0.0.1 -p {port} --threads={threads}",
        one_core: false,
    },
    Peer {
        name: "dragonfly",
        programs: &["dragonfly", "dragonfly-x86_64", "dragonfly-aarch64"],
        command: "{program} --bind 127.0.0.1 --port {port} --proactor_threads={threads} --dbfilename=",
        one_core: false,
    },
    Peer {
        name: "garnet",
        programs: &["garnet-server", "GarnetServer"],
        command: "{program} --bind 127.0.0.1 --port {port}",
        one_core: false,
    },
];

/// `redis=/opt/redis/redis-server`: where a peer is that is not on the PATH.
#[derive(Clone, Debug, PartialEq)]
pub struct PeerPath {
    name: String,
    path: PathBuf,
}

impl FromStr for PeerPath {
    type Err = String;

    fn from_str(text: &str) -> Result<PeerPath, String> {
        let names = || PEERS.iter().map(Peer::plain_name).collect::<Vec<_>>().join(", ");
        match text.split_once('=') {
            Some((name, path)) if PEERS.iter().any(|peer| peer.plain_name() == name) => {
                Ok(PeerPath { name: name.to_string(), path: PathBuf::from(path) })
            }
            _ => Err(format!("'{text}' is not NAME=PATH with one of the names {}", names())),
        }
    }
}

impl Peer {
    fn plain_name(&self) -> &'static str {
        self.name.split('+').next().unwrap_or(self.name)
    }

    fn spec(&self, program: &Path, cpus: &[usize]) -> Result<ServerSpec, Error> {
        let list = cpus.iter().map(usize::to_string).collect::<Vec<_>>().join(",");
        // As it would be typed here.
        let here = std::env::current_dir().unwrap_or_default();
        let program = program.strip_prefix(here).unwrap_or(program).display().to_string();
        let plain = program.chars().all(|c| c.is_ascii_alphanumeric() || "/-_.".contains(c));
        let program = if plain { program } else { format!("'{program}'") };
        let command = self.command.replace("{program}", &program).replace("{cpus}", &list);
        let command = command.replace("{threads}", &cpus.len().to_string());
        let commands = match (self.one_core, cpus.len()) {
            (true, 2..) => (1..=cpus.len()).map(|i| command.replace("{port}", &format!("{{port{i}}}"))).collect(),
            _ => vec![command],
        };
        format!("{}={}", self.name, commands.join(";")).parse().map_err(Error::Usage)
    }
}

/// Torc beside this program or on the PATH, and the peers, on the PATH or where `paths` says, each on all of `cpus`.
pub fn find(paths: &[PeerPath], cpus: &[usize]) -> Result<Vec<ServerSpec>, Error> {
    let beside = std::env::current_exe().ok().and_then(|path| path.parent().map(Path::to_path_buf));
    let search = std::env::var_os("PATH").unwrap_or_default();
    let mut found = Vec::new();
    for peer in PEERS {
        let named = paths.iter().find(|path| path.name == peer.plain_name());
        if let Some(PeerPath { path, .. }) = named
            && !path.is_file()
        {
            return Err(Error::Usage(format!("--peer {}: {} is no file", peer.plain_name(), path.display())));
        }
        // Only Torc's own program lies beside this one.
        let folders = beside.iter().filter(|_| peer.name == "torc").cloned().chain(std::env::split_paths(&search));
        let candidates = folders.flat_map(|folder| peer.programs.iter().map(move |program| folder.join(program)));
        let program =
            named.map(|named| named.path.clone()).or_else(|| candidates.into_iter().find(|path| path.is_file()));
        match program {
            Some(program) => found.push(peer.spec(&program, cpus)?),
            None => eprintln!("{} is not found and left out", peer.plain_name()),
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::Dialect;

    fn spec(name: &str, cpus: &[usize]) -> ServerSpec {
        PEERS.iter().find(|peer| peer.plain_name() == name).unwrap().spec(Path::new("/opt/x y"), cpus).unwrap()
    }

    #[test]
    fn a_peer_gets_all_the_cores_in_its_own_way() {
        assert_eq!(spec("torc", &[0, 2]).commands, ["'/opt/x y' --appendonly no --port {port} --cores 0,2"]);
        assert_eq!(spec("redis", &[0]).commands.len(), 1);
        let two = spec("valkey", &[0, 1]).commands;
        assert!(two.len() == 2 && two[0].ends_with("{port1}") && two[1].ends_with("{port2}"), "{two:?}");
        let memcached = spec("memcached", &[0, 1]);
        assert_eq!((&memcached.name[..], memcached.dialect), ("memcached", Dialect::Memcache));
        assert!(memcached.commands[0].contains("-t 2 "));
    }

    #[test]
    fn paths_of_peers_are_checked() {
        let here = PeerPath { name: "redis".to_string(), path: PathBuf::from("/x/y=z") };
        assert_eq!("redis=/x/y=z".parse(), Ok(here.clone()));
        assert!("nosuch=/x".parse::<PeerPath>().unwrap_err().contains("valkey"));
        assert!(find(&[here], &[0]).is_err());
    }
}
