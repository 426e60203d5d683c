//! Keys to slots, as Redis Cluster maps them: CRC16 (XMODEM) of the key's hash tag, modulo 16384.
//!
//! This runs for every key of every command, so the checksum takes eight bytes per step ("slicing by 8"): table `k`
//! holds what a byte contributes when `k` zero bytes follow it, and the contributions of eight bytes are independent
//! loads joined by exclusive or. The byte-wise definition is a chain of dependent loads; it stays as the test's oracle.
//! Tables: 8 * 256 * 2 bytes = 4 KiB.

use memchr::memchr;

/// How many slots there are.
pub const SLOTS: usize = 16384;

const _: () = assert!(SLOTS.is_power_of_two() && SLOTS <= 1 << 16, "a slot is the low bits of a 16-bit checksum");

/// One of the [`SLOTS`] parts of the keyspace; below [`SLOTS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(pub u16);

impl Slot {
    /// The slot that `key` lives in.
    #[inline]
    pub fn of_key(key: &[u8]) -> Slot {
        Slot(crc16(hash_tag(key)) & (SLOTS as u16 - 1))
    }
}

/// The part of `key` that decides its slot: what stands between the first `{` and the first `}` after it, unless that
/// is empty or one of them is missing; then the whole key.
#[inline]
pub fn hash_tag(key: &[u8]) -> &[u8] {
    if key.len() <= SHORT_KEY_BYTES && !has_open_brace(key) {
        return key;
    }
    let Some(open) = memchr(b'{', key) else {
        return key;
    };
    let after = &key[open + 1..];
    match memchr(b'}', after) {
        None | Some(0) => key,
        Some(len) => &after[..len],
    }
}

/// Up to here a plain loop over words is faster than calling memchr.
const SHORT_KEY_BYTES: usize = 64;

/// Whether there is a `{`: a byte that is zero once it is taken out of all (A. Mycroft's test, as in Bit Twiddling Hacks).
#[inline]
fn has_open_brace(key: &[u8]) -> bool {
    const LOW: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x8080_8080_8080_8080;
    let zero_bytes = |word: [u8; 8]| {
        let word = u64::from_le_bytes(word) ^ (LOW * b'{' as u64);
        word.wrapping_sub(LOW) & !word & HIGH
    };
    let Some(&last) = key.last_chunk::<8>() else {
        return key.contains(&b'{');
    };
    let (words, _) = key.as_chunks::<8>();
    words.iter().fold(zero_bytes(last), |found, &word| found | zero_bytes(word)) != 0
}

/// CRC16 XMODEM: polynomial 0x1021, initial value 0, most significant bit first.
#[inline]
pub fn crc16(bytes: &[u8]) -> u16 {
    let mut crc = 0u16;
    let (eights, rest) = bytes.as_chunks::<8>();
    for &[a, b, c, d, e, f, g, h] in eights {
        crc = TABLES[7][(a ^ (crc >> 8) as u8) as usize]
            ^ TABLES[6][(b ^ crc as u8) as usize]
            ^ TABLES[5][c as usize]
            ^ TABLES[4][d as usize]
            ^ TABLES[3][e as usize]
            ^ TABLES[2][f as usize]
            ^ TABLES[1][g as usize]
            ^ TABLES[0][h as usize];
    }
    let (fours, rest) = rest.as_chunks::<4>();
    for &[a, b, c, d] in fours {
        crc = TABLES[3][(a ^ (crc >> 8) as u8) as usize]
            ^ TABLES[2][(b ^ crc as u8) as usize]
            ^ TABLES[1][c as usize]
            ^ TABLES[0][d as usize];
    }
    for &byte in rest {
        crc = (crc << 8) ^ TABLES[0][(byte ^ (crc >> 8) as u8) as usize];
    }
    crc
}

static TABLES: [[u16; 256]; 8] = tables();

const fn tables() -> [[u16; 256]; 8] {
    let mut tables = [[0u16; 256]; 8];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = (byte as u16) << 8;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 0x8000 != 0 { (crc << 1) ^ 0x1021 } else { crc << 1 };
            bit += 1;
        }
        tables[0][byte] = crc;
        byte += 1;
    }
    let mut zeros = 1;
    while zeros < 8 {
        let mut byte = 0;
        while byte < 256 {
            let before = tables[zeros - 1][byte];
            tables[zeros][byte] = (before << 8) ^ tables[0][(before >> 8) as usize];
            byte += 1;
        }
        zeros += 1;
    }
    tables
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The definition, one bit at a time.
    fn crc16_bitwise(bytes: &[u8]) -> u16 {
        let mut crc = 0u16;
        for &byte in bytes {
            crc ^= (byte as u16) << 8;
            for _ in 0..8 {
                crc = if crc & 0x8000 != 0 { (crc << 1) ^ 0x1021 } else { crc << 1 };
            }
        }
        crc
    }

    #[test]
    fn known_values() {
        assert_eq!(crc16(b""), 0);
        assert_eq!(crc16(b"123456789"), 0x31c3);
        assert_eq!(Slot::of_key(b"foo"), Slot(12182));
        assert_eq!(Slot::of_key(b"{user1000}.following"), Slot::of_key(b"{user1000}.followers"));
        assert_eq!(Slot::of_key(b"{user1000}.following"), Slot::of_key(b"user1000"));
    }

    #[test]
    fn hash_tags() {
        for (key, tag) in [
            ("", ""),
            ("key", "key"),
            ("{a}b", "a"),
            ("x{a}b", "a"),
            ("foo{}{bar}", "foo{}{bar}"),
            ("foo{{bar}}zap", "{bar"),
            ("foo{bar}{zap}", "bar"),
            ("}a{b", "}a{b"),
            ("}a{b}", "b"),
            ("{", "{"),
            ("{}", "{}"),
        ] {
            assert_eq!(hash_tag(key.as_bytes()), tag.as_bytes(), "{key:?}");
        }
    }

    proptest! {
        #[test]
        fn checksum_is_the_definition(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            prop_assert_eq!(crc16(&bytes), crc16_bitwise(&bytes));
        }

        /// As Redis's `keyHashSlot` looks for it, byte by byte; the neighbours of a brace among the bytes.
        #[test]
        fn tag_is_the_definition(key in proptest::collection::vec(proptest::sample::select(&b"{}z|\xfba"[..]), 0..80)) {
            let open = key.iter().position(|&byte| byte == b'{');
            let close = open.and_then(|open| key[open + 1..].iter().position(|&byte| byte == b'}'));
            let wanted = match (open, close) {
                (Some(open), Some(len)) if len > 0 => &key[open + 1..open + 1 + len],
                _ => &key[..],
            };
            prop_assert_eq!(hash_tag(&key), wanted);
        }

        #[test]
        fn keys_without_a_tag_are_whole(key in "[a-z0-9:]{0,80}") {
            prop_assert_eq!(hash_tag(key.as_bytes()), key.as_bytes());
        }
    }
}
