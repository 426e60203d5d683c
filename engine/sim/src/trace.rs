//! The history of a world, a line for each thing that somebody would want to know who looks for the cause of a failure.

use torc_engine::id::Millis;

use crate::shards::EPOCH;

/// Where the lines go.
#[derive(Clone, Debug, Default)]
pub enum Trace {
    /// Nowhere; none is made.
    #[default]
    Off,
    /// To the standard output.
    Print,
    /// Into a text.
    Keep(String),
}

impl Trace {
    /// Says something, if anybody listens.
    pub(crate) fn say(&mut self, step: u64, now: Millis, line: impl FnOnce() -> String) {
        if matches!(self, Trace::Off) {
            return;
        }
        let line = format!("{step:>6} {:>9} ms  {}", now.0 as i64 - EPOCH.0 as i64, line());
        match self {
            Trace::Off => {}
            Trace::Print => println!("{line}"),
            Trace::Keep(text) => {
                text.push_str(&line);
                text.push('\n');
            }
        }
    }
}
