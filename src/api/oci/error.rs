//! Errors as clients see them: a status, headers, and `{"errors":[…]}` (distribution-spec, "Error
//! codes"). Here alone is decided what this API calls a failure of the registry.
//!
//! The specification closes the list of codes for 4xx answers. 5xx answers use `UNAVAILABLE` and
//! `UNKNOWN`, which clients take as a reason to try again; a listed code such as `TOOMANYREQUESTS`
//! makes docker give up at once.

use std::time::Duration;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use clawhub_api_http::Refusal;
use clawhub_registry::{Error, Invalid, Kind, What};
use clawhub_types::Digest;
use http::header::{ALLOW, CONTENT_TYPE, ETAG, RETRY_AFTER};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use serde::Serialize;
use serde_json::{Value, json};

use crate::ErrorCode;

/// What a client should wait before it repeats a request that was refused for load.
const BACK_OFF: Duration = Duration::from_secs(1);

#[derive(Debug, Serialize)]
struct Entry {
    code: &'static str,
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<Value>,
}

#[derive(Debug)]
pub(crate) struct ApiError(Box<Answer>);

#[derive(Debug)]
struct Answer {
    status: StatusCode,
    entries: Vec<Entry>,
    headers: HeaderMap,
}

impl ApiError {
    /// An answer of one entry.
    pub(crate) fn new(status: StatusCode, code: ErrorCode, message: impl Into<String>) -> ApiError {
        let answer = ApiError::raw(status, code.as_str(), message.into(), None);
        match code {
            ErrorCode::TooManyRequests => answer.retry_after(BACK_OFF),
            _ => answer,
        }
    }

    /// An answer of one entry with the code's own status.
    pub(crate) fn code(code: ErrorCode, message: impl Into<String>) -> ApiError {
        ApiError::new(code.status(), code, message)
    }

    /// 404 for a path that is no endpoint.
    pub(crate) fn no_route() -> ApiError {
        ApiError::new(StatusCode::NOT_FOUND, ErrorCode::Unsupported, "no such endpoint")
    }

    /// 405, listing what the endpoint does support, as in `GET, HEAD`.
    pub(crate) fn method_not_allowed(allow: &'static str) -> ApiError {
        ApiError::code(ErrorCode::Unsupported, "the method is not supported by this endpoint")
            .header(ALLOW, HeaderValue::from_static(allow))
    }

    /// Sets a header of the answer.
    #[must_use]
    pub(crate) fn header(mut self, name: HeaderName, value: HeaderValue) -> ApiError {
        self.0.headers.insert(name, value);
        self
    }

    /// The status of the answer.
    #[cfg(test)]
    pub(crate) fn status(&self) -> StatusCode {
        self.0.status
    }

    fn raw(status: StatusCode, code: &'static str, message: String, detail: Option<Value>) -> ApiError {
        let entries = vec![Entry { code, message, detail }];
        ApiError(Box::new(Answer { status, entries, headers: HeaderMap::new() }))
    }

    /// Adds entries like the first one that differ in their details alone.
    fn repeat(&mut self, details: impl Iterator<Item = Value>) {
        let first = &self.0.entries[0];
        let code = first.code;
        let message = first.message.clone();
        let entry = |detail| Entry { code, message: message.clone(), detail: Some(detail) };
        self.0.entries.extend(details.map(entry));
    }

    fn retry_after(self, wait: Duration) -> ApiError {
        // Whole seconds, rounded up: "0" invites a busy loop.
        let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        self.header(RETRY_AFTER, HeaderValue::from(seconds.max(1)))
    }
}

/// The status and the code of a kind of failure.
fn form(kind: &Kind) -> (StatusCode, &'static str) {
    let coded = |code: ErrorCode| (code.status(), code.as_str());
    match kind {
        Kind::NotFound(What::Repository) => coded(ErrorCode::NameUnknown),
        Kind::NotFound(What::Manifest(_)) => coded(ErrorCode::ManifestUnknown),
        Kind::NotFound(What::Blob(_)) => coded(ErrorCode::BlobUnknown),
        Kind::NotFound(What::Upload) => coded(ErrorCode::BlobUploadUnknown),
        Kind::Invalid(Invalid::Manifest) => coded(ErrorCode::ManifestInvalid),
        Kind::Invalid(Invalid::Digest) => coded(ErrorCode::DigestInvalid),
        Kind::Invalid(Invalid::Length) => coded(ErrorCode::SizeInvalid),
        Kind::Invalid(Invalid::Body) => coded(ErrorCode::BlobUploadInvalid),
        Kind::MissingReferences(_) => coded(ErrorCode::ManifestBlobUnknown),
        Kind::InUse { .. } => coded(ErrorCode::Unsupported),
        Kind::Unauthenticated => coded(ErrorCode::Unauthorized),
        Kind::Denied => coded(ErrorCode::Denied),
        Kind::Range { .. } => (StatusCode::RANGE_NOT_SATISFIABLE, ErrorCode::BlobUploadInvalid.as_str()),
        Kind::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, ErrorCode::SizeInvalid.as_str()),
        Kind::Precondition { .. } => (StatusCode::PRECONDITION_FAILED, ErrorCode::Denied.as_str()),
        Kind::NoSpace => (StatusCode::INSUFFICIENT_STORAGE, "UNAVAILABLE"),
        Kind::Unavailable { .. } => (StatusCode::SERVICE_UNAVAILABLE, "UNAVAILABLE"),
        Kind::Internal => (StatusCode::INTERNAL_SERVER_ERROR, "UNKNOWN"),
    }
}

/// What a kind of failure says to programs beside its code.
fn detail(kind: &Kind, message: &str) -> Option<Value> {
    match kind {
        Kind::NotFound(What::Blob(Some(digest)) | What::Manifest(Some(digest))) => {
            Some(digest_detail(digest))
        }
        Kind::Invalid(Invalid::Manifest) => Some(json!({ "reason": message })),
        Kind::MissingReferences(digests) => digests.first().map(digest_detail),
        Kind::InUse { manifest } => Some(json!({ "manifest": manifest.to_string() })),
        Kind::Precondition { current } => {
            Some(json!({ "current": current.as_ref().map(ToString::to_string) }))
        }
        _ => None,
    }
}

fn digest_detail(digest: &Digest) -> Value {
    json!({ "digest": digest.to_string() })
}

impl From<Error> for ApiError {
    fn from(error: Error) -> ApiError {
        let Error { kind, message } = error;
        let (status, code) = form(&kind);
        let detail = detail(&kind, &message);
        let mut answer = ApiError::raw(status, code, message, detail);
        match kind {
            Kind::Unavailable { retry_after } => answer.retry_after(retry_after),
            Kind::Precondition { current: Some(digest) } => {
                let etag = HeaderValue::try_from(format!("\"{digest}\""));
                answer.header(ETAG, etag.expect("a digest is visible ASCII"))
            }
            // One entry per missing reference, as clients expect.
            Kind::MissingReferences(digests) => {
                answer.repeat(digests.iter().skip(1).map(digest_detail));
                answer
            }
            _ => answer,
        }
    }
}

/// What the listener refuses on behalf of this API.
pub(crate) fn refuse(refusal: Refusal) -> Response {
    match refusal {
        Refusal::NoRoute => ApiError::no_route(),
        Refusal::Method => ApiError::method_not_allowed(""),
        Refusal::HeadersTooLarge => ApiError::new(
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            ErrorCode::SizeInvalid,
            "the headers are too large",
        ),
        Refusal::NotReady { retry_after, reason } => Error::unavailable(retry_after, reason).into(),
        Refusal::Crowded { retry_after } => {
            Error::unavailable(retry_after, "this node has as many requests under way as it takes").into()
        }
        Refusal::Internal => Error::internal("internal error").into(),
    }
    .into_response()
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        #[derive(Serialize)]
        struct Errors {
            errors: Vec<Entry>,
        }
        let Answer { status, entries, headers } = *self.0;
        let json = serde_json::to_vec(&Errors { errors: entries })
            .expect("an error entry is text and JSON values, which always serialise");
        let mut response = Response::new(Body::from(json));
        *response.status_mut() = status;
        *response.headers_mut() = headers;
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clawhub_registry::UploadView;
    use clawhub_types::{NodeId, UploadId};
    use http_body_util::BodyExt;

    async fn rendered(error: impl Into<ApiError>) -> (u16, HeaderMap, Value) {
        let response = error.into().into_response();
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        (parts.status.as_u16(), parts.headers, serde_json::from_slice(&bytes).unwrap())
    }

    #[tokio::test]
    async fn kinds_have_their_status_and_code() {
        let upload = UploadView { id: UploadId { node: NodeId(1), random: [0; 16] }, offset: 3 };
        for (kind, status, code) in [
            (Kind::NotFound(What::Blob(None)), 404, "BLOB_UNKNOWN"),
            (Kind::NotFound(What::Manifest(None)), 404, "MANIFEST_UNKNOWN"),
            (Kind::NotFound(What::Repository), 404, "NAME_UNKNOWN"),
            (Kind::NotFound(What::Upload), 404, "BLOB_UPLOAD_UNKNOWN"),
            (Kind::Invalid(Invalid::Manifest), 400, "MANIFEST_INVALID"),
            (Kind::Invalid(Invalid::Digest), 400, "DIGEST_INVALID"),
            (Kind::Invalid(Invalid::Length), 400, "SIZE_INVALID"),
            (Kind::Invalid(Invalid::Body), 400, "BLOB_UPLOAD_INVALID"),
            (Kind::MissingReferences(Vec::new()), 400, "MANIFEST_BLOB_UNKNOWN"),
            (Kind::InUse { manifest: Digest::Sha256([1; 32]) }, 405, "UNSUPPORTED"),
            (Kind::Unauthenticated, 401, "UNAUTHORIZED"),
            (Kind::Denied, 403, "DENIED"),
            (Kind::Range { upload }, 416, "BLOB_UPLOAD_INVALID"),
            (Kind::TooLarge, 413, "SIZE_INVALID"),
            (Kind::Precondition { current: None }, 412, "DENIED"),
            (Kind::NoSpace, 507, "UNAVAILABLE"),
            (Kind::Unavailable { retry_after: Duration::ZERO }, 503, "UNAVAILABLE"),
            (Kind::Internal, 500, "UNKNOWN"),
        ] {
            let (got, headers, body) = rendered(Error::new(kind.clone(), "why")).await;
            assert_eq!(got, status, "{kind:?}");
            assert_eq!(headers[CONTENT_TYPE], "application/json");
            assert_eq!(body["errors"][0]["code"], code, "{kind:?}");
            assert_eq!(body["errors"][0]["message"], "why");
        }
    }

    #[tokio::test]
    async fn retry_after_is_whole_seconds_and_never_zero() {
        for (millis, seconds) in [(0, "1"), (1, "1"), (1000, "1"), (1001, "2"), (8000, "8")] {
            let error = Error::unavailable(Duration::from_millis(millis), "no leader");
            assert_eq!(rendered(error).await.1[RETRY_AFTER], seconds, "{millis} ms");
        }
        assert_eq!(rendered(ApiError::code(ErrorCode::TooManyRequests, "slow")).await.1[RETRY_AFTER], "1");
    }

    #[tokio::test]
    async fn every_missing_reference_has_an_entry_in_order() {
        let (first, second) = (Digest::Sha256([1; 32]), Digest::Sha256([2; 32]));
        let error = Error::new(Kind::MissingReferences(vec![first.clone(), second.clone()]), "missing");
        let (status, _, body) = rendered(error).await;
        assert_eq!(status, 400);
        assert_eq!(body["errors"][0]["detail"]["digest"], first.to_string());
        assert_eq!(body["errors"][1]["message"], "missing");
        assert_eq!(body["errors"][1]["detail"]["digest"], second.to_string());
        assert!(rendered(Error::new(Kind::Denied, "no")).await.2["errors"][0].get("detail").is_none());
    }

    #[tokio::test]
    async fn details_name_what_is_in_the_way() {
        let digest = Digest::Sha256([9; 32]);
        for (kind, field, value) in [
            (Kind::NotFound(What::Blob(Some(digest.clone()))), "digest", digest.to_string()),
            (Kind::NotFound(What::Manifest(Some(digest.clone()))), "digest", digest.to_string()),
            (Kind::InUse { manifest: digest.clone() }, "manifest", digest.to_string()),
            (Kind::Invalid(Invalid::Manifest), "reason", "why".to_owned()),
        ] {
            let body = rendered(Error::new(kind, "why")).await.2;
            assert_eq!(body["errors"][0]["detail"][field], value, "{field}");
        }
    }

    #[tokio::test]
    async fn a_failed_precondition_names_what_is_there() {
        let current = Digest::Sha256([9; 32]);
        let error = Error::new(Kind::Precondition { current: Some(current.clone()) }, "changed");
        let (_, headers, body) = rendered(error).await;
        assert_eq!(headers[ETAG], format!("\"{current}\""));
        assert_eq!(body["errors"][0]["detail"]["current"], current.to_string());
        let (_, headers, body) = rendered(Error::new(Kind::Precondition { current: None }, "changed")).await;
        assert!(!headers.contains_key(ETAG) && body["errors"][0]["detail"]["current"].is_null());
    }
}
