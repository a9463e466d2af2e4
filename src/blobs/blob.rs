//! Reading replicas.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use clawhub_types::Root;
use futures::{Stream, StreamExt, stream};

use crate::checked::{CheckedFile, pieces};
use crate::detach::blocking;
use crate::tree::{list_len, list_matches};
use crate::{BlobError, BlobStore};

/// A replica, open for reading. Every byte it gives out had its group checked since the file was
/// opened; a bad group sends the copy to quarantine. Stays readable when the copy is removed.
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
        if let Some(file) = self.shared.open.get(root) {
            return Ok(Some(Blob { file, store: self.clone() }));
        }
        let Some(row) = self.shared.index.blob(root)? else { return Ok(None) };
        let (store, root) = (self.clone(), *root);
        match blocking(move || store.load(root, row.size)).await {
            Ok(file) => {
                let still_held = || matches!(self.shared.index.blob(&root), Ok(Some(_)));
                self.shared.open.insert(&file, still_held);
                Ok(Some(Blob { file, store: self.clone() }))
            }
            Err(BlobError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                tracing::error!(%root, "the file of a stored blob is gone");
                self.forget_missing(&root).await?;
                Ok(None)
            }
            Err(error @ BlobError::Corrupt { .. }) => {
                // A removal and a new copy since the row was read make a new file, or none.
                self.quarantine_if(&root, move |path| is_bad(path, root, row.size)).await?;
                Err(error)
            }
            Err(error) if error.is_bad_copy() => {
                self.disown(&root).await?;
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
        let file = CheckedFile::new(root, size, data, self.shared.buffers.clone());
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

    /// Returns when every group that `range` touches was checked since the file was opened: only then
    /// may its bytes be sent straight from [`Blob::file`].
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

    /// Whether [`Blob::check`] would return at once: every group that `range` touches was checked.
    pub fn is_checked(&self, range: Range<u64>) -> bool {
        self.file.bounds(&range).is_ok() && self.file.is_checked(&range)
    }

    /// The data file, for zero-copy sends of ranges that [`Blob::check`] has passed. Offsets are the
    /// blob's.
    pub fn file(&self) -> &Arc<File> {
        &self.file.file
    }

    /// A bad group condemns the copy, unless another file has taken its place; one that the device does not
    /// give back is not relied on any more.
    async fn judge<T>(&self, outcome: Result<T, BlobError>) -> Result<T, BlobError> {
        let root = self.file.root;
        let judged = match &outcome {
            Err(BlobError::Corrupt { .. }) => {
                let file = self.file.clone();
                self.store.quarantine_if(&root, move |path| same_file(&file.file, path)).await
            }
            Err(error) if error.is_bad_copy() => self.store.disown(&root).await,
            _ => Ok(()),
        };
        if let Err(error) = judged {
            tracing::error!(%root, %error, "a bad copy could not be taken out of service");
        }
        outcome
    }
}

fn same_file(open: &File, path: &Path) -> bool {
    match (open.metadata(), std::fs::metadata(path)) {
        (Ok(open), Ok(named)) => open.dev() == named.dev() && open.ino() == named.ino(),
        _ => false,
    }
}
