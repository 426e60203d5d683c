//! The short form of the fuzz campaigns: the same bodies over a few thousand seeded inputs, glued together from pieces
//! of the grammar so that they get past the first byte. The long form is in `fuzz/`, see README.md.

use torc_protocol::fuzz_bodies;

const INPUTS: u64 = 4000;

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    /// Up to 30 fragments, then a few bytes overwritten.
    fn input(&mut self, fragments: &[&[u8]]) -> Vec<u8> {
        let mut input = vec![self.next() as u8, self.next() as u8];
        for _ in 0..self.below(30) {
            input.extend_from_slice(fragments[self.below(fragments.len())]);
        }
        for _ in 0..self.below(4) {
            let at = self.below(input.len());
            input[at] = self.next() as u8;
        }
        input
    }
}

#[test]
fn requests() {
    let whole: &[&[u8]] = &[
        b"*1\r\n$4\r\nPING\r\n",
        b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$11\r\nhello world\r\n",
        b"PING\r\n",
        b"SET 'a b' \"c\\x41\\n\"\r\n",
        b"*0\r\n",
        b"\r\n",
    ];
    let broken: &[&[u8]] =
        &[b"*2\r\n", b"$3\r\nabc\r\n", b"$-1\r\n", b"*11\r\n", b"\r", b"\n", b"'", b"$", b"12", b"x "];
    let both = [whole, whole, broken].concat();
    for seed in 0..INPUTS {
        let fragments = if seed % 2 == 0 { whole } else { &both };
        fuzz_bodies::request(&Random(seed).input(fragments));
    }
}

#[test]
fn replies() {
    let fragments: &[&[u8]] = &[
        b"+OK\r\n",
        b"-ERR x\r\n",
        b":12\r\n",
        b"$3\r\nabc\r\n",
        b"$-1\r\n",
        b"*2\r\n",
        b"*0\r\n",
        b"%1\r\n",
        b"~2\r\n",
        b"|1\r\n",
        b">1\r\n",
        b"_\r\n",
        b"#t\r\n",
        b",1.5\r\n",
        b"(12\r\n",
        b"=5\r\ntxt:a\r\n",
        b"!1\r\ne\r\n",
        b"*1\r\n",
        b"\r\n",
        b"$",
    ];
    for seed in 0..INPUTS {
        // The first two bytes are choices of the other target.
        fuzz_bodies::reply(&Random(seed).input(fragments)[2..]);
    }
}
