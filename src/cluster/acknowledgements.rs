//! What members have acknowledged to the leader goes into the log from time to time, so that the next leader can tell a
//! disk that was set back from one that was not.
//!
//! Coarse: once in each term, and then after so many entries. What a node acknowledged since, only the leader that it
//! acknowledged it to can hold against it. A crash loses nothing: the next pass finds the same work.

use std::time::Duration;

use clawhub_consensus::{Consensus, Who};
use clawhub_state::cluster::{Acknowledgement, ClusterCmd, ClusterView, NodeRecord};
use clawhub_state::{Command, Fault, View};

use crate::ClusterError;
use crate::proposal::PATIENCE;

/// Entries between two notes about a node.
const STRIDE: u64 = 64;

/// Has the log know what the members acknowledge. Keeps nothing between two passes.
pub struct Acknowledgements {
    consensus: Consensus,
}

impl Acknowledgements {
    /// Between two looks.
    pub const EVERY: Duration = Duration::from_secs(1);

    /// Of the cluster that `consensus` takes part in.
    pub fn new(consensus: Consensus) -> Acknowledgements {
        Acknowledgements { consensus }
    }

    /// Notes what is due, if this node leads others.
    ///
    /// # Errors
    /// [`ClusterError`] if the members cannot be read, or the note was not taken.
    pub async fn pass(&mut self) -> Result<(), ClusterError> {
        let Some((term, known)) = self.consensus.log_marks().by_members() else { return Ok(()) };
        let due = {
            let state = self.consensus.state();
            due(&View::new(&*state.snapshot()).cluster(), term, known)?
        };
        if due.is_empty() {
            return Ok(());
        }
        let note = Command::Cluster(ClusterCmd::Acknowledged { term, nodes: due });
        self.consensus.propose(note, Who::system(), PATIENCE).await?;
        Ok(())
    }
}

/// What of all that is `known` the log should know. A node that is alone is judged by nobody.
fn due(
    view: &ClusterView<'_>,
    term: u64,
    known: Vec<Acknowledgement>,
) -> Result<Vec<Acknowledgement>, Fault> {
    let mut due = Vec::new();
    if known.len() < 2 {
        return Ok(due);
    }
    for one in known {
        if view.node(one.node)?.is_some_and(|member| is_due(&member, term, &one)) {
            due.push(one);
        }
    }
    Ok(due)
}

/// Whether the log should know this of a member. Of a start that is not registered yet it takes nothing.
fn is_due(member: &NodeRecord, term: u64, known: &Acknowledgement) -> bool {
    let noted = member.acknowledged;
    !member.removed && member.boot == known.boot && (noted.term < term || noted.index + STRIDE <= known.index)
}

#[cfg(test)]
mod tests {
    use clawhub_state::LogMark;
    use clawhub_state::cluster::NodeSpec;
    use clawhub_types::{Location, NodeId, Roles};

    use super::*;

    fn member() -> NodeRecord {
        let spec = NodeSpec {
            name: "n2".into(),
            location: Location { region: "r".into(), zone: "a".into() },
            roles: Roles { voter: true, storage: true },
            peer_addr: "h:1".into(),
            http_addr: "h:2".into(),
            spki: [2; 32],
        };
        NodeRecord {
            id: NodeId(2),
            spec,
            boot: 3,
            nonce: 1,
            start_key: Vec::new(),
            acknowledged: LogMark { term: 5, index: 100 },
            epoch: 0,
            draining: false,
            failing: None,
            removed: false,
            generation: 1,
            next_spki: None,
        }
    }

    #[test]
    fn each_term_is_noted_once_and_then_every_so_many_entries() {
        let known = |boot, index| Acknowledgement { node: NodeId(2), boot, index };
        assert!(is_due(&member(), 6, &known(3, 100)), "a new leader");
        assert!(!is_due(&member(), 5, &known(3, 100 + STRIDE - 1)));
        assert!(is_due(&member(), 5, &known(3, 100 + STRIDE)));
        assert!(!is_due(&member(), 6, &known(4, 1000)), "a start that is not registered");
        assert!(!is_due(&member(), 6, &known(2, 1000)), "one that is over");
        assert!(!is_due(&NodeRecord { removed: true, ..member() }, 6, &known(3, 1000)));
    }
}
