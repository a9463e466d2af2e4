//! Why a peer did not make a copy: a kind that travels on the wire, and words for the log.

use clawhub_blobs::BlobError;
use clawhub_wire::blob as pb;
use pb::copy_failed::Kind;

use crate::ReplicateError;

/// What kept a peer from making a copy, as the node that asked needs to tell it apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CopyFailure {
    /// None of those below, or one that this version does not know.
    Other,
    /// Its device is full, up to what must stay free.
    NoSpace,
    /// Its storage fails.
    Storage,
    /// It has no such upload session any more: it expired, or its bytes were lost.
    UploadUnknown,
    /// Its copy is not of the bytes that it should be of.
    OtherBytes,
    /// No holder could supply the bytes to it.
    NoHolder,
}

impl CopyFailure {
    fn of_store(error: &BlobError) -> CopyFailure {
        match error {
            BlobError::NoSpace { .. } => CopyFailure::NoSpace,
            BlobError::HeldBack | BlobError::Io { .. } | BlobError::Index(_) | BlobError::Worker(_) => {
                CopyFailure::Storage
            }
            BlobError::UploadUnknown(_) => CopyFailure::UploadUnknown,
            BlobError::DigestMismatch { .. }
            | BlobError::Corrupt { .. }
            | BlobError::Offset { .. }
            | BlobError::Unsealed(_)
            | BlobError::UploadTaken(_) => CopyFailure::OtherBytes,
            BlobError::Range { .. }
            | BlobError::Held(_)
            | BlobError::Incomplete(_)
            | BlobError::FetchFailed(_)
            | BlobError::TooManyUploads
            | BlobError::Stalled(_)
            | BlobError::Record(_) => CopyFailure::Other,
        }
    }

    fn of(error: &ReplicateError) -> CopyFailure {
        match error {
            ReplicateError::Local(error) => CopyFailure::of_store(error),
            ReplicateError::Exhausted(_)
            | ReplicateError::NotHeld(_)
            | ReplicateError::Unreachable { .. } => CopyFailure::NoHolder,
            ReplicateError::Refused { failure, .. } => *failure,
        }
    }

    fn to_wire(self) -> Kind {
        match self {
            CopyFailure::Other => Kind::Other,
            CopyFailure::NoSpace => Kind::NoSpace,
            CopyFailure::Storage => Kind::Storage,
            CopyFailure::UploadUnknown => Kind::UploadUnknown,
            CopyFailure::OtherBytes => Kind::OtherBytes,
            CopyFailure::NoHolder => Kind::NoHolder,
        }
    }
}

impl From<Kind> for CopyFailure {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Other => CopyFailure::Other,
            Kind::NoSpace => CopyFailure::NoSpace,
            Kind::Storage => CopyFailure::Storage,
            Kind::UploadUnknown => CopyFailure::UploadUnknown,
            Kind::OtherBytes => CopyFailure::OtherBytes,
            Kind::NoHolder => CopyFailure::NoHolder,
        }
    }
}

/// What a peer is told whose mirror the store here could not go on with.
pub(crate) fn mirror_failed(error: &BlobError) -> pb::CopyFailed {
    pb::CopyFailed { kind: CopyFailure::of_store(error).to_wire().into(), text: error.to_string() }
}

/// What a peer is told that asked for a copy in vain.
pub(crate) fn replica_failed(error: &ReplicateError) -> pb::CopyFailed {
    pb::CopyFailed { kind: CopyFailure::of(error).to_wire().into(), text: error.to_string() }
}

#[cfg(test)]
mod tests {
    use clawhub_types::NodeId;

    use super::*;

    #[test]
    fn kinds_survive_the_wire_and_unknown_ones_are_other() {
        let all = [
            CopyFailure::Other,
            CopyFailure::NoSpace,
            CopyFailure::Storage,
            CopyFailure::UploadUnknown,
            CopyFailure::OtherBytes,
            CopyFailure::NoHolder,
        ];
        for failure in all {
            let sent = pb::CopyFailed { kind: failure.to_wire().into(), text: String::new() };
            assert_eq!(CopyFailure::from(sent.kind()), failure);
        }
        let later = pb::CopyFailed { kind: 99, text: String::new() };
        assert_eq!(CopyFailure::from(later.kind()), CopyFailure::Other);
    }

    #[test]
    fn a_full_device_and_a_lost_holder_are_told_apart() {
        assert_eq!(mirror_failed(&BlobError::NoSpace { free: 7 }).kind(), Kind::NoSpace);
        assert_eq!(replica_failed(&BlobError::HeldBack.into()).kind(), Kind::Storage);
        assert_eq!(replica_failed(&ReplicateError::NotHeld(NodeId(3))).kind(), Kind::NoHolder);
    }
}
