//! Whether this node's state is the others': compared at equal index, by the hashes that come with the heartbeat.
//!
//! It finds what apply made of equal entries: a fault of the program, a release that decides otherwise, a write that a
//! device lost in silence and a later one built upon. In memory only; what is heard is compared again after a crash.

use std::collections::BTreeMap;
use std::time::Duration;

use clawhub_consensus::Consensus;
use clawhub_liveness::Liveness;
use clawhub_policy::agreement::{Agreement, Hashes, agreement};
use clawhub_types::NodeId;

/// Points told at once: what a busy cluster passes between two heartbeats.
const TOLD: usize = 16;
/// Points kept of each member: it may be ahead of this one by so many.
const KEPT: usize = 256;

/// Compares this node's state with the others'.
pub struct Comparison {
    consensus: Consensus,
    liveness: Liveness,
    /// What each member said.
    heard: BTreeMap<NodeId, Hashes>,
    last: Agreement,
}

impl Comparison {
    /// Between two rounds: the heartbeat's.
    pub const EVERY: Duration = clawhub_liveness::HEARTBEAT;

    /// Nothing is heard yet.
    pub fn new(consensus: Consensus, liveness: Liveness) -> Comparison {
        Comparison { consensus, liveness, heard: BTreeMap::new(), last: Agreement::Same }
    }

    /// Tells the others of this node's state, compares it with theirs, and ends this node's part if it is the one that
    /// strayed. What was found.
    pub async fn pass(&mut self) -> Agreement {
        let points = self.consensus.points();
        self.liveness.set_points(points.latest(TOLD));
        let status = self.consensus.status();
        let members = status.voters.iter().chain(&status.learners);
        self.heard.retain(|node, _| members.clone().any(|member| member == node));
        for (node, report) in self.liveness.reports() {
            let hashes = self.heard.entry(node).or_default();
            hashes.extend(report.points.iter().map(|point| (point.index, point.hash)));
            while hashes.len() > KEPT {
                hashes.pop_first();
            }
        }
        let own = points.latest(KEPT).into_iter().map(|point| (point.index, point.hash)).collect();
        let found = agreement(status.node, &own, &self.heard, &status.voters);
        if found != self.last {
            tell(&found);
            self.last = found.clone();
        }
        if let Agreement::Stray { index } = found {
            let reason = format!(
                "the applied state of this node is damaged: at index {index} it differs from that of most voters"
            );
            self.consensus.condemn(reason).await;
        }
        found
    }
}

fn tell(found: &Agreement) {
    match found {
        Agreement::Same => tracing::info!("the members' states are the same"),
        Agreement::Stray { index } => tracing::error!(index, "this node's state differs from most voters'"),
        Agreement::Divided { index, others, right: true } => {
            tracing::error!(index, ?others, "members have a state that differs from most voters'; they stop");
        }
        Agreement::Divided { index, others, right: false } => tracing::error!(
            index,
            ?others,
            "MEMBERS HAVE DIFFERENT STATES and no majority tells which is right: nobody stops; find out which is, and \
             replace the others"
        ),
    }
}
