//! The short form of the fuzz campaigns; the long form is in `engine/fuzz`, see README.md.

use std::fs;
use std::path::Path;

use torc_protocol::fuzz_bodies::mutated;

use super::pages;
use crate::log::format::{BatchHeader, PAGE_BYTES};
use crate::log::manifest::Manifest;
use crate::{log, snapshot};

/// Runs a target over its seeds, and over so many inputs that are made of them. A failure names the input: the file, or the
/// number of the mutation.
fn campaign(target: &str, inputs_made: u64, body: fn(&[u8])) {
    let (names, inputs): (Vec<String>, Vec<Vec<u8>>) = seeds(target).into_iter().unzip();
    let run = |name: &str, input: &[u8]| {
        let result = std::panic::catch_unwind(|| body(input));
        assert!(result.is_ok(), "{target}, {name}: {}", input.escape_ascii());
    };
    names.iter().zip(&inputs).for_each(|(name, input)| run(name, input));
    (0..inputs_made).for_each(|seed| run(&format!("mutation {seed}"), &mutated(&inputs, seed)));
}

/// The seeds of a target by their names.
fn seeds(target: &str) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(target);
    let files = fs::read_dir(&folder).expect("the seeds").map(|file| file.expect("a seed"));
    let mut seeds: Vec<_> = files
        .map(|file| (file.file_name().into_string().expect("UTF-8"), fs::read(file.path()).expect("a seed")))
        .collect();
    seeds.sort();
    seeds
}

/// A fuzzer that begins outside the format finds its checks and nothing behind them: a change of a format needs new seeds.
#[test]
fn what_is_called_sound_is_sound() {
    for target in ["batch", "segment", "manifest", "snapshot"] {
        let seeds: Vec<_> = seeds(target).into_iter().filter(|(name, _)| name.starts_with("sound")).collect();
        assert!(!seeds.is_empty(), "{target}");
        seeds.iter().for_each(|(name, seed)| assert!(is_sound(target, seed), "{target}, {name}"));
    }
}

fn is_sound(target: &str, seed: &[u8]) -> bool {
    match target {
        "batch" => {
            let mut page = seed.to_vec();
            page.resize(PAGE_BYTES, 0);
            BatchHeader::parse(&page).is_some_and(|header| header.payload(&page).is_some())
        }
        "segment" => log::fuzz_body::is_sound(&pages(&seed[1..])),
        "manifest" => Manifest::decode(seed).is_ok(),
        _ => snapshot::fuzz_body::content(&pages(&seed[1..]).concat()).is_ok(),
    }
}

#[test]
fn config() {
    campaign("config", 2_000, super::config);
}

#[test]
fn glob() {
    campaign("glob", 20_000, super::glob);
}

#[test]
fn batch() {
    campaign("batch", 20_000, super::batch);
}

#[test]
fn segment() {
    campaign("segment", 2_000, super::segment);
}

#[test]
fn log() {
    campaign("log", 2_000, super::log);
}

#[test]
fn manifest() {
    campaign("manifest", 20_000, super::manifest);
}

#[test]
fn snapshot() {
    campaign("snapshot", 2_000, super::snapshot);
}
