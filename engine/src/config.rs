//! One row per parameter.
