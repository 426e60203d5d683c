//! Counting: this program starts itself again under valgrind, once for each case.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::{env, fs};

/// The option of the inner process: which case to run.
pub const RUN_CASE: &str = "--run-case";

const VALGRIND_MISSING: &str = "valgrind is missing. It counts the instructions; install it with
  apt-get install valgrind    (Debian, Ubuntu)
  dnf install valgrind        (Fedora)";

/// What is measured of a case: the instructions between entering and leaving this function. Its name is what callgrind is
/// told to watch, hence not mangled.
#[unsafe(no_mangle)]
#[inline(never)]
pub fn torc_measured(work: &mut dyn FnMut()) {
    work();
    // Something to do after the call, or it would become a jump and the function be left before the work begins.
    std::hint::black_box(work);
}

/// The inner process tells the outer one how many operations were measured.
pub fn report(operations: u64) -> ExitCode {
    println!("{operations}");
    ExitCode::SUCCESS
}

pub struct Counted {
    instructions: u64,
    operations: u64,
}

impl Counted {
    pub fn per_operation(&self) -> f64 {
        self.instructions as f64 / self.operations as f64
    }
}

/// Runs a case under callgrind. Its profile stays in the target directory, for `callgrind_annotate`.
pub fn count(case: &str) -> Result<Counted, String> {
    let profile = profile_path(case);
    let this = env::current_exe().map_err(|error| format!("cannot find this program: {error}"))?;
    let output = Command::new("valgrind")
        // The environment lies on the stack and moves it; ~/.valgrindrc may hold anything.
        .env_clear()
        .env("PATH", env::var_os("PATH").unwrap_or_default())
        // The allocator gives memory back by the clock: not here.
        .env("MIMALLOC_PURGE_DELAY", "-1")
        .args(["--command-line-only=yes", "--quiet", "--tool=callgrind"])
        .args(["--collect-atstart=no", "--toggle-collect=torc_measured"])
        .arg(format!("--callgrind-out-file={}", profile.display()))
        .arg(this)
        .args([RUN_CASE, case])
        .output()
        .map_err(|error| match error.kind() {
            ErrorKind::NotFound => VALGRIND_MISSING.to_owned(),
            _ => format!("cannot start valgrind: {error}"),
        })?;
    if !output.status.success() {
        return Err(format!("{case}: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr)));
    }
    let operations = String::from_utf8_lossy(&output.stdout).trim().parse();
    let operations = operations.map_err(|_| format!("{case}: it does not say how many operations it measured"))?;
    Ok(Counted { instructions: total(&profile)?, operations })
}

fn profile_path(case: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("callgrind.{}.out", case.replace('/', "-")))
}

/// The sum in a profile of callgrind: its line `totals: COUNT`.
fn total(profile: &Path) -> Result<u64, String> {
    let text = fs::read_to_string(profile).map_err(|error| format!("{}: {error}", profile.display()))?;
    let total = text.lines().find_map(|line| line.strip_prefix("totals: ")?.trim().parse().ok());
    match total {
        Some(total) if total > 0 => Ok(total),
        _ => Err(format!("{}: nothing was counted; was torc_measured renamed?", profile.display())),
    }
}
