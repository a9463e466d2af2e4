//! What is on disk after a crash at each step of the commit order, and what the next start makes of it.

use std::fs;

use clawhub_kv::{Batch, Kv, KvRead};

use super::*;

/// A session with everything flushed, as it is just before its files are moved.
async fn flushed(home: &Home, bytes: &Bytes) -> Sealed {
    let store = home.open().await;
    let sealed = staged(&store, id(1), bytes).await;
    store.uploads().flush(id(1)).await.unwrap();
    sealed
}

/// The files of a replica, made in another store: what `keep` moves into place.
async fn replica_files(bytes: &Bytes) -> (Home, PathBuf, PathBuf) {
    let home = Home::new();
    let root = home.open().await.replicas().put(bytes.clone(), 1).await.unwrap().root;
    let (data, ob) = (home.blob(&root, "data"), home.blob(&root, "ob"));
    (home, data, ob)
}

/// Moves a list, and with `data` the data too, to where a rename before the crash would have.
async fn renamed(home: &Home, bytes: &Bytes, data: bool) {
    let (_other, from_data, from_ob) = replica_files(bytes).await;
    let (to_data, to_ob) = (home.blob(&root_of(bytes), "data"), home.blob(&root_of(bytes), "ob"));
    fs::create_dir_all(to_ob.parent().unwrap()).unwrap();
    fs::copy(from_ob, to_ob).unwrap();
    let _ = fs::remove_file(home.upload(id(1)).join("ob"));
    if data {
        fs::copy(from_data, to_data).unwrap();
        fs::remove_file(home.upload(id(1)).join("data")).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn before_the_renames_the_session_goes_on() {
    let home = Home::new();
    let bytes = content(4 * G + 1);
    let sealed = flushed(&home, &bytes).await;
    home.kv.crash();
    let store = home.open().await;
    assert_eq!(store.uploads().status(id(1)).unwrap().offset, bytes.len() as u64);
    store.uploads().keep(id(1), &sealed, 1).await.unwrap();
    assert!(read_all(&store, &sealed.root).await == bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn between_the_renames_the_list_goes_and_the_session_goes_on() {
    let home = Home::new();
    let bytes = content(4 * G + 1);
    let sealed = flushed(&home, &bytes).await;
    renamed(&home, &bytes, false).await;
    let store = home.open().await;
    assert!(!home.blob(&sealed.root, "ob").exists());
    assert_eq!(store.holds(&sealed.root), None);
    assert_eq!(store.uploads().status(id(1)).unwrap().offset, bytes.len() as u64);
    store.uploads().keep(id(1), &sealed, 1).await.unwrap();
    assert!(read_all(&store, &sealed.root).await == bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn after_the_renames_the_replica_is_finished_and_the_session_is_over() {
    let home = Home::new();
    let bytes = content(4 * G + 1);
    let sealed = flushed(&home, &bytes).await;
    renamed(&home, &bytes, true).await;
    let store = home.open().await;
    assert!(store.uploads().status(id(1)).is_none());
    assert!(home.names("uploads").is_empty());
    let receipt = store.receipt(&sealed.root, 1).await.unwrap().unwrap();
    assert_eq!((receipt.size, receipt.digests), (sealed.size, sealed.digests));
    home.kv.crash();
    assert_eq!(store.holds(&sealed.root), Some(bytes.len() as u64), "the new row is synced");
    assert!(read_all(&store, &sealed.root).await == bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_without_a_row_is_judged_by_its_bytes() {
    let bytes = content(4 * G + 1);
    let root = root_of(&bytes);

    let home = Home::new();
    flushed(&home, &bytes).await;
    renamed(&home, &bytes, true).await;
    truncate(&home.blob(&root, "ob"), 40);
    let store = home.open().await;
    assert!(read_all(&store, &root).await == bytes, "a list can be made anew");

    let home = Home::new();
    flushed(&home, &bytes).await;
    renamed(&home, &bytes, true).await;
    truncate(&home.blob(&root, "data"), 4 * GROUP);
    let store = home.open().await;
    assert_eq!(store.holds(&root), None);
    assert!(!home.blob(&root, "data").exists());
    assert_eq!(home.names("quarantine").len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn after_the_row_only_the_directory_is_left_to_clean() {
    let home = Home::new();
    let bytes = content(G);
    let store = home.open().await;
    let receipt = stored(&store, 1, &bytes).await;
    drop(store);
    fs::create_dir(home.upload(id(1))).unwrap();
    fs::write(home.upload(id(1)).join("ob"), b"").unwrap();
    fs::create_dir(home.dir.path().join("uploads/put-0123")).unwrap();
    let store = home.open().await;
    assert!(home.names("uploads").is_empty());
    assert_eq!(store.receipt(&receipt.root, 1).await.unwrap().unwrap(), receipt);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receipt_is_never_ahead_of_the_disk() {
    for size in [10, 3 * G] {
        let home = Home::new();
        let bytes = content(size);
        let store = home.open().await;
        let receipt = stored(&store, 1, &bytes).await;
        home.kv.crash();
        drop(store);
        let store = home.open().await;
        assert_eq!(store.receipt(&receipt.root, 1).await.unwrap().unwrap(), receipt);
        assert!(read_all(&store, &receipt.root).await == bytes);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn durable_bytes_that_are_gone_end_the_session() {
    let home = Home::new();
    let bytes = content(3 * G);
    flushed(&home, &bytes).await;
    truncate(&home.upload(id(1)).join("data"), 3 * GROUP - 1);
    let store = home.open().await;
    assert!(store.uploads().status(id(1)).is_none());
    assert!(home.names("uploads").is_empty());

    let home = Home::new();
    let store = home.open().await;
    staged(&store, id(1), &bytes).await;
    store.uploads().flush(id(1)).await.unwrap();
    drop(store);
    let store = home.open().await;
    // Gone while the store runs: found out by the first use.
    fs::remove_dir_all(home.upload(id(1))).unwrap();
    let used = store.uploads().append(id(1), 3 * GROUP, content(1)).await;
    assert!(matches!(used, Err(BlobError::UploadUnknown(_))), "{used:?}");
    assert!(store.uploads().status(id(1)).is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_without_files_are_dropped_and_the_rest_is_untouched() {
    let home = Home::new();
    let store = home.open().await;
    let mut roots = Vec::new();
    for size in 0..40 {
        roots.push(store.replicas().put(content(size), 1).await.unwrap().root);
    }
    drop(store);
    for lost in &roots[..20] {
        fs::remove_file(home.blob(lost, "data")).unwrap();
    }
    let store = home.open().await;
    for (size, root) in roots.iter().enumerate() {
        assert_eq!(store.holds(root), (size >= 20).then_some(size as u64));
    }
    assert_eq!(store.inventory(None, 100).len(), 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_removal_returns_the_copy() {
    let home = Home::new();
    let store = home.open().await;
    let bytes = content(2 * G);
    let root = stored(&store, 1, &bytes).await.root;
    drop(store);
    let mut batch = Batch::default();
    batch.delete([&b"blob/"[..], &root.0].concat());
    home.kv.write(batch).unwrap();
    assert!(read_all(&home.open().await, &root).await == bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn partials_need_row_and_file() {
    let home = Home::new();
    let bytes = content(2 * G);
    let root = root_of(&bytes);
    let store = home.open().await;
    let partial = store.partials().open(root, 2 * GROUP).await.unwrap();
    let (_other, _, ob) = replica_files(&bytes).await;
    partial.set_groups(fs::read(ob).unwrap().into()).await.unwrap();
    partial.write(0, bytes.clone()).await.unwrap();
    store.close().await.unwrap();
    drop((partial, store));
    fs::write(home.partial(&root_of(b"stray"), "data"), b"x").unwrap();
    drop(home.open().await);
    assert_eq!(home.names("partial").len(), 2, "the stray is gone, the fetch is there");

    fs::remove_file(home.partial(&root, "data")).unwrap();
    let store = home.open().await;
    assert!(home.names("partial").is_empty());
    let key = [&b"partial/"[..], &root.0].concat();
    assert_eq!(home.kv.get(&key).unwrap(), None);
    let partial = store.partials().open(root, 2 * GROUP).await.unwrap();
    assert_eq!(partial.missing(0), Some(0..2 * GROUP));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_finished_fetch_whose_row_was_lost_is_a_replica() {
    // Renamed into place, machine gone before the index was synced: the fetch's row is back.
    let home = Home::new();
    let bytes = content(2 * G);
    let root = root_of(&bytes);
    let store = home.open().await;
    let partial = store.partials().open(root, 2 * GROUP).await.unwrap();
    let (_other, _, ob) = replica_files(&bytes).await;
    partial.set_groups(fs::read(ob).unwrap().into()).await.unwrap();
    partial.write(0, bytes.clone()).await.unwrap();
    store.close().await.unwrap();
    drop((partial, store));
    let shard = home.blob(&root, "data").parent().unwrap().to_owned();
    fs::create_dir_all(shard).unwrap();
    for kind in ["ob", "data"] {
        fs::rename(home.partial(&root, kind), home.blob(&root, kind)).unwrap();
    }
    let store = home.open().await;
    assert!(read_all(&store, &root).await == bytes);
    assert!(home.names("partial").is_empty());
    assert!(matches!(store.partials().open(root, 2 * GROUP).await.map(|_| ()), Err(BlobError::Held(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_another_version_stop_the_start() {
    let home = Home::new();
    let store = home.open().await;
    let root = stored(&store, 1, &content(5)).await.root;
    drop(store);
    let key = [&b"blob/"[..], &root.0].concat();
    let mut row = home.kv.get(&key).unwrap().unwrap();
    row[1] = 9;
    let mut batch = Batch::default();
    batch.put(key, row);
    home.kv.write(batch).unwrap();
    let opened = home.open_with(0).await.map(|_| ());
    assert!(matches!(opened, Err(BlobError::Record(_))), "{opened:?}");
    assert!(home.blob(&root, "data").exists(), "nothing was touched");
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_others_are_left_alone() {
    let home = Home::new();
    let root = stored(&home.open().await, 1, &content(5)).await.root;
    let shard = home.blob(&root, "data").parent().unwrap().to_owned();
    let strangers = [
        shard.join("README"),
        shard.join("notes.data"),
        home.dir.path().join("blobs/zz"),
        home.dir.path().join("x"),
    ];
    for path in &strangers {
        fs::write(path, b"?").unwrap();
    }
    let store = home.open().await;
    assert!(strangers.iter().all(|path| path.exists()));
    assert_eq!(store.inventory(None, 9).len(), 1);
}
