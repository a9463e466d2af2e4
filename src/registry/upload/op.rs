//! What may be asked of an upload. Plain data.

use clawhub_types::{Digest, UploadId};

use crate::Chunk;

/// One step of an upload, whoever asks for it and whichever node does it.
pub enum UploadOp {
    /// Open a session.
    Begin {
        /// Whether its digest will be a SHA-512.
        sha512: bool,
    },
    /// Take a chunk. What the answer's offset covers is durable on the owner and its partner.
    Append(UploadId, Chunk),
    /// Take a last chunk, check the digest, make the copies, and bind and link the blob.
    Finish(UploadId, Digest, Chunk),
    /// Say where the session stands, which is durable on both by then.
    Status(UploadId),
    /// Forget the session and its bytes.
    Cancel(UploadId),
}

impl UploadOp {
    /// The session that it is about, unless it opens one.
    pub(super) fn session(&self) -> Option<UploadId> {
        match self {
            UploadOp::Begin { .. } => None,
            UploadOp::Append(id, _)
            | UploadOp::Finish(id, ..)
            | UploadOp::Status(id)
            | UploadOp::Cancel(id) => Some(*id),
        }
    }
}
