//! Deleting manifests, tags, and links to blobs. Names and links go with the entry that is applied; the bytes of
//! blobs stay where they are.

use clawhub_auth::Delete;
use clawhub_state::artifact::{ArtifactCmd, ArtifactRejected, Condition};
use clawhub_state::blob::{BlobCmd, BlobRejected};
use clawhub_state::project::ProjectRejected;
use clawhub_state::{Command, Rejected};
use clawhub_types::{Digest, Reference};

use super::Repo;
use crate::Error;

impl Repo<Delete> {
    /// Deletes a tag, or a manifest with every tag on it.
    ///
    /// # Errors
    /// [`What::Manifest`](crate::What::Manifest) is unknown; a precondition; unavailable.
    pub async fn delete_manifest(&self, reference: &Reference, condition: Condition) -> Result<(), Error> {
        let repo = self.name().clone();
        let cmd = match reference {
            Reference::Tag(tag) => ArtifactCmd::Untag { repo, tag: tag.clone(), condition },
            Reference::Digest(digest) => ArtifactCmd::Delete { repo, digest: digest.clone() },
        };
        match self.use_cases.core.propose(&self.permit, None, Command::Artifact(cmd)).await? {
            Ok(_) => Ok(()),
            Err(Rejected::Project(ProjectRejected::NameUnknown)) => {
                Err(Rejected::from(ArtifactRejected::ManifestUnknown).into())
            }
            Err(rejected) => Err(rejected.into()),
        }
    }

    /// Removes the repository's link to a blob.
    ///
    /// # Errors
    /// [`What::Blob`](crate::What::Blob) is unknown; [`Kind::InUse`](crate::Kind::InUse) by a manifest;
    /// unavailable.
    pub async fn delete_blob(&self, digest: &Digest) -> Result<(), Error> {
        let cmd = BlobCmd::Unlink { repo: self.name().clone(), digest: digest.clone() };
        match self.use_cases.core.propose(&self.permit, None, Command::Blob(cmd)).await? {
            Ok(_) => Ok(()),
            // A DELETE of a blob answers about the blob, whatever is missing.
            Err(Rejected::Project(ProjectRejected::NameUnknown)) => {
                Err(Rejected::from(BlobRejected::BlobUnknown).into())
            }
            Err(rejected) => Err(rejected.into()),
        }
    }
}
