//! Keys to slots.
