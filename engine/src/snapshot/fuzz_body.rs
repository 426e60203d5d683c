//! Target `snapshot`: files that nobody wrote, with checksums that are right, and files that a store wrote, damaged.

use std::collections::BTreeMap;

use super::format::{PAGE_BYTES, seal_all};
use super::load::read_all;
use super::{Cause, Damage, LoadedEntry, Loader};
use crate::fuzz::{Input, pages};
use crate::id::Millis;
use crate::limits;
use crate::store::{Databases, KeyspaceId, NewValue, SnapshotProgress, SnapshotStart, Store};

const NOW: Millis = Millis(1_000);
pub const KEYSPACES: [KeyspaceId; 2] = [KeyspaceId(7), KeyspaceId(300)];

/// Keyspace and key to value, expiry time and version.
pub type Content = BTreeMap<(u32, Vec<u8>), (Vec<u8>, u64, Option<u64>)>;

/// What a file holds, no key twice.
pub fn content(file: &[u8]) -> Result<Content, Damage> {
    let mut content = Content::new();
    let totals = read_all(file, |entries| {
        for entry in entries {
            let key = (entry.keyspace.0, entry.key.to_vec());
            content.insert(key, (entry.value.bytes.to_vec(), entry.expire_ms, entry.version));
        }
    })?;
    assert_eq!((totals.bytes, totals.entries), (file.len() as u64, content.len() as u64));
    Ok(content)
}

/// The file of a store that holds what is given, and nothing else.
pub fn file_of(content: &Content) -> Vec<u8> {
    let mut store = Store::new(2, [1, 2, 3, 4], false);
    let layout = Databases { number: 12, next_keyspace: 301, keyspaces: KEYSPACES.to_vec() };
    store.adopt(&layout).expect("ids that can be");
    for ((keyspace, key), (value, expire_ms, version)) in content {
        let value = NewValue::from(&value[..]);
        let (keyspace, expire_ms, version) = (KeyspaceId(*keyspace), *expire_ms, *version);
        store.load(&[LoadedEntry { keyspace, key, value, expire_ms, version }], NOW, |_| true);
    }
    let start = SnapshotStart { snapshot: 0x0102_0304_0506_0708, shard: 1, shards: 2, ..SnapshotStart::default() };
    let start = SnapshotStart { base_lsn: 77, last_txid: 5, last_version: 9, wall_ms: 1_000, ..start };
    store.begin_snapshot(SnapshotStart { database: *b"sixteen bytes...", ..start }).expect("none is running");
    let mut file = Vec::new();
    while !matches!(store.snapshot_progress(), SnapshotProgress::Finished(_)) {
        store.snapshot_slice(limits::SNAPSHOT_SLICE_BYTES);
        while let Some(block) = store.poll_snapshot_block() {
            assert_eq!(block.offset, file.len() as u64);
            assert!(block.buffer.as_slice().as_ptr().addr().is_multiple_of(PAGE_BYTES));
            file.extend_from_slice(block.buffer.as_slice());
            store.handle_snapshot_block_written(block);
        }
    }
    file
}

/// What an entry is, to be compared.
type Entry = (u32, Vec<u8>, Vec<u8>, u64, Option<u64>);

/// The first byte chooses between the two.
pub fn snapshot(data: &[u8]) {
    let [choice, data @ ..] = data else { return };
    match choice % 2 {
        0 => made_up(data, *choice),
        _ => written(data),
    }
}

/// No bytes make the reader panic, or show more than their length bears out, and it does not matter in which pieces they
/// arrive; a store that has loaded a file's entries writes a file with the same.
fn made_up(data: &[u8], choice: u8) {
    let mut file = pages(data).concat();
    read_all(&file, |entries| assert!(!entries.is_empty())).ok();
    // Checksums keep what is made up away from the rest of the reader; with the right ones it gets there.
    seal_all(&mut file);
    let (mut entries, mut bytes) = (Vec::new(), 0);
    let whole = read_all(&file, |visited| {
        assert!(!visited.is_empty() && visited.len() <= limits::SNAPSHOT_LOAD_ENTRIES);
        bytes += visited.iter().map(|entry| entry.key.len() + entry.value.bytes.len()).sum::<usize>();
        entries.extend(visited.iter().map(entry_of));
    });
    assert!(bytes <= file.len());
    let (in_pieces, result) = read_in_pieces(&file, PAGE_BYTES * (1 + usize::from(choice >> 1)));
    assert_eq!((&in_pieces, result), (&entries, whole.as_ref().map(|_| ()).map_err(|damage| *damage)));
    let Ok(totals) = whole else { return };
    assert_eq!((totals.bytes, totals.entries), (file.len() as u64, entries.len() as u64));
    // Keyspaces have other ids in that store; it does not take an entry that has expired or is there already.
    let known: Vec<u32> = KEYSPACES.iter().map(|id| id.0).collect();
    let entries: Content = entries
        .into_iter()
        .filter(|(keyspace, ..)| known.contains(keyspace))
        .map(|(keyspace, key, value, _, version)| ((keyspace, key), (value, 0, version)))
        .collect();
    assert_eq!(content(&file_of(&entries)), Ok(entries));
}

/// What a store has comes back, and no change of up to four bytes beside checksums goes unnoticed.
fn written(data: &[u8]) {
    let mut input = Input(data);
    let mut entries = Content::new();
    for _ in 0..input.byte() {
        let (choice, key) = (input.byte(), input.prefixed().to_vec());
        // Some are long enough to be cut into blocks.
        let value = match choice & 0x0f {
            0 => vec![choice; limits::SNAPSHOT_WHOLE_BYTES_MAX + usize::from(input.u16())],
            1 => vec![choice; usize::from(input.u16())],
            _ => input.prefixed().to_vec(),
        };
        let expire_ms = if choice & 0x10 != 0 { NOW.0 + 1 + input.u64() / 2 } else { 0 };
        let version = (choice & 0x20 != 0).then(|| input.u64());
        entries.insert((KEYSPACES[usize::from(choice >> 7)].0, key), (value, expire_ms, version));
        if entries.values().map(|(value, ..)| value.len()).sum::<usize>() > 1 << 20 {
            break;
        }
    }
    let mut file = file_of(&entries);
    assert_eq!(content(&file).as_ref(), Ok(&entries));
    let (count, at) = (1 + usize::from(input.byte() % 4), input.u64() as usize % file.len());
    let mut is_hit = false;
    for (at, &byte) in (at..file.len()).zip(input.bytes(count)) {
        // What is in place of a checksum, or of the length that says how far it reaches, could be right by accident.
        if at % PAGE_BYTES >= 16 {
            is_hit |= file[at] != byte;
            file[at] = byte;
        }
    }
    assert_eq!(content(&file).is_err(), is_hit);
}

fn entry_of(entry: &LoadedEntry<'_>) -> Entry {
    (entry.keyspace.0, entry.key.to_vec(), entry.value.bytes.to_vec(), entry.expire_ms, entry.version)
}

/// Reads a file as it arrives, at least so much at a time.
fn read_in_pieces(file: &[u8], piece_bytes: usize) -> (Vec<Entry>, Result<(), Damage>) {
    let mut entries = Vec::new();
    let mut read = || {
        let page = file.first_chunk().ok_or(Damage { offset: 0, cause: Cause::Truncated })?;
        let mut loader = Loader::new(page, file.len() as u64)?;
        let (mut from, mut to) = (PAGE_BYTES, PAGE_BYTES);
        while to < file.len() {
            to = (to + piece_bytes).min(file.len());
            from += loader.read(&file[from..to], |visited| entries.extend(visited.iter().map(entry_of)))?;
        }
        if from < file.len() {
            return Err(Damage { offset: from as u64, cause: Cause::Truncated });
        }
        loader.finish().map(|_| ())
    };
    let result = read();
    (entries, result)
}
