//! Inputs near good ones, for the short form of the campaigns: what libFuzzer does, without its knowledge of which
//! input reached something new.

/// One of `inputs`, of which there is at least one, with some bytes overwritten, left out, repeated, or taken from another one. The
/// same for the same `seed`.
pub fn mutated(inputs: &[Vec<u8>], seed: u64) -> Vec<u8> {
    let mut random = Random(seed);
    let mut input = inputs[random.below(inputs.len())].clone();
    for _ in 0..=random.below(5) {
        let other = &inputs[random.below(inputs.len())];
        let at = random.below(input.len() + 1);
        let to = (at + random.below(16)).min(input.len());
        match random.below(8) {
            0 => drop(input.drain(at..to)),
            1 => drop(input.splice(at..at, input[at..to].to_vec())),
            2 => {
                let from = random.below(other.len() + 1);
                let end = (from + random.below(64)).min(other.len());
                input.splice(at..at, other[from..end].iter().copied());
            }
            3 => input.truncate(to),
            4 => input.insert(at, *random.pick(b"\r\n\"'\\*?[]^-$:%~>|\0\x01\x7f\x80\xff 019")),
            choice => {
                if let Some(byte) = input.get_mut(at) {
                    *byte = match choice {
                        5 => random.next() as u8,
                        6 => *byte ^ 1 << random.below(8),
                        _ => byte.wrapping_add(random.below(5) as u8).wrapping_sub(2),
                    };
                }
            }
        }
    }
    input
}

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

    /// Less than `end`, which is not 0.
    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }
}
