//! Queries about manifests, tags and referrers.

use clawhub_types::{Digest, Tag};

use super::records::{ManifestRecord, TagChange, TagRecord};
use super::{Ref, RefKind, keys};
use crate::blob::BlobView;
use crate::fault::Fault;
use crate::key::Key;
use crate::project::RepoRef;
use crate::read::{Reader, Row, page};

/// What the state says of manifests, tags and referrers.
#[derive(Clone, Copy)]
pub struct ArtifactView<'a>(Reader<'a>);

impl<'a> From<Reader<'a>> for ArtifactView<'a> {
    fn from(read: Reader<'a>) -> Self {
        ArtifactView(read)
    }
}

impl ArtifactView<'_> {
    /// A manifest of a repository, by the digest it was pushed under.
    ///
    /// # Errors
    /// [`Fault`] if the state cannot be read; so for every query.
    pub fn manifest(&self, repo: &RepoRef, digest: &Digest) -> Result<Option<ManifestRecord>, Fault> {
        self.0.get(&keys::manifest(*repo, digest))
    }

    /// Whether a repository has what a manifest references, as far as it must: a manifest that references what it has
    /// not is refused at apply.
    ///
    /// # Errors
    /// [`Fault`] if the state cannot be read.
    pub fn satisfies(&self, repo: &RepoRef, reference: &Ref) -> Result<bool, Fault> {
        let Ref { digest, kind } = reference;
        Ok(match kind {
            RefKind::Optional => true,
            RefKind::Child if self.0.has(&keys::manifest(*repo, digest))? => true,
            RefKind::Child | RefKind::Blob => BlobView::from(self.0).link(repo, digest)?.is_some(),
        })
    }

    /// The bytes of a manifest that travelled in the log; `None` for one in the blob stores.
    ///
    /// # Errors
    /// [`Fault`] if the state cannot be read.
    pub fn manifest_bytes(&self, repo: &RepoRef, digest: &Digest) -> Result<Option<Vec<u8>>, Fault> {
        self.0.raw(&keys::inline(*repo, digest))
    }

    /// What a tag names.
    ///
    /// # Errors
    /// [`Fault`] if the state cannot be read.
    pub fn tag(&self, repo: &RepoRef, tag: &Tag) -> Result<Option<TagRecord>, Fault> {
        self.0.get(&keys::tag(*repo, tag.as_str()))
    }

    /// The last changes of a tag, newest first, at most `limit`; the last [`KEPT`](super::KEPT) are known. They
    /// stay when the tag is deleted. A push that leaves the tag where it was is no change.
    ///
    /// # Errors
    /// [`Fault`] if the state cannot be read.
    pub fn tag_history(&self, repo: &RepoRef, tag: &Tag, limit: usize) -> Result<Vec<TagChange>, Fault> {
        let rows = self.0.all(&keys::changes(*repo, tag.as_str()))?;
        rows.iter().rev().take(limit).map(Row::record).collect()
    }

    /// At most `limit` tags in byte order after `after`, which need not exist; and whether there are
    /// more.
    ///
    /// # Errors
    /// [`Fault`] if the state cannot be read.
    pub fn tags(&self, repo: &RepoRef, after: Option<&str>, limit: usize) -> Result<(Vec<Tag>, bool), Fault> {
        let table = keys::tags(*repo);
        let start = after.map_or_else(|| table.clone(), |tag| keys::tag(*repo, tag).after());
        let rows = self.0.rows(&table, &start, limit.saturating_add(1))?;
        Ok(page(rows.iter().map(read_tag).collect::<Result<_, Fault>>()?, limit))
    }

    /// Every tag that names a manifest.
    ///
    /// # Errors
    /// [`Fault`] if the state cannot be read.
    pub fn tags_on(&self, repo: &RepoRef, digest: &Digest) -> Result<Vec<Tag>, Fault> {
        self.0.all(&keys::tags_on(*repo, digest))?.iter().map(read_tag).collect()
    }

    /// At most `limit` manifests that name `subject`, after `after`, in the order of their digests. The
    /// subject need not exist.
    ///
    /// # Errors
    /// [`Fault`] if the state cannot be read.
    pub fn referrers(
        &self,
        repo: &RepoRef,
        subject: &Digest,
        after: Option<&Digest>,
        limit: usize,
    ) -> Result<Vec<(Digest, ManifestRecord)>, Fault> {
        let table = keys::referrers(*repo, subject);
        let start: Key = match after {
            Some(digest) => keys::referrer(*repo, subject, digest).after(),
            None => table.clone(),
        };
        let mut found = Vec::new();
        for row in self.0.rows(&table, &start, limit)? {
            let digest = row.parts()?.digest()?;
            let record = self.manifest(repo, &digest)?.ok_or_else(|| Fault::Corrupt {
                what: "referrer",
                why: format!("{digest} is listed but not stored"),
            })?;
            found.push((digest, record));
        }
        Ok(found)
    }
}

fn read_tag(row: &Row) -> Result<Tag, Fault> {
    let tag = row.parts()?.text()?;
    tag.parse().map_err(|e| Fault::Corrupt { what: "tag", why: format!("{tag:?}: {e}") })
}
