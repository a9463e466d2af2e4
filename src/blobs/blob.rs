//! Reads of replicas: a blob is opened once and read in pieces, each of which is compared with the root first. A
//! copy that turns out bad or unreadable is taken out of service here.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use clawhub_durable::task::blocking;
use clawhub_types::Root;
use futures::{Stream, StreamExt, stream};

use crate::checked::{CheckedFile, DataFile, pieces};
use crate::tree::{list_len, list_matches};
use crate::{BlobError, BlobStore};

/// A replica, open for reading. Every byte it gives out had its group checked since the file was
/// opened, and lately; a bad group sends the copy to quarantine. Stays readable when the copy is removed.
#[derive(Clone)]
pub struct Blob {
    file: Arc<CheckedFile>,
    store: BlobStore,
}

impl BlobStore {
    /// Opens a replica; `None` if the root is not held here.
    ///
    /// # Errors
    /// [`BlobError::Corrupt`] if length or group list are wrong: the copy is in quarantine then.
    /// [`BlobError::Io`]: the copy is not relied on any more. [`BlobError::Index`].
    pub async fn open_blob(&self, root: &Root) -> Result<Option<Blob>, BlobError> {
        self.shared.cached.touch(root, self.shared.clock.now());
        if let Some(file) = self.shared.open.get(root) {
            return Ok(Some(Blob { file, store: self.clone() }));
        }
        let Some(row) = self.shared.index.blob(root)? else { return Ok(None) };
        let store = self.clone();
        let root = *root;
        match blocking(move || store.load(root, row.size)).await {
            Ok(file) => {
                let still_held = || matches!(self.shared.index.blob(&root), Ok(Some(_)));
                self.shared.open.insert(&file, still_held);
                Ok(Some(Blob { file, store: self.clone() }))
            }
            Err(BlobError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                tracing::error!(%root, "the file of a stored blob is gone");
                self.replicas().forget_missing(&root).await?;
                Ok(None)
            }
            Err(error @ BlobError::Corrupt { .. }) => {
                // A removal and a new copy since the row was read make a new file, or none.
                self.replicas().quarantine_if(&root, move |path| is_bad(path, root, row.size)).await?;
                Err(error)
            }
            Err(error) if error.is_bad_copy() => {
                self.replicas().disown_if(&root, move |path| is_unreadable(path, row.size)).await?;
                Err(error)
            }
            Err(error) => Err(error),
        }
    }

    /// Blocking. Opens a data file and checks its group list against the root.
    fn load(&self, root: Root, size: u64) -> Result<Arc<CheckedFile>, BlobError> {
        let failed = |error| BlobError::io("opening a blob")(error);
        let files = self.shared.paths.blob(&root);
        let data = File::open(&files.data).map_err(failed)?;
        if data.metadata().map_err(failed)?.len() != size {
            return Err(BlobError::Corrupt { root, at: 0 });
        }
        let list = if list_len(size) == 0 { Vec::new() } else { read_list(&files.ob).map_err(failed)? };
        if !list_matches(&root, size, &list) {
            return Err(BlobError::Corrupt { root, at: 0 });
        }
        let good_for = self.shared.config.checks_good_for;
        let file = CheckedFile::new(root, size, data, self.shared.buffers.clone(), good_for);
        file.set_list(Bytes::from(list));
        Ok(Arc::new(file))
    }
}

/// A missing list is a wrong one; a missing data file means no copy at all.
fn read_list(path: &Path) -> io::Result<Vec<u8>> {
    match std::fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        other => other,
    }
}

/// Whether the copy at this path is still the one with a wrong length or list.
fn is_bad(data: &Path, root: Root, size: u64) -> bool {
    let length = std::fs::metadata(data).map(|file| file.len());
    let list = if list_len(size) == 0 { Ok(Vec::new()) } else { read_list(&data.with_extension("ob")) };
    match (length, list) {
        (Ok(length), Ok(list)) => length != size || !list_matches(&root, size, &list),
        _ => false,
    }
}

/// Whether the device still gives nothing of the copy at this path.
fn is_unreadable(data: &Path, size: u64) -> bool {
    let opened = File::open(data).and_then(|file| file.metadata());
    opened.is_err() || (list_len(size) > 0 && read_list(&data.with_extension("ob")).is_err())
}

impl Blob {
    /// The name of the bytes.
    pub fn root(&self) -> Root {
        self.file.root
    }

    /// Length in bytes.
    pub fn size(&self) -> u64 {
        self.file.size
    }

    /// The bytes of `range`, in pieces of at most 512 KiB, one piece read ahead. Ends after an error:
    /// [`BlobError::Range`] outside the blob, [`BlobError::Corrupt`] at a bad group.
    pub fn read(
        &self,
        range: Range<u64>,
    ) -> impl Stream<Item = Result<Bytes, BlobError>> + Send + use<> + 'static {
        let bounds = self.file.bounds(&range);
        let range = if bounds.is_ok() { range } else { 0..0 };
        let blob = self.clone();
        let read = stream::iter(pieces(range)).map(move |piece| blob.clone().piece(piece)).buffered(2);
        stream::iter(bounds.err().map(Err)).chain(read).scan(false, |failed, piece| {
            let item = (!*failed).then_some(piece);
            *failed |= matches!(item, Some(Err(_)));
            std::future::ready(item)
        })
    }

    async fn piece(self, range: Range<u64>) -> Result<Bytes, BlobError> {
        if let Some(bytes) = self.file.read_now(&range) {
            return Ok(bytes);
        }
        let file = self.file.clone();
        let read = blocking(move || file.read(&range)).await;
        self.judge(read).await
    }

    /// The group list, 32 bytes for each group of 64 KiB; empty for a blob of at most one group.
    ///
    /// # Errors
    /// None at present: the list was read and checked when the blob was opened.
    pub async fn groups(&self) -> Result<Bytes, BlobError> {
        Ok(self.file.list().cloned().unwrap_or_default())
    }

    /// Returns when every group that `range` touches was checked lately.
    ///
    /// # Errors
    /// [`BlobError::Range`], [`BlobError::Corrupt`], [`BlobError::Io`].
    pub async fn check(&self, range: Range<u64>) -> Result<(), BlobError> {
        self.file.bounds(&range)?;
        if self.file.is_checked(&range) {
            return Ok(());
        }
        let file = self.file.clone();
        let checked = blocking(move || file.check(&range)).await;
        self.judge(checked).await
    }

    /// The data file, if `range` may be sent straight from it: every group of it was checked lately, no send has
    /// failed for the file, and nobody holds the store back. Offsets are the blob's. Whoever sends a part of it has
    /// it [vouched for](DataFile::vouch) first: sending takes as long as its client does.
    pub fn straight(&self, range: Range<u64>) -> Option<DataFile> {
        let checked = self.file.bounds(&range).is_ok() && self.file.is_checked(&range);
        let file = DataFile::from(self.file.clone());
        (checked && file.is_sound() && !self.store.is_held_back()).then_some(file)
    }

    /// A bad group condemns the copy; one that the device does not give back is not relied on any more.
    /// Neither is said of another file that has taken its place.
    async fn judge<T>(&self, outcome: Result<T, BlobError>) -> Result<T, BlobError> {
        let root = self.file.root;
        let file = self.file.clone();
        if outcome.as_ref().is_err_and(BlobError::is_bad_copy) {
            // It may be one that another has taken the place of: the next reader opens what is there.
            self.store.shared.open.evict_file(&file);
        }
        let judged = match &outcome {
            Err(BlobError::Corrupt { .. }) => {
                let is_it = move |path: &Path| compare(&file.file, path) == Some(true);
                self.store.replicas().quarantine_if(&root, is_it).await
            }
            Err(error) if error.is_bad_copy() => {
                // A device that does not even tell which file it has gives no copy back.
                let is_it = move |path: &Path| compare(&file.file, path) != Some(false);
                self.store.replicas().disown_if(&root, is_it).await
            }
            _ => Ok(()),
        };
        if let Err(error) = judged {
            tracing::error!(%root, %error, "a bad copy could not be taken out of service");
        }
        outcome
    }
}

/// Whether the open file is the one at `path`; `None` if that cannot be told.
pub(crate) fn compare(open: &File, path: &Path) -> Option<bool> {
    let open = open.metadata().ok()?;
    let named = std::fs::metadata(path).ok()?;
    Some(open.dev() == named.dev() && open.ino() == named.ino())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::StoreConfig;
    use clawhub_kv::memory::MemoryKv;
    use clawhub_types::NodeId;

    const SIZE: u64 = 100_000;

    async fn store(dir: &Path) -> BlobStore {
        let config = StoreConfig::new(dir.to_owned(), NodeId(7));
        BlobStore::open(config, Arc::new(MemoryKv::new())).await.unwrap()
    }

    async fn put(store: &BlobStore) -> Blob {
        let root = store.replicas().put(vec![7; SIZE as usize].into(), 1).await.unwrap().root;
        let blob = store.open_blob(&root).await.unwrap().unwrap();
        blob.check(0..SIZE).await.unwrap();
        blob
    }

    fn unreadable() -> Result<(), BlobError> {
        Err(BlobError::io("reading a blob")(io::Error::from_raw_os_error(
            rustix::io::Errno::IO.raw_os_error(),
        )))
    }

    #[tokio::test]
    async fn a_copy_that_cannot_be_read_is_given_up_once() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path()).await;
        let old = put(&store).await;
        let root = old.root();
        let late = old.clone();
        assert!(old.judge(unreadable()).await.is_err());
        assert_eq!(store.holds(&root), None);

        // A new copy takes the place before another reader of the old file meets its end.
        let new = put(&store).await;
        assert!(late.judge(unreadable()).await.is_err());
        assert_eq!(store.holds(&root), Some(SIZE), "the new copy is not the one that failed");
        assert!(new.judge(unreadable()).await.is_err());
        assert_eq!(store.holds(&root), None);
    }

    #[tokio::test]
    async fn a_copy_whose_file_cannot_even_be_found_is_given_up() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path()).await;
        let blob = put(&store).await;
        std::fs::remove_dir_all(dir.path().join("blobs")).unwrap();
        assert!(blob.judge(unreadable()).await.is_err());
        assert_eq!(store.holds(&blob.root()), None);
    }

    #[tokio::test]
    async fn a_file_that_failed_a_send_is_only_read() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path()).await;
        let blob = put(&store).await;
        let root = blob.root();
        let file = blob.straight(0..SIZE).unwrap();
        assert!(blob.straight(0..SIZE + 1).is_none(), "outside of the blob");
        store.hold_back(true);
        assert!(blob.straight(0..SIZE).is_none(), "the device is not to be relied on");
        store.hold_back(false);
        assert!(blob.straight(0..SIZE).is_some());

        file.distrust();
        let again = store.open_blob(&root).await.unwrap().unwrap();
        assert!(blob.straight(0..SIZE).is_none() && again.straight(0..SIZE).is_none());
        let pieces: Vec<_> = again.read(0..SIZE).map(|piece| piece.unwrap().len() as u64).collect().await;
        assert_eq!(pieces.iter().sum::<u64>(), SIZE);
        assert!(again.judge(unreadable()).await.is_err());
        assert!(put(&store).await.straight(0..SIZE).is_some(), "that was said of another copy");
    }
}
