//! Storing manifests and moving tags to them.
//!
//! The facts are extracted here and travel in the entry with the bytes; bytes that are too many for the log are
//! stored like a blob first, and references that are too many for an entry go before it in entries of their own. Where apply finds references short of copies, copies are made and the entry is
//! proposed again.

use std::time::Duration;

use clawhub_auth::Push;
use clawhub_state::artifact::{
    ArtifactCmd, ArtifactRejected, ArtifactReply, Body, BodyRef, ManifestFacts, Ref,
};
use clawhub_state::blob::StoredBytes;
use clawhub_state::{Command, Rejected, Reply, View};
use clawhub_types::{Algorithm, Digest, Digests, Reference};
use futures::stream;
use sha2::Digest as _;

use super::Repo;
use crate::copies::Wish;
use crate::error::RETRY;
use crate::manifest::{self, MAX_MANIFEST};
use crate::{Chunk, Error, Invalid, Kind, PutManifest, PutView};

/// Manifests up to this many bytes travel in the log, so that every node can serve them at once.
const INLINE: usize = 64 * 1024;
/// Room left for facts and tags beside the bytes in an entry of at most 128 KiB.
const INLINE_FACTS: usize = 56 * 1024;
/// How often the references of one push are staged.
const STAGED: usize = 3;
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
        let manifest::Read { facts, parts } = manifest::read(put.content_type.as_deref(), &put.bytes)?;
        let digest = self.manifest_digest(reference, &put.bytes)?;
        let mut tags = put.tags.clone();
        if let Reference::Tag(tag) = reference {
            tags.push(tag.clone());
        }
        let subject = facts.subject.clone();
        let body = self.manifest_body(&digest, &facts, &put).await?;
        let condition = put.condition;
        let repo = self.name().clone();
        let at = digest.clone();
        let cmd = Command::Artifact(ArtifactCmd::Put { repo, digest, facts, body, tags, condition });
        let short = "the manifest's blobs have too few copies and no more could be made";
        let wish = Wish { permit: &self.permit, source: None, limit: COPIES, short };
        let (digest, mut tags) = match self.commit(&wish, &cmd, &at, &parts).await? {
            Reply::Artifact(ArtifactReply::Stored { digest, tags }) => (digest, tags),
            other => return Err(Error::internal(format!("an unexpected answer: {other:?}"))),
        };
        // The answer lists what was asked for beside the reference.
        tags.retain(|tag| put.tags.contains(tag));
        Ok(PutView { digest, subject, tags })
    }

    /// Stages the references that do not fit the command's entry, in order, then proposes it. Parts that went
    /// meanwhile, with a deletion of the same manifest, are staged once more.
    async fn commit(
        &self,
        wish: &Wish<'_>,
        cmd: &Command,
        digest: &Digest,
        parts: &[Vec<Ref>],
    ) -> Result<Reply, Error> {
        for _ in 0..STAGED {
            for (part, refs) in (1..).zip(parts) {
                let repo = self.name().clone();
                let digest = digest.clone();
                let refs = refs.clone();
                let stage = ArtifactCmd::Stage { repo, digest, part, refs };
                self.use_cases.core.propose(&self.permit, None, Command::Artifact(stage)).await??;
            }
            match self.use_cases.copies.commit_with_copies(wish, cmd).await? {
                Err(Rejected::Artifact(ArtifactRejected::PartsMissing)) => {}
                outcome => return Ok(outcome?),
            }
        }
        Err(Error::unavailable(RETRY, "the manifest is deleted as often as it is pushed"))
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
        let fits = put.bytes.len() <= INLINE && facts_size(facts) <= INLINE_FACTS && !policy.confined;
        if fits && !self.is_stored(digest)? {
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

    /// Whether the manifest's bytes have their place in the blob stores. They keep it, and new copies of them may
    /// be what this push brings.
    fn is_stored(&self, digest: &Digest) -> Result<bool, Error> {
        let state = self.use_cases.core.snapshot();
        let view = View::new(&*state);
        let Some(repo) = view.project().repo(self.name())? else { return Ok(false) };
        let record = view.artifact().manifest(&repo, digest)?;
        Ok(record.is_some_and(|record| matches!(record.body, BodyRef::Stored(_))))
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
