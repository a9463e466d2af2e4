//! A log entry: a command with everything that apply needs to decide it, so that apply asks nobody.

use clawhub_types::{AccessRevisions, Action, Actor, RequestId, Touched};
use serde::{Deserialize, Serialize};

use crate::artifact::ArtifactCmd;
use crate::blob::BlobCmd;
use crate::cluster::ClusterCmd;
use crate::domain::commands;
use crate::fault::Fault;
use crate::lifecycle::LifecycleCmd;
use crate::outbox::OutboxCmd;
use crate::project::ProjectCmd;
use crate::proposers::Proposers;
use crate::record::{Record, record};
use crate::reply::{Outcome, Reply};
use crate::stop::Stop;
use crate::tx::{ApplyContext, Tx};

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
    /// The tick past which the entry is rejected: when whoever asked gives up. Set by the node that was asked, so that an
    /// entry which reaches a leader late, whose tick is then later, changes nothing any more.
    pub deadline: Option<u64>,
    /// What to do.
    pub cmd: Command,
}
record!(Entry, 0x0001, "log entry");

commands! {
    /// A command, by domain. A domain writes its own keys; a later one may call an earlier one's functions.
    #[expect(
        clippy::large_enum_variant,
        reason = "one per log entry, handled by reference; a box would add an allocation"
    )]
    #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
    pub enum Command {
        Outbox(OutboxCmd),
        Cluster(ClusterCmd),
        Project(ProjectCmd),
        Blob(BlobCmd),
        Artifact(ArtifactCmd),
        Lifecycle(LifecycleCmd),
        #[cfg(test)] Toy(crate::toy::ToyCmd),
    }
}

/// The bytes of an entry, as they stand in the log and travel between nodes.
pub fn encode_entry(entry: &Entry) -> Vec<u8> {
    entry.encode()
}

/// The entry in `bytes`.
///
/// # Errors
/// [`Fault::UnknownShape`] if a newer version wrote it; [`Fault::Corrupt`] if it is no entry.
pub fn decode_entry(bytes: &[u8]) -> Result<Entry, Fault> {
    Entry::decode(bytes)
}

/// The bytes of an outcome, as a leader sends it back to the node that forwarded the entry.
pub fn encode_outcome(outcome: &Outcome) -> Vec<u8> {
    outcome.encode()
}

/// The outcome in `bytes`.
///
/// # Errors
/// As [`decode_entry`].
pub fn decode_outcome(bytes: &[u8]) -> Result<Outcome, Fault> {
    Outcome::decode(bytes)
}

#[cfg(test)]
#[path = "entry_test.rs"]
mod tests;
