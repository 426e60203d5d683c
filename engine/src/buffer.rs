//! Memory that a file opened with O_DIRECT can be written from.

/// What such a file is written in.
pub const PAGE_BYTES: usize = 4096;

/// Bytes whose address and length are multiples of 4 KiB. The address stays the same when the buffer is moved.
#[derive(Debug, Default)]
pub struct Buffer {
    /// What is used, and slack on both sides of it.
    bytes: Vec<u8>,
    start: usize,
    len: usize,
}

impl Buffer {
    /// An empty buffer that can take `room` bytes.
    pub(crate) fn with_room(room: usize) -> Buffer {
        // Zeroed memory comes from the system untouched: what is never used costs nothing.
        let bytes = vec![0; room + PAGE_BYTES - 1];
        let start = bytes.as_ptr().align_offset(PAGE_BYTES);
        assert!(start < PAGE_BYTES, "a byte pointer can be aligned");
        Buffer { bytes, start, len: 0 }
    }

    pub(crate) fn room(&self) -> usize {
        self.bytes.len().saturating_sub(PAGE_BYTES - 1)
    }

    pub(crate) fn set_len(&mut self, len: usize) {
        assert!(len <= self.room() && len.is_multiple_of(PAGE_BYTES));
        self.len = len;
    }

    /// All that there is room for, used or not.
    #[inline]
    pub(crate) fn whole_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..]
    }

    /// What is to be written.
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes[self.start..][..self.len]
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}
