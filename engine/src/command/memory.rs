//! MEMORY: what one key takes, what the process takes, and what is wrong with that in plain words.

use std::fmt::Write;

use torc_protocol::resp::reply::ReplyWriter;

use super::client::write_help;
use super::object::{KEY_BEHIND, entry};
use super::report::{Report, Source, counters};
use super::{Call, Error, Handler, Home, Merge, NO_KEYS, Outcome, Owner, Result, Route, Row, flag, parse};
use crate::store::{SLOT_BYTES, Store};

const fn row(name: &'static str, arity: i32, route: Route, handler: Handler) -> Row {
    Row {
        name,
        arity,
        flags: 0,
        keys: NO_KEYS,
        route,
        handler,
        group: "server",
        summary: "",
        complexity: "O(1)",
        since: "4.0.0",
        subcommands: &[],
    }
}

const fn report_row(name: &'static str, report: Report) -> Row {
    row(name, 2, Route::All(Merge::Report(report)), Handler::Shard(counters))
}

pub(super) const ROWS: &[Row] = &[Row {
    summary: "A container for memory diagnostics commands.",
    complexity: "Depends on subcommand.",
    subcommands: SUBCOMMANDS,
    ..row("memory", -2, Route::Container, Handler::None)
}];

const SUBCOMMANDS: &[Row] = &[
    Row { summary: "Outputs a memory problems report.", ..report_row("memory|doctor", Report::MemoryDoctor) },
    Row {
        summary: "Returns the allocator statistics.",
        ..report_row("memory|malloc-stats", Report::MemoryMallocStats)
    },
    Row {
        summary: "Asks the allocator to release memory.",
        complexity: "O(1): the memory is given back in slices.",
        ..row("memory|purge", 2, Route::All(Merge::Ok), Handler::Shard(purge))
    },
    Row { summary: "Returns details about memory usage.", ..report_row("memory|stats", Report::MemoryStats) },
    Row {
        summary: "Estimates the memory usage of a key.",
        complexity: "O(1): it is known exactly.",
        flags: flag::READONLY | flag::KEYSPACE,
        keys: KEY_BEHIND,
        ..row("memory|usage", -3, Route::Key, Handler::Read(usage))
    },
    Row {
        summary: "Returns helpful text about the different subcommands.",
        flags: flag::LOADING | flag::STALE,
        ..row("memory|help", 2, Route::Home, Handler::Home(help))
    },
];

/// Begins at once what the next tick would: deleted entries' memory goes back to the system in slices.
fn purge(_: &Call<'_>, owner: &mut Owner<'_>, reply: &mut ReplyWriter<'_>) -> Result {
    *owner.compact = true;
    reply.ok();
    Ok(Outcome::Done)
}

/// Bytes of the entry, its value included wherever that is, and of its slot in the table.
fn usage(call: &Call<'_>, store: &Store, reply: &mut ReplyWriter<'_>) -> Result {
    let args = call.args();
    match args.len() {
        3 => {}
        // How many elements of a collection are looked at; a string is one.
        5 if args.get(3).eq_ignore_ascii_case(b"samples") => {
            if parse::integer(args.get(4))? < 0 {
                return Err(Error::Syntax);
            }
        }
        _ => return Err(Error::Syntax),
    }
    match entry(call, store) {
        None => reply.null(),
        Some(entry) => reply.integer((entry.memory_bytes() + SLOT_BYTES) as i64),
    }
    Ok(Outcome::Done)
}

fn help(home: &mut Home<'_>) -> Result {
    write_help(&mut home.writer(), "MEMORY", SUBCOMMANDS);
    Ok(Outcome::Done)
}

/// Memory of the process in bytes, as INFO and MEMORY show it.
pub(super) struct Figures {
    /// What `maxmemory` is compared with.
    pub used: u64,
    pub peak: u64,
    pub rss: u64,
    /// Of `used`: tables and client buffers.
    pub overhead: u64,
    /// Of `used`: keys and values.
    pub dataset: u64,
    /// `used`, and what is kept beside: free slots and pages, buffers for reuse.
    pub active: u64,
}

impl Figures {
    pub fn new(source: &Source<'_>) -> Figures {
        let counters = &source.stats.counters;
        let used = source.stats.used_bytes();
        let overhead = counters.table_bytes + counters.client_buffer_bytes;
        Figures {
            used,
            peak: source.facts.used_peak_bytes.max(used),
            rss: source.facts.rss_bytes,
            overhead,
            dataset: used - overhead,
            active: used + counters.slack_bytes + counters.spare_buffer_bytes,
        }
    }

    pub fn peak_percent(&self) -> f64 {
        ratio(self.used, self.peak) * 100.0
    }

    pub fn dataset_percent(&self) -> f64 {
        ratio(self.dataset, self.used) * 100.0
    }

    pub fn slack_ratio(&self) -> f64 {
        ratio(self.active, self.used)
    }

    pub fn rss_overhead_ratio(&self) -> f64 {
        ratio(self.rss, self.active)
    }

    pub fn fragmentation(&self) -> f64 {
        ratio(self.rss, self.used)
    }
}

/// 0 if there is nothing to divide by.
fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

/// Bytes as Redis abbreviates them.
pub(super) fn human(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["K", "M", "G", "T"];
    let mut value = bytes as f64;
    let mut unit = "B";
    for next in UNITS {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    if unit == "B" { format!("{bytes}B") } else { format!("{value:.2}{unit}") }
}

/// MEMORY STATS: Redis's map.
pub(super) fn write_stats(source: &Source<'_>, reply: &mut ReplyWriter<'_>) {
    enum Field {
        Bytes(u64),
        Difference(i64),
        Ratio(f64),
    }
    use Field::{Bytes, Difference, Ratio};
    let counters = &source.stats.counters;
    let figures = Figures::new(source);
    let Figures { used, peak, rss, overhead, dataset, active, .. } = figures;
    let keys: u64 = source.stats.databases.iter().map(|database| database.keys).sum();
    let before = [
        ("peak.allocated", Bytes(peak)),
        ("total.allocated", Bytes(used)),
        ("startup.allocated", Bytes(0)),
        ("replication.backlog", Bytes(0)),
        ("clients.slaves", Bytes(0)),
        ("clients.normal", Bytes(counters.client_buffer_bytes)),
        ("cluster.links", Bytes(0)),
        ("aof.buffer", Bytes(0)),
        ("lua.caches", Bytes(0)),
        ("functions.caches", Bytes(0)),
    ];
    let after = [
        ("overhead.total", Bytes(overhead)),
        ("keys.count", Bytes(keys)),
        ("keys.bytes-per-key", Bytes(used.checked_div(keys).unwrap_or(0))),
        ("dataset.bytes", Bytes(dataset)),
        ("dataset.percentage", Ratio(figures.dataset_percent())),
        ("peak.percentage", Ratio(figures.peak_percent())),
        ("allocator.allocated", Bytes(used)),
        ("allocator.active", Bytes(active)),
        ("allocator.resident", Bytes(active)),
        ("allocator-fragmentation.ratio", Ratio(figures.slack_ratio())),
        ("allocator-fragmentation.bytes", Bytes(active - used)),
        ("allocator-rss.ratio", Ratio(1.0)),
        ("allocator-rss.bytes", Bytes(0)),
        ("rss-overhead.ratio", Ratio(figures.rss_overhead_ratio())),
        ("rss-overhead.bytes", Difference(rss as i64 - active as i64)),
        ("fragmentation", Ratio(figures.fragmentation())),
        ("fragmentation.bytes", Difference(rss as i64 - used as i64)),
    ];
    let databases = source.stats.databases.iter().enumerate().filter(|(_, database)| database.keys > 0);
    reply.map(before.len() + databases.clone().count() + after.len());
    let write_fields = |reply: &mut ReplyWriter<'_>, fields: &[(&str, Field)]| {
        for (name, value) in fields {
            reply.bulk(name.as_bytes());
            match *value {
                Bytes(bytes) => reply.integer(bytes as i64),
                Difference(bytes) => reply.integer(bytes),
                Ratio(ratio) => reply.double(&ratio.to_string()),
            }
        }
    };
    write_fields(reply, &before);
    for (db, database) in databases {
        reply.bulk(format!("db.{db}").as_bytes());
        reply.map(2);
        // Expiry times lie with the keys, there is no table of them.
        let tables =
            [("overhead.hashtable.main", Bytes(database.table_bytes)), ("overhead.hashtable.expires", Bytes(0))];
        write_fields(reply, &tables);
    }
    write_fields(reply, &after);
}

/// MEMORY MALLOC-STATS: what each shard's entries lie in.
pub(super) fn allocations(source: &Source<'_>) -> String {
    let mut text = format!("Entries lie in an arena per database, all else comes from {}.\n", source.facts.allocator);
    for (shard, stats) in source.shards.iter().enumerate() {
        let counters = &stats.counters;
        writeln!(
            text,
            "shard {shard}: {} in slots, {} free in the arenas, {} in values over 16K, {} in tables, {} in client \
             buffers, {} in buffers kept for reuse",
            human(counters.slot_bytes),
            human(counters.slack_bytes),
            human(counters.outside_bytes),
            human(counters.table_bytes),
            human(counters.client_buffer_bytes),
            human(counters.spare_buffer_bytes),
        )
        .expect("writing to a String does not fail");
    }
    text
}

const MIB: u64 = 1 << 20;
/// With less there is nothing to say, as in Redis.
const DIAGNOSIS_BYTES_MIN: u64 = 5 * MIB;
/// Differences below this are nobody's trouble.
const NOTABLE_BYTES: u64 = 10 * MIB;
/// What each shard may have resident beside what is accounted for: the program, buffers that sockets are read into.
const RESIDENT_BESIDE_BYTES: u64 = 32 * MIB;
/// Bytes of buffers per client from which on they are called big, as in Redis.
const BIG_CLIENT_BYTES: u64 = 200 << 10;

/// MEMORY DOCTOR: one line for each thing that is not as it should be.
pub(super) fn diagnosis(source: &Source<'_>) -> String {
    let figures = Figures::new(source);
    let Figures { used, peak, rss, active, .. } = figures;
    let counters = &source.stats.counters;
    let (maxmemory, policy) = (source.config.maxmemory, source.config.maxmemory_policy);
    let system = source.facts.system_memory_bytes;
    let mut lines = Vec::new();
    if maxmemory > 0 && used > maxmemory {
        let what = if policy.evicts() { "keys are being evicted" } else { "writes are refused" };
        lines.push(format!("Over maxmemory: {} are used of {}, {what}.", human(used), human(maxmemory)));
    } else if maxmemory > 0 && !policy.evicts() && used >= maxmemory / 100 * 95 {
        lines.push(format!(
            "Nearly full: {} are used of {}, and maxmemory-policy noeviction refuses writes when that is passed. Raise \
             maxmemory, delete keys or choose a policy that evicts.",
            human(used),
            human(maxmemory)
        ));
    }
    let held_back = source.facts.held_back_bytes;
    if maxmemory > 0 && held_back > maxmemory / 20 {
        lines.push(format!(
            "{} of maxmemory are held back, because {} are resident where {} are used: what was deleted or replaced and is \
             not freed yet, or values whose sizes change. It is given back as the process becomes smaller.",
            human(held_back),
            human(rss),
            human(used)
        ));
    }
    let expiring: u64 = source.stats.databases.iter().map(|database| database.expiring).sum();
    if maxmemory > 0 && policy.volatile_only() && expiring == 0 && used >= maxmemory / 2 {
        lines.push(format!(
            "Nothing to evict: maxmemory-policy {} takes keys with an expiry time only, and there is none.",
            policy.name()
        ));
    }
    if system > 0 && maxmemory > system {
        lines.push(format!("maxmemory is {}, and the host has {} only.", human(maxmemory), human(system)));
    }
    if system > 0 && maxmemory == 0 && rss > system / 10 * 8 {
        lines.push(format!(
            "Nothing bounds the memory of keys (maxmemory is 0), and {} of the host's {} are resident.",
            human(rss),
            human(system)
        ));
    }
    if used < DIAGNOSIS_BYTES_MIN {
        if lines.is_empty() {
            return format!("Nothing to diagnose: the server is empty or nearly so ({} are used).\n", human(used));
        }
        return lines.join("\n") + "\n";
    }
    if peak > used / 2 * 3 {
        lines.push(format!(
            "The peak was {}, now {} are used. Resident memory may stay above what is used after a peak.",
            human(peak),
            human(used)
        ));
    }
    if counters.slack_bytes > NOTABLE_BYTES && counters.slack_bytes > used / 4 {
        lines.push(format!(
            "Deleted keys left {} that are not used. They are given back to the system in slices; MEMORY PURGE begins at \
             once.",
            human(counters.slack_bytes)
        ));
    }
    if rss > active + RESIDENT_BESIDE_BYTES * source.shards.len() as u64 && rss > active / 10 * 14 {
        lines.push(format!(
            "Resident memory ({}) is far above what keys and clients account for ({}): what was flushed and is not freed \
             yet, or fragmentation outside the arenas.",
            human(rss),
            human(active)
        ));
    }
    let clients = counters.connected_clients.max(1);
    if counters.client_buffer_bytes / clients > BIG_CLIENT_BYTES {
        lines.push(format!(
            "Clients' buffers are big: {} for {clients} clients. Somebody does not read the replies, or sends huge requests; \
             see CLIENT LIST and maxmemory-clients.",
            human(counters.client_buffer_bytes)
        ));
    }
    let heaviest = source.shards.iter().enumerate().max_by_key(|(_, shard)| shard.used_bytes());
    if let Some((shard, stats)) = heaviest
        && source.shards.len() > 1
        && stats.used_bytes() > NOTABLE_BYTES
        && stats.used_bytes() > used / 2
        // Half as much again as its share: of two shards, three quarters.
        && stats.used_bytes() / 3 > used / (2 * source.shards.len() as u64)
    {
        lines.push(format!(
            "Shard {shard} of {} holds {} of the {} used. Big values or many keys under one hash tag lie there, and its core \
             does most of the work.",
            source.shards.len(),
            human(stats.used_bytes()),
            human(used)
        ));
    }
    match lines.is_empty() {
        true => format!("No trouble found: {} are used, {} are resident.\n", human(used), human(rss)),
        false => lines.join("\n") + "\n",
    }
}
