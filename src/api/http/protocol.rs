//! What a protocol brings along to be served by a listener that knows none.
//!
//! The listener refuses some requests before any handler sees them, and marks every answer. How such a
//! refusal looks is the protocol's business, so it hands its own rendering over together with the paths that
//! are its own.

use std::time::Duration;

use axum::Router;
use axum::response::Response;
use http::{HeaderName, HeaderValue};

/// A protocol, as the listener and the node's metrics know it.
#[derive(Debug)]
pub struct Protocol {
    /// What its paths begin with, without a slash at the end. A path is its own if it is the prefix, or if a
    /// slash follows the prefix.
    pub prefix: &'static str,
    /// Headers of every answer on its paths, whoever made the answer.
    pub headers: &'static [(HeaderName, HeaderValue)],
    /// Renders what is refused before a handler of the protocol is asked.
    pub refuse: fn(Refusal) -> Response,
    /// Names the part of the interface that a path of its own is for, in metrics. Few names: nothing that a
    /// client chooses may become one.
    pub label: fn(&str) -> &'static str,
}

/// What is refused on behalf of a protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// No endpoint has this path.
    NoRoute,
    /// The endpoint does not support the method.
    Method,
    /// The headers are longer than the listener's limit.
    HeadersTooLarge,
    /// Nobody answers for the protocol yet.
    NotReady {
        /// When to try again.
        retry_after: Duration,
        /// Why, for people.
        reason: &'static str,
    },
    /// All connections that the listener may have are at work.
    Crowded {
        /// When to try again.
        retry_after: Duration,
    },
    /// A handler did not come to an end.
    Internal,
}

impl Protocol {
    /// Whether a path belongs to the protocol.
    pub fn owns(&self, path: &str) -> bool {
        path.strip_prefix(self.prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

/// Everything that a listener serves.
#[derive(Debug)]
pub struct Site {
    /// Answers.
    pub router: Router,
    /// Answers for the node's own pages alone.
    pub own: Router,
    /// Whose paths they are. The first one also speaks for paths that are nobody's.
    pub protocols: &'static [&'static Protocol],
}

impl Site {
    /// One router of the protocols' routes in `api` and the node's own pages in `ops`. Unknown paths and
    /// methods are refused as the protocol of the path would.
    pub fn new(protocols: &'static [&'static Protocol], api: Router, ops: Router) -> Site {
        let refuse = |refusal| {
            move |request: axum::extract::Request| async move { refused(protocols, request.uri().path(), refusal) }
        };
        let whole = |router: Router| {
            router.fallback(refuse(Refusal::NoRoute)).method_not_allowed_fallback(refuse(Refusal::Method))
        };
        Site { router: whole(ops.clone().merge(api)), own: whole(ops), protocols }
    }

    /// Whether a path is for a page of the node's own, if for any.
    pub(crate) fn is_own(&self, path: &str) -> bool {
        owner(self.protocols, path).is_none()
    }
}

/// The protocol that a path belongs to.
pub(crate) fn owner(protocols: &[&'static Protocol], path: &str) -> Option<&'static Protocol> {
    protocols.iter().copied().find(|protocol| protocol.owns(path))
}

/// A refusal in the words of the protocol that the path belongs to, else of the first one.
pub(crate) fn refused(protocols: &[&'static Protocol], path: &str, refusal: Refusal) -> Response {
    match owner(protocols, path).or_else(|| protocols.first().copied()) {
        Some(protocol) => (protocol.refuse)(refusal),
        None => bare(refusal),
    }
}

/// For a listener without a protocol: the status alone.
fn bare(refusal: Refusal) -> Response {
    use axum::response::IntoResponse;
    use http::StatusCode;
    match refusal {
        Refusal::NoRoute => StatusCode::NOT_FOUND,
        Refusal::Method => StatusCode::METHOD_NOT_ALLOWED,
        Refusal::HeadersTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
        Refusal::NotReady { .. } | Refusal::Crowded { .. } => StatusCode::SERVICE_UNAVAILABLE,
        Refusal::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
    .into_response()
}
