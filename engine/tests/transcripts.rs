//! RESP in, RESP out: the rows of `transcripts/*.txt`, each file on one shard and on three, in RESP2 and in RESP3.
//!
//! ```text
//! # a comment
//! SET a "x y" => +OK            what is sent (words, quoted as in an inline command), and what must come back
//! MGET a none => [$"x y" nil]
//! @ 1500                        the clock moves, milliseconds
//! raw *1\r\n$-5\r\n => -ERR Protocol error: invalid bulk length     bytes as they are
//! closed                        the connection must end now; the next row is said by a new client
//! directory                     there is a data directory
//! saved                         the save under way ends, well; or: failed
//! ```
//!
//! Replies: `+simple` and `$bulk` (quoted if it has spaces), `-error` (to the end of the line), `:integer`, `nil`, `[array]`,
//! `{key value ...}` a map, which RESP2 writes as an array, `~[set]` likewise, `=text` and `has:text` (part of it) a text
//! for people, which RESP3 writes as a verbatim string, `any` whatever is no error, `none` no reply.
//!
//! `new` begins a file's next story: no keys, a new client. Redis 7.0 gives the same replies to these rows, except where a
//! comment says otherwise. DEBUG is allowed to all.

use torc_engine::command::{Command, Route, flag};
use torc_engine::shard::Shard;
use torc_protocol::resp::decode::{Reply, decode};
use torc_sim::{Connection, Shards, encode};

const FILES: [(&str, &str); 13] = [
    ("strings", include_str!("transcripts/strings.txt")),
    ("counters", include_str!("transcripts/counters.txt")),
    ("keys", include_str!("transcripts/keys.txt")),
    ("object", include_str!("transcripts/object.txt")),
    ("memory", include_str!("transcripts/memory.txt")),
    ("expiry", include_str!("transcripts/expiry.txt")),
    ("connection", include_str!("transcripts/connection.txt")),
    ("client", include_str!("transcripts/client.txt")),
    ("config", include_str!("transcripts/config.txt")),
    ("server", include_str!("transcripts/server.txt")),
    ("persistence", include_str!("transcripts/persistence.txt")),
    ("debug", include_str!("transcripts/debug.txt")),
    ("protocol", include_str!("transcripts/protocol.txt")),
];

#[test]
fn transcripts() {
    for (name, text) in FILES {
        for shards in [1, 3] {
            for resp3 in [false, true] {
                Player::new(name, shards, resp3).play(text);
            }
        }
    }
}

#[test]
fn every_command_has_a_row() {
    let said: Vec<String> = FILES
        .iter()
        .flat_map(|(_, text)| text.lines())
        .filter_map(|line| line.split_once(" => "))
        .map(|(words, _)| words.to_ascii_lowercase().replacen(' ', "|", 1))
        .collect();
    for command in Command::all().filter(|command| command.row().route != Route::Container) {
        let name = command.row().name;
        let whole_word =
            |line: &String| line.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '|']));
        assert!(said.iter().any(whole_word), "no transcript has a row for {name}");
    }
}

#[test]
fn every_command_refuses_a_wrong_number_of_arguments() {
    let mut shards = Shards::new(3);
    let client = shards.connect(0);
    // DEBUG has words of its own for this.
    for command in Command::all().filter(|command| command.row().flags & flag::PROTECTED == 0) {
        let row = command.row();
        let name: Vec<&str> = row.name.split('|').collect();
        let wanted = format!("-ERR wrong number of arguments for '{}' command\r\n", row.name);
        let fewest = row.arity.unsigned_abs() as usize;
        let mut counts: Vec<usize> = (name.len()..fewest).collect();
        if row.arity > 0 && row.subcommands.is_empty() {
            counts.push(fewest + 1);
        }
        for count in counts {
            let mut words = name.clone();
            words.resize(count, "1");
            assert_eq!(shards.command(client, &words), wanted, "{words:?}");
        }
    }
}

/// Plays one file.
struct Player {
    file: &'static str,
    count: usize,
    resp3: bool,
    shards: Shards,
    client: Connection,
    connected: usize,
}

impl Player {
    fn new(file: &'static str, count: usize, resp3: bool) -> Player {
        let mut shards = Shards::with_settings(count, &[("enable-debug-command", &["yes"])]);
        let client = shards.connect(0);
        let mut player = Player { file, count, resp3, shards, client, connected: 0 };
        player.connect();
        player
    }

    /// A new client, each on another shard.
    fn connect(&mut self) {
        self.client = self.shards.connect(self.connected % self.count);
        self.connected += 1;
        if self.resp3 {
            self.shards.command(self.client, &["HELLO", "3"]);
        }
    }

    fn play(&mut self, text: &str) {
        for (number, line) in text.lines().enumerate() {
            let at = format!("{}.txt:{} on {} shards, RESP{}", self.file, number + 1, self.count, 2 + self.resp3 as u8);
            let line = line.trim();
            match line.split_once(" => ") {
                Some((said, wanted)) => self.row(said.trim(), wanted.trim(), &at),
                None if line.is_empty() || line.starts_with('#') => {}
                None if line == "closed" => {
                    assert!(self.shards.is_closing(self.client), "{at}: the connection goes on");
                    self.shards.disconnect(self.client);
                    self.connect();
                }
                None if line == "new" => {
                    let connected = self.connected;
                    *self = Player { connected, ..Player::new(self.file, self.count, self.resp3) };
                    self.connect();
                }
                None if line == "directory" => self.shards.machine.saves.is_available = true,
                None if line == "saved" || line == "failed" => {
                    self.shards.machine.end_save((line == "saved").then_some(1000));
                    self.shards.shards.iter_mut().for_each(Shard::handle_save_ended);
                    self.shards.settle();
                }
                None => {
                    let ms = line.strip_prefix('@').and_then(|ms| ms.trim().parse().ok());
                    self.shards.advance(ms.unwrap_or_else(|| panic!("{at}: what is {line:?}?")));
                }
            }
        }
        self.shards.assert_at_rest();
    }

    fn row(&mut self, said: &str, wanted: &str, at: &str) {
        let bytes = match said.strip_prefix("raw ") {
            Some(raw) => unescape(raw),
            None => encode(&words(said)),
        };
        let got = self.shards.exchange(self.client, &bytes);
        let shown = got.escape_ascii().to_string();
        if wanted == "none" {
            assert!(got.is_empty(), "{at}: {said}\n  wanted no reply\n  got {shown}");
            return;
        }
        let (reply, len) = match decode(&got) {
            Ok(Some(whole)) => whole,
            other => panic!("{at}: {said}\n  wanted {wanted}\n  got {shown}, which is {other:?}"),
        };
        let mut tokens = wanted;
        let matches = self.matches(&mut tokens, &reply) && tokens.trim().is_empty();
        assert!(matches && len == got.len(), "{at}: {said}\n  wanted {wanted}\n  got    {shown}");
    }

    /// Whether a reply is as the beginning of `wanted` says, which is consumed.
    fn matches(&self, wanted: &mut &str, reply: &Reply) -> bool {
        let text = wanted.trim_start();
        let (kind, rest) = text.split_at(1);
        match (kind, reply) {
            ("-", _) | ("+", _) => {
                // To the end of the line: errors are not nested here.
                let end = if kind == "-" { rest.len() } else { word_end(rest) };
                *wanted = &rest[end..];
                match reply {
                    Reply::Error(got) => kind == "-" && got.trim_ascii_end() == unescape(rest[..end].trim_end()),
                    Reply::Simple(got) => kind == "+" && *got == unquote(&rest[..end]),
                    _ => false,
                }
            }
            ("[", _) => self.all_match(wanted, rest, "]", |elements| match reply {
                Reply::Array(got) => elements.matches(got.iter()),
                _ => false,
            }),
            ("~", _) => self.all_match(wanted, &rest[1..], "]", |elements| match reply {
                Reply::Set(got) if self.resp3 => elements.matches(got.iter()),
                Reply::Array(got) if !self.resp3 => elements.matches(got.iter()),
                _ => false,
            }),
            ("{", _) => self.all_match(wanted, rest, "}", |elements| match reply {
                Reply::Map(got) if self.resp3 => elements.matches(got.iter().flat_map(|(key, value)| [key, value])),
                Reply::Array(got) if !self.resp3 => elements.matches(got.iter()),
                _ => false,
            }),
            _ => {
                let end = word_end(text);
                *wanted = &text[end..];
                let word = &text[..end];
                if let Some(part) = word.strip_prefix("has:") {
                    let part = unquote(part);
                    let found = |text: &[u8]| text.windows(part.len()).any(|window| window == part);
                    return self.people_text(reply).is_some_and(found);
                }
                match (kind, reply) {
                    ("=", reply) => self.people_text(reply) == Some(&unquote(&word[1..])),
                    (":", Reply::Integer(got)) => word[1..].parse() == Ok(*got),
                    ("$", Reply::Bulk(got)) => *got == unquote(&word[1..]),
                    (_, Reply::Null) => word == "nil",
                    (_, Reply::Error(_)) => false,
                    _ => word == "any",
                }
            }
        }
    }

    fn people_text<'a>(&self, reply: &'a Reply) -> Option<&'a [u8]> {
        match reply {
            Reply::Verbatim { text, .. } if self.resp3 => Some(text),
            Reply::Bulk(text) if !self.resp3 => Some(text),
            _ => None,
        }
    }

    fn all_match<'t>(
        &self,
        wanted: &mut &'t str,
        rest: &'t str,
        close: &str,
        compare: impl FnOnce(&mut Elements<'_, 't>) -> bool,
    ) -> bool {
        let mut elements = Elements { player: self, rest };
        let same = compare(&mut elements);
        let rest = elements.rest.trim_start();
        let closed = rest.starts_with(close);
        *wanted = rest.strip_prefix(close).unwrap_or(rest);
        same && closed
    }
}

/// The elements of an aggregate that are still to be compared.
struct Elements<'a, 't> {
    player: &'a Player,
    rest: &'t str,
}

impl Elements<'_, '_> {
    fn matches<'r>(&mut self, mut replies: impl Iterator<Item = &'r Reply>) -> bool {
        replies.all(|reply| {
            let more = !self.rest.trim_start().starts_with([']', '}']) && !self.rest.trim_start().is_empty();
            more && self.player.matches(&mut self.rest, reply)
        })
    }
}

/// Where the first word ends; a quoted part belongs to it.
fn word_end(text: &str) -> usize {
    let mut quoted = false;
    let mut escaped = false;
    for (at, character) in text.char_indices() {
        match character {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            ' ' | ']' | '}' if !quoted => return at,
            _ => {}
        }
    }
    text.len()
}

/// A word without its quotes.
fn unquote(word: &str) -> Vec<u8> {
    match word.strip_prefix('"') {
        Some(quoted) => unescape(quoted.strip_suffix('"').expect("quotes end")),
        None => word.as_bytes().to_vec(),
    }
}

/// Backslashes in rows.
fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        let (escaped, length) = match (byte, after) {
            (b'\\', [b'r', ..]) => (b'\r', 1),
            (b'\\', [b'n', ..]) => (b'\n', 1),
            (b'\\', [b'0', ..]) => (0, 1),
            (b'\\', [b'\\' | b'"', ..]) => (after[0], 1),
            _ => (byte, 0),
        };
        bytes.push(escaped);
        rest = &rest[length..];
    }
    bytes
}

/// The words of a command.
fn words(said: &str) -> Vec<Vec<u8>> {
    let mut words = Vec::new();
    let mut rest = said.trim_start();
    while !rest.is_empty() {
        // Brackets are nothing special in a command.
        let mut end = word_end(rest);
        while rest[end..].starts_with([']', '}']) {
            end += 1;
            end += word_end(&rest[end..]);
        }
        words.push(unquote(&rest[..end]));
        rest = rest[end..].trim_start();
    }
    words
}
