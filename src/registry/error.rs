//! Why a use case was not carried out: what happened, never what a protocol calls it.
//!
//! Each edge chooses status and code from a [`Kind`] and the data in it. The conversions from the layers
//! below stand here as well, so that one file decides what is a 404 and what is not: committed content whose
//! holders are all away is [`Kind::Unavailable`], never [`Kind::NotFound`].

use std::time::Duration;

use clawhub_auth::Denied;
use clawhub_blobs::BlobError;
use clawhub_consensus::{ProposeError, Unavailable};
use clawhub_durable::task::Lost;
use clawhub_replicate::{Refused, ReplicateError};
use clawhub_state::artifact::ArtifactRejected;
use clawhub_state::blob::BlobRejected;
use clawhub_state::cluster::ClusterRejected;
use clawhub_state::project::ProjectRejected;
use clawhub_state::{Fault, Rejected, RequestRejected};
use clawhub_types::Digest;

use crate::body::{BodyError, UploadView};

/// When to come back where nothing better is known: about one election.
pub(crate) const RETRY: Duration = Duration::from_secs(1);

/// When to come back to a node that has as much under way as it takes: other clients have to finish first.
pub(crate) const CROWDED: Duration = Duration::from_secs(5);

/// Why a request was not done. The edge chooses the form.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// What happened, for programs.
    pub kind: Kind,
    /// The same for people; never holds internals such as paths or peer addresses.
    pub message: String,
}

/// The kinds of failure that clients can tell apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It does not exist. Said only after a read barrier.
    NotFound(What),
    /// What the client sent is wrong.
    Invalid(Invalid),
    /// A manifest names these digests, and the repository has neither blob nor manifest under them.
    MissingReferences(Vec<Digest>),
    /// A blob cannot be removed while this manifest of the repository references it.
    InUse {
        /// One of the manifests that do.
        manifest: Digest,
    },
    /// A condition on what a tag names did not hold when the command was applied.
    Precondition {
        /// What the tag names instead, if it exists.
        current: Option<Digest>,
    },
    /// Credentials are missing; others might be enough.
    Unauthenticated,
    /// The client is known and may not do this.
    Denied,
    /// A manifest over the limit.
    TooLarge,
    /// A chunk does not begin at the session's offset. Nothing was written, the session goes on.
    Range {
        /// Where the session stands.
        upload: UploadView,
    },
    /// This node is below its free-space limit.
    NoSpace,
    /// The cluster cannot answer now. The outcome of a write is unknown.
    Unavailable {
        /// When to try again.
        retry_after: Duration,
    },
    /// A fault of this node; the log has the details.
    Internal,
}

/// What was looked for and does not exist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// The repository.
    Repository,
    /// The manifest, or the tag; with the digest where the answer is to name it.
    Manifest(Option<Digest>),
    /// The blob; with its digest where the answer is to name it.
    Blob(Option<Digest>),
    /// The upload session: it never existed, has ended, or is another repository's.
    Upload,
}

/// Which part of a request is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Invalid {
    /// The manifest is none, or not one that can be stored; the message is the reason.
    Manifest,
    /// The content has another digest than the client says.
    Digest,
    /// The body is longer or shorter than announced.
    Length,
    /// The body broke off.
    Body,
}

impl Error {
    /// An error of the given kind.
    pub fn new(kind: Kind, message: impl Into<String>) -> Error {
        Error { kind, message: message.into() }
    }

    /// Something does not exist.
    pub fn not_found(what: What, message: impl Into<String>) -> Error {
        Error::new(Kind::NotFound(what), message)
    }

    /// The client sent something wrong.
    pub fn invalid(part: Invalid, message: impl Into<String>) -> Error {
        Error::new(Kind::Invalid(part), message)
    }

    /// The cluster cannot answer now.
    pub fn unavailable(retry_after: Duration, message: impl Into<String>) -> Error {
        Error::new(Kind::Unavailable { retry_after }, message)
    }

    /// A fault of this node. The cause belongs in the log, not in `message`.
    pub fn internal(message: impl Into<String>) -> Error {
        Error::new(Kind::Internal, message)
    }

    /// No session of this id in this repository.
    pub(crate) fn upload_unknown() -> Error {
        Error::not_found(What::Upload, "the upload is unknown, finished or cancelled")
    }
}

impl From<BodyError> for Error {
    fn from(error: BodyError) -> Error {
        let part = match error {
            BodyError::Length => Invalid::Length,
            BodyError::Broken(_) | BodyError::Idle => Invalid::Body,
        };
        Error::invalid(part, error.to_string())
    }
}

impl From<Denied> for Error {
    fn from(denied: Denied) -> Self {
        match denied {
            Denied::Unauthenticated => Error::new(Kind::Unauthenticated, denied.to_string()),
            Denied::Forbidden { .. } => Error::new(Kind::Denied, denied.to_string()),
            Denied::Fault(fault) => fault.into(),
        }
    }
}

impl From<Lost> for Error {
    fn from(_: Lost) -> Self {
        // A panic has ended the process already.
        Error::internal("the node is stopping")
    }
}

impl From<Fault> for Error {
    fn from(fault: Fault) -> Self {
        tracing::error!(error = %fault, "the state cannot be read");
        Error::unavailable(RETRY, "this node cannot read its state; another node can answer")
    }
}

impl From<Unavailable> for Error {
    fn from(unavailable: Unavailable) -> Self {
        Error::unavailable(unavailable.retry_after, unavailable.reason)
    }
}

impl From<ProposeError> for Error {
    fn from(error: ProposeError) -> Self {
        match error {
            ProposeError::Rejected(rejected) => rejected.into(),
            ProposeError::Unavailable(unavailable) => unavailable.into(),
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
            Rejected::Project(ProjectRejected::NameUnknown) => Error::not_found(What::Repository, text),
            Rejected::Blob(BlobRejected::BlobUnknown) => Error::not_found(What::Blob(None), text),
            Rejected::Artifact(ArtifactRejected::ManifestUnknown) => {
                Error::not_found(What::Manifest(None), text)
            }
            Rejected::Blob(BlobRejected::BlobReferenced(manifest)) => {
                Error::new(Kind::InUse { manifest }, text)
            }
            Rejected::Artifact(ArtifactRejected::PreconditionFailed(current)) => {
                Error::new(Kind::Precondition { current }, text)
            }
            Rejected::Artifact(ArtifactRejected::ReferencesUnknown(digests)) => {
                Error::new(Kind::MissingReferences(digests), "the repository has no such blob or manifest")
            }
            Rejected::Request(
                RequestRejected::SessionGone | RequestRejected::DeadlinePassed | RequestRejected::StalePermit,
            )
            | Rejected::Cluster(ClusterRejected::Uncovered(_))
            | Rejected::Blob(BlobRejected::NeedCopies(_) | BlobRejected::BadReceipt) => {
                Error::unavailable(RETRY, text)
            }
            _ => {
                tracing::error!(%text, "an unexpected refusal");
                Error::internal(text)
            }
        }
    }
}

impl From<BlobError> for Error {
    fn from(error: BlobError) -> Self {
        let text = error.to_string();
        match error {
            BlobError::DigestMismatch { .. } => Error::invalid(Invalid::Digest, text),
            BlobError::NoSpace { .. } => Error::new(Kind::NoSpace, text),
            BlobError::UploadUnknown(_) => Error::not_found(What::Upload, text),
            // The node's limit, not the client's: 503 and not 429, which clients take for their own fault.
            BlobError::TooManyUploads => Error::unavailable(CROWDED, text),
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
            other => {
                tracing::warn!(error = %other, "no peer could help");
                Error::unavailable(RETRY, "no node that holds the content can be reached")
            }
        }
    }
}

/// An owner's refusal, as this node would have said it.
impl From<Refused> for Kind {
    fn from(refused: Refused) -> Kind {
        match refused {
            Refused::Unknown => Kind::NotFound(What::Upload),
            Refused::Digest => Kind::Invalid(Invalid::Digest),
            Refused::Length => Kind::Invalid(Invalid::Length),
            Refused::Body => Kind::Invalid(Invalid::Body),
            Refused::Unauthenticated => Kind::Unauthenticated,
            Refused::Denied => Kind::Denied,
            Refused::Range { upload, offset } => Kind::Range { upload: UploadView { id: upload, offset } },
            Refused::NoSpace => Kind::NoSpace,
            Refused::Unavailable { retry_after } => Kind::Unavailable { retry_after },
            Refused::Internal => Kind::Internal,
        }
    }
}

impl Error {
    /// The same as a refusal that an owner sends to the node its client reached. What no step can answer goes
    /// as a fault.
    pub fn refused(&self) -> Refused {
        match &self.kind {
            Kind::NotFound(What::Upload) => Refused::Unknown,
            Kind::Invalid(Invalid::Digest) => Refused::Digest,
            Kind::Invalid(Invalid::Length) => Refused::Length,
            Kind::Invalid(Invalid::Body) => Refused::Body,
            Kind::Unauthenticated => Refused::Unauthenticated,
            Kind::Denied => Refused::Denied,
            Kind::Range { upload } => Refused::Range { upload: upload.id, offset: upload.offset },
            Kind::NoSpace => Refused::NoSpace,
            Kind::Unavailable { retry_after } => Refused::Unavailable { retry_after: *retry_after },
            _ => Refused::Internal,
        }
    }
}

#[cfg(test)]
mod tests {
    use clawhub_types::{NodeId, UploadId};

    use super::*;

    #[test]
    fn an_owners_refusals_reach_the_client_unchanged() {
        let upload = UploadView { id: UploadId { node: NodeId(3), random: [1; 16] }, offset: 77 };
        let kinds = [
            Kind::Invalid(Invalid::Digest),
            Kind::Invalid(Invalid::Length),
            Kind::Invalid(Invalid::Body),
            Kind::NotFound(What::Upload),
            Kind::Unauthenticated,
            Kind::Denied,
            Kind::Range { upload },
            Kind::NoSpace,
            Kind::Unavailable { retry_after: Duration::from_millis(1500) },
            Kind::Internal,
        ];
        for expected in kinds {
            assert_eq!(Kind::from(Error::new(expected.clone(), "why").refused()), expected);
        }
    }
}
