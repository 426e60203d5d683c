//! Torc's wire formats. Bytes become arguments, replies become bytes; nothing here does I/O, reads a clock or is unsafe.
//!
//! Start with [`resp::request::RequestParser`] (client bytes to argument [`args::Span`]s) and
//! [`resp::reply::ReplyWriter`] (replies in either dialect). [`slot`] maps a key to one of 16384 slots.
#![forbid(unsafe_code)]

pub mod args;
#[doc(hidden)]
pub mod fuzz_bodies;
pub mod limits;
pub mod resp;
pub mod slot;
