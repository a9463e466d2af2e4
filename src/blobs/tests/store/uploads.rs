//! Sessions: one pass, offsets, resuming, ending.

use std::time::Duration;

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn every_boundary_size_is_hashed_stored_and_read_back() {
    let home = Home::new();
    let store = home.open().await;
    let sizes = [
        (0, "an empty blob: OCI's empty layers and configs exist"),
        (1, "less than a BLAKE3 chunk"),
        (1023, "just under a BLAKE3 chunk"),
        (1024, "one chunk"),
        (G - 1, "just under a group"),
        (G, "one group: root is the plain hash, no list"),
        (G + 1, "the first list, of two values"),
        (2 * G, "two full groups"),
        (3 * G, "an unbalanced tree"),
        (5 * G + 1, "a last group of one byte"),
        ((1 << 20) + 1, "just over the largest slice that is queued"),
        (40 << 20, "more than an early fdatasync and a buffer of group values"),
    ];
    for (number, (size, why)) in (0..).zip(sizes) {
        let bytes = content(size);
        for (nth, step) in [1021, G, G + 1, 3 << 20].into_iter().enumerate() {
            let id = UploadId { node: NodeId(number), random: [nth as u8; 16] };
            store.uploads().begin(id, &repo(), false).await.unwrap();
            append(&store, id, &bytes, if size > 1 << 21 { step.max(9999) } else { step }).await;
            let sealed = store.uploads().seal(id, &sha256_of(&bytes)).await.unwrap();
            let plain = Root(*blake3::hash(&bytes).as_bytes());
            assert_eq!((sealed.root, sealed.size), (plain, size as u64), "{why}");
            let receipt = store.uploads().keep(id, &sealed, 3).await.unwrap();
            assert_eq!((receipt.node, receipt.generation, receipt.epoch), (NodeId(7), 3, 0));
            assert_eq!((receipt.root, receipt.size), (sealed.root, sealed.size));
            assert_eq!(receipt.digests, sealed.digests);
            assert!(store.uploads().status(id).is_none());
        }
        let root = root_of(&bytes);
        assert_eq!(store.holds(&root), Some(size as u64));
        let list = std::fs::metadata(home.blob(&root, "ob")).map_or(0, |file| file.len() as usize);
        assert_eq!(list, if size <= G { 0 } else { size.div_ceil(G) * 32 }, "{why}");
        assert!(read_all(&store, &root).await == bytes, "{why}");
    }
    assert!(home.names("uploads").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn single_bytes_make_the_same_blob() {
    let home = Home::new();
    let store = home.open().await;
    let bytes = content(3000);
    store.uploads().begin(id(1), &repo(), true).await.unwrap();
    append(&store, id(1), &bytes, 1).await;
    let sealed = store.uploads().seal(id(1), &sha512_of(&bytes)).await.unwrap();
    assert_eq!(sealed.root, root_of(&bytes));
    assert!(sealed.digests.contains(&sha256_of(&bytes)));
}

#[tokio::test(flavor = "multi_thread")]
async fn sha512_is_the_same_on_the_way_and_afterwards() {
    let home = Home::new();
    let store = home.open().await;
    let bytes = content(2 * G + 17);
    for (number, ahead) in [(1, true), (2, false)] {
        store.uploads().begin(id(number), &repo(), ahead).await.unwrap();
        append(&store, id(number), &bytes, 50_000).await;
        let sealed = store.uploads().seal(id(number), &sha512_of(&bytes)).await.unwrap();
        assert!(sealed.digests.contains(&sha512_of(&bytes)) && sealed.digests.contains(&sha256_of(&bytes)));
        let receipt = store.uploads().keep(id(number), &sealed, 1).await.unwrap();
        assert_eq!(receipt.digests, sealed.digests);
    }
    // A later upload under SHA-256 alone does not lose the other name.
    stored(&store, 3, &bytes).await;
    let receipt = store.receipt(&root_of(&bytes), 1).await.unwrap().unwrap();
    assert!(receipt.digests.contains(&sha512_of(&bytes)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_name_is_added_to_a_held_blob() {
    let home = Home::new();
    let store = home.open().await;
    let bytes = content(G + 9);
    assert_eq!(stored(&store, 1, &bytes).await.digests.sha512, None);
    store.uploads().begin(id(2), &repo(), true).await.unwrap();
    append(&store, id(2), &bytes, 1 << 20).await;
    let sealed = store.uploads().seal(id(2), &sha512_of(&bytes)).await.unwrap();
    store.uploads().keep(id(2), &sealed, 1).await.unwrap();
    home.kv.crash();
    let store = home.open().await;
    assert!(store.receipt(&root_of(&bytes), 1).await.unwrap().unwrap().digests.contains(&sha512_of(&bytes)));
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_next_byte_is_accepted() {
    let home = Home::new();
    let store = home.open().await;
    store.uploads().begin(id(1), &repo(), false).await.unwrap();
    store.uploads().append(id(1), 0, content(100)).await.unwrap();
    for wrong in [0, 99, 101, u64::MAX] {
        let refused = store.uploads().append(id(1), wrong, content(1)).await;
        assert!(matches!(refused, Err(BlobError::Offset { expected: 100 })), "{wrong}: {refused:?}");
    }
    assert_eq!(store.uploads().append(id(1), 100, Bytes::new()).await.unwrap(), 100);
    assert_eq!(store.uploads().status(id(1)).unwrap().offset, 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_appends_at_one_offset_one_wins() {
    let home = Home::new();
    let store = home.open().await;
    store.uploads().begin(id(1), &repo(), false).await.unwrap();
    let appends = (0..8).map(|_| {
        let store = store.clone();
        tokio::spawn(async move { store.uploads().append(id(1), 0, content(2 << 20)).await })
    });
    let outcomes: Vec<_> = futures::future::join_all(appends.collect::<Vec<_>>()).await;
    let won = outcomes.iter().filter(|outcome| matches!(outcome, Ok(Ok(_)))).count();
    assert_eq!(won, 1);
    assert!(store.uploads().seal(id(1), &sha256_of(&content(2 << 20))).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_digest_leaves_the_session_usable() {
    let home = Home::new();
    let store = home.open().await;
    let bytes = content(3 * G);
    store.uploads().begin(id(1), &repo(), false).await.unwrap();
    append(&store, id(1), &bytes.slice(..G + 5), 1 << 20).await;
    match store.uploads().seal(id(1), &sha256_of(&bytes)).await {
        Err(BlobError::DigestMismatch { expected, actual }) => {
            assert_eq!((*expected, *actual), (sha256_of(&bytes), sha256_of(&bytes[..G + 5])));
        }
        other => panic!("{other:?}"),
    }
    append(&store, id(1), &bytes, 1 << 20).await;
    let sealed = store.uploads().seal(id(1), &sha256_of(&bytes)).await.unwrap();
    store.uploads().keep(id(1), &sealed, 1).await.unwrap();
    assert!(read_all(&store, &root_of(&bytes)).await == bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_sealed_is_kept_and_nothing_else() {
    let home = Home::new();
    let store = home.open().await;
    let bytes = content(2 * G);
    let sealed = staged(&store, id(1), &bytes).await;
    store.uploads().append(id(1), bytes.len() as u64, content(1)).await.unwrap();
    assert!(matches!(store.uploads().keep(id(1), &sealed, 1).await, Err(BlobError::Unsealed(_))));
    assert_eq!(store.holds(&sealed.root), None);
    assert_eq!(store.uploads().status(id(1)).unwrap().offset, bytes.len() as u64 + 1);

    // Sealing by another name of the same bytes takes nothing back.
    let sealed = staged(&store, id(2), &bytes).await;
    store.uploads().seal(id(2), &sha512_of(&bytes)).await.unwrap();
    assert!(store.uploads().keep(id(2), &sealed, 1).await.unwrap().digests.contains(&sha512_of(&bytes)));
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_and_ended_sessions_are_told_apart_from_nothing_else() {
    let home = Home::new();
    let store = home.open().await;
    let bytes = content(10);
    let sealed = staged(&store, id(1), &bytes).await;
    store.uploads().keep(id(1), &sealed, 1).await.unwrap();
    staged(&store, id(2), &bytes).await;
    store.uploads().cancel(id(2)).await.unwrap();
    assert!(!home.upload(id(2)).exists());
    for gone in [id(1), id(2), id(3)] {
        assert!(store.uploads().status(gone).is_none());
        let unknown = |outcome: Result<(), BlobError>| {
            assert!(matches!(outcome, Err(BlobError::UploadUnknown(it)) if it == gone), "{outcome:?}");
        };
        unknown(store.uploads().append(gone, 0, content(1)).await.map(drop));
        unknown(store.uploads().flush(gone).await.map(drop));
        unknown(store.uploads().seal(gone, &sha256_of(&bytes)).await.map(drop));
        unknown(store.uploads().keep(gone, &sealed, 1).await.map(drop));
        unknown(store.uploads().cancel(gone).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn opening_twice_is_fine_but_not_for_another_repository() {
    let home = Home::new();
    let store = home.open().await;
    store.uploads().begin(id(1), &repo(), false).await.unwrap();
    store.uploads().append(id(1), 0, content(5)).await.unwrap();
    store.uploads().begin(id(1), &repo(), false).await.unwrap();
    assert_eq!(store.uploads().status(id(1)).unwrap().offset, 5);
    let other = store.uploads().begin(id(1), &"other/app".parse().unwrap(), false).await;
    assert!(matches!(other, Err(BlobError::UploadTaken(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_resumes_at_the_flushed_offset() {
    let home = Home::new();
    let bytes = content(5 * G + 333);
    let durable = 3 * G + 5;
    {
        let store = home.open().await;
        store.uploads().begin(id(1), &repo(), true).await.unwrap();
        append(&store, id(1), &bytes.slice(..durable), 10_000).await;
        assert_eq!(store.uploads().flush(id(1)).await.unwrap(), durable as u64);
        // These reach the file, but no flush says so: a restart must not count them.
        append(&store, id(1), &bytes.slice(..durable + G), 10_000).await;
        let _ = store.uploads().seal(id(1), &sha256_of(b"")).await;
    }
    home.kv.crash();
    let store = home.open().await;
    let status = store.uploads().status(id(1)).unwrap();
    assert_eq!((status.offset, status.durable), (durable as u64, durable as u64));
    assert_eq!(status.repo, repo());
    let ahead = store.uploads().append(id(1), (durable + G) as u64, content(1)).await;
    assert!(matches!(ahead, Err(BlobError::Offset { expected }) if expected == durable as u64));
    append(&store, id(1), &bytes, 10_000).await;
    let sealed = store.uploads().seal(id(1), &sha512_of(&bytes)).await.unwrap();
    assert_eq!(sealed.root, root_of(&bytes));
    store.uploads().keep(id(1), &sealed, 1).await.unwrap();
    assert!(read_all(&store, &sealed.root).await == bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_beyond_the_flushed_offset_are_cut_off_by_a_restart() {
    let home = Home::new();
    let bytes = content(2 * G + 1);
    {
        let store = home.open().await;
        store.uploads().begin(id(1), &repo(), false).await.unwrap();
        append(&store, id(1), &bytes, 1 << 20).await;
        store.uploads().flush(id(1)).await.unwrap();
        store.uploads().append(id(1), 2 * GROUP + 1, content(5 * G)).await.unwrap();
        let _ = store.uploads().seal(id(1), &sha256_of(b"")).await;
    }
    assert_eq!(std::fs::metadata(home.upload(id(1)).join("data")).unwrap().len(), 7 * GROUP + 1);
    let store = home.open().await;
    let sealed = store.uploads().seal(id(1), &sha256_of(&bytes)).await.unwrap();
    store.uploads().keep(id(1), &sealed, 1).await.unwrap();
    assert!(read_all(&store, &sealed.root).await == bytes);
}

async fn read_back(store: &BlobStore, id: UploadId) -> BytesMut {
    let mut read = BytesMut::new();
    loop {
        let piece = store.uploads().read_durable(id, read.len() as u64, 300_007).await.unwrap();
        if piece.is_empty() {
            return read;
        }
        read.extend_from_slice(&piece);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_durable_can_be_read_back_and_nothing_else() {
    let home = Home::new();
    // More than goes through the cache, and a flush in the middle of a direct block.
    let bytes = content((10 << 20) + 77);
    let durable = (9 << 20) + 33;
    let store = home.open().await;
    store.uploads().begin(id(1), &repo(), false).await.unwrap();
    append(&store, id(1), &bytes.slice(..durable), 700_001).await;
    assert!(store.uploads().read_durable(id(1), 0, 100).await.unwrap().is_empty(), "nothing is durable yet");
    store.uploads().flush(id(1)).await.unwrap();
    append(&store, id(1), &bytes, 700_001).await;
    assert!(read_back(&store, id(1)).await == bytes.slice(..durable));
    drop(store);
    // The same from a file that is opened again for it.
    let store = home.open().await;
    assert!(read_back(&store, id(1)).await == bytes.slice(..durable));
    assert!(store.uploads().read_durable(id(1), 1 << 40, 1).await.unwrap().is_empty());
    let piece = store.uploads().read_durable(id(1), 5, usize::MAX).await.unwrap();
    assert!(piece == bytes.slice(5..5 + (512 << 10)), "a piece is bounded");
    let unknown = store.uploads().read_durable(id(2), 0, 1).await;
    assert!(matches!(unknown, Err(BlobError::UploadUnknown(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_store_loses_no_byte_of_a_session() {
    let home = Home::new();
    let bytes = content(2 * G + 1);
    let store = home.open().await;
    store.uploads().begin(id(1), &repo(), false).await.unwrap();
    append(&store, id(1), &bytes, 1 << 20).await;
    store.close().await.unwrap();
    drop(store);
    home.kv.crash();
    let store = home.open().await;
    assert_eq!(store.uploads().status(id(1)).unwrap().durable, bytes.len() as u64);
    // Sealing and keeping need no append after the restart.
    let sealed = store.uploads().seal(id(1), &sha256_of(&bytes)).await.unwrap();
    store.uploads().keep(id(1), &sealed, 1).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_never_flushed_survives_the_process_but_not_the_machine() {
    let home = Home::new();
    let store = home.open().await;
    staged(&store, id(1), &content(100)).await;
    drop(store);
    let store = home.open().await;
    assert_eq!(store.uploads().status(id(1)).unwrap().offset, 0);
    drop(store);
    let home = Home::new();
    let store = home.open().await;
    staged(&store, id(1), &content(100)).await;
    drop(store);
    home.kv.crash();
    assert!(home.open().await.uploads().status(id(1)).is_none());
    assert!(home.names("uploads").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_without_a_byte_leaves_nothing_on_disk() {
    let home = Home::new();
    let store = home.open().await;
    store.uploads().begin(id(1), &repo(), false).await.unwrap();
    // Asking how far it has got is no use of it.
    assert_eq!(store.uploads().flush(id(1)).await.unwrap(), 0);
    assert!(home.names("uploads").is_empty(), "a directory");
    store.close().await.unwrap();
    drop(store);
    let store = home.open().await;
    assert!(store.uploads().status(id(1)).is_none(), "a row");

    store.uploads().begin(id(2), &repo(), false).await.unwrap();
    store.uploads().append(id(2), 0, content(1)).await.unwrap();
    drop(store);
    assert_eq!(
        home.open().await.uploads().status(id(2)).unwrap().offset,
        0,
        "the row comes with the first byte"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_sessions_expire_by_their_last_use() {
    let home = Home::new();
    let store = home.open().await;
    staged(&store, id(1), &content(G)).await;
    store.uploads().flush(id(1)).await.unwrap();
    staged(&store, id(2), &content(1)).await;
    assert_eq!(store.expire(Duration::from_secs(3600)).await, 0);
    drop(store);
    let store = home.open().await;
    assert_eq!(store.expire(Duration::from_secs(3600)).await, 0, "not for being old at the start");
    assert_eq!(store.expire(Duration::ZERO).await, 2);
    assert!(store.uploads().status(id(1)).is_none() && store.uploads().status(id(2)).is_none());
    assert!(home.names("uploads").is_empty());
    drop(store);
    assert!(home.open().await.uploads().status(id(1)).is_none());
}

/// What the store keeps of a session, with this in place of the time at which it was last used.
fn row_touched_at(id: UploadId, durable: u64, touched_at: u64) -> (Vec<u8>, Vec<u8>) {
    let key = [&b"upload/"[..], &id.node.0.to_be_bytes(), &id.random].concat();
    let row = (repo(), false, 7u64, touched_at, durable, 0u64);
    (key, postcard::to_extend(&row, vec![0, 1]).unwrap())
}

/// How many sessions and fetches end that were idle for a day, after so many seconds more.
pub(super) async fn expire_after(store: &BlobStore, seconds: u64) -> usize {
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(seconds)).await;
    tokio::time::resume();
    store.expire(Duration::from_secs(24 * 3600)).await
}

#[tokio::test(flavor = "current_thread")]
async fn a_wrong_clock_at_a_start_ends_no_session() {
    const HOUR: u64 = 3600;
    let home = Home::new();
    let store = home.open().await;
    staged(&store, id(1), &content(G)).await;
    store.uploads().flush(id(1)).await.unwrap();
    store.close().await.unwrap();
    drop(store);
    // Some time of the machine's that is not now: two days ago, and one to come.
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let now = now.as_millis() as u64;
    for touched_at in [now - 2 * 24 * HOUR * 1000, now + 2 * 24 * HOUR * 1000] {
        let mut batch = clawhub_kv::Batch::default();
        let (key, row) = row_touched_at(id(1), GROUP, touched_at);
        batch.put(key, row);
        clawhub_kv::Kv::write(&*home.kv, batch).unwrap();
        let store = home.open().await;
        assert_eq!(expire_after(&store, 0).await, 0);
        assert_eq!(store.uploads().status(id(1)).unwrap().durable, GROUP);
    }

    // What counts is the time in which the store is open, over all its lives.
    let store = home.open().await;
    staged(&store, id(2), &content(G)).await;
    store.uploads().flush(id(2)).await.unwrap();
    store.close().await.unwrap();
    drop(store);
    home.open().await.uploads().cancel(id(1)).await.unwrap();
    for (hours, left) in [(12, true), (11, true), (2, false)] {
        let store = home.open().await;
        assert_eq!(expire_after(&store, hours * HOUR).await, usize::from(!left));
        assert_eq!(store.uploads().status(id(2)).is_some(), left);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_space_nothing_begins_and_sessions_keep_their_place() {
    let home = Home::new();
    let bytes = content(2 * G);
    let store = home.open().await;
    let kept = stored(&store, 9, &content(99)).await;
    store.uploads().begin(id(1), &repo(), false).await.unwrap();
    append(&store, id(1), &bytes.slice(..G), 1 << 20).await;
    store.uploads().flush(id(1)).await.unwrap();
    drop(store);

    let store = home.open_with(u64::MAX).await.unwrap();
    let full = |outcome: Result<(), BlobError>| {
        assert!(matches!(outcome, Err(BlobError::NoSpace { free }) if free > 0), "{outcome:?}");
    };
    assert!(!store.accepts());
    full(store.uploads().begin(id(2), &repo(), false).await);
    full(store.uploads().append(id(1), G as u64, bytes.slice(G..)).await.map(drop));
    full(store.replicas().put(content(1), 1).await.map(drop));
    full(store.partials().open(root_of(b"x"), 1).await.map(drop));
    assert_eq!(store.uploads().status(id(1)).unwrap().offset, G as u64);
    assert!(read_all(&store, &kept.root).await == content(99), "reads go on");
    drop(store);

    let store = home.open().await;
    assert!(store.accepts());
    append(&store, id(1), &bytes, 1 << 20).await;
    let sealed = store.uploads().seal(id(1), &sha256_of(&bytes)).await.unwrap();
    store.uploads().keep(id(1), &sealed, 1).await.unwrap();
}
