//! The pages of an arena: which are in use, and which free ones hold memory.

use std::alloc::{Layout, handle_alloc_error};
use std::collections::BTreeSet;
use std::ptr::NonNull;

use super::page::PAGE_BYTES;
use crate::store::space::{HUGE_BYTES, Space};

/// Bytes of an arena at most: what the table can name ([`crate::store::table`]).
pub const ARENA_BYTES_MAX: usize = 128 << 30;
/// With fewer addresses than this there is no use in starting.
const ARENA_BYTES_MIN: usize = 1 << 30;
/// Pages of a run that memory is asked for, and preferably given back, together.
const RUN_PAGES: usize = HUGE_BYTES / PAGE_BYTES;
/// Free pages that are kept as they are, besides a part of those in use: so that a load that goes up and down does not
/// give memory back only to ask for it again.
const KEPT_MIN: usize = 16;
const KEPT_PART: usize = 32;

/// One page: how many of its bytes the system has provided.
#[derive(Clone, Copy, Default)]
struct Known {
    touched: u32,
    used: bool,
}

/// All pages of an arena.
#[derive(Default)]
pub struct Pages {
    /// Reserved with the first page.
    space: Option<Space>,
    /// Every page that was ever used, in storage order.
    known: Vec<Known>,
    /// Free pages with memory, and those without.
    warm: BTreeSet<u32>,
    cold: BTreeSet<u32>,
    /// Pages in use of each run, and the runs of which none is while some are warm.
    used_of_run: Vec<u8>,
    empty_runs: BTreeSet<u32>,
    in_use: usize,
}

impl Pages {
    /// The first byte of the first page; None before there is one.
    pub fn base(&self) -> Option<NonNull<u8>> {
        self.space.as_ref().map(Space::base)
    }

    fn address(&self, index: usize) -> NonNull<u8> {
        let space = self.space.as_ref().expect("there are pages");
        // SAFETY: pages are only known inside the space.
        unsafe { space.base().add(index * PAGE_BYTES) }
    }

    fn index(&self, page: NonNull<u8>) -> usize {
        (page.as_ptr().addr() - self.address(0).as_ptr().addr()) / PAGE_BYTES
    }

    /// All of an arena is of huge pages but its first run: one that stays small should take only what it uses.
    fn is_huge(index: usize) -> bool {
        index >= RUN_PAGES
    }

    /// A page to use, how much of it was touched before, and how many bytes using it touches at once: where huge pages
    /// are, all of it. The lowest free page, so that those at the end run empty.
    pub fn take(&mut self) -> (NonNull<u8>, u32, usize) {
        let warm = self.warm.pop_first();
        let index = warm.or_else(|| self.cold.pop_first()).unwrap_or_else(|| self.new_page()) as usize;
        let run = index / RUN_PAGES;
        self.used_of_run[run] += 1;
        self.empty_runs.remove(&(run as u32));
        self.in_use += 1;
        let known = &mut self.known[index];
        known.used = true;
        let before = known.touched;
        if Pages::is_huge(index) {
            known.touched = PAGE_BYTES as u32;
        }
        let touched = known.touched;
        (self.address(index), touched, (touched - before) as usize)
    }

    fn new_page(&mut self) -> u32 {
        let space = self.space.get_or_insert_with(|| {
            let space = Space::reserve(ARENA_BYTES_MAX, ARENA_BYTES_MIN);
            space.ask_for_huge_pages(HUGE_BYTES);
            space
        });
        let index = self.known.len();
        if (index + 1) * PAGE_BYTES > space.bytes() {
            handle_alloc_error(Layout::from_size_align(PAGE_BYTES, PAGE_BYTES).expect("a fixed layout"));
        }
        self.known.push(Known::default());
        if index.is_multiple_of(RUN_PAGES) {
            self.used_of_run.push(0);
        }
        index as u32
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
