//! Reading: ranges, checks, quarantine, removal.

use std::time::Duration;

use clawhub_testkit::fuse::{Fault, Faulty};

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn ranges_are_exact_before_and_after_groups_were_checked() {
    let home = Home::new();
    let store = home.open().await;
    let bytes = content((2 << 20) + 3 * G + 1);
    let receipt = stored(&store, 1, &bytes).await;
    let len = bytes.len();
    let ranges = [
        (0, 0, "nothing"),
        (len, len, "nothing, at the end"),
        (0, 1, "the first byte"),
        (len - 1, len, "the last byte, alone in its group"),
        (G - 1, G + 1, "across a group"),
        (3 * G + 7, 3 * G + 9, "inside a group"),
        ((512 << 10) - 1, (512 << 10) + 1, "across a piece"),
        (5, len - 5, "nearly all"),
        (0, len, "all"),
    ];
    for pass in ["unchecked", "checked"] {
        for (start, end, why) in ranges {
            if pass == "unchecked" {
                drop(store.clone());
            }
            let blob = store.open_blob(&receipt.root).await.unwrap().unwrap();
            let (got, error) = drain(blob.read(start as u64..end as u64)).await;
            assert!(error.is_none(), "{pass} {why}: {error:?}");
            assert!(got == bytes[start..end], "{pass} {why}");
        }
    }
    let blob = store.open_blob(&receipt.root).await.unwrap().unwrap();
    let size = len as u64;
    #[expect(clippy::reversed_empty_ranges, reason = "the mistake under test")]
    for bad in [0..size + 1, size + 1..size + 1, 9..8, u64::MAX - 1..u64::MAX] {
        let (got, error) = drain(blob.read(bad.clone())).await;
        assert!(got.is_empty() && matches!(error, Some(BlobError::Range { .. })), "{bad:?}");
        assert!(matches!(blob.check(bad).await, Err(BlobError::Range { .. })));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn group_lists_and_files_are_there_for_peers_and_zero_copy() {
    use std::os::unix::fs::FileExt;
    let home = Home::new();
    let store = home.open().await;
    let bytes = content(3 * G + 5);
    let receipt = stored(&store, 1, &bytes).await;
    let blob = store.open_blob(&receipt.root).await.unwrap().unwrap();
    assert_eq!(blob.groups().await.unwrap(), std::fs::read(home.blob(&receipt.root, "ob")).unwrap());
    blob.check(G as u64..bytes.len() as u64).await.unwrap();
    let mut got = vec![0; 2 * G];
    assert!(blob.straight(0..1).is_none(), "that group was not checked");
    let file = blob.straight(G as u64..bytes.len() as u64).unwrap();
    file.read_exact_at(&mut got, G as u64).unwrap();
    assert!(got == bytes[G..3 * G]);
    let small = stored(&store, 2, &content(9)).await;
    let blob = store.open_blob(&small.root).await.unwrap().unwrap();
    assert!(blob.groups().await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_bit_is_never_served_and_the_copy_goes_to_quarantine() {
    let home = Home::new();
    let store = home.open().await;
    let bytes = content(40 * G);
    let Receipt { root, size, .. } = stored(&store, 1, &bytes).await;
    flip(&home.blob(&root, "data"), 20 * GROUP + 77);

    let blob = store.open_blob(&root).await.unwrap().unwrap();
    let (good, error) = drain(blob.read(0..20 * GROUP)).await;
    assert!(error.is_none() && good == bytes[..20 * G], "groups before the bad one are good");
    assert_eq!(store.holds(&root), Some(size));

    let (good, error) = drain(blob.read(0..size)).await;
    assert!(matches!(error, Some(BlobError::Corrupt { at, .. }) if at == 20 * GROUP), "{error:?}");
    assert!(good == bytes[..good.len()] && good.len() <= 20 * G);
    assert_eq!(store.holds(&root), None);
    assert!(store.receipt(&root, 1).await.unwrap().is_none());
    assert!(store.open_blob(&root).await.unwrap().is_none());
    assert!(!home.blob(&root, "data").exists() && !home.blob(&root, "ob").exists());
    let kept = ["data", "ob"].map(|kind| format!("{}.0.{kind}", root.hex()));
    assert_eq!(home.names("quarantine"), kept);
    let (bad, error) = drain(blob.read(20 * GROUP..21 * GROUP)).await;
    assert!(bad.is_empty() && error.is_some(), "handles that were open serve no bad group either");

    // Not even after a power cut. A new copy takes the place, and the old handle does not condemn it.
    home.kv.crash();
    drop(store);
    let store = home.open().await;
    assert_eq!(store.holds(&root), None);
    stored(&store, 2, &bytes).await;
    assert!(drain(blob.read(20 * GROUP..21 * GROUP)).await.1.is_some());
    assert!(read_all(&store, &root).await == bytes);

    flip(&home.blob(&root, "data"), 0);
    drop(store);
    let store = home.open().await;
    let blob = store.open_blob(&root).await.unwrap().unwrap();
    assert!(matches!(blob.check(0..1).await, Err(BlobError::Corrupt { at: 0, .. })));
    assert_eq!(home.names("quarantine").len(), 4, "an earlier bad copy is not overwritten");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_bit_in_a_blob_without_a_list_is_found_too() {
    let home = Home::new();
    let store = home.open().await;
    let root = stored(&store, 1, &content(G)).await.root;
    flip(&home.blob(&root, "data"), GROUP - 1);
    let blob = store.open_blob(&root).await.unwrap().unwrap();
    let (got, error) = drain(blob.read(0..1)).await;
    assert!(got.is_empty() && matches!(error, Some(BlobError::Corrupt { at: 0, .. })));
    assert_eq!(store.holds(&root), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_lengths_and_lists_are_found_when_the_blob_is_opened() {
    type Damage = fn(&Home, &Root);
    let damages: [(&str, Damage); 6] = [
        ("data cut", |home, root| truncate(&home.blob(root, "data"), 5 * GROUP - 1)),
        ("data empty", |home, root| truncate(&home.blob(root, "data"), 0)),
        ("data longer", |home, root| truncate(&home.blob(root, "data"), 5 * GROUP + 1)),
        ("list flipped", |home, root| flip(&home.blob(root, "ob"), 64)),
        ("list cut", |home, root| truncate(&home.blob(root, "ob"), 4 * 32)),
        ("list gone", |home, root| std::fs::remove_file(home.blob(root, "ob")).unwrap()),
    ];
    for (what, damage) in damages {
        let home = Home::new();
        let store = home.open().await;
        let bytes = content(5 * G);
        let root = stored(&store, 1, &bytes).await.root;
        damage(&home, &root);
        let opened = store.open_blob(&root).await.map(|_| ());
        assert!(matches!(opened, Err(BlobError::Corrupt { .. })), "{what}: {opened:?}");
        assert_eq!(store.holds(&root), None, "{what}");
        assert!(!home.blob(&root, "data").exists(), "{what}");
        assert!(!home.names("quarantine").is_empty(), "{what}");
        stored(&store, 2, &bytes).await;
        assert!(read_all(&store, &root).await == bytes, "{what}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_cut_while_it_is_open_is_corrupt_not_short() {
    let home = Home::new();
    let store = home.open().await;
    let root = stored(&store, 1, &content(5 * G)).await.root;
    let blob = store.open_blob(&root).await.unwrap().unwrap();
    blob.check(0..5 * GROUP).await.unwrap();
    truncate(&home.blob(&root, "data"), 4 * GROUP);
    let (_, error) = drain(blob.read(0..5 * GROUP)).await;
    assert!(matches!(error, Some(BlobError::Corrupt { .. })), "{error:?}");
    assert_eq!(store.holds(&root), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_whose_file_is_gone_is_not_held() {
    let home = Home::new();
    let store = home.open().await;
    let root = stored(&store, 1, &content(5)).await.root;
    std::fs::remove_file(home.blob(&root, "data")).unwrap();
    assert!(store.open_blob(&root).await.unwrap().is_none());
    assert_eq!(store.holds(&root), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_the_device_does_not_give_back_is_not_held() {
    if let Some(why) = Faulty::unavailable() {
        println!("skipped: no FUSE here: {why}");
        return;
    }
    let home = Home::new();
    let faulty = Faulty::mount(home.dir.path(), home.dir.path()).unwrap();
    let fail = || {
        faulty.fail("", Fault::Io);
        faulty.uncache("").unwrap();
    };
    let store = home.open().await;
    let bytes = content(5 * G);
    let root = stored(&store, 1, &bytes).await.root;
    let blob = store.open_blob(&root).await.unwrap().unwrap();
    blob.check(0..5 * GROUP).await.unwrap();
    store.hold_back(true);
    fail();
    assert!(drain(blob.read(0..5 * GROUP)).await.1.unwrap().is_bad_copy());
    assert!(store.holds(&root).is_some(), "the device fails as a whole");
    store.hold_back(false);
    assert!(drain(blob.read(0..5 * GROUP)).await.1.unwrap().is_bad_copy());
    assert_eq!(store.holds(&root), None);
    faulty.heal();

    stored(&store, 2, &bytes).await;
    drop((blob, store));
    let store = home.open().await;
    fail();
    assert!(store.open_blob(&root).await.is_err_and(|error| error.is_bad_copy()));
    assert_eq!(store.holds(&root), None);
    faulty.heal();
    assert!(store.open_blob(&root).await.unwrap().is_none());
    drop(store);
    assert!(read_all(&home.open().await, &root).await == bytes, "the next start looks at it again");
}

async fn ahead(seconds: u64) {
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(seconds)).await;
    tokio::time::resume();
}

#[tokio::test(flavor = "current_thread")]
async fn rot_in_a_blob_that_is_always_read_is_served_for_ten_minutes_at_most() {
    let home = Home::new();
    let store = home.open().await;
    let bytes = content(12 * G + 5);
    let root = stored(&store, 1, &bytes).await.root;
    let kept = store.open_blob(&root).await.unwrap().unwrap();
    kept.check(0..kept.size()).await.unwrap();
    let file = kept.straight(0..kept.size()).unwrap();
    flip(&home.blob(&root, "data"), 3);
    for _ in 0..10 {
        let blob = store.open_blob(&root).await.unwrap().unwrap();
        assert!(blob.check(0..blob.size()).await.is_ok() && blob.straight(0..1).is_some(), "checked lately");
        assert!(file.vouch(0..1).is_ok());
        ahead(60).await;
    }
    // The other groups were not touched, and are good again once somebody has looked.
    assert!(file.vouch(GROUP..kept.size()).is_ok());
    assert!(kept.straight(GROUP..kept.size()).is_some() && kept.straight(0..1).is_none());
    assert_eq!(file.vouch(0..1).unwrap_err().kind(), std::io::ErrorKind::InvalidData);
    let (got, error) = drain(kept.read(0..kept.size())).await;
    assert!(got.is_empty() && matches!(error, Some(BlobError::Corrupt { at: 0, .. })), "{error:?}");
    assert!(store.open_blob(&root).await.unwrap().is_none(), "and given up");
}

#[tokio::test(flavor = "current_thread")]
async fn a_partial_that_is_always_read_is_checked_anew_too() {
    let home = Home::new();
    let store = home.open().await;
    let bytes = content(G / 2);
    let partial = store.partials().open(root_of(&bytes), bytes.len() as u64).await.unwrap();
    partial.write(0, bytes.clone()).await.unwrap();
    flip(&home.partial(&root_of(&bytes), "data"), 3);
    ahead(600).await;
    let mut reader = std::pin::pin!(partial.read(0..bytes.len() as u64));
    assert!(futures::poll!(reader.next()).is_pending());
    let lost = async {
        while partial.missing(0).is_none() {
            assert!(futures::poll!(reader.next()).is_pending(), "a rotten group was read");
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), lost).await.unwrap();
    // Another reader of the same rot may still find it, and the group is missing once more.
    let again = async {
        loop {
            partial.write(0, bytes.clone()).await.unwrap();
            if let Ok(read) = tokio::time::timeout(Duration::from_secs(1), reader.next()).await {
                break read.unwrap().unwrap();
            }
        }
    };
    let read = tokio::time::timeout(Duration::from_secs(20), again).await.unwrap();
    assert!(read == bytes, "fetched again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_nobody_has_checked_lately_is_replaced_when_its_bytes_come_again() {
    let home = Home::new();
    let store = home.open().await;
    let bytes = content(5 * G + 1);
    let first = stored(&store, 1, &bytes).await;
    let root = first.root;
    // Somebody reads the rotten copy, from a file that was opened before.
    let old = store.open_blob(&root).await.unwrap().unwrap();
    flip(&home.blob(&root, "data"), 2 * GROUP);
    let sealed = staged(&store, id(2), &bytes).await;
    store.uploads().seal(id(2), &sha512_of(&bytes)).await.unwrap();
    let again = store.uploads().keep(id(2), &sealed, 1).await.unwrap();
    assert_eq!((again.root, again.epoch), (root, first.epoch));
    assert!(read_all(&store, &root).await == bytes, "healed");
    assert!(drain(old.read(0..old.size())).await.1.is_some(), "nobody heals an open file");
    assert_eq!(store.holds(&root), Some(bytes.len() as u64), "which says nothing about the new one");
    assert!(home.names("quarantine").is_empty() && home.names("uploads").is_empty());

    // Now all of it was checked, and that copy stands, with what it is known by.
    let inode = |path| std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(path).unwrap());
    let before = inode(home.blob(&root, "data"));
    let third = stored(&store, 3, &bytes).await;
    assert_eq!(inode(home.blob(&root, "data")), before);
    assert!(third.digests.contains(&sha512_of(&bytes)));

    // Not for a small one either, nor after a restart.
    let small = store.replicas().put(content(9), 1).await.unwrap().root;
    flip(&home.blob(&small, "data"), 2);
    store.replicas().put(content(9), 1).await.unwrap();
    assert!(read_all(&store, &small).await == content(9));
    drop(store);
    let store = home.open().await;
    flip(&home.blob(&root, "data"), 1);
    let receipt = stored(&store, 4, &bytes).await;
    assert!(read_all(&store, &root).await == bytes);
    assert!(receipt.digests.contains(&sha512_of(&bytes)), "names are kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_copy_ends_the_plan_to_remove_the_one_before() {
    let home = Home::new();
    let store = home.open().await;
    let bytes = content(2 * G);
    let root = stored(&store, 1, &bytes).await.root;
    store.replicas().plan_removal(&[root]).await.unwrap();
    store.replicas().quarantine(&root).await.unwrap();
    assert_eq!(stored(&store, 2, &bytes).await.epoch, 1);
    assert!(!store.replicas().remove(&root).await.unwrap(), "its receipt is of the new epoch");
    assert!(read_all(&store, &root).await == bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn removal_is_planned_and_a_receipt_in_between_calls_it_off() {
    let home = Home::new();
    let store = home.open().await;
    let (a, b, c) = (content(3 * G), content(9), content(10));
    let (ra, rb, rc) = (root_of(&a), root_of(&b), root_of(&c));
    for (number, bytes) in [(1, &a), (2, &b), (3, &c)] {
        assert_eq!(stored(&store, number, bytes).await.epoch, 0);
    }
    assert!(!store.replicas().remove(&ra).await.unwrap(), "not planned");
    assert_eq!(store.replicas().plan_removal(&[ra, rb, rc]).await.unwrap(), 1);
    assert_eq!(store.epoch(), 1);
    // b is uploaded again, c is asked for: both now have receipts that the new epoch does not void.
    assert_eq!(stored(&store, 4, &b).await.epoch, 1);
    assert_eq!(store.receipt(&rc, 1).await.unwrap().unwrap().epoch, 1);

    let blob = store.open_blob(&ra).await.unwrap().unwrap();
    assert!(store.replicas().remove(&ra).await.unwrap());
    assert!(!store.replicas().remove(&rb).await.unwrap() && !store.replicas().remove(&rc).await.unwrap());
    assert_eq!(store.holds(&ra), None);
    assert!(store.open_blob(&ra).await.unwrap().is_none(), "an open file is no way around");
    assert!(!home.blob(&ra, "data").exists() && !home.blob(&ra, "ob").exists());
    assert!(drain(blob.read(0..3 * GROUP)).await.0 == a, "who reads it reads on");
    assert!(read_all(&store, &rb).await == b && read_all(&store, &rc).await == c);
    assert!(!store.replicas().remove(&ra).await.unwrap(), "gone");

    drop(store);
    home.kv.crash();
    let store = home.open().await;
    assert_eq!((store.epoch(), store.holds(&ra)), (1, None));
    assert!(!store.replicas().remove(&rb).await.unwrap(), "a restart forgets the plan");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_inventory_is_paged_in_order() {
    let home = Home::new();
    let store = home.open().await;
    let mut expected = Vec::new();
    for size in 0..25 {
        let receipt = store.replicas().put(content(size), 1).await.unwrap();
        expected.push((receipt.root, size as u64));
    }
    expected.sort();
    let (mut got, mut after) = (Vec::new(), None);
    loop {
        let page = store.inventory(after, 7);
        let Some((last, _)) = page.last() else { break };
        assert!(page.len() <= 7);
        after = Some(*last);
        got.extend(page);
    }
    assert_eq!(got, expected);
    assert!(store.inventory(None, 0).is_empty());
    assert!(store.free_space().unwrap() > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_readers_of_one_blob_agree() {
    let home = Home::new();
    let store = home.open().await;
    let bytes = content(80 * G + 11);
    let root = stored(&store, 1, &bytes).await.root;
    let readers = (0..16u64).map(|n| {
        let (store, bytes) = (store.clone(), bytes.clone());
        tokio::spawn(async move {
            let blob = store.open_blob(&root).await.unwrap().unwrap();
            let start = n * 31_337;
            let (got, error) = drain(blob.read(start..blob.size())).await;
            assert!(error.is_none() && got == bytes[start as usize..]);
        })
    });
    for reader in readers.collect::<Vec<_>>() {
        reader.await.unwrap();
    }
}
