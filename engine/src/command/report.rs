//! Reports about the process: every shard gives its counters, the client's shard adds them up and writes the reply.

use torc_protocol::resp::reply::ReplyWriter;

use super::{Call, Outcome, Owner, Result, info, memory};
use crate::config::Config;
use crate::id::Millis;
use crate::machine::MachineFacts;
use crate::stats::Stats;

/// What is made of the counters of all shards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Report {
    Info,
    MemoryStats,
    MemoryDoctor,
    MemoryMallocStats,
}

/// What a report is written from.
pub(super) struct Source<'a> {
    /// The command's arguments after its name.
    pub words: &'a [Vec<u8>],
    /// All shards together.
    pub stats: &'a Stats,
    /// By shard.
    pub shards: &'a [Stats],
    pub facts: &'a MachineFacts,
    pub config: &'a Config,
    pub now: Millis,
}

/// The handler of all of them: this shard's counters, for the merge.
pub(super) fn counters(_: &Call<'_>, owner: &mut Owner<'_>, reply: &mut ReplyWriter<'_>) -> Result {
    reply.bulk(&owner.stats.encode());
    Ok(Outcome::Done)
}

/// Writes the report that `counters`, one element for each shard, make.
pub(crate) fn write_report(
    report: Report,
    counters: &[&[u8]],
    words: &[Vec<u8>],
    facts: &MachineFacts,
    config: &Config,
    now: Millis,
    reply: &mut ReplyWriter<'_>,
) {
    let mut stats = Stats::new();
    let mut shards = Vec::with_capacity(counters.len());
    for counters in counters {
        stats.add_encoded(counters);
        let mut shard = Stats::new();
        shard.add_encoded(counters);
        shards.push(shard);
    }
    let source = Source { words, stats: &stats, shards: &shards, facts, config, now };
    match report {
        Report::Info => reply.verbatim(info::text(&source).as_bytes()),
        Report::MemoryStats => memory::write_stats(&source, reply),
        Report::MemoryDoctor => reply.verbatim(memory::diagnosis(&source).as_bytes()),
        Report::MemoryMallocStats => reply.verbatim(memory::allocations(&source).as_bytes()),
    }
}
