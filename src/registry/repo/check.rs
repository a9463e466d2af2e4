//! What the push of a manifest may be refused for before anything of it is stored.
//!
//! Apply decides, and says the same. But bytes that are too many for the log, and references that are too many for an
//! entry, are stored before the entry that apply decides about; of a push that is refused they would stay: on as many
//! disks as the policy asks for a day, in the state of every node for an hour.
//!
//! Owns nothing.

use std::sync::Arc;

use clawhub_auth::Push;
use clawhub_durable::task::blocking;
use clawhub_state::artifact::{ArtifactRejected, Condition, Ref};
use clawhub_state::{Rejected, View};
use clawhub_types::{Digest, RepoName, Tag};

use super::Repo;
use crate::Error;
use crate::core::Core;

/// So many things that lack are named in a refusal.
const LISTED: usize = 1000;

/// What a manifest needs of its repository.
pub(super) struct Needs {
    pub(super) repo: RepoName,
    pub(super) refs: Vec<Ref>,
    /// Every one of these must be as the condition says.
    pub(super) tags: Vec<Tag>,
    pub(super) condition: Condition,
}

impl Repo<Push> {
    /// Looks whether the repository has what a manifest needs, as this node has it by now; and once more after a
    /// barrier if it has not.
    ///
    /// # Errors
    /// The refusal; unavailable.
    pub(super) async fn check_needs(&self, needs: Needs) -> Result<(), Error> {
        let core = &self.use_cases.core;
        let needs = Arc::new(needs);
        if look(core, &needs).await?.is_ok() {
            return Ok(());
        }
        core.barrier().await?;
        look(core, &needs).await?.map_err(|refused| Rejected::Artifact(refused).into())
    }
}

async fn look(core: &Arc<Core>, needs: &Arc<Needs>) -> Result<Result<(), ArtifactRejected>, Error> {
    let core = core.clone();
    let needs = needs.clone();
    blocking(move || {
        let state = core.snapshot();
        needs.judge(&View::new(&*state))
    })
    .await
}

impl Needs {
    /// Blocking.
    fn judge(&self, view: &View<'_>) -> Result<Result<(), ArtifactRejected>, Error> {
        let at = view.project().repo(&self.repo)?;
        for tag in &self.tags {
            let now = match &at {
                Some(at) => view.artifact().tag(at, tag)?.map(|record| record.digest),
                None => None,
            };
            if !self.condition.holds(now.as_ref()) {
                return Ok(Err(ArtifactRejected::PreconditionFailed(now)));
            }
        }
        let mut unknown: Vec<Digest> = Vec::new();
        for reference in &self.refs {
            let has = match &at {
                Some(at) => view.artifact().satisfies(at, reference)?,
                None => reference.is_optional(),
            };
            if !has && unknown.len() < LISTED {
                unknown.push(reference.digest.clone());
            }
        }
        Ok(if unknown.is_empty() { Ok(()) } else { Err(ArtifactRejected::ReferencesUnknown(unknown)) })
    }
}
