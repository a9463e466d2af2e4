//! How much uploads may use at once. In memory, and begun anew at each start.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};

use crate::Error;
use crate::error::CROWDED;

/// Client bytes are gathered to this size before they are hashed, written and mirrored.
pub(super) const PIECE: usize = 512 * 1024;
/// What every upload that takes bytes has.
pub(super) const SMALL: usize = 64 * 1024;
/// Room for a piece, and for what comes with its last bytes.
pub(super) const LARGE: usize = PIECE + SMALL;
/// How long a step waits for its turn with the disk and the partner, or for the memory that every upload has.
const WAIT: Duration = Duration::from_secs(20);
/// Steps that gather bytes from their clients at the same time.
const SMALLS: usize = 2048;
/// Those of them that may gather whole pieces.
const LARGES: usize = 128;
/// Pieces on their way to the disk and the partner at the same time. A piece moves as fast as these are, however slow
/// its client is.
const ACTIVE: usize = 128;
/// Mirrors that stay open between two steps of their uploads, which saves the next step opening them. Each
/// takes one of its partner's streams.
const RESTING: usize = 128;

/// What gathering takes in memory, and the pieces that leave it.
pub const GATHER_MEMORY: u64 = (SMALLS * SMALL + (LARGES + ACTIVE) * LARGE) as u64;

pub(super) struct Places {
    small: Semaphore,
    large: Semaphore,
    active: Semaphore,
    resting: Arc<Semaphore>,
}

impl Default for Places {
    fn default() -> Self {
        Places {
            small: Semaphore::new(SMALLS),
            large: Semaphore::new(LARGES),
            active: Semaphore::new(ACTIVE),
            resting: Arc::new(Semaphore::new(RESTING)),
        }
    }
}

impl Places {
    /// The right to move one piece, or a bounded part of what a partner lacks.
    pub(super) async fn active(&self) -> Result<SemaphorePermit<'_>, Error> {
        soon(&self.active).await
    }

    /// The right to gather a client's bytes.
    pub(super) async fn small(&self) -> Result<SemaphorePermit<'_>, Error> {
        soon(&self.small).await
    }

    /// The right to gather whole pieces, if there is one left.
    pub(super) fn large(&self) -> Option<SemaphorePermit<'_>> {
        self.large.try_acquire().ok()
    }

    /// How many more steps may gather whole pieces.
    #[cfg(test)]
    pub(super) fn larges_left(&self) -> usize {
        self.large.available_permits()
    }

    /// The right to keep a mirror open between two steps, if there is one left.
    pub(super) fn rest(&self) -> Option<OwnedSemaphorePermit> {
        self.resting.clone().try_acquire_owned().ok()
    }
}

async fn soon(places: &Semaphore) -> Result<SemaphorePermit<'_>, Error> {
    let late = |_| Error::unavailable(CROWDED, "this node takes as many uploads as it can");
    let place = tokio::time::timeout(WAIT, places.acquire()).await.map_err(late)?;
    place.map_err(|_| Error::internal("the node is stopping"))
}
