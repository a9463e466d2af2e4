//! The copies held here: how a file becomes one, how one stops being one, and what a bad one becomes.
//!
//! Owns the order in which files and rows change, under one lock per root. Where a crash lets that order
//! come to is what [`crate::recover`] finds and finishes.

use std::path::Path;

use bytes::Bytes;
use clawhub_durable::promised::sync_blob_dir;
use clawhub_durable::task::{blocking, detached};
use clawhub_kv::Batch;
use clawhub_types::{Digests, Receipt, Root};
use rand::RngExt;
use sha2::{Digest, Sha256};

use crate::blob::compare;
use crate::index::{BlobRow, CachedRow, delete_blob, delete_cached, delete_orphan, put_cached};
use crate::ingest::Sealed;
use crate::paths::{Files, remove_dir, write_durably};
use crate::tree::{TreeHasher, list_len};
use crate::{BlobError, BlobStore};

/// Fsynced files that are to become a replica.
pub(crate) struct Staged {
    pub(crate) files: Files,
    pub(crate) sealed: Sealed,
}

/// The copies of a store, as a handle to make, confirm and remove them.
#[derive(Clone, Copy)]
pub struct Replicas<'a> {
    store: &'a BlobStore,
}

impl BlobStore {
    /// The copies held here.
    pub fn replicas(&self) -> Replicas<'_> {
        Replicas { store: self }
    }
}

impl Replicas<'_> {
    /// The first step of deleting copies that receipts may cover (invariant 13): notes them, raises the
    /// deletion epoch durably and answers the new one. Once the cluster has applied that epoch, receipts
    /// made before this call are void; a receipt made after it takes its root off the plan. Then, if the
    /// applied state still wants the copies gone, [`Replicas::remove`] deletes those still planned.
    ///
    /// # Errors
    /// [`BlobError::Index`]: the epoch is then the old one, or after a restart perhaps the new one.
    pub async fn plan_removal(self, roots: &[Root]) -> Result<u64, BlobError> {
        self.store.shared.planned.lock().extend(roots);
        let store = self.store.clone();
        detached(async move { store.shared.index.raise_epoch().await }).await
    }

    /// Stores a whole small blob, such as a manifest too large for the log, and answers when it is
    /// durable.
    ///
    /// # Errors
    /// [`BlobError::NoSpace`], [`BlobError::Io`], [`BlobError::Index`].
    pub async fn put(self, bytes: Bytes, generation: u64) -> Result<Receipt, BlobError> {
        self.store.cache().ensure_room(bytes.len() as u64).await?;
        let store = self.store.clone();
        detached(async move {
            let dir = store.shared.paths.uploads().join(format!("put-{:032x}", rand::rng().random::<u128>()));
            let staging = dir.clone();
            let staged = blocking(move || stage(&staging, &bytes)).await;
            let kept = match staged {
                Ok(staged) => store.replicas().place(staged, generation, Batch::default()).await,
                Err(error) => Err(error),
            };
            blocking(move || remove_dir(&dir).map_err(BlobError::io("removing a staging directory"))).await?;
            kept
        })
        .await
    }

    /// Turns fsynced files into a replica: rename, fsync of the directory, index row together with
    /// `batch`, receipt. If the root is held already and all of that copy was checked lately, it is confirmed and
    /// `staged` left where it is. Otherwise the new files take its place: nobody knows what has become of a copy that
    /// nobody has read, and these bytes were just hashed. Who has the old file open reads on in it.
    pub(crate) async fn place(
        self,
        staged: Staged,
        generation: u64,
        batch: Batch,
    ) -> Result<Receipt, BlobError> {
        let Staged { files, sealed } = staged;
        let root = sealed.root;
        let _exclusive = self.store.shared.locks.lock(&root).await;
        if let Some(receipt) = self.confirm_locked(&sealed, generation, &batch).await? {
            return Ok(receipt);
        }
        self.install(&files, &sealed).await?;
        let held = self.store.shared.index.blob(&root)?;
        self.vouch(sealed, held, generation, batch).await
    }

    /// Makes the copy that is in place one that counts, and answers its receipt. Under the root's lock.
    async fn vouch(
        self,
        Sealed { root, size, digests }: Sealed,
        held: Option<BlobRow>,
        generation: u64,
        mut batch: Batch,
    ) -> Result<Receipt, BlobError> {
        let row = BlobRow { size, digests: with_names(digests, held.as_ref()) };
        delete_cached(&mut batch, &root);
        delete_orphan(&mut batch, &root);
        if held.as_ref() == Some(&row) {
            // It is durable already, and nobody should miss it for the time of a sync.
            self.store.shared.index.write(batch)?;
            self.store.shared.cached.promote(&self.store.shared.index, &root).await?;
        } else {
            self.store.shared.index.commit_blob(&root, &row, batch).await?;
            self.store.shared.cached.remove(&root);
        }
        self.store.shared.planned.lock().remove(&root);
        Ok(self.store.receipt_of(&root, row, generation))
    }

    /// The same for a copy that came for a reader: it becomes a part of the cache, and there is no receipt. A copy
    /// that is held already stays as it is.
    pub(crate) async fn place_cached(self, staged: Staged, mut batch: Batch) -> Result<(), BlobError> {
        let Staged { files, sealed } = staged;
        let root = sealed.root;
        let _exclusive = self.store.shared.locks.lock(&root).await;
        if self.store.shared.index.blob(&root)?.is_some() {
            return self.store.shared.index.write(batch);
        }
        self.install(&files, &sealed).await?;
        let row = BlobRow { size: sealed.size, digests: sealed.digests };
        let used = self.store.shared.clock.now();
        put_cached(&mut batch, &root, &CachedRow { size: row.size, used });
        self.store.shared.index.commit_blob(&root, &row, batch).await?;
        self.store.shared.cached.insert(root, row.size, used);
        Ok(())
    }

    /// Moves files to their place. Under the root's lock.
    async fn install(self, files: &Files, sealed: &Sealed) -> Result<(), BlobError> {
        let root = sealed.root;
        let with_list = list_len(sealed.size) > 0;
        let files = files.clone();
        let store = self.store.clone();
        let install = move || store.shared.paths.install(&root, &files, with_list);
        blocking(move || install().map_err(BlobError::io("moving a blob into place"))).await?;
        // Whoever opened the old file meanwhile gives it up when it turns out bad.
        self.store.shared.open.evict(&root);
        Ok(())
    }

    /// A receipt for the copy that is held of the same bytes and was checked lately, all of it, with `batch` written;
    /// nothing if there is none.
    pub(crate) async fn confirm(
        self,
        sealed: &Sealed,
        generation: u64,
        batch: &Batch,
    ) -> Result<Option<Receipt>, BlobError> {
        let _exclusive = self.store.shared.locks.lock(&sealed.root).await;
        self.confirm_locked(sealed, generation, batch).await
    }

    async fn confirm_locked(
        self,
        sealed: &Sealed,
        generation: u64,
        batch: &Batch,
    ) -> Result<Option<Receipt>, BlobError> {
        let held = self.store.shared.index.blob(&sealed.root)?.filter(|row| row.size == sealed.size);
        if held.is_none() || !self.is_checked(&sealed.root).await? {
            return Ok(None);
        }
        self.vouch(sealed.clone(), held, generation, batch.clone()).await.map(Some)
    }

    /// Whether the file that is in place is open here, and all of it was checked lately.
    async fn is_checked(self, root: &Root) -> Result<bool, BlobError> {
        let Some(file) = self.store.shared.open.peek(root).filter(|file| file.is_checked(&(0..file.size)))
        else {
            return Ok(false);
        };
        let path = self.store.shared.paths.blob(root).data;
        let in_place = move || {
            let whole = std::fs::metadata(&path).is_ok_and(|named| named.len() == file.size);
            Ok::<_, BlobError>(whole && compare(&file.file, &path) == Some(true))
        };
        blocking(in_place).await
    }

    /// Deletes a copy whose removal is planned ([`Replicas::plan_removal`]); false if there is none, or
    /// if a receipt was made for it since. Readers that have it open are served to the end.
    ///
    /// # Errors
    /// [`BlobError::Io`], [`BlobError::Index`]; what is then left goes, or returns, at the next start.
    pub async fn remove(self, root: &Root) -> Result<bool, BlobError> {
        let store = self.store.clone();
        let root = *root;
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
            store.replicas().forget(&root).await?;
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
    pub async fn quarantine(self, root: &Root) -> Result<(), BlobError> {
        let store = self.store.clone();
        let root = *root;
        detached(async move {
            let _exclusive = store.shared.locks.lock(&root).await;
            store.replicas().condemn(&root).await
        })
        .await
    }

    /// The same for a copy that was found bad through an open file, unless another copy has taken its
    /// place since.
    pub(crate) async fn quarantine_if(
        self,
        root: &Root,
        is_it: impl FnOnce(&Path) -> bool + Send + 'static,
    ) -> Result<(), BlobError> {
        let store = self.store.clone();
        let root = *root;
        detached(async move {
            let _exclusive = store.shared.locks.lock(&root).await;
            let path = store.shared.paths.blob(&root).data;
            if blocking(move || Ok::<_, BlobError>(is_it(&path))).await? {
                store.replicas().condemn(&root).await
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
        self,
        root: &Root,
        is_it: impl FnOnce(&Path) -> bool + Send + 'static,
    ) -> Result<(), BlobError> {
        if self.store.is_held_back() {
            return Ok(());
        }
        let store = self.store.clone();
        let root = *root;
        detached(async move {
            let _exclusive = store.shared.locks.lock(&root).await;
            let path = store.shared.paths.blob(&root).data;
            if store.shared.index.blob(&root)?.is_none()
                || !blocking(move || Ok::<_, BlobError>(is_it(&path))).await?
            {
                return Ok(());
            }
            tracing::error!(%root, "a stored copy cannot be read and is not relied on any more");
            store.replicas().forget(&root).await
        })
        .await
    }

    /// Under the root's lock.
    async fn condemn(self, root: &Root) -> Result<(), BlobError> {
        if self.store.shared.index.blob(root)?.is_none() {
            return Ok(());
        }
        tracing::error!(%root, "a stored copy is corrupt and goes to quarantine");
        self.forget(root).await?;
        let shared = self.store.shared.clone();
        let root = *root;
        blocking(move || shared.paths.condemn(&root).map_err(BlobError::io("moving a blob to quarantine")))
            .await
    }

    /// Drops the row, durably, then the cached file: an opener inserts into the cache only while the
    /// row is there. Under the root's lock.
    pub(crate) async fn forget(self, root: &Root) -> Result<(), BlobError> {
        let mut batch = Batch::default();
        delete_blob(&mut batch, root);
        self.store.shared.index.commit(batch).await?;
        self.store.shared.cached.remove(root);
        self.store.shared.open.evict(root);
        Ok(())
    }

    /// Drops the row of a copy whose file is gone, unless it has come back.
    pub(crate) async fn forget_missing(self, root: &Root) -> Result<(), BlobError> {
        let store = self.store.clone();
        let root = *root;
        detached(async move {
            let _exclusive = store.shared.locks.lock(&root).await;
            let path = store.shared.paths.blob(&root).data;
            let there =
                blocking(move || path.try_exists().map_err(BlobError::io("looking for a blob"))).await?;
            if there { Ok(()) } else { store.replicas().forget(&root).await }
        })
        .await
    }
}

/// What a new copy is known by, and what the one before it was.
fn with_names(digests: Digests, held: Option<&BlobRow>) -> Digests {
    let sha512 = digests.sha512.or(held.and_then(|row| row.digests.sha512));
    Digests { sha512, ..digests }
}

/// Blocking. Writes a whole blob into a directory of its own and fsyncs it.
fn stage(dir: &Path, bytes: &[u8]) -> Result<Staged, BlobError> {
    let failed = |error| BlobError::io("writing a blob")(error);
    let size = bytes.len() as u64;
    let mut tree = TreeHasher::new();
    let mut list = Vec::new();
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
