//! Saving: SAVE, BGSAVE, BGREWRITEAOF and LASTSAVE.

use super::Error;

/// There is nothing that could be saved to.
pub(super) const UNAVAILABLE: Error = Error::Text(
    "ERR Torc was started without a data directory: nothing can be saved. Start it with 'appendonly yes' or with 'save' \
     points, and 'dir' set to the directory that shall have the data",
);
