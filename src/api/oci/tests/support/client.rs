//! Requests to a router, and their answers taken apart.

use axum::Router;
use axum::body::Body;
use bytes::Bytes;
use clawhub_auth::Principal;
use clawhub_types::Digest;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::BodyExt;
use serde_json::Value;
use sha2::Digest as _;
use tower::ServiceExt;

/// Sends requests as one principal.
#[derive(Clone)]
pub(crate) struct Client {
    router: Router,
    principal: Principal,
}

/// An answer, complete.
#[derive(Debug)]
pub(crate) struct Answer {
    /// Whether it answers HEAD, and so has no body whatever it says.
    head: bool,
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    /// A header that must be there once.
    pub(crate) fn header(&self, name: &str) -> &str {
        let mut values = self.headers.get_all(name).iter();
        let first = values.next().unwrap_or_else(|| panic!("{name} is missing: {self:?}"));
        assert!(values.next().is_none(), "{name} is there twice: {self:?}");
        first.to_str().unwrap()
    }

    /// The body as JSON.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Checks that this is an error of the given status and code, in its JSON form.
    pub(crate) fn refused(&self, status: u16, code: &str) {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(self.header("content-type"), "application/json");
        if self.head {
            return assert!(self.body.is_empty());
        }
        assert_eq!(self.json()["errors"][0]["code"], code, "{self:?}");
        assert!(self.json()["errors"][0]["message"].is_string(), "{self:?}");
    }
}

impl Client {
    pub(crate) fn new(router: Router, principal: Principal) -> Client {
        Client { router, principal }
    }

    /// Sends a request with headers and a body of known length.
    pub(crate) async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Body>,
    ) -> Answer {
        let mut request = Request::builder().method(method).uri(path).extension(self.principal.clone());
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(body.into()).unwrap();
        let (parts, body) = self.router.clone().oneshot(request).await.unwrap().into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        Answer { head: method == "HEAD", status: parts.status, headers: parts.headers, body }
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &[], Body::empty()).await
    }

    /// A request without a body that must be answered with this status.
    pub(crate) async fn expect(&self, method: &str, path: &str, status: u16) -> Answer {
        let answer = self.send(method, path, &[], Body::empty()).await;
        assert_eq!(answer.status, status, "{method} {path}: {answer:?}");
        answer
    }

    /// Pushes a blob in one request.
    pub(crate) async fn push_blob(&self, repo: &str, bytes: &[u8]) -> Digest {
        let digest = sha256(bytes);
        let path = format!("/v2/{repo}/blobs/uploads/?digest={digest}");
        let answer = self.send("POST", &path, &[], bytes.to_vec()).await;
        assert_eq!(answer.status, 201, "{answer:?}");
        digest
    }

    /// Puts a manifest.
    pub(crate) async fn put_manifest(
        &self,
        repo: &str,
        reference: &str,
        headers: &[(&str, &str)],
        manifest: &Value,
    ) -> Answer {
        let kind = manifest["mediaType"].as_str().unwrap();
        let headers: Vec<_> = headers.iter().copied().chain([("content-type", kind)]).collect();
        let path = format!("/v2/{repo}/manifests/{reference}");
        self.send("PUT", &path, &headers, manifest.to_string()).await
    }
}

pub(crate) fn sha256(bytes: &[u8]) -> Digest {
    Digest::Sha256(sha2::Sha256::digest(bytes).into())
}
