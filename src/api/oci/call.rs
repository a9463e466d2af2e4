//! One request, taken apart for its handler.

use axum::body::Body;
use axum::extract::Request;
use clawhub_auth::{Permit, Principal};
use clawhub_registry::Registry;
use clawhub_types::{Action, Digest, RepoName, Resource};
use http::{HeaderMap, Method, Version};

use crate::ErrorCode;
use crate::error::ApiError;
use crate::query::Query;

/// What a handler works with. The body is not part of it: it cannot be shared between threads, and most
/// handlers have no use for it.
pub(crate) struct Call {
    pub(crate) registry: Registry,
    pub(crate) method: Method,
    pub(crate) version: Version,
    pub(crate) headers: HeaderMap,
    pub(crate) query: Query,
    principal: Principal,
}

impl Call {
    pub(crate) fn split(registry: Registry, request: Request) -> (Call, Body) {
        let (mut parts, body) = request.into_parts();
        let call = Call {
            registry,
            query: Query::parse(parts.uri.query()),
            principal: parts.extensions.remove().unwrap_or_default(),
            method: parts.method,
            version: parts.version,
            headers: parts.headers,
        };
        (call, body)
    }

    /// A permit for `action` on a repository, or the 401 or 403 that goes out instead.
    pub(crate) fn permit(&self, action: Action, repo: &RepoName) -> Result<Permit, ApiError> {
        self.permit_scope(action, &Resource::Repository(repo.clone()))
    }

    /// A permit for `action` on any scope.
    pub(crate) fn permit_scope(&self, action: Action, scope: &Resource) -> Result<Permit, ApiError> {
        Ok(self.registry.authorize(&self.principal, action, scope)?)
    }

    /// The text of a header, if it is there once and is visible ASCII.
    pub(crate) fn header(&self, name: &http::HeaderName) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }
}

/// A digest out of a query.
pub(crate) fn digest(text: &str) -> Result<Digest, ApiError> {
    text.parse().map_err(|error| ApiError::code(ErrorCode::DigestInvalid, format!("{error}")))
}
