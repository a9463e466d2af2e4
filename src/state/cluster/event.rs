//! What happens in the cluster domain.

use clawhub_types::NodeId;
use serde::{Deserialize, Serialize};

/// What an entry did to the members, for those who read events.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ClusterEvent {
    /// A node became a member.
    NodeJoined {
        /// The node.
        node: NodeId,
    },
    /// A node left for good.
    NodeRemoved {
        /// The node.
        node: NodeId,
        /// Whether copies were given up for it.
        forced: bool,
    },
}
