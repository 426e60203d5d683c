use crate::store::KeyspaceId;
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Lsn(pub u64);
#[derive(Default)]
pub struct Journal {
    on: bool,
    last: Lsn,
    durable: Lsn,
}
impl Journal {
    pub fn off() -> Journal {
        Journal::default()
    }
    #[inline(always)]
    pub fn is_on(&self) -> bool {
        self.on
    }
    pub fn last_lsn(&self) -> Lsn {
        self.last
    }
    pub fn durable_lsn(&self) -> Lsn {
        self.durable
    }
    #[inline(always)]
    pub fn pending_bytes(&self) -> usize {
        0
    }
    pub fn set(&mut self, _: KeyspaceId, _: &[u8], _: &[u8], _: u64, _: Option<u64>) {}
    pub fn remove(&mut self, _: KeyspaceId, _: &[u8]) {}
    pub fn expire(&mut self, _: KeyspaceId, _: &[u8], _: u64) {}
    pub fn write_at(&mut self, _: KeyspaceId, _: &[u8], _: u64, _: &[u8]) {}
    pub fn map(&mut self, _: u8, _: KeyspaceId) {}
    pub fn swap(&mut self, _: u8, _: u8) {}
}
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FsyncPolicy {
    Always,
    EverySec,
    No,
}
