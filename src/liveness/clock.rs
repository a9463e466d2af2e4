//! Whose wall clock can be believed. What a leader stamps into entries is shown to people and ends
//! credentials, so who is off the voters' median should not lead. Leases, grace and sessions do not depend
//! on it: they count the cluster's own ticks.

use std::time::Instant;

use clawhub_durable::now_millis;
use clawhub_types::NodeId;

/// A clock that is further off is wrong.
const TOLERATED_MS: i64 = 1000;

/// A member's wall clock against this node's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ClockReading {
    /// How far it is ahead, milliseconds; negative if it is behind.
    pub(crate) ahead_ms: i64,
    /// By how much that may be wrong: half the round trip, milliseconds.
    pub(crate) slack_ms: i64,
}

impl ClockReading {
    /// What a clock says that was read at some time between `asked` and now; the middle is the best guess.
    pub(crate) fn between(asked: Instant, wall: u64) -> ClockReading {
        let signed = |ms: u64| i64::try_from(ms).unwrap_or(i64::MAX);
        let slack_ms = i64::try_from(asked.elapsed().as_millis() / 2).unwrap_or(i64::MAX);
        let middle = signed(now_millis()).saturating_sub(slack_ms);
        ClockReading { ahead_ms: signed(wall).saturating_sub(middle), slack_ms }
    }
}

/// How far this node's clock is ahead of the median of the voters heard of, milliseconds, negative if it is
/// behind; `None` if it is right, or nobody knows.
///
/// Each node judges its own clock and tells the others, so that all go by the same verdict however few of them
/// each one hears. Of two middle values the one closer to the clock in question counts: between two clocks nobody
/// knows which is wrong. What the round trip leaves open counts for this node.
pub(crate) fn skew(clocks: &[(NodeId, ClockReading)], voters: &[NodeId]) -> Option<i64> {
    let own = ClockReading { ahead_ms: 0, slack_ms: 0 };
    let heard = clocks.iter().filter(|(id, _)| voters.contains(id)).map(|(_, clock)| *clock);
    let mut all: Vec<ClockReading> = heard.chain([own]).collect();
    all.sort_by_key(|clock| clock.ahead_ms);
    let middle = [(all.len() - 1) / 2, all.len() / 2].map(|at| all[at]);
    let right = middle.into_iter().min_by_key(|clock| clock.ahead_ms.saturating_abs())?;
    let surely = right.ahead_ms.saturating_abs().saturating_sub(right.slack_ms);
    (surely > TOLERATED_MS).then_some(right.ahead_ms.saturating_neg())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How far this node is off, as it sees nodes 2, 3, ...
    fn judged(ahead: &[i64], slack_ms: i64) -> Option<i64> {
        let reading =
            |(id, ahead_ms): (u64, &i64)| (NodeId(id), ClockReading { ahead_ms: *ahead_ms, slack_ms });
        let clocks: Vec<_> = (2..).zip(ahead).map(reading).collect();
        let voters: Vec<NodeId> = (1..=5).map(NodeId).collect();
        skew(&clocks, &voters)
    }

    const DAY: i64 = 24 * 60 * 60 * 1000;

    #[test]
    fn who_is_off_the_majority_is_wrong_and_nobody_else() {
        assert_eq!(judged(&[-2 * DAY, -2 * DAY + 3], 1), Some(2 * DAY - 3));
        assert_eq!(judged(&[DAY, DAY + 5], 1), Some(-DAY));
        assert_eq!(judged(&[2 * DAY, 3], 1), None, "the other one is wrong");
        assert_eq!(judged(&[900, 950], 1), None);
        assert_eq!(judged(&[-DAY, -DAY, 0, 0], 1), None);
        assert_eq!(judged(&[-DAY, -DAY, -DAY, 0], 1), Some(DAY));
    }

    #[test]
    fn between_two_nobody_knows() {
        assert_eq!(judged(&[-DAY], 1), None);
        assert_eq!(judged(&[], 1), None);
        assert_eq!(judged(&[-DAY, -DAY, 0], 1), None, "two against two");
    }

    #[test]
    fn a_round_trip_speaks_for_this_node() {
        assert_eq!(judged(&[1400, 1400], 500), None, "it may explain why this node seems off");
        assert_eq!(judged(&[1400, 1400], 100), Some(-1400));
    }

    #[test]
    fn only_voters_are_asked() {
        let clock = ClockReading { ahead_ms: DAY, slack_ms: 1 };
        let learners = [(NodeId(8), clock), (NodeId(9), clock)];
        assert_eq!(skew(&learners, &[NodeId(1)]), None);
    }
}
