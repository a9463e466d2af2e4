//! Receipts and digests of blobs.

use bytes::Bytes;
use clawhub_types::{Digests, NodeId, Receipt, Root};

use crate::{Invalid, array, blob, required};

impl From<&Digests> for blob::Digests {
    fn from(digests: &Digests) -> Self {
        let sha512 = digests.sha512.map_or_else(Bytes::new, |hash| Bytes::copy_from_slice(&hash));
        blob::Digests { sha256: Bytes::copy_from_slice(&digests.sha256), sha512 }
    }
}

impl TryFrom<blob::Digests> for Digests {
    type Error = Invalid;

    fn try_from(digests: blob::Digests) -> Result<Self, Invalid> {
        let sha512 = match digests.sha512.as_ref() {
            [] => None,
            hash => Some(array("sha512", hash)?),
        };
        Ok(Digests { sha256: array("sha256", &digests.sha256)?, sha512 })
    }
}

impl From<&Receipt> for blob::Receipt {
    fn from(receipt: &Receipt) -> Self {
        blob::Receipt {
            node: receipt.node.0,
            epoch: receipt.epoch,
            generation: receipt.generation,
            digests: Some((&receipt.digests).into()),
            root: Bytes::copy_from_slice(&receipt.root.0),
            size: receipt.size,
        }
    }
}

impl TryFrom<blob::Receipt> for Receipt {
    type Error = Invalid;

    fn try_from(receipt: blob::Receipt) -> Result<Self, Invalid> {
        Ok(Receipt {
            node: NodeId(receipt.node),
            epoch: receipt.epoch,
            generation: receipt.generation,
            digests: required("digests", receipt.digests)?.try_into()?,
            root: Root(array("root", &receipt.root)?),
            size: receipt.size,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn receipts_round_trip() {
        for sha512 in [None, Some([9; 64])] {
            let digests = Digests { sha256: [1; 32], sha512 };
            let receipt = Receipt {
                node: NodeId(3),
                epoch: 4,
                generation: 5,
                digests,
                root: Root([7; 32]),
                size: 1 << 40,
            };
            assert_eq!(Receipt::try_from(blob::Receipt::from(&receipt)), Ok(receipt));
        }
    }

    #[test]
    fn short_hashes_are_refused() {
        let digests = blob::Digests { sha256: Bytes::from_static(&[1; 31]), sha512: Bytes::new() };
        assert!(Digests::try_from(digests).is_err());
    }
}
