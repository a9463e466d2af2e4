//! What happens around every handler: a request gets its id, its body a limit on standing still, and its answer the
//! headers that all answers have. A handler that changes state outlives its client.

use std::sync::Arc;

use axum::body::Body;
use axum::response::Response;
use http::header::{CONNECTION, EXPECT, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderName, HeaderValue, Method, Request, Version};
use hyper::body::Incoming;
use tower::ServiceExt;
use tracing::Instrument;

use crate::body::{ClientBody, Rest};
use crate::connection::Flight;
use crate::log::{Logged, Record, RequestId};
use crate::protocol::{Refusal, Site, owner, refused};
use crate::server::Limits;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// What a listener's connections share.
pub(crate) struct App {
    pub(crate) site: Site,
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
        let protocol = owner(self.site.protocols, request.uri().path());
        let span = tracing::info_span!("request", %id);
        let mut response = self.run(request).instrument(span).await;
        let headers = response.headers_mut();
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        if let Ok(id) = HeaderValue::try_from(id.to_string()) {
            headers.insert(REQUEST_ID, id);
        }
        for (name, value) in protocol.map_or(&[][..], |protocol| protocol.headers) {
            headers.insert(name, value.clone());
        }
        Logged::response(response, record, flight)
    }

    async fn run(&self, request: Request<Incoming>) -> Response {
        if header_bytes(&request) > self.limits.header_bytes {
            return refused(self.site.protocols, request.uri().path(), Refusal::HeadersTooLarge);
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
        let router = self.site.router.clone();
        if reads {
            return router.oneshot(request).await.unwrap_or_else(|never| match never {});
        }
        let path = request.uri().path().to_owned();
        let answer = router.oneshot(request);
        // hyper drops a request's future when its client leaves. One that changes state runs to its
        // end instead, so that it is never cut between two steps; its body ends with an error.
        match tokio::spawn(answer.in_current_span()).await {
            Ok(answer) => answer.unwrap_or_else(|never| match never {}),
            Err(error) => {
                tracing::error!(%error, "a handler did not finish");
                refused(self.site.protocols, &path, Refusal::Internal)
            }
        }
    }
}

/// The request line and the headers as they were on the wire, about.
fn header_bytes<B>(request: &Request<B>) -> usize {
    let target = request.uri().path_and_query().map_or(0, |target| target.as_str().len());
    let headers = request.headers().iter().map(|(name, value)| name.as_str().len() + value.len() + 4);
    target + headers.sum::<usize>()
}
