//! Keeps the cache within its limit, and lets it make way before the device runs short.

use std::time::Duration;

use clawhub_blobs::BlobStore;
use clawhub_reconcile::{Failure, Progress, Reconciler};

/// Writers make room themselves where they meet the limit; this is so that they rarely do.
const EVERY: Duration = Duration::from_secs(2);

/// The reconciler.
pub(crate) struct Cache {
    pub(crate) blobs: BlobStore,
}

impl Reconciler for Cache {
    fn name(&self) -> &'static str {
        "cache"
    }

    fn every(&self) -> Duration {
        EVERY
    }

    async fn pass(&mut self) -> Result<Progress, Failure> {
        self.blobs.cache().trim().await?;
        Ok(Progress::Settled)
    }
}
