//! How many copies, in how many failure domains, are enough.

use std::collections::BTreeSet;
use std::fmt;

use clawhub_types::{Durability, NodeId};
use serde::{Deserialize, Serialize};

use crate::{Layout, NodeFacts, Policy};

/// Why a policy cannot be satisfied. It travels in replicated answers, so it is made of facts only; its text is for
/// the client of a 503 or the operator of a refusal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub struct Shortfall {
    /// What is asked for.
    pub durability: Durability,
    /// The failure domains that could take a copy, ascending.
    pub found: Vec<Domain>,
    /// How many it takes.
    pub needed: u32,
    /// The only regions that count, if the policy is confined.
    pub confined_to: Option<Vec<String>>,
}

impl fmt::Display for Shortfall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (one, many) = match self.durability {
            Durability::Local => ("storage node", "storage nodes"),
            Durability::Zone => ("zone with a storage node", "zones with a storage node"),
            Durability::Region => ("region with a storage node", "regions with a storage node"),
        };
        let noun = if self.needed == 1 { one } else { many };
        write!(f, "durability {} takes {} {noun}", self.durability, self.needed)?;
        if let Some(regions) = &self.confined_to {
            write!(f, " within {}", regions.join(", "))?;
        }
        match self.found.as_slice() {
            [] => f.write_str("; there is none to use"),
            [first, others @ ..] => {
                write!(f, "; there is only {first}")?;
                others.iter().try_for_each(|domain| write!(f, ", {domain}"))?;
                f.write_str(" to use")
            }
        }
    }
}

/// A failure domain that counts for a durability.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Domain {
    /// One node.
    Node(NodeId),
    /// One zone of a region.
    Zone {
        /// The region.
        region: String,
        /// The zone within it.
        zone: String,
    },
    /// One region.
    Region(String),
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Domain::Node(id) => write!(f, "node {id}"),
            Domain::Zone { region, zone } => write!(f, "{region}/{zone}"),
            Domain::Region(region) => f.write_str(region),
        }
    }
}

/// A [`Domain`] of a layout, borrowed: what is compared on the way of every push.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum DomainRef<'l> {
    Node(NodeId),
    Zone(&'l str, &'l str),
    Region(&'l str),
}

impl From<&DomainRef<'_>> for Domain {
    fn from(domain: &DomainRef<'_>) -> Self {
        match *domain {
            DomainRef::Node(id) => Domain::Node(id),
            DomainRef::Zone(region, zone) => {
                Domain::Zone { region: region.to_owned(), zone: zone.to_owned() }
            }
            DomainRef::Region(region) => Domain::Region(region.to_owned()),
        }
    }
}

/// The failure domain of a node that counts for a durability.
pub(crate) fn domain(durability: Durability, node: &NodeFacts) -> DomainRef<'_> {
    let at = &node.location;
    match durability {
        Durability::Local => DomainRef::Node(node.id),
        Durability::Zone => DomainRef::Zone(&at.region, &at.zone),
        Durability::Region => DomainRef::Region(&at.region),
    }
}

/// How many distinct failure domains need a copy.
fn needed(durability: Durability) -> u32 {
    match durability {
        Durability::Local => 1,
        Durability::Zone | Durability::Region => 2,
    }
}

/// The failure domains that copies on `nodes` cover.
fn covered<'l>(policy: &Policy, nodes: impl Iterator<Item = &'l NodeFacts>) -> BTreeSet<DomainRef<'l>> {
    nodes.filter(|node| policy.admits(node)).map(|node| domain(policy.durability, node)).collect()
}

/// Whether these failure domains are enough for a durability.
fn enough(durability: Durability, covered: &BTreeSet<DomainRef<'_>>) -> bool {
    u32::try_from(covered.len()).is_ok_and(|found| found >= needed(durability))
}

/// Whether copies on `holders` are enough to acknowledge a push. Holders that are no members, store no
/// blobs or lie outside a confined placement do not count.
pub fn satisfied(policy: &Policy, layout: &Layout, holders: &[NodeId]) -> bool {
    enough(policy.durability, &covered(policy, layout.among(holders)))
}

/// Whether one more copy, on `node`, would bring unsatisfied durability closer.
pub(crate) fn brings_closer(policy: &Policy, layout: &Layout, holders: &[NodeId], node: &NodeFacts) -> bool {
    let covered = covered(policy, layout.among(holders));
    !enough(policy.durability, &covered)
        && policy.admits(node)
        && !covered.contains(&domain(policy.durability, node))
}

/// Whether copies on `holders` are all that the policies ask for in the long run: enough for each one's
/// durability, and one in every region of each one's placement that has storage to give.
pub fn complete(policies: &[Policy], layout: &Layout, holders: &[NodeId]) -> bool {
    policies.iter().all(|policy| {
        satisfied(policy, layout, holders)
            && layout
                .nodes
                .iter()
                .filter(|node| gives(policy, node))
                .all(|node| has_copy(policy, layout, holders, &node.location.region))
    })
}

/// Whether `node` makes its region one that the policy wants a copy in.
pub(crate) fn gives(policy: &Policy, node: &NodeFacts) -> bool {
    policy.admits(node) && policy.places(&node.location.region) && node.weight > 0
}

/// Whether a copy that counts is in `region`.
pub(crate) fn has_copy(policy: &Policy, layout: &Layout, holders: &[NodeId], region: &str) -> bool {
    layout.among(holders).any(|node| policy.admits(node) && node.location.region == region)
}

/// Whether a push could be acknowledged with only these nodes alive.
///
/// # Errors
/// [`Shortfall`] says what is missing.
pub fn possible(policy: &Policy, layout: &Layout, live: &[NodeId]) -> Result<(), Shortfall> {
    check(policy, layout.among(live))
}

/// Whether the layout, all of it alive, can satisfy a durability. A layout of one zone accepts only
/// `local`.
///
/// # Errors
/// [`Shortfall`] says what is missing.
pub fn accepts(durability: Durability, layout: &Layout) -> Result<(), Shortfall> {
    let policy = Policy { durability, regions: None, confined: false };
    check(&policy, layout.nodes.iter())
}

fn check<'l>(policy: &Policy, nodes: impl Iterator<Item = &'l NodeFacts>) -> Result<(), Shortfall> {
    let covered = covered(policy, nodes);
    if enough(policy.durability, &covered) {
        return Ok(());
    }
    Err(Shortfall {
        durability: policy.durability,
        found: covered.iter().map(Domain::from).collect(),
        needed: needed(policy.durability),
        confined_to: policy.regions.clone().filter(|_| policy.confined),
    })
}

#[cfg(test)]
#[path = "durability_test.rs"]
mod tests;
