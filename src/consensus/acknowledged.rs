//! What each peer acknowledged to this node while it leads. A log never loses what its node acknowledged, unless
//! the device under it did; openraft takes that for granted, and counts on where it should not.
//!
//! In memory, for the last term that this node led. A new leader asks each peer anew what it has; what the log keeps of
//! this for it is coarse ([`LogMarks::by_members`]).

use std::collections::HashMap;
use std::sync::Arc;

use clawhub_state::LogMark;
use clawhub_state::cluster::Acknowledgement;
use clawhub_types::NodeId;
use openraft::async_runtime::AsyncRuntime;
use openraft_rt_tokio::TokioRuntime;
use parking_lot::Mutex;

use crate::core::Core;
use crate::transport::{AppendAnswer, AppendReply, Ballot};
use crate::types::LeaderId;

#[derive(Default)]
pub(crate) struct Acknowledged {
    peers: Mutex<HashMap<NodeId, Peer>>,
}

/// What a peer acknowledged to one leader.
#[derive(Clone, Copy)]
struct Peer {
    /// The leader's vote, under which entries were sent.
    vote: Ballot,
    /// The start of the peer that answered last.
    boot: u64,
    /// The highest index that this start acknowledged.
    index: Option<u64>,
    /// The highest one that earlier starts did.
    earlier: Option<u64>,
}

impl Peer {
    fn highest(&self) -> Option<u64> {
        self.index.max(self.earlier)
    }
}

impl Acknowledged {
    /// Notes a peer's answer to entries sent under `vote`.
    ///
    /// # Errors
    /// The index, if the peer misses an entry at or below one that it acknowledged under the same vote. A leader
    /// asks no peer for less than it acknowledged, and a connection keeps the order, so no old answer looks so.
    pub(crate) fn note(&self, node: NodeId, vote: Ballot, answer: &AppendAnswer) -> Result<(), u64> {
        let mut peers = self.peers.lock();
        let boot = answer.boot;
        let mut peer = match peers.get(&node).filter(|known| known.vote == vote) {
            // From a connection that the peer's last start has left behind.
            Some(known) if known.boot > boot => return Ok(()),
            Some(known) if known.boot == boot => *known,
            Some(known) => Peer { vote, boot, index: None, earlier: known.highest() },
            None => Peer { vote, boot, index: None, earlier: None },
        };
        let mut misses = None;
        match &answer.reply {
            AppendReply::Matched(Some(pos)) => peer.index = peer.index.max(Some(pos.index)),
            AppendReply::Conflict(pos) if peer.highest() >= Some(pos.index) => misses = Some(pos.index),
            _ => (),
        }
        peers.insert(node, peer);
        misses.map_or(Ok(()), Err)
    }

    /// The highest index that starts of a peer before `boot` acknowledged under this vote.
    fn before(&self, node: NodeId, boot: u64, vote: Ballot) -> Option<u64> {
        let peer = self.peers.lock().get(&node).copied().filter(|peer| peer.vote == vote)?;
        if peer.boot < boot { peer.highest() } else { peer.earlier }
    }

    /// What the present start of each peer acknowledged under this vote.
    fn under(&self, vote: Ballot) -> Vec<Acknowledgement> {
        let peers = self.peers.lock();
        let peers = peers.iter().filter(|(_, peer)| peer.vote == vote);
        let known = peers.filter_map(|(node, peer)| {
            Some(Acknowledgement { node: *node, boot: peer.boot, index: peer.index? })
        });
        known.collect()
    }
}

fn ballot(leader: LeaderId) -> Ballot {
    Ballot { term: leader.term, node: leader.node_id, committed: true }
}

/// What this node found when it started, and what the members have acknowledged to it while it leads.
pub struct LogMarks<R: AsyncRuntime = TokioRuntime> {
    pub(crate) core: Arc<Core<R>>,
    pub(crate) acknowledged: Arc<Acknowledged>,
    /// Its own vote and log as they were when it started.
    pub(crate) found: LogMark,
}

impl<R: AsyncRuntime> LogMarks<R> {
    /// What this node found on its disk when it started. A build that does not sync has nothing to answer for.
    pub fn found(&self) -> LogMark {
        if clawhub_mutant::Mutant::NoFsync.breaks() {
            return LogMark { term: u64::MAX, index: u64::MAX };
        }
        self.found
    }

    /// As leader: its term, and how far each member, itself among them, has its log durably. `None` if it does not lead.
    pub fn by_members(&self) -> Option<(u64, Vec<Acknowledgement>)> {
        let leader = self.core.leading()?;
        let mut known = self.acknowledged.under(ballot(leader));
        let flushed = self.core.raft.watch_log_progress().get();
        let flushed = flushed.filter(|point| point.vote.committed && point.vote.leader_id == leader);
        if let Some(last) = flushed.and_then(|point| point.last_log_id) {
            let settings = &self.core.settings;
            known.push(Acknowledgement { node: settings.node, boot: settings.boot, index: last.index });
        }
        Some((leader.term, known))
    }

    /// As leader: what the starts of a peer before `boot` acknowledged to it.
    pub(crate) fn before(&self, node: NodeId, boot: u64) -> Option<LogMark> {
        let leader = self.core.leading()?;
        let index = self.acknowledged.before(node, boot, ballot(leader))?;
        Some(LogMark { term: leader.term, index })
    }
}

#[cfg(test)]
mod tests {
    use clawhub_state::LogPos;

    use super::*;

    const PEER: NodeId = NodeId(2);

    fn vote(term: u64) -> Ballot {
        Ballot { term, node: 1, committed: true }
    }

    fn pos(index: u64) -> LogPos {
        LogPos { term: 1, node: 1, index }
    }

    fn answer(boot: u64, reply: AppendReply) -> AppendAnswer {
        AppendAnswer { boot, reply }
    }

    #[test]
    fn who_loses_what_he_acknowledged_is_noticed() {
        let all = Acknowledged::default();
        let note = |term, reply| all.note(PEER, vote(term), &answer(1, reply));
        assert_eq!(note(3, AppendReply::Conflict(pos(9))), Ok(()), "it never had that");
        assert_eq!(note(3, AppendReply::Matched(Some(pos(7)))), Ok(()));
        assert_eq!(note(3, AppendReply::Matched(Some(pos(5)))), Ok(()), "an old answer");
        assert_eq!(note(3, AppendReply::Conflict(pos(8))), Ok(()));
        assert_eq!(note(3, AppendReply::Conflict(pos(7))), Err(7));
        let conflict = answer(1, AppendReply::Conflict(pos(7)));
        assert_eq!(all.note(NodeId(3), vote(3), &conflict), Ok(()), "another one");
        assert_eq!(note(4, AppendReply::Conflict(pos(7))), Ok(()), "a new leader begins anew");
        assert_eq!(note(4, AppendReply::Matched(None)), Ok(()));
    }

    #[test]
    fn a_start_answers_for_those_before_it_and_not_for_itself() {
        let all = Acknowledged::default();
        let matched =
            |boot, index| all.note(PEER, vote(3), &answer(boot, AppendReply::Matched(Some(pos(index)))));
        let conflict =
            |boot, index| all.note(PEER, vote(3), &answer(boot, AppendReply::Conflict(pos(index))));
        assert_eq!(all.before(PEER, 5, vote(3)), None);
        assert_eq!(matched(4, 7), Ok(()));
        assert_eq!(all.before(PEER, 5, vote(3)), Some(7), "of the start that is over");
        assert_eq!(all.before(PEER, 4, vote(3)), None, "it is that very start");
        assert_eq!(all.before(PEER, 5, vote(4)), None, "another leader's");
        // The next start has caught up before it is registered: that says nothing of what it began with.
        assert_eq!(matched(5, 20), Ok(()));
        assert_eq!(all.before(PEER, 5, vote(3)), Some(7));
        assert_eq!(all.under(vote(3)), [Acknowledgement { node: PEER, boot: 5, index: 20 }]);
        assert_eq!(matched(4, 30), Ok(()), "a late answer of the one before");
        assert_eq!(all.before(PEER, 6, vote(3)), Some(20));
        assert_eq!(conflict(6, 7), Err(7), "whatever start lost it");
        assert_eq!(all.before(PEER, 6, vote(3)), Some(20), "it is not forgotten by that");
        assert_eq!(conflict(6, 21), Ok(()));
    }
}
