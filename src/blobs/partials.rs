//! The fetches of a store: opened, resumed from what their rows and files still have, saved, expired.
//!
//! A fetch stays here, resumable without a look at the disk, until it is finished or expires. A crash loses what
//! came since its last checkpoint.

use std::fs::{File, OpenOptions};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use clawhub_durable::now_millis;
use clawhub_durable::promised::sync_blob_dir;
use clawhub_durable::task::{blocking, detached};
use clawhub_kv::Batch;
use clawhub_types::Root;

use crate::bits::Bits;
use crate::checked::CheckedFile;
use crate::fetch::Fetch;
use crate::index::delete_partial;
use crate::partial::Partial;
use crate::tree::{group_count, list_len, list_matches};
use crate::{BlobError, BlobStore};

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
    /// Creates or resumes the fetch of a root, whose size the cluster's record tells. Space for all of
    /// it is reserved at once.
    ///
    /// # Errors
    /// [`BlobError::Held`], [`BlobError::NoSpace`], [`BlobError::Io`], [`BlobError::Index`];
    /// [`BlobError::Range`] if a fetch of the root with another size is in progress.
    pub async fn open(self, root: Root, size: u64) -> Result<Partial, BlobError> {
        let store = self.store.clone();
        detached(async move {
            let _alone = store.shared.fetches.opening.lock().await;
            if store.holds(&root).is_some() {
                return Err(BlobError::Held(root));
            }
            let running = store.shared.fetches.running.lock().get(&root).cloned();
            let fetch = match running {
                Some(fetch) => fetch,
                None => {
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
        self.store.ensure_space(size)?;
        let mut batch = Batch::default();
        delete_partial(&mut batch, &root);
        self.store.shared.index.write(batch)?;
        files.remove().map_err(failed)?;
        let mut options = OpenOptions::new();
        let data = options.read(true).write(true).create_new(true).open(&files.data).map_err(failed)?;
        if let Err(error) = reserve(&data, size) {
            files.remove().map_err(failed)?;
            return Err(failed(error));
        }
        sync_blob_dir(&self.store.shared.paths.partials()).map_err(failed)?;
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
        CheckedFile::new(root, size, data, self.store.shared.buffers.clone())
    }

    pub(crate) async fn save(self) -> Result<(), BlobError> {
        let running: Vec<_> = self.store.shared.fetches.running.lock().values().cloned().collect();
        let mut outcome = Ok(());
        for fetch in running {
            let store = self.store.clone();
            outcome = outcome.and(blocking(move || fetch.checkpoint(&store.shared.index)).await);
        }
        outcome
    }

    /// Drops fetches that nobody holds and nobody touched for `older_than`; answers how many.
    pub(crate) async fn expire(self, older_than: Duration) -> usize {
        let _alone = self.store.shared.fetches.opening.lock().await;
        let mut expired = Vec::new();
        let mut running = Vec::new();
        self.store.shared.fetches.running.lock().retain(|root, fetch| {
            let idle = Arc::strong_count(fetch) == 1 && fetch.idle() >= older_than;
            if idle {
                expired.push(*root)
            } else {
                running.push(*root)
            }
            !idle
        });
        let rows = self.store.shared.index.partials().unwrap_or_else(|error| {
            tracing::error!(%error, "the blob index cannot be read");
            Vec::new()
        });
        let old = now_millis().saturating_sub(older_than.as_millis() as u64);
        let resting = rows.iter().filter(|(_, row)| row.touched_at <= old).map(|(root, _)| *root);
        expired.extend(resting.filter(|root| !running.contains(root)));
        expired.sort_unstable();
        expired.dedup();
        for root in &expired {
            if let Err(error) = self.drop(*root).await {
                tracing::warn!(%root, %error, "a partial blob did not expire");
            }
        }
        expired.len()
    }

    pub(crate) async fn drop(self, root: Root) -> Result<(), BlobError> {
        let mut batch = Batch::default();
        delete_partial(&mut batch, &root);
        self.store.shared.index.write(batch)?;
        let files = self.store.shared.paths.partial(&root);
        blocking(move || files.remove().map_err(BlobError::io("deleting a partial blob"))).await
    }
}

/// Reserves the file's blocks where the file system can, its length everywhere.
fn reserve(file: &File, size: u64) -> io::Result<()> {
    use rustix::fs::FallocateFlags;
    use rustix::io::Errno;
    if size == 0 {
        return Ok(());
    }
    match rustix::fs::fallocate(file, FallocateFlags::empty(), 0, size) {
        Err(Errno::OPNOTSUPP) => file.set_len(size),
        other => Ok(other?),
    }
}
