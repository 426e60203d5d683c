//! INFO: sections of `name:value` lines about the process.

use std::fmt::Write;

use super::memory::{Figures, human};
use super::report::{Report, Source, counters};
use super::{Call, Command, Handler, Merge, NO_KEYS, Route, Row, flag};
use crate::machine::SaveKind;

/// The version of Redis whose behaviour is promised; clients switch features on by it.
pub const REDIS_VERSION: &str = "7.2.4";
/// Torc's own version.
pub const TORC_VERSION: &str = env!("CARGO_PKG_VERSION");

pub(super) const ROWS: &[Row] = &[Row {
    name: "info",
    arity: -1,
    flags: flag::LOADING | flag::STALE | flag::DANGEROUS,
    keys: NO_KEYS,
    route: Route::All(Merge::Report(Report::Info)),
    handler: Handler::Shard(counters),
    group: "server",
    summary: "Returns information and statistics about the server.",
    complexity: "O(1)",
    since: "1.0.0",
    subcommands: &[],
}];

type Section = fn(&mut String, &Source<'_>) -> std::fmt::Result;

/// The sections in Redis's order; the flag says whether INFO without arguments shows it.
const SECTIONS: &[(&str, bool, Section)] = &[
    ("server", true, server),
    ("clients", true, clients),
    ("memory", true, memory),
    ("persistence", true, persistence),
    ("stats", true, stats),
    ("replication", true, replication),
    ("cpu", true, cpu),
    ("modules", true, modules),
    ("commandstats", false, commandstats),
    ("errorstats", true, errorstats),
    ("cluster", true, cluster),
    ("keyspace", true, keyspace),
    ("torc", true, torc),
];

/// Whether a command is INFO with the section that tells how many keys there are: it has observed all of them.
pub(crate) fn counts_keys(call: &Call<'_>) -> bool {
    if !matches!(call.command.row().route, Route::All(Merge::Report(Report::Info))) {
        return false;
    }
    let shown = [&b"keyspace"[..], b"default", b"all", b"everything"];
    let is_shown = |word: &[u8]| shown.iter().any(|name| word.eq_ignore_ascii_case(name));
    call.args().len() == 1 || call.args().iter_from(1).any(is_shown)
}

/// The text of INFO for the sections asked for (none: the default ones).
pub(super) fn text(source: &Source<'_>) -> String {
    let wanted = source.words;
    let asked = |name: &str| wanted.iter().any(|word| word.eq_ignore_ascii_case(name.as_bytes()));
    let everything = asked("all") || asked("everything");
    let defaults = wanted.is_empty() || asked("default");
    let mut text = String::new();
    for (name, default, write) in SECTIONS {
        if everything || defaults && *default || asked(name) {
            if !text.is_empty() {
                text.push_str("\r\n");
            }
            write(&mut text, source).expect("writing to a String does not fail");
        }
    }
    text
}

/// Writes `name:value` lines.
macro_rules! lines {
    ($text:expr, $title:literal, $($name:literal: $value:expr),* $(,)?) => {{
        write!($text, concat!("# ", $title, "\r\n"))?;
        $(write!($text, concat!($name, ":{}\r\n"), $value)?;)*
        Ok(())
    }};
}

fn server(text: &mut String, source: &Source<'_>) -> std::fmt::Result {
    let facts = source.facts;
    lines!(text, "Server",
        "redis_version": REDIS_VERSION,
        "torc_version": TORC_VERSION,
        "redis_git_sha1": "00000000",
        "redis_git_dirty": 0,
        "redis_build_id": "0",
        "redis_mode": "standalone",
        "os": facts.os,
        "arch_bits": usize::BITS,
        "monotonic_clock": "POSIX clock_gettime",
        "multiplexing_api": "io_uring",
        "process_id": facts.process_id,
        "process_supervised": "no",
        "run_id": facts.run_id,
        "tcp_port": source.config.port,
        "uptime_in_seconds": facts.uptime_s,
        "uptime_in_days": facts.uptime_s / 86_400,
        "hz": source.config.hz,
        "configured_hz": source.config.hz,
        "executable": facts.executable,
        "config_file": facts.config_file,
        "io_threads_active": 0,
    )
}

fn clients(text: &mut String, source: &Source<'_>) -> std::fmt::Result {
    lines!(text, "Clients",
        "connected_clients": source.stats.counters.connected_clients,
        "cluster_connections": 0,
        "maxclients": source.config.maxclients,
        "client_recent_max_input_buffer": 0,
        "client_recent_max_output_buffer": 0,
        "blocked_clients": 0,
        "tracking_clients": 0,
        "clients_in_timeout_table": 0,
    )
}

fn memory(text: &mut String, source: &Source<'_>) -> std::fmt::Result {
    let figures = Figures::new(source);
    let Figures { used, peak, rss, overhead, dataset, active, .. } = figures;
    let counters = &source.stats.counters;
    let config = source.config;
    let percent = |value: f64| format!("{value:.2}%");
    let ratio = |value: f64| format!("{value:.2}");
    lines!(text, "Memory",
        "used_memory": used,
        "used_memory_human": human(used),
        "used_memory_rss": rss,
        "used_memory_rss_human": human(rss),
        "used_memory_peak": peak,
        "used_memory_peak_human": human(peak),
        "used_memory_peak_perc": percent(figures.peak_percent()),
        "used_memory_overhead": overhead,
        "used_memory_startup": 0,
        "used_memory_dataset": dataset,
        "used_memory_dataset_perc": percent(figures.dataset_percent()),
        "allocator_allocated": used,
        "allocator_active": active,
        "allocator_resident": active,
        "total_system_memory": source.facts.system_memory_bytes,
        "total_system_memory_human": human(source.facts.system_memory_bytes),
        "used_memory_lua": 0,
        "used_memory_vm_eval": 0,
        "used_memory_lua_human": human(0),
        "used_memory_scripts_eval": 0,
        "number_of_cached_scripts": 0,
        "number_of_functions": 0,
        "number_of_libraries": 0,
        "used_memory_vm_functions": 0,
        "used_memory_vm_total": 0,
        "used_memory_vm_total_human": human(0),
        "used_memory_functions": 0,
        "used_memory_scripts": 0,
        "used_memory_scripts_human": human(0),
        "maxmemory": config.maxmemory,
        "maxmemory_human": human(config.maxmemory),
        "maxmemory_policy": config.maxmemory_policy.name(),
        "maxmemory_held_back": source.facts.held_back_bytes,
        "allocator_frag_ratio": ratio(figures.slack_ratio()),
        "allocator_frag_bytes": active - used,
        "allocator_rss_ratio": ratio(1.0),
        "allocator_rss_bytes": 0,
        "rss_overhead_ratio": ratio(figures.rss_overhead_ratio()),
        "rss_overhead_bytes": rss as i64 - active as i64,
        "mem_fragmentation_ratio": ratio(figures.fragmentation()),
        "mem_fragmentation_bytes": rss as i64 - used as i64,
        "mem_not_counted_for_evict": 0,
        "mem_replication_backlog": 0,
        "mem_total_replication_buffers": 0,
        "mem_clients_slaves": 0,
        "mem_clients_normal": counters.client_buffer_bytes,
        "mem_cluster_links": 0,
        "mem_aof_buffer": 0,
        "mem_allocator": source.facts.allocator,
        "active_defrag_running": 0,
        "lazyfree_pending_objects": counters.lazyfree_pending_objects,
        "lazyfreed_objects": counters.lazyfreed_objects,
    )
}

fn persistence(text: &mut String, source: &Source<'_>) -> std::fmt::Result {
    let (saves, counters, config) = (&source.facts.saves, &source.stats.counters, source.config);
    let now_s = source.now.0 / 1000;
    let is_running = |kind: SaveKind| saves.running.is_some_and(|(running, _)| running == kind);
    let status = |is_ok: bool| if is_ok { "ok" } else { "err" };
    let seconds = |seconds: Option<u64>| seconds.map_or(-1, |seconds| seconds as i64);
    let current = |kind: SaveKind| {
        seconds(saves.running.filter(|&(running, _)| running == kind).map(|(_, began_s)| now_s.saturating_sub(began_s)))
    };
    // Before there can be saves nothing was saved.
    let changes = if saves.is_available { saves.changes } else { counters.changes };
    let written: std::fmt::Result = lines!(text, "Persistence",
        "loading": source.facts.loading.is_some() as u8,
        "async_loading": 0,
        "current_cow_peak": 0,
        "current_cow_size": 0,
        "current_cow_size_age": 0,
        "current_fork_perc": format!("{:.2}", 100.0 * counters.saved_keys as f64 / counters.keys_to_save.max(1) as f64),
        "current_save_keys_processed": counters.saved_keys,
        "current_save_keys_total": counters.keys_to_save,
        "rdb_changes_since_last_save": changes,
        "rdb_bgsave_in_progress": is_running(SaveKind::Snapshot) as u8,
        "rdb_last_save_time": saves.last_save_s,
        "rdb_last_bgsave_status": status(saves.last_save_ok),
        "rdb_last_bgsave_time_sec": seconds(saves.last_save_took_s),
        "rdb_current_bgsave_time_sec": current(SaveKind::Snapshot),
        "rdb_saves": saves.saves,
        "rdb_last_cow_size": 0,
        "rdb_last_load_keys_expired": counters.load_expired_keys,
        "rdb_last_load_keys_loaded": counters.loaded_keys,
        "aof_enabled": config.append_only as u8,
        "aof_rewrite_in_progress": is_running(SaveKind::Rewrite) as u8,
        "aof_rewrite_scheduled": (saves.scheduled == Some(SaveKind::Rewrite)) as u8,
        "aof_last_rewrite_time_sec": seconds(saves.last_rewrite_took_s),
        "aof_current_rewrite_time_sec": current(SaveKind::Rewrite),
        "aof_last_bgrewrite_status": status(saves.last_rewrite_ok),
        "aof_rewrites": saves.rewrites,
        "aof_rewrites_consecutive_failures": if saves.last_rewrite_ok { 0 } else { saves.failures_in_a_row },
        "aof_last_write_status": status(counters.log_refuses_writes == 0),
        "aof_last_cow_size": 0,
        "module_fork_in_progress": 0,
        "module_fork_last_cow_size": 0,
    );
    written?;
    if config.append_only {
        write!(
            text,
            "aof_current_size:{}\r\naof_base_size:{}\r\naof_pending_rewrite:0\r\naof_buffer_length:{}\r\n\
             aof_pending_bio_fsync:{}\r\naof_delayed_fsync:{}\r\n",
            saves.snapshot_bytes + saves.log_bytes,
            saves.snapshot_bytes,
            counters.log_pending_bytes,
            counters.log_flushes_pending,
            counters.log_flushes_delayed,
        )?;
    }
    let Some(loading) = source.facts.loading else { return Ok(()) };
    let percent = loading.loaded_bytes as f64 * 100.0 / loading.total_bytes.max(1) as f64;
    write!(
        text,
        "loading_start_time:{}\r\nloading_total_bytes:{}\r\nloading_loaded_bytes:{}\r\nloading_loaded_perc:{percent:.2}\r\n\
         loading_eta_seconds:{}\r\n",
        loading.started_s, loading.total_bytes, loading.loaded_bytes, loading.eta_s,
    )
}

fn stats(text: &mut String, source: &Source<'_>) -> std::fmt::Result {
    let counters = &source.stats.counters;
    lines!(text, "Stats",
        "total_connections_received": counters.total_connections_received,
        "total_commands_processed": counters.total_commands_processed,
        "total_net_input_bytes": counters.total_net_input_bytes,
        "total_net_output_bytes": counters.total_net_output_bytes,
        "rejected_connections": counters.rejected_connections,
        "sync_full": 0,
        "sync_partial_ok": 0,
        "sync_partial_err": 0,
        "expired_keys": counters.expired_keys,
        "evicted_keys": counters.evicted_keys,
        "evicted_clients": counters.evicted_clients,
        "total_eviction_exceeded_time": counters.eviction_exceeded_ms + counters.eviction_exceeded_now_ms,
        "current_eviction_exceeded_time": counters.eviction_exceeded_now_ms,
        "keyspace_hits": counters.keyspace_hits,
        "keyspace_misses": counters.keyspace_misses,
        "pubsub_channels": 0,
        "pubsub_patterns": 0,
        "latest_fork_usec": 0,
        "total_forks": 0,
        "client_output_buffer_limit_disconnections": counters.client_output_buffer_limit_disconnections,
        "total_error_replies": counters.total_error_replies,
    )
}

fn replication(text: &mut String, _: &Source<'_>) -> std::fmt::Result {
    lines!(text, "Replication",
        "role": "master",
        "connected_slaves": 0,
        "master_failover_state": "no-failover",
        "master_replid": "0000000000000000000000000000000000000000",
        "master_replid2": "0000000000000000000000000000000000000000",
        "master_repl_offset": 0,
        "second_repl_offset": -1,
        "repl_backlog_active": 0,
        "repl_backlog_size": 0,
        "repl_backlog_first_byte_offset": 0,
        "repl_backlog_histlen": 0,
    )
}

fn cpu(text: &mut String, source: &Source<'_>) -> std::fmt::Result {
    let facts = source.facts;
    let seconds = |micros: u64| format!("{}.{:06}", micros / 1_000_000, micros % 1_000_000);
    lines!(text, "CPU",
        "used_cpu_sys": seconds(facts.cpu_system_us),
        "used_cpu_user": seconds(facts.cpu_user_us),
        "used_cpu_sys_children": seconds(0),
        "used_cpu_user_children": seconds(0),
    )
}

fn modules(text: &mut String, _: &Source<'_>) -> std::fmt::Result {
    lines!(text, "Modules",)
}

fn commandstats(text: &mut String, source: &Source<'_>) -> std::fmt::Result {
    text.push_str("# Commandstats\r\n");
    for (command, counters) in Command::all().zip(&source.stats.commands) {
        if counters.calls + counters.rejected == 0 {
            continue;
        }
        // Durations are sampled: what was timed stands for the rest.
        let per_call =
            if counters.timed == 0 { 0.0 } else { counters.timed_ns as f64 / counters.timed as f64 / 1000.0 };
        write!(
            text,
            "cmdstat_{}:calls={},usec={:.0},usec_per_call={per_call:.2},rejected_calls={},failed_calls={}\r\n",
            command.row().name,
            counters.calls,
            per_call * counters.calls as f64,
            counters.rejected,
            counters.failed,
        )?;
    }
    Ok(())
}

fn errorstats(text: &mut String, _: &Source<'_>) -> std::fmt::Result {
    lines!(text, "Errorstats",)
}

fn cluster(text: &mut String, _: &Source<'_>) -> std::fmt::Result {
    lines!(text, "Cluster", "cluster_enabled": 0)
}

fn keyspace(text: &mut String, source: &Source<'_>) -> std::fmt::Result {
    text.push_str("# Keyspace\r\n");
    for (db, counters) in source.stats.databases.iter().enumerate() {
        if counters.keys > 0 {
            write!(text, "db{db}:keys={},expires={},avg_ttl=0\r\n", counters.keys, counters.expiring)?;
        }
    }
    Ok(())
}

fn torc(text: &mut String, source: &Source<'_>) -> std::fmt::Result {
    let counters = &source.stats.counters;
    write!(
        text,
        "# Torc\r\ntorc_shards:{}\r\ntorc_forwarded_requests:{}\r\ntorc_turns:{}\r\ntorc_linear_commands:{}\r\n\
         torc_spare_buffer_bytes:{}\r\n",
        source.facts.clients.len(),
        counters.torc_forwarded_requests,
        counters.torc_turns,
        counters.torc_linear_commands,
        counters.spare_buffer_bytes,
    )?;
    for (shard, clients) in source.facts.clients.iter().enumerate() {
        write!(text, "torc_shard{shard}_clients:{clients}\r\n")?;
    }
    for (shard, stats) in source.shards.iter().enumerate() {
        write!(text, "torc_shard{shard}_used_memory:{}\r\n", stats.used_bytes())?;
        write!(text, "torc_shard{shard}_leased_memory:{}\r\n", stats.counters.leased_bytes)?;
    }
    Ok(())
}
