//! Records this start of the node in the log, once.

use std::time::Duration;

use clawhub_cluster as cluster;
use clawhub_reconcile::{Failure, Progress, Reconciler};

pub(crate) struct Registration {
    pub(crate) registration: cluster::Registration,
}

impl Reconciler for Registration {
    fn name(&self) -> &'static str {
        "registration"
    }

    fn every(&self) -> Duration {
        cluster::Registration::EVERY
    }

    async fn pass(&mut self) -> Result<Progress, Failure> {
        // A cluster that is still electing is no failure.
        match self.registration.pass().await {
            Ok(()) => Ok(Progress::Over),
            Err(_) => Ok(Progress::Behind),
        }
    }
}
