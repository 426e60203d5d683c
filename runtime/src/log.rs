//! What Torc says about itself: to standard output, or to the log file. Nothing is logged per command or per connection.

use std::fs::File;
use std::io::{self, Write};
use std::sync::Mutex;

use thiserror::Error;
use torc_engine::config::{Config, LogLevel};
use tracing_subscriber::filter::LevelFilter;

/// The log file cannot be written.
#[derive(Debug, Error)]
#[error("cannot open the log file {path}: {source}")]
pub struct LogError {
    path: String,
    source: io::Error,
}

/// Says why the process ends, on standard error if anybody listens there.
pub fn complain(what: impl std::fmt::Display) {
    // `eprintln!` panics where nobody does.
    let _ = writeln!(io::stderr(), "torc: {what}");
}

/// Sends log lines where the settings say. Once per process.
pub fn start(config: &Config) -> Result<(), LogError> {
    let level = match config.loglevel {
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Verbose | LogLevel::Notice => LevelFilter::INFO,
        LogLevel::Warning => LevelFilter::WARN,
        LogLevel::Nothing => LevelFilter::OFF,
    };
    // A log that cannot be written (a closed pipe, a full disk) is lost. To complain about it on standard error would
    // panic where that is the same closed pipe.
    let builder = tracing_subscriber::fmt().with_max_level(level).with_target(false).log_internal_errors(false);
    if config.logfile.is_empty() {
        let colours = io::IsTerminal::is_terminal(&io::stdout());
        builder.with_ansi(colours).init();
        return Ok(());
    }
    let file = File::options().create(true).append(true).open(&config.logfile);
    let file = file.map_err(|source| LogError { path: config.logfile.clone(), source })?;
    builder.with_ansi(false).with_writer(Mutex::new(file)).init();
    Ok(())
}
