//! The memory of all uploads together, between receiving and the disk.
//!
//! In memory: counts, no bytes.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::BlobError;

/// Bytes queued for hashing and writing, over all sessions.
const QUEUED: usize = 128 << 20;
/// Blocks of a MiB, in which large files are written past the page cache, over all sessions.
const BLOCKS: usize = 128;
/// Sessions whose files are open.
const OPEN: usize = 1024;
/// What hashes, lists and buffers of one of them take, about.
const OPEN_BYTES: u64 = 48 << 10;
/// What uploads take in memory, in bytes, beside their sessions' entries.
pub const UPLOAD_MEMORY: u64 = QUEUED as u64 + ((BLOCKS as u64) << 20) + OPEN as u64 * OPEN_BYTES;

/// What there is for all uploads. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Room {
    queued: Arc<Semaphore>,
    blocks: Arc<Semaphore>,
    open: Arc<Semaphore>,
}

impl Default for Room {
    fn default() -> Room {
        let places = |count| Arc::new(Semaphore::new(count));
        Room { queued: places(QUEUED), blocks: places(BLOCKS), open: places(OPEN) }
    }
}

impl Room {
    /// Waits for room to queue so many bytes. Whoever has some needs no more to get rid of them.
    pub(crate) async fn queue(&self, bytes: u32) -> Result<OwnedSemaphorePermit, BlobError> {
        let room = self.queued.clone().acquire_many_owned(bytes).await;
        room.map_err(|closed| BlobError::Worker(closed.to_string()))
    }

    /// The right of a session to open its files, if there is one left.
    pub(crate) fn open(&self) -> Option<OwnedSemaphorePermit> {
        self.open.clone().try_acquire_owned().ok()
    }

    /// A block, if there is one left. Without one a file goes through the page cache.
    pub(crate) fn block(&self) -> Option<OwnedSemaphorePermit> {
        self.blocks.clone().try_acquire_owned().ok()
    }
}
