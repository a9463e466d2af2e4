//! Asks the others, when nobody speaks to this node any more, whether it still belongs to them.

use std::time::Duration;

use clawhub_cluster as cluster;
use clawhub_reconcile::{Failure, Progress, Reconciler};

pub(crate) struct RemovalWatch {
    pub(crate) watch: cluster::RemovalWatch,
}

impl Reconciler for RemovalWatch {
    fn name(&self) -> &'static str {
        "removal"
    }

    fn every(&self) -> Duration {
        cluster::RemovalWatch::EVERY
    }

    async fn pass(&mut self) -> Result<Progress, Failure> {
        self.watch.pass().await;
        Ok(Progress::Settled)
    }
}
