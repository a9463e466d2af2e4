//! Pulling: what is here is served at once; what is elsewhere is fetched while it is served.

use std::ops::Range;

use bytes::{Bytes, BytesMut};
use clawhub_auth::Permit;
use clawhub_blobs::Blob;
use clawhub_state::artifact::{BodyRef, ManifestRecord};
use clawhub_state::blob::{BlobCmd, LinkRecord};
use clawhub_state::{Command, View};
use clawhub_types::{Digest, Reference, RepoName, Root};
use futures::StreamExt;

use crate::error::RETRY;
use crate::source::Source;
use crate::{Access, BlobView, Error, Freshness, MAX_MANIFEST, ManifestView, Registry, What};

/// A lease is renewed by HEAD once less than this is left of it: half of its 24 hours.
const HALF_LIFE_MS: u64 = 12 * 60 * 60 * 1000;

impl Registry {
    /// A manifest by tag or digest. HEAD (`with_bytes` false) and tags are linearizable; a GET by digest
    /// of something this node knows needs no barrier.
    ///
    /// # Errors
    /// `MANIFEST_UNKNOWN`, only after a barrier; 503.
    pub async fn manifest(
        &self,
        _permit: &Permit,
        repo: &RepoName,
        reference: &Reference,
        with_bytes: bool,
    ) -> Result<ManifestView, Error> {
        let by_digest = matches!(reference, Reference::Digest(_)) && with_bytes;
        if by_digest && let Some((digest, record)) = self.find_manifest(repo, reference)? {
            let fresh = self.by_digest()?;
            return self.manifest_view(repo, digest, record, with_bytes, fresh).await;
        }
        self.barrier().await?;
        let found = self.find_manifest(repo, reference)?;
        let (digest, record) =
            found.ok_or_else(|| Error::not_found(What::Manifest, "the manifest is unknown"))?;
        self.manifest_view(repo, digest, record, with_bytes, Freshness::Linearizable).await
    }

    /// A blob that the repository links.
    ///
    /// # Errors
    /// `BLOB_UNKNOWN`, only after a barrier; 503 if every holder is away.
    pub async fn blob(
        &self,
        permit: &Permit,
        repo: &RepoName,
        digest: &Digest,
        access: Access,
    ) -> Result<BlobView, Error> {
        if access == Access::Read
            && let Some(link) = self.find_link(repo, digest)?
            && let Some(blob) = self.open_local(&link.root).await?
        {
            return Ok(self.local_view(digest, &link, blob, self.by_digest()?));
        }
        self.barrier().await?;
        let unknown = || Error::not_found(What::Blob(Some(digest.clone())), "the blob is unknown");
        let link = self.find_link(repo, digest)?.ok_or_else(unknown)?;
        if access == Access::Stat {
            self.renew(permit, repo, digest, &link).await?;
            return Ok(BlobView::stat(digest.clone(), link.size, Freshness::Linearizable));
        }
        if let Some(blob) = self.open_local(&link.root).await? {
            return Ok(self.local_view(digest, &link, blob, Freshness::Linearizable));
        }
        let source = self.elsewhere(&link.root).await?;
        if let Source::Here(blob) = source {
            return Ok(self.local_view(digest, &link, blob, Freshness::Linearizable));
        }
        let registry = self.clone();
        let read = move |range: Range<u64>| registry.read(&source, range);
        Ok(BlobView::readable(digest.clone(), link.size, Freshness::Linearizable, read))
    }

    /// All bytes of a small blob: a manifest too large for the log.
    pub(crate) async fn small_blob(&self, root: &Root, size: u64) -> Result<Bytes, Error> {
        if size > MAX_MANIFEST as u64 {
            return Err(Error::internal("a manifest record names a blob over the limit"));
        }
        let source = match self.open_local(root).await? {
            Some(blob) => Source::Here(blob),
            None => self.elsewhere(root).await?,
        };
        let mut pieces = self.read(&source, 0..size);
        let mut bytes = BytesMut::new();
        while let Some(piece) = pieces.next().await {
            bytes.extend_from_slice(&piece?);
        }
        Ok(bytes.freeze())
    }

    /// A copy here, with its file if the whole of it may be sent straight from there.
    fn local_view(&self, digest: &Digest, link: &LinkRecord, blob: Blob, fresh: Freshness) -> BlobView {
        let file = blob.straight(0..link.size);
        let registry = self.clone();
        let read = move |range: Range<u64>| registry.read_here(&blob, range);
        let view = BlobView::readable(digest.clone(), link.size, fresh, read);
        match file {
            Some(file) => view.with_local_file(file),
            None => view,
        }
    }

    fn find_manifest(
        &self,
        repo: &RepoName,
        reference: &Reference,
    ) -> Result<Option<(Digest, ManifestRecord)>, Error> {
        let state = self.state();
        let view = View::new(&*state);
        let Some(repo) = view.project().repo(repo)? else { return Ok(None) };
        let digest = match reference {
            Reference::Digest(digest) => digest.clone(),
            Reference::Tag(tag) => match view.artifact().tag(&repo, tag)? {
                Some(record) => record.digest,
                None => return Ok(None),
            },
        };
        Ok(view.artifact().manifest(&repo, &digest)?.map(|record| (digest, record)))
    }

    async fn manifest_view(
        &self,
        repo: &RepoName,
        digest: Digest,
        record: ManifestRecord,
        with_bytes: bool,
        fresh: Freshness,
    ) -> Result<ManifestView, Error> {
        let bytes = match with_bytes {
            true => Some(self.manifest_bytes(repo, &digest, &record).await?),
            false => None,
        };
        Ok(ManifestView {
            digest,
            media_type: record.facts.media_type,
            size: record.facts.size,
            bytes,
            fresh,
        })
    }

    /// The bytes of a manifest, from the state or from the blob stores.
    pub(crate) async fn manifest_bytes(
        &self,
        repo: &RepoName,
        digest: &Digest,
        record: &ManifestRecord,
    ) -> Result<Bytes, Error> {
        match &record.body {
            BodyRef::Stored(root) => self.small_blob(root, record.facts.size).await,
            BodyRef::Inline => {
                let state = self.state();
                let view = View::new(&*state);
                let bytes = match view.project().repo(repo)? {
                    Some(repo) => view.artifact().manifest_bytes(&repo, digest)?,
                    None => None,
                };
                // Deleted between two reads.
                let gone = || Error::not_found(What::Manifest, "the manifest is unknown");
                bytes.map(Bytes::from).ok_or_else(gone)
            }
        }
    }

    fn find_link(&self, repo: &RepoName, digest: &Digest) -> Result<Option<LinkRecord>, Error> {
        let state = self.state();
        let view = View::new(&*state);
        match view.project().repo(repo)? {
            Some(repo) => Ok(view.blob().link(&repo, digest)?),
            None => Ok(None),
        }
    }

    /// A HEAD that says 200 promises that a push may go on to rely on the blob.
    async fn renew(
        &self,
        permit: &Permit,
        repo: &RepoName,
        digest: &Digest,
        link: &LinkRecord,
    ) -> Result<(), Error> {
        let state = self.state();
        let tick = View::new(&*state).cluster().tick()?;
        if link.lease_until.is_none_or(|until| until > tick.saturating_add(HALF_LIFE_MS)) {
            return Ok(());
        }
        let cmd = BlobCmd::Renew { repo: repo.clone(), digest: digest.clone() };
        self.propose(permit, Command::Blob(cmd)).await?;
        Ok(())
    }

    /// How current an answer without a barrier is; refused once this node has been cut off for too long.
    fn by_digest(&self) -> Result<Freshness, Error> {
        let status = self.inner.consensus.status();
        let index = status.applied;
        match status.cut_off {
            None => Ok(Freshness::ByDigest { index }),
            Some(age) if age <= self.inner.limits.cut_off => Ok(Freshness::CutOff { index, age }),
            Some(_) => {
                Err(Error::unavailable(RETRY, "this node has been cut off from the cluster for too long"))
            }
        }
    }
}
