//! What the fuzz target `log` runs, kept in the crate so that its tests run it too and it cannot rot.
