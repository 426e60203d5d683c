//! Values that can be checked without being kept.
//!
//! A value is remembered by its length and a polynomial hash over its bytes,
//!
//! ```text
//! hash(b0 b1 ... bn) = b0' * B^n + b1' * B^(n-1) + ... + bn'   (mod 2^64; b' = b + 1)
//! hash(x y)          = hash(x) * B^length(y) + hash(y)
//! ```
//!
//! so what APPEND makes of a value follows from the hashes of both parts. Each piece that is written begins with the name of
//! the operation that wrote it, `<3.1207>` for operation 1207 of connection 3: no two are the same, and a value that
//! should not be there says where it is from.

use crate::random::Random;
use std::io::Write;

const BASE: u64 = 0x5851_f42d_4c95_7f2d;

/// What is remembered of a string.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Digest {
    pub bytes: u32,
    hash: u64,
}

impl Digest {
    pub fn of(text: &[u8]) -> Digest {
        let hash = text.iter().fold(0u64, |hash, &byte| hash.wrapping_mul(BASE).wrapping_add(u64::from(byte) + 1));
        Digest { bytes: text.len() as u32, hash }
    }

    /// Of this string with `tail` behind it.
    pub fn then(self, tail: Digest) -> Digest {
        let hash = self.hash.wrapping_mul(BASE.wrapping_pow(tail.bytes)).wrapping_add(tail.hash);
        Digest { bytes: self.bytes + tail.bytes, hash }
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value {
    Text(Digest),
    /// In decimal, for INCRBY.
    Number(i64),
}

impl Value {
    /// What a server holds: a number where one was written.
    pub fn read(text: &[u8], is_number: bool) -> Value {
        let number = std::str::from_utf8(text).ok().and_then(|text| text.parse::<i64>().ok());
        match number {
            // "+7" and "007" are numbers that nobody wrote.
            Some(number) if is_number && number.to_string().as_bytes() == text => Value::Number(number),
            _ => Value::Text(Digest::of(text)),
        }
    }
}

/// From so many bytes on a value is handled in pieces by some servers; every mix of sizes has some of these.
const BIG_BYTES: u64 = 256 << 10;
/// APPEND goes on until here.
pub const VALUE_BYTES_MAX: u32 = 1 << 20;
const POOL_BYTES: usize = 1 << 20;

/// Where the bytes of values come from.
pub struct Pool(Vec<u8>);

impl Pool {
    pub fn new(seed: u64) -> Pool {
        let mut random = Random::new(seed);
        Pool((0..POOL_BYTES / 8).flat_map(|_| random.word().to_le_bytes()).collect())
    }

    /// Replaces `out` by a piece of a random length, of 8 B to 656 KiB and 1 KiB on average, with the operation's name before it.
    pub fn write(&self, out: &mut Vec<u8>, connection: usize, sequence: u32, random: &mut Random) {
        let bytes = match random.below(1_000) {
            0..=799 => 8 + random.below(120),
            800..=969 => 128 + random.below(1_920),
            970..=994 => 2_048 + random.below(14_336),
            995..=998 => 16_384 + random.below(49_152),
            _ => BIG_BYTES + random.below(400 << 10),
        };
        out.clear();
        write!(out, "<{connection}.{sequence}>").expect("a vector takes all");
        let rest = (bytes as usize).saturating_sub(out.len());
        let from = random.below((POOL_BYTES - rest + 1) as u64) as usize;
        out.extend_from_slice(&self.0[from..from + rest]);
    }
}

const _: () = assert!(POOL_BYTES as u64 >= BIG_BYTES + (400 << 10) && VALUE_BYTES_MAX as u64 > BIG_BYTES);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_of_parts_make_that_of_the_whole() {
        let whole = b"one and another\0\0";
        for cut in 0..=whole.len() {
            assert_eq!(Digest::of(&whole[..cut]).then(Digest::of(&whole[cut..])), Digest::of(whole));
        }
        assert_ne!(Digest::of(b"\0"), Digest::of(b"\0\0"));
        assert_ne!(Digest::of(b"ab"), Digest::of(b"ba"));
    }

    #[test]
    fn numbers_are_read_as_they_were_written() {
        assert_eq!(Value::read(b"-12", true), Value::Number(-12));
        for text in [&b"012"[..], b"+1", b"1 ", b"", b"<1.2>"] {
            assert_eq!(Value::read(text, true), Value::Text(Digest::of(text)));
        }
        assert_eq!(Value::read(b"12", false), Value::Text(Digest::of(b"12")));
    }

    #[test]
    fn pieces_have_all_sizes_and_say_where_they_are_from() {
        let (pool, mut random, mut out) = (Pool::new(1), Random::new(2), Vec::new());
        let mut sizes = Vec::new();
        for sequence in 0..5_000 {
            pool.write(&mut out, 3, sequence, &mut random);
            assert!(out.starts_with(format!("<3.{sequence}>").as_bytes()));
            sizes.push(out.len() as u64);
        }
        assert!(*sizes.iter().max().unwrap() >= BIG_BYTES && *sizes.iter().min().unwrap() < 16);
        assert!((500..2_000).contains(&(sizes.iter().sum::<u64>() / 5_000)));
    }
}
