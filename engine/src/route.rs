//! Which shard owns a key: key to slot, slot to shard in contiguous ranges.

use torc_protocol::slot::{SLOTS, Slot};

use crate::id::ShardId;

/// The layout of slots over the shards of this process.
#[derive(Clone, Copy, Debug)]
pub struct Route {
    shards: u32,
}

impl Route {
    /// `shards` equal ranges of slots, as equal as whole numbers allow.
    pub fn new(shards: usize) -> Route {
        assert!((1..=SLOTS).contains(&shards), "each shard needs a slot");
        Route { shards: shards as u32 }
    }

    /// The owner of a key.
    #[inline]
    pub fn owner(self, key: &[u8]) -> ShardId {
        if self.shards == 1 {
            return ShardId(0);
        }
        self.owner_of_slot(Slot::of_key(key))
    }

    /// The owner of a slot.
    #[inline]
    pub fn owner_of_slot(self, slot: Slot) -> ShardId {
        ShardId((slot.0 as u32 * self.shards / SLOTS as u32) as u16)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_contiguous_and_even() {
        for shards in [1, 2, 3, 7, 64] {
            let route = Route::new(shards);
            let owners: Vec<u16> = (0..SLOTS as u16).map(|slot| route.owner_of_slot(Slot(slot)).0).collect();
            assert!(owners.is_sorted());
            for shard in 0..shards as u16 {
                let share = owners.iter().filter(|&&owner| owner == shard).count();
                assert!(share.abs_diff(SLOTS / shards) <= 1);
            }
        }
    }
}
