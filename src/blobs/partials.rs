//! The fetches of a store: opened, resumed from what their rows and files still have, saved, expired.
//!
//! A fetch stays here, resumable without a look at the disk, until it is finished or expires. A crash loses what
//! came since its last checkpoint.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use clawhub_durable::task::{blocking, detached};
use clawhub_kv::Batch;
use clawhub_types::Root;

use crate::bits::Bits;
use crate::checked::CheckedFile;
use crate::fetch::Fetch;
use crate::index::{PartialRow, delete_partial};
use crate::partial::Partial;
use crate::replicas::Staged;
use crate::tree::{group_count, list_len, list_matches};
use crate::{BlobError, BlobStore, Sealed};

/// The fetches of a store.
#[derive(Clone, Copy)]
pub struct Partials<'a> {
    pub(crate) store: &'a BlobStore,
}

impl BlobStore {
    /// The blobs that are being fetched.
    pub fn partials(&self) -> Partials<'_> {
        Partials { store: self }
    }
}

impl Partials<'_> {
    /// Creates or resumes the fetch of a root, whose size the cluster's record tells. There must be room for all of
    /// it now, and for each part when it comes: nothing is set aside for bytes that may never come.
    ///
    /// # Errors
    /// [`BlobError::Held`], [`BlobError::NoSpace`], [`BlobError::Io`], [`BlobError::Index`];
    /// [`BlobError::Range`] if a fetch of the root with another size is in progress.
    pub async fn open(self, root: Root, size: u64) -> Result<Partial, BlobError> {
        let store = self.store.clone();
        detached(async move {
            let _alone = store.shared.fetches.locks.lock(&root).await;
            if store.holds(&root).is_some() {
                return Err(BlobError::Held(root));
            }
            let running = store.shared.fetches.running.lock().get(&root).cloned();
            let fetch = match running {
                Some(fetch) => fetch,
                None => {
                    if store.shared.index.partial(&root)?.is_none() {
                        store.cache().ensure_room(size).await?;
                    }
                    let opener = store.clone();
                    let fetch =
                        blocking(move || opener.partials().open_blocking(root, size).map(Arc::new)).await?;
                    store.shared.fetches.running.lock().insert(root, fetch.clone());
                    fetch
                }
            };
            if fetch.data.size != size {
                return Err(BlobError::Range { start: 0, end: size, size: fetch.data.size });
            }
            Ok(Partial::new(fetch, store.clone()))
        })
        .await
    }

    /// Blocking. From the row if it fits, else from nothing.
    pub(crate) fn open_blocking(self, root: Root, size: u64) -> Result<Fetch, BlobError> {
        let failed = |error| BlobError::io("opening a partial blob")(error);
        let files = self.store.shared.paths.partial(&root);
        if let Some((data, list, present)) = self.restore(root, size)? {
            let saved = Bits::from_bytes(group_count(size), &present.to_bytes());
            let fetch = Fetch::new(self.file(root, size, data), present, saved);
            fetch.data.set_list(list);
            return Ok(fetch);
        }
        let mut batch = Batch::default();
        delete_partial(&mut batch, &root);
        self.store.shared.index.write(batch)?;
        files.remove().map_err(failed)?;
        let mut options = OpenOptions::new();
        let data = options.read(true).write(true).create_new(true).open(&files.data).map_err(failed)?;
        data.set_len(size).map_err(failed)?;
        let fetch = Fetch::new(self.file(root, size, data), Bits::new(group_count(size)), None);
        if list_len(size) == 0 {
            fetch.data.set_list(Bytes::new());
        }
        Ok(fetch)
    }

    /// What a row and its files still have, if they fit each other.
    fn restore(self, root: Root, size: u64) -> Result<Option<(File, Bytes, Bits)>, BlobError> {
        let Some(row) = self.store.shared.index.partial(&root)?.filter(|row| row.size == size) else {
            return Ok(None);
        };
        let files = self.store.shared.paths.partial(&root);
        let Ok(data) = OpenOptions::new().read(true).write(true).open(&files.data) else { return Ok(None) };
        let list =
            if list_len(size) == 0 { Vec::new() } else { std::fs::read(&files.ob).unwrap_or_default() };
        let fits = data.metadata().is_ok_and(|file| file.len() == size) && list_matches(&root, size, &list);
        let present = Bits::from_bytes(group_count(size), &row.groups);
        Ok(present.filter(|_| fits).map(|present| (data, Bytes::from(list), present)))
    }

    fn file(self, root: Root, size: u64, data: File) -> CheckedFile {
        let shared = &self.store.shared;
        CheckedFile::new(root, size, data, shared.buffers.clone(), shared.config.checks_good_for)
    }

    pub(crate) async fn save(self) -> Result<(), BlobError> {
        let running: Vec<_> = self.store.shared.fetches.running.lock().values().cloned().collect();
        let mut outcome = Ok(());
        for fetch in running {
            let store = self.store.clone();
            outcome = outcome.and(blocking(move || store.shared.checkpoint(&fetch)).await);
        }
        outcome
    }

    /// Drops fetches that nobody holds and nobody touched for `older_than`; answers how many.
    pub(crate) async fn expire(self, older_than: Duration) -> usize {
        let rows = self.store.shared.index.partials().unwrap_or_else(|error| {
            tracing::error!(%error, "the blob index cannot be read");
            Vec::new()
        });
        let clock = &self.store.shared.clock;
        let old = |row: &PartialRow| clock.since(row.touched_at) >= older_than;
        let resting = rows.iter().filter(|(_, row)| old(row)).map(|(root, _)| *root);
        let running = self.store.shared.fetches.running.lock().keys().copied().collect::<Vec<_>>();
        let roots: BTreeSet<Root> = resting.chain(running).collect();
        let mut count = 0;
        for root in roots {
            match self.expire_one(root, older_than).await {
                Ok(expired) => count += usize::from(expired),
                Err(error) => tracing::warn!(%root, %error, "a partial blob did not expire"),
            }
        }
        count
    }

    /// The fetch of a root, unless it is in use or was lately: one that is open says so itself, and none begins
    /// meanwhile.
    async fn expire_one(self, root: Root, older_than: Duration) -> Result<bool, BlobError> {
        let _alone = self.store.shared.fetches.locks.lock(&root).await;
        {
            let mut running = self.store.shared.fetches.running.lock();
            if let Some(fetch) = running.get(&root) {
                if Arc::strong_count(fetch) > 1 || fetch.idle() < older_than {
                    return Ok(false);
                }
                running.remove(&root);
            } else if self.store.shared.index.partial(&root)?.is_none() {
                // It ended since.
                return Ok(false);
            }
        }
        self.drop(root).await.map(|()| true)
    }

    /// Ends a fetch and deletes what it has, unless it is over already.
    pub(crate) async fn discard(self, fetch: Arc<Fetch>) -> Result<(), BlobError> {
        let root = fetch.data.root;
        let _alone = self.store.shared.fetches.locks.lock(&root).await;
        let ending = fetch.clone();
        let was_over = blocking(move || {
            let was_over = ending.is_over();
            ending.end();
            Ok::<_, BlobError>(was_over)
        });
        if was_over.await? {
            return Ok(());
        }
        {
            let mut running = self.store.shared.fetches.running.lock();
            if running.get(&root).is_some_and(|current| !Arc::ptr_eq(current, &fetch)) {
                // Its files are another one's by now.
                return Ok(());
            }
            running.remove(&root);
        }
        self.drop(root).await
    }

    /// Moves the files of a fetch that is complete to their place as a copy. Under the fetch's lock.
    pub(crate) async fn place(self, fetch: Arc<Fetch>, sealed: &Sealed) -> Result<(), BlobError> {
        let settling = fetch.clone();
        blocking(move || settling.settle()).await?;
        let mut batch = Batch::default();
        delete_partial(&mut batch, &sealed.root);
        let files = self.store.shared.paths.partial(&sealed.root);
        let staged = Staged { files, sealed: sealed.clone() };
        if fetch.is_promised() {
            // The generation is for the receipt, which is made when it is asked for.
            self.store.replicas().place(staged, 0, batch).await.map(drop)
        } else {
            self.store.replicas().place_cached(staged, batch).await
        }
    }

    pub(crate) async fn drop(self, root: Root) -> Result<(), BlobError> {
        let mut batch = Batch::default();
        delete_partial(&mut batch, &root);
        self.store.shared.index.write(batch)?;
        let files = self.store.shared.paths.partial(&root);
        blocking(move || files.remove().map_err(BlobError::io("deleting a partial blob"))).await
    }
}
