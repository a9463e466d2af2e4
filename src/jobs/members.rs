//! Follows the members as the state changes: keeps the peers for the next start, closes connections with those that
//! were removed.

use std::time::Duration;

use clawhub_cluster::Following;
use clawhub_reconcile::{Failure, Progress, Reconciler};

/// Every change wakes this.
const EVERY: Duration = Duration::from_secs(60);

pub(crate) struct Members {
    following: Following,
    /// Consensus has ended, and there is nothing left to follow.
    over: bool,
}

impl Members {
    pub(crate) fn new(following: Following) -> Members {
        Members { following, over: false }
    }
}

impl Reconciler for Members {
    fn name(&self) -> &'static str {
        "members"
    }

    fn every(&self) -> Duration {
        EVERY
    }

    fn rest(&self) -> Duration {
        Following::EVERY
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
