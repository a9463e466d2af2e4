//! What happens around every handler: a request gets its id, its body a limit on standing still, and its answer the
//! headers that all answers have. A handler that changes state outlives its client.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use http::header::{CONNECTION, EXPECT, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderName, HeaderValue, Method, Request, Version};
use hyper::body::Incoming;
use tokio::sync::Semaphore;
use tower::ServiceExt;
use tracing::Instrument;

use crate::body::{ClientBody, Rest};
use crate::flight::Flight;
use crate::limits::Limits;
use crate::log::{Logged, Record, RequestId};
use crate::memory::BodyMemory;
use crate::places::Place;
use crate::protocol::{Protocol, Refusal, Site, owner, refused};

/// When to come back to a listener whose connections are all at work.
const CROWDED: Duration = Duration::from_secs(2);

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// What a listener's connections share.
pub(crate) struct App {
    pub(crate) site: Site,
    pub(crate) limits: Limits,
    pub(crate) memory: BodyMemory,
    /// For the pieces of answers over HTTP/2.
    pub(crate) pieces: Arc<Semaphore>,
}

impl App {
    /// Answers one request. `flight` lives as long as the answer's body, `place` as long as the handler, too.
    pub(crate) async fn answer(
        self: Arc<App>,
        request: Request<Incoming>,
        flight: Flight,
        place: Place,
    ) -> Response<Logged> {
        let id = RequestId::next();
        let record = Record::new(&request, id);
        let protocol = owner(self.site.protocols, request.uri().path());
        let pieces = (request.version() == Version::HTTP_2).then(|| self.pieces.clone());
        let span = tracing::info_span!("request", %id);
        let response = self.run(request, place).instrument(span).await;
        Logged::response(marked(response, id, protocol), record, Some(flight), pieces)
    }

    /// Answers a request for a page of the node's own on a connection that waits.
    pub(crate) async fn answer_own(&self, request: Request<Incoming>) -> Response<Logged> {
        let id = RequestId::next();
        let record = Record::new(&request, id);
        let router = self.site.own.clone();
        let response = router.oneshot(request).await.unwrap_or_else(|never| match never {});
        Logged::response(marked(response, id, None), record, None, None)
    }

    /// Refuses a request that has waited long enough for its connection to be let in.
    pub(crate) fn turn_away(&self, request: &Request<Incoming>) -> Response<Logged> {
        let id = RequestId::next();
        let path = request.uri().path();
        let response = refused(self.site.protocols, path, Refusal::Crowded { retry_after: CROWDED });
        let response = marked(response, id, owner(self.site.protocols, path));
        Logged::response(response, Record::new(request, id), None, None)
    }

    async fn run(&self, request: Request<Incoming>, place: Place) -> Response {
        if header_bytes(&request) > self.limits.header_bytes {
            return refused(self.site.protocols, request.uri().path(), Refusal::HeadersTooLarge);
        }
        let slowest = self.limits.slowest();
        let rest = Rest::default();
        let h1 = request.version() < Version::HTTP_2;
        let asked = request.headers().contains_key(EXPECT);
        let mut request = request.map(|body| Body::new(ClientBody::new(body, slowest, rest.clone())));
        request.extensions_mut().insert(self.memory.of(place.network()));
        let mut response = self.handle(request, place).await;
        // Who asks before sending is not invited to send what nobody wants.
        let kept = if asked { rest.is_empty() } else { rest.drained().await };
        if h1 && !kept {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }

    async fn handle(&self, request: Request<Body>, place: Place) -> Response {
        let reads = matches!(*request.method(), Method::GET | Method::HEAD);
        let router = self.site.router.clone();
        if reads {
            return router.oneshot(request).await.unwrap_or_else(|never| match never {});
        }
        let path = request.uri().path().to_owned();
        let answer = async move {
            let answer = router.oneshot(request).await;
            drop(place);
            answer
        };
        // hyper drops a request's future when its client leaves. One that changes state runs to its
        // end instead, so that it is never cut between two steps; its body ends with an error. What it holds counts
        // with its connection until then.
        match tokio::spawn(answer.in_current_span()).await {
            Ok(answer) => answer.unwrap_or_else(|never| match never {}),
            Err(error) => {
                tracing::error!(%error, "a handler did not finish");
                refused(self.site.protocols, &path, Refusal::Internal)
            }
        }
    }
}

/// The answer with what all answers have.
fn marked(mut response: Response, id: RequestId, protocol: Option<&Protocol>) -> Response {
    let headers = response.headers_mut();
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if let Ok(id) = HeaderValue::try_from(id.to_string()) {
        headers.insert(REQUEST_ID, id);
    }
    for (name, value) in protocol.map_or(&[][..], |protocol| protocol.headers) {
        headers.insert(name, value.clone());
    }
    response
}

/// The request line and the headers as they were on the wire, about.
fn header_bytes<B>(request: &Request<B>) -> usize {
    let target = request.uri().path_and_query().map_or(0, |target| target.as_str().len());
    let headers = request.headers().iter().map(|(name, value)| name.as_str().len() + value.len() + 4);
    target + headers.sum::<usize>()
}
