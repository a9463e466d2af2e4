//! Asks every member twice a second whether it is there. How long an answer counts is decided by `liveness`.

use std::time::Duration;

use clawhub_liveness::{HEARTBEAT, Liveness};
use clawhub_reconcile::{Failure, Progress, Reconciler};

pub(crate) struct Heartbeat {
    pub(crate) liveness: Liveness,
}

impl Reconciler for Heartbeat {
    fn name(&self) -> &'static str {
        "heartbeat"
    }

    fn every(&self) -> Duration {
        HEARTBEAT
    }

    async fn pass(&mut self) -> Result<Progress, Failure> {
        self.liveness.refresh().await;
        Ok(Progress::Settled)
    }
}
