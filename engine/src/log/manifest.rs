//! The manifest: which snapshots and which segments of the log make up the database. Everything in the data directory
//! that the current manifest does not need is rubbish, however new it looks.
//!
//! A manifest is never changed. The next one is written beside it under the next number, and `CURRENT` is then made to
//! name it (`runtime/src/disk/directory.rs` does that so that a crash leaves one of the two). `CURRENT` repeats the checksum
//! of the manifest that it names: a damaged number cannot lead to an older manifest that is still there.
//!
//! The layouts are in `engine/FORMAT.md`, section Manifest. All numbers are little-endian:
//!
//! ```text
//!   0       8         12      16       20       22     24       32         48           56          64         72
//!   | magic | version | crc32 | length | shards | zero | number | database | generation | last_txid | wall_ms |
//!
//!  then for each shard, 32 bytes:
//!   0          8           16                 24              32
//!   | snapshot | base_lsn  | first_generation | first_segment |
//! ```

use thiserror::Error;

use super::Lsn;

/// The version that is written, and the only one that is read.
pub const VERSION: u32 = 1;

const MAGIC: [u8; 8] = *b"TORCMANI";
const HEAD_BYTES: usize = 72;
const SHARD_BYTES: usize = 32;
/// Where the checksum lies; it covers what is before and what is after it.
const CRC: std::ops::Range<usize> = 12..16;

/// The most bytes that a manifest may have.
pub const MANIFEST_BYTES_MAX: usize = HEAD_BYTES + SHARD_BYTES * u16::MAX as usize;
/// The most bytes that `CURRENT` may have.
pub const CURRENT_BYTES_MAX: usize = 64;

/// What the database consists of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// Which manifest of the directory this is, from 1. Part of its file's name.
    pub number: u64,
    /// Random, for the life of the directory.
    pub database: [u8; 16],
    /// The process that wrote it, counted from 1. Segments of a later generation hold nothing that was acknowledged: a
    /// process writes a manifest of its generation before its first record.
    pub generation: u64,
    /// The highest transaction over shards that all snapshots contain; 0 for none.
    pub last_txid: u64,
    /// When it was written, in milliseconds since the Unix epoch.
    pub wall_ms: u64,
    /// By shard. There is at least one.
    pub shards: Vec<ShardManifest>,
}

/// What one shard consists of: a snapshot, and the log from a segment on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShardManifest {
    /// The snapshot to load, from 1; None: the shard was empty.
    pub snapshot: Option<u64>,
    /// The last record that the snapshot contains; replay goes on after it.
    pub base_lsn: Lsn,
    /// The first segment that replay needs, from 1, and the generation in whose files it is counted; 0: there is no log behind
    /// the snapshot.
    pub first_generation: u64,
    pub first_segment: u64,
}

/// Why bytes are not a manifest, or not the right one.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum ManifestError {
    #[error("it has {0} bytes, which is not the size of a manifest")]
    Length(usize),
    #[error("it does not begin with the mark of a manifest")]
    Magic,
    #[error("its checksum is {found:08x} and should be {expected:08x}: it is damaged")]
    Checksum { found: u32, expected: u32 },
    #[error("its format is version {found}, and this program reads version {VERSION}")]
    Version { found: u32 },
    #[error("its checksum is right and its content is not: {0}")]
    Content(&'static str),
}

impl ShardManifest {
    /// Whether a log was begun behind the snapshot, so that its first segment must be there.
    pub fn has_log(&self) -> bool {
        self.first_segment > 0
    }
}

impl Manifest {
    /// The bytes of the file. There must be at least one shard.
    pub fn encode(&self) -> Vec<u8> {
        let shards = u16::try_from(self.shards.len()).expect("shards are numbered with 16 bits");
        assert!(shards > 0, "a database has a shard");
        let length = HEAD_BYTES + SHARD_BYTES * self.shards.len();
        let mut bytes = Vec::with_capacity(length);
        bytes.extend(MAGIC);
        bytes.extend(VERSION.to_le_bytes());
        bytes.extend([0; CRC.end - CRC.start]);
        bytes.extend((length as u32).to_le_bytes());
        bytes.extend(shards.to_le_bytes());
        bytes.extend([0; 2]);
        bytes.extend(self.number.to_le_bytes());
        bytes.extend(self.database);
        for word in [self.generation, self.last_txid, self.wall_ms] {
            bytes.extend(word.to_le_bytes());
        }
        for shard in &self.shards {
            let ShardManifest { snapshot, base_lsn, first_generation, first_segment } = *shard;
            assert!(snapshot != Some(0), "snapshots are numbered from 1");
            for word in [snapshot.unwrap_or(0), base_lsn.0, first_generation, first_segment] {
                bytes.extend(word.to_le_bytes());
            }
        }
        assert_eq!(bytes.len(), length);
        let crc = checksum(&bytes);
        bytes[CRC].copy_from_slice(&crc.to_le_bytes());
        debug_assert_eq!(Manifest::decode(&bytes).as_ref(), Ok(self));
        bytes
    }

    /// Reads a file. Any damage is an error, and so is any byte too many.
    pub fn decode(bytes: &[u8]) -> Result<Manifest, ManifestError> {
        let mut reader = Reader(bytes);
        let wrong_length = ManifestError::Length(bytes.len());
        // The same in all versions: the mark, the version and the checksum with what it covers.
        if bytes.len() > MANIFEST_BYTES_MAX || bytes.len() < HEAD_BYTES {
            return Err(wrong_length);
        }
        if reader.take() != Some(MAGIC) {
            return Err(ManifestError::Magic);
        }
        let version = u32::from_le_bytes(reader.take().ok_or(wrong_length)?);
        let found = u32::from_le_bytes(reader.take().ok_or(wrong_length)?);
        let expected = checksum(bytes);
        if found != expected {
            return Err(ManifestError::Checksum { found, expected });
        }
        if version != VERSION {
            return Err(ManifestError::Version { found: version });
        }
        let length = u32::from_le_bytes(reader.take().ok_or(wrong_length)?) as usize;
        let count = u16::from_le_bytes(reader.take().ok_or(wrong_length)?) as usize;
        if length != bytes.len() || length != HEAD_BYTES + SHARD_BYTES * count {
            return Err(wrong_length);
        }
        if reader.take() != Some([0; 2]) {
            return Err(ManifestError::Content("bytes that must be zero are not"));
        }
        let number = reader.word().ok_or(wrong_length)?;
        let database = reader.take().ok_or(wrong_length)?;
        let generation = reader.word().ok_or(wrong_length)?;
        let last_txid = reader.word().ok_or(wrong_length)?;
        let wall_ms = reader.word().ok_or(wrong_length)?;
        let shards = (0..count).map(|_| reader.shard()).collect::<Option<Vec<_>>>().ok_or(wrong_length)?;
        if shards.is_empty() {
            return Err(ManifestError::Content("it has no shard"));
        }
        if number == 0 || generation == 0 {
            return Err(ManifestError::Content("it has no number or no generation"));
        }
        if shards.iter().any(|shard| shard.first_generation > generation) {
            return Err(ManifestError::Content("it needs a segment of a later generation than its own"));
        }
        Ok(Manifest { number, database, generation, last_txid, wall_ms, shards })
    }
}

/// What `CURRENT` says: the number of a manifest, and the checksum that is in that manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Current {
    pub number: u64,
    pub crc: u32,
}

impl Current {
    /// That leads to these bytes, which are those of an encoded manifest.
    pub fn to(manifest: &[u8], number: u64) -> Current {
        Current { number, crc: checksum(manifest) }
    }

    /// One line of text: `MANIFEST-12 crc32 0badcafe`.
    pub fn encode(&self) -> String {
        format!("MANIFEST-{} crc32 {:08x}\n", self.number, self.crc)
    }

    /// Reads the line, which must be exactly as it is written.
    pub fn decode(bytes: &[u8]) -> Option<Current> {
        let text = std::str::from_utf8(bytes).ok().filter(|text| text.len() <= CURRENT_BYTES_MAX)?;
        let (number, crc) = text.strip_prefix("MANIFEST-")?.strip_suffix('\n')?.split_once(" crc32 ")?;
        let current = Current { number: number.parse().ok()?, crc: u32::from_str_radix(crc, 16).ok()? };
        (current.encode() == text).then_some(current)
    }

    /// Whether these are the bytes that it leads to.
    pub fn leads_to(&self, manifest: &[u8]) -> bool {
        manifest.len() >= HEAD_BYTES && checksum(manifest) == self.crc
    }
}

/// Makes the checksum right of what may be a manifest, for fuzzing: otherwise nothing behind it would be tried.
#[cfg(any(test, fuzzing))]
pub(super) fn mend_checksum(bytes: &mut [u8]) {
    let crc = checksum(bytes);
    if let Some(place) = bytes.get_mut(CRC) {
        place.copy_from_slice(&crc.to_le_bytes());
    }
}

/// Over all bytes of an encoded manifest but the checksum's own.
fn checksum(bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(bytes.get(..CRC.start).unwrap_or_default());
    hasher.update(bytes.get(CRC.end..).unwrap_or_default());
    hasher.finalize()
}

/// What is left to be read.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*first)
    }

    fn word(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }

    fn shard(&mut self) -> Option<ShardManifest> {
        Some(ShardManifest {
            snapshot: Some(self.word()?).filter(|&id| id != 0),
            base_lsn: Lsn(self.word()?),
            first_generation: self.word()?,
            first_segment: self.word()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(shards: u64) -> Manifest {
        let shard = |index: u64| ShardManifest {
            snapshot: (index > 0).then_some(70 + index),
            base_lsn: Lsn(1000 * index),
            first_generation: 3 + index % 2,
            first_segment: 9 * index,
        };
        Manifest {
            number: 12,
            database: *b"0123456789abcdef",
            generation: 4,
            last_txid: 77,
            wall_ms: 1_700_000_000_000,
            shards: (0..shards).map(shard).collect(),
        }
    }

    #[test]
    fn manifest_comes_back_as_it_was() {
        for shards in [1, 2, 3, 300] {
            let manifest = manifest(shards);
            let bytes = manifest.encode();
            assert_eq!(bytes.len() as u64, 72 + 32 * shards);
            assert_eq!(Manifest::decode(&bytes), Ok(manifest));
        }
    }

    #[test]
    fn layout_is_the_documented_one() {
        let bytes = manifest(2).encode();
        assert_eq!(&bytes[..12], b"TORCMANI\x01\0\0\0");
        assert_eq!(&bytes[16..24], &[136, 0, 0, 0, 2, 0, 0, 0]);
        assert_eq!((bytes[24], &bytes[32..48], bytes[48], bytes[56]), (12, &b"0123456789abcdef"[..], 4, 77));
        let second = &bytes[72 + 32..];
        assert_eq!((second[0], &second[8..10], second[16], second[24]), (71, &1000u16.to_le_bytes()[..], 4, 9));
    }

    #[test]
    fn every_truncation_and_every_further_byte_is_an_error() {
        let bytes = manifest(3).encode();
        for len in 0..bytes.len() {
            assert!(Manifest::decode(&bytes[..len]).is_err(), "{len}");
        }
        for more in 1..=100 {
            let longer = [&bytes[..], &vec![0; more]].concat();
            assert!(Manifest::decode(&longer).is_err(), "{more}");
        }
    }

    #[test]
    fn every_flipped_bit_is_an_error() {
        let bytes = manifest(3).encode();
        let current = Current::to(&bytes, 12);
        assert!(current.leads_to(&bytes));
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(Manifest::decode(&flipped).is_err(), "{bit}");
        }
    }

    #[test]
    fn sound_bytes_of_another_version_say_so() {
        let mut bytes = manifest(1).encode();
        bytes[8] = 2;
        // As a later version would write it: the checksum is where it always is.
        bytes.extend([5; 16]);
        let crc = checksum(&bytes);
        bytes[CRC].copy_from_slice(&crc.to_le_bytes());
        let error = Manifest::decode(&bytes).unwrap_err();
        assert_eq!(error, ManifestError::Version { found: 2 });
        assert_eq!(error.to_string(), "its format is version 2, and this program reads version 1");
    }

    #[test]
    fn impossible_content_is_an_error_though_its_checksum_is_right() {
        let sound = manifest(1).encode();
        for (place, byte) in [(20, 0), (20, 2), (22, 1), (24, 0), (48, 0), (48, 2), (16, 1)] {
            let mut bytes = sound.clone();
            bytes[place] = byte;
            let crc = checksum(&bytes);
            bytes[CRC].copy_from_slice(&crc.to_le_bytes());
            assert!(Manifest::decode(&bytes).is_err(), "{place} {byte}");
        }
    }

    #[test]
    fn current_is_read_only_as_it_is_written() {
        let current = Current { number: 12, crc: 0x00ad_cafe };
        let text = current.encode();
        assert_eq!(text, "MANIFEST-12 crc32 00adcafe\n");
        assert_eq!(Current::decode(text.as_bytes()), Some(current));
        for len in 0..text.len() {
            assert_eq!(Current::decode(&text.as_bytes()[..len]), None, "{len}");
        }
        for other in ["MANIFEST-012 crc32 00adcafe\n", "MANIFEST-12 crc32 00ADCAFE\n", "MANIFEST-+12 crc32 00adcafe\n"]
        {
            assert_eq!(Current::decode(other.as_bytes()), None, "{other}");
        }
        // A flipped bit is an error, or leads to a manifest that has another number or another checksum.
        for bit in 0..text.len() * 8 {
            let mut flipped = text.clone().into_bytes();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_ne!(Current::decode(&flipped), Some(current), "{bit}");
        }
    }
}
