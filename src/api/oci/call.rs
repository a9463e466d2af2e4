//! One request, taken apart for its handler, and the ways from it to a permit and the handle that is made from it.

use axum::body::Body;
use axum::extract::Request;
use clawhub_api_http::BodyMemory;
use clawhub_auth::{Act, Catalog, Cluster, Permit, Principal, Pull};
use clawhub_registry::{Reader, Registry, Repo, Repositories};
use clawhub_types::{Digest, RepoName};
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
    /// For a body that is collected.
    pub(crate) memory: BodyMemory,
    principal: Principal,
}

impl Call {
    pub(crate) fn split(registry: Registry, request: Request) -> (Call, Body) {
        let (mut parts, body) = request.into_parts();
        let call = Call {
            registry,
            query: Query::parse(parts.uri.query()),
            memory: parts.extensions.remove().unwrap_or_default(),
            principal: parts.extensions.remove().unwrap_or_default(),
            method: parts.method,
            version: parts.version,
            headers: parts.headers,
        };
        (call, body)
    }

    /// The repository as this node has it by now, for reading by digest. Or the 401 or 403 that goes out instead.
    pub(crate) fn reader_now(&self, repo: &RepoName) -> Result<Reader, ApiError> {
        let now = self.registry.now();
        let permit = now.authorize::<Pull>(&self.principal, repo)?;
        Ok(now.reader(permit))
    }

    /// The repository with everything in it that was acknowledged before.
    pub(crate) async fn reader(&self, repo: &RepoName) -> Result<Reader, ApiError> {
        let latest = self.registry.latest().await?;
        let permit = latest.authorize::<Pull>(&self.principal, repo)?;
        Ok(latest.reader(permit))
    }

    /// A permit for a write or a mount. Apply looks at it once more, so that the state as this node has it by now
    /// is enough.
    pub(crate) fn permit<A: Act>(&self, on: &A::On) -> Result<Permit<A>, ApiError> {
        Ok(self.registry.now().authorize(&self.principal, on)?)
    }

    /// What may be done to a repository with a permit for it.
    pub(crate) fn repo<A: Act<On = RepoName>>(&self, repo: &RepoName) -> Result<Repo<A>, ApiError> {
        Ok(self.registry.repo(self.permit::<A>(repo)?))
    }

    /// The list of repositories, with everything in it that was acknowledged before.
    pub(crate) async fn repositories(&self) -> Result<Repositories, ApiError> {
        let latest = self.registry.latest().await?;
        let permit = latest.authorize::<Catalog>(&self.principal, &Cluster)?;
        Ok(latest.repositories(permit))
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
