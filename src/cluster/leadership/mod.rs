//! Leadership: a node that leads asks whether another should lead instead, and a node that follows asks whether it is to
//! campaign if nobody leads.
//!
//! Raft looks at logs alone. Three more things make one voter better than another, and the first of them in
//! which two voters differ decides:
//!
//! 1. **storage**: its own is sound, as it says;
//! 2. **clock**: its wall clock can be believed, as it says;
//! 3. **reach**: it reaches everybody whom the other one reaches, and somebody more ([`reach`]).
//!
//! One order over all of them, and of each voter what it says itself, so that hand-overs come to an end: judged
//! each for itself, or by whoever hears it, a right clock and a wide reach would pass leadership back and forth
//! for ever. Nothing is kept; a crash is an election.

mod reach;

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::time::Duration;

use clawhub_consensus::Consensus;
use clawhub_liveness::{Liveness, Report};
use clawhub_types::NodeId;

use crate::ClusterError;

/// How long handing over may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Without a leader for longer, every voter campaigns: several elections have failed.
const LEADERLESS: Duration = Duration::from_secs(10);

/// What tells two voters apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Criterion {
    Storage,
    Clock,
    Reach,
}

/// A voter, as far as leading goes.
#[derive(Clone, Debug)]
struct Voter {
    id: NodeId,
    /// Its storage is sound, as it says.
    eligible: bool,
    /// How far its wall clock is off, milliseconds, as it says; `None` if it is right, or it does not know.
    skew_ms: Option<i64>,
    /// The members that it heard lately, itself among them.
    reaches: BTreeSet<NodeId>,
}

impl From<(NodeId, Report)> for Voter {
    fn from((id, report): (NodeId, Report)) -> Voter {
        Voter { id, eligible: report.eligible, skew_ms: report.clock_skew_ms, reaches: report.reaches }
    }
}

impl Voter {
    /// In what this voter is better, if it is.
    fn beats(&self, other: &Voter) -> Option<Criterion> {
        let right = self.skew_ms.is_none();
        let other_right = other.skew_ms.is_none();
        if self.eligible != other.eligible {
            self.eligible.then_some(Criterion::Storage)
        } else if right != other_right {
            right.then_some(Criterion::Clock)
        } else {
            reach::is_wider(&self.reaches, &other.reaches).then_some(Criterion::Reach)
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Verdict {
    to: NodeId,
    by: Criterion,
}

/// The best of those that are better than this node and could be elected. `others` are all the members that
/// were heard lately.
fn judge(me: &Voter, others: &[Voter], voters: &[NodeId]) -> Option<Verdict> {
    let able = others.iter().filter(|o| voters.contains(&o.id) && reach::is_enough(&o.reaches, voters));
    let better = able.filter_map(|other| Some((other, other.beats(me)?)));
    let best = better.max_by_key(|(other, _)| {
        (other.eligible, other.skew_ms.is_none(), other.reaches.len(), Reverse(other.id))
    });
    best.map(|(other, by)| Verdict { to: other.id, by })
}

/// Whether a verdict is acted on, after the one of the look before. A member that just died seems to be
/// reached by the one who heard of it last, so reach must tell the same twice.
fn is_settled(verdict: Verdict, before: Option<Verdict>) -> bool {
    verdict.by != Criterion::Reach || before == Some(verdict)
}

/// Whether this node campaigns: its storage is `sound`, or nobody else would lead. `eligible` are
/// the members heard lately that say that their storage is sound. None of them may be able to win, because
/// their logs are shorter than that of a node which does not campaign; hence the limit to being `leaderless`.
fn should_campaign(
    sound: bool,
    eligible: &BTreeSet<NodeId>,
    voters: &[NodeId],
    leaderless: Option<Duration>,
) -> bool {
    sound
        || !voters.iter().any(|voter| eligible.contains(voter))
        || leaderless.is_some_and(|long| long > LEADERLESS)
}

/// Judges who should lead, for this node's part.
pub struct Leadership {
    consensus: Consensus,
    liveness: Liveness,
    /// What the last look said.
    before: Option<Verdict>,
}

impl Leadership {
    /// Between two looks, and so between two attempts to hand over.
    pub const EVERY: Duration = Duration::from_secs(2);

    /// Decides who leads `consensus`, by what the members say of themselves.
    pub fn new(consensus: Consensus, liveness: Liveness) -> Leadership {
        Leadership { consensus, liveness, before: None }
    }

    /// Judges this node's clock, has the node campaign or not, and, if it leads and another should, hands over.
    ///
    /// # Errors
    /// [`ClusterError`] if leadership could not be handed over.
    pub async fn pass(&mut self) -> Result<(), ClusterError> {
        let status = self.consensus.status();
        let reports = self.liveness.reports();
        let eligible = reports.iter().filter(|(_, report)| report.eligible).map(|(id, _)| *id).collect();
        let sound = self.liveness.is_eligible();
        self.consensus.campaign(should_campaign(sound, &eligible, &status.voters, status.cut_off));
        let skew_ms = self.liveness.judge_clock(&status.voters);
        if status.leader != Some(status.node) {
            self.before = None;
            return Ok(());
        }
        let reaches = self.liveness.reachable();
        let me = Voter { id: status.node, eligible: sound, skew_ms, reaches };
        let others: Vec<Voter> = reports.into_iter().map(Voter::from).collect();
        let verdict = judge(&me, &others, &status.voters);
        let before = std::mem::replace(&mut self.before, verdict);
        match verdict {
            Some(verdict) if is_settled(verdict, before) => self.hand_over(&me, verdict).await,
            _ => Ok(()),
        }
    }

    async fn hand_over(&self, me: &Voter, Verdict { to, by }: Verdict) -> Result<(), ClusterError> {
        let off_ms = me.skew_ms.unwrap_or_default();
        match by {
            Criterion::Storage => {
                tracing::warn!(%to, "storage: this node's is not sound: handing over leadership")
            }
            Criterion::Clock => {
                tracing::error!(off_ms, %to, "clock: this node's is off the others': handing over leadership")
            }
            Criterion::Reach => {
                tracing::warn!(%to, "reach: another voter's is wider: handing over leadership")
            }
        }
        self.consensus.membership().transfer_leader(Some(to), PATIENCE).await.map_err(|error| {
            tracing::warn!(%error, "leadership could not be handed over yet");
            error.into()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOUND: bool = true;
    const SHORT: bool = false;
    const RIGHT: Option<i64> = None;
    const OFF: Option<i64> = Some(5000);

    /// Node `id`, which reaches itself and `others`.
    fn voter(id: u64, eligible: bool, skew_ms: Option<i64>, others: &[u64]) -> Voter {
        let reaches = others.iter().copied().chain([id]).map(NodeId).collect();
        Voter { id: NodeId(id), eligible, skew_ms, reaches }
    }

    /// What node `leader` finds, which hears whom it reaches.
    fn judged(all: &[Voter], leader: u64) -> Option<(u64, Criterion)> {
        let me = all.iter().find(|v| v.id.0 == leader).unwrap();
        let heard = all.iter().filter(|v| v.id != me.id && me.reaches.contains(&v.id));
        let voters: Vec<NodeId> = all.iter().map(|v| v.id).filter(|id| id.0 < 9).collect();
        judge(me, &heard.cloned().collect::<Vec<_>>(), &voters).map(|Verdict { to, by }| (to.0, by))
    }

    /// Who leads in turn, beginning with `first`, until somebody stays.
    fn terms(all: &[Voter], first: u64) -> Vec<u64> {
        let mut terms = vec![first];
        while let Some((to, _)) = judged(all, terms[terms.len() - 1]) {
            assert!(!terms.contains(&to), "back to node {to} after {terms:?}");
            terms.push(to);
        }
        terms
    }

    #[test]
    fn among_equals_the_leader_stays() {
        let all = [1, 2, 3].map(|id| voter(id, SOUND, RIGHT, &[1, 2, 3]));
        assert_eq!([1, 2, 3].map(|first| terms(&all, first)), [[1], [2], [3]]);
    }

    #[test]
    fn clock_goes_before_reach() {
        let all = [
            voter(1, SOUND, OFF, &[2, 3, 4]),
            voter(2, SOUND, RIGHT, &[1, 3]),
            voter(3, SOUND, RIGHT, &[1, 2]),
        ];
        assert_eq!(judged(&all, 1), Some((2, Criterion::Clock)));
        assert_eq!(terms(&all, 1), [1, 2]);
        assert_eq!(terms(&all, 3), [3]);
    }

    #[test]
    fn storage_goes_before_clock_and_reach() {
        let all = [
            voter(1, SHORT, RIGHT, &[2, 3, 4]),
            voter(2, SOUND, OFF, &[1, 3]),
            voter(3, SHORT, RIGHT, &[1, 2, 4]),
        ];
        assert_eq!(judged(&all, 1), Some((2, Criterion::Storage)));
        assert_eq!([1, 2, 3].map(|first| terms(&all, first)), [vec![1, 2], vec![2], vec![3, 2]]);
    }

    #[test]
    fn two_that_are_short_hand_over_to_the_sound_one() {
        let all = [(1, SHORT), (2, SHORT), (3, SOUND)].map(|(id, s)| voter(id, s, RIGHT, &[1, 2, 3]));
        assert_eq!([1, 2, 3].map(|first| terms(&all, first)), [vec![1, 3], vec![2, 3], vec![3]]);
    }

    #[test]
    fn where_all_are_short_the_rest_decides() {
        let all = [1, 2, 3].map(|id| voter(id, SHORT, RIGHT, &[1, 2, 3]));
        assert_eq!([1, 2, 3].map(|first| terms(&all, first)), [[1], [2], [3]]);
        let links: [(u64, &[u64]); 3] = [(1, &[2]), (2, &[1, 3]), (3, &[2])];
        let all = links.map(|(id, others)| voter(id, SHORT, RIGHT, others));
        assert_eq!(judged(&all, 1), Some((2, Criterion::Reach)));
        assert_eq!([1, 2, 3].map(|first| terms(&all, first)), [vec![1, 2], vec![2], vec![3, 2]]);
    }

    #[test]
    fn the_best_of_those_that_are_better_is_chosen() {
        let all = [
            voter(1, SHORT, OFF, &[2, 3, 4]),
            voter(2, SOUND, OFF, &[1, 3, 4]),
            voter(3, SOUND, RIGHT, &[1, 2]),
            voter(4, SOUND, RIGHT, &[1, 2, 3]),
        ];
        assert_eq!(judged(&all, 1), Some((4, Criterion::Storage)));
        assert_eq!(judged(&all, 2), Some((4, Criterion::Clock)));
    }

    #[test]
    fn who_could_not_be_elected_is_not_asked() {
        let all = [
            voter(1, SHORT, RIGHT, &[2, 3, 9]),
            voter(2, SOUND, RIGHT, &[]),
            voter(3, SHORT, RIGHT, &[1]),
            voter(9, SOUND, RIGHT, &[1, 2, 3]),
        ];
        assert_eq!(judged(&all, 1), None, "node 2 hears nobody and node 9 does not vote");
    }

    #[test]
    fn only_reach_is_looked_at_twice() {
        let [storage, clock, reach] =
            [Criterion::Storage, Criterion::Clock, Criterion::Reach].map(|by| Verdict { to: NodeId(2), by });
        assert!(is_settled(storage, None) && is_settled(clock, None));
        assert!(!is_settled(reach, None) && !is_settled(reach, Some(clock)));
        assert!(!is_settled(reach, Some(Verdict { to: NodeId(3), ..reach })));
        assert!(is_settled(reach, Some(reach)));
    }

    #[test]
    fn somebody_campaigns() {
        let voters = [1, 2, 3].map(NodeId);
        let (none, third) = (BTreeSet::new(), BTreeSet::from([NodeId(3)]));
        assert!(should_campaign(SOUND, &none, &voters, None));
        assert!(should_campaign(SOUND, &third, &voters, None));
        assert!(!should_campaign(SHORT, &third, &voters, None), "node 3 leads");
        assert!(should_campaign(SHORT, &none, &voters, None), "all are short, or out of reach");
        assert!(should_campaign(SHORT, &BTreeSet::from([NodeId(9)]), &voters, None), "node 9 does not vote");
        assert!(!should_campaign(SHORT, &third, &voters, Some(LEADERLESS)));
        let longer = LEADERLESS + Duration::from_secs(1);
        assert!(should_campaign(SHORT, &third, &voters, Some(longer)), "node 3 does not win");
    }
}
