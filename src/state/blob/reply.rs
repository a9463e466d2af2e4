//! What the blob domain answers.

use clawhub_types::{Digest, NodeId, Root};
use serde::{Deserialize, Serialize};

/// What a blob command answers when it was not refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum BlobReply {
    /// A blob is bound and linked.
    Linked {
        /// The blob's root.
        root: Root,
        /// Its length in bytes.
        size: u64,
    },
    /// A mount found no such blob in the source repository: the client must upload.
    NotMounted,
    /// How many of the named copies the command changed.
    Count(u64),
}

/// Why a command about blobs is refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum BlobRejected {
    /// These blobs have fewer copies than this project's policy asks for; the first thousand of them.
    #[error("{} blob(s) need more copies", .0.len())]
    NeedCopies(Vec<Root>),
    /// A receipt is of an older epoch, another generation, a non-member, or contradicts the record.
    #[error("a receipt is stale or does not match")]
    BadReceipt,
    /// The repository has no such blob.
    #[error("the blob is unknown to the repository")]
    BlobUnknown,
    /// A manifest of the repository references the blob.
    #[error("the blob is referenced by manifest {0}")]
    BlobReferenced(Digest),
    /// A linked root would be left with fewer copies than its projects ask for.
    #[error("root {root} would have too few copies without node {node}")]
    RootShort {
        /// The root.
        root: Root,
        /// The holder that was to leave.
        node: NodeId,
    },
}
