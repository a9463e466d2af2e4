//! The client listener's router: the node's own pages at once, the registry as soon as there is one.
//!
//! Owns the slot that the registry's routes are put into when the node has become a member. Until then
//! `/v2/` answers 503, so that a client tries again instead of believing the registry empty.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use clawhub_api_http::ApiError;
use clawhub_config::Limits;
use tower::ServiceExt;

use crate::health;
use crate::metrics::Metrics;
use crate::node::Node;

/// Memory that a client connection may take: what HTTP/1 buffers, unread and unsent.
pub(crate) const CONNECTION_MEMORY: u64 = (128 + 512) << 10;

/// How long a client should stay away from a node that is not a member yet.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// Where the registry's routes will be. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Gate(Arc<OnceLock<Router>>);

impl Gate {
    /// Lets clients in. Only the first call counts.
    pub(crate) fn open(&self, routes: Router) {
        // A second set of routes would be a second registry: there is one per life.
        let _ = self.0.set(routes);
    }

    async fn answer(State(gate): State<Gate>, request: Request) -> Response {
        match gate.0.get() {
            Some(routes) => routes.clone().oneshot(request).await.into_response(),
            None => {
                let message = "this node is not a member of a cluster yet, or is starting";
                ApiError::from(clawhub_registry::Error::unavailable(RETRY_AFTER, message)).into_response()
            }
        }
    }
}

/// Everything the listener serves.
pub(crate) fn router(node: &Arc<Node>) -> Router {
    let api = Router::new()
        .route("/v2", any(Gate::answer))
        .route("/v2/", any(Gate::answer))
        .route("/v2/{*path}", any(Gate::answer))
        .with_state(node.gate.clone());
    let ops = Router::new()
        .route("/healthz", get(health::healthz))
        .route("/readyz", get(health::readyz))
        .route("/metrics", get(crate::metrics::render))
        .with_state(node.clone());
    clawhub_api_http::compose(api, ops).layer(from_fn_with_state(node.metrics.clone(), count))
}

async fn count(State(metrics): State<Arc<Metrics>>, request: Request, next: Next) -> Response {
    let class = crate::metrics::RouteClass::of(request.uri().path());
    let response = next.run(request).await;
    metrics.count_request(class, response.status().as_u16());
    response
}

/// The listener's limits.
pub(crate) fn limits(limits: &Limits) -> clawhub_api_http::Limits {
    clawhub_api_http::Limits {
        connections: limits.connections,
        idle: limits.idle,
        drain: limits.drain,
        ..clawhub_api_http::Limits::default()
    }
}
