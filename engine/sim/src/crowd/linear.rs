//! Whether the history of a key is linearizable: whether each command can have taken effect at one moment between its request and
//! its reply, so that the answers are those of a single key that one client uses.
//!
//! The search is that of Wing and Gong (JPDC 1993) with the memory of Lowe (CCPE 2017): from a state, any command may be next which no
//! other had to precede, because that one was answered before this one was asked; a pair of a state and of the commands done is
//! looked at once. Commands of one connection take effect in the order in which it sent them, which makes the number of such pairs
//! small. A command that was not answered takes effect late, or never.
//!
//! At a crash the key goes back to what it held at some moment which is not before the last that is known to have survived. What is
//! found of it after the next start says which moments that can have been: one of them must lie on an order that explains all
//! answers, those included that were given later and are lost.

use std::collections::{HashMap, HashSet};

use torc_protocol::resp::decode::Reply;

use super::spec::{Blob, Clock, Life, Value, after, views};

/// Work before the search is given up: states that are looked at, and some hundred bytes of values that are made.
const WORK_MAX: usize = 40_000;
const WORK_BYTES: usize = 512;

/// A command about one key, and what came of it.
#[derive(Clone, Debug)]
pub(crate) struct Operation {
    /// The connection that it came on, unlike all others of the history.
    pub connection: u32,
    /// The name first, in lower case.
    pub words: Vec<Blob>,
    /// None: any answer will do.
    pub reply: Option<Reply>,
    /// Moments, which are counted over all keys.
    pub asked: u64,
    /// None: it was never answered, or so that it is not known whether it took effect.
    pub answered: Option<u64>,
    pub clock: Clock,
}

/// What is known of the key at the end of the history.
#[derive(Clone, Debug)]
pub(crate) struct Recovered {
    /// All that was answered up to this moment survived.
    pub survived: u64,
    pub value: Option<Value>,
    pub clock: Clock,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Linearizable,
    /// It is not. The search came furthest here: by connection how many of its commands were done, and what the key held then.
    Broken(Box<Furthest>),
    /// The search was given up.
    Undecided,
}

/// How far a search came that found nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Furthest {
    pub done: Vec<(u32, usize)>,
    pub held: Option<Value>,
    /// The moment to which the crash went back was found before.
    pub is_chosen: bool,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Position {
    /// By connection: how many of its commands are done.
    done: Vec<u16>,
    state: u32,
    /// The moment to which the crash went back was chosen.
    is_chosen: bool,
}

struct Search<'a> {
    /// By connection, in the order sent.
    chains: Vec<Vec<&'a Operation>>,
    states: Vec<Option<Value>>,
    numbers: HashMap<Option<Value>, u32>,
    seen: HashSet<Position>,
    evicts: bool,
    work: usize,
    /// A sum of floats that nobody was told was met: what the key holds behind it is not known.
    is_unknown: bool,
}

/// Judges the history of a key that held `start` when it began.
pub(crate) fn check(
    operations: &[&Operation],
    start: Option<&Value>,
    recovered: Option<&Recovered>,
    evicts: bool,
) -> Verdict {
    let mut connections: Vec<u32> = operations.iter().map(|operation| operation.connection).collect();
    connections.sort_unstable();
    connections.dedup();
    let chains = connections.iter().map(|connection| {
        let mut chain: Vec<&Operation> =
            operations.iter().copied().filter(|operation| operation.connection == *connection).collect();
        chain.sort_by_key(|operation| operation.asked);
        chain
    });
    let mut search = Search {
        chains: chains.collect(),
        states: Vec::new(),
        numbers: HashMap::new(),
        seen: HashSet::new(),
        evicts,
        work: 0,
        is_unknown: false,
    };
    let state = search.number_of(start.cloned());
    let first = Position { done: vec![0; search.chains.len()], state, is_chosen: recovered.is_none() };
    let mut stack = vec![first.clone()];
    let mut furthest = (first, 0);
    while let Some(position) = stack.pop() {
        if !search.seen.insert(position.clone()) {
            continue;
        }
        let done: usize = position.done.iter().map(|done| usize::from(*done)).sum();
        if done + usize::from(position.is_chosen) > furthest.1 {
            furthest = (position.clone(), done + usize::from(position.is_chosen));
        }
        search.work += 1;
        if search.work > WORK_MAX {
            return Verdict::Undecided;
        }
        if position.is_chosen && search.is_all_done(&position) {
            return Verdict::Linearizable;
        }
        search.push_next(&position, &mut stack);
        if let Some(recovered) = recovered.filter(|_| !position.is_chosen)
            && search.may_be(&position, recovered)
        {
            stack.push(Position { is_chosen: true, ..position });
        }
    }
    if search.is_unknown {
        return Verdict::Undecided;
    }
    let Position { done, state, is_chosen } = furthest.0;
    Verdict::Broken(Box::new(Furthest {
        done: connections.into_iter().zip(done.into_iter().map(usize::from)).collect(),
        held: search.states[state as usize].clone(),
        is_chosen,
    }))
}

impl Search<'_> {
    fn number_of(&mut self, state: Option<Value>) -> u32 {
        let next = self.states.len() as u32;
        let number = *self.numbers.entry(state.clone()).or_insert(next);
        if number == next {
            self.states.push(state);
        }
        number
    }

    /// What is left of each connection.
    fn rests<'b>(&'b self, position: &'b Position) -> impl Iterator<Item = &'b [&'b Operation]> {
        self.chains.iter().zip(&position.done).map(|(chain, done)| &chain[usize::from(*done)..])
    }

    fn is_all_done(&self, position: &Position) -> bool {
        self.rests(position).all(|rest| rest.iter().all(|operation| operation.answered.is_none()))
    }

    /// The moment before which all must have been asked that can be next.
    fn bound(&self, position: &Position) -> u64 {
        let first = |rest: &[&Operation]| rest.iter().find_map(|operation| operation.answered);
        self.rests(position).filter_map(first).min().unwrap_or(u64::MAX)
    }

    /// Puts what may be next on the stack; the likeliest last, for that is looked at first.
    fn push_next(&mut self, position: &Position, stack: &mut Vec<Position>) {
        let bound = self.bound(position);
        let mut next: Vec<(u64, usize)> = Vec::new();
        for (index, rest) in self.rests(position).enumerate() {
            if let Some(operation) = rest.first().filter(|operation| operation.asked <= bound) {
                next.push((operation.answered.unwrap_or(u64::MAX), index));
            }
        }
        next.sort_unstable_by(|one, other| other.cmp(one));
        for (_, index) in next {
            let operation = self.chains[index][usize::from(position.done[index])];
            let mut done = position.done.clone();
            done[index] += 1;
            let before = self.states[position.state as usize].clone();
            let Operation { words, reply, clock, .. } = operation;
            if reply.is_none() && words[0].as_slice() == b"incrbyfloat" {
                let is_exact = |value: &Value| super::spec::is_exact_float(&value.bytes);
                self.is_unknown |= !before.as_ref().is_none_or(is_exact);
            }
            for state in after(words, reply.as_ref(), before.as_ref(), *clock, self.evicts) {
                self.work += state.as_ref().map_or(0, |value| value.bytes.len() / WORK_BYTES);
                let state = self.number_of(state);
                stack.push(Position { done: done.clone(), state, is_chosen: position.is_chosen });
            }
            if operation.answered.is_none() {
                // It never takes effect.
                stack.push(Position { done, state: position.state, is_chosen: position.is_chosen });
            }
        }
    }

    /// Whether the crash may have gone back to here.
    fn may_be(&self, position: &Position, recovered: &Recovered) -> bool {
        let has_survived = |operation: &&&Operation| operation.answered.is_some_and(|at| at <= recovered.survived);
        if self.rests(position).any(|rest| rest.iter().any(|operation| has_survived(&operation))) {
            return false;
        }
        let held = self.states[position.state as usize].as_ref();
        // What has expired may still be there: nobody has looked at it.
        let found = views(held, recovered.clock, self.evicts).into_iter().chain([held]);
        found.into_iter().any(|view| match (view, &recovered.value) {
            (None, None) => true,
            (Some(held), Some(found)) => {
                let lives = match (held.life, found.life) {
                    (Life::Forever, Life::Forever) => true,
                    (Life::Until(least, most), Life::Until(at, _)) => least <= at && at <= most,
                    _ => false,
                };
                held.bytes == found.bytes && lives
            }
            _ => false,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLOCK: Clock = Clock { least: 1_000, most: 1_000, ever: 1_000 };

    /// `connection asked..answered command -> reply`; `..` alone: never answered. Replies: `+OK`, `:1`, `$text`, `nil`.
    fn history(lines: &[&str]) -> Vec<Operation> {
        let parse = |line: &&str| {
            let (command, reply) = line.split_once(" -> ").unwrap_or((line, ""));
            let mut words = command.split(' ');
            let connection = words.next().expect("a connection").parse().expect("a number");
            let (asked, answered) = words.next().expect("times").split_once("..").expect("two of them");
            let reply = match reply.split_at_checked(1) {
                None => None,
                Some(("+", text)) => Some(Reply::Simple(text.as_bytes().to_vec())),
                Some((":", text)) => Some(Reply::Integer(text.parse().expect("a number"))),
                Some(("$", text)) => Some(Reply::Bulk(text.as_bytes().to_vec())),
                Some(_) => Some(Reply::Null),
            };
            Operation {
                connection,
                words: words.map(|word| word.as_bytes().to_vec().into()).collect(),
                reply,
                asked: asked.parse().expect("a number"),
                answered: answered.parse().ok(),
                clock: CLOCK,
            }
        };
        lines.iter().map(parse).collect()
    }

    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Is {
        Linearizable,
        Broken,
    }

    fn checked(operations: &[Operation], recovered: Option<&Recovered>, evicts: bool) -> Is {
        match check(&operations.iter().collect::<Vec<_>>(), None, recovered, evicts) {
            Verdict::Linearizable => Is::Linearizable,
            Verdict::Broken(_) => Is::Broken,
            Verdict::Undecided => panic!("it is short"),
        }
    }

    #[track_caller]
    fn judge(lines: &[&str], verdict: Is) {
        assert_eq!(checked(&history(lines), None, false), verdict);
    }

    #[test]
    fn what_can_be_put_in_order_is_linearizable() {
        judge(&[], Is::Linearizable);
        judge(&["1 1..2 set k a -> +OK", "2 3..4 get k -> $a"], Is::Linearizable);
        // At the same time: before or after.
        judge(&["1 1..9 set k a -> +OK", "2 2..3 get k -> nil", "2 4..5 get k -> $a"], Is::Linearizable);
        judge(
            &["1 1..9 incr k -> :2", "2 1..9 incr k -> :1", "3 1..9 incr k -> :3", "3 10..11 get k -> $3"],
            Is::Linearizable,
        );
        // Never answered: it took effect, or it did not.
        judge(&["1 1.. set k a", "2 2..3 get k -> nil", "2 4..5 get k -> $a"], Is::Linearizable);
        judge(&["1 1.. set k a", "2 2..3 get k -> nil", "2 40..50 get k -> nil"], Is::Linearizable);
        // A pipeline.
        judge(&["1 1..10 set k a -> +OK", "1 2..11 append k b -> :2", "1 3..12 get k -> $ab"], Is::Linearizable);
    }

    #[test]
    fn a_stale_read_is_found() {
        judge(&["1 1..2 set k a -> +OK", "1 3..4 set k b -> +OK", "2 5..6 get k -> $a"], Is::Broken);
        judge(&["1 1..2 set k a -> +OK", "2 3..4 get k -> nil"], Is::Broken);
        judge(&["1 1..9 set k a -> +OK", "2 2..3 get k -> $a", "3 4..5 get k -> nil"], Is::Broken);
        judge(&["2 2..3 get k -> $x"], Is::Broken);
    }

    #[test]
    fn a_lost_update_is_found() {
        judge(&["1 1..9 incr k -> :1", "2 1..9 incr k -> :2", "1 10..11 get k -> $1"], Is::Broken);
        judge(&["1 1..2 append k a -> :1", "2 3..4 append k b -> :2", "1 10..11 get k -> $b"], Is::Broken);
    }

    #[test]
    fn an_increment_done_twice_is_found() {
        judge(&["1 1..2 incr k -> :1", "1 3..4 get k -> $2"], Is::Broken);
        judge(&["1 1..9 incr k -> :1", "2 1..9 incr k -> :1"], Is::Broken);
        judge(&["1 1..9 incr k -> :1", "2 1..9 incr k -> :3"], Is::Broken);
    }

    #[test]
    fn commands_of_a_connection_out_of_order_are_found() {
        judge(&["1 1..10 set k a -> +OK", "1 2..11 set k b -> +OK", "2 20..21 get k -> $a"], Is::Broken);
        judge(&["1 1..10 set k a -> +OK", "1 2..11 get k -> nil"], Is::Broken);
        // Of two connections they would be right.
        judge(&["1 1..10 set k a -> +OK", "3 2..11 set k b -> +OK", "2 20..21 get k -> $a"], Is::Linearizable);
    }

    #[test]
    fn a_key_expires_in_its_time_and_no_other() {
        let at = |asked: u64, line: &str, now: i64| Operation {
            asked,
            answered: Some(asked),
            clock: Clock { least: now, most: now, ever: now },
            ..history(&[line]).remove(0)
        };
        let set = at(1, "1 0..0 set k a PX 100 -> +OK", 1_000);
        let judge = |operations: &[Operation]| checked(operations, None, false);
        assert_eq!(judge(&[set.clone(), at(2, "1 0..0 get k -> $a", 1_099)]), Is::Linearizable);
        assert_eq!(judge(&[set.clone(), at(2, "1 0..0 get k -> nil", 1_101)]), Is::Linearizable);
        assert_eq!(judge(&[set.clone(), at(2, "1 0..0 get k -> nil", 1_099)]), Is::Broken);
        assert_eq!(judge(&[set.clone(), at(2, "1 0..0 get k -> $a", 1_101)]), Is::Broken);
        assert_eq!(
            judge(&[set, at(2, "1 0..0 persist k -> :1", 1_050), at(3, "1 0..0 get k -> nil", 9_000)]),
            Is::Broken
        );
    }

    #[test]
    fn only_what_may_be_evicted_goes_by_itself() {
        let lost = history(&["1 1..2 set k a -> +OK", "2 3..4 get k -> nil"]);
        assert_eq!(checked(&lost, None, true), Is::Linearizable);
        let changed = history(&["1 1..2 set k a -> +OK", "2 3..4 get k -> $b"]);
        assert_eq!(checked(&changed, None, true), Is::Broken);
    }

    #[test]
    fn a_crash_goes_back_to_what_was_and_not_too_far() {
        let lines = ["1 1..2 set k a -> +OK", "1 3..4 set k b -> +OK", "1 5..6 set k c -> +OK", "2 7.. set k d"];
        let found = |survived: u64, value: Option<&str>| {
            let value = value.map(|text| Value { bytes: text.as_bytes().to_vec().into(), life: Life::Forever });
            checked(&history(&lines), Some(&Recovered { survived, value, clock: CLOCK }), false)
        };
        assert_eq!(found(0, None), Is::Linearizable);
        assert_eq!(found(2, Some("a")), Is::Linearizable);
        assert_eq!(found(4, Some("c")), Is::Linearizable);
        assert_eq!(found(6, Some("d")), Is::Linearizable);
        assert_eq!(found(4, Some("a")), Is::Broken, "b had survived");
        assert_eq!(found(6, None), Is::Broken);
        assert_eq!(found(0, Some("e")), Is::Broken, "it was never that");
    }
}
