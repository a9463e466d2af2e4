//! Keeps the cache within its limit, and lets it make way before the device runs short.

use std::sync::Arc;
use std::time::Duration;

use clawhub_blobs::{BlobStore, CacheUsage};
use clawhub_reconcile::{Failure, Progress, Reconciler};
use parking_lot::Mutex;

/// Writers make room themselves where they meet the limit; this is so that they rarely do.
const EVERY: Duration = Duration::from_secs(2);

/// The reconciler. What it finds goes to `found`.
pub(crate) struct Cache {
    pub(crate) blobs: BlobStore,
    pub(crate) found: Arc<Mutex<CacheUsage>>,
}

impl Reconciler for Cache {
    fn name(&self) -> &'static str {
        "cache"
    }

    fn every(&self) -> Duration {
        EVERY
    }

    async fn pass(&mut self) -> Result<Progress, Failure> {
        let trimmed = self.blobs.cache().trim().await;
        *self.found.lock() = self.blobs.cache().usage()?;
        trimmed?;
        Ok(Progress::Settled)
    }
}
