//! The client listener's router: the node's own pages at once, each protocol as soon as somebody answers for it.
//!
//! Owns a gate for each protocol, through which its routes are reached once the node has become a member. Until
//! then its paths answer 503, so that a client tries again instead of believing the registry empty.

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

/// How long a client should stay away from a node that is not a member yet.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// What clients speak. The first one also speaks for paths that are nobody's. Whoever adds one opens its gate where
/// the node lets clients in.
pub(crate) static PROTOCOLS: &[&Protocol] = &[&clawhub_api_oci::PROTOCOL];

/// Where the routes of each protocol will be. Cheap to clone.
#[derive(Clone)]
pub(crate) struct ReadyGates(Arc<[Arc<Gate>]>);

struct Gate {
    protocol: &'static Protocol,
    routes: OnceLock<Router>,
}

impl ReadyGates {
    /// Closed gates.
    pub(crate) fn new(protocols: &[&'static Protocol]) -> ReadyGates {
        let gate = |protocol: &&'static Protocol| Arc::new(Gate { protocol, routes: OnceLock::new() });
        ReadyGates(protocols.iter().map(gate).collect())
    }

    /// Lets the clients of a protocol in. Only the first call counts.
    pub(crate) fn open(&self, protocol: &Protocol, routes: Router) {
        match self.0.iter().find(|gate| gate.protocol.prefix == protocol.prefix) {
            // A second set of routes would be a second registry: there is one per life.
            Some(gate) => _ = gate.routes.set(routes),
            None => tracing::error!(prefix = protocol.prefix, "nobody listens for this protocol"),
        }
    }

    /// The paths of all protocols.
    fn routes(&self) -> Router {
        self.0.iter().fold(Router::new(), |routes, gate| {
            let prefix = gate.protocol.prefix;
            // The wildcard matches neither the bare prefix nor an empty rest.
            let own = Router::new()
                .route(prefix, any(Gate::answer))
                .route(&format!("{prefix}/"), any(Gate::answer))
                .route(&format!("{prefix}/{{*path}}"), any(Gate::answer));
            routes.merge(own.with_state(gate.clone()))
        })
    }
}

impl Gate {
    async fn answer(State(gate): State<Arc<Gate>>, request: Request) -> Response {
        match gate.routes.get() {
            Some(routes) => routes.clone().oneshot(request).await.unwrap_or_else(|never| match never {}),
            None => {
                let reason = "this node is not a member of a cluster yet, or is starting";
                (gate.protocol.refuse)(Refusal::NotReady { retry_after: RETRY_AFTER, reason })
            }
        }
    }
}

pub(crate) fn site(gates: &ReadyGates, health: Health, sources: Sources) -> Site {
    let ops = Router::new()
        .route("/healthz", get(health::healthz))
        .route("/readyz", get(health::readyz))
        .with_state(health);
    let counters = sources.counters.clone();
    let ops = ops.merge(Router::new().route("/metrics", get(metrics::render)).with_state(sources));
    let mut site = Site::new(PROTOCOLS, gates.routes(), ops);
    site.router = site.router.layer(from_fn_with_state(counters.clone(), count));
    site.own = site.own.layer(from_fn_with_state(counters, count));
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
        min_rate: limits.min_rate,
        drain: limits.drain,
        ..clawhub_api_http::Limits::default()
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::http::StatusCode;
    use axum::response::IntoResponse;

    use super::*;

    static ONE: Protocol = Protocol {
        prefix: "/one",
        headers: &[],
        refuse: |_| StatusCode::SERVICE_UNAVAILABLE.into_response(),
        label: |_| "one",
    };
    static OTHER: Protocol =
        Protocol { prefix: "/other", refuse: |_| StatusCode::IM_A_TEAPOT.into_response(), ..ONE };

    async fn status(gates: &ReadyGates, path: &str) -> u16 {
        let request = Request::builder().uri(path).body(Body::empty()).unwrap();
        gates.routes().oneshot(request).await.unwrap().status().as_u16()
    }

    #[tokio::test]
    async fn each_protocol_has_a_gate_of_its_own_and_refuses_in_its_own_words() {
        let gates = ReadyGates::new(&[&ONE, &OTHER]);
        for path in ["/one", "/one/", "/one/a/b"] {
            assert_eq!(status(&gates, path).await, 503, "{path}");
        }
        assert_eq!(status(&gates, "/other/a").await, 418);
        assert_eq!(status(&gates, "/neither").await, 404);

        gates.open(&OTHER, Router::new().route("/other/{*path}", get(async || "here")));
        assert_eq!(status(&gates, "/other/a").await, 200);
        assert_eq!(status(&gates, "/one/a").await, 503, "a gate that nobody has opened");
    }
}
