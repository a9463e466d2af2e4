//! What happens in the artifact domain.

use clawhub_types::{Digest, MediaType, RepoName, Tag};
use serde::{Deserialize, Serialize};

/// What an entry did to manifests and tags, for those who read events.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ArtifactEvent {
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
}
