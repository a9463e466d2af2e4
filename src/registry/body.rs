//! What a client sends of a blob: its bytes as they come, and where they belong.
//!
//! Plain data. Nothing here reads or writes state.

use std::pin::Pin;

use bytes::Bytes;
use clawhub_types::UploadId;
use futures::Stream;

/// The bytes of a request, in order, as they arrive from the client.
pub type BodyStream = Pin<Box<dyn Stream<Item = Result<Bytes, BodyError>> + Send>>;

/// Why the body of a request ended early. What arrived before it stays in the upload session.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// The connection broke, or the framing was wrong.
    #[error("the request body broke off: {0}")]
    Broken(String),
    /// Too few bytes came for too long.
    #[error("the request body came too slowly")]
    Idle,
    /// More or fewer bytes than `Content-Range` or `Content-Length` announced.
    #[error("the request body is not as long as announced")]
    Length,
}

/// A chunk of an upload, as its request describes it.
pub struct Chunk {
    /// First and last byte in the blob, if the client says so.
    pub range: Option<(u64, u64)>,
    /// Length in bytes, if the client says so.
    pub length: Option<u64>,
    /// The bytes.
    pub body: BodyStream,
}

/// An upload session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UploadView {
    /// The session.
    pub id: UploadId,
    /// Where the next byte goes. In the answer to a step that was done, what is before it is durable on the
    /// owner and its partner; in a refusal ([`Kind::Range`](crate::Kind::Range)) it has arrived, no more, and there may
    /// be bytes beyond it that go when the next ones come.
    pub offset: u64,
}
