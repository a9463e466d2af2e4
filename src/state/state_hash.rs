//! The hash by which nodes compare their states.

use serde::{Deserialize, Serialize};

use crate::record::record;

/// A sum over all pairs of the state: four 64-bit lanes of each pair's BLAKE3 hash, added with wrapping.
/// A sum does not depend on order, so a batch edge cannot show in it, and it takes a change at the cost
/// of the change. It finds divergence by fault, not by forgery.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StateHash([u64; 4]);
record!(StateHash, 0x0005, "state hash");

impl StateHash {
    pub(crate) fn add(&mut self, key: &[u8], value: &[u8]) {
        for (lane, part) in self.0.iter_mut().zip(lanes(key, value)) {
            *lane = lane.wrapping_add(part);
        }
    }

    pub(crate) fn remove(&mut self, key: &[u8], value: &[u8]) {
        for (lane, part) in self.0.iter_mut().zip(lanes(key, value)) {
            *lane = lane.wrapping_sub(part);
        }
    }

    pub(crate) fn bytes(&self) -> [u8; 32] {
        let mut out = [0; 32];
        for (place, lane) in out.chunks_exact_mut(8).zip(self.0) {
            place.copy_from_slice(&lane.to_be_bytes());
        }
        out
    }
}

fn lanes(key: &[u8], value: &[u8]) -> [u64; 4] {
    let mut hasher = blake3::Hasher::new();
    let length = u64::try_from(key.len()).expect("a length fits 64 bits");
    hasher.update(&length.to_be_bytes()).update(key).update(value);
    let hash = hasher.finalize();
    let mut out = [0; 4];
    for (lane, part) in out.iter_mut().zip(hash.as_bytes().chunks_exact(8)) {
        *lane = part.iter().fold(0, |sum, byte| (sum << 8) | u64::from(*byte));
    }
    out
}
