//! `/healthz`: the process answers. `/readyz`: this node gives the same answers as any other.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use clawhub_state::View;
use serde::Serialize;
use tokio::time::timeout;

use crate::node::Node;
use crate::stack::Stack;

/// How long a readiness check may wait for the cluster.
const PATIENCE: Duration = Duration::from_secs(1);

/// What `/readyz` says.
#[derive(Debug, Serialize)]
struct Readiness {
    ready: bool,
    /// Empty if it is ready.
    reasons: Vec<String>,
}

pub(crate) async fn healthz() -> &'static str {
    "ok\n"
}

pub(crate) async fn readyz(State(node): State<Arc<Node>>) -> Response {
    let reasons = not_ready(&node).await;
    let ready = reasons.is_empty();
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(Readiness { ready, reasons })).into_response()
}

/// Why the node should get no requests now; empty if it should.
pub(crate) async fn not_ready(node: &Node) -> Vec<String> {
    if node.stop.is_told() {
        return vec!["the node is stopping".into()];
    }
    let Some(stack) = node.stack() else {
        return vec![node.phase().to_owned()];
    };
    let mut reasons = node.storage.condition().reasons();
    if !reasons.is_empty() {
        // Waiting for the cluster would tell nothing more.
        return reasons;
    }
    // The one test that means it: whatever was acknowledged anywhere before now is visible here.
    match timeout(PATIENCE, stack.consensus.barrier()).await {
        Ok(Ok(_)) => reasons.extend(unregistered(node, stack)),
        Ok(Err(unavailable)) => reasons.push(unavailable.reason),
        Err(_) => reasons.push(behind(stack)),
    }
    reasons
}

/// A node whose boot is not logged yet may still be at its old address for the others.
fn unregistered(node: &Node, stack: &Stack) -> Option<String> {
    let state = stack.consensus.state();
    match View::new(&*state).cluster().node(stack.me) {
        Ok(Some(record)) if record.boot == node.boot.count => None,
        Ok(_) => Some("the node has not registered this start yet".into()),
        Err(fault) => Some(fault.to_string()),
    }
}

/// Why a barrier takes so long, as far as the node can tell.
fn behind(stack: &Stack) -> String {
    let status = stack.consensus.status();
    match status.leader {
        None => "there is no leader".into(),
        Some(_) if status.committed.unwrap_or(0) > status.applied => {
            format!("catching up: applied {} of {}", status.applied, status.committed.unwrap_or(0))
        }
        Some(leader) => format!("node {leader}, the leader, does not confirm in time"),
    }
}
