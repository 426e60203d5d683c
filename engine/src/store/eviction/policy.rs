//! The names of `maxmemory-policy`, and what each is about.

/// Which keys are evicted when memory is short.
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

/// Names in the order in which Redis lists them, Torc's own before the last.
const NAMES: [(&str, Policy); 9] = [
    ("volatile-lru", Policy::VolatileLru),
    ("volatile-lfu", Policy::VolatileLfu),
    ("volatile-random", Policy::VolatileRandom),
    ("volatile-ttl", Policy::VolatileTtl),
    ("allkeys-lru", Policy::AllKeysLru),
    ("allkeys-lfu", Policy::AllKeysLfu),
    ("allkeys-random", Policy::AllKeysRandom),
    ("allkeys-s3fifo", Policy::AllKeysS3Fifo),
    ("noeviction", Policy::NoEviction),
];

impl Policy {
    /// The names that `maxmemory-policy` takes.
    pub const fn names() -> [&'static str; NAMES.len()] {
        let mut names = [""; NAMES.len()];
        let mut at = 0;
        while at < names.len() {
            names[at] = NAMES[at].0;
            at += 1;
        }
        names
    }

    /// The policy with a name, in lower case.
    pub fn from_name(name: &str) -> Option<Policy> {
        NAMES.iter().find(|(known, _)| *known == name).map(|&(_, policy)| policy)
    }

    /// As `maxmemory-policy` has it.
    pub fn name(self) -> &'static str {
        NAMES.iter().find(|(_, policy)| *policy == self).map_or("", |(name, _)| name)
    }

    /// Whether keys are evicted at all.
    pub fn evicts(self) -> bool {
        self != Policy::NoEviction
    }

    /// Whether only keys with an expiry time are evicted.
    pub fn volatile_only(self) -> bool {
        matches!(self, Policy::VolatileLru | Policy::VolatileLfu | Policy::VolatileRandom | Policy::VolatileTtl)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_policies_are_one_to_one() {
        for name in Policy::names() {
            let policy = Policy::from_name(name).expect(name);
            assert_eq!(policy.name(), name);
            assert_eq!(policy.volatile_only(), name.starts_with("volatile-"));
        }
        assert_eq!(Policy::from_name("lru"), None);
        assert!(!Policy::default().evicts() && Policy::AllKeysRandom.evicts());
    }
}
