//! Asks the members that this node knows about one that wants in and that it does not know, while it is behind.

use std::time::Duration;

use clawhub_cluster as cluster;
use clawhub_reconcile::{Failure, Progress, Reconciler};

/// Whoever wants in wakes this.
const EVERY: Duration = Duration::from_secs(60);

pub(crate) struct Introductions {
    pub(crate) introductions: cluster::Introductions,
}

impl Reconciler for Introductions {
    fn name(&self) -> &'static str {
        "introductions"
    }

    fn every(&self) -> Duration {
        EVERY
    }

    fn rest(&self) -> Duration {
        cluster::Introductions::REST
    }

    async fn wake(&mut self) {
        self.introductions.wake().await;
    }

    async fn pass(&mut self) -> Result<Progress, Failure> {
        self.introductions.pass().await;
        Ok(Progress::Settled)
    }
}
