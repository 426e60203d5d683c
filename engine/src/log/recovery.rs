//! What a start makes of a log that does not end as it should: the setting `wal-recovery`.

use thiserror::Error;

use super::{Damage, End, Lsn, Record, Replay, Tail, TornTail};

/// How much is trusted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Recovery {
    /// What a crash tore is cut off; damage is refused.
    #[default]
    Tail,
    /// Only a log that was ended in order, which its seal proves. Without a seal, damage of what was written last cannot be told
    /// from what a crash leaves.
    Strict,
    /// Damage is left out. Whoever does so writes a snapshot before anything else: the log stays as it is.
    Salvage,
}

/// A log that `strict` does not take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Refused {
    #[error(
        "it was not ended in order: the process was killed, or the machine failed. wal-recovery strict takes only what a clean \
         stop has sealed; start once with --wal-recovery tail to accept what is there"
    )]
    NotSealed,
    #[error(
        "it ends in the middle of a write, in segment {} of generation {} from offset {} on. wal-recovery strict takes only what \
         a clean stop has sealed; start once with --wal-recovery tail, or run `torc repair --truncate` on the directory, to cut that \
         off", .0.segment, .0.generation, .0.offset
    )]
    Torn(TornTail),
}

/// One step of reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A batch was read.
    Read,
    /// Damage was left out: up to this record, or all from it on if there is none.
    LeftOut(Damage, Option<Lsn>),
    /// There is no more.
    Done,
}

impl Recovery {
    /// Takes one step of a replay.
    pub fn step(self, replay: &mut Replay<'_>, visit: impl FnMut(&[(Lsn, Record<'_>)])) -> Result<Step, Damage> {
        match replay.step(visit) {
            Ok(true) => Ok(Step::Read),
            Ok(false) => Ok(Step::Done),
            Err(damage) if self == Recovery::Salvage => {
                Ok(Step::LeftOut(damage, replay.skip_damage().map(|(_, last)| last)))
            }
            Err(damage) => Err(damage),
        }
    }

    /// Whether a log that ended so is taken.
    pub fn accept(self, end: &End) -> Result<(), Refused> {
        match (self, end.tail) {
            (Recovery::Tail | Recovery::Salvage, _) => Ok(()),
            (Recovery::Strict, Tail::Torn(torn)) => Err(Refused::Torn(torn)),
            // Without any segment there is nothing to be sealed.
            (Recovery::Strict, Tail::Sound) if end.is_sealed || end.last_segment.is_none() => Ok(()),
            (Recovery::Strict, Tail::Sound) => Err(Refused::NotSealed),
        }
    }
}
