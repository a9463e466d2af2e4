//! The reconciler of who takes part in consensus. It runs on every node and acts on the leader: looks,
//! takes one step, looks again.

mod plan;

use std::sync::Arc;
use std::time::Duration;

use clawhub_consensus::{ChangeError, Status};
use clawhub_policy::Layout;
use clawhub_state::View;
use clawhub_types::{Durability, NodeId};
use tokio::time::{MissedTickBehavior, interval};

use crate::node::Node;
use crate::stack::Stack;
use plan::{Seats, Spread, Step};

/// Between two looks.
const EVERY: Duration = Duration::from_millis(250);
/// How long one step may take.
const STEP: Duration = Duration::from_secs(15);
/// A learner that lacks at most this many entries is ready to vote.
const CAUGHT_UP: u64 = 128;

/// Runs until the node stops.
pub(crate) async fn run(node: Arc<Node>) {
    let Some(stack) = node.stack() else { return };
    let mut every = interval(EVERY);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while !node.stop.is_told() {
        every.tick().await;
        let status = stack.consensus.status();
        if status.leader != Some(stack.me) || status.changing {
            continue;
        }
        let layout = match View::new(&*stack.consensus.state()).cluster().layout() {
            Ok(layout) => layout,
            Err(error) => {
                tracing::error!(%error, "the members cannot be read");
                continue;
            }
        };
        if let Some(step) = plan::next(&layout, &seats(stack, &status)) {
            match take(stack, step).await {
                Ok(()) => tracing::info!(?step, "membership changed"),
                Err(error) => tracing::warn!(?step, %error, "membership did not change"),
            }
        }
    }
}

/// What consensus has, as the leader sees it.
fn seats(stack: &Stack, status: &Status) -> Seats {
    let last = status.last_log.unwrap_or(0);
    let matched = |id: NodeId| status.matched.iter().find(|(node, _)| *node == id).and_then(|(_, at)| *at);
    // On a quiet cluster a dead node lacks nothing: it must answer, too.
    let caught_up = |id: &NodeId| {
        matched(*id).is_some_and(|at| at + CAUGHT_UP >= last) && stack.liveness.is_reachable(*id)
    };
    Seats {
        voters: status.voters.iter().copied().collect(),
        learners: status.learners.iter().copied().collect(),
        caught_up: status.learners.iter().copied().filter(caught_up).collect(),
    }
}

async fn take(stack: &Stack, step: Step) -> Result<(), ChangeError> {
    match step {
        Step::AddLearner(id) => stack.consensus.add_learner(id, STEP).await,
        Step::Promote(id) => stack.consensus.promote(id, STEP).await,
        // A leader does not remove itself: the next one does.
        Step::Remove(id) if id == stack.me => stack.consensus.transfer_leader(None, STEP).await,
        Step::Remove(id) => stack.consensus.remove_member(id, STEP).await,
    }
}

/// Whether `node` may go: a default policy that a layout can keep must not become one that the loss of a
/// region, or of a zone, breaks.
///
/// # Errors
/// The reason, for the operator.
pub(crate) fn may_remove(layout: &Layout, durability: Durability, node: NodeId) -> Result<(), String> {
    let (before, after) = (plan::spread(layout), plan::spread(&layout.without(node)));
    let broken = |what: &str| {
        Err(format!(
            "without node {node} one {what} would hold a majority of the votes; --force does it anyway"
        ))
    };
    let Spread { regions, zones } = after;
    match durability {
        Durability::Region if before.regions && !regions => broken("region"),
        Durability::Region | Durability::Zone if before.zones && !zones => broken("zone"),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use clawhub_policy::NodeFacts;
    use clawhub_types::Location;

    use super::*;

    fn layout(places: &[(&str, &str)]) -> Layout {
        let node = |(id, (region, zone)): (u64, &(&str, &str))| NodeFacts {
            id: NodeId(id),
            location: Location { region: (*region).into(), zone: (*zone).into() },
            storage: true,
            voter: true,
            weight: 1,
        };
        Layout { nodes: (1..).zip(places).map(node).collect() }
    }

    #[test]
    fn a_removal_may_not_cost_what_the_policy_relies_on() {
        let zones = layout(&[("a", "1"), ("a", "2"), ("a", "3"), ("a", "3")]);
        assert!(may_remove(&zones, Durability::Zone, NodeId(1)).is_err());
        assert!(may_remove(&zones, Durability::Zone, NodeId(4)).is_ok());
        assert!(may_remove(&zones, Durability::Local, NodeId(1)).is_ok());
        let regions = layout(&[("a", "1"), ("b", "1"), ("c", "1"), ("c", "2")]);
        assert!(may_remove(&regions, Durability::Region, NodeId(2)).is_err());
        assert!(may_remove(&regions, Durability::Zone, NodeId(2)).is_ok(), "the zones of c suffice");
        assert!(may_remove(&regions, Durability::Region, NodeId(3)).is_ok());
        // What is not kept anyway cannot be lost.
        assert!(may_remove(&layout(&[("a", "1"), ("b", "1")]), Durability::Zone, NodeId(2)).is_ok());
    }
}
