//! The store itself: what it owns, how a file becomes a replica, and how it stops being one.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use clawhub_durable::promised::{sync_blob, sync_blob_dir};
use clawhub_durable::task::{blocking, detached};
use clawhub_kv::{Batch, Kv};
use clawhub_types::{Digests, NodeId, Receipt, Root, UploadId};
use parking_lot::Mutex;
use rand::RngExt;
use sha2::{Digest, Sha256};

use crate::BlobError;
use crate::buffers::Buffers;
use crate::cache::OpenFiles;
use crate::fetch::Fetches;
use crate::index::{BlobRow, Index, delete_blob};
use crate::ingest::Sealed;
use crate::paths::{Files, Paths, remove_dir};
use crate::recover;
use crate::session::Session;
use crate::space::Space;
use crate::tree::{TreeHasher, list_len};

/// Where the store lives and what it must leave alone.
#[derive(Clone, Debug)]
pub struct StoreConfig {
    /// The node's data directory; `blobs/`, `uploads/`, `partial/` and `quarantine/` are created in it.
    pub dir: PathBuf,
    /// Bytes of the device that uploads and fetches must leave free.
    pub min_free: u64,
    /// Whose receipts these are.
    pub node: NodeId,
}

/// The content store of one node. A handle; clones share the store.
#[derive(Clone)]
pub struct BlobStore {
    pub(crate) shared: Arc<Shared>,
}

/// What all handles share.
pub(crate) struct Shared {
    pub(crate) config: StoreConfig,
    pub(crate) paths: Paths,
    pub(crate) index: Index,
    pub(crate) sessions: Mutex<HashMap<UploadId, Arc<Session>>>,
    pub(crate) open: OpenFiles,
    pub(crate) fetches: Fetches,
    pub(crate) buffers: Arc<Buffers>,
    locks: RootLocks,
    /// Replicas that are to be deleted unless a receipt is made for them first. A crash forgets the
    /// plan, and whoever made it begins again.
    planned: Mutex<HashSet<Root>>,
    space: Space,
    /// The owner found that the device is not to be written to, whatever it has free.
    held_back: AtomicBool,
}

/// One lock per root, striped: making, confirming and deleting a replica exclude each other.
struct RootLocks(Vec<tokio::sync::Mutex<()>>);

impl RootLocks {
    async fn lock(&self, root: &Root) -> tokio::sync::MutexGuard<'_, ()> {
        self.0[usize::from(root.0[0])].lock().await
    }
}

/// Fsynced files that are to become a replica.
pub(crate) struct Staged {
    pub(crate) files: Files,
    pub(crate) sealed: Sealed,
}

impl BlobStore {
    /// Opens the store, and finishes or rolls back what a crash left:
    ///
    /// - an upload resumes at its durable offset; one without a row, or without its bytes, is dropped;
    /// - a replica whose row was not written yet is hashed: it becomes a replica, or is quarantined;
    /// - a row without its file is dropped (the node then reports the copy as lost);
    /// - a fetch resumes with the groups that were fsynced.
    ///
    /// Lists every directory of `blobs/`.
    ///
    /// # Errors
    /// Whatever the file system or the index say; nothing is guessed.
    pub async fn open(config: StoreConfig, index: Arc<dyn Kv>) -> Result<BlobStore, BlobError> {
        blocking(move || {
            let paths = Paths::open(config.dir.clone()).map_err(BlobError::io("opening the blob store"))?;
            let index = Index::open(index)?;
            let sessions = recover::uploads(&paths, &index)?;
            recover::fetches(&paths, &index)?;
            recover::replicas(&paths, &index)?;
            let space = Space::new(paths.free().map_err(asking())?);
            let shared = Shared {
                config,
                paths,
                index,
                sessions: Mutex::new(sessions),
                open: OpenFiles::default(),
                fetches: Fetches::default(),
                buffers: Arc::default(),
                locks: RootLocks((0..256).map(|_| tokio::sync::Mutex::default()).collect()),
                planned: Mutex::default(),
                space,
                held_back: AtomicBool::new(false),
            };
            Ok(BlobStore { shared: Arc::new(shared) })
        })
        .await
    }

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
    /// removal of it is off.
    pub fn receipt(&self, root: &Root, generation: u64) -> Option<Receipt> {
        // Under the plan's lock, so that no removal falls between looking and answering.
        let mut planned = self.shared.planned.lock();
        let row = self.row(root)?;
        planned.remove(root);
        Some(self.receipt_of(root, row, generation))
    }

    fn row(&self, root: &Root) -> Option<BlobRow> {
        // An index that cannot be read holds nothing, as far as this node can promise.
        self.shared.index.blob(root).unwrap_or_else(|error| {
            tracing::error!(%root, %error, "the blob index cannot be read");
            None
        })
    }

    fn receipt_of(&self, root: &Root, row: BlobRow, generation: u64) -> Receipt {
        let BlobRow { size, digests } = row;
        let (node, epoch) = (self.shared.config.node, self.epoch());
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

    /// The first step of deleting copies that receipts may cover (invariant 13): notes them, raises the
    /// deletion epoch durably and answers the new one. Once the cluster has applied that epoch, receipts
    /// made before this call are void; a receipt made after it takes its root off the plan. Then, if the
    /// applied state still wants the copies gone, [`BlobStore::remove`] deletes those still planned.
    ///
    /// # Errors
    /// [`BlobError::Index`]: the epoch is then the old one, or after a restart perhaps the new one.
    pub async fn plan_removal(&self, roots: &[Root]) -> Result<u64, BlobError> {
        self.shared.planned.lock().extend(roots);
        let store = self.clone();
        detached(async move { store.shared.index.raise_epoch().await }).await
    }

    /// Bytes that the device offers, as it said a moment ago.
    ///
    /// # Errors
    /// [`BlobError::Io`] if the device cannot be asked.
    pub fn free_space(&self) -> Result<u64, BlobError> {
        self.shared.space.free(|| self.shared.paths.free()).map_err(asking())
    }

    /// Whether uploads and copies are taken at the moment: the device is above the free-space limit, and
    /// nobody holds the store back.
    pub fn accepts(&self) -> bool {
        self.ensure_accepts().is_ok()
    }

    /// The same, with the reason.
    ///
    /// # Errors
    /// [`BlobError::NoSpace`], [`BlobError::HeldBack`]; [`BlobError::Io`] if the device cannot be asked.
    pub fn ensure_accepts(&self) -> Result<(), BlobError> {
        self.ensure_space(0)
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

    /// Stores a whole small blob, such as a manifest too large for the log, and answers when it is
    /// durable.
    ///
    /// # Errors
    /// [`BlobError::NoSpace`], [`BlobError::Io`], [`BlobError::Index`].
    pub async fn put(&self, bytes: Bytes, generation: u64) -> Result<Receipt, BlobError> {
        self.ensure_space(bytes.len() as u64)?;
        let store = self.clone();
        detached(async move {
            let dir = store.shared.paths.uploads().join(format!("put-{:032x}", rand::rng().random::<u128>()));
            let staging = dir.clone();
            let staged = blocking(move || stage(&staging, &bytes)).await;
            let kept = match staged {
                Ok(staged) => store.place(staged, generation, Batch::default()).await,
                Err(error) => Err(error),
            };
            blocking(move || remove_dir(&dir).map_err(BlobError::io("removing a staging directory"))).await?;
            kept
        })
        .await
    }

    /// Turns fsynced files into a replica: rename, fsync of the directory, index row together with
    /// `batch`, receipt. If the root is held already, that copy is confirmed and `staged` left where it
    /// is.
    pub(crate) async fn place(
        &self,
        staged: Staged,
        generation: u64,
        batch: Batch,
    ) -> Result<Receipt, BlobError> {
        let Staged { files, sealed } = staged;
        let root = sealed.root;
        let _exclusive = self.shared.locks.lock(&root).await;
        if let Some(receipt) = self.confirm_locked(&sealed, generation, &batch).await? {
            return Ok(receipt);
        }
        let store = self.clone();
        let install = move || store.shared.paths.install(&root, &files, list_len(sealed.size) > 0);
        blocking(move || install().map_err(BlobError::io("moving a blob into place"))).await?;
        let row = BlobRow { size: sealed.size, digests: sealed.digests };
        self.shared.index.commit_blob(&root, &row, batch).await?;
        Ok(self.receipt_of(&root, row, generation))
    }

    /// A receipt for the copy that is held of the same bytes, with `batch` written; nothing if there is
    /// none.
    pub(crate) async fn confirm(
        &self,
        sealed: &Sealed,
        generation: u64,
        batch: &Batch,
    ) -> Result<Option<Receipt>, BlobError> {
        let _exclusive = self.shared.locks.lock(&sealed.root).await;
        self.confirm_locked(sealed, generation, batch).await
    }

    async fn confirm_locked(
        &self,
        sealed: &Sealed,
        generation: u64,
        batch: &Batch,
    ) -> Result<Option<Receipt>, BlobError> {
        let Sealed { root, size, digests } = sealed.clone();
        let Some(held) = self.shared.index.blob(&root)?.filter(|row| row.size == size) else {
            return Ok(None);
        };
        let path = self.shared.paths.blob(&root).data;
        let is_whole =
            move || Ok::<_, BlobError>(std::fs::metadata(path).is_ok_and(|file| file.len() == size));
        if !blocking(is_whole).await? {
            return Ok(None);
        }
        let sha512 = digests.sha512.or(held.digests.sha512);
        let row = BlobRow { size, digests: Digests { sha512, ..digests } };
        if row == held {
            self.shared.index.write(batch.clone())?;
        } else {
            self.shared.index.commit_blob(&root, &row, batch.clone()).await?;
        }
        self.shared.planned.lock().remove(&root);
        Ok(Some(self.receipt_of(&root, row, generation)))
    }

    /// Deletes a copy whose removal is planned ([`BlobStore::plan_removal`]); false if there is none, or
    /// if a receipt was made for it since. Readers that have it open are served to the end.
    ///
    /// # Errors
    /// [`BlobError::Io`], [`BlobError::Index`]; what is then left goes, or returns, at the next start.
    pub async fn remove(&self, root: &Root) -> Result<bool, BlobError> {
        let (store, root) = (self.clone(), *root);
        detached(async move {
            let _exclusive = store.shared.locks.lock(&root).await;
            {
                let mut planned = store.shared.planned.lock();
                if !planned.remove(&root) || store.shared.index.blob(&root)?.is_none() {
                    return Ok(false);
                }
                let mut batch = Batch::default();
                delete_blob(&mut batch, &root);
                store.shared.index.write(batch)?;
            }
            // Nobody sees the row any more; durably so before the bytes go.
            store.forget(&root).await?;
            let shared = store.shared.clone();
            blocking(move || shared.paths.unlink(&root).map_err(BlobError::io("deleting a blob"))).await?;
            Ok(true)
        })
        .await
    }

    /// Takes a bad copy out of service: it is never served again, and its files are kept in
    /// `quarantine/`. Nothing happens if there is no copy.
    ///
    /// # Errors
    /// [`BlobError::Io`], [`BlobError::Index`].
    pub async fn quarantine(&self, root: &Root) -> Result<(), BlobError> {
        let (store, root) = (self.clone(), *root);
        detached(async move {
            let _exclusive = store.shared.locks.lock(&root).await;
            store.condemn(&root).await
        })
        .await
    }

    /// The same for a copy that was found bad through an open file, unless another copy has taken its
    /// place since.
    pub(crate) async fn quarantine_if(
        &self,
        root: &Root,
        is_it: impl FnOnce(&Path) -> bool + Send + 'static,
    ) -> Result<(), BlobError> {
        let (store, root) = (self.clone(), *root);
        detached(async move {
            let _exclusive = store.shared.locks.lock(&root).await;
            let path = store.shared.paths.blob(&root).data;
            if blocking(move || Ok::<_, BlobError>(is_it(&path))).await? {
                store.condemn(&root).await
            } else {
                Ok(())
            }
        })
        .await
    }

    /// Drops the row of a copy that the device does not give back, so that it is fetched anew; the next
    /// start finds out whether its files can be read again. Nothing is dropped if another copy has taken its
    /// place since, nor while the store is held back: a device that fails as a whole says nothing about one
    /// copy.
    pub(crate) async fn disown_if(
        &self,
        root: &Root,
        is_it: impl FnOnce(&Path) -> bool + Send + 'static,
    ) -> Result<(), BlobError> {
        if self.is_held_back() {
            return Ok(());
        }
        let (store, root) = (self.clone(), *root);
        detached(async move {
            let _exclusive = store.shared.locks.lock(&root).await;
            let path = store.shared.paths.blob(&root).data;
            if store.shared.index.blob(&root)?.is_none()
                || !blocking(move || Ok::<_, BlobError>(is_it(&path))).await?
            {
                return Ok(());
            }
            tracing::error!(%root, "a stored copy cannot be read and is not relied on any more");
            store.forget(&root).await
        })
        .await
    }

    /// Under the root's lock.
    async fn condemn(&self, root: &Root) -> Result<(), BlobError> {
        if self.shared.index.blob(root)?.is_none() {
            return Ok(());
        }
        tracing::error!(%root, "a stored copy is corrupt and goes to quarantine");
        self.forget(root).await?;
        let (shared, root) = (self.shared.clone(), *root);
        blocking(move || shared.paths.condemn(&root).map_err(BlobError::io("moving a blob to quarantine")))
            .await
    }

    /// Drops the row, durably, then the cached file: an opener inserts into the cache only while the
    /// row is there. Under the root's lock.
    pub(crate) async fn forget(&self, root: &Root) -> Result<(), BlobError> {
        let mut batch = Batch::default();
        delete_blob(&mut batch, root);
        self.shared.index.commit(batch).await?;
        self.shared.open.evict(root);
        Ok(())
    }

    /// Drops the row of a copy whose file is gone, unless it has come back.
    pub(crate) async fn forget_missing(&self, root: &Root) -> Result<(), BlobError> {
        let (store, root) = (self.clone(), *root);
        detached(async move {
            let _exclusive = store.shared.locks.lock(&root).await;
            let path = store.shared.paths.blob(&root).data;
            let there =
                blocking(move || path.try_exists().map_err(BlobError::io("looking for a blob"))).await?;
            if there { Ok(()) } else { store.forget(&root).await }
        })
        .await
    }

    /// Makes every session and fetch durable as far as it got; for an orderly stop. What is not flushed
    /// when the process ends is received again.
    ///
    /// # Errors
    /// The first failure; the others are tried all the same.
    pub async fn close(&self) -> Result<(), BlobError> {
        let uploads = self.flush_all().await;
        let fetches = self.save_fetches().await;
        uploads.and(fetches)
    }
}

fn asking() -> impl FnOnce(std::io::Error) -> BlobError {
    BlobError::io("asking for free space")
}

/// The root after this one, if there is one.
pub(crate) fn successor(root: &Root) -> Option<Root> {
    let mut bytes = root.0;
    for byte in bytes.iter_mut().rev() {
        *byte = byte.wrapping_add(1);
        if *byte != 0 {
            return Some(Root(bytes));
        }
    }
    None
}

/// Blocking. Writes a whole blob into a directory of its own and fsyncs it.
fn stage(dir: &Path, bytes: &[u8]) -> Result<Staged, BlobError> {
    let failed = |error| BlobError::io("writing a blob")(error);
    let size = bytes.len() as u64;
    let (mut tree, mut list) = (TreeHasher::new(), Vec::new());
    tree.update(bytes, &mut list);
    let tree = tree.finish();
    std::fs::create_dir(dir).map_err(failed)?;
    let files = Files::in_dir(dir);
    write_durably(&files.data, bytes).map_err(failed)?;
    if let Some(last) = tree.last {
        list.extend_from_slice(&last);
        write_durably(&files.ob, &list).map_err(failed)?;
    }
    sync_blob_dir(dir).map_err(failed)?;
    let digests = Digests { sha256: Sha256::digest(bytes).into(), sha512: None };
    Ok(Staged { files, sealed: Sealed { root: tree.root, size, digests } })
}

/// Blocking. Creates a file with this content and fsyncs it.
pub(crate) fn write_durably(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut file = std::fs::File::create(path)?;
    std::io::Write::write_all(&mut file, bytes)?;
    sync_blob(&file)
}
