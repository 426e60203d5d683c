//! The names of the eviction policies, and what each of them needs to know of a key.

/// Which keys go when memory is full (`maxmemory-policy`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    #[default]
    NoEviction,
    AllKeysLru,
    VolatileLru,
    AllKeysLfu,
    VolatileLfu,
    AllKeysRandom,
    VolatileRandom,
    VolatileTtl,
    AllKeysS3Fifo,
}

/// What a mark says of its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// When it was last touched.
    Recency,
    /// How often it is touched.
    Frequency,
    /// Its place in the queues of S3-FIFO.
    Fifo,
}

impl Policy {
    /// In the order in which Redis lists them, Torc's own before the last.
    pub const ALL: [Policy; 9] = [
        Policy::VolatileLru,
        Policy::VolatileLfu,
        Policy::VolatileRandom,
        Policy::VolatileTtl,
        Policy::AllKeysLru,
        Policy::AllKeysLfu,
        Policy::AllKeysRandom,
        Policy::AllKeysS3Fifo,
        Policy::NoEviction,
    ];

    /// As `maxmemory-policy` spells it.
    pub const fn name(self) -> &'static str {
        match self {
            Policy::NoEviction => "noeviction",
            Policy::AllKeysLru => "allkeys-lru",
            Policy::VolatileLru => "volatile-lru",
            Policy::AllKeysLfu => "allkeys-lfu",
            Policy::VolatileLfu => "volatile-lfu",
            Policy::AllKeysRandom => "allkeys-random",
            Policy::VolatileRandom => "volatile-random",
            Policy::VolatileTtl => "volatile-ttl",
            Policy::AllKeysS3Fifo => "allkeys-s3fifo",
        }
    }

    /// The names that `maxmemory-policy` takes.
    pub const fn names() -> [&'static str; Policy::ALL.len()] {
        let mut names = [""; Policy::ALL.len()];
        let mut at = 0;
        while at < names.len() {
            names[at] = Policy::ALL[at].name();
            at += 1;
        }
        names
    }

    /// The policy of this name, in lower case.
    pub fn from_name(name: &str) -> Option<Policy> {
        Policy::ALL.into_iter().find(|policy| policy.name() == name)
    }

    /// What the marks of its keys say. Where the policy needs no mark they say when a key was touched, for
    /// `OBJECT IDLETIME`.
    pub fn kind(self) -> Kind {
        match self {
            Policy::AllKeysLfu | Policy::VolatileLfu => Kind::Frequency,
            Policy::AllKeysS3Fifo => Kind::Fifo,
            _ => Kind::Recency,
        }
    }

    /// Whether only keys with an expiry time may go.
    pub fn volatile_only(self) -> bool {
        matches!(self, Policy::VolatileLru | Policy::VolatileLfu | Policy::VolatileRandom | Policy::VolatileTtl)
    }

    /// Whether any key may go.
    pub fn evicts(self) -> bool {
        self != Policy::NoEviction
    }

    /// Whether the order of touches decides which key goes, so that it is worth knowing to less than a second.
    pub fn orders_by_recency(self) -> bool {
        matches!(self, Policy::AllKeysLru | Policy::VolatileLru)
    }
}
