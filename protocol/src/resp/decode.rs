//! Replies, read.
