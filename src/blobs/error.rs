//! What can go wrong in the store, in the distinctions that callers decide by: wrong bytes, a copy that is gone, no
//! space, a device that fails.

use std::io;

use clawhub_durable::task::Lost;
use clawhub_kv::KvError;
use clawhub_types::{Digest, Root, UploadId};
use rustix::io::Errno;

/// Why the store refused or failed.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    /// No such session on this node: never opened, cancelled, expired, or already kept.
    #[error("unknown upload session {0}")]
    UploadUnknown(UploadId),
    /// There are as many sessions with bytes as a node may have.
    #[error("this node has as many uploads under way as it takes")]
    TooManyUploads,
    /// The session id is in use for another repository.
    #[error("upload session {0} belongs to another repository")]
    UploadTaken(UploadId),
    /// The bytes do not continue where the session stands.
    #[error("the upload continues at byte {expected}")]
    Offset {
        /// The session's end, in bytes.
        expected: u64,
    },
    /// The session holds other bytes than the client named. It stays usable.
    #[error("content is {actual}, not {expected}")]
    DigestMismatch {
        /// What the client named.
        expected: Box<Digest>,
        /// What the bytes hash to.
        actual: Box<Digest>,
    },
    /// The bytes changed between `seal` and `keep`.
    #[error("upload session {0} changed since it was sealed")]
    Unsealed(UploadId),
    /// Writing would leave less free space than configured, or the device is full.
    #[error("not enough free space: {free} bytes left")]
    NoSpace {
        /// What the device offers, in bytes.
        free: u64,
    },
    /// The store takes nothing new: its owner does not trust the device at the moment.
    #[error("the store takes nothing for now: its device fails")]
    HeldBack,
    /// Bytes do not hash to what they are named by. A stored copy is in quarantine by now.
    #[error("corrupt content of {root} at byte {at}")]
    Corrupt {
        /// The blob.
        root: Root,
        /// Where the first bad group begins; 0 if the whole copy or its group list is bad.
        at: u64,
    },
    /// A range outside the blob, or a write that is not made of whole groups.
    #[error("bytes {start}..{end} do not fit a blob of {size}")]
    Range {
        /// First byte.
        start: u64,
        /// One past the last byte.
        end: u64,
        /// The blob's size.
        size: u64,
    },
    /// The store holds this root already; open it instead of fetching it.
    #[error("{0} is held already")]
    Held(Root),
    /// A partial blob lacks its group list, or bytes that `finish` needs.
    #[error("{0} is incomplete")]
    Incomplete(Root),
    /// A fetch gave up; the reason is the fetcher's.
    #[error("fetch failed: {0}")]
    FetchFailed(String),
    /// No byte of a partial blob arrived for a minute.
    #[error("no progress on {0}")]
    Stalled(Root),
    /// The file system refused.
    #[error("{context}: {source}")]
    Io {
        /// What was being done.
        context: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The local index refused.
    #[error(transparent)]
    Index(#[from] KvError),
    /// A row of the local index is not readable by this version.
    #[error("unreadable row in the local index: {0}")]
    Record(String),
    /// A worker thread died.
    #[error("a worker of the blob store died: {0}")]
    Worker(String),
}

impl From<Lost> for BlobError {
    fn from(lost: Lost) -> BlobError {
        BlobError::Worker(lost.to_string())
    }
}

impl BlobError {
    /// Whether it is this one copy that is bad: its bytes are wrong, or the device does not give them back.
    /// What a process runs out of, or may not do, says nothing about a copy.
    pub fn is_bad_copy(&self) -> bool {
        let lost = [Errno::IO, Errno::UCLEAN, Errno::BADMSG, Errno::NODATA].map(Errno::raw_os_error);
        match self {
            BlobError::Corrupt { .. } => true,
            BlobError::Io { source, .. } => source.raw_os_error().is_some_and(|code| lost.contains(&code)),
            _ => false,
        }
    }

    /// Whether the device or the process failed, not the copy: another node can serve.
    pub fn is_failure(&self) -> bool {
        matches!(self, BlobError::Io { .. } | BlobError::Index(_) | BlobError::Worker(_))
    }

    /// For `map_err`: names what was being done; a full device becomes [`BlobError::NoSpace`].
    pub(crate) fn io(context: &'static str) -> impl FnOnce(io::Error) -> BlobError {
        move |source| match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => BlobError::NoSpace { free: 0 },
            _ => BlobError::Io { context, source },
        }
    }
}
