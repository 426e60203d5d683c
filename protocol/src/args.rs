//! A request's arguments as spans over the buffer that they arrived in.
//!
//! Nothing is copied: a [`Span`] is a place and a length. The one exception is an argument longer than
//! [`crate::limits::SHARED_BYTES_MIN`], which arrives as a refcounted [`Bytes`] of its own, so that it can travel to
//! another shard and into the store without a copy. Its span names the place in a table of such values.

use bytes::Bytes;

/// One argument: a byte range of a buffer, or the index of a [`Bytes`] in a table beside it.
///
/// The start is the low half, the length the high half of one number: written and read at once, it goes from the parser
/// to the command without a stall in between.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span(u64);

impl Span {
    /// The length that marks an index into the shared table. No range is that long: a request buffer is bounded well
    /// below 4 GiB (`client-query-buffer-limit`).
    const SHARED: u32 = u32::MAX;

    /// `buffer[start..start + len]`.
    #[inline(always)]
    pub fn range(start: usize, len: usize) -> Span {
        debug_assert!(start <= u32::MAX as usize && len < Span::SHARED as usize);
        Span(start as u64 | (len as u64) << 32)
    }

    /// Entry `index` of the shared table.
    #[inline]
    pub fn shared(index: usize) -> Span {
        debug_assert!(index <= u32::MAX as usize);
        Span(index as u64 | (Span::SHARED as u64) << 32)
    }

    #[inline(always)]
    fn low(self) -> usize {
        self.0 as u32 as usize
    }

    #[inline(always)]
    fn len(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// The index into the shared table, if this argument is there.
    #[inline]
    pub fn shared_index(self) -> Option<usize> {
        (self.len() == Span::SHARED).then_some(self.low())
    }

    /// The byte range in the buffer of an argument that lies there.
    #[inline]
    pub fn buffer_range(self) -> Option<std::ops::Range<usize>> {
        (self.len() != Span::SHARED).then(|| self.low()..self.low() + self.len() as usize)
    }
}

/// The arguments of one request, the command's name first.
#[derive(Clone, Copy, Debug)]
pub struct Args<'a> {
    buffer: &'a [u8],
    spans: &'a [Span],
    shared: &'a [Bytes],
}

impl<'a> Args<'a> {
    /// Arguments whose spans index `buffer` and `shared`.
    #[inline]
    pub fn new(buffer: &'a [u8], spans: &'a [Span], shared: &'a [Bytes]) -> Args<'a> {
        Args { buffer, spans, shared }
    }

    /// How many arguments, the command's name included.
    #[inline]
    pub fn len(&self) -> usize {
        self.spans.len()
    }

    /// Whether there are none at all; a parsed request always has one.
    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// Argument `index`; 0 is the command's name. Panics past the end: arity was checked before.
    #[inline]
    pub fn get(&self, index: usize) -> &'a [u8] {
        self.bytes_of(self.spans[index])
    }

    /// An argument of at most seven bytes as a little-endian number, and its length: what a table of short words is
    /// searched for. `None` if it is longer.
    #[inline(always)]
    pub fn word(&self, index: usize) -> Option<(u64, usize)> {
        let span = self.spans[index];
        let (start, len) = (span.low(), span.len() as usize);
        if len > 7 {
            return None;
        }
        // Usually more bytes follow, and one load takes them all.
        let bytes = match self.buffer[start..].first_chunk::<8>() {
            Some(bytes) => *bytes,
            None => {
                let mut bytes = [0; 8];
                bytes[..len].copy_from_slice(&self.buffer[start..start + len]);
                bytes
            }
        };
        Some((u64::from_le_bytes(bytes) & ((1 << (8 * len)) - 1), len))
    }

    /// The refcounted value of argument `index`, if it was long enough to travel as one.
    #[inline]
    pub fn get_shared(&self, index: usize) -> Option<&'a Bytes> {
        self.spans[index].shared_index().map(|at| &self.shared[at])
    }

    /// The arguments from `index` on.
    #[inline]
    pub fn iter_from(&self, index: usize) -> impl ExactSizeIterator<Item = &'a [u8]> + use<'a> {
        let args = *self;
        self.spans[index.min(self.spans.len())..].iter().map(move |&span| args.bytes_of(span))
    }

    /// Bytes of the arguments from `index` on together.
    #[inline]
    pub fn bytes_from(&self, index: usize) -> usize {
        let bytes = |span: &Span| match span.shared_index() {
            None => span.len() as usize,
            Some(at) => self.shared[at].len(),
        };
        self.spans[index.min(self.spans.len())..].iter().map(bytes).sum()
    }

    #[inline]
    fn bytes_of(&self, span: Span) -> &'a [u8] {
        if span.len() == Span::SHARED {
            return &self.shared[span.low()];
        }
        let start = span.low();
        &self.buffer[start..start + span.len() as usize]
    }
}
