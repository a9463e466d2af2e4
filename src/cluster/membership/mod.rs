//! The reconciler of who takes part in consensus. It runs on every node and acts on the leader: looks,
//! takes one step, looks again.

mod ends;
mod plan;

use std::time::{Duration, Instant};

use clawhub_consensus::{ChangeError, Consensus, Status};
use clawhub_liveness::Liveness;
use clawhub_policy::{Layout, Uncovered, coverable};
use clawhub_state::{Fault, View};
use clawhub_types::{Durability, NodeId};

use crate::ClusterError;
use ends::Ends;
use plan::{Seats, Step};

/// How long one step may take.
const STEP: Duration = Duration::from_secs(15);
/// A learner that lacks at most this many entries is ready to vote.
const CAUGHT_UP: u64 = 128;
/// So is one that has what was written this long ago, the way to it and back left out: far apart, under load, many more
/// entries than those are always on their way.
const LAG: Duration = Duration::from_millis(500);
/// While the votes are even, one who lags by less than so many times that is as good.
const LAXER: u32 = 10;

/// Brings who votes and who follows to what the members' roles and places ask for. Keeps between two steps where the log
/// ended lately, in memory.
pub struct Membership {
    consensus: Consensus,
    liveness: Liveness,
    ends: Ends,
}

impl Membership {
    /// Between two looks.
    pub const EVERY: Duration = Duration::from_millis(250);

    /// Decides who votes in `consensus`, by who is alive.
    pub fn new(consensus: Consensus, liveness: Liveness) -> Membership {
        Membership { consensus, liveness, ends: Ends::default() }
    }

    /// Takes the next step, if this node leads and one is called for.
    ///
    /// # Errors
    /// [`ClusterError`] if the members cannot be read, or the step was not taken.
    pub async fn pass(&mut self) -> Result<(), ClusterError> {
        let status = self.consensus.status();
        if status.leader != Some(status.node) {
            self.ends.forget();
            return Ok(());
        }
        self.ends.note(Instant::now(), status.last_log.unwrap_or(0), LAXER * self.lag());
        // One change at a time: the next step is planned on what the last one has left.
        if status.changing {
            return Ok(());
        }
        let layout = View::new(&*self.consensus.state()).cluster().layout();
        let layout = layout.inspect_err(|error| tracing::error!(%error, "the members cannot be read"))?;
        let Some(step) = plan::next(&layout, &self.seats(&status)) else { return Ok(()) };
        match self.take(step).await {
            Ok(()) => tracing::info!(?step, "membership changed"),
            Err(error) => {
                tracing::warn!(?step, %error, "membership did not change");
                return Err(error.into());
            }
        }
        Ok(())
    }

    /// How far behind a learner may be that is ready to vote.
    fn lag(&self) -> Duration {
        self.liveness.round_trip().within(1, LAG)
    }

    /// What consensus has, as the leader sees it.
    fn seats(&self, status: &Status) -> Seats {
        let now = Instant::now();
        let ago = |lag| self.ends.before(now, lag);
        let caught_up = ago(self.lag());
        let near = ago(LAXER * self.lag());
        let close = status.last_log.unwrap_or(0).saturating_sub(CAUGHT_UP);
        // On a quiet cluster a dead node lacks nothing: it must answer, too.
        let reached = |id: &NodeId| {
            let matched = status.matched.iter().find(|(node, _)| node == id).and_then(|(_, at)| *at);
            matched.filter(|_| self.liveness.is_reachable(*id))
        };
        let learners = || status.learners.iter().copied();
        let has = |id: &NodeId, end: u64| reached(id).is_some_and(|at| at >= end);
        Seats {
            voters: status.voters.iter().copied().collect(),
            learners: learners().collect(),
            caught_up: learners()
                .filter(|id| has(id, caught_up.map_or(close, |end| end.min(close))))
                .collect(),
            // What nobody knows yet counts for it: it is asked again before it votes.
            near: learners().filter(|id| has(id, near.map_or(0, |end| end.min(close)))).collect(),
        }
    }

    async fn take(&self, step: Step) -> Result<(), ChangeError> {
        match step {
            Step::AddLearner(id) => self.consensus.membership().add_learner(id, STEP).await,
            Step::Promote(id) => self.consensus.membership().promote(id, STEP).await,
            // A leader does not remove itself: the next one does.
            Step::Remove(id) if id == self.consensus.node() => {
                self.consensus.membership().transfer_leader(None, STEP).await
            }
            Step::Remove(id) => self.consensus.membership().remove_member(id, STEP).await,
        }
    }
}

/// What keeps the votes from outliving what the cluster's own durability is about, and so pushes from being taken, as
/// far as this node knows.
///
/// # Errors
/// [`Fault`] if the state cannot be read.
pub fn uncovered(consensus: &Consensus) -> Result<Option<Uncovered>, Fault> {
    let state = consensus.state();
    // Policy, members and votes are of one index.
    let snapshot = state.snapshot();
    let view = View::new(&*snapshot).cluster();
    let Some(cluster) = view.record()? else { return Ok(None) };
    Ok(view.votes(cluster.durability)?.err())
}

/// Whether `node` may go: a default policy whose votes the members can be given must not become one that the loss of a
/// region, or of a zone, breaks.
///
/// # Errors
/// The reason, for the operator.
pub(crate) fn may_remove(layout: &Layout, durability: Durability, node: NodeId) -> Result<(), String> {
    // What is not kept anyway cannot be lost.
    if coverable(durability, layout).is_err() {
        return Ok(());
    }
    coverable(durability, &layout.without(node)).map_err(|uncovered| {
        format!("without node {node} no push would be taken: {uncovered}; --force removes it anyway")
    })
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
        assert!(may_remove(&layout(&[("a", "1"), ("b", "1")]), Durability::Zone, NodeId(2)).is_ok());
    }
}
