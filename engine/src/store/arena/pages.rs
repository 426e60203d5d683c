//! The pages of an arena: which are in use, and which free ones hold memory.

use std::alloc::{Layout, handle_alloc_error};
use std::collections::BTreeSet;
use std::ptr::NonNull;
use std::sync::Arc;

use super::page::PAGE_BYTES;
use crate::store::space::{Ahead, Filling, Grown, HUGE_BYTES, Space};

/// Bytes of an arena at most: what the table can name ([`crate::store::table`]).
pub const ARENA_BYTES_MAX: usize = 128 << 30;
/// Bytes of what is known of so many pages.
const KNOWN_BYTES_MAX: usize = ARENA_BYTES_MAX / PAGE_BYTES * size_of::<Known>();
/// With fewer addresses than this there is no use in starting.
const ARENA_BYTES_MIN: usize = 1 << 30;
/// Pages of a run that memory is asked for, and preferably given back, together.
const RUN_PAGES: usize = HUGE_BYTES / PAGE_BYTES;
/// Free pages that are kept as they are, besides a part of those in use: so that a load that goes up and down does not
/// give memory back only to ask for it again.
const KEPT_MIN: usize = 24;
const KEPT_PART: usize = 32;
// What was just filled ahead is not given back.
const _: () = assert!(AHEAD_MIN + RUN_PAGES <= KEPT_MIN && AHEAD_PART >= KEPT_PART);

/// Free pages with memory that there should be, besides a part of those in use: with fewer a run is asked for.
const AHEAD_MIN: usize = 4;
const AHEAD_PART: usize = 128;

/// One page: how many of its bytes the system has provided.
#[derive(Clone, Copy, Default)]
struct Known {
    touched: u32,
    used: bool,
}

/// All pages of an arena.
pub struct Pages {
    /// Reserved with the first page.
    space: Option<Space>,
    /// Every page that was ever used, in storage order.
    known: Grown<Known>,
    /// Free pages with memory, and those without.
    warm: BTreeSet<u32>,
    cold: BTreeSet<u32>,
    /// Pages in use of each run, and the runs of which none is while some are warm.
    used_of_run: Vec<u8>,
    empty_runs: BTreeSet<u32>,
    in_use: usize,
    /// Whether to ask for runs ahead of their use.
    prefault: bool,
    /// The run that is asked for: to be polled, and what becomes of it. Its pages are neither warm nor cold.
    ahead: Option<Ahead>,
    filling: Option<(usize, Arc<Filling>)>,
}

impl Pages {
    /// No pages; `prefault` says whether to ask for memory ahead of its use.
    pub fn new(prefault: bool) -> Pages {
        Pages {
            space: None,
            known: Grown::new(KNOWN_BYTES_MAX),
            warm: BTreeSet::new(),
            cold: BTreeSet::new(),
            used_of_run: Vec::new(),
            empty_runs: BTreeSet::new(),
            in_use: 0,
            prefault,
            ahead: None,
            filling: None,
        }
    }

    /// What would be good to have filled soon.
    pub fn take_ahead(&mut self) -> Option<Ahead> {
        self.ahead.take()
    }

    /// The first byte of the first page; None before there is one.
    pub fn base(&self) -> Option<NonNull<u8>> {
        self.space.as_ref().map(Space::base)
    }

    fn address(&self, index: usize) -> NonNull<u8> {
        let space = self.space.as_ref().expect("there are pages");
        // SAFETY: pages are only known inside the space.
        unsafe { space.base().add(index * PAGE_BYTES) }
    }

    /// The place of a page in storage order.
    pub fn index(&self, page: NonNull<u8>) -> usize {
        (page.as_ptr().addr() - self.address(0).as_ptr().addr()) / PAGE_BYTES
    }

    /// A page to use, and how much of it was touched before. The lowest free page, so that those at the end run empty.
    /// Also how many bytes were filled ahead since the last time.
    pub fn take(&mut self) -> (NonNull<u8>, u32, usize) {
        let filled = self.look_ahead();
        let warm = self.warm.pop_first();
        let index = warm.or_else(|| self.cold.pop_first()).unwrap_or_else(|| self.new_page()) as usize;
        let run = index / RUN_PAGES;
        self.used_of_run[run] += 1;
        self.empty_runs.remove(&(run as u32));
        self.in_use += 1;
        let known = &mut self.known[index];
        known.used = true;
        let touched = known.touched;
        (self.address(index), touched, filled)
    }

    /// Takes the run that was filled, and asks for another if it is needed. An arena that stays small has none.
    fn look_ahead(&mut self) -> usize {
        let mut filled = 0;
        if let Some((run, filling)) = self.filling.take_if(|(_, filling)| filling.is_over()) {
            let pages = run * RUN_PAGES..(run + 1) * RUN_PAGES;
            if filling.is_filled() {
                for known in &mut self.known[pages.clone()] {
                    filled += PAGE_BYTES - known.touched as usize;
                    known.touched = PAGE_BYTES as u32;
                }
                self.warm.extend(pages.map(|page| page as u32));
                self.empty_runs.insert(run as u32);
            } else {
                // Some of it may have memory all the same.
                if let Some(space) = &self.space {
                    // SAFETY: its pages were in no list, so nobody has one.
                    unsafe { space.give_back(run * HUGE_BYTES, HUGE_BYTES) };
                }
                self.cold.extend(pages.map(|page| page as u32));
            }
        }
        let wanted = AHEAD_MIN + self.in_use / AHEAD_PART;
        if self.prefault && self.filling.is_none() && self.in_use > RUN_PAGES / 2 && self.warm.len() < wanted {
            self.ask();
        }
        filled
    }

    /// Asks for the lowest run that was given back as a whole, or for the next one.
    fn ask(&mut self) {
        let Some(space) = &self.space else { return };
        let first_cold = self.cold.first().map_or(0, |&page| page as usize / RUN_PAGES);
        let pages = |run: usize| run as u32 * RUN_PAGES as u32..(run as u32 + 1) * RUN_PAGES as u32;
        let cold_run = self.cold.range(pages(first_cold)).count() == RUN_PAGES;
        let run = if cold_run { first_cold } else { self.known.len().div_ceil(RUN_PAGES) };
        if (run + 1) * HUGE_BYTES > space.bytes() {
            return;
        }
        let (ahead, filling) = space.ahead(run * HUGE_BYTES);
        if cold_run {
            self.cold.retain(|page| !pages(run).contains(page));
        } else {
            // What is left of the last run stays to be used in small pages.
            self.cold.extend(self.known.len() as u32..pages(run).start);
            while self.known.len() < (run + 1) * RUN_PAGES {
                self.known.push(Known::default());
            }
            self.used_of_run.resize(run + 1, 0);
        }
        (self.ahead, self.filling) = (Some(ahead), Some((run, filling)));
    }

    /// The addresses of all pages.
    pub fn reserve(&mut self) -> &Space {
        self.space.get_or_insert_with(|| Space::reserve(ARENA_BYTES_MAX, ARENA_BYTES_MIN))
    }

    fn new_page(&mut self) -> u32 {
        let bytes = self.reserve().bytes();
        let index = self.known.len();
        if (index + 1) * PAGE_BYTES > bytes {
            handle_alloc_error(Layout::from_size_align(PAGE_BYTES, PAGE_BYTES).expect("a fixed layout"));
        }
        self.known.push(Known::default());
        if index.is_multiple_of(RUN_PAGES) {
            self.used_of_run.push(0);
        }
        index as u32
    }

    /// Pages that were ever used.
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// A page by its place in storage order, if it is in use.
    #[inline]
    pub fn used_at(&self, index: usize) -> Option<NonNull<u8>> {
        self.known[index].used.then(|| self.address(index))
    }

    /// Bytes of the pages that are not in use, those included that never were.
    pub fn room_bytes(&self) -> usize {
        self.space.as_ref().map_or(ARENA_BYTES_MAX, Space::bytes) - self.in_use * PAGE_BYTES
    }

    /// Takes back a page, `touched` of whose bytes have memory.
    pub fn put(&mut self, page: NonNull<u8>, touched: u32) {
        let index = self.index(page);
        debug_assert!(self.known[index].used);
        self.known[index] = Known { touched, used: false };
        self.in_use -= 1;
        self.warm.insert(index as u32);
        let run = index / RUN_PAGES;
        self.used_of_run[run] -= 1;
        if self.used_of_run[run] == 0 {
            self.empty_runs.insert(run as u32);
        }
    }

    /// Gives the memory of one run of free pages back to the system, or if no run is free of one page, if there are more
    /// than are worth keeping. Returns how many bytes, and whether there is more to do. A run takes some tens of
    /// microseconds; a single page may take hundreds where that splits a huge one.
    pub fn trim(&mut self) -> (usize, bool) {
        let kept = KEPT_MIN + self.in_use / KEPT_PART;
        if self.warm.len() <= kept {
            return (0, false);
        }
        let (first, end) = match self.empty_runs.pop_last() {
            Some(run) => {
                let first = run as usize * RUN_PAGES;
                (first, (first + RUN_PAGES).min(self.known.len()))
            }
            None => {
                let last = *self.warm.last().expect("more than are kept") as usize;
                (last, last + 1)
            }
        };
        let bytes = self.give_back(first, end);
        (bytes, bytes > 0 && self.warm.len() > kept)
    }

    /// Gives these free pages back.
    fn give_back(&mut self, first: usize, end: usize) -> usize {
        let space = self.space.as_ref().expect("there are pages");
        // SAFETY: nobody uses the pages, and what is read in them before they are written again is not relied upon.
        if !unsafe { space.give_back(first * PAGE_BYTES, (end - first) * PAGE_BYTES) } {
            return 0;
        }
        let mut bytes = 0;
        for index in first..end {
            debug_assert!(!self.known[index].used);
            bytes += std::mem::take(&mut self.known[index].touched) as usize;
            self.warm.remove(&(index as u32));
            self.cold.insert(index as u32);
        }
        bytes
    }

    /// The last page, if it is in use; a free one is forgotten with its run. For an arena that is given up: after this
    /// only [`Pages::forget_last`] may be called.
    pub fn last(&mut self) -> Option<Last> {
        let index = self.known.len().checked_sub(1)?;
        match self.known[index].used {
            true => Some(Last::Used(self.address(index))),
            false => Some(Last::Free),
        }
    }

    /// Forgets the last page; with the first of a run, the run's memory goes. Returns true if it did.
    pub fn forget_last(&mut self) -> bool {
        self.warm.clear();
        self.cold.clear();
        self.empty_runs.clear();
        (self.ahead, self.filling) = (None, None);
        let Some(known) = self.known.pop() else { return false };
        self.in_use -= known.used as usize;
        let index = self.known.len();
        if !index.is_multiple_of(RUN_PAGES) {
            return false;
        }
        self.used_of_run.pop();
        let space = self.space.as_ref().expect("there are pages");
        // SAFETY: all pages from here on are forgotten.
        unsafe { space.give_back(index * PAGE_BYTES, HUGE_BYTES) };
        if index == 0 {
            self.space = None;
        }
        true
    }

    /// All pages in use, in storage order.
    #[cfg(test)]
    pub fn used(&self) -> impl Iterator<Item = NonNull<u8>> {
        (0..self.known.len()).filter(|&index| self.known[index].used).map(|index| self.address(index))
    }
}

/// The last page of an arena.
pub enum Last {
    Used(NonNull<u8>),
    Free,
}
