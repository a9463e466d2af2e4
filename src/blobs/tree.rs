//! BLAKE3 in groups of 64 KiB.
//!
//! A blob's **group list** is the chaining value of each of its groups, in order. Its root follows
//! from the list alone, so a list is checked once as a whole, and each group then against its own
//! value. A blob of at most one group has no list: its root is the plain hash of its bytes.

use blake3::Hasher;
use blake3::hazmat::{ChainingValue, HasherExt, Mode, merge_subtrees_non_root, merge_subtrees_root};
use bytes::Bytes;
use clawhub_types::Root;

/// Bytes of a group, the unit of checking. The last group of a blob may be shorter.
pub const GROUP: u64 = 64 * 1024;

/// Bytes of one entry of a group list.
pub const GROUP_VALUE: u64 = 32;

/// How many groups `size` bytes have.
pub(crate) fn group_count(size: u64) -> u64 {
    size.div_ceil(GROUP)
}

/// Length in bytes of the group list of a blob of `size` bytes.
pub fn list_len(size: u64) -> u64 {
    if size <= GROUP { 0 } else { group_count(size) * GROUP_VALUE }
}

/// The root of bytes that are all in memory.
pub fn root_of(bytes: &[u8]) -> Root {
    Root(*blake3::hash(bytes).as_bytes())
}

/// Merges group values into a root, keeping one value per level of the tree.
#[derive(Clone, Default)]
struct Merger {
    /// Roots of complete subtrees, largest first. Merging is one step behind, because the last merge
    /// of all is a different function and only the end tells which one that is.
    stack: Vec<ChainingValue>,
    count: u64,
}

impl Merger {
    fn push(&mut self, value: ChainingValue) {
        // With n groups pushed, the complete subtrees are the set bits of n.
        while self.stack.len() > self.count.count_ones() as usize {
            self.merge();
        }
        self.stack.push(value);
        self.count += 1;
    }

    fn merge(&mut self) {
        if let (Some(right), Some(left)) = (self.stack.pop(), self.stack.pop()) {
            self.stack.push(merge_subtrees_non_root(&left, &right, Mode::Hash));
        }
    }

    /// The root over all groups pushed; `None` below two groups, which have no merge.
    fn root(mut self) -> Option<Root> {
        while self.stack.len() > 2 {
            self.merge();
        }
        match self.stack.as_slice() {
            [left, right] => Some(Root(*merge_subtrees_root(left, right, Mode::Hash).as_bytes())),
            _ => None,
        }
    }
}

/// Hashes a stream of unknown length into group values and a root, in one pass.
#[derive(Clone)]
pub(crate) struct TreeHasher {
    /// The last group begun; kept open although full until a byte follows, since a first group that
    /// is also the last is hashed as the root.
    group: Hasher,
    filled: u64,
    closed: Merger,
}

/// What a [`TreeHasher`] knows at the end of its input.
pub(crate) struct Tree {
    pub(crate) root: Root,
    /// The value of the last group, which `update` has not emitted; `None` where there is no list.
    pub(crate) last: Option<ChainingValue>,
}

impl TreeHasher {
    pub(crate) fn new() -> TreeHasher {
        TreeHasher { group: Hasher::new(), filled: 0, closed: Merger::default() }
    }

    /// Hashes the next bytes and appends to `list` the values of groups that they close.
    pub(crate) fn update(&mut self, mut bytes: &[u8], list: &mut Vec<u8>) {
        while !bytes.is_empty() {
            if self.filled == GROUP {
                let value = self.group.finalize_non_root();
                list.extend_from_slice(&value);
                self.closed.push(value);
                self.group = Hasher::new();
                self.group.set_input_offset(self.closed.count * GROUP);
                self.filled = 0;
            }
            let take = bytes.len().min((GROUP - self.filled) as usize);
            self.group.update(&bytes[..take]);
            self.filled += take as u64;
            bytes = &bytes[take..];
        }
    }

    /// The root of everything so far; hashing may go on afterwards.
    pub(crate) fn finish(&self) -> Tree {
        if self.closed.count == 0 {
            return Tree { root: Root(*self.group.finalize().as_bytes()), last: None };
        }
        let last = self.group.finalize_non_root();
        let mut all = self.closed.clone();
        all.push(last);
        Tree { root: all.root().expect("at least two groups have a root"), last: Some(last) }
    }
}

/// Whether `list` is the group list of the blob `root` of `size` bytes.
pub(crate) fn list_matches(root: &Root, size: u64, list: &[u8]) -> bool {
    if list.len() as u64 != list_len(size) {
        return false;
    }
    if list.is_empty() {
        return true;
    }
    let mut merger = Merger::default();
    for value in list.chunks_exact(GROUP_VALUE as usize) {
        merger.push(value.try_into().expect("chunks of the value's length"));
    }
    merger.root().as_ref() == Some(root)
}

/// Whether `bytes` are group `index` of the blob `root`, whose list is `list` (checked before).
pub(crate) fn group_matches(root: &Root, list: &Bytes, index: u64, bytes: &[u8]) -> bool {
    if list.is_empty() {
        return index == 0 && root_of(bytes) == *root;
    }
    let at = (index * GROUP_VALUE) as usize;
    let mut hasher = Hasher::new();
    hasher.set_input_offset(index * GROUP).update(bytes);
    list.get(at..at + GROUP_VALUE as usize) == Some(hasher.finalize_non_root().as_slice())
}

/// A blob's group list, checked against its root: what tells for bytes from elsewhere, group by group,
/// whether they are the blob's.
#[derive(Clone, Debug)]
pub struct Groups {
    root: Root,
    list: Bytes,
}

impl Groups {
    /// Checks a list as a whole; `None` if it is not that of the blob `root` of `size` bytes.
    pub fn new(root: Root, size: u64, list: Bytes) -> Option<Groups> {
        list_matches(&root, size, &list).then_some(Groups { root, list })
    }

    /// Whether `bytes` are the blob's from `start`, which begins a group, to the end of a group.
    pub fn matches(&self, start: u64, bytes: &[u8]) -> bool {
        let groups = (start / GROUP..).zip(bytes.chunks(GROUP as usize));
        start.is_multiple_of(GROUP)
            && groups.into_iter().all(|(index, group)| group_matches(&self.root, &self.list, index, group))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(len: usize) -> Vec<u8> {
        (0..len as u64).map(|i| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect()
    }

    fn hash(bytes: &[u8], step: usize) -> (Root, Vec<u8>) {
        let mut hasher = TreeHasher::new();
        let mut list = Vec::new();
        bytes.chunks(step).for_each(|piece| hasher.update(piece, &mut list));
        let tree = hasher.finish();
        list.extend_from_slice(tree.last.as_ref().map_or(&[], |value| value.as_slice()));
        (tree.root, list)
    }

    #[test]
    fn roots_are_plain_blake3_at_every_boundary() {
        const G: usize = GROUP as usize;
        let sizes = [
            (0, "empty input"),
            (1, "a chunk's beginning"),
            (1023, "just under a BLAKE3 chunk"),
            (1024, "one chunk"),
            (1025, "two chunks"),
            (G - 1, "just under a group"),
            (G, "exactly one group: still the plain hash, no list"),
            (G + 1, "the shortest second group"),
            (2 * G, "two full groups: one merge, which is the root"),
            (2 * G + 1, "an unbalanced tree"),
            (3 * G, "left subtree of two, right of one"),
            (4 * G, "a complete tree"),
            (5 * G + 1, "six groups, the last of one byte"),
            (7 * G + 1000, "all levels unbalanced"),
            (8 * G, "a complete tree of three levels"),
            (9 * G - 1, "nine groups, the last one byte short"),
        ];
        for (size, why) in sizes {
            let bytes = content(size);
            let expected = root_of(&bytes);
            for step in [1021, 4096, G - 1, G, G + 1, 3 * G] {
                let (root, list) = hash(&bytes, step);
                assert_eq!(root, expected, "{size} in steps of {step}: {why}");
                assert!(list_matches(&root, size as u64, &list), "{size}: {why}");
                let list = Bytes::from(list);
                for (index, group) in bytes.chunks(G).enumerate() {
                    assert!(group_matches(&root, &list, index as u64, group), "{size}/{index}: {why}");
                }
            }
        }
    }

    #[test]
    fn a_list_of_other_groups_order_or_length_is_refused() {
        let bytes = content(5 * GROUP as usize + 7);
        let (root, list) = hash(&bytes, 1 << 20);
        let size = bytes.len() as u64;
        let mut flipped = list.clone();
        flipped[70] ^= 1;
        let mut swapped = list.clone();
        swapped[..64].rotate_left(32);
        for bad in [&flipped, &swapped, &list[32..].to_vec(), &list[..list.len() - 32].to_vec(), &vec![]] {
            assert!(!list_matches(&root, size, bad));
        }
        let list = Bytes::from(list);
        let second = &bytes[GROUP as usize..2 * GROUP as usize];
        assert!(!group_matches(&root, &list, 0, second), "a group proves its place too");
        assert!(!group_matches(&root, &list, 6, second), "beyond the list");
    }
}
