//! Memory given back to the system before its owner lets go of it, and files as memory.

use std::fs::File;
use std::io;

use memmap2::Mmap;
use rustix::mm::{Advice, madvise};

/// Gives the whole pages of `bytes` back to the system, which takes it 3 µs per MiB if
/// they are huge and some ten times as long if not. The bytes are worth nothing
/// afterwards (those of the allocator become zero).
pub fn give_back(bytes: &mut [u8]) {
    let page = rustix::param::page_size();
    let range = bytes.as_mut_ptr_range();
    let start = range.start.wrapping_add(range.start.align_offset(page));
    let Some(len) = range.end.addr().checked_sub(start.addr()).map(|len| len / page * page).filter(|&len| len > 0)
    else {
        return;
    };
    // SAFETY: the pages are inside `bytes`, which is borrowed exclusively; whatever stands in them then are bytes too.
    // If the system does not want them they stay as they are.
    let _ = unsafe { madvise(start.cast(), len, Advice::LinuxDontNeed) };
}

/// Has the allocator give pages back to the system when the last of what was in them is freed, not up to a second later: until
/// then they are beside what else the process was promised, and while sizes of values change that is much. To be called
/// before there are threads; `MIMALLOC_PURGE_DELAY` in the environment is stronger.
pub fn purge_at_once() {
    /// The place of `purge_delay` among the options of mimalloc 3, which has no name in its crate.
    const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;
    if std::env::var_os("MIMALLOC_PURGE_DELAY").is_none() {
        // SAFETY: there is no other thread that reads options.
        unsafe { libmimalloc_sys::mi_option_set(PURGE_DELAY, 0) }
    }
}

/// Has the allocator give back to the system what is free in all threads' memory and was not used again. It would do so
/// by itself only when somebody asks it for much, and then on that thread.
pub fn collect_free() {
    // SAFETY: it may be called at any time from any thread, and moves nothing.
    unsafe { libmimalloc_sys::mi_collect(true) }
}

/// A file's content as memory. Whoever calls it sees to it that nobody writes or shortens the file meanwhile. A page that
/// cannot be read when it is first looked at ends the process: read the file before, to learn of that.
pub fn map_file(file: &File) -> io::Result<Mmap> {
    // SAFETY: only files of the data directory are mapped, which one process has locked, and it maps them to recover what is
    // in them, before it writes to any.
    unsafe { Mmap::map(file) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_pages_are_given_back_and_their_surroundings_stay() {
        let page = rustix::param::page_size();
        for (skip, len) in [(0, 4 * page), (1, 4 * page), (page - 1, 2), (7, 3), (0, 0), (5, 3 * page)] {
            let mut all = vec![7u8; 8 * page];
            let first = all.as_ptr().align_offset(page);
            let all = &mut all[first..][..6 * page];
            give_back(&mut all[skip..skip + len]);
            assert!(all[..skip].iter().all(|&byte| byte == 7), "{skip} {len}");
            assert!(all[skip + len..].iter().all(|&byte| byte == 7), "{skip} {len}");
            let zeros = all.iter().filter(|&&byte| byte == 0).count();
            assert_eq!(zeros, (skip + len).saturating_sub(skip.next_multiple_of(page)) / page * page, "{skip} {len}");
        }
    }
}
