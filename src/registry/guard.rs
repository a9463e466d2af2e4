//! The one place where a client's command is compared with the permit it is proposed under.
//!
//! Handles make it impossible to name another repository than the permit's, so nothing should ever be refused
//! here. It is here for the day when somebody builds a command by hand.

use clawhub_auth::{Act, Permit, Pull};
use clawhub_state::Command;
use clawhub_types::Resource;

use crate::Error;

/// Lets a command pass whose action is the permit's, whose target lies within the permit, and whose source
/// lies within the source's permit.
///
/// # Errors
/// A fault of this node, which the log tells about. Nothing may be proposed then.
pub(crate) fn check<A: Act>(
    permit: &Permit<A>,
    source: Option<&Permit<Pull>>,
    cmd: &Command,
) -> Result<(), Error> {
    let touched = cmd.resource();
    let readable = |resource: &Resource| source.is_some_and(|source| source.covers(resource));
    if cmd.action() == Some(A::ACTION)
        && permit.covers(&touched.target)
        && touched.source.as_ref().is_none_or(readable)
    {
        return Ok(());
    }
    tracing::error!(?touched, action = ?A::ACTION, on = ?permit.on(), "a command outside of its permit was stopped");
    Err(Error::internal("the request could not be proposed"))
}

#[cfg(test)]
mod tests {
    use clawhub_auth::{Authorizer, Delete, Principal, Push};
    use clawhub_kv::MemoryKv;
    use clawhub_state::View;
    use clawhub_state::artifact::{ArtifactCmd, Body, Condition, ManifestFacts};
    use clawhub_state::blob::BlobCmd;
    use clawhub_types::{Action, Digest, MediaType, RepoName};

    use super::*;
    use crate::Kind;

    fn repo(name: &str) -> RepoName {
        name.parse().unwrap()
    }

    fn permit<A: Act<On = RepoName>>(name: &str) -> Permit<A> {
        let kv = MemoryKv::new();
        Authorizer::Open.authorize(&Principal::Anonymous, &repo(name), &View::new(&kv)).unwrap()
    }

    fn digest() -> Digest {
        Digest::Sha256([1; 32])
    }

    fn put(name: &str) -> Command {
        let facts = ManifestFacts {
            media_type: MediaType::OCI_MANIFEST.parse().unwrap(),
            size: 1,
            refs: Vec::new(),
            parts: 0,
            subject: None,
            artifact_type: None,
            annotations: None,
        };
        Command::Artifact(ArtifactCmd::Put {
            repo: repo(name),
            digest: digest(),
            facts,
            body: Body::Inline(vec![1]),
            tags: Vec::new(),
            condition: Condition::Any,
        })
    }

    fn commit(name: &str) -> Command {
        Command::Blob(BlobCmd::Commit { repo: repo(name), digest: digest(), receipts: Vec::new() })
    }

    fn mount(from: &str, to: &str) -> Command {
        Command::Blob(BlobCmd::Mount { from: repo(from), to: repo(to), digest: digest() })
    }

    fn unlink(name: &str) -> Command {
        Command::Blob(BlobCmd::Unlink { repo: repo(name), digest: digest() })
    }

    fn renew(name: &str) -> Command {
        Command::Blob(BlobCmd::Renew { repo: repo(name), digest: digest() })
    }

    fn delete(name: &str) -> Command {
        Command::Artifact(ArtifactCmd::Delete { repo: repo(name), digest: digest() })
    }

    fn untag(name: &str) -> Command {
        let tag = "latest".parse().unwrap();
        Command::Artifact(ArtifactCmd::Untag { repo: repo(name), tag, condition: Condition::Any })
    }

    /// Checks that the command passes under a permit for `a/b`, and neither under one for another repository
    /// nor under one for another action.
    fn only_its_own<A: Act<On = RepoName>>(cmd: impl Fn(&str) -> Command) {
        let stopped = |outcome: Result<(), Error>| {
            assert_eq!(outcome.unwrap_err().kind, Kind::Internal, "{:?}", cmd("a/b"));
        };
        check(&permit::<A>("a/b"), None, &cmd("a/b")).unwrap();
        for other in ["a/c", "a", "a/b/c", "c/b"] {
            stopped(check(&permit::<A>("a/b"), None, &cmd(other)));
            stopped(check(&permit::<A>(other), None, &cmd("a/b")));
        }
        let others = [Action::Pull, Action::Push, Action::Delete].into_iter().filter(|a| *a != A::ACTION);
        for action in others {
            stopped(match action {
                Action::Pull => check(&permit::<Pull>("a/b"), None, &cmd("a/b")),
                Action::Push => check(&permit::<Push>("a/b"), None, &cmd("a/b")),
                _ => check(&permit::<Delete>("a/b"), None, &cmd("a/b")),
            });
        }
    }

    #[test]
    fn a_commit_is_for_the_permits_repository_alone() {
        only_its_own::<Push>(commit);
    }

    #[test]
    fn copies_are_recorded_for_the_permits_repository_alone() {
        only_its_own::<Push>(|name| {
            Command::Blob(BlobCmd::Ensured { repo: repo(name), receipts: Vec::new() })
        });
    }

    #[test]
    fn a_manifest_is_for_the_permits_repository_alone() {
        only_its_own::<Push>(put);
    }

    #[test]
    fn a_link_is_removed_from_the_permits_repository_alone() {
        only_its_own::<Delete>(unlink);
    }

    #[test]
    fn a_manifest_is_deleted_from_the_permits_repository_alone() {
        only_its_own::<Delete>(delete);
    }

    #[test]
    fn a_tag_is_deleted_from_the_permits_repository_alone() {
        only_its_own::<Delete>(untag);
    }

    #[test]
    fn a_lease_is_renewed_in_the_permits_repository_alone() {
        only_its_own::<Pull>(renew);
    }

    #[test]
    fn a_mount_needs_both_its_ends() {
        let (to, from) = (permit::<Push>("a/b"), permit::<Pull>("c/d"));
        check(&to, Some(&from), &mount("c/d", "a/b")).unwrap();
        assert!(check(&to, None, &mount("c/d", "a/b")).is_err(), "no right to the source");
        assert!(check(&to, Some(&from), &mount("c/e", "a/b")).is_err(), "another source");
        assert!(check(&to, Some(&from), &mount("c/d", "a/c")).is_err(), "another target");
        assert!(check(&from, Some(&from), &mount("c/d", "c/d")).is_err(), "a right to read alone");
    }

    #[test]
    fn nobody_proposes_what_is_the_clusters_own() {
        let cmd = Command::Blob(BlobCmd::Hold { receipts: Vec::new() });
        assert!(check(&permit::<Push>("a/b"), None, &cmd).is_err());
    }
}
