//! Glob patterns as Redis matches them (KEYS, SCAN MATCH, PSUBSCRIBE, CONFIG GET).
//!
//! `*` is any run of bytes, `?` one byte, `[ab-d^]` one byte of a class, `[^ab]` one byte outside
//! it, `\x` the byte `x` itself. Redis matches by recursion and gives up at a depth of 1,000; here
//! one remembered star is enough, because a later star makes every choice for an earlier one
//! equally good. The cost is bounded by `pattern.len() * text.len()` steps and no stack.
//!
//! Corners kept as Redis has them, each with a row in the tests:
//! - The empty text is matched by the empty pattern only, not by `*`. (KEYS and SCAN treat a
//!   lone `*` as "no filter" before they get here, and so must our callers.)
//! - An unclosed class ends with the pattern: `[ab` means `[ab]`, and `[^` is any byte.
//! - `-` makes a range of whatever follows, even of the `]` that was meant to close the class.
//!   A range may be written backwards, its ends are put in order as signed bytes, and lowered after
//!   that. An escaped byte inside a class keeps its case even if case is ignored.
//! - A backslash at the end of the pattern stands for itself.

/// Whether all of `text` matches `pattern`. `ignore_case` concerns ASCII letters.
pub fn matches(pattern: &[u8], text: &[u8], ignore_case: bool) -> bool {
    if text.is_empty() {
        return pattern.is_empty();
    }
    let (mut at, mut read) = (0, 0);
    // Where the pattern goes on after the last star, and the first text byte that star leaves.
    let mut star: Option<(usize, usize)> = None;
    while read < text.len() {
        if pattern.get(at) == Some(&b'*') {
            at += stars(&pattern[at..]);
            if at == pattern.len() {
                return true;
            }
            let Some(start) = candidate(pattern[at], text, read, ignore_case) else {
                return false;
            };
            star = Some((at, start));
            read = start;
        } else if let Some(length) = element(&pattern[at..], text[read], ignore_case) {
            at += length;
            read += 1;
        } else {
            // Let the last star swallow one byte more, and try again behind it.
            let Some((after_star, start)) = star else {
                return false;
            };
            let Some(start) = candidate(pattern[after_star], text, start + 1, ignore_case) else {
                return false;
            };
            star = Some((after_star, start));
            at = after_star;
            read = start;
        }
    }
    // Every element but a star takes one byte, and none are left.
    at + stars(&pattern[at..]) == pattern.len()
}

/// Whether the pattern can match anything but itself, as CONFIG GET asks before it scans.
pub fn has_wildcard(pattern: &[u8]) -> bool {
    memchr::memchr3(b'*', b'?', b'[', pattern).is_some()
}

/// The stars at the front.
fn stars(pattern: &[u8]) -> usize {
    pattern.iter().take_while(|byte| **byte == b'*').count()
}

/// The first place from `start` on where an element that begins with `first` may match.
fn candidate(first: u8, text: &[u8], start: usize, ignore_case: bool) -> Option<usize> {
    if start >= text.len() {
        return None;
    }
    if ignore_case || matches!(first, b'?' | b'[' | b'\\') {
        return Some(start);
    }
    memchr::memchr(first, &text[start..]).map(|offset| start + offset)
}

/// Matches one byte against the element at the front of `pattern`; gives the element's length.
fn element(pattern: &[u8], byte: u8, ignore_case: bool) -> Option<usize> {
    let (wanted, length) = match pattern {
        [] => return None,
        [b'?', ..] => return Some(1),
        [b'[', ..] => {
            let (inside, length) = class(pattern, byte, ignore_case);
            return inside.then_some(length);
        }
        [b'\\', escaped, ..] => (*escaped, 2),
        [literal, ..] => (*literal, 1),
    };
    let same = if ignore_case { wanted.eq_ignore_ascii_case(&byte) } else { wanted == byte };
    same.then_some(length)
}

/// Whether `byte` is in the class at the front of `pattern`, and how long that class is.
fn class(pattern: &[u8], byte: u8, ignore_case: bool) -> (bool, usize) {
    let negated = pattern.get(1) == Some(&b'^');
    let mut at = if negated { 2 } else { 1 };
    let mut found = false;
    loop {
        at += match &pattern[at..] {
            [b'\\', escaped, ..] => {
                found |= *escaped == byte;
                2
            }
            [b']', ..] => {
                at += 1;
                break;
            }
            [] => break,
            [start, b'-', end, ..] => {
                // Redis compares plain C chars, which are signed on the machines it is used on.
                let (mut low, mut high) = (*start as i8, *end as i8);
                if low > high {
                    (low, high) = (high, low);
                }
                let ends = folded(low, ignore_case)..=folded(high, ignore_case);
                found |= ends.contains(&folded(byte as i8, ignore_case));
                3
            }
            [single, ..] => {
                found |= *single == byte || ignore_case && single.eq_ignore_ascii_case(&byte);
                1
            }
        };
    }
    (found != negated, at)
}

/// C's `tolower` as the end of a range meets it: it also makes a negative char unsigned, except
/// -1, which it takes for the end of a file.
fn folded(char: i8, ignore_case: bool) -> i32 {
    match char {
        -1 => -1,
        _ if ignore_case => i32::from((char as u8).to_ascii_lowercase()),
        _ => i32::from(char),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn patterns() {
        let rows: &[(&str, &str, bool)] = &[
            ("", "", true),
            ("*", "", false),
            ("", "a", false),
            ("*", "a", true),
            ("***", "abc", true),
            ("a*", "a", true),
            ("a**", "a", true),
            ("h?llo", "hello", true),
            ("h?llo", "hllo", false),
            ("h*llo", "heeeello", true),
            ("h*llo", "hell", false),
            ("*a*b*c", "xaxbxcxc", true),
            ("h[ae]llo", "hallo", true),
            ("h[ae]llo", "hillo", false),
            ("h[^e]llo", "hallo", true),
            ("h[^e]llo", "hello", false),
            ("h[a-c]llo", "hbllo", true),
            ("h[c-a]llo", "hbllo", true),
            ("[]a]", "]", false),
            ("[\\]a]", "]", true),
            ("[a-]", "-", false),
            ("[a-]", "^", true),
            ("[a\\-z]", "b", false),
            ("[ab", "b", true),
            ("[ab", "c", false),
            ("[", "[", false),
            ("[^", "x", true),
            ("\\*", "*", true),
            ("\\*", "a", false),
            ("*\\", "a\\", true),
            ("a\\", "a\\", true),
            ("HELLO", "hello", false),
            ("[H]", "h", false),
        ];
        for (pattern, text, want) in rows {
            let got = matches(pattern.as_bytes(), text.as_bytes(), false);
            assert_eq!(got, *want, "{pattern:?} on {text:?}");
        }
        assert!(matches(b"HE*[A-P]", b"hello", true));
        assert!(!matches(b"[\\H]", b"h", true));
        assert!(matches(b"[\xff-a]", b"\0", false), "ranges are of signed bytes");
    }

    #[test]
    fn many_stars_cost_no_more_than_the_product() {
        let pattern = b"a*".repeat(2_000);
        let mut text = vec![b'a'; 20_000];
        text.push(b'b');
        assert!(matches(&pattern, &text, false));
        let pattern = [b"*a".repeat(2_000), b"c".to_vec()].concat();
        assert!(!matches(&pattern, &text, false));
    }

    /// Redis's own function, turned into the plainest recursion: no early exit, no nesting limit.
    /// A read past the pattern sees the NUL that ends every C string.
    fn model(mut pattern: &[u8], mut text: &[u8], ignore_case: bool) -> bool {
        let lower = |byte: u8| {
            if ignore_case { byte.to_ascii_lowercase() } else { byte }
        };
        while !pattern.is_empty() && !text.is_empty() {
            match pattern[0] {
                b'*' => {
                    return pattern.len() == 1
                        || (0..text.len()).any(|skip| {
                            model(&pattern[1..], &text[skip..], ignore_case)
                                || pattern[1..].iter().all(|byte| *byte == b'*')
                        });
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

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4_000))]
        #[test]
        fn agrees_with_the_recursive_model(
            pattern in proptest::collection::vec(prop::sample::select(b"ab-Cc*?[]^\\\xf0".to_vec()), 0..10),
            text in proptest::collection::vec(prop::sample::select(b"aAbc-]^\\\xf0".to_vec()), 0..8),
            ignore_case: bool,
        ) {
            prop_assert_eq!(
                matches(&pattern, &text, ignore_case),
                model(&pattern, &text, ignore_case)
            );
        }
    }
}
