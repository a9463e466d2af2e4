//! Registration: the log learns of each start of a node, and where the node is reached since then.

use std::time::Duration;

use clawhub_consensus::{Consensus, ProposeError, Who};
use clawhub_state::cluster::{ClusterCmd, ClusterRejected};
use clawhub_state::{Command, Rejected};

use crate::proposal::PATIENCE;
use crate::{ClusterError, Dismissal, Dismissed};

/// One start of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Start {
    /// Counts the starts, durably.
    pub boot: u64,
    /// Drawn at random: tells a repeated registration from a second process with the same data.
    pub nonce: u64,
    /// Where peers reach it, `host:port`.
    pub peer_addr: String,
    /// Where clients reach it, `host:port`.
    pub http_addr: String,
    /// What others seal secrets for this start to.
    pub start_key: Vec<u8>,
}

/// Logs the start of a node, once. A crash loses nothing: the next start is another one.
pub struct Registration {
    consensus: Consensus,
    start: Start,
    dismissal: Dismissal,
    registered: bool,
}

impl Registration {
    /// After a registration that nobody answered.
    pub const EVERY: Duration = Duration::from_millis(500);

    /// Registers `start` of the node whose part in the cluster `consensus` is.
    pub fn new(consensus: Consensus, start: Start, dismissal: Dismissal) -> Registration {
        Registration { consensus, start, dismissal, registered: false }
    }

    /// Registers the start, unless it is registered already. A start that the cluster refuses for good ends the
    /// node.
    ///
    /// # Errors
    /// [`ClusterError`] if another attempt is due.
    pub async fn pass(&mut self) -> Result<(), ClusterError> {
        if self.registered {
            return Ok(());
        }
        let node = self.consensus.node();
        let boot = Command::Cluster(ClusterCmd::Boot {
            node,
            boot: self.start.boot,
            nonce: self.start.nonce,
            peer_addr: self.start.peer_addr.clone(),
            http_addr: self.start.http_addr.clone(),
            found: self.consensus.log_marks().found(),
            acknowledged: None,
            start_key: self.start.start_key.clone(),
        });
        match self.consensus.propose(boot, Who::system(), PATIENCE).await {
            Ok(_) => tracing::info!(%node, boot = self.start.boot, "registered"),
            Err(ProposeError::Rejected(
                rejected @ Rejected::Cluster(
                    ClusterRejected::StaleBoot { .. } | ClusterRejected::Forgetful { .. },
                ),
            )) => {
                let why = "an old copy of its data directory, or a second process with the same one";
                self.dismissal.tell(Dismissed::Refused(format!("{rejected}: {why}")));
            }
            Err(ProposeError::Rejected(Rejected::Cluster(ClusterRejected::NodeUnknown(_)))) => {
                self.dismissal.tell(Dismissed::Removed)
            }
            Err(error) => {
                tracing::debug!(%error, "not registered yet");
                return Err(error.into());
            }
        }
        self.registered = true;
        Ok(())
    }
}
