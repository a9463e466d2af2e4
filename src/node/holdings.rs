//! How much this node holds, as last counted. A crash loses the count, and the next one is as good.

use std::sync::Arc;
use std::time::Duration;

use clawhub_blobs::BlobStore;
use parking_lot::Mutex;

/// Rows of the blob index read at once while counting.
const PAGE: usize = 1024;

/// What the node holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    /// Blobs with a durable copy.
    pub(crate) blobs: u64,
    /// Their bytes.
    pub(crate) bytes: u64,
}

/// See the [module](self). Cheap to clone.
#[derive(Clone)]
pub(crate) struct Holdings {
    blobs: BlobStore,
    usage: Arc<Mutex<Usage>>,
}

impl Holdings {
    /// Between two counts.
    pub(crate) const EVERY: Duration = Duration::from_secs(30);

    /// Of a store, not counted yet.
    pub(crate) fn of(blobs: BlobStore) -> Holdings {
        Holdings { blobs, usage: Arc::default() }
    }

    /// What was counted last.
    pub(crate) fn usage(&self) -> Usage {
        *self.usage.lock()
    }

    /// Counts.
    pub(crate) async fn pass(&self) {
        let blobs = self.blobs.clone();
        // It fails when the runtime goes down, and then nobody asks.
        if let Ok(usage) = tokio::task::spawn_blocking(move || count(&blobs)).await {
            *self.usage.lock() = usage;
        }
    }
}

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
