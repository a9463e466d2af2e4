//! Judges whether this node should campaign, and hands leadership over where another voter is better. It runs on
//! every node: the others hear what each says of itself.

use std::time::Duration;

use clawhub_cluster::Leadership;
use clawhub_reconcile::{BackOff, Failure, Progress, Reconciler};

pub(crate) struct Lead {
    pub(crate) leadership: Leadership,
}

impl Reconciler for Lead {
    fn name(&self) -> &'static str {
        "leadership"
    }

    fn every(&self) -> Duration {
        Leadership::EVERY
    }

    /// A verdict must hold for two looks, so they keep their distance.
    fn back_off(&self) -> BackOff {
        BackOff::constant(Leadership::EVERY)
    }

    async fn pass(&mut self) -> Result<Progress, Failure> {
        self.leadership.pass().await?;
        Ok(Progress::Settled)
    }
}
