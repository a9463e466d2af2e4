//! Proof of a durable copy.

use serde::{Deserialize, Serialize};

use crate::{Digests, NodeId, Root};

/// A node's statement that it hashed these bytes itself, fsynced file and directory, and turned the
/// file durably into a replica. Apply refuses a receipt of an epoch older than the node's logged one,
/// and one of another generation than the root's record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// The holder.
    pub node: NodeId,
    /// The node's deletion epoch when the copy was made.
    pub epoch: u64,
    /// The root's generation that the copy was made for.
    pub generation: u64,
    /// The client digests the node computed over the bytes.
    pub digests: Digests,
    /// The BLAKE3 root of the bytes.
    pub root: Root,
    /// Length in bytes.
    pub size: u64,
}
