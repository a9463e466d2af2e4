//! Content that several clients push, mount, reference and delete at the same time.
//!
//! It gives way to new content as the history grows: whatever a manifest references cannot be deleted, and in the
//! end that would be all of it.

use bytes::Bytes;
use clawhub_types::Digest;

use crate::content::{Rng, sha256, sha512};
use crate::manifest::CONFIG_BYTES;

/// Blobs of one generation.
const BLOBS: usize = 3;
/// A new generation comes after so many names.
const NAMES: usize = 50;
/// Manifests that others say something about. None of them is ever pushed.
const SUBJECTS: usize = 3;

/// A blob that everybody knows.
#[derive(Clone, Debug)]
pub(super) struct Blob {
    pub(super) digest: Digest,
    pub(super) bytes: Bytes,
}

impl Blob {
    /// By its SHA-256.
    pub(super) fn new(bytes: impl Into<Bytes>) -> Blob {
        let bytes = bytes.into();
        Blob { digest: sha256(&bytes), bytes }
    }

    /// The config of every image.
    pub(super) fn config() -> Blob {
        Blob::new(CONFIG_BYTES)
    }

    /// One of those that are shared while so many names are known. Each goes by one digest, so that two names of the
    /// same bytes do not stand for two things.
    pub(super) fn shared(names: usize, rng: &mut Rng) -> Blob {
        let number = BLOBS * (names / NAMES) + rng.below(BLOBS);
        let mut content = Rng::new(0x5a17 + number as u64);
        let len = 2000 + content.below(30_000);
        let bytes = Bytes::from(content.bytes(len));
        let digest = if number.is_multiple_of(BLOBS) { sha512(&bytes) } else { sha256(&bytes) };
        Blob { digest, bytes }
    }
}

/// What some manifests say something about.
pub(super) fn subject(rng: &mut Rng) -> Digest {
    sha256(format!("subject {}", rng.below(SUBJECTS)).as_bytes())
}

/// All of these.
pub(super) fn subjects() -> impl Iterator<Item = Digest> {
    (0..SUBJECTS).map(|number| sha256(format!("subject {number}").as_bytes()))
}
