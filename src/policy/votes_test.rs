//! Tests of how votes are spread.

use clawhub_types::Durability::{Local, Region, Zone};

use super::*;
use crate::testing::{ids, layout};

/// Whether votes of these nodes are enough for `local`, `zone` and `region`.
fn of(places: &[&str], voters: &[u64]) -> [bool; 3] {
    let layout = layout(places);
    [Local, Zone, Region].map(|durability| covered(durability, &[ids(voters)], &layout).is_ok())
}

#[test]
fn the_layouts_of_the_documentation() {
    let cases: [(&[&str], &[u64], [bool; 3]); 12] = [
        (&["eu/a"], &[1], [true, false, false]),
        (&["eu/a", "eu/b"], &[1], [true, false, false]),
        (&["eu/a", "eu/b"], &[1, 2], [true, false, false]),
        (&["eu/a", "eu/b", "eu/a"], &[1, 2, 3], [true, false, false]),
        (&["eu/a", "eu/b", "eu/c"], &[1, 2, 3], [true, true, false]),
        (&["eu/a", "eu/b", "us/a"], &[1, 2, 3], [true, true, false]),
        (&["eu/a", "us/a", "ap/a"], &[1, 2, 3], [true, true, true]),
        (&["eu/a", "eu/b", "us/a", "us/b"], &[1, 2, 3], [true, true, false]),
        (&["eu/a", "eu/b", "us/a", "us/b"], &[1, 2, 3, 4], [true, true, false]),
        (&["eu/a", "eu/b", "us/a", "us/b", "ap/w!"], &[1, 2, 3, 4, 5], [true, true, true]),
        (&["eu/a", "eu/a", "us/a", "us/a", "ap/w!"], &[1, 2, 3, 4, 5], [true, true, true]),
        (&["eu/a", "eu/a", "eu/a", "us/a", "ap/w!"], &[1, 2, 3, 4, 5], [true, false, false]),
    ];
    for (places, voters, expected) in cases {
        assert_eq!(of(places, voters), expected, "{places:?} {voters:?}");
    }
}

#[test]
fn every_set_of_voters_against_the_definition() {
    let layout = layout(&["eu/a", "eu/a", "eu/b", "us/a", "us/b!", "ap/a"]);
    // Nobody is another case.
    for set in 1..64_u64 {
        let voters: Vec<_> = (1..=6).filter(|id| set & (1 << (id - 1)) != 0).map(NodeId).collect();
        for durability in [Zone, Region] {
            let same = |a: NodeId, b: NodeId| {
                let at = |id| &layout.node(id).unwrap().location;
                if durability == Zone { at(a) == at(b) } else { at(a).region == at(b).region }
            };
            let outlives =
                |lost: NodeId| voters.iter().filter(|id| !same(**id, lost)).count() * 2 > voters.len();
            let expected = voters.iter().all(|lost| outlives(*lost));
            assert_eq!(
                covered(durability, std::slice::from_ref(&voters), &layout).is_ok(),
                expected,
                "{durability} {voters:?}"
            );
        }
    }
}

#[test]
fn who_left_counts_as_lost() {
    let all = layout(&["eu/a", "eu/b", "eu/c"]);
    let gone = all.without(NodeId(2));
    assert!(covered(Zone, &[ids(&[1, 2, 3])], &all).is_ok());
    assert!(covered(Zone, &[ids(&[1, 2, 3])], &gone).is_err(), "one more would be one too many");
    let five = layout(&["eu/a", "eu/b", "eu/c", "eu/d", "eu/e"]);
    assert!(covered(Zone, &[ids(&[1, 2, 3, 4, 5])], &five.without(NodeId(2))).is_ok());
}

#[test]
fn while_votes_change_either_set_must_do() {
    let layout = layout(&["eu/a", "eu/b", "eu/c", "eu/a"]);
    let (good, bad) = (ids(&[1, 2, 3]), ids(&[1, 2, 4]));
    assert!(covered(Zone, &[good.clone(), good.clone()], &layout).is_ok());
    assert!(covered(Zone, &[good.clone(), bad.clone()], &layout).is_err());
    assert!(covered(Zone, &[bad, good], &layout).is_err());
    assert!(covered(Zone, &[], &layout).is_err(), "nobody votes yet");
    assert!(covered(Zone, &[ids(&[9])], &layout).is_err(), "no member votes");
    assert!(covered(Local, &[], &layout).is_ok());
}

#[test]
fn a_layout_takes_three_domains_with_members_that_may_vote() {
    let mut three = layout(&["eu/a", "eu/b", "eu/c", "eu/c"]);
    assert!(coverable(Zone, &three).is_ok() && coverable(Region, &three).is_err());
    three.nodes[1].voter = false;
    assert!(coverable(Zone, &three).is_err());
    assert!(coverable(Local, &three).is_ok());
}

#[test]
fn what_is_missing_is_said() {
    let two = layout(&["eu/a", "eu/b", "eu/a"]);
    let error = covered(Zone, &[ids(&[1, 2, 3])], &two).unwrap_err();
    assert!(!error.is_passing());
    assert_eq!(
        error.to_string(),
        "durability zone takes votes that outlive the loss of any one zone, and without eu/a 1 of 3 would be \
         left; nodes that may vote are in eu/a, eu/b only: add voters in 1 more zone; a node that \
         only votes is enough"
    );
    let alone = covered(Region, &[ids(&[1])], &layout(&["eu/a"])).unwrap_err();
    assert_eq!(
        alone.to_string(),
        "durability region takes votes that outlive the loss of any one region, and without eu 0 of 1 would be \
         left; nodes that may vote are in eu only: add voters in 2 more regions; a node that \
         only votes is enough"
    );
    let passing = covered(Zone, &[ids(&[1])], &layout(&["eu/a", "eu/b", "eu/c"])).unwrap_err();
    assert!(passing.is_passing());
    assert_eq!(
        passing.to_string(),
        "durability zone takes votes that outlive the loss of any one zone, and without eu/a 0 of 1 would be \
         left; they are being spread"
    );
}
