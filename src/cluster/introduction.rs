//! How a node that is behind learns that somebody of whom it has not heard is a member: it asks those that it knows.
//!
//! A certificate proves nothing about that: whoever ever had a member's disk can make one. The leader of a cluster that
//! has grown while this node was away may well be unknown here. It is let in, for the log only, once a member that this
//! node knows vouches for its id and its key, and none of them says that it was removed.
//!
//! A node of whose acquaintances none is a member any more, or answers, hears from nobody. It comes back as a new
//! one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use clawhub_peer::{Acquaintances, Endpoint, acquaintances};
use clawhub_types::{NodeId, RoundTrip};
use futures::future::join_all;

use crate::MemberDirectory;

/// Round trips of a question over a connection that has to be made: TCP, TLS, the peers' greetings, the call.
const TRIPS: u32 = 5;
/// The same on the shortest way, and what the asked node needs.
const ANSWER: Duration = Duration::from_secs(1);

/// Asks the members that this node knows about those that it does not. Keeps nothing but their answers, in memory.
pub struct Introductions {
    me: NodeId,
    endpoint: Endpoint,
    members: Arc<MemberDirectory>,
    patience: Duration,
    /// For how many it was told last that members vouch.
    told: Option<usize>,
}

impl Introductions {
    /// Between two rounds of questions, however many want in.
    pub const REST: Duration = Duration::from_millis(500);

    /// Asks over `endpoint`, for the node `me`, which knows `members` and takes so long to reach them.
    pub fn new(
        me: NodeId,
        endpoint: Endpoint,
        members: Arc<MemberDirectory>,
        way: RoundTrip,
    ) -> Introductions {
        Introductions { me, endpoint, members, patience: way.within(TRIPS, ANSWER), told: None }
    }

    /// Completes when somebody wants in whom this node does not know.
    pub async fn wake(&mut self) {
        self.members.knocked().await;
    }

    /// Asks around, while this node is behind. Once it is not, it knows all members itself.
    pub async fn pass(&mut self) {
        if !self.members.is_behind() {
            self.told = None;
            return self.members.vouch(BTreeMap::new());
        }
        let known = self.members.ids().into_iter().chain(self.members.seeds().into_iter().map(|s| s.node));
        let known: BTreeSet<NodeId> = known.filter(|node| *node != self.me).collect();
        let answers = known.iter().map(|node| acquaintances(&self.endpoint, *node, self.patience));
        let answers = join_all(answers).await.into_iter().filter_map(|answer| {
            answer.inspect_err(|error| tracing::debug!(%error, "a member did not say whom it knows")).ok()
        });
        let vouched = agreed(answers);
        let unknown = vouched.keys().filter(|node| !known.contains(node) && **node != self.me).count();
        if self.told.replace(unknown) != Some(unknown) {
            let asked = known.len();
            tracing::info!(
                asked,
                vouched = unknown,
                "a node wants in that is unknown here; the members were asked"
            );
        }
        self.members.vouch(vouched);
    }
}

/// Those whom somebody knows as members and nobody as removed, with the key on which all agree.
fn agreed(answers: impl Iterator<Item = Acquaintances>) -> BTreeMap<NodeId, [u8; 32]> {
    let mut keys: BTreeMap<NodeId, BTreeSet<[u8; 32]>> = BTreeMap::new();
    let mut removed = BTreeSet::new();
    for answer in answers {
        removed.extend(answer.removed);
        for (node, info) in answer.members {
            keys.entry(node).or_default().insert(info.spki);
        }
    }
    let agreed = keys.into_iter().filter(|(node, keys)| keys.len() == 1 && !removed.contains(node));
    agreed.filter_map(|(node, keys)| Some((node, keys.first().copied()?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clawhub_peer::PeerInfo;

    fn answer(members: &[(u64, u8)], removed: &[u64]) -> Acquaintances {
        let info = |key| PeerInfo { addr: "h:1".into(), spki: [key; 32] };
        Acquaintances {
            members: members.iter().map(|(node, key)| (NodeId(*node), info(*key))).collect(),
            removed: removed.iter().copied().map(NodeId).collect(),
        }
    }

    #[test]
    fn one_voice_for_a_member_is_enough_and_one_against_it_too_much() {
        let answers = [
            answer(&[(1, 1), (4, 4), (5, 5), (6, 6)], &[]),
            answer(&[(1, 1), (6, 7)], &[5]),
            answer(&[], &[]),
        ];
        let vouched = agreed(answers.into_iter());
        assert_eq!(vouched, BTreeMap::from([(NodeId(1), [1; 32]), (NodeId(4), [4; 32])]));
        assert_eq!(agreed(std::iter::empty()), BTreeMap::new());
    }
}
