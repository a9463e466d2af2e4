//! Tells the other members, when the storage of this node fails, that the copies here do not count for now.

use std::time::Duration;

use clawhub_cluster as cluster;
use clawhub_reconcile::{Failure, Progress, Reconciler};

pub(crate) struct FailureNotice {
    pub(crate) notice: cluster::FailureNotice,
}

impl Reconciler for FailureNotice {
    fn name(&self) -> &'static str {
        "failure_notice"
    }

    fn every(&self) -> Duration {
        cluster::FailureNotice::EVERY
    }

    async fn pass(&mut self) -> Result<Progress, Failure> {
        // Whoever is told of a failing node may be out of its reach, and that is no news.
        match self.notice.pass().await {
            Ok(()) => Ok(Progress::Settled),
            Err(_) => Ok(Progress::Behind),
        }
    }
}
