//! Files as a store makes them, read as they are, cut off anywhere, and with any bit turned over.

use super::format::{BLOCK_HEADER_BYTES, seal_all};
use super::fuzz_body::{Content, KEYSPACES, content, file_of};
use super::load::read_all;
use super::*;
use crate::limits;
use crate::store::KeyspaceId;

fn some() -> Content {
    let mut content = Content::new();
    for number in 0..40u64 {
        let value = vec![number as u8; number as usize];
        let expire_ms = if number % 3 == 0 { 1 + number } else { 0 };
        let version = (number % 4 == 0).then_some(number << 40);
        let keyspace = KEYSPACES[number as usize % 2].0;
        content.insert((keyspace, format!("key:{number}").into_bytes()), (value, expire_ms, version));
    }
    content.insert((7, Vec::new()), (Vec::new(), 0, None));
    content
}

fn long() -> Content {
    let mut content = some();
    content.insert((7, b"value".to_vec()), (vec![9; 400_000], 7, Some(8)));
    content.insert((300, vec![b'k'; 300_000]), (b"short".to_vec(), 0, None));
    content.insert((300, vec![b'k'; 40_000]), (vec![8; 40_000], 0, Some(3)));
    content.insert((300, vec![b'l'; limits::SNAPSHOT_WHOLE_BYTES_MAX]), (Vec::new(), 0, None));
    content.insert((300, vec![b'm'; limits::SNAPSHOT_WHOLE_BYTES_MAX + 1]), (Vec::new(), 0, None));
    content
}

#[test]
fn what_is_written_is_read() {
    for all in [Content::new(), some(), long()] {
        let file = file_of(&all);
        assert!(file.len().is_multiple_of(PAGE_BYTES));
        assert_eq!(content(&file), Ok(all.clone()));
        let header = Header::parse(file.first_chunk().expect("a page")).expect("it is sound");
        assert_eq!((header.database, header.entries()), (*b"sixteen bytes...", all.len() as u64));
        let entries_of = |id: KeyspaceId| all.keys().filter(|(keyspace, _)| *keyspace == id.0).count() as u64;
        let keyspaces = KEYSPACES.map(|id| KeyspaceHeader { id, entries: entries_of(id) });
        assert_eq!((header.keyspaces, header.next_keyspace, header.layout), (keyspaces.to_vec(), 301, 12));
        assert_eq!((header.base_lsn, header.last_txid, header.last_version, header.wall_ms), (77, 5, 9, 1_000));
        assert_eq!((header.shard, header.shards), (1, 2));
    }
}

/// The example of `engine/FORMAT.md`.
#[test]
fn an_entry_looks_as_the_document_says() {
    let mut all = Content::new();
    all.insert((300, b"user:7".to_vec()), (b"x".to_vec(), 1_780_000_000_000, None));
    let block = &file_of(&all)[PAGE_BYTES..];
    let entry = b"\x01\xac\x02\x06\x01\x00\x88\x44\x70\x9e\x01\x00\x00user:7x";
    assert_eq!(
        block[4..BLOCK_HEADER_BYTES],
        *b"\x01\0\0\0\x14\0\0\0\x01\0\0\0\0\0\0\0\0\0\0\0\x08\x07\x06\x05\x04\x03\x02\x01"
    );
    assert_eq!(block[BLOCK_HEADER_BYTES..][..entry.len()], *entry);
}

#[test]
fn pieces_of_any_length_are_read_as_they_come() {
    let all = long();
    let file = file_of(&all);
    for piece in [4_096, 10_000, limits::SNAPSHOT_BLOCK_BYTES_MAX] {
        let mut loader = Loader::new(file.first_chunk().expect("a page"), file.len() as u64).expect("it is sound");
        let (mut held, mut entries) = (Vec::new(), 0);
        for bytes in file[PAGE_BYTES..].chunks(piece) {
            held.extend_from_slice(bytes);
            let read = loader.read(&held, |visited| entries += visited.len()).expect("it is sound");
            held.drain(..read);
            assert!(held.len() < limits::SNAPSHOT_BLOCK_BYTES_MAX);
        }
        assert_eq!(entries, all.len());
        assert_eq!(loader.finish().expect("it is complete").entries, all.len() as u64);
    }
}

#[test]
fn a_file_that_ends_early_is_refused_wherever_that_is() {
    let file = file_of(&some());
    for len in 0..file.len() {
        let damage = content(&file[..len]).expect_err("it is cut off");
        assert_eq!(damage.cause, Cause::Truncated);
        assert!(damage.offset <= len as u64);
    }
    let file = file_of(&long());
    for len in (0..file.len()).step_by(509).chain((0..file.len()).step_by(PAGE_BYTES)) {
        assert_eq!(content(&file[..len]).map_err(|damage| damage.cause), Err(Cause::Truncated));
    }
    let mut longer = file.clone();
    longer.push(0);
    let damage = content(&longer).expect_err("there is more");
    assert_eq!(damage, Cause::Trailing.at(file.len() as u64));
    assert!(damage.to_string().starts_with(&format!("at byte {}: ", file.len())));
}

#[test]
fn no_bit_can_turn_over_unnoticed() {
    let mut file = file_of(&some());
    for bit in 0..file.len() * 8 {
        file[bit / 8] ^= 1 << (bit % 8);
        let damage = content(&file).expect_err("a bit is wrong");
        // It is found where it is, but for a length that makes the block reach past the end.
        assert!(damage.offset <= bit as u64 / 8 && bit as u64 / 8 < damage.offset + PAGE_BYTES as u64);
        file[bit / 8] ^= 1 << (bit % 8);
    }
    let mut file = file_of(&long());
    for bit in (0..file.len() * 8).step_by(997) {
        file[bit / 8] ^= 1 << (bit % 8);
        content(&file).expect_err("a bit is wrong");
        file[bit / 8] ^= 1 << (bit % 8);
    }
}

/// With checksums that are right, whatever the bytes say: an error or some content, and no panic.
#[test]
fn nothing_that_a_file_says_makes_its_reader_panic() {
    let sound = file_of(&some());
    // All of what comes before the padding, and some of that.
    for bit in (0..sound.len() * 8).filter(|bit| bit / 8 % PAGE_BYTES < 1_500 || bit % 16 == 0) {
        let mut file = sound.clone();
        file[bit / 8] ^= 1 << (bit % 8);
        seal_all(&mut file);
        content_of_anything(&file);
    }
    let sound = file_of(&long());
    let blocks = sound.len() / PAGE_BYTES;
    for at in 0..blocks * 64 {
        // What blocks begin with, most of all.
        let mut file = sound.clone();
        file[at / 64 * PAGE_BYTES + at % 64] ^= 1 << (at % 8);
        seal_all(&mut file);
        content_of_anything(&file);
    }
}

fn content_of_anything(file: &[u8]) {
    let mut bytes = 0;
    let read = read_all(file, |entries| {
        bytes += entries.iter().map(|entry| entry.key.len() + entry.value.bytes.len()).sum::<usize>();
    });
    assert!(bytes <= file.len() && read.is_ok_and(|totals| totals.bytes == file.len() as u64) || read.is_err());
}

#[test]
fn blocks_are_not_missing_twice_or_of_another_file() {
    let file = file_of(&some());
    let mut blocks: Vec<&[u8]> = file.chunks(PAGE_BYTES).collect();
    assert_eq!(blocks.len(), 3);
    let mut other = file.clone();
    other[2 * PAGE_BYTES + 24] ^= 1;
    seal_all(&mut other);
    assert_eq!(content(&other), Err(Cause::OtherSnapshot.at(2 * PAGE_BYTES as u64)));
    blocks.remove(1);
    assert_eq!(content(&blocks.concat()), Err(Cause::BlockNumber.at(PAGE_BYTES as u64)));
    let twice = [&file[..2 * PAGE_BYTES], &file[PAGE_BYTES..]].concat();
    assert_eq!(content(&twice), Err(Cause::BlockNumber.at(2 * PAGE_BYTES as u64)));
    let mut newer = file.clone();
    newer[8] = 2;
    assert_eq!(content(&newer), Err(Cause::Version(2).at(0)));
    assert_eq!(content(&vec![0; 3 * PAGE_BYTES]), Err(Cause::NotASnapshot.at(0)));
}
