//! Records of the outbox.

use clawhub_types::Actor;
use serde::{Deserialize, Serialize};

use crate::artifact::ArtifactEvent;
use crate::blob::BlobEvent;
use crate::cluster::ClusterEvent;
use crate::domain::by_domain;
use crate::project::ProjectEvent;
use crate::record::record;

by_domain! {
    /// Something that happened.
    #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
    pub enum Event {
        Cluster(ClusterEvent),
        Project(ProjectEvent),
        Blob(BlobEvent),
        Artifact(ArtifactEvent),
        #[cfg(test)] Toy(crate::toy::ToyEvent),
    }
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
