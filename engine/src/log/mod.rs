mod change_log;
mod journal;
pub use change_log::ChangeLog;
pub use journal::{FsyncPolicy, Journal, Lsn};
