//! Brings those who vote to what the layout asks for: the leader takes one step after the other.

use std::time::Duration;

use clawhub_cluster as cluster;
use clawhub_reconcile::{Failure, Progress, Reconciler, Scope};

pub(crate) struct Membership {
    pub(crate) membership: cluster::Membership,
}

impl Reconciler for Membership {
    fn name(&self) -> &'static str {
        "membership"
    }

    fn scope(&self) -> Scope {
        Scope::Leader
    }

    fn every(&self) -> Duration {
        cluster::Membership::EVERY
    }

    async fn pass(&mut self) -> Result<Progress, Failure> {
        self.membership.pass().await?;
        Ok(Progress::Settled)
    }
}
