//! What one request reads is of one moment, whatever is written meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use clawhub_state::artifact::Condition;
use clawhub_types::{Digest, MediaType, Reference};

use crate::testing::{UNBOUNDED, World, digest, permit, reader, target, whole};
use crate::{Kind, PutManifest, Registry, What};

/// A manifest like no other, which names `subject` if there is one.
fn manifest(number: usize, subject: Option<&Digest>) -> PutManifest {
    let mut json = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": MediaType::OCI_INDEX,
        "manifests": [],
        "annotations": { "number": number.to_string() },
    });
    if let Some(subject) = subject {
        json["subject"] = serde_json::json!({ "digest": subject.to_string(), "size": 1 });
    }
    PutManifest {
        content_type: Some(MediaType::OCI_INDEX.to_owned()),
        tags: Vec::new(),
        condition: Condition::Any,
        bytes: json.to_string().into(),
    }
}

/// Moves the tag to the next manifest and deletes the one it named before.
async fn retag(here: &Registry, tag: &Reference, number: usize, subject: &Digest, old: Digest) -> Digest {
    let put = manifest(number, Some(subject));
    let stored = target(here).put_manifest(tag, put).await.unwrap().digest;
    delete(here, old).await;
    stored
}

async fn delete(here: &Registry, digest: Digest) {
    here.repo(permit(here)).delete_manifest(&Reference::Digest(digest), Condition::Any).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_reads_the_moment_it_was_made_at() {
    let world = World::start(&[true, true]).await;
    let here = world.node(1);
    let tag: Reference = "moving".parse().unwrap();
    let subject = digest(b"subject");
    let first = manifest(0, Some(&subject));
    let old = target(here).put_manifest(&tag, first.clone()).await.unwrap().digest;

    let then = || async { here.latest().await.unwrap().reader(permit(here)) };
    let by_tag = then().await;
    let of_subject = then().await;
    let names = then().await;
    let new = retag(here, &tag, 1, &subject, old.clone()).await;

    let view = by_tag.manifest(&tag, true).await.unwrap();
    assert_eq!((&view.digest, whole(&view).await), (&old, first.bytes));
    let page = of_subject.referrers(&subject, &[], None, UNBOUNDED).await.unwrap();
    assert_eq!(page.items.iter().map(|item| &item.digest).collect::<Vec<_>>(), [&old]);
    assert_eq!(names.tags(None, 9).await.unwrap().items.len(), 1);

    assert_eq!(then().await.manifest(&tag, true).await.unwrap().digest, new);
    let page = then().await.referrers(&subject, &[], None, UNBOUNDED).await.unwrap();
    assert_eq!(page.items.iter().map(|item| &item.digest).collect::<Vec<_>>(), [&new]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_digest_that_is_not_in_the_snapshot_is_looked_for_after_a_barrier() {
    let world = World::start(&[true, true]).await;
    let here = world.node(1);
    let before = reader(here);
    let put = manifest(0, None);
    let by_digest = Reference::Digest(digest(&put.bytes));
    target(here).put_manifest(&by_digest, put.clone()).await.unwrap();
    assert_eq!(whole(&before.manifest(&by_digest, true).await.unwrap()).await, put.bytes);
    let absent = digest(b"absent");
    let error = reader(here).manifest(&Reference::Digest(absent.clone()), true).await.unwrap_err();
    assert_eq!(error.kind, Kind::NotFound(What::Manifest(Some(absent))));
}

/// Readers of a tag, and of the referrers of its subject, beside a writer that moves the tag and deletes what it
/// named.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_is_torn_under_a_writer() {
    const WRITES: usize = 300;
    const READERS: usize = 16;
    let world = World::start(&[true, true]).await;
    let here = world.node(1).clone();
    let tag: Reference = "moving".parse().unwrap();
    let subject = digest(b"subject");
    let mut now = target(&here).put_manifest(&tag, manifest(0, Some(&subject))).await.unwrap().digest;

    let over = Arc::new(AtomicBool::new(false));
    let reads = Arc::new(AtomicUsize::new(0));
    let mut readers = tokio::task::JoinSet::new();
    for number in 0..READERS {
        let (here, tag, subject) = (here.clone(), tag.clone(), subject.clone());
        let (over, reads) = (over.clone(), reads.clone());
        readers.spawn(async move {
            while !over.load(Ordering::Relaxed) {
                let reader = here.latest().await.unwrap().reader(permit(&here));
                if number % 2 == 0 {
                    assert!(reader.manifest(&tag, true).await.unwrap().body.is_some());
                } else {
                    let page = reader.referrers(&subject, &[], None, UNBOUNDED).await.unwrap();
                    assert!((1..=2).contains(&page.items.len()), "{page:?}");
                }
                reads.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    for number in 1..=WRITES {
        now = retag(&here, &tag, number, &subject, now).await;
    }
    over.store(true, Ordering::Relaxed);
    while let Some(read) = readers.join_next().await {
        read.unwrap();
    }
    assert!(reads.load(Ordering::Relaxed) > WRITES, "the readers hardly read");
}
