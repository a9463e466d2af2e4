//! Tells the others, once, that the copies of this node do not count for now, because its storage fails. A crash
//! loses the notice; the next start says by itself what the node holds.

use std::time::Duration;

use clawhub_consensus::Consensus;
use clawhub_state::cluster::ClusterCmd;

use crate::ClusterError;

/// How long one attempt may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Gives notice once that the storage of this start of the node fails.
pub struct FailureNotice {
    consensus: Consensus,
    boot: u64,
    is_failing: Box<dyn Fn() -> bool + Send + Sync>,
    given: bool,
}

impl FailureNotice {
    /// Between two looks, and two attempts.
    pub const EVERY: Duration = Duration::from_secs(1);

    /// For the start of the node that `boot` counts. `is_failing` says whether its storage fails.
    pub fn new(
        consensus: Consensus,
        boot: u64,
        is_failing: impl Fn() -> bool + Send + Sync + 'static,
    ) -> FailureNotice {
        FailureNotice { consensus, boot, is_failing: Box::new(is_failing), given: false }
    }

    /// Gives the notice, if the storage fails and the others do not know yet.
    ///
    /// # Errors
    /// [`ClusterError`] if they may not know yet.
    pub async fn pass(&mut self) -> Result<(), ClusterError> {
        if self.given || !(self.is_failing)() {
            return Ok(());
        }
        let failing = ClusterCmd::Failing { node: self.consensus.node(), boot: self.boot };
        let told = self.consensus.propose_via_peers(failing, PATIENCE).await;
        told.inspect_err(|error| tracing::debug!(%error, "the others do not know yet"))?;
        self.given = true;
        tracing::info!("the others know that the copies here do not count for now");
        Ok(())
    }
}
