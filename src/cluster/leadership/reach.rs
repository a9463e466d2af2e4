//! Who reaches more of the cluster. A member that hears others but not the leader follows nobody and can
//! answer nothing, for as long as that one link is cut, though the cluster could serve it: it only has to be
//! led from somewhere else.

use std::collections::BTreeSet;

use clawhub_types::NodeId;

/// Whether a voter reaches everybody whom another one reaches, and somebody more. Both are sets of members
/// that the voter heard lately, itself among them.
///
/// Strictly more: each hand-over is towards a larger set, so there is an end to them however links are cut.
pub(super) fn is_wider(reached: &BTreeSet<NodeId>, than: &BTreeSet<NodeId>) -> bool {
    reached.len() > than.len() && reached.is_superset(than)
}

/// Whether most voters are reached. Who reaches fewer is not elected, and an attempt costs an election.
pub(super) fn is_enough(reached: &BTreeSet<NodeId>, voters: &[NodeId]) -> bool {
    voters.iter().filter(|voter| reached.contains(voter)).count() > voters.len() / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(ids: &[u64]) -> BTreeSet<NodeId> {
        ids.iter().copied().map(NodeId).collect()
    }

    #[test]
    fn nobody_may_be_lost() {
        assert!(is_wider(&set(&[1, 2, 3]), &set(&[1, 2])));
        assert!(!is_wider(&set(&[1, 2, 3]), &set(&[1, 2, 4])), "one lost for one won");
        assert!(!is_wider(&set(&[1, 2, 3, 5]), &set(&[1, 2, 4])), "one lost for two won");
        assert!(!is_wider(&set(&[1, 2, 3]), &set(&[1, 2, 3])));
    }

    #[test]
    fn half_is_not_most() {
        let voters = [1, 2, 3, 4].map(NodeId);
        assert!(is_enough(&set(&[1, 2, 3]), &voters));
        assert!(!is_enough(&set(&[1, 2, 8, 9]), &voters));
        assert!(is_enough(&set(&[1]), &[NodeId(1)]));
    }
}
