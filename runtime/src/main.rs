//! The server `torc`.

use std::io::Write;
use std::process::ExitCode;

use torc_runtime::{boot, check, log, settings};

/// The allocator of the whole process. AddressSanitizer sees only what it allocates itself (`.ci/asan`).
#[cfg(not(asan))]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    if let Some(status) = check::run(std::env::args_os()) {
        return status;
    }
    let loaded = match settings::load(std::env::args_os()) {
        Ok(loaded) => loaded,
        Err(shown) if shown.exit_status() == 0 => {
            // Whoever asked may have stopped listening: `torc --help | head`.
            let _ = writeln!(std::io::stdout(), "{shown}");
            return ExitCode::SUCCESS;
        }
        Err(error) => return fail(&error),
    };
    match boot::run(loaded) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

fn fail(error: &dyn std::error::Error) -> ExitCode {
    log::complain(error);
    ExitCode::FAILURE
}
