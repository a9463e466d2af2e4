//! What travels in the log.

use clawhub_types::{AccessRevisions, Actor, RequestId, Touched};
use serde::{Deserialize, Serialize};

use crate::artifact::ArtifactCmd;
use crate::blob::BlobCmd;
use crate::cluster::ClusterCmd;
use crate::project::ProjectCmd;
use crate::reply::{Rejected, Reply};

/// One proposal, complete: apply consults nothing but this and the state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The cluster clock in milliseconds, stamped by the leader: the only clock of leases, grace and
    /// sessions. Apply takes the greater of this and the last one, so it never goes back.
    pub tick: u64,
    /// Wall time of the leader, Unix milliseconds. For people and audit; not clamped.
    pub at: u64,
    /// Who asked.
    pub actor: Actor,
    /// The rights the request was permitted under.
    pub access: AccessRevisions,
    /// Applied at most once under this identity. `None` only for commands that are idempotent by
    /// themselves and for those that open a session.
    pub request: Option<RequestId>,
    /// The tick past which the entry is rejected.
    pub deadline: Option<u64>,
    /// What to do.
    pub cmd: Command,
}

/// A command, by domain. A domain writes its own keys; a later one may call an earlier one's
/// functions.
#[expect(
    clippy::large_enum_variant,
    reason = "one per log entry, handled by reference; a box would add an allocation"
)]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// Membership, identity, tokens, sessions, cluster level.
    Cluster(ClusterCmd),
    /// Projects and their policies.
    Project(ProjectCmd),
    /// Roots, holders, links.
    Blob(BlobCmd),
    /// Manifests, tags, referrers.
    Artifact(ArtifactCmd),
}

impl Command {
    /// Whether an entry with this command must carry a request identity, since applying it a second
    /// time, later, would do harm. The others are idempotent by themselves, or are what a session needs
    /// before it exists.
    pub fn needs_identity(&self) -> bool {
        match self {
            Command::Cluster(cmd) => cmd.needs_identity(),
            Command::Project(cmd) => cmd.needs_identity(),
            Command::Blob(cmd) => cmd.needs_identity(),
            Command::Artifact(cmd) => cmd.needs_identity(),
        }
    }

    /// What the command touches: who proposes it must have the right to.
    pub fn resource(&self) -> Touched {
        match self {
            Command::Cluster(cmd) => cmd.resource(),
            Command::Project(cmd) => cmd.resource(),
            Command::Blob(cmd) => cmd.resource(),
            Command::Artifact(cmd) => cmd.resource(),
        }
    }
}

/// The replicated answer to an entry.
pub type Outcome = Result<Reply, Rejected>;
