//! Records this start of the node in the log, once.

use std::time::Duration;

use clawhub_cluster::Registration;
use clawhub_reconcile::{Failure, Progress, Reconciler};

pub(crate) struct Register {
    pub(crate) registration: Registration,
}

impl Reconciler for Register {
    fn name(&self) -> &'static str {
        "registration"
    }

    fn every(&self) -> Duration {
        Registration::EVERY
    }

    async fn pass(&mut self) -> Result<Progress, Failure> {
        // A cluster that is still electing is no failure.
        match self.registration.pass().await {
            Ok(()) => Ok(Progress::Over),
            Err(_) => Ok(Progress::Behind),
        }
    }
}
