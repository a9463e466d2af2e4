//! Lists of tags, repositories and referrers. Each page is of one snapshot, taken after a barrier, so that it shows
//! everything that was acknowledged before it was asked for.

use bytes::Bytes;
use clawhub_state::artifact::{BodyRef, ManifestRecord};
use clawhub_types::{Digest, RepoName, Root, Tag};

use super::{Reader, Repositories};
use crate::manifest::{MAX_ANNOTATIONS, annotations_of};
use crate::source::Sources;
use crate::{Error, Page, PageBudget, Referrer, What};

/// Referrers are read from the state so many at a time.
const REFERRERS_STEP: usize = 256;

/// Which referrers are asked for.
pub(crate) struct Query<'a> {
    subject: &'a Digest,
    /// Any of these artifact types; all if none is named.
    types: &'a [String],
    budget: PageBudget<'a>,
}

/// A referrer as one snapshot has it.
struct Listed {
    referrer: Referrer,
    /// Where its annotations are, if they are neither in the log nor in bytes that are.
    annotations_in: Option<Root>,
}

impl Reader {
    /// The repository's tags, bytewise sorted, after `after` (which need not exist).
    ///
    /// # Errors
    /// [`What::Repository`] is unknown; unavailable.
    pub async fn tags(self, after: Option<&str>, limit: usize) -> Result<Page<Tag>, Error> {
        let latest = self.latest().await?;
        let view = latest.at.view();
        let known = view.project().repo(latest.permit.on())?;
        let known = known.ok_or_else(|| Error::not_found(What::Repository, "the repository is unknown"))?;
        let (items, more) = view.artifact().tags(&known, after, limit)?;
        Ok(Page { items, more })
    }

    /// The manifests whose subject is `subject`, of any of `types` if some are named. An unknown subject
    /// or repository has none.
    ///
    /// # Errors
    /// Unavailable.
    pub async fn referrers(
        self,
        subject: &Digest,
        types: &[String],
        after: Option<Digest>,
        budget: PageBudget<'_>,
    ) -> Result<Page<Referrer>, Error> {
        let latest = self.latest().await?;
        let (listed, more) = latest.listed(&Query { subject, types, budget }, after)?;
        let use_cases = latest.at.use_cases.clone();
        // Annotations may have to be fetched from other nodes.
        drop(latest);
        fill(&use_cases.sources, listed, more, budget).await
    }

    /// A page, all of it from this snapshot, and whether more follow. It may turn out too long once annotations
    /// are known that are not in the state: those count here with the least that they have.
    fn listed(&self, query: &Query<'_>, after: Option<Digest>) -> Result<(Vec<Listed>, bool), Error> {
        let view = self.at.view();
        let mut listed = Vec::new();
        let Some(repo) = view.project().repo(self.permit.on())? else { return Ok((listed, false)) };
        let mut bytes = 0;
        let mut cursor = after;
        loop {
            let step = view.artifact().referrers(&repo, query.subject, cursor.as_ref(), REFERRERS_STEP)?;
            let full = step.len() == REFERRERS_STEP;
            for (digest, record) in step {
                cursor = Some(digest.clone());
                let kind = record.facts.artifact_type.as_ref();
                if !query.types.is_empty() && !kind.is_some_and(|own| query.types.contains(own)) {
                    continue;
                }
                let inline = match (&record.facts.annotations, &record.body) {
                    (None, BodyRef::Inline) => view.artifact().manifest_bytes(&repo, &digest)?,
                    _ => None,
                };
                let next = Listed::new(digest, record, inline.map(Bytes::from));
                bytes += next.least(query.budget);
                if bytes > query.budget.bytes && !listed.is_empty() {
                    return Ok((listed, true));
                }
                listed.push(next);
            }
            if !full {
                return Ok((listed, false));
            }
        }
    }
}

impl Listed {
    fn new(digest: Digest, record: ManifestRecord, inline: Option<Bytes>) -> Listed {
        let known = record.facts.annotations.or_else(|| inline.map(|bytes| annotations_of(&bytes)));
        let annotations_in = match (&known, record.body) {
            (None, BodyRef::Stored(root)) => Some(root),
            _ => None,
        };
        let referrer = Referrer {
            media_type: record.facts.media_type,
            digest,
            size: record.facts.size,
            artifact_type: record.facts.artifact_type,
            annotations: known.unwrap_or_default(),
        };
        Listed { referrer, annotations_in }
    }

    /// The least that it takes of a page, in bytes.
    fn least(&self, budget: PageBudget<'_>) -> usize {
        let unknown = if self.annotations_in.is_some() { MAX_ANNOTATIONS } else { 0 };
        (budget.length)(&self.referrer) + unknown
    }
}

/// Adds the annotations that are not in the state, and ends the page where it is full.
async fn fill(
    sources: &Sources,
    listed: Vec<Listed>,
    more: bool,
    budget: PageBudget<'_>,
) -> Result<Page<Referrer>, Error> {
    let mut page = Page { items: Vec::new(), more };
    let mut bytes = 0;
    for Listed { mut referrer, annotations_in } in listed {
        if let Some(root) = annotations_in {
            let manifest = sources.small_blob(&root, referrer.size).await?;
            referrer.annotations = annotations_of(&manifest);
        }
        bytes += (budget.length)(&referrer);
        if bytes > budget.bytes && !page.items.is_empty() {
            page.more = true;
            break;
        }
        page.items.push(referrer);
    }
    Ok(page)
}

impl Repositories {
    /// The cluster's repositories, bytewise sorted, after `after` (which need not exist).
    ///
    /// # Errors
    /// Unavailable.
    pub async fn list(self, after: Option<&str>, limit: usize) -> Result<Page<RepoName>, Error> {
        let latest = self.latest().await?;
        let (items, more) = latest.at.view().project().catalog(after, limit)?;
        Ok(Page { items, more })
    }
}
