//! One file, as the process sees it and as the disk has it. What was written since the last sync lies between the two: a crash
//! of the machine keeps, loses or tears each of its sectors.

use crate::random::Random;

/// What a disk writes whole, unless a crash tears it.
pub(crate) const SECTOR_BYTES: usize = 512;

#[derive(Debug, Default)]
pub(crate) struct File {
    /// What a read would give.
    seen: Vec<u8>,
    /// What is safe.
    durable: Vec<u8>,
    /// Not synced, in the order in which they were begun.
    writes: Vec<Unsynced>,
    writes_begun: u64,
}

#[derive(Clone, Copy, Debug)]
struct Unsynced {
    number: u64,
    offset: usize,
    bytes: usize,
    is_done: bool,
    /// A sync of it has failed: it will never be safe, although later syncs find nothing wrong.
    is_forgotten: bool,
}

/// What a crash leaves of what was not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Crash {
    /// The process was killed: the system keeps all that it was told to write, and some sectors of what was under way.
    Process,
    /// The machine lost its power: nothing of it, all of it, all up to some sector, or any of the sectors is there.
    Power,
}

/// What became of a file at a crash.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct CrashCounts {
    pub sectors_kept: u64,
    pub sectors_lost: u64,
    pub sectors_torn: u64,
}

impl File {
    /// A file of so many zeros, which is safe.
    pub fn zeros(bytes: usize) -> File {
        File { seen: vec![0; bytes], durable: vec![0; bytes], ..File::default() }
    }

    pub fn bytes(&self) -> &[u8] {
        &self.seen
    }

    /// Begins a write; gives its number for [`File::end_write`].
    pub fn begin_write(&mut self, offset: usize, bytes: &[u8]) -> u64 {
        let end = offset + bytes.len();
        if self.seen.len() < end {
            self.seen.resize(end, 0);
        }
        self.seen[offset..end].copy_from_slice(bytes);
        self.writes_begun += 1;
        let number = self.writes_begun;
        self.writes.push(Unsynced { number, offset, bytes: bytes.len(), is_done: false, is_forgotten: false });
        number
    }

    /// A write is through: the system has it.
    pub fn end_write(&mut self, number: u64) {
        if let Some(write) = self.writes.iter_mut().find(|write| write.number == number) {
            write.is_done = true;
        }
    }

    /// Writes, as whoever waits for it does.
    pub fn write(&mut self, offset: usize, bytes: &[u8]) {
        let number = self.begin_write(offset, bytes);
        self.end_write(number);
    }

    /// The writes that a sync which begins now is about.
    pub fn begin_sync(&self) -> Vec<u64> {
        self.writes.iter().filter(|write| write.is_done).map(|write| write.number).collect()
    }

    /// A sync of these writes has succeeded.
    pub fn end_sync(&mut self, writes: &[u64]) {
        let (seen, durable) = (&self.seen, &mut self.durable);
        self.writes.retain(|write| {
            let is_synced = !write.is_forgotten && writes.contains(&write.number);
            if is_synced {
                let end = write.offset + write.bytes;
                if durable.len() < end {
                    durable.resize(end, 0);
                }
                durable[write.offset..end].copy_from_slice(&seen[write.offset..end]);
            }
            !is_synced
        });
    }

    /// Syncs, as whoever waits for it does.
    pub fn sync(&mut self) {
        self.end_sync(&self.begin_sync());
    }

    /// The file is used for something else from now on: what was forgotten of it is of no interest any more.
    pub fn begin_anew(&mut self) {
        self.writes.retain(|write| !write.is_forgotten);
    }

    /// A sync has failed.
    pub fn fail_sync(&mut self) {
        self.writes.iter_mut().for_each(|write| write.is_forgotten = true);
    }

    pub fn crash(&mut self, crash: Crash, random: &mut Random, counts: &mut CrashCounts) {
        // What a failed sync forgot is decided now: whoever opens the file next reads what it has.
        let keeps = |write: &Unsynced| crash == Crash::Process && write.is_done && !write.is_forgotten;
        let writes: Vec<Unsynced> = self.writes.iter().copied().filter(|write| !keeps(write)).collect();
        if crash == Crash::Power {
            self.writes.clear();
        }
        let sectors: usize = writes.iter().map(|write| write.bytes.div_ceil(SECTOR_BYTES)).sum();
        // None: each sector for itself.
        let kept_up_to = match random.below(4) {
            0 => Some(0),
            1 => Some(sectors),
            2 => Some(random.below(sectors + 1)),
            _ => None,
        };
        let mut left = self.durable.clone();
        if crash == Crash::Process {
            left.clone_from(&self.seen);
        }
        let mut number = 0;
        for write in writes {
            for at in (0..write.bytes).step_by(SECTOR_BYTES) {
                let bytes = SECTOR_BYTES.min(write.bytes - at);
                let is_kept = kept_up_to.map_or_else(|| random.one_in(2), |end| number < end);
                let is_torn = kept_up_to == Some(number) || kept_up_to.is_none() && random.one_in(8);
                number += 1;
                let kept = match (is_kept, is_torn) {
                    (_, true) => random.below(bytes),
                    (true, false) => bytes,
                    (false, false) => 0,
                };
                counts.sectors_torn += u64::from(is_torn);
                counts.sectors_kept += u64::from(is_kept && !is_torn);
                counts.sectors_lost += u64::from(!is_kept && !is_torn);
                let (from, end) = (write.offset + at, write.offset + at + bytes);
                // Of a file that grows there is nothing where nothing was kept before the end.
                if left.len() < from + kept {
                    left.resize(from + kept, 0);
                }
                left[from..from + kept].copy_from_slice(&self.seen[from..from + kept]);
                let before = end.min(left.len());
                for (index, byte) in left.iter_mut().enumerate().take(before).skip(from + kept) {
                    *byte = self.durable.get(index).copied().unwrap_or(0);
                }
            }
        }
        self.seen = left;
        match crash {
            Crash::Power => self.durable.clone_from(&self.seen),
            // What is there now is not safe yet.
            Crash::Process => {
                self.writes.iter_mut().for_each(|write| (write.is_done, write.is_forgotten) = (true, false));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn crashed(file: &mut File, crash: Crash, seed: u64) -> CrashCounts {
        let mut counts = CrashCounts::default();
        file.crash(crash, &mut Random::new(seed), &mut counts);
        counts
    }

    #[test]
    fn what_was_synced_outlives_every_crash_and_the_rest_may_not() {
        let (mut kept, mut lost, mut torn) = (0, 0, 0);
        for seed in 0..50 {
            let mut file = File::zeros(8192);
            file.write(0, &[1; 4096]);
            file.sync();
            file.write(4096, &[2; 4096]);
            let counts = crashed(&mut file, Crash::Power, seed);
            assert!(file.bytes()[..4096].iter().all(|&byte| byte == 1));
            assert!(file.bytes()[4096..].iter().all(|&byte| byte == 2 || byte == 0));
            (kept, lost, torn) = (kept + counts.sectors_kept, lost + counts.sectors_lost, torn + counts.sectors_torn);
        }
        assert!(kept > 50 && lost > 50 && torn > 10, "{kept} kept, {lost} lost, {torn} torn");
    }

    #[test]
    fn a_killed_process_loses_only_what_was_under_way() {
        for seed in 0..20 {
            let mut file = File::zeros(8192);
            file.write(0, &[1; 4096]);
            file.begin_write(4096, &[2; 4096]);
            crashed(&mut file, Crash::Process, seed);
            assert!(file.bytes()[..4096].iter().all(|&byte| byte == 1));
        }
    }

    #[test]
    fn a_failed_sync_forgets_although_the_next_succeeds() {
        let mut file = File::zeros(4096);
        file.write(0, &[1; 4096]);
        file.fail_sync();
        file.sync();
        let lost = (0..20).any(|seed| {
            let mut copy = File { seen: file.seen.clone(), durable: file.durable.clone(), ..File::default() };
            copy.writes.clone_from(&file.writes);
            crashed(&mut copy, Crash::Power, seed);
            copy.bytes()[0] == 0
        });
        assert!(lost);
    }
}
