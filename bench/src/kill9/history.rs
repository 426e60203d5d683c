//! What a key may be after a crash: a function of what was asked, what was answered, and what is there now.
//!
//! A key's name is used by one connection alone, in two databases. Its operations, in the order in which they were sent, are
//! its history; a state is what both databases have under the name, because SWAPDB exchanges the two. A crash may cut the
//! history anywhere behind what was promised:
//!
//! ```text
//! state 0 --op 0--> state 1 --op 1--> state 2 --op 2--> state 3 ...      one of these must be there,
//!                                     ^ required: ops 0 and 1            none before the one that is required
//! ```
//!
//! Expiry makes states uncertain. The server's clock said when a relative time to live began and whether a key was still
//! there for an APPEND; this side knows between which two moments. So each step turns a set of possible states into another,
//! and what the server answered (lengths, numbers, 0 or 1) takes out those that would have been answered otherwise.

use super::value::{Digest, Value};

/// Wall clock, milliseconds since 1970.
pub type Millis = u64;

/// So much may a server's clock be behind while it executes: it reads it now and then, and may be preempted after that.
pub const CLOCK_SLACK_MS: Millis = 250;
/// Possible states are no more than this; they double with each operation that may have met an expired key or not.
const POSSIBLE_MAX: usize = 256;

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Lifetime {
    Forever,
    Keep,
    /// Milliseconds from its execution.
    In(Millis),
    At(Millis),
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Change {
    Set(Value, Lifetime),
    Append(Digest),
    Add(i64),
    Delete,
    Expire(Lifetime),
    Persist,
    Flush,
    Swap,
    /// It was refused with an error.
    Nothing,
}

#[derive(Clone, Copy, Debug)]
pub struct Operation {
    /// Its number on the connection.
    pub sequence: u32,
    /// The first (0) or second (1) of the connection's databases; of no meaning for `Swap`.
    pub side: u8,
    pub change: Change,
    pub sent: Millis,
    /// When its reply was read; nothing if it never came.
    pub answered: Option<Millis>,
    /// The integer it was answered with, if that says something about this key alone.
    pub reply: Option<i64>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Stored {
    pub value: Value,
    /// The earliest and the latest moment that it may expire at.
    pub deadline: Option<(Millis, Millis)>,
}

/// A name in both databases.
pub type Pair = [Option<Stored>; 2];

/// What is there after the restart.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Look {
    /// With exact deadlines.
    pub pair: Pair,
    /// Between these moments it was read.
    pub from: Millis,
    pub until: Millis,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Verdict {
    /// The first and the last state that are what was seen: so many operations took effect.
    Explained { first: usize, last: usize },
    /// It is a state from before the required one: so many operations took effect at most.
    Lost { last: usize, required: usize },
    /// No state is what was seen.
    Wrong,
    /// No state explains what this operation was answered with, crash or not.
    WrongReply { operation: usize },
    /// A reader was given a value that none of the states has.
    WrongRead,
}

/// `required` operations were promised to have taken effect. `reads` are what other connections were given under this name,
/// by side, and must not have come before the server kept it. `ended` is a moment at which the server lived no more.
pub fn check(
    base: Pair,
    operations: &[Operation],
    required: usize,
    reads: &[(u8, Value)],
    look: &Look,
    ended: Millis,
) -> Verdict {
    let mut required = required;
    let mut unseen: Vec<(u8, Value)> = reads.to_vec();
    let mut explained: Option<(usize, usize)> = None;
    let mut before: Option<usize> = None;
    let mut possible = vec![base];
    for count in 0..=operations.len() {
        let has = |&(side, value): &(u8, Value)| {
            possible.iter().any(|pair| pair[usize::from(side)].is_some_and(|stored| stored.value == value))
        };
        if !unseen.is_empty() {
            let left = unseen.len();
            unseen.retain(|read| !has(read));
            if unseen.len() < left && count > required {
                // What was read was there from here on at the earliest.
                required = count;
                before = explained.take().map(|(_, last)| last).or(before);
            }
        }
        if is_seen(&possible, &operations[count..], look, ended) {
            if count >= required {
                explained = Some((explained.map_or(count, |(first, _)| first), count));
            } else {
                before = Some(count);
            }
        }
        let Some(operation) = operations.get(count) else { break };
        possible = step(&possible, operation, ended);
        if possible.is_empty() {
            return Verdict::WrongReply { operation: count };
        }
    }
    match (explained, before) {
        _ if !unseen.is_empty() => Verdict::WrongRead,
        (Some((first, last)), _) => Verdict::Explained { first, last },
        (None, Some(last)) => Verdict::Lost { last, required },
        (None, None) => Verdict::Wrong,
    }
}

/// Whether one of these states is there, or is what later FLUSHDBs and SWAPDBs make of one: these concern all cores, and who
/// has lost the end of its log may learn of them from the others.
fn is_seen(possible: &[Pair], later: &[Operation], look: &Look, ended: Millis) -> bool {
    let mut states = possible.to_vec();
    let of_databases = later.iter().filter(|operation| matches!(operation.change, Change::Flush | Change::Swap));
    for operation in of_databases {
        if states.iter().any(|pair| matches(pair, look)) {
            return true;
        }
        states = step(&states, operation, ended);
    }
    states.iter().any(|pair| matches(pair, look))
}

/// Whether a key of these deadlines may still be there, and may be gone, when a server's clock is between two moments.
fn may_live(stored: &Stored, from: Millis) -> bool {
    stored.deadline.is_none_or(|(_, latest)| from.saturating_sub(CLOCK_SLACK_MS) <= latest)
}

fn may_be_gone(stored: &Stored, until: Millis) -> bool {
    stored.deadline.is_some_and(|(earliest, _)| until + CLOCK_SLACK_MS >= earliest)
}

fn matches(possible: &Pair, look: &Look) -> bool {
    possible.iter().zip(&look.pair).all(|(possible, seen)| match (possible, seen) {
        (None, None) => true,
        (None, Some(_)) => false,
        (Some(stored), None) => may_be_gone(stored, look.until),
        (Some(stored), Some(seen)) => {
            let same_deadline = match (stored.deadline, seen.deadline) {
                (None, None) => true,
                (Some((earliest, latest)), Some((at, _))) => {
                    (earliest.saturating_sub(CLOCK_SLACK_MS)..=latest).contains(&at)
                }
                _ => false,
            };
            stored.value == seen.value && same_deadline && may_live(stored, look.from)
        }
    })
}

fn step(possible: &[Pair], operation: &Operation, ended: Millis) -> Vec<Pair> {
    let until = operation.answered.unwrap_or(ended);
    let side = usize::from(operation.side);
    let mut next: Vec<Pair> = Vec::with_capacity(possible.len());
    let mut add = |pair: Pair| {
        if next.len() < POSSIBLE_MAX && !next.contains(&pair) {
            next.push(pair);
        }
    };
    for pair in possible {
        match operation.change {
            Change::Nothing => add(*pair),
            Change::Swap => add([pair[1], pair[0]]),
            _ => {
                let old = pair[side];
                let lives = old.filter(|stored| may_live(stored, operation.sent));
                let gone = old.is_none_or(|stored| may_be_gone(&stored, until));
                let olds = [lives.map(Some), gone.then_some(None)];
                for old in olds.into_iter().flatten() {
                    let (new, reply) = apply(old, operation, until);
                    if operation.reply.is_none_or(|seen| reply.is_none_or(|reply| reply == seen)) {
                        let mut pair = *pair;
                        pair[side] = new;
                        add(pair);
                    }
                }
            }
        }
    }
    next
}

/// What a change makes of what is there, and the integer it is answered with.
fn apply(old: Option<Stored>, operation: &Operation, until: Millis) -> (Option<Stored>, Option<i64>) {
    let deadline = |lifetime: Lifetime| match lifetime {
        Lifetime::Forever => None,
        Lifetime::Keep => old.and_then(|old| old.deadline),
        Lifetime::In(time) => Some((operation.sent + time, until + time)),
        Lifetime::At(moment) => Some((moment, moment)),
    };
    let kept = old.and_then(|old| old.deadline);
    match operation.change {
        Change::Set(value, lifetime) => (Some(Stored { value, deadline: deadline(lifetime) }), None),
        Change::Append(tail) => {
            let value = match old.map(|old| old.value) {
                Some(Value::Text(text)) => text.then(tail),
                _ => tail,
            };
            (Some(Stored { value: Value::Text(value), deadline: kept }), Some(i64::from(value.bytes)))
        }
        Change::Add(by) => {
            let number = match old.map(|old| old.value) {
                Some(Value::Number(number)) => number + by,
                _ => by,
            };
            (Some(Stored { value: Value::Number(number), deadline: kept }), Some(number))
        }
        Change::Delete => (None, Some(i64::from(old.is_some()))),
        Change::Expire(lifetime) => {
            let new = old.map(|old| Stored { deadline: deadline(lifetime), ..old });
            (new, Some(i64::from(old.is_some())))
        }
        Change::Persist => (old.map(|old| Stored { deadline: None, ..old }), Some(i64::from(kept.is_some()))),
        Change::Flush => (None, None),
        Change::Swap | Change::Nothing => (old, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Millis = 1_000_000;
    /// No clock is so far behind.
    const LATER: Millis = NOW + 100_000;

    fn text(text: &str) -> Value {
        Value::Text(Digest::of(text.as_bytes()))
    }

    fn stored(value: Value) -> Option<Stored> {
        Some(Stored { value, deadline: None })
    }

    fn until(value: Value, deadline: Millis) -> Option<Stored> {
        Some(Stored { value, deadline: Some((deadline, deadline)) })
    }

    /// Operations a second apart, each answered after a millisecond, without the replies' integers.
    fn history(changes: &[Change]) -> Vec<Operation> {
        let operation = |(i, &change): (usize, &Change)| {
            let sent = NOW + 1_000 * i as u64;
            Operation { sequence: i as u32, side: 0, change, sent, answered: Some(sent + 1), reply: None }
        };
        changes.iter().enumerate().map(operation).collect()
    }

    fn seen(first: Option<Stored>) -> Look {
        Look { pair: [first, None], from: LATER, until: LATER + 1 }
    }

    #[track_caller]
    fn expect(operations: &[Operation], required: usize, look: Look, verdict: Verdict) {
        assert_eq!(check([None, None], operations, required, &[], &look, LATER), verdict);
    }

    #[test]
    fn what_was_acknowledged_must_be_there() {
        let operations = history(&[
            Change::Set(text("a"), Lifetime::Forever),
            Change::Append(Digest::of(b"b")),
            Change::Delete,
            Change::Set(text("c"), Lifetime::Forever),
        ]);
        for (value, count) in [(None, 0), (stored(text("a")), 1), (stored(text("ab")), 2), (stored(text("c")), 4)] {
            let last = if count == 0 { 3 } else { count };
            expect(&operations, count, seen(value), Verdict::Explained { first: count, last });
        }
        expect(&operations, 4, seen(stored(text("ab"))), Verdict::Lost { last: 2, required: 4 });
        expect(&operations, 4, seen(None), Verdict::Lost { last: 3, required: 4 });
        expect(&operations, 1, seen(stored(text("b"))), Verdict::Wrong);
        expect(&operations, 0, seen(stored(text("c"))), Verdict::Explained { first: 4, last: 4 });
    }

    #[test]
    fn flushes_and_swaps_may_outlive_what_came_before_them() {
        let mut operations = history(&[
            Change::Set(text("a"), Lifetime::Forever),
            Change::Set(text("b"), Lifetime::Forever),
            Change::Swap,
            Change::Set(text("c"), Lifetime::Forever),
        ]);
        let swapped = Look { pair: [None, stored(text("a"))], from: LATER, until: LATER + 1 };
        expect(&operations, 1, swapped, Verdict::Explained { first: 1, last: 1 });
        expect(&operations, 2, swapped, Verdict::Lost { last: 1, required: 2 });
        operations[2].change = Change::Flush;
        expect(&operations, 1, seen(None), Verdict::Explained { first: 1, last: 3 });
        // Others may not.
        operations[2].change = Change::Append(Digest::of(b"x"));
        expect(&operations, 1, seen(stored(text("ax"))), Verdict::Wrong);
    }

    #[test]
    fn an_append_done_twice_is_wrong() {
        let operations = history(&[Change::Append(Digest::of(b"x"))]);
        expect(&operations, 1, seen(stored(text("xx"))), Verdict::Wrong);
        let operations = history(&[Change::Add(5)]);
        expect(&operations, 1, seen(stored(Value::Number(10))), Verdict::Wrong);
        expect(&operations, 1, seen(stored(Value::Number(5))), Verdict::Explained { first: 1, last: 1 });
    }

    #[test]
    fn a_key_is_gone_when_its_time_is_up_and_not_before() {
        let operations = history(&[Change::Set(text("a"), Lifetime::In(5_000))]);
        expect(&operations, 1, seen(None), Verdict::Explained { first: 1, last: 1 });
        // It was read long after its time.
        expect(&operations, 1, seen(until(text("a"), NOW + 5_000)), Verdict::Wrong);
        let early = |pair| Look { pair: [pair, None], from: NOW + 100, until: NOW + 200 };
        expect(&operations, 1, early(None), Verdict::Lost { last: 0, required: 1 });
        expect(&operations, 1, early(until(text("a"), NOW + 5_001)), Verdict::Explained { first: 1, last: 1 });
        expect(&operations, 1, early(until(text("a"), NOW + 6_000)), Verdict::Wrong);
        expect(&operations, 1, early(stored(text("a"))), Verdict::Wrong);
    }

    #[test]
    fn what_was_persisted_stays_if_it_was_in_time() {
        let mut operations = history(&[Change::Set(text("a"), Lifetime::In(3_000)), Change::Persist]);
        expect(&operations, 2, seen(stored(text("a"))), Verdict::Explained { first: 2, last: 2 });
        // The time has passed: only the state without PERSIST is gone by now.
        expect(&operations, 2, seen(None), Verdict::Lost { last: 1, required: 2 });
        expect(&operations, 1, seen(None), Verdict::Explained { first: 1, last: 1 });
        // Too late: it was gone, and the answer 1 is wrong.
        (operations[1].sent, operations[1].answered) = (NOW + 9_000, Some(NOW + 9_001));
        expect(&operations, 2, seen(None), Verdict::Explained { first: 2, last: 2 });
        operations[1].reply = Some(1);
        expect(&operations, 2, seen(None), Verdict::WrongReply { operation: 1 });
    }

    /// An APPEND at the moment of expiry: both are possible until its answer says which.
    #[test]
    fn replies_decide_what_clocks_leave_open() {
        let mut operations =
            history(&[Change::Set(text("aa"), Lifetime::At(NOW + 1_000)), Change::Append(Digest::of(b"b"))]);
        let explained = Verdict::Explained { first: 2, last: 2 };
        expect(&operations, 2, seen(stored(text("b"))), explained);
        expect(&operations, 2, seen(None), explained);
        operations[1].reply = Some(1);
        expect(&operations, 2, seen(stored(text("b"))), explained);
        expect(&operations, 2, seen(None), Verdict::Lost { last: 1, required: 2 });
        operations[1].reply = Some(3);
        expect(&operations, 2, seen(stored(text("b"))), Verdict::Wrong);
        expect(&operations, 2, seen(None), explained);
        operations[1].reply = Some(4);
        expect(&operations, 2, seen(None), Verdict::WrongReply { operation: 1 });
    }

    #[test]
    fn databases_are_flushed_and_swapped() {
        let mut operations = history(&[
            Change::Set(text("a"), Lifetime::Forever),
            Change::Swap,
            Change::Set(text("b"), Lifetime::Forever),
            Change::Flush,
        ]);
        let look = |first, second| Look { pair: [first, second], from: LATER, until: LATER };
        let (a, b) = (stored(text("a")), stored(text("b")));
        // What concerns all cores may outlive what came before it.
        expect(&operations, 1, look(None, a), Verdict::Explained { first: 1, last: 4 });
        expect(&operations, 2, look(b, a), Verdict::Explained { first: 3, last: 3 });
        expect(&operations, 2, look(a, None), Verdict::Lost { last: 1, required: 2 });
        expect(&operations, 2, look(a, a), Verdict::Wrong);
        operations[3].side = 1;
        expect(&operations, 4, look(b, None), Verdict::Explained { first: 4, last: 4 });
        expect(&operations, 4, look(b, a), Verdict::Lost { last: 3, required: 4 });
    }

    #[test]
    fn what_another_connection_read_is_required() {
        let operations =
            history(&[Change::Set(text("a"), Lifetime::Forever), Change::Set(text("b"), Lifetime::Forever)]);
        let with = |reads: &[(u8, Value)], value: &str| {
            check([None, None], &operations, 0, reads, &seen(stored(text(value))), LATER)
        };
        assert_eq!(with(&[(0, text("b"))], "a"), Verdict::Lost { last: 1, required: 2 });
        assert_eq!(with(&[(0, text("b")), (0, text("a"))], "b"), Verdict::Explained { first: 2, last: 2 });
        assert_eq!(with(&[(0, text("a"))], "a"), Verdict::Explained { first: 1, last: 1 });
        assert_eq!(with(&[(0, text("c"))], "a"), Verdict::WrongRead);
        assert_eq!(with(&[(1, text("a"))], "a"), Verdict::WrongRead);
    }

    #[test]
    fn the_state_before_counts_and_refused_operations_do_not() {
        let base = [stored(text("a")), until(text("t"), NOW)];
        let look = Look { pair: [stored(text("a")), None], from: LATER, until: LATER };
        assert_eq!(check(base, &[], 0, &[], &look, LATER), Verdict::Explained { first: 0, last: 0 });
        let refused = history(&[Change::Nothing]);
        assert_eq!(check(base, &refused, 1, &[], &look, LATER), Verdict::Explained { first: 1, last: 1 });
        let both = Look { pair: base, ..look };
        assert_eq!(check(base, &[], 0, &[], &both, LATER), Verdict::Wrong, "its time was up long ago");
    }

    #[test]
    fn lifetimes_are_kept_or_taken_away() {
        let far = LATER + 10_000;
        let base = [until(text("a"), far), None];
        for (change, expected) in [
            (Change::Set(text("b"), Lifetime::Keep), until(text("b"), far)),
            (Change::Set(text("b"), Lifetime::Forever), stored(text("b"))),
            (Change::Append(Digest::of(b"!")), until(text("a!"), far)),
            (Change::Expire(Lifetime::At(far + 5_000)), until(text("a"), far + 5_000)),
            (Change::Persist, stored(text("a"))),
        ] {
            let verdict = check(base, &history(&[change]), 1, &[], &seen(expected), LATER);
            assert_eq!(verdict, Verdict::Explained { first: 1, last: 1 }, "{change:?}");
        }
    }

    /// However often it stays unknown whether a key had expired, the states that are kept in mind are bounded.
    #[test]
    fn possible_states_are_bounded() {
        let mut operations = Vec::new();
        for _ in 0..40 {
            let soon = Change::Set(text("x"), Lifetime::At(NOW));
            operations.extend(history(&[soon, Change::Append(Digest::of(b"y"))]));
            operations.iter_mut().for_each(|operation| (operation.sent, operation.answered) = (NOW, None));
        }
        let verdict = check([None, None], &operations, 0, &[], &seen(None), LATER);
        assert!(matches!(verdict, Verdict::Explained { .. }), "{verdict:?}");
    }
}
