//! Fields of INFO.

use super::client::Client;

/// A field of INFO; None when there is none of that name.
pub fn field(client: &mut Client, name: &str) -> Option<String> {
    let reply = client.call(&[b"INFO", b"everything"]);
    let text = String::from_utf8(reply).expect("INFO is text");
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':').map(str::to_string))
}

pub fn number(client: &mut Client, name: &str) -> u64 {
    let value = field(client, name).unwrap_or_else(|| panic!("INFO has no {name}"));
    value.parse().unwrap_or_else(|_| panic!("INFO {name} is {value:?}"))
}
