//! What happens in the blob domain.

use clawhub_types::{Digest, RepoName};
use serde::{Deserialize, Serialize};

/// What an entry did to roots and links, for those who read events.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum BlobEvent {
    /// A blob's link was deleted on request.
    BlobUnlinked {
        /// The repository.
        repo: RepoName,
        /// The blob, as the client named it.
        digest: Digest,
    },
}
