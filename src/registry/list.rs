//! Lists: tags, repositories, referrers. Always after a barrier.

use clawhub_auth::Permit;
use clawhub_state::View;
use clawhub_state::artifact::ManifestRecord;
use clawhub_types::{Digest, RepoName, Tag};

use crate::manifest::annotations_of;
use crate::{Error, Page, Referrer, Registry, What};

/// A page of referrers ends before its JSON reaches this: clients read no more than 4 MiB, and several
/// do not follow links.
const REFERRERS_BYTES: usize = 4 * 1024 * 1024 - 64 * 1024;
/// Referrers are read from the state so many at a time.
const REFERRERS_STEP: usize = 256;

impl Registry {
    /// A repository's tags, bytewise sorted, after `after` (which need not exist).
    ///
    /// # Errors
    /// [`What::Repository`] is unknown; unavailable.
    pub async fn tags(
        &self,
        _permit: &Permit,
        repo: &RepoName,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Page<Tag>, Error> {
        self.barrier().await?;
        let state = self.state();
        let view = View::new(&*state);
        let known = view
            .project()
            .repo(repo)?
            .ok_or_else(|| Error::not_found(What::Repository, "the repository is unknown"))?;
        let (items, more) = view.artifact().tags(&known, after, limit)?;
        Ok(Page { items, more })
    }

    /// The cluster's repositories, bytewise sorted.
    ///
    /// # Errors
    /// 503.
    pub async fn catalog(
        &self,
        _permit: &Permit,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Page<RepoName>, Error> {
        self.barrier().await?;
        let state = self.state();
        let (items, more) = View::new(&*state).project().catalog(after, limit)?;
        Ok(Page { items, more })
    }

    /// The manifests whose subject is `subject`, of any of `types` if some are named. An unknown subject
    /// or repository has none.
    ///
    /// # Errors
    /// 503.
    pub async fn referrers(
        &self,
        _permit: &Permit,
        repo: &RepoName,
        subject: &Digest,
        types: &[String],
        after: Option<Digest>,
    ) -> Result<Page<Referrer>, Error> {
        self.barrier().await?;
        let mut page = Page { items: Vec::new(), more: false };
        let mut bytes = 0;
        let mut cursor = after;
        loop {
            let step = self.referrers_step(repo, subject, cursor.as_ref())?;
            let full = step.len() == REFERRERS_STEP;
            for (digest, record) in step {
                cursor = Some(digest.clone());
                if !types.is_empty()
                    && !record.facts.artifact_type.as_ref().is_some_and(|own| types.contains(own))
                {
                    continue;
                }
                let referrer = self.referrer(repo, digest, record).await?;
                bytes += serde_json::to_vec(&referrer).map_or(0, |json| json.len() + 1);
                if bytes > REFERRERS_BYTES && !page.items.is_empty() {
                    page.more = true;
                    return Ok(page);
                }
                page.items.push(referrer);
            }
            if !full {
                return Ok(page);
            }
        }
    }

    fn referrers_step(
        &self,
        repo: &RepoName,
        subject: &Digest,
        after: Option<&Digest>,
    ) -> Result<Vec<(Digest, ManifestRecord)>, Error> {
        let state = self.state();
        let view = View::new(&*state);
        match view.project().repo(repo)? {
            Some(repo) => Ok(view.artifact().referrers(&repo, subject, after, REFERRERS_STEP)?),
            None => Ok(Vec::new()),
        }
    }

    async fn referrer(
        &self,
        repo: &RepoName,
        digest: Digest,
        record: ManifestRecord,
    ) -> Result<Referrer, Error> {
        let annotations = match record.facts.annotations.clone() {
            Some(annotations) => annotations,
            None => annotations_of(&self.manifest_bytes(repo, &digest, &record).await?),
        };
        Ok(Referrer {
            media_type: record.facts.media_type,
            digest,
            size: record.facts.size,
            artifact_type: record.facts.artifact_type,
            annotations,
        })
    }
}
