//! The table held against Redis 7, and every way to be wrong.

use super::*;

/// CONFIG GET * of Redis 7.0, and the names that 7.2 added.
const REDIS_7_NAMES: &str = "
    acl-pubsub-default aclfile acllog-max-len active-defrag-cycle-max active-defrag-cycle-min
    active-defrag-ignore-bytes active-defrag-max-scan-fields active-defrag-threshold-lower
    active-defrag-threshold-upper active-expire-effort activedefrag activerehashing
    always-show-logo aof-disable-auto-gc aof-load-truncated aof-rewrite-incremental-fsync
    aof-timestamp-enabled aof-use-rdb-preamble aof_rewrite_cpulist appenddirname appendfilename
    appendfsync appendonly auto-aof-rewrite-min-size auto-aof-rewrite-percentage bgsave_cpulist
    bind bind-source-addr bio_cpulist busy-reply-threshold client-output-buffer-limit
    client-query-buffer-limit cluster-allow-pubsubshard-when-down cluster-allow-reads-when-down
    cluster-allow-replica-migration cluster-announce-bus-port cluster-announce-hostname
    cluster-announce-ip cluster-announce-port cluster-announce-tls-port cluster-config-file
    cluster-enabled cluster-link-sendbuf-limit cluster-migration-barrier cluster-node-timeout
    cluster-port cluster-preferred-endpoint-type cluster-replica-no-failover
    cluster-replica-validity-factor cluster-require-full-coverage cluster-slave-no-failover
    cluster-slave-validity-factor crash-log-enabled crash-memcheck-enabled daemonize databases
    dbfilename dir disable-thp dynamic-hz enable-debug-command enable-module-command
    enable-protected-configs hash-max-listpack-entries hash-max-listpack-value
    hash-max-ziplist-entries hash-max-ziplist-value hll-sparse-max-bytes hz ignore-warnings
    io-threads io-threads-do-reads jemalloc-bg-thread latency-monitor-threshold latency-tracking
    latency-tracking-info-percentiles lazyfree-lazy-eviction lazyfree-lazy-expire
    lazyfree-lazy-server-del lazyfree-lazy-user-del lazyfree-lazy-user-flush lfu-decay-time
    lfu-log-factor list-compress-depth list-max-listpack-size list-max-ziplist-size logfile
    loglevel lua-time-limit masterauth masteruser maxclients maxmemory maxmemory-clients
    maxmemory-eviction-tenacity maxmemory-policy maxmemory-samples min-replicas-max-lag
    min-replicas-to-write min-slaves-max-lag min-slaves-to-write no-appendfsync-on-rewrite
    notify-keyspace-events oom-score-adj oom-score-adj-values pidfile port proc-title-template
    propagation-error-behavior protected-mode proto-max-bulk-len rdb-del-sync-files
    rdb-save-incremental-fsync rdbchecksum rdbcompression repl-backlog-size repl-backlog-ttl
    repl-disable-tcp-nodelay repl-diskless-load repl-diskless-sync repl-diskless-sync-delay
    repl-diskless-sync-max-replicas repl-ping-replica-period repl-ping-slave-period repl-timeout
    replica-announce-ip replica-announce-port replica-announced replica-ignore-disk-write-errors
    replica-ignore-maxmemory replica-lazy-flush replica-priority replica-read-only
    replica-serve-stale-data replicaof requirepass sanitize-dump-payload save server_cpulist
    set-max-intset-entries set-proc-title shutdown-on-sigint shutdown-on-sigterm shutdown-timeout
    slave-announce-ip slave-announce-port slave-ignore-maxmemory slave-lazy-flush slave-priority
    slave-read-only slave-serve-stale-data slaveof slowlog-log-slower-than slowlog-max-len
    socket-mark-id stop-writes-on-bgsave-error stream-node-max-bytes stream-node-max-entries
    supervised syslog-enabled syslog-facility syslog-ident tcp-backlog tcp-keepalive timeout
    tls-auth-clients tls-ca-cert-dir tls-ca-cert-file tls-cert-file tls-ciphers tls-ciphersuites
    tls-client-cert-file tls-client-key-file tls-client-key-file-pass tls-cluster
    tls-dh-params-file tls-key-file tls-key-file-pass tls-port tls-prefer-server-ciphers
    tls-protocols tls-replication tls-session-cache-size tls-session-cache-timeout
    tls-session-caching tracking-table-max-keys unixsocket unixsocketperm
    zset-max-listpack-entries zset-max-listpack-value zset-max-ziplist-entries
    zset-max-ziplist-value
    set-max-listpack-entries set-max-listpack-value cluster-announce-human-nodename locale-collate
";

/// What Redis 7 takes from a file and does not show.
const REDIS_7_FILE_NAMES: &str = "include loadmodule user rename-command list-max-ziplist-entries \
    list-max-ziplist-value lua-replicate-commands";

fn set(config: &mut Config, line: &str) -> Result<(), ConfigError> {
    let line = line::parse(line.as_bytes()).expect("balanced").expect("not blank");
    config.set_at_start(&line.name, &line.values)
}

fn config_set(config: &mut Config, pairs: &[(&str, &str)]) -> Result<(), String> {
    let pairs: Vec<_> = pairs.iter().map(|(n, v)| (n.as_bytes(), v.as_bytes())).collect();
    config.set_at_run_time(&pairs).map_err(|error| error.to_string())
}

fn get(config: &Config, pattern: &str) -> Vec<(&'static str, String)> {
    config.get_matching(&[pattern.as_bytes()])
}

fn get_one(config: &Config, name: &str) -> String {
    let [(_, text)] = &get(config, name)[..] else { panic!("{name} is not one parameter") };
    text.clone()
}

#[test]
fn rows_are_sane() {
    let rows = Config::rows();
    assert!(rows.is_sorted_by(|a, b| a.name < b.name), "binary search needs the order");
    let mut labels: Vec<_> = rows.iter().flat_map(|row| [Some(row.name), row.alias]).flatten().collect();
    let count = labels.len();
    labels.sort();
    labels.dedup();
    assert_eq!(labels.len(), count, "names and aliases are unique");
    for (index, row) in rows.iter().enumerate() {
        for label in [Some(row.name), row.alias].into_iter().flatten() {
            assert_eq!(Config::find(label), Some(index));
            assert_eq!(Config::find(&label.to_ascii_uppercase()), Some(index));
        }
        let value = row.parse_default();
        let value = value.unwrap_or_else(|problem| panic!("{}: {problem}", row.name));
        assert!(row.help.ends_with('.') && row.help.len() > 8, "{}", row.name);
        if let State::OnlyOff { until } = row.state {
            assert_eq!(value.text(), row.default, "{}: 'off' is compared as text", row.name);
            assert!(until.starts_with("Torc "), "{}", row.name);
        }
    }
}

#[test]
fn a_shown_value_can_be_set_again() {
    let config = Config::default();
    for (index, row) in Config::rows().iter().enumerate() {
        if row.change == Change::RunTime {
            let mut again = config.clone();
            let pair = (row.name, config.text(index));
            assert_eq!(config_set(&mut again, &[pair]), Ok(()), "{}", row.name);
            assert_eq!(again.texts, config.texts, "{}", row.name);
        }
    }
}

#[test]
fn every_name_of_redis_7_is_known() {
    let shown = get(&Config::default(), "*");
    for name in REDIS_7_NAMES.split_whitespace() {
        assert!(shown.iter().any(|(label, _)| *label == name), "{name}");
    }
    for name in REDIS_7_FILE_NAMES.split_whitespace() {
        assert!(Config::find(name).is_some(), "{name}");
        assert!(get(&Config::default(), name).is_empty(), "{name} is for files only");
    }
}

#[test]
fn defaults() {
    let config = Config::default();
    assert_eq!(config.port, 6379);
    assert_eq!(config.bind, ["127.0.0.1", "-::1"]);
    assert!(config.protected_mode);
    assert!(config.requirepass.is_empty());
    assert_eq!(config.maxclients, 10_000);
    assert_eq!((config.timeout_s, config.tcp_keepalive_s, config.tcp_backlog), (0, 300, 511));
    assert_eq!((config.databases, config.hz, config.busy_poll_us), (16, 10, 0));
    assert_eq!(config.query_buffer_bytes_max, 1 << 30);
    assert_eq!(config.bulk_bytes_max, 512 << 20);
    assert_eq!((config.maxmemory, config.maxmemory_policy), (0, Policy::NoEviction));
    assert_eq!((config.lfu_log_factor, config.lfu_decay_minutes), (10, 1));
    assert_eq!(config.maxmemory_clients, CLIENT_BYTES_MAX_DEFAULT);
    let replica = OutputLimit { hard_bytes: 256 << 20, soft_bytes: 64 << 20, soft_s: 60 };
    assert_eq!(config.output_limits.normal, OutputLimit::default());
    assert_eq!(config.output_limits.replica, replica);
    assert_eq!(config.output_limits.pubsub.hard_bytes, 32 << 20);
    assert_eq!((&config.dir[..], &config.logfile[..], &config.pidfile[..]), ("torc-data", "", ""));
    assert_eq!(config.loglevel, LogLevel::Notice);
    assert_eq!((config.cores, config.wakeup), (Cores::Auto, Wakeup::Auto));
}

/// A percentage of `maxmemory` is one whichever of the two is said first, and follows it.
#[test]
fn the_bound_of_clients_may_be_a_part_of_maxmemory() {
    for lines in [["maxmemory 1000mb", "maxmemory-clients 5%"], ["maxmemory-clients 5%", "maxmemory 1000mb"]] {
        let mut config = Config::default();
        lines.iter().for_each(|line| set(&mut config, line).expect("both are right"));
        assert_eq!(config.maxmemory_clients, 50 << 20);
        config.set_at_run_time(&[(b"maxmemory", b"100mb")]).expect("it may change");
        assert_eq!(config.maxmemory_clients, 5 << 20);
        config.set_at_run_time(&[(b"maxmemory", b"0")]).expect("it may change");
        assert_eq!(config.maxmemory_clients, CLIENT_BYTES_MAX_DEFAULT);
    }
}

#[test]
fn values_at_start() {
    let rows: &[(&str, &str)] = &[
        ("port 7000", "7000"),
        ("BIND \"10.0.0.1 -::1\"", "10.0.0.1 -::1"),
        ("bind ''", ""),
        ("proto-max-bulk-len 2mb", "2097152"),
        ("proto-max-bulk-len 2M", "2000000"),
        ("maxmemory-clients 5%", "5%"),
        ("client-output-buffer-limit replica 1kb 1k 5", "normal 0 0 0 slave 1024 1000 5 pubsub 33554432 8388608 60"),
        ("save 900 1 300 10", "900 1 300 10"),
        ("save \"\"", ""),
        ("shutdown-on-sigint \"nosave force\"", "nosave force"),
        ("latency-tracking-info-percentiles 99.99999 1e1", "99.99999 10"),
        ("oom-score-adj-values -1 0 2000", "-1 0 2000"),
        ("unixsocketperm 0700", "700"),
        ("appendfsync ALWAYS", "always"),
        ("slave-priority 7", "7"),
        ("replicaof no one", ""),
        ("maxmemory 0gb", "0"),
        ("maxmemory 1gb", "1073741824"),
        ("maxmemory 18446744073709551615", "18446744073709551615"),
        ("maxmemory-policy ALLKEYS-S3FIFO", "allkeys-s3fifo"),
        ("cores 0-2,6", "0,1,2,6"),
        ("cores 0,1,0", "0,1,0"),
        ("wakeup ring", "ring"),
        ("hz 900", "900"),
    ];
    for (text, want) in rows {
        let mut config = Config::default();
        assert_eq!(set(&mut config, text), Ok(()), "{text}");
        let name = text.split(' ').next().unwrap();
        assert_eq!(get_one(&config, name), *want, "{text}");
    }
    let mut config = Config::default();
    for text in ["save 900 1", "save 60 5", "hz 900", "client-query-buffer-limit 8gb", "cores 3", "rdbcompression no"] {
        set(&mut config, text).unwrap();
    }
    assert_eq!(get_one(&config, "save"), "900 1 60 5", "save lines add up");
    assert_eq!(config.hz, 500);
    assert_eq!(config.query_buffer_bytes_max, QUERY_BUFFER_BYTES_CEILING);
    assert_eq!(config.cores, Cores::List(vec![3]));
    assert_eq!(config.without_effect(), ["rdbcompression"]);
    config_set(&mut config, &[("save", "10 1")]).unwrap();
    assert_eq!(get_one(&config, "save"), "10 1", "CONFIG SET replaces them");
}

#[test]
fn errors_at_start() {
    let rows: &[(&str, &str)] = &[
        ("prot 1", "unknown directive 'prot'"),
        (
            "sentinel monitor a b",
            "'sentinel' belongs to Redis Sentinel or to a module; Torc has \
            neither, remove it",
        ),
        (
            "mymodule.size 1",
            "'mymodule.size' belongs to Redis Sentinel or to a module; Torc has \
            neither, remove it",
        ),
        ("port", "'port' is wrong: wrong number of arguments"),
        ("port 1 2", "'port 1 2' is wrong: wrong number of arguments"),
        ("port ''", "'port \"\"' is wrong: argument couldn't be parsed into an integer"),
        ("port 65536", "'port 65536' is wrong: argument must be between 0 and 65535 inclusive"),
        ("databases 17", "'databases 17' is wrong: argument must be between 1 and 16 inclusive"),
        ("unixsocketperm 1000", "'unixsocketperm 1000' is wrong: argument must be between 0 and 777 inclusive"),
        ("unixsocketperm 9", "'unixsocketperm 9' is wrong: argument couldn't be parsed as an octal number"),
        ("dbfilename a/b", "'dbfilename a/b' is wrong: can't be a path, just a filename"),
        ("dir ''", "'dir \"\"' is wrong: can't be empty"),
        ("dir \"\\xff\"", "'dir \u{fffd}' is wrong: argument must be UTF-8 text"),
        ("pidfile \"a\\x00\"", "'pidfile a\0' is wrong: argument must not contain a zero byte"),
        ("save \"1 '\"", "'save 1 '' is wrong: unbalanced quotes in configuration line"),
        ("requirepass a b", "'requirepass (hidden)' is wrong: wrong number of arguments"),
        (
            "slaveof host 1",
            "'slaveof host 1' is refused: Torc has no replication yet; only '' is \
            accepted",
        ),
        ("slaveof host x", "'slaveof host x' is wrong: Invalid master port"),
        ("user default on", "'user (hidden)' is refused: Torc has no users yet; remove it"),
        ("loadmodule /x.so", "'loadmodule /x.so' is refused: Torc has no modules; remove it"),
        (
            "rename-command FLUSHALL ''",
            "'rename-command FLUSHALL \"\"' is refused: Torc does not \
            rename commands; remove it",
        ),
        ("include x", "'include' is done by the reader of files"),
    ];
    for (text, want) in rows {
        let mut config = Config::default();
        let error = set(&mut config, text).expect_err(text);
        assert_eq!(error.to_string(), *want);
        assert_eq!(config.texts, Config::default().texts);
        assert!(config.without_effect().is_empty());
    }
    for cores in ["", ",", "1,", "-1", "3-1", "1024", "0-99999999999", "a"] {
        let text = format!("cores '{cores}'");
        assert!(set(&mut Config::default(), &text).is_err(), "{text}");
    }
    let seventeen = format!("bind{}", " ::1".repeat(17));
    let error = set(&mut Config::default(), &seventeen).unwrap_err().to_string();
    assert!(error.ends_with("Too many bind addresses specified."), "{error}");
}

#[test]
fn not_built_yet_means_off() {
    for text in [
        "cluster-enabled yes",
        "tls-port 1",
        "unixsocket /s",
        "aclfile /a",
        "daemonize yes",
        "admin-port 1",
        "core-port-base 1",
        "notify-keyspace-events KEA",
        "min-replicas-to-write 1",
    ] {
        let result = set(&mut Config::default(), text);
        assert!(matches!(result, Err(ConfigError::Refused { .. })), "{text}: {result:?}");
    }
}

/// The right-hand column was taken from Redis 7.0.15, except for what Torc refuses.
#[test]
fn errors_of_config_set() {
    let rows: &[(&str, &str, &str)] = &[
        ("maxclients", "0", "argument must be between 1 and 4294967295 inclusive"),
        ("maxclients", "abc", "argument couldn't be parsed into an integer"),
        ("maxclients", "-1", "argument must be between 1 and 4294967295 inclusive"),
        ("tcp-keepalive", "010", "argument couldn't be parsed into an integer"),
        ("maxmemory", "abc", "argument must be a memory value"),
        ("maxmemory", "1 gb", "argument must be a memory value"),
        ("maxmemory", "20000000000gb", "argument must be a memory value"),
        ("proto-max-bulk-len", "5", "argument must be between 1048576 and 9223372036854775807 inclusive"),
        ("maxmemory-clients", "101%", "percentage argument must be less or equal to 100"),
        ("maxmemory-clients", "x", "argument must be a memory or percent value"),
        (
            "maxmemory-policy",
            "foo",
            "argument(s) must be one of the following: volatile-lru, \
            volatile-lfu, volatile-random, volatile-ttl, allkeys-lru, allkeys-lfu, \
            allkeys-random, allkeys-s3fifo, noeviction",
        ),
        ("activedefrag", "maybe", "argument must be 'yes' or 'no'"),
        ("daemonize", "yes", "can't set immutable config"),
        ("dir", "/tmp", "can't set protected config"),
        ("save", "a b", "Invalid save parameters"),
        ("save", "1", "Invalid save parameters"),
        ("save", "1  2", "Invalid save parameters"),
        ("client-output-buffer-limit", "x 0 0 0", "Invalid client class specified in buffer limit configuration."),
        ("client-output-buffer-limit", "normal 0 0", "Wrong number of arguments in buffer limit configuration."),
        (
            "client-output-buffer-limit",
            "normal a 0 0",
            "Error in hard, soft or soft_seconds setting in buffer limit configuration.",
        ),
        (
            "shutdown-on-sigint",
            "foo",
            "argument(s) must be one of the following: default, save, \
            nosave, now, force",
        ),
        ("shutdown-on-sigint", "save nosave", "shutdown options SAVE and NOSAVE can't be used simultaneously"),
        ("oom-score-adj-values", "1 2", "wrong number of arguments"),
        ("oom-score-adj-values", "1 2 3000", "Invalid oom-score-adj-values, elements must be between -2000 and 2000."),
        ("notify-keyspace-events", "q", "Invalid event class character. Use 'Ag$lshzxeKEtmdn'."),
        (
            "latency-tracking-info-percentiles",
            "101",
            "latency-tracking-info-percentiles parameters should sit between [0.0,100.0]",
        ),
        ("latency-tracking-info-percentiles", "x", "Invalid latency-tracking-info-percentiles parameters"),
        ("slave-priority", "x", "argument couldn't be parsed into an integer"),
    ];
    for (name, value, want) in rows {
        let want = format!("ERR CONFIG SET failed (possibly related to argument '{name}') - {want}");
        assert_eq!(config_set(&mut Config::default(), &[(name, value)]), Err(want));
    }
    for name in ["xyz", "user", "include", "", "sentinel"] {
        let want = format!("ERR Unknown option or number of arguments for CONFIG SET - '{name}'");
        assert_eq!(config_set(&mut Config::default(), &[("hz", "1"), (name, "1")]), Err(want));
    }
    let twice = config_set(&mut Config::default(), &[("hz", "1"), ("HZ", "2")]).unwrap_err();
    assert!(twice.ends_with("argument 'HZ') - duplicate parameter"), "{twice}");
    let both = [("lua-time-limit", "1"), ("busy-reply-threshold", "2")];
    assert_eq!(config_set(&mut Config::default(), &both), Ok(()));
}

#[test]
fn config_set_is_all_or_nothing() {
    let mut config = Config::default();
    let pairs = [("hz", "50"), ("timeout", "9"), ("maxclients", "0")];
    assert!(config_set(&mut config, &pairs).is_err());
    assert_eq!((config.hz, config.timeout_s), (10, 0));
    assert_eq!(config.texts, Config::default().texts);
    assert_eq!(config_set(&mut config, &pairs[..2]), Ok(()));
    assert_eq!((config.hz, config.timeout_s), (50, 9));
    assert_eq!(get_one(&config, "hz"), "50");
}

#[test]
fn maxclients_stays_within_what_the_machine_can_serve() {
    let mut config = Config { maxclients_ceiling: 12_000, ..Config::default() };
    let failed = config_set(&mut config, &[("hz", "50"), ("maxclients", "12001")]).unwrap_err();
    let text = "The operating system is not able to handle the specified number of clients, try with 12000";
    assert_eq!(failed, format!("ERR CONFIG SET failed (possibly related to argument 'maxclients') - {text}"));
    assert_eq!((config.maxclients, config.hz), (10_000, 10));
    assert_eq!(config_set(&mut config, &[("maxclients", "12000")]), Ok(()));
    assert_eq!(config.maxclients, 12_000);
}

#[test]
fn config_get() {
    let mut config = Config::default();
    config.set_at_run_time(&[(b"requirepass", b"s3cret\xff")]).unwrap();
    assert_eq!(config.requirepass, b"s3cret\xff");
    assert!(!format!("{config:?}").contains("s3cret"));
    assert_eq!(get_one(&config, "SAVE"), "");
    assert_eq!(get(&config, "nothing"), []);
    let names =
        |patterns: &[&[u8]]| -> Vec<_> { config.get_matching(patterns).into_iter().map(|(name, _)| name).collect() };
    assert_eq!(
        names(&[b"maxmemory*", b"maxmemory", b"*-clients"]),
        [
            "maxmemory",
            "maxmemory-clients",
            "maxmemory-eviction-tenacity",
            "maxmemory-policy",
            "maxmemory-samples",
            "tls-auth-clients",
        ]
    );
    assert_eq!(names(&[b"*priority"]), ["replica-priority", "slave-priority"]);
    assert_eq!(names(&[b"watchdog*"]), [] as [&str; 0]);
    assert_eq!(names(&[b"watchdog-period"]), ["watchdog-period"]);
}

#[test]
fn faults_are_off_and_set_one_by_one() {
    let mut config = Config::default();
    assert!(!config.faults.any() && config.injected_faults().is_empty());
    set(&mut config, "fault-seed 7").unwrap();
    assert!(!config.faults.any() && config.injected_faults().is_empty(), "a seed alone is none");
    set(&mut config, "fault-wal-fail-probability 0.25").unwrap();
    assert_eq!(config.set_fault(b"hop-delay-ms", b"15"), Ok(()));
    let wanted = Faults { hop_delay_ms: 15, wal_fail_millionths: 250_000, seed: 7, ..Faults::default() };
    assert_eq!(config.faults, wanted);
    let said = ["fault-hop-delay-ms 15", "fault-seed 7", "fault-wal-fail-probability 0.25"];
    assert_eq!(config.injected_faults(), said);
    for (text, millionths, shown) in [
        ("1", 1_000_000, "1"),
        ("0.000001", 1, "0.000001"),
        ("1e-3", 1_000, "0.001"),
        ("0.0000001", 0, "0"),
        ("0.0", 0, "0"),
    ] {
        assert_eq!(config.set_fault(b"WAL-FAIL-PROBABILITY", text.as_bytes()), Ok(()));
        assert_eq!(config.faults.wal_fail_millionths, millionths, "{text}");
        assert_eq!(config.text_of("fault-wal-fail-probability"), shown);
    }
    for wrong in ["-0.1", "1.1", "nan", "inf", "", "x", "50%"] {
        let error = config.set_fault(b"wal-fail-probability", wrong.as_bytes()).expect_err(wrong);
        assert_eq!(error, "ERR fault-wal-fail-probability: argument must be a probability from 0 to 1");
    }
    for name in [&b"fault-hop-delay-ms"[..], b"", b"port", b"\xff"] {
        let error = config.set_fault(name, b"1").expect_err("there is none");
        assert!(error.starts_with("ERR there is no such fault; there are hop-delay-ms, seed, "), "{error}");
    }
    assert!(config.set_fault(b"hop-delay-ms", b"60001").is_err());
    let error = config_set(&mut config, &[("fault-hop-delay-ms", "1")]).expect_err("it is not for everybody");
    assert!(error.ends_with("- it is changed by DEBUG SET-FAULT"), "{error}");
    assert_eq!(config.faults.hop_delay_ms, 15);
}
