//! What an upload session became.
//!
//! A row of the index: a crash loses nothing of it.

use clawhub_types::{Digests, RepoName, Root};
use serde::{Deserialize, Serialize};

use crate::ingest::Sealed;

/// An upload session whose bytes became a replica on this node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FinishedUpload {
    /// The repository uploaded to.
    pub repo: RepoName,
    /// The bytes.
    pub root: Root,
    /// Their digests, as far as they were computed.
    pub digests: Digests,
    /// When it ended, by the store's clock, in milliseconds.
    pub(crate) at: u64,
}

impl FinishedUpload {
    pub(crate) fn new(repo: RepoName, sealed: &Sealed, at: u64) -> FinishedUpload {
        FinishedUpload { repo, root: sealed.root, digests: sealed.digests.clone(), at }
    }
}
