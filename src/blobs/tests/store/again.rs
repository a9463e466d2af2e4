//! Sessions whose client sends something again: what goes for it, and what is remembered of those that ended.

use std::time::Duration;

use clawhub_types::Algorithm;

use super::*;

#[tokio::test]
async fn what_is_cut_back_is_gone_and_the_rest_stays() {
    let home = Home::new();
    let bytes = content((9 << 20) + 77);
    let kept = 2 * G + 5;
    for from_cold in [false, true] {
        let mut store = home.open().await;
        let id = id(1 + u8::from(from_cold));
        store.uploads().begin(id, &repo(), true).await.unwrap();
        append(&store, id, &bytes.slice(..kept), 10_000).await;
        store.uploads().acknowledge(id, kept as u64).await.unwrap();
        store.uploads().append(id, kept as u64, content(10 << 20)).await.unwrap();
        assert_eq!(store.uploads().sync(id).await.unwrap(), (kept + (10 << 20)) as u64);
        assert_eq!(store.uploads().status(id).unwrap().durable, kept as u64, "not recorded yet");
        store.uploads().flush(id).await.unwrap();
        if from_cold {
            drop(store);
            store = home.open().await;
        }
        let status = store.uploads().status(id).unwrap();
        assert_eq!((status.durable, status.acknowledged), ((kept + (10 << 20)) as u64, kept as u64));
        store.uploads().cut_back(id, kept as u64).await.unwrap();
        let status = store.uploads().status(id).unwrap();
        assert_eq!(
            (status.offset, status.durable, status.acknowledged),
            (kept as u64, kept as u64, kept as u64)
        );
        assert_eq!(store.uploads().read_durable(id, 0, 1 << 20).await.unwrap(), bytes.slice(..kept));
        store.uploads().append(id, kept as u64, bytes.slice(kept..)).await.unwrap();
        let sealed = store.uploads().seal(id, &sha512_of(&bytes)).await.unwrap();
        let whole = store.uploads().prefix_digest(id, bytes.len() as u64, Algorithm::Sha256).await.unwrap();
        assert_eq!(whole, sha256_of(&bytes));
        let prefix = store.uploads().prefix_digest(id, kept as u64, Algorithm::Sha512).await.unwrap();
        assert_eq!(prefix, sha512_of(&bytes.slice(..kept)));
        store.uploads().keep(id, &sealed, 1).await.unwrap();
    }
}

#[tokio::test(flavor = "current_thread")]
async fn what_was_hashed_is_not_read_again() {
    let home = Home::new();
    let store = home.open().await;
    let bytes = content((3 << 20) + 77);
    let (told, more) = ((1 << 20) + 5, (2 << 20) + 5);
    store.uploads().begin(id(1), &repo(), true).await.unwrap();
    append(&store, id(1), &bytes.slice(..told), 100_000).await;
    store.uploads().acknowledge(id(1), told as u64).await.unwrap();
    // What is read again from here on is not what the client sent.
    flip(&home.upload(id(1)).join("data"), 10);
    for lost in [100, 2 << 20] {
        store.uploads().append(id(1), told as u64, content(lost)).await.unwrap();
        store.uploads().flush(id(1)).await.unwrap();
        store.uploads().cut_back(id(1), told as u64).await.unwrap();
    }
    append(&store, id(1), &bytes.slice(..more), 100_000).await;
    assert_eq!(super::uploads::expire_after(&store, 601).await, 0, "its files are closed");
    append(&store, id(1), &bytes, 100_000).await;
    let sealed = store.uploads().seal(id(1), &sha512_of(&bytes)).await.unwrap();
    assert_eq!((sealed.root, sealed.size), (root_of(&bytes), bytes.len() as u64));
    // The list is whole, too.
    flip(&home.upload(id(1)).join("data"), 10);
    let kept = store.uploads().keep(id(1), &sealed, 1).await.unwrap();
    drop(store);
    assert!(read_all(&home.open().await, &kept.root).await == bytes);
}

#[tokio::test]
async fn a_crash_after_the_cut_finds_what_was_left() {
    let home = Home::new();
    let bytes = content(5 * G);
    let store = home.open().await;
    store.uploads().begin(id(1), &repo(), false).await.unwrap();
    append(&store, id(1), &bytes, 1 << 20).await;
    store.uploads().flush(id(1)).await.unwrap();
    store.uploads().cut_back(id(1), GROUP).await.unwrap();
    store.uploads().append(id(1), GROUP, content(3 * G)).await.unwrap();
    drop(store);
    home.kv.crash();
    let store = home.open().await;
    assert_eq!(store.uploads().status(id(1)).unwrap().offset, GROUP);
    store.uploads().append(id(1), GROUP, bytes.slice(G..)).await.unwrap();
    store.uploads().seal(id(1), &sha256_of(&bytes)).await.unwrap();
}

#[tokio::test]
async fn what_became_of_an_upload_outlives_the_process() {
    let home = Home::new();
    let bytes = content(3 * G);
    let (mine, other) = (id(1), UploadId { node: NodeId(8), random: [1; 16] });
    {
        let store = home.open().await;
        for id in [mine, other] {
            let sealed = staged(&store, id, &bytes).await;
            assert_eq!(store.uploads().finished(id).unwrap(), None);
            store.uploads().keep(id, &sealed, 1).await.unwrap();
        }
    }
    let store = home.open().await;
    let finished = store.uploads().finished(mine).unwrap().unwrap();
    assert_eq!((finished.repo, finished.root), (repo(), root_of(&bytes)));
    assert!(finished.digests.contains(&sha256_of(&bytes)));
    assert_eq!(store.uploads().finished(other).unwrap(), None, "its owner remembers it");
    store.expire(Duration::ZERO).await;
    assert!(store.uploads().finished(mine).unwrap().is_some(), "it is remembered for a day");
}

const HOUR: u64 = 3600;

/// Whether the store knows what the session became, after so many seconds more.
async fn remembers_after(store: &BlobStore, seconds: u64) -> bool {
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(seconds)).await;
    tokio::time::resume();
    store.expire(Duration::from_secs(24 * HOUR)).await;
    store.uploads().finished(id(1)).unwrap().is_some()
}

#[tokio::test(flavor = "current_thread")]
async fn what_became_of_an_upload_is_remembered_for_a_day_of_the_store() {
    let home = Home::new();
    let store = home.open().await;
    let sealed = staged(&store, id(1), &content(G)).await;
    store.uploads().keep(id(1), &sealed, 1).await.unwrap();
    assert!(remembers_after(&store, 12 * HOUR).await);
    store.close().await.unwrap();
    drop(store);
    let store = home.open().await;
    assert!(remembers_after(&store, 11 * HOUR).await);
    assert!(!remembers_after(&store, 2 * HOUR).await);
}

#[tokio::test(flavor = "current_thread")]
async fn a_machine_whose_clock_is_wrong_forgets_no_upload_for_it() {
    let home = Home::new();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let now = now.as_millis() as u64;
    for at in [0, now - 48 * HOUR * 1000, now + 48 * HOUR * 1000] {
        let mut batch = clawhub_kv::Batch::default();
        let key = [&b"finished/"[..], &id(1).node.0.to_be_bytes(), &id(1).random].concat();
        let row = (repo(), [1u8; 32], [2u8; 32], None::<u8>, at);
        batch.put(key, postcard::to_extend(&row, vec![0, 1]).unwrap());
        clawhub_kv::Kv::write(&*home.kv, batch).unwrap();
        let store = home.open().await;
        assert!(remembers_after(&store, 0).await, "{at}");
    }
}
