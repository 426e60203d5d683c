//! Where the entries of one keyspace lie: an allocator for sizes from 8 bytes to [`LARGEST_BYTES`], in steps of 8 up to
//! 512 and of 4 % beyond, so that little is lost to rounding.
//!
//! Memory is one range of addresses ([`pages`]), cut into [`page`]s, each with slots of one size. A class of sizes takes
//! slots from its current page until that has none left, and then from its fullest page, so that sparse pages run empty.
//! [`Arena::compact_slice`] helps: it moves the entries of the sparsest page of a class away when the class has room for
//! them elsewhere.
//!
//! The arena knows of an entry only that its first eight bytes mark no free slot, and whether it owns memory outside.
#![allow(unsafe_code)]

mod page;
mod pages;

use std::ptr::NonNull;

use page::{BINS, Kept, Page};
use pages::{Last, Pages};

use super::space::Ahead;

pub use pages::ARENA_BYTES_MAX;

/// What every address is a multiple of.
pub const ALIGN: usize = 8;
/// The largest slot: an inline value of 16 KiB with a key of some hundred bytes.
pub const LARGEST_BYTES: usize = (16 << 10) + 512;
/// Up to here the classes are `ALIGN` apart.
const FINE_BYTES: usize = 512;
/// Beyond, each is larger than the one before by this part of it.
const COARSE_PART: usize = 24;
const CLASSES: usize = count_classes();
const SLOT_BYTES: [u16; CLASSES] = slot_bytes();
const CLASS_OF: [u8; LARGEST_BYTES / ALIGN + 1] = class_of_size();
/// What moving an entry costs besides copying it, in bytes that could be copied in the time.
const MOVE_COST_BYTES: usize = 512;
/// What a walk costs besides what is done with the slots: for a page, and for this part of the bytes that it passes.
const WALK_PAGE_COST_BYTES: usize = 256;
const WALK_PASSED_PART: usize = 4;
/// A class is compacted when it has this part of its entries free, and a page's worth.
const SLACK_PART: usize = 32;

const fn next_class(bytes: usize) -> usize {
    if bytes < FINE_BYTES {
        return bytes + ALIGN;
    }
    let next = (bytes + bytes / COARSE_PART) / ALIGN * ALIGN;
    if next > LARGEST_BYTES { LARGEST_BYTES } else { next }
}

const fn count_classes() -> usize {
    let (mut count, mut bytes) = (1, ALIGN);
    while bytes < LARGEST_BYTES {
        bytes = next_class(bytes);
        count += 1;
    }
    count
}

const fn slot_bytes() -> [u16; CLASSES] {
    let mut all = [ALIGN as u16; CLASSES];
    let mut class = 1;
    while class < CLASSES {
        all[class] = next_class(all[class - 1] as usize) as u16;
        class += 1;
    }
    all
}

const fn class_of_size() -> [u8; LARGEST_BYTES / ALIGN + 1] {
    let mut all = [0; LARGEST_BYTES / ALIGN + 1];
    let (mut size, mut class) = (0, 0);
    while size < all.len() {
        if size * ALIGN > SLOT_BYTES[class] as usize {
            class += 1;
        }
        all[size] = class as u8;
        size += 1;
    }
    all
}

/// Bytes of the slot that so many bytes get.
pub fn slot_bytes_of(bytes: usize) -> usize {
    SLOT_BYTES[CLASS_OF[bytes.div_ceil(ALIGN)] as usize] as usize
}

const _: () = assert!(CLASSES <= 256 && SLOT_BYTES[CLASSES - 1] as usize == LARGEST_BYTES);

#[derive(Clone, Copy, Default)]
struct Class {
    current: Option<Page>,
    /// Pages with free slots, the fullest in the last.
    bins: [Option<Page>; BINS],
    live: usize,
    pages: usize,
}

/// The memory of the entries of one keyspace. Dropping it frees all of them.
pub struct Arena {
    /// Empty until the first allocation: most databases are never used.
    classes: Vec<Class>,
    all: Pages,
    /// Bytes of pages that were touched, and of slots in use.
    touched_bytes: usize,
    used_bytes: usize,
    /// The page that is being emptied, and how far that is.
    victim: Option<(Page, u32)>,
    /// The class that compaction looks at next.
    compact_class: usize,
    /// How far the page is through that an arena given up is at.
    free_offset: u32,
    /// The mark of entries that are made here.
    epoch: u8,
    walk: Walk,
}

/// Where a walk in storage order is.
#[derive(Clone, Copy, Default)]
struct Walk {
    page: usize,
    offset: u32,
    /// The pages from here on had never been used when it began.
    end: usize,
}

// SAFETY: an arena owns its memory, and its pages point at nothing else.
unsafe impl Send for Arena {}

impl Arena {
    /// An empty arena; `prefault` says whether to ask for memory ahead of its use.
    pub fn new(prefault: bool) -> Arena {
        Arena {
            classes: Vec::new(),
            all: Pages::new(prefault),
            touched_bytes: 0,
            used_bytes: 0,
            victim: None,
            compact_class: 0,
            free_offset: 0,
            epoch: 0,
            walk: Walk::default(),
        }
    }

    /// The mark that entries have that are made here ([`super::snapshot`]).
    #[inline]
    pub fn epoch(&self) -> u8 {
        self.epoch
    }

    /// Sets the mark of entries that are made from now on.
    pub fn set_epoch(&mut self, epoch: u8) {
        self.epoch = epoch;
    }

    /// From here on [`Arena::walk`] is at the beginning.
    pub fn begin_walk(&mut self) {
        self.walk = Walk { page: 0, offset: 0, end: self.all.len() };
    }

    /// Visits the slots of a slice in storage order that have been in use, at the same place, since the walk began; what
    /// came since may be among them. The visitor says what that cost. `budget` is in bytes that could be copied in the
    /// time. True if there is more.
    #[inline]
    pub fn walk(&mut self, budget: &mut usize, mut visit: impl FnMut(NonNull<u8>) -> usize) -> bool {
        while self.walk.page < self.walk.end {
            if *budget == 0 {
                return true;
            }
            if let Some(start) = self.all.used_at(self.walk.page) {
                // SAFETY: the page is in use.
                let page = unsafe { Page::of(start) };
                while let Some((slot, next)) = page.next_live(self.walk.offset) {
                    // Slots that are free cost less, but something, as there may be thousands.
                    let passed = (next - self.walk.offset) as usize / WALK_PASSED_PART;
                    self.walk.offset = next;
                    *budget = budget.saturating_sub(passed).saturating_sub(visit(slot));
                    if *budget == 0 {
                        return true;
                    }
                }
            }
            *budget = budget.saturating_sub(WALK_PAGE_COST_BYTES);
            self.walk.page += 1;
            self.walk.offset = 0;
        }
        false
    }

    /// Memory that would be good to have filled soon.
    pub fn take_ahead(&mut self) -> Option<Ahead> {
        self.all.take_ahead()
    }

    /// Where its memory begins, from the first allocation on.
    pub fn base(&self) -> Option<NonNull<u8>> {
        self.all.base()
    }

    /// Where its memory begins; it is reserved here if it was not before.
    pub fn reserve(&mut self) -> NonNull<u8> {
        self.all.reserve().base()
    }

    /// A slot of at least `bytes`, at most [`LARGEST_BYTES`]. What is put there has the top bit of its seventh byte clear.
    /// `owner` says whether it will own memory outside.
    #[inline]
    pub fn allocate(&mut self, bytes: usize, owner: bool) -> NonNull<u8> {
        let class = CLASS_OF[bytes.div_ceil(ALIGN)] as usize;
        if let Some(found) = self.classes.get_mut(class)
            && let Some(mut page) = found.current
            && let Some(slot) = page.take()
        {
            found.live += 1;
            self.used_bytes += SLOT_BYTES[class] as usize;
            page.owners += owner as u32;
            return slot;
        }
        self.allocate_slowly(class, owner)
    }

    #[cold]
    #[inline(never)]
    fn allocate_slowly(&mut self, class: usize, owner: bool) -> NonNull<u8> {
        if self.classes.is_empty() {
            self.classes = vec![Class::default(); CLASSES];
        }
        loop {
            let mut page = self.page_with_room(class);
            if let Some(slot) = page.take() {
                self.classes[class].live += 1;
                self.used_bytes += SLOT_BYTES[class] as usize;
                page.owners += owner as u32;
                return slot;
            }
        }
    }

    /// The current page of a class, or the fullest, or a new one; with a carved slot that is free.
    fn page_with_room(&mut self, class: usize) -> Page {
        if let Some(mut page) = self.classes[class].current.take() {
            if page.carve() {
                self.touch(page);
                self.classes[class].current = Some(page);
                return page;
            }
            page.kept = Kept::Full;
            page.low = page.live;
        }
        let mut page = match self.classes[class].bins.iter().rev().find_map(|bin| *bin) {
            Some(page) => {
                self.unlink(page);
                page
            }
            None => self.new_page(class),
        };
        page.kept = Kept::Current;
        page.low = 0;
        self.classes[class].current = Some(page);
        page
    }

    fn new_page(&mut self, class: usize) -> Page {
        let (start, touched, filled) = self.all.take();
        // SAFETY: the page is ours from now on.
        let mut page = unsafe { Page::new(start, class as u8, SLOT_BYTES[class] as usize) };
        self.touched_bytes += filled;
        page.touched = touched;
        page.carve();
        self.touch(page);
        self.classes[class].pages += 1;
        page
    }

    /// Counts what carving reached.
    fn touch(&mut self, mut page: Page) {
        let more = page.reached().saturating_sub(page.touched);
        page.touched += more;
        self.touched_bytes += more as usize;
    }

    /// Takes a slot back.
    ///
    /// # Safety
    /// `slot` came from [`Arena::allocate`] of this arena with the same `owner`, and nobody uses it any more.
    #[inline]
    pub unsafe fn free(&mut self, slot: NonNull<u8>, owner: bool) {
        // SAFETY: by the caller.
        let mut page = unsafe { Page::of(slot) };
        // SAFETY: by the caller.
        unsafe { page.put(slot) };
        page.owners -= owner as u32;
        self.classes[page.class as usize].live -= 1;
        self.used_bytes -= SLOT_BYTES[page.class as usize] as usize;
        if page.live < page.low {
            self.keep_elsewhere(page);
        }
    }

    /// Keeps a page where it belongs now that it has fewer slots in use.
    #[cold]
    #[inline(never)]
    fn keep_elsewhere(&mut self, mut page: Page) {
        match page.kept {
            Kept::Bin(_) => self.unlink(page),
            Kept::Victim if page.live == 0 => self.victim = None,
            _ => {}
        }
        if page.live == 0 {
            return self.release(page);
        }
        let (live, capacity) = (page.live as usize, page.capacity());
        let bin = (live * BINS / capacity).min(BINS - 1);
        page.low = (bin * capacity).div_ceil(BINS).max(1) as u32;
        page.kept = Kept::Bin(bin as u8);
        let first = &mut self.classes[page.class as usize].bins[bin];
        page.previous = None;
        page.next = *first;
        if let Some(next) = first {
            next.previous = Some(page);
        }
        *first = Some(page);
    }

    fn unlink(&mut self, page: Page) {
        let Kept::Bin(bin) = page.kept else { return };
        match page.previous {
            Some(mut previous) => previous.next = page.next,
            None => self.classes[page.class as usize].bins[bin as usize] = page.next,
        }
        if let Some(mut next) = page.next {
            next.previous = page.previous;
        }
    }

    fn release(&mut self, page: Page) {
        if self.all.index(page.start()) == self.walk.page {
            // What comes here has slots elsewhere, and none that were in use when the walk began.
            (self.walk.page, self.walk.offset) = (self.walk.page + 1, 0);
        }
        self.classes[page.class as usize].pages -= 1;
        self.all.put(page.start(), page.touched);
    }

    /// Bytes of all slots in use.
    pub fn used_bytes(&self) -> usize {
        self.used_bytes
    }

    /// Bytes taken from the system: pages as far as they were touched, free ones that were not given back included.
    pub fn held_bytes(&self) -> usize {
        self.touched_bytes + self.classes.capacity() * size_of::<Class>()
    }

    /// Bytes that it can still grow by.
    pub fn room_bytes(&self) -> usize {
        self.all.room_bytes()
    }

    /// Visits all slots in use in storage order.
    #[cfg(test)]
    pub fn for_each(&self, mut visit: impl FnMut(NonNull<u8>)) {
        for start in self.all.used() {
            // SAFETY: the page is in use.
            let page = unsafe { Page::of(start) };
            let mut offset = 0;
            while let Some((slot, next)) = page.next_live(offset) {
                visit(slot);
                offset = next;
            }
        }
    }

    /// Gives back what runs empty: pages that hold nothing, the memory of free pages, and sparse pages, whose entries
    /// are moved. `moved` is told where each was and where it is, and says whether it owns memory outside. `budget` is in
    /// bytes that could be copied in the time. True if there is more to do.
    pub fn compact_slice(
        &mut self,
        mut budget: usize,
        mut moved: impl FnMut(NonNull<u8>, NonNull<u8>) -> bool,
    ) -> bool {
        self.release_empty_current();
        let (bytes, more) = self.all.trim();
        self.touched_bytes -= bytes;
        while self.victim.is_some() || self.choose_victim() {
            if !self.empty_victim(&mut budget, &mut moved) {
                return true;
            }
        }
        more
    }

    /// A class's current page is kept when its last slot is freed, or setting and deleting one key would make it anew
    /// each time. Here it goes.
    fn release_empty_current(&mut self) {
        for class in 0..self.classes.len() {
            if let Some(page) = self.classes[class].current.filter(|page| page.live == 0) {
                self.classes[class].current = None;
                self.release(page);
            }
        }
    }

    /// The sparsest page of the next class that has more room than it should. False if there is none.
    fn choose_victim(&mut self) -> bool {
        for _ in 0..self.classes.len() {
            self.compact_class = (self.compact_class + 1) % self.classes.len();
            let class = &self.classes[self.compact_class];
            let Some(page) = class.bins.iter().find_map(|bin| *bin) else { continue };
            // With a page's worth free, all that the sparsest holds has room in the others.
            let free = class.pages * page.capacity() - class.live;
            if free >= page.capacity() + class.live / SLACK_PART {
                self.unlink(page);
                let mut victim = page;
                victim.kept = Kept::Victim;
                victim.low = 1;
                self.victim = Some((page, 0));
                return true;
            }
        }
        false
    }

    /// Moves what the victim holds. False if the budget is spent.
    fn empty_victim(&mut self, budget: &mut usize, moved: &mut impl FnMut(NonNull<u8>, NonNull<u8>) -> bool) -> bool {
        while let Some((page, offset)) = self.victim {
            let bytes = SLOT_BYTES[page.class as usize] as usize;
            let Some(rest) = budget.checked_sub(bytes + MOVE_COST_BYTES) else { return false };
            *budget = rest;
            let Some((slot, next)) = page.next_live(offset).filter(|_| self.has_room_beside(page)) else {
                // What had room has been taken by others meanwhile: the page stays.
                self.victim = None;
                self.keep_elsewhere(page);
                break;
            };
            self.victim = Some((page, next));
            let new = self.allocate(bytes, false);
            // SAFETY: both slots have this size; the new one is of another page, because a victim is no current page.
            unsafe { slot.copy_to_nonoverlapping(new, bytes) };
            let owner = moved(slot, new);
            // SAFETY: the new slot is live.
            unsafe { Page::of(new) }.owners += owner as u32;
            // SAFETY: the slot was live, and what it held is used at its new place only.
            unsafe { self.free(slot, owner) };
        }
        true
    }

    /// Frees a slice of all that is left, for an arena that is given up: about `count` entries that own memory outside,
    /// or some runs of pages. The other entries are not looked at. True when nothing is left.
    pub fn free_some(&mut self, count: usize, runs: usize) -> bool {
        self.classes = Vec::new();
        self.victim = None;
        (self.touched_bytes, self.used_bytes) = (0, 0);
        let (mut count_left, mut runs_left) = (count, runs);
        while runs_left > 0 {
            match self.all.last() {
                None => return true,
                Some(Last::Free) => {}
                Some(Last::Used(start)) => {
                    // SAFETY: the page is in use.
                    let page = unsafe { Page::of(start) };
                    if !self.drop_owners(page, &mut count_left) {
                        return false;
                    }
                }
            }
            runs_left -= self.all.forget_last() as usize;
        }
        false
    }

    /// Frees what the entries of a page own outside. False if there is more.
    fn drop_owners(&mut self, mut page: Page, count: &mut usize) -> bool {
        while page.owners > 0
            && let Some((slot, next)) = page.next_live(self.free_offset)
        {
            if *count == 0 {
                return false;
            }
            *count -= 1;
            self.free_offset = next;
            // SAFETY: the entry is live and nobody uses it any more; the offset says that it has been here.
            page.owners -= unsafe { super::entry::drop_outside(slot) } as u32;
        }
        self.free_offset = 0;
        true
    }

    fn has_room_beside(&self, victim: Page) -> bool {
        let class = &self.classes[victim.class as usize];
        class.pages * victim.capacity() - class.live > victim.capacity() - victim.live as usize
    }
}

impl Default for Arena {
    fn default() -> Arena {
        Arena::new(false)
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        while !self.free_some(usize::MAX, usize::MAX) {}
    }
}

#[cfg(test)]
mod tests;
