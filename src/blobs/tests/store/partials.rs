//! Fetches: checked writes, followers, restarts.

use std::time::Duration;

use clawhub_blobs::Partial;

use super::*;

/// The group list of some bytes, as another node's store computes it.
async fn list_of(bytes: &Bytes) -> Bytes {
    let home = Home::new();
    let store = home.open().await;
    let root = store.replicas().put(bytes.clone(), 1).await.unwrap().root;
    store.open_blob(&root).await.unwrap().unwrap().groups().await.unwrap()
}

async fn begun(store: &BlobStore, bytes: &Bytes) -> Partial {
    let partial = store.partials().open(root_of(bytes), bytes.len() as u64).await.unwrap();
    if !partial.has_groups() {
        partial.set_groups(list_of(bytes).await).await.unwrap();
    }
    partial
}

/// Fetches what is missing, in steps of `groups` groups.
async fn fill(partial: &Partial, bytes: &Bytes, groups: usize) {
    while let Some(missing) = partial.missing(0) {
        let end = missing.end.min(missing.start + (groups * G) as u64);
        partial.write(missing.start, bytes.slice(missing.start as usize..end as usize)).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_follow_a_fetch_in_any_order_to_its_end() {
    let home = Home::new();
    let store = home.open().await;
    let bytes = content(100 * G + 4321);
    let root = root_of(&bytes);
    let partial = begun(&store, &bytes).await;
    let readers: Vec<_> = [(0, bytes.len()), (1, 2), (7 * G + 9, 93 * G), (100 * G, bytes.len()), (5, 5)]
        .into_iter()
        .map(|(start, end)| {
            let (stream, bytes) = (partial.read(start as u64..end as u64), bytes.clone());
            tokio::spawn(async move {
                let (got, error) = drain(stream).await;
                assert!(error.is_none(), "{error:?}");
                assert!(got == bytes[start..end]);
            })
        })
        .collect();
    // From the end, and in the middle by a second source at once.
    let middle = tokio::spawn({
        let (partial, bytes) = (partial.clone(), bytes.clone());
        async move {
            for group in 40..60 {
                partial
                    .write(group * GROUP, bytes.slice(group as usize * G..(group as usize + 1) * G))
                    .await
                    .unwrap();
            }
        }
    });
    for group in (0..101usize).rev() {
        let piece = bytes.slice(group * G..bytes.len().min((group + 1) * G));
        partial.write((group * G) as u64, piece).await.unwrap();
    }
    middle.await.unwrap();
    assert_eq!(partial.missing(0), None);
    let late = partial.read(3..bytes.len() as u64);
    let copy = partial.finish().await.unwrap();
    assert_eq!((copy.root, copy.size), (root, bytes.len() as u64));
    assert!(copy.digests.contains(&sha256_of(&bytes)));
    for reader in readers {
        reader.await.unwrap();
    }
    assert!(drain(late).await.0 == bytes[3..], "readers of the partial go on after it was finished");
    assert!(home.names("partial").is_empty());
    home.kv.crash();
    drop((store, partial));
    let store = home.open().await;
    assert!(read_all(&store, &root).await == bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_group_is_visible_when_its_write_returns() {
    let home = Home::new();
    let store = home.open().await;
    let bytes = content(4 * G);
    let partial = begun(&store, &bytes).await;
    let mut stream = std::pin::pin!(partial.read(0..4 * GROUP));
    for group in 0..4usize {
        assert!(futures::poll!(stream.next()).is_pending());
        partial.write((group * G) as u64, bytes.slice(group * G..(group + 1) * G)).await.unwrap();
        let next = tokio::time::timeout(Duration::from_secs(20), stream.next()).await.unwrap();
        assert!(next.unwrap().unwrap() == bytes[group * G..(group + 1) * G]);
    }
    assert!(stream.next().await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn small_blobs_need_no_list() {
    let home = Home::new();
    let store = home.open().await;
    for size in [0, 1, G - 1, G] {
        let bytes = content(size);
        let partial = store.partials().open(root_of(&bytes), size as u64).await.unwrap();
        assert!(partial.has_groups());
        partial.set_groups(Bytes::new()).await.unwrap();
        fill(&partial, &bytes, 1).await;
        let receipt = partial.finish().await.unwrap();
        assert!(receipt.digests.contains(&sha256_of(&bytes)), "{size}");
        assert!(read_all(&store, &receipt.root).await == bytes, "{size}");
    }
    let lie = store.partials().open(root_of(b"something"), 0).await.unwrap();
    assert!(matches!(lie.finish().await, Err(BlobError::Corrupt { .. })), "nothing is not something");
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_groups_lists_and_ranges_are_refused_and_change_nothing() {
    let home = Home::new();
    let store = home.open().await;
    let bytes = content(4 * G + 10);
    let root = root_of(&bytes);
    let partial = store.partials().open(root, bytes.len() as u64).await.unwrap();
    let early = partial.write(0, bytes.slice(..G)).await;
    assert!(matches!(early, Err(BlobError::Incomplete(_))), "no group can be checked without the list");
    let list = list_of(&bytes).await;
    let mut wrong = BytesMut::from(&list[..]);
    wrong[9] ^= 1;
    for bad in [wrong.freeze(), list.slice(32..), Bytes::new()] {
        assert!(matches!(partial.set_groups(bad).await, Err(BlobError::Corrupt { at: 0, .. })));
    }
    partial.set_groups(list).await.unwrap();

    let mut flipped = BytesMut::from(&bytes[..3 * G]);
    flipped[2 * G + 1] ^= 1;
    let bad = partial.write(0, flipped.freeze()).await;
    assert!(matches!(bad, Err(BlobError::Corrupt { at, .. }) if at == 2 * GROUP), "{bad:?}");
    let misplaced = partial.write(GROUP, bytes.slice(..G)).await;
    assert!(matches!(misplaced, Err(BlobError::Corrupt { .. })), "right bytes in a wrong place");
    for (start, from, to) in
        [(1, 0, G), (0, 0, G - 1), (4 * G, 0, 11), (5 * G, 0, 1), (4 * G, 4 * G, 4 * G + 9)]
    {
        let refused = partial.write(start as u64, bytes.slice(from..to)).await;
        assert!(matches!(refused, Err(BlobError::Range { .. })), "{start} {from}..{to}: {refused:?}");
    }
    assert!(matches!(
        partial.write(u64::MAX - GROUP + 1, bytes.slice(..G)).await,
        Err(BlobError::Range { .. })
    ));
    assert_eq!(partial.missing(0), Some(0..bytes.len() as u64));
    assert!(matches!(partial.finish().await, Err(BlobError::Incomplete(_))));
    fill(&partial, &bytes, 2).await;
    partial.finish().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_runs_are_whole_groups() {
    let home = Home::new();
    let store = home.open().await;
    let bytes = content(10 * G + 1);
    let partial = begun(&store, &bytes).await;
    for group in [2, 3, 7] {
        partial.write(group as u64 * GROUP, bytes.slice(group * G..(group + 1) * G)).await.unwrap();
    }
    assert_eq!(partial.missing(0), Some(0..2 * GROUP));
    assert_eq!(partial.missing(GROUP + 5), Some(GROUP..2 * GROUP));
    assert_eq!(partial.missing(2 * GROUP), Some(4 * GROUP..7 * GROUP));
    assert_eq!(partial.missing(7 * GROUP + 1), Some(8 * GROUP..10 * GROUP + 1));
    assert_eq!(partial.missing(11 * GROUP), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fetch_survives_a_restart_with_what_was_saved() {
    let home = Home::new();
    let bytes = content(20 * G + 100);
    let root = root_of(&bytes);
    let store = home.open().await;
    let partial = begun(&store, &bytes).await;
    partial.write(0, bytes.slice(..12 * G)).await.unwrap();
    store.close().await.unwrap();
    // Written, but no checkpoint says so.
    partial.write(15 * GROUP, bytes.slice(15 * G..16 * G)).await.unwrap();
    drop((partial, store));

    let store = home.open().await;
    let partial = store.partials().open(root, bytes.len() as u64).await.unwrap();
    assert!(partial.has_groups(), "the list is kept too");
    assert_eq!(partial.missing(0), Some(12 * GROUP..bytes.len() as u64));
    let reader = tokio::spawn(drain(partial.read(0..bytes.len() as u64)));
    fill(&partial, &bytes, 3).await;
    assert!(partial.finish().await.unwrap().digests.contains(&sha256_of(&bytes)));
    assert!(reader.await.unwrap().0 == bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_fetch_saves_itself_on_the_way() {
    let home = Home::new();
    let bytes = content(80 << 20);
    let root = root_of(&bytes);
    let store = home.open().await;
    let partial = begun(&store, &bytes).await;
    partial.write(0, bytes.slice(..70 << 20)).await.unwrap();
    // The checkpoint runs beside; finishing it is what `close` waits for as well.
    let saved = async {
        loop {
            let fresh = Home { dir: tempfile::tempdir().unwrap(), kv: home.kv.clone() };
            drop(fresh);
            if clawhub_kv::KvRead::get(&*home.kv, &[&b"partial/"[..], &root.0].concat()).unwrap().is_some() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), saved).await.unwrap();
    drop((partial, store));
    let store = home.open().await;
    let partial = store.partials().open(root, bytes.len() as u64).await.unwrap();
    assert_eq!(partial.missing(0), Some(70 << 20..80 << 20));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fetch_without_a_checkpoint_starts_again() {
    let home = Home::new();
    let bytes = content(3 * G);
    let store = home.open().await;
    let partial = begun(&store, &bytes).await;
    fill(&partial, &bytes, 1).await;
    drop((partial, store));
    let store = home.open().await;
    assert!(home.names("partial").is_empty(), "files that no row speaks for");
    let partial = store.partials().open(root_of(&bytes), 3 * GROUP).await.unwrap();
    assert_eq!(partial.missing(0), Some(0..3 * GROUP));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_went_bad_during_a_restart_is_fetched_again() {
    let home = Home::new();
    let bytes = content(6 * G);
    let root = root_of(&bytes);
    let store = home.open().await;
    let partial = begun(&store, &bytes).await;
    fill(&partial, &bytes, 6).await;
    store.close().await.unwrap();
    drop((partial, store));
    flip(&home.partial(&root, "data"), 3 * GROUP + 8);

    let store = home.open().await;
    let partial = store.partials().open(root, 6 * GROUP).await.unwrap();
    assert_eq!(partial.missing(0), None, "nothing looks wrong yet");
    assert!(matches!(partial.finish().await, Err(BlobError::Incomplete(_))));
    assert_eq!(partial.missing(0), Some(3 * GROUP..4 * GROUP));
    let reader = tokio::spawn(drain(partial.read(0..6 * GROUP)));
    fill(&partial, &bytes, 1).await;
    assert!(reader.await.unwrap().0 == bytes);
    partial.finish().await.unwrap();
    assert!(read_all(&store, &root).await == bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_reaches_the_readers_of_then_and_the_bytes_stay() {
    let home = Home::new();
    let store = home.open().await;
    let bytes = content(4 * G);
    let partial = begun(&store, &bytes).await;
    partial.write(0, bytes.slice(..2 * G)).await.unwrap();
    let reader = tokio::spawn(drain(partial.read(0..4 * GROUP)));
    let mut behind = std::pin::pin!(partial.read(0..4 * GROUP));
    assert!(behind.next().await.unwrap().unwrap() == bytes[..2 * G]);
    assert!(futures::poll!(behind.next()).is_pending());
    partial.fail("every source is gone".into()).await;
    let error = behind.next().await.unwrap().unwrap_err();
    assert!(
        matches!(&error, BlobError::FetchFailed(reason) if reason == "every source is gone"),
        "{error:?}"
    );
    assert!(matches!(reader.await.unwrap().1, Some(BlobError::FetchFailed(_))));

    let again = store.partials().open(root_of(&bytes), 4 * GROUP).await.unwrap();
    assert_eq!(again.missing(0), Some(2 * GROUP..4 * GROUP));
    let reader = tokio::spawn(drain(again.read(0..4 * GROUP)));
    fill(&again, &bytes, 1).await;
    let (got, error) = reader.await.unwrap();
    assert!(error.is_none() && got == bytes);
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn a_reader_does_not_wait_for_ever() {
    let home = Home::new();
    let store = home.open().await;
    let bytes = content(2 * G);
    let partial = store.partials().open(root_of(&bytes), 2 * GROUP).await.unwrap();
    let before = tokio::time::Instant::now();
    let (got, error) = drain(partial.read(0..2 * GROUP)).await;
    assert!(got.is_empty() && matches!(error, Some(BlobError::Stalled(_))));
    assert!(before.elapsed() >= Duration::from_secs(60));
}

/// Blocks that a file takes, in bytes.
fn taken(path: &std::path::Path) -> u64 {
    std::os::unix::fs::MetadataExt::blocks(&std::fs::metadata(path).unwrap()) * 512
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fetch_takes_room_as_its_bytes_come_and_none_if_none_come() {
    let home = Home::new();
    let store = home.open().await;
    let bytes = content(64 * G);
    let (root, size) = (root_of(&bytes), bytes.len() as u64);
    let partial = begun(&store, &bytes).await;
    let file = home.partial(&root, "data");
    assert!(taken(&file) < GROUP, "{} bytes for nothing", taken(&file));
    partial.write(0, bytes.slice(..8 * G)).await.unwrap();
    store.close().await.unwrap();
    assert!((8 * GROUP..16 * GROUP).contains(&taken(&file)), "{} bytes for half a MiB", taken(&file));
    partial.fail("gone".into()).await;
    assert_eq!(home.names("partial").len(), 2, "what came is kept");
    partial.give_up("no room".into()).await;
    assert!(home.names("partial").is_empty());
    let late = partial.write(8 * GROUP, bytes.slice(8 * G..9 * G)).await;
    assert!(matches!(late, Err(BlobError::FetchFailed(_))), "{late:?}");

    // One that gets nothing leaves nothing, and the next one begins anew although the old one is still held.
    let none = begun(&store, &bytes).await;
    assert_eq!(none.missing(0), Some(0..size));
    none.fail("every holder is away".into()).await;
    assert!(home.names("partial").is_empty());
    let next = begun(&store, &bytes).await;
    none.fail("once more".into()).await;
    fill(&next, &bytes, 8).await;
    next.finish().await.unwrap();
    assert!(read_all(&store, &root).await == bytes);
    assert!(home.names("partial").is_empty());
    drop((partial, none, next, store));
    assert!(read_all(&home.open().await, &root).await == bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_held_root_is_not_fetched_and_an_upload_may_overtake_a_fetch() {
    let home = Home::new();
    let store = home.open().await;
    let bytes = content(3 * G);
    let root = root_of(&bytes);
    let partial = begun(&store, &bytes).await;
    let other_size = store.partials().open(root, 2 * GROUP).await.map(|_| ());
    assert!(matches!(other_size, Err(BlobError::Range { .. })));
    fill(&partial, &bytes, 1).await;
    stored(&store, 1, &bytes).await;
    let held = store.partials().open(root, 3 * GROUP).await.map(|_| ());
    assert!(matches!(held, Err(BlobError::Held(it)) if it == root));
    assert_eq!(partial.finish().await.unwrap().root, root);
    assert!(store.cache().usage().copies == 0, "the upload's copy stands");
    assert!(home.names("partial").is_empty());
    assert!(read_all(&store, &root).await == bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn sha512_is_computed_where_it_is_wanted() {
    let home = Home::new();
    let store = home.open().await;
    let bytes = content(2 * G + 2);
    let partial = begun(&store, &bytes).await;
    fill(&partial, &bytes, 1).await;
    partial.want_sha512();
    assert!(partial.finish().await.unwrap().digests.contains(&sha512_of(&bytes)));
}

#[tokio::test(flavor = "multi_thread")]
async fn forgotten_fetches_expire_and_those_in_use_do_not() {
    let home = Home::new();
    let store = home.open().await;
    let (a, b) = (content(2 * G), content(3 * G));
    let (partial, used) = (begun(&store, &a).await, begun(&store, &b).await);
    partial.write(0, a.slice(..G)).await.unwrap();
    store.close().await.unwrap();
    drop(partial);
    assert_eq!(store.expire(Duration::from_secs(3600)).await, 0);
    assert_eq!(store.expire(Duration::ZERO).await, 1);
    assert_eq!(home.names("partial").len(), 2, "data and list of the one in use");
    fill(&used, &b, 1).await;
    used.finish().await.unwrap();

    // One that only its row remembers, whatever the machine's clock said when it was written.
    let partial = begun(&store, &a).await;
    partial.write(0, a.slice(..G)).await.unwrap();
    store.close().await.unwrap();
    drop((partial, used, store));
    let store = home.open().await;
    assert_eq!(store.expire(Duration::from_secs(3600)).await, 0);
    assert_eq!(store.expire(Duration::ZERO).await, 1);
    assert!(home.names("partial").is_empty());
}
