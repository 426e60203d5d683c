//! What a writer asked of one key, and what the key may be after a restart. Only one connection writes a key, so the order is known:
//! what is found is what some prefix of its operations leads to, and the prefix has everything that was promised to be kept.

use std::time::Instant;

/// What a key is: absent, or the value with this number.
pub type State = Option<u64>;

#[derive(Clone, Copy, Debug)]
struct Operation {
    /// What the key is behind it.
    leads_to: State,
    /// An error reply said that it was not done.
    refused: bool,
    /// When its reply came that it was.
    acknowledged: Option<Instant>,
}

/// One key.
#[derive(Clone, Debug)]
pub struct Key {
    pub name: String,
    /// What it was before the operations.
    base: State,
    operations: Vec<Operation>,
    /// So many of them must be there after a restart.
    promised: usize,
}

impl Key {
    pub fn new(name: String) -> Key {
        Key { name, base: None, operations: Vec::new(), promised: 0 }
    }

    /// Operations since the restart.
    pub fn count(&self) -> usize {
        self.operations.len()
    }

    /// An operation is sent; its number.
    pub fn send(&mut self, leads_to: State) -> usize {
        self.operations.push(Operation { leads_to, refused: false, acknowledged: None });
        self.operations.len() - 1
    }

    /// It was refused: nothing was done.
    pub fn refuse(&mut self, operation: usize) {
        self.operations[operation].refused = true;
    }

    /// It was done.
    pub fn acknowledge(&mut self, operation: usize) {
        self.operations[operation].acknowledged = Some(Instant::now());
    }

    /// All that was acknowledged until then will be there after a restart.
    pub fn promise(&mut self, until: Instant) {
        let is_promised = |operation: &Operation| operation.acknowledged.is_some_and(|at| at <= until);
        let promised = self.operations.iter().rposition(is_promised).map_or(0, |last| last + 1);
        self.promised = self.promised.max(promised);
    }

    /// So will the value with this number, which somebody has read, and all before it.
    pub fn promise_value(&mut self, number: u64) {
        if let Some(operation) = self.operations.iter().rposition(|operation| operation.leads_to == Some(number)) {
            self.promised = self.promised.max(operation + 1);
        }
    }

    /// After a restart it is `found`, and that is where the next operations begin. Err: it should not be.
    pub fn settle(&mut self, found: State) -> Result<(), String> {
        let allowed: Vec<State> =
            (self.promised..=self.operations.len()).map(|count| self.state_behind(count)).collect();
        if !allowed.contains(&found) {
            let from = self.promised.saturating_sub(3);
            let shown = &self.operations[from..self.operations.len().min(self.promised + 5)];
            return Err(format!(
                "{} is {found:?} after the restart; it began as {:?}, of {} operations {} are promised; from {from} on: {shown:?}",
                self.name,
                self.base,
                self.operations.len(),
                self.promised
            ));
        }
        (self.base, self.promised) = (found, 0);
        self.operations.clear();
        Ok(())
    }

    /// What it is behind so many operations, as far as is known which were refused.
    pub fn state_behind(&self, count: usize) -> State {
        let done = self.operations[..count].iter().rev().find(|operation| !operation.refused);
        done.map_or(self.base, |operation| operation.leads_to)
    }
}

#[test]
fn what_was_promised_and_what_may_have_been() {
    let mut key = Key::new("k".to_owned());
    for number in 1..=5 {
        key.send(Some(number));
    }
    let before = Instant::now();
    std::thread::sleep(std::time::Duration::from_millis(1));
    key.acknowledge(2);
    key.promise(before);
    assert!(key.clone().settle(None).is_ok(), "it was acknowledged later");
    key.promise(Instant::now());
    for (found, may) in [(None, false), (Some(2), false), (Some(3), true), (Some(5), true), (Some(6), false)] {
        assert_eq!(key.clone().settle(found).is_ok(), may, "{found:?}");
    }
    key.settle(Some(4)).expect("it may be that");
    for (found, may) in [(Some(4), true), (Some(5), false), (None, false)] {
        assert_eq!(key.clone().settle(found).is_ok(), may, "{found:?}: what was found is to stay");
    }
}

#[test]
fn what_was_refused_leads_to_nothing() {
    let mut key = Key::new("k".to_owned());
    let (first, refused) = (key.send(Some(1)), key.send(Some(2)));
    key.acknowledge(first);
    key.promise(Instant::now());
    key.refuse(refused);
    assert_eq!(key.state_behind(2), Some(1));
    assert!(key.clone().settle(Some(2)).is_err());
    let removed = key.send(None);
    assert_eq!(key.state_behind(key.count()), None);
    key.acknowledge(removed);
    key.promise(Instant::now());
    assert!(key.clone().settle(Some(1)).is_err() && key.clone().settle(None).is_ok());
}

#[test]
fn what_a_reader_saw_is_promised() {
    let mut key = Key::new("k".to_owned());
    for number in 1..=3 {
        key.send(Some(number));
    }
    key.promise_value(2);
    assert!(key.clone().settle(Some(1)).is_err() && key.clone().settle(Some(2)).is_ok());
    key.promise_value(7);
    assert!(key.settle(Some(3)).is_ok(), "a value of another key says nothing");
}
