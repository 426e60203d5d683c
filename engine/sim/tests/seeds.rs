//! Worlds from many seeds. Each client in them judges every reply it gets; see the crate's README.

use torc_sim::{Options, World};

fn run(seed: u64, steps: u64) -> torc_sim::Report {
    World::new(seed, Options::from_seed(seed)).run(steps)
}

#[test]
fn short_worlds_of_sixty_seeds() {
    let (mut replies, mut frames, mut snapshots) = (0, 0, 0);
    for seed in 0..60 {
        let report = run(seed, 1_500);
        replies += report.replies;
        frames += report.frames;
        snapshots += report.snapshots;
    }
    assert!(snapshots > 500, "{snapshots} snapshots");
    assert!(replies > 20_000 && frames > 5_000, "the worlds have gone quiet: {replies} replies, {frames} frames");
}

#[test]
fn a_seed_gives_the_same_world_again() {
    for seed in [7, 8, 9] {
        assert_eq!(run(seed, 1_000), run(seed, 1_000), "seed {seed}");
    }
}

/// `TORC_SIM_SEED=7 cargo test -p torc-sim one_seed -- --nocapture`
#[test]
fn one_seed() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse().expect("a number"));
    let Some(seed) = number("TORC_SIM_SEED") else { return };
    println!("{:?}", Options::from_seed(seed));
    println!("{:#?}", run(seed, number("TORC_SIM_STEPS").unwrap_or(1_500)));
}

/// `cargo test --profile sim -p torc-sim campaign -- --ignored --nocapture`, from `TORC_SIM_SEED` on, `TORC_SIM_SEEDS` many.
#[test]
#[ignore = "long"]
fn campaign() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse().expect("a number"));
    let first: u64 = number("TORC_SIM_SEED").unwrap_or(1_000);
    let count = number("TORC_SIM_SEEDS").unwrap_or(2_000);
    let mut replies = 0;
    for seed in first..first + count {
        replies += run(seed, 10_000).replies;
        if seed % 100 == 0 {
            println!("seed {seed}: {replies} replies judged so far");
        }
    }
}
