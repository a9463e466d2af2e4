//! Manifests and tags: stored, moved and deleted.

use std::time::Duration;

use clawhub_auth::Permit;
use clawhub_consensus::ProposeError;
use clawhub_state::artifact::{ArtifactCmd, ArtifactRejected, ArtifactReply, Body, Condition, ManifestFacts};
use clawhub_state::blob::{BlobRejected, StoredBytes};
use clawhub_state::project::ProjectRejected;
use clawhub_state::{Command, Rejected, Reply};
use clawhub_types::{Algorithm, Digest, Digests, Reference, RepoName};
use futures::stream;
use sha2::Digest as _;

use crate::error::RETRY;
use crate::manifest::{MAX_MANIFEST, facts};
use crate::{Error, Invalid, Kind, PutManifest, PutView, Registry};

/// Manifests up to this many bytes travel in the log, so that every node can serve them at once.
const INLINE: usize = 64 * 1024;
/// Room left for facts and tags beside the bytes in an entry of at most 128 KiB.
const INLINE_FACTS: usize = 56 * 1024;
/// A manifest whose blobs are short of copies is proposed again so often.
const PUTS: usize = 3;
/// How long copies of one manifest's blobs may take before the answer is 503.
const COPIES: Duration = Duration::from_secs(60);

impl Registry {
    /// Stores a manifest, and moves the tags asked for to it, all or nothing.
    ///
    /// # Errors
    /// 413, `MANIFEST_INVALID`, `DIGEST_INVALID`, `MANIFEST_BLOB_UNKNOWN` with an entry per missing
    /// reference, 412, 503.
    pub async fn put_manifest(
        &self,
        permit: &Permit,
        repo: &RepoName,
        reference: &Reference,
        put: PutManifest,
    ) -> Result<PutView, Error> {
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
        let body = self.manifest_body(permit, repo, &digest, &facts, &put).await?;
        let condition = put.condition;
        let cmd = ArtifactCmd::Put { repo: repo.clone(), digest, facts, body, tags, condition };
        let (digest, mut tags) = self.store_manifest(permit, repo, cmd).await?;
        // The answer lists what was asked for beside the reference.
        tags.retain(|tag| put.tags.contains(tag));
        Ok(PutView { digest, subject, tags })
    }

    /// Deletes a tag, or a manifest with every tag on it.
    ///
    /// # Errors
    /// `MANIFEST_UNKNOWN`, 412, 503. `UNSUPPORTED` for a condition on a digest.
    pub async fn delete_manifest(
        &self,
        permit: &Permit,
        repo: &RepoName,
        reference: &Reference,
        condition: Condition,
    ) -> Result<(), Error> {
        let cmd = match reference {
            Reference::Tag(tag) => ArtifactCmd::Untag { repo: repo.clone(), tag: tag.clone(), condition },
            Reference::Digest(digest) => ArtifactCmd::Delete { repo: repo.clone(), digest: digest.clone() },
        };
        match self.propose(permit, Command::Artifact(cmd)).await {
            Ok(_) => Ok(()),
            Err(ProposeError::Rejected(Rejected::Project(ProjectRejected::NameUnknown))) => {
                Err(Rejected::from(ArtifactRejected::ManifestUnknown).into())
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn store_manifest(
        &self,
        permit: &Permit,
        repo: &RepoName,
        cmd: ArtifactCmd,
    ) -> Result<(Digest, Vec<clawhub_types::Tag>), Error> {
        let short = || {
            Error::unavailable(RETRY, "the manifest's blobs have too few copies and no more could be made")
        };
        for _ in 0..PUTS {
            match self.propose(permit, Command::Artifact(cmd.clone())).await {
                Ok(committed) => match committed.reply {
                    Reply::Artifact(ArtifactReply::Stored { digest, tags }) => return Ok((digest, tags)),
                    other => return Err(Error::internal(format!("an unexpected answer: {other:?}"))),
                },
                Err(ProposeError::Rejected(Rejected::Blob(BlobRejected::NeedCopies(roots)))) => {
                    let copies = tokio::time::timeout(COPIES, self.more_copies(repo, &roots)).await;
                    copies.map_err(|_| short())??;
                }
                Err(error) => return Err(error.into()),
            }
        }
        Err(short())
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
        permit: &Permit,
        repo: &RepoName,
        digest: &Digest,
        facts: &ManifestFacts,
        put: &PutManifest,
    ) -> Result<Body, Error> {
        let (policy, layout) = self.placement(repo)?;
        if put.bytes.len() <= INLINE && facts_size(facts) <= INLINE_FACTS && !policy.confined {
            return Ok(Body::Inline(put.bytes.to_vec()));
        }
        let root = clawhub_blobs::root_of(&put.bytes);
        tracing::debug!(%digest, %root, "a manifest too large for the log goes to the blob stores");
        let receipts = if layout.node(self.me()).is_some_and(|me| policy.admits(me)) {
            let receipt = self.blobs().replicas().put(put.bytes.clone(), self.generation(&root)?).await?;
            self.enough_copies(repo, vec![receipt]).await?
        } else {
            // What may not stay here goes the way of every blob; the state knows the holders then.
            let (length, bytes) = (put.bytes.len() as u64, put.bytes.clone());
            let body = Box::pin(stream::once(async { Ok(bytes) }));
            self.push_blob(permit, repo, digest, Some(length), body).await?;
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
