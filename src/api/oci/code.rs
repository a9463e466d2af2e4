//! The error codes of the distribution specification ("Error codes") and the statuses they go with. They
//! exist in this crate only: the use cases say what happened, and this edge chooses the code.

use http::StatusCode;

/// One of the codes that the specification lists for 4xx answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorCode {
    /// A blob is not known to the repository.
    BlobUnknown,
    /// An upload step made no sense, for example a chunk out of order.
    BlobUploadInvalid,
    /// No such upload session.
    BlobUploadUnknown,
    /// A digest is malformed, unsupported or does not match the content.
    DigestInvalid,
    /// A manifest names a blob or manifest that the repository lacks.
    ManifestBlobUnknown,
    /// A manifest was refused.
    ManifestInvalid,
    /// No such manifest.
    ManifestUnknown,
    /// The repository name is invalid.
    NameInvalid,
    /// No such repository.
    NameUnknown,
    /// The content length does not match.
    SizeInvalid,
    /// Authentication is required.
    Unauthorized,
    /// Authenticated, but not allowed.
    Denied,
    /// The operation is not supported here.
    Unsupported,
    /// Too many requests.
    TooManyRequests,
}

impl ErrorCode {
    /// The code as it stands in the JSON body.
    pub fn as_str(self) -> &'static str {
        match self {
            ErrorCode::BlobUnknown => "BLOB_UNKNOWN",
            ErrorCode::BlobUploadInvalid => "BLOB_UPLOAD_INVALID",
            ErrorCode::BlobUploadUnknown => "BLOB_UPLOAD_UNKNOWN",
            ErrorCode::DigestInvalid => "DIGEST_INVALID",
            ErrorCode::ManifestBlobUnknown => "MANIFEST_BLOB_UNKNOWN",
            ErrorCode::ManifestInvalid => "MANIFEST_INVALID",
            ErrorCode::ManifestUnknown => "MANIFEST_UNKNOWN",
            ErrorCode::NameInvalid => "NAME_INVALID",
            ErrorCode::NameUnknown => "NAME_UNKNOWN",
            ErrorCode::SizeInvalid => "SIZE_INVALID",
            ErrorCode::Unauthorized => "UNAUTHORIZED",
            ErrorCode::Denied => "DENIED",
            ErrorCode::Unsupported => "UNSUPPORTED",
            ErrorCode::TooManyRequests => "TOOMANYREQUESTS",
        }
    }

    /// The HTTP status that goes with the code where the request does not call for another.
    pub fn status(self) -> StatusCode {
        match self {
            ErrorCode::BlobUnknown
            | ErrorCode::BlobUploadUnknown
            | ErrorCode::ManifestUnknown
            | ErrorCode::NameUnknown => StatusCode::NOT_FOUND,
            ErrorCode::BlobUploadInvalid
            | ErrorCode::DigestInvalid
            | ErrorCode::ManifestBlobUnknown
            | ErrorCode::ManifestInvalid
            | ErrorCode::NameInvalid
            | ErrorCode::SizeInvalid => StatusCode::BAD_REQUEST,
            ErrorCode::Unauthorized => StatusCode::UNAUTHORIZED,
            ErrorCode::Denied => StatusCode::FORBIDDEN,
            ErrorCode::Unsupported => StatusCode::METHOD_NOT_ALLOWED,
            ErrorCode::TooManyRequests => StatusCode::TOO_MANY_REQUESTS,
        }
    }
}
