//! Deletes what is left of pushes that were never committed.

use std::time::Duration;

use clawhub_reconcile::{Failure, Progress, Reconciler};
use clawhub_registry::Registry;

/// A pass looks at every copy here.
const EVERY: Duration = Duration::from_secs(60 * 60);
/// Longer than any push waits for its second copy.
const OLDER: Duration = Duration::from_secs(24 * 60 * 60);

pub(crate) struct Orphans {
    pub(crate) registry: Registry,
}

impl Reconciler for Orphans {
    fn name(&self) -> &'static str {
        "orphans"
    }

    fn every(&self) -> Duration {
        EVERY
    }

    async fn pass(&mut self) -> Result<Progress, Failure> {
        let deleted = self.registry.orphans().sweep(OLDER).await?;
        Ok(if deleted > 0 { Progress::Step } else { Progress::Settled })
    }
}
