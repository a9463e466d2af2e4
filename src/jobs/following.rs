//! Follows the members as the state changes: keeps the peers for the next start, closes connections with those that
//! were removed.

use std::time::Duration;

use clawhub_cluster as cluster;
use clawhub_reconcile::{Failure, Progress, Reconciler};

/// Every change wakes this.
const EVERY: Duration = Duration::from_secs(60);

pub(crate) struct Following {
    following: cluster::Following,
    /// Consensus has ended, and there is nothing left to follow.
    over: bool,
}

impl Following {
    pub(crate) fn new(following: cluster::Following) -> Following {
        Following { following, over: false }
    }
}

impl Reconciler for Following {
    fn name(&self) -> &'static str {
        "members"
    }

    fn every(&self) -> Duration {
        EVERY
    }

    fn rest(&self) -> Duration {
        cluster::Following::EVERY
    }

    async fn wake(&mut self) {
        self.over = !self.following.wake().await;
    }

    async fn pass(&mut self) -> Result<Progress, Failure> {
        if self.over {
            return Ok(Progress::Over);
        }
        self.following.pass()?;
        Ok(Progress::Settled)
    }
}
