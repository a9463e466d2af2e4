//! Pure rules: facts in, decision out, with the reason where it is a refusal.
//!
//! Nothing here has state, a clock, randomness, IO or floats: the state machine decides by these rules
//! inside apply, on every node alike, and other parts ask them early for good answers. A change of a
//! rule that apply calls is a change of the replicated state machine and hides behind a cluster level.

#![deny(clippy::float_arithmetic)]

pub mod agreement;
mod durability;
mod placement;
mod rendezvous;
mod shares;
#[cfg(test)]
mod testing;
mod votes;

use clawhub_types::{Durability, Location, NodeId};

pub use durability::{Domain, Shortfall, accepts, complete, possible, satisfied};
pub use placement::{needs_copy_here, partners, target};
pub use shares::{may_have, may_have_more};
pub use votes::{Uncovered, Without, coverable, covered};

/// What the rules know of a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeFacts {
    /// Its id.
    pub id: NodeId,
    /// Its failure domains.
    pub location: Location,
    /// Whether it stores blobs.
    pub storage: bool,
    /// Whether it may vote.
    pub voter: bool,
    /// Its share of the copies, relative to its neighbours. With 0 it keeps what it has, which counts,
    /// but is given nothing.
    pub weight: u32,
}

/// The members, dead or alive, ascending by id.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    /// One per member.
    pub nodes: Vec<NodeFacts>,
}

impl Layout {
    /// The member of this id.
    pub fn node(&self, id: NodeId) -> Option<&NodeFacts> {
        self.nodes.iter().find(|node| node.id == id)
    }

    /// The same layout without one node.
    #[must_use]
    pub fn without(&self, id: NodeId) -> Layout {
        Layout { nodes: self.nodes.iter().filter(|node| node.id != id).cloned().collect() }
    }

    /// The members among `ids`, in the order of ids.
    fn among<'l>(&'l self, ids: &[NodeId]) -> impl Iterator<Item = &'l NodeFacts> {
        self.nodes.iter().filter(|node| ids.contains(&node.id))
    }
}

/// Where and how durably a project keeps its blobs, defaults filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Copies before a push is acknowledged.
    pub durability: Durability,
    /// The regions that get a copy afterwards; `None` is every region with storage.
    pub regions: Option<Vec<String>>,
    /// Whether nodes outside `regions` may neither store nor cache the bytes.
    pub confined: bool,
}

impl Policy {
    /// Whether this policy wants a copy in `region`.
    pub fn places(&self, region: &str) -> bool {
        self.regions.as_ref().is_none_or(|regions| regions.iter().any(|r| r == region))
    }

    /// Whether a copy on `node` counts, and may be there at all.
    pub fn admits(&self, node: &NodeFacts) -> bool {
        node.storage && (!self.confined || self.places(&node.location.region))
    }
}
