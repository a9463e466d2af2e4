//! What two states are compared by.

/// The hash of a replicated state right after the entry at an index. States at the same index have the same hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct StatePoint {
    /// The log index.
    pub index: u64,
    /// The hash.
    pub hash: [u8; 32],
}
