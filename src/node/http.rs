//! The client listener's router: the node's own pages at once, the registry as soon as there is one.
//!
//! Owns the slot that the registry's routes are put into when the node has become a member. Until then
//! its paths answer 503, so that a client tries again instead of believing the registry empty.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use axum::routing::{any, get};
use clawhub_api_http::{Protocol, Refusal, Site};
use clawhub_config::Limits;
use tower::ServiceExt;

use crate::health::{self, Health};
use crate::metrics::{self, Metrics, Sources};

/// Memory that a client connection may take: what HTTP/1 buffers, unread and unsent.
pub(crate) const CONNECTION_MEMORY: u64 = (128 + 512) << 10;

/// How long a client should stay away from a node that is not a member yet.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// What clients speak. The first one also speaks for paths that are nobody's.
pub(crate) static PROTOCOLS: &[&Protocol] = &[&clawhub_api_oci::PROTOCOL];

/// Where a protocol's routes will be. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct ReadyGate(Arc<OnceLock<Router>>);

impl ReadyGate {
    /// Lets clients in. Only the first call counts.
    pub(crate) fn open(&self, routes: Router) {
        // A second set of routes would be a second registry: there is one per life.
        let _ = self.0.set(routes);
    }

    async fn answer(State(gate): State<ReadyGate>, request: Request) -> Response {
        match gate.0.get() {
            Some(routes) => routes.clone().oneshot(request).await.unwrap_or_else(|never| match never {}),
            None => {
                let reason = "this node is not a member of a cluster yet, or is starting";
                (clawhub_api_oci::PROTOCOL.refuse)(Refusal::NotReady { retry_after: RETRY_AFTER, reason })
            }
        }
    }
}

pub(crate) fn site(gate: ReadyGate, health: Health, sources: Sources) -> Site {
    let prefix = clawhub_api_oci::PROTOCOL.prefix;
    // The wildcard matches neither the bare prefix nor an empty rest.
    let api = Router::new()
        .route(prefix, any(ReadyGate::answer))
        .route(&format!("{prefix}/"), any(ReadyGate::answer))
        .route(&format!("{prefix}/{{*path}}"), any(ReadyGate::answer))
        .with_state(gate);
    let ops = Router::new()
        .route("/healthz", get(health::healthz))
        .route("/readyz", get(health::readyz))
        .with_state(health);
    let counters = sources.counters.clone();
    let ops = ops.merge(Router::new().route("/metrics", get(metrics::render)).with_state(sources));
    let mut site = Site::new(PROTOCOLS, api, ops);
    site.router = site.router.layer(from_fn_with_state(counters, count));
    site
}

async fn count(State(counters): State<Arc<Metrics>>, request: Request, next: Next) -> Response {
    let route = metrics::route(PROTOCOLS, request.uri().path());
    let response = next.run(request).await;
    counters.count_request(route, response.status().as_u16());
    response
}

pub(crate) fn limits(limits: &Limits) -> clawhub_api_http::Limits {
    clawhub_api_http::Limits {
        connections: limits.connections,
        idle: limits.idle,
        drain: limits.drain,
        ..clawhub_api_http::Limits::default()
    }
}
