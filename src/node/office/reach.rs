//! Whether another voter reaches more of the cluster. A member that hears others but not the leader follows
//! nobody and can answer nothing, for as long as that one link is cut, though the cluster could serve it: it
//! only has to be led from somewhere else.

use std::collections::BTreeSet;

use clawhub_types::NodeId;

/// A voter that reaches everybody whom the leader reaches, and somebody more. `mine` are the members that the
/// leader heard lately, itself among them; `theirs` what each of those said of itself.
///
/// Strictly more: each hand-over is towards a larger set, so there is an end to them however links are cut.
pub(super) fn judge(
    mine: &BTreeSet<NodeId>,
    theirs: &[(NodeId, BTreeSet<NodeId>)],
    voters: &[NodeId],
) -> Option<NodeId> {
    let more = theirs.iter().filter(|(id, reached)| {
        voters.contains(id) && reached.is_superset(mine) && reached.len() > mine.len()
    });
    more.max_by_key(|(id, reached)| (reached.len(), std::cmp::Reverse(*id))).map(|(id, _)| *id)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(ids: &[u64]) -> BTreeSet<NodeId> {
        ids.iter().copied().map(NodeId).collect()
    }

    fn judged(mine: &[u64], theirs: &[(u64, &[u64])]) -> Option<u64> {
        let theirs: Vec<_> = theirs.iter().map(|(id, reached)| (NodeId(*id), set(reached))).collect();
        judge(&set(mine), &theirs, &[1, 2, 3].map(NodeId)).map(|id| id.0)
    }

    #[test]
    fn the_bridge_leads() {
        assert_eq!(judged(&[1, 2], &[(2, &[1, 2, 3])]), Some(2));
        assert_eq!(judged(&[1, 2, 4, 5], &[(2, &[1, 2, 3, 4]), (3, &[1, 2, 3, 4, 5])]), Some(3));
    }

    #[test]
    fn nobody_takes_over_who_would_lose_somebody() {
        assert_eq!(judged(&[1, 2, 4], &[(2, &[1, 2, 3])]), None, "one lost for one won");
        assert_eq!(judged(&[1, 2, 3], &[(2, &[1, 2, 3]), (3, &[1, 2, 3])]), None);
        assert_eq!(judged(&[1, 2], &[(2, &[1, 2])]), None, "a dead node is nobody's");
        assert_eq!(judged(&[1, 9], &[(9, &[1, 2, 9])]), None, "it does not vote");
    }
}
