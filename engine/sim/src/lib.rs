//! A world from one seed.
