//! Whose wall clock can be believed. What a leader stamps into entries is shown to people and ends
//! credentials, so who is off the voters' median should not lead. Leases, grace and sessions do not depend
//! on it: they count the cluster's own ticks.

use std::collections::BTreeMap;

use clawhub_replicate::ClockReading;
use clawhub_types::NodeId;

/// A clock that is further off is wrong.
const TOLERATED_MS: i64 = 1000;

/// The voters whose clock is off the median of those heard of, and how far it is ahead, milliseconds;
/// negative if it is behind. `me` reads zero.
///
/// Of two middle values the one closer to the clock in question counts: between two clocks nobody knows which
/// is wrong. What the round trips leave open counts for this node and against the others: no clock that is
/// taken for right from afar turns out to be wrong once its owner leads.
pub(super) fn off(me: NodeId, clocks: &[(NodeId, ClockReading)], voters: &[NodeId]) -> BTreeMap<NodeId, i64> {
    let own = (me, ClockReading { ahead_ms: 0, slack_ms: 0 });
    let heard = clocks.iter().filter(|(id, _)| voters.contains(id)).copied();
    let mut all: Vec<(NodeId, ClockReading)> = heard.chain([own]).collect();
    all.sort_by_key(|(id, clock)| (clock.ahead_ms, *id));
    let middle = [(all.len() - 1) / 2, all.len() / 2].map(|at| all[at]);
    let judged = all.iter().filter(|(id, _)| middle.iter().all(|(right, _)| right != id));
    let off = judged.filter_map(|(id, clock)| {
        let ahead = |(_, right): &(NodeId, ClockReading)| clock.ahead_ms.saturating_sub(right.ahead_ms);
        let closer = middle.iter().min_by_key(|right| ahead(right).saturating_abs())?;
        let (off, doubt) = (ahead(closer), clock.slack_ms.saturating_add(closer.1.slack_ms));
        let counted = if *id == me { doubt.saturating_neg() } else { doubt };
        (off.saturating_abs().saturating_add(counted) > TOLERATED_MS).then_some((*id, off))
    });
    off.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Who is off, as node 1 sees nodes 2, 3, ...
    fn judged(ahead: &[i64], slack_ms: i64) -> Vec<(u64, i64)> {
        let reading =
            |(id, ahead_ms): (u64, &i64)| (NodeId(id), ClockReading { ahead_ms: *ahead_ms, slack_ms });
        let clocks: Vec<_> = (2..).zip(ahead).map(reading).collect();
        let voters: Vec<NodeId> = (1..=5).map(NodeId).collect();
        off(NodeId(1), &clocks, &voters).into_iter().map(|(id, off_ms)| (id.0, off_ms)).collect()
    }

    const DAY: i64 = 24 * 60 * 60 * 1000;

    #[test]
    fn who_is_off_the_majority_is_wrong_and_nobody_else() {
        assert_eq!(judged(&[-2 * DAY, -2 * DAY + 3], 1), [(1, 2 * DAY - 3)]);
        assert_eq!(judged(&[DAY, DAY + 5], 1), [(1, -DAY)]);
        assert_eq!(judged(&[2 * DAY, 3], 1), [(2, 2 * DAY - 3)], "the other one is wrong");
        assert_eq!(judged(&[900, 950], 1), []);
        assert_eq!(judged(&[-DAY, -DAY, 0, 0], 1), [(2, -DAY), (3, -DAY)]);
        assert_eq!(judged(&[-DAY, -DAY, -DAY, 0], 1), [(1, DAY), (5, DAY)]);
    }

    #[test]
    fn between_two_nobody_knows() {
        assert_eq!(judged(&[-DAY], 1), []);
        assert_eq!(judged(&[], 1), []);
        assert_eq!(judged(&[-DAY, -DAY, 0], 1), [], "two against two");
    }

    #[test]
    fn a_round_trip_speaks_for_this_node_and_against_the_others() {
        assert_eq!(judged(&[1400, 1400], 500), [], "it may explain why this node seems off");
        assert_eq!(judged(&[0, 800], 50), []);
        assert_eq!(judged(&[0, 800], 250), [(3, 800)], "that one may be off");
    }

    #[test]
    fn only_voters_are_asked() {
        let clock = ClockReading { ahead_ms: DAY, slack_ms: 1 };
        let learners = [(NodeId(8), clock), (NodeId(9), clock)];
        assert!(off(NodeId(1), &learners, &[NodeId(1)]).is_empty());
    }
}
