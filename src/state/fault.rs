//! What keeps this node from giving any answer. The others may be able to; so it stops instead of going on without
//! them.

use clawhub_kv::KvError;

/// The state cannot be read, written or understood. There is no answer to give: the node stops, since
/// going on would make it differ from the others.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The store failed.
    #[error(transparent)]
    Kv(#[from] KvError),
    /// Bytes of a shape, or with a variant, that this version does not know: written by a newer one.
    #[error("{what} of shape {shape:#06x} is of a kind that this version does not know")]
    UnknownShape {
        /// The kind of record.
        what: &'static str,
        /// The shape found.
        shape: u16,
    },
    /// Bytes that are no such record, or records that contradict each other.
    #[error("{what} is corrupt: {why}")]
    Corrupt {
        /// The kind of record.
        what: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// Log items do not follow the one applied last.
    #[error("log index {found} does not follow {applied}, applied last")]
    OutOfOrder {
        /// The index applied last.
        applied: u64,
        /// The index given.
        found: u64,
    },
}
