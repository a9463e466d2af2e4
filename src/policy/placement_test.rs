//! Tests of placement.

use clawhub_types::Durability::{self, Local, Region, Zone};

use super::*;
use crate::complete;
use crate::testing::{all, ids, layout, placed};

fn root(n: u64) -> Root {
    Root(*blake3::hash(&n.to_be_bytes()).as_bytes())
}

/// Layouts from one node to many, with and without witnesses.
fn layouts() -> Vec<Layout> {
    [
        vec!["eu/a"],
        vec!["eu/a", "eu/a"],
        vec!["eu/a", "eu/b"],
        vec!["eu/a", "eu/b", "eu/c"],
        vec!["eu/a", "us/a", "ap/a"],
        vec!["eu/a", "eu/b", "us/a", "us/b", "ap/w!"],
        vec!["eu/a", "eu/a", "eu/b", "eu/b", "us/a", "us/a", "us/a", "ap/a"],
        vec!["eu/a!", "eu/b!"],
        vec![],
    ]
    .iter()
    .map(|places| layout(places))
    .collect()
}

fn policies() -> Vec<Policy> {
    let mut out = Vec::new();
    for durability in [Local, Zone, Region] {
        out.push(all(durability));
        for confined in [false, true] {
            out.push(placed(durability, &["eu"], confined));
            out.push(placed(durability, &["us", "eu"], confined));
            out.push(placed(durability, &["nowhere"], confined));
        }
    }
    out
}

fn everyone(layout: &Layout) -> Vec<NodeId> {
    layout.nodes.iter().map(|node| node.id).collect()
}

#[test]
fn targets_are_complete_wherever_that_is_possible_and_minimal() {
    for layout in layouts() {
        for policy in policies() {
            for n in 0..40 {
                let target: Vec<_> =
                    target(std::slice::from_ref(&policy), &layout, &root(n)).into_iter().collect();
                let one = std::slice::from_ref(&policy);
                assert!(target.iter().all(|id| policy.admits(layout.node(*id).unwrap())));
                assert_eq!(
                    complete(one, &layout, &target),
                    complete(one, &layout, &everyone(&layout)),
                    "{policy:?} {layout:?} {target:?}"
                );
                if complete(one, &layout, &target) {
                    for spare in &target {
                        let fewer: Vec<_> = target.iter().copied().filter(|id| id != spare).collect();
                        assert!(
                            !complete(one, &layout, &fewer),
                            "{spare} of {target:?} is spare: {policy:?}"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn one_node_per_region_and_what_durability_asks_beyond() {
    let layout = layout(&["eu/a", "eu/a", "eu/b", "us/a", "us/b", "ap/a"]);
    for n in 0..50 {
        let regions_of = |policy: Policy| {
            let mut regions: Vec<_> = target(&[policy], &layout, &root(n))
                .into_iter()
                .map(|id| layout.node(id).unwrap().location.region.clone())
                .collect();
            regions.sort();
            regions
        };
        assert_eq!(regions_of(all(Local)), ["ap", "eu", "us"]);
        assert_eq!(regions_of(all(Zone)), ["ap", "eu", "us"]);
        assert_eq!(regions_of(all(Region)), ["ap", "eu", "us"]);
        assert_eq!(regions_of(placed(Local, &["us"], false)), ["us"]);
        assert_eq!(regions_of(placed(Zone, &["us"], false)), ["us", "us"], "two zones of it");
        assert_eq!(regions_of(placed(Zone, &["us"], true)), ["us", "us"]);
        let outside = regions_of(placed(Zone, &["ap"], false));
        assert_eq!(outside.len(), 2, "ap has one zone, so the second copy goes elsewhere");
        assert!(outside.contains(&"ap".to_owned()));
        assert_eq!(regions_of(placed(Zone, &["ap"], true)), ["ap"], "or nowhere, if it must not");
        assert_eq!(regions_of(placed(Region, &["ap"], false)).len(), 2);
    }
}

#[test]
fn a_target_is_the_union_over_policies() {
    let layout = layout(&["eu/a", "eu/b", "us/a", "us/b", "ap/a"]);
    let (eu, us) = (placed(Zone, &["eu"], true), placed(Local, &["us"], true));
    for n in 0..50 {
        let of = |policies: &[Policy]| target(policies, &layout, &root(n));
        let both = of(&[eu.clone(), us.clone()]);
        let union: BTreeSet<_> = &of(std::slice::from_ref(&eu)) | &of(std::slice::from_ref(&us));
        assert_eq!(both, union);
        assert_eq!(of(&[]), BTreeSet::new());
    }
}

#[test]
fn changes_of_the_layout_move_little() {
    let before = layout(&["eu/a", "eu/a", "eu/b", "eu/b", "us/a", "us/b"]);
    let after = layout(&["eu/a", "eu/a", "eu/b", "eu/b", "us/a", "us/b", "us/c"]);
    let policy = [all(Zone)];
    for n in 0..500 {
        let (old, new) = (target(&policy, &before, &root(n)), target(&policy, &after, &root(n)));
        // Only what the new node takes moves, and only within its region.
        let gained: Vec<_> = new.difference(&old).copied().collect();
        assert!(gained.is_empty() || gained == ids(&[7]), "root {n}: {old:?} → {new:?}");
        let lost: Vec<_> = old.difference(&new).collect();
        assert!(lost.iter().all(|id| id.0 == 5 || id.0 == 6), "root {n}: {old:?} → {new:?}");
    }
    let moved = (0..500).filter(|n| target(&policy, &after, &root(*n)).contains(&NodeId(7))).count();
    assert!((120..220).contains(&moved), "a third of us belongs on the third zone, not {moved} of 500");
}

#[test]
fn copies_spread_by_weight_under_zone_and_region() {
    let mut layout = layout(&["eu/a", "eu/a", "eu/b", "eu/c"]);
    layout.nodes[1].weight = 2;
    layout.nodes[3].weight = 0;
    let mut copies = [0_u32; 4];
    for n in 0..4000 {
        let target = target(&[all(Local)], &layout, &root(n));
        assert_eq!(target.len(), 1);
        for (id, count) in (1..).zip(&mut copies) {
            *count += u32::from(target.contains(&NodeId(id)));
        }
    }
    for (got, fair) in copies.into_iter().zip([1000_u32, 2000, 1000, 0]) {
        assert!(got.abs_diff(fair) <= fair / 8, "{copies:?}");
    }
}

#[test]
fn partners_are_near_first_and_each_is_enough() {
    let layout = layout(&["eu/a", "eu/a", "eu/b", "eu/c", "us/a", "us/b!", "ap/a"]);
    let live = everyone(&layout);
    for n in 0..50 {
        let seed = root(n).0;
        let ranked = |policy: &Policy| partners(policy, &layout, NodeId(1), &live, &seed);
        assert_eq!(ranked(&all(Local)), vec![], "the ingress is enough");

        let zone = ranked(&all(Zone));
        assert_eq!(BTreeSet::from_iter(zone[..2].to_vec()), BTreeSet::from_iter(ids(&[3, 4])));
        assert_eq!(BTreeSet::from_iter(zone[2..].to_vec()), BTreeSet::from_iter(ids(&[5, 7])));

        let region = ranked(&all(Region));
        assert_eq!(BTreeSet::from_iter(region), BTreeSet::from_iter(ids(&[5, 7])));
        let confined = ranked(&placed(Zone, &["eu"], true));
        assert_eq!(BTreeSet::from_iter(confined), BTreeSet::from_iter(ids(&[3, 4])));
    }
    let first = |n| partners(&all(Zone), &layout, NodeId(1), &live, &root(n).0)[0];
    let of_first: BTreeSet<_> = (0..50).map(first).collect();
    assert_eq!(of_first.len(), 2, "the load spreads over both zones");
}

#[test]
fn partners_are_alive() {
    let layout = layout(&["eu/a", "eu/b", "us/a"]);
    let of = |live: &[u64]| partners(&all(Zone), &layout, NodeId(1), &ids(live), &[0; 32]);
    assert_eq!(of(&[1, 2, 3]), ids(&[2, 3]));
    assert_eq!(of(&[1, 3]), ids(&[3]));
    assert_eq!(of(&[1]), vec![]);
    assert_eq!(of(&[3]), ids(&[3]), "the ingress asks, so it lives");
}

#[test]
fn a_witness_takes_uploads_for_others() {
    let layout = layout(&["eu/a", "eu/b", "us/a", "us/w!"]);
    let live = everyone(&layout);
    let of = |policy: &Policy| partners(policy, &layout, NodeId(4), &live, &[7; 32]);
    assert_eq!(of(&all(Local))[0], NodeId(3), "one copy is enough, the nearest first");
    let zone = of(&all(Zone));
    assert_eq!(zone.len(), 3, "no single one is enough, so all are listed");
    assert_eq!(zone[0], NodeId(3));
    let outside = partners(&placed(Zone, &["eu"], true), &layout, NodeId(3), &live, &[7; 32]);
    assert_eq!(BTreeSet::from_iter(outside), BTreeSet::from_iter(ids(&[1, 2])));
    assert_eq!(partners(&all(Zone), &layout, NodeId(99), &live, &[7; 32]).len(), 3, "not even a member");
}

#[test]
fn copies_are_fetched_until_complete_and_no_further() {
    for layout in layouts() {
        for policy in policies() {
            let policies = std::slice::from_ref(&policy);
            for n in 0..10 {
                for first in &layout.nodes {
                    let mut holders = vec![first.id];
                    while let Some(next) = layout
                        .nodes
                        .iter()
                        .find(|node| needs_copy_here(policies, &layout, &root(n), &holders, node.id))
                    {
                        assert!(!complete(policies, &layout, &holders), "{next:?} fetches for nothing");
                        assert!(!holders.contains(&next.id));
                        holders.push(next.id);
                    }
                    assert_eq!(
                        complete(policies, &layout, &holders),
                        complete(policies, &layout, &everyone(&layout)),
                        "{policy:?} {layout:?} stops at {holders:?}"
                    );
                }
            }
        }
    }
}

#[test]
fn a_copy_elsewhere_in_the_region_is_left_where_it_is() {
    let layout = layout(&["eu/a", "eu/b", "us/a", "us/b"]);
    for n in 0..20 {
        for (eu, us) in [(1, 3), (1, 4), (2, 3), (2, 4)] {
            for me in 1..=4 {
                let holders = ids(&[eu, us]);
                assert!(!needs_copy_here(&[all(Zone)], &layout, &root(n), &holders, NodeId(me)));
            }
        }
    }
    assert!(!needs_copy_here(&[all(Zone)], &layout, &root(0), &[], NodeId(99)), "no member");
    assert!(!needs_copy_here(&[], &layout, &root(0), &[], NodeId(1)), "nobody links it");
}

/// What a version placed, the next one must find: these never change.
#[test]
fn placement_is_frozen() {
    let layout = layout(&["eu/a", "eu/a", "eu/b", "us/a", "us/b", "us/b"]);
    let placed: Vec<Vec<u64>> = (0..6)
        .map(|n| target(&[all(Durability::Zone)], &layout, &root(n)).into_iter().map(|id| id.0).collect())
        .collect();
    assert_eq!(placed, FROZEN);
}

const FROZEN: [[u64; 2]; 6] = [[1, 4], [2, 5], [3, 5], [1, 4], [3, 6], [2, 4]];
