//! From a parsed request to an answer: what happens around every handler.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use clawhub_types::ErrorCode;
use http::header::{CONNECTION, EXPECT, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderName, HeaderValue, Method, Request, StatusCode, Version};
use hyper::body::Incoming;
use tower::ServiceExt;
use tracing::Instrument;

use crate::body::{ClientBody, Rest};
use crate::connection::Flight;
use crate::error::ApiError;
use crate::log::{Logged, Record, RequestId};
use crate::server::Limits;

const API_VERSION: HeaderName = HeaderName::from_static("docker-distribution-api-version");
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// One router of everything a listener serves: the protocols in `api` and the node's own `/healthz`,
/// `/readyz`, `/metrics` in `ops`. Unknown paths and methods answer JSON like any other error.
pub fn compose(api: Router, ops: Router) -> Router {
    ops.merge(api)
        .fallback(|| async { ApiError::no_route() })
        .method_not_allowed_fallback(|| async { ApiError::method_not_allowed("") })
}

/// What a listener's connections share.
pub(crate) struct App {
    pub(crate) router: Router,
    pub(crate) limits: Limits,
}

impl App {
    /// Answers one request. `flight` lives as long as the answer's body.
    pub(crate) async fn answer(
        self: Arc<App>,
        request: Request<Incoming>,
        flight: Flight,
    ) -> Response<Logged> {
        let id = RequestId::next();
        let record = Record::new(&request, id);
        let registry_api = is_registry_api(request.uri().path());
        let span = tracing::info_span!("request", %id);
        let mut response = self.run(request).instrument(span).await;
        let headers = response.headers_mut();
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        if let Ok(id) = HeaderValue::try_from(id.to_string()) {
            headers.insert(REQUEST_ID, id);
        }
        if registry_api {
            headers.insert(API_VERSION, HeaderValue::from_static("registry/2.0"));
        }
        Logged::response(response, record, flight)
    }

    async fn run(&self, request: Request<Incoming>) -> Response {
        if header_bytes(&request) > self.limits.header_bytes {
            let status = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
            return ApiError::new(status, ErrorCode::SizeInvalid, "the headers are too large")
                .into_response();
        }
        let idle = self.limits.idle;
        let rest = Rest::default();
        let h1 = request.version() < Version::HTTP_2;
        let asked = request.headers().contains_key(EXPECT);
        let request = request.map(|body| Body::new(ClientBody::new(body, idle, rest.clone())));
        let mut response = self.handle(request).await;
        // Who asks before sending is not invited to send what nobody wants.
        let kept = if asked { rest.is_empty() } else { rest.drained().await };
        if h1 && !kept {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }

    async fn handle(&self, request: Request<Body>) -> Response {
        let reads = matches!(*request.method(), Method::GET | Method::HEAD);
        let answer = self.router.clone().oneshot(request);
        if reads {
            return answer.await.unwrap_or_else(|never| match never {});
        }
        // hyper drops a request's future when its client leaves. One that changes state runs to its
        // end instead, so that it is never cut between two steps; its body ends with an error.
        match tokio::spawn(answer.in_current_span()).await {
            Ok(answer) => answer.unwrap_or_else(|never| match never {}),
            Err(error) => {
                tracing::error!(%error, "a handler did not finish");
                ApiError::from(clawhub_registry::Error::internal("internal error")).into_response()
            }
        }
    }
}

fn is_registry_api(path: &str) -> bool {
    path.strip_prefix("/v2").is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// The request line and the headers as they were on the wire, about.
fn header_bytes<B>(request: &Request<B>) -> usize {
    let target = request.uri().path_and_query().map_or(0, |target| target.as_str().len());
    let headers = request.headers().iter().map(|(name, value)| name.as_str().len() + value.len() + 4);
    target + headers.sum::<usize>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_header_is_for_v2_only() {
        for (path, yes) in
            [("/v2", true), ("/v2/", true), ("/v2/a/tags/list", true), ("/v20", false), ("/healthz", false)]
        {
            assert_eq!(is_registry_api(path), yes, "{path}");
        }
    }
}
