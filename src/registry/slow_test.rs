//! Clients that are slow, many at once: they hold up nobody. And a partner that is far behind a slow link.

use std::time::{Duration, Instant};

use bytes::Bytes;
use clawhub_replicate::Limits;
use futures::{StreamExt, stream};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::testing::{World, content, eventually, pull, push, reader, target};
use crate::{Chunk, Intent};

/// Shorter than what waits for a place is made to wait.
const SOON: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread")]
async fn slow_uploads_hold_up_nobody() {
    // More than may move pieces at once.
    const SLOW: usize = 400;
    let world = World::start(&[true, true]).await;
    let here = world.node(1);
    let mut slow = JoinSet::new();
    let (begun, mut has_begun) = tokio::sync::mpsc::channel(SLOW);
    for _ in 0..SLOW {
        let target = target(here);
        let id = target.begin_upload(None).await.unwrap().id;
        let begun = begun.clone();
        slow.spawn(async move {
            let first = stream::once(async move {
                begun.send(()).await.unwrap();
                Ok(Bytes::from_static(b"x"))
            });
            let body = Box::pin(first.chain(stream::pending()));
            target.append(id, Chunk { range: None, length: None, body }).await
        });
    }
    for _ in 0..SLOW {
        timeout(SOON, has_begun.recv()).await.expect("all of them send").unwrap();
    }
    let bytes = content(1, 3_000_000);
    let (_, digest) = timeout(SOON, push(here, &bytes)).await.expect("a fast client is served");
    assert!(pull(here, &digest).await == bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_becomes_slow_gives_back_what_it_has_for_being_fast() {
    let world = World::start(&[true, true]).await;
    let here = world.node(1);
    let uploads = &here.use_cases.uploads;
    let all = uploads.larges_left();
    let target = target(here);
    let id = target.begin_upload(None).await.unwrap().id;
    let first = [content(1, 64 << 10), content(2, 1)].map(Ok);
    let body = Box::pin(stream::iter(first).chain(stream::pending()));
    let sending =
        tokio::spawn(async move { target.append(id, Chunk { range: None, length: None, body }).await });
    eventually("room for a whole piece", || uploads.larges_left() == all - 1).await;
    eventually("it is given back", || uploads.larges_left() == all).await;
    let blobs = here.use_cases.core.blobs();
    eventually("what came is stored", || blobs.uploads().status(id).unwrap().offset == (64 << 10) + 1).await;
    sending.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_readers_of_what_is_passed_through_hold_up_nobody() {
    const SLOW: usize = 100;
    let world = World::start(&[true, true, false]).await;
    let witness = world.node(3);
    let bytes = content(1, 12_000_000);
    let (_, digest) = push(witness, &bytes).await;
    let mut slow = Vec::new();
    for _ in 0..SLOW {
        let blob =
            timeout(SOON, reader(witness).blob(&digest, Intent::Read)).await.expect("it is opened").unwrap();
        let mut pieces = blob.read(0..blob.size);
        let first = timeout(SOON, pieces.next()).await.expect("it begins").unwrap().unwrap();
        // Neither taken further nor given up.
        slow.push((first, pieces));
    }
    let pulled = timeout(SOON, pull(witness, &digest)).await.expect("a fast client is served");
    assert!(pulled == bytes);
    let (_, mut pieces) = slow.pop().unwrap();
    assert!(timeout(SOON, pieces.next()).await.expect("and a slow one goes on").unwrap().is_ok());
}

/// The way to the partner takes longer than an fsync there may: that is no reason to take it for dead.
#[tokio::test(flavor = "multi_thread")]
async fn an_upload_goes_on_as_long_as_its_mirror_gets_further() {
    // Twice as long as it takes the partner to say something.
    const FSYNC: Duration = Duration::from_secs(4);
    let world = World::apart("100ms~20ms,3mbit".parse().unwrap(), Limits { fsync: FSYNC }).await;
    let bytes = content(1, 6_000_000);
    let begun = Instant::now();
    let (_, digest) = push(world.node(1), &bytes).await;
    assert!(begun.elapsed() > 2 * FSYNC, "the link was not slow: {:?}", begun.elapsed());
    assert_eq!(world.holders(&digest), [1, 2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn more_slow_readers_than_there_is_memory_for_hold_up_nobody() {
    // More than there are pieces for.
    const SLOW: usize = 600;
    let world = World::start(&[true, true, false]).await;
    let witness = world.node(3);
    let bytes = content(1, 2_000_000);
    let (_, digest) = push(witness, &bytes).await;
    let mut slow = Vec::new();
    for _ in 0..SLOW {
        let blob =
            timeout(SOON, reader(witness).blob(&digest, Intent::Read)).await.expect("it is opened").unwrap();
        let mut pieces = blob.read(0..blob.size);
        let first = timeout(SOON, pieces.next()).await.expect("it begins").unwrap().unwrap();
        // A client that takes a piece and then nothing for minutes; its connection has what it took.
        slow.push((first.len(), pieces));
    }
    let pulled = timeout(SOON, pull(witness, &digest)).await.expect("a fast client is served");
    assert!(pulled == bytes);
    // What waited for it has gone meanwhile, and comes once more.
    let (mut at, mut pieces) = slow.swap_remove(0);
    while let Some(piece) = timeout(SOON, pieces.next()).await.expect("and a slow one goes on") {
        let piece = piece.unwrap();
        assert!(piece == bytes[at..at + piece.len()]);
        at += piece.len();
    }
    assert_eq!(at, bytes.len());
}
