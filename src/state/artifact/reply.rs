//! What the artifact domain answers.

use clawhub_types::{Digest, Tag};
use serde::{Deserialize, Serialize};

/// What an artifact command answers when it was not refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ArtifactReply {
    /// A manifest was stored and these tags now name it.
    Stored {
        /// The manifest's digest as pushed.
        digest: Digest,
        /// Tags set by this command, in the order asked for.
        tags: Vec<Tag>,
    },
}

/// Why a command about manifests or tags is refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum ArtifactRejected {
    /// These references of the manifest are not in the repository; the first thousand of them.
    #[error("{} reference(s) unknown to the repository", .0.len())]
    ReferencesUnknown(Vec<Digest>),
    /// No such manifest or tag.
    #[error("the manifest is unknown")]
    ManifestUnknown,
    /// `If-Match` or `If-None-Match` did not hold; what the tag names now.
    #[error("the precondition does not hold")]
    PreconditionFailed(Option<Digest>),
    /// References of the manifest that were to be staged are not, or not any more.
    #[error("parts of the manifest's references are not staged")]
    PartsMissing,
}
