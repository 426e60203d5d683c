//! An input as instructions: bytes that nobody wrote are refused by the first checksum, and nothing behind it would be tried.

use crate::buffer::PAGE_BYTES;

/// Most pages that an input is made into: 256 KiB.
const PAGES_MAX: usize = 64;
/// Set in the length of a page that begins another file.
const NEXT_FILE: u16 = 1 << 15;

/// Takes choices off the front. What is not there any more is zero.
pub struct Input<'a>(pub &'a [u8]);

impl<'a> Input<'a> {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn byte(&mut self) -> u8 {
        self.bytes(1).first().copied().unwrap_or_default()
    }

    pub fn u16(&mut self) -> u16 {
        u16::from_le_bytes([self.byte(), self.byte()])
    }

    pub fn u64(&mut self) -> u64 {
        u64::from_le_bytes(std::array::from_fn(|_| self.byte()))
    }

    /// So many bytes, or what is left.
    pub fn bytes(&mut self, count: usize) -> &'a [u8] {
        let (bytes, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        bytes
    }

    /// Up to 255 bytes, their number first.
    pub fn prefixed(&mut self) -> &'a [u8] {
        let count = self.byte();
        self.bytes(count.into())
    }
}

/// Files of pages, each written as what it has before its zeros, so that a file is as short as what it says:
///
/// ```text
/// length u16, bytes; 0x8000 in the length: the page begins another file
/// ```
pub fn pages(data: &[u8]) -> Vec<Vec<u8>> {
    let mut input = Input(data);
    let mut files = vec![Vec::new()];
    for _ in 0..PAGES_MAX {
        if input.is_empty() {
            break;
        }
        let length = input.u16();
        if length & NEXT_FILE != 0 {
            files.push(Vec::new());
        }
        let mut page = input.bytes(usize::from(length & !NEXT_FILE).min(PAGE_BYTES)).to_vec();
        page.resize(PAGE_BYTES, 0);
        files.last_mut().expect("there is one").append(&mut page);
    }
    files
}
