//! What the answers of several handlers have in common: headers with rules of their own, and small JSON bodies.

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use clawhub_api_http::Share;
use clawhub_registry::Freshness;
use clawhub_types::{Digest, RepoName, UploadId};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, ETAG, LOCATION, WARNING};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use serde::Serialize;

use crate::etag;
use crate::path::PREFIX;

/// `Docker-Content-Digest`.
pub(crate) const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");

/// An answer without a body.
pub(crate) fn empty(status: StatusCode) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    if status != StatusCode::NO_CONTENT && status != StatusCode::NOT_MODIFIED {
        response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(0));
    }
    response
}

/// A 200 with a JSON body.
pub(crate) fn json(value: &impl Serialize, content_type: &'static str) -> Response {
    with_json(text(value).into(), content_type)
}

/// The same with a large body, in the memory that was taken for it.
pub(crate) fn json_in(share: Share, value: &impl Serialize, content_type: &'static str) -> Response {
    with_json(share.hold(text(value)), content_type)
}

fn text(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("lists of text always serialise")
}

fn with_json(bytes: Bytes, content_type: &'static str) -> Response {
    let mut response = Response::new(Body::empty());
    response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(bytes.len()));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    *response.body_mut() = Body::from(bytes);
    response
}

/// A header value out of text that our own types keep to visible ASCII.
pub(crate) fn value(text: impl std::fmt::Display) -> HeaderValue {
    HeaderValue::try_from(text.to_string()).expect("names, digests and ids are visible ASCII")
}

/// The headers that name content: its digest, and the same as its entity tag.
pub(crate) fn content(headers: &mut HeaderMap, digest: &Digest) {
    headers.insert(CONTENT_DIGEST, value(digest));
    headers.insert(ETAG, etag::of(digest));
}

/// A 304: the client holds this content already.
pub(crate) fn not_modified(digest: &Digest, fresh: Freshness) -> Response {
    let mut response = empty(StatusCode::NOT_MODIFIED);
    content(response.headers_mut(), digest);
    warning(response.headers_mut(), fresh);
    response
}

/// A 201 for a blob that now is in the repository.
pub(crate) fn blob_created(repo: &RepoName, digest: &Digest) -> Response {
    let mut response = empty(StatusCode::CREATED);
    response.headers_mut().insert(LOCATION, value(format_args!("{PREFIX}/{repo}/blobs/{digest}")));
    response.headers_mut().insert(CONTENT_DIGEST, value(digest));
    response
}

/// Where an upload session goes on. Relative to the root, so that proxies and their TLS do not matter,
/// and without parameters, as clients append their own.
pub(crate) fn upload_location(repo: &RepoName, id: UploadId) -> HeaderValue {
    value(format_args!("{PREFIX}/{repo}/blobs/uploads/{id}"))
}

/// Says so if the answer comes from a node that is cut off from the cluster.
pub(crate) fn warning(headers: &mut HeaderMap, fresh: Freshness) {
    if let Freshness::CutOff { index, age } = fresh {
        let text = format!(
            "299 - \"this node is cut off from the cluster: state of log index {index}, {} s old\"",
            age.as_secs()
        );
        headers.insert(WARNING, value(text));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn only_a_cut_off_node_warns() {
        let mut headers = HeaderMap::new();
        warning(&mut headers, Freshness::Linearizable);
        warning(&mut headers, Freshness::ByDigest { index: 7 });
        assert!(headers.is_empty());
        warning(&mut headers, Freshness::CutOff { index: 7, age: Duration::from_millis(61_500) });
        let text = headers[WARNING].to_str().unwrap();
        assert!(text.starts_with("299 - \"") && text.ends_with('"'), "{text}");
        assert!(text.contains("log index 7, 61 s old"), "{text}");
    }
}
