//! Has the log know what members acknowledge to the leader.

use std::time::Duration;

use clawhub_cluster as cluster;
use clawhub_reconcile::{Failure, Progress, Reconciler, Scope};

pub(crate) struct Acknowledgements {
    pub(crate) acknowledgements: cluster::Acknowledgements,
}

impl Reconciler for Acknowledgements {
    fn name(&self) -> &'static str {
        "acknowledgements"
    }

    fn scope(&self) -> Scope {
        Scope::Leader
    }

    fn every(&self) -> Duration {
        cluster::Acknowledgements::EVERY
    }

    async fn pass(&mut self) -> Result<Progress, Failure> {
        self.acknowledgements.pass().await?;
        Ok(Progress::Settled)
    }
}
