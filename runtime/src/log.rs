//! What Torc says about itself: to standard output, or to the log file. Nothing is logged per command or per connection.

use std::fs::File;
use std::io;
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

/// Sends log lines where the settings say. Once per process.
pub fn start(config: &Config) -> Result<(), LogError> {
    let level = match config.loglevel {
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Verbose | LogLevel::Notice => LevelFilter::INFO,
        LogLevel::Warning => LevelFilter::WARN,
        LogLevel::Nothing => LevelFilter::OFF,
    };
    let builder = tracing_subscriber::fmt().with_max_level(level).with_target(false);
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
