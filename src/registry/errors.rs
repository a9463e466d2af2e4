//! From the layers' errors to the answers that clients can tell apart.

use std::time::Duration;

use clawhub_auth::Denied;
use clawhub_blobs::BlobError;
use clawhub_consensus::{ProposeError, Unavailable};
use clawhub_replicate::ReplicateError;
use clawhub_state::{Fault, Rejected};
use clawhub_types::{Digest, ErrorCode};
use serde_json::json;

use crate::{Error, Kind};

/// When to come back where nothing better is known: about one election.
pub(crate) const RETRY: Duration = Duration::from_secs(1);

pub(crate) fn unavailable(error: Unavailable) -> Error {
    Error::unavailable(error.retry_after, error.reason)
}

pub(crate) fn digest_detail(digest: &Digest) -> serde_json::Value {
    json!({ "digest": digest.to_string() })
}

impl From<Denied> for Error {
    fn from(denied: Denied) -> Self {
        match denied {
            Denied::Unauthenticated => Error::code(ErrorCode::Unauthorized, denied.to_string()),
            Denied::Forbidden { .. } => Error::code(ErrorCode::Denied, denied.to_string()),
            Denied::Fault(fault) => fault.into(),
        }
    }
}

impl From<Fault> for Error {
    fn from(fault: Fault) -> Self {
        tracing::error!(error = %fault, "the state cannot be read");
        Error::unavailable(RETRY, "this node cannot read its state; another node can answer")
    }
}

impl From<ProposeError> for Error {
    fn from(error: ProposeError) -> Self {
        match error {
            ProposeError::Rejected(rejected) => rejected.into(),
            ProposeError::Unavailable(unavailable) => self::unavailable(unavailable),
            ProposeError::Unknown => {
                Error::unavailable(RETRY, "the outcome is unknown: the cluster did not answer in time")
            }
            other => {
                tracing::error!(error = %other, "a proposal failed");
                Error::internal("the request could not be proposed")
            }
        }
    }
}

/// Refusals that mean the same whatever was asked; the others are read where they can occur.
impl From<Rejected> for Error {
    fn from(rejected: Rejected) -> Self {
        let text = rejected.to_string();
        match rejected {
            Rejected::NameUnknown => Error::code(ErrorCode::NameUnknown, text),
            Rejected::BlobUnknown => Error::code(ErrorCode::BlobUnknown, text),
            Rejected::ManifestUnknown => Error::code(ErrorCode::ManifestUnknown, text),
            Rejected::BlobReferenced(manifest) => Error::code(ErrorCode::Unsupported, text)
                .with_detail(json!({ "manifest": manifest.to_string() })),
            Rejected::PreconditionFailed(current) => {
                let detail = json!({ "current": current.as_ref().map(Digest::to_string) });
                let kind = Kind::PreconditionFailed { current: current.map(Box::new) };
                Error::new(kind, text).with_detail(detail)
            }
            Rejected::ReferencesUnknown(digests) => references_unknown(&digests),
            Rejected::SessionGone
            | Rejected::DeadlinePassed
            | Rejected::StalePermit
            | Rejected::NeedCopies(_)
            | Rejected::BadReceipt => Error::unavailable(RETRY, text),
            _ => {
                tracing::error!(%text, "an unexpected refusal");
                Error::internal(text)
            }
        }
    }
}

/// One entry per missing reference, as clients expect.
fn references_unknown(digests: &[Digest]) -> Error {
    let message = "the repository has no such blob or manifest";
    let mut entries = digests.iter();
    let first = entries.next().map(digest_detail);
    let mut error = Error::code(ErrorCode::ManifestBlobUnknown, message);
    error.detail = first;
    entries.fold(error, |error, digest| {
        error.and(ErrorCode::ManifestBlobUnknown, message, Some(digest_detail(digest)))
    })
}

impl From<BlobError> for Error {
    fn from(error: BlobError) -> Self {
        let text = error.to_string();
        match error {
            BlobError::DigestMismatch { .. } => Error::code(ErrorCode::DigestInvalid, text),
            BlobError::NoSpace { .. } => Error::new(Kind::NoSpace, text),
            BlobError::UploadUnknown(_) => Error::code(ErrorCode::BlobUploadUnknown, text),
            // The device fails, and other nodes have others. An upload stays where it is.
            BlobError::HeldBack | BlobError::Io { .. } | BlobError::Index(_) | BlobError::Worker(_) => {
                tracing::error!(error = text, "the blob store failed");
                let text = "this node's storage fails; others can serve, and take an upload that begins anew";
                Error::unavailable(RETRY, text)
            }
            _ => {
                tracing::error!(error = text, "the blob store failed");
                Error::internal("the blob store failed")
            }
        }
    }
}

impl From<ReplicateError> for Error {
    fn from(error: ReplicateError) -> Self {
        match error {
            ReplicateError::Local(error) => error.into(),
            // Committed content whose holders are all away: 503, never 404.
            other => {
                tracing::warn!(error = %other, "no peer could help");
                Error::unavailable(RETRY, "no node that holds the content can be reached")
            }
        }
    }
}
