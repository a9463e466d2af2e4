//! Weighted rendezvous hashing without floats.
//!
//! Every candidate draws a number from the root and its own name; the best draw wins. A candidate that
//! comes or goes changes only the roots it wins or won, so nothing needs a table. The textbook score is
//! `weight / -ln(draw)`; here the logarithm is a fixed-point integer and the division a comparison of
//! products, so that every machine ranks alike.

use std::cmp::Ordering;

/// Fraction bits of the logarithm.
const FRACTION: u32 = 32;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Draw {
    /// `-log2` of the draw, as a fraction of 1, in fixed point. Smaller is better.
    cost: u64,
    /// The candidate's share. Not 0.
    weight: u64,
    /// The draw itself, to part equals.
    raw: u64,
}

impl Draw {
    /// The draw of `name` for `seed`. `kind` keeps the draws of different levels apart.
    pub(crate) fn new(seed: &[u8; 32], kind: u8, name: &[&[u8]], weight: u64) -> Draw {
        debug_assert!(weight > 0, "a candidate without weight is no candidate");
        let mut hasher = blake3::Hasher::new_keyed(seed);
        hasher.update(&[kind]);
        for part in name {
            // Labels contain no zero byte, so that parts cannot run into each other.
            hasher.update(part);
            hasher.update(&[0]);
        }
        let hash = hasher.finalize();
        let (first, _) = hash.as_bytes().split_first_chunk().expect("a hash is longer than 8 bytes");
        let raw = u64::from_be_bytes(*first);
        Draw { cost: cost(raw), weight, raw }
    }

    /// Best first.
    pub(crate) fn compare(&self, other: &Draw) -> Ordering {
        let mine = u128::from(self.cost) * u128::from(other.weight);
        let theirs = u128::from(other.cost) * u128::from(self.weight);
        mine.cmp(&theirs).then(other.raw.cmp(&self.raw))
    }
}

/// `64 - log2(raw)` in fixed point: what a draw of `raw / 2^64` costs. 0 counts as 1.
fn cost(raw: u64) -> u64 {
    let raw = raw.max(1);
    let whole = u64::from(raw.ilog2());
    // The mantissa, in [1, 2) with 63 fraction bits; each squaring yields one more bit of its logarithm.
    let mut mantissa = u128::from(raw << raw.leading_zeros());
    let mut fraction = 0_u64;
    for _ in 0..FRACTION {
        mantissa = (mantissa * mantissa) >> 63;
        fraction <<= 1;
        if mantissa >> 64 != 0 {
            mantissa >>= 1;
            fraction |= 1;
        }
    }
    (64 << FRACTION) - ((whole << FRACTION) | fraction)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seed(n: u64) -> [u8; 32] {
        *blake3::hash(&n.to_be_bytes()).as_bytes()
    }

    #[test]
    fn the_logarithm_is_exact_where_it_is_known() {
        for bit in 0..64 {
            assert_eq!(cost(1 << bit), (64 - u64::from(bit as u32)) << FRACTION, "2^{bit}");
        }
        assert_eq!(cost(0), cost(1));
        assert_eq!(cost(u64::MAX), 1, "the best draw costs least, but something");
        // log2(3) = 1.584962500721156…
        let three = (62 << FRACTION) + (1 << FRACTION) - 2_512_394_810;
        assert!(cost(3).abs_diff(three) <= 1, "{} {three}", cost(3));
        let mut last = u64::MAX;
        for n in 1..10_000 {
            assert!(cost(n) < last, "not falling at {n}");
            last = cost(n);
        }
    }

    #[test]
    fn shares_follow_weights() {
        const DRAWS: u64 = 20_000;
        let weights = [1_u64, 2, 5];
        let mut wins = [0_u64; 3];
        for n in 0..DRAWS {
            let draws: Vec<_> =
                (0_u8..).zip(weights).map(|(id, w)| (id, Draw::new(&seed(n), 0, &[&[id]], w))).collect();
            let best = draws.iter().min_by(|a, b| a.1.compare(&b.1)).unwrap();
            wins[usize::from(best.0)] += 1;
        }
        for (won, weight) in wins.into_iter().zip(weights) {
            let fair = DRAWS * weight / 8;
            assert!(won.abs_diff(fair) < DRAWS / 50, "weight {weight} won {won}, fair {fair}");
        }
    }

    /// Placement is part of the contract between versions: these numbers never change.
    #[test]
    fn draws_are_frozen() {
        let draw = Draw::new(&[7; 32], 2, &[b"eu", b"a"], 3);
        assert_eq!((draw.raw, draw.cost), FROZEN);
    }

    const FROZEN: (u64, u64) = (2_712_507_802_963_634_629, 11_878_449_336);
}
