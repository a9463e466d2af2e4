//! The OCI distribution API: parse, authorise, one registry call, render.
//!
//! Everything that belongs to this protocol and to no other stands here: its prefix, its error codes, how its
//! refusals look, which header marks its answers ([`PROTOCOL`]). Nothing below knows any of it.
//!
//! Owns no state. Everything a path, query or header can say is parsed by a pure module
//! ([`path`], [`query`], [`page`], [`etag`], [`ranges`], [`chunk`]); there is one file of handlers per
//! resource, and each handler is those four steps. No handler can reach the registry without a
//! [`clawhub_auth::Permit`].

mod base;
mod blobs;
mod call;
mod catalog;
mod chunk;
mod code;
mod error;
mod etag;
mod manifests;
mod multipart;
mod page;
mod path;
mod query;
mod ranges;
mod referrers;
mod render;
mod tags;
mod uploads;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use clawhub_api_http::Protocol;
use clawhub_registry::Registry;
use http::{HeaderName, HeaderValue, Method, StatusCode};

pub use code::ErrorCode;

use crate::call::Call;
use crate::error::ApiError;
use crate::path::{PathError, Route};

/// Marks the answers of this API, whoever made them.
static HEADERS: [(HeaderName, HeaderValue); 1] =
    [(HeaderName::from_static("docker-distribution-api-version"), HeaderValue::from_static("registry/2.0"))];

/// This API, as the listener knows it.
pub static PROTOCOL: Protocol =
    Protocol { prefix: path::PREFIX, headers: &HEADERS, refuse: error::refuse, label: path::label };

/// The router of everything under the prefix. Requests are the anonymous principal's unless an outer layer has
/// put a [`clawhub_auth::Principal`] into their extensions.
pub fn routes(registry: Registry) -> Router {
    // Names contain slashes, so one handler takes every path and finds the endpoint itself.
    Router::new()
        .route(path::PREFIX, any(dispatch))
        .route(&format!("{}/", path::PREFIX), any(dispatch))
        .route(&format!("{}/{{*path}}", path::PREFIX), any(dispatch))
        .with_state(registry)
}

async fn dispatch(State(registry): State<Registry>, request: Request) -> Response {
    let route = match path::parse(request.uri().path()) {
        Ok(route) => route,
        Err(error) => return bad_path(error, request.method()).into_response(),
    };
    let (call, body) = Call::split(registry, request);
    answer(route, &call, body).await.unwrap_or_else(IntoResponse::into_response)
}

async fn answer(route: Route, call: &Call, body: Body) -> Result<Response, ApiError> {
    match (route, call.method.as_str()) {
        (Route::Base, "GET" | "HEAD") => base::get(call),
        (Route::Base, _) => Err(ApiError::method_not_allowed("GET, HEAD")),

        (Route::Catalog, "GET" | "HEAD") => catalog::list(call).await,
        (Route::Catalog, _) => Err(ApiError::method_not_allowed("GET, HEAD")),

        (Route::Tags(repo), "GET" | "HEAD") => tags::list(call, &repo).await,
        (Route::Tags(_), _) => Err(ApiError::method_not_allowed("GET, HEAD")),

        (Route::Referrers(repo, subject), "GET" | "HEAD") => referrers::list(call, &repo, &subject).await,
        (Route::Referrers(..), _) => Err(ApiError::method_not_allowed("GET, HEAD")),

        (Route::Manifest(repo, reference), "GET") => manifests::get(call, &repo, &reference).await,
        (Route::Manifest(repo, reference), "HEAD") => manifests::head(call, &repo, &reference).await,
        (Route::Manifest(repo, reference), "PUT") => manifests::put(call, body, &repo, &reference).await,
        (Route::Manifest(repo, reference), "DELETE") => manifests::delete(call, &repo, &reference).await,
        (Route::Manifest(..), _) => Err(ApiError::method_not_allowed("GET, HEAD, PUT, DELETE")),

        (Route::Blob(repo, digest), "GET") => blobs::get(call, &repo, &digest).await,
        (Route::Blob(repo, digest), "HEAD") => blobs::head(call, &repo, &digest).await,
        (Route::Blob(repo, digest), "DELETE") => blobs::delete(call, &repo, &digest).await,
        (Route::Blob(..), _) => Err(ApiError::method_not_allowed("GET, HEAD, DELETE")),

        (Route::Uploads(repo), "POST") => uploads::post(call, body, &repo).await,
        (Route::Uploads(_), _) => Err(ApiError::method_not_allowed("POST")),

        (Route::Upload(repo, id), "GET" | "HEAD") => uploads::status(call, &repo, id).await,
        (Route::Upload(repo, id), "PATCH") => uploads::patch(call, body, &repo, id).await,
        (Route::Upload(repo, id), "PUT") => uploads::put(call, body, &repo, id).await,
        (Route::Upload(repo, id), "DELETE") => uploads::cancel(call, &repo, id).await,
        (Route::Upload(..), _) => Err(ApiError::method_not_allowed("GET, HEAD, PATCH, PUT, DELETE")),
    }
}

fn bad_path(error: PathError, method: &Method) -> ApiError {
    match error {
        PathError::NoRoute => ApiError::no_route(),
        PathError::Name(error) => ApiError::code(ErrorCode::NameInvalid, error.to_string()),
        PathError::Digest(error) => ApiError::code(ErrorCode::DigestInvalid, error.to_string()),
        PathError::Upload => ApiError::code(ErrorCode::BlobUploadUnknown, "no such upload session"),
        PathError::Tag if method == Method::PUT => {
            ApiError::new(StatusCode::BAD_REQUEST, ErrorCode::NameInvalid, "invalid tag")
        }
        PathError::Tag => ApiError::code(ErrorCode::ManifestUnknown, "no such manifest: invalid tag"),
    }
}
