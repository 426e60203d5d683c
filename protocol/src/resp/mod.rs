//! The Redis serialization protocol, versions 2 and 3.
//!
//! [`request`] reads what clients send, [`reply`] writes what they get, [`decode`] reads replies (load generator, tests,
//! later the client library), [`number`] is the decimal writing and reading that all of them share.

pub mod decode;
mod inline;
pub mod number;
pub mod reply;
pub mod request;
