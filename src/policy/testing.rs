//! Layouts for tests.

use clawhub_types::{Durability, Location, NodeId};

use crate::{Layout, NodeFacts, Policy};

/// Nodes 1, 2, … at these places, `region/zone`, all of weight 1. A trailing `!` is a witness.
pub(crate) fn layout(places: &[&str]) -> Layout {
    let node = |(id, place): (u64, &&str)| {
        let (region, zone) = place.trim_end_matches('!').split_once('/').unwrap();
        NodeFacts {
            id: NodeId(id),
            location: Location { region: region.into(), zone: zone.into() },
            storage: !place.ends_with('!'),
            voter: true,
            weight: 1,
        }
    };
    Layout { nodes: (1..).zip(places).map(node).collect() }
}

pub(crate) fn ids(of: &[u64]) -> Vec<NodeId> {
    of.iter().copied().map(NodeId).collect()
}

pub(crate) fn all(durability: Durability) -> Policy {
    Policy { durability, regions: None, confined: false }
}

pub(crate) fn placed(durability: Durability, regions: &[&str], confined: bool) -> Policy {
    let regions = regions.iter().map(|r| r.to_string()).collect();
    Policy { durability, regions: Some(regions), confined }
}
