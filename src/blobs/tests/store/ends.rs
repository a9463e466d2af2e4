//! Sessions that become replicas, and clients that leave meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn the_same_content_uploaded_at_once_is_stored_once() {
    let home = Home::new();
    let store = home.open().await;
    let bytes = content(20 * G + 3);
    let uploads = (0..8).map(|number| {
        let (store, bytes) = (store.clone(), bytes.clone());
        tokio::spawn(async move { stored(&store, number, &bytes).await })
    });
    let receipts = futures::future::join_all(uploads.collect::<Vec<_>>()).await;
    let receipts: Vec<_> = receipts.into_iter().map(Result::unwrap).collect();
    assert!(receipts.iter().all(|receipt| *receipt == receipts[0]));
    assert_eq!(store.inventory(None, 10), [(root_of(&bytes), bytes.len() as u64)]);
    assert!(home.names("uploads").is_empty());
    assert!(read_all(&store, &root_of(&bytes)).await == bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_during_keep_loses_only_the_answer() {
    let home = Home::new();
    let store = home.open().await;
    let bytes = content(9 * G);
    let sealed = staged(&store, id(1), &bytes).await;
    {
        let keep = std::pin::pin!(store.uploads().keep(id(1), &sealed, 1));
        assert!(futures::poll!(keep).is_pending());
    }
    let kept = async {
        while store.holds(&sealed.root).is_none() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), kept).await.unwrap();
    assert!(read_all(&store, &sealed.root).await == bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_during_an_append_leaves_a_whole_number_of_slices() {
    let home = Home::new();
    let store = home.open().await;
    let bytes = content(12 << 20);
    store.uploads().begin(id(1), &repo(), false).await.unwrap();
    store.uploads().append(id(1), 0, Bytes::new()).await.unwrap();
    {
        let append = std::pin::pin!(store.uploads().append(id(1), 0, bytes.clone()));
        assert!(futures::poll!(append).is_pending(), "12 MiB do not fit the queue");
    }
    let offset = store.uploads().status(id(1)).unwrap().offset;
    assert!(offset > 0 && offset < bytes.len() as u64);
    append(&store, id(1), &bytes, 1 << 20).await;
    assert_eq!(store.uploads().seal(id(1), &sha256_of(&bytes)).await.unwrap().root, root_of(&bytes));
}

/// Counts the bytes that are alive.
struct Counted(Vec<u8>, Arc<AtomicUsize>);

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.1.fetch_sub(self.0.len(), Ordering::SeqCst);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_holds_at_most_its_share_of_memory() {
    let home = Home::new();
    let store = home.open().await;
    store.uploads().begin(id(1), &repo(), true).await.unwrap();
    let alive = Arc::new(AtomicUsize::new(0));
    let (mut at, mut most) = (0, 0);
    for _ in 0..96 {
        let chunk = Counted(vec![1; 512 << 10], alive.clone());
        alive.fetch_add(chunk.0.len(), Ordering::SeqCst);
        at = store.uploads().append(id(1), at, Bytes::from_owner(chunk)).await.unwrap();
        most = most.max(alive.load(Ordering::SeqCst));
    }
    assert!(most <= 8 << 20, "{most} bytes were alive");
    store.uploads().flush(id(1)).await.unwrap();
    store.uploads().seal(id(1), &sha512_of(&vec![1; 48 << 20])).await.unwrap();
    assert_eq!(alive.load(Ordering::SeqCst), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn whole_blobs_are_put_in_one_call() {
    let home = Home::new();
    let store = home.open().await;
    for size in [0, 70_000, 4 << 20] {
        let bytes = content(size);
        let receipt = store.replicas().put(bytes.clone(), 2).await.unwrap();
        assert_eq!((receipt.root, receipt.generation), (root_of(&bytes), 2));
        assert!(receipt.digests.contains(&sha256_of(&bytes)));
        assert_eq!(store.replicas().put(bytes.clone(), 2).await.unwrap(), receipt);
        home.kv.crash();
        assert!(read_all(&store, &receipt.root).await == bytes);
    }
    assert!(home.names("uploads").is_empty());
}
