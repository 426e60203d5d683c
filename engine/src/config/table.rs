//! The rows, in alphabetical order (a lookup is a binary search; a test checks it).

use super::Change::{AtStart, ByDebug, Protected, RunTime};
use super::Kind::*;
use super::Shown::{ByName, InFilesOnly};
use super::State::{Applied, Include, OnlyOff, WithoutEffect};
use super::{
    Change, ClientBound, Cores, DATA_DIR, Kind, LogLevel, OutputLimits, Protection, QUERY_BUFFER_BYTES_CEILING, Row,
    SavePoint, Shown, State, Value, Wakeup,
};
use crate::limits;
use crate::log::{FsyncPolicy, Recovery};
use crate::store::Policy;

// Bounds as Redis has them, by the C type that holds the value there.
const INT_MAX: i64 = i32::MAX as i64;
const UINT_MAX: i64 = u32::MAX as i64;
const LONG_MAX: u64 = i64::MAX as u64;
const MIB: u64 = 1 << 20;

const INT: Kind = Integer { min: i32::MIN as i64, max: INT_MAX };
const NATURAL: Kind = Integer { min: 0, max: INT_MAX };
const LENGTH: Kind = Integer { min: 0, max: i64::MAX };
const PERCENT: Kind = Integer { min: 1, max: 99 };
const PORT: Kind = Integer { min: 0, max: u16::MAX as i64 };
const BYTES: Kind = Memory { min: 0, max: LONG_MAX };
const FAULT_MS: Kind = Integer { min: 0, max: limits::FAULT_DELAY_MS_MAX as i64 };
const PROTECTED: Kind = Enum(&["no", "yes", "local"]);
const LOG_LEVELS: &[&str] = &["debug", "verbose", "notice", "warning", "nothing"];
const POLICIES: &[&str] = &Policy::names();
const FACILITIES: &[&str] = &["user", "local0", "local1", "local2", "local3", "local4", "local5", "local6", "local7"];

// A line per row, so that the table can be read as one.
#[rustfmt::skip]
pub(super) static ROWS: &[Row] = &[
    row("acl-pubsub-default", Enum(&["allchannels", "resetchannels"]), "resetchannels", RunTime, WithoutEffect, "Channels a new user may use."),
    row("aclfile", Text, "", AtStart, OnlyOff { until: "Torc has no users yet" }, "File with users."),
    row("acllog-max-len", LENGTH, "128", RunTime, WithoutEffect, "Length of the log of refused accesses."),
    row("active-defrag-cycle-max", PERCENT, "25", RunTime, WithoutEffect, "Most effort of active defragmentation, percent of a core."),
    row("active-defrag-cycle-min", PERCENT, "1", RunTime, WithoutEffect, "Least effort of active defragmentation, percent of a core."),
    row("active-defrag-ignore-bytes", Memory { min: 1, max: LONG_MAX }, "100mb", RunTime, WithoutEffect, "Waste below which active defragmentation does nothing."),
    row("active-defrag-max-scan-fields", Integer { min: 1, max: i64::MAX }, "1000", RunTime, WithoutEffect, "Collections above this are defragmented on their own."),
    row("active-defrag-threshold-lower", Integer { min: 0, max: 1000 }, "10", RunTime, WithoutEffect, "Fragmentation at which active defragmentation starts, percent."),
    row("active-defrag-threshold-upper", Integer { min: 0, max: 1000 }, "100", RunTime, WithoutEffect, "Fragmentation at which it works hardest, percent."),
    row("active-expire-effort", Integer { min: 1, max: 10 }, "1", RunTime, WithoutEffect, "Effort to find expired keys."),
    row("activedefrag", Bool, "no", RunTime, WithoutEffect, "Defragment memory while running."),
    row("activerehashing", Bool, "yes", RunTime, WithoutEffect, "Rehash in the background."),
    row("admin-port", PORT, "0", AtStart, OnlyOff { until: "Torc has no admin listener yet" }, "Port for metrics and health over HTTP.").torc(),
    row("always-show-logo", Bool, "no", AtStart, WithoutEffect, "Show the logo at start."),
    row("aof-disable-auto-gc", Bool, "no", RunTime, WithoutEffect, "Keep old append-only files."),
    row("aof-load-truncated", Bool, "yes", RunTime, WithoutEffect, "Load an append-only file that ends early."),
    row("aof-rewrite-cpulist", Text, "", AtStart, WithoutEffect, "Cores of the append-only rewrite.").alias("aof_rewrite_cpulist"),
    row("aof-rewrite-incremental-fsync", Bool, "yes", RunTime, WithoutEffect, "Sync a rewritten append-only file piece by piece."),
    row("aof-timestamp-enabled", Bool, "no", RunTime, WithoutEffect, "Write times into the append-only file."),
    row("aof-use-rdb-preamble", Bool, "yes", RunTime, WithoutEffect, "Begin a rewritten append-only file with a snapshot."),
    row("append-segment-size", Memory { min: 4 << 20, max: 4 << 30 }, "100mb", AtStart, Applied(|config, value| config.segment_bytes = value.bytes()), "Length of a file of the log.").torc(),
    row("appenddirname", FileName, "appendonlydir", AtStart, WithoutEffect, "Directory of the append-only files."),
    row("appendfilename", FileName, "appendonly.aof", AtStart, WithoutEffect, "Base name of the append-only files."),
    row("appendfsync", Enum(&["everysec", "always", "no"]), "everysec", RunTime, Applied(|config, value| config.fsync = fsync(value)), "When the log is synced."),
    row("appendonly", Bool, "yes", RunTime, Applied(|config, value| config.append_only = value.bool()), "Log every write to disk."),
    row("auto-aof-rewrite-min-size", Memory { min: 0, max: LONG_MAX }, "64mb", RunTime, Applied(|config, value| config.rewrite_bytes_min = value.bytes()), "What is logged after a snapshot, at least, before the next one is taken by itself."),
    row("auto-aof-rewrite-percentage", NATURAL, "100", RunTime, Applied(|config, value| config.rewrite_percent = value.number()), "The same as a part of the size of the snapshot; 0: none is taken by itself."),
    row("bgsave-cpulist", Text, "", AtStart, WithoutEffect, "Cores of the snapshot process.").alias("bgsave_cpulist"),
    row("bind", Addresses, "127.0.0.1 -::1", AtStart, Applied(|config, value| config.bind = words(value)), "Addresses to listen on; '-' in front: may be missing; '*': all."),
    row("bind-source-addr", Text, "", RunTime, WithoutEffect, "Address for outgoing connections."),
    row("bio-cpulist", Text, "", AtStart, WithoutEffect, "Cores of background threads.").alias("bio_cpulist"),
    row("busy-poll-us", Integer { min: 0, max: 1000 }, "0", RunTime, Applied(|config, value| config.busy_poll_us = value.number()), "Microseconds a core polls before it sleeps.").torc(),
    row("busy-reply-threshold", Integer { min: 0, max: i64::MAX }, "5000", RunTime, WithoutEffect, "Milliseconds after which a script is called busy.").alias("lua-time-limit"),
    row("client-output-buffer-limit", OutputLimits, "normal 0 0 0 replica 256mb 64mb 60 pubsub 32mb 8mb 60", RunTime, Applied(|config, value| config.output_limits = limits(value)), "When a client that does not read is closed, per class."),
    row("client-query-buffer-limit", Memory { min: MIB, max: LONG_MAX }, "1gb", RunTime, Applied(|config, value| config.query_buffer_bytes_max = value.bytes().min(QUERY_BUFFER_BYTES_CEILING)), "Most bytes of a client's unfinished request."),
    row("cluster-allow-pubsubshard-when-down", Bool, "yes", RunTime, WithoutEffect, "Serve sharded channels while the cluster is down."),
    row("cluster-allow-reads-when-down", Bool, "no", RunTime, WithoutEffect, "Serve reads while the cluster is down."),
    row("cluster-allow-replica-migration", Bool, "yes", RunTime, WithoutEffect, "Let replicas move to orphaned primaries."),
    row("cluster-announce-bus-port", PORT, "0", RunTime, WithoutEffect, "Announced cluster bus port."),
    row("cluster-announce-hostname", Text, "", RunTime, WithoutEffect, "Announced host name."),
    row("cluster-announce-human-nodename", Text, "", RunTime, WithoutEffect, "Node name for people."),
    row("cluster-announce-ip", Text, "", RunTime, WithoutEffect, "Announced address."),
    row("cluster-announce-port", PORT, "0", RunTime, WithoutEffect, "Announced port."),
    row("cluster-announce-tls-port", PORT, "0", RunTime, WithoutEffect, "Announced TLS port."),
    row("cluster-config-file", Path, "nodes.conf", AtStart, WithoutEffect, "File with the cluster's nodes."),
    row("cluster-enabled", Bool, "no", AtStart, OnlyOff { until: "Torc has no cluster mode yet" }, "Be a node of a cluster."),
    row("cluster-link-sendbuf-limit", Memory { min: 0, max: u64::MAX }, "0", RunTime, WithoutEffect, "Bound of a cluster link's send buffer."),
    row("cluster-migration-barrier", NATURAL, "1", RunTime, WithoutEffect, "Replicas a primary keeps when others move."),
    row("cluster-node-timeout", Integer { min: 0, max: i64::MAX }, "15000", RunTime, WithoutEffect, "Milliseconds until a node counts as failing."),
    row("cluster-ping-interval", Integer { min: 0, max: i64::MAX }, "0", RunTime, WithoutEffect, "Debugging of the cluster bus.").shown(ByName),
    row("cluster-port", PORT, "0", AtStart, WithoutEffect, "Port of the cluster bus."),
    row("cluster-preferred-endpoint-type", Enum(&["ip", "hostname", "unknown-endpoint"]), "ip", RunTime, WithoutEffect, "How nodes are named to clients."),
    row("cluster-replica-no-failover", Bool, "no", RunTime, WithoutEffect, "Never take over by itself.").alias("cluster-slave-no-failover"),
    row("cluster-replica-validity-factor", NATURAL, "10", RunTime, WithoutEffect, "How stale a replica may be and still take over.").alias("cluster-slave-validity-factor"),
    row("cluster-require-full-coverage", Bool, "yes", RunTime, WithoutEffect, "Serve nothing while a slot has no owner."),
    row("core-port-base", PORT, "0", AtStart, OnlyOff { until: "Torc does not give each core its own port yet" }, "First of one port per core.").torc(),
    row("cores", Cores, "auto", AtStart, Applied(|config, value| config.cores = cores(value)), "Cores to use, one shard each: 'auto' or a list as '0-3,6'.").torc(),
    row("crash-log-enabled", Bool, "yes", RunTime, WithoutEffect, "Log a report at a crash."),
    row("crash-memcheck-enabled", Bool, "yes", RunTime, WithoutEffect, "Test memory at a crash."),
    row("daemonize", Bool, "no", AtStart, OnlyOff { until: "Torc stays in the foreground, run it under systemd or a container" }, "Go to the background."),
    row("databases", Integer { min: 1, max: 16 }, "16", AtStart, Applied(|config, value| config.databases = value.number()), "Number of databases."),
    row("dbfilename", FileName, "dump.rdb", Protected, WithoutEffect, "Name of the snapshot file."),
    row("debug-context", Text, "", RunTime, WithoutEffect, "Text for a crash report.").shown(ByName),
    row("dir", Path, DATA_DIR, Protected, Applied(|config, value| config.dir = value.text()), "Directory for the log and snapshots; made if there are any."),
    row("disable-thp", Bool, "yes", AtStart, WithoutEffect, "Turn transparent huge pages off for the process."),
    row("dynamic-hz", Bool, "yes", RunTime, WithoutEffect, "Raise hz with the number of clients."),
    row("enable-debug-assert", Bool, "no", AtStart, WithoutEffect, "Assertions of debug builds.").shown(ByName),
    row("enable-debug-command", PROTECTED, "no", AtStart, Applied(|config, value| config.debug_command = protection(value)), "Who may use DEBUG: nobody, everybody, or who connects from this machine."),
    row("enable-module-command", PROTECTED, "no", AtStart, WithoutEffect, "Who may use MODULE."),
    row("enable-protected-configs", PROTECTED, "no", AtStart, WithoutEffect, "Who may change protected parameters."),
    row("fault-hop-delay-ms", FAULT_MS, "0", ByDebug, Applied(|config, value| config.faults.hop_delay_ms = value.number()), "For tests: what shards tell each other arrives so much later.").torc(),
    row("fault-seed", Integer { min: 0, max: i64::MAX }, "0", ByDebug, Applied(|config, value| config.faults.seed = value.number()), "For tests: of the chances of other faults.").torc(),
    row("fault-snapshot-delay-ms", FAULT_MS, "0", ByDebug, Applied(|config, value| config.faults.snapshot_delay_ms = value.number()), "For tests: the write of each block of a snapshot ends so much later.").torc(),
    row("fault-wal-delay-ms", FAULT_MS, "0", ByDebug, Applied(|config, value| config.faults.wal_delay_ms = value.number()), "For tests: each write and sync of the log ends so much later.").torc(),
    row("fault-wal-fail-probability", Probability, "0", ByDebug, Applied(|config, value| config.faults.wal_fail_millionths = value.millionths()), "For tests: a write or sync of the log fails with EIO so often.").torc(),
    row("hash-max-listpack-entries", LENGTH, "512", RunTime, WithoutEffect, "Longest hash in compact form, fields.").alias("hash-max-ziplist-entries"),
    row("hash-max-listpack-value", BYTES, "64", RunTime, WithoutEffect, "Longest value in a hash in compact form.").alias("hash-max-ziplist-value"),
    row("hide-user-data-from-log", Bool, "no", RunTime, WithoutEffect, "Keep keys and values out of the log."),
    row("hll-sparse-max-bytes", BYTES, "3000", RunTime, WithoutEffect, "Longest HyperLogLog in sparse form."),
    row("hz", NATURAL, "10", RunTime, Applied(|config, value| config.hz = value.number::<u32>().clamp(1, 500)), "Rounds of housekeeping per second, 1 to 500."),
    row("ignore-warnings", Text, "", RunTime, WithoutEffect, "Start-up warnings not to give."),
    row("include", Words, "", AtStart, Include, "Read another file here; the last part of its path may have wildcards.").shown(InFilesOnly),
    row("io-threads", Integer { min: 1, max: 128 }, "1", AtStart, WithoutEffect, "Threads for I/O; see 'cores'."),
    row("io-threads-do-reads", Bool, "no", AtStart, WithoutEffect, "Whether I/O threads read; see 'cores'."),
    row("jemalloc-bg-thread", Bool, "yes", RunTime, WithoutEffect, "Purge memory in a thread."),
    row("key-load-delay", INT, "0", RunTime, WithoutEffect, "Debugging of loading.").shown(ByName),
    row("latency-monitor-threshold", Integer { min: 0, max: i64::MAX }, "0", RunTime, WithoutEffect, "Milliseconds from which an event is recorded."),
    row("latency-tracking", Bool, "yes", RunTime, WithoutEffect, "Track the latency of each command."),
    row("latency-tracking-info-percentiles", Percentiles, "50 99 99.9", RunTime, WithoutEffect, "Percentiles shown by INFO."),
    row("lazyfree-lazy-eviction", Bool, "no", RunTime, WithoutEffect, "Free evicted values in the background; Torc always does if they are big."),
    row("lazyfree-lazy-expire", Bool, "no", RunTime, WithoutEffect, "The same for expired values."),
    row("lazyfree-lazy-server-del", Bool, "no", RunTime, WithoutEffect, "The same for overwritten values."),
    row("lazyfree-lazy-user-del", Bool, "no", RunTime, WithoutEffect, "Make DEL the same as UNLINK."),
    row("lazyfree-lazy-user-flush", Bool, "no", RunTime, Applied(|config, value| config.lazyfree_user_flush = value.bool()), "FLUSHALL and FLUSHDB answer before the memory is freed unless told otherwise. Either way nobody else waits."),
    row("lfu-decay-time", NATURAL, "1", RunTime, Applied(|config, value| config.lfu_decay_minutes = value.number()), "Minutes after which a use counter loses one."),
    row("lfu-log-factor", NATURAL, "10", RunTime, Applied(|config, value| config.lfu_log_factor = value.number()), "How slowly a use counter grows."),
    row("list-compress-depth", NATURAL, "0", RunTime, WithoutEffect, "Uncompressed nodes at each end of a list."),
    row("list-max-listpack-size", INT, "-2", RunTime, WithoutEffect, "Size of a list node.").alias("list-max-ziplist-size"),
    row("list-max-ziplist-entries", Text, "", AtStart, WithoutEffect, "Accepted from old files.").shown(InFilesOnly),
    row("list-max-ziplist-value", Text, "", AtStart, WithoutEffect, "Accepted from old files.").shown(InFilesOnly),
    row("loading-process-events-interval-bytes", Integer { min: 1024, max: INT_MAX }, "2097152", RunTime, WithoutEffect, "Debugging of loading.").shown(ByName),
    row("loadmodule", Words, "", AtStart, OnlyOff { until: "Torc has no modules" }, "Load a module.").shown(InFilesOnly),
    row("locale-collate", Text, "", RunTime, WithoutEffect, "Locale that SORT compares by."),
    row("logfile", Text, "", AtStart, Applied(|config, value| config.logfile = value.text()), "File for the log; empty: standard output."),
    row("loglevel", Enum(LOG_LEVELS), "notice", AtStart, Applied(|config, value| config.loglevel = log_level(value)), "Least important messages that are logged."),
    row("lua-enable-deprecated-api", Bool, "no", AtStart, WithoutEffect, "Old functions for scripts.").alias("lua-enable-insecure-api").shown(ByName),
    row("lua-replicate-commands", Bool, "yes", AtStart, WithoutEffect, "Accepted from old files.").shown(InFilesOnly),
    row("masterauth", Secret, "", RunTime, WithoutEffect, "Password for the primary."),
    row("masteruser", Text, "", RunTime, WithoutEffect, "User for the primary."),
    row("max-new-connections-per-cycle", Integer { min: 1, max: 1000 }, "10", RunTime, WithoutEffect, "Connections accepted in one go."),
    row("max-new-tls-connections-per-cycle", Integer { min: 1, max: 1000 }, "1", RunTime, WithoutEffect, "TLS connections accepted in one go."),
    row("maxclients", Integer { min: 1, max: UINT_MAX }, "10000", RunTime, Applied(|config, value| config.maxclients = value.number()), "Most clients at a time."),
    row("maxmemory", Memory { min: 0, max: u64::MAX }, "0", RunTime, Applied(|config, value| config.bound_memory(value.bytes())), "Most memory for keys and clients; 0: no bound."),
    row("maxmemory-clients", MemoryOrPercent, "0", RunTime, Applied(|config, value| config.bound_clients(client_bound(value))), "Most memory for clients' buffers; 0, or a percentage while maxmemory is 0: 1 GiB."),
    row("maxmemory-eviction-tenacity", Integer { min: 0, max: 100 }, "10", RunTime, WithoutEffect, "How long one round of eviction may take."),
    row("maxmemory-policy", Enum(POLICIES), "noeviction", RunTime, Applied(|config, value| config.maxmemory_policy = policy(value)), "Which keys to evict."),
    row("maxmemory-samples", Integer { min: 1, max: 64 }, "5", RunTime, WithoutEffect, "Keys looked at to find one to evict."),
    row("min-replicas-max-lag", NATURAL, "10", RunTime, WithoutEffect, "Seconds after which a replica does not count.").alias("min-slaves-max-lag"),
    row("min-replicas-to-write", NATURAL, "0", RunTime, OnlyOff { until: "Torc has no replication yet" }, "Refuse writes with fewer replicas.").alias("min-slaves-to-write"),
    row("no-appendfsync-on-rewrite", Bool, "no", RunTime, WithoutEffect, "Do not sync while a snapshot is written."),
    row("notify-keyspace-events", EventClasses, "", RunTime, OnlyOff { until: "Torc does not publish keyspace events yet" }, "Events published about keys."),
    row("oom-score-adj", Enum(&["no", "yes", "relative", "absolute"]), "no", RunTime, WithoutEffect, "Tell the kernel whom to kill first."),
    row("oom-score-adj-values", OomScores, "0 200 800", RunTime, WithoutEffect, "The scores for oom-score-adj."),
    row("pidfile", Text, "", AtStart, Applied(|config, value| config.pidfile = value.text()), "File for the process id."),
    row("port", PORT, "6379", AtStart, Applied(|config, value| config.port = value.number()), "TCP port."),
    row("prefault", Bool, "yes", AtStart, Applied(|config, value| config.prefault = value.bool()), "Fill memory ahead of its use, in huge pages, by a thread of its own.").torc(),
    row("proc-title-template", Text, "{title} {listen-addr} {server-mode}", RunTime, WithoutEffect, "How the process is named."),
    row("propagation-error-behavior", Enum(&["ignore", "panic", "panic-on-replicas"]), "ignore", RunTime, WithoutEffect, "What a replication error does."),
    row("protected-mode", Bool, "yes", RunTime, Applied(|config, value| config.protected_mode = value.bool()), "Refuse other machines while there is no password."),
    row("proto-max-bulk-len", Memory { min: MIB, max: LONG_MAX }, "512mb", RunTime, Applied(|config, value| config.bulk_bytes_max = value.bytes()), "Longest argument of a request."),
    row("rdb-del-sync-files", Bool, "no", RunTime, WithoutEffect, "Delete snapshots made for replicas."),
    row("rdb-key-save-delay", INT, "0", RunTime, WithoutEffect, "Debugging of snapshots.").shown(ByName),
    row("rdb-save-incremental-fsync", Bool, "yes", RunTime, WithoutEffect, "Sync a snapshot piece by piece."),
    row("rdbchecksum", Bool, "yes", AtStart, WithoutEffect, "End a snapshot with a checksum."),
    row("rdbcompression", Bool, "yes", RunTime, WithoutEffect, "Compress values in a snapshot."),
    row("rename-command", Words, "", AtStart, OnlyOff { until: "Torc does not rename commands" }, "Give a command another name.").shown(InFilesOnly),
    row("repl-backlog-size", Memory { min: 1, max: LONG_MAX }, "1mb", RunTime, WithoutEffect, "Size of the replication backlog."),
    row("repl-backlog-ttl", LENGTH, "3600", RunTime, WithoutEffect, "Seconds the backlog is kept without replicas."),
    row("repl-disable-tcp-nodelay", Bool, "no", RunTime, WithoutEffect, "Trade latency for packets towards replicas."),
    row("repl-diskless-load", Enum(&["disabled", "on-empty-db", "swapdb"]), "disabled", RunTime, WithoutEffect, "How a replica loads."),
    row("repl-diskless-sync", Bool, "yes", RunTime, WithoutEffect, "Send snapshots to replicas without a file."),
    row("repl-diskless-sync-delay", NATURAL, "5", RunTime, WithoutEffect, "Seconds to wait for more replicas."),
    row("repl-diskless-sync-max-replicas", NATURAL, "0", RunTime, WithoutEffect, "Replicas not to wait beyond."),
    row("repl-ping-replica-period", Integer { min: 1, max: INT_MAX }, "10", RunTime, WithoutEffect, "Seconds between pings to replicas.").alias("repl-ping-slave-period"),
    row("repl-timeout", Integer { min: 1, max: INT_MAX }, "60", RunTime, WithoutEffect, "Seconds until a replication link counts as dead."),
    row("replica-announce-ip", Text, "", RunTime, WithoutEffect, "Announced address of a replica.").alias("slave-announce-ip"),
    row("replica-announce-port", PORT, "0", RunTime, WithoutEffect, "Announced port of a replica.").alias("slave-announce-port"),
    row("replica-announced", Bool, "yes", RunTime, WithoutEffect, "Show the replica to Sentinel."),
    row("replica-ignore-disk-write-errors", Bool, "no", RunTime, WithoutEffect, "Go on as a replica when the disk fails."),
    row("replica-ignore-maxmemory", Bool, "yes", RunTime, WithoutEffect, "Leave eviction to the primary.").alias("slave-ignore-maxmemory"),
    row("replica-lazy-flush", Bool, "no", RunTime, WithoutEffect, "Free old data in the background before a full sync.").alias("slave-lazy-flush"),
    row("replica-priority", NATURAL, "100", RunTime, WithoutEffect, "Rank at promotion.").alias("slave-priority"),
    row("replica-read-only", Bool, "yes", RunTime, WithoutEffect, "Refuse writes on a replica.").alias("slave-read-only"),
    row("replica-serve-stale-data", Bool, "yes", RunTime, WithoutEffect, "Answer while the primary is away.").alias("slave-serve-stale-data"),
    row("replicaof", Primary, "", AtStart, OnlyOff { until: "Torc has no replication yet" }, "Be a replica of a server.").alias("slaveof"),
    row("requirepass", Secret, "", RunTime, Applied(|config, value| config.requirepass = secret(value)), "Password of the default user."),
    row("sanitize-dump-payload", Enum(&["no", "yes", "clients"]), "no", RunTime, WithoutEffect, "Check values of RESTORE deeply."),
    row("save", SavePoints, "", RunTime, Applied(|config, value| config.save_points = save_points(value)), "When to save by itself: so many seconds after the last time, if there were so many changes."),
    row("server-cpulist", Text, "", AtStart, WithoutEffect, "Cores of the server; see 'cores'.").alias("server_cpulist"),
    row("set-max-intset-entries", LENGTH, "512", RunTime, WithoutEffect, "Longest set of integers in compact form."),
    row("set-max-listpack-entries", LENGTH, "128", RunTime, WithoutEffect, "Longest set in compact form."),
    row("set-max-listpack-value", BYTES, "64", RunTime, WithoutEffect, "Longest member of a set in compact form."),
    row("set-proc-title", Bool, "yes", AtStart, WithoutEffect, "Rename the process."),
    row("shutdown-on-sigint", ShutdownFlags, "default", RunTime, WithoutEffect, "How SIGINT stops the server."),
    row("shutdown-on-sigterm", ShutdownFlags, "default", RunTime, WithoutEffect, "How SIGTERM stops the server."),
    row("shutdown-timeout", NATURAL, "10", RunTime, WithoutEffect, "Seconds to wait for replicas at shutdown."),
    row("slowlog-log-slower-than", Integer { min: -1, max: i64::MAX }, "10000", RunTime, WithoutEffect, "Microseconds from which a command is logged as slow."),
    row("slowlog-max-len", LENGTH, "128", RunTime, WithoutEffect, "Length of the log of slow commands."),
    row("snapshot-duty", Integer { min: 1, max: 50 }, "10", RunTime, Applied(|config, value| config.snapshot_duty = value.number()), "Percent of a busy core's time that a snapshot takes; an idle one takes it at once.").torc(),
    row("socket-mark-id", Integer { min: 0, max: UINT_MAX }, "0", AtStart, WithoutEffect, "Mark for packets."),
    row("stop-writes-on-bgsave-error", Bool, "yes", RunTime, Applied(|config, value| config.stop_writes_after_failed_save = value.bool()), "Refuse writes after a failed save, if there are save points."),
    row("stream-node-max-bytes", BYTES, "4096", RunTime, WithoutEffect, "Size of a stream node."),
    row("stream-node-max-entries", Integer { min: 0, max: i64::MAX }, "100", RunTime, WithoutEffect, "Entries of a stream node."),
    row("supervised", Enum(&["upstart", "systemd", "auto", "no"]), "no", AtStart, WithoutEffect, "Tell a supervisor when ready."),
    row("syslog-enabled", Bool, "no", AtStart, WithoutEffect, "Log to syslog."),
    row("syslog-facility", Enum(FACILITIES), "local0", AtStart, WithoutEffect, "Facility for syslog."),
    row("syslog-ident", Text, "redis", AtStart, WithoutEffect, "Name for syslog."),
    row("tcp-backlog", NATURAL, "511", AtStart, Applied(|config, value| config.tcp_backlog = value.number()), "Connections the kernel holds until they are accepted."),
    row("tcp-keepalive", NATURAL, "300", RunTime, Applied(|config, value| config.tcp_keepalive_s = value.number()), "Seconds until a silent peer is probed; 0: never."),
    row("timeout", NATURAL, "0", RunTime, Applied(|config, value| config.timeout_s = value.number()), "Seconds until a silent client is closed; 0: never."),
    row("tls-auth-clients", Enum(&["no", "yes", "optional"]), "yes", RunTime, WithoutEffect, "Whether clients need a certificate."),
    row("tls-ca-cert-dir", Text, "", RunTime, WithoutEffect, "Directory of trusted certificates."),
    row("tls-ca-cert-file", Text, "", RunTime, WithoutEffect, "File of trusted certificates."),
    row("tls-cert-file", Text, "", RunTime, WithoutEffect, "Certificate."),
    row("tls-ciphers", Text, "", RunTime, WithoutEffect, "Ciphers up to TLS 1.2."),
    row("tls-ciphersuites", Text, "", RunTime, WithoutEffect, "Ciphers of TLS 1.3."),
    row("tls-client-cert-file", Text, "", RunTime, WithoutEffect, "Certificate for outgoing connections."),
    row("tls-client-key-file", Text, "", RunTime, WithoutEffect, "Key for outgoing connections."),
    row("tls-client-key-file-pass", Secret, "", RunTime, WithoutEffect, "Password of that key."),
    row("tls-cluster", Bool, "no", RunTime, WithoutEffect, "TLS between cluster nodes."),
    row("tls-dh-params-file", Text, "", RunTime, WithoutEffect, "Diffie-Hellman parameters."),
    row("tls-key-file", Text, "", RunTime, WithoutEffect, "Key of the certificate."),
    row("tls-key-file-pass", Secret, "", RunTime, WithoutEffect, "Password of the key."),
    row("tls-port", PORT, "0", RunTime, OnlyOff { until: "Torc has no TLS yet" }, "TCP port for TLS."),
    row("tls-prefer-server-ciphers", Bool, "no", RunTime, WithoutEffect, "Choose the cipher by the server's order."),
    row("tls-protocols", Text, "", RunTime, WithoutEffect, "TLS versions."),
    row("tls-replication", Bool, "no", RunTime, WithoutEffect, "TLS towards the primary."),
    row("tls-session-cache-size", NATURAL, "20480", RunTime, WithoutEffect, "TLS sessions kept."),
    row("tls-session-cache-timeout", NATURAL, "300", RunTime, WithoutEffect, "Seconds a TLS session is kept."),
    row("tls-session-caching", Bool, "yes", RunTime, WithoutEffect, "Keep TLS sessions."),
    row("tracking-table-max-keys", LENGTH, "1000000", RunTime, WithoutEffect, "Most keys remembered for client-side caching."),
    row("unixsocket", Text, "", AtStart, OnlyOff { until: "Torc does not listen on Unix sockets yet" }, "Path of a Unix socket."),
    row("unixsocketperm", Octal { max: 0o777 }, "0", AtStart, WithoutEffect, "Permissions of the Unix socket."),
    row("use-exit-on-panic", Bool, "no", RunTime, WithoutEffect, "Debugging of crashes.").shown(ByName),
    row("user", Words, "", AtStart, OnlyOff { until: "Torc has no users yet" }, "Define a user.").shown(InFilesOnly),
    row("wakeup", Enum(&["auto", "ring", "eventfd"]), "auto", AtStart, Applied(|config, value| config.wakeup = wakeup(value)), "How one core wakes another.").torc(),
    row("wal-recovery", Enum(&["tail", "strict", "salvage"]), "tail", AtStart, Applied(|config, value| config.recovery = recovery(value)), "What a start takes of a log: tail cuts off what a crash tore and refuses damage; strict takes only what a clean stop sealed, so not after a kill; salvage leaves damage out.").torc(),
    row("watchdog-period", NATURAL, "0", RunTime, WithoutEffect, "Debugging of stalls.").shown(ByName),
    row("zset-max-listpack-entries", LENGTH, "128", RunTime, WithoutEffect, "Longest sorted set in compact form.").alias("zset-max-ziplist-entries"),
    row("zset-max-listpack-value", BYTES, "64", RunTime, WithoutEffect, "Longest member of a sorted set in compact form.").alias("zset-max-ziplist-value"),
];

const fn row(
    name: &'static str,
    kind: Kind,
    default: &'static str,
    change: Change,
    state: State,
    help: &'static str,
) -> Row {
    Row { name, alias: None, kind, default, change, state, shown: Shown::Everywhere, own: false, help }
}

impl Row {
    const fn alias(mut self, alias: &'static str) -> Row {
        self.alias = Some(alias);
        self
    }

    const fn shown(mut self, shown: Shown) -> Row {
        self.shown = shown;
        self
    }

    const fn torc(mut self) -> Row {
        self.own = true;
        self
    }
}

// What the rows above need beyond numbers. Each takes the value its row's kind gives.

fn words(value: &Value) -> Vec<String> {
    let Value::Words(words) = value else { panic!("the row is not a list: {value:?}") };
    words.clone()
}

fn secret(value: &Value) -> Vec<u8> {
    let Value::Secret(bytes) = value else { panic!("the row is not a secret: {value:?}") };
    bytes.clone()
}

fn limits(value: &Value) -> OutputLimits {
    let Value::Limits(limits) = value else { panic!("the row is not limits: {value:?}") };
    *limits
}

fn cores(value: &Value) -> Cores {
    let Value::Cores(cores) = value else { panic!("the row is not cores: {value:?}") };
    cores.clone()
}

fn policy(value: &Value) -> Policy {
    let Value::Word(name) = value else { panic!("the row is not a word: {value:?}") };
    Policy::from_name(name).expect("the row's words are the policies' names")
}

fn save_points(value: &Value) -> Vec<SavePoint> {
    let Value::Words(words) = value else { panic!("the row is not save points: {value:?}") };
    let number = |word: &String| word.parse().expect("a save point is made of numbers");
    words.chunks_exact(2).map(|pair| SavePoint { seconds: number(&pair[0]), changes: number(&pair[1]) }).collect()
}

fn client_bound(value: &Value) -> ClientBound {
    match value {
        Value::Bytes(bytes) => ClientBound::Bytes(*bytes),
        Value::Percent(percent) => ClientBound::Percent(*percent),
        other => panic!("the row is not a memory size: {other:?}"),
    }
}

fn log_level(value: &Value) -> LogLevel {
    match value {
        Value::Word("debug") => LogLevel::Debug,
        Value::Word("verbose") => LogLevel::Verbose,
        Value::Word("notice") => LogLevel::Notice,
        Value::Word("warning") => LogLevel::Warning,
        Value::Word("nothing") => LogLevel::Nothing,
        other => panic!("not among LOG_LEVELS: {other:?}"),
    }
}

fn protection(value: &Value) -> Protection {
    match value {
        Value::Word("no") => Protection::No,
        Value::Word("yes") => Protection::Yes,
        Value::Word("local") => Protection::Local,
        other => panic!("not a protection: {other:?}"),
    }
}

fn fsync(value: &Value) -> FsyncPolicy {
    match value {
        Value::Word("always") => FsyncPolicy::Always,
        Value::Word("everysec") => FsyncPolicy::EverySec,
        Value::Word("no") => FsyncPolicy::No,
        other => panic!("not a policy of syncing: {other:?}"),
    }
}

fn recovery(value: &Value) -> Recovery {
    match value {
        Value::Word("tail") => Recovery::Tail,
        Value::Word("strict") => Recovery::Strict,
        Value::Word("salvage") => Recovery::Salvage,
        other => panic!("not a recovery: {other:?}"),
    }
}

fn wakeup(value: &Value) -> Wakeup {
    match value {
        Value::Word("auto") => Wakeup::Auto,
        Value::Word("ring") => Wakeup::Ring,
        Value::Word("eventfd") => Wakeup::Eventfd,
        other => panic!("not a wakeup: {other:?}"),
    }
}
