//! Whether the judges can fail: each mistake that the engine can be made to make (`torc_engine::planted`) is planted, and
//! worlds are run until one of them fails.

use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use torc_engine::planted::{Bug, plant};
use torc_sim::{Options, World};

/// In how many worlds, those of the first seeds, each is found at the latest; None: it has not been found yet.
fn found_within(bug: Bug) -> Option<u64> {
    match bug {
        Bug::PreImageSkipped | Bug::SnapshotBaseLate => Some(5),
        Bug::FlushKeepsSnapshot => Some(60),
        Bug::AcknowledgedEarly => Some(120),
        Bug::ReadNotHeld => Some(200),
        Bug::ReleasedOneEarly => Some(150),
        Bug::WrittenIsDurable | Bug::SyncCoversLater | Bug::LaterSegmentSyncedFirst => Some(5),
        Bug::TornTailRefused => Some(5),
        Bug::TornTailRead => Some(40),
        Bug::ExpiresLate => Some(300),
        Bug::ExpireNotLogged | Bug::LayoutNotLogged => Some(20),
        Bug::RedoneAtWrongOffset | Bug::RedoneByAll => Some(5),
        Bug::ReplyOutOfOrder | Bug::PartsMixedUp | Bug::CreditTwice | Bug::MemoryNotCounted => Some(5),
        Bug::StaleSession => Some(10),
        Bug::PreImageSkippedOnMove | Bug::EvictionNotLogged | Bug::AbsenceNotLogged => None,
        Bug::WakeLost | Bug::ScanSkips => None,
    }
}

thread_local! {
    static IS_PLANTED: Cell<bool> = const { Cell::new(false) };
    static SAID: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Runs worlds from the seed `from` on for each mistake until one fails, as many as it may take, or, if only the one of this
/// `name` is planted, at most `seeds`. Exit code 1: one was not found that should be.
pub fn run(name: Option<&str>, from: u64, seeds: u64, commands: u64, jobs: usize) -> ExitCode {
    let limit = |bug: Bug| if name.is_some() { Some(seeds) } else { found_within(bug) };
    let named: Vec<Bug> =
        Bug::ALL.into_iter().filter(|bug| name.is_none_or(|name| name == format!("{bug:?}"))).collect();
    if named.is_empty() {
        let all: Vec<String> = Bug::ALL.iter().map(|bug| format!("{bug:?}")).collect();
        eprintln!("no mistake has this name; these there are: {}", all.join(", "));
        return ExitCode::from(2);
    }
    let bugs: Vec<(Bug, u64)> = named.iter().filter_map(|&bug| Some((bug, limit(bug)?))).collect();
    hush();
    let next = AtomicUsize::new(0);
    let found = Mutex::new(vec![None; bugs.len()]);
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(&(bug, most)) = bugs.get(at) else { return };
                    let finding = find(bug, from, most, commands);
                    match &finding {
                        Some((count, said)) => println!("{:<24} {count:>4} of {most:>4}  {said}", format!("{bug:?}")),
                        None => println!("{:<24}    - of {most:>4}", format!("{bug:?}")),
                    }
                    found.lock().unwrap_or_else(PoisonError::into_inner)[at] = finding;
                }
            });
        }
    });
    let count = found.into_inner().unwrap_or_else(PoisonError::into_inner).iter().flatten().count();
    for bug in named.iter().filter(|bug| limit(**bug).is_none()) {
        println!("{:<24}    not looked for: no world has found it yet", format!("{bug:?}"));
    }
    println!("{count} of {} planted mistakes were found", bugs.len());
    ExitCode::from(u8::from(count < bugs.len()))
}

/// What fails here is meant to: it is kept, and not shown.
fn hush() {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if !IS_PLANTED.get() {
            return before(panic);
        }
        let (text, owned) = (panic.payload().downcast_ref::<&str>(), panic.payload().downcast_ref::<String>());
        let text = text.copied().or(owned.map(String::as_str)).unwrap_or("a panic without a text");
        let first = text.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
        let place = panic.location().map_or(String::new(), |place| format!("{}:{}", place.file(), place.line()));
        SAID.replace(format!("{place}: {}", first.chars().take(100).collect::<String>()));
    }));
}

/// In how many worlds a mistake was found, and what was said in the last of them.
fn find(bug: Bug, from: u64, seeds: u64, commands: u64) -> Option<(u64, String)> {
    IS_PLANTED.set(true);
    plant(Some(bug));
    let failed = (from..from.saturating_add(seeds)).position(|seed| {
        catch_unwind(AssertUnwindSafe(|| World::new(seed, Options::from_seed(seed)).run(commands))).is_err()
    });
    plant(None);
    IS_PLANTED.set(false);
    failed.map(|before| (before as u64 + 1, SAID.take()))
}
