//! Requests of an upload that are sent again, whole or in part, because their answers were lost or never came:
//! through the node that owns the upload, and through another one.

use std::time::Duration;

use bytes::Bytes;
use clawhub_state::Command;
use clawhub_state::blob::BlobCmd;
use clawhub_types::{Digest, NodeId, UploadId};
use futures::stream::{self, StreamExt};
use tokio::time::{sleep, timeout};

use crate::testing::{World, chunk, content, digest, eventually, pull, push, target};
use crate::{BodyError, BodyStream, Chunk, Error, Intent, Invalid, Kind, Registry, What};

/// Longer than any of what is called here takes, shorter than a step waits for its turn.
const SOON: Duration = Duration::from_secs(10);

fn of(body: BodyStream) -> Chunk {
    Chunk { range: None, length: None, body }
}

/// The client leaves after these bytes.
fn broken(bytes: &[u8]) -> Chunk {
    let left = Err(BodyError::Broken("the client left".to_owned()));
    of(stream::iter([Ok(Bytes::copy_from_slice(bytes)), left]).boxed())
}

/// Nothing comes after these bytes, and no end.
fn silent(bytes: &[u8]) -> Chunk {
    of(stream::iter([Ok(Bytes::copy_from_slice(bytes))]).chain(stream::pending()).boxed())
}

/// Everything comes, in many pieces, over half a second.
fn slow(bytes: &Bytes) -> Chunk {
    let pieces: Vec<Bytes> = bytes.chunks(bytes.len() / 50).map(Bytes::copy_from_slice).collect();
    let piece = |piece| async move {
        sleep(Duration::from_millis(10)).await;
        Ok(piece)
    };
    of(stream::iter(pieces).then(piece).boxed())
}

async fn begin(node: &Registry) -> UploadId {
    target(node).begin_upload(None).await.unwrap().id
}

/// Ends the upload, and finds the blob whole on both nodes.
async fn ends(world: &World, through: &Registry, id: UploadId, last: Chunk, bytes: &Bytes) {
    let named = digest(bytes);
    target(through).finish(id, &named, last).await.unwrap();
    assert_eq!(world.holders(&named), [1, 2]);
    for node in [1, 2] {
        assert!(pull(world.node(node), &named).await == *bytes);
    }
}

fn is_broken<T: std::fmt::Debug>(step: Result<T, Error>) {
    assert_eq!(step.unwrap_err().kind, Kind::Invalid(Invalid::Body));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_broke_off_is_sent_again_whole() {
    let world = World::start(&[true, true]).await;
    for (seed, through) in [(10, 1), (20, 2)] {
        let node = world.node(through);
        let bytes = content(seed, 3_000_000);
        let half = &bytes[..1_700_000];

        let id = begin(world.node(1)).await;
        is_broken(target(node).append(id, broken(half)).await);
        is_broken(target(node).append(id, broken(&half[..100])).await);
        let view = target(node).append(id, chunk(&bytes)).await.unwrap();
        assert_eq!(view.offset, 3_000_000);
        ends(&world, node, id, chunk(&Bytes::new()), &bytes).await;

        let bytes = content(seed + 1, 3_000_000);
        let id = begin(world.node(1)).await;
        is_broken(target(node).finish(id, &digest(&bytes), broken(&bytes[..1_700_000])).await);
        ends(&world, node, id, chunk(&bytes), &bytes).await;

        // What was acknowledged stays: the last of three chunks broke off.
        let bytes = content(seed + 2, 3_000_000);
        let id = begin(world.node(1)).await;
        for part in [0..1_000_000, 1_000_000..2_000_000] {
            target(node).append(id, chunk(&bytes.slice(part))).await.unwrap();
        }
        is_broken(target(node).append(id, broken(&bytes[2_000_000..2_900_000])).await);
        ends(&world, node, id, chunk(&bytes.slice(2_000_000..)), &bytes).await;

        // Another body than before may come, too: nothing of the first is left.
        let bytes = content(seed + 3, 500_000);
        let id = begin(world.node(1)).await;
        is_broken(target(node).append(id, broken(half)).await);
        ends(&world, node, id, chunk(&bytes), &bytes).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_told_where_the_upload_stands_goes_on_from_there() {
    let world = World::start(&[true, true]).await;
    let here = world.node(1);
    let bytes = content(1, 2_000_000);
    let (half, rest) = (bytes.slice(..900_000), bytes.slice(900_000..));
    for through in [1, 2] {
        let node = world.node(through);
        // By the answer to a question.
        let id = begin(here).await;
        is_broken(target(node).append(id, broken(&half)).await);
        assert_eq!(target(node).status(id).await.unwrap().offset, 900_000);
        ends(&world, node, id, chunk(&rest), &bytes).await;

        // By a refusal.
        let id = begin(here).await;
        let placed = |start: u64| Chunk { range: Some((start, 1_999_999)), ..chunk(&rest) };
        let half_placed = Chunk { range: Some((0, 1_999_999)), ..broken(&half) };
        is_broken(target(node).append(id, half_placed).await);
        assert_eq!(told(target(node).append(id, placed(5)).await), 900_000);
        ends(&world, node, id, chunk(&rest), &bytes).await;

        // By itself.
        let id = begin(here).await;
        is_broken(target(node).append(id, broken(&half)).await);
        ends(&world, node, id, placed(900_000), &bytes).await;

        // A last request without bytes says nothing of a place.
        let id = begin(here).await;
        is_broken(target(node).append(id, broken(&bytes)).await);
        ends(&world, node, id, chunk(&Bytes::new()), &bytes).await;
    }
}

/// Where a refusal says that the next chunk is to begin.
fn told<T: std::fmt::Debug>(step: Result<T, Error>) -> u64 {
    match step.unwrap_err().kind {
        Kind::Range { upload } => upload.offset,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_came_late_without_a_place_is_in_nobodys_way() {
    let world = World::start(&[true, true]).await;
    let bytes = content(1, 2_000_000);
    let late = content(2, 300_000);
    let placed = |from: u64, to: u64| Chunk {
        range: Some((from, to - 1)),
        ..chunk(&bytes.slice(from as usize..to as usize))
    };
    for (through, is_whole) in [(1, true), (1, false), (2, true), (2, false)] {
        let node = target(world.node(through));
        let id = begin(world.node(1)).await;
        assert_eq!(node.append(id, placed(0, 900_000)).await.unwrap().offset, 900_000);
        // Of a request that a proxy held up, and whose client has gone on since.
        match is_whole {
            true => drop(node.append(id, chunk(&late)).await.unwrap()),
            false => is_broken(node.append(id, broken(&late)).await),
        }
        if !is_whole {
            assert_eq!(told(node.append(id, placed(5, 10)).await), 900_000, "the client knows of no more");
        }
        assert_eq!(node.append(id, placed(900_000, 1_500_000)).await.unwrap().offset, 1_500_000);
        assert_eq!(told(node.append(id, placed(900_000, 1_500_000)).await), 1_500_000);
        ends(&world, world.node(through), id, placed(1_500_000, 2_000_000), &bytes).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_body_whose_answer_was_lost_may_come_twice() {
    let world = World::start(&[true, true]).await;
    let bytes = content(1, 700_000);
    let id = begin(world.node(1)).await;
    let node = target(world.node(2));
    for end in [700_000, 1_400_000] {
        assert_eq!(node.append(id, chunk(&bytes)).await.unwrap().offset, end);
    }
    let twice = digest(&[&bytes[..], &bytes[..]].concat());
    let wrong = node.finish(id, &digest(b"other"), chunk(&Bytes::new())).await.unwrap_err();
    assert_eq!(wrong.kind, Kind::Invalid(Invalid::Digest));
    // What is there is what counts.
    node.finish(id, &twice, chunk(&Bytes::new())).await.unwrap();

    let id = begin(world.node(1)).await;
    for _ in 0..2 {
        node.append(id, chunk(&bytes)).await.unwrap();
    }
    ends(&world, world.node(2), id, chunk(&Bytes::new()), &bytes).await;

    // The first try comes last, and broken.
    let bytes = content(2, 700_000);
    let id = begin(world.node(1)).await;
    node.append(id, chunk(&bytes)).await.unwrap();
    is_broken(node.append(id, broken(&bytes[..400_000])).await);
    ends(&world, world.node(2), id, chunk(&Bytes::new()), &bytes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_client_gives_way_to_a_newer_request() {
    let world = World::start(&[true, true]).await;
    let here = world.node(1);
    let bytes = content(1, 2_000_000);
    for through in [1, 2] {
        for question in [true, false] {
            let id = begin(here).await;
            let (node, half) = (target(world.node(through)), silent(&bytes[..900_000]));
            let stalled = tokio::spawn(async move { node.append(id, half).await });
            let uploads = here.use_cases.core.blobs();
            eventually("the first half", || {
                uploads.uploads().status(id).is_some_and(|status| status.offset >= 512 << 10)
            })
            .await;
            let node = target(world.node(through));
            let rest = if question {
                let asked = timeout(SOON, node.status(id)).await.expect("at once").unwrap();
                assert_eq!(asked.offset, 900_000, "what had come is kept");
                bytes.slice(900_000..)
            } else {
                bytes.clone()
            };
            let taken = timeout(SOON, node.append(id, chunk(&rest))).await.expect("at once").unwrap();
            assert_eq!(taken.offset, 2_000_000);
            is_broken(stalled.await.unwrap());
            ends(&world, world.node(through), id, chunk(&Bytes::new()), &bytes).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_sends_is_not_interrupted() {
    let world = World::start(&[true, true]).await;
    let bytes = content(1, 2_000_000);
    let id = begin(world.node(1)).await;
    let (node, body) = (target(world.node(2)), slow(&bytes));
    let sending = tokio::spawn(async move { node.append(id, body).await });
    let here = world.node(1).use_cases.core.blobs();
    eventually("some bytes", || here.uploads().status(id).is_some_and(|status| status.offset > 0)).await;
    let asked = target(world.node(1)).status(id).await.unwrap();
    assert_eq!(asked.offset, 2_000_000, "it was waited for");
    assert_eq!(sending.await.unwrap().unwrap().offset, 2_000_000);
}

/// Two equal closing requests, the second 2 ms after the first.
async fn twins(
    world: &World,
    id: UploadId,
    bodies: [Chunk; 2],
    named: &Digest,
) -> [Result<Digest, Error>; 2] {
    let [first, second] = bodies;
    let (one, other) = (target(world.node(1)), target(world.node(2)));
    let later = async {
        sleep(Duration::from_millis(2)).await;
        other.finish(id, named, second).await
    };
    let both = timeout(SOON, futures::future::join(one.finish(id, named, first), later));
    both.await.expect("in time").into()
}

#[tokio::test(flavor = "multi_thread")]
async fn two_equal_closing_requests_both_succeed() {
    let world = World::start(&[true, true]).await;
    let empty = || chunk(&Bytes::new());
    for round in 0..10 {
        let bytes = content(round, 1_000_000);
        let named = digest(&bytes);
        let id = begin(world.node(1)).await;
        target(world.node(1)).append(id, chunk(&bytes)).await.unwrap();
        for answer in twins(&world, id, [empty(), empty()], &named).await {
            assert_eq!(answer.unwrap(), named);
        }
        // And once more, after the fact.
        target(world.node(2)).finish(id, &named, chunk(&bytes)).await.unwrap();
        let other = target(world.node(2)).finish(id, &digest(b"other"), empty()).await;
        assert_eq!(other.unwrap_err().kind, Kind::NotFound(What::Upload));
    }
    // With the whole body; the first one may also have stopped coming.
    let bytes = content(100, 1_000_000);
    let (named, half) = (digest(&bytes), &bytes[..600_000]);
    for bodies in [[slow(&bytes), slow(&bytes)], [silent(half), slow(&bytes)]] {
        let id = begin(world.node(1)).await;
        for answer in twins(&world, id, bodies, &named).await {
            assert_eq!(answer.unwrap(), named);
        }
        assert!(pull(world.node(2), &named).await == bytes);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closing_request_again_gives_a_whole_lease_wherever_the_copies_are() {
    let world = World::start(&[true, true, true]).await;
    let here = world.node(1);
    let bytes = content(1, 100_000);
    let (id, named) = push(here, &bytes).await;
    let (root, _) = world.record(&named);
    // The copies go elsewhere, and the one here is given up.
    for node in [2, 3] {
        let spec = world.node(node).use_cases.core.spec(&root).unwrap().unwrap();
        let replicate = &world.node(node).use_cases.core.replicate;
        let receipts =
            replicate.ensure(&spec, &[NodeId(node)], |holders| holders.contains(&NodeId(node))).await;
        world.system(Command::Blob(BlobCmd::Hold { receipts })).await;
    }
    world.lose(1, root).await;
    here.use_cases.core.blobs().replicas().quarantine(&root).await.unwrap();
    assert_eq!(world.holders(&named), [2, 3]);

    let before = world.lease(&named);
    sleep(Duration::from_millis(20)).await;
    target(here).finish(id, &named, chunk(&bytes)).await.unwrap();
    assert!(world.lease(&named) > before, "a push may go on to rely on it");
    for node in [2, 3] {
        world.lose(node, root).await;
    }
    let gone = target(here).finish(id, &named, chunk(&bytes)).await.unwrap_err();
    assert_eq!(gone.kind, Kind::NotFound(What::Upload), "it is to be pushed anew");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_lost_everywhere_is_absent_to_who_would_push_it() {
    let world = World::start(&[true, true]).await;
    let (here, there) = (world.node(1), world.node(2));
    let bytes = content(1, 100_000);
    let (_, named) = push(here, &bytes).await;
    let (root, _) = world.record(&named);
    for node in [1, 2] {
        world.node(node).use_cases.core.blobs().replicas().quarantine(&root).await.unwrap();
        world.lose(node, root).await;
    }
    let stat = |node| crate::testing::reader(node).blob(&named, Intent::Stat);
    assert_eq!(stat(there).await.unwrap_err().kind, Kind::NotFound(What::Blob(Some(named.clone()))));
    let read = crate::testing::reader(here).blob(&named, Intent::Read).await.unwrap_err();
    assert!(matches!(read.kind, Kind::Unavailable { .. }), "{read}");
    crate::testing::reader(here).blob(&named, Intent::Revalidate).await.unwrap();
    let from = crate::testing::permit(here);
    assert!(!target(here).mount(&from, &named).await.unwrap());

    push(there, &bytes).await;
    assert_eq!(world.holders(&named), [1, 2]);
    stat(there).await.unwrap();
    assert!(target(here).mount(&from, &named).await.unwrap());
    assert!(pull(here, &named).await == bytes);
}
