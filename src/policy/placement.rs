//! Where copies belong, and who fetches one.

use std::collections::{BTreeMap, BTreeSet};

use clawhub_types::{NodeId, Root};

use crate::durability::{brings_closer, gives, has_copy, satisfied};
use crate::rendezvous::Draw;
use crate::{Layout, NodeFacts, Policy};

/// The levels of the hierarchy that draw apart from each other.
const REGION: u8 = 1;
const ZONE: u8 = 2;
const NODE: u8 = 3;

/// Live nodes that can take the second copy of an upload at `ingress`, best first: its region's other
/// zones, then elsewhere, by rendezvous. Each of them, together with `ingress`, satisfies the policy;
/// the list is empty if `ingress` alone does, or if nobody can help.
///
/// Where `ingress` may hold no copy itself (a witness, or a node outside a confined placement) and no
/// single other node is enough, every live node that counts is listed, its own region first: the caller
/// takes one after another until the policy is [`satisfied`].
pub fn partners(
    policy: &Policy,
    layout: &Layout,
    ingress: NodeId,
    live: &[NodeId],
    seed: &[u8; 32],
) -> Vec<NodeId> {
    if satisfied(policy, layout, &[ingress]) {
        return Vec::new();
    }
    let others = || layout.among(live).filter(|node| node.id != ingress && policy.admits(node));
    let enough = |node: &&NodeFacts| satisfied(policy, layout, &[ingress, node.id]);
    let mut found: Vec<_> = others().filter(enough).collect();
    let holds = layout.node(ingress).is_some_and(|node| policy.admits(node));
    if found.is_empty() && !holds {
        found = others().collect();
    }
    let home = layout.node(ingress).map(|node| node.location.region.as_str());
    let mut ranked: Vec<_> = found
        .into_iter()
        .map(|node| (Some(node.location.region.as_str()) != home, draw(seed, node), node.id))
        .collect();
    ranked.sort_by(|a, b| a.0.cmp(&b.0).then_with(|| a.1.compare(&b.1)).then(a.2.cmp(&b.2)));
    ranked.into_iter().map(|(_, _, id)| id).collect()
}

/// Where the copies of a root belong: for each policy one node in every region of its placement, and
/// what its durability asks for beyond that. The union over all policies, since one root may be linked
/// by many projects. Nodes of weight 0 are given nothing.
pub fn target(policies: &[Policy], layout: &Layout, root: &Root) -> BTreeSet<NodeId> {
    let mut targets = BTreeSet::new();
    for policy in policies {
        targets.extend(target_of(policy, layout, root));
    }
    targets
}

fn target_of(policy: &Policy, layout: &Layout, root: &Root) -> Vec<NodeId> {
    let candidates: Vec<_> =
        layout.nodes.iter().filter(|node| policy.admits(node) && node.weight > 0).collect();
    let ranked = rank(&root.0, &candidates);
    let mut chosen: Vec<NodeId> = Vec::new();
    let mut regions = BTreeSet::new();
    for node in ranked.iter().filter(|node| gives(policy, node)) {
        if regions.insert(node.location.region.as_str()) {
            chosen.push(node.id);
        }
    }
    // Placement first: extra copies go to its regions while they help, then anywhere admitted.
    let (placed, elsewhere): (Vec<_>, Vec<_>) =
        ranked.iter().partition(|node| policy.places(&node.location.region));
    for node in placed.into_iter().chain(elsewhere) {
        if brings_closer(policy, layout, &chosen, node) {
            chosen.push(node.id);
        }
    }
    chosen
}

/// All candidates, best first: regions in the order of their draws, in each region zones in theirs, one
/// node of every zone before the second of any, so that neighbours in the list lie far apart.
fn rank<'l>(seed: &[u8; 32], candidates: &[&'l NodeFacts]) -> Vec<&'l NodeFacts> {
    let mut tree: BTreeMap<&str, BTreeMap<&str, Vec<&NodeFacts>>> = BTreeMap::new();
    for node in candidates {
        let at = &node.location;
        tree.entry(&at.region).or_default().entry(&at.zone).or_default().push(node);
    }
    let weigh = |nodes: &[&NodeFacts]| nodes.iter().map(|n| u64::from(n.weight)).sum::<u64>();
    let regions = tree.into_iter().map(|(region, zones)| {
        let weight = zones.values().map(|nodes| weigh(nodes)).sum();
        (Draw::new(seed, REGION, &[region.as_bytes()], weight), (region, zones))
    });
    let mut out = Vec::new();
    for (region, zones) in sorted(regions) {
        let zones = zones.into_iter().map(|(zone, nodes)| {
            let draw = Draw::new(seed, ZONE, &[region.as_bytes(), zone.as_bytes()], weigh(&nodes));
            (draw, sorted(nodes.into_iter().map(|node| (draw_weighted(seed, node), node))))
        });
        let zones = sorted(zones);
        let depth = zones.iter().map(Vec::len).max().unwrap_or(0);
        for place in 0..depth {
            out.extend(zones.iter().filter_map(|nodes| nodes.get(place)));
        }
    }
    out
}

/// The items by their draws, best first. The sort is stable and the items come in key order, so that
/// equal draws part alike everywhere.
fn sorted<T>(items: impl Iterator<Item = (Draw, T)>) -> Vec<T> {
    let mut items: Vec<_> = items.collect();
    items.sort_by(|a, b| a.0.compare(&b.0));
    items.into_iter().map(|(_, item)| item).collect()
}

fn draw_weighted(seed: &[u8; 32], node: &NodeFacts) -> Draw {
    Draw::new(seed, NODE, &[&node.id.0.to_be_bytes()], u64::from(node.weight))
}

/// As [`draw_weighted`], for any node: one of weight 0 is ranked as the lightest.
fn draw(seed: &[u8; 32], node: &NodeFacts) -> Draw {
    Draw::new(seed, NODE, &[&node.id.0.to_be_bytes()], u64::from(node.weight.max(1)))
}

/// Whether `me` should fetch a copy of a root now: it is one of the root's targets, holds none, and one
/// of the policies lacks a copy in its region or in enough failure domains. A root whose copies are
/// [complete](crate::complete) elsewhere is left where it is.
pub fn needs_copy_here(
    policies: &[Policy],
    layout: &Layout,
    root: &Root,
    holders: &[NodeId],
    me: NodeId,
) -> bool {
    let Some(node) = layout.node(me) else { return false };
    if holders.contains(&me) {
        return false;
    }
    policies.iter().any(|policy| {
        let lacks_region = gives(policy, node) && !has_copy(policy, layout, holders, &node.location.region);
        (lacks_region || brings_closer(policy, layout, holders, node))
            && target_of(policy, layout, root).contains(&me)
    })
}

#[cfg(test)]
#[path = "placement_test.rs"]
mod tests;
