//! Records of the outbox.

use clawhub_types::{Actor, Digest, MediaType, NodeId, ProjectName, RepoName, Tag};
use serde::{Deserialize, Serialize};

use crate::record::record;

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    /// A manifest was pushed, anew or again, and these tags now name it.
    ManifestPut {
        /// The repository.
        repo: RepoName,
        /// The manifest.
        digest: Digest,
        /// Its media type.
        media_type: MediaType,
        /// The tags moved.
        tags: Vec<Tag>,
    },
    /// A manifest was deleted, and its tags with it.
    ManifestDeleted {
        /// The repository.
        repo: RepoName,
        /// The manifest.
        digest: Digest,
        /// The tags that named it.
        tags: Vec<Tag>,
    },
    /// A tag was deleted.
    TagDeleted {
        /// The repository.
        repo: RepoName,
        /// The tag.
        tag: Tag,
        /// What it named.
        digest: Digest,
    },
    /// A blob's link was deleted on request.
    BlobUnlinked {
        /// The repository.
        repo: RepoName,
        /// The blob, as the client named it.
        digest: Digest,
    },
    /// A project's policy was set.
    PolicySet {
        /// The project.
        project: ProjectName,
    },
    /// A node became a member.
    NodeJoined {
        /// The node.
        node: NodeId,
    },
    /// A node left for good.
    NodeRemoved {
        /// The node.
        node: NodeId,
        /// Whether copies were given up for it.
        forced: bool,
    },
}

/// An event and its circumstances.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutboxRow {
    /// Wall time, Unix milliseconds.
    pub at: u64,
    /// Who caused it.
    pub actor: Actor,
    /// What happened.
    pub event: Event,
}
record!(OutboxRow, 0x0500, "outbox row");

/// The log index up to which a reader is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CursorRecord(pub(crate) u64);
record!(CursorRecord, 0x0501, "outbox cursor");
