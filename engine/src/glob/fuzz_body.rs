//! Target `glob`: patterns that nobody would write, held against Redis's own function in its plainest form.

use std::collections::HashMap;

use super::{folded, has_wildcard, matches, matches_counted, stars};
use crate::fuzz::Input;

/// Most steps that the model takes; beyond, only the work is looked at.
const MODEL_PRODUCT_MAX: usize = 1 << 12;

/// The same answer as Redis's function, in no more steps than the product of the lengths.
pub fn glob(data: &[u8]) {
    let mut input = Input(data);
    let (flags, pattern_bytes) = (input.byte(), input.u16());
    let (pattern, text) = (input.bytes(pattern_bytes.into()), input.0);
    let ignore_case = flags & 1 != 0;
    let mut steps = 0;
    let is_match = matches_counted(pattern, text, ignore_case, || steps += 1);
    assert!(steps <= (pattern.len() + 1) * (text.len() + 1), "{steps} steps");
    assert_eq!(matches(pattern, text, ignore_case), is_match);
    if pattern.len() * text.len() <= MODEL_PRODUCT_MAX {
        let mut model = Model { ignore_case, known: HashMap::new() };
        assert_eq!(is_match, model.matches(pattern, text));
    }
    // What has no wildcard and no backslash means itself.
    if !has_wildcard(pattern) && !pattern.contains(&b'\\') {
        let same = if ignore_case { pattern.eq_ignore_ascii_case(text) } else { pattern == text };
        assert_eq!(is_match, same);
    }
}

/// Redis's function, turned into the plainest recursion: no early exit, no nesting limit, and nothing asked twice.
struct Model {
    ignore_case: bool,
    /// By the lengths of what is left of pattern and text.
    known: HashMap<(usize, usize), bool>,
}

impl Model {
    fn matches(&mut self, pattern: &[u8], text: &[u8]) -> bool {
        let lengths = (pattern.len(), text.len());
        if let Some(&known) = self.known.get(&lengths) {
            return known;
        }
        let is_match = self.walk(pattern, text);
        self.known.insert(lengths, is_match);
        is_match
    }

    /// Up to the first star. A read past the pattern sees the NUL that ends every C string.
    fn walk(&mut self, mut pattern: &[u8], mut text: &[u8]) -> bool {
        let ignore_case = self.ignore_case;
        let lower = |byte: u8| if ignore_case { byte.to_ascii_lowercase() } else { byte };
        while !pattern.is_empty() && !text.is_empty() {
            match pattern[0] {
                b'*' => {
                    let rest = &pattern[1..];
                    return rest.is_empty()
                        || rest.iter().all(|byte| *byte == b'*')
                        || (0..text.len()).any(|skip| self.matches(rest, &text[skip..]));
                }
                b'?' => {}
                b'[' => {
                    pattern = &pattern[1..];
                    let negated = pattern.first() == Some(&b'^');
                    if negated {
                        pattern = &pattern[1..];
                    }
                    let mut found = false;
                    loop {
                        let first = pattern.first().copied().unwrap_or(0);
                        if first == b'\\' && pattern.len() >= 2 {
                            pattern = &pattern[1..];
                            found |= pattern[0] == text[0];
                        } else if first == b']' || pattern.is_empty() {
                            break;
                        } else if pattern.len() >= 3 && pattern[1] == b'-' {
                            let mut ends = [pattern[0] as i8, pattern[2] as i8];
                            ends.sort();
                            let ends = ends.map(|end| folded(end, ignore_case));
                            let byte = folded(text[0] as i8, ignore_case);
                            pattern = &pattern[2..];
                            found |= byte >= ends[0] && byte <= ends[1];
                        } else {
                            found |= lower(first) == lower(text[0]);
                        }
                        pattern = &pattern[1..];
                    }
                    if found == negated {
                        return false;
                    }
                    if pattern.is_empty() {
                        return text.len() == 1;
                    }
                }
                _ => {
                    if pattern[0] == b'\\' && pattern.len() >= 2 {
                        pattern = &pattern[1..];
                    }
                    if lower(pattern[0]) != lower(text[0]) {
                        return false;
                    }
                }
            }
            pattern = &pattern[1..];
            text = &text[1..];
            if text.is_empty() {
                pattern = &pattern[stars(pattern)..];
                break;
            }
        }
        pattern.is_empty() && text.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4_000))]
        #[test]
        fn agrees_with_the_recursive_model(
            pattern in proptest::collection::vec(prop::sample::select(b"ab-Cc*?[]^\\\xf0".to_vec()), 0..10),
            text in proptest::collection::vec(prop::sample::select(b"aAbc-]^\\\xf0".to_vec()), 0..8),
            ignore_case: bool,
        ) {
            let mut model = Model { ignore_case, known: HashMap::new() };
            prop_assert_eq!(matches(&pattern, &text, ignore_case), model.matches(&pattern, &text));
        }
    }
}
