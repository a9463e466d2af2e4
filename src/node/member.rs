//! What the node's own pages and metrics may ask once it runs as a member.

use std::sync::{Arc, OnceLock};

use clawhub_blobs::BlobStore;
use clawhub_consensus::Consensus;
use clawhub_jobs::Findings;

pub(crate) struct Member {
    /// The count of this start, as it is to be registered.
    pub(crate) boot: u64,
    pub(crate) consensus: Consensus,
    pub(crate) blobs: BlobStore,
    /// What the reconcilers found last.
    pub(crate) findings: Findings,
}

/// Empty until the node runs as a member.
pub(crate) type Slot = Arc<OnceLock<Member>>;
