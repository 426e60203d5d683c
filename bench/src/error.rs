//! What can go wrong, by family: the command line is wrong, the server is, or the machine is.

use std::collections::BTreeMap;
use std::io;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{0}")]
    Usage(String),
    #[error("dead server: {address}: {reason}")]
    Dead { address: String, reason: String },
    #[error("wrong reply from {address}: expected {expected}, got {got}")]
    WrongReply { address: String, expected: String, got: String },
    #[error("wrong reply: {count} error replies: {kinds}")]
    Refused { count: u64, kinds: String },
    #[error("missing reply from {address}: {outstanding} outstanding, none for {waited_ms} ms")]
    MissingReply { address: String, outstanding: usize, waited_ms: u64 },
    #[error("{0} violations of what was promised")]
    Broken(u64),
    #[error("not flat: {0}")]
    Grows(String),
    #[error("{operation}: {source}")]
    Io { operation: String, source: io::Error },
    #[error("interrupted")]
    Interrupted,
}

impl Error {
    /// For `map_err`: names what was being done when the system call failed.
    pub fn io(operation: impl Into<String>) -> impl FnOnce(io::Error) -> Error {
        let operation = operation.into();
        move |source| Error::Io { operation, source }
    }

    /// An error if there were error replies, counted by kind.
    pub fn if_refused(kinds: &BTreeMap<String, u64>) -> Result<(), Error> {
        if kinds.is_empty() {
            return Ok(());
        }
        let count = kinds.values().sum();
        let kinds = kinds.iter().map(|(kind, count)| format!("{kind} {count} times")).collect::<Vec<_>>();
        Err(Error::Refused { count, kinds: kinds.join(", ") })
    }

    pub fn dead(address: impl ToString, reason: impl ToString) -> Error {
        Error::Dead { address: address.to_string(), reason: reason.to_string() }
    }
}
