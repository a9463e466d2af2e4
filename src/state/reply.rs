//! Replicated answers. Every node computes the same one for the same entry.

use clawhub_types::{Digest, NodeId, ProjectId, Root, SessionId, Tag};
use serde::{Deserialize, Serialize};

/// What an accepted command answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// Done; there is nothing more to say.
    Done,
    /// A node joined under this id.
    Joined(NodeId),
    /// A proposer session was opened.
    Session(SessionId),
    /// The project exists under this id.
    Project(ProjectId),
    /// A blob is bound and linked.
    Linked {
        /// The blob's root.
        root: Root,
        /// Its length in bytes.
        size: u64,
    },
    /// A mount found no such blob in the source repository: the client must upload.
    NotMounted,
    /// A manifest was stored and these tags now name it.
    Stored {
        /// The manifest's digest as pushed.
        digest: Digest,
        /// Tags set by this command, in the order asked for.
        tags: Vec<Tag>,
    },
    /// How many of the named things the command changed.
    Count(u64),
}

/// A replicated refusal: its writes are discarded on every node alike. Not a fault.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Rejected {
    /// The session is unknown or closed, or the sequence lies below its floor.
    #[error("the request's session is gone")]
    SessionGone,
    /// The entry's deadline passed before it was applied.
    #[error("the request's deadline passed")]
    DeadlinePassed,
    /// Rights shrank since the permit was given: authorise once more.
    #[error("the permit is stale")]
    StalePermit,
    /// The cluster was initialised already, or not yet.
    #[error("the cluster is initialised already, or not yet")]
    WrongPhase,
    /// The join token is unknown, used up or expired.
    #[error("the join token is unknown, used or expired")]
    TokenInvalid,
    /// No such node, or no longer a member.
    #[error("node {0} is not a member")]
    NodeUnknown(NodeId),
    /// A node of this name is a member already.
    #[error("a node of this name is a member already")]
    NameTaken,
    /// A node, member or removed, has this key already.
    #[error("node {0} has this key already")]
    KeyTaken(NodeId),
    /// The boot counter is not above the logged one: a stale disk or a twin.
    #[error("boot {boot} of node {node} is not above {logged}")]
    StaleBoot {
        /// The node.
        node: NodeId,
        /// What it claimed.
        boot: u64,
        /// What the log holds.
        logged: u64,
    },
    /// The layout of nodes does not allow it; the text says why.
    #[error("{0}")]
    Layout(String),
    /// No such repository.
    #[error("the repository is unknown")]
    NameUnknown,
    /// These blobs have fewer copies than this project's policy asks for.
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
    /// These references of the manifest are not in the repository.
    #[error("{} reference(s) unknown to the repository", .0.len())]
    ReferencesUnknown(Vec<Digest>),
    /// No such manifest or tag.
    #[error("the manifest is unknown")]
    ManifestUnknown,
    /// `If-Match` or `If-None-Match` did not hold; what the tag names now.
    #[error("the precondition does not hold")]
    PreconditionFailed(Option<Digest>),
}
