//! Requests made from the engine's own table of commands: a row says where its keys are and how many arguments there must be; what
//! the others look like is in [`shapes`]. A row that is executed and has no shape fails a test, so no new command is forgotten.

use torc_engine::command::{Command, Handler, Route, Row, flag};
use torc_engine::id::Millis;

use crate::options::Options;
use crate::random::Random;

/// What an argument is like that is no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Argument {
    Word(&'static str),
    Value,
    Integer,
    Float,
    /// A small one, and one that may be negative.
    Offset,
    Index,
    /// How long a key lives, and until when.
    LifeS,
    LifeMs,
    UntilS,
    UntilMs,
    Pattern,
    /// Where a SCAN goes on.
    Cursor,
}

use Argument::*;

/// Groups of commands that a world weighs: what the rows have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Group {
    Read,
    Write,
    Count,
    Grow,
    Expire,
    Several,
    Home,
    Whole,
}

/// A request.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub command: Command,
    pub words: Vec<Vec<u8>>,
    /// Which of the words are keys.
    pub keys: Vec<usize>,
}

impl Request {
    pub fn words(&self) -> impl Iterator<Item = &[u8]> {
        self.words.iter().map(Vec::as_slice)
    }
}

/// Makes requests for one client.
pub(crate) struct Maker {
    pub random: Random,
    /// By group, what may be asked.
    groups: Vec<Vec<Command>>,
    weights: [usize; 8],
    keys: usize,
    own_keys: usize,
    /// The client's, which its own keys have in their names.
    number: usize,
    big_bytes: usize,
    life_ms_max: u64,
    /// Where the SCAN that is under way goes on.
    pub cursor: Vec<u8>,
}

/// What the arguments of a command may look like that are no keys, each variant in full.
fn shapes(name: &str) -> Option<&'static [&'static [Argument]]> {
    Some(match name {
        "get" | "getdel" | "strlen" | "incr" | "decr" | "persist" | "ttl" | "pttl" | "expiretime" | "pexpiretime"
        | "type" | "del" | "unlink" | "exists" | "touch" | "mget" | "object|encoding" | "object|refcount"
        | "object|freq" | "object|idletime" | "debug|object" => &[&[]],
        "set" => &[
            &[Value],
            &[Value],
            &[Value, Word("NX")],
            &[Value, Word("XX")],
            &[Value, Word("GET")],
            &[Value, Word("KEEPTTL")],
            &[Value, Word("XX"), Word("GET")],
            &[Value, Word("EX"), LifeS],
            &[Value, Word("PX"), LifeMs],
            &[Value, Word("NX"), Word("PX"), LifeMs],
            &[Value, Word("EXAT"), UntilS],
            &[Value, Word("PXAT"), UntilMs],
        ],
        "setnx" | "getset" | "append" | "mset" => &[&[Value]],
        "setex" => &[&[LifeS, Value]],
        "psetex" => &[&[LifeMs, Value]],
        "getex" => &[&[], &[Word("PERSIST")], &[Word("EX"), LifeS], &[Word("PX"), LifeMs], &[Word("PXAT"), UntilMs]],
        "getrange" | "substr" => &[&[Index, Index]],
        "setrange" => &[&[Offset, Value]],
        "incrby" | "decrby" => &[&[Integer]],
        "incrbyfloat" => &[&[Float]],
        "expire" => &[&[LifeS], &[LifeS, Word("NX")], &[LifeS, Word("XX")], &[LifeS, Word("GT")], &[LifeS, Word("LT")]],
        "pexpire" => {
            &[&[LifeMs], &[LifeMs, Word("NX")], &[LifeMs, Word("XX")], &[LifeMs, Word("GT")], &[LifeMs, Word("LT")]]
        }
        "expireat" => &[&[UntilS], &[UntilS, Word("GT")]],
        "pexpireat" => &[&[UntilMs], &[UntilMs, Word("LT")], &[UntilMs, Word("NX")]],
        "memory|usage" => &[&[], &[Word("SAMPLES"), Offset]],
        "keys" => &[&[Pattern]],
        "scan" => {
            &[&[Cursor], &[Cursor, Word("COUNT"), Offset], &[Cursor, Word("MATCH"), Pattern, Word("COUNT"), Offset]]
        }
        "dbsize"
        | "randomkey"
        | "time"
        | "lastsave"
        | "save"
        | "bgrewriteaof"
        | "quit"
        | "reset"
        | "command"
        | "command|count"
        | "command|list"
        | "client|id"
        | "client|getname"
        | "client|info"
        | "config|resetstat"
        | "config|rewrite"
        | "memory|purge"
        | "memory|doctor"
        | "memory|stats"
        | "memory|malloc-stats" => &[&[]],
        "config|help" | "command|help" | "client|help" | "memory|help" | "object|help" | "debug|help" => &[&[]],
        "bgsave" => &[&[], &[Word("SCHEDULE")]],
        "ping" => &[&[], &[Value]],
        "echo" => &[&[Value]],
        "auth" => &[&[Word("a-password")]],
        "hello" => &[&[Word("2")], &[Word("3")], &[]],
        "select" => &[&[Word("0")], &[Word("99")]],
        "client|setname" => &[&[Word("somebody")]],
        "client|setinfo" => &[&[Word("LIB-NAME"), Word("sim")]],
        "client|list" => &[&[]],
        "command|info" => &[&[], &[Word("get"), Word("nosuch")]],
        "command|docs" => &[&[Word("set")]],
        "command|getkeys" => &[&[Word("get"), Word("key")]],
        "config|get" => &[&[Word("maxmemory*")], &[Word("appendfsync"), Word("hz")]],
        "config|set" => &[
            &[Word("hz"), Word("20")],
            &[Word("appendfsync"), Word("always")],
            &[Word("appendfsync"), Word("everysec")],
            &[Word("appendfsync"), Word("no")],
            &[Word("maxmemory-policy"), Word("allkeys-lru")],
            &[Word("maxmemory-policy"), Word("allkeys-lfu")],
            &[Word("maxmemory-policy"), Word("volatile-ttl")],
            &[Word("maxmemory-policy"), Word("noeviction")],
            &[Word("snapshot-duty"), Word("50")],
        ],
        "info" => &[&[], &[Word("everything")], &[Word("stats")]],
        "flushdb" | "flushall" => &[&[], &[Word("SYNC")], &[Word("ASYNC")]],
        "swapdb" => &[&[Word("14"), Word("15")]],
        "debug|set-active-expire" => &[&[Word("1")], &[Word("0")]],
        "debug|set-fault" => &[&[Word("hop-delay-ms"), Word("0")]],
        "debug|sleep" => &[&[Word("0.003")]],
        "shutdown" => &[&[Word("NOSAVE")], &[Word("SAVE")]],
        _ => return None,
    })
}

/// A container's row is not executed, its subcommands are.
fn is_executed(row: &Row) -> bool {
    !matches!(row.handler, Handler::None)
}

fn group_of(row: &Row) -> Group {
    let is_write = row.flags & flag::WRITE != 0;
    match row.route {
        Route::Keys(_) => Group::Several,
        Route::Key if row.name.contains("expire") && is_write || row.name == "persist" => Group::Expire,
        Route::Key if row.name.starts_with("incr") || row.name.starts_with("decr") => Group::Count,
        Route::Key if row.flags & flag::GROWS != 0 || row.name == "append" => Group::Grow,
        Route::Key if is_write => Group::Write,
        Route::Key => Group::Read,
        Route::Home => Group::Home,
        Route::All(_) | Route::Ordered(_) | Route::Cursor | Route::Container => Group::Whole,
    }
}

fn shared_key(number: usize) -> Vec<u8> {
    // Some share a slot, so that commands about several keys go to one shard too.
    let tag = if number % 4 == 3 { "{tag}" } else { "" };
    format!("{}{tag}{number}", super::SHARED).into_bytes()
}

fn own_key(client: usize, number: usize) -> Vec<u8> {
    format!("{}own{client}:{number}", super::SHARED).into_bytes()
}

/// Every key that clients may name.
pub(crate) fn all_keys(options: &Options) -> Vec<Vec<u8>> {
    let own = (0..options.sharers).flat_map(|client| (0..options.own_keys).map(move |number| own_key(client, number)));
    (0..options.keys).map(shared_key).chain(own).collect()
}

impl Maker {
    pub fn new(number: usize, options: &Options, random: Random) -> Maker {
        let may_ask = |row: &Row| match row.name {
            "flushdb" | "flushall" => options.flushes,
            // It would exchange what owners have.
            "swapdb" => options.clients == 0,
            "config|set" => options.changes_settings,
            "shutdown" => options.stops > 0,
            _ => is_executed(row),
        };
        let of = |group: Group| -> Vec<Command> {
            Command::all().filter(|command| may_ask(command.row()) && group_of(command.row()) == group).collect()
        };
        let all = [
            Group::Read,
            Group::Write,
            Group::Count,
            Group::Grow,
            Group::Expire,
            Group::Several,
            Group::Home,
            Group::Whole,
        ];
        let mut weights = options.weights.map(|weight| weight * 4);
        // Some of what changes keys, some of what reads them, and little of what is about all of them.
        (weights[0], weights[1]) = (weights[0].max(4), weights[1].max(4));
        (weights[6], weights[7]) = (weights[6].div_ceil(8), weights[7].div_ceil(8));
        Maker {
            random,
            groups: all.into_iter().map(of).collect(),
            weights,
            keys: options.keys,
            own_keys: options.own_keys,
            number,
            big_bytes: options.big_bytes,
            life_ms_max: options.life_ms_max,
            cursor: b"0".to_vec(),
        }
    }

    /// A request at random.
    pub fn request(&mut self, now: Millis) -> Request {
        let sum: usize = self.weights.iter().sum();
        let mut at = self.random.below(sum);
        let mut group = 0;
        while at >= self.weights[group] {
            at -= self.weights[group];
            group += 1;
        }
        loop {
            let of = &self.groups[group];
            let command = of[self.random.below(of.len())];
            // Who flushes all the time never has anything.
            let one_in = match command.row().name {
                "shutdown" | "quit" | "save" | "command" | "command|docs" => 20,
                "flushall" | "flushdb" => 3,
                _ => 1,
            };
            if self.random.one_in(one_in) {
                return self.request_for(command, now).expect("each executed row has a shape");
            }
        }
    }

    /// A request for a command; None if nothing is known of its arguments.
    fn request_for(&mut self, command: Command, now: Millis) -> Option<Request> {
        let row = command.row();
        let shapes = shapes(row.name)?;
        let shape = shapes[self.random.below(shapes.len())];
        let mut words: Vec<Vec<u8>> = row.name.split('|').map(|word| word.as_bytes().to_vec()).collect();
        let mut keys = Vec::new();
        if row.keys.first > 0 {
            assert_eq!(words.len(), row.keys.first, "the first key follows the name");
            let count = if row.keys.last < 0 { self.random.between(1, 5) } else { 1 };
            for _ in 0..count {
                keys.push(words.len());
                words.push(self.key());
                for _ in 1..row.keys.step {
                    words.push(self.argument(Value, now));
                }
            }
        }
        if row.keys.step < 2 {
            for argument in shape {
                words.push(self.argument(*argument, now));
            }
        }
        Some(Request { command, words, keys })
    }

    fn key(&mut self) -> Vec<u8> {
        let number = self.random.below(self.keys + self.own_keys);
        match number.checked_sub(self.keys) {
            None => shared_key(number),
            Some(own) => own_key(self.number, own),
        }
    }

    fn value(&mut self) -> Vec<u8> {
        let len = match self.random.below(16) {
            0 => return Vec::new(),
            1..=6 => return self.random.below(1000).to_string().into_bytes(),
            // Around the length from which values travel as refcounted bytes.
            7 if self.big_bytes > 0 => self.random.between(16 * 1024 - 2, 16 * 1024 + 2),
            8 | 9 if self.big_bytes > 0 => self.random.between(1, self.big_bytes),
            10 => self.random.between(1, 3000),
            _ => self.random.between(1, 24),
        };
        let mut byte = self.random.number() as u8;
        let step = (self.random.number() as u8) | 1;
        (0..len)
            .map(|_| {
                byte = byte.wrapping_mul(5).wrapping_add(step);
                byte
            })
            .collect()
    }

    fn argument(&mut self, argument: Argument, now: Millis) -> Vec<u8> {
        let random = &mut self.random;
        let life = self.life_ms_max as usize;
        let number = match argument {
            Word(word) => return word.as_bytes().to_vec(),
            Value => return self.value(),
            Pattern => return if random.one_in(2) { b"*".to_vec() } else { b"k*[0-4]".to_vec() },
            Cursor => return self.cursor.clone(),
            Float => return (random.between(0, 400) as f64 / 4.0 - 50.0).to_string().into_bytes(),
            Integer => match random.below(4) {
                0 => random.number() as i64 >> random.between(2, 60),
                _ => random.below(100) as i64,
            },
            Offset => random.between(1, 60) as i64,
            Index => random.below(60) as i64 - 30,
            LifeS => random.between(1, (life / 1000).max(1)) as i64,
            LifeMs => random.between(1, life) as i64,
            UntilS => (now.0 as i64 + random.below(life + 1000) as i64) / 1000 + 1,
            UntilMs => now.0 as i64 + random.below(life) as i64 - 3,
        };
        number.to_string().into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_command_that_is_executed_can_be_asked_and_takes_its_arguments() {
        let mut maker = Maker::new(1, &Options::from_seed(1), Random::new(1));
        for command in Command::all().filter(|command| is_executed(command.row())) {
            let row = command.row();
            for _ in 0..50 {
                let request = maker.request_for(command, Millis(1_000_000));
                let request = request.unwrap_or_else(|| panic!("{} has no shape in `shapes`", row.name));
                let count = request.words.len();
                let fits = if row.arity > 0 {
                    count == row.arity as usize
                } else {
                    count >= row.arity.unsigned_abs() as usize
                };
                assert!(fits, "{} does not take {count} arguments", row.name);
                assert_eq!(request.keys.is_empty(), row.keys.first == 0, "{}", row.name);
            }
        }
    }

    #[test]
    fn all_commands_come_up() {
        let options = Options {
            weights: [1; 8],
            flushes: true,
            clients: 0,
            changes_settings: true,
            stops: 1,
            ..Options::from_seed(3)
        };
        let mut maker = Maker::new(1, &options, Random::new(1));
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..60_000 {
            seen.insert(maker.request(Millis(1_000_000)).command.row().name);
        }
        let all = Command::all().filter(|command| is_executed(command.row())).map(|command| command.row().name);
        let never: Vec<&str> = all.filter(|name| !seen.contains(name)).collect();
        assert!(never.is_empty(), "never asked: {never:?}");
    }
}
