//! Whether this node's wall clock can be believed. What a leader stamps into entries is shown to people and
//! ends credentials, so a leader whose clock is off the voters' median hands over. Leases, grace and
//! sessions do not depend on it: they count the cluster's own ticks.

use clawhub_replicate::ClockReading;
use clawhub_types::NodeId;

/// A clock that is further off is wrong.
const TOLERATED_MS: i64 = 1000;

/// How wrong this node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    /// How far this node is ahead of the median, milliseconds; negative if it is behind.
    pub(super) off_ms: i64,
    /// A voter whose clock is right.
    pub(super) better: NodeId,
}

/// Compares this node, which reads zero, with the voters that were heard of. Of two middle values the one
/// closer to this node's counts: between two clocks nobody knows which is wrong.
pub(super) fn judge(clocks: &[(NodeId, ClockReading)], voters: &[NodeId]) -> Option<Verdict> {
    let mut others: Vec<(NodeId, ClockReading)> =
        clocks.iter().filter(|(id, _)| voters.contains(id)).copied().collect();
    others.sort_by_key(|(id, clock)| (clock.ahead_ms, *id));
    let mut all: Vec<(i64, Option<NodeId>, i64)> =
        others.iter().map(|(id, clock)| (clock.ahead_ms, Some(*id), clock.slack_ms)).collect();
    all.push((0, None, 0));
    all.sort_by_key(|(ahead, ..)| *ahead);
    let middle = [(all.len() - 1) / 2, all.len() / 2].map(|at| all[at]);
    let (median, who, slack) = middle.into_iter().min_by_key(|(ahead, ..)| ahead.saturating_abs())?;
    let wrong = median.saturating_abs().saturating_sub(slack) > TOLERATED_MS;
    wrong.then_some(Verdict { off_ms: median.saturating_neg(), better: who? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(ahead: &[i64], slack_ms: i64) -> Option<(i64, u64)> {
        let reading =
            |(id, ahead_ms): (u64, &i64)| (NodeId(id), ClockReading { ahead_ms: *ahead_ms, slack_ms });
        let clocks: Vec<_> = (2..).zip(ahead).map(reading).collect();
        let voters: Vec<NodeId> = (1..=5).map(NodeId).collect();
        judge(&clocks, &voters).map(|verdict| (verdict.off_ms, verdict.better.0))
    }

    const DAY: i64 = 24 * 60 * 60 * 1000;

    #[test]
    fn who_is_off_the_majority_is_wrong_and_nobody_else() {
        assert_eq!(judged(&[-2 * DAY, -2 * DAY + 3], 1), Some((2 * DAY - 3, 3)));
        assert_eq!(judged(&[DAY, DAY + 5], 1), Some((-DAY, 2)));
        assert_eq!(judged(&[2 * DAY, 3], 1), None, "the other one is wrong");
        assert_eq!(judged(&[900, 950], 1), None);
        assert_eq!(judged(&[1400, 1500], 600), None, "the round trip may explain it");
        assert_eq!(judged(&[-DAY, -DAY, 0, 0], 1), None);
        assert_eq!(judged(&[-DAY, -DAY, -DAY, 0], 1), Some((DAY, 4)));
    }

    #[test]
    fn between_two_nobody_knows() {
        assert_eq!(judged(&[-DAY], 1), None);
        assert_eq!(judged(&[], 1), None);
        assert_eq!(judged(&[-DAY, -DAY, 0], 1), None, "two against two");
    }

    #[test]
    fn only_voters_are_asked() {
        let clock = ClockReading { ahead_ms: DAY, slack_ms: 1 };
        assert_eq!(judge(&[(NodeId(8), clock), (NodeId(9), clock)], &[NodeId(1)]), None);
    }
}
