//! Active expiry: removes what is due and nobody reads, in slices.
//!
//! The time index is of segments, not of keys, so it costs no memory per key: each segment of the table knows when it is
//! worth while to look at it ([`Table::due_segment`]), and one bit per slot says which entries have an expiry time. Going
//! through the segments' times is a sequential read of 24 bytes per 800 keys. A segment is looked at when one in a
//! hundred of its expiring entries is due, or when the first has been due for [`LAG_MS`]: so a look pays for itself, and
//! what is due and still there is bounded in number and in time. (Redis samples, and goes on while a tenth of the sample
//! is due.)

use super::entry::EntryRef;
use super::table::{Place, Table};
use crate::id::Millis;
use crate::limits;
use crate::planted::{Bug, is_planted};

/// How long an entry that is due may wait for others in its segment.
pub(super) const LAG_MS: u64 = 5_000;
/// A segment is looked at when this part of its expiring entries is due.
const DUE_PART: usize = 100;

/// How far the active expiry of one table is.
#[derive(Default)]
pub struct Expirer {
    /// The segment whose time is compared next.
    segment: usize,
    places: Vec<Place>,
    due: Vec<Place>,
    later: Vec<u64>,
}

impl Expirer {
    /// Compares the times of some segments and looks at the first that is due: what is to be removed, before anything
    /// else happens to the table, is left to [`Expirer::take_due`]. True if the round through all segments is not at its
    /// end.
    pub fn slice(&mut self, table: &mut Table, now: Millis) -> bool {
        let Some(segment) = table.due_segment(self.segment, limits::EXPIRE_SLICE_SEGMENTS, now.0) else {
            self.segment += limits::EXPIRE_SLICE_SEGMENTS;
            return self.go_on(table);
        };
        self.segment = segment;
        table.volatile_places(segment, &mut self.places);
        self.later.clear();
        for &place in &self.places {
            match table.entry(place).expire_ms() {
                at if at > now.0 => self.later.push(at),
                // The rest has its turn in the next slice, which finds this segment due as before.
                _ if self.due.len() == limits::EXPIRE_SLICE_ENTRIES => return true,
                _ => self.due.push(place),
            }
        }
        table.set_look_at(segment, look_at(&mut self.later));
        self.segment += 1;
        self.go_on(table)
    }

    /// The places of entries that are due.
    pub fn take_due(&mut self) -> Vec<Place> {
        std::mem::take(&mut self.due)
    }

    /// Takes the list back for its memory.
    pub fn recycle(&mut self, mut due: Vec<Place>) {
        due.clear();
        self.due = due;
    }

    fn go_on(&mut self, table: &Table) -> bool {
        let more = self.segment < table.segments();
        if !more {
            self.segment = 0;
        }
        more
    }
}

/// When to look again at entries that expire at these times; `u64::MAX` if there are none.
fn look_at(times: &mut [u64]) -> u64 {
    let Some(&first) = times.iter().min() else { return u64::MAX };
    let enough = times.len() / DUE_PART;
    let (_, enough_due, _) = times.select_nth_unstable(enough);
    (*enough_due).min(first.saturating_add(LAG_MS))
}

/// Whether an entry's time has come.
#[inline]
pub fn is_expired(entry: EntryRef<'_>, now: Millis) -> bool {
    let expire = entry.expire_ms();
    expire != 0 && expire + u64::from(is_planted(Bug::ExpiresLate)) <= now.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_is_looked_at_when_enough_is_due_but_not_too_late() {
        assert_eq!(look_at(&mut []), u64::MAX);
        assert_eq!(look_at(&mut [7]), 7);
        let mut close: Vec<u64> = (0..1000).rev().collect();
        assert_eq!(look_at(&mut close), 10);
        let mut far: Vec<u64> = (0..1000).map(|at| at * 10_000).collect();
        assert_eq!(look_at(&mut far), LAG_MS);
    }
}
