//! Tests of durability rules.

use clawhub_types::Durability::{Local, Region, Zone};

use super::*;
use crate::testing::{all, ids, layout, placed};

/// Two regions of two zones, two nodes in eu/a, and a witness in us/b.
fn plan() -> Layout {
    layout(&["eu/a", "eu/a", "eu/b", "us/a", "us/b!"])
}

#[test]
fn every_set_of_holders_against_the_definition() {
    let layout = plan();
    let policies = [
        all(Local),
        all(Zone),
        all(Region),
        placed(Local, &["us"], false),
        placed(Zone, &["eu"], false),
        placed(Local, &["us"], true),
        placed(Zone, &["eu"], true),
        placed(Region, &["eu"], true),
        placed(Region, &["eu", "us"], true),
    ];
    for policy in &policies {
        for set in 0..32_u64 {
            let holders: Vec<_> = (1..=5).filter(|id| set & (1 << (id - 1)) != 0).collect();
            let holders = ids(&holders);
            let counted: Vec<_> = holders
                .iter()
                .filter_map(|id| layout.node(*id))
                .filter(|n| n.storage)
                .filter(|n| !policy.confined || policy.regions.as_ref().unwrap().contains(&n.location.region))
                .collect();
            let pairs = |differ: fn(&NodeFacts, &NodeFacts) -> bool| {
                counted.iter().any(|a| counted.iter().any(|b| differ(a, b)))
            };
            let expected = match policy.durability {
                Local => !counted.is_empty(),
                Zone => pairs(|a, b| a.location != b.location),
                Region => pairs(|a, b| a.location.region != b.location.region),
            };
            assert_eq!(satisfied(policy, &layout, &holders), expected, "{policy:?} {holders:?}");
            // Holders and live nodes are judged alike.
            assert_eq!(possible(policy, &layout, &holders).is_ok(), expected, "{policy:?} {holders:?}");
        }
    }
}

#[test]
fn strangers_and_witnesses_do_not_count() {
    let layout = plan();
    assert!(!satisfied(&all(Local), &layout, &ids(&[])));
    assert!(!satisfied(&all(Local), &layout, &ids(&[5])), "a witness");
    assert!(!satisfied(&all(Local), &layout, &ids(&[9])), "no member");
    assert!(!satisfied(&all(Zone), &layout, &ids(&[1, 2])), "one zone twice");
    assert!(!satisfied(&all(Zone), &layout, &ids(&[1, 1, 5, 9])));
    assert!(satisfied(&all(Zone), &layout, &ids(&[3, 1])), "any order");
}

#[test]
fn zones_of_one_name_in_two_regions_are_two() {
    let layout = layout(&["eu/a", "us/a"]);
    assert!(satisfied(&all(Zone), &layout, &ids(&[1, 2])));
}

#[test]
fn shortfalls_say_what_is_missing() {
    let layout = plan();
    let text = |policy: &Policy, live: &[u64]| possible(policy, &layout, &ids(live)).unwrap_err().to_string();
    assert_eq!(
        text(&all(Zone), &[1, 2, 5]),
        "durability zone takes 2 zones with a storage node; there is only eu/a to use"
    );
    assert_eq!(
        text(&all(Region), &[1, 3]),
        "durability region takes 2 regions with a storage node; there is only eu to use"
    );
    assert_eq!(text(&all(Local), &[5]), "durability local takes 1 storage node; there is none to use");
    assert_eq!(
        text(&placed(Zone, &["us"], true), &[1, 2, 3, 4, 5]),
        "durability zone takes 2 zones with a storage node within us; there is only us/a to use"
    );
}

#[test]
fn layouts_accept_what_they_can_ever_satisfy() {
    let cases: [(&[&str], [bool; 3]); 6] = [
        (&[], [false, false, false]),
        (&["eu/a!"], [false, false, false]),
        (&["eu/a", "eu/a"], [true, false, false]),
        (&["eu/a", "eu/b"], [true, true, false]),
        (&["eu/a", "us/a"], [true, true, true]),
        (&["eu/a", "us/a!"], [true, false, false]),
    ];
    for (places, expected) in cases {
        let layout = layout(places);
        let accepted = [Local, Zone, Region].map(|d| accepts(d, &layout).is_ok());
        assert_eq!(accepted, expected, "{places:?}");
    }
    let refusal = accepts(Zone, &layout(&["eu/a"])).unwrap_err().to_string();
    assert!(refusal.contains("zone") && refusal.contains("eu/a"), "{refusal}");
}

#[test]
fn complete_is_durable_and_in_every_region_of_the_placement() {
    let layout = layout(&["eu/a", "eu/b", "us/a", "ap/a", "ap/b!"]);
    let complete = |policies: &[Policy], holders: &[u64]| complete(policies, &layout, &ids(holders));
    assert!(complete(&[], &[]), "nobody asks");
    assert!(!complete(&[all(Zone)], &[1, 2]), "us and ap have none");
    assert!(!complete(&[all(Zone)], &[1, 2, 3]));
    assert!(complete(&[all(Zone)], &[1, 3, 4]));
    assert!(complete(&[all(Local)], &[2, 3, 4]));
    assert!(!complete(&[all(Local)], &[1]));
    let eu = placed(Zone, &["eu"], false);
    assert!(!complete(std::slice::from_ref(&eu), &[1]));
    assert!(!complete(std::slice::from_ref(&eu), &[3, 4]), "durable, but not where it belongs");
    assert!(complete(std::slice::from_ref(&eu), &[1, 3]));
    assert!(
        complete(&[placed(Zone, &["eu", "mars"], false)], &[1, 2]),
        "a region without nodes asks for nothing"
    );
    let (eu, us) = (placed(Zone, &["eu"], true), placed(Local, &["us"], true));
    assert!(!complete(&[eu.clone(), us.clone()], &[1, 3]), "the copy in us does not count for eu");
    assert!(complete(&[eu, us], &[1, 2, 3]));
}

#[test]
fn a_weightless_node_counts_but_obliges_nobody() {
    let mut layout = layout(&["eu/a", "us/a", "ap/a"]);
    layout.nodes[2].weight = 0;
    assert!(complete(&[all(Region)], &layout, &ids(&[1, 2])));
    assert!(satisfied(&all(Region), &layout, &ids(&[1, 3])));
    assert!(!complete(&[all(Region)], &layout, &ids(&[1, 3])), "us has none");
}
