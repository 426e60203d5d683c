//! Bounds of the protocol, as Redis has them.

/// Longest bulk string a client may send unless `proto-max-bulk-len` says otherwise: 512 MiB.
pub const BULK_BYTES_MAX_DEFAULT: u64 = 512 << 20;
/// Most arguments in one request.
pub const ARGS_MAX: usize = 1024 * 1024;
/// Longest inline request, and longest header line (`*<n>`, `$<n>`).
pub const INLINE_BYTES_MAX: usize = 64 * 1024;
/// Most arguments in a request of a client that has not logged in.
pub const ARGS_MAX_UNAUTHENTICATED: usize = 10;
/// Longest bulk string of a client that has not logged in.
pub const BULK_BYTES_MAX_UNAUTHENTICATED: u64 = 16 * 1024;
/// An argument longer than this becomes one refcounted `Bytes`, which is never copied again.
pub const SHARED_BYTES_MIN: usize = 16 * 1024;
/// Most bytes of one unfinished request, as `client-query-buffer-limit`'s default: 1 GiB.
pub const QUERY_BUFFER_BYTES_MAX_DEFAULT: u64 = 1 << 30;

const _: () = assert!(SHARED_BYTES_MIN < BULK_BYTES_MAX_DEFAULT as usize);
const _: () = assert!(QUERY_BUFFER_BYTES_MAX_DEFAULT < u32::MAX as u64, "spans are 32 bits wide");

/// The limits that apply to one request: settings and login state change them at run time.
#[derive(Clone, Copy, Debug)]
pub struct RequestLimits {
    /// Longest bulk string, bytes (`proto-max-bulk-len`).
    pub bulk_bytes_max: u64,
    /// Most bytes of one unfinished request (`client-query-buffer-limit`), at most `u32::MAX - 1`.
    pub query_buffer_bytes_max: u64,
    /// Whether the client has logged in (or no password is set).
    pub authenticated: bool,
}

impl Default for RequestLimits {
    fn default() -> RequestLimits {
        RequestLimits {
            bulk_bytes_max: BULK_BYTES_MAX_DEFAULT,
            query_buffer_bytes_max: QUERY_BUFFER_BYTES_MAX_DEFAULT,
            authenticated: true,
        }
    }
}
