//! Which cores get a shard, and pinning a thread to one.

use core_affinity::CoreId;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use thiserror::Error;
use torc_engine::config::Cores;

/// Why the cores asked for cannot be had.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum PlaceError {
    #[error("cannot find out on which cores this process may run (sched_getaffinity)")]
    Unknown,
    #[error("--cores: core {core} does not exist or is not allowed here; this process may run on {allowed}")]
    NotAllowed { core: usize, allowed: String },
    #[error("--cores: at least one core is needed")]
    None,
    #[error("cannot pin a shard to core {core} (sched_setaffinity)")]
    Pin { core: usize },
}

/// A core per shard.
#[derive(Debug, PartialEq, Eq)]
pub struct Places {
    pub cores: Vec<usize>,
    /// Some core has more than one shard: a shard that spins there only keeps the other from running.
    pub crowded: bool,
}

/// The cores of the setting, checked against those this process may run on.
pub fn choose(cores: &Cores) -> Result<Places, PlaceError> {
    let allowed: Vec<usize> =
        core_affinity::get_core_ids().ok_or(PlaceError::Unknown)?.into_iter().map(|core| core.id).collect();
    choose_from(cores, &allowed)
}

fn choose_from(cores: &Cores, allowed: &[usize]) -> Result<Places, PlaceError> {
    let cores = match cores {
        Cores::Auto => allowed.to_vec(),
        Cores::List(list) => list.clone(),
    };
    if cores.is_empty() {
        return Err(PlaceError::None);
    }
    if let Some(&core) = cores.iter().find(|core| !allowed.contains(core)) {
        return Err(PlaceError::NotAllowed { core, allowed: ranges(allowed) });
    }
    let mut distinct = cores.clone();
    distinct.sort_unstable();
    distinct.dedup();
    let crowded = distinct.len() < cores.len();
    Ok(Places { cores, crowded })
}

/// Pins the calling thread.
pub fn pin(core: usize) -> Result<(), PlaceError> {
    match core_affinity::set_for_current(CoreId { id: core }) {
        true => Ok(()),
        false => Err(PlaceError::Pin { core }),
    }
}

/// Moves the calling thread to the cores that it may use beside these, if there are any.
pub fn keep_off(cores: &[usize]) {
    let Ok(mut set) = sched_getaffinity(None) else { return };
    cores.iter().filter(|&&core| core < CpuSet::MAX_CPU).for_each(|&core| set.unset(core));
    if set.count() > 0 {
        // What is not allowed stays as it is.
        let _ = sched_setaffinity(None, &set);
    }
}

/// The cores that the process may use beside these.
pub fn others(cores: &[usize]) -> Vec<usize> {
    // Of the main thread, which is not pinned.
    let Ok(set) = sched_getaffinity(Some(rustix::process::getpid())) else { return Vec::new() };
    (0..CpuSet::MAX_CPU).filter(|core| set.is_set(*core) && !cores.contains(core)).collect()
}

/// `0-3,6`.
pub fn ranges(cores: &[usize]) -> String {
    let mut text = String::new();
    let mut rest = cores;
    while let [first, ..] = rest {
        let run = rest.iter().enumerate().take_while(|(offset, core)| **core == first + offset).count();
        if !text.is_empty() {
            text.push(',');
        }
        text += &match run {
            1 => first.to_string(),
            _ => format!("{first}-{}", first + run - 1),
        };
        rest = &rest[run..];
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auto_takes_all_and_a_list_what_it_names() {
        let choose = |cores| choose_from(&cores, &[0, 1, 2, 5]);
        assert_eq!(choose(Cores::Auto).unwrap(), Places { cores: vec![0, 1, 2, 5], crowded: false });
        assert_eq!(choose(Cores::List(vec![5, 1])).unwrap(), Places { cores: vec![5, 1], crowded: false });
        assert_eq!(choose(Cores::List(vec![0, 1, 0])).unwrap(), Places { cores: vec![0, 1, 0], crowded: true });
        assert_eq!(choose(Cores::List(vec![])), Err(PlaceError::None));
        let error = choose(Cores::List(vec![0, 4])).unwrap_err();
        assert_eq!(
            error.to_string(),
            "--cores: core 4 does not exist or is not allowed here; this process may run on 0-2,5"
        );
    }

    #[test]
    fn ranges_are_short() {
        for (cores, text) in [(&[][..], ""), (&[3], "3"), (&[0, 1, 2, 3, 6], "0-3,6"), (&[1, 0, 1], "1,0-1")] {
            assert_eq!(ranges(cores), text);
        }
    }

    #[test]
    fn pinning_to_a_core_of_ours_works() {
        let places = choose(&Cores::Auto).unwrap();
        std::thread::spawn(move || pin(places.cores[0]).unwrap()).join().unwrap();
    }
}
