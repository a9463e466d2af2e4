//! Forgets upload sessions that nobody continues, and closes the mirrors of those whose clients pause.

use std::time::Duration;

use clawhub_reconcile::{Failure, Progress, Reconciler};
use clawhub_registry::Registry;

/// Also what closes files that nobody reads any more. A mirror is ended within twice this after its upload's
/// last step.
const EVERY: Duration = Duration::from_secs(60);
/// A session with bytes lives this long after its last step.
const IDLE: Duration = Duration::from_secs(24 * 60 * 60);

pub(crate) struct Uploads {
    pub(crate) registry: Registry,
}

impl Reconciler for Uploads {
    fn name(&self) -> &'static str {
        "uploads"
    }

    fn every(&self) -> Duration {
        EVERY
    }

    async fn pass(&mut self) -> Result<Progress, Failure> {
        let expired = self.registry.expire_uploads(IDLE).await;
        if expired > 0 {
            tracing::info!(expired, "abandoned uploads were forgotten");
        }
        Ok(Progress::Settled)
    }
}
