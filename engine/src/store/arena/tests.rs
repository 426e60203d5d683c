//! The arena against a model: which slots are in use, and what was written there.

use std::collections::BTreeMap;

use super::page::PAGE_BYTES;
use super::*;

/// A small generator, so that a failure comes back with its seed.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) as usize % bound
    }
}

#[derive(Default)]
struct Model {
    arena: Arena,
    /// Address to size and fill.
    live: BTreeMap<usize, (usize, u8)>,
}

fn pointer(address: usize) -> NonNull<u8> {
    NonNull::new(std::ptr::with_exposed_provenance_mut(address)).expect("not null")
}

impl Model {
    fn allocate(&mut self, bytes: usize, fill: u8) -> usize {
        let slot = self.arena.allocate(bytes, false);
        let address = slot.as_ptr().expose_provenance();
        assert_eq!(address % ALIGN, 0);
        if let Some((&before, &(len, _))) = self.live.range(..=address).next_back() {
            assert!(before + len <= address, "overlaps the one before");
        }
        if let Some((&after, _)) = self.live.range(address..).next() {
            assert!(address + bytes <= after, "overlaps the next");
        }
        // SAFETY: the slot has this many bytes.
        unsafe {
            slot.write_bytes(0, 8);
            slot.add(8).write_bytes(fill, bytes - 8);
        }
        self.live.insert(address, (bytes, fill));
        address
    }

    fn check(address: usize, bytes: usize, fill: u8) {
        // SAFETY: the slot is in use.
        let held = unsafe { std::slice::from_raw_parts(pointer(address).as_ptr(), bytes) };
        assert!(held[..8].iter().all(|&byte| byte == 0) && held[8..].iter().all(|&byte| byte == fill));
    }

    fn free(&mut self, address: usize) {
        let (bytes, fill) = self.live.remove(&address).expect("in use");
        Model::check(address, bytes, fill);
        // SAFETY: allocated above.
        unsafe { self.arena.free(pointer(address), false) };
    }

    fn compact(&mut self, budget: usize) -> bool {
        let live = &mut self.live;
        self.arena.compact_slice(budget, |old, new| {
            let entry = live.remove(&old.as_ptr().addr()).expect("only what is in use is moved");
            assert!(live.insert(new.as_ptr().expose_provenance(), entry).is_none());
            false
        })
    }

    fn compact_until_quiet(&mut self) {
        let mut slices = 0;
        while self.compact(64 << 10) {
            slices += 1;
            assert!(slices < 1_000_000, "compaction has an end");
        }
    }

    fn used(&self) -> usize {
        self.live.values().map(|&(bytes, _)| slot_bytes_of(bytes)).sum()
    }

    fn verify(&self) {
        self.live.iter().for_each(|(&address, &(bytes, fill))| Model::check(address, bytes, fill));
        let mut walked = Vec::new();
        self.arena.for_each(|slot| walked.push(slot.as_ptr().addr()));
        walked.sort_unstable();
        assert!(walked.iter().eq(self.live.keys()), "what is walked is what is in use");
        assert_eq!(self.arena.used_bytes(), self.used());
        assert!(self.arena.held_bytes() >= self.used());
    }
}

#[test]
fn every_size_has_a_class_that_wastes_little() {
    for bytes in 1..=LARGEST_BYTES {
        let slot = SLOT_BYTES[CLASS_OF[bytes.div_ceil(ALIGN)] as usize] as usize;
        let waste_max = if bytes <= FINE_BYTES { ALIGN - 1 } else { bytes / COARSE_PART + ALIGN };
        assert!(slot >= bytes && slot - bytes <= waste_max && slot.is_multiple_of(ALIGN), "{bytes} {slot}");
    }
}

#[test]
fn behaves_like_a_model_whatever_happens() {
    for seed in 0..12 {
        let (mut model, mut random) = (Model::default(), Random(seed));
        let sizes = [64, 600, 4_000, LARGEST_BYTES][seed as usize % 4];
        for step in 0..20_000 {
            // It grows for a while and shrinks for a while.
            let grows = (step / 4_000) % 2 == 0;
            if random.below(10) < if grows { 7 } else { 3 } || model.live.is_empty() {
                let bytes = 8 + random.below(sizes - 7);
                model.allocate(bytes, random.below(256) as u8);
            } else {
                let first = *model.live.keys().next().expect("not empty");
                let from = first + random.below(model.live.keys().next_back().expect("not empty") - first + 1);
                let address = *model.live.range(from..).next().expect("up to the last").0;
                model.free(address);
            }
            if random.below(50) == 0 {
                model.compact(random.below(64 << 10));
            }
            if step % 2_000 == 0 {
                model.verify();
            }
        }
        model.verify();
        model.compact_until_quiet();
        model.verify();
        let all: Vec<usize> = model.live.keys().copied().collect();
        all.into_iter().for_each(|address| model.free(address));
        model.compact_until_quiet();
        model.verify();
        assert_eq!(model.arena.used_bytes(), 0);
        assert!(model.arena.held_bytes() <= 25 * PAGE_BYTES, "{}", model.arena.held_bytes());
    }
}

#[test]
fn what_random_deletions_leave_is_compacted() {
    let (mut model, mut random) = (Model::default(), Random(1));
    for bytes in [56, 280, 1048] {
        (0..(24 << 20) / bytes).for_each(|_| {
            model.allocate(bytes, 7);
        });
    }
    let all: Vec<usize> = model.live.keys().copied().collect();
    for address in all {
        if random.below(10) > 0 {
            model.free(address);
        }
    }
    assert!(model.arena.held_bytes() > 5 * model.arena.used_bytes());
    model.compact_until_quiet();
    model.verify();
    let (held, used) = (model.arena.held_bytes(), model.arena.used_bytes());
    assert!(held <= used * 115 / 100 + 24 * PAGE_BYTES, "{held} for {used}");
}

#[test]
fn sizes_that_drift_leave_nothing_behind() {
    let (mut model, mut random) = (Model::default(), Random(2));
    let mut order = std::collections::VecDeque::new();
    let (mut total, mut number) = (0, 0u64);
    // The oldest go as the new come; addresses change, so the model is asked for any key of the wanted size.
    for round in 0..40usize {
        let centre = 100 + round * 20;
        let mut made = 0;
        while made < 4 << 20 {
            let bytes = centre + random.below(64);
            model.allocate(bytes, number as u8);
            number += 1;
            order.push_back(bytes);
            total += bytes;
            made += bytes;
        }
        while total > 32 << 20 {
            total -= order.pop_front().expect("not empty");
        }
        // Of each size as many stay as are in the order.
        let mut wanted = BTreeMap::new();
        order.iter().for_each(|&bytes| *wanted.entry(bytes).or_insert(0usize) += 1);
        let all: Vec<(usize, usize)> = model.live.iter().map(|(&address, &(bytes, _))| (address, bytes)).collect();
        for (address, bytes) in all {
            match wanted.get_mut(&bytes) {
                Some(left) if *left > 0 => *left -= 1,
                _ => model.free(address),
            }
        }
        model.compact_until_quiet();
        let (held, used) = (model.arena.held_bytes(), model.arena.used_bytes());
        assert!(held <= used * 110 / 100 + 64 * PAGE_BYTES, "{held} for {used} in round {round}");
    }
    model.verify();
}

#[test]
fn an_arena_given_up_is_freed_in_slices() {
    let mut model = Model::default();
    (0..200_000).for_each(|_| {
        model.allocate(100, 1);
    });
    let mut slices = 0;
    while !model.arena.free_some(100, 1) {
        slices += 1;
    }
    assert!(slices >= 10 && model.arena.held_bytes() == 0);
    // It can be used again.
    model.live.clear();
    model.allocate(100, 2);
    model.verify();
}

#[test]
fn runs_that_are_filled_ahead_are_used_and_others_are_not_waited_for() {
    for fill in [Some(true), Some(false), None] {
        let mut model = Model { arena: Arena::new(true), ..Model::default() };
        let (mut asked, mut kept) = (0, Vec::new());
        for step in 0..30_000 {
            model.allocate(600, step as u8);
            if let Some(ahead) = model.arena.take_ahead() {
                asked += 1;
                match fill {
                    Some(true) => ahead.fill(),
                    Some(false) => drop(ahead),
                    None => kept.push(ahead),
                }
            }
        }
        assert!(if fill.is_none() { asked == 1 } else { asked > 5 }, "{asked} asked for");
        model.verify();
        let all: Vec<usize> = model.live.keys().copied().collect();
        all.into_iter().for_each(|address| model.free(address));
        model.compact_until_quiet();
        model.verify();
        assert!(model.arena.held_bytes() <= 25 * PAGE_BYTES, "{}", model.arena.held_bytes());
        // What was given back is asked for and used again.
        (0..30_000).for_each(|step| {
            model.allocate(600, step as u8);
            model.arena.take_ahead().into_iter().for_each(crate::store::Ahead::fill);
        });
        model.verify();
        while !model.arena.free_some(usize::MAX, 1) {}
        model.live.clear();
    }
}

/// Whoever reads an entry that was freed, or where none was, is told on.
#[cfg(asan)]
#[test]
fn what_is_no_entry_is_forbidden_ground() {
    unsafe extern "C" {
        fn __asan_address_is_poisoned(address: *const std::ffi::c_void) -> i32;
    }
    // SAFETY: it looks at the sanitizer's own memory.
    let is_forbidden = |address: usize| unsafe { __asan_address_is_poisoned(pointer(address).as_ptr().cast()) != 0 };
    let mut model = Model::default();
    let (first, second) = (model.allocate(96, 1), model.allocate(96, 2));
    assert_eq!(second, first + 96);
    for at in [first, first + 8, first + 95, second, second + 95] {
        assert!(!is_forbidden(at), "{}", at - first);
    }
    assert!(is_forbidden(second + 96 + 8), "it was carved and never used");
    assert!(is_forbidden((first & !(PAGE_BYTES - 1)) + PAGE_BYTES - 1), "it was not even carved");
    model.free(first);
    assert!(!is_forbidden(first) && is_forbidden(first + 8) && is_forbidden(first + 95) && !is_forbidden(second));
    assert_eq!(model.allocate(96, 3), first);
    assert!(!is_forbidden(first + 95));
}
