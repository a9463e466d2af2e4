//! Copies that came for readers: how long they stay, what they make way for, and when they are part of the cache no
//! more.

use std::time::Duration;

use clawhub_blobs::{CacheLimit, CacheUsage};
use clawhub_testkit::disk::Disk;

use super::*;

const COPY: usize = 100_000;

impl Home {
    async fn open_cached(&self, cache: CacheLimit, min_free: u64) -> BlobStore {
        let config = StoreConfig::new(self.dir.path().to_owned(), NodeId(7));
        BlobStore::open(StoreConfig { cache, min_free, ..config }, self.kv.clone()).await.unwrap()
    }
}

/// A different copy for each number.
fn copy(number: u8) -> Bytes {
    content(COPY + usize::from(number))
}

/// Brings a copy here for a reader, some time after the one before.
async fn fetched(store: &BlobStore, bytes: &Bytes) -> Root {
    tokio::time::pause();
    tokio::time::advance(Duration::from_millis(10)).await;
    tokio::time::resume();
    let partial = store.partials().open(root_of(bytes), bytes.len() as u64).await.unwrap();
    if !partial.has_groups() {
        let home = Home::new();
        let other = home.open().await;
        let root = other.replicas().put(bytes.clone(), 1).await.unwrap().root;
        let groups = other.open_blob(&root).await.unwrap().unwrap().groups().await.unwrap();
        partial.set_groups(groups).await.unwrap();
    }
    for at in (0..bytes.len()).step_by(G) {
        partial.write(at as u64, bytes.slice(at..bytes.len().min(at + G))).await.unwrap();
    }
    partial.finish().await.unwrap().root
}

fn usage(store: &BlobStore) -> CacheUsage {
    store.cache().usage()
}

/// Which of the copies are here.
fn here(store: &BlobStore, roots: &[Root]) -> Vec<bool> {
    roots.iter().map(|root| store.holds(root).is_some()).collect()
}

#[tokio::test(flavor = "current_thread")]
async fn a_copy_that_came_for_a_reader_is_cached_until_a_receipt_is_made_for_it() {
    let home = Home::new();
    let store = home.open_cached(CacheLimit::Bytes(0), 0).await;
    let (read, promised, uploaded) = (copy(1), copy(2), copy(3));
    let root = fetched(&store, &read).await;
    let size = read.len() as u64;
    assert_eq!((usage(&store).copies, usage(&store).bytes), (1, size));
    // One that is wanted as a copy from the beginning, and one that is uploaded.
    let partial = store.partials().open(root_of(&promised), promised.len() as u64).await.unwrap();
    partial.promise();
    drop(partial);
    fetched(&store, &promised).await;
    stored(&store, 1, &uploaded).await;
    assert_eq!(usage(&store).copies, 1);
    drop(store);
    home.kv.crash();

    let store = home.open_cached(CacheLimit::Bytes(0), 0).await;
    assert_eq!(usage(&store).bytes, size, "it stays so over a restart");
    store.cache().trim().await.unwrap();
    assert_eq!(store.holds(&root), Some(size), "nobody has said how to look at the record");
    let receipt = store.receipt(&root, 3).await.unwrap().unwrap();
    assert_eq!((receipt.root, receipt.generation, receipt.epoch), (root, 3, 0));
    assert_eq!(usage(&store).copies, 0);
    home.kv.crash();
    drop(store);
    let store = home.open_cached(CacheLimit::Bytes(0), 0).await;
    store.cache().decide_by(|_| Some(false));
    store.cache().trim().await.unwrap();
    assert_eq!(here(&store, &[root, root_of(&promised), root_of(&uploaded)]), [true; 3]);
    assert_eq!(usage(&store).evicted, 0);

    // Pushing the same bytes makes one of these count, too.
    let again = fetched(&store, &copy(4)).await;
    assert_eq!(usage(&store).copies, 1);
    stored(&store, 2, &copy(4)).await;
    assert_eq!(usage(&store).copies, 0);
    store.cache().trim().await.unwrap();
    assert!(store.holds(&again).is_some());
}

#[tokio::test(flavor = "current_thread")]
async fn the_longest_unread_go_first_and_what_the_record_names_stays() {
    let home = Home::new();
    let limit = CacheLimit::Bytes(3 * COPY as u64 + 1000);
    let store = home.open_cached(limit, 0).await;
    let mut roots = Vec::new();
    for number in 0..6 {
        roots.push(fetched(&store, &copy(number)).await);
    }
    let (named, unknown) = (roots[1], roots[2]);
    store.cache().decide_by(move |root| match *root {
        root if root == named => Some(true),
        root if root == unknown => None,
        _ => Some(false),
    });
    tokio::time::pause();
    tokio::time::advance(Duration::from_millis(10)).await;
    tokio::time::resume();
    let reader = store.open_blob(&roots[0]).await.unwrap().unwrap();
    // 1 is recorded; of 2 that cannot be told. Then it is 3's turn.
    store.cache().trim().await.unwrap();
    store.cache().trim().await.unwrap();
    assert_eq!(here(&store, &roots), [true, true, true, false, true, true]);
    assert_eq!(usage(&store).bytes, [0u8, 2, 4, 5].map(|n| copy(n).len() as u64).iter().sum::<u64>());
    store.cache().trim().await.unwrap();
    assert_eq!(usage(&store).copies, 4, "nothing else goes in place of 2");
    assert!(!home.blob(&roots[3], "data").exists() && !home.blob(&roots[3], "ob").exists());

    // A limit that became smaller takes all that it can, and who reads one reads on.
    drop(store);
    let store = home.open_cached(CacheLimit::Bytes(0), 0).await;
    store.cache().decide_by(|_| Some(false));
    store.cache().trim().await.unwrap();
    assert_eq!(here(&store, &roots), [false, true, false, false, false, false]);
    assert!(drain(reader.read(0..reader.size())).await.0 == copy(0));
    let usage = usage(&store);
    assert_eq!((usage.copies, usage.bytes, usage.evicted), (0, 0, 4));
    assert!(store.open_blob(&roots[0]).await.unwrap().is_none());
    drop(store);
    let store = home.open().await;
    assert_eq!(store.inventory(None, 9).len(), 1, "nothing comes back");
}

#[tokio::test(flavor = "current_thread")]
async fn a_full_cache_makes_room_for_what_fits_and_for_nothing_else() {
    let home = Home::new();
    let store = home.open_cached(CacheLimit::Bytes(2 * COPY as u64 + 1000), 0).await;
    store.cache().decide_by(|_| Some(false));
    let (one, two, three) = (copy(1), copy(2), copy(3));
    let room =
        async |bytes: &Bytes| store.cache().make_room(&root_of(bytes), bytes.len() as u64).await.unwrap();
    assert!(room(&one).await);
    let first = fetched(&store, &one).await;
    assert!(room(&two).await);
    let second = fetched(&store, &two).await;
    assert_eq!(here(&store, &[first, second]), [true, true]);
    assert!(!room(&content(3 * COPY)).await, "it never fits");
    assert_eq!(here(&store, &[first, second]), [true, true], "and nothing makes way for it");
    assert!(room(&three).await);
    assert_eq!(here(&store, &[first, second]), [false, true]);
    // What is on its way counts, except for itself.
    let coming = store.partials().open(root_of(&three), three.len() as u64).await.unwrap();
    assert!(room(&three).await && store.holds(&second).is_some());
    let much = content(2 * COPY);
    assert!(!room(&much).await, "one that is being read does not make way");
    coming.promise();
    assert!(room(&much).await, "one that will count is none of the cache's");
}

#[tokio::test(flavor = "current_thread")]
async fn last_uses_survive_a_restart_within_minutes() {
    let home = Home::new();
    let limit = CacheLimit::Bytes(2 * COPY as u64 + 1000);
    let store = home.open_cached(limit, 0).await;
    let (first, second) = (fetched(&store, &copy(1)).await, fetched(&store, &copy(2)).await);
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(601)).await;
    tokio::time::resume();
    store.open_blob(&first).await.unwrap().unwrap();
    store.expire(Duration::from_secs(86_400)).await;
    drop(store);
    let store = home.open_cached(limit, 0).await;
    store.cache().decide_by(|_| Some(false));
    assert!(store.cache().make_room(&root_of(&copy(3)), COPY as u64).await.unwrap());
    assert_eq!(here(&store, &[first, second]), [true, false]);
}

#[tokio::test(flavor = "current_thread")]
async fn cached_copies_make_way_before_an_upload_is_refused() {
    const MIB: u64 = 1 << 20;
    if let Some(why) = Disk::unavailable() {
        println!("skipped: no disks here: {why}");
        return;
    }
    let home = Home::new();
    let image = tempfile::tempdir().unwrap();
    let disk = Disk::new(&image.path().join("image"), 96 * MIB, home.dir.path()).unwrap();
    let store = home.open_cached(CacheLimit::Share(100), 16 * MIB).await;
    store.cache().decide_by(|_| Some(false));
    let mut roots = Vec::new();
    while store.free_space().unwrap() > 24 * MIB {
        let bytes = content((4 << 20) + roots.len());
        roots.push(fetched(&store, &bytes).await);
        assert!(roots.len() < 32, "the device does not fill");
        tokio::time::sleep(Duration::from_millis(120)).await;
    }
    assert!(here(&store, &roots).iter().all(|here| *here));
    let free = async || {
        tokio::time::sleep(Duration::from_millis(120)).await;
        store.free_space().unwrap()
    };
    // As fast as the device is looked at.
    let fill = async |number: u8, bytes: &Bytes| -> Result<Receipt, BlobError> {
        store.uploads().begin(id(number), &repo(), false).await?;
        for at in (0..bytes.len()).step_by(MIB as usize) {
            tokio::time::sleep(Duration::from_millis(120)).await;
            let piece = bytes.slice(at..bytes.len().min(at + MIB as usize));
            store.uploads().append(id(number), at as u64, piece).await?;
        }
        let sealed = store.uploads().seal(id(number), &sha256_of(bytes)).await?;
        store.uploads().keep(id(number), &sealed, 1).await
    };
    let pushed = content(20 << 20);
    let root = fill(1, &pushed).await.unwrap().root;
    assert!(read_all(&store, &root).await == pushed);
    assert!(usage(&store).evicted > 0 && usage(&store).copies > 0, "{:?}", usage(&store));
    assert!(!here(&store, &roots)[0] && here(&store, &roots)[roots.len() - 1]);
    assert!(free().await >= 15 * MIB, "{}", free().await);
    // All of it goes, if it must; then there is no more.
    let full = fill(2, &content(90 << 20)).await.unwrap_err();
    assert!(matches!(full, BlobError::NoSpace { .. }), "{full:?}");
    assert_eq!(usage(&store).copies, 0);
    assert!(free().await >= 14 * MIB, "{}", free().await);
    store.uploads().cancel(id(2)).await.unwrap();
    drop((store, disk));
}
