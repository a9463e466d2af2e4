//! Asks the others, when nobody speaks to this node any more, whether it still belongs to them.

use std::time::Duration;

use clawhub_cluster::RemovalWatch;
use clawhub_reconcile::{Failure, Progress, Reconciler};

pub(crate) struct Removal {
    pub(crate) watch: RemovalWatch,
}

impl Reconciler for Removal {
    fn name(&self) -> &'static str {
        "removal"
    }

    fn every(&self) -> Duration {
        RemovalWatch::EVERY
    }

    async fn pass(&mut self) -> Result<Progress, Failure> {
        self.watch.pass().await;
        Ok(Progress::Settled)
    }
}
