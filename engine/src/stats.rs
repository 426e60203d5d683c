//! What a shard counts. Plain numbers, touched by its thread alone; INFO asks every shard for a copy and adds them.

use crate::command::Command;

/// Declares the counters: one line each, with its name in `INFO` and what it says.
macro_rules! counters {
    ($($(#[doc = $doc:literal])+ $name:ident,)+) => {
        /// Counters of one shard since the start or CONFIG RESETSTAT.
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        pub struct Counters { $($(#[doc = $doc])+ pub $name: u64,)+ }

        impl Counters {
            /// How many there are.
            pub const LEN: usize = [$(stringify!($name)),+].len();

            fn to_array(&self) -> [u64; Self::LEN] {
                [$(self.$name),+]
            }

            fn from_array(values: [u64; Self::LEN]) -> Counters {
                let mut values = values.into_iter();
                Counters { $($name: values.next().expect("as many values as counters")),+ }
            }

            fn add(&mut self, other: &Counters) {
                $(self.$name += other.$name;)+
            }
        }
    };
}

counters! {
    /// Connections accepted by the server.
    total_connections_received,
    /// Commands executed, each part of one that was split over shards counted once on its home.
    total_commands_processed,
    /// Bytes received from clients.
    total_net_input_bytes,
    /// Bytes sent to clients.
    total_net_output_bytes,
    /// Connections refused because of maxclients.
    rejected_connections,
    /// Keys removed because their time had come.
    expired_keys,
    /// Lookups of keys that were there.
    keyspace_hits,
    /// Lookups of keys that were not there.
    keyspace_misses,
    /// Error replies.
    total_error_replies,
    /// Connections closed because their output passed its limit.
    client_output_buffer_limit_disconnections,
    /// Connections closed because client buffers passed the limit of the process.
    evicted_clients,
    /// Requests sent to other shards.
    torc_forwarded_requests,
    /// Turns of the shard loop that found something to do.
    torc_turns,
    /// O(N) commands executed.
    torc_linear_commands,
    /// Keys of flushed databases and big values that were freed, in slices or by the reaper.
    lazyfreed_objects,
    /// The same that are not freed yet (a gauge).
    lazyfree_pending_objects,
    /// Bytes of big values that were given up and are not freed yet, which are in `dataset_bytes` no more (a gauge).
    lazyfree_pending_bytes,
    /// Changes to data.
    changes,
    /// Clients connected now (a gauge).
    connected_clients,
    /// Keys removed because memory was short.
    evicted_keys,
    /// Milliseconds for which a shard used more than it had of maxmemory; what goes on now not included.
    eviction_exceeded_ms,
    /// The same of what goes on now (a gauge).
    eviction_exceeded_now_ms,
    /// Bytes of client buffers now (a gauge).
    client_buffer_bytes,
    /// Bytes of the slots of entries: keys, and values up to 16 KiB, now (a gauge).
    slot_bytes,
    /// Bytes of longer values now (a gauge).
    outside_bytes,
    /// Bytes of tables now (a gauge).
    table_bytes,
    /// Bytes taken from the system for entries and not used now (a gauge).
    slack_bytes,
    /// Bytes of buffers kept for reuse by clients and frames now (a gauge).
    spare_buffer_bytes,
    /// Bytes leased of maxmemory now (a gauge).
    leased_bytes,
    /// Keys that were loaded at the start (a gauge).
    loaded_keys,
    /// Keys that were not, because they had expired (a gauge).
    load_expired_keys,
    /// Keys that the snapshot under way has (a gauge).
    saved_keys,
    /// Keys that it will have (a gauge).
    keys_to_save,
    /// 1 if the log has failed, or takes not all writes because the disk is full or does not answer (a gauge).
    log_refuses_writes,
    /// Syncs of the log under way now (a gauge).
    log_flushes_pending,
    /// Syncs of the log that took longer than they should.
    log_flushes_delayed,
    /// Bytes of the log that are not written yet now (a gauge).
    log_pending_bytes,
}

/// Counts of one command.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CommandCounters {
    pub calls: u64,
    /// Ended with an error reply.
    pub failed: u64,
    /// Refused by a gate before it ran.
    pub rejected: u64,
    /// Executions that were timed, and their nanoseconds together. Others are assumed to be like them.
    pub timed: u64,
    pub timed_ns: u64,
}

/// Keys of one database on one shard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DatabaseCounters {
    pub keys: u64,
    pub expiring: u64,
    /// Bytes of the table.
    pub table_bytes: u64,
}

/// Everything a shard counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    pub counters: Counters,
    pub commands: Vec<CommandCounters>,
    pub databases: Vec<DatabaseCounters>,
}

impl Stats {
    /// All zero.
    pub fn new() -> Stats {
        Stats {
            counters: Counters::default(),
            commands: vec![CommandCounters::default(); Command::all().count()],
            databases: Vec::new(),
        }
    }

    /// Bytes of this shard that `maxmemory` is about.
    pub fn used_bytes(&self) -> u64 {
        let counters = &self.counters;
        counters.slot_bytes + counters.outside_bytes + counters.table_bytes + counters.client_buffer_bytes
    }

    /// The counters as bytes, for the shard that collects them: all integers little-endian, databases last.
    pub fn encode(&self) -> Vec<u8> {
        let commands = self.commands.iter().flat_map(|c| [c.calls, c.failed, c.rejected, c.timed, c.timed_ns]);
        let databases = self.databases.iter().flat_map(|d| [d.keys, d.expiring, d.table_bytes]);
        let all = self.counters.to_array().into_iter().chain(commands).chain(databases);
        all.flat_map(u64::to_le_bytes).collect()
    }

    /// Adds what [`Stats::encode`] gave on another shard.
    pub fn add_encoded(&mut self, bytes: &[u8]) {
        let mut values = bytes.chunks_exact(8).map(|value| u64::from_le_bytes(value.try_into().expect("8 bytes")));
        let mut next = || values.next().unwrap_or(0);
        self.counters.add(&Counters::from_array(std::array::from_fn(|_| next())));
        for command in &mut self.commands {
            command.calls += next();
            command.failed += next();
            command.rejected += next();
            command.timed += next();
            command.timed_ns += next();
        }
        let databases = bytes.len() / 8 - Counters::LEN - self.commands.len() * 5;
        self.databases.resize(self.databases.len().max(databases / 3), DatabaseCounters::default());
        for database in &mut self.databases {
            database.keys += next();
            database.expiring += next();
            database.table_bytes += next();
        }
    }

    /// CONFIG RESETSTAT: counters go back to zero. Of what is true now, most is looked up when somebody asks.
    pub fn reset(&mut self) {
        let Counters { connected_clients, .. } = self.counters;
        self.counters = Counters { connected_clients, ..Counters::default() };
        self.commands.fill(CommandCounters::default());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_shards_encode_adds_up() {
        let mut one = Stats::new();
        one.counters.keyspace_hits = 3;
        one.commands[1] = CommandCounters { calls: 2, failed: 1, rejected: 0, timed: 1, timed_ns: 500 };
        one.databases = vec![DatabaseCounters { keys: 5, expiring: 1, table_bytes: 64 }; 2];
        let mut sum = Stats::new();
        sum.add_encoded(&one.encode());
        assert_eq!(sum, one);
        sum.add_encoded(&one.encode());
        assert_eq!((sum.counters.keyspace_hits, sum.commands[1].timed_ns, sum.databases[1].keys), (6, 1000, 10));
    }
}
