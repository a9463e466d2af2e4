//! What each peer acknowledged to this node while it leads. A log never loses what its node acknowledged, unless
//! the device under it did; openraft takes that for granted, and counts on where it should not.
//!
//! In memory, for the last term that this node led. A new leader asks each peer anew what it has.

use std::collections::HashMap;

use clawhub_types::NodeId;
use parking_lot::Mutex;

use crate::transport::{AppendReply, Ballot};

#[derive(Default)]
pub(crate) struct Acknowledged {
    /// The highest index, under the vote that it was sent with.
    highest: Mutex<HashMap<NodeId, (Ballot, u64)>>,
}

impl Acknowledged {
    /// Notes a peer's answer to entries sent under `vote`.
    ///
    /// # Errors
    /// The index, if the peer misses an entry at or below one that it acknowledged under the same vote. A leader
    /// asks no peer for less than it acknowledged, and a connection keeps the order, so no old answer looks so.
    pub(crate) fn note(&self, peer: NodeId, vote: Ballot, reply: &AppendReply) -> Result<(), u64> {
        let mut all = self.highest.lock();
        let known = all.get(&peer).filter(|(under, _)| *under == vote).map(|(_, index)| *index);
        match reply {
            AppendReply::Matched(Some(pos)) if known.is_none_or(|index| index < pos.index) => {
                all.insert(peer, (vote, pos.index));
            }
            AppendReply::Conflict(pos) if known.is_some_and(|index| pos.index <= index) => {
                return Err(pos.index);
            }
            _ => (),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clawhub_state::LogPos;

    fn vote(term: u64) -> Ballot {
        Ballot { term, node: 1, committed: true }
    }

    fn pos(index: u64) -> LogPos {
        LogPos { term: 1, node: 1, index }
    }

    #[test]
    fn who_loses_what_he_acknowledged_is_noticed() {
        let all = Acknowledged::default();
        let peer = NodeId(2);
        let note = |term, reply| all.note(peer, vote(term), &reply);
        assert_eq!(note(3, AppendReply::Conflict(pos(9))), Ok(()), "it never had that");
        assert_eq!(note(3, AppendReply::Matched(Some(pos(7)))), Ok(()));
        assert_eq!(note(3, AppendReply::Matched(Some(pos(5)))), Ok(()), "an old answer");
        assert_eq!(note(3, AppendReply::Conflict(pos(8))), Ok(()));
        assert_eq!(note(3, AppendReply::Conflict(pos(7))), Err(7));
        assert_eq!(all.note(NodeId(3), vote(3), &AppendReply::Conflict(pos(7))), Ok(()), "another one");
        assert_eq!(note(4, AppendReply::Conflict(pos(7))), Ok(()), "a new leader begins anew");
        assert_eq!(note(4, AppendReply::Matched(None)), Ok(()));
    }
}
