//! Address space reserved for what grows without ever moving: memory comes as it is touched and goes as it is given back.
//!
//! The system's huge pages make lookups cheaper, because the processor has fewer addresses to translate, but the first
//! touch of one clears 2 MiB, hundreds of microseconds at best. So whoever grows asks in time to have the next
//! [`HUGE_BYTES`] filled by somebody else ([`Ahead`]); what is touched before that has happened is of small pages.
#![allow(unsafe_code)]

use std::alloc::{Layout, handle_alloc_error};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use memmap2::{MmapMut, MmapOptions, UncheckedAdvice};

/// The system's huge page: a space begins at a multiple of it.
pub const HUGE_BYTES: usize = 2 << 20;

/// A list that is not short asks for a run that is as far ahead as this part of it.
const AHEAD_PART: usize = 8;
/// Runs that a list that shrinks by one gives back at most: those too that were filled ahead and lie far behind its end.
const BACK_RUNS: usize = 2;

/// A range of addresses. Nobody else's memory is ever in it, and dropping it, and what is asked for ahead, frees all of it.
pub struct Space {
    memory: Arc<MmapMut>,
    base: NonNull<u8>,
    bytes: usize,
}

// SAFETY: a space owns its mapping; the pointer is into it.
unsafe impl Send for Space {}

impl Space {
    /// Reserves `wanted` bytes, or as large a part of it as the system allows, but `least`; both are powers of two. What is
    /// reserved costs nothing but addresses.
    pub fn reserve(wanted: usize, least: usize) -> Space {
        let mut bytes = wanted;
        loop {
            // Room to align in.
            let mapped = MmapOptions::new().len(bytes + HUGE_BYTES).no_reserve_swap().map_anon();
            if let Ok(mut memory) = mapped {
                let first = memory.as_mut_ptr();
                // Whoever reads an entry makes its pointer from an address alone.
                let _ = first.expose_provenance();
                let skipped = first.addr().next_multiple_of(HUGE_BYTES) - first.addr();
                // SAFETY: the mapping has room for the alignment, and is not at 0.
                let base = unsafe { NonNull::new_unchecked(first.add(skipped)) };
                return Space { memory: Arc::new(memory), base, bytes };
            }
            bytes /= 2;
            if bytes < least {
                handle_alloc_error(Layout::from_size_align(least, HUGE_BYTES).expect("a power of two"));
            }
        }
    }

    /// Its first byte.
    #[inline(always)]
    pub fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// How many bytes there are.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    fn offset(&self, from: usize) -> usize {
        from + (self.base.as_ptr().addr() - self.memory.as_ptr().addr())
    }

    /// Asks for [`HUGE_BYTES`] to be filled, from here on. Whoever gets the first half does it, or drops it.
    pub fn ahead(&self, from: usize) -> (Ahead, Arc<Filling>) {
        let filling = Arc::new(Filling(AtomicU8::new(ASKED)));
        (Ahead { memory: self.memory.clone(), offset: self.offset(from), filling: filling.clone() }, filling)
    }

    /// Gives memory back to the system; it reads as zeros afterwards, and comes in small pages unless it is asked for
    /// again. False if the system does not want it, and nothing has changed.
    ///
    /// # Safety
    /// Nobody relies on what is in the range.
    pub unsafe fn give_back(&self, from: usize, bytes: usize) -> bool {
        debug_assert!(from + bytes <= self.bytes);
        let offset = self.offset(from);
        // SAFETY: by the caller.
        let given = unsafe { self.memory.unchecked_advise_range(UncheckedAdvice::DontNeed, offset, bytes) }.is_ok();
        #[cfg(target_os = "linux")]
        if given && bytes >= HUGE_BYTES {
            // Where the system has no huge pages it says so, and that is all the same.
            let _ = self.memory.advise_range(memmap2::Advice::NoHugePage, offset, bytes);
        }
        given
    }
}

/// A range to be filled with memory, on a thread that has the time.
pub struct Ahead {
    memory: Arc<MmapMut>,
    offset: usize,
    filling: Arc<Filling>,
}

const ASKED: u8 = 0;
const BEGUN: u8 = 1;
const FILLED: u8 = 2;
const LEFT: u8 = 3;

/// What became of an [`Ahead`].
pub struct Filling(AtomicU8);

impl Filling {
    /// Whether nobody is at it any more.
    pub fn is_over(&self) -> bool {
        self.0.load(Ordering::Acquire) >= FILLED
    }

    /// Takes the wish back, if nobody has begun.
    pub fn cancel(&self) {
        let _ = self.0.compare_exchange(ASKED, LEFT, Ordering::Release, Ordering::Relaxed);
    }

    /// Whether the range has its memory.
    pub fn is_filled(&self) -> bool {
        self.0.load(Ordering::Acquire) == FILLED
    }
}

impl Ahead {
    /// Fills the range, in a huge page if the system has one: from a tenth of a millisecond to several.
    pub fn fill(self) {
        #[cfg(target_os = "linux")]
        {
            use memmap2::Advice;
            if self.filling.0.compare_exchange(ASKED, BEGUN, Ordering::Acquire, Ordering::Relaxed).is_err() {
                return;
            }
            // Where there are no huge pages, small ones do as well.
            let _ = self.memory.advise_range(Advice::HugePage, self.offset, HUGE_BYTES);
            let filled = self.memory.advise_range(Advice::PopulateWrite, self.offset, HUGE_BYTES).is_ok();
            self.filling.0.store(if filled { FILLED } else { LEFT }, Ordering::Release);
        }
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        self.filling.cancel();
    }
}

/// A list that grows without moving what it has, in a space of its own. Of plain data: nothing is dropped.
pub struct Grown<T: Copy> {
    /// The next run, to be filled by whoever polls it.
    ahead: Option<Ahead>,
    /// Where the runs begin that were asked for and may not be filled yet.
    fillings: Vec<(usize, Arc<Filling>)>,
    /// Reserved with the first element.
    space: Option<Space>,
    first: NonNull<T>,
    len: usize,
    /// Behind this, and behind the run of the last element, there is no memory.
    asked_bytes: usize,
    /// Most bytes that it may come to have.
    bytes_max: usize,
}

// SAFETY: as for a Vec.
unsafe impl<T: Copy + Send> Send for Grown<T> {}

impl<T: Copy> Grown<T> {
    /// An empty list that may grow to so many bytes, a power of two.
    pub const fn new(bytes_max: usize) -> Grown<T> {
        assert!(bytes_max.is_power_of_two() && bytes_max >= HUGE_BYTES && HUGE_BYTES.is_multiple_of(align_of::<T>()));
        Grown {
            ahead: None,
            fillings: Vec::new(),
            space: None,
            first: NonNull::dangling(),
            len: 0,
            asked_bytes: 0,
            bytes_max,
        }
    }

    /// Adds an element.
    pub fn push(&mut self, element: T) {
        let space = self.space.get_or_insert_with(|| {
            let space = Space::reserve(self.bytes_max, HUGE_BYTES);
            self.first = space.base().cast();
            space
        });
        if (self.len + 1) * size_of::<T>() > space.bytes() {
            handle_alloc_error(Layout::new::<T>());
        }
        // SAFETY: the place is inside the space, aligned, and nobody's.
        unsafe { self.first.add(self.len).write(element) };
        // In the middle of a run it is time to think of the next, and of a later one the longer the list is: a table's segments
        // come in bursts.
        let (before, end) =
            (self.len * size_of::<T>() + HUGE_BYTES / 2, (self.len + 1) * size_of::<T>() + HUGE_BYTES / 2);
        let (run, next) =
            (before / HUGE_BYTES, end / HUGE_BYTES + (before / HUGE_BYTES + AHEAD_PART * 3 / 4) / AHEAD_PART);
        if run != end / HUGE_BYTES && (next + 1) * HUGE_BYTES <= space.bytes() {
            let (ahead, filling) = space.ahead(next * HUGE_BYTES);
            self.ahead = Some(ahead);
            self.fillings.retain(|(_, filling)| !filling.is_over());
            self.fillings.push((next * HUGE_BYTES, filling));
            self.asked_bytes = self.asked_bytes.max((next + 1) * HUGE_BYTES);
        }
        self.len += 1;
    }

    /// What would be good to have filled soon. Gives back what was being filled when the list became shorter.
    #[inline]
    pub fn take_ahead(&mut self) -> Option<Ahead> {
        if !self.fillings.is_empty() {
            self.give_back_late();
        }
        self.ahead.take()
    }

    #[cold]
    fn give_back_late(&mut self) {
        let Some(space) = &self.space else { return };
        let end = self.len * size_of::<T>();
        // The list asks for no run behind this one.
        let farthest = (end + 2 * HUGE_BYTES + end / AHEAD_PART).next_multiple_of(HUGE_BYTES);
        self.fillings.retain(|(from, filling)| {
            let (over, late) = (filling.is_over(), filling.is_filled() && *from > farthest);
            if late {
                // SAFETY: it is behind the last element.
                unsafe { space.give_back(*from, HUGE_BYTES) };
            }
            !over
        });
    }

    /// Takes the last element off; memory is given back in runs, [`BACK_RUNS`] at most.
    pub fn pop(&mut self) -> Option<T> {
        self.len = self.len.checked_sub(1)?;
        // SAFETY: the element was there.
        let last = unsafe { self.first.add(self.len).read() };
        let end = self.len * size_of::<T>();
        // Half a run is kept, so that a list that goes up and down does not ask again and again.
        let (kept, before) = (end + HUGE_BYTES / 2, end + size_of::<T>() + HUGE_BYTES / 2);
        if kept / HUGE_BYTES != before / HUGE_BYTES {
            let from = kept.next_multiple_of(HUGE_BYTES);
            if let Some(space) = self.space.as_ref().filter(|space| from < space.bytes()) {
                let end = self.asked_bytes.max(from + HUGE_BYTES);
                let first = from.max(end - BACK_RUNS * HUGE_BYTES);
                // SAFETY: it is behind the last element.
                unsafe { space.give_back(first, end - first) };
                // What is asked for and nobody has begun with would lie there.
                self.ahead = None;
                self.fillings.iter().filter(|(at, _)| *at >= first).for_each(|(_, filling)| filling.cancel());
                self.asked_bytes = first;
            }
        }
        Some(last)
    }

    /// Drops the elements of the last run and gives its memory back. True when nothing is left.
    pub fn drop_run(&mut self) -> bool {
        if let Some(space) = &self.space {
            let from = (self.len * size_of::<T>()).saturating_sub(1) / HUGE_BYTES * HUGE_BYTES;
            self.len = from / size_of::<T>();
            let end = (from + 2 * HUGE_BYTES).min(space.bytes());
            // SAFETY: the last elements are not used any more; one that lies across the beginning is dropped too.
            unsafe { space.give_back(from, end - from) };
        }
        if self.len == 0 {
            self.ahead = None;
            self.fillings.clear();
            self.asked_bytes = 0;
            self.space = None;
            self.first = NonNull::dangling();
        }
        self.len == 0
    }

    /// Bytes that it can still grow by.
    pub fn room_bytes(&self) -> usize {
        self.space.as_ref().map_or(self.bytes_max, Space::bytes) - self.bytes()
    }

    /// Bytes that the elements take.
    pub fn bytes(&self) -> usize {
        self.len * size_of::<T>()
    }

    /// The first element, for callers that know how many there are.
    #[inline(always)]
    pub fn first(&self) -> NonNull<T> {
        self.first
    }
}

impl<T: Copy> std::ops::Deref for Grown<T> {
    type Target = [T];

    #[inline(always)]
    fn deref(&self) -> &[T] {
        // SAFETY: so many elements were written.
        unsafe { std::slice::from_raw_parts(self.first.as_ptr(), self.len) }
    }
}

impl<T: Copy> std::ops::DerefMut for Grown<T> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as above, and &mut self is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.first.as_ptr(), self.len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::eviction::simulation::Random;

    #[test]
    fn a_grown_list_keeps_what_is_pushed_and_shrinks() {
        let mut list: Grown<[u64; 3]> = Grown::new(64 << 20);
        (0..200_000).for_each(|at| list.push([at; 3]));
        assert!(list.iter().enumerate().all(|(at, element)| element == &[at as u64; 3]));
        (0..150_000).for_each(|at| assert_eq!(list.pop(), Some([199_999 - at; 3])));
        (50_000..120_000).for_each(|at| list.push([at; 3]));
        assert!(list.iter().enumerate().all(|(at, element)| element == &[at as u64; 3]));
        let mut runs = 0;
        while !list.drop_run() {
            runs += 1;
            assert!(list.iter().enumerate().all(|(at, element)| element == &[at as u64; 3]));
        }
        assert_eq!((runs, list.len(), list.pop()), (1, 0, None));
        list.push([7; 3]);
        assert_eq!(list.len(), 1);
    }

    /// Goes up and down by random lengths, around and across the borders of runs, and checks what is there and that what
    /// lies a run behind the end was given back.
    fn walk<T: Copy + PartialEq + std::fmt::Debug>(element: impl Fn(u64) -> T) {
        const RUNS: usize = 4;
        let mut list: Grown<T> = Grown::new(RUNS * HUGE_BYTES);
        let most = RUNS * HUGE_BYTES / size_of::<T>();
        let mut model = Vec::new();
        let mut random = Random::new(1);
        for _ in 0..40 {
            // Half of the time to within a few elements of a border, or of half a run beside one.
            let border = random.below(2 * RUNS) * HUGE_BYTES / 2 / size_of::<T>();
            let target =
                if random.below(2) == 0 { random.below(most) } else { (border + random.below(5)).saturating_sub(2) };
            while model.len() < target {
                let next = element(random.next());
                model.push(next);
                list.push(next);
            }
            while model.len() > target {
                assert_eq!(list.pop(), model.pop());
            }
            assert!(list[..] == model[..]);
            let Some(space) = &list.space else { continue };
            let behind = (list.bytes() + size_of::<T>() + HUGE_BYTES / 2).next_multiple_of(HUGE_BYTES);
            for at in (behind..space.bytes()).step_by(HUGE_BYTES / 4) {
                // SAFETY: inside the space, and nobody writes there.
                assert_eq!(unsafe { space.base().add(at).cast::<u64>().read() }, 0, "not given back");
            }
            if random.below(5) == 0 {
                while !list.drop_run() {
                    model.truncate(list.len());
                    assert!(list[..] == model[..]);
                    assert!(
                        list.bytes().is_multiple_of(HUGE_BYTES)
                            || HUGE_BYTES - list.bytes() % HUGE_BYTES < size_of::<T>()
                    );
                }
                model.clear();
            }
        }
    }

    /// What was filled far ahead of a list goes too when the list becomes shorter.
    #[test]
    fn memory_ahead_of_a_list_that_shrinks_is_given_back() {
        const RUNS: usize = 64;
        type Element = [u64; 1024];
        let mut list: Grown<Element> = Grown::new(RUNS * HUGE_BYTES);
        let run = HUGE_BYTES / size_of::<Element>();
        let mut ahead = Vec::new();
        for at in 0..32 * run {
            list.push([at as u64; 1024]);
            if let Some(asked) = list.take_ahead() {
                ahead.push(asked.offset - list.space.as_ref().expect("it has elements").offset(0));
            }
        }
        let farthest = *ahead.last().expect("some were asked for") / HUGE_BYTES;
        assert!((36..40).contains(&farthest), "{farthest}");
        let space = |list: &Grown<Element>| list.space.as_ref().expect("it has elements").base();
        // SAFETY: inside the space, behind all elements.
        ahead.iter().filter(|&&at| at >= 32 * HUGE_BYTES).for_each(|&at| unsafe { space(&list).add(at).write(1) });
        while list.len() > 16 * run {
            list.pop();
        }
        for at in 17..RUNS {
            // SAFETY: inside the space, and nobody writes there.
            assert_eq!(unsafe { space(&list).add(at * HUGE_BYTES).read() }, 0, "run {at} was not given back");
        }
        assert!(list.iter().enumerate().all(|(at, element)| element[0] == at as u64));
    }

    #[test]
    fn elements_may_lie_across_the_borders_of_what_is_given_back() {
        walk(|number| [number | 1; 3]);
        walk(|number| [number | 1; 1024]);
        walk(|number| number | 1);
    }

    /// Bytes of a space that have memory.
    fn resident_bytes(space: &Space) -> usize {
        let pages = space.bytes() / 4096;
        let begin = space.base().as_ptr().addr();
        let mut all = 0;
        use std::io::{Read, Seek, SeekFrom};
        let mut map = std::fs::File::open("/proc/self/pagemap").unwrap();
        map.seek(SeekFrom::Start((begin / 4096 * 8) as u64)).unwrap();
        let mut bytes = vec![0; pages * 8];
        map.read_exact(&mut bytes).unwrap();
        for entry in bytes.chunks_exact(8) {
            all += (entry[7] >> 7 == 1) as usize * 4096;
        }
        all
    }

    #[test]
    fn what_was_filled_ahead_is_given_back_when_the_list_shrinks() {
        let mut list: Grown<[u64; 1024]> = Grown::new(1 << 30);
        for at in 0..(256 << 20) / 8192 {
            list.push([at; 1024]);
            if let Some(ahead) = list.take_ahead() {
                ahead.fill();
            }
        }
        while list.len() > 1 {
            list.pop();
        }
        let left = resident_bytes(list.space.as_ref().unwrap());
        assert!(left <= 2 * HUGE_BYTES, "{} MiB resident for one element", left >> 20);
    }

    #[test]
    fn what_is_being_filled_while_the_list_shrinks_is_given_back() {
        let mut list: Grown<[u64; 1024]> = Grown::new(1 << 30);
        let mut late = Vec::new();
        for at in 0..(16 << 20) / 8192 {
            list.push([at; 1024]);
            late.extend(list.take_ahead());
        }
        while list.len() > 1 {
            list.pop();
        }
        // The thread comes to most of it only now, and has begun with one.
        let (from, filling) = list.fillings.last().expect("one was asked for").clone();
        late.into_iter().for_each(Ahead::fill);
        assert!(!filling.is_filled());
        filling.0.store(ASKED, Ordering::Release);
        Ahead {
            memory: list.space.as_ref().unwrap().memory.clone(),
            offset: list.space.as_ref().unwrap().offset(from),
            filling: filling.clone(),
        }
        .fill();
        assert!(filling.is_filled() && list.take_ahead().is_none());
        let left = resident_bytes(list.space.as_ref().unwrap());
        assert!(left <= 2 * HUGE_BYTES, "{} MiB resident for one element", left >> 20);
    }
}
