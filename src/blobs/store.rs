//! The store itself: what all its handles share, and what can be asked of it.
//!
//! Owns the table of what is open and under way, in memory; a crash loses that, and what counts is in the
//! index and on disk.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clawhub_durable::task::detached;
use clawhub_types::{NodeId, Receipt, Root};
use parking_lot::Mutex;

use crate::BlobError;
use crate::buffers::Buffers;
use crate::cache_usage::CacheLimit;
use crate::cached::CachedCopies;
use crate::fetch::{Fetch, Fetches};
use crate::finished::Finished;
use crate::index::{BlobRow, Index, successor};
use crate::locks::RootLocks;
use crate::open_files::OpenFiles;
use crate::paths::Paths;
use crate::room::Room;
use crate::sessions::Sessions;
use crate::space::Space;
use crate::uptime::StoreClock;

/// Where the store lives and what it must leave alone.
#[derive(Clone, Debug)]
pub struct StoreConfig {
    /// The node's data directory; `blobs/`, `uploads/`, `partial/` and `quarantine/` are created in it.
    pub dir: PathBuf,
    /// Bytes of the device that uploads and fetches must leave free.
    pub min_free: u64,
    /// Whose receipts these are.
    pub node: NodeId,
    /// How long a group that was compared with the root may leave without being compared again.
    pub checks_good_for: Duration,
    /// Most bytes of copies that came for readers.
    pub cache: CacheLimit,
}

/// How long a check is good for unless the owner says otherwise.
pub const CHECKS_GOOD_FOR: Duration = Duration::from_secs(600);

impl StoreConfig {
    /// A store of `node` in `dir`, with everything else as it is by default.
    pub fn new(dir: PathBuf, node: NodeId) -> StoreConfig {
        StoreConfig { dir, min_free: 0, node, checks_good_for: CHECKS_GOOD_FOR, cache: CacheLimit::Share(10) }
    }
}

/// The content store of one node. A handle; clones share the store.
#[derive(Clone)]
pub struct BlobStore {
    pub(crate) shared: Arc<Shared>,
}

pub(crate) struct Shared {
    pub(crate) config: StoreConfig,
    pub(crate) paths: Paths,
    pub(crate) index: Index,
    pub(crate) clock: StoreClock,
    pub(crate) sessions: Mutex<Sessions>,
    pub(crate) finished: Finished,
    pub(crate) open: OpenFiles,
    pub(crate) cached: CachedCopies,
    pub(crate) fetches: Fetches,
    pub(crate) buffers: Arc<Buffers>,
    /// Memory of all uploads.
    pub(crate) room: Room,
    pub(crate) locks: RootLocks,
    /// Replicas that are to be deleted unless a receipt is made for them first. A crash forgets the
    /// plan, and whoever made it begins again.
    pub(crate) planned: Mutex<HashSet<Root>>,
    pub(crate) space: Space,
    /// The owner found that the device is not to be written to, whatever it has free.
    pub(crate) held_back: AtomicBool,
}

impl Shared {
    /// Blocking. Makes what a fetch has durable, then says so in its row.
    pub(crate) fn checkpoint(&self, fetch: &Fetch) -> Result<(), BlobError> {
        fetch.checkpoint(&self.paths, &self.index, &self.clock)
    }
}

impl BlobStore {
    /// The size of a blob held here, durably.
    pub fn holds(&self, root: &Root) -> Option<u64> {
        self.row(root).map(|row| row.size)
    }

    /// Whether a blob is held here, durable or about to be.
    ///
    /// # Errors
    /// [`BlobError::Index`] if that cannot be told, which [`BlobStore::holds`] takes for no.
    pub fn has(&self, root: &Root) -> Result<bool, BlobError> {
        Ok(self.shared.index.is_unsynced(root) || self.shared.index.blob(root)?.is_some())
    }

    /// A receipt for a blob held here. The copy was hashed by this node and is durable; a planned
    /// removal of it is off, and it is not part of the cache any more.
    ///
    /// # Errors
    /// [`BlobError::Index`]: there is no receipt.
    pub async fn receipt(&self, root: &Root, generation: u64) -> Result<Option<Receipt>, BlobError> {
        if self.row(root).is_none() {
            return Ok(None);
        }
        let store = self.clone();
        let root = *root;
        detached(async move {
            // No removal falls between looking and answering.
            let _exclusive = store.shared.locks.lock(&root).await;
            let Some(row) = store.row(&root) else { return Ok(None) };
            store.shared.cached.promote(&store.shared.index, &root).await?;
            store.shared.index.forget_orphan(&root)?;
            store.shared.planned.lock().remove(&root);
            Ok(Some(store.receipt_of(&root, row, generation)))
        })
        .await
    }

    fn row(&self, root: &Root) -> Option<BlobRow> {
        // An index that cannot be read holds nothing, as far as this node can promise.
        self.shared.index.blob(root).unwrap_or_else(|error| {
            tracing::error!(%root, %error, "the blob index cannot be read");
            None
        })
    }

    pub(crate) fn receipt_of(&self, root: &Root, row: BlobRow, generation: u64) -> Receipt {
        let BlobRow { size, digests } = row;
        let node = self.shared.config.node;
        let epoch = self.epoch();
        Receipt { node, epoch, generation, digests, root: *root, size }
    }

    /// At most `limit` blobs held here, root and size, in order of root, beginning behind `after`.
    pub fn inventory(&self, after: Option<Root>, limit: usize) -> Vec<(Root, u64)> {
        let mut held = Vec::new();
        let mut from = after.map_or(Some(Root([0; 32])), |after| successor(&after));
        while let Some(start) = from.take().filter(|_| held.len() < limit) {
            let want = limit - held.len();
            let rows = self.shared.index.blobs(start, want).unwrap_or_else(|error| {
                tracing::error!(%error, "the blob index cannot be read");
                Vec::new()
            });
            from = rows.last().filter(|_| rows.len() == want).and_then(|(root, _)| successor(root));
            let synced = rows.into_iter().filter(|(root, _)| !self.shared.index.is_unsynced(root));
            held.extend(synced.map(|(root, row)| (root, row.size)));
        }
        held
    }

    /// The deletion epoch that receipts carry.
    pub fn epoch(&self) -> u64 {
        self.shared.index.epoch()
    }

    /// Bytes that the device offers, as it said a moment ago.
    ///
    /// # Errors
    /// [`BlobError::Io`] if the device cannot be asked.
    pub fn free_space(&self) -> Result<u64, BlobError> {
        self.shared.space.free(|| self.shared.paths.free()).map_err(asking())
    }

    /// Bytes that the device has in all.
    pub(crate) fn capacity(&self) -> Result<u64, BlobError> {
        self.shared.paths.capacity().map_err(asking())
    }

    /// Whether uploads and copies are taken at the moment: the device is above the free-space limit, or would be without
    /// the cache, and nobody holds the store back.
    pub fn accepts(&self) -> bool {
        self.ensure_accepts().is_ok()
    }

    /// The same, with the reason.
    ///
    /// # Errors
    /// [`BlobError::NoSpace`], [`BlobError::HeldBack`]; [`BlobError::Io`] if the device cannot be asked.
    pub fn ensure_accepts(&self) -> Result<(), BlobError> {
        match self.ensure_space(0) {
            // Whoever writes has the cache make way.
            Err(BlobError::NoSpace { free })
                if free.saturating_add(self.shared.cached.evictable()) >= self.shared.config.min_free =>
            {
                Ok(())
            }
            other => other,
        }
    }

    /// Takes no uploads and copies from now on, or takes them again. What is here is read as before.
    pub fn hold_back(&self, on: bool) {
        self.shared.held_back.store(on, Ordering::Release);
    }

    /// Whether [`BlobStore::hold_back`] is in force.
    pub fn is_held_back(&self) -> bool {
        self.shared.held_back.load(Ordering::Acquire)
    }

    /// Refuses if `more` bytes would leave less than the configured space. The reading may be old
    /// (module `space`), so the limit is soft by what arrives in that time.
    pub(crate) fn ensure_space(&self, more: u64) -> Result<(), BlobError> {
        if self.is_held_back() {
            return Err(BlobError::HeldBack);
        }
        let free = self.free_space()?;
        let left = free.checked_sub(more);
        if left.is_none_or(|left| left < self.shared.config.min_free) {
            return Err(BlobError::NoSpace { free });
        }
        Ok(())
    }
}

pub(crate) fn asking() -> impl FnOnce(std::io::Error) -> BlobError {
    BlobError::io("asking for free space")
}
