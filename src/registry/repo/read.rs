//! Reading manifests and blobs: what is here is served at once, what is elsewhere is fetched while it is served.
//! "Unknown" is said only of a snapshot that was taken after a barrier.

use bytes::Bytes;
use clawhub_state::Command;
use clawhub_state::artifact::{BodyRef, ManifestRecord};
use clawhub_state::blob::{BlobCmd, LinkRecord};
use clawhub_types::{Digest, Reference, Root};

use super::Reader;
use crate::source::{Source, Sources};
use crate::{BlobView, Error, Freshness, Intent, ManifestBody, ManifestView, What};

/// A lease is renewed by HEAD once less than this is left of it: half of its 24 hours.
const HALF_LIFE_MS: u64 = 12 * 60 * 60 * 1000;

/// A manifest as one snapshot has it.
struct Found {
    digest: Digest,
    record: ManifestRecord,
    /// The bytes, if they were asked for and travelled in the log.
    inline: Option<Bytes>,
}

impl Reader {
    /// A manifest by tag or digest. HEAD (`with_bytes` false) and tags are linearizable; a GET by digest
    /// of something this node knows needs no barrier.
    ///
    /// # Errors
    /// [`What::Manifest`] is unknown, said only after a barrier; HEAD says so too of one whose bytes are in no
    /// blob store any more, so that it is pushed again. Unavailable.
    pub async fn manifest(self, reference: &Reference, with_bytes: bool) -> Result<ManifestView, Error> {
        if matches!(reference, Reference::Digest(_))
            && with_bytes
            && let Some(found) = self.find(reference, with_bytes)?
        {
            return self.shown(found, with_bytes).await;
        }
        let latest = self.latest().await?;
        let named = match reference {
            Reference::Digest(digest) => Some(digest.clone()),
            Reference::Tag(_) => None,
        };
        let unknown = || Error::not_found(What::Manifest(named), "the manifest is unknown");
        let Some(found) = latest.find(reference, with_bytes)? else { return Err(unknown()) };
        match found.record.body {
            BodyRef::Stored(root) if !with_bytes && latest.is_lost(&root)? => Err(unknown()),
            _ => latest.shown(found, with_bytes).await,
        }
    }

    /// A blob that the repository links.
    ///
    /// # Errors
    /// [`What::Blob`] is unknown, said only after a barrier; unavailable if every holder is away.
    pub async fn blob(self, digest: &Digest, intent: Intent) -> Result<BlobView, Error> {
        // What is here needs no barrier to be read: content never changes.
        let found = match intent {
            Intent::Read => self.link(digest)?,
            Intent::Stat | Intent::Revalidate => None,
        };
        let fresh = self.at.freshness();
        let sources = self.sources().clone();
        // Opening waits for the device.
        let absent = self.let_go();
        if let Some(link) = found
            && let Some(blob) = sources.open_local(&link.root).await?
        {
            return Ok(sources.local_view(digest, &link, blob, fresh?));
        }
        let latest = absent.latest().await?;
        let unknown = || Error::not_found(What::Blob(Some(digest.clone())), "the blob is unknown");
        let link = latest.link(digest)?.ok_or_else(unknown)?;
        match intent {
            Intent::Stat if latest.is_lost(&link.root)? => return Err(unknown()),
            Intent::Stat => {
                latest.renew(digest, &link).await?;
                return Ok(BlobView::stat(digest.clone(), link.size, Freshness::Linearizable));
            }
            Intent::Revalidate => {
                return Ok(BlobView::stat(digest.clone(), link.size, Freshness::Linearizable));
            }
            Intent::Read => {}
        }
        // Bytes may move from here on.
        drop(latest);
        if let Some(blob) = sources.open_local(&link.root).await? {
            return Ok(sources.local_view(digest, &link, blob, Freshness::Linearizable));
        }
        match sources.elsewhere(&link.root).await? {
            Source::Here(blob) => Ok(sources.local_view(digest, &link, blob, Freshness::Linearizable)),
            source => Ok(sources.read_view(digest, link.size, source, Freshness::Linearizable)),
        }
    }

    pub(super) fn sources(&self) -> &Sources {
        &self.at.use_cases.sources
    }

    /// Tag, manifest and bytes, all from this snapshot.
    fn find(&self, reference: &Reference, with_bytes: bool) -> Result<Option<Found>, Error> {
        let view = self.at.view();
        let Some(repo) = view.project().repo(self.permit.on())? else { return Ok(None) };
        let digest = match reference {
            Reference::Digest(digest) => digest.clone(),
            Reference::Tag(tag) => match view.artifact().tag(&repo, tag)? {
                Some(record) => record.digest,
                None => return Ok(None),
            },
        };
        let Some(record) = view.artifact().manifest(&repo, &digest)? else { return Ok(None) };
        let inline = match record.body {
            BodyRef::Inline if with_bytes => view.artifact().manifest_bytes(&repo, &digest)?.map(Bytes::from),
            BodyRef::Inline | BodyRef::Stored(_) => None,
        };
        Ok(Some(Found { digest, record, inline }))
    }

    async fn shown(self, found: Found, with_bytes: bool) -> Result<ManifestView, Error> {
        let Found { digest, record, inline } = found;
        let fresh = self.at.freshness()?;
        let body = match (with_bytes, inline, &record.body) {
            (false, ..) => None,
            (true, Some(bytes), _) => Some(ManifestBody::Whole(bytes)),
            (true, None, BodyRef::Stored(root)) => {
                let sources = self.sources().clone();
                drop(self);
                let view = sources.view(&digest, root, record.facts.size, fresh).await?;
                Some(ManifestBody::Stored(view))
            }
            (true, None, BodyRef::Inline) => {
                tracing::error!(%digest, "a manifest has a record and no bytes");
                return Err(Error::internal("the manifest's bytes are missing"));
            }
        };
        Ok(ManifestView { digest, media_type: record.facts.media_type, size: record.facts.size, body, fresh })
    }

    fn link(&self, digest: &Digest) -> Result<Option<LinkRecord>, Error> {
        let view = self.at.view();
        match view.project().repo(self.permit.on())? {
            Some(repo) => Ok(view.blob().link(&repo, digest)?),
            None => Ok(None),
        }
    }

    /// Whether no member has a copy any more. A read of it waits for one to come back; who would push it need not.
    fn is_lost(&self, root: &Root) -> Result<bool, Error> {
        Ok(self.at.view().blob().root(root)?.is_none_or(|record| record.holders.is_empty()))
    }

    /// A HEAD that says 200 promises that a push may go on to rely on the blob. The right to read is enough for
    /// that, and the command names the permit's repository, as the guard asks.
    async fn renew(self, digest: &Digest, link: &LinkRecord) -> Result<(), Error> {
        let tick = self.at.view().cluster().tick()?;
        if link.lease_until.is_none_or(|until| until > tick.saturating_add(HALF_LIFE_MS)) {
            return Ok(());
        }
        let Reader { at, permit } = self;
        let use_cases = at.use_cases.clone();
        drop(at);
        let cmd = BlobCmd::Renew { repo: permit.on().clone(), digest: digest.clone() };
        use_cases.core.propose(&permit, None, Command::Blob(cmd)).await??;
        Ok(())
    }
}
