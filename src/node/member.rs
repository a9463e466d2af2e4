//! What can be asked of a node once it runs as a member: the handles that its pages and metrics read.

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
