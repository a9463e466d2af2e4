//! Reports to the log copies here that turned out bad while they were read, so that they are made anew.

use std::time::Duration;

use clawhub_reconcile::{Failure, Progress, Reconciler};
use clawhub_registry::Registry;

/// Whatever is noted wakes this; the cadence is the longest that a report which failed waits.
const EVERY: Duration = Duration::from_secs(60);

pub(crate) struct LostCopies {
    pub(crate) registry: Registry,
}

impl Reconciler for LostCopies {
    fn name(&self) -> &'static str {
        "lost_copies"
    }

    fn every(&self) -> Duration {
        EVERY
    }

    async fn wake(&mut self) {
        self.registry.lost_copies().noted().await;
    }

    async fn pass(&mut self) -> Result<Progress, Failure> {
        let more = self.registry.lost_copies().report().await?;
        Ok(if more { Progress::Step } else { Progress::Settled })
    }
}
