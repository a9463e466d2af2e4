//! Bytes that look random, can be made anywhere in a stream of any length, and can be checked on the
//! way out without keeping them.

use bytes::{Bytes, BytesMut};
use clawhub_types::Digest;
use futures::Stream;
use sha2::{Digest as _, Sha256, Sha512};

/// A small, fast, seeded generator (SplitMix64): the same seed gives the same run on every machine.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// A generator for `seed`.
    pub fn new(seed: u64) -> Self {
        Rng(seed)
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(GAMMA);
        mix(self.0)
    }

    /// A number below `bound`; 0 if `bound` is 0.
    pub fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next_u64() % (bound.max(1) as u64)).unwrap_or(0)
    }

    /// One of `items`, which must not be empty.
    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len())]
    }

    /// `len` bytes.
    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut out = Vec::with_capacity(len + 8);
        while out.len() < len {
            out.extend_from_slice(&self.next_u64().to_le_bytes());
        }
        out.truncate(len);
        out
    }
}

const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A blob of `len` bytes that exists only as its seed.
#[derive(Clone, Copy, Debug)]
pub struct Content {
    /// Which bytes.
    pub seed: u64,
    /// How many.
    pub len: u64,
}

/// The piece that a stream of content comes in.
const PIECE: u64 = 1 << 20;

impl Content {
    /// The bytes from `start`, which must be a multiple of 8, up to `len` of them.
    pub fn at(&self, start: u64, len: u64) -> Bytes {
        let len = len.min(self.len.saturating_sub(start));
        let mut out = BytesMut::with_capacity(usize::try_from(len).unwrap_or(0) + 8);
        let mut word = start / 8;
        while (out.len() as u64) < len {
            let bits = mix(self.seed.wrapping_add(word.wrapping_mul(GAMMA)));
            out.extend_from_slice(&bits.to_le_bytes());
            word += 1;
        }
        out.truncate(usize::try_from(len).unwrap_or(0));
        out.freeze()
    }

    /// All of it in memory.
    pub fn bytes(&self) -> Bytes {
        self.at(0, self.len)
    }

    /// All of it, a piece at a time.
    pub fn pieces(self) -> impl Iterator<Item = Bytes> + Send {
        (0..self.len.div_ceil(PIECE)).map(move |i| self.at(i * PIECE, PIECE))
    }

    /// All of it as a request body.
    pub fn stream(self) -> impl Stream<Item = Result<Bytes, std::io::Error>> + Send {
        futures::stream::iter(self.pieces().map(Ok))
    }

    /// Its SHA-256 digest, without holding it.
    pub fn digest(self) -> Digest {
        let mut hash = Sha256::new();
        self.pieces().for_each(|piece| hash.update(&piece));
        Digest::Sha256(hash.finalize().into())
    }
}

/// The SHA-256 digest of `bytes`.
pub fn sha256(bytes: &[u8]) -> Digest {
    Digest::Sha256(Sha256::digest(bytes).into())
}

/// The SHA-512 digest of `bytes`.
pub fn sha512(bytes: &[u8]) -> Digest {
    Digest::Sha512(Sha512::digest(bytes).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_is_the_same_whole_and_in_pieces() {
        let content = Content { seed: 7, len: 2 * PIECE + 13 };
        let joined: Vec<u8> = content.pieces().flat_map(|p| p.to_vec()).collect();
        assert_eq!(joined, content.bytes());
        assert_eq!(content.digest(), sha256(&joined));
        assert_eq!(content.at(PIECE + 8, 100), joined[PIECE as usize + 8..][..100]);
        assert_ne!(content.at(0, 64), Content { seed: 8, ..content }.at(0, 64));
    }
}
