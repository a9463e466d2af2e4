//! Permits that do not hold any more, and permits for something else, over a real log.

use bytes::Bytes;
use clawhub_auth::{Delete, Permit, Pull, Push};
use clawhub_state::Command;
use clawhub_state::artifact::Condition;
use clawhub_state::project::{ProjectCmd, ProjectPolicy};
use clawhub_types::{Reference, RepoName};

use crate::testing::{UNBOUNDED, World, chunk, content, digest, permit, permit_for, push, repo, target};
use crate::{Intent, Kind, PutManifest, What};

fn index() -> PutManifest {
    let json = r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#;
    let content_type = Some("application/vnd.oci.image.index.v1+json".to_owned());
    PutManifest { content_type, tags: Vec::new(), condition: Condition::Any, bytes: json.into() }
}

/// A cluster in which the repository's project has another number than in any other of these tests, so that a
/// permit judged there is stale elsewhere.
async fn elsewhere() -> World {
    let world = World::start(&[true, true]).await;
    let policy = ProjectPolicy { durability: None, regions: None, confined: false };
    let first = ProjectCmd::SetPolicy { name: "first".parse().unwrap(), policy: policy.clone() };
    world.system(Command::Project(first)).await;
    let second = ProjectCmd::SetPolicy { name: repo().project(), policy };
    world.system(Command::Project(second)).await;
    world
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stale_permit_is_asked_for_once_more() {
    let (world, other) = (World::start(&[true, true]).await, elsewhere().await);
    let here = world.node(1);
    let (_, digest) = push(here, &content(1, 1000)).await;
    let stale: Permit<Push> = permit(other.node(1));
    assert_ne!(stale.access(), permit::<Push>(here).access());
    let tag: Reference = "v1".parse().unwrap();
    here.repo(stale).put_manifest(&tag, index()).await.unwrap();
    let stale: Permit<Delete> = permit(other.node(1));
    here.repo(stale).delete_blob(&digest).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stale_permit_that_is_not_given_again_is_refused() {
    let (world, other) = (World::start(&[true, true]).await, elsewhere().await);
    push(world.node(1), &content(1, 1000)).await;
    let denying = world.denying(1);
    let stale: Permit<Push> = permit(other.node(1));
    let tag: Reference = "v1".parse().unwrap();
    let error = denying.repo(stale).put_manifest(&tag, index()).await.unwrap_err();
    assert_eq!(error.kind, Kind::Unauthenticated);
    let reader = world.node(1).latest().await.unwrap().reader(permit(world.node(1)));
    assert_eq!(reader.manifest(&tag, false).await.unwrap_err().kind, Kind::NotFound(What::Manifest(None)));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_is_its_repositorys_own() {
    let world = World::start(&[true, true]).await;
    let other: RepoName = "library/other".parse().unwrap();
    for here in [world.node(1), world.node(2)] {
        // Opened at the first node; the second one sends its steps on.
        let id = target(world.node(1)).begin_upload(None).await.unwrap().id;
        let wrong = here.repo(permit_for::<Push>(here, &other));
        let bytes = content(1, 1000);
        let unknown = Kind::NotFound(What::Upload);
        assert_eq!(wrong.append(id, chunk(&bytes)).await.unwrap_err().kind, unknown);
        assert_eq!(wrong.status(id).await.unwrap_err().kind, unknown);
        assert_eq!(wrong.cancel(id).await.unwrap_err().kind, unknown);
        let named = digest(&bytes);
        assert_eq!(wrong.finish(id, &named, chunk(&bytes)).await.unwrap_err().kind, unknown);
        target(here).finish(id, &named, chunk(&bytes)).await.unwrap();
        // A PUT is repeated for the same repository only.
        let again = wrong.finish(id, &named, chunk(&Bytes::new())).await;
        assert_eq!(again.unwrap_err().kind, unknown);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_repository_holds_another_does_not_show() {
    let world = World::start(&[true, true]).await;
    let here = world.node(1);
    let bytes = content(1, 1000);
    let (_, blob) = push(here, &bytes).await;
    let tag: Reference = "v1".parse().unwrap();
    let stored = target(here).put_manifest(&tag, index()).await.unwrap().digest;
    let other: RepoName = "library/other".parse().unwrap();
    // It exists, and is empty but for a blob of its own.
    let mine = content(2, 10);
    here.repo(permit_for::<Push>(here, &other))
        .push_blob(&digest(&mine), None, chunk(&mine).body)
        .await
        .unwrap();

    let reader = || here.now().reader(permit_for::<Pull>(here, &other));
    for (reference, named) in [(tag.clone(), None), (Reference::Digest(stored.clone()), Some(stored.clone()))]
    {
        let error = reader().manifest(&reference, true).await.unwrap_err();
        assert_eq!(error.kind, Kind::NotFound(What::Manifest(named)));
    }
    for intent in [Intent::Read, Intent::Stat] {
        let error = reader().blob(&blob, intent).await.unwrap_err();
        assert_eq!(error.kind, Kind::NotFound(What::Blob(Some(blob.clone()))));
    }
    assert_eq!(reader().tags(None, 9).await.unwrap().items, []);
    assert_eq!(reader().referrers(&stored, &[], None, UNBOUNDED).await.unwrap().items, []);
    let deleting = here.repo(permit_for::<Delete>(here, &other));
    let error = deleting.delete_blob(&blob).await.unwrap_err();
    assert_eq!(error.kind, Kind::NotFound(What::Blob(None)));
    for reference in [tag.clone(), Reference::Digest(stored)] {
        let error = deleting.delete_manifest(&reference, Condition::Any).await.unwrap_err();
        assert_eq!(error.kind, Kind::NotFound(What::Manifest(None)));
    }
    // A mount takes from where its source's permit says.
    let source = permit_for::<Pull>(here, &other);
    assert!(!target(here).mount(&source, &digest(b"absent")).await.unwrap());
    assert!(target(here).mount(&source, &digest(&mine)).await.unwrap());
}
