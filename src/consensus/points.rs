//! This node's state at the indices at which all nodes note theirs, to be compared.
//!
//! The state carries its hash, kept up with each batch; batches end where the node's luck has it, so that two nodes
//! rarely look at the same index. At every multiple of [`EVERY`] all of them end one. In memory: a crash loses what was
//! noted, and what is applied from then on is noted again.

use std::collections::VecDeque;
use std::sync::Arc;

use clawhub_types::StatePoint;
use parking_lot::Mutex;

/// Entries between two points. Small enough for a quiet cluster to reach one, large enough for a busy one to take no
/// notice.
const EVERY: u64 = 256;
/// As many are kept: a node that is further behind is compared later.
const KEPT: usize = 256;

/// Whether all nodes note their states after the entry at this index.
pub(crate) fn is_at(index: u64) -> bool {
    index.is_multiple_of(EVERY)
}

/// The last points of one node. Clones share them.
#[derive(Clone, Default)]
pub struct Points {
    last: Arc<Mutex<VecDeque<StatePoint>>>,
}

impl Points {
    pub(crate) fn note(&self, point: StatePoint) {
        let mut last = self.last.lock();
        last.push_front(point);
        last.truncate(KEPT);
    }

    /// At most so many, latest first.
    pub fn latest(&self, most: usize) -> Vec<StatePoint> {
        self.last.lock().iter().take(most).copied().collect()
    }

    /// The hash at an index, if it is one of the last.
    pub fn at(&self, index: u64) -> Option<[u8; 32]> {
        self.last.lock().iter().find(|point| point.index == index).map(|point| point.hash)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_points_are_kept() {
        let points = Points::default();
        for index in (0..=300).map(|n| n * EVERY) {
            assert!(is_at(index) && !is_at(index + 1));
            points.note(StatePoint { index, hash: [1; 32] });
        }
        assert_eq!(points.latest(2).iter().map(|p| p.index).collect::<Vec<_>>(), [300 * EVERY, 299 * EVERY]);
        assert_eq!(points.at(45 * EVERY), Some([1; 32]));
        assert_eq!(points.at(44 * EVERY), None);
    }
}
