//! The short form of the fuzz campaigns: the same bodies over the inputs in `fuzz/seeds/`, and over some thousands that are
//! made of them. The long form is in `fuzz/`, see README.md.

use std::fs;
use std::path::Path;

use torc_protocol::fuzz_bodies;

const INPUTS: u64 = 8000;

/// Runs a target over its seeds and what comes of them. A failure names the input: the file, or the number of the mutation.
fn campaign(target: &str, body: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(target);
    let mut files: Vec<_> =
        fs::read_dir(&folder).expect("the seeds").map(|file| file.expect("a seed").path()).collect();
    files.sort();
    let inputs: Vec<Vec<u8>> = files.iter().map(|file| fs::read(file).expect("a seed")).collect();
    let run = |name: &str, input: &[u8]| {
        let result = std::panic::catch_unwind(|| body(input));
        assert!(result.is_ok(), "{target}, {name}: {}", input.escape_ascii());
    };
    files.iter().zip(&inputs).for_each(|(file, input)| run(&file.display().to_string(), input));
    (0..INPUTS).for_each(|seed| run(&format!("mutation {seed}"), &fuzz_bodies::mutated(&inputs, seed)));
}

#[test]
fn requests() {
    campaign("request", fuzz_bodies::request);
}

#[test]
fn inline_requests() {
    campaign("inline", fuzz_bodies::inline);
}

#[test]
fn replies() {
    campaign("reply", fuzz_bodies::reply);
}
