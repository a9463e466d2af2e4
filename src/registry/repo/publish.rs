//! Storing manifests and moving tags to them.
//!
//! The facts are extracted here and travel in the entry with the bytes; bytes that are too many for the log are
//! stored like a blob first. Where apply finds references short of copies, copies are made and the entry is
//! proposed again.

use std::time::Duration;

use clawhub_auth::Push;
use clawhub_state::artifact::{ArtifactCmd, ArtifactReply, Body, ManifestFacts};
use clawhub_state::blob::StoredBytes;
use clawhub_state::{Command, Reply};
use clawhub_types::{Algorithm, Digest, Digests, Reference};
use futures::stream;
use sha2::Digest as _;

use super::Repo;
use crate::copies::Wish;
use crate::manifest::{MAX_MANIFEST, facts};
use crate::{Chunk, Error, Invalid, Kind, PutManifest, PutView};

/// Manifests up to this many bytes travel in the log, so that every node can serve them at once.
const INLINE: usize = 64 * 1024;
/// Room left for facts and tags beside the bytes in an entry of at most 128 KiB.
const INLINE_FACTS: usize = 56 * 1024;
/// How long copies of one manifest's blobs may take before the answer is 503.
const COPIES: Duration = Duration::from_secs(60);

impl Repo<Push> {
    /// Stores a manifest, and moves the tags asked for to it, all or nothing.
    ///
    /// # Errors
    /// [`Kind::TooLarge`], [`Invalid::Manifest`], [`Invalid::Digest`], [`Kind::MissingReferences`], a
    /// precondition; unavailable.
    pub async fn put_manifest(&self, reference: &Reference, put: PutManifest) -> Result<PutView, Error> {
        if put.bytes.len() > MAX_MANIFEST {
            return Err(Error::new(Kind::TooLarge, format!("a manifest has at most {MAX_MANIFEST} bytes")));
        }
        let facts = facts(put.content_type.as_deref(), &put.bytes)?;
        let digest = self.manifest_digest(reference, &put.bytes)?;
        let mut tags = put.tags.clone();
        if let Reference::Tag(tag) = reference {
            tags.push(tag.clone());
        }
        let subject = facts.subject.clone();
        let body = self.manifest_body(&digest, &facts, &put).await?;
        let condition = put.condition;
        let repo = self.name().clone();
        let cmd = Command::Artifact(ArtifactCmd::Put { repo, digest, facts, body, tags, condition });
        let short = "the manifest's blobs have too few copies and no more could be made";
        let wish = Wish { permit: &self.permit, source: None, limit: COPIES, short };
        let (digest, mut tags) = match self.use_cases.copies.commit_with_copies(&wish, &cmd).await?? {
            Reply::Artifact(ArtifactReply::Stored { digest, tags }) => (digest, tags),
            other => return Err(Error::internal(format!("an unexpected answer: {other:?}"))),
        };
        // The answer lists what was asked for beside the reference.
        tags.retain(|tag| put.tags.contains(tag));
        Ok(PutView { digest, subject, tags })
    }

    /// The digest to store the manifest under: the one it is pushed by, once it matches, or its SHA-256.
    fn manifest_digest(&self, reference: &Reference, bytes: &[u8]) -> Result<Digest, Error> {
        let Reference::Digest(claimed) = reference else { return Ok(hash(Algorithm::Sha256, bytes)) };
        let actual = hash(claimed.algorithm(), bytes);
        if actual == *claimed {
            return Ok(actual);
        }
        Err(Error::invalid(Invalid::Digest, format!("the manifest's digest is {actual}")))
    }

    /// In the entry if it is small enough, else in the blob stores of as many nodes as the policy asks.
    async fn manifest_body(
        &self,
        digest: &Digest,
        facts: &ManifestFacts,
        put: &PutManifest,
    ) -> Result<Body, Error> {
        let copies = &self.use_cases.copies;
        let core = &self.use_cases.core;
        let (policy, layout) = core.placement(self.name())?;
        // Every member has the log, and what is confined may not be on every member.
        if put.bytes.len() <= INLINE && facts_size(facts) <= INLINE_FACTS && !policy.confined {
            return Ok(Body::Inline(put.bytes.to_vec()));
        }
        let root = clawhub_blobs::root_of(&put.bytes);
        tracing::debug!(%digest, %root, "a manifest too large for the log goes to the blob stores");
        let receipts = if layout.node(core.me()).is_some_and(|me| policy.admits(me)) {
            let receipt = core.blobs().replicas().put(put.bytes.clone(), copies.generation(&root)?).await?;
            copies.enough(self.name(), vec![receipt]).await?
        } else {
            // What may not stay here goes the way of every blob; the state knows the holders then.
            let length = put.bytes.len() as u64;
            let bytes = put.bytes.clone();
            let body = Box::pin(stream::once(async { Ok(bytes) }));
            let chunk = Chunk { range: None, length: Some(length), body };
            self.use_cases.uploads.store(&self.permit, digest, chunk).await?;
            Vec::new()
        };
        let digests = Digests {
            sha256: sha2::Sha256::digest(&put.bytes).into(),
            sha512: match digest {
                Digest::Sha512(hash) => Some(*hash),
                Digest::Sha256(_) => None,
            },
        };
        Ok(Body::Stored(StoredBytes { root, digests, receipts }))
    }
}

fn hash(algorithm: Algorithm, bytes: &[u8]) -> Digest {
    match algorithm {
        Algorithm::Sha256 => Digest::Sha256(sha2::Sha256::digest(bytes).into()),
        Algorithm::Sha512 => Digest::Sha512(sha2::Sha512::digest(bytes).into()),
    }
}

/// An upper bound of what the facts take in an entry.
fn facts_size(facts: &ManifestFacts) -> usize {
    let annotations: usize = facts.annotations.iter().flatten().map(|(k, v)| k.len() + v.len() + 8).sum();
    facts.refs.len() * 70 + annotations + 1024
}
