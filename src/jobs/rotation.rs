//! Takes this node's steps when the keys of the cluster are replaced.

use std::time::Duration;

use clawhub_cluster as cluster;
use clawhub_reconcile::{BackOff, Failure, Progress, Reconciler};

pub(crate) struct Rotation {
    rotation: cluster::Rotation,
    /// Consensus has ended.
    over: bool,
}

impl Rotation {
    pub(crate) fn new(rotation: cluster::Rotation) -> Rotation {
        Rotation { rotation, over: false }
    }
}

impl Reconciler for Rotation {
    fn name(&self) -> &'static str {
        "rotation"
    }

    fn every(&self) -> Duration {
        cluster::Rotation::EVERY
    }

    fn rest(&self) -> Duration {
        cluster::Rotation::REST
    }

    /// Every second as long as it lasts: the others wait for each.
    fn back_off(&self) -> BackOff {
        BackOff::constant(cluster::Rotation::EVERY)
    }

    async fn wake(&mut self) {
        self.over = !self.rotation.wake().await;
    }

    async fn pass(&mut self) -> Result<Progress, Failure> {
        if self.over {
            return Ok(Progress::Over);
        }
        Ok(if self.rotation.pass().await? { Progress::Step } else { Progress::Settled })
    }
}
