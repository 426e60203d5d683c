//! The memory of an arena: mappings of the system cut into pages, and which of them are free.

use std::alloc::{Layout, handle_alloc_error};
use std::ptr::NonNull;

use memmap2::{MmapMut, UncheckedAdvice};

use super::page::PAGE_BYTES;

/// A mapping's pages begin at a multiple of this, the system's huge page.
const HUGE_BYTES: usize = 2 << 20;
/// Pages of an arena's first mapping, and of the largest. The later ones are as large as all before them together.
const PAGES_MIN: usize = HUGE_BYTES / PAGE_BYTES;
const PAGES_MAX: usize = 512;
/// Free pages that are kept as they are, besides a part of those in use: so that a load that goes up and down does not
/// give memory back only to ask for it again.
const KEPT_MIN: usize = 16;
const KEPT_PART: usize = 32;

/// A page that is free: where, and how much of it the system has provided.
pub struct FreePage {
    pub start: NonNull<u8>,
    pub mapping: u32,
    pub touched: u32,
}

struct Mapping {
    memory: MmapMut,
    /// Where the pages begin.
    start: usize,
    pages: usize,
    huge: bool,
    /// One bit for each page in use.
    used: [u64; PAGES_MAX / 64],
}

/// All mappings of an arena.
#[derive(Default)]
pub struct Mappings {
    all: Vec<Mapping>,
    /// Free pages with memory, and those without.
    warm: Vec<FreePage>,
    cold: Vec<FreePage>,
    pages: usize,
    in_use: usize,
}

impl Mappings {
    /// A page to use, and how many bytes that touches at once: where huge pages are, all of it.
    pub fn take(&mut self) -> (FreePage, usize) {
        let mut page = self.warm.pop().unwrap_or_else(|| self.take_cold());
        let mapping = &mut self.all[page.mapping as usize];
        let index = mapping.index(page.start);
        mapping.used[index / 64] |= 1 << (index % 64);
        let before = page.touched;
        if mapping.huge {
            page.touched = PAGE_BYTES as u32;
        }
        self.in_use += 1;
        let more = (page.touched - before) as usize;
        (page, more)
    }

    fn take_cold(&mut self) -> FreePage {
        if self.cold.is_empty() {
            self.map();
        }
        self.cold.pop().expect("a new mapping has pages")
    }

    fn map(&mut self) {
        let pages = self.pages.clamp(PAGES_MIN, PAGES_MAX);
        // What is not touched costs nothing, so the room to align in is only addresses.
        let bytes = pages * PAGE_BYTES + HUGE_BYTES;
        let Ok(mut memory) = MmapMut::map_anon(bytes) else {
            handle_alloc_error(Layout::from_size_align(bytes, PAGE_BYTES).expect("a fixed layout"));
        };
        let base = memory.as_mut_ptr();
        let start = base.addr().next_multiple_of(HUGE_BYTES) - base.addr();
        // Not the first: an arena that stays small should take only what it uses.
        let huge = !self.all.is_empty();
        if huge {
            ask_for_huge_pages(&memory, start, pages * PAGE_BYTES);
        }
        let number = self.all.len() as u32;
        for index in (0..pages).rev() {
            // SAFETY: the mapping has room for the alignment and all pages.
            let page = unsafe { NonNull::new_unchecked(base.add(start + index * PAGE_BYTES)) };
            self.cold.push(FreePage { start: page, mapping: number, touched: 0 });
        }
        // Whoever reads an entry makes its pointer from an address alone.
        let _ = base.expose_provenance();
        self.all.push(Mapping { memory, start, pages, huge, used: [0; PAGES_MAX / 64] });
        self.pages += pages;
    }

    /// Takes back a page.
    pub fn put(&mut self, page: FreePage) {
        let mapping = &mut self.all[page.mapping as usize];
        let index = mapping.index(page.start);
        debug_assert!(mapping.used[index / 64] >> (index % 64) & 1 == 1);
        mapping.used[index / 64] &= !(1 << (index % 64));
        self.in_use -= 1;
        self.warm.push(page);
    }

    pub fn has_warm(&self) -> bool {
        self.above(0)
    }

    /// Whether more free pages than `kept` have memory.
    fn above(&self, kept: usize) -> bool {
        self.warm.len() > kept
    }

    /// Gives the memory of up to `count` free pages back to the system, if there are more than are worth keeping.
    /// Returns how many bytes, and whether there is more to do.
    pub fn trim(&mut self, count: usize) -> (usize, bool) {
        let kept = KEPT_MIN + self.in_use / KEPT_PART;
        let bytes = self.give_back(count, kept);
        (bytes, bytes > 0 && self.above(kept))
    }

    /// Gives back up to `count` of the free pages beyond `kept`.
    pub fn give_back(&mut self, count: usize, kept: usize) -> usize {
        let mut bytes = 0;
        for _ in 0..count {
            if !self.above(kept) {
                break;
            }
            let Some(mut page) = self.warm.pop() else { break };
            let mapping = &self.all[page.mapping as usize];
            let offset = mapping.start + mapping.index(page.start) * PAGE_BYTES;
            // SAFETY: nobody uses the page, and what is read in it before it is written again is not relied upon.
            let given = unsafe { mapping.memory.unchecked_advise_range(UncheckedAdvice::DontNeed, offset, PAGE_BYTES) };
            if given.is_ok() {
                bytes += page.touched as usize;
                page.touched = 0;
            }
            self.cold.push(page);
        }
        bytes
    }

    /// A page in use of the last mapping that has one. Mappings behind it are dropped: only for an arena that is given
    /// up, when no free page has memory any more.
    pub fn last_used(&mut self) -> Option<NonNull<u8>> {
        debug_assert!(self.warm.is_empty());
        self.cold.clear();
        while let Some(mapping) = self.all.last_mut() {
            if let Some(page) = mapping.first_used() {
                return Some(page);
            }
            self.pages -= mapping.pages;
            self.all.pop();
        }
        None
    }

    /// All pages in use, in storage order.
    #[cfg(test)]
    pub fn used(&self) -> impl Iterator<Item = NonNull<u8>> {
        self.all.iter().flat_map(|mapping| {
            let used = |index: &usize| mapping.used[index / 64] >> (index % 64) & 1 == 1;
            (0..mapping.pages).filter(used).map(|index| {
                let address = mapping.memory.as_ptr().addr() + mapping.start + index * PAGE_BYTES;
                NonNull::new(std::ptr::with_exposed_provenance_mut(address)).expect("a mapping is not at 0")
            })
        })
    }
}

impl Mapping {
    fn index(&self, page: NonNull<u8>) -> usize {
        (page.as_ptr().addr() - self.memory.as_ptr().addr() - self.start) / PAGE_BYTES
    }

    fn first_used(&mut self) -> Option<NonNull<u8>> {
        let word = self.used.iter().position(|&word| word != 0)?;
        let index = word * 64 + self.used[word].trailing_zeros() as usize;
        // SAFETY: only pages of this mapping have a bit.
        Some(unsafe { NonNull::new_unchecked(self.memory.as_mut_ptr().add(self.start + index * PAGE_BYTES)) })
    }
}

/// Where the system has no huge pages it says so, and small ones do as well.
fn ask_for_huge_pages(memory: &MmapMut, start: usize, bytes: usize) {
    #[cfg(target_os = "linux")]
    let _ = memory.advise_range(memmap2::Advice::HugePage, start, bytes);
    #[cfg(not(target_os = "linux"))]
    let _ = (memory, start, bytes);
}
