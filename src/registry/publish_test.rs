//! Large manifests: what is stored before the entry that stores them.

use bytes::Bytes;
use clawhub_state::artifact::Condition;
use clawhub_state::blob::BlobCmd;
use clawhub_state::{Command, View};
use clawhub_types::{Digest, NodeId, Reference, Tag};
use serde_json::json;

use crate::testing::{World, content, eventually, push, repo, target};
use crate::{Kind, PutManifest, Registry};

const IMAGE: &str = "application/vnd.oci.image.manifest.v1+json";

fn tag() -> Tag {
    "large".parse().unwrap()
}

async fn put(registry: &Registry, bytes: Bytes, condition: Condition) -> Result<Digest, crate::Error> {
    let put = PutManifest { content_type: Some(IMAGE.to_owned()), tags: Vec::new(), condition, bytes };
    target(registry).put_manifest(&Reference::Tag(tag()), put).await.map(|stored| stored.digest)
}

/// The config of every manifest here.
fn config() -> Bytes {
    content(1, 1000)
}

/// A manifest of so many layers that nobody has; if they are `elsewhere`, none of them need be here.
fn image(layers: usize, elsewhere: bool) -> Bytes {
    let digest = |n: usize| crate::testing::digest(&n.to_be_bytes()).to_string();
    let urls = if elsewhere { json!(["https://a.b/"]) } else { json!([]) };
    let layer = |n| json!({ "digest": digest(n), "size": 1, "urls": urls });
    let layers: Vec<_> = (1..=layers).map(layer).collect();
    let config = json!({ "digest": crate::testing::digest(&config()).to_string(), "size": 1000 });
    json!({ "schemaVersion": 2, "mediaType": IMAGE, "config": config, "layers": layers }).to_string().into()
}

/// What the log did to the state, but for the answers: the index of the last entry, and whether the repository is
/// there.
async fn trace(here: &Registry) -> (u64, bool) {
    let core = &here.use_cases.core;
    let index = core.barrier().await.unwrap();
    let state = core.snapshot();
    (index, View::new(&*state).project().repo(&repo()).unwrap().is_some())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_manifest_that_is_refused_leaves_nothing_behind() {
    let world = World::start(&[true, true]).await;
    let here = world.node(1);
    let store = here.use_cases.core.blobs();
    let before = trace(here).await;
    let refused = put(here, image(20_000, false), Condition::Any).await.unwrap_err();
    assert!(
        matches!(&refused.kind, Kind::MissingReferences(missing) if missing.len() == 1000),
        "{refused:?}"
    );
    assert_eq!(trace(here).await, before, "neither a repository nor a reference in the log");
    let refused = put(here, image(20_000, true), Condition::Exists).await.unwrap_err();
    assert!(matches!(refused.kind, Kind::Precondition { current: None }), "{refused:?}");
    assert_eq!(trace(here).await, before);
    assert!(store.inventory(None, 1).is_empty(), "nor its bytes on a disk");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_manifest_whose_receipts_become_void_gets_new_ones() {
    let world = World::start(&[true, true]).await;
    let here = world.node(1).clone();
    push(&here, &config()).await;
    let bytes = image(20_000, true);
    let root = clawhub_blobs::root_of(&bytes);
    let blobs = here.use_cases.core.blobs().clone();
    let pushing = tokio::spawn({
        let (here, bytes) = (here.clone(), bytes.clone());
        async move { put(&here, bytes, Condition::Any).await }
    });
    // Its references are staged next, and it is stored after all of them.
    eventually("its bytes are here", || blobs.holds(&root).is_some()).await;
    let epoch = blobs.replicas().plan_removal(&[]).await.unwrap();
    world.propose(Command::Blob(BlobCmd::Epoch { node: NodeId(1), epoch })).await.unwrap();
    assert_eq!(pushing.await.unwrap().unwrap(), crate::testing::digest(&bytes));
}
