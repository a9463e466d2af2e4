//! How much uploads may use at once. In memory, and begun anew at each start.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};

use crate::Error;
use crate::error::RETRY;

/// Client bytes are gathered to this size before they are hashed, written and mirrored.
pub(super) const PIECE: usize = 512 * 1024;
/// How long a step that takes bytes waits for its place.
const WAIT: Duration = Duration::from_secs(20);
/// Steps that take bytes at the same time. Each may have 8 MiB between receiving and mirroring, but only
/// while the disk is slower than its client; slow clients, of whom there may be many, have half a MiB.
const ACTIVE: usize = 256;
/// Mirrors that stay open between two steps of their uploads, which saves the next step opening them. Each
/// takes one of its partner's streams.
const RESTING: usize = 128;

pub(super) struct Places {
    /// Bounds the memory of uploads.
    active: Semaphore,
    resting: Arc<Semaphore>,
}

impl Default for Places {
    fn default() -> Self {
        Places { active: Semaphore::new(ACTIVE), resting: Arc::new(Semaphore::new(RESTING)) }
    }
}

impl Places {
    /// One of the places of those that move bytes.
    pub(super) async fn active(&self) -> Result<SemaphorePermit<'_>, Error> {
        let late = |_| Error::unavailable(RETRY, "this node takes as many uploads as it can");
        let active = tokio::time::timeout(WAIT, self.active.acquire()).await.map_err(late)?;
        active.map_err(|_| Error::internal("the node is stopping"))
    }

    /// The right to keep a mirror open between two steps, if there is one left.
    pub(super) fn rest(&self) -> Option<OwnedSemaphorePermit> {
        self.resting.clone().try_acquire_owned().ok()
    }
}
