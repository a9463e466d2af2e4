//! Flows over several nodes, seen from inside: what they leave in memory, in the stores and in the log.

use std::time::Duration;

use bytes::Bytes;
use clawhub_auth::Push;
use clawhub_blobs::{CacheLimit, StoreConfig};
use clawhub_peer::Class;
use clawhub_state::artifact::Condition;
use clawhub_state::blob::BlobCmd;
use clawhub_state::cluster::ClusterCmd;
use clawhub_state::{Command, LifecycleCmd};
use clawhub_types::{Digest, NodeId, Receipt, Reference, RepoName};
use futures::StreamExt;
use tokio::time::timeout;

use crate::source::Source;
use crate::testing::{
    World, chunk, content, digest, eventually, permit, permit_for, pull, push, reader, target, whole,
};
use crate::{Intent, Kind, PutManifest, Registry, What};

/// Longer than any of what is called here takes, shorter than what would hold it up.
const SOON: Duration = Duration::from_secs(10);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

#[tokio::test(flavor = "multi_thread")]
async fn abandoned_uploads_keep_neither_streams_nor_memory() {
    const UPLOADS: usize = 300;
    let world = World::start(&[true, true]).await;
    let (here, there) = (world.node(1), world.node(2));
    let target = target(here);
    let sessions = &here.use_cases.uploads;
    let one = Bytes::from_static(b"x");
    let mut ids = Vec::new();
    for _ in 0..UPLOADS {
        ids.push(target.begin_upload(None).await.unwrap().id);
    }
    assert_eq!(sessions.count(), (0, 0), "nothing came of them yet");
    for id in &ids {
        let view = target.append(*id, chunk(&one)).await.unwrap();
        assert_eq!(view.offset, 1);
    }
    let (open, mirrored) = sessions.count();
    assert!(open == UPLOADS && (1..=128).contains(&mirrored), "{open} sessions, {mirrored} mirrors");

    here.expire_uploads(DAY).await;
    assert_eq!(sessions.count(), (UPLOADS, mirrored), "they were just used");
    // One of them goes on, with the partner that has its first byte, and rests only after that.
    let view = target.append(ids[0], chunk(&one)).await.unwrap();
    assert_eq!(view.offset, 2);
    here.expire_uploads(DAY).await;
    assert_eq!(sessions.count(), (UPLOADS, 1));
    here.expire_uploads(DAY).await;
    assert_eq!(sessions.count(), (UPLOADS, 0));
    target.append(ids[0], chunk(&one)).await.unwrap();
    assert_eq!(there.use_cases.core.blobs().uploads().status(ids[0]).map(|copy| copy.durable), Some(3));

    assert_eq!(here.expire_uploads(Duration::ZERO).await, UPLOADS);
    assert_eq!(sessions.count(), (0, 0));
    push(here, &content(1, 100_000)).await;
    assert_eq!(sessions.count(), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_takes_no_bytes_sends_uploads_on() {
    let world = World::start(&[true; 4]).await;
    let store = |id: u64| world.node(id).use_cases.core.blobs();
    let bytes = content(10, 200_000);
    let open = async || target(world.node(1)).begin_upload(None).await;
    assert_eq!(open().await.unwrap().id.node, NodeId(1));
    store(1).hold_back(true);
    // Whatever the others' last word was: one that has failed since is passed over.
    store(2).hold_back(true);
    assert_eq!(open().await.unwrap().id.node, NodeId(3));
    store(2).hold_back(false);
    eventually("they know", || world.node(1).use_cases.core.replicate.liveness().accepting().len() == 3)
        .await;
    let (id, digest) = push(world.node(1), &bytes).await;
    assert_ne!(id.node, NodeId(1), "the owner is the node that has the bytes");
    assert!(!world.holders(&digest).contains(&1) && pull(world.node(1), &digest).await == bytes);
    assert!(store(1).inventory(None, 1).is_empty());

    for id in [2, 3, 4] {
        store(id).hold_back(true);
    }
    assert!(matches!(open().await.unwrap_err().kind, Kind::Unavailable { .. }), "nobody takes it");
    for id in [1, 2, 3, 4] {
        store(id).hold_back(false);
    }
    assert_eq!(open().await.unwrap().id.node, NodeId(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_takes_no_part_sends_no_upload_on() {
    let world = World::start(&[true; 3]).await;
    world.node(1).use_cases.core.blobs().hold_back(true);
    assert_ne!(target(world.node(1)).begin_upload(None).await.unwrap().id.node, NodeId(1));
    // As when the device of its log failed. The others look well as far as it knows, and would open one.
    world.node(1).use_cases.core.consensus.shutdown().await;
    let refused = target(world.node(1)).begin_upload(None).await.unwrap_err();
    assert!(matches!(refused.kind, Kind::Unavailable { .. }), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn there_is_no_space_only_where_no_node_has_any() {
    fn full_but_for_the_third(store: StoreConfig) -> StoreConfig {
        StoreConfig { min_free: if store.node == NodeId(3) { 0 } else { u64::MAX }, ..store }
    }
    let world = World::with_stores(&[true, true, true], full_but_for_the_third).await;
    let alone = target(world.node(1)).begin_upload(None).await.unwrap_err();
    assert!(matches!(alone.kind, Kind::Unavailable { .. }), "one zone of two: {alone:?}");
    let world = World::with_stores(&[true, true], |store| StoreConfig { min_free: u64::MAX, ..store }).await;
    assert_eq!(target(world.node(1)).begin_upload(None).await.unwrap_err().kind, Kind::NoSpace);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_read_through_a_node_stays_within_its_cache() {
    const LIMIT: u64 = 250_000;
    let world =
        World::with_stores(&[true; 3], |store| StoreConfig { cache: CacheLimit::Bytes(LIMIT), ..store })
            .await;
    let mut pushed = Vec::new();
    for seed in 20..30 {
        pushed.push((push(world.node(1), &content(seed, 90_000)).await.1, content(seed, 90_000)));
    }
    let reads = |digest: &Digest| (1..=3).find(|id| !world.holders(digest).contains(id)).unwrap();
    for (digest, bytes) in pushed.iter().chain(&pushed) {
        let node = world.node(reads(digest));
        assert!(pull(node, digest).await == *bytes);
        let root = world.record(digest).0;
        let store = node.use_cases.core.blobs();
        eventually("the fetch ends", || store.holds(&root).is_some()).await;
        let usage = store.cache().usage();
        assert!(usage.bytes <= LIMIT, "{usage:?}");
    }
    let (evicted, copies) = (1..=3).fold((0, 0), |(evicted, copies), id| {
        let usage = world.node(id).use_cases.core.blobs().cache().usage();
        (evicted + usage.evicted, copies + usage.copies)
    });
    assert!(evicted >= 10 - copies && copies >= 2, "{evicted} {copies}");
    for (digest, _) in &pushed {
        let root = world.record(digest).0;
        for holder in world.holders(digest) {
            assert!(world.node(holder).use_cases.core.blobs().holds(&root).is_some(), "one that counts went");
        }
    }

    let large = content(30, LIMIT as usize + 1);
    let (_, digest) = push(world.node(1), &large).await;
    let (reader, root) = (world.node(reads(&digest)), world.record(&digest).0);
    assert!(pull(reader, &digest).await == large);
    assert!(reader.use_cases.core.blobs().holds(&root).is_none(), "it would not fit");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_commit_followed_is_swept_and_its_receipts_are_void() {
    const AT_ONCE: Duration = Duration::ZERO;
    let world = World::start(&[true, true, true]).await;
    let here = world.node(1);
    let blobs = here.use_cases.core.blobs();
    let (_, committed) = push(here, &content(40, 50_000)).await;
    let cached = content(41, 50_000);
    let reader = (1..=3).find(|id| !world.holders(&committed).contains(id)).unwrap();
    pull(world.node(reader), &committed).await;
    let orphan = blobs.replicas().put(content(42, 50_000), 1).await.unwrap();
    let promised = blobs.replicas().put(cached.clone(), 1).await.unwrap();
    assert_eq!(here.orphans().sweep(DAY).await.unwrap(), 0, "its commit may be under way");

    // A receipt that was made before the sweep and one that is made anew.
    let commit = |receipt: &Receipt, bytes: &Bytes| {
        let receipts = vec![receipt.clone(), Receipt { node: NodeId(2), epoch: 0, ..receipt.clone() }];
        Command::Blob(BlobCmd::Commit { repo: crate::testing::repo(), digest: digest(bytes), receipts })
    };
    assert_eq!(here.orphans().sweep(AT_ONCE).await.unwrap(), 2);
    assert!(blobs.holds(&orphan.root).is_none() && blobs.holds(&promised.root).is_none());
    let refused = world.propose(commit(&orphan, &content(42, 50_000))).await.unwrap_err();
    assert!(refused.contains("receipt"), "{refused}");
    assert!(
        world.holders(&committed).iter().all(|id| {
            world.node(*id).use_cases.core.blobs().holds(&world.record(&committed).0).is_some()
        })
    );
    let again = blobs.replicas().put(cached.clone(), 1).await.unwrap();
    assert_eq!(again.epoch, 1);
    let receipts = vec![again.clone()];
    assert!(
        here.use_cases
            .copies
            .commit_blob(&crate::testing::permit(here), &digest(&cached), receipts)
            .await
            .is_ok()
    );
    assert_eq!(here.orphans().sweep(AT_ONCE).await.unwrap(), 0);
    assert!(blobs.holds(&again.root).is_some());
    assert_eq!(world.node(reader).orphans().sweep(AT_ONCE).await.unwrap(), 0, "a cached copy is none");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_nobody_knows_of_is_recorded_while_copies_are_short() {
    let world = World::start(&[true, true, true]).await;
    // One whose holder is not where it belongs: nobody would have that node fetch it.
    let mut found = None;
    for seed in 0..40 {
        let (_, digest) = push(world.node(1), &content(seed, 1000)).await;
        let (root, record) = world.record(&digest);
        let targets = world.targets(&root);
        if let Some(stray) = record.holders.iter().find(|holder| !targets.contains(&holder.0)) {
            found = Some((stray.0, digest, root, record));
            break;
        }
    }
    let (stray, digest, root, record) = found.expect("two of three nodes are targets");
    world.lose(stray, root).await;
    let others: Vec<u64> = world.holders(&digest);
    assert_eq!(others.len(), 1);
    let step = world.node(stray).inventory().copy_missing(None).await.unwrap();
    assert_eq!((step.copied, step.failed), (1, 0));
    assert_eq!(world.record(&digest).1, record);

    // With enough copies elsewhere, one that came for a reader stays unknown.
    let reader = (1..=3).find(|node| !world.holders(&digest).contains(node)).unwrap();
    pull(world.node(reader), &digest).await;
    eventually("the fetch to end", || world.node(reader).use_cases.core.blobs().holds(&root).is_some()).await;
    assert_eq!(world.node(reader).inventory().copy_missing(None).await.unwrap().copied, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_the_layout_is_looked_into_by_the_leader_alone() {
    let world = World::start(&[true, true, true]).await;
    let (_, digest) = push(world.node(1), &content(1, 1000)).await;
    let partner = world.holders(&digest).into_iter().find(|node| *node != 1).unwrap();
    let drain = ClusterCmd::Drain { node: NodeId(partner), on: true };
    world.system(Command::Cluster(drain)).await;
    let short = || world.record(&digest).1.short_since.is_some();
    world.node(partner).inventory().copy_missing(None).await.unwrap();
    assert!(!short(), "node 1 leads");
    world.node(1).inventory().copy_missing(None).await.unwrap();
    assert!(short());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_here_that_the_log_does_not_know_counts_for_a_push() {
    let world = World::start(&[true, true]).await;
    let here = world.node(1);
    let (_, digest) = push(here, &content(1, 100_000)).await;
    let (root, _) = world.record(&digest);
    world.lose(1, root).await;
    let wanted = here.use_cases.core.spec(&root).unwrap().unwrap();
    let receipts =
        here.use_cases.core.replicate.ensure(&wanted, &[NodeId(1)], |holders| holders.len() > 1).await;
    assert_eq!(receipts.iter().map(|receipt| receipt.node).collect::<Vec<_>>(), [NodeId(1)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn stock_is_taken_of_what_is_said_to_be_here() {
    let world = World::start(&[true, true]).await;
    let here = world.node(1);
    let (_, kept) = push(here, &content(1, 1000)).await;
    let (_, gone) = push(here, &content(2, 1000)).await;
    let (root, _) = world.record(&gone);
    here.use_cases.core.blobs().replicas().quarantine(&root).await.unwrap();
    assert_eq!(here.inventory().verify(None).await.unwrap(), None);
    assert_eq!((world.holders(&kept), world.holders(&gone)), (vec![1, 2], vec![2]));
}

/// A manifest too large for the log.
fn large_manifest() -> PutManifest {
    let padding = "x".repeat(100_000);
    let json = format!(
        r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[],"padding":"{padding}"}}"#
    );
    let content_type = Some("application/vnd.oci.image.index.v1+json".to_owned());
    PutManifest { content_type, tags: Vec::new(), condition: Condition::Any, bytes: json.into() }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_passes_through_a_witness_does_not_stay() {
    let world = World::start(&[true, true, false]).await;
    let witness = world.node(3);
    let bytes = content(1, 3_000_000);
    let (_, digest) = push(witness, &bytes).await;
    assert_eq!(world.holders(&digest), [1, 2]);
    assert!(pull(witness, &digest).await == bytes);

    let (tag, put): (Reference, _) = ("large".parse().unwrap(), large_manifest());
    target(witness).put_manifest(&tag, put.clone()).await.unwrap();
    let back = reader(witness).manifest(&tag, true).await.unwrap();
    assert!(whole(&back).await == put.bytes);
    assert_eq!(witness.use_cases.core.blobs().inventory(None, 10), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_passes_through_a_node_that_leaves_does_not_stay() {
    let world = World::start(&[true, true, true]).await;
    let bytes = content(1, 300_000);
    let (_, digest) = push(world.node(1), &bytes).await;
    let leaving = (1..=3).find(|node| !world.holders(&digest).contains(node)).unwrap();
    let drain = |on| world.system(Command::Cluster(ClusterCmd::Drain { node: NodeId(leaving), on }));
    drain(true).await;
    let (root, _) = world.record(&digest);
    assert!(matches!(world.node(leaving).use_cases.sources.elsewhere(&root).await, Ok(Source::Through(_))));
    assert!(pull(world.node(leaving), &digest).await == bytes);
    assert_eq!(world.node(leaving).use_cases.core.blobs().inventory(None, 10), []);
    drain(false).await;
    assert!(pull(world.node(leaving), &digest).await == bytes);
    eventually("it to stay now", || world.node(leaving).use_cases.core.blobs().holds(&root).is_some()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn views_take_no_place_until_they_are_read() {
    let world = World::start(&[true, true, false]).await;
    let (witness, bytes) = (world.node(3), content(1, 300_000));
    let (_, digest) = push(world.node(1), &bytes).await;
    let open = || timeout(SOON, reader(witness).blob(&digest, Intent::Read));
    let mut opened = Vec::new();
    for _ in 0..100 {
        opened.push(open().await.unwrap().unwrap());
    }
    let last = open().await.unwrap().unwrap();
    // Any number of ranges, one after the other.
    for start in 0..10 {
        let mut range = last.read(start..start + 100_000);
        assert_eq!(
            range.next().await.unwrap().unwrap(),
            bytes.slice(start as usize..start as usize + 100_000)
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ranges_after_a_failed_fetch_come_from_elsewhere_at_once() {
    let world = World::start(&[true, true, true]).await;
    let bytes = content(1, 300_000);
    let (_, digest) = push(world.node(1), &bytes).await;
    let reader = world.node((1..=3).find(|node| !world.holders(&digest).contains(node)).unwrap());
    let (root, _) = world.record(&digest);
    let mut wanted = reader.use_cases.core.spec(&root).unwrap().unwrap();
    wanted.holders.clear();
    let fetch = reader.use_cases.core.replicate.fetch(wanted, Class::Foreground).await.unwrap();
    assert!(fetch.clone().ended().await.is_err() && fetch.failed());
    let source = Source::Coming(fetch);
    for range in [0..100, 200_000..200_100] {
        let piece = timeout(SOON, reader.use_cases.sources.read(&source, range.clone()).next())
            .await
            .expect("at once");
        assert_eq!(piece.unwrap().unwrap(), bytes.slice(range.start as usize..range.end as usize));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_copy_that_was_replaced_is_not_given_up() {
    let world = World::start(&[true, true]).await;
    let here = world.node(1);
    let (_, digest) = push(here, &content(1, 1000)).await;
    let (root, _) = world.record(&digest);
    here.use_cases.sources.report_lost(root);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(world.holders(&digest), [1, 2]);
    here.use_cases.core.blobs().replicas().quarantine(&root).await.unwrap();
    here.use_cases.sources.report_lost(root);
    eventually("the copy to be given up", || world.holders(&digest) == [2]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_put_does_not_vouch_for_a_copy_that_is_gone() {
    let world = World::start(&[true, true]).await;
    let here = world.node(1);
    let bytes = content(1, 1000);
    let (id, named) = push(here, &bytes).await;
    assert_eq!(named, digest(&bytes));
    let again = || async { target(here).finish(id, &named, chunk(&Bytes::new())).await };
    again().await.unwrap();
    let (root, _) = world.record(&named);
    here.use_cases.core.blobs().replicas().quarantine(&root).await.unwrap();
    here.use_cases.sources.report_lost(root);
    eventually("the copy to be given up", || world.holders(&named) == [2]).await;
    assert_eq!(again().await.unwrap_err().kind, Kind::NotFound(What::Upload));
    assert_eq!(world.holders(&named), [2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn pushes_wait_for_votes_that_can_come_and_are_refused_without() {
    let mut world = World::start(&[true, true]).await;
    let (_, held) = push(world.node(1), &content(1, 1000)).await;
    world.lose_electors().await;
    let put = || async {
        let tag: Reference = "v1".parse().unwrap();
        target(world.node(2)).put_manifest(&tag, large_manifest()).await
    };
    let begin = || async { target(world.node(2)).begin_upload(None).await };
    // The members could be given votes that outlive any one of them.
    let moment = Duration::from_millis(500);
    assert!(timeout(moment, begin()).await.is_err(), "it waits");
    assert!(timeout(moment, put()).await.is_err(), "it waits");

    for elector in [3, 4] {
        world.system(LifecycleCmd::RemoveNode { node: NodeId(elector), force: true }.into()).await;
    }
    let refusals = [
        timeout(SOON, begin()).await.unwrap().unwrap_err(),
        timeout(SOON, put()).await.unwrap().unwrap_err(),
        timeout(SOON, mount(world.node(2), &held)).await.unwrap().unwrap_err(),
    ];
    for refused in refusals {
        assert!(matches!(refused.kind, Kind::Unavailable { .. }), "{refused:?}");
        assert!(refused.message.contains("add voters in 1 more zone"), "{refused:?}");
    }
    // What was acknowledged before is there.
    assert_eq!(pull(world.node(2), &held).await, content(1, 1000));
}

/// Links a blob of the one repository in another.
async fn mount(registry: &Registry, digest: &Digest) -> Result<bool, crate::Error> {
    let other: RepoName = "library/other".parse().unwrap();
    let source = permit(registry);
    registry.repo(permit_for::<Push>(registry, &other)).mount(&source, digest).await
}
