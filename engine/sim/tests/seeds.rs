//! Worlds from many seeds. Everything in them is judged as they run; see the crate's README.

use torc_sim::{Options, Report, Trace, World};

fn run(seed: u64, commands: u64) -> Report {
    World::new(seed, Options::from_seed(seed)).run(commands)
}

#[test]
fn short_worlds() {
    let mut all = Report::default();
    for seed in 0..30 {
        let report = run(seed, 600);
        all.replies += report.replies;
        all.frames += report.frames;
        all.crashes += report.crashes;
        all.recoveries += report.recoveries;
        all.judged += report.judged;
    }
    assert!(all.replies > 17_000 && all.frames > 5_000 && all.judged > 12_000, "the worlds have gone quiet: {all:?}");
    assert!(all.crashes > 30 && all.recoveries > 30, "{} crashes, {} recoveries", all.crashes, all.recoveries);
}

#[test]
fn a_seed_gives_the_same_world_again_to_the_last_byte() {
    for seed in [7, 8, 9] {
        let run = || World::traced(seed, Options::from_seed(seed), Trace::Keep(String::new())).run_traced(600);
        let ((one, Trace::Keep(history)), (other, Trace::Keep(again))) = (run(), run()) else { panic!("it was kept") };
        assert_eq!(one, other, "seed {seed}");
        assert!(history == again && history.len() > 5_000, "seed {seed}");
    }
}
