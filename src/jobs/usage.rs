//! Counts the blobs that this node holds, and their bytes, for metrics and operators.

use std::sync::Arc;
use std::time::Duration;

use clawhub_blobs::BlobStore;
use clawhub_durable::task::{Lost, blocking};
use clawhub_reconcile::{Failure, Progress, Reconciler};
use parking_lot::Mutex;

const EVERY: Duration = Duration::from_secs(30);
/// Rows of the blob index read at once.
const PAGE: usize = 1024;

/// What the node holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Blobs with a durable copy.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// The reconciler. What it counts goes to `counted`.
pub(crate) struct Count {
    pub(crate) blobs: BlobStore,
    pub(crate) counted: Arc<Mutex<Usage>>,
}

impl Reconciler for Count {
    fn name(&self) -> &'static str {
        "usage"
    }

    fn every(&self) -> Duration {
        EVERY
    }

    async fn pass(&mut self) -> Result<Progress, Failure> {
        let blobs = self.blobs.clone();
        let usage = blocking(move || Ok::<_, Lost>(count(&blobs))).await?;
        *self.counted.lock() = usage;
        Ok(Progress::Settled)
    }
}

/// Blocking.
fn count(blobs: &BlobStore) -> Usage {
    let mut usage = Usage::default();
    let mut after = None;
    loop {
        let page = blobs.inventory(after, PAGE);
        for (_, size) in &page {
            usage.blobs += 1;
            usage.bytes += size;
        }
        match page.last() {
            Some((root, _)) if page.len() == PAGE => after = Some(*root),
            _ => return usage,
        }
    }
}
