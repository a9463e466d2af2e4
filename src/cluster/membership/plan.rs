//! Who takes part in consensus, and how: a pure function of the members and of what consensus has now.
//!
//! Every member replicates the state. One, three or five of those with the role vote, spread so that no
//! region holds a majority where that is possible, else so that no zone does. A change is one small step
//! at a time, each leaving a cluster that works; the next call sees its effect.

use std::collections::{BTreeMap, BTreeSet};

use clawhub_policy::{Layout, NodeFacts};
use clawhub_types::NodeId;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Seats {
    pub(crate) voters: BTreeSet<NodeId>,
    /// Who replicates without a vote.
    pub(crate) learners: BTreeSet<NodeId>,
    /// The learners whose logs are close to the leader's.
    pub(crate) caught_up: BTreeSet<NodeId>,
    /// Those and the learners that are alive and not far behind.
    pub(crate) near: BTreeSet<NodeId>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    AddLearner(NodeId),
    /// Let a caught-up learner vote.
    Promote(NodeId),
    /// Stop replicating to a node that is no member, or whose vote is one too many: that one comes back
    /// as a learner with the next step.
    Remove(NodeId),
}

/// The next change, if one is called for.
pub(crate) fn next(layout: &Layout, seats: &Seats) -> Option<Step> {
    let is_member = |id: &NodeId| layout.node(*id).is_some();
    if let Some(gone) = seats.voters.union(&seats.learners).find(|id| !is_member(id)) {
        return Some(Step::Remove(*gone));
    }
    let seated = |id: NodeId| seats.voters.contains(&id) || seats.learners.contains(&id);
    if let Some(new) = layout.nodes.iter().find(|node| !seated(node.id)) {
        return Some(Step::AddLearner(new.id));
    }
    let wanted = voters(layout, seats);
    if let Some(learner) = wanted.difference(&seats.voters).next() {
        return Some(Step::Promote(*learner));
    }
    seats.voters.difference(&wanted).next().map(|extra| Step::Remove(*extra))
}

/// Who shall vote: among those who do already, dead or alive, and the learners ready to.
///
/// A change from three to five begins when both newcomers are ready, and then has four voters for a while. Whoever is the
/// fifth need not be as close any more: load that comes in bursts would have the fourth give its vote back, again and
/// again, and four voters outlive no more than three.
fn voters(layout: &Layout, seats: &Seats) -> BTreeSet<NodeId> {
    let halfway = seats.voters.len().is_multiple_of(2);
    let learners = if halfway { &seats.near } else { &seats.caught_up };
    let ready = |id: NodeId| seats.voters.contains(&id) || learners.contains(&id);
    let candidates: Vec<_> = layout.nodes.iter().filter(|node| node.voter && ready(node.id)).collect();
    choose(&candidates, &seats.voters)
}

/// What a set of voters, all of it alive, outlives the loss of: the better of two is the greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Spread {
    /// Any one region.
    regions: bool,
    /// Any one zone.
    zones: bool,
}

fn spread_of(voters: &[&NodeFacts]) -> Spread {
    let mut regions = BTreeMap::new();
    let mut zones = BTreeMap::new();
    for node in voters {
        *regions.entry(&node.location.region).or_insert(0) += 1;
        *zones.entry(&node.location).or_insert(0) += 1;
    }
    let minority = |count: &usize| 2 * count < voters.len();
    Spread { regions: regions.values().all(minority), zones: zones.values().all(minority) }
}

/// Five voters, three or one: more where they are spread no worse. Spread decides before who votes
/// already, and that before ids, so that the answer stays the same while it is being put into effect.
fn choose(candidates: &[&NodeFacts], present: &BTreeSet<NodeId>) -> BTreeSet<NodeId> {
    let sets = [1, 3, 5].into_iter().filter(|size| *size <= candidates.len());
    let sets = sets.map(|size| pick(candidates, present, size));
    // A single voter is for when there are not enough for three.
    let best = sets.max_by_key(|set| (set.len() > 1, spread_of(set), set.len()));
    best.unwrap_or_default().into_iter().map(|node| node.id).collect()
}

/// `size` nodes, each next one from the region, then the zone, that has the fewest so far.
fn pick<'n>(candidates: &[&'n NodeFacts], present: &BTreeSet<NodeId>, size: usize) -> Vec<&'n NodeFacts> {
    let mut picked: Vec<&NodeFacts> = Vec::with_capacity(size);
    while picked.len() < size {
        let rest = candidates.iter().filter(|node| !picked.iter().any(|p| p.id == node.id));
        let next = rest.min_by_key(|node| {
            let region = picked.iter().filter(|p| p.location.region == node.location.region).count();
            let zone = picked.iter().filter(|p| p.location == node.location).count();
            (region, zone, !present.contains(&node.id), node.id)
        });
        match next {
            Some(node) => picked.push(node),
            None => break,
        }
    }
    picked
}

#[cfg(test)]
mod tests {
    use clawhub_policy::{coverable, covered};
    use clawhub_types::{Durability, Location};

    use super::*;

    /// Nodes 1, 2, … at `region/zone`; a leading `-` is one that does not vote.
    fn layout(places: &[&str]) -> Layout {
        let node = |(at, place): (usize, &&str)| {
            let (region, zone) = place.trim_start_matches('-').split_once('/').unwrap();
            NodeFacts {
                id: NodeId(at as u64 + 1),
                location: Location { region: region.into(), zone: zone.into() },
                storage: true,
                voter: !place.starts_with('-'),
                weight: 1,
            }
        };
        Layout { nodes: places.iter().enumerate().map(node).collect() }
    }

    fn ids(ids: &[u64]) -> BTreeSet<NodeId> {
        ids.iter().copied().map(NodeId).collect()
    }

    /// Takes steps until there are none left, as a cluster in which everybody catches up does.
    fn settle(layout: &Layout, mut seats: Seats) -> (Seats, Vec<Step>) {
        let mut steps = Vec::new();
        while let Some(step) = next(layout, &seats) {
            steps.push(step);
            assert!(steps.len() < 50, "never settles: {steps:?}");
            match step {
                Step::AddLearner(id) => {
                    seats.learners.insert(id);
                    seats.caught_up.insert(id);
                    seats.near.insert(id);
                }
                Step::Promote(id) => {
                    assert!(seats.learners.remove(&id) && seats.near.remove(&id));
                    seats.caught_up.remove(&id);
                    seats.voters.insert(id);
                }
                Step::Remove(id) => {
                    seats.learners.remove(&id);
                    assert!(seats.voters.len() > 1 || !seats.voters.remove(&id), "no voter is left");
                    seats.voters.remove(&id);
                }
            }
        }
        (seats, steps)
    }

    fn first() -> Seats {
        Seats { voters: ids(&[1]), ..Seats::default() }
    }

    fn voters_of(places: &[&str]) -> BTreeSet<NodeId> {
        settle(&layout(places), first()).0.voters
    }

    #[test]
    fn voters_are_one_three_or_five() {
        assert_eq!(voters_of(&["a/1"]), ids(&[1]));
        assert_eq!(voters_of(&["a/1", "b/1"]), ids(&[1]));
        assert_eq!(voters_of(&["a/1", "b/1", "c/1"]), ids(&[1, 2, 3]));
        assert_eq!(voters_of(&["a/1", "b/1", "c/1", "d/1"]), ids(&[1, 2, 3]));
        assert_eq!(voters_of(&["a/1", "b/1", "c/1", "d/1", "e/1", "f/1"]).len(), 5);
        assert_eq!(voters_of(&["a/1", "-b/1", "c/1", "d/1"]), ids(&[1, 3, 4]));
    }

    #[test]
    fn no_region_gets_a_majority_if_that_can_be() {
        assert_eq!(voters_of(&["a/1", "a/2", "b/1", "b/2", "c/1"]), ids(&[1, 2, 3, 4, 5]));
        assert_eq!(voters_of(&["a/1", "a/2", "a/3", "b/1", "c/1"]), ids(&[1, 4, 5]));
        // One region: then at least the zones.
        assert_eq!(voters_of(&["a/1", "a/1", "a/1", "a/2", "a/3"]), ids(&[1, 4, 5]));
    }

    #[test]
    fn a_better_placed_newcomer_takes_a_seat_and_the_rest_stays() {
        let crowded = Seats { voters: ids(&[1, 2, 3]), ..Seats::default() };
        let (seats, steps) = settle(&layout(&["a/1", "a/1", "b/1", "c/1"]), crowded);
        assert_eq!(seats.voters, ids(&[1, 3, 4]));
        assert_eq!(seats.learners, ids(&[2]));
        use Step::{AddLearner, Promote, Remove};
        assert_eq!(
            steps,
            [AddLearner(NodeId(4)), Promote(NodeId(4)), Remove(NodeId(2)), AddLearner(NodeId(2))]
        );
    }

    #[test]
    fn an_equal_newcomer_changes_nothing() {
        let present = Seats { voters: ids(&[2, 3, 4]), ..Seats::default() };
        let (seats, _) = settle(&layout(&["a/1", "a/2", "b/1", "c/1"]), present);
        assert_eq!(seats.voters, ids(&[2, 3, 4]));
    }

    #[test]
    fn nobody_votes_before_enough_have_caught_up() {
        let three = layout(&["a/1", "b/1", "c/1"]);
        let mut seats =
            Seats { voters: ids(&[1]), learners: ids(&[2, 3]), caught_up: ids(&[2]), near: ids(&[2, 3]) };
        assert_eq!(next(&three, &seats), None, "two voters would be worse than one");
        seats.caught_up = ids(&[2, 3]);
        assert_eq!(next(&three, &seats), Some(Step::Promote(NodeId(2))));
    }

    /// Load in bursts: whether a learner has caught up changes from one look to the next.
    #[test]
    fn votes_go_from_three_to_five_without_going_back() {
        let five = layout(&["a/1", "b/1", "c/1", "a/2", "b/2"]);
        for pattern in 0..1 << 12_u32 {
            let mut seats = Seats {
                voters: ids(&[1, 2, 3]),
                learners: ids(&[4, 5]),
                near: ids(&[4, 5]),
                ..Seats::default()
            };
            for look in 0..6 {
                let ready = |id: &NodeId| pattern >> (2 * look + u32::from(id.0 == 5)) & 1 == 1;
                seats.caught_up = seats.learners.iter().copied().filter(ready).collect();
                let both = seats.caught_up.len() == 2;
                match next(&five, &seats) {
                    Some(Step::Promote(id)) => {
                        assert!(both || seats.voters.len() == 4, "{pattern:b}: one alone");
                        assert!(seats.learners.remove(&id) && seats.near.remove(&id));
                        seats.voters.insert(id);
                    }
                    Some(other) => panic!("{pattern:b}: {other:?}"),
                    None => assert_ne!(seats.voters.len(), 4, "{pattern:b}: four are no end"),
                }
            }
        }
    }

    #[test]
    fn four_do_not_wait_for_a_fifth_that_is_gone() {
        let five = layout(&["a/1", "b/1", "c/1", "a/2", "b/2"]);
        let mut seats = Seats { voters: ids(&[1, 2, 3, 4]), learners: ids(&[5]), ..Seats::default() };
        assert_eq!(next(&five, &seats), Some(Step::Remove(NodeId(4))));
        seats = Seats { voters: ids(&[1, 2, 3]), learners: ids(&[4, 5]), near: ids(&[4, 5]), ..seats };
        seats.caught_up = ids(&[4]);
        assert_eq!(next(&five, &seats), None, "until both are ready");
    }

    #[test]
    fn who_left_is_removed_first() {
        let mut three = layout(&["a/1", "b/1", "c/1", "d/1"]);
        let all = Seats { voters: ids(&[1, 2, 3]), ..Seats::default() };
        three.nodes.remove(1);
        assert_eq!(next(&three, &all), Some(Step::Remove(NodeId(2))));
        assert_eq!(settle(&three, all).0.voters, ids(&[1, 3, 4]));
    }

    /// Every layout of up to five nodes in two regions of two zones and one more: votes end up spread wherever that
    /// can be, by the very rule that pushes are judged by.
    #[test]
    fn votes_are_spread_wherever_they_can_be() {
        const PLACES: [&str; 6] = ["a/1", "a/2", "b/1", "b/2", "c/1", "-c/1"];
        let mut layouts = vec![vec![]];
        for nodes in 1..=5 {
            let grown = |before: &Vec<&'static str>| PLACES.map(|place| [&before[..], &[place]].concat());
            layouts = layouts.iter().flat_map(grown).collect();
            // The first node founds the cluster, so that it votes.
            for places in layouts.iter().filter(|places| !places[0].starts_with('-')) {
                let layout = layout(places);
                let (seats, _) = settle(&layout, first());
                let voters = vec![seats.voters.iter().copied().collect()];
                for durability in [Durability::Zone, Durability::Region] {
                    let spread = covered(durability, &voters, &layout).is_ok();
                    let can_be = coverable(durability, &layout).is_ok();
                    assert_eq!(spread, can_be, "{nodes} nodes, {durability}: {places:?} → {seats:?}");
                }
            }
        }
    }
}
