//! Replicated answers. Every node computes the same one for the same entry, so that they hold data, and what
//! people read is made from it where they read it.

use serde::{Deserialize, Serialize};

use crate::artifact::{ArtifactRejected, ArtifactReply};
use crate::blob::{BlobRejected, BlobReply};
use crate::cluster::{ClusterRejected, ClusterReply};
use crate::domain::{by_domain, rejections};
use crate::project::{ProjectRejected, ProjectReply};
use crate::record::record;

by_domain! {
    /// What an accepted command answers.
    #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
    pub enum Reply {
        [
            /// Done; there is nothing more to say.
            Done
        ]
        Cluster(ClusterReply),
        Project(ProjectReply),
        Blob(BlobReply),
        Artifact(ArtifactReply),
        #[cfg(test)] Toy(crate::toy::ToyReply),
    }
}

rejections! {
    /// A replicated refusal: its writes are discarded on every node alike. Not a fault.
    #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
    pub enum Rejected {
        Request(RequestRejected),
        Cluster(ClusterRejected),
        Project(ProjectRejected),
        Blob(BlobRejected),
        Artifact(ArtifactRejected),
        #[cfg(test)] Toy(crate::toy::ToyRejected),
    }
}

/// Why a request is refused whatever it asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum RequestRejected {
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
}

/// The replicated answer to an entry.
pub type Outcome = Result<Reply, Rejected>;
record!(Outcome, 0x0002, "outcome");
