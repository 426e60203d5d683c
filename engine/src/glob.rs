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

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz_body;

/// Whether all of `text` matches `pattern`. `ignore_case` concerns ASCII letters.
pub fn matches(pattern: &[u8], text: &[u8], ignore_case: bool) -> bool {
    matches_counted(pattern, text, ignore_case, || {})
}

/// Calls `step` for each element that is held against a byte, of which there are no more than elements times bytes, and as many
/// stars as there are once more.
#[inline]
fn matches_counted(pattern: &[u8], text: &[u8], ignore_case: bool, mut step: impl FnMut()) -> bool {
    if text.is_empty() {
        return pattern.is_empty();
    }
    let (mut at, mut read) = (0, 0);
    // Where the pattern goes on after the last star, and the first text byte that star leaves.
    let mut star: Option<(usize, usize)> = None;
    while read < text.len() {
        step();
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
}
