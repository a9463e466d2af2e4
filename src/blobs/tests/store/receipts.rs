//! Receipts and the index's fsync: what others may know while a sync runs, and when it fails.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use clawhub_kv::{Batch, Kv, KvError, KvErrorKind, KvRead, Pair};
use parking_lot::{Condvar, Mutex};

use super::*;

/// An index whose sync waits for a gate, counts, and fails when told to.
#[derive(Default)]
struct Gated {
    inner: MemoryKv,
    shut: Mutex<bool>,
    moved: Condvar,
    syncs: AtomicUsize,
    waiting: AtomicUsize,
    broken: AtomicBool,
}

impl Gated {
    fn shut(&self, shut: bool) {
        *self.shut.lock() = shut;
        self.moved.notify_all();
    }

    async fn someone_waits(&self) {
        let waits = async {
            while self.waiting.load(Ordering::SeqCst) == 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), waits).await.unwrap();
    }
}

impl KvRead for Gated {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        self.inner.get(key)
    }
    fn scan(&self, start: &[u8], end: &[u8], limit: usize) -> Result<Vec<Pair>, KvError> {
        self.inner.scan(start, end, limit)
    }
    fn last(&self, start: &[u8], end: &[u8]) -> Result<Option<Pair>, KvError> {
        self.inner.last(start, end)
    }
}

impl Kv for Gated {
    fn write(&self, batch: Batch) -> Result<(), KvError> {
        self.inner.write(batch)
    }
    fn sync(&self) -> Result<(), KvError> {
        self.syncs.fetch_add(1, Ordering::SeqCst);
        let mut shut = self.shut.lock();
        self.waiting.fetch_add(1, Ordering::SeqCst);
        while *shut {
            // A failing test must not leave a thread that the runtime waits for.
            *shut &= !self.moved.wait_for(&mut shut, Duration::from_secs(90)).timed_out();
        }
        self.waiting.fetch_sub(1, Ordering::SeqCst);
        if self.broken.load(Ordering::SeqCst) {
            return Err(KvError {
                kind: KvErrorKind::Io,
                context: "sync".into(),
                message: "broken by the test".into(),
            });
        }
        self.inner.sync()
    }
    fn snapshot(&self) -> Box<dyn KvRead + '_> {
        self.inner.snapshot()
    }
    fn owned_snapshot(self: Arc<Self>) -> Arc<dyn KvRead> {
        self.inner.frozen()
    }
    fn checkpoint(&self, dir: &Path) -> Result<(), KvError> {
        self.inner.checkpoint(dir)
    }
}

async fn opened(dir: &Path, kv: &Arc<Gated>) -> BlobStore {
    let config = StoreConfig::new(dir.to_owned(), NodeId(7));
    BlobStore::open(config, kv.clone()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_gets_a_receipt_before_the_row_is_synced() {
    let (dir, kv) = (tempfile::tempdir().unwrap(), Arc::new(Gated::default()));
    let store = opened(dir.path(), &kv).await;
    let bytes = content(2 * G);
    let root = root_of(&bytes);
    kv.shut(true);
    let put = tokio::spawn({
        let (store, bytes) = (store.clone(), bytes.clone());
        async move { store.replicas().put(bytes, 1).await }
    });
    kv.someone_waits().await;
    assert_eq!(store.holds(&root), None);
    assert!(store.receipt(&root, 1).await.unwrap().is_none());
    assert!(store.open_blob(&root).await.unwrap().is_none());
    assert!(store.inventory(None, 9).is_empty());
    assert!(!put.is_finished());
    kv.shut(false);
    let receipt = put.await.unwrap().unwrap();
    assert_eq!(store.receipt(&root, 1).await.unwrap().unwrap(), receipt);
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_commits_share_one_sync() {
    let (dir, kv) = (tempfile::tempdir().unwrap(), Arc::new(Gated::default()));
    let store = opened(dir.path(), &kv).await;
    kv.shut(true);
    let put = |bytes: Bytes| {
        let store = store.clone();
        tokio::spawn(async move { store.replicas().put(bytes, 1).await.unwrap() })
    };
    // Roots that share a lock wait for each other before they reach the index.
    let mut locks = std::collections::HashSet::new();
    let blobs = (0..).map(content).filter(|bytes| locks.insert(root_of(bytes).0[0]));
    let mut blobs: Vec<_> = blobs.take(41).collect();
    let first = put(blobs.remove(0));
    kv.someone_waits().await;
    let before = kv.syncs.load(Ordering::SeqCst);
    let rest: Vec<_> = blobs.into_iter().map(put).collect();
    // All of them have written their rows when the files are in place.
    let written = async {
        while kv.scan(b"blob/", b"blob0", 100).unwrap().len() < 41 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), written).await.unwrap();
    kv.shut(false);
    first.await.unwrap();
    for put in rest {
        put.await.unwrap();
    }
    let more = kv.syncs.load(Ordering::SeqCst) - before;
    assert!(more <= 3, "40 commits took {more} syncs");
    assert_eq!(store.inventory(None, 100).len(), 41);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fetch_begins_and_goes_on_while_another_one_waits_for_the_disk() {
    let (dir, kv) = (tempfile::tempdir().unwrap(), Arc::new(Gated::default()));
    let store = opened(dir.path(), &kv).await;
    let (one, other) = (content(100), content(101));
    let first = store.partials().open(root_of(&one), 100).await.unwrap();
    first.write(0, one).await.unwrap();
    kv.shut(true);
    let finish = tokio::spawn(async move { first.finish().await });
    kv.someone_waits().await;
    let second = tokio::time::timeout(Duration::from_secs(20), store.partials().open(root_of(&other), 101));
    second.await.expect("it does not wait for the other one").unwrap().write(0, other).await.unwrap();
    assert!(!finish.is_finished());
    kv.shut(false);
    finish.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_sync_makes_no_receipt_and_a_later_upload_repairs() {
    let (dir, kv) = (tempfile::tempdir().unwrap(), Arc::new(Gated::default()));
    let store = opened(dir.path(), &kv).await;
    let bytes = content(3 * G);
    let root = root_of(&bytes);
    let sealed = staged(&store, id(1), &bytes).await;
    kv.broken.store(true, Ordering::SeqCst);
    assert!(matches!(store.uploads().keep(id(1), &sealed, 1).await, Err(BlobError::Index(_))));
    assert_eq!(store.holds(&root), None);
    assert!(store.receipt(&root, 1).await.unwrap().is_none());
    // The session's bytes have moved; what it appends now must not reach the replica's file.
    assert!(matches!(
        store.uploads().append(id(1), 3 * GROUP, content(1)).await,
        Err(BlobError::Offset { .. } | BlobError::UploadUnknown(_))
    ));
    kv.broken.store(false, Ordering::SeqCst);
    stored(&store, 2, &bytes).await;
    assert!(read_all(&store, &root).await == bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn how_long_a_copy_is_an_orphan_is_known_after_a_restart() {
    const PAUSE: Duration = Duration::from_millis(50);
    let home = Home::new();
    let store = home.open().await;
    let first = store.replicas().put(content(1000), 1).await.unwrap().root;
    assert_eq!(store.orphaned().note(&[first]).unwrap(), [(Duration::ZERO, first)]);
    tokio::time::sleep(PAUSE).await;
    store.close().await.unwrap();
    drop(store);

    let store = home.open().await;
    let second = store.replicas().put(content(2000), 1).await.unwrap().root;
    let ages = store.orphaned().note(&[second, first]).unwrap();
    assert!(ages[0].0 >= PAUSE && ages[0].1 == first, "{ages:?}");
    assert_eq!(ages[1], (Duration::ZERO, second));

    // A new receipt begins the wait anew, and so does having been none in between.
    store.receipt(&first, 1).await.unwrap().unwrap();
    let ages = store.orphaned().note(&[first]).unwrap();
    assert_eq!(ages, [(Duration::ZERO, first)]);
    tokio::time::sleep(PAUSE).await;
    let ages = store.orphaned().note(&[first, second]).unwrap();
    assert!(ages[0].0 >= PAUSE && ages[1] == (Duration::ZERO, second), "{ages:?}");
    store.replicas().put(content(1000), 1).await.unwrap();
    store.replicas().plan_removal(&[second]).await.unwrap();
    assert!(store.replicas().remove(&second).await.unwrap());
    let ages = store.orphaned().note(&[first]).unwrap();
    assert_eq!(ages, [(Duration::ZERO, first)], "what goes leaves nothing");
}
