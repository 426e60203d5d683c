//! What the fuzz targets run (`engine/fuzz`), and what makes good inputs of it. The bodies lie beside what they test, so that
//! the tests run them too and they cannot rot; here is the short form of the campaigns, over the seeds and what comes of them.

mod input;
#[cfg(test)]
mod tests;

pub use crate::config::fuzz_body::config;
pub use crate::glob::fuzz_body::glob;
pub use crate::log::fuzz_body::{batch, log, manifest, segment};
pub use crate::snapshot::fuzz_body::snapshot;
pub(crate) use input::{Input, pages};
