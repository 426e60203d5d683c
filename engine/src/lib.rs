//! Every decision of Torc, as functions of their inputs.
#![deny(unsafe_code)]

pub mod config;
