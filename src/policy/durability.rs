//! How many copies, in how many failure domains, are enough.

use std::collections::BTreeSet;
use std::fmt;

use clawhub_types::{Durability, NodeId};

use crate::{Layout, NodeFacts, Policy};

/// Why a policy cannot be satisfied. Its text is for the client of a 503 or the operator of a refusal.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Shortfall {
    /// What is asked for.
    pub durability: Durability,
    /// The failure domains that could take a copy, as text, ascending.
    pub found: Vec<String>,
    /// How many it takes.
    pub needed: usize,
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
            found => write!(f, "; there is only {} to use", found.join(", ")),
        }
    }
}

/// The failure domains that count for a durability.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Domain<'l> {
    Node(NodeId),
    Zone(&'l str, &'l str),
    Region(&'l str),
}

impl fmt::Display for Domain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Domain::Node(id) => write!(f, "node {id}"),
            Domain::Zone(region, zone) => write!(f, "{region}/{zone}"),
            Domain::Region(region) => f.write_str(region),
        }
    }
}

fn domain(durability: Durability, node: &NodeFacts) -> Domain<'_> {
    let at = &node.location;
    match durability {
        Durability::Local => Domain::Node(node.id),
        Durability::Zone => Domain::Zone(&at.region, &at.zone),
        Durability::Region => Domain::Region(&at.region),
    }
}

/// How many distinct failure domains need a copy.
fn needed(durability: Durability) -> usize {
    match durability {
        Durability::Local => 1,
        Durability::Zone | Durability::Region => 2,
    }
}

/// The failure domains that copies on `nodes` cover.
fn covered<'l>(policy: &Policy, nodes: impl Iterator<Item = &'l NodeFacts>) -> BTreeSet<Domain<'l>> {
    nodes.filter(|node| policy.admits(node)).map(|node| domain(policy.durability, node)).collect()
}

/// Whether copies on `holders` are enough to acknowledge a push. Holders that are no members, store no
/// blobs or lie outside a confined placement do not count.
pub fn satisfied(policy: &Policy, layout: &Layout, holders: &[NodeId]) -> bool {
    covered(policy, layout.among(holders)).len() >= needed(policy.durability)
}

/// Whether one more copy, on `node`, would bring unsatisfied durability closer.
pub(crate) fn brings_closer(policy: &Policy, layout: &Layout, holders: &[NodeId], node: &NodeFacts) -> bool {
    let covered = covered(policy, layout.among(holders));
    covered.len() < needed(policy.durability)
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
/// The reason, for the operator.
pub fn accepts(durability: Durability, layout: &Layout) -> Result<(), String> {
    let policy = Policy { durability, regions: None, confined: false };
    check(&policy, layout.nodes.iter()).map_err(|shortfall| shortfall.to_string())
}

fn check<'l>(policy: &Policy, nodes: impl Iterator<Item = &'l NodeFacts>) -> Result<(), Shortfall> {
    let covered = covered(policy, nodes);
    let needed = needed(policy.durability);
    if covered.len() >= needed {
        return Ok(());
    }
    Err(Shortfall {
        durability: policy.durability,
        found: covered.iter().map(ToString::to_string).collect(),
        needed,
        confined_to: policy.regions.clone().filter(|_| policy.confined),
    })
}

#[cfg(test)]
#[path = "durability_test.rs"]
mod tests;
