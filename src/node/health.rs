//! `/healthz`: the process answers. `/readyz`: this node can serve, or the reasons why it cannot.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use clawhub_cluster::{Bootstrap, uncovered};
use clawhub_devices::Devices;
use clawhub_state::View;
use clawhub_types::RoundTrip;
use serde::Serialize;
use tokio::time::timeout;

use crate::member::{Member, Slot};
use crate::stop::Stop;

/// How long a readiness check may wait for the cluster, the way left out.
const PATIENCE: Duration = Duration::from_millis(600);
/// Round trips of a barrier: to the leader, from there to a quorum, each perhaps after one that is under way.
const TRIPS: u32 = 4;

#[derive(Debug, Serialize)]
struct Readiness {
    ready: bool,
    /// Empty if it is ready.
    reasons: Vec<String>,
    /// What keeps the whole cluster from something, so that another node would be no better.
    warnings: Vec<String>,
}

pub(crate) async fn healthz() -> &'static str {
    "ok\n"
}

pub(crate) async fn readyz(State(health): State<Health>) -> Response {
    let reasons = health.not_ready().await;
    let ready = reasons.is_empty();
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(Readiness { ready, reasons, warnings: health.warnings() })).into_response()
}

/// What it takes to say how the node is. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Health {
    pub(crate) bootstrap: Bootstrap,
    pub(crate) member: Slot,
    pub(crate) devices: Arc<Devices>,
    pub(crate) stop: Stop,
    /// The longest round trip that the node allows for.
    pub(crate) way: RoundTrip,
}

impl Health {
    /// Why the node should get no requests now; empty if it should.
    pub(crate) async fn not_ready(&self) -> Vec<String> {
        if self.stop.is_told() {
            return vec!["the node is stopping".into()];
        }
        let Some(member) = self.member.get() else {
            return vec![self.phase().to_owned()];
        };
        let mut reasons = self.devices.condition().reasons();
        if !reasons.is_empty() {
            // Waiting for the cluster would tell nothing more.
            return reasons;
        }
        // The one test that means it: whatever was acknowledged anywhere before now is visible here.
        let patience = self.way.within(TRIPS, PATIENCE);
        match timeout(patience, member.consensus.barrier()).await {
            Ok(Ok(_)) => reasons.extend(unregistered(member)),
            Ok(Err(unavailable)) => reasons.push(unavailable.reason),
            Err(_) => reasons.push(behind(member)),
        }
        reasons
    }

    /// Why the cluster takes no pushes, if it does not; empty if this node does not know.
    pub(crate) fn warnings(&self) -> Vec<String> {
        // A state that cannot be read makes the node unready; that is said elsewhere.
        let uncovered = self.member.get().and_then(|member| uncovered(&member.consensus).ok().flatten());
        uncovered.map(|why| format!("no push is taken: {why}")).into_iter().collect()
    }

    /// How far a node is that does not run as a member.
    fn phase(&self) -> &'static str {
        match self.bootstrap.owner() {
            None => "the node is neither initialised nor joined",
            Some(_) => "the node is starting",
        }
    }

    /// What is wrong with the node's storage; `sound` if nothing is.
    pub(crate) fn storage(&self) -> String {
        let condition = self.devices.condition();
        let full = self.member.get().is_some_and(|member| condition.is_sound() && !member.blobs.accepts());
        if full { "below min_free: it takes no bytes".to_owned() } else { condition.summary() }
    }
}

/// A node whose boot is not logged yet may still be at its old address for the others.
fn unregistered(member: &Member) -> Option<String> {
    let state = member.consensus.state();
    match View::new(&*state).cluster().node(member.consensus.node()) {
        Ok(Some(record)) if record.boot == member.boot => None,
        Ok(_) => Some("the node has not registered this start yet".into()),
        Err(fault) => Some(fault.to_string()),
    }
}

/// Why a barrier takes so long, as far as the node can tell.
fn behind(member: &Member) -> String {
    let status = member.consensus.status();
    if let Some(age) = status.cut_off {
        return format!("cut off: no word from a majority of the voters for {} ms", age.as_millis());
    }
    match status.leader {
        None => "there is no leader".into(),
        Some(_) if status.committed.unwrap_or(0) > status.applied => {
            format!("catching up: applied {} of {}", status.applied, status.committed.unwrap_or(0))
        }
        Some(leader) => format!("node {leader}, the leader, does not confirm in time"),
    }
}
