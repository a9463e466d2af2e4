//! Has the log say that the copies here do not count for now, once the storage fails. A crash loses the notice; the
//! next start says by itself what the node holds.

use std::sync::Arc;
use std::time::Duration;

use clawhub_consensus::Consensus;
use clawhub_state::cluster::ClusterCmd;

use super::Storage;

/// How long one attempt may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// See the [module](self).
pub(crate) struct FailureNotice {
    storage: Arc<Storage>,
    consensus: Consensus,
    boot: u64,
    given: bool,
}

impl FailureNotice {
    /// Between two looks, and two attempts.
    pub(crate) const EVERY: Duration = Duration::from_secs(1);

    /// For the start of the node that `boot` counts.
    pub(crate) fn new(storage: Arc<Storage>, consensus: Consensus, boot: u64) -> FailureNotice {
        FailureNotice { storage, consensus, boot, given: false }
    }

    /// Gives the notice, if the storage fails and the others do not know yet.
    pub(crate) async fn pass(&mut self) {
        if self.given || !self.storage.condition().is_failing() {
            return;
        }
        let failing = ClusterCmd::Failing { node: self.consensus.node(), boot: self.boot };
        match self.consensus.propose_via_peers(failing, PATIENCE).await {
            Ok(()) => {
                self.given = true;
                tracing::info!("the others know that the copies here do not count for now");
            }
            Err(error) => tracing::debug!(%error, "the others do not know yet"),
        }
    }
}
