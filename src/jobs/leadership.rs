//! Judges whether this node should campaign, and hands leadership over where another voter is better. It runs on
//! every node: the others hear what each says of itself.

use std::time::Duration;

use clawhub_cluster as cluster;
use clawhub_reconcile::{BackOff, Failure, Progress, Reconciler};

pub(crate) struct Leadership {
    pub(crate) leadership: cluster::Leadership,
}

impl Reconciler for Leadership {
    fn name(&self) -> &'static str {
        "leadership"
    }

    fn every(&self) -> Duration {
        cluster::Leadership::EVERY
    }

    /// A verdict must hold for two looks, so they keep their distance.
    fn back_off(&self) -> BackOff {
        BackOff::constant(cluster::Leadership::EVERY)
    }

    async fn pass(&mut self) -> Result<Progress, Failure> {
        self.leadership.pass().await?;
        Ok(Progress::Settled)
    }
}
