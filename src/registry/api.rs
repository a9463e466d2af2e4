//! What the protocol edges see of the registry: views and pages.
//!
//! Plain data, but for a [`BlobView`]: it reads through what `source` gave it. Nothing here reads or writes state.
//! What a manifest and a referrer are called follows the image specification, whichever edge shows them.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use clawhub_blobs::DataFile;
use clawhub_state::artifact::Condition;
use clawhub_types::{Digest, MediaType, Tag};
use futures::stream::{self, BoxStream, StreamExt};

use crate::Error;

/// How current an answer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// After a read barrier.
    Linearizable,
    /// By digest, from this node's applied state: content never changes, a deletion may still be
    /// on its way.
    ByDigest {
        /// The applied log index it was read at.
        index: u64,
    },
    /// By digest, on a node that is cut off from the cluster. The answer carries a warning.
    CutOff {
        /// The applied log index it was read at.
        index: u64,
        /// How long ago the node last heard from a majority.
        age: Duration,
    },
}

/// Why a blob is looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Intent {
    /// To read it: a local copy needs no barrier.
    Read,
    /// To know whether a push can rely on it: always after a barrier, and a lease past its half-life is renewed
    /// before the answer. One whose last copy is gone is unknown, so that its bytes are pushed again.
    Stat,
    /// To tell a client that has its bytes whether the repository links it: always after a barrier.
    Revalidate,
}

/// A manifest as stored.
#[derive(Clone, Debug)]
pub struct ManifestView {
    /// In the algorithm the request used; for a tag, the digest the tag names.
    pub digest: Digest,
    /// As pushed.
    pub media_type: MediaType,
    /// Length in bytes.
    pub size: u64,
    /// What was pushed, byte for byte, if it was asked for.
    pub body: Option<ManifestBody>,
    /// How current the answer is.
    pub fresh: Freshness,
}

/// A manifest's bytes.
#[derive(Clone, Debug)]
pub enum ManifestBody {
    /// They travelled in the log.
    Whole(Bytes),
    /// They are too many for that, and lie where a blob's do.
    Stored(BlobView),
}

type ReadBlob = dyn Fn(Range<u64>) -> BoxStream<'static, Result<Bytes, Error>> + Send + Sync;

/// A blob that the repository links.
#[derive(Clone)]
pub struct BlobView {
    /// As requested.
    pub digest: Digest,
    /// Length in bytes.
    pub size: u64,
    /// How current the answer is.
    pub fresh: Freshness,
    body: Option<Arc<ReadBlob>>,
    file: Option<DataFile>,
}

impl BlobView {
    /// A view that cannot be read, for every intent but [`Intent::Read`].
    pub fn stat(digest: Digest, size: u64, fresh: Freshness) -> BlobView {
        BlobView { digest, size, fresh, body: None, file: None }
    }

    /// A view whose bytes `read` streams. `read` is called once per range with
    /// `start <= end <= size` and must yield exactly `end - start` bytes or an error.
    pub fn readable<F>(digest: Digest, size: u64, fresh: Freshness, read: F) -> BlobView
    where
        F: Fn(Range<u64>) -> BoxStream<'static, Result<Bytes, Error>> + Send + Sync + 'static,
    {
        BlobView { digest, size, fresh, body: Some(Arc::new(read)), file: None }
    }

    /// Attaches the local file, every group of which has been checked since it was opened.
    #[must_use]
    pub fn with_local_file(mut self, file: DataFile) -> BlobView {
        self.file = Some(file);
        self
    }

    /// Streams the bytes of `range`. An error ends the stream; bytes before it were verified.
    pub fn read(&self, range: Range<u64>) -> BoxStream<'static, Result<Bytes, Error>> {
        match &self.body {
            Some(read) => read(range),
            None => {
                stream::once(async { Err(Error::internal("the blob was not opened for reading")) }).boxed()
            }
        }
    }

    /// The whole blob as a local file whose bytes need no further check, if there is one. Who sends it notes
    /// in it when that fails.
    pub fn local_file(&self) -> Option<&DataFile> {
        self.file.as_ref()
    }
}

impl fmt::Debug for BlobView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlobView")
            .field("digest", &self.digest)
            .field("size", &self.size)
            .field("fresh", &self.fresh)
            .finish_non_exhaustive()
    }
}

/// A manifest to store.
#[derive(Clone, Debug)]
pub struct PutManifest {
    /// The `Content-Type` header as sent, parameters included.
    pub content_type: Option<String>,
    /// Tags to set beside the reference; empty unless pushed by digest.
    pub tags: Vec<Tag>,
    /// Must hold for every tag that would be set, decided at apply.
    pub condition: Condition,
    /// The manifest, byte for byte.
    pub bytes: Bytes,
}

/// A stored manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PutView {
    /// The digest it is addressed by.
    pub digest: Digest,
    /// Its subject, if it has one.
    pub subject: Option<Digest>,
    /// The tags of [`PutManifest::tags`] that now name it.
    pub tags: Vec<Tag>,
}

/// One page of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page<T> {
    /// In order.
    pub items: Vec<T>,
    /// Whether more follow after the last item.
    pub more: bool,
}

/// How much fits a page of referrers, which only the edge that renders it can say.
#[derive(Clone, Copy)]
pub struct PageBudget<'a> {
    /// A page ends before its referrers come to more than this, but has one at least.
    pub bytes: usize,
    /// What a referrer takes of it, in bytes.
    pub length: &'a (dyn Fn(&Referrer) -> usize + Sync),
}

/// A manifest that names another as its subject: one line of the list of referrers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Referrer {
    /// The manifest's media type.
    pub media_type: MediaType,
    /// The manifest's digest.
    pub digest: Digest,
    /// The manifest's length in bytes.
    pub size: u64,
    /// Its artifact type; absent for an index that has none.
    pub artifact_type: Option<String>,
    /// All annotations of the manifest, sorted by key.
    pub annotations: Vec<(String, String)>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Kind;

    #[tokio::test]
    async fn a_stat_view_refuses_to_be_read() {
        let view = BlobView::stat(Digest::Sha256([0; 32]), 4, Freshness::Linearizable);
        let first = view.read(0..4).next().await.unwrap();
        assert_eq!(first.unwrap_err().kind, Kind::Internal);
    }
}
