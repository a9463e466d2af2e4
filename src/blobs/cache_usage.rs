//! How much the cache may have, and how much it has.

/// How many bytes of copies the cache may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheLimit {
    /// So many.
    Bytes(u64),
    /// So many percent of the device.
    Share(u8),
}

impl CacheLimit {
    pub(crate) fn of(self, device: u64) -> u64 {
        match self {
            CacheLimit::Bytes(bytes) => bytes,
            CacheLimit::Share(percent) => device / 100 * u64::from(percent.min(100)),
        }
    }
}

/// What the cache has and did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheUsage {
    /// Copies.
    pub copies: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Most bytes that it may have.
    pub limit: u64,
    /// Copies that were deleted for others or for want of room, since the start.
    pub evicted: u64,
    /// Their bytes.
    pub evicted_bytes: u64,
}
