//! Errors as clients see them: a status, headers, and `{"errors":[…]}` (distribution-spec, "Error
//! codes").
//!
//! The specification closes the list of codes for 4xx answers. 5xx answers use `UNAVAILABLE` and
//! `UNKNOWN`, which clients take as a reason to try again; a listed code such as `TOOMANYREQUESTS`
//! makes docker give up at once.

use std::time::Duration;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use clawhub_registry::{Error, Kind};
use clawhub_types::ErrorCode;
use http::header::{ALLOW, CONTENT_TYPE, ETAG, RETRY_AFTER};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use serde::Serialize;
use serde_json::{Value, json};

/// What a client should wait before it repeats a request that was refused for load.
const BACK_OFF: Duration = Duration::from_secs(1);

#[derive(Debug, Serialize)]
struct Entry {
    code: &'static str,
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<Value>,
}

/// An error answer.
#[derive(Debug)]
pub struct ApiError(Box<Answer>);

#[derive(Debug)]
struct Answer {
    status: StatusCode,
    entries: Vec<Entry>,
    headers: HeaderMap,
}

impl ApiError {
    /// An answer of one entry.
    pub fn new(status: StatusCode, code: ErrorCode, message: impl Into<String>) -> ApiError {
        ApiError::raw(status, code.as_str(), message.into(), None)
    }

    /// An answer of one entry with the code's own status.
    pub fn code(code: ErrorCode, message: impl Into<String>) -> ApiError {
        ApiError::new(status_of(code), code, message)
    }

    /// 404 for a path that is no endpoint.
    pub fn no_route() -> ApiError {
        ApiError::new(StatusCode::NOT_FOUND, ErrorCode::Unsupported, "no such endpoint")
    }

    /// 405, listing what the endpoint does support, as in `GET, HEAD`.
    pub fn method_not_allowed(allow: &'static str) -> ApiError {
        ApiError::code(ErrorCode::Unsupported, "the method is not supported by this endpoint")
            .header(ALLOW, HeaderValue::from_static(allow))
    }

    /// Sets a header of the answer.
    #[must_use]
    pub fn header(mut self, name: HeaderName, value: HeaderValue) -> ApiError {
        self.0.headers.insert(name, value);
        self
    }

    /// The status of the answer.
    pub fn status(&self) -> StatusCode {
        self.0.status
    }

    fn raw(status: StatusCode, code: &'static str, message: String, detail: Option<Value>) -> ApiError {
        let entries = vec![Entry { code, message, detail }];
        ApiError(Box::new(Answer { status, entries, headers: HeaderMap::new() }))
    }

    fn retry_after(self, wait: Duration) -> ApiError {
        // Whole seconds, rounded up: "0" invites a busy loop.
        let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        self.header(RETRY_AFTER, HeaderValue::from(seconds.max(1)))
    }
}

fn status_of(code: ErrorCode) -> StatusCode {
    StatusCode::from_u16(code.status()).expect("every error code has a valid status")
}

/// The status and the code of a kind of failure.
fn form(kind: &Kind) -> (StatusCode, &'static str) {
    match kind {
        Kind::Code(code) => (status_of(*code), code.as_str()),
        Kind::RangeInvalid { .. } => {
            (StatusCode::RANGE_NOT_SATISFIABLE, ErrorCode::BlobUploadInvalid.as_str())
        }
        Kind::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, ErrorCode::SizeInvalid.as_str()),
        Kind::PreconditionFailed { .. } => (StatusCode::PRECONDITION_FAILED, ErrorCode::Denied.as_str()),
        Kind::NoSpace => (StatusCode::INSUFFICIENT_STORAGE, "UNAVAILABLE"),
        Kind::Unavailable { .. } => (StatusCode::SERVICE_UNAVAILABLE, "UNAVAILABLE"),
        Kind::Internal => (StatusCode::INTERNAL_SERVER_ERROR, "UNKNOWN"),
    }
}

impl From<Error> for ApiError {
    fn from(error: Error) -> ApiError {
        let Error { kind, message, mut detail, also } = error;
        let (status, code) = form(&kind);
        if let (Kind::PreconditionFailed { current }, None) = (&kind, &detail) {
            detail = Some(json!({ "current": current.as_ref().map(ToString::to_string) }));
        }
        let answer = ApiError::raw(status, code, message, detail);
        let mut answer = match kind {
            Kind::Unavailable { retry_after } => answer.retry_after(retry_after),
            Kind::Code(ErrorCode::TooManyRequests) => answer.retry_after(BACK_OFF),
            Kind::PreconditionFailed { current: Some(digest) } => {
                let etag = HeaderValue::try_from(format!("\"{digest}\""));
                answer.header(ETAG, etag.expect("a digest is visible ASCII"))
            }
            _ => answer,
        };
        let also = also.into_iter();
        let also = also.map(|(code, message, detail)| Entry { code: code.as_str(), message, detail });
        answer.0.entries.extend(also);
        answer
    }
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
    use clawhub_types::{Digest, NodeId, UploadId};
    use http_body_util::BodyExt;

    async fn rendered(error: Error) -> (u16, HeaderMap, Value) {
        let response = ApiError::from(error).into_response();
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        (parts.status.as_u16(), parts.headers, serde_json::from_slice(&bytes).unwrap())
    }

    #[tokio::test]
    async fn kinds_have_their_status_and_code() {
        let upload = UploadView { id: UploadId { node: NodeId(1), random: [0; 16] }, offset: 3 };
        for (kind, status, code) in [
            (Kind::Code(ErrorCode::BlobUnknown), 404, "BLOB_UNKNOWN"),
            (Kind::Code(ErrorCode::Unauthorized), 401, "UNAUTHORIZED"),
            (Kind::Code(ErrorCode::Denied), 403, "DENIED"),
            (Kind::RangeInvalid { upload }, 416, "BLOB_UPLOAD_INVALID"),
            (Kind::TooLarge, 413, "SIZE_INVALID"),
            (Kind::PreconditionFailed { current: None }, 412, "DENIED"),
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
        assert_eq!(rendered(Error::code(ErrorCode::TooManyRequests, "slow")).await.1[RETRY_AFTER], "1");
    }

    #[tokio::test]
    async fn further_entries_and_details_are_kept_in_order() {
        let error = Error::code(ErrorCode::ManifestBlobUnknown, "first")
            .with_detail(json!({"digest": "a"}))
            .and(ErrorCode::ManifestBlobUnknown, "second", None);
        let (status, _, body) = rendered(error).await;
        assert_eq!(status, 400);
        assert_eq!(body["errors"][0]["detail"]["digest"], "a");
        assert_eq!(body["errors"][1]["message"], "second");
        assert!(body["errors"][1].get("detail").is_none());
    }

    #[tokio::test]
    async fn a_failed_precondition_names_what_is_there() {
        let current = Digest::Sha256([9; 32]);
        let error =
            Error::new(Kind::PreconditionFailed { current: Some(Box::new(current.clone())) }, "changed");
        let (_, headers, body) = rendered(error).await;
        assert_eq!(headers[ETAG], format!("\"{current}\""));
        assert_eq!(body["errors"][0]["detail"]["current"], current.to_string());
    }
}
