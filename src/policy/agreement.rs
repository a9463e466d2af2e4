//! Whether the members' states are the same where they should be, and who is to stop if they are not.

use std::collections::BTreeMap;

use clawhub_types::NodeId;

/// Hashes of one member's state by log index.
pub type Hashes = BTreeMap<u64, [u8; 32]>;

/// What a comparison shows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Agreement {
    /// Whoever can be compared is the same.
    #[default]
    Same,
    /// More than half of all voters have another state than this node: it is the one that must stop.
    Stray {
        /// Where they differ.
        index: u64,
    },
    /// Others have another state than this node, and nobody can be told to be wrong, or not this node.
    Divided {
        /// Where they differ.
        index: u64,
        /// Who has another state.
        others: Vec<NodeId>,
        /// More than half of all voters have this node's state: the others are to stop.
        right: bool,
    },
}

/// Compares this node's hashes with the others', index by index. Only all voters together make a majority, dead or
/// alive: with two voters, or two of three, nobody is told to be wrong.
pub fn agreement(
    me: NodeId,
    own: &Hashes,
    others: &BTreeMap<NodeId, Hashes>,
    voters: &[NodeId],
) -> Agreement {
    let majority = |votes: usize| votes * 2 > voters.len();
    let mut found = Agreement::Same;
    for (index, mine) in own.iter().rev() {
        let theirs: Vec<_> =
            others.iter().filter_map(|(node, hashes)| Some((*node, *hashes.get(index)?))).collect();
        let votes = |hash: &[u8; 32]| {
            let of_others = theirs.iter().filter(|(node, h)| h == hash && voters.contains(node)).count();
            of_others + usize::from(hash == mine && voters.contains(&me))
        };
        if theirs.iter().any(|(_, hash)| hash != mine && majority(votes(hash))) {
            return Agreement::Stray { index: *index };
        }
        let differ: Vec<NodeId> =
            theirs.iter().filter(|(_, hash)| hash != mine).map(|(node, _)| *node).collect();
        if found == Agreement::Same && !differ.is_empty() {
            found = Agreement::Divided { index: *index, others: differ, right: majority(votes(mine)) };
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hashes(of: &[(u64, u8)]) -> Hashes {
        of.iter().map(|(index, hash)| (*index, [*hash; 32])).collect()
    }

    fn judge(own: &[(u64, u8)], others: &[(u64, &[(u64, u8)])], voters: &[u64]) -> Agreement {
        let others = others.iter().map(|(node, of)| (NodeId(*node), hashes(of))).collect();
        let voters: Vec<NodeId> = voters.iter().map(|id| NodeId(*id)).collect();
        agreement(NodeId(1), &hashes(own), &others, &voters)
    }

    fn divided(index: u64, others: &[u64], right: bool) -> Agreement {
        Agreement::Divided { index, others: others.iter().map(|id| NodeId(*id)).collect(), right }
    }

    #[test]
    fn who_differs_from_most_voters_strays() {
        let voters = [1, 2, 3];
        assert_eq!(judge(&[(8, 1)], &[(2, &[(8, 1)]), (3, &[(8, 1)])], &voters), Agreement::Same);
        assert_eq!(
            judge(&[(8, 1)], &[(2, &[(8, 2)]), (3, &[(8, 2)])], &voters),
            Agreement::Stray { index: 8 }
        );
        assert_eq!(judge(&[(8, 1)], &[(2, &[(8, 1)]), (3, &[(8, 2)])], &voters), divided(8, &[3], true));
        assert_eq!(judge(&[(8, 1)], &[(2, &[(8, 2)]), (3, &[(8, 3)])], &voters), divided(8, &[2, 3], false));
    }

    #[test]
    fn only_equal_indices_are_compared() {
        let voters = [1, 2, 3];
        assert_eq!(judge(&[(8, 1)], &[(2, &[(16, 2)]), (3, &[(16, 2)])], &voters), Agreement::Same);
        let (two, three): (&[_], &[_]) = (&[(8, 2), (16, 1)], &[(8, 2)]);
        assert_eq!(
            judge(&[(8, 1), (16, 1)], &[(2, two), (3, three)], &voters),
            Agreement::Stray { index: 8 }
        );
    }

    #[test]
    fn without_a_majority_of_all_voters_nobody_is_wrong() {
        assert_eq!(judge(&[(8, 1)], &[(2, &[(8, 2)])], &[1, 2]), divided(8, &[2], false));
        assert_eq!(judge(&[(8, 1)], &[(2, &[(8, 2)])], &[1, 2, 3]), divided(8, &[2], false));
        assert_eq!(judge(&[(8, 1)], &[(2, &[(8, 2)])], &[1]), divided(8, &[2], true), "a learner strays");
        assert_eq!(judge(&[(8, 1)], &[(2, &[(8, 2)])], &[2]), Agreement::Stray { index: 8 });
        let learners: &[(u64, &[_])] = &[(2, &[(8, 2)]), (3, &[(8, 2)]), (4, &[(8, 1)])];
        assert_eq!(judge(&[(8, 1)], learners, &[1, 4, 5]), divided(8, &[2, 3], true), "they have no vote");
    }
}
