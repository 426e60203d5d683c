//! Which keys go when memory is short: the policies of `maxmemory-policy`.

mod policy;

pub use policy::Policy;
