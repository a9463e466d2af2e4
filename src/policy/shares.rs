//! How many of a node's places one address may have, for connections and handshakes of whoever comes.

/// So many times as many places as are free may one network have, so that a share shrinks only as places become
/// scarce (Choudhury and Hahne, "Dynamic Queue Length Thresholds", 1998). A proxy that is alone in front of a node
/// gets four fifths of all; whoever comes then gets four fifths of the rest.
const SHARE: usize = 4;

/// Whether a network that has so many places may have one more, while so many are free.
pub fn may_have_more(has: usize, free: usize) -> bool {
    may_have(has, 1, free)
}

/// Whether a network that has so much of something may have so much more, while so much is free.
pub fn may_have(has: usize, more: usize, free: usize) -> bool {
    has.saturating_add(more) <= free.saturating_mul(SHARE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_network_gets_most_and_leaves_some() {
        let mut free = 1024;
        let mut take_all = || {
            let mut has = 0;
            while may_have_more(has, free) {
                has += 1;
                free -= 1;
            }
            has
        };
        let had: Vec<_> = (0..6).map(|_| take_all()).collect();
        assert_eq!(had, [820, 164, 32, 7, 1, 0]);
    }

    #[test]
    fn large_parts_are_shared_like_places() {
        let (mut free, mut had) = (32 * 7, Vec::new());
        for _ in 0..4 {
            let mut has = 0;
            while free >= 7 && may_have(has, 7, free) {
                has += 7;
                free -= 7;
            }
            had.push(has / 7);
        }
        assert_eq!(had, [26, 5, 1, 0]);
        assert!(may_have(usize::MAX, usize::MAX, usize::MAX), "and nothing overflows");
    }
}
