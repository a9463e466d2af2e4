//! How an operator's commands are proposed: in whose name, and for how long they may wait.

use std::time::Duration;

use clawhub_consensus::{Consensus, Who};
use clawhub_state::Command;

use crate::ClusterError;

/// How long an administrative write may wait for the cluster.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Proposes in the operator's name; the log index.
pub(crate) async fn propose(consensus: &Consensus, cmd: impl Into<Command>) -> Result<u64, ClusterError> {
    let committed = consensus.propose(cmd.into(), Who::operator(), PATIENCE).await?;
    Ok(committed.index)
}
