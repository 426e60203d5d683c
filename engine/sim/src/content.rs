//! What keyspaces hold, apart from any store: made of records by the plainest code possible, of a shard as it is, or of the file of
//! a snapshot. So the ways in which a state comes to the disk and back judge each other.

use std::collections::BTreeMap;

use torc_engine::id::Millis;
use torc_engine::log::{Lsn, Record};
use torc_engine::shard::Shard;
use torc_engine::snapshot::{Loader, PAGE_BYTES};
use torc_engine::store::{Databases, Key, KeyspaceId, Store};

/// No expiry time is before this.
const BEFORE_ALL: Millis = Millis(1);

/// Keyspace and key to value, and expiry time (0: never).
pub(crate) type Entries = BTreeMap<(u32, Vec<u8>), (Vec<u8>, u64)>;

/// A state of one shard, or of all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Content {
    pub layout: Databases,
    pub entries: Entries,
}

impl Content {
    /// What a shard begins with.
    pub fn nothing() -> Content {
        let store = Store::new(torc_engine::limits::DATABASES_MAX, [0; 4], false);
        Content { layout: store.layout(), entries: Entries::new() }
    }

    pub fn of_shard(shard: &Shard) -> Content {
        let mut entries = Entries::new();
        shard.for_each(|keyspace, entry| {
            let before =
                entries.insert((keyspace.0, entry.key().to_vec()), (entry.value().bytes().to_vec(), entry.expire_ms()));
            assert!(before.is_none(), "a key is there twice");
        });
        Content { layout: shard.layout(), entries }
    }

    pub fn redo(&mut self, record: &Record<'_>) {
        let place = |keyspace: KeyspaceId, key: &[u8]| (keyspace.0, key.to_vec());
        match *record {
            Record::Set { keyspace, key, value, expire_ms, .. } => {
                self.entries.insert(place(keyspace, key), (value.to_vec(), expire_ms));
            }
            Record::Remove { keyspace, key } => drop(self.entries.remove(&place(keyspace, key))),
            Record::Expire { keyspace, key, expire_ms, .. } => {
                self.entries.get_mut(&place(keyspace, key)).expect("what expires is there").1 = expire_ms;
            }
            Record::WriteAt { keyspace, key, offset, bytes, .. } => {
                let entry = self.entries.get_mut(&place(keyspace, key)).expect("what is written to is there");
                let (offset, end) = (offset as usize, offset as usize + bytes.len());
                entry.0.resize(entry.0.len().max(end), 0);
                entry.0[offset..end].copy_from_slice(bytes);
            }
            Record::Layout(layout) => {
                let keyspaces = layout.keyspaces().collect();
                self.adopt(&Databases { number: layout.number, next_keyspace: layout.next_keyspace, keyspaces });
            }
            Record::Transaction(_) => unreachable!("there are none yet"),
        }
    }

    /// The databases are these, if that is known to be later: what none leads to is gone.
    pub fn adopt(&mut self, layout: &Databases) {
        if layout.number < self.layout.number {
            return;
        }
        self.layout.clone_from(layout);
        self.entries.retain(|(keyspace, _), _| layout.keyspaces.contains(&KeyspaceId(*keyspace)));
    }

    /// Adds what another shard has.
    pub fn join(&mut self, other: &Content) {
        for (key, entry) in &other.entries {
            let before = self.entries.insert(key.clone(), entry.clone());
            assert!(before.is_none(), "{} is on two shards", key.1.escape_ascii());
        }
        let layout = if other.layout.number > self.layout.number { &other.layout } else { &self.layout }.clone();
        self.adopt(&layout);
    }

    /// What the file of a snapshot has, loaded into an empty store and read from it again.
    pub fn of_snapshot(file: &[u8], base: Lsn) -> Content {
        let mut loader = Loader::new(file.first_chunk().expect("a page"), file.len() as u64).expect("a sound snapshot");
        let header = loader.header().clone();
        assert_eq!(header.base_lsn, base.0);
        let mut store = Store::new(torc_engine::limits::DATABASES_MAX, [5, 6, 7, 8], false);
        let ids: Vec<KeyspaceId> = header.keyspaces.iter().map(|keyspace| keyspace.id).collect();
        store.restore_keyspaces(&header).expect("it is empty");
        let mut keys = Vec::new();
        let read = loader.read(&file[PAGE_BYTES..], |entries| {
            keys.extend(entries.iter().map(|entry| (entry.keyspace, entry.key.to_vec())));
            store.load(entries, BEFORE_ALL, |_| true);
        });
        read.expect("a sound snapshot");
        loader.finish().expect("a complete snapshot");
        let mut entries = Entries::new();
        for (keyspace, bytes) in keys {
            let db = ids.iter().position(|id| *id == keyspace).expect("its keyspace") as u8;
            let key = Key { db, hash: store.hash(&bytes), bytes: &bytes };
            let entry = store.peek(key, BEFORE_ALL).expect("it was loaded");
            let value = (entry.value().bytes().to_vec(), entry.expire_ms());
            assert!(entries.insert((keyspace.0, bytes), value).is_none(), "saved twice");
        }
        Content { layout: store.layout(), entries }
    }

    /// Panics with the first difference, unless this is `wanted`; or less, if it may be.
    pub fn compare(&self, wanted: &Content, may_lack: bool, what: &str) {
        let show = |entry: &(Vec<u8>, u64)| {
            let shown = entry.0[..entry.0.len().min(60)].escape_ascii().to_string();
            format!("{} bytes \"{shown}\", expires at {}", entry.0.len(), entry.1)
        };
        for ((keyspace, key), found) in &self.entries {
            let key_shown = key.escape_ascii();
            match wanted.entries.get(&(*keyspace, key.clone())) {
                None => panic!("{what}: {key_shown} of keyspace {keyspace} must not be there: {}", show(found)),
                Some(entry) => {
                    assert!(entry == found, "{what}: {key_shown} is {} and must be {}", show(found), show(entry));
                }
            }
        }
        if !may_lack {
            for (keyspace, key) in wanted.entries.keys() {
                let key_shown = key.escape_ascii();
                assert!(
                    self.entries.contains_key(&(*keyspace, key.clone())),
                    "{what}: {key_shown} of keyspace {keyspace} is missing"
                );
            }
        }
        assert_eq!(self.layout, wanted.layout, "{what}: the databases");
    }
}
